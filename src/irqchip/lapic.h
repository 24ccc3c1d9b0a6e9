/* SPDX-License-Identifier: MIT
 * The local APIC: xAPIC page, x2APIC MSRs, APIC base, timer.
 * Source: Intel SDM Vol. 3A, "Advanced Programmable Interrupt Controller
 * (APIC)"; where KVM's differs from the manual, KVM's is followed (KVM keeps no
 * error status, has no arbitration, delivers IPIs at once, matches only the two
 * architectural DFR models).
 *
 * Who may call: everything is for the thread that owns the vCPU (or holds the
 * vCPU's lock), except what is marked "any thread": those read registers
 * relaxed and set IRR and TMR bits and latched events atomically, as in
 * docs/IRQCHIP.md, "The one lock-free path".
 *
 * Time: now is CLOCK_MONOTONIC in ns, or any clock that the caller uses for
 * all calls; TSC values are the guest's.
 */
#ifndef BELFRY_IRQCHIP_LAPIC_H
#define BELFRY_IRQCHIP_LAPIC_H

#include "irqchip/message.h"
#include <linux/kvm.h>

struct ioapic;
struct ioapic_rtc;

/* Register offsets in the APIC page, SDM "Local APIC Register Address Map". */
enum lapic_reg {
	LAPIC_ID = 0x20, LAPIC_VERSION = 0x30, LAPIC_TPR = 0x80, LAPIC_APR = 0x90,
	LAPIC_PPR = 0xa0, LAPIC_EOI = 0xb0, LAPIC_LDR = 0xd0, LAPIC_DFR = 0xe0,
	LAPIC_SVR = 0xf0, LAPIC_ISR = 0x100, LAPIC_TMR = 0x180, LAPIC_IRR = 0x200,
	LAPIC_ESR = 0x280, LAPIC_LVT_CMCI = 0x2f0, LAPIC_ICR = 0x300, LAPIC_ICR2 = 0x310,
	LAPIC_LVT_TIMER = 0x320, LAPIC_LVT_THERMAL = 0x330, LAPIC_LVT_PERF = 0x340,
	LAPIC_LVT_LINT0 = 0x350, LAPIC_LVT_LINT1 = 0x360, LAPIC_LVT_ERROR = 0x370,
	LAPIC_TMICT = 0x380, LAPIC_TMCCT = 0x390, LAPIC_TDCR = 0x3e0, LAPIC_SELF_IPI = 0x3f0,
};

#define LAPIC_LVT_MASKED	(1u << 16)
#define LAPIC_SVR_ENABLE	(1u << 8)
#define LAPIC_SVR_NO_BROADCAST	(1u << 12)	/* EOI broadcast suppression */

#define APIC_BASE_DEFAULT	0xfee00000ull
#define APIC_BASE_BSP		(1ull << 8)
#define APIC_BASE_X2APIC	(1ull << 10)
#define APIC_BASE_ENABLE	(1ull << 11)

/* What the caller gets told. Called inside. Only deliver_ipi and attention are required. */
struct lapic_sink {
	/* An IPI left through ICR or SELF IPI: find the targets (lapic_map_deliver). */
	void (*deliver_ipi)(void *opaque, const struct irq_message *msg);
	/*
	 * Any thread. IRR or a latched event changed, or an EOI or TPR write may have
	 * made a pending vector deliverable: look again before (re-)entering the guest.
	 */
	void (*attention)(void *opaque);
	/* Any thread. Post the vector (set PIR and notify) instead of setting IRR. NULL: IRR. */
	void (*post)(void *opaque, uint8_t vector);
	/* Any thread. An NMI, or SMI, arrived; smi returns false if it was refused. NULL: dropped. */
	void (*nmi)(void *opaque);
	bool (*smi)(void *opaque);
	/* Any thread. KVM's PV kick arrived as a remote-read message. NULL: dropped. */
	void (*unhalt)(void *opaque);
	/* ID, LDR, DFR, mode or software enable changed: rebuild the map. NULL: none is kept. */
	void (*map_changed)(void *opaque);
	/* lapic_next_deadline() has another answer now. NULL: the caller polls it. */
	void (*timer_changed)(void *opaque);
	/* LINT0 entered (or left) NMI mode: the PIT drives a watchdog (KVM). May be NULL. */
	void (*lint0_nmi)(void *opaque, bool on);
};

