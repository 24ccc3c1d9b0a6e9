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

static bool wants_load(const struct insn *in, const struct insn_reg *r)
{
	/* BSF and BSR leave the destination alone for a zero source */
	return (r->acc & ACC_R) || r->width < 4 || (in->map == 0x0f && (in->opcode & 0xfe) == 0xbc);
}

static void spill_add(struct spill *s, unsigned int *n, const struct insn *in, const struct insn_reg *r, bool memory)
{
	unsigned int i = 0;

	if (!r->on || host_reg(r->g) >= 0)
		return;
	while (i < *n && s[i].g != r->g)
		i++;
	if (i == *n)
		s[(*n)++] = (struct spill){.g = r->g, .h = -1, .memory = memory};
	else
		s[i].memory = false;
	s[i].load |= wants_load(in, r);
	s[i].store |= r->acc & ACC_W;
}

unsigned int insn_spills(const struct insn *in, struct spill s[SPILLS_MAX])
{
	unsigned int n = 0;

	spill_add(s, &n, in, &in->reg, false);
	spill_add(s, &n, in, &in->vvvv, false);
	spill_add(s, &n, in, &in->opc, false);
	if (!in->has_mem)
		spill_add(s, &n, in, &in->rm, rm_in_memory(in));
	return n;
}

/* The host register of an operand, -1: it is in memory. */
static int place(const struct insn_reg *r, const struct spill *s, unsigned int n)
{
	int h = host_reg(r->g);

	for (unsigned int i = 0; i < n && h < 0; i++)
		if (s[i].g == r->g)
			return s[i].h;
	return h;
}

/*
 * ah…bh cannot be named in an instruction with a REX prefix. Free it of the
 * need: address memory through RBP, or let RBP stand for a renamed register.
 * S2 keeps RBP: insn_undo() relies on it.
 */
static bool reencode_high8(struct emit *e, const struct insn *in, const struct hmem *mem)
{
	struct operands o = {.reg = in->reg.on ? in->reg.g : -1, .rm = in->rm.on ? in->rm.g : -1,
			     .vvvv = -1, .opc = in->opc.on ? in->opc.g : -1};
	bool wide = in->reg.on && !in->reg.high8 && in->reg.g == R_SP;

	if (in->w || (in->reg.on && in->reg.g >= 8) || (mem && wide))
		return false;
	if (!mem && !wide) {
		e_insn(e, in, &o);
		return true;
	}
	e_mov_rr(e, S2, H_BP);
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
	e_mov_rr(e, H_BP, S2);
	return true;
}

bool insn_reencode(struct emit *e, const struct insn *in, const struct hmem *mem, const struct spill *s,
		   unsigned int n, uint8_t **fault)
{
	struct operands o = {.reg = -1, .rm = -1, .vvvv = -1, .opc = -1};

	if (insn_high8(in)) {
		*fault = e->p;
		return reencode_high8(e, in, mem);
	}
	for (unsigned int i = 0; i < n; i++) {
		if (s[i].h < 0 && !s[i].memory)
			return false;
		if (s[i].h >= 0 && s[i].load)
			e_load(e, s[i].h, gs_gpr(s[i].g));
	}
	if (in->reg.on)
		o.reg = place(&in->reg, s, n);
	if (in->vvvv.on)
		o.vvvv = place(&in->vvvv, s, n);
	if (in->opc.on)
		o.opc = place(&in->opc, s, n);
	if (mem) {
		o.mem = true;
		o.m = *mem;
	} else if (in->rm.on) {
		o.rm = place(&in->rm, s, n);
		o.mem = o.rm < 0;
		o.m = gs_gpr(in->rm.g);
	}
	*fault = e->p;
	e_insn(e, in, &o);
	for (unsigned int i = 0; i < n; i++)
		if (s[i].h >= 0 && s[i].store)
			e_store(e, gs_gpr(s[i].g), s[i].h);
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
