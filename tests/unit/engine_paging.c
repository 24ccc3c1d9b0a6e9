/* SPDX-License-Identifier: MIT
 *
 * 32-bit and PAE paging: large pages, reserved bits, access rights, accessed and
 * dirty flags, and the error codes. (4-level paging: engine_system.c.) SDM vol. 3,
 * "Paging".
 */
#include "../lib/engine_snippet.h"

#define DIR   0x20000u	 /* page directory; PAE: the pointers, directories behind them */
#define TABLE 0x28000u
#define LIN   0x00c00000u /* what is looked at: 4 MiB and 2 MiB aligned */

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80 };
#define NX (1ull << 63)
#define WP (1ull << 16)
#define CR4_PSE	 0x10u
#define CR4_PAE	 0x20u
#define CR4_SMEP (1u << 20)
#define CR4_SMAP (1u << 21)

static void entry_put(struct env *e, bool pae, uint32_t at, unsigned int i, uint64_t val)
{
	memcpy(e->ram + at + i * (pae ? 8 : 4), &val, pae ? 8 : 4);
}

static uint64_t entry_get(struct env *e, bool pae, uint32_t at, unsigned int i)
{
	uint64_t val = 0;

	memcpy(&val, e->ram + at + i * (pae ? 8 : 4), pae ? 8 : 4);
	return val;
}

/* Where the directory entry of LIN is. */
static uint32_t dir_of(bool pae)
{
	return pae ? DIR + 0x1000 : DIR;
}
#define LIN_INDEX(pae) (LIN >> ((pae) ? 21 : 22))

/* 32-bit code with paging, the low 8 MiB mapped 1:1. */
static void start(struct env *e, bool pae, unsigned int cpl, uint64_t cr0, uint64_t cr4, bool nxe)
{
	struct engine_sregs s;

	env_start(e, 0, 0, LOAD, 0x10000);
	engine_get_sregs(e->cpu[0], &s);
	s.efer = nxe ? 0x800 : 0;
	s.cr0 = 0x80000031u | cr0;
	s.cr4 = 0x600u | cr4 | (pae ? CR4_PAE : 0);
	s.cr3 = DIR;
	s.has_pdptes = false;
	s.idt.limit = 0x7ff;
	for (int i = 0; i < 6; i++)
		s.seg[i] = (struct engine_segment){.selector = cpl ? SEL_UDATA : SEL_KDATA, .limit = ~0u, .type = 3,
						   .s = 1, .present = 1, .db = 1, .g = 1, .dpl = (uint8_t)cpl};
	s.seg[1].selector = cpl ? SEL_UCODE32 : SEL_KCODE32;
	s.seg[1].type = 11;
	s.tr = (struct engine_segment){.selector = SEL_TSS, .base = ENV_TSS, .limit = 0x67, .type = 11, .present = 1};
	memset(e->ram + DIR, 0, 0x9000);
	*(uint32_t *)(e->ram + ENV_TSS + 4) = ENV_KSTACK;
	*(uint32_t *)(e->ram + ENV_TSS + 8) = SEL_KDATA;
	/* by tables: PSE may be off. The user has the page of the code, and the kernel then not. */
	if (pae)
		entry_put(e, true, DIR, 0, (DIR + 0x1000) | P);
	for (uint32_t page = 0; page < 2048; page++) {
		uint32_t per = pae ? 512 : 1024, t = TABLE + 0x1000 * (2 + page / per);

		if (page % per == 0)
			entry_put(e, pae, dir_of(pae), page / per, t | P | W | U);
		entry_put(e, pae, t, page % per, page << 12 | P | W | (cpl && page == LOAD >> 12 ? U : 0u));
	}
	for (uint32_t v = 0; v < 256; v++) {
		uint32_t *g = (uint32_t *)(e->ram + ENV_IDT + 8 * v);

		g[0] = (ENV_HANDLER + v) | SEL_KCODE32 << 16;
		g[1] = v == 3 ? 0xee00 : 0x8e00;
	}
	assert_int_equal(engine_set_sregs(e->cpu[0], &s), 0);
}

SNIPPET(load32, ".code32\nmovl (%edi),%eax\nint3");
SNIPPET(store32, ".code32\nmovl %eax,(%edi)\nint3");
SNIPPET(rmw32, ".code32\nlock incl (%edi)\nint3");
SNIPPET(jump32, ".code32\njmp *%edi");

