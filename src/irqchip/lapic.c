/* SPDX-License-Identifier: MIT
 * Local APIC: registers, modes, reset and saved state.
 */
#include "irqchip/lapic_priv.h"

#define MIN_PERIOD_NS	200000	/* the kernel's default min_timer_period_us */

#define VERSION_INTEGRATED	0x14u
#define VERSION_DIRECTED_EOI	(1u << 24)

/* SDM "Local Vector Table": the bits each entry has. */
#define LVT_COMMON	(LAPIC_LVT_MASKED | 1u << 12 | LVT_VECTOR)
#define LVT_LINT	(LVT_COMMON | LVT_DELIVERY | 7u << 13)
#define LVT_NMI		0x400u

static const uint32_t lvt_bits[7] = {
	LVT_COMMON, LVT_COMMON | LVT_DELIVERY, LVT_COMMON | LVT_DELIVERY,
	LVT_LINT, LVT_LINT, LVT_COMMON, LVT_COMMON | LVT_DELIVERY,
};

/* SDM "x2APIC Register Address Space": reserved in the ICR's low half. */
#define X2APIC_ICR_RESERVED	0xfff32000ull

uint32_t lapic_reg(const struct lapic *l, uint32_t offset)
{
	return offset < KVM_APIC_REG_SIZE ? reg_get(l, offset & ~0xfu) : 0;
}

bool lapic_hw_enabled(const struct lapic *l)
{
	return base_get(l) & APIC_BASE_ENABLE;
}

bool lapic_sw_enabled(const struct lapic *l)
{
	return reg_get(l, LAPIC_SVR) & LAPIC_SVR_ENABLE;
}

bool lapic_x2apic_mode(const struct lapic *l)
{
	return base_get(l) & APIC_BASE_X2APIC;
}

static void set_version(struct lapic *l)
{
	reg_set(l, LAPIC_VERSION, VERSION_INTEGRATED | (lvt_count(l) - 1) << 16 |
		(l->directed_eoi ? VERSION_DIRECTED_EOI : 0));
}

static void set_xapic_id(struct lapic *l, uint8_t id)
{
	reg_set(l, LAPIC_ID, (uint32_t)id << 24);
	map_changed(l);
}

/* The value has been written; old is the one before. */
static void svr_changed(struct lapic *l, uint32_t old)
{
	if ((old ^ reg_get(l, LAPIC_SVR)) & LAPIC_SVR_ENABLE)
		map_changed(l);
}

static void set_svr(struct lapic *l, uint32_t value)
{
	uint32_t old = reg_get(l, LAPIC_SVR);

	reg_set(l, LAPIC_SVR, value);
	svr_changed(l, old);
}

static void lint0_changed(struct lapic *l, uint32_t value)
{
	bool nmi = (value & (LVT_DELIVERY | LAPIC_LVT_MASKED)) == LVT_NMI;

	if (nmi == l->lint0_nmi)
		return;
	l->lint0_nmi = nmi;
	if (l->sink->lint0_nmi)
		l->sink->lint0_nmi(l->opaque, nmi);
}

static void mask_lvts(struct lapic *l)
{
	for (uint32_t i = 0; i < lvt_count(l); i++)
		reg_set(l, lvt_offset(i), reg_get(l, lvt_offset(i)) | LAPIC_LVT_MASKED);
}

void lapic_init(struct lapic *l, const struct lapic_config *config,
		const struct lapic_sink *sink, void *opaque)
{
	memset(l, 0, sizeof(*l));
	l->config = *config;
	if (!l->config.bus_cycle_ns)
		l->config.bus_cycle_ns = 1;
	if (!l->config.min_period_ns)
		l->config.min_period_ns = MIN_PERIOD_NS;
	l->maxphyaddr = 36;
	l->divide = 2;
	l->sink = sink;
	l->opaque = opaque;
	memset(l->handled, 0xff, sizeof(l->handled));
	lapic_reset(l, false);
}

