/* SPDX-License-Identifier: MIT
 * The core and both PCI interfaces under a test driver, with a device that
 * echoes what it reads in capitals.
 */
#include "../lib/vpci_guest.h"
#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#define SLOT    1
#define GSI     (LAYOUT_GSI_PCI + SLOT)
#define NR      3
#define SIZE    16
#define MEM     (4ull << 20)
#define RINGS   0x100000ull
#define DATA    0x200000ull
#define FEATURE BIT_ULL(7)
#define MODERN  (BIT_ULL(VIRTIO_F_VERSION_1) | FEATURE)

struct echo {
	struct virtio_dev v;
	uint8_t config[12];
	bool hold;               /* leave requests in flight */
	bool insist;             /* put each request back, as a driver that never stops */
	bool no_start;
	bool finish;             /* stop_queue() finishes what is in flight, and does not flush */
	uint16_t held[SIZE];
	_Atomic unsigned nr_held;
	unsigned starts, stops, queue_stops;
	_Atomic unsigned handles;
	bool *destroyed;
};

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

struct fixture {
	struct pci_guest *g;
	struct echo *e;
	struct vpci_guest d;
	struct ring r[NR];
};

static struct echo *echo_new(struct pci_guest *g, const struct virtio_options *o, uint16_t size)
{
	struct echo *e = calloc(1, sizeof(*e));

	assert_int_equal(virtio_dev_init(&e->v, g->m, &echo_ops, NR, size, sizeof(e->config), o),
			 0);
	e->v.offered = FEATURE;
	memcpy(e->config, "configspace!", 12);
	return e;
}

static struct fixture *make(const struct virtio_options *o, bool any_length, uint16_t size)
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

static int setup(void **state)
{
	static const struct virtio_options o;

	*state = make(&o, true, SIZE);
	return 0;
}

static int setup_line(void **state)
{
	static const struct virtio_options o = { .inject = INJECT_LINE };

	*state = make(&o, true, SIZE);
	return 0;
}

static int setup_exit(void **state)
{
	static const struct virtio_options o = { .notify = NOTIFY_EXIT };

	*state = make(&o, true, SIZE);
	return 0;
}

static int setup_no_length(void **state)
{
	static const struct virtio_options o;

	*state = make(&o, false, SIZE);
	return 0;
}

static int setup_transitional(void **state)
{
	static const struct virtio_options o = { .transitional = true };

	*state = make(&o, true, SIZE);
	return 0;
}

static int setup_transitional_line(void **state)
{
	static const struct virtio_options o = { .transitional = true, .inject = INJECT_LINE };

	*state = make(&o, true, SIZE);
	return 0;
}

static int setup_long(void **state)
{
	static const struct virtio_options o;

	*state = make(&o, true, 1024);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	bool destroyed = false;

	f->e->destroyed = &destroyed;
	pci_guest_destroy(f->g);
	assert_true(destroyed);
	free(f);
	return 0;
}

static void stop_loop(void *arg)
{
	loop_stop(arg);
}

/* Let the main loop do what there is to do. */
static void turn(struct fixture *f)
{
	struct loop_timer t = { .fire = stop_loop, .arg = f->g->m->loop };

	loop_timer_set(f->g->m->loop, &t, clock_ns() + 3000000);
	assert_int_equal(loop_run(f->g->m->loop), 0);
	fake_kvm_serve(&f->g->k);
}

static void start(struct fixture *f, uint64_t features)
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

/* Put "hello" in front of the device. Returns whether it wants a kick. */
static bool ask(struct fixture *f, unsigned nr)
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

static bool answered(struct fixture *f, unsigned nr)
{
	uint32_t id, len;

	if (!ring_take(&f->r[nr], &id, &len))
		return false;
	assert_int_equal(len, 5);
	assert_memory_equal(ram_ptr(&f->g->m->ram, DATA + 64, 5), "HELLO", 5);
	return true;
}

static uint8_t needs_reset(struct fixture *f)
{
	return vpci_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

/* ---- modern ------------------------------------------------------------------------ */

static void test_identity(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(cfg_read(f->g, SLOT, PCI_VENDOR_ID, 4), 0x10431af4);
	assert_int_equal(cfg_read(f->g, SLOT, PCI_REVISION_ID, 1), 1);
	assert_int_equal(cfg_read(f->g, SLOT, PCI_BASE_ADDRESS_0, 4), 0);
	assert_true(f->d.common && f->d.isr && f->d.device && f->d.notify);
	assert_int_equal(f->d.notify_mul, 4);
	assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_NUMQ, 2), NR);
	assert_int_equal(vpci_features(&f->d),
			 MODERN | BIT_ULL(VIRTIO_RING_F_INDIRECT_DESC) |
				 BIT_ULL(VIRTIO_RING_F_EVENT_IDX));
	vpci_write(&f->d, VIRTIO_PCI_COMMON_DFSELECT, 2, 4);
	assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_DF, 4), 0);
}

