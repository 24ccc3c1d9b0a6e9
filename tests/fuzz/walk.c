/* SPDX-License-Identifier: MIT
 * Page tables in every paging mode against a walker written down here from the
 * Intel SDM, vol. 3, "Paging": where an address leads, and whether all levels let
 * it be written and used by user code.
 */
#include "fuzz.h"
#include "engine/engine.h"
#include <sys/mman.h>

#define RAM   (64u << 10)
#define PAGES (RAM >> 12)

struct bed {
	uint8_t *ram;
	unsigned maxphyaddr;
	bool gb_pages;
	uint64_t cr3, cr4, efer;
	uint64_t pdpte[4];
};

static int no_access(void *cpu, struct engine_access *a)
{
	return 0;
}

static int no_rdmsr(void *cpu, uint32_t index, uint64_t *value)
{
	return 1;
}

static int no_wrmsr(void *cpu, uint32_t index, uint64_t value)
{
	return 1;
}

static void on_cpuid(void *cpu, uint32_t leaf, uint32_t sub, uint32_t r[4])
{
	const struct bed *b = cpu;

	__asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
	if (leaf == 0x80000008)
		r[0] = (r[0] & ~0xffu) | b->maxphyaddr;
	if (leaf == 0x80000001)
		r[3] = (r[3] & ~(1u << 26)) | (b->gb_pages ? 1u << 26 : 0) | 1u << 20;
}

static int no_intr(void *cpu)
{
	return -1;
}

static uint64_t cr8_read(void *cpu)
{
	return 0;
}

static void cr8_write(void *cpu, uint64_t value)
{
}

static const struct engine_ops ops = {
	.mmio = no_access, .io = no_access, .rdmsr = no_rdmsr, .wrmsr = no_wrmsr, .cpuid = on_cpuid,
	.intr_take = no_intr, .cr8_read = cr8_read, .cr8_write = cr8_write,
};

/* ---- the walker ----------------------------------------------------------- */

struct result {
	bool mapped, writable, user;
	uint64_t gpa;
};

static uint64_t load(const struct bed *b, uint64_t gpa, unsigned size)
{
	return gpa + size <= RAM ? load_le(b->ram + gpa, size) : 0;
}

static struct result walk_32(const struct bed *b, uint32_t lin)
{
	struct result r = { false };
	uint64_t pde = load(b, (b->cr3 & 0xfffff000) + (lin >> 22) * 4, 4), pte;

	if (!(pde & 1))
		return r;
	r.writable = pde & 2;
	r.user = pde & 4;
	if ((pde & 0x80) && (b->cr4 & 0x10)) {
		/* "PSE-36": bits 20:13 are address bits 39:32, up to MAXPHYADDR; the rest is reserved. */
		unsigned high = MIN(b->maxphyaddr, 40) - 32;

		if (pde & (0x3fe000 & ~(((1u << high) - 1) << 13)))
			return r;
		r.mapped = true;
		r.gpa = (pde & 0xffc00000) | (pde & 0x1fe000) << 19 | (lin & 0x3fffff);
		return r;
	}
	pte = load(b, (pde & 0xfffff000) + (lin >> 12 & 1023) * 4, 4);
	if (!(pte & 1))
		return (struct result){ false };
	r.mapped = true;
	r.writable &= !!(pte & 2);
	r.user &= !!(pte & 4);
	r.gpa = (pte & 0xfffff000) | (lin & 0xfff);
	return r;
}

/* "PAE Paging" from the page directory on, and "4-Level Paging". */
static struct result walk_64(const struct bed *b, uint64_t lin, bool long_mode)
{
	const uint64_t address = ((1ull << b->maxphyaddr) - 1) & ~0xfffull;
	struct result r = { .writable = true, .user = true };
	uint64_t table, e;
	int level = long_mode ? 4 : 2;

	if (long_mode) {
		table = b->cr3 & address;
	} else {
		e = b->pdpte[lin >> 30 & 3];
		if (!(e & 1))
			return (struct result){ false };
		table = e & address;
	}
	for (;; level--) {
		unsigned shift = 12 + 9 * (level - 1);
		uint64_t reserved = 0x000ffffffffff000ull & ~address;
		bool leaf;

		e = load(b, table + (lin >> shift & 511) * 8, 8);
		if (!(e & 1))
			return (struct result){ false };
		leaf = level == 1 || (e & 0x80 && (level == 2 || (level == 3 && b->gb_pages)));
		if (!(b->efer & 0x800))
			reserved |= 1ull << 63;
		if (!long_mode)
			reserved |= 0x7ffull << 52;
		if (level == 4 || (level == 3 && !b->gb_pages))
			reserved |= 0x80;
		if (leaf && level > 1)
			reserved |= ((1ull << shift) - 1) & ~0x1fffull;
		if (e & reserved)
			return (struct result){ false };
		r.writable &= !!(e & 2);
		r.user &= !!(e & 4);
		if (leaf) {
			r.mapped = true;
			r.gpa = (e & address & ~((1ull << shift) - 1)) | (lin & ((1ull << shift) - 1));
			return r;
		}
		table = e & address;
	}
}

/* ---- the input ---------------------------------------------------------------- */

