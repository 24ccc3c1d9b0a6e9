/* SPDX-License-Identifier: MIT
 * Which KVM half this host has.
 */
#ifndef BELFRY_APP_ACCEL_H
#define BELFRY_APP_ACCEL_H

#include "base/base.h"

struct accel {
	bool sysfs;         /* /sys/module could be read at all */
	bool hardware;      /* VT-x or SVM under it: kvm_intel or kvm_amd */
	char module[32];    /* "kvm_intel", "kvm_amd", "kvm_pvm", …; "" if none but kvm */
};

/* sysfs: where it is mounted, NULL for /sys (tests give another). */
void accel_probe(struct accel *a, const char *sysfs);

/*
 * --accel auto for whole guests: 0 if the kernel's KVM can run them, -ENOTSUP
 * with the remedy in *e if it emulates ring 0. A KVM that cannot be told is
 * taken for good.
 */
int accel_check_auto(const struct accel *a, struct err *e) __must_check;

#endif
