/* SPDX-License-Identifier: MIT
 *
 * Instructions that lie across the end of a page: a block of their own, made from
 * both pages (docs/ENGINE.md, "Blocks"). What happens to the second page counts as
 * much as what happens to the first.
 */
#include <pthread.h>

#include "../lib/engine_snippet.h"

#define FIRST  VA	   /* linear; the page behind it is SECOND */
#define SECOND (VA + 4096)
#define PA1    PA
#define PA2    (PA + 0x10000)
#define PA3    (PA + 0x20000) /* another second page */

/* A user's page of code, that the kernel may write. */
#define RX (PTE_P_ | PTE_W_)

static struct env *start(uint32_t way, unsigned int n_cpu)
{
	struct env *e = env_create(n_cpu);

	env_map(e, FIRST, PA1, RX);
	env_map(e, SECOND, PA2, RX);
	env_map(e, SECOND + 4096, PA2 + 4096, RX);
	env_start(e, 0, 0, LOAD, ENV_KSTACK - 256);
	engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | way);
	return e;
}

/* The program's first `before` bytes lie in the first page, the others in the second. */
static uint64_t lay(struct env *e, const uint8_t *from, const uint8_t *to, unsigned int before)
{
	size_t n = (size_t)(to - from);

	memcpy(e->ram + PA1 + 4096 - before, from, before);
	memcpy(e->ram + PA2, from + before, n - before);
	engine_vm_code_changed(e->vm, PA1, 4096);
	engine_vm_code_changed(e->vm, PA2, 4096);
	return FIRST + 4096 - before;
}
#define LAY(e, name, before) lay(e, sn_##name, sn_##name##_end, before)

/* Flags over every edge, memory, stack, jumps of all kinds; the page ends at each byte in turn. */
SNIPPET(all, "mov $200,%ecx\n xor %eax,%eax\n xor %ebx,%ebx\n xor %r9d,%r9d\n"
	     "1: stc\n adc $0x11223344,%r9\n cmpq $8,0f(%rip)\n adc $0,%rbx\n push %r9\n lea 8(%rax,%rcx,2),%rdx\n"
	     "call 3f\n pop %r9\n cmp $100,%ecx\n ja 4f\n add $0x10000000,%rax\n"
	     "4: setnz %sil\n movzx %sil,%esi\n add %rsi,%rax\n jmp 5f\n ud2\n"
	     "5: dec %ecx\n jnz 1b\n int3\n"
	     "3: stc\n lea 6f(%rip),%rdi\n push %rdi\n adc $1,%rax\n call *(%rsp)\n pop %rdi\n ret\n"
	     "6: add %rdx,%rbx\n ret\n .balign 8\n0: .quad 7");

static void any_byte_may_be_the_last_of_its_page(void **state)
{
	struct engine_regs want = {0};
	size_t n = (size_t)(sn_all_end - sn_all);

	for (unsigned int w = 0; w < ENV_WAYS; w++)
		for (unsigned int before = 1; before < n - 8; before++) {
			struct env *e = start(env_ways[w], 1);
			struct engine_stats s;
			struct engine_regs r;
			uint64_t at = LAY(e, all, before);

			/* RSI, RDI and RDX hold addresses or what is left of them */
			set_rip(e, at);
			set_flags(e, 0, 2);
			assert_int_equal(env_run_through(e, 0), 256);
			r = regs(e);
			if (!want.gpr[0])
				want = r;
			for (unsigned int g = 0; g < 16; g++)
				if (g != 7)
					assert_int_equal(r.gpr[g], want.gpr[g]);
			assert_int_equal(r.rflags, want.rflags);
			engine_get_stats(e->cpu[0], &s);
			if (!env_ways[w]) /* translated, whatever it is */
				assert_true(s.bounced < 100);
			env_destroy(e);
		}
}

