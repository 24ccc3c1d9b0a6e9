/* SPDX-License-Identifier: MIT
 * The chip models against the kernel's own chips: the same random sequence of
 * wires, messages, register accesses (made by a real-mode guest), interrupt
 * acknowledgements and state loads goes to both; results and the whole saved
 * state must agree after every step. Fixed seed; BELFRY_SEED=n tries another.
 */
#include "irqchip/irqchip.h"
#include "../lib/kchip.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <cmocka.h>

/* --- The model's wiring: what softkvm's glue does, on one thread. --- */

struct rig {
	struct kchip k;
	struct i8259 pic;
	struct ioapic io;
	struct i8254 pit;
	struct lapic cpu[KCHIP_CPUS];
	struct lapic *cpus[KCHIP_CPUS];
	struct lapic_map *map;
	bool map_stale;
	unsigned scan_due;		/* a bit for each CPU */
	int stale;			/* of vCPU 0: its EOI makes a scan due */
	bool ends_at_once;	/* agreed difference 1 */
	bool nmi[KCHIP_CPUS];
	bool parked[KCHIP_CPUS];	/* INIT received, waits for a SIPI */
	uint64_t rng;
	unsigned step;
	char what[160];
};

static const struct lapic_map *rig_map(struct rig *r)
{
	if (r->map_stale)
		lapic_map_build(r->map, 255, r->cpus, r->k.cpus);
	r->map_stale = false;
	return r->map;
}

static void pic_output(void *opaque, bool raised)
{
}

static bool pic_accepted(void *opaque)
{
	struct rig *r = opaque;

	for (int i = 0; i < r->k.cpus; i++)
		if (lapic_accepts_extint(&r->cpu[i]))
			return true;
	return false;
}

static const struct i8259_sink pic_sink = {
	.output = pic_output, .extint_accepted = pic_accepted,
};

static int io_deliver(void *opaque, const struct irq_message *msg, struct ioapic_rtc *rtc)
{
	return lapic_map_deliver(rig_map(opaque), NULL, msg, rtc);
}

#define ALL_CPUS ((1u << KCHIP_CPUS) - 1)

/* As the kernel: a fixed entry concerns those it names, or named (in its new mode). */
static void io_route(void *opaque, unsigned pin, uint64_t old, uint64_t new)
{
	struct rig *r = opaque;
	struct irq_message msg, before;

	rte_decode(new, false, &msg);
	rte_decode(old, false, &before);
	before.logical = msg.logical;
	before.delivery = msg.delivery;
	for (int i = 0; i < r->k.cpus; i++)
		if (msg.delivery != IRQ_FIXED || lapic_map_reaches(rig_map(r), &msg, &r->cpu[i]) ||
		    lapic_map_reaches(rig_map(r), &before, &r->cpu[i]))
			r->scan_due |= 1u << i;
}

static void io_rtc_restore(void *opaque, const struct irq_message *msg, struct ioapic_rtc *rtc)
{
	lapic_map_rtc_restore(rig_map(opaque), msg, rtc);
}

static const struct ioapic_sink io_sink = {
	.deliver = io_deliver, .route_changed = io_route, .rtc_restore = io_rtc_restore,
};

struct cpu_ref {
	struct rig *rig;
	int index;
};

static struct cpu_ref refs[KCHIP_CPUS];

static void cpu_ipi(void *opaque, const struct irq_message *msg)
{
	struct cpu_ref *ref = opaque;

	lapic_map_deliver(rig_map(ref->rig), &ref->rig->cpu[ref->index], msg, NULL);
}

static void cpu_attention(void *opaque)
{
}

static void cpu_nmi(void *opaque)
{
	struct cpu_ref *ref = opaque;

	ref->rig->nmi[ref->index] = true;
}

static void cpu_map(void *opaque)
{
	struct cpu_ref *ref = opaque;

	ref->rig->map_stale = true;
	ref->rig->scan_due = ALL_CPUS;
}

