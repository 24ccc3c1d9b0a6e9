/* SPDX-License-Identifier: MIT
 * One local APIC: registers, priorities, modes, EOI, posted vectors, state.
 */
#include "../lib/lapic_rig.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

/* --- Registers --- */

static void reset_state(void **state)
{
	struct lapic_rig r;

	rig_setup_id(&r, 5, &rig_sink);
	assert_int_equal(rig_read(&r, LAPIC_ID), 5 << 24);
	assert_int_equal(rig_read(&r, LAPIC_VERSION), 0x50014);
	assert_int_equal(rig_read(&r, LAPIC_SVR), 0xff);
	assert_int_equal(rig_read(&r, LAPIC_DFR), UINT32_MAX);
	assert_int_equal(rig_read(&r, LAPIC_LVT_LINT0), LAPIC_LVT_MASKED);
	assert_int_equal(r.l.base_msr, 0xfee00800);
	rig_setup_id(&r, 0, &rig_sink);
	assert_int_equal(r.l.base_msr, 0xfee00900);
	assert_int_equal(rig_read(&r, LAPIC_LVT_LINT0), 0x700);
}

static void cmci_entry_by_version(void **state)
{
	struct lapic_rig r;

	rig_setup(&r);
	rig_write(&r, LAPIC_LVT_CMCI, 0x30);	/* not there: ignored */
	assert_int_equal(rig_read(&r, LAPIC_LVT_CMCI), 0);
	assert_int_equal(lapic_deliver_local(&r.l, LAPIC_LVT_CMCI), 0);
	lapic_set_cmci(&r.l, true);
	assert_int_equal(rig_read(&r, LAPIC_VERSION), 0x60014);
	assert_int_equal(rig_read(&r, LAPIC_LVT_CMCI), LAPIC_LVT_MASKED);
	rig_write(&r, LAPIC_LVT_CMCI, 0x30);
	assert_int_equal(lapic_deliver_local(&r.l, LAPIC_LVT_CMCI), 1);
}

static void bad_accesses_do_nothing(void **state)
{
	struct lapic_rig r;
	uint32_t value = 1;

	rig_setup(&r);
	assert_int_equal(lapic_mmio_write(&r.l, LAPIC_TPR, 2, 0xff, 0), 0);
	assert_int_equal(lapic_mmio_write(&r.l, LAPIC_TPR + 1, 4, 0xff, 0), 0);
	assert_int_equal(lapic_mmio_write(&r.l, LAPIC_VERSION, 4, 0, 0), 0);
	assert_int_equal(lapic_mmio_write(&r.l, 0xff0, 4, 0xff, 0), 0);
	assert_int_equal(lapic_mmio_write(&r.l, LAPIC_SELF_IPI, 4, 0x40, 0), 0);
	assert_int_equal(rig_read(&r, LAPIC_TPR), 0);
	assert_int_equal(rig_read(&r, LAPIC_VERSION), 0x50014);
	assert_int_equal(r.ipis, 0);
	assert_int_equal(lapic_mmio_read(&r.l, LAPIC_VERSION + 2, 4, 0, &value), 0);
	assert_int_equal(value, 0);
	assert_int_equal(lapic_mmio_read(&r.l, LAPIC_VERSION, 8, 0, &value), 0);
	assert_int_equal(value, 0);
	assert_int_equal(lapic_mmio_read(&r.l, LAPIC_VERSION + 2, 1, 0, &value), 0);
	assert_int_equal(value, 5);
	for (uint32_t offset = 0x400; offset < 0x1000; offset += 0x10)
		assert_int_equal(rig_read(&r, offset), 0);
	assert_int_equal(rig_read(&r, LAPIC_EOI), 0);	/* write only */
	assert_int_equal(lapic_reg(&r.l, 0x400), 0);
}

static void lvts_have_their_bits(void **state)
{
	struct lapic_rig r;

	rig_setup(&r);
	rig_write(&r, LAPIC_LVT_LINT1, UINT32_MAX);
	assert_int_equal(rig_read(&r, LAPIC_LVT_LINT1), 0x1f7ff);
	rig_write(&r, LAPIC_LVT_ERROR, UINT32_MAX);
	assert_int_equal(rig_read(&r, LAPIC_LVT_ERROR), 0x110ff);
	rig_write(&r, LAPIC_LVT_TIMER, UINT32_MAX);
	assert_int_equal(rig_read(&r, LAPIC_LVT_TIMER), 0x710ff);
	lapic_set_cpuid(&r.l, true, false, false, 40);	/* no TSC deadline */
	rig_write(&r, LAPIC_LVT_TIMER, UINT32_MAX);
	assert_int_equal(rig_read(&r, LAPIC_LVT_TIMER), 0x310ff);
	/* Software disabled: masked, and kept so. */
	rig_write(&r, LAPIC_LVT_ERROR, 0x30);
	rig_write(&r, LAPIC_SVR, 0xff);
	assert_int_equal(rig_read(&r, LAPIC_LVT_ERROR), LAPIC_LVT_MASKED | 0x30);
	rig_write(&r, LAPIC_LVT_ERROR, 0x30);
	assert_int_equal(rig_read(&r, LAPIC_LVT_ERROR), LAPIC_LVT_MASKED | 0x30);
}

