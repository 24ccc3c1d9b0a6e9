/* SPDX-License-Identifier: MIT
 * The guest's CPUID: what KVM supports, with each vCPU's own APIC ID and one
 * package of single-threaded cores (Intel SDM "CPUID – CPU Identification";
 * AMD APM "CPUID Fn8000_0008", "Fn8000_001E").
 */
#include "machine/cpu_priv.h"
#include <stdlib.h>

#define BIT_TSC_DEADLINE BIT(24)
#define BIT_HYPERVISOR   BIT(31)

static unsigned bits_for(unsigned n)
{
	unsigned b = 0;

	while (1u << b < n)
		b++;
	return b;
}

static void patch(struct kvm_cpuid_entry2 *e, unsigned index, unsigned cpus, bool deadline)
{
	switch (e->function) {
	case 0x1:
		e->ebx = (e->ebx & 0x0000ffff) | MIN(cpus, 255u) << 16 | (index & 0xff) << 24;
		e->ecx |= BIT_HYPERVISOR;
		if (deadline)
			e->ecx |= BIT_TSC_DEADLINE;
		e->edx = cpus > 1 ? e->edx | BIT(28) : e->edx & ~BIT(28);
		break;
	case 0x4:
		/* Each core has its own caches; cores in the package. */
		if (e->eax & 0x1f)
			e->eax = (e->eax & 0x3fff) | (MIN((1u << bits_for(cpus)) - 1, 63u) << 26);
		break;
	case 0xb:
	case 0x1f:
		e->edx = index;
		if (e->index == 0) {            /* threads */
			e->eax = 0;
			e->ebx = 1;
			e->ecx = 1 << 8;
		} else if (e->index == 1) {     /* cores */
			e->eax = bits_for(cpus);
			e->ebx = cpus;
			e->ecx = 2 << 8 | 1;
		} else {
			e->eax = e->ebx = 0;
			e->ecx = e->index;
		}
		break;
	case 0x80000008:
		e->ecx = (e->ecx & ~0xf0ffu) | (bits_for(cpus) << 12) | MIN(cpus - 1, 255u);
		break;
	case 0x8000001e:
		e->eax = index;
		e->ebx = index & 0xff;
		e->ecx = 0;
		break;
	}
}

int cpuid_set(struct vcpu *v, const struct kvm_cpuid2 *supported, unsigned index, unsigned cpus)
{
	size_t size = sizeof(*supported) + supported->nent * sizeof(supported->entries[0]);
	bool deadline = vm_check_extension(v->vm, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
	struct kvm_cpuid2 *c = malloc(size);
	int r;

	if (!c)
		return -ENOMEM;
	memcpy(c, supported, size);
	for (unsigned i = 0; i < c->nent; i++)
		patch(&c->entries[i], index, cpus, deadline);
	r = vcpu_set_cpuid(v, c);
	free(c);
	return r;
}
