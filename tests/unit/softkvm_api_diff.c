/* SPDX-License-Identifier: MIT
 * softkvm against the kernel: the same sequences of legal and illegal calls,
 * the same answers and resulting state. Skipped, with the reason, where there
 * is no /dev/kvm. Agreed differences are not called here; docs/SOFTKVM.md lists
 * them with their reasons. Random sequences are tests/diff's (docs/DIFF.md).
 */
#include "../lib/check.h"
#include "../lib/kvm_pair.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define BAD_PTR ((void *)8)

/* ---- system and fds ------------------------------------------------------------- */

static void script_system(struct side *s, uint64_t seed)
{
	struct kvm_msr_list l = { 0 };
	struct kvm_cpuid2 c = { 0 };
	void *p;

	say_result(s, "version", side_ioctl_val(s, s->sys, KVM_GET_API_VERSION, 0));
	say_result(s, "version arg", side_ioctl_val(s, s->sys, KVM_GET_API_VERSION, 1));
	say_result(s, "mmap size", side_ioctl_val(s, s->sys, KVM_GET_VCPU_MMAP_SIZE, 0));
	say_result(s, "mmap size arg", side_ioctl_val(s, s->sys, KVM_GET_VCPU_MMAP_SIZE, 1));
	say_result(s, "vm type", side_ioctl_val(s, s->sys, KVM_CREATE_VM, 77));
	say_result(s, "unknown", side_ioctl_val(s, s->sys, _IO(KVMIO, 0xfe), 0));
	say_result(s, "other type", side_ioctl_val(s, s->sys, 0x5413, 0));
	say_result(s, "run on system", side_ioctl_val(s, s->sys, KVM_RUN, 0));
	say_result(s, "vm ioctl on system", side_ioctl(s, s->sys, KVM_SET_USER_MEMORY_REGION, BAD_PTR));
	say_result(s, "msr list null", side_ioctl(s, s->sys, KVM_GET_MSR_INDEX_LIST, NULL));
	say_result(s, "msr list small", side_ioctl(s, s->sys, KVM_GET_MSR_INDEX_LIST, &l));
	l.nmsrs = 0;
	say_result(s, "feature list small", side_ioctl(s, s->sys, KVM_GET_MSR_FEATURE_INDEX_LIST, &l));
	say_result(s, "cpuid small", side_ioctl(s, s->sys, KVM_GET_SUPPORTED_CPUID, &c));
	say_result(s, "cpuid null", side_ioctl(s, s->sys, KVM_GET_SUPPORTED_CPUID, NULL));
	say_result(s, "no cap", side_ioctl_val(s, s->sys, KVM_CHECK_EXTENSION, 9999));
	say_result(s, "vm unknown", side_ioctl_val(s, s->vm, _IO(KVMIO, 0xfe), 0));
	say_result(s, "vm other type", side_ioctl_val(s, s->vm, 0x5413, 0));
	say_result(s, "vm run", side_ioctl_val(s, s->vm, KVM_RUN, 0));
	say_result(s, "vm create vm", side_ioctl_val(s, s->vm, KVM_CREATE_VM, 0));
	say_result(s, "closed fd", side_ioctl_val(s, 999, KVM_RUN, 0));
	say_result(s, "fd -1", side_ioctl_val(s, -1, KVM_RUN, 0));
	say_result(s, "close -1", s->api.ops->close(s->api.ctx, -1));
	say_result(s, "map a VM", s->api.ops->mmap(s->api.ctx, s->vm, 4096, &p));
	side_add_vcpu(s, 0, 0);
	say_result(s, "vcpu unknown", side_ioctl_val(s, s->vcpu[0], _IO(KVMIO, 0xfe), 0));
	say_result(s, "vcpu other type", side_ioctl_val(s, s->vcpu[0], 0x5413, 0));
	say_result(s, "vcpu check cap", side_ioctl_val(s, s->vcpu[0], KVM_CHECK_EXTENSION, 0));
	say_result(s, "vcpu irqfd", side_ioctl(s, s->vcpu[0], KVM_IRQFD, BAD_PTR));
	say_result(s, "run arg", side_ioctl_val(s, s->vcpu[0], KVM_RUN, 1));
}

/* What both say that they can do must be the same number. */
static void script_caps(struct side *s, uint64_t seed)
{
	static const unsigned same[] = {
		KVM_CAP_IRQCHIP, KVM_CAP_HLT, KVM_CAP_USER_MEMORY, KVM_CAP_SET_TSS_ADDR,
		KVM_CAP_EXT_CPUID, KVM_CAP_CLOCKSOURCE, KVM_CAP_NR_MEMSLOTS, KVM_CAP_PIT,
		KVM_CAP_MP_STATE, KVM_CAP_COALESCED_MMIO, KVM_CAP_SYNC_MMU, KVM_CAP_USER_NMI,
		KVM_CAP_SET_GUEST_DEBUG, KVM_CAP_SET_GUEST_DEBUG2, KVM_CAP_REINJECT_CONTROL, KVM_CAP_IRQ_ROUTING,
		KVM_CAP_IRQ_INJECT_STATUS, KVM_CAP_MCE, KVM_CAP_IRQFD, KVM_CAP_PIT2,
		KVM_CAP_SET_BOOT_CPU_ID, KVM_CAP_PIT_STATE2, KVM_CAP_IOEVENTFD,
		KVM_CAP_SET_IDENTITY_MAP_ADDR, KVM_CAP_ADJUST_CLOCK, KVM_CAP_VCPU_EVENTS,
		KVM_CAP_DEBUGREGS, KVM_CAP_XSAVE, KVM_CAP_XCRS, KVM_CAP_GET_TSC_KHZ,
		KVM_CAP_TSC_DEADLINE_TIMER, KVM_CAP_KVMCLOCK_CTRL, KVM_CAP_SIGNAL_MSI,
		KVM_CAP_READONLY_MEM, KVM_CAP_IRQFD_RESAMPLE, KVM_CAP_IOEVENTFD_NO_LENGTH,
		KVM_CAP_CHECK_EXTENSION_VM, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_IOEVENTFD_ANY_LENGTH,
		KVM_CAP_MAX_VCPU_ID, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_X86_DISABLE_EXITS,
		KVM_CAP_COALESCED_PIO, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_X86_MSR_FILTER,
		KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_BINARY_STATS_FD, KVM_CAP_XSAVE2,
		KVM_CAP_NESTED_STATE, KVM_CAP_MSI_DEVID, KVM_CAP_TSC_CONTROL, KVM_CAP_S390_IRQCHIP,
		KVM_CAP_X86_TRIPLE_FAULT_EVENT,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(same); i++)
		say(s, "cap %u: %d %d", same[i],
		    side_ioctl_val(s, s->sys, KVM_CHECK_EXTENSION, same[i]),
		    side_ioctl_val(s, s->vm, KVM_CHECK_EXTENSION, same[i]));
}

