/* SPDX-License-Identifier: MIT
 * softkvm against the kernel, vCPUs: what their calls take, refuse and give back
 * (see softkvm_api_diff.c).
 */
#include "../lib/check.h"
#include "../lib/pair_guest.h"

#define BAD_PTR ((void *)8)

static void script_vcpu_state(struct side *s, uint64_t seed)
{
	struct kvm_regs r;
	struct kvm_sregs sr;
	struct kvm_xcrs x;
	struct kvm_debugregs d;
	struct kvm_vcpu_events ev;
	struct kvm_mp_state mp;
	struct kvm_fpu f;
	struct {
		struct kvm_signal_mask m;
		uint8_t set[8];
	} mask = { .m.len = 4 };
	struct kvm_interrupt irq = { .irq = 256 };

	if (seed)
		vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	side_add_vcpu(s, 0, 0);
	side_add_vcpu(s, 1, 1);
	cpu_do(s, 0, KVM_GET_REGS, &r);
	say(s, "rip %llx rflags %llx rax %llx rsp %llx", r.rip, r.rflags, r.rax, r.rsp);
	r.rip = 0x12345678;
	r.rflags = 0x202;
	r.r15 = 0x1122334455667788;
	cpu_do(s, 0, KVM_SET_REGS, &r);
	memset(&r, 0, sizeof(r));
	cpu_do(s, 0, KVM_GET_REGS, &r);
	say_hex(s, "regs", &r.r15, 24);
	cpu_do(s, 0, KVM_GET_REGS, BAD_PTR);
	cpu_do(s, 0, KVM_SET_REGS, BAD_PTR);

	cpu_do(s, 0, KVM_GET_SREGS, &sr);
	say_hex(s, "cs", &sr.cs, sizeof(sr.cs));
	say_hex(s, "ss", &sr.ss, sizeof(sr.ss));
	say_hex(s, "ldt", &sr.ldt, sizeof(sr.ldt));
	say_hex(s, "tr", &sr.tr, sizeof(sr.tr));
	say_hex(s, "gdt", &sr.gdt, 10);
	say(s, "cr0 %llx cr3 %llx cr4 %llx cr8 %llx efer %llx apic %llx", sr.cr0, sr.cr3, sr.cr4,
	    sr.cr8, sr.efer, sr.apic_base);
	sr.cs.base = 0x5000;
	sr.cs.selector = 0x500;
	cpu_do(s, 0, KVM_SET_SREGS, &sr);
	memset(&sr, 0, sizeof(sr));
	cpu_do(s, 0, KVM_GET_SREGS, &sr);
	say(s, "cs %llx %x", sr.cs.base, sr.cs.selector);
	sr.cr0 |= 1u << 31; /* PG without PE */
	sr.cr0 &= ~1ull;
	cpu_do(s, 0, KVM_SET_SREGS, &sr);
	sr.cr0 = 0x60000010;
	sr.efer = 0x400; /* LMA without LME */
	sr.cr0 |= 0x80000001;
	cpu_do(s, 0, KVM_SET_SREGS, &sr);

	cpu_do(s, 0, KVM_GET_FPU, &f);
	say(s, "fcw %x fsw %x ftw %x", f.fcw, f.fsw, f.ftwx);
	f.fcw = 0x27f;
	f.xmm[3][5] = 0x5a;
	f.fpr[2][1] = 7;
	cpu_do(s, 0, KVM_SET_FPU, &f);
	memset(&f, 0, sizeof(f));
	cpu_do(s, 0, KVM_GET_FPU, &f);
	say(s, "fcw %x xmm %x st %x", f.fcw, f.xmm[3][5], f.fpr[2][1]);

	cpu_do(s, 0, KVM_GET_DEBUGREGS, &d);
	say(s, "dr6 %llx dr7 %llx", d.dr6, d.dr7);
	d.flags = 1;
	cpu_do(s, 0, KVM_SET_DEBUGREGS, &d);
	d.flags = 0;
	d.dr7 = 1ull << 40;
	cpu_do(s, 0, KVM_SET_DEBUGREGS, &d);
	d.dr7 = 0x400;
	d.db[2] = 0x1000;
	cpu_do(s, 0, KVM_SET_DEBUGREGS, &d);
	memset(&d, 0, sizeof(d));
	cpu_do(s, 0, KVM_GET_DEBUGREGS, &d);
	say(s, "db2 %llx", d.db[2]);

	cpu_do(s, 0, KVM_GET_VCPU_EVENTS, &ev);
	ev.flags = 1u << 20;
	cpu_do(s, 0, KVM_SET_VCPU_EVENTS, &ev);
	ev.flags = 0;
	ev.exception.injected = 1;
	ev.exception.nr = 40;
	cpu_do(s, 0, KVM_SET_VCPU_EVENTS, &ev);
	ev.exception.nr = 2;
	cpu_do(s, 0, KVM_SET_VCPU_EVENTS, &ev);
	ev.exception.injected = 0;
	ev.nmi.masked = 1;
	cpu_do(s, 0, KVM_SET_VCPU_EVENTS, &ev);
	memset(&ev, 0, sizeof(ev));
	cpu_do(s, 0, KVM_GET_VCPU_EVENTS, &ev);
	say(s, "nmi masked %u injected %u", ev.nmi.masked, ev.interrupt.injected);
	/* Two NMIs can wait, one while one is handled. */
	for (unsigned i = 0; i < 8; i++) {
		ev.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
		ev.nmi.masked = i >= 4;
		ev.nmi.pending = (uint8_t)(i >= 6 ? 5 : 0);
		if (i % 2 == 0)
			cpu_do(s, 0, KVM_SET_VCPU_EVENTS, &ev);
		cpu_do(s, 0, KVM_NMI, NULL);
		cpu_do(s, 0, KVM_GET_VCPU_EVENTS, &ev);
		say(s, "nmi masked %u pending %u", ev.nmi.masked, ev.nmi.pending);
	}
	ev.nmi.masked = ev.nmi.pending = 0;
	cpu_do(s, 0, KVM_SET_VCPU_EVENTS, &ev);

	for (unsigned i = 0; i < 32; i++) {
		struct kvm_guest_debug dbg = { .control = (i & 1 ? 0 : KVM_GUESTDBG_ENABLE) | 1u << i };

		if (dbg.control & (KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP))
			continue;
		cpu_do(s, 0, KVM_SET_GUEST_DEBUG, &dbg);
	}
	memset(&d, 0, sizeof(d));
	cpu_do(s, 0, KVM_SET_GUEST_DEBUG, &(struct kvm_guest_debug){ 0 });

	cpu_do(s, 0, KVM_GET_MP_STATE, &mp);
	say(s, "mp %u", mp.mp_state);
	cpu_do(s, 1, KVM_GET_MP_STATE, &mp);
	say(s, "mp %u", mp.mp_state);
	for (unsigned i = 0; i < 12; i++) {
		mp.mp_state = i;
		if (i == KVM_MP_STATE_AP_RESET_HOLD || i == KVM_MP_STATE_SIPI_RECEIVED)
			continue;
		cpu_do(s, 1, KVM_SET_MP_STATE, &mp);
		cpu_do(s, 1, KVM_GET_MP_STATE, &mp);
		say(s, "mp %u", mp.mp_state);
	}

	memset(&x, 0, sizeof(x));
	x.nr_xcrs = 99;
	cpu_do(s, 0, KVM_SET_XCRS, &x);

	cpu_do(s, 0, KVM_SET_SIGNAL_MASK, &mask);
	cpu_do(s, 0, KVM_SET_SIGNAL_MASK, NULL);
	mask.m.len = 8;
	cpu_do(s, 0, KVM_SET_SIGNAL_MASK, &mask);
	cpu_do(s, 0, KVM_SET_SIGNAL_MASK, BAD_PTR);

	cpu_do(s, 0, KVM_INTERRUPT, &irq);
	irq.irq = 0x40;
	cpu_do(s, 0, KVM_INTERRUPT, &irq);
	cpu_do(s, 0, KVM_NMI, NULL);
	cpu_do(s, 0, KVM_KVMCLOCK_CTRL, NULL);
	s->run[0]->immediate_exit = 1;
	say_result(s, "run", side_ioctl_val(s, s->vcpu[0], KVM_RUN, 0));
	say(s, "exit reason %u", s->run[0]->exit_reason);
	s->run[1]->immediate_exit = 1;
	mp.mp_state = KVM_MP_STATE_RUNNABLE;
	cpu_do(s, 1, KVM_SET_MP_STATE, &mp);
	say_result(s, "run", side_ioctl_val(s, s->vcpu[1], KVM_RUN, 0));
}

