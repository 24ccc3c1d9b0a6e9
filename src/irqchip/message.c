/* SPDX-License-Identifier: MIT */
#include "irqchip/message.h"

/* MSI address and data bits, SDM "Message Address Register Format" and "... Data ...". */
#define MSI_ADDR_LOGICAL	(1u << 2)
#define MSI_ADDR_HINT		(1u << 3)
#define MSI_ADDR_EXT_SHIFT	5
#define MSI_ADDR_DEST_SHIFT	12
#define MSI_DATA_DELIVERY_SHIFT	8
#define MSI_DATA_ASSERT		(1u << 14)
#define MSI_DATA_LEVEL		(1u << 15)

int msi_decode(uint64_t address, uint32_t data, enum msi_format format, struct irq_message *msg)
{
	uint32_t hi = (uint32_t)(address >> 32);
	uint32_t dest = (uint32_t)(address >> MSI_ADDR_DEST_SHIFT) & 0xff;

	if (format == MSI_X2APIC) {
		if (hi & 0xff)
			return -EINVAL;
		dest |= hi;
	} else if (format == MSI_EXT_DEST) {
		dest |= ((uint32_t)(address >> MSI_ADDR_EXT_SHIFT) & 0x7f) << 8;
	}
	*msg = (struct irq_message) {
		.dest = dest,
		.vector = (uint8_t)data,
		.delivery = (data >> MSI_DATA_DELIVERY_SHIFT) & 7,
		.logical = address & MSI_ADDR_LOGICAL,
		.level = data & MSI_DATA_LEVEL,
		.assert = true,
		.redirection_hint = address & MSI_ADDR_HINT,
	};
	return 0;
}

int msi_encode(const struct irq_message *msg, enum msi_format format, uint64_t *address,
	       uint32_t *data)
{
	static const uint32_t max[] = {
		[MSI_XAPIC] = 0xff, [MSI_EXT_DEST] = 0x7fff, [MSI_X2APIC] = UINT32_MAX,
	};
	uint64_t a;

	if ((unsigned)format >= ARRAY_SIZE(max) || msg->shorthand)
		return -EINVAL;
	if (msg->dest > max[format])
		return -ERANGE;
	a = MSI_ADDRESS_BASE | (msg->dest & 0xff) << MSI_ADDR_DEST_SHIFT;
	if (format == MSI_X2APIC)
		a |= (uint64_t)(msg->dest & ~0xffu) << 32;
	else
		a |= (msg->dest >> 8) << MSI_ADDR_EXT_SHIFT;
	if (msg->logical)
		a |= MSI_ADDR_LOGICAL;
	if (msg->redirection_hint)
		a |= MSI_ADDR_HINT;
	*address = a;
	*data = msg->vector | (uint32_t)(msg->delivery & 7) << MSI_DATA_DELIVERY_SHIFT;
	if (msg->level)
		*data |= MSI_DATA_LEVEL | MSI_DATA_ASSERT;
	return 0;
}

void rte_decode(uint64_t rte, bool ext_dest, struct irq_message *msg)
{
	uint32_t dest = (uint32_t)(rte >> RTE_DEST_SHIFT);

	if (ext_dest)
		dest |= ((uint32_t)(rte >> RTE_EXT_DEST_SHIFT) & 0x7f) << 8;
	*msg = (struct irq_message) {
		.dest = dest,
		.vector = (uint8_t)rte,
		.delivery = (rte >> RTE_DELIVERY_SHIFT) & 7,
		.logical = rte & RTE_LOGICAL,
		.level = rte & RTE_LEVEL,
		.assert = true,
	};
}

int rte_encode(const struct irq_message *msg, bool ext_dest, uint64_t *rte)
{
	if (msg->shorthand)
		return -EINVAL;
	if (msg->dest > (ext_dest ? 0x7fffu : 0xffu))
		return -ERANGE;
	*rte = msg->vector | (uint64_t)(msg->delivery & 7) << RTE_DELIVERY_SHIFT |
	       (uint64_t)(msg->dest & 0xff) << RTE_DEST_SHIFT |
	       (uint64_t)(msg->dest >> 8) << RTE_EXT_DEST_SHIFT;
	if (msg->logical)
		*rte |= RTE_LOGICAL;
	if (msg->level)
		*rte |= RTE_LEVEL;
	return 0;
}

void rte_to_msi(uint64_t rte, bool ext_dest, uint64_t *address, uint32_t *data)
{
	struct irq_message msg;
	int ret;

	rte_decode(rte, ext_dest, &msg);
	/* A decoded entry has at most 15 destination bits and no shorthand: it fits. */
	ret = msi_encode(&msg, MSI_EXT_DEST, address, data);
	(void)ret;
}

void icr_decode(uint64_t icr, bool x2apic, struct irq_message *msg)
{
	uint32_t low = (uint32_t)icr;

	*msg = (struct irq_message) {
		.dest = x2apic ? (uint32_t)(icr >> 32) : (uint32_t)(icr >> 56),
		.vector = (uint8_t)low,
		.delivery = (low >> 8) & 7,
		.shorthand = (low >> ICR_SHORTHAND_SHIFT) & 3,
		.logical = low & ICR_LOGICAL,
		.level = low & ICR_LEVEL,
		.assert = low & ICR_ASSERT,
	};
}

int icr_encode(const struct irq_message *msg, bool x2apic, uint64_t *icr)
{
	if (!x2apic && msg->dest > 0xff)
		return -ERANGE;
	*icr = msg->vector | (uint32_t)(msg->delivery & 7) << 8 |
	       (uint32_t)(msg->shorthand & 3) << ICR_SHORTHAND_SHIFT |
	       (uint64_t)msg->dest << (x2apic ? 32 : 56);
	if (msg->logical)
		*icr |= ICR_LOGICAL;
	if (msg->level)
		*icr |= ICR_LEVEL;
	if (msg->assert)
		*icr |= ICR_ASSERT;
	return 0;
}
