/* SPDX-License-Identifier: MIT */
#include "softkvm/memslot.h"
#include "engine/engine.h"
#include "softkvm/dirty_ring.h"
#include "softkvm/softkvm_priv.h"
#include <stdlib.h>

#define MAX_PAGES      ((1ull << 31) - 1)
#define USER_ADDRESS_END 0x7ffffffff000ull

int memslots_init(struct memslots *m, struct grace *g, struct engine_vm *engine)
{
	struct ranges *t;

	*m = (struct memslots){ .grace = g, .engine = engine, .max_slots = SOFT_MAX_SLOTS };
	t = ranges_edit(NULL, NULL, NULL, &m->spare);
	if (!t)
		return -ENOMEM;
	atomic_init(&m->table, t);
	mutex_init(&m->lock);
	return 0;
}

static struct memslot *slot_of(struct range *r)
{
	return r ? container_of(r, struct memslot, r) : NULL;
}

static void log_free(struct dirty_log *log)
{
	if (log)
		free(log->bits);
	free(log);
}

void memslots_destroy(struct memslots *m)
{
	struct ranges *t = atomic_load(&m->table);

	for (unsigned i = 0; i < t->n; i++) {
		log_free(slot_of(t->at[i])->log);
		free(slot_of(t->at[i]));
	}
	free(t);
	free(m->spare);
	free(m->by_id);
	mutex_destroy(&m->lock);
}

static struct dirty_log *log_create(uint64_t pages, bool all_dirty)
{
	struct dirty_log *log = calloc(1, sizeof(*log));

	if (!log)
		return NULL;
	log->words = (pages + 63) / 64;
	log->bits = calloc(log->words, sizeof(*log->bits));
	if (!log->bits) {
		free(log);
		return NULL;
	}
	if (all_dirty)
		for (uint64_t i = 0; i < pages; i++)
			log->bits[i / 64] |= BIT_ULL(i % 64);
	return log;
}

static struct memslot *find_id(const struct memslots *m, unsigned id)
{
	return id < m->n_ids ? m->by_id[id] : NULL;
}

static int ids_reserve(struct memslots *m, unsigned id)
{
	unsigned n = MAX(m->n_ids, 32u);
	struct memslot **p;

	while (n <= id)
		n *= 2;
	if (n == m->n_ids)
		return 0;
	p = realloc(m->by_id, n * sizeof(*p));
	if (!p)
		return -ENOMEM;
	memset(p + m->n_ids, 0, (n - m->n_ids) * sizeof(*p));
	m->by_id = p;
	m->n_ids = n;
	return 0;
}

/* What is wrong with the region by itself. */
static int check_region(const struct memslots *m, const struct kvm_userspace_memory_region *r)
{
	if (r->flags & ~(uint32_t)(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY))
		return -EINVAL;
	if ((r->memory_size | r->guest_phys_addr | r->userspace_addr) & (SOFT_PAGE_SIZE - 1))
		return -EINVAL;
	if (!range_within(r->userspace_addr, r->memory_size, USER_ADDRESS_END))
		return -EINVAL;
	/* The upper half is the address space: there is one. */
	if (r->slot >= m->max_slots)
		return -EINVAL;
	if (r->guest_phys_addr + r->memory_size < r->guest_phys_addr)
		return -EINVAL;
	return r->memory_size / SOFT_PAGE_SIZE > MAX_PAGES ? -EINVAL : 0;
}

/* Give the engine the new map, then publish it, then free what was before. Each of them may be NULL. */
static int change(struct memslots *m, struct memslot *gone, struct memslot *add)
{
	struct ranges *old = atomic_load(&m->table);
	struct ranges *new = ranges_edit(old, gone ? &gone->r : NULL, add ? &add->r : NULL, &m->spare);
	struct engine_slot e;
	int r;

	if (!new)
		return -ENOMEM;
	if (add)
		e = (struct engine_slot){
			.gpa = add->r.start,
			.size = add->r.size,
			.host = add->host,
			.flags = add->flags & KVM_MEM_READONLY ? ENGINE_SLOT_RDONLY : 0,
			.dirty = add->log ? add->log->bits : NULL,
			.id = add->id,
		};
	r = engine_vm_change_slot(m->engine, gone ? &gone->r.start : NULL, add ? &e : NULL, NULL);
	if (r) {
		m->spare = new;
		return r;
	}
	atomic_store(&m->table, new);
	grace_wait(m->grace);
	m->spare = old;
	m->by_id[gone ? gone->id : add->id] = add;
	m->pages += (add ? add->r.size : 0) / SOFT_PAGE_SIZE - (gone ? gone->r.size : 0) / SOFT_PAGE_SIZE;
	if (gone && (!add || add->log != gone->log))
		log_free(gone->log);
	free(gone);
	return 0;
}

