/* SPDX-License-Identifier: MIT
 * MSI-X (PCI Local Bus 3.0 "MSI-X Capability and Table Structures").
 *
 * The table here is what the guest wrote. What the interrupt fabric knows
 * follows it in sync(): a vector is unmasked there when MSI-X is enabled, the
 * function mask is clear and the vector's own mask bit is clear. A message
 * written while masked is handed over at the unmask only, so that Linux's
 * address low, address high, data cost one change of the route and not three.
 *
 * The irq_msi behind a vector (an eventfd, later a gsi) is made when the vector
 * is first unmasked or its fd asked for; until then a signal is a bit here. The
 * pointer to it is set once, so msix_signal() needs no lock once it is there.
 */
#include "pci/pci_priv.h"
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define MSIX_MAX_VECTORS 2048

struct msix_vector {
	struct irq_msi msi;
	char name[48];
	uint64_t address; /* as last given to msi */
	uint32_t data;
	bool unmasked;
};

struct msix {
	struct pci_dev *d;
	unsigned nr;
	enum inject_path path;
	unsigned cap;            /* offset of the capability */
	uint64_t pba;            /* offset of the pending bits in the BAR */
	_Atomic bool enabled;
	pthread_mutex_t lock;    /* all below */
	bool function_masked;
	uint8_t *table;          /* nr entries of PCI_MSIX_ENTRY_SIZE */
	uint64_t *pending;       /* signalled before the vector had an irq_msi */
	struct msix_vector *_Atomic *vector;
};

static uint8_t *entry(const struct msix *x, unsigned i)
{
	return x->table + i * PCI_MSIX_ENTRY_SIZE;
}

static bool masked_locked(const struct msix *x, unsigned i)
{
	return !atomic_load(&x->enabled) || x->function_masked ||
	       (load_le32(entry(x, i) + PCI_MSIX_ENTRY_VECTOR_CTRL) & PCI_MSIX_ENTRY_CTRL_MASKBIT);
}

/* The vector's irq_msi, made now if need be; it starts masked with what was pending. */
static int get_locked(struct msix *x, unsigned i, struct msix_vector **out)
{
	struct msix_vector *v = atomic_load(&x->vector[i]);
	int r;

	if (!v) {
		v = calloc(1, sizeof(*v));
		if (!v)
			return -ENOMEM;
		snprintf(v->name, sizeof(v->name), "%s:%u", x->d->dev.name, i);
		r = irq_msi_create(&v->msi, x->d->bus->machine->irq, x->path, v->name);
		if (r) {
			free(v);
			return r;
		}
		if (x->pending[i / 64] & BIT_ULL(i % 64)) {
			x->pending[i / 64] &= ~BIT_ULL(i % 64);
			irq_msi_signal(&v->msi);
		}
		atomic_store(&x->vector[i], v);
	}
	*out = v;
	return 0;
}

static int unmask_locked(struct msix *x, unsigned i)
{
	const uint8_t *t = entry(x, i);
	uint64_t address = load_le64(t + PCI_MSIX_ENTRY_LOWER_ADDR);
	uint32_t data = load_le32(t + PCI_MSIX_ENTRY_DATA);
	struct msix_vector *v;
	int r;

	r = get_locked(x, i, &v);
	if (r)
		return r;
	if (v->address != address || v->data != data) {
		r = irq_msi_set(&v->msi, address, data);
		if (r)
			return r;
		v->address = address;
		v->data = data;
	}
	if (!v->unmasked) {
		r = irq_msi_unmask(&v->msi);
		v->unmasked = !r;
	}
	return r;
}

/* Make the fabric follow the table. */
static void sync_locked(struct msix *x, unsigned i)
{
	struct msix_vector *v;
	int r;

	if (!masked_locked(x, i)) {
		r = unmask_locked(x, i);
		if (r)
			device_complain(&x->d->dev, "MSI-X vector %u cannot be set up: %s", i,
					strerror(-r));
		return;
	}
	v = atomic_load(&x->vector[i]);
	if (v && v->unmasked) {
		(void)irq_msi_mask(&v->msi);
		v->unmasked = false;
	}
}

