/* SPDX-License-Identifier: MIT
 *
 * engine/cache: translated code of one vCPU: memory, blocks, links, pages.
 * Only the vCPU's own thread touches it. docs/ENGINE.md, "Blocks".
 */
#ifndef BELFRY_ENGINE_CACHE_H
#define BELFRY_ENGINE_CACHE_H

#include "engine/emit.h"

struct block;

/*
 * There are many of each of these: they name each other by index (0: none) and
 * places in code by offset. docs/ENGINE.md, "Memory".
 */

/* A direct jump out of a block. Until it is chained it goes to its own stub. */
struct link {
	uint64_t target;	/* guest rip */
	uint32_t mode;		/* of the target */
	uint32_t patch;		/* code offset of the 32-bit displacement */
	uint32_t to;		/* block: chained to */
	uint32_t next_in, prev_in; /* links: in to's list; prev_in 0: the first */
	uint16_t stub;		/* the way out: bytes from patch */
	uint8_t entry;		/* which entry of the target to take: ENTRY_* */
};

/* A place where translated code looks an address up: what tlb_miss needs. */
struct site {
	uint32_t retry;	  /* code offset */
	uint16_t rip;	  /* offset from the block's rip */
	uint16_t split;	  /* bytes from retry: the way to the same code without groups, or 0 */
	uint16_t size;
	uint8_t write : 1;	 /* ACC_W also checks write */
	uint8_t mode : 2;	 /* enum tlb_mode */
	uint8_t cls : 2;	 /* part of the table */
	uint8_t ahead : 1;	 /* made before the access: the guest must not see it */
	uint8_t flags_saved : 1; /* guest flags are in flsave */
};

/* Where the host may fault inside a block. */
struct fault_at {
	uint32_t off; /* code offset of the host instruction */
	uint16_t rip; /* offset from the block's rip */
	uint8_t flags_saved;
};

/*
 * Ways into a block (docs/ENGINE.md, "Entries"). IND: target in S0, flags in
 * flsave. SAVED: from anywhere, flags in flsave. BACK: from the host's RET, which
 * proves that C has not run since the call; flags in flsave. CROSS: from another page, flags
 * in the processor. LOOP: from the same page backwards. BODY: from the same page
 * forwards.
 */
enum { ENTRY_IND, ENTRY_SAVED, ENTRY_BACK, ENTRY_CROSS, ENTRY_LOOP, ENTRY_BODY, ENTRY_COUNT };

struct block {
	uint64_t rip;
	gpa_t gpa;
	uint32_t mode;
	uint16_t len;		/* guest bytes */
	uint8_t n_faults, n_links;
	uint32_t entry[ENTRY_COUNT]; /* code offsets */
	uint32_t end : 30, dead : 1, head : 1; /* code offset; head: a backward jump led here first */
	uint32_t fault0, link0;
	uint32_t hash_next, page_next; /* blocks */
	uint32_t second;	/* the page that its only instruction ends in, not begins; PAGE_OF() or 0 */
	uint32_t second_next;	/* blocks that end there */
	uint32_t incoming;	/* the first link that is chained to this block */
};

/* Code lies below 2^40 (itlb_key_of()). */
#define PAGE_OF(gpa) ((uint32_t)((gpa) >> 12) + 1)
#define SECOND_GPA(b) ((gpa_t)((b)->second - 1) << 12)

struct code_page {
	gpa_t gpa;
	struct code_page *next;
	uint64_t granules;	/* 64 bytes each: which hold code */
	uint64_t sum;		/* of the bytes in them that the blocks were made from */
	uint32_t blocks;	/* the first that begins here */
	uint32_t ending;	/* the first that begins in another page and ends here */
	uint32_t spared;	/* stores beside code so far */
};

#define BLOCK_HASH 65536u
#define PAGE_HASH  4096u
#define THUNK_SIZE 160u
#define RETURN_STACK 8192u /* bytes; half of it is used (docs/ENGINE.md, "Returns") */

/*
 * Code memory and tables are filled in spans. When there is no more to take, the
 * oldest span's blocks are forgotten and it is filled anew (space.c).
 */
#define SPAN_CODE   (512u << 10)
#define SPAN_BLOCKS 4096u
#define SPAN_LINKS  12288u
#define SPAN_SITES  8192u
#define SPAN_FAULTS 4096u
#define SPAN_COST   (768u << 10) /* of a filled one, tables included */
#define SPAN_MAX    512u

struct span {
	uint32_t n_blocks; /* in use: up to this index */
	uint16_t next;	   /* the one filled after it */
	bool owned;
};

struct cache {
	uint8_t *rw, *rx; /* two views of one memfd */
	size_t size;
	int fd;
	uint32_t base; /* first after stubs and thunks */
	struct block *blocks;
	struct link *links;
	struct site *sites;
	struct fault_at *faults;
	uint32_t pos, n_blocks, n_links, n_sites, n_faults; /* next free, in the span being filled */
	uint16_t oldest, filling; /* spans */
	uint16_t n_owned, n_spans; /* spans: taken; there can be */
	uint32_t patches; /* since space_idle() last did something */
	uint32_t generation; /* changes when a block is dropped */
	uint32_t hash[BLOCK_HASH];
	struct code_page *pages[PAGE_HASH], *free_pages;
	uint64_t sum_key[4]; /* random: of the sums of pages */
	struct span span[SPAN_MAX];
	/* stubs, code offsets */
	uint32_t s_enter, s_link, s_find, s_insn, s_attn, s_miss, s_fault, s_fault_end, s_tlb, s_step, s_thunk, s_under,
		s_jump, s_recent[TM_COUNT][2];
	uint32_t thunks;
};

