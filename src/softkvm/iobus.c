/* SPDX-License-Identifier: MIT */
#include "softkvm/iobus.h"
#include <stdlib.h>

/* May d take access [addr, addr+len)? */
static bool covers(const struct iobus_device *d, uint64_t addr, unsigned len)
{
	if (!d->len)
		return addr == d->addr;
	return addr >= d->addr && range_within(addr - d->addr, len, d->len);
}

int iobus_init(struct iobus *b, struct grace *g)
{
	struct iobus_table *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	b->grace = g;
	b->spare = NULL;
	atomic_init(&b->table, t);
	return 0;
}

void iobus_destroy(struct iobus *b)
{
	free(atomic_load(&b->table));
	free(b->spare);
}

/* Readers leave old before it is used again. */
static void publish(struct iobus *b, struct iobus_table *t)
{
	atomic_store(&b->table, t);
	grace_wait(b->grace);
}

int iobus_add(struct iobus *b, struct iobus_device *d)
{
	struct iobus_table *old = atomic_load(&b->table), *t, *spare;
	size_t size = sizeof(*t) + (old->nr + 1) * sizeof(t->dev[0]);
	unsigned at = 0;

	if (d->ops->counted && old->nr_counted >= IOBUS_MAX)
		return -ENOSPC;
	t = malloc(size);
	spare = realloc(b->spare, size);
	if (spare)
		b->spare = spare;
	if (!t || !spare) {
		free(t);
		return -ENOMEM;
	}
	while (at < old->nr && old->dev[at]->addr <= d->addr)
		at++;
	memcpy(t->dev, old->dev, at * sizeof(t->dev[0]));
	t->dev[at] = d;
	memcpy(t->dev + at + 1, old->dev + at, (old->nr - at) * sizeof(t->dev[0]));
	t->nr = old->nr + 1;
	t->nr_counted = old->nr_counted + d->ops->counted;
	t->reach = MAX(old->reach, MAX(d->len, 1));
	publish(b, t);
	free(old);
	return 0;
}

void iobus_remove(struct iobus *b, struct iobus_device *d)
{
	struct iobus_table *old = atomic_load(&b->table), *t = b->spare;
	unsigned at = 0;

	while (at < old->nr && old->dev[at] != d)
		at++;
	if (at == old->nr)
		return;
	memcpy(t->dev, old->dev, at * sizeof(t->dev[0]));
	memcpy(t->dev + at, old->dev + at + 1, (old->nr - at - 1) * sizeof(t->dev[0]));
	t->nr = old->nr - 1;
	t->nr_counted = old->nr_counted - d->ops->counted;
	t->reach = 1;
	for (unsigned i = 0; i < t->nr; i++)
		t->reach = MAX(t->reach, t->dev[i]->len);
	b->spare = old;
	publish(b, t);
}

/* The first device that could cover addr: the last that starts there, and back by the reach. */
static unsigned first_of(const struct iobus_table *t, uint64_t addr)
{
	unsigned lo = 0, hi = t->nr;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (t->dev[mid]->addr <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	while (lo && addr - t->dev[lo - 1]->addr < t->reach)
		lo--;
	return lo;
}

bool iobus_write(struct iobus *b, uint64_t addr, unsigned len, uint64_t value, void *cpu)
{
	unsigned g = grace_enter(b->grace);
	struct iobus_table *t = atomic_load(&b->table);
	bool taken = false;

	for (unsigned i = first_of(t, addr); i < t->nr && !taken && t->dev[i]->addr <= addr; i++)
		if (covers(t->dev[i], addr, len))
			taken = t->dev[i]->ops->write(t->dev[i], addr, len, value, cpu);
	grace_leave(b->grace, g);
	return taken;
}

bool iobus_ring(struct iobus *b, uint64_t addr, unsigned len, uint64_t value)
{
	unsigned g = grace_enter(b->grace);
	struct iobus_table *t = atomic_load(&b->table);
	bool taken = false;

	for (unsigned i = first_of(t, addr); i < t->nr && !taken && t->dev[i]->addr <= addr; i++) {
		struct iobus_device *d = t->dev[i];

		if (!covers(d, addr, len))
			continue;
		if (!d->ops->ring)
			break;
		taken = d->ops->ring(d, addr, len, value);
	}
	grace_leave(b->grace, g);
	return taken;
}

bool iobus_read(struct iobus *b, uint64_t addr, unsigned len, uint64_t *value, void *cpu)
{
	unsigned g = grace_enter(b->grace);
	struct iobus_table *t = atomic_load(&b->table);
	bool taken = false;

	for (unsigned i = first_of(t, addr); i < t->nr && !taken && t->dev[i]->addr <= addr; i++)
		if (t->dev[i]->ops->read && covers(t->dev[i], addr, len))
			taken = t->dev[i]->ops->read(t->dev[i], addr, len, value, cpu);
	grace_leave(b->grace, g);
	return taken;
}
