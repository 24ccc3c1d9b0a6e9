/* SPDX-License-Identifier: MIT */
#include "softkvm/grace.h"
#include <sched.h>
#include <time.h>

void grace_init(struct grace *g)
{
	*g = (struct grace){ 0 };
	mutex_init(&g->lock);
}

void grace_destroy(struct grace *g)
{
	mutex_destroy(&g->lock);
}

/* Readers hold their counter for a delivery or a copy; only a preempted one takes longer. */
static void wait_for(_Atomic unsigned long *n)
{
	for (unsigned round = 0; atomic_load(n); round++) {
		const struct timespec nap = { .tv_nsec = 50000 };

		if (round < 100)
			sched_yield();
		else
			(void)nanosleep(&nap, NULL);
	}
}

void grace_wait(struct grace *g)
{
	mutex_lock(&g->lock);
	for (int i = 0; i < 2; i++) {
		unsigned old = atomic_fetch_xor(&g->idx, 1) & 1;

		wait_for(&g->n[old].readers);
	}
	mutex_unlock(&g->lock);
}
