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
	struct memslot_table *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	*m = (struct memslots){ .grace = g, .engine = engine, .max_slots = SOFT_MAX_SLOTS };
	atomic_init(&m->table, t);
	mutex_init(&m->lock);
	return 0;
}

static void log_put(struct dirty_log *log)
{
	if (!log || --log->refs)
		return;
	free(log->bits);
	free(log);
}

static void table_free(struct memslot_table *t)
{
	for (unsigned i = 0; i < t->nr; i++)
		log_put(t->slot[i].log);
	free(t);
}

void memslots_destroy(struct memslots *m)
{
	table_free(atomic_load(&m->table));
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

static struct memslot *find_id(struct memslot_table *t, unsigned id)
{
	for (unsigned i = 0; i < t->nr; i++)
		if (t->slot[i].id == id)
			return &t->slot[i];
	return NULL;
}

/* The first slot that does not lie wholly below gpa. */
static unsigned place_of(const struct memslot_table *t, gpa_t gpa)
{
	unsigned lo = 0, hi = t->nr;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (t->slot[mid].gpa + t->slot[mid].size <= gpa)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* The slot that holds gpa, or NULL. */
static struct memslot *find_gpa(struct memslot_table *t, gpa_t gpa)
{
	unsigned i = place_of(t, gpa);

	return i < t->nr && t->slot[i].gpa <= gpa ? &t->slot[i] : NULL;
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

/* A copy of old without `gone` and with `add`; each may be NULL. */
static struct memslot_table *table_edit(const struct memslot_table *old, const struct memslot *gone,
					const struct memslot *add)
{
	struct memslot_table *t = malloc(sizeof(*t) + (old->nr + 1) * sizeof(t->slot[0]));
	struct memslot *at;

	if (!t)
		return NULL;
	t->nr = old->nr;
	memcpy(t->slot, old->slot, old->nr * sizeof(t->slot[0]));
	if (gone) {
		at = t->slot + (gone - old->slot);
		t->nr--;
		memmove(at, at + 1, (size_t)(t->slot + t->nr - at) * sizeof(*at));
	}
	if (add) {
		at = t->slot + place_of(t, add->gpa);
		memmove(at + 1, at, (size_t)(t->slot + t->nr - at) * sizeof(*at));
		t->nr++;
		*at = *add;
	}
	for (unsigned i = 0; i < t->nr; i++)
		if (t->slot[i].log)
			t->slot[i].log->refs++;
	return t;
}

/* Give the engine the new map, then publish it, then free the old one. */
static int table_install(struct memslots *m, struct memslot_table *t)
{
	struct memslot_table *old = atomic_load(&m->table);
	struct engine_slot *e = malloc((t->nr + 1) * sizeof(*e));
	int r;

	if (!e)
		return -ENOMEM;
	for (unsigned i = 0; i < t->nr; i++) {
		const struct memslot *s = &t->slot[i];

		e[i] = (struct engine_slot){
			.gpa = s->gpa,
			.size = s->size,
			.host = s->host,
			.flags = s->flags & KVM_MEM_READONLY ? ENGINE_SLOT_RDONLY : 0,
			.dirty = s->log ? s->log->bits : NULL,
			.id = s->id,
		};
	}
	r = engine_vm_set_slots(m->engine, e, t->nr, NULL);
	free(e);
	if (r)
		return r;
	atomic_store(&m->table, t);
	grace_wait(m->grace);
	table_free(old);
	return 0;
}

static bool overlaps(const struct memslot_table *t, unsigned id, gpa_t gpa, uint64_t size)
{
	for (unsigned i = place_of(t, gpa); i < t->nr && t->slot[i].gpa < gpa + size; i++)
		if (t->slot[i].id != id)
			return true;
	return false;
}

static int set_locked(struct memslots *m, const struct kvm_userspace_memory_region *r)
{
	struct memslot_table *cur = atomic_load(&m->table), *t;
	const struct memslot *old = find_id(cur, r->slot);
	struct memslot s = {
		.id = (uint16_t)r->slot, .flags = r->flags, .gpa = r->guest_phys_addr,
		.size = r->memory_size, .host = (uint8_t *)(uintptr_t)r->userspace_addr,
	};
	uint64_t old_pages = old ? old->size / SOFT_PAGE_SIZE : 0;
	int ret;

	if (!r->memory_size) {
		if (!old)
			return -EINVAL;
		t = table_edit(cur, old, NULL);
	} else {
		if (old) {
			if (s.host != old->host || s.size != old->size ||
			    ((s.flags ^ old->flags) & KVM_MEM_READONLY))
				return -EINVAL;
			if (s.gpa == old->gpa && s.flags == old->flags)
				return 0;
		}
		if ((!old || s.gpa != old->gpa) && overlaps(cur, r->slot, s.gpa, s.size))
			return -EEXIST;
		if ((s.gpa + s.size - 1) >> SOFT_MAXPHYADDR)
			return -EINVAL;
		if (s.flags & KVM_MEM_LOG_DIRTY_PAGES) {
			if (old && old->log)
				s.log = old->log;
			else
				s.log = log_create(s.size / SOFT_PAGE_SIZE,
						   !m->rings && m->manual_protect & KVM_DIRTY_LOG_INITIALLY_SET);
			if (!s.log)
				return -ENOMEM;
		}
		t = table_edit(cur, old, &s);
	}
	if (!t) {
		ret = -ENOMEM;
		goto drop_log;
	}
	ret = table_install(m, t);
	if (ret) {
		table_free(t);
		return ret;
	}
	m->pages += r->memory_size / SOFT_PAGE_SIZE - old_pages;
	return 0;

drop_log:
	if (s.log && !s.log->refs) {
		free(s.log->bits);
		free(s.log);
	}
	return ret;
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
	const struct memslot_table *t;

	mutex_lock(&m->lock);
	m->rings = true;
	t = atomic_load(&m->table);
	for (unsigned i = 0; i < t->nr; i++)
		if (t->slot[i].log)
			memset(t->slot[i].log->bits, 0, t->slot[i].log->words * sizeof(uint64_t));
	mutex_unlock(&m->lock);
}

void memslots_forget_page_locked(struct memslots *m, uint32_t slot, uint64_t page)
{
	struct memslot *s = find_id(atomic_load(&m->table), slot);

	if (s && s->log && page < s->size / SOFT_PAGE_SIZE)
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
	engine_vm_protect(m->engine, s->gpa, s->size);
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
	s = find_id(atomic_load(&m->table), d->slot);
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
	s = find_id(atomic_load(&m->table), d->slot);
	if (!s || !s->log)
		goto unlock;
	r = -EINVAL;
	pages = s->size / SOFT_PAGE_SIZE;
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
		engine_vm_protect(m->engine, s->gpa + d->first_page * SOFT_PAGE_SIZE,
				  (uint64_t)d->num_pages * SOFT_PAGE_SIZE);
	}
	free(mask);
unlock:
	mutex_unlock(&m->lock);
	return r;
}

static void mark(const struct memslots *m, const struct memslot *s, struct dirty_ring *ring, gpa_t gpa)
{
	uint64_t page = (gpa - s->gpa) / SOFT_PAGE_SIZE, bit = BIT_ULL(page % 64);

	if (!s->log || (m->rings && !ring))
		return;
	if (__atomic_fetch_or(&s->log->bits[page / 64], bit, __ATOMIC_SEQ_CST) & bit)
		return;
	if (m->rings)
		dirty_ring_push(ring, s->id, page);
}

/* One page's part of an access. */
static int access_page(const struct memslots *m, struct memslot_table *t, struct dirty_ring *ring, gpa_t gpa,
		       void *buf, size_t len, bool write)
{
	const struct memslot *s = find_gpa(t, gpa);
	uintptr_t host;

	if (!s || (write && s->flags & KVM_MEM_READONLY))
		return -EFAULT;
	host = (uintptr_t)s->host + (gpa - s->gpa);
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
	struct memslot_table *t = atomic_load(&m->table);
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
	const struct memslot *s = find_gpa(atomic_load(&m->table), gpa);
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
	const struct memslot *s = find_gpa(atomic_load(&m->table), gpa);
	int r = -EFAULT;

	if (s && !(s->flags & KVM_MEM_READONLY)) {
		r = op(s->host + (gpa - s->gpa), mask);
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
