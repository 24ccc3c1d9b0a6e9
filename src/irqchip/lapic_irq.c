/* SPDX-License-Identifier: MIT
 * Local APIC: from a message to IRR, from IRR to ISR, and EOI. SDM "Handling
 * Interrupts", "Task and Processor Priorities", "Signaling Interrupt Servicing
 * Completion".
 */
#include "irqchip/lapic_priv.h"

int lapic_highest_irr(const struct lapic *l)
{
	return vector_highest(l, LAPIC_IRR);
}

int lapic_highest_isr(const struct lapic *l)
{
	if (!l->isr_count)
		return -1;
	/* The highest is injected, so the last accepted is the highest in service. */
	return l->highest_isr >= 0 ? l->highest_isr : vector_highest(l, LAPIC_ISR);
}

/* ISR was written wholesale. */
void lapic_count_isr(struct lapic *l)
{
	l->isr_count = 0;
	for (uint32_t i = 0; i < 8; i++)
		l->isr_count += __builtin_popcount(reg_get(l, LAPIC_ISR + i * 0x10));
	l->highest_isr = -1;
}

/* Recompute PPR; returns the value. */
static uint32_t compute_ppr(struct lapic *l)
{
	uint32_t tpr = reg_get(l, LAPIC_TPR) & 0xff;
	int isr = lapic_highest_isr(l);
	uint32_t class = isr < 0 ? 0 : (uint32_t)isr & 0xf0;
	uint32_t ppr = (tpr & 0xf0) >= class ? tpr : class;

	if (reg_get(l, LAPIC_PPR) != ppr)
		reg_set(l, LAPIC_PPR, ppr);
	return ppr;
}

static int pending_above(const struct lapic *l, uint32_t ppr)
{
	int irr = lapic_highest_irr(l);

	return irr < 0 || ((uint32_t)irr & 0xf0) <= ppr ? -1 : irr;
}

/* PPR may have fallen: if that lets a vector through, the CPU must look again. */
void lapic_update_ppr(struct lapic *l)
{
	uint32_t old = reg_get(l, LAPIC_PPR);
	uint32_t ppr = compute_ppr(l);

	if (ppr < old && pending_above(l, ppr) >= 0)
		attention(l);
}

int lapic_pending_vector(struct lapic *l)
{
	if (!lapic_hw_enabled(l))
		return -1;
	return pending_above(l, compute_ppr(l));
}

void lapic_accept_vector(struct lapic *l, uint8_t vector)
{
	vector_clear(l, LAPIC_IRR, vector);
	if (!vector_test(l, LAPIC_ISR, vector)) {
		vector_set(l, LAPIC_ISR, vector);
		l->isr_count++;
		l->highest_isr = vector;
	}
	compute_ppr(l);
}

bool lapic_merge_pir(struct lapic *l, uint64_t pir[4])
{
	bool any = false;

	for (unsigned i = 0; i < 4; i++) {
		uint64_t word;

		/* A plain look first: an exchange would take the cache line each time. */
		if (!__atomic_load_n(&pir[i], __ATOMIC_RELAXED))
			continue;
		word = __atomic_exchange_n(&pir[i], 0, __ATOMIC_SEQ_CST);
		for (unsigned half = 0; half < 2; half++, word >>= 32)
			if ((uint32_t)word) {
				__atomic_fetch_or(reg_at(l, LAPIC_IRR + (i * 2 + half) * 0x10),
						  (uint32_t)word, __ATOMIC_SEQ_CST);
				any = true;
			}
	}
	return any;
}

static int accept_vector(struct lapic *l, const struct irq_message *msg)
{
	if (msg->level && !msg->assert)
		return 0;
	if (!lapic_hw_enabled(l) || !lapic_sw_enabled(l))
		return 0;
	/* TMR before IRR: who takes the vector must find how it came. */
	if (vector_test(l, LAPIC_TMR, msg->vector) != msg->level) {
		if (msg->level)
			vector_set(l, LAPIC_TMR, msg->vector);
		else
			vector_clear(l, LAPIC_TMR, msg->vector);
	}
	if (l->sink->post) {
		l->sink->post(l->opaque, msg->vector);
	} else {
		vector_set(l, LAPIC_IRR, msg->vector);
		attention(l);
	}
	return 1;
}

