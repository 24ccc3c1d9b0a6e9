/* SPDX-License-Identifier: MIT
 *
 * Memory for translated code: it stays within the VM's budget, what had to go is
 * translated again, and vCPUs come to equal shares of it.
 */
#include "../lib/engine_snippet.h"

#define CODE	0x400000u /* functions, STRIDE apart */
#define STRIDE	32u
#define SPAN	(512u << 10) /* what code memory is taken by */

/* Calls every function from RCX to RDX. */
SNIPPET(caller, "1: call *%rcx\nadd $32,%rcx\ncmp %rdx,%rcx\njb 1b\nint3");
SNIPPET(function, "inc %rax\nret");

/* Enough of them to fill more than any vCPU here may have. */
static const unsigned int n = 40000;

static struct env *many_functions(unsigned int n_cpu, uint32_t code_mib)
{
	struct env *e = env_create_small(n_cpu, code_mib);

	for (uint64_t p = CODE; p < CODE + n * STRIDE; p += 4096)
		env_map(e, p, p, PTE_P_ | PTE_W_);
	for (unsigned int i = 0; i < n; i++)
		PUT(e, CODE + i * STRIDE, function);
	PUT(e, LOAD, caller);
	return e;
}

static void call_all(struct env *e, unsigned int cpu)
{
	struct engine_exit x;
	struct engine_regs r;

	env_start(e, cpu, 0, LOAD, ENV_KSTACK - cpu * 0x800);
	set_gpr(e, cpu, 0, 0);
	set_gpr(e, cpu, 1, CODE);
	set_gpr(e, cpu, 2, CODE + n * STRIDE);
	assert_int_equal(env_run(e, cpu, &x), 256);
	engine_get_regs(e->cpu[cpu], &r);
	assert_int_equal(r.gpr[0], n);
}

static struct engine_stats stats_of(struct env *e, unsigned int cpu)
{
	struct engine_stats s;

	engine_get_stats(e->cpu[cpu], &s);
	return s;
}

static void code_stays_within_its_budget(void **state)
{
	struct env *small = many_functions(1, 1), *large = many_functions(1, 0);

	for (unsigned int round = 0; round < 2; round++) {
		call_all(small, 0);
		call_all(large, 0);
	}
	/* all were kept, or all had to be made again */
	assert_true(stats_of(large, 0).blocks < n + 100);
	assert_int_equal(stats_of(large, 0).evictions, 0);
	assert_true(stats_of(small, 0).blocks > 2 * n);
	assert_true(stats_of(small, 0).evictions > 1);
	assert_true(stats_of(small, 0).code_bytes > 4 * SPAN);
	assert_int_equal(stats_of(small, 0).code_held, 4 * SPAN);
	env_destroy(small);
	env_destroy(large);
}

/* Pages with all, some and none of their blocks evicted are changed by somebody outside. */
static void evicted_pages_notice_changes(void **state)
{
	struct env *e = many_functions(1, 1);
	struct engine_exit x;

	call_all(e, 0);
	/* add $2,%rax; ret */
	for (unsigned int i = 1; i < n; i += 2)
		memcpy(e->ram + CODE + i * STRIDE, "\x48\x83\xc0\x02\xc3", 5);
	/* nobody is told; the guest maps its pages afresh */
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	set_gpr(e, 0, 0, 0);
	set_gpr(e, 0, 1, CODE);
	set_gpr(e, 0, 2, CODE + n * STRIDE);
	assert_int_equal(env_run(e, 0, &x), 256);
	assert_int_equal(regs(e).gpr[0], n + n / 2);
	env_destroy(e);
}

/* What a sum of known constants would let pass: a factor of nought makes its fellow count for nothing. */
static void pages_cannot_be_made_alike(void **state)
{
	static const uint64_t k[4] = {0x9e3779b97f4a7c15ull, 0xc2b2ae3d27d4eb4full, 0x165667b19e3779f9ull,
				      0xd6e8feb86659fd93ull};
	struct env *e = env_create(1);
	struct engine_exit x;

	env_map(e, CODE, CODE, PTE_P_ | PTE_W_);
	for (unsigned int i = 0; i < 4; i++)
		memcpy(e->ram + CODE + 16 * i, &k[i], 8);
	for (unsigned int made = 1; made < 3; made++) {
		/* mov $made,%eax; int3, in the eight bytes between the constants */
		memcpy(e->ram + CODE + 8, (uint8_t[]){0xb8, (uint8_t)made, 0, 0, 0, 0xcc, 0, 0}, 8);
		env_start(e, 0, 0, CODE + 8, ENV_KSTACK);
		assert_int_equal(env_run(e, 0, &x), 256);
		assert_int_equal(regs(e).gpr[0], made);
	}
	env_destroy(e);
}

static void vcpus_come_to_equal_shares(void **state)
{
	struct env *e = many_functions(2, 8); /* 10 spans: 4 each, 2 to share */

	call_all(e, 0);
	assert_int_equal(stats_of(e, 0).code_held, 6 * SPAN);
	for (unsigned int round = 0; round < 3; round++) {
		call_all(e, 1);
		call_all(e, 0);
		assert_true(stats_of(e, 0).code_held + stats_of(e, 1).code_held <= 10 * SPAN);
	}
	assert_int_equal(stats_of(e, 0).code_held, 5 * SPAN);
	assert_int_equal(stats_of(e, 1).code_held, 5 * SPAN);
	env_destroy(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(code_stays_within_its_budget),
		cmocka_unit_test(evicted_pages_notice_changes),
		cmocka_unit_test(pages_cannot_be_made_alike),
		cmocka_unit_test(vcpus_come_to_equal_shares),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