static const struct lapic_sink cpu_sink = {
	.deliver_ipi = cpu_ipi, .attention = cpu_attention, .nmi = cpu_nmi, .map_changed = cpu_map,
};

static const struct i8254_sink pit_sink = { NULL };

/* The EOIs of vCPU i reach the I/O APIC. */
static void rig_broadcast(struct rig *r, int i)
{
	bool level;
	int vector;

	while ((vector = lapic_take_eoi(&r->cpu[i], &level)) >= 0) {
		bool quiet = lapic_reg(&r->cpu[i], LAPIC_SVR) & LAPIC_SVR_NO_BROADCAST;
		uint32_t pins = ioapic_eoi(&r->io, i, vector, level, quiet);

		ioapic_eoi_end(&r->io, pins, level && !quiet);
		if (i == 0 && vector == r->stale)
			r->scan_due |= 1;
	}
}

/* What the kernel does when a vCPU is about to run. */
static void rig_enter(struct rig *r)
{
	/* It looks for an interrupt, which brings PPR up to date. */
	if (!lapic_accepts_extint(&r->cpu[0]) || !i8259_output(&r->pic))
		lapic_pending_vector(&r->cpu[0]);
	/* Only vCPU 0 ever runs: the others keep what they started with, nothing. */
	if (r->scan_due & 1) {
		uint64_t handled[4];

		r->stale = lapic_scan_ioapic(&r->cpu[0], &r->io, 0, handled);
		lapic_set_handled(&r->cpu[0], handled);
	}
	r->scan_due &= ~1u;
}

static int merge(int a, int b)
{
	return b < 0 ? a : MAX(a, 0) + b;
}

static int rig_line(struct rig *r, unsigned gsi, bool level, bool status)
{
	int ret = -1;

	ret = merge(ret, ioapic_set_line(&r->io, gsi, 0, level, status));
	if (gsi < 16)
		ret = merge(ret, i8259_set_line(&r->pic, gsi, 0, level));
	return ret;
}

static int rig_window(struct rig *r)
{
	struct lapic *l = &r->cpu[0];
	uint32_t acks;
	int vector;

	if (lapic_accepts_extint(l) && i8259_output(&r->pic)) {
		vector = i8259_inta(&r->pic, &acks);
		if (acks)
			i8259_complete(&r->pic);
	} else {
		vector = lapic_pending_vector(l);
		if (vector >= 0)
			lapic_accept_vector(l, vector);
	}
	if (vector >= 0 && r->ends_at_once) {
		lapic_eoi(l);
		rig_broadcast(r, 0);
	}
	return vector;
}

/* Does this KVM end a local APIC's interrupt while it injects it? */
static bool ends_at_once(void)
{
	struct kvm_lapic_state s;
	struct kchip k;
	const char *why;

	if (kchip_open(&k, 1, false, &why))
		return false;
	kchip_mmio_write(&k, 0, LAPIC_SVR, 4, 0x1ff);
	assert_int_equal(kchip_msi(&k, MSI_ADDRESS_BASE, 0x41), 1);
	assert_int_equal(kchip_window(&k), 0x41);
	assert_int_equal(ioctl(k.vcpu[0], KVM_GET_LAPIC, &s), 0);
	kchip_close(&k);
	return !(s.regs[LAPIC_ISR + 0x20] & 2);
}

/*
 * The models follow Linux 6.18. Kernels before 6.8 answer a PIC poll without
 * bit 7 and build their map of logical destinations differently (6.1 does).
 */
static bool kernel_is_older(void)
{
	struct utsname u;
	unsigned major, minor;

	assert_int_equal(uname(&u), 0);
	if (sscanf(u.release, "%u.%u", &major, &minor) != 2 || major > 6 ||
	    (major == 6 && minor >= 8))
		return false;
	printf("skipped: the KVM of Linux %s is older than the one the models follow\n", u.release);
	return true;
}

