/* SPDX-License-Identifier: MIT
 * Three local APICs with a map between them against any sequence of register
 * accesses, messages, IPIs, timers and EOIs. What a CPU is handed must be above
 * its priority; ISR and its count agree; a save loads into an equal.
 */
#include "fuzz.h"
#include "irqchip/irqchip.h"

#define CPUS 3

struct bed;
struct cpu {
	struct lapic l;
	struct bed *bed;
	uint64_t pir[4];
};

struct bed {
	struct cpu cpu[CPUS];
	struct lapic *all[CPUS];
	struct lapic_map *map;
	struct ioapic io;
	uint64_t now;
	unsigned depth;
	bool stale, loaded; /* loaded: a state from the input, any at all */
};

static void on_ipi(void *opaque, const struct irq_message *msg)
{
	struct cpu *c = opaque;

	FUZZ_CHECK(msg->shorthand < 4 && msg->delivery < 8, "message");
	if (c->bed->map)
		(void)lapic_map_deliver(c->bed->map, &c->l, msg, NULL);
}

static void on_attention(void *opaque)
{
}

static void on_post(void *opaque, uint8_t vector)
{
	struct cpu *c = opaque;

	c->pir[vector / 64] |= BIT_ULL(vector % 64);
}

static void on_map(void *opaque)
{
	struct cpu *c = opaque;

	c->bed->stale = true;
}

static const struct lapic_sink plain = {
	.deliver_ipi = on_ipi, .attention = on_attention, .map_changed = on_map,
};
static const struct lapic_sink posting = {
	.deliver_ipi = on_ipi, .attention = on_attention, .map_changed = on_map, .post = on_post,
};

static int on_deliver(void *opaque, const struct irq_message *msg, struct ioapic_rtc *rtc)
{
	return lapic_map_deliver(((struct bed *)opaque)->map, NULL, msg, rtc);
}

static const struct ioapic_sink io_sink = { .deliver = on_deliver };

static void check(struct cpu *c)
{
	struct lapic *l = &c->l;
	int count = 0, v = lapic_pending_vector(l);

	for (unsigned i = 0; i < 8; i++)
		count += __builtin_popcount(lapic_reg(l, LAPIC_ISR + 16 * i));
	FUZZ_CHECK(count == l->isr_count, "%d bits in ISR, %d counted", count, l->isr_count);
	if (v < 0)
		return;
	FUZZ_CHECK(v < 256 && ((unsigned)v & 0xf0) > (lapic_reg(l, LAPIC_PPR) & 0xf0),
		   "vector %x at priority %x", v, lapic_reg(l, LAPIC_PPR));
	FUZZ_CHECK(v == lapic_highest_irr(l), "not the highest");
}

static void drain_eois(struct cpu *c)
{
	bool level;
	int v;

	while ((v = lapic_take_eoi(&c->l, &level)) >= 0) {
		uint32_t pins = ioapic_eoi(&c->bed->io, (unsigned)(c - c->bed->cpu), (uint8_t)v, level,
					   false);

		ioapic_eoi_end(&c->bed->io, pins, level);
	}
}

static void access_page(struct cpu *c, struct feed *f)
{
	uint32_t offset = feed_below(f, 0x40) * 16, value;
	uint64_t v;

	switch (feed_below(f, 8)) {
	case 0:
		(void)!lapic_mmio_read(&c->l, feed_u16(f), feed_u8(f), c->bed->now, &value);
		break;
	case 1:
		(void)!lapic_mmio_write(&c->l, feed_u16(f), feed_u8(f), feed_u32(f), c->bed->now);
		break;
	case 2:
		(void)!lapic_msr_read(&c->l, 0x7f0 + feed_u8(f), c->bed->now, &v);
		break;
	case 3:
		(void)!lapic_msr_write(&c->l, feed_u16(f), feed_u64(f), c->bed->now);
		break;
	case 4:
		(void)!lapic_msr_write(&c->l, 0x800 + offset / 16, feed_u32(f), c->bed->now);
		break;
	default:
		(void)!lapic_mmio_write(&c->l, offset, 4, feed_u32(f), c->bed->now);
	}
}

