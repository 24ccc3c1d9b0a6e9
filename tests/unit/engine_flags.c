/* SPDX-License-Identifier: MIT
 *
 * Arithmetic flags over the end of a block (docs/ENGINE.md, "Flags"): what the code
 * behind it reads is kept, and a block that was made knowing that code goes when the
 * code does. engine_diff has the random ones.
 */
#include "../lib/engine_snippet.h"

/* RCX < RDX, so CMP makes a carry; RBP rounds; a word of memory at RDI. */
static struct env *start(uint32_t way)
{
	struct env *e = env_create(1);

	env_map(e, VA, PA, PTE_P_ | PTE_W_);
	env_start(e, 0, 0, LOAD, ENV_KSTACK - 256);
	engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | way);
	set_gpr(e, 0, 7, VA);
	set_gpr(e, 0, 1, 0);
	set_gpr(e, 0, 2, 1);
	set_gpr(e, 0, 5, 2);
	set_gpr(e, 0, 3, 0);
	return e;
}

SNIPPET(by_jump, "cmp %edx,%ecx\n mov %rax,(%rdi)\n jmp 1f\n nop\n1: mov %rax,8(%rdi)\n setc %bl\n int3");
SNIPPET(by_branch, "cmp %edx,%ecx\n mov %rax,(%rdi)\n dec %ebp\n jnz 1f\n xor %eax,%eax\n int3\n"
		   "1: mov %rax,8(%rdi)\n setc %bl\n int3");
SNIPPET(behind_branch, "cmp %edx,%ecx\n mov %rax,(%rdi)\n dec %ebp\n jz 1f\n mov %rax,8(%rdi)\n setc %bl\n int3\n"
		       "1: xor %eax,%eax\n int3");
SNIPPET(by_two_jumps, "cmp %edx,%ecx\n mov %rax,(%rdi)\n jmp 1f\n2: inc %esi\n jns 3f\n xor %eax,%eax\n int3\n"
		      "1: jmp 2b\n 3: setc %bl\n int3");
SNIPPET(by_call, "cmp %edx,%ecx\n mov %rax,(%rdi)\n call 1f\n setc %bl\n int3\n 1: inc %esi\n mov %rax,8(%rdi)\n ret");

static void flags_reach_who_reads_them(void **state)
{
	static const struct { const uint8_t *from, *to; } of[] = {
		{sn_by_jump, sn_by_jump_end}, {sn_by_branch, sn_by_branch_end},
		{sn_behind_branch, sn_behind_branch_end}, {sn_by_two_jumps, sn_by_two_jumps_end},
		{sn_by_call, sn_by_call_end},
	};

	for (unsigned int w = 0; w < ENV_WAYS; w++)
		for (unsigned int i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
			struct env *e = start(env_ways[w]);

			put(e, LOAD, of[i].from, of[i].to);
			set_gpr(e, 0, 6, 0);
			assert_int_equal(env_run_through(e, 0), 256);
			assert_int_equal(regs(e).gpr[3], 1);
			env_destroy(e);
		}
}

SNIPPET(ends_page, "cmp %edx,%ecx\n mov %rax,(%rdi)\n setc %bl\n int3");

/* What is in the next page nobody has looked at. */
static void flags_reach_the_next_page(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w]);

		PUT(e, LOAD + 4096 - 5, ends_page);
		set_rip(e, LOAD + 4096 - 5);
		assert_int_equal(env_run_through(e, 0), 256);
		assert_int_equal(regs(e).gpr[3], 1);
		env_destroy(e);
	}
}

/*
 * The branch is not taken in the first round, and where it leads wants no flags then.
 * There the first round writes SETC, far from any code that has run.
 */
SNIPPET(written_ahead,
	"2: cmp %edx,%ecx\n mov %rax,(%rdi)\n dec %ebp\n jz 1f\n"
	"   movl $0x90c3920f,1f(%rip)\n jmp 2b\n"
	".fill 256,1,0x90\n1: xor %ebx,%ebx\n nop\n nop\n int3");

static void code_ahead_is_rewritten(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w]);

		PUT(e, LOAD, written_ahead);
		assert_int_equal(env_run_through(e, 0), 256);
		assert_int_equal(regs(e).gpr[3], 1);
		env_destroy(e);
	}
}

/* The same by DMA, between two runs that stop at an INT3: seen when the page is mapped again. */
static void code_ahead_is_another(void **state)
{
	const size_t store = 13, ahead = (size_t)(sn_written_ahead_end - sn_written_ahead) - 5;
	struct env *e = start(0);
	struct engine_sregs s;

	PUT(e, LOAD, written_ahead);
	assert_int_equal(e->ram[LOAD + store], 0xc7);
	assert_int_equal(e->ram[LOAD + ahead], 0x31);
	memcpy(e->ram + LOAD + store, "\x31\xc0\xcc", 3); /* xor eax, eax; int3 */
	assert_int_equal(env_run_through(e, 0), 256);
	assert_int_equal(regs(e).rip, LOAD + store + 2);
	memcpy(e->ram + LOAD + ahead, "\x0f\x92\xc3", 3);
	engine_get_sregs(e->cpu[0], &s);
	assert_int_equal(engine_set_sregs(e->cpu[0], &s), 0);
	set_rip(e, LOAD);
	assert_int_equal(env_run_through(e, 0), 256);
	assert_int_equal(regs(e).gpr[3], 1);
	env_destroy(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(flags_reach_who_reads_them),
		cmocka_unit_test(flags_reach_the_next_page),
		cmocka_unit_test(code_ahead_is_rewritten),
		cmocka_unit_test(code_ahead_is_another),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
