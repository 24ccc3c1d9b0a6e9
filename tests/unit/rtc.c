/* SPDX-License-Identifier: MIT */
#include "../lib/chip_bed.h"
#include "device/device.h"
#include "device/rtc_time.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static struct chip_bed bed;

static int setup(void **state)
{
	chip_bed_init(&bed, 64 << 20, 3);
	assert_int_equal(rtc_create(bed.m), 0);
	chip_bed_reset(&bed);
	return 0;
}

static int teardown(void **state)
{
	chip_bed_fini(&bed);
	return 0;
}

static uint8_t get(uint8_t reg)
{
	chip_out(&bed, 0x70, reg, 1);
	return (uint8_t)chip_in(&bed, 0x71, 1);
}

static void set(uint8_t reg, uint8_t v)
{
	chip_out(&bed, 0x70, reg, 1);
	chip_out(&bed, 0x71, v, 1);
}

static bool line(void)
{
	return bed.kvm.level[8];
}

/* Run the loop until it is high. An alarm that was set too late comes a minute later. */
static bool line_comes(void)
{
	uint64_t end = clock_ns() + 150 * NSEC_PER_SEC;

	while (!line() && clock_ns() < end)
		chip_bed_run(&bed, 10);
	return line();
}

static int64_t host_second(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec;
}

/* The guest's clock in seconds, read as a guest does. */
static int64_t guest_time(void)
{
	uint8_t cmos[128] = { 0 };
	int64_t t, again;

	do {
		for (int i = 0; i < 14; i++)
			if (i != 0x0c)
				cmos[i] = get((uint8_t)i);
		cmos[0x32] = get(0x32);
		t = rtc_decode(cmos);
		cmos[0] = get(0);
		again = rtc_decode(cmos);
	} while (t != again);
	return t;
}

/* Just after a second began, so that a test has most of one. */
static void wait_second(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts = (struct timespec){ 0, 1000000000 - ts.tv_nsec + 1000000 };
	ts.tv_sec = ts.tv_nsec / 1000000000;
	ts.tv_nsec %= 1000000000;
	nanosleep(&ts, NULL);
}

static void test_formats(void **state)
{
	static const uint8_t modes[] = { 0, RTC_B_24H, RTC_B_BINARY, RTC_B_24H | RTC_B_BINARY };
	uint8_t cmos[128] = { 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
		cmos[RTC_REG_B] = modes[i];
		for (int64_t t = 0; t < 4102444800; t += 86399 * 7 + 3601) {
			rtc_encode(cmos, t);
			assert_int_equal(rtc_decode(cmos), t);
		}
	}
	cmos[RTC_REG_B] = 0;
	rtc_encode(cmos, 946684799 - 43200); /* 1999-12-31 11:59:59 */
	assert_int_equal(cmos[0], 0x59);
	assert_int_equal(cmos[4], 0x11);
	assert_int_equal(cmos[6], 6); /* Friday */
	assert_int_equal(cmos[7], 0x31);
	assert_int_equal(cmos[8], 0x12);
	assert_int_equal(cmos[9], 0x99);
	assert_int_equal(cmos[0x32], 0x19);
	rtc_encode(cmos, 946684799 - 43199); /* noon is 12 PM */
	assert_int_equal(cmos[4], 0x92);
	rtc_encode(cmos, 946684800); /* midnight is 12 AM */
	assert_int_equal(cmos[4], 0x12);
}

