/* SPDX-License-Identifier: MIT
 * virtio over PCI, the modern interface (virtio 1.2 "Virtio Over PCI Bus").
 */
#include "virtio/virtio_pci_priv.h"
#include <stdio.h>
#include <stdlib.h>

#define VENDOR    0x1af4
#define ISR_QUEUE 0x1 /* the header names only the other bit, VIRTIO_PCI_ISR_CONFIG */

static struct virtio_pci *from_device(struct device *d)
{
	return container_of(d, struct virtio_pci, pci.dev);
}

/* ---- interrupts -------------------------------------------------------------------- */

/*
 * isr is changed first and looked at here, under the lock: whoever comes last
 * sees both changes, so a read that clears and an interrupt that sets at the
 * same moment leave the wire as the register says.
 */
static void update_intx(struct virtio_pci *p)
{
	mutex_lock(&p->isr_lock);
	pci_set_intx(&p->pci, atomic_load(&p->isr) && !msix_enabled(&p->pci));
	mutex_unlock(&p->isr_lock);
}

static void interrupt(struct virtio_pci *p, uint16_t vector, uint8_t isr)
{
	if (msix_enabled(&p->pci)) {
		if (vector != VIRTIO_MSI_NO_VECTOR)
			msix_signal(&p->pci, vector);
		return;
	}
	atomic_fetch_or(&p->isr, isr);
	update_intx(p);
}

uint8_t vpci_take_isr(struct virtio_pci *p)
{
	uint8_t v = atomic_exchange(&p->isr, 0);

	if (v)
		update_intx(p);
	return v;
}

static void vpci_call(void *arg, struct virtq *q)
{
	interrupt(arg, __atomic_load_n(&q->vector, __ATOMIC_RELAXED), ISR_QUEUE);
}

static void vpci_config_changed(void *arg)
{
	struct virtio_pci *p = arg;

	interrupt(p, atomic_load(&p->config_vector), VIRTIO_PCI_ISR_CONFIG);
}

static const struct virtio_transport_ops transport_ops = { vpci_call, vpci_config_changed };

uint16_t vpci_check_vector(struct virtio_pci *p, uint16_t vector)
{
	return vector < msix_nr(&p->pci) ? vector : VIRTIO_MSI_NO_VECTOR;
}

/* ---- doorbells ----------------------------------------------------------------------- */

static int move_bells(struct virtio_pci *p, int want, enum notify_path path)
{
	struct region_map *map = p->v->machine->map;
	struct region *modern = &p->pci.bar[VPCI_BAR_MODERN].region;
	struct region *legacy = &p->pci.bar[VPCI_BAR_LEGACY].region;
	int r = 0, c;

	region_begin(map);
	for (unsigned i = 0; i < p->v->nr_queues && !r; i++) {
		struct virtq *q = &p->v->queues[i];

		if (q->doorbell.region)
			(void)region_del_doorbell(map, &q->doorbell);
		if (q->doorbell_legacy.region)
			(void)region_del_doorbell(map, &q->doorbell_legacy);
		if (want == BELLS_NONE || !q->enabled || q->kick.fd < 0)
			continue;
		q->doorbell.path = q->doorbell_legacy.path = path;
		r = want == BELLS_MODERN ? region_add_doorbell(map, modern, &q->doorbell) :
					   region_add_doorbell(map, legacy, &q->doorbell_legacy);
	}
	c = region_commit(map);
	return r ? r : c;
}

/* Doorbells are bound while the device is started. */
static void update_bells(struct virtio_pci *p)
{
	int want = !p->v->started ? BELLS_NONE : p->v->legacy ? BELLS_LEGACY : BELLS_MODERN;
	int r;

	if (want == (int)p->bells)
		return;
	r = move_bells(p, want, p->v->options.notify);
	if (r) {
		log_warn(&p->v->machine->log, "%s: no ioeventfd for its doorbells (%s): kicks leave "
			 "the guest", p->pci.dev.name, strerror(-r));
		/* Should this fail too, the register writes still arrive and kick. */
		(void)!move_bells(p, want, NOTIFY_EXIT);
	}
	p->bells = want;
}

