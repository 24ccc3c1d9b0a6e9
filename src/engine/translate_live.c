/* SPDX-License-Identifier: MIT
 *
 * engine/translate_live: which arithmetic flags are needed where. Within a block that is
 * a backward pass; at its ways out a look at the code that they lead to, if it lies in the
 * same page. docs/ENGINE.md, "Flags".
 */
#include "engine/translate.h"

bool ends_block(const struct insn *in)
{
	switch ((enum insn_kind)in->kind) {
	case K_GENERIC: case K_NOP: case K_LEA: case K_BT: case K_PUSH: case K_POP: case K_LEAVE:
	case K_PUSHF: case K_CLI: case K_STI: case K_CLD: case K_STD: case K_STAC: case K_CLAC:
	case K_SWAPGS: case K_RDTSC: case K_RDBASE: case K_RDSEL:
		return false;
	default:
		return true;
	}
}

/* ---- what lies ahead ---- */

#define AHEAD 8 /* instructions that are looked at behind a way out */

struct ahead {
	struct tr *t;
	const uint8_t *page;
	unsigned int left; /* instructions that may still be looked at */
};

/* The flags of `want` that the code at rip may read before it replaces them. */
static uint32_t needed_at(struct ahead *a, uint64_t rip, uint32_t want, bool branch)
{
	struct tr *t = a->t;
	unsigned int code = t->b->mode & MODE_64 ? 8 : 4;
	uint32_t need = 0;

	while (want && a->left) {
		unsigned int off = (unsigned int)(rip & 4095);
		struct insn in;

		if ((rip ^ t->b->rip) & PAGE_MASK_ || insn_decode_memo(t->v, a->page + off, 4096 - off, code, &in))
			break;
		a->left--;
		for (unsigned int g = off / 64; g <= (off + in.len - 1) / 64; g++)
			t->peeked |= 1ull << g;
		rip += in.len;
		need |= in.f_read & want;
		want &= ~in.f_read;
		if (in.kind == K_JMP)
			rip += (uint64_t)in.imm;
		else if (in.kind == K_JCC && branch)
			need |= needed_at(a, rip + (uint64_t)in.imm, want, false);
		else if (ends_block(&in) || in.kind == K_PUSHF)
			break;
		want &= ~(in.f_kill | need);
	}
	return need | want;
}

enum { SAY_NONE, SAY_ALL, LOOK };

static uint32_t needed_behind(struct tr *t, const uint8_t *page, int how, uint64_t rip)
{
	struct ahead a = {.t = t, .page = page, .left = AHEAD};

	return how == LOOK ? needed_at(&a, flat32(t) ? (uint32_t)rip : rip, FL_ARITH, true) :
	       how == SAY_ALL ? FL_ARITH : 0;
}

static void backwards(struct tr *t, const uint8_t *page, int how, uint32_t *live)
{
	uint64_t rip = t->b->rip + t->b->len;
	const struct insn *last = t->n ? &t->in[t->n - 1] : NULL;

	/* the last instruction of other kinds needs all that there is */
	live[t->n] = FL_ARITH;
	if (last && (!ends_block(last) || last->kind == K_JCC))
		live[t->n] = needed_behind(t, page, how, rip);
	for (unsigned int i = t->n; i-- > 0;) {
		const struct insn *in = &t->in[i];

		if (in->kind == K_JCC)
			live[i] = live[i + 1] | in->f_read | needed_behind(t, page, how, rip + (uint64_t)in->imm);
		else if (in->kind == K_JMP || in->kind == K_CALL)
			live[i] = needed_behind(t, page, how, rip + (uint64_t)in->imm);
		else if (ends_block(in) || in->kind == K_PUSHF)
			live[i] = FL_ARITH;
		else
			live[i] = in->f_read | (live[i + 1] & ~in->f_kill);
		rip -= in->len;
	}
}

static bool looks_up(const struct insn *in)
{
	switch ((enum insn_kind)in->kind) {
	case K_GENERIC:
		return in->mem_acc;
	case K_BT: case K_PUSH: case K_POP: case K_LEAVE: case K_CALL:
		return true;
	default:
		return false;
	}
}

/* Would a look-up be spared the saving of flags, an entry the restoring, or a loop have a second copy? */
static bool pays(const struct tr *t, const uint32_t *none)
{
	if (t->live[0] && !none[0])
		return true;
	for (unsigned int i = 0; i < t->n; i++)
		if (t->live[i] && !none[i] && looks_up(&t->in[i]))
			return true;
	return false;
}

void liveness(struct tr *t, const uint8_t *page)
{
	uint32_t none[BLOCK_MAX + 1];

	t->peeked = 0;
	backwards(t, page, SAY_ALL, t->live);
	if (t->b->mode & MODE_STEP)
		return;
	backwards(t, page, SAY_NONE, none);
	if (pays(t, none))
		backwards(t, page, LOOK, t->live);
}
