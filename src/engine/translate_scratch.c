/* SPDX-License-Identifier: MIT
 *
 * engine/translate_scratch: what S0, S1 and S2 hold between instructions: addends of
 * groups, and guest registers that live in memory. Those are always in memory as
 * well, so that whoever needs the scratch register for something else just takes it.
 * docs/ENGINE.md, "Scratch registers".
 */
#include "engine/translate.h"

struct hmem addend_of(int k)
{
	struct hmem m = GS_MEM(addend);

	m.disp += 8 * k;
	return m;
}

bool addend_wanted(const struct tr *t, int k)
{
	return k >= 0 && k < HELD_GPR && (t->groups[k].n || t->groups[k].hoisted);
}

void scratch_lost(struct tr *t, int reg)
{
	int k = t->held[reg - S0];

	if (addend_wanted(t, k) && !t->groups[k].kept) {
		e_store(&t->e, addend_of(k), reg);
		t->groups[k].kept = true;
	}
	t->held[reg - S0] = HELD_NONE;
}

void scratch_forget(struct tr *t)
{
	t->held[0] = t->held[1] = t->held[2] = HELD_NONE;
}

void gprs_forget(struct tr *t)
{
	for (unsigned int i = 0; i < 3; i++)
		if (t->held[i] >= HELD_GPR)
			t->held[i] = HELD_NONE;
}

int scratch_with(const struct tr *t, unsigned int g)
{
	for (int i = 2; i >= 0; i--)
		if (t->held[i] == (int)(HELD_GPR + g))
			return S0 + i;
	return -1;
}

void scratch_holds(struct tr *t, int reg, unsigned int g)
{
	for (int r = scratch_with(t, g); r >= 0; r = scratch_with(t, g))
		t->held[r - S0] = HELD_NONE;
	t->held[reg - S0] = (int)(HELD_GPR + g);
}

int gpr_read(struct tr *t, unsigned int g, int scratch)
{
	int h = host_reg(g), r;

	if (h >= 0)
		return h;
	r = scratch_with(t, g);
	if (r == scratch)
		return r;
	scratch_lost(t, scratch);
	if (r >= 0)
		e_mov_rr(&t->e, scratch, r);
	else
		e_load(&t->e, scratch, gs_gpr(g));
	t->held[scratch - S0] = (int)(HELD_GPR + g);
	return scratch;
}

/* ---- registers of an instruction ---- */

#define SOON 12 /* instructions */

static bool names(const struct insn *in, unsigned int g)
{
	return (in->reg.on && in->reg.g == g) || (in->rm.on && in->rm.g == g) || (in->vvvv.on && in->vvvv.g == g) ||
	       (in->opc.on && in->opc.g == g) || in->base == (int)g || in->index == (int)g;
}

static bool wanted_soon(const struct tr *t, unsigned int g)
{
	for (unsigned int i = t->i + 1; i < t->n && i <= t->i + SOON; i++)
		if (names(&t->in[i], g))
			return true;
	return false;
}

/* How much it would hurt to take this scratch register. */
static unsigned int worth(const struct tr *t, int reg)
{
	int k = t->held[reg - S0];

	if (k >= HELD_GPR)
		return wanted_soon(t, (unsigned int)(k - HELD_GPR)) ? 2 : 1;
	return addend_wanted(t, k) ? 3 : 0;
}

bool spills_place(struct tr *t, const struct insn *in, const struct hmem *m, struct spill *s, unsigned int n)
{
	static const int8_t order[3] = {S2, S0, S1};
	bool busy[3] = {false, false, false};

	if (m)
		for (int r = S0; r <= S2; r++)
			busy[r - S0] = m->base == r || m->index == r;
	for (unsigned int i = 0; i < n; i++) {
		s[i].h = (int8_t)scratch_with(t, s[i].g);
		if (s[i].h >= 0) {
			/* also where it is the operand's base: read before it is written */
			busy[s[i].h - S0] = true;
			s[i].load = false;
		}
	}
	for (unsigned int i = 0; i < n; i++) {
		int best = -1;

		if (s[i].h >= 0 || (s[i].memory && !wanted_soon(t, s[i].g)))
			continue;
		for (unsigned int k = 0; k < 3; k++)
			if (!busy[order[k] - S0] && (best < 0 || worth(t, order[k]) < worth(t, best)))
				best = order[k];
		if (best < 0 && s[i].memory)
			continue;
		if (best < 0)
			return false;
		scratch_lost(t, best);
		busy[best - S0] = true;
		s[i].h = (int8_t)best;
	}
	return true;
}

void spills_done(struct tr *t, const struct spill *s, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		if (s[i].h >= 0)
			scratch_holds(t, s[i].h, s[i].g);
}
