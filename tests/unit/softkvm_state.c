/* SPDX-License-Identifier: MIT
 * What KVM_GET_… gives, KVM_SET_… takes: random but legal states go from one VM
 * to another and are the same there. And what is easily lost on the way: counters
 * that must stay together, an NMI or a kick that has not been taken yet.
 * softkvm_state [ROUNDS [SEED]]
 */
#include "../lib/check.h"
#include "../lib/kvm_pair.h"
#include "engine/engine.h"
#include "softkvm/softkvm.h"
#include <linux/kvm_para.h>
#include <asm/kvm_para.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

static uint64_t rounds = 64, seed = 0x5eed;

#define MEM_SIZE 0x10000u
#define CODE	 0x1000u

struct bed {
	struct kvmapi api;
	struct sys sys;
	uint8_t *mem;
};

static void bed_create(struct bed *b)
{
	struct err e;

	*b = (struct bed){ .api.ops = &softkvm_ops };
	assert_int_equal(softkvm_create(&b->api.ctx, NULL), 0);
	assert_int_equal(sys_open(&b->sys, &b->api, &e), 0);
	b->mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(b->mem != MAP_FAILED);
}

static void bed_destroy(struct bed *b)
{
	sys_close(&b->sys);
	softkvm_destroy(b->api.ctx);
	munmap(b->mem, MEM_SIZE);
}

static void new_vm(struct bed *b, struct vm *vm)
{
	assert_int_equal(vm_create(vm, &b->sys), 0);
	assert_int_equal(vm_create_irqchip(vm), 0);
	assert_int_equal(vm_create_pit2(vm, 0), 0);
	assert_int_equal(vm_set_memory(vm, 0, 0, MEM_SIZE, b->mem, 0), 0);
}

static void new_vcpu(struct bed *b, struct vm *vm, unsigned id, struct vcpu *v)
{
	struct kvm_cpuid2 *cpuid;

	assert_int_equal(vcpu_open(v, vm, id), 0);
	assert_int_equal(sys_supported_cpuid(&b->sys, &cpuid), 0);
	assert_int_equal(vcpu_set_cpuid(v, cpuid), 0);
	free(cpuid);
}

/* ---- random states ----------------------------------------------------------------- */

static uint64_t rnd(void)
{
	return next_random(&seed);
}

static uint64_t canonical(void)
{
	return (uint64_t)((int64_t)(rnd() << 16) >> 16);
}

static void random_bytes(void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((uint8_t *)p)[i] = (uint8_t)rnd();
}

static void random_regs(struct vcpu *v)
{
	struct kvm_regs r;

	random_bytes(&r, sizeof(r));
	r.rip = canonical();
	r.rflags = (r.rflags & 0x257fd5) | 2; /* all but VM, VIF, VIP */
	assert_int_equal(vcpu_set_regs(v, &r), 0);
}

static void random_segment(struct kvm_segment *s, bool code, bool wide)
{
	s->base = wide ? canonical() : (uint32_t)rnd();
	s->g = rnd() & 1;
	s->limit = s->g ? (uint32_t)rnd() | 0xfff : (uint32_t)rnd() & 0xfffff;
	s->selector = (uint16_t)rnd();
	s->type = code ? 11 : 3;
	s->s = s->present = 1;
	s->dpl = 0;
	s->l = code && wide;
	s->db = !s->l && (rnd() & 1);
	s->avl = rnd() & 1;
	s->unusable = 0;
}

/* Real mode, protected mode or long mode. */
static void random_sregs(struct vcpu *v)
{
	struct kvm_sregs s;
	unsigned mode = rnd() % 3;

	assert_int_equal(vcpu_get_sregs(v, &s), 0);
	s.cr0 = 0x10 | (rnd() & 0x40000000) | (mode ? 0x10021 : 0);
	s.cr4 = mode ? 0x6a0 : 0;
	s.efer = mode == 2 ? 0xd01 : 0;
	s.cr0 |= mode == 2 ? 0x80000000 : 0;
	s.cr2 = rnd();
	s.cr3 = (rnd() % (MEM_SIZE / 4096)) * 4096;
	s.cr8 = rnd() & 15;
	random_segment(&s.cs, true, mode == 2);
	random_segment(&s.ss, false, false);
	random_segment(&s.ds, false, false);
	random_segment(&s.es, false, false);
	random_segment(&s.fs, false, mode == 2);
	random_segment(&s.gs, false, mode == 2);
	s.gdt.base = canonical();
	s.gdt.limit = (uint16_t)rnd();
	s.idt.base = canonical();
	s.idt.limit = (uint16_t)rnd();
	assert_int_equal(vcpu_set_sregs(v, &s), 0);
}

