/* SPDX-License-Identifier: MIT
 * KVM_IRQFD: an eventfd's signal becomes an interrupt, delivered by who hears it
 * (listen.h). With a resampler the interrupt is a level that the guest's EOI
 * lowers and reports.
 */
#ifndef BELFRY_SOFTKVM_IRQFD_H
#define BELFRY_SOFTKVM_IRQFD_H

#include "base/base.h"
#include <linux/kvm.h>

struct soft_vm;

/*
 * Errors as the kernel: -EINVAL (also: no irqchip), -EBADF, -EBUSY (that
 * eventfd serves an irqfd, in this VM or another), -ENOMEM. A deassign succeeds
 * for any eventfd; when it returns, signals taken so far have been delivered
 * and later ones stay in the eventfd.
 */
int irqfd_set(struct soft_vm *vm, const struct kvm_irqfd *args) __must_check;
/*
 * n's eventfd is bound to a gsi of this VM: let its signals come without the eventfd,
 * if that can be done. Counts that are in the eventfd, and what others write there, still
 * come through the listener.
 */
void irqfd_connect(struct soft_vm *vm, struct notifier *n);
/* When the VM's fd has been closed, whether it has vCPUs or not: nobody listens any more. */
void irqfd_destroy_all(struct soft_vm *vm);

/* The guest acked gsi: lower the resamplers' level and tell the sources. No lock held. */
void irqfd_acked(struct soft_vm *vm, gsi_t gsi);
/* gsis with a resampler, up to nr; returns how many. Any thread. */
unsigned irqfd_resampled_gsis(struct soft_vm *vm, gsi_t *gsis, unsigned nr);

#endif
