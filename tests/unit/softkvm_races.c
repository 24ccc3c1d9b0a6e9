/* SPDX-License-Identifier: MIT
 * Calls against calls, signals and guests that run. Each round lets two or three
 * threads meet in a small window; what must hold is looked at when they are
 * through. `softkvm_races ROUNDS` does more (make check-long: 10,000). What they were
 * seen to notice is in docs/BUGS.md, "Races".
 */
#include "../lib/check.h"
#include "../lib/process.h"
#include "softkvm/softkvm.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ROUNDS 60
#else
#define ROUNDS 300
#endif
#define MEM (1u << 20)

static unsigned rounds = ROUNDS;

/* ---- a VM ------------------------------------------------------------------------- */

struct bed {
	void *ctx;
	int sys, vm, cpu[2];
	struct kvm_run *run[2];
	uint8_t *mem;
};

static int call(struct bed *b, int fd, unsigned long request, void *arg)
{
	return softkvm_ops.ioctl(b->ctx, fd, request, (uintptr_t)arg);
}

static int set_slot(struct bed *b, unsigned id, uint32_t flags, gpa_t gpa, uint64_t size, uint8_t *host)
{
	struct kvm_userspace_memory_region m = { id, flags, gpa, size, (uintptr_t)host };

	return call(b, b->vm, KVM_SET_USER_MEMORY_REGION, &m);
}

static void add_cpu(struct bed *b, unsigned i)
{
	struct kvm_lapic_state l;

	b->cpu[i] = call(b, b->vm, KVM_CREATE_VCPU, (void *)(uintptr_t)i);
	assert_true(b->cpu[i] >= 0);
	assert_int_equal(softkvm_ops.mmap(b->ctx, b->cpu[i], 12288, 0, (void **)&b->run[i]), 0);
	assert_int_equal(call(b, b->cpu[i], KVM_GET_LAPIC, &l), 0);
	l.regs[0xf1] |= 1;
	assert_int_equal(call(b, b->cpu[i], KVM_SET_LAPIC, &l), 0);
}

static void vm_open(struct bed *b)
{
	b->vm = call(b, b->sys, KVM_CREATE_VM, NULL);
	assert_true(b->vm >= 0);
	assert_int_equal(call(b, b->vm, KVM_CREATE_IRQCHIP, NULL), 0);
	b->cpu[0] = b->cpu[1] = -1;
	add_cpu(b, 0);
}

static void vm_close(struct bed *b)
{
	for (unsigned i = 0; i < 2; i++) {
		if (b->cpu[i] < 0)
			continue;
		assert_int_equal(softkvm_ops.munmap(b->ctx, b->run[i], 12288), 0);
		assert_int_equal(softkvm_ops.close(b->ctx, b->cpu[i]), 0);
	}
	assert_int_equal(softkvm_ops.close(b->ctx, b->vm), 0);
}

static void bed_open(struct bed *b)
{
	assert_int_equal(softkvm_create(&b->ctx, NULL), 0);
	b->sys = softkvm_ops.open(b->ctx);
	assert_true(b->sys >= 0);
	b->mem = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(b->mem != MAP_FAILED);
	vm_open(b);
}

static void bed_close(struct bed *b)
{
	vm_close(b);
	softkvm_destroy(b->ctx);
	munmap(b->mem, MEM);
}

/* gsi 24 + i goes to vector first + i of vCPU 0. */
static int route(struct bed *b, unsigned first)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e[2];
	} r = { .head.nr = 2 };

	for (unsigned i = 0; i < 2; i++) {
		r.e[i].gsi = 24 + i;
		r.e[i].type = KVM_IRQ_ROUTING_MSI;
		r.e[i].u.msi.address_lo = 0xfee00000;
		r.e[i].u.msi.data = first + i;
	}
	return call(b, b->vm, KVM_SET_GSI_ROUTING, &r);
}

