/* SPDX-License-Identifier: MIT
 * The VM fd: "VM ioctls".
 */
#include "softkvm/chips.h"
#include "softkvm/dirty_ring.h"
#include "softkvm/ioeventfd.h"
#include "softkvm/irqfd.h"
#include "softkvm/msr.h"
#include "softkvm/tsc.h"
#include "softkvm/uapi.h"
#include "softkvm/vcpu.h"
#include <stdio.h>
#include <stdlib.h>

#define VM struct soft_vm *vm = obj

static int create_vcpu(void *obj, uintptr_t arg)
{
	return vcpu_create_fd(obj, arg);
}

static int check_extension(void *obj, uintptr_t arg)
{
	VM;

	return cap_value(vm->ctx, vm, arg);
}

static int enable_cap(void *obj, uintptr_t arg)
{
	return vm_enable_capability(obj, (void *)arg);
}

static int set_memory(void *obj, uintptr_t arg)
{
	VM;

	vm_stat(vm, slot_changes);
	return memslots_set(&vm->mem, (void *)arg);
}

/* The same call with room for a guest_memfd, which needs a flag that is refused here. */
static int set_memory2(void *obj, uintptr_t arg)
{
	const struct kvm_userspace_memory_region2 *r2 = (const void *)arg;
	struct kvm_userspace_memory_region r = {
		.slot = r2->slot, .flags = r2->flags, .guest_phys_addr = r2->guest_phys_addr,
		.memory_size = r2->memory_size, .userspace_addr = r2->userspace_addr,
	};

	return set_memory(obj, (uintptr_t)&r);
}

static int get_dirty_log(void *obj, uintptr_t arg)
{
	VM;
	return memslots_get_dirty_log(&vm->mem, (void *)arg);
}

static int clear_dirty_log(void *obj, uintptr_t arg)
{
	VM;
	return memslots_clear_dirty_log(&vm->mem, (void *)arg);
}

static int reset_dirty_rings(void *obj, uintptr_t arg)
{
	return dirty_rings_reset(obj);
}

static int register_coalesced(void *obj, uintptr_t arg)
{
	return coalesced_register(obj, (void *)arg);
}

static int unregister_coalesced(void *obj, uintptr_t arg)
{
	return coalesced_unregister(obj, (void *)arg);
}

static int set_irqfd(void *obj, uintptr_t arg)
{
	return irqfd_set(obj, (void *)arg);
}

static int set_ioeventfd(void *obj, uintptr_t arg)
{
	return ioeventfd_set(obj, (void *)arg);
}

static int signal_msi(void *obj, uintptr_t arg)
{
	return route_signal_msi(obj, (void *)arg);
}

static int line(struct soft_vm *vm, struct kvm_irq_level *l, bool status)
{
	if (vm_irqchip(vm) == IRQCHIP_NONE)
		return -ENXIO;
	vm_stat(vm, line);
	l->status = route_set(vm, l->irq, IRQ_SOURCE_USER, l->level, status);
	return 0;
}

static int irq_line(void *obj, uintptr_t arg)
{
	return line(obj, (void *)arg, false);
}

static int irq_line_status(void *obj, uintptr_t arg)
{
	return line(obj, (void *)arg, true);
}

static int set_routing(void *obj, uintptr_t arg)
{
	VM;
	struct kvm_irq_routing_entry *e = NULL;
	struct kvm_irq_routing head;
	int r;

	if (copy_from_user(&head, arg, sizeof(head)))
		return -EFAULT;
	if (vm_irqchip(vm) == IRQCHIP_NONE || head.nr > SOFT_MAX_ROUTES || head.flags)
		return -EINVAL;
	if (head.nr) {
		e = malloc(head.nr * sizeof(*e));
		if (!e)
			return -ENOMEM;
		if (copy_from_user(e, arg + sizeof(head), head.nr * sizeof(*e))) {
			free(e);
			return -EFAULT;
		}
	}
	mutex_lock(&vm->lock);
	r = routes_set_locked(vm, e, head.nr);
	mutex_unlock(&vm->lock);
	free(e);
	return r;
}

/* No device type exists here (no VFIO group to hand over). */
static int create_device(void *obj, uintptr_t arg)
{
	return -ENODEV;
}

static int create_irqchip(void *obj, uintptr_t arg)
{
	VM;
	int r;

	mutex_lock(&vm->lock);
	if (vm_irqchip(vm) != IRQCHIP_NONE)
		r = -EEXIST;
	else if (atomic_load(&vm->nr_vcpus))
		r = -EINVAL;
	else
		r = vmchips_create_locked(vm);
	if (!r) {
		atomic_store_explicit(&vm->irqchip, IRQCHIP_KERNEL, memory_order_release);
		r = routes_set_default_locked(vm);
	}
	mutex_unlock(&vm->lock);
	return r;
}

