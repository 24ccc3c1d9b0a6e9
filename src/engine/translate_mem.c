/* SPDX-License-Identifier: MIT
 *
 * engine/translate_mem: flags around look-ups, addresses, the TLB look-up itself.
 */
#include "engine/translate.h"

/* ---- flags: docs/ENGINE.md, "Flags" ---- */

void flags_save(struct tr *t)
{
	struct hmem m = GS_MEM(flsave);
	struct emit *e = &t->e;

	if (t->saved)
		return;
	scratch_lost(t, S2);
	e_mov_rr(e, S2, H_AX);
	e1(e, 0x9f); /* lahf */
	e1(e, 0x0f);
	e1(e, 0x90);
	e1(e, 0xc0); /* seto al */
	e1(e, 0x66);
	e_rm(e, 0x89, false, H_AX, &m);
	e_mov_rr(e, H_AX, S2);
	t->saved = true;
	probe_note(t);
}

void flags_restore(struct tr *t)
{
	struct hmem m = GS_MEM(flsave);
	struct emit *e = &t->e;

	if (!t->saved)
		return;
	/* S2 may be in use by whoever asks; the vCPU has room */
	e_store(e, GS_MEM(tmp[3]), H_AX);
	e_rm(e, 0x0fb7, false, H_AX, &m);
	e1(e, 0x04);
	e1(e, 0x7f); /* add al, 127: overflows exactly if AL = 1 */
	e1(e, 0x9e); /* sahf */
	e_load(e, H_AX, GS_MEM(tmp[3]));
	t->saved = false;
	probe_note(t);
}

void flags_free(struct tr *t)
{
	if (!t->saved && t->live[t->i])
		flags_save(t);
}

/* ---- addresses ---- */

bool ea_emit(struct tr *t, const struct insn *in, struct hmem *x, uint64_t *value, bool *constant)
{
	bool fsgs = in->seg == S_FS || in->seg == S_GS;
	bool narrow = in->addrsize == 4;

	*constant = false;
	/* CS is not writable: C knows the rules */
	if (flat32(t) && in->seg == S_CS)
		return false;
	if (in->addrsize == 2 || (fsgs && flat32(t)) || in->disp != (int32_t)in->disp)
		if (!(in->moffs && in->addrsize == 8 && !fsgs))
			return false;
	if (in->base == -2 || (in->base == -1 && in->index == -1)) {
		uint64_t a = (uint64_t)in->disp + (in->base == -2 ? t->rip + in->len : 0);

		if (narrow)
			a = (uint32_t)a;
		if (!fsgs) {
			*value = a;
			*constant = true;
			return is_canonical(a) && is_canonical(a + 63);
		}
		if (a != (uint64_t)(int32_t)a)
			return false;
		scratch_lost(t, S1);
		e_load(&t->e, S1, gs_seg_base(in->seg));
		*x = at(S1, (int32_t)a);
		return true;
	}
	*x = (struct hmem){.base = -1, .index = -1, .scale = in->scale, .disp = (int32_t)in->disp};
	if (in->base >= 0)
		x->base = (int8_t)gpr_read(t, (unsigned int)in->base, S0);
	if (in->index >= 0)
		x->index = (int8_t)gpr_read(t, (unsigned int)in->index, S1);
	if (narrow) {
		scratch_lost(t, S0);
		e_lea(&t->e, S0, *x, false);
		*x = at(S0, 0);
	}
	if (fsgs) {
		if (x->index >= 0) {
			scratch_lost(t, S0);
			e_lea(&t->e, S0, *x, true);
			*x = at(S0, 0);
		}
		scratch_lost(t, S1);
		e_load(&t->e, S1, gs_seg_base(in->seg));
		x->index = S1;
		x->scale = 0;
	}
	return true;
}

static enum tlb_mode tlb_mode_of(uint32_t mode)
{
	return (mode & MODE_CPL) == 3 ? TM_USER : mode & MODE_AC ? TM_SUP_AC : TM_SUP;
}

/* Which part of the table an operand uses: by its base register, the stack by itself. */
static unsigned int tlb_class(const struct hmem *x)
{
	static const uint8_t of[16] = {
		[H_AX] = 1, [H_CX] = 2, [H_DX] = 3, [H_BX] = 1, [H_BP] = 0, [H_SI] = TLB_CLASS_SI,
		[H_DI] = TLB_CLASS_DI,
		[H_8] = 1, [S0] = 2, [S1] = 3, [S2] = 1, [H_12] = 2, [H_13] = 3, [H_14] = 1, [HRSP] = 0,
	};
	int r = x->base >= 0 ? x->base : x->index;

	if (r < 0)
		return 3;
	/* two arrays off one register: a large displacement is another class */
	return of[r] ^ (x->disp > 2047 || x->disp < -2048 ? 2u : 0u);
}

/* Where a look-up of the table begins: the site and the way out of line. */
static struct late *late_new(struct tr *t, unsigned int size, bool write, bool ahead, unsigned int cls)
{
	struct late *l = &t->late[t->n_late++];

