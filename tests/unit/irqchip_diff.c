/* SPDX-License-Identifier: MIT
 * The chip models against the kernel's own chips: the same random sequence of
 * wires, messages, register accesses (made by a real-mode guest), interrupt
 * acknowledgements and state loads goes to both; results and the whole saved
 * state must agree after every step. Fixed seed; BELFRY_SEED=n tries another.
 */
#include "../lib/chip_pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <cmocka.h>

/* --- The PIC pair --- */

static uint8_t command_word(struct chip_pair *r)
{
	switch (chip_below(r, 8)) {
	case 0:
		return 0x10 | chip_below(r, 16);			/* ICW1 */
	case 1:
		return 0x08 | (chip_rnd(r) & 0x67);			/* OCW3 */
	case 2:
		return 0x20;
	case 3:
		return 0x60 | chip_below(r, 8);
	case 4:
		return chip_rnd(r) & 0xe7;				/* any OCW2 */
	default:
		return 0x20;
	}
}

static void pic_step(struct chip_pair *r)
{
	static const uint16_t ports[] = { 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1 };
	uint16_t port = ports[chip_below(r, 6)];
	uint32_t theirs, mine;
	unsigned op = chip_below(r, 20);

	if (op < 6) {
		unsigned gsi = chip_below(r, 16);
		bool level = chip_below(r, 2);
		int status;

		SAY(r, "line %u %d", gsi, level);
		assert_int_equal(kchip_irq_line(&r->k, gsi, level, true, &status), 0);
		chip_pair_same(r, "status", status, chip_pair_line(r, gsi, level, true));
	} else if (op < 12) {
		uint32_t value = chip_rnd(r) & 0xff;
		int len = chip_below(r, 20) ? 1 : 2;

		if (!(port & 1) && port < 0x4d0)
			value = command_word(r);
		SAY(r, "out%d %#x %#x", len, port, value);
		chip_pair_same(r, "trap", kchip_out(&r->k, port, len, value), -1);
		chip_pair_finish(r, i8259_write(&r->pic, port, len, value));
	} else if (op < 15) {
		SAY(r, "in %#x", port);
		chip_pair_same(r, "trap", kchip_in(&r->k, port, 1, &theirs), -1);
		chip_pair_finish(r, i8259_read(&r->pic, port, 1, &mine));
		chip_pair_same(r, "value", theirs & 0xff, mine);
	} else if (op < 19) {
		int vector;

		SAY(r, "window");
		vector = kchip_window(&r->k);
		chip_pair_same(r, "vector", vector, chip_pair_window(r));
	} else {
		struct kvm_irqchip chip = { .chip_id = chip_below(r, 2) };
		uint8_t *bytes = (uint8_t *)&chip.chip.pic;

		SAY(r, "load %u", chip.chip_id);
		/* Any bytes: user space may say what no guest can. */
		for (size_t i = 0; i < sizeof(chip.chip.pic); i++)
			bytes[i] = chip_below(r, 3) ? chip_rnd(r) & 1 : chip_rnd(r);
		chip.chip.pic.elcr_mask = chip.chip_id ? 0xde : 0xf8;
		assert_int_equal(ioctl(r->k.vm, KVM_SET_IRQCHIP, &chip), 0);
		assert_int_equal(i8259_load(&r->pic, chip.chip_id, &chip.chip.pic), 0);
	}
}

static void pic_agrees(void **state)
{
	struct chip_pair r;

	if (!chip_pair_open(&r, 1, false))
		skip();
	for (r.step = 0; r.step < 20000; r.step++) {
		pic_step(&r);
		chip_pair_same_pics(&r);
	}
	chip_pair_close(&r);
}

/* --- I/O APIC, local APICs, MSIs --- */

/* Latched INITs and SIPIs: the kernel takes them when asked for the MP state. */
static void settle(struct chip_pair *r)
{
	for (int i = 0; i < r->k.cpus; i++) {
		struct kvm_mp_state mp;
		struct kvm_vcpu_events ev;
		bool reset = false;
		unsigned event;
		uint8_t vector;

		assert_int_equal(ioctl(r->k.vcpu[i], KVM_GET_MP_STATE, &mp), 0);
		while ((event = lapic_take_event(&r->cpu[i], &vector))) {
			if (event == LAPIC_EVENT_INIT) {
				lapic_reset(&r->cpu[i], true);
				reset = true;
				r->parked[i] = !(r->cpu[i].base_msr & APIC_BASE_BSP);
			} else {
				r->parked[i] = false;
			}
		}
		chip_pair_same(r, "waits for SIPI", mp.mp_state == KVM_MP_STATE_INIT_RECEIVED, r->parked[i]);
		if (reset && i == 0)
			kchip_setup_bsp(&r->k);
		assert_int_equal(ioctl(r->k.vcpu[i], KVM_GET_VCPU_EVENTS, &ev), 0);
		chip_pair_same(r, "NMI pending", ev.nmi.pending || ev.nmi.injected, r->nmi[i]);
		if (r->nmi[i]) {
			ev.nmi.pending = ev.nmi.injected = ev.nmi.masked = 0;
			ev.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
			assert_int_equal(ioctl(r->k.vcpu[i], KVM_SET_VCPU_EVENTS, &ev), 0);
			r->nmi[i] = false;
		}
	}
}

