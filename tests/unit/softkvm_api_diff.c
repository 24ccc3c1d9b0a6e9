/* SPDX-License-Identifier: MIT
 * softkvm against the kernel, system and VM: the same sequences of legal and illegal
 * calls, the same answers and resulting state. Skipped, with the reason, where there
 * is no /dev/kvm. Agreed differences are not called here; docs/SOFTKVM.md lists
 * them with their reasons. vCPUs have softkvm_vcpu_diff.c, random sequences tests/diff
 * (docs/DIFF.md).
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
	say_result(s, "map a VM", s->api.ops->mmap(s->api.ctx, s->vm, 4096, 0, &p));
	side_add_vcpu(s, 0, 0);
	say_result(s, "vcpu unknown", side_ioctl_val(s, s->vcpu[0], _IO(KVMIO, 0xfe), 0));
	say_result(s, "vcpu other type", side_ioctl_val(s, s->vcpu[0], 0x5413, 0));
	say_result(s, "vcpu check cap", side_ioctl_val(s, s->vcpu[0], KVM_CHECK_EXTENSION, 0));
	say_result(s, "vcpu irqfd", side_ioctl(s, s->vcpu[0], KVM_IRQFD, BAD_PTR));
	say_result(s, "run arg", side_ioctl_val(s, s->vcpu[0], KVM_RUN, 1));
}

/* What both say that they can do must be the same number. (The reference machine has no TSC scaling.) */
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
		KVM_CAP_MSI_DEVID, KVM_CAP_S390_IRQCHIP,
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

static void script_enable(struct side *s, uint64_t seed)
{
	struct kvm_irqfd fd = { .fd = 999 };
	struct kvm_enable_cap flag = { .cap = KVM_CAP_SPLIT_IRQCHIP, .flags = 1, .args = { 24 } };

	vm_do(s, KVM_ENABLE_CAP, &flag);
	vm_enable(s, 9999, 0);
	vm_enable(s, KVM_CAP_SPLIT_IRQCHIP, 5000);
	vm_enable(s, KVM_CAP_SPLIT_IRQCHIP, 24);
	vm_enable(s, KVM_CAP_SPLIT_IRQCHIP, 24);
	vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	say_chips(s);
	vm_do(s, KVM_CREATE_PIT2, &(struct kvm_pit_config){ 0 });
	vm_do(s, KVM_IRQFD, &fd);
	fd.flags = KVM_IRQFD_FLAG_RESAMPLE;
	vm_do(s, KVM_IRQFD, &fd);
	vm_enable(s, KVM_CAP_X2APIC_API, 1u << 20);
	vm_enable(s, KVM_CAP_X2APIC_API, 3);
	vm_enable(s, KVM_CAP_X86_DISABLE_EXITS, 1ull << 40);
	vm_enable(s, KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_PAUSE);
	vm_enable(s, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 2);
	vm_enable(s, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 4);
	vm_enable(s, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3);
	vm_enable(s, KVM_CAP_MAX_VCPU_ID, 0);
	vm_enable(s, KVM_CAP_MAX_VCPU_ID, 100000);
	vm_enable(s, KVM_CAP_MAX_VCPU_ID, 2);
	vm_enable(s, KVM_CAP_MAX_VCPU_ID, 3);
	side_add_vcpu(s, 0, 0);
	side_add_vcpu(s, 1, 1);
	side_add_vcpu(s, 2, 2);
	vm_enable(s, KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_PAUSE);
	side_new_vm(s);
	side_add_vcpu(s, 0, 0);
	vm_enable(s, KVM_CAP_SPLIT_IRQCHIP, 24);
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
	vm_enable(s, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3);
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
	for (unsigned i = 0; i < 60000 && !in_irr(s, cpu, vector); i++)
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

/* ---- clock, PIT, filter, statistics -------------------------------------------------------- */

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

static const struct pair_script scripts[] = {
	{ "system", script_system }, { "caps", script_caps }, { "fds", script_fds },
	{ "create", script_create }, { "enable", script_enable }, { "slots", script_slots },
	{ "msi", script_msi, 5 }, { "irqfd", script_irqfd }, { "irqfd pins", script_irqfd_pins },
	{ "coalesced", script_coalesced }, { "clock", script_clock }, { "pit", script_pit, 2 },
	{ "filter", script_filter }, { "stats", script_stats },
};

int main(int argc, char **argv)
{
	return kvm_pair_main(argc, argv, scripts, ARRAY_SIZE(scripts), NULL, 0);
}