static void script_lapic(struct side *s, uint64_t seed)
{
	struct kvm_lapic_state l;
	struct kvm_sregs sr;

	side_add_vcpu(s, 0, 0);
	cpu_do(s, 0, KVM_GET_LAPIC, &l);
	side_new_vm(s);
	vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	side_add_vcpu(s, 0, 0);
	side_add_vcpu(s, 1, 1);
	say_lapic(s, 0);
	say_lapic(s, 1);
	cpu_do(s, 0, KVM_GET_LAPIC, &l);
	for (unsigned i = 0; i < 8; i++)
		store_le32(l.regs + 0x200 + i * 16, (uint32_t)next_random(&seed) & ~(i ? 0 : 0xffffu));
	store_le32(l.regs + 0x80, 0x35);
	store_le32(l.regs + 0xd0, 0x01000000);
	cpu_do(s, 0, KVM_SET_LAPIC, &l);
	say_lapic(s, 0);
	cpu_do(s, 0, KVM_GET_SREGS, &sr);
	say(s, "cr8 %llx base %llx", sr.cr8, sr.apic_base);
	sr.apic_base |= 1 << 10;
	cpu_do(s, 0, KVM_SET_SREGS, &sr);
	say_lapic(s, 0);
	sr.apic_base = 1ull << 60 | 0xfee00900;
	cpu_do(s, 0, KVM_SET_SREGS, &sr);
	sr.apic_base = 0xfee00500;
	cpu_do(s, 0, KVM_SET_SREGS, &sr);
}

