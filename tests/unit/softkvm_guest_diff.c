/* SPDX-License-Identifier: MIT
 * Small real-mode guests on the kernel's KVM and on softkvm: the same exits, in
 * the same order, with the same data, and the same state after. A guest is a
 * few bytes at 1000h in a slot of 64 KiB at 0.
 */
#include "../lib/check.h"
#include "../lib/pair_guest.h"
#include "../lib/process.h"
#include "base/thread.h"
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void script_ports(struct side *s, uint64_t seed)
{
	side_add_vcpu(s, 0, 0);
	map_memory(s, 0);
	memcpy(s->mem + 0x3000, "abcdef", 6);
	LOAD(s, 2, 0xba, 0xf8, 0x03,	   /* mov $0x3f8,%dx */
	     0xb0, 0x41, 0xee,		   /* out %al,%dx */
	     0xb8, 0x34, 0x12, 0xef,	   /* out %ax,%dx */
	     0xe4, 0x60, 0xe6, 0x80,	   /* in $0x60,%al; out %al,$0x80 */
	     0x66, 0xed, 0x66, 0xef,	   /* in %dx,%eax; out %eax,%dx */
	     0xb9, 0x03, 0x00, 0xbe, 0x00, 0x30, 0xfc, 0xf3, 0x6e, /* rep outsb */
	     0xb9, 0x02, 0x00, 0xbf, 0x00, 0x31, 0xf3, 0x6d,	   /* rep insw */
	     0xf4);
	run_to_end(s);
	say_hex(s, "read in", s->mem + 0x3100, 6);
}

/* REP INS asks for many units at once. change: RCX at the first exit, 0: as it is. */
static void input(struct side *s, uint64_t change)
{
	struct kvm_run *run = s->run[0];
	struct kvm_regs r;
	uint32_t sum = 0;

	for (unsigned n = 0; n < 40 && !side_ioctl_val(s, s->vcpu[0], KVM_RUN, 0); n++) {
		uint8_t *data = (uint8_t *)run + run->io.data_offset;

		if (run->exit_reason == KVM_EXIT_MMIO)
			say(s, "mmio %llx %u: %x", run->mmio.phys_addr, run->mmio.len, run->mmio.data[0]);
		if (run->exit_reason == KVM_EXIT_MMIO)
			continue;
		if (run->exit_reason != KVM_EXIT_IO)
			break;
		assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_GET_REGS, &r), 0);
		say(s, "port %x in %d: %u units of %u, rcx %llx rdi %llx", run->io.port,
		    run->io.direction == KVM_EXIT_IO_IN, run->io.count, run->io.size, r.rcx, r.rdi);
		for (unsigned i = 0; i < run->io.count * run->io.size; i++)
			data[i] = (uint8_t)(i * 7 + n);
		if (change) {
			r.rcx = change;
			change = 0;
			assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_SET_REGS, &r), 0);
		}
	}
	for (unsigned i = 0x3000; i < 0x8000; i++)
		sum = sum * 31 + s->mem[i];
	say(s, "memory %x", sum);
	say_regs(s);
}

static void script_ins(struct side *s, uint64_t seed)
{
	side_add_vcpu(s, 0, 0);
	map_memory(s, 0);
	memset(s->mem + 0x3000, 0, 0x5000);
	LOAD(s, 2, 0xba, 0x80, 0x00, 0xb9, 0xb8, 0x0b, 0xbf, 0x00, 0x38, 0xfc, 0xf3, 0x6c, /* 3000 bytes */
	     0xb9, 0xbc, 0x02, 0xbf, 0xff, 0x4f, 0xf3, 0x6d, /* 700 words, one across two pages */
	     0xb9, 0x2c, 0x01, 0xbf, 0x00, 0x71, 0xfd, 0xf3, 0x66, 0x6d, /* 300 long words, downwards */
	     0xb9, 0x00, 0x00, 0xf3, 0x6c, 0x6c, 0xf4); /* none; one without REP */
	input(s, 0);
	for (unsigned to = 1; to < 4; to += 2) { /* fewer than were asked for */
		LOAD(s, 2, 0xba, 0x80, 0x00, 0xb9, 0x04, 0x00, 0xbf, 0x00, 0x38, 0xfc, 0xf3, 0x6c, 0xf3, 0x6c,
		     0xb9, 0x02, 0x00, 0xf3, 0x6c, 0xf4);
		input(s, to);
	}
}

