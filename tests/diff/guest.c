/* SPDX-License-Identifier: MIT
 * Small guests made from the operation's arguments: one step each. 64-bit mode,
 * identity-mapped; every vector has a handler that tells its number through port
 * E0h and ends the interrupt. What the guest reads lands in its memory, which is
 * compared at the end.
 */
#include "diff.h"
#include <stdarg.h>
#include <time.h>

#define IDT	0x1000u /* 256 gates */
#define PML4	0x2000u
#define PDPT	0x3000u
#define PD_LOW	0x4000u /* the first GiB, and the fourth */
#define PD_HIGH 0x5000u
#define STUBS	0x6000u /* 256 of 16 bytes */
#define COMMON	0x7000u
#define GDT	0x7100u
#define CODE	0x7400u
#define RESULTS 0x7c00u
#define STACK	0x8000u
#define DATA	0x8000u

#define PORT_VECTOR 0xe0u /* a handler's vector */
#define PORT_WINDOW 0x84u /* makes an exit while interrupts are allowed */
#define PORT_END    0xeeu
#define LAPIC	    0xfee00000u

#define STEPS	  6

enum step {
	STEP_NONE, STEP_OUT, STEP_IN, STEP_STORE, STEP_LOAD, STEP_WINDOW, STEP_LAPIC_WRITE, STEP_LAPIC_READ,
	STEP_WRMSR, STEP_RDMSR, STEP_OUTS, STEP_ADD, STEP_HLT, STEP_NR,
};

/* A step in a number: bits 0-3 what, 4-5 length, 8-39 address, 40-63 value. */
#define STEP(what, len, addr, value) \
	((uint64_t)(what) | (uint64_t)(len) << 4 | (uint64_t)(addr) << 8 | (uint64_t)(value) << 40)

struct code {
	uint8_t *p;
	unsigned n;
};

static void put(struct code *c, unsigned n, ...)
{
	va_list ap;

	va_start(ap, n);
	while (n--)
		c->p[c->n++] = (uint8_t)va_arg(ap, int);
	va_end(ap);
}

static void put32(struct code *c, uint32_t v)
{
	store_le32(c->p + c->n, v);
	c->n += 4;
}

static void put64(struct code *c, uint64_t v)
{
	store_le64(c->p + c->n, v);
	c->n += 8;
}

/* A 32-bit register: eax 0, ecx 1, edx 2, esi 6, edi 7. */
static void mov_reg(struct code *c, unsigned reg, uint32_t v)
{
	put(c, 1, 0xb8 + reg);
	put32(c, v);
}

/* Between the accumulator and an absolute address: op a0h loads, a2h stores. */
static void mov_abs(struct code *c, uint8_t op, unsigned len, uint64_t addr)
{
	if (len == 2)
		put(c, 1, 0x66);
	if (len == 8)
		put(c, 1, 0x48);
	put(c, 1, len == 1 ? op : op + 1);
	put64(c, addr);
}

static void keep_result(struct code *c, unsigned i)
{
	mov_abs(c, 0xa2, 8, RESULTS + i * 8);
}

/* in or out by dx: op ech or eeh */
static void io(struct code *c, uint8_t op, unsigned len)
{
	if (len == 2)
		put(c, 1, 0x66);
	put(c, 1, len == 1 ? op : op + 1);
}

/* So many exits. */
#define WINDOW	    4
#define NMI_WINDOWS 3 /* before an end: those that wait are taken */

/* Several exits with interrupts on: each is a chance to take one, on either side. */
static void window(struct code *c)
{
	mov_reg(c, 1, WINDOW);
	put(c, 2, 0xfb, 0x90);	      /* sti; nop */
	put(c, 2, 0xe6, PORT_WINDOW); /* 1: out */
	put(c, 1, 0x90);
	put(c, 2, 0xe2, 0xfb); /* loop 1b */
	put(c, 1, 0xfa);       /* cli */
}

/* Not the timer's; 300h often, for it sends. */
static const uint16_t lapic_regs[] = { 0x80, 0x20, 0x30, 0x300, 0xb0, 0xd0, 0xe0, 0xf0, 0x300, 0x300, 0x310, 0x350,
				       0x360, 0x280, 0x200, 0x270 };

