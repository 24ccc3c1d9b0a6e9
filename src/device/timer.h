/* SPDX-License-Identifier: MIT
 * A one-shot timer that chips set from any thread (a loop_timer belongs to the
 * loop's thread alone). A deadline that moves later costs nothing until the
 * old one comes; one that moves earlier is posted to the loop.
 */
#ifndef BELFRY_DEVICE_TIMER_H
#define BELFRY_DEVICE_TIMER_H

#include "base/base.h"

struct chip_timer {
	struct loop *loop;
	void (*fire)(void *arg); /* on the loop's thread, no lock held */
	void *arg;
	/* private to timer.c */
	pthread_mutex_t lock;
	uint64_t deadline; /* wanted, clock_ns(); 0: none */
	uint64_t armed;    /* what `timer` is set to, 0: not armed */
	bool posted;
	struct loop_timer timer;
};

void chip_timer_init(struct chip_timer *t, struct loop *loop, void (*fire)(void *arg), void *arg);
/* The loop stands, or the caller is its thread. */
void chip_timer_destroy(struct chip_timer *t);
/*
 * Any thread; the chip's lock may be held. deadline 0 cancels: a fire() that
 * has begun may still come, so it looks at the chip's state under its lock.
 * False if there is no memory to tell the loop: then it may come late or never.
 */
bool chip_timer_set(struct chip_timer *t, uint64_t deadline);

#endif