/* A guest access may end in the NMI that it caused. */
static void trapped(struct chip_pair *r, int vector)
{
	if (vector == 2 && r->nmi[0])
		r->nmi[0] = false;
	else
		chip_pair_same(r, "trap", vector, -1);
}

/*
 * The scan that a guest's access makes due, the kernel makes when the guest runs next, or before
 * its next instruction if its thread was put aside there: let both make it before all else.
 */
static void left(struct chip_pair *r)
{
	uint64_t value;

	if (!(r->scan_due & 1))
		return;
	chip_pair_enter(r);
	trapped(r, kchip_rdmsr(&r->k, 0x1b, &value));
}

static uint32_t pick_id(struct chip_pair *r)
{
	switch (chip_below(r, 6)) {
	case 0:
		return 0xff;
	case 1:
		return chip_rnd(r) & 0xff;
	case 2:
		return 1u << chip_below(r, 8);
	default:
		return chip_below(r, KCHIP_CPUS);
	}
}

/* Few vectors, so that they meet. */
static uint8_t pick_vector(struct chip_pair *r)
{
	return chip_below(r, 8) ? 0x30 + chip_below(r, 4) * 0x11 : chip_rnd(r);
}

static uint32_t pick_mode(struct chip_pair *r)
{
	static const uint8_t modes[] = { IRQ_FIXED, IRQ_FIXED, IRQ_LOWEST, IRQ_NMI,
					 IRQ_REMOTE_READ, IRQ_EXTINT };

	return chip_below(r, 3) ? IRQ_FIXED : modes[chip_below(r, ARRAY_SIZE(modes))];
}

static void io_write(struct chip_pair *r, uint16_t offset, int len, uint32_t value)
{
	int vector;

	settle(r);	/* what the last access caused would come before this one */
	chip_pair_enter(r);
	vector = kchip_mmio_write(&r->k, 1, offset, len, value);
	chip_pair_same(r, "acks", 0, ioapic_write(&r->io, offset, len, value));
	trapped(r, vector);
	left(r);
}

