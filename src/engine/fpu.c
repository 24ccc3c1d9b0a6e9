/* SPDX-License-Identifier: MIT
 *
 * engine/fpu: the guest's x87, SSE and AVX state. It stays in the processor
 * from block to block; fpu_put() and fpu_get() move it to and from an XSAVE
 * image (standard format) in the vCPU. Guest instructions that save and restore
 * state work on that image. SDM vol. 1, "Managing State Using the XSAVE Feature Set".
 */
#include "engine/decode.h"

#include <Zydis/Zydis.h>

#define XF_ALL 7ull
#define OFF_BV 512
#define OFF_XCOMP 520
#define OFF_YMM 576

NO_TSAN void fpu_get(struct engine_vcpu *v)
{
	if (v->fpu_loaded)
		return;
	__asm__ volatile("xrstor64 %0" : : "m"(v->xsave), "a"((uint32_t)v->host_xmask), "d"(0) : "memory");
	v->fpu_loaded = 1;
}

NO_TSAN void fpu_put(struct engine_vcpu *v)
{
	static const uint32_t mxcsr = 0x1f80;

	if (!v->fpu_loaded)
		return;
	__asm__ volatile("xsave64 %0" : "=m"(v->xsave) : "a"((uint32_t)v->host_xmask), "d"(0) : "memory");
	/* what C expects: empty x87 stack, all exceptions masked, clean upper halves */
	__asm__ volatile("fninit\n\tldmxcsr %0" : : "m"(mxcsr));
	if (v->host_xmask & 4)
		__asm__ volatile("vzeroupper");
	v->fpu_loaded = 0;
	/* the instruction and data pointers are those of translated code: not the guest's business */
	*(uint64_t *)(v->xsave + 8) = 0;
	*(uint64_t *)(v->xsave + 16) = 0;
}

NO_TSAN void code_enter(struct engine_vcpu *v, void *code, bool fpu)
{
	if (fpu)
		fpu_get(v);
	((enter_fn *)v->enter_stub)(v, code);
	if (ENGINE_EAGER_FPU)
		fpu_put(v);
}

NO_TSAN void *tlb_miss_eager(struct engine_vcpu *v, uint64_t lin, uint32_t site)
{
	bool loaded = v->fpu_loaded;
	void *r;

	fpu_put(v);
	r = tlb_miss(v, lin, site);
	if (loaded)
		fpu_get(v);
	return r;
}

NO_TSAN bool step_called_eager(struct engine_vcpu *v, const struct insn *in)
{
	bool on;

	fpu_put(v);
	on = step_called(v, in);
	fpu_put(v);
	return on;
}

static uint64_t *image_bv(struct engine_vcpu *v)
{
	return (uint64_t *)(v->xsave + OFF_BV);
}

/* Bring a component that is in its initial state into the image's bytes. */
static void image_expand(struct engine_vcpu *v)
{
	uint64_t bv = *image_bv(v);

	if (!(bv & 1)) {
		bytes_zero(v->xsave, 24);
		*(uint16_t *)v->xsave = 0x37f;
		bytes_zero(v->xsave + 32, 128);
	}
	if (!(bv & 2))
		bytes_zero(v->xsave + 160, 256);
	/* MXCSR is saved and restored whatever the header says */
	if (!(bv & 4))
		bytes_zero(v->xsave + OFF_YMM, 256);
}

void engine_get_xsave(struct engine_vcpu *v, void *image)
{
	fpu_put(v);
	image_expand(v);
	bytes_copy(image, v->xsave, ENGINE_XSAVE_SIZE);
}

static uint32_t mxcsr_mask(void)
{
	return 0xffffu;
}

int engine_set_xsave(struct engine_vcpu *v, const void *image)
{
	const uint8_t *p = image;
	uint64_t hdr[2];
	uint32_t mxcsr;

	bytes_copy(hdr, p + OFF_BV, 16);
	bytes_copy(&mxcsr, p + 24, 4);
	if (hdr[0] & ~XF_ALL || hdr[1] || (mxcsr & ~mxcsr_mask()))
		return -EINVAL;
	fpu_put(v);
	bytes_copy(v->xsave, p, ENGINE_XSAVE_SIZE);
	bytes_zero(v->xsave + OFF_XCOMP, 56);
	return 0;
}

uint64_t engine_get_xcr0(const struct engine_vcpu *v)
{
	return v->xcr0;
}

int engine_set_xcr0(struct engine_vcpu *v, uint64_t x)
{
	if (!(x & 1) || (x & ~v->host_xmask) || ((x & 4) && !(x & 2)))
		return -EINVAL;
	v->xcr0 = x;
	mode_update(v);
	return 0;
}

