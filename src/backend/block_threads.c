/* SPDX-License-Identifier: MIT
 * Block I/O by a few threads with plain system calls, where the kernel (or a
 * sandbox) has no io_uring. One pool a queue; threads come as they are needed.
 */
#include "backend/block_priv.h"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_THREADS 4

struct pool {
	struct block_queue *q;
	struct notifier done;
	struct loop_watch watch;
	pthread_t threads[MAX_THREADS];
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t work_cond, done_cond;
	unsigned nr_threads, idle;
	struct block_req *work, **work_tail;
	struct block_req *finished, **finished_tail;
	bool stop;
};

static int64_t host_do(const struct block *b, const struct block_step *s)
{
	int fd = s->buffered ? b->buffered_fd : b->fd;
	ssize_t r = 0;

	switch (s->kind) {
	case STEP_READ:
		r = preadv(fd, s->iov, (int)s->nr_iov, (off_t)s->offset);
		break;
	case STEP_WRITE:
		r = pwritev(fd, s->iov, (int)s->nr_iov, (off_t)s->offset);
		break;
	case STEP_SYNC:
		r = fdatasync(fd);
		break;
	case STEP_ALLOCATE:
		r = fallocate(fd, s->mode, (off_t)s->offset, (off_t)s->len);
		break;
	}
	return r < 0 ? -errno : r;
}

/* All of a request's steps; its result is set when this returns. */
static void req_do(struct block_req *r)
{
	struct block_step s;

	do {
		if (block_req_step(r, &s))
			return;
	} while (!block_req_advance(r, host_do(r->queue->b, &s)));
}

static void *pool_thread(void *arg)
{
	struct pool *p = arg;

	mutex_lock(&p->lock);
	for (;;) {
		struct block_req *r = p->work;
		bool first;

		if (!r) {
			if (p->stop)
				break;
			p->idle++;
			pthread_cond_wait(&p->work_cond, &p->lock);
			p->idle--;
			continue;
		}
		p->work = r->next;
		if (!p->work)
			p->work_tail = &p->work;
		mutex_unlock(&p->lock);
		req_do(r);
		mutex_lock(&p->lock);
		r->next = NULL;
		first = !p->finished;
		*p->finished_tail = r;
		p->finished_tail = &r->next;
		if (first) {
			pthread_cond_signal(&p->done_cond);
			(void)notifier_signal(&p->done);
		}
	}
	mutex_unlock(&p->lock);
	return NULL;
}

static void pool_ready(void *arg, uint32_t events)
{
	struct pool *p = arg;

	notifier_drain(&p->done);
	block_queue_event(p->q);
}

static int pool_grow_locked(struct pool *p)
{
	int r = thread_create(&p->threads[p->nr_threads], "block-io", pool_thread, p);

	if (!r)
		p->nr_threads++;
	return r;
}

static int pool_create(struct block_queue *q)
{
	struct pool *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	p->q = q;
	p->work_tail = &p->work;
	p->finished_tail = &p->finished;
	mutex_init(&p->lock);
	pthread_cond_init(&p->work_cond, NULL);
	pthread_cond_init(&p->done_cond, NULL);
	r = notifier_create(&p->done, 0, 0);
	if (r)
		goto free_pool;
	p->watch = (struct loop_watch){
		.fd = p->done.fd, .events = EPOLLIN, .ready = pool_ready, .arg = p,
	};
	r = loop_watch(q->loop, &p->watch);
	if (r)
		goto destroy_done;
	/* The first one now: a pool that cannot have a single thread is an error to report. */
	mutex_lock(&p->lock);
	r = pool_grow_locked(p);
	mutex_unlock(&p->lock);
	if (r)
		goto unwatch;
	q->state = p;
	return 0;

unwatch:
	loop_unwatch(q->loop, &p->watch);
destroy_done:
	notifier_destroy(&p->done);
free_pool:
	pthread_cond_destroy(&p->done_cond);
	pthread_cond_destroy(&p->work_cond);
	mutex_destroy(&p->lock);
	free(p);
	return r;
}

static void pool_destroy(struct block_queue *q)
{
	struct pool *p = q->state;

	mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_broadcast(&p->work_cond);
	mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->nr_threads; i++)
		thread_join(p->threads[i]);
	loop_unwatch(q->loop, &p->watch);
	notifier_destroy(&p->done);
	pthread_cond_destroy(&p->done_cond);
	pthread_cond_destroy(&p->work_cond);
	mutex_destroy(&p->lock);
	free(p);
}

static void pool_submit(struct block_queue *q)
{
	struct pool *p = q->state;
	unsigned nr = 0;
	struct block_req *r;

	mutex_lock(&p->lock);
	while ((r = block_queue_take(q))) {
		r->next = NULL;
		*p->work_tail = r;
		p->work_tail = &r->next;
		q->busy++;
		nr++;
	}
	/* More work than hands: another thread, if there can be one. */
	for (unsigned i = p->idle; i < nr && p->nr_threads < MAX_THREADS; i++)
		if (pool_grow_locked(p))
			break;
	if (nr > 1)
		pthread_cond_broadcast(&p->work_cond);
	else
		pthread_cond_signal(&p->work_cond);
	mutex_unlock(&p->lock);
}

static bool pool_reap(struct block_queue *q)
{
	struct pool *p = q->state;
	struct block_req *r, *next;
	bool any;

	mutex_lock(&p->lock);
	r = p->finished;
	p->finished = NULL;
	p->finished_tail = &p->finished;
	mutex_unlock(&p->lock);
	any = r;
	/* Count first: done() may ask for a drain, which must not wait for these. */
	for (next = r; next; next = next->next)
		q->busy--;
	for (; r; r = next) {
		next = r->next;
		block_req_finish(r);
	}
	return any;
}

static void pool_wait(struct block_queue *q)
{
	struct pool *p = q->state;

	mutex_lock(&p->lock);
	while (!p->finished)
		pthread_cond_wait(&p->done_cond, &p->lock);
	mutex_unlock(&p->lock);
}

const struct block_engine block_threads = {
	.name = "threads",
	.create = pool_create,
	.destroy = pool_destroy,
	.submit = pool_submit,
	.reap = pool_reap,
	.wait = pool_wait,
};