/* To a device: each unit is read once and written once. The reference machine reads some again. */
static void ins_to_a_device(void **state)
{
	struct side s;

	side_begin(&s, true);
	side_add_vcpu(&s, 0, 0);
	map_memory(&s, 0);
	LOAD(&s, 2, 0xb8, 0x00, 0x20, 0x8e, 0xc0, 0xba, 0x80, 0x00, 0xb9, 0x03, 0x00, 0xbf, 0x10, 0x00, 0xfc,
	     0xf3, 0x6c, 0xf4); /* %es = 0x2000 */
	assert_int_equal(side_ioctl_val(&s, s.vcpu[0], KVM_RUN, 0), 0);
	assert_int_equal(s.run[0]->exit_reason, KVM_EXIT_IO);
	assert_int_equal(s.run[0]->io.count, 3);
	memcpy((uint8_t *)s.run[0] + s.run[0]->io.data_offset, "abc", 3);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(side_ioctl_val(&s, s.vcpu[0], KVM_RUN, 0), 0);
		assert_int_equal(s.run[0]->exit_reason, KVM_EXIT_MMIO);
		assert_int_equal(s.run[0]->mmio.phys_addr, 0x20010 + i);
		assert_int_equal(s.run[0]->mmio.data[0], 'a' + i);
	}
	assert_int_equal(side_ioctl_val(&s, s.vcpu[0], KVM_RUN, 0), 0);
	assert_int_equal(s.run[0]->exit_reason, KVM_EXIT_HLT);
	side_end(&s);
}

static void script_mmio(struct side *s, uint64_t seed)
{
	side_add_vcpu(s, 0, 0);
	map_memory(s, 0);
	LOAD(s, 2, 0xb8, 0x00, 0x20, 0x8e, 0xd8,   /* mov $0x2000,%ax; mov %ax,%ds */
	     0xc7, 0x06, 0x10, 0x00, 0xef, 0xbe,   /* movw $0xbeef,0x10 */
	     0xa0, 0x20, 0x00, 0xa2, 0x21, 0x00,   /* mov 0x20,%al; mov %al,0x21 */
	     0x66, 0xa1, 0x30, 0x00, 0x66, 0xa3, 0x34, 0x00,
	     0x83, 0x06, 0x40, 0x00, 0x01,	   /* addw $1,0x40: read, then write */
	     0xf4);
	run_to_end(s);
}

static void script_readonly(struct side *s, uint64_t seed)
{
	side_add_vcpu(s, 0, 0);
	map_memory(s, KVM_MEM_READONLY);
	s->mem[0x4000] = 0x77;
	LOAD(s, 2, 0xa0, 0x00, 0x40, 0xfe, 0xc0, 0xa2, 0x00, 0x40, /* mov 0x4000,%al; inc; mov back */
	     0xa0, 0x00, 0x40, 0xe6, 0x80, 0xf4);
	run_to_end(s);
	/* Read, change, write: memory is read, user space gets the write. */
	LOAD(s, 2, 0xfe, 0x06, 0x00, 0x40, /* incb 0x4000 */
	     0x66, 0x81, 0x0e, 0x00, 0x40, 0x00, 0x22, 0x00, 0x11, /* orl $0x11002200,0x4000 */
	     0xf0, 0x28, 0x06, 0x00, 0x40, /* lock sub %al,0x4000 */
	     0x86, 0x06, 0x00, 0x40, 0xe6, 0x80, 0xf4); /* xchg %al,0x4000; out */
	run_to_end(s);
	say(s, "memory %x", s->mem[0x4000]);
}

