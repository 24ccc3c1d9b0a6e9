/* SPDX-License-Identifier: MIT */
#include "../lib/pci_guest.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <cmocka.h>

#define SLOT 3
#define GSI  (LAYOUT_GSI_PCI + SLOT % 8)

struct dummy {
	struct pci_dev pci;
	uint8_t io[16];
	uint64_t mem32_writes, mem64_writes;
	unsigned nr_written, nr_reading, last_off, last_len;
	struct notifier n;
	struct doorbell bell;
};

static struct dummy *last; /* the device of the running test */

static uint64_t io_read(void *arg, uint64_t off, unsigned len)
{
	return load_le(&((struct dummy *)arg)->io[off], len);
}

static void io_write(void *arg, uint64_t off, uint64_t v, unsigned len)
{
	store_le(&((struct dummy *)arg)->io[off], v, len);
}

static void mem32_write(void *arg, uint64_t off, uint64_t v, unsigned len)
{
	((struct dummy *)arg)->mem32_writes++;
}

static uint64_t mem64_read(void *arg, uint64_t off, unsigned len)
{
	return 0x6464646464646464;
}

static void mem64_write(void *arg, uint64_t off, uint64_t v, unsigned len)
{
	((struct dummy *)arg)->mem64_writes++;
}

static const struct region_ops io_ops = { io_read, io_write };
static const struct region_ops mem32_ops = { .write = mem32_write };
static const struct region_ops mem64_ops = { mem64_read, mem64_write };

static void dummy_written(struct pci_dev *d, unsigned off, unsigned len)
{
	struct dummy *u = container_of(d, struct dummy, pci);

	u->nr_written++;
	u->last_off = off;
	u->last_len = len;
}

static void dummy_reading(struct pci_dev *d, unsigned off, unsigned len)
{
	container_of(d, struct dummy, pci)->nr_reading++;
}

static void dummy_reset(struct device *dev)
{
	pci_dev_reset(container_of(dev, struct pci_dev, dev));
}

static void dummy_destroy(struct device *dev)
{
	struct dummy *u = container_of(dev, struct dummy, pci.dev);

	(void)region_del_doorbell(dev->machine->map, &u->bell);
	pci_dev_unplug(&u->pci);
	notifier_destroy(&u->n);
	free(u);
}

static const struct device_ops dummy_device_ops = {
	.type = "dummy", .reset = dummy_reset, .destroy = dummy_destroy,
};
static const struct pci_dev_ops dummy_ops = { dummy_written, dummy_reading };
static const struct pci_id dummy_id = {
	.vendor = 0x1234, .device = 0x5678, .subvendor = 0x9abc, .subdevice = 0xdef0,
	.class_code = 0x020000, .revision = 7,
};

static int setup(void **state)
{
	struct pci_guest *g = pci_guest_create(1 << 20);
	struct dummy *u = calloc(1, sizeof(*u));
	struct err e;

	u->pci.dev = (struct device){ .ops = &dummy_device_ops, .name = "dummy0" };
	assert_int_equal(notifier_create(&u->n, 0, 0), 0);
	assert_int_equal(pci_dev_init(&u->pci, g->bus, SLOT, &dummy_id, &dummy_ops), 0);
	assert_int_equal(pci_add_bar(&u->pci, 0, PCI_BAR_IO, 16, "io", &io_ops, u), 0);
	assert_int_equal(pci_add_bar(&u->pci, 1, PCI_BAR_MEM32, 4096, "m32", &mem32_ops, u), 0);
	assert_int_equal(pci_add_bar(&u->pci, 2, PCI_BAR_MEM64, 8192, "m64", &mem64_ops, u), 0);
	assert_int_equal(pci_add_cap(&u->pci, PCI_CAP_ID_VNDR, 10), 0x40);
	assert_int_equal(pci_add_cap(&u->pci, PCI_CAP_ID_EXP, 20), 0x4c);
	assert_int_equal(pci_dev_plug(&u->pci, &e), 0);
	u->bell = (struct doorbell){ .off = 0x10, .len = 4, .n = &u->n };
	assert_int_equal(region_add_doorbell(g->m->map, &u->pci.bar[2].region, &u->bell), 0);
	last = u;
	*state = g;
	return 0;
}

static int teardown(void **state)
{
	pci_guest_destroy(*state);
	return 0;
}

