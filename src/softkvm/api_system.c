/* SPDX-License-Identifier: MIT
 * The system fd: "System ioctls" and the capability table.
 */
#include "softkvm/cpuid.h"
#include "softkvm/dirty_ring.h"
#include "softkvm/msr.h"
#include "softkvm/uapi.h"
#include "softkvm/vm.h"
#include <stdlib.h>
#include <unistd.h>

struct cap {
	unsigned nr;
	int value;
};

/*
 * What CHECK_EXTENSION says. A capability is in here when every call and flag
 * it stands for does its work. The numbers are the UAPI's.
 */
static const struct cap caps[] = {
	{ KVM_CAP_IRQCHIP, 1 }, { KVM_CAP_HLT, 1 }, { KVM_CAP_MMU_SHADOW_CACHE_CONTROL, 1 },
	{ KVM_CAP_USER_MEMORY, 1 }, { KVM_CAP_SET_TSS_ADDR, 1 }, { KVM_CAP_EXT_CPUID, 1 },
	{ KVM_CAP_CLOCKSOURCE, 1 }, { KVM_CAP_NR_MEMSLOTS, SOFT_MAX_SLOTS },
	{ KVM_CAP_PIT, 1 }, { KVM_CAP_NOP_IO_DELAY, 1 }, { KVM_CAP_MP_STATE, 1 },
	{ KVM_CAP_COALESCED_MMIO, SOFT_RING_PAGE }, { KVM_CAP_SYNC_MMU, 1 },
	{ KVM_CAP_DESTROY_MEMORY_REGION_WORKS, 1 }, { KVM_CAP_USER_NMI, 1 },
	{ KVM_CAP_SET_GUEST_DEBUG, 1 },
	{ KVM_CAP_SET_GUEST_DEBUG2,
	  KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_SW_BP | KVM_GUESTDBG_USE_HW_BP |
		  KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP | KVM_GUESTDBG_BLOCKIRQ },
	{ KVM_CAP_REINJECT_CONTROL, 1 },
	{ KVM_CAP_IRQ_ROUTING, SOFT_MAX_ROUTES }, { KVM_CAP_IRQ_INJECT_STATUS, 1 },
	{ KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, 1 }, { KVM_CAP_MCE, 32 }, { KVM_CAP_IRQFD, 1 },
	{ KVM_CAP_PIT2, 1 }, { KVM_CAP_SET_BOOT_CPU_ID, 1 }, { KVM_CAP_PIT_STATE2, 1 },
	{ KVM_CAP_IOEVENTFD, 1 }, { KVM_CAP_SET_IDENTITY_MAP_ADDR, 1 },
	{ KVM_CAP_ADJUST_CLOCK, KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC },
	{ KVM_CAP_INTERNAL_ERROR_DATA, 1 }, { KVM_CAP_VCPU_EVENTS, 1 }, { KVM_CAP_DEBUGREGS, 1 },
	{ KVM_CAP_XSAVE, 1 }, { KVM_CAP_XCRS, 1 }, { KVM_CAP_GET_TSC_KHZ, 1 },
	{ KVM_CAP_TSC_CONTROL, 1 }, { KVM_CAP_VM_TSC_CONTROL, 1 },
	{ KVM_CAP_MAX_VCPUS, SOFT_MAX_VCPUS }, { KVM_CAP_TSC_DEADLINE_TIMER, 1 },
	{ KVM_CAP_KVMCLOCK_CTRL, 1 }, { KVM_CAP_SIGNAL_MSI, 1 }, { KVM_CAP_READONLY_MEM, 1 },
	{ KVM_CAP_IRQFD_RESAMPLE, 1 }, { KVM_CAP_ENABLE_CAP_VM, 1 }, { KVM_CAP_ENABLE_CAP, 1 },
	{ KVM_CAP_IOAPIC_POLARITY_IGNORED, 1 }, { KVM_CAP_IOEVENTFD_NO_LENGTH, 1 },
	{ KVM_CAP_CHECK_EXTENSION_VM, 1 }, { KVM_CAP_DISABLE_QUIRKS, 1 },
	{ KVM_CAP_SPLIT_IRQCHIP, 1 }, { KVM_CAP_IOEVENTFD_ANY_LENGTH, 1 },
	{ KVM_CAP_MAX_VCPU_ID, SOFT_MAX_VCPU_IDS },
	{ KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK },
	{ KVM_CAP_IMMEDIATE_EXIT, 1 },
	{ KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT | KVM_X86_DISABLE_EXITS_PAUSE |
				     KVM_X86_DISABLE_EXITS_CSTATE },
	{ KVM_CAP_GET_MSR_FEATURES, 1 }, { KVM_CAP_COALESCED_PIO, 1 },
	{ KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE |
					     KVM_DIRTY_LOG_INITIALLY_SET },
	{ KVM_CAP_X86_MSR_FILTER, 1 }, { KVM_CAP_X86_USER_SPACE_MSR, 1 },
	{ KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1 },
	{ KVM_CAP_BINARY_STATS_FD, 1 }, { KVM_CAP_XSAVE2, sizeof(struct kvm_xsave) },
	{ KVM_CAP_DISABLE_QUIRKS2, SOFT_QUIRKS },
	{ KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1 }, { KVM_CAP_EXCEPTION_PAYLOAD, 1 },
	{ KVM_CAP_USER_MEMORY2, 1 }, { KVM_CAP_SREGS2, 1 },
	{ KVM_CAP_SYNC_REGS, KVM_SYNC_X86_VALID_FIELDS }, { KVM_CAP_VCPU_ATTRIBUTES, 1 },
	{ KVM_CAP_SYS_ATTRIBUTES, 1 }, { KVM_CAP_MSR_PLATFORM_INFO, 1 },
	{ KVM_CAP_X86_APIC_BUS_CYCLES_NS, 1 },
	{ KVM_CAP_NESTED_STATE, sizeof(struct kvm_nested_state) },
	{ KVM_CAP_DIRTY_LOG_RING, DIRTY_RING_MAX * sizeof(struct kvm_dirty_gfn) },
	{ KVM_CAP_DIRTY_LOG_RING_ACQ_REL, DIRTY_RING_MAX * sizeof(struct kvm_dirty_gfn) },
};