/* Copy between the image and a guest buffer opened by gmem_open in pieces. */
static int area_write(struct engine_vcpu *v, uint64_t lin, const void *p, unsigned int n)
{
	return gmem_write(v, lin, p, n, data_mode(v));
}

static int save_area(struct engine_vcpu *v, const struct insn *in, uint64_t lin, bool fx)
{
	uint8_t buf[32] __attribute__((aligned(8)));
	int r;

	/* FCW..MXCSR_MASK; pointers are kept zero, so both formats agree */
	bytes_copy(buf, v->xsave, 24);
	*(uint32_t *)(buf + 24) = *(uint32_t *)(v->xsave + 24);
	*(uint32_t *)(buf + 28) = mxcsr_mask();
	if (fx) {
		r = area_write(v, lin, buf, 32);
		if (!r)
			r = area_write(v, lin + 32, v->xsave + 32, 128);
		if (!r)
			r = area_write(v, lin + 160, v->xsave + 160, in->code == 8 ? 256 : 128);
		return r;
	}
	return 0;
}

static int fxsave(struct engine_vcpu *v, const struct insn *in, uint64_t lin)
{
	int r;

	if (lin & 15)
		return raise_gp(v, 0);
	r = gmem_check(v, lin, 512, true, data_mode(v));
	if (r)
		return r;
	image_expand(v);
	return save_area(v, in, lin, true);
}

static int fxrstor(struct engine_vcpu *v, const struct insn *in, uint64_t lin)
{
	uint8_t buf[416] __attribute__((aligned(8)));
	int r;

	if (lin & 15)
		return raise_gp(v, 0);
	r = gmem_read(v, lin, buf, sizeof(buf), data_mode(v));
	if (r)
		return r;
	if (*(uint32_t *)(buf + 24) & ~mxcsr_mask())
		return raise_gp(v, 0);
	image_expand(v);
	bytes_copy(v->xsave, buf, 8);
	*(uint32_t *)(v->xsave + 24) = *(uint32_t *)(buf + 24);
	bytes_copy(v->xsave + 32, buf + 32, 128);
	bytes_copy(v->xsave + 160, buf + 160, in->code == 8 ? 256 : 128);
	*image_bv(v) |= 3;
	return X_NEXT;
}

/* XSAVE, XSAVEOPT, XSAVEC, XSAVES: one shape, three differences. */
static int xsave(struct engine_vcpu *v, const struct insn *in, uint64_t lin, bool opt, bool compact)
{
	enum tlb_mode m = data_mode(v);
	uint64_t rfbm = ((v->gpr[R_DX] & 0xffffffffu) << 32 | (v->gpr[R_AX] & 0xffffffffu)) & v->xcr0;
	uint64_t inuse, bv = 0, old = 0;
	unsigned int size = 576 + (rfbm & 4 ? 256 : 0);
	int r;

	if (lin & 63)
		return raise_gp(v, 0);
	r = gmem_check(v, lin, size, true, m);
	if (r)
		return r;
	inuse = *image_bv(v);
	image_expand(v);
	if (!compact) {
		r = gmem_read(v, lin + OFF_BV, &old, 8, m);
		if (r)
			return r;
	}
	bv = (old & ~rfbm) | (inuse & rfbm);
	if ((rfbm & 1) && !((opt || compact) && !(inuse & 1))) {
		r = area_write(v, lin, v->xsave, 24);
		if (!r)
			r = area_write(v, lin + 32, v->xsave + 32, 128);
		if (r)
			return r;
	}
	if ((rfbm & 6) && !(compact && !(rfbm & 2))) {
		uint32_t csr[2] = {*(uint32_t *)(v->xsave + 24), mxcsr_mask()};

		/* MXCSR not at its initial value makes SSE count as in use */
		if (compact && (rfbm & 2) && csr[0] != 0x1f80)
			bv |= 2;
		r = area_write(v, lin + 24, csr, 8);
		if (r)
			return r;
	}
	if ((rfbm & 2) && !((opt || compact) && !(bv & 2))) {
		r = area_write(v, lin + 160, v->xsave + 160, in->code == 8 ? 256 : 128);
		if (r)
			return r;
	}
	if ((rfbm & 4) && !((opt || compact) && !(inuse & 4))) {
		r = area_write(v, lin + OFF_YMM, v->xsave + OFF_YMM, in->code == 8 ? 256 : 128);
		if (r)
			return r;
	}
	if (compact) {
		uint64_t hdr[8] = {bv, 1ull << 63 | rfbm};

		return area_write(v, lin + OFF_BV, hdr, 16);
	}
	return area_write(v, lin + OFF_BV, &bv, 8);
}

