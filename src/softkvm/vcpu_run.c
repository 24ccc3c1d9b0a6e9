/* SPDX-License-Identifier: MIT
 * KVM_RUN. The loop runs the guest until user space must see something; while
 * the guest has nothing to run it polls for a moment and then blocks.
 */
#include "softkvm/chips.h"
#include "softkvm/vcpu_state.h"
#include <linux/kvm_para.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What a step of the loop says; anything below 0 is KVM_RUN's result. */
enum { STEP_AGAIN = 1, STEP_EXIT = 0 };

static bool signalled(struct soft_vcpu *v)
{
	return signals_arrived(v);
}

static int interrupted(struct soft_vcpu *v)
{
	v->run->exit_reason = KVM_EXIT_INTR;
	vcpu_stat(v, signal_exits);
	return -EINTR;
}

static int exit_with(struct soft_vcpu *v, uint32_t reason)
{
	v->run->exit_reason = reason;
	return STEP_EXIT;
}

/* ---- INIT and SIPI ------------------------------------------------------------ */

/* SDM Vol. 3A, "Processor State After Reset": EDX has family, model and stepping. */
static void tell_signature(struct soft_vcpu *v)
{
	const struct kvm_cpuid_entry2 *e = vcpu_cpuid_find(v, 1, 0);
	struct engine_regs r;

	engine_get_regs(v->cpu, &r);
	r.gpr[2] = e ? e->eax : 0x600;
	engine_set_regs(v->cpu, &r);
}

void vcpu_accept_apic_events(struct soft_vcpu *v)
{
	uint8_t vector;
	unsigned event;

	if (!v->has_lapic)
		return;
	while ((event = lapic_take_event(&v->lapic, &vector))) {
		if (event == LAPIC_EVENT_INIT) {
			vcpu_sync_irr(v); /* what is posted is forgotten, too */
			lapic_reset(&v->lapic, true);
			vcpu_lapic_done(v);
			engine_vcpu_reset(v->cpu, true);
			v->exception = (struct vcpu_exception){ 0 };
			tell_signature(v);
			vcpu_set_activity(v, v->lapic.base_msr & APIC_BASE_BSP ? KVM_MP_STATE_RUNNABLE
									       : KVM_MP_STATE_INIT_RECEIVED);
		} else if (v->mp_state == KVM_MP_STATE_INIT_RECEIVED) {
			engine_vcpu_sipi(v->cpu, vector);
			vcpu_set_activity(v, KVM_MP_STATE_RUNNABLE);
		}
	}
}

/* ---- requests ------------------------------------------------------------------ */

/* No answer is in kvm_run's place for the vector: the engine is left before the next instruction. */
static int split_eoi_exit(struct soft_vcpu *v)
{
	bool level;
	int vector = lapic_take_eoi(&v->lapic, &level);

	if (vector < 0)
		return STEP_AGAIN;
	vcpu_lapic_done(v); /* asks again if there are more */
	v->run->eoi.vector = (uint8_t)vector;
	vcpu_stat(v, eoi_exits);
	return exit_with(v, KVM_EXIT_IOAPIC_EOI);
}

static int do_requests(struct soft_vcpu *v)
{
	/* The timer's is vcpu_sync_irr()'s. */
	uint32_t req = atomic_fetch_and(&v->requests, REQ_TIMER) & ~REQ_TIMER;
	bool waits = v->mp_state == KVM_MP_STATE_UNINITIALIZED;

	if (!req)
		return STEP_AGAIN;
	if (req & REQ_CPU)
		vcpu_accept_apic_events(v);
	if (req & REQ_SCAN_EOI && v->has_lapic) {
		/* Vectors that were posted count as pending there. */
		vcpu_sync_irr(v);
		vmchips_scan_eois(v);
	}
	if (req & REQ_NMI)
		engine_vcpu_kick(v->cpu, ENGINE_KICK_NMI);
	if (req & REQ_UNHALT)
		v->unhalted = true;
	if (req & (REQ_NMI | REQ_UNHALT) && vcpu_is_halted(v))
		vcpu_set_activity(v, KVM_MP_STATE_RUNNABLE);
	if (req & REQ_CLOCK)
		pv_update_clock(v);
	if (req & REQ_STEAL)
		pv_account_steal(v);
	if (req & REQ_EOI_EXIT && !waits)
		return split_eoi_exit(v);
	return STEP_AGAIN;
}

