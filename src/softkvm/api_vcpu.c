/* SPDX-License-Identifier: MIT
 * The vCPU fd: "vcpu ioctls".
 */
#include "softkvm/chips.h"
#include "softkvm/cpuid.h"
#include "softkvm/vcpu_state.h"
#include <stdio.h>
#include <stdlib.h>

#define V struct soft_vcpu *v = obj

static int run(void *obj, uintptr_t arg)
{
	V;
	return arg ? -EINVAL : vcpu_run_loop(v);
}

static int get_regs(void *obj, uintptr_t arg)
{
	state_get_regs(obj, (void *)arg);
	return 0;
}

static int set_regs(void *obj, uintptr_t arg)
{
	state_set_regs(obj, (void *)arg);
	return 0;
}

static int get_sregs(void *obj, uintptr_t arg)
{
	state_get_sregs(obj, (void *)arg);
	return 0;
}

static int set_sregs(void *obj, uintptr_t arg)
{
	return state_set_sregs(obj, (void *)arg);
}

static int get_sregs2(void *obj, uintptr_t arg)
{
	state_get_sregs2(obj, (void *)arg);
	return 0;
}

static int set_sregs2(void *obj, uintptr_t arg)
{
	return state_set_sregs2(obj, (void *)arg);
}

static int get_fpu(void *obj, uintptr_t arg)
{
	state_get_fpu(obj, (void *)arg);
	return 0;
}

static int set_fpu(void *obj, uintptr_t arg)
{
	return state_set_fpu(obj, (void *)arg);
}

static int get_xsave(void *obj, uintptr_t arg)
{
	state_get_xsave(obj, (void *)arg);
	return 0;
}

static int set_xsave(void *obj, uintptr_t arg)
{
	return state_set_xsave(obj, (void *)arg);
}

static int get_xcrs(void *obj, uintptr_t arg)
{
	state_get_xcrs(obj, (void *)arg);
	return 0;
}

static int set_xcrs(void *obj, uintptr_t arg)
{
	return state_set_xcrs(obj, (void *)arg);
}

static int get_debugregs(void *obj, uintptr_t arg)
{
	state_get_debugregs(obj, (void *)arg);
	return 0;
}

static int set_debugregs(void *obj, uintptr_t arg)
{
	return state_set_debugregs(obj, (void *)arg);
}

static int get_events(void *obj, uintptr_t arg)
{
	state_get_events(obj, (void *)arg);
	return 0;
}

static int set_events(void *obj, uintptr_t arg)
{
	return state_set_events(obj, (void *)arg);
}

static int get_mp_state(void *obj, uintptr_t arg)
{
	state_get_mp(obj, (void *)arg);
	return 0;
}

static int set_mp_state(void *obj, uintptr_t arg)
{
	return state_set_mp(obj, (void *)arg);
}

static int get_lapic(void *obj, uintptr_t arg)
{
	V;

	if (!v->has_lapic)
		return -EINVAL;
	vcpu_sync_irr(v);
	lapic_save(&v->lapic, clock_ns(), (void *)arg);
	return 0;
}

static int set_lapic(void *obj, uintptr_t arg)
{
	V;
	struct kvm_lapic_state s;
	int r;

	if (!v->has_lapic)
		return -EINVAL;
	if (copy_from_user(&s, arg, sizeof(s)))
		return -EFAULT;
	/* What was posted since the state was read is not in it: it stays posted, as in KVM. */
	pv_eoi_collect(v);
	r = lapic_load(&v->lapic, &s, clock_ns());
	if (!r)
		vmchips_lapic_loaded(v);
	v->timer_dirty = true;
	vcpu_lapic_done(v);
	vcpu_request(v, REQ_SCAN_EOI | REQ_EVENT);
	return r;
}

/* KVM_CAP_VAPIC is not offered, but QEMU clears the address of every vCPU it resets. */
static int set_vapic_addr(void *obj, uintptr_t arg)
{
	struct soft_vcpu *v = obj;
	const struct kvm_vapic_addr *a = (const void *)arg;

	return v->has_lapic && !a->vapic_addr ? 0 : -EINVAL;
}