/* All components that there are, and XCR0 with some of them. */
static void random_xsave(struct vcpu *v)
{
	static const uint64_t legal[] = { 1, 3, 7, 0xe7 };
	uint64_t all = engine_xcr0_max();
	struct kvm_xcrs xcrs = { .nr_xcrs = 1 };
	struct kvm_xsave x = { 0 };
	uint8_t *p = (uint8_t *)x.region;

	random_bytes(p, 416);
	memset(p + 6, 0, 18);			/* opcode and pointers: not kept (docs/ENGINE.md) */
	*(uint16_t *)p &= 0x1f7f;
	*(uint16_t *)p |= 0x40;
	*(uint32_t *)(p + 24) &= 0xffff;	/* MXCSR */
	*(uint32_t *)(p + 28) = 0;
	for (unsigned i = 0; i < 8; i++)
		memset(p + 32 + 16 * i + 10, 0, 6);
	*(uint64_t *)(p + 512) = all;
	random_bytes(p + 576, engine_xsave_size(NULL, all, false) - 576);
	p[5] = 0;
	/* No exception is pending that the next instruction would raise. */
	*(uint16_t *)(p + 2) &= 0x7f00;
	assert_int_equal(vcpu_set_xsave(v, &x), 0);
	do
		xcrs.xcrs[0].value = legal[rnd() % ARRAY_SIZE(legal)];
	while (xcrs.xcrs[0].value & ~all);
	assert_int_equal(vcpu_set_xcrs(v, &xcrs), 0);
}

static void random_debugregs(struct vcpu *v)
{
	struct kvm_debugregs d = { 0 };

	for (unsigned i = 0; i < 4; i++)
		d.db[i] = canonical();
	d.dr6 = 0xffff0ff0 | (rnd() & 0xe00f);
	d.dr7 = 0x400 | (rnd() & 0xff);
	assert_int_equal(vcpu_set_debugregs(v, &d), 0);
}

static void random_events(struct vcpu *v)
{
	struct kvm_vcpu_events e = { .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW };

	switch (rnd() % 4) {
	case 0:
		e.exception.injected = 1;
		e.exception.nr = 13;
		e.exception.has_error_code = 1;
		e.exception.error_code = (uint32_t)rnd() & 0xffff;
		break;
	case 1:
		e.interrupt.injected = 1;
		e.interrupt.nr = (uint8_t)(32 + rnd() % 224);
		break;
	case 2:
		e.nmi.injected = 1;
		break;
	}
	e.interrupt.shadow = rnd() % 3;
	e.nmi.pending = rnd() & 1;
	e.nmi.masked = rnd() & 1;
	assert_int_equal(vcpu_set_events(v, &e), 0);
}

static void put_msr(struct vcpu *v, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs m;
		struct kvm_msr_entry e;
	} one = { .m.nmsrs = 1, .e = { .index = index, .data = value } };

	if (vcpu_set_msrs(v, &one.m) != 1)
		fail_msg("MSR %x does not take %llx", index, (unsigned long long)value);
}

static uint64_t msr(struct vcpu *v, uint32_t index)
{
	struct {
		struct kvm_msrs m;
		struct kvm_msr_entry e;
	} one = { .m.nmsrs = 1, .e.index = index };

	assert_int_equal(vcpu_get_msrs(v, &one.m), 1);
	return one.e.data;
}

