/* SPDX-License-Identifier: MIT
 *
 * engine/fpu: the guest's x87, SSE, AVX and AVX-512 state. It stays in the processor
 * from block to block; fpu_put() and fpu_get() move it to and from an XSAVE
 * image (standard format) in the vCPU. Guest instructions that save and restore
 * state work on that image. SDM vol. 1, "Managing State Using the XSAVE Feature Set".
 */
#include "engine/decode.h"

#include <Zydis/Zydis.h>

#define OFF_BV 512
#define OFF_XCOMP 520
#define FIRST_COMP 2 /* those below are in the legacy area */

static void host_cpuid(uint32_t leaf, uint32_t sub, uint32_t r[4])
{
	__asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}

uint64_t engine_xcr0_max(void)
{
	uint32_t r[4], a, d;
	uint64_t x;

	host_cpuid(1, 0, r);
	if (!(r[2] >> 27 & 1))
		return 0;
	__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	x = a & 7;
	if ((a & (XCR0_AVX512 | 6)) != (XCR0_AVX512 | 6))
		return x;
	for (unsigned int i = 5; i < 8; i++) {
		host_cpuid(0xd, i, r);
		if (r[0] + r[1] > ENGINE_XSAVE_SIZE)
			return x;
	}
	return x | XCR0_AVX512;
}

/*
 * The layout of the image is the host's (CPUID 0Dh): the guest is told the same. Components that
 * the guest's XCR0 never had are not moved: what AVX-512 costs is paid by who uses it.
 */
void fpu_layout(struct xcomp c[8], uint64_t xcr0)
{
	uint32_t r[4];

	for (unsigned int i = FIRST_COMP; i < 8; i++) {
		if (!(xcr0 >> i & 1))
			continue;
		host_cpuid(0xd, i, r);
		c[i] = (struct xcomp){.size = (uint16_t)r[0], .off = (uint16_t)r[1], .align = r[2] & 2};
	}
}

/* Where component i is in an area of this XCOMP_BV (0: standard format); the last one's end is the area's. */
static unsigned int comp_at(const struct xcomp *c, uint64_t xcomp, unsigned int i)
{
	unsigned int off = 576;

	if (!xcomp)
		return c[i].off;
	for (unsigned int k = FIRST_COMP;; k++) {
		if (!(xcomp >> k & 1))
			continue;
		if (c[k].align)
			off = (off + 63) & ~63u;
		if (k == i)
			return off;
		off += c[k].size;
	}
}

static unsigned int area_size(const struct xcomp *c, uint64_t comps, bool compact)
{
	unsigned int end = 576;

	for (unsigned int i = FIRST_COMP; i < 8; i++)
		if (comps >> i & 1)
			end = MAX(end, comp_at(c, compact ? comps : 0, i) + c[i].size);
	return end;
}

unsigned int engine_xsave_size(const struct engine_vcpu *v, uint64_t xcr0, bool compact)
{
	struct xcomp own[8] = {0};

	if (v)
		return area_size(v->xcomp, xcr0, compact);
	fpu_layout(own, xcr0);
	return area_size(own, xcr0, compact);
}

void xcr0_put(struct engine_vcpu *v, uint64_t x)
{
	fpu_put(v);
	v->xcr0 = x;
	v->live_xmask = (uint32_t)(v->host_xmask & (7 | x));
	mode_update(v);
}

static uint64_t *image_bv(struct engine_vcpu *v)
{
	return (uint64_t *)(v->xsave + OFF_BV);
}

NO_TSAN void fpu_get(struct engine_vcpu *v)
{
	if (v->fpu_loaded)
		return;
	__asm__ volatile("xrstor64 %0" : : "m"(v->xsave), "a"(v->live_xmask), "d"(0) : "memory");
	v->fpu_loaded = 1;
}

NO_TSAN void fpu_put(struct engine_vcpu *v)
{
	static const uint32_t mxcsr = 0x1f80;
	uint32_t mask = v->live_xmask;

	if (!v->fpu_loaded)
		return;
	/*
	 * AVX-512's components are large, and hardly ever all in use: those that are not are left out. (Not
	 * by XSAVEOPT, which may take for unmodified what was initial when it was loaded and is not now.)
	 */
	if (mask & XCR0_AVX512) {
		uint32_t in_use, high;

		__asm__ volatile("xgetbv" : "=a"(in_use), "=d"(high) : "c"(1));
		in_use |= ~(uint32_t)XCR0_AVX512;
		mask &= in_use;
		*image_bv(v) &= in_use;
	}
	__asm__ volatile("xsave64 %0" : "+m"(v->xsave) : "a"(mask), "d"(0) : "memory");
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

/* Bring a component that is in its initial state into the image's bytes. */
void image_expand(struct engine_vcpu *v)
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
	for (unsigned int i = FIRST_COMP; i < 8; i++)
		if (!(bv >> i & 1))
			bytes_zero(v->xsave + v->xcomp[i].off, v->xcomp[i].size);
}

