/* SPDX-License-Identifier: MIT
 * The root bus: host bridge, the two ways into config space, slots and BAR
 * addresses.
 */
#include "pci/pci_priv.h"
#include <stdatomic.h>
#include <stdlib.h>

#define CF8_ENABLE 0x80000000u

/* ---- config access ------------------------------------------------------ */

/* bus 0 has slots with one function each; what is not there reads as all ones. */
static struct pci_dev *bus_find(struct pci_bus *b, unsigned bus, unsigned devfn)
{
	return bus == 0 && PCI_FUNC(devfn) == 0 ? b->slot[PCI_SLOT(devfn)] : NULL;
}

static uint64_t bus_config_read(struct pci_bus *b, unsigned bus, unsigned devfn, unsigned off,
				unsigned len)
{
	uint64_t value = UINT64_MAX;
	struct pci_dev *d;

	mutex_lock(&b->lock);
	d = bus_find(b, bus, devfn);
	if (d)
		value = config_read(d, off, len);
	mutex_unlock(&b->lock);
	return value;
}

static void bus_config_write(struct pci_bus *b, unsigned bus, unsigned devfn, unsigned off,
			     uint64_t value, unsigned len)
{
	struct pci_dev *d;

	mutex_lock(&b->lock);
	d = bus_find(b, bus, devfn);
	if (d)
		config_write(d, off, (uint32_t)value, len);
	mutex_unlock(&b->lock);
}

static uint64_t ecam_read(void *arg, uint64_t off, unsigned len)
{
	return bus_config_read(arg, (unsigned)(off >> 20), off >> 12 & 0xff, off & 0xfff, len);
}

static void ecam_write(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	bus_config_write(arg, (unsigned)(off >> 20), off >> 12 & 0xff, off & 0xfff, value, len);
}

/*
 * PCI Local Bus 3.0 "Configuration Mechanism #1": only a dword access is one to
 * CONFIG_ADDRESS; narrower ones belong to whatever else is at these ports.
 */
static uint64_t cf8_read(void *arg, uint64_t off, unsigned len)
{
	struct pci_bus *b = arg;
	uint32_t v;

	if (off || len != 4)
		return UINT64_MAX;
	mutex_lock(&b->lock);
	v = b->cf8;
	mutex_unlock(&b->lock);
	return v;
}

static void cf8_write(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	struct pci_bus *b = arg;

	if (off || len != 4)
		return;
	mutex_lock(&b->lock);
	b->cf8 = (uint32_t)value;
	mutex_unlock(&b->lock);
}

/* Address and data are two accesses: a guest with several CPUs has a lock around them. */
static uint32_t cf8_get(struct pci_bus *b)
{
	return (uint32_t)cf8_read(b, 0, 4);
}

/* A port access comes whole even if it passes the register's end: what is beyond is nobody's. */
static unsigned cfc_len(uint64_t off, unsigned len)
{
	return off + len > 4 ? 4 - (unsigned)off : len;
}

static uint64_t cfc_read(void *arg, uint64_t off, unsigned len)
{
	uint32_t a = cf8_get(arg);
	unsigned n = cfc_len(off, len);

	if (!(a & CF8_ENABLE))
		return UINT64_MAX;
	return bus_config_read(arg, a >> 16 & 0xff, a >> 8 & 0xff, (a & 0xfc) + (unsigned)off, n) |
	       ~len_mask(n);
}

static void cfc_write(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	uint32_t a = cf8_get(arg);

	if (a & CF8_ENABLE)
		bus_config_write(arg, a >> 16 & 0xff, a >> 8 & 0xff, (a & 0xfc) + (unsigned)off,
				 value, cfc_len(off, len));
}

static const struct region_ops cf8_ops = { cf8_read, cf8_write, .max_len = 4 };
static const struct region_ops cfc_ops = { cfc_read, cfc_write, .max_len = 4 };
static const struct region_ops ecam_ops = { ecam_read, ecam_write, .max_len = 4 };

/* ---- the bus -------------------------------------------------------------- */

static void bus_reset(struct device *dev)
{
	struct pci_bus *b = container_of(dev, struct pci_bus, dev);

	mutex_lock(&b->lock);
	b->cf8 = 0;
	mutex_unlock(&b->lock);
	pci_dev_reset(&b->host);
}

