/* SPDX-License-Identifier: MIT
 * What the KVM API cannot be asked for: the calls that made a VM (or a vCPU) what
 * it is, kept in their order and reduced to those that still count.
 */
#ifndef BELFRY_KVMAPI_JOURNAL_H
#define BELFRY_KVMAPI_JOURNAL_H

#include "kvmapi/kvmapi.h"

struct journal_entry {
	unsigned long request;
	bool raw;	  /* value is the argument, else a pointer to data */
	uintptr_t value;
	size_t size;
	int fd, fd2;	  /* our duplicates of the eventfds in data, -1: none */
	int callers_fd;
	struct journal_entry *next;
	_Alignas(8) uint8_t data[];
};

struct journal {
	struct journal_entry *first;
	bool beyond; /* something was done that cannot be done again */
};

/* A call that succeeded. -ENOMEM, -EMFILE: not kept, and beyond is set. */
void journal_note(struct journal *j, unsigned long request, uintptr_t arg);
void journal_clear(struct journal *j);
/* The entry's argument for a call, with our own fds in it. */
uintptr_t journal_arg(struct journal_entry *e);

#endif