void engine_get_xsave(struct engine_vcpu *v, void *image)
{
	unsigned int size = area_size(v->xcomp, v->host_xmask, false);

	fpu_put(v);
	image_expand(v);
	bytes_copy(image, v->xsave, size);
	bytes_zero((uint8_t *)image + size, ENGINE_XSAVE_SIZE - size);
}

/* SDM vol. 1, "Guidelines for Writing to the MXCSR Register"; LDMXCSR, which is the host's, goes by it. */
uint32_t fpu_mxcsr_mask(void)
{
	uint8_t area[512] __attribute__((aligned(16)));
	uint32_t mask;

	__asm__ volatile("fxsave64 %0" : "=m"(area));
	bytes_copy(&mask, area + 28, 4);
	return mask ? mask : 0xffbfu;
}

int engine_set_xsave(struct engine_vcpu *v, const void *image)
{
	const uint8_t *p = image;
	uint64_t hdr[2];
	uint32_t mxcsr;

	bytes_copy(hdr, p + OFF_BV, 16);
	bytes_copy(&mxcsr, p + 24, 4);
	if (hdr[0] & ~v->host_xmask || hdr[1] || (mxcsr & ~v->mxcsr_mask))
		return -EINVAL;
	fpu_put(v);
	bytes_copy(v->xsave, p, area_size(v->xcomp, v->host_xmask, false));
	bytes_zero(v->xsave + OFF_XCOMP, 56);
	return 0;
}

uint64_t engine_get_xcr0(const struct engine_vcpu *v)
{
	return v->xcr0;
}

/* SDM vol. 1, "Enabling the XSAVE Feature Set": AVX needs SSE; AVX-512 is all or nothing, and needs AVX. */
bool xcr0_valid(const struct engine_vcpu *v, uint64_t x)
{
	return (x & 1) && !(x & ~v->guest_xmask) && (!(x & XCR0_AVX) || (x & 2)) &&
	       (!(x & XCR0_AVX512) || (x & (XCR0_AVX512 | XCR0_AVX)) == (XCR0_AVX512 | XCR0_AVX));
}

int engine_set_xcr0(struct engine_vcpu *v, uint64_t x)
{
	if (!xcr0_valid(v, x))
		return -EINVAL;
	xcr0_put(v, x);
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
	*(uint32_t *)(buf + 28) = v->mxcsr_mask;
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
	if (*(uint32_t *)(buf + 24) & ~v->mxcsr_mask)
		return raise_gp(v, 0);
	image_expand(v);
	bytes_copy(v->xsave, buf, 8);
	*(uint32_t *)(v->xsave + 24) = *(uint32_t *)(buf + 24);
	bytes_copy(v->xsave + 32, buf + 32, 128);
	bytes_copy(v->xsave + 160, buf + 160, in->code == 8 ? 256 : 128);
	*image_bv(v) |= 3;
	return X_NEXT;
}

/* Outside of 64-bit mode only the first eight registers are seen. */
static unsigned int comp_size(const struct engine_vcpu *v, const struct insn *in, unsigned int i)
{
	unsigned int n = v->xcomp[i].size;

	if (in->code == 8 || i == 5)
		return n;
	return i == 7 ? 0 : n / 2;
}

static uint64_t requested(const struct engine_vcpu *v)
{
	return ((v->gpr[R_DX] & 0xffffffffu) << 32 | (v->gpr[R_AX] & 0xffffffffu)) & v->xcr0;
}