static void script_fds(struct side *s, uint64_t seed)
{
	int copy, old = s->vm;

	side_add_vcpu(s, 0, 0);
	copy = dup(s->vm);
	assert_true(copy >= 0);
	say_result(s, "on the copy", side_ioctl_val(s, copy, KVM_CHECK_EXTENSION, KVM_CAP_IRQFD));
	say_result(s, "close", s->api.ops->close(s->api.ctx, s->vm));
	say_result(s, "on the closed", side_ioctl_val(s, old, KVM_CHECK_EXTENSION, KVM_CAP_IRQFD));
	say_result(s, "still there", side_ioctl_val(s, copy, KVM_CREATE_VCPU, 0));
	say_result(s, "close the copy", s->api.ops->close(s->api.ctx, copy));
	say_result(s, "vcpu outlives it", side_ioctl(s, s->vcpu[0], KVM_GET_MP_STATE,
						      &(struct kvm_mp_state){ 0 }));
	s->vm = -1;
	side_new_vm(s);
}

/* ---- creation order --------------------------------------------------------------- */

static void script_create(struct side *s, uint64_t seed)
{
	struct kvm_pit_config pit = { 0 };
	struct kvm_irqchip chip = { .chip_id = 3 };
	struct kvm_pit_state2 ps;
	struct kvm_irq_level line = { .irq = 1, .level = 1 };
	struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x30 };
	struct kvm_irq_routing routing = { 0 };
	struct kvm_reinject_control rc = { .pit_reinject = 0 };
	uint64_t addr = 0xfffbc000;
	struct kvm_create_device dev = { .type = KVM_DEV_TYPE_ARM_VGIC_V2 };

	vm_do(s, KVM_IRQ_LINE, &line);
	vm_do(s, KVM_IRQ_LINE_STATUS, &line);
	vm_do(s, KVM_SIGNAL_MSI, &msi);
	vm_do(s, KVM_SET_GSI_ROUTING, &routing);
	vm_do(s, KVM_GET_IRQCHIP, &chip);
	vm_do(s, KVM_CREATE_PIT2, &pit);
	vm_do(s, KVM_GET_PIT2, &ps);
	vm_do(s, KVM_REINJECT_CONTROL, &rc);
	vm_do_val(s, KVM_SET_BOOT_CPU_ID, 0);
	vm_do_val(s, KVM_CREATE_VCPU, 1ul << 20);
	vm_do_val(s, KVM_CREATE_VCPU, 4096);
	vm_do(s, KVM_SET_IDENTITY_MAP_ADDR, &addr);
	vm_do(s, KVM_SET_IDENTITY_MAP_ADDR, BAD_PTR);
	vm_do_val(s, KVM_SET_TSS_ADDR, 0xfffbd000);
	vm_do_val(s, KVM_SET_TSS_ADDR, 0xffffe000);
	vm_do(s, KVM_CREATE_DEVICE, &dev);
	vm_do(s, KVM_CREATE_DEVICE, BAD_PTR);
	vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	say_chips(s);
	vm_do(s, KVM_GET_IRQCHIP, &chip);
	vm_do(s, KVM_SET_IRQCHIP, &chip);
	vm_do(s, KVM_GET_IRQCHIP, BAD_PTR);
	vm_do(s, KVM_GET_PIT2, &ps);
	vm_do(s, KVM_CREATE_PIT2, BAD_PTR);
	vm_do(s, KVM_CREATE_PIT2, &pit);
	vm_do(s, KVM_CREATE_PIT2, &pit);
	vm_do_val(s, KVM_CREATE_PIT, 0);
	vm_do(s, KVM_GET_PIT2, &ps);
	vm_do(s, KVM_REINJECT_CONTROL, &rc);
	side_add_vcpu(s, 0, 0);
	vm_do_val(s, KVM_CREATE_VCPU, 0);
	vm_do_val(s, KVM_SET_BOOT_CPU_ID, 0);
	vm_do(s, KVM_SET_IDENTITY_MAP_ADDR, &addr);
	side_add_vcpu(s, 1, 7);
	side_new_vm(s);
	side_add_vcpu(s, 0, 0);
	vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	vm_do(s, KVM_IRQ_LINE, &line);
}

static void enable(struct side *s, unsigned cap, uint64_t arg, uint32_t flags)
{
	struct kvm_enable_cap e = { .cap = cap, .flags = flags, .args = { arg } };

	say(s, "enable %u %#llx", cap, (unsigned long long)arg);
	vm_do(s, KVM_ENABLE_CAP, &e);
}