/* mov $imm32, %eax with two bytes of the immediate in the second page, and a jump to itself */
SNIPPET(imm, "mov $0x11110001,%eax\n ret");
/* call it, map the other page, invalidate, call it again; %rsi: PTE, %rbx, %rdx: its two values */
SNIPPET(remap, "mov $50,%ecx\n xor %ebp,%ebp\n xor %r8d,%r8d\n"
	       "1: mov %rbx,(%rsi)\n invlpg (%rdi)\n call *%r12\n add %rax,%rbp\n"
	       "mov %rdx,(%rsi)\n invlpg (%rdi)\n call *%r12\n add %rax,%r8\n dec %ecx\n jne 1b\n int3");

static void the_second_page_may_be_mapped_elsewhere(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w], 1);
		uint64_t at = LAY(e, imm, 3), pte = (uint64_t)((uint8_t *)env_pte(e, SECOND) - e->ram);
		struct engine_stats s;

		memcpy(e->ram + PA3, "\x22\x22\xc3", 3);
		engine_vm_code_changed(e->vm, PA3, 4096);
		PUT(e, LOAD, remap);
		env_map(e, 0x50000000, pte & ~4095ull, RX);
		set_gpr(e, 0, 6, 0x50000000 | (pte & 4095));
		set_gpr(e, 0, 3, PA2 | RX);
		set_gpr(e, 0, 2, PA3 | RX);
		set_gpr(e, 0, 7, SECOND);
		set_gpr(e, 0, 12, at);
		assert_int_equal(env_run_through(e, 0), 256);
		assert_int_equal(regs(e).gpr[5], 50 * 0x11110001ull);
		assert_int_equal(regs(e).gpr[8], 50 * 0x22220001ull);
		engine_get_stats(e->cpu[0], &s);
		if (!env_ways[w]) /* two blocks, each found again: not one made anew each time */
			assert_true(s.blocks < 40);
		env_destroy(e);
	}
}

/* %rdi: the byte of the immediate that is counted up; it is the instruction's that runs next */
SNIPPET(patch, "mov $100,%ecx\n xor %ebp,%ebp\n1: incb (%rdi)\n call *%r12\n movzbl %al,%edx\n shr $16,%eax\n"
	       "movzbl %al,%eax\n add %edx,%eax\n add %rax,%rbp\n dec %ecx\n jne 1b\n int3");

static void stores_to_either_page_are_seen(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++)
		for (int second = 0; second < 2; second++) {
			struct env *e = start(env_ways[w], 1);
			uint64_t at = LAY(e, imm, 3), sum = 0;

			PUT(e, LOAD, patch);
			set_gpr(e, 0, 7, second ? SECOND : at + 1);
			set_gpr(e, 0, 12, at);
			for (unsigned int i = 1; i <= 100; i++)
				sum += (uint8_t)(1 + (second ? 0 : i)) + (uint8_t)(0x11 + (second ? i : 0));
			assert_int_equal(env_run_through(e, 0), 256);
			assert_int_equal(regs(e).gpr[5], sum);
			env_destroy(e);
		}
}

/* what somebody outside writes counts when the page is mapped afresh, or when he says so */
static void changes_from_outside_are_seen(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w], 1);
		uint64_t at = LAY(e, imm, 3);

		memcpy(e->ram + PA2 + 2, "\xcc", 1);
		for (unsigned int i = 0; i < 6; i++) {
			e->ram[PA2] = (uint8_t)i;
			if (i & 1)
				engine_vm_code_changed(e->vm, PA2, 1);
			else
				set_cr4(e, i & 2 ? 1u << 7 : 0, i & 2 ? 0 : 1u << 7); /* CR4.PGE: flushes */
			set_rip(e, at);
			assert_int_equal(env_run_through(e, 0), 256);
			assert_int_equal(regs(e).gpr[0], 0x11000001u | i << 16);
		}
		env_destroy(e);
	}
}