static void eoi_suppression_only_if_offered(void **state)
{
	struct lapic_rig r;

	rig_setup(&r);
	rig_write(&r, LAPIC_SVR, 0x11ff);
	assert_int_equal(rig_read(&r, LAPIC_SVR), 0x1ff);
	lapic_set_cpuid(&r.l, true, true, true, 40);
	assert_int_equal(rig_read(&r, LAPIC_VERSION), 0x1050014);
	rig_write(&r, LAPIC_SVR, 0x11ff);
	assert_int_equal(rig_read(&r, LAPIC_SVR), 0x11ff);
}

static void x2apic_msrs_fault_where_hardware_does(void **state)
{
	struct lapic_rig r;
	uint64_t value;

	rig_setup(&r);
	assert_int_equal(lapic_msr_read(&r.l, 0x802, 0, &value), -EINVAL);	/* xAPIC mode */
	assert_int_equal(lapic_msr_write(&r.l, 0x808, 0, 0), -EINVAL);
	rig_to_x2apic(&r);
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
	struct lapic_rig r;
	uint64_t value;

	rig_setup(&r);
	rig_write(&r, LAPIC_ICR2, 0x03ffffff);
	rig_write(&r, LAPIC_ICR, 0x5000 | 0x45);	/* busy reads back clear */
	assert_int_equal(r.ipis, 1);
	assert_int_equal(r.ipi.dest, 3);
	assert_int_equal(rig_read(&r, LAPIC_ICR), 0x4045);
	assert_int_equal(rig_read(&r, LAPIC_ICR2), 0x03000000);
	rig_to_x2apic(&r);
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
	struct lapic_rig r;

	rig_setup_id(&r, 0x123, &rig_sink);
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
	struct lapic_rig r;
	uint32_t value;

	for (int mode = 0; mode < 2; mode++) {
		rig_setup(&r);
		assert_int_equal(lapic_set_base(&r.l, mode ? 0xfee00d00 : 0xfee00100, false), 0);
		assert_int_equal(lapic_mmio_read(&r.l, LAPIC_ID, 4, 0, &value), -EOPNOTSUPP);
		assert_int_equal(lapic_mmio_write(&r.l, LAPIC_TPR, 4, 0xff, 0), -EOPNOTSUPP);
		lapic_set_quirks(&r.l, true, true);
		assert_int_equal(lapic_mmio_read(&r.l, LAPIC_ID, 4, 0, &value), 0);
		assert_int_equal(value, UINT32_MAX);
		assert_int_equal(lapic_mmio_write(&r.l, LAPIC_TPR, 4, 0xff, 0), 0);
		assert_int_equal(lapic_reg(&r.l, LAPIC_TPR), 0);
	}
}

/* --- Interrupts --- */

static void priorities(void **state)
{
	struct lapic_rig r;

	rig_setup(&r);
	assert_int_equal(lapic_pending_vector(&r.l), -1);
	assert_int_equal(rig_send(&r, 0x51, false), 1);
	assert_int_equal(rig_send(&r, 0x43, false), 1);
	assert_int_equal(lapic_pending_vector(&r.l), 0x51);
	lapic_accept_vector(&r.l, 0x51);
	assert_int_equal(rig_read(&r, LAPIC_PPR), 0x50);
	assert_int_equal(lapic_pending_vector(&r.l), -1);
	assert_int_equal(rig_send(&r, 0x5f, false), 1);	/* the same class waits */
	assert_int_equal(lapic_pending_vector(&r.l), -1);
	assert_int_equal(rig_send(&r, 0x60, false), 1);
	assert_int_equal(lapic_pending_vector(&r.l), 0x60);
	lapic_set_cr8(&r.l, 6);
	assert_int_equal(lapic_cr8(&r.l), 6);
	assert_int_equal(lapic_pending_vector(&r.l), -1);
	rig_write(&r, LAPIC_TPR, 0);
	assert_int_equal(lapic_eoi(&r.l), 0x51);
	assert_int_equal(lapic_pending_vector(&r.l), 0x60);
	lapic_accept_vector(&r.l, 0x60);
	assert_int_equal(lapic_eoi(&r.l), 0x60);
	assert_int_equal(lapic_pending_vector(&r.l), 0x5f);
}

