/* SPDX-License-Identifier: MIT
 *
 * The page of the stack that translated code keeps apart (docs/ENGINE.md, "Stack"):
 * it goes when the page's mapping, its right to be written or its bytes' being no
 * code do, and an address that is in no page is found to be so.
 */
#include "../lib/engine_snippet.h"

#define ALIAS (VA + 0x10000) /* page tables, for the guest to write */

/* Two pages at VA for the stack; RSI points at the first one's entry. Faults have a stack of their own. */
static struct env *start(uint32_t way, uint64_t flags1, uint64_t flags2, uint64_t rsp)
{
	struct env *e = env_create(1);
	uint64_t pte;

	env_map(e, VA, PA, flags1);
	env_map(e, VA + 4096, PA + 8192, flags2); /* not beside the first */
	pte = (uint64_t)((uint8_t *)env_pte(e, VA) - e->ram);
	env_map(e, ALIAS, pte & ~4095ull, PTE_P_ | PTE_W_);
	env_start(e, 0, 0, LOAD, ENV_KSTACK - 256);
	engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | way);
	for (unsigned int v = 12; v <= 14; v++)
		set_idt(e, v, ENV_HANDLER + v, 1, 0);
	set_gpr(e, 0, 4, rsp);
	set_gpr(e, 0, 6, ALIAS + (pte & 4095));
	return e;
}

static uint64_t at(struct env *e, uint64_t gpa)
{
	uint64_t x;

	memcpy(&x, e->ram + gpa, 8);
	return x;
}

SNIPPET(bad_push, "push %rax\n int3");
SNIPPET(bad_pop, "pop %rax\n int3");
SNIPPET(bad_load, "mov %rsp,%rbx\n mov 8(%rsp),%rax\n int3");
SNIPPET(bad_sse, "movups 8(%rsp),%xmm0\n int3");
SNIPPET(bad_call, "call 1f\n1: int3");
SNIPPET(good_bad, "push %rax\n pop %rbx\n mov %rdi,%rsp\n push %rbx\n int3");

/* Before the first page was looked up, and behind one that was. */
static void an_address_in_no_page(void **state)
{
	static const struct { const uint8_t *from, *to; uint32_t rip; } of[] = {
		{sn_bad_push, sn_bad_push_end, 0}, {sn_bad_pop, sn_bad_pop_end, 0}, {sn_bad_load, sn_bad_load_end, 3},
		{sn_bad_sse, sn_bad_sse_end, 0}, {sn_bad_call, sn_bad_call_end, 0}, {sn_good_bad, sn_good_bad_end, 5},
	};

	for (unsigned int w = 0; w < ENV_WAYS; w++)
		for (unsigned int i = 0; i < sizeof(of) / sizeof(of[0]); i++)
			for (unsigned int off = 0; off <= 64; off += 8) {
				uint64_t bad = 0x8000000000000000ull + off;
				struct env *e = start(env_ways[w], PTE_P_ | PTE_W_, PTE_P_, of[i].rip == 5 ? VA + 64 : bad);
				struct env_frame f;

				put(e, LOAD, of[i].from, of[i].to);
				set_gpr(e, 0, 7, bad);
				int v = env_run_through(e, 0);

				if (v != 12)
					fail_msg("way %u, program %u, offset %u: vector %d", w, i, off, v);
				env_frame(e, 0, 12, &f);
				assert_int_equal(f.rip, LOAD + of[i].rip);
				assert_int_equal(f.rsp, bad);
				assert_int_equal(f.error, 0);
				env_destroy(e);
			}
}

SNIPPET(moves, "push %rax\n mov (%rsi),%rbx\n mov %rcx,(%rsi)\n invlpg (%rsp)\n pop %rdx\n push %rbp\n int3");

static void a_page_is_mapped_elsewhere(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w], PTE_P_ | PTE_W_, PTE_P_, VA + 64);

		PUT(e, LOAD, moves);
		set_gpr(e, 0, 0, 1);
		set_gpr(e, 0, 5, 3);
		set_gpr(e, 0, 1, (PA + 4096) | PTE_P_ | PTE_W_);
		*(uint64_t *)(e->ram + PA + 4096 + 56) = 2;
		assert_int_equal(env_run_through(e, 0), 256);
		assert_int_equal(regs(e).gpr[2], 2);
		assert_int_equal(at(e, PA + 56), 1);
		assert_int_equal(at(e, PA + 4096 + 56), 3);
		env_destroy(e);
	}
}

