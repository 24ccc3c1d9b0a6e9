/* SPDX-License-Identifier: MIT
 * The I/O APIC against any sequence of window accesses, wires, EOIs and loads,
 * with local APICs that take, coalesce or refuse as the input says.
 */
#include "fuzz.h"
#include "irqchip/irqchip.h"

struct bed {
	struct ioapic io;
	struct feed *feed;
	bool loaded;  /* a state from the input: combinations no guest can make */
	unsigned delays;
};

static int on_deliver(void *opaque, const struct irq_message *msg, struct ioapic_rtc *rtc)
{
	struct bed *b = opaque;
	unsigned n = feed_below(b->feed, 5);

	FUZZ_CHECK(msg->delivery < 8 && !msg->shorthand && msg->assert, "a message no entry can say");
	FUZZ_CHECK(msg->dest < (b->io.ext_dest ? 0x8000 : 0x100), "destination %x", msg->dest);
	if (n == 4)
		return -1;
	for (unsigned i = 0, cpu = feed_u16(b->feed) % 2048; rtc && i < n; i++, cpu++)
		FUZZ_CHECK(ioapic_rtc_note(rtc, cpu, msg->vector) == (cpu < IOAPIC_MAX_CPUS),
			   "cpu %u", cpu);
	return (int)n;
}

static void on_route(void *opaque, unsigned pin, uint64_t old, uint64_t new)
{
	FUZZ_CHECK(pin < IOAPIC_PINS, "pin %u", pin);
}

static void on_mask(void *opaque, unsigned pin, bool masked)
{
	FUZZ_CHECK(pin < IOAPIC_PINS, "pin %u", pin);
}

static bool on_resample(void *opaque, unsigned pin)
{
	return feed_u8(((struct bed *)opaque)->feed) & 1;
}

static void on_delay(void *opaque)
{
	((struct bed *)opaque)->delays++;
}

static void on_restore(void *opaque, const struct irq_message *msg, struct ioapic_rtc *rtc)
{
	(void)ioapic_rtc_note(rtc, feed_u8(((struct bed *)opaque)->feed), msg->vector);
}

static const struct ioapic_sink sinks[] = {
	{ on_deliver, on_route, on_mask, on_resample, on_delay, on_restore },
	{ .deliver = on_deliver },
};

static void finish(struct bed *b, uint32_t pins, bool level)
{
	if (!pins)
		return;
	FUZZ_CHECK(pins & b->io.ack_pins, "pins %x nobody asked for", pins);
	ioapic_eoi_end(&b->io, pins, level);
}

static void check(const struct bed *b)
{
	unsigned cpus = 0;

	FUZZ_CHECK(b->io.rtc.pending >= 0, "%d EOIs owed", b->io.rtc.pending);
	for (unsigned i = 0; i < ARRAY_SIZE(b->io.rtc.cpus); i++)
		cpus += (unsigned)__builtin_popcountll(b->io.rtc.cpus[i]);
	/* A tick that nobody can end any more would stop the RTC for ever. */
	FUZZ_CHECK(!b->io.rtc.pending || cpus, "%d EOIs owed by nobody", b->io.rtc.pending);
	FUZZ_CHECK(!(b->io.irr >> IOAPIC_PINS), "irr %x", b->io.irr);
	for (unsigned pin = 0; pin < IOAPIC_PINS && !b->loaded; pin++)
		FUZZ_CHECK(!(b->io.rte[pin] & RTE_REMOTE_IRR) || b->io.rte[pin] & RTE_LEVEL,
			   "pin %u: Remote IRR of an edge", pin);
}

static void reload(struct bed *b)
{
	struct kvm_ioapic_state s, t;

	ioapic_save(&b->io, &s);
	ioapic_load(&b->io, &s);
	ioapic_save(&b->io, &t);
	/* A load may deliver what is pending, and nothing else. */
	FUZZ_CHECK(s.base_address == t.base_address && s.id == t.id && s.ioregsel == t.ioregsel &&
		   s.pad == t.pad && !(t.irr & ~s.irr), "registers after save and load");
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		FUZZ_CHECK(!((s.redirtbl[pin].bits ^ t.redirtbl[pin].bits) & ~RTE_REMOTE_IRR) &&
			   !(s.redirtbl[pin].bits & ~t.redirtbl[pin].bits), "entry %u", pin);
}

static void step(struct bed *b, struct feed *f)
{
	struct ioapic *io = &b->io;
	unsigned what = feed_below(f, 16), arg = feed_u8(f);
	struct kvm_ioapic_state s;

	switch (what) {
	case 0:
	case 1:
	case 2:
		finish(b, ioapic_write(io, 0, 4, arg % 0x44), true);
		finish(b, ioapic_write(io, 0x10, 4, feed_u32(f)), true);
		break;
	case 3: /* a sensible entry, often the RTC's */
		arg = arg & 1 ? IOAPIC_RTC_PIN : arg / 2 % IOAPIC_PINS;
		finish(b, ioapic_write(io, 0, 4, 0x10 + 2 * arg), true);
		finish(b, ioapic_write(io, 0x10, 4, (feed_u8(f) & 3) | (feed_u8(f) & 0x1ff) << 8), true);
		break;
	case 4:
		finish(b, ioapic_write(io, feed_u8(f), arg % 9, feed_u64(f)), true);
		break;
	case 5:
		(void)ioapic_read(io, feed_u8(f), arg % 9);
		break;
	case 6:
	case 7:
	case 8:
		(void)ioapic_set_line(io, arg % 32 % 25, feed_below(f, 65), arg & 0x80, arg & 0x40);
		break;
	case 9:
		(void)ioapic_set_line(io, IOAPIC_RTC_PIN, 0, arg & 1, true);
		break;
	case 10:
	case 11:
		finish(b, ioapic_eoi(io, feed_u16(f) % 2048, arg & 3, arg & 0x80, arg & 0x40),
		       (arg & 0xc0) == 0x80);
		break;
	case 12:
		ioapic_want_acks(io, feed_u32(f));
		break;
	case 13:
		if (arg & 1)
			ioapic_inject_delayed(io);
		else if (arg & 2)
			ioapic_clear_source(io, arg / 4);
		else
			ioapic_rtc_loaded(io, feed_u16(f) % 2048, arg & 4);
		break;
	case 14:
		reload(b);
		break;
	default:
		if (arg & 7)
			break;
		feed_bytes(f, &s, sizeof(s));
		b->loaded = true;
		ioapic_load(io, &s);
	}
}

/* The storm guard: EOIs without end deliver without end, but the chip asks for a rest. */
static void storm(struct bed *b)
{
	for (unsigned i = 0; i < IOAPIC_STORM_EOIS + 10; i++)
		finish(b, ioapic_eoi(&b->io, 0, 1, true, false), true);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct feed f = { data, size };
	struct bed b = { .feed = &f };
	uint8_t kind = feed_u8(&f);

	ioapic_init(&b.io, kind & 1 ? 0x20 : 0x11, kind & 2, &sinks[kind >> 2 & 1], &b);
	while (f.left) {
		step(&b, &f);
		check(&b);
	}
	if (kind == 0xf0)
		storm(&b);
	ioapic_reset(&b.io);
	check(&b);
	return 0;
}