static void init_bells(struct virtio_pci *p)
{
	for (unsigned i = 0; i < p->v->nr_queues; i++) {
		struct virtq *q = &p->v->queues[i];

		q->doorbell = (struct doorbell){
			.off = VPCI_NOTIFY + VPCI_NOTIFY_MUL * i, .len = p->bell_len, .n = &q->kick,
		};
		/* One port for all queues: the written index tells them apart. */
		q->doorbell_legacy = (struct doorbell){
			.off = VIRTIO_PCI_QUEUE_NOTIFY, .len = 2, .match = true, .data = i,
			.n = &q->kick,
		};
	}
}

/* ---- registers, device lock held -------------------------------------------------------- */

struct virtq *vpci_selected(struct virtio_pci *p)
{
	return p->queue_select < p->v->nr_queues ? &p->v->queues[p->queue_select] : NULL;
}

uint64_t vpci_config_read(struct virtio_pci *p, uint64_t off, unsigned len)
{
	struct virtio_dev *v = p->v;
	uint64_t value = 0;

	if (off < v->config_len && v->ops->config_read)
		v->ops->config_read(v, (unsigned)off, &value,
				    MIN(len, v->config_len - (unsigned)off));
	return value;
}

void vpci_config_write(struct virtio_pci *p, uint64_t off, uint64_t value, unsigned len)
{
	struct virtio_dev *v = p->v;

	if (range_within(off, len, v->config_len) && v->ops->config_write)
		v->ops->config_write(v, (unsigned)off, &value, len);
}

static void reset_locked(struct virtio_pci *p)
{
	virtio_reset(p->v);
	update_bells(p);
	p->device_feature_select = p->driver_feature_select = 0;
	p->driver_features = 0;
	p->queue_select = 0;
	atomic_store(&p->config_vector, VIRTIO_MSI_NO_VECTOR);
	(void)vpci_take_isr(p);
}

void vpci_write_status(struct virtio_pci *p, uint8_t status)
{
	struct virtio_dev *v = p->v;
	uint8_t old = atomic_load(&v->status);

	if (!status) {
		reset_locked(p);
		return;
	}
	/* "If the device does not accept the features, it leaves FEATURES_OK unset." */
	if (!v->legacy && (status & ~old) & VIRTIO_CONFIG_S_FEATURES_OK &&
	    virtio_set_features(v, p->driver_features))
		status &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
	if ((status & ~old) & VIRTIO_CONFIG_S_DRIVER_OK && !p->master)
		device_complain(&p->pci.dev, "started without bus mastering: its queues wait for it");
	virtio_set_status(v, status);
	update_bells(p);
}

static void read_common(struct virtio_pci *p, struct virtio_pci_common_cfg *c)
{
	const struct virtq *q = vpci_selected(p);
	uint64_t offered = virtio_offered(p->v, false);

	memset(c, 0, sizeof(*c));
	c->device_feature_select = p->device_feature_select;
	if (p->device_feature_select < 2)
		c->device_feature = (uint32_t)(offered >> 32 * p->device_feature_select);
	c->guest_feature_select = p->driver_feature_select;
	if (p->driver_feature_select < 2)
		c->guest_feature = (uint32_t)(p->driver_features >> 32 * p->driver_feature_select);
	c->msix_config = atomic_load(&p->config_vector);
	c->num_queues = (uint16_t)p->v->nr_queues;
	c->device_status = atomic_load(&p->v->status);
	c->config_generation = atomic_load(&p->v->config_generation);
	c->queue_select = p->queue_select;
	c->queue_msix_vector = VIRTIO_MSI_NO_VECTOR;
	if (!q)
		return;
	c->queue_size = q->size;
	c->queue_msix_vector = __atomic_load_n(&q->vector, __ATOMIC_RELAXED);
	c->queue_enable = q->enabled;
	c->queue_notify_off = q->index;
	c->queue_desc_lo = (uint32_t)q->desc_gpa;
	c->queue_desc_hi = (uint32_t)(q->desc_gpa >> 32);
	c->queue_avail_lo = (uint32_t)q->driver_gpa;
	c->queue_avail_hi = (uint32_t)(q->driver_gpa >> 32);
	c->queue_used_lo = (uint32_t)q->device_gpa;
	c->queue_used_hi = (uint32_t)(q->device_gpa >> 32);
}

