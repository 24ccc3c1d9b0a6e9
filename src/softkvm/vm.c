/* SPDX-License-Identifier: MIT */
#include "softkvm/vm.h"
#include "softkvm/chips.h"
#include "softkvm/dirty_ring.h"
#include "softkvm/ioeventfd.h"
#include "softkvm/irqfd.h"
#include "softkvm/msr.h"
#include "softkvm/remap.h"
#include "softkvm/tsc.h"
#include "softkvm/uapi.h"
#include "softkvm/vcpu.h"
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static int ring_create(struct soft_vm *vm)
{
	int r;

	vm->ring_fd = memfd_create("kvm-ring", MFD_CLOEXEC);
	if (vm->ring_fd < 0)
		return -errno;
	if (ftruncate(vm->ring_fd, SOFT_PAGE_SIZE) < 0)
		goto fail;
	vm->ring = mmap(NULL, SOFT_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, vm->ring_fd, 0);
	if (vm->ring == MAP_FAILED)
		goto fail;
	return 0;

fail:
	r = -errno;
	close(vm->ring_fd);
	return r;
}

int vm_start_waiter(struct soft_vm *vm)
{
	int r = loop_thread_start(vm->waiter, "softkvm-wait");

	return r == -EBUSY ? 0 : r;
}

static int waiter_create(struct soft_vm *vm)
{
	int r = loop_create(&vm->waiter);

	if (r)
		return r;
	r = listener_init(&vm->listener, vm->waiter, &vm->grace);
	if (r)
		goto destroy_loop;
	r = timers_init(&vm->timers, vm->waiter);
	if (r)
		goto destroy_listener;
	if (!vm->ctx->cfg.late_thread) {
		r = vm_start_waiter(vm);
		if (r)
			goto destroy_timers;
	}
	if (WITH_TSAN) {
		vm->nudge.fire = signals_nudge;
		timer_add(&vm->timers, &vm->nudge);
		timer_set(&vm->timers, &vm->nudge, clock_ns());
	}
	return 0;

destroy_timers:
	timers_destroy(&vm->timers);
destroy_listener:
	listener_destroy(&vm->listener);
destroy_loop:
	loop_destroy(vm->waiter);
	return r;
}

static void init_plain(struct soft_vm *vm)
{
	mutex_init(&vm->lock);
	mutex_init(&vm->bus_lock);
	mutex_init(&vm->ring_lock);
	mutex_init(&vm->chips.lock);
	mutex_init(&vm->irqfd_lock);
	mutex_init(&vm->pulse_lock);
	mutex_init(&vm->resample_lock);
	mutex_init(&vm->map_lock);
	mutex_init(&vm->tsc.lock);
	grace_init(&vm->grace);
	stats_init(&vm->stats);
	vm->max_vcpu_id = SOFT_MAX_VCPU_IDS;
	vm->bus_cycle_ns = 1;
	vm->clock_offset = -(int64_t)clock_ns();
}

static void destroy_plain(struct soft_vm *vm)
{
	stats_destroy(&vm->stats);
	grace_destroy(&vm->grace);
	mutex_destroy(&vm->tsc.lock);
	mutex_destroy(&vm->map_lock);
	mutex_destroy(&vm->resample_lock);
	mutex_destroy(&vm->pulse_lock);
	mutex_destroy(&vm->irqfd_lock);
	mutex_destroy(&vm->chips.lock);
	mutex_destroy(&vm->ring_lock);
	mutex_destroy(&vm->bus_lock);
	mutex_destroy(&vm->lock);
}

