/* SPDX-License-Identifier: MIT */
#include "../lib/chip_bed.h"
#include "machine/aml.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

static struct chip_bed bed;

static const uint8_t *guest(gpa_t at, uint64_t len)
{
	const uint8_t *p = ram_ptr(&bed.m->ram, at, len);

	assert_non_null(p);
	return p;
}

static uint8_t sum(const uint8_t *p, size_t len)
{
	uint8_t s = 0;

	while (len--)
		s += *p++;
	return s;
}

/* A table with a right header, within the area the memory map reserves. */
static const uint8_t *table(gpa_t at, const char *signature)
{
	const uint8_t *t = guest(at, 36);
	uint32_t len = load_le32(t + 4);

	assert_in_range(at, LAYOUT_RSDP, LAYOUT_RSDP + LAYOUT_ACPI_SIZE - 1);
	assert_true(range_within(at, len, LAYOUT_RSDP + LAYOUT_ACPI_SIZE));
	assert_memory_equal(t, signature, 4);
	assert_int_equal(sum(guest(at, len), len), 0);
	return t;
}

static gpa_t xsdt_entry(const char *signature)
{
	const uint8_t *rsdp = guest(LAYOUT_RSDP, 36), *x = table(load_le64(rsdp + 24), "XSDT");

	for (uint32_t at = 36; at < load_le32(x + 4); at += 8)
		if (!memcmp(guest(load_le64(x + at), 4), signature, 4))
			return load_le64(x + at);
	fail_msg("no %s in the XSDT", signature);
	return 0;
}

static void build(uint64_t mem, unsigned cpus)
{
	struct err e = { "" };

	chip_bed_init(&bed, mem, cpus);
	if (acpi_build(bed.m, &e))
		fail_msg("%s", e.text);
}

static void test_fixed_tables(void **state)
{
	const uint8_t *rsdp, *fadt, *facs, *mcfg;

	build(64 << 20, 2);
	rsdp = guest(LAYOUT_RSDP, 36);
	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(sum(rsdp, 20), 0);
	assert_int_equal(sum(rsdp, 36), 0);
	assert_int_equal(rsdp[15], 2);
	assert_int_equal(rsdp[33] | rsdp[34] | rsdp[35], 0); /* reserved */

	fadt = table(xsdt_entry("FACP"), "FACP");
	assert_int_equal(load_le32(fadt + 4), 276);
	assert_int_equal(load_le16(fadt + 46), 9);
	assert_int_equal(load_le32(fadt + 48), 0); /* no SMI command port */
	assert_int_equal(load_le32(fadt + 56), 0x600);
	assert_int_equal(load_le64(fadt + 152), 0x600);
	assert_int_equal(load_le32(fadt + 64), 0x604);
	assert_int_equal(load_le32(fadt + 76), 0x608);
	assert_int_equal(load_le64(fadt + 120), 0xcf9);
	assert_int_equal(fadt[128], 6);
	assert_int_equal(load_le32(fadt + 112) & BIT(4), 0);         /* fixed power button */
	assert_int_equal(load_le32(fadt + 112) & BIT(20), 0);        /* not hardware-reduced */
	assert_true(load_le32(fadt + 112) & BIT(10));
	assert_int_equal(load_le16(fadt + 109), 7);
	facs = guest(load_le32(fadt + 36), 64);
	assert_memory_equal(facs, "FACS", 4);
	assert_int_equal(load_le32(fadt + 36) % 64, 0);
	table(load_le64(fadt + 140), "DSDT");
	assert_int_equal(load_le32(fadt + 40), load_le64(fadt + 140));

	mcfg = table(xsdt_entry("MCFG"), "MCFG");
	assert_int_equal(load_le64(mcfg + 44), LAYOUT_ECAM);
	assert_int_equal(mcfg[54], 0);
	assert_int_equal(mcfg[55], 255);
	chip_bed_fini(&bed);
}

