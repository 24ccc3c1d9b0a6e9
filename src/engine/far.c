/* SPDX-License-Identifier: MIT
 *
 * engine/far: far jumps, calls and returns, SYSCALL, SYSENTER and their returns.
 * SDM vol. 2, the instructions' pages; vol. 3, "Privilege Levels" and "Call Gates".
 */
#include "engine/decode.h"

#include <Zydis/Zydis.h>


int code_check(struct engine_vcpu *v, uint16_t sel, uint32_t d[2], uint64_t lin, struct seg *g,
	       unsigned int want_cpl, bool ret, uint8_t vec)
{
	uint32_t err = sel & 0xfffcu;
	unsigned int dpl, rpl = sel & 3;

	seg_from_desc(g, sel, d);
	dpl = SEG_DPL(g->attr);
	if (!(g->attr & SEG_S) || !(g->attr & 8))
		return raise_exc(v, vec, true, err);
	if (is_long(v) && (g->attr & SEG_L) && (g->attr & SEG_DB))
		return raise_exc(v, vec, true, err);
	if (ret) {
		if (g->attr & 4 ? dpl > rpl : dpl != rpl)
			return raise_exc(v, vec, true, err);
	} else if (g->attr & 4 ? dpl > want_cpl : rpl > want_cpl || dpl != want_cpl) {
		return raise_exc(v, vec, true, err);
	}
	if (!(g->attr & SEG_P))
		return raise_exc(v, V_NP, true, err);
	int r = desc_accessed(v, lin, d, 0x100);

	g->attr |= 1;
	return r;
}

static int rip_check(struct engine_vcpu *v, const struct seg *cs, uint64_t rip)
{
	if (is_long(v) && (cs->attr & SEG_L))
		return is_canonical(rip) ? X_NEXT : raise_gp(v, 0);
	return rip > cs->limit ? raise_gp(v, 0) : X_NEXT;
}

struct gate {
	uint16_t sel;
	uint64_t off;
	unsigned int params, size;
};

static int gate_read(struct engine_vcpu *v, uint16_t sel, const uint32_t d[2], uint64_t lin,
		     struct gate *g)
{
	uint32_t err = sel & 0xfffcu, hi[2];
	unsigned int type = d[1] >> 8 & 15, dpl = d[1] >> 13 & 3;

	if (type != 12 && (type != 4 || is_long(v)))
		return raise_gp(v, err);
	if (dpl < (unsigned int)cpl(v) || dpl < (sel & 3u))
		return raise_gp(v, err);
	if (!(d[1] & 0x8000))
		return raise_exc(v, V_NP, true, err);
	g->sel = (uint16_t)(d[0] >> 16);
	g->off = (d[0] & 0xffff) | (type == 12 ? d[1] & 0xffff0000u : 0);
	g->params = d[1] & 31;
	g->size = is_long(v) ? 8 : type == 12 ? 4 : 2;
	if (is_long(v)) {
		int r = gmem_read(v, lin + 8, hi, 8, system_mode(v));

		if (r)
			return r;
		if (hi[1] & 0x1f00)
			return raise_gp(v, err);
		g->off |= (uint64_t)hi[0] << 32;
		g->params = 0;
	}
	return X_NEXT;
}

static void store_n(uint8_t *p, uint64_t val, unsigned int size)
{
	bytes_copy(p, &val, size);
}

/* CALL through a gate to a more privileged level. */
static int gate_call_inner(struct engine_vcpu *v, const struct insn *in, const struct gate *g,
			   const struct seg *cs, unsigned int dpl)
{
	unsigned int n = g->size, words = 4 + g->params;
	uint8_t frame[(4 + 31) * 8];
	uint16_t ss = 0;
	uint64_t sp, lin, old_sp = v->gpr[R_SP];
	struct seg nss = {.attr = (uint16_t)(SEG_UNUSABLE | dpl << 5)};
	int r = tss_stack(v, (int)dpl, &ss, &sp);

	if (r)
		return r;
	if (!is_long(v)) {
		uint32_t d[2];

		r = desc_read(v, ss, d, &lin, V_TS);
		if (r)
			return r;
		seg_from_desc(&nss, ss, d);
		if ((ss & 3u) != dpl || SEG_DPL(nss.attr) != dpl || !(nss.attr & SEG_S) || (nss.attr & 0xa) != 2)
			return raise_exc(v, V_TS, true, ss & 0xfffcu);
		if (!(nss.attr & SEG_P))
			return raise_exc(v, V_SS, true, ss & 0xfffcu);
		for (unsigned int i = 0; i < g->params; i++) {
			uint64_t val = 0;

			r = pop_peek(v, &val, n, i * n);
			if (r)
				return r;
			store_n(frame + (2 + i) * n, val, n);
		}
	} else {
		nss.sel = (uint16_t)dpl;
	}
	store_n(frame, v->rip + in->len, n);
	store_n(frame + n, v->seg[S_CS].sel, n);
	store_n(frame + (2 + g->params) * n, old_sp, n);
	store_n(frame + (3 + g->params) * n, v->seg[S_SS].sel, n);
	sp -= words * n;
	lin = is_long(v) ? sp : (nss.base + sp) & 0xffffffffu;
	r = gmem_write(v, lin, frame, words * n, dpl == 3 ? TM_USER : system_mode(v));
	if (r)
		return r;
	v->seg[S_SS] = nss;
	cs_set(v, cs, (int)dpl);
	v->gpr[R_SP] = sp;
	v->rip = g->off;
	return X_JUMP;
}

