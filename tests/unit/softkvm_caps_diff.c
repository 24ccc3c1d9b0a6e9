/* SPDX-License-Identifier: MIT
 * What newer VMMs, and the kernel's own tests of KVM, ask for beyond the basics:
 * the same calls and small guests on the kernel and on softkvm. What the kernel
 * of the reference machine cannot do, or only hardware does there, is tried on
 * softkvm alone.
 */
#include "../lib/check.h"
#include "../lib/pair_guest.h"
#include "softkvm/uapi.h"
#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define BAD_PTR ((void *)8)

/* ---- memory slots with room for a guest_memfd ------------------------------------------ */

static void script_slots2(struct side *s, uint64_t seed)
{
	struct kvm_userspace_memory_region2 r = {
		.memory_size = 0x8000, .userspace_addr = (uintptr_t)s->mem, .guest_memfd = UINT32_MAX,
	};

	say_result(s, "cap", side_ioctl_val(s, s->vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY2));
	vm_do(s, KVM_SET_USER_MEMORY_REGION2, BAD_PTR);
	vm_do(s, KVM_SET_USER_MEMORY_REGION2, &r);
	vm_do(s, KVM_SET_USER_MEMORY_REGION2, &r);
	r.flags = 1u << 7;
	vm_do(s, KVM_SET_USER_MEMORY_REGION2, &r);
	r.flags = 0;
	r.slot = 1;
	vm_do(s, KVM_SET_USER_MEMORY_REGION2, &r);
	r.slot = 0;
	r.guest_phys_addr = 0x1000;
	vm_do(s, KVM_SET_USER_MEMORY_REGION2, &r);
	r.memory_size = 0;
	vm_do(s, KVM_SET_USER_MEMORY_REGION2, &r);
	vm_do(s, KVM_SET_USER_MEMORY_REGION2, &r);
}

/* ---- EOIs that user space hears of ------------------------------------------------------- */

/* gsi 3 is a level of the split IOAPIC, vector 51h of vCPU i, which has it in service. */
static void level_in_service(struct side *s, unsigned i)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e;
	} routes = {
		{ .nr = 1 },
		{ .gsi = 3, .type = KVM_IRQ_ROUTING_MSI,
		  .u.msi = { .address_lo = 0xfee00000 | i << 12, .data = 0xc051 /* level, vector 51h */ } },
	};
	struct kvm_lapic_state l;

	assert_int_equal(side_ioctl(s, s->vm, KVM_SET_GSI_ROUTING, &routes), 0);
	assert_int_equal(side_ioctl(s, s->vcpu[i], KVM_GET_LAPIC, &l), 0);
	store_le32(l.regs + 0x120, BIT(0x51 % 32)); /* in service */
	store_le32(l.regs + 0x1a0, BIT(0x51 % 32)); /* for a level */
	assert_int_equal(side_ioctl(s, s->vcpu[i], KVM_SET_LAPIC, &l), 0);
}

/*
 * An EOI that goes to user space does so before the guest's next instruction: kvm_run has one place
 * for the vector and for the answer to an MSR. (The reference kernel keeps no vector in service.)
 */