static void test_features(void **state)
{
	struct fixture *f = *state;

	assert_false(vpci_negotiate(&f->d, FEATURE)); /* no VERSION_1 */
	assert_false(vpci_negotiate(&f->d, MODERN | BIT_ULL(40)));
	assert_false(vpci_negotiate(&f->d, MODERN | BIT_ULL(VIRTIO_F_RING_PACKED)));
	assert_int_equal(f->e->v.features, 0);
	assert_true(vpci_negotiate(&f->d, MODERN));
	assert_true(virtio_has(&f->e->v, 7));
	/* Settled: later writes change nothing. */
	vpci_write(&f->d, VIRTIO_PCI_COMMON_GFSELECT, 0, 4);
	vpci_write(&f->d, VIRTIO_PCI_COMMON_GF, 0, 4);
	vpci_driver_ok(&f->d);
	assert_int_equal(f->e->v.features, MODERN);
	assert_int_equal(f->e->starts, 1);
}

static void test_status_machine(void **state)
{
	struct fixture *f = *state;

	/* DRIVER_OK without agreed features. */
	vpci_write(&f->d, VIRTIO_PCI_COMMON_STATUS, 7, 1);
	assert_true(needs_reset(f));
	assert_int_equal(f->e->starts, 0);
	/* The driver can neither clear nor set NEEDS_RESET. */
	vpci_write(&f->d, VIRTIO_PCI_COMMON_STATUS, 7, 1);
	assert_true(needs_reset(f));
	vpci_write(&f->d, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	assert_int_equal(vpci_status(&f->d), 0);
	vpci_write(&f->d, VIRTIO_PCI_COMMON_STATUS, 0x41, 1);
	assert_int_equal(vpci_status(&f->d), 1);
	/* Bits are added only; DRIVER_OK twice starts once. */
	start(f, MODERN);
	vpci_write(&f->d, VIRTIO_PCI_COMMON_STATUS, 1, 1);
	assert_int_equal(vpci_status(&f->d), 15);
	vpci_driver_ok(&f->d);
	assert_int_equal(f->e->starts, 1);
}

static void test_start_refused(void **state)
{
	struct fixture *f = *state;

	f->e->no_start = true;
	assert_true(vpci_negotiate(&f->d, MODERN));
	vpci_driver_ok(&f->d);
	assert_true(needs_reset(f));
	assert_int_equal(f->g->k.nr_ioeventfds, 0);
	f->e->no_start = false;
	start(f, MODERN);
	assert_int_equal(f->e->stops, 0);
}

static void test_echo(void **state)
{
	struct fixture *f = *state;

	start(f, MODERN);
	assert_int_equal(f->g->k.nr_ioeventfds, NR);
	assert_int_equal(fake_kvm_find_doorbell(&f->g->k, false, f->d.notify + 4)->len, 0);
	turn(f); /* the loop comes to rest and asks for kicks */
	assert_true(ask(f, 1));
	vpci_kick(&f->d, 1);
	assert_false(answered(f, 1));
	turn(f);
	assert_true(answered(f, 1));
	assert_int_equal(f->g->k.nr_msis, 1);
	assert_int_equal(f->g->k.msi[0].data, 0x41);
	assert_int_equal(f->e->v.queues[1].kicks, 1);
	assert_int_equal(f->e->v.queues[1].calls, 1);
	assert_int_equal(f->e->v.queues[0].kicks, 0);
	/* The queue's vector may change while it runs. */
	vpci_write(&f->d, VIRTIO_PCI_COMMON_Q_SELECT, 1, 2);
	vpci_write(&f->d, VIRTIO_PCI_COMMON_Q_MSIX, 2, 2);
	ask(f, 1);
	vpci_kick(&f->d, 1);
	turn(f);
	assert_int_equal(f->g->k.msi[1].data, 0x42);
}

static void test_echo_event_idx(void **state)
{
	struct fixture *f = *state;
	unsigned kicks = 0;

	start(f, MODERN | BIT_ULL(VIRTIO_RING_F_EVENT_IDX));
	for (unsigned i = 0; i < 5; i++) {
		if (ask(f, 0)) {
			vpci_kick(&f->d, 0);
			kicks++;
		}
		f->r[0].avail->ring[SIZE] = f->r[0].seen_used;
		turn(f);
		assert_true(answered(f, 0));
	}
	assert_int_equal(kicks, 5); /* the loop slept each time, so it asked each time */
	assert_int_equal(f->g->k.nr_msis, 5);
}

static void test_work_before_start(void **state)
{
	struct fixture *f = *state;

	ask(f, 2);
	start(f, MODERN); /* no kick */
	assert_true(answered(f, 2));
}

static void test_notify_exit(void **state)
{
	struct fixture *f = *state;

	start(f, MODERN);
	assert_int_equal(f->g->k.nr_ioeventfds, 0);
	ask(f, 0);
	vpci_kick(&f->d, 0);
	assert_int_equal(f->e->v.queues[0].doorbell.exits, 1);
	turn(f);
	assert_true(answered(f, 0));
}

static void test_no_any_length(void **state)
{
	struct fixture *f = *state;

	start(f, MODERN);
	assert_int_equal(fake_kvm_find_doorbell(&f->g->k, false, f->d.notify)->len, 2);
	/* A kick of another width goes the slow way and counts as well. */
	ask(f, 0);
	mem_write(f->g, f->d.notify, 0, 4);
	turn(f);
	assert_true(answered(f, 0));
}

static void test_no_ioeventfd_left(void **state)
{
	struct fixture *f = *state;

	f->g->k.max_ioeventfds = 2;
	start(f, MODERN);
	assert_int_equal(f->g->k.nr_ioeventfds, 0);
	ask(f, 2);
	vpci_kick(&f->d, 2);
	turn(f);
	assert_true(answered(f, 2));
}

static void test_intx(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(cfg_cap(f->g, SLOT, PCI_CAP_ID_MSIX, 0), 0);
	assert_true(vpci_negotiate(&f->d, MODERN));
	vpci_queue(&f->d, 0, &f->r[0], 0);
	assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_Q_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
	vpci_driver_ok(&f->d);
	ask(f, 0);
	vpci_kick(&f->d, 0);
	turn(f);
	assert_true(f->g->k.level[GSI]);
	assert_int_equal(mem_read(f->g, f->d.isr, 1), 1);
	assert_false(f->g->k.level[GSI]);
	assert_int_equal(mem_read(f->g, f->d.isr, 1), 0);
	virtio_config_changed(&f->e->v);
	assert_true(f->g->k.level[GSI]);
	assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_CFGGENERATION, 1), 1);
	assert_int_equal(mem_read(f->g, f->d.isr, 1), 2);
	/* A reset takes the wire down. */
	virtio_config_changed(&f->e->v);
	vpci_write(&f->d, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	assert_false(f->g->k.level[GSI]);
	virtio_config_changed(&f->e->v);
	assert_false(f->g->k.level[GSI]);
}

