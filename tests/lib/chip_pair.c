/* SPDX-License-Identifier: MIT */
#include "chip_pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <cmocka.h>

const struct lapic_map *chip_pair_map(struct chip_pair *r)
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
	struct chip_pair *r = opaque;

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
	return lapic_map_deliver(chip_pair_map(opaque), NULL, msg, rtc);
}

/* As the kernel: a fixed entry concerns those it names, or named (in its new mode). */
static void io_route(void *opaque, unsigned pin, uint64_t old, uint64_t new)
{
	struct chip_pair *r = opaque;
	struct irq_message msg, before;

	rte_decode(new, false, &msg);
	rte_decode(old, false, &before);
	before.logical = msg.logical;
	before.delivery = msg.delivery;
	for (int i = 0; i < r->k.cpus; i++)
		if (msg.delivery != IRQ_FIXED || lapic_map_reaches(chip_pair_map(r), &msg, &r->cpu[i]) ||
		    lapic_map_reaches(chip_pair_map(r), &before, &r->cpu[i]))
			r->scan_due |= 1u << i;
}

static void io_rtc_restore(void *opaque, const struct irq_message *msg, struct ioapic_rtc *rtc)
{
	lapic_map_rtc_restore(chip_pair_map(opaque), msg, rtc);
}

static const struct ioapic_sink io_sink = {
	.deliver = io_deliver, .route_changed = io_route, .rtc_restore = io_rtc_restore,
};

struct cpu_ref {
	struct chip_pair *rig;
	int index;
};

static struct cpu_ref refs[KCHIP_CPUS];

static void cpu_ipi(void *opaque, const struct irq_message *msg)
{
	struct cpu_ref *ref = opaque;

	lapic_map_deliver(chip_pair_map(ref->rig), &ref->rig->cpu[ref->index], msg, NULL);
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
	ref->rig->scan_due = CHIP_PAIR_ALL;
}

static const struct lapic_sink cpu_sink = {
	.deliver_ipi = cpu_ipi, .attention = cpu_attention, .nmi = cpu_nmi, .map_changed = cpu_map,
};

static const struct i8254_sink pit_sink = { NULL };

void chip_pair_broadcast(struct chip_pair *r, int i)
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

void chip_pair_enter(struct chip_pair *r)
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

int chip_pair_line(struct chip_pair *r, unsigned gsi, bool level, bool status)
{
	int ret = -1;

	ret = merge(ret, ioapic_set_line(&r->io, gsi, 0, level, status));
	if (gsi < 16)
		ret = merge(ret, i8259_set_line(&r->pic, gsi, 0, level));
	return ret;
}

int chip_pair_window(struct chip_pair *r)
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
		chip_pair_broadcast(r, 0);
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

bool chip_pair_open(struct chip_pair *r, int cpus, bool api)
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
	r->scan_due = CHIP_PAIR_ALL;
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

void chip_pair_close(struct chip_pair *r)
{
	kchip_close(&r->k);
	free(r->map);
}

uint32_t chip_rnd(struct chip_pair *r)
{
	r->rng = r->rng * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(r->rng >> 32);
}

uint32_t chip_below(struct chip_pair *r, uint32_t n)
{
	return chip_rnd(r) % n;
}

/* --- Comparison --- */

static void differ(struct chip_pair *r, const char *where, unsigned offset, uint32_t kernel,
		   uint32_t model)
{
	fail_msg("step %u (%s): %s+%#x: kernel %#x, model %#x", r->step, r->what, where, offset,
		 kernel, model);
}

void chip_pair_same(struct chip_pair *r, const char *what, int64_t kernel, int64_t model)
{
	if (kernel != model)
		fail_msg("step %u (%s): %s: kernel %#llx, model %#llx", r->step, r->what, what,
			 (long long)kernel, (long long)model);
}

static void same_bytes(struct chip_pair *r, const char *where, const void *kernel, const void *model,
		       size_t size)
{
	const uint8_t *a = kernel, *b = model;

	for (size_t i = 0; i < size; i++)
		if (a[i] != b[i])
			differ(r, where, i, a[i], b[i]);
}

void chip_pair_same_pics(struct chip_pair *r)
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

void chip_pair_same_ioapic(struct chip_pair *r)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
	struct kvm_ioapic_state mine;

	assert_int_equal(ioctl(r->k.vm, KVM_GET_IRQCHIP, &chip), 0);
	ioapic_save(&r->io, &mine);
	same_bytes(r, "ioapic", &chip.chip.ioapic, &mine, sizeof(mine));
}

void chip_pair_same_lapics(struct chip_pair *r)
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

void chip_pair_finish(struct chip_pair *r, uint32_t acks)
{
	if (acks & ~1u)
		fail_msg("step %u (%s): acks %#x nobody asked for", r->step, r->what, acks);
	if (acks)
		i8259_complete(&r->pic);
}
