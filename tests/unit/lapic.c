/* SPDX-License-Identifier: MIT
 * The local APIC: registers, priorities, modes, EOI, timer, posted vectors.
 */
#include "irqchip/irqchip.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

struct rig {
	struct lapic l;
	struct irq_message ipi;
	unsigned ipis, attentions, nmis, unhalts, maps;
	bool smi_ok, lint0_nmi;
	uint64_t pir[4];
	bool posts;
};

static void on_ipi(void *opaque, const struct irq_message *msg)
{
	struct rig *r = opaque;

	r->ipi = *msg;
	r->ipis++;
}

static void on_attention(void *opaque)
{
	((struct rig *)opaque)->attentions++;
}

static void on_nmi(void *opaque)
{
	((struct rig *)opaque)->nmis++;
}

static bool on_smi(void *opaque)
{
	return ((struct rig *)opaque)->smi_ok;
}

static void on_unhalt(void *opaque)
{
	((struct rig *)opaque)->unhalts++;
}

static void on_map(void *opaque)
{
	((struct rig *)opaque)->maps++;
}

static void on_lint0(void *opaque, bool on)
{
	((struct rig *)opaque)->lint0_nmi = on;
}

static void on_post(void *opaque, uint8_t vector)
{
	struct rig *r = opaque;

	__atomic_fetch_or(&r->pir[vector / 64], BIT_ULL(vector % 64), __ATOMIC_SEQ_CST);
}

static const struct lapic_sink sink = {
	.deliver_ipi = on_ipi, .attention = on_attention, .nmi = on_nmi, .smi = on_smi,
	.unhalt = on_unhalt, .map_changed = on_map, .lint0_nmi = on_lint0,
};

static const struct lapic_sink bare_sink = { .deliver_ipi = on_ipi, .attention = on_attention };

static const struct lapic_sink posting_sink = {
	.deliver_ipi = on_ipi, .attention = on_attention, .post = on_post,
};

static void setup_id(struct rig *r, uint32_t id, const struct lapic_sink *s)
{
	struct lapic_config c = { .id = id, .bsp = id == 0, .lint0_enabled = true };

	memset(r, 0, sizeof(*r));
	lapic_init(&r->l, &c, s, r);
	lapic_set_cpuid(&r->l, true, true, false, 40);
}

static void write_reg(struct rig *r, uint32_t offset, uint32_t value)
{
	assert_int_equal(lapic_mmio_write(&r->l, offset, 4, value, 0), 0);
}

static uint32_t read_reg(struct rig *r, uint32_t offset)
{
	uint32_t value;

	assert_int_equal(lapic_mmio_read(&r->l, offset, 4, 0, &value), 0);
	return value;
}

/* Enabled, and LINT0 masked. */
static void setup(struct rig *r)
{
	setup_id(r, 0, &sink);
	write_reg(r, LAPIC_SVR, 0x1ff);
	write_reg(r, LAPIC_LVT_LINT0, LAPIC_LVT_MASKED);
}

static int send(struct rig *r, uint8_t vector, bool level)
{
	struct irq_message m = { .vector = vector, .level = level, .assert = true };

	return lapic_accept(&r->l, &m);
}

static void to_x2apic(struct rig *r)
{
	assert_int_equal(lapic_set_base(&r->l, r->l.base_msr | APIC_BASE_X2APIC, false), 0);
}

/* --- Registers --- */

static void reset_state(void **state)
{
	struct rig r;

	setup_id(&r, 5, &sink);
	assert_int_equal(read_reg(&r, LAPIC_ID), 5 << 24);
	assert_int_equal(read_reg(&r, LAPIC_VERSION), 0x50014);
	assert_int_equal(read_reg(&r, LAPIC_SVR), 0xff);
	assert_int_equal(read_reg(&r, LAPIC_DFR), UINT32_MAX);
	assert_int_equal(read_reg(&r, LAPIC_LVT_LINT0), LAPIC_LVT_MASKED);
	assert_int_equal(r.l.base_msr, 0xfee00800);
	setup_id(&r, 0, &sink);
	assert_int_equal(r.l.base_msr, 0xfee00900);
	assert_int_equal(read_reg(&r, LAPIC_LVT_LINT0), 0x700);
}

static void cmci_entry_by_version(void **state)
{
	struct rig r;

	setup(&r);
	write_reg(&r, LAPIC_LVT_CMCI, 0x30);	/* not there: ignored */
	assert_int_equal(read_reg(&r, LAPIC_LVT_CMCI), 0);
	assert_int_equal(lapic_deliver_local(&r.l, LAPIC_LVT_CMCI), 0);
	lapic_set_cmci(&r.l, true);
	assert_int_equal(read_reg(&r, LAPIC_VERSION), 0x60014);
	assert_int_equal(read_reg(&r, LAPIC_LVT_CMCI), LAPIC_LVT_MASKED);
	write_reg(&r, LAPIC_LVT_CMCI, 0x30);
	assert_int_equal(lapic_deliver_local(&r.l, LAPIC_LVT_CMCI), 1);
}

static void bad_accesses_do_nothing(void **state)
{
	struct rig r;
	uint32_t value = 1;

	setup(&r);
	assert_int_equal(lapic_mmio_write(&r.l, LAPIC_TPR, 2, 0xff, 0), 0);
	assert_int_equal(lapic_mmio_write(&r.l, LAPIC_TPR + 1, 4, 0xff, 0), 0);
	assert_int_equal(lapic_mmio_write(&r.l, LAPIC_VERSION, 4, 0, 0), 0);
	assert_int_equal(lapic_mmio_write(&r.l, 0xff0, 4, 0xff, 0), 0);
	assert_int_equal(lapic_mmio_write(&r.l, LAPIC_SELF_IPI, 4, 0x40, 0), 0);
	assert_int_equal(read_reg(&r, LAPIC_TPR), 0);
	assert_int_equal(read_reg(&r, LAPIC_VERSION), 0x50014);
	assert_int_equal(r.ipis, 0);
	assert_int_equal(lapic_mmio_read(&r.l, LAPIC_VERSION + 2, 4, 0, &value), 0);
	assert_int_equal(value, 0);
	assert_int_equal(lapic_mmio_read(&r.l, LAPIC_VERSION, 8, 0, &value), 0);
	assert_int_equal(value, 0);
	assert_int_equal(lapic_mmio_read(&r.l, LAPIC_VERSION + 2, 1, 0, &value), 0);
	assert_int_equal(value, 5);
	for (uint32_t offset = 0x400; offset < 0x1000; offset += 0x10)
		assert_int_equal(read_reg(&r, offset), 0);
	assert_int_equal(read_reg(&r, LAPIC_EOI), 0);	/* write only */
	assert_int_equal(lapic_reg(&r.l, 0x400), 0);
}