/* Through the jump cache to the guest address in S0; op 2: call, 4: jump. Destroys S1, keeps S2. */
void jump_emit(struct emit *e, int op);
int cache_create(struct engine_vcpu *v);
void cache_first_run(struct engine_vcpu *v); /* the first engine_run() */
void cache_destroy(struct engine_vcpu *v);
void cache_flush(struct engine_vcpu *v);	     /* forget all blocks */
void cache_drop_page(struct engine_vcpu *v, gpa_t gpa);
/* A store of len bytes at gpa touches no code, and there were not too many such. */
bool cache_spare_write(struct engine_vcpu *v, gpa_t gpa, unsigned int len);
/* What the host has there, marked or not, is about to be run: drop the page's blocks unless they are
 * of these bytes, and stores to them will be seen. */
void cache_page_verify(struct engine_vcpu *v, gpa_t gpa, const uint8_t *host, bool marked);

/* The block for (gpa, rip, mode), NULL if there is none; second: as there, 0: any. */
struct block *cache_find(struct cache *c, gpa_t gpa, uint64_t rip, uint32_t mode, uint32_t second);
struct block *cache_by_host(struct cache *c, uint64_t host);
/* Enter a finished block into hash and pages; page, second: where the host has them; granules of the
 * first: what it was made from besides its own bytes. False: no memory, forget it. */
bool cache_add(struct engine_vcpu *v, struct block *b, const uint8_t *page, const uint8_t *second,
	       uint64_t granules);
void cache_chain(struct cache *c, struct link *l, struct block *to);
void cache_unchain(struct cache *c, struct link *l);

void cache_evict(struct engine_vcpu *v, uint32_t first, uint32_t end); /* drop these blocks */

/* space.c */
int space_create(struct engine_vcpu *v);
void space_destroy(struct engine_vcpu *v);
void space_reset(struct cache *c); /* nothing is in use any more */
static inline size_t space_held(const struct cache *c)
{
	return (size_t)c->n_owned * SPAN_CODE;
}
/* Room for one more block; drops the oldest if there is none. */
void space_reserve(struct engine_vcpu *v);
/* The guest has nothing to do: let go of pages that are resident twice, if that pays. */
void space_idle(struct engine_vcpu *v);

static inline uint64_t itlb_key_of(uint64_t tag, gpa_t gpa)
{
	/* the low 36 bits of the page number tell all of a canonical address; 40 bits of gpa */
	return gpa >> 40 ? ~0ull : tag << 28 | gpa >> 12;
}

/* May blocks be made from this page, and be found again? */
static inline bool itlb_holds_code(const struct engine_vcpu *v, const struct itlb_entry *e)
{
	return e->host && v->itlb_key[data_mode(v)][e->tag & (ITLB_SIZE - 1)] != ~0ull;
}

/* The linear address of the page behind RIP's. */
static inline uint64_t page_behind(const struct engine_vcpu *v)
{
	uint64_t next = (v->rip & PAGE_MASK_) + 4096;

	return v->mode & MODE_64 ? next : (uint32_t)next;
}

static inline void *cache_rx(const struct cache *c, uint32_t off)
{
	return c->rx + off;
}

static inline void *cache_enter_pc(const struct cache *c, const struct block *b)
{
	return c->rx + b->entry[ENTRY_BODY];
}

/* translate.c: make the block at v->rip in page e for the mode; head: a backward jump leads here.
 * NULL: execute one instruction in C */
struct block *block_translate(struct engine_vcpu *v, const struct itlb_entry *e, uint32_t mode, bool head);

/*
 * Whose code in block b is at this code offset? Nothing is kept to tell: the block is made once more,
 * without writing anything. False: its guest code is not what it was.
 */
struct located {
	uint64_t rip;
	struct insn in;
	bool flags_saved; /* guest flags are in flsave there */
};
bool block_locate(struct engine_vcpu *v, struct block *b, uint32_t off, struct located *l);

/* The one instruction of a block across pages, which the host has there. False: it is not one any more. */
bool insn_decode_across(struct engine_vcpu *v, const struct block *b, const uint8_t *page, const uint8_t *second,
			struct insn *in);

/* reencode.c */
/* What the code of an instruction keeps elsewhere while it accesses memory: put it back. */
void insn_undo(struct engine_vcpu *v, const struct insn *in);
static inline bool insn_high8(const struct insn *in)
{
	return (in->reg.on && in->reg.high8) || (in->rm.on && in->rm.high8) || (in->opc.on && in->opc.high8);
}

/* A register that the guest has in memory, and what an instruction does with it. */
#define SPILLS_MAX 4
struct spill {
	uint8_t g;
	int8_t h;    /* where it is for the instruction: S0 to S2; -1: it stays in memory */
	bool memory; /* it may */
	bool load, store; /* around the instruction */
};
/* All that in's operands name; h is the caller's to choose, and load to clear. Returns how many. */
unsigned int insn_spills(const struct insn *in, struct spill s[SPILLS_MAX]);
/*
 * Emit a K_GENERIC instruction; mem: where its memory operand is (NULL: none). One with a high byte
 * (insn_high8) takes S2. False: it cannot be done. fault: receives the code address of the
 * instruction itself.
 */
bool insn_reencode(struct emit *e, const struct insn *in, const struct hmem *mem, const struct spill *s,
		   unsigned int n, uint8_t **fault);

#endif