static void message(struct bed *b, struct feed *f)
{
	struct irq_message m = {
		.dest = feed_u8(f) & 1 ? feed_u32(f) : feed_u8(f), .vector = feed_u8(f),
		.delivery = feed_u8(f) & 7,
	};
	uint8_t bits = feed_u8(f);
	struct lapic *one;
	int r;

	m.logical = bits & 1;
	m.level = bits & 2;
	m.assert = bits & 4;
	m.redirection_hint = bits & 8;
	one = lapic_map_single(b->map, &m);
	r = lapic_map_deliver(b->map, NULL, &m, NULL);
	FUZZ_CHECK(r >= -1 && r <= CPUS, "%d CPUs reached", r);
	if (one)
		FUZZ_CHECK(r <= 1, "a single target, but %d were reached", r);
}

static void timer(struct cpu *c, struct feed *f)
{
	uint64_t at;

	switch (lapic_next_deadline(&c->l, &at)) {
	case LAPIC_DEADLINE_NS:
		if (feed_u8(f) & 1)
			c->bed->now = MAX(c->bed->now, MIN(at, 1ull << 62));
		if (at <= c->bed->now)
			FUZZ_CHECK(lapic_timer_expired(&c->l, c->bed->now), "nothing latched");
		break;
	case LAPIC_DEADLINE_TSC:
		FUZZ_CHECK(lapic_timer_expired(&c->l, c->bed->now), "nothing latched");
		break;
	case LAPIC_NO_DEADLINE:
		break;
	}
	if (feed_u8(f) & 1)
		(void)lapic_inject_timer(&c->l);
	(void)lapic_timer_waiting(&c->l);
}

static void compare(const struct lapic *l, const struct lapic *m, uint64_t now)
{
	struct kvm_lapic_state s, t;

	lapic_save(l, now, &s);
	lapic_save(m, now, &t);
	/* The clock has moved on by less than a count; a disabled APIC does not look at its PPR. */
	memset(s.regs + LAPIC_TMCCT, 0, 4);
	memset(t.regs + LAPIC_TMCCT, 0, 4);
	if (!lapic_hw_enabled(l))
		memcpy(t.regs + LAPIC_PPR, s.regs + LAPIC_PPR, 4);
	for (unsigned i = 0; i < sizeof(s.regs); i += 4)
		FUZZ_CHECK(!memcmp(s.regs + i, t.regs + i, 4), "register %x: %x and %x", i,
			   load_le32(s.regs + i), load_le32(t.regs + i));
}

/* A second APIC made of the first one's state serves what is pending in the same order. */
static void reload(struct cpu *c)
{
	struct cpu twin = { .bed = c->bed };
	struct kvm_lapic_state s;
	int a, b;

	(void)lapic_inject_timer(&c->l);
	(void)lapic_merge_pir(&c->l, c->pir);
	lapic_init(&twin.l, &c->l.config, c->l.sink, &twin);
	lapic_set_cpuid(&twin.l, c->l.x2apic_cpuid, c->l.timer_mode_mask == 3u << 17,
			c->l.directed_eoi, c->l.maxphyaddr);
	if (lapic_set_base(&twin.l, c->l.base_msr, true))
		abort();
	lapic_set_tsc_deadline(&twin.l, c->l.tsc_deadline);
	(void)lapic_pending_vector(&c->l);
	lapic_save(&c->l, c->bed->now, &s);
	FUZZ_CHECK(!lapic_load(&twin.l, &s, c->bed->now), "load of a saved state");
	(void)lapic_pending_vector(&twin.l);
	compare(&c->l, &twin.l, c->bed->now);
	for (unsigned i = 0; i < 8; i++) {
		a = lapic_pending_vector(&c->l);
		b = lapic_pending_vector(&twin.l);
		FUZZ_CHECK(a == b, "pending %d, after save and load %d", a, b);
		if (a >= 0) {
			lapic_accept_vector(&c->l, (uint8_t)a);
			lapic_accept_vector(&twin.l, (uint8_t)a);
		} else {
			a = lapic_eoi(&c->l);
			b = lapic_eoi(&twin.l);
			FUZZ_CHECK(a == b, "EOI of %d, after save and load %d", a, b);
		}
	}
	c->bed->stale = true;
}

