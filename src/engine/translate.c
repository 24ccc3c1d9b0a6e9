/* SPDX-License-Identifier: MIT
 *
 * engine/translate: guest code to blocks of host code. docs/ENGINE.md gives the
 * constraints; in short: guest state is exact at every place that can leave the
 * block, flags live in the processor or in flsave (struct tr.saved), and S0-S2
 * are free between instructions.
 */
#include "engine/translate.h"

#include <Zydis/Zydis.h>

/* ---- entries ---- */

static void gs_store8(struct emit *e, struct hmem m, uint8_t val)
{
	e_rm(e, 0xc6, false, 0, &m);
	e1(e, val);
}

static uint8_t *miss_stub(struct tr *t, uint32_t stub)
{
	uint8_t *at = t->e.p;

	e_mov_imm(&t->e, S2, (uint64_t)(t->b - t->c->blocks));
	e_jmp_to(&t->e, t->c->rw + stub);
	return at;
}

/*
 * Is the first thing that the block does with the flags that come in to put them
 * away (for a look-up, or for an indirect jump)? Then it may as well begin with
 * them in flsave.
 */
static bool begins_saved(const struct tr *t)
{
	for (unsigned int i = 0; i < t->n && t->live[i]; i++) {
		const struct insn *in = &t->in[i];
		const struct access *a = t->acc[i];

		for (unsigned int k = 0; k < t->n_groups; k++)
			if (t->groups[k].check == i)
				return true;
		if (in->kind == K_RET || in->kind == K_JMP_IND || in->kind == K_CALL_IND)
			return true;
		if (in->kind == K_GENERIC && in->has_mem && in->mem_acc && a->group < 0)
			return true;
		if (in->f_read || in->f_write || ends_block(in))
			return false;
	}
	return false;
}

/* An entry with flags in the processor: put them away, and jump to where the caller says. */
static uint8_t *entry_saving(struct tr *t, unsigned int which)
{
	t->b->entry[which] = tr_off(t);
	t->saved = false;
	flags_save(t);
	return e_jcc(&t->e, -1);
}

/* Is this linear page still mapped to where the block was made from? */
static void mapping_check_emit(struct tr *t, enum tlb_mode tm, uint64_t tag, gpa_t gpa, const uint8_t *miss)
{
	struct hmem k = {.base = -1, .index = -1, .gs = true,
			 .disp = (int32_t)(offsetof(struct engine_vcpu, itlb_key) +
					   (tm * ITLB_SIZE + (tag & (ITLB_SIZE - 1))) * 8)};

	e_mov_imm(&t->e, S0, itlb_key_of(tag, gpa));
	e_rm(&t->e, 0x39, true, S0, &k);
	e_patch(&t->e, e_jcc(&t->e, 5), miss);
}

/*
 * IND: target; SAVED: fetch mapping, room on the return stack; BACK: mode and
 * attention; then flags as the body wants them. CROSS, LOOP and BODY come with
 * flags in the processor: if those are wanted, they save first, ahead of it all.
 */