static void random_msrs(struct vcpu *v)
{
	static const uint32_t wide[] = { 0x175, 0x176, 0xc0000082, 0xc0000083, 0xc0000102, 0x3b };

	for (unsigned i = 0; i < ARRAY_SIZE(wide); i++)
		put_msr(v, wide[i], canonical());
	put_msr(v, 0x174, rnd() & 0xffff);
	put_msr(v, 0xc0000081, rnd());
	put_msr(v, 0xc0000084, rnd() & 0xffffffff);
	put_msr(v, 0xc0000103, rnd() & 0xffffffff);
	put_msr(v, 0x277, 0x0007040600070406ull);
	put_msr(v, 0x1a0, rnd() & 0x1801);
	put_msr(v, 0x2ff, (rnd() & 0xc00) | (rnd() & 1 ? 6 : 0));
	put_msr(v, MSR_KVM_POLL_CONTROL, rnd() & 1);
	put_msr(v, MSR_KVM_STEAL_TIME, (rnd() % 16 * 64) | 0);
	put_msr(v, MSR_KVM_PV_EOI_EN, (rnd() % 256 * 4) | 1);
}

static void put32(struct kvm_lapic_state *l, unsigned reg, uint32_t value)
{
	store_le((uint8_t *)l->regs + reg, value, 4);
}

/* Enabled, with vectors pending and in service, and a timer that is far from its end. */
static void random_lapic(struct vcpu *v)
{
	struct kvm_lapic_state l;
	bool deadline = rnd() & 1;

	assert_int_equal(vcpu_get_lapic(v, &l), 0);
	put32(&l, 0x80, (uint32_t)rnd() & 0xff);
	put32(&l, 0xd0, (uint32_t)rnd() & 0xff000000);
	put32(&l, 0xe0, rnd() & 1 ? 0xffffffff : 0x0fffffff);
	put32(&l, 0xf0, 0x1ff);
	for (unsigned i = 1; i < 8; i++) {
		put32(&l, 0x100 + 16 * i, (uint32_t)rnd());
		put32(&l, 0x180 + 16 * i, (uint32_t)rnd());
		put32(&l, 0x200 + 16 * i, (uint32_t)rnd());
	}
	put32(&l, 0x300, (uint32_t)rnd() & 0xccfff);
	put32(&l, 0x310, (uint32_t)rnd() & 0xff000000);
	put32(&l, 0x320, 0x100ec | (deadline ? 0x40000 : rnd() & 0x20000));
	put32(&l, 0x330, 0x10000 | ((uint32_t)rnd() & 0xff));
	put32(&l, 0x350, 0x10000 | ((uint32_t)rnd() & 0xa7ff));
	put32(&l, 0x360, 0x10000 | ((uint32_t)rnd() & 0xa7ff));
	put32(&l, 0x370, 0x10000 | ((uint32_t)rnd() & 0xff));
	put32(&l, 0x3e0, 0xb);
	put32(&l, 0x380, deadline ? 0 : 0xffffffff);
	put32(&l, 0x390, deadline ? 0 : 0xffffff00);
	assert_int_equal(vcpu_set_lapic(v, &l), 0);
	if (deadline)
		put_msr(v, 0x6e0, msr(v, 0x10) + (1ull << 50));
}

static void random_chips(struct vm *vm)
{
	struct kvm_irqchip c;
	struct kvm_pit_state2 p;

	for (unsigned i = 0; i < 2; i++) {
		c.chip_id = i;
		assert_int_equal(vm_get_irqchip(vm, &c), 0);
		c.chip.pic.imr = (uint8_t)rnd();
		c.chip.pic.isr = (uint8_t)rnd();
		c.chip.pic.irr = (uint8_t)rnd();
		c.chip.pic.last_irr = (uint8_t)rnd();
		c.chip.pic.irq_base = (uint8_t)rnd() & 0xf8;
		c.chip.pic.elcr = (uint8_t)rnd() & c.chip.pic.elcr_mask;
		c.chip.pic.special_mask = rnd() & 1;
		c.chip.pic.priority_add = rnd() & 7;
		assert_int_equal(vm_set_irqchip(vm, &c), 0);
	}
	/* The wire between the two settles. */
	for (unsigned i = 0; i < 2; i++) {
		c.chip_id = i;
		assert_int_equal(vm_get_irqchip(vm, &c), 0);
		assert_int_equal(vm_set_irqchip(vm, &c), 0);
	}
	c.chip_id = KVM_IRQCHIP_IOAPIC;
	assert_int_equal(vm_get_irqchip(vm, &c), 0);
	for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
		c.chip.ioapic.redirtbl[i].bits = (rnd() & 0xff000000000188ffull) | (rnd() & 1) << 15;
	c.chip.ioapic.irr = (uint32_t)rnd() & 0xffffff;
	c.chip.ioapic.id = rnd() & 15;
	assert_int_equal(vm_set_irqchip(vm, &c), 0);
	assert_int_equal(vm_get_pit2(vm, &p), 0);
	for (unsigned i = 1; i < 3; i++) {
		p.channels[i].count = 1 + (uint32_t)rnd() % 65535;
		p.channels[i].mode = 2;
		p.channels[i].gate = 1;
		p.channels[i].rw_mode = 3;
	}
	assert_int_equal(vm_set_pit2(vm, &p), 0);
}