static int irqfd(struct bed *b, int fd, unsigned gsi, uint32_t flags)
{
	struct kvm_irqfd f = { .fd = (uint32_t)fd, .gsi = gsi, .flags = flags };

	return call(b, b->vm, KVM_IRQFD, &f);
}

/* What waits in vCPU 0's local APIC, and away with it: bit i is vector 40h + i. */
static uint32_t take_irr(struct bed *b)
{
	struct kvm_lapic_state l;
	uint32_t irr;

	assert_int_equal(call(b, b->cpu[0], KVM_GET_LAPIC, &l), 0);
	irr = load_le32(l.regs + 0x220);
	store_le32(l.regs + 0x220, 0);
	assert_int_equal(call(b, b->cpu[0], KVM_SET_LAPIC, &l), 0);
	return irr;
}

static uint64_t take_count(int fd)
{
	uint64_t n = 0;

	return read(fd, &n, 8) == 8 ? n : 0;
}

/* ---- two threads that start together ----------------------------------------------- */

struct partner {
	pthread_t thread;
	pthread_barrier_t start, end;
	void (*fn)(void *arg);
	void *arg;
	unsigned rounds;
};

static void *partner_main(void *arg)
{
	struct partner *p = arg;

	for (unsigned i = 0; i < p->rounds; i++) {
		pthread_barrier_wait(&p->start);
		p->fn(p->arg);
		pthread_barrier_wait(&p->end);
	}
	return NULL;
}

static void partner_start(struct partner *p, void (*fn)(void *arg), void *arg, unsigned n)
{
	*p = (struct partner){ .fn = fn, .arg = arg, .rounds = n };
	pthread_barrier_init(&p->start, NULL, 2);
	pthread_barrier_init(&p->end, NULL, 2);
	assert_int_equal(pthread_create(&p->thread, NULL, partner_main, p), 0);
}

static void partner_end(struct partner *p)
{
	pthread_join(p->thread, NULL);
	pthread_barrier_destroy(&p->start);
	pthread_barrier_destroy(&p->end);
}

static void signal_once(void *arg)
{
	eventfd_write(*(int *)arg, 1);
}

/* ---- irqfds ---------------------------------------------------------------------------- */

/* A signal while its irqfd is unbound is delivered or stays in the eventfd: one of the two. */
static void irqfd_unbound_while_signalled(void **state)
{
	int e = eventfd(0, EFD_NONBLOCK);
	struct partner p;
	struct bed b;

	bed_open(&b);
	assert_int_equal(route(&b, 0x40), 0);
	partner_start(&p, signal_once, &e, rounds);
	for (unsigned i = 0; i < rounds; i++) {
		uint32_t irr;

		assert_int_equal(irqfd(&b, e, 24, 0), 0);
		pthread_barrier_wait(&p.start);
		assert_int_equal(irqfd(&b, e, 24, KVM_IRQFD_FLAG_DEASSIGN), 0);
		pthread_barrier_wait(&p.end);
		irr = take_irr(&b);
		assert_int_equal(take_count(e) + (irr == 1), 1);
		assert_true(irr <= 1);
	}
	partner_end(&p);
	close(e);
	bed_close(&b);
}

/* Bound again and again while somebody signals: what is left at the end arrives. */
static void irqfd_rebound_loses_nothing(void **state)
{
	int e = eventfd(0, EFD_NONBLOCK);
	struct partner p;
	struct bed b;

	bed_open(&b);
	assert_int_equal(route(&b, 0x40), 0);
	partner_start(&p, signal_once, &e, rounds);
	for (unsigned i = 0; i < rounds; i++) {
		pthread_barrier_wait(&p.start);
		assert_int_equal(irqfd(&b, e, 24, 0), 0);
		assert_int_equal(irqfd(&b, e, 24, KVM_IRQFD_FLAG_DEASSIGN), 0);
		assert_int_equal(irqfd(&b, e, 24, 0), 0);
		pthread_barrier_wait(&p.end);
		for (uint32_t irr = 0; !irr; irr = take_irr(&b))
			;
		assert_int_equal(irqfd(&b, e, 24, KVM_IRQFD_FLAG_DEASSIGN), 0);
		assert_int_equal(take_count(e), 0);
	}
	partner_end(&p);
	close(e);
	bed_close(&b);
}

