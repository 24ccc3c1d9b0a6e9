/* SPDX-License-Identifier: MIT
 * Operations on a vCPU's state.
 */
#include "diff.h"
#include <linux/kvm_para.h>

#define PICK(r, ...) \
	({ static const uint64_t list_[] = { __VA_ARGS__ }; list_[rng_below(r, ARRAY_SIZE(list_))]; })
/* a[0] and a[1] are VM and vCPU in all of them. */
#define VM  (a[0] % WORLD_VMS)
#define CPU (a[1] % WORLD_VCPUS)
#define WHO { "vm", any_vm }, { "cpu", any_cpu }

static void regs(struct world *w, const uint64_t *a)
{
	struct kvm_regs r;

	if (cpu_call(w, VM, CPU, KVM_GET_REGS, &r))
		return;
	((uint64_t *)&r)[a[2] % 18] = a[3];
	r.rflags &= 0x3d7fd5; /* there are no others, and none is in virtual 8086 mode here */
	cpu_call(w, VM, CPU, KVM_SET_REGS, world_pointer(a[4], &r));
	if (!world_quiet(w, w->cpu[VM][CPU], KVM_GET_REGS, &r))
		say(&w->s, "rip %llx rflags %llx", r.rip, r.rflags);
}

const struct op_kind op_regs = { "regs", 2, regs,
	{ WHO, { "reg", any_byte }, { "value", any_u64 }, { "pointer", any_pointer } } };

/* One field of the special registers: by number. */
static void sregs(struct world *w, const uint64_t *a)
{
	struct kvm_vcpu_events e;
	struct kvm_sregs s;
	struct kvm_segment *seg = &s.cs + a[2] % 8;

	if (cpu_call(w, VM, CPU, KVM_GET_SREGS, &s))
		return;
	switch (a[2] / 8 % 12) {
	case 0:
		s.cr0 = a[3];
		break;
	case 1:
		s.cr4 = a[3];
		break;
	case 2:
		s.efer = a[3];
		break;
	case 3:
		s.apic_base = a[3];
		break;
	case 4:
		s.cr8 = a[3];
		break;
	case 5:
		s.cr3 = a[3];
		break;
	case 6:
		seg->base = a[3];
		break;
	case 7:
		seg->selector = (uint16_t)a[3];
		break;
	case 8:
		seg->limit = (uint32_t)a[3];
		break;
	case 9:
		s.gdt.base = a[3];
		s.gdt.limit = (uint16_t)a[3];
		break;
	case 10:
		/* No processor delivers two at once. */
		if (!world_quiet(w, w->cpu[VM][CPU], KVM_GET_VCPU_EVENTS, &e) && !e.exception.injected && !e.nmi.injected)
			s.interrupt_bitmap[a[3] / 64 % 4] = 1ull << a[3] % 64;
		break;
	case 11:
		s.cr0 = 0x80050033;
		s.cr4 = 0x20;
		s.efer = 0x500;
		s.cs.l = 1;
		s.cs.db = a[3] & 1;
	}
	/*
	 * kvm_pvm does not find out of paging again. An interrupt that is injected with IF = 0 waits
	 * in softkvm, hardware of one maker takes it, of the other refuses to enter.
	 */
	if (s.cr0 >> 31 || a[2] / 8 % 12 == 10)
		w->odd[VM][CPU] = true;
	s.cr0 |= 0x10; /* ET cannot be off, though KVM remembers */
	if (a[2] / 8 % 12 != 11)
		s.cr0 &= ~(1ull << 31); /* kvm_pvm pages in long mode only */
	cpu_call(w, VM, CPU, KVM_SET_SREGS, world_pointer(a[4], &s));
}

static uint64_t sreg_value(struct rng *r)
{
	return rng_hostile(r) ? any_u64(r)
			      : PICK(r, 0x60000010, 0x60000011, 0x20, 0x500, 0x501, 0xfee00000, 0xfee00800,
				     0xfee00900, 0xfee00c00, 0xfee00d00, 0xfed00900, 0x30, 8, 1, 0);
}

const struct op_kind op_sregs = { "sregs", 5, sregs,
	{ WHO, { "field", any_byte }, { "value", sreg_value }, { "pointer", any_pointer } } };

