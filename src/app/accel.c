/* SPDX-License-Identifier: MIT */
#include "app/accel.h"
#include <dirent.h>
#include <stdio.h>

void accel_probe(struct accel *a, const char *sysfs)
{
	char path[256];
	struct dirent *d;
	DIR *dir;

	memset(a, 0, sizeof(*a));
	snprintf(path, sizeof(path), "%s/module", sysfs ? sysfs : "/sys");
	dir = opendir(path);
	if (!dir)
		return;
	a->sysfs = true;
	while ((d = readdir(dir))) {
		bool hardware = !strcmp(d->d_name, "kvm_intel") || !strcmp(d->d_name, "kvm_amd");

		if (strncmp(d->d_name, "kvm_", 4) || a->hardware)
			continue;
		a->hardware = hardware;
		snprintf(a->module, sizeof(a->module), "%.31s", d->d_name);
	}
	closedir(dir);
}

int accel_check_auto(const struct accel *a, struct err *e)
{
	if (a->hardware || !a->sysfs)
		return 0;
	return err_set(e, -ENOTSUP,
		       "this host's KVM (%s) has no VT-x or SVM under it: it emulates ring 0 and "
		       "cannot run whole kernels; use 'make run', which brings a nested KVM, or "
		       "insist with --accel kvm",
		       a->module[0] ? a->module : "no kvm_intel or kvm_amd module");
}
