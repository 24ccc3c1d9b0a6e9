/* SPDX-License-Identifier: MIT */
#include "softkvm/irqfd_sink.h"
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

struct irqfd_sink {
	struct notifier_sink_ref ref;
	_Atomic unsigned holders;		/* the notifier, the irqfd */
	_Atomic unsigned users;			/* signallers that may be using target */
	struct soft_irqfd *_Atomic target;	/* NULL: not bound */
};

static void put(struct irqfd_sink *s)
{
	if (atomic_fetch_sub(&s->holders, 1) == 1)
		free(s);
}

/* The signaller's thread. users first, then the look: who clears target looks the other way round. */
static bool take(void *arg, uint64_t value)
{
	struct irqfd_sink *s = arg;
	struct soft_irqfd *f;

	atomic_fetch_add(&s->users, 1);
	f = atomic_load(&s->target);
	if (f)
		irqfd_deliver_direct(f);
	atomic_fetch_sub(&s->users, 1);
	return f;
}

static void notifier_gone(const struct notifier_sink_ref *ref)
{
	put(ref->arg);
}

struct irqfd_sink *irqfd_sink_connect(struct notifier *n, struct soft_irqfd *f)
{
	const struct notifier_sink_ref *ref = notifier_get_sink(n);
	struct irqfd_sink *s;

	if (ref && ref->fn != take)
		return NULL;
	if (ref) {
		s = ref->arg;
	} else {
		s = calloc(1, sizeof(*s));
		if (!s)
			return NULL;
		s->ref = (struct notifier_sink_ref){ .fn = take, .arg = s, .release = notifier_gone };
		atomic_init(&s->holders, 1);
		notifier_set_sink(n, &s->ref);
	}
	atomic_fetch_add(&s->holders, 1);
	atomic_store(&s->target, f);
	return s;
}

void irqfd_sink_disconnect(struct irqfd_sink *s)
{
	if (!s)
		return;
	atomic_store(&s->target, NULL);
	/* A delivery does not wait for anything; only a preempted signaller takes longer. */
	while (atomic_load(&s->users))
		sched_yield();
	put(s);
}