static void lvts_have_their_bits(void **state)
{
	struct rig r;

	setup(&r);
	write_reg(&r, LAPIC_LVT_LINT1, UINT32_MAX);
	assert_int_equal(read_reg(&r, LAPIC_LVT_LINT1), 0x1f7ff);
	write_reg(&r, LAPIC_LVT_ERROR, UINT32_MAX);
	assert_int_equal(read_reg(&r, LAPIC_LVT_ERROR), 0x110ff);
	write_reg(&r, LAPIC_LVT_TIMER, UINT32_MAX);
	assert_int_equal(read_reg(&r, LAPIC_LVT_TIMER), 0x710ff);
	lapic_set_cpuid(&r.l, true, false, false, 40);	/* no TSC deadline */
	write_reg(&r, LAPIC_LVT_TIMER, UINT32_MAX);
	assert_int_equal(read_reg(&r, LAPIC_LVT_TIMER), 0x310ff);
	/* Software disabled: masked, and kept so. */
	write_reg(&r, LAPIC_LVT_ERROR, 0x30);
	write_reg(&r, LAPIC_SVR, 0xff);
	assert_int_equal(read_reg(&r, LAPIC_LVT_ERROR), LAPIC_LVT_MASKED | 0x30);
	write_reg(&r, LAPIC_LVT_ERROR, 0x30);
	assert_int_equal(read_reg(&r, LAPIC_LVT_ERROR), LAPIC_LVT_MASKED | 0x30);
}

static void eoi_suppression_only_if_offered(void **state)
{
	struct rig r;

	setup(&r);
	write_reg(&r, LAPIC_SVR, 0x11ff);
	assert_int_equal(read_reg(&r, LAPIC_SVR), 0x1ff);
	lapic_set_cpuid(&r.l, true, true, true, 40);
	assert_int_equal(read_reg(&r, LAPIC_VERSION), 0x1050014);
	write_reg(&r, LAPIC_SVR, 0x11ff);
	assert_int_equal(read_reg(&r, LAPIC_SVR), 0x11ff);
}

static void x2apic_msrs_fault_where_hardware_does(void **state)
{
	struct rig r;
	uint64_t value;

	setup(&r);
	assert_int_equal(lapic_msr_read(&r.l, 0x802, 0, &value), -EINVAL);	/* xAPIC mode */
	assert_int_equal(lapic_msr_write(&r.l, 0x808, 0, 0), -EINVAL);
	to_x2apic(&r);
	assert_int_equal(lapic_msr_read(&r.l, 0x802, 0, &value), 0);
	assert_int_equal(lapic_msr_write(&r.l, 0x802, 0, 0), -EINVAL);	/* ID: read only */
	assert_int_equal(lapic_msr_write(&r.l, 0x80d, 0, 0), -EINVAL);	/* LDR */
	assert_int_equal(lapic_msr_write(&r.l, 0x80e, 0, 0), -EINVAL);	/* no DFR */
	assert_int_equal(lapic_msr_read(&r.l, 0x80e, 0, &value), -EINVAL);
	assert_int_equal(lapic_msr_read(&r.l, 0x831, 0, &value), -EINVAL);	/* no ICR2 */
	assert_int_equal(lapic_msr_write(&r.l, 0x831, 0, 0), -EINVAL);
	assert_int_equal(lapic_msr_read(&r.l, 0x80b, 0, &value), -EINVAL);	/* write only */
	assert_int_equal(lapic_msr_write(&r.l, 0x803, 0, 0), -EINVAL);
	assert_int_equal(lapic_msr_write(&r.l, 0x828, 1, 0), -EINVAL);	/* ESR: only 0 */
	assert_int_equal(lapic_msr_write(&r.l, 0x828, 0, 0), 0);
	assert_int_equal(lapic_msr_write(&r.l, 0x808, 1ull << 32, 0), -EINVAL);
	assert_int_equal(lapic_msr_write(&r.l, 0x83f, 0x100, 0), -EINVAL);
	assert_int_equal(lapic_msr_write(&r.l, 0x83f, 0x45, 0), 0);
	assert_int_equal(r.ipi.shorthand, IRQ_SELF);
	assert_int_equal(r.ipi.vector, 0x45);
	for (uint32_t msr = 0x840; msr <= 0x900; msr++) {
		assert_int_equal(lapic_msr_read(&r.l, msr, 0, &value), -EINVAL);
		assert_int_equal(lapic_msr_write(&r.l, msr, 0, 0), -EINVAL);
	}
	assert_int_equal(lapic_msr_read(&r.l, 0x7ff, 0, &value), -EINVAL);
}

static void icr_sends(void **state)
{
	static const uint32_t reserved[] = { 13, 16, 17, 20, 31 };
	struct rig r;
	uint64_t value;

	setup(&r);
	write_reg(&r, LAPIC_ICR2, 0x03ffffff);
	write_reg(&r, LAPIC_ICR, 0x5000 | 0x45);	/* busy reads back clear */
	assert_int_equal(r.ipis, 1);
	assert_int_equal(r.ipi.dest, 3);
	assert_int_equal(read_reg(&r, LAPIC_ICR), 0x4045);
	assert_int_equal(read_reg(&r, LAPIC_ICR2), 0x03000000);
	to_x2apic(&r);
	assert_int_equal(lapic_msr_write(&r.l, 0x830, 0x12345678000c4645ull, 0), 0);
	assert_int_equal(r.ipi.dest, 0x12345678);
	assert_int_equal(r.ipi.delivery, IRQ_STARTUP);
	assert_int_equal(r.ipi.shorthand, IRQ_ALL_BUT_SELF);
	assert_int_equal(lapic_msr_read(&r.l, 0x830, 0, &value), 0);
	assert_int_equal(value, 0x12345678000c4645ull);
	for (unsigned i = 0; i < ARRAY_SIZE(reserved); i++)
		assert_int_equal(lapic_msr_write(&r.l, 0x830, BIT_ULL(reserved[i]), 0), -EINVAL);
	assert_int_equal(r.ipis, 2);
}