static void lowering_tpr_draws_attention(void **state)
{
	struct lapic_rig r;
	unsigned before;

	rig_setup(&r);
	rig_write(&r, LAPIC_TPR, 0xf0);
	rig_send(&r, 0x51, false);
	before = r.attentions;
	rig_write(&r, LAPIC_TPR, 0x60);
	assert_int_equal(r.attentions, before);
	rig_write(&r, LAPIC_TPR, 0x40);
	assert_int_equal(r.attentions, before + 1);
}

static void eoi_of_nothing(void **state)
{
	struct lapic_rig r;
	bool level;

	rig_setup(&r);
	rig_write(&r, LAPIC_EOI, 0);
	assert_int_equal(lapic_eoi(&r.l), -1);
	assert_int_equal(lapic_take_eoi(&r.l, &level), -1);
}

static void eoi_broadcast(void **state)
{
	struct lapic_rig r;
	bool level = false;
	uint64_t handled[4] = { 0, 1ull << (0x51 - 64) };

	rig_setup(&r);
	lapic_set_handled(&r.l, handled);
	rig_send(&r, 0x51, true);
	lapic_accept_vector(&r.l, 0x51);
	assert_true(lapic_owes_eoi(&r.l, 0x51));
	rig_send(&r, 0x61, false);
	lapic_accept_vector(&r.l, 0x61);
	rig_write(&r, LAPIC_EOI, 0);
	assert_int_equal(lapic_take_eoi(&r.l, &level), -1);	/* nobody wants that one */
	rig_write(&r, LAPIC_EOI, 0);
	assert_int_equal(lapic_take_eoi(&r.l, &level), 0x51);
	assert_true(level);
	assert_int_equal(lapic_take_eoi(&r.l, &level), -1);
	assert_false(lapic_owes_eoi(&r.l, 0x51));
	/* As edge next time: TMR follows the last message. */
	rig_send(&r, 0x51, false);
	lapic_accept_vector(&r.l, 0x51);
	lapic_eoi(&r.l);
	assert_int_equal(lapic_take_eoi(&r.l, &level), 0x51);
	assert_false(level);
}

static void disabled_takes_no_vector(void **state)
{
	struct lapic_rig r;
	struct irq_message m = { .delivery = IRQ_NMI };

	rig_setup(&r);
	rig_write(&r, LAPIC_SVR, 0xff);
	assert_int_equal(rig_send(&r, 0x51, false), 0);
	assert_int_equal(lapic_accept(&r.l, &m), 1);	/* but an NMI */
	assert_int_equal(r.nmis, 1);
	rig_setup(&r);
	assert_int_equal(lapic_set_base(&r.l, 0xfee00100, false), 0);
	assert_int_equal(rig_send(&r, 0x51, false), 0);
	assert_int_equal(lapic_highest_irr(&r.l), -1);
}

static void delivery_modes(void **state)
{
	struct lapic_rig r;
	struct irq_message m = { .vector = 0x51 };
	uint8_t sipi = 0;

	rig_setup(&r);
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
	rig_setup_id(&r, 1, &rig_bare_sink);
	for (unsigned mode = 0; mode < 8; mode++) {
		m.delivery = mode;
		lapic_accept(&r.l, &m);
	}
}

static void init_and_sipi_latch(void **state)
{
	struct lapic_rig r;
	struct irq_message init = { .delivery = IRQ_INIT }, sipi = { .delivery = IRQ_STARTUP };
	uint8_t vector = 0;

	rig_setup(&r);
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
	struct lapic_rig r;

	rig_setup_id(&r, 7, &rig_sink);
	rig_write(&r, LAPIC_ID, 9 << 24);
	rig_write(&r, LAPIC_SVR, 0x1ff);
	rig_send(&r, 0x51, false);
	lapic_reset(&r.l, true);
	assert_int_equal(rig_read(&r, LAPIC_ID), 9 << 24);
	assert_int_equal(lapic_highest_irr(&r.l), -1);
	assert_false(lapic_sw_enabled(&r.l));
	rig_to_x2apic(&r);
	lapic_reset(&r.l, true);
	assert_true(lapic_x2apic_mode(&r.l));
	assert_int_equal(lapic_reg(&r.l, LAPIC_LDR), 1 << 7);
	lapic_reset(&r.l, false);
	assert_int_equal(rig_read(&r, LAPIC_ID), 7 << 24);
}

