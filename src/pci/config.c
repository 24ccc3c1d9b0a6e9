/* SPDX-License-Identifier: MIT
 * A function's config space (PCI Local Bus 3.0 "Configuration Space"): masks,
 * BARs and the command register, capabilities, INTx.
 */
#include "pci/pci_priv.h"
#include <stdatomic.h>

void config_init(struct pci_dev *d, const struct pci_id *id)
{
	store_le16(&d->cfg[PCI_VENDOR_ID], id->vendor);
	store_le16(&d->cfg[PCI_DEVICE_ID], id->device);
	store_le32(&d->cfg[PCI_CLASS_REVISION], id->class_code << 8 | id->revision);
	store_le16(&d->cfg[PCI_SUBSYSTEM_VENDOR_ID], id->subvendor);
	store_le16(&d->cfg[PCI_SUBSYSTEM_ID], id->subdevice);

	store_le16(&d->wmask[PCI_COMMAND],
		   PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY |
		   PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE);
	store_le16(&d->w1cmask[PCI_STATUS],
		   PCI_STATUS_PARITY | PCI_STATUS_SIG_TARGET_ABORT | PCI_STATUS_REC_TARGET_ABORT |
		   PCI_STATUS_REC_MASTER_ABORT | PCI_STATUS_SIG_SYSTEM_ERROR |
		   PCI_STATUS_DETECTED_PARITY);
	d->wmask[PCI_CACHE_LINE_SIZE] = 0xff;
	d->wmask[PCI_INTERRUPT_LINE] = 0xff;
	d->next_cap = PCI_STD_HEADER_SIZEOF;
}

/* ---- access ----------------------------------------------------------- */