static void emit(struct code *c, uint64_t step, unsigned i, bool may_halt)
{
	static const uint32_t msrs[] = { 0x176, 0x174, 0x10000, 0x808, 0x80b, 0x830, 0x175, 0xc0000080 };
	unsigned len = 1u << (step >> 4 & 3);
	uint32_t addr = (uint32_t)(step >> 8), value = (uint32_t)(step >> 40);

	switch ((enum step)((step & 15) % STEP_NR)) {
	case STEP_NONE:
	case STEP_NR:
		break;
	case STEP_OUT:
		mov_reg(c, 2, addr);
		mov_reg(c, 0, value);
		io(c, 0xee, MIN(len, 4u));
		break;
	case STEP_IN:
		mov_reg(c, 2, addr);
		io(c, 0xec, MIN(len, 4u));
		keep_result(c, i);
		break;
	case STEP_STORE:
		mov_reg(c, 0, value);
		mov_abs(c, 0xa2, len, addr);
		break;
	case STEP_LOAD:
		mov_abs(c, 0xa0, len, addr);
		keep_result(c, i);
		break;
	case STEP_ADD: /* addl $value,(%rdi): read, then write */
		mov_reg(c, 7, addr);
		put(c, 2, 0x81, 0x07);
		put32(c, value);
		break;
	case STEP_WINDOW:
		window(c);
		break;
	case STEP_LAPIC_WRITE:
		mov_reg(c, 0, value);
		mov_abs(c, 0xa2, 4, LAPIC + lapic_regs[addr % ARRAY_SIZE(lapic_regs)]);
		break;
	case STEP_LAPIC_READ: /* what those give that cannot be read is not defined */
		addr = lapic_regs[addr % ARRAY_SIZE(lapic_regs)];
		if (addr != 0xb0)
			mov_abs(c, 0xa0, 4, LAPIC + addr);
		keep_result(c, i);
		break;
	case STEP_WRMSR:
		mov_reg(c, 1, msrs[addr % ARRAY_SIZE(msrs)]);
		mov_reg(c, 0, value);
		put(c, 4, 0x31, 0xd2, 0x0f, 0x30);
		break;
	case STEP_RDMSR:
		mov_reg(c, 1, msrs[addr % ARRAY_SIZE(msrs)]);
		put(c, 2, 0x0f, 0x32);
		keep_result(c, i);
		break;
	case STEP_OUTS: /* rep outsb */
		mov_reg(c, 2, addr);
		mov_reg(c, 1, value & 7);
		mov_reg(c, 6, DATA);
		put(c, 3, 0xfc, 0xf3, 0x6e);
		break;
	case STEP_HLT: /* with chips it would wait for ever */
		if (may_halt)
			put(c, 1, 0xf4);
	}
}

/* So many bytes each, so that the branch over them is the same. */
#define EOI_SIZE 19

static void put_eoi(struct code *c, uint64_t base)
{
	unsigned start = c->n;

	if (base & 0x400) {
		mov_reg(c, 1, 0x80b);
		put(c, 6, 0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x30); /* xor; xor; wrmsr */
	} else if (base) {
		mov_reg(c, 7, (uint32_t)(base & ~0xfffull) + 0xb0);
		put(c, 6, 0xc7, 0x07, 0, 0, 0, 0); /* movl $0,(%rdi) */
	}
	put(c, 4, 0xc7, 0x44, 0x24, 0x10); /* movl $WINDOW,16(%rsp): the window stays open */
	put32(c, WINDOW);
	while (c->n < start + EOI_SIZE)
		put(c, 1, 0x90);
}

/*
 * Vector 2 and those from 20h on return; the rest is the end. Each is ended with the local APIC
 * at base (0: none), for kvm_pvm has nothing in service: it ends an interrupt as it injects it.
 */