static bool rig_open(struct rig *r, int cpus, bool api)
{
	const char *why;
	int ret;
	const char *seed = getenv("BELFRY_SEED");

	memset(r, 0, sizeof(*r));
	if (kernel_is_older())
		return false;
	ret = kchip_open(&r->k, cpus, api, &why);
	if (ret) {
		printf("skipped: %s (%s)\n", why, strerror(-ret));
		return false;
	}
	r->ends_at_once = ends_at_once();
	r->rng = seed ? strtoull(seed, NULL, 0) : 0x42454c46;
	r->map = malloc(lapic_map_size(255));
	assert_non_null(r->map);
	r->map_stale = true;
	r->scan_due = ALL_CPUS;
	i8259_init(&r->pic, &pic_sink, r, false);
	ioapic_init(&r->io, 0x11, false, &io_sink, r);
	/* The kernel's PIT, which reinjects, listens to the acks of gsi 0. */
	i8259_want_acks(&r->pic, 1);
	ioapic_want_acks(&r->io, 1);
	i8254_init(&r->pit, 0, &pit_sink, r, clock_ns());
	for (int i = 0; i < cpus; i++) {
		struct lapic_config c = {
			.id = i, .bsp = i == 0, .lint0_enabled = true, .mmio_hole = true,
			.x2apic_ids_32 = api, .no_broadcast_quirk = api,
		};

		refs[i] = (struct cpu_ref) { r, i };
		r->cpus[i] = &r->cpu[i];
		lapic_init(&r->cpu[i], &c, &cpu_sink, &refs[i]);
		lapic_set_cpuid(&r->cpu[i], true, true, false, 46);
		lapic_set_handled(&r->cpu[i], (uint64_t[4]) { 0 });
	}
	return true;
}

static void rig_close(struct rig *r)
{
	kchip_close(&r->k);
	free(r->map);
}

static uint32_t rnd(struct rig *r)
{
	r->rng = r->rng * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(r->rng >> 32);
}

static uint32_t below(struct rig *r, uint32_t n)
{
	return rnd(r) % n;
}

/* --- Comparison --- */

/* BELFRY_TRACE=1 prints every step. */
#define SAY(r, ...) do {							\
	snprintf((r)->what, sizeof((r)->what), __VA_ARGS__);			\
	if (getenv("BELFRY_TRACE"))						\
		fprintf(stderr, "%u %s\n", (r)->step, (r)->what);		\
} while (0)

static void differ(struct rig *r, const char *where, unsigned offset, uint32_t kernel,
		   uint32_t model)
{
	fail_msg("step %u (%s): %s+%#x: kernel %#x, model %#x", r->step, r->what, where, offset,
		 kernel, model);
}

static void same(struct rig *r, const char *what, int64_t kernel, int64_t model)
{
	if (kernel != model)
		fail_msg("step %u (%s): %s: kernel %#llx, model %#llx", r->step, r->what, what,
			 (long long)kernel, (long long)model);
}

static void same_bytes(struct rig *r, const char *where, const void *kernel, const void *model,
		       size_t size)
{
	const uint8_t *a = kernel, *b = model;

	for (size_t i = 0; i < size; i++)
		if (a[i] != b[i])
			differ(r, where, i, a[i], b[i]);
}

static void compare_pics(struct rig *r)
{
	struct kvm_irqchip chip;
	struct kvm_pic_state mine;
	static const char *const names[] = { "master", "slave" };

	for (unsigned i = 0; i < 2; i++) {
		chip.chip_id = i;
		assert_int_equal(ioctl(r->k.vm, KVM_GET_IRQCHIP, &chip), 0);
		assert_int_equal(i8259_save(&r->pic, i, &mine), 0);
		same_bytes(r, names[i], &chip.chip.pic, &mine, sizeof(mine));
	}
}

static void compare_ioapic(struct rig *r)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
	struct kvm_ioapic_state mine;

	assert_int_equal(ioctl(r->k.vm, KVM_GET_IRQCHIP, &chip), 0);
	ioapic_save(&r->io, &mine);
	same_bytes(r, "ioapic", &chip.chip.ioapic, &mine, sizeof(mine));
}