/* While the route moves the message takes the old way or the new one. */
static void route_moved_while_signalled(void **state)
{
	int e = eventfd(0, EFD_NONBLOCK);
	struct partner p;
	struct bed b;

	bed_open(&b);
	assert_int_equal(route(&b, 0x40), 0);
	assert_int_equal(irqfd(&b, e, 24, 0), 0);
	partner_start(&p, signal_once, &e, rounds);
	for (unsigned i = 0; i < rounds; i++) {
		uint32_t irr = 0;

		pthread_barrier_wait(&p.start);
		assert_int_equal(route(&b, i & 1 ? 0x40 : 0x50), 0);
		pthread_barrier_wait(&p.end);
		while (!irr)
			irr = take_irr(&b);
		assert_true(irr == 1 || irr == 1u << 16);
	}
	partner_end(&p);
	close(e);
	bed_close(&b);
}

static void signal_often(void *arg)
{
	for (unsigned i = 0; i < 20; i++)
		eventfd_write(*(int *)arg, 1);
}

/* Nothing is delivered, and nothing looked at, once the unbinding has returned: at whatever moment it comes. */
static void irqfd_quiet_once_unbound(void **state)
{
	int e = eventfd(0, EFD_NONBLOCK), other = eventfd(0, EFD_NONBLOCK);
	unsigned n = rounds * 4;
	struct partner p;
	struct bed b;

	bed_open(&b);
	assert_int_equal(route(&b, 0x40), 0);
	partner_start(&p, signal_often, &e, n);
	for (unsigned i = 0; i < n; i++) {
		uint32_t irr;
		uint64_t left;

		assert_int_equal(irqfd(&b, e, 24, 0), 0);
		pthread_barrier_wait(&p.start);
		for (unsigned turn = (unsigned)rand() % 4000; turn; turn--)
			__builtin_ia32_pause();
		assert_int_equal(irqfd(&b, e, 24, KVM_IRQFD_FLAG_DEASSIGN), 0);
		irr = take_irr(&b);
		pthread_barrier_wait(&p.end);
		left = take_count(e);
		assert_true(left <= 20 && (irr == 1 || left == 20));
		/* Whoever serves eventfds has come round. */
		assert_int_equal(irqfd(&b, other, 25, 0), 0);
		assert_int_equal(irqfd(&b, other, 25, KVM_IRQFD_FLAG_DEASSIGN), 0);
		assert_int_equal(take_irr(&b), 0);
	}
	partner_end(&p);
	close(e);
	close(other);
	bed_close(&b);
}

struct pulser {
	struct bed *b;
	pthread_t thread;
	_Atomic bool stop;
};

static void *pulser_main(void *arg)
{
	struct pulser *p = arg;
	struct kvm_irq_level l = { .irq = 24, .level = 1 };

	while (!p->stop)
		if (call(p->b, p->b->vm, KVM_IRQ_LINE, &l))
			return p;
	return NULL;
}

/* The table is thrown away under whoever is looking at it, all the time. */
static void routes_replaced_while_looked_at(void **state)
{
	struct pulser p = { 0 };
	void *failed;
	struct bed b;

	bed_open(&b);
	p.b = &b;
	assert_int_equal(route(&b, 0x40), 0);
	assert_int_equal(pthread_create(&p.thread, NULL, pulser_main, &p), 0);
	for (unsigned i = 0; i < rounds * 4; i++) {
		assert_int_equal(route(&b, i & 1 ? 0x40 : 0x50), 0);
		assert_int_equal(take_irr(&b) & ~0x10001u, 0);
	}
	p.stop = true;
	pthread_join(p.thread, &failed);
	assert_null(failed);
	bed_close(&b);
}

