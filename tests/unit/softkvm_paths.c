/* SPDX-License-Identifier: MIT
 * tests/kvm/paths.c on softkvm: every kick and call path through the machine,
 * the same guests and the same expectations as on the kernel's KVM.
 */
#include "../lib/check.h"
#include "softkvm/softkvm.h"

/* One context for all machines of the process, as the kernel is one. */
static const struct kvmapi *kvm_half(void)
{
	static struct kvmapi soft = { .ops = &softkvm_ops };
	struct softkvm_config c;

	softkvm_config_init(&c, true); /* BELFRY_APICV=off tries the other way */
	if (!soft.ctx && softkvm_create(&soft.ctx, &c))
		fail_msg("no memory");
	return &soft;
}

static int kvm_half_done(void **state)
{
	softkvm_destroy(kvm_half()->ctx);
	return 0;
}

#define KVM_HALF
#define MAY_COME_TWICE 0
#include "../kvm/paths.c"
