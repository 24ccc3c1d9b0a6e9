/* SPDX-License-Identifier: MIT
 * The map's list of regions, transactions with undo, and publishing. The flat
 * view and the dispatch are in region_view.c, the doorbells' binding in
 * region_doorbell.c.
 */
#include "machine/region_priv.h"
#include <stdlib.h>

int region_map_create(struct region_map **out, struct vm *vm, const struct log *log)
{
	struct region_map *map = calloc(1, sizeof(*map));
	struct view *v;

	if (!map)
		return -ENOMEM;
	mutex_init_recursive(&map->lock);
	mutex_init(&map->readers_lock);
	map->vm = vm;
	map->log = log;
	map->tail = &map->regions;
	v = view_build(map);
	if (!v) {
		mutex_destroy(&map->readers_lock);
		mutex_destroy(&map->lock);
		free(map);
		return -ENOMEM;
	}
	atomic_init(&map->view, v);
	*out = map;
	return 0;
}

void region_map_destroy(struct region_map *map)
{
	if (!map)
		return;
	doorbells_unbind_all(map);
	for (struct region *r = map->regions; r; r = r->next)
		r->added = false;
	view_free(atomic_load(&map->view));
	while (map->retired) {
		struct view *v = map->retired;

		map->retired = v->next;
		view_free(v);
	}
	free(map->undo);
	mutex_destroy(&map->readers_lock);
	mutex_destroy(&map->lock);
	free(map);
}

void region_begin(struct region_map *map)
{
	mutex_lock(&map->lock);
	map->depth++;
}

/* Record how to take a change back. Without room the change must not happen. */
static struct undo *undo_push_locked(struct region_map *map, enum undo_kind kind)
{
	if (map->nr_undo == map->max_undo) {
		unsigned max = map->max_undo ? 2 * map->max_undo : 16;
		struct undo *u = realloc(map->undo, max * sizeof(*u));

		if (!u)
			return NULL;
		map->undo = u;
		map->max_undo = max;
	}
	map->undo[map->nr_undo] = (struct undo){ .kind = kind };
	return &map->undo[map->nr_undo++];
}

static void link_region_locked(struct region_map *map, struct region *r)
{
	r->next = NULL;
	r->added = true;
	*map->tail = r;
	map->tail = &r->next;
}

static struct region *unlink_region_locked(struct region_map *map, struct region *r)
{
	struct region *prev = NULL;

	for (struct region **at = &map->regions; *at; prev = *at, at = &(*at)->next) {
		if (*at == r) {
			*at = r->next;
			if (map->tail == &r->next)
				map->tail = at;
			break;
		}
	}
	r->added = false;
	return prev;
}

static void link_doorbell_locked(struct region *r, struct doorbell *d)
{
	d->region = r;
	d->next = r->doorbells;
	r->doorbells = d;
}

static void unlink_doorbell_locked(struct doorbell *d)
{
	for (struct doorbell **at = &d->region->doorbells; *at; at = &(*at)->next) {
		if (*at == d) {
			*at = d->next;
			break;
		}
	}
	d->region = NULL;
}

static void undo_all_locked(struct region_map *map)
{
	while (map->nr_undo) {
		struct undo *u = &map->undo[--map->nr_undo];

		switch (u->kind) {
		case UNDO_ADD:
			unlink_region_locked(map, u->region);
			break;
		case UNDO_DEL:
			/* Back to its old place: order decides among equal priorities. */
			if (u->prev) {
				u->region->next = u->prev->next;
				u->prev->next = u->region;
				if (map->tail == &u->prev->next)
					map->tail = &u->region->next;
			} else {
				u->region->next = map->regions;
				map->regions = u->region;
				if (map->tail == &map->regions)
					map->tail = &u->region->next;
			}
			u->region->added = true;
			break;
		case UNDO_MOVE:
			u->region->base = u->base;
			break;
		case UNDO_ENABLE:
			u->region->enabled = u->enabled;
			break;
		case UNDO_ADD_DOORBELL:
			unlink_doorbell_locked(u->doorbell);
			break;
		case UNDO_DEL_DOORBELL:
			link_doorbell_locked(u->region, u->doorbell);
			break;
		}
	}
}