static void test_alarm_search(void **state)
{
	uint8_t cmos[128] = { [RTC_REG_B] = RTC_B_24H };
	const int64_t day = 86400 * 10000;

	cmos[1] = 0x30;
	cmos[3] = 0x15;
	cmos[5] = 0x06;
	assert_int_equal(rtc_next_alarm(cmos, day), day + 6 * 3600 + 15 * 60 + 30);
	assert_int_equal(rtc_next_alarm(cmos, day + 6 * 3600 + 15 * 60 + 30),
			 day + 6 * 3600 + 15 * 60 + 30);
	assert_int_equal(rtc_next_alarm(cmos, day + 6 * 3600 + 15 * 60 + 31),
			 day + 86400 + 6 * 3600 + 15 * 60 + 30);
	cmos[5] = 0xff; /* every hour */
	assert_int_equal(rtc_next_alarm(cmos, day + 16 * 60), day + 3600 + 15 * 60 + 30);
	cmos[3] = 0xc0; /* every minute */
	assert_int_equal(rtc_next_alarm(cmos, day + 31), day + 90);
	cmos[1] = 0xff; /* every second */
	assert_int_equal(rtc_next_alarm(cmos, day + 31), day + 31);
	/* Times that never come. */
	cmos[1] = 0x75;
	assert_int_equal(rtc_next_alarm(cmos, day), -1);
	cmos[1] = 0x00;
	cmos[3] = 0x60;
	assert_int_equal(rtc_next_alarm(cmos, day), -1);
	cmos[3] = 0x00;
	cmos[5] = 0x24;
	assert_int_equal(rtc_next_alarm(cmos, day), -1);
}

static void test_time_is_the_hosts(void **state)
{
	static const uint8_t modes[] = { RTC_B_24H, RTC_B_24H | RTC_B_BINARY, 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
		int64_t before = host_second(), guest;

		set(0x0b, modes[i]);
		guest = guest_time();
		assert_in_range(guest, before, host_second());
	}
}

static void test_set_time(void **state)
{
	uint8_t cmos[128] = { [RTC_REG_B] = RTC_B_24H };
	static const uint8_t regs[] = { 0, 2, 4, 6, 7, 8, 9, 0x32 };
	int64_t start, guest;

	rtc_encode(cmos, 1000000000);
	set(0x0b, 0x82);
	for (unsigned i = 0; i < ARRAY_SIZE(regs); i++)
		set(regs[i], cmos[regs[i]]);
	assert_int_equal(get(0), cmos[0]); /* stands while SET */
	start = host_second();
	set(0x0b, 0x02);
	guest = guest_time();
	assert_in_range(guest, 1000000000, 1000000000 + host_second() - start);
	/* A reset of the machine keeps the clock. */
	chip_bed_reset(&bed);
	guest = guest_time();
	assert_in_range(guest, 1000000000, 1000000000 + host_second() - start);
}

static void test_garbage_time(void **state)
{
	set(0x0b, 0x86);
	for (uint8_t i = 0; i < 10; i++)
		set(i, 0xff);
	set(0x32, 0xff);
	set(0x0b, 0x06);
	(void)guest_time();
	chip_bed_reset(&bed);
	(void)guest_time();
	assert_int_equal(get(0x0d), 0x80);
}

static void test_update_interrupt(void **state)
{
	int64_t second;
	bool lowered;
	uint8_t again;

	(void)get(0x0c);
	set(0x0b, 0x12);
	do {
		assert_true(line_comes());
		second = host_second();
		assert_int_equal(get(0x0c) & 0x90, 0x90);
		lowered = !line();
		again = get(0x0c) & 0x90;
	} while (host_second() != second); /* the next one came in between */
	assert_true(lowered);
	assert_int_equal(again, 0x00); /* read clears */
	set(0x0b, 0x92);
	assert_int_equal(get(0x0b), 0x82); /* SET clears UIE */
}

static void test_alarm_interrupt(void **state)
{
	int64_t at;
	bool early;

	wait_second();
	at = guest_time() + 1;
	(void)get(0x0c);
	set(1, (uint8_t)((at % 60 / 10) << 4 | at % 10));
	set(3, 0xff);
	set(5, 0xff);
	set(0x0b, 0x22);
	early = line();
	if (guest_time() < at)
		assert_false(early);
	assert_true(line_comes());
	assert_true(guest_time() >= at);
	assert_int_equal(get(0x0c) & 0xa0, 0xa0);
	/* And one that never matches. */
	set(1, 0x61);
	chip_bed_run(&bed, 1100);
	assert_false(line());
}

