/* SPDX-License-Identifier: MIT */
#include "softkvm/listen.h"
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TABLE_LEAST 16u
#define PLACE_BELL  UINT64_MAX

struct listen_table {
	unsigned size;
	struct listen_item *_Atomic at[];
};

static struct listen_table *table_new(unsigned size)
{
	struct listen_table *t = calloc(1, sizeof(*t) + size * sizeof(t->at[0]));

	if (t)
		t->size = size;
	return t;
}

static int epoll_add(struct listener *l, int fd, uint64_t place)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLET, .data.u64 = place };

	return epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

static void serve_place(struct listener *l, uint64_t place, unsigned *served)
{
	unsigned g = grace_enter(l->grace);
	struct listen_table *t = atomic_load(&l->table);
	struct listen_item *i = place < t->size ? atomic_load(&t->at[place]) : NULL;

	/* None, or another than the event was of, if that has left. */
	if (i) {
		i->heard(i);
		++*served;
	}
	grace_leave(l->grace, g);
}

unsigned listener_serve(struct listener *l, const struct listen_events *e)
{
	unsigned served = 0;

	for (int k = 0; k < e->nr; k++)
		if (e->ev[k].data.u64 != PLACE_BELL)
			serve_place(l, e->ev[k].data.u64, &served);
	return served;
}

/* The loop's thread. */
static void on_ready(void *arg, uint32_t events)
{
	struct listener *l = arg;
	struct listen_events e;

	e.nr = epoll_wait(l->epfd, e.ev, LISTEN_BATCH, 0);
	/* The bell is for who leads: it has come here because the loop was woken just before. */
	for (int k = 0; k < e.nr; k++)
		if (e.ev[k].data.u64 == PLACE_BELL && atomic_load(&l->led))
			listener_ring(l);
	(void)listener_serve(l, &e);
}

int listener_init(struct listener *l, struct loop *loop, struct grace *grace)
{
	struct listen_table *t = table_new(TABLE_LEAST);
	int r;

	if (!t)
		return -ENOMEM;
	*l = (struct listener){ .loop = loop, .grace = grace };
	atomic_init(&l->table, t);
	l->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (l->epfd < 0) {
		r = -errno;
		goto free_table;
	}
	l->bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (l->bell < 0) {
		r = -errno;
		goto close_epoll;
	}
	r = epoll_add(l, l->bell, PLACE_BELL);
	if (r)
		goto close_bell;
	l->watch = (struct loop_watch){ .fd = l->epfd, .events = EPOLLIN, .ready = on_ready, .arg = l };
	r = loop_watch(loop, &l->watch);
	if (!r)
		return 0;
close_bell:
	close(l->bell);
close_epoll:
	close(l->epfd);
free_table:
	free(t);
	return r;
}

void listener_destroy(struct listener *l)
{
	loop_unwatch(l->loop, &l->watch);
	close(l->bell);
	close(l->epfd);
	free(atomic_load(&l->table));
}

/* Twice as large, published whole. */
static int table_grow(struct listener *l)
{
	struct listen_table *old = atomic_load(&l->table), *t = table_new(2 * old->size);

	if (!t)
		return -ENOMEM;
	for (unsigned i = 0; i < old->size; i++)
		atomic_init(&t->at[i], atomic_load(&old->at[i]));
	atomic_store(&l->table, t);
	grace_wait(l->grace);
	free(old);
	return 0;
}

int listener_add(struct listener *l, struct listen_item *item)
{
	struct listen_table *t = atomic_load(&l->table);
	unsigned i = 0;
	int r;

	while (i < t->size && atomic_load(&t->at[i]))
		i++;
	if (i == t->size) {
		r = table_grow(l);
		if (r)
			return r;
		t = atomic_load(&l->table);
	}
	item->place = i;
	atomic_store(&t->at[i], item);
	r = epoll_add(l, item->fd, i);
	if (r)
		listener_remove(l, item);
	return r;
}

void listener_remove(struct listener *l, struct listen_item *i)
{
	struct listen_table *t = atomic_load(&l->table);

	(void)epoll_ctl(l->epfd, EPOLL_CTL_DEL, i->fd, NULL);
	atomic_store(&t->at[i->place], NULL);
	/* Events of it that somebody has already find nothing; who has found it is waited for. */
	grace_wait(l->grace);
}

bool listener_lead(struct listener *l)
{
	if (atomic_load(&l->led) || atomic_exchange(&l->led, true))
		return false;
	loop_watch_pause(l->loop, &l->watch, true);
	return true;
}

void listener_follow(struct listener *l)
{
	loop_watch_pause(l->loop, &l->watch, false);
	atomic_store(&l->led, false);
}

/* By number: the C library's function is a cancellation point, and its caller holds what must be let go. */
static int wait_events(struct listener *l, struct listen_events *e, const struct timespec *timeout)
{
	return (int)syscall(SYS_epoll_pwait2, l->epfd, e->ev, LISTEN_BATCH, timeout, NULL, 0);
}

void listener_wait(struct listener *l, uint64_t deadline, struct listen_events *e)
{
	const struct timespec at_once = { 0 };
	struct timespec ts = { 0 };
	uint64_t now;

	if (deadline != UINT64_MAX) {
		now = clock_ns();
		deadline = deadline > now ? deadline - now : 0;
		ts.tv_sec = (time_t)(deadline / NSEC_PER_SEC);
		ts.tv_nsec = (long)(deadline % NSEC_PER_SEC);
	}
	e->nr = wait_events(l, e, deadline == UINT64_MAX ? NULL : &ts);
	/* The handler has rung. Left there it would wake the loop when that hears again. */
	if (e->nr < 0)
		e->nr = wait_events(l, e, &at_once);
}

void listener_ring(struct listener *l)
{
	const uint64_t one = 1;

	(void)syscall(SYS_write, l->bell, &one, sizeof(one));
}
