/* SPDX-License-Identifier: MIT
 * The chips of KVM_CREATE_IRQCHIP and KVM_CREATE_PIT2: the room's wiring of the
 * irqchip models to buses, routes and local APICs. Acks run with no lock held.
 */
#ifndef BELFRY_SOFTKVM_CHIPS_H
#define BELFRY_SOFTKVM_CHIPS_H

#include "base/base.h"
#include <linux/kvm.h>

struct soft_vm;
struct soft_vcpu;
struct kvm_pit_config;

/* PIC and IOAPIC on their buses. Caller holds vm->lock. */
int vmchips_create_locked(struct soft_vm *vm) __must_check;
/* At VM release, also if nothing was created. */
void vmchips_destroy(struct soft_vm *vm);

/* Drive pins; the tri-state. Any thread. */
int vmchips_set_pic(struct soft_vm *vm, unsigned pin, int source, bool level);
int vmchips_set_ioapic(struct soft_vm *vm, unsigned pin, int source, bool level, bool status);
/* Which pins' acks somebody wants has changed (routes, resamplers, PIT). */
void vmchips_update_wanted_acks(struct soft_vm *vm);

/* A local APIC ended vector. On v's thread. */
void vmchips_eoi(struct soft_vcpu *v, uint8_t vector, bool level);
/* Bits of vectors whose EOI this vCPU must broadcast, from the IOAPIC or the split routes. */
void vmchips_scan_eois(struct soft_vcpu *v);
/* KVM_SET_LAPIC: it may owe an EOI for the RTC's pin, or not owe it any more. */
void vmchips_lapic_loaded(struct soft_vcpu *v);
/* The PIC's wire, and its answer to the CPU's INTA. */
bool vmchips_extint_pending(struct soft_vm *vm);
int vmchips_inta(struct soft_vm *vm);

/* KVM_GET/SET_IRQCHIP: -EINVAL for an unknown chip. */
int vmchips_save(struct soft_vm *vm, struct kvm_irqchip *c) __must_check;
int vmchips_load(struct soft_vm *vm, const struct kvm_irqchip *c) __must_check;

/* pit.c */
int pit_create_locked(struct soft_vm *vm, uint32_t flags) __must_check;
void pit_destroy(struct soft_vm *vm);
void pit_save(struct soft_vm *vm, struct kvm_pit_state2 *p);
void pit_load(struct soft_vm *vm, const struct kvm_pit_state2 *p);
/* KVM_SET_PIT: channels only, the flags stay. */
void pit_load_channels(struct soft_vm *vm, const struct kvm_pit_state *p);
/* KVM_REINJECT_CONTROL. */
void pit_set_reinject(struct soft_vm *vm, bool on);
/* Ticks that wait are dropped: channel 0 was started anew or unmasked. Any thread, any lock. */
void pit_forget_ticks(struct soft_vm *vm);
/* The guest has taken a timer tick (PIC pin 0 or IOAPIC pin 2 was acked). */
void pit_acked(struct soft_vm *vm);

#endif
