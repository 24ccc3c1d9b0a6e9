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
	bool threads;    /* do not try io_uring */
};

/*
 * Opens and locks the image: one writer or any number of readers, by open file
 * description locks (fcntl(2) "Open file description locks"), which QEMU's
 * image locks respect too. -EAGAIN: somebody has it; -EINVAL: neither a file
 * nor a block device, empty, or its size is no multiple of 512; else as
 * open(2). *e: the file, what, the remedy. c need not outlive the call.
 */
int block_open(struct block **out, const struct block_config *c, struct err *e) __must_check;
/* No queue may be left. NULL is fine. */
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
	/* private to block*.c */
	struct block_req *next;
	struct block_queue *queue;
	uint64_t progress;   /* bytes done */
	struct iovec part;   /* rest of a segment that a short transfer cut */
	void *bounce;        /* O_DIRECT and memory that is not aligned for it */
	uint8_t way;         /* DISCARD, WRITE_ZEROES: how it is being tried */
	int result;
};

/*
 * Owner rule of base/loop.h, as for everything below. Falls back to threads if
 * the kernel refuses io_uring. -ENOMEM, -EMFILE, -EAGAIN (no thread).
 */
int block_queue_create(struct block_queue **out, struct block *b, struct loop *l) __must_check;
/* No request may be in flight: block_queue_drain() first. On the loop's thread or while it stands. */
void block_queue_destroy(struct block_queue *q);
/*
 * fn(arg) runs after each batch of done() calls that the queue's own events
 * brought: the place to tell a guest once for all of them.
 */
void block_queue_set_batch(struct block_queue *q, void (*fn)(void *arg), void *arg);
/*
 * Queue a request; done() may run before it returns (errors, nothing to do):
 * -ERANGE outside the image, -EROFS, -EINVAL if iov does not sum up to len.
 * block_queue_submit() sends what was queued.
 */
void block_queue_add(struct block_queue *q, struct block_req *r);
void block_queue_submit(struct block_queue *q);
/* Wait until nothing is in flight (done() callbacks run meanwhile). */
void block_queue_drain(struct block_queue *q);
/* Reap finished requests without sleeping; true if there were any. For adaptive polling. */
bool block_queue_poll(struct block_queue *q);

#endif
