/* SPDX-License-Identifier: MIT
 *
 * Accesses that share a look-up (docs/ENGINE.md, "Groups"), where sharing could be
 * seen: dirty bits, pages of different kinds, code that the run itself rewrites,
 * tags that a request takes away. engine_diff has the random ones.
 */
#include "../lib/engine_snippet.h"

#include <pthread.h>

#define PAGE 0xffffffffff000ull /* a table's address in an entry that leads to it */

static struct env *start(uint32_t way, uint64_t flags1, uint64_t flags2, uint64_t rdi)
{
	struct env *e = env_create(1);

	env_map(e, VA, PA, flags1);
	env_map(e, VA + 4096, PA + 4096, flags2);
	env_start(e, 0, 0, LOAD, ENV_KSTACK - 256);
	engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | way);
	set_gpr(e, 0, 7, rdi);
	return e;
}

/* ---- what the page tables show ---- */

SNIPPET(read_div_write, "xor %edx,%edx\n mov (%rdi),%rax\n div %rcx\n mov %rax,8(%rdi)\n int3");

/* The look-up for the read is one for the write behind it; it must not be what sets D. */
static void dirty_is_set_by_the_write_only(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++)
		for (uint64_t rcx = 0; rcx < 2; rcx++) {
			struct env *e = start(env_ways[w], PTE_P_ | PTE_W_, PTE_P_, VA + 16);

			PUT(e, LOAD, read_div_write);
			set_gpr(e, 0, 1, rcx);
			assert_int_equal(env_run_through(e, 0), rcx ? 256 : 0);
			assert_true(*env_pte(e, VA) & PTE_A_);
			assert_int_equal(!!(*env_pte(e, VA) & PTE_D_), rcx);
			env_destroy(e);
		}
}

SNIPPET(three_stores, "mov %rax,-16(%rdi)\n mov %rax,-8(%rdi)\n mov %rax,(%rdi)\n int3");

/* A group that crosses into a page without the right: what comes before is done, RIP is exact. */
static void faults_in_the_middle_of_a_group(void **state)
{
	static const uint64_t second[] = {0, PTE_P_};

	for (unsigned int w = 0; w < ENV_WAYS; w++)
		for (unsigned int k = 0; k < 2; k++) {
			struct env *e = start(env_ways[w], PTE_P_ | PTE_W_, second[k], VA + 4096);
			struct engine_sregs s;
			struct env_frame f;

			PUT(e, LOAD, three_stores);
			set_gpr(e, 0, 0, 0x1122334455667788ull);
			assert_int_equal(env_run_through(e, 0), 14);
			env_frame(e, 0, 14, &f);
			engine_get_sregs(e->cpu[0], &s);
			assert_int_equal(f.rip, LOAD + 8);
			assert_int_equal(f.error, k ? 3 : 2);
			assert_int_equal(s.cr2, VA + 4096);
			assert_int_equal(*(uint64_t *)(e->ram + PA + 4096 - 8), 0x1122334455667788ull);
			assert_int_equal(*(uint64_t *)(e->ram + PA + 4096 - 16), 0x1122334455667788ull);
			env_destroy(e);
		}
}

SNIPPET(half_device, "mov %rax,-8(%rdi)\n mov (%rdi),%rbx\n mov -8(%rdi),%rcx\n mov %eax,4(%rdi)\n int3");

static void second_page_is_a_device(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w], PTE_P_ | PTE_W_, PTE_P_ | PTE_W_, VA + 4096);

		*env_pte(e, VA + 4096) = 0xfee00000u | PTE_P_ | PTE_W_;
		e->mmio.read_value = 0x77;
		PUT(e, LOAD, half_device);
		set_gpr(e, 0, 0, 0x1234567890ull);
		assert_int_equal(env_run_through(e, 0), 256);
		assert_int_equal(regs(e).gpr[3], 0x77);
		assert_int_equal(regs(e).gpr[1], 0x1234567890ull);
		assert_int_equal(e->mmio.n, 2);
		assert_int_equal(e->mmio.a[0].addr, 0xfee00000u);
		assert_int_equal(e->mmio.a[1].addr, 0xfee00004u);
		assert_true(e->mmio.a[1].write);
		assert_int_equal(e->mmio.a[1].data, 0x34567890u);
		env_destroy(e);
	}
}