static bool pending_locked(struct msix *x, unsigned i)
{
	struct msix_vector *v = atomic_load(&x->vector[i]);

	return v ? irq_msi_pending(&v->msi) : x->pending[i / 64] >> i % 64 & 1;
}

/* ---- the BAR --------------------------------------------------------------- */

static uint64_t read_pba_locked(struct msix *x, uint64_t off, unsigned len)
{
	uint64_t bits = 0, first = off * 8;

	for (unsigned n = 0; n < len * 8 && first + n < x->nr; n++)
		bits |= (uint64_t)pending_locked(x, (unsigned)first + n) << n;
	return bits;
}

/*
 * Aligned dwords and qwords only, as the specification asks of software; what
 * else comes reads as all ones and writes nothing. Between table and PBA, and
 * beyond them, there is nothing (CVE-2020-13754 was such a place).
 */
static uint64_t bar_read(void *arg, uint64_t off, unsigned len)
{
	struct msix *x = arg;
	uint64_t value = 0, size = (uint64_t)x->nr * PCI_MSIX_ENTRY_SIZE;

	if (off & (len - 1))
		return UINT64_MAX;
	mutex_lock(&x->lock);
	if (range_within(off, len, size))
		value = load_le(x->table + off, len);
	else if (off >= x->pba && range_within(off - x->pba, len, align_up(x->nr, 64) / 8))
		value = read_pba_locked(x, off - x->pba, len);
	mutex_unlock(&x->lock);
	return value;
}

static void bar_write(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	struct msix *x = arg;
	unsigned i = (unsigned)(off / PCI_MSIX_ENTRY_SIZE);
	uint8_t *ctrl;

	if (off & (len - 1) || !range_within(off, len, (uint64_t)x->nr * PCI_MSIX_ENTRY_SIZE))
		return;
	mutex_lock(&x->lock);
	store_le(x->table + off, value, len);
	ctrl = entry(x, i) + PCI_MSIX_ENTRY_VECTOR_CTRL;
	store_le32(ctrl, load_le32(ctrl) & PCI_MSIX_ENTRY_CTRL_MASKBIT); /* the rest is reserved */
	sync_locked(x, i);
	mutex_unlock(&x->lock);
}

static const struct region_ops bar_ops = { bar_read, bar_write, .min_len = 4, .max_len = 8 };

/* ---- config space ------------------------------------------------------------ */

static void follow_control(struct msix *x)
{
	uint16_t ctrl = load_le16(&x->d->cfg[x->cap + PCI_MSIX_FLAGS]);
	bool enabled = ctrl & PCI_MSIX_FLAGS_ENABLE, fmask = ctrl & PCI_MSIX_FLAGS_MASKALL;

	mutex_lock(&x->lock);
	if (enabled != atomic_load(&x->enabled) || fmask != x->function_masked) {
		atomic_store(&x->enabled, enabled);
		x->function_masked = fmask;
		for (unsigned i = 0; i < x->nr; i++)
			sync_locked(x, i);
	}
	mutex_unlock(&x->lock);
}

void msix_written(struct pci_dev *d, unsigned off, unsigned len)
{
	if (range_overlaps(off, len, d->msix->cap + PCI_MSIX_FLAGS, 2))
		follow_control(d->msix);
}

/* ---- life cycle ---------------------------------------------------------------- */

static void free_msix(struct msix *x)
{
	for (unsigned i = 0; x->vector && i < x->nr; i++) {
		struct msix_vector *v = atomic_load(&x->vector[i]);

		if (v)
			irq_msi_destroy(&v->msi);
		free(v);
	}
	mutex_destroy(&x->lock);
	free(x->vector);
	free(x->pending);
	free(x->table);
	free(x);
}

static void power_on_locked(struct msix *x)
{
	memset(x->table, 0, (size_t)x->nr * PCI_MSIX_ENTRY_SIZE);
	for (unsigned i = 0; i < x->nr; i++)
		store_le32(entry(x, i) + PCI_MSIX_ENTRY_VECTOR_CTRL, PCI_MSIX_ENTRY_CTRL_MASKBIT);
	memset(x->pending, 0, align_up(x->nr, 64) / 8);
}