static void faults_name_the_second_page(void **state)
{
	static const struct {
		uint64_t pte;
		unsigned int cpl, error;
	} of[] = {
		{0, 0, 0x10}, {0, 3, 0x14}, {PTE_P_ | PTE_U_ | PTE_NX_, 0, 0x11}, {PTE_P_ | PTE_U_ | PTE_NX_, 3, 0x15},
		{PTE_P_, 3, 0x15},
	};

	for (unsigned int w = 0; w < ENV_WAYS; w++)
		for (unsigned int i = 0; i < sizeof(of) / sizeof(of[0]); i++)
			for (int warm = 0; warm < 2; warm++) {
				struct env *e = start(env_ways[w], 1);
				struct engine_sregs s;
				struct env_frame f;
				uint64_t at = LAY(e, imm, 3);

				memcpy(e->ram + PA2 + 2, "\xcc", 1);
				env_map(e, FIRST, PA1, RX | PTE_U_);
				env_map(e, SECOND, PA2, RX | PTE_U_);
				env_map(e, VA + 0x10000, PA + 0x8000, RX | PTE_U_);
				env_start(e, 0, of[i].cpl, at, of[i].cpl ? VA + 0x11000 : ENV_KSTACK - 256);
				if (warm) /* the block is there when the page is taken away */
					assert_int_equal(env_run_through(e, 0), 256);
				env_map(e, SECOND, PA2, of[i].pte);
				env_start(e, 0, of[i].cpl, at, of[i].cpl ? VA + 0x11000 : ENV_KSTACK - 256);
				engine_get_sregs(e->cpu[0], &s);
				s.efer |= 1u << 11; /* NXE */
				assert_int_equal(engine_set_sregs(e->cpu[0], &s), 0);
				assert_int_equal(env_run_through(e, 0), 14);
				env_frame(e, 0, 14, &f);
				assert_int_equal(f.rip, at);
				assert_int_equal(f.error, of[i].error);
				engine_get_sregs(e->cpu[0], &s);
				assert_int_equal(s.cr2, SECOND);
				env_destroy(e);
			}
}

/* a return to what is no address, and a call: the fault is the branch's, at its first byte */
SNIPPET(bad_ret, "ret $16");
SNIPPET(bad_call, "call *0x12345678(%rax)");

static void bad_branches_fault_at_themselves(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++)
		for (unsigned int k = 0; k < 4; k++) {
			struct env *e = start(env_ways[w], 1);
			uint64_t at = k < 2 ? LAY(e, bad_ret, 1 + k) : LAY(e, bad_call, k - 1), rsp;
			struct env_frame f;

			set_rip(e, at);
			rsp = regs(e).gpr[4];
			*(uint64_t *)(e->ram + rsp) = 1ull << 63;
			*(uint64_t *)(e->ram + LOAD) = 1ull << 63;
			set_gpr(e, 0, 0, LOAD - 0x12345678ull);
			assert_int_equal(env_run_through(e, 0), 13);
			env_frame(e, 0, 13, &f);
			assert_int_equal(f.rip, at);
			assert_int_equal(f.rsp, rsp);
			env_destroy(e);
		}
}

/* The same bytes were decoded elsewhere, all in one page, a moment ago: here only some of them are. */
SNIPPET(whole, "mov $0x77770001,%eax\n call *%r12\n int3");

static void what_is_known_is_no_more_than_is_there(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++)
		for (unsigned int before = 1; before < 5; before++) {
			struct env *e = start(env_ways[w], 1);

			PUT(e, LOAD, whole);
			set_gpr(e, 0, 12, LAY(e, imm, before));
			/* its rest is what comes next in memory, but not what is mapped next */
			memcpy(e->ram + PA1 + 4096 - before, sn_whole, 5);
			assert_int_equal(env_run_through(e, 0), 256);
			assert_int_equal(regs(e).gpr[0], before == 4 ? 0x11770001u : 0x11110001u);
			env_destroy(e);
		}
}

/* no memory behind the second page: where it is said to be, and no block is made */
static void the_second_page_may_be_nothing(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w], 1);
		struct engine_exit x;
		uint64_t at = LAY(e, imm, 3);

		env_map(e, SECOND, 0xe0000000u, RX);
		set_rip(e, at);
		assert_int_equal(env_run(e, 0, &x), -(int)ENGINE_EXIT_NO_CODE - 1);
		assert_int_equal(regs(e).rip, at);
		env_destroy(e);
	}
}

