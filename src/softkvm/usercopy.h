/* SPDX-License-Identifier: MIT
 * Copying to and from memory that somebody else answers for: the caller's
 * arguments and the guest's memory behind a slot. Where the kernel would give
 * EFAULT, so does this.
 */
#ifndef BELFRY_SOFTKVM_USERCOPY_H
#define BELFRY_SOFTKVM_USERCOPY_H

#include "base/base.h"

/*
 * Before the first copy: see to it that the fault handlers are installed, that of sig only or all
 * (0). Any thread, any number of times.
 */
void usercopy_init(int sig);

/* Is this code of ours, whose faults the handler deals with? Any thread, signal handlers. */
bool usercopy_owns(uint64_t rip);

/* -EFAULT if any byte cannot be read or written; part may have been copied then. Any thread. */
int copy_from_user(void *dst, uintptr_t src, size_t len) __must_check;
int copy_to_user(uintptr_t dst, const void *src, size_t len) __must_check;

/* *p &= ~mask, *p |= mask on a byte of guest memory, atomically; the old value, or -EFAULT. */
int user_clear_bits8(uint8_t *p, uint8_t mask);
int user_set_bits8(uint8_t *p, uint8_t mask);

#endif