static void test_intx_rests_under_msix(void **state)
{
	struct fixture *f = *state;
	unsigned cap = cfg_cap(f->g, SLOT, PCI_CAP_ID_MSIX, 0);

	assert_true(vpci_negotiate(&f->d, MODERN));
	vpci_queue(&f->d, 0, &f->r[0], 0);
	vpci_driver_ok(&f->d);
	ask(f, 0);
	vpci_kick(&f->d, 0);
	turn(f);
	assert_true(f->g->k.level[GSI]);
	cfg_write(f->g, SLOT, cap + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, 2);
	assert_false(f->g->k.level[GSI]);
}

static void test_stray_kicks(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 1024; i++)
		vpci_kick(&f->d, i); /* before the start */
	assert_true(vpci_negotiate(&f->d, MODERN));
	vpci_queue(&f->d, 0, &f->r[0], 0);
	vpci_driver_ok(&f->d);
	turn(f);
	f->e->handles = 0;
	for (unsigned i = 1; i < 1024; i++)
		vpci_kick(&f->d, i); /* not enabled, and not there (CVE-2011-2512) */
	mem_write(f->g, f->d.notify + 2, 0, 2);
	mem_write(f->g, f->d.notify + 0xffc, UINT32_MAX, 4);
	turn(f);
	assert_int_equal(f->e->handles, 0);
	assert_int_equal(vpci_status(&f->d), 15);
}

static void test_queue_registers(void **state)
{
	struct fixture *f = *state;

	vpci_write(&f->d, VIRTIO_PCI_COMMON_Q_SELECT, NR, 2);
	assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
	vpci_write(&f->d, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
	assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	vpci_write(&f->d, VIRTIO_PCI_COMMON_Q_SELECT, 1, 2);
	assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_Q_SIZE, 2), SIZE);
	assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_Q_NOFF, 2), 1);
	for (unsigned bad = 0; bad < 70000; bad = bad < 12 ? bad + 3 : 2 * bad) {
		vpci_write(&f->d, VIRTIO_PCI_COMMON_Q_SIZE, bad, 2);
		assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_Q_SIZE, 2), SIZE);
	}
	vpci_write(&f->d, VIRTIO_PCI_COMMON_Q_SIZE, 4, 2);
	assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_Q_SIZE, 2), 4);
	vpci_write(&f->d, VIRTIO_PCI_COMMON_Q_MSIX, NR + 1, 2);
	assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_Q_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
	vpci_write(&f->d, VIRTIO_PCI_COMMON_MSIX, 1000, 2);
	assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
	/* Enabled: what it was set up with is fixed. */
	vpci_write(&f->d, VIRTIO_PCI_COMMON_Q_DESCLO, 0x1000, 4);
	vpci_write(&f->d, VIRTIO_PCI_COMMON_Q_DESCHI, 0x1, 4);
	vpci_write(&f->d, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
	vpci_write(&f->d, VIRTIO_PCI_COMMON_Q_DESCLO, 0x2000, 4);
	vpci_write(&f->d, VIRTIO_PCI_COMMON_Q_SIZE, 8, 2);
	vpci_write(&f->d, VIRTIO_PCI_COMMON_Q_ENABLE, 0, 2);
	assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_Q_DESCLO, 4), 0x1000);
	assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_Q_DESCHI, 4), 1);
	assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_Q_SIZE, 2), 4);
	assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
	/* Accesses of another width than the field's. */
	vpci_write(&f->d, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_Q_SELECT, 2), 1);
	assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_STATUS, 4) >> 16, 1);
}

