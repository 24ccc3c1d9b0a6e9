/* SPDX-License-Identifier: MIT
 * Inside the vCPU: docs/VCPU.md draws the kick.
 */
#ifndef BELFRY_MACHINE_CPU_PRIV_H
#define BELFRY_MACHINE_CPU_PRIV_H

#include "machine/machine.h"
#include <stdatomic.h>

/* cpu_exit.c: KVM_RUN returned 0, or an error other than EINTR. On the vCPU's thread. */
void cpu_handle_exit(struct cpu *c);
void cpu_run_failed(struct cpu *c, int error);

/* cpu.c: the two halves of cpu_hold(), to hold many at once. */
void cpu_ask_hold(struct cpu *c);
bool cpu_is_held(struct cpu *c);

/* cpuid.c: give vCPU `index` of `cpus` the supported leaves with its own APIC ID and topology. */
int cpuid_set(struct vcpu *v, const struct kvm_cpuid2 *supported, unsigned index, unsigned cpus)
	__must_check;

#endif