/* Seed: the PIC's interrupt is for a CPU with LINT0 in ExtINT mode, or none at all. */
static void extint_acceptance(void **state)
{
	struct lapic_rig r;

	rig_setup_id(&r, 0, &rig_sink);
	assert_true(lapic_accepts_extint(&r.l));	/* the BSP after reset */
	lapic_set_quirks(&r.l, false, false);
	assert_true(lapic_accepts_extint(&r.l));
	lapic_reset(&r.l, true);
	assert_false(lapic_accepts_extint(&r.l));
	rig_setup_id(&r, 1, &rig_sink);
	assert_false(lapic_accepts_extint(&r.l));
	rig_write(&r, LAPIC_SVR, 0x1ff);
	rig_write(&r, LAPIC_LVT_LINT0, 0x10700);
	assert_false(lapic_accepts_extint(&r.l));
	rig_write(&r, LAPIC_LVT_LINT0, 0x700);
	assert_true(lapic_accepts_extint(&r.l));
	rig_write(&r, LAPIC_LVT_LINT0, 0x400);
	assert_false(lapic_accepts_extint(&r.l));
	assert_true(r.lint0_nmi);
	rig_write(&r, LAPIC_LVT_LINT0, 0x10400);
	assert_false(r.lint0_nmi);
	assert_int_equal(lapic_set_base(&r.l, APIC_BASE_DEFAULT, false), 0);
	assert_true(lapic_accepts_extint(&r.l));
}

static void local_sources(void **state)
{
	struct lapic_rig r;

	rig_setup(&r);
	r.l.config.mask_perf_on_delivery = true;
	rig_write(&r, LAPIC_LVT_PERF, 0x400);
	assert_int_equal(lapic_deliver_local(&r.l, LAPIC_LVT_PERF), 1);
	assert_int_equal(r.nmis, 1);
	assert_int_equal(lapic_deliver_local(&r.l, LAPIC_LVT_PERF), 0);	/* masked itself */
	rig_write(&r, LAPIC_LVT_ERROR, 0x33);
	assert_int_equal(lapic_deliver_local(&r.l, LAPIC_LVT_ERROR), 1);
	assert_int_equal(lapic_deliver_local(&r.l, LAPIC_LVT_ERROR), 1);
	assert_int_equal(lapic_pending_vector(&r.l), 0x33);
	assert_int_equal(lapic_deliver_local(&r.l, LAPIC_SVR), 0);
	assert_int_equal(lapic_deliver_local(&r.l, 0x10000), 0);
	assert_int_equal(lapic_deliver_local(&r.l, LAPIC_LVT_ERROR + 1), 0);
}

static void posted_vectors(void **state)
{
	struct lapic_rig r;

	rig_setup_id(&r, 0, &rig_posting_sink);
	rig_write(&r, LAPIC_SVR, 0x1ff);
	assert_false(lapic_merge_pir(&r.l, r.pir));
	assert_int_equal(rig_send(&r, 0xff, false), 1);
	assert_int_equal(rig_send(&r, 0x20, true), 1);
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
	struct lapic_rig r;
	uint64_t none[4] = { 0 };

	rig_setup(&r);
	assert_false(lapic_pv_eoi_allowed(&r.l));	/* nothing in service */
	rig_send(&r, 0x51, false);
	lapic_accept_vector(&r.l, 0x51);
	assert_false(lapic_pv_eoi_allowed(&r.l));	/* the I/O APIC may want it */
	lapic_set_handled(&r.l, none);
	assert_true(lapic_pv_eoi_allowed(&r.l));
	rig_send(&r, 0x41, false);
	assert_false(lapic_pv_eoi_allowed(&r.l));	/* another waits for the EOI */
}

/* --- State --- */

static void save_and_load(void **state)
{
	struct lapic_rig a, b;
	struct kvm_lapic_state s, t;
	uint64_t at;

	rig_setup(&a);
	rig_start_timer(&a, 0x20031, 0xb, 1000000, 0);
	rig_send(&a, 0x51, true);
	rig_send(&a, 0x61, false);
	lapic_accept_vector(&a.l, 0x61);
	lapic_save(&a.l, 400000, &s);
	rig_setup_id(&b, 0, &rig_sink);
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
	struct lapic_rig r;
	struct kvm_lapic_state s;

	rig_setup_id(&r, 3, &rig_sink);
	rig_to_x2apic(&r);
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
	struct lapic_rig r;
	struct kvm_lapic_state s;
	uint64_t at;
	bool level;

	rig_setup(&r);
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
	struct lapic_rig *r = arg;

	for (unsigned i = 0; i < 20000; i++)
		rig_send(r, (uint8_t)(32 + i % 224), i & 1);
	return NULL;
}

static void senders_lose_no_vector(void **state)
{
	static struct lapic_rig r;
	pthread_t thread[2];
	uint64_t seen[4] = { 0 };
	bool done = false;

	rig_setup_id(&r, 0, &rig_posting_sink);	/* its attention is not counted by other threads */
	r.l.sink = &rig_posting_sink;
	rig_write(&r, LAPIC_SVR, 0x1ff);
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
		cmocka_unit_test(save_and_load),
		cmocka_unit_test(load_of_another_cpus_state),
		cmocka_unit_test(any_state_loads),
		cmocka_unit_test(senders_lose_no_vector),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
