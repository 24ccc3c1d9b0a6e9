/* SPDX-License-Identifier: MIT
 * virtio over PCI, the legacy interface of a transitional device (virtio 1.2
 * "Legacy Interfaces: A Note on PCI Device Layout"): ports in BAR 0, a queue
 * is one page frame number, and one 16-bit port takes the kicks of all queues,
 * so a doorbell there matches the written queue index.
 */
#include "virtio/virtio_pci_priv.h"

#define PAGE         4096u
#define HEADER       20u /* without MSI-X */
#define HEADER_MSIX  24u

uint16_t legacy_device_id(uint16_t virtio_id)
{
	switch (virtio_id) {
	case VIRTIO_ID_NET:
		return 0x1000;
	case VIRTIO_ID_BLOCK:
		return 0x1001;
	case VIRTIO_ID_BALLOON:
		return 0x1002;
	case VIRTIO_ID_CONSOLE:
		return 0x1003;
	case VIRTIO_ID_SCSI:
		return 0x1004;
	case VIRTIO_ID_RNG:
		return 0x1005;
	case VIRTIO_ID_9P:
		return 0x1009;
	default:
		return 0;
	}
}

/* Device configuration starts behind the vectors, and those are there while MSI-X is on. */
static unsigned header_len(const struct virtio_pci *p)
{
	return msix_enabled(&p->pci) ? HEADER_MSIX : HEADER;
}

static uint64_t read_header(struct virtio_pci *p, unsigned off, unsigned len)
{
	const struct virtq *q = vpci_selected(p);
	uint8_t h[HEADER_MSIX + 8] = { 0 };

	store_le32(&h[VIRTIO_PCI_HOST_FEATURES], (uint32_t)virtio_offered(p->v, true));
	store_le32(&h[VIRTIO_PCI_GUEST_FEATURES], (uint32_t)p->v->features);
	store_le16(&h[VIRTIO_PCI_QUEUE_SEL], p->queue_select);
	h[VIRTIO_PCI_STATUS] = atomic_load(&p->v->status);
	store_le16(&h[VIRTIO_MSI_CONFIG_VECTOR], atomic_load(&p->config_vector));
	store_le16(&h[VIRTIO_MSI_QUEUE_VECTOR], VIRTIO_MSI_NO_VECTOR);
	if (q) {
		store_le32(&h[VIRTIO_PCI_QUEUE_PFN], q->enabled ? (uint32_t)(q->desc_gpa / PAGE) : 0);
		store_le16(&h[VIRTIO_PCI_QUEUE_NUM], q->max_size);
		store_le16(&h[VIRTIO_MSI_QUEUE_VECTOR],
			   __atomic_load_n(&q->vector, __ATOMIC_RELAXED));
	}
	if (range_overlaps(off, len, VIRTIO_PCI_ISR, 1))
		h[VIRTIO_PCI_ISR] = vpci_take_isr(p);
	return load_le(&h[off], len);
}

static uint64_t legacy_read(void *arg, uint64_t off, unsigned len)
{
	struct virtio_pci *p = arg;
	uint64_t value;

	mutex_lock(&p->v->lock);
	if (off >= header_len(p))
		value = vpci_config_read(p, off - header_len(p), len);
	else
		value = read_header(p, (unsigned)off, len);
	mutex_unlock(&p->v->lock);
	return value;
}

/* Legacy "Virtqueue Layout": three parts in a row, the used ring on a page of its own. */
static void write_pfn(struct virtio_pci *p, uint32_t pfn)
{
	struct virtq *q = vpci_selected(p);

	if (!pfn) {
		/* A driver that leaves takes its queues back one by one: the first stops all. */
		if (p->v->started)
			vpci_write_status(p, 0);
		else if (q)
			virtq_reset(q);
		return;
	}
	if (!q || p->v->started)
		return;
	q->size = q->max_size;
	q->desc_gpa = (uint64_t)pfn * PAGE;
	q->driver_gpa = q->desc_gpa + sizeof(struct vring_desc) * q->size;
	q->device_gpa = align_up(q->driver_gpa + 6 + 2 * (uint64_t)q->size, PAGE);
	q->enabled = true;
}

static void write_features(struct virtio_pci *p, uint32_t value)
{
	struct virtio_dev *v = p->v;

	if (v->started)
		return;
	v->legacy = true;
	/* There is no way to refuse here: what is not offered is left out. */
	(void)!virtio_set_features(v, value & virtio_offered(v, true));
}

static void write_status(struct virtio_pci *p, uint8_t value)
{
	if (value && !p->v->started)
		p->v->legacy = true;
	vpci_write_status(p, value);
}

static void write_header(struct virtio_pci *p, unsigned off, uint32_t value, unsigned len)
{
	struct virtq *q = vpci_selected(p);

	switch (off << 4 | len) {
	case VIRTIO_PCI_GUEST_FEATURES << 4 | 4:
		write_features(p, value);
		break;
	case VIRTIO_PCI_QUEUE_PFN << 4 | 4:
		write_pfn(p, value);
		break;
	case VIRTIO_PCI_QUEUE_SEL << 4 | 2:
		p->queue_select = (uint16_t)value;
		break;
	case VIRTIO_PCI_QUEUE_NOTIFY << 4 | 2:
		virtio_kick(p->v, value);
		break;
	case VIRTIO_PCI_STATUS << 4 | 1:
		write_status(p, (uint8_t)value);
		break;
	case VIRTIO_MSI_CONFIG_VECTOR << 4 | 2:
		atomic_store(&p->config_vector, vpci_check_vector(p, (uint16_t)value));
		break;
	case VIRTIO_MSI_QUEUE_VECTOR << 4 | 2:
		if (q)
			__atomic_store_n(&q->vector, vpci_check_vector(p, (uint16_t)value),
					 __ATOMIC_RELAXED);
		break;
	}
}

static void legacy_write(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	struct virtio_pci *p = arg;

	mutex_lock(&p->v->lock);
	if (off >= header_len(p))
		vpci_config_write(p, off - header_len(p), value, len);
	else
		write_header(p, (unsigned)off, (uint32_t)(value & len_mask(len)), len);
	mutex_unlock(&p->v->lock);
}

static const struct region_ops legacy_ops = { legacy_read, legacy_write, .max_len = 4 };

int legacy_create(struct virtio_pci *p)
{
	uint64_t size = 64;

	while (size < HEADER_MSIX + p->v->config_len)
		size *= 2;
	return pci_add_bar(&p->pci, VPCI_BAR_LEGACY, PCI_BAR_IO, size, "virtio-legacy", &legacy_ops,
			   p);
}
