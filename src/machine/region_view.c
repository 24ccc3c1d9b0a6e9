/* SPDX-License-Identifier: MIT
 * The flat view: building, publishing's other half (retiring), and dispatch.
 */
#include "machine/region_priv.h"
#include <stdlib.h>

/* ---- building -------------------------------------------------------- */

static void view_sort(struct region **a, unsigned n)
{
	/* Insertion sort, stable: equal priorities keep their order of addition. */
	for (unsigned i = 1; i < n; i++) {
		struct region *r = a[i];
		unsigned j = i;

		for (; j && a[j - 1]->priority < r->priority; j--)
			a[j] = a[j - 1];
		a[j] = r;
	}
}

/*
 * Put the parts of r that nobody of a higher rank covers into the list, which
 * stays sorted. The list has room: each region adds at most one piece more
 * than there are pieces before it.
 */
static unsigned view_insert(struct flat *f, unsigned nr, struct region *r)
{
	uint64_t at = r->base, last = r->base + (r->size - 1);
	unsigned i = 0;

	while (i < nr && f[i].base + (f[i].size - 1) < at)
		i++;
	for (;;) {
		uint64_t stop = last;

		if (i < nr && f[i].base <= last) {
			if (f[i].base <= at) {
				uint64_t f_last = f[i].base + (f[i].size - 1);

				if (f_last >= last)
					return nr;
				at = f_last + 1;
				i++;
				continue;
			}
			stop = f[i].base - 1;
		}
		memmove(&f[i + 1], &f[i], (nr - i) * sizeof(*f));
		f[i] = (struct flat){
			.base = at, .size = stop - at + 1, .off = at - r->base, .region = r,
		};
		nr++;
		i++;
		if (stop == last)
			return nr;
		at = stop + 1;
	}
}

static const struct flat *view_find(const struct view *v, enum region_space space, uint64_t addr)
{
	const struct flat *f = v->flat[space];
	unsigned lo = 0, hi = v->nr[space];

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (addr < f[mid].base)
			hi = mid;
		else if (addr - f[mid].base >= f[mid].size)
			lo = mid + 1;
		else
			return &f[mid];
	}
	return NULL;
}

static int bell_order(const void *a, const void *b)
{
	const struct flat_bell *x = a, *y = b;

	return x->address < y->address ? -1 : x->address > y->address;
}

static int view_build_bells(struct view *v, enum region_space space, struct region **regions,
			    unsigned nr)
{
	unsigned n = 0;

	for (unsigned i = 0; i < nr; i++)
		for (struct doorbell *d = regions[i]->doorbells; d; d = d->next)
			n++;
	if (!n)
		return 0;
	v->bells[space] = calloc(n, sizeof(struct flat_bell));
	if (!v->bells[space])
		return -ENOMEM;
	n = 0;
	for (unsigned i = 0; i < nr; i++) {
		for (struct doorbell *d = regions[i]->doorbells; d; d = d->next) {
			uint64_t address = regions[i]->base + d->off;
			const struct flat *f = view_find(v, space, address);

			/* Rings only where its region is what the guest sees, whole. */
			if (f && f->region == regions[i] &&
			    range_within(address - f->base, MAX(d->len, 1), f->size))
				v->bells[space][n++] = (struct flat_bell){ address, d };
		}
	}
	v->nr_bells[space] = n;
	qsort(v->bells[space], n, sizeof(struct flat_bell), bell_order);
	return 0;
}

static int view_build_space(struct region_map *map, struct view *v, enum region_space space)
{
	struct region **sorted;
	unsigned n = 0;
	int r;

	for (struct region *g = map->regions; g; g = g->next)
		n += g->enabled && g->space == space;
	if (!n)
		return 0;
	sorted = calloc(n, sizeof(*sorted));
	v->flat[space] = calloc(2 * n, sizeof(struct flat));
	if (!sorted || !v->flat[space]) {
		free(sorted);
		return -ENOMEM;
	}
	n = 0;
	for (struct region *g = map->regions; g; g = g->next)
		if (g->enabled && g->space == space)
			sorted[n++] = g;
	view_sort(sorted, n);
	for (unsigned i = 0; i < n; i++)
		v->nr[space] = view_insert(v->flat[space], v->nr[space], sorted[i]);
	r = view_build_bells(v, space, sorted, n);
	free(sorted);
	return r;
}

struct view *view_build(struct region_map *map)
{
	struct view *v = calloc(1, sizeof(*v));

	if (!v)
		return NULL;
	for (int s = 0; s < NR_SPACES; s++) {
		if (view_build_space(map, v, (enum region_space)s)) {
			view_free(v);
			return NULL;
		}
	}
	return v;
}

void view_free(struct view *v)
{
	if (!v)
		return;
	for (int s = 0; s < NR_SPACES; s++) {
		free(v->flat[s]);
		free(v->bells[s]);
	}
	free(v);
}

/* ---- readers and the publisher ---------------------------------------- */

void region_reader_add(struct region_map *map, struct region_reader *rd)
{
	atomic_init(&rd->view, NULL);
	mutex_lock(&map->readers_lock);
	rd->next = map->readers;
	map->readers = rd;
	mutex_unlock(&map->readers_lock);
}

void region_reader_del(struct region_map *map, struct region_reader *rd)
{
	mutex_lock(&map->readers_lock);
	for (struct region_reader **at = &map->readers; *at; at = &(*at)->next) {
		if (*at == rd) {
			*at = rd->next;
			break;
		}
	}
	mutex_unlock(&map->readers_lock);
}