static void test_periodic(void **state)
{
	uint64_t start;
	bool early;

	do {
		start = clock_ns();
		set(0x0a, 0x2f); /* 2 Hz */
		(void)get(0x0c); /* what came at the rate after reset */
		set(0x0b, 0x42);
		chip_bed_run(&bed, 50);
		early = line();
	} while (clock_ns() - start >= NSEC_PER_SEC / 2); /* too late to say */
	assert_false(early);
	set(0x0a, 0x26); /* 1,024 Hz */
	for (int i = 0; i < 20; i++) {
		/* The loop fires in order: what is due in 1 ms before what ends it in 5. */
		chip_bed_run(&bed, 5);
		assert_true(line());
		assert_int_equal(get(0x0c) & 0xc0, 0xc0);
	}
	set(0x0a, 0x20); /* no rate */
	(void)get(0x0c);
	chip_bed_run(&bed, 10);
	assert_false(line());
	set(0x0a, 0x66); /* the divider stands */
	chip_bed_run(&bed, 10);
	assert_false(line());
}

static void test_missed_ticks_are_one(void **state)
{
	const struct timespec ts = { 0, 100000000 };
	uint64_t start;
	unsigned again = 0;

	set(0x0a, 0x2a); /* 64 Hz */
	set(0x0b, 0x42);
	nanosleep(&ts, NULL); /* six ticks, and the loop does not run */
	start = clock_ns();
	assert_int_equal(get(0x0c) & 0xc0, 0xc0);
	for (int i = 0; i < 5; i++)
		again += !!(get(0x0c) & 0x40);
	/* Only what has come since. */
	assert_true(again <= (clock_ns() - start) * 64 / NSEC_PER_SEC + 1);
}

static void test_flags_without_interrupt(void **state)
{
	(void)get(0x0c);
	wait_second();
	assert_int_equal(get(0x0c) & 0x90, 0x10); /* UF without IRQF */
	assert_false(line());
}

static void test_read_only_and_ram(void **state)
{
	set(0x0c, 0xff);
	set(0x0d, 0x00);
	assert_int_equal(get(0x0d), 0x80);
	set(0x0a, 0xa6);
	set(0x40, 0x5a);
	assert_int_equal(get(0x40), 0x5a);
	assert_int_equal(get(0xc0), 0x5a); /* bit 7 is the NMI mask */
	assert_int_equal(chip_in(&bed, 0x70, 1), 0xff);
	assert_int_equal(get(0x15) | get(0x16) << 8, 640);
	assert_int_equal(get(0x17) | get(0x18) << 8, 63 * 1024);
	assert_int_equal(get(0x34) | get(0x35) << 8, 48 * 16);
	assert_int_equal(get(0x5f), 2);
}

static void test_random_accesses(void **state)
{
	uint32_t x = 3;

	for (int i = 0; i < 100000; i++) {
		x = x * 1664525 + 1013904223;
		if (x & 0x100)
			set((uint8_t)(x >> 24), (uint8_t)(x >> 16));
		else
			get((uint8_t)(x >> 24));
	}
	chip_bed_run(&bed, 5);
	chip_bed_reset(&bed);
	assert_false(line());
	assert_int_equal(get(0x0d), 0x80);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_formats),
		cmocka_unit_test(test_alarm_search),
		cmocka_unit_test_setup_teardown(test_time_is_the_hosts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_set_time, setup, teardown),
		cmocka_unit_test_setup_teardown(test_garbage_time, setup, teardown),
		cmocka_unit_test_setup_teardown(test_update_interrupt, setup, teardown),
		cmocka_unit_test_setup_teardown(test_alarm_interrupt, setup, teardown),
		cmocka_unit_test_setup_teardown(test_periodic, setup, teardown),
		cmocka_unit_test_setup_teardown(test_missed_ticks_are_one, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flags_without_interrupt, setup, teardown),
		cmocka_unit_test_setup_teardown(test_read_only_and_ram, setup, teardown),
		cmocka_unit_test_setup_teardown(test_random_accesses, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