/* It can be read on, not be written. */
static void a_page_loses_its_right(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w], PTE_P_ | PTE_W_, PTE_P_, VA + 64);
		struct env_frame f;

		PUT(e, LOAD, moves);
		set_gpr(e, 0, 0, 1);
		set_gpr(e, 0, 1, PA | PTE_P_);
		assert_int_equal(env_run_through(e, 0), 14);
		env_frame(e, 0, 14, &f);
		assert_int_equal(regs(e).gpr[2], 1);
		assert_int_equal(f.error, 3);
		assert_int_equal(f.rsp, VA + 64);
		assert_int_equal(f.rip, LOAD + (uint64_t)(sn_moves_end - sn_moves) - 2);
		env_destroy(e);
	}
}

SNIPPET(changes_space, "push %rax\n mov %rcx,%cr3\n pop %rdx\n push %rbp\n int3");

/* At the same address another space has another page. */
static void another_space(void **state)
{
	enum { TABLES = PA + 0x10000 };

	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w], PTE_P_ | PTE_W_, PTE_P_, VA + 64);
		struct engine_sregs s;
		uint64_t from;

		engine_get_sregs(e->cpu[0], &s);
		from = s.cr3;
		for (unsigned int level = 0; level < 4; level++) {
			unsigned int i = VA >> (39 - 9 * level) & 511;
			uint64_t *t = (uint64_t *)(e->ram + TABLES + 4096 * level);

			memcpy(t, e->ram + (from & ~4095ull), 4096);
			from = t[i];
			t[i] = (level < 3 ? TABLES + 4096 * (level + 1) : PA + 4096) | PTE_P_ | PTE_W_;
		}
		PUT(e, LOAD, changes_space);
		set_gpr(e, 0, 0, 1);
		set_gpr(e, 0, 5, 3);
		set_gpr(e, 0, 1, TABLES);
		*(uint64_t *)(e->ram + PA + 4096 + 56) = 2;
		assert_int_equal(env_run_through(e, 0), 256);
		assert_int_equal(regs(e).gpr[2], 2);
		assert_int_equal(at(e, PA + 56), 1);
		assert_int_equal(at(e, PA + 4096 + 56), 3);
		env_destroy(e);
	}
}

/* The caller takes write tags away while nobody runs: the next store marks the page again. */
static void writes_are_logged_again(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w], PTE_P_ | PTE_W_, PTE_P_ | PTE_W_, VA + 64);
		uint64_t log[ENV_RAM / 4096 / 64] = {0};
		struct engine_slot s = {.gpa = 0, .size = ENV_RAM, .host = e->ram, .dirty = log};
		struct err err;

		assert_int_equal(engine_vm_change_slot(e->vm, &s.gpa, &s, &err), 0);
		PUT(e, LOAD, bad_push);
		for (unsigned int i = 0; i < 3; i++) {
			set_rip(e, LOAD);
			assert_int_equal(env_run_through(e, 0), 256);
			assert_true(log[(PA >> 12) / 64] >> ((PA >> 12) % 64) & 1);
			memset(log, 0, sizeof(log));
			engine_vm_protect(e->vm, 0, ENV_RAM);
		}
		env_destroy(e);
	}
}

/* A log is begun, ended and begun again between two pushes to the same page. */
static void logging_is_switched_on(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w], PTE_P_ | PTE_W_, PTE_P_ | PTE_W_, VA + 64);
		uint64_t log[ENV_RAM / 4096 / 64] = {0};
		struct engine_slot s = {.gpa = 0, .size = ENV_RAM, .host = e->ram};
		struct err err;

		PUT(e, LOAD, bad_push);
		for (unsigned int i = 0; i < 4; i++) {
			set_rip(e, LOAD);
			assert_int_equal(env_run_through(e, 0), 256);
			assert_int_equal(log[(PA >> 12) / 64] >> ((PA >> 12) % 64) & 1, i % 2);
			memset(log, 0, sizeof(log));
			s.dirty = s.dirty ? NULL : log;
			assert_int_equal(engine_vm_change_slot(e->vm, &s.gpa, &s, &err), 0);
		}
		env_destroy(e);
	}
}

SNIPPET(crosses, "push %rax\n push %rbx\n push %rcx\n pop %rdx\n mov 4(%rsp),%rsi\n mov %rdi,-4(%rsp)\n"
		 "call 1f\n jmp 2f\n1: mov (%rsp),%r9\n add $8,%r9\n ret\n2: int3");

