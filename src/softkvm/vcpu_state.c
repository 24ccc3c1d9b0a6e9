/* SPDX-License-Identifier: MIT */
#include "softkvm/vcpu_state.h"
#include "softkvm/cpuid.h"
#include <stdlib.h>

#define RFLAGS_FIXED 2u
#define RFLAGS_TF    0x100u
#define DR6_FIXED    0xfffe0ff0u
#define FXSAVE_SIZE  512u

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };
enum { ES, CS, SS, DS, FS, GS };

void state_get_regs(struct soft_vcpu *v, struct kvm_regs *r)
{
	struct engine_regs e;

	engine_get_regs(v->cpu, &e);
	*r = (struct kvm_regs){
		.rax = e.gpr[RAX], .rbx = e.gpr[RBX], .rcx = e.gpr[RCX], .rdx = e.gpr[RDX],
		.rsi = e.gpr[RSI], .rdi = e.gpr[RDI], .rsp = e.gpr[RSP], .rbp = e.gpr[RBP],
		.r8 = e.gpr[8], .r9 = e.gpr[9], .r10 = e.gpr[10], .r11 = e.gpr[11],
		.r12 = e.gpr[12], .r13 = e.gpr[13], .r14 = e.gpr[14], .r15 = e.gpr[15],
		.rip = e.rip, .rflags = e.rflags,
	};
	/* As in KVM: while user space steps, the flag is its own, and the guest has none. */
	if (v->guest_debug & KVM_GUESTDBG_SINGLESTEP)
		r->rflags &= ~(uint64_t)RFLAGS_TF;
}

void state_set_regs(struct soft_vcpu *v, const struct kvm_regs *r)
{
	struct engine_regs e = {
		.gpr = { r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
			 r->r8, r->r9, r->r10, r->r11, r->r12, r->r13, r->r14, r->r15 },
		.rip = r->rip, .rflags = r->rflags | RFLAGS_FIXED,
	};
	struct engine_events ev;

	engine_set_regs(v->cpu, &e);
	if (!v->exception.pending)
		return;
	/* As in KVM: it belonged to the instruction that is not the next any more. */
	engine_get_events(v->cpu, &ev);
	ev.exception.injected = false;
	v->exception.pending = false;
	(void)!engine_set_events(v->cpu, &ev); /* less than was there */
}

void state_end_stepping(struct soft_vcpu *v)
{
	struct engine_regs e;

	engine_get_regs(v->cpu, &e);
	e.rflags &= ~(uint64_t)RFLAGS_TF;
	engine_set_regs(v->cpu, &e);
}

static struct kvm_segment seg_out(const struct engine_segment *s)
{
	return (struct kvm_segment){
		.base = s->base, .limit = s->limit, .selector = s->selector, .type = s->type,
		.present = s->present, .dpl = s->dpl, .db = s->db, .s = s->s, .l = s->l, .g = s->g,
		.avl = s->avl, .unusable = s->unusable,
	};
}

static struct engine_segment seg_in(const struct kvm_segment *s)
{
	return (struct engine_segment){
		.base = s->base, .limit = s->limit, .selector = s->selector, .type = s->type,
		.present = s->present, .dpl = s->dpl, .db = s->db, .s = s->s, .l = s->l, .g = s->g,
		.avl = s->avl, .unusable = s->unusable,
	};
}

void state_get_sregs(struct soft_vcpu *v, struct kvm_sregs *s)
{
	struct engine_events ev;
	struct engine_sregs e;

	engine_get_sregs(v->cpu, &e);
	*s = (struct kvm_sregs){
		.cs = seg_out(&e.seg[CS]), .ds = seg_out(&e.seg[DS]), .es = seg_out(&e.seg[ES]),
		.fs = seg_out(&e.seg[FS]), .gs = seg_out(&e.seg[GS]), .ss = seg_out(&e.seg[SS]),
		.tr = seg_out(&e.tr), .ldt = seg_out(&e.ldt),
		.gdt = { .base = e.gdt.base, .limit = e.gdt.limit },
		.idt = { .base = e.idt.base, .limit = e.idt.limit },
		.cr0 = e.cr0, .cr2 = e.cr2, .cr3 = e.cr3, .cr4 = e.cr4, .efer = e.efer,
		.cr8 = v->has_lapic ? lapic_cr8(&v->lapic) : v->cr8,
		.apic_base = v->lapic.base_msr,
	};
	engine_get_events(v->cpu, &ev);
	if (ev.interrupt.injected && !ev.interrupt.soft)
		s->interrupt_bitmap[ev.interrupt.nr / 64] |= BIT_ULL(ev.interrupt.nr % 64);
	else if (v->user_vector >= 0)
		s->interrupt_bitmap[v->user_vector / 64] |= BIT_ULL(v->user_vector % 64);
}