static void compare_lapics(struct rig *r)
{
	for (int i = 0; i < r->k.cpus; i++) {
		struct kvm_lapic_state theirs, mine;

		assert_int_equal(ioctl(r->k.vcpu[i], KVM_GET_LAPIC, &theirs), 0);
		lapic_save(&r->cpu[i], clock_ns(), &mine);
		for (unsigned o = 0; o < KVM_APIC_REG_SIZE; o += 4)
			if (o != LAPIC_TMCCT && memcmp(theirs.regs + o, mine.regs + o, 4)) {
				fail_msg("step %u (%s): lapic %d register %#x: kernel %#x, model %#x",
					 r->step, r->what, i, o, load_le32(theirs.regs + o),
					 load_le32(mine.regs + o));
			}
	}
}

/* The model's PIC wants acks for pin 0 as the kernel's PIT does. */
static void finish(struct rig *r, uint32_t acks)
{
	if (acks & ~1u)
		fail_msg("step %u (%s): acks %#x nobody asked for", r->step, r->what, acks);
	if (acks)
		i8259_complete(&r->pic);
}

/* --- The PIC pair --- */

static uint8_t command_word(struct rig *r)
{
	switch (below(r, 8)) {
	case 0:
		return 0x10 | below(r, 16);			/* ICW1 */
	case 1:
		return 0x08 | (rnd(r) & 0x67);			/* OCW3 */
	case 2:
		return 0x20;
	case 3:
		return 0x60 | below(r, 8);
	case 4:
		return rnd(r) & 0xe7;				/* any OCW2 */
	default:
		return 0x20;
	}
}

static void pic_step(struct rig *r)
{
	static const uint16_t ports[] = { 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1 };
	uint16_t port = ports[below(r, 6)];
	uint32_t theirs, mine;
	unsigned op = below(r, 20);

	if (op < 6) {
		unsigned gsi = below(r, 16);
		bool level = below(r, 2);
		int status;

		SAY(r, "line %u %d", gsi, level);
		assert_int_equal(kchip_irq_line(&r->k, gsi, level, true, &status), 0);
		same(r, "status", status, rig_line(r, gsi, level, true));
	} else if (op < 12) {
		uint32_t value = rnd(r) & 0xff;
		int len = below(r, 20) ? 1 : 2;

		if (!(port & 1) && port < 0x4d0)
			value = command_word(r);
		SAY(r, "out%d %#x %#x", len, port, value);
		same(r, "trap", kchip_out(&r->k, port, len, value), -1);
		finish(r, i8259_write(&r->pic, port, len, value));
	} else if (op < 15) {
		SAY(r, "in %#x", port);
		same(r, "trap", kchip_in(&r->k, port, 1, &theirs), -1);
		finish(r, i8259_read(&r->pic, port, 1, &mine));
		same(r, "value", theirs & 0xff, mine);
	} else if (op < 19) {
		int vector;

		SAY(r, "window");
		vector = kchip_window(&r->k);
		same(r, "vector", vector, rig_window(r));
	} else {
		struct kvm_irqchip chip = { .chip_id = below(r, 2) };
		uint8_t *bytes = (uint8_t *)&chip.chip.pic;

		SAY(r, "load %u", chip.chip_id);
		/* Any bytes: user space may say what no guest can. */
		for (size_t i = 0; i < sizeof(chip.chip.pic); i++)
			bytes[i] = below(r, 3) ? rnd(r) & 1 : rnd(r);
		chip.chip.pic.elcr_mask = chip.chip_id ? 0xde : 0xf8;
		assert_int_equal(ioctl(r->k.vm, KVM_SET_IRQCHIP, &chip), 0);
		assert_int_equal(i8259_load(&r->pic, chip.chip_id, &chip.chip.pic), 0);
	}
}

static void pic_agrees(void **state)
{
	struct rig r;

	if (!rig_open(&r, 1, false))
		skip();
	for (r.step = 0; r.step < 20000; r.step++) {
		pic_step(&r);
		compare_pics(&r);
	}
	rig_close(&r);
}

/* --- I/O APIC, local APICs, MSIs --- */

