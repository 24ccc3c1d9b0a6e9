/* SPDX-License-Identifier: MIT */
#include "engine/decode.h"
#include "engine/decode_evex.h"

#include <Zydis/Zydis.h>

static int reg_number(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_DIL)
		return r - ZYDIS_REGISTER_SPL + 4;
	if (r >= ZYDIS_REGISTER_R8B && r <= ZYDIS_REGISTER_R15B)
		return r - ZYDIS_REGISTER_R8B + 8;
	if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BH)
		return (r - ZYDIS_REGISTER_AL) & 3;
	return ZydisRegisterGetId(r);
}

static unsigned int gpr_width(ZydisRegister r)
{
	switch (ZydisRegisterGetClass(r)) {
	case ZYDIS_REGCLASS_GPR8:
		return 1;
	case ZYDIS_REGCLASS_GPR16:
		return 2;
	case ZYDIS_REGCLASS_GPR32:
		return 4;
	case ZYDIS_REGCLASS_GPR64:
		return 8;
	default:
		return 0;
	}
}

static uint8_t access_of(ZydisOperandActions a)
{
	uint8_t acc = 0;

	if (a & ZYDIS_OPERAND_ACTION_MASK_READ)
		acc |= ACC_R;
	if (a & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		acc |= ACC_W;
	if (a & ZYDIS_OPERAND_ACTION_CONDWRITE)
		acc |= ACC_R; /* the old value may stay */
	return acc;
}

static void take_reg(struct insn_reg *d, const ZydisDecodedOperand *o)
{
	unsigned int w = gpr_width(o->reg.value);

	if (!w)
		return;
	d->on = 1;
	d->g = (uint8_t)reg_number(o->reg.value);
	d->width = (uint8_t)w;
	d->high8 = o->reg.value >= ZYDIS_REGISTER_AH && o->reg.value <= ZYDIS_REGISTER_BH;
	d->acc = access_of(o->actions);
}

static int8_t ea_reg(ZydisRegister r)
{
	if (r == ZYDIS_REGISTER_NONE)
		return -1;
	if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
		return -2;
	return (int8_t)ZydisRegisterGetId(r);
}

static void take_mem(struct insn *in, const ZydisDecodedOperand *o)
{
	in->has_mem = true;
	in->mem_acc = o->mem.type == ZYDIS_MEMOP_TYPE_AGEN ? 0 : access_of(o->actions);
	in->mem_size = o->size / 8;
	in->seg = (uint8_t)(o->mem.segment == ZYDIS_REGISTER_NONE ? S_DS
								   : ZydisRegisterGetId(o->mem.segment));
	in->base = ea_reg(o->mem.base);
	in->vsib = o->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
	in->index = ea_reg(o->mem.index);
	in->scale = o->mem.scale == 8 ? 3 : o->mem.scale == 4 ? 2 : o->mem.scale == 2 ? 1 : 0;
	in->disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;
}

/* What the processor state must allow: SDM vol. 1, "SIMD and x87 availability". */
static uint8_t need_of(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	uint8_t need = 0;

	switch (z->meta.isa_ext) {
	case ZYDIS_ISA_EXT_X87:
		return NEED_X87;
	case ZYDIS_ISA_EXT_MMX:
		need = NEED_MMX;
		break;
	case ZYDIS_ISA_EXT_SSE:
	case ZYDIS_ISA_EXT_SSE2:
	case ZYDIS_ISA_EXT_SSE3:
	case ZYDIS_ISA_EXT_SSSE3:
	case ZYDIS_ISA_EXT_SSE4:
	case ZYDIS_ISA_EXT_SSE4A:
	case ZYDIS_ISA_EXT_AES:
	case ZYDIS_ISA_EXT_PCLMULQDQ:
	case ZYDIS_ISA_EXT_SHA:
	case ZYDIS_ISA_EXT_GFNI:
		if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
			need = NEED_AVX;
		break;
	case ZYDIS_ISA_EXT_AVX:
	case ZYDIS_ISA_EXT_AVX2:
	case ZYDIS_ISA_EXT_AVX2GATHER:
	case ZYDIS_ISA_EXT_AVXAES:
	case ZYDIS_ISA_EXT_AVX_VNNI:
	case ZYDIS_ISA_EXT_F16C:
	case ZYDIS_ISA_EXT_FMA:
	case ZYDIS_ISA_EXT_VAES:
	case ZYDIS_ISA_EXT_VPCLMULQDQ:
		need = NEED_AVX;
		break;
	default:
		break;
	}
	if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX || z->meta.isa_ext == ZYDIS_ISA_EXT_AVX512VEX)
		return NEED_AVX | NEED_AVX512;
	/* FISTTP is SSE3 by name and x87 by nature */
	if (z->meta.isa_set == ZYDIS_ISA_SET_SSE3X87 || z->mnemonic == ZYDIS_MNEMONIC_FISTTP)
		return NEED_X87;
	for (unsigned int i = 0; i < z->operand_count; i++) {
		if (ops[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		switch (ZydisRegisterGetClass(ops[i].reg.value)) {
		case ZYDIS_REGCLASS_MMX:
			need |= NEED_MMX;
			break;
		case ZYDIS_REGCLASS_XMM:
		case ZYDIS_REGCLASS_YMM:
			if (!(need & NEED_AVX))
				need |= NEED_SSE;
			break;
		default:
			break;
		}
	}
	/* SIMD that may name no vector register */
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_STMXCSR:
	case ZYDIS_MNEMONIC_CVTSD2SI:
	case ZYDIS_MNEMONIC_CVTSS2SI:
	case ZYDIS_MNEMONIC_CVTTSD2SI:
	case ZYDIS_MNEMONIC_CVTTSS2SI:
		return NEED_SSE;
	default:
		return need;
	}
}

static enum insn_kind kind_of(const ZydisDecodedInstruction *z, const struct insn *in)
{
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_LEA:
		return K_LEA;
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC:
		return in->has_mem && in->reg.on ? K_BT : K_GENERIC;
	case ZYDIS_MNEMONIC_XLAT:
		return K_XLAT;
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
		return K_MASKMOV;
	case ZYDIS_MNEMONIC_JMP:
		if (z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
			return K_FAR;
		return z->opcode == 0xff ? K_JMP_IND : K_JMP; /* IS_RELATIVE also means [RIP + n] */
	case ZYDIS_MNEMONIC_CALL:
		if (z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
			return K_FAR;
		return z->opcode == 0xff ? K_CALL_IND : K_CALL;
	case ZYDIS_MNEMONIC_RET:
		return z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ? K_FAR : K_RET;
	case ZYDIS_MNEMONIC_JCXZ:
	case ZYDIS_MNEMONIC_JECXZ:
	case ZYDIS_MNEMONIC_JRCXZ:
	case ZYDIS_MNEMONIC_LOOP:
	case ZYDIS_MNEMONIC_LOOPE:
	case ZYDIS_MNEMONIC_LOOPNE:
		return K_LOOP;
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP:
		if (z->opcode_map == ZYDIS_OPCODE_MAP_0F || z->opcode == 0x06 || z->opcode == 0x0e ||
		    z->opcode == 0x16 || z->opcode == 0x1e || z->opcode == 0x07 || z->opcode == 0x17 ||
		    z->opcode == 0x1f)
			return K_SEG;
		return z->mnemonic == ZYDIS_MNEMONIC_PUSH ? K_PUSH : K_POP;
	case ZYDIS_MNEMONIC_LEAVE:
		return K_LEAVE;
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_PUSHFQ:
		return K_PUSHF;
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ:
	case ZYDIS_MNEMONIC_PUSHA:
	case ZYDIS_MNEMONIC_PUSHAD:
	case ZYDIS_MNEMONIC_POPA:
	case ZYDIS_MNEMONIC_POPAD:
	case ZYDIS_MNEMONIC_ENTER:
		return K_STACK;
	case ZYDIS_MNEMONIC_CLI:
		return K_CLI;
	case ZYDIS_MNEMONIC_STI:
		return K_STI;
	case ZYDIS_MNEMONIC_CLD:
		return K_CLD;
	case ZYDIS_MNEMONIC_STD:
		return K_STD;
	case ZYDIS_MNEMONIC_STAC:
		return K_STAC;
	case ZYDIS_MNEMONIC_CLAC:
		return K_CLAC;
	case ZYDIS_MNEMONIC_SWAPGS:
		return K_SWAPGS;
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
		return K_RDTSC;
	case ZYDIS_MNEMONIC_RDFSBASE:
	case ZYDIS_MNEMONIC_RDGSBASE:
		return K_RDBASE;
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE:
		return K_WRBASE;
	case ZYDIS_MNEMONIC_MOV: {
		uint8_t c = z->opcode;

		if (z->opcode_map == ZYDIS_OPCODE_MAP_0F && c >= 0x20 && c <= 0x23)
			return K_CTL;
		if (z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (c == 0x8c || c == 0x8e))
			return c == 0x8c && z->raw.modrm.mod == 3 ? K_RDSEL : K_SEG;
		return K_GENERIC;
	}
	case ZYDIS_MNEMONIC_CLTS:
	case ZYDIS_MNEMONIC_LMSW:
	case ZYDIS_MNEMONIC_SMSW:
	case ZYDIS_MNEMONIC_INVLPG:
	case ZYDIS_MNEMONIC_INVPCID:
	case ZYDIS_MNEMONIC_XSETBV:
	case ZYDIS_MNEMONIC_XGETBV:
	case ZYDIS_MNEMONIC_WBINVD:
	case ZYDIS_MNEMONIC_INVD:
		return K_CTL;
	case ZYDIS_MNEMONIC_LDS:
	case ZYDIS_MNEMONIC_LES:
	case ZYDIS_MNEMONIC_LSS:
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS:
	case ZYDIS_MNEMONIC_LGDT:
	case ZYDIS_MNEMONIC_LIDT:
	case ZYDIS_MNEMONIC_SGDT:
	case ZYDIS_MNEMONIC_SIDT:
	case ZYDIS_MNEMONIC_LLDT:
	case ZYDIS_MNEMONIC_SLDT:
	case ZYDIS_MNEMONIC_LTR:
	case ZYDIS_MNEMONIC_STR:
	case ZYDIS_MNEMONIC_LAR:
	case ZYDIS_MNEMONIC_LSL:
	case ZYDIS_MNEMONIC_VERR:
	case ZYDIS_MNEMONIC_VERW:
	case ZYDIS_MNEMONIC_ARPL:
		return K_SEG;
	case ZYDIS_MNEMONIC_SYSCALL:
	case ZYDIS_MNEMONIC_SYSRET:
	case ZYDIS_MNEMONIC_SYSENTER:
	case ZYDIS_MNEMONIC_SYSEXIT:
		return K_FAR;
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
		return K_IRET;
	case ZYDIS_MNEMONIC_HLT:
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_INT1:
	case ZYDIS_MNEMONIC_INT3:
	case ZYDIS_MNEMONIC_INTO:
	case ZYDIS_MNEMONIC_RDMSR:
	case ZYDIS_MNEMONIC_WRMSR:
	case ZYDIS_MNEMONIC_CPUID:
	case ZYDIS_MNEMONIC_IN:
	case ZYDIS_MNEMONIC_OUT:
	case ZYDIS_MNEMONIC_RDPMC:
	case ZYDIS_MNEMONIC_RDPID:
	case ZYDIS_MNEMONIC_VMCALL:
	case ZYDIS_MNEMONIC_VMMCALL:
	case ZYDIS_MNEMONIC_SERIALIZE:
		return K_SYS;
	case ZYDIS_MNEMONIC_AAA:
	case ZYDIS_MNEMONIC_AAS:
	case ZYDIS_MNEMONIC_AAM:
	case ZYDIS_MNEMONIC_AAD:
	case ZYDIS_MNEMONIC_DAA:
	case ZYDIS_MNEMONIC_DAS:
	case ZYDIS_MNEMONIC_SALC:
	case ZYDIS_MNEMONIC_BOUND:
		return K_LEGACY;
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XSAVES:
	case ZYDIS_MNEMONIC_XSAVES64:
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:
	case ZYDIS_MNEMONIC_XRSTORS:
	case ZYDIS_MNEMONIC_XRSTORS64:
		return K_FPUSTATE;
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2:
	case ZYDIS_MNEMONIC_RSM:
	case ZYDIS_MNEMONIC_GETSEC:
	case ZYDIS_MNEMONIC_FEMMS:
		return K_UD;
	default:
		break;
	}
	switch (z->meta.category) {
	case ZYDIS_CATEGORY_STRINGOP:
	case ZYDIS_CATEGORY_IOSTRINGOP:
		return K_STRING;
	case ZYDIS_CATEGORY_COND_BR:
		return K_JCC;
	case ZYDIS_CATEGORY_NOP:
	case ZYDIS_CATEGORY_WIDENOP:
	case ZYDIS_CATEGORY_PREFETCH:
	case ZYDIS_CATEGORY_PREFETCHWT1:
	case ZYDIS_CATEGORY_CET:
	case ZYDIS_CATEGORY_CLDEMOTE:
		return K_NOP;
	case ZYDIS_CATEGORY_GATHER:
	case ZYDIS_CATEGORY_AVX2GATHER:
	case ZYDIS_CATEGORY_SCATTER:
		return K_GATHER;
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_IO:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_SYSTEM:
	case ZYDIS_CATEGORY_PUSH:
	case ZYDIS_CATEGORY_POP:
		return K_UD; /* nothing of these runs as itself by accident */
	default:
		break;
	}
	if (z->mnemonic == ZYDIS_MNEMONIC_PAUSE)
		return K_PAUSE;
	if (z->mnemonic == ZYDIS_MNEMONIC_NOP)
		return K_NOP;
	return K_GENERIC;
}

static void take_prefixes(struct insn *in, const ZydisDecodedInstruction *z)
{
	bool p66 = false, p66_mand = false;

	for (unsigned int i = 0; i < z->raw.prefix_count; i++) {
		uint8_t c = z->raw.prefixes[i].value;
		bool mand = z->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY;

		if (c == 0x66) {
			p66 = true;
			p66_mand |= mand;
		} else if ((c == 0xf2 || c == 0xf3) && mand) {
			in->mand = c;
		}
	}
	if (z->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
		in->rep = 0xf3;
	else if (z->attributes & ZYDIS_ATTRIB_HAS_REPNE)
		in->rep = 0xf2;
	in->lock = z->attributes & ZYDIS_ATTRIB_HAS_LOCK;
	if (in->code != 2)
		in->p66 = p66;
	else if (in->need & (NEED_SSE | NEED_MMX | NEED_AVX))
		in->p66 = p66_mand;
	else
		in->p66 = p66_mand || z->operand_width == 16;
}

static void take_encoding(struct insn *in, const ZydisDecodedInstruction *z)
{
	unsigned int after;

	in->opcode = z->opcode;
	switch (z->opcode_map) {
	case ZYDIS_OPCODE_MAP_0F:
		in->map = 0x0f;
		break;
	case ZYDIS_OPCODE_MAP_0F38:
		in->map = 0x38;
		break;
	case ZYDIS_OPCODE_MAP_0F3A:
		in->map = 0x3a;
		break;
	case ZYDIS_OPCODE_MAP_DEFAULT:
		in->map = 0;
		break;
	default:
		in->kind = K_UD;
		break;
	}
	in->has_modrm = z->attributes & ZYDIS_ATTRIB_HAS_MODRM;
	in->mod = z->raw.modrm.mod;
	in->reg_no = z->raw.modrm.reg;
	in->rm_no = z->raw.modrm.rm;
	if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		in->vex = true;
		in->w = z->raw.vex.W;
		in->vex_l = z->raw.vex.L;
		in->vex_pp = z->raw.vex.pp;
		in->vvvv_no = ~z->raw.vex.vvvv & (in->code == 8 ? 15 : 7);
	} else if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) {
		in->evex = true;
		in->w = z->raw.evex.W;
		in->mask_no = z->raw.evex.aaa;
		in->vex_l = (uint8_t)(z->raw.evex.L2 << 1 | z->raw.evex.L);
		for (unsigned int i = 0; i < 3; i++)
			in->evex_p[i] = in->bytes[z->raw.evex.offset + 1 + i];
		/* there are eight registers: what would name others is ignored */
		if (in->code != 8) {
			in->evex_p[0] |= 0x10;
			in->evex_p[1] |= 0x40;
			in->evex_p[2] |= 0x08;
		}
	} else if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
		in->w = (z->attributes & ZYDIS_ATTRIB_HAS_REX) && z->raw.rex.W;
	} else {
		in->kind = K_UD; /* XOP, 3DNow!: not carried */
	}
	if (in->has_modrm) {
		after = z->raw.modrm.offset + 1u;
		if (z->attributes & ZYDIS_ATTRIB_HAS_SIB)
			after = z->raw.sib.offset + 1u;
		if (z->raw.disp.size)
			after = z->raw.disp.offset + z->raw.disp.size / 8u;
	} else {
		after = z->length;
		for (int i = 1; i >= 0; i--)
			if (z->raw.imm[i].size && z->raw.imm[i].offset < after)
				after = z->raw.imm[i].offset;
	}
	in->imm_off = (uint8_t)after;
	in->imm_len = (uint8_t)(z->length - after);
	in->moffs = z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && z->opcode >= 0xa0 && z->opcode <= 0xa3 &&
		    !in->has_modrm;
	if (in->moffs)
		in->imm_len = 0;
}

