/* SPDX-License-Identifier: MIT
 * The local APIC's timer: one-shot, periodic, TSC deadline.
 */
#include "../lib/lapic_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

static uint32_t count(struct lapic_rig *r, uint64_t now)
{
	uint32_t value;

	assert_int_equal(lapic_mmio_read(&r->l, LAPIC_TMCCT, 4, now, &value), 0);
	return value;
}

static void one_shot(void **state)
{
	struct lapic_rig r;
	uint64_t at;

	rig_setup(&r);
	rig_start_timer(&r, 0x31, 0xb, 1000, 5000);
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
	struct lapic_rig r;
	uint64_t at;

	for (unsigned i = 0; i < ARRAY_SIZE(d); i++) {
		rig_setup(&r);
		rig_start_timer(&r, 0x31, d[i].tdcr | 0xfffffff4, 1000, 0);
		assert_int_equal(lapic_next_deadline(&r.l, &at), LAPIC_DEADLINE_NS);
		assert_int_equal(at, 1000u << d[i].shift);
		assert_int_equal(rig_read(&r, LAPIC_TDCR), d[i].tdcr);
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
	struct lapic_rig r;
	uint64_t at, now = 1000000;
	unsigned expiries = 0;

	rig_setup(&r);
	rig_start_timer(&r, 0x20031, 0xb, 1000000, 0);
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
	struct lapic_rig r;
	uint64_t at;

	rig_setup(&r);
	rig_start_timer(&r, 0x20031, 0xb, 1, 0);
	assert_int_equal(lapic_next_deadline(&r.l, &at), LAPIC_DEADLINE_NS);
	assert_int_equal(at, 200000);
	rig_start_timer(&r, 0x31, 0xb, 1, 0);
	assert_int_equal(lapic_next_deadline(&r.l, &at), LAPIC_DEADLINE_NS);
	assert_int_equal(at, 1);
	rig_start_timer(&r, 0x31, 0xb, 0, 0);	/* 0 stops */
	assert_int_equal(lapic_next_deadline(&r.l, &at), LAPIC_NO_DEADLINE);
}

static void tsc_deadline(void **state)
{
	struct lapic_rig r;
	uint64_t at;

	rig_setup(&r);
	lapic_set_tsc_deadline(&r.l, 77);	/* another mode: ignored */
	assert_int_equal(lapic_tsc_deadline(&r.l), 0);
	rig_start_timer(&r, 0x31, 0xb, 1000, 0);
	rig_write(&r, LAPIC_LVT_TIMER, 0x40031);	/* the mode change disarms */
	assert_int_equal(lapic_next_deadline(&r.l, &at), LAPIC_NO_DEADLINE);
	assert_int_equal(lapic_mmio_write(&r.l, LAPIC_TMICT, 4, 1000, 0), 0);
	assert_int_equal(rig_read(&r, LAPIC_TMICT), 0);
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
	struct lapic_rig r;

	rig_setup(&r);
	rig_start_timer(&r, LAPIC_LVT_MASKED | 0x31, 0xb, 1000, 0);
	assert_true(lapic_timer_expired(&r.l, 1000));
	assert_false(lapic_timer_waiting(&r.l));
	lapic_inject_timer(&r.l);
	assert_int_equal(lapic_pending_vector(&r.l), -1);
}

static void software_disable_drops_the_timer(void **state)
{
	struct lapic_rig r;

	rig_setup(&r);
	rig_start_timer(&r, 0x31, 0xb, 1000, 0);
	lapic_timer_expired(&r.l, 1000);
	rig_write(&r, LAPIC_SVR, 0xff);
	assert_false(lapic_inject_timer(&r.l));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_shot),
		cmocka_unit_test(divide_configurations),
		cmocka_unit_test(periodic_without_a_storm),
		cmocka_unit_test(periods_have_a_floor),
		cmocka_unit_test(tsc_deadline),
		cmocka_unit_test(masked_timer_delivers_nothing),
		cmocka_unit_test(software_disable_drops_the_timer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
