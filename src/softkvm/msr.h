/* SPDX-License-Identifier: MIT
 * MSRs that are not the engine's, and the lists user space asks for.
 */
#ifndef BELFRY_SOFTKVM_MSR_H
#define BELFRY_SOFTKVM_MSR_H

#include "base/base.h"
#include <linux/kvm.h>

#define MSR_MAX_ENTRIES	  256u
#define MCG_CAP_SUPPORTED ((1ull << 24) | (1ull << 8)) /* SER_P, CTL_P */
#define MCG_MAX_BANKS	  32u
#define MSR_STORED_MAX	  80u
#define MSR_EXITS_VALID                                                                    \
	(KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER)

/* KVM_GET_MSR_INDEX_LIST: what a save must hold. */
const uint32_t *msr_list(unsigned *nr);
const uint32_t *msr_feature_list(unsigned *nr);
/* 0 or -EINVAL. */
int msr_feature_get(uint32_t index, uint64_t *value);

struct soft_vm;
struct soft_vcpu;
struct msr_filter;

/* Values of a new vCPU. */
void msr_init(struct soft_vcpu *v);

/* KVM_X86_SET_MSR_FILTER. -EINVAL, -EFAULT, -ENOMEM. */
int msr_filter_set(struct soft_vm *vm, uintptr_t arg) __must_check;
void msr_filter_free(struct msr_filter *f);
/* May the guest access it? */
bool msr_filter_allows(struct soft_vm *vm, uint32_t index, bool write);

#endif