/* ---- MSRs ------------------------------------------------------------------------ */

static int transfer_msrs(struct soft_vcpu *v, uintptr_t arg, bool set)
{
	struct kvm_msrs head;
	struct kvm_msr_entry *e;
	size_t size;
	unsigned i;
	int r;

	if (copy_from_user(&head, arg, sizeof(head)))
		return -EFAULT;
	if (head.nmsrs >= MSR_MAX_ENTRIES)
		return -E2BIG;
	size = head.nmsrs * sizeof(*e);
	e = malloc(size + 1);
	if (!e)
		return -ENOMEM;
	r = copy_from_user(e, arg + sizeof(head), size);
	for (i = 0; !r && i < head.nmsrs; i++) {
		uint64_t value = 0;

		if (set ? vcpu_msr_set(v, e[i].index, e[i].data, true)
			: vcpu_msr_get(v, e[i].index, &value, true))
			r = 1;
		if (!set)
			e[i].data = value; /* the one that failed reads 0 */
		if (r)
			break;
	}
	if (r >= 0)
		r = set ? 0 : copy_to_user(arg + sizeof(head), e, size);
	free(e);
	return r ? r : (int)i;
}

static int get_msrs(void *obj, uintptr_t arg)
{
	return transfer_msrs(obj, arg, false);
}

static int set_msrs(void *obj, uintptr_t arg)
{
	return transfer_msrs(obj, arg, true);
}

/* ---- CPUID ------------------------------------------------------------------------- */

/* What the processor's state changes in it does not count. */
static bool same_cpuid(const struct soft_vcpu *v, const struct kvm_cpuid_entry2 *e, unsigned nr)
{
	if (nr != v->nr_cpuid)
		return false;
	for (unsigned i = 0; i < nr; i++) {
		struct kvm_cpuid_entry2 old, new;

		vcpu_cpuid_entry(v, &v->cpuid[i], &old);
		vcpu_cpuid_entry(v, &e[i], &new);
		if (memcmp(&old, &new, sizeof(old)))
			return false;
	}
	return true;
}

static int set_cpuid2(void *obj, uintptr_t arg)
{
	V;
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 *e;
	int r;

	if (copy_from_user(&head, arg, sizeof(head)))
		return -EFAULT;
	if (head.nent > CPUID_MAX_ENTRIES)
		return -E2BIG;
	e = malloc(head.nent * sizeof(*e) + 1);
	if (!e)
		return -ENOMEM;
	r = copy_from_user(e, arg + sizeof(head), head.nent * sizeof(*e));
	/* Once the guest has run it must not find another processor. */
	if (!r && v->has_run)
		r = same_cpuid(v, e, head.nent) ? 1 : -EINVAL;
	if (!r)
		r = state_set_cpuid(v, e, head.nent);
	if (!r)
		return 0;
	free(e);
	return MIN(r, 0);
}

static int get_cpuid2(void *obj, uintptr_t arg)
{
	V;
	struct kvm_cpuid2 head;

	if (copy_from_user(&head, arg, sizeof(head)))
		return -EFAULT;
	if (head.nent < v->nr_cpuid)
		return -E2BIG;
	head.nent = v->nr_cpuid;
	for (unsigned i = 0; i < v->nr_cpuid; i++) {
		struct kvm_cpuid_entry2 e;

		vcpu_cpuid_entry(v, &v->cpuid[i], &e);
		if (copy_to_user(arg + sizeof(head) + i * sizeof(e), &e, sizeof(e)))
			return -EFAULT;
	}
	return copy_to_user(arg, &head, sizeof(head));
}

/* ---- interrupts ---------------------------------------------------------------------- */

static int interrupt(void *obj, uintptr_t arg)
{
	V;
	uint32_t vector = ((struct kvm_interrupt *)arg)->irq;

	if (vector > 255)
		return -EINVAL;
	switch (vm_irqchip(v->vm)) {
	case IRQCHIP_NONE:
		v->user_vector = (int)vector;
		break;
	case IRQCHIP_KERNEL:
		return -ENXIO;
	case IRQCHIP_SPLIT:
		if (v->extint_vector >= 0)
			return -EEXIST;
		v->extint_vector = (int)vector;
		break;
	}
	engine_vcpu_kick(v->cpu, ENGINE_KICK_INTR);
	return 0;
}

