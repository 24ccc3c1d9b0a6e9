/* SPDX-License-Identifier: MIT
 *
 * engine/features: which instructions the guest may run: those that its CPUID
 * shows and the host has. SDM vol. 2, "CPUID".
 */
#include "engine/decode.h"

#include <Zydis/Zydis.h>

static const struct {
	uint8_t ext;
	uint32_t leaf, sub;
	uint8_t reg, bit; /* eax ebx ecx edx */
} ext_bits[] = {
	{ZYDIS_ISA_EXT_X87, 1, 0, 3, 0},
	{ZYDIS_ISA_EXT_MMX, 1, 0, 3, 23},
	{ZYDIS_ISA_EXT_SSE, 1, 0, 3, 25},
	{ZYDIS_ISA_EXT_SSE2, 1, 0, 3, 26},
	{ZYDIS_ISA_EXT_CLFSH, 1, 0, 3, 19},
	{ZYDIS_ISA_EXT_SSE3, 1, 0, 2, 0},
	{ZYDIS_ISA_EXT_PCLMULQDQ, 1, 0, 2, 1},
	{ZYDIS_ISA_EXT_SSSE3, 1, 0, 2, 9},
	{ZYDIS_ISA_EXT_FMA, 1, 0, 2, 12},
	{ZYDIS_ISA_EXT_SSE4, 1, 0, 2, 19},
	{ZYDIS_ISA_EXT_MOVBE, 1, 0, 2, 22},
	{ZYDIS_ISA_EXT_AES, 1, 0, 2, 25},
	{ZYDIS_ISA_EXT_XSAVE, 1, 0, 2, 26},
	{ZYDIS_ISA_EXT_AVX, 1, 0, 2, 28},
	{ZYDIS_ISA_EXT_AVXAES, 1, 0, 2, 25},
	{ZYDIS_ISA_EXT_F16C, 1, 0, 2, 29},
	{ZYDIS_ISA_EXT_RDRAND, 1, 0, 2, 30},
	{ZYDIS_ISA_EXT_RDWRFSGS, 7, 0, 1, 0},
	{ZYDIS_ISA_EXT_BMI1, 7, 0, 1, 3},
	{ZYDIS_ISA_EXT_AVX2, 7, 0, 1, 5},
	{ZYDIS_ISA_EXT_AVX2GATHER, 7, 0, 1, 5},
	{ZYDIS_ISA_EXT_BMI2, 7, 0, 1, 8},
	{ZYDIS_ISA_EXT_INVPCID, 7, 0, 1, 10},
	{ZYDIS_ISA_EXT_RDSEED, 7, 0, 1, 18},
	{ZYDIS_ISA_EXT_ADOX_ADCX, 7, 0, 1, 19},
	{ZYDIS_ISA_EXT_SMAP, 7, 0, 1, 20},
	{ZYDIS_ISA_EXT_CLFLUSHOPT, 7, 0, 1, 23},
	{ZYDIS_ISA_EXT_CLWB, 7, 0, 1, 24},
	{ZYDIS_ISA_EXT_SHA, 7, 0, 1, 29},
	{ZYDIS_ISA_EXT_GFNI, 7, 0, 2, 8},
	{ZYDIS_ISA_EXT_VAES, 7, 0, 2, 9},
	{ZYDIS_ISA_EXT_VPCLMULQDQ, 7, 0, 2, 10},
	{ZYDIS_ISA_EXT_RDPID, 7, 0, 2, 22},
	{ZYDIS_ISA_EXT_SERIALIZE, 7, 0, 3, 14},
	{ZYDIS_ISA_EXT_AVX_VNNI, 7, 1, 0, 4},
	{ZYDIS_ISA_EXT_XSAVEOPT, 13, 1, 0, 0},
	{ZYDIS_ISA_EXT_XSAVEC, 13, 1, 0, 1},
	{ZYDIS_ISA_EXT_XSAVES, 13, 1, 0, 3},
	{ZYDIS_ISA_EXT_LZCNT, 0x80000001, 0, 2, 5},
	{ZYDIS_ISA_EXT_SSE4A, 0x80000001, 0, 2, 6},
	{ZYDIS_ISA_EXT_LONGMODE, 0x80000001, 0, 3, 29},
	{ZYDIS_ISA_EXT_RDTSCP, 0x80000001, 0, 3, 27},
};

static void host_cpuid(uint32_t leaf, uint32_t sub, uint32_t out[4])
{
	__asm__ volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
			 : "a"(leaf), "c"(sub));
}

static bool host_has(uint32_t leaf, uint32_t sub, unsigned int reg, unsigned int bit)
{
	uint32_t r[4];

	host_cpuid(leaf & 0x80000000u, 0, r);
	if (leaf > r[0])
		return false;
	host_cpuid(leaf, sub, r);
	return r[reg] >> bit & 1;
}