static void test_madt(void **state)
{
	static const unsigned counts[] = { 1, 4, 255 };

	for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
		unsigned seen = 0, ioapics = 0, overrides = 0, nmis = 0;
		const uint8_t *t;
		uint32_t len, at;

		build(64 << 20, counts[i]);
		t = table(xsdt_entry("APIC"), "APIC");
		len = load_le32(t + 4);
		assert_int_equal(load_le32(t + 36), 0xfee00000);
		assert_int_equal(load_le32(t + 40), 1);
		for (at = 44; at < len; at += t[at + 1]) {
			assert_true(t[at + 1] >= 2 && at + t[at + 1] <= len);
			switch (t[at]) {
			case 0:
				assert_int_equal(t[at + 3], seen++);
				assert_int_equal(load_le32(t + at + 4), 1);
				break;
			case 1:
				ioapics++;
				assert_int_equal(load_le32(t + at + 4), 0xfec00000);
				assert_int_equal(load_le32(t + at + 8), 0);
				break;
			case 2:
				overrides++;
				if (t[at + 3] == 0)
					assert_int_equal(load_le32(t + at + 4), 2);
				else
					assert_int_equal(load_le16(t + at + 8), 0x0d);
				break;
			case 4:
				nmis++;
				assert_int_equal(t[at + 2], 0xff);
				assert_int_equal(t[at + 5], 1);
				break;
			default:
				fail_msg("unexpected entry %u", t[at]);
			}
		}
		assert_int_equal(at, len);
		assert_int_equal(seen, counts[i]);
		assert_int_equal(ioapics, 1);
		assert_int_equal(overrides, 2);
		assert_int_equal(nmis, 1);
		chip_bed_fini(&bed);
	}
}

static void test_building_again_is_the_same(void **state)
{
	uint8_t *copy = malloc(LAYOUT_ACPI_SIZE);
	struct err e;

	build(64 << 20, 3);
	memcpy(copy, guest(LAYOUT_RSDP, LAYOUT_ACPI_SIZE), LAYOUT_ACPI_SIZE);
	memset(ram_ptr(&bed.m->ram, LAYOUT_RSDP, 0x800), 0xff, 0x800);
	assert_int_equal(acpi_build(bed.m, &e), 0);
	assert_memory_equal(copy, guest(LAYOUT_RSDP, LAYOUT_ACPI_SIZE), LAYOUT_ACPI_SIZE);
	free(copy);
	chip_bed_fini(&bed);
}

static void test_too_little_memory(void **state)
{
	struct err e = { "" };

	chip_bed_init(&bed, 512 << 10, 1);
	assert_int_equal(acpi_build(bed.m, &e), -EFAULT);
	assert_non_null(strstr(e.text, "1 MiB"));
	chip_bed_fini(&bed);
}

/* ---- the compiler's opinion -------------------------------------------------- */

static void write_table(const char *dir, const char *name, gpa_t at)
{
	uint32_t len = load_le32(guest(at, 8) + 4);
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s.aml", dir, name);
	f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(guest(at, len), 1, len, f), len);
	fclose(f);
}

static int run(const char *dir, const char *fmt, const char *arg)
{
	char command[512], line[400];

	snprintf(line, sizeof(line), fmt, arg);
	snprintf(command, sizeof(command), "cd %s && %s >>log 2>&1", dir, line);
	return system(command);
}

static void test_iasl(void **state)
{
	static const char *const name[] = { "dsdt", "facp", "apic", "mcfg" };
	char dir[] = "/tmp/acpi.XXXXXX", command[300];

	if (system("iasl -v >/dev/null 2>&1"))
		skip(); /* acpica-tools is not installed */
	assert_non_null(mkdtemp(dir));
	build(6ull << 30, 255);
	write_table(dir, "facp", xsdt_entry("FACP"));
	write_table(dir, "apic", xsdt_entry("APIC"));
	write_table(dir, "mcfg", xsdt_entry("MCFG"));
	write_table(dir, "dsdt", load_le64(guest(xsdt_entry("FACP"), 276) + 140));
	for (unsigned i = 0; i < ARRAY_SIZE(name); i++) {
		if (run(dir, "iasl -d %s.aml", name[i]) || run(dir, "iasl -we %s.dsl", name[i])) {
			snprintf(command, sizeof(command), "tail -30 %s/log", dir);
			(void)!system(command);
			fail_msg("iasl refuses the table %s (see %s)", name[i], dir);
		}
	}
	snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(system(command), 0);
	chip_bed_fini(&bed);
}

