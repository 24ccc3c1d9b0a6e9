/* SPDX-License-Identifier: MIT
 *
 * Calls and returns that the host's return stack does not match (docs/ENGINE.md,
 * "Returns"): more calls than returns, more returns than calls, other targets,
 * deep recursion, a return to code or a mode that has changed.
 */
#include "../lib/engine_snippet.h"

#define STACK 0x50000000ull /* top */
#define STACK_PAGES 24

static struct env *start(uint32_t way)
{
	struct env *e = env_create(1);

	for (unsigned int i = 1; i <= STACK_PAGES; i++)
		env_map(e, STACK - 4096 * i, 0x700000 + 4096 * i, PTE_P_ | PTE_W_);
	env_map(e, VA, PA, PTE_P_ | PTE_W_ | PTE_U_);
	env_start(e, 0, 0, LOAD, STACK - 64);
	engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | way);
	return e;
}

static void run(struct env *e)
{
	assert_int_equal(env_run_through(e, 0), 256);
}

/* f(n) = n + f(n - 1), 5000 deep: the return stack overflows many times */
SNIPPET(deep, "mov $5000,%edi\n xor %eax,%eax\n call 1f\n int3\n"
	      "1: test %edi,%edi\n je 2f\n push %rdi\n dec %edi\n call 1b\n pop %rdi\n add %rdi,%rax\n2: ret");

static void deep_recursion(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w]);

		PUT(e, LOAD, deep);
		run(e);
		assert_int_equal(regs(e).gpr[0], 5000 * 5001 / 2);
		assert_int_equal(regs(e).gpr[4], STACK - 64);
		env_destroy(e);
	}
}

/* calls that are never returned from, then returns that were never called */
SNIPPET(uneven, "xor %eax,%eax\n mov $3000,%ecx\n1: call 2f\n2: pop %rdx\n inc %eax\n dec %ecx\n jne 1b\n"
		"mov $3000,%ecx\n lea 4f(%rip),%rsi\n3: push %rsi\n ret\n nop\n4: inc %eax\n dec %ecx\n jne 3b\n int3");

static void calls_and_returns_without_each_other(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w]);

		PUT(e, LOAD, uneven);
		run(e);
		assert_int_equal(regs(e).gpr[0], 6000);
		assert_int_equal(regs(e).gpr[4], STACK - 64);
		env_destroy(e);
	}
}

/*
 * The callee moves its return address on, and returns past its caller; carry and zero must
 * come over, though few ever look.
 */
SNIPPET(elsewhere, "xor %eax,%eax\n xor %ebx,%ebx\n mov $100,%ecx\n"
		   "1: call 2f\n ud2\n adc $0,%eax\n call 3f\n ud2\n4: adc $0,%ebx\n dec %ecx\n jne 1b\n int3\n"
		   "2: addq $2,(%rsp)\n stc\n ret\n"
		   "3: call 5f\n ud2\n5: add $8,%rsp\n addq $2,(%rsp)\n stc\n ret");

static void returns_go_where_the_stack_says(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w]);

		PUT(e, LOAD, elsewhere);
		run(e);
		assert_int_equal(regs(e).gpr[0], 100);
		assert_int_equal(regs(e).gpr[3], 100);
		assert_int_equal(regs(e).gpr[4], STACK - 64);
		env_destroy(e);
	}
}

/* the callee writes the instruction that it returns to */
SNIPPET(rewritten, "lea 2f(%rip),%rsi\n mov $0,%ecx\n1: call 3f\n2: mov $0x11111111,%eax\n inc %ecx\n cmp $4,%ecx\n"
		   "jne 1b\n int3\n3: mov %ecx,1(%rsi)\n ret");

static void code_at_the_return_has_changed(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w]);

		PUT(e, LOAD, rewritten);
		run(e);
		assert_int_equal(regs(e).gpr[0], 3);
		env_destroy(e);
	}
}

/* the callee opens, then closes, what SMAP forbids: the code behind the call is of another mode */
SNIPPET(modes, "mov $50,%ecx\n xor %eax,%eax\n"
	       "1: call 2f\n add (%rdi),%rax\n call 3f\n dec %ecx\n jne 1b\n call 3f\n mov (%rdi),%rbx\n int3\n"
	       "2: stac\n ret\n3: clac\n ret");

static void mode_at_the_return_has_changed(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w]);
		struct env_frame f;

		PUT(e, LOAD, modes);
		set_gpr(e, 0, 4, ENV_KSTACK - 256); /* the frame of the fault is looked at */
		*(uint64_t *)(e->ram + PA) = 7;
		set_gpr(e, 0, 7, VA);
		set_cr4(e, 1u << 21, 0);
		assert_int_equal(env_run_through(e, 0), 14);
		assert_int_equal(regs(e).gpr[0], 350);
		env_frame(e, 0, 14, &f);
		assert_int_equal(f.error, 1);
		env_destroy(e);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(deep_recursion),
		cmocka_unit_test(calls_and_returns_without_each_other),
		cmocka_unit_test(returns_go_where_the_stack_says),
		cmocka_unit_test(code_at_the_return_has_changed),
		cmocka_unit_test(mode_at_the_return_has_changed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
