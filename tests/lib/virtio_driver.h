/* SPDX-License-Identifier: MIT
 * A guest's driver for a modern virtio-pci device, for tests: sets it up
 * through config space and BARs, puts any chain into a queue, waits for the
 * answer. It does what it is told, bad things too.
 */
#ifndef BELFRY_TESTS_VIRTIO_DRIVER_H
#define BELFRY_TESTS_VIRTIO_DRIVER_H

#include "pci_guest.h"
#include "virtio/virtio.h"

#define DRIVER_QUEUES 4

struct driver_queue {
	uint16_t size, next_desc, avail, seen; /* seen: used entries taken */
	gpa_t desc, driver, device;            /* the rings */
	uint64_t notify;                       /* doorbell's address */
};

struct virtio_driver {
	struct pci_guest *g;
	unsigned slot;
	uint64_t common, device, notify;
	uint32_t notify_mul;
	uint64_t features;      /* negotiated */
	uint16_t ports;         /* legacy registers; 0: modern */
	gpa_t next;             /* free memory from here on */
	struct driver_queue q[DRIVER_QUEUES];
};

struct segment {
	gpa_t at;
	uint32_t len;
	bool in; /* the device writes it */
};

/* Find its registers, switch on memory and bus mastering. */
void driver_open(struct virtio_driver *d, struct pci_guest *g, unsigned slot);
/* Reset, negotiate what is offered of `wanted`, set up nr queues of `size`, DRIVER_OK. */
void driver_start(struct virtio_driver *d, uint64_t wanted, unsigned nr, uint16_t size);
/* The same by the legacy interface of a transitional device; the queues' size is the device's. */
void driver_start_legacy(struct virtio_driver *d, uint32_t wanted, unsigned nr);
void driver_reset(struct virtio_driver *d);
uint8_t driver_status(struct virtio_driver *d);
uint64_t driver_offered(struct virtio_driver *d);
uint64_t driver_config(struct virtio_driver *d, unsigned off, unsigned len);
/* Memory nobody uses, 4 KiB aligned. */
gpa_t driver_alloc(struct virtio_driver *d, uint64_t len);
void *driver_mem(struct virtio_driver *d, gpa_t at, uint64_t len);

/* Put a chain into the ring (not yet kicked); returns its head. */
uint16_t driver_add(struct virtio_driver *d, unsigned queue, const struct segment *s, unsigned nr);
void driver_kick(struct virtio_driver *d, unsigned queue);
/* Entries used and not yet taken. */
unsigned driver_used(struct virtio_driver *d, unsigned queue);
/* Run the machine's loop until there are n of them; false after a minute, or if the device breaks. */
bool driver_wait(struct virtio_driver *d, unsigned queue, unsigned n);
/* Run it until the device says that it needs a reset; false after a minute. */
bool driver_wait_broken(struct virtio_driver *d);
bool driver_is_broken(struct virtio_driver *d);
/* Take the next used entry. */
uint32_t driver_take(struct virtio_driver *d, unsigned queue, uint16_t *head);
/* Run the machine's loop once, for a moment, or for a while. */
void driver_step(struct virtio_driver *d);
void driver_turn(struct virtio_driver *d);
void driver_idle(struct virtio_driver *d, unsigned ms);

#endif