static int publish_locked(struct region_map *map)
{
	struct view *next, *old;
	int r;

	next = view_build(map);
	if (!next)
		return -ENOMEM;
	/*
	 * The new view goes live before the doorbells move: a write that leaves
	 * the guest because its doorbell is just unbound is then matched in
	 * user space at the new place, so no kick is lost.
	 */
	old = atomic_exchange(&map->view, next);
	r = doorbells_rebind(map, next);
	if (r) {
		atomic_store(&map->view, old);
		view_retire(map, next);
		return r;
	}
	view_retire(map, old);
	return 0;
}

int region_commit(struct region_map *map)
{
	int r = 0;

	if (--map->depth == 0) {
		r = map->error;
		if (!r && map->nr_undo)
			r = publish_locked(map);
		if (r)
			undo_all_locked(map);
		map->nr_undo = 0;
		map->error = 0;
	}
	mutex_unlock(&map->lock);
	return r;
}

/*
 * Open a change: a transaction of its own, or one level of the caller's. NULL:
 * no memory; the change is left out and the outermost commit fails.
 */
static struct undo *change_begin(struct region_map *map, enum undo_kind kind)
{
	struct undo *u;

	region_begin(map);
	u = undo_push_locked(map, kind);
	if (!u)
		map->error = -ENOMEM;
	return u;
}

int region_add(struct region_map *map, struct region *r)
{
	struct undo *u;
	uint64_t end;

	if (!r->size || add_overflows(r->base, r->size - 1, &end) || r->space >= NR_SPACES ||
	    (r->space == SPACE_PIO && end > 0xffff))
		return -EINVAL;
	if (r->added)
		return -EEXIST;
	u = change_begin(map, UNDO_ADD);
	if (u) {
		u->region = r;
		link_region_locked(map, r);
	}
	return region_commit(map);
}

int region_del(struct region_map *map, struct region *r)
{
	struct undo *u;

	if (!r->added)
		return -ENOENT;
	u = change_begin(map, UNDO_DEL);
	if (u) {
		u->region = r;
		u->prev = unlink_region_locked(map, r);
	}
	return region_commit(map);
}

int region_move(struct region_map *map, struct region *r, uint64_t base)
{
	struct undo *u;
	uint64_t end;

	if (add_overflows(base, r->size - 1, &end) || (r->space == SPACE_PIO && end > 0xffff))
		return -EINVAL;
	if (r->base == base)
		return 0;
	u = change_begin(map, UNDO_MOVE);
	if (u) {
		u->region = r;
		u->base = r->base;
		r->base = base;
	}
	return region_commit(map);
}

int region_enable(struct region_map *map, struct region *r, bool enabled)
{
	struct undo *u;

	if (r->enabled == enabled)
		return 0;
	u = change_begin(map, UNDO_ENABLE);
	if (u) {
		u->region = r;
		u->enabled = r->enabled;
		r->enabled = enabled;
	}
	return region_commit(map);
}

int region_add_doorbell(struct region_map *map, struct region *r, struct doorbell *d)
{
	struct undo *u;

	if (d->len > 8 || (d->len && !is_pow2(d->len)) || (d->match && !d->len) ||
	    !range_within(d->off, MAX(d->len, 1), r->size) || d->off == r->size)
		return -EINVAL;
	if (d->region)
		return -EEXIST;
	u = change_begin(map, UNDO_ADD_DOORBELL);
	if (u) {
		u->doorbell = d;
		link_doorbell_locked(r, d);
	}
	return region_commit(map);
}

int region_del_doorbell(struct region_map *map, struct doorbell *d)
{
	struct undo *u;

	if (!d->region)
		return -ENOENT;
	u = change_begin(map, UNDO_DEL_DOORBELL);
	if (u) {
		u->doorbell = d;
		u->region = d->region;
		unlink_doorbell_locked(d);
	}
	return region_commit(map);
}