/* Encodings that 64-bit mode has given to others. */
static void retarget_legacy(struct insn *in)
{
	if (in->code == 8 || in->map || in->vex || in->evex)
		return;
	if (in->opcode >= 0x40 && in->opcode <= 0x4f && in->opc.on) {
		in->reg_no = in->opcode >= 0x48;
		in->opcode = 0xff;
		in->has_modrm = true;
		in->mod = 3;
		in->rm = in->opc;
		in->rm_no = in->opc.g;
		in->opc = (struct insn_reg){0};
	} else if (in->opcode == 0x82) {
		in->opcode = 0x80;
	}
}

static const ZydisMachineMode modes[9] = {
	[2] = ZYDIS_MACHINE_MODE_LEGACY_16,
	[4] = ZYDIS_MACHINE_MODE_LEGACY_32,
	[8] = ZYDIS_MACHINE_MODE_LONG_64,
};

static bool has_ext(const struct engine_vcpu *v, unsigned int x)
{
	return x < 128 && (v->ext_ok[x / 64] >> (x % 64) & 1);
}

static bool ext_allowed(const struct engine_vcpu *v, const ZydisDecodedInstruction *z)
{
	if (z->meta.isa_ext == ZYDIS_ISA_EXT_AVX512EVEX || z->meta.isa_ext == ZYDIS_ISA_EXT_AVX512VEX)
		return evex_allowed(v, (unsigned int)z->meta.isa_set);
	if (!has_ext(v, (unsigned int)z->meta.isa_ext))
		return false;
	if (z->meta.isa_set == ZYDIS_ISA_SET_CMPXCHG16B)
		return v->feat & FEAT_CX16;
	if (z->meta.isa_set == ZYDIS_ISA_SET_POPCNT)
		return v->feat & FEAT_POPCNT;
	if (z->meta.isa_set == ZYDIS_ISA_SET_SSE42)
		return v->feat & FEAT_SSE42;
	return true;
}