static void ioapic_step(struct chip_pair *r)
{
	unsigned op = chip_below(r, 10);
	uint32_t theirs;
	int status, mine;

	if (op < 4) {
		unsigned gsi = chip_below(r, 4) ? chip_below(r, 4) + 8 : chip_below(r, 24);
		bool level = chip_below(r, 3), line_status = chip_below(r, 2);

		SAY(r, "line%d %u %d", line_status, gsi, level);
		assert_int_equal(kchip_irq_line(&r->k, gsi, level, line_status, &status), 0);
		mine = chip_pair_line(r, gsi, level, line_status);
		if (line_status)
			chip_pair_same(r, "status", status, mine);
	} else if (op < 5) {
		uint32_t index = chip_below(r, 4) ? chip_below(r, 0x48) : chip_rnd(r);

		SAY(r, "ioregsel %#x", index);
		io_write(r, 0, chip_below(r, 8) ? 4 : 1, index);
	} else if (op < 6) {
		uint16_t offset = chip_below(r, 4) ? 0x10 : chip_below(r, 16) * 0x10;
		uint32_t value = chip_below(r, 2) ? chip_rnd(r) & ~0x700u : pick_vector(r);
		int len = chip_below(r, 8) ? 4 : 1 + chip_below(r, 2);

		SAY(r, "ioapic %#x len %d %#x", offset, len, value);
		io_write(r, offset, len, value);
	} else if (op < 8) {
		unsigned pin = chip_below(r, 4) ? chip_below(r, 4) + 8 : chip_below(r, 24);
		uint32_t low = pick_vector(r) | pick_mode(r) << 8 | (chip_rnd(r) & 0xf800) |
			       (chip_below(r, 3) ? 0 : RTE_MASKED);

		SAY(r, "rte %u %#x", pin, low);
		io_write(r, 0, 4, 0x10 + pin * 2);
		io_write(r, 0x10, 4, low);
		if (chip_below(r, 2))
			return;
		SAY(r, "rte %u dest", pin);
		io_write(r, 0, 4, 0x11 + pin * 2);
		io_write(r, 0x10, 4, pick_id(r) << 24 | (chip_rnd(r) & 0xffffff));
	} else if (op < 9) {
		uint16_t offset = chip_below(r, 3) ? 0x10 : chip_below(r, 16) * 0x10;
		int len = 1 << chip_below(r, 3);

		SAY(r, "ioapic read %#x", offset);
		chip_pair_enter(r);
		trapped(r, kchip_mmio_read(&r->k, 1, offset, len, &theirs));
		chip_pair_same(r, "value", theirs & len_mask(len), ioapic_read(&r->io, offset, len));
	} else if (!chip_below(r, 4)) {
		struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

		SAY(r, "load ioapic");
		assert_int_equal(ioctl(r->k.vm, KVM_GET_IRQCHIP, &chip), 0);
		chip.chip.ioapic.irr = chip_rnd(r) & chip_rnd(r);
		chip.chip.ioapic.ioregsel = chip_rnd(r);
		chip.chip.ioapic.id = chip_rnd(r);
		for (unsigned i = 0; i < 4; i++)
			chip.chip.ioapic.redirtbl[chip_below(r, 24)].bits =
				(uint64_t)pick_id(r) << 56 | pick_vector(r) | (chip_rnd(r) & 0x1f800);
		assert_int_equal(ioctl(r->k.vm, KVM_SET_IRQCHIP, &chip), 0);
		ioapic_load(&r->io, &chip.chip.ioapic);
		r->scan_due = CHIP_PAIR_ALL;
	}
}

/* An INIT to the CPU that runs the guest code would pull it from under it. */
static uint32_t tame(struct chip_pair *r, uint32_t icr, uint64_t dest_icr, int src)
{
	struct irq_message msg;

	icr_decode(dest_icr | icr, lapic_x2apic_mode(&r->cpu[src]), &msg);
	if (msg.delivery == IRQ_INIT && lapic_match(&r->cpu[0], &r->cpu[src], &msg))
		icr &= ~0x700u;
	return icr;
}

static uint32_t pick_icr(struct chip_pair *r)
{
	uint32_t mode = chip_below(r, 6) ? pick_mode(r) : IRQ_INIT + chip_below(r, 2);

	return pick_vector(r) | mode << 8 | (chip_rnd(r) & 0xd800) |
	       (chip_below(r, 2) ? 0 : chip_rnd(r) & 0xc0000);
}

static uint32_t pick_lapic_value(struct chip_pair *r, uint32_t offset)
{
	switch (offset) {
	case LAPIC_ID: case LAPIC_LDR: case LAPIC_ICR2:
		return pick_id(r) << 24 | (chip_rnd(r) & 0xffffff);
	case LAPIC_DFR:
		return chip_below(r, 6) ? chip_below(r, 2) ? UINT32_MAX : 0 : chip_rnd(r);
	case LAPIC_SVR:
		return (chip_below(r, 4) ? LAPIC_SVR_ENABLE : 0) | (chip_rnd(r) & ~LAPIC_SVR_ENABLE);
	case LAPIC_TPR:
		return chip_below(r, 2) ? 0 : chip_rnd(r);
	case LAPIC_LVT_TIMER:
		return chip_rnd(r) | LAPIC_LVT_MASKED;	/* its interrupts would come at any time */
	case LAPIC_LVT_LINT0:
		return chip_below(r, 2) ? 0x700 : chip_rnd(r);
	case LAPIC_SELF_IPI:
		return chip_below(r, 4) ? pick_vector(r) : chip_rnd(r);
	case LAPIC_ESR:
		return chip_below(r, 2) ? 0 : chip_rnd(r);
	default:
		return chip_rnd(r);
	}
}

static uint32_t pick_offset(struct chip_pair *r)
{
	static const uint16_t usual[] = {
		LAPIC_ID, LAPIC_VERSION, LAPIC_TPR, LAPIC_APR, LAPIC_PPR, LAPIC_EOI, LAPIC_EOI,
		LAPIC_EOI, LAPIC_LDR, LAPIC_DFR, LAPIC_SVR, LAPIC_ESR, LAPIC_LVT_CMCI, LAPIC_ICR,
		LAPIC_ICR, LAPIC_ICR, LAPIC_ICR2, LAPIC_LVT_TIMER, LAPIC_LVT_THERMAL,
		LAPIC_LVT_PERF, LAPIC_LVT_LINT0, LAPIC_LVT_LINT1, LAPIC_LVT_ERROR, LAPIC_TMICT,
		LAPIC_TMCCT, LAPIC_TDCR, LAPIC_SELF_IPI, LAPIC_TPR,
	};

	return chip_below(r, 6) ? usual[chip_below(r, ARRAY_SIZE(usual))] : chip_below(r, 0x40) << 4;
}

