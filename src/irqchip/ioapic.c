/* SPDX-License-Identifier: MIT */
#include "irqchip/ioapic.h"

/* Window offsets and register indices, 82093AA "Memory Mapped Registers ...". */
#define WINDOW_SELECT	0x00
#define WINDOW_DATA	0x10
#define WINDOW_EOI	0x40	/* version 20h only */
#define INDEX_ID	0x00
#define INDEX_VERSION	0x01
#define INDEX_ARB	0x02
#define INDEX_RTE	0x10

#define RTE_READ_ONLY	(RTE_REMOTE_IRR | RTE_PENDING)

static void rtc_forget(struct ioapic *io)
{
	io->rtc.pending = 0;
	memset(io->rtc.cpus, 0, sizeof(io->rtc.cpus));
}

static bool rtc_owes_eoi(const struct ioapic *io, unsigned cpu, uint8_t vector)
{
	return cpu < IOAPIC_MAX_CPUS && io->rtc.cpus[cpu / 64] & BIT_ULL(cpu % 64) &&
	       io->rtc.vector[cpu] == vector;
}

static void rtc_restore(struct ioapic *io)
{
	struct irq_message msg;

	rtc_forget(io);
	if (!io->sink->rtc_restore)
		return;
	rte_decode(io->rte[IOAPIC_RTC_PIN], io->ext_dest, &msg);
	io->sink->rtc_restore(io->opaque, &msg, &io->rtc);
	for (unsigned i = 0; i < ARRAY_SIZE(io->rtc.cpus); i++)
		io->rtc.pending += __builtin_popcountll(io->rtc.cpus[i]);
}

static void rtc_done(struct ioapic *io, unsigned cpu)
{
	io->rtc.cpus[cpu / 64] &= ~BIT_ULL(cpu % 64);
	/* A CPU that accepted twice counts twice and owes one: never below 0. */
	if (--io->rtc.pending < 0)
		rtc_restore(io);
}

static void rtc_eoi(struct ioapic *io, unsigned cpu, uint8_t vector)
{
	if (rtc_owes_eoi(io, cpu, vector))
		rtc_done(io, cpu);
}

void ioapic_rtc_loaded(struct ioapic *io, unsigned cpu, bool owes)
{
	bool known = cpu < IOAPIC_MAX_CPUS && io->rtc.cpus[cpu / 64] & BIT_ULL(cpu % 64);

	if (cpu >= IOAPIC_MAX_CPUS || known == owes)
		return;
	if (owes) {
		ioapic_rtc_note(&io->rtc, cpu, (uint8_t)io->rte[IOAPIC_RTC_PIN]);
		io->rtc.pending++;
	} else {
		rtc_done(io, cpu);
	}
}

bool ioapic_rtc_note(struct ioapic_rtc *rtc, unsigned cpu, uint8_t vector)
{
	if (cpu >= IOAPIC_MAX_CPUS) {
		rtc->untracked++;
		return false;
	}
	rtc->cpus[cpu / 64] |= BIT_ULL(cpu % 64);
	rtc->vector[cpu] = vector;
	return true;
}

/* Send the entry's message unless it may not. The tri-state. */
static int service(struct ioapic *io, unsigned pin, bool status)
{
	uint64_t rte = io->rte[pin];
	struct irq_message msg;
	int ret;

	if (rte & RTE_MASKED || (rte & RTE_LEVEL && rte & RTE_REMOTE_IRR))
		return -1;
	rte_decode(rte, io->ext_dest, &msg);
	if (!msg.level)
		io->irr_delivered |= BIT(pin);
	if (pin == IOAPIC_RTC_PIN && status) {
		io->rtc.untracked = 0;
		ret = io->sink->deliver(io->opaque, &msg, &io->rtc);
		/*
		 * "Nobody there" is not "one EOI less than none" (CVE-2014-0155), and a CPU
		 * past the map will not be seen to EOI.
		 */
		io->rtc.pending = MAX(ret - io->rtc.untracked, 0);
	} else {
		ret = io->sink->deliver(io->opaque, &msg, NULL);
	}
	/* Also with nobody there: the message is on its way and no EOI will come. */
	if (ret && msg.level)
		io->rte[pin] |= RTE_REMOTE_IRR;
	return ret;
}

