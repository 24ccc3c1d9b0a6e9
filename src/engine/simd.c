/* SPDX-License-Identifier: MIT
 *
 * engine/simd: vector accesses of which each element may be left out (masked
 * moves, gathers). They work on the XSAVE image, element by element, so that a
 * masked element never faults. SDM vol. 2, VMASKMOV, VPGATHER, MASKMOVDQU.
 */
#include "engine/decode.h"

#include <Zydis/Zydis.h>

struct vec {
	uint8_t b[32] __attribute__((aligned(16)));
};

static void vec_get(struct engine_vcpu *v, unsigned int n, struct vec *x)
{
	bytes_copy(x->b, v->xsave + 160 + 16 * n, 16);
	bytes_copy(x->b + 16, v->xsave + 576 + 16 * n, 16);
}

/* Write a register of a VEX instruction: what is above the vector length becomes zero. */
static void vec_set(struct engine_vcpu *v, unsigned int n, const struct vec *x)
{
	bytes_copy(v->xsave + 160 + 16 * n, x->b, 16);
	bytes_copy(v->xsave + 576 + 16 * n, x->b + 16, 16);
	*(uint64_t *)(v->xsave + 512) |= 6;
}

/* The image with every component expanded. */
static void image_get(struct engine_vcpu *v)
{
	uint8_t tmp[ENGINE_XSAVE_SIZE];

	engine_get_xsave(v, tmp);
}

/* Every MMX instruction makes TOP 0 and all registers valid; the registers stay where they are. */
static void mmx_touch(struct engine_vcpu *v)
{
	uint16_t *fsw = (uint16_t *)(v->xsave + 2);
	unsigned int top = *fsw >> 11 & 7;
	uint8_t st[128];

	bytes_copy(st, v->xsave + 32, 128);
	for (unsigned int p = 0; p < 8; p++)
		bytes_copy(v->xsave + 32 + 16 * p, st + 16 * ((p - top) & 7), 16);
	*fsw &= ~(7u << 11);
	v->xsave[4] = 0xff;
	*(uint64_t *)(v->xsave + 512) |= 1;
}

static int maskmov_bytes(struct engine_vcpu *v, const struct insn *in)
{
	bool mmx = in->mnem == ZYDIS_MNEMONIC_MASKMOVQ;
	unsigned int n = mmx ? 8 : 16;
	uint64_t off = v->gpr[R_DI] & (in->addrsize == 2 ? 0xffff : in->addrsize == 4 ? 0xffffffffu : ~0ull);
	struct vec data, mask;
	uint64_t lin;
	int r;

	if (mmx) {
		/* MMn is the low half of the physical x87 register: ST(n - TOP) in the image */
		unsigned int top = *(uint16_t *)(v->xsave + 2) >> 11 & 7;

		bytes_copy(data.b, v->xsave + 32 + 16 * ((in->reg_no - top) & 7), 8);
		bytes_copy(mask.b, v->xsave + 32 + 16 * ((in->rm_no - top) & 7), 8);
		mmx_touch(v); /* also if it faults (AMD) */
	} else {
		vec_get(v, in->reg_no, &data);
		vec_get(v, in->rm_no, &mask);
	}
	r = seg_linear(v, in->seg, off, n, true, &lin);
	/* the whole operand must be writable, masked or not (AMD; Intel allows both) */
	if (!r)
		r = gmem_check(v, lin, n, true, data_mode(v));
	for (unsigned int i = 0; !r && i < n; i++)
		if (mask.b[i] & 0x80)
			r = gmem_write(v, lin + i, &data.b[i], 1, data_mode(v));
	return r;
}