static void set_half(uint64_t *v, bool high, uint32_t half)
{
	*v = high ? (uint32_t)*v | (uint64_t)half << 32 : (*v & ~0xffffffffull) | half;
}

/* The fields of the selected queue; fixed once it is enabled, but for its vector. */
static void write_queue(struct virtio_pci *p, unsigned off, uint32_t value)
{
	struct virtq *q = vpci_selected(p);

	if (!q)
		return;
	if (off == VIRTIO_PCI_COMMON_Q_MSIX) {
		__atomic_store_n(&q->vector, vpci_check_vector(p, (uint16_t)value),
				 __ATOMIC_RELAXED);
		return;
	}
	if (q->enabled || p->v->started)
		return;
	switch (off) {
	case VIRTIO_PCI_COMMON_Q_SIZE:
		if (is_pow2(value) && value <= q->max_size)
			q->size = (uint16_t)value;
		break;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		q->enabled = value == 1; /* 0 is not to be written: nothing here disables a queue */
		break;
	case VIRTIO_PCI_COMMON_Q_DESCLO:
	case VIRTIO_PCI_COMMON_Q_DESCHI:
		set_half(&q->desc_gpa, off == VIRTIO_PCI_COMMON_Q_DESCHI, value);
		break;
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
	case VIRTIO_PCI_COMMON_Q_AVAILHI:
		set_half(&q->driver_gpa, off == VIRTIO_PCI_COMMON_Q_AVAILHI, value);
		break;
	case VIRTIO_PCI_COMMON_Q_USEDLO:
	case VIRTIO_PCI_COMMON_Q_USEDHI:
		set_half(&q->device_gpa, off == VIRTIO_PCI_COMMON_Q_USEDHI, value);
		break;
	}
}

/* "The driver MUST access each field using the natural access method": the rest is dropped. */
static unsigned field_len(unsigned off)
{
	switch (off) {
	case VIRTIO_PCI_COMMON_STATUS:
		return 1;
	case VIRTIO_PCI_COMMON_MSIX:
	case VIRTIO_PCI_COMMON_Q_SELECT:
	case VIRTIO_PCI_COMMON_Q_SIZE:
	case VIRTIO_PCI_COMMON_Q_MSIX:
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		return 2;
	default:
		return off % 4 ? 0 : 4;
	}
}

static void write_common(struct virtio_pci *p, unsigned off, uint32_t value, unsigned len)
{
	if (len != field_len(off))
		return;
	switch (off) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		p->device_feature_select = value;
		break;
	case VIRTIO_PCI_COMMON_GFSELECT:
		p->driver_feature_select = value;
		break;
	case VIRTIO_PCI_COMMON_GF:
		if (p->driver_feature_select < 2 &&
		    !(atomic_load(&p->v->status) & VIRTIO_CONFIG_S_FEATURES_OK))
			set_half(&p->driver_features, p->driver_feature_select, value);
		break;
	case VIRTIO_PCI_COMMON_MSIX:
		atomic_store(&p->config_vector, vpci_check_vector(p, (uint16_t)value));
		break;
	case VIRTIO_PCI_COMMON_STATUS:
		vpci_write_status(p, (uint8_t)value);
		break;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		p->queue_select = (uint16_t)value;
		break;
	default:
		write_queue(p, off, value);
	}
}

/* ---- the modern BAR ------------------------------------------------------------------------ */