	*l = (struct late){.site = t->c->n_sites++, .rip = t->rip, .mode = t->mode,
			   .restore = t->saved && t->live[t->i]};
	t->c->sites[l->site] = (struct site){
		.rip = (uint16_t)(t->rip - t->b->rip), .retry = tr_off(t), .size = (uint16_t)size, .write = write,
		.mode = tlb_mode_of(t->mode), .cls = cls & 3u, .flags_saved = t->saved,
		/* what an opmask may spare entirely must not set D */
		.ahead = ahead || (write && t->in[t->i].elem_size)};
	return l;
}

int32_t table_at(const struct tr *t, bool write, unsigned int cls)
{
	return (int32_t)offsetof(struct engine_vcpu, tlb[0][0][0]) +
	       (int32_t)(((tlb_mode_of(t->mode) * 2 + (write ? TLB_W : TLB_R)) * TLB_SIZE + cls * TLB_WAY) *
			 sizeof(struct tlb_entry));
}

/* A constant address: compare, jump, load. */
static bool constant_emit(struct tr *t, uint64_t value, unsigned int size, bool write)
{
	int64_t page = (int64_t)value >> 12;
	unsigned int cls = 3;
	struct hmem tag = {.base = -1, .index = -1, .gs = true,
			   .disp = table_at(t, write, cls) + (int32_t)((page & (TLB_WAY - 1)) * 16)};
	struct emit *e = &t->e;
	struct late *l;

	if (t->n_late >= sizeof(t->late) / sizeof(t->late[0]) || (value & 4095) + size > 4096)
		return false;
	flags_free(t);
	scratch_lost(t, S1);
	scratch_lost(t, S2);
	l = late_new(t, size, write, false, cls);
	l->constant = true;
	l->value = value;
	if (page == (int32_t)page) {
		e_rm(e, 0x81, true, 7, &tag);
		e4(e, (uint32_t)page);
	} else {
		e_mov_imm(e, S2, (uint64_t)page);
		e_rm(e, 0x39, true, S2, &tag);
	}
	l->patch = e_jcc(e, 5);
	tag.disp += 8;
	e_load(e, S1, tag);
	return true;
}

/*
 * The stack stays in a page for long: the page that was looked up last is kept apart. Comparing with
 * it takes S1 only, and the addend does not wait for the address.
 */
static bool recent_fits(const struct tr *t, const struct hmem *x)
{
	return x->base == HRSP && x->index < 0 && !flat32(t) && tlb_class(x) == 0;
}

static void recent_emit(struct tr *t, struct late *l, struct hmem first, unsigned int size)
{
	enum tlb_mode m = tlb_mode_of(t->mode);
	struct hmem page = GS_MEM(recent[m].page), addend = GS_MEM(recent[m].addend);
	struct emit *e = &t->e;

	e_lea(e, S1, first, true);
	e_rm(e, 0x2b, true, S1, &page);
	e_alu_imm(e, 7, true, S1, 4096 - (int32_t)size);
	l->patch = e_jcc(e, 7);
	e_load(e, S1, addend);
	l->recent = true;
	l->back = e->p;
	l->size = (uint16_t)size;
	l->keep = t->held[2] >= HELD_GPR ? t->held[2] - HELD_GPR : -1;
}

bool check_emit(struct tr *t, struct hmem *x, int32_t off, unsigned int size, bool write, bool ahead,
		bool split)
{
	unsigned int cls = tlb_class(x);
	struct hmem first, last, tag = {.base = S1, .index = -1, .gs = true, .disp = table_at(t, write, cls)};
	struct emit *e = &t->e;
	struct late *l;

	if (t->n_late >= sizeof(t->late) / sizeof(t->late[0]))
		return false;
	flags_free(t);
	if (x->index >= 0 || x->base == S1 || x->base == S2 || x->disp > INT32_MAX - 8192 ||
	    x->disp < INT32_MIN + 8192) {
		scratch_lost(t, S0);
		scratch_lost(t, S1);
		e_lea(e, S0, *x, true);
		*x = at(S0, 0);
	} else if (x->base != S0 && addend_wanted(t, t->held[1]) && !addend_wanted(t, t->held[0])) {
		e_mov_rr(e, S0, S1);
		t->held[0] = t->held[1];
	}
	if (t->held[0] != t->held[1])
		scratch_lost(t, S1);
	t->held[1] = HELD_NONE;
	first = last = *x;
	first.disp += off;
	last.disp += off + (int32_t)size - 1;
	l = late_new(t, size, write, ahead, cls);
	l->expr = first;
	l->group = split ? (uint16_t)size : 0;
	if (recent_fits(t, x)) {
		recent_emit(t, l, first, size);
		return true;
	}
	scratch_lost(t, S2);
	e_lea(e, S1, first, true);
	if (size > 1)
		e_lea(e, S2, last, true);
	else
		e_mov_rr(e, S2, S1);
	e_shift(e, 5, S1, 8);
	e_alu_imm(e, 4, false, S1, (TLB_WAY - 1) << 4);
	e_shift(e, 7, S2, 12);
	e_rm(e, 0x39, true, S2, &tag);
	l->patch = e_jcc(e, 5);
	tag.disp += 8;
	e_load(e, S1, tag);
	return true;
}