/* --- APIC base --- */

static void base_transitions(void **state)
{
	const uint64_t x = APIC_BASE_DEFAULT | APIC_BASE_ENABLE, x2 = x | APIC_BASE_X2APIC;
	struct rig r;

	setup_id(&r, 0x123, &sink);
	assert_int_equal(lapic_set_base(&r.l, APIC_BASE_DEFAULT | APIC_BASE_X2APIC, true), -EINVAL);
	assert_int_equal(lapic_set_base(&r.l, x2, false), 0);
	assert_int_equal(lapic_reg(&r.l, LAPIC_ID), 0x123);
	assert_int_equal(lapic_reg(&r.l, LAPIC_LDR), 0x12 << 16 | 1 << 3);
	assert_int_equal(lapic_set_base(&r.l, x, false), -EINVAL);
	assert_int_equal(lapic_set_base(&r.l, APIC_BASE_DEFAULT, false), 0);
	assert_int_equal(lapic_set_base(&r.l, x2, false), -EINVAL);
	assert_int_equal(lapic_set_base(&r.l, x, false), 0);
	assert_int_equal(lapic_reg(&r.l, LAPIC_ID), 0x23000000);
	/* User space may do what a guest may not. */
	assert_int_equal(lapic_set_base(&r.l, APIC_BASE_DEFAULT, true), 0);
	assert_int_equal(lapic_set_base(&r.l, x2, true), 0);
	assert_int_equal(lapic_set_base(&r.l, x, true), 0);
	assert_int_equal(lapic_set_base(&r.l, x | 1, true), -EINVAL);
	assert_int_equal(lapic_set_base(&r.l, x | 1ull << 40, true), -EINVAL);
	assert_int_equal(lapic_set_base(&r.l, x | 1ull << 39, true), 0);
	lapic_set_cpuid(&r.l, false, false, false, 40);
	assert_int_equal(lapic_set_base(&r.l, x2, true), -EINVAL);
}

static void no_page_no_access(void **state)
{
	struct rig r;
	uint32_t value;

	for (int mode = 0; mode < 2; mode++) {
		setup(&r);
		assert_int_equal(lapic_set_base(&r.l, mode ? 0xfee00d00 : 0xfee00100, false), 0);
		assert_int_equal(lapic_mmio_read(&r.l, LAPIC_ID, 4, 0, &value), -EOPNOTSUPP);
		assert_int_equal(lapic_mmio_write(&r.l, LAPIC_TPR, 4, 0xff, 0), -EOPNOTSUPP);
		r.l.config.mmio_hole = true;
		assert_int_equal(lapic_mmio_read(&r.l, LAPIC_ID, 4, 0, &value), 0);
		assert_int_equal(value, UINT32_MAX);
		assert_int_equal(lapic_mmio_write(&r.l, LAPIC_TPR, 4, 0xff, 0), 0);
		assert_int_equal(lapic_reg(&r.l, LAPIC_TPR), 0);
	}
}

/* --- Interrupts --- */

static void priorities(void **state)
{
	struct rig r;

	setup(&r);
	assert_int_equal(lapic_pending_vector(&r.l), -1);
	assert_int_equal(send(&r, 0x51, false), 1);
	assert_int_equal(send(&r, 0x43, false), 1);
	assert_int_equal(lapic_pending_vector(&r.l), 0x51);
	lapic_accept_vector(&r.l, 0x51);
	assert_int_equal(read_reg(&r, LAPIC_PPR), 0x50);
	assert_int_equal(lapic_pending_vector(&r.l), -1);
	assert_int_equal(send(&r, 0x5f, false), 1);	/* the same class waits */
	assert_int_equal(lapic_pending_vector(&r.l), -1);
	assert_int_equal(send(&r, 0x60, false), 1);
	assert_int_equal(lapic_pending_vector(&r.l), 0x60);
	lapic_set_cr8(&r.l, 6);
	assert_int_equal(lapic_cr8(&r.l), 6);
	assert_int_equal(lapic_pending_vector(&r.l), -1);
	write_reg(&r, LAPIC_TPR, 0);
	assert_int_equal(lapic_eoi(&r.l), 0x51);
	assert_int_equal(lapic_pending_vector(&r.l), 0x60);
	lapic_accept_vector(&r.l, 0x60);
	assert_int_equal(lapic_eoi(&r.l), 0x60);
	assert_int_equal(lapic_pending_vector(&r.l), 0x5f);
}

static void lowering_tpr_draws_attention(void **state)
{
	struct rig r;
	unsigned before;

	setup(&r);
	write_reg(&r, LAPIC_TPR, 0xf0);
	send(&r, 0x51, false);
	before = r.attentions;
	write_reg(&r, LAPIC_TPR, 0x60);
	assert_int_equal(r.attentions, before);
	write_reg(&r, LAPIC_TPR, 0x40);
	assert_int_equal(r.attentions, before + 1);
}

static void eoi_of_nothing(void **state)
{
	struct rig r;
	bool level;

	setup(&r);
	write_reg(&r, LAPIC_EOI, 0);
	assert_int_equal(lapic_eoi(&r.l), -1);
	assert_int_equal(lapic_take_eoi(&r.l, &level), -1);
}

static void eoi_broadcast(void **state)
{
	struct rig r;
	bool level = false;
	uint64_t handled[4] = { 0, 1ull << (0x51 - 64) };

	setup(&r);
	lapic_set_handled(&r.l, handled);
	send(&r, 0x51, true);
	lapic_accept_vector(&r.l, 0x51);
	assert_true(lapic_owes_eoi(&r.l, 0x51));
	send(&r, 0x61, false);
	lapic_accept_vector(&r.l, 0x61);
	write_reg(&r, LAPIC_EOI, 0);
	assert_int_equal(lapic_take_eoi(&r.l, &level), -1);	/* nobody wants that one */
	write_reg(&r, LAPIC_EOI, 0);
	assert_int_equal(lapic_take_eoi(&r.l, &level), 0x51);
	assert_true(level);
	assert_int_equal(lapic_take_eoi(&r.l, &level), -1);
	assert_false(lapic_owes_eoi(&r.l, 0x51));
	/* As edge next time: TMR follows the last message. */
	send(&r, 0x51, false);
	lapic_accept_vector(&r.l, 0x51);
	lapic_eoi(&r.l);
	assert_int_equal(lapic_take_eoi(&r.l, &level), 0x51);
	assert_false(level);
}