static uint64_t modern_read(void *arg, uint64_t off, unsigned len)
{
	struct virtio_pci *p = arg;
	struct virtio_pci_common_cfg c;
	uint64_t value = 0;

	if (off >= VPCI_NOTIFY)
		return 0;
	if (off >= VPCI_ISR && off < VPCI_DEVICE)
		return off == VPCI_ISR ? vpci_take_isr(p) : 0;
	mutex_lock(&p->v->lock);
	if (off >= VPCI_DEVICE) {
		value = vpci_config_read(p, off - VPCI_DEVICE, len);
	} else if (range_within(off, len, sizeof(c))) {
		read_common(p, &c);
		value = load_le((const char *)&c + off, len);
	}
	mutex_unlock(&p->v->lock);
	return value;
}

static void modern_write(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	struct virtio_pci *p = arg;

	mutex_lock(&p->v->lock);
	if (off >= VPCI_NOTIFY) {
		/* Only what no doorbell took comes here. The place tells the queue. */
		if (off % VPCI_NOTIFY_MUL == 0)
			virtio_kick(p->v, (unsigned)(off - VPCI_NOTIFY) / VPCI_NOTIFY_MUL);
	} else if (off >= VPCI_DEVICE) {
		vpci_config_write(p, off - VPCI_DEVICE, value, len);
	} else if (off < VPCI_ISR) {
		write_common(p, (unsigned)off, (uint32_t)value, len);
	}
	mutex_unlock(&p->v->lock);
}

/* Registers are 32 bits wide at most: an 8-byte access is two of 4. */
static const struct region_ops modern_ops = { modern_read, modern_write, .max_len = 4 };

/* ---- config space ---------------------------------------------------------------------------- */

/*
 * "PCI configuration access capability": a window into the BAR for software
 * that cannot map it. What the window names is checked at each use.
 */
static bool window(const struct virtio_pci *p, uint32_t *off, uint32_t *len)
{
	const uint8_t *cap = &p->pci.cfg[p->cfg_cap];

	*off = load_le32(cap + offsetof(struct virtio_pci_cap, offset));
	*len = load_le32(cap + offsetof(struct virtio_pci_cap, length));
	return cap[offsetof(struct virtio_pci_cap, bar)] == VPCI_BAR_MODERN &&
	       (*len == 1 || *len == 2 || *len == 4) && *off % *len == 0 &&
	       range_within(*off, *len, VPCI_MODERN_SIZE);
}

static bool touches_window(const struct virtio_pci *p, unsigned off, unsigned len)
{
	return range_overlaps(off, len,
			      p->cfg_cap + offsetof(struct virtio_pci_cfg_cap, pci_cfg_data), 4);
}

static void vpci_reading(struct pci_dev *d, unsigned off, unsigned len)
{
	struct virtio_pci *p = container_of(d, struct virtio_pci, pci);
	uint32_t at, n;

	if (p->cfg_cap && touches_window(p, off, len) && window(p, &at, &n))
		store_le32(&d->cfg[p->cfg_cap + offsetof(struct virtio_pci_cfg_cap, pci_cfg_data)],
			   (uint32_t)modern_read(p, at, n));
}

/* Without bus mastering the device must not touch memory: its queues stand still. */
static void follow_master(struct virtio_pci *p)
{
	bool master = load_le16(&p->pci.cfg[PCI_COMMAND]) & PCI_COMMAND_MASTER;

	mutex_lock(&p->v->lock);
	if (master != p->master) {
		p->master = master;
		if (master)
			virtio_resume(p->v);
		else
			virtio_pause(p->v);
	}
	mutex_unlock(&p->v->lock);
}

static void vpci_written(struct pci_dev *d, unsigned off, unsigned len)
{
	struct virtio_pci *p = container_of(d, struct virtio_pci, pci);
	uint32_t at, n;

	if (range_overlaps(off, len, PCI_COMMAND, 2))
		follow_master(p);
	if (p->cfg_cap && touches_window(p, off, len) && window(p, &at, &n))
		modern_write(p, at,
			     load_le32(&d->cfg[p->cfg_cap +
					       offsetof(struct virtio_pci_cfg_cap, pci_cfg_data)]) &
				     len_mask(n), n);
	/* MSI-X may have been switched: INTx rests while it is on. */
	if (d->msix)
		update_intx(p);
}