static int nmi(void *obj, uintptr_t arg)
{
	V;

	vcpu_queue_nmi(v);
	return 0;
}

static int set_signal_mask(void *obj, uintptr_t arg)
{
	V;
	struct kvm_signal_mask head;
	uint64_t mask;

	if (!arg) {
		v->signals.mask_set = false;
		return 0;
	}
	if (copy_from_user(&head, arg, sizeof(head)))
		return -EFAULT;
	if (head.len != sizeof(mask))
		return -EINVAL;
	if (copy_from_user(&mask, arg + sizeof(head), sizeof(mask)))
		return -EFAULT;
	v->signals.mask = mask;
	v->signals.mask_set = true;
	v->signals.runs = 0; /* look at the handlers again */
	return 0;
}

static int set_guest_debug(void *obj, uintptr_t arg)
{
	V;
	const struct kvm_guest_debug *d = (void *)arg;
	bool stepped = v->guest_debug & KVM_GUESTDBG_SINGLESTEP;
	uint64_t db[4];
	uint32_t flags = 0;
	int r = 0;

	if (d->control & (KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP))
		r = state_queue_exception(v, d->control & KVM_GUESTDBG_INJECT_DB ? 1 : 3);
	if (r)
		return r;
	v->guest_debug = d->control & KVM_GUESTDBG_ENABLE ? d->control : 0;
	if (stepped)
		state_end_stepping(v);
	if (d->control & KVM_GUESTDBG_ENABLE) {
		flags |= d->control & KVM_GUESTDBG_SINGLESTEP ? ENGINE_DEBUG_STEP : 0;
		flags |= d->control & KVM_GUESTDBG_USE_SW_BP ? ENGINE_DEBUG_BP : 0;
		flags |= d->control & KVM_GUESTDBG_USE_HW_BP ? ENGINE_DEBUG_HWBP : 0;
		flags |= d->control & KVM_GUESTDBG_BLOCKIRQ ? ENGINE_DEBUG_NOIRQ : 0;
	}
	if (flags & ENGINE_DEBUG_HWBP) {
		memcpy(db, d->arch.debugreg, sizeof(db));
		engine_set_breakpoints(v->cpu, db, d->arch.debugreg[7]);
	}
	engine_set_debug(v->cpu, flags);
	return 0;
}

/* ---- the rest --------------------------------------------------------------------------- */

static int translate(void *obj, uintptr_t arg)
{
	V;
	struct kvm_translation *t = (void *)arg;
	bool writable, user;
	gpa_t gpa = UINT64_MAX;

	t->valid = !engine_translate(v->cpu, t->linear_address, &gpa, &writable, &user);
	t->physical_address = t->valid ? gpa : UINT64_MAX;
	/* As KVM on x86, which does not tell. */
	t->writeable = 1;
	t->usermode = 0;
	return 0;
}

static int set_tsc_khz(void *obj, uintptr_t arg)
{
	return vcpu_tsc_set_khz(obj, (uint32_t)arg);
}

static int get_tsc_khz(void *obj, uintptr_t arg)
{
	V;
	return (int)v->tsc_khz;
}

/* "Devices/vcpu", KVM_VCPU_TSC_CTRL: the offset to the host's TSC, scaled, is all there is. */
static int has_attr(void *obj, uintptr_t arg)
{
	const struct kvm_device_attr *a = (void *)arg;

	return a->group == KVM_VCPU_TSC_CTRL && a->attr == KVM_VCPU_TSC_OFFSET ? 0 : -ENXIO;
}

static int get_attr(void *obj, uintptr_t arg)
{
	V;
	uint64_t offset = engine_get_tsc_offset(v->cpu);
	int r = has_attr(obj, arg);

	return r ? r : copy_to_user(((struct kvm_device_attr *)arg)->addr, &offset, sizeof(offset));
}