int vm_create_fd(struct softkvm *ctx, unsigned long type)
{
	struct engine_config ec = { .code_mib = ctx->cfg.code_mib };
	struct soft_vm *vm;
	int r;

	/* Only the default type: the others are for encrypted guests. */
	if (type)
		return -EINVAL;
	vm = aligned_alloc(64, (sizeof(*vm) + 63) / 64 * 64);
	if (!vm)
		return -ENOMEM;
	memset(vm, 0, sizeof(*vm));
	vm->ctx = ctx;
	init_plain(vm);
	vm->default_tsc_khz = vm->tsc_khz = ctx->tsc_khz;
	r = engine_vm_create(&ec, &vm->engine, NULL);
	if (r)
		goto free_vm;
	r = memslots_init(&vm->mem, &vm->grace, vm->engine);
	if (r)
		goto destroy_engine;
	r = iobus_init(&vm->pio, &vm->grace);
	if (r)
		goto destroy_mem;
	r = iobus_init(&vm->mmio, &vm->grace);
	if (r)
		goto destroy_pio;
	r = iobus_init(&vm->ccw, &vm->grace);
	if (r)
		goto destroy_mmio;
	r = routes_init(vm);
	if (r)
		goto destroy_ccw;
	r = ring_create(vm);
	if (r)
		goto destroy_routes;
	r = waiter_create(vm);
	if (r)
		goto destroy_ring;
	r = file_init(&vm->file, ctx, &vm_file_ops, 0);
	if (r)
		goto destroy_waiter;
	r = file_publish(&vm->file);
	if (r >= 0)
		return r;
	file_abandon(&vm->file);
destroy_waiter:
	loop_thread_stop(vm->waiter);
	timers_destroy(&vm->timers);
	listener_destroy(&vm->listener);
	loop_destroy(vm->waiter);
destroy_ring:
	munmap(vm->ring, SOFT_PAGE_SIZE);
	close(vm->ring_fd);
destroy_routes:
	routes_destroy(vm);
destroy_ccw:
	iobus_destroy(&vm->ccw);
destroy_mmio:
	iobus_destroy(&vm->mmio);
destroy_pio:
	iobus_destroy(&vm->pio);
destroy_mem:
	memslots_destroy(&vm->mem);
destroy_engine:
	engine_vm_destroy(vm->engine);
free_vm:
	destroy_plain(vm);
	free(vm);
	return r;
}

/* vCPUs may be there still, and run. */
void vm_closed(struct soft_file *f)
{
	irqfd_destroy_all(file_vm(f));
}

/* The last reference has gone: no fd, no vCPU. Sources first, then what they act on. */
void vm_release(struct soft_file *f)
{
	struct soft_vm *vm = file_vm(f);

	/* From here on this is the only thread that knows the VM. */
	loop_thread_stop(vm->waiter);
	irqfd_destroy_all(vm);
	ioeventfd_destroy_all(vm);
	coalesced_destroy_all(vm);
	vmchips_destroy(vm);
	pit_destroy(vm);
	for (unsigned i = 0; i < atomic_load(&vm->nr_vcpus); i++)
		vcpu_free(vm->vcpus[i]);
	timers_destroy(&vm->timers);
	listener_destroy(&vm->listener);
	loop_destroy(vm->waiter);
	munmap(vm->ring, SOFT_PAGE_SIZE);
	close(vm->ring_fd);
	routes_destroy(vm);
	free(atomic_load(&vm->map));
	iobus_destroy(&vm->ccw);
	iobus_destroy(&vm->mmio);
	iobus_destroy(&vm->pio);
	memslots_destroy(&vm->mem);
	engine_vm_destroy(vm->engine);
	msr_filter_free(atomic_load(&vm->msr_filter));
	destroy_plain(vm);
	free(vm);
}

