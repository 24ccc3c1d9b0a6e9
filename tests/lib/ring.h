/* SPDX-License-Identifier: MIT
 * The driver's side of a split virtqueue, for tests: honest by default, with
 * every field in reach for lies.
 */
#ifndef BELFRY_TESTS_RING_H
#define BELFRY_TESTS_RING_H

#include "virtio/virtio.h"

struct ring {
	struct ram *ram;
	uint16_t size;
	gpa_t desc_gpa, avail_gpa, used_gpa;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t next_desc, next_avail, seen_used;
	bool event_idx;
};

/* Lays the three parts out from gpa on, as the legacy layout does; zeroes them. */
void ring_init(struct ring *r, struct ram *ram, gpa_t gpa, uint16_t size);
/* Write descriptor i. */
void ring_desc(struct ring *r, unsigned i, uint64_t addr, uint32_t len, uint16_t flags,
	       uint16_t next);
/* Make head available; returns true if the device wants a kick. */
bool ring_offer(struct ring *r, uint16_t head);
/* One segment, device-writable or not, in the next descriptor of the ring. Returns its head. */
uint16_t ring_add(struct ring *r, uint64_t addr, uint32_t len, bool in);
/* Take a used entry: true if there was one. */
bool ring_take(struct ring *r, uint32_t *id, uint32_t *len);

#endif
