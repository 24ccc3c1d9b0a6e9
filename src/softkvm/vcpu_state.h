/* SPDX-License-Identifier: MIT
 * A vCPU's state between the UAPI's structs and the engine's. Under the vCPU's
 * lock. Errors as the kernel: -EINVAL where a value cannot be.
 */
#ifndef BELFRY_SOFTKVM_VCPU_STATE_H
#define BELFRY_SOFTKVM_VCPU_STATE_H

#include "softkvm/vcpu.h"

void state_get_regs(struct soft_vcpu *v, struct kvm_regs *r);
void state_set_regs(struct soft_vcpu *v, const struct kvm_regs *r);
/* User space steps no more: the trap flag was its own. */
void state_end_stepping(struct soft_vcpu *v);
void state_get_sregs(struct soft_vcpu *v, struct kvm_sregs *s);
int state_set_sregs(struct soft_vcpu *v, const struct kvm_sregs *s) __must_check;
void state_get_sregs2(struct soft_vcpu *v, struct kvm_sregs2 *s);
int state_set_sregs2(struct soft_vcpu *v, const struct kvm_sregs2 *s) __must_check;
/* Before and after KVM_RUN: the registers that kvm_run's masks name. */
int state_take_synced(struct soft_vcpu *v) __must_check;
void state_give_synced(struct soft_vcpu *v);
void state_get_fpu(struct soft_vcpu *v, struct kvm_fpu *f);
int state_set_fpu(struct soft_vcpu *v, const struct kvm_fpu *f) __must_check;
void state_get_xsave(struct soft_vcpu *v, struct kvm_xsave *x);
int state_set_xsave(struct soft_vcpu *v, const struct kvm_xsave *x) __must_check;
void state_get_xcrs(struct soft_vcpu *v, struct kvm_xcrs *x);
int state_set_xcrs(struct soft_vcpu *v, const struct kvm_xcrs *x) __must_check;
void state_get_debugregs(struct soft_vcpu *v, struct kvm_debugregs *d);
int state_set_debugregs(struct soft_vcpu *v, const struct kvm_debugregs *d) __must_check;
void state_get_events(struct soft_vcpu *v, struct kvm_vcpu_events *e);
int state_set_events(struct soft_vcpu *v, const struct kvm_vcpu_events *e) __must_check;
void state_get_mp(struct soft_vcpu *v, struct kvm_mp_state *m);
int state_set_mp(struct soft_vcpu *v, const struct kvm_mp_state *m) __must_check;
/* KVM_SET_CPUID2's entries, taken over on success. */
int state_set_cpuid(struct soft_vcpu *v, struct kvm_cpuid_entry2 *e, unsigned nr) __must_check;
/* Queue an exception without error code: -EBUSY if one is pending. */
int state_queue_exception(struct soft_vcpu *v, uint8_t vector) __must_check;
/* Before the guest is entered: one that is pending has its effects. */
void state_begin_exception(struct soft_vcpu *v);
/* The guest gets a #GP of KVM's own: its payload, which is none, replaces what an older one left. */
void state_forget_payload(struct soft_vcpu *v);

#endif