/* The VM goes while its irqfds are signalled: nobody serves them any more, and no fd is left. */
static void vm_closed_while_signalled(void **state)
{
	int e = eventfd(0, EFD_NONBLOCK);
	unsigned n = MAX(rounds / 10, 20u), fds;
	struct partner p;
	struct bed b;

	bed_open(&b);
	vm_close(&b);
	partner_start(&p, signal_once, &e, n);
	fds = open_fds();
	for (unsigned i = 0; i < n; i++) {
		vm_open(&b);
		assert_int_equal(route(&b, 0x40), 0);
		assert_int_equal(irqfd(&b, e, 24, 0), 0);
		pthread_barrier_wait(&p.start);
		vm_close(&b);
		pthread_barrier_wait(&p.end);
		(void)take_count(e);
		eventfd_write(e, 1);
		assert_int_equal(take_count(e), 1);
		assert_int_equal(open_fds(), fds);
	}
	partner_end(&p);
	close(e);
	vm_open(&b);
	bed_close(&b);
}

/* One eventfd, one (VM, gsi); unbinding is for any eventfd; -EBADF for none. */
static void eventfd_serves_one(void **state)
{
	int e = eventfd(0, EFD_NONBLOCK), f = eventfd(0, EFD_NONBLOCK);
	struct bed b;
	int first;

	bed_open(&b);
	first = b.vm;
	assert_int_equal(irqfd(&b, e, 24, 0), 0);
	assert_int_equal(irqfd(&b, e, 24, 0), -EBUSY);
	assert_int_equal(irqfd(&b, e, 25, 0), -EBUSY);
	assert_int_equal(irqfd(&b, f, 24, 0), 0);
	b.vm = call(&b, b.sys, KVM_CREATE_VM, NULL);
	assert_int_equal(call(&b, b.vm, KVM_CREATE_IRQCHIP, NULL), 0);
	assert_int_equal(irqfd(&b, e, 24, 0), -EBUSY);
	assert_int_equal(irqfd(&b, e, 24, KVM_IRQFD_FLAG_DEASSIGN), 0);
	assert_int_equal(irqfd(&b, e, 24, 0), -EBUSY); /* that was none of this VM's */
	assert_int_equal(softkvm_ops.close(b.ctx, b.vm), 0);
	b.vm = first;
	assert_int_equal(irqfd(&b, e, 24, KVM_IRQFD_FLAG_DEASSIGN), 0);
	assert_int_equal(irqfd(&b, e, 24, KVM_IRQFD_FLAG_DEASSIGN), 0);
	close(e);
	assert_int_equal(irqfd(&b, e, 24, 0), -EBADF);
	assert_int_equal(irqfd(&b, e, 24, KVM_IRQFD_FLAG_DEASSIGN), -EBADF);
	close(f);
	bed_close(&b);
}

/* ---- guests ---------------------------------------------------------------------------- */

#define CODE	0x1000u
#define CODE_1	0x2000u
#define HANDLER 0x3000u

static void on_signal(int sig)
{
}

/* Real mode: cs, ds and ss flat from 0, es as given; SIGUSR1 ends KVM_RUN. */
static void start_at(struct bed *b, unsigned cpu, uint32_t rip, uint64_t es_base, uint64_t rflags)
{
	struct sigaction sa = { .sa_handler = on_signal };
	struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct kvm_regs r = { .rip = rip, .rflags = rflags, .rsp = 0x8000 + cpu * 0x800 };
	struct kvm_sregs s;

	sigaction(SIGUSR1, &sa, NULL);
	assert_int_equal(call(b, b->cpu[cpu], KVM_SET_MP_STATE, &mp), 0);
	assert_int_equal(call(b, b->cpu[cpu], KVM_GET_SREGS, &s), 0);
	s.cs.base = s.cs.selector = 0;
	s.es.base = es_base;
	assert_int_equal(call(b, b->cpu[cpu], KVM_SET_SREGS, &s), 0);
	assert_int_equal(call(b, b->cpu[cpu], KVM_SET_REGS, &r), 0);
}

struct runner {
	struct bed *b;
	unsigned cpu;
	pthread_t thread;
	_Atomic bool stop, failed;
	_Atomic unsigned runs;
};

