/* SPDX-License-Identifier: MIT
 * What a KVM guest finds by CPUID leaf 40000001h: "KVM-specific MSRs" and "KVM
 * Hypercalls" of the kernel's documentation.
 */
#include "softkvm/cpuid.h"
#include "softkvm/tsc.h"
#include "softkvm/vcpu.h"
#include <asm/kvm_para.h>
#include <fcntl.h>
#include <linux/kvm_para.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CLOCK_ENABLE 1ull
#define PV_EOI_FLAG  1u
#define STEAL_PERIOD_NS 1000000u /* the time is read again after so long, */
#define STEAL_GAP_NS	100000u	 /* or at an entry so long after the one before */

/* With KVM_CAP_ENFORCE_PV_FEATURE_CPUID a feature is there only if the guest's leaf says so. */
static bool has_feature(const struct soft_vcpu *v, unsigned bit)
{
	const struct kvm_cpuid_entry2 *e;

	if (!v->pv_enforce)
		return true;
	e = vcpu_cpuid_find(v, KVM_CPUID_FEATURES, 0);
	return e && e->eax & 1u << bit;
}

/* The bit that stands for an MSR, -1: no such MSR here. */
static int msr_feature(uint32_t index)
{
	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_SYSTEM_TIME:
		return KVM_FEATURE_CLOCKSOURCE;
	case MSR_KVM_WALL_CLOCK_NEW:
	case MSR_KVM_SYSTEM_TIME_NEW:
		return KVM_FEATURE_CLOCKSOURCE2;
	case MSR_KVM_STEAL_TIME:
		return KVM_FEATURE_STEAL_TIME;
	case MSR_KVM_PV_EOI_EN:
		return KVM_FEATURE_PV_EOI;
	case MSR_KVM_POLL_CONTROL:
		return KVM_FEATURE_POLL_CONTROL;
	default:
		return -1;
	}
}

int pv_msr_get(struct soft_vcpu *v, uint32_t index, uint64_t *value)
{
	int feature = msr_feature(index);

	if (feature < 0 || !has_feature(v, (unsigned)feature))
		return 1;
	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		*value = READ_ONCE(v->vm->wall_clock);
		return 0;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		*value = v->pv.system_time_msr;
		return 0;
	case MSR_KVM_STEAL_TIME:
		*value = v->pv.steal_msr;
		return 0;
	case MSR_KVM_PV_EOI_EN:
		*value = v->pv.eoi_msr;
		return 0;
	default:
		*value = v->pv.poll_msr;
		return 0;
	}
}

/* ---- clocks --------------------------------------------------------------- */

/* The wall clock at boot of the VM's clock, with an odd version while it is written. */
static void write_wall_clock(struct soft_vcpu *v, gpa_t gpa)
{
	struct soft_vm *vm = v->vm;
	struct pvclock_wall_clock_fields { uint32_t version, sec, nsec; } w;
	struct clock_sample now;
	uint64_t boot;

	if (!gpa || guest_read(&vm->mem, gpa, &w.version, sizeof(w.version)))
		return;
	w.version += w.version & 1 ? 2 : 1;
	if (guest_write(&vm->mem, &v->ring, gpa, &w.version, sizeof(w.version)))
		return;
	now = clock_sample();
	boot = now.realtime - (now.ns + (uint64_t)READ_ONCE(vm->clock_offset));
	w.sec = (uint32_t)(boot / NSEC_PER_SEC);
	w.nsec = (uint32_t)(boot % NSEC_PER_SEC);
	(void)!guest_write(&vm->mem, &v->ring, gpa, &w, sizeof(w));
	w.version++;
	(void)!guest_write(&vm->mem, &v->ring, gpa, &w.version, sizeof(w.version));
}

struct vcpu_time {
	uint32_t version, pad0;
	uint64_t tsc_timestamp, system_time;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags, pad[2];
};