struct lapic_config {
	uint32_t id;			/* x2APIC ID (KVM: vcpu_id); xAPIC ID is its low byte */
	bool bsp;
	bool cmci;			/* 7 LVT entries (version 60014h), else 6 (50014h) */
	bool lint0_enabled;		/* BSP resets with LINT0 in ExtINT mode (KVM quirk) */
	bool mmio_hole;			/* disabled or x2APIC page reads all ones (KVM quirk) */
	bool x2apic_ids_32;		/* KVM_X2APIC_API_USE_32BIT_IDS */
	bool no_broadcast_quirk;	/* KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK */
	bool mask_perf_on_delivery;	/* Intel: LVT PC masks itself when it delivers */
	uint64_t bus_cycle_ns;		/* timer clock period; 0: 1 ns */
	uint64_t min_period_ns;		/* shortest period of the periodic timer; 0: 200 µs */
	const uint64_t *pir;		/* vectors that wait to be merged into IRR, 4 words; or NULL */
};

/* Latched INIT and SIPI. */
enum { LAPIC_EVENT_INIT = 1, LAPIC_EVENT_SIPI = 2 };

enum lapic_timer_mode { LAPIC_ONESHOT = 0, LAPIC_PERIODIC = 1, LAPIC_TSC_DEADLINE = 2 };

struct lapic {
	/* The page as in kvm_lapic_state: 1 KiB, registers every 16 bytes. */
	_Alignas(64) uint8_t regs[KVM_APIC_REG_SIZE];
	struct lapic_config config;	/* (o) */
	uint64_t base_msr;		/* IA32_APIC_BASE */
	uint32_t timer_mode_mask;	/* bits of LVT timer's mode field that CPUID grants */
	bool x2apic_cpuid;
	bool directed_eoi;		/* version register offers EOI broadcast suppression */
	uint8_t maxphyaddr;
	uint32_t events;		/* LAPIC_EVENT_*, atomic */
	uint8_t sipi_vector;
	/*
	 * KVM's view of ISR, which a load refreshes only after PPR has been computed
	 * from it: saved states show that, so it is kept the same here.
	 */
	int isr_count;			/* bits set */
	int highest_isr;		/* vector last accepted if still in service, else -1 */
	bool lint0_nmi;
	uint64_t handled[4];		/* vectors whose EOI the I/O APIC wants */
	uint64_t eoi_vectors[4];	/* EOIs to broadcast, until lapic_take_eoi() */
	uint64_t eoi_levels[4];
	/* Timer */
	uint32_t timer_mode;		/* LVT timer's mode field, in place */
	uint32_t divide;
	uint64_t period;		/* ns, 0 if stopped */
	uint64_t target;		/* ns: next expiry (one-shot, periodic) */
	uint64_t tsc_deadline;
	bool timer_armed;
	bool timer_pending;		/* expired, not yet put into IRR */
	const struct lapic_sink *sink;	/* (o) */
	void *opaque;
};

/*
 * RESET state: xAPIC mode, software disabled. CPUID grants neither x2APIC nor
 * the TSC deadline until lapic_set_cpuid(). sink outlives the APIC.
 */
void lapic_init(struct lapic *l, const struct lapic_config *config,
		const struct lapic_sink *sink, void *opaque);

/* RESET, or INIT (init_event: the ID, APIC base and its mode stay). */
void lapic_reset(struct lapic *l, bool init_event);

/*
 * What the guest's CPUID grants. directed_eoi: offer EOI broadcast suppression
 * (KVM: only with x2APIC and no in-kernel I/O APIC).
 */
void lapic_set_cpuid(struct lapic *l, bool x2apic, bool tsc_deadline, bool directed_eoi,
		     uint8_t maxphyaddr);