/* ---- the writer ---------------------------------------------------------------- */

static void test_aml_integers(void **state)
{
	static const struct { uint64_t v; size_t len; uint8_t op; } t[] = {
		{ 0, 1, 0x00 }, { 1, 1, 0x01 }, { 2, 2, 0x0a }, { 0xff, 2, 0x0a },
		{ 0x100, 3, 0x0b }, { 0xffff, 3, 0x0b }, { 0x10000, 5, 0x0c },
		{ 0xffffffff, 5, 0x0c }, { 0x100000000, 9, 0x0e }, { UINT64_MAX, 9, 0x0e },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		struct aml a;

		aml_init(&a);
		aml_integer(&a, t[i].v);
		assert_int_equal(aml_finish(&a), 0);
		assert_int_equal(a.len, t[i].len);
		assert_int_equal(a.buf[0], t[i].op);
		if (t[i].len > 1)
			assert_int_equal(load_le(a.buf + 1, (unsigned)t[i].len - 1), t[i].v);
		aml_free(&a);
	}
}

/* The length at the borders where its encoding grows, decoded as the specification says. */
static void test_aml_package_length(void **state)
{
	for (size_t body = 0; body < 0x100200; body += body > 0x1100 && body < 0xffe00 ? 0x5531 : 1) {
		uint8_t *p, first;
		struct aml a;
		size_t len;

		if (body > 0x80 && body < 0xf00)
			body = 0xf00;
		aml_init(&a);
		aml_if(&a);
		p = calloc(1, body + 1);
		aml_bytes(&a, p, body);
		aml_close(&a);
		free(p);
		assert_int_equal(aml_finish(&a), 0);
		first = a.buf[1];
		len = first >> 6 ? first & 15 : first & 63;
		for (unsigned i = 0; i < first >> 6; i++)
			len |= (size_t)a.buf[2 + i] << (4 + 8 * i);
		assert_int_equal(len, a.len - 1);
		assert_int_equal(a.len, 2 + (first >> 6) + body);
		aml_free(&a);
	}
}

static void test_aml_misuse(void **state)
{
	static const char *const bad[] = { "", "\\", "ABC", "ABCDE", "ABCD.", "ABCD.EF", "\\ABCDE" };
	struct aml_resources res = { 0 };
	struct aml a;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		aml_init(&a);
		aml_path(&a, bad[i]);
		assert_int_equal(aml_finish(&a), -EINVAL);
		aml_free(&a);
	}
	aml_init(&a);
	aml_eisaid(&a, "PNP05");
	assert_int_equal(aml_finish(&a), -EINVAL);
	aml_free(&a);
	aml_init(&a);
	aml_close(&a);
	assert_int_equal(aml_finish(&a), -EINVAL);
	aml_free(&a);
	aml_init(&a);
	aml_if(&a);
	assert_int_equal(aml_finish(&a), -EINVAL); /* still open */
	aml_free(&a);
	aml_init(&a);
	for (int i = 0; i <= AML_MAX_DEPTH; i++)
		aml_if(&a);
	assert_int_equal(aml_finish(&a), -EINVAL);
	aml_free(&a);
	aml_init(&a);
	for (int i = 0; i < 100; i++)
		res_io(&res, 0, 1);
	aml_name_resources(&a, "_CRS", &res);
	assert_int_equal(aml_finish(&a), -ENOSPC);
	aml_free(&a);
}

static void test_aml_eisaid(void **state)
{
	struct aml a;

	aml_init(&a);
	aml_eisaid(&a, "PNP0A08");
	assert_int_equal(aml_finish(&a), 0);
	assert_memory_equal(a.buf, "\x0c\x41\xd0\x0a\x08", 5);
	aml_free(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fixed_tables),
		cmocka_unit_test(test_madt),
		cmocka_unit_test(test_building_again_is_the_same),
		cmocka_unit_test(test_too_little_memory),
		cmocka_unit_test(test_iasl),
		cmocka_unit_test(test_aml_integers),
		cmocka_unit_test(test_aml_package_length),
		cmocka_unit_test(test_aml_misuse),
		cmocka_unit_test(test_aml_eisaid),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