static void test_device_config(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(mem_read(f->g, f->d.device, 4), load_le32("conf"));
	assert_int_equal(mem_read(f->g, f->d.device + 4, 8), load_le64("igspace!"));
	assert_int_equal(mem_read(f->g, f->d.device + 10, 4), load_le16("e!"));
	assert_int_equal(mem_read(f->g, f->d.device + 12, 4), 0);
	mem_write(f->g, f->d.device + 4, 'X', 1);
	mem_write(f->g, f->d.device + 10, UINT32_MAX, 4); /* over the end: dropped */
	mem_write(f->g, f->d.device + 12, UINT32_MAX, 4);
	assert_memory_equal(f->e->config, "confXgspace!", 12);
}

static void test_rings_outside_ram(void **state)
{
	struct fixture *f = *state;
	struct ring bad = f->r[1];

	vpci_msix(&f->d, NR + 1);
	assert_true(vpci_negotiate(&f->d, MODERN));
	vpci_write(&f->d, VIRTIO_PCI_COMMON_MSIX, NR, 2);
	vpci_queue(&f->d, 0, &f->r[0], 0);
	bad.used_gpa = MEM - 8;
	vpci_queue(&f->d, 1, &bad, 1);
	vpci_driver_ok(&f->d);
	assert_true(needs_reset(f));
	assert_int_equal(f->e->starts, 1);
	assert_int_equal(f->e->stops, 1);
	assert_int_equal(f->g->k.nr_ioeventfds, 0);
	/* The driver is told. */
	fake_kvm_serve(&f->g->k);
	assert_int_equal(f->g->k.nr_msis, 1);
	assert_int_equal(f->g->k.msi[0].data, 0x40 + NR);
	/* And nothing runs. */
	ask(f, 0);
	vpci_kick(&f->d, 0);
	turn(f);
	assert_false(answered(f, 0));
	/* A reset heals it. */
	f->r[0].next_avail = f->r[0].avail->idx = 0;
	start(f, MODERN);
	ask(f, 0);
	vpci_kick(&f->d, 0);
	turn(f);
	assert_true(answered(f, 0));
}

static void test_bad_request(void **state)
{
	struct fixture *f = *state;

	start(f, MODERN);
	ring_offer(&f->r[1], 999);
	vpci_kick(&f->d, 1);
	turn(f);
	assert_true(needs_reset(f));
	assert_true(f->e->v.dev->complained);
	assert_int_equal(f->g->k.nr_msis, 1);
	assert_int_equal(f->g->k.msi[0].data, 0x40 + NR);
	/* The whole device is silent until reset. */
	ask(f, 0);
	vpci_kick(&f->d, 0);
	turn(f);
	assert_false(answered(f, 0));
	vpci_write(&f->d, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	assert_int_equal(vpci_status(&f->d), 0);
}

static void test_reset_in_flight(void **state)
{
	struct fixture *f = *state;
	uint32_t id, len;

	start(f, MODERN);
	f->e->hold = true;
	ask(f, 0);
	vpci_kick(&f->d, 0);
	turn(f);
	assert_int_equal(f->e->nr_held, 1);
	ask(f, 1);
	vpci_kick(&f->d, 1); /* rung, and not yet looked at */
	vpci_write(&f->d, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	assert_int_equal(vpci_status(&f->d), 0);
	assert_int_equal(f->e->nr_held, 0);
	assert_int_equal(f->e->queue_stops, NR);
	assert_int_equal(f->e->stops, 1);
	assert_int_equal(f->g->k.nr_ioeventfds, 0);
	turn(f);
	assert_false(ring_take(&f->r[0], &id, &len));
	assert_false(ring_take(&f->r[1], &id, &len));
	assert_int_equal(f->g->k.nr_msis, 0);
	vpci_write(&f->d, VIRTIO_PCI_COMMON_Q_SELECT, 0, 2);
	assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_Q_DESCLO, 4), 0);
	f->e->hold = false;
	for (unsigned i = 0; i < NR; i++)
		ring_init(&f->r[i], &f->g->m->ram, RINGS + 0x10000 * i, SIZE);
	start(f, MODERN);
	ask(f, 0);
	vpci_kick(&f->d, 0);
	turn(f);
	assert_true(answered(f, 0));
}