void pv_update_clock(struct soft_vcpu *v)
{
	struct memslots *mem = &v->vm->mem;
	gpa_t gpa = v->pv.system_time_msr & ~CLOCK_ENABLE;
	struct vcpu_time t = { .flags = 1 }; /* PVCLOCK_TSC_STABLE_BIT */
	struct clock_sample now;

	if (!(v->pv.system_time_msr & CLOCK_ENABLE))
		return;
	now = clock_sample();
	if (v->pv.clock_paused)
		t.flags |= 2; /* PVCLOCK_GUEST_STOPPED */
	v->pv.clock_paused = false;
	t.tsc_timestamp = vcpu_tsc_at(v, now.tsc);
	t.system_time = now.ns + (uint64_t)READ_ONCE(v->vm->clock_offset);
	tsc_pvclock_scale(vcpu_tsc_rate(v), &t.tsc_to_system_mul, &t.tsc_shift);
	/* Odd while it is written: another CPU may be reading it, or be stopped in the middle of that. */
	if (guest_read(mem, gpa, &t.version, sizeof(t.version)))
		return;
	t.version = (t.version + 1) | 1;
	if (guest_write(mem, &v->ring, gpa, &t.version, sizeof(t.version)))
		return;
	(void)!guest_write(mem, &v->ring, gpa, &t, sizeof(t));
	t.version++;
	(void)!guest_write(mem, &v->ring, gpa, &t.version, sizeof(t.version));
}

/* ---- steal time -------------------------------------------------------------- */

/* ns this thread has waited for a host CPU, from /proc/thread-self/schedstat. */
static uint64_t run_delay(void)
{
	char text[96];
	unsigned long long ran, waited;
	int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	return sscanf(text, "%llu %llu", &ran, &waited) == 2 ? waited : 0;
}

void pv_account_steal(struct soft_vcpu *v)
{
	struct memslots *mem = &v->vm->mem;
	gpa_t gpa = v->pv.steal_msr & ~(uint64_t)(KVM_STEAL_ALIGNMENT_BITS | KVM_MSR_ENABLED);
	struct kvm_steal_time st;
	uint64_t now, at = clock_ns();

	if (!(v->pv.steal_msr & KVM_MSR_ENABLED) || guest_read(mem, gpa, &st, sizeof(st)))
		return;
	/*
	 * Each entry is told, but to read the time costs more than many an exit: it is not read at
	 * those that follow each other so closely that little can have been stolen.
	 */
	now = v->pv.steal_last;
	if (at - v->pv.steal_read >= STEAL_PERIOD_NS || at - v->pv.steal_entry >= STEAL_GAP_NS) {
		v->pv.steal_read = at;
		now = run_delay();
	}
	v->pv.steal_entry = at;
	st.version += st.version & 1 ? 2 : 1;
	(void)!guest_write(mem, &v->ring, gpa + offsetof(struct kvm_steal_time, version), &st.version,
			   sizeof(st.version));
	if (v->pv.steal_last && now > v->pv.steal_last)
		st.steal += now - v->pv.steal_last;
	v->pv.steal_last = now;
	st.preempted = 0;
	(void)!guest_write(mem, &v->ring, gpa, &st.steal, sizeof(st.steal));
	(void)!guest_write(mem, &v->ring, gpa + offsetof(struct kvm_steal_time, preempted), &st.preempted,
			   sizeof(st.preempted));
	st.version++;
	(void)!guest_write(mem, &v->ring, gpa + offsetof(struct kvm_steal_time, version), &st.version,
			   sizeof(st.version));
}

/* ---- PV EOI ------------------------------------------------------------------ */

/*
 * While the flag is set the guest may end the interrupt in service by clearing
 * it. It is set only if nothing else is pending, and taken back at the next look
 * at the APIC, so that a vector that came meanwhile waits for a real EOI.
 */
void pv_eoi_offer(struct soft_vcpu *v)
{
	gpa_t gpa = v->pv.eoi_msr & ~(uint64_t)KVM_MSR_ENABLED;

	if (!(v->pv.eoi_msr & KVM_MSR_ENABLED) || !lapic_pv_eoi_allowed(&v->lapic))
		return;
	v->pv.eoi_offered = guest_set_bits8(&v->vm->mem, &v->ring, gpa, PV_EOI_FLAG) >= 0;
}

void pv_eoi_collect(struct soft_vcpu *v)
{
	gpa_t gpa = v->pv.eoi_msr & ~(uint64_t)KVM_MSR_ENABLED;
	int old;

	if (!v->pv.eoi_offered)
		return;
	v->pv.eoi_offered = false;
	old = guest_clear_bits8(&v->vm->mem, &v->ring, gpa, PV_EOI_FLAG);
	if (old < 0 || old & PV_EOI_FLAG)
		return;
	vcpu_stat(v, pv_eois);
	(void)lapic_eoi(&v->lapic);
	vcpu_lapic_done(v);
}