static void fpu(struct world *w, const uint64_t *a)
{
	struct kvm_fpu f;

	if (cpu_call(w, VM, CPU, KVM_GET_FPU, &f))
		return;
	say(&w->s, "fcw %x fsw %x ftw %x mxcsr %x", f.fcw, f.fsw, f.ftwx, f.mxcsr);
	f.fcw = (uint16_t)(a[3] & 0x1f3f) | 0x40; /* the other bits are not there, or always 1 */
	f.fsw = (a[3] >> 16) & 0x4700; /* no exceptions: whether one waits is the processor's to say */
	f.xmm[a[2] % 16][a[2] / 16] = (uint8_t)a[3];
	cpu_call(w, VM, CPU, KVM_SET_FPU, world_pointer(a[4], &f));
	if (!world_quiet(w, w->cpu[VM][CPU], KVM_GET_FPU, &f))
		say(&w->s, "fcw %x fsw %x xmm %x", f.fcw, f.fsw, f.xmm[a[2] % 16][a[2] / 16]);
}

const struct op_kind op_fpu = { "fpu", 1, fpu,
	{ WHO, { "xmm", any_byte }, { "value", any_u64 }, { "pointer", any_pointer } } };

static void debugregs(struct world *w, const uint64_t *a)
{
	struct kvm_debugregs d;

	if (cpu_call(w, VM, CPU, KVM_GET_DEBUGREGS, &d))
		return;
	say(&w->s, "dr6 %llx dr7 %llx db %llx", d.dr6, d.dr7, d.db[0]);
	((uint64_t *)&d)[a[2] % 7] = a[3];
	cpu_call(w, VM, CPU, KVM_SET_DEBUGREGS, world_pointer(a[4], &d));
}

const struct op_kind op_debugregs = { "debugregs", 1, debugregs,
	{ WHO, { "reg", any_small }, { "value", any_u64 }, { "pointer", any_pointer } } };

static void xcrs(struct world *w, const uint64_t *a)
{
	struct kvm_xcrs x = { .nr_xcrs = (uint32_t)a[2], .flags = (uint32_t)a[3] };

	x.xcrs[0].xcr = (uint32_t)(a[4] >> 32);
	x.xcrs[0].value = (uint32_t)a[4];
	cpu_call(w, VM, CPU, KVM_SET_XCRS, world_pointer(a[5], &x));
}

const struct op_kind op_xcrs = { "xcrs", 1, xcrs,
	{ WHO, { "nr", any_small }, { "flags", rare_bit }, { "value", any_u64 }, { "pointer", any_pointer } } };

static void events(struct world *w, const uint64_t *a)
{
	const uint32_t with_error_code = 1 << 8 | 0x1f << 10 | 1 << 17;
	struct kvm_vcpu_events e;

	if (cpu_call(w, VM, CPU, KVM_GET_VCPU_EVENTS, &e))
		return;
	if (a[2] % 8 < 3) /* no processor delivers two at once */
		e.exception.injected = e.interrupt.injected = e.nmi.injected = 0;
	switch (a[2] % 8) {
	case 0:
		e.exception.injected = (uint8_t)a[3] & 1;
		e.exception.nr = (uint8_t)(a[3] >> 1);
		/* What was read is of the last exception that KVM had to deliver, and which that is is hardware's affair. */
		e.exception.has_error_code = e.exception.nr < 32 && with_error_code >> e.exception.nr & 1;
		e.exception.error_code = 0;
		if (a[2] < 8)
			break;
		e.exception.pending = e.exception.injected;
		e.exception_has_payload = a[3] >> 1 & 1;
		e.exception_payload = a[3] * 0x1011;
		e.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
		break;
	case 1:
		e.interrupt.injected = (uint8_t)a[3] & 1;
		e.interrupt.nr = (uint8_t)(a[3] >> 1);
		w->odd[VM][CPU] = true; /* as in sregs() */
		break;
	case 2:
		e.nmi.injected = (uint8_t)a[3] & 1;
		break;
	case 3:
		e.nmi.pending = (uint8_t)a[3] & 1;
		e.flags |= KVM_VCPUEVENT_VALID_NMI_PENDING;
		break;
	case 4:
		e.nmi.masked = (uint8_t)a[3] & 1;
		break;
	case 5:
		e.interrupt.shadow = (uint8_t)a[3] & 3;
		w->odd[VM][CPU] = true; /* kvm_pvm has its shadow over many instructions */
		e.flags |= KVM_VCPUEVENT_VALID_SHADOW;
		break;
	case 6:
		e.flags = (uint32_t)a[3];
		break;
	case 7:
		e.sipi_vector = (uint32_t)a[3];
		e.flags |= KVM_VCPUEVENT_VALID_SIPI_VECTOR;
	}
	cpu_call(w, VM, CPU, KVM_SET_VCPU_EVENTS, world_pointer(a[4], &e));
}