static void eoi_exits_come_before_the_next_msr(void **state)
{
	/* Behind STI or MOV SS, which hold interrupts back, or not: EOI; mov $0xdeadbeef,%ecx; rdmsr; out */
#define RDMSR_OUT 0x66, 0xb9, 0xef, 0xbe, 0xad, 0xde, 0x0f, 0x32, 0x66, 0xe7, 0x80
#define XAPIC_EOI 0x67, 0x66, 0xc7, 0x05, 0xb0, 0x00, 0xe0, 0xfe, 0x00, 0x00, 0x00, 0x00
#define REGISTERS 0x66, 0xb9, 0x0b, 0x08, 0x00, 0x00, 0x66, 0x31, 0xc0, 0x66, 0x31, 0xd2
	static const struct {
		bool x2apic;
		uint8_t code[32];
	} guests[] = {
		{ false, { XAPIC_EOI, RDMSR_OUT } },
		{ false, { 0xfb, XAPIC_EOI, RDMSR_OUT } },
		{ false, { 0x8e, 0xd0, XAPIC_EOI, RDMSR_OUT } },
		{ true, { REGISTERS, 0x0f, 0x30, RDMSR_OUT } },
		{ true, { REGISTERS, 0xfb, 0x0f, 0x30, RDMSR_OUT } },
		{ true, { REGISTERS, 0x8e, 0xd0, 0x0f, 0x30, RDMSR_OUT } },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(guests); i++) {
		struct kvm_sregs sr;
		struct side s;

		side_begin(&s, true);
		vm_enable(&s, KVM_CAP_SPLIT_IRQCHIP, 24);
		vm_enable(&s, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_UNKNOWN);
		side_add_vcpu(&s, 0, 0);
		map_memory(&s, 0);
		level_in_service(&s, 0);
		load(&s, guests[i].code, sizeof(guests[i].code), 2);
		assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_GET_SREGS, &sr), 0);
		sr.ds.limit = 0xffffffff;
		sr.ds.g = 1;
		if (guests[i].x2apic)
			sr.apic_base |= 0xc00;
		assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_SET_SREGS, &sr), 0);
		run_once(&s);
		assert_int_equal(s.run[0]->exit_reason, KVM_EXIT_IOAPIC_EOI);
		assert_int_equal(s.run[0]->eoi.vector, 0x51);
		run_once(&s);
		assert_int_equal(s.run[0]->exit_reason, KVM_EXIT_X86_RDMSR);
		run_once(&s);
		assert_int_equal(s.run[0]->exit_reason, KVM_EXIT_IO);
		assert_int_equal(load_le32((uint8_t *)s.run[0] + s.run[0]->io.data_offset), 0xdeadbef0);
		side_end(&s);
	}
}

/* A vCPU that waits for INIT and SIPI owes an EOI: user space hears of it when it runs. */
static void an_eoi_exit_waits_for_the_vcpu(void **state)
{
	struct kvm_mp_state waiting = { .mp_state = KVM_MP_STATE_UNINITIALIZED };
	static const uint8_t out[] = { 0xe6, 0x80 };
	struct kvm_msi init = { .address_lo = 0xfee01000, .data = 0x500 };
	struct kvm_msi sipi = { .address_lo = 0xfee01000, .data = 0x600 | CODE >> 12 };
	struct kvm_sregs sr;
	struct side s;

	side_begin(&s, true);
	vm_enable(&s, KVM_CAP_SPLIT_IRQCHIP, 24);
	side_add_vcpu(&s, 0, 0);
	side_add_vcpu(&s, 1, 1);
	map_memory(&s, 0);
	memcpy(s.mem + CODE, out, sizeof(out));
	level_in_service(&s, 1);
	assert_int_equal(side_ioctl(&s, s.vcpu[1], KVM_GET_SREGS, &sr), 0);
	sr.apic_base |= 0xc00;
	assert_int_equal(side_ioctl(&s, s.vcpu[1], KVM_SET_SREGS, &sr), 0);
	/* run once, so that it is known which EOIs are wanted */
	assert_int_equal(side_ioctl(&s, s.vcpu[1], KVM_SET_MP_STATE, &(struct kvm_mp_state){ 0 }), 0);
	assert_int_equal(side_ioctl_val(&s, s.vcpu[1], KVM_RUN, 0), 0);
	assert_int_equal(side_ioctl(&s, s.vcpu[1], KVM_SET_MP_STATE, &waiting), 0);
	assert_int_equal(side_set_msr(&s, 1, 0x80b, 0), 1);
	assert_true(side_ioctl(&s, s.vm, KVM_SIGNAL_MSI, &init) > 0);
	assert_int_equal(side_ioctl_val(&s, s.vcpu[1], KVM_RUN, 0), -EAGAIN);
	assert_true(side_ioctl(&s, s.vm, KVM_SIGNAL_MSI, &sipi) > 0);
	assert_int_equal(side_ioctl_val(&s, s.vcpu[1], KVM_RUN, 0), 0);
	assert_int_equal(s.run[1]->exit_reason, KVM_EXIT_IOAPIC_EOI);
	assert_int_equal(s.run[1]->eoi.vector, 0x51);
	assert_int_equal(side_ioctl_val(&s, s.vcpu[1], KVM_RUN, 0), 0);
	assert_int_equal(s.run[1]->exit_reason, KVM_EXIT_IO);
	assert_int_equal(s.run[1]->io.port, 0x80);
	side_end(&s);
}

