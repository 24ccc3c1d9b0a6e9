/* SPDX-License-Identifier: MIT
 * ELF by its PVH entry (Xen's docs/misc/pvh.pandoc, "x86/HVM direct boot ABI",
 * and xen/include/public/arch-x86/hvm/start_info.h). The names are theirs.
 */
#include "machine/boot_priv.h"
#include <stdlib.h>

#define ELFNOTE_PHYS32_ENTRY 18
#define NOTE_MAX             0x10000u

#define START_MAGIC          0x336ec578
#define START_VERSION        1 /* has the memory map */

#define CR0_PE               BIT_ULL(0)
#define CR0_ET               BIT_ULL(4)

struct hvm_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
	uint32_t memmap_entries, reserved;
};

struct hvm_modlist_entry {
	uint64_t paddr, size, cmdline_paddr, reserved;
};

struct hvm_memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

/* All of it in the page at LAYOUT_ZERO_PAGE. */
struct start_page {
	struct hvm_start_info info;
	struct hvm_modlist_entry module;
	struct hvm_memmap_entry map[BOOT_MAX_RANGES];
};

bool pvh_probe(const struct image *img)
{
	uint8_t magic[SELFMAG];

	return !image_read(img, 0, magic, sizeof(magic), NULL) && !memcmp(magic, ELFMAG, SELFMAG);
}

static int check_header(const Elf64_Ehdr *h, const struct image *img, struct err *e)
{
	if (h->e_ident[EI_CLASS] != ELFCLASS64 || h->e_ident[EI_DATA] != ELFDATA2LSB ||
	    h->e_machine != EM_X86_64 || (h->e_type != ET_EXEC && h->e_type != ET_DYN))
		return err_set(e, -EINVAL,
			       "the kernel %s is not a 64-bit x86 ELF program; give an x86_64 vmlinux",
			       img->path);
	if (h->e_phentsize != sizeof(Elf64_Phdr) || !h->e_phnum || h->e_phnum > BOOT_MAX_SEGMENTS ||
	    !range_within(h->e_phoff, h->e_phnum * sizeof(Elf64_Phdr), img->size))
		return err_set(e, -EINVAL,
			       "the kernel %s has damaged or missing program headers; fetch it again",
			       img->path);
	return 0;
}

static int add_segment(struct pvh_kernel *k, const Elf64_Phdr *p, const struct image *img,
		       struct err *e)
{
	uint64_t end;

	if (!p->p_memsz)
		return 0;
	if (!range_within(p->p_offset, p->p_filesz, img->size))
		return err_set(e, -EINVAL,
			       "the kernel %s is truncated: a segment ends past the file; fetch it again",
			       img->path);
	if (p->p_filesz > p->p_memsz || add_overflows(p->p_paddr, p->p_memsz, &end) ||
	    p->p_paddr < LAYOUT_KERNEL)
		return err_set(e, -EINVAL,
			       "the kernel %s has a segment at %llxh that cannot be loaded; link it to load at 1 MiB or above",
			       img->path, (unsigned long long)p->p_paddr);
	k->segment[k->nr_segments++] = *p;
	return 0;
}

/* Look for Xen's PHYS32_ENTRY note in one PT_NOTE segment. True if *entry was found. */
static bool find_entry(const uint8_t *notes, size_t len, size_t align, uint32_t *entry)
{
	size_t at = 0;

	while (range_within(at, sizeof(Elf64_Nhdr), len)) {
		size_t name_len = load_le32(notes + at), desc_len = load_le32(notes + at + 4);
		uint32_t type = load_le32(notes + at + 8);
		size_t name = at + sizeof(Elf64_Nhdr);
		size_t desc = align_up(name + name_len, align);

		if (!range_within(name, name_len, len) || !range_within(desc, desc_len, len))
			return false;
		if (type == ELFNOTE_PHYS32_ENTRY && name_len == 4 &&
		    !memcmp(notes + name, "Xen", 4) && desc_len >= 4) {
			*entry = load_le32(notes + desc);
			return true;
		}
		at = align_up(desc + desc_len, align);
	}
	return false;
}

static bool note_entry(const Elf64_Phdr *p, const struct image *img, uint32_t *entry)
{
	size_t len = MIN(p->p_filesz, NOTE_MAX);
	uint8_t *notes;
	bool found;

	if (!len || !range_within(p->p_offset, p->p_filesz, img->size))
		return false;
	notes = malloc(len);
	if (!notes)
		return false;
	found = !image_read(img, p->p_offset, notes, len, NULL) &&
		find_entry(notes, len, p->p_align == 8 ? 8 : 4, entry);
	free(notes);
	return found;
}

