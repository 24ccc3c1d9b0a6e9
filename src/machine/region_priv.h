/* SPDX-License-Identifier: MIT
 * Inside the region map. docs/REGIONS.md has the protocol between readers and
 * the publisher.
 */
#ifndef BELFRY_MACHINE_REGION_PRIV_H
#define BELFRY_MACHINE_REGION_PRIV_H

#include "machine/machine.h"
#include <stdatomic.h>

/* A piece of the flat view: [base, base+size) of a space is region at offset off. */
struct flat {
	uint64_t base, size, off;
	struct region *region;
};

/* A doorbell's place in the flat view. */
struct flat_bell {
	uint64_t address;
	struct doorbell *bell;
};

/* Immutable once published. */
struct view {
	struct flat *flat[NR_SPACES];
	unsigned nr[NR_SPACES];
	struct flat_bell *bells[NR_SPACES]; /* sorted by address */
	unsigned nr_bells[NR_SPACES];
	struct view *next; /* list of the retired */
};

enum undo_kind {
	UNDO_ADD, UNDO_DEL, UNDO_MOVE, UNDO_ENABLE, UNDO_ADD_DOORBELL, UNDO_DEL_DOORBELL,
};

struct undo {
	enum undo_kind kind;
	struct region *region, *prev;
	struct doorbell *doorbell;
	uint64_t base;
	bool enabled;
};

/* A doorbell the KVM half holds. */
struct bound {
	struct vm_doorbell d;
};

struct region_map {
	pthread_mutex_t lock;            /* recursive: held from begin to commit */
	struct vm *vm;
	const struct log *log;
	struct region *regions, **tail;  /* in order of addition */
	unsigned depth;
	struct undo *undo;
	unsigned nr_undo, max_undo;
	int error;                       /* a change inside the transaction failed */
	_Atomic(struct view *) view;
	struct view *retired;            /* still seen by a reader, perhaps */
	pthread_mutex_t readers_lock;    /* list of readers; inside `lock` */
	struct region_reader *readers;
	struct bound *bound;
	unsigned nr_bound;
};

/* region_view.c */
struct view *view_build(struct region_map *map);
void view_free(struct view *v);
void view_retire(struct region_map *map, struct view *v);

/* region_doorbell.c; the map's lock held */
int doorbells_rebind(struct region_map *map, const struct view *v);
void doorbells_unbind_all(struct region_map *map);

#endif