/* ---- attributes --------------------------------------------------------------------------- */

static void script_attributes(struct side *s, uint64_t seed)
{
	struct kvm_device_attr a = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = 8 };
	uint64_t offset = 12345;

	say_result(s, "cap", side_ioctl_val(s, s->vm, KVM_CHECK_EXTENSION, KVM_CAP_VCPU_ATTRIBUTES));
	say_result(s, "cap", side_ioctl_val(s, s->vm, KVM_CHECK_EXTENSION, KVM_CAP_SYS_ATTRIBUTES));
	side_add_vcpu(s, 0, 0);
	cpu_do(s, 0, KVM_HAS_DEVICE_ATTR, &a);
	cpu_do(s, 0, KVM_GET_DEVICE_ATTR, &a);
	cpu_do(s, 0, KVM_SET_DEVICE_ATTR, &a);
	cpu_do(s, 0, KVM_SET_DEVICE_ATTR, BAD_PTR);
	a.addr = (uintptr_t)&offset;
	cpu_do(s, 0, KVM_SET_DEVICE_ATTR, &a);
	a.attr = 1;
	cpu_do(s, 0, KVM_HAS_DEVICE_ATTR, &a);
	cpu_do(s, 0, KVM_GET_DEVICE_ATTR, &a);
	a.group = 1;
	cpu_do(s, 0, KVM_SET_DEVICE_ATTR, &a);
	a = (struct kvm_device_attr){ .attr = KVM_X86_XCOMP_GUEST_SUPP, .addr = 8 };
	say_result(s, "has", side_ioctl(s, s->sys, KVM_HAS_DEVICE_ATTR, &a));
	say_result(s, "get", side_ioctl(s, s->sys, KVM_GET_DEVICE_ATTR, &a));
	a.attr = 1;
	say_result(s, "has", side_ioctl(s, s->sys, KVM_HAS_DEVICE_ATTR, &a));
	say_result(s, "get", side_ioctl(s, s->sys, KVM_GET_DEVICE_ATTR, &a));
	a.group = 7;
	say_result(s, "has", side_ioctl(s, s->sys, KVM_HAS_DEVICE_ATTR, &a));
}

/* ---- registers in kvm_run ----------------------------------------------------------------------- */

static void run_synced(struct side *s, uint64_t valid, uint64_t dirty)
{
	struct kvm_run *run = s->run[0];

	run->kvm_valid_regs = valid;
	run->kvm_dirty_regs = dirty;
	say(s, "valid %llx dirty %llx", (unsigned long long)valid, (unsigned long long)dirty);
	if (!run_once(s))
		say(s, "exit %u", run->exit_reason);
	say(s, "left %llx, rbx %llx rip %llx cr2 %llx injected %u", (unsigned long long)run->kvm_dirty_regs,
	    run->s.regs.regs.rbx, run->s.regs.regs.rip, run->s.regs.sregs.cr2,
	    run->s.regs.events.exception.injected);
	run->kvm_valid_regs = run->kvm_dirty_regs = 0;
	say_regs(s);
}

