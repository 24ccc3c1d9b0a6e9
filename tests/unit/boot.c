/* SPDX-License-Identifier: MIT */
#include "../lib/chip_bed.h"
#include <asm/bootparam.h>
#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#define MIB            (1ull << 20)
#define BZ_SETUP       (5 * 512)
#define BZ_PAYLOAD     0x2000
#define BZ_SIZE        (BZ_SETUP + BZ_PAYLOAD)
#define ELF_NOTE       0x100
#define ELF_TEXT       0x1000
#define ELF_TEXT_SIZE  0x800
#define ELF_SIZE       (ELF_TEXT + ELF_TEXT_SIZE)
#define ELF_ADDR       0x200000

static struct chip_bed bed;
static char kernel_path[] = "/tmp/boot-kernel.XXXXXX";
static char initrd_path[] = "/tmp/boot-initrd.XXXXXX";
static struct err error;

static void write_file(const char *path, const void *p, size_t len)
{
	FILE *f = fopen(path, "wb");

	assert_non_null(f);
	assert_int_equal(fwrite(p, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

static struct setup_header *bz_header(uint8_t *image)
{
	return (struct setup_header *)(image + 0x1f1);
}

/* A bzImage of protocol 2.15 that says of itself what Linux's does. */
static void make_bz(uint8_t *image)
{
	struct setup_header *h = bz_header(image);

	memset(image, 0, BZ_SIZE);
	*h = (struct setup_header){
		.setup_sects = 4, .syssize = BZ_PAYLOAD / 16, .boot_flag = 0xaa55,
		.jump = 0x6aeb, .header = 0x53726448, .version = 0x020f,
		.loadflags = LOADED_HIGH | CAN_USE_HEAP, .code32_start = 0x100000,
		.initrd_addr_max = 0x7fffffff, .kernel_alignment = 0x200000,
		.relocatable_kernel = 1, .min_alignment = 21, .xloadflags = XLF_KERNEL_64,
		.cmdline_size = 2047, .pref_address = 0x1000000, .init_size = 0x100000,
	};
	for (size_t i = 0; i < BZ_PAYLOAD; i++)
		image[BZ_SETUP + i] = (uint8_t)(i * 7 + 1);
}

static void make_elf(uint8_t *image)
{
	Elf64_Ehdr *h = (Elf64_Ehdr *)image;
	Elf64_Phdr *p = (Elf64_Phdr *)(h + 1);

	memset(image, 0, ELF_SIZE);
	*h = (Elf64_Ehdr){
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_EXEC, .e_machine = EM_X86_64, .e_version = EV_CURRENT,
		.e_phoff = sizeof(*h), .e_ehsize = sizeof(*h), .e_phentsize = sizeof(*p),
		.e_phnum = 2,
	};
	p[0] = (Elf64_Phdr){
		.p_type = PT_LOAD, .p_offset = ELF_TEXT, .p_paddr = ELF_ADDR,
		.p_filesz = ELF_TEXT_SIZE, .p_memsz = 0x3000,
	};
	p[1] = (Elf64_Phdr){
		.p_type = PT_NOTE, .p_offset = ELF_NOTE, .p_filesz = 52, .p_align = 4,
	};
	/* Somebody else's note first. */
	store_le32(image + ELF_NOTE, 4);
	store_le32(image + ELF_NOTE + 4, 5);
	store_le32(image + ELF_NOTE + 8, 18);
	memcpy(image + ELF_NOTE + 12, "GNU", 4);
	store_le32(image + ELF_NOTE + 24, 4);
	store_le32(image + ELF_NOTE + 28, 8);
	store_le32(image + ELF_NOTE + 32, 18);
	memcpy(image + ELF_NOTE + 36, "Xen", 4);
	store_le64(image + ELF_NOTE + 40, ELF_ADDR + 0x40);
	for (size_t i = 0; i < ELF_TEXT_SIZE; i++)
		image[ELF_TEXT + i] = (uint8_t)(i * 3 + 2);
}

static int open_boot(struct boot **b, bool initrd, const char *cmdline)
{
	struct boot_config c = {
		.kernel = kernel_path, .initrd = initrd ? initrd_path : NULL, .cmdline = cmdline,
	};

	*b = NULL;
	error.text[0] = 0;
	return boot_open(b, &c, &error);
}

/* Opening fails with this in its one line, and the line names the file. */
static void expect_refused(const void *image, size_t len, const char *why)
{
	struct boot *b;

	write_file(kernel_path, image, len);
	assert_int_not_equal(open_boot(&b, false, NULL), 0);
	if (!strstr(error.text, why) || !strstr(error.text, kernel_path))
		fail_msg("\"%s\" should name the file and say \"%s\"", error.text, why);
	assert_null(strchr(error.text, '\n'));
}

/* Open and load; 0 or the error of either. */
static int try_boot(uint64_t mem, bool initrd, const char *cmdline)
{
	struct boot *b;
	int r = open_boot(&b, initrd, cmdline);

	if (r)
		return r;
	chip_bed_init(&bed, mem, 1);
	r = boot_load(b, bed.m, &error);
	boot_close(b);
	return r;
}

static void *guest(gpa_t at, uint64_t len)
{
	void *p = ram_ptr(&bed.m->ram, at, len);

	assert_non_null(p);
	return p;
}

/* Sorted, apart, RAM only where there is RAM. */
static void check_map(const uint8_t *map, size_t stride, unsigned nr, uint64_t mem)
{
	uint64_t end = 0, usable = 0;

	for (unsigned i = 0; i < nr; i++) {
		uint64_t addr = load_le64(map + i * stride), size = load_le64(map + i * stride + 8);
		uint32_t type = load_le32(map + i * stride + 16);

		assert_true(addr >= end);
		assert_true(size);
		end = addr + size;
		if (type != 1)
			continue;
		usable += size;
		assert_non_null(ram_ptr(&bed.m->ram, addr, size));
		assert_false(range_overlaps(addr, size, LAYOUT_RSDP, LAYOUT_ACPI_SIZE));
		assert_false(range_overlaps(addr, size, LAYOUT_ECAM, LAYOUT_ECAM_SIZE));
	}
	assert_int_equal(usable, mem - (0x100000 - LAYOUT_EBDA));
}

/* ---- bzImage -------------------------------------------------------------- */

static void test_bz(void **state)
{
	uint8_t *image = malloc(BZ_SIZE), *initrd = malloc(10000);
	const struct boot_params *p;
	struct kvm_sregs *s = &bed.kvm.sregs;
	uint64_t pml4e, pdpte, pde;

	make_bz(image);
	write_file(kernel_path, image, BZ_SIZE);
	memset(initrd, 0x77, 10000);
	write_file(initrd_path, initrd, 10000);
	assert_int_equal(try_boot(64 * MIB, true, "console=ttyS0 quiet"), 0);

	assert_memory_equal(guest(0x1000000, BZ_PAYLOAD), image + BZ_SETUP, BZ_PAYLOAD);
	assert_int_equal(bed.kvm.regs.rip, 0x1000200);
	assert_int_equal(bed.kvm.regs.rsi, LAYOUT_ZERO_PAGE);
	assert_int_equal(bed.kvm.regs.rflags, 2); /* interrupts off */

	p = guest(LAYOUT_ZERO_PAGE, sizeof(*p));
	assert_int_equal(p->hdr.type_of_loader, 0xff);
	assert_int_equal(p->hdr.loadflags & CAN_USE_HEAP, 0);
	assert_int_equal(p->hdr.version, 0x020f);
	assert_int_equal(p->sentinel, 0);
	assert_int_equal(p->acpi_rsdp_addr, LAYOUT_RSDP);
	assert_string_equal(guest(p->hdr.cmd_line_ptr, 64), "console=ttyS0 quiet");
	assert_int_equal(p->hdr.ramdisk_size, 10000);
	assert_int_equal(p->hdr.ramdisk_image, 64 * MIB - 3 * 4096); /* as high as it goes */
	assert_memory_equal(guest(p->hdr.ramdisk_image, 10000), initrd, 10000);
	check_map((const uint8_t *)p->e820_table, 20, p->e820_entries, 64 * MIB);

	/* "64-bit BOOT PROTOCOL": long mode, paging with an identity map, CS 10h, DS 18h. */
	assert_int_equal(s->cs.selector, 0x10);
	assert_int_equal(s->cs.l, 1);
	assert_int_equal(s->cs.db, 0);
	assert_int_equal(s->ss.selector, 0x18);
	assert_int_equal(s->efer, 0x500);
	assert_int_equal(s->cr0 & 0x80000001, 0x80000001);
	assert_int_equal(s->cr4, 0x20);
	for (uint64_t a = 0; a < LAYOUT_RAM_LOW_MAX; a += 2 * MIB) {
		pml4e = load_le64(guest(s->cr3, 8));
		pdpte = load_le64(guest((pml4e & ~0xfffull) + 8 * (a >> 30), 8));
		pde = load_le64(guest((pdpte & ~0xfffull) + 8 * ((a >> 21) & 511), 8));
		assert_int_equal(pml4e & pdpte & 3, 3);
		assert_int_equal(pde, a | 0x83);
	}
	assert_int_equal(load_le64(guest(s->gdt.base + 0x10, 8)) >> 40 & 0xff, 0x9b);
	chip_bed_fini(&bed);
	free(image);
	free(initrd);
}

static void test_bz_places(void **state)
{
	uint8_t image[BZ_SIZE];

	/* The preferred place does not fit: the lowest aligned one. */
	make_bz(image);
	write_file(kernel_path, image, BZ_SIZE);
	assert_int_equal(try_boot(8 * MIB, false, NULL), 0);
	assert_int_equal(bed.kvm.regs.rip, 0x200200);
	assert_int_equal(((struct boot_params *)guest(LAYOUT_ZERO_PAGE, 4096))->hdr.ramdisk_image, 0);
	chip_bed_fini(&bed);
	/* Not relocatable: there or nowhere. */
	bz_header(image)->relocatable_kernel = 0;
	write_file(kernel_path, image, BZ_SIZE);
	assert_int_equal(try_boot(8 * MIB, false, NULL), -ENOSPC);
	assert_non_null(strstr(error.text, "more memory"));
	chip_bed_fini(&bed);
	/* init_size counts, not only what the file holds. */
	make_bz(image);
	bz_header(image)->init_size = 7 * MIB;
	write_file(kernel_path, image, BZ_SIZE);
	assert_int_equal(try_boot(8 * MIB, false, NULL), -ENOSPC);
	chip_bed_fini(&bed);
	/* Addresses that wrap. */
	make_bz(image);
	bz_header(image)->pref_address = UINT64_MAX - 0xfff;
	bz_header(image)->init_size = UINT32_MAX;
	bz_header(image)->relocatable_kernel = 0;
	write_file(kernel_path, image, BZ_SIZE);
	assert_int_equal(try_boot(8 * MIB, false, NULL), -ENOSPC);
	chip_bed_fini(&bed);
}

static void test_bz_refused(void **state)
{
	uint8_t image[BZ_SIZE];

	make_bz(image);
	bz_header(image)->version = 0x020b;
	expect_refused(image, BZ_SIZE, "needs boot protocol 2.12 or later");
	make_bz(image);
	bz_header(image)->xloadflags = 0;
	expect_refused(image, BZ_SIZE, "64-bit");
	make_bz(image);
	bz_header(image)->loadflags = 0;
	expect_refused(image, BZ_SIZE, "bzImage");
	make_bz(image);
	bz_header(image)->boot_flag = 0;
	expect_refused(image, BZ_SIZE, "damaged");
	make_bz(image);
	bz_header(image)->kernel_alignment = 0x3000;
	expect_refused(image, BZ_SIZE, "damaged");
	make_bz(image);
	bz_header(image)->init_size = 0;
	expect_refused(image, BZ_SIZE, "damaged");
	make_bz(image);
	bz_header(image)->syssize = 0x10;
	expect_refused(image, BZ_SIZE, "too short");
	make_bz(image);
	bz_header(image)->header = 0;
	expect_refused(image, BZ_SIZE, "neither a bzImage nor an ELF");
	expect_refused("\x1f\x8b", 2, "neither a bzImage nor an ELF");
	expect_refused("", 0, "empty");
}

static void test_bz_truncated(void **state)
{
	uint8_t image[BZ_SIZE];
	struct boot *b;

	make_bz(image);
	for (size_t len = 1; len < BZ_SIZE - 15; len += len < 0x300 ? 1 : 97) {
		write_file(kernel_path, image, len);
		assert_int_not_equal(open_boot(&b, false, NULL), 0);
		assert_non_null(strstr(error.text, kernel_path));
	}
	expect_refused(image, BZ_SIZE - 16, "truncated");
	/* syssize is in 16-byte units: less is missing than it can say. */
	write_file(kernel_path, image, BZ_SIZE - 15);
	assert_int_equal(open_boot(&b, false, NULL), 0);
	boot_close(b);
}

static void test_cmdline_too_long(void **state)
{
	uint8_t image[BZ_SIZE];
	char line[2050];
	struct boot *b;

	make_bz(image);
	write_file(kernel_path, image, BZ_SIZE);
	memset(line, 'x', sizeof(line));
	line[2047] = 0;
	assert_int_equal(open_boot(&b, false, line), 0);
	boot_close(b);
	line[2047] = 'x';
	line[2048] = 0;
	assert_int_equal(open_boot(&b, false, line), -E2BIG);
	assert_non_null(strstr(error.text, "2047"));
}

static void test_initrd(void **state)
{
	uint8_t image[BZ_SIZE];
	struct boot *b;

	make_bz(image);
	bz_header(image)->initrd_addr_max = 0x13fffff; /* 20 MiB */
	write_file(kernel_path, image, BZ_SIZE);
	assert_int_equal(truncate(initrd_path, 3 * MIB), 0);
	assert_int_equal(try_boot(64 * MIB, true, NULL), 0);
	assert_int_equal(((struct boot_params *)guest(LAYOUT_ZERO_PAGE, 4096))->hdr.ramdisk_image,
			 17 * MIB);
	chip_bed_fini(&bed);
	/* A byte more would lie on the kernel's own memory. */
	assert_int_equal(truncate(initrd_path, 3 * MIB + 1), 0);
	assert_int_equal(try_boot(64 * MIB, true, NULL), -ENOSPC);
	assert_non_null(strstr(error.text, initrd_path));
	chip_bed_fini(&bed);
	assert_int_equal(truncate(initrd_path, 0), 0);
	assert_int_not_equal(open_boot(&b, true, NULL), 0);
	assert_non_null(strstr(error.text, "empty"));
	assert_int_equal(truncate(initrd_path, 1ll << 40), 0); /* sparse */
	assert_int_equal(try_boot(64 * MIB, true, NULL), -ENOSPC);
	chip_bed_fini(&bed);
	assert_int_equal(truncate(initrd_path, 1), 0);
}

static void test_bad_paths(void **state)
{
	struct boot_config c = { .kernel = "/nonexistent/vmlinuz" };
	struct boot *b = NULL;

	assert_int_equal(boot_open(&b, &c, &error), -ENOENT);
	assert_non_null(strstr(error.text, "/nonexistent/vmlinuz"));
	c.kernel = "/tmp";
	assert_int_equal(boot_open(&b, &c, &error), -EINVAL);
	assert_non_null(strstr(error.text, "regular file"));
	c.kernel = "/dev/zero";
	assert_int_equal(boot_open(&b, &c, &error), -EINVAL);
	c.kernel = NULL;
	assert_int_equal(boot_open(&b, &c, &error), -EINVAL);
	assert_int_equal(boot_open(&b, &c, NULL), -EINVAL);
	assert_null(b);
	boot_close(NULL);
}

/* The file changes after it was checked: what is loaded is checked again. */
static void test_changed_between(void **state)
{
	uint8_t image[BZ_SIZE];
	struct boot *b;

	make_bz(image);
	write_file(kernel_path, image, BZ_SIZE);
	assert_int_equal(open_boot(&b, false, NULL), 0);
	chip_bed_init(&bed, 64 * MIB, 1);
	assert_int_equal(boot_load(b, bed.m, &error), 0);
	bz_header(image)->version = 0x0100;
	write_file(kernel_path, image, BZ_SIZE);
	assert_int_not_equal(boot_load(b, bed.m, &error), 0);
	assert_int_equal(truncate(kernel_path, 0x400), 0);
	assert_int_not_equal(boot_load(b, bed.m, &error), 0);
	make_bz(image);
	write_file(kernel_path, image, BZ_SIZE);
	assert_int_equal(boot_load(b, bed.m, &error), 0); /* as a reset does */
	boot_close(b);
	chip_bed_fini(&bed);
}

/* ---- ELF -------------------------------------------------------------------- */

static void test_pvh(void **state)
{
	uint8_t image[ELF_SIZE], *p, *info;
	struct kvm_sregs *s = &bed.kvm.sregs;
	const uint64_t mem = 5ull << 30;

	make_elf(image);
	write_file(kernel_path, image, ELF_SIZE);
	assert_int_equal(truncate(initrd_path, 5000), 0);
	assert_int_equal(try_boot(mem, true, "hello"), 0);
	p = guest(ELF_ADDR, 0x3000);
	assert_memory_equal(p, image + ELF_TEXT, ELF_TEXT_SIZE);
	for (size_t i = ELF_TEXT_SIZE; i < 0x3000; i++)
		assert_int_equal(p[i], 0);
	assert_int_equal(bed.kvm.regs.rip, ELF_ADDR + 0x40);
	assert_int_equal(bed.kvm.regs.rflags, 2);
	assert_int_equal(s->cr0, 0x11);
	assert_int_equal(s->efer, 0);
	assert_int_equal(s->cs.db, 1);
	assert_int_equal(s->cs.l, 0);
	assert_int_equal(s->cs.limit, 0xffffffff);
	assert_int_equal(s->ds.base, 0);

	info = guest(bed.kvm.regs.rbx, 56);
	assert_int_equal(load_le32(info), 0x336ec578);
	assert_int_equal(load_le32(info + 4), 1);
	assert_int_equal(load_le32(info + 12), 1); /* modules */
	assert_string_equal(guest(load_le64(info + 24), 16), "hello");
	assert_int_equal(load_le64(info + 32), LAYOUT_RSDP);
	p = guest(load_le64(info + 16), 32);
	assert_int_equal(load_le64(p), LAYOUT_RAM_LOW_MAX - 8192);
	assert_int_equal(load_le64(p + 8), 5000);
	check_map(guest(load_le64(info + 40), 24), 24, load_le32(info + 48), mem);

	chip_bed_fini(&bed);
}

static void test_pvh_zeroes_again(void **state)
{
	uint8_t image[ELF_SIZE], *p;
	struct boot *b;

	make_elf(image);
	write_file(kernel_path, image, ELF_SIZE);
	assert_int_equal(open_boot(&b, false, NULL), 0);
	chip_bed_init(&bed, 64 * MIB, 1);
	assert_int_equal(boot_load(b, bed.m, &error), 0);
	p = guest(ELF_ADDR, 0x3000);
	memset(p, 0xcc, 0x3000);
	assert_int_equal(boot_load(b, bed.m, &error), 0);
	assert_memory_equal(p, image + ELF_TEXT, ELF_TEXT_SIZE);
	assert_int_equal(p[0x2fff], 0);
	boot_close(b);
	chip_bed_fini(&bed);
}

static void test_pvh_refused(void **state)
{
	uint8_t image[ELF_SIZE];
	Elf64_Ehdr *h = (Elf64_Ehdr *)image;
	Elf64_Phdr *p = (Elf64_Phdr *)(h + 1);

	make_elf(image);
	image[EI_CLASS] = ELFCLASS32;
	expect_refused(image, ELF_SIZE, "64-bit x86");
	make_elf(image);
	h->e_machine = EM_AARCH64;
	expect_refused(image, ELF_SIZE, "64-bit x86");
	make_elf(image);
	h->e_phnum = 0xffff;
	expect_refused(image, ELF_SIZE, "program headers");
	make_elf(image);
	h->e_phoff = UINT64_MAX - 8;
	expect_refused(image, ELF_SIZE, "program headers");
	make_elf(image);
	h->e_phentsize = 8;
	expect_refused(image, ELF_SIZE, "program headers");
	make_elf(image);
	p[0].p_offset = UINT64_MAX;
	expect_refused(image, ELF_SIZE, "truncated");
	make_elf(image);
	p[0].p_memsz = 1;
	expect_refused(image, ELF_SIZE, "cannot be loaded");
	make_elf(image);
	p[0].p_paddr = UINT64_MAX - 5;
	expect_refused(image, ELF_SIZE, "cannot be loaded");
	make_elf(image);
	p[0].p_paddr = 0x7000; /* where the boot structures are */
	expect_refused(image, ELF_SIZE, "1 MiB");
	make_elf(image);
	p[1].p_type = PT_NULL;
	expect_refused(image, ELF_SIZE, "CONFIG_PVH");
	make_elf(image);
	image[ELF_NOTE + 36] = 'x';
	expect_refused(image, ELF_SIZE, "CONFIG_PVH");
	make_elf(image);
	store_le32(image + ELF_NOTE, UINT32_MAX); /* a name that is longer than everything */
	expect_refused(image, ELF_SIZE, "CONFIG_PVH");
	make_elf(image);
	store_le32(image + ELF_NOTE + 40, 0x10000);
	expect_refused(image, ELF_SIZE, "outside of its segments");
	make_elf(image);
	expect_refused(image, ELF_SIZE - 1, "truncated");
	expect_refused(image, 20, "truncated");
	expect_refused(image, 70, "program headers");
	/* More memory than the machine has is found out when it is loaded. */
	make_elf(image);
	p[0].p_memsz = 100 * MIB;
	write_file(kernel_path, image, ELF_SIZE);
	assert_int_equal(try_boot(64 * MIB, false, NULL), -ENOSPC);
	assert_non_null(strstr(error.text, "more"));
	chip_bed_fini(&bed);
}

/* ---- rubbish ------------------------------------------------------------------ */

/* Whatever the header says: an error or a kernel that was loaded within RAM. */
static void fuzz(void (*make)(uint8_t *), size_t size, size_t from, size_t to)
{
	static const uint8_t values[] = { 0x00, 0x01, 0x7f, 0x80, 0xff };
	uint8_t *image = malloc(size);
	uint32_t x = 1;
	struct boot *b;

	chip_bed_init(&bed, 16 * MIB, 1);
	make(image);
	for (int round = 0; round < 4000; round++) {
		size_t len = size;

		make(image);
		for (int n = 0; n <= round % 4; n++) {
			x = x * 1664525 + 1013904223;
			image[from + (x >> 8) % (to - from)] = values[(x >> 4) % sizeof(values)];
		}
		if (x >> 29 == 0)
			len = 1 + (x >> 8) % size;
		write_file(kernel_path, image, len);
		if (open_boot(&b, round & 1, "x"))
			continue;
		(void)!boot_load(b, bed.m, &error);
		boot_close(b);
	}
	chip_bed_fini(&bed);
	free(image);
}

static void test_fuzz_bz(void **state)
{
	fuzz(make_bz, BZ_SIZE, 0x1f1, 0x270);
}

static void test_fuzz_elf(void **state)
{
	fuzz(make_elf, ELF_SIZE, 4, ELF_NOTE + 52);
}

static int group_setup(void **state)
{
	close(mkstemp(kernel_path));
	close(mkstemp(initrd_path));
	return truncate(initrd_path, 1);
}

static int group_teardown(void **state)
{
	unlink(kernel_path);
	unlink(initrd_path);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bz),
		cmocka_unit_test(test_bz_places),
		cmocka_unit_test(test_bz_refused),
		cmocka_unit_test(test_bz_truncated),
		cmocka_unit_test(test_cmdline_too_long),
		cmocka_unit_test(test_initrd),
		cmocka_unit_test(test_bad_paths),
		cmocka_unit_test(test_changed_between),
		cmocka_unit_test(test_pvh),
		cmocka_unit_test(test_pvh_zeroes_again),
		cmocka_unit_test(test_pvh_refused),
		cmocka_unit_test(test_fuzz_bz),
		cmocka_unit_test(test_fuzz_elf),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
