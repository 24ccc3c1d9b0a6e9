/* SPDX-License-Identifier: MIT */
#include "vpci_guest.h"

void vpci_probe(struct vpci_guest *d, struct pci_guest *g, unsigned slot)
{
	unsigned at;

	*d = (struct vpci_guest){ .g = g, .slot = slot };
	for (unsigned n = 0; (at = cfg_cap(g, slot, PCI_CAP_ID_VNDR, n)); n++) {
		uint8_t type = (uint8_t)cfg_read(g, slot, at + 3, 1);
		unsigned bar = cfg_read(g, slot, at + 4, 1);
		uint64_t addr = cfg_bar(g, slot, bar) + cfg_read(g, slot, at + 8, 4);

		switch (type) {
		case VIRTIO_PCI_CAP_COMMON_CFG:
			d->common = addr;
			break;
		case VIRTIO_PCI_CAP_ISR_CFG:
			d->isr = addr;
			break;
		case VIRTIO_PCI_CAP_DEVICE_CFG:
			d->device = addr;
			break;
		case VIRTIO_PCI_CAP_NOTIFY_CFG:
			d->notify = addr;
			d->notify_mul = cfg_read(g, slot, at + 16, 4);
			break;
		}
	}
	if (cfg_read(g, slot, PCI_BASE_ADDRESS_0, 4) & PCI_BASE_ADDRESS_SPACE_IO)
		d->io = (uint16_t)cfg_bar(g, slot, 0);
	cfg_write(g, slot, PCI_COMMAND,
		  PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
}

uint32_t vpci_read(struct vpci_guest *d, unsigned common_off, unsigned len)
{
	return (uint32_t)mem_read(d->g, d->common + common_off, len);
}

void vpci_write(struct vpci_guest *d, unsigned common_off, uint32_t v, unsigned len)
{
	mem_write(d->g, d->common + common_off, v, len);
}

uint64_t vpci_features(struct vpci_guest *d)
{
	uint64_t f;

	vpci_write(d, VIRTIO_PCI_COMMON_DFSELECT, 0, 4);
	f = vpci_read(d, VIRTIO_PCI_COMMON_DF, 4);
	vpci_write(d, VIRTIO_PCI_COMMON_DFSELECT, 1, 4);
	return f | (uint64_t)vpci_read(d, VIRTIO_PCI_COMMON_DF, 4) << 32;
}

uint8_t vpci_status(struct vpci_guest *d)
{
	return (uint8_t)vpci_read(d, VIRTIO_PCI_COMMON_STATUS, 1);
}

static void add_status(struct vpci_guest *d, uint8_t bits)
{
	vpci_write(d, VIRTIO_PCI_COMMON_STATUS, vpci_status(d) | bits, 1);
}

bool vpci_negotiate(struct vpci_guest *d, uint64_t features)
{
	vpci_write(d, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	add_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	add_status(d, VIRTIO_CONFIG_S_DRIVER);
	vpci_write(d, VIRTIO_PCI_COMMON_GFSELECT, 0, 4);
	vpci_write(d, VIRTIO_PCI_COMMON_GF, (uint32_t)features, 4);
	vpci_write(d, VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
	vpci_write(d, VIRTIO_PCI_COMMON_GF, (uint32_t)(features >> 32), 4);
	add_status(d, VIRTIO_CONFIG_S_FEATURES_OK);
	return vpci_status(d) & VIRTIO_CONFIG_S_FEATURES_OK;
}

static void write64(struct vpci_guest *d, unsigned off, uint64_t v)
{
	vpci_write(d, off, (uint32_t)v, 4);
	vpci_write(d, off + 4, (uint32_t)(v >> 32), 4);
}

void vpci_queue(struct vpci_guest *d, unsigned nr, const struct ring *r, uint16_t vector)
{
	vpci_write(d, VIRTIO_PCI_COMMON_Q_SELECT, nr, 2);
	vpci_write(d, VIRTIO_PCI_COMMON_Q_SIZE, r->size, 2);
	vpci_write(d, VIRTIO_PCI_COMMON_Q_MSIX, vector, 2);
	write64(d, VIRTIO_PCI_COMMON_Q_DESCLO, r->desc_gpa);
	write64(d, VIRTIO_PCI_COMMON_Q_AVAILLO, r->avail_gpa);
	write64(d, VIRTIO_PCI_COMMON_Q_USEDLO, r->used_gpa);
	vpci_write(d, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
}

void vpci_driver_ok(struct vpci_guest *d)
{
	add_status(d, VIRTIO_CONFIG_S_DRIVER_OK);
}

void vpci_kick(struct vpci_guest *d, unsigned nr)
{
	mem_write(d->g, d->notify + (uint64_t)nr * d->notify_mul, nr, 2);
}

void vpci_msix(struct vpci_guest *d, unsigned nr)
{
	unsigned cap = cfg_cap(d->g, d->slot, PCI_CAP_ID_MSIX, 0);
	uint64_t table = cfg_bar(d->g, d->slot, cfg_read(d->g, d->slot, cap + 4, 4) & 7);

	cfg_write(d->g, d->slot, cap + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, 2);
	for (unsigned i = 0; i < nr; i++) {
		mem_write(d->g, table + 16 * i, VPCI_MSIX_ADDR, 8);
		mem_write(d->g, table + 16 * i + 8, 0x40 + i, 8); /* data, and the mask bit clear */
	}
}
