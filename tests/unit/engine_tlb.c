/* SPDX-License-Identifier: MIT
 *
 * What the engine may remember of a translation, and for how long: PCIDs, global
 * pages, INVLPG, INVPCID, MOV to CR3 and CR4. SDM vol. 3, "Invalidation of TLBs
 * and Paging-Structure Caches". engine_tlb STEPS SEED runs the random test longer.
 */
#include "../lib/engine_snippet.h"

#include <stdio.h>
#include <stdlib.h>

SNIPPET(load, "mov (%rdi),%rax\nint3");
SNIPPET(store, "mov %rax,(%rdi)\nint3");
SNIPPET(jump, "jmp *%rdi");
SNIPPET(set_cr3, "mov %rsi,%cr3\nint3");
SNIPPET(set_cr4, "mov %rsi,%cr4\nint3");
SNIPPET(invlpg, "invlpg (%rdi)\nint3");
SNIPPET(invpcid, "invpcid (%rdx),%rcx\nint3");

enum { DO_LOAD, DO_STORE, DO_JUMP, DO_CR3, DO_CR4, DO_INVLPG, DO_INVPCID, DO_COUNT };

#define KEEP	  (1ull << 63)
#define CR4_PGE_   (1u << 7)
#define CR4_PCIDE_ (1u << 17)
#define DESC	  0x7000u /* INVPCID's operand */
#define PAGES	  8u	  /* virtual; the last two are global */
#define FRAMES	  8u	  /* they are mapped to one of these */

static uint64_t page_va(unsigned int p)
{
	return VA + p * 4096;
}

static void map_to(struct env *e, unsigned int p, unsigned int frame)
{
	env_map(e, page_va(p), PA + frame * 4096, PTE_P_ | PTE_W_ | PTE_A_ | PTE_D_ | (p >= 6 ? PTE_G_ : 0));
}

/* At CPL 0 with PCIDs and global pages; frame n holds n, and at 64 code that says so. */
static struct env *begin(void)
{
	static const uint8_t *const from[] = {sn_load, sn_store, sn_jump, sn_set_cr3, sn_set_cr4, sn_invlpg,
					      sn_invpcid};
	static const uint8_t *const to[] = {sn_load_end, sn_store_end, sn_jump_end, sn_set_cr3_end,
					    sn_set_cr4_end, sn_invlpg_end, sn_invpcid_end};
	struct env *e = env_create(1);

	for (unsigned int i = 0; i < DO_COUNT; i++)
		put(e, LOAD + 64 * i, from[i], to[i]);
	for (unsigned int f = 0; f < FRAMES; f++) {
		uint8_t *p = e->ram + PA + f * 4096;

		p[0] = (uint8_t)f;
		memcpy(p + 64, "\xb8\x00\x00\x00\x00\xcc", 6); /* mov $f,%eax; int3 */
		p[65] = (uint8_t)f;
	}
	for (unsigned int p = 0; p < PAGES; p++)
		map_to(e, p, 0);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	set_cr4(e, CR4_PGE_ | CR4_PCIDE_, 0);
	return e;
}

static int go(struct env *e, unsigned int what, uint64_t rdi, uint64_t rsi, uint64_t rax)
{
	struct engine_exit x;
	struct engine_regs r = regs(e);

	r.rip = LOAD + 64 * what;
	r.gpr[7] = rdi;
	r.gpr[6] = rsi;
	r.gpr[0] = rax;
	r.gpr[2] = DESC;
	r.gpr[1] = rsi;
	engine_set_regs(e->cpu[0], &r);
	return env_run(e, 0, &x);
}

static unsigned int load(struct env *e, unsigned int p)
{
	assert_int_equal(go(e, DO_LOAD, page_va(p), 0, 0), 256);
	return (unsigned int)regs(e).gpr[0];
}

static unsigned int fetch(struct env *e, unsigned int p)
{
	assert_int_equal(go(e, DO_JUMP, page_va(p) + 64, 0, 0), 256);
	return (unsigned int)regs(e).gpr[0];
}

