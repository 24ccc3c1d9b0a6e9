/* SPDX-License-Identifier: MIT */
#include "kvmapi/kvmapi_priv.h"
#include <stdlib.h>

int vm_create(struct vm *vm, struct sys *s)
{
	int r;

	do
		r = api_ioctl(&s->api, s->fd, KVM_CREATE_VM, 0);
	while (r == -EINTR);
	if (r < 0)
		return r;
	*vm = (struct vm){ .sys = s, .fd = r };
	return 0;
}

void vm_destroy(struct vm *vm)
{
	if (vm->fd >= 0)
		(void)vm->sys->api.ops->close(vm->sys->api.ctx, vm->fd);
	vm->fd = -1;
}

int vm_check_extension(struct vm *vm, unsigned cap)
{
	int r = vm_ioctl_val(vm, KVM_CHECK_EXTENSION, cap);

	return r < 0 ? 0 : r;
}

int vm_enable_cap(struct vm *vm, unsigned cap, uint64_t arg0)
{
	struct kvm_enable_cap c = { .cap = cap, .args = { arg0 } };

	return vm_ioctl(vm, KVM_ENABLE_CAP, &c);
}

int vm_set_memory(struct vm *vm, unsigned slot, gpa_t gpa, uint64_t size, void *host,
		  unsigned flags)
{
	struct kvm_userspace_memory_region m = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)host,
	};

	return vm_ioctl(vm, KVM_SET_USER_MEMORY_REGION, &m);
}

int vm_get_dirty_log(struct vm *vm, unsigned slot, void *bitmap)
{
	struct kvm_dirty_log d = { .slot = slot, .dirty_bitmap = bitmap };

	return vm_ioctl(vm, KVM_GET_DIRTY_LOG, &d);
}

int vm_set_tss_addr(struct vm *vm, gpa_t gpa)
{
	return vm_ioctl_val(vm, KVM_SET_TSS_ADDR, gpa);
}

int vm_set_identity_map_addr(struct vm *vm, gpa_t gpa)
{
	uint64_t addr = gpa;

	return vm_ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &addr);
}

int vm_create_irqchip(struct vm *vm)
{
	return vm_ioctl_val(vm, KVM_CREATE_IRQCHIP, 0);
}

int vm_create_pit2(struct vm *vm, unsigned flags)
{
	struct kvm_pit_config c = { .flags = flags };

	return vm_ioctl(vm, KVM_CREATE_PIT2, &c);
}

int vm_set_boot_cpu(struct vm *vm, unsigned id)
{
	return vm_ioctl_val(vm, KVM_SET_BOOT_CPU_ID, id);
}

int vm_get_clock(struct vm *vm, struct kvm_clock_data *c)
{
	return vm_ioctl(vm, KVM_GET_CLOCK, c);
}

int vm_set_clock(struct vm *vm, const struct kvm_clock_data *c)
{
	return vm_ioctl(vm, KVM_SET_CLOCK, c);
}

int vm_get_irqchip(struct vm *vm, struct kvm_irqchip *c)
{
	return vm_ioctl(vm, KVM_GET_IRQCHIP, c);
}

int vm_set_irqchip(struct vm *vm, const struct kvm_irqchip *c)
{
	return vm_ioctl(vm, KVM_SET_IRQCHIP, c);
}

int vm_get_pit2(struct vm *vm, struct kvm_pit_state2 *p)
{
	return vm_ioctl(vm, KVM_GET_PIT2, p);
}

int vm_set_pit2(struct vm *vm, const struct kvm_pit_state2 *p)
{
	return vm_ioctl(vm, KVM_SET_PIT2, p);
}

int vm_irq_line(struct vm *vm, gsi_t gsi, bool level)
{
	struct kvm_irq_level l = { .irq = gsi, .level = level };

	return vm_ioctl(vm, KVM_IRQ_LINE, &l);
}

int vm_irq_line_status(struct vm *vm, gsi_t gsi, bool level, int *status)
{
	struct kvm_irq_level l = { .irq = gsi, .level = level };
	int r = vm_ioctl(vm, KVM_IRQ_LINE_STATUS, &l);

	if (r >= 0)
		*status = l.status;
	return r;
}

int vm_signal_msi(struct vm *vm, uint64_t address, uint32_t data)
{
	struct kvm_msi m = {
		.address_lo = (uint32_t)address,
		.address_hi = (uint32_t)(address >> 32),
		.data = data,
	};

	return vm_ioctl(vm, KVM_SIGNAL_MSI, &m);
}

int vm_set_routes(struct vm *vm, const struct kvm_irq_routing_entry *e, unsigned nr)
{
	struct kvm_irq_routing *t = calloc(1, sizeof(*t) + nr * sizeof(*e));
	int r;

	if (!t)
		return -ENOMEM;
	t->nr = nr;
	if (nr)
		memcpy(t->entries, e, nr * sizeof(*e));
	r = vm_ioctl(vm, KVM_SET_GSI_ROUTING, t);
	free(t);
	return r;
}

int vm_bind_irqfd(struct vm *vm, int fd, gsi_t gsi, int resamplefd)
{
	struct kvm_irqfd i = { .fd = (uint32_t)fd, .gsi = gsi };

	if (resamplefd >= 0) {
		i.flags = KVM_IRQFD_FLAG_RESAMPLE;
		i.resamplefd = (uint32_t)resamplefd;
	}
	return vm_ioctl(vm, KVM_IRQFD, &i);
}

int vm_bind_notifier(struct vm *vm, struct notifier *n, gsi_t gsi, int resamplefd)
{
	const struct kvmapi *api = &vm->sys->api;
	int r = vm_bind_irqfd(vm, n->fd, gsi, resamplefd);

	if (!r && api->ops->direct)
		api->ops->direct(api->ctx, vm->fd, n);
	return r;
}

int vm_unbind_irqfd(struct vm *vm, int fd, gsi_t gsi)
{
	struct kvm_irqfd i = {
		.fd = (uint32_t)fd, .gsi = gsi, .flags = KVM_IRQFD_FLAG_DEASSIGN,
	};

	return vm_ioctl(vm, KVM_IRQFD, &i);
}

static int doorbell_ioctl(struct vm *vm, const struct vm_doorbell *d, unsigned flags)
{
	struct kvm_ioeventfd i = {
		.datamatch = d->data,
		.addr = d->address,
		.len = d->len,
		.fd = d->fd,
		.flags = flags | (d->pio ? KVM_IOEVENTFD_FLAG_PIO : 0) |
			 (d->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0),
	};

	return vm_ioctl(vm, KVM_IOEVENTFD, &i);
}

int vm_bind_ioeventfd(struct vm *vm, const struct vm_doorbell *d)
{
	return doorbell_ioctl(vm, d, 0);
}

int vm_unbind_ioeventfd(struct vm *vm, const struct vm_doorbell *d)
{
	return doorbell_ioctl(vm, d, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

static int coalesce_ioctl(struct vm *vm, unsigned long request, bool pio, uint64_t address,
			  unsigned size)
{
	struct kvm_coalesced_mmio_zone z = { .addr = address, .size = size, .pio = pio };

	return vm_ioctl(vm, request, &z);
}

int vm_coalesce(struct vm *vm, bool pio, uint64_t address, unsigned size)
{
	return coalesce_ioctl(vm, KVM_REGISTER_COALESCED_MMIO, pio, address, size);
}

int vm_uncoalesce(struct vm *vm, bool pio, uint64_t address, unsigned size)
{
	return coalesce_ioctl(vm, KVM_UNREGISTER_COALESCED_MMIO, pio, address, size);
}
