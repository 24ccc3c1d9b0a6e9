/* SPDX-License-Identifier: MIT
 *
 * engine/translate_flow: jumps, calls, returns, the stack.
 */
#include "engine/translate.h"

#include <Zydis/Zydis.h>

/*
 * C is called for an instruction that it always executes. What the decoder found of it lies behind
 * the jump, so that it need not be fetched and decoded each time.
 */
static void step_emit(struct tr *t, const struct insn *in)
{
	struct emit *e = &t->e;
	uint8_t *from;

	flags_save(t);
	e_mov_imm(e, S0, t->rip);
	e1(e, 0x4c); /* lea r11, [rip + ...] */
	e1(e, 0x8d);
	e1(e, 0x1d);
	from = e->p;
	e4(e, 0);
	e_jmp_to(e, t->c->rw + t->c->s_step);
	while (tr_off(t) % _Alignof(struct insn))
		e1(e, 0xcc);
	e_patch_here(e, from);
	if (e->p + sizeof(*in) <= e->end)
		bytes_copy(e->p, in, sizeof(*in));
	e->p += sizeof(*in);
	t->ended = true;
}

void insn_exit_emit(struct tr *t, const struct insn *in)
{
	if (in && in->kind != K_GENERIC && in->kind != K_BT && !(t->mode & MODE_STEP)) {
		step_emit(t, in);
		return;
	}
	flags_restore(t);
	e_mov_imm(&t->e, S0, t->rip);
	e_jmp_to(&t->e, t->c->rw + t->c->s_insn);
	t->ended = true;
}

/* ---- links ---- */

static uint8_t entry_for(const struct tr *t, uint64_t target)
{
	if ((target ^ t->b->rip) & PAGE_MASK_)
		return ENTRY_CROSS;
	return target <= t->rip || t->after_sti ? ENTRY_LOOP : ENTRY_BODY;
}

#define LINK_CALL (-2) /* for cc */

static void link_new(struct tr *t, int cc, uint64_t target, uint8_t entry)
{
	struct link *l = &t->c->links[t->c->n_links++];

	if (flat32(t))
		target = (uint32_t)target;
	*l = (struct link){.target = target, .mode = t->mode, .entry = entry};
	if (cc == LINK_CALL) {
		e1(&t->e, 0xe8);
		e4(&t->e, 0);
		l->patch = tr_off(t) - 4;
	} else {
		l->patch = (uint32_t)(e_jcc(&t->e, cc) - t->c->rw);
	}
	t->b->n_links++;
}

void link_split_emit(struct tr *t, uint64_t rip, uint32_t mode)
{
	link_new(t, -1, rip, ENTRY_BODY);
	t->c->links[t->c->n_links - 1].mode = mode | MODE_SPLIT;
}

void link_emit(struct tr *t, int cc, uint64_t target)
{
	flags_restore(t);
	link_new(t, cc, target, entry_for(t, target));
}

/* The stubs of all links, behind the block. */
void links_finish(struct tr *t)
{
	for (uint32_t i = 0; i < t->b->n_links; i++) {
		struct link *l = &t->c->links[t->b->link0 + i];

		l->stub = (uint16_t)(tr_off(t) - l->patch);
		e_patch_here(&t->e, t->c->rw + l->patch);
		e_mov_imm(&t->e, S2, t->b->link0 + i);
		e_jmp_to(&t->e, t->c->rw + t->c->s_link);
	}
}

/*
 * Before a jump to where only the guest's data says, flags saved: leave the block's number in S2, for
 * C to find the branch again if the target is not canonical (branch_undo()).
 */
static void branch_mark(struct tr *t)
{
	if (!flat32(t))
		e_mov_imm(&t->e, S2, (uint64_t)(t->b - t->c->blocks));
}

/* The target is in S0; flags go over in flsave. */
static void indirect_emit(struct tr *t)
{
	flags_save(t);
	branch_mark(t);
	jump_emit(&t->e, 4);
	t->ended = true;
}

