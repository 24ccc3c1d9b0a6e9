/* SPDX-License-Identifier: MIT
 * The benchmark on the kernel's KVM: every path that the KVM half has is
 * measured to the end, nothing gets lost, and what it lacks is said.
 */
#include "../lib/check.h"
#include "monitor/monitor.h"
#include <stdlib.h>

#define COUNT	 8
#define PATIENCE 60

static const struct kvmapi api = { .ops = &dev_kvm_ops };

static void test_all_paths(void **state)
{
	const struct bench_config c = { .count = COUNT, .patience = PATIENCE };
	struct bench_row *rows;
	unsigned nr, kicks = 0, calls = 0;
	struct err e;

	if (bench_events(&c, &api, &rows, &nr, &e))
		fail_msg("%s", e.text);
	for (unsigned i = 0; i < nr; i++) {
		const struct bench_row *r = &rows[i];

		if (!r->available) {
			assert_int_not_equal(r->reason[0], '\0');
			print_message("  %s: %s\n", r->name, r->reason);
			continue;
		}
		if (r->lost || r->count != COUNT)
			fail_msg("%s: %u measured, %u lost", r->name, r->count, r->lost);
		assert_true(r->min > 0 && r->min <= r->median);
		assert_true(r->median <= r->p99 && r->p99 <= r->max);
		assert_true(r->sender > 0);
		kicks += !strncmp(r->name, "kick-", 5);
		calls += !strncmp(r->name, "call-", 5);
	}
	/* Whatever it lacks: these two need no capability. */
	assert_true(kicks >= 2);
	assert_true(calls >= 1);
	free(rows);
}

static void test_chosen_paths(void **state)
{
	const struct bench_config c = { .count = 1, .paths = "call-interrupt,kick-exit-pio" };
	struct bench_row *rows;
	unsigned nr;
	struct err e;

	if (bench_events(&c, &api, &rows, &nr, &e))
		fail_msg("%s", e.text);
	assert_int_equal(nr, 2);
	assert_string_equal(rows[0].name, "kick-exit-pio");
	assert_string_equal(rows[1].name, "call-interrupt");
	free(rows);
}

static void test_no_node(void **state)
{
	const struct kvmapi none = { .ops = &dev_kvm_ops, .ctx = "/nonexistent" };
	const struct bench_config c = { .count = 1 };
	struct bench_row *rows;
	unsigned nr;
	struct err e;

	assert_int_equal(bench_events(&c, &none, &rows, &nr, &e), -ENOENT);
	assert_non_null(strstr(e.text, "/nonexistent does not exist"));
}

/* The capabilities hidden: the paths stay in the table and say which one they lack. */
static int blind_ioctl(void *ctx, int fd, unsigned long request, uintptr_t arg)
{
	if (request == KVM_CHECK_EXTENSION &&
	    (arg == KVM_CAP_IOEVENTFD || arg == KVM_CAP_IRQFD || arg == KVM_CAP_COALESCED_PIO))
		return 0;
	return dev_kvm_ops.ioctl(ctx, fd, request, arg);
}

static void test_lacking(void **state)
{
	struct kvmapi_ops ops = dev_kvm_ops;
	const struct kvmapi blind = { .ops = &ops };
	const struct bench_config c = {
		.count = 1,
		.paths = "kick-ioeventfd-pio,call-irqfd-msi,kick-coalesced-pio,kick-exit-pio",
	};
	struct bench_row *rows;
	char *text = NULL;
	unsigned nr;
	size_t len;
	struct err e;
	FILE *f;

	ops.ioctl = blind_ioctl;
	if (bench_events(&c, &blind, &rows, &nr, &e))
		fail_msg("%s", e.text);
	assert_int_equal(nr, 4);
	assert_true(rows[0].available); /* kick-exit-pio comes first */
	assert_false(rows[1].available);
	assert_string_equal(rows[1].reason, "this KVM lacks KVM_CAP_IOEVENTFD");
	assert_string_equal(rows[2].reason, "this KVM lacks KVM_CAP_COALESCED_PIO");
	assert_string_equal(rows[3].reason, "this KVM lacks KVM_CAP_IRQFD");
	f = open_memstream(&text, &len);
	bench_print_table(f, rows, nr);
	bench_print_json(f, rows, nr, "kvm", "kvm_x");
	fclose(f);
	assert_non_null(strstr(text, "not available: this KVM lacks KVM_CAP_IRQFD"));
	assert_non_null(strstr(text, "\"available\": false, \"reason\": \"this KVM lacks KVM_CAP_IRQFD\""));
	free(text);
	free(rows);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_paths),
		cmocka_unit_test(test_chosen_paths),
		cmocka_unit_test(test_no_node),
		cmocka_unit_test(test_lacking),
	};
	struct sys s;
	struct err e;

	if (sys_open(&s, &api, &e)) {
		fprintf(stderr, "skip: %s\n", e.text);
		return 77;
	}
	sys_close(&s);
	return RUN(tests);
}