static void bus_free(struct pci_bus *b)
{
	irq_wire_fini(&b->host.intx);
	mutex_destroy(&b->host.intx_lock);
	mutex_destroy(&b->lock);
	free(b);
}

static void bus_destroy(struct device *dev)
{
	struct pci_bus *b = container_of(dev, struct pci_bus, dev);
	struct region_map *map = b->machine->map;

	region_begin(map);
	(void)region_del(map, &b->cf8_region);
	(void)region_del(map, &b->cfc_region);
	(void)region_del(map, &b->ecam_region);
	(void)!region_commit(map);
	bus_free(b);
}

static const struct device_ops bus_device_ops = {
	.type = "pci-bus",
	.reset = bus_reset,
	.destroy = bus_destroy,
};

static int add_regions(struct pci_bus *b)
{
	struct region_map *map = b->machine->map;
	struct region *const all[] = { &b->cf8_region, &b->cfc_region, &b->ecam_region };
	int r = 0, c;

	b->cf8_region = (struct region){ .name = "pci-cf8", .space = SPACE_PIO, .enabled = true,
					 .base = LAYOUT_PORT_PCI_ADDR, .size = 4,
					 .ops = &cf8_ops, .arg = b };
	b->cfc_region = (struct region){ .name = "pci-cfc", .space = SPACE_PIO, .enabled = true,
					 .base = LAYOUT_PORT_PCI_ADDR + 4, .size = 4,
					 .ops = &cfc_ops, .arg = b };
	b->ecam_region = (struct region){ .name = "pci-ecam", .space = SPACE_MMIO, .enabled = true,
					  .base = LAYOUT_ECAM, .size = LAYOUT_ECAM_SIZE,
					  .ops = &ecam_ops, .arg = b };
	region_begin(map);
	for (unsigned i = 0; i < ARRAY_SIZE(all) && !r; i++)
		r = region_add(map, all[i]);
	c = region_commit(map);
	return r ? r : c;
}

int pci_bus_create(struct pci_bus **out, struct machine *m)
{
	static const struct pci_id host_id = {
		.vendor = 0x1b36, .device = 0x0008, .subvendor = 0x1af4, .subdevice = 0x1100,
		.class_code = 0x060000,
	};
	struct pci_bus *b = calloc(1, sizeof(*b));
	uint64_t base64;
	int r;

	if (!b)
		return -ENOMEM;
	b->machine = m;
	mutex_init(&b->lock);
	base64 = align_up(ram_high_end(&m->ram), LAYOUT_MMIO64_ALIGN);
	b->io = (struct pci_window){ LAYOUT_PORT_PCI_IO,
				     LAYOUT_PORT_PCI_IO + LAYOUT_PORT_PCI_IO_SIZE };
	b->mem32 = (struct pci_window){ LAYOUT_MMIO32, LAYOUT_MMIO32 + LAYOUT_MMIO32_SIZE };
	b->mem64 = (struct pci_window){ base64, base64 + LAYOUT_MMIO64_SIZE };

	b->host.bus = b;
	mutex_init(&b->host.intx_lock);
	config_init(&b->host, &host_id);
	irq_wire_init(&b->host.intx, m->irq, LAYOUT_GSI_PCI, "pci-host");
	memcpy(b->host.power_on, b->host.cfg, sizeof(b->host.cfg));
	b->slot[0] = &b->host;

	r = add_regions(b);
	if (r) {
		bus_free(b);
		return r;
	}
	b->dev = (struct device){ .ops = &bus_device_ops, .name = "pci" };
	machine_add_device(m, &b->dev);
	*out = b;
	return 0;
}

/* ---- devices ---------------------------------------------------------------- */

int pci_dev_init(struct pci_dev *d, struct pci_bus *bus, int slot, const struct pci_id *id,
		 const struct pci_dev_ops *ops)
{
	int r = 0;

	if (slot == 0 || slot < -1 || slot >= PCI_NR_SLOTS)
		return -EINVAL;
	mutex_lock(&bus->lock);
	if (slot < 0)
		for (slot = 1; slot < PCI_NR_SLOTS && bus->slot[slot]; slot++)
			;
	if (slot == PCI_NR_SLOTS)
		r = -ENOSPC;
	else if (bus->slot[slot])
		r = -EBUSY;
	else
		bus->slot[slot] = d;
	if (!r) {
		gsi_t gsi = LAYOUT_GSI_PCI + (gsi_t)slot % LAYOUT_NR_GSI_PCI; /* pin INTA */

		d->bus = bus;
		d->ops = ops;
		d->devfn = (uint8_t)PCI_DEVFN(slot, 0);
		mutex_init(&d->intx_lock);
		config_init(d, id);
		d->cfg[PCI_INTERRUPT_PIN] = 1;
		d->cfg[PCI_INTERRUPT_LINE] = (uint8_t)gsi;
		irq_wire_init(&d->intx, bus->machine->irq, gsi, d->dev.name);
	}
	mutex_unlock(&bus->lock);
	return r;
}

