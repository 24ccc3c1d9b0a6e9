/* SPDX-License-Identifier: MIT */
#include "engine/emit.h"

void e4(struct emit *e, uint32_t x)
{
	for (int i = 0; i < 4; i++)
		e1(e, (uint8_t)(x >> (8 * i)));
}

void e8(struct emit *e, uint64_t x)
{
	e4(e, (uint32_t)x);
	e4(e, (uint32_t)(x >> 32));
}

/* scaled: an EVEX prefix gives 8-bit displacements another meaning. */
static void e_modrm_mem(struct emit *e, int reg, const struct hmem *m, bool scaled)
{
	uint8_t r = (uint8_t)((reg & 7) << 3);

	if (m->base < 0) {
		/* no base: [index*scale + disp32] or [disp32], both through a SIB byte */
		e1(e, r | 4);
		e1(e, (uint8_t)(m->scale << 6 | (m->index >= 0 ? m->index & 7 : 4) << 3 | 5));
		e4(e, (uint32_t)m->disp);
		return;
	}
	bool sib = m->index >= 0 || (m->base & 7) == 4;
	uint8_t mod = m->disp == 0 && (m->base & 7) != 5 ? 0 : m->disp == (scaled ? 0 : (int8_t)m->disp) ? 0x40 : 0x80;

	e1(e, mod | r | (sib ? 4 : m->base & 7));
	if (sib)
		e1(e, (uint8_t)(m->scale << 6 | (m->index >= 0 ? m->index & 7 : 4) << 3 | (m->base & 7)));
	if (mod == 0x40)
		e1(e, (uint8_t)m->disp);
	else if (mod == 0x80)
		e4(e, (uint32_t)m->disp);
}

static uint8_t rex_mem(int reg, const struct hmem *m)
{
	return (reg & 8 ? 4 : 0) | (m->index >= 8 ? 2 : 0) | (m->base >= 8 ? 1 : 0);
}

static void e_opcode(struct emit *e, uint32_t op)
{
	if (op > 0xffff)
		e1(e, (uint8_t)(op >> 16));
	if (op > 0xff)
		e1(e, (uint8_t)(op >> 8));
	e1(e, (uint8_t)op);
}

void e_rm(struct emit *e, uint32_t op, bool w, int reg, const struct hmem *m)
{
	uint8_t rex = (w ? 8 : 0) | rex_mem(reg, m);

	if (m->gs)
		e1(e, 0x65);
	if (rex)
		e1(e, 0x40 | rex);
	e_opcode(e, op);
	e_modrm_mem(e, reg, m, false);
}

void e_rr(struct emit *e, uint32_t op, bool w, int reg, int rm)
{
	uint8_t rex = (w ? 8 : 0) | (reg >= 8 ? 4 : 0) | (rm >= 8 ? 1 : 0);

	if (rex)
		e1(e, 0x40 | rex);
	e_opcode(e, op);
	e1(e, (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7)));
}

void e_mov_imm(struct emit *e, int reg, uint64_t imm)
{
	if (imm <= 0xffffffffu) {
		if (reg >= 8)
			e1(e, 0x41);
		e1(e, (uint8_t)(0xb8 | (reg & 7)));
		e4(e, (uint32_t)imm);
	} else if ((int64_t)imm == (int32_t)imm) {
		e_rr(e, 0xc7, true, 0, reg);
		e4(e, (uint32_t)imm);
	} else {
		e1(e, reg >= 8 ? 0x49 : 0x48);
		e1(e, (uint8_t)(0xb8 | (reg & 7)));
		e8(e, imm);
	}
}

void e_mov_rr(struct emit *e, int d, int s)
{
	if (d != s)
		e_rr(e, 0x89, true, s, d);
}

void e_load(struct emit *e, int reg, struct hmem m)
{
	e_rm(e, 0x8b, true, reg, &m);
}

void e_store(struct emit *e, struct hmem m, int reg)
{
	e_rm(e, 0x89, true, reg, &m);
}

void e_store_imm32(struct emit *e, struct hmem m, int32_t imm)
{
	e_rm(e, 0xc7, true, 0, &m);
	e4(e, (uint32_t)imm);
}

void e_lea(struct emit *e, int reg, struct hmem m, bool w)
{
	if (w && m.index < 0 && m.base >= 0 && m.disp == 0) {
		e_mov_rr(e, reg, m.base);
		return;
	}
	e_rm(e, 0x8d, w, reg, &m);
}

void e_alu_imm(struct emit *e, int op, bool w, int reg, int32_t imm)
{
	if (imm == (int8_t)imm) {
		e_rr(e, 0x83, w, op, reg);
		e1(e, (uint8_t)imm);
	} else {
		e_rr(e, 0x81, w, op, reg);
		e4(e, (uint32_t)imm);
	}
}

void e_shift(struct emit *e, int op, int reg, uint8_t n)
{
	e_rr(e, 0xc1, true, op, reg);
	e1(e, n);
}

