/* SPDX-License-Identifier: MIT
 * The region map: who answers at which guest-physical address or port, and
 * the doorbells (ioeventfds) that belong to the regions.
 *
 * Changes are collected in a transaction; its commit computes the flat view
 * (sorted, no overlaps), publishes it whole, and re-binds the doorbells in the
 * KVM half: what went away is unbound, what came is bound; if a bind fails all
 * is put back as it was, the view too, and the commit returns the error.
 *
 * Overlaps: the higher priority wins; among equals the region added first.
 * A region may be visible in parts. Readers (vCPU threads) take no lock: see
 * docs/REGIONS.md for the protocol.
 */
#ifndef BELFRY_MACHINE_REGION_H
#define BELFRY_MACHINE_REGION_H

#include "base/base.h"
#include <pthread.h>

struct vm;
struct region_map;
struct region;

enum region_space { SPACE_MMIO, SPACE_PIO, NR_SPACES };

/*
 * off: bytes from the region's base. len: 1, 2, 4 or 8, within [min_len,
 * max_len]; wider accesses are split into max_len pieces, narrower ones are
 * refused (reads give all ones, writes are dropped). Accesses need not be
 * aligned. Called on a vCPU thread without any lock; several at once.
 * A missing op reads as all ones or drops the write.
 */
struct region_ops {
	uint64_t (*read)(void *arg, uint64_t off, unsigned len);
	void (*write)(void *arg, uint64_t off, uint64_t value, unsigned len);
	unsigned min_len, max_len; /* 0: 1 and 8 */
};

enum notify_path { NOTIFY_IOEVENTFD, NOTIFY_EXIT };

/*
 * A doorbell: a write of len bytes (0: any width) at the region's off, with
 * this data if match, signals n and goes no further. With NOTIFY_EXIT (or when
 * the KVM half has no ioeventfd) the write leaves the guest and the dispatcher
 * matches it in user space by the same rules: a device sees no difference but
 * the cost.
 */
struct doorbell {
	uint64_t off, data;
	uint8_t len;
	bool match;
	enum notify_path path;
	struct notifier *n;
	/* private to region.c */
	struct doorbell *next;
	struct region *region;
	_Atomic uint64_t exits; /* signals given in user space, by the dispatcher */
};

struct region {
	const char *name;
	enum region_space space;
	uint64_t base, size;    /* bytes; size not 0; base + size must not wrap */
	int priority;           /* 0 as a rule */
	bool enabled;
	const struct region_ops *ops;
	void *arg;
	/* private to region.c */
	struct doorbell *doorbells;
	struct region *next;
	bool added;
};

/* vm may be NULL (tests): doorbells are then matched in user space only. */
int region_map_create(struct region_map **out, struct vm *vm, const struct log *log) __must_check;
/* Regions are forgotten, doorbells unbound. No vCPU runs any more. */
void region_map_destroy(struct region_map *map);

/*
 * Transaction: begin, any number of changes below, commit. Nests: the outermost
 * commit acts. Holds the map's lock between the two. Any thread, also from
 * inside a region op.
 */
void region_begin(struct region_map *map);
/* Errors as KVM_IOEVENTFD gives (-ENOSPC, -EEXIST, …): then every change since begin is undone. */
int region_commit(struct region_map *map) __must_check;

/* Inside a transaction (region_add etc. alone begin and commit themselves). */
int region_add(struct region_map *map, struct region *r) __must_check;
int region_del(struct region_map *map, struct region *r);
int region_move(struct region_map *map, struct region *r, uint64_t base) __must_check;
int region_enable(struct region_map *map, struct region *r, bool enabled) __must_check;
/* off + len must lie within the region: -EINVAL. A match with len 0: -EINVAL. */
int region_add_doorbell(struct region_map *map, struct region *r, struct doorbell *d) __must_check;
int region_del_doorbell(struct region_map *map, struct doorbell *d);

/*
 * A vCPU's (or any thread's) place in the reader protocol: one per thread that
 * dispatches, registered once.
 */
struct region_reader {
	_Atomic(const void *) view;
	struct region_reader *next;
};
void region_reader_add(struct region_map *map, struct region_reader *r);
void region_reader_del(struct region_map *map, struct region_reader *r);

/*
 * Do an access. data: len bytes, 1 to 8 (0 and more are -EINVAL). Reads from
 * nowhere give all ones, writes to nowhere are dropped; both return -ENXIO so
 * that the caller can count them. An access goes to the region that answers at
 * its first byte, as far as that region reaches, also where one of a higher
 * priority covers later bytes of it (a dword at CF8h is the PCI address
 * register's although CF9h alone resets the machine); beyond the region's end it
 * is split. No lock is held while an op runs.
 */
int region_read(struct region_map *map, struct region_reader *rd, enum region_space space,
		uint64_t addr, void *data, unsigned len);
int region_write(struct region_map *map, struct region_reader *rd, enum region_space space,
		 uint64_t addr, const void *data, unsigned len);

/* Walk the flat view in order of address, for reports. */
void region_walk(struct region_map *map, enum region_space space,
		 void (*fn)(void *arg, const struct region *r, uint64_t base, uint64_t size),
		 void *arg);
/* How many doorbells the KVM half holds now. */
unsigned region_nr_bound(struct region_map *map);

#endif