/*
 * Behind the host's CALL: the host's RET of whatever returned comes here, its target in S0, flags
 * in flsave.
 */
static void return_site_emit(struct tr *t, uint64_t next)
{
	struct emit *e = &t->e;

	e_mov_imm(e, S1, flat32(t) ? (uint32_t)next : next);
	e_rr(e, 0x39, true, S1, S0);
	e_patch(e, e_jcc(e, 5), t->c->rw + t->c->s_jump);
	link_new(t, -1, next, (next ^ t->b->rip) & PAGE_MASK_ ? ENTRY_SAVED : ENTRY_BACK);
	t->ended = true;
}

/* ---- stack ---- */

/* The word at RSP + off, checked. */
static bool stack_lookup(struct tr *t, int32_t off, unsigned int size, bool write, struct hmem *out)
{
	return lookup_emit(t, at(HRSP, off), false, 0, flat32(t), size, write, false, out);
}

static void rsp_add(struct tr *t, int32_t n)
{
	e_lea(&t->e, HRSP, at(HRSP, n), !flat32(t));
}

/* keep: what was there goes to tmp[1]. */
static bool push_imm_emit(struct tr *t, uint64_t val, unsigned int size, bool keep)
{
	struct hmem m;

	if (!stack_lookup(t, -(int32_t)size, size, true, &m))
		return false;
	scratch_lost(t, S2);
	if (keep) {
		e_load(&t->e, S2, m);
		e_store(&t->e, GS_MEM(tmp[1]), S2);
	}
	if (size == 8 && (int64_t)val != (int32_t)val) {
		e_mov_imm(&t->e, S2, val);
		e_store(&t->e, m, S2);
	} else {
		e_rm(&t->e, 0xc7, size == 8, 0, &m);
		e4(&t->e, (uint32_t)val);
	}
	rsp_add(t, -(int32_t)size);
	return true;
}

static unsigned int word(const struct tr *t)
{
	return flat32(t) ? 4 : 8;
}

/* Read in's memory operand into the register d (a scratch). */
static bool operand_load(struct tr *t, const struct insn *in, unsigned int size, int d)
{
	struct hmem x = {0}, m;
	uint64_t val = 0;
	bool constant;

	if (!ea_emit(t, in, &x, &val, &constant) ||
	    !lookup_emit(t, x, constant, val, false, size, false, false, &m))
		return false;
	scratch_lost(t, d);
	e_rm(&t->e, 0x8b, size == 8, d, &m);
	return true;
}

static bool push_emit(struct tr *t, const struct insn *in)
{
	unsigned int n = word(t);
	struct hmem m;
	int g = in->opc.on ? in->opc.g : in->rm.on ? in->rm.g : -1, h;

	if (in->opsize == 2)
		return false;
	if (in->has_mem) {
		if (!operand_load(t, in, n, S2))
			return false;
		e_store(&t->e, GS_MEM(tmp[0]), S2);
		if (!stack_lookup(t, -(int32_t)n, n, true, &m))
			return false;
		e_load(&t->e, S2, GS_MEM(tmp[0]));
		e_rm(&t->e, 0x89, n == 8, S2, &m);
		rsp_add(t, -(int32_t)n);
		return true;
	}
	if (g < 0)
		return push_imm_emit(t, (uint64_t)in->imm, n, false);
	if (!stack_lookup(t, -(int32_t)n, n, true, &m))
		return false;
	h = gpr_read(t, (unsigned int)g, S2);
	e_rm(&t->e, 0x89, n == 8, h, &m);
	rsp_add(t, -(int32_t)n);
	return true;
}

static void gpr_from(struct tr *t, unsigned int g, int src)
{
	int h = host_reg(g);

	if (h < 0) {
		e_store(&t->e, gs_gpr(g), src);
		scratch_holds(t, src, g);
	} else {
		e_mov_rr(&t->e, h, src);
	}
}