void vm_rebuild_map(struct soft_vm *vm)
{
	struct lapic_map *map, *old;
	unsigned nr;
	uint32_t max_id = 255;

	mutex_lock(&vm->map_lock);
	nr = atomic_load(&vm->nr_vcpus);
	for (unsigned i = 0; i < nr; i++)
		max_id = MAX(max_id, vm->vcpus[i]->id);
	map = aligned_alloc(64, (lapic_map_size(max_id) + 63) / 64 * 64);
	/* Without memory the old map goes on; deliveries then follow the old IDs. */
	if (map) {
		lapic_map_build(map, max_id, vm->lapics, nr);
		old = atomic_exchange(&vm->map, map);
		grace_wait(&vm->grace);
		free(old);
		remap_update_locked(vm);
		vm_stat(vm, map_rebuilds);
	}
	mutex_unlock(&vm->map_lock);
	vm_request_all(vm, REQ_SCAN_EOI);
}

int vm_deliver(struct soft_vm *vm, struct lapic *src, const struct irq_message *msg,
	       struct ioapic_rtc *rtc)
{
	unsigned g = grace_enter(&vm->grace);
	const struct lapic_map *map = atomic_load(&vm->map);
	int r = map ? lapic_map_deliver(map, src, msg, rtc) : -1;

	grace_leave(&vm->grace, g);
	return r;
}

void vm_request_all(struct soft_vm *vm, uint32_t request)
{
	unsigned nr = atomic_load(&vm->nr_vcpus);

	for (unsigned i = 0; i < nr; i++)
		vcpu_request(vm->vcpus[i], request);
}

/* ---- KVM_ENABLE_CAP -------------------------------------------------------- */

static int enable_split(struct soft_vm *vm, uint64_t pins)
{
	int r = 0;

	mutex_lock(&vm->lock);
	if (pins > SOFT_MAX_ROUTES)
		r = -EINVAL;
	else if (vm_irqchip(vm) != IRQCHIP_NONE || atomic_load(&vm->nr_vcpus))
		r = -EEXIST;
	if (!r) {
		vm->split_pins = (unsigned)pins;
		atomic_store_explicit(&vm->irqchip, IRQCHIP_SPLIT, memory_order_release);
	}
	mutex_unlock(&vm->lock);
	return r;
}

static int enable_x2apic_api(struct soft_vm *vm, uint64_t flags)
{
	const uint32_t all = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;

	if (flags & ~(uint64_t)all)
		return -EINVAL;
	mutex_lock(&vm->lock);
	vm->x2apic_flags |= (uint32_t)flags;
	for (unsigned i = 0; i < atomic_load(&vm->nr_vcpus); i++)
		lapic_set_x2apic_api(vm->lapics[i], vm->x2apic_flags & KVM_X2APIC_API_USE_32BIT_IDS,
				     vm->x2apic_flags & KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);
	mutex_unlock(&vm->lock);
	/* As in KVM, the map of destinations stays as it is until one of them changes. */
	return 0;
}

static int disable_quirks(struct soft_vm *vm, uint64_t quirks)
{
	mutex_lock(&vm->lock);
	__atomic_fetch_or(&vm->disabled_quirks, quirks & SOFT_QUIRKS, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < atomic_load(&vm->nr_vcpus); i++)
		lapic_set_quirks(vm->lapics[i], vm_quirk(vm, KVM_X86_QUIRK_LINT0_REENABLED),
				 vm_quirk(vm, KVM_X86_QUIRK_LAPIC_MMIO_HOLE));
	mutex_unlock(&vm->lock);
	return 0;
}

static int enable_disabled_exits(struct soft_vm *vm, uint64_t exits)
{
	const uint64_t all = KVM_X86_DISABLE_EXITS_HLT | KVM_X86_DISABLE_EXITS_PAUSE |
			     KVM_X86_DISABLE_EXITS_CSTATE;
	int r = -EINVAL;

	if (exits & ~all)
		return -EINVAL;
	mutex_lock(&vm->lock);
	if (!atomic_load(&vm->nr_vcpus)) {
		vm->disabled_exits |= (uint32_t)exits;
		r = 0;
	}
	mutex_unlock(&vm->lock);
	return r;
}

