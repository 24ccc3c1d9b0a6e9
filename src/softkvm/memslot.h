/* SPDX-License-Identifier: MIT
 * Guest memory: the slots of KVM_SET_USER_MEMORY_REGION, dirty logs, and the
 * room's own reads and writes of guest memory.
 *
 * The table is published whole (grace.h) for readers on any thread; the engine has
 * its own, and engine_vm_change_slot() returns when no vCPU uses what was before. A
 * change is therefore complete when the ioctl returns: the caller may unmap a
 * deleted slot's memory.
 */
#ifndef BELFRY_SOFTKVM_MEMSLOT_H
#define BELFRY_SOFTKVM_MEMSLOT_H

#include "softkvm/grace.h"
#include <linux/kvm.h>

struct engine_vm;

struct dirty_ring;

struct dirty_log {
	/* One bit a page, set by anybody atomically: dirty; with rings, in one of them. */
	uint64_t *bits;
	uint64_t words;
};

/* Never changed: another takes its place. */
struct memslot {
	struct range r; /* guest-physical, bytes */
	uint16_t id;
	uint32_t flags;
	uint8_t *host;
	struct dirty_log *log; /* NULL unless KVM_MEM_LOG_DIRTY_PAGES; goes on with what takes its place */
};

struct memslots {
	pthread_mutex_t lock;		    /* writers and dirty log calls */
	struct ranges *_Atomic table;	    /* of struct memslot */
	struct ranges *spare;		    /* for the next one; lock */
	struct memslot **by_id;		    /* NULL: no such slot; lock */
	unsigned n_ids;			    /* of them there is room for; lock */
	struct grace *grace;		    /* (o) */
	struct engine_vm *engine;	    /* (o) */
	uint64_t pages;			    /* in all slots; lock */
	unsigned max_slots;		    /* (o) */
	uint32_t manual_protect;	    /* KVM_DIRTY_LOG_*; lock */
	bool rings;			    /* dirty pages go into the vCPUs' rings; lock */
};

int memslots_init(struct memslots *m, struct grace *g, struct engine_vm *engine) __must_check;
void memslots_destroy(struct memslots *m);

/*
 * KVM_SET_USER_MEMORY_REGION. Errors as the kernel: -EINVAL (alignment, flags,
 * id, wrap, a change that is none of delete, move and flags), -EEXIST (overlap),
 * -ENOMEM.
 */
int memslots_set(struct memslots *m, const struct kvm_userspace_memory_region *r) __must_check;

/* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2. */
void memslots_set_manual_protect(struct memslots *m, uint32_t flags);
/* KVM_CAP_DIRTY_LOG_RING, before there is a vCPU. */
void memslots_use_rings(struct memslots *m);
/* A page that was collected is to be marked again when it is written; engine_vm_protect() must
 * follow. What is in no slot is ignored. */
void memslots_forget_page_locked(struct memslots *m, uint32_t slot, uint64_t page);
int memslots_get_dirty_log(struct memslots *m, const struct kvm_dirty_log *d) __must_check;
int memslots_clear_dirty_log(struct memslots *m, const struct kvm_clear_dirty_log *d) __must_check;

/*
 * Guest memory, any length; marks what it writes, in the ring of the vCPU whose thread it is
 * (NULL: none, and then where there are rings nothing is marked). -EFAULT if a byte is in no
 * slot, in a read-only one (write), or its host memory is not there. Any thread.
 */
int guest_read(struct memslots *m, gpa_t gpa, void *dst, size_t len) __must_check;
/* Is there memory at gpa that a guest may write? */
bool guest_is_writable(struct memslots *m, gpa_t gpa);
int guest_write(struct memslots *m, struct dirty_ring *ring, gpa_t gpa, const void *src, size_t len) __must_check;
/* Set or clear bits of one byte atomically; the old value or -EFAULT. */
int guest_set_bits8(struct memslots *m, struct dirty_ring *ring, gpa_t gpa, uint8_t mask);
int guest_clear_bits8(struct memslots *m, struct dirty_ring *ring, gpa_t gpa, uint8_t mask);

#endif