static void test_pause(void **state)
{
	struct fixture *f = *state;
	struct device *d = f->e->v.dev;

	start(f, MODERN);
	f->e->hold = true;
	ask(f, 0);
	vpci_kick(&f->d, 0);
	turn(f);
	d->ops->pause(d);
	d->ops->pause(d);
	f->e->hold = false;
	ask(f, 1);
	vpci_kick(&f->d, 1);
	turn(f);
	assert_false(answered(f, 0));
	assert_false(answered(f, 1));
	/* Nothing of it shows to the driver. */
	assert_int_equal(vpci_status(&f->d), 15);
	assert_int_equal(f->g->k.nr_ioeventfds, NR);
	d->ops->resume(d);
	assert_false(answered(f, 0));
	d->ops->resume(d);
	turn(f);
	assert_true(answered(f, 0));
	assert_true(answered(f, 1));
	assert_false(answered(f, 0));
	assert_int_equal(f->e->starts, 1);
	assert_int_equal(f->e->stops, 0);
}

static void test_pause_finishes(void **state)
{
	struct fixture *f = *state;
	uint32_t id, len;

	start(f, MODERN);
	f->e->hold = f->e->finish = true;
	ask(f, 0);
	vpci_kick(&f->d, 0);
	turn(f);
	f->e->v.dev->ops->pause(f->e->v.dev);
	assert_true(ring_take(&f->r[0], &id, &len));
	fake_kvm_serve(&f->g->k);
	assert_int_equal(f->g->k.nr_msis, 1);
	f->e->v.dev->ops->resume(f->e->v.dev);
	turn(f);
	assert_false(ring_take(&f->r[0], &id, &len));
}