/* Latched INITs and SIPIs: the kernel takes them when asked for the MP state. */
static void settle(struct rig *r)
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
		same(r, "waits for SIPI", mp.mp_state == KVM_MP_STATE_INIT_RECEIVED, r->parked[i]);
		if (reset && i == 0)
			kchip_setup_bsp(&r->k);
		assert_int_equal(ioctl(r->k.vcpu[i], KVM_GET_VCPU_EVENTS, &ev), 0);
		same(r, "NMI pending", ev.nmi.pending || ev.nmi.injected, r->nmi[i]);
		if (r->nmi[i]) {
			ev.nmi.pending = ev.nmi.injected = ev.nmi.masked = 0;
			ev.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
			assert_int_equal(ioctl(r->k.vcpu[i], KVM_SET_VCPU_EVENTS, &ev), 0);
			r->nmi[i] = false;
		}
	}
}

/* A guest access may end in the NMI that it caused. */
static void trapped(struct rig *r, int vector)
{
	if (vector == 2 && r->nmi[0])
		r->nmi[0] = false;
	else
		same(r, "trap", vector, -1);
}

static uint32_t pick_id(struct rig *r)
{
	switch (below(r, 6)) {
	case 0:
		return 0xff;
	case 1:
		return rnd(r) & 0xff;
	case 2:
		return 1u << below(r, 8);
	default:
		return below(r, KCHIP_CPUS);
	}
}

/* Few vectors, so that they meet. */
static uint8_t pick_vector(struct rig *r)
{
	return below(r, 8) ? 0x30 + below(r, 4) * 0x11 : rnd(r);
}

static uint32_t pick_mode(struct rig *r)
{
	static const uint8_t modes[] = { IRQ_FIXED, IRQ_FIXED, IRQ_LOWEST, IRQ_NMI,
					 IRQ_REMOTE_READ, IRQ_EXTINT };

	return below(r, 3) ? IRQ_FIXED : modes[below(r, ARRAY_SIZE(modes))];
}

static void io_write(struct rig *r, uint16_t offset, int len, uint32_t value)
{
	int vector;

	settle(r);	/* what the last access caused would come before this one */
	rig_enter(r);
	vector = kchip_mmio_write(&r->k, 1, offset, len, value);
	same(r, "acks", 0, ioapic_write(&r->io, offset, len, value));
	trapped(r, vector);
}