static bool pop_emit(struct tr *t, const struct insn *in)
{
	unsigned int n = word(t);
	struct hmem m;
	unsigned int g = in->opc.on ? in->opc.g : in->rm.g;

	if (in->opsize == 2 || in->has_mem || !stack_lookup(t, 0, n, false, &m))
		return false;
	if (g == R_SP || host_reg(g) < 0) {
		scratch_lost(t, S2);
		e_rm(&t->e, 0x8b, n == 8, S2, &m);
		rsp_add(t, (int32_t)n);
		gpr_from(t, g, S2);
	} else {
		e_rm(&t->e, 0x8b, n == 8, host_reg(g), &m);
		rsp_add(t, (int32_t)n);
	}
	return true;
}

static bool leave_emit(struct tr *t, const struct insn *in)
{
	unsigned int n = word(t);
	struct hmem m;

	if (in->opsize == 2 || !lookup_emit(t, at(H_BP, 0), false, 0, flat32(t), n, false, false, &m))
		return false;
	scratch_lost(t, S2);
	e_rm(&t->e, 0x8b, n == 8, S2, &m);
	e_lea(&t->e, HRSP, at(H_BP, (int32_t)n), n == 8);
	e_mov_rr(&t->e, H_BP, S2);
	return true;
}

/* PUSHF: what the processor has and what it never sees, put together. */
static bool pushf_emit(struct tr *t, const struct insn *in)
{
	struct emit *e = &t->e;
	struct hmem m;

	if (in->opsize == 2 || flat32(t))
		return false;
	flags_restore(t);
	e1(e, 0x9c); /* pushfq; pop r9 */
	e1(e, 0x41);
	e1(e, 0x59);
	flags_free(t);
	e_alu_imm(e, 4, false, S0, FL_ARITH);
	m = GS_MEM(vflags);
	e_rm(e, 0x0b, false, S0, &m);
	e_alu_imm(e, 4, false, S0, (int32_t)~(FL_RF | FL_VM));
	m = GS_MEM(iff);
	e_rm(e, 0x0fb6, false, S1, &m);
	m = GS_MEM(df);
	e_rm(e, 0x0a, false, S1, &m); /* or r10b, df */
	e_shift(e, 4, S1, 8);
	e_rr(e, 0x09, false, S1, S0);
	e_alu_imm(e, 1, false, S0, 2);
	e_store(e, GS_MEM(tmp[0]), S0);
	if (!stack_lookup(t, -8, 8, true, &m))
		return false;
	e_load(e, S2, GS_MEM(tmp[0]));
	e_store(e, m, S2);
	rsp_add(t, -8);
	return true;
}

bool stack_emit(struct tr *t, const struct insn *in)
{
	switch (in->kind) {
	case K_PUSH:
		return push_emit(t, in);
	case K_POP:
		return pop_emit(t, in);
	case K_LEAVE:
		return leave_emit(t, in);
	case K_PUSHF:
		return pushf_emit(t, in);
	default:
		return false;
	}
}

/* ---- flow ---- */

static bool loop_emit(struct tr *t, const struct insn *in, uint64_t taken, uint64_t next)
{
	struct emit *e = &t->e;

	if (in->addrsize == 2)
		return false;
	flags_restore(t);
	if (in->addrsize == 4)
		e1(e, 0x67);
	e1(e, in->opcode); /* jrcxz, loop, loope, loopne: over the next jump */
	e1(e, 5);
	link_emit(t, -1, next);
	link_emit(t, -1, taken);
	t->ended = true;
	return true;
}

static bool call_emit(struct tr *t, const struct insn *in)
{
	uint64_t next = t->rip + in->len, target = next + (uint64_t)in->imm;

	if (!push_imm_emit(t, flat32(t) ? (uint32_t)next : next, word(t), false))
		return false;
	/* wherever a look-up has left the flags: most callees do not want them */
	link_new(t, LINK_CALL, target, t->saved ? ENTRY_SAVED : ENTRY_CROSS);
	return_site_emit(t, next);
	return true;
}

