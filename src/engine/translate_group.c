/* SPDX-License-Identifier: MIT
 *
 * engine/translate_group: which accesses of a block share a look-up. Registers get
 * symbolic values (an unknown and a constant), so accesses off the same unknowns are
 * at constant distances; those close together make a group, which is looked up once,
 * where flags are dead if there is such a place. docs/ENGINE.md, "Groups".
 */
#include "engine/translate.h"

#include <Zydis/Zydis.h>

#define GROUP_BYTES 512 /* longer ones would cross pages too often */

struct plan {
	struct tr *t;
	struct val now[VAL_COUNT];
	uint16_t next; /* unknown */
	uint8_t epoch; /* counts changes of what supervisor accesses are checked for */
};

static void forget(struct plan *p, unsigned int r)
{
	p->now[r] = (struct val){.id = p->next++};
}

static void add(struct plan *p, unsigned int r, int64_t n)
{
	p->now[r].delta = (int64_t)((uint64_t)p->now[r].delta + (uint64_t)n);
}

/* What the instruction makes of the registers. */
static void effect(struct plan *p, const struct insn *in)
{
	bool plain = !in->map && !in->vex && in->w && !in->has_mem && !in->lock;
	unsigned int skip = 0;

	switch (in->kind) {
	case K_PUSH:
	case K_PUSHF:
		add(p, R_SP, -8);
		return;
	case K_POP:
		add(p, R_SP, 8);
		skip = 1u << R_SP;
		if (!in->has_mem)
			forget(p, in->opc.on ? in->opc.g : in->rm.g);
		break;
	case K_LEAVE:
		p->now[R_SP] = p->now[R_BP];
		add(p, R_SP, 8);
		forget(p, R_BP);
		return;
	case K_LEA:
		if (in->opsize == 8 && in->addrsize == 8 && in->base >= 0 && in->index < 0) {
			p->now[in->reg.g] = p->now[in->base];
			add(p, in->reg.g, in->disp);
			return;
		}
		break;
	case K_GENERIC:
		if (plain && (in->opcode == 0x81 || in->opcode == 0x83) && (in->reg_no == 0 || in->reg_no == 5)) {
			add(p, in->rm.g, in->reg_no ? -in->imm : in->imm);
			return;
		}
		if (plain && (in->opcode == 0x89 || in->opcode == 0x8b)) {
			if (in->opcode == 0x89)
				p->now[in->rm.g] = p->now[in->reg.g];
			else
				p->now[in->reg.g] = p->now[in->rm.g];
			return;
		}
		if (plain && in->opcode == 0xff && in->reg_no < 2) {
			add(p, in->rm.g, in->reg_no ? -1 : 1);
			return;
		}
		break;
	case K_SWAPGS:
		forget(p, VAL_GS);
		return;
	case K_STAC:
	case K_CLAC:
		p->epoch++;
		return;
	default:
		break;
	}
	for (unsigned int w = in->gpr_w & ~skip; w; w &= w - 1)
		forget(p, (unsigned int)__builtin_ctz(w));
}

static struct val value(const struct plan *p, int r)
{
	return r < 0 ? (struct val){0} : p->now[r];
}

/* Enter an access at in's operand, or on the stack, into a group. */
static void access_add(struct plan *p, unsigned int i, unsigned int nth, const struct insn *op, unsigned int size,
		       bool write)
{
	struct tr *t = p->t;
	int seg = op->seg == S_FS ? VAL_FS : op->seg == S_GS ? VAL_GS : -1;
	bool constant = op->base == -2 || (op->base < 0 && op->index < 0);
	struct val b = value(p, op->base), x = value(p, op->index), g = value(p, seg);
	int64_t at = (int64_t)((uint64_t)b.delta + ((uint64_t)x.delta << op->scale) + (uint64_t)op->disp), lo, hi;
	struct group *s = NULL;

	if (op->addrsize != 8 || op->base == -2 || !size)
		return;
	/* all displacements between them must fit; absolute addresses keep to themselves */
	if ((constant && seg < 0) || at > INT32_MAX / 4 || at < INT32_MIN / 4)
		return;
	for (unsigned int k = t->n_groups; k-- > 0 && !s;) {
		s = &t->groups[k];
		lo = at < s->lo ? at : s->lo;
		hi = at + (int)size > s->hi ? at + (int)size : s->hi;
		if (s->base_id != b.id || s->index_id != x.id || s->seg_id != g.id || s->epoch != p->epoch ||
		    s->scale != (x.id ? op->scale : 0) || hi - lo > GROUP_BYTES)
			s = NULL;
	}
	if (!s) {
		if (t->n_groups == GROUP_MAX)
			return;
		s = &t->groups[t->n_groups++];
		*s = (struct group){.lo = at, .hi = at + (int)size, .base_id = b.id, .index_id = x.id,
				   .seg_id = g.id, .epoch = p->epoch, .scale = x.id ? op->scale : 0,
				   .base = op->base, .index = op->index, .seg = op->seg, .first = (uint8_t)i};
	} else {
		s->lo = lo;
		s->hi = hi;
	}
	s->write |= write;
	s->n = ++s->total;
	t->acc[i][nth] = (struct access){.group = (int8_t)(s - t->groups), .at = (int32_t)at};
}

