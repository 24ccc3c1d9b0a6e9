/* SPDX-License-Identifier: MIT
 * The agreed differences, each with its reason.
 */
#include "diff.h"

static bool is(const struct op *op, const struct op_kind *kind)
{
	return op && op->kind == kind;
}

/* Which there are is asked with KVM_CHECK_EXTENSION, and 6.18 has some that belong to other hardware. */
static enum verdict quirks(const struct op *op, const char *kernel, const char *soft)
{
	return is(op, &op_enable_cap) && op->arg[1] == KVM_CAP_DISABLE_QUIRKS2 && !strcmp(kernel, "KVM_ENABLE_CAP: 0") &&
		!strcmp(soft, "KVM_ENABLE_CAP: EINVAL") ? AGREED_STOP : DIFFERS;
}

/* kvm_pvm lets user space write any value to MISC_FEATURES_ENABLES; elsewhere only CPUID faulting. */
static enum verdict misc_features(const struct op *op, const char *kernel, const char *soft)
{
	return is(op, &op_msr) && op->arg[2] == 0x140 && op->arg[3] > 1 ? AGREED_STOP : DIFFERS;
}

/* 6.18 has flags for the suppression of EOI broadcasts that 6.1's headers do not know. */
static enum verdict x2apic_flags(const struct op *op, const char *kernel, const char *soft)
{
	return is(op, &op_enable_cap) && op->arg[1] == KVM_CAP_X2APIC_API && op->arg[2] & 0xc ? AGREED_STOP : DIFFERS;
}

/* kvm_pvm takes UMIP, FSGSBASE, OSXSAVE, SMEP, SMAP and PKE in CR4 from user space whatever the guest's CPUID. */
static enum verdict smep(const struct op *op, const char *kernel, const char *soft)
{
	return is(op, &op_sregs) && op->arg[2] / 8 % 12 == 1 && op->arg[3] & (1 << 11 | 1 << 16 | 1 << 18 | 7ull << 20) &&
		!strcmp(kernel, "KVM_SET_SREGS: 0") ? AGREED_STOP : DIFFERS;
}

/* kvm_pvm adds leaf 0Dh to any CPUID, and so takes all that the host has; here the guest's own leaf counts. */
static enum verdict states(const struct op *op, const char *kernel, const char *soft)
{
	return is(op, &op_xcrs) && op->arg[4] & ~7ull ? AGREED_STOP : DIFFERS;
}

/* kvm_pvm refuses a rate below the host's, and "catches up" with one above. */
static enum verdict scaling(const struct op *op, const char *kernel, const char *soft)
{
	bool refused = !strcmp(kernel, "KVM_SET_TSC_KHZ: EINVAL") && !strcmp(soft, "KVM_SET_TSC_KHZ: 0");

	return (is(op, &op_tsc_khz) && op->arg[2]) || refused ? AGREED_STOP : DIFFERS;
}

/* What is there is asked first. */
static enum verdict capabilities(const struct op *op, const char *kernel, const char *soft)
{
	static const unsigned offered[] = {
		KVM_CAP_X2APIC_API, KVM_CAP_X86_DISABLE_EXITS, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_MAX_VCPU_ID,
		KVM_CAP_DISABLE_QUIRKS, KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_CAP_EXCEPTION_PAYLOAD,
		KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
	};

	if (!is(op, &op_enable_cap) || strcmp(kernel, "KVM_ENABLE_CAP: 0"))
		return DIFFERS;
	for (unsigned i = 0; i < ARRAY_SIZE(offered); i++)
		if (op->arg[1] == offered[i])
			return DIFFERS;
	return AGREED_STOP;
}

/* Cut off in a storm of a level interrupt: kvm_pvm has ended the one that it injected, the guest here not yet. */
static enum verdict storm(const struct op *op, const char *kernel, const char *soft)
{
	unsigned event[2], count[2];

	return is(op, &op_guest) && sscanf(kernel, "event %u: %u", &event[0], &count[0]) == 2 &&
		sscanf(soft, "event %u: %u", &event[1], &count[1]) == 2 && event[0] == event[1] &&
		count[0] > GUEST_MAX_EXITS / 2 && count[1] == count[0] - 1 ? AGREED_STOP : DIFFERS;
}

const struct agreed agreed_differences[] = {
	{ "KVM_CAP_DISABLE_QUIRKS2: only the quirks that CHECK_EXTENSION names", quirks },
	{ "KVM_ENABLE_CAP of what CHECK_EXTENSION says is not there", capabilities },
	{ "KVM_CAP_X2APIC_API: only the flags that CHECK_EXTENSION names", x2apic_flags },
	{ "CR4: only the bits that the guest's CPUID has", smep },
	{ "XCR0: no more than AVX-512", states },
	{ "TSC scaling: kvm_pvm has none (KVM_CAP_TSC_CONTROL says 0)", scaling },
	{ "the last EOI of a guest that was cut off in a storm", storm },
	{ "MISC_FEATURES_ENABLES: nothing but CPUID faulting", misc_features },
};

const unsigned nr_agreed = ARRAY_SIZE(agreed_differences);