static int xrstor(struct engine_vcpu *v, const struct insn *in, uint64_t lin, bool super)
{
	enum tlb_mode m = data_mode(v);
	uint64_t rfbm = ((v->gpr[R_DX] & 0xffffffffu) << 32 | (v->gpr[R_AX] & 0xffffffffu)) & v->xcr0;
	uint64_t hdr[8];
	uint8_t buf[832] __attribute__((aligned(8)));
	bool compact;
	unsigned int size;
	int r;

	if (lin & 63)
		return raise_gp(v, 0);
	r = gmem_read(v, lin, buf, 576, m);
	if (r)
		return r;
	bytes_copy(hdr, buf + OFF_BV, 64);
	compact = hdr[1] >> 63;
	if (super && !compact)
		return raise_gp(v, 0);
	if (compact) {
		if ((hdr[1] & ~(1ull << 63) & ~v->xcr0) || (hdr[0] & ~hdr[1]))
			return raise_gp(v, 0);
	} else if ((hdr[0] & ~v->xcr0) || hdr[1] || hdr[2]) {
		return raise_gp(v, 0);
	}
	for (int i = compact ? 2 : 3; i < 8; i++)
		if (hdr[i])
			return raise_gp(v, 0);
	size = (rfbm & hdr[0] & 4) ? 832 : 576;
	if (size == 832) {
		r = gmem_read(v, lin + OFF_YMM, buf + OFF_YMM, 256, m);
		if (r)
			return r;
	}
	if ((compact ? rfbm & hdr[0] & 2 : rfbm & 6) && (*(uint32_t *)(buf + 24) & ~mxcsr_mask()))
		return raise_gp(v, 0);
	image_expand(v);
	uint64_t bv = *image_bv(v);

	if (rfbm & 1) {
		if (hdr[0] & 1) {
			bytes_copy(v->xsave, buf, 8);
			bytes_copy(v->xsave + 32, buf + 32, 128);
			bv |= 1;
		} else {
			bv &= ~1ull;
		}
	}
	if (!compact && (rfbm & 6)) {
		*(uint32_t *)(v->xsave + 24) = *(uint32_t *)(buf + 24);
	} else if (compact && (rfbm & 2)) {
		*(uint32_t *)(v->xsave + 24) = hdr[0] & 2 ? *(uint32_t *)(buf + 24) : 0x1f80;
	}
	if (rfbm & 2) {
		if (hdr[0] & 2)
			bytes_copy(v->xsave + 160, buf + 160, in->code == 8 ? 256 : 128);
		else
			bytes_zero(v->xsave + 160, in->code == 8 ? 256 : 128);
		bv |= 2;
	}
	if (rfbm & 4) {
		if (hdr[0] & 4) {
			bytes_copy(v->xsave + OFF_YMM, buf + OFF_YMM, in->code == 8 ? 256 : 128);
			bv |= 4;
		} else if (in->code == 8) {
			bv &= ~4ull;
		} else {
			bytes_zero(v->xsave + OFF_YMM, 128);
		}
	}
	*image_bv(v) = bv | ((rfbm & 6) ? 2 : 0);
	return X_NEXT;
}

int fpu_exec(struct engine_vcpu *v, const struct insn *in)
{
	bool fx = in->mnem == ZYDIS_MNEMONIC_FXSAVE || in->mnem == ZYDIS_MNEMONIC_FXSAVE64 ||
		  in->mnem == ZYDIS_MNEMONIC_FXRSTOR || in->mnem == ZYDIS_MNEMONIC_FXRSTOR64;
	uint64_t lin;
	int r;

	if (fx ? v->cr0 & (CR0_EM | CR0_TS) : v->cr0 & CR0_TS)
		if (fx || (v->cr4 & CR4_OSXSAVE))
			return raise_exc(v, V_NM, false, 0);
	if (!fx && !(v->cr4 & CR4_OSXSAVE))
		return raise_ud(v);
	r = ea_linear(v, in, fx ? 512 : 576, false, &lin);
	if (r)
		return r;
	fpu_put(v);
	switch (in->mnem) {
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
		return fxsave(v, in, lin);
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
		return fxrstor(v, in, lin);
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
		return xsave(v, in, lin, false, false);
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
		return xsave(v, in, lin, true, false);
	case ZYDIS_MNEMONIC_XSAVES:
	case ZYDIS_MNEMONIC_XSAVES64:
		if (cpl(v))
			return raise_gp(v, 0);
		return xsave(v, in, lin, true, true);
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
		return xsave(v, in, lin, true, true);
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:
		return xrstor(v, in, lin, false);
	case ZYDIS_MNEMONIC_XRSTORS:
	case ZYDIS_MNEMONIC_XRSTORS64:
		if (cpl(v))
			return raise_gp(v, 0);
		return xrstor(v, in, lin, true);
	default:
		return raise_ud(v);
	}
}
