/* SPDX-License-Identifier: MIT
 * A vCPU: the engine's processor, its local APIC and descriptor, and what the
 * run loop needs. Owned by the thread that holds its lock; others reach it only
 * through the functions marked "any thread".
 */
#ifndef BELFRY_SOFTKVM_VCPU_H
#define BELFRY_SOFTKVM_VCPU_H

#include "softkvm/dirty_ring.h"
#include "softkvm/msr.h"
#include "softkvm/posted.h"
#include "softkvm/vm.h"
#include <signal.h>

/* Work to do before the next entry, set by anybody. */
#define REQ_SCAN_EOI	BIT(0) /* vmchips_scan_eois() */
#define REQ_EVENT	BIT(1) /* look at the APIC and the PIC */
#define REQ_NMI		BIT(2) /* NMIs were queued in the engine */
#define REQ_UNHALT	BIT(3) /* the PV kick */
#define REQ_CLOCK	BIT(4) /* write the guest's clock page */
#define REQ_STEAL	BIT(5)
#define REQ_TIMER	BIT(6) /* the APIC timer's deadline passed */
#define REQ_CPU		BIT(7) /* an INIT or SIPI was latched */
#define REQ_EOI_EXIT	BIT(8) /* an EOI goes to user space (split irqchip) */

struct vcpu_pv {
	uint64_t system_time_msr, steal_msr, eoi_msr, poll_msr;
	bool clock_paused;
	uint64_t steal_last; /* run delay when last accounted */
	uint64_t steal_read; /* when that was */
	uint64_t steal_entry; /* the last entry */
	bool eoi_offered;    /* the flag in guest memory is set */
};

struct vcpu_msrs {
	uint64_t mcg_cap, mcg_status, mcg_ctl, mci[MCG_MAX_BANKS * 4];
	uint64_t stored[MSR_STORED_MAX]; /* msr.c: those that only keep their value */
};

/*
 * Of the exception that is queued in the engine: KVM calls it pending until KVM_RUN begins to deliver
 * it, and then it still has a payload (CR2, what #DB does to DR6) that the guest's registers lack.
 */
struct vcpu_exception {
	bool pending, has_payload;
	uint64_t payload;
};

/* What must be finished at the next KVM_RUN. */
enum vcpu_pending { PENDING_NONE, PENDING_IO, PENDING_MMIO, PENDING_HYPERCALL, PENDING_MSR };

struct vcpu_signals {
	bool mask_set;		/* KVM_SET_SIGNAL_MASK */
	uint64_t mask;		/* the kernel's sigset */
	uint64_t old;		/* the thread's, during KVM_RUN */
	uint64_t held;		/* unblocked by our mask only: must be pending again after */
	_Atomic bool arrived;	/* during this KVM_RUN */
	uint32_t runs;
	uint32_t nr_kept;
	struct {
		int sig;
		siginfo_t info;
	} kept[8];
	struct soft_vcpu *outer;
};

/* Where its thread waits, or is about to: how it must be woken. */
enum vcpu_blocked { VCPU_AWAKE, VCPU_SLEEPS /* on `wake` */, VCPU_LEADS /* the VM's listener */ };

struct soft_vcpu {
	struct soft_file file;
	struct soft_vm *vm;		/* (o) holds a reference */
	uint32_t id, index;		/* (o) */
	pthread_mutex_t lock;		/* KVM_RUN and every other call */

	struct engine_vcpu *cpu;	/* (o) */
	struct engine_exit exit;
	struct kvm_run *run;		/* (o) the shared pages: read what is in them once */
	enum vcpu_pending pending;
	struct vcpu_exception exception;

	bool has_lapic;			/* (o) */
	struct lapic lapic;		/* without has_lapic only its base address counts */
	struct posted_desc pi;
	struct soft_timer timer;	/* (o) linked */
	bool map_dirty;			/* the destination map must be rebuilt */
	bool timer_dirty;		/* the APIC timer has another deadline */
	bool posting;			/* (o) deliver by descriptor */

	_Atomic uint32_t requests;
	_Atomic uint32_t wake;		/* futex: changes with every wake-up */
	_Atomic uintptr_t runner;	/* the thread in KVM_RUN, 0: none */
	_Atomic int blocked;		/* enum vcpu_blocked */