static void put_handlers(uint8_t *mem, uint64_t base)
{
	struct code c = { mem + COMMON, 0 };

	for (unsigned v = 0; v < 256; v++) {
		struct code s = { mem + STUBS + v * 16, 0 };
		uint64_t at = STUBS + v * 16;

		put(&s, 1, 0x68); /* push $v; jmp common */
		put32(&s, v);
		put(&s, 1, 0xe9);
		put32(&s, COMMON - (uint32_t)(at + 10));
		store_le64(mem + IDT + v * 16, (at & 0xffff) | 8u << 16 | 0x8e00ull << 32);
	}
	put(&c, 4, 0x50, 0x51, 0x52, 0x57);	   /* push %rax, %rcx, %rdx, %rdi */
	put(&c, 4, 0x8b, 0x44, 0x24, 0x20);	   /* mov 32(%rsp),%eax */
	mov_reg(&c, 2, PORT_VECTOR);
	put(&c, 1, 0xef);			   /* out %eax,%dx */
	put(&c, 3, 0x83, 0xf8, 0x02);		   /* cmp $2,%eax */
	put(&c, 2, 0x74, EOI_SIZE + 4 + 3 + 2 + 4 + NMI_WINDOWS * 2); /* je out */
	put_eoi(&c, base);
	put(&c, 4, 0x8b, 0x44, 0x24, 0x20);	   /* mov 32(%rsp),%eax */
	put(&c, 3, 0x83, 0xf8, 0x20);		   /* cmp $0x20,%eax */
	put(&c, 2, 0x73, 4 + NMI_WINDOWS * 2);	   /* jae out */
	put(&c, 2, 0x31, 0xc9);			   /* xor %ecx,%ecx: a window's count */
	for (unsigned i = 0; i < NMI_WINDOWS; i++)
		put(&c, 2, 0xe6, PORT_WINDOW);
	put(&c, 2, 0xe6, PORT_END);		   /* out %al,$END */
	put(&c, 4, 0x5f, 0x5a, 0x59, 0x58);	   /* out: pop %rdi, %rdx, %rcx, %rax */
	put(&c, 4, 0x48, 0x83, 0xc4, 0x08);	   /* add $8,%rsp */
	put(&c, 2, 0x48, 0xcf);			   /* iretq */
}

/* Identity for GiB 0, and GiB 3 uncached; accessed and dirty from the start. */
static void put_tables(uint8_t *mem)
{
	store_le64(mem + PML4, PDPT | 0x23);
	store_le64(mem + PDPT, PD_LOW | 0x23);
	store_le64(mem + PDPT + 24, PD_HIGH | 0x23);
	for (uint64_t i = 0; i < 512; i++) {
		store_le64(mem + PD_LOW + i * 8, i << 21 | 0xe3);
		store_le64(mem + PD_HIGH + i * 8, 0xc0000000ull | i << 21 | 0xfb);
	}
	store_le64(mem + GDT + 8, 0x00af9b000000ffff);
	store_le64(mem + GDT + 16, 0x00cf93000000ffff);
}

static struct kvm_segment segment(uint16_t selector, uint8_t type, bool code)
{
	return (struct kvm_segment){ .limit = 0xffffffff, .selector = selector, .type = type, .present = 1,
				     .db = !code, .l = code, .s = 1, .g = 1 };
}

/* Finish what is in flight, and no more: only then is the state what it shows. */
static void finish(struct world *w, unsigned vm, unsigned cpu)
{
	w->run[vm][cpu]->immediate_exit = 1;
	(void)world_quiet(w, w->cpu[vm][cpu], KVM_RUN, NULL);
	w->run[vm][cpu]->immediate_exit = 0;
}

/* 0: no local APIC that is enabled. */
static uint64_t apic_base(struct world *w, unsigned vm, unsigned cpu)
{
	struct kvm_sregs s;

	if (w->chips[vm] == CHIPS_NONE || world_quiet(w, w->cpu[vm][cpu], KVM_GET_SREGS, &s))
		return 0;
	return s.apic_base & 0x800 ? s.apic_base : 0;
}

static bool prepare(struct world *w, unsigned vm, unsigned cpu)
{
	struct kvm_regs r = { .rip = CODE, .rflags = 2, .rsp = STACK };
	struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct kvm_sregs s;
	int fd = w->cpu[vm][cpu];

	finish(w, vm, cpu);
	if (world_call(w, "runnable", fd, KVM_SET_MP_STATE, &mp) || world_quiet(w, fd, KVM_GET_SREGS, &s))
		return false;
	s.cs = segment(8, 11, true);
	s.ds = s.es = s.ss = s.fs = s.gs = segment(16, 3, false);
	s.tr = (struct kvm_segment){ .limit = 0x67, .selector = 24, .type = 11, .present = 1 };
	s.ldt = (struct kvm_segment){ .unusable = 1 };
	s.gdt.base = GDT;
	s.gdt.limit = 23;
	s.idt.base = IDT;
	s.idt.limit = 256 * 16 - 1;
	s.cr0 = 0x80050033;
	s.cr3 = PML4;
	s.cr4 = 0x20;
	s.efer = 0x500;
	memset(s.interrupt_bitmap, 0, sizeof(s.interrupt_bitmap));
	return !world_call(w, "start", fd, KVM_SET_SREGS, &s) && !world_quiet(w, fd, KVM_SET_REGS, &r);
}