static int vmaskmov(struct engine_vcpu *v, const struct insn *in)
{
	bool store = in->mem_acc & ACC_W;
	unsigned int es = in->mnem == ZYDIS_MNEMONIC_VMASKMOVPD || in->mnem == ZYDIS_MNEMONIC_VPMASKMOVQ ? 8 : 4;
	unsigned int n = in->vex_l ? 32 : 16;
	struct vec mask, data = {{0}}, out = {{0}};
	uint64_t lin;
	int r;

	vec_get(v, in->vvvv_no, &mask);
	if (store)
		vec_get(v, in->reg_no, &data);
	for (unsigned int pass = 0; pass < (store ? 2u : 1u); pass++)
		for (unsigned int i = 0; i < n; i += es) {
			if (!(mask.b[i + es - 1] & 0x80))
				continue;
			r = seg_linear(v, in->seg, ea_offset(v, in) + i, es, store, &lin);
			if (!r && store)
				r = pass ? gmem_write(v, lin, data.b + i, es, data_mode(v))
					 : gmem_check(v, lin, es, true, data_mode(v));
			else if (!r)
				r = gmem_read(v, lin, out.b + i, es, data_mode(v));
			if (r)
				return r;
		}
	if (!store)
		vec_set(v, in->reg_no, &out);
	return X_NEXT;
}

static int gather(struct engine_vcpu *v, const struct insn *in)
{
	/* 90, 92: doubleword index; 91, 93: quadword; W: element size */
	unsigned int is = in->opcode & 1 ? 8 : 4, es = in->w ? 8 : 4, len = in->vex_l ? 32 : 16;
	unsigned int n = len / (is > es ? is : es);
	struct vec idx, mask, dst;
	int r = 0;

	if (in->reg_no == in->vvvv_no || in->reg_no == (uint8_t)in->index || in->vvvv_no == (uint8_t)in->index)
		return raise_ud(v);
	vec_get(v, (unsigned int)in->index, &idx);
	vec_get(v, in->vvvv_no, &mask);
	vec_get(v, in->reg_no, &dst);
	for (unsigned int i = 0; i < n; i++) {
		int64_t k = 0;
		uint64_t lin;

		if (!(mask.b[(i + 1) * es - 1] & 0x80)) {
			bytes_zero(mask.b + i * es, es);
			continue;
		}
		if (is == 8)
			bytes_copy(&k, idx.b + 8 * i, 8);
		else
			k = *(int32_t *)(idx.b + 4 * i);
		uint64_t off = (uint64_t)in->disp + (uint64_t)(k << in->scale);

		if (in->base >= 0)
			off += v->gpr[in->base];
		if (in->addrsize == 4)
			off &= 0xffffffffu;
		r = seg_linear(v, in->seg, off, es, false, &lin);
		if (!r)
			r = gmem_read(v, lin, dst.b + i * es, es, data_mode(v));
		if (r)
			break;
		/* done elements stay done if a later one faults */
		bytes_zero(mask.b + i * es, es);
	}
	unsigned int used = n * es;

	if (!r)
		bytes_zero(mask.b, sizeof(mask.b));
	if (!r) {
		bytes_zero(dst.b + used, 32 - used);
	}
	vec_set(v, in->reg_no, &dst);
	vec_set(v, in->vvvv_no, &mask);
	return r;
}

int simd_exec(struct engine_vcpu *v, const struct insn *in)
{
	image_get(v);
	if (in->mnem == ZYDIS_MNEMONIC_VZEROALL || in->mnem == ZYDIS_MNEMONIC_VZEROUPPER) {
		/* outside of 64-bit mode: registers 0 to 7 */
		if (in->mnem == ZYDIS_MNEMONIC_VZEROALL)
			bytes_zero(v->xsave + 160, 128);
		bytes_zero(v->xsave + 576, 128);
		*(uint64_t *)(v->xsave + 512) |= 6;
		return X_NEXT;
	}
	if (in->kind == K_GATHER)
		return gather(v, in);
	if (in->mnem == ZYDIS_MNEMONIC_MASKMOVDQU || in->mnem == ZYDIS_MNEMONIC_VMASKMOVDQU ||
	    in->mnem == ZYDIS_MNEMONIC_MASKMOVQ)
		return maskmov_bytes(v, in);
	return vmaskmov(v, in);
}