	uint32_t mp_state;
	int user_vector;		/* KVM_INTERRUPT without local APIC, -1: none */
	int extint_vector;		/* the same with a split irqchip */
	uint64_t cr8;			/* without local APIC */
	int stale_eoi;			/* scan again when this vector's EOI came; -1: none */
	bool has_run;
	bool shutdown;			/* a machine check that nobody takes */
	bool unhalted;			/* a PV kick came while it was not halted */
	uint64_t halt_poll_ns;		/* how long the next halt polls */

	struct kvm_cpuid_entry2 *cpuid;
	unsigned nr_cpuid;
	uint8_t phys_bits;		/* of an address, as its CPUID says */
	uint32_t pv_features;		/* of leaf 40000001h, if it enforces */
	bool pv_enforce;

	struct vcpu_msrs msr;
	uint32_t msr_exit_reason;	/* KVM_MSR_EXIT_REASON_* of an exit to come */
	struct vcpu_pv pv;
	uint32_t tsc_khz;	/* as it was set; vcpu_tsc_rate() is what it is */
	uint64_t tsc_adjust;
	uint32_t guest_debug;

	struct dirty_ring ring;
	struct vcpu_signals signals;

	struct soft_stats stats;
};

static inline struct soft_vcpu *file_vcpu(struct soft_file *f)
{
	return container_of(f, struct soft_vcpu, file);
}

/* AP_RESET_HOLD is a kind of halt ("KVM_SET_MP_STATE"). */
static inline bool vcpu_is_halted(const struct soft_vcpu *v)
{
	return v->mp_state == KVM_MP_STATE_HALTED || v->mp_state == KVM_MP_STATE_AP_RESET_HOLD;
}

/* The vCPU's thread, or under its lock. As in KVM, who runs has had whatever PV kick came before. */
static inline void vcpu_set_activity(struct soft_vcpu *v, uint32_t mp_state)
{
	v->mp_state = mp_state;
	if (mp_state != KVM_MP_STATE_RUNNABLE)
		return;
	v->unhalted = false;
	atomic_fetch_and(&v->requests, ~(uint32_t)REQ_UNHALT);
}

/* ---- any thread ------------------------------------------------------- */

/* Something about interrupts changed: look before going on in the guest; wakes a blocked one. */
void vcpu_attention(struct soft_vcpu *v);
/* Leave the guest and do REQ_* first. */
void vcpu_request(struct soft_vcpu *v, uint32_t request);
/* An NMI. Any thread. */
void vcpu_queue_nmi(struct soft_vcpu *v);
/* Set the vector in its descriptor and send the notification, if one is due (v->posting). */
void vcpu_post(struct soft_vcpu *v, uint8_t vector, bool urgent);
/* Only wake its thread. Also in a signal's handler on that thread. */
void vcpu_wake(struct soft_vcpu *v);

/* ---- the vCPU's thread, or under its lock ------------------------------ */

/* api_vcpu.c */
extern const struct soft_file_ops vcpu_file_ops;
/* vcpu.c */
void vcpu_release(struct soft_file *f);
int vcpu_mapped(struct soft_file *f, void *p, size_t size, uint64_t offset);
/* vcpu_run.c: latched INIT and SIPI move the activity state. */
void vcpu_accept_apic_events(struct soft_vcpu *v);
/* KVM_RUN */
int vcpu_run_loop(struct soft_vcpu *v);
/* Leave the guest once user space's interrupt can be taken, if it asked for that (and LINT0 does
 * not mask it). */
void vcpu_update_window(struct soft_vcpu *v);
/*
 * How long to poll at the next halt, at most max, after one that polled for window and
 * waited in all, ns. Polling takes the host CPU from others, whom we may be waiting
 * for, and pays only where waits are short: as the kernel's, it grows with such
 * and ends with the first long one ("The KVM halt polling system").
 */
uint64_t halt_poll_next(uint64_t window, uint64_t waited, uint64_t max);

