/* SPDX-License-Identifier: MIT
 * Keeping the KVM half's ioeventfds equal to the doorbells of a view: diff,
 * unbind what went, bind what came, all or nothing.
 */
#include "machine/region_priv.h"
#include <stdlib.h>

static struct vm_doorbell key_of(enum region_space space, const struct flat_bell *b)
{
	return (struct vm_doorbell){
		.pio = space == SPACE_PIO,
		.len = b->bell->len,
		.match = b->bell->match,
		.address = b->address,
		.data = b->bell->match ? b->bell->data & len_mask(b->bell->len) : 0,
		.fd = b->bell->n->fd,
	};
}

static bool key_equal(const struct vm_doorbell *a, const struct vm_doorbell *b)
{
	return a->pio == b->pio && a->len == b->len && a->match == b->match &&
	       a->address == b->address && a->data == b->data && a->fd == b->fd;
}

static bool contains(const struct bound *set, unsigned nr, const struct vm_doorbell *d)
{
	for (unsigned i = 0; i < nr; i++)
		if (key_equal(&set[i].d, d))
			return true;
	return false;
}

static unsigned wanted_set(const struct view *v, struct bound **out)
{
	unsigned max = 0, n = 0;
	struct bound *w;

	for (int s = 0; s < NR_SPACES; s++)
		max += v->nr_bells[s];
	w = calloc(max ? max : 1, sizeof(*w));
	*out = w;
	if (!w)
		return 0;
	for (int s = 0; s < NR_SPACES; s++)
		for (unsigned i = 0; i < v->nr_bells[s]; i++)
			if (v->bells[s][i].bell->path == NOTIFY_IOEVENTFD)
				w[n++].d = key_of((enum region_space)s, &v->bells[s][i]);
	return n;
}

static void must_restore(struct region_map *map, int r, const struct vm_doorbell *d)
{
	if (r)
		log_error(map->log, "doorbell at 0x%llx cannot be put back (%s): kicks there now leave "
			  "the guest", (unsigned long long)d->address, strerror(-r));
}

int doorbells_rebind(struct region_map *map, const struct view *v)
{
	struct bound *want;
	unsigned nr, i, j;
	int r = 0;

	if (!map->vm)
		return 0;
	nr = wanted_set(v, &want);
	if (!want)
		return -ENOMEM;
	/* What goes leaves first: what comes may claim its address. */
	for (i = 0; i < map->nr_bound; i++)
		if (!contains(want, nr, &map->bound[i].d))
			(void)vm_unbind_ioeventfd(map->vm, &map->bound[i].d);
	for (j = 0; j < nr; j++) {
		if (contains(map->bound, map->nr_bound, &want[j].d))
			continue;
		r = vm_bind_ioeventfd(map->vm, &want[j].d);
		if (r)
			goto roll_back;
	}
	free(map->bound);
	map->bound = want;
	map->nr_bound = nr;
	return 0;

roll_back:
	log_warn(map->log, "cannot bind the doorbell at 0x%llx: %s",
		 (unsigned long long)want[j].d.address, strerror(-r));
	while (j--)
		if (!contains(map->bound, map->nr_bound, &want[j].d))
			(void)vm_unbind_ioeventfd(map->vm, &want[j].d);
	for (i = 0; i < map->nr_bound; i++)
		if (!contains(want, nr, &map->bound[i].d))
			must_restore(map, vm_bind_ioeventfd(map->vm, &map->bound[i].d),
				     &map->bound[i].d);
	free(want);
	return r;
}

void doorbells_unbind_all(struct region_map *map)
{
	if (map->vm)
		for (unsigned i = 0; i < map->nr_bound; i++)
			(void)vm_unbind_ioeventfd(map->vm, &map->bound[i].d);
	free(map->bound);
	map->bound = NULL;
	map->nr_bound = 0;
}

unsigned region_nr_bound(struct region_map *map)
{
	unsigned n;

	mutex_lock(&map->lock);
	n = map->nr_bound;
	mutex_unlock(&map->lock);
	return n;
}
