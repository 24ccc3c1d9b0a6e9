/* SPDX-License-Identifier: MIT
 *
 * engine/translate_loop: a block that jumps back to itself gets a second copy of its
 * body, without the look-ups whose addresses move evenly. The first copy looks up;
 * at its end it is computed how far one register, the pace, may move until the first
 * of these groups leaves its page; the second copy compares that register and goes
 * back to the first one. docs/ENGINE.md, "Loops".
 */
#include "engine/translate.h"

#define STEP_MAX 2048 /* bytes an iteration */

/* The register whose unknown at the block's begin is id; ids begin at 1 (groups_plan). */
static bool moves_evenly(const struct tr *t, uint16_t id, int64_t *step)
{
	unsigned int r = id - 1u;

	*step = 0;
	if (!id)
		return true;
	if (r >= VAL_COUNT || t->val_end[r].id != id)
		return false;
	*step = t->val_end[r].delta;
	return *step >= -STEP_MAX && *step <= STEP_MAX;
}

static int64_t magnitude(int64_t x)
{
	return x < 0 ? -x : x;
}

/* Which groups the second copy need not look up. */
static bool groups_pick(struct tr *t)
{
	bool any = false;

	t->pace = -1;
	t->pace_step = 0;
	for (unsigned int k = 0; k < t->n_groups; k++) {
		struct group *g = &t->groups[k];
		const uint16_t id[2] = {g->base_id, g->index_id};
		int64_t b, x, s;

		g->hoisted = moves_evenly(t, g->base_id, &b) && moves_evenly(t, g->index_id, &x) &&
			     moves_evenly(t, g->seg_id, &s) && !s && magnitude(b + x * (1 << g->scale)) <= STEP_MAX;
		if (!g->hoisted)
			continue;
		any = true;
		g->step = (int16_t)(b + x * (1 << g->scale));
		for (unsigned int i = 0; i < 2 && g->step; i++) {
			int64_t step = i ? x : b;

			if (magnitude(step) > magnitude(t->pace_step)) {
				t->pace = (int8_t)(id[i] - 1);
				t->pace_step = (int16_t)step;
			}
		}
	}
	return any;
}

bool loop_plan(struct tr *t)
{
	const struct insn *last = &t->in[t->n ? t->n - 1 : 0];

	/* flags are dead at the head, so the comparisons there cost nothing else */
	if (!t->n || t->split || flat32(t) || last->kind != K_JCC || t->live[0] ||
	    t->b->rip + t->b->len + (uint64_t)last->imm != t->b->rip)
		return false;
	for (unsigned int i = 0; i < t->n; i++)
		if (t->in[i].kind == K_STI || t->in[i].kind == K_STAC || t->in[i].kind == K_CLAC)
			return false;
	return groups_pick(t);
}

/* The lowest byte of the group, as of the iteration that has just ended, into S1. */
static bool lowest_emit(struct tr *t, const struct group *g)
{
	struct insn op = {.base = -1, .index = -1, .scale = g->scale, .seg = g->seg, .addrsize = 8};
	struct hmem x = {0};
	uint64_t value;
	bool constant;

	scratch_forget(t);
	if (g->base_id)
		op.base = (int8_t)(g->base_id - 1);
	if (g->index_id)
		op.index = (int8_t)(g->index_id - 1);
	op.disp = g->lo - g->step;
	if (!ea_emit(t, &op, &x, &value, &constant) || constant)
		return false;
	e_lea(&t->e, S1, x, true);
	scratch_forget(t);
	return true;
}

static void pace_load(struct tr *t, int d)
{
	int h = host_reg((unsigned int)t->pace);

	if (h >= 0)
		e_mov_rr(&t->e, d, h);
	else
		e_load(&t->e, d, gs_gpr((unsigned int)t->pace));
}

