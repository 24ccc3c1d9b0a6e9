/* SPDX-License-Identifier: MIT
 * Register access shared by the lapic files. Reads and writes are relaxed
 * atomics: another thread may look at a register while its owner writes it.
 */
#ifndef BELFRY_IRQCHIP_LAPIC_PRIV_H
#define BELFRY_IRQCHIP_LAPIC_PRIV_H

#include "irqchip/lapic.h"

#define LVT_VECTOR		0xffu
#define LVT_DELIVERY		0x700u
#define LVT_TIMER_SHIFT		17
#define LVT_TIMER_MODES		(3u << LVT_TIMER_SHIFT)

static inline uint32_t *reg_at(struct lapic *l, uint32_t offset)
{
	return (uint32_t *)(l->regs + offset);
}

static inline uint32_t reg_get(const struct lapic *l, uint32_t offset)
{
	return __atomic_load_n((const uint32_t *)(l->regs + offset), __ATOMIC_RELAXED);
}

static inline void reg_set(struct lapic *l, uint32_t offset, uint32_t value)
{
	__atomic_store_n(reg_at(l, offset), value, __ATOMIC_RELAXED);
}

/* A 256-bit register: 8 words, 16 bytes apart. */
static inline uint32_t vector_reg(uint32_t base, uint8_t vector)
{
	return base + (vector >> 5) * 0x10;
}

static inline bool vector_test(const struct lapic *l, uint32_t base, uint8_t vector)
{
	return reg_get(l, vector_reg(base, vector)) & BIT(vector & 31);
}

/* Full barriers: a sender's IRR bit is ordered before its look at the receiver. */
static inline void vector_set(struct lapic *l, uint32_t base, uint8_t vector)
{
	__atomic_fetch_or(reg_at(l, vector_reg(base, vector)), BIT(vector & 31),
			  __ATOMIC_SEQ_CST);
}

static inline void vector_clear(struct lapic *l, uint32_t base, uint8_t vector)
{
	__atomic_fetch_and(reg_at(l, vector_reg(base, vector)), ~BIT(vector & 31),
			   __ATOMIC_SEQ_CST);
}

static inline int vector_highest(const struct lapic *l, uint32_t base)
{
	for (int i = 7; i >= 0; i--) {
		uint32_t word = reg_get(l, base + i * 0x10);

		if (word)
			return i * 32 + 31 - __builtin_clz(word);
	}
	return -1;
}

static inline bool bitmap_test(const uint64_t map[4], uint8_t vector)
{
	return map[vector >> 6] & BIT_ULL(vector & 63);
}

static inline void bitmap_set(uint64_t map[4], uint8_t vector)
{
	map[vector >> 6] |= BIT_ULL(vector & 63);
}

static inline uint64_t base_get(const struct lapic *l)
{
	return __atomic_load_n(&l->base_msr, __ATOMIC_RELAXED);
}

static inline void attention(struct lapic *l)
{
	l->sink->attention(l->opaque);
}

static inline void map_changed(struct lapic *l)
{
	if (l->sink->map_changed)
		l->sink->map_changed(l->opaque);
}

static inline uint32_t x2apic_ldr(uint32_t id)
{
	return id >> 4 << 16 | 1u << (id & 0xf);
}

static inline uint32_t lvt_count(const struct lapic *l)
{
	return l->config.cmci ? 7 : 6;
}

/* Entry i of the version register's count: timer, thermal, perf, LINT0, LINT1, error, CMCI. */
static inline uint32_t lvt_offset(uint32_t i)
{
	return i == 6 ? LAPIC_LVT_CMCI : LAPIC_LVT_TIMER + i * 0x10;
}

/* lapic_timer.c */
void timer_update_mode(struct lapic *l);
void timer_cancel(struct lapic *l);
void timer_set_initial_count(struct lapic *l, uint32_t value, uint64_t now);
void timer_set_divide(struct lapic *l, uint32_t value, uint64_t now);
void timer_update_divide(struct lapic *l);
void timer_restore(struct lapic *l, uint64_t now);
uint32_t timer_current_count(const struct lapic *l, uint64_t now);

/* lapic_irq.c */
void lapic_update_ppr(struct lapic *l);
void lapic_count_isr(struct lapic *l);

/* These may change under a reader: lapic_set_x2apic_api(), lapic_set_quirks(). */
static inline bool lapic_ids_32(const struct lapic *l)
{
	return __atomic_load_n(&l->config.x2apic_ids_32, __ATOMIC_RELAXED);
}

static inline bool lapic_no_broadcast_quirk(const struct lapic *l)
{
	return __atomic_load_n(&l->config.no_broadcast_quirk, __ATOMIC_RELAXED);
}

static inline bool lapic_lint0_enabled(const struct lapic *l)
{
	return __atomic_load_n(&l->config.lint0_enabled, __ATOMIC_RELAXED);
}

static inline bool lapic_mmio_hole(const struct lapic *l)
{
	return __atomic_load_n(&l->config.mmio_hole, __ATOMIC_RELAXED);
}

#endif