static void disabled_takes_no_vector(void **state)
{
	struct rig r;
	struct irq_message m = { .delivery = IRQ_NMI };

	setup(&r);
	write_reg(&r, LAPIC_SVR, 0xff);
	assert_int_equal(send(&r, 0x51, false), 0);
	assert_int_equal(lapic_accept(&r.l, &m), 1);	/* but an NMI */
	assert_int_equal(r.nmis, 1);
	setup(&r);
	assert_int_equal(lapic_set_base(&r.l, 0xfee00100, false), 0);
	assert_int_equal(send(&r, 0x51, false), 0);
	assert_int_equal(lapic_highest_irr(&r.l), -1);
}

static void delivery_modes(void **state)
{
	struct rig r;
	struct irq_message m = { .vector = 0x51 };
	uint8_t sipi = 0;

	setup(&r);
	m.level = true;			/* level de-assert */
	assert_int_equal(lapic_accept(&r.l, &m), 0);
	m.delivery = IRQ_INIT;
	assert_int_equal(lapic_accept(&r.l, &m), 0);
	assert_int_equal(lapic_take_event(&r.l, &sipi), 0);
	m.level = false;
	m.delivery = IRQ_EXTINT;
	assert_int_equal(lapic_accept(&r.l, &m), 0);
	m.delivery = 9;
	assert_int_equal(lapic_accept(&r.l, &m), 0);
	m.delivery = IRQ_SMI;
	assert_int_equal(lapic_accept(&r.l, &m), 0);
	r.smi_ok = true;
	assert_int_equal(lapic_accept(&r.l, &m), 1);
	m.delivery = IRQ_REMOTE_READ;
	assert_int_equal(lapic_accept(&r.l, &m), 1);
	assert_int_equal(r.unhalts, 1);
	assert_int_equal(lapic_highest_irr(&r.l), -1);
	/* With nobody to take them. */
	setup_id(&r, 1, &bare_sink);
	for (unsigned mode = 0; mode < 8; mode++) {
		m.delivery = mode;
		lapic_accept(&r.l, &m);
	}
}

static void init_and_sipi_latch(void **state)
{
	struct rig r;
	struct irq_message init = { .delivery = IRQ_INIT }, sipi = { .delivery = IRQ_STARTUP };
	uint8_t vector = 0;

	setup(&r);
	sipi.vector = 0x12;
	assert_int_equal(lapic_accept(&r.l, &sipi), 1);
	sipi.vector = 0x34;
	assert_int_equal(lapic_accept(&r.l, &sipi), 1);
	assert_int_equal(lapic_take_event(&r.l, &vector), LAPIC_EVENT_SIPI);
	assert_int_equal(vector, 0x34);
	assert_int_equal(lapic_take_event(&r.l, &vector), 0);
	lapic_accept(&r.l, &sipi);
	lapic_accept(&r.l, &init);	/* wipes the SIPI before it */
	assert_int_equal(lapic_take_event(&r.l, &vector), LAPIC_EVENT_INIT);
	assert_int_equal(lapic_take_event(&r.l, &vector), 0);
	lapic_accept(&r.l, &init);
	lapic_accept(&r.l, &sipi);
	assert_int_equal(lapic_take_event(&r.l, &vector), LAPIC_EVENT_INIT);
	assert_int_equal(lapic_take_event(&r.l, &vector), LAPIC_EVENT_SIPI);
}

static void init_keeps_id_and_mode(void **state)
{
	struct rig r;

	setup_id(&r, 7, &sink);
	write_reg(&r, LAPIC_ID, 9 << 24);
	write_reg(&r, LAPIC_SVR, 0x1ff);
	send(&r, 0x51, false);
	lapic_reset(&r.l, true);
	assert_int_equal(read_reg(&r, LAPIC_ID), 9 << 24);
	assert_int_equal(lapic_highest_irr(&r.l), -1);
	assert_false(lapic_sw_enabled(&r.l));
	to_x2apic(&r);
	lapic_reset(&r.l, true);
	assert_true(lapic_x2apic_mode(&r.l));
	assert_int_equal(lapic_reg(&r.l, LAPIC_LDR), 1 << 7);
	lapic_reset(&r.l, false);
	assert_int_equal(read_reg(&r, LAPIC_ID), 7 << 24);
}

/* Seed: the PIC's interrupt is for a CPU with LINT0 in ExtINT mode, or none at all. */
static void extint_acceptance(void **state)
{
	struct rig r;

	setup_id(&r, 0, &sink);
	assert_true(lapic_accepts_extint(&r.l));	/* the BSP after reset */
	setup_id(&r, 1, &sink);
	assert_false(lapic_accepts_extint(&r.l));
	write_reg(&r, LAPIC_SVR, 0x1ff);
	write_reg(&r, LAPIC_LVT_LINT0, 0x10700);
	assert_false(lapic_accepts_extint(&r.l));
	write_reg(&r, LAPIC_LVT_LINT0, 0x700);
	assert_true(lapic_accepts_extint(&r.l));
	write_reg(&r, LAPIC_LVT_LINT0, 0x400);
	assert_false(lapic_accepts_extint(&r.l));
	assert_true(r.lint0_nmi);
	write_reg(&r, LAPIC_LVT_LINT0, 0x10400);
	assert_false(r.lint0_nmi);
	assert_int_equal(lapic_set_base(&r.l, APIC_BASE_DEFAULT, false), 0);
	assert_true(lapic_accepts_extint(&r.l));
}

static void local_sources(void **state)
{
	struct rig r;

	setup(&r);
	r.l.config.mask_perf_on_delivery = true;
	write_reg(&r, LAPIC_LVT_PERF, 0x400);
	assert_int_equal(lapic_deliver_local(&r.l, LAPIC_LVT_PERF), 1);
	assert_int_equal(r.nmis, 1);
	assert_int_equal(lapic_deliver_local(&r.l, LAPIC_LVT_PERF), 0);	/* masked itself */
	write_reg(&r, LAPIC_LVT_ERROR, 0x33);
	assert_int_equal(lapic_deliver_local(&r.l, LAPIC_LVT_ERROR), 1);
	assert_int_equal(lapic_deliver_local(&r.l, LAPIC_LVT_ERROR), 1);
	assert_int_equal(lapic_pending_vector(&r.l), 0x33);
	assert_int_equal(lapic_deliver_local(&r.l, LAPIC_SVR), 0);
	assert_int_equal(lapic_deliver_local(&r.l, 0x10000), 0);
	assert_int_equal(lapic_deliver_local(&r.l, LAPIC_LVT_ERROR + 1), 0);
}

