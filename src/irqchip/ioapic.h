/* SPDX-License-Identifier: MIT
 * The I/O APIC: 24 pins, index/data window, level-triggered EOI handshake.
 * Source: 82093AA datasheet; version 20h with the EOI register: ICH9 datasheet,
 * "Advanced Programmable Interrupt Controller (APIC)". Polarity is stored and
 * not looked at, as in KVM: a wire of this machine is asserted or not.
 */
#ifndef BELFRY_IRQCHIP_IOAPIC_H
#define BELFRY_IRQCHIP_IOAPIC_H

#include "irqchip/message.h"
#include <linux/kvm.h>

#define IOAPIC_PINS		KVM_IOAPIC_NUM_PINS
#define IOAPIC_DEFAULT_BASE	0xfec00000u
#define IOAPIC_WINDOW_LENGTH	0x100u	/* bytes decoded from the base address */
#define IOAPIC_RTC_PIN		8
#define IOAPIC_MAX_CPUS		1024	/* the RTC tracking's reach: KVM_MAX_VCPUS here */

/* EOIs in a row that find the pin still high before its delivery is put off. */
#define IOAPIC_STORM_EOIS	10000

/*
 * Who took the RTC interrupt and has not EOIed it. KVM tracks that one edge
 * interrupt so that KVM_IRQ_LINE_STATUS can report a lost tick.
 */
struct ioapic_rtc {
	int pending;				/* CPUs that owe an EOI */
	int untracked;				/* of the last delivery: past the map */
	uint64_t cpus[IOAPIC_MAX_CPUS / 64];	/* index: APIC ID as the caller counts CPUs */
	uint8_t vector[IOAPIC_MAX_CPUS];
};

/* Called inside, under the caller's lock; none may call the chip again. */
struct ioapic_sink {
	/*
	 * Deliver to local APICs; returns the tri-state. rtc is NULL or the map in
	 * which to note (ioapic_rtc_note) each CPU whose local APIC accepted.
	 */
	int (*deliver)(void *opaque, const struct irq_message *msg, struct ioapic_rtc *rtc);
	/*
	 * An entry was written (or loaded): routes and EOI maps made from it are
	 * stale. old and new are the entry before and after. May be NULL.
	 */
	void (*route_changed)(void *opaque, unsigned pin, uint64_t old, uint64_t new);
	/* A write changed a pin's mask. May be NULL. */
	void (*mask_changed)(void *opaque, unsigned pin, bool masked);
	/*
	 * A level pin with a pending request was unmasked. If the source can be
	 * asked whether it still asserts (irqfd resampler), ask it, without waiting,
	 * and return true: the stale request is dropped. NULL: nobody can.
	 */
	bool (*resample)(void *opaque, unsigned pin);
	/* Storm: call ioapic_inject_delayed() in about 10 ms. NULL: deliver at once always. */
	void (*delay)(void *opaque);
	/*
	 * After a load: note in rtc each CPU that msg's destination matches and
	 * that has msg's vector in IRR or ISR. NULL: none.
	 */
	void (*rtc_restore)(void *opaque, const struct irq_message *msg, struct ioapic_rtc *rtc);
};

struct ioapic {
	uint64_t base;			/* (i) */
	uint64_t rte[IOAPIC_PINS];	/* (i) */
	uint64_t lines[IOAPIC_PINS];	/* (i) who asserts the pin: a bit for each source */
	uint32_t irr;			/* (i) requests; an edge stays set after its delivery */
	uint32_t irr_delivered;		/* (i) edges among them that were delivered */
	uint16_t eois[IOAPIC_PINS];	/* (i) consecutive EOIs with the pin still high */
	uint32_t id;			/* (i) 4 bits, but any value can be loaded */
	uint32_t ioregsel;		/* (i) 8 bits, likewise */
	uint32_t pad;			/* (i) carried for user space */
	uint8_t version;		/* (o) 11h or 20h */
	bool ext_dest;			/* (o) RTE bits 55:49 are destination 14:8 */
	uint32_t ack_pins;		/* (x) pins whose acks somebody wants */
	struct ioapic_rtc rtc;		/* (i) */
	const struct ioapic_sink *sink;
	void *opaque;
};

/*
 * version: 11h (KVM's) or 20h (adds the EOI register at offset 40h); anything
 * else is taken as 11h. Power-on state: all pins masked. sink outlives the chip.
 */
void ioapic_init(struct ioapic *io, uint8_t version, bool ext_dest,
		 const struct ioapic_sink *sink, void *opaque);
/* As KVM: entries are masked, not cleared; lines stay as their sources hold them. */
void ioapic_reset(struct ioapic *io);

/* Pins whose acks somebody wants to hear of; starts empty. */
void ioapic_want_acks(struct ioapic *io, uint32_t pins);

/*
 * Source (0..63) drives pin (0..23). status: the caller reports the result to
 * user space (KVM_IRQ_LINE_STATUS), which switches RTC tracking on for pin 8.
 * Returns the tri-state; lowering returns 1; out of range is ignored (-1).
 */
int ioapic_set_line(struct ioapic *io, unsigned pin, unsigned source, bool level, bool status);
void ioapic_clear_source(struct ioapic *io, unsigned source);

/*
 * Window access at offset (0..ffh from the base), len 1, 2, 4 or 8 bytes; the
 * register is the low 32 bits. Other lengths and offsets are ignored and read 0.
 * Write returns pins that its EOI register acknowledged (version 20h only), as
 * ioapic_eoi() does: notify unlocked, then ioapic_eoi_end(…, true).
 */
uint32_t ioapic_write(struct ioapic *io, uint32_t offset, unsigned len, uint64_t value)
	__must_check;
uint64_t ioapic_read(const struct ioapic *io, uint32_t offset, unsigned len);

/*
 * A local APIC broadcast an EOI for vector. cpu is its index as in struct
 * ioapic_rtc (out of range: no RTC tracking). level: its TMR bit, that is, how
 * the interrupt was *accepted*: an edge EOI never ends a level request of a
 * reprogrammed entry. suppressed: it suppresses EOI broadcasts (SVR bit 12);
 * acks are still given, Remote IRR stays.
 * Returns 0 if all is done: none of the pins with that vector has an ack wanted.
 * Otherwise all those pins: notify the listeners without the lock, then call
 * ioapic_eoi_end() with the same pins and level && !suppressed.
 */
uint32_t ioapic_eoi(struct ioapic *io, unsigned cpu, uint8_t vector, bool level,
		    bool suppressed) __must_check;
void ioapic_eoi_end(struct ioapic *io, uint32_t pins, bool level);

/* The caller's timer after sink.delay: deliver what still asks. */
void ioapic_inject_delayed(struct ioapic *io);

/* For sink.deliver and sink.rtc_restore. False (and not noted) if cpu is out of range. */
bool ioapic_rtc_note(struct ioapic_rtc *rtc, unsigned cpu, uint8_t vector);

/*
 * A local APIC that the RTC pin's entry matches was loaded: does its state owe
 * an EOI for the entry's vector? (lapic_load_rtc() finds out and calls this.)
 */
void ioapic_rtc_loaded(struct ioapic *io, unsigned cpu, bool owes);

/*
 * Load: lines keep their sources; pending requests are delivered at once (so
 * load the local APICs first). Any value is taken, as in KVM; irr bits past the
 * last pin are dropped.
 */
void ioapic_save(const struct ioapic *io, struct kvm_ioapic_state *out);
void ioapic_load(struct ioapic *io, const struct kvm_ioapic_state *in);

#endif