/* Another vCPU counts the second page's byte up; each value that it was told of is gone for good. */
SNIPPET(follow, "1: call *%r12\n shr $16,%eax\n movzbl %al,%eax\n mov %eax,(%rsi)\n cmp $0xee,%al\n jne 1b\n int3");
SNIPPET(lead, "mov $0x12,%ecx\n1: mov %cl,(%rdi)\n2: pause\n cmp %cl,(%rsi)\n jne 2b\n inc %ecx\n cmp $0xef,%ecx\n"
	      "jne 1b\n int3");

static void *follower(void *p)
{
	struct env *e = p;
	struct engine_exit x;

	return (void *)(intptr_t)env_run(e, 0, &x);
}

static void stores_of_another_vcpu_are_seen(void **state)
{
	struct env *e = start(0, 2);
	uint64_t at = LAY(e, imm, 3);
	struct engine_exit x;
	pthread_t t;
	void *r;

	PUT(e, LOAD, follow);
	PUT(e, LOAD + 4096, lead);
	env_map(e, 0x50000000, PA + 0x30000, RX);
	set_gpr(e, 0, 12, at);
	set_gpr(e, 0, 6, 0x50000000);
	env_start(e, 1, 0, LOAD + 4096, ENV_KSTACK - 1024);
	engine_set_debug(e->cpu[1], ENGINE_DEBUG_BP);
	set_gpr(e, 1, 6, 0x50000000);
	set_gpr(e, 1, 7, SECOND);
	assert_int_equal(pthread_create(&t, NULL, follower, e), 0);
	assert_int_equal(env_run(e, 1, &x), 256);
	assert_int_equal(pthread_join(t, &r), 0);
	assert_int_equal((intptr_t)r, 256);
	env_destroy(e);
}

/*
 * More such blocks than there is memory for, under many addresses, while stores to their pages
 * take some of them away: what is forgotten is forgotten on both sides.
 */
SNIPPET(walk, "1: mov %rbx,%rdi\n mov $300,%ecx\n2: call *%rdi\n add %rax,%rbp\n test $7,%cl\n jne 3f\n"
	      "movb $0x11,3(%rdi)\n3: add $4096,%rdi\n dec %ecx\n jne 2b\n dec %edx\n jne 1b\n int3");

static void blocks_are_forgotten_on_both_sides(void **state)
{
	struct env *e = env_create_small(1, 1);
	struct engine_stats s;

	for (unsigned int i = 0; i <= 300; i++) {
		uint8_t *page = e->ram + 0x800000 + 4096 * i;

		memcpy(page, "\x11\x11\xc3", 3);
		memcpy(page + 4096 - 3, "\xb8\x01\x00", 3); /* mov $0x11110001, %eax; ret in the next */
		for (unsigned int k = 0; k < 40; k++)
			env_map(e, VA + 4096 * (320 * k + i), 0x800000 + 4096 * i, RX);
	}
	PUT(e, LOAD, walk);
	env_start(e, 0, 0, LOAD, ENV_KSTACK - 256);
	engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP);
	for (unsigned int k = 0; k < 40; k++) {
		set_rip(e, LOAD);
		set_gpr(e, 0, 2, 3);
		set_gpr(e, 0, 5, 0);
		set_gpr(e, 0, 3, VA + 4096 * (320 * k + 1) - 3);
		assert_int_equal(env_run_through(e, 0), 256);
		assert_int_equal(regs(e).gpr[5], 900 * 0x11110001ull);
	}
	engine_get_stats(e->cpu[0], &s);
	assert_true(s.evictions && s.dropped);
	env_destroy(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_byte_may_be_the_last_of_its_page),
		cmocka_unit_test(the_second_page_may_be_mapped_elsewhere),
		cmocka_unit_test(stores_to_either_page_are_seen),
		cmocka_unit_test(changes_from_outside_are_seen),
		cmocka_unit_test(faults_name_the_second_page),
		cmocka_unit_test(bad_branches_fault_at_themselves),
		cmocka_unit_test(what_is_known_is_no_more_than_is_there),
		cmocka_unit_test(the_second_page_may_be_nothing),
		cmocka_unit_test(stores_of_another_vcpu_are_seen),
		cmocka_unit_test(blocks_are_forgotten_on_both_sides),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