static void to_pcid(struct env *e, unsigned int pcid, bool keep)
{
	assert_int_equal(go(e, DO_CR3, 0, ENV_PT | pcid | (keep ? KEEP : 0), 0), 256);
}

static void invpcid(struct env *e, unsigned int type, uint64_t pcid, uint64_t va)
{
	memcpy(e->ram + DESC, &pcid, 8);
	memcpy(e->ram + DESC + 8, &va, 8);
	assert_int_equal(go(e, DO_INVPCID, 0, type, 0), 256);
}

static uint64_t fills(struct env *e)
{
	struct engine_stats s;

	engine_get_stats(e->cpu[0], &s);
	return s.tlb_fills;
}

/* ---- what is kept is used ---- */

static void pcids_keep_their_entries(void **state)
{
	struct env *e = begin();
	uint64_t n;

	for (int keep = 1; keep >= 0; keep--) {
		n = fills(e);
		for (unsigned int i = 0; i < 200; i++) {
			to_pcid(e, 1 + i % 2, keep);
			for (unsigned int p = 0; p < 4; p++)
				assert_int_equal(load(e, p), 0);
		}
		if (keep)
			assert_true(fills(e) - n <= 2 * 4);
		else
			assert_true(fills(e) - n >= 200 * 4);
	}
	env_destroy(e);
}

static void global_pages_outlive_a_switch(void **state)
{
	struct env *e = begin();
	uint64_t n;

	to_pcid(e, 1, false);
	assert_int_equal(load(e, 7), 0);
	n = fills(e);
	for (unsigned int i = 0; i < 50; i++) {
		to_pcid(e, i % 2, false);
		assert_int_equal(load(e, 7), 0);
	}
	assert_int_equal(fills(e), n);
	/* until PGE goes, or the page by name */
	map_to(e, 7, 1);
	assert_int_equal(load(e, 7), 0);
	assert_int_equal(go(e, DO_INVLPG, page_va(7), 0, 0), 256);
	assert_int_equal(load(e, 7), 1);
	map_to(e, 7, 2);
	assert_int_equal(go(e, DO_CR4, 0, 0x620 | CR4_PCIDE_, 0), 256);
	assert_int_equal(load(e, 7), 2);
	env_destroy(e);
}

/* ---- what is invalidated is gone: each way, seen from where it was put aside ---- */

static void fill_in(struct env *e, unsigned int pcid)
{
	to_pcid(e, pcid, false);
	for (unsigned int p = 0; p < PAGES; p++) {
		assert_int_equal(load(e, p), 0);
		assert_int_equal(fetch(e, p), 0);
	}
}

/* PCID 1's entries are put aside, the pages changed, `act` done in PCID 2; then they are looked at. */
static void expect(unsigned int type, unsigned int pcid, unsigned int p0, unsigned int p1, unsigned int g)
{
	struct env *e = begin();

	fill_in(e, 1);
	to_pcid(e, 2, false);
	for (unsigned int p = 0; p < PAGES; p++)
		map_to(e, p, 1);
	if (type < 4)
		invpcid(e, type, pcid, type ? 0 : page_va(0));
	to_pcid(e, 1, type != 4);
	assert_int_equal(load(e, 0), p0);
	assert_int_equal(fetch(e, 0), p0);
	assert_int_equal(load(e, 1), p1);
	assert_int_equal(fetch(e, 1), p1);
	assert_int_equal(load(e, 7), g);
	env_destroy(e);
}

static void invalidations_reach_what_is_put_aside(void **state)
{
	expect(5, 0, 0, 0, 0); /* nothing done: all is still there */
	expect(4, 0, 1, 1, 0); /* CR3 without bit 63 */
	expect(0, 1, 1, 0, 0); /* address */
	expect(0, 3, 0, 0, 0);
	expect(1, 1, 1, 1, 0); /* PCID */
	expect(1, 3, 0, 0, 0);
	expect(2, 0, 1, 1, 1); /* all */
	expect(3, 0, 1, 1, 0); /* all but global */
}

