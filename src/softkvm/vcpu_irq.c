/* SPDX-License-Identifier: MIT
 * A vCPU's interrupts: its local APIC's sink, its descriptor, its timer, and
 * what the engine is given when the guest can take an interrupt.
 */
#include "softkvm/chips.h"
#include "softkvm/tsc.h"
#include "softkvm/vcpu.h"

/* ---- from the local APIC: any thread unless said otherwise -------------- */

/* On this vCPU's thread. */
static void deliver_ipi(void *opaque, const struct irq_message *msg)
{
	struct soft_vcpu *v = opaque;

	vcpu_stat(v, ipis);
	(void)vm_deliver(v->vm, &v->lapic, msg, NULL);
}

static void attention(void *opaque)
{
	vcpu_attention(opaque);
}

void vcpu_post(struct soft_vcpu *v, uint8_t vector, bool urgent)
{
	uint32_t ndst;
	uint8_t nv;

	switch (posted_post(&v->pi, vector, urgent, &nv, &ndst)) {
	case POSTED_COALESCED:
		vcpu_stat(v, posted_coalesced);
		return;
	case POSTED_QUIET:
		vcpu_stat(v, posted);
		return;
	case POSTED_NOTIFY:
		vcpu_stat(v, posted);
		if (nv == POSTED_NV_WAKEUP) {
			vcpu_stat(v, posted_wakeup);
			vcpu_wake(v);
		} else {
			vcpu_stat(v, posted_notify);
			engine_vcpu_kick(v->cpu, ENGINE_KICK_INTR);
		}
	}
}

static void post(void *opaque, uint8_t vector)
{
	vcpu_post(opaque, vector, false);
}

static void nmi(void *opaque)
{
	vcpu_queue_nmi(opaque);
}

static void unhalt(void *opaque)
{
	vcpu_request(opaque, REQ_UNHALT);
}

/* The two below: on this vCPU's thread or under its lock. */
static void map_changed(void *opaque)
{
	((struct soft_vcpu *)opaque)->map_dirty = true;
}

static void timer_changed(void *opaque)
{
	((struct soft_vcpu *)opaque)->timer_dirty = true;
}

static void lint0_nmi(void *opaque, bool on)
{
	struct soft_vcpu *v = opaque;

	atomic_fetch_add(&v->vm->nmi_watchdogs, on ? 1 : -1);
}

const struct lapic_sink vcpu_lapic_sink = {
	.deliver_ipi = deliver_ipi, .attention = attention, .post = post, .nmi = nmi,
	.unhalt = unhalt, .map_changed = map_changed, .timer_changed = timer_changed,
	.lint0_nmi = lint0_nmi,
};

const struct lapic_sink vcpu_lapic_sink_no_apicv = {
	.deliver_ipi = deliver_ipi, .attention = attention, .nmi = nmi, .unhalt = unhalt,
	.map_changed = map_changed, .timer_changed = timer_changed, .lint0_nmi = lint0_nmi,
};

/* ---- the timer ------------------------------------------------------------ */

/* The waiter's thread. */
void vcpu_timer_fired(struct soft_timer *t)
{
	struct soft_vcpu *v = container_of(t, struct soft_vcpu, timer);

	vm_stat(v->vm, timer_fires);
	/* No reason to leave the guest: vcpu_sync_irr() looks at it. */
	atomic_fetch_or(&v->requests, REQ_TIMER);
	if (!v->posting)
		engine_vcpu_kick(v->cpu, ENGINE_KICK_EXIT);
	engine_vcpu_kick(v->cpu, ENGINE_KICK_INTR);
	vcpu_wake(v);
}

uint64_t vcpu_timer_deadline(struct soft_vcpu *v)
{
	uint64_t at, now, tsc;

	switch (lapic_next_deadline(&v->lapic, &at)) {
	case LAPIC_DEADLINE_NS:
		return at;
	case LAPIC_DEADLINE_TSC:
		/* In this order: who is put aside in between is late, but never early. */
		tsc = vcpu_tsc_at(v, host_tsc());
		now = clock_ns();
		if (at <= tsc)
			return now;
		at = tsc_to_ns(at - tsc, vcpu_tsc_rate(v));
		return at > TIMER_NEVER - 1 - now ? TIMER_NEVER : now + at;
	default:
		return TIMER_NEVER;
	}
}