static void test_bus_master(void **state)
{
	struct fixture *f = *state;

	start(f, MODERN);
	cfg_write(f->g, SLOT, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	ask(f, 0);
	vpci_kick(&f->d, 0);
	turn(f);
	assert_false(answered(f, 0));
	cfg_write(f->g, SLOT, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	turn(f);
	assert_true(answered(f, 0));
}

static void test_machine_reset(void **state)
{
	struct fixture *f = *state;
	struct device *d = f->e->v.dev;

	start(f, MODERN);
	d->ops->pause(d);
	d->ops->reset(d);
	d->ops->resume(d);
	assert_int_equal(f->g->k.nr_ioeventfds, 0);
	assert_int_equal(f->g->k.nr_irqfds, 0);
	vpci_probe(&f->d, f->g, SLOT);
	assert_int_equal(vpci_status(&f->d), 0);
	for (unsigned i = 0; i < NR; i++)
		ring_init(&f->r[i], &f->g->m->ram, RINGS + 0x10000 * i, SIZE);
	start(f, MODERN);
	ask(f, 0);
	vpci_kick(&f->d, 0);
	turn(f);
	assert_true(answered(f, 0));
}

static void test_config_window(void **state)
{
	struct fixture *f = *state;
	unsigned cap = 0, at;

	for (unsigned n = 0; (at = cfg_cap(f->g, SLOT, PCI_CAP_ID_VNDR, n)); n++)
		if (cfg_read(f->g, SLOT, at + 3, 1) == VIRTIO_PCI_CAP_PCI_CFG)
			cap = at;
	assert_int_not_equal(cap, 0);
	cfg_write(f->g, SLOT, PCI_COMMAND, PCI_COMMAND_MASTER, 2); /* works with the BAR off */
	cfg_write(f->g, SLOT, cap + 4, 4, 1);
	cfg_write(f->g, SLOT, cap + 8, VIRTIO_PCI_COMMON_NUMQ, 4);
	cfg_write(f->g, SLOT, cap + 12, 2, 4);
	assert_int_equal(cfg_read(f->g, SLOT, cap + 16, 2), NR);
	cfg_write(f->g, SLOT, cap + 8, VIRTIO_PCI_COMMON_STATUS, 4);
	cfg_write(f->g, SLOT, cap + 12, 1, 4);
	cfg_write(f->g, SLOT, cap + 16, 3, 1);
	assert_int_equal(f->e->v.status, 3);
	/* Other BARs, lengths, places and alignments: nothing. */
	cfg_write(f->g, SLOT, cap + 4, 1, 1);
	cfg_write(f->g, SLOT, cap + 16, 0, 1);
	cfg_write(f->g, SLOT, cap + 4, 4, 1);
	cfg_write(f->g, SLOT, cap + 12, 3, 4);
	cfg_write(f->g, SLOT, cap + 16, 0, 4);
	cfg_write(f->g, SLOT, cap + 12, 4, 4);
	cfg_write(f->g, SLOT, cap + 16, 0, 4);
	cfg_write(f->g, SLOT, cap + 8, 0xfffffffc, 4);
	cfg_read(f->g, SLOT, cap + 16, 4);
	cfg_write(f->g, SLOT, cap + 16, 0, 4);
	cfg_write(f->g, SLOT, cap + 12, 0, 4);
	cfg_read(f->g, SLOT, cap + 16, 4);
	assert_int_equal(f->e->v.status, 3);
}

/* A driver that never stops offering must leave the loop's other work its turn. */
static void test_hammered_queue(void **state)
{
	struct fixture *f = *state;

	start(f, MODERN);
	for (unsigned i = 0; i < SIZE; i++)
		ring_desc(&f->r[0], i, DATA, 0, 0, 0);
	f->e->insist = true;
	alarm(20);
	ring_offer(&f->r[0], 0);
	vpci_kick(&f->d, 0);
	turn(f); /* returns: its timer got its turn */
	assert_true(f->e->handles > 2);
	/* And the other queue too. */
	ask(f, 1);
	vpci_kick(&f->d, 1);
	turn(f);
	assert_true(answered(f, 1));
	alarm(0);
	f->e->insist = false;
}

/* More than one handle() may take, offered at once: the rest comes without another kick. */
static void test_more_than_the_budget(void **state)
{
	struct fixture *f = *state;
	uint32_t id, len;
	unsigned n = 0;

	start(f, MODERN);
	turn(f);
	for (unsigned i = 0; i < 700; i++)
		ring_add(&f->r[0], DATA, 1, true);
	vpci_kick(&f->d, 0);
	turn(f);
	while (ring_take(&f->r[0], &id, &len))
		assert_int_equal(id, n++);
	assert_int_equal(n, 700);
	assert_int_equal(f->e->v.queues[0].kicks, 1);
}

/* Kicks, resets and restarts from one thread, the queues on another. */
static void test_own_thread(void **state)
{
	struct fixture *f = *state;
	struct loop *l;
	uint64_t kicks = 0;

	assert_int_equal(loop_create(&l), 0);
	loop_set_poll_window(l, 200000);
	for (unsigned i = 0; i < NR; i++)
		f->e->v.queues[i].loop = l;
	assert_int_equal(loop_thread_start(l, "io"), 0);
	alarm(60);
	for (unsigned round = 0; round < 20; round++) {
		start(f, MODERN | (round & 1 ? BIT_ULL(VIRTIO_RING_F_EVENT_IDX) : 0));
		for (unsigned i = 0; i < 200; i++) {
			unsigned nr = i % NR;

			if (ask(f, nr)) {
				vpci_kick(&f->d, nr);
				kicks++;
			}
			while (!answered(f, nr))
				;
		}
		ask(f, 0);
		vpci_kick(&f->d, 0); /* in flight, perhaps */
		vpci_write(&f->d, VIRTIO_PCI_COMMON_STATUS, 0, 1);
		for (unsigned i = 0; i < NR; i++)
			ring_init(&f->r[i], &f->g->m->ram, RINGS + 0x10000 * i, SIZE);
	}
	alarm(0);
	/* A spinning loop asks for no kicks: far fewer than requests. */
	assert_true(kicks < 20 * 200);
	loop_thread_stop(l);
	for (unsigned i = 0; i < NR; i++)
		f->e->v.queues[i].loop = f->g->m->loop;
	loop_destroy(l);
}

static void test_random_registers(void **state)
{
	struct fixture *f = *state;
	uint32_t x = 99;

	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < NR; i++)
			ring_init(&f->r[i], &f->g->m->ram, RINGS + 0x10000 * i, SIZE);
		start(f, MODERN);
		for (unsigned i = 0; i < 3000; i++) {
			unsigned len, off;

			x = x * 1664525 + 1013904223;
			len = 1u << (x >> 30);
			off = (x >> 16 & 0x3000) + (x >> 8 & 0x3f);
			if (i & 1)
				mem_read(f->g, f->d.common + off, len);
			else
				mem_write(f->g, f->d.common + off, x * 2654435761u >> (i % 29), len);
		}
	}
	vpci_write(&f->d, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	assert_int_equal(f->g->k.nr_ioeventfds, 0);
}

/* ---- legacy ---------------------------------------------------------------------------- */

static uint32_t in(struct fixture *f, unsigned off, unsigned len)
{
	return (uint32_t)port_read(f->g, (uint16_t)(f->d.io + off), len);
}

static void out(struct fixture *f, unsigned off, uint32_t v, unsigned len)
{
	port_write(f->g, (uint16_t)(f->d.io + off), v, len);
}

static void legacy_start(struct fixture *f, uint32_t features, bool msix)
{
	out(f, VIRTIO_PCI_STATUS, 0, 1);
	out(f, VIRTIO_PCI_STATUS, 1, 1);
	out(f, VIRTIO_PCI_STATUS, 3, 1);
	out(f, VIRTIO_PCI_GUEST_FEATURES, features, 4);
	for (unsigned i = 0; i < NR; i++) {
		out(f, VIRTIO_PCI_QUEUE_SEL, i, 2);
		assert_int_equal(in(f, VIRTIO_PCI_QUEUE_NUM, 2), SIZE);
		assert_int_equal(in(f, VIRTIO_PCI_QUEUE_PFN, 4), 0);
		out(f, VIRTIO_PCI_QUEUE_PFN, (uint32_t)(f->r[i].desc_gpa >> 12), 4);
		assert_int_equal(in(f, VIRTIO_PCI_QUEUE_PFN, 4), f->r[i].desc_gpa >> 12);
		if (msix) {
			out(f, VIRTIO_MSI_QUEUE_VECTOR, i, 2);
			assert_int_equal(in(f, VIRTIO_MSI_QUEUE_VECTOR, 2), i);
		}
	}
	out(f, VIRTIO_PCI_STATUS, 7, 1);
}

static void test_legacy_identity(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(cfg_read(f->g, SLOT, PCI_VENDOR_ID, 4), 0x10031af4);
	assert_int_equal(cfg_read(f->g, SLOT, PCI_REVISION_ID, 1), 0);
	assert_int_equal(cfg_read(f->g, SLOT, PCI_SUBSYSTEM_ID, 2), VIRTIO_ID_CONSOLE);
	assert_int_not_equal(f->d.io, 0);
	assert_int_equal(in(f, VIRTIO_PCI_HOST_FEATURES, 4),
			 FEATURE | BIT(VIRTIO_RING_F_INDIRECT_DESC) |
				 BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_F_ANY_LAYOUT));
	/* Not there: size 0. */
	out(f, VIRTIO_PCI_QUEUE_SEL, NR, 2);
	assert_int_equal(in(f, VIRTIO_PCI_QUEUE_NUM, 2), 0);
	out(f, VIRTIO_PCI_QUEUE_PFN, 5, 4);
	/* Both interfaces show one device. */
	assert_int_equal(vpci_features(&f->d) >> 32, 1);
}