static void go(struct env *e, char op, uint32_t at)
{
	engine_vcpu_cpuid_changed(e->cpu[0]);
	if (op == 'r')
		PUT(e, LOAD, load32);
	else if (op == 'w')
		PUT(e, LOAD, store32);
	else if (op == 'm')
		PUT(e, LOAD, rmw32);
	else
		PUT(e, LOAD, jump32);
	set_gpr(e, 0, 7, at);
	set_rip(e, LOAD);
}

/* #PF with this code at this address. */
static void want_fault(struct env *e, char op, uint32_t at, uint32_t code)
{
	struct engine_exit x;
	struct engine_sregs s;
	const uint32_t *f;

	go(e, op, at);
	assert_int_equal(env_run(e, 0, &x), 14);
	engine_get_sregs(e->cpu[0], &s);
	f = (uint32_t *)(e->ram + regs(e).gpr[4]);
	assert_int_equal(f[0], code);
	assert_int_equal(s.cr2, at);
	assert_int_equal(f[1], op == 'x' ? at : LOAD);
}

static void want_none(struct env *e, char op, uint32_t at)
{
	struct engine_exit x;

	go(e, op, at);
	assert_int_equal(env_run(e, 0, &x), 256);
}

static void rights_and_codes(void **state)
{
	struct env *e = env_create(1);

	for (int pae = 0; pae < 2; pae++) {
		unsigned int n = LIN_INDEX(pae);
		/* [directory entry's flags][table entry's flags][op, CPL] → code, ~0: none */
		static const struct {
			uint64_t dir, table;
			char op;
			unsigned int cpl;
			uint64_t cr0, cr4;
			uint32_t code;
		} cases[] = {
			{0, 0, 'r', 0, 0, 0, 0}, {0, 0, 'w', 3, 0, 0, 6}, {P | W | U, 0, 'r', 3, 0, 0, 4},
			{P | W | U, P, 'w', 0, 0, 0, ~0u}, {P | W | U, P, 'w', 0, WP, 0, 3},
			{P | U, P | W | U, 'm', 3, 0, 0, 7}, {P | W, P | W | U, 'r', 3, 0, 0, 5},
			{P | W | U, P | W, 'w', 3, 0, 0, 7}, {P | W | U, P | W | U, 'm', 3, WP, 0, ~0u},
			{P | W | U, P | W | U, 'r', 0, 0, CR4_SMAP, 1},
			{P | W | U, P | W | U, 'x', 0, 0, CR4_SMEP, 0x11},
			{P | W | U, P | W, 'x', 3, 0, 0, 5}, /* no NXE, no SMEP: no I bit */
			{P | W | U, P | W, 'x', 3, 0, CR4_SMEP, 0x15},
			{0, 0, 'x', 0, 0, CR4_SMEP, 0x10},
		};

		for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
			start(e, pae, cases[i].cpl, cases[i].cr0, cases[i].cr4, false);
			if (cases[i].dir)
				entry_put(e, pae, dir_of(pae), n, TABLE | cases[i].dir);
			entry_put(e, pae, TABLE, 0, PA | cases[i].table);
			memset(e->ram + PA, 0xcc, 16);
			if (cases[i].code != ~0u) {
				want_fault(e, cases[i].op, LIN + 8, cases[i].code);
				assert_false(entry_get(e, pae, TABLE, 0) & (A | D));
			} else {
				want_none(e, cases[i].op, LIN + 8);
				assert_int_equal(entry_get(e, pae, TABLE, 0) & (A | D), A | D);
				assert_true(entry_get(e, pae, dir_of(pae), n) & A);
			}
		}
	}
	/* NX is PAE's */
	start(e, true, 3, 0, 0, true);
	entry_put(e, true, dir_of(true), LIN_INDEX(true), TABLE | P | W | U);
	entry_put(e, true, TABLE, 0, PA | P | W | U | NX);
	want_none(e, 'r', LIN);
	want_fault(e, 'x', LIN, 0x15);
	start(e, true, 3, 0, 0, false);
	entry_put(e, true, dir_of(true), LIN_INDEX(true), TABLE | P | W | U);
	entry_put(e, true, TABLE, 0, PA | P | W | U | NX);
	want_fault(e, 'r', LIN, 0xd);
	env_destroy(e);
}

