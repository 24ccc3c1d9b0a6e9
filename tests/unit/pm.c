/* SPDX-License-Identifier: MIT */
#include "../lib/chip_bed.h"
#include "device/device.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define STS 0x600
#define EN  0x602
#define CNT 0x604
#define TMR 0x608

static struct chip_bed bed;

static int setup(void **state)
{
	chip_bed_init(&bed, 1 << 20, 1);
	assert_int_equal(pm_create(bed.m), 0);
	assert_int_equal(debugexit_create(bed.m), 0);
	chip_bed_reset(&bed);
	return 0;
}

static int teardown(void **state)
{
	chip_bed_fini(&bed);
	return 0;
}

static bool sci(void)
{
	return bed.kvm.level[9];
}

static void test_power_button(void **state)
{
	assert_false(pm_power_button(bed.m)); /* nobody listens */
	assert_int_equal(chip_in(&bed, STS, 2), 0);
	chip_out(&bed, EN, 1 << 8, 2);
	assert_false(sci());
	assert_true(pm_power_button(bed.m));
	assert_true(sci());
	assert_int_equal(chip_in(&bed, STS, 2), 1 << 8);
	chip_out(&bed, STS, 0, 2); /* zeros clear nothing */
	assert_true(sci());
	chip_out(&bed, STS, 1 << 8, 2);
	assert_false(sci());
	assert_int_equal(chip_in(&bed, STS, 2), 0);
	/* One dword may write status and enable together. */
	assert_true(pm_power_button(bed.m));
	chip_out(&bed, STS, 1 << 8, 4);
	assert_int_equal(chip_in(&bed, STS, 4), 0);
	assert_false(pm_power_button(bed.m));
}

static void test_power_button_without_pm(void **state)
{
	struct chip_bed b;

	chip_bed_init(&b, 1 << 20, 1);
	assert_false(pm_power_button(b.m));
	chip_bed_fini(&b);
}

static void test_byte_writes(void **state)
{
	chip_out(&bed, EN + 1, 1, 1); /* the high byte alone */
	assert_int_equal(chip_in(&bed, EN, 2), 0x100);
	chip_out(&bed, EN, 0x21, 1);
	assert_int_equal(chip_in(&bed, EN, 2), 0x121);
	chip_out(&bed, EN, 0xffff, 2); /* only events that exist */
	assert_int_equal(chip_in(&bed, EN, 2), 0x521);
}

static void test_s5(void **state)
{
	assert_int_equal(chip_in(&bed, CNT, 2) & 1, 1); /* always in ACPI mode */
	chip_out(&bed, CNT, 5 << 10, 2);
	assert_int_equal(chip_bed_request(&bed), MACHINE_RUNNING); /* no SLP_EN yet */
	chip_out(&bed, CNT, 5 << 10 | 1 << 13, 2);
	assert_int_equal(chip_bed_request(&bed), MACHINE_POWEROFF);
	assert_int_equal(chip_in(&bed, CNT, 2), 5 << 10 | 1); /* SLP_EN is write-only */
	chip_out(&bed, CNT, 1 << 10 | 1 << 13, 2); /* S1 does not exist */
	assert_int_equal(chip_bed_request(&bed), MACHINE_RUNNING);
}

static void test_s5_by_bytes(void **state)
{
	chip_out(&bed, CNT + 1, 5 << 2 | 1 << 5, 1);
	assert_int_equal(chip_bed_request(&bed), MACHINE_POWEROFF);
}

static uint64_t pm_ticks(uint64_t ns)
{
	return ns * 3579545 / NSEC_PER_SEC;
}

static void test_timer(void **state)
{
	uint64_t t[4];
	uint32_t a, b;

	/* Each reading is of some moment between two of the clock's. */
	t[0] = clock_ns();
	a = chip_in(&bed, TMR, 4);
	t[1] = clock_ns();
	chip_bed_run(&bed, 30);
	t[2] = clock_ns();
	b = chip_in(&bed, TMR, 4);
	t[3] = clock_ns();
	assert_in_range(b - a, pm_ticks(t[2] - t[1]), pm_ticks(t[3] - t[0]) + 1);
	/* Read-only. */
	chip_out(&bed, TMR, 0, 4);
	assert_true(chip_in(&bed, TMR, 4) >= b);
}