uint32_t config_read(struct pci_dev *d, unsigned off, unsigned len)
{
	uint32_t value = 0;

	if (off >= PCI_CFG_SIZE)
		return 0;
	if (range_overlaps(off, len, PCI_STATUS, 1)) {
		/* The wire moves on any thread, so its bit is made when it is read. */
		d->cfg[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTERRUPT;
		if (atomic_load(&d->intx_asserted))
			d->cfg[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
	}
	len = MIN(len, PCI_CFG_SIZE - off);
	if (d->ops && d->ops->reading)
		d->ops->reading(d, off, len);
	memcpy(&value, &d->cfg[off], len);
	return value;
}

void config_write(struct pci_dev *d, unsigned off, uint32_t value, unsigned len)
{
	if (off >= PCI_CFG_SIZE)
		return;
	len = MIN(len, PCI_CFG_SIZE - off);
	for (unsigned i = 0; i < len; i++, value >>= 8) {
		uint8_t *c = &d->cfg[off + i];
		uint8_t v = (uint8_t)value, m = d->wmask[off + i];

		*c = (uint8_t)((*c & ~m) | (v & m));
		*c &= (uint8_t)~(v & d->w1cmask[off + i]);
	}
	if (range_overlaps(off, len, PCI_COMMAND, 2) ||
	    range_overlaps(off, len, PCI_BASE_ADDRESS_0, 4 * PCI_NR_BARS))
		config_update_bars(d);
	if (range_overlaps(off, len, PCI_COMMAND, 2))
		config_update_intx(d);
	if (d->msix)
		msix_written(d, off, len);
	if (d->ops && d->ops->written)
		d->ops->written(d, off, len);
}

/* ---- BARs ------------------------------------------------------------- */

static unsigned bar_reg(unsigned nr)
{
	return PCI_BASE_ADDRESS_0 + 4 * nr;
}

static uint64_t bar_address(const struct pci_dev *d, unsigned nr)
{
	uint32_t lo = load_le32(&d->cfg[bar_reg(nr)]);

	switch (d->bar[nr].type) {
	case PCI_BAR_IO:
		return lo & ~0x3u;
	case PCI_BAR_MEM32:
		return lo & ~0xfu;
	case PCI_BAR_MEM64:
		return (uint64_t)load_le32(&d->cfg[bar_reg(nr + 1)]) << 32 | (lo & ~0xfu);
	default:
		return 0;
	}
}

/*
 * True if the BAR decodes at *base. Address 0 and the top of the space are
 * what a BAR holds before assignment and while its size is probed; decoding
 * there would cover memory for the time a guest forgets to disable it.
 */
static bool bar_decodes(const struct pci_dev *d, unsigned nr, uint64_t *base)
{
	static const uint64_t limit[] = {
		[PCI_BAR_IO] = 0x10000, [PCI_BAR_MEM32] = 0xffffffff, [PCI_BAR_MEM64] = UINT64_MAX,
	};
	const struct pci_bar *b = &d->bar[nr];
	uint16_t need = b->type == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;

	if (!(load_le16(&d->cfg[PCI_COMMAND]) & need))
		return false;
	*base = bar_address(d, nr);
	return *base && range_within(*base, b->size, limit[b->type]);
}

static int move_bars(struct pci_dev *d)
{
	struct region_map *map = d->bus->machine->map;
	int r = 0, c;

	region_begin(map);
	for (unsigned i = 0; i < PCI_NR_BARS && !r; i++) {
		struct region *g = &d->bar[i].region;
		uint64_t base = 0;
		bool on;

		if (!g->added)
			continue;
		on = bar_decodes(d, i, &base);
		if (on)
			r = region_move(map, g, base);
		if (!r)
			r = region_enable(map, g, on);
	}
	c = region_commit(map);
	return r ? r : c;
}

/* The map went back to where it was, and there the guest does not expect the BARs any more. */
static void unmap_moved_bars(struct pci_dev *d)
{
	struct region_map *map = d->bus->machine->map;

	region_begin(map);
	for (unsigned i = 0; i < PCI_NR_BARS; i++) {
		struct region *g = &d->bar[i].region;
		uint64_t base = 0;

		if (g->added && g->enabled && !(bar_decodes(d, i, &base) && base == g->base))
			(void)!region_enable(map, g, false);
	}
	/* Only unbinds: fails for want of memory alone, and then the old place stays, harmless. */
	(void)!region_commit(map);
}

void config_update_bars(struct pci_dev *d)
{
	int r = move_bars(d);

	if (!r)
		return;
	unmap_moved_bars(d);
	device_complain(&d->dev, "BARs cannot be mapped where the guest wants them (%s): unmapped",
			strerror(-r));
}

int pci_add_bar(struct pci_dev *d, unsigned nr, enum pci_bar_type type, uint64_t size,
		const char *name, const struct region_ops *ops, void *arg)
{
	unsigned regs = type == PCI_BAR_MEM64 ? 2 : 1;
	uint64_t mask = ~(size - 1);
	struct pci_bar *b;

	if (nr + regs > PCI_NR_BARS || type == PCI_BAR_NONE || !is_pow2(size) || d->plugged)
		return -EINVAL;
	if (size < (type == PCI_BAR_IO ? 4 : 16) || (type == PCI_BAR_IO && size > 256) ||
	    (type == PCI_BAR_MEM32 && size > 0x80000000u))
		return -EINVAL;
	if (d->bar[nr].type != PCI_BAR_NONE || (nr && d->bar[nr - 1].type == PCI_BAR_MEM64) ||
	    (regs == 2 && d->bar[nr + 1].type != PCI_BAR_NONE))
		return -EBUSY;
	b = &d->bar[nr];
	*b = (struct pci_bar){
		.type = type,
		.prefetch = type == PCI_BAR_MEM64,
		.size = size,
		.region = {
			.name = name,
			.space = type == PCI_BAR_IO ? SPACE_PIO : SPACE_MMIO,
			.size = size,
			.ops = ops,
			.arg = arg,
		},
	};
	store_le32(&d->wmask[bar_reg(nr)], (uint32_t)mask);
	if (type == PCI_BAR_MEM64) {
		store_le32(&d->wmask[bar_reg(nr + 1)], (uint32_t)(mask >> 32));
		d->cfg[bar_reg(nr)] = PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH;
	} else if (type == PCI_BAR_IO) {
		d->cfg[bar_reg(nr)] = PCI_BASE_ADDRESS_SPACE_IO;
	}
	return 0;
}

/* ---- capabilities ------------------------------------------------------ */

int pci_add_cap(struct pci_dev *d, uint8_t id, unsigned len)
{
	unsigned at = d->next_cap, link = PCI_CAPABILITY_LIST;

	if (d->plugged || len < 2)
		return -EINVAL;
	if (len > PCI_CFG_SIZE - at)
		return -ENOSPC;
	/* Append: drivers and people read the list in the order it was made. */
	while (d->cfg[link])
		link = d->cfg[link] + PCI_CAP_LIST_NEXT;
	d->cfg[link] = (uint8_t)at;
	d->cfg[at + PCI_CAP_LIST_ID] = id;
	d->cfg[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	d->next_cap = at + (unsigned)align_up(len, 4);
	return (int)at;
}

/* ---- INTx -------------------------------------------------------------- */

/* Both bits are looked at under the lock, so the last one to come sees them all. */
static void update_intx_locked(struct pci_dev *d)
{
	(void)irq_wire_set(&d->intx,
			   atomic_load(&d->intx_asserted) && !atomic_load(&d->intx_disabled));
}

void config_update_intx(struct pci_dev *d)
{
	bool disabled = load_le16(&d->cfg[PCI_COMMAND]) & PCI_COMMAND_INTX_DISABLE;

	mutex_lock(&d->intx_lock);
	atomic_store(&d->intx_disabled, disabled);
	update_intx_locked(d);
	mutex_unlock(&d->intx_lock);
}

void pci_set_intx(struct pci_dev *d, bool level)
{
	mutex_lock(&d->intx_lock);
	atomic_store(&d->intx_asserted, level);
	update_intx_locked(d);
	mutex_unlock(&d->intx_lock);
}