/* XSAVE, XSAVEOPT, XSAVEC, XSAVES: one shape, three differences. */
static int xsave(struct engine_vcpu *v, const struct insn *in, uint64_t lin, bool opt, bool compact)
{
	enum tlb_mode m = data_mode(v);
	uint64_t rfbm = requested(v), xcomp = compact ? 1ull << 63 | rfbm : 0;
	uint64_t inuse = *image_bv(v), bv = 0, old = 0, put;
	unsigned int size = 576;
	int r;

	if (lin & 63)
		return raise_gp(v, 0);
	/* MXCSR not at its initial value makes SSE count as in use */
	if (compact && *(uint32_t *)(v->xsave + 24) != 0x1f80)
		inuse |= 2;
	put = opt || compact ? rfbm & inuse : rfbm;
	for (unsigned int i = FIRST_COMP; i < 8; i++)
		if (put >> i & 1)
			size = MAX(size, comp_at(v->xcomp, xcomp, i) + comp_size(v, in, i));
	r = gmem_check(v, lin, size, true, m);
	if (r)
		return r;
	image_expand(v);
	if (!compact) {
		r = gmem_read(v, lin + OFF_BV, &old, 8, m);
		if (r)
			return r;
	}
	bv = (old & ~rfbm) | (inuse & rfbm);
	if (put & 1) {
		r = area_write(v, lin, v->xsave, 24);
		if (!r)
			r = area_write(v, lin + 32, v->xsave + 32, 128);
		if (r)
			return r;
	}
	if ((rfbm & 6) && !(compact && !(rfbm & 2))) {
		uint32_t csr[2] = {*(uint32_t *)(v->xsave + 24), v->mxcsr_mask};

		r = area_write(v, lin + 24, csr, 8);
		if (r)
			return r;
	}
	if (put & 2) {
		r = area_write(v, lin + 160, v->xsave + 160, in->code == 8 ? 256 : 128);
		if (r)
			return r;
	}
	for (unsigned int i = FIRST_COMP; i < 8; i++) {
		if (!(put >> i & 1) || !comp_size(v, in, i))
			continue;
		r = area_write(v, lin + comp_at(v->xcomp, xcomp, i), v->xsave + v->xcomp[i].off, comp_size(v, in, i));
		if (r)
			return r;
	}
	if (compact) {
		uint64_t hdr[8] = {bv, xcomp};

		return area_write(v, lin + OFF_BV, hdr, 16);
	}
	return area_write(v, lin + OFF_BV, &bv, 8);
}

static int xrstor(struct engine_vcpu *v, const struct insn *in, uint64_t lin, bool super)
{
	enum tlb_mode m = data_mode(v);
	uint64_t rfbm = requested(v), hdr[8], xcomp, bv;
	uint8_t buf[576] __attribute__((aligned(8)));
	bool compact;
	int r;

	if (lin & 63)
		return raise_gp(v, 0);
	r = gmem_read(v, lin, buf, sizeof(buf), m);
	if (r)
		return r;
	bytes_copy(hdr, buf + OFF_BV, 64);
	compact = hdr[1] >> 63;
	xcomp = compact ? hdr[1] : 0;
	if (super && !compact)
		return raise_gp(v, 0);
	if (compact) {
		if ((hdr[1] & ~(1ull << 63) & ~v->xcr0) || (hdr[0] & ~hdr[1]))
			return raise_gp(v, 0);
	} else if ((hdr[0] & ~v->xcr0) || hdr[1] || hdr[2]) {
		return raise_gp(v, 0);
	}
	for (int i = 2; compact && i < 8; i++)
		if (hdr[i])
			return raise_gp(v, 0);
	for (unsigned int i = FIRST_COMP; i < 8; i++) {
		if (!(rfbm & hdr[0] & 1ull << i) || !comp_size(v, in, i))
			continue;
		r = gmem_check(v, lin + comp_at(v->xcomp, xcomp, i), comp_size(v, in, i), false, m);
		if (r)
			return r;
	}
	if ((compact ? rfbm & hdr[0] & 2 : rfbm & 6) && (*(uint32_t *)(buf + 24) & ~v->mxcsr_mask))
		return raise_gp(v, 0);
	image_expand(v);
	bv = *image_bv(v);
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
	for (unsigned int i = FIRST_COMP; i < 8; i++) {
		uint8_t *p = v->xsave + v->xcomp[i].off;
		unsigned int n = comp_size(v, in, i);

		if (!(rfbm >> i & 1) || !n)
			continue;
		if (hdr[0] >> i & 1) {
			r = gmem_read(v, lin + comp_at(v->xcomp, xcomp, i), p, n, m);
			if (r)
				return r;
			bv |= 1ull << i;
		} else if (n == v->xcomp[i].size) {
			bv &= ~(1ull << i);
		} else {
			bytes_zero(p, n);
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
