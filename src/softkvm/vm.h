/* SPDX-License-Identifier: MIT
 * A VM. Lock order (docs/SOFTKVM.md), outermost first:
 *   vm->lock, vcpu->lock, irqfd_lock, mem.lock, bus_lock, ctx->irqfd_lock,
 *   map_lock | pulse_lock, resample_lock, pit lock, chips.lock, timers.lock, ring_lock, tsc.lock
 * Those left of the bar may be held over grace_wait() and loop_call(); those
 * right of it are taken by readers and by the waiter and may not.
 */
#ifndef BELFRY_SOFTKVM_VM_H
#define BELFRY_SOFTKVM_VM_H

#include "engine/engine.h"
#include "irqchip/irqchip.h"
#include "softkvm/iobus.h"
#include "softkvm/listen.h"
#include "softkvm/memslot.h"
#include "softkvm/route.h"
#include "softkvm/softkvm_priv.h"
#include "softkvm/stats.h"
#include "softkvm/timer.h"

struct soft_vcpu;
struct soft_ioeventfd;
struct coalesced_zone;
struct soft_resampler;
struct soft_pit;

enum irqchip_mode { IRQCHIP_NONE, IRQCHIP_KERNEL, IRQCHIP_SPLIT };

struct soft_chips {
	pthread_mutex_t lock;
	struct i8259 pic;
	struct ioapic ioapic;
	struct iobus_device pic_dev[3]; /* 20h, a0h, 4d0h */
	struct iobus_device ioapic_dev;
	uint32_t rescan; /* atomic: an entry was written, EOI sets are stale */
	struct soft_timer delayed; /* the IOAPIC's put-off delivery */
};

/* What the vCPUs' TSCs have in common: vcpu_tsc.c. */
struct tsc_sync {
	pthread_mutex_t lock;
	bool known;	      /* the rest says something */
	bool user_set;	      /* user space has written one */
	uint64_t offset;      /* that of all that are in step */
	uint64_t last_offset; /* the newest one set */
	uint64_t write;	      /* the newest value written, */
	uint64_t write_tsc;   /* at this time of the host's TSC, */
	uint32_t khz;	      /* for a counter of this rate */
};

struct soft_vm {
	struct soft_file file;
	struct softkvm *ctx;		/* (o) */
	pthread_mutex_t lock;		/* creation of chips and vCPUs, capabilities, routes */
	struct grace grace;
	struct engine_vm *engine;	/* (o) */
	struct memslots mem;

	pthread_mutex_t bus_lock;	/* changes of pio and mmio, the two lists */
	struct iobus pio, mmio, ccw;	/* ccw: nobody writes there (ioeventfd.c) */
	struct soft_ioeventfd *ioeventfds;
	struct coalesced_zone *zones;
	int ring_fd;			/* memfd of the coalesced ring */
	struct kvm_coalesced_mmio_ring *ring;
	pthread_mutex_t ring_lock;

	_Atomic int irqchip;		/* enum irqchip_mode; set once under lock */
	unsigned split_pins;		/* IRQCHIP_SPLIT: gsis whose EOIs go to user space */
	struct soft_chips chips;
	struct soft_pit *pit;		/* NULL until KVM_CREATE_PIT2; set once under lock */
	struct route_table *_Atomic routes;
	pthread_mutex_t pulse_lock;	/* an irqfd's edge, up and down */
	pthread_mutex_t irqfd_lock;	/* binding and unbinding irqfds */
	pthread_mutex_t resample_lock;
	struct soft_resampler *resamplers;
	struct loop *waiter;		/* timers, and the listener's; its thread: vm_start_waiter() */
	struct listener listener;	/* irqfds */
	struct vm_timers timers;
	struct soft_timer nudge;	/* signal.c; only under the thread sanitizer */