static void test_reset_register(void **state)
{
	chip_out(&bed, 0xcf9, 0x02, 1);
	assert_int_equal(chip_bed_request(&bed), MACHINE_RUNNING);
	assert_int_equal(chip_in(&bed, 0xcf9, 1), 2);
	chip_out(&bed, 0xcf9, 0x06, 1);
	assert_int_equal(chip_bed_request(&bed), MACHINE_RESET);
	chip_out(&bed, 0xcf9, 0x0e, 1);
	assert_int_equal(chip_bed_request(&bed), MACHINE_RESET);
	chip_bed_reset(&bed);
	assert_int_equal(chip_in(&bed, 0xcf9, 1), 0);
}

/* ---- CF9h lies within the PCI address register ----------------------------- */

static uint64_t address_register;

static uint64_t address_read(void *arg, uint64_t off, unsigned len)
{
	return len == 4 ? address_register : 0xee;
}

static void address_write(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	if (len == 4)
		address_register = value;
}

static void test_reset_register_inside_pci_address(void **state)
{
	static const struct region_ops ops = { .read = address_read, .write = address_write };
	struct region r = {
		.name = "pci-address", .space = SPACE_PIO, .base = 0xcf8, .size = 4, .enabled = true,
		.ops = &ops,
	};

	assert_int_equal(region_add(bed.m->map, &r), 0);
	/* Bits 8 to 15 look like a reset to a byte at CF9h. */
	chip_out(&bed, 0xcf8, 0x80000600, 4);
	assert_int_equal(chip_bed_request(&bed), MACHINE_RUNNING);
	assert_int_equal(address_register, 0x80000600);
	assert_int_equal(chip_in(&bed, 0xcf8, 4), 0x80000600);
	chip_out(&bed, 0xcf9, 0x06, 1);
	assert_int_equal(chip_bed_request(&bed), MACHINE_RESET);
	assert_int_equal(address_register, 0x80000600);
	region_del(bed.m->map, &r);
}

static void test_debug_exit(void **state)
{
	chip_out(&bed, 0xf4, 0, 1);
	assert_int_equal(chip_bed_request(&bed), MACHINE_POWEROFF);
	assert_int_equal(bed.m->exit_code, 0);
	chip_out(&bed, 0xf4, 7, 1); /* the first write has decided */
	assert_int_equal(chip_bed_request(&bed), MACHINE_RUNNING);
	assert_int_equal(bed.m->exit_code, 0);
	chip_bed_reset(&bed);
	chip_out(&bed, 0xf4, 0x1234, 4);
	assert_int_equal(chip_bed_request(&bed), MACHINE_FAILED);
	assert_int_equal(bed.m->exit_code, 0x1234);
	assert_int_equal(chip_in(&bed, 0xf4, 1), 0xff);
}

static void test_random_accesses(void **state)
{
	uint32_t x = 99;

	for (int i = 0; i < 100000; i++) {
		unsigned len = 1u << (i % 3);

		x = x * 1664525 + 1013904223;
		if (x & 0x100)
			chip_out(&bed, (uint16_t)(0x5fe + (x >> 27) % 20), x >> 3, len);
		else
			chip_in(&bed, (uint16_t)(0x5fe + (x >> 27) % 20), len);
		assert_int_equal(sci(), (chip_in(&bed, STS, 2) & chip_in(&bed, EN, 2) & 0x521) != 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_power_button, setup, teardown),
		cmocka_unit_test(test_power_button_without_pm),
		cmocka_unit_test_setup_teardown(test_byte_writes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_s5, setup, teardown),
		cmocka_unit_test_setup_teardown(test_s5_by_bytes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_timer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reset_register, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reset_register_inside_pci_address, setup, teardown),
		cmocka_unit_test_setup_teardown(test_debug_exit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_random_accesses, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
