/* SPDX-License-Identifier: MIT
 * An interrupt message: what travels from an MSI, an I/O APIC pin or a local
 * APIC's ICR to local APICs. Pure conversions between its four encodings.
 * Source: Intel SDM Vol. 3A, "Message Signalled Interrupts" and "Issuing
 * Interprocessor Interrupts"; 82093AA datasheet, "I/O Redirection Table".
 */
#ifndef BELFRY_IRQCHIP_MESSAGE_H
#define BELFRY_IRQCHIP_MESSAGE_H

#include "base/base.h"

/* The 3-bit delivery mode of ICR, LVT, RTE and MSI data. */
enum irq_delivery {
	IRQ_FIXED = 0,
	IRQ_LOWEST = 1,
	IRQ_SMI = 2,
	IRQ_REMOTE_READ = 3,	/* obsolete on hardware; KVM's PV kick uses it */
	IRQ_NMI = 4,
	IRQ_INIT = 5,
	IRQ_STARTUP = 6,
	IRQ_EXTINT = 7,
};

/* The ICR's destination shorthand. */
enum irq_shorthand {
	IRQ_NO_SHORTHAND = 0,
	IRQ_SELF = 1,
	IRQ_ALL = 2,
	IRQ_ALL_BUT_SELF = 3,
};

struct irq_message {
	uint32_t dest;		/* APIC ID or logical destination */
	uint8_t vector;
	uint8_t delivery;	/* enum irq_delivery */
	uint8_t shorthand;	/* enum irq_shorthand; 0 unless from an ICR */
	bool logical;		/* destination mode */
	bool level;		/* trigger mode: level */
	bool assert;		/* level assert; false only for the old INIT de-assert */
	bool redirection_hint;	/* deliver as if lowest priority */
};

/* How destinations wider than 8 bits travel in an MSI. */
enum msi_format {
	MSI_XAPIC,	/* 8 bits: address 19:12 */
	MSI_EXT_DEST,	/* 15 bits: address 11:5 hold destination 14:8 (KVM_FEATURE_MSI_EXT_DEST_ID) */
	MSI_X2APIC,	/* 32 bits: address_hi 31:8 (KVM_X2APIC_API_USE_32BIT_IDS) */
};

#define MSI_ADDRESS_BASE 0xfee00000u

/*
 * Decode address (64 bits) and data. As the kernel does, address bits 31:20 are
 * not looked at (the caller knows that it is an MSI) and the level bit of the
 * data is ignored: an MSI always asserts. -EINVAL where the kernel refuses the
 * route: MSI_X2APIC with any of address bits 39:32 set. Any thread.
 */
int msi_decode(uint64_t address, uint32_t data, enum msi_format format,
	       struct irq_message *msg) __must_check;

/*
 * The reverse. -ERANGE if the destination does not fit the format, -EINVAL if
 * the message has a shorthand (only an ICR can say that).
 */
int msi_encode(const struct irq_message *msg, enum msi_format format, uint64_t *address,
	       uint32_t *data) __must_check;

/* I/O APIC redirection table entry, 82093AA "I/O Redirection Table Registers". */
#define RTE_VECTOR		0xffull
#define RTE_DELIVERY_SHIFT	8
#define RTE_LOGICAL		(1ull << 11)
#define RTE_PENDING		(1ull << 12)	/* delivery status, read only */
#define RTE_LOW_ACTIVE		(1ull << 13)
#define RTE_REMOTE_IRR		(1ull << 14)	/* read only */
#define RTE_LEVEL		(1ull << 15)
#define RTE_MASKED		(1ull << 16)
#define RTE_EXT_DEST_SHIFT	49		/* bits 55:49 are destination 14:8 */
#define RTE_DEST_SHIFT		56

/*
 * The message an entry sends; its mask and status bits are not looked at.
 * ext_dest: take destination bits 14:8 from bits 55:49.
 */
void rte_decode(uint64_t rte, bool ext_dest, struct irq_message *msg);

/* An entry, unmasked and with clear status bits. -ERANGE, -EINVAL as msi_encode(). */
int rte_encode(const struct irq_message *msg, bool ext_dest, uint64_t *rte) __must_check;

/*
 * The MSI an I/O APIC sends for an entry, for a split irqchip's routes. With
 * ext_dest the destination travels as MSI_EXT_DEST.
 */
void rte_to_msi(uint64_t rte, bool ext_dest, uint64_t *address, uint32_t *data);

/* ICR bits, SDM "Interrupt Command Register (ICR)". */
#define ICR_LOGICAL		(1u << 11)
#define ICR_BUSY		(1u << 12)
#define ICR_ASSERT		(1u << 14)
#define ICR_LEVEL		(1u << 15)
#define ICR_SHORTHAND_SHIFT	18

/* x2apic: the upper half is the destination; otherwise its top byte is. */
void icr_decode(uint64_t icr, bool x2apic, struct irq_message *msg);

/* -ERANGE if the destination does not fit. */
int icr_encode(const struct irq_message *msg, bool x2apic, uint64_t *icr) __must_check;

#endif
