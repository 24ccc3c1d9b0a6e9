/* SPDX-License-Identifier: MIT
 * PCI: one function whose BARs move about with doorbells on them, by CF8/CFC and
 * ECAM at any width, and one whose MSI-X table and PBA are written at any width
 * and offset. What is read-only stays; a mapped BAR is where its register says;
 * an MSI-X message comes once, to where the table says, or is pending.
 */
#include "fuzz.h"
#include "pci_guest.h"

#define MOVER  1 /* slots */
#define CALLER 2

#define WATCHED 6 /* vectors signalled and looked at */

struct mover {
	struct pci_dev pci;
	struct notifier n;
	struct doorbell bell[4];
};

struct caller {
	struct pci_dev pci;
	unsigned nr;
	bool loose; /* ioctls fail: only crashes and leaks count */
	unsigned vector[WATCHED];
	bool pending[WATCHED];
	uint64_t table, pba;
	unsigned cap, seen;
};

struct bed {
	struct pci_guest *g;
	struct mover *a;
	struct caller *b;
};

static uint64_t op_read(void *arg, uint64_t off, unsigned len)
{
	return off;
}

static void op_write(void *arg, uint64_t off, uint64_t value, unsigned len)
{
}

static const struct region_ops ops = { op_read, op_write };

static void reset(struct device *d)
{
	pci_dev_reset(container_of(d, struct pci_dev, dev));
}

static void destroy_mover(struct device *d)
{
	struct mover *a = container_of(d, struct mover, pci.dev);

	for (unsigned i = 0; i < ARRAY_SIZE(a->bell); i++)
		(void)region_del_doorbell(d->machine->map, &a->bell[i]);
	pci_dev_unplug(&a->pci);
	notifier_destroy(&a->n);
	free(a);
}

static void destroy_caller(struct device *d)
{
	struct caller *b = container_of(d, struct caller, pci.dev);

	pci_dev_unplug(&b->pci);
	free(b);
}

static const struct device_ops mover_ops = { .type = "mover", .reset = reset,
					     .destroy = destroy_mover };
static const struct device_ops caller_ops = { .type = "caller", .reset = reset,
					      .destroy = destroy_caller };
static const struct pci_id id = {
	.vendor = 0x1234, .device = 0x5678, .subvendor = 0x9abc, .subdevice = 0xdef0,
	.class_code = 0x020000, .revision = 7,
};

static void add_mover(struct bed *bed, struct feed *f)
{
	struct mover *a = calloc(1, sizeof(*a));
	struct err e;

	if (!a || notifier_create(&a->n, 0, 0))
		abort();
	bed->a = a;
	a->pci.dev = (struct device){ .ops = &mover_ops, .name = "mover" };
	if (pci_dev_init(&a->pci, bed->g->bus, MOVER, &id, NULL) ||
	    pci_add_bar(&a->pci, 0, PCI_BAR_IO, 16, "io", &ops, a) ||
	    pci_add_bar(&a->pci, 1, PCI_BAR_MEM32, 4096, "m32", &ops, a) ||
	    pci_add_bar(&a->pci, 2, PCI_BAR_MEM64, 8192, "m64", &ops, a) ||
	    pci_add_bar(&a->pci, 4, PCI_BAR_MEM32, 16, "tiny", &ops, a) ||
	    pci_add_cap(&a->pci, PCI_CAP_ID_VNDR, 10) < 0 || pci_dev_plug(&a->pci, &e))
		abort();
	for (unsigned i = 0; i < ARRAY_SIZE(a->bell); i++) {
		static const uint8_t bars[] = { 0, 1, 2, 2 };

		a->bell[i] = (struct doorbell){ .off = feed_u8(f) & 12, .len = i & 1 ? 2 : 4,
						.n = &a->n, .match = i & 1, .data = i };
		if (region_add_doorbell(bed->g->m->map, &a->pci.bar[bars[i]].region, &a->bell[i]))
			abort();
	}
}