/* ---- comparing ------------------------------------------------------------------------ */

struct everything {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_fpu fpu;
	struct kvm_xsave xsave;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debug;
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp;
	struct kvm_lapic_state lapic;
	struct kvm_irqchip chip[KVM_NR_IRQCHIPS];
	struct kvm_pit_state2 pit;
	uint64_t msr[64];
};

static void read_everything(struct vm *vm, struct vcpu *v, const struct kvm_msr_list *l, struct everything *e)
{
	memset(e, 0, sizeof(*e));
	assert_int_equal(vcpu_get_mp_state(v, &e->mp), 0);
	assert_int_equal(vcpu_get_regs(v, &e->regs), 0);
	assert_int_equal(vcpu_get_sregs(v, &e->sregs), 0);
	assert_int_equal(vcpu_get_fpu(v, &e->fpu), 0);
	assert_int_equal(vcpu_get_xsave(v, &e->xsave), 0);
	assert_int_equal(vcpu_get_xcrs(v, &e->xcrs), 0);
	assert_int_equal(vcpu_get_debugregs(v, &e->debug), 0);
	assert_int_equal(vcpu_get_events(v, &e->events), 0);
	assert_int_equal(vcpu_get_lapic(v, &e->lapic), 0);
	put32(&e->lapic, 0x390, 0); /* counts */
	for (unsigned i = 0; i < KVM_NR_IRQCHIPS; i++) {
		e->chip[i].chip_id = i;
		assert_int_equal(vm_get_irqchip(vm, &e->chip[i]), 0);
	}
	assert_int_equal(vm_get_pit2(vm, &e->pit), 0);
	for (unsigned i = 0; i < 3; i++)
		e->pit.channels[i].count_load_time = 0;
	assert_in_range(l->nmsrs, 1, ARRAY_SIZE(e->msr));
	for (unsigned i = 0; i < l->nmsrs; i++)
		e->msr[i] = l->indices[i] == 0x10 ? 0 : msr(v, l->indices[i]);
}