static void script_sync_regs(struct side *s, uint64_t seed)
{
	const uint64_t all = KVM_SYNC_X86_VALID_FIELDS;
	struct kvm_run *run;
	struct kvm_regs r;

	say_result(s, "cap", side_ioctl_val(s, s->vm, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS));
	side_add_vcpu(s, 0, 0);
	run = s->run[0];
	map_memory(s, 0);
	LOAD(s, 2, 0xec, 0x43, 0xeb, 0xfc); /* 1: in %dx,%al; inc %bx; jmp 1b */
	run_synced(s, 0, 0);
	run_synced(s, 1u << 31, 0);
	run_synced(s, 1u << 31 | all, 0);
	run_synced(s, 0, 1u << 31);
	run_synced(s, 1u << 31, all);
	run_synced(s, all, 0);
	assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_GET_REGS, &r), 0);
	say(s, "same registers: %d", !memcmp(&r, &run->s.regs.regs, sizeof(r)));
	run->s.regs.regs.rbx = 0x1111;
	run->s.regs.sregs.cr2 = 0x2222;
	run_synced(s, all, KVM_SYNC_X86_REGS);
	run->s.regs.regs.rbx = 0x3333;
	run->s.regs.sregs.cr2 = 0x4444;
	run_synced(s, 0, KVM_SYNC_X86_SREGS);
	run_synced(s, all, 0);
	/* What cannot be stops it; what came before has been taken. */
	run->s.regs.regs.rbx = 0x5555;
	run->s.regs.sregs.cr0 = 0x80000010;
	run->s.regs.events.exception.nr = 77;
	run->s.regs.events.exception.injected = 1;
	run_synced(s, 0, all);
	run_synced(s, KVM_SYNC_X86_SREGS, 0);
	run_synced(s, 0, KVM_SYNC_X86_EVENTS);
	/* Pending without a payload is nothing. */
	run->s.regs.events.exception.injected = 0;
	run->s.regs.events.exception.pending = 1;
	run_synced(s, all, KVM_SYNC_X86_EVENTS);
	/* An access in flight is finished first, where it was. */
	run->immediate_exit = 1;
	run_synced(s, all, 0);
	say(s, "reason stays: %u", run->exit_reason);
	run->immediate_exit = 0;
	run_synced(s, all, 0);
}

