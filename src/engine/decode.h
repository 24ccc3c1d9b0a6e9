/* SPDX-License-Identifier: MIT
 *
 * engine/decode: one guest instruction, as the translator and the bounce
 * executor want it. Zydis finds the fields; this file says what kind it is.
 */
#ifndef BELFRY_ENGINE_DECODE_H
#define BELFRY_ENGINE_DECODE_H

#include "engine/engine_priv.h"

enum insn_kind {
	K_UD,	   /* undefined for this guest */
	K_GENERIC, /* the host runs it, operands renamed */
	K_NOP,	   /* nothing to do (NOP, ENDBR, PREFETCH) */
	K_LEA,
	K_BT,	   /* BT family with memory operand and register offset */
	K_XLAT,
	K_MASKMOV, /* MASKMOVDQU/Q, VMASKMOV, VPMASKMOV: elements may be masked; VZEROALL, 32-bit */
	K_GATHER,
	/* control flow */
	K_JCC, K_LOOP, K_JMP, K_CALL, K_JMP_IND, K_CALL_IND, K_RET,
	/* stack */
	K_PUSH, K_POP, K_LEAVE, K_STACK, /* the last: everything else that stack_exec does */
	K_STRING,
	/* short ones with a fast path in the translator */
	K_CLI, K_STI, K_CLD, K_STD, K_STAC, K_CLAC, K_SWAPGS, K_RDTSC, K_PUSHF, K_RDBASE, K_WRBASE,
	K_RDSEL,   /* MOV r, Sreg */
	K_PAUSE,   /* counted: a vCPU that spins gives way */
	/* C only */
	K_SYS, K_CTL, K_SEG, K_FAR, K_LEGACY, K_FPUSTATE, K_IRET,
};

#define ACC_R 1u
#define ACC_W 2u

/* A general register in one of the places an instruction can name one. */
struct insn_reg {
	uint8_t on;    /* there is one */
	uint8_t g;     /* guest number */
	uint8_t width; /* bytes */
	uint8_t high8; /* ah, ch, dh, bh: g is the register they are in */
	uint8_t acc;   /* ACC_* ; a conditional write counts as both */
};

#define NEED_X87 1u
#define NEED_MMX 2u
#define NEED_SSE 4u
#define NEED_AVX 8u
#define NEED_AVX512 16u /* opmasks, ZMM: comes with NEED_AVX */

struct insn {
	uint8_t bytes[15];
	uint8_t len;
	uint16_t mnem; /* ZydisMnemonic */
	uint8_t kind;
	uint8_t code;  /* code size: 2, 4, 8 */
	uint8_t opsize, addrsize; /* bytes */
	uint8_t rep;   /* 0, 0xf3, 0xf2 */
	bool lock;
	bool host_fault; /* the host may fault on it (#DE, #MF, #XM, alignment) */
	uint8_t need;	 /* NEED_* */
	uint8_t align;	 /* the memory operand must be aligned to this, or 0 */

	/* encoding */
	bool vex, evex, has_modrm, p66, w, moffs;
	uint8_t mand; /* mandatory F2/F3, or 0 */
	uint8_t map;  /* 0, 0x0f, 0x38, 0x3a, 0x0e (3DNow!) */
	uint8_t opcode, mod, reg_no, rm_no;
	uint8_t vex_l, vex_pp, vvvv_no;
	uint8_t evex_p[3];	/* EVEX: the bytes behind 62h, as the guest has them */
	uint8_t mask_no;	/* EVEX: the opmask register, 0: none */
	/* of memory that an opmask may spare: bytes of an element, 0: all is always accessed; elements
	 * in the destination; and only as many are in memory as bits are set (VPCOMPRESS, VPEXPAND) */
	uint8_t elem_size, elems;
	bool packed;
	uint8_t imm_off, imm_len; /* all trailing immediate bytes */
	struct insn_reg reg, rm, vvvv, opc;

	/* memory operand */
	bool has_mem, vsib;
	uint8_t mem_acc;
	uint8_t seg;		/* S_* */
	int8_t base, index;	/* guest registers (VSIB: a vector's), -1 none, -2 RIP */
	uint8_t scale;		/* 0 to 3 */
	uint16_t mem_size;
	int64_t disp;

	int64_t imm, imm2;
	uint32_t f_read, f_write, f_kill; /* arithmetic flags */
	uint16_t gpr_w;			  /* general registers written, implied ones too */
};

/*
 * Decode n bytes at p for the code size (2, 4, 8). Returns 0; -ENODATA if more
 * bytes are needed; K_UD is not an error. Calls Zydis: fpu_put() first.
 */
int insn_decode(struct engine_vcpu *v, const uint8_t *p, unsigned int n, unsigned int code,
		struct insn *in);

/* The same from memory, if the same bytes were decoded lately. fpu_put() first. */
int insn_decode_memo(struct engine_vcpu *v, const uint8_t *p, unsigned int n, unsigned int code,
		     struct insn *in);

/* Fill v->ext_ok and v->feat from the guest's and the host's CPUID. */
void features_update(struct engine_vcpu *v);

#endif