/* CALL's far return address: both words, or RSP as it was. */
static int push_return(struct engine_vcpu *v, const struct insn *in, unsigned int size)
{
	uint64_t keep = v->gpr[R_SP];
	int r = push_val(v, v->seg[S_CS].sel, size);

	if (!r)
		r = push_val(v, v->rip + in->len, size);
	if (r)
		v->gpr[R_SP] = keep;
	return r;
}

static int far_transfer(struct engine_vcpu *v, const struct insn *in, uint16_t sel, uint64_t off,
			bool call)
{
	unsigned int size = in->opsize;
	uint32_t d[2];
	uint64_t lin;
	struct seg cs;
	int r;

	if (is_real(v) || is_vm86(v)) {
		if (off > v->seg[S_CS].limit)
			return raise_gp(v, 0);
		r = call ? push_return(v, in, size) : 0;
		if (r)
			return r;
		seg_load_real(v, S_CS, sel);
		v->rip = off;
		mode_update(v);
		return X_JUMP;
	}
	if (!(sel & 0xfffc))
		return raise_gp(v, 0);
	r = desc_read(v, sel, d, &lin, V_GP);
	if (r)
		return r;
	if (task_descriptor(v, d))
		return task_transfer(v, sel, d, call, v->rip + in->len);
	if (!(d[1] & 0x1000)) {
		struct gate g;
		unsigned int dpl;

		r = gate_read(v, sel, d, lin, &g);
		if (!r)
			r = g.sel & 0xfffc ? desc_read(v, g.sel, d, &lin, V_GP) : raise_gp(v, 0);
		if (r)
			return r;
		seg_from_desc(&cs, g.sel, d);
		dpl = SEG_DPL(cs.attr);
		if (!(cs.attr & SEG_S) || !(cs.attr & 8) || dpl > (unsigned int)cpl(v) ||
		    (is_long(v) && (!(cs.attr & SEG_L) || (cs.attr & SEG_DB))))
			return raise_gp(v, g.sel & 0xfffcu);
		if (!(cs.attr & SEG_P))
			return raise_exc(v, V_NP, true, g.sel & 0xfffcu);
		r = rip_check(v, &cs, g.off);
		if (r)
			return r;
		if (call && !(cs.attr & 4) && dpl < (unsigned int)cpl(v))
			return gate_call_inner(v, in, &g, &cs, dpl);
		if (!call && !(cs.attr & 4) && dpl != (unsigned int)cpl(v))
			return raise_gp(v, g.sel & 0xfffcu);
		size = g.size;
		off = g.off;
	} else {
		r = code_check(v, sel, d, lin, &cs, (unsigned int)cpl(v), false, V_GP);
		if (r)
			return r;
	}
	if (!(is_long(v) && (cs.attr & SEG_L)))
		off &= 0xffffffffu;
	r = rip_check(v, &cs, off);
	if (r)
		return r;
	r = call ? push_return(v, in, size) : 0;
	if (r)
		return r;
	cs_set(v, &cs, cpl(v));
	v->rip = off;
	return X_JUMP;
}

/* A data segment that the outer level may not keep. */
static void drop_inner_segments(struct engine_vcpu *v, unsigned int newcpl)
{
	for (int s = 0; s < 6; s++) {
		struct seg *g = &v->seg[s];

		if (s == S_CS || s == S_SS || (g->attr & SEG_UNUSABLE))
			continue;
		if ((g->attr & 0xc) != 0xc && SEG_DPL(g->attr) < newcpl) {
			g->sel = 0;
			g->attr = SEG_UNUSABLE;
		}
	}
}