/* Another thread may write the registers while they are read: nothing worse than EINVAL comes of it. */
static void *scribble(void *arg)
{
	struct kvm_run *run = arg;

	for (unsigned i = 0; i < 200000; i++) {
		__atomic_store_n(&run->kvm_dirty_regs, i % 8, __ATOMIC_RELAXED);
		__atomic_store_n(&run->s.regs.sregs.cr4, i % 2 ? 0 : 0x20, __ATOMIC_RELAXED);
		__atomic_store_n(&run->s.regs.sregs.efer, i % 3 ? 0x500 : 0, __ATOMIC_RELAXED);
		__atomic_store_n(&run->s.regs.events.exception.nr, (uint8_t)i, __ATOMIC_RELAXED);
		__atomic_store_n(&run->s.regs.events.exception.injected, i % 5 == 0, __ATOMIC_RELAXED);
		__atomic_store_n(&run->s.regs.events.flags, 0, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void registers_may_change_under_it(void **state)
{
	struct kvm_translation tr = { 0 };
	pthread_t t;
	struct side s;

	side_begin(&s, true);
	side_add_vcpu(&s, 0, 0);
	map_memory(&s, 0);
	LOAD(&s, 2, 0xec, 0x43, 0xeb, 0xfc);
	s.run[0]->kvm_valid_regs = KVM_SYNC_X86_VALID_FIELDS;
	assert_int_equal(side_ioctl_val(&s, s.vcpu[0], KVM_RUN, 0), 0);
	s.run[0]->kvm_valid_regs = 0;
	assert_int_equal(pthread_create(&t, NULL, scribble, s.run[0]), 0);
	for (unsigned i = 0; i < 3000; i++) {
		int r = side_ioctl_val(&s, s.vcpu[0], KVM_RUN, 0);

		assert_true(r == 0 || r == -EINVAL);
		assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_TRANSLATE, &tr), 0);
	}
	pthread_join(t, NULL);
	side_end(&s);
}

/* ---- the rest ----------------------------------------------------------------------------------------- */

static void script_boot_cpu(struct side *s, uint64_t seed)
{
	int max = side_ioctl_val(s, s->vm, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPU_ID);

	vm_do_val(s, KVM_SET_BOOT_CPU_ID, (unsigned long)max + 1);
	vm_do_val(s, KVM_SET_BOOT_CPU_ID, (unsigned long)max);
	vm_do_val(s, KVM_SET_BOOT_CPU_ID, 1ul << 32);
	vm_do_val(s, KVM_SET_BOOT_CPU_ID, 3);
	vm_enable(s, KVM_CAP_MAX_VCPU_ID, 2);
	vm_enable(s, KVM_CAP_MAX_VCPU_ID, 4);
	vm_do_val(s, KVM_SET_BOOT_CPU_ID, 5);
	vm_do_val(s, KVM_SET_BOOT_CPU_ID, 4);
	side_add_vcpu(s, 0, 0);
	vm_do_val(s, KVM_SET_BOOT_CPU_ID, 0);
}

static void script_bus_cycle(struct side *s, uint64_t seed)
{
	vm_enable(s, KVM_CAP_X86_APIC_BUS_CYCLES_NS, 10);
	vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	vm_enable(s, KVM_CAP_X86_APIC_BUS_CYCLES_NS, 0);
	vm_enable(s, KVM_CAP_X86_APIC_BUS_CYCLES_NS, 1ull << 25);
	vm_enable(s, KVM_CAP_X86_APIC_BUS_CYCLES_NS, UINT64_MAX);
	vm_enable(s, KVM_CAP_X86_APIC_BUS_CYCLES_NS, 1ull << 24);
	vm_enable(s, KVM_CAP_X86_APIC_BUS_CYCLES_NS, 40);
	side_add_vcpu(s, 0, 0);
	vm_enable(s, KVM_CAP_X86_APIC_BUS_CYCLES_NS, 10);
}

/* The steal time's version changes with every entry, and is even outside. */
static void script_steal(struct side *s, uint64_t seed)
{
	uint32_t last = 0, version;

	side_add_vcpu(s, 0, 0);
	map_memory(s, 0);
	memset(s->mem + 0x6000, 0, 64);
	say(s, "set: %d", side_set_msr(s, 0, 0x4b564d03, 0x6001));
	LOAD(s, 2, 0xec, 0xeb, 0xfd);
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(side_ioctl_val(s, s->vcpu[0], KVM_RUN, 0), 0);
		version = load_le32(s->mem + 0x6008);
		say(s, "even %d, another %d", !(version & 1), version != last);
		last = version;
	}
}

/* KVM_CAP_X2APIC_API counts from when it is switched on, for vCPUs that are there too. */
static void script_x2apic_api(struct side *s, uint64_t seed)
{
	struct kvm_lapic_state l;

	vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	for (unsigned i = 0; i < 3; i++) {
		side_add_vcpu(s, i, i);
		say(s, "x2apic: %d", side_set_msr(s, i, 0x1b, 0xfee00c00));
	}
	for (unsigned k = 0; k < 2; k++) {
		for (unsigned i = 0; i < 3; i++) {
			assert_int_equal(side_ioctl(s, s->vcpu[i], KVM_GET_LAPIC, &l), 0);
			say(s, "id %x", load_le32(l.regs + 0x20));
			cpu_do(s, i, KVM_SET_LAPIC, &l);
		}
		vm_enable(s, KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS);
	}
}