static void script_dirty(struct side *s, uint64_t seed)
{
	uint64_t bits = 0;
	struct kvm_dirty_log log = { .dirty_bitmap = &bits };

	side_add_vcpu(s, 0, 0);
	map_memory(s, KVM_MEM_LOG_DIRTY_PAGES);
	for (unsigned i = 0; i < 3; i++) {
		LOAD(s, 2, 0xa2, 0x00, 0x40, 0xa2, 0xff, 0x6f, 0xa3, 0xff, 0x9f, /* two pages by the last */
		     0xf4);
		run_to_end(s);
		vm_do(s, KVM_GET_DIRTY_LOG, &log);
		say(s, "dirty %llx", (unsigned long long)bits);
		vm_do(s, KVM_GET_DIRTY_LOG, &log);
		say(s, "dirty %llx", (unsigned long long)bits);
	}
}

static void say_ring(struct side *s)
{
	struct kvm_coalesced_mmio_ring *r = (void *)((uint8_t *)s->run[0] + 2 * 4096);

	while (r->first != r->last) {
		struct kvm_coalesced_mmio *e = &r->coalesced_mmio[r->first];

		say(s, "ring %llx len %u pio %u: %x", e->phys_addr, e->len, e->pio, e->data[0]);
		r->first = (r->first + 1) % 170;
	}
	say(s, "ring at %u", r->first);
}

static void script_coalesced(struct side *s, uint64_t seed)
{
	struct kvm_coalesced_mmio_zone m = { .addr = 0x20000, .size = 0x100 };
	struct kvm_coalesced_mmio_zone p = { .addr = 0x300, .size = 4, .pio = 1 };

	side_add_vcpu(s, 0, 0);
	map_memory(s, 0);
	vm_do(s, KVM_REGISTER_COALESCED_MMIO, &m);
	vm_do(s, KVM_REGISTER_COALESCED_MMIO, &p);
	LOAD(s, 2, 0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xb9, 0xc8, 0x00, /* %ds = 0x2000, %cx = 200 */
	     0xba, 0x00, 0x03,
	     0x88, 0x0e, 0x10, 0x00,	/* 1: mov %cl,0x10 */
	     0xee, 0xe2, 0xf9,		/* out %al,%dx; loop 1b */
	     0xa2, 0xff, 0x00, 0xa3, 0xff, 0x00, /* the last byte; across the end */
	     0xf4);
	for (unsigned i = 0; i < 500 && !run_once(s); i++)
		say_ring(s);
	say_ring(s);
	say_regs(s);
}

static uint64_t count_of(int fd)
{
	uint64_t n = 0;

	return read(fd, &n, 8) == 8 ? n : 0;
}

static void script_doorbells(struct side *s, uint64_t seed)
{
	int fd[4];
	struct kvm_ioeventfd a[4] = {
		{ .addr = 0x20010, .len = 2 },
		{ .addr = 0x20020, .len = 0 },
		{ .addr = 0x310, .len = 1, .datamatch = 7,
		  .flags = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH },
		{ .addr = 0x310, .len = 1, .datamatch = 9,
		  .flags = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH },
	};

	side_add_vcpu(s, 0, 0);
	map_memory(s, 0);
	for (unsigned i = 0; i < 4; i++) {
		a[i].fd = fd[i] = eventfd(0, EFD_NONBLOCK);
		vm_do(s, KVM_IOEVENTFD, &a[i]);
	}
	LOAD(s, 2, 0xb8, 0x00, 0x20, 0x8e, 0xd8,
	     0xa3, 0x10, 0x00, 0xa2, 0x10, 0x00, /* 2 bytes: rings; 1 byte: an exit */
	     0xa2, 0x20, 0x00, 0xa3, 0x20, 0x00, 0x66, 0xa3, 0x20, 0x00, /* any length */
	     0xba, 0x10, 0x03, 0xb0, 0x07, 0xee, 0xb0, 0x08, 0xee, 0xb0, 0x09, 0xee, 0xee,
	     0xec, /* in: never a doorbell's */
	     0xf4);
	run_to_end(s);
	for (unsigned i = 0; i < 4; i++) {
		say(s, "bell %u: %llu", i, (unsigned long long)count_of(fd[i]));
		close(fd[i]);
	}
}