static int get_irqchip(void *obj, uintptr_t arg)
{
	VM;
	struct kvm_irqchip c;
	int r;

	if (copy_from_user(&c, arg, sizeof(c)))
		return -EFAULT;
	if (vm_irqchip(vm) != IRQCHIP_KERNEL)
		return -ENXIO;
	r = vmchips_save(vm, &c);
	return r ? r : copy_to_user(arg, &c, sizeof(c));
}

static int set_irqchip(void *obj, uintptr_t arg)
{
	VM;
	struct kvm_irqchip c;

	if (copy_from_user(&c, arg, sizeof(c)))
		return -EFAULT;
	if (vm_irqchip(vm) != IRQCHIP_KERNEL)
		return -ENXIO;
	return vmchips_load(vm, &c);
}

static int create_pit(struct soft_vm *vm, uint32_t flags)
{
	int r;

	mutex_lock(&vm->lock);
	if (vm->pit)
		r = -EEXIST;
	else if (vm_irqchip(vm) != IRQCHIP_KERNEL)
		r = -ENOENT;
	else
		r = pit_create_locked(vm, flags);
	mutex_unlock(&vm->lock);
	return r;
}

static int create_pit1(void *obj, uintptr_t arg)
{
	return create_pit(obj, KVM_PIT_SPEAKER_DUMMY);
}

static int create_pit2(void *obj, uintptr_t arg)
{
	return create_pit(obj, ((struct kvm_pit_config *)arg)->flags);
}

static int get_pit(void *obj, uintptr_t arg)
{
	VM;
	struct kvm_pit_state2 s;

	if (!READ_ONCE(vm->pit))
		return -ENXIO;
	pit_save(vm, &s);
	return copy_to_user(arg, s.channels, sizeof(s.channels));
}

static int set_pit(void *obj, uintptr_t arg)
{
	VM;

	if (!READ_ONCE(vm->pit))
		return -ENXIO;
	pit_load_channels(vm, (void *)arg);
	return 0;
}

static int get_pit2(void *obj, uintptr_t arg)
{
	VM;

	if (!READ_ONCE(vm->pit))
		return -ENXIO;
	pit_save(vm, (void *)arg);
	return 0;
}

static int set_pit2(void *obj, uintptr_t arg)
{
	VM;

	if (!READ_ONCE(vm->pit))
		return -ENXIO;
	pit_load(vm, (void *)arg);
	return 0;
}

static int reinject_control(void *obj, uintptr_t arg)
{
	VM;
	struct kvm_reinject_control c;

	if (copy_from_user(&c, arg, sizeof(c)))
		return -EFAULT;
	if (!READ_ONCE(vm->pit))
		return -ENXIO;
	pit_set_reinject(vm, c.pit_reinject);
	return 0;
}

/* The pages real hardware needs for real mode: the engine does not. Kept for the record. */
static int set_tss_addr(void *obj, uintptr_t arg)
{
	VM;

	if (arg > (unsigned)(-3 * (int)SOFT_PAGE_SIZE))
		return -EINVAL;
	vm->tss_addr = arg;
	return 0;
}

static int set_identity_map_addr(void *obj, uintptr_t arg)
{
	VM;
	uint64_t addr;
	int r = -EINVAL;

	mutex_lock(&vm->lock);
	if (!atomic_load(&vm->nr_vcpus)) {
		r = copy_from_user(&addr, arg, sizeof(addr));
		if (!r)
			vm->identity_addr = addr;
	}
	mutex_unlock(&vm->lock);
	return r;
}

static int set_nr_mmu_pages(void *obj, uintptr_t arg)
{
	VM;

	if (arg < 64)
		return -EINVAL;
	vm->nr_mmu_pages = arg;
	return 0;
}

static int get_nr_mmu_pages(void *obj, uintptr_t arg)
{
	VM;
	return (int)vm->nr_mmu_pages;
}

static int set_boot_cpu_id(void *obj, uintptr_t arg)
{
	VM;
	int r = 0;

	mutex_lock(&vm->lock);
	if (atomic_load(&vm->nr_vcpus))
		r = -EBUSY;
	else if (arg > SOFT_MAX_VCPU_IDS || (vm->max_vcpu_id_set && arg > vm->max_vcpu_id))
		r = -EINVAL;
	else
		vm->bsp_id = (uint32_t)arg;
	mutex_unlock(&vm->lock);
	return r;
}

static int get_clock(void *obj, uintptr_t arg)
{
	VM;
	struct kvm_clock_data *c = (void *)arg;
	struct clock_sample now = clock_sample();

	*c = (struct kvm_clock_data){
		.clock = now.ns + (uint64_t)READ_ONCE(vm->clock_offset),
		.realtime = now.realtime,
		.host_tsc = now.tsc,
		.flags = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC,
	};
	return 0;
}

