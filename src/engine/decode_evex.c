/* SPDX-License-Identifier: MIT */
#include "engine/decode_evex.h"

bool evex_allowed(const struct engine_vcpu *v, unsigned int set)
{
#define VECTOR(name, need)                                                                             \
	{ZYDIS_ISA_SET_##name##_128, (need) | A512_F | A512_VL}, {ZYDIS_ISA_SET_##name##_256, (need) | A512_F | A512_VL}, \
		{ZYDIS_ISA_SET_##name##_512, (need) | A512_F}
	static const struct {
		uint16_t set, need;
	} sets[] = {
		VECTOR(AVX512F, 0), {ZYDIS_ISA_SET_AVX512F_128N, A512_F}, {ZYDIS_ISA_SET_AVX512F_SCALAR, A512_F},
		{ZYDIS_ISA_SET_AVX512F_KOP, A512_F},
		VECTOR(AVX512DQ, A512_DQ), {ZYDIS_ISA_SET_AVX512DQ_128N, A512_F | A512_DQ},
		{ZYDIS_ISA_SET_AVX512DQ_SCALAR, A512_F | A512_DQ}, {ZYDIS_ISA_SET_AVX512DQ_KOP, A512_F | A512_DQ},
		VECTOR(AVX512BW, A512_BW), {ZYDIS_ISA_SET_AVX512BW_128N, A512_F | A512_BW},
		{ZYDIS_ISA_SET_AVX512BW_KOP, A512_F | A512_BW},
		VECTOR(AVX512CD, A512_CD), VECTOR(AVX512_IFMA, A512_IFMA), VECTOR(AVX512_VBMI, A512_VBMI),
		VECTOR(AVX512_VBMI2, A512_VBMI2), VECTOR(AVX512_VNNI, A512_VNNI), VECTOR(AVX512_BITALG, A512_BITALG),
		VECTOR(AVX512_VPOPCNTDQ, A512_VPOPCNTDQ), VECTOR(AVX512_BF16, A512_BF16),
		VECTOR(AVX512_VAES, A512_VAES), VECTOR(AVX512_VPCLMULQDQ, A512_VPCLMULQDQ),
		VECTOR(AVX512_GFNI, A512_GFNI),
	};
#undef VECTOR

	for (unsigned int i = 0; i < sizeof(sets) / sizeof(sets[0]); i++)
		if (sets[i].set == set)
			return (v->avx512 & sets[i].need) == sets[i].need;
	return false;
}

void evex_take_mask(struct insn *in, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	static const uint8_t to[] = {
		[ZYDIS_BROADCAST_MODE_1_TO_2] = 2, [ZYDIS_BROADCAST_MODE_1_TO_4] = 4,
		[ZYDIS_BROADCAST_MODE_1_TO_8] = 8, [ZYDIS_BROADCAST_MODE_1_TO_16] = 16,
		[ZYDIS_BROADCAST_MODE_1_TO_32] = 32, [ZYDIS_BROADCAST_MODE_1_TO_64] = 64,
	};
	const ZydisDecodedOperand *m = NULL;

	for (unsigned int i = 0; i < z->operand_count; i++)
		if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			m = &ops[i];
	switch (z->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_E1:
	case ZYDIS_EXCEPTION_CLASS_E2:
	case ZYDIS_EXCEPTION_CLASS_E3:
	case ZYDIS_EXCEPTION_CLASS_E4:
	case ZYDIS_EXCEPTION_CLASS_E5:
	case ZYDIS_EXCEPTION_CLASS_E6:
	case ZYDIS_EXCEPTION_CLASS_E10:
	case ZYDIS_EXCEPTION_CLASS_E11:
		break;
	default:
		return;
	}
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_VGF2P8AFFINEQB: /* E4NF in the manual: an element needs others' memory */
	case ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB:
	case ZYDIS_MNEMONIC_VDBPSADBW:
	case ZYDIS_MNEMONIC_VCVTNE2PS2BF16:
		return;
	default:
		break;
	}
	if (!in->mask_no || !m || !m->element_size)
		return;
	in->elem_size = (uint8_t)(m->element_size / 8);
	if (z->raw.evex.b)
		in->elems = z->avx.broadcast.mode < sizeof(to) ? to[z->avx.broadcast.mode] : 1;
	else if (z->meta.category == ZYDIS_CATEGORY_BROADCAST)
		in->elems = (uint8_t)ops[0].element_count;
	else
		in->elems = (uint8_t)m->element_count;
	switch (z->meta.category) {
	case ZYDIS_CATEGORY_COMPRESS:
	case ZYDIS_CATEGORY_EXPAND:
		in->packed = true;
		break;
	default:
		break;
	}
}
