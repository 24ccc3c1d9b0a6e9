/* SPDX-License-Identifier: MIT
 * Inside the interrupt fabric. docs/INTERRUPTS.md has the protocol.
 */
#ifndef BELFRY_MACHINE_IRQ_PRIV_H
#define BELFRY_MACHINE_IRQ_PRIV_H

#include "machine/machine.h"
#include <stdatomic.h>

#define NR_DEFAULT_ROUTES (15 + 23) /* ISA to the PICs, all but pin 0 of the IOAPIC */

struct irq_fabric {
	struct vm *vm;
	const struct log *log;
	bool has_irqfd, has_msi, has_status;
	unsigned max_gsi, max_routes;
	pthread_mutex_t lock;                  /* all below; innermost of the machine's locks */
	struct kvm_irq_routing_entry *routes;  /* defaults first, then one a gsi */
	unsigned nr_routes, table_len;
	unsigned high[LAYOUT_NR_IOAPIC_PINS];  /* wires that hold each gsi high */
	struct irq_wire *wires;
	struct irq_msi *msis;
	bool said_full;
};

/* A gsi with one MSI entry, published. Returns the gsi or -ENOSPC, -ENOMEM, KVM's error. */
int route_alloc_locked(struct irq_fabric *f, uint64_t address, uint32_t data);
int route_set_locked(struct irq_fabric *f, gsi_t gsi, uint64_t address, uint32_t data);
void route_free_locked(struct irq_fabric *f, gsi_t gsi);

#endif
