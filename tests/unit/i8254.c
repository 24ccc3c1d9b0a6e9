/* SPDX-License-Identifier: MIT
 * The PIT on a clock of the test's own.
 */
#include "irqchip/irqchip.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define T0 1000000000ull

static void restarted(void *opaque)
{
	++*(unsigned *)opaque;
}

static const struct i8254_sink sink = { restarted };

static void setup(struct i8254 *pit, unsigned *restarts)
{
	*restarts = 0;
	i8254_init(pit, 0, &sink, restarts, T0);
}

static void program(struct i8254 *pit, unsigned channel, unsigned mode, uint16_t count)
{
	i8254_write(pit, 0x43, channel << 6 | 0x30 | mode << 1, T0);
	i8254_write(pit, 0x40 + channel, (uint8_t)count, T0);
	i8254_write(pit, 0x40 + channel, count >> 8, T0);
}

/* Time of that many ticks, rounded up. */
static uint64_t after(uint64_t ticks)
{
	return T0 + (ticks * NSEC_PER_SEC + I8254_HZ - 1) / I8254_HZ;
}

static uint16_t latched(struct i8254 *pit, unsigned channel, uint64_t now)
{
	uint16_t low;

	i8254_write(pit, 0x43, channel << 6, now);
	low = i8254_read(pit, 0x40 + channel, now + 999999);
	return low | i8254_read(pit, 0x40 + channel, now + 999999) << 8;
}

static void silent_until_programmed(void **state)
{
	struct i8254 pit;
	unsigned restarts;
	uint64_t at;

	setup(&pit, &restarts);
	assert_false(i8254_next_edge(&pit, &at));
	assert_int_equal(i8254_expire(&pit, T0 + NSEC_PER_SEC), 0);
	assert_int_equal(i8254_read(&pit, 0x43, T0), 0);
}

static void periodic_ticks(void **state)
{
	struct i8254 pit;
	unsigned restarts;
	uint64_t at, first;

	setup(&pit, &restarts);
	program(&pit, 0, 2, 11932);	/* 100 Hz */
	assert_true(i8254_next_edge(&pit, &first));
	assert_in_range(first - T0, 10000000 - 1000, 10000000 + 1000);
	assert_int_equal(i8254_expire(&pit, first - 1), 0);
	assert_int_equal(i8254_expire(&pit, first), 1);
	assert_int_equal(i8254_expire(&pit, first), 0);	/* each edge once */
	assert_true(i8254_next_edge(&pit, &at));
	assert_int_equal(at - first, pit.period);
	/* A pause: all that came due, for the caller to reinject or drop. */
	assert_int_equal(i8254_expire(&pit, at + 9 * pit.period), 10);
}

static void one_shot_ticks_once(void **state)
{
	struct i8254 pit;
	unsigned restarts;
	uint64_t at;

	setup(&pit, &restarts);
	program(&pit, 0, 0, 1000);
	assert_true(i8254_next_edge(&pit, &at));
	assert_int_equal(i8254_expire(&pit, at + NSEC_PER_SEC), 1);
	assert_false(i8254_next_edge(&pit, &at));
	assert_int_equal(i8254_expire(&pit, at + 9 * NSEC_PER_SEC), 0);
	program(&pit, 0, 5, 1000);	/* hardware strobe: no edge, and it stops */
	assert_false(i8254_next_edge(&pit, &at));
}

static void short_periods_are_limited(void **state)
{
	struct i8254 pit;
	unsigned restarts;
	uint64_t at;

	setup(&pit, &restarts);
	program(&pit, 0, 2, 1);
	assert_int_equal(i8254_expire(&pit, T0 + 200000000), 1000);
	program(&pit, 0, 0, 1);		/* not the one-shot */
	assert_true(i8254_next_edge(&pit, &at));
	assert_in_range(at - T0, 800, 900);
}

static void count_zero_is_the_largest(void **state)
{
	struct i8254 pit;
	unsigned restarts;
	uint64_t at;

	setup(&pit, &restarts);
	program(&pit, 0, 2, 0);
	assert_true(i8254_next_edge(&pit, &at));
	assert_in_range(at - T0, 54925000, 54926000);	/* 18.2 Hz */
	program(&pit, 1, 2, 0);
	assert_int_equal(latched(&pit, 1, after(1)), 0xffff);
}

static void counts_by_mode(void **state)
{
	struct i8254 pit;
	unsigned restarts;

	setup(&pit, &restarts);
	program(&pit, 2, 2, 100);
	assert_int_equal(latched(&pit, 2, after(30)), 70);
	assert_int_equal(latched(&pit, 2, after(130)), 70);
	program(&pit, 2, 3, 100);
	assert_int_equal(latched(&pit, 2, after(30)), 40);
	program(&pit, 2, 0, 100);
	assert_int_equal(latched(&pit, 2, after(130)), 0x10000 - 30);
}

static void out_by_mode(void **state)
{
	struct i8254 pit;
	unsigned restarts;

	setup(&pit, &restarts);
	program(&pit, 2, 0, 100);
	assert_false(i8254_out(&pit, 2, after(99)));
	assert_true(i8254_out(&pit, 2, after(100)));
	program(&pit, 2, 1, 100);
	assert_true(i8254_out(&pit, 2, after(99)));
	assert_false(i8254_out(&pit, 2, after(100)));
	program(&pit, 2, 3, 100);
	assert_true(i8254_out(&pit, 2, after(49)));
	assert_false(i8254_out(&pit, 2, after(50)));
	assert_true(i8254_out(&pit, 2, after(100)));
	assert_false(i8254_out(&pit, 3, after(0)));
	assert_false(i8254_out(&pit, UINT32_MAX, after(0)));
}