int pvh_check(struct pvh_kernel *k, const struct image *img, struct err *e)
{
	Elf64_Phdr phdr[BOOT_MAX_SEGMENTS];
	bool found = false;
	Elf64_Ehdr h;
	int r;

	k->nr_segments = 0;
	r = image_read(img, 0, &h, sizeof(h), e);
	if (!r)
		r = check_header(&h, img, e);
	if (!r)
		r = image_read(img, h.e_phoff, phdr, h.e_phnum * sizeof(*phdr), e);
	for (unsigned i = 0; !r && i < h.e_phnum; i++) {
		if (phdr[i].p_type == PT_LOAD)
			r = add_segment(k, &phdr[i], img, e);
		else if (phdr[i].p_type == PT_NOTE && !found)
			found = note_entry(&phdr[i], img, &k->entry);
	}
	if (r)
		return r;
	if (!found)
		return err_set(e, -EINVAL,
			       "the kernel %s has no PVH entry; build it with CONFIG_PVH=y or give its bzImage",
			       img->path);
	for (unsigned i = 0; i < k->nr_segments; i++)
		if (k->entry >= k->segment[i].p_paddr &&
		    k->entry - k->segment[i].p_paddr < k->segment[i].p_memsz)
			return 0;
	return err_set(e, -EINVAL, "the kernel %s has its PVH entry %xh outside of its segments",
		       img->path, k->entry);
}

static int load_segments(const struct pvh_kernel *k, const struct image *img, struct machine *m,
			 uint64_t *end, struct err *e)
{
	*end = LAYOUT_KERNEL;
	for (unsigned i = 0; i < k->nr_segments; i++) {
		const Elf64_Phdr *p = &k->segment[i];
		uint8_t *to = ram_ptr(&m->ram, p->p_paddr, p->p_memsz);
		int r;

		if (!to)
			return err_set(e, -ENOSPC,
				       "the kernel %s needs memory from %llu to %llu MiB; give the machine more",
				       img->path, (unsigned long long)(p->p_paddr >> 20),
				       (unsigned long long)((p->p_paddr + p->p_memsz) >> 20) + 1);
		r = image_read(img, p->p_offset, to, p->p_filesz, e);
		if (r)
			return r;
		memset(to + p->p_filesz, 0, p->p_memsz - p->p_filesz);
		if (p->p_paddr < m->ram.low_size)
			*end = MAX(*end, p->p_paddr + p->p_memsz);
	}
	return 0;
}

static int write_start_info(const struct boot *b, struct machine *m, gpa_t initrd)
{
	struct boot_range range[BOOT_MAX_RANGES];
	unsigned nr = boot_memory_map(&m->ram, range);
	struct start_page page = {
		.info = {
			.magic = START_MAGIC,
			.version = START_VERSION,
			.cmdline_paddr = LAYOUT_CMDLINE,
			.rsdp_paddr = LAYOUT_RSDP,
			.memmap_paddr = LAYOUT_ZERO_PAGE + offsetof(struct start_page, map),
			.memmap_entries = nr,
		},
	};

	if (b->initrd.fd >= 0) {
		page.info.nr_modules = 1;
		page.info.modlist_paddr = LAYOUT_ZERO_PAGE + offsetof(struct start_page, module);
		page.module.paddr = initrd;
		page.module.size = b->initrd.size;
	}
	for (unsigned i = 0; i < nr; i++)
		page.map[i] = (struct hvm_memmap_entry){
			.addr = range[i].addr, .size = range[i].size, .type = range[i].type,
		};
	return ram_write(&m->ram, LAYOUT_ZERO_PAGE, &page, sizeof(page));
}

/* "32-bit protected mode, paging off, flat segments, ebx: physical address of the start info". */
static int set_cpu(struct machine *m, uint32_t entry, struct err *e)
{
	struct kvm_regs regs = { .rip = entry, .rbx = LAYOUT_ZERO_PAGE, .rflags = 2 };
	struct kvm_sregs s;
	int r = vcpu_get_sregs(&m->cpus[0].vcpu, &s);

	if (r)
		return err_set(e, r, "cannot read the registers of vCPU 0: %s", strerror(-r));
	s.cs = boot_segment(0x8, true, false);
	s.ds = s.es = s.fs = s.gs = s.ss = boot_segment(0x10, false, false);
	s.tr = (struct kvm_segment){ .limit = 0x67, .type = 0xb, .present = 1 };
	s.cr0 = CR0_PE | CR0_ET;
	s.cr3 = s.cr4 = s.efer = 0;
	return boot_set_cpu(m, &s, &regs, e);
}

int pvh_load(const struct pvh_kernel *k, const struct boot *b, struct machine *m, struct err *e)
{
	gpa_t initrd = 0;
	uint64_t end;
	int r = load_segments(k, &b->kernel, m, &end, e);

	if (!r && b->initrd.fd >= 0)
		r = boot_load_initrd(b, m, align_up(end, 4096), UINT32_MAX, &initrd, e);
	if (r)
		return r;
	r = write_start_info(b, m, initrd);
	if (r)
		return err_set(e, r, "cannot write the start info: %s", strerror(-r));
	return set_cpu(m, k->entry, e);
}
