/* SPDX-License-Identifier: MIT
 * A notifier is an eventfd with its exact semantics (eventfd(2)): a 64-bit
 * count; a write adds and fails with -EAGAIN where the sum would pass 2^64-2;
 * a read drains (or takes 1 with EFD_SEMAPHORE). All fds are non-blocking and
 * close-on-exec. Optionally a sink in this process receives signals sent by
 * notifier_signal() with no system call.
 */
#ifndef BELFRY_BASE_NOTIFIER_H
#define BELFRY_BASE_NOTIFIER_H

#include "base/base.h"

/*
 * Returns true if it took the signal, false to have the eventfd written as if
 * there were no sink. Called in the signaller's thread; must not block.
 */
typedef bool (*notifier_sink)(void *arg, uint64_t value);

struct notifier {
	int fd;
	/* Sink and its argument are published together through one pointer. */
	const struct notifier_sink_ref {
		notifier_sink fn;
		void *arg;
		/* The notifier is destroyed and nobody signals any more; may be NULL. */
		void (*release)(const struct notifier_sink_ref *ref);
	} *_Atomic sink;
};

/* flags: 0 or EFD_SEMAPHORE. -EMFILE, -ENFILE, -ENOMEM as eventfd(2). */
int notifier_create(struct notifier *n, unsigned initial, int flags) __must_check;
/* Nobody may be using it any more. Safe on a zeroed-with-fd=-1 or destroyed one. */
void notifier_destroy(struct notifier *n);

/*
 * Add 1 (or value). Any thread, any number at once. A sink is asked first,
 * unless this thread is already inside a sink (recursion guard): then the
 * eventfd is written. -EAGAIN only at 2^64-2: the consumer already has work,
 * callers may ignore it.
 */
int notifier_signal(struct notifier *n);
int notifier_add(struct notifier *n, uint64_t value);

/* Take the count (0 if none). Never blocks. */
uint64_t notifier_drain(struct notifier *n);

/* True if the count is not 0, without taking it (poll(2), one system call). */
bool notifier_pending(const struct notifier *n);

/*
 * Set or clear (NULL) the sink; ref must stay valid until nobody can be
 * signalling through it (the caller arranges that). Counts already in the
 * eventfd stay there.
 */
void notifier_set_sink(struct notifier *n, const struct notifier_sink_ref *ref);
/* The present one, NULL: none. */
const struct notifier_sink_ref *notifier_get_sink(const struct notifier *n);

#endif