static void script_enable(struct side *s, uint64_t seed)
{
	struct kvm_irqfd fd = { .fd = 999 };

	enable(s, KVM_CAP_SPLIT_IRQCHIP, 24, 1);
	enable(s, 9999, 0, 0);
	enable(s, KVM_CAP_SPLIT_IRQCHIP, 5000, 0);
	enable(s, KVM_CAP_SPLIT_IRQCHIP, 24, 0);
	enable(s, KVM_CAP_SPLIT_IRQCHIP, 24, 0);
	vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	say_chips(s);
	vm_do(s, KVM_CREATE_PIT2, &(struct kvm_pit_config){ 0 });
	vm_do(s, KVM_IRQFD, &fd);
	fd.flags = KVM_IRQFD_FLAG_RESAMPLE;
	vm_do(s, KVM_IRQFD, &fd);
	enable(s, KVM_CAP_X2APIC_API, 1u << 20, 0);
	enable(s, KVM_CAP_X2APIC_API, 3, 0);
	enable(s, KVM_CAP_X86_DISABLE_EXITS, 1ull << 40, 0);
	enable(s, KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_PAUSE, 0);
	enable(s, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 2, 0);
	enable(s, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 4, 0);
	enable(s, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3, 0);
	enable(s, KVM_CAP_MAX_VCPU_ID, 0, 0);
	enable(s, KVM_CAP_MAX_VCPU_ID, 100000, 0);
	enable(s, KVM_CAP_MAX_VCPU_ID, 2, 0);
	enable(s, KVM_CAP_MAX_VCPU_ID, 3, 0);
	side_add_vcpu(s, 0, 0);
	side_add_vcpu(s, 1, 1);
	side_add_vcpu(s, 2, 2);
	enable(s, KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_PAUSE, 0);
	side_new_vm(s);
	side_add_vcpu(s, 0, 0);
	enable(s, KVM_CAP_SPLIT_IRQCHIP, 24, 0);
}

/* ---- memory ------------------------------------------------------------------------ */

static void slot(struct side *s, unsigned id, uint32_t flags, gpa_t gpa, uint64_t size, uint8_t *p)
{
	struct kvm_userspace_memory_region r = {
		.slot = id, .flags = flags, .guest_phys_addr = gpa, .memory_size = size,
		.userspace_addr = (uintptr_t)p,
	};

	vm_do(s, KVM_SET_USER_MEMORY_REGION, &r);
}

static void script_slots(struct side *s, uint64_t seed)
{
	uint64_t bits[4] = { 0 };
	struct kvm_dirty_log log = { .slot = 0, .dirty_bitmap = bits };
	struct kvm_clear_dirty_log clear = { .slot = 0, .num_pages = 16, .dirty_bitmap = bits };

	vm_do(s, KVM_SET_USER_MEMORY_REGION, BAD_PTR);
	slot(s, 0, 0, 0, 0, s->mem);
	slot(s, 0, 0, 0x100, 0x1000, s->mem);
	slot(s, 0, 0, 0, 0x1100, s->mem);
	slot(s, 0, 0, 0, 0x1000, s->mem + 1);
	slot(s, 0, 0x80, 0, 0x1000, s->mem);
	slot(s, 0, 0, 0, 0x1000, (uint8_t *)0xffff800000000000ull);
	slot(s, 40000, 0, 0, 0x1000, s->mem);
	slot(s, 32764, 0, 0, 0x1000, s->mem);
	slot(s, 32763, 0, 0, 0x1000, s->mem);
	slot(s, 32763, 0, 0, 0, s->mem);
	slot(s, 0x20000, 0, 0, 0x1000, s->mem);
	slot(s, 0, 0, 0xfffffffffffff000ull, 0x2000, s->mem);
	slot(s, 0, 0, 1ull << 53, 0x1000, s->mem);
	slot(s, 0, 0, 0, 0x8000, s->mem);
	slot(s, 0, 0, 0, 0x8000, s->mem);
	slot(s, 0, 0, 0, 0x4000, s->mem);
	slot(s, 0, 0, 0, 0x8000, s->mem + 0x1000);
	slot(s, 0, KVM_MEM_READONLY, 0, 0x8000, s->mem);
	slot(s, 1, 0, 0x7000, 0x1000, s->mem);
	slot(s, 1, 0, 0x8000, 0x8000, s->mem + 0x8000);
	slot(s, 1, 0, 0x1000, 0x8000, s->mem + 0x8000);
	slot(s, 1, 0, 0x10000, 0x8000, s->mem + 0x8000);
	vm_do(s, KVM_GET_DIRTY_LOG, &log);
	slot(s, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, 0x8000, s->mem);
	vm_do(s, KVM_GET_DIRTY_LOG, &log);
	say_hex(s, "bits", bits, 8);
	log.dirty_bitmap = BAD_PTR;
	vm_do(s, KVM_GET_DIRTY_LOG, &log);
	log.slot = 40000;
	vm_do(s, KVM_GET_DIRTY_LOG, &log);
	log.slot = 9;
	vm_do(s, KVM_GET_DIRTY_LOG, &log);
	vm_do(s, KVM_CLEAR_DIRTY_LOG, &clear);
	clear.num_pages = 8;
	vm_do(s, KVM_CLEAR_DIRTY_LOG, &clear);
	clear.first_page = 3;
	vm_do(s, KVM_CLEAR_DIRTY_LOG, &clear);
	clear.first_page = 64;
	vm_do(s, KVM_CLEAR_DIRTY_LOG, &clear);
	clear.first_page = 0;
	clear.num_pages = 5;
	vm_do(s, KVM_CLEAR_DIRTY_LOG, &clear);
	clear.slot = 1;
	vm_do(s, KVM_CLEAR_DIRTY_LOG, &clear);
	slot(s, 0, 0, 0, 0, s->mem);
	slot(s, 0, 0, 0, 0, s->mem);
	enable(s, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3, 0);
	slot(s, 3, KVM_MEM_LOG_DIRTY_PAGES, 0x100000, 0x8000, s->mem);
	log = (struct kvm_dirty_log){ .slot = 3, .dirty_bitmap = bits };
	vm_do(s, KVM_GET_DIRTY_LOG, &log);
	say_hex(s, "all dirty", bits, 8);
	clear = (struct kvm_clear_dirty_log){ .slot = 3, .num_pages = 8, .dirty_bitmap = bits };
	bits[0] = 0x0f;
	vm_do(s, KVM_CLEAR_DIRTY_LOG, &clear);
	vm_do(s, KVM_GET_DIRTY_LOG, &log);
	say_hex(s, "half", bits, 8);
}