static void add_caller(struct bed *bed, struct feed *f)
{
	static const unsigned sizes[] = { 1, 3, 8, 65, 128, 2048 };
	struct caller *b = calloc(1, sizeof(*b));
	struct err e;

	if (!b)
		abort();
	bed->b = b;
	b->nr = sizes[feed_below(f, ARRAY_SIZE(sizes))];
	b->pci.dev = (struct device){ .ops = &caller_ops, .name = "caller" };
	if (pci_dev_init(&b->pci, bed->g->bus, CALLER, &id, NULL) ||
	    msix_create(&b->pci, 0, b->nr, feed_u8(f) & 1 ? INJECT_IRQFD : INJECT_MSI) ||
	    pci_dev_plug(&b->pci, &e))
		abort();
	for (unsigned i = 0; i < WATCHED; i++)
		b->vector[i] = i < 3 ? i : b->nr - 1 - (i - 3);
	/* The same vector must not be watched twice. */
	for (unsigned i = 0; i < WATCHED; i++)
		if (b->nr < WATCHED)
			b->vector[i] = i;
	b->table = cfg_bar(bed->g, CALLER, 0);
	b->cap = cfg_cap(bed->g, CALLER, PCI_CAP_ID_MSIX, 0);
	b->pba = cfg_read(bed->g, CALLER, b->cap + PCI_MSIX_PBA, 4) & ~7u;
	cfg_write(bed->g, CALLER, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
}

/* ---- the mover -------------------------------------------------------------- */

static void config_access(struct bed *bed, struct feed *f)
{
	struct pci_guest *g = bed->g;
	unsigned len = 1 + feed_below(f, 8), what = feed_below(f, 8), off = feed_below(f, 0x60);
	uint64_t v = what & 1 ? feed_u32(f) : (uint64_t)feed_u8(f) << 28 | feed_u8(f) << 12;

	switch (what) {
	case 0:
	case 1:
		cfg_write(g, MOVER, off, (uint32_t)v, len & 7 ? len & 7 : 4);
		break;
	case 2:
		(void)mem_read(g, LAYOUT_ECAM + (MOVER << 15) + feed_u16(f) % 4200, len);
		break;
	case 3:
		/* Any function but the caller's, whose BAR the checks need. */
		port_write(g, 0xcf8, 0x80000000u | feed_u16(f) << 8 | (MOVER << 11) | off, 4);
		break;
	case 4:
		port_write(g, (uint16_t)(0xcf8 + (v & 7)), feed_u32(f) & ~(CALLER << 11), len);
		break;
	case 5:
		(void)port_read(g, (uint16_t)(0xcf8 + (v & 7)), len);
		break;
	case 6: /* a BAR, sized or moved */
		off = PCI_BASE_ADDRESS_0 + 4 * (off % PCI_NR_BARS);
		cfg_write(g, MOVER, off, v & 1 ? UINT32_MAX : (uint32_t)v, 4);
		break;
	default:
		cfg_write(g, MOVER, PCI_COMMAND, feed_u16(f), 2);
	}
	/* CF8 must not stay on the caller. */
	if ((port_read(g, 0xcf8, 4) >> 11 & 0x1f) == CALLER)
		port_write(g, 0xcf8, 0, 4);
}

static void use_bar(struct bed *bed, struct feed *f)
{
	struct pci_dev *d = &bed->a->pci;
	struct region *r = &d->bar[feed_below(f, PCI_NR_BARS)].region;
	uint64_t at = r->base + feed_below(f, 0x3000) - 0x10;
	unsigned len = 1 + feed_below(f, 8);

	if (r->space == SPACE_PIO)
		port_write(bed->g, (uint16_t)at, feed_u8(f) & 3, len);
	else if (at - LAYOUT_ECAM >= LAYOUT_ECAM_SIZE && at - bed->b->table >= 2 * 65536)
		mem_write(bed->g, at, feed_u8(f) & 3, len);
	(void)notifier_drain(&bed->a->n);
}

static void check_mover(const struct bed *bed)
{
	struct pci_guest *g = bed->g;
	const struct pci_dev *d = &bed->a->pci;
	uint16_t cmd = load_le16(&d->cfg[PCI_COMMAND]);

	FUZZ_CHECK(load_le32(d->cfg) == 0x56781234 && load_le32(&d->cfg[8]) == 0x02000007 &&
		   load_le32(&d->cfg[0x2c]) == 0xdef09abc && d->cfg[PCI_CAPABILITY_LIST] == 0x40 &&
		   d->cfg[0x40] == PCI_CAP_ID_VNDR && !d->cfg[0x41], "a read-only field changed");
	for (unsigned i = 0; i < PCI_NR_BARS; i++) {
		const struct pci_bar *b = &d->bar[i];
		uint64_t at = load_le32(&d->cfg[PCI_BASE_ADDRESS_0 + 4 * i]);

		if (b->type == PCI_BAR_NONE || !b->region.enabled)
			continue;
		if (b->type == PCI_BAR_MEM64)
			at |= (uint64_t)load_le32(&d->cfg[PCI_BASE_ADDRESS_0 + 4 * i + 4]) << 32;
		at &= b->type == PCI_BAR_IO ? ~3ull : ~15ull;
		FUZZ_CHECK(at == b->region.base, "BAR %u says %llx, mapped at %llx", i,
			   (unsigned long long)at, (unsigned long long)b->region.base);
		FUZZ_CHECK(cmd & (b->type == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY),
			   "BAR %u decodes while it is off", i);
		FUZZ_CHECK(!(at & (b->size - 1)), "BAR %u is not aligned", i);
	}
	FUZZ_CHECK(g->k.nr_ioeventfds == region_nr_bound(g->m->map), "doorbells");
}

/* ---- the caller --------------------------------------------------------------- */

static bool masked(struct bed *bed, unsigned vector)
{
	unsigned ctrl = cfg_read(bed->g, CALLER, bed->b->cap + PCI_MSIX_FLAGS, 2);

	return !(ctrl & PCI_MSIX_FLAGS_ENABLE) || ctrl & PCI_MSIX_FLAGS_MASKALL ||
	       mem_read(bed->g, bed->b->table + vector * 16ull + 12, 4) & 1;
}

/* Whatever was pending and is unmasked now has come, and nothing else. */
static void check_caller(struct bed *bed)
{
	struct caller *b = bed->b;
	unsigned due = 0, last = 0;

	(void)fake_kvm_serve(&bed->g->k);
	if (b->loose)
		return;
	for (unsigned i = 0; i < WATCHED; i++) {
		uint64_t pba;

		if (b->vector[i] >= b->nr)
			continue;
		if (b->pending[i] && !masked(bed, b->vector[i])) {
			b->pending[i] = false;
			due++;
			last = b->vector[i];
		}
		pba = mem_read(bed->g, b->table + b->pba + b->vector[i] / 64 * 8, 8);
		FUZZ_CHECK((pba >> b->vector[i] % 64 & 1) == b->pending[i], "PBA of %u: %llx",
			   b->vector[i], (unsigned long long)pba);
	}
	FUZZ_CHECK(bed->g->k.nr_msis == b->seen + due, "%u messages instead of %u",
		   bed->g->k.nr_msis - b->seen, due);
	if (due == 1 && b->seen < FAKE_KVM_MSIS) {
		const struct fake_msi *m = &bed->g->k.msi[b->seen];
		uint64_t at = b->table + last * 16ull;

		FUZZ_CHECK(m->address == mem_read(bed->g, at, 8) &&
			   m->data == mem_read(bed->g, at + 8, 4), "message of vector %u", last);
	}
	b->seen = bed->g->k.nr_msis;
}

static void caller_step(struct bed *bed, struct feed *f)
{
	static const uint32_t flags[] = { 0, PCI_MSIX_FLAGS_ENABLE, PCI_MSIX_FLAGS_MASKALL,
					  PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL,
					  PCI_MSIX_FLAGS_ENABLE };
	struct caller *b = bed->b;
	struct pci_guest *g = bed->g;
	unsigned i = feed_below(f, WATCHED), v = b->vector[i];
	uint8_t what = feed_below(f, 10);

	switch (what) {
	case 0:
		cfg_write(g, CALLER, b->cap + PCI_MSIX_FLAGS, flags[feed_below(f, 5)], 2);
		break;
	case 1: /* any bytes of the capability */
		cfg_write(g, CALLER, b->cap + feed_below(f, 12), feed_u32(f), feed_len(f, 4));
		break;
	case 2:
	case 3:
		if (v < b->nr)
			mem_write(g, b->table + v * 16ull + 12, feed_u8(f), 4);
		break;
	case 4:
		if (v < b->nr)
			mem_write(g, b->table + v * 16ull + (feed_u8(f) & 15), feed_u64(f), 1 + feed_below(f, 8));
		break;
	case 5:
		mem_write(g, b->table + feed_u16(f), feed_u32(f), 1 + feed_below(f, 8));
		(void)mem_read(g, b->table + feed_u16(f), 1 + feed_below(f, 8));
		break;
	case 6:
		if (feed_u8(f) & 3)
			break;
		pci_dev_reset(&b->pci);
		cfg_write(g, CALLER, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
		memset(b->pending, 0, sizeof(b->pending));
		break;
	case 7:
		(void)msix_fd(&b->pci, v);
		break;
	default:
		msix_signal(&b->pci, v);
		b->pending[i] |= v < b->nr;
	}
}

static void maybe_fail(struct bed *bed, struct feed *f)
{
	static const unsigned long requests[] = { KVM_SET_GSI_ROUTING, KVM_SIGNAL_MSI };

	/* Doorbells: a bus that is full now, and yet has room for what is on it. */
	bed->g->k.max_ioeventfds = MAX(feed_u8(f) & 7, bed->g->k.nr_ioeventfds);
	if (bed->b->loose)
		fake_kvm_fail(&bed->g->k, requests[feed_below(f, 2)], feed_u8(f) & 3, ENOSPC);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct feed f = { data, size };
	struct bed bed = { .g = pci_guest_create(1 << 20) };
	uint8_t kind = feed_u8(&f);

	if (kind & 1)
		fake_kvm_set_cap(&bed.g->k, KVM_CAP_IRQFD, false);
	add_mover(&bed, &f);
	add_caller(&bed, &f);
	bed.b->loose = kind & 2;
	while (f.left) {
		switch (feed_below(&f, 8)) {
		case 0:
		case 1:
		case 2:
			config_access(&bed, &f);
			break;
		case 3:
			use_bar(&bed, &f);
			break;
		case 4:
			maybe_fail(&bed, &f);
			break;
		default:
			caller_step(&bed, &f);
		}
		check_mover(&bed);
		check_caller(&bed);
	}
	fake_kvm_fail(&bed.g->k, 0, 0, 0);
	pci_guest_destroy(bed.g);
	return 0;
}
