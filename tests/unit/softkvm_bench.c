/* SPDX-License-Identifier: MIT
 * The benchmark on softkvm: every path is there and nothing gets lost, also of
 * the calls that find the vCPU in its handler, taken out before the EOI.
 */
#include "../lib/check.h"
#include "monitor/monitor.h"
#include "softkvm/softkvm.h"
#include <stdlib.h>

#define COUNT 12

static void test_all_paths(void **state)
{
	const struct bench_config c = { .count = COUNT, .patience = 60 };
	struct kvmapi api = { .ops = &softkvm_ops };
	struct bench_row *rows;
	unsigned nr;
	struct err e;

	assert_int_equal(softkvm_create(&api.ctx, NULL), 0);
	if (bench_events(&c, &api, &rows, &nr, &e))
		fail_msg("%s", e.text);
	assert_true(nr > 16);
	for (unsigned i = 0; i < nr; i++) {
		const struct bench_row *r = &rows[i];

		if (!r->available)
			fail_msg("%s: %s", r->name, r->reason);
		if (r->lost || r->count != COUNT)
			fail_msg("%s: %u measured, %u lost", r->name, r->count, r->lost);
	}
	free(rows);
	softkvm_destroy(api.ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_all_paths) };

	return RUN(tests);
}
