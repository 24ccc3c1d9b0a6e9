/* SPDX-License-Identifier: MIT
 * A loop run by its rounds and not by the clock: who is put aside meanwhile has done no less.
 */
#ifndef BELFRY_TESTS_ROUNDS_H
#define BELFRY_TESTS_ROUNDS_H

#include "base/base.h"

struct rounds {
	struct loop *loop;
	struct loop_timer timer;
	unsigned left;
};

static inline void one_round(void *arg)
{
	struct rounds *r = arg;

	if (--r->left)
		loop_timer_set(r->loop, &r->timer, clock_ns() + 1);
	else
		loop_stop(r->loop);
}

/* Let the loop look so many times at what is ready, and have its timers fire each time. */
static inline int loop_rounds(struct loop *l, unsigned nr)
{
	struct rounds r = { .loop = l, .timer = { .fire = one_round, .arg = &r }, .left = nr };

	loop_timer_set(l, &r.timer, clock_ns());
	return loop_run(l);
}

#endif
