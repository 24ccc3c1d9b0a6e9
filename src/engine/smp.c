/* SPDX-License-Identifier: MIT
 *
 * engine/smp: what vCPUs do to each other: the memory map, write tags on pages
 * with code, dropped code. docs/ENGINE.md, "Between vCPUs", draws the
 * interleavings.
 */
#include "engine/cache.h"

#include <sched.h>
#include <stdlib.h>

#define CODE_BITS 0xffffffffull

static _Atomic uint64_t *page_word(struct slot *s, gpa_t gpa)
{
	return &s->words[(gpa - s->r.start) >> 12];
}

/* ---- requests ---- */

void requests_handle(struct engine_vcpu *v)
{
	mutex_lock(&v->req_lock);
	atomic_fetch_and(&v->attn, ~REQ_TLB);
	if (v->req_map) {
		/* published before the request was posted. What is in the tables says where memory was;
		 * code is looked at when its page is fetched again (itlb_get()). */
		v->map = __atomic_load_n(&v->vm->map, __ATOMIC_ACQUIRE);
		v->last_slot = NULL;
		tlb_flush_all(v);
		v->cache->generation++;
	}
	for (unsigned int i = 0; i < v->req_n; i++) {
		gpa_t gpa = v->req[i].pfn << 12;

		switch (v->req[i].kind) {
		case RQ_DROP_WRITE:
			tlb_drop_write_page(v, gpa);
			break;
		case RQ_DROP_CODE:
			cache_drop_page(v, gpa);
			break;
		case RQ_FLUSH_WRITE:
			tlb_drop_write(v);
			break;
		default:
			break;
		}
	}
	v->req_n = 0;
	if (v->req_all) {
		tlb_drop_write(v);
		cache_flush(v);
	}
	v->req_map = v->req_all = false;
	atomic_store(&v->req_done, atomic_load(&v->req_posted));
	mutex_unlock(&v->req_lock);
}

static uint32_t request_post(struct engine_vcpu *v, uint8_t kind, gpa_t gpa)
{
	uint32_t ticket;

	mutex_lock(&v->req_lock);
	if (kind == RQ_NEW_MAP) {
		v->req_map = true;
	} else if (v->req_n < sizeof(v->req) / sizeof(v->req[0])) {
		v->req[v->req_n].kind = kind;
		v->req[v->req_n++].pfn = gpa >> 12;
	} else {
		v->req_all = true;
	}
	ticket = atomic_fetch_add(&v->req_posted, 1) + 1;
	atomic_fetch_or(&v->attn, REQ_TLB);
	mutex_unlock(&v->req_lock);
	return ticket;
}

static void request_wait(struct engine_vcpu *v, uint32_t ticket)
{
	for (unsigned int n = 0; atomic_load(&v->in_guest); n++) {
		if ((int32_t)(atomic_load(&v->req_done) - ticket) >= 0)
			return;
		if (n < 64)
			__builtin_ia32_pause();
		else
			sched_yield();
	}
}

void guest_enter(struct engine_vcpu *v)
{
	atomic_store(&v->in_guest, 1);
	if (atomic_load(&v->attn) & REQ_TLB)
		requests_handle(v);
}

void guest_leave(struct engine_vcpu *v)
{
	atomic_store(&v->in_guest, 0);
}

/*
 * A guest that spins may wait for a vCPU whose thread does not run because ours does. What KVM's
 * pause-loop exiting is for: after so many PAUSEs, some 10 us of a tight loop, let others run.
 */
#define PAUSES 512

void vcpu_pause(struct engine_vcpu *v)
{
	if (v->pauses-- > 0)
		return;
	v->pauses = PAUSES - 1;
	v->stats.yields++;
	fpu_put(v);
	guest_leave(v);
	sched_yield();
	guest_enter(v);
}

/* ---- pages with code ---- */

/* A page without marks may still have blocks: ours, or of who has not been told yet. */
static bool marks_lag(struct engine_vcpu *v)
{
	return atomic_load(&v->vm->dropping) || atomic_load(&v->attn) & REQ_TLB;
}

bool page_take_write(struct engine_vcpu *v, struct slot *s, gpa_t gpa)
{
	_Atomic uint64_t *w = page_word(s, gpa);
	uint64_t old = atomic_load(w), mine = (uint64_t)v->bit << 32;

	do {
		if (old & CODE_BITS)
			return false;
	} while (!(old & mine) && !atomic_compare_exchange_weak(w, &old, old | mine));
	return !marks_lag(v);
}