static void entries_emit(struct tr *t)
{
	enum tlb_mode tm = (t->b->mode & MODE_CPL) == 3 ? TM_USER : t->b->mode & MODE_AC ? TM_SUP_AC : TM_SUP;
	uint64_t tag = (uint64_t)((int64_t)t->b->rip >> 12);
	struct hmem mode = GS_MEM(mode);
	uint8_t *attn_out, *miss, *to_saved = NULL, *to_back = NULL, *to_body = NULL;
	bool saving = t->live[0] && begins_saved(t), crosses = t->b->second;
	struct emit *e = &t->e;

	if (t->split) {
		/* reached only from the block with groups */
		for (unsigned int i = 0; i < ENTRY_COUNT; i++)
			t->b->entry[i] = tr_off(t);
		return;
	}
	attn_out = miss_stub(t, t->c->s_attn);
	t->attn_out = attn_out;
	miss = miss_stub(t, t->c->s_miss);
	if (t->live[0]) {
		to_saved = entry_saving(t, ENTRY_CROSS);
		to_back = entry_saving(t, ENTRY_LOOP);
	}
	if (saving && !crosses)
		to_body = entry_saving(t, ENTRY_BODY);
	t->b->entry[ENTRY_IND] = tr_off(t);
	e_mov_imm(e, S1, t->b->rip);
	e_rr(e, 0x39, true, S1, S0);
	e_patch(e, e_jcc(e, 5), t->c->rw + t->c->s_find);
	if (to_saved)
		e_patch_here(e, to_saved);
	t->b->entry[ENTRY_SAVED] = tr_off(t);
	mapping_check_emit(t, tm, tag, t->b->gpa, miss);
	e_rr(e, 0xf7, false, 0, H_SP); /* the return stack is half full? */
	e4(e, RETURN_STACK / 2);
	e_patch(e, e_jcc(e, 4), miss);
	if (to_back)
		e_patch_here(e, to_back);
	t->b->entry[ENTRY_BACK] = tr_off(t);
	if (crosses)
		mapping_check_emit(t, tm, tag + 1, SECOND_GPA(t->b), miss);
	e_rm(e, 0x81, true, 7, &mode); /* mode and attn at once */
	e4(e, t->b->mode);
	e_patch(e, e_jcc(e, 5), attn_out);
	if (!t->live[0]) {
		t->b->entry[ENTRY_CROSS] = t->b->entry[ENTRY_SAVED];
		t->b->entry[ENTRY_LOOP] = t->b->entry[ENTRY_BACK];
	}
	t->saved = t->live[0];
	if (to_body)
		e_patch_here(e, to_body);
	if (!saving)
		flags_restore(t);
	if (crosses) /* every way in looks at the second page's mapping */
		t->b->entry[ENTRY_BODY] = t->b->entry[ENTRY_LOOP];
	else if (!to_body)
		t->b->entry[ENTRY_BODY] = tr_off(t);
}

/* ---- instructions ---- */

static bool lea_emit(struct tr *t, const struct insn *in)
{
	struct insn plain = *in;
	struct hmem x = {0};
	uint64_t val = 0;
	bool constant;
	int h = host_reg(in->reg.g);

	plain.seg = S_DS;
	if (in->addrsize == 2 || in->opsize == 2)
		return false;
	if (!ea_emit(t, &plain, &x, &val, &constant))
		return false;
	if (h < 0)
		scratch_lost(t, S0);
	if (constant)
		e_mov_imm(&t->e, h >= 0 ? h : S0, in->opsize == 4 ? (uint32_t)val : val);
	else
		e_lea(&t->e, h >= 0 ? h : S0, x, in->opsize == 8);
	/* a 64-bit lea of base alone is a move; a 32-bit one must clear the upper half */
	if (h < 0) {
		e_store(&t->e, gs_gpr(in->reg.g), S0);
		scratch_holds(t, S0, in->reg.g);
	}
	return true;
}

/* BT/BTS/BTR/BTC m, r: find the word, then the bit within it. */
static bool bt_emit(struct tr *t, const struct insn *in)
{
	unsigned int w = in->reg.width;
	struct hmem x = {0}, m;
	uint64_t val = 0;
	bool constant;
	struct insn bit = *in;
	struct operands o = {.reg = S2, .rm = -1, .vvvv = -1, .opc = -1, .mem = true};
	struct emit *e = &t->e;

	if (w < 4 || flat32(t) || in->addrsize != 8 || !ea_emit(t, in, &x, &val, &constant))
		return false;
	flags_free(t);
	if (constant)
		e_mov_imm(e, S0, val);
	else
		e_lea(e, S0, x, true);
	if (host_reg(in->reg.g) >= 0) {
		e_rr(e, w == 8 ? 0x8b : 0x63, true, S1, host_reg(in->reg.g));
	} else {
		struct hmem r = gs_gpr(in->reg.g);

		e_rm(e, w == 8 ? 0x8b : 0x63, true, S1, &r);
	}
	e_shift(e, 7, S1, w == 8 ? 6 : 5);
	x = (struct hmem){.base = S0, .index = S1, .scale = w == 8 ? 3 : 2};
	if (!lookup_emit(t, x, false, 0, false, w, in->mem_acc & ACC_W, false, &m))
		return false;
	if (host_reg(in->reg.g) >= 0)
		e_mov_rr(e, S2, host_reg(in->reg.g));
	else
		e_load(e, S2, gs_gpr(in->reg.g));
	e_alu_imm(e, 4, false, S2, w == 8 ? 63 : 31);
	/* only CF is defined afterwards, but ZF must survive */
	flags_restore(t);
	bit.reg.g = R_AX;
	o.m = m;
	e_insn(e, &bit, &o);
	return true;
}

