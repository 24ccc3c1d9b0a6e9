/* SPDX-License-Identifier: MIT
 * Raw disk images. One struct block per image; one block_queue per loop that
 * does I/O on it (io_uring with an eventfd in the loop; a pool of threads
 * where the kernel has no io_uring). A queue is used only on its loop's thread.
 */
#ifndef BELFRY_BACKEND_BLOCK_H
#define BELFRY_BACKEND_BLOCK_H

#include "base/base.h"
#include <sys/uio.h>

struct block;
struct block_queue;

struct block_config {
	const char *path;
	bool readonly;
	bool direct;     /* O_DIRECT */
	bool no_flush;   /* cache=unsafe: flushes are answered without asking the host */
};

/* Opens and locks the image (a second writer is refused). *e: the file, what, the remedy. */
int block_open(struct block **out, const struct block_config *c, struct err *e) __must_check;
void block_close(struct block *b);
uint64_t block_size(const struct block *b); /* bytes, a multiple of 512 */
bool block_readonly(const struct block *b);
const char *block_engine(const struct block *b); /* "io_uring" or "threads" */

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };

struct block_req {
	enum block_op op;
	bool unmap;              /* WRITE_ZEROES may deallocate */
	uint64_t offset, len;    /* bytes; must lie within the image (else -ERANGE by done) */
	const struct iovec *iov; /* READ, WRITE: stays valid until done */
	int nr_iov;
	/* On the queue's loop; result 0 or -errno (short transfers are completed inside). */
	void (*done)(struct block_req *r, int result);
	/* private to block.c */
	struct block_req *next;
	uint64_t progress;
	struct block_queue *queue;
	struct iovec *rest;
	int nr_rest;
	int result;
};

int block_queue_create(struct block_queue **out, struct block *b, struct loop *l) __must_check;
/* No request may be in flight: block_queue_drain() first. On the loop's thread or while it stands. */
void block_queue_destroy(struct block_queue *q);
/* Queue a request; done() may run before it returns (errors). block_queue_submit() sends what was queued. */
void block_queue_add(struct block_queue *q, struct block_req *r);
void block_queue_submit(struct block_queue *q);
/* Wait until nothing is in flight (done() callbacks run meanwhile). */
void block_queue_drain(struct block_queue *q);
/* Reap finished requests without sleeping; true if there were any. For adaptive polling. */
bool block_queue_poll(struct block_queue *q);

#endif