/* How far the pace may move, into loop_limit. */
static bool room_emit(struct tr *t)
{
	struct hmem limit = GS_MEM(loop_limit);
	struct emit *e = &t->e;
	bool first = true;

	for (unsigned int k = 0; k < t->n_groups; k++) {
		const struct group *g = &t->groups[k];
		unsigned int shift = 0;

		if (!g->hoisted || !g->step)
			continue;
		while (magnitude(g->step) > magnitude(t->pace_step) << shift)
			shift++;
		if (!lowest_emit(t, g))
			return false;
		e_alu_imm(e, 4, false, S1, 4095);
		if (g->step > 0) {
			e_mov_imm(e, S2, (uint64_t)(4096 - (g->hi - g->lo)));
			e_rr(e, 0x29, true, S1, S2);
		} else {
			e_mov_rr(e, S2, S1);
		}
		if (shift)
			e_shift(e, 5, S2, (uint8_t)shift);
		if (!first) {
			e_rm(e, 0x3b, true, S2, &limit);
			e_rm(e, 0x0f4f, true, S2, &limit); /* cmovg */
		}
		e_store(e, limit, S2);
		first = false;
	}
	return true;
}

/* loop_limit becomes the last value of the pace that keeps all groups in their pages. */
static void limit_emit(struct tr *t, const uint8_t *fail)
{
	struct hmem limit = GS_MEM(loop_limit);
	struct emit *e = &t->e;

	pace_load(t, S1);
	e_lea(e, S1, at(S1, -t->pace_step), true);
	e_rm(e, t->pace_step > 0 ? 0x03 : 0x2b, true, S1, &limit);
	e_patch(e, e_jcc(e, 0), fail);
	e_store(e, limit, S1);
	/* nor may the step beyond the limit wrap round to before it */
	e_alu_imm(e, 0, true, S1, t->pace_step);
	e_patch(e, e_jcc(e, 0), fail);
}

/*
 * S1 and S0 hold the addends of these groups at the head of the second copy: the first
 * ones, the shortest way to their accesses.
 */
static void hold_pick(struct tr *t)
{
	unsigned int n = 0;

	t->head_held[0] = t->head_held[1] = HELD_NONE;
	for (unsigned int k = 0; k < t->n_groups && n < 2; k++)
		if (t->groups[k].hoisted)
			t->head_held[1 - n++] = (int)k;
}

void loop_hold(struct tr *t)
{
	for (int r = 1; r >= 0; r--) {
		int k = t->head_held[r];

		if (k >= 0 && t->held[r] != k)
			e_load(&t->e, S0 + r, addend_of(k));
		t->held[r] = k;
	}
	t->held[2] = HELD_NONE;
}

/* Behind the first copy: t->back is its jump back. True: emit the second copy now. */
bool loop_head_emit(struct tr *t)
{
	struct hmem limit = GS_MEM(loop_limit), mode = GS_MEM(mode);
	const uint8_t *first = t->c->rw + t->b->entry[ENTRY_LOOP];
	struct emit *e = &t->e;

	t->saved = false;
	scratch_forget(t);
	e_patch_here(e, t->back);
	if (t->pace >= 0) {
		if (!room_emit(t)) {
			e_jmp_to(e, first);
			return false;
		}
		limit_emit(t, first);
	}
	hold_pick(t);
	loop_hold(t);
	e_align(e, 32);
	t->head = e->p;
	if (t->pace >= 0) {
		int h = host_reg((unsigned int)t->pace);

		if (h < 0) {
			pace_load(t, S2);
			scratch_holds(t, S2, (unsigned int)t->pace);
			h = S2;
		}
		e_rm(e, 0x3b, true, h, &limit);
		e_patch(e, e_jcc(e, t->pace_step > 0 ? 15 : 12), first); /* jg, jl */
	} else {
		/* nothing else ends it */
		e_rm(e, 0x81, true, 7, &mode);
		e4(e, t->b->mode);
		e_patch(e, e_jcc(e, 5), t->attn_out);
	}
	for (unsigned int k = 0; k < t->n_groups; k++) {
		struct group *g = &t->groups[k];

		g->n = g->total;
		g->done = g->kept = g->hoisted;
		g->hoisted = false;
	}
	t->ended = false;
	return true;
}