/*
 * The guest's SIMD and x87 state may be in memory, for C has run: then C executes
 * this instruction, and leaves it in the processor. Once a block, before the first
 * that needs it.
 */
static void fpu_check_emit(struct tr *t)
{
	struct hmem m = GS_MEM(fpu_loaded);

	flags_free(t);
	e_rm(&t->e, 0x80, false, 7, &m);
	e1(&t->e, 0);
	t->fpu_out = e_jcc(&t->e, 4);
	t->fpu_rip = t->rip;
	t->fpu_saved = t->saved;
}

static void fpu_out_emit(struct tr *t)
{
	if (!t->fpu_out)
		return;
	e_patch_here(&t->e, t->fpu_out);
	t->saved = t->fpu_saved;
	t->rip = t->fpu_rip;
	insn_exit_emit(t, NULL);
}

static bool generic_emit(struct tr *t, const struct insn *in)
{
	struct hmem x = {0}, m;
	uint64_t val = 0;
	bool constant, one = false, fl = in->f_read || in->f_write;
	struct spill spills[SPILLS_MAX];
	unsigned int n = insn_spills(in, spills);
	uint8_t *fault;
	uint32_t still;

	if (in->vex && flat32(t) && !(t->mode & MODE_X87) && !in->need)
		return false;
	if (in->need && !t->fpu_out)
		fpu_check_emit(t);
	if (in->has_mem) {
		one = n > 1;
		if (!ea_emit(t, in, &x, &val, &constant))
			return false;
		if (!in->mem_acc || in->vsib || in->mnem == ZYDIS_MNEMONIC_FNSTENV ||
		    in->mnem == ZYDIS_MNEMONIC_FNSAVE)
			return false;
		if (!lookup_emit(t, x, constant, val, false, in->mem_size, in->mem_acc & ACC_W, one, &m))
			return false;
	}
	if (t->saved && fl) {
		/* flags that this instruction does not replace must be there */
		still = in->f_read | (t->live[t->i + 1] & ~in->f_kill);
		if (still)
			flags_restore(t);
		else
			t->saved = false;
	}
	if (insn_high8(in))
		scratch_lost(t, S2);
	if (!spills_place(t, in, in->has_mem ? &m : NULL, spills, n) ||
	    !insn_reencode(&t->e, in, in->has_mem ? &m : NULL, spills, n, &fault))
		return false;
	spills_done(t, spills, n);
	if (in->host_fault) {
		struct fault_at *f = &t->c->faults[t->c->n_faults++];

		*f = (struct fault_at){.off = (uint32_t)(fault - t->c->rw),
				       .rip = (uint16_t)(t->rip - t->b->rip), .flags_saved = t->saved};
		t->b->n_faults++;
	}
	return true;
}

static bool ac_emit(struct tr *t, bool set)
{
	struct hmem m = GS_MEM(vflags);

	if (t->mode & MODE_CPL)
		return false;
	flags_free(t);
	e_rm(&t->e, 0x81, false, set ? 1 : 4, &m);
	e4(&t->e, set ? FL_AC : ~FL_AC);
	if (t->v->cr4 & CR4_SMAP) {
		struct hmem mode = GS_MEM(mode);

		t->mode = set ? t->mode | MODE_AC : t->mode & ~MODE_AC;
		e_rm(&t->e, 0x81, false, set ? 1 : 4, &mode);
		e4(&t->e, set ? MODE_AC : ~MODE_AC);
	}
	return true;
}

