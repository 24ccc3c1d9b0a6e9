/* SPDX-License-Identifier: MIT
 * tests/kvm/paths.c on softkvm, with each machine's VM taken apart and rebuilt
 * every few exits: nobody above the seam may notice.
 */
#include "../lib/check.h"
#include "softkvm/softkvm.h"
#include <stdio.h>

#define EVERY 16

static const struct kvmapi *kvm_half(void)
{
	static struct kvmapi rebuilt;
	struct kvmapi inner = { .ops = &softkvm_ops };
	struct err e;

	if (rebuilt.ops)
		return &rebuilt;
	if (softkvm_create(&inner.ctx, NULL))
		fail_msg("no memory");
	if (rebuild_create(&rebuilt, &inner, EVERY, &e))
		fail_msg("%s", e.text);
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
	softkvm_destroy(api->ctx);
	return done ? 0 : -1;
}

#define KVM_HALF
#define MAY_COME_TWICE 0
#include "../kvm/paths.c"