/* VMCALL of a guest whose processor is AMD's: KVM's quirk, and without. (The reference machine has none.) */
static void hypercalls_are_the_vendors(void **state)
{
	for (unsigned keep = 0; keep < 2; keep++) {
		struct side s;

		side_begin(&s, true);
		side_add_vcpu(&s, 0, 0);
		map_memory(&s, 0);
		assert_true(side_ioctl_val(&s, s.vm, KVM_CHECK_EXTENSION, KVM_CAP_DISABLE_QUIRKS2) &
			    KVM_X86_QUIRK_FIX_HYPERCALL_INSN);
		if (keep)
			vm_enable(&s, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_FIX_HYPERCALL_INSN);
		store_le32(s.mem + 6 * 4, 0x2000); /* #UD: out %al,$0x81 */
		store_le16(s.mem + 0x2000, 0x81e6);
		/* mov $KVM_HC_VAPIC_POLL_IRQ,%eax; vmcall; out %al,$0x80 */
		LOAD(&s, 2, 0x66, 0xb8, 1, 0, 0, 0, 0x0f, 0x01, 0xc1, 0xe6, 0x80);
		run_once(&s);
		assert_int_equal(s.run[0]->exit_reason, KVM_EXIT_IO);
		assert_int_equal(s.run[0]->io.port, keep ? 0x81 : 0x80);
		assert_int_equal(*((uint8_t *)s.run[0] + s.run[0]->io.data_offset), keep);
		assert_int_equal(s.mem[CODE + 8], keep ? 0xc1 : 0xd9);
		side_end(&s);
	}
}