static bool page_there(struct chip_pair *r)
{
	return lapic_hw_enabled(&r->cpu[0]) && !lapic_x2apic_mode(&r->cpu[0]);
}

static void lapic_mmio_step(struct chip_pair *r)
{
	uint32_t offset = pick_offset(r), value, theirs, mine;
	int len = chip_below(r, 12) ? 4 : 1 << chip_below(r, 2);
	uint64_t dest = (uint64_t)lapic_reg(&r->cpu[0], LAPIC_ICR2) << 32;
	int vector;

	chip_pair_enter(r);
	if (chip_below(r, 3)) {
		value = pick_lapic_value(r, offset);
		if (offset == LAPIC_ICR)
			value = tame(r, pick_icr(r), dest, 0);
		SAY(r, "lapic %#x len %d %#x", offset, len, value);
		vector = kchip_mmio_write(&r->k, 0, offset, len, value);
		assert_int_equal(lapic_mmio_write(&r->cpu[0], offset, len, value, clock_ns()), 0);
		chip_pair_broadcast(r, 0);
		trapped(r, vector);
		left(r);
		return;
	}
	if (offset == LAPIC_TMCCT)
		return;
	offset |= chip_below(r, 5) ? 0 : chip_below(r, 16);
	SAY(r, "lapic read %#x len %d", offset, len);
	trapped(r, kchip_mmio_read(&r->k, 0, offset, len, &theirs));
	assert_int_equal(lapic_mmio_read(&r->cpu[0], offset, len, clock_ns(), &mine), 0);
	/* Agreed difference 2: what the kernel leaves of a bad read. */
	if (page_there(r) && !mine)
		return;
	chip_pair_same(r, "value", theirs & len_mask(len), mine & len_mask(len));
}

static void msr_step(struct chip_pair *r)
{
	int cpu = chip_below(r, r->k.cpus);
	uint32_t offset = pick_offset(r), msr = 0x800 + (offset >> 4);
	uint64_t value, theirs, mine;
	bool ok;

	if (chip_below(r, 2)) {
		value = pick_lapic_value(r, offset) | (chip_below(r, 30) ? 0 : (uint64_t)1 << 32);
		if (offset == LAPIC_ICR) {
			uint64_t dest = (uint64_t)(chip_below(r, 4) ? pick_id(r)
						   : chip_below(r, 2) ? UINT32_MAX : chip_rnd(r)) << 32;

			value = dest | tame(r, pick_icr(r), dest, cpu);
			if (!chip_below(r, 16))
				value |= 1u << chip_below(r, 32);
		}
		SAY(r, "wrmsr %#x %#llx cpu %d", msr, (long long)value, cpu);
		ok = kchip_set_msr(&r->k, cpu, msr, value);
		chip_pair_same(r, "ok", ok, !lapic_msr_write(&r->cpu[cpu], msr, value, clock_ns()));
		chip_pair_broadcast(r, cpu);
		return;
	}
	if (offset == LAPIC_TMCCT)
		return;
	SAY(r, "rdmsr %#x cpu %d", msr, cpu);
	ok = kchip_get_msr(&r->k, cpu, msr, &theirs);
	chip_pair_same(r, "ok", ok, !lapic_msr_read(&r->cpu[cpu], msr, clock_ns(), &mine));
	if (ok)
		chip_pair_same(r, "value", theirs, mine);
}