/* KVM_X86_SETUP_MCE after creation: 6 or 7 LVT entries; a new one starts masked. */
void lapic_set_cmci(struct lapic *l, bool cmci);

/* --- Registers --- */

/*
 * xAPIC page access, offset 0..fffh. Bad lengths, alignments and registers are
 * ignored; reads of them give 0. -EOPNOTSUPP if there is no page there now
 * (disabled or x2APIC mode) and the mmio_hole quirk is off.
 */
int lapic_mmio_read(struct lapic *l, uint32_t offset, unsigned len, uint64_t now,
		    uint32_t *value) __must_check;
int lapic_mmio_write(struct lapic *l, uint32_t offset, unsigned len, uint32_t value,
		     uint64_t now) __must_check;

/* MSRs 800h..8ffh. -EINVAL where hardware raises #GP(0). */
int lapic_msr_read(struct lapic *l, uint32_t msr, uint64_t now, uint64_t *value) __must_check;
int lapic_msr_write(struct lapic *l, uint32_t msr, uint64_t value, uint64_t now) __must_check;

/* KVM_CAP_X2APIC_API switched on later than at the start. Any thread; build the map anew after it. */
void lapic_set_x2apic_api(struct lapic *l, bool ids_32, bool no_broadcast_quirk);
/* KVM_CAP_DISABLE_QUIRKS later than at the start: for the next reset, the next access. Any thread. */
void lapic_set_quirks(struct lapic *l, bool lint0_enabled, bool mmio_hole);

/*
 * IA32_APIC_BASE. host: user space sets it (KVM_SET_SREGS, KVM_SET_MSRS) and may
 * make any transition; a guest may not go x2APIC→xAPIC or disabled→x2APIC.
 * -EINVAL for those, reserved bits and "x2APIC without enable".
 */
int lapic_set_base(struct lapic *l, uint64_t value, bool host) __must_check;

/* CR8 is TPR's class. */
void lapic_set_cr8(struct lapic *l, uint64_t cr8);
uint64_t lapic_cr8(const struct lapic *l);

uint32_t lapic_reg(const struct lapic *l, uint32_t offset);	/* any thread, offset < 400h */
bool lapic_hw_enabled(const struct lapic *l);			/* any thread */
bool lapic_sw_enabled(const struct lapic *l);			/* any thread */
bool lapic_x2apic_mode(const struct lapic *l);			/* any thread */

/* --- Interrupts --- */

/*
 * Any thread. A message has been found to match this APIC: take it. Returns 1
 * if it was taken, 0 if not (disabled, refused, INIT de-assert, ExtINT). For
 * fixed and lowest priority: TMR, then post or IRR, then attention.
 */
int lapic_accept(struct lapic *l, const struct irq_message *msg);

/* Deliver a local source (LAPIC_LVT_*): 1 if taken, 0 if masked, disabled or refused. */
int lapic_deliver_local(struct lapic *l, uint32_t lvt);

/* Any thread. Does this CPU take the PIC's interrupts: LINT0 in ExtINT mode, or disabled? */
bool lapic_accepts_extint(const struct lapic *l);

/*
 * Move a posted-interrupt request (4 words, each taken with an atomic exchange)
 * into IRR. Returns true if any bit was taken.
 */
bool lapic_merge_pir(struct lapic *l, uint64_t pir[4]);

/* The highest vector in IRR above PPR, or -1. Updates PPR. */
int lapic_pending_vector(struct lapic *l);
/* The highest vectors whatever the priorities, or -1. */
int lapic_highest_irr(const struct lapic *l);
int lapic_highest_isr(const struct lapic *l);
/* Accept: vector goes from IRR to ISR as the CPU takes it. */
void lapic_accept_vector(struct lapic *l, uint8_t vector);

/* EOI as by a register write (virtual EOI, PV EOI). Returns the vector ended or -1. */
int lapic_eoi(struct lapic *l);