static void ioapic_step(struct rig *r)
{
	unsigned op = below(r, 10);
	uint32_t theirs;
	int status, mine;

	if (op < 4) {
		unsigned gsi = below(r, 4) ? below(r, 4) + 8 : below(r, 24);
		bool level = below(r, 3), line_status = below(r, 2);

		SAY(r, "line%d %u %d", line_status, gsi, level);
		assert_int_equal(kchip_irq_line(&r->k, gsi, level, line_status, &status), 0);
		mine = rig_line(r, gsi, level, line_status);
		if (line_status)
			same(r, "status", status, mine);
	} else if (op < 5) {
		uint32_t index = below(r, 4) ? below(r, 0x48) : rnd(r);

		SAY(r, "ioregsel %#x", index);
		io_write(r, 0, below(r, 8) ? 4 : 1, index);
	} else if (op < 6) {
		uint16_t offset = below(r, 4) ? 0x10 : below(r, 16) * 0x10;
		uint32_t value = below(r, 2) ? rnd(r) & ~0x700u : pick_vector(r);
		int len = below(r, 8) ? 4 : 1 + below(r, 2);

		SAY(r, "ioapic %#x len %d %#x", offset, len, value);
		io_write(r, offset, len, value);
	} else if (op < 8) {
		unsigned pin = below(r, 4) ? below(r, 4) + 8 : below(r, 24);
		uint32_t low = pick_vector(r) | pick_mode(r) << 8 | (rnd(r) & 0xf800) |
			       (below(r, 3) ? 0 : RTE_MASKED);

		SAY(r, "rte %u %#x", pin, low);
		io_write(r, 0, 4, 0x10 + pin * 2);
		io_write(r, 0x10, 4, low);
		if (below(r, 2))
			return;
		SAY(r, "rte %u dest", pin);
		io_write(r, 0, 4, 0x11 + pin * 2);
		io_write(r, 0x10, 4, pick_id(r) << 24 | (rnd(r) & 0xffffff));
	} else if (op < 9) {
		uint16_t offset = below(r, 3) ? 0x10 : below(r, 16) * 0x10;
		int len = 1 << below(r, 3);

		SAY(r, "ioapic read %#x", offset);
		rig_enter(r);
		trapped(r, kchip_mmio_read(&r->k, 1, offset, len, &theirs));
		same(r, "value", theirs & len_mask(len), ioapic_read(&r->io, offset, len));
	} else if (!below(r, 4)) {
		struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

		SAY(r, "load ioapic");
		assert_int_equal(ioctl(r->k.vm, KVM_GET_IRQCHIP, &chip), 0);
		chip.chip.ioapic.irr = rnd(r) & rnd(r);
		chip.chip.ioapic.ioregsel = rnd(r);
		chip.chip.ioapic.id = rnd(r);
		for (unsigned i = 0; i < 4; i++)
			chip.chip.ioapic.redirtbl[below(r, 24)].bits =
				(uint64_t)pick_id(r) << 56 | pick_vector(r) | (rnd(r) & 0x1f800);
		assert_int_equal(ioctl(r->k.vm, KVM_SET_IRQCHIP, &chip), 0);
		ioapic_load(&r->io, &chip.chip.ioapic);
		r->scan_due = ALL_CPUS;
	}
}

/* An INIT to the CPU that runs the guest code would pull it from under it. */
static uint32_t tame(struct rig *r, uint32_t icr, uint64_t dest_icr, int src)
{
	struct irq_message msg;

	icr_decode(dest_icr | icr, lapic_x2apic_mode(&r->cpu[src]), &msg);
	if (msg.delivery == IRQ_INIT && lapic_match(&r->cpu[0], &r->cpu[src], &msg))
		icr &= ~0x700u;
	return icr;
}

static uint32_t pick_icr(struct rig *r)
{
	uint32_t mode = below(r, 6) ? pick_mode(r) : IRQ_INIT + below(r, 2);

	return pick_vector(r) | mode << 8 | (rnd(r) & 0xd800) | (below(r, 2) ? 0 : rnd(r) & 0xc0000);
}

static uint32_t pick_lapic_value(struct rig *r, uint32_t offset)
{
	switch (offset) {
	case LAPIC_ID: case LAPIC_LDR: case LAPIC_ICR2:
		return pick_id(r) << 24 | (rnd(r) & 0xffffff);
	case LAPIC_DFR:
		return below(r, 6) ? below(r, 2) ? UINT32_MAX : 0 : rnd(r);
	case LAPIC_SVR:
		return (below(r, 4) ? LAPIC_SVR_ENABLE : 0) | (rnd(r) & ~LAPIC_SVR_ENABLE);
	case LAPIC_TPR:
		return below(r, 2) ? 0 : rnd(r);
	case LAPIC_LVT_TIMER:
		return rnd(r) | LAPIC_LVT_MASKED;	/* its interrupts would come at any time */
	case LAPIC_LVT_LINT0:
		return below(r, 2) ? 0x700 : rnd(r);
	case LAPIC_SELF_IPI:
		return below(r, 4) ? pick_vector(r) : rnd(r);
	case LAPIC_ESR:
		return below(r, 2) ? 0 : rnd(r);
	default:
		return rnd(r);
	}
}