static void base_step(struct chip_pair *r)
{
	int cpu = chip_below(r, r->k.cpus);
	uint64_t value = APIC_BASE_DEFAULT | (chip_below(r, 4) ? APIC_BASE_ENABLE : 0) |
			 (chip_below(r, 2) ? APIC_BASE_X2APIC : 0) | (cpu ? 0 : APIC_BASE_BSP);
	uint64_t theirs;

	if (!chip_below(r, 8))
		value |= chip_below(r, 2) ? 1u << chip_below(r, 10) : 1ull << (40 + chip_below(r, 20));
	value &= ~0xffffull << 32 | 0xffffffffull | 1ull << 55 | 1ull << 58;
	if (cpu == 0 && chip_below(r, 2)) {
		int vector;

		SAY(r, "guest wrmsr APIC_BASE %#llx", (long long)value);
		chip_pair_enter(r);
		vector = kchip_wrmsr(&r->k, 0x1b, value);
		chip_pair_same(r, "#GP", vector, lapic_set_base(&r->cpu[0], value, false) ? 13 : -1);
		left(r);
	} else {
		SAY(r, "APIC_BASE %#llx cpu %d", (long long)value, cpu);
		chip_pair_same(r, "ok", kchip_set_msr(&r->k, cpu, 0x1b, value),
		     !lapic_set_base(&r->cpu[cpu], value, true));
	}
	assert_true(kchip_get_msr(&r->k, cpu, 0x1b, &theirs));
	chip_pair_same(r, "base", theirs, r->cpu[cpu].base_msr);
}

static void load_lapic_step(struct chip_pair *r)
{
	int cpu = chip_below(r, r->k.cpus);
	struct kvm_lapic_state s;
	int ret;

	assert_int_equal(ioctl(r->k.vcpu[cpu], KVM_GET_LAPIC, &s), 0);
	for (unsigned n = chip_below(r, 6); n; n--) {
		uint32_t offset = chip_below(r, 3) ? pick_offset(r) : LAPIC_ISR + chip_below(r, 24) * 0x10;

		if (offset == LAPIC_LVT_PERF || (offset == LAPIC_ID && chip_below(r, 4)))
			continue;
		store_le32(s.regs + offset, offset >= LAPIC_ISR && offset < LAPIC_ESR
			   ? chip_rnd(r) & chip_rnd(r) & chip_rnd(r) : pick_lapic_value(r, offset));
	}
	SAY(r, "load lapic %d", cpu);
	ret = ioctl(r->k.vcpu[cpu], KVM_SET_LAPIC, &s);
	chip_pair_same(r, "ok", ret == 0, lapic_load(&r->cpu[cpu], &s, clock_ns()) == 0);
	if (!ret)
		lapic_load_rtc(&r->cpu[cpu], &r->io);
}

static void msi_step(struct chip_pair *r, bool api)
{
	uint32_t mode = chip_below(r, 8) ? pick_mode(r) : IRQ_INIT + chip_below(r, 2);
	uint64_t address = MSI_ADDRESS_BASE | pick_id(r) << 12 | (chip_rnd(r) & 0xc);
	uint32_t data = pick_vector(r) | mode << 8 | (chip_rnd(r) & 0xc000);
	struct irq_message msg;
	int theirs, mine;

	if (!chip_below(r, 4))
		address |= (uint64_t)(chip_below(r, 2) ? chip_rnd(r) & chip_rnd(r) & chip_rnd(r) :
						 0xffffff00u) << 32;
	SAY(r, "msi %#llx %#x", (long long)address, data);
	theirs = kchip_msi(&r->k, address, data);
	if (msi_decode(address, data, api ? MSI_X2APIC : MSI_XAPIC, &msg))
		mine = -1;
	else
		mine = lapic_map_deliver(chip_pair_map(r), NULL, &msg, NULL);
	chip_pair_same(r, "result", theirs, mine);
}

static void apic_step(struct chip_pair *r, bool api)
{
	unsigned op = chip_below(r, 100);

	if (op < 35)
		ioapic_step(r);
	else if (op < 60)
		lapic_mmio_step(r);
	else if (op < 72)
		msr_step(r);
	else if (op < 74)
		base_step(r);
	else if (op < 76)
		load_lapic_step(r);
	else if (op < 86)
		msi_step(r, api);
	else {
		int vector;

		SAY(r, "window");
		chip_pair_enter(r);
		vector = kchip_window(&r->k);
		SAY(r, "window: %d", vector);
		chip_pair_same(r, "vector", vector, chip_pair_window(r));
		left(r);
	}
}

static void apics_agree(bool api)
{
	struct chip_pair r;

	if (!chip_pair_open(&r, KCHIP_CPUS, api))
		skip();
	for (r.step = 0; r.step < 20000; r.step++) {
		apic_step(&r, api);
		settle(&r);
		chip_pair_same_pics(&r);
		chip_pair_same_ioapic(&r);
		chip_pair_same_lapics(&r);
	}
	chip_pair_close(&r);
}

static void apics_agree_8bit(void **state)
{
	apics_agree(false);
}

static void apics_agree_32bit(void **state)
{
	apics_agree(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pic_agrees),
		cmocka_unit_test(apics_agree_8bit),
		cmocka_unit_test(apics_agree_32bit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
