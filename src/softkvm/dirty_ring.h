/* SPDX-License-Identifier: MIT
 * A vCPU's ring of dirty pages ("KVM_CAP_DIRTY_LOG_RING"): pages of the vCPU's fd
 * that its owner maps. The vCPU's thread fills it, the owner marks what it has
 * collected, KVM_RESET_DIRTY_RINGS gives that back. docs/SOFTKVM.md, "Dirty rings".
 */
#ifndef BELFRY_SOFTKVM_DIRTY_RING_H
#define BELFRY_SOFTKVM_DIRTY_RING_H

#include "base/base.h"
#include <linux/kvm.h>

struct soft_vm;

#define DIRTY_RING_MAX	  65536u /* entries */
#define DIRTY_RING_SPARE  64u	 /* kept for what is written on the way out of the guest */

struct dirty_ring {
	struct kvm_dirty_gfn *gfn; /* (o) NULL: the VM has none; the owner writes it, too */
	uint32_t size;		   /* (o) entries, a power of two */
	uint32_t dirty;		   /* the next to fill; atomic, the vCPU's thread writes */
	uint32_t reset;		   /* the next to give back; atomic, changed under mem.lock */
};

/* The guest's SIMD registers may be in the processor (engine_ops.dirtied). */
#define GENERAL_REGS_ONLY __attribute__((target("general-regs-only")))

/* Time to leave the guest: what is left is the spare. The vCPU's thread. */
GENERAL_REGS_ONLY bool dirty_ring_full(const struct dirty_ring *r);

/* One page of a slot. Dropped if not even a spare entry is left. The vCPU's thread. */
GENERAL_REGS_ONLY void dirty_ring_push(struct dirty_ring *r, uint32_t slot, uint64_t page);

/* KVM_ENABLE_CAP: rings of so many bytes. -EINVAL (no power of two, less than a page or than the
 * spare, a second time, too late), -E2BIG. */
int dirty_rings_enable(struct soft_vm *vm, uint64_t bytes) __must_check;
/* KVM_RESET_DIRTY_RINGS: how many entries were given back; -EINVAL without rings. */
int dirty_rings_reset(struct soft_vm *vm) __must_check;

#endif
