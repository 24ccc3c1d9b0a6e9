/* SPDX-License-Identifier: MIT
 * The route table: gsi → irqchip pins and MSIs. Built whole from what the
 * caller gives, each entry with its deliver function, published (grace.h) and
 * never edited.
 */
#ifndef BELFRY_SOFTKVM_ROUTE_H
#define BELFRY_SOFTKVM_ROUTE_H

#include "irqchip/irqchip.h"
#include <linux/kvm.h>
#include <stdatomic.h>

struct soft_vm;

/* Who drives a line (the chips' sources). */
enum { IRQ_SOURCE_USER, IRQ_SOURCE_RESAMPLER, IRQ_SOURCE_PIT };

struct route {
	/* Drive it; the tri-state. status: the result goes to user space. */
	int (*set)(struct soft_vm *vm, const struct route *r, int source, bool level, bool status);
	uint32_t type; /* KVM_IRQ_ROUTING_* */
	uint32_t gsi;
	uint32_t chip, pin;	/* chip's own pin; the PIC's count 0 to 15 */
	struct irq_message msg; /* MSI */
	uint64_t address;
	uint32_t data;
	_Atomic uint64_t irte;	/* MSI: remap.h; changes with the destinations */
};

#define ROUTE_CHIPS 3

struct route_table {
	unsigned nr_gsis;
	int chip_gsi[ROUTE_CHIPS][IOAPIC_PINS]; /* pin → gsi or -1, as the kernel's chip[][] */
	const struct route **first;		/* nr_gsis + 1: routes of gsi g are first[g] to first[g+1] */
	unsigned nr;
	struct route route[];
};

/* The empty table of a new VM. */
int routes_init(struct soft_vm *vm) __must_check;
void routes_destroy(struct soft_vm *vm);

/* KVM_SET_GSI_ROUTING. Errors as the kernel: -EINVAL, -ENOMEM. Caller holds vm->lock. */
int routes_set_locked(struct soft_vm *vm, const struct kvm_irq_routing_entry *e, unsigned nr)
	__must_check;
/* gsi 0–15: PIC and IOAPIC (0 → pin 2), 16–23: IOAPIC, as KVM_CREATE_IRQCHIP leaves it. */
int routes_set_default_locked(struct soft_vm *vm) __must_check;

/* Drive all routes of a gsi; the tri-state, -1 for a gsi without route. Any thread. */
int route_set(struct soft_vm *vm, gsi_t gsi, int source, bool level, bool status);
/* KVM_SIGNAL_MSI. -EINVAL, or the tri-state. */
int route_signal_msi(struct soft_vm *vm, const struct kvm_msi *msi);
/*
 * The irqfd's edge: straight to the APIC if the gsi has a single MSI, else up and
 * down by route_set(). fast: set to which it was.
 */
int route_pulse(struct soft_vm *vm, gsi_t gsi, bool *fast);

/* gsi of a chip's pin by the present table, -1: none. */
int route_pin_to_gsi(struct soft_vm *vm, unsigned chip, unsigned pin);
/* Pins of a chip that lead from one of the gsis (nr of them), as a mask. */
uint32_t route_pins_of(struct soft_vm *vm, unsigned chip, const gsi_t *gsis, unsigned nr);

#endif
