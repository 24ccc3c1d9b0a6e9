/* SPDX-License-Identifier: MIT
 * The virtio devices there are, and how to make one. Each create function puts
 * the device on the bus and gives it to the machine; before machine_start(),
 * on the main thread. On failure everything is the caller's as before and *e
 * has the line for the user.
 *
 * iothread: the queues live on a thread of the device's own, and what the
 * backend brings is done there too. Otherwise the machine's main loop does it.
 * poll_ns: with iothread, how long that thread looks for more work before it
 * sleeps (0: not at all).
 */
#ifndef BELFRY_VIRTIO_DEVICES_H
#define BELFRY_VIRTIO_DEVICES_H

#include "backend/backend.h"
#include "virtio/virtio.h"

/* virtio 1.2 "Block Device". */
struct blk_config {
	struct block *block;   /* the device's after success; closed with it */
	unsigned queues;       /* 1 to 64; 0 means 1 */
	uint16_t queue_size;   /* a power of two, 4 to VIRTQ_MAX_SIZE; 0 means 256 */
	bool iothread;
	uint64_t poll_ns;
	const char *serial;    /* up to 20 characters, for GET_ID; NULL: the name */
	struct virtio_options o;
};
int virtio_blk_create(struct machine *m, struct pci_bus *bus, const char *name,
		      const struct blk_config *c, struct err *e) __must_check;

/* virtio 1.2 "Network Device". */
struct net_config {
	/* Make the backend on the loop the device will live on; the device destroys it. */
	int (*create)(struct net **out, struct loop *l, void *arg, struct err *e);
	void *arg;             /* not used after virtio_net_create() returned */
	uint8_t mac[6];        /* a unicast address */
	uint16_t queue_size;   /* 0 means 256 */
	bool iothread;
	uint64_t poll_ns;
	struct virtio_options o;
};
int virtio_net_create(struct machine *m, struct pci_bus *bus, const char *name,
		      const struct net_config *c, struct err *e) __must_check;

/* virtio 1.2 "Console Device", port 0. */
struct console_config {
	/*
	 * On the machine's main loop. Stays the caller's and must outlive the
	 * device, but not the loop: the machine destroys what it was given
	 * earlier after what it was given later.
	 */
	struct console *console;
	struct virtio_options o;
};
int virtio_console_create(struct machine *m, struct pci_bus *bus, const char *name,
			  const struct console_config *c, struct err *e) __must_check;

/* virtio 1.2 "Entropy Device", from getrandom(2). */
struct rng_config {
	struct virtio_options o;
};
int virtio_rng_create(struct machine *m, struct pci_bus *bus, const char *name,
		      const struct rng_config *c, struct err *e) __must_check;

#endif