static bool view_in_use(struct region_map *map, const struct view *v)
{
	bool used = false;

	for (struct region_reader *rd = map->readers; rd && !used; rd = rd->next)
		used = atomic_load(&rd->view) == v;
	return used;
}

/* v is not published any more: free it, and older ones, as soon as no reader holds them. */
void view_retire(struct region_map *map, struct view *v)
{
	struct view **at = &map->retired;

	v->next = map->retired;
	map->retired = v;
	mutex_lock(&map->readers_lock);
	while (*at) {
		struct view *old = *at;

		if (view_in_use(map, old)) {
			at = &old->next;
			continue;
		}
		*at = old->next;
		view_free(old);
	}
	mutex_unlock(&map->readers_lock);
}

/*
 * Hold the current view. A nested dispatch (an op that dispatches) goes on with
 * the view its thread already holds. Returns true if the caller must release.
 */
static const struct view *view_hold(struct region_map *map, struct region_reader *rd, bool *mine)
{
	const struct view *v = atomic_load_explicit(&rd->view, memory_order_relaxed);

	*mine = !v;
	while (!v) {
		const struct view *seen = atomic_load(&map->view);

		atomic_store(&rd->view, seen);
		/* Still published after our mark is visible: the publisher will see the mark. */
		if (atomic_load(&map->view) == seen)
			v = seen;
	}
	return v;
}

static void view_release(struct region_reader *rd, bool mine)
{
	if (mine)
		atomic_store_explicit(&rd->view, NULL, memory_order_release);
}

/* ---- dispatch ---------------------------------------------------------- */

/* Largest power of two that is at most n (1..8). */
static unsigned piece_len(unsigned n)
{
	return n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
}

static void flat_read(const struct flat *f, uint64_t addr, uint8_t *data, unsigned len)
{
	const struct region_ops *ops = f->region->ops;
	unsigned max = ops->max_len ? ops->max_len : 8, min = MAX(ops->min_len, 1u);
	uint64_t off = addr - f->base + f->off;

	while (len) {
		unsigned n = MIN(piece_len(len), max);
		uint64_t value = UINT64_MAX;

		if (n >= min && ops->read)
			value = ops->read(f->region->arg, off, n);
		store_le(data, value, n);
		data += n;
		off += n;
		len -= n;
	}
}

static void flat_write(const struct flat *f, uint64_t addr, const uint8_t *data, unsigned len)
{
	const struct region_ops *ops = f->region->ops;
	unsigned max = ops->max_len ? ops->max_len : 8, min = MAX(ops->min_len, 1u);
	uint64_t off = addr - f->base + f->off;

	while (len) {
		unsigned n = MIN(piece_len(len), max);

		if (n >= min && ops->write)
			ops->write(f->region->arg, off, load_le(data, n), n);
		data += n;
		off += n;
		len -= n;
	}
}

/* Match as KVM's ioeventfd does: same address, same width unless wildcard, same data if asked. */
static bool ring_bell(const struct view *v, enum region_space space, uint64_t addr,
		      const void *data, unsigned len)
{
	const struct flat_bell *b = v->bells[space];
	unsigned lo = 0, hi = v->nr_bells[space];

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (b[mid].address < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < v->nr_bells[space] && b[lo].address == addr; lo++) {
		struct doorbell *d = b[lo].bell;

		if (d->len && d->len != len)
			continue;
		if (d->match && load_le(data, len) != (d->data & len_mask(len)))
			continue;
		atomic_fetch_add_explicit(&d->exits, 1, memory_order_relaxed);
		(void)notifier_signal(d->n); /* -EAGAIN: the count is full, so the consumer is due anyway */
		return true;
	}
	return false;
}

static int dispatch(struct region_map *map, struct region_reader *rd, enum region_space space,
		    uint64_t addr, void *data, unsigned len, bool write)
{
	const struct view *v;
	uint8_t *p = data;
	bool mine;
	int r = 0;

	if (!len || len > 8)
		return -EINVAL;
	v = view_hold(map, rd, &mine);
	if (write && v->nr_bells[space] && ring_bell(v, space, addr, data, len))
		goto release;
	while (len) {
		const struct flat *f = view_find(v, space, addr);
		unsigned n = 1;

		if (f) {
			/* Up to the region's own end: see region_read(). */
			uint64_t room = f->region->size - (addr - f->base + f->off);

			n = room < len ? (unsigned)room : len;
			if (write)
				flat_write(f, addr, p, n);
			else
				flat_read(f, addr, p, n);
		} else {
			if (!write)
				*p = 0xff;
			r = -ENXIO;
		}
		p += n;
		addr += n;
		len -= n;
	}
release:
	view_release(rd, mine);
	return r;
}

int region_read(struct region_map *map, struct region_reader *rd, enum region_space space,
		uint64_t addr, void *data, unsigned len)
{
	return dispatch(map, rd, space, addr, data, len, false);
}

int region_write(struct region_map *map, struct region_reader *rd, enum region_space space,
		 uint64_t addr, const void *data, unsigned len)
{
	uint8_t copy[8];

	if (!len || len > 8)
		return -EINVAL;
	memcpy(copy, data, len);
	return dispatch(map, rd, space, addr, copy, len, true);
}

void region_walk(struct region_map *map, enum region_space space,
		 void (*fn)(void *arg, const struct region *r, uint64_t base, uint64_t size),
		 void *arg)
{
	const struct view *v;

	mutex_lock(&map->lock);
	v = atomic_load(&map->view);
	for (unsigned i = 0; i < v->nr[space]; i++)
		fn(arg, v->flat[space][i].region, v->flat[space][i].base, v->flat[space][i].size);
	mutex_unlock(&map->lock);
}
