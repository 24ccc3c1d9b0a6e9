/* SPDX-License-Identifier: MIT
 * The short way into an irqfd: a notifier of this process hands its signal over
 * in the signaller's thread, with no system call. docs/SOFTKVM.md, "In-process
 * sink", draws binding and unbinding against a signal.
 */
#ifndef BELFRY_SOFTKVM_IRQFD_SINK_H
#define BELFRY_SOFTKVM_IRQFD_SINK_H

#include "base/base.h"

struct soft_irqfd;
/* Shared by a notifier and the irqfd that its eventfd is bound to, whichever goes first. */
struct irqfd_sink;

/*
 * n's sink, made and put in if it has none, now leads to f. NULL: no memory, or n
 * has another's sink; then signals go through the eventfd. f's binding is finished.
 */
struct irqfd_sink *irqfd_sink_connect(struct notifier *n, struct soft_irqfd *f);
/* No signal reaches the irqfd any more by this way, none is under way. NULL is allowed. */
void irqfd_sink_disconnect(struct irqfd_sink *s);

/* irqfd.c: f's interrupt, now, in the caller's thread. */
void irqfd_deliver_direct(struct soft_irqfd *f);

#endif
