/* SPDX-License-Identifier: MIT
 *
 * engine/segment: segmentation and descriptor tables. SDM vol. 3, "Protection"
 * and "Protected-Mode Memory Management".
 */
#include "engine/decode.h"

#include <Zydis/Zydis.h>

static int stack_or_gp(struct engine_vcpu *v, int s)
{
	return raise_exc(v, s == S_SS ? V_SS : V_GP, true, 0);
}

/* What the operand of this size is aligned to. SDM vol. 3, "Alignment Check Exception". */
static unsigned int operand_alignment(unsigned int size)
{
	switch (size) {
	case 2:
	case 14: /* x87 environment and state, 16-bit */
	case 94:
		return 2;
	case 4:
	case 6: /* far pointer */
	case 28:
	case 108:
		return 4;
	case 8:
	case 10:
		return 8;
	case 16:
	case 32:
		return 16;
	default:
		return 1;
	}
}

/* An operand's address is known: what must be said before memory is touched. */
static int operand_seen(struct engine_vcpu *v, uint64_t lin, unsigned int size, bool write)
{
	if (v->bp_on)
		debug_data(v, lin, size, write);
	if ((v->mode & MODE_ALIGN) && (lin & (operand_alignment(size) - 1)))
		return raise_exc(v, V_AC, true, 0);
	return X_NEXT;
}

int seg_linear(struct engine_vcpu *v, int s, uint64_t off, unsigned int size, bool write, uint64_t *lin)
{
	const struct seg *g = &v->seg[s];
	uint64_t last;

	if (v->mode & MODE_64) {
		if (s == S_FS || s == S_GS)
			off += g->base;
		if (!is_canonical(off) || !is_canonical(off + size - 1))
			return stack_or_gp(v, s);
		*lin = off;
		return operand_seen(v, off, size, write);
	}
	off &= 0xffffffffu;
	last = off + size - 1;
	if (!is_real(v) && !is_vm86(v)) {
		if (g->attr & SEG_UNUSABLE)
			return stack_or_gp(v, s);
		if (g->attr & 8) {
			/* code: never writable, readable by a bit */
			if (write || !(g->attr & 2))
				return stack_or_gp(v, s);
		} else if (write && !(g->attr & 2)) {
			return stack_or_gp(v, s);
		}
	}
	if ((g->attr & 0xc) == 4) {
		/* expand-down */
		if (off <= g->limit || last > (g->attr & SEG_DB ? 0xffffffffu : 0xffffu))
			return stack_or_gp(v, s);
	} else if (last > g->limit) {
		return stack_or_gp(v, s);
	}
	*lin = (g->base + off) & 0xffffffffu;
	return operand_seen(v, *lin, size, write);
}

enum tlb_mode system_mode(const struct engine_vcpu *v)
{
	return v->cr4 & CR4_SMAP ? TM_SUP : TM_SUP_AC;
}

int desc_read(struct engine_vcpu *v, uint16_t sel, uint32_t d[2], uint64_t *lin, uint8_t vec)
{
	uint64_t base, limit;

	if (sel & 4) {
		if (v->seg[S_LDT].attr & SEG_UNUSABLE)
			return raise_exc(v, vec, true, sel & 0xfffcu);
		base = v->seg[S_LDT].base;
		limit = v->seg[S_LDT].limit;
	} else {
		base = v->gdt.base;
		limit = v->gdt.limit;
	}
	if ((sel | 7u) > limit)
		return raise_exc(v, vec, true, sel & 0xfffcu);
	*lin = base + (sel & 0xfff8u);
	if (!is_long(v))
		*lin &= 0xffffffffu;
	return gmem_read(v, *lin, d, 8, system_mode(v));
}