void lapic_reset(struct lapic *l, bool init_event)
{
	timer_cancel(l);
	if (!init_event) {
		__atomic_store_n(&l->base_msr, APIC_BASE_DEFAULT | APIC_BASE_ENABLE |
				 (l->config.bsp ? APIC_BASE_BSP : 0), __ATOMIC_RELAXED);
		set_xapic_id(l, (uint8_t)l->config.id);
	}
	set_version(l);
	for (uint32_t i = 0; i < lvt_count(l); i++)
		reg_set(l, lvt_offset(i), LAPIC_LVT_MASKED);
	timer_update_mode(l);
	if (l->config.bsp && lapic_lint0_enabled(l))
		reg_set(l, LAPIC_LVT_LINT0, IRQ_EXTINT << 8);
	lint0_changed(l, reg_get(l, LAPIC_LVT_LINT0));

	reg_set(l, LAPIC_DFR, UINT32_MAX);
	set_svr(l, 0xff);
	reg_set(l, LAPIC_TPR, 0);
	if (!lapic_x2apic_mode(l))
		reg_set(l, LAPIC_LDR, 0);
	reg_set(l, LAPIC_ESR, 0);
	reg_set(l, LAPIC_ICR, 0);
	if (lapic_x2apic_mode(l))
		reg_set(l, LAPIC_ICR + 4, 0);	/* the one 64-bit register's upper half */
	else
		reg_set(l, LAPIC_ICR2, 0);
	reg_set(l, LAPIC_TDCR, 0);
	reg_set(l, LAPIC_TMICT, 0);
	for (uint32_t i = 0; i < 8; i++) {
		reg_set(l, LAPIC_IRR + i * 0x10, 0);
		reg_set(l, LAPIC_ISR + i * 0x10, 0);
		reg_set(l, LAPIC_TMR + i * 0x10, 0);
	}
	lapic_count_isr(l);
	timer_update_divide(l);
	lapic_update_ppr(l);
	map_changed(l);
}

void lapic_set_cpuid(struct lapic *l, bool x2apic, bool tsc_deadline, bool directed_eoi,
		     uint8_t maxphyaddr)
{
	l->x2apic_cpuid = x2apic;
	l->timer_mode_mask = tsc_deadline ? LVT_TIMER_MODES : 1u << LVT_TIMER_SHIFT;
	l->directed_eoi = directed_eoi;
	l->maxphyaddr = MIN(MAX(maxphyaddr, 32), 52);
	set_version(l);
}

void lapic_set_cmci(struct lapic *l, bool cmci)
{
	if (cmci == l->config.cmci)
		return;
	l->config.cmci = cmci;
	if (cmci)
		reg_set(l, LAPIC_LVT_CMCI, LAPIC_LVT_MASKED);
	set_version(l);
}

void lapic_set_x2apic_api(struct lapic *l, bool ids_32, bool no_broadcast_quirk)
{
	__atomic_store_n(&l->config.x2apic_ids_32, ids_32, __ATOMIC_RELAXED);
	__atomic_store_n(&l->config.no_broadcast_quirk, no_broadcast_quirk, __ATOMIC_RELAXED);
}

void lapic_set_quirks(struct lapic *l, bool lint0_enabled, bool mmio_hole)
{
	__atomic_store_n(&l->config.lint0_enabled, lint0_enabled, __ATOMIC_RELAXED);
	__atomic_store_n(&l->config.mmio_hole, mmio_hole, __ATOMIC_RELAXED);
}

