/* SPDX-License-Identifier: MIT */
#include "virtio_driver.h"
#include "check.h"
#include <linux/virtio_pci.h>
#include <stdlib.h>

#define PATIENCE (60 * NSEC_PER_SEC)

static uint64_t cap_address(struct virtio_driver *d, uint8_t type, unsigned *cap)
{
	for (unsigned n = 0;; n++) {
		unsigned at = cfg_cap(d->g, d->slot, PCI_CAP_ID_VNDR, n);

		if (!at)
			return 0;
		if (cfg_read(d->g, d->slot, at + 3, 1) != type)
			continue;
		*cap = at;
		return cfg_bar(d->g, d->slot, cfg_read(d->g, d->slot, at + 4, 1)) +
		       cfg_read(d->g, d->slot, at + 8, 4);
	}
}

void driver_open(struct virtio_driver *d, struct pci_guest *g, unsigned slot)
{
	unsigned cap = 0;

	memset(d, 0, sizeof(*d));
	d->g = g;
	d->slot = slot;
	d->next = 1 << 20;
	assert_int_equal(cfg_read(g, slot, PCI_VENDOR_ID, 2), 0x1af4);
	cfg_write(g, slot, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	d->common = cap_address(d, VIRTIO_PCI_CAP_COMMON_CFG, &cap);
	d->device = cap_address(d, VIRTIO_PCI_CAP_DEVICE_CFG, &cap);
	d->notify = cap_address(d, VIRTIO_PCI_CAP_NOTIFY_CFG, &cap);
	assert_true(d->common && d->notify);
	d->notify_mul = cfg_read(g, slot, cap + 16, 4);
}

gpa_t driver_alloc(struct virtio_driver *d, uint64_t len)
{
	gpa_t at = d->next;

	d->next += align_up(len, 4096);
	assert_non_null(ram_ptr(&d->g->m->ram, at, len));
	return at;
}

void *driver_mem(struct virtio_driver *d, gpa_t at, uint64_t len)
{
	void *p = ram_ptr(&d->g->m->ram, at, len);

	assert_non_null(p);
	return p;
}

uint8_t driver_status(struct virtio_driver *d)
{
	return (uint8_t)mem_read(d->g, d->common + VIRTIO_PCI_COMMON_STATUS, 1);
}

static void set_status(struct virtio_driver *d, uint8_t v)
{
	mem_write(d->g, d->common + VIRTIO_PCI_COMMON_STATUS, v, 1);
}

void driver_reset(struct virtio_driver *d)
{
	set_status(d, 0);
	assert_int_equal(driver_status(d), 0);
}

uint64_t driver_offered(struct virtio_driver *d)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < 2; i++) {
		mem_write(d->g, d->common + VIRTIO_PCI_COMMON_DFSELECT, i, 4);
		v |= mem_read(d->g, d->common + VIRTIO_PCI_COMMON_DF, 4) << 32 * i;
	}
	return v;
}

uint64_t driver_config(struct virtio_driver *d, unsigned off, unsigned len)
{
	assert_true(d->device);
	return mem_read(d->g, d->device + off, len);
}

static void set_queue(struct virtio_driver *d, unsigned reg, uint64_t v)
{
	mem_write(d->g, d->common + reg, (uint32_t)v, 4);
	mem_write(d->g, d->common + reg + 4, v >> 32, 4);
}

void driver_start(struct virtio_driver *d, uint64_t wanted, unsigned nr, uint16_t size)
{
	driver_reset(d);
	set_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	d->features = driver_offered(d) & (wanted | BIT_ULL(VIRTIO_F_VERSION_1));
	for (unsigned i = 0; i < 2; i++) {
		mem_write(d->g, d->common + VIRTIO_PCI_COMMON_GFSELECT, i, 4);
		mem_write(d->g, d->common + VIRTIO_PCI_COMMON_GF, (uint32_t)(d->features >> 32 * i), 4);
	}
	set_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
		   VIRTIO_CONFIG_S_FEATURES_OK);
	assert_true(driver_status(d) & VIRTIO_CONFIG_S_FEATURES_OK);
	assert_true(nr <= DRIVER_QUEUES);
	for (unsigned i = 0; i < nr; i++) {
		struct driver_queue *q = &d->q[i];

		*q = (struct driver_queue){ .size = size };
		q->desc = driver_alloc(d, 16 * size);
		q->driver = driver_alloc(d, 6 + 2 * size);
		q->device = driver_alloc(d, 6 + 8 * size);
		memset(driver_mem(d, q->driver, 6 + 2 * size), 0, 6 + 2 * size);
		memset(driver_mem(d, q->device, 6 + 8 * size), 0, 6 + 8 * size);
		mem_write(d->g, d->common + VIRTIO_PCI_COMMON_Q_SELECT, i, 2);
		mem_write(d->g, d->common + VIRTIO_PCI_COMMON_Q_SIZE, size, 2);
		set_queue(d, VIRTIO_PCI_COMMON_Q_DESCLO, q->desc);
		set_queue(d, VIRTIO_PCI_COMMON_Q_AVAILLO, q->driver);
		set_queue(d, VIRTIO_PCI_COMMON_Q_USEDLO, q->device);
		q->notify = d->notify + d->notify_mul *
			    mem_read(d->g, d->common + VIRTIO_PCI_COMMON_Q_NOFF, 2);
		mem_write(d->g, d->common + VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
	}
	set_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
		   VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
	assert_true(driver_status(d) & VIRTIO_CONFIG_S_DRIVER_OK);
}

