/* SPDX-License-Identifier: MIT
 * A machine on the fake KVM half with a PCI bus, and a guest's hands: config
 * space by both ways, memory and ports by the region map.
 */
#ifndef BELFRY_TESTS_PCI_GUEST_H
#define BELFRY_TESTS_PCI_GUEST_H

#include "fake_kvm.h"
#include "pci/pci.h"

struct pci_guest {
	struct fake_kvm k;
	struct machine *m;
	struct pci_bus *bus;
	struct region_reader rd;
};

/* mem: bytes of RAM. Aborts the test on failure. */
struct pci_guest *pci_guest_create(uint64_t mem);
/* Destroys the machine and checks that nothing of the KVM half is left. */
void pci_guest_destroy(struct pci_guest *g);

/* Through ECAM. */
uint32_t cfg_read(struct pci_guest *g, unsigned slot, unsigned off, unsigned len);
void cfg_write(struct pci_guest *g, unsigned slot, unsigned off, uint32_t v, unsigned len);
uint64_t mem_read(struct pci_guest *g, uint64_t addr, unsigned len);
void mem_write(struct pci_guest *g, uint64_t addr, uint64_t v, unsigned len);
uint64_t port_read(struct pci_guest *g, uint16_t port, unsigned len);
void port_write(struct pci_guest *g, uint16_t port, uint64_t v, unsigned len);
/* What the BAR register says, type bits cut off. */
uint64_t cfg_bar(struct pci_guest *g, unsigned slot, unsigned nr);
/* Offset of the nth (from 0) capability with this id, 0 if none. */
unsigned cfg_cap(struct pci_guest *g, unsigned slot, uint8_t id, unsigned nth);

#endif
