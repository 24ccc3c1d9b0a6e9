/* SPDX-License-Identifier: MIT
 * What the files of libsoftkvm-preload.so share. They are no part of the library
 * of rooms: an "open" in the rooms goes to the C library, past the one here
 * (mk/preload.mk renames it).
 */
#ifndef BELFRY_SOFTKVM_PRELOAD_H
#define BELFRY_SOFTKVM_PRELOAD_H

#include "base/base.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* Every call that is intercepted, but for the names that are only others' aliases. */
#define PRELOAD_CALLS(X)                                                                          \
	X(open) X(openat) X(fopen) X(ioctl) X(mmap) X(munmap) X(close) X(sigaction)               \
	X(pthread_cancel) X(dup2) X(dup3) X(close_range)                                                                         \
	X(access) X(eaccess) X(faccessat) X(stat) X(lstat) X(fstatat) X(statx)

/* The C library's. */
struct preload_libc {
#define X(name) __typeof__(name) *name;
	PRELOAD_CALLS(X)
#undef X
};
const struct preload_libc *preload_libc(void);

/* The path that stands for KVM: /dev/kvm, or what BELFRY_PRELOAD_NODE says. */
const char *preload_node(void);
/* Is this the node's name, as it is? Costs nothing. */
bool preload_is_node(const char *path);

/*
 * A call for path, as the *at() functions take it, failed with errno: was it for
 * the node all the same, through links or in other words? The node may be missing
 * or forbidden. Keeps errno.
 */
bool preload_failed_at_node(int dir, const char *path);

#endif
