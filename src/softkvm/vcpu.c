/* SPDX-License-Identifier: MIT
 * A vCPU's creation and end. As in the kernel, closing its fd gives up only the
 * handle: the processor stays in the VM, and its id taken, until the VM goes.
 */
#include "softkvm/vcpu_state.h"
#include "softkvm/chips.h"
#include "softkvm/cpuid.h"
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static void init_msrs(struct soft_vcpu *v)
{
	v->msr.mcg_cap = 0;
	msr_init(v);
}

/* As KVM leaves it: FCW 37fh (FINIT's), not RESET's 40h. */
static void fpu_init(struct soft_vcpu *v)
{
	struct kvm_fpu f;

	state_get_fpu(v, &f);
	f.fcw = 0x37f;
	(void)!state_set_fpu(v, &f);
}

/* After engine and pages are there. */
static void init_state(struct soft_vcpu *v)
{
	struct soft_vm *vm = v->vm;
	bool bsp = v->id == vm->bsp_id;
	struct lapic_config config = {
		.id = v->id,
		.bsp = bsp,
		.lint0_enabled = vm_quirk(vm, KVM_X86_QUIRK_LINT0_REENABLED),
		.mmio_hole = vm_quirk(vm, KVM_X86_QUIRK_LAPIC_MMIO_HOLE),
		.x2apic_ids_32 = vm->x2apic_flags & KVM_X2APIC_API_USE_32BIT_IDS,
		.no_broadcast_quirk = vm->x2apic_flags & KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
		.bus_cycle_ns = vm->bus_cycle_ns,
		.pir = vm->ctx->cfg.no_apicv ? NULL : v->pi.pir,
	};

	posted_init(&v->pi);
	v->posting = !vm->ctx->cfg.no_apicv;
	v->has_lapic = vm_irqchip(vm) != IRQCHIP_NONE;
	v->user_vector = v->extint_vector = -1;
	v->stale_eoi = -1;
	v->phys_bits = CPUID_PHYS_BITS;
	v->mp_state = v->has_lapic && !bsp ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE;
	lapic_init(&v->lapic, &config, v->posting ? &vcpu_lapic_sink : &vcpu_lapic_sink_no_apicv, v);
	v->timer.fire = vcpu_timer_fired;
	init_msrs(v);
	fpu_init(v);
	vcpu_tsc_init(v);
}

#define RUN_SIZE   (SOFT_RUN_PAGES * SOFT_PAGE_SIZE)
#define DIRTY_AT   (KVM_DIRTY_LOG_PAGE_OFFSET * SOFT_PAGE_SIZE)

/* What lies between is a hole. */
static size_t file_size(const struct soft_vm *vm)
{
	return vm->dirty_ring_bytes ? DIRTY_AT + vm->dirty_ring_bytes : RUN_SIZE;
}

static int map_pages(struct soft_vcpu *v)
{
	size_t ring = v->vm->dirty_ring_bytes;
	int r;

	v->run = mmap(NULL, RUN_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, v->file.own_fd, 0);
	if (v->run == MAP_FAILED)
		return -errno;
	if (!ring)
		return 0;
	v->ring.gfn = mmap(NULL, ring, PROT_READ | PROT_WRITE, MAP_SHARED, v->file.own_fd, DIRTY_AT);
	v->ring.size = (uint32_t)(ring / sizeof(v->ring.gfn[0]));
	if (v->ring.gfn != MAP_FAILED)
		return 0;
	r = -errno;
	munmap(v->run, RUN_SIZE);
	return r;
}

static void unmap_pages(struct soft_vcpu *v)
{
	munmap(v->run, RUN_SIZE);
	if (v->ring.gfn)
		munmap(v->ring.gfn, v->ring.size * sizeof(v->ring.gfn[0]));
}

/* The coalesced ring is the VM's: put its page over the one of the vCPU's memfd. */
int vcpu_mapped(struct soft_file *f, void *p, size_t size, uint64_t offset)
{
	uint8_t *at = (uint8_t *)p + (SOFT_RING_PAGE * SOFT_PAGE_SIZE - offset);

	if (offset > SOFT_RING_PAGE * SOFT_PAGE_SIZE || offset + size <= SOFT_RING_PAGE * SOFT_PAGE_SIZE)
		return 0;
	if (mmap(at, SOFT_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 file_vcpu(f)->vm->ring_fd, 0) == MAP_FAILED)
		return -errno;
	return 0;
}