/* ---- routes, lines, MSIs -------------------------------------------------------------- */

struct routing {
	struct kvm_irq_routing head;
	struct kvm_irq_routing_entry e[64];
};

static void set_routes(struct side *s, struct routing *r, unsigned nr)
{
	r->head.nr = nr;
	vm_do(s, KVM_SET_GSI_ROUTING, r);
}

static void script_msi(struct side *s, uint64_t seed)
{
	struct kvm_msi m = { .flags = 2 };

	vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	for (unsigned i = 0; i < 3; i++)
		side_add_vcpu(s, i, i);
	vm_do(s, KVM_SIGNAL_MSI, &m);
	vm_do(s, KVM_SIGNAL_MSI, BAD_PTR);
	for (unsigned i = 0; i < 120; i++) {
		uint64_t r = next_random(&seed);
		static const uint8_t modes[] = { 0, 0, 0, 0, 1, 1, 4, 3 };

		m = (struct kvm_msi){
			.address_lo = 0xfee00000 | (uint32_t)((r & 7) == 7 ? 0xff : r & 7) << 12 |
				      (r >> 4 & 1) << 2 | (r >> 5 & 1) << 3,
			.data = (uint32_t)(0x10 + (r >> 8) % 0xf0) | (uint32_t)modes[r >> 16 & 7] << 8 |
				(uint32_t)(r >> 20 & 1) << 15 | (uint32_t)(r >> 21 & 1) << 14,
		};
		say(s, "msi %08x %08x", m.address_lo, m.data);
		vm_do(s, KVM_SIGNAL_MSI, &m);
	}
	for (unsigned i = 0; i < 3; i++)
		say_lapic(s, i);
}

/* ---- eventfds ---------------------------------------------------------------------------- */

static void irqfd(struct side *s, int fd, unsigned gsi, uint32_t flags, int resample)
{
	struct kvm_irqfd a = { .fd = (uint32_t)fd, .gsi = gsi, .flags = flags,
			       .resamplefd = (uint32_t)resample };

	vm_do(s, KVM_IRQFD, &a);
}

static bool in_irr(struct side *s, unsigned cpu, unsigned vector)
{
	struct kvm_lapic_state l;

	assert_int_equal(side_ioctl(s, s->vcpu[cpu], KVM_GET_LAPIC, &l), 0);
	return load_le32(l.regs + 0x200 + vector / 32 * 16) >> vector % 32 & 1;
}

/* Delivery may be another thread's work: give it time. */
static void say_arrived(struct side *s, unsigned cpu, unsigned vector)
{
	for (unsigned i = 0; i < 2000 && !in_irr(s, cpu, vector); i++)
		usleep(1000);
	say(s, "vector %02x in IRR: %d", vector, in_irr(s, cpu, vector));
}

static uint64_t count_of(int fd)
{
	uint64_t n = 0;

	return read(fd, &n, 8) == 8 ? n : 0;
}

static void script_irqfd(struct side *s, uint64_t seed)
{
	int e = eventfd(0, EFD_NONBLOCK), f = eventfd(0, 0), pipefd[2], other;
	struct routing r = { 0 };
	int first = s->vm;

	assert_int_equal(pipe(pipefd), 0);
	irqfd(s, e, 24, 0, 0);
	vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	side_add_vcpu(s, 0, 0);
	for (unsigned i = 0; i < 4; i++) {
		r.e[i].gsi = 24 + i;
		r.e[i].type = KVM_IRQ_ROUTING_MSI;
		r.e[i].u.msi.address_lo = 0xfee00000;
		r.e[i].u.msi.data = 0x41 + i;
	}
	set_routes(s, &r, 4);
	vm_do(s, KVM_IRQFD, BAD_PTR);
	irqfd(s, e, 24, 0x10, 0);
	irqfd(s, 999, 24, 0, 0);
	irqfd(s, -1, 24, 0, 0);
	irqfd(s, pipefd[0], 24, 0, 0);
	irqfd(s, e, 24, KVM_IRQFD_FLAG_DEASSIGN, 0);
	irqfd(s, 999, 24, KVM_IRQFD_FLAG_DEASSIGN, 0);
	irqfd(s, pipefd[0], 24, KVM_IRQFD_FLAG_DEASSIGN, 0);
	irqfd(s, e, 24, KVM_IRQFD_FLAG_RESAMPLE, 999);
	irqfd(s, e, 24, KVM_IRQFD_FLAG_RESAMPLE, pipefd[0]);
	irqfd(s, e, 24, 0, 0);
	irqfd(s, e, 24, 0, 0);
	irqfd(s, e, 25, 0, 0);
	irqfd(s, f, 24, 0, 0);
	eventfd_write(e, 1);
	say_arrived(s, 0, 0x41);
	/* Signalled before it is bound: delivered at once. */
	irqfd(s, f, 24, KVM_IRQFD_FLAG_DEASSIGN, 0);
	eventfd_write(f, 3);
	irqfd(s, f, 26, 0, 0);
	say_arrived(s, 0, 0x43);
	/* Another VM may not have it. */
	other = side_ioctl_val(s, s->sys, KVM_CREATE_VM, 0);
	assert_true(other >= 0);
	s->vm = other;
	vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	irqfd(s, f, 26, 0, 0);
	irqfd(s, f, 26, KVM_IRQFD_FLAG_DEASSIGN, 0);
	s->vm = first;
	irqfd(s, f, 99, KVM_IRQFD_FLAG_DEASSIGN, 0);
	irqfd(s, f, 26, KVM_IRQFD_FLAG_DEASSIGN, 0);
	s->vm = other;
	irqfd(s, f, 26, 0, 0);
	s->vm = first;
	/* After the end of the binding the count stays. */
	irqfd(s, e, 24, KVM_IRQFD_FLAG_DEASSIGN, 0);
	eventfd_write(e, 5);
	usleep(20000);
	say(s, "count %llu", (unsigned long long)count_of(e));
	irqfd(s, e, 5000, 0, 0);
	say_result(s, "close other", s->api.ops->close(s->api.ctx, other));
	close(e);
	close(f);
	close(pipefd[0]);
	close(pipefd[1]);
}