const struct op_kind op_events = { "events", 3, events,
	{ WHO, { "field", any_small }, { "value", any_byte }, { "pointer", any_pointer } } };

static void mp_state(struct world *w, const uint64_t *a)
{
	struct kvm_mp_state m = { .mp_state = (uint32_t)a[2] };

	cpu_call(w, VM, CPU, KVM_SET_MP_STATE, world_pointer(a[3], &m));
	if (!world_quiet(w, w->cpu[VM][CPU], KVM_GET_MP_STATE, &m))
		say(&w->s, "mp %u", m.mp_state);
}

static uint64_t any_mp(struct rng *r)
{
	return rng_hostile(r) ? PICK(r, 4, 5, 9, 10, 99, 0xffffffff) : rng_below(r, 4);
}

const struct op_kind op_mp_state = { "mp_state", 2, mp_state,
	{ WHO, { "state", any_mp }, { "pointer", any_pointer } } };

/* ---- local APIC -------------------------------------------------------------------- */

/* The timer stays off: its interrupts at some time are nothing to compare. */
static void lapic_set(struct world *w, const uint64_t *a)
{
	struct kvm_lapic_state l;
	unsigned reg = a[2] & 0x3f0;

	if (cpu_call(w, VM, CPU, KVM_GET_LAPIC, &l))
		return;
	if (reg >= 0x100 && reg < 0x180) /* kvm_pvm has no use for what is in service (guest.c) */
		w->odd[VM][CPU] = true;
	if (reg != 0x380 && reg != 0x390)
		store_le32(l.regs + reg, (uint32_t)a[3]);
	cpu_call(w, VM, CPU, KVM_SET_LAPIC, world_pointer(a[4], &l));
	say_local_apic(w, VM, CPU);
}

static uint64_t lapic_reg(struct rng *r)
{
	return rng_hostile(r) ? (uint64_t)rng_below(r, 64) << 4
			      : PICK(r, 0x20, 0x80, 0xd0, 0xe0, 0xf0, 0x100, 0x180, 0x1b0, 0x200, 0x210, 0x280, 0x310,
				     0x320, 0x340, 0x350, 0x350, 0x360, 0x370);
}

static uint64_t lapic_value(struct rng *r)
{
	return rng_hostile(r) ? rng_next(r)
			      : PICK(r, 0, 0x1ff, 0xff, 0x700, 0x10700, 0x400, 0x8700, 0x20, 0x55, 0xf0, 0x10000,
				     0x01000000, 0x02000000, 0xffffffff, 0x0fffffff);
}

const struct op_kind op_lapic_set = { "lapic_set", 6, lapic_set,
	{ WHO, { "reg", lapic_reg }, { "value", lapic_value }, { "pointer", any_pointer } } };

static void lapic_get(struct world *w, const uint64_t *a)
{
	struct kvm_lapic_state l;

	if (!cpu_call(w, VM, CPU, KVM_GET_LAPIC, world_pointer(a[2], &l)))
		say_local_apic(w, VM, CPU);
}

const struct op_kind op_lapic_get = { "lapic_get", 3, lapic_get, { WHO, { "pointer", any_pointer } } };

/* ---- MSRs, CPUID ---------------------------------------------------------------------- */

/* How wide a linear address is depends on the host's processor: none between the two widths. */
static uint64_t canonical(uint32_t msr, uint64_t v)
{
	if (msr == 0x175 || msr == 0x176)
		return v & 0x7fffffff; /* their width depends on whose processor it is */
	return (uint64_t)((int64_t)(v << 7) >> 7) == v ? (uint64_t)((int64_t)(v << 16) >> 16) : v;
}

