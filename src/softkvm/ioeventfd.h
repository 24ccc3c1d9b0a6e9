/* SPDX-License-Identifier: MIT
 * KVM_IOEVENTFD: a guest's write becomes a signal. And its neighbour, coalesced
 * I/O: a guest's write becomes an entry of a ring.
 */
#ifndef BELFRY_SOFTKVM_IOEVENTFD_H
#define BELFRY_SOFTKVM_IOEVENTFD_H

#include "base/base.h"
#include <linux/kvm.h>

struct soft_vm;

/* Errors as the kernel: -EINVAL, -EBADF, -EEXIST, -ENOSPC, -ENOENT (deassign), -ENOMEM. */
int ioeventfd_set(struct soft_vm *vm, const struct kvm_ioeventfd *args) __must_check;
/* At VM release: nobody runs. */
void ioeventfd_destroy_all(struct soft_vm *vm);

/* KVM_REGISTER_COALESCED_MMIO and its opposite, which never fails for a zone that is not there. */
int coalesced_register(struct soft_vm *vm, const struct kvm_coalesced_mmio_zone *z) __must_check;
int coalesced_unregister(struct soft_vm *vm, const struct kvm_coalesced_mmio_zone *z) __must_check;
void coalesced_destroy_all(struct soft_vm *vm);

#endif
