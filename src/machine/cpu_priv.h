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

/* cpu_state.c: everything KVM lets us read, taken at power-on and loaded at reset. */
int cpu_state_save(struct vcpu *v, struct cpu_state **out) __must_check;
int cpu_state_load(struct vcpu *v, const struct cpu_state *s) __must_check;
void cpu_state_free(struct cpu_state *s);

/* chips.c: the VM's in-kernel PICs, IOAPIC and PIT, likewise. Freed by free(). */
int chips_save(struct vm *vm, struct chips_state **out) __must_check;
int chips_load(struct vm *vm, const struct chips_state *s) __must_check;

#endif
