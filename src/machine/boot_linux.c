/* SPDX-License-Identifier: MIT
 * bzImage by its 64-bit entry. Section and field names are those of the Linux
 * kernel's Documentation/arch/x86/boot.rst.
 */
#include "machine/boot_priv.h"
#include <stddef.h>
#include <stdlib.h>
#include <sys/random.h>

#define HEADER_OFF      0x1f1 /* of setup_header in the file */
#define MAGIC_HDRS      0x53726448
#define BOOT_FLAG       0xaa55
#define PROTOCOL_MIN    0x020c
#define ENTRY_64        0x200
#define SECTOR          512u
#define LOADER_OTHER    0xff
#define VID_MODE_NORMAL 0xffff

/* In LAYOUT_BOOT_TABLES: identity map of the first 3 GiB (all of low RAM), GDT, setup_data. */
#define PML4            LAYOUT_BOOT_TABLES
#define PDPT            (PML4 + 0x1000)
#define PD              (PDPT + 0x1000)
#define NR_PD           3u
#define GDT             (PD + NR_PD * 0x1000)
#define SEED            (GDT + 0x100)
#define SEED_LEN        32u

#define BOOT_CS         0x10
#define BOOT_DS         0x18

#define PTE_PRESENT     BIT(0)
#define PTE_WRITE       BIT(1)
#define PTE_LARGE       BIT(7)

#define CR0_PE          BIT_ULL(0)
#define CR0_ET          BIT_ULL(4)
#define CR0_NE          BIT_ULL(5)
#define CR0_PG          BIT_ULL(31)
#define CR4_PAE         BIT_ULL(5)
#define EFER_LME        BIT_ULL(8)
#define EFER_LMA        BIT_ULL(10)

bool linux_probe(const struct image *img)
{
	uint8_t magic[4];

	return !image_read(img, 0x202, magic, sizeof(magic), NULL) &&
	       load_le32(magic) == MAGIC_HDRS;
}

/* "The Real-Mode Kernel Header". */
int linux_check(struct linux_kernel *k, const struct image *img, struct err *e)
{
	struct setup_header *h = &k->header;
	uint8_t raw[0x202 + 0x100] = { 0 };
	uint64_t have = MIN(img->size, sizeof(raw)), end, setup, room;
	int r = image_read(img, 0, raw, have, e);

	if (r)
		return r;
	/* The jump at 200h goes over the header: that is how long this kernel's is. */
	end = 0x202u + raw[0x201];
	if (end > have)
		return err_set(e, -EINVAL, "the kernel %s is truncated in its header; fetch it again",
			       img->path);
	memset(h, 0, sizeof(*h));
	memcpy(h, raw + HEADER_OFF, MIN(end - HEADER_OFF, sizeof(*h)));
	if (h->boot_flag != BOOT_FLAG)
		return err_set(e, -EINVAL, "the kernel %s has a damaged boot sector; fetch it again",
			       img->path);
	if (h->version < PROTOCOL_MIN)
		return err_set(e, -EINVAL,
			       "the kernel %s has boot protocol %u.%02u; it needs boot protocol 2.12 or later (Linux 3.8)",
			       img->path, h->version >> 8, h->version & 0xffu);
	if (!(h->loadflags & LOADED_HIGH))
		return err_set(e, -EINVAL, "the kernel %s is a zImage; build a bzImage", img->path);
	if (!(h->xloadflags & XLF_KERNEL_64))
		return err_set(e, -EINVAL,
			       "the kernel %s has no 64-bit entry; give a 64-bit (x86_64) kernel",
			       img->path);
	if (!is_pow2(h->kernel_alignment) || !h->init_size || !h->syssize)
		return err_set(e, -EINVAL, "the kernel %s has a damaged header; fetch it again",
			       img->path);
	setup = ((h->setup_sects ? h->setup_sects : 4) + 1) * SECTOR;
	k->payload_off = setup;
	k->payload_len = (uint64_t)h->syssize * 16;
	/* syssize is rounded up to 16 bytes; signatures may follow. */
	room = img->size > setup ? img->size - setup : 0;
	if (room + 15 < k->payload_len)
		return err_set(e, -EINVAL,
			       "the kernel %s is truncated: it has %llu of %llu bytes; fetch it again",
			       img->path, (unsigned long long)img->size,
			       (unsigned long long)(setup + k->payload_len));
	k->payload_len = MIN(k->payload_len, room);
	if (k->payload_len <= ENTRY_64)
		return err_set(e, -EINVAL, "the kernel %s is too short for its 64-bit entry",
			       img->path);
	return 0;
}

/* Where the kernel goes: its preferred address, or if that does not fit the lowest that does. */
static int place_kernel(const struct linux_kernel *k, const struct image *img,
			const struct machine *m, uint64_t *at, uint64_t *end, struct err *e)
{
	const struct setup_header *h = &k->header;
	uint64_t need = MAX(k->payload_len, h->init_size), low = m->ram.low_size;

	*at = h->pref_address;
	if (h->relocatable_kernel &&
	    (*at < LAYOUT_KERNEL || (*at & (h->kernel_alignment - 1)) ||
	     !range_within(*at, need, low)))
		*at = align_up(LAYOUT_KERNEL, h->kernel_alignment);
	if (*at < LAYOUT_KERNEL || !range_within(*at, need, low))
		return err_set(e, -ENOSPC,
			       "the kernel %s needs %llu MiB from %llu MiB on and the machine's low memory ends at %llu MiB; give the machine more memory",
			       img->path, (unsigned long long)(need >> 20) + 1,
			       (unsigned long long)(*at >> 20), (unsigned long long)(low >> 20));
	*end = *at + need;
	return 0;
}