static int check_id_locked(struct soft_vm *vm, unsigned long id)
{
	unsigned nr = atomic_load(&vm->nr_vcpus);

	if (id >= SOFT_MAX_VCPU_IDS || nr >= SOFT_MAX_VCPUS)
		return -EINVAL;
	/* The first one, even if it fails, makes the limit final. */
	vm->max_vcpu_id_set = true;
	if (id >= vm->max_vcpu_id)
		return -EINVAL;
	for (unsigned i = 0; i < nr; i++)
		if (vm->vcpus[i]->id == id)
			return -EEXIST;
	return 0;
}

int vcpu_create_fd(struct soft_vm *vm, unsigned long id)
{
	struct soft_vcpu *v;
	unsigned index;
	int r, fd;

	v = aligned_alloc(64, (sizeof(*v) + 63) / 64 * 64);
	if (!v)
		return -ENOMEM;
	memset(v, 0, sizeof(*v));
	v->vm = vm;
	v->id = (uint32_t)id;
	mutex_init(&v->lock);
	stats_init(&v->stats);
	mutex_lock(&vm->lock);
	r = check_id_locked(vm, id);
	if (r)
		goto unlock;
	r = engine_vcpu_create(vm->engine, v->id, &vcpu_engine_ops, v, &v->cpu, NULL);
	if (r)
		goto unlock;
	r = file_init(&v->file, vm->ctx, &vcpu_file_ops, file_size(vm));
	if (r)
		goto destroy_cpu;
	r = map_pages(v);
	if (r)
		goto abandon;
	init_state(v);
	r = vm_start_waiter(vm);
	if (r)
		goto unmap;
	fd = file_publish(&v->file);
	if (fd < 0) {
		r = fd;
		goto unmap;
	}
	file_ref(&vm->file);
	index = atomic_load(&vm->nr_vcpus);
	v->index = index;
	vm->vcpus[index] = v;
	vm->lapics[index] = &v->lapic;
	atomic_store(&vm->nr_vcpus, index + 1);
	timer_add(&vm->timers, &v->timer);
	mutex_unlock(&vm->lock);
	if (v->has_lapic)
		vm_rebuild_map(vm);
	return fd;

unmap:
	unmap_pages(v);
abandon:
	file_abandon(&v->file);
destroy_cpu:
	engine_vcpu_destroy(v->cpu);
unlock:
	mutex_unlock(&vm->lock);
	stats_destroy(&v->stats);
	mutex_destroy(&v->lock);
	free(v);
	/* KVM sees that there is such an ID only when the new local APIC has had the map built anew. */
	if (r == -EEXIST && vm_irqchip(vm) != IRQCHIP_NONE)
		vm_rebuild_map(vm);
	return r;
}

void vcpu_release(struct soft_file *f)
{
	file_put(&file_vcpu(f)->vm->file);
}

void vcpu_free(struct soft_vcpu *v)
{
	timer_remove(&v->vm->timers, &v->timer);
	engine_vcpu_destroy(v->cpu);
	unmap_pages(v);
	stats_destroy(&v->stats);
	mutex_destroy(&v->lock);
	free(v->cpuid);
	free(v);
}

void vcpu_wake(struct soft_vcpu *v)
{
	atomic_fetch_add(&v->wake, 1);
	/* It says that it is blocked before it looks for causes, and at `wake`, for the last time. */
	switch (atomic_load(&v->blocked)) {
	case VCPU_SLEEPS:
		(void)syscall(SYS_futex, &v->wake, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
		break;
	case VCPU_LEADS:
		listener_ring(&v->vm->listener);
		break;
	}
}

void vcpu_request(struct soft_vcpu *v, uint32_t request)
{
	uint32_t old = atomic_fetch_or(&v->requests, request);

	if ((old & request) == request)
		return;
	engine_vcpu_kick(v->cpu, ENGINE_KICK_EXIT);
	vcpu_wake(v);
}

/* The guest takes it only when the request is served: one that came later would end a halt for nothing. */
void vcpu_queue_nmi(struct soft_vcpu *v)
{
	engine_vcpu_queue_nmi(v->cpu);
	vcpu_request(v, REQ_NMI);
}

void vcpu_attention(struct soft_vcpu *v)
{
	/* INIT and SIPI do not wait until the guest allows interrupts. */
	if (__atomic_load_n(&v->lapic.events, __ATOMIC_SEQ_CST))
		vcpu_request(v, REQ_CPU);
	else if (!v->posting)
		vcpu_request(v, REQ_EVENT);
	engine_vcpu_kick(v->cpu, ENGINE_KICK_INTR);
	vcpu_wake(v);
}