void seg_from_desc(struct seg *g, uint16_t sel, const uint32_t d[2])
{
	uint32_t limit = (d[0] & 0xffff) | (d[1] & 0xf0000);

	g->sel = sel;
	g->base = d[0] >> 16 | (d[1] & 0xff) << 16 | (d[1] & 0xff000000u);
	g->attr = (uint16_t)((d[1] >> 8 & 0xff) | (d[1] >> 12 & 0xf00));
	g->limit = g->attr & SEG_G ? limit << 12 | 0xfff : limit;
}

int desc_accessed(struct engine_vcpu *v, uint64_t lin, uint32_t d[2], uint32_t bits)
{
	if ((d[1] & bits) == bits)
		return X_NEXT;
	d[1] |= bits;
	return gmem_write(v, lin + 4, &d[1], 4, system_mode(v));
}

void seg_load_real(struct engine_vcpu *v, int s, uint16_t sel)
{
	v->seg[s].sel = sel;
	v->seg[s].base = (uint32_t)sel << 4;
	if (is_vm86(v)) {
		v->seg[s].limit = 0xffff;
		v->seg[s].attr = SEG_P | SEG_S | 3 | 3 << 5;
	} else if (s == S_CS) {
		v->seg[s].attr = (uint16_t)((v->seg[s].attr & ~(SEG_TYPE | SEG_DB | SEG_UNUSABLE | 3 << 5)) |
					    SEG_P | SEG_S | 3);
	} else {
		/* limit and attributes stay: "unreal mode" */
		v->seg[s].attr = (uint16_t)((v->seg[s].attr & ~(SEG_UNUSABLE | 3 << 5)) | SEG_P);
	}
}

int seg_load_as(struct engine_vcpu *v, int s, uint16_t sel, uint8_t vec)
{
	struct seg g;
	uint32_t d[2];
	uint64_t lin;
	unsigned int rpl = sel & 3, dpl, c = (unsigned int)cpl(v);
	uint32_t err = sel & 0xfffcu;
	int r;

	if (is_real(v) || is_vm86(v)) {
		seg_load_real(v, s, sel);
		return X_NEXT;
	}
	if (!(sel & 0xfffc)) {
		if (s == S_SS && (!(v->mode & MODE_64) || c == 3 || rpl != c))
			return raise_exc(v, vec, true, 0);
		v->seg[s].sel = sel;
		v->seg[s].attr = (uint16_t)(SEG_UNUSABLE | (s == S_SS ? c << 5 : 0));
		v->seg[s].limit = 0;
		/* on 64-bit AMD processors the base survives a null load of FS and GS; on
		 * Intel it is cleared: systems must not depend on either */
		v->seg[s].base = 0;
		return X_NEXT;
	}
	r = desc_read(v, sel, d, &lin, vec);
	if (r)
		return r;
	seg_from_desc(&g, sel, d);
	dpl = SEG_DPL(g.attr);
	if (!(g.attr & SEG_S))
		return raise_exc(v, vec, true, err);
	if (s == S_SS) {
		if (rpl != c || dpl != c || (g.attr & 0xa) != 2)
			return raise_exc(v, vec, true, err);
		if (!(g.attr & SEG_P))
			return raise_exc(v, V_SS, true, err);
	} else {
		if ((g.attr & 0xa) == 8)
			return raise_exc(v, vec, true, err); /* execute-only */
		if ((g.attr & 0xc) != 0xc && (rpl > dpl || c > dpl))
			return raise_exc(v, vec, true, err);
		if (!(g.attr & SEG_P))
			return raise_exc(v, V_NP, true, err);
	}
	r = desc_accessed(v, lin, d, 0x100);
	if (r)
		return r;
	g.attr |= 1;
	v->seg[s] = g;
	return X_NEXT;
}

int seg_load(struct engine_vcpu *v, int s, uint16_t sel)
{
	return seg_load_as(v, s, sel, V_GP);
}