/* ---- blocking ------------------------------------------------------------------- */

/* Is there a reason to stop waiting, besides a signal? */
static bool wake_reason(struct soft_vcpu *v)
{
	if (atomic_load(&v->requests) & ~REQ_TIMER)
		return true;
	if (vcpu_is_halted(v) && engine_can_inject(v->cpu) && vcpu_has_interrupt(v)) {
		vcpu_set_activity(v, KVM_MP_STATE_RUNNABLE);
		return true;
	}
	return false;
}

static void futex_wait_until(_Atomic uint32_t *word, uint32_t seen, uint64_t deadline)
{
	struct timespec ts = {
		.tv_sec = (time_t)(deadline / NSEC_PER_SEC), .tv_nsec = (long)(deadline % NSEC_PER_SEC),
	};

	/* FUTEX_WAIT_BITSET takes an absolute CLOCK_MONOTONIC time. */
	(void)syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, seen,
		      deadline == TIMER_NEVER ? NULL : &ts, NULL, FUTEX_BITSET_MATCH_ANY);
}

uint64_t halt_poll_next(uint64_t window, uint64_t waited, uint64_t max)
{
	if (waited <= window)
		return MIN(window, max);
	if (waited > max)
		return 0;
	return MIN(MAX(2 * window, max / 4), max);
}

/* True if the wait, which began at `since`, ended while polling. */
static bool poll_for_work(struct soft_vcpu *v, uint64_t since)
{
	uint64_t until = since + v->halt_poll_ns;

	if (!v->halt_poll_ns || !(v->pv.poll_msr & 1))
		return false;
	vcpu_stat(v, halt_attempted_poll);
	do {
		uint32_t seen = atomic_load(&v->wake);

		if (wake_reason(v) || signalled(v)) {
			vcpu_stat(v, halt_successful_poll);
			return true;
		}
		while (atomic_load(&v->wake) == seen && clock_ns() < until)
			__builtin_ia32_pause();
	} while (clock_ns() < until);
	return false;
}

/*
 * The timer's deadline is waited for here, not by the waiter thread. Unless it is far and
 * the sleep is epoll's, which may be late by a thousandth (select(2), "NOTES").
 */
#define FAR_NS 50000000ull

static uint64_t take_deadline(struct soft_vcpu *v, bool lead)
{
	uint64_t deadline;

	if (!v->has_lapic || !vcpu_is_halted(v))
		return TIMER_NEVER;
	deadline = vcpu_timer_deadline(v);
	if (deadline == TIMER_NEVER || (lead && deadline > clock_ns() + FAR_NS))
		return TIMER_NEVER;
	atomic_store(&v->timer.deadline, TIMER_NEVER);
	return deadline;
}

/* Whether it leads (docs/SOFTKVM.md, "A halted vCPU listens"), and what it has heard. */
struct halt {
	bool may_lead, leads;
	unsigned heard;
};

static void listen_once(struct soft_vcpu *v, uint64_t deadline, struct halt *h)
{
	struct listen_events events;

	listener_wait(&v->vm->listener, deadline, &events);
	/* What it hears for itself need not wake it. */
	atomic_store(&v->blocked, VCPU_AWAKE);
	posted_unblock(&v->pi);
	h->heard = listener_serve(&v->vm->listener, &events);
	for (unsigned i = 0; i < h->heard; i++)
		vm_stat(v->vm, irqfd_halted);
}

static void sleep_once(struct soft_vcpu *v, uint32_t seen, struct halt *h)
{
	uint64_t deadline = take_deadline(v, h->leads);

	if (h->leads) {
		listen_once(v, deadline, h);
	} else {
		futex_wait_until(&v->wake, seen, deadline);
		posted_unblock(&v->pi);
	}
	if (deadline == TIMER_NEVER)
		return;
	if (clock_ns() >= deadline)
		atomic_fetch_or(&v->requests, REQ_TIMER);
	v->timer_dirty = true;
}

