/* SPDX-License-Identifier: MIT
 * The I/O APIC: entries, level handshake, acks, the bugs of its peers.
 */
#include "irqchip/irqchip.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

struct rig {
	struct ioapic io;
	struct irq_message last;
	unsigned delivered, delayed, resampled, routes;
	int answer;		/* what deliver returns */
	bool resampler;
	uint32_t masked, unmasked;
	unsigned rtc_cpu;	/* notes this CPU */
};

static int deliver(void *opaque, const struct irq_message *msg, struct ioapic_rtc *rtc)
{
	struct rig *r = opaque;

	r->delivered++;
	r->last = *msg;
	if (rtc && r->answer > 0)
		ioapic_rtc_note(rtc, r->rtc_cpu, msg->vector);
	return r->answer;
}

static void route(void *opaque, unsigned pin, uint64_t old, uint64_t new)
{
	((struct rig *)opaque)->routes++;
}

static void mask_changed(void *opaque, unsigned pin, bool masked)
{
	struct rig *r = opaque;

	if (masked)
		r->masked |= BIT(pin);
	else
		r->unmasked |= BIT(pin);
}

static bool resample(void *opaque, unsigned pin)
{
	struct rig *r = opaque;

	r->resampled++;
	return r->resampler;
}

static void delay(void *opaque)
{
	((struct rig *)opaque)->delayed++;
}

static const struct ioapic_sink sink = {
	.deliver = deliver, .route_changed = route, .mask_changed = mask_changed,
	.resample = resample, .delay = delay,
};

static const struct ioapic_sink bare_sink = { .deliver = deliver };

static void setup(struct rig *r, uint8_t version)
{
	memset(r, 0, sizeof(*r));
	r->answer = 1;
	ioapic_init(&r->io, version, false, &sink, r);
}

static void write_reg(struct rig *r, uint32_t index, uint32_t value)
{
	assert_int_equal(ioapic_write(&r->io, 0, 4, index), 0);
	assert_int_equal(ioapic_write(&r->io, 0x10, 4, value), 0);
}

static uint32_t read_reg(struct rig *r, uint32_t index)
{
	assert_int_equal(ioapic_write(&r->io, 0, 4, index), 0);
	return ioapic_read(&r->io, 0x10, 4);
}

static void entry(struct rig *r, unsigned pin, uint64_t rte)
{
	write_reg(r, 0x11 + pin * 2, rte >> 32);
	write_reg(r, 0x10 + pin * 2, (uint32_t)rte);
}

static int set(struct rig *r, unsigned pin, bool level)
{
	return ioapic_set_line(&r->io, pin, 0, level, false);
}

#define LEVEL_40 (RTE_LEVEL | 0x40)

static void identity(void **state)
{
	struct rig r;

	setup(&r, 0x11);
	assert_int_equal(read_reg(&r, 1), 0x170011);
	write_reg(&r, 0, 0xff000000);
	assert_int_equal(read_reg(&r, 0), 0x0f000000);
	assert_int_equal(read_reg(&r, 2), 0x0f000000);
	write_reg(&r, 1, 0);	/* read only */
	write_reg(&r, 2, 0);
	assert_int_equal(read_reg(&r, 1), 0x170011);
	assert_int_equal(read_reg(&r, 2), 0x0f000000);
	setup(&r, 0x20);
	assert_int_equal(read_reg(&r, 1), 0x170020);
	setup(&r, 0x99);
	assert_int_equal(read_reg(&r, 1), 0x170011);
}

/* CVE-2013-1798: an index past the table read the kernel's memory. */
static void indices_out_of_range(void **state)
{
	struct rig r;
	struct kvm_ioapic_state before, after;

	setup(&r, 0x11);
	ioapic_save(&r.io, &before);
	for (unsigned index = 3; index < 0x100; index++) {
		if (index >= 0x10 && index < 0x40)
			continue;
		assert_int_equal(read_reg(&r, index), UINT32_MAX);
		write_reg(&r, index, 0x12345678);
	}
	ioapic_save(&r.io, &after);
	before.ioregsel = after.ioregsel;
	assert_memory_equal(&before, &after, sizeof(before));
	assert_int_equal(r.routes, 0);
}