void cs_set(struct engine_vcpu *v, const struct seg *cs, int newcpl)
{
	v->seg[S_CS] = *cs;
	v->seg[S_CS].sel = (uint16_t)((cs->sel & ~3) | newcpl);
	v->seg[S_SS].attr = (uint16_t)((v->seg[S_SS].attr & ~(3 << 5)) | newcpl << 5);
	mode_update(v);
}

/* ---- instructions ---- */

static int operand_read(struct engine_vcpu *v, const struct insn *in, unsigned int size, uint64_t *val)
{
	uint64_t lin;
	int r;

	*val = 0;
	if (!in->has_mem) {
		*val = gpr_get(v, in->rm.on ? in->rm.g : in->rm_no, size, false);
		return X_NEXT;
	}
	r = ea_linear(v, in, size, false, &lin);
	return r ? r : gmem_read(v, lin, val, size, data_mode(v));
}

static int operand_write(struct engine_vcpu *v, const struct insn *in, unsigned int size, uint64_t val)
{
	uint64_t lin;
	int r;

	if (!in->has_mem) {
		gpr_set(v, in->rm.on ? in->rm.g : in->rm_no, in->opsize, false, val);
		return X_NEXT;
	}
	r = ea_linear(v, in, size, true, &lin);
	return r ? r : gmem_write(v, lin, &val, size, data_mode(v));
}

static int far_pointer_load(struct engine_vcpu *v, const struct insn *in, int s)
{
	uint64_t lin;
	uint8_t b[10];
	uint64_t off = 0;
	uint16_t sel;
	int r = ea_linear(v, in, in->opsize + 2u, false, &lin);

	if (!r)
		r = gmem_read(v, lin, b, in->opsize + 2u, data_mode(v));
	if (r)
		return r;
	bytes_copy(&off, b, in->opsize);
	bytes_copy(&sel, b + in->opsize, 2);
	r = seg_load(v, s, sel);
	if (r)
		return r;
	gpr_set(v, in->reg.g, in->opsize, false, off);
	mode_update(v);
	return X_NEXT;
}

static int table_load(struct engine_vcpu *v, const struct insn *in, bool gdt)
{
	unsigned int n = in->code == 8 ? 10 : 6;
	uint8_t b[10];
	uint64_t lin, base = 0;
	uint16_t limit;
	int r;

	if (cpl(v))
		return raise_gp(v, 0);
	r = ea_linear(v, in, n, false, &lin);
	if (!r)
		r = gmem_read(v, lin, b, n, data_mode(v));
	if (r)
		return r;
	bytes_copy(&limit, b, 2);
	bytes_copy(&base, b + 2, n - 2);
	if (in->code != 8 && in->opsize == 2)
		base &= 0xffffff;
	if (in->code == 8 && !is_canonical(base))
		return raise_gp(v, 0);
	if (gdt) {
		v->gdt.base = base;
		v->gdt.limit = limit;
	} else {
		v->idt.base = base;
		v->idt.limit = limit;
	}
	return X_NEXT;
}

static int table_store(struct engine_vcpu *v, const struct insn *in, uint64_t base, uint32_t limit)
{
	unsigned int n = in->code == 8 ? 10 : 6;
	uint8_t b[10];
	uint64_t lin;
	int r;

	if ((v->cr4 & CR4_UMIP) && cpl(v))
		return raise_gp(v, 0);
	bytes_copy(b, &limit, 2);
	bytes_copy(b + 2, &base, 8);
	r = ea_linear(v, in, n, true, &lin);
	return r ? r : gmem_write(v, lin, b, n, data_mode(v));
}