void page_mark_code(struct engine_vcpu *v, struct slot *s, gpa_t gpa)
{
	for (;;) {
		_Atomic uint64_t *w = page_word(s, gpa);
		uint64_t old = atomic_fetch_or(w, v->bit);
		uint32_t writers = (uint32_t)(old >> 32);
		struct engine_vm *vm = v->vm;

		if (!writers)
			return;
		if (writers & v->bit)
			tlb_drop_write_page(v, gpa);
		if (writers & ~v->bit || vm->n_vcpu > 32) {
			bool same_map;

			/* others drop theirs at their next safe point; we are at one meanwhile */
			guest_leave(v);
			mutex_lock(&vm->lock);
			same_map = !v->req_map; /* else our slot may be gone */
			for (unsigned int i = 0; same_map && i < vm->n_vcpu; i++) {
				struct engine_vcpu *o = vm->vcpu[i];

				if (o != v && (writers & o->bit))
					request_wait(o, request_post(o, RQ_DROP_WRITE, gpa));
			}
			if (same_map)
				atomic_fetch_and(w, ~((uint64_t)writers << 32));
			mutex_unlock(&vm->lock);
			guest_enter(v);
			/* what was asked of us meanwhile may have taken the mark back, or the map */
			s = slot_find(v, gpa);
			if (!s || (same_map && atomic_load(page_word(s, gpa)) & v->bit))
				return;
			continue;
		}
		atomic_fetch_and(w, ~((uint64_t)writers << 32));
		return;
	}
}

bool page_is_marked(const struct engine_vcpu *v, struct slot *s, gpa_t gpa)
{
	return atomic_load(page_word(s, gpa)) & v->bit;
}

void page_code_written(struct engine_vcpu *v, struct slot *s, gpa_t gpa, unsigned int len)
{
	_Atomic uint64_t *w = page_word(s, gpa);
	struct engine_vm *vm = v->vm;
	uint64_t codes;

	/* pairs with the locked mark in page_mark_code: either we see the mark or the
	 * translator sees the store */
	atomic_thread_fence(memory_order_seq_cst);
	codes = atomic_load(w) & CODE_BITS;
	if (!codes && !marks_lag(v))
		return;
	/* data beside code of ours alone: leave the blocks, for a while */
	if (codes == v->bit && vm->n_vcpu <= 32 && cache_spare_write(v, gpa, len))
		return;
	cache_drop_page(v, gpa & PAGE_MASK_);
	if (codes == v->bit && vm->n_vcpu <= 32) {
		atomic_fetch_and(w, ~codes);
		return;
	}
	/* or wait until who took the marks has told: what we do next may lead others to the code */
	mutex_lock(&vm->list_lock);
	atomic_store(&vm->dropping, true);
	atomic_fetch_and(w, ~codes);
	for (unsigned int i = 0; i < vm->n_vcpu && codes; i++)
		if (vm->vcpu[i] != v && (codes & vm->vcpu[i]->bit))
			(void)request_post(vm->vcpu[i], RQ_DROP_CODE, gpa & PAGE_MASK_);
	atomic_store(&vm->dropping, false);
	mutex_unlock(&vm->list_lock);
}

/* ---- VM ---- */

int engine_vm_create(const struct engine_config *cfg, struct engine_vm **out, struct err *e)
{
	struct engine_vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return err_set(e, -ENOMEM, "cannot allocate a virtual machine");
	vm->map = ranges_edit(NULL, NULL, NULL, &vm->spare_map);
	if (!vm->map) {
		free(vm);
		return err_set(e, -ENOMEM, "cannot allocate a memory map");
	}
	vm->code_mib = cfg && cfg->code_mib ? cfg->code_mib : 44;
	mutex_init(&vm->lock);
	mutex_init(&vm->list_lock);
	mutex_init(&vm->split_lock);
	*out = vm;
	return 0;
}

static void slot_free(struct slot *s)
{
	if (s)
		free((void *)s->words);
	free(s);
}

void engine_vm_destroy(struct engine_vm *vm)
{
	if (!vm)
		return;
	for (unsigned int i = 0; i < vm->map->n; i++)
		slot_free(container_of(vm->map->at[i], struct slot, r));
	free(vm->map);
	free(vm->spare_map);
	mutex_destroy(&vm->lock);
	mutex_destroy(&vm->list_lock);
	mutex_destroy(&vm->split_lock);
	free(vm->vcpu);
	free(vm);
}

int vm_add_vcpu(struct engine_vm *vm, struct engine_vcpu *v)
{
	struct engine_vcpu **l;

	mutex_lock(&vm->lock);
	l = malloc((vm->n_vcpu + 1) * sizeof(*l));
	if (l) {
		struct engine_vcpu **old = vm->vcpu;

		for (unsigned int i = 0; i < vm->n_vcpu; i++)
			l[i] = old[i];
		l[vm->n_vcpu] = v;
		v->bit = 1u << (vm->n_vcpu % 32);
		v->map = vm->map;
		mutex_lock(&vm->list_lock);
		vm->vcpu = l;
		vm->n_vcpu++;
		mutex_unlock(&vm->list_lock);
		free(old);
	}
	mutex_unlock(&vm->lock);
	return l ? 0 : -ENOMEM;
}