static void odd_accesses(void **state)
{
	struct rig r;

	setup(&r, 0x11);
	assert_int_equal(ioapic_write(&r.io, 0, 1, 0x101), 0);
	assert_int_equal(ioapic_read(&r.io, 0, 8), 1);
	assert_int_equal(ioapic_read(&r.io, 0x10, 1), 0x11);
	assert_int_equal(ioapic_read(&r.io, 0x10, 2), 0x11);
	assert_int_equal(ioapic_read(&r.io, 0x10, 3), 0);
	assert_int_equal(ioapic_read(&r.io, 0x20, 4), 0);
	assert_int_equal(ioapic_write(&r.io, 0, 3, 0), 0);
	assert_int_equal(ioapic_write(&r.io, 0x30, 4, 0), 0);
	assert_int_equal(ioapic_read(&r.io, 0, 4), 1);
}

static void status_bits_are_read_only(void **state)
{
	struct rig r;

	setup(&r, 0x11);
	write_reg(&r, 0x10, UINT32_MAX);
	assert_int_equal(read_reg(&r, 0x10), UINT32_MAX & ~(RTE_REMOTE_IRR | RTE_PENDING));
}

static void edge_delivers_each_time(void **state)
{
	struct rig r;

	setup(&r, 0x11);
	entry(&r, 4, 0x0300000000000941ull);
	assert_int_equal(set(&r, 4, true), 1);
	assert_int_equal(r.last.vector, 0x41);
	assert_int_equal(r.last.dest, 3);
	assert_int_equal(r.last.delivery, IRQ_LOWEST);
	assert_true(r.last.logical);
	assert_false(r.last.level);
	assert_int_equal(set(&r, 4, true), 0);	/* no edge */
	assert_int_equal(set(&r, 4, false), 1);
	assert_int_equal(set(&r, 4, true), 1);
	assert_int_equal(r.delivered, 2);
}

static void masked_edge_is_lost_masked_level_waits(void **state)
{
	struct rig r;

	setup(&r, 0x11);
	entry(&r, 4, RTE_MASKED | 0x41);
	entry(&r, 5, RTE_MASKED | RTE_LEVEL | 0x42);
	assert_int_equal(set(&r, 4, true), -1);
	assert_int_equal(set(&r, 5, true), -1);
	write_reg(&r, 0x18, 0x41);
	assert_int_equal(r.delivered, 0);
	write_reg(&r, 0x1a, RTE_LEVEL | 0x42);
	assert_int_equal(r.delivered, 1);
	assert_int_equal(r.unmasked & 0x30, 0x30);
}

static void level_handshake(void **state)
{
	struct rig r;

	setup(&r, 0x11);
	entry(&r, 5, LEVEL_40);
	assert_int_equal(set(&r, 5, true), 1);
	assert_true(read_reg(&r, 0x1a) & RTE_REMOTE_IRR);
	assert_int_equal(set(&r, 5, true), -1);	/* waits for the EOI */
	assert_int_equal(ioapic_eoi(&r.io, 0, 0x41, true, false), 0);	/* another vector's */
	assert_int_equal(r.delivered, 1);
	assert_int_equal(ioapic_eoi(&r.io, 0, 0x40, true, false), 0);
	assert_int_equal(r.delivered, 2);	/* still high */
	set(&r, 5, false);
	assert_int_equal(ioapic_eoi(&r.io, 0, 0x40, true, false), 0);
	assert_int_equal(r.delivered, 2);
	assert_false(read_reg(&r, 0x1a) & RTE_REMOTE_IRR);
}

static void remote_irr_is_set_for_an_absent_cpu(void **state)
{
	struct rig r;

	setup(&r, 0x11);
	r.answer = -1;
	entry(&r, 5, LEVEL_40);
	assert_int_equal(set(&r, 5, true), -1);
	assert_true(read_reg(&r, 0x1a) & RTE_REMOTE_IRR);
	r.answer = 0;
	entry(&r, 6, LEVEL_40);
	assert_int_equal(set(&r, 6, true), 0);
	assert_false(read_reg(&r, 0x1c) & RTE_REMOTE_IRR);
}