/* The very ioeventfd of the document: PIO, 2 bytes, the queue's index as datamatch. */
static void test_legacy_doorbell(void **state)
{
	struct fixture *f = *state;
	unsigned seen = 0;

	legacy_start(f, FEATURE, false);
	assert_int_equal(f->g->k.nr_ioeventfds, NR);
	for (unsigned i = 0; i < NR; i++) {
		const struct kvm_ioeventfd *d = &f->g->k.ioeventfd[i];

		assert_int_equal(d->flags, KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH);
		assert_int_equal(d->addr, f->d.io + VIRTIO_PCI_QUEUE_NOTIFY);
		assert_int_equal(d->len, 2);
		seen |= BIT(d->datamatch);
	}
	assert_int_equal(seen, 7);
	ask(f, 2);
	out(f, VIRTIO_PCI_QUEUE_NOTIFY, 2, 2);
	out(f, VIRTIO_PCI_QUEUE_NOTIFY, 3, 2);
	out(f, VIRTIO_PCI_QUEUE_NOTIFY, 0xffff, 2);
	turn(f);
	assert_true(answered(f, 2));
	assert_int_equal(f->e->v.queues[2].kicks, 1);
	assert_int_equal(f->e->v.queues[0].kicks, 0);
	assert_false(virtio_has(&f->e->v, VIRTIO_F_VERSION_1));
	assert_true(f->g->k.level[GSI]);
	assert_int_equal(in(f, VIRTIO_PCI_ISR, 1), 1);
	assert_false(f->g->k.level[GSI]);
}

static void test_legacy_msix(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(in(f, 20, 4), load_le32("conf"));
	vpci_msix(&f->d, NR + 1);
	assert_int_equal(in(f, 24, 4), load_le32("conf"));
	legacy_start(f, 0, true);
	out(f, VIRTIO_MSI_CONFIG_VECTOR, NR, 2);
	assert_int_equal(in(f, VIRTIO_MSI_CONFIG_VECTOR, 2), NR);
	out(f, VIRTIO_MSI_QUEUE_VECTOR, 77, 2);
	assert_int_equal(in(f, VIRTIO_MSI_QUEUE_VECTOR, 2), VIRTIO_MSI_NO_VECTOR);
	ask(f, 1);
	out(f, VIRTIO_PCI_QUEUE_NOTIFY, 1, 2);
	turn(f);
	assert_true(answered(f, 1));
	assert_int_equal(f->g->k.msi[0].data, 0x41);
	virtio_config_changed(&f->e->v);
	fake_kvm_serve(&f->g->k);
	assert_int_equal(f->g->k.msi[1].data, 0x40 + NR);
	out(f, 24 + 4, 'X', 1);
	assert_int_equal(f->e->config[4], 'X');
}

static void test_legacy_stop(void **state)
{
	struct fixture *f = *state;

	legacy_start(f, 0, false);
	out(f, VIRTIO_PCI_QUEUE_SEL, 0, 2);
	out(f, VIRTIO_PCI_QUEUE_PFN, 0x7777, 4); /* running: not to be moved */
	assert_int_equal(in(f, VIRTIO_PCI_QUEUE_PFN, 4), f->r[0].desc_gpa >> 12);
	out(f, VIRTIO_PCI_QUEUE_PFN, 0, 4);
	assert_int_equal(f->g->k.nr_ioeventfds, 0);
	assert_int_equal(f->e->stops, 1);
	for (unsigned i = 0; i < NR; i++)
		ring_init(&f->r[i], &f->g->m->ram, RINGS + 0x10000 * i, SIZE);
	legacy_start(f, 0, false);
	ask(f, 0);
	out(f, VIRTIO_PCI_QUEUE_NOTIFY, 0, 2);
	turn(f);
	assert_true(answered(f, 0));
	out(f, VIRTIO_PCI_STATUS, 0, 1);
	assert_int_equal(in(f, VIRTIO_PCI_STATUS, 1), 0);
	assert_int_equal(f->e->stops, 2);
	/* And the modern driver may have it next. */
	for (unsigned i = 0; i < NR; i++)
		ring_init(&f->r[i], &f->g->m->ram, RINGS + 0x10000 * i, SIZE);
	start(f, MODERN);
	ask(f, 0);
	vpci_kick(&f->d, 0);
	turn(f);
	assert_true(answered(f, 0));
}