/* A register with the group's addend. */
static int addend_load(struct tr *t, int k, bool s0_free)
{
	int r = S1;

	if (t->held[0] == k || t->held[1] == k)
		return t->held[0] == k ? S0 : S1;
	if (s0_free && addend_wanted(t, t->held[1]) && !addend_wanted(t, t->held[0]))
		r = S0;
	scratch_lost(t, r);
	e_load(&t->e, r, addend_of(k));
	t->held[r - S0] = k;
	return r;
}

/* The operand at guest address x as a host operand, with the addend of its group. */
static struct hmem group_operand(struct tr *t, struct hmem x, int k)
{
	struct emit *e = &t->e;
	int r;

	if (x.base == S1 || x.index == S1) {
		scratch_lost(t, S0);
		e_lea(e, S0, x, true);
		x = at(S0, 0);
	}
	t->groups[k].n--;
	r = addend_load(t, k, x.base != S0);
	if (x.index < 0) {
		x.index = (int8_t)r;
		x.scale = 0;
		return x;
	}
	if (x.base >= 0) {
		scratch_lost(t, r);
		e_lea(e, r, (struct hmem){.base = (int8_t)r, .index = x.base}, true);
	}
	x.base = (int8_t)r;
	return x;
}

void group_made(struct tr *t, struct group *g)
{
	g->done = true;
	t->held[1] = (int)(g - t->groups);
}

bool lookup_emit(struct tr *t, struct hmem x, bool constant, uint64_t value, bool narrow,
		 unsigned int size, bool write, bool one, struct hmem *out)
{
	const struct access *a = &t->acc[t->i][t->n_acc++];
	struct group *s = a->group < 0 ? NULL : &t->groups[a->group];
	struct emit *e = &t->e;

	if (constant) {
		if (!constant_emit(t, value, size, write))
			return false;
		if ((int64_t)value == (int32_t)value) {
			*out = at(S1, (int32_t)value);
		} else {
			scratch_lost(t, S0);
			e_mov_imm(e, S0, value);
			*out = (struct hmem){.base = S0, .index = S1};
		}
	} else if (s && s->done) {
		*out = group_operand(t, x, a->group);
	} else {
		if (narrow) {
			scratch_lost(t, S0);
			e_lea(e, S0, x, false);
			x = at(S0, 0);
		}
		if (!s) {
			if (!check_emit(t, &x, 0, size, write, false, false))
				return false;
		} else {
			if (!check_emit(t, &x, (int32_t)(s->lo - a->at), (unsigned int)(s->hi - s->lo), s->write,
					s->write && !write, s->n > 1))
				return false;
			group_made(t, s);
			s->n--;
		}
		x.index = S1;
		x.scale = 0;
		*out = x;
	}
	if (one) {
		scratch_lost(t, S0);
		scratch_lost(t, S1);
		e_lea(e, S0, *out, true);
		*out = at(S0, 0);
	}
	return true;
}

/* Not the recent page: the tables. On from here if they do not have it either. */
static void late_recent_emit(struct tr *t, const struct late *l)
{
	const struct site *s = &t->c->sites[l->site];
	struct hmem last = l->expr;
	struct emit *e = &t->e;
	uint8_t *out;

	last.disp += l->size - 1;
	e_lea(e, S1, l->expr, true);
	e_lea(e, S2, last, true);
	e_call_to(e, t->c->rw + t->c->s_recent[s->mode][s->write ? TLB_W : TLB_R]);
	out = e_jcc(e, 5);
	if (l->keep >= 0)
		e_load(e, S2, gs_gpr((unsigned int)l->keep));
	e_jmp_to(e, l->back);
	e_patch_here(e, out);
}

/*
 * Out of line: let C fill the table. A group that crosses a page, and one that C cannot make good,
 * goes on in the block without groups.
 */
void late_emit(struct tr *t)
{
	struct emit *e = &t->e;

	for (unsigned int i = 0; i < t->n_late; i++) {
		struct late *l = &t->late[i];

		e_patch_here(e, l->patch);
		if (l->recent)
			late_recent_emit(t, l);
		if (l->constant)
			e_mov_imm(e, S1, l->value);
		else
			e_lea(e, S1, l->expr, true);
		if (l->group) {
			uint8_t *fill;

			e_rr(e, 0x89, false, S1, S2);
			e_alu_imm(e, 4, false, S2, 4095);
			e_alu_imm(e, 7, false, S2, 4096 - l->group);
			fill = e_jcc(e, 6);
			t->c->sites[l->site].split = (uint16_t)(tr_off(t) - t->c->sites[l->site].retry);
			t->saved = l->restore;
			flags_restore(t);
			link_split_emit(t, l->rip, l->mode);
			e_patch_here(e, fill);
		}
		e_mov_imm(e, S2, l->site);
		e_jmp_to(e, t->c->rw + t->c->s_tlb);
	}
	t->n_late = 0;
}