/* "Older userspace won't unhalt the vcpu on reset": the BSP at the reset vector runs. */
static bool at_reset_vector(struct soft_vcpu *v, const struct kvm_sregs *s)
{
	struct engine_regs r;

	engine_get_regs(v->cpu, &r);
	return v->lapic.base_msr & APIC_BASE_BSP && r.rip == 0xfff0 && s->cs.selector == 0xf000 &&
	       s->cs.base == 0xffff0000 && !(s->cr0 & 1);
}

/* One that a controller has acknowledged already. */
static void queue_interrupt(struct soft_vcpu *v, uint8_t vector)
{
	struct engine_events ev;

	if (!v->has_lapic) {
		v->user_vector = vector;
		return;
	}
	engine_get_events(v->cpu, &ev);
	ev.interrupt.injected = 1;
	ev.interrupt.soft = 0;
	ev.interrupt.nr = vector;
	(void)!engine_set_events(v->cpu, &ev);
}

/* The registers of both calls; pdptes: NULL, or four that count instead of those in memory. */
static int set_sregs(struct soft_vcpu *v, const struct kvm_sregs *s, const uint64_t *pdptes)
{
	struct engine_sregs e = {
		.seg = { seg_in(&s->es), seg_in(&s->cs), seg_in(&s->ss), seg_in(&s->ds),
			 seg_in(&s->fs), seg_in(&s->gs) },
		.ldt = seg_in(&s->ldt), .tr = seg_in(&s->tr),
		.gdt = { s->gdt.base, s->gdt.limit }, .idt = { s->idt.base, s->idt.limit },
		.cr0 = s->cr0, .cr2 = s->cr2, .cr3 = s->cr3, .cr4 = s->cr4, .efer = s->efer,
		.has_pdptes = pdptes,
	};
	int r;

	if (s->cr4 & ~vcpu_cr4_bits(v))
		return -EINVAL;
	if (pdptes)
		memcpy(e.pdpte, pdptes, sizeof(e.pdpte));
	r = engine_check_sregs(v->cpu, &e);
	if (!r)
		r = lapic_set_base(&v->lapic, s->apic_base, true);
	if (!r)
		r = engine_set_sregs(v->cpu, &e);
	if (r)
		return r;
	/* What CR8 cannot be it does not become. */
	if (s->cr8 > 0xf)
		;
	else if (v->has_lapic)
		lapic_set_cr8(&v->lapic, s->cr8);
	else
		v->cr8 = s->cr8;
	vcpu_lapic_done(v);
	engine_vcpu_cpuid_changed(v->cpu);
	if (at_reset_vector(v, s))
		vcpu_set_activity(v, KVM_MP_STATE_RUNNABLE);
	return 0;
}

int state_set_sregs(struct soft_vcpu *v, const struct kvm_sregs *s)
{
	int vector = -1, r = set_sregs(v, s, NULL);

	if (r)
		return r;
	for (int i = 3; i >= 0; i--)
		if (s->interrupt_bitmap[i])
			vector = i * 64 + __builtin_ctzll(s->interrupt_bitmap[i]);
	if (vector >= 0)
		queue_interrupt(v, (uint8_t)vector);
	return 0;
}

/* The two structs differ in what follows apic_base. */
#define SREGS_COMMON offsetof(struct kvm_sregs, interrupt_bitmap)
_Static_assert(SREGS_COMMON == offsetof(struct kvm_sregs2, flags), "kvm_sregs and kvm_sregs2");

void state_get_sregs2(struct soft_vcpu *v, struct kvm_sregs2 *s2)
{
	struct engine_sregs e;
	struct kvm_sregs s;

	memset(s2, 0, sizeof(*s2));
	state_get_sregs(v, &s);
	memcpy(s2, &s, SREGS_COMMON);
	engine_get_sregs(v->cpu, &e);
	if (!e.has_pdptes)
		return;
	s2->flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
	memcpy(s2->pdptrs, e.pdpte, sizeof(s2->pdptrs));
}