int cap_value(const struct softkvm *ctx, const struct soft_vm *vm, unsigned long cap)
{
	if (cap == KVM_CAP_NR_VCPUS)
		return (int)MIN((unsigned)sysconf(_SC_NPROCESSORS_ONLN), SOFT_MAX_VCPUS);
	for (unsigned i = 0; i < ARRAY_SIZE(caps); i++)
		if (caps[i].nr == cap)
			return caps[i].value;
	return 0;
}

static int get_api_version(void *obj, uintptr_t arg)
{
	return arg ? -EINVAL : KVM_API_VERSION;
}

static int create_vm(void *obj, uintptr_t arg)
{
	struct soft_file *f = obj;

	file_reap(f->ctx);
	return vm_create_fd(f->ctx, arg);
}

static int check_extension(void *obj, uintptr_t arg)
{
	struct soft_file *f = obj;

	return cap_value(f->ctx, NULL, arg);
}

static int get_vcpu_mmap_size(void *obj, uintptr_t arg)
{
	return arg ? -EINVAL : (int)(SOFT_RUN_PAGES * SOFT_PAGE_SIZE);
}

static int put_msr_list(uintptr_t arg, const uint32_t *list, unsigned nr)
{
	struct kvm_msr_list head;
	unsigned room;

	if (copy_from_user(&head, arg, sizeof(head)))
		return -EFAULT;
	room = head.nmsrs;
	head.nmsrs = nr;
	if (copy_to_user(arg, &head, sizeof(head)))
		return -EFAULT;
	if (room < nr)
		return -E2BIG;
	return copy_to_user(arg + sizeof(head), list, nr * sizeof(*list));
}