/* Once, to what holds the BSP; the same value again, or 0 before that, is no change. */
static int narrow_vcpu_ids(struct soft_vm *vm, uint64_t max)
{
	int r = -EINVAL;

	if (max > SOFT_MAX_VCPU_IDS)
		return -EINVAL;
	mutex_lock(&vm->lock);
	if (vm->bsp_id > max)
		goto unlock;
	if (max == (vm->max_vcpu_id_set ? vm->max_vcpu_id : 0)) {
		r = 0;
	} else if (!vm->max_vcpu_id_set) {
		vm->max_vcpu_id = (unsigned)max;
		vm->max_vcpu_id_set = true;
		r = 0;
	}
unlock:
	mutex_unlock(&vm->lock);
	return r;
}

static int enable_manual_dirty_log(struct soft_vm *vm, uint64_t flags)
{
	uint64_t allowed = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;

	if (flags & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)
		allowed |= KVM_DIRTY_LOG_INITIALLY_SET;
	if (flags & ~allowed)
		return -EINVAL;
	memslots_set_manual_protect(&vm->mem, (uint32_t)flags);
	return 0;
}

static int set_bus_cycle(struct soft_vm *vm, uint64_t ns)
{
	uint64_t unused;
	int r = 0;

	/* The longest time, of the largest count and divisor, must fit. */
	if (!ns || __builtin_mul_overflow(UINT32_MAX * UINT64_C(128), ns, &unused))
		return -EINVAL;
	mutex_lock(&vm->lock);
	if (vm_irqchip(vm) == IRQCHIP_NONE)
		r = -ENXIO;
	else if (atomic_load(&vm->nr_vcpus))
		r = -EINVAL;
	else
		vm->bus_cycle_ns = ns;
	mutex_unlock(&vm->lock);
	return r;
}

int vm_enable_capability(struct soft_vm *vm, const struct kvm_enable_cap *cap)
{
	/* These two the kernel does not ask for flags. */
	if (cap->cap == KVM_CAP_DIRTY_LOG_RING || cap->cap == KVM_CAP_DIRTY_LOG_RING_ACQ_REL)
		return dirty_rings_enable(vm, cap->args[0]);
	if (cap->flags)
		return -EINVAL;
	switch (cap->cap) {
	case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2:
		return enable_manual_dirty_log(vm, cap->args[0]);
	case KVM_CAP_SPLIT_IRQCHIP:
		return enable_split(vm, cap->args[0]);
	case KVM_CAP_X2APIC_API:
		return enable_x2apic_api(vm, cap->args[0]);
	case KVM_CAP_X86_DISABLE_EXITS:
		return enable_disabled_exits(vm, cap->args[0]);
	case KVM_CAP_MAX_VCPU_ID:
		return narrow_vcpu_ids(vm, cap->args[0]);
	case KVM_CAP_DISABLE_QUIRKS2:
		if (cap->args[0] & ~(uint64_t)SOFT_QUIRKS)
			return -EINVAL;
		/* fall through */
	case KVM_CAP_DISABLE_QUIRKS:
		return disable_quirks(vm, cap->args[0]);
	case KVM_CAP_X86_APIC_BUS_CYCLES_NS:
		return set_bus_cycle(vm, cap->args[0]);
	case KVM_CAP_MSR_PLATFORM_INFO:
		WRITE_ONCE(vm->hide_platform_info, !cap->args[0]);
		return 0;
	case KVM_CAP_X86_USER_SPACE_MSR:
		if (cap->args[0] & ~(uint64_t)MSR_EXITS_VALID)
			return -EINVAL;
		WRITE_ONCE(vm->msr_exits, (uint32_t)cap->args[0]);
		return 0;
	case KVM_CAP_EXCEPTION_PAYLOAD:
		WRITE_ONCE(vm->exception_payload, cap->args[0] != 0);
		return 0;
	case KVM_CAP_X86_TRIPLE_FAULT_EVENT:
		vm->triple_fault_event = cap->args[0];
		return 0;
	default:
		return -EINVAL;
	}
}
