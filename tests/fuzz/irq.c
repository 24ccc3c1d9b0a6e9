/* SPDX-License-Identifier: MIT
 * The interrupt fabric over a KVM half whose ioctls fail when the input says so:
 * no message is lost or given twice, none goes anywhere but where its vector
 * points, and nothing is bound once all is destroyed.
 */
#include "fuzz.h"
#include "fake_kvm.h"
#include "machine/machine.h"

#define MSIS  5
#define WIRES 4
#define ADDRESS(i) (0xfee00000ull + ((uint64_t)(i) << 12))

struct vector {
	struct irq_msi m;
	bool alive, masked, pending;
	uint64_t address;
	uint32_t data;
};

struct bed {
	struct fake_kvm kvm;
	struct sys sys;
	struct vm vm;
	struct irq_fabric *f;
	struct vector v[MSIS];
	struct irq_wire w[WIRES];
	bool level[WIRES];
	unsigned seen; /* messages looked at */
	bool has_msi;
};

/* The messages that came since the last call are exactly n of this vector's. */
static void expect(struct bed *b, const struct vector *v, unsigned n)
{
	(void)fake_kvm_serve(&b->kvm);
	FUZZ_CHECK(b->kvm.nr_msis == b->seen + n, "%u messages instead of %u",
		   b->kvm.nr_msis - b->seen, n);
	for (; b->seen < b->kvm.nr_msis; b->seen++) {
		const struct fake_msi *m = &b->kvm.msi[b->seen % FAKE_KVM_MSIS];

		if (b->seen < FAKE_KVM_MSIS)
			FUZZ_CHECK(v && m->address == v->address && m->data == v->data,
				   "message %llx %x", (unsigned long long)m->address, m->data);
	}
}

static void maybe_fail(struct bed *b, struct feed *f)
{
	static const unsigned long requests[] = { KVM_IRQFD, KVM_SET_GSI_ROUTING, 0 };
	static const int errors[] = { ENOMEM, ENOSPC, EINVAL, EBUSY };
	uint8_t v = feed_u8(f);

	fake_kvm_fail(&b->kvm, requests[v % ARRAY_SIZE(requests)], v & 0x80 ? 1 + (v >> 3 & 1) : 0,
		      errors[v >> 4 & 3]);
}

static void no_fail(struct bed *b)
{
	fake_kvm_fail(&b->kvm, 0, 0, 0);
}

static void unmask(struct bed *b, struct vector *v, struct feed *f)
{
	bool fails;
	unsigned n;
	int r;

	/* Not an ioctl that gives a message away. */
	maybe_fail(b, f);
	if (!b->kvm.fail_request)
		no_fail(b);
	fails = b->kvm.fail_after;
	r = irq_msi_unmask(&v->m);
	no_fail(b);
	/* Only where there is no other way may it fail: no route is left, and no KVM_SIGNAL_MSI. */
	FUZZ_CHECK(!r || (!b->has_msi && v->masked && (fails || r == -ENOSPC)), "unmask: %d", r);
	n = !r && v->masked && v->pending;
	if (!r) {
		v->masked = false;
		v->pending = false;
	}
	expect(b, v, n);
}

static void vector_step(struct bed *b, struct feed *f)
{
	unsigned i = feed_below(f, MSIS);
	struct vector *v = &b->v[i];
	uint64_t address = ADDRESS(feed_u8(f));
	uint32_t data = i << 16 | feed_u8(f);

	if (!v->alive) {
		enum inject_path p = (enum inject_path)feed_below(f, NR_INJECT);

		if (irq_msi_create(&v->m, b->f, p, "v"))
			return;
		v->alive = v->masked = true;
		v->pending = false;
		v->address = 0;
		v->data = 0;
		return;
	}
	switch (feed_below(f, 8)) {
	case 0:
		maybe_fail(b, f);
		if (!irq_msi_set(&v->m, address, data)) {
			v->address = address;
			v->data = data;
		}
		no_fail(b);
		expect(b, NULL, 0);
		break;
	case 1:
		(void)irq_msi_mask(&v->m);
		v->masked = true;
		expect(b, NULL, 0);
		break;
	case 2:
	case 3:
		unmask(b, v, f);
		break;
	case 4:
	case 5:
		irq_msi_signal(&v->m);
		v->pending |= v->masked;
		expect(b, v, !v->masked);
		break;
	case 6:
		irq_msi_clear(&v->m);
		if (v->masked)
			v->pending = false;
		break;
	default:
		irq_msi_destroy(&v->m);
		v->alive = false;
		expect(b, NULL, 0);
		FUZZ_CHECK(!fake_kvm_irqfd_bound(&b->kvm, v->m.n.fd), "bound after destroy");
	}
	if (v->alive)
		FUZZ_CHECK(irq_msi_pending(&v->m) == (v->masked && v->pending), "pending %d",
			   v->pending);
}