/* User space is the interrupt controller. */
static void script_user_irq(struct side *s, uint64_t seed)
{
	struct kvm_interrupt irq = { .irq = 0x30 };

	side_add_vcpu(s, 0, 0);
	map_memory(s, 0);
	set_vector(s, 0x30, 0x2000);
	/* out 0x80; sti; wait until 0x5000 is set; out 0x81; hlt; out 0x82; hlt */
	s->mem[0x5000] = 0;
	LOAD(s, 2, 0xe6, 0x80, 0xb0, 0x01, 0xfb, 0x80, 0x3e, 0x00, 0x50, 0x00, 0x74, 0xf9, 0xb0, 0x02,
	     0xe6, 0x81, 0xf4, 0xe6, 0x82, 0xf4);
	run_once(s); /* out 0x80 with interrupts off */
	say(s, "ready %u if %u", s->run[0]->ready_for_interrupt_injection, s->run[0]->if_flag);
	s->run[0]->request_interrupt_window = 1;
	run_once(s);
	say(s, "ready %u if %u", s->run[0]->ready_for_interrupt_injection, s->run[0]->if_flag);
	s->run[0]->request_interrupt_window = 0;
	cpu_do(s, 0, KVM_INTERRUPT, &irq);
	run_once(s); /* the handler */
	s->mem[0x5000] = 1;
	run_to_end(s);
	cpu_do(s, 0, KVM_INTERRUPT, &irq);
	run_to_end(s); /* out of the halt */
}

/*
 * With a split irqchip, too, as long as LINT0 lets it through: a window that is
 * asked for while it does not must not stop the guest.
 */
static void script_split_window(struct side *s, uint64_t seed)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args[0] = 24 };
	struct kvm_interrupt irq = { .irq = 0x30 };
	struct kvm_lapic_state l;

	vm_do(s, KVM_ENABLE_CAP, &cap);
	side_add_vcpu(s, 0, 0);
	map_memory(s, 0);
	set_vector(s, 0x30, 0x2000);
	assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_GET_LAPIC, &l), 0);
	store_le32(l.regs + 0x350, 0x10700);
	assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_SET_LAPIC, &l), 0);
	/* sti; nop; out 0x80; nop; out 0x81; wait until 0x5000 is set; out 0x82 */
	s->mem[0x5000] = 0;
	LOAD(s, 2, 0xfb, 0x90, 0xe6, 0x80, 0x90, 0xe6, 0x81, 0x80, 0x3e, 0x00, 0x50, 0x00, 0x74, 0xf9,
	     0xe6, 0x82, 0xf4);
	s->run[0]->request_interrupt_window = 1;
	run_once(s);
	say(s, "ready %u if %u", s->run[0]->ready_for_interrupt_injection, s->run[0]->if_flag);
	run_once(s);
	store_le32(l.regs + 0x350, 0x700);
	assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_SET_LAPIC, &l), 0);
	run_once(s);
	say(s, "ready %u if %u", s->run[0]->ready_for_interrupt_injection, s->run[0]->if_flag);
	s->run[0]->request_interrupt_window = 0;
	cpu_do(s, 0, KVM_INTERRUPT, &irq);
	run_once(s);
	s->mem[0x5000] = 1;
	run_once(s);
}

