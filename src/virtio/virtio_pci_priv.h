/* SPDX-License-Identifier: MIT
 * Between virtio_pci.c (the modern interface) and virtio_pci_legacy.c.
 */
#ifndef BELFRY_VIRTIO_PCI_PRIV_H
#define BELFRY_VIRTIO_PCI_PRIV_H

#include "virtio/virtio.h"
#include <linux/virtio_pci.h>
#include <stdatomic.h>

/* BAR numbers, as other monitors have them. */
#define VPCI_BAR_LEGACY 0 /* I/O */
#define VPCI_BAR_MSIX   1
#define VPCI_BAR_MODERN 4 /* 64 bits */

/* Pages of the modern BAR. */
#define VPCI_COMMON      0x0000
#define VPCI_ISR         0x1000
#define VPCI_DEVICE      0x2000
#define VPCI_NOTIFY      0x3000
#define VPCI_NOTIFY_MUL  4
#define VPCI_MODERN_SIZE 0x4000

struct virtio_pci {
	struct pci_dev pci; /* first: the machine's handle leads here */
	struct device_ops device_ops;
	struct virtio_dev *v;
	unsigned cfg_cap;   /* offset of the PCI configuration access capability */
	uint8_t bell_len;   /* width of a modern doorbell, 0: any */
	/* device lock */
	uint32_t device_feature_select, driver_feature_select;
	uint64_t driver_features;
	uint16_t queue_select;
	bool master;        /* bus master enable, as the queues know it */
	enum { BELLS_NONE, BELLS_MODERN, BELLS_LEGACY } bells;
	/* any thread */
	_Atomic uint16_t config_vector;
	_Atomic uint8_t isr;
	pthread_mutex_t isr_lock; /* isr against the INTx wire */
};

/* Device lock held. */
void vpci_write_status(struct virtio_pci *p, uint8_t status);
struct virtq *vpci_selected(struct virtio_pci *p); /* NULL: no such queue */
uint16_t vpci_check_vector(struct virtio_pci *p, uint16_t vector);
uint64_t vpci_config_read(struct virtio_pci *p, uint64_t off, unsigned len);
void vpci_config_write(struct virtio_pci *p, uint64_t off, uint64_t value, unsigned len);
/* Any thread. Reads and clears the interrupt status. */
uint8_t vpci_take_isr(struct virtio_pci *p);

/* virtio_pci_legacy.c */
int legacy_create(struct virtio_pci *p) __must_check;
/* Device ID of the transitional device, 0 if the type has none. */
uint16_t legacy_device_id(uint16_t virtio_id);

#endif