static uint32_t pick_offset(struct rig *r)
{
	static const uint16_t usual[] = {
		LAPIC_ID, LAPIC_VERSION, LAPIC_TPR, LAPIC_APR, LAPIC_PPR, LAPIC_EOI, LAPIC_EOI,
		LAPIC_EOI, LAPIC_LDR, LAPIC_DFR, LAPIC_SVR, LAPIC_ESR, LAPIC_LVT_CMCI, LAPIC_ICR,
		LAPIC_ICR, LAPIC_ICR, LAPIC_ICR2, LAPIC_LVT_TIMER, LAPIC_LVT_THERMAL,
		LAPIC_LVT_PERF, LAPIC_LVT_LINT0, LAPIC_LVT_LINT1, LAPIC_LVT_ERROR, LAPIC_TMICT,
		LAPIC_TMCCT, LAPIC_TDCR, LAPIC_SELF_IPI, LAPIC_TPR,
	};

	return below(r, 6) ? usual[below(r, ARRAY_SIZE(usual))] : below(r, 0x40) << 4;
}

static bool page_there(struct rig *r)
{
	return lapic_hw_enabled(&r->cpu[0]) && !lapic_x2apic_mode(&r->cpu[0]);
}

static void lapic_mmio_step(struct rig *r)
{
	uint32_t offset = pick_offset(r), value, theirs, mine;
	int len = below(r, 12) ? 4 : 1 << below(r, 2);
	uint64_t dest = (uint64_t)lapic_reg(&r->cpu[0], LAPIC_ICR2) << 32;
	int vector;

	rig_enter(r);
	if (below(r, 3)) {
		value = pick_lapic_value(r, offset);
		if (offset == LAPIC_ICR)
			value = tame(r, pick_icr(r), dest, 0);
		SAY(r, "lapic %#x len %d %#x", offset, len, value);
		vector = kchip_mmio_write(&r->k, 0, offset, len, value);
		assert_int_equal(lapic_mmio_write(&r->cpu[0], offset, len, value, clock_ns()), 0);
		rig_broadcast(r, 0);
		trapped(r, vector);
		return;
	}
	if (offset == LAPIC_TMCCT)
		return;
	offset |= below(r, 5) ? 0 : below(r, 16);
	SAY(r, "lapic read %#x len %d", offset, len);
	trapped(r, kchip_mmio_read(&r->k, 0, offset, len, &theirs));
	assert_int_equal(lapic_mmio_read(&r->cpu[0], offset, len, clock_ns(), &mine), 0);
	/* Agreed difference 2: what the kernel leaves of a bad read. */
	if (page_there(r) && !mine)
		return;
	same(r, "value", theirs & len_mask(len), mine & len_mask(len));
}

static void msr_step(struct rig *r)
{
	int cpu = below(r, r->k.cpus);
	uint32_t offset = pick_offset(r), msr = 0x800 + (offset >> 4);
	uint64_t value, theirs, mine;
	bool ok;

	if (below(r, 2)) {
		value = pick_lapic_value(r, offset) | (below(r, 30) ? 0 : (uint64_t)1 << 32);
		if (offset == LAPIC_ICR) {
			uint64_t dest = (uint64_t)(below(r, 4) ? pick_id(r)
						   : below(r, 2) ? UINT32_MAX : rnd(r)) << 32;

			value = dest | tame(r, pick_icr(r), dest, cpu);
			if (!below(r, 16))
				value |= 1u << below(r, 32);
		}
		SAY(r, "wrmsr %#x %#llx cpu %d", msr, (long long)value, cpu);
		ok = kchip_set_msr(&r->k, cpu, msr, value);
		same(r, "ok", ok, !lapic_msr_write(&r->cpu[cpu], msr, value, clock_ns()));
		rig_broadcast(r, cpu);
		return;
	}
	if (offset == LAPIC_TMCCT)
		return;
	SAY(r, "rdmsr %#x cpu %d", msr, cpu);
	ok = kchip_get_msr(&r->k, cpu, msr, &theirs);
	same(r, "ok", ok, !lapic_msr_read(&r->cpu[cpu], msr, clock_ns(), &mine));
	if (ok)
		same(r, "value", theirs, mine);
}

