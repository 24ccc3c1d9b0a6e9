/* SPDX-License-Identifier: MIT
 *
 * engine/emit: bytes of host code. Nothing here knows of blocks or guests.
 * Intel SDM vol. 2, "Instruction Format".
 */
#ifndef BELFRY_ENGINE_EMIT_H
#define BELFRY_ENGINE_EMIT_H

#include "engine/decode.h"

struct emit {
	uint8_t *p, *end; /* p > end: overflow, the bytes after end were not written */
};

enum { H_AX, H_CX, H_DX, H_BX, H_SP, H_BP, H_SI, H_DI, H_8, H_9, H_10, H_11, H_12, H_13, H_14, H_15 };

/* Host registers with a part of their own. Guest RSP is H_15; guest R9, R10, R11 and R15 are in
 * memory. */
#define S0   H_9
#define S1   H_10
#define S2   H_11
#define HRSP H_15

/* Host register of a guest register, -1 if it is kept in memory. */
static inline int host_reg(unsigned int g)
{
	static const int8_t map[16] = {0, 1, 2, 3, HRSP, 5, 6, 7, 8, -1, -1, -1, 12, 13, 14, -1};

	return map[g & 15];
}

struct hmem {
	int8_t base, index; /* host registers, -1 none */
	uint8_t scale;	    /* 0 to 3 */
	bool gs;	    /* relative to the vCPU */
	int32_t disp;
};

#define GS_MEM(field) ((struct hmem){.base = -1, .index = -1, .gs = true, \
				     .disp = (int32_t)offsetof(struct engine_vcpu, field)})

/* The base of segment s. */
static inline struct hmem gs_seg_base(unsigned int s)
{
	return GS_MEM(seg[s].base);
}

static inline struct hmem gs_gpr(unsigned int g)
{
	return (struct hmem){.base = -1, .index = -1, .gs = true,
			     .disp = (int32_t)(offsetof(struct engine_vcpu, gpr) + 8 * g)};
}

static inline struct hmem at(int base, int32_t disp)
{
	return (struct hmem){.base = (int8_t)base, .index = -1, .disp = disp};
}

static inline void e1(struct emit *e, uint8_t b)
{
	if (e->p < e->end)
		*e->p = b;
	e->p++;
}

void e4(struct emit *e, uint32_t x);
void e8(struct emit *e, uint64_t x);

/* op: 0xNN, 0x0fNN, 0x0f38NN; w: 64-bit operand. */
void e_rm(struct emit *e, uint32_t op, bool w, int reg, const struct hmem *m);
void e_rr(struct emit *e, uint32_t op, bool w, int reg, int rm);

void e_mov_imm(struct emit *e, int reg, uint64_t imm);	       /* shortest form, flags kept */
void e_mov_rr(struct emit *e, int d, int s);		       /* 64 bits */
void e_load(struct emit *e, int reg, struct hmem m);	       /* 64 bits */
void e_store(struct emit *e, struct hmem m, int reg);
void e_store_imm32(struct emit *e, struct hmem m, int32_t imm); /* 64-bit store, sign-extended */
void e_lea(struct emit *e, int reg, struct hmem m, bool w);
/* group 1 with a 32-bit immediate: op 0 add … 7 cmp */
void e_alu_imm(struct emit *e, int op, bool w, int reg, int32_t imm);
void e_shift(struct emit *e, int op, int reg, uint8_t n); /* 4 shl, 5 shr, 7 sar; 64 bits */
void e_align(struct emit *e, unsigned int to); /* by NOPs; a power of two */
/* Jump with a 32-bit displacement to be filled in; returns where. cc: -1 always. */
uint8_t *e_jcc(struct emit *e, int cc);
void e_jmp_to(struct emit *e, const uint8_t *target); /* target in the same view */
void e_call_to(struct emit *e, const uint8_t *target);
void e_patch(struct emit *e, uint8_t *at4, const uint8_t *target);
static inline void e_patch_here(struct emit *e, uint8_t *at4)
{
	e_patch(e, at4, e->p);
}

/* Where the operands of a re-encoded instruction are. */
struct operands {
	int reg, rm, vvvv, opc; /* host registers, -1: as in the guest's bytes */
	bool mem;		/* the r/m operand is m (guest memory, or a spilled register) */
	struct hmem m;
};
void e_insn(struct emit *e, const struct insn *in, const struct operands *o);

#endif