static void msr(struct world *w, const uint64_t *a)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[1];
	} m = { .head.nmsrs = (uint32_t)a[5] };

	m.e[0].index = (uint32_t)a[2];
	m.e[0].data = canonical((uint32_t)a[2], a[3]);
	if (a[2] == MSR_KVM_STEAL_TIME)
		m.e[0].data &= ~1ull; /* it would write times into memory */
	if (a[4])
		cpu_call(w, VM, CPU, KVM_SET_MSRS, world_pointer(a[6], &m));
	m.e[0].data = 0xdead;
	if (cpu_call(w, VM, CPU, KVM_GET_MSRS, world_pointer(a[6], &m)) >= 0 && !a[6])
		say(&w->s, "msr %x = %llx", m.e[0].index, m.e[0].data);
}

/* Without those that show time or the host. */
static uint64_t any_msr(struct rng *r)
{
	return rng_hostile(r)
		? PICK(r, 0x12345678, 0x400, 0x401, 0x402, 0x17b, 0x179, 0x4b564d99, 0xc0000085, 0x2f0, 0x833, 0x8ff)
		: PICK(r, 0x1b, 0x3b, 0x174, 0x175, 0x176, 0x17a, 0x200, 0x201, 0x250, 0x2ff, 0x808, 0x80f, 0x835,
		       0x140, 0xc0000080, 0xc0000081, 0xc0000082, 0xc0000084, 0xc0000102,
		       0x4b564d03, 0x4b564d04, 0x4b564d05, 0xfe, 0xce, 0x186, 0xc1);
}

static uint64_t msr_value(struct rng *r)
{
	return rng_hostile(r) ? any_u64(r)
			      : PICK(r, 0, 1, 0x10, 0x500, 0x06060606, 0xfee00900, 0xfee00d00, 0x100001, 0x9001, 0x700,
				     0x1ff, 0x20, 0x7fff00000000, 0xffffffff80000000);
}

static uint64_t nr_msrs(struct rng *r)
{
	return rng_hostile(r) ? PICK(r, 0, 256, 257, 0xffffffff) : 1;
}

const struct op_kind op_msr = { "msr", 6, msr,
	{ WHO, { "index", any_msr }, { "value", msr_value }, { "set", any_bit }, { "nr", nr_msrs },
	  { "pointer", any_pointer } } };

static void cpuid(struct world *w, const uint64_t *a)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 e[2];
	} c = { .head.nent = MAX((uint32_t)a[2], 1u) };

	c.e[0] = (struct kvm_cpuid_entry2){ .function = 1, .ecx = 1u << 21 | 1u << 24, .edx = 0x078bfbff };
	c.e[1] = (struct kvm_cpuid_entry2){ .function = 0x80000008, .eax = (uint32_t)a[3] };
	if (!cpu_call(w, VM, CPU, KVM_SET_CPUID2, world_pointer(a[4], &c)))
		w->odd[VM][CPU] = true; /* no long mode */
}

static uint64_t nr_leaves(struct rng *r)
{
	return rng_hostile(r) ? PICK(r, 257, 0xffffffff) : 1 + rng_below(r, 2);
}

static uint64_t address_sizes(struct rng *r)
{
	return PICK(r, 0x3028, 0x2c28, 0x3930, 0x3024, 0);
}

const struct op_kind op_cpuid = { "cpuid", 1, cpuid,
	{ WHO, { "nr", nr_leaves }, { "sizes", address_sizes }, { "pointer", any_pointer } } };

/* ---- interrupts ------------------------------------------------------------------------- */

static void interrupt(struct world *w, const uint64_t *a)
{
	struct kvm_interrupt i = { .irq = (uint32_t)a[2] };

	/* What hardware makes of one that the guest cannot take now differs: its guest is given it then. */
	if (w->chips[VM] == CHIPS_NONE && a[2] < 256 && !a[3]) {
		w->user_vector[VM][CPU] = (int)a[2];
		return;
	}
	cpu_call(w, VM, CPU, KVM_INTERRUPT, world_pointer(a[3], &i));
}

