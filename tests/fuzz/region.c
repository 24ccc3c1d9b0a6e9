/* SPDX-License-Identifier: MIT
 * The region map against a model that keeps no view: a byte's owner is searched
 * among all regions each time. Transactions of any changes, binds that fail by
 * collision or for want of room; what a commit refuses must leave no trace, in
 * the map and in the KVM half.
 */
#include "fuzz.h"
#include "fake_kvm.h"
#include "machine/machine.h"

#define REGIONS 6
#define BELLS   6
#define FDS     3
#define SPAN    48 /* addresses that are looked at */

struct model_region {
	bool added, enabled;
	uint64_t base;
	unsigned order;
};

struct model {
	struct model_region r[REGIONS];
	int bell_of[BELLS]; /* region, -1: none */
	unsigned next_order;
};

struct bed {
	struct fake_kvm kvm;
	struct sys sys;
	struct vm vm;
	struct region_map *map;
	struct region_reader rd;
	struct region region[REGIONS];
	struct doorbell bell[BELLS];
	struct notifier n[FDS];
	struct model now, saved; /* saved: as at the last good commit */
	int wrote;
};

struct port {
	struct bed *bed;
	unsigned index;
};

static struct port ports[REGIONS];

static uint64_t on_read(void *arg, uint64_t off, unsigned len)
{
	struct port *p = arg;

	FUZZ_CHECK(len == 1 && off < p->bed->region[p->index].size, "offset %llu",
		   (unsigned long long)off);
	return p->index * 16 + off % 16;
}

static void on_write(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	struct port *p = arg;

	FUZZ_CHECK(off < p->bed->region[p->index].size, "offset %llu", (unsigned long long)off);
	p->bed->wrote++;
}

static const struct region_ops ops = { .read = on_read, .write = on_write };

/* ---- the model ---------------------------------------------------------- */

static int owner(const struct bed *b, enum region_space space, uint64_t addr)
{
	int best = -1;

	for (int i = 0; i < REGIONS; i++) {
		const struct model_region *r = &b->now.r[i], *o = best < 0 ? NULL : &b->now.r[best];
		const struct region *g = &b->region[i];

		if (!r->added || !r->enabled || g->space != space || addr - r->base >= g->size)
			continue;
		if (!o || g->priority > b->region[best].priority ||
		    (g->priority == b->region[best].priority && r->order < o->order))
			best = i;
	}
	return best;
}

static bool bell_visible(const struct bed *b, unsigned i, uint64_t *addr)
{
	const struct doorbell *d = &b->bell[i];
	int r = b->now.bell_of[i];

	if (r < 0 || !b->now.r[r].added || !b->now.r[r].enabled)
		return false;
	*addr = b->now.r[r].base + d->off;
	for (unsigned n = 0; n < MAX(d->len, 1); n++)
		if (owner(b, b->region[r].space, *addr + n) != r)
			return false;
	return true;
}

static bool bell_equal(const struct bed *b, unsigned i, uint64_t addr, const struct kvm_ioeventfd *k)
{
	const struct doorbell *d = &b->bell[i];
	bool pio = b->region[b->now.bell_of[i]].space == SPACE_PIO;

	return k->addr == addr && k->len == d->len && k->fd == d->n->fd &&
	       pio == !!(k->flags & KVM_IOEVENTFD_FLAG_PIO) &&
	       d->match == !!(k->flags & KVM_IOEVENTFD_FLAG_DATAMATCH) &&
	       (!d->match || k->datamatch == (d->data & len_mask(d->len)));
}

/* As the kernel's bus sees it. */
static bool bells_collide(const struct bed *b, unsigned i, unsigned j)
{
	const struct doorbell *d = &b->bell[i], *o = &b->bell[j];
	uint64_t x, y;

	if (!bell_visible(b, i, &x) || !bell_visible(b, j, &y) || x != y ||
	    b->region[b->now.bell_of[i]].space != b->region[b->now.bell_of[j]].space)
		return false;
	return !d->len || !o->len || (d->len == o->len && (!d->match || !o->match ||
	       (d->data & len_mask(d->len)) == (o->data & len_mask(o->len))));
}