static const struct pci_dev_ops pci_ops = { vpci_written, vpci_reading };

/* ---- the machine's device ---------------------------------------------------------------------- */

static void vpci_reset(struct device *dev)
{
	struct virtio_pci *p = from_device(dev);

	mutex_lock(&p->v->lock);
	reset_locked(p);
	mutex_unlock(&p->v->lock);
	pci_dev_reset(&p->pci);
	follow_master(p);
}

static void vpci_pause(struct device *dev)
{
	struct virtio_pci *p = from_device(dev);

	mutex_lock(&p->v->lock);
	virtio_pause(p->v);
	mutex_unlock(&p->v->lock);
}

static void vpci_resume(struct device *dev)
{
	struct virtio_pci *p = from_device(dev);

	mutex_lock(&p->v->lock);
	virtio_resume(p->v);
	mutex_unlock(&p->v->lock);
}

static void vpci_free(struct virtio_pci *p)
{
	pci_dev_unplug(&p->pci);
	mutex_destroy(&p->isr_lock);
	free(p);
}

static void vpci_destroy(struct device *dev)
{
	struct virtio_pci *p = from_device(dev);
	struct virtio_dev *v = p->v;

	mutex_lock(&v->lock);
	reset_locked(p);
	mutex_unlock(&v->lock);
	vpci_free(p);
	v->ops->destroy(v);
}

/* ---- create --------------------------------------------------------------------------------------- */

static uint32_t class_code(uint16_t virtio_id)
{
	switch (virtio_id) {
	case VIRTIO_ID_NET:
		return 0x020000; /* Ethernet */
	case VIRTIO_ID_BLOCK:
		return 0x018000; /* other mass storage */
	case VIRTIO_ID_CONSOLE:
		return 0x078000; /* other communication */
	case VIRTIO_ID_SCSI:
		return 0x010000;
	default:
		return 0xff0000; /* unassigned */
	}
}

static int add_cap(struct virtio_pci *p, uint8_t type, uint32_t off, uint32_t len, unsigned size)
{
	int at = pci_add_cap(&p->pci, PCI_CAP_ID_VNDR, size);
	uint8_t *cap;

	if (at < 0)
		return at;
	cap = &p->pci.cfg[at];
	cap[offsetof(struct virtio_pci_cap, cap_len)] = (uint8_t)size;
	cap[offsetof(struct virtio_pci_cap, cfg_type)] = type;
	cap[offsetof(struct virtio_pci_cap, bar)] = VPCI_BAR_MODERN;
	store_le32(cap + offsetof(struct virtio_pci_cap, offset), off);
	store_le32(cap + offsetof(struct virtio_pci_cap, length), len);
	return at;
}

static int add_modern(struct virtio_pci *p)
{
	const unsigned plain = sizeof(struct virtio_pci_cap);
	struct virtio_dev *v = p->v;
	uint8_t *mask;
	int r;

	r = pci_add_bar(&p->pci, VPCI_BAR_MODERN, PCI_BAR_MEM64, VPCI_MODERN_SIZE, "virtio-modern",
			&modern_ops, p);
	if (r)
		return r;
	r = add_cap(p, VIRTIO_PCI_CAP_COMMON_CFG, VPCI_COMMON, sizeof(struct virtio_pci_common_cfg),
		    plain);
	if (r >= 0)
		r = add_cap(p, VIRTIO_PCI_CAP_ISR_CFG, VPCI_ISR, 4, plain);
	if (r >= 0 && v->config_len)
		r = add_cap(p, VIRTIO_PCI_CAP_DEVICE_CFG, VPCI_DEVICE, v->config_len, plain);
	if (r >= 0)
		r = add_cap(p, VIRTIO_PCI_CAP_NOTIFY_CFG, VPCI_NOTIFY,
			    VPCI_NOTIFY_MUL * v->nr_queues, sizeof(struct virtio_pci_notify_cap));
	if (r < 0)
		return r;
	store_le32(&p->pci.cfg[r + (int)offsetof(struct virtio_pci_notify_cap,
						 notify_off_multiplier)], VPCI_NOTIFY_MUL);
	r = add_cap(p, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, sizeof(struct virtio_pci_cfg_cap));
	if (r < 0)
		return r;
	p->cfg_cap = (unsigned)r;
	mask = &p->pci.wmask[r];
	p->pci.cfg[r + (int)offsetof(struct virtio_pci_cap, bar)] = 0;
	mask[offsetof(struct virtio_pci_cap, bar)] = 0xff;
	memset(mask + offsetof(struct virtio_pci_cap, offset), 0xff, 4);
	memset(mask + offsetof(struct virtio_pci_cap, length), 0xff, 4);
	memset(mask + offsetof(struct virtio_pci_cfg_cap, pci_cfg_data), 0xff, 4);
	return 0;
}