/* MMIO is answered and forgotten; a port access is how a guest says that it found a fault. */
static void *runner_main(void *arg)
{
	struct runner *r = arg;
	struct kvm_run *run = r->b->run[r->cpu];

	while (!r->stop) {
		int ret = call(r->b, r->b->cpu[r->cpu], KVM_RUN, NULL);

		r->runs++;
		if (ret == -EINTR || (!ret && run->exit_reason == KVM_EXIT_MMIO))
			continue;
		r->failed = true;
		break;
	}
	return NULL;
}

static void runner_start(struct runner *r, struct bed *b, unsigned cpu)
{
	r->b = b;
	r->cpu = cpu;
	r->stop = r->failed = false;
	r->runs = 0;
	assert_int_equal(pthread_create(&r->thread, NULL, runner_main, r), 0);
}

static void runner_end(struct runner *r)
{
	r->stop = true;
	/* Before KVM_RUN the signal would be lost: immediate_exit stays. */
	__atomic_store_n(&r->b->run[r->cpu]->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_kill(r->thread, SIGUSR1);
	pthread_join(r->thread, NULL);
	__atomic_store_n(&r->b->run[r->cpu]->immediate_exit, 0, __ATOMIC_SEQ_CST);
	assert_false(r->failed);
}

static uint32_t word(struct bed *b, uint32_t at)
{
	return __atomic_load_n((uint32_t *)(b->mem + at), __ATOMIC_SEQ_CST);
}

/* A vCPU is paused all the time, by signal and by immediate_exit, while interrupts come one by one. */
static void pause_loses_no_interrupt(void **state)
{
	static const uint8_t loop[] = { 0xfb, 0xf4, 0xeb, 0xfc };	  /* sti; 1: hlt; jmp 1b */
	static const uint8_t handler[] = { 0x66, 0xff, 0x06, 0x00, 0x50, /* incl 0x5000 */
					   0x26, 0x66, 0xc7, 0x06, 0xb0, 0x00, 0, 0, 0, 0, /* movl $0,%es:0xb0 */
					   0xcf };
	int e = eventfd(0, EFD_NONBLOCK);
	struct runner r;
	struct bed b;

	bed_open(&b);
	assert_int_equal(set_slot(&b, 0, 0, 0, MEM, b.mem), 0);
	assert_int_equal(route(&b, 0x40), 0);
	assert_int_equal(irqfd(&b, e, 24, 0), 0);
	memcpy(b.mem + CODE, loop, sizeof(loop));
	memcpy(b.mem + HANDLER, handler, sizeof(handler));
	store_le32(b.mem + 0x40 * 4, HANDLER);
	start_at(&b, 0, CODE, 0xfee00000, 2);
	runner_start(&r, &b, 0);
	for (unsigned i = 1; i <= rounds; i++) {
		eventfd_write(e, 1);
		while (word(&b, 0x5000) != i && !r.failed) {
			uint8_t now = rand() & 1;

			__atomic_store_n(&b.run[0]->immediate_exit, now, __ATOMIC_SEQ_CST);
			pthread_kill(r.thread, SIGUSR1);
			__atomic_store_n(&b.run[0]->immediate_exit, 0, __ATOMIC_SEQ_CST);
		}
		assert_false(r.failed);
	}
	runner_end(&r);
	assert_int_equal(word(&b, 0x5000), rounds);
	close(e);
	bed_close(&b);
}

#define PAGES	 16u
#define LOG_GPA	 0x10000u
#define LOG_HOST 0x80000u

/* Guest: a word in each of 16 pages counts, for ever. */
static void put_counter(struct bed *b)
{
	static const uint8_t code[] = {
		0xb8, 0x00, 0x10, 0x8e, 0xc0,	    /* 1: mov $0x1000,%ax; mov %ax,%es */
		0xb9, 0x10, 0x00, 0x31, 0xff,	    /* mov $16,%cx; xor %di,%di */
		0x26, 0x66, 0xff, 0x05,		    /* 2: incl %es:(%di) */
		0x81, 0xc7, 0x00, 0x10, 0xe2, 0xf6, /* add $0x1000,%di; loop 2b */
		0xeb, 0xea,			    /* jmp 1b */
	};

	memcpy(b->mem + CODE, code, sizeof(code));
	start_at(b, 0, CODE, 0, 2);
}

/* What the log does not name has not changed since it was last read. */
static void log_misses_no_store(void **state)
{
	uint32_t copy[PAGES] = { 0 };
	uint64_t bits = 0;
	struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = &bits };
	struct runner r;
	struct bed b;

	bed_open(&b);
	assert_int_equal(set_slot(&b, 0, 0, 0, LOG_GPA, b.mem), 0);
	assert_int_equal(set_slot(&b, 1, KVM_MEM_LOG_DIRTY_PAGES, LOG_GPA, PAGES * 4096, b.mem + LOG_HOST), 0);
	put_counter(&b);
	for (unsigned i = 0; i < MAX(rounds / 4, 20u); i++) {
		uint32_t before = word(&b, LOG_HOST + 15 * 4096);

		runner_start(&r, &b, 0);
		while (word(&b, LOG_HOST + 15 * 4096) == before && !r.failed)
			sched_yield();
		for (unsigned n = 0; n < 20; n++) {
			/* Written again before it is looked at is seen; after it, is named the next time. */
			if (n == 19)
				runner_end(&r);
			assert_int_equal(call(&b, b.vm, KVM_GET_DIRTY_LOG, &log), 0);
			for (unsigned p = 0; p < PAGES; p++)
				if (bits >> p & 1)
					copy[p] = word(&b, LOG_HOST + p * 4096);
		}
		for (unsigned p = 0; p < PAGES; p++)
			assert_int_equal(copy[p], word(&b, LOG_HOST + p * 4096));
	}
	assert_true(copy[PAGES - 1] > 0);
	bed_close(&b);
}