static void wire_step(struct bed *b, struct feed *f)
{
	unsigned i = feed_below(f, WIRES);
	struct irq_wire *w = &b->w[i];
	gsi_t gsi = w->gsi;
	bool high = false;

	switch (feed_below(f, 4)) {
	case 0:
		(void)irq_wire_set(w, true);
		b->level[i] = w->fabric && gsi < LAYOUT_NR_IOAPIC_PINS;
		break;
	case 1:
		(void)irq_wire_set(w, false);
		b->level[i] = false;
		break;
	case 2:
		(void)irq_wire_pulse(w);
		b->level[i] = false;
		break;
	default:
		irq_wire_fini(w);
		b->level[i] = false;
		irq_wire_init(w, b->f, feed_u8(f) & 1 ? gsi : feed_below(f, 30), "w");
		gsi = w->gsi;
	}
	for (unsigned n = 0; n < WIRES; n++)
		high |= b->level[n] && b->w[n].gsi == gsi;
	FUZZ_CHECK(b->kvm.level[gsi] == high, "gsi %u", gsi);
}

static void count(void *arg, const struct irq_count *c)
{
	++*(unsigned *)arg;
}

static void line(void *arg, const char *text)
{
	++*(unsigned *)arg;
}

static void check(struct bed *b)
{
	unsigned n = 0, alive = 0, routes = 0;

	irq_walk_counts(b->f, count, &n);
	for (unsigned i = 0; i < MSIS; i++)
		alive += b->v[i].alive;
	FUZZ_CHECK(n == alive + WIRES, "%u sources", n);
	irq_print_routes(b->f, line, &routes);
	FUZZ_CHECK(routes == b->kvm.nr_routes, "%u routes, the KVM half has %u", routes,
		   b->kvm.nr_routes);
}

static bool set_up(struct bed *b, struct feed *f)
{
	uint8_t kind = feed_u8(f);
	struct err e;

	fake_kvm_init(&b->kvm);
	if (kind & 1)
		fake_kvm_set_cap(&b->kvm, KVM_CAP_IRQFD, false);
	b->has_msi = !(kind & 2);
	if (kind & 2)
		fake_kvm_set_cap(&b->kvm, KVM_CAP_SIGNAL_MSI, false);
	if (kind & 4)
		fake_kvm_set_cap(&b->kvm, KVM_CAP_IRQ_INJECT_STATUS, false);
	if (sys_open(&b->sys, &b->kvm.api, &e) || vm_create(&b->vm, &b->sys))
		abort();
	if (irq_create(&b->f, &b->vm, kind & 8 ? 36 + feed_below(f, 8) : 0, NULL))
		return false;
	for (unsigned i = 0; i < WIRES; i++)
		irq_wire_init(&b->w[i], b->f, feed_below(f, 26), "w");
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct feed f = { data, size };
	struct bed *b = calloc(1, sizeof(*b));
	bool up;

	if (!b)
		abort();
	up = set_up(b, &f);
	while (up && f.left) {
		if (feed_u8(&f) & 3)
			vector_step(b, &f);
		else
			wire_step(b, &f);
		check(b);
	}
	/* Whatever waits comes when all are unmasked, and once. */
	for (unsigned i = 0; i < MSIS; i++) {
		if (!b->v[i].alive)
			continue;
		unmask(b, &b->v[i], &f);
		FUZZ_CHECK(!b->v[i].masked || !b->has_msi, "vector %u stays masked", i);
		irq_msi_destroy(&b->v[i].m);
	}
	for (unsigned i = 0; up && i < WIRES; i++)
		irq_wire_fini(&b->w[i]);
	FUZZ_CHECK(!b->kvm.nr_irqfds, "%u irqfds are left", b->kvm.nr_irqfds);
	for (unsigned i = 0; i < FAKE_KVM_GSIS; i++)
		FUZZ_CHECK(!b->kvm.level[i], "gsi %u stays high", i);
	if (up)
		irq_destroy(b->f);
	vm_destroy(&b->vm);
	sys_close(&b->sys);
	FUZZ_CHECK(!fake_kvm_fini(&b->kvm), "fds are left");
	free(b);
	return 0;
}
