/* SPDX-License-Identifier: MIT
 *
 * engine/reencode: a guest instruction as host code. One function for all of
 * them: registers are renamed, spilled ones are loaded and stored around it, the
 * memory operand is where the caller says. The bounce executor and the
 * translator share it, so what one proves holds for the other.
 */
#include "engine/cache.h"

/* Instructions that may take a spilled register as a memory operand in place of a register. */
static bool rm_in_memory(const struct insn *in)
{
	uint8_t op = in->opcode;

	if (in->vex || in->lock)
		return false;
	if ((in->rm.acc & ACC_W) && in->rm.width == 4)
		return false; /* a register write clears the upper half */
	if (in->map == 0) {
		if (op < 0x40)
			return (op & 7) < 4;
		switch (op) {
		case 0x63: case 0x69: case 0x6b: case 0x80: case 0x81: case 0x83: case 0x84: case 0x85:
		case 0x88: case 0x89: case 0x8a: case 0x8b: case 0xc0: case 0xc1: case 0xc6: case 0xc7:
		case 0xd0: case 0xd1: case 0xd2: case 0xd3: case 0xf6: case 0xf7:
			return true;
		default:
			return false;
		}
	}
	if (in->map == 0x0f)
		return (op & 0xf0) == 0x40 || op == 0xaf || op == 0xb6 || op == 0xb7 || op == 0xbe ||
		       op == 0xbf;
	return false;
}

struct alloc {
	unsigned int free;
	struct { int8_t g, h; bool store; } used[4];
	unsigned int n;
};

static int take(struct emit *e, struct alloc *a, const struct insn_reg *r, bool load)
{
	int h = host_reg(r->g);

	if (h >= 0)
		return h;
	for (unsigned int i = 0; i < a->n; i++)
		if (a->used[i].g == r->g) {
			a->used[i].store |= r->acc & ACC_W;
			return a->used[i].h;
		}
	h = a->free & FREE_S2 ? S2 : a->free & FREE_S0 ? S0 : a->free & FREE_S1 ? S1 : -1;
	if (h < 0)
		return -2;
	a->free &= ~(h == S2 ? FREE_S2 : h == S1 ? FREE_S1 : FREE_S0);
	if (load)
		e_load(e, h, gs_gpr(r->g));
	a->used[a->n].g = (int8_t)r->g;
	a->used[a->n].h = (int8_t)h;
	a->used[a->n++].store = r->acc & ACC_W;
	return h;
}

static bool wants_load(const struct insn *in, const struct insn_reg *r)
{
	/* BSF and BSR leave the destination alone for a zero source */
	return (r->acc & ACC_R) || r->width < 4 || (in->map == 0x0f && (in->opcode & 0xfe) == 0xbc);
}

/*
 * ah…bh cannot be named in an instruction with a REX prefix. Free it of the
 * need: address memory through RBP, or let RBP stand for a renamed register.
 * With memory S2 is free, and keeps RBP: insn_undo() relies on it.
 */
static bool reencode_high8(struct emit *e, const struct insn *in, const struct hmem *mem,
			   unsigned int free_regs)
{
	struct operands o = {.reg = in->reg.on ? in->reg.g : -1, .rm = in->rm.on ? in->rm.g : -1,
			     .vvvv = -1, .opc = in->opc.on ? in->opc.g : -1};
	int keep = free_regs & FREE_S2 ? S2 : free_regs & FREE_S1 ? S1 : free_regs & FREE_S0 ? S0 : -1;
	bool wide = in->reg.on && !in->reg.high8 && in->reg.g == R_SP;

	if (keep < 0)
		return false;
	if (in->w || (in->reg.on && in->reg.g >= 8) || (mem && wide))
		return false;
	if (!mem && !wide) {
		e_insn(e, in, &o);
		return true;
	}
	e_mov_rr(e, keep, H_BP);
	if (mem) {
		e_lea(e, H_BP, *mem, true);
		o.mem = true;
		o.m = at(H_BP, 0);
		e_insn(e, in, &o);
	} else {
		e_mov_rr(e, H_BP, HRSP);
		o.reg = H_BP;
		e_insn(e, in, &o);
		e_mov_rr(e, HRSP, H_BP);
	}
	e_mov_rr(e, H_BP, keep);
	return true;
}

bool insn_reencode(struct emit *e, const struct insn *in, const struct hmem *mem, unsigned int free_regs,
	      uint8_t **fault)
{
	struct operands o = {.reg = -1, .rm = -1, .vvvv = -1, .opc = -1};
	struct alloc a = {.free = free_regs};

	if ((in->reg.on && in->reg.high8) || (in->rm.on && in->rm.high8) || (in->opc.on && in->opc.high8)) {
		*fault = e->p;
		return reencode_high8(e, in, mem, free_regs);
	}
	if (in->reg.on)
		o.reg = take(e, &a, &in->reg, wants_load(in, &in->reg));
	if (in->vvvv.on)
		o.vvvv = take(e, &a, &in->vvvv, wants_load(in, &in->vvvv));
	if (in->opc.on)
		o.opc = take(e, &a, &in->opc, wants_load(in, &in->opc));
	if (mem) {
		o.mem = true;
		o.m = *mem;
	} else if (in->rm.on) {
		bool same = false;

		for (unsigned int i = 0; i < a.n; i++)
			same |= a.used[i].g == in->rm.g;
		if (host_reg(in->rm.g) < 0 && !same && rm_in_memory(in)) {
			o.mem = true;
			o.m = gs_gpr(in->rm.g);
		} else {
			o.rm = take(e, &a, &in->rm, wants_load(in, &in->rm));
			/* a destination taken before without its value is a source here */
			if (same && (in->rm.acc & ACC_R))
				e_load(e, o.rm, gs_gpr(in->rm.g));
		}
	}
	if (o.reg == -2 || o.rm == -2 || o.vvvv == -2 || o.opc == -2)
		return false;
	/* the same for VEX sources */
	if (in->vvvv.on && in->reg.on && in->vvvv.g == in->reg.g && host_reg(in->reg.g) < 0)
		e_load(e, o.vvvv, gs_gpr(in->vvvv.g));
	*fault = e->p;
	e_insn(e, in, &o);
	for (unsigned int i = 0; i < a.n; i++)
		if (a.used[i].store)
			e_store(e, gs_gpr((unsigned int)a.used[i].g), a.used[i].h);
	return true;
}

void insn_undo(struct engine_vcpu *v, const struct insn *in)
{
	if (in->kind == K_STRING) {
		/* translate_string.c: host addresses, by what is in tmp */
		v->gpr[R_DI] -= v->tmp[0];
		if ((in->opcode & 0xfe) == 0xa4)
			v->gpr[R_SI] -= v->tmp[1];
	} else if (in->kind == K_GENERIC && in->has_mem && in->reg.on && in->reg.high8) {
		v->gpr[R_BP] = v->tmp[2]; /* S2, from the stub */
	}
}