int state_set_sregs2(struct soft_vcpu *v, const struct kvm_sregs2 *s2)
{
	bool pdptes = s2->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID;
	struct kvm_sregs s = { 0 };

	if (s2->flags & ~(uint64_t)KVM_SREGS2_FLAGS_PDPTRS_VALID)
		return -EINVAL;
	/* SDM Vol. 3A, "PAE Paging": CR0.PG and CR4.PAE without IA32_EFER.LMA. */
	if (pdptes && (!(s2->cr0 >> 31 & 1) || !(s2->cr4 >> 5 & 1) || s2->efer >> 10 & 1))
		return -EINVAL;
	memcpy(&s, s2, SREGS_COMMON);
	return set_sregs(v, &s, pdptes ? (const uint64_t *)s2->pdptrs : NULL);
}

/* ---- kvm_run's registers ("KVM_CAP_SYNC_REGS") ----------------------------------- */

/* The pages are the caller's to write at any time: everything is read once, before it is looked at. */
int state_take_synced(struct soft_vcpu *v)
{
	struct kvm_run *run = v->run;
	uint64_t dirty = READ_ONCE(run->kvm_dirty_regs);
	volatile struct kvm_sync_regs *from = &run->s.regs;
	struct kvm_sync_regs r;
	int ret = 0;

	if (!dirty)
		return 0;
	for (size_t i = 0; i < sizeof(r) / sizeof(uint64_t); i++)
		((uint64_t *)&r)[i] = ((volatile uint64_t *)from)[i];
	if (dirty & KVM_SYNC_X86_REGS) {
		state_set_regs(v, &r.regs);
		dirty &= ~(uint64_t)KVM_SYNC_X86_REGS;
	}
	if (dirty & KVM_SYNC_X86_SREGS) {
		ret = state_set_sregs(v, &r.sregs);
		dirty &= ~(uint64_t)(ret ? 0 : KVM_SYNC_X86_SREGS);
	}
	if (!ret && dirty & KVM_SYNC_X86_EVENTS) {
		ret = state_set_events(v, &r.events);
		dirty &= ~(uint64_t)(ret ? 0 : KVM_SYNC_X86_EVENTS);
	}
	WRITE_ONCE(run->kvm_dirty_regs, dirty);
	return ret ? -EINVAL : 0;
}

void state_give_synced(struct soft_vcpu *v)
{
	struct kvm_run *run = v->run;
	uint64_t valid = READ_ONCE(run->kvm_valid_regs);

	if (valid & KVM_SYNC_X86_REGS)
		state_get_regs(v, &run->s.regs.regs);
	if (valid & KVM_SYNC_X86_SREGS)
		state_get_sregs(v, &run->s.regs.sregs);
	if (valid & KVM_SYNC_X86_EVENTS)
		state_get_events(v, &run->s.regs.events);
}

/* ---- vector state -------------------------------------------------------------- */

/* FXSAVE's image (SDM Vol. 1, "FXSAVE Area") as the first part of XSAVE's. */
struct fxsave {
	uint16_t fcw, fsw;
	uint8_t ftw, reserved;
	uint16_t fop;
	uint64_t fip, fdp;
	uint32_t mxcsr, mxcsr_mask;
	uint8_t st[8][16], xmm[16][16];
};

union image {
	struct fxsave fx;
	uint8_t bytes[ENGINE_XSAVE_SIZE];
	_Alignas(64) struct {
		uint8_t legacy[FXSAVE_SIZE];
		uint64_t xstate_bv;
	} x;
};

void state_get_fpu(struct soft_vcpu *v, struct kvm_fpu *f)
{
	union image i;

	engine_get_xsave(v->cpu, &i);
	*f = (struct kvm_fpu){
		.fcw = i.fx.fcw, .fsw = i.fx.fsw, .ftwx = i.fx.ftw, .last_opcode = i.fx.fop,
		.last_ip = i.fx.fip, .last_dp = i.fx.fdp,
	};
	memcpy(f->fpr, i.fx.st, sizeof(f->fpr));
	memcpy(f->xmm, i.fx.xmm, sizeof(f->xmm));
}

int state_set_fpu(struct soft_vcpu *v, const struct kvm_fpu *f)
{
	union image i;

	engine_get_xsave(v->cpu, &i);
	i.fx.fcw = f->fcw;
	i.fx.fsw = f->fsw;
	i.fx.ftw = f->ftwx;
	i.fx.fop = f->last_opcode;
	i.fx.fip = f->last_ip;
	i.fx.fdp = f->last_dp;
	memcpy(i.fx.st, f->fpr, sizeof(f->fpr));
	memcpy(i.fx.xmm, f->xmm, sizeof(f->xmm));
	i.x.xstate_bv |= 3;
	return engine_set_xsave(v->cpu, &i);
}