static void accesses(struct plan *p, unsigned int i, const struct insn *in)
{
	static const struct insn stack = {.base = R_SP, .index = -1, .seg = S_SS, .addrsize = 8};
	struct insn op = stack;
	unsigned int nth = 0;

	switch (in->kind) {
	case K_GENERIC:
		if (in->has_mem && in->mem_acc && !in->vsib)
			access_add(p, i, 0, in, in->mem_size, in->mem_acc & ACC_W);
		break;
	case K_PUSH:
	case K_CALL_IND:
		if (in->has_mem)
			access_add(p, i, nth++, in, 8, false);
		/* fall through */
	case K_CALL:
		op.disp = -8;
		access_add(p, i, nth, &op, 8, true);
		break;
	case K_PUSHF:
		op.disp = -8;
		access_add(p, i, 0, &op, 8, true);
		break;
	case K_JMP_IND:
		if (in->has_mem)
			access_add(p, i, 0, in, 8, false);
		break;
	case K_LEAVE:
		op.base = R_BP;
		access_add(p, i, 0, &op, 8, false);
		break;
	case K_POP:
	case K_RET:
		access_add(p, i, 0, &op, 8, false);
		break;
	default:
		break;
	}
}

/* Can the group be looked up before instruction j: do its registers have their values there? */
static bool known_at(const struct tr *t, const struct group *s, unsigned int j)
{
	const struct val *v = t->val[j];

	return (s->base < 0 || v[s->base].id == s->base_id) && (s->index < 0 || v[s->index].id == s->index_id) &&
	       (s->seg != S_GS || v[VAL_GS].id == s->seg_id) && t->epoch[j] == s->epoch;
}

void groups_plan(struct tr *t)
{
	struct plan p = {.t = t, .next = 1};

	t->n_groups = 0;
	for (unsigned int r = 0; r < VAL_COUNT; r++)
		forget(&p, r);
	for (unsigned int i = 0; i < t->n; i++) {
		for (unsigned int r = 0; r < VAL_COUNT; r++)
			t->val[i][r] = p.now[r];
		t->epoch[i] = p.epoch;
		t->acc[i][0].group = t->acc[i][1].group = -1;
		if (t->split || flat32(t))
			continue;
		accesses(&p, i, &t->in[i]);
		effect(&p, &t->in[i]);
	}
	for (unsigned int r = 0; r < VAL_COUNT; r++)
		t->val_end[r] = p.now[r];
	for (unsigned int k = 0; k < t->n_groups; k++) {
		struct group *s = &t->groups[k];

		s->check = s->first;
		for (unsigned int j = s->first; known_at(t, s, j); j--) {
			if (!t->live[j]) {
				s->check = (uint8_t)j;
				break;
			}
			if (!j)
				break;
		}
	}
}

bool group_check_emit(struct tr *t, struct group *s)
{
	const struct val *v = t->val[t->i];
	struct insn op = {.base = s->base, .index = s->index, .scale = s->scale, .seg = s->seg, .addrsize = 8};
	struct hmem x = {0};
	uint64_t value = 0;
	bool constant;

	op.disp = s->lo;
	if (s->base >= 0)
		op.disp -= v[s->base].delta;
	if (s->index >= 0)
		op.disp -= (int64_t)((uint64_t)v[s->index].delta << s->scale);
	if (!ea_emit(t, &op, &x, &value, &constant) || constant ||
	    !check_emit(t, &x, 0, (unsigned int)(s->hi - s->lo), s->write, true, true))
		return false;
	group_made(t, s);
	return true;
}