/* ---- MSR writes --------------------------------------------------------------- */

int pv_msr_set(struct soft_vcpu *v, uint32_t index, uint64_t value)
{
	int feature = msr_feature(index);

	if (feature < 0 || !has_feature(v, (unsigned)feature))
		return 1;
	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		WRITE_ONCE(v->vm->wall_clock, value);
		write_wall_clock(v, value);
		return 0;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		v->pv.system_time_msr = value;
		vcpu_request(v, REQ_CLOCK);
		return 0;
	case MSR_KVM_STEAL_TIME:
		if (value & KVM_STEAL_RESERVED_MASK)
			return 1;
		v->pv.steal_msr = value;
		v->pv.steal_last = v->pv.steal_read = 0;
		if (value & KVM_MSR_ENABLED)
			vcpu_request(v, REQ_STEAL);
		return 0;
	case MSR_KVM_PV_EOI_EN:
		if (value & 2 || (value & KVM_MSR_ENABLED && !guest_is_writable(&v->vm->mem, value & ~3ull)))
			return 1;
		pv_eoi_collect(v);
		v->pv.eoi_msr = value;
		return 0;
	default:
		if (value & ~1ull)
			return 1;
		v->pv.poll_msr = value;
		return 0;
	}
}

/* ---- hypercalls ---------------------------------------------------------------- */

static struct soft_vcpu *find_apic_id(struct soft_vm *vm, uint64_t id)
{
	unsigned nr = atomic_load(&vm->nr_vcpus);

	for (unsigned i = 0; i < nr; i++)
		if (vm->vcpus[i]->id == id)
			return vm->vcpus[i];
	return NULL;
}

static int64_t send_ipi(struct soft_vcpu *v, const uint64_t args[4], bool wide)
{
	unsigned g = grace_enter(&v->vm->grace);
	const struct lapic_map *map = atomic_load(&v->vm->map);
	int r = -EOPNOTSUPP;

	if (map && v->has_lapic)
		r = lapic_map_pv_ipi(map, args[0], args[1], (uint32_t)args[2], (uint32_t)args[3], wide);
	grace_leave(&v->vm->grace, g);
	vcpu_stat(v, pv_ipis);
	return r == -EINVAL ? -KVM_EINVAL : r < 0 ? -KVM_EOPNOTSUPP : r;
}

/* Let a vCPU that a spinner waits for run. */
static void yield_to(struct soft_vcpu *v, uint64_t apic_id)
{
	struct soft_vcpu *target = find_apic_id(v->vm, apic_id);

	if (target && target != v)
		sched_yield();
}

int pv_hypercall(struct soft_vcpu *v, uint64_t nr, const uint64_t args[4], uint64_t *result)
{
	struct engine_sregs s;
	uint64_t a[4];
	bool wide;

	engine_get_sregs(v->cpu, &s);
	wide = s.efer & 1u << 10 && s.seg[1].l;
	for (unsigned i = 0; i < 4; i++)
		a[i] = wide ? args[i] : (uint32_t)args[i];
	if (!wide)
		nr = (uint32_t)nr;
	*result = (uint64_t)-KVM_ENOSYS;
	switch (nr) {
	case KVM_HC_VAPIC_POLL_IRQ:
		*result = 0;
		break;
	case KVM_HC_KICK_CPU: {
		struct soft_vcpu *target = find_apic_id(v->vm, a[1]);

		if (!has_feature(v, KVM_FEATURE_PV_UNHALT))
			break;
		if (target)
			vcpu_request(target, REQ_UNHALT);
		*result = 0;
		break;
	}
	case KVM_HC_SEND_IPI:
		if (has_feature(v, KVM_FEATURE_PV_SEND_IPI))
			*result = (uint64_t)send_ipi(v, a, wide);
		break;
	case KVM_HC_SCHED_YIELD:
		if (!has_feature(v, KVM_FEATURE_PV_SCHED_YIELD))
			break;
		yield_to(v, a[0]);
		*result = 0;
		break;
	}
	if (!wide)
		*result = (uint32_t)*result;
	return 0;
}
