/* SPDX-License-Identifier: MIT
 * A transitional device under a legacy driver.
 */
#include "../lib/echo.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

static int setup_transitional(void **state)
{
	static const struct virtio_options o = { .transitional = true };

	*state = echo_make(&o, true, SIZE);
	return 0;
}

static int setup_transitional_line(void **state)
{
	static const struct virtio_options o = { .transitional = true, .inject = INJECT_LINE };

	*state = echo_make(&o, true, SIZE);
	return 0;
}

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
	new_rings(f);
	legacy_start(f, 0, false);
	ask(f, 0);
	out(f, VIRTIO_PCI_QUEUE_NOTIFY, 0, 2);
	turn(f);
	assert_true(answered(f, 0));
	out(f, VIRTIO_PCI_STATUS, 0, 1);
	assert_int_equal(in(f, VIRTIO_PCI_STATUS, 1), 0);
	assert_int_equal(f->e->stops, 2);
	/* And the modern driver may have it next. */
	new_rings(f);
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

/* The modern interface of the same function, with its own doorbells. */
static void test_modern_as_well(void **state)
{
	struct fixture *f = *state;

	start(f, MODERN);
	turn(f);
	assert_int_equal(f->g->k.nr_ioeventfds, NR);
	assert_non_null(fake_kvm_find_doorbell(&f->g->k, false, f->d.notify));
	assert_true(ask(f, 1));
	vpci_kick(&f->d, 1);
	/* The other interface's doorbell is not bound meanwhile: its writes take the slow way. */
	ask(f, 2);
	out(f, VIRTIO_PCI_QUEUE_NOTIFY, 2, 2);
	turn(f);
	assert_true(answered(f, 1));
	assert_true(answered(f, 2));
}

int main(void)
{
#define U(s, f) { #f, f, s, echo_teardown, NULL }
#define L(f)    U(setup_transitional, f)
	const struct CMUnitTest tests[] = {
		L(test_legacy_identity), U(setup_transitional_line, test_legacy_doorbell),
		L(test_legacy_doorbell), L(test_legacy_msix), L(test_legacy_stop),
		L(test_legacy_outside_ram), L(test_legacy_random), L(test_modern_as_well),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
