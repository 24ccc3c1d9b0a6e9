/* SPDX-License-Identifier: MIT
 * The core and the modern PCI interface under a test driver.
 */
#include "../lib/echo.h"
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

static int setup(void **state)
{
	static const struct virtio_options o;

	*state = echo_make(&o, true, SIZE);
	return 0;
}

static int setup_line(void **state)
{
	static const struct virtio_options o = { .inject = INJECT_LINE };

	*state = echo_make(&o, true, SIZE);
	return 0;
}

static int setup_exit(void **state)
{
	static const struct virtio_options o = { .notify = NOTIFY_EXIT };

	*state = echo_make(&o, true, SIZE);
	return 0;
}

static int setup_no_length(void **state)
{
	static const struct virtio_options o;

	*state = echo_make(&o, false, SIZE);
	return 0;
}

static int setup_long(void **state)
{
	static const struct virtio_options o;

	*state = echo_make(&o, true, 1024);
	return 0;
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

/*
 * CVE-2021-20255, CVE-2024-3446: a request whose data is a register of the device itself, so
 * that serving it enters the device again.
 */
static void test_request_into_its_own_registers(void **state)
{
	struct fixture *f = *state;
	const uint64_t targets[] = {
		f->d.notify, f->d.common + VIRTIO_PCI_COMMON_STATUS, f->d.device,
		cfg_read(f->g, SLOT, PCI_BASE_ADDRESS_1, 4) & ~15u, f->d.isr,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(targets); i++) {
		unsigned kicks;

		start(f, MODERN);
		kicks = f->e->v.queues[0].kicks;
		ring_add(&f->r[0], targets[i], 5, true);
		vpci_kick(&f->d, 0);
		turn(f);
		assert_true(needs_reset(f));
		assert_in_range(f->e->v.queues[0].kicks - kicks, 0, 1);
		assert_int_equal(f->r[0].used->idx, 0);
		vpci_write(&f->d, VIRTIO_PCI_COMMON_STATUS, 0, 1);
		new_rings(f);
	}
	start(f, MODERN);
	ask(f, 0);
	vpci_kick(&f->d, 0);
	turn(f);
	assert_true(answered(f, 0));
}

/* CVE-2024-4693: the vector for changes of the configuration changes while the device runs. */
static void test_config_vector_changes(void **state)
{
	struct fixture *f = *state;
	static const uint16_t vectors[] = {
		NR, VIRTIO_MSI_NO_VECTOR, 0, NR, 77, NR + 1, 1, VIRTIO_MSI_NO_VECTOR, NR,
	};

	start(f, MODERN);
	for (unsigned i = 0; i < ARRAY_SIZE(vectors); i++) {
		bool there = vectors[i] <= NR;
		unsigned before;

		vpci_write(&f->d, VIRTIO_PCI_COMMON_MSIX, vectors[i], 2);
		assert_int_equal(vpci_read(&f->d, VIRTIO_PCI_COMMON_MSIX, 2),
				 there ? vectors[i] : VIRTIO_MSI_NO_VECTOR);
		fake_kvm_serve(&f->g->k);
		before = f->g->k.nr_msis;
		virtio_config_changed(&f->e->v);
		fake_kvm_serve(&f->g->k);
		assert_int_equal(f->g->k.nr_msis - before, there ? 1 : 0);
		if (there)
			assert_int_equal(f->g->k.msi[f->g->k.nr_msis - 1].data, 0x40 + vectors[i]);
	}
	/* The queues' vectors have not suffered; and all are given back. */
	ask(f, 0);
	vpci_kick(&f->d, 0);
	turn(f);
	assert_true(answered(f, 0));
	vpci_write(&f->d, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	vpci_write(&f->d, VIRTIO_PCI_COMMON_MSIX, 1, 2);
	virtio_config_changed(&f->e->v);
	vpci_write(&f->d, VIRTIO_PCI_COMMON_STATUS, 0, 1);
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
	new_rings(f);
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

/* DRIVER_OK first, bus mastering later: the doorbells are there all the same. */
static void test_late_bus_master(void **state)
{
	struct fixture *f = *state;

	cfg_write(f->g, SLOT, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	start(f, MODERN);
	ask(f, 0);
	vpci_kick(&f->d, 0);
	turn(f);
	assert_false(answered(f, 0));
	cfg_write(f->g, SLOT, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	turn(f);
	assert_true(answered(f, 0));
	assert_int_equal(f->g->k.nr_ioeventfds, NR);
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
	new_rings(f);
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
	f->e->handles = 0;
	alarm(60);
	ring_offer(&f->r[0], 0);
	vpci_kick(&f->d, 0);
	turn(f); /* returns: its timer got its turns */
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

/*
 * Kicks, resets and restarts from one thread, the queues on another, which spins for `window` after work.
 * How many of the `rounds` * 200 requests asked for a kick.
 */
static unsigned from_own_thread(struct fixture *f, uint64_t window, unsigned rounds)
{
	struct loop *l;
	unsigned kicks = 0;

	assert_int_equal(loop_create(&l), 0);
	loop_set_poll_window(l, window);
	for (unsigned i = 0; i < NR; i++)
		f->e->v.queues[i].loop = l;
	assert_int_equal(loop_thread_start(l, "io"), 0);
	alarm(60);
	for (unsigned round = 0; round < rounds; round++) {
		start(f, MODERN | (round & 1 ? BIT_ULL(VIRTIO_RING_F_EVENT_IDX) : 0));
		for (unsigned i = 0; i < 200; i++) {
			unsigned nr = i % NR;

			if (ask(f, nr)) {
				vpci_kick(&f->d, nr);
				kicks++;
			}
			while (!answered(f, nr))
				sched_yield();
		}
		ask(f, 0);
		vpci_kick(&f->d, 0); /* in flight, perhaps */
		vpci_write(&f->d, VIRTIO_PCI_COMMON_STATUS, 0, 1);
		new_rings(f);
	}
	alarm(0);
	loop_thread_stop(l);
	for (unsigned i = 0; i < NR; i++)
		f->e->v.queues[i].loop = f->g->m->loop;
	loop_destroy(l);
	return kicks;
}

/* The window is about as long as a turn: the loop often stops spinning just as a request comes. */
static void test_own_thread(void **state)
{
	from_own_thread(*state, 200000, 20);
}

/* A window that cannot pass between all the requests: that would take longer than alarm(2) allows. */
static void test_spinning_loop_wants_no_kicks(void **state)
{
	assert_true(from_own_thread(*state, 1000000000, 2) < 2 * 200);
}

static void test_random_registers(void **state)
{
	struct fixture *f = *state;
	uint32_t x = 99;

	for (unsigned round = 0; round < 20; round++) {
		new_rings(f);
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
#define U(s, f) { #f, f, s, echo_teardown, NULL }
#define T(f)    U(setup, f)
	const struct CMUnitTest tests[] = {
		T(test_identity), T(test_features), T(test_status_machine), T(test_start_refused),
		T(test_echo), T(test_echo_event_idx), T(test_work_before_start),
		U(setup_exit, test_notify_exit), U(setup_no_length, test_no_any_length),
		T(test_no_ioeventfd_left), U(setup_line, test_intx),
		T(test_intx_rests_under_msix), T(test_stray_kicks), T(test_queue_registers),
		T(test_device_config), T(test_rings_outside_ram), T(test_bad_request),
		T(test_request_into_its_own_registers), T(test_config_vector_changes),
		T(test_reset_in_flight), T(test_pause), T(test_pause_finishes), T(test_bus_master),
		T(test_late_bus_master), T(test_machine_reset),
		T(test_config_window), T(test_hammered_queue),
		U(setup_long, test_more_than_the_budget), T(test_own_thread),
		T(test_spinning_loop_wants_no_kicks),
		T(test_random_registers), T(test_create_refusals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