	pthread_mutex_t map_lock;	/* rebuilding the map */
	struct lapic_map *_Atomic map;
	struct lapic *lapics[SOFT_MAX_VCPUS]; /* by index; published with nr_vcpus */
	struct soft_vcpu *vcpus[SOFT_MAX_VCPUS];
	_Atomic unsigned nr_vcpus;
	unsigned max_vcpu_id;		/* KVM_CAP_MAX_VCPU_ID narrows it */
	bool max_vcpu_id_set;
	uint32_t bsp_id;
	_Atomic int nmi_watchdogs;	/* local APICs with LINT0 in NMI mode */

	/* Capabilities switched on; lock, read relaxed. */
	uint64_t disabled_quirks;
	uint32_t disabled_exits;
	uint32_t x2apic_flags;
	uint64_t bus_cycle_ns;		/* KVM_CAP_X86_APIC_BUS_CYCLES_NS */
	bool hide_platform_info;	/* KVM_CAP_MSR_PLATFORM_INFO: the guest cannot read it */
	uint32_t msr_exits;		/* KVM_CAP_X86_USER_SPACE_MSR: KVM_MSR_EXIT_REASON_* */
	bool triple_fault_event;
	bool exception_payload;		/* KVM_CAP_EXCEPTION_PAYLOAD */
	uint32_t dirty_ring_bytes;	/* KVM_CAP_DIRTY_LOG_RING: of each vCPU; 0: none */
	uint64_t nr_mmu_pages;
	uint64_t tss_addr, identity_addr;
	struct msr_filter *_Atomic msr_filter;

	/* The clock: kvmclock = host ns + offset. */
	int64_t clock_offset;		/* atomic */
	uint32_t tsc_khz;		/* (o) the host's */
	uint32_t default_tsc_khz;
	struct tsc_sync tsc;
	gpa_t wall_clock;

	struct soft_stats stats;
};

static inline enum irqchip_mode vm_irqchip(struct soft_vm *vm)
{
	return (enum irqchip_mode)atomic_load_explicit(&vm->irqchip, memory_order_acquire);
}

/* What KVM_CAP_DISABLE_QUIRKS may disable. */
#define SOFT_QUIRKS (KVM_X86_QUIRK_LINT0_REENABLED | KVM_X86_QUIRK_LAPIC_MMIO_HOLE | KVM_X86_QUIRK_FIX_HYPERCALL_INSN)

static inline bool vm_quirk(const struct soft_vm *vm, uint64_t quirk)
{
	return !(READ_ONCE(((struct soft_vm *)vm)->disabled_quirks) & quirk);
}

/* The VM of a file of kind SOFT_VM. */
static inline struct soft_vm *file_vm(struct soft_file *f)
{
	return container_of(f, struct soft_vm, file);
}

/* api_vm.c */
extern const struct soft_file_ops vm_file_ops;
/* signal.c: the nudge fires */
void signals_nudge(struct soft_timer *t);
/* vm.c */
void vm_closed(struct soft_file *f);
void vm_release(struct soft_file *f);
int vm_enable_capability(struct soft_vm *vm, const struct kvm_enable_cap *cap);
/*
 * Let the waiter's thread run from now on to the VM's release, if it does not yet: when the VM is
 * made or, with late_thread, gets its first vCPU. -EAGAIN.
 */
int vm_start_waiter(struct soft_vm *vm) __must_check;
/* vcpu.c: KVM_CREATE_VCPU. Returns the fd. */
int vcpu_create_fd(struct soft_vm *vm, unsigned long id);

/* Rebuild the destination map after an APIC's ID, mode or enable changed. */
void vm_rebuild_map(struct soft_vm *vm);
/* Deliver to all that match; the tri-state. Any thread. */
int vm_deliver(struct soft_vm *vm, struct lapic *src, const struct irq_message *msg,
	       struct ioapic_rtc *rtc);
/* Make every vCPU do something before it enters the guest again (REQ_*). */
void vm_request_all(struct soft_vm *vm, uint32_t request);

#endif
