/* SPDX-License-Identifier: MIT
 * A machine with every device there is, on any KVM half, with a driver for each
 * virtio device in the test's own hands: for tests of the whole's life cycle.
 */
#ifndef BELFRY_TESTS_FULL_MACHINE_H
#define BELFRY_TESTS_FULL_MACHINE_H

#include "../lib/virtio_driver.h"

enum full_device { FULL_DISK, FULL_DISK_MAIN, FULL_NET, FULL_CONSOLE, FULL_RNG, NR_FULL };

struct full_options {
	const struct kvmapi *api; /* NULL: a fake half of its own */
	const char *disk[2];      /* image files: one with an I/O thread, one on the main loop */
	unsigned cpus;
	enum notify_path notify;
	enum inject_path inject;
};

struct full_machine {
	struct pci_guest g; /* g.k is used without options.api only */
	bool fake;
	struct virtio_driver d[NR_FULL];
};

/* Aborts the test on failure. */
void full_create(struct full_machine *f, const struct full_options *o);
/* Start every virtio device's driver. vCPUs may run. */
void full_drive(struct full_machine *f);
/* Let each device do a few requests; what the disks hold is checked. round: makes the data differ. */
void full_work(struct full_machine *f, unsigned round);
/* As it is: with drivers started, requests under way. Checks that nothing is left in a fake half. */
void full_destroy(struct full_machine *f);

/* What a leak would make more of. */
struct full_count {
	unsigned fds, threads, maps;
	size_t heap; /* bytes in use; 0 where the allocator does not tell (sanitizers) */
};
void full_count(struct full_count *c);

#endif
