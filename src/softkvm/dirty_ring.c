/* SPDX-License-Identifier: MIT */
#include "softkvm/dirty_ring.h"
#include "softkvm/vcpu.h"

GENERAL_REGS_ONLY bool dirty_ring_full(const struct dirty_ring *r)
{
	uint32_t used = __atomic_load_n(&r->dirty, __ATOMIC_RELAXED) -
			__atomic_load_n(&r->reset, __ATOMIC_ACQUIRE);

	return r->gfn && used >= r->size - DIRTY_RING_SPARE;
}

GENERAL_REGS_ONLY void dirty_ring_push(struct dirty_ring *r, uint32_t slot, uint64_t page)
{
	uint32_t at = __atomic_load_n(&r->dirty, __ATOMIC_RELAXED);
	struct kvm_dirty_gfn *g = &r->gfn[at & (r->size - 1)];

	if (at - __atomic_load_n(&r->reset, __ATOMIC_ACQUIRE) >= r->size)
		return;
	__atomic_store_n(&g->slot, slot, __ATOMIC_RELAXED);
	__atomic_store_n(&g->offset, page, __ATOMIC_RELAXED);
	__atomic_store_n(&g->flags, KVM_DIRTY_GFN_F_DIRTY, __ATOMIC_RELEASE);
	__atomic_store_n(&r->dirty, at + 1, __ATOMIC_RELAXED);
}

int dirty_rings_enable(struct soft_vm *vm, uint64_t bytes)
{
	int r = -EINVAL;

	/* The kernel takes the number as 32 bits. */
	bytes = (uint32_t)bytes;
	if (!bytes || bytes & (bytes - 1) || bytes < SOFT_PAGE_SIZE ||
	    bytes < DIRTY_RING_SPARE * sizeof(struct kvm_dirty_gfn))
		return -EINVAL;
	if (bytes > DIRTY_RING_MAX * sizeof(struct kvm_dirty_gfn))
		return -E2BIG;
	mutex_lock(&vm->lock);
	if (!vm->dirty_ring_bytes && !atomic_load(&vm->nr_vcpus)) {
		WRITE_ONCE(vm->dirty_ring_bytes, (uint32_t)bytes);
		memslots_use_rings(&vm->mem);
		r = 0;
	}
	mutex_unlock(&vm->lock);
	return r;
}

static unsigned reset_one(struct dirty_ring *r, struct memslots *m)
{
	unsigned n = 0;

	/* No more than there are: the owner may go on marking entries. */
	for (; n < r->size; n++) {
		struct kvm_dirty_gfn *g = &r->gfn[r->reset & (r->size - 1)];

		if (!(__atomic_load_n(&g->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_RESET))
			break;
		memslots_forget_page_locked(m, READ_ONCE(g->slot), READ_ONCE(g->offset));
		WRITE_ONCE(g->flags, 0);
		__atomic_store_n(&r->reset, r->reset + 1, __ATOMIC_RELEASE);
	}
	return n;
}

int dirty_rings_reset(struct soft_vm *vm)
{
	unsigned n = 0;

	if (!READ_ONCE(vm->dirty_ring_bytes))
		return -EINVAL;
	mutex_lock(&vm->mem.lock);
	for (unsigned i = 0; i < atomic_load(&vm->nr_vcpus); i++)
		n += reset_one(&vm->vcpus[i]->ring, &vm->mem);
	/* As with a log: the bits first, then the pages, then the caller looks at memory. */
	if (n)
		engine_vm_protect(vm->engine, 0, UINT64_MAX);
	mutex_unlock(&vm->mem.lock);
	return (int)n;
}