/* vcpu_irq.c: local APIC and what the engine asks about interrupts. */
extern const struct lapic_sink vcpu_lapic_sink, vcpu_lapic_sink_no_apicv;
/* The VM's timer found the APIC timer's deadline passed. */
void vcpu_timer_fired(struct soft_timer *t);
/* Bring IRR up to date: an expired timer, posted vectors. */
void vcpu_sync_irr(struct soft_vcpu *v);
/* After any call of the lapic model: EOIs, timer, map. */
void vcpu_lapic_done(struct soft_vcpu *v);
/* Would an interrupt be taken now if the guest allowed it? */
bool vcpu_has_interrupt(struct soft_vcpu *v);
int vcpu_take_interrupt(struct soft_vcpu *v);
/* Program the VM's timer with the APIC's next deadline. */
void vcpu_update_timer(struct soft_vcpu *v);
/* The deadline in CLOCK_MONOTONIC ns, TIMER_NEVER: none. */
uint64_t vcpu_timer_deadline(struct soft_vcpu *v);

/* vcpu_ops.c */
extern const struct engine_ops vcpu_engine_ops;

/* vcpu.c */
void vcpu_free(struct soft_vcpu *v);

/* vcpu_tsc.c. As a new vCPU has it; KVM_SET_MSRS; KVM_VCPU_TSC_OFFSET; the guest's writes. */
void vcpu_tsc_init(struct soft_vcpu *v);
/* What the guest's is at this time of the host's; its rate in kHz. */
uint64_t vcpu_tsc_at(const struct soft_vcpu *v, uint64_t host);
uint32_t vcpu_tsc_rate(const struct soft_vcpu *v);
/* KVM_SET_TSC_KHZ, 0: the host's rate. -EINVAL: too much. */
int vcpu_tsc_set_khz(struct soft_vcpu *v, uint32_t khz) __must_check;
bool tsc_khz_valid(uint32_t khz);
void vcpu_tsc_load(struct soft_vcpu *v, uint64_t value);
void vcpu_tsc_set_offset(struct soft_vcpu *v, uint64_t offset);
void vcpu_tsc_write(struct soft_vcpu *v, uint64_t value);
void vcpu_tsc_write_adjust(struct soft_vcpu *v, uint64_t value);

/* msr.c. The guest gets #GP for all but the first. host: user space asks, who may do more. */
enum msr_result { MSR_OK, MSR_INVALID, MSR_UNKNOWN };

int vcpu_msr_get(struct soft_vcpu *v, uint32_t index, uint64_t *value, bool host);
int vcpu_msr_set(struct soft_vcpu *v, uint32_t index, uint64_t value, bool host);

/* cpuid.c */
void vcpu_cpuid(struct soft_vcpu *v, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
/* The entry as KVM_GET_CPUID2 shows it now. */
void vcpu_cpuid_entry(const struct soft_vcpu *v, const struct kvm_cpuid_entry2 *in,
		      struct kvm_cpuid_entry2 *out);
/* CR4 may have these; before there is a CPUID, all that there are. */
uint64_t vcpu_cr4_bits(struct soft_vcpu *v);
const struct kvm_cpuid_entry2 *vcpu_cpuid_find(const struct soft_vcpu *v, uint32_t leaf,
					       uint32_t subleaf);
bool vcpu_cpuid_has(const struct soft_vcpu *v, uint32_t leaf, uint32_t subleaf, unsigned reg,
		    unsigned bit);

/* pv.c */
int pv_msr_get(struct soft_vcpu *v, uint32_t index, uint64_t *value);
int pv_msr_set(struct soft_vcpu *v, uint32_t index, uint64_t value);
void pv_update_clock(struct soft_vcpu *v);
void pv_account_steal(struct soft_vcpu *v);
/* Before entry: offer the flag if the interrupt in service allows it. After: was it used? */
void pv_eoi_offer(struct soft_vcpu *v);
void pv_eoi_collect(struct soft_vcpu *v);
int pv_hypercall(struct soft_vcpu *v, uint64_t nr, const uint64_t args[4], uint64_t *result);

/* signal.c: "interrupted by a signal", as KVM_RUN has it. */
void signals_enter(struct soft_vcpu *v);
void signals_leave(struct soft_vcpu *v);
/* Has one come since signals_enter()? */
bool signals_arrived(struct soft_vcpu *v);
/* Install the fault handlers. Any thread, any number of times. */
void signals_take_faults(void);

/* cancel.c: around KVM_RUN, after signals_enter(). */
void cancel_enter(struct soft_vcpu *v);
void cancel_leave(struct soft_vcpu *v);

#endif
