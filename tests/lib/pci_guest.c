/* SPDX-License-Identifier: MIT */
#include "pci_guest.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

struct pci_guest *pci_guest_create(uint64_t mem)
{
	struct machine_config c = { .name = "test", .cpus = 1, .mem = mem, .log_fd = -1 };
	struct pci_guest *g = calloc(1, sizeof(*g));
	struct err e = { "" };

	assert_non_null(g);
	fake_kvm_init(&g->k);
	if (machine_create(&g->m, &c, &g->k.api, &e))
		fail_msg("%s", e.text);
	region_reader_add(g->m->map, &g->rd);
	assert_int_equal(pci_bus_create(&g->bus, g->m), 0);
	return g;
}

void pci_guest_destroy(struct pci_guest *g)
{
	region_reader_del(g->m->map, &g->rd);
	machine_destroy(g->m);
	assert_int_equal(g->k.nr_ioeventfds, 0);
	assert_int_equal(g->k.nr_irqfds, 0);
	assert_int_equal(fake_kvm_fini(&g->k), 0);
	free(g);
}

uint64_t mem_read(struct pci_guest *g, uint64_t addr, unsigned len)
{
	uint64_t v = 0;

	(void)region_read(g->m->map, &g->rd, SPACE_MMIO, addr, &v, len);
	return v;
}

/* As with KVM, an ioeventfd takes the write before user space sees it. */
void mem_write(struct pci_guest *g, uint64_t addr, uint64_t v, unsigned len)
{
	if (!fake_kvm_guest_write(&g->k, false, addr, v, len))
		(void)region_write(g->m->map, &g->rd, SPACE_MMIO, addr, &v, len);
}

uint64_t port_read(struct pci_guest *g, uint16_t port, unsigned len)
{
	uint64_t v = 0;

	(void)region_read(g->m->map, &g->rd, SPACE_PIO, port, &v, len);
	return v;
}

void port_write(struct pci_guest *g, uint16_t port, uint64_t v, unsigned len)
{
	if (!fake_kvm_guest_write(&g->k, true, port, v, len))
		(void)region_write(g->m->map, &g->rd, SPACE_PIO, port, &v, len);
}

static uint64_t ecam(unsigned slot, unsigned off)
{
	return LAYOUT_ECAM + ((uint64_t)slot << 15) + off;
}

uint32_t cfg_read(struct pci_guest *g, unsigned slot, unsigned off, unsigned len)
{
	return (uint32_t)mem_read(g, ecam(slot, off), len);
}

void cfg_write(struct pci_guest *g, unsigned slot, unsigned off, uint32_t v, unsigned len)
{
	mem_write(g, ecam(slot, off), v, len);
}

uint64_t cfg_bar(struct pci_guest *g, unsigned slot, unsigned nr)
{
	uint32_t lo = cfg_read(g, slot, PCI_BASE_ADDRESS_0 + 4 * nr, 4);

	if (lo & PCI_BASE_ADDRESS_SPACE_IO)
		return lo & ~3u;
	if ((lo & PCI_BASE_ADDRESS_MEM_TYPE_MASK) == PCI_BASE_ADDRESS_MEM_TYPE_64)
		return (uint64_t)cfg_read(g, slot, PCI_BASE_ADDRESS_0 + 4 * nr + 4, 4) << 32 |
		       (lo & ~15u);
	return lo & ~15u;
}

unsigned cfg_cap(struct pci_guest *g, unsigned slot, uint8_t id, unsigned nth)
{
	unsigned at = cfg_read(g, slot, PCI_CAPABILITY_LIST, 1);

	for (unsigned n = 0; at && n < 48; n++) {
		if (cfg_read(g, slot, at + PCI_CAP_LIST_ID, 1) == id && !nth--)
			return at;
		at = cfg_read(g, slot, at + PCI_CAP_LIST_NEXT, 1);
	}
	return 0;
}
