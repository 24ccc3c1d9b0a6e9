/* SPDX-License-Identifier: MIT */
#include "device/timer.h"

/* On the loop's thread (or while it stands). */
static void arm_locked(struct chip_timer *t)
{
	if (t->deadline && (!t->armed || t->deadline < t->armed)) {
		t->armed = t->deadline;
		loop_timer_set(t->loop, &t->timer, t->armed);
	}
}

static void on_post(void *arg)
{
	struct chip_timer *t = arg;

	mutex_lock(&t->lock);
	t->posted = false;
	arm_locked(t);
	mutex_unlock(&t->lock);
}

static void on_fire(void *arg)
{
	struct chip_timer *t = arg;
	bool due;

	mutex_lock(&t->lock);
	t->armed = 0;
	due = t->deadline && t->deadline <= clock_ns();
	if (due)
		t->deadline = 0;
	else
		arm_locked(t);
	mutex_unlock(&t->lock);
	if (due)
		t->fire(t->arg);
}

void chip_timer_init(struct chip_timer *t, struct loop *loop, void (*fire)(void *arg), void *arg)
{
	*t = (struct chip_timer){ .loop = loop, .fire = fire, .arg = arg };
	t->timer = (struct loop_timer){ .fire = on_fire, .arg = t };
	mutex_init(&t->lock);
}

void chip_timer_destroy(struct chip_timer *t)
{
	loop_timer_cancel(t->loop, &t->timer);
	mutex_destroy(&t->lock);
}

bool chip_timer_set(struct chip_timer *t, uint64_t deadline)
{
	bool ok = true;

	mutex_lock(&t->lock);
	t->deadline = deadline;
	if (deadline && !t->posted && (!t->armed || deadline < t->armed)) {
		if (loop_is_current(t->loop))
			arm_locked(t);
		else
			ok = t->posted = loop_post(t->loop, on_post, t) == 0;
	}
	mutex_unlock(&t->lock);
	return ok;
}