static void step(struct bed *b, struct feed *f)
{
	struct cpu *c = &b->cpu[feed_below(f, CPUS)];
	struct kvm_lapic_state s;
	uint64_t handled[4];
	uint8_t sipi, arg;
	int v;

	switch (feed_below(f, 16)) {
	case 0:
	case 1:
	case 2:
	case 3:
		access_page(c, f);
		break;
	case 4:
		(void)!lapic_mmio_write(&c->l, LAPIC_SVR, 4, 0x1ff, b->now);
		break;
	case 5:
	case 6:
		message(b, f);
		break;
	case 7:
		v = lapic_pending_vector(&c->l);
		if (v >= 0)
			lapic_accept_vector(&c->l, (uint8_t)v);
		break;
	case 8:
		(void)lapic_eoi(&c->l);
		break;
	case 9:
		b->now += feed_u32(f);
		timer(c, f);
		break;
	case 10:
		(void)!lapic_set_base(&c->l, feed_u8(f) & 1 ? feed_u64(f) :
				      APIC_BASE_DEFAULT | (uint64_t)feed_below(f, 16) << 8, feed_u8(f) & 1);
		break;
	case 11:
		arg = feed_u8(f);
		if (arg & 1)
			lapic_set_cr8(&c->l, arg);
		else if (arg & 2)
			lapic_set_tsc_deadline(&c->l, feed_u64(f));
		else if (arg & 4)
			lapic_reset(&c->l, arg & 8);
		else
			(void)lapic_deliver_local(&c->l, LAPIC_LVT_CMCI + 16 * (arg & 15));
		break;
	case 12:
		arg = feed_u8(f);
		(void)ioapic_write(&b->io, 0, 4, 0x10 + arg % 48);
		(void)!ioapic_write(&b->io, 0x10, 4, feed_u32(f));
		(void)ioapic_set_line(&b->io, arg % 24, 0, arg & 0x80, arg & 0x40);
		for (unsigned i = 0; i < CPUS; i++) {
			(void)lapic_scan_ioapic(&b->cpu[i].l, &b->io, i, handled);
			lapic_set_handled(&b->cpu[i].l, handled);
		}
		break;
	case 13:
		v = lapic_map_pv_ipi(b->map, feed_u64(f), feed_u64(f), feed_u8(f), feed_u32(f),
				     feed_u8(f) & 1);
		FUZZ_CHECK(v >= -EOPNOTSUPP && v <= 128, "pv ipi %d", v);
		break;
	case 14:
		if (!b->loaded)
			reload(c);
		break;
	default:
		(void)lapic_take_event(&c->l, &sipi);
		(void)lapic_accepts_extint(&c->l);
		(void)lapic_pv_eoi_allowed(&c->l);
		if (feed_u8(f) >= 8)
			break;
		feed_bytes(f, &s, sizeof(s));
		b->loaded = true;
		(void)!lapic_load(&c->l, &s, b->now);
		lapic_load_rtc(&c->l, &b->io);
	}
}

static void set_up(struct bed *b, struct feed *f)
{
	uint8_t kind = feed_u8(f);

	b->now = 1;
	ioapic_init(&b->io, 0x11, kind & 1, &io_sink, b);
	b->map = malloc(lapic_map_size(511));
	if (!b->map)
		abort();
	for (unsigned i = 0; i < CPUS; i++) {
		uint8_t bits = feed_u8(f);
		struct lapic_config c = {
			.id = kind & 2 && i == 2 ? 300 : i, .bsp = !i, .cmci = bits & 1,
			.lint0_enabled = bits & 2, .mmio_hole = bits & 4,
			.x2apic_ids_32 = kind & 4, .no_broadcast_quirk = kind & 8,
			.mask_perf_on_delivery = bits & 8, .bus_cycle_ns = bits & 16 ? feed_u8(f) : 0,
		};

		b->cpu[i].bed = b;
		b->all[i] = &b->cpu[i].l;
		lapic_init(&b->cpu[i].l, &c, bits & 32 ? &posting : &plain, &b->cpu[i]);
		lapic_set_cpuid(&b->cpu[i].l, bits & 64, bits & 128, kind & 16, 36);
	}
	b->stale = true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct feed f = { data, size };
	struct bed *b = calloc(1, sizeof(*b));

	if (!b)
		abort();
	set_up(b, &f);
	while (f.left) {
		if (b->stale)
			lapic_map_build(b->map, 511, b->all, CPUS);
		b->stale = false;
		step(b, &f);
		for (unsigned i = 0; i < CPUS; i++) {
			if (f.left & 1)
				(void)lapic_merge_pir(&b->cpu[i].l, b->cpu[i].pir);
			check(&b->cpu[i]);
			drain_eois(&b->cpu[i]);
		}
	}
	free(b->map);
	free(b);
	return 0;
}