/* It has nothing to do, as far as it sees. True: look again, it waits elsewhere now. */
static bool choose_place(struct soft_vcpu *v, struct halt *h)
{
	if (h->may_lead) {
		h->may_lead = false;
		h->leads = listener_lead(&v->vm->listener);
		return h->leads;
	}
	if (!h->heard)
		return false;
	/* What it heard was for others: they had better listen themselves. */
	h->heard = 0;
	h->leads = false;
	listener_follow(&v->vm->listener);
	return true;
}

static int block(struct soft_vcpu *v)
{
	struct halt h = { .may_lead = vcpu_is_halted(v) };
	uint64_t since = clock_ns();
	bool slept = false;

	if (poll_for_work(v, since))
		return signalled(v) ? interrupted(v) : STEP_AGAIN;
	for (;;) {
		uint32_t seen;

		atomic_store(&v->blocked, h.leads ? VCPU_LEADS : VCPU_SLEEPS);
		/* Taken before the look, for signals too: what comes after it changes the word. */
		seen = atomic_load(&v->wake);
		if (signalled(v) || wake_reason(v))
			break;
		if (choose_place(v, &h))
			continue;
		/* An outstanding notification means there is something in PIR to look at. */
		if (!posted_block(&v->pi)) {
			vcpu_sync_irr(v); /* takes it, and the notification with it */
			continue;
		}
		sleep_once(v, seen, &h);
		slept = true;
	}
	atomic_store(&v->blocked, VCPU_AWAKE);
	if (h.leads)
		listener_follow(&v->vm->listener);
	if (v->has_lapic && v->timer_dirty)
		vcpu_update_timer(v);
	if (slept)
		vcpu_stat(v, halt_wakeup);
	v->halt_poll_ns = halt_poll_next(v->halt_poll_ns, clock_ns() - since,
					 v->vm->ctx->cfg.halt_poll_ns);
	return signalled(v) ? interrupted(v) : STEP_AGAIN;
}

/* ---- exits ----------------------------------------------------------------------- */

static int exit_io(struct soft_vcpu *v)
{
	const struct engine_access *a = &v->exit.access;
	struct kvm_run *run = v->run;

	run->io.direction = a->write ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
	run->io.size = a->len;
	run->io.port = (uint16_t)a->addr;
	run->io.count = v->exit.units;
	run->io.data_offset = SOFT_PIO_PAGE * SOFT_PAGE_SIZE;
	if (a->write)
		store_le((uint8_t *)run + SOFT_PIO_PAGE * SOFT_PAGE_SIZE, a->data, a->len);
	v->pending = PENDING_IO;
	vcpu_stat(v, io_exits);
	return exit_with(v, KVM_EXIT_IO);
}

static int exit_mmio(struct soft_vcpu *v)
{
	const struct engine_access *a = &v->exit.access;
	struct kvm_run *run = v->run;

	run->mmio.phys_addr = a->addr;
	run->mmio.len = a->len;
	run->mmio.is_write = a->write;
	memset(run->mmio.data, 0, sizeof(run->mmio.data));
	if (a->write)
		store_le(run->mmio.data, a->data, a->len);
	v->pending = PENDING_MMIO;
	vcpu_stat(v, mmio_exits);
	return exit_with(v, KVM_EXIT_MMIO);
}

static int exit_msr(struct soft_vcpu *v)
{
	const struct engine_access *a = &v->exit.access;
	struct kvm_run *run = v->run;

	run->msr.error = 0;
	memset(run->msr.pad, 0, sizeof(run->msr.pad));
	run->msr.reason = v->msr_exit_reason;
	run->msr.index = (uint32_t)a->addr;
	run->msr.data = a->data;
	v->pending = PENDING_MSR;
	vcpu_stat(v, msr_exits);
	return exit_with(v, a->write ? KVM_EXIT_X86_WRMSR : KVM_EXIT_X86_RDMSR);
}

/* What user space answered goes where the engine looks for it. */
static void complete_pending(struct soft_vcpu *v)
{
	struct engine_access *a = &v->exit.access;

	if (v->pending == PENDING_IO && !a->write) {
		const uint8_t *page = (uint8_t *)v->run + SOFT_PIO_PAGE * SOFT_PAGE_SIZE;

		a->data = load_le(page, a->len) & len_mask(a->len);
		v->exit.more = page;
	} else if (v->pending == PENDING_MMIO && !a->write) {
		a->data = load_le(v->run->mmio.data, a->len) & len_mask(a->len);
	} else if (v->pending == PENDING_MSR) {
		a->data = READ_ONCE(v->run->msr.data);
		v->exit.failed = READ_ONCE(v->run->msr.error);
		if (v->exit.failed)
			state_forget_payload(v);
	}
	v->pending = PENDING_NONE;
}

