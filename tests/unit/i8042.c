/* SPDX-License-Identifier: MIT */
#include "../lib/chip_bed.h"
#include "device/device.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define DATA    0x60
#define COMMAND 0x64

static struct chip_bed bed;

static int setup(void **state)
{
	chip_bed_init(&bed, 1 << 20, 1);
	assert_int_equal(i8042_create(bed.m), 0);
	chip_bed_reset(&bed);
	return 0;
}

static int teardown(void **state)
{
	chip_bed_fini(&bed);
	return 0;
}

static void command(uint8_t v)
{
	chip_out(&bed, COMMAND, v, 1);
}

static void data(uint8_t v)
{
	chip_out(&bed, DATA, v, 1);
}

static uint8_t status(void)
{
	return (uint8_t)chip_in(&bed, COMMAND, 1);
}

/* The next byte, -1 if there is none. */
static int next(void)
{
	return status() & 1 ? (int)chip_in(&bed, DATA, 1) : -1;
}

static bool line(void)
{
	return bed.kvm.level[1];
}

static void test_self_tests(void **state)
{
	command(0xaa);
	assert_int_equal(next(), 0x55);
	assert_int_equal(status() & 0x04, 0x04);
	command(0xab);
	assert_int_equal(next(), 0x00);
	assert_int_equal(next(), -1);
	/* No mouse: the port's test fails and the loop does not come back as a mouse byte. */
	command(0xa9);
	assert_int_not_equal(next(), 0x00);
	command(0xd3);
	data(0x5a);
	assert_int_equal(status() & 0x21, 0x01);
	assert_int_equal(next(), 0x5a);
	command(0xd4);
	data(0xff);
	assert_int_equal(next(), -1);
}

static void test_config(void **state)
{
	command(0x60);
	data(0x44);
	command(0x20);
	assert_int_equal(next(), 0x44);
	command(0xad);
	command(0x20);
	assert_int_equal(next(), 0x54);
	command(0xae);
	command(0xa7);
	command(0x20);
	assert_int_equal(next(), 0x64);
	command(0xa8);
	command(0x20);
	assert_int_equal(next(), 0x44);
	/* A command takes the place of the data byte that was due. */
	command(0x60);
	command(0x20);
	assert_int_equal(next(), 0x44);
	data(0xee); /* so this goes to the keyboard */
	assert_int_equal(next(), 0xee);
}

static void test_keyboard(void **state)
{
	static const uint8_t acked[] = { 0xf4, 0xf5, 0xf6, 0xfa };

	data(0xff);
	assert_int_equal(next(), 0xfa);
	assert_int_equal(next(), 0xaa);
	data(0xed);
	assert_int_equal(next(), 0xfa);
	data(0x02);
	assert_int_equal(next(), 0xfa);
	data(0xf2);
	assert_int_equal(next(), 0xfa);
	assert_int_equal(next(), 0xab);
	assert_int_equal(next(), 0x41); /* translated */
	for (unsigned i = 0; i < sizeof(acked); i++) {
		data(acked[i]);
		assert_int_equal(next(), 0xfa);
	}
	data(0xf0);
	assert_int_equal(next(), 0xfa);
	data(0x00);
	assert_int_equal(next(), 0xfa);
	assert_int_equal(next(), 0x02);
	data(0xfe);
	assert_int_equal(next(), 0x02);
	assert_int_equal(next(), -1);
}

static void test_keyboard_refuses(void **state)
{
	data(0x12); /* no such command */
	assert_int_equal(next(), 0xfe);
	data(0xf0);
	assert_int_equal(next(), 0xfa);
	data(0x07); /* no such scan code set */
	assert_int_equal(next(), 0xfe);
	data(0xed);
	assert_int_equal(next(), 0xfa);
	data(0xf4); /* a command where an argument was due is a command */
	assert_int_equal(next(), 0xfa);
	data(0x00);
	assert_int_equal(next(), 0xfe);
	assert_int_equal(next(), -1);
}

static void test_interrupt(void **state)
{
	unsigned changes;

	data(0xff); /* two bytes: an edge for each */
	assert_true(line());
	changes = bed.kvm.line_changes[1];
	assert_int_equal(next(), 0xfa);
	assert_true(line());
	assert_int_equal(bed.kvm.line_changes[1], changes + 2);
	assert_int_equal(next(), 0xaa);
	assert_false(line());
	command(0x60);
	data(0x44); /* interrupt off */
	data(0xee);
	assert_false(line());
	assert_int_equal(status() & 1, 1);
	command(0x60);
	data(0x45);
	assert_true(line());
}

static void test_disabled_keyboard_waits(void **state)
{
	data(0xf2);
	command(0xad);
	assert_int_equal(next(), 0xfa); /* was in the buffer already */
	assert_int_equal(next(), -1);
	command(0x20); /* the controller itself answers */
	assert_int_equal(next() & 0x10, 0x10);
	command(0xae);
	assert_int_equal(next(), 0xab);
	assert_int_equal(next(), 0x41);
}

static void test_resets(void **state)
{
	command(0xfe);
	assert_int_equal(chip_bed_request(&bed), MACHINE_RESET);
	command(0xf0);
	assert_int_equal(chip_bed_request(&bed), MACHINE_RESET);
	command(0xff); /* pulses nothing */
	assert_int_equal(chip_bed_request(&bed), MACHINE_RUNNING);
	command(0xd1);
	data(0x03);
	assert_int_equal(chip_bed_request(&bed), MACHINE_RUNNING);
	command(0xd1);
	data(0x02);
	assert_int_equal(chip_bed_request(&bed), MACHINE_RESET);
}

static void test_a20(void **state)
{
	command(0xd1);
	data(0xdf);
	command(0xd0);
	assert_int_equal(next() & 0x03, 0x03);
	command(0xd1);
	data(0xdd);
	command(0xd0);
	assert_int_equal(next() & 0x03, 0x01);
}

static void test_neighbour_ports(void **state)
{
	/* 61h is the KVM half's; 62h and 63h are nobody's. */
	assert_int_equal(chip_in(&bed, 0x61, 1), 0xff);
	chip_out(&bed, 0x63, 0xfe, 1);
	assert_int_equal(chip_bed_request(&bed), MACHINE_RUNNING);
}

static void test_random_accesses(void **state)
{
	uint32_t x = 7;

	for (int i = 0; i < 100000; i++) {
		x = x * 1664525 + 1013904223;
		if (x & 0x1000)
			chip_out(&bed, x & 0x2000 ? COMMAND : DATA, x >> 16, 1);
		else
			chip_in(&bed, x & 0x2000 ? COMMAND : DATA, 1);
		if (!(status() & 1))
			assert_false(line());
	}
	chip_bed_reset(&bed);
	assert_false(line());
	command(0xaa);
	assert_int_equal(next(), 0x55);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_self_tests, setup, teardown),
		cmocka_unit_test_setup_teardown(test_config, setup, teardown),
		cmocka_unit_test_setup_teardown(test_keyboard, setup, teardown),
		cmocka_unit_test_setup_teardown(test_keyboard_refuses, setup, teardown),
		cmocka_unit_test_setup_teardown(test_interrupt, setup, teardown),
		cmocka_unit_test_setup_teardown(test_disabled_keyboard_waits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_resets, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a20, setup, teardown),
		cmocka_unit_test_setup_teardown(test_neighbour_ports, setup, teardown),
		cmocka_unit_test_setup_teardown(test_random_accesses, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
