/* SPDX-License-Identifier: MIT
 * What block.c shares with its engines. block.c knows what a request needs
 * next; an engine knows how to have the host do it. A request is a sequence of
 * steps: most have one, a short transfer or an operation that the file system
 * does not have makes more.
 */
#ifndef BELFRY_BLOCK_PRIV_H
#define BELFRY_BLOCK_PRIV_H

#include "backend/block.h"
#include <stdatomic.h>

struct block {
	int fd;              /* as the user wants it: O_DIRECT or not */
	int buffered_fd;     /* with O_DIRECT: for what is not aligned; else -1 */
	int lock_fd;         /* holds the image's lock */
	uint64_t size;       /* bytes */
	bool readonly, no_flush, threads;
	unsigned align;      /* O_DIRECT: of offset, length and memory; else 1 */
	_Atomic bool no_punch, no_zero_range; /* the file system said so */
	_Atomic bool used_threads;            /* a queue had to do without io_uring */
};

struct block_engine {
	const char *name;
	int (*create)(struct block_queue *q);
	void (*destroy)(struct block_queue *q);
	/* Take requests from q->todo as long as there is room. */
	void (*submit)(struct block_queue *q);
	/* Finish what the host has done; true if there was anything. */
	bool (*reap)(struct block_queue *q);
	/* Sleep until reap() has something. Only while q->busy. */
	void (*wait)(struct block_queue *q);
};

struct block_queue {
	struct block *b;
	struct loop *loop;
	const struct block_engine *engine;
	void *state;                     /* the engine's */
	struct block_req *todo, **tail;  /* added, not yet with the engine */
	unsigned busy;                   /* requests in the engine */
	void (*batch)(void *arg);
	void *batch_arg;
};

extern const struct block_engine block_uring, block_threads;

/* One thing for the host to do. */
struct block_step {
	enum { STEP_READ, STEP_WRITE, STEP_SYNC, STEP_ALLOCATE } kind;
	bool buffered;      /* by buffered_fd */
	int mode;           /* ALLOCATE: fallocate(2) mode */
	uint64_t offset, len;
	const struct iovec *iov;
	unsigned nr_iov;
};

/* What r needs next. 0, or -errno if it cannot go on (then it is finished: r->result is set). */
int block_req_step(struct block_req *r, struct block_step *s) __must_check;
/* The host's answer (bytes or 0, or -errno) to that step. True: finished, r->result is set. */
bool block_req_advance(struct block_req *r, int64_t res) __must_check;

/* Take the first of todo, or put one back there to go on with. */
struct block_req *block_queue_take(struct block_queue *q);
void block_queue_put_back(struct block_queue *q, struct block_req *r);
/* Hand a finished request to its owner. On the loop's thread. */
void block_req_finish(struct block_req *r);
/* An engine's event came: reap, tell the owner, submit what waited. */
void block_queue_event(struct block_queue *q);

#endif
