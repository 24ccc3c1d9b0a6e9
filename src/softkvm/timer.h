/* SPDX-License-Identifier: MIT
 * A VM's deadlines (local APICs, PIT) on one timerfd that the VM's waiter
 * thread watches. Arming costs a system call only where it brings the next
 * expiry forward; disarming never does.
 */
#ifndef BELFRY_SOFTKVM_TIMER_H
#define BELFRY_SOFTKVM_TIMER_H

#include "base/base.h"
#include <stdatomic.h>

#define TIMER_NEVER UINT64_MAX

struct soft_timer {
	_Atomic uint64_t deadline; /* CLOCK_MONOTONIC ns, TIMER_NEVER: none */
	/* On the waiter thread, no lock held; the deadline has been set to TIMER_NEVER. */
	void (*fire)(struct soft_timer *t);
	struct soft_timer *next; /* timers.lock */
};

struct vm_timers {
	pthread_mutex_t lock;
	struct soft_timer *list;
	uint64_t armed; /* what the timerfd is set to; lock */
	struct loop_watch watch;
	struct loop *loop;
};

int timers_init(struct vm_timers *v, struct loop *loop) __must_check;
/* The loop no longer runs. */
void timers_destroy(struct vm_timers *v);

void timer_add(struct vm_timers *v, struct soft_timer *t);
/* After it, t->fire does not run any more. Not from a callback; the caller holds no lock fire takes. */
void timer_remove(struct vm_timers *v, struct soft_timer *t);
/* Any thread. */
void timer_set(struct vm_timers *v, struct soft_timer *t, uint64_t deadline);

#endif