static int request(struct ioapic *io, unsigned pin, bool level, bool status)
{
	uint32_t bit = BIT(pin);
	uint32_t before = io->irr;

	if (!level) {
		io->irr &= ~bit;
		return 1;
	}
	/* Only an edge pin is tracked by EOI; a level pin has its Remote IRR (8be8f932). */
	if (pin == IOAPIC_RTC_PIN && status && io->rtc.pending > 0)
		return 0;
	io->irr |= bit;
	if (!(io->rte[pin] & RTE_LEVEL)) {
		io->irr_delivered &= ~bit;
		if (before == io->irr)
			return 0;
	}
	return service(io, pin, status);
}

void ioapic_init(struct ioapic *io, uint8_t version, bool ext_dest,
		 const struct ioapic_sink *sink, void *opaque)
{
	memset(io, 0, sizeof(*io));
	io->version = version == 0x20 ? 0x20 : 0x11;
	io->ext_dest = ext_dest;
	io->sink = sink;
	io->opaque = opaque;
	ioapic_reset(io);
}

void ioapic_reset(struct ioapic *io)
{
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		io->rte[pin] |= RTE_MASKED;
	io->base = IOAPIC_DEFAULT_BASE;
	io->ioregsel = 0;
	io->irr = 0;
	io->irr_delivered = 0;
	io->id = 0;
	memset(io->eois, 0, sizeof(io->eois));
	rtc_forget(io);
}

void ioapic_want_acks(struct ioapic *io, uint32_t pins)
{
	io->ack_pins = pins & (BIT(IOAPIC_PINS) - 1);
}

int ioapic_set_line(struct ioapic *io, unsigned pin, unsigned source, bool level, bool status)
{
	if (pin >= IOAPIC_PINS || source >= 64)
		return -1;
	if (level)
		io->lines[pin] |= BIT_ULL(source);
	else
		io->lines[pin] &= ~BIT_ULL(source);
	return request(io, pin, io->lines[pin], status);
}

void ioapic_clear_source(struct ioapic *io, unsigned source)
{
	if (source >= 64)
		return;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		io->lines[pin] &= ~BIT_ULL(source);
}

static void write_entry(struct ioapic *io, unsigned pin, bool high, uint32_t value)
{
	uint64_t old = io->rte[pin];
	uint64_t rte = high ? (old & UINT32_MAX) | (uint64_t)value << 32
			    : (old & ~(uint64_t)UINT32_MAX) | value;

	rte = (rte & ~RTE_READ_ONLY) | (old & RTE_READ_ONLY);
	/*
	 * Linux and others turn an entry to edge and back to clear Remote IRR on
	 * I/O APICs without an EOI register.
	 */
	if (!(rte & RTE_LEVEL))
		rte &= ~RTE_REMOTE_IRR;
	io->rte[pin] = rte;

	if ((old ^ rte) & RTE_MASKED && io->sink->mask_changed)
		io->sink->mask_changed(io->opaque, pin, rte & RTE_MASKED);
	if (rte & RTE_LEVEL && io->irr & BIT(pin) && !(rte & (RTE_MASKED | RTE_REMOTE_IRR))) {
		/*
		 * The request may be out of date: a one-shot handler serves the device
		 * after the EOI and before it unmasks. Ask the source if that can be
		 * done; it raises the line anew if it must.
		 */
		if (io->sink->resample && io->sink->resample(io->opaque, pin))
			io->irr &= ~BIT(pin);
		else
			service(io, pin, false);
	}
	if (io->sink->route_changed)
		io->sink->route_changed(io->opaque, pin, old, rte);
}

static void write_register(struct ioapic *io, uint32_t value)
{
	unsigned pin = (io->ioregsel - INDEX_RTE) >> 1;

	if (io->ioregsel == INDEX_ID)
		io->id = value >> 24 & 0xf;
	/* Any index can be selected; only those of a pin may reach the table (CVE-2013-1798). */
	else if (io->ioregsel >= INDEX_RTE && pin < IOAPIC_PINS)
		write_entry(io, pin, io->ioregsel & 1, value);
}

