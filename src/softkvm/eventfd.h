/* SPDX-License-Identifier: MIT
 * Eventfds that a caller hands in: checked, duplicated, told apart.
 */
#ifndef BELFRY_SOFTKVM_EVENTFD_H
#define BELFRY_SOFTKVM_EVENTFD_H

#include "base/base.h"

/* An eventfd as held by us. */
struct held_eventfd {
	int fd;	       /* our duplicate, non-negative while held */
	uint64_t id;   /* the kernel's number of the eventfd: equal ids are the same one */
	bool blocking; /* its description has no O_NONBLOCK */
};

/* Duplicate the caller's fd. -EBADF: not open; -EINVAL: not an eventfd; -EMFILE. */
int eventfd_hold(struct held_eventfd *e, int fd) __must_check;
void eventfd_drop(struct held_eventfd *e);

/* Only the id of the caller's fd. -EBADF, -EINVAL. */
int eventfd_identify(int fd, uint64_t *id) __must_check;

/* Add 1; at the maximum nothing happens. Never waits. Any thread. */
void eventfd_signal(const struct held_eventfd *e);
/* Take the count (1 of it from a semaphore); false if it was 0. Never waits. */
bool eventfd_take(const struct held_eventfd *e);

#endif