static bool tsc_emit(struct tr *t, const struct insn *in)
{
	struct emit *e = &t->e;
	struct hmem m = GS_MEM(tsc_offset);

	if (!(t->mode & MODE_TSC))
		return false;
	flags_free(t);
	e1(e, 0x0f);
	e1(e, 0x31);
	e_shift(e, 4, H_DX, 32);
	e_rr(e, 0x09, true, H_AX, H_DX);
	e_rm(e, 0x03, true, H_DX, &m);
	e_rr(e, 0x89, false, H_DX, H_AX);
	e_shift(e, 5, H_DX, 32);
	if (in->mnem == ZYDIS_MNEMONIC_RDTSCP) {
		m = GS_MEM(tsc_aux);
		e_rm(e, 0x8b, false, H_CX, &m);
	}
	return true;
}

static bool base_emit(struct tr *t, const struct insn *in)
{
	int s = in->mnem == ZYDIS_MNEMONIC_RDFSBASE ? S_FS : S_GS;
	struct hmem m = gs_seg_base((unsigned int)s);

	if (!(t->mode & MODE_FSGS) || flat32(t))
		return false;
	e_rm(&t->e, 0x8b, in->rm.width == 8, S0, &m);
	if (host_reg(in->rm.g) >= 0)
		e_mov_rr(&t->e, host_reg(in->rm.g), S0);
	else
		e_store(&t->e, gs_gpr(in->rm.g), S0);
	return true;
}

static bool sel_emit(struct tr *t, const struct insn *in)
{
	struct hmem m = GS_MEM(seg[0].sel);
	int h = host_reg(in->rm.g);

	if (in->opsize == 2)
		return false;
	m.disp += (int32_t)(in->reg_no * sizeof(struct seg));
	e_rm(&t->e, 0x0fb7, false, h >= 0 ? h : S0, &m);
	if (h < 0)
		e_store(&t->e, gs_gpr(in->rm.g), S0);
	return true;
}

static bool sti_emit(struct tr *t)
{
	struct hmem w = GS_MEM(irq_wait), m = GS_MEM(mode);

	if (!(t->mode & MODE_IOPL) || (t->mode & MODE_STEP))
		return false;
	/* an interrupt that waits for IF is looked for at the end of the block, one
	 * instruction on */
	gs_store8(&t->e, GS_MEM(iff), 2);
	gs_store8(&t->e, GS_MEM(shadow), 1);
	e_rm(&t->e, 0x8b, false, S0, &w);
	e_lea(&t->e, S0, at(S0, (int32_t)t->mode), false);
	e_rm(&t->e, 0x89, false, S0, &m);
	return true;
}

static bool swapgs_emit(struct tr *t)
{
	if ((t->mode & MODE_CPL) || flat32(t))
		return false;
	e_load(&t->e, S0, GS_MEM(seg[S_GS].base));
	e_load(&t->e, S1, GS_MEM(kernel_gs));
	e_store(&t->e, GS_MEM(kernel_gs), S0);
	e_store(&t->e, GS_MEM(seg[S_GS].base), S1);
	return true;
}

/* The block ends; C is called once in a while (smp.c). */
static bool pause_emit(struct tr *t, const struct insn *in)
{
	struct hmem left = GS_MEM(pauses);
	uint8_t *spent;
	bool saved;

	flags_free(t);
	e1(&t->e, 0xf3);
	e1(&t->e, 0x90);
	e_rm(&t->e, 0xff, false, 1, &left); /* dec */
	spent = e_jcc(&t->e, 8);	    /* js */
	saved = t->saved;
	link_emit(t, -1, t->rip + in->len);
	e_patch_here(&t->e, spent);
	t->saved = saved;
	insn_exit_emit(t, in);
	return true;
}

static bool unit_ready(const struct tr *t, const struct insn *in)
{
	if ((in->need & (NEED_X87 | NEED_MMX)) && !(t->mode & MODE_X87))
		return false;
	if ((in->need & NEED_SSE) && !(t->mode & MODE_SSE))
		return false;
	if ((in->need & NEED_AVX512) && !(t->mode & MODE_AVX512))
		return false;
	return !(in->need & NEED_AVX) || (t->mode & MODE_AVX);
}