int msix_create(struct pci_dev *d, unsigned bar, unsigned nr, enum inject_path path)
{
	uint64_t half = 2048;
	struct msix *x;
	int r, cap;

	if (!nr || nr > MSIX_MAX_VECTORS || d->msix)
		return -EINVAL;
	while (half < (uint64_t)nr * PCI_MSIX_ENTRY_SIZE)
		half *= 2;
	x = calloc(1, sizeof(*x));
	if (!x)
		return -ENOMEM;
	x->d = d;
	x->nr = nr;
	x->path = path;
	x->pba = half;
	mutex_init(&x->lock);
	x->table = calloc(nr, PCI_MSIX_ENTRY_SIZE);
	x->pending = calloc(align_up(nr, 64) / 64, sizeof(uint64_t));
	x->vector = calloc(nr, sizeof(*x->vector));
	if (!x->table || !x->pending || !x->vector) {
		r = -ENOMEM;
		goto free_x;
	}
	power_on_locked(x);
	r = pci_add_bar(d, bar, PCI_BAR_MEM32, 2 * half, "msix", &bar_ops, x);
	if (r)
		goto free_x;
	cap = pci_add_cap(d, PCI_CAP_ID_MSIX, PCI_CAP_MSIX_SIZEOF);
	if (cap < 0) {
		r = cap;
		goto drop_bar;
	}
	x->cap = (unsigned)cap;
	store_le16(&d->cfg[x->cap + PCI_MSIX_FLAGS], (uint16_t)(nr - 1));
	store_le16(&d->wmask[x->cap + PCI_MSIX_FLAGS],
		   PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	store_le32(&d->cfg[x->cap + PCI_MSIX_TABLE], bar);
	store_le32(&d->cfg[x->cap + PCI_MSIX_PBA], (uint32_t)x->pba | bar);
	d->msix = x;
	return 0;

drop_bar:
	d->bar[bar] = (struct pci_bar){ .type = PCI_BAR_NONE };
free_x:
	free_msix(x);
	return r;
}

void msix_destroy(struct pci_dev *d)
{
	if (d->msix)
		free_msix(d->msix);
	d->msix = NULL;
}

void msix_reset(struct pci_dev *d)
{
	struct msix *x = d->msix;

	if (!x)
		return;
	mutex_lock(&x->lock);
	d->cfg[x->cap + PCI_MSIX_FLAGS + 1] &=
		(uint8_t)~((PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL) >> 8);
	atomic_store(&x->enabled, false);
	x->function_masked = false;
	power_on_locked(x);
	for (unsigned i = 0; i < x->nr; i++) {
		struct msix_vector *v = atomic_load(&x->vector[i]);

		sync_locked(x, i);
		if (v)
			irq_msi_clear(&v->msi);
	}
	mutex_unlock(&x->lock);
}

bool msix_enabled(const struct pci_dev *d)
{
	return d->msix && atomic_load(&d->msix->enabled);
}

unsigned msix_nr(const struct pci_dev *d)
{
	return d->msix ? d->msix->nr : 0;
}

void msix_signal(struct pci_dev *d, unsigned vector)
{
	struct msix *x = d->msix;
	struct msix_vector *v;

	if (!x || vector >= x->nr)
		return;
	v = atomic_load_explicit(&x->vector[vector], memory_order_acquire);
	if (!v) {
		mutex_lock(&x->lock);
		/* Unmasked and yet without one: its creation failed. It may work now. */
		if (!masked_locked(x, vector))
			sync_locked(x, vector);
		v = atomic_load(&x->vector[vector]);
		if (!v)
			x->pending[vector / 64] |= BIT_ULL(vector % 64);
		mutex_unlock(&x->lock);
	}
	if (v)
		irq_msi_signal(&v->msi);
}

int msix_fd(struct pci_dev *d, unsigned vector)
{
	struct msix *x = d->msix;
	struct msix_vector *v;
	int r;

	if (!x || vector >= x->nr)
		return -EINVAL;
	mutex_lock(&x->lock);
	r = get_locked(x, vector, &v);
	mutex_unlock(&x->lock);
	return r ? r : v->msi.n.fd;
}