static bool bell_wanted(const struct bed *b, unsigned i)
{
	uint64_t addr;

	return b->bell[i].path == NOTIFY_IOEVENTFD && bell_visible(b, i, &addr);
}

static bool can_bind(const struct bed *b)
{
	unsigned n = 0;

	for (unsigned i = 0; i < BELLS; i++) {
		n += bell_wanted(b, i);
		for (unsigned j = 0; j < i; j++)
			if (bell_wanted(b, i) && bell_wanted(b, j) && bells_collide(b, i, j))
				return false;
	}
	return n <= b->kvm.max_ioeventfds;
}

/* ---- what must hold ------------------------------------------------------- */

static void check(struct bed *b)
{
	unsigned bound = 0;
	uint64_t addr;

	for (int s = 0; s < NR_SPACES; s++) {
		for (uint64_t a = 0; a < SPAN; a++) {
			int o = owner(b, (enum region_space)s, a);
			uint8_t v = 0;

			(void)region_read(b->map, &b->rd, (enum region_space)s, a, &v, 1);
			FUZZ_CHECK(v == (o < 0 ? 0xff : (uint8_t)(o * 16 + (a - b->now.r[o].base) % 16)),
				   "address %llu reads %x, owner %d", (unsigned long long)a, v, o);
		}
	}
	for (unsigned i = 0; i < BELLS; i++) {
		bool found = false;

		if (!bell_wanted(b, i) || !bell_visible(b, i, &addr))
			continue;
		bound++;
		for (unsigned k = 0; k < b->kvm.nr_ioeventfds; k++)
			found |= bell_equal(b, i, addr, &b->kvm.ioeventfd[k]);
		FUZZ_CHECK(found, "doorbell %u is not bound", i);
	}
	FUZZ_CHECK(bound == b->kvm.nr_ioeventfds, "%u doorbells, %u bound", bound, b->kvm.nr_ioeventfds);
	FUZZ_CHECK(bound == region_nr_bound(b->map), "nr_bound");
}

static unsigned drain(struct bed *b)
{
	unsigned n = 0;

	for (unsigned i = 0; i < FDS; i++)
		n += (unsigned)notifier_drain(&b->n[i]);
	return n;
}

static void guest_write(struct bed *b, struct feed *f)
{
	enum region_space s = (enum region_space)feed_below(f, NR_SPACES);
	uint64_t addr = feed_below(f, SPAN), data = feed_u8(f), a;
	unsigned len = 1 + feed_below(f, 8);
	bool rings = false;

	for (unsigned i = 0; i < BELLS; i++) {
		const struct doorbell *d = &b->bell[i];

		rings |= bell_visible(b, i, &a) && b->region[b->now.bell_of[i]].space == s &&
			 a == addr && (!d->len || d->len == len) &&
			 (!d->match || data == (d->data & len_mask(len)));
	}
	b->wrote = 0;
	if (!fake_kvm_guest_write(&b->kvm, s == SPACE_PIO, addr, data, len))
		(void)region_write(b->map, &b->rd, s, addr, &data, len);
	FUZZ_CHECK(drain(b) == rings, "a write of %u at %llu: doorbell %d", len,
		   (unsigned long long)addr, rings);
	FUZZ_CHECK(!rings || !b->wrote, "a kick went further");
}

/* ---- changes --------------------------------------------------------------- */