void driver_start_legacy(struct virtio_driver *d, uint32_t wanted, unsigned nr)
{
	struct pci_guest *g = d->g;
	uint16_t p;

	cfg_write(g, d->slot, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	p = d->ports = (uint16_t)cfg_bar(g, d->slot, 0);
	assert_int_not_equal(p, 0);
	port_write(g, p + VIRTIO_PCI_STATUS, 0, 1);
	port_write(g, p + VIRTIO_PCI_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER, 1);
	d->features = port_read(g, p + VIRTIO_PCI_HOST_FEATURES, 4) & wanted;
	port_write(g, p + VIRTIO_PCI_GUEST_FEATURES, d->features, 4);
	for (unsigned i = 0; i < nr; i++) {
		struct driver_queue *q = &d->q[i];
		unsigned size, bytes;

		port_write(g, p + VIRTIO_PCI_QUEUE_SEL, i, 2);
		size = (unsigned)port_read(g, p + VIRTIO_PCI_QUEUE_NUM, 2);
		bytes = (unsigned)align_up(18 * size + 6, 4096) + 8 * size + 6;
		*q = (struct driver_queue){ .size = (uint16_t)size, .desc = driver_alloc(d, bytes) };
		q->driver = q->desc + 16 * size;
		q->device = align_up(q->driver + 2 * size + 6, 4096);
		memset(driver_mem(d, q->desc, bytes), 0, bytes);
		port_write(g, p + VIRTIO_PCI_QUEUE_PFN, q->desc / 4096, 4);
	}
	port_write(g, p + VIRTIO_PCI_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
		   VIRTIO_CONFIG_S_DRIVER_OK, 1);
}

uint16_t driver_add(struct virtio_driver *d, unsigned queue, const struct segment *s, unsigned nr)
{
	struct driver_queue *q = &d->q[queue];
	struct vring_desc *desc = driver_mem(d, q->desc, 16 * q->size);
	struct vring_avail *avail = driver_mem(d, q->driver, 6 + 2 * q->size);
	uint16_t head = q->next_desc;

	assert_true(nr >= 1 && nr <= q->size);
	for (unsigned i = 0; i < nr; i++) {
		uint16_t next = (uint16_t)((q->next_desc + 1) % q->size);

		desc[q->next_desc] = (struct vring_desc){
			.addr = s[i].at, .len = s[i].len, .next = next,
			.flags = (uint16_t)((s[i].in ? VRING_DESC_F_WRITE : 0) |
					    (i + 1 < nr ? VRING_DESC_F_NEXT : 0)),
		};
		q->next_desc = next;
	}
	avail->ring[q->avail % q->size] = head;
	q->avail++;
	__atomic_store_n(&avail->idx, q->avail, __ATOMIC_RELEASE);
	return head;
}

void driver_kick(struct virtio_driver *d, unsigned queue)
{
	if (d->ports)
		port_write(d->g, d->ports + VIRTIO_PCI_QUEUE_NOTIFY, queue, 2);
	else
		mem_write(d->g, d->q[queue].notify, queue, 2);
}

unsigned driver_used(struct virtio_driver *d, unsigned queue)
{
	struct driver_queue *q = &d->q[queue];
	struct vring_used *used = driver_mem(d, q->device, 6 + 8 * q->size);

	return (uint16_t)(__atomic_load_n(&used->idx, __ATOMIC_ACQUIRE) - q->seen);
}

static void stop(void *arg)
{
	loop_stop(arg);
}

static void idle_ns(struct virtio_driver *d, uint64_t ns)
{
	struct loop *l = d->g->m->loop;
	struct loop_timer t = { .fire = stop, .arg = l };

	loop_timer_set(l, &t, clock_ns() + ns);
	loop_run(l);
	loop_timer_cancel(l, &t);
}

void driver_step(struct virtio_driver *d)
{
	idle_ns(d, 0);
}

void driver_turn(struct virtio_driver *d)
{
	idle_ns(d, 50000);
}

void driver_idle(struct virtio_driver *d, unsigned ms)
{
	idle_ns(d, ms * 1000000ull);
}

bool driver_is_broken(struct virtio_driver *d)
{
	return driver_status(d) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

bool driver_wait(struct virtio_driver *d, unsigned queue, unsigned n)
{
	uint64_t until = clock_ns() + PATIENCE;

	while (driver_used(d, queue) < n) {
		if (clock_ns() > until || driver_is_broken(d))
			return false;
		driver_turn(d);
	}
	return true;
}

bool driver_wait_broken(struct virtio_driver *d)
{
	uint64_t until = clock_ns() + PATIENCE;

	while (!driver_is_broken(d)) {
		if (clock_ns() > until)
			return false;
		driver_turn(d);
	}
	return true;
}

uint32_t driver_take(struct virtio_driver *d, unsigned queue, uint16_t *head)
{
	struct driver_queue *q = &d->q[queue];
	struct vring_used *used = driver_mem(d, q->device, 6 + 8 * q->size);
	struct vring_used_elem *e = &used->ring[q->seen % q->size];

	assert_true(driver_used(d, queue));
	q->seen++;
	if (head)
		*head = (uint16_t)e->id;
	return e->len;
}