/* User space as interrupt controller: when the guest is ready for it. */
static void give_interrupt(struct world *w, unsigned vm, unsigned cpu)
{
	struct kvm_interrupt i = { .irq = (uint32_t)w->user_vector[vm][cpu] };

	/* With chips, made since, it is refused: whether before or after one of theirs is no matter. */
	if (w->user_vector[vm][cpu] < 0 || w->chips[vm] != CHIPS_NONE ||
	    !w->run[vm][cpu]->ready_for_interrupt_injection)
		return;
	cpu_call(w, vm, cpu, KVM_INTERRUPT, &i);
	w->user_vector[vm][cpu] = -1;
}

static bool is_window(const struct kvm_run *run)
{
	return run->exit_reason == KVM_EXIT_IO && run->io.port == PORT_WINDOW;
}

/* Say one exit. False: it is the last. */
static bool say_exit(struct world *w, struct kvm_run *run, unsigned *nmis)
{
	uint8_t *data = (uint8_t *)run + run->io.data_offset; /* if it is KVM_EXIT_IO */

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		/* When kvm_pvm, which emulates many instructions at a time, looks for NMIs is its own affair. */
		if (run->io.port == PORT_VECTOR && load_le32(data) == 2) {
			++*nmis;
			return true;
		}
		for (unsigned i = 0; i < run->io.count; i++, data += run->io.size) {
			if (!run->io.direction)
				store_le(data, 0x1122334455667788ull + run->io.port, run->io.size);
			say(&w->s, "%s %x size %u: %llx", run->io.direction ? "out" : "in", run->io.port, run->io.size,
			    (unsigned long long)load_le(data, run->io.size));
		}
		return run->io.port != PORT_END;
	case KVM_EXIT_MMIO:
		if (!run->mmio.is_write)
			store_le64(run->mmio.data, 0x8877665544332211ull);
		say(&w->s, "mmio %llx %s %u: %llx", run->mmio.phys_addr, run->mmio.is_write ? "write" : "read",
		    run->mmio.len, (unsigned long long)load_le(run->mmio.data, MIN(run->mmio.len, 8u)));
		return true;
	case KVM_EXIT_IOAPIC_EOI:
		say(&w->s, "eoi %x", run->eoi.vector);
		return true;
	default:
		say(&w->s, "exit %s", vcpu_exit_name(run->exit_reason));
		return run->exit_reason == KVM_EXIT_IRQ_WINDOW_OPEN || run->exit_reason == KVM_EXIT_HLT;
	}
}

/* A guest that waits for what never comes is ended, and that is told. */
static void set_alarm(struct world *w, bool on)
{
	const struct itimerspec half = { .it_value.tv_nsec = 500000000, .it_interval.tv_nsec = 100000000 };

	timer_settime(w->alarm, 0, on ? &half : &(struct itimerspec){ 0 }, NULL);
}

/* An end of interrupt signals an irqfd, which the kernel may leave to a work item. */
static bool feeds_itself(const struct world *w)
{
	for (unsigned i = 0; i < WORLD_EVENTS; i++)
		if (w->binding[i].bound && w->binding[i].resample >= 0 && w->binding[w->binding[i].resample].bound)
			return true;
	return false;
}