int lapic_set_base(struct lapic *l, uint64_t value, bool host)
{
	uint64_t old = base_get(l);
	uint64_t changed = old ^ value;
	uint64_t modes = APIC_BASE_ENABLE | APIC_BASE_X2APIC;
	uint64_t reserved = 0x2ff | ~(BIT_ULL(l->maxphyaddr) - 1) |
			    (l->x2apic_cpuid ? 0 : APIC_BASE_X2APIC);

	if (!changed)
		return 0;
	if (value & reserved || (value & modes) == APIC_BASE_X2APIC)
		return -EINVAL;
	/* SDM "x2APIC State Transitions". */
	if (!host && (old & modes) == modes && (value & modes) == APIC_BASE_ENABLE)
		return -EINVAL;
	if (!host && !(old & APIC_BASE_ENABLE) && (value & modes) == modes)
		return -EINVAL;

	__atomic_store_n(&l->base_msr, value, __ATOMIC_RELAXED);
	if (changed & APIC_BASE_ENABLE && value & APIC_BASE_ENABLE)
		set_xapic_id(l, (uint8_t)l->config.id);
	if (changed & APIC_BASE_X2APIC) {
		if (value & APIC_BASE_X2APIC) {
			reg_set(l, LAPIC_ID, l->config.id);
			reg_set(l, LAPIC_LDR, x2apic_ldr(l->config.id));
		} else if (value & APIC_BASE_ENABLE) {
			set_xapic_id(l, (uint8_t)l->config.id);
		}
	}
	if (changed & modes) {
		map_changed(l);
		attention(l);
	}
	return 0;
}

void lapic_set_cr8(struct lapic *l, uint64_t cr8)
{
	reg_set(l, LAPIC_TPR, (uint32_t)(cr8 & 0xf) << 4);
	lapic_update_ppr(l);
}

uint64_t lapic_cr8(const struct lapic *l)
{
	return reg_get(l, LAPIC_TPR) >> 4 & 0xf;
}

/* One bit for each register that can be read, by offset >> 4. */
static bool readable(const struct lapic *l, uint32_t offset)
{
	switch (offset & ~0xfu) {
	case LAPIC_ID: case LAPIC_VERSION: case LAPIC_TPR: case LAPIC_PPR:
	case LAPIC_LDR: case LAPIC_SVR: case LAPIC_ESR: case LAPIC_ICR:
	case LAPIC_ISR ... LAPIC_ISR + 0x70:
	case LAPIC_TMR ... LAPIC_TMR + 0x70:
	case LAPIC_IRR ... LAPIC_IRR + 0x70:
	case LAPIC_LVT_TIMER: case LAPIC_LVT_THERMAL: case LAPIC_LVT_PERF:
	case LAPIC_LVT_LINT0: case LAPIC_LVT_LINT1: case LAPIC_LVT_ERROR:
	case LAPIC_TMICT: case LAPIC_TMCCT: case LAPIC_TDCR:
		return true;
	case LAPIC_LVT_CMCI:
		return l->config.cmci;
	case LAPIC_APR: case LAPIC_DFR: case LAPIC_ICR2:
		return !lapic_x2apic_mode(l);
	default:
		return false;
	}
}

static uint32_t reg_read(struct lapic *l, uint32_t offset, uint64_t now)
{
	switch (offset) {
	case LAPIC_APR:		/* no arbitration bus to arbitrate for */
		return 0;
	case LAPIC_TMCCT:
		return timer_current_count(l, now);
	case LAPIC_PPR:
		lapic_update_ppr(l);
		/* fall through */
	default:
		return reg_get(l, offset);
	}
}

static void write_svr(struct lapic *l, uint32_t value)
{
	uint32_t bits = 0x3ff;

	if (reg_get(l, LAPIC_VERSION) & VERSION_DIRECTED_EOI)
		bits |= LAPIC_SVR_NO_BROADCAST;
	set_svr(l, value & bits);
	if (value & LAPIC_SVR_ENABLE)
		return;
	mask_lvts(l);
	timer_update_mode(l);
	l->timer_pending = false;
}