/* The guest itself lets it through. */
static void split_window_opens_with_lint0(void **state)
{
	static const uint8_t code[] = {
		0xfb, 0x90, 0xb9, 0x35, 0x08, 0x00, 0x00, /* sti; nop; mov $0x835,%ecx: x2APIC's LINT0 */
		0xb8, 0x00, 0x07, 0x00, 0x00, 0x31, 0xd2, /* mov $0x700,%eax; xor %edx,%edx */
		0xe6, 0x80, 0x0f, 0x30, 0x90, 0xe6, 0x81, /* out; wrmsr; nop; out */
	};
	struct kvm_enable_cap cap = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args[0] = 24 };
	struct kvm_lapic_state l;
	struct kvm_sregs sr;
	struct side s;

	side_begin(&s, true);
	vm_do(&s, KVM_ENABLE_CAP, &cap);
	side_add_vcpu(&s, 0, 0);
	map_memory(&s, 0);
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_GET_LAPIC, &l), 0);
	store_le32(l.regs + 0x350, 0x10700);
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_SET_LAPIC, &l), 0);
	load(&s, code, sizeof(code), 2);
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_GET_SREGS, &sr), 0);
	sr.cs.db = 1;
	sr.cr0 |= 1;
	sr.apic_base |= 0xc00;
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_SET_SREGS, &sr), 0);
	s.run[0]->request_interrupt_window = 1;
	run_once(&s);
	assert_int_equal(s.run[0]->exit_reason, KVM_EXIT_IO);
	run_once(&s);
	assert_int_equal(s.run[0]->exit_reason, KVM_EXIT_IRQ_WINDOW_OPEN);
	side_end(&s);
}

/*
 * x2APIC, its timer at vector 40h by the TSC; a thousand deadlines that are past.
 * Each is taken behind its WRMSR, before the next instruction: out to 80h. One
 * that is not: to 81h. The handler counts in EBX.
 */
__asm__(".pushsection .rodata\n.code16\ndeadline_code:\n"
	"movl $0x1b,%ecx\n rdmsr\n orl $0xc00,%eax\n wrmsr\n"
	"movl $0x80f,%ecx\n movl $0x1ff,%eax\n xorl %edx,%edx\n wrmsr\n"
	"movl $0x832,%ecx\n movl $0x40040,%eax\n wrmsr\n"
	"xorl %ebx,%ebx\n xorl %esi,%esi\n movl $0x6e0,%ecx\n sti\n nop\n"
	"1: rdtsc\n wrmsr\n cmpl %esi,%ebx\n je 2f\n incl %esi\n"
	"cmpl $1000,%esi\n jne 1b\n outb %al,$0x80\n"
	"2: outb %al,$0x81\n"
	"deadline_irq: incl %ebx\n pushal\n movl $0x80b,%ecx\n xorl %eax,%eax\n xorl %edx,%edx\n wrmsr\n"
	"popal\n iretw\n"
	"deadline_end:\n.code64\n.popsection\n");
extern const uint8_t deadline_code[], deadline_irq[], deadline_end[];

static void a_deadline_in_the_past_is_due_at_once(void **state)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 e[1];
	} cpuid = { .head.nent = 1, .e[0] = { .function = 1, .ecx = 1u << 24 | 1u << 21 } };
	struct side s;

	side_begin(&s, true);
	vm_do_val(&s, KVM_CREATE_IRQCHIP, 0);
	side_add_vcpu(&s, 0, 0);
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_SET_CPUID2, &cpuid), 0);
	map_memory(&s, 0);
	load(&s, deadline_code, (size_t)(deadline_end - deadline_code), 2);
	store_le32(s.mem + 0x40 * 4, CODE + (uint32_t)(deadline_irq - deadline_code));
	run_once(&s);
	assert_int_equal(s.run[0]->exit_reason, KVM_EXIT_IO);
	assert_int_equal(s.run[0]->io.port, 0x80);
	side_end(&s);
}

/* ---- with the chips ---------------------------------------------------------------- */

struct later {
	struct side *s;
	int kind; /* 0 MSI, 1 line, 2 irqfd, 3 NMI by the APIC */
	int fd;
	pid_t vcpu; /* its thread */
};

