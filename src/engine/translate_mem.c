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
	e_mov_rr(e, S2, H_AX);
	e1(e, 0x9f); /* lahf */
	e1(e, 0x0f);
	e1(e, 0x90);
	e1(e, 0xc0); /* seto al */
	e1(e, 0x66);
	e_rm(e, 0x89, false, H_AX, &m);
	e_mov_rr(e, H_AX, S2);
	t->saved = true;
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
}

void flags_free(struct tr *t)
{
	if (!t->saved && t->live[t->i])
		flags_save(t);
}

/* ---- addresses ---- */

static int reg_in(struct tr *t, unsigned int g, int scratch)
{
	int h = host_reg(g);

	if (h >= 0)
		return h;
	e_load(&t->e, scratch, gs_gpr(g));
	return scratch;
}

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
		e_load(&t->e, S1, gs_seg_base(in->seg));
		*x = at(S1, (int32_t)a);
		return true;
	}
	*x = (struct hmem){.base = -1, .index = -1, .scale = in->scale, .disp = (int32_t)in->disp};
	if (in->base >= 0)
		x->base = (int8_t)reg_in(t, (unsigned int)in->base, S0);
	if (in->index >= 0)
		x->index = (int8_t)reg_in(t, (unsigned int)in->index, S1);
	if (narrow) {
		e_lea(&t->e, S0, *x, false);
		*x = at(S0, 0);
	}
	if (fsgs) {
		if (x->index >= 0) {
			e_lea(&t->e, S0, *x, true);
			*x = at(S0, 0);
		}
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
static unsigned int tlb_class(const struct hmem *x, bool constant)
{
	static const uint8_t of[16] = {
		[H_AX] = 1, [H_CX] = 2, [H_DX] = 3, [H_BX] = 1, [H_BP] = 0, [H_SI] = 2, [H_DI] = 3,
		[H_8] = 1, [S0] = 2, [S1] = 3, [S2] = 1, [H_12] = 2, [H_13] = 3, [H_14] = 1, [HRSP] = 0,
	};
	int r = x->base >= 0 ? x->base : x->index;

	if (constant || r < 0)
		return 3;
	/* two arrays off one register: a large displacement is another class */
	return of[r] ^ (x->disp > 2047 || x->disp < -2048 ? 2u : 0u);
}

bool lookup_emit(struct tr *t, struct hmem x, bool constant, uint64_t value, bool narrow,
		 unsigned int size, bool write, bool one, struct hmem *out)
{
	enum tlb_mode tm = tlb_mode_of(t->mode);
	unsigned int cls = tlb_class(&x, constant);
	int32_t table = (int32_t)offsetof(struct engine_vcpu, tlb[0][0][0]) +
			(int32_t)(((tm * 2 + (write ? TLB_W : TLB_R)) * TLB_SIZE + cls * TLB_WAY) *
				  sizeof(struct tlb_entry));
	struct emit *e = &t->e;
	struct late *l = &t->late[t->n_late];
	struct site *s = &t->c->sites[t->c->n_sites];
	struct hmem tag = {.base = -1, .index = -1, .gs = true};

	if (size > UINT8_MAX || t->n_late >= sizeof(t->late) / sizeof(t->late[0]))
		return false;
	if (constant && (value & 4095) + size > 4096)
		return false;
	flags_free(t);
	if (!constant && (x.index >= 0 || x.base == S1 || x.base == S2 || narrow ||
			  x.disp > INT32_MAX - 4096)) {
		e_lea(e, S0, x, !narrow);
		x = at(S0, 0);
	}
	*l = (struct late){.site = t->c->n_sites++, .constant = constant, .value = value, .expr = x};
	*s = (struct site){.rip = (uint16_t)(t->rip - t->b->rip), .retry = tr_off(t), .size = (uint8_t)size,
			   .write = write, .mode = tm, .cls = cls & 3u, .flags_saved = t->saved};
	t->n_late++;
	if (constant) {
		int64_t page = (int64_t)value >> 12;

		tag.disp = table + (int32_t)((page & (TLB_WAY - 1)) * 16);
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
		if ((int64_t)value == (int32_t)value) {
			*out = at(S1, (int32_t)value);
		} else {
			e_mov_imm(e, S0, value);
			*out = (struct hmem){.base = S0, .index = S1};
		}
	} else {
		struct hmem last = x;

		last.disp += (int32_t)size - 1;
		e_lea(e, S1, x, true);
		if (size > 1)
			e_lea(e, S2, last, true);
		else
			e_mov_rr(e, S2, S1);
		e_shift(e, 5, S1, 8);
		e_alu_imm(e, 4, false, S1, (TLB_WAY - 1) << 4);
		e_shift(e, 7, S2, 12);
		tag.base = S1;
		tag.disp = table;
		e_rm(e, 0x39, true, S2, &tag);
		l->patch = e_jcc(e, 5);
		tag.disp += 8;
		e_load(e, S1, tag);
		*out = (struct hmem){.base = x.base, .index = S1, .disp = x.disp};
	}
	if (one) {
		e_lea(e, S0, *out, true);
		*out = at(S0, 0);
	}
	return true;
}

void late_emit(struct tr *t)
{
	struct emit *e = &t->e;

	for (unsigned int i = 0; i < t->n_late; i++) {
		struct late *l = &t->late[i];

		e_patch_here(e, l->patch);
		if (l->constant)
			e_mov_imm(e, S1, l->value);
		else
			e_lea(e, S1, l->expr, true);
		e_mov_imm(e, S2, l->site);
		e_jmp_to(e, t->c->rw + t->c->s_tlb);
	}
	t->n_late = 0;
}