static int write_lvt(struct lapic *l, uint32_t offset, uint32_t value)
{
	uint32_t i = offset == LAPIC_LVT_CMCI ? 6 : (offset - LAPIC_LVT_TIMER) >> 4;
	uint32_t bits = lvt_bits[i];

	if (offset == LAPIC_LVT_LINT0)
		lint0_changed(l, value);
	if (i >= lvt_count(l))
		return -EINVAL;
	if (!lapic_sw_enabled(l))
		value |= LAPIC_LVT_MASKED;
	if (offset == LAPIC_LVT_TIMER)
		bits |= l->timer_mode_mask;
	reg_set(l, offset, value & bits);
	if (offset == LAPIC_LVT_TIMER)
		timer_update_mode(l);
	return 0;
}

static void send_ipi(struct lapic *l, uint64_t icr)
{
	struct irq_message msg;

	icr_decode(icr, lapic_x2apic_mode(l), &msg);
	l->sink->deliver_ipi(l->opaque, &msg);
}

static int reg_write(struct lapic *l, uint32_t offset, uint32_t value, uint64_t now)
{
	bool x2apic = lapic_x2apic_mode(l);

	switch (offset) {
	case LAPIC_ID:
		if (x2apic)
			return -EINVAL;
		set_xapic_id(l, value >> 24);
		return 0;
	case LAPIC_TPR:
		reg_set(l, LAPIC_TPR, value & 0xff);
		lapic_update_ppr(l);
		return 0;
	case LAPIC_EOI:
		lapic_eoi(l);
		return 0;
	case LAPIC_LDR:
		if (x2apic)
			return -EINVAL;
		reg_set(l, LAPIC_LDR, value & 0xff000000);
		map_changed(l);
		return 0;
	case LAPIC_DFR:
		if (x2apic)
			return -EINVAL;
		reg_set(l, LAPIC_DFR, value | 0x0fffffff);
		map_changed(l);
		return 0;
	case LAPIC_SVR:
		write_svr(l, value);
		return 0;
	case LAPIC_ICR:
		value &= ~ICR_BUSY;	/* an IPI leaves at once */
		send_ipi(l, (uint64_t)reg_get(l, LAPIC_ICR2) << 32 | value);
		reg_set(l, LAPIC_ICR, value);
		return 0;
	case LAPIC_ICR2:
		if (x2apic)
			return -EINVAL;
		reg_set(l, LAPIC_ICR2, value & 0xff000000);
		return 0;
	case LAPIC_LVT_TIMER: case LAPIC_LVT_THERMAL: case LAPIC_LVT_PERF:
	case LAPIC_LVT_LINT0: case LAPIC_LVT_LINT1: case LAPIC_LVT_ERROR:
	case LAPIC_LVT_CMCI:
		return write_lvt(l, offset, value);
	case LAPIC_TMICT:
		timer_set_initial_count(l, value, now);
		return 0;
	case LAPIC_TDCR:
		timer_set_divide(l, value, now);
		return 0;
	case LAPIC_ESR:
		return x2apic && value ? -EINVAL : 0;
	case LAPIC_SELF_IPI:
		if (!x2apic || value & ~LVT_VECTOR)
			return -EINVAL;
		send_ipi(l, IRQ_SELF << ICR_SHORTHAND_SHIFT | value);
		return 0;
	default:
		return -EINVAL;
	}
}

static bool page_present(const struct lapic *l)
{
	return (base_get(l) & (APIC_BASE_ENABLE | APIC_BASE_X2APIC)) == APIC_BASE_ENABLE;
}

int lapic_mmio_read(struct lapic *l, uint32_t offset, unsigned len, uint64_t now, uint32_t *value)
{
	uint32_t first = offset & 0xf;

	*value = 0;
	if (!page_present(l)) {
		*value = UINT32_MAX;
		return lapic_mmio_hole(l) ? 0 : -EOPNOTSUPP;
	}
	if ((len != 1 && len != 2 && len != 4) || first + len > 4)
		return 0;
	if (offset > LAPIC_SELF_IPI || !readable(l, offset))
		return 0;
	*value = (reg_read(l, offset & ~0xfu, now) >> first * 8) & (uint32_t)len_mask(len);
	return 0;
}