/* When the call that takes memory away returns, nobody stores there any more. */
static void slot_taken_away_is_silent(void **state)
{
	uint8_t *half[2];
	struct runner r;
	struct bed b;

	bed_open(&b);
	half[0] = b.mem + LOG_HOST;
	half[1] = half[0] + PAGES * 4096;
	assert_int_equal(set_slot(&b, 0, 0, 0, LOG_GPA, b.mem), 0);
	put_counter(&b);
	runner_start(&r, &b, 0);
	for (unsigned i = 0; i < rounds; i++) {
		uint8_t *host = half[i & 1];
		uint32_t before, after;

		assert_int_equal(set_slot(&b, 1, 0, LOG_GPA, PAGES * 4096, host), 0);
		before = word(&b, (uint32_t)(host - b.mem));
		for (unsigned n = 0; n < 100000 && word(&b, (uint32_t)(host - b.mem)) == before; n++)
			sched_yield();
		assert_int_equal(set_slot(&b, 1, 0, LOG_GPA, 0, host), 0);
		after = word(&b, (uint32_t)(host - b.mem) + 15 * 4096);
		sched_yield();
		assert_int_equal(word(&b, (uint32_t)(host - b.mem) + 15 * 4096), after);
	}
	runner_end(&r);
	bed_close(&b);
}

#define FUNCTION 0x3000u
#define SEQ	 0x5000u
#define ACK	 0x5002u
#define TIMES	 0x5004u

