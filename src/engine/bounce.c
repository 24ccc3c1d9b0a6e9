/* SPDX-License-Identifier: MIT
 *
 * engine/bounce: the executor of single instructions, for every mode. What the
 * host can run runs as itself in a thunk (a generated function of one
 * instruction) on a checked operand; the rest is C. The translator falls back to
 * it for MMIO, page crossing, 16-bit code and everything rare.
 */
#include "engine/cache.h"

#include <Zydis/Zydis.h>

struct insn_slot {
	uint8_t key[16] __attribute__((aligned(8))); /* 15 bytes and the code size */
	bool valid, has_thunk;
	struct insn in;
};

size_t insn_slots_size(void)
{
	return INSN_CACHE * sizeof(struct insn_slot);
}

void insn_slots_forget(struct engine_vcpu *v)
{
	for (unsigned int i = 0; i < INSN_CACHE; i++)
		v->insns[i].valid = false;
}

/* ---- registers by width ---- */

uint64_t gpr_get(const struct engine_vcpu *v, unsigned int g, unsigned int width, bool high8)
{
	uint64_t x = v->gpr[g & 15];

	switch (width) {
	case 1:
		return (uint8_t)(high8 ? x >> 8 : x);
	case 2:
		return (uint16_t)x;
	case 4:
		return (uint32_t)x;
	default:
		return x;
	}
}

void gpr_set(struct engine_vcpu *v, unsigned int g, unsigned int width, bool high8, uint64_t val)
{
	uint64_t *x = &v->gpr[g & 15];

	switch (width) {
	case 1:
		*x = high8 ? (*x & ~0xff00ull) | (val & 0xff) << 8 : (*x & ~0xffull) | (val & 0xff);
		break;
	case 2:
		*x = (*x & ~0xffffull) | (val & 0xffff);
		break;
	case 4:
		*x = (uint32_t)val;
		break;
	default:
		*x = val;
	}
}

/* ---- effective addresses ---- */

static uint64_t addr_mask(const struct insn *in)
{
	return in->addrsize == 2 ? 0xffff : in->addrsize == 4 ? 0xffffffffu : ~0ull;
}

uint64_t ea_offset(const struct engine_vcpu *v, const struct insn *in)
{
	uint64_t a = (uint64_t)in->disp;

	if (in->base == -2)
		a += v->rip + in->len;
	else if (in->base >= 0)
		a += v->gpr[in->base];
	if (in->index >= 0 && !in->vsib)
		a += v->gpr[in->index] << in->scale;
	return a & addr_mask(in);
}

int ea_linear(struct engine_vcpu *v, const struct insn *in, unsigned int size, bool write, uint64_t *lin)
{
	return seg_linear(v, in->seg, ea_offset(v, in), size, write, lin);
}

/* ---- availability of x87, MMX, SSE, AVX: SDM vol. 3, "x87 FPU Control" and vol. 1 ---- */