#define SAME(part)                                                                                  \
	do {                                                                                        \
		if (memcmp(&a.part, &b.part, sizeof(a.part)))                                       \
			fail_msg("round %llu: %s differs", (unsigned long long)n, #part);           \
	} while (0)

static void test_random_states_move(void **state)
{
	struct kvm_msr_list *l;
	struct bed bed;

	bed_create(&bed);
	assert_int_equal(sys_msr_list(&bed.sys, &l), 0);
	for (uint64_t n = 0; n < rounds; n++) {
		static const uint32_t activity[] = { KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_HALTED,
						     KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_INIT_RECEIVED };
		struct kvm_mp_state mp = { .mp_state = activity[rnd() % 4] };
		struct everything a, b;
		struct chips_state *chips;
		struct vcpu_state *s;
		struct vm from, to;
		struct vcpu v, w;

		new_vm(&bed, &from);
		new_vm(&bed, &to);
		new_vcpu(&bed, &from, 0, &v);
		new_vcpu(&bed, &to, 0, &w);
		random_sregs(&v);
		random_regs(&v);
		random_xsave(&v);
		random_debugregs(&v);
		random_msrs(&v);
		random_lapic(&v);
		random_chips(&from);
		random_events(&v);
		assert_int_equal(vcpu_set_mp_state(&v, &mp), 0);
		read_everything(&from, &v, l, &a);
		assert_int_equal(a.mp.mp_state, mp.mp_state);

		assert_int_equal(vcpu_state_save(&v, l->indices, l->nmsrs, &s), 0);
		assert_int_equal(vm_chips_save(&from, &chips), 0);
		assert_int_equal(vcpu_state_load(&w, s), 0);
		assert_int_equal(vm_chips_load(&to, chips), 0);
		read_everything(&to, &w, l, &b);
		SAME(regs);
		SAME(sregs);
		SAME(fpu);
		SAME(xsave);
		SAME(xcrs);
		SAME(debug);
		SAME(events);
		SAME(mp);
		SAME(lapic);
		SAME(chip);
		SAME(pit);
		for (unsigned i = 0; i < l->nmsrs; i++)
			if (a.msr[i] != b.msr[i])
				fail_msg("round %llu: MSR %x is %llx, was %llx", (unsigned long long)n,
					 l->indices[i], (unsigned long long)b.msr[i],
					 (unsigned long long)a.msr[i]);
		vcpu_state_free(s);
		free(chips);
		vcpu_close(&v);
		vcpu_close(&w);
		vm_destroy(&from);
		vm_destroy(&to);
	}
	free(l);
	bed_destroy(&bed);
}

/* ---- what is easily lost ----------------------------------------------------------------- */

/* Within a second of each other, which only who is not put aside can do. */
static void put_tscs(struct vcpu v[2], uint64_t first, uint64_t second)
{
	uint64_t began;

	do {
		began = clock_ns();
		put_msr(&v[0], 0x10, first);
		put_msr(&v[1], 0x10, second);
	} while (clock_ns() - began > NSEC_PER_SEC / 2);
}

/* All counters of a VM are one, whenever a vCPU came, and stay one when they are set. */
static void test_tsc_stays_together(void **state)
{
	struct bed bed;
	struct vm vm;
	struct vcpu v[2];
	uint64_t a, b, c, hz;

	bed_create(&bed);
	new_vm(&bed, &vm);
	new_vcpu(&bed, &vm, 0, &v[0]);
	/* Something takes its time between the two. */
	for (uint64_t t = clock_ns(); clock_ns() - t < 2000000;)
		;
	new_vcpu(&bed, &vm, 1, &v[1]);
	hz = vcpu_get_tsc_khz(&v[0]) * 1000ull;
	for (unsigned i = 0; i < 3; i++) {
		a = msr(&v[0], 0x10);
		b = msr(&v[1], 0x10);
		c = msr(&v[0], 0x10);
		assert_true(a <= b && b <= c);
		/* The second time: set within a second of each other. Then far off, which counts. */
		if (i == 0)
			put_tscs(v, 1000 * hz, 1000 * hz + hz / 1000);
		else if (i == 1)
			put_tscs(v, 5000 * hz, 5000 * hz);
	}
	put_msr(&v[1], 0x10, 9000 * hz);
	assert_true(msr(&v[1], 0x10) >= 9000 * hz);
	assert_true(msr(&v[0], 0x10) < 9000 * hz);
	vcpu_close(&v[0]);
	vcpu_close(&v[1]);
	vm_destroy(&vm);
	bed_destroy(&bed);
}

/* At CODE in real mode. */
static void start(struct bed *b, struct vcpu *v, const void *code, size_t len)
{
	struct kvm_regs r = { .rip = CODE, .rflags = 2, .rsp = 0x8000 };
	struct kvm_sregs s;

	memcpy(b->mem + CODE, code, len);
	assert_int_equal(vcpu_get_sregs(v, &s), 0);
	s.cs.base = s.cs.selector = 0;
	assert_int_equal(vcpu_set_sregs(v, &s), 0);
	assert_int_equal(vcpu_set_regs(v, &r), 0);
}

static const uint8_t out_loop[] = { 0xe6, 0x99, 0xeb, 0xfc };	      /* 1: out %al,$0x99; jmp 1b */
static const uint8_t halt_out[] = { 0xf4, 0xe6, 0x99, 0xeb, 0xfc };   /* hlt; 1: out… */

static void run_to_port(struct vcpu *v, uint16_t port)
{
	assert_int_equal(vcpu_run(v), 0);
	assert_int_equal(v->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(v->run->io.port, port);
}

/* A reader on another CPU that was stopped in the middle must not take two clocks for one. */
static void test_clock_page_version_goes_on(void **state)
{
	struct bed bed;
	struct vm vm;
	struct vcpu v;
	uint32_t *version;

	bed_create(&bed);
	version = (uint32_t *)(bed.mem + 0x4000);
	*version = 77778;
	new_vm(&bed, &vm);
	new_vcpu(&bed, &vm, 0, &v);
	start(&bed, &v, out_loop, sizeof(out_loop));
	put_msr(&v, MSR_KVM_SYSTEM_TIME_NEW, 0x4001);
	run_to_port(&v, 0x99);
	assert_true(*version > 77778);
	assert_int_equal(*version & 1, 0);
	vcpu_close(&v);
	vm_destroy(&vm);
	bed_destroy(&bed);
}

/* Move v's state into a new vCPU of a new VM, which takes their places. */
static void move(struct bed *b, struct vm *vm, struct vcpu *v)
{
	struct kvm_msr_list *l;
	struct vcpu_state *s;
	struct vcpu old = *v;
	struct vm old_vm = *vm;

	old.vm = &old_vm;
	assert_int_equal(sys_msr_list(&b->sys, &l), 0);
	assert_int_equal(vcpu_state_save(&old, l->indices, l->nmsrs, &s), 0);
	new_vm(b, vm);
	new_vcpu(b, vm, 0, v);
	assert_int_equal(vcpu_state_load(v, s), 0);
	vcpu_state_free(s);
	free(l);
	vcpu_close(&old);
	vm_destroy(&old_vm);
}

/* The counter of the new vCPU is the old one's to the cycle, and at its rate, whatever time that took. */
static void test_tsc_moves_exactly(void **state)
{
	for (unsigned other = 0; other < 2; other++) {
		uint64_t before, after;
		uint32_t khz;
		struct bed bed;
		struct vm vm;
		struct vcpu v;

		bed_create(&bed);
		new_vm(&bed, &vm);
		new_vcpu(&bed, &vm, 0, &v);
		khz = other ? 1234567 : vcpu_get_tsc_khz(&v);
		assert_int_equal(vcpu_set_tsc_khz(&v, khz), 0);
		put_msr(&v, 0x10, 123456789);
		assert_int_equal(vcpu_get_tsc_offset(&v, &before), 0);
		move(&bed, &vm, &v);
		assert_int_equal(vcpu_get_tsc_khz(&v), khz);
		assert_int_equal(vcpu_get_tsc_offset(&v, &after), 0);
		assert_int_equal(after, before);
		vcpu_close(&v);
		vm_destroy(&vm);
		bed_destroy(&bed);
	}
}

/* An NMI that nobody has taken yet ends the halt of the vCPU that it moved to. */
static void test_nmi_moves(void **state)
{
	const struct kvm_mp_state halted = { .mp_state = KVM_MP_STATE_HALTED };
	struct kvm_vcpu_events e;
	struct bed bed;
	struct vm vm;
	struct vcpu v;

	bed_create(&bed);
	bed.mem[2 * 4] = (uint8_t)CODE; /* vector 2, real mode */
	bed.mem[2 * 4 + 1] = CODE >> 8;
	new_vm(&bed, &vm);
	new_vcpu(&bed, &vm, 0, &v);
	start(&bed, &v, out_loop, sizeof(out_loop));
	assert_int_equal(vcpu_set_mp_state(&v, &halted), 0);
	assert_int_equal(vcpu_nmi(&v), 0);
	assert_int_equal(vcpu_get_events(&v, &e), 0);
	assert_int_equal(e.nmi.pending, 1);
	move(&bed, &vm, &v);
	assert_int_equal(vcpu_get_events(&v, &e), 0);
	assert_int_equal(e.nmi.pending, 1);
	run_to_port(&v, 0x99);
	assert_int_equal(vcpu_get_events(&v, &e), 0);
	assert_int_equal(e.nmi.pending, 0);
	assert_int_equal(e.nmi.masked, 1);
	/* Set to none: taken back. */
	assert_int_equal(vcpu_nmi(&v), 0);
	e.nmi.pending = 0;
	assert_int_equal(vcpu_set_events(&v, &e), 0);
	assert_int_equal(vcpu_get_events(&v, &e), 0);
	assert_int_equal(e.nmi.pending, 0);
	vcpu_close(&v);
	vm_destroy(&vm);
	bed_destroy(&bed);
}

/* A kick that its vCPU has not looked at yet has ended the halt, for whoever asks. */
static void test_kick_moves(void **state)
{
	const struct kvm_mp_state halted = { .mp_state = KVM_MP_STATE_HALTED };
	struct kvm_mp_state mp;
	struct kvm_regs r;
	struct bed bed;
	struct vm vm;
	struct vcpu v, kicker;
	/* vmcall; out %al,$0x99 */
	static const uint8_t kick[] = { 0x0f, 0x01, 0xc1, 0xe6, 0x99 };

	bed_create(&bed);
	new_vm(&bed, &vm);
	new_vcpu(&bed, &vm, 0, &v);
	new_vcpu(&bed, &vm, 1, &kicker);
	start(&bed, &v, halt_out, sizeof(halt_out));
	assert_int_equal(vcpu_set_mp_state(&v, &halted), 0);
	start(&bed, &kicker, kick, sizeof(kick));
	mp.mp_state = KVM_MP_STATE_RUNNABLE;
	assert_int_equal(vcpu_set_mp_state(&kicker, &mp), 0);
	assert_int_equal(vcpu_get_regs(&kicker, &r), 0);
	r.rax = KVM_HC_KICK_CPU;
	r.rbx = 0;
	r.rcx = 0; /* APIC ID */
	assert_int_equal(vcpu_set_regs(&kicker, &r), 0);
	run_to_port(&kicker, 0x99);
	assert_int_equal(vcpu_get_mp_state(&v, &mp), 0);
	assert_int_equal(mp.mp_state, KVM_MP_STATE_RUNNABLE);
	vcpu_close(&kicker);
	vcpu_close(&v);
	vm_destroy(&vm);
	bed_destroy(&bed);
}

/* Monitors ask for it without a look at the capability; the state is one that has no nested guest. */
static void test_no_nested_state(void **state)
{
	static const struct { uint16_t flags, format; uint32_t size; } bad[] = {
		{ KVM_STATE_NESTED_GIF_SET, KVM_STATE_NESTED_FORMAT_SVM, sizeof(struct kvm_nested_state) - 1 },
		{ KVM_STATE_NESTED_GIF_SET, KVM_STATE_NESTED_FORMAT_VMX, sizeof(struct kvm_nested_state) },
		{ KVM_STATE_NESTED_GIF_SET | KVM_STATE_NESTED_GUEST_MODE, KVM_STATE_NESTED_FORMAT_SVM, 8192 },
		{ 0, KVM_STATE_NESTED_FORMAT_SVM, sizeof(struct kvm_nested_state) },
	};
	struct kvm_nested_state n = { .size = sizeof(n) - 1, .flags = 0xabcd }, other;
	struct side s;

	side_begin(&s, true);
	side_add_vcpu(&s, 0, 0);
	assert_int_equal(side_ioctl_val(&s, s.sys, KVM_CHECK_EXTENSION, KVM_CAP_NESTED_STATE), sizeof(n));
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_GET_NESTED_STATE, &n), -E2BIG);
	assert_int_equal(n.size, sizeof(n));
	assert_int_equal(n.flags, 0xabcd);
	n.size = 8192;
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_GET_NESTED_STATE, &n), 0);
	assert_int_equal(n.size, sizeof(n));
	assert_int_equal(n.flags, KVM_STATE_NESTED_GIF_SET);
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_SET_NESTED_STATE, &n), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		other = n;
		other.flags = bad[i].flags;
		other.format = bad[i].format;
		other.size = bad[i].size;
		assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_SET_NESTED_STATE, &other), -EINVAL);
	}
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_GET_NESTED_STATE, (void *)8), -EFAULT);
	side_end(&s);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_states_move), cmocka_unit_test(test_tsc_stays_together),
		cmocka_unit_test(test_clock_page_version_goes_on), cmocka_unit_test(test_nmi_moves),
		cmocka_unit_test(test_kick_moves), cmocka_unit_test(test_tsc_moves_exactly),
		cmocka_unit_test(test_no_nested_state),
	};

	if (argc > 1)
		rounds = strtoull(argv[1], NULL, 0);
	if (argc > 2)
		seed = strtoull(argv[2], NULL, 0);
	printf("%llu rounds, seed %#llx\n", (unsigned long long)rounds, (unsigned long long)seed);
	return RUN(tests);
}
