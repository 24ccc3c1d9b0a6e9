/* SPDX-License-Identifier: MIT
 *
 * engine/simd: vector accesses of which each element may be left out (masked
 * moves, gathers). They work on the XSAVE image, element by element, so that a
 * masked element never faults. SDM vol. 2, VMASKMOV, VPGATHER, MASKMOVDQU.
 */
#include "engine/decode.h"

#include <Zydis/Zydis.h>

struct vec {
	uint8_t b[64] __attribute__((aligned(16)));
};

static bool wide(const struct engine_vcpu *v)
{
	return v->live_xmask & XCR0_AVX512;
}

/* The parts of register n: the image has a place for each that grew on top of the one before. */
static void vec_get(const struct engine_vcpu *v, unsigned int n, struct vec *x)
{
	const uint8_t *p = v->xsave;

	bytes_zero(x->b, sizeof(x->b));
	if (n >= 16) {
		bytes_copy(x->b, p + v->xcomp[7].off + 64 * (n - 16), 64);
		return;
	}
	bytes_copy(x->b, p + 160 + 16 * n, 16);
	bytes_copy(x->b + 16, p + v->xcomp[2].off + 16 * n, 16);
	if (wide(v))
		bytes_copy(x->b + 32, p + v->xcomp[6].off + 32 * n, 32);
}

static void in_use(struct engine_vcpu *v, uint64_t comps)
{
	*(uint64_t *)(v->xsave + 512) |= comps;
}

/* Write a register whole: a VEX or EVEX instruction makes zero what is above its vector length. */
static void vec_set(struct engine_vcpu *v, unsigned int n, const struct vec *x)
{
	uint8_t *p = v->xsave;

	if (n >= 16) {
		bytes_copy(p + v->xcomp[7].off + 64 * (n - 16), x->b, 64);
		in_use(v, 1u << 7);
		return;
	}
	bytes_copy(p + 160 + 16 * n, x->b, 16);
	bytes_copy(p + v->xcomp[2].off + 16 * n, x->b + 16, 16);
	in_use(v, 6);
	if (wide(v)) {
		bytes_copy(p + v->xcomp[6].off + 32 * n, x->b + 32, 32);
		in_use(v, 1u << 6);
	}
}

uint64_t opmask_get(const struct engine_vcpu *v, unsigned int n)
{
	uint64_t k = 0;

	if (*(const uint64_t *)(v->xsave + 512) >> 5 & 1)
		bytes_copy(&k, v->xsave + v->xcomp[5].off + 8 * n, 8);
	return k;
}

static void opmask_set(struct engine_vcpu *v, unsigned int n, uint64_t k)
{
	bytes_copy(v->xsave + v->xcomp[5].off + 8 * n, &k, 8);
	in_use(v, 1u << 5);
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

/* Where element i of a gather or scatter is; is: bytes of an index. */
static uint64_t vsib_offset(const struct engine_vcpu *v, const struct insn *in, const struct vec *idx,
			    unsigned int i, unsigned int is)
{
	uint64_t off = (uint64_t)in->disp;
	int64_t k = 0;

	if (is == 8)
		bytes_copy(&k, idx->b + 8 * i, 8);
	else
		k = *(const int32_t *)(idx->b + 4 * i);
	off += (uint64_t)k << in->scale;
	if (in->base >= 0)
		off += v->gpr[in->base];
	return in->addrsize == 4 ? (uint32_t)off : off;
}

/*
 * Opcodes 90, 92 (scatter: A0, A2): doubleword index; 91, 93 (A1, A3): quadword; W: element size.
 * Elements that are done stay done if a later one faults. AVX2 has its mask in a vector, AVX-512
 * in an opmask.
 */
static int gather(struct engine_vcpu *v, const struct insn *in)
{
	unsigned int is = in->opcode & 1 ? 8 : 4, es = in->w ? 8 : 4, len = 16u << in->vex_l;
	unsigned int n = len / (is > es ? is : es), mask_no = in->evex ? in->mask_no : in->vvvv_no;
	bool scatter = in->opcode >= 0xa0;
	struct vec idx, mask, dst;
	uint64_t k = 0, lin;
	bool some = false;
	int r = 0;

	if (!in->evex && (in->reg_no == mask_no || mask_no == (uint8_t)in->index))
		return raise_ud(v);
	if ((in->evex && !mask_no) || (!scatter && in->reg_no == (uint8_t)in->index))
		return raise_ud(v);
	vec_get(v, (unsigned int)in->index, &idx);
	vec_get(v, in->reg_no, &dst);
	if (in->evex) {
		k = opmask_get(v, mask_no);
	} else {
		vec_get(v, mask_no, &mask);
		for (unsigned int i = 0; i < n; i++)
			k |= (uint64_t)(mask.b[(i + 1) * es - 1] >> 7) << i;
	}
	for (unsigned int i = 0; i < n && !r; i++) {
		if (k >> i & 1) {
			r = seg_linear(v, in->seg, vsib_offset(v, in, &idx, i, is), es, scatter, &lin);
			if (!r)
				r = scatter ? gmem_write(v, lin, dst.b + i * es, es, data_mode(v))
					    : gmem_read(v, lin, dst.b + i * es, es, data_mode(v));
			some |= !r;
		}
		if (!r) {
			k &= ~(1ull << i);
			if (!in->evex)
				bytes_zero(mask.b + i * es, es);
		}
	}
	if (r == X_EXIT)
		return r; /* a device: all of it again, with what has been read */
	if (!r) {
		k = 0;
		bytes_zero(mask.b, sizeof(mask.b));
	}
	/* above the vector length: also when only some were gathered */
	if (!r || (in->evex && some))
		bytes_zero(dst.b + n * es, sizeof(dst.b) - n * es);
	if (!scatter)
		vec_set(v, in->reg_no, &dst);
	if (in->evex)
		opmask_set(v, mask_no, k);
	else
		vec_set(v, mask_no, &mask);
	return r;
}

int simd_exec(struct engine_vcpu *v, const struct insn *in)
{
	fpu_put(v);
	image_expand(v);
	if (in->mnem == ZYDIS_MNEMONIC_VZEROALL || in->mnem == ZYDIS_MNEMONIC_VZEROUPPER) {
		/* outside of 64-bit mode: registers 0 to 7 */
		if (in->mnem == ZYDIS_MNEMONIC_VZEROALL)
			bytes_zero(v->xsave + 160, 128);
		bytes_zero(v->xsave + v->xcomp[2].off, 128);
		if (wide(v))
			bytes_zero(v->xsave + v->xcomp[6].off, 256);
		in_use(v, wide(v) ? 1u << 6 | 6 : 6);
		return X_NEXT;
	}
	if (in->kind == K_GATHER)
		return gather(v, in);
	if (in->mnem == ZYDIS_MNEMONIC_MASKMOVDQU || in->mnem == ZYDIS_MNEMONIC_VMASKMOVDQU ||
	    in->mnem == ZYDIS_MNEMONIC_MASKMOVQ)
		return maskmov_bytes(v, in);
	return vmaskmov(v, in);
}
