/* SPDX-License-Identifier: MIT
 * Everything that the KVM API lets one read of a vCPU and of the chips, and
 * putting it back. Loading order follows what KVM checks: CPUID first, special
 * registers (with the APIC base) before the local APIC, MSRs after it (the
 * TSC-deadline MSR needs the APIC's timer mode), activity last.
 */
#include "kvmapi/kvmapi_priv.h"
#include <stdlib.h>

#define MSR_TSC	    0x10u
#define USEC_PER_MS 1000000u

struct vcpu_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_fpu fpu;
	struct kvm_xsave xsave;
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp;
	struct kvm_vcpu_events events;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debug;
	bool has_xsave, has_lapic, has_events, has_xcrs, has_debug;
	bool has_tsc_offset; /* exact, and the same for the whole VM; else by the time that passed */
	uint64_t tsc_offset;
	uint64_t taken_ns;   /* when the MSRs were read */
	uint32_t tsc_khz;
	struct kvm_msrs *msrs;
};

static int msrs_save(struct vcpu *v, const uint32_t *index, unsigned nr, struct kvm_msrs **out)
{
	struct {
		struct kvm_msrs m;
		struct kvm_msr_entry e;
	} one;
	struct kvm_msrs *all;

	all = calloc(1, sizeof(*all) + sizeof(all->entries[0]) * nr);
	if (!all)
		return -ENOMEM;
	/* Fast way: all at once. KVM stops at the first it lacks; then one by one. */
	all->nmsrs = nr;
	for (unsigned i = 0; i < nr; i++)
		all->entries[i].index = index[i];
	if (vcpu_get_msrs(v, all) == (int)nr) {
		*out = all;
		return 0;
	}
	all->nmsrs = 0;
	for (unsigned i = 0; i < nr; i++) {
		one.m = (struct kvm_msrs){ .nmsrs = 1 };
		one.e = (struct kvm_msr_entry){ .index = index[i] };
		if (vcpu_get_msrs(v, &one.m) == 1)
			all->entries[all->nmsrs++] = one.e;
	}
	*out = all;
	return 0;
}

/* The time stamp counter has gone on since it was read. */
static uint64_t tsc_now(const struct vcpu_state *s, uint64_t then)
{
	return then + (uint64_t)((unsigned __int128)(clock_ns() - s->taken_ns) * s->tsc_khz / USEC_PER_MS);
}

static void msrs_load(struct vcpu *v, const struct vcpu_state *s)
{
	struct {
		struct kvm_msrs m;
		struct kvm_msr_entry e;
	} one = { .m.nmsrs = 1 };

	/* Some may be read but not written as they were: the others still count. */
	for (unsigned i = 0; i < s->msrs->nmsrs; i++) {
		one.e = s->msrs->entries[i];
		if (one.e.index == MSR_TSC) {
			if (s->has_tsc_offset && !vcpu_set_tsc_offset(v, s->tsc_offset))
				continue;
			one.e.data = tsc_now(s, one.e.data);
		}
		(void)!vcpu_set_msrs(v, &one.m);
	}
}

int vcpu_state_save(struct vcpu *v, const uint32_t *msrs, unsigned nr_msrs, struct vcpu_state **out)
{
	struct vcpu_state *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	/* Asking for the activity lets what the local APIC has latched (INIT, SIPI) take effect. */
	r = vcpu_get_mp_state(v, &s->mp);
	if (!r)
		r = vcpu_get_regs(v, &s->regs);
	if (!r)
		r = vcpu_get_sregs(v, &s->sregs);
	s->has_xsave = vcpu_get_xsave(v, &s->xsave) == 0;
	if (!r && !s->has_xsave)
		r = vcpu_get_fpu(v, &s->fpu);
	s->has_lapic = vcpu_get_lapic(v, &s->lapic) == 0;
	if (!r)
		r = msrs_save(v, msrs, nr_msrs, &s->msrs);
	s->taken_ns = clock_ns();
	if (r < 0) {
		vcpu_state_free(s);
		return r;
	}
	s->has_events = vcpu_get_events(v, &s->events) == 0;
	s->has_xcrs = vcpu_get_xcrs(v, &s->xcrs) == 0;
	s->has_debug = vcpu_get_debugregs(v, &s->debug) == 0;
	s->tsc_khz = vcpu_get_tsc_khz(v);
	s->has_tsc_offset = vcpu_get_tsc_offset(v, &s->tsc_offset) == 0;
	*out = s;
	return 0;
}

int vcpu_state_load(struct vcpu *v, const struct vcpu_state *s)
{
	int r = vcpu_set_mp_state(v, &s->mp);

	if (!r)
		r = vcpu_set_sregs(v, &s->sregs);
	if (!r)
		r = vcpu_set_regs(v, &s->regs);
	if (!r && s->has_xcrs && s->xcrs.nr_xcrs)
		r = vcpu_set_xcrs(v, &s->xcrs);
	if (!r)
		r = s->has_xsave ? vcpu_set_xsave(v, &s->xsave) : vcpu_set_fpu(v, &s->fpu);
	if (!r && s->has_debug)
		r = vcpu_set_debugregs(v, &s->debug);
	/* Before what counts in its cycles. */
	if (!r && s->tsc_khz != vcpu_get_tsc_khz(v))
		r = vcpu_set_tsc_khz(v, s->tsc_khz);
	if (!r && s->has_lapic)
		r = vcpu_set_lapic(v, &s->lapic);
	if (!r && s->has_events)
		r = vcpu_set_events(v, &s->events);
	if (!r)
		msrs_load(v, s);
	/* Again: some of the above set a vCPU running. */
	return r ? r : vcpu_set_mp_state(v, &s->mp);
}

void vcpu_state_free(struct vcpu_state *s)
{
	if (!s)
		return;
	free(s->msrs);
	free(s);
}

struct chips_state {
	struct kvm_irqchip chip[KVM_NR_IRQCHIPS];
	struct kvm_pit_state2 pit;
	bool has_pit;
};

int vm_chips_save(struct vm *vm, struct chips_state **out)
{
	struct chips_state *s = calloc(1, sizeof(*s));
	int r = 0;

	if (!s)
		return -ENOMEM;
	for (unsigned i = 0; i < KVM_NR_IRQCHIPS && !r; i++) {
		s->chip[i].chip_id = i;
		r = vm_get_irqchip(vm, &s->chip[i]);
	}
	if (r) {
		free(s);
		return r;
	}
	s->has_pit = vm_get_pit2(vm, &s->pit) == 0;
	*out = s;
	return 0;
}

int vm_chips_load(struct vm *vm, const struct chips_state *s)
{
	int r = 0;

	for (unsigned i = 0; i < KVM_NR_IRQCHIPS && !r; i++)
		r = vm_set_irqchip(vm, &s->chip[i]);
	return r || !s->has_pit ? r : vm_set_pit2(vm, &s->pit);
}