static bool guest_has(struct engine_vcpu *v, uint32_t leaf, uint32_t sub, unsigned int reg,
		      unsigned int bit)
{
	uint32_t r[4] = {0};

	v->ops->cpuid(v->cpu, leaf, sub, r);
	return r[reg] >> bit & 1;
}

void features_update(struct engine_vcpu *v)
{
	/* the base set, hints, and instructions that decode as NOP or are refused by kind */
	static const uint8_t always[] = {
		ZYDIS_ISA_EXT_BASE, ZYDIS_ISA_EXT_PAUSE, ZYDIS_ISA_EXT_AMD3DNOW_PREFETCH,
		ZYDIS_ISA_EXT_CET, ZYDIS_ISA_EXT_CLDEMOTE, ZYDIS_ISA_EXT_MPX,
		ZYDIS_ISA_EXT_PREFETCHWT1, ZYDIS_ISA_EXT_VTX, ZYDIS_ISA_EXT_SVM,
	};
	static const struct {
		uint32_t feat, leaf;
		uint8_t reg, bit;
	} feats[] = {
		{FEAT_CX16, 1, 2, 13},
		{FEAT_POPCNT, 1, 2, 23},
		{FEAT_SSE42, 1, 2, 20},
		{FEAT_1G, 0x80000001, 3, 26},
		{FEAT_LM, 0x80000001, 3, 29},
		{FEAT_NX, 0x80000001, 3, 20},
		{FEAT_PSE36, 1, 3, 17},
	};
	static const struct {
		uint32_t part, sub;
		uint8_t reg, bit;
	} parts[] = { /* of leaf 7 */
		{A512_F, 0, 1, 16}, {A512_DQ, 0, 1, 17}, {A512_IFMA, 0, 1, 21}, {A512_CD, 0, 1, 28},
		{A512_BW, 0, 1, 30}, {A512_VL, 0, 1, 31}, {A512_VBMI, 0, 2, 1}, {A512_VBMI2, 0, 2, 6},
		{A512_VNNI, 0, 2, 11}, {A512_BITALG, 0, 2, 12}, {A512_VPOPCNTDQ, 0, 2, 14},
		{A512_BF16, 1, 0, 5}, {A512_VAES, 0, 2, 9}, {A512_VPCLMULQDQ, 0, 2, 10}, {A512_GFNI, 0, 2, 8},
	};
	uint32_t r[4] = {0};

	v->avx512 = 0;
	for (unsigned int i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (guest_has(v, 7, parts[i].sub, parts[i].reg, parts[i].bit) &&
		    host_has(7, parts[i].sub, parts[i].reg, parts[i].bit))
			v->avx512 |= parts[i].part;
	v->ops->cpuid(v->cpu, 0xd, 0, r);
	v->guest_xmask = v->host_xmask & (7 | r[0]);
	v->ext_ok[0] = v->ext_ok[1] = 0;
	for (unsigned int i = 0; i < sizeof(always); i++)
		v->ext_ok[always[i] / 64] |= 1ull << (always[i] % 64);
	for (unsigned int i = 0; i < sizeof(ext_bits) / sizeof(ext_bits[0]); i++) {
		uint8_t x = ext_bits[i].ext;

		if (guest_has(v, ext_bits[i].leaf, ext_bits[i].sub, ext_bits[i].reg, ext_bits[i].bit) &&
		    (x == ZYDIS_ISA_EXT_INVPCID || x == ZYDIS_ISA_EXT_SMAP || x == ZYDIS_ISA_EXT_SERIALIZE ||
		     x == ZYDIS_ISA_EXT_RDPID || x == ZYDIS_ISA_EXT_RDTSCP || x == ZYDIS_ISA_EXT_RDWRFSGS ||
		     host_has(ext_bits[i].leaf, ext_bits[i].sub, ext_bits[i].reg, ext_bits[i].bit)))
			v->ext_ok[x / 64] |= 1ull << (x % 64);
	}
	v->feat = 0;
	for (unsigned int i = 0; i < sizeof(feats) / sizeof(feats[0]); i++)
		if (guest_has(v, feats[i].leaf, 0, feats[i].reg, feats[i].bit) &&
		    ((feats[i].feat & (FEAT_1G | FEAT_PSE36)) ||
		     host_has(feats[i].leaf, 0, feats[i].reg, feats[i].bit)))
			v->feat |= feats[i].feat;
	v->ops->cpuid(v->cpu, 0, 0, r);
	if (r[1] == 0x68747541 || r[1] == 0x6f677948) /* AuthenticAMD, HygonGenuine */
		v->feat |= FEAT_AMD;
	v->ops->cpuid(v->cpu, 0x80000000, 0, r);
	unsigned int bits = 0;

	if (r[0] >= 0x80000008) {
		v->ops->cpuid(v->cpu, 0x80000008, 0, r);
		bits = r[0] & 0xff;
	}
	if (bits < 32 || bits > 52)
		bits = 36;
	v->phys_mask = ((1ull << bits) - 1) & PAGE_MASK_;
}