/*
 * Outside of 64-bit mode VEX.W is ignored where it would pick a general register's
 * width, and so is the register bit that would reach XMM8.
 */
static void vex_narrow(struct insn *in, bool is4)
{
	unsigned int pp = in->evex ? in->evex_p[1] & 3 : 0;
	uint8_t op = in->opcode;

	if (in->reg.on || in->rm.on || in->vvvv.on)
		in->w = false;
	/* from memory: CVTSI2SS, MOVD, and with EVEX what else has their opcodes with other prefixes */
	else if (in->vex && in->map == 0x0f && (op == 0x2a || op == 0x6e || op == 0x7e))
		in->w = false;
	else if (in->evex && in->map == 0x0f &&
		 (((op == 0x2a || op == 0x7b) && pp > 1) || ((op == 0x6e || op == 0x7e) && pp == 1)))
		in->w = false;
	else if (in->evex && in->map == 0x3a && (op == 0x16 || op == 0x22))
		in->w = false;
	if (in->evex && !in->w)
		in->evex_p[1] &= 0x7f;
	if (is4)
		in->bytes[in->len - 1] &= 0x7f;
}

/* Operands that must be aligned: the fault comes before any page fault. */
static uint8_t align_of(const ZydisDecodedInstruction *z, const struct insn *in)
{
	if (!in->has_mem)
		return 0;
	if (z->mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B || z->mnemonic == ZYDIS_MNEMONIC_CVTPD2PI ||
	    z->mnemonic == ZYDIS_MNEMONIC_CVTTPD2PI)
		return 16;
	switch (z->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_SSE1:
	case ZYDIS_EXCEPTION_CLASS_SSE2:
		return in->mem_size == 16 ? 16 : 0;
	case ZYDIS_EXCEPTION_CLASS_SSE4:
		if (z->meta.isa_ext == ZYDIS_ISA_EXT_SHA)
			return 0; /* not every processor insists */
		switch (z->mnemonic) {
		case ZYDIS_MNEMONIC_PCMPESTRI:
		case ZYDIS_MNEMONIC_PCMPESTRM:
		case ZYDIS_MNEMONIC_PCMPISTRI:
		case ZYDIS_MNEMONIC_PCMPISTRM:
		case ZYDIS_MNEMONIC_LDDQU:
		case ZYDIS_MNEMONIC_MOVDQU:
		case ZYDIS_MNEMONIC_MOVUPS:
		case ZYDIS_MNEMONIC_MOVUPD:
			return 0;
		default:
			return in->mem_size == 16 ? 16 : 0;
		}
	case ZYDIS_EXCEPTION_CLASS_AVX1:
	case ZYDIS_EXCEPTION_CLASS_E1:
	case ZYDIS_EXCEPTION_CLASS_E1NF:
		return in->mem_size >= 16 ? (uint8_t)in->mem_size : 0;
	default:
		return 0;
	}
}