static int set_clock(void *obj, uintptr_t arg)
{
	VM;
	struct kvm_clock_data *c = (void *)arg;
	struct clock_sample now = clock_sample();
	uint64_t clock = c->clock;

	if (c->flags & ~(KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC))
		return -EINVAL;
	/* Time went on in the world since it was read there. */
	if (c->flags & KVM_CLOCK_REALTIME && now.realtime > c->realtime)
		clock += now.realtime - c->realtime;
	WRITE_ONCE(vm->clock_offset, (int64_t)(clock - now.ns));
	vm_request_all(vm, REQ_CLOCK);
	return 0;
}

static int set_msr_filter(void *obj, uintptr_t arg)
{
	return msr_filter_set(obj, arg);
}

static int get_stats_fd(void *obj, uintptr_t arg)
{
	VM;
	char id[32];
	int r;

	snprintf(id, sizeof(id), "kvm-%d", (int)vm->file.pid);
	mutex_lock(&vm->lock);
	r = stats_open_fd(&vm->stats, false, id);
	mutex_unlock(&vm->lock);
	return r;
}

static int get_tsc_khz(void *obj, uintptr_t arg)
{
	VM;
	return (int)READ_ONCE(vm->default_tsc_khz);
}

/* For vCPUs to come. */
static int set_tsc_khz(void *obj, uintptr_t arg)
{
	VM;
	uint32_t khz = (uint32_t)arg;
	int r = -EINVAL;

	mutex_lock(&vm->lock);
	if (!atomic_load(&vm->nr_vcpus) && tsc_khz_valid(khz)) {
		WRITE_ONCE(vm->default_tsc_khz, khz ? khz : vm->tsc_khz);
		r = 0;
	}
	mutex_unlock(&vm->lock);
	return r;
}

static const struct ioctl_row rows[] = {
	{ KVM_IRQ_LINE, irq_line },
	{ KVM_IRQ_LINE_STATUS, irq_line_status },
	{ KVM_SIGNAL_MSI, signal_msi },
	{ KVM_IRQFD, set_irqfd },
	{ KVM_IOEVENTFD, set_ioeventfd },
	{ KVM_SET_GSI_ROUTING, set_routing, true },
	{ KVM_SET_USER_MEMORY_REGION, set_memory },
	{ KVM_SET_USER_MEMORY_REGION2, set_memory2 },
	{ KVM_GET_DIRTY_LOG, get_dirty_log },
	{ KVM_CLEAR_DIRTY_LOG, clear_dirty_log },
	{ KVM_RESET_DIRTY_RINGS, reset_dirty_rings, true },
	{ KVM_REGISTER_COALESCED_MMIO, register_coalesced },
	{ KVM_UNREGISTER_COALESCED_MMIO, unregister_coalesced },
	{ KVM_CREATE_VCPU, create_vcpu, true },
	{ KVM_CHECK_EXTENSION, check_extension, true },
	{ KVM_ENABLE_CAP, enable_cap },
	{ KVM_CREATE_DEVICE, create_device },
	{ KVM_CREATE_IRQCHIP, create_irqchip, true },
	{ KVM_GET_IRQCHIP, get_irqchip, true },
	{ KVM_SET_IRQCHIP, set_irqchip, true },
	{ KVM_CREATE_PIT, create_pit1, true },
	{ KVM_CREATE_PIT2, create_pit2 },
	{ KVM_GET_PIT, get_pit, true },
	{ KVM_SET_PIT, set_pit },
	{ KVM_GET_PIT2, get_pit2 },
	{ KVM_SET_PIT2, set_pit2 },
	{ KVM_REINJECT_CONTROL, reinject_control, true /* it has no size */ },
	{ KVM_SET_TSS_ADDR, set_tss_addr, true },
	{ KVM_SET_IDENTITY_MAP_ADDR, set_identity_map_addr, true },
	{ KVM_SET_NR_MMU_PAGES, set_nr_mmu_pages, true },
	{ KVM_GET_NR_MMU_PAGES, get_nr_mmu_pages, true },
	{ KVM_SET_BOOT_CPU_ID, set_boot_cpu_id, true },
	{ KVM_GET_CLOCK, get_clock },
	{ KVM_SET_CLOCK, set_clock },
	{ KVM_X86_SET_MSR_FILTER, set_msr_filter, true },
	{ KVM_GET_STATS_FD, get_stats_fd, true },
	{ KVM_GET_TSC_KHZ, get_tsc_khz, true },
	{ KVM_SET_TSC_KHZ, set_tsc_khz, true },
};

static int vm_ioctl_request(struct soft_file *f, unsigned long request, uintptr_t arg)
{
	return ioctl_dispatch(rows, ARRAY_SIZE(rows), file_vm(f), request, arg, -ENOTTY);
}

const struct soft_file_ops vm_file_ops = {
	.kind = SOFT_VM, .name = "kvm-vm", .ioctl = vm_ioctl_request,
	.closed = vm_closed, .release = vm_release,
};