int lapic_mmio_write(struct lapic *l, uint32_t offset, unsigned len, uint32_t value, uint64_t now)
{
	if (!page_present(l))
		return lapic_mmio_hole(l) ? 0 : -EOPNOTSUPP;
	/* SDM: registers are accessed with aligned 32-bit loads and stores. */
	if (len != 4 || offset & 0xf)
		return 0;
	/* A refused register is an ignored write here; only an MSR faults. */
	(void)reg_write(l, offset & 0xff0, value, now);
	return 0;
}

int lapic_msr_read(struct lapic *l, uint32_t msr, uint64_t now, uint64_t *value)
{
	uint32_t offset = (msr - 0x800) << 4;

	if (!lapic_x2apic_mode(l) || msr < 0x800 || msr > 0x8ff)
		return -EINVAL;
	if (offset == LAPIC_ICR) {
		*value = (uint64_t)reg_get(l, LAPIC_ICR + 4) << 32 | reg_get(l, LAPIC_ICR);
		return 0;
	}
	if (offset > LAPIC_SELF_IPI || !readable(l, offset))
		return -EINVAL;
	*value = reg_read(l, offset, now);
	return 0;
}

int lapic_msr_write(struct lapic *l, uint32_t msr, uint64_t value, uint64_t now)
{
	uint32_t offset = (msr - 0x800) << 4;

	if (!lapic_x2apic_mode(l) || msr < 0x800 || msr > 0x8ff)
		return -EINVAL;
	if (offset == LAPIC_ICR) {
		if (value & X2APIC_ICR_RESERVED)
			return -EINVAL;
		value &= ~(uint64_t)ICR_BUSY;
		send_ipi(l, value);
		reg_set(l, LAPIC_ICR, (uint32_t)value);
		reg_set(l, LAPIC_ICR + 4, (uint32_t)(value >> 32));
		return 0;
	}
	if (value >> 32)
		return -EINVAL;
	return reg_write(l, offset, (uint32_t)value, now);
}

void lapic_save(const struct lapic *l, uint64_t now, struct kvm_lapic_state *out)
{
	uint8_t *regs = (uint8_t *)out->regs;

	for (uint32_t offset = 0; offset < KVM_APIC_REG_SIZE; offset += 4)
		store_le32(regs + offset, reg_get(l, offset));
	store_le32(regs + LAPIC_TMCCT, timer_current_count(l, now));
	if (!lapic_x2apic_mode(l))
		return;
	if (!lapic_ids_32(l))
		store_le32(regs + LAPIC_ID, l->config.id << 24);
	store_le32(regs + LAPIC_ICR2, reg_get(l, LAPIC_ICR + 4));
}

int lapic_load(struct lapic *l, const struct kvm_lapic_state *in, uint64_t now)
{
	const uint8_t *regs = (const uint8_t *)in->regs;
	bool x2apic = lapic_x2apic_mode(l);

	set_svr(l, load_le32(regs + LAPIC_SVR));
	if (x2apic && lapic_ids_32(l) && load_le32(regs + LAPIC_ID) != l->config.id)
		return -EINVAL;
	for (uint32_t offset = 0; offset < KVM_APIC_REG_SIZE; offset += 4)
		reg_set(l, offset, load_le32(regs + offset));
	if (x2apic) {
		/* Read only there, so not the saved state's to say. */
		reg_set(l, LAPIC_ID, l->config.id);
		reg_set(l, LAPIC_LDR, x2apic_ldr(l->config.id));
		reg_set(l, LAPIC_ICR + 4, load_le32(regs + LAPIC_ICR2));
	}
	map_changed(l);
	set_version(l);
	lapic_update_ppr(l);
	timer_restore(l, now);
	lint0_changed(l, reg_get(l, LAPIC_LVT_LINT0));
	lapic_count_isr(l);
	attention(l);
	return 0;
}
