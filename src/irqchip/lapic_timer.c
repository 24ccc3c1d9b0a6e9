/* SPDX-License-Identifier: MIT
 * The local APIC timer: SDM "APIC Timer" and "TSC-Deadline Mode". It knows no
 * clock: the caller brings the time and asks for the next deadline.
 */
#include "irqchip/lapic_priv.h"

static bool mode_is(const struct lapic *l, enum lapic_timer_mode mode)
{
	return l->timer_mode == (uint32_t)mode << LVT_TIMER_SHIFT;
}

static bool counts(const struct lapic *l)
{
	return mode_is(l, LAPIC_ONESHOT) || mode_is(l, LAPIC_PERIODIC);
}

static uint64_t count_to_ns(const struct lapic *l, uint32_t count)
{
	return (uint64_t)count * l->config.bus_cycle_ns * l->divide;
}

static void arm(struct lapic *l, bool on)
{
	l->timer_armed = on;
	if (l->sink->timer_changed)
		l->sink->timer_changed(l->opaque);
}

static void limit_period(struct lapic *l)
{
	if (mode_is(l, LAPIC_PERIODIC) && l->period && l->period < l->config.min_period_ns)
		l->period = l->config.min_period_ns;
}

void timer_cancel(struct lapic *l)
{
	l->timer_pending = false;
	arm(l, false);
}

void timer_update_divide(struct lapic *l)
{
	uint32_t tdcr = reg_get(l, LAPIC_TDCR);

	/* Bits 3, 1, 0: 0 is 2, 1 is 4 … 6 is 128, 7 is 1. */
	l->divide = 1u << ((((tdcr & 3) | (tdcr & 8) >> 1) + 1) & 7);
}

/* The LVT timer entry changed: does its mode? */
void timer_update_mode(struct lapic *l)
{
	uint32_t mode = reg_get(l, LAPIC_LVT_TIMER) & l->timer_mode_mask;
	uint32_t deadline = LAPIC_TSC_DEADLINE << LVT_TIMER_SHIFT;

	if (l->timer_mode == mode)
		return;
	/* SDM "TSC-Deadline Mode": changing to or from it disarms the timer. */
	if ((l->timer_mode == deadline) != (mode == deadline)) {
		timer_cancel(l);
		reg_set(l, LAPIC_TMICT, 0);
		l->period = 0;
		l->tsc_deadline = 0;
	}
	l->timer_mode = mode;
	limit_period(l);
}

/* Start towards l->target, or expire at once if it has passed. */
static void restart(struct lapic *l, uint64_t now)
{
	if (!mode_is(l, LAPIC_PERIODIC) && l->timer_pending)
		return;
	if (mode_is(l, LAPIC_TSC_DEADLINE)) {
		if (l->tsc_deadline)
			arm(l, true);
		return;
	}
	if (!counts(l) || !l->period)
		return;
	l->timer_armed = true;
	if (now > l->target)
		lapic_timer_expired(l, now);
	else
		arm(l, true);
}

/* count: the register whose value is left of the first period. */
static void start(struct lapic *l, uint32_t count, uint64_t now)
{
	uint64_t left;

	l->timer_pending = false;
	if (!counts(l)) {
		restart(l, now);
		return;
	}
	l->period = count_to_ns(l, reg_get(l, LAPIC_TMICT));
	if (!l->period) {
		l->tsc_deadline = 0;
		return;
	}
	limit_period(l);
	left = l->period;
	if (count != LAPIC_TMICT) {
		left = count_to_ns(l, reg_get(l, count));
		if (!left) {
			left = mode_is(l, LAPIC_PERIODIC) ? l->period : 0;
		} else if (left > l->period) {
			reg_set(l, count, 0);
			left = l->period;
		}
	}
	l->target = now + left;
	restart(l, now);
}

void timer_set_initial_count(struct lapic *l, uint32_t value, uint64_t now)
{
	if (mode_is(l, LAPIC_TSC_DEADLINE))
		return;
	timer_cancel(l);
	reg_set(l, LAPIC_TMICT, value);
	start(l, LAPIC_TMICT, now);
}

void timer_set_divide(struct lapic *l, uint32_t value, uint64_t now)
{
	uint32_t old = l->divide;
	uint64_t left;

	reg_set(l, LAPIC_TDCR, value & 0xb);
	timer_update_divide(l);
	if (l->divide == old || !l->period)
		return;
	arm(l, false);
	l->period = count_to_ns(l, reg_get(l, LAPIC_TMICT));
	limit_period(l);
	left = l->target > now ? l->target - now : 0;
	/* left < 2^32 counts of at most 128 ticks: the product fits unless ticks are > 2^25 ns. */
	l->target = now + (uint64_t)((unsigned __int128)left * l->divide / old);
	restart(l, now);
}

void timer_restore(struct lapic *l, uint64_t now)
{
	timer_cancel(l);
	timer_update_mode(l);
	timer_update_divide(l);
	start(l, LAPIC_TMCCT, now);
	reg_set(l, LAPIC_TMCCT, 0);
}

uint32_t timer_current_count(const struct lapic *l, uint64_t now)
{
	uint64_t left = l->target > now ? l->target - now : 0;

	if (mode_is(l, LAPIC_TSC_DEADLINE) || !reg_get(l, LAPIC_TMICT) || !l->period)
		return 0;
	return (uint32_t)(left % l->period / (l->config.bus_cycle_ns * l->divide));
}

enum lapic_deadline lapic_next_deadline(const struct lapic *l, uint64_t *at)
{
	if (!l->timer_armed)
		return LAPIC_NO_DEADLINE;
	if (mode_is(l, LAPIC_TSC_DEADLINE)) {
		*at = l->tsc_deadline;
		return LAPIC_DEADLINE_TSC;
	}
	*at = l->target;
	return LAPIC_DEADLINE_NS;
}

bool lapic_timer_expired(struct lapic *l, uint64_t now)
{
	bool again = mode_is(l, LAPIC_PERIODIC) && l->period;

	if (!l->timer_armed)
		return l->timer_pending;
	l->timer_pending = true;
	if (again) {
		l->target += l->period;
		if (l->target < now)
			l->target = now;
	}
	arm(l, again);
	attention(l);
	return true;
}

bool lapic_timer_waiting(const struct lapic *l)
{
	return l->timer_pending && lapic_hw_enabled(l) && lapic_sw_enabled(l) &&
	       !(reg_get(l, LAPIC_LVT_TIMER) & LAPIC_LVT_MASKED);
}

bool lapic_inject_timer(struct lapic *l)
{
	if (!l->timer_pending)
		return false;
	l->timer_pending = false;
	lapic_deliver_local(l, LAPIC_LVT_TIMER);
	if (mode_is(l, LAPIC_TSC_DEADLINE))
		l->tsc_deadline = 0;
	else if (mode_is(l, LAPIC_ONESHOT))
		l->target = 0;
	return true;
}

uint64_t lapic_tsc_deadline(const struct lapic *l)
{
	return lapic_hw_enabled(l) && mode_is(l, LAPIC_TSC_DEADLINE) ? l->tsc_deadline : 0;
}

void lapic_set_tsc_deadline(struct lapic *l, uint64_t value)
{
	if (!lapic_hw_enabled(l) || !mode_is(l, LAPIC_TSC_DEADLINE))
		return;
	arm(l, false);
	l->tsc_deadline = value;
	start(l, LAPIC_TMICT, 0);
}