/* Emit one instruction; false: C must execute it. */
static bool insn_emit(struct tr *t, const struct insn *in)
{
	if (!unit_ready(t, in))
		return false;
	switch ((enum insn_kind)in->kind) {
	case K_GENERIC:
		return generic_emit(t, in);
	case K_NOP:
		return true;
	case K_PAUSE:
		return pause_emit(t, in);
	case K_LEA:
		return lea_emit(t, in);
	case K_BT:
		return bt_emit(t, in);
	case K_JCC:
	case K_LOOP:
	case K_JMP:
	case K_CALL:
	case K_JMP_IND:
	case K_CALL_IND:
	case K_RET:
		return flow_emit(t, in);
	case K_PUSH:
	case K_POP:
	case K_LEAVE:
	case K_PUSHF:
		return stack_emit(t, in);
	case K_CLI:
		if (!(t->mode & MODE_IOPL))
			return false;
		gs_store8(&t->e, GS_MEM(iff), 0);
		return true;
	case K_STI:
		return sti_emit(t);
	case K_CLD:
	case K_STD:
		gs_store8(&t->e, GS_MEM(df), in->kind == K_STD ? 4 : 0);
		return true;
	case K_STAC:
	case K_CLAC:
		return ac_emit(t, in->kind == K_STAC);
	case K_SWAPGS:
		return swapgs_emit(t);
	case K_RDTSC:
		return tsc_emit(t, in);
	case K_RDBASE:
		return base_emit(t, in);
	case K_RDSEL:
		return sel_emit(t, in);
	case K_STRING:
		return string_emit(t, in);
	default:
		return false;
	}
}

#define EXITS	   2 /* conditional jumps that a block goes on behind */
#define LOOP_EXITS 3 /* the same, if a backward jump has asked for it */

/*
 * A block that a backward jump has asked for ends with the jump back to its begin, if there is one:
 * the loop is one block then. Else it ends with the first conditional jump.
 */
static void loop_end(struct tr *t)
{
	uint64_t rip = t->b->rip;
	unsigned int first = 0, back = 0;

	for (unsigned int i = 0; i < t->n; i++) {
		const struct insn *in = &t->in[i];

		rip += in->len;
		if (in->kind != K_JCC)
			continue;
		if (!first)
			first = i + 1;
		if (rip + (uint64_t)in->imm == t->b->rip)
			back = i + 1;
	}
	if (back || first)
		t->n = back ? back : first;
}

/* Decode up to the end of the block, of the page or of the table. Returns guest bytes. */
static unsigned int decode_block(struct tr *t, const uint8_t *p, unsigned int room, bool head)
{
	unsigned int code = t->b->mode & MODE_64 ? 8 : 4, max = t->b->mode & MODE_STEP ? 1 : BLOCK_MAX;
	unsigned int off = 0, exits = head ? LOOP_EXITS : EXITS;
	bool sti = false;

	for (t->n = 0; t->n < max && off < room; t->n++) {
		struct insn *in = &t->in[t->n];

		if (insn_decode_memo(t->v, p + off, room - off, code, in))
			break; /* goes on in the next page: decode_across() */
		off += in->len;
		if (sti || (ends_block(in) && (in->kind != K_JCC || !exits--))) {
			t->n++;
			break;
		}
		sti = in->kind == K_STI;
	}
	if (head)
		loop_end(t);
	off = 0;
	for (unsigned int i = 0; i < t->n; i++)
		off += t->in[i].len;
	return off;
}

/*
 * The instruction at RIP goes on in the next page: t->second, which is then marked as the first one
 * is. False: there is none to be had, or something has changed meanwhile. C does one step then.
 */
static bool second_page(struct tr *t, struct engine_vcpu *v, struct slot *s)
{
	uint64_t behind = page_behind(v);
	struct itlb_entry *next = behind > v->rip ? itlb_get(v, behind) : NULL;
	uint32_t generation = v->cache->generation;

	if (!next || !itlb_holds_code(v, next))
		return false;
	t->second = next->host;
	t->b->second = PAGE_OF(next->gpa);
	page_mark_code(v, slot_find(v, next->gpa), next->gpa);
	/* others may have written the first page, and taken its mark back: bytes are read under both */
	return v->cache->generation == generation && page_is_marked(v, s, t->b->gpa);
}

bool insn_decode_across(struct engine_vcpu *v, const struct block *b, const uint8_t *page, const uint8_t *second,
			struct insn *in)
{
	unsigned int off = (unsigned int)(b->gpa & 4095), n = 4096 - off;
	uint8_t p[15];