static void test_legacy_outside_ram(void **state)
{
	struct fixture *f = *state;

	out(f, VIRTIO_PCI_STATUS, 3, 1);
	out(f, VIRTIO_PCI_GUEST_FEATURES, UINT32_MAX, 4); /* more than offered: left out */
	assert_int_equal(in(f, VIRTIO_PCI_GUEST_FEATURES, 4), in(f, VIRTIO_PCI_HOST_FEATURES, 4));
	out(f, VIRTIO_PCI_QUEUE_PFN, UINT32_MAX, 4);
	out(f, VIRTIO_PCI_STATUS, 7, 1);
	assert_true(in(f, VIRTIO_PCI_STATUS, 1) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(f->g->k.nr_ioeventfds, 0);
}

static void test_legacy_random(void **state)
{
	struct fixture *f = *state;
	uint32_t x = 5;

	for (unsigned i = 0; i < 20000; i++) {
		unsigned len, off;

		x = x * 1664525 + 1013904223;
		len = 1u << (x >> 30);
		off = x >> 16 & 0x3f;
		if (i % 3)
			out(f, off, x >> (i % 31), MIN(len, 4u));
		else
			in(f, off, MIN(len, 4u));
		if (i % 100 == 0)
			legacy_start(f, x, false);
		if (i % 500 == 0)
			start(f, MODERN);
		out(f, VIRTIO_PCI_STATUS, 0, i % 50 ? 2 : 1);
		if (i % 50 == 0)
			vpci_write(&f->d, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	}
}

static void test_create_refusals(void **state)
{
	struct fixture *f = *state;
	static const struct virtio_options transitional = { .transitional = true }, plain;
	static const struct virtio_ops vsock = { .type = "virtio-vsock", .id = VIRTIO_ID_VSOCK };
	struct virtio_dev v = { 0 };
	struct echo *e;
	struct err err;
	unsigned n = 0;

	assert_int_equal(virtio_dev_init(&v, f->g->m, &vsock, 0, 16, 0, &plain), -EINVAL);
	assert_int_equal(virtio_dev_init(&v, f->g->m, &vsock, 1, 24, 0, &plain), -EINVAL);
	assert_int_equal(virtio_dev_init(&v, f->g->m, &vsock, 1, 2048, 0, &plain), -EINVAL);
	assert_int_equal(virtio_dev_init(&v, f->g->m, &vsock, 1, 16, 0, &transitional), 0);
	assert_int_equal(virtio_pci_create(&v, f->g->bus, "vsock0", &err), -EINVAL);
	assert_non_null(strstr(err.text, "vsock0"));
	virtio_dev_fini(&v);
	/* Slots run out: the device stays the caller's. */
	for (;;) {
		e = echo_new(f->g, &plain, SIZE);
		if (virtio_pci_create(&e->v, f->g->bus, "echo", &err))
			break;
		n++;
	}
	assert_int_equal(n, 30);
	assert_non_null(strstr(err.text, "slot"));
	virtio_dev_fini(&e->v);
	free(e);
}

int main(void)
{
#define U(s, f) { #f, f, s, teardown, NULL }
#define T(f)    U(setup, f)
#define L(f)    U(setup_transitional, f)
	const struct CMUnitTest tests[] = {
		T(test_identity), T(test_features), T(test_status_machine), T(test_start_refused),
		T(test_echo), T(test_echo_event_idx), T(test_work_before_start),
		U(setup_exit, test_notify_exit), U(setup_no_length, test_no_any_length),
		T(test_no_ioeventfd_left), U(setup_line, test_intx),
		T(test_intx_rests_under_msix), T(test_stray_kicks), T(test_queue_registers),
		T(test_device_config), T(test_rings_outside_ram), T(test_bad_request),
		T(test_reset_in_flight), T(test_pause), T(test_pause_finishes), T(test_bus_master), T(test_machine_reset),
		T(test_config_window), T(test_hammered_queue),
		U(setup_long, test_more_than_the_budget), T(test_own_thread),
		T(test_random_registers), L(test_legacy_identity),
		U(setup_transitional_line, test_legacy_doorbell), L(test_legacy_doorbell),
		L(test_legacy_msix), L(test_legacy_stop), L(test_legacy_outside_ram),
		L(test_legacy_random), T(test_create_refusals),
		L(test_echo), L(test_pause), L(test_reset_in_flight),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
