/* SPDX-License-Identifier: MIT
 * The loop a device's queues live on: the machine's, or one with a thread of
 * the device's own.
 */
#ifndef BELFRY_VIRTIO_IOTHREAD_H
#define BELFRY_VIRTIO_IOTHREAD_H

#include "base/base.h"

struct machine;

struct iothread {
	struct loop *loop;
	bool own;
};

/* The loop stands until iothread_start(): watches and pollers can be added. */
int iothread_init(struct iothread *t, struct machine *m, bool own, uint64_t poll_ns) __must_check;
/* Let it run, as "kind-name". Nothing to do for the machine's own loop. */
int iothread_start(struct iothread *t, const char *kind, const char *name) __must_check;
/* After it returns nobody runs the loop (the machine's own stands at that time). */
void iothread_stop(struct iothread *t);
/* Stops it too. */
void iothread_fini(struct iothread *t);

#endif