/* ---- code ---- */

/* The second store of the run makes a MOV of the next instruction's constant. */
SNIPPET(rewrites_itself,
	"lea 1f(%rip),%rdi\n mov $0x90909090,%eax\n mov $0,%ecx\n"
	"2: mov (%rdi),%ebx\n mov %eax,4(%rdi)\n mov %edx,1(%rdi)\n"
	"1: mov $0x11111111,%esi\n nop\n nop\n nop\n nop\n inc %ecx\n mov $0x33333333,%edx\n cmp $3,%ecx\n jne 2b\n int3");

static void a_run_rewrites_what_follows(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w], PTE_P_ | PTE_W_, PTE_P_, 0);

		PUT(e, LOAD, rewrites_itself);
		set_gpr(e, 0, 2, 0x22222222);
		assert_int_equal(env_run_through(e, 0), 256);
		assert_int_equal(regs(e).gpr[6], 0x33333333);
		assert_int_equal(regs(e).gpr[1], 3);
		env_destroy(e);
	}
}

/* ---- tags that go away ---- */

SNIPPET(remap, "mov (%rdi),%rax\n mov 8(%rdi),%rbx\n mov %rcx,(%rsi)\n invlpg (%rdi)\n"
	       "mov (%rdi),%rdx\n mov 8(%rdi),%rbp\n int3");

static void invlpg_between_two_runs(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w], PTE_P_ | PTE_W_, PTE_P_ | PTE_W_, VA);
		uint64_t pte = (uint64_t)((uint8_t *)env_pte(e, VA) - e->ram);

		env_map(e, VA + 8192, pte & ~4095ull, PTE_P_ | PTE_W_);
		for (unsigned int i = 0; i < 2; i++) {
			((uint64_t *)(e->ram + PA))[i] = 10 + i;
			((uint64_t *)(e->ram + PA + 4096))[i] = 20 + i;
		}
		PUT(e, LOAD, remap);
		set_gpr(e, 0, 6, VA + 8192 + (pte & 4095));
		set_gpr(e, 0, 1, (PA + 4096) | PTE_P_ | PTE_W_);
		assert_int_equal(env_run_through(e, 0), 256);
		assert_int_equal(regs(e).gpr[0], 10);
		assert_int_equal(regs(e).gpr[3], 11);
		assert_int_equal(regs(e).gpr[2], 20);
		assert_int_equal(regs(e).gpr[5], 21);
		env_destroy(e);
	}
}

SNIPPET(user_window, "stac\n mov (%rdi),%rax\n mov 8(%rdi),%rbx\n clac\n mov 16(%rdi),%rcx\n int3");

/* AC decides what a supervisor may touch: no group reaches over CLAC. */
static void smap_window_ends_with_clac(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w], PTE_P_ | PTE_W_ | PTE_U_, PTE_P_, VA);
		struct env_frame f;

		PUT(e, LOAD, user_window);
		set_cr4(e, 1u << 21, 0);
		assert_int_equal(env_run_through(e, 0), 14);
		env_frame(e, 0, 14, &f);
		assert_int_equal(f.rip, LOAD + 3 + 3 + 4 + 3);
		assert_int_equal(f.error, 1);
		env_destroy(e);
	}
}

/* ---- loops ---- */

SNIPPET(count, "1: mov (%rdi),%rax\n inc %rax\n mov %rax,(%rdi)\n add $1,%rcx\n jmp 2f\n"
	       "2: mov (%rdi),%rax\n inc %rax\n mov %rax,(%rdi)\n add $1,%rcx\n cmp %rdx,%rcx\n jne 2b\n int3");

static void *kick_when_counting(void *arg)
{
	struct env *e = arg;
	volatile uint64_t *n = (uint64_t *)(e->ram + PA);

	while (*n < 1000000)
		;
	engine_vcpu_kick(e->cpu[0], ENGINE_KICK_EXIT);
	return NULL;
}

