/* SPDX-License-Identifier: MIT
 *
 * What the guest's CPUID lacks: instructions that a processor without them reads as others.
 */
#include <cpuid.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "../lib/engine_env.h"

#define LOAD 0x10000u
#define HIDE_BMI1  (1u << 3) /* leaf 7 EBX */
#define HIDE_LZCNT (1u << 5) /* leaf 80000001h ECX */

/* TZCNT of RBX to RAX, LZCNT of EBX to ECX, both of 0 to RDX and ESI; INT3. */
static const uint8_t counts[] = {
	0xf3, 0x48, 0x0f, 0xbc, 0xc3,
	0xf3, 0x0f, 0xbd, 0xcb,
	0xf3, 0x48, 0x0f, 0xbc, 0xd7,
	0xf3, 0x0f, 0xbd, 0xf7,
	0xcc,
};

static void run_counts(uint32_t hide7b, uint32_t hide81c, uint32_t way, struct engine_regs *r)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	int end;

	assert_non_null(e);
	e->cpuid_hide7b = hide7b;
	e->cpuid_hide81c = hide81c;
	engine_vcpu_cpuid_changed(e->cpu[0]);
	memcpy(e->ram + LOAD, counts, sizeof(counts));
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | way);
	engine_get_regs(e->cpu[0], r);
	r->gpr[3] = 0x00100400;
	r->gpr[7] = 0;
	r->gpr[2] = 0xd1d1d1d1d1d1d1d1ull;
	r->gpr[6] = 0x51515151u;
	engine_set_regs(e->cpu[0], r);
	do
		end = env_run(e, 0, &x); /* one instruction a time: with an exit each */
	while (x.reason == ENGINE_EXIT_DEBUG && x.vector != 3);
	assert_int_equal(end, 256);
	engine_get_regs(e->cpu[0], r);
	env_destroy(e);
}

/* SDM, "TZCNT", "LZCNT": "on processors that do not support" them "the instruction byte encoding is
 * executed as BSF", BSR. */
static void counts_are_scans_without_the_feature(void **state)
{
	struct engine_regs r;

	for (unsigned int w = 0; w < 3; w++) {
		run_counts(HIDE_BMI1, HIDE_LZCNT, env_ways[w], &r);
		assert_int_equal(r.gpr[0], 10);
		assert_int_equal(r.gpr[1], 20);
		/* a scan of zero leaves the destination alone */
		assert_true(r.gpr[2] == 0xd1d1d1d1d1d1d1d1ull);
		assert_int_equal((uint32_t)r.gpr[6], 0x51515151u);
	}
}

static void counts_count_with_the_feature(void **state)
{
	struct engine_regs r;

	unsigned a, b = 0, c = 0, d;

	(void)__get_cpuid_count(7, 0, &a, &b, &c, &d);
	if (!(b & bit_BMI) || !__get_cpuid(0x80000001, &a, &b, &c, &d) || !(c & bit_LZCNT))
		skip();
	for (unsigned int w = 0; w < 3; w++) {
		run_counts(0, 0, env_ways[w], &r);
		assert_int_equal(r.gpr[0], 10);
		assert_int_equal(r.gpr[1], 11);
		assert_int_equal(r.gpr[2], 64);
		assert_int_equal(r.gpr[6], 32);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts_are_scans_without_the_feature),
		cmocka_unit_test(counts_count_with_the_feature),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