static void one_msr(struct side *s, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[1];
	} m = { .head.nmsrs = 1 };

	m.e[0].index = index;
	m.e[0].data = value;
	say(s, "msr %x := %llx", index, (unsigned long long)value);
	cpu_do(s, 0, KVM_SET_MSRS, &m);
	m.e[0].data = 0xdead;
	cpu_do(s, 0, KVM_GET_MSRS, &m);
	say(s, "msr %x = %llx", index, (unsigned long long)m.e[0].data);
}

static void script_msrs(struct side *s, uint64_t seed)
{
	static const struct { uint32_t index; uint64_t value; } t[] = {
		{ 0x1b, 0xfee00900 }, { 0x1b, 0xfee00500 }, { 0x8b, 0x1234500000000ull }, { 0xfe, 0x508 },
		{ 0xfe, 0x509 }, { 0x277, 0x0007040600070406ull },
		{ 0x17a, 4 }, { 0x179, 10 }, { 0x3b, 0 }, { 0x1a0, 1 }, { 0xce, 0x80000000 },
		{ 0xc0000080, 0 }, { 0xc0000080, 1 }, { 0xc0000080, 1ull << 40 }, { 0xc0000081, 0x55 },
		{ 0xc0000082, 0xffffffff81000000ull }, { 0xc0000084, 0x47700 }, { 0xc0000102, 0x7fff0000 },
		{ 0x174, 0x10 }, { 0x175, 0x1000 }, { 0x176, 0x2000 },
		{ 0x4b564d03, 2 }, { 0x4b564d04, 2 }, { 0x4b564d05, 2 },
		{ 0x4b564d05, 0 }, { 0x4b564d01, 0 }, { 0x12, 0 }, { 0x11, 0 }, { 0x4b564d99, 0 },
		{ 0x12345678, 0 }, { 0x802, 0 }, { 0x400, 0 }, { 0x400, 5 }, { 0x401, 0 },
		{ 0x2ff, 0xc06 }, { 0x200, 6 }, { 0x250, 0x0606060606060606ull },
		{ 0x79, 1 }, { 0xc1, 0 }, { 0x1d9, 0 },
	};
	struct kvm_msrs big = { .nmsrs = 257 };

	if (seed)
		vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	side_add_vcpu(s, 0, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		one_msr(s, t[i].index, t[i].value);
	cpu_do(s, 0, KVM_GET_MSRS, &big);
	cpu_do(s, 0, KVM_SET_MSRS, BAD_PTR);
}

static void script_cpuid(struct side *s, uint64_t seed)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 e[64];
	} c = { .head.nent = 300 };

	side_add_vcpu(s, 0, 0);
	cpu_do(s, 0, KVM_SET_CPUID2, &c);
	cpu_do(s, 0, KVM_SET_CPUID2, BAD_PTR);
	c.head.nent = 2;
	cpu_do(s, 0, KVM_GET_CPUID2, &c);
	/* What it gives back is not compared: kvm_pvm adds leaves and features of its own. */
	c.head.nent = ARRAY_SIZE(c.e);
	cpu_do(s, 0, KVM_GET_CPUID2, &c);
	c.head.nent = 1;
	c.e[0] = (struct kvm_cpuid_entry2){ .function = 0x80000008, .eax = 0x2c28 };
	cpu_do(s, 0, KVM_SET_CPUID2, &c);
	c.e[0].eax = 0x3028;
	cpu_do(s, 0, KVM_SET_CPUID2, &c);
}