static int window_take(struct pci_window *w, uint64_t size, uint64_t align, uint64_t *out)
{
	uint64_t at = align_up(w->next, align);

	if (at > w->end || size > w->end - at)
		return -ENOSPC;
	w->next = at + size;
	*out = at;
	return 0;
}

int bus_assign(struct pci_dev *d, struct err *e)
{
	static const char *const what[] = {
		[PCI_BAR_IO] = "I/O", [PCI_BAR_MEM32] = "32-bit", [PCI_BAR_MEM64] = "64-bit",
	};
	struct pci_bus *bus = d->bus;

	for (unsigned i = 0; i < PCI_NR_BARS; i++) {
		struct pci_bar *b = &d->bar[i];
		uint8_t *reg = &d->cfg[PCI_BASE_ADDRESS_0 + 4 * i];
		struct pci_window *w;
		uint64_t at, align;

		if (b->type == PCI_BAR_NONE)
			continue;
		w = b->type == PCI_BAR_IO ? &bus->io :
		    b->type == PCI_BAR_MEM32 ? &bus->mem32 : &bus->mem64;
		/* Memory BARs get whole pages, so that no two devices share one. */
		align = b->type == PCI_BAR_IO ? b->size : MAX(b->size, 4096);
		if (window_take(w, b->size, align, &at))
			return err_set(e, -ENOSPC, "%s: no room for its BAR %u in the %s window; "
				       "use fewer devices", d->dev.name, i, what[b->type]);
		store_le32(reg, load_le32(reg) | (uint32_t)at);
		if (b->type == PCI_BAR_MEM64)
			store_le32(reg + 4, (uint32_t)(at >> 32));
		b->region.base = at;
	}
	return 0;
}

int pci_dev_plug(struct pci_dev *d, struct err *e)
{
	struct region_map *map = d->bus->machine->map;
	int r, c;

	mutex_lock(&d->bus->lock);
	r = bus_assign(d, e);
	if (r)
		goto unlock;
	region_begin(map);
	for (unsigned i = 0; i < PCI_NR_BARS && !r; i++)
		if (d->bar[i].type != PCI_BAR_NONE)
			r = region_add(map, &d->bar[i].region);
	c = region_commit(map);
	r = r ? r : c;
	if (r) {
		err_set(e, r, "%s: cannot add its BARs: %s", d->dev.name, strerror(-r));
		goto unlock;
	}
	memcpy(d->power_on, d->cfg, sizeof(d->cfg));
	d->plugged = true;
	machine_add_device(d->bus->machine, &d->dev);
unlock:
	mutex_unlock(&d->bus->lock);
	return r;
}

void pci_dev_unplug(struct pci_dev *d)
{
	struct pci_bus *bus = d->bus;
	struct region_map *map;

	if (!bus)
		return;
	map = bus->machine->map;
	mutex_lock(&bus->lock);
	bus->slot[PCI_SLOT(d->devfn)] = NULL;
	region_begin(map);
	for (unsigned i = 0; i < PCI_NR_BARS; i++)
		if (d->bar[i].region.added)
			(void)region_del(map, &d->bar[i].region);
	(void)!region_commit(map);
	mutex_unlock(&bus->lock);
	msix_destroy(d);
	irq_wire_fini(&d->intx);
	mutex_destroy(&d->intx_lock);
	d->bus = NULL;
}

void pci_dev_reset(struct pci_dev *d)
{
	mutex_lock(&d->bus->lock);
	memcpy(d->cfg, d->power_on, sizeof(d->cfg));
	config_update_bars(d);
	atomic_store(&d->intx_asserted, false);
	config_update_intx(d);
	msix_reset(d);
	mutex_unlock(&d->bus->lock);
}