static uint32_t read_register(const struct ioapic *io)
{
	unsigned pin = (io->ioregsel - INDEX_RTE) >> 1;

	switch (io->ioregsel) {
	case INDEX_VERSION:
		return (IOAPIC_PINS - 1) << 16 | io->version;
	case INDEX_ID:
	case INDEX_ARB:
		return (io->id & 0xf) << 24;
	default:
		if (io->ioregsel < INDEX_RTE || pin >= IOAPIC_PINS)
			return UINT32_MAX;
		return (uint32_t)(io->rte[pin] >> (io->ioregsel & 1 ? 32 : 0));
	}
}

uint32_t ioapic_write(struct ioapic *io, uint32_t offset, unsigned len, uint64_t value)
{
	if (len != 1 && len != 2 && len != 4 && len != 8)
		return 0;
	value &= len_mask(MIN(len, 4));
	switch (offset) {
	case WINDOW_SELECT:
		io->ioregsel = (uint8_t)value;
		break;
	case WINDOW_DATA:
		write_register(io, (uint32_t)value);
		break;
	case WINDOW_EOI:
		if (io->version >= 0x20)
			return ioapic_eoi(io, UINT32_MAX, (uint8_t)value, true, false);
		break;
	}
	return 0;
}

uint64_t ioapic_read(const struct ioapic *io, uint32_t offset, unsigned len)
{
	uint32_t value = 0;

	if (len != 1 && len != 2 && len != 4 && len != 8)
		return 0;
	if (offset == WINDOW_SELECT)
		value = io->ioregsel;
	else if (offset == WINDOW_DATA)
		value = read_register(io);
	return value & len_mask(len);
}

static void end_level(struct ioapic *io, unsigned pin)
{
	io->rte[pin] &= ~RTE_REMOTE_IRR;
	if (io->rte[pin] & RTE_MASKED || !(io->irr & BIT(pin))) {
		io->eois[pin] = 0;
		return;
	}
	/*
	 * Hardware takes a while to deliver again, which lets a guest that EOIs
	 * without serving the device make progress. Do the same once it is clear
	 * that this is a storm.
	 */
	if (io->sink->delay && ++io->eois[pin] >= IOAPIC_STORM_EOIS) {
		io->eois[pin] = 0;
		io->sink->delay(io->opaque);
		return;
	}
	service(io, pin, false);
}

void ioapic_eoi_end(struct ioapic *io, uint32_t pins, bool level)
{
	/*
	 * An interrupt that was accepted as edge ends nothing, even if its entry
	 * is a level one by now (db2bdcbb).
	 */
	for (unsigned pin = 0; level && pin < IOAPIC_PINS; pin++)
		if (pins & BIT(pin))
			end_level(io, pin);
}

uint32_t ioapic_eoi(struct ioapic *io, unsigned cpu, uint8_t vector, bool level, bool suppressed)
{
	uint32_t pins = 0;

	rtc_eoi(io, cpu, vector);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		if ((uint8_t)io->rte[pin] == vector)
			pins |= BIT(pin);
	/* All or none wait for the acks: pins are served in order, as KVM does it. */
	if (pins & io->ack_pins)
		return pins;
	ioapic_eoi_end(io, pins, level && !suppressed);
	return 0;
}

void ioapic_inject_delayed(struct ioapic *io)
{
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		if (io->irr & BIT(pin) && (io->rte[pin] & (RTE_LEVEL | RTE_REMOTE_IRR)) == RTE_LEVEL)
			service(io, pin, false);
}

void ioapic_save(const struct ioapic *io, struct kvm_ioapic_state *out)
{
	out->pad = io->pad;
	out->base_address = io->base;
	out->ioregsel = io->ioregsel;
	out->id = io->id;
	out->irr = io->irr & ~io->irr_delivered;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		out->redirtbl[pin].bits = io->rte[pin];
}

void ioapic_load(struct ioapic *io, const struct kvm_ioapic_state *in)
{
	io->base = in->base_address;
	io->ioregsel = in->ioregsel;
	io->id = in->id;
	io->pad = in->pad;
	io->irr = 0;
	io->irr_delivered = 0;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t old = io->rte[pin];

		io->rte[pin] = in->redirtbl[pin].bits;
		if (io->sink->route_changed)
			io->sink->route_changed(io->opaque, pin, old, io->rte[pin]);
	}
	rtc_forget(io);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		if (in->irr & BIT(pin))
			request(io, pin, true, true);
	rtc_restore(io);
}
