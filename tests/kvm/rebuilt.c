/* SPDX-License-Identifier: MIT
 * tests/kvm/paths.c on the kernel's KVM, with each machine's VM taken apart and rebuilt
 * every few exits: nobody above the seam may notice.
 */
#include "../lib/check.h"
#include "kvmapi/kvmapi.h"
#include <stdio.h>

#define EVERY 16

static const struct kvmapi *kvm_half(void)
{
	static const struct kvmapi kernel = { .ops = &dev_kvm_ops };
	static struct kvmapi rebuilt;
	struct err e;

	if (rebuilt.ops)
		return &rebuilt;
	if (rebuild_create(&rebuilt, &kernel, EVERY, &e))
		return &kernel; /* main() finds out the same and skips */
	return &rebuilt;
}

static int kvm_half_done(void **state)
{
	struct kvmapi *api = (struct kvmapi *)kvm_half();
	uint64_t done, put_off;

	rebuild_figures(api, &done, &put_off);
	printf("  rebuilt %llu times, put off %llu times\n", (unsigned long long)done,
	       (unsigned long long)put_off);
	rebuild_destroy(api);
	return done ? 0 : -1;
}

#define KVM_HALF
#define MAY_COME_TWICE 3
#include "paths.c"
