/* SPDX-License-Identifier: MIT
 * A guest's driver for a virtio function on the PCI bus of pci_guest.h: finds
 * the registers by the capabilities and programs them as the specification says.
 */
#ifndef BELFRY_TESTS_VPCI_GUEST_H
#define BELFRY_TESTS_VPCI_GUEST_H

#include "pci_guest.h"
#include "ring.h"
#include <linux/virtio_pci.h>

#define VPCI_MSIX_ADDR 0xfee00000u

struct vpci_guest {
	struct pci_guest *g;
	unsigned slot;
	uint64_t common, isr, device, notify; /* guest-physical */
	uint32_t notify_mul;
	uint16_t io; /* legacy BAR, 0 if none */
};

/* Reads the capabilities and enables I/O, memory and bus mastering. */
void vpci_probe(struct vpci_guest *d, struct pci_guest *g, unsigned slot);
uint32_t vpci_read(struct vpci_guest *d, unsigned common_off, unsigned len);
void vpci_write(struct vpci_guest *d, unsigned common_off, uint32_t v, unsigned len);
uint64_t vpci_features(struct vpci_guest *d);
uint8_t vpci_status(struct vpci_guest *d);
/* ACKNOWLEDGE, DRIVER, features, FEATURES_OK; returns whether the device accepted. */
bool vpci_negotiate(struct vpci_guest *d, uint64_t features);
/* Hand over a ring as queue nr, with an MSI-X vector, and enable it. */
void vpci_queue(struct vpci_guest *d, unsigned nr, const struct ring *r, uint16_t vector);
void vpci_driver_ok(struct vpci_guest *d);
void vpci_kick(struct vpci_guest *d, unsigned nr);
/* Enable MSI-X with vector i sending data 0x40 + i. */
void vpci_msix(struct vpci_guest *d, unsigned nr);

#endif