static void *fire_later(void *arg)
{
	struct later *l = arg;
	struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x41 };
	struct kvm_irq_level line = { .irq = 3, .level = 1 };

	/* An NMI that came before it halted would leave it halted. */
	do
		usleep(20000);
	while (thread_state(getpid(), l->vcpu) != 'S');
	switch (l->kind) {
	case 0:
		side_ioctl(l->s, l->s->vm, KVM_SIGNAL_MSI, &msi);
		break;
	case 1:
		side_ioctl(l->s, l->s->vm, KVM_IRQ_LINE, &line);
		break;
	case 2:
		eventfd_write(l->fd, 1);
		break;
	case 3:
		msi.data = 0x400;
		side_ioctl(l->s, l->s->vm, KVM_SIGNAL_MSI, &msi);
	}
	return NULL;
}

static void pic_ready(struct side *s)
{
	struct kvm_irqchip c = { .chip_id = 0 };
	struct kvm_lapic_state l;

	assert_int_equal(side_ioctl(s, s->vm, KVM_GET_IRQCHIP, &c), 0);
	c.chip.pic.irq_base = 0x20;
	c.chip.pic.init4 = 1;
	c.chip.pic.imr = 0;
	assert_int_equal(side_ioctl(s, s->vm, KVM_SET_IRQCHIP, &c), 0);
	assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_GET_LAPIC, &l), 0);
	store_le32(l.regs + 0x350, 0x700); /* LINT0: ExtINT */
	assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_SET_LAPIC, &l), 0);
}

/*
 * In place of the guest's EOI, which real mode cannot reach. What is in service is
 * not compared: kvm_pvm leaves nothing there for a real-mode guest.
 */
static void end_interrupt(struct side *s)
{
	struct kvm_lapic_state l;

	assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_GET_LAPIC, &l), 0);
	for (unsigned i = 0; i < 8; i++) {
		say(s, "irr %u: %x", i, load_le32(l.regs + 0x200 + i * 16));
		store_le32(l.regs + 0x100 + i * 16, 0);
	}
	assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_SET_LAPIC, &l), 0);
}

/* A halted vCPU is woken by each kind of interrupt and takes it once. */
static void script_wake(struct side *s, uint64_t seed)
{
	static const unsigned vector[] = { 0x41, 0x23, 0x42, 2 };
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e[2];
	} routes = { .head.nr = 2 };
	struct kvm_irqfd fd = { .gsi = 24 };

	vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	side_add_vcpu(s, 0, 0);
	map_memory(s, 0);
	pic_ready(s);
	routes.e[0].type = KVM_IRQ_ROUTING_IRQCHIP;
	routes.e[0].gsi = routes.e[0].u.irqchip.pin = 3;
	routes.e[1].type = KVM_IRQ_ROUTING_MSI;
	routes.e[1].gsi = 24;
	routes.e[1].u.msi.address_lo = 0xfee00000;
	routes.e[1].u.msi.data = 0x42;
	vm_do(s, KVM_SET_GSI_ROUTING, &routes);
	fd.fd = eventfd(0, EFD_NONBLOCK);
	vm_do(s, KVM_IRQFD, &fd);
	for (unsigned i = 0; i < 4; i++)
		set_vector(s, vector[i], 0x2000 + i * 16);
	for (int kind = 0; kind < 4; kind++) {
		struct later l = { s, kind, fd.fd, thread_id() };
		pthread_t t;

		/* mov $kind,%al; sti; hlt; out %al,$0x81; the handler's out 0x90 comes first */
		uint8_t code[] = { 0xb0, (uint8_t)kind, 0xfb, 0xf4, 0xe6, 0x81 };

		load(s, code, sizeof(code), 2);
		assert_int_equal(pthread_create(&t, NULL, fire_later, &l), 0);
		run_once(s);
		run_once(s);
		pthread_join(t, NULL);
		end_interrupt(s);
	}
	close(fd.fd);
}