static bool call_ind_emit(struct tr *t, const struct insn *in)
{
	unsigned int n = word(t);
	uint64_t next = t->rip + in->len;

	if (in->has_mem) {
		if (!operand_load(t, in, n, S0))
			return false;
		e_store(&t->e, GS_MEM(tmp[0]), S0);
	} else if (host_reg(in->rm.g) >= 0) {
		/* before RSP moves: CALL RSP */
		e_store(&t->e, GS_MEM(tmp[0]), host_reg(in->rm.g));
	} else {
		e_load(&t->e, S0, gs_gpr(in->rm.g));
		e_store(&t->e, GS_MEM(tmp[0]), S0);
	}
	if (!push_imm_emit(t, flat32(t) ? (uint32_t)next : next, n, !flat32(t)))
		return false;
	flags_save(t); /* uses S2 */
	if (flat32(t)) {
		struct hmem m = GS_MEM(tmp[0]);

		e_rm(&t->e, 0x8b, false, S0, &m);
	} else {
		e_load(&t->e, S0, GS_MEM(tmp[0]));
	}
	branch_mark(t);
	jump_emit(&t->e, 2);
	return_site_emit(t, next);
	return true;
}

static bool jmp_ind_emit(struct tr *t, const struct insn *in)
{
	unsigned int n = word(t);

	if (in->has_mem) {
		if (!operand_load(t, in, n, S0))
			return false;
	} else if (host_reg(in->rm.g) >= 0) {
		e_rr(&t->e, 0x89, n == 8, host_reg(in->rm.g), S0);
	} else {
		struct hmem m = gs_gpr(in->rm.g);

		e_rm(&t->e, 0x8b, n == 8, S0, &m);
	}
	indirect_emit(t);
	return true;
}

static bool ret_emit(struct tr *t, const struct insn *in)
{
	unsigned int n = word(t);
	int32_t extra = in->opcode == 0xc2 ? (int32_t)(in->imm & 0xffff) : 0;
	struct hmem m;

	if (!stack_lookup(t, 0, n, false, &m))
		return false;
	e_rm(&t->e, 0x8b, n == 8, S0, &m);
	rsp_add(t, (int32_t)n + extra);
	flags_save(t);
	branch_mark(t);
	e1(&t->e, 0xc3);
	t->ended = true;
	return true;
}

bool flow_emit(struct tr *t, const struct insn *in)
{
	uint64_t next = t->rip + in->len, taken = next + (uint64_t)in->imm;

	if (flat32(t) && in->opsize == 2)
		return false;
	if (!flat32(t) && in->p66)
		return false; /* vendors differ */
	switch (in->kind) {
	case K_JMP:
		link_emit(t, -1, taken);
		t->ended = true;
		return true;
	case K_JCC:
		if (t->i + 1 < t->n) { /* out of a loop that goes on behind it */
			link_emit(t, in->opcode & 15, taken);
			return true;
		}
		if (t->loop && taken == t->b->rip) {
			flags_restore(t);
			if (t->head) {
				loop_hold(t);
			} else {
				scratch_lost(t, S0);
				scratch_lost(t, S1);
			}
			t->back = e_jcc(&t->e, in->opcode & 15);
		} else {
			link_emit(t, in->opcode & 15, taken);
		}
		link_emit(t, -1, next);
		t->ended = true;
		return true;
	case K_LOOP:
		return loop_emit(t, in, taken, next);
	case K_CALL:
		return call_emit(t, in);
	case K_CALL_IND:
		return call_ind_emit(t, in);
	case K_JMP_IND:
		return jmp_ind_emit(t, in);
	default:
		return ret_emit(t, in);
	}
}