static void two_pages_in_turn(void **state)
{
	for (unsigned int w = ENV_WAYS; w-- > 0;)
		for (unsigned int off = 0; off < 24; off += 4) {
			struct env *e = start(env_ways[w], PTE_P_ | PTE_W_, PTE_P_ | PTE_W_, VA + 4096 + off);
			static uint8_t ram[24][3 * 4096];

			PUT(e, LOAD, crosses);
			for (unsigned int g = 0; g < 4; g++)
				set_gpr(e, 0, g, 0x0102030405060708ull * (g + 1));
			/* twice: the second time the pages are known */
			assert_int_equal(env_run_through(e, 0), 256);
			set_rip(e, LOAD);
			set_gpr(e, 0, 4, VA + 4096 + off);
			assert_int_equal(env_run_through(e, 0), 256);
			assert_int_equal(regs(e).gpr[4], VA + 4096 + off - 16);
			if (w == ENV_WAYS - 1)
				memcpy(ram[off], e->ram + PA, sizeof(ram[off]));
			assert_memory_equal(ram[off], e->ram + PA, sizeof(ram[off]));
			env_destroy(e);
		}
}

/* PUSH makes a MOV of the next instruction's constant, in each round another. */
SNIPPET(rewrites, "mov $1,%ecx\n lea 1f+8(%rip),%rbx\n xor %ebp,%ebp\n"
		  "2: mov %rbx,%rsp\n mov %rcx,%rdx\n shl $8,%rdx\n mov $0xbe,%dl\n or %r8,%rdx\n push %rdx\n"
		  "1: mov $0x11111111,%esi\n nop\n nop\n nop\n add %esi,%ebp\n inc %ecx\n cmp $5,%ecx\n jne 2b\n int3");

SNIPPET(goes_there, "push %rax\n jmp *%rdi");

/* Code of the page that the stack is in: from the first on, or after it was the stack's alone. */
static void the_stack_is_code(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++)
		for (unsigned int later = 0; later < 2; later++) {
			struct env *e = start(env_ways[w], PTE_P_ | PTE_W_, PTE_P_, LOAD + 4096 + 2048);

			PUT(e, LOAD, goes_there);
			PUT(e, LOAD + 4096, rewrites);
			if (!later)
				set_rip(e, LOAD + 4096);
			set_gpr(e, 0, 7, LOAD + 4096);
			set_gpr(e, 0, 8, 0x9090900000000000ull); /* NOPs behind the five bytes of the MOV */
			assert_int_equal(env_run_through(e, 0), 256);
			assert_int_equal(regs(e).gpr[5], 1 + 2 + 3 + 4);
			env_destroy(e);
		}
}

SNIPPET(constant, "mov $0x11111111,%esi\n int3\n nop\n nop");

/* Another vCPU makes code of the page that this one pushes to: it sees what is pushed there. */
static void the_stack_is_anothers_code(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = env_create(2);

		for (unsigned int c = 0; c < 2; c++) {
			env_start(e, c, 0, c ? LOAD + 4096 : LOAD, LOAD + 4096 + 2048);
			engine_set_debug(e->cpu[c], ENGINE_DEBUG_BP | env_ways[w]);
		}
		PUT(e, LOAD, bad_push);
		PUT(e, LOAD + 4096, constant);
		assert_int_equal(env_run_through(e, 0), 256); /* the page is the stack's */
		for (unsigned int i = 0; i < 3; i++) {
			uint32_t want = i ? 0x01010101 * i : 0x11111111;
			struct engine_regs r;

			engine_get_regs(e->cpu[1], &r);
			r.rip = LOAD + 4096;
			r.gpr[6] = 0;
			engine_set_regs(e->cpu[1], &r);
			assert_int_equal(env_run_through(e, 1), 256);
			engine_get_regs(e->cpu[1], &r);
			assert_int_equal(r.gpr[6], want);
			set_rip(e, LOAD);
			set_gpr(e, 0, 4, LOAD + 4096 + 8);
			set_gpr(e, 0, 0, 0x9090cc00000000beull | 0x01010101ull * (i + 1) << 8);
			assert_int_equal(env_run_through(e, 0), 256);
		}
		env_destroy(e);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_address_in_no_page),
		cmocka_unit_test(a_page_is_mapped_elsewhere),
		cmocka_unit_test(a_page_loses_its_right),
		cmocka_unit_test(another_space),
		cmocka_unit_test(writes_are_logged_again),
		cmocka_unit_test(logging_is_switched_on),
		cmocka_unit_test(two_pages_in_turn),
		cmocka_unit_test(the_stack_is_code),
		cmocka_unit_test(the_stack_is_anothers_code),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
