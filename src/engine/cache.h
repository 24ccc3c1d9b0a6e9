/* SPDX-License-Identifier: MIT
 *
 * engine/cache: translated code of one vCPU: memory, blocks, links, pages.
 * Only the vCPU's own thread touches it. docs/ENGINE.md, "Blocks".
 */
#ifndef BELFRY_ENGINE_CACHE_H
#define BELFRY_ENGINE_CACHE_H

#include "engine/emit.h"

struct block;

/* A direct jump out of a block. Until it is chained it goes to its own stub. */
struct link {
	uint64_t target;	/* guest rip */
	uint32_t mode;		/* of the target */
	uint32_t block;		/* index of the block that it leaves */
	uint32_t patch;		/* code offset of the 32-bit displacement */
	uint32_t stub;		/* code offset of the way out */
	uint8_t entry;		/* which entry of the target to take: ENTRY_* */
	struct block *to;	/* chained to */
	struct link *next_in, **prev_in; /* in to->incoming */
};

/* A place where translated code looks an address up: what tlb_miss needs. */
struct site {
	uint64_t rip;
	uint32_t retry;	  /* code offset */
	uint16_t size;
	uint8_t write;	  /* ACC_W also checks write */
	uint8_t mode;	  /* enum tlb_mode */
	uint8_t cls;	  /* part of the table */
	uint8_t flags_saved; /* guest flags are in flsave */
};

/* Where the host may fault inside a block. */
struct fault_at {
	uint32_t off; /* code offset of the host instruction */
	uint16_t rip; /* offset from the block's rip */
	uint8_t flags_saved;
};

/*
 * Ways into a block (docs/ENGINE.md, "Entries"). IND: target in S0, flags in
 * flsave. SAVED: from anywhere, flags in flsave. CROSS: from another page, flags
 * in the processor. LOOP: from the same page backwards. BODY: from the same page
 * forwards.
 */
enum { ENTRY_IND, ENTRY_SAVED, ENTRY_CROSS, ENTRY_LOOP, ENTRY_BODY, ENTRY_COUNT };

struct block {
	uint64_t rip;
	gpa_t gpa;
	uint32_t mode;
	uint16_t len;		/* guest bytes */
	bool dead;
	uint32_t entry[ENTRY_COUNT]; /* code offsets */
	uint32_t end;
	uint32_t fault0, n_faults;
	struct block *hash_next, *page_next;
	struct link *incoming;
	uint32_t link0, n_links;
};

struct code_page {
	gpa_t gpa;
	struct block *blocks;
	struct code_page *next;
	uint64_t granules;	/* 64 bytes each: which hold code */
	unsigned int spared;	/* stores beside code so far */
	uint8_t copy[4096] __attribute__((aligned(16)));	/* what the blocks were made from */
};

#define BLOCK_HASH 65536u
#define PAGE_HASH  4096u
#define THUNK_SIZE 160u

struct cache {
	uint8_t *rw, *rx; /* two views of one memfd */
	size_t size;
	int fd;
	uint32_t pos, base; /* next free; first after stubs and thunks */
	struct block *blocks;
	uint32_t n_blocks, max_blocks;
	struct link *links;
	uint32_t n_links, max_links;
	struct site *sites;
	uint32_t n_sites, max_sites;
	struct fault_at *faults;
	uint32_t n_faults, max_faults;
	struct block *hash[BLOCK_HASH];
	struct code_page *pages[PAGE_HASH], *free_pages;
	/* stubs, code offsets */
	uint32_t s_enter, s_link, s_find, s_insn, s_attn, s_miss, s_fault, s_tlb, s_thunk, s_exit;
	uint32_t thunks;
};

int cache_create(struct engine_vcpu *v);
void cache_destroy(struct engine_vcpu *v);
void cache_flush(struct engine_vcpu *v);	     /* forget all blocks */
void cache_drop_page(struct engine_vcpu *v, gpa_t gpa);
/* A store of len bytes at gpa touches no code, and there were not too many such. */
bool cache_spare_write(struct engine_vcpu *v, gpa_t gpa, unsigned int len);
void cache_page_verify(struct engine_vcpu *v, gpa_t gpa, const uint8_t *host);

/* The block for (gpa, rip, mode), NULL if there is none. */
struct block *cache_find(struct cache *c, gpa_t gpa, uint64_t rip, uint32_t mode);
struct block *cache_by_host(struct cache *c, uint64_t host);
/* Enter a finished block into hash and page; host: the guest page. False: no memory, forget it. */
bool cache_add(struct engine_vcpu *v, struct block *b, const uint8_t *host_page);
void cache_chain(struct cache *c, struct link *l, struct block *to);
void cache_unchain(struct cache *c, struct link *l);

/* Room for one more block, or flush. */
void cache_reserve(struct engine_vcpu *v);

static inline uint64_t itlb_key_of(uint64_t tag, gpa_t gpa)
{
	/* the low 36 bits of the page number tell all of a canonical address; 40 bits of gpa */
	return gpa >> 40 ? ~0ull : tag << 28 | gpa >> 12;
}

static inline void *cache_rx(const struct cache *c, uint32_t off)
{
	return c->rx + off;
}

static inline void *cache_enter_pc(const struct cache *c, const struct block *b)
{
	return c->rx + b->entry[ENTRY_BODY];
}

/* translate.c: make the block at v->rip in page e; NULL: execute one instruction in C */
struct block *block_translate(struct engine_vcpu *v, const struct itlb_entry *e);

/* reencode.c */
/* Emit a K_GENERIC instruction; mem: where its memory operand is (NULL: none). free_regs: mask of
 * S0..S2 that may be used. Returns false if it cannot be done. fault: receives the code address of
 * the instruction itself. */
bool insn_reencode(struct emit *e, const struct insn *in, const struct hmem *mem, unsigned int free_regs,
	      uint8_t **fault);
#define FREE_S0 1u
#define FREE_S1 2u
#define FREE_S2 4u

#endif
