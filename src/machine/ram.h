/* SPDX-License-Identifier: MIT
 * Guest RAM: one memfd, so it can be handed to another process (vhost-user)
 * and costs no more than what the guest touched. Mapped once; gpa 0 up to
 * low_size, the rest from 4 GiB.
 *
 * The guest's own CPUs change this memory at any moment: read a field once
 * into a local before checking it.
 */
#ifndef BELFRY_MACHINE_RAM_H
#define BELFRY_MACHINE_RAM_H

#include "base/base.h"

struct vm;

struct ram {
	int fd;
	uint8_t *host;      /* [0, size): low part, then high part */
	uint64_t size;      /* bytes */
	uint64_t low_size;  /* bytes at gpa 0 */
};

/* -EINVAL if size is 0 or not a multiple of 4 KiB; -ENOMEM. */
int ram_create(struct ram *r, uint64_t size, struct err *e) __must_check;
void ram_destroy(struct ram *r);
/* Give the blocks to the VM as memory slots 0 and 1. */
int ram_map(struct ram *r, struct vm *vm) __must_check;

/*
 * Host address of guest memory [gpa, gpa+len), or NULL if any byte of it is
 * not RAM. len 0 gives NULL. Any thread. The only way to touch guest memory,
 * with ram_read() and ram_write().
 */
void *ram_ptr(const struct ram *r, gpa_t gpa, uint64_t len);
/* Copy out of or into guest memory. -EFAULT if any byte is not RAM (nothing copied then). */
int ram_read(const struct ram *r, gpa_t gpa, void *buf, uint64_t len) __must_check;
int ram_write(const struct ram *r, gpa_t gpa, const void *buf, uint64_t len) __must_check;
/* End of the RAM above 4 GiB, or LAYOUT_RAM_HIGH if there is none. */
gpa_t ram_high_end(const struct ram *r);

#endif