static int exit_debug(struct soft_vcpu *v)
{
	v->run->debug.arch.exception = v->exit.vector;
	v->run->debug.arch.pc = v->exit.rip;
	v->run->debug.arch.dr6 = v->exit.dr6;
	v->run->debug.arch.dr7 = v->exit.dr7;
	vcpu_stat(v, debug_exits);
	return exit_with(v, KVM_EXIT_DEBUG);
}

static int exit_hlt(struct soft_vcpu *v)
{
	vcpu_stat(v, halt_exits);
	if (!v->has_lapic)
		return exit_with(v, KVM_EXIT_HLT);
	/* A PV kick that came before the halt counts. */
	vcpu_set_activity(v, v->unhalted ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_HALTED);
	return STEP_AGAIN;
}

static int handle_exit(struct soft_vcpu *v)
{
	switch (v->exit.reason) {
	case ENGINE_EXIT_INTR:
		vcpu_stat(v, kicks);
		return STEP_AGAIN;
	case ENGINE_EXIT_IO:
		return exit_io(v);
	case ENGINE_EXIT_MMIO:
		return exit_mmio(v);
	case ENGINE_EXIT_MSR:
		return exit_msr(v);
	case ENGINE_EXIT_HLT:
		return exit_hlt(v);
	case ENGINE_EXIT_SHUTDOWN:
		return exit_with(v, KVM_EXIT_SHUTDOWN);
	case ENGINE_EXIT_DEBUG:
		return exit_debug(v);
	case ENGINE_EXIT_WINDOW:
		vcpu_stat(v, request_irq_exits);
		return exit_with(v, KVM_EXIT_IRQ_WINDOW_OPEN);
	case ENGINE_EXIT_INTERNAL:
		return -EFAULT;
	default:
		v->run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
		v->run->internal.ndata = 0;
		if (v->vm->ctx->cfg.log)
			log_error(v->vm->ctx->cfg.log, "vCPU %u: %s", v->id, v->exit.text);
		return exit_with(v, KVM_EXIT_INTERNAL_ERROR);
	}
}

/* ---- entry ------------------------------------------------------------------------- */

/* Does user space inject by KVM_INTERRUPT? */
static bool user_injects(struct soft_vcpu *v)
{
	return vm_irqchip(v->vm) != IRQCHIP_KERNEL;
}

/* Is there room for its next vector, and does the local APIC let it through? */
static bool accepts_user_irq(struct soft_vcpu *v)
{
	if (!v->has_lapic)
		return v->user_vector < 0;
	return v->extint_vector < 0 && lapic_accepts_extint(&v->lapic);
}

static bool ready_for_injection(struct soft_vcpu *v)
{
	return user_injects(v) && engine_can_inject(v->cpu) && accepts_user_irq(v);
}

void vcpu_update_window(struct soft_vcpu *v)
{
	if (user_injects(v))
		engine_request_window(v->cpu, READ_ONCE(v->run->request_interrupt_window) &&
						      accepts_user_irq(v));
}

/* An access in flight is finished, and nothing more run. */
static int finish_only(struct soft_vcpu *v)
{
	int r;

	if (v->pending == PENDING_NONE)
		return -EINTR;
	complete_pending(v);
	engine_vcpu_kick(v->cpu, ENGINE_KICK_EXIT);
	(void)engine_run(v->cpu, &v->exit);
	engine_vcpu_unkick(v->cpu, ENGINE_KICK_EXIT);
	/* The same instruction may have more accesses to make: those are exits as ever. */
	if (v->exit.reason == ENGINE_EXIT_INTR)
		return -EINTR;
	r = handle_exit(v);
	return r == STEP_AGAIN ? -EINTR : r;
}

/* What is in flight is finished first, as the kernel does, and may itself fill the ring. */
static int exit_ring_full(struct soft_vcpu *v)
{
	int r = finish_only(v);

	return r == -EINTR ? exit_with(v, KVM_EXIT_DIRTY_RING_FULL) : r;
}

