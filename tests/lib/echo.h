/* SPDX-License-Identifier: MIT
 * A virtio device that echoes what it reads in capitals, on a PCI machine with
 * a driver and a ring for each of its queues.
 */
#ifndef BELFRY_TESTS_ECHO_H
#define BELFRY_TESTS_ECHO_H

#include "vpci_guest.h"

#define SLOT    1
#define GSI     (LAYOUT_GSI_PCI + SLOT)
#define NR      3
#define SIZE    16
#define MEM     (4ull << 20)
#define RINGS   0x100000ull
#define DATA    0x200000ull
#define FEATURE BIT_ULL(7)
#define MODERN  (BIT_ULL(VIRTIO_F_VERSION_1) | FEATURE)

struct echo {
	struct virtio_dev v;
	uint8_t config[12];
	bool hold;               /* leave requests in flight */
	bool insist;             /* put each request back, as a driver that never stops */
	bool no_start;
	bool finish;             /* stop_queue() finishes what is in flight, and does not flush */
	uint16_t held[SIZE];
	_Atomic unsigned nr_held;
	unsigned starts, stops, queue_stops;
	_Atomic unsigned handles;
	bool *destroyed;
};

struct fixture {
	struct pci_guest *g;
	struct echo *e;
	struct vpci_guest d;
	struct ring r[NR];
};

struct echo *echo_new(struct pci_guest *g, const struct virtio_options *o, uint16_t size);
/* any_length: the KVM half has KVM_CAP_IOEVENTFD_ANY_LENGTH. size: of the rings. */
struct fixture *echo_make(const struct virtio_options *o, bool any_length, uint16_t size);
/* For cmocka. */
int echo_teardown(void **state);

/* Let the main loop do what there is to do: a few rounds of it, however long they take. */
void turn(struct fixture *f);
/* Negotiate and start by the modern interface, with MSI-X: vector i for queue i, NR for config. */
void start(struct fixture *f, uint64_t features);
/* Put "hello" in front of the device. Returns whether it wants a kick. */
bool ask(struct fixture *f, unsigned nr);
bool answered(struct fixture *f, unsigned nr);
uint8_t needs_reset(struct fixture *f);
/* New, empty rings, as after a reset. */
void new_rings(struct fixture *f);

#endif
