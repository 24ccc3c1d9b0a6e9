/* SPDX-License-Identifier: MIT */
#include "base/base.h"
#include <poll.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Set while this thread runs a sink: a signal from inside one goes to the eventfd. */
static _Thread_local bool in_sink;

int notifier_create(struct notifier *n, unsigned initial, int flags)
{
	int fd;

	if (flags & ~EFD_SEMAPHORE)
		return -EINVAL;
	fd = eventfd(initial, EFD_CLOEXEC | EFD_NONBLOCK | flags);
	if (fd < 0)
		return -errno;
	n->fd = fd;
	atomic_init(&n->sink, NULL);
	return 0;
}

void notifier_destroy(struct notifier *n)
{
	const struct notifier_sink_ref *ref;

	if (n->fd >= 0)
		close(n->fd);
	n->fd = -1;
	ref = atomic_exchange(&n->sink, NULL);
	if (ref && ref->release)
		ref->release(ref);
}

int notifier_add(struct notifier *n, uint64_t value)
{
	const struct notifier_sink_ref *ref = atomic_load_explicit(&n->sink, memory_order_acquire);
	ssize_t r;

	if (ref && !in_sink) {
		bool taken;

		in_sink = true;
		taken = ref->fn(ref->arg, value);
		in_sink = false;
		if (taken)
			return 0;
	}
	do
		r = write(n->fd, &value, sizeof(value));
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

int notifier_signal(struct notifier *n)
{
	return notifier_add(n, 1);
}

uint64_t notifier_drain(struct notifier *n)
{
	uint64_t v;
	ssize_t r;

	do
		r = read(n->fd, &v, sizeof(v));
	while (r < 0 && errno == EINTR);
	return r == sizeof(v) ? v : 0;
}

bool notifier_pending(const struct notifier *n)
{
	struct pollfd p = { .fd = n->fd, .events = POLLIN };

	return poll(&p, 1, 0) == 1 && (p.revents & POLLIN);
}

void notifier_set_sink(struct notifier *n, const struct notifier_sink_ref *ref)
{
	atomic_store_explicit(&n->sink, ref, memory_order_release);
}

const struct notifier_sink_ref *notifier_get_sink(const struct notifier *n)
{
	return atomic_load_explicit(&n->sink, memory_order_acquire);
}
