/* SPDX-License-Identifier: MIT
 * Which KVM half a command runs on: the kernel's, or our own.
 */
#ifndef BELFRY_APP_ACCEL_H
#define BELFRY_APP_ACCEL_H

#include "base/base.h"
#include "kvmapi/kvmapi.h"

struct accel {
	bool sysfs;         /* /sys/module could be read at all */
	bool hardware;      /* VT-x or SVM under it: kvm_intel or kvm_amd */
	char module[32];    /* "kvm_intel", "kvm_amd", "kvm_pvm", …; "" if none but kvm */
};

/* sysfs: where it is mounted, NULL for /sys (tests give another). */
void accel_probe(struct accel *a, const char *sysfs);

enum accel_choice { ACCEL_AUTO, ACCEL_KVM, ACCEL_SOFT };

/*
 * --accel auto for whole guests: ACCEL_KVM where the kernel's KVM has VT-x or
 * SVM under it and can be opened, else ACCEL_SOFT with the reason in *why. A
 * KVM that cannot be told is taken for good.
 */
enum accel_choice accel_choose(const struct accel *a, struct err *why);

/*
 * The KVM half of a choice but ACCEL_AUTO. log: where softkvm complains. The
 * caller closes it after everything made on it. -ENOMEM.
 */
int accel_open(enum accel_choice choice, const struct log *log, struct kvmapi *out,
	       struct err *e) __must_check;
void accel_close(struct kvmapi *api);

#endif