/* db2bdcbb: the EOI of an edge interrupt came after its entry had become a level one. */
static void edge_eoi_ends_no_level_request(void **state)
{
	struct rig r;

	setup(&r, 0x11);
	entry(&r, 5, 0x40);
	set(&r, 5, true);
	set(&r, 5, false);
	entry(&r, 5, LEVEL_40);
	set(&r, 5, true);
	assert_int_equal(r.delivered, 2);
	assert_int_equal(ioapic_eoi(&r.io, 0, 0x40, false, false), 0);
	assert_true(read_reg(&r, 0x1a) & RTE_REMOTE_IRR);
	assert_int_equal(r.delivered, 2);
}

/* 8be8f932, 77377064: a source that lowers in its ack must not see its request again. */
static void ack_before_second_look(void **state)
{
	struct rig r;
	uint32_t pins;

	setup(&r, 0x11);
	ioapic_want_acks(&r.io, 1 << 5);
	entry(&r, 5, LEVEL_40);
	set(&r, 5, true);
	pins = ioapic_eoi(&r.io, 0, 0x40, true, false);
	assert_int_equal(pins, 1 << 5);
	assert_int_equal(r.delivered, 1);	/* nothing before the ack */
	set(&r, 5, false);
	ioapic_eoi_end(&r.io, pins, true);
	assert_int_equal(r.delivered, 1);
	assert_false(read_reg(&r, 0x1a) & RTE_REMOTE_IRR);
	/* One that raises again in its ack is served once. */
	set(&r, 5, true);
	pins = ioapic_eoi(&r.io, 0, 0x40, true, false);
	set(&r, 5, false);
	assert_int_equal(set(&r, 5, true), -1);
	ioapic_eoi_end(&r.io, pins, true);
	assert_int_equal(r.delivered, 3);
}

static void acks_come_also_for_edges(void **state)
{
	struct rig r;

	setup(&r, 0x11);
	ioapic_want_acks(&r.io, UINT32_MAX);
	entry(&r, 0, 0x40);
	set(&r, 0, true);
	assert_int_equal(ioapic_eoi(&r.io, 0, 0x40, false, false), 1);
	ioapic_eoi_end(&r.io, 1, false);
	assert_int_equal(r.delivered, 1);
}

static void suppressed_broadcast_keeps_remote_irr(void **state)
{
	struct rig r;

	setup(&r, 0x20);
	entry(&r, 5, LEVEL_40);
	set(&r, 5, true);
	assert_int_equal(ioapic_eoi(&r.io, 0, 0x40, true, true), 0);
	assert_true(read_reg(&r, 0x1a) & RTE_REMOTE_IRR);
	/* The directed EOI is for that. */
	set(&r, 5, false);
	assert_int_equal(ioapic_write(&r.io, 0x40, 4, 0x40), 0);
	assert_false(read_reg(&r, 0x1a) & RTE_REMOTE_IRR);
}

static void version_11_has_no_eoi_register(void **state)
{
	struct rig r;

	setup(&r, 0x11);
	entry(&r, 5, LEVEL_40);
	set(&r, 5, true);
	assert_int_equal(ioapic_write(&r.io, 0x40, 4, 0x40), 0);
	assert_true(read_reg(&r, 0x1a) & RTE_REMOTE_IRR);
	/* Its guests turn the entry to edge and back. */
	write_reg(&r, 0x1a, RTE_MASKED | 0x40);
	assert_false(read_reg(&r, 0x1a) & RTE_REMOTE_IRR);
	write_reg(&r, 0x1a, LEVEL_40);
	assert_int_equal(r.delivered, 2);
}

static void unmask_asks_the_resampler(void **state)
{
	struct rig r;

	setup(&r, 0x11);
	r.resampler = true;
	entry(&r, 5, RTE_MASKED | LEVEL_40);
	set(&r, 5, true);
	write_reg(&r, 0x1a, LEVEL_40);
	assert_int_equal(r.resampled, 1);
	assert_int_equal(r.delivered, 0);	/* the source will raise it anew */
	assert_int_equal(set(&r, 5, true), 1);
}