static void reserved_bits_of_large_pages(void **state)
{
	struct env *e = env_create(1);

	/* 32-bit: address bits from 32 on are in bits 13 up, as far as there are any */
	static const struct {
		uint32_t phys, bad;
		bool pse36;
	} cases[] = {
		{36, 0x3e0000, true}, {40, 0x200000, true}, {46, 0x200000, true},
		{32, 0x3fe000, true}, {40, 0x3fe000, false},
	};

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		e->phys_bits = cases[i].phys;
		e->cpuid_hide1d = cases[i].pse36 ? 0 : 1u << 17;
		for (unsigned int bit = 12; bit < 22; bit++) {
			start(e, false, 0, 0, CR4_PSE, false);
			entry_put(e, false, DIR, LIN_INDEX(0), 0x800000u | P | W | PS | 1u << bit);
			e->mmio.n = 0;
			if (cases[i].bad >> bit & 1) {
				want_fault(e, 'r', LIN + 0x1000, 9);
			} else if (bit == 12) { /* PAT */
				want_none(e, 'r', LIN + 0x1000);
				assert_int_equal(e->mmio.n, 0);
			} else {
				/* nothing is there: the access shows the address */
				want_none(e, 'r', LIN + 0x1000);
				assert_int_equal(e->mmio.n, 1);
				assert_int_equal(e->mmio.a[0].addr, 1ull << (bit + 19) | 0x801000u);
			}
		}
	}
	e->cpuid_hide1d = 0;
	/* without PSE the bit means nothing, and a table it is */
	start(e, false, 0, 0, 0, false);
	entry_put(e, false, DIR, LIN_INDEX(0), TABLE | P | W | PS);
	entry_put(e, false, TABLE, 0, PA | P);
	want_none(e, 'r', LIN);
	/* PAE: bits 13 to 20, and those beyond the address, and 52 to 62 */
	e->phys_bits = 40;
	for (unsigned int bit = 13; bit < 63; bit++) {
		bool bad = bit < 21 || (bit >= 40);

		if (!bad && bit < 24)
			continue;
		start(e, true, 0, 0, 0, true);
		entry_put(e, true, dir_of(true), LIN_INDEX(1), 0x800000u | P | W | PS | 1ull << bit);
		if (bad)
			want_fault(e, 'w', LIN + 4, 0xb);
		else
			want_none(e, 'w', LIN + 4);
	}
	/* in a table's entry and in a table */
	start(e, true, 0, 0, 0, true);
	entry_put(e, true, dir_of(true), LIN_INDEX(1), TABLE | P | W | 1ull << 52);
	entry_put(e, true, TABLE, 0, PA | P);
	want_fault(e, 'r', LIN, 9);
	start(e, true, 0, 0, 0, true);
	entry_put(e, true, dir_of(true), LIN_INDEX(1), TABLE | P | W);
	entry_put(e, true, TABLE, 0, PA | P | 1ull << 45);
	want_fault(e, 'r', LIN, 9);
	env_destroy(e);
}

SNIPPET(load_cr3, ".code32\nmov %edi,%cr3\nint3");

/* The four pointers are read by MOV to CR3, and are what counts from then on. */
static void pae_pointers(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;

	e->phys_bits = 40;
	for (unsigned int bit = 1; bit < 64; bit++) {
		bool bad = bit == 1 || bit == 2 || (bit >= 5 && bit <= 8) || bit >= 40;

		start(e, true, 0, 0, 0, false);
		entry_put(e, true, DIR + 0x20, 0, (DIR + 0x1000) | P);
		entry_put(e, true, DIR + 0x20, 3, (DIR + 0x2000) | P | 1ull << bit);
		engine_vcpu_cpuid_changed(e->cpu[0]);
		PUT(e, LOAD, load_cr3);
		set_gpr(e, 0, 7, DIR + 0x20);
		assert_int_equal(env_run(e, 0, &x), bad ? 13 : 256);
	}
	/* changed in memory only: no effect; not present: no error, and a fault there */
	start(e, true, 0, 0, 0, false);
	entry_put(e, true, DIR, 0, 0);
	entry_put(e, true, DIR, 3, (DIR + 0x1000) | P);
	want_none(e, 'r', 0x1000);
	want_fault(e, 'r', 0xc0001000u, 0);
	env_destroy(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rights_and_codes),
		cmocka_unit_test(reserved_bits_of_large_pages),
		cmocka_unit_test(pae_pointers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