static int fpu_check(struct engine_vcpu *v, const struct insn *in)
{
	if ((in->vex || in->evex) && (is_real(v) || is_vm86(v)))
		return raise_ud(v);
	if ((in->need & NEED_AVX512) && (v->xcr0 & XCR0_AVX512) != XCR0_AVX512)
		return raise_ud(v);
	if (in->need & NEED_AVX) {
		if (!(v->cr4 & CR4_OSXSAVE) || (v->xcr0 & 6) != 6)
			return raise_ud(v);
	} else if (in->need & NEED_SSE) {
		if ((v->cr0 & CR0_EM) || !(v->cr4 & CR4_OSFXSR))
			return raise_ud(v);
	} else if (in->need & NEED_MMX) {
		if (v->cr0 & CR0_EM)
			return raise_ud(v);
	} else if (in->need & NEED_X87) {
		if (in->mnem == ZYDIS_MNEMONIC_FWAIT) {
			if ((v->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
				return raise_exc(v, V_NM, false, 0);
			return X_NEXT;
		}
		if (v->cr0 & CR0_EM)
			return raise_exc(v, V_NM, false, 0);
	}
	if (in->need && (v->cr0 & CR0_TS))
		return raise_exc(v, V_NM, false, 0);
	return X_NEXT;
}

/* ---- thunks ---- */

static uint8_t *thunk_rw(struct engine_vcpu *v, struct insn_slot *s)
{
	return v->thunks + (size_t)(s - v->insns) * THUNK_SIZE;
}

static bool thunk_emit(struct engine_vcpu *v, struct insn_slot *s, const struct insn *in)
{
	struct cache *c = v->cache;
	uint8_t *start = thunk_rw(v, s), *fault;
	struct emit e = {.p = start, .end = start + THUNK_SIZE};
	static const int8_t free[SPILLS_MAX] = {S2, S1, S0, -1};
	struct hmem m = at(S0, 0);
	bool mem = in->has_mem;
	struct spill spills[SPILLS_MAX];
	unsigned int n_spills = insn_spills(in, spills);

	if (mem)
		e_load(&e, S0, GS_MEM(bounce));
	for (unsigned int i = 0, next = 0; i < n_spills; i++)
		if (!spills[i].memory)
			spills[i].h = free[next++];
	if (!insn_reencode(&e, in, mem ? &m : NULL, spills, n_spills, &fault))
		return false;
	e_jmp_to(&e, c->rw + c->s_thunk);
	return e.p <= e.end;
}

static int thunk_enter(struct engine_vcpu *v, struct insn_slot *s, const struct insn *in)
{
	struct cache *c = v->cache;

	v->in_thunk = 1;
	code_enter(v, c->rx + (thunk_rw(v, s) - c->rw), in->need);
	v->in_thunk = 0;
	if (v->exit_code == EXITC_THUNK)
		return X_NEXT;
	if (v->fault_foreign) {
		insn_undo(v, in);
		v->exit->reason = ENGINE_EXIT_INTERNAL;
		return X_EXIT;
	}
	return raise_exc(v, v->fault_vector, v->fault_vector == V_GP || v->fault_vector == V_SS, 0);
}

/* BT family with a bit offset in a register: how far from the address the word lies. */
static int64_t bt_distance(const struct engine_vcpu *v, const struct insn *in)
{
	int64_t bit = (int64_t)gpr_get(v, in->reg.g, in->reg.width, false);

	switch (in->reg.width) {
	case 8:
		return (bit >> 6) * 8;
	case 4:
		return ((int32_t)bit >> 5) * 4;
	default:
		return ((int16_t)bit >> 4) * 2;
	}
}

/*
 * The operand faults, but a waiting x87 instruction sees a pending exception
 * before it looks at memory.
 */
static int x87_pending(struct engine_vcpu *v, const struct insn *in, int r)
{
	if (r != X_FAULT || !(in->need & (NEED_X87 | NEED_MMX)) || in->mnem == ZYDIS_MNEMONIC_FNSTCW ||
	    in->mnem == ZYDIS_MNEMONIC_FNSTSW || in->mnem == ZYDIS_MNEMONIC_FNSTENV ||
	    in->mnem == ZYDIS_MNEMONIC_FNSAVE)
		return r;
	fpu_put(v);
	if ((*(uint64_t *)(v->xsave + 512) & 1) && (*(uint16_t *)(v->xsave + 2) & 0x80))
		return raise_exc(v, V_MF, false, 0);
	return r;
}

/* FIP and FDP of the environment are those of the thunk: not the guest's business. */
static void x87_pointers_clear(const struct insn *in, uint8_t *env)
{
	if (in->opsize == 2)
		bytes_zero(env + 6, 8);
	else
		bytes_zero(env + 12, 16);
}

/* The bytes of the operand that the opmask lets the instruction access: a bit for each. */
static uint64_t bytes_accessed(const struct engine_vcpu *v, const struct insn *in)
{
	unsigned int size = in->elem_size, n = in->mem_size / size;
	uint64_t k = opmask_get(v, in->mask_no), bytes = 0;

	if (in->elems < 64)
		k &= (1ull << in->elems) - 1;
	if (in->packed) {
		unsigned int some = (unsigned int)__builtin_popcountll(k);

		k = some < 64 ? (1ull << some) - 1 : ~0ull;
	}
	/* what is broadcast to several elements is accessed if one of them is wanted */
	for (unsigned int i = 0; i < in->elems; i++)
		if (k >> i & 1)
			bytes |= ((2ull << (size - 1)) - 1) << (i % n * size);
	return bytes;
}

/* EVEX with an opmask: what is masked off is not accessed, and does not fault. */
static int masked_exec(struct engine_vcpu *v, struct insn_slot *s, uint64_t off)
{
	const struct insn *in = &s->in;
	bool write = in->mem_acc & ACC_W;
	uint8_t *buf = v->bounce_buf[0];
	uint64_t want, left, lin;
	int r = X_NEXT;

	fpu_put(v);
	want = bytes_accessed(v, in);
	if (want && in->align && ((v->seg[in->seg].base + off) & (in->align - 1u)))
		return raise_gp(v, 0);
	v->bounce = buf;
	for (unsigned int pass = 0; pass < 2; pass++) {
		if (pass && write)
			r = thunk_enter(v, s, in);
		for (left = want; left && !r;) {
			unsigned int at = (unsigned int)__builtin_ctzll(left);
			uint64_t end = ~(left >> at);
			unsigned int n = end ? (unsigned int)__builtin_ctzll(end) : 64;

			left &= at + n < 64 ? ~0ull << (at + n) : 0;
			r = seg_linear(v, in->seg, off + at, n, write, &lin);
			if (!r && write)
				r = pass ? gmem_write(v, lin, buf + at, n, data_mode(v))
					 : gmem_check(v, lin, n, true, data_mode(v));
			else if (!r && !pass)
				r = gmem_read(v, lin, buf + at, n, data_mode(v));
		}
		if (r)
			return r;
	}
	return write ? X_NEXT : thunk_enter(v, s, in);
}

static int generic_exec(struct engine_vcpu *v, struct insn_slot *s)
{
	const struct insn *in = &s->in;
	struct mref m;
	bool write = in->mem_acc & ACC_W, read = in->mem_acc & ACC_R, lock;
	uint64_t lin, off;
	int64_t dist = 0;
	int r = fpu_check(v, in);

	if (r)
		return r;
	if (!s->has_thunk)
		return raise_ud(v);
	if (!in->has_mem)
		return thunk_enter(v, s, in);
	off = ea_offset(v, in);
	if (in->kind == K_BT) {
		dist = bt_distance(v, in);
		off = (off + (uint64_t)dist) & addr_mask(in);
	}
	if (in->elem_size)
		return masked_exec(v, s, off);
	if (in->align && ((v->seg[in->seg].base + off) & (in->align - 1u)))
		return raise_gp(v, 0);
	r = seg_linear(v, in->seg, off, in->mem_size, write, &lin);
	if (r)
		return x87_pending(v, in, r);
	/* XCHG locks by itself; a locked access that is bounced is atomic among its like */
	lock = in->lock || (write && !in->vex && in->map == 0 && (in->opcode & 0xfe) == 0x86);
	if (lock) {
		mutex_lock(&v->vm->split_lock);
		v->split_locked = true;
	}
	r = gmem_open(v, &m, lin, in->mem_size, read || lock, write, data_mode(v), 0);
	if (!r) {
		v->bounce = (uint8_t *)m.ptr - dist; /* the instruction adds it again */
		r = thunk_enter(v, s, in);
		if (in->mnem == ZYDIS_MNEMONIC_FNSTENV || in->mnem == ZYDIS_MNEMONIC_FNSAVE)
			x87_pointers_clear(in, m.ptr);
		if (!r)
			r = gmem_close(v, &m);
	}
	if (lock) {
		v->split_locked = false;
		mutex_unlock(&v->vm->split_lock);
	}
	return x87_pending(v, in, r);
}

static int xlat(struct engine_vcpu *v, const struct insn *in)
{
	uint64_t off = (v->gpr[R_BX] + (v->gpr[R_AX] & 0xff)) & addr_mask(in), lin;
	uint8_t b;
	int r = seg_linear(v, in->seg, off, 1, false, &lin);

	if (!r)
		r = gmem_read(v, lin, &b, 1, data_mode(v));
	if (!r)
		gpr_set(v, R_AX, 1, false, b);
	return r;
}

/* s: where its thunk is; only what the host can run needs one. */
static int insn_exec(struct engine_vcpu *v, const struct insn *in, struct insn_slot *s)
{
	switch ((enum insn_kind)in->kind) {
	case K_UD:
		return raise_ud(v);
	case K_GENERIC:
	case K_BT:
		return generic_exec(v, s);
	case K_NOP:
		return X_NEXT;
	case K_PAUSE:
		vcpu_pause(v);
		return X_NEXT;
	case K_LEA:
		gpr_set(v, in->reg.g, in->reg.width, false, ea_offset(v, in));
		return X_NEXT;
	case K_XLAT:
		return xlat(v, in);
	case K_MASKMOV:
	case K_GATHER: {
		int r = fpu_check(v, in);

		return r ? r : simd_exec(v, in);
	}
	case K_JCC:
	case K_LOOP:
	case K_JMP:
	case K_CALL:
	case K_JMP_IND:
	case K_CALL_IND:
	case K_RET:
		return flow_exec(v, in);
	case K_PUSH:
	case K_POP:
	case K_LEAVE:
	case K_STACK:
	case K_PUSHF:
		return stack_exec(v, in);
	case K_STRING:
		return string_exec(v, in);
	case K_CLI:
	case K_STI:
	case K_CLD:
	case K_STD:
	case K_STAC:
	case K_CLAC:
	case K_SWAPGS:
	case K_RDTSC:
	case K_RDBASE:
	case K_WRBASE:
	case K_SYS:
		return sys_exec(v, in);
	case K_CTL:
		return ctl_exec(v, in);
	case K_SEG:
	case K_RDSEL:
		return seg_exec(v, in);
	case K_FAR:
		return far_exec(v, in);
	case K_LEGACY:
		return legacy_exec(v, in);
	case K_FPUSTATE:
		return fpu_exec(v, in);
	case K_IRET:
		return iret_exec(v, in);
	}
	return raise_ud(v);
}

/* ---- fetch ---- */

static unsigned int code_size(const struct engine_vcpu *v)
{
	if (v->mode & MODE_64)
		return 8;
	return v->seg[S_CS].attr & SEG_DB && !is_real(v) && !is_vm86(v) ? 4 :
	       v->seg[S_CS].attr & SEG_DB ? 4 : 2;
}

/* Bytes at lin into buf from the first page; n: how many are there. */
static int fetch_page(struct engine_vcpu *v, uint64_t lin, uint8_t *buf, unsigned int want,
		      unsigned int *n)
{
	struct itlb_entry *e = itlb_get(v, lin);
	unsigned int room = 4096 - (unsigned int)(lin & 4095);

	if (!e)
		return X_FAULT;
	*n = want < room ? want : room;
	if (!e->host) {
		v->exit->reason = ENGINE_EXIT_NO_CODE;
		v->exit->rip = lin;
		return X_LEAVE;
	}
	bytes_copy(buf, e->host + (lin & 4095), *n);
	return X_NEXT;
}

static int insn_fetch(struct engine_vcpu *v, struct insn_slot **out)
{
	uint8_t b[16] __attribute__((aligned(8))) = {0};
	unsigned int code = code_size(v), n = 0, k = 0, max = 15;
	uint64_t lin = rip_linear(v);
	struct insn_slot *s;
	struct insn in;
	uint64_t h;
	int r;

	if (code != 8) {
		uint64_t left = v->rip > v->seg[S_CS].limit ? 0 : v->seg[S_CS].limit - v->rip + 1;

		if (!left)
			return raise_gp(v, 0);
		if (left < max)
			max = (unsigned int)left;
	}
	r = fetch_page(v, lin, b, max, &n);
	if (r)
		return r;
	b[15] = (uint8_t)(code | (v->seg[S_SS].attr & SEG_DB ? 16 : 0));
	for (int pass = 0;; pass++) {
		h = (*(uint64_t *)b * 0x9e3779b97f4a7c15ull) ^ (*(uint64_t *)(b + 8) * 0xc2b2ae3d27d4eb4full);
		s = &v->insns[(h ^ h >> 29) >> 20 & (INSN_CACHE - 1)];
		if (s->valid && ((uint64_t *)s->key)[0] == ((uint64_t *)b)[0] &&
		    ((uint64_t *)s->key)[1] == ((uint64_t *)b)[1]) {
			if (s->in.len <= n) {
				*out = s;
				return X_NEXT;
			}
		} else {
			fpu_put(v);
			r = insn_decode_memo(v, b, n, code, &in);
			if (!r)
				break;
		}
		/* more bytes are on the next page */
		if (pass || n >= max) {
			return raise_gp(v, 0); /* beyond the limit of the segment, or 15 bytes */
		}
		r = fetch_page(v, code == 8 ? lin + n : (lin + n) & 0xffffffffu, b + n, max - n, &k);
		if (r)
			return r;
		n += k;
	}
	s->valid = false;
	s->in = in;
	s->has_thunk = (in.kind == K_GENERIC || in.kind == K_BT) && thunk_emit(v, s, &in);
	bytes_copy(s->key, b, 16);
	s->valid = true;
	*out = s;
	return X_NEXT;
}

/* ---- one instruction, whole ---- */

static void step_begin(struct engine_vcpu *v)
{
	v->step_sp = v->gpr[R_SP];
	v->in_step = true;
	v->stats.bounced++;
	v->shadow_new = 0;
	v->replay_i = 0;
	v->bp_hit = 0;
	v->step_tf = v->vflags & FL_TF;
}

/* in: NULL if it could not be fetched; old_rf: RF before it. */
static int step_end(struct engine_vcpu *v, const struct insn *in, int r, uint32_t old_rf)
{
	switch (r) {
	case X_NEXT:
	case X_LEAVE:
		if (r == X_LEAVE && !in)
			return r;
		v->rip += in->len;
		if (!(v->mode & MODE_64))
			v->rip &= in->code == 2 ? 0xffff : 0xffffffffu;
		break;
	case X_JUMP:
		break;
	case X_EXIT:
		return r;
	default:
		v->replay_n = 0;
		v->pending_db = 0;
		return exc_inject(v);
	}
	v->replay_n = 0;
	v->shadow = v->shadow_new;
	if (r == X_JUMP && in->kind == K_STRING && v->bp_on)
		v->vflags |= FL_RF; /* it goes on: its own breakpoint was met */
	else if (old_rf && in->kind != K_IRET)
		v->vflags &= ~FL_RF;
	debug_insn_done(v);
	return r == X_LEAVE && !(v->pending_db && v->exit->reason == ENGINE_EXIT_HLT) ? r : 0;
}

int insn_step(struct engine_vcpu *v)
{
	struct insn_slot *s = NULL;
	uint32_t old_rf = v->vflags & FL_RF;
	int r;

	step_begin(v);
	if (debug_fetch(v))
		r = X_FAULT;
	else
		r = insn_fetch(v, &s);
	if (!r)
		r = insn_exec(v, &s->in, s);
	r = step_end(v, s ? &s->in : NULL, r, old_rf);
	v->in_step = false;
	return r;
}

int insn_step_known(struct engine_vcpu *v, const struct insn *in)
{
	int r;

	step_begin(v);
	r = step_end(v, in, insn_exec(v, in, NULL), 0);
	v->in_step = false;
	return r;
}