static int get_msr_index_list(void *obj, uintptr_t arg)
{
	unsigned nr;
	const uint32_t *list = msr_list(&nr);

	return put_msr_list(arg, list, nr);
}

static int get_msr_feature_list(void *obj, uintptr_t arg)
{
	unsigned nr;
	const uint32_t *list = msr_feature_list(&nr);

	return put_msr_list(arg, list, nr);
}

static int get_feature_msrs(void *obj, uintptr_t arg)
{
	struct kvm_msrs head;
	struct kvm_msr_entry e;
	unsigned i;

	if (copy_from_user(&head, arg, sizeof(head)))
		return -EFAULT;
	if (head.nmsrs >= MSR_MAX_ENTRIES)
		return -E2BIG;
	for (i = 0; i < head.nmsrs; i++) {
		uintptr_t at = arg + sizeof(head) + i * sizeof(e);

		if (copy_from_user(&e, at, sizeof(e)))
			return -EFAULT;
		if (msr_feature_get(e.index, (uint64_t *)&e.data))
			break;
		if (copy_to_user(at, &e, sizeof(e)))
			return -EFAULT;
	}
	return (int)i;
}

static int get_supported_cpuid(void *obj, uintptr_t arg)
{
	struct kvm_cpuid_entry2 entries[CPUID_MAX_ENTRIES];
	struct kvm_cpuid2 head;
	int n;

	if (copy_from_user(&head, arg, sizeof(head)))
		return -EFAULT;
	n = cpuid_supported(entries, MIN(head.nent, CPUID_MAX_ENTRIES));
	if (n < 0)
		return n;
	head.nent = (uint32_t)n;
	if (copy_to_user(arg, &head, sizeof(head)))
		return -EFAULT;
	return copy_to_user(arg + sizeof(head), entries, (size_t)n * sizeof(entries[0]));
}

static int get_mce_cap(void *obj, uintptr_t arg)
{
	*(uint64_t *)arg = MCG_CAP_SUPPORTED;
	return 0;
}

/* KVM_CAP_SYS_ATTRIBUTES: what XCR0 can be. */
static int has_attr(void *obj, uintptr_t arg)
{
	const struct kvm_device_attr *a = (void *)arg;

	return !a->group && a->attr == KVM_X86_XCOMP_GUEST_SUPP ? 0 : -ENXIO;
}

static int get_attr(void *obj, uintptr_t arg)
{
	uint64_t xcr0 = cpuid_xcr0();
	int r = has_attr(obj, arg);

	return r ? r : copy_to_user(((struct kvm_device_attr *)arg)->addr, &xcr0, sizeof(xcr0));
}

static const struct ioctl_row rows[] = {
	{ KVM_GET_API_VERSION, get_api_version, true },
	{ KVM_CREATE_VM, create_vm, true },
	{ KVM_CHECK_EXTENSION, check_extension, true },
	{ KVM_GET_VCPU_MMAP_SIZE, get_vcpu_mmap_size, true },
	{ KVM_GET_MSR_INDEX_LIST, get_msr_index_list, true },
	{ KVM_GET_MSR_FEATURE_INDEX_LIST, get_msr_feature_list, true },
	{ KVM_GET_MSRS, get_feature_msrs, true },
	{ KVM_GET_SUPPORTED_CPUID, get_supported_cpuid, true },
	{ KVM_X86_GET_MCE_CAP_SUPPORTED, get_mce_cap },
	{ KVM_HAS_DEVICE_ATTR, has_attr },
	{ KVM_GET_DEVICE_ATTR, get_attr },
};

static int system_ioctl(struct soft_file *f, unsigned long request, uintptr_t arg)
{
	return ioctl_dispatch(rows, ARRAY_SIZE(rows), f, request, arg, -EINVAL);
}

static void system_release(struct soft_file *f)
{
	free(f);
}

const struct soft_file_ops system_file_ops = {
	.kind = SOFT_SYSTEM, .name = "kvm", .ioctl = system_ioctl, .release = system_release,
};