static void script_irqfd_pins(struct side *s, uint64_t seed)
{
	int e = eventfd(0, EFD_NONBLOCK), rs = eventfd(0, EFD_NONBLOCK), sem = eventfd(3, EFD_SEMAPHORE);
	struct kvm_irqchip c = { .chip_id = KVM_IRQCHIP_IOAPIC };

	vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	side_add_vcpu(s, 0, 0);
	vm_do(s, KVM_GET_IRQCHIP, &c);
	c.chip.ioapic.redirtbl[20].bits = 0x54;
	c.chip.ioapic.redirtbl[21].bits = 0x55 | 1 << 15;
	vm_do(s, KVM_SET_IRQCHIP, &c);
	irqfd(s, e, 20, 0, 0);
	eventfd_write(e, 1);
	say_arrived(s, 0, 0x54);
	irqfd(s, sem, 21, KVM_IRQFD_FLAG_RESAMPLE, rs);
	say_arrived(s, 0, 0x55);
	usleep(20000);
	say_chips(s);
	say_lapic(s, 0);
	irqfd(s, sem, 21, KVM_IRQFD_FLAG_DEASSIGN, 0);
	say_chips(s);
	say(s, "resampled %llu", (unsigned long long)count_of(rs));
	irqfd(s, e, 20, KVM_IRQFD_FLAG_DEASSIGN, 0);
	close(e);
	close(rs);
	close(sem);
}

static void script_coalesced(struct side *s, uint64_t seed)
{
	struct kvm_coalesced_mmio_zone z = { .addr = 0x1000, .size = 0x10 };

	vm_do(s, KVM_REGISTER_COALESCED_MMIO, BAD_PTR);
	vm_do(s, KVM_REGISTER_COALESCED_MMIO, &z);
	vm_do(s, KVM_REGISTER_COALESCED_MMIO, &z);
	z.pio = 2;
	vm_do(s, KVM_REGISTER_COALESCED_MMIO, &z);
	vm_do(s, KVM_UNREGISTER_COALESCED_MMIO, &z);
	z.pio = 1;
	vm_do(s, KVM_REGISTER_COALESCED_MMIO, &z);
	vm_do(s, KVM_UNREGISTER_COALESCED_MMIO, &z);
	vm_do(s, KVM_UNREGISTER_COALESCED_MMIO, &z);
	for (unsigned i = 0; i < 1002; i++) {
		z = (struct kvm_coalesced_mmio_zone){ .addr = 0x100000 + i * 16, .size = 16 };
		say_result(s, "one of many", side_ioctl(s, s->vm, KVM_REGISTER_COALESCED_MMIO, &z));
	}
}

/* ---- vCPU state --------------------------------------------------------------------------- */

