/* SPDX-License-Identifier: MIT
 *
 * engine/legacy: instructions that 64-bit mode no longer has and that the host
 * can therefore not run. SDM vol. 2, "Decimal Arithmetic" and BOUND.
 */
#include "engine/decode.h"

#include <Zydis/Zydis.h>

static uint32_t szp(uint8_t x)
{
	return (x & 0x80 ? FL_SF : 0) | (x ? 0 : FL_ZF) | (__builtin_parity(x) ? 0 : FL_PF);
}

static void result(struct engine_vcpu *v, uint8_t al, bool cf, bool af)
{
	uint32_t f = flags_get(v) & ~FL_ARITH;

	flags_set(v, f | szp(al) | (cf ? FL_CF : 0) | (af ? FL_AF : 0));
}

static void daa_das(struct engine_vcpu *v, bool sub)
{
	uint8_t al = (uint8_t)v->gpr[R_AX], old = al;
	uint32_t f = flags_get(v);
	bool oldcf = f & FL_CF, cf = false, af = false;

	if ((al & 15) > 9 || (f & FL_AF)) {
		unsigned int t = sub ? al - 6u : al + 6u;

		cf = oldcf || (t >> 8 & 1);
		al = (uint8_t)t;
		af = true;
	}
	if (old > 0x99 || oldcf) {
		al = (uint8_t)(sub ? al - 0x60 : al + 0x60);
		cf = true;
	} else if (!sub) {
		cf = false;
	}
	gpr_set(v, R_AX, 1, false, al);
	result(v, al, cf, af);
}

static void aaa_aas(struct engine_vcpu *v, bool sub)
{
	uint16_t ax = (uint16_t)v->gpr[R_AX];
	bool adj = (ax & 15) > 9 || (flags_get(v) & FL_AF);

	if (adj)
		ax = (uint16_t)(sub ? ax - 0x106 : ax + 0x106);
	ax &= 0xff0f;
	gpr_set(v, R_AX, 2, false, ax);
	result(v, (uint8_t)ax, adj, adj);
}

static int bound(struct engine_vcpu *v, const struct insn *in)
{
	unsigned int n = in->opsize;
	uint64_t lin, lo = 0, hi = 0;
	int64_t i, l, h;
	int r = ea_linear(v, in, 2 * n, false, &lin);

	if (!r)
		r = gmem_read(v, lin, &lo, n, data_mode(v));
	if (!r)
		r = gmem_read(v, lin + n, &hi, n, data_mode(v));
	if (r)
		return r;
	i = (int64_t)gpr_get(v, in->reg.g, n, false);
	l = (int64_t)lo;
	h = (int64_t)hi;
	if (n == 2) {
		i = (int16_t)i;
		l = (int16_t)l;
		h = (int16_t)h;
	} else {
		i = (int32_t)i;
		l = (int32_t)l;
		h = (int32_t)h;
	}
	return i < l || i > h ? raise_exc(v, V_BR, false, 0) : X_NEXT;
}

int legacy_exec(struct engine_vcpu *v, const struct insn *in)
{
	uint8_t al = (uint8_t)v->gpr[R_AX], ah = (uint8_t)(v->gpr[R_AX] >> 8), imm = (uint8_t)in->imm;

	switch (in->mnem) {
	case ZYDIS_MNEMONIC_DAA:
		daa_das(v, false);
		return X_NEXT;
	case ZYDIS_MNEMONIC_DAS:
		daa_das(v, true);
		return X_NEXT;
	case ZYDIS_MNEMONIC_AAA:
		aaa_aas(v, false);
		return X_NEXT;
	case ZYDIS_MNEMONIC_AAS:
		aaa_aas(v, true);
		return X_NEXT;
	case ZYDIS_MNEMONIC_AAM:
		if (!imm)
			return raise_exc(v, V_DE, false, 0);
		gpr_set(v, R_AX, 2, false, (uint16_t)(al / imm << 8 | al % imm));
		result(v, al % imm, false, false);
		return X_NEXT;
	case ZYDIS_MNEMONIC_AAD:
		al = (uint8_t)(al + ah * imm);
		gpr_set(v, R_AX, 2, false, al);
		result(v, al, false, false);
		return X_NEXT;
	case ZYDIS_MNEMONIC_SALC:
		gpr_set(v, R_AX, 1, false, flags_get(v) & FL_CF ? 0xff : 0);
		return X_NEXT;
	case ZYDIS_MNEMONIC_BOUND:
		return bound(v, in);
	default:
		return raise_ud(v);
	}
}
