/* SPDX-License-Identifier: MIT
 * What the targets of softkvm's API share: an operation of the API differential
 * (tests/diff) out of the input, and what must work whatever came before.
 */
#ifndef BELFRY_FUZZ_API_H
#define BELFRY_FUZZ_API_H

#include "../diff/diff.h"
#include "../lib/process.h"
#include "fuzz.h"
#include <sys/eventfd.h>
#include <unistd.h>

#define MAX_OPS 40

static const struct op_kind *const kinds[] = {
#define ADDRESS_OF(name) &op_##name,
	ALL_OPS(ADDRESS_OF)
#undef ADDRESS_OF
};

/* With arguments from its makers or from the input. */
static inline void one_op(struct world *w, struct feed *f)
{
	const struct op_kind *kind = kinds[feed_below(f, ARRAY_SIZE(kinds))];
	struct rng r = { .state = feed_u16(f), .hostile = feed_u8(f) & 0x7f };
	uint8_t raw = feed_u8(f);
	uint64_t arg[OP_ARGS] = { 0 };

	for (unsigned i = 0; i < OP_ARGS && kind->arg[i].make; i++) {
		arg[i] = kind->arg[i].make(&r);
		if (raw >> i & 1)
			arg[i] = feed_u64(f);
	}
	/* A guest that is made to wait would take its time limit. */
	if (kind == &op_guest)
		arg[0] &= 0x11;
	kind->run(w, arg);
}

static inline bool in_irr(struct world *w, unsigned vector)
{
	struct kvm_lapic_state l;

	FUZZ_CHECK(!world_quiet(w, w->cpu[0][0], KVM_GET_LAPIC, &l), "no local APIC");
	return load_le32(l.regs + 0x200 + vector / 32 * 16) >> vector % 32 & 1;
}

/* A new VM is served as if nothing had been: a line, a message and an irqfd arrive. */
static inline void expect_service(struct world *w)
{
	struct kvm_irqchip c = { .chip_id = KVM_IRQCHIP_IOAPIC };
	struct kvm_irq_level line = { .irq = 20, .level = 1 };
	struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x51 };
	struct kvm_irqfd fd = { .gsi = 21 };

	FUZZ_CHECK(!world_begin(w), "no VM");
	FUZZ_CHECK(!world_quiet(w, w->vm[0], KVM_CREATE_IRQCHIP, NULL), "no chips");
	w->chips[0] = CHIPS_KERNEL;
	world_add_vcpu(w, 0, 0);
	FUZZ_CHECK(!world_quiet(w, w->vm[0], KVM_GET_IRQCHIP, &c), "no IOAPIC");
	c.chip.ioapic.redirtbl[20].bits = 0x50;
	c.chip.ioapic.redirtbl[21].bits = 0x52;
	FUZZ_CHECK(!world_quiet(w, w->vm[0], KVM_SET_IRQCHIP, &c), "no IOAPIC");
	fd.fd = (uint32_t)w->event[0];
	FUZZ_CHECK(!world_quiet(w, w->vm[0], KVM_IRQFD, &fd), "no irqfd");
	w->binding[0] = (struct binding){ true, 0, 21 };
	FUZZ_CHECK(!world_quiet(w, w->vm[0], KVM_IRQ_LINE, &line), "no line");
	FUZZ_CHECK(world_quiet(w, w->vm[0], KVM_SIGNAL_MSI, &msi) == 1, "no message");
	eventfd_write(w->event[0], 1);
	world_settle(w);
	for (unsigned v = 0x50; v <= 0x52; v++)
		FUZZ_CHECK(in_irr(w, v), "vector %x", v);
	world_end(w);
}

#endif
