/* SPDX-License-Identifier: MIT
 *
 * Random instruction sequences and states to begin with, for engine_diff: what a processor
 * in user mode can execute wherever it is and say the same result of.
 */
#ifndef TESTS_DIFF_SEQ_H
#define TESTS_DIFF_SEQ_H

#include "engine/engine.h"

#include <Zydis/Zydis.h>

#define ARENA	  0x10000000ull /* data: 4 pages read-write, one read-only, then nothing */
#define ARENA_LEN 0x4000u
#define RO_PAGE	  (ARENA + ARENA_LEN)
#define CODE	  0x20000000ull
#define AREA	  0x18000000ull /* for XSAVE; nobody else knows of it */
#define AREA_GPA  0x600000u
#define ARENA_GPA 0x400000u
#define CODE_GPA  0x500000u
#define CODE_LEN  0x2000u

struct diff_state {
	uint64_t gpr[16], rip;
	uint32_t flags;
	int vector; /* -1: reached the end */
	uint64_t error, addr;
	uint8_t xs[ENGINE_XSAVE_SIZE] __attribute__((aligned(64)));
	uint8_t mem[ARENA_LEN];
};

struct diff_seq {
	uint8_t b[2048]; /* ends with INT3 */
	unsigned int n;
	uint64_t rip;	 /* of its first byte */
	uint32_t undef;	 /* flags with undefined values at the end */
	bool compat;	 /* 32-bit code in compatibility mode, else 64-bit code */
	bool wide;	 /* with AVX-512 */
	bool restored;	 /* from AREA */
	bool compact;	 /* it is by XSAVEC, of some components */
	uint64_t rng;
	ZydisDecoder dec;
};

/* The places of the components of an XSAVE image, from 2 on: CPUID leaf 0Dh. The user fills it. */
struct diff_component {
	unsigned int off, size;
};
extern struct diff_component diff_xcomp[8];

/* What this seed stands for, always the same: one in four is 32-bit code. wide: the engine offers AVX-512. */
void diff_make(struct diff_seq *s, uint64_t seed, bool wide, struct diff_state *in, uint8_t area[4096]);
/* Disassembled, to standard output. */
void diff_print(const struct diff_seq *s);

#endif