/* An AP waits for INIT and SIPI. */
static void script_sipi(struct side *s, uint64_t seed)
{
	struct kvm_mp_state mp;
	struct kvm_regs r;
	struct kvm_sregs sr;

	vm_do_val(s, KVM_CREATE_IRQCHIP, 0);
	side_add_vcpu(s, 0, 0);
	side_add_vcpu(s, 1, 1);
	map_memory(s, 0);
	s->mem[0x3000] = 0xe6; /* out %al,$0x55 */
	s->mem[0x3001] = 0x55;
	vm_do(s, KVM_SIGNAL_MSI, (&(struct kvm_msi){ .address_lo = 0xfee01000, .data = 0x500 }));
	vm_do(s, KVM_SIGNAL_MSI, (&(struct kvm_msi){ .address_lo = 0xfee01000, .data = 0x603 }));
	cpu_do(s, 1, KVM_GET_MP_STATE, &mp);
	for (unsigned i = 0; i < 3; i++) {
		int res = side_ioctl_val(s, s->vcpu[1], KVM_RUN, 0);

		say_result(s, "run", res);
		if (!res)
			break;
	}
	say(s, "exit %s port %x", vcpu_exit_name(s->run[1]->exit_reason), s->run[1]->io.port);
	cpu_do(s, 1, KVM_GET_MP_STATE, &mp);
	say(s, "mp %u", mp.mp_state);
	cpu_do(s, 1, KVM_GET_REGS, &r);
	cpu_do(s, 1, KVM_GET_SREGS, &sr);
	say(s, "cs %llx %x", sr.cs.base, sr.cs.selector);
}

/* ---- signals -------------------------------------------------------------------------- */

static _Atomic unsigned handled;

static void on_usr1(int sig)
{
	handled++;
}

#define COUNT 0x3000 /* the guest counts there */

struct signal_later {
	pthread_t target;
	const struct side *s;
};

/* When the guest runs, which the thread that runs it cannot say. */
static void *signal_later(void *arg)
{
	const struct signal_later *l = arg;
	uint16_t before = load_le16(l->s->mem + COUNT);

	do
		usleep(10000);
	while (load_le16(l->s->mem + COUNT) == before);
	pthread_kill(l->target, SIGUSR1);
	return NULL;
}

static void script_signals(struct side *s, uint64_t seed)
{
	struct sigaction sa = { .sa_handler = on_usr1 }, old;
	struct signal_later l = { pthread_self(), s };
	pthread_t t;
	struct {
		struct kvm_signal_mask m;
		uint8_t set[8];
	} none = { .m.len = 8 };
	sigset_t usr1, before, pending;
	struct timespec zero = { 0 };

	handled = 0;
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	sigaction(SIGUSR1, &sa, &old);
	side_add_vcpu(s, 0, 0);
	map_memory(s, 0);
	/* While the guest runs; the handler has run when KVM_RUN returns. */
	LOAD(s, 2, 0xff, 0x06, COUNT & 0xff, COUNT >> 8, 0xeb, 0xfa); /* 1: incw COUNT; jmp 1b */
	assert_int_equal(pthread_create(&t, NULL, signal_later, &l), 0);
	run_once(s);
	say(s, "exit %s handled %u", vcpu_exit_name(s->run[0]->exit_reason), handled);
	pthread_join(t, NULL);
	/* Blocked in the thread, let through by KVM's mask: EINTR, and pending still. */
	pthread_sigmask(SIG_BLOCK, &usr1, &before);
	cpu_do(s, 0, KVM_SET_SIGNAL_MASK, &none);
	pthread_kill(l.target, SIGUSR1);
	run_once(s);
	sigpending(&pending);
	say(s, "pending %d handled %u", sigismember(&pending, SIGUSR1), handled);
	say(s, "taken %d", sigtimedwait(&usr1, NULL, &zero) == SIGUSR1);
	assert_int_equal(pthread_create(&t, NULL, signal_later, &l), 0);
	run_once(s);
	pthread_join(t, NULL);
	sigpending(&pending);
	say(s, "pending %d handled %u", sigismember(&pending, SIGUSR1), handled);
	say(s, "taken %d", sigtimedwait(&usr1, NULL, &zero) == SIGUSR1);
	/* Blocked by both: does not end it. immediate_exit does. */
	cpu_do(s, 0, KVM_SET_SIGNAL_MASK, NULL);
	pthread_kill(l.target, SIGUSR1);
	s->run[0]->immediate_exit = 1;
	run_once(s);
	say(s, "handled %u", handled);
	s->run[0]->immediate_exit = 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	say(s, "handled %u", handled);
	sigaction(SIGUSR1, &old, NULL);
}