static void storm_is_put_off(void **state)
{
	struct rig r;

	setup(&r, 0x11);
	entry(&r, 5, LEVEL_40);
	set(&r, 5, true);
	for (unsigned i = 1; i < IOAPIC_STORM_EOIS; i++)
		assert_int_equal(ioapic_eoi(&r.io, 0, 0x40, true, false), 0);
	assert_int_equal(r.delivered, IOAPIC_STORM_EOIS);
	assert_int_equal(r.delayed, 0);
	assert_int_equal(ioapic_eoi(&r.io, 0, 0x40, true, false), 0);
	assert_int_equal(r.delivered, IOAPIC_STORM_EOIS);
	assert_int_equal(r.delayed, 1);
	ioapic_inject_delayed(&r.io);
	assert_int_equal(r.delivered, IOAPIC_STORM_EOIS + 1);
	ioapic_inject_delayed(&r.io);		/* now it waits for an EOI */
	assert_int_equal(r.delivered, IOAPIC_STORM_EOIS + 1);
}

static void served_interrupts_are_no_storm(void **state)
{
	struct rig r;

	setup(&r, 0x11);
	entry(&r, 5, LEVEL_40);
	for (unsigned i = 0; i < 3 * IOAPIC_STORM_EOIS; i++) {
		set(&r, 5, true);
		set(&r, 5, false);
		assert_int_equal(ioapic_eoi(&r.io, 0, 0x40, true, false), 0);
	}
	assert_int_equal(r.delayed, 0);
}

static void bare_sink_works(void **state)
{
	struct rig r;

	setup(&r, 0x11);
	r.io.sink = &bare_sink;
	entry(&r, 5, RTE_MASKED | LEVEL_40);
	set(&r, 5, true);
	entry(&r, 5, LEVEL_40);
	for (unsigned i = 0; i < 2 * IOAPIC_STORM_EOIS; i++)
		assert_int_equal(ioapic_eoi(&r.io, 0, 0x40, true, false), 0);
	assert_int_equal(r.delivered, 2 * IOAPIC_STORM_EOIS + 1);
}

static void sources_share_a_pin(void **state)
{
	struct rig r;

	setup(&r, 0x11);
	entry(&r, 5, LEVEL_40);
	ioapic_set_line(&r.io, 5, 1, true, false);
	ioapic_set_line(&r.io, 5, 2, true, false);
	ioapic_set_line(&r.io, 5, 1, false, false);
	assert_int_equal(ioapic_eoi(&r.io, 0, 0x40, true, false), 0);
	assert_int_equal(r.delivered, 2);
	ioapic_set_line(&r.io, 5, 2, false, false);
	assert_int_equal(ioapic_eoi(&r.io, 0, 0x40, true, false), 0);
	assert_int_equal(r.delivered, 2);
}

static void bad_pins_and_sources_are_ignored(void **state)
{
	struct rig r;

	setup(&r, 0x11);
	assert_int_equal(ioapic_set_line(&r.io, 24, 0, true, false), -1);
	assert_int_equal(ioapic_set_line(&r.io, UINT32_MAX, 0, true, true), -1);
	assert_int_equal(ioapic_set_line(&r.io, 0, 64, true, true), -1);
	ioapic_clear_source(&r.io, 64);
	assert_int_equal(r.io.irr, 0);
}

static void lost_rtc_ticks_are_reported(void **state)
{
	struct rig r;

	setup(&r, 0x11);
	entry(&r, 8, 0x48);
	assert_int_equal(ioapic_set_line(&r.io, 8, 0, true, true), 1);
	ioapic_set_line(&r.io, 8, 0, false, true);
	assert_int_equal(ioapic_set_line(&r.io, 8, 0, true, true), 0);	/* not EOIed: lost */
	ioapic_set_line(&r.io, 8, 0, false, true);
	assert_int_equal(ioapic_eoi(&r.io, 1, 0x48, false, false), 0);	/* another CPU's */
	assert_int_equal(ioapic_set_line(&r.io, 8, 0, true, true), 0);
	assert_int_equal(ioapic_eoi(&r.io, 0, 0x48, false, false), 0);
	assert_int_equal(ioapic_set_line(&r.io, 8, 0, true, true), 1);
	/* Only where somebody asks for the status. */
	ioapic_set_line(&r.io, 8, 0, false, false);
	assert_int_equal(ioapic_set_line(&r.io, 8, 0, true, false), 1);
}