static void latch_holds_until_read(void **state)
{
	struct i8254 pit;
	unsigned restarts;

	setup(&pit, &restarts);
	program(&pit, 2, 2, 0x1000);
	i8254_write(&pit, 0x43, 0x80, after(0x100));
	i8254_write(&pit, 0x43, 0x80, after(0x200));	/* too late */
	assert_int_equal(i8254_read(&pit, 0x42, after(0x300)), 0x00);
	assert_int_equal(i8254_read(&pit, 0x42, after(0x300)), 0x0f);
	/* Unlatched: the count now, low byte then high byte. */
	assert_int_equal(i8254_read(&pit, 0x42, after(0x310)), 0xf0);
	assert_int_equal(i8254_read(&pit, 0x42, after(0x310)), 0x0c);
}

static void read_back_status_then_count(void **state)
{
	struct i8254 pit;
	unsigned restarts;

	setup(&pit, &restarts);
	program(&pit, 2, 3, 100);
	i8254_write(&pit, 0x43, 0xc8, after(60));	/* both, counter 2 */
	assert_int_equal(i8254_read(&pit, 0x42, after(70)), 0x36);
	assert_int_equal(i8254_read(&pit, 0x42, after(70)), 100 - 20);
	assert_int_equal(i8254_read(&pit, 0x42, after(70)), 0);
	/* A counter that was not named has nothing latched. */
	assert_int_equal(pit.state.channels[0].status_latched, 0);
	assert_int_equal(pit.state.channels[1].count_latched, 0);
}

static void modes_6_and_7_are_2_and_3(void **state)
{
	struct i8254 pit;
	unsigned restarts;

	setup(&pit, &restarts);
	i8254_write(&pit, 0x43, 0xbc, T0);
	assert_int_equal(pit.state.channels[2].mode, 2);
	i8254_write(&pit, 0x43, 0xbe, T0);
	assert_int_equal(pit.state.channels[2].mode, 3);
}

static void speaker_gate_restarts(void **state)
{
	struct i8254 pit;
	unsigned restarts;

	setup(&pit, &restarts);
	program(&pit, 2, 3, 1000);
	i8254_speaker_write(&pit, 3, after(300));
	assert_int_equal(latched(&pit, 2, after(300)), 1000);
	i8254_speaker_write(&pit, 1, after(400));	/* no edge: goes on */
	assert_int_equal(latched(&pit, 2, after(400)), 800);
	assert_int_equal(i8254_speaker_read(&pit, after(301)) & 0x23, 0x21);
	i8254_speaker_write(&pit, 2, after(500));
	assert_int_equal(i8254_speaker_read(&pit, after(301)) & 3, 2);
}

static void hpet_legacy_silences_channel_0(void **state)
{
	struct i8254 pit;
	struct kvm_pit_state2 s;
	unsigned restarts;
	uint64_t at;

	setup(&pit, &restarts);
	program(&pit, 0, 2, 1000);
	i8254_save(&pit, &s);
	s.flags |= KVM_PIT_FLAGS_HPET_LEGACY;
	i8254_load(&pit, &s, T0);
	assert_false(i8254_next_edge(&pit, &at));
	program(&pit, 0, 2, 1000);
	assert_false(i8254_next_edge(&pit, &at));
	s.flags = 0;
	i8254_load(&pit, &s, T0);
	assert_true(i8254_next_edge(&pit, &at));
}

static void any_state_loads(void **state)
{
	struct i8254 pit;
	struct kvm_pit_state2 s;
	unsigned restarts;

	setup(&pit, &restarts);
	for (unsigned i = 0; i < 256; i++) {
		memset(&s, i, sizeof(s));
		i8254_load(&pit, &s, T0 + i);
		for (unsigned port = 0; port < 4; port++) {
			i8254_read(&pit, port, T0 + i * 1000003ull);
			i8254_write(&pit, port, (uint8_t)(i * 5 + port), T0 + i * 1000003ull);
		}
		for (unsigned c = 0; c < 3; c++)
			i8254_out(&pit, c, T0 + i * 999983ull);
		i8254_expire(&pit, T0 + i * 1000003ull);
	}
}

static void too_old_now_is_no_time(void **state)
{
	struct i8254 pit;
	unsigned restarts;

	setup(&pit, &restarts);
	program(&pit, 0, 2, 1000);
	program(&pit, 2, 2, 1000);
	assert_int_equal(latched(&pit, 2, T0 - 5000), 1000);
	assert_int_equal(latched(&pit, 0, T0 - 5000), 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(silent_until_programmed),
		cmocka_unit_test(periodic_ticks),
		cmocka_unit_test(one_shot_ticks_once),
		cmocka_unit_test(short_periods_are_limited),
		cmocka_unit_test(count_zero_is_the_largest),
		cmocka_unit_test(counts_by_mode),
		cmocka_unit_test(out_by_mode),
		cmocka_unit_test(latch_holds_until_read),
		cmocka_unit_test(read_back_status_then_count),
		cmocka_unit_test(modes_6_and_7_are_2_and_3),
		cmocka_unit_test(speaker_gate_restarts),
		cmocka_unit_test(hpet_legacy_silences_channel_0),
		cmocka_unit_test(any_state_loads),
		cmocka_unit_test(too_old_now_is_no_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