static void posted_vectors(void **state)
{
	struct rig r;

	setup_id(&r, 0, &posting_sink);
	write_reg(&r, LAPIC_SVR, 0x1ff);
	assert_false(lapic_merge_pir(&r.l, r.pir));
	assert_int_equal(send(&r, 0xff, false), 1);
	assert_int_equal(send(&r, 0x20, true), 1);
	assert_int_equal(lapic_highest_irr(&r.l), -1);
	assert_true(lapic_merge_pir(&r.l, r.pir));
	assert_int_equal(r.pir[0] | r.pir[1] | r.pir[2] | r.pir[3], 0);
	assert_int_equal(lapic_pending_vector(&r.l), 0xff);
	lapic_accept_vector(&r.l, 0xff);
	lapic_eoi(&r.l);
	assert_int_equal(lapic_pending_vector(&r.l), 0x20);
	assert_true(lapic_reg(&r.l, LAPIC_TMR + 0x10) & 1);
}

static void pv_eoi(void **state)
{
	struct rig r;
	uint64_t none[4] = { 0 };

	setup(&r);
	assert_false(lapic_pv_eoi_allowed(&r.l));	/* nothing in service */
	send(&r, 0x51, false);
	lapic_accept_vector(&r.l, 0x51);
	assert_false(lapic_pv_eoi_allowed(&r.l));	/* the I/O APIC may want it */
	lapic_set_handled(&r.l, none);
	assert_true(lapic_pv_eoi_allowed(&r.l));
	send(&r, 0x41, false);
	assert_false(lapic_pv_eoi_allowed(&r.l));	/* another waits for the EOI */
}

/* --- Destinations --- */

#define CPUS 4

struct group {
	struct rig r[CPUS];
	struct lapic *all[CPUS];
	struct lapic_map *map;
};

static void setup_group(struct group *g)
{
	for (unsigned i = 0; i < CPUS; i++) {
		setup_id(&g->r[i], i, &sink);
		write_reg(&g->r[i], LAPIC_SVR, 0x1ff);
		g->all[i] = &g->r[i].l;
	}
	g->map = malloc(lapic_map_size(CPUS));
	assert_non_null(g->map);
	lapic_map_build(g->map, CPUS, g->all, CPUS);
}

/* Who got vector, as a bit mask; forgets it. */
static unsigned got(struct group *g, uint8_t vector)
{
	unsigned who = 0;

	for (unsigned i = 0; i < CPUS; i++)
		if (g->all[i] && lapic_highest_irr(g->all[i]) == vector) {
			who |= 1u << i;
			lapic_accept_vector(g->all[i], vector);
			lapic_eoi(g->all[i]);
		}
	return who;
}

static void check(struct group *g, struct lapic *src, struct irq_message m, int result,
		  unsigned who)
{
	m.vector = 0x51;
	m.assert = true;
	assert_int_equal(lapic_map_deliver(g->map, src, &m, NULL), result);
	assert_int_equal(got(g, 0x51), who);
}

static void logical_flat(struct group *g)
{
	for (unsigned i = 0; i < CPUS; i++)
		write_reg(&g->r[i], LAPIC_LDR, 0x1000000u << i);
	lapic_map_build(g->map, CPUS, g->all, CPUS);
}

static void physical_and_shorthands(void **state)
{
	static struct group g;

	setup_group(&g);
	check(&g, NULL, (struct irq_message) { .dest = 2 }, 1, 4);
	check(&g, NULL, (struct irq_message) { .dest = 9 }, 0, 0);	/* nobody, by the map */
	check(&g, NULL, (struct irq_message) { .dest = 0x12345678 }, 0, 0);
	check(&g, NULL, (struct irq_message) { .dest = 0xff }, 4, 15);
	check(&g, g.all[1], (struct irq_message) { .shorthand = IRQ_SELF }, 1, 2);
	check(&g, g.all[1], (struct irq_message) { .shorthand = IRQ_ALL }, 4, 15);
	check(&g, g.all[1], (struct irq_message) { .shorthand = IRQ_ALL_BUT_SELF }, 3, 13);
	check(&g, NULL, (struct irq_message) { .shorthand = IRQ_SELF }, 0, 0);
	/* Disabled ones are not there. */
	assert_int_equal(lapic_set_base(g.all[2], APIC_BASE_DEFAULT, false), 0);
	lapic_map_build(g.map, CPUS, g.all, CPUS);
	check(&g, NULL, (struct irq_message) { .dest = 0xff }, 3, 11);
	free(g.map);
}

static void nobody_at_all(void **state)
{
	static struct group g;

	setup_group(&g);
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(lapic_set_base(g.all[i], APIC_BASE_DEFAULT, true), 0);
	lapic_map_build(g.map, CPUS, g.all, CPUS);
	check(&g, NULL, (struct irq_message) { .dest = 0xff }, -1, 0);
	check(&g, NULL, (struct irq_message) { .dest = 0xff, .delivery = IRQ_LOWEST }, -1, 0);
	lapic_map_build(g.map, CPUS, g.all, 0);
	check(&g, NULL, (struct irq_message) { .shorthand = IRQ_ALL }, -1, 0);
	free(g.map);
}

static void logical_destinations(void **state)
{
	static struct group g;
	struct irq_message m = { .dest = 6, .logical = true };

	setup_group(&g);
	check(&g, NULL, m, 0, 0);	/* no logical IDs yet */
	logical_flat(&g);
	check(&g, NULL, m, 2, 6);
	m.delivery = IRQ_LOWEST;	/* vector 51h modulo 2 is the second */
	check(&g, NULL, m, 1, 4);
	m.delivery = IRQ_FIXED;
	m.redirection_hint = true;
	check(&g, NULL, m, 1, 4);
	m.redirection_hint = false;
	for (unsigned i = 0; i < CPUS; i++) {
		write_reg(&g.r[i], LAPIC_DFR, 0);
		write_reg(&g.r[i], LAPIC_LDR, ((i < 2 ? 0x10u : 0x20u) | 1u << (i & 1)) << 24);
	}
	lapic_map_build(g.map, CPUS, g.all, CPUS);
	m.dest = 0x13;
	check(&g, NULL, m, 2, 3);
	m.dest = 0x22;
	check(&g, NULL, m, 1, 8);
	m.dest = 0x33;
	check(&g, NULL, m, 0, 0);
	free(g.map);
}

