/* SPDX-License-Identifier: MIT
 * Bare-metal guests of a few instructions, to put single events through a KVM
 * half: no kernel, no firmware, no file. Each vCPU starts in 64-bit mode with
 * an IDT whose handlers count each vector in a page of the CPU's own; the host
 * picks what it does next by setting its registers.
 *
 * The vCPUs have no threads here: the caller runs them. Interrupts that come
 * while the guest is in `bare_idle` or `bare_spin` are counted; the others
 * entries run with interrupts off.
 */
#ifndef BELFRY_MONITOR_BARE_H
#define BELFRY_MONITOR_BARE_H

#include "kvmapi/kvmapi.h"
#include "monitor/bare_layout.h"

/* What the guest does; see bare_code.S. */
enum bare_entry {
	BARE_IDLE,     /* sti, hlt, for ever */
	BARE_CLI_HALT,
	BARE_SPIN,     /* ring 3, interrupts on, for ever */
	BARE_OUT1,     /* one access, then an exit at BARE_PORT_DONE */
	BARE_OUT2,
	BARE_OUT4,
	BARE_IN4,
	BARE_MMIO1,
	BARE_MMIO2,
	BARE_MMIO4,
	BARE_MMIO8,
	BARE_MMIO_LOAD,
	NR_BARE_ENTRIES,
};

struct bare {
	struct sys sys;
	struct vm vm;
	uint8_t *mem;
	bool irqchip;          /* the KVM half has PIC, IOAPIC and local APICs for this VM */
	unsigned nr_cpus;
	struct vcpu cpus[BARE_MAX_CPUS];
	bool user[BARE_MAX_CPUS]; /* its last entry was one of ring 3 */
};

/*
 * A VM with cpus vCPUs (up to BARE_MAX_CPUS), local APICs enabled, every
 * IOAPIC pin masked, routes as the KVM half makes them. On failure *e says
 * what, nothing is left.
 */
int bare_create(struct bare *b, const struct kvmapi *api, unsigned cpus, bool irqchip,
		struct err *e) __must_check;
/* Nobody runs a vCPU any more. */
void bare_destroy(struct bare *b);

/*
 * Let the vCPU do `entry` at its next KVM_RUN. port or gpa: where the access
 * goes; value: what is written. On the vCPU's thread, or while it stands.
 */
int bare_set(struct bare *b, unsigned cpu, enum bare_entry entry, uint64_t where,
	     uint64_t value) __must_check;

/* How often the CPU took the vector. Any thread, changes at any moment. */
uint64_t bare_count(const struct bare *b, unsigned cpu, unsigned vector);
/* The sum over all exceptions: not 0 means that the guest has gone wrong. */
uint64_t bare_faults(const struct bare *b, unsigned cpu);

/* Set an IOAPIC pin's redirection entry (all 64 bits, Intel 82093AA "I/O Redirection Table"). */
int bare_set_pin(struct bare *b, unsigned pin, uint64_t entry) __must_check;

/*
 * Run until the guest says that it is done; exits on the way go to fn, which
 * returns 0 to go on. -EINTR after a signal; -EIO: the guest went wrong.
 */
int bare_run_until_done(struct bare *b, unsigned cpu,
			int (*fn)(void *arg, struct kvm_run *run), void *arg) __must_check;

#endif
