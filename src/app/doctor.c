/* SPDX-License-Identifier: MIT
 * belfry doctor: the KVM half, and the verdict.
 */
#include "app/app.h"
#include "app/doctor.h"
#include "kvmapi/kvmapi.h"

static void check_capabilities(struct report *r, struct sys *s)
{
	r->section = "Capabilities";
	for (const struct cap_info *c = cap_table; c->name; c++) {
		int v = sys_check_extension(s, c->cap);
		struct finding *f = report_add(r, v ? FINDING_OK :
					       c->required ? FINDING_FATAL : FINDING_LACKS,
					       c->name, "%d", v);

		finding_purpose(f, c->purpose);
		if (!v && c->required)
			finding_remedy(f, "belfry run cannot do without it: use a newer kernel");
	}
	finding_purpose(report_add(r, FINDING_INFO, "KVM_CAP_MAX_VCPUS", "%d",
				   sys_check_extension(s, KVM_CAP_MAX_VCPUS)), "--cpus");
	finding_purpose(report_add(r, FINDING_INFO, "KVM_CAP_NR_MEMSLOTS", "%d",
				   sys_check_extension(s, KVM_CAP_NR_MEMSLOTS)), "memory blocks");
}

static void check_module(struct report *r, const struct accel *a)
{
	struct finding *f;

	if (!a->sysfs) {
		report_add(r, FINDING_INFO, "module", "unknown: /sys/module cannot be read");
	} else if (a->hardware) {
		finding_purpose(report_add(r, FINDING_OK, "module", "%s", a->module),
				a->module[4] == 'i' ? "VT-x" : "SVM");
	} else if (a->module[0]) {
		f = report_add(r, FINDING_LACKS, "module", "%s (no VT-x or SVM)", a->module);
		finding_remedy(f, "this KVM emulates ring 0: its API works ('belfry bench events'), "
			       "whole kernels do not; 'belfry run' takes softkvm instead");
	} else {
		f = report_add(r, FINDING_LACKS, "module", "none");
		finding_remedy(f, "enable virtualization in the firmware (or nested virtualization on "
			       "the machine below) and load kvm_intel or kvm_amd");
	}
}


static void check_verdict(struct report *r, const struct accel *a)
{
	struct err why;

	r->section = "Verdict";
	if (accel_choose(a, &why) == ACCEL_KVM)
		report_add(r, FINDING_OK, "belfry run", "uses /dev/kvm (%s), irqchip in the kernel",
			   a->module[0] ? a->module : "module unknown");
	else
		finding_purpose(report_add(r, FINDING_OK, "belfry run",
					   "uses softkvm, KVM in user space"), why.text);
}

void doctor_all(struct report *r)
{
	const struct kvmapi api = { .ops = &dev_kvm_ops };
	struct accel accel;
	bool opened;
	struct sys s;
	struct err e;

	r->section = "KVM";
	accel_probe(&accel, NULL);
	opened = !sys_open(&s, &api, &e);
	if (opened)
		report_add(r, FINDING_OK, "/dev/kvm", "can be opened, API version %d",
			   KVM_API_VERSION);
	else
		finding_remedy(report_add(r, FINDING_LACKS, "/dev/kvm", "cannot be used"), "%s", e.text);
	check_module(r, &accel);
	if (opened) {
		check_capabilities(r, &s);
		sys_close(&s);
	}
	doctor_host(r, "/sys", "/proc");
	check_verdict(r, &accel);
}

int doctor_command(const struct doctor_options *o)
{
	int status = EXIT_GOOD;
	struct report r;
	struct err e;

	report_init(&r);
	doctor_all(&r);
	if (r.out_of_memory) {
		err_set(&e, -ENOMEM, "out of memory");
		status = complain("doctor", EXIT_USAGE, &e);
	} else {
		if (o->json)
			report_print_json(&r, stdout);
		else
			report_print_text(&r, stdout);
		if (report_has(&r, FINDING_FATAL))
			status = EXIT_FAILED;
	}
	report_free(&r);
	return status;
}
