/* SPDX-License-Identifier: MIT */
#include "softkvm/timer.h"
#include <sys/timerfd.h>
#include <unistd.h>

static void arm_locked(struct vm_timers *v, uint64_t deadline)
{
	struct itimerspec its = { 0 };

	/* 0 would disarm; so would the past, which is due now. */
	deadline = MAX(deadline, 1);
	its.it_value.tv_sec = (time_t)(deadline / NSEC_PER_SEC);
	its.it_value.tv_nsec = (long)(deadline % NSEC_PER_SEC);
	(void)timerfd_settime(v->watch.fd, TFD_TIMER_ABSTIME, &its, NULL);
	__atomic_store_n(&v->armed, deadline, __ATOMIC_SEQ_CST);
}

static void on_expiry(void *arg, uint32_t events)
{
	struct vm_timers *v = arg;
	uint64_t now = clock_ns(), next = TIMER_NEVER, count;
	struct soft_timer *t;

	if (read(v->watch.fd, &count, sizeof(count)) != sizeof(count))
		return;
	/* New deadlines that come while we look find armed at "never" and set the fd. */
	mutex_lock(&v->lock);
	__atomic_store_n(&v->armed, TIMER_NEVER, __ATOMIC_SEQ_CST);
	t = v->list;
	mutex_unlock(&v->lock);
	/* The list is only changed on this thread. */
	for (; t; t = t->next) {
		uint64_t d = atomic_load(&t->deadline);

		/* Taken only if it is still the same one: it may have been moved on. */
		while (d <= now) {
			if (atomic_compare_exchange_strong(&t->deadline, &d, TIMER_NEVER)) {
				t->fire(t);
				d = atomic_load(&t->deadline);
				break;
			}
		}
		next = MIN(next, d);
	}
	mutex_lock(&v->lock);
	if (next < v->armed)
		arm_locked(v, next);
	mutex_unlock(&v->lock);
}

int timers_init(struct vm_timers *v, struct loop *loop)
{
	int r;

	*v = (struct vm_timers){ .armed = TIMER_NEVER, .loop = loop };
	v->watch = (struct loop_watch){ .events = EPOLLIN, .ready = on_expiry, .arg = v };
	v->watch.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (v->watch.fd < 0)
		return -errno;
	r = loop_watch(loop, &v->watch);
	if (r) {
		close(v->watch.fd);
		return r;
	}
	mutex_init(&v->lock);
	return 0;
}

void timers_destroy(struct vm_timers *v)
{
	loop_unwatch(v->loop, &v->watch);
	close(v->watch.fd);
	mutex_destroy(&v->lock);
}

struct edit {
	struct vm_timers *v;
	struct soft_timer *t;
};

static void do_add(void *arg)
{
	struct edit *e = arg;

	mutex_lock(&e->v->lock);
	e->t->next = e->v->list;
	e->v->list = e->t;
	mutex_unlock(&e->v->lock);
}

static void do_remove(void *arg)
{
	struct edit *e = arg;

	mutex_lock(&e->v->lock);
	for (struct soft_timer **at = &e->v->list; *at; at = &(*at)->next)
		if (*at == e->t) {
			*at = e->t->next;
			break;
		}
	mutex_unlock(&e->v->lock);
}

void timer_add(struct vm_timers *v, struct soft_timer *t)
{
	struct edit e = { v, t };

	atomic_store(&t->deadline, TIMER_NEVER);
	loop_call(v->loop, do_add, &e);
}

void timer_remove(struct vm_timers *v, struct soft_timer *t)
{
	struct edit e = { v, t };

	loop_call(v->loop, do_remove, &e);
}

void timer_set(struct vm_timers *v, struct soft_timer *t, uint64_t deadline)
{
	atomic_store(&t->deadline, deadline);
	/* A plain look first: mostly the fd fires early enough already. */
	if (deadline >= __atomic_load_n(&v->armed, __ATOMIC_SEQ_CST))
		return;
	mutex_lock(&v->lock);
	if (deadline < v->armed)
		arm_locked(v, deadline);
	mutex_unlock(&v->lock);
}