const struct op_kind op_interrupt = { "interrupt", 5, interrupt,
	{ WHO, { "vector", any_vector }, { "pointer", any_pointer } } };

static void nmi(struct world *w, const uint64_t *a)
{
	cpu_call(w, VM, CPU, KVM_NMI, NULL);
}

const struct op_kind op_nmi = { "nmi", 2, nmi, { WHO } };

static void signal_mask(struct world *w, const uint64_t *a)
{
	struct {
		struct kvm_signal_mask m;
		uint8_t set[8];
	} m = { .m.len = (uint32_t)a[2] };

	cpu_call(w, VM, CPU, KVM_SET_SIGNAL_MASK, world_pointer(a[3], &m));
}

static uint64_t mask_len(struct rng *r)
{
	return rng_hostile(r) ? rng_below(r, 20) : 8;
}

const struct op_kind op_signal_mask = { "signal_mask", 1, signal_mask,
	{ WHO, { "len", mask_len }, { "pointer", any_pointer } } };

static void guest_debug(struct world *w, const uint64_t *a)
{
	struct kvm_guest_debug d = { .control = (uint32_t)a[2] };

	cpu_call(w, VM, CPU, KVM_SET_GUEST_DEBUG, world_pointer(a[3], &d));
	d.control = 0;
	(void)world_quiet(w, w->cpu[VM][CPU], KVM_SET_GUEST_DEBUG, &d);
}

static uint64_t debug_control(struct rng *r)
{
	return PICK(r, 0, 1, 3, 0x10001);
}

const struct op_kind op_guest_debug = { "guest_debug", 1, guest_debug,
	{ WHO, { "control", debug_control }, { "pointer", any_pointer } } };

static void translate(struct world *w, const uint64_t *a)
{
	struct kvm_translation t = { .linear_address = a[2] };

	if (!cpu_call(w, VM, CPU, KVM_TRANSLATE, world_pointer(a[3], &t)))
		say(&w->s, "%llx valid %u writeable %u user %u", t.physical_address, t.valid, t.writeable,
		    t.usermode);
}

const struct op_kind op_translate = { "translate", 1, translate,
	{ WHO, { "address", any_gpa }, { "pointer", any_pointer } } };

static void tsc_khz(struct world *w, const uint64_t *a)
{
	/* The VM's rate: a vCPU's kernel also remembers those that it refused. */
	long now = world_quiet(w, w->vm[VM], KVM_GET_TSC_KHZ, NULL);

	say(&w->s, "has a rate %d", now > 0);
	world_call(w, "KVM_SET_TSC_KHZ", w->cpu[VM][CPU], KVM_SET_TSC_KHZ,
		   (void *)(a[2] ? a[2] * 1000 : now > 0 ? (uint64_t)now : 0));
}

static uint64_t khz(struct rng *r)
{
	return rng_hostile(r) ? PICK(r, 1, 100, 100000000) : 0;
}

const struct op_kind op_tsc_khz = { "tsc_khz", 1, tsc_khz, { WHO, { "khz", khz } } };

static void mce(struct world *w, const uint64_t *a)
{
	uint64_t cap = a[3];
	struct kvm_x86_mce m = { .status = a[3], .bank = (uint8_t)a[4], .mcg_status = a[3] & 7 };

	if (a[2])
		cpu_call(w, VM, CPU, KVM_X86_SETUP_MCE, world_pointer(a[5], &cap));
	else
		cpu_call(w, VM, CPU, KVM_X86_SET_MCE, world_pointer(a[5], &m));
}

static uint64_t mce_value(struct rng *r)
{
	return rng_hostile(r) ? any_u64(r)
			      : PICK(r, 4, 10, 0x10a, 32, 33, 0x8000000000000001, 0xa000000000000001, 0xc000000000000000);
}

const struct op_kind op_mce = { "mce", 1, mce,
	{ WHO, { "set up", any_bit }, { "value", mce_value }, { "bank", any_small }, { "pointer", any_pointer } } };

/* KVM_RUN that only finishes what is in flight. */
static void run_now(struct world *w, const uint64_t *a)
{
	struct kvm_run *run = w->run[VM][CPU];

	if (w->cpu[VM][CPU] >= 0)
		run->immediate_exit = 1;
	world_call(w, "KVM_RUN", w->cpu[VM][CPU], KVM_RUN, (void *)a[2]);
	if (w->cpu[VM][CPU] >= 0)
		run->immediate_exit = 0;
}