/* Thousands of slots, made and taken away in a mixed order, hold what they held. */
static void many_slots(void **state)
{
	const unsigned n = 2000;
	struct kvm_userspace_memory_region r = { .memory_size = 0x1000 };
	struct side s;

	side_begin(&s, true);
	side_add_vcpu(&s, 0, 0);
	for (unsigned i = 0; i < n; i++) {
		r.slot = i * 7 % n;
		r.guest_phys_addr = (uint64_t)(r.slot * 11 % n) * 0x2000;
		r.userspace_addr = (uintptr_t)s.mem + r.slot % 16 * 0x1000;
		assert_int_equal(side_ioctl(&s, s.vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
	}
	r.slot = n;
	r.guest_phys_addr = 0x2000;
	assert_int_equal(side_ioctl(&s, s.vm, KVM_SET_USER_MEMORY_REGION, &r), -EEXIST);
	r.guest_phys_addr = 0x1000;
	assert_int_equal(side_ioctl(&s, s.vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
	r.memory_size = 0;
	assert_int_equal(side_ioctl(&s, s.vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
	/* Slot k × 11 mod n is at page 2 k: take away every third. */
	for (unsigned i = 0; i < n; i += 3) {
		r.slot = i;
		assert_int_equal(side_ioctl(&s, s.vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
	}
	for (unsigned i = 0; i < 16; i++)
		s.mem[i * 0x1000 + 0x100] = (uint8_t)(0x40 + i);
	/* Slot 0, gone, was at 0; move another one there and run in it. */
	r = (struct kvm_userspace_memory_region){
		.slot = 1, .memory_size = 0x1000, .userspace_addr = (uintptr_t)s.mem + 0x1000,
		.guest_phys_addr = 0x1000,
	};
	assert_int_equal(side_ioctl(&s, s.vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
	LOAD(&s, 2, 0xb8, 0x00, 0x02, 0x8e, 0xd8, 0xa0, 0x00, 0x01, /* %ds = 0x200; mov 0x100,%al */
	     0xe6, 0x80, 0xa0, 0x00, 0x21, 0xe6, 0x81, 0xf4);
	run_once(&s); /* slot at 0x2000: s × 11 = 1 mod 2000 */
	assert_int_equal(s.run[0]->exit_reason, KVM_EXIT_IO);
	assert_int_equal(s.run[0]->io.port, 0x80);
	assert_int_equal(*((uint8_t *)s.run[0] + s.run[0]->io.data_offset), 0x40 + 1091 % 16);
	run_once(&s); /* slot at 0x4000: s × 11 = 2 mod 2000 */
	assert_int_equal(s.run[0]->exit_reason, KVM_EXIT_IO);
	assert_int_equal(s.run[0]->io.port, 0x81);
	assert_int_equal(*((uint8_t *)s.run[0] + s.run[0]->io.data_offset), 0x40 + 182 % 16);
	side_end(&s);
}

/* The guest's code is no longer memory: an error that user space sees, not a failed call. */
static void script_no_code(struct side *s, uint64_t seed)
{
	struct kvm_userspace_memory_region r = { 0 };

	side_add_vcpu(s, 0, 0);
	map_memory(s, 0);
	LOAD(s, 2, 0xec, 0xeb, 0xfd);
	run_once(s);
	vm_do(s, KVM_SET_USER_MEMORY_REGION, &r);
	run_once(s);
	say(s, "suberror %u", s->run[0]->internal.suberror);
}

static void script_immediate(struct side *s, uint64_t seed)
{
	side_add_vcpu(s, 0, 0);
	map_memory(s, 0);
	LOAD(s, 2, 0xec, 0xeb, 0xfd);
	run_once(s);
	for (unsigned i = 0; i < 2; i++) {
		s->run[0]->immediate_exit = 1;
		run_once(s);
		say(s, "reason %u", s->run[0]->exit_reason);
		s->run[0]->immediate_exit = 0;
		run_once(s);
		say(s, "reason %u", s->run[0]->exit_reason);
	}
}

#ifndef __SANITIZE_THREAD__ /* it allows no threads in a forked child */
/* A child opens KVM for itself; its parent's objects are not its own. */
static void script_fork(struct side *s, uint64_t seed)
{
	int status, fds[2];
	pid_t pid;

	side_add_vcpu(s, 0, 0);
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		struct kvm_mp_state mp;
		int r[5], vm;

		r[0] = side_ioctl_val(s, s->vm, KVM_CREATE_VCPU, 1);
		r[1] = side_ioctl(s, s->vcpu[0], KVM_GET_MP_STATE, &mp);
		vm = side_ioctl_val(s, s->sys, KVM_CREATE_VM, 0);
		r[2] = MIN(vm, 0);
		r[3] = side_ioctl_val(s, vm, KVM_CREATE_IRQCHIP, 0);
		r[4] = MIN(side_ioctl_val(s, vm, KVM_CREATE_VCPU, 1), 0);
		_exit(write(fds[1], r, sizeof(r)) != sizeof(r));
	}
	close(fds[1]);
	for (unsigned i = 0; i < 5; i++) {
		int r = 1;

		assert_int_equal(read(fds[0], &r, sizeof(r)), sizeof(r));
		say_result(s, "in the child", r);
	}
	close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	say(s, "status %x", status);
	cpu_do(s, 0, KVM_GET_MP_STATE, &(struct kvm_mp_state){ 0 });
}

#endif

static const struct pair_script scripts[] = {
	{ "slots2", script_slots2 }, { "attributes", script_attributes },
	{ "sync regs", script_sync_regs },
	{ "boot cpu", script_boot_cpu },
	{ "bus cycle", script_bus_cycle }, { "x2apic api", script_x2apic_api },
	{ "steal", script_steal }, { "no code", script_no_code },
	{ "immediate", script_immediate },
#ifndef __SANITIZE_THREAD__
	{ "fork", script_fork },
#endif
};

/* An argument picks tests by name (* and ? match). */
int main(int argc, char **argv)
{
	const struct CMUnitTest alone[] = {
		cmocka_unit_test(eoi_exits_come_before_the_next_msr),
		cmocka_unit_test(an_eoi_exit_waits_for_the_vcpu),
		cmocka_unit_test(hypercalls_are_the_vendors),
		cmocka_unit_test(many_slots),
		cmocka_unit_test(registers_may_change_under_it),
	};

	return kvm_pair_main(argc, argv, scripts, ARRAY_SIZE(scripts), alone, ARRAY_SIZE(alone));
}