static int enter_guest(struct soft_vcpu *v)
{
	if (dirty_ring_full(&v->ring))
		return exit_ring_full(v);
	if (ready_for_injection(v) && v->pending == PENDING_NONE &&
	    READ_ONCE(v->run->request_interrupt_window)) {
		vcpu_stat(v, request_irq_exits);
		return exit_with(v, KVM_EXIT_IRQ_WINDOW_OPEN);
	}
	vcpu_update_window(v);
	if (vcpu_has_interrupt(v))
		engine_vcpu_kick(v->cpu, ENGINE_KICK_INTR);
	state_begin_exception(v);
	complete_pending(v);
	v->has_run = true;
	(void)engine_run(v->cpu, &v->exit); /* the reason tells all */
	vcpu_stat(v, exits);
	return handle_exit(v);
}

static int step(struct soft_vcpu *v)
{
	int r;

	/*
	 * First take back the engine's kick, then look at what it may have been for:
	 * a later one is seen by the engine.
	 */
	engine_vcpu_unkick(v->cpu, ENGINE_KICK_EXIT);
	if (signalled(v))
		return interrupted(v);
	r = do_requests(v);
	if (r != STEP_AGAIN)
		return r;
	if (v->shutdown) {
		v->shutdown = false;
		return exit_with(v, KVM_EXIT_SHUTDOWN);
	}
	if (v->mp_state == KVM_MP_STATE_RUNNABLE)
		return enter_guest(v);
	return block(v);
}

static int run_uninitialized(struct soft_vcpu *v)
{
	int r;

	if (READ_ONCE(v->run->immediate_exit))
		return -EINTR;
	do {
		r = block(v);
		if (r >= 0)
			(void)do_requests(v);
	} while (r >= 0 && v->mp_state == KVM_MP_STATE_UNINITIALIZED);
	/* An EOI that user space must hear of waits for the vCPU to run, whatever it is by then. */
	vcpu_lapic_done(v);
	return r < 0 ? r : -EAGAIN;
}

static void publish_state(struct soft_vcpu *v)
{
	struct kvm_run *run = v->run;
	struct engine_regs r;

	engine_get_regs(v->cpu, &r);
	run->if_flag = r.rflags >> 9 & 1;
	run->cr8 = v->has_lapic ? lapic_cr8(&v->lapic) : v->cr8;
	run->apic_base = v->lapic.base_msr;
	run->ready_for_interrupt_injection = user_injects(v) ? ready_for_injection(v) : 1;
}

/* With registers that are not known, or cannot be, nothing is run. */
static int take_synced(struct soft_vcpu *v)
{
	const uint64_t known = KVM_SYNC_X86_VALID_FIELDS;

	if ((READ_ONCE(v->run->kvm_valid_regs) | READ_ONCE(v->run->kvm_dirty_regs)) & ~known)
		return -EINVAL;
	return state_take_synced(v);
}

static int run_initialized(struct soft_vcpu *v)
{
	int r = take_synced(v);

	if (r)
		return r;
	if (!v->has_lapic)
		v->cr8 = READ_ONCE(v->run->cr8) & 0xf;
	if (READ_ONCE(v->run->immediate_exit))
		return finish_only(v);
	v->run->exit_reason = KVM_EXIT_UNKNOWN;
	do
		r = step(v);
	while (r == STEP_AGAIN);
	return r;
}

int vcpu_run_loop(struct soft_vcpu *v)
{
	int r;

	v->run->flags = 0;
	signals_enter(v);
	cancel_enter(v);
	if (v->pv.steal_msr & KVM_MSR_ENABLED)
		atomic_fetch_or(&v->requests, REQ_STEAL);
	if (posted_load(&v->pi, (uint32_t)thread_id()))
		engine_vcpu_kick(v->cpu, ENGINE_KICK_INTR);
	if (v->mp_state == KVM_MP_STATE_UNINITIALIZED)
		r = run_uninitialized(v);
	else
		r = run_initialized(v);
	posted_put(&v->pi);
	if (READ_ONCE(v->run->kvm_valid_regs))
		state_give_synced(v);
	publish_state(v);
	cancel_leave(v);
	signals_leave(v);
	return r;
}
