/* SPDX-License-Identifier: MIT
 * Block I/O by io_uring: one ring a queue. The ring's eventfd is watched by
 * the loop; requests go to the kernel in batches, at most one system call each.
 */
#include "backend/block_priv.h"
#include <liburing.h>
#include <stdlib.h>

#define ENTRIES  256
#define RETRY_NS 1000000 /* the kernel was short of memory: ask again after this */

struct ring {
	struct io_uring uring;
	struct notifier done;
	struct loop_watch watch;
	struct loop_timer retry;
	struct block_queue *q;
	bool fixed;                    /* the files are registered: 0 is fd, 1 buffered_fd */
	unsigned max_busy;             /* completions that fit without overflow */
	struct block_req *filled, **tail; /* have an entry the kernel has not taken */
	int dead;                      /* -errno: the kernel takes no more */
};

static void ring_ready(void *arg, uint32_t events)
{
	struct ring *u = arg;

	notifier_drain(&u->done);
	block_queue_event(u->q);
}

static void ring_submit(struct block_queue *q);

static void ring_retry(void *arg)
{
	struct ring *u = arg;

	ring_submit(u->q);
}

static int ring_create(struct block_queue *q)
{
	struct ring *u = calloc(1, sizeof(*u));
	int fds[2] = { q->b->fd, q->b->buffered_fd };
	int r;

	if (!u)
		return -ENOMEM;
	u->q = q;
	u->tail = &u->filled;
	r = io_uring_queue_init(ENTRIES, &u->uring, 0);
	if (r)
		goto free_ring;
	u->max_busy = *u->uring.cq.kring_entries;
	r = notifier_create(&u->done, 0, 0);
	if (r)
		goto exit_uring;
	r = io_uring_register_eventfd(&u->uring, u->done.fd);
	if (r)
		goto destroy_done;
	u->fixed = !io_uring_register_files(&u->uring, fds, fds[1] >= 0 ? 2 : 1);
	u->retry = (struct loop_timer){ .fire = ring_retry, .arg = u };
	u->watch = (struct loop_watch){
		.fd = u->done.fd, .events = EPOLLIN, .ready = ring_ready, .arg = u,
	};
	r = loop_watch(q->loop, &u->watch);
	if (r)
		goto destroy_done;
	q->state = u;
	return 0;

destroy_done:
	notifier_destroy(&u->done);
exit_uring:
	io_uring_queue_exit(&u->uring);
free_ring:
	free(u);
	return r;
}

static void ring_destroy(struct block_queue *q)
{
	struct ring *u = q->state;

	loop_unwatch(q->loop, &u->watch);
	loop_timer_cancel(q->loop, &u->retry);
	io_uring_queue_exit(&u->uring);
	notifier_destroy(&u->done);
	free(u);
}

/*
 * Lengths of one entry are 32 bits: longer ones come back as a short transfer
 * and go on from there, as the system calls themselves do at 2 GiB.
 */
static void fill_entry(struct ring *u, struct io_uring_sqe *sqe, struct block_req *r,
		       const struct block_step *s)
{
	const struct block *b = u->q->b;
	int fd = s->buffered ? b->buffered_fd : b->fd;

	if (u->fixed)
		fd = s->buffered;
	switch (s->kind) {
	case STEP_READ:
		if (s->nr_iov == 1)
			io_uring_prep_read(sqe, fd, s->iov->iov_base,
					   (unsigned)MIN(s->iov->iov_len, 1u << 30), s->offset);
		else
			io_uring_prep_readv(sqe, fd, s->iov, s->nr_iov, s->offset);
		break;
	case STEP_WRITE:
		if (s->nr_iov == 1)
			io_uring_prep_write(sqe, fd, s->iov->iov_base,
					    (unsigned)MIN(s->iov->iov_len, 1u << 30), s->offset);
		else
			io_uring_prep_writev(sqe, fd, s->iov, s->nr_iov, s->offset);
		break;
	case STEP_SYNC:
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
		break;
	case STEP_ALLOCATE:
		io_uring_prep_fallocate(sqe, fd, s->mode, (off_t)s->offset, (off_t)s->len);
		break;
	}
	if (u->fixed)
		io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data(sqe, r);
}

/* The kernel took the first n of the filled entries (it takes them in order). */
static void entries_taken(struct ring *u, int n)
{
	while (n-- > 0 && u->filled)
		u->filled = u->filled->next;
	if (!u->filled)
		u->tail = &u->filled;
}

/* What the kernel has not taken never will be. Those in flight still come back. */
static void fail_all(struct ring *u)
{
	struct block_req *r;

	while ((r = u->filled)) {
		u->filled = r->next;
		u->q->busy--;
		r->result = u->dead;
		block_req_finish(r);
	}
	u->tail = &u->filled;
	while ((r = block_queue_take(u->q))) {
		r->result = u->dead;
		block_req_finish(r);
	}
}

static void enter(struct ring *u)
{
	int r = io_uring_submit(&u->uring);

	if (r < 0 && r != -EAGAIN && r != -EBUSY && r != -EINTR && r != -ENOMEM) {
		u->dead = r; /* a filter on system calls, say */
		return;
	}
	entries_taken(u, r);
	if (u->filled)
		loop_timer_set(u->q->loop, &u->retry, clock_ns() + RETRY_NS);
}

static void ring_submit(struct block_queue *q)
{
	struct ring *u = q->state;
	struct io_uring_sqe *sqe;
	struct block_req *r;
	struct block_step s;
	bool ended = false;

	while (!u->dead && q->busy < u->max_busy && (r = block_queue_take(q))) {
		if (block_req_step(r, &s)) {
			block_req_finish(r);
			ended = true;
			continue;
		}
		sqe = io_uring_get_sqe(&u->uring);
		if (!sqe) {
			enter(u);
			sqe = io_uring_get_sqe(&u->uring);
		}
		if (!sqe) {
			block_queue_put_back(q, r);
			break;
		}
		fill_entry(u, sqe, r, &s);
		r->next = NULL;
		*u->tail = r;
		u->tail = &r->next;
		q->busy++;
	}
	if (!u->dead && u->filled)
		enter(u);
	if (u->dead) {
		fail_all(u);
		ended = true;
	}
	if (ended && q->batch)
		q->batch(q->batch_arg);
}

static bool ring_reap(struct block_queue *q)
{
	struct ring *u = q->state;
	struct io_uring_cqe *cqe;
	bool any = false;

	/* One at a time: done() may come back here through block_queue_drain(). */
	while (!io_uring_peek_cqe(&u->uring, &cqe)) {
		struct block_req *r = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&u->uring, cqe);
		any = true;
		q->busy--;
		if (block_req_advance(r, res))
			block_req_finish(r);
		else
			block_queue_put_back(q, r);
	}
	return any;
}

static void ring_wait(struct block_queue *q)
{
	struct ring *u = q->state;
	struct timespec pause = { .tv_nsec = RETRY_NS };
	struct io_uring_cqe *cqe;

	if (u->filled && !u->dead)
		enter(u);
	if (u->dead)
		fail_all(u);
	if (q->busy && (u->filled || io_uring_wait_cqe(&u->uring, &cqe)))
		nanosleep(&pause, NULL);
}

const struct block_engine block_uring = {
	.name = "io_uring",
	.create = ring_create,
	.destroy = ring_destroy,
	.submit = ring_submit,
	.reap = ring_reap,
	.wait = ring_wait,
};