static void operands_are_checked(void **state)
{
	struct env *e = begin();
	struct { unsigned int type; uint64_t d0, d1; int v; } c[] = {
		{4, 0, 0, 13}, {0, 0x1000, 0, 13}, {1, 1ull << 40, 0, 13}, {0, 1, 1ull << 60, 13}, {1, 4095, 0, 256},
	};

	for (unsigned int i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
		memcpy(e->ram + DESC, &c[i].d0, 8);
		memcpy(e->ram + DESC + 8, &c[i].d1, 8);
		assert_int_equal(go(e, DO_INVPCID, 0, c[i].type, 0), c[i].v);
		env_start(e, 0, 0, LOAD, ENV_KSTACK);
		set_cr4(e, CR4_PGE_ | CR4_PCIDE_, 0);
	}
	/* bit 63 is reserved without PCIDs; they can be turned on only in PCID 0 */
	to_pcid(e, 0, true);
	assert_int_equal(go(e, DO_CR4, 0, 0x620, 0), 256);
	assert_int_equal(go(e, DO_CR3, 0, ENV_PT | KEEP, 0), 13);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	assert_int_equal(go(e, DO_CR3, 0, ENV_PT | 8, 0), 256);
	assert_int_equal(go(e, DO_CR4, 0, 0x620 | CR4_PCIDE_, 0), 13);
	env_destroy(e);
}

/* ---- write tags that are put aside ---- */

static void stores_reach_code_of_another_pcid(void **state)
{
	struct env *e = begin();
	uint64_t code = 0xcc00000005b8ull; /* mov $5,%eax; int3 */

	to_pcid(e, 1, false);
	assert_int_equal(go(e, DO_STORE, page_va(0), 0, 0), 256); /* a write tag */
	to_pcid(e, 2, false);
	assert_int_equal(fetch(e, 0), 0); /* translated */
	to_pcid(e, 1, true);
	assert_int_equal(go(e, DO_STORE, page_va(0) + 64, 0, code), 256);
	to_pcid(e, 2, true);
	assert_int_equal(fetch(e, 0), 5);
	env_destroy(e);
}

static void stores_are_logged_in_every_pcid(void **state)
{
	struct env *e = begin();
	static uint64_t dirty[ENV_RAM / 4096 / 64];
	struct engine_slot slot = {.size = ENV_RAM, .host = e->ram, .dirty = dirty};
	uint64_t *word = &dirty[PA / 4096 / 64], bit = 1ull << (PA / 4096 % 64);
	struct err err;

	assert_int_equal(engine_vm_change_slot(e->vm, &slot.gpa, &slot, &err), 0);
	to_pcid(e, 1, false);
	assert_int_equal(go(e, DO_STORE, page_va(0), 0, 0), 256);
	assert_true(*word & bit);
	to_pcid(e, 2, false);
	*word = 0;
	engine_vm_protect(e->vm, 0, ENV_RAM);
	to_pcid(e, 1, true);
	assert_int_equal(go(e, DO_STORE, page_va(0), 0, 0), 256);
	assert_true(*word & bit);
	env_destroy(e);
}

/* ---- anything, in any order ---- */

#define PCIDS 24u

static uint32_t rnd(uint64_t *s, uint32_t n)
{
	*s = *s * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(*s >> 33) % n;
}

/* Frames that an entry may still say, by PCID and page; bit n: frame n. */
struct model {
	uint8_t may[PCIDS][PAGES], now[PAGES];
};

static void invalidate(struct model *m, unsigned int pcid, unsigned int p)
{
	m->may[pcid][p] = (uint8_t)(1u << m->now[p]);
}

static void invalidate_pcid(struct model *m, unsigned int pcid)
{
	for (unsigned int p = 0; p < 6; p++)
		invalidate(m, pcid, p);
}

static void invalidate_all(struct model *m, bool global)
{
	for (unsigned int i = 0; i < PCIDS; i++)
		for (unsigned int p = 0; p < (global ? PAGES : 6); p++)
			invalidate(m, i, p);
}