/* An entry, mostly one that leads to another page of this memory. */
static uint64_t entry(struct feed *f, unsigned size)
{
	uint8_t v = feed_u8(f);
	uint64_t e = (uint64_t)(feed_u8(f) % (PAGES + 1)) << 12 | 7;

	if (v & 1)
		e = (e & ~7ull) | feed_u8(f);
	if (v & 2)
		e |= 1ull << (feed_u8(f) & 63);
	if (v & 4)
		e |= 0x80;
	if ((v & 0xf8) == 0xf8)
		e = feed_u64(f);
	return size == 8 ? e : (uint32_t)e;
}

static uint64_t address(struct feed *f)
{
	static const uint64_t parts[] = { 0, 1, 2, 3, 511, 256, 5, 0 };
	uint8_t a = feed_u8(f), b = feed_u8(f);
	uint64_t lin = parts[a & 7] << 39 | parts[a >> 3 & 7] << 30 | parts[b & 7] << 21 |
		       parts[b >> 3 & 7] << 12 | feed_u16(f) % 4096;

	return (uint64_t)((int64_t)(lin << 16) >> 16);
}

static bool set_mode(struct bed *b, struct engine_vcpu *v, struct feed *f, unsigned mode)
{
	uint8_t bits = feed_u8(f);
	struct engine_sregs s;

	engine_get_sregs(v, &s);
	b->cr3 = (uint64_t)(feed_u8(f) % PAGES) << 12;
	b->cr4 = 0x600 | (bits & 1 ? 0x10 : 0) | (mode ? 0x20 : 0);
	b->efer = (bits & 2 ? 0x800 : 0) | (mode == 2 ? 0x500 : 0);
	s.cr0 = 0x80010033;
	s.cr3 = b->cr3 | (mode == 1 ? (bits >> 4) * 32u : 0);
	s.cr4 = b->cr4;
	s.efer = b->efer;
	for (unsigned i = 0; i < 6; i++)
		s.seg[i] = (struct engine_segment){
			.selector = 8, .limit = UINT32_MAX, .type = i == 1 ? 11 : 3, .s = 1, .present = 1,
			.g = 1, .l = i == 1 && mode == 2, .db = !(i == 1 && mode == 2),
		};
	/* A processor takes the four PDPTEs when CR3 is loaded, if they are right. */
	for (unsigned i = 0; mode == 1 && i < 4; i++) {
		b->pdpte[i] = load(b, (s.cr3 & 0xffffffe0) + 8 * i, 8);
		if (b->pdpte[i] & 1 && b->pdpte[i] & (0x1e6 | ~((1ull << b->maxphyaddr) - 1)))
			return false;
	}
	return !engine_set_sregs(v, &s);
}

static void compare(const struct bed *b, struct engine_vcpu *v, unsigned mode, uint64_t lin)
{
	struct result want = mode ? walk_64(b, mode == 2 ? lin : (uint32_t)lin, mode == 2) :
				    walk_32(b, (uint32_t)lin);
	bool writable = false, user = false;
	gpa_t gpa = 0;
	int r = engine_translate(v, mode == 2 ? lin : (uint32_t)lin, &gpa, &writable, &user);

	FUZZ_CHECK(!r == want.mapped, "mode %u, %llx: %d, mapped %d", mode, (unsigned long long)lin, r,
		   want.mapped);
	if (r)
		return;
	FUZZ_CHECK(gpa == want.gpa, "mode %u, %llx leads to %llx, not %llx", mode,
		   (unsigned long long)lin, (unsigned long long)gpa, (unsigned long long)want.gpa);
	FUZZ_CHECK(writable == want.writable && user == want.user, "mode %u, %llx: rights %d%d, not %d%d",
		   mode, (unsigned long long)lin, writable, user, want.writable, want.user);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t widths[] = { 36, 39, 40, 46, 52, 32 };
	static const uint16_t places[] = { 0, 1, 2, 3, 5, 256, 510, 511 };
	struct engine_config c = { .code_mib = 1 };
	struct feed f = { data, size };
	uint8_t kind = feed_u8(&f);
	struct bed b = { .maxphyaddr = widths[kind % 6], .gb_pages = kind & 64 };
	unsigned mode = feed_below(&f, 3), es = mode ? 8 : 4;
	struct engine_slot slot = { .size = RAM };
	struct engine_vcpu *v;
	struct engine_vm *vm;
	struct err e = { "" };

	if (!mode) /* 4 MiB pages reach 40 bits, whatever there is */
		b.maxphyaddr = MAX(b.maxphyaddr, 40);
	b.ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	slot.host = b.ram;
	if (b.ram == MAP_FAILED || engine_vm_create(&c, &vm, &e) ||
	    engine_vm_change_slot(vm, NULL, &slot, &e) || engine_vcpu_create(vm, 0, &ops, &b, &v, &e))
		abort();
	for (unsigned n = feed_u8(&f); n; n--) {
		unsigned at = (feed_u8(&f) % PAGES) * 4096 + places[feed_u8(&f) & 7] * es;

		store_le(b.ram + at, entry(&f, es), es);
	}
	if (set_mode(&b, v, &f, mode))
		for (unsigned n = 0; n < 64 && f.left; n++)
			compare(&b, v, mode, address(&f));
	engine_vcpu_destroy(v);
	engine_vm_destroy(vm);
	munmap(b.ram, RAM);
	return 0;
}