/* Page tables and GDT as "64-bit BOOT PROTOCOL" asks. */
static int write_tables(struct machine *m)
{
	static const uint64_t gdt[] = {
		0, 0,
		0x00af9b000000ffffull, /* 10h: code, execute-read, long mode */
		0x00cf93000000ffffull, /* 18h: data, read-write, 4 GiB */
	};
	uint8_t *p = ram_ptr(&m->ram, PML4, GDT + 0x1000 - PML4);

	if (!p)
		return -EFAULT;
	memset(p, 0, GDT + 0x1000 - PML4);
	store_le64(p, PDPT | PTE_PRESENT | PTE_WRITE);
	for (unsigned i = 0; i < NR_PD; i++)
		store_le64(p + 0x1000 + 8 * i, (PD + i * 0x1000ull) | PTE_PRESENT | PTE_WRITE);
	for (unsigned i = 0; i < NR_PD * 512; i++)
		store_le64(p + 0x2000 + 8 * i,
			   (uint64_t)i << 21 | PTE_PRESENT | PTE_WRITE | PTE_LARGE);
	memcpy(p + (GDT - PML4), gdt, sizeof(gdt));
	return 0;
}

/* A random seed by setup_data, so that the guest need not wait for entropy. Returns its gpa or 0. */
static uint64_t write_seed(struct machine *m)
{
	struct {
		struct setup_data head;
		uint8_t seed[SEED_LEN];
	} node = { .head = { .type = SETUP_RNG_SEED, .len = SEED_LEN } };

	if (getrandom(node.seed, sizeof(node.seed), GRND_NONBLOCK) != (ssize_t)sizeof(node.seed))
		return 0;
	return ram_write(&m->ram, SEED, &node, sizeof(node)) ? 0 : SEED;
}

/* "The zero page". */
static int write_params(const struct linux_kernel *k, const struct boot *b, struct machine *m,
			uint64_t at, gpa_t initrd)
{
	struct boot_params *p = calloc(1, sizeof(*p));
	struct boot_range range[BOOT_MAX_RANGES];
	unsigned nr = boot_memory_map(&m->ram, range);
	int r;

	if (!p)
		return -ENOMEM;
	p->hdr = k->header;
	p->hdr.type_of_loader = LOADER_OTHER;
	p->hdr.loadflags &= ~(CAN_USE_HEAP | QUIET_FLAG);
	p->hdr.vid_mode = VID_MODE_NORMAL;
	p->hdr.code32_start = (uint32_t)at;
	p->hdr.cmd_line_ptr = LAYOUT_CMDLINE;
	p->hdr.ramdisk_image = p->hdr.ramdisk_size = 0;
	if (b->initrd.fd >= 0) {
		p->hdr.ramdisk_image = (uint32_t)initrd;
		p->hdr.ramdisk_size = (uint32_t)b->initrd.size;
	}
	p->hdr.setup_data = write_seed(m);
	p->acpi_rsdp_addr = LAYOUT_RSDP;
	for (unsigned i = 0; i < nr; i++)
		p->e820_table[i] = (struct boot_e820_entry){
			.addr = range[i].addr, .size = range[i].size, .type = range[i].type,
		};
	p->e820_entries = (uint8_t)nr;
	r = ram_write(&m->ram, LAYOUT_ZERO_PAGE, p, sizeof(*p));
	free(p);
	return r;
}

static int set_cpu(struct machine *m, uint64_t entry, struct err *e)
{
	struct kvm_regs regs = {
		.rip = entry, .rsi = LAYOUT_ZERO_PAGE, .rflags = 2, .rsp = LAYOUT_BOOT_TABLES - 16,
	};
	struct kvm_sregs s;
	int r = vcpu_get_sregs(&m->cpus[0].vcpu, &s);

	if (r)
		return err_set(e, r, "cannot read the registers of vCPU 0: %s", strerror(-r));
	s.cs = boot_segment(BOOT_CS, true, true);
	s.ds = s.es = s.fs = s.gs = s.ss = boot_segment(BOOT_DS, false, true);
	s.tr = (struct kvm_segment){ .limit = 0x67, .type = 0xb, .present = 1 };
	s.gdt = (struct kvm_dtable){ .base = GDT, .limit = 4 * 8 - 1 };
	s.idt = (struct kvm_dtable){ 0 };
	s.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
	s.cr3 = PML4;
	s.cr4 = CR4_PAE;
	s.efer = EFER_LME | EFER_LMA;
	return boot_set_cpu(m, &s, &regs, e);
}

int linux_load(const struct linux_kernel *k, const struct boot *b, struct machine *m,
	       struct err *e)
{
	uint64_t at = 0, end = 0, limit;
	gpa_t initrd = 0;
	int r = place_kernel(k, &b->kernel, m, &at, &end, e);

	if (r)
		return r;
	r = image_read(&b->kernel, k->payload_off, ram_ptr(&m->ram, at, k->payload_len),
		       k->payload_len, e);
	if (r)
		return r;
	if (b->initrd.fd >= 0) {
		/* initrd_addr_max is the highest address that a byte of it may have. */
		limit = k->header.initrd_addr_max ? k->header.initrd_addr_max + 1ull : 0x38000000;
		r = boot_load_initrd(b, m, end, limit, &initrd, e);
		if (r)
			return r;
	}
	r = write_tables(m);
	if (!r)
		r = write_params(k, b, m, at, initrd);
	if (r)
		return err_set(e, r, "cannot write the boot parameters: %s", strerror(-r));
	return set_cpu(m, at + ENTRY_64, e);
}
