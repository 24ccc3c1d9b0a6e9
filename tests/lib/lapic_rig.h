/* SPDX-License-Identifier: MIT
 * A local APIC whose sink counts, for its unit tests. Everything asserts on failure.
 */
#ifndef BELFRY_TESTS_LAPIC_RIG_H
#define BELFRY_TESTS_LAPIC_RIG_H

#include "irqchip/irqchip.h"

struct lapic_rig {
	struct lapic l;
	struct irq_message ipi;
	unsigned ipis, attentions, nmis, unhalts, maps;
	bool smi_ok, lint0_nmi;
	uint64_t pir[4];
	bool posts;
};

/* Every call of the sink; only what it must have; with posted-interrupt descriptors. */
extern const struct lapic_sink rig_sink, rig_bare_sink, rig_posting_sink;

/* As after reset, with this APIC ID; 0 is the BSP. */
void rig_setup_id(struct lapic_rig *r, uint32_t id, const struct lapic_sink *s);
/* ID 0, software-enabled, and LINT0 masked. */
void rig_setup(struct lapic_rig *r);
void rig_to_x2apic(struct lapic_rig *r);

void rig_write(struct lapic_rig *r, uint32_t offset, uint32_t value);
uint32_t rig_read(struct lapic_rig *r, uint32_t offset);
/* A fixed interrupt; what lapic_accept() says. */
int rig_send(struct lapic_rig *r, uint8_t vector, bool level);
/* LVT, divide configuration and initial count, at the time now (ns). */
void rig_start_timer(struct lapic_rig *r, uint32_t lvt, uint32_t tdcr, uint32_t initial,
		     uint64_t now);

#endif
