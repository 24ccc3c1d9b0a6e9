/* SPDX-License-Identifier: MIT */
#ifndef BELFRY_PCI_PRIV_H
#define BELFRY_PCI_PRIV_H

#include "pci/pci.h"

#define PCI_NR_SLOTS 32

/* A window for BARs; addresses are handed out upwards and never given back. */
struct pci_window {
	uint64_t next, end;
};

struct pci_bus {
	struct device dev;
	struct machine *machine;
	pthread_mutex_t lock;
	struct pci_dev *slot[PCI_NR_SLOTS]; /* function 0 only; others are absent */
	uint32_t cf8;
	struct region cf8_region, cfc_region, ecam_region;
	struct pci_window io, mem32, mem64;
	struct pci_dev host;
};

/* config.c, bus lock held. off + len within a dword of config space or beyond its end. */
uint32_t config_read(struct pci_dev *d, unsigned off, unsigned len);
void config_write(struct pci_dev *d, unsigned off, uint32_t value, unsigned len);
/* Give the device config space of a function without BARs or capabilities. */
void config_init(struct pci_dev *d, const struct pci_id *id);
/* Make the regions follow the BARs and the command register. */
void config_update_bars(struct pci_dev *d);
void config_update_intx(struct pci_dev *d);

/* Assign BAR addresses from the bus's windows. -ENOSPC. */
int bus_assign(struct pci_dev *d, struct err *e) __must_check;

/* msix.c: config space [off, off+len) was written. Bus lock held. */
void msix_written(struct pci_dev *d, unsigned off, unsigned len);

#endif
