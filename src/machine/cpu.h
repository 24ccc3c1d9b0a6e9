/* SPDX-License-Identifier: MIT
 * A vCPU thread. Life cycle: created → held → running ⇄ held → gone. The run
 * loop is KVM_RUN and a table of exit handlers; every exit reason is handled
 * or ends the machine with an error that names it and shows the vCPU's state.
 *
 * Kicking (bringing the thread out of KVM_RUN) uses run->immediate_exit and a
 * signal, so that a kick between the check and the entry is not lost:
 * docs/VCPU.md draws it.
 */
#ifndef BELFRY_MACHINE_CPU_H
#define BELFRY_MACHINE_CPU_H

#include "base/base.h"
#include "kvmapi/kvmapi.h"
#include "machine/region.h"
#include <pthread.h>

struct machine;

struct cpu {
	struct machine *machine;
	unsigned index;
	struct vcpu vcpu;
	struct region_reader reader;
	struct vcpu_state *power_on; /* loaded at reset */
	pthread_t thread;
	bool has_thread;
	/* under `lock` */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool hold;     /* asked to stay out of the guest */
	bool held;     /* is out, and waits */
	bool leave;    /* asked to end */
	_Atomic bool want_out;  /* hold or leave: read by the run loop without the lock */
	/* counters, written by the thread, read by anybody */
	_Atomic uint64_t exits[64];    /* by reason; 63 and above share the last */
	_Atomic uint64_t nowhere;      /* accesses nobody answered */
};

/* Create the vCPU with its CPUID (not the thread). */
int cpu_create(struct cpu *c, struct machine *m, unsigned index, const struct kvm_cpuid2 *cpuid,
	       struct err *e) __must_check;
/* Create the thread; it waits held. */
int cpu_start(struct cpu *c) __must_check;
/* Bring it out and wait until it is held; and let it go on. Not from a vCPU thread. */
void cpu_hold(struct cpu *c);
void cpu_release(struct cpu *c);
/* Make it leave KVM_RUN once and look at its flags. Any thread. */
void cpu_kick(struct cpu *c);
/* End the thread and close the vCPU. */
void cpu_destroy(struct cpu *c);
/* Registers as after power-on (Intel SDM "Processor State After Reset"); secondary CPUs wait for SIPI. Held. */
int cpu_reset(struct cpu *c) __must_check;

#endif