	bytes_copy(p, page + off, n);
	bytes_copy(p + n, second, sizeof(p) - n);
	return !insn_decode_memo(v, p, sizeof(p), b->mode & MODE_64 ? 8 : 4, in) && in->len > n;
}

/* Returns the length of the one instruction that lies in both pages, 0: it does not any more. */
static unsigned int decode_across(struct tr *t)
{
	t->n = 1;
	return insn_decode_across(t->v, t->b, t->page, t->second, &t->in[0]) ? t->in[0].len : 0;
}

/* Kinds whose code says itself when it takes S0 or S1. */
static bool keeps_scratch(const struct insn *in)
{
	switch ((enum insn_kind)in->kind) {
	case K_GENERIC: case K_NOP: case K_LEA: case K_PUSH: case K_POP: case K_LEAVE:
	case K_CALL: case K_RET: case K_JCC:
		return true;
	default:
		return false;
	}
}

static void body_emit(struct tr *t)
{
	bool sti = false;

	t->rip = t->b->rip;
	for (t->i = 0; t->i < t->n && !t->ended; t->i++) {
		const struct insn *in = &t->in[t->i];
		uint8_t *start = t->e.p;
		unsigned int n_late = t->n_late;
		uint32_t n_sites = t->c->n_sites, n_links = t->b->n_links, links = t->c->n_links;
		uint8_t *fpu_out = t->fpu_out;
		bool saved = t->saved;

		t->after_sti = sti;
		t->n_acc = 0;
		probe_note(t);
		for (unsigned int k = 0; k < t->n_groups; k++)
			if (t->groups[k].check == t->i && t->groups[k].first > t->i && !t->groups[k].done)
				(void)group_check_emit(t, &t->groups[k]);
		if (!keeps_scratch(in))
			for (int r = S0; r <= S2; r++)
				scratch_lost(t, r);
		if (!insn_emit(t, in)) {
			/* nothing of it stays */
			t->e.p = start;
			t->n_late = n_late;
			t->c->n_sites = n_sites;
			t->b->n_links = n_links;
			t->c->n_links = links;
			t->saved = saved;
			t->fpu_out = fpu_out;
			insn_exit_emit(t, in);
			break;
		}
		if (!keeps_scratch(in))
			gprs_forget(t);
		if (sti) {
			/* the shadow of STI ends here */
			if (!t->ended)
				gs_store8(&t->e, GS_MEM(shadow), 0);
		}
		sti = in->kind == K_STI;
		t->rip += in->len;
	}
	if (t->ended)
		return;
	t->i = t->n;
	t->after_sti = true; /* looks at the attention word */
	link_emit(t, -1, t->rip);
}

/* Make the block t->b of the code in t->page, and t->second, at t->e. False: there is no such block. */
static bool block_emit(struct tr *t, struct engine_vcpu *v)
{
	struct block *b = t->b;
	unsigned int off = (unsigned int)(b->gpa & 4095);

	t->v = v;
	t->c = v->cache;
	t->split = b->mode & MODE_SPLIT;
	t->n_late = 0;
	t->saved = t->after_sti = t->ended = false;
	t->fpu_out = NULL;
	t->i = 0;
	b->n_faults = b->n_links = 0;
	b->link0 = t->c->n_links;
	b->fault0 = t->c->n_faults;
	b->len = (uint16_t)(t->second ? decode_across(t) : decode_block(t, t->page + off, 4096 - off, b->head));
	if (!b->len)
		return false;
	liveness(t, t->page);
	t->mode = b->mode & ~MODE_SPLIT;
	groups_plan(t);
	t->back = NULL;
	t->loop = loop_plan(t);
	scratch_forget(t);
	entries_emit(t);
	t->head = NULL;
	body_emit(t);
	if (t->back && loop_head_emit(t)) {
		t->back = NULL;
		body_emit(t);
		if (t->back)
			e_patch(&t->e, t->back, t->head);
	}
	late_emit(t);
	fpu_out_emit(t);
	links_finish(t);
	return true;
}

/* Does the instruction at p, n bytes before the end of its page, lie across it? */
static bool lies_across(struct engine_vcpu *v, const uint8_t *p, unsigned int n, uint32_t mode)
{
	struct insn in;

	return n < 15 && insn_decode_memo(v, p, n, mode & MODE_64 ? 8 : 4, &in);
}