static void cf8(struct pci_guest *g, unsigned bus, unsigned slot, unsigned fn, unsigned off)
{
	port_write(g, 0xcf8, 0x80000000u | bus << 16 | slot << 11 | fn << 8 | off, 4);
}

static void test_header(void **state)
{
	struct pci_guest *g = *state;

	assert_int_equal(cfg_read(g, SLOT, 0, 4), 0x56781234);
	assert_int_equal(cfg_read(g, SLOT, PCI_CLASS_REVISION, 4), 0x02000007);
	assert_int_equal(cfg_read(g, SLOT, PCI_SUBSYSTEM_VENDOR_ID, 4), 0xdef09abc);
	assert_int_equal(cfg_read(g, SLOT, PCI_INTERRUPT_PIN, 1), 1);
	assert_int_equal(cfg_read(g, SLOT, PCI_INTERRUPT_LINE, 1), GSI);
	assert_int_equal(cfg_read(g, 0, PCI_CLASS_DEVICE, 2), 0x0600);
	assert_int_equal(cfg_read(g, 0, PCI_VENDOR_ID, 4), 0x00081b36);
	/* Read-only fields stay. */
	cfg_write(g, SLOT, 0, 0xdeadbeef, 4);
	cfg_write(g, SLOT, PCI_CLASS_REVISION, 0, 4);
	cfg_write(g, SLOT, PCI_INTERRUPT_PIN, 4, 1);
	assert_int_equal(cfg_read(g, SLOT, 0, 4), 0x56781234);
	assert_int_equal(cfg_read(g, SLOT, PCI_CLASS_REVISION, 4), 0x02000007);
	assert_int_equal(cfg_read(g, SLOT, PCI_INTERRUPT_PIN, 1), 1);
	cfg_write(g, SLOT, PCI_INTERRUPT_LINE, 0x5a, 1);
	assert_int_equal(cfg_read(g, SLOT, PCI_INTERRUPT_LINE, 1), 0x5a);
}

static void test_absent(void **state)
{
	struct pci_guest *g = *state;

	assert_int_equal(cfg_read(g, 4, 0, 4), 0xffffffff);
	assert_int_equal(cfg_read(g, 31, 0, 2), 0xffff);
	cfg_write(g, 4, PCI_COMMAND, 7, 2);
	/* function 1, bus 1, the last byte of ECAM */
	assert_int_equal(mem_read(g, LAYOUT_ECAM + (SLOT << 15) + (1 << 12), 4), 0xffffffff);
	assert_int_equal(mem_read(g, LAYOUT_ECAM + (1 << 20) + (SLOT << 15), 4), 0xffffffff);
	assert_int_equal(mem_read(g, LAYOUT_ECAM + LAYOUT_ECAM_SIZE - 1, 1), 0xff);
	cf8(g, 255, 31, 7, 0xfc);
	assert_int_equal(port_read(g, 0xcfc, 4), 0xffffffff);
}

static void test_cf8(void **state)
{
	struct pci_guest *g = *state;

	cf8(g, 0, SLOT, 0, 0);
	assert_int_equal(port_read(g, 0xcf8, 4), 0x80000000u | SLOT << 11);
	assert_int_equal(port_read(g, 0xcfc, 4), 0x56781234);
	assert_int_equal(port_read(g, 0xcfc, 2), 0x1234);
	assert_int_equal(port_read(g, 0xcfd, 2), 0x7812);
	assert_int_equal(port_read(g, 0xcfe, 2), 0x5678);
	assert_int_equal(port_read(g, 0xcff, 1), 0x56);
	/* Beyond the data port there is nothing: ones. */
	assert_int_equal(port_read(g, 0xcfe, 4), 0xffff5678);
	cf8(g, 0, SLOT, 0, PCI_COMMAND);
	port_write(g, 0xcfe, 0xffff0000, 4); /* must not spill into the next dword */
	cf8(g, 0, SLOT, 0, PCI_CACHE_LINE_SIZE);
	assert_int_equal(port_read(g, 0xcfc, 1), 0);
	cf8(g, 0, SLOT, 0, 0);
	/* Narrow writes to CF8 are not for us. */
	port_write(g, 0xcf8, 0xff, 1);
	port_write(g, 0xcfa, 0x1234, 2);
	port_write(g, 0xcfb, 0x01, 1);
	assert_int_equal(port_read(g, 0xcf8, 4), 0x80000000u | SLOT << 11);
	assert_int_equal(port_read(g, 0xcf8, 2), 0xffff);
	/* Byte lanes of a write. */
	cf8(g, 0, SLOT, 0, PCI_INTERRUPT_LINE);
	port_write(g, 0xcfc, 0x77, 1);
	assert_int_equal(cfg_read(g, SLOT, PCI_INTERRUPT_LINE, 1), 0x77);
	port_write(g, 0xcfd, 0x02, 1);
	assert_int_equal(cfg_read(g, SLOT, PCI_INTERRUPT_PIN, 1), 1);
	/* Not enabled: no config cycle. */
	port_write(g, 0xcf8, SLOT << 11, 4);
	assert_int_equal(port_read(g, 0xcfc, 4), 0xffffffff);
	port_write(g, 0xcfc, 0, 4);
}