const struct op_kind op_run_now = { "run_now", 2, run_now, { WHO, { "arg", rare_bit } } };

/* ---- calls on the wrong fd, with the wrong pointer --------------------------------------------- */

static const struct {
	const char *name;
	unsigned long request;
} requests[] = {
#define R(x) { #x, x }
	R(KVM_GET_API_VERSION), R(KVM_CREATE_VM), R(KVM_GET_MSR_INDEX_LIST), R(KVM_CHECK_EXTENSION),
	R(KVM_GET_VCPU_MMAP_SIZE), R(KVM_GET_SUPPORTED_CPUID), R(KVM_CREATE_VCPU), R(KVM_GET_DIRTY_LOG),
	R(KVM_SET_USER_MEMORY_REGION), R(KVM_SET_TSS_ADDR), R(KVM_IRQ_LINE), R(KVM_GET_IRQCHIP),
	R(KVM_SET_IRQCHIP), R(KVM_CREATE_PIT2), R(KVM_GET_PIT2), R(KVM_SET_PIT2), R(KVM_SET_GSI_ROUTING),
	R(KVM_IRQFD), R(KVM_IOEVENTFD), R(KVM_SIGNAL_MSI), R(KVM_SET_CLOCK), R(KVM_GET_CLOCK), R(KVM_RUN),
	R(KVM_GET_REGS), R(KVM_SET_REGS), R(KVM_GET_SREGS), R(KVM_SET_SREGS), R(KVM_TRANSLATE),
	R(KVM_INTERRUPT), R(KVM_GET_MSRS), R(KVM_SET_MSRS), R(KVM_GET_FPU), R(KVM_SET_FPU), R(KVM_GET_LAPIC),
	R(KVM_SET_LAPIC), R(KVM_SET_CPUID2), R(KVM_GET_MP_STATE), R(KVM_SET_MP_STATE), R(KVM_NMI),
	R(KVM_GET_VCPU_EVENTS), R(KVM_SET_VCPU_EVENTS), R(KVM_GET_DEBUGREGS), R(KVM_SET_DEBUGREGS),
	R(KVM_ENABLE_CAP), R(KVM_GET_XSAVE), R(KVM_SET_XSAVE), R(KVM_GET_XCRS), R(KVM_SET_XCRS),
	R(KVM_SET_TSC_KHZ), R(KVM_GET_TSC_KHZ), R(KVM_KVMCLOCK_CTRL), R(KVM_CREATE_DEVICE),
	R(KVM_X86_SET_MSR_FILTER), R(KVM_CLEAR_DIRTY_LOG), R(KVM_GET_CPUID2), R(KVM_SET_SIGNAL_MASK),
	R(KVM_X86_SETUP_MCE), R(KVM_X86_SET_MCE), R(KVM_SET_BOOT_CPU_ID), R(KVM_REINJECT_CONTROL),
#undef R
};

/* Any request with a bad pointer, on any fd; with NULL only where that is no argument at all. */
static void bad_call(struct world *w, const uint64_t *a)
{
	unsigned i = a[3] % ARRAY_SIZE(requests);
	int fds[] = { w->s.sys, w->vm[VM], w->cpu[VM][CPU], w->event[0] };
	unsigned kind = a[2] % 4;
	long r;

	/* It would run, or make a vCPU whose local APIC nobody touches (docs/DIFF.md). */
	if ((requests[i].request == KVM_RUN && kind == 2) || (requests[i].request == KVM_CREATE_VCPU && kind == 1))
		return;
	r = world_quiet(w, fds[kind], requests[i].request, world_pointer(1 + a[4] % 4, NULL));
	say_result(&w->s, requests[i].name, MIN(r, 0));
	if (r > 2 && requests[i].request == KVM_CREATE_VM)
		(void)w->s.api.ops->close(w->s.api.ctx, (int)r);
}

const struct op_kind op_bad_call = { "bad_call", 4, bad_call,
	{ WHO, { "fd", any_small }, { "request", any_byte }, { "pointer", any_small } } };
