/* SPDX-License-Identifier: MIT
 * The context, and what every file of the room needs.
 */
#ifndef BELFRY_SOFTKVM_PRIV_H
#define BELFRY_SOFTKVM_PRIV_H

#include "softkvm/fd.h"
#include "softkvm/softkvm.h"
#include "softkvm/usercopy.h"
#include <stdatomic.h>

/* The CPU's word for an atomic that is shared with structs of other rooms. */
#define READ_ONCE(x)	 __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define WRITE_ONCE(x, v) __atomic_store_n(&(x), v, __ATOMIC_RELAXED)

#define SOFT_PAGE_SIZE	  4096u
#define SOFT_RUN_PAGES	  3u	/* kvm_run, PIO data, coalesced ring */
#define SOFT_PIO_PAGE	  1u
#define SOFT_RING_PAGE	  2u
#define SOFT_MAX_VCPUS	  1024u
#define SOFT_MAX_VCPU_IDS 4096u
#define SOFT_MAX_SLOTS	  32764u
#define SOFT_MAX_ROUTES	  4096u
#define SOFT_MAXPHYADDR	  48u

struct soft_irqfd;

struct softkvm {
	struct softkvm_config cfg; /* (o) */
	uint32_t tsc_khz;	   /* (o) */
	struct fd_table fds;
	/* One eventfd serves one irqfd, in whatever VM: all that are bound. */
	pthread_mutex_t irqfd_lock;
	struct soft_irqfd *irqfds;
};

/* One request of a kind of fd. */
struct ioctl_row {
	unsigned long request;
	/*
	 * arg: a copy of the argument, _IOC_SIZE(request) bytes, copied back if the
	 * request says so and the result is not an error; raw: as the caller gave it.
	 */
	int (*fn)(void *obj, uintptr_t arg);
	bool raw;
};

/* Look request up and call its row. fallback: what an unknown one gives. */
int ioctl_dispatch(const struct ioctl_row *rows, size_t nr, void *obj, unsigned long request,
		   uintptr_t arg, int fallback);

/* api_system.c */
extern const struct soft_file_ops system_file_ops;
struct soft_vm;
/* Value of a capability; vm may be NULL (asked on the system fd). */
int cap_value(const struct softkvm *ctx, const struct soft_vm *vm, unsigned long cap);

/* vm.c: KVM_CREATE_VM. Returns the fd. */
int vm_create_fd(struct softkvm *ctx, unsigned long type);

#endif