/* CVE-2014-0155: "ignored" must not count as an EOI owed. */
static void rtc_without_a_cpu(void **state)
{
	struct rig r;

	setup(&r, 0x11);
	r.answer = -1;
	entry(&r, 8, 0x48);
	assert_int_equal(ioapic_set_line(&r.io, 8, 0, true, true), -1);
	assert_int_equal(r.io.rtc.pending, 0);
	ioapic_set_line(&r.io, 8, 0, false, true);
	r.answer = 1;
	r.rtc_cpu = IOAPIC_MAX_CPUS;	/* a CPU that the map cannot hold stalls nothing */
	assert_int_equal(ioapic_set_line(&r.io, 8, 0, true, true), 1);
	assert_int_equal(ioapic_eoi(&r.io, IOAPIC_MAX_CPUS, 0x48, false, false), 0);
	ioapic_set_line(&r.io, 8, 0, false, true);
	assert_int_equal(ioapic_set_line(&r.io, 8, 0, true, true), 1);
}

static void save_and_load(void **state)
{
	struct rig r, s;
	struct kvm_ioapic_state a, b;

	setup(&r, 0x11);
	entry(&r, 3, 0x41);
	entry(&r, 4, RTE_MASKED | 0x42);
	entry(&r, 5, LEVEL_40);
	set(&r, 3, true);
	set(&r, 4, true);
	set(&r, 5, true);
	ioapic_save(&r.io, &a);
	assert_int_equal(a.irr, 0x30);	/* the delivered edge is not pending */
	setup(&s, 0x11);
	ioapic_load(&s.io, &a);
	assert_int_equal(s.delivered, 0);	/* pin 4 is masked, pin 5 waits for its EOI */
	ioapic_save(&s.io, &b);
	assert_memory_equal(&a, &b, sizeof(a));
	assert_int_equal(ioapic_eoi(&s.io, 0, 0x40, true, false), 0);
	assert_int_equal(s.delivered, 1);
}

static void any_state_loads(void **state)
{
	struct rig r;
	struct kvm_ioapic_state s;

	setup(&r, 0x11);
	for (unsigned i = 0; i < 256; i++) {
		memset(&s, i, sizeof(s));
		ioapic_load(&r.io, &s);
		ioapic_read(&r.io, 0x10, 4);
		assert_int_equal(ioapic_write(&r.io, 0x10, 4, i * 0x1010101), 0);
		assert_int_equal(ioapic_eoi(&r.io, i, i, true, false), 0);
	}
	assert_int_equal(r.io.irr & ~0xffffff, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(identity),
		cmocka_unit_test(indices_out_of_range),
		cmocka_unit_test(odd_accesses),
		cmocka_unit_test(status_bits_are_read_only),
		cmocka_unit_test(edge_delivers_each_time),
		cmocka_unit_test(masked_edge_is_lost_masked_level_waits),
		cmocka_unit_test(level_handshake),
		cmocka_unit_test(remote_irr_is_set_for_an_absent_cpu),
		cmocka_unit_test(edge_eoi_ends_no_level_request),
		cmocka_unit_test(ack_before_second_look),
		cmocka_unit_test(acks_come_also_for_edges),
		cmocka_unit_test(suppressed_broadcast_keeps_remote_irr),
		cmocka_unit_test(version_11_has_no_eoi_register),
		cmocka_unit_test(unmask_asks_the_resampler),
		cmocka_unit_test(storm_is_put_off),
		cmocka_unit_test(served_interrupts_are_no_storm),
		cmocka_unit_test(bare_sink_works),
		cmocka_unit_test(sources_share_a_pin),
		cmocka_unit_test(bad_pins_and_sources_are_ignored),
		cmocka_unit_test(lost_rtc_ticks_are_reported),
		cmocka_unit_test(rtc_without_a_cpu),
		cmocka_unit_test(save_and_load),
		cmocka_unit_test(any_state_loads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