static void change(struct bed *b, struct feed *f)
{
	unsigned what = feed_below(f, 6), i = feed_below(f, REGIONS), d = feed_below(f, BELLS);
	uint64_t base = feed_u8(f) % 40;
	struct model *m = &b->now;

	if (base == 39)
		base = feed_u64(f);
	switch (what) {
	case 0:
		if (!region_add(b->map, &b->region[i])) {
			FUZZ_CHECK(!m->r[i].added, "added twice");
			m->r[i].added = true;
			m->r[i].order = m->next_order++;
		}
		break;
	case 1:
		if (!region_del(b->map, &b->region[i]))
			m->r[i].added = false;
		break;
	case 2:
		if (!region_move(b->map, &b->region[i], base))
			m->r[i].base = base;
		break;
	case 3:
		if (!region_enable(b->map, &b->region[i], base & 1))
			m->r[i].enabled = base & 1;
		break;
	case 4:
		if (m->bell_of[d] < 0) {
			b->bell[d].off = feed_below(f, 12);
			b->bell[d].len = (uint8_t)(feed_u8(f) % 10);
			b->bell[d].match = base & 1;
			b->bell[d].data = feed_u16(f) & 0x101;
			b->bell[d].path = base & 2 ? NOTIFY_IOEVENTFD : NOTIFY_EXIT;
			b->bell[d].n = &b->n[d % FDS];
		}
		if (!region_add_doorbell(b->map, &b->region[i], &b->bell[d]))
			m->bell_of[d] = (int)i;
		break;
	default:
		if (!region_del_doorbell(b->map, &b->bell[d]))
			m->bell_of[d] = -1;
	}
}

static void transaction(struct bed *b, struct feed *f)
{
	unsigned n = feed_below(f, 6), inner = feed_below(f, 4);
	bool can;
	int r;

	b->saved = b->now;
	/* Never less than is bound: what was there can be put back. */
	b->kvm.max_ioeventfds = MAX(feed_below(f, BELLS + 2), b->kvm.nr_ioeventfds);
	region_begin(b->map);
	for (unsigned i = 0; i < n; i++) {
		if (i == inner)
			region_begin(b->map);
		change(b, f);
		if (i == inner && region_commit(b->map))
			FUZZ_CHECK(false, "an inner commit acts");
	}
	can = can_bind(b);
	r = region_commit(b->map);
	FUZZ_CHECK(!r == can, "commit gave %d, binding possible: %d", r, can);
	if (r)
		b->now = b->saved;
}

static int set_up(struct bed *b, struct feed *f)
{
	struct err e;

	fake_kvm_init(&b->kvm);
	if (sys_open(&b->sys, &b->kvm.api, &e) || vm_create(&b->vm, &b->sys) ||
	    region_map_create(&b->map, &b->vm, NULL))
		abort();
	region_reader_add(b->map, &b->rd);
	for (unsigned i = 0; i < FDS; i++)
		if (notifier_create(&b->n[i], 0, 0))
			abort();
	for (unsigned i = 0; i < BELLS; i++)
		b->now.bell_of[i] = -1;
	for (unsigned i = 0; i < REGIONS; i++) {
		ports[i] = (struct port){ b, i };
		b->region[i] = (struct region){
			.name = "r", .space = (enum region_space)(feed_u8(f) & 1), .ops = &ops,
			.arg = &ports[i], .size = 1 + feed_below(f, 20),
			.priority = (int)feed_below(f, 3) - 1, .base = feed_below(f, 40),
		};
		b->now.r[i].base = b->region[i].base;
	}
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct feed f = { data, size };
	struct bed *b = calloc(1, sizeof(*b));

	if (!b || set_up(b, &f))
		abort();
	while (f.left) {
		if (feed_u8(&f) & 1)
			transaction(b, &f);
		else
			guest_write(b, &f);
		check(b);
	}
	region_reader_del(b->map, &b->rd);
	region_map_destroy(b->map);
	FUZZ_CHECK(!b->kvm.nr_ioeventfds, "%u doorbells are left", b->kvm.nr_ioeventfds);
	for (unsigned i = 0; i < FDS; i++)
		notifier_destroy(&b->n[i]);
	vm_destroy(&b->vm);
	sys_close(&b->sys);
	FUZZ_CHECK(!fake_kvm_fini(&b->kvm), "fds are left");
	free(b);
	return 0;
}
