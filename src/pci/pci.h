/* SPDX-License-Identifier: MIT
 *
 * pci: one root bus with a host bridge, config space by CF8/CFC and ECAM
 * (PCI Express Base "Enhanced Configuration Access Mechanism"), BARs as
 * regions, MSI-X and INTx. The room's public header.
 *
 * Lock: the bus lock guards every device's config space and BAR state; it is
 * taken by config accesses (vCPU threads) and held while `written` runs. BAR
 * accesses themselves take no bus lock. Order: bus → device → MSI-X or INTx →
 * region map → interrupt fabric.
 */
#ifndef BELFRY_PCI_H
#define BELFRY_PCI_H

#include "machine/machine.h"
#include <linux/pci.h> /* PCI_SLOT() and the registers */

struct pci_bus;
struct pci_dev;
struct msix;

#define PCI_NR_BARS  6
#define PCI_CFG_SIZE 256 /* config space beyond it reads as zero through ECAM */

struct pci_id {
	uint16_t vendor, device, subvendor, subdevice;
	uint32_t class_code; /* 24 bits: class, subclass, interface */
	uint8_t revision;
};

enum pci_bar_type { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64 };

struct pci_bar {
	enum pci_bar_type type;
	bool prefetch;
	uint64_t size;         /* power of two; at least 16 (memory) or 4 (I/O) */
	struct region region;  /* follows the BAR and the command register */
};

struct pci_dev_ops {
	/* After the guest wrote [off, off+len) of config space. Bus lock held. May be NULL. */
	void (*written)(struct pci_dev *d, unsigned off, unsigned len);
	/* A read of [off, off+len) comes: refresh those bytes in cfg. Bus lock held. May be NULL. */
	void (*reading)(struct pci_dev *d, unsigned off, unsigned len);
};

struct pci_dev {
	struct device dev;     /* the machine's handle; first member */
	struct pci_bus *bus;
	const struct pci_dev_ops *ops;
	uint8_t devfn;
	uint8_t cfg[PCI_CFG_SIZE];
	uint8_t wmask[PCI_CFG_SIZE];   /* bits the guest may write */
	uint8_t w1cmask[PCI_CFG_SIZE]; /* bits a written 1 clears */
	unsigned next_cap;             /* where the next capability goes */
	struct pci_bar bar[PCI_NR_BARS];
	struct msix *msix;
	struct irq_wire intx;
	_Atomic bool intx_asserted;
	/* private to the room */
	_Atomic bool intx_disabled;    /* the command register's bit, for any thread */
	pthread_mutex_t intx_lock;     /* the two bits above against the wire */
	uint8_t power_on[PCI_CFG_SIZE]; /* cfg as pci_dev_plug() left it, for reset */
	bool plugged;
};

/* Creates the bus, its host bridge (00:00.0), CF8/CFC and ECAM regions; a device of the machine. */
int pci_bus_create(struct pci_bus **out, struct machine *m) __must_check;

/*
 * Fill config space and take a slot (slot -1: the first free, 1 to 31). The
 * caller then adds BARs, capabilities and MSI-X, and last calls
 * pci_dev_plug(), which assigns addresses to the BARs (there is no firmware
 * to do it), enables nothing, and adds the device to the machine.
 */
int pci_dev_init(struct pci_dev *d, struct pci_bus *bus, int slot, const struct pci_id *id,
		 const struct pci_dev_ops *ops) __must_check;
int pci_dev_plug(struct pci_dev *d, struct err *e) __must_check;
/* To be called by the device's own destroy op. */
void pci_dev_unplug(struct pci_dev *d);
/* To be called by the device's own reset op: command register, BARs, MSI-X, INTx as after RST#. */
void pci_dev_reset(struct pci_dev *d);

/* MEM64 takes this BAR and the next. region_ops as in machine/region.h, arg is handed to them. */
int pci_add_bar(struct pci_dev *d, unsigned nr, enum pci_bar_type type, uint64_t size,
		const char *name, const struct region_ops *ops, void *arg) __must_check;
/* Append a capability of len bytes (its id and next pointer included). Returns its offset or -ENOSPC. */
int pci_add_cap(struct pci_dev *d, uint8_t id, unsigned len) __must_check;

/* INTx level; obeys the command register's interrupt disable. Any thread. */
void pci_set_intx(struct pci_dev *d, bool level);

/*
 * MSI-X (PCI Local Bus 3.0 "MSI-X Capability and Table Structures"): memory
 * BAR `bar` is made for the table and the PBA, with nr vectors (1 to 2048),
 * and the capability is added. Before pci_dev_plug().
 */
int msix_create(struct pci_dev *d, unsigned bar, unsigned nr, enum inject_path path) __must_check;
void msix_destroy(struct pci_dev *d);
void msix_reset(struct pci_dev *d);
/* True when the guest has enabled MSI-X: INTx is then not to be used. */
bool msix_enabled(const struct pci_dev *d);
unsigned msix_nr(const struct pci_dev *d);
/* Signal a vector; out of range is ignored. Any thread, no lock with irqfd. */
void msix_signal(struct pci_dev *d, unsigned vector);
/* The eventfd behind a vector, to hand to another process; -EINVAL if out of range. */
int msix_fd(struct pci_dev *d, unsigned vector);

#endif
