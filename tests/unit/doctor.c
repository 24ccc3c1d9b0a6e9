/* SPDX-License-Identifier: MIT
 * doctor: the report's forms, and the host checks against a made-up /sys and /proc.
 */
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdarg.h>
#include <cmocka.h>
#include "app/doctor.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[64];

static void put(const char *path, const char *text)
{
	char full[400];
	FILE *f;

	snprintf(full, sizeof(full), "%s/%s", root, path);
	for (char *p = full + strlen(root) + 1; (p = strchr(p, '/')); p++) {
		*p = '\0';
		mkdir(full, 0700);
		*p = '/';
	}
	f = fopen(full, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static int set_up(void **state)
{
	snprintf(root, sizeof(root), "/tmp/belfry-doctor-XXXXXX");
	return mkdtemp(root) ? 0 : -1;
}

static int tear_down(void **state)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", root);
	return system(cmd);
}

static const struct finding *find(const struct report *r, const char *name)
{
	for (const struct finding *f = r->first; f; f = f->next)
		if (!strcmp(f->name, name))
			return f;
	fail_msg("no finding \"%s\"", name);
	return NULL;
}

static void test_good_host(void **state)
{
	const struct finding *f;
	struct report r;

	put("module/kvm_intel/parameters/enable_apicv", "Y\n");
	put("module/kvm_intel/parameters/nested", "N\n");
	put("class/iommu/dmar0/intel-iommu/cap", "8d2078c106f0466\n");
	put("kernel/mm/transparent_hugepage/shmem_enabled", "always [advise] never\n");
	put("sys/kernel/io_uring_disabled", "2\n");
	put("cpuinfo", "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu vmx x2apic_not\n");
	report_init(&r);
	doctor_host(&r, root, root);
	assert_false(r.out_of_memory);
	f = find(&r, "posted interrupts (APICv, AVIC)");
	assert_int_equal(f->state, FINDING_OK);
	assert_string_equal(f->value, "yes");
	f = find(&r, "nested virtualization");
	assert_int_equal(f->state, FINDING_LACKS);
	assert_non_null(strstr(f->remedy, "nested=1"));
	assert_string_equal(find(&r, "VT-d posted interrupts")->value, "yes");
	assert_int_equal(find(&r, "huge pages for guest memory")->state, FINDING_OK);
	assert_string_equal(find(&r, "kernel.io_uring_disabled")->value, "2 (for nobody)");
	assert_string_equal(find(&r, "model")->value, "Some CPU");
	assert_string_equal(find(&r, "vmx")->value, "yes");
	assert_string_equal(find(&r, "svm")->value, "no");
	assert_string_equal(find(&r, "x2apic")->value, "no"); /* a longer word is another */
	report_free(&r);
}

/* Nothing readable: every check still says something, nothing is fatal, nothing crashes. */
static void test_empty_host(void **state)
{
	struct report r;

	report_init(&r);
	doctor_host(&r, "/nonexistent", "/nonexistent");
	assert_int_equal(find(&r, "posted interrupts (APICv, AVIC)")->state, FINDING_LACKS);
	assert_string_equal(find(&r, "VT-d posted interrupts")->value, "no VT-d unit");
	assert_int_equal(find(&r, "huge pages for guest memory")->state, FINDING_LACKS);
	find(&r, "io_uring");
	find(&r, "locked memory (RLIMIT_MEMLOCK)");
	assert_non_null(strstr(find(&r, "cpuinfo")->value, "cannot be read"));
	assert_false(report_has(&r, FINDING_FATAL));
	report_free(&r);
}

static void test_json_escapes(void **state)
{
	struct report r;
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	report_init(&r);
	r.section = "S";
	finding_remedy(report_add(&r, FINDING_FATAL, "a\"b", "c\\d\te"), "mend %d", 7);
	report_print_json(&r, f);
	fclose(f);
	assert_non_null(strstr(text, "\"can_run\": false"));
	assert_non_null(strstr(text, "\"name\": \"a\\\"b\""));
	assert_non_null(strstr(text, "\"value\": \"c\\\\d\\u0009e\""));
	assert_non_null(strstr(text, "\"remedy\": \"mend 7\""));
	assert_non_null(strstr(text, "\"state\": \"fatal\""));
	assert_null(strstr(text, "purpose"));
	free(text);
	report_free(&r);
}

static void test_text(void **state)
{
	struct report r;
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	report_init(&r);
	r.section = "First";
	report_add(&r, FINDING_OK, "good", "yes");
	r.section = "Second";
	finding_remedy(report_add(&r, FINDING_LACKS, "bad", "no"), "mend it");
	report_print_text(&r, f);
	fclose(f);
	assert_non_null(strstr(text, "First\n    good"));
	assert_non_null(strstr(text, "\n\nSecond\n  - bad"));
	assert_non_null(strstr(text, "        mend it\n"));
	assert_false(report_has(&r, FINDING_FATAL));
	free(text);
	report_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good_host),    cmocka_unit_test(test_empty_host),
		cmocka_unit_test(test_json_escapes), cmocka_unit_test(test_text),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
