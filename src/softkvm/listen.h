/* SPDX-License-Identifier: MIT
 * A VM's listener: the eventfds of its irqfds in one epoll set, edge-triggered. The
 * waiter's loop hears them or, while it leads, a halted vCPU's thread, which a signal
 * then wakes and no other. docs/SOFTKVM.md, "irqfd", draws it.
 */
#ifndef BELFRY_SOFTKVM_LISTEN_H
#define BELFRY_SOFTKVM_LISTEN_H

#include "base/base.h"
#include "softkvm/grace.h"
#include <sys/epoll.h>

#define LISTEN_BATCH 32

struct listen_item {
	int fd;		/* of an eventfd */
	/* It was written. The loop's or a vCPU's thread, maybe several at once; a reader of `grace`. */
	void (*heard)(struct listen_item *i);
	unsigned place; /* private */
};

struct listener {
	int epfd, bell;				/* (o) */
	struct loop *loop;			/* (o) */
	struct grace *grace;			/* (o) */
	struct loop_watch watch;
	_Atomic bool led;			/* a vCPU hears instead of the loop */
	struct listen_table *_Atomic table;	/* of items by place */
};

struct listen_events {
	int nr;
	struct epoll_event ev[LISTEN_BATCH];
};

/* On the loop's thread, or while none runs it. -EMFILE, -ENFILE, -ENOMEM. */
int listener_init(struct listener *l, struct loop *loop, struct grace *grace) __must_check;
/* No item is left, nobody runs the loop, nobody leads. */
void listener_destroy(struct listener *l);

/* What was written before counts, too. Callers serialize; as for grace_wait(). -ENOSPC, -ENOMEM. */
int listener_add(struct listener *l, struct listen_item *i) __must_check;
/* After it nobody is in i->heard(), nor comes there. Cannot fail; callers as above. */
void listener_remove(struct listener *l, struct listen_item *i);

/* Hear instead of the loop. False: another does. A thread that may sleep next. */
bool listener_lead(struct listener *l);
/* Who leads: the loop hears again, what waits now included. */
void listener_follow(struct listener *l);
/* Who leads: sleep until there is an event, the bell, a signal's handler, or deadline (clock_ns()). */
void listener_wait(struct listener *l, uint64_t deadline, struct listen_events *e);
/* How many items heard something. Who leads, after listener_wait(). */
unsigned listener_serve(struct listener *l, const struct listen_events *e);
/* End the wait of who leads, or its next one. Any thread, also in a signal's handler. */
void listener_ring(struct listener *l);

#endif