static void guest(struct world *w, const uint64_t *a)
{
	unsigned vm = a[0] & 15 ? (a[0] & 15) % WORLD_VMS : 0, cpu = (unsigned)(a[0] >> 4) % WORLD_VCPUS;
	struct kvm_run *run = w->run[vm][cpu];
	struct code c = { w->mem + CODE, 0 };
	int fd = w->cpu[vm][cpu];
	unsigned nmis = 0;

	if (fd < 0 || !w->can_run[vm] || w->rings[vm] || w->odd[vm][cpu]) {
		say(&w->s, "no guest");
		return;
	}
	world_settle(w);
	put_tables(w->mem);
	put_handlers(w->mem, apic_base(w, vm, cpu));
	for (unsigned i = 0; i < STEPS; i++)
		emit(&c, a[1 + i], i, w->chips[vm] == CHIPS_NONE);
	for (unsigned i = 0; i < NMI_WINDOWS; i++)
		put(&c, 2, 0xe6, PORT_WINDOW);
	put(&c, 2, 0xe6, PORT_END);
	if (!prepare(w, vm, cpu))
		return;
	set_alarm(w, true);
	for (unsigned n = 0;; n += !is_window(run)) {
		long r;

		if (n == GUEST_MAX_EXITS) { /* in a handler, perhaps: there is something in service, or not */
			say(&w->s, "no end");
			w->stop = true;
			break;
		}
		r = world_quiet(w, fd, KVM_RUN, NULL);

		if (r < 0) {
			say_result(&w->s, "KVM_RUN", r);
			break;
		}
		if (!is_window(run) && !say_exit(w, run, &nmis))
			break;
		if (feeds_itself(w)) {
			world_settle(w);
			set_alarm(w, true); /* not for our own time */
		}
		give_interrupt(w, vm, cpu);
	}
	finish(w, vm, cpu);
	set_alarm(w, false);
	/* It may have signalled irqfds by its doorbells: they go by the routes that there are now. */
	for (unsigned i = 0; i < WORLD_EVENTS; i++)
		if (w->binding[i].bound) {
			world_settle(w);
			break;
		}
	if (nmis)
		say(&w->s, "NMIs: %u", nmis);
	say_hex(&w->s, "results", w->mem + RESULTS, STEPS * 8);
	say_ring(w, vm, cpu);
	say_events(w);
}

static uint64_t guest_who(struct rng *r)
{
	return any_vm(r) | any_cpu(r) << 4;
}

static uint64_t any_step(struct rng *r)
{
	static const uint8_t what[] = { STEP_NONE, STEP_OUT, STEP_OUT, STEP_IN, STEP_STORE, STEP_STORE, STEP_STORE,
					STEP_LOAD, STEP_WINDOW, STEP_WINDOW, STEP_LAPIC_WRITE, STEP_LAPIC_READ,
					STEP_WRMSR, STEP_RDMSR, STEP_OUTS, STEP_ADD, STEP_HLT };
	static const uint16_t chip_ports[] = { 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1 };
	unsigned w = what[rng_below(r, ARRAY_SIZE(what))], len = rng_below(r, 4);
	uint64_t addr = 0, value = rng_below(r, 4) ? rng_below(r, 3) : rng_next(r) & 0xffffff;

	switch ((enum step)w) {
	case STEP_OUT:
	case STEP_IN:
	case STEP_OUTS:
		addr = rng_below(r, 3) ? any_port(r) & 0xfff : chip_ports[rng_below(r, 6)];
		if (addr >= 0x40 && addr <= 0x61)
			addr = 0x300;
		if (addr >= 0x300)
			addr += rng_below(r, 3) == 0 ? 0x20 : rng_below(r, 4) == 0 ? rng_below(r, 8) : 0;
		if (addr < 0x300 && w == STEP_OUT && rng_below(r, 2))
			value = 0x20;
		break;
	case STEP_STORE:
	case STEP_LOAD:
	case STEP_ADD:
		switch (rng_below(r, 4)) {
		case 0:
			addr = DATA + rng_below(r, 0x1a000);
			break;
		case 1:
			addr = 0xfec00000 | (rng_below(r, 2) << 4);
			value = rng_below(r, 0x40);
			len = 2;
			break;
		default:
			addr = 0x100000 + rng_below(r, 2) * 0x2000 + (any_mmio(r) & 0xfff) + (rng_below(r, 4) ? 0 : rng_below(r, 8));
		}
		break;
	case STEP_LAPIC_WRITE:
	case STEP_LAPIC_READ:
		addr = rng_below(r, ARRAY_SIZE(lapic_regs));
		if (lapic_regs[addr] == 0x300)
			value = any_vector(r) | (uint64_t)(rng_below(r, 4) << 18);
		break;
	case STEP_WRMSR:
	case STEP_RDMSR:
		addr = rng_below(r, 8);
		break;
	default:
		break;
	}
	return STEP(w, len, addr, value);
}

const struct op_kind op_guest = { "guest", 14, guest,
	{ { "who", guest_who }, { "s0", any_step }, { "s1", any_step }, { "s2", any_step }, { "s3", any_step },
	  { "s4", any_step }, { "s5", any_step } } };
