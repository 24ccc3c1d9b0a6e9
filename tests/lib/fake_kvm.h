/* SPDX-License-Identifier: MIT
 * A KVM half for unit tests: it answers the ioctls of <linux/kvm.h> with the
 * kernel's rules for irqfds, ioeventfds and routes, runs no guest, records what
 * it was told and fails the call a test picks. Everything is guarded by one
 * lock, so devices may use it from several threads.
 */
#ifndef BELFRY_TESTS_FAKE_KVM_H
#define BELFRY_TESTS_FAKE_KVM_H

#include "kvmapi/kvmapi.h"
#include <pthread.h>

#define FAKE_KVM_NR     512  /* irqfds, ioeventfds */
#define FAKE_KVM_MSIS   4096 /* messages remembered; later ones are counted only */
#define FAKE_KVM_ROUTES 4096
#define FAKE_KVM_FDS    320
#define FAKE_KVM_GSIS   256

struct fake_msi {
	uint64_t address;
	uint32_t data;
	int gsi; /* the irqfd it came by, -1: KVM_SIGNAL_MSI */
};

struct fake_kvm {
	struct kvmapi api; /* hand this to sys_open() or machine_create() */
	pthread_mutex_t lock;

	/* What a test may set before or between calls. */
	unsigned long fail_request; /* request to fail, 0: any */
	unsigned fail_after;        /* 1: the next such call, 2: the one after it; 0: none */
	int fail_error;             /* positive errno */
	bool fail_always;           /* go on failing after that */
	unsigned max_ioeventfds;    /* ENOSPC beyond it (the kernel's bus has 1000 places) */
	uint64_t cap_absent[4];     /* bit n: capability n is answered with 0 */
	/* Called for KVM_RUN; NULL: returns -EINTR after a moment. */
	int (*run)(void *arg, unsigned vcpu_id, struct kvm_run *run);
	void *run_arg;

	/* What it was told. */
	struct kvm_irqfd irqfd[FAKE_KVM_NR];
	unsigned nr_irqfds;
	struct kvm_ioeventfd ioeventfd[FAKE_KVM_NR];
	unsigned nr_ioeventfds;
	struct kvm_irq_routing_entry route[FAKE_KVM_ROUTES];
	unsigned nr_routes;
	unsigned nr_route_updates;
	struct kvm_userspace_memory_region slot[32];
	bool level[FAKE_KVM_GSIS];
	unsigned line_changes[FAKE_KVM_GSIS];
	struct fake_msi msi[FAKE_KVM_MSIS];
	unsigned nr_msis;           /* delivered, by whatever way */
	unsigned nr_irqfd_pins;     /* irqfd signals that reached a pin route */
	unsigned nr_interrupts;     /* KVM_INTERRUPT */
	struct kvm_regs regs;       /* last KVM_SET_REGS, of whichever vCPU */
	struct kvm_sregs sregs;     /* last KVM_SET_SREGS */
	unsigned nr_ioctls;

	/* private */
	struct {
		enum { FAKE_FREE, FAKE_SYS, FAKE_VM, FAKE_VCPU } kind;
		unsigned id;
		struct kvm_run *run;
		struct kvm_mp_state mp;
	} fd[FAKE_KVM_FDS];
};

/* A zeroed struct becomes a half with every capability. */
void fake_kvm_init(struct fake_kvm *k);
/* Returns how many fds the code under test left open. */
unsigned fake_kvm_fini(struct fake_kvm *k);
/* Fail the nth next `request` (0: any) with this positive errno, once. */
void fake_kvm_fail(struct fake_kvm *k, unsigned long request, unsigned nth, int error);
void fake_kvm_set_cap(struct fake_kvm *k, unsigned cap, bool present);

/* Do what the kernel does by itself: take signalled irqfds and deliver them. Returns how many. */
unsigned fake_kvm_serve(struct fake_kvm *k);
/*
 * A guest's write. True if an ioeventfd took it (its eventfd is then
 * signalled), false if it would leave to user space.
 */
bool fake_kvm_guest_write(struct fake_kvm *k, bool pio, uint64_t address, uint64_t data,
			  unsigned len);
/* The bound ioeventfd at this place, or NULL. */
const struct kvm_ioeventfd *fake_kvm_find_doorbell(struct fake_kvm *k, bool pio, uint64_t address);
bool fake_kvm_irqfd_bound(struct fake_kvm *k, int fd);

#endif
