/* SPDX-License-Identifier: MIT */
#include "echo.h"
#include "rounds.h"
#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <cmocka.h>

static struct echo *from_v(struct virtio_dev *v)
{
	return container_of(v, struct echo, v);
}

static void echo_config_read(struct virtio_dev *v, unsigned off, void *data, unsigned len)
{
	memcpy(data, from_v(v)->config + off, len);
}

static void echo_config_write(struct virtio_dev *v, unsigned off, const void *data, unsigned len)
{
	memcpy(from_v(v)->config + off, data, len);
}

static int echo_start(struct virtio_dev *v)
{
	if (from_v(v)->no_start)
		return -EIO;
	from_v(v)->starts++;
	return 0;
}

static void echo_stop(struct virtio_dev *v)
{
	from_v(v)->stops++;
}

static void echo_stop_queue(struct virtio_dev *v, struct virtq *q)
{
	struct echo *e = from_v(v);

	e->queue_stops++;
	while (e->nr_held && q->index == 0) {
		unsigned n = atomic_fetch_sub(&e->nr_held, 1) - 1;

		if (e->finish)
			virtq_push(q, e->held[n], 0);
		else
			virtq_unpop(q);
	}
}

static void echo_handle(struct virtio_dev *v, struct virtq *q)
{
	struct echo *e = from_v(v);
	struct iovec iov[8];
	struct virtq_chain c = { .iov = iov, .iov_max = ARRAY_SIZE(iov) };
	char buf[256];
	int r;

	atomic_fetch_add(&e->handles, 1);
	do {
		virtq_disable_kicks(q);
		while ((r = virtq_pop(q, &c)) == 1) {
			size_t n = chain_read(&c, 0, buf, sizeof(buf));

			if (e->hold) {
				e->held[atomic_fetch_add(&e->nr_held, 1)] = c.head;
				continue;
			}
			for (size_t i = 0; i < n; i++)
				buf[i] = (char)toupper(buf[i]);
			virtq_push(q, c.head, (uint32_t)chain_write(&c, 0, buf, n));
			if (e->insist) {
				uint16_t next = (uint16_t)(q->avail->idx + 1);

				__atomic_store_n(&q->avail->idx, next, __ATOMIC_RELEASE);
			}
		}
		virtq_flush(q);
		if (r < 0) {
			virtio_fail(v, "bad request: %s", strerror(-r));
			return;
		}
	} while (virtq_enable_kicks(q));
}

static void echo_destroy(struct virtio_dev *v)
{
	struct echo *e = from_v(v);

	if (e->destroyed)
		*e->destroyed = true;
	virtio_dev_fini(v);
	free(e);
}

static const struct virtio_ops echo_ops = {
	.type = "virtio-echo", .id = VIRTIO_ID_CONSOLE,
	.config_read = echo_config_read, .config_write = echo_config_write,
	.start = echo_start, .stop_queue = echo_stop_queue, .stop = echo_stop,
	.handle = echo_handle, .destroy = echo_destroy,
};

struct echo *echo_new(struct pci_guest *g, const struct virtio_options *o, uint16_t size)
{
	struct echo *e = calloc(1, sizeof(*e));

	assert_int_equal(virtio_dev_init(&e->v, g->m, &echo_ops, NR, size, sizeof(e->config), o),
			 0);
	e->v.offered = FEATURE;
	memcpy(e->config, "configspace!", 12);
	return e;
}

struct fixture *echo_make(const struct virtio_options *o, bool any_length, uint16_t size)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err = { "" };

	f->g = pci_guest_create(MEM);
	fake_kvm_set_cap(&f->g->k, KVM_CAP_IOEVENTFD_ANY_LENGTH, any_length);
	f->e = echo_new(f->g, o, size);
	if (virtio_pci_create(&f->e->v, f->g->bus, "echo0", &err))
		fail_msg("%s", err.text);
	for (struct device *d = f->g->m->devices; d; d = d->next)
		if (d->ops->reset)
			d->ops->reset(d);
	vpci_probe(&f->d, f->g, SLOT);
	for (unsigned i = 0; i < NR; i++)
		ring_init(&f->r[i], &f->g->m->ram, RINGS + 0x10000 * i, size);
	return f;
}

int echo_teardown(void **state)
{
	struct fixture *f = *state;
	bool destroyed = false;

	f->e->destroyed = &destroyed;
	pci_guest_destroy(f->g);
	assert_true(destroyed);
	free(f);
	return 0;
}

void turn(struct fixture *f)
{
	assert_int_equal(loop_rounds(f->g->m->loop, 16), 0);
	fake_kvm_serve(&f->g->k);
}

void start(struct fixture *f, uint64_t features)
{
	vpci_msix(&f->d, NR + 1);
	assert_true(vpci_negotiate(&f->d, features));
	vpci_write(&f->d, VIRTIO_PCI_COMMON_MSIX, NR, 2);
	for (unsigned i = 0; i < NR; i++) {
		f->r[i].event_idx = features & BIT_ULL(VIRTIO_RING_F_EVENT_IDX);
		vpci_queue(&f->d, i, &f->r[i], (uint16_t)i);
	}
	vpci_driver_ok(&f->d);
	assert_false(vpci_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

bool ask(struct fixture *f, unsigned nr)
{
	struct ring *r = &f->r[nr];
	uint16_t head = r->next_desc;

	r->next_desc = (uint16_t)((head + 2) % SIZE);
	memcpy(ram_ptr(&f->g->m->ram, DATA, 5), "hello", 5);
	memset(ram_ptr(&f->g->m->ram, DATA + 64, 5), 0, 5);
	ring_desc(r, head, DATA, 5, VRING_DESC_F_NEXT, (uint16_t)(head + 1));
	ring_desc(r, head + 1u, DATA + 64, 16, VRING_DESC_F_WRITE, 0);
	return ring_offer(r, head);
}

bool answered(struct fixture *f, unsigned nr)
{
	uint32_t id, len;

	if (!ring_take(&f->r[nr], &id, &len))
		return false;
	assert_int_equal(len, 5);
	assert_memory_equal(ram_ptr(&f->g->m->ram, DATA + 64, 5), "HELLO", 5);
	return true;
}

uint8_t needs_reset(struct fixture *f)
{
	return vpci_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

void new_rings(struct fixture *f)
{
	for (unsigned i = 0; i < NR; i++)
		ring_init(&f->r[i], &f->g->m->ram, RINGS + 0x10000 * i, SIZE);
}