/* The page by its name: global ones everywhere. */
static void invalidate_page(struct model *m, unsigned int pcid, unsigned int p)
{
	for (unsigned int i = 0; i < PCIDS; i++)
		if (p >= 6 || i == pcid)
			invalidate(m, i, p);
}

static unsigned int store(struct env *e, unsigned int p, uint64_t token)
{
	assert_int_equal(go(e, DO_STORE, page_va(p) + 128, 0, token), 256);
	for (unsigned int f = 0; f < FRAMES; f++)
		if (!memcmp(e->ram + PA + f * 4096 + 128, &token, 8))
			return f;
	return FRAMES;
}

static void random_steps(unsigned int steps, uint64_t seed)
{
	struct env *e = begin();
	unsigned int pcid = 0, i, p, other, f = 0;
	struct model m = {0};
	uint64_t s = seed;

	invalidate_all(&m, true);
	for (i = 0; i < steps; i++) {
		bool look = true;

		p = rnd(&s, PAGES);
		other = rnd(&s, PCIDS);
		switch (rnd(&s, 12)) {
		case 0:
		case 1: {
			bool keep = rnd(&s, 4);

			to_pcid(e, other, keep);
			pcid = other;
			if (!keep)
				invalidate_pcid(&m, pcid);
			look = false;
			break;
		}
		case 2:
			m.now[p] = (uint8_t)rnd(&s, FRAMES);
			map_to(e, p, m.now[p]);
			for (unsigned int k = 0; k < PCIDS; k++)
				m.may[k][p] |= (uint8_t)(1u << m.now[p]);
			look = false;
			break;
		case 3:
			assert_int_equal(go(e, DO_INVLPG, page_va(p), 0, 0), 256);
			invalidate_page(&m, pcid, p);
			f = load(e, p);
			break;
		case 4:
			look = false;
			switch (rnd(&s, 12)) {
			case 0:
				invpcid(e, 2, 0, 0);
				invalidate_all(&m, true);
				break;
			case 1:
				invpcid(e, 3, 0, 0);
				invalidate_all(&m, false);
				break;
			case 2:
			case 3:
				invpcid(e, 1, other, 0);
				invalidate_pcid(&m, other);
				break;
			case 4: /* PGE off and on */
				assert_int_equal(go(e, DO_CR4, 0, 0x620 | CR4_PCIDE_, 0), 256);
				assert_int_equal(go(e, DO_CR4, 0, 0x620 | CR4_PCIDE_ | CR4_PGE_, 0), 256);
				invalidate_all(&m, true);
				break;
			default:
				invpcid(e, 0, other, page_va(p));
				if (p < 6)
					invalidate(&m, other, p);
				break;
			}
			break;
		case 5:
		case 6:
			f = fetch(e, p);
			break;
		case 7:
		case 8:
			f = store(e, p, seed << 32 | (i + 1));
			break;
		default:
			f = load(e, p);
			break;
		}
		if (look && !(m.may[pcid][p] >> f & 1)) {
			fprintf(stderr, "seed %llu step %u: PCID %u page %u is in frame %u, may be %#x\n",
				(unsigned long long)seed, i, pcid, p, f, m.may[pcid][p]);
			fail();
		}
	}
	env_destroy(e);
}

static void any_sequence_is_within_the_rules(void **state)
{
	for (uint64_t seed = 1; seed <= 4; seed++)
		random_steps(6000, seed);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pcids_keep_their_entries),
		cmocka_unit_test(global_pages_outlive_a_switch),
		cmocka_unit_test(invalidations_reach_what_is_put_aside),
		cmocka_unit_test(operands_are_checked),
		cmocka_unit_test(stores_reach_code_of_another_pcid),
		cmocka_unit_test(stores_are_logged_in_every_pcid),
		cmocka_unit_test(any_sequence_is_within_the_rules),
	};

	if (argc == 3) {
		random_steps((unsigned int)strtoul(argv[1], NULL, 0), strtoull(argv[2], NULL, 0));
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