static void script_vcpu_state(struct side *s, uint64_t seed)
{
	struct kvm_regs r;
	struct kvm_sregs sr;
	struct kvm_xcrs x;
	struct kvm_debugregs d;
	struct kvm_vcpu_events ev;
	struct kvm_mp_state mp;
	struct kvm_fpu f;
	struct {
		struct kvm_signal_mask m;
		uint8_t set[8];
	} mask = { .m.len = 4 };
	struct kvm_interrupt irq = { .irq = 256 };

	if (seed)
		vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	side_add_vcpu(s, 0, 0);
	side_add_vcpu(s, 1, 1);
	cpu_do(s, 0, KVM_GET_REGS, &r);
	say(s, "rip %llx rflags %llx rax %llx rsp %llx", r.rip, r.rflags, r.rax, r.rsp);
	r.rip = 0x12345678;
	r.rflags = 0x202;
	r.r15 = 0x1122334455667788;
	cpu_do(s, 0, KVM_SET_REGS, &r);
	memset(&r, 0, sizeof(r));
	cpu_do(s, 0, KVM_GET_REGS, &r);
	say_hex(s, "regs", &r.r15, 24);
	cpu_do(s, 0, KVM_GET_REGS, BAD_PTR);
	cpu_do(s, 0, KVM_SET_REGS, BAD_PTR);

	cpu_do(s, 0, KVM_GET_SREGS, &sr);
	say_hex(s, "cs", &sr.cs, sizeof(sr.cs));
	say_hex(s, "ss", &sr.ss, sizeof(sr.ss));
	say_hex(s, "ldt", &sr.ldt, sizeof(sr.ldt));
	say_hex(s, "tr", &sr.tr, sizeof(sr.tr));
	say_hex(s, "gdt", &sr.gdt, 10);
	say(s, "cr0 %llx cr3 %llx cr4 %llx cr8 %llx efer %llx apic %llx", sr.cr0, sr.cr3, sr.cr4,
	    sr.cr8, sr.efer, sr.apic_base);
	sr.cs.base = 0x5000;
	sr.cs.selector = 0x500;
	cpu_do(s, 0, KVM_SET_SREGS, &sr);
	memset(&sr, 0, sizeof(sr));
	cpu_do(s, 0, KVM_GET_SREGS, &sr);
	say(s, "cs %llx %x", sr.cs.base, sr.cs.selector);
	sr.cr0 |= 1u << 31; /* PG without PE */
	sr.cr0 &= ~1ull;
	cpu_do(s, 0, KVM_SET_SREGS, &sr);
	sr.cr0 = 0x60000010;
	sr.efer = 0x400; /* LMA without LME */
	sr.cr0 |= 0x80000001;
	cpu_do(s, 0, KVM_SET_SREGS, &sr);

	cpu_do(s, 0, KVM_GET_FPU, &f);
	say(s, "fcw %x fsw %x ftw %x", f.fcw, f.fsw, f.ftwx);
	f.fcw = 0x27f;
	f.xmm[3][5] = 0x5a;
	f.fpr[2][1] = 7;
	cpu_do(s, 0, KVM_SET_FPU, &f);
	memset(&f, 0, sizeof(f));
	cpu_do(s, 0, KVM_GET_FPU, &f);
	say(s, "fcw %x xmm %x st %x", f.fcw, f.xmm[3][5], f.fpr[2][1]);

	cpu_do(s, 0, KVM_GET_DEBUGREGS, &d);
	say(s, "dr6 %llx dr7 %llx", d.dr6, d.dr7);
	d.flags = 1;
	cpu_do(s, 0, KVM_SET_DEBUGREGS, &d);
	d.flags = 0;
	d.dr7 = 1ull << 40;
	cpu_do(s, 0, KVM_SET_DEBUGREGS, &d);
	d.dr7 = 0x400;
	d.db[2] = 0x1000;
	cpu_do(s, 0, KVM_SET_DEBUGREGS, &d);
	memset(&d, 0, sizeof(d));
	cpu_do(s, 0, KVM_GET_DEBUGREGS, &d);
	say(s, "db2 %llx", d.db[2]);

	cpu_do(s, 0, KVM_GET_VCPU_EVENTS, &ev);
	ev.flags = 1u << 20;
	cpu_do(s, 0, KVM_SET_VCPU_EVENTS, &ev);
	ev.flags = 0;
	ev.exception.injected = 1;
	ev.exception.nr = 40;
	cpu_do(s, 0, KVM_SET_VCPU_EVENTS, &ev);
	ev.exception.nr = 2;
	cpu_do(s, 0, KVM_SET_VCPU_EVENTS, &ev);
	ev.exception.injected = 0;
	ev.nmi.masked = 1;
	cpu_do(s, 0, KVM_SET_VCPU_EVENTS, &ev);
	memset(&ev, 0, sizeof(ev));
	cpu_do(s, 0, KVM_GET_VCPU_EVENTS, &ev);
	say(s, "nmi masked %u injected %u", ev.nmi.masked, ev.interrupt.injected);
	/* Two NMIs can wait, one while one is handled. */
	for (unsigned i = 0; i < 8; i++) {
		ev.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
		ev.nmi.masked = i >= 4;
		ev.nmi.pending = (uint8_t)(i >= 6 ? 5 : 0);
		if (i % 2 == 0)
			cpu_do(s, 0, KVM_SET_VCPU_EVENTS, &ev);
		cpu_do(s, 0, KVM_NMI, NULL);
		cpu_do(s, 0, KVM_GET_VCPU_EVENTS, &ev);
		say(s, "nmi masked %u pending %u", ev.nmi.masked, ev.nmi.pending);
	}
	ev.nmi.masked = ev.nmi.pending = 0;
	cpu_do(s, 0, KVM_SET_VCPU_EVENTS, &ev);

	for (unsigned i = 0; i < 32; i++) {
		struct kvm_guest_debug dbg = { .control = (i & 1 ? 0 : KVM_GUESTDBG_ENABLE) | 1u << i };

		if (dbg.control & (KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP))
			continue;
		cpu_do(s, 0, KVM_SET_GUEST_DEBUG, &dbg);
	}
	memset(&d, 0, sizeof(d));
	cpu_do(s, 0, KVM_SET_GUEST_DEBUG, &(struct kvm_guest_debug){ 0 });

	cpu_do(s, 0, KVM_GET_MP_STATE, &mp);
	say(s, "mp %u", mp.mp_state);
	cpu_do(s, 1, KVM_GET_MP_STATE, &mp);
	say(s, "mp %u", mp.mp_state);
	for (unsigned i = 0; i < 12; i++) {
		mp.mp_state = i;
		if (i == KVM_MP_STATE_AP_RESET_HOLD || i == KVM_MP_STATE_SIPI_RECEIVED)
			continue;
		cpu_do(s, 1, KVM_SET_MP_STATE, &mp);
		cpu_do(s, 1, KVM_GET_MP_STATE, &mp);
		say(s, "mp %u", mp.mp_state);
	}

	memset(&x, 0, sizeof(x));
	x.nr_xcrs = 99;
	cpu_do(s, 0, KVM_SET_XCRS, &x);

	cpu_do(s, 0, KVM_SET_SIGNAL_MASK, &mask);
	cpu_do(s, 0, KVM_SET_SIGNAL_MASK, NULL);
	mask.m.len = 8;
	cpu_do(s, 0, KVM_SET_SIGNAL_MASK, &mask);
	cpu_do(s, 0, KVM_SET_SIGNAL_MASK, BAD_PTR);

	cpu_do(s, 0, KVM_INTERRUPT, &irq);
	irq.irq = 0x40;
	cpu_do(s, 0, KVM_INTERRUPT, &irq);
	cpu_do(s, 0, KVM_NMI, NULL);
	cpu_do(s, 0, KVM_KVMCLOCK_CTRL, NULL);
	s->run[0]->immediate_exit = 1;
	say_result(s, "run", side_ioctl_val(s, s->vcpu[0], KVM_RUN, 0));
	say(s, "exit reason %u", s->run[0]->exit_reason);
	s->run[1]->immediate_exit = 1;
	mp.mp_state = KVM_MP_STATE_RUNNABLE;
	cpu_do(s, 1, KVM_SET_MP_STATE, &mp);
	say_result(s, "run", side_ioctl_val(s, s->vcpu[1], KVM_RUN, 0));
}