static int set_attr(void *obj, uintptr_t arg)
{
	uint64_t offset;
	int r = has_attr(obj, arg);

	if (r)
		return r;
	if (copy_from_user(&offset, ((struct kvm_device_attr *)arg)->addr, sizeof(offset)))
		return -EFAULT;
	vcpu_tsc_set_offset(obj, offset);
	return 0;
}

static int kvmclock_ctrl(void *obj, uintptr_t arg)
{
	V;

	if (!(v->pv.system_time_msr & 1))
		return -EINVAL;
	v->pv.clock_paused = true;
	vcpu_request(v, REQ_CLOCK);
	return 0;
}

static int setup_mce(void *obj, uintptr_t arg)
{
	V;
	uint64_t cap = *(uint64_t *)arg;
	unsigned banks = cap & 0xff;

	if (!banks || banks > MCG_MAX_BANKS || cap & ~(MCG_CAP_SUPPORTED | 0xff | 0xff0000))
		return -EINVAL;
	v->msr.mcg_cap = cap;
	if (cap & 1 << 8)
		v->msr.mcg_ctl = UINT64_MAX;
	for (unsigned b = 0; b < banks; b++)
		v->msr.mci[b * 4] = UINT64_MAX;
	return 0;
}

/* SDM Vol. 3B, "Machine-Check Architecture": status bits. */
#define MCI_VAL	 (1ull << 63)
#define MCI_OVER (1ull << 62)
#define MCI_UC	 (1ull << 61)
#define MCG_MCIP 4u

static int set_mce(void *obj, uintptr_t arg)
{
	V;
	const struct kvm_x86_mce *m = (void *)arg;
	struct engine_sregs s;
	uint64_t *bank;

	if (m->bank >= (v->msr.mcg_cap & 0xff) || !(m->status & MCI_VAL))
		return -EINVAL;
	bank = &v->msr.mci[m->bank * 4];
	if (!(m->status & MCI_UC)) {
		/* A corrected error does not overwrite an uncorrected one. */
		if (bank[1] & MCI_VAL && bank[1] & MCI_UC) {
			bank[1] |= MCI_OVER;
			return 0;
		}
		bank[1] = m->status | (bank[1] & MCI_VAL ? MCI_OVER : 0);
		bank[2] = m->addr;
		bank[3] = m->misc;
		return 0;
	}
	if ((v->msr.mcg_cap & 1 << 8 && v->msr.mcg_ctl != UINT64_MAX) || bank[0] != UINT64_MAX)
		return 0;
	engine_get_sregs(v->cpu, &s);
	/* With one in progress, or nobody to take it, the processor shuts down. */
	if (v->msr.mcg_status & MCG_MCIP || !(s.cr4 & 1 << 6)) {
		v->shutdown = true;
		vcpu_request(v, REQ_EVENT);
		return 0;
	}
	v->msr.mcg_status = m->mcg_status;
	bank[1] = m->status | (bank[1] & MCI_VAL ? MCI_OVER : 0);
	bank[2] = m->addr;
	bank[3] = m->misc;
	(void)!state_queue_exception(v, 18);
	return 0;
}

static int enable_cap(void *obj, uintptr_t arg)
{
	V;
	const struct kvm_enable_cap *cap = (void *)arg;

	if (cap->flags || cap->cap != KVM_CAP_ENFORCE_PV_FEATURE_CPUID)
		return -EINVAL;
	v->pv_enforce = cap->args[0];
	return 0;
}

/*
 * "KVM_GET_NESTED_STATE": a guest has no guests, so the header is all, as of an SVM that is not enabled.
 * A monitor may ask without having looked at the capability.
 */
static int get_nested_state(void *obj, uintptr_t arg)
{
	struct kvm_nested_state s = {
		.flags = KVM_STATE_NESTED_GIF_SET, .format = KVM_STATE_NESTED_FORMAT_SVM, .size = sizeof(s),
	};
	uint32_t room;

	if (copy_from_user(&room, arg + offsetof(struct kvm_nested_state, size), sizeof(room)))
		return -EFAULT;
	if (room >= sizeof(s))
		return copy_to_user(arg, &s, sizeof(s));
	if (copy_to_user(arg + offsetof(struct kvm_nested_state, size), &s.size, sizeof(s.size)))
		return -EFAULT;
	return -E2BIG;
}