static void aliased_ids_go_the_slow_way(void **state)
{
	static struct group g;

	setup_group(&g);
	write_reg(&g.r[3], LAPIC_ID, 1 << 24);
	lapic_map_build(g.map, CPUS, g.all, CPUS);
	assert_false(g.map->usable);
	check(&g, NULL, (struct irq_message) { .dest = 1 }, 2, 10);
	check(&g, NULL, (struct irq_message) { .dest = 3 }, -1, 0);
	assert_null(lapic_map_single(g.map, &(struct irq_message) { .dest = 1 }));
	assert_ptr_equal(lapic_map_single(g.map, &(struct irq_message) { .dest = 2 }), g.all[2]);
	assert_int_equal(lapic_map_pv_ipi(g.map, 15, 0, 0, 0x51, true), -EOPNOTSUPP);
	free(g.map);
}

static void mixed_modes_go_the_slow_way(void **state)
{
	static struct group g;
	struct irq_message m = { .dest = 5, .logical = true };

	setup_group(&g);
	logical_flat(&g);
	to_x2apic(&g.r[3]);
	lapic_map_build(g.map, CPUS, g.all, CPUS);
	assert_int_equal(g.map->logical, LAPIC_LOGICAL_UNUSABLE);
	check(&g, NULL, m, 2, 5);
	/* A device's ffh is everybody also in x2APIC mode; an IPI's is not. */
	check(&g, NULL, (struct irq_message) { .dest = 0xff }, 4, 15);
	check(&g, g.all[3], (struct irq_message) { .dest = UINT32_MAX }, 1, 8);
	free(g.map);
}

static void x2apic_logical(void **state)
{
	static struct group g;
	struct irq_message m = { .dest = 0x5, .logical = true };

	setup_group(&g);
	for (unsigned i = 0; i < CPUS; i++)
		to_x2apic(&g.r[i]);
	lapic_map_build(g.map, CPUS, g.all, CPUS);
	check(&g, NULL, m, 2, 5);
	m.dest = 0x10005;		/* another cluster */
	check(&g, NULL, m, 0, 0);
	m.dest = 0xffff0001;
	check(&g, NULL, m, 0, 0);
	free(g.map);
}

static void ids_past_the_map(void **state)
{
	static struct rig r;
	struct lapic *all[2] = { NULL, &r.l };
	struct lapic_map *map = malloc(lapic_map_size(0));

	assert_non_null(map);
	setup_id(&r, 300, &sink);
	write_reg(&r, LAPIC_SVR, 0x1ff);
	lapic_map_build(map, 0, all, 2);
	assert_false(map->usable);
	assert_int_equal(lapic_map_deliver(map, NULL, &(struct irq_message) { .dest = 300, .vector = 0x51 },
					   NULL), 1);
	free(map);
}

static void pv_ipi(void **state)
{
	static struct group g;

	setup_group(&g);
	assert_int_equal(lapic_map_pv_ipi(g.map, 6, 0, 0, 0x51, true), 2);
	assert_int_equal(got(&g, 0x51), 6);
	assert_int_equal(lapic_map_pv_ipi(g.map, 3, 0, 2, 0x51, true), 2);
	assert_int_equal(got(&g, 0x51), 12);
	/* Nobody there, and no wrap at the top. */
	assert_int_equal(lapic_map_pv_ipi(g.map, UINT64_MAX, UINT64_MAX, UINT32_MAX, 0x51, true), 0);
	assert_int_equal(lapic_map_pv_ipi(g.map, 1, 0, 0, 0x51 | ICR_LOGICAL, true), -EINVAL);
	assert_int_equal(lapic_map_pv_ipi(g.map, 1, 0, 0, 0x40051, true), -EINVAL);
	assert_int_equal(lapic_map_pv_ipi(g.map, 0, 1, 0, 0x51, false), 0);
	free(g.map);
}

static void scan_for_the_io_apic(void **state)
{
	static struct ioapic io;
	static const struct ioapic_sink no_sink;
	struct rig r;
	uint64_t handled[4];

	setup(&r);
	ioapic_init(&io, 0x11, false, &no_sink, NULL);
	io.rte[3] = RTE_LEVEL | 0x41;			/* for CPU 0 */
	io.rte[4] = 0x42;				/* edge: no matter */
	io.rte[5] = RTE_LEVEL | 0x43 | 1ull << 56;	/* for CPU 1 */
	io.rte[6] = 0x44;
	io.rte[8] = 0x45;				/* the RTC is always tracked */
	ioapic_want_acks(&io, 1 << 6);
	assert_int_equal(lapic_scan_ioapic(&r.l, &io, 0, handled), -1);
	assert_int_equal(handled[0], 0);
	/* Also the 0 of all other pins: RTEs are edge and not wanted. */
	assert_int_equal(handled[1], 1 << 1 | 1 << 4 | 1 << 5);
	send(&r, 0x43, true);				/* from before it was moved away */
	assert_int_equal(lapic_scan_ioapic(&r.l, &io, 0, handled), 0x43);
	assert_int_equal(handled[1], 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5);
}

/* --- Timer --- */

static uint32_t count(struct rig *r, uint64_t now)
{
	uint32_t value;

	assert_int_equal(lapic_mmio_read(&r->l, LAPIC_TMCCT, 4, now, &value), 0);
	return value;
}

static void start(struct rig *r, uint32_t lvt, uint32_t tdcr, uint32_t initial, uint64_t now)
{
	write_reg(r, LAPIC_LVT_TIMER, lvt);
	write_reg(r, LAPIC_TDCR, tdcr);
	assert_int_equal(lapic_mmio_write(&r->l, LAPIC_TMICT, 4, initial, now), 0);
}

