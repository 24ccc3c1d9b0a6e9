/* SPDX-License-Identifier: MIT
 * A vCPU's whole state through the KVM API, and putting it back. Loading order
 * follows what KVM checks: special registers (with the APIC base) before the
 * local APIC, MSRs after it (the TSC-deadline MSR needs the APIC's timer mode).
 */
#include "machine/cpu_priv.h"
#include <stdlib.h>

struct cpu_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_fpu fpu;
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp;
	struct kvm_vcpu_events events;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debug;
	bool has_lapic, has_events, has_xcrs, has_debug;
	struct kvm_msrs *msrs;
};

/* What a reset must put back and KVM does not hold elsewhere. */
static const uint32_t reset_msrs[] = {
	0x174, 0x175, 0x176,                                    /* SYSENTER */
	0x1a0,                                                  /* MISC_ENABLE */
	0x277,                                                  /* PAT */
	0x2ff,                                                  /* MTRR default type */
	0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084,         /* STAR, LSTAR, CSTAR, FMASK */
	0xc0000102,                                             /* KERNEL_GS_BASE */
	0xc0000103,                                             /* TSC_AUX */
	0x6e0,                                                  /* TSC deadline */
	0x4b564d00, 0x4b564d01,                                 /* kvmclock */
	0x4b564d02, 0x4b564d03, 0x4b564d04,                     /* async PF, steal time, PV EOI */
};

static int msrs_save(struct vcpu *v, struct kvm_msrs **out)
{
	struct {
		struct kvm_msrs m;
		struct kvm_msr_entry e;
	} one;
	struct kvm_msrs *all;

	all = calloc(1, sizeof(*all) + sizeof(all->entries[0]) * ARRAY_SIZE(reset_msrs));
	if (!all)
		return -ENOMEM;
	/* Fast way: all at once. KVM stops at the first it lacks; then one by one. */
	all->nmsrs = ARRAY_SIZE(reset_msrs);
	for (unsigned i = 0; i < ARRAY_SIZE(reset_msrs); i++)
		all->entries[i].index = reset_msrs[i];
	if (vcpu_get_msrs(v, all) == (int)ARRAY_SIZE(reset_msrs)) {
		*out = all;
		return 0;
	}
	all->nmsrs = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(reset_msrs); i++) {
		one.m = (struct kvm_msrs){ .nmsrs = 1 };
		one.e = (struct kvm_msr_entry){ .index = reset_msrs[i] };
		if (vcpu_get_msrs(v, &one.m) == 1)
			all->entries[all->nmsrs++] = one.e;
	}
	*out = all;
	return 0;
}

static void msrs_load(struct vcpu *v, const struct kvm_msrs *all)
{
	struct {
		struct kvm_msrs m;
		struct kvm_msr_entry e;
	} one = { .m.nmsrs = 1 };

	if (vcpu_set_msrs(v, all) == (int)all->nmsrs)
		return;
	/* Some may be read but not written as they were: the others still count. */
	for (unsigned i = 0; i < all->nmsrs; i++) {
		one.e = all->entries[i];
		(void)!vcpu_set_msrs(v, &one.m);
	}
}

int cpu_state_save(struct vcpu *v, struct cpu_state **out)
{
	struct cpu_state *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	r = vcpu_get_regs(v, &s->regs);
	if (!r)
		r = vcpu_get_sregs(v, &s->sregs);
	if (!r)
		r = vcpu_get_fpu(v, &s->fpu);
	if (!r)
		r = vcpu_get_mp_state(v, &s->mp);
	if (!r)
		r = msrs_save(v, &s->msrs);
	if (r < 0) {
		cpu_state_free(s);
		return r;
	}
	s->has_lapic = vcpu_get_lapic(v, &s->lapic) == 0;
	s->has_events = vcpu_get_events(v, &s->events) == 0;
	s->has_xcrs = vcpu_get_xcrs(v, &s->xcrs) == 0;
	s->has_debug = vcpu_get_debugregs(v, &s->debug) == 0;
	*out = s;
	return 0;
}

int cpu_state_load(struct vcpu *v, const struct cpu_state *s)
{
	int r = vcpu_set_mp_state(v, &s->mp);

	if (!r)
		r = vcpu_set_sregs(v, &s->sregs);
	if (!r)
		r = vcpu_set_regs(v, &s->regs);
	if (!r)
		r = vcpu_set_fpu(v, &s->fpu);
	if (!r && s->has_xcrs && s->xcrs.nr_xcrs)
		r = vcpu_set_xcrs(v, &s->xcrs);
	if (!r && s->has_debug)
		r = vcpu_set_debugregs(v, &s->debug);
	if (!r && s->has_lapic)
		r = vcpu_set_lapic(v, &s->lapic);
	if (!r && s->has_events)
		r = vcpu_set_events(v, &s->events);
	if (!r)
		msrs_load(v, s->msrs);
	return r;
}

void cpu_state_free(struct cpu_state *s)
{
	if (!s)
		return;
	free(s->msrs);
	free(s);
}
