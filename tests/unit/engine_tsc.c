/* SPDX-License-Identifier: MIT
 *
 * The time stamp counter at another rate than the host's (engine_set_tsc_ratio()): whatever
 * reads it, to the cycle.
 */
#include "../lib/engine_snippet.h"

#include <x86intrin.h>

/* rbx, r12, r13: the counter by each of the ways to read it; esi: CF, which they leave alone; ebp: TSC_AUX */
SNIPPET(ways, "stc\n rdtsc\n setc %sil\n movzx %sil,%esi\n shl $32,%rdx\n or %rdx,%rax\n mov %rax,%rbx\n"
	      "rdtscp\n mov %ecx,%ebp\n shl $32,%rdx\n or %rdx,%rax\n mov %rax,%r12\n"
	      "mov $0x10,%ecx\n rdmsr\n shl $32,%rdx\n or %rdx,%rax\n mov %rax,%r13\n int3");
/* the counter becomes rdi */
SNIPPET(set, "mov $0x10,%ecx\n mov %rdi,%rax\n mov %rdi,%rdx\n shr $32,%rdx\n wrmsr\n int3");
SNIPPET(loop, "mov $1000,%ecx\n1: rdtsc\n dec %ecx\n jne 1b\n int3");
SNIPPET(user, "rdtsc\n int3");

/* back and forth: code that was translated at the one rate must not be used at the other */
static const uint64_t ratios[] = {
	ENGINE_TSC_ONE, ENGINE_TSC_ONE / 3, ENGINE_TSC_ONE, ENGINE_TSC_ONE * 3 + 12345, ENGINE_TSC_ONE + 1,
	ENGINE_TSC_ONE - 1, 1, ~0ull, ENGINE_TSC_ONE / 1000000, ENGINE_TSC_ONE,
};

static uint64_t scaled(uint64_t host, uint64_t ratio)
{
	return (uint64_t)(((unsigned __int128)host * ratio) >> 48);
}

static void go(struct env *e, uint32_t way, uint32_t at)
{
	env_start(e, 0, 0, at, ENV_KSTACK);
	engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | way);
}

static void all_reads_agree(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = env_create(1);

		PUT(e, LOAD, ways);
		for (unsigned int i = 0; i < ARRAY_SIZE(ratios); i++)
			for (uint64_t offset = 0; offset < 3; offset++) {
				uint64_t lo, hi, o = offset * 0x123456789abcdefull;
				struct engine_regs r;

				go(e, env_ways[w], LOAD);
				assert_int_equal(engine_set_msr(e->cpu[0], 0xc0000103, 0x77), 0);
				engine_set_tsc_ratio(e->cpu[0], ratios[i]);
				engine_set_tsc_offset(e->cpu[0], o);
				lo = scaled(__rdtsc(), ratios[i]) + o;
				assert_int_equal(env_run_through(e, 0), 256);
				hi = scaled(__rdtsc(), ratios[i]) + o;
				r = regs(e);
				assert_true(r.gpr[3] - lo <= r.gpr[12] - lo && r.gpr[12] - lo <= r.gpr[13] - lo);
				assert_true(r.gpr[13] - lo <= hi - lo);
				assert_int_equal(r.gpr[6], 1);
				assert_int_equal(r.gpr[5], 0x77);
			}
		env_destroy(e);
	}
}

static void a_write_counts_on_from_there(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = env_create(1);

		PUT(e, LOAD, set);
		for (unsigned int i = 0; i < ARRAY_SIZE(ratios); i++) {
			const uint64_t value = 0x8000000000001234ull;
			uint64_t before, after, is;

			engine_set_tsc_ratio(e->cpu[0], ratios[i]);
			before = __rdtsc();
			go(e, env_ways[w], LOAD);
			set_gpr(e, 0, 7, value);
			assert_int_equal(env_run_through(e, 0), 256);
			assert_int_equal(engine_get_msr(e->cpu[0], 0x10, &is), 0);
			after = __rdtsc();
			assert_true(is - value <= scaled(after, ratios[i]) - scaled(before, ratios[i]));
			assert_int_equal(engine_tsc_scaled(e->cpu[0], after), scaled(after, ratios[i]));
		}
		env_destroy(e);
	}
}

static void only_another_rate_leaves_the_block(void **state)
{
	struct env *e = env_create(1);

	PUT(e, LOAD, loop);
	for (unsigned int i = 0; i < ARRAY_SIZE(ratios); i++) {
		struct engine_stats before, after;

		go(e, 0, LOAD);
		engine_set_tsc_ratio(e->cpu[0], ratios[i]);
		engine_get_stats(e->cpu[0], &before);
		assert_int_equal(env_run_through(e, 0), 256);
		engine_get_stats(e->cpu[0], &after);
		if (ratios[i] == ENGINE_TSC_ONE)
			assert_true(after.bounced - before.bounced < 100);
		else
			assert_true(after.bounced - before.bounced >= 1000);
	}
	env_destroy(e);
}

static void cr4_tsd_holds_at_any_rate(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++)
		for (unsigned int i = 0; i < 2; i++)
			for (unsigned int tsd = 0; tsd < 2; tsd++) {
				struct env *e = env_create(1);

				PUT(e, LOAD, user);
				env_map(e, LOAD, LOAD, PTE_P_ | PTE_U_);
				env_start(e, 0, 3, LOAD, ENV_KSTACK);
				engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | env_ways[w]);
				engine_set_tsc_ratio(e->cpu[0], ratios[i]);
				set_cr4(e, tsd ? 1u << 2 : 0, 0);
				assert_int_equal(env_run_through(e, 0), tsd ? 13 : 256);
				env_destroy(e);
			}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_reads_agree),
		cmocka_unit_test(a_write_counts_on_from_there),
		cmocka_unit_test(only_another_rate_leaves_the_block),
		cmocka_unit_test(cr4_tsd_holds_at_any_rate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