/*
 * EOIs to broadcast to the I/O APIC, one a call: the vector, or -1. Drain this
 * after every register write. *level: the vector's TMR bit. Only vectors in the
 * set of lapic_set_handled() are queued.
 */
int lapic_take_eoi(struct lapic *l, bool *level);
/* The vectors whose EOI the I/O APIC wants (see ioapic_handled, all ones if unsure). */
void lapic_set_handled(struct lapic *l, const uint64_t handled[4]);

/* True if vector is in IRR or ISR: its EOI is still to come. */
bool lapic_owes_eoi(const struct lapic *l, uint8_t vector);

/*
 * PV EOI (KVM_FEATURE_PV_EOI): may the guest end the interrupt in service by
 * clearing a flag in its memory? True if it is the only one and nobody wants its
 * EOI. If the caller then finds the flag cleared by the guest, it calls lapic_eoi().
 */
bool lapic_pv_eoi_allowed(const struct lapic *l);

/*
 * Take one latched event: LAPIC_EVENT_INIT first, then LAPIC_EVENT_SIPI with
 * its vector, or 0. The caller resets the CPU, moves the MP state and drops a
 * SIPI that finds it not waiting for one.
 */
unsigned lapic_take_event(struct lapic *l, uint8_t *sipi_vector);

/* --- Destinations (any thread) --- */

/*
 * Does the message reach target? src is the sender's APIC for an IPI, NULL for
 * an I/O APIC or MSI. Only a present (hardware enabled) target may be asked.
 */
bool lapic_match(const struct lapic *target, const struct lapic *src,
		 const struct irq_message *msg);

/*
 * Which vectors' EOI does the I/O APIC want from this CPU (cpu: its index in
 * struct ioapic_rtc)? Those of level pins, of pins with ack listeners and of the
 * RTC pin whose entry matches this CPU or whose vector it still has pending.
 * Redo it after sink.route_changed, sink.map_changed and ioapic_want_acks().
 * Returns the highest vector that is only in the set because it is pending from
 * an older routing, or -1: redo it also when that one's EOI has come.
 */
int lapic_scan_ioapic(const struct lapic *l, const struct ioapic *io, unsigned cpu,
		       uint64_t handled[4]);

/* --- Timer --- */

enum lapic_deadline { LAPIC_NO_DEADLINE, LAPIC_DEADLINE_NS, LAPIC_DEADLINE_TSC };

/*
 * When to call lapic_timer_expired(): *at in ns (as now) or as a guest TSC
 * value. A deadline that has passed already means: now.
 */
enum lapic_deadline lapic_next_deadline(const struct lapic *l, uint64_t *at);

/*
 * The deadline passed. Latches one interrupt (more expiries before it is
 * injected coalesce) and, in periodic mode, moves the target on: to the next
 * period, or to now if that is over too (no catch-up storm after a pause,
 * CVE-2025-71104). Returns true if an interrupt is latched.
 */
bool lapic_timer_expired(struct lapic *l, uint64_t now);

/* Put a latched timer interrupt into IRR: call before each entry. True if there was one. */
bool lapic_inject_timer(struct lapic *l);
/* True if an expired timer waits and could be delivered (a halted CPU must wake). */
bool lapic_timer_waiting(const struct lapic *l);

/* IA32_TSC_DEADLINE. Reads 0 and ignores writes outside TSC-deadline mode. */
uint64_t lapic_tsc_deadline(const struct lapic *l);
void lapic_set_tsc_deadline(struct lapic *l, uint64_t value);

/* --- State --- */

/* KVM_GET_LAPIC: the page, with the current count as of now. */
void lapic_save(const struct lapic *l, uint64_t now, struct kvm_lapic_state *out);
/*
 * KVM_SET_LAPIC: the timer goes on from the current-count register. -EINVAL if,
 * with 32-bit IDs in x2APIC mode, the ID is another one; then only the SVR has
 * been taken (as in KVM).
 */
int lapic_load(struct lapic *l, const struct kvm_lapic_state *in, uint64_t now) __must_check;

#endif