void vcpu_update_timer(struct soft_vcpu *v)
{
	uint64_t at = vcpu_timer_deadline(v);

	v->timer_dirty = false;
	/* Due already: a guest that asks for the past may look at the next instruction. */
	if (at <= clock_ns()) {
		timer_set(&v->vm->timers, &v->timer, TIMER_NEVER);
		vcpu_timer_fired(&v->timer);
		return;
	}
	timer_set(&v->vm->timers, &v->timer, at);
}

/* The APIC timer's interrupt, if it is due, goes to IRR. */
static void sync_timer(struct soft_vcpu *v)
{
	if (atomic_load(&v->requests) & REQ_TIMER) {
		atomic_fetch_and(&v->requests, ~REQ_TIMER);
		if (vcpu_timer_deadline(v) <= clock_ns())
			(void)lapic_timer_expired(&v->lapic, clock_ns());
		v->timer_dirty = true;
	}
	if (v->lapic.timer_pending && lapic_inject_timer(&v->lapic))
		vcpu_stat(v, timer_irqs);
	if (v->timer_dirty)
		vcpu_update_timer(v);
}

/* ---- on the vCPU's thread --------------------------------------------------- */

void vcpu_sync_irr(struct soft_vcpu *v)
{
	if (!v->has_lapic)
		return;
	if (v->pv.eoi_offered)
		pv_eoi_collect(v);
	sync_timer(v);
	if (posted_begin_take(&v->pi))
		(void)lapic_merge_pir(&v->lapic, v->pi.pir);
}

void vcpu_lapic_done(struct soft_vcpu *v)
{
	bool level;
	int vector;

	if (!v->has_lapic)
		return;
	if (vm_irqchip(v->vm) == IRQCHIP_SPLIT) {
		for (unsigned i = 0; i < 4; i++)
			if (v->lapic.eoi_vectors[i])
				vcpu_request(v, REQ_EOI_EXIT);
		vcpu_update_window(v); /* LINT0 may have been unmasked */
	} else {
		while ((vector = lapic_take_eoi(&v->lapic, &level)) >= 0)
			vmchips_eoi(v, (uint8_t)vector, level);
	}
	if (v->timer_dirty)
		vcpu_update_timer(v);
	if (v->map_dirty) {
		v->map_dirty = false;
		vm_rebuild_map(v->vm);
	}
}

static bool extint_waits(struct soft_vcpu *v)
{
	if (!lapic_accepts_extint(&v->lapic))
		return false;
	if (vm_irqchip(v->vm) == IRQCHIP_SPLIT)
		return v->extint_vector >= 0;
	return vmchips_extint_pending(v->vm);
}

bool vcpu_has_interrupt(struct soft_vcpu *v)
{
	if (!v->has_lapic)
		return v->user_vector >= 0;
	vcpu_sync_irr(v);
	return extint_waits(v) || lapic_pending_vector(&v->lapic) >= 0;
}

static int take_extint(struct soft_vcpu *v)
{
	int vector;

	if (vm_irqchip(v->vm) == IRQCHIP_SPLIT) {
		vector = v->extint_vector;
		v->extint_vector = -1;
		vcpu_update_window(v);
	} else {
		vector = vmchips_inta(v->vm);
	}
	/* It does not hold back what the local APIC has. */
	engine_vcpu_kick(v->cpu, ENGINE_KICK_INTR);
	return vector;
}

int vcpu_take_interrupt(struct soft_vcpu *v)
{
	int vector = -1;

	if (!v->has_lapic) {
		vector = v->user_vector;
		v->user_vector = -1;
		vcpu_update_window(v); /* there is room for the next */
		return vector;
	}
	vcpu_sync_irr(v);
	if (extint_waits(v))
		vector = take_extint(v);
	if (vector < 0) {
		vector = lapic_pending_vector(&v->lapic);
		if (vector >= 0)
			lapic_accept_vector(&v->lapic, (uint8_t)vector);
		pv_eoi_offer(v);
	}
	if (vector >= 0)
		vcpu_stat(v, irq_injections);
	return vector;
}