int lapic_accept(struct lapic *l, const struct irq_message *msg)
{
	switch (msg->delivery) {
	case IRQ_FIXED:
	case IRQ_LOWEST:
		return accept_vector(l, msg);
	case IRQ_REMOTE_READ:
		if (l->sink->unhalt)
			l->sink->unhalt(l->opaque);
		return 1;
	case IRQ_SMI:
		return l->sink->smi && l->sink->smi(l->opaque);
	case IRQ_NMI:
		if (l->sink->nmi)
			l->sink->nmi(l->opaque);
		return 1;
	case IRQ_INIT:
		/* The level de-assert is a bus message of old; nothing to do here. */
		if (msg->level && !msg->assert)
			return 0;
		__atomic_store_n(&l->events, LAPIC_EVENT_INIT, __ATOMIC_SEQ_CST);
		attention(l);
		return 1;
	case IRQ_STARTUP:
		__atomic_store_n(&l->sipi_vector, msg->vector, __ATOMIC_RELAXED);
		__atomic_fetch_or(&l->events, LAPIC_EVENT_SIPI, __ATOMIC_SEQ_CST);
		attention(l);
		return 1;
	default:		/* ExtINT: the PIC's wire is looked at, not latched */
		return 0;
	}
}

unsigned lapic_take_event(struct lapic *l, uint8_t *sipi_vector)
{
	uint32_t events = __atomic_load_n(&l->events, __ATOMIC_SEQ_CST);

	if (events & LAPIC_EVENT_INIT) {
		__atomic_fetch_and(&l->events, ~(uint32_t)LAPIC_EVENT_INIT, __ATOMIC_SEQ_CST);
		return LAPIC_EVENT_INIT;
	}
	if (events & LAPIC_EVENT_SIPI) {
		__atomic_fetch_and(&l->events, ~(uint32_t)LAPIC_EVENT_SIPI, __ATOMIC_SEQ_CST);
		*sipi_vector = __atomic_load_n(&l->sipi_vector, __ATOMIC_RELAXED);
		return LAPIC_EVENT_SIPI;
	}
	return 0;
}

int lapic_deliver_local(struct lapic *l, uint32_t lvt)
{
	bool known = lvt == LAPIC_LVT_CMCI ? l->config.cmci
		   : lvt >= LAPIC_LVT_TIMER && lvt <= LAPIC_LVT_ERROR && !(lvt & 0xf);
	uint32_t value;
	struct irq_message msg;
	int ret;

	if (!known || !lapic_hw_enabled(l))
		return 0;
	value = reg_get(l, lvt);
	if (value & LAPIC_LVT_MASKED)
		return 0;
	msg = (struct irq_message) {
		.dest = l->config.id,
		.vector = value & LVT_VECTOR,
		.delivery = (value & LVT_DELIVERY) >> 8,
		.level = value & ICR_LEVEL,
		.assert = true,
	};
	ret = lapic_accept(l, &msg);
	if (ret && lvt == LAPIC_LVT_PERF && l->config.mask_perf_on_delivery)
		reg_set(l, lvt, value | LAPIC_LVT_MASKED);
	return ret;
}

bool lapic_accepts_extint(const struct lapic *l)
{
	uint32_t lint0 = reg_get(l, LAPIC_LVT_LINT0);

	return !lapic_hw_enabled(l) ||
	       (lint0 & (LAPIC_LVT_MASKED | LVT_DELIVERY)) == IRQ_EXTINT << 8;
}

int lapic_eoi(struct lapic *l)
{
	int vector = lapic_highest_isr(l);

	/* A write with nothing in service is common (Linux's timer check) and harmless. */
	if (vector < 0)
		return -1;
	if (vector_test(l, LAPIC_ISR, vector)) {
		vector_clear(l, LAPIC_ISR, vector);
		l->isr_count--;
		l->highest_isr = -1;
	}
	lapic_update_ppr(l);
	if (bitmap_test(l->handled, vector)) {
		bitmap_set(l->eoi_vectors, vector);
		if (vector_test(l, LAPIC_TMR, vector))
			bitmap_set(l->eoi_levels, vector);
	}
	attention(l);
	return vector;
}

int lapic_take_eoi(struct lapic *l, bool *level)
{
	for (int i = 3; i >= 0; i--) {
		unsigned bit;

		if (!l->eoi_vectors[i])
			continue;
		bit = 63 - __builtin_clzll(l->eoi_vectors[i]);
		*level = l->eoi_levels[i] & BIT_ULL(bit);
		l->eoi_vectors[i] &= ~BIT_ULL(bit);
		l->eoi_levels[i] &= ~BIT_ULL(bit);
		return i * 64 + (int)bit;
	}
	return -1;
}

void lapic_set_handled(struct lapic *l, const uint64_t handled[4])
{
	memcpy(l->handled, handled, sizeof(l->handled));
}

bool lapic_owes_eoi(const struct lapic *l, uint8_t vector)
{
	const uint64_t *pir = l->config.pir;

	return vector_test(l, LAPIC_ISR, vector) ||
	       (pir && __atomic_load_n(&pir[vector >> 6], __ATOMIC_SEQ_CST) & BIT_ULL(vector & 63)) ||
	       vector_test(l, LAPIC_IRR, vector);
}

bool lapic_pv_eoi_allowed(const struct lapic *l)
{
	return lapic_highest_irr(l) < 0 && l->highest_isr >= 0 &&
	       !bitmap_test(l->handled, (uint8_t)l->highest_isr);
}