static void run_until_kicked(struct env *e)
{
	struct engine_exit x;
	pthread_t t;

	set_gpr(e, 0, 2, ~0ull);
	set_gpr(e, 0, 1, 0);
	assert_int_equal(pthread_create(&t, NULL, kick_when_counting, e), 0);
	assert_int_equal(engine_run(e->cpu[0], &x), 0);
	assert_int_equal(x.reason, ENGINE_EXIT_INTR);
	assert_int_equal(pthread_join(t, NULL), 0);
}

/* A loop whose look-up is done once still sees the attention word in every round. */
static void a_kick_ends_a_loop_without_look_ups(void **state)
{
	struct env *e = start(0, PTE_P_ | PTE_W_, PTE_P_, VA);

	PUT(e, LOAD, count);
	run_until_kicked(e);
	assert_int_equal(regs(e).gpr[1], *(uint64_t *)(e->ram + PA));
	env_destroy(e);
}

SNIPPET(walk, "jmp 1f\n1: mov %rcx,(%rdi)\n mov %rcx,(%rsi)\n add $8,%rdi\n add $1,%rcx\n cmp %rdx,%rcx\n jne 1b\n int3");

/* One that moves sees it at the end of its page; 511 GiB of pages are the same one. */
static void a_kick_ends_a_loop_through_pages(void **state)
{
	struct env *e = start(0, PTE_P_ | PTE_W_, PTE_P_, VA);
	struct engine_sregs s;
	uint64_t *t;

	env_map(e, VA, PA + 4096, PTE_P_ | PTE_W_);
	env_map(e, 0x8000000000ull, PA, PTE_P_ | PTE_W_);
	engine_get_sregs(e->cpu[0], &s);
	t = (uint64_t *)(e->ram + (s.cr3 & PAGE));
	t = (uint64_t *)(e->ram + (t[0] & PAGE));
	for (unsigned int i = 2; i < 512; i++)
		t[i] = t[1];
	t = (uint64_t *)(e->ram + (t[1] & PAGE));
	for (unsigned int i = 1; i < 512; i++)
		t[i] = t[0];
	t = (uint64_t *)(e->ram + (t[0] & PAGE));
	for (unsigned int i = 1; i < 512; i++)
		t[i] = t[0];
	PUT(e, LOAD, walk);
	set_gpr(e, 0, 6, 0x8000000000ull);
	run_until_kicked(e);
	/* Or between the stores, where the first one's new page took the second's place in the TLB. */
	assert_true(regs(e).rip == LOAD + 2 || regs(e).rip == LOAD + 5);
	assert_int_equal(regs(e).gpr[1], *(uint64_t *)(e->ram + PA) + 1);
	assert_int_equal(regs(e).gpr[7], VA + 8 * regs(e).gpr[1]);
	env_destroy(e);
}

SNIPPET(fill, "1: mov %rax,(%rdi)\n add $8,%rdi\n dec %ecx\n jne 1b\n int3");

/* Upwards out of a page that can be written into one that cannot: exactly there. */
static void a_loop_faults_at_the_page(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w], PTE_P_ | PTE_W_, PTE_P_, VA + 4);
		struct env_frame f;

		PUT(e, LOAD, fill);
		set_gpr(e, 0, 0, 0x5555555555555555ull);
		set_gpr(e, 0, 1, 4000);
		assert_int_equal(env_run_through(e, 0), 14);
		env_frame(e, 0, 14, &f);
		assert_int_equal(f.rip, LOAD);
		assert_int_equal(f.error, 3);
		/* the last one would lie across the two pages */
		assert_int_equal(regs(e).gpr[7], VA + 4092);
		assert_int_equal(regs(e).gpr[1], 4000 - 511);
		assert_int_equal(e->ram[PA + 4091], 0x55);
		assert_int_equal(e->ram[PA + 4092], 0);
		env_destroy(e);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dirty_is_set_by_the_write_only),
		cmocka_unit_test(faults_in_the_middle_of_a_group),
		cmocka_unit_test(second_page_is_a_device),
		cmocka_unit_test(a_run_rewrites_what_follows),
		cmocka_unit_test(invlpg_between_two_runs),
		cmocka_unit_test(smap_window_ends_with_clac),
		cmocka_unit_test(a_kick_ends_a_loop_without_look_ups),
		cmocka_unit_test(a_kick_ends_a_loop_through_pages),
		cmocka_unit_test(a_loop_faults_at_the_page),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
