/* SPDX-License-Identifier: MIT
 *
 * engine/translate: what the translator's files share.
 */
#ifndef BELFRY_ENGINE_TRANSLATE_H
#define BELFRY_ENGINE_TRANSLATE_H

#include "engine/cache.h"

#define BLOCK_MAX 48 /* instructions */

/* A way out of line: the jump at patch leads here. */
struct late {
	uint8_t *patch;
	uint32_t site;
	bool constant;	   /* address is value, else expr */
	uint64_t value;
	struct hmem expr;
};

struct tr {
	struct emit e;
	struct engine_vcpu *v;
	struct cache *c;
	struct block *b;
	struct insn in[BLOCK_MAX];
	uint32_t live[BLOCK_MAX + 1]; /* arithmetic flags needed before instruction i */
	unsigned int n, i;	      /* all; the one being emitted */
	uint64_t rip;		      /* of the one being emitted */
	uint32_t mode;		      /* as it stands there */
	bool saved;		      /* guest flags are in flsave, the host's are free */
	bool after_sti;		      /* the block ends behind this instruction */
	bool ended;
	struct late late[3 * BLOCK_MAX];
	unsigned int n_late;
};

static inline uint32_t tr_off(const struct tr *t)
{
	return (uint32_t)(t->e.p - t->c->rw);
}

static inline bool flat32(const struct tr *t)
{
	return !(t->mode & MODE_64);
}

/* translate_mem.c */
void flags_save(struct tr *t);	  /* if they are in the processor */
void flags_restore(struct tr *t); /* if they are saved */
/* Before code that destroys the host's flags: save them if someone still needs them. */
void flags_free(struct tr *t);
/* Linear address of in's memory operand as a host expression. False: let C do it. */
bool ea_emit(struct tr *t, const struct insn *in, struct hmem *x, uint64_t *value, bool *constant);
/*
 * Look up `size` bytes at x (or the constant value) for reading or writing; the host address is
 * in *out, which uses S1 and perhaps S0 (one: only S0). Leaves the flags free, not restored.
 */
bool lookup_emit(struct tr *t, struct hmem x, bool constant, uint64_t value, bool narrow,
		 unsigned int size, bool write, bool one, struct hmem *out);
void late_emit(struct tr *t);

/* translate_flow.c: true if the instruction was emitted, false: let C do it */
bool flow_emit(struct tr *t, const struct insn *in);
bool stack_emit(struct tr *t, const struct insn *in);
/* Leave for C to execute the present instruction. */
void insn_exit_emit(struct tr *t);
/* Jump to a guest address. cc: condition, -1 always. */
void link_emit(struct tr *t, int cc, uint64_t target);
void links_finish(struct tr *t);

#endif