/* The common end of far RET and IRET to protected mode. */
int far_return_to(struct engine_vcpu *v, uint16_t sel, uint64_t rip, uint16_t ss, uint64_t sp,
		  bool outer_given)
{
	unsigned int rpl = sel & 3, old = (unsigned int)cpl(v);
	uint32_t d[2], sd[2];
	uint64_t lin, slin;
	struct seg cs, nss;
	int r;

	if (!(sel & 0xfffc))
		return raise_gp(v, 0);
	r = desc_read(v, sel, d, &lin, V_GP);
	if (r)
		return r;
	if (rpl < old)
		return raise_gp(v, sel & 0xfffcu);
	r = code_check(v, sel, d, lin, &cs, rpl, true, V_GP);
	if (!r)
		r = rip_check(v, &cs, rip);
	if (r)
		return r;
	if (!outer_given) {
		cs_set(v, &cs, (int)rpl);
		v->rip = rip;
		return X_JUMP;
	}
	if (!(ss & 0xfffc)) {
		if (!(is_long(v) && (cs.attr & SEG_L)) || rpl == 3 || (ss & 3u) != rpl)
			return raise_gp(v, 0);
		nss = (struct seg){.sel = ss, .attr = (uint16_t)(SEG_UNUSABLE | rpl << 5)};
	} else {
		r = desc_read(v, ss, sd, &slin, V_GP);
		if (r)
			return r;
		seg_from_desc(&nss, ss, sd);
		if ((ss & 3u) != rpl || SEG_DPL(nss.attr) != rpl || !(nss.attr & SEG_S) || (nss.attr & 0xa) != 2)
			return raise_gp(v, ss & 0xfffcu);
		if (!(nss.attr & SEG_P))
			return raise_exc(v, V_SS, true, ss & 0xfffcu);
		r = desc_accessed(v, slin, sd, 0x100);
		if (r)
			return r;
	}
	v->seg[S_SS] = nss;
	cs_set(v, &cs, (int)rpl);
	if (cs.attr & SEG_L && is_long(v))
		v->gpr[R_SP] = sp;
	else if (nss.attr & SEG_DB)
		v->gpr[R_SP] = (uint32_t)sp;
	else
		gpr_set(v, R_SP, 2, false, sp);
	if (rpl > old)
		drop_inner_segments(v, rpl);
	v->rip = rip;
	mode_update(v);
	return X_JUMP;
}

static int far_ret(struct engine_vcpu *v, const struct insn *in)
{
	unsigned int n = in->opsize;
	uint64_t extra = in->opcode == 0xca ? (uint64_t)in->imm & 0xffff : 0;
	uint64_t rip = 0, sel = 0, sp = 0, ss = 0;
	int r = pop_peek(v, &rip, n, 0);

	if (!r)
		r = pop_peek(v, &sel, n, n);
	if (r)
		return r;
	if (is_real(v) || is_vm86(v)) {
		if (rip > v->seg[S_CS].limit)
			return raise_gp(v, 0);
		sp_add(v, (int64_t)(2 * n + extra));
		seg_load_real(v, S_CS, (uint16_t)sel);
		v->rip = rip;
		mode_update(v);
		return X_JUMP;
	}
	if ((sel & 3) > (unsigned int)cpl(v)) {
		r = pop_peek(v, &sp, n, 2 * n + (unsigned int)extra);
		if (!r)
			r = pop_peek(v, &ss, n, 3 * n + (unsigned int)extra);
		if (r)
			return r;
		r = far_return_to(v, (uint16_t)sel, rip, (uint16_t)ss, sp, true);
		if (r == X_JUMP)
			sp_add(v, (int64_t)extra);
		return r;
	}
	uint64_t keep = v->gpr[R_SP];

	sp_add(v, (int64_t)(2 * n + extra));
	r = far_return_to(v, (uint16_t)sel, rip, 0, 0, false);
	if (r != X_JUMP)
		v->gpr[R_SP] = keep;
	return r;
}

static struct seg flat_code(uint16_t sel, unsigned int dpl, bool l)
{
	return (struct seg){.sel = sel, .limit = 0xffffffffu,
			    .attr = (uint16_t)(SEG_P | SEG_S | 11 | dpl << 5 | SEG_G | (l ? SEG_L : SEG_DB))};
}

static struct seg flat_data(uint16_t sel, unsigned int dpl)
{
	return (struct seg){.sel = sel, .limit = 0xffffffffu,
			    .attr = (uint16_t)(SEG_P | SEG_S | 3 | dpl << 5 | SEG_G | SEG_DB)};
}

static int syscall_(struct engine_vcpu *v, const struct insn *in)
{
	struct seg cs;
	uint16_t sel = (uint16_t)(v->star >> 32) & 0xfffcu;

	if (!(v->efer & EFER_SCE) || is_real(v))
		return raise_ud(v);
	v->gpr[R_CX] = v->rip + in->len;
	if (is_long(v)) {
		bool from64 = v->mode & MODE_64;

		v->gpr[R_11] = flags_get(v) & ~FL_RF;
		v->rip = from64 ? v->lstar : v->cstar;
		flags_set(v, (flags_get(v) & ~(uint32_t)v->fmask & ~FL_RF) | 2);
		cs = flat_code(sel, 0, true);
	} else {
		v->gpr[R_CX] &= 0xffffffffu;
		v->rip = (uint32_t)v->star;
		flags_set(v, flags_get(v) & ~(FL_VM | FL_IF | FL_RF));
		cs = flat_code(sel, 0, false);
	}
	v->seg[S_SS] = flat_data((uint16_t)(sel + 8), 0);
	cs_set(v, &cs, 0);
	return X_JUMP;
}