void state_get_xsave(struct soft_vcpu *v, struct kvm_xsave *x)
{
	memset(x, 0, sizeof(*x));
	engine_get_xsave(v->cpu, x->region);
}

int state_set_xsave(struct soft_vcpu *v, const struct kvm_xsave *x)
{
	union image i;

	memcpy(&i, x->region, sizeof(i.bytes));
	return engine_set_xsave(v->cpu, &i);
}

void state_get_xcrs(struct soft_vcpu *v, struct kvm_xcrs *x)
{
	x->nr_xcrs = 1;
	x->flags = 0;
	x->xcrs[0].xcr = 0;
	x->xcrs[0].value = engine_get_xcr0(v->cpu);
}

int state_set_xcrs(struct soft_vcpu *v, const struct kvm_xcrs *x)
{
	if (x->nr_xcrs > KVM_MAX_XCRS || x->flags)
		return -EINVAL;
	for (uint32_t i = 0; i < x->nr_xcrs; i++)
		if (!x->xcrs[i].xcr)
			return engine_set_xcr0(v->cpu, x->xcrs[i].value) ? -EINVAL : 0;
	return 0;
}

/* ---- debug registers and events -------------------------------------------------- */

void state_get_debugregs(struct soft_vcpu *v, struct kvm_debugregs *d)
{
	struct engine_debugregs e;

	engine_get_debugregs(v->cpu, &e);
	memset(d, 0, sizeof(*d));
	memcpy(d->db, e.db, sizeof(d->db));
	d->dr6 = e.dr6;
	d->dr7 = e.dr7;
}

int state_set_debugregs(struct soft_vcpu *v, const struct kvm_debugregs *d)
{
	struct engine_debugregs e = { .dr6 = d->dr6, .dr7 = d->dr7 };

	if (d->flags || d->dr6 >> 32 || d->dr7 >> 32)
		return -EINVAL;
	memcpy(e.db, d->db, sizeof(e.db));
	return engine_set_debugregs(v->cpu, &e);
}

enum { DB = 1, BP = 3, OF = 4, DF = 8, PF = 14, MC = 18 };

/* SDM Vol. 3B, "Debug Status Register (DR6)": these are set, or clear for a cause. */
#define DR6_ACTIVE_LOW 0xffff0ff0u
#define DR6_TRAPS      0xfu
#define DR6_ENABLED    BIT(12) /* of VMX's pending debug exceptions, not of DR6 */
#define DR7_GD	       BIT(13)
#define RFLAGS_RF      BIT(16)

static void deliver_payload(struct soft_vcpu *v, uint8_t vector)
{
	struct vcpu_exception *x = &v->exception;
	struct engine_debugregs d;

	if (!x->has_payload)
		return;
	if (vector == DB) {
		engine_get_debugregs(v->cpu, &d);
		d.dr6 = (d.dr6 & ~(uint64_t)DR6_TRAPS) | DR6_ACTIVE_LOW | x->payload;
		d.dr6 = (d.dr6 ^ (x->payload & DR6_ACTIVE_LOW)) & ~(uint64_t)DR6_ENABLED;
		(void)!engine_set_debugregs(v->cpu, &d);
	} else if (vector == PF) {
		engine_set_cr2(v->cpu, x->payload);
	}
	x->has_payload = false;
	x->payload = 0;
}

void state_begin_exception(struct soft_vcpu *v)
{
	struct engine_debugregs d;
	struct engine_events ev;
	struct engine_regs r;

	if (!v->exception.pending)
		return;
	engine_get_events(v->cpu, &ev);
	deliver_payload(v, ev.exception.nr);
	switch (ev.exception.nr) {
	case DB:
		engine_get_debugregs(v->cpu, &d);
		d.dr7 &= ~(uint64_t)DR7_GD;
		(void)!engine_set_debugregs(v->cpu, &d);
		break;
	case BP:
	case OF:
	case DF:
	case MC:
		break;
	default: /* a fault */
		engine_get_regs(v->cpu, &r);
		r.rflags |= RFLAGS_RF;
		engine_set_regs(v->cpu, &r);
	}
	v->exception.pending = false;
}