static void one_shot(void **state)
{
	struct rig r;
	uint64_t at;

	setup(&r);
	start(&r, 0x31, 0xb, 1000, 5000);
	assert_int_equal(lapic_next_deadline(&r.l, &at), LAPIC_DEADLINE_NS);
	assert_int_equal(at, 6000);
	assert_int_equal(count(&r, 5400), 600);
	assert_true(lapic_timer_expired(&r.l, 6000));
	assert_true(lapic_timer_waiting(&r.l));
	assert_int_equal(lapic_next_deadline(&r.l, &at), LAPIC_NO_DEADLINE);
	assert_int_equal(lapic_pending_vector(&r.l), -1);	/* not before the entry */
	assert_true(lapic_inject_timer(&r.l));
	assert_int_equal(lapic_pending_vector(&r.l), 0x31);
	assert_false(lapic_inject_timer(&r.l));
	assert_int_equal(count(&r, 7000), 0);
	assert_false(lapic_timer_expired(&r.l, 9000));
}

static void divide_configurations(void **state)
{
	static const struct {
		uint8_t tdcr, shift;
	} d[] = { { 0, 1 }, { 1, 2 }, { 2, 3 }, { 3, 4 }, { 8, 5 }, { 9, 6 }, { 10, 7 }, { 11, 0 } };
	struct rig r;
	uint64_t at;

	for (unsigned i = 0; i < ARRAY_SIZE(d); i++) {
		setup(&r);
		start(&r, 0x31, d[i].tdcr | 0xfffffff4, 1000, 0);
		assert_int_equal(lapic_next_deadline(&r.l, &at), LAPIC_DEADLINE_NS);
		assert_int_equal(at, 1000u << d[i].shift);
		assert_int_equal(read_reg(&r, LAPIC_TDCR), d[i].tdcr);
	}
	/* On the fly: what is left is stretched. */
	assert_int_equal(lapic_mmio_write(&r.l, LAPIC_TDCR, 4, 0, 400), 0);
	assert_int_equal(lapic_next_deadline(&r.l, &at), LAPIC_DEADLINE_NS);
	assert_int_equal(at, 400 + 600 * 2);
	assert_int_equal(count(&r, 400), 600);
}

/* CVE-2025-71104: after a long pause every missed period came as an interrupt of its own. */
static void periodic_without_a_storm(void **state)
{
	struct rig r;
	uint64_t at, now = 1000000;
	unsigned expiries = 0;

	setup(&r);
	start(&r, 0x20031, 0xb, 1000000, 0);
	assert_true(lapic_timer_expired(&r.l, now));
	assert_int_equal(lapic_next_deadline(&r.l, &at), LAPIC_DEADLINE_NS);
	assert_int_equal(at, 2000000);
	lapic_inject_timer(&r.l);
	now = 3600 * NSEC_PER_SEC;
	while (lapic_next_deadline(&r.l, &at) == LAPIC_DEADLINE_NS && at <= now && expiries < 100) {
		lapic_timer_expired(&r.l, now);
		expiries++;
	}
	assert_in_range(expiries, 1, 2);
	assert_true(lapic_inject_timer(&r.l));
	assert_false(lapic_inject_timer(&r.l));
}

static void periods_have_a_floor(void **state)
{
	struct rig r;
	uint64_t at;

	setup(&r);
	start(&r, 0x20031, 0xb, 1, 0);
	assert_int_equal(lapic_next_deadline(&r.l, &at), LAPIC_DEADLINE_NS);
	assert_int_equal(at, 200000);
	start(&r, 0x31, 0xb, 1, 0);
	assert_int_equal(lapic_next_deadline(&r.l, &at), LAPIC_DEADLINE_NS);
	assert_int_equal(at, 1);
	start(&r, 0x31, 0xb, 0, 0);	/* 0 stops */
	assert_int_equal(lapic_next_deadline(&r.l, &at), LAPIC_NO_DEADLINE);
}

static void tsc_deadline(void **state)
{
	struct rig r;
	uint64_t at;

	setup(&r);
	lapic_set_tsc_deadline(&r.l, 77);	/* another mode: ignored */
	assert_int_equal(lapic_tsc_deadline(&r.l), 0);
	start(&r, 0x31, 0xb, 1000, 0);
	write_reg(&r, LAPIC_LVT_TIMER, 0x40031);	/* the mode change disarms */
	assert_int_equal(lapic_next_deadline(&r.l, &at), LAPIC_NO_DEADLINE);
	assert_int_equal(lapic_mmio_write(&r.l, LAPIC_TMICT, 4, 1000, 0), 0);
	assert_int_equal(read_reg(&r, LAPIC_TMICT), 0);
	lapic_set_tsc_deadline(&r.l, 123456);
	assert_int_equal(lapic_next_deadline(&r.l, &at), LAPIC_DEADLINE_TSC);
	assert_int_equal(at, 123456);
	assert_int_equal(count(&r, 0), 0);
	assert_true(lapic_timer_expired(&r.l, 0));
	assert_int_equal(lapic_next_deadline(&r.l, &at), LAPIC_NO_DEADLINE);
	assert_true(lapic_inject_timer(&r.l));
	assert_int_equal(lapic_tsc_deadline(&r.l), 0);
	lapic_set_tsc_deadline(&r.l, 5);
	lapic_set_tsc_deadline(&r.l, 0);	/* 0 disarms */
	assert_int_equal(lapic_next_deadline(&r.l, &at), LAPIC_NO_DEADLINE);
}

static void masked_timer_delivers_nothing(void **state)
{
	struct rig r;

	setup(&r);
	start(&r, LAPIC_LVT_MASKED | 0x31, 0xb, 1000, 0);
	assert_true(lapic_timer_expired(&r.l, 1000));
	assert_false(lapic_timer_waiting(&r.l));
	lapic_inject_timer(&r.l);
	assert_int_equal(lapic_pending_vector(&r.l), -1);
}

static void software_disable_drops_the_timer(void **state)
{
	struct rig r;

	setup(&r);
	start(&r, 0x31, 0xb, 1000, 0);
	lapic_timer_expired(&r.l, 1000);
	write_reg(&r, LAPIC_SVR, 0xff);
	assert_false(lapic_inject_timer(&r.l));
}

/* --- State --- */