static void script_lapic(struct side *s, uint64_t seed)
{
	struct kvm_lapic_state l;
	struct kvm_sregs sr;

	side_add_vcpu(s, 0, 0);
	cpu_do(s, 0, KVM_GET_LAPIC, &l);
	side_new_vm(s);
	vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	side_add_vcpu(s, 0, 0);
	side_add_vcpu(s, 1, 1);
	say_lapic(s, 0);
	say_lapic(s, 1);
	cpu_do(s, 0, KVM_GET_LAPIC, &l);
	for (unsigned i = 0; i < 8; i++)
		store_le32(l.regs + 0x200 + i * 16, (uint32_t)next_random(&seed) & ~(i ? 0 : 0xffffu));
	store_le32(l.regs + 0x80, 0x35);
	store_le32(l.regs + 0xd0, 0x01000000);
	cpu_do(s, 0, KVM_SET_LAPIC, &l);
	say_lapic(s, 0);
	cpu_do(s, 0, KVM_GET_SREGS, &sr);
	say(s, "cr8 %llx base %llx", sr.cr8, sr.apic_base);
	sr.apic_base |= 1 << 10;
	cpu_do(s, 0, KVM_SET_SREGS, &sr);
	say_lapic(s, 0);
	sr.apic_base = 1ull << 60 | 0xfee00900;
	cpu_do(s, 0, KVM_SET_SREGS, &sr);
	sr.apic_base = 0xfee00500;
	cpu_do(s, 0, KVM_SET_SREGS, &sr);
}

static void one_msr(struct side *s, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[1];
	} m = { .head.nmsrs = 1 };

	m.e[0].index = index;
	m.e[0].data = value;
	say(s, "msr %x := %llx", index, (unsigned long long)value);
	cpu_do(s, 0, KVM_SET_MSRS, &m);
	m.e[0].data = 0xdead;
	cpu_do(s, 0, KVM_GET_MSRS, &m);
	say(s, "msr %x = %llx", index, (unsigned long long)m.e[0].data);
}

static void script_msrs(struct side *s, uint64_t seed)
{
	static const struct { uint32_t index; uint64_t value; } t[] = {
		{ 0x1b, 0xfee00900 }, { 0x1b, 0xfee00500 }, { 0x8b, 0x1234500000000ull }, { 0xfe, 0x508 },
		{ 0xfe, 0x509 }, { 0x277, 0x0007040600070406ull },
		{ 0x17a, 4 }, { 0x179, 10 }, { 0x3b, 0 }, { 0x1a0, 1 }, { 0xce, 0x80000000 },
		{ 0xc0000080, 0 }, { 0xc0000080, 1 }, { 0xc0000080, 1ull << 40 }, { 0xc0000081, 0x55 },
		{ 0xc0000082, 0xffffffff81000000ull }, { 0xc0000084, 0x47700 }, { 0xc0000102, 0x7fff0000 },
		{ 0x174, 0x10 }, { 0x175, 0x1000 }, { 0x176, 0x2000 },
		{ 0x4b564d03, 2 }, { 0x4b564d04, 2 }, { 0x4b564d05, 2 },
		{ 0x4b564d05, 0 }, { 0x4b564d01, 0 }, { 0x12, 0 }, { 0x11, 0 }, { 0x4b564d99, 0 },
		{ 0x12345678, 0 }, { 0x802, 0 }, { 0x400, 0 }, { 0x400, 5 }, { 0x401, 0 },
		{ 0x2ff, 0xc06 }, { 0x200, 6 }, { 0x250, 0x0606060606060606ull },
		{ 0x79, 1 }, { 0xc1, 0 }, { 0x1d9, 0 },
	};
	struct kvm_msrs big = { .nmsrs = 257 };

	if (seed)
		vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	side_add_vcpu(s, 0, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		one_msr(s, t[i].index, t[i].value);
	cpu_do(s, 0, KVM_GET_MSRS, &big);
	cpu_do(s, 0, KVM_SET_MSRS, BAD_PTR);
}

static void script_cpuid(struct side *s, uint64_t seed)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 e[64];
	} c = { .head.nent = 300 };

	side_add_vcpu(s, 0, 0);
	cpu_do(s, 0, KVM_SET_CPUID2, &c);
	cpu_do(s, 0, KVM_SET_CPUID2, BAD_PTR);
	c.head.nent = 2;
	cpu_do(s, 0, KVM_GET_CPUID2, &c);
	/* What it gives back is not compared: kvm_pvm adds leaves and features of its own. */
	c.head.nent = ARRAY_SIZE(c.e);
	cpu_do(s, 0, KVM_GET_CPUID2, &c);
	c.head.nent = 1;
	c.e[0] = (struct kvm_cpuid_entry2){ .function = 0x80000008, .eax = 0x2c28 };
	cpu_do(s, 0, KVM_SET_CPUID2, &c);
	c.e[0].eax = 0x3028;
	cpu_do(s, 0, KVM_SET_CPUID2, &c);
}

static void script_clock(struct side *s, uint64_t seed)
{
	struct kvm_clock_data c = { .flags = 1 };

	vm_do(s, KVM_SET_CLOCK, &c);
	vm_do(s, KVM_GET_CLOCK, BAD_PTR);
	c = (struct kvm_clock_data){ .clock = 5ull * NSEC_PER_SEC * 1000 };
	vm_do(s, KVM_SET_CLOCK, &c);
	vm_do(s, KVM_GET_CLOCK, &c);
	say(s, "about %llu s", (unsigned long long)(c.clock / NSEC_PER_SEC / 100));
}