void state_forget_payload(struct soft_vcpu *v)
{
	v->exception.has_payload = false;
	v->exception.payload = 0;
}

void state_get_events(struct soft_vcpu *v, struct kvm_vcpu_events *e)
{
	bool payloads = READ_ONCE(v->vm->exception_payload);
	struct vcpu_exception *x = &v->exception;
	struct engine_events ev;

	engine_get_events(v->cpu, &ev);
	memset(e, 0, sizeof(*e));
	/* Who does not know of payloads finds their effects, and takes pending for injected. */
	if (x->pending && !payloads)
		deliver_payload(v, ev.exception.nr);
	/* #BP and #OF come again by themselves: RIP is at the instruction, whose length is not told here. */
	if (ev.exception.injected && ev.exception.nr != BP && ev.exception.nr != OF) {
		e->exception.pending = x->pending;
		e->exception.injected = !x->pending || !payloads;
	}
	e->exception_has_payload = x->has_payload;
	e->exception_payload = x->payload;
	e->exception.nr = ev.exception.nr;
	e->exception.has_error_code = ev.exception.has_error_code;
	e->exception.error_code = ev.exception.error_code;
	e->interrupt.injected = ev.interrupt.injected && !ev.interrupt.soft;
	e->interrupt.nr = ev.interrupt.nr;
	if (v->user_vector >= 0) {
		e->interrupt.injected = 1;
		e->interrupt.nr = (uint8_t)v->user_vector;
	}
	e->interrupt.shadow = ev.interrupt.shadow;
	e->nmi.injected = ev.nmi.injected;
	e->nmi.pending = ev.nmi.pending;
	e->nmi.masked = ev.nmi.masked;
	/* There is no SMM: of its part only the INIT that waits means something. */
	e->smi.latched_init = v->has_lapic && __atomic_load_n(&v->lapic.events, __ATOMIC_SEQ_CST) & LAPIC_EVENT_INIT;
	e->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM;
	if (payloads)
		e->flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
	if (v->vm->triple_fault_event)
		e->flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
}

int state_set_events(struct soft_vcpu *v, const struct kvm_vcpu_events *e)
{
	uint32_t known = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
			 KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM;
	struct vcpu_exception x = {
		.pending = e->flags & KVM_VCPUEVENT_VALID_PAYLOAD && e->exception.pending,
		.payload = e->exception_payload,
	};
	struct engine_events ev, old;
	int r;

	x.has_payload = x.pending && e->exception_has_payload;
	if (v->vm->triple_fault_event)
		known |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	if (READ_ONCE(v->vm->exception_payload))
		known |= KVM_VCPUEVENT_VALID_PAYLOAD;
	if (e->flags & ~known)
		return -EINVAL;
	if (e->flags & KVM_VCPUEVENT_VALID_SMM && (e->smi.smm || e->smi.pending || e->smi.smm_inside_nmi))
		return -EINVAL;
	if ((e->exception.injected || x.pending) && (e->exception.nr > 31 || e->exception.nr == 2))
		return -EINVAL;
	engine_get_events(v->cpu, &old);
	memset(&ev, 0, sizeof(ev));
	ev.exception.injected = e->exception.injected || x.pending;
	ev.exception.nr = e->exception.nr;
	ev.exception.has_error_code = e->exception.has_error_code;
	ev.exception.error_code = e->exception.error_code;
	ev.interrupt.injected = e->interrupt.injected && v->has_lapic;
	ev.interrupt.nr = e->interrupt.nr;
	ev.interrupt.shadow = old.interrupt.shadow;
	if (e->flags & KVM_VCPUEVENT_VALID_SHADOW)
		ev.interrupt.shadow = e->interrupt.shadow;
	ev.nmi.injected = e->nmi.injected;
	ev.nmi.pending = old.nmi.pending;
	if (e->flags & KVM_VCPUEVENT_VALID_NMI_PENDING)
		ev.nmi.pending = e->nmi.pending;
	ev.nmi.masked = e->nmi.masked;
	r = engine_set_events(v->cpu, &ev);
	if (r)
		return r;
	v->exception = x;
	/* Without a local APIC an injected interrupt is one of KVM_INTERRUPT. */
	if (!v->has_lapic)
		v->user_vector = e->interrupt.injected ? e->interrupt.nr : -1;
	/* It ends a halt. */
	if (ev.nmi.pending)
		vcpu_request(v, REQ_NMI);
	if (e->flags & KVM_VCPUEVENT_VALID_SMM && v->has_lapic) {
		uint32_t init = e->smi.latched_init ? LAPIC_EVENT_INIT : 0;

		__atomic_fetch_and(&v->lapic.events, ~(uint32_t)LAPIC_EVENT_INIT, __ATOMIC_SEQ_CST);
		__atomic_fetch_or(&v->lapic.events, init, __ATOMIC_SEQ_CST);
		vcpu_request(v, REQ_CPU);
	}
	if (e->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR && v->has_lapic)
		v->lapic.sipi_vector = (uint8_t)e->sipi_vector;
	return 0;
}