int insn_decode(struct engine_vcpu *v, const uint8_t *p, unsigned int n, unsigned int code,
		struct insn *in)
{
	ZydisDecoder d;
	ZydisDecodedInstruction z;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	unsigned int mems = 0;
	bool hint = false, is4 = false;

	ZydisDecoderInit(&d, modes[code],
			 code == 8 ? ZYDIS_STACK_WIDTH_64 :
			 v->seg[S_SS].attr & SEG_DB ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_16);
	ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
	/* a processor without these ignores the prefix: REP BSF, REP BSR */
	ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_TZCNT, has_ext(v, ZYDIS_ISA_EXT_BMI1));
	ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_LZCNT, has_ext(v, ZYDIS_ISA_EXT_LZCNT));
	*in = (struct insn){.code = (uint8_t)code, .base = -1, .index = -1};
	ZyanStatus st = ZydisDecoderDecodeFull(&d, p, n > 15 ? 15 : n, &z, ops);

	if (st == ZYDIS_STATUS_NO_MORE_DATA && n < 15)
		return -ENODATA;
	if (!ZYAN_SUCCESS(st)) {
		in->kind = K_UD;
		in->len = 1;
		return 0;
	}
	in->len = z.length;
	for (unsigned int i = 0; i < z.length; i++)
		in->bytes[i] = p[i];
	in->mnem = (uint16_t)z.mnemonic;
	in->opsize = z.operand_width / 8;
	in->addrsize = z.address_width / 8;
	in->need = need_of(&z, ops);
	take_prefixes(in, &z);
	in->kind = K_GENERIC;
	take_encoding(in, &z);
	in->seg = z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_CS ? S_CS :
		  z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_SS ? S_SS :
		  z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_ES ? S_ES :
		  z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS ? S_FS :
		  z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS ? S_GS : S_DS;
	for (unsigned int i = 0, imms = 0; i < z.operand_count; i++) {
		const ZydisDecodedOperand *o = &ops[i];

		switch (o->type) {
		case ZYDIS_OPERAND_TYPE_REGISTER:
			if (gpr_width(o->reg.value) && (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
				in->gpr_w |= (uint16_t)(1u << reg_number(o->reg.value));
			switch (o->encoding) {
			case ZYDIS_OPERAND_ENCODING_MODRM_REG:
				take_reg(&in->reg, o);
				in->reg_no = (uint8_t)reg_number(o->reg.value);
				break;
			case ZYDIS_OPERAND_ENCODING_MODRM_RM:
				take_reg(&in->rm, o);
				in->rm_no = (uint8_t)reg_number(o->reg.value);
				break;
			case ZYDIS_OPERAND_ENCODING_NDSNDD:
				take_reg(&in->vvvv, o);
				in->vvvv_no = (uint8_t)reg_number(o->reg.value);
				break;
			case ZYDIS_OPERAND_ENCODING_IS4:
				is4 = true;
				break;
			case ZYDIS_OPERAND_ENCODING_OPCODE:
				take_reg(&in->opc, o);
				break;
			default:
				break;
			}
			break;
		case ZYDIS_OPERAND_TYPE_MEMORY:
			/* the stack side of PUSH, CALL … and both sides of strings are implied
			 * by the kind */
			if (o->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT) {
				take_mem(in, o);
				mems++;
			}
			break;
		case ZYDIS_OPERAND_TYPE_IMMEDIATE:
			if (imms++ == 0)
				in->imm = o->imm.value.s;
			else
				in->imm2 = o->imm.value.s;
			break;
		case ZYDIS_OPERAND_TYPE_POINTER:
			in->imm = o->ptr.offset;
			in->imm2 = o->ptr.segment;
			break;
		default:
			break;
		}
	}
	/* mod 0 with SIB base 101 has no base whatever REX.B says (Zydis 4.0 names R13) */
	if (in->has_mem && in->has_modrm && in->mod == 0 && in->rm_no == 4 && in->addrsize != 2 &&
	    z.raw.sib.base == 5) {
		in->base = -1;
		in->disp = z.raw.disp.value;
	}
	if (code != 8 && (in->vex || in->evex)) {
		/* VPEXTRQ and VPINSRQ are not there */
		if (in->vex && in->w && in->map == 0x3a && (in->opcode == 0x16 || in->opcode == 0x22))
			in->kind = K_UD;
		vex_narrow(in, is4);
	}
	if (in->kind != K_UD)
		in->kind = (uint8_t)kind_of(&z, in);
	if (in->kind == K_NOP && in->has_modrm && in->mod == 3) {
		in->kind = K_GENERIC; /* hints on registers: NOP or #UD, as the vendor likes */
		hint = true;
	}
	if (!ext_allowed(v, &z))
		in->kind = K_UD;
	if (in->kind == K_GENERIC && mems > 1)
		in->kind = K_UD;
	/* a memory operand in the ModRM byte that the tables do not list */
	if (in->kind == K_GENERIC && in->has_modrm && in->mod != 3 && !in->has_mem)
		in->kind = K_UD;
	/* only eight registers are seen to be zeroed */
	if (code != 8 && in->kind == K_GENERIC &&
	    (z.mnemonic == ZYDIS_MNEMONIC_VZEROALL || z.mnemonic == ZYDIS_MNEMONIC_VZEROUPPER))
		in->kind = K_MASKMOV;
	retarget_legacy(in);
	if (z.cpu_flags) {
		bool by_cl = z.opcode_map == ZYDIS_OPCODE_MAP_0F ? (z.opcode & 1)
								  : z.opcode == 0xd2 || z.opcode == 0xd3;
		uint32_t cond = 0;

		in->f_read = z.cpu_flags->tested & FL_ARITH;
		in->f_write = (z.cpu_flags->modified | z.cpu_flags->set_0 | z.cpu_flags->set_1 |
			       z.cpu_flags->undefined) & FL_ARITH;
		/* a count of zero leaves all flags alone */
		if ((z.meta.category == ZYDIS_CATEGORY_SHIFT || z.meta.category == ZYDIS_CATEGORY_ROTATE) &&
		    !in->vex && (by_cl || !(in->imm & 0x1f)) && !(z.opcode >= 0xd0 && z.opcode <= 0xd1))
			cond = FL_ARITH;
		in->f_kill = in->f_write & ~cond;
	}
	if (z.mnemonic == ZYDIS_MNEMONIC_PAUSE && (z.attributes & ZYDIS_ATTRIB_HAS_REX) && z.raw.rex.B) {
		/* F3 REX.B 90 is XCHG R8, RAX all the same */
		in->kind = K_GENERIC;
		in->opc = (struct insn_reg){.on = 1, .g = R_8, .width = in->w ? 8 : in->p66 ? 2 : 4,
					    .acc = ACC_R | ACC_W};
	}
	in->align = align_of(&z, in);
	if (in->evex)
		evex_take_mask(in, &z, ops);
	in->host_fault = in->need || hint || z.mnemonic == ZYDIS_MNEMONIC_DIV ||
			 z.mnemonic == ZYDIS_MNEMONIC_IDIV || z.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B;
	return 0;
}
