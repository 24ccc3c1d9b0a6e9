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
	bool recent;	   /* the tables first: it was only not the recent page */
	uint8_t *back;	   /* then: to here */
	int keep;	   /* and with this guest register in S2, -1 */
	uint16_t size;
	bool restore;	   /* flags are in flsave and wanted */
	uint16_t group;	   /* bytes, if it may also go to the code without groups */
	uint32_t mode;
	uint64_t value, rip;
	struct hmem expr;
};

/* Symbolic values of registers: an unknown and a constant. */
enum { VAL_FS = 16, VAL_GS, VAL_COUNT };
struct val {
	uint16_t id;
	int64_t delta;
};

/* Bytes at constant distances that one look-up serves. */
struct group {
	int64_t lo, hi; /* from the sum of the unknowns */
	uint16_t base_id, index_id, seg_id;
	uint8_t scale, epoch, seg;
	int8_t base, index; /* registers of the first access */
	uint8_t first, check; /* its instruction; the one before which the look-up comes */
	uint8_t total, n;     /* accesses; those to come */
	bool write, done;
	bool hoisted;	      /* the second copy of a loop has its addend from the first */
	int16_t step;	      /* what its addresses gain in an iteration */
	bool kept; /* its addend is in addend[] */
};
struct access {
	int8_t group; /* -1: none */
	int32_t at;
};

/* A group's addend, by its number; a guest register that is in memory as well; nothing. */
#define HELD_NONE (-1)
#define HELD_GPR  64 /* + number */

struct tr {
	struct emit e;
	struct engine_vcpu *v;
	struct cache *c;
	struct block *b;
	const uint8_t *page, *second; /* where the host has the pages that it is made from */
	struct insn in[BLOCK_MAX];
	uint32_t live[BLOCK_MAX + 1]; /* arithmetic flags needed before instruction i */
	uint64_t peeked;	      /* granules of the page that live[] depends on besides */
	unsigned int n, i;	      /* all; the one being emitted */
	uint64_t rip;		      /* of the one being emitted */
	uint32_t mode;		      /* as it stands there */
	struct val val[BLOCK_MAX][VAL_COUNT], val_end[VAL_COUNT];
	uint8_t epoch[BLOCK_MAX];
	struct group groups[GROUP_MAX];
	struct access acc[BLOCK_MAX][2];
	unsigned int n_groups, n_acc;  /* n_acc: of the present instruction so far */
	int held[3];		      /* what S0, S1 and S2 hold: HELD_* */
	bool split;		      /* no groups */
	bool loop;		      /* has a second copy, or is one */
	int8_t pace;		      /* a register, -1: nothing moves */
	int16_t pace_step;
	uint8_t *back;		      /* the jump to the block's own begin */
	uint8_t *head;		      /* of the second copy, NULL: it is not the one being emitted */
	int head_held[2];	      /* what held is there */
	const uint8_t *attn_out;
	bool saved;		      /* guest flags are in flsave, the host's are free */
	uint8_t *fpu_out;	      /* the jump out of the check for SIMD state, or NULL; */
	uint64_t fpu_rip;	      /* the instruction that it comes before, */
	bool fpu_saved;		      /* and `saved` there */
	bool after_sti;		      /* the block ends behind this instruction */
	bool ended;
	struct late late[4 * BLOCK_MAX + GROUP_MAX];
	unsigned int n_late;
	/* block_locate(): which instruction's code is at this offset (0: nobody asks), flags saved? */
	uint32_t probe;
	unsigned int probe_i;
	uint64_t probe_rip;
	bool probe_saved;
};

static inline uint32_t tr_off(const struct tr *t)
{
	return (uint32_t)(t->e.p - t->c->rw);
}

static inline bool flat32(const struct tr *t)
{
	return !(t->mode & MODE_64);
}

/* From here on code is of the present instruction, with the flags where they are now. */
static inline void probe_note(struct tr *t)
{
	if (t->probe && tr_off(t) <= t->probe) {
		t->probe_i = t->i;
		t->probe_rip = t->rip;
		t->probe_saved = t->saved;
	}
}