int state_queue_exception(struct soft_vcpu *v, uint8_t vector)
{
	struct engine_events ev;
	int r;

	engine_get_events(v->cpu, &ev);
	if (ev.exception.injected && v->exception.pending)
		return -EBUSY;
	/* One that was in delivery comes again by itself: these are benign (SDM Vol. 3A, "Interrupt 8"). */
	ev.exception.injected = 1;
	ev.exception.nr = vector;
	ev.exception.has_error_code = 0;
	ev.exception.error_code = 0;
	r = engine_set_events(v->cpu, &ev);
	if (!r)
		v->exception = (struct vcpu_exception){ .pending = true };
	return r;
}

/* ---- activity --------------------------------------------------------------------- */

void state_get_mp(struct soft_vcpu *v, struct kvm_mp_state *m)
{
	bool unhalted = v->unhalted || atomic_load(&v->requests) & REQ_UNHALT;

	vcpu_accept_apic_events(v);
	m->mp_state = vcpu_is_halted(v) && unhalted ? KVM_MP_STATE_RUNNABLE : v->mp_state;
}

int state_set_mp(struct soft_vcpu *v, const struct kvm_mp_state *m)
{
	switch (m->mp_state) {
	case KVM_MP_STATE_RUNNABLE:
		break;
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_INIT_RECEIVED:
	case KVM_MP_STATE_SIPI_RECEIVED:
	case KVM_MP_STATE_HALTED:
	case KVM_MP_STATE_AP_RESET_HOLD:
		if (v->has_lapic)
			break;
		/* fall through */
	default:
		return -EINVAL;
	}
	vcpu_set_activity(v, m->mp_state);
	if (m->mp_state == KVM_MP_STATE_SIPI_RECEIVED) {
		vcpu_set_activity(v, KVM_MP_STATE_INIT_RECEIVED);
		__atomic_fetch_or(&v->lapic.events, LAPIC_EVENT_SIPI, __ATOMIC_SEQ_CST);
		vcpu_request(v, REQ_CPU);
	}
	return 0;
}

/* As in KVM, the leaf with the sizes counts only if leaf 80000000h says that it is there. */
static uint8_t phys_bits(const struct soft_vcpu *v)
{
	const struct kvm_cpuid_entry2 *highest = vcpu_cpuid_find(v, 0x80000000, 0);
	const struct kvm_cpuid_entry2 *sizes = vcpu_cpuid_find(v, 0x80000008, 0);

	return highest && highest->eax >= 0x80000008 && sizes ? sizes->eax & 0xff : CPUID_PHYS_BITS;
}

int state_set_cpuid(struct soft_vcpu *v, struct kvm_cpuid_entry2 *e, unsigned nr)
{
	struct kvm_cpuid_entry2 *old = v->cpuid;
	const struct kvm_cpuid_entry2 *sizes;
	unsigned old_nr = v->nr_cpuid;

	v->cpuid = e;
	v->nr_cpuid = nr;
	sizes = vcpu_cpuid_find(v, 0x80000008, 0);
	if (sizes) {
		unsigned linear = sizes->eax >> 8 & 0xff;

		if (linear != 48 && linear != 57 && linear != 0) {
			v->cpuid = old;
			v->nr_cpuid = old_nr;
			return -EINVAL;
		}
	}
	free(old);
	v->phys_bits = phys_bits(v);
	lapic_set_cpuid(&v->lapic, vcpu_cpuid_has(v, CPUID_X2APIC),
			vcpu_cpuid_has(v, CPUID_TSC_DEADLINE),
			vcpu_cpuid_has(v, CPUID_X2APIC) && vm_irqchip(v->vm) == IRQCHIP_SPLIT, v->phys_bits);
	engine_vcpu_cpuid_changed(v->cpu);
	return 0;
}
