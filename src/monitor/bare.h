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
	BARE_REPEAT_OUT2, /* count accesses, one exit at BARE_PORT_DONE, then as BARE_IDLE */
	BARE_REPEAT_OUT4,
	BARE_REPEAT_MMIO2,
	BARE_REPEAT_MMIO4,
	BARE_REPEAT_MMIO8,
	BARE_MIXED,       /* ring 0, interrupts on: halts while bare_set_halt says so, else runs */
	BARE_IPI_ICR,     /* count times BARE_IPI_VECTORS to a set of CPUs, until all have counted them; */
	BARE_IPI_PV,      /* then as BARE_REPEAT. By ICR (flat logical), by KVM_HC_SEND_IPI */
	NR_BARE_ENTRIES,
};

struct bare_job {
	enum bare_entry entry;
	uint64_t where;  /* port or gpa of the access */
	uint64_t value;  /* what is written; BARE_IPI_*: first vector | set of CPUs << 32 */
	uint64_t count;  /* BARE_REPEAT_*: how often; not 0 */
};

/* ---- for a VM of the caller's ------------------------------------------ */

/*
 * Put code and tables at gpa 0: mem is BARE_MEM_SIZE bytes. lapic: handlers
 * write EOI to the local APIC, else nowhere.
 */
void bare_build(uint8_t *mem, unsigned cpus, bool lapic);
/* Enable the vCPU's local APIC. */
int bare_enable_lapic(struct vcpu *v) __must_check;
/* Set all registers for the job, and make the vCPU runnable. On the vCPU's thread, or while it stands. */
int bare_enter(struct vcpu *v, unsigned cpu, const struct bare_job *job) __must_check;
/* Of a CPU in BARE_MIXED: whether it halts when it has no interrupt to take. Any thread. */
void bare_set_halt(uint8_t *mem, unsigned cpu, bool halt);
/* How often the CPU took the vector. Any thread, changes at any moment. */
uint64_t bare_count_in(const uint8_t *mem, unsigned cpu, unsigned vector);
/* Set an IOAPIC pin's redirection entry (all 64 bits, Intel 82093AA "I/O Redirection Table"). */
int bare_set_pin(struct vm *vm, unsigned pin, uint64_t entry) __must_check;

/* ---- a VM that is nothing else ------------------------------------------ */

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

/*
 * Out of KVM_RUN by a signal that runs no handler: the vCPU's thread has BARE_KICK_SIGNAL
 * blocked, KVM_RUN alone lets it through (KVM_SET_SIGNAL_MASK), so it ends that and no more.
 */
#define BARE_KICK_SIGNAL SIGUSR1
/* Once, on the vCPU's thread, before its first KVM_RUN. */
int bare_allow_kick(struct vcpu *v) __must_check;
/* After -EINTR: take the signal, or it would end the next KVM_RUN too. Same thread. */
void bare_eat_kick(void);

/*
 * Run until the guest says that it is done; exits on the way go to fn, which
 * returns 0 to go on. -EINTR after a signal; -EIO: the guest went wrong.
 */
int bare_run_until_done(struct bare *b, unsigned cpu,
			int (*fn)(void *arg, struct kvm_run *run), void *arg) __must_check;

#endif