void vm_remove_vcpu(struct engine_vm *vm, struct engine_vcpu *v)
{
	mutex_lock(&vm->lock);
	mutex_lock(&vm->list_lock);
	for (unsigned int i = 0; i < vm->n_vcpu; i++)
		if (vm->vcpu[i] == v) {
			vm->vcpu[i] = vm->vcpu[--vm->n_vcpu];
			break;
		}
	mutex_unlock(&vm->list_lock);
	mutex_unlock(&vm->lock);
}

/* Post to every vCPU and wait until each has done it or is outside. vm->lock held. */
static void all_sync_locked(struct engine_vm *vm, uint8_t kind)
{
	for (unsigned int i = 0; i < vm->n_vcpu; i++)
		(void)request_post(vm->vcpu[i], kind, 0);
	for (unsigned int i = 0; i < vm->n_vcpu; i++)
		request_wait(vm->vcpu[i], atomic_load(&vm->vcpu[i]->req_posted));
}

static bool slot_is_valid(const struct engine_slot *s)
{
	return s->size && !((s->gpa | s->size | (uint64_t)s->host) & 4095) && s->host &&
	       range_within(s->gpa, s->size, 1ull << 52);
}

/*
 * The slot that comes in the place of `gone`. If it is the same memory at the same place it takes its
 * page words (what is noted there stays true enough: who has no tag or code any more is asked once
 * for nothing), else new ones: code that was made when another slot was there finds no mark.
 */
static struct slot *slot_make(const struct engine_slot *s, const struct slot *gone)
{
	struct slot *new = malloc(sizeof(*new));

	if (!new)
		return NULL;
	*new = (struct slot){.r = {s->gpa, s->size}, .host = s->host, .flags = s->flags, .dirty = s->dirty,
			     .id = s->id};
	if (gone && gone->r.start == s->gpa && gone->r.size == s->size && gone->host == s->host)
		new->words = gone->words;
	else
		new->words = calloc(s->size >> 12, sizeof(uint64_t));
	if (new->words)
		return new;
	free(new);
	return NULL;
}

static int change_slot_locked(struct engine_vm *vm, const gpa_t *at, const struct engine_slot *add,
			      struct err *e)
{
	struct range *r = at ? ranges_find(vm->map, *at) : NULL;
	struct slot *gone = r ? container_of(r, struct slot, r) : NULL, *new = NULL;
	struct ranges *map, *old = vm->map;

	if (at && (!gone || gone->r.start != *at))
		return err_set(e, -ENOENT, "no memory slot begins at %#llx", (unsigned long long)*at);
	if (add) {
		if (ranges_overlap(vm->map, gone ? &gone->r : NULL, add->gpa, add->size))
			return err_set(e, -EINVAL, "memory slots overlap at %#llx", (unsigned long long)add->gpa);
		new = slot_make(add, gone);
		if (!new)
			return err_set(e, -ENOMEM, "cannot allocate a memory slot");
	}
	map = ranges_edit(old, gone ? &gone->r : NULL, new ? &new->r : NULL, &vm->spare_map);
	if (!map) {
		if (gone && new && new->words == gone->words)
			new->words = NULL;
		slot_free(new);
		return err_set(e, -ENOMEM, "cannot allocate a memory map");
	}
	__atomic_store_n(&vm->map, map, __ATOMIC_RELEASE);
	all_sync_locked(vm, RQ_NEW_MAP);
	vm->spare_map = old;
	if (gone && new && new->words == gone->words)
		gone->words = NULL;
	slot_free(gone);
	return 0;
}

int engine_vm_change_slot(struct engine_vm *vm, const gpa_t *gone, const struct engine_slot *add, struct err *e)
{
	int r;

	if (add && !slot_is_valid(add))
		return err_set(e, -EINVAL, "a memory slot's addresses and size must be multiples of 4096");
	mutex_lock(&vm->lock);
	r = change_slot_locked(vm, gone, add, e);
	mutex_unlock(&vm->lock);
	return r;
}

void engine_vm_protect(struct engine_vm *vm, gpa_t gpa, uint64_t size)
{
	(void)gpa;
	(void)size;
	mutex_lock(&vm->lock);
	all_sync_locked(vm, RQ_FLUSH_WRITE);
	mutex_unlock(&vm->lock);
}

void engine_vm_code_changed(struct engine_vm *vm, gpa_t gpa, uint64_t size)
{
	mutex_lock(&vm->lock);
	for (gpa_t p = gpa & PAGE_MASK_; p < gpa + size; p += 4096)
		for (unsigned int i = 0; i < vm->n_vcpu; i++)
			(void)request_post(vm->vcpu[i], RQ_DROP_CODE, p);
	mutex_unlock(&vm->lock);
}