/* AMD APM vol. 3, NOP: the recommended sequences; prefixes make them longer. */
void e_align(struct emit *e, unsigned int to)
{
	static const uint8_t nop[9][9] = {
		{0x90}, {0x66, 0x90}, {0x0f, 0x1f, 0x00}, {0x0f, 0x1f, 0x40, 0x00},
		{0x0f, 0x1f, 0x44, 0x00, 0x00}, {0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00},
		{0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00}, {0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00},
		{0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00},
	};
	unsigned int n = -(uintptr_t)e->p & (to - 1);

	while (n) {
		unsigned int len = n < 9 ? n : 9;

		for (unsigned int i = 0; i < len; i++)
			e1(e, nop[len - 1][i]);
		n -= len;
	}
}

uint8_t *e_jcc(struct emit *e, int cc)
{
	if (cc < 0) {
		e1(e, 0xe9);
	} else {
		e1(e, 0x0f);
		e1(e, (uint8_t)(0x80 | cc));
	}
	e4(e, 0);
	return e->p - 4;
}

void e_patch(struct emit *e, uint8_t *at4, const uint8_t *target)
{
	if (at4 + 4 <= e->end) {
		int32_t d = (int32_t)(target - (at4 + 4));

		__builtin_memcpy(at4, &d, 4);
	}
}

void e_jmp_to(struct emit *e, const uint8_t *target)
{
	uint8_t *at4 = e_jcc(e, -1);

	e_patch(e, at4, target);
}

void e_call_to(struct emit *e, const uint8_t *target)
{
	e1(e, 0xe8);
	e4(e, 0);
	e_patch(e, e->p - 4, target);
}

static void e_imm(struct emit *e, const struct insn *in)
{
	for (unsigned int i = 0; i < in->imm_len; i++)
		e1(e, in->bytes[in->imm_off + i]);
}

/* A byte register above the fourth is spl…dil only with a REX prefix. */
static bool wants_rex(const struct insn_reg *r, int h)
{
	return r->on && r->width == 1 && !r->high8 && h >= 4;
}

void e_insn(struct emit *e, const struct insn *in, const struct operands *o)
{
	int reg = o->reg >= 0 ? o->reg : in->reg_no;
	int rm = o->rm >= 0 ? o->rm : in->rm_no;
	int vvvv = o->vvvv >= 0 ? o->vvvv : in->vvvv_no;
	uint8_t rxb = 0;
	uint8_t opcode = in->opcode;
	bool modrm = in->has_modrm;

	if (in->reg.on && in->reg.high8)
		reg |= 4;
	if (in->rm.on && in->rm.high8 && !o->mem)
		rm |= 4;
	if (in->moffs) {
		/* A0-A3 have no place for a register: 8A/8B/88/89 with AL/AX/EAX/RAX */
		static const uint8_t as[4] = {0x8a, 0x8b, 0x88, 0x89};

		opcode = as[in->opcode & 3];
		reg = 0;
		modrm = true;
	}
	if (modrm) {
		if (o->mem)
			rxb = rex_mem(reg, &o->m);
		else
			rxb = (reg & 8 ? 4 : 0) | (rm & 8 ? 1 : 0);
	} else if (in->opc.on) {
		int r = o->opc | (in->opc.high8 ? 4 : 0);

		rxb = r >= 8 ? 1 : 0;
		opcode = (uint8_t)((opcode & ~7) | (r & 7));
	}
	if (o->mem && o->m.gs)
		e1(e, 0x65);
	if (in->evex) {
		/* R, X, B inverted on top of R', 0 and the map; X is the fifth bit of a vector in r/m */
		uint8_t x = !o->mem && !in->rm.on && rm & 16 ? 2 : 0;

		e1(e, 0x62);
		e1(e, (uint8_t)((~(rxb | x) & 7) << 5 | (in->reg.on ? 0x10 : in->evex_p[0] & 0x10) | (in->evex_p[0] & 15)));
		e1(e, in->evex_p[1]);
		e1(e, in->evex_p[2]);
	} else if (in->vex) {
		static const uint8_t mmmmm[] = {[0x0f] = 1, [0x38] = 2, [0x3a] = 3};

		e1(e, 0xc4);
		e1(e, (uint8_t)(((~rxb & 7) << 5) | mmmmm[in->map]));
		e1(e, (uint8_t)(in->w << 7 | (~vvvv & 15) << 3 | in->vex_l << 2 | in->vex_pp));
	} else {
		bool rex = in->w || rxb || wants_rex(&in->reg, reg) || wants_rex(&in->opc, o->opc) ||
			   (!o->mem && wants_rex(&in->rm, rm));

		if (in->lock)
			e1(e, 0xf0);
		if (in->p66)
			e1(e, 0x66);
		if (in->mand)
			e1(e, in->mand);
		if (rex)
			e1(e, (uint8_t)(0x40 | in->w << 3 | rxb));
		if (in->map)
			e1(e, 0x0f);
		if (in->map == 0x38 || in->map == 0x3a)
			e1(e, in->map);
	}
	e1(e, opcode);
	if (modrm) {
		if (o->mem)
			e_modrm_mem(e, reg, &o->m, in->evex);
		else
			e1(e, (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7)));
	}
	e_imm(e, in);
}