static void script_pit(struct side *s, uint64_t seed)
{
	struct kvm_pit_config pc = { .flags = KVM_PIT_SPEAKER_DUMMY };
	struct kvm_pit_state2 p;

	vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	vm_do(s, KVM_CREATE_PIT2, &pc);
	for (unsigned i = 0; i < 20; i++) {
		memset(&p, 0, sizeof(p));
		for (unsigned c = 0; c < 3; c++) {
			uint64_t r = next_random(&seed);

			p.channels[c].count = (uint32_t)(r & 0xffff) + 1;
			p.channels[c].mode = (r >> 16) % 6;
			p.channels[c].rw_mode = (r >> 20 & 3);
			p.channels[c].gate = r >> 24 & 1;
			p.channels[c].bcd = r >> 25 & 1;
		}
		vm_do(s, KVM_SET_PIT2, &p);
		vm_do(s, KVM_GET_PIT2, &p);
		for (unsigned c = 0; c < 3; c++) {
			p.channels[c].count_load_time = 0;
			say_hex(s, "channel", &p.channels[c], sizeof(p.channels[c]));
		}
		say(s, "flags %x", p.flags);
	}
}

static void script_filter(struct side *s, uint64_t seed)
{
	uint8_t bits[8] = { 0 };
	struct kvm_msr_filter f = { .flags = 4 };

	vm_do(s, KVM_X86_SET_MSR_FILTER, BAD_PTR);
	vm_do(s, KVM_X86_SET_MSR_FILTER, &f);
	f.flags = KVM_MSR_FILTER_DEFAULT_DENY;
	vm_do(s, KVM_X86_SET_MSR_FILTER, &f);
	f.ranges[0] = (struct kvm_msr_filter_range){ .flags = 3, .nmsrs = 64, .base = 0x10, .bitmap = bits };
	vm_do(s, KVM_X86_SET_MSR_FILTER, &f);
	f.ranges[0].bitmap = BAD_PTR;
	vm_do(s, KVM_X86_SET_MSR_FILTER, &f);
	f.ranges[0].bitmap = bits;
	f.ranges[0].flags = 8;
	vm_do(s, KVM_X86_SET_MSR_FILTER, &f);
	f.ranges[0].flags = 0;
	vm_do(s, KVM_X86_SET_MSR_FILTER, &f);
	f.ranges[0].flags = 1;
	f.ranges[0].nmsrs = 1u << 20;
	vm_do(s, KVM_X86_SET_MSR_FILTER, &f);
}

static void script_stats(struct side *s, uint64_t seed)
{
	struct kvm_stats_header h;
	struct {
		struct kvm_stats_desc d;
		char name[48];
	} d;
	int fd[2];

	side_add_vcpu(s, 0, 0);
	fd[0] = side_ioctl_val(s, s->vm, KVM_GET_STATS_FD, 0);
	fd[1] = side_ioctl_val(s, s->vcpu[0], KVM_GET_STATS_FD, 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_true(fd[i] >= 0);
		say_result(s, "read", read(fd[i], &h, sizeof(h)));
		say(s, "flags %u name %u id at %u desc at %u", h.flags, h.name_size, h.id_offset,
		    h.desc_offset);
		say(s, "write fails: %d", write(fd[i], &h, 1) < 0);
		say(s, "has data: %d", h.num_desc > 0 && h.data_offset >= h.desc_offset + h.num_desc * 64);
		say_result(s, "pread", pread(fd[i], &d, sizeof(d), h.desc_offset));
		say(s, "name ends: %d size %u", memchr(d.name, 0, 48) != NULL, d.d.size);
		say_result(s, "ioctl on it", side_ioctl_val(s, fd[i], KVM_RUN, 0));
		close(fd[i]);
	}
}

/* ---- the list --------------------------------------------------------------------------------- */

static const struct script {
	const char *name;
	void (*run)(struct side *s, uint64_t seed);
	unsigned seeds; /* how many runs, with seeds from 1; 0: once with 0 and once with 1 */
} scripts[] = {
	{ "system", script_system, 1 }, { "caps", script_caps, 1 }, { "fds", script_fds, 1 },
	{ "create", script_create, 1 }, { "enable", script_enable, 1 }, { "slots", script_slots, 1 },
	{ "msi", script_msi, 6 },
	{ "irqfd", script_irqfd, 1 }, { "irqfd pins", script_irqfd_pins, 1 },
	{ "coalesced", script_coalesced, 1 },
	{ "vcpu state", script_vcpu_state, 0 }, { "lapic", script_lapic, 3 },
	{ "msrs", script_msrs, 0 }, { "cpuid", script_cpuid, 1 }, { "clock", script_clock, 1 },
	{ "pit", script_pit, 2 }, { "filter", script_filter, 1 }, { "stats", script_stats, 1 },
};

static void test_script(void **state)
{
	const struct script *s = *state;

	if (!kvm_pair_possible())
		skip();
	if (!s->seeds) {
		kvm_pair_run(s->name, s->run, 0);
		kvm_pair_run(s->name, s->run, 1);
	}
	for (unsigned i = 1; i <= s->seeds; i++)
		kvm_pair_run(s->name, s->run, i * 0x9e3779b97f4a7c15ull);
}

/* An argument picks scripts by name (* and ? match). */
int main(int argc, char **argv)
{
	struct CMUnitTest tests[ARRAY_SIZE(scripts)];

	for (unsigned i = 0; i < ARRAY_SIZE(scripts); i++)
		tests[i] = (struct CMUnitTest){
			.name = scripts[i].name, .test_func = test_script,
			.initial_state = (void *)&scripts[i],
		};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return RUN(tests);
}