static void base_step(struct rig *r)
{
	int cpu = below(r, r->k.cpus);
	uint64_t value = APIC_BASE_DEFAULT | (below(r, 4) ? APIC_BASE_ENABLE : 0) |
			 (below(r, 2) ? APIC_BASE_X2APIC : 0) | (cpu ? 0 : APIC_BASE_BSP);
	uint64_t theirs;

	if (!below(r, 8))
		value |= below(r, 2) ? 1u << below(r, 10) : 1ull << (40 + below(r, 20));
	value &= ~0xffffull << 32 | 0xffffffffull | 1ull << 55 | 1ull << 58;
	if (cpu == 0 && below(r, 2)) {
		int vector;

		SAY(r, "guest wrmsr APIC_BASE %#llx", (long long)value);
		rig_enter(r);
		vector = kchip_wrmsr(&r->k, 0x1b, value);
		same(r, "#GP", vector, lapic_set_base(&r->cpu[0], value, false) ? 13 : -1);
	} else {
		SAY(r, "APIC_BASE %#llx cpu %d", (long long)value, cpu);
		same(r, "ok", kchip_set_msr(&r->k, cpu, 0x1b, value),
		     !lapic_set_base(&r->cpu[cpu], value, true));
	}
	assert_true(kchip_get_msr(&r->k, cpu, 0x1b, &theirs));
	same(r, "base", theirs, r->cpu[cpu].base_msr);
}

static void load_lapic_step(struct rig *r)
{
	int cpu = below(r, r->k.cpus);
	struct kvm_lapic_state s;
	int ret;

	assert_int_equal(ioctl(r->k.vcpu[cpu], KVM_GET_LAPIC, &s), 0);
	for (unsigned n = below(r, 6); n; n--) {
		uint32_t offset = below(r, 3) ? pick_offset(r) : LAPIC_ISR + below(r, 24) * 0x10;

		if (offset == LAPIC_LVT_PERF || (offset == LAPIC_ID && below(r, 4)))
			continue;
		store_le32(s.regs + offset, offset >= LAPIC_ISR && offset < LAPIC_ESR
			   ? rnd(r) & rnd(r) & rnd(r) : pick_lapic_value(r, offset));
	}
	SAY(r, "load lapic %d", cpu);
	ret = ioctl(r->k.vcpu[cpu], KVM_SET_LAPIC, &s);
	same(r, "ok", ret == 0, lapic_load(&r->cpu[cpu], &s, clock_ns()) == 0);
	if (!ret)
		lapic_load_rtc(&r->cpu[cpu], &r->io);
}

static void msi_step(struct rig *r, bool api)
{
	uint32_t mode = below(r, 8) ? pick_mode(r) : IRQ_INIT + below(r, 2);
	uint64_t address = MSI_ADDRESS_BASE | pick_id(r) << 12 | (rnd(r) & 0xc);
	uint32_t data = pick_vector(r) | mode << 8 | (rnd(r) & 0xc000);
	struct irq_message msg;
	int theirs, mine;

	if (!below(r, 4))
		address |= (uint64_t)(below(r, 2) ? rnd(r) & rnd(r) & rnd(r) : 0xffffff00u) << 32;
	SAY(r, "msi %#llx %#x", (long long)address, data);
	theirs = kchip_msi(&r->k, address, data);
	if (msi_decode(address, data, api ? MSI_X2APIC : MSI_XAPIC, &msg))
		mine = -1;
	else
		mine = lapic_map_deliver(rig_map(r), NULL, &msg, NULL);
	same(r, "result", theirs, mine);
}

static void apic_step(struct rig *r, bool api)
{
	unsigned op = below(r, 100);

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
		rig_enter(r);
		vector = kchip_window(&r->k);
		SAY(r, "window: %d", vector);
		same(r, "vector", vector, rig_window(r));
	}
}

static void apics_agree(bool api)
{
	struct rig r;

	if (!rig_open(&r, KCHIP_CPUS, api))
		skip();
	for (r.step = 0; r.step < 20000; r.step++) {
		apic_step(&r, api);
		settle(&r);
		compare_pics(&r);
		compare_ioapic(&r);
		compare_lapics(&r);
	}
	rig_close(&r);
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