static int add_parts(struct virtio_pci *p)
{
	struct virtio_dev *v = p->v;
	int r = 0;

	/* inject=line: without MSI-X the driver uses INTx and the interrupt status. */
	if (irq_best_path(v->machine->irq, v->options.inject) != INJECT_LINE)
		r = msix_create(&p->pci, VPCI_BAR_MSIX, v->nr_queues + 1, v->options.inject);
	if (!r && v->options.transitional)
		r = legacy_create(p);
	if (!r)
		r = add_modern(p);
	return r;
}

int virtio_pci_create(struct virtio_dev *v, struct pci_bus *bus, const char *name, struct err *e)
{
	bool transitional = v->options.transitional;
	struct pci_id id = {
		.vendor = VENDOR,
		.device = transitional ? legacy_device_id(v->ops->id) :
					 (uint16_t)(0x1040 + v->ops->id),
		.subvendor = VENDOR,
		/* A legacy driver finds the type here; a modern one is to see nothing it knows. */
		.subdevice = transitional ? v->ops->id : 0x1100,
		.class_code = class_code(v->ops->id),
		.revision = transitional ? 0 : 1,
	};
	struct virtio_pci *p;
	int r;

	if (!id.device)
		return err_set(e, -EINVAL, "%s: %s has no transitional form: leave out "
			       "\"transitional\"", name, v->ops->type);
	p = calloc(1, sizeof(*p));
	if (!p)
		return err_set(e, -ENOMEM, "%s: no memory", name);
	p->v = v;
	p->device_ops = (struct device_ops){
		.type = v->ops->type,
		.reset = vpci_reset,
		.pause = vpci_pause,
		.resume = vpci_resume,
		.destroy = vpci_destroy,
	};
	p->pci.dev.ops = &p->device_ops;
	snprintf(p->pci.dev.name, sizeof(p->pci.dev.name), "%s", name);
	mutex_init(&p->isr_lock);
	atomic_init(&p->config_vector, VIRTIO_MSI_NO_VECTOR);
	p->bell_len = vm_check_extension(&v->machine->vm, KVM_CAP_IOEVENTFD_ANY_LENGTH) > 0 ? 0 : 2;
	init_bells(p);
	r = pci_dev_init(&p->pci, bus, -1, &id, &pci_ops);
	if (r) {
		err_set(e, r, "%s: no free PCI slot (31 devices at most)", name);
		mutex_destroy(&p->isr_lock);
		free(p);
		return r;
	}
	r = add_parts(p);
	if (r) {
		err_set(e, r, "%s: cannot set up its PCI function: %s", name, strerror(-r));
		goto free_p;
	}
	v->transport = &transport_ops;
	v->transport_arg = p;
	v->dev = &p->pci.dev;
	r = pci_dev_plug(&p->pci, e);
	if (r)
		goto detach;
	/* As at power-on: no bus mastering. */
	mutex_lock(&v->lock);
	virtio_pause(v);
	mutex_unlock(&v->lock);
	return 0;

detach:
	v->transport = NULL;
	v->transport_arg = NULL;
	v->dev = NULL;
free_p:
	vpci_free(p);
	return r;
}