/* ---- special registers ---------------------------------------------------------------------------- */

static void script_sregs2(struct side *s, uint64_t seed)
{
	struct kvm_sregs2 a;
	struct kvm_sregs old;

	say_result(s, "cap", side_ioctl_val(s, s->vm, KVM_CHECK_EXTENSION, KVM_CAP_SREGS2));
	side_add_vcpu(s, 0, 0);
	map_memory(s, 0);
	cpu_do(s, 0, KVM_GET_SREGS2, BAD_PTR);
	memset(&a, 0xee, sizeof(a));
	cpu_do(s, 0, KVM_GET_SREGS2, &a);
	cpu_do(s, 0, KVM_GET_SREGS, &old);
	say(s, "alike: %d, flags %llx", !memcmp(&a, &old, offsetof(struct kvm_sregs2, flags)), a.flags);
	a.cr2 = 0x12345;
	a.flags = 2;
	cpu_do(s, 0, KVM_SET_SREGS2, &a);
	a.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID; /* no PAE paging */
	cpu_do(s, 0, KVM_SET_SREGS2, &a);
	a.flags = 0;
	cpu_do(s, 0, KVM_SET_SREGS2, &a);
	cpu_do(s, 0, KVM_GET_SREGS, &old);
	say(s, "cr2 %llx", old.cr2);
}

/* The reference machine's guests have no PAE paging of their own. */
static void page_directory_pointers_are_kept(void **state)
{
	struct kvm_sregs2 a;
	struct side s;

	side_begin(&s, true);
	side_add_vcpu(&s, 0, 0);
	map_memory(&s, 0);
	for (unsigned i = 0; i < 4; i++)
		store_le64(s.mem + 0x3000 + i * 8, i == 2 ? 0 : 0x4001 + i * 0x1000);
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_GET_SREGS2, &a), 0);
	a.cr0 |= 0x80000001;
	a.cr4 |= 0x20;
	a.cr3 = 0x3000;
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_SET_SREGS2, &a), 0);
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_GET_SREGS2, &a), 0);
	assert_int_equal(a.flags, KVM_SREGS2_FLAGS_PDPTRS_VALID);
	assert_int_equal(a.pdptrs[0], 0x4001);
	assert_int_equal(a.pdptrs[2], 0);
	/* These, not those in memory. */
	a.pdptrs[1] = 0x8001;
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_SET_SREGS2, &a), 0);
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_GET_SREGS2, &a), 0);
	assert_int_equal(a.pdptrs[1], 0x8001);
	/* Without the flag: those in memory again. */
	a.flags = 0;
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_SET_SREGS2, &a), 0);
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_GET_SREGS2, &a), 0);
	assert_int_equal(a.pdptrs[1], 0x5001);
	side_end(&s);
}

/* Which bits can be set with a small CPUID. (The reference machine adds UMIP and others to any.) */
static void script_cr4(struct side *s, uint64_t seed)
{
	struct kvm_sregs old, sr;

	side_add_vcpu(s, 0, 0);
	assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_GET_SREGS, &old), 0);
	for (unsigned bit = 0; bit < 64; bit++) {
		sr = old;
		sr.cr4 = BIT_ULL(bit);
		if (bit == 11 || (bit >= 16 && bit <= 22))
			continue;
		say(s, "cr4 bit %u: %d", bit, side_ioctl(s, s->vcpu[0], KVM_SET_SREGS, &sr));
		sr = old;
		sr.cr0 = BIT_ULL(bit);
		say(s, "cr0 bit %u: %d", bit, side_ioctl(s, s->vcpu[0], KVM_SET_SREGS, &sr));
	}
	sr = old;
	sr.cs.l = 1; /* 64-bit code outside of long mode */
	cpu_do(s, 0, KVM_SET_SREGS, &sr);
	assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_GET_SREGS, &sr), 0);
	say(s, "cr0 %llx cr4 %llx", sr.cr0 & ~0x10ull /* ET */, sr.cr4);
}