/* One vCPU changes what the other runs; after a serializing instruction the new code it is. */
static void code_changed_by_another(void **state)
{
	/* mov SEQ,%si; cmp %si,ACK; je; cpuid; call F; mov %si,%cx; cmp %cl,%al; jne bad;
	 * incl TIMES; mov %si,ACK; jmp; bad: out %al,$0x99 */
	static const uint8_t reader[] = {
		0x8b, 0x36, 0x00, 0x50, 0x39, 0x36, 0x02, 0x50, 0x74, 0xf6, 0x0f, 0xa2, 0xe8, 0xf1, 0x1f,
		0x89, 0xf1, 0x38, 0xc8, 0x75, 0x0b, 0x66, 0xff, 0x06, 0x04, 0x50, 0x89, 0x36, 0x02, 0x50,
		0xeb, 0xe0, 0xe6, 0x99,
	};
	/* incb F+1; mov F+1,%al; xor %ah,%ah; mov %ax,SEQ; 1: cmp %ax,ACK; jne 1b; jmp */
	static const uint8_t writer[] = {
		0xfe, 0x06, 0x01, 0x30, 0xa0, 0x01, 0x30, 0x30, 0xe4, 0xa3, 0x00, 0x50, 0x39, 0x06, 0x02,
		0x50, 0x75, 0xfa, 0xeb, 0xec,
	};
	static const uint8_t function[] = { 0xb0, 0x00, 0xc3 }; /* mov $0,%al; ret */
	struct runner r[2];
	struct bed b;

	bed_open(&b);
	add_cpu(&b, 1);
	assert_int_equal(set_slot(&b, 0, 0, 0, MEM, b.mem), 0);
	memcpy(b.mem + CODE, reader, sizeof(reader));
	memcpy(b.mem + CODE_1, writer, sizeof(writer));
	memcpy(b.mem + FUNCTION, function, sizeof(function));
	start_at(&b, 0, CODE, 0, 2);
	start_at(&b, 1, CODE_1, 0, 2);
	for (unsigned i = 0; i < 2; i++)
		runner_start(&r[i], &b, i);
	while (word(&b, TIMES) < rounds && !r[0].failed && !r[1].failed)
		sched_yield();
	for (unsigned i = 0; i < 2; i++)
		runner_end(&r[i]);
	assert_true(word(&b, TIMES) >= rounds);
	bed_close(&b);
}

/* ---- closing ------------------------------------------------------------------------------ */

struct caller {
	struct bed *b;
	int fd;
};

static void ask_and_ask(void *arg)
{
	struct caller *c = arg;
	struct kvm_regs regs;

	for (unsigned i = 0; i < 20; i++) {
		int r = call(c->b, c->fd, KVM_GET_REGS, &regs);

		/* The number may be another's by now: a VM's, or nobody's. */
		if (r && r != -EBADF && r != -ENOTTY && r != -EINVAL)
			abort();
	}
}

static void closed_while_in_use(void **state)
{
	unsigned n = MAX(rounds / 10, 20u), fds;
	struct caller c;
	struct partner p;
	struct bed b;

	bed_open(&b);
	vm_close(&b);
	c.b = &b;
	partner_start(&p, ask_and_ask, &c, n);
	fds = open_fds();
	for (unsigned i = 0; i < n; i++) {
		vm_open(&b);
		c.fd = b.cpu[0];
		pthread_barrier_wait(&p.start);
		vm_close(&b);
		pthread_barrier_wait(&p.end);
		/* A call that was under way let go of the last reference: look again. */
		vm_open(&b);
		vm_close(&b);
		assert_int_equal(open_fds(), fds);
	}
	partner_end(&p);
	vm_open(&b);
	bed_close(&b);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(irqfd_unbound_while_signalled),
		cmocka_unit_test(irqfd_rebound_loses_nothing),
		cmocka_unit_test(route_moved_while_signalled),
		cmocka_unit_test(irqfd_quiet_once_unbound),
		cmocka_unit_test(routes_replaced_while_looked_at),
		cmocka_unit_test(vm_closed_while_signalled),
		cmocka_unit_test(eventfd_serves_one),
		cmocka_unit_test(pause_loses_no_interrupt),
		cmocka_unit_test(log_misses_no_store),
		cmocka_unit_test(slot_taken_away_is_silent),
		cmocka_unit_test(code_changed_by_another),
		cmocka_unit_test(closed_while_in_use),
	};

	if (argc > 1)
		rounds = (unsigned)strtoul(argv[1], NULL, 0);
	return RUN(tests);
}