/* What comes is s; old: what it comes for, or NULL. */
static int put_locked(struct memslots *m, struct memslot *old, const struct memslot *s)
{
	bool logged = s->flags & KVM_MEM_LOG_DIRTY_PAGES, all = !m->rings && m->manual_protect & KVM_DIRTY_LOG_INITIALLY_SET;
	struct memslot *add = malloc(sizeof(*add));
	int r = ids_reserve(m, s->id);

	if (!add || r) {
		free(add);
		return -ENOMEM;
	}
	*add = *s;
	if (logged)
		add->log = old && old->log ? old->log : log_create(s->r.size / SOFT_PAGE_SIZE, all);
	r = logged && !add->log ? -ENOMEM : change(m, old, add);
	if (r) {
		if (!old || add->log != old->log)
			log_free(add->log);
		free(add);
	}
	return r;
}

static int set_locked(struct memslots *m, const struct kvm_userspace_memory_region *r)
{
	struct memslot *old = find_id(m, r->slot);
	struct memslot s = {
		.r = { r->guest_phys_addr, r->memory_size }, .id = (uint16_t)r->slot, .flags = r->flags,
		.host = (uint8_t *)(uintptr_t)r->userspace_addr,
	};

	if (!r->memory_size)
		return old ? change(m, old, NULL) : -EINVAL;
	if (old) {
		if (s.host != old->host || s.r.size != old->r.size || ((s.flags ^ old->flags) & KVM_MEM_READONLY))
			return -EINVAL;
		if (s.r.start == old->r.start && s.flags == old->flags)
			return 0;
	}
	if (ranges_overlap(atomic_load(&m->table), old ? &old->r : NULL, s.r.start, s.r.size))
		return -EEXIST;
	if ((s.r.start + s.r.size - 1) >> SOFT_MAXPHYADDR)
		return -EINVAL;
	return put_locked(m, old, &s);
}

int memslots_set(struct memslots *m, const struct kvm_userspace_memory_region *r)
{
	int ret = check_region(m, r);

	if (ret)
		return ret;
	mutex_lock(&m->lock);
	ret = set_locked(m, r);
	mutex_unlock(&m->lock);
	return ret;
}

void memslots_set_manual_protect(struct memslots *m, uint32_t flags)
{
	mutex_lock(&m->lock);
	m->manual_protect = flags;
	mutex_unlock(&m->lock);
}

void memslots_use_rings(struct memslots *m)
{
	mutex_lock(&m->lock);
	m->rings = true;
	for (unsigned i = 0; i < m->n_ids; i++)
		if (m->by_id[i] && m->by_id[i]->log)
			memset(m->by_id[i]->log->bits, 0, m->by_id[i]->log->words * sizeof(uint64_t));
	mutex_unlock(&m->lock);
}

void memslots_forget_page_locked(struct memslots *m, uint32_t slot, uint64_t page)
{
	struct memslot *s = find_id(m, slot);

	if (s && s->log && page < s->r.size / SOFT_PAGE_SIZE)
		__atomic_fetch_and(&s->log->bits[page / 64], ~BIT_ULL(page % 64), __ATOMIC_SEQ_CST);
}

/*
 * The bits are taken first and the pages protected after, before the caller
 * looks at memory: a store is either seen by the caller or marked again.
 */
static int take_log(struct memslots *m, struct memslot *s, uint64_t *out)
{
	for (uint64_t i = 0; i < s->log->words; i++)
		out[i] = __atomic_exchange_n(&s->log->bits[i], 0, __ATOMIC_SEQ_CST);
	engine_vm_protect(m->engine, s->r.start, s->r.size);
	return 0;
}

int memslots_get_dirty_log(struct memslots *m, const struct kvm_dirty_log *d)
{
	struct memslot *s;
	uint64_t *copy;
	size_t len;
	int r = -ENOENT;

	mutex_lock(&m->lock);
	if (m->rings)
		r = -ENXIO;
	else if (d->slot >= m->max_slots)
		r = -EINVAL;
	if (r != -ENOENT)
		goto unlock;
	s = find_id(m, d->slot);
	if (!s || !s->log)
		goto unlock;
	len = s->log->words * sizeof(*copy);
	r = -ENOMEM;
	copy = malloc(len);
	if (!copy)
		goto unlock;
	if (m->manual_protect & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)
		for (uint64_t i = 0; i < s->log->words; i++)
			copy[i] = READ_ONCE(s->log->bits[i]);
	else
		take_log(m, s, copy);
	r = copy_to_user((uintptr_t)d->dirty_bitmap, copy, len);
	free(copy);
unlock:
	mutex_unlock(&m->lock);
	return r;
}