/* immediate_exit finishes the access in flight, and only that. */
static void script_immediate(struct side *s, uint64_t seed)
{
	side_add_vcpu(s, 0, 0);
	map_memory(s, 0);
	LOAD(s, 2, 0xe4, 0x60, 0x88, 0xc4, 0xe6, 0x80, 0xf4); /* in $0x60,%al; mov %al,%ah; out */
	run_once(s);
	s->run[0]->immediate_exit = 1;
	run_once(s);
	s->run[0]->immediate_exit = 0;
	run_to_end(s);
}

/* Between an access's exit and its completion: the same registers again, or others. */
static void script_in_flight(struct side *s, uint64_t seed)
{
	struct kvm_regs r;
	struct kvm_sregs sr;

	side_add_vcpu(s, 0, 0);
	map_memory(s, 0);
	/* in; out; mmio read; mmio write; hlt, and elsewhere: out 0x77; hlt */
	LOAD(s, 2, 0xe4, 0x60, 0xe6, 0x80, 0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xa0, 0x20, 0x00, 0xa2, 0x21,
	     0x00, 0xf4, 0x90, 0x90, 0xe6, 0x77, 0xf4);
	for (unsigned i = 0; i < 4; i++) {
		run_once(s);
		/* What becomes of a read then depends on whether the kernel emulates it. */
		if (i % 2 == 0)
			continue;
		cpu_do(s, 0, KVM_GET_REGS, &r);
		cpu_do(s, 0, KVM_GET_SREGS, &sr);
		cpu_do(s, 0, KVM_SET_SREGS, &sr);
		cpu_do(s, 0, KVM_SET_REGS, &r);
	}
	run_to_end(s);
	memset(&r, 0, sizeof(r));
	r.rip = CODE + 2; /* the out */
	r.rflags = 2;
	cpu_do(s, 0, KVM_SET_REGS, &r);
	run_once(s);
	r.rip = CODE + 18;
	r.rax = 0x99;
	cpu_do(s, 0, KVM_SET_REGS, &r);
	run_to_end(s);
}

static const struct pair_script scripts[] = {
	{ "ports", script_ports }, { "ins", script_ins }, { "mmio", script_mmio },
	{ "readonly", script_readonly },
	{ "dirty", script_dirty }, { "coalesced", script_coalesced },
	{ "doorbells", script_doorbells }, { "user irq", script_user_irq },
	{ "split window", script_split_window },
	{ "wake", script_wake }, { "sipi", script_sipi },
	{ "signals", script_signals }, { "immediate", script_immediate },
	{ "in flight", script_in_flight },
};

/* An argument picks scripts by name (* and ? match). */
int main(int argc, char **argv)
{
	const struct CMUnitTest alone[] = {
		cmocka_unit_test(split_window_opens_with_lint0),
		cmocka_unit_test(a_deadline_in_the_past_is_due_at_once),
		cmocka_unit_test(ins_to_a_device),
	};

	return kvm_pair_main(argc, argv, scripts, ARRAY_SIZE(scripts), alone, ARRAY_SIZE(alone));
}
