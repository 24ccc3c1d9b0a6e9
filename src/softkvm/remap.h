/* SPDX-License-Identifier: MIT
 * Interrupt remapping as VT-d has it (Intel Virtualization Technology for
 * Directed I/O, "Interrupt Remapping"): between a device's MSI, which here is an
 * irqfd, and the CPUs stands an entry. In remapped format it is a message for
 * local APICs; in posted format a descriptor and a vector, and the device's
 * thread posts without asking anybody. docs/SOFTKVM.md, "Interrupt remapping".
 */
#ifndef BELFRY_SOFTKVM_REMAP_H
#define BELFRY_SOFTKVM_REMAP_H

#include "irqchip/irqchip.h"

struct soft_vm;
struct route;

/*
 * The lower 64 bits of an IRTE, "Interrupt Remapping Table Entry (IRTE)", in both
 * formats. The upper are 0 here: no source is validated, and descriptors lie below
 * 4 GiB of a space of their own, one of 64 bytes for each vCPU by its index.
 */
#define IRTE_PRESENT	 (1ull << 0)
#define IRTE_LOGICAL	 (1ull << 2)	/* DM */
#define IRTE_HINT	 (1ull << 3)	/* RH */
#define IRTE_LEVEL	 (1ull << 4)	/* TM */
#define IRTE_DLM_SHIFT	 5
#define IRTE_URGENT	 (1ull << 14)	/* URG, posted format only */
#define IRTE_POSTED	 (1ull << 15)	/* IM */
#define IRTE_VECTOR_SHIFT 16
#define IRTE_DST_SHIFT	 32		/* x2APIC's 32 bits (EIME) */
#define IRTE_PDAL_SHIFT	 38		/* bits 31:6 of the descriptor's address */

uint64_t irte_remapped(const struct irq_message *msg);
/* descriptor: a multiple of 64. */
uint64_t irte_posted(uint32_t descriptor, uint8_t vector, bool urgent);
void irte_message(uint64_t irte, struct irq_message *msg);
uint32_t irte_descriptor(uint64_t irte);

static inline uint8_t irte_vector(uint64_t irte)
{
	return (uint8_t)(irte >> IRTE_VECTOR_SHIFT);
}

/*
 * Recompute every MSI route's entry from the present routes and destinations: after
 * either has changed. As KVM's pi_update_irte: posted for a fixed or lowest-priority
 * message that goes to a single CPU, else remapped. Caller holds vm->map_lock.
 */
void remap_update_locked(struct soft_vm *vm);

/* A device's interrupt through r's entry; the tri-state. Any thread, inside grace_enter(). */
int remap_deliver(struct soft_vm *vm, const struct route *r);

#endif