static void without_cpuid_cr4_takes_what_there_is(void **state)
{
	const uint64_t some = BIT_ULL(16) | BIT_ULL(20) | BIT_ULL(21);
	struct kvm_sregs sr;
	struct side s;
	int cpu;

	side_begin(&s, true);
	cpu = side_ioctl_val(&s, s.vm, KVM_CREATE_VCPU, 0);
	assert_true(cpu >= 0);
	assert_int_equal(side_ioctl(&s, cpu, KVM_GET_SREGS, &sr), 0);
	sr.cr4 = some;
	assert_int_equal(side_ioctl(&s, cpu, KVM_SET_SREGS, &sr), 0);
	sr.cr4 = BIT_ULL(13); /* VMXE */
	assert_int_equal(side_ioctl(&s, cpu, KVM_SET_SREGS, &sr), -EINVAL);
	assert_int_equal(side_ioctl(&s, cpu, KVM_GET_SREGS, &sr), 0);
	assert_int_equal(sr.cr4, some);
	assert_int_equal(s.api.ops->close(s.api.ctx, cpu), 0);
	side_end(&s);
}

/* KVM_GET_CPUID2 shows what the guest would see now. */
static void cpuid_follows_the_state(void **state)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 e[3];
	} c = { .head.nent = 3 };
	struct kvm_xcrs x = { .nr_xcrs = 1, .xcrs[0].value = 3 };
	struct kvm_sregs sr;
	struct side s;

	side_begin(&s, true);
	side_add_vcpu(&s, 0, 0);
	c.e[0] = (struct kvm_cpuid_entry2){ .function = 1, .ecx = 1u << 26 | 1u << 28 };
	c.e[1] = (struct kvm_cpuid_entry2){ .function = 0xd, .flags = 1, .eax = 7, .ebx = 1, .ecx = 832 };
	c.e[2] = (struct kvm_cpuid_entry2){ .function = 0x40000001, .eax = 1u << 7 | 1 };
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_SET_CPUID2, &c), 0);
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_SET_XCRS, &x), 0);
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_GET_CPUID2, &c), 0);
	assert_int_equal(c.e[0].ecx, 1u << 26 | 1u << 28);
	assert_int_equal(c.e[0].edx, 1u << 9);
	assert_int_equal(c.e[1].ebx, 576);
	assert_int_equal(c.e[2].eax, 1u << 7 | 1);
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_GET_SREGS, &sr), 0);
	sr.cr4 = 1u << 18;
	sr.apic_base &= ~(1ull << 11);
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_SET_SREGS, &sr), 0);
	x.xcrs[0].value = 7;
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_SET_XCRS, &x), 0);
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_GET_CPUID2, &c), 0);
	assert_int_equal(c.e[0].ecx, 1u << 26 | 1u << 27 | 1u << 28);
	assert_int_equal(c.e[0].edx, 0);
	assert_int_equal(c.e[1].ebx, 832);
	side_end(&s);

	side_begin(&s, true);
	vm_enable(&s, KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT);
	side_add_vcpu(&s, 0, 0);
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_SET_CPUID2, &c), 0);
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_GET_CPUID2, &c), 0);
	assert_int_equal(c.e[2].eax, 1); /* nobody wakes who is never halted */
	side_end(&s);
}

static const struct pair_script scripts[] = {
	{ "vcpu state", script_vcpu_state, 1 }, { "lapic", script_lapic, 3 },
	{ "msrs", script_msrs, 1 }, { "cpuid", script_cpuid },
	{ "sregs2", script_sregs2 }, { "cr4", script_cr4 },
};

int main(int argc, char **argv)
{
	const struct CMUnitTest alone[] = {
		cmocka_unit_test(page_directory_pointers_are_kept),
		cmocka_unit_test(without_cpuid_cr4_takes_what_there_is),
		cmocka_unit_test(cpuid_follows_the_state),
	};

	return kvm_pair_main(argc, argv, scripts, ARRAY_SIZE(scripts), alone, ARRAY_SIZE(alone));
}
