/* SPDX-License-Identifier: MIT */
#include "ring.h"
#include <stdatomic.h>
#include <stdlib.h>

void ring_init(struct ring *r, struct ram *ram, gpa_t gpa, uint16_t size)
{
	*r = (struct ring){ .ram = ram, .size = size, .desc_gpa = gpa };
	r->avail_gpa = gpa + 16ull * size;
	r->used_gpa = align_up(r->avail_gpa + 6 + 2ull * size, 4096);
	r->desc = ram_ptr(ram, r->desc_gpa, 16ull * size);
	r->avail = ram_ptr(ram, r->avail_gpa, 6 + 2ull * size);
	r->used = ram_ptr(ram, r->used_gpa, 6 + 8ull * size);
	if (!r->desc || !r->avail || !r->used)
		abort();
	memset(r->desc, 0, 16ull * size);
	memset(r->avail, 0, 6 + 2ull * size);
	memset(r->used, 0, 6 + 8ull * size);
}

void ring_desc(struct ring *r, unsigned i, uint64_t addr, uint32_t len, uint16_t flags,
	       uint16_t next)
{
	r->desc[i] = (struct vring_desc){ .addr = addr, .len = len, .flags = flags, .next = next };
}

bool ring_offer(struct ring *r, uint16_t head)
{
	uint16_t old = r->next_avail, event;

	r->avail->ring[r->next_avail++ % r->size] = head;
	__atomic_store_n(&r->avail->idx, r->next_avail, __ATOMIC_RELEASE);
	atomic_thread_fence(memory_order_seq_cst);
	if (!r->event_idx)
		return !(__atomic_load_n(&r->used->flags, __ATOMIC_RELAXED) &
			 VRING_USED_F_NO_NOTIFY);
	event = __atomic_load_n((uint16_t *)&r->used->ring[r->size], __ATOMIC_RELAXED);
	return vring_need_event(event, r->next_avail, old);
}

uint16_t ring_add(struct ring *r, uint64_t addr, uint32_t len, bool in)
{
	uint16_t head = r->next_desc++ % r->size;

	ring_desc(r, head, addr, len, in ? VRING_DESC_F_WRITE : 0, 0);
	ring_offer(r, head);
	return head;
}

bool ring_take(struct ring *r, uint32_t *id, uint32_t *len)
{
	if (__atomic_load_n(&r->used->idx, __ATOMIC_ACQUIRE) == r->seen_used)
		return false;
	*id = r->used->ring[r->seen_used % r->size].id;
	*len = r->used->ring[r->seen_used % r->size].len;
	r->seen_used++;
	return true;
}