static int set_nested_state(void *obj, uintptr_t arg)
{
	const struct kvm_nested_state *s = (void *)arg;

	if (s->size < sizeof(*s) || s->format != KVM_STATE_NESTED_FORMAT_SVM || s->flags != KVM_STATE_NESTED_GIF_SET)
		return -EINVAL;
	return 0;
}

static int get_stats_fd(void *obj, uintptr_t arg)
{
	V;
	char id[48];

	snprintf(id, sizeof(id), "kvm-%d/vcpu-%u", (int)v->file.pid, v->id);
	return stats_open_fd(&v->stats, true, id);
}

static const struct ioctl_row rows[] = {
	{ KVM_RUN, run, true },
	{ KVM_INTERRUPT, interrupt },
	{ KVM_GET_REGS, get_regs },
	{ KVM_SET_REGS, set_regs },
	{ KVM_GET_SREGS, get_sregs },
	{ KVM_SET_SREGS, set_sregs },
	{ KVM_GET_SREGS2, get_sregs2 },
	{ KVM_SET_SREGS2, set_sregs2 },
	{ KVM_GET_FPU, get_fpu },
	{ KVM_SET_FPU, set_fpu },
	{ KVM_GET_XSAVE, get_xsave },
	{ KVM_GET_XSAVE2, get_xsave },
	{ KVM_SET_XSAVE, set_xsave },
	{ KVM_GET_XCRS, get_xcrs },
	{ KVM_SET_XCRS, set_xcrs },
	{ KVM_GET_DEBUGREGS, get_debugregs },
	{ KVM_SET_DEBUGREGS, set_debugregs },
	{ KVM_GET_VCPU_EVENTS, get_events },
	{ KVM_SET_VCPU_EVENTS, set_events },
	{ KVM_GET_MP_STATE, get_mp_state },
	{ KVM_SET_MP_STATE, set_mp_state },
	{ KVM_GET_LAPIC, get_lapic },
	{ KVM_SET_LAPIC, set_lapic, true },
	{ KVM_SET_VAPIC_ADDR, set_vapic_addr },
	{ KVM_GET_MSRS, get_msrs, true },
	{ KVM_SET_MSRS, set_msrs, true },
	{ KVM_SET_CPUID2, set_cpuid2, true },
	{ KVM_GET_CPUID2, get_cpuid2, true },
	{ KVM_NMI, nmi, true },
	{ KVM_SET_SIGNAL_MASK, set_signal_mask, true },
	{ KVM_SET_GUEST_DEBUG, set_guest_debug },
	{ KVM_TRANSLATE, translate },
	{ KVM_SET_TSC_KHZ, set_tsc_khz, true },
	{ KVM_GET_TSC_KHZ, get_tsc_khz, true },
	{ KVM_HAS_DEVICE_ATTR, has_attr },
	{ KVM_GET_DEVICE_ATTR, get_attr },
	{ KVM_SET_DEVICE_ATTR, set_attr },
	{ KVM_KVMCLOCK_CTRL, kvmclock_ctrl, true },
	{ KVM_X86_SETUP_MCE, setup_mce },
	{ KVM_X86_SET_MCE, set_mce },
	{ KVM_ENABLE_CAP, enable_cap },
	{ KVM_GET_NESTED_STATE, get_nested_state, true },
	{ KVM_SET_NESTED_STATE, set_nested_state },
	{ KVM_GET_STATS_FD, get_stats_fd, true },
};

static int vcpu_ioctl_request(struct soft_file *f, unsigned long request, uintptr_t arg)
{
	struct soft_vcpu *v = file_vcpu(f);
	int r;

	mutex_lock(&v->lock);
	r = ioctl_dispatch(rows, ARRAY_SIZE(rows), v, request, arg, -EINVAL);
	mutex_unlock(&v->lock);
	return r;
}

const struct soft_file_ops vcpu_file_ops = {
	.kind = SOFT_VCPU, .name = "kvm-vcpu", .ioctl = vcpu_ioctl_request,
	.mapped = vcpu_mapped, .release = vcpu_release,
};