static int sysret_(struct engine_vcpu *v, const struct insn *in)
{
	uint16_t base = (uint16_t)(v->star >> 48);
	struct seg cs;

	if (!(v->efer & EFER_SCE) || is_real(v))
		return raise_ud(v);
	if (cpl(v))
		return raise_gp(v, 0);
	if (in->w && in->code == 8) {
		if (!is_canonical(v->gpr[R_CX]))
			return raise_gp(v, 0);
		cs = flat_code((uint16_t)((base + 16) | 3), 3, true);
		v->rip = v->gpr[R_CX];
	} else {
		cs = flat_code((uint16_t)(base | 3), 3, false);
		v->rip = (uint32_t)v->gpr[R_CX];
	}
	if (is_long(v))
		flags_set(v, ((uint32_t)v->gpr[R_11] & ~(FL_RF | FL_VM)) | 2);
	else
		flags_set(v, flags_get(v) | FL_IF);
	v->seg[S_SS] = flat_data((uint16_t)((base + 8) | 3), 3);
	cs_set(v, &cs, 3);
	return X_JUMP;
}

static int sysenter_(struct engine_vcpu *v)
{
	struct seg cs;
	uint16_t sel = (uint16_t)v->sysenter_cs & 0xfffcu;

	if (is_real(v) || !sel)
		return raise_gp(v, 0);
	flags_set(v, flags_get(v) & ~(FL_VM | FL_IF | FL_RF));
	cs = flat_code(sel, 0, is_long(v));
	v->seg[S_SS] = flat_data((uint16_t)(sel + 8), 0);
	cs_set(v, &cs, 0);
	v->gpr[R_SP] = is_long(v) ? v->sysenter_esp : (uint32_t)v->sysenter_esp;
	v->rip = is_long(v) ? v->sysenter_eip : (uint32_t)v->sysenter_eip;
	return X_JUMP;
}

static int sysexit_(struct engine_vcpu *v, const struct insn *in)
{
	uint16_t sel = (uint16_t)v->sysenter_cs & 0xfffcu;
	bool w = in->w && in->code == 8;
	struct seg cs;

	if (is_real(v) || !sel || cpl(v))
		return raise_gp(v, 0);
	if (w && (!is_canonical(v->gpr[R_CX]) || !is_canonical(v->gpr[R_DX])))
		return raise_gp(v, 0);
	cs = flat_code((uint16_t)((sel + (w ? 32 : 16)) | 3), 3, w);
	v->seg[S_SS] = flat_data((uint16_t)((sel + (w ? 40 : 24)) | 3), 3);
	cs_set(v, &cs, 3);
	v->gpr[R_SP] = w ? v->gpr[R_CX] : (uint32_t)v->gpr[R_CX];
	v->rip = w ? v->gpr[R_DX] : (uint32_t)v->gpr[R_DX];
	return X_JUMP;
}

int far_exec(struct engine_vcpu *v, const struct insn *in)
{
	uint16_t sel;
	uint64_t off = 0, lin;
	uint8_t b[10];
	int r;

	switch (in->mnem) {
	case ZYDIS_MNEMONIC_SYSCALL:
	case ZYDIS_MNEMONIC_SYSRET:
		r = in->mnem == ZYDIS_MNEMONIC_SYSCALL ? syscall_(v, in) : sysret_(v, in);
		v->step_tf = v->vflags & FL_TF; /* the flag as they leave it */
		return r;
	case ZYDIS_MNEMONIC_SYSENTER:
		return sysenter_(v);
	case ZYDIS_MNEMONIC_SYSEXIT:
		return sysexit_(v, in);
	case ZYDIS_MNEMONIC_RET:
		return far_ret(v, in);
	default:
		break;
	}
	if (in->has_mem) {
		r = ea_linear(v, in, in->opsize + 2u, false, &lin);
		if (!r)
			r = gmem_read(v, lin, b, in->opsize + 2u, data_mode(v));
		if (r)
			return r;
		bytes_copy(&off, b, in->opsize);
		bytes_copy(&sel, b + in->opsize, 2);
	} else {
		off = (uint64_t)in->imm & (in->opsize == 2 ? 0xffff : 0xffffffffu);
		sel = (uint16_t)in->imm2;
	}
	return far_transfer(v, in, sel, off, in->mnem == ZYDIS_MNEMONIC_CALL);
}