int memslots_clear_dirty_log(struct memslots *m, const struct kvm_clear_dirty_log *d)
{
	uint64_t pages, words, *mask;
	struct memslot *s;
	int r = -ENOENT;

	mutex_lock(&m->lock);
	if (m->rings)
		r = -ENXIO;
	else if (d->slot >= m->max_slots || d->first_page & 63)
		r = -EINVAL;
	if (r != -ENOENT)
		goto unlock;
	s = find_id(m, d->slot);
	if (!s || !s->log)
		goto unlock;
	r = -EINVAL;
	pages = s->r.size / SOFT_PAGE_SIZE;
	if (d->first_page > pages || d->num_pages > pages - d->first_page ||
	    (d->num_pages < pages - d->first_page && d->num_pages & 63))
		goto unlock;
	words = (d->num_pages + 63) / 64;
	r = -ENOMEM;
	mask = malloc(words * sizeof(*mask) + 1);
	if (!mask)
		goto unlock;
	r = copy_from_user(mask, (uintptr_t)d->dirty_bitmap, words * sizeof(*mask));
	if (!r) {
		for (uint64_t i = 0; i < words; i++)
			__atomic_fetch_and(&s->log->bits[d->first_page / 64 + i], ~mask[i],
					   __ATOMIC_SEQ_CST);
		engine_vm_protect(m->engine, s->r.start + d->first_page * SOFT_PAGE_SIZE,
				  (uint64_t)d->num_pages * SOFT_PAGE_SIZE);
	}
	free(mask);
unlock:
	mutex_unlock(&m->lock);
	return r;
}

static void mark(const struct memslots *m, const struct memslot *s, struct dirty_ring *ring, gpa_t gpa)
{
	uint64_t page = (gpa - s->r.start) / SOFT_PAGE_SIZE, bit = BIT_ULL(page % 64);

	if (!s->log || (m->rings && !ring))
		return;
	if (__atomic_fetch_or(&s->log->bits[page / 64], bit, __ATOMIC_SEQ_CST) & bit)
		return;
	if (m->rings)
		dirty_ring_push(ring, s->id, page);
}

/* One page's part of an access. */
static int access_page(const struct memslots *m, const struct ranges *t, struct dirty_ring *ring, gpa_t gpa,
		       void *buf, size_t len, bool write)
{
	const struct memslot *s = slot_of(ranges_find(t, gpa));
	uintptr_t host;

	if (!s || (write && s->flags & KVM_MEM_READONLY))
		return -EFAULT;
	host = (uintptr_t)s->host + (gpa - s->r.start);
	if (!write)
		return copy_from_user(buf, host, len);
	if (copy_to_user(host, buf, len))
		return -EFAULT;
	mark(m, s, ring, gpa);
	return 0;
}

static int guest_access(struct memslots *m, struct dirty_ring *ring, gpa_t gpa, void *buf, size_t len,
			bool write)
{
	unsigned g = grace_enter(m->grace);
	const struct ranges *t = atomic_load(&m->table);
	int r = 0;

	while (len && !r) {
		size_t n = MIN(len, SOFT_PAGE_SIZE - (gpa & (SOFT_PAGE_SIZE - 1)));

		r = access_page(m, t, ring, gpa, buf, n, write);
		gpa += n;
		buf = (uint8_t *)buf + n;
		len -= n;
	}
	grace_leave(m->grace, g);
	return r;
}

int guest_read(struct memslots *m, gpa_t gpa, void *dst, size_t len)
{
	return guest_access(m, NULL, gpa, dst, len, false);
}

bool guest_is_writable(struct memslots *m, gpa_t gpa)
{
	unsigned g = grace_enter(m->grace);
	const struct memslot *s = slot_of(ranges_find(atomic_load(&m->table), gpa));
	bool yes = s && !(s->flags & KVM_MEM_READONLY);

	grace_leave(m->grace, g);
	return yes;
}

int guest_write(struct memslots *m, struct dirty_ring *ring, gpa_t gpa, const void *src, size_t len)
{
	return guest_access(m, ring, gpa, (void *)(uintptr_t)src, len, true);
}

static int bits8(struct memslots *m, struct dirty_ring *ring, gpa_t gpa, uint8_t mask,
		 int (*op)(uint8_t *, uint8_t))
{
	unsigned g = grace_enter(m->grace);
	const struct memslot *s = slot_of(ranges_find(atomic_load(&m->table), gpa));
	int r = -EFAULT;

	if (s && !(s->flags & KVM_MEM_READONLY)) {
		r = op(s->host + (gpa - s->r.start), mask);
		if (r >= 0)
			mark(m, s, ring, gpa);
	}
	grace_leave(m->grace, g);
	return r;
}

int guest_set_bits8(struct memslots *m, struct dirty_ring *ring, gpa_t gpa, uint8_t mask)
{
	return bits8(m, ring, gpa, mask, user_set_bits8);
}

int guest_clear_bits8(struct memslots *m, struct dirty_ring *ring, gpa_t gpa, uint8_t mask)
{
	return bits8(m, ring, gpa, mask, user_clear_bits8);
}
