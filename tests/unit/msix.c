/* SPDX-License-Identifier: MIT
 * MSI-X against a guest that does everything the specification forbids, and
 * against a KVM half that shows what reached it.
 */
#include "../lib/pci_guest.h"
#include "../lib/process.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cmocka.h>

#define SLOT 5
#define NR   70 /* not a multiple of 64: the PBA's last word is partly used */
#define PBA  2048
#define ADDR 0xfee01000u

static struct pci_dev *dev;
static uint64_t bar;
static unsigned ctrl;

static void dummy_reset(struct device *d)
{
	pci_dev_reset(container_of(d, struct pci_dev, dev));
}

static void dummy_destroy(struct device *d)
{
	struct pci_dev *p = container_of(d, struct pci_dev, dev);

	pci_dev_unplug(p);
	free(p);
}

static const struct device_ops ops = { .type = "dummy", .reset = dummy_reset,
				       .destroy = dummy_destroy };

static int setup_path(void **state, enum inject_path path)
{
	static const struct pci_id id = { .vendor = 1, .device = 2, .class_code = 0xff0000 };
	struct pci_guest *g = pci_guest_create(1 << 20);
	struct err e;

	dev = calloc(1, sizeof(*dev));
	dev->dev = (struct device){ .ops = &ops, .name = "dummy0" };
	assert_int_equal(pci_dev_init(dev, g->bus, SLOT, &id, NULL), 0);
	assert_int_equal(msix_create(dev, 1, 0, path), -EINVAL);
	assert_int_equal(msix_create(dev, 1, 2049, path), -EINVAL);
	assert_int_equal(msix_create(dev, 1, NR, path), 0);
	assert_int_equal(msix_create(dev, 2, NR, path), -EINVAL);
	assert_int_equal(pci_dev_plug(dev, &e), 0);
	bar = cfg_bar(g, SLOT, 1);
	ctrl = cfg_cap(g, SLOT, PCI_CAP_ID_MSIX, 0) + PCI_MSIX_FLAGS;
	cfg_write(g, SLOT, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	*state = g;
	return 0;
}

static int setup(void **state)
{
	return setup_path(state, INJECT_IRQFD);
}

static int setup_msi(void **state)
{
	return setup_path(state, INJECT_MSI);
}

static int teardown(void **state)
{
	pci_guest_destroy(*state);
	return 0;
}

static void enable(struct pci_guest *g, bool on, bool fmask)
{
	cfg_write(g, SLOT, ctrl, (on ? PCI_MSIX_FLAGS_ENABLE : 0) |
		  (fmask ? PCI_MSIX_FLAGS_MASKALL : 0), 2);
}

static uint64_t at(unsigned vector, unsigned off)
{
	return bar + vector * PCI_MSIX_ENTRY_SIZE + off;
}

static void mask(struct pci_guest *g, unsigned vector, bool on)
{
	mem_write(g, at(vector, PCI_MSIX_ENTRY_VECTOR_CTRL), on, 4);
}

/* As Linux: while masked, address low, high, data; then unmask. */
static void program(struct pci_guest *g, unsigned vector, uint32_t data)
{
	mask(g, vector, true);
	mem_write(g, at(vector, PCI_MSIX_ENTRY_LOWER_ADDR), ADDR, 4);
	mem_write(g, at(vector, PCI_MSIX_ENTRY_UPPER_ADDR), 0, 4);
	mem_write(g, at(vector, PCI_MSIX_ENTRY_DATA), data, 4);
	mask(g, vector, false);
}

static bool pba(struct pci_guest *g, unsigned vector)
{
	return mem_read(g, bar + PBA + vector / 32 * 4, 4) >> vector % 32 & 1;
}

static void expect(struct pci_guest *g, unsigned nr, uint32_t data)
{
	fake_kvm_serve(&g->k);
	assert_int_equal(g->k.nr_msis, nr);
	if (nr) {
		assert_int_equal(g->k.msi[nr - 1].data, data);
		assert_int_equal(g->k.msi[nr - 1].address, ADDR);
	}
}

static void test_capability(void **state)
{
	struct pci_guest *g = *state;

	assert_int_equal(cfg_read(g, SLOT, ctrl, 2), NR - 1);
	assert_int_equal(cfg_read(g, SLOT, ctrl + 2, 4), 1);
	assert_int_equal(cfg_read(g, SLOT, ctrl + 6, 4), PBA | 1);
	cfg_write(g, SLOT, ctrl, 0xffff, 2);
	assert_int_equal(cfg_read(g, SLOT, ctrl, 2), 0xc000 | (NR - 1));
	assert_true(msix_enabled(dev));
	assert_int_equal(msix_nr(dev), NR);
	/* Every vector starts masked. */
	assert_int_equal(mem_read(g, at(NR - 1, 12), 4), 1);
}

static void test_delivers(void **state)
{
	struct pci_guest *g = *state;

	enable(g, true, false);
	program(g, 3, 0x41);
	msix_signal(dev, 3);
	expect(g, 1, 0x41);
	msix_signal(dev, NR);
	msix_signal(dev, UINT32_MAX);
	expect(g, 1, 0x41);
	assert_int_equal(msix_fd(dev, NR), -EINVAL);
}

static void test_costs_nothing_until_used(void **state)
{
	struct pci_guest *g = *state;
	unsigned fds = open_fds();

	enable(g, true, false);
	for (unsigned i = 0; i < NR; i++) {
		mem_write(g, at(i, 0), ADDR, 4);
		mem_write(g, at(i, 8), i, 4);
	}
	msix_signal(dev, 9); /* masked: a pending bit, no eventfd */
	assert_int_equal(open_fds(), fds);
	mask(g, 9, false);
	assert_int_equal(open_fds(), fds + 1);
	expect(g, 1, 9);
}

static void test_one_route_change_a_programming(void **state)
{
	struct pci_guest *g = *state;
	unsigned before;

	enable(g, true, false);
	program(g, 0, 0x30);
	before = g->k.nr_route_updates;
	program(g, 0, 0x31);
	assert_int_equal(g->k.nr_route_updates, before + 1);
	/* Mask and unmask without a change of the message costs none. */
	mask(g, 0, true);
	mask(g, 0, false);
	mem_write(g, at(0, 8), 0x31, 4);
	assert_int_equal(g->k.nr_route_updates, before + 1);
}

static void test_masked_stays_pending(void **state)
{
	struct pci_guest *g = *state;

	enable(g, true, false);
	program(g, 65, 0x50);
	mask(g, 65, true);
	msix_signal(dev, 65);
	expect(g, 0, 0);
	assert_true(pba(g, 65));
	assert_false(pba(g, 64));
	/* The guest cannot write pending bits. */
	mem_write(g, bar + PBA + 8, 0, 8);
	mem_write(g, bar + PBA, UINT64_MAX, 8);
	assert_true(pba(g, 65));
	assert_false(pba(g, 0));
	/* Re-vectored while pending: it goes to the new target only. */
	mem_write(g, at(65, 8), 0x51, 4);
	mask(g, 65, false);
	expect(g, 1, 0x51);
	assert_false(pba(g, 65));
}

static void test_function_mask(void **state)
{
	struct pci_guest *g = *state;

	enable(g, true, true);
	program(g, 0, 0x60);
	program(g, 1, 0x61);
	msix_signal(dev, 0);
	expect(g, 0, 0);
	assert_true(pba(g, 0));
	assert_int_equal(g->k.nr_irqfds, 0);
	enable(g, true, false);
	expect(g, 1, 0x60);
	msix_signal(dev, 1);
	expect(g, 2, 0x61);
	enable(g, true, true);
	msix_signal(dev, 1);
	expect(g, 2, 0x61);
	mask(g, 1, true);
	enable(g, true, false);
	expect(g, 2, 0x61);
	mask(g, 1, false);
	expect(g, 3, 0x61);
}

static void test_disabled(void **state)
{
	struct pci_guest *g = *state;

	program(g, 0, 0x60);
	assert_false(msix_enabled(dev));
	msix_signal(dev, 0);
	expect(g, 0, 0);
	enable(g, true, false);
	expect(g, 1, 0x60);
	enable(g, false, false);
	assert_int_equal(g->k.nr_irqfds, 0);
	msix_signal(dev, 0);
	expect(g, 1, 0x60);
}

static void test_revector_unmasked(void **state)
{
	struct pci_guest *g = *state;

	enable(g, true, false);
	program(g, 2, 0x70);
	msix_signal(dev, 2);
	expect(g, 1, 0x70);
	mem_write(g, at(2, 8), 0x71, 4);
	msix_signal(dev, 2);
	expect(g, 2, 0x71);
	/* One qword changes data and mask bit together. */
	mem_write(g, at(2, 8), 0x72 | 1ull << 32, 8);
	msix_signal(dev, 2);
	expect(g, 2, 0x71);
	mem_write(g, at(2, 8), 0x73, 8);
	expect(g, 3, 0x73);
}

/* vhost-user's case: the signaller is another process and knows nothing of masks. */
static void test_foreign_signaller(void **state)
{
	struct pci_guest *g = *state;
	uint64_t one = 1;
	int fd = msix_fd(dev, 4);

	assert_true(fd >= 0);
	assert_int_equal(msix_fd(dev, 4), fd);
	enable(g, true, false);
	program(g, 4, 0x44);
	assert_int_equal(write(fd, &one, 8), 8);
	expect(g, 1, 0x44);
	mask(g, 4, true);
	assert_int_equal(write(fd, &one, 8), 8);
	assert_true(pba(g, 4));
	expect(g, 1, 0x44);
	mask(g, 4, false);
	expect(g, 2, 0x44);
}

static void test_bad_message(void **state)
{
	struct pci_guest *g = *state;

	enable(g, true, false);
	program(g, 0, 0x40);
	fake_kvm_fail(&g->k, KVM_SET_GSI_ROUTING, 1, EINVAL);
	mem_write(g, at(0, 8), 0x41, 4);
	assert_true(dev->dev.complained);
	/* The table shows what the guest wrote, and a right message works again. */
	assert_int_equal(mem_read(g, at(0, 8), 4), 0x41);
	mem_write(g, at(0, 8), 0x42, 4);
	msix_signal(dev, 0);
	expect(g, 1, 0x42);
}

static void test_reset(void **state)
{
	struct pci_guest *g = *state;

	enable(g, true, false);
	program(g, 0, 0x40);
	mask(g, 0, true);
	msix_signal(dev, 0);
	msix_signal(dev, 1);
	dev->dev.ops->reset(&dev->dev);
	assert_false(msix_enabled(dev));
	assert_int_equal(g->k.nr_irqfds, 0);
	cfg_write(g, SLOT, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	assert_int_equal(mem_read(g, at(0, 0), 8), 0);
	assert_int_equal(mem_read(g, at(0, 8), 8), 1ull << 32);
	assert_false(pba(g, 0));
	assert_false(pba(g, 1));
	enable(g, true, false);
	program(g, 0, 0x40);
	program(g, 1, 0x41);
	expect(g, 0, 0);
}

static void test_no_eventfd_left(void **state)
{
	struct pci_guest *g = *state;
	int hog[1024], n = 0;

	enable(g, true, false);
	while (n < 1024 && (hog[n] = eventfd(0, EFD_CLOEXEC)) >= 0)
		n++;
	if (n < 1024) {
		program(g, 0, 0x40);
		assert_true(dev->dev.complained);
		msix_signal(dev, 0);
		assert_true(pba(g, 0));
	}
	for (int i = 0; i < n; i++)
		close(hog[i]);
	/* There is room again: the signal that waited is not lost. */
	program(g, 0, 0x40);
	msix_signal(dev, 0);
	fake_kvm_serve(&g->k);
	assert_true(g->k.nr_msis >= 1);
}

static void test_odd_accesses(void **state)
{
	struct pci_guest *g = *state;

	mem_write(g, at(0, 0), ADDR, 4);
	/* Narrow or unaligned: ones, and nothing written. */
	assert_int_equal(mem_read(g, at(0, 0), 1), 0xff);
	assert_int_equal(mem_read(g, at(0, 0), 2), 0xffff);
	assert_int_equal(mem_read(g, at(0, 2), 4), 0xffffffff);
	assert_int_equal(mem_read(g, at(0, 4), 8), UINT64_MAX);
	mem_write(g, at(0, 1), 0xff, 1);
	mem_write(g, at(0, 2), 0xffffffff, 4);
	mem_write(g, at(0, 4), UINT64_MAX, 8);
	assert_int_equal(mem_read(g, at(0, 0), 8), ADDR);
	/* Behind the table, around and behind the PBA (CVE-2020-13754). */
	assert_int_equal(mem_read(g, at(NR, 0), 8), 0);
	assert_int_equal(mem_read(g, bar + PBA - 8, 8), 0);
	assert_int_equal(mem_read(g, bar + PBA + 16, 8), 0);
	assert_int_equal(mem_read(g, bar + 4096 - 8, 8), 0);
	mem_write(g, at(NR, 0), UINT64_MAX, 8);
	mem_write(g, bar + 4096 - 8, UINT64_MAX, 8);
	assert_int_equal(mem_read(g, at(NR, 0), 8), 0);
	/* Reserved bits of the vector control read as zero. */
	mem_write(g, at(0, 12), 0xffffffff, 4);
	assert_int_equal(mem_read(g, at(0, 12), 4), 1);
}

static void test_random(void **state)
{
	struct pci_guest *g = *state;
	uint32_t x = 4711;

	for (unsigned i = 0; i < 40000; i++) {
		unsigned len = 1u << (x >> 30), off;

		x = x * 1664525 + 1013904223;
		off = x >> 12 & 0xfff;
		if (i % 3 == 0)
			mem_write(g, bar + off, x * 2654435761ull, len);
		else if (i % 3 == 1)
			mem_read(g, bar + off, len);
		else
			msix_signal(dev, x >> 8 & 0x7f);
		if (i % 64 == 0)
			cfg_write(g, SLOT, ctrl, x, 2);
	}
	dev->dev.ops->reset(&dev->dev);
	assert_int_equal(g->k.nr_irqfds, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define M(f) { "msi: " #f, f, setup_msi, teardown, NULL }
	const struct CMUnitTest tests[] = {
		T(test_capability), T(test_delivers), T(test_costs_nothing_until_used),
		T(test_one_route_change_a_programming), T(test_masked_stays_pending),
		T(test_function_mask), T(test_disabled), T(test_revector_unmasked),
		T(test_foreign_signaller), T(test_bad_message), T(test_reset),
		T(test_no_eventfd_left), T(test_odd_accesses), T(test_random),
		M(test_delivers), M(test_masked_stays_pending), M(test_function_mask),
		M(test_revector_unmasked), M(test_reset), M(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
