/* SPDX-License-Identifier: MIT
 * A bus: who is asked about an access before it leaves to user space. Two of
 * them (ports and memory), each a sorted array that is published whole.
 */
#ifndef BELFRY_SOFTKVM_IOBUS_H
#define BELFRY_SOFTKVM_IOBUS_H

#include "softkvm/grace.h"

#define IOBUS_MAX 1000 /* the kernel's NR_IOBUS_DEVS, ioeventfds not counted there */

struct iobus_device {
	uint64_t addr;
	uint32_t len; /* 0: accesses of any length that start at addr */
	const struct iobus_ops *ops;
};

struct iobus_ops {
	/* True if the access was taken. Any vCPU's thread, no lock held. */
	bool (*write)(struct iobus_device *d, uint64_t addr, unsigned len, uint64_t value, void *cpu);
	/* NULL, or the same in the place of engine_ops.ring, with what holds there. */
	bool (*ring)(struct iobus_device *d, uint64_t addr, unsigned len, uint64_t value);
	/* NULL: never takes a read. */
	bool (*read)(struct iobus_device *d, uint64_t addr, unsigned len, uint64_t *value, void *cpu);
	bool counted; /* against IOBUS_MAX */
};

struct iobus_table {
	unsigned nr, nr_counted;
	uint64_t reach;		    /* the longest device: how far back an access must look */
	struct iobus_device *dev[]; /* by address */
};

struct iobus {
	struct iobus_table *_Atomic table;
	struct iobus_table *spare; /* as long as table: removing needs no memory */
	struct grace *grace;	   /* (o) */
};

int iobus_init(struct iobus *b, struct grace *g) __must_check;
void iobus_destroy(struct iobus *b);

/*
 * Change the bus. Callers serialize (the VM's bus_lock). -ENOSPC, -ENOMEM.
 * After remove nobody is inside d; it cannot fail.
 */
int iobus_add(struct iobus *b, struct iobus_device *d) __must_check;
void iobus_remove(struct iobus *b, struct iobus_device *d);

/* True if a device took the access. */
bool iobus_write(struct iobus *b, uint64_t addr, unsigned len, uint64_t value, void *cpu);
/* The same by the devices' `ring`: false also if one without it would come first. */
bool iobus_ring(struct iobus *b, uint64_t addr, unsigned len, uint64_t value);
bool iobus_read(struct iobus *b, uint64_t addr, unsigned len, uint64_t *value, void *cpu);

#endif
