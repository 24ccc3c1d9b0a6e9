/* SPDX-License-Identifier: MIT */
#include "lapic_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void on_ipi(void *opaque, const struct irq_message *msg)
{
	struct lapic_rig *r = opaque;

	r->ipi = *msg;
	r->ipis++;
}

static void on_attention(void *opaque)
{
	((struct lapic_rig *)opaque)->attentions++;
}

static void on_nmi(void *opaque)
{
	((struct lapic_rig *)opaque)->nmis++;
}

static bool on_smi(void *opaque)
{
	return ((struct lapic_rig *)opaque)->smi_ok;
}

static void on_unhalt(void *opaque)
{
	((struct lapic_rig *)opaque)->unhalts++;
}

static void on_map(void *opaque)
{
	((struct lapic_rig *)opaque)->maps++;
}

static void on_lint0(void *opaque, bool on)
{
	((struct lapic_rig *)opaque)->lint0_nmi = on;
}

static void on_post(void *opaque, uint8_t vector)
{
	struct lapic_rig *r = opaque;

	__atomic_fetch_or(&r->pir[vector / 64], BIT_ULL(vector % 64), __ATOMIC_SEQ_CST);
}

const struct lapic_sink rig_sink = {
	.deliver_ipi = on_ipi, .attention = on_attention, .nmi = on_nmi, .smi = on_smi,
	.unhalt = on_unhalt, .map_changed = on_map, .lint0_nmi = on_lint0,
};

const struct lapic_sink rig_bare_sink = { .deliver_ipi = on_ipi, .attention = on_attention };

const struct lapic_sink rig_posting_sink = {
	.deliver_ipi = on_ipi, .attention = on_attention, .post = on_post,
};

void rig_setup_id(struct lapic_rig *r, uint32_t id, const struct lapic_sink *s)
{
	struct lapic_config c = { .id = id, .bsp = id == 0, .lint0_enabled = true };

	memset(r, 0, sizeof(*r));
	lapic_init(&r->l, &c, s, r);
	lapic_set_cpuid(&r->l, true, true, false, 40);
}

void rig_write(struct lapic_rig *r, uint32_t offset, uint32_t value)
{
	assert_int_equal(lapic_mmio_write(&r->l, offset, 4, value, 0), 0);
}

uint32_t rig_read(struct lapic_rig *r, uint32_t offset)
{
	uint32_t value;

	assert_int_equal(lapic_mmio_read(&r->l, offset, 4, 0, &value), 0);
	return value;
}

void rig_setup(struct lapic_rig *r)
{
	rig_setup_id(r, 0, &rig_sink);
	rig_write(r, LAPIC_SVR, 0x1ff);
	rig_write(r, LAPIC_LVT_LINT0, LAPIC_LVT_MASKED);
}

int rig_send(struct lapic_rig *r, uint8_t vector, bool level)
{
	struct irq_message m = { .vector = vector, .level = level, .assert = true };

	return lapic_accept(&r->l, &m);
}

void rig_to_x2apic(struct lapic_rig *r)
{
	assert_int_equal(lapic_set_base(&r->l, r->l.base_msr | APIC_BASE_X2APIC, false), 0);
}

void rig_start_timer(struct lapic_rig *r, uint32_t lvt, uint32_t tdcr, uint32_t initial,
		     uint64_t now)
{
	rig_write(r, LAPIC_LVT_TIMER, lvt);
	rig_write(r, LAPIC_TDCR, tdcr);
	assert_int_equal(lapic_mmio_write(&r->l, LAPIC_TMICT, 4, initial, now), 0);
}