struct block *block_translate(struct engine_vcpu *v, const struct itlb_entry *ie, uint32_t mode, bool head)
{
	struct cache *c = v->cache;
	unsigned int off = (unsigned int)(v->rip & 4095);
	gpa_t gpa = ie->gpa;
	struct slot *s = slot_find(v, gpa);
	uint64_t t0 = __builtin_ia32_rdtsc();
	uint32_t generation = c->generation;
	struct tr t;

	if (!s)
		return NULL;
	fpu_put(v);
	page_mark_code(v, s, gpa);
	if (c->generation != generation)
		return NULL; /* what is mapped here may have changed: one step in C, then again */
	space_reserve(v);
	t.page = ie->host;
	t.second = NULL;
	t.probe = 0;
	t.b = &c->blocks[c->n_blocks];
	*t.b = (struct block){.rip = v->rip, .gpa = gpa | off, .mode = mode, .head = head && !(mode & MODE_SPLIT)};
	c->pos = (c->pos + 15) & ~15u;
	t.e.p = c->rw + c->pos;
	t.e.end = c->rw + c->base + (c->filling + 1) * SPAN_CODE;
	if (lies_across(v, t.page + off, 4096 - off, mode) && !second_page(&t, v, s))
		return NULL;
	if (!block_emit(&t, v) || t.e.p > t.e.end || !cache_add(v, t.b, t.page, t.second, t.peeked))
		return NULL;
	v->stats.code_bytes += (uint64_t)(t.e.p - (c->rw + c->pos));
	c->pos = (uint32_t)(t.e.p - c->rw);
	t.b->end = c->pos;
	c->n_blocks++;
	v->stats.blocks++;
	v->stats.insns += t.n;
	v->translate_tsc += __builtin_ia32_rdtsc() - t0;
	return t.b;
}

/* Tables for a block that is made only to see where its code would be. */
struct scratch {
	struct link links[2 * BLOCK_MAX + GROUP_MAX];
	struct site sites[4 * BLOCK_MAX + GROUP_MAX];
	struct fault_at faults[2 * BLOCK_MAX];
};

bool block_locate(struct engine_vcpu *v, struct block *b, uint32_t off, struct located *l)
{
	struct slot *s = slot_find(v, b->gpa), *second = b->second ? slot_find(v, SECOND_GPA(b)) : NULL;
	struct cache *c = v->cache;
	struct link *links = c->links;
	struct site *sites = c->sites;
	struct fault_at *faults = c->faults;
	uint32_t n_links = c->n_links, n_sites = c->n_sites, n_faults = c->n_faults;
	struct block made = *b;
	struct scratch own;
	struct tr t;
	bool ok = true;

	if (!s || (b->second && !second))
		return false;
	fpu_put(v);
	c->links = own.links;
	c->sites = own.sites;
	c->faults = own.faults;
	/* the first time to learn where it begins; nothing is written behind `end` */
	t.b = b;
	t.page = slot_host(s, b->gpa & PAGE_MASK_);
	t.second = second ? slot_host(second, SECOND_GPA(b)) : NULL;
	t.probe = 0;
	t.e.p = t.e.end = c->rw;
	for (unsigned int pass = 0; ok && pass < 2; pass++) {
		c->n_links = c->n_sites = c->n_faults = 0;
		ok = block_emit(&t, v);
		if (!pass) {
			t.e.p = t.e.end = c->rw + (made.entry[ENTRY_IND] - b->entry[ENTRY_IND]);
			t.probe = off;
			t.probe_i = 0;
			t.probe_rip = 0;
		}
	}
	/* the guest may have changed it in the meantime */
	ok = ok && t.probe_rip && tr_off(&t) == made.end && b->len == made.len && t.probe_i < t.n;
	c->links = links;
	c->sites = sites;
	c->faults = faults;
	c->n_links = n_links;
	c->n_sites = n_sites;
	c->n_faults = n_faults;
	*b = made;
	if (ok)
		*l = (struct located){.rip = t.probe_rip, .in = t.in[t.probe_i], .flags_saved = t.probe_saved};
	return ok;
}