static void test_ecam_widths(void **state)
{
	struct pci_guest *g = *state;

	/* The second dword is command and status: a capability list, nothing else. */
	assert_int_equal(mem_read(g, LAYOUT_ECAM + (SLOT << 15), 8), 0x0010000056781234);
	assert_int_equal(cfg_read(g, SLOT, 1, 2), 0x7812);
	assert_int_equal(cfg_read(g, SLOT, 2, 4), 0x5678);
	/* Past the first 256 bytes: zero, also across the end. */
	assert_int_equal(cfg_read(g, SLOT, 256, 4), 0);
	assert_int_equal(cfg_read(g, SLOT, 0xffc, 4), 0);
	assert_int_equal(cfg_read(g, SLOT, 254, 4), 0);
	cfg_write(g, SLOT, 254, 0xffffffff, 4);
	cfg_write(g, SLOT, 0x800, 0xffffffff, 4);
	assert_int_equal(cfg_read(g, SLOT, 0x800, 4), 0);
}

static void test_w1c(void **state)
{
	struct pci_guest *g = *state;

	last->pci.cfg[PCI_STATUS + 1] |= PCI_STATUS_DETECTED_PARITY >> 8;
	cfg_write(g, SLOT, PCI_STATUS, 0, 2);
	assert_true(cfg_read(g, SLOT, PCI_STATUS, 2) & PCI_STATUS_DETECTED_PARITY);
	cfg_write(g, SLOT, PCI_STATUS, PCI_STATUS_DETECTED_PARITY, 2);
	assert_false(cfg_read(g, SLOT, PCI_STATUS, 2) & PCI_STATUS_DETECTED_PARITY);
	/* The capability bit cannot be cleared. */
	cfg_write(g, SLOT, PCI_STATUS, 0xffff, 2);
	assert_true(cfg_read(g, SLOT, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST);
}

static void test_hooks(void **state)
{
	struct pci_guest *g = *state;
	unsigned n = last->nr_reading;

	cfg_read(g, SLOT, 0x44, 2);
	assert_int_equal(last->nr_reading, n + 1);
	cfg_write(g, SLOT, 0x46, 0, 2);
	assert_int_equal(last->nr_written, 1);
	assert_int_equal(last->last_off, 0x46);
	assert_int_equal(last->last_len, 2);
}

static void test_caps(void **state)
{
	struct pci_guest *g = *state;
	struct pci_dev d = { .next_cap = 0xf0 };

	assert_int_equal(cfg_cap(g, SLOT, PCI_CAP_ID_VNDR, 0), 0x40);
	assert_int_equal(cfg_cap(g, SLOT, PCI_CAP_ID_EXP, 0), 0x4c);
	assert_int_equal(cfg_cap(g, SLOT, PCI_CAP_ID_MSIX, 0), 0);
	assert_int_equal(pci_add_cap(&d, PCI_CAP_ID_VNDR, 17), -ENOSPC);
	assert_int_equal(pci_add_cap(&d, PCI_CAP_ID_VNDR, 1), -EINVAL);
	assert_int_equal(pci_add_cap(&d, PCI_CAP_ID_VNDR, 16), 0xf0);
	assert_int_equal(pci_add_cap(&d, PCI_CAP_ID_VNDR, 4), -ENOSPC);
}

static uint32_t size_bar(struct pci_guest *g, unsigned nr)
{
	unsigned off = PCI_BASE_ADDRESS_0 + 4 * nr;
	uint32_t old = cfg_read(g, SLOT, off, 4), v;

	cfg_write(g, SLOT, off, 0xffffffff, 4);
	v = cfg_read(g, SLOT, off, 4);
	cfg_write(g, SLOT, off, old, 4);
	assert_int_equal(cfg_read(g, SLOT, off, 4), old);
	return v;
}

static void test_bar_sizing(void **state)
{
	struct pci_guest *g = *state;

	assert_int_equal(cfg_bar(g, SLOT, 0), LAYOUT_PORT_PCI_IO);
	assert_int_equal(cfg_bar(g, SLOT, 1), LAYOUT_MMIO32);
	assert_int_equal(cfg_bar(g, SLOT, 2), LAYOUT_MMIO64_ALIGN);
	assert_int_equal(size_bar(g, 0), 0xfffffff1);
	assert_int_equal(size_bar(g, 1), 0xfffff000);
	assert_int_equal(size_bar(g, 2), 0xffffe00c);
	assert_int_equal(size_bar(g, 3), 0xffffffff);
	assert_int_equal(size_bar(g, 4), 0);
	/* While decoding, too: the top of the space is nowhere. */
	cfg_write(g, SLOT, PCI_COMMAND, 7, 2);
	assert_int_equal(size_bar(g, 0), 0xfffffff1);
	assert_int_equal(size_bar(g, 1), 0xfffff000);
	assert_int_equal(size_bar(g, 2), 0xffffe00c);
	assert_int_equal(size_bar(g, 3), 0xffffffff);
	assert_int_equal(mem_read(g, cfg_bar(g, SLOT, 2), 4), 0x64646464);
}

static void test_command(void **state)
{
	struct pci_guest *g = *state;
	uint64_t m64 = cfg_bar(g, SLOT, 2);
	uint16_t io = (uint16_t)cfg_bar(g, SLOT, 0);

	assert_int_equal(mem_read(g, m64, 4), 0xffffffff);
	assert_int_equal(port_read(g, io, 1), 0xff);
	cfg_write(g, SLOT, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	assert_int_equal(mem_read(g, m64, 4), 0x64646464);
	assert_int_equal(port_read(g, io, 1), 0xff);
	cfg_write(g, SLOT, PCI_COMMAND, PCI_COMMAND_IO, 1);
	assert_int_equal(mem_read(g, m64, 4), 0xffffffff);
	port_write(g, io + 3, 0x42, 1);
	assert_int_equal(port_read(g, io + 2, 2), 0x4200);
	cfg_write(g, SLOT, PCI_COMMAND, 0xffff, 2);
	assert_int_equal(cfg_read(g, SLOT, PCI_COMMAND, 2),
			 PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
			 PCI_COMMAND_PARITY | PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE);
}

static void test_bar_move_rebinds(void **state)
{
	struct pci_guest *g = *state;
	uint64_t m64 = cfg_bar(g, SLOT, 2);

	assert_int_equal(g->k.nr_ioeventfds, 0);
	cfg_write(g, SLOT, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	assert_non_null(fake_kvm_find_doorbell(&g->k, false, m64 + 0x10));
	cfg_write(g, SLOT, PCI_BASE_ADDRESS_2, 0xd0000000, 4);
	/* Half moved: the register's two halves are two writes, and each acts. */
	assert_non_null(fake_kvm_find_doorbell(&g->k, false, m64 + 0xd0000010));
	cfg_write(g, SLOT, PCI_BASE_ADDRESS_3, 0, 4);
	assert_int_equal(g->k.nr_ioeventfds, 1);
	assert_non_null(fake_kvm_find_doorbell(&g->k, false, 0xd0000010));
	assert_int_equal(mem_read(g, 0xd0000000, 4), 0x64646464);
	assert_int_equal(mem_read(g, m64, 4), 0xffffffff);
	mem_write(g, 0xd0000010, 1, 4);
	assert_int_equal(notifier_drain(&last->n), 1);
	assert_int_equal(last->mem64_writes, 0);
	cfg_write(g, SLOT, PCI_COMMAND, 0, 2);
	assert_int_equal(g->k.nr_ioeventfds, 0);
	/* Placed at 0 or over the end, it decodes nothing. */
	cfg_write(g, SLOT, PCI_BASE_ADDRESS_2, 0, 4);
	cfg_write(g, SLOT, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	assert_int_equal(mem_read(g, 0, 4), 0xffffffff);
	assert_int_equal(g->k.nr_ioeventfds, 0);
	cfg_write(g, SLOT, PCI_BASE_ADDRESS_2, 0xffffffff, 4);
	cfg_write(g, SLOT, PCI_BASE_ADDRESS_3, 0xffffffff, 4);
	assert_int_equal(g->k.nr_ioeventfds, 0);
	/* I/O BARs end with the port space. */
	cfg_write(g, SLOT, PCI_COMMAND, PCI_COMMAND_IO, 2);
	cfg_write(g, SLOT, PCI_BASE_ADDRESS_0, 0x12340, 4);
	assert_int_equal(port_read(g, 0x2340, 1), 0xff);
	cfg_write(g, SLOT, PCI_BASE_ADDRESS_0, 0xfff0, 4);
	assert_int_equal(port_read(g, 0xfff0, 1), 0);
}

static void test_bar_move_fails(void **state)
{
	struct pci_guest *g = *state;
	uint64_t m64 = cfg_bar(g, SLOT, 2);

	cfg_write(g, SLOT, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	fake_kvm_fail(&g->k, KVM_IOEVENTFD, 2, ENOSPC); /* the unbind passes, the bind does not */
	cfg_write(g, SLOT, PCI_BASE_ADDRESS_2, 0xd0000000, 4);
	/* Neither there nor where it was. */
	assert_int_equal(mem_read(g, m64, 4), 0xffffffff);
	assert_int_equal(mem_read(g, m64 + 0xd0000000, 4), 0xffffffff);
	assert_int_equal(g->k.nr_ioeventfds, 0);
	assert_true(last->pci.dev.complained);
	/* The other BAR did not suffer. */
	mem_write(g, cfg_bar(g, SLOT, 1), 1, 4);
	assert_int_equal(last->mem32_writes, 1);
	/* The next move works. */
	cfg_write(g, SLOT, PCI_BASE_ADDRESS_2, 0xd8000000, 4);
	assert_int_equal(mem_read(g, m64 + 0xd8000000, 4), 0x64646464);
	assert_int_equal(g->k.nr_ioeventfds, 1);
}

static void test_intx(void **state)
{
	struct pci_guest *g = *state;

	pci_set_intx(&last->pci, true);
	assert_true(g->k.level[GSI]);
	assert_true(cfg_read(g, SLOT, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
	cfg_write(g, SLOT, PCI_COMMAND, PCI_COMMAND_INTX_DISABLE, 2);
	assert_false(g->k.level[GSI]);
	assert_true(cfg_read(g, SLOT, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
	pci_set_intx(&last->pci, false);
	assert_false(cfg_read(g, SLOT, PCI_STATUS, 1) & PCI_STATUS_INTERRUPT);
	pci_set_intx(&last->pci, true);
	assert_false(g->k.level[GSI]);
	cfg_write(g, SLOT, PCI_COMMAND, 0, 2);
	assert_true(g->k.level[GSI]);
	assert_int_equal(g->k.line_changes[GSI], 3);
}

static void test_reset(void **state)
{
	struct pci_guest *g = *state;
	uint64_t m64 = cfg_bar(g, SLOT, 2);

	cfg_write(g, SLOT, PCI_COMMAND, 7, 2);
	cfg_write(g, SLOT, PCI_BASE_ADDRESS_2, 0xd0000000, 4);
	cfg_write(g, SLOT, PCI_BASE_ADDRESS_1, 0xd1000000, 4);
	cfg_write(g, SLOT, PCI_INTERRUPT_LINE, 9, 1);
	pci_set_intx(&last->pci, true);
	last->pci.dev.ops->reset(&last->pci.dev);
	assert_int_equal(cfg_read(g, SLOT, PCI_COMMAND, 2), 0);
	assert_int_equal(cfg_bar(g, SLOT, 2), m64);
	assert_int_equal(cfg_bar(g, SLOT, 1), LAYOUT_MMIO32);
	assert_int_equal(cfg_read(g, SLOT, PCI_INTERRUPT_LINE, 1), GSI);
	assert_false(g->k.level[GSI]);
	assert_int_equal(g->k.nr_ioeventfds, 0);
	assert_int_equal(mem_read(g, m64, 4), 0xffffffff);
}

static void test_refusals(void **state)
{
	struct pci_guest *g = *state;
	struct pci_dev d = { .dev.name = "bad" };
	struct err e;

	assert_int_equal(pci_dev_init(&d, g->bus, SLOT, &dummy_id, NULL), -EBUSY);
	assert_int_equal(pci_dev_init(&d, g->bus, 0, &dummy_id, NULL), -EINVAL);
	assert_int_equal(pci_dev_init(&d, g->bus, 32, &dummy_id, NULL), -EINVAL);
	assert_int_equal(pci_dev_init(&d, g->bus, -1, &dummy_id, NULL), 0);
	assert_int_equal(PCI_SLOT(d.devfn), 1);
	assert_int_equal(pci_add_bar(&d, 0, PCI_BAR_MEM32, 100, "x", &mem32_ops, NULL), -EINVAL);
	assert_int_equal(pci_add_bar(&d, 0, PCI_BAR_MEM32, 8, "x", &mem32_ops, NULL), -EINVAL);
	assert_int_equal(pci_add_bar(&d, 0, PCI_BAR_IO, 512, "x", &mem32_ops, NULL), -EINVAL);
	assert_int_equal(pci_add_bar(&d, 6, PCI_BAR_IO, 16, "x", &mem32_ops, NULL), -EINVAL);
	assert_int_equal(pci_add_bar(&d, 5, PCI_BAR_MEM64, 16, "x", &mem32_ops, NULL), -EINVAL);
	assert_int_equal(pci_add_bar(&d, 0, PCI_BAR_MEM64, 16, "x", &mem32_ops, NULL), 0);
	assert_int_equal(pci_add_bar(&d, 1, PCI_BAR_IO, 16, "x", &mem32_ops, NULL), -EBUSY);
	assert_int_equal(pci_add_bar(&d, 0, PCI_BAR_IO, 16, "x", &mem32_ops, NULL), -EBUSY);
	/* A BAR larger than what is left of its window. */
	assert_int_equal(pci_add_bar(&d, 2, PCI_BAR_MEM32, 0x40000000, "x", &mem32_ops, NULL), 0);
	assert_int_equal(pci_dev_plug(&d, &e), -ENOSPC);
	assert_non_null(strstr(e.text, "bad"));
	pci_dev_unplug(&d);
	assert_int_equal(cfg_read(g, 1, 0, 4), 0xffffffff);
}

static void test_slots_run_out(void **state)
{
	struct pci_guest *g = *state;
	struct pci_dev *d = calloc(32, sizeof(*d));
	unsigned n = 0;
	int r;

	while ((r = pci_dev_init(&d[n], g->bus, -1, &dummy_id, NULL)) == 0)
		n++;
	assert_int_equal(r, -ENOSPC);
	assert_int_equal(n, 30);
	while (n--)
		pci_dev_unplug(&d[n]);
	free(d);
}

/* Any write of any width anywhere leaves the function harmless and read-only bits as they were. */
static void test_random_writes(void **state)
{
	struct pci_guest *g = *state;
	uint32_t x = 12345;

	for (unsigned i = 0; i < 50000; i++) {
		unsigned len = 1u << (i % 4), off;

		x = x * 1664525 + 1013904223;
		off = x >> 8 & 0x1ff;
		mem_write(g, LAYOUT_ECAM + (SLOT << 15) + off, x * 2654435761u, len);
		port_write(g, 0xcf8 + (x >> 20 & 7), x | 0x80000000u, len);
	}
	assert_int_equal(cfg_read(g, SLOT, 0, 4), 0x56781234);
	assert_int_equal(cfg_cap(g, SLOT, PCI_CAP_ID_EXP, 0), 0x4c);
	cfg_write(g, SLOT, PCI_COMMAND, 0, 2);
	assert_int_equal(g->k.nr_ioeventfds, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_header), T(test_absent), T(test_cf8), T(test_ecam_widths), T(test_w1c),
		T(test_hooks), T(test_caps), T(test_bar_sizing), T(test_command),
		T(test_bar_move_rebinds), T(test_bar_move_fails), T(test_intx), T(test_reset),
		T(test_refusals), T(test_slots_run_out), T(test_random_writes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