/* LLDT and LTR. */
static int system_seg_load(struct engine_vcpu *v, const struct insn *in, bool tr)
{
	uint64_t val, lin;
	uint32_t d[4] = {0};
	struct seg g;
	uint16_t sel;
	int r;

	if (is_real(v) || is_vm86(v))
		return raise_ud(v);
	if (cpl(v))
		return raise_gp(v, 0);
	r = operand_read(v, in, 2, &val);
	if (r)
		return r;
	sel = (uint16_t)val;
	if (!(sel & 0xfffc)) {
		if (tr)
			return raise_gp(v, 0);
		v->seg[S_LDT] = (struct seg){.sel = sel, .attr = SEG_UNUSABLE};
		return X_NEXT;
	}
	if (sel & 4)
		return raise_gp(v, sel & 0xfffcu);
	r = desc_read(v, sel, d, &lin, V_GP);
	if (!r && is_long(v)) {
		if ((sel | 15u) > v->gdt.limit)
			return raise_gp(v, sel & 0xfffcu);
		r = gmem_read(v, lin + 8, d + 2, 8, system_mode(v));
	}
	if (r)
		return r;
	seg_from_desc(&g, sel, d);
	if ((g.attr & SEG_S) || (tr ? (g.attr & 0xf) != 9 && ((g.attr & 0xf) != 1 || is_long(v)) : (g.attr & 0xf) != 2))
		return raise_gp(v, sel & 0xfffcu);
	if (!(g.attr & SEG_P))
		return raise_exc(v, V_NP, true, sel & 0xfffcu);
	if (is_long(v)) {
		g.base |= (uint64_t)d[2] << 32;
		if (!is_canonical(g.base))
			return raise_gp(v, sel & 0xfffcu);
	}
	if (tr) {
		r = desc_accessed(v, lin, d, 0x200); /* busy */
		if (r)
			return r;
		g.attr |= 2;
	}
	v->seg[tr ? S_TR : S_LDT] = g;
	return X_NEXT;
}

/* LAR, LSL, VERR, VERW: look without faulting. */
static int inspect(struct engine_vcpu *v, const struct insn *in)
{
	uint64_t val, lin;
	uint32_t d[2];
	struct seg g;
	bool ok = false;
	unsigned int rpl, dpl, type;
	int r;

	if (is_real(v) || is_vm86(v))
		return raise_ud(v);
	r = operand_read(v, in, 2, &val);
	if (r)
		return r;
	if (val & 0xfffc) {
		struct exc keep = v->exc;

		r = desc_read(v, (uint16_t)val, d, &lin, V_GP);
		if (r && v->exc.vector != V_GP)
			return r;
		v->exc = keep;
		if (!r) {
			seg_from_desc(&g, (uint16_t)val, d);
			rpl = val & 3;
			dpl = SEG_DPL(g.attr);
			type = g.attr & 15;
			ok = (g.attr & 0x1c) == 0x1c || (rpl <= dpl && (unsigned int)cpl(v) <= dpl);
			switch (in->mnem) {
			case ZYDIS_MNEMONIC_VERR:
				ok &= (g.attr & SEG_S) && (g.attr & 0xa) != 8;
				break;
			case ZYDIS_MNEMONIC_VERW:
				ok &= (g.attr & SEG_S) && (g.attr & 0xa) == 2;
				break;
			case ZYDIS_MNEMONIC_LSL:
				if (!(g.attr & SEG_S))
					ok &= type == 2 || type == 9 || type == 11 ||
					      (!is_long(v) && (type == 1 || type == 3));
				break;
			default: /* LAR */
				if (!(g.attr & SEG_S))
					ok &= type == 2 || type == 9 || type == 11 || type == 12 ||
					      (!is_long(v) && (type == 1 || type == 3 || type == 4 || type == 5));
				break;
			}
			if (ok && in->mnem == ZYDIS_MNEMONIC_LAR)
				gpr_set(v, in->reg.g, in->reg.width, false, d[1] & 0x00ffff00u);
			if (ok && in->mnem == ZYDIS_MNEMONIC_LSL)
				gpr_set(v, in->reg.g, in->reg.width, false, g.limit);
		}
	}
	flags_set(v, (flags_get(v) & ~FL_ZF) | (ok ? FL_ZF : 0));
	return X_NEXT;
}