/* translate_live.c */
bool ends_block(const struct insn *in); /* always leaves the block, or C always executes it */
void liveness(struct tr *t, const uint8_t *page); /* live[], from all of in[] and of the page */

/* translate_mem.c */
void flags_save(struct tr *t);	  /* if they are in the processor */
void flags_restore(struct tr *t); /* if they are saved */
/* Before code that destroys the host's flags: save them if someone still needs them. */
void flags_free(struct tr *t);
/* Linear address of in's memory operand as a host expression. False: let C do it. */
bool ea_emit(struct tr *t, const struct insn *in, struct hmem *x, uint64_t *value, bool *constant);
/*
 * The look-up itself: leave host - guest address in S1 if [x + off, + size) is within a page that
 * may be read or written. x may become S0. ahead: the access comes later; split: if it cannot be
 * done, go on in a block without groups.
 */
bool check_emit(struct tr *t, struct hmem *x, int32_t off, unsigned int size, bool write, bool ahead,
		bool split);
/*
 * Look up `size` bytes at x (or the constant value) for reading or writing; the host address is
 * in *out, which uses S1 and perhaps S0 (one: only S0). Leaves the flags free, not restored.
 */
bool lookup_emit(struct tr *t, struct hmem x, bool constant, uint64_t value, bool narrow,
		 unsigned int size, bool write, bool one, struct hmem *out);
/* The table's place in struct engine_vcpu for the present mode. */
int32_t table_at(const struct tr *t, bool write, unsigned int cls);
void late_emit(struct tr *t);
void group_made(struct tr *t, struct group *s); /* its look-up has just been emitted */
/*
 * S0 to S2 keep addends of groups and guest registers that are in memory while they can.
 * docs/ENGINE.md, "Scratch registers".
 */
void scratch_lost(struct tr *t, int reg); /* it is about to hold something else */
void scratch_forget(struct tr *t);	  /* they hold nothing */
void scratch_holds(struct tr *t, int reg, unsigned int g); /* g, as the memory does, and nothing else does */
int scratch_with(const struct tr *t, unsigned int g);	   /* the one that holds g, -1 */
/* A register with guest register g to be read: its own, one that holds it, else `scratch`. */
int gpr_read(struct tr *t, unsigned int g, int scratch);
/* Place the instruction's registers that are in memory; none in m's registers. False: there is no room. */
bool spills_place(struct tr *t, const struct insn *in, const struct hmem *m, struct spill *s, unsigned int n);
void spills_done(struct tr *t, const struct spill *s, unsigned int n);
struct hmem addend_of(int k);		  /* where a group's addend is kept */
bool addend_wanted(const struct tr *t, int k); /* there are accesses to come */
void gprs_forget(struct tr *t);

/* translate_group.c */
void groups_plan(struct tr *t);
bool group_check_emit(struct tr *t, struct group *s); /* the look-up, before instruction t->i */

/* translate_loop.c */
bool loop_plan(struct tr *t);
bool loop_head_emit(struct tr *t);
void loop_hold(struct tr *t); /* S0 and S1 hold what they do at the second copy's head */

/* translate_flow.c: true if the instruction was emitted, false: let C do it */
bool flow_emit(struct tr *t, const struct insn *in);
bool stack_emit(struct tr *t, const struct insn *in);
/* translate_string.c */
bool string_emit(struct tr *t, const struct insn *in);
/* Have C execute the present instruction; in: what is known of it, or NULL. */
void insn_exit_emit(struct tr *t, const struct insn *in);
/* Jump to a guest address. cc: condition, -1 always. */
void link_emit(struct tr *t, int cc, uint64_t target);
void links_finish(struct tr *t);
/* Jump to the same place in a block without groups. */
void link_split_emit(struct tr *t, uint64_t rip, uint32_t mode);

#endif