static void save_and_load(void **state)
{
	struct rig a, b;
	struct kvm_lapic_state s, t;
	uint64_t at;

	setup(&a);
	start(&a, 0x20031, 0xb, 1000000, 0);
	send(&a, 0x51, true);
	send(&a, 0x61, false);
	lapic_accept_vector(&a.l, 0x61);
	lapic_save(&a.l, 400000, &s);
	setup_id(&b, 0, &sink);
	assert_int_equal(lapic_load(&b.l, &s, 7000000), 0);
	assert_int_equal(lapic_next_deadline(&b.l, &at), LAPIC_DEADLINE_NS);
	assert_int_equal(at, 7600000);		/* the rest of the period */
	lapic_save(&b.l, 7000000, &t);
	/* PPR is computed before ISR is counted, as in KVM; a look at it mends it. */
	assert_int_equal(lapic_pending_vector(&b.l), -1);
	lapic_save(&b.l, 7000000, &t);
	assert_memory_equal(&s, &t, sizeof(s));
	assert_int_equal(lapic_eoi(&b.l), 0x61);
	assert_int_equal(lapic_pending_vector(&b.l), 0x51);
}

static void load_of_another_cpus_state(void **state)
{
	struct rig r;
	struct kvm_lapic_state s;

	setup_id(&r, 3, &sink);
	to_x2apic(&r);
	lapic_save(&r.l, 0, &s);
	assert_int_equal(load_le32(s.regs + LAPIC_ID), 3 << 24);	/* the 8-bit format */
	store_le32(s.regs + LAPIC_ID, 4 << 24);
	store_le32(s.regs + LAPIC_LDR, 0x1234);
	assert_int_equal(lapic_load(&r.l, &s, 0), 0);
	assert_int_equal(lapic_reg(&r.l, LAPIC_ID), 3);
	assert_int_equal(lapic_reg(&r.l, LAPIC_LDR), 8);
	r.l.config.x2apic_ids_32 = true;
	lapic_save(&r.l, 0, &s);
	assert_int_equal(load_le32(s.regs + LAPIC_ID), 3);
	store_le32(s.regs + LAPIC_ID, 4);
	assert_int_equal(lapic_load(&r.l, &s, 0), -EINVAL);
}

static void any_state_loads(void **state)
{
	struct rig r;
	struct kvm_lapic_state s;
	uint64_t at;
	bool level;

	setup(&r);
	for (unsigned i = 0; i < 256; i++) {
		memset(&s, i, sizeof(s));
		assert_int_equal(lapic_load(&r.l, &s, i), 0);
		lapic_timer_expired(&r.l, UINT64_MAX);
		lapic_inject_timer(&r.l);
		lapic_pending_vector(&r.l);
		for (unsigned n = 0; n < 300; n++)
			lapic_eoi(&r.l);
		while (lapic_take_eoi(&r.l, &level) >= 0)
			;
		assert_int_equal(lapic_highest_isr(&r.l), -1);
		lapic_next_deadline(&r.l, &at);
		for (uint32_t o = 0; o < 0x400; o += 0x10)
			assert_int_equal(lapic_mmio_write(&r.l, o, 4, i * 0x1010101, i), 0);
	}
}

/* --- The lock-free path --- */

static void *sender(void *arg)
{
	struct rig *r = arg;

	for (unsigned i = 0; i < 20000; i++)
		send(r, (uint8_t)(32 + i % 224), i & 1);
	return NULL;
}

static void senders_lose_no_vector(void **state)
{
	static struct rig r;
	pthread_t thread[2];
	uint64_t seen[4] = { 0 };
	bool done = false;

	setup_id(&r, 0, &posting_sink);	/* its attention is not counted by other threads */
	r.l.sink = &posting_sink;
	write_reg(&r, LAPIC_SVR, 0x1ff);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, sender, &r), 0);
	while (!done) {
		int vector;

		done = pthread_tryjoin_np(thread[0], NULL) == 0;
		if (done)
			pthread_join(thread[1], NULL);
		lapic_merge_pir(&r.l, r.pir);
		while ((vector = lapic_pending_vector(&r.l)) >= 0) {
			seen[vector / 64] |= BIT_ULL(vector % 64);
			lapic_accept_vector(&r.l, vector);
			lapic_eoi(&r.l);
		}
	}
	assert_int_equal(seen[0] >> 32, UINT32_MAX);
	assert_true(seen[1] == UINT64_MAX && seen[2] == UINT64_MAX && seen[3] == UINT64_MAX);
	assert_int_equal(lapic_highest_irr(&r.l), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reset_state),
		cmocka_unit_test(cmci_entry_by_version),
		cmocka_unit_test(bad_accesses_do_nothing),
		cmocka_unit_test(lvts_have_their_bits),
		cmocka_unit_test(eoi_suppression_only_if_offered),
		cmocka_unit_test(x2apic_msrs_fault_where_hardware_does),
		cmocka_unit_test(icr_sends),
		cmocka_unit_test(base_transitions),
		cmocka_unit_test(no_page_no_access),
		cmocka_unit_test(priorities),
		cmocka_unit_test(lowering_tpr_draws_attention),
		cmocka_unit_test(eoi_of_nothing),
		cmocka_unit_test(eoi_broadcast),
		cmocka_unit_test(disabled_takes_no_vector),
		cmocka_unit_test(delivery_modes),
		cmocka_unit_test(init_and_sipi_latch),
		cmocka_unit_test(init_keeps_id_and_mode),
		cmocka_unit_test(extint_acceptance),
		cmocka_unit_test(local_sources),
		cmocka_unit_test(posted_vectors),
		cmocka_unit_test(pv_eoi),
		cmocka_unit_test(physical_and_shorthands),
		cmocka_unit_test(nobody_at_all),
		cmocka_unit_test(logical_destinations),
		cmocka_unit_test(aliased_ids_go_the_slow_way),
		cmocka_unit_test(mixed_modes_go_the_slow_way),
		cmocka_unit_test(x2apic_logical),
		cmocka_unit_test(ids_past_the_map),
		cmocka_unit_test(pv_ipi),
		cmocka_unit_test(scan_for_the_io_apic),
		cmocka_unit_test(one_shot),
		cmocka_unit_test(divide_configurations),
		cmocka_unit_test(periodic_without_a_storm),
		cmocka_unit_test(periods_have_a_floor),
		cmocka_unit_test(tsc_deadline),
		cmocka_unit_test(masked_timer_delivers_nothing),
		cmocka_unit_test(software_disable_drops_the_timer),
		cmocka_unit_test(save_and_load),
		cmocka_unit_test(load_of_another_cpus_state),
		cmocka_unit_test(any_state_loads),
		cmocka_unit_test(senders_lose_no_vector),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