static int sreg_push_pop(struct engine_vcpu *v, const struct insn *in)
{
	static const uint8_t legacy[4] = {S_ES, S_CS, S_SS, S_DS};
	int s = in->map ? (in->opcode & 8 ? S_GS : S_FS) : legacy[in->opcode >> 3 & 3];
	unsigned int size = in->code == 8 ? (in->opsize == 2 ? 2 : 8) : in->opsize;
	uint64_t val;
	int r;

	if (in->mnem == ZYDIS_MNEMONIC_PUSH)
		return push_val(v, v->seg[s].sel, size);
	r = pop_peek(v, &val, size, 0);
	if (!r)
		r = seg_load(v, s, (uint16_t)val);
	if (r)
		return r;
	sp_add(v, size);
	if (s == S_SS)
		v->shadow_new = 2;
	mode_update(v);
	return X_NEXT;
}

int seg_exec(struct engine_vcpu *v, const struct insn *in)
{
	uint64_t val;
	int r;

	switch (in->mnem) {
	case ZYDIS_MNEMONIC_MOV:
		if (in->opcode == 0x8c)
			return operand_write(v, in, 2, v->seg[in->reg_no & 7].sel);
		if (in->reg_no == S_CS || in->reg_no > 5)
			return raise_ud(v);
		r = operand_read(v, in, 2, &val);
		if (!r)
			r = seg_load(v, in->reg_no, (uint16_t)val);
		if (!r) {
			if (in->reg_no == S_SS)
				v->shadow_new = 2;
			mode_update(v);
		}
		return r;
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP:
		return sreg_push_pop(v, in);
	case ZYDIS_MNEMONIC_LDS:
		return far_pointer_load(v, in, S_DS);
	case ZYDIS_MNEMONIC_LES:
		return far_pointer_load(v, in, S_ES);
	case ZYDIS_MNEMONIC_LSS:
		return far_pointer_load(v, in, S_SS);
	case ZYDIS_MNEMONIC_LFS:
		return far_pointer_load(v, in, S_FS);
	case ZYDIS_MNEMONIC_LGS:
		return far_pointer_load(v, in, S_GS);
	case ZYDIS_MNEMONIC_LGDT:
		return table_load(v, in, true);
	case ZYDIS_MNEMONIC_LIDT:
		return table_load(v, in, false);
	case ZYDIS_MNEMONIC_SGDT:
		return table_store(v, in, v->gdt.base, v->gdt.limit);
	case ZYDIS_MNEMONIC_SIDT:
		return table_store(v, in, v->idt.base, v->idt.limit);
	case ZYDIS_MNEMONIC_LLDT:
		return system_seg_load(v, in, false);
	case ZYDIS_MNEMONIC_LTR:
		return system_seg_load(v, in, true);
	case ZYDIS_MNEMONIC_SLDT:
	case ZYDIS_MNEMONIC_STR:
		if (is_real(v) || is_vm86(v))
			return raise_ud(v);
		if ((v->cr4 & CR4_UMIP) && cpl(v))
			return raise_gp(v, 0);
		return operand_write(v, in, 2, v->seg[in->mnem == ZYDIS_MNEMONIC_STR ? S_TR : S_LDT].sel);
	case ZYDIS_MNEMONIC_ARPL:
		if (is_real(v) || is_vm86(v))
			return raise_ud(v);
		r = operand_read(v, in, 2, &val);
		if (r)
			return r;
		if ((val & 3) < (v->gpr[in->reg.g] & 3)) {
			uint64_t nv = (val & 0xfffc) | (v->gpr[in->reg.g] & 3);

			if (in->has_mem)
				r = operand_write(v, in, 2, nv);
			else
				gpr_set(v, in->rm.g, 2, false, nv);
			if (!r)
				flags_set(v, flags_get(v) | FL_ZF);
			return r;
		}
		flags_set(v, flags_get(v) & ~FL_ZF);
		return X_NEXT;
	default:
		return inspect(v, in);
	}
}
