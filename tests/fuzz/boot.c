/* SPDX-License-Identifier: MIT
 * Kernel images: a bzImage or an ELF that is right, with bytes of the input put
 * over it (or the input as it is), opened, and loaded if that went well.
 */
#include "fuzz.h"
#include "fake_kvm.h"
#include "machine/machine.h"
#include <asm/bootparam.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#define IMAGE (16u << 10)

static void make_bz(uint8_t *image)
{
	struct setup_header h = {
		.setup_sects = 4, .syssize = 0x100, .boot_flag = 0xaa55, .jump = 0x6aeb,
		.header = 0x53726448, .version = 0x020f, .loadflags = LOADED_HIGH | CAN_USE_HEAP,
		.code32_start = 0x100000, .initrd_addr_max = 0x7fffffff,
		.kernel_alignment = 0x200000, .relocatable_kernel = 1, .min_alignment = 21,
		.xloadflags = XLF_KERNEL_64, .cmdline_size = 2047, .pref_address = 0x1000000,
		.init_size = 0x100000,
	};

	memcpy(image + 0x1f1, &h, sizeof(h));
}

static void make_elf(uint8_t *image)
{
	Elf64_Ehdr h = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_EXEC, .e_machine = EM_X86_64, .e_version = EV_CURRENT,
		.e_phoff = sizeof(h), .e_ehsize = sizeof(h), .e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 3,
	};
	Elf64_Phdr p[3] = {
		{ .p_type = PT_LOAD, .p_offset = 0x1000, .p_paddr = 0x200000, .p_filesz = 0x800,
		  .p_memsz = 0x3000 },
		{ .p_type = PT_NOTE, .p_offset = 0x200, .p_filesz = 52, .p_align = 4 },
		{ .p_type = PT_LOAD, .p_offset = 0x1800, .p_paddr = 0x300000, .p_filesz = 0x10,
		  .p_memsz = 0x10 },
	};
	uint32_t notes[13] = { 4, 5, 18, 0x554e47, 0, 0, 4, 8, 18, 0x6e6558, 0x200040 };

	memcpy(image, &h, sizeof(h));
	memcpy(image + sizeof(h), p, sizeof(p));
	memcpy(image + 0x200, notes, sizeof(notes));
}

/* Patches: where (mostly in the headers), how many, bytes. */
static void patch(uint8_t *image, struct feed *f)
{
	static const uint16_t places[] = { 0, 0x40, 0x78, 0xb0, 0x1f1, 0x200, 0x210, 0x22c, 0x250 };

	for (unsigned i = feed_below(f, 8); i && f->left; i--) {
		unsigned at = feed_u8(f), len = feed_u8(f) & 15;

		at = at & 0x80 ? feed_u16(f) % (IMAGE - 16) : places[at % ARRAY_SIZE(places)] +
		     feed_u8(f) % 64;
		feed_bytes(f, image + at, len);
	}
}

static int file(const char *name, const void *p, size_t len, size_t size, char *path, size_t room)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0 || pwrite(fd, p, len, 0) != (ssize_t)len)
		abort();
	snprintf(path, room, "/proc/self/fd/%d", fd);
	return fd;
}

static void load(struct boot *b, struct feed *f)
{
	static const uint64_t mems[] = { 4ull << 20, 32ull << 20, 64 << 10 };
	struct machine_config c = {
		.name = "fuzz", .cpus = 1, .mem = mems[feed_below(f, ARRAY_SIZE(mems))], .log_fd = -1,
	};
	struct fake_kvm *k = calloc(1, sizeof(*k));
	struct machine *m;
	struct err e = { "" };
	int r;

	if (!k)
		abort();
	fake_kvm_init(k);
	if (machine_create(&m, &c, &k->api, &e))
		abort();
	r = boot_load(b, m, &e);
	FUZZ_CHECK(r <= 0, "boot_load gave %d", r);
	FUZZ_CHECK(!r || e.text[0], "no message for %d", r);
	if (!r)
		FUZZ_CHECK(ram_ptr(&m->ram, k->regs.rip, 1), "entry %llx is not in RAM",
			   (unsigned long long)k->regs.rip);
	machine_destroy(m);
	FUZZ_CHECK(!fake_kvm_fini(k), "fds are left");
	free(k);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct feed f = { data, size };
	uint8_t image[IMAGE] = { 0 }, kind = feed_u8(&f);
	char kernel[40], initrd[40], cmdline[64];
	struct boot_config c = { .kernel = kernel, .cmdline = cmdline };
	size_t len = 0x2000 + (kind >> 4) * 0x200;
	struct boot *b;
	struct err e = { "" };
	int fd, fd2, r;

	memset(cmdline, 0, sizeof(cmdline));
	feed_bytes(&f, cmdline, feed_u8(&f) % sizeof(cmdline));
	cmdline[sizeof(cmdline) - 1] = '\0';
	fd2 = file("initrd", "initrd", 6, kind & 8 ? 5000 : (feed_u32(&f) >> 7) + 6, initrd,
		   sizeof(initrd));
	c.initrd = kind & 4 ? initrd : NULL;
	if ((kind & 3) == 3) {
		len = f.left;
		feed_bytes(&f, image, MIN(len, IMAGE));
		len = MIN(len, IMAGE);
	} else {
		if (kind & 1)
			make_elf(image);
		else
			make_bz(image);
		patch(image, &f);
		if (kind & 2)
			len = feed_u16(&f) % IMAGE;
	}
	fd = file("kernel", image, len, len, kernel, sizeof(kernel));
	r = boot_open(&b, &c, &e);
	FUZZ_CHECK(r <= 0, "boot_open gave %d", r);
	FUZZ_CHECK(!r || e.text[0], "no message for %d", r);
	if (!r) {
		/* Somebody writes to the file after it was looked at. */
		if (feed_u8(&f) & 1) {
			patch(image, &f);
			if (pwrite(fd, image, len, 0) != (ssize_t)len)
				abort();
		}
		load(b, &f);
		boot_close(b);
	}
	close(fd);
	close(fd2);
	return 0;
}
