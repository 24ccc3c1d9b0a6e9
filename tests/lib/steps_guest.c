/* SPDX-License-Identifier: MIT
 * The process that is traced: a VM, its vCPU's thread and one that does calls.
 */
#include "steps.h"
#include "base/arith.h"
#include "softkvm/softkvm.h"
#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CODE	0x1000u
#define HANDLER 0x1100u /* of VECTOR; that of the NMI 16 bytes further */
#define WATCHED 0x8000u /* a page of a slot of its own */
#define VECTOR	0x40u
#define GSI	24u /* VECTOR of vCPU 0; the next one that of vCPU 1, which never runs */
#define PORT	0x10u /* PORT + SAYS_... */

struct guest {
	struct steps_child c;
	void *ctx;
	int sys, vm, cpu;
	struct kvm_run *run;
	uint8_t *mem, *pages; /* pages: one of zeroes, one that is not */
	struct kvm_regs regs;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
};

static struct kvm_run *its_run; /* for the signal's handler */

/* cmocka's ways out are the parent's. */
static void need(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "child: %s\n", what);
	_exit(1);
}

static int call(struct guest *v, int fd, unsigned long request, void *arg)
{
	return softkvm_ops.ioctl(v->ctx, fd, request, (uintptr_t)arg);
}

static int set_slot(struct guest *v, unsigned id, gpa_t gpa, uint64_t size, uint8_t *host)
{
	struct kvm_userspace_memory_region m = { id, 0, gpa, size, (uintptr_t)host };

	return call(v, v->vm, KVM_SET_USER_MEMORY_REGION, &m);
}

static void on_event(int sig)
{
	its_run->immediate_exit = 1;
}

static void on_round(int sig)
{
}

static void *partner(void *arg)
{
	struct guest *v = arg;
	struct kvm_msi nmi = { .address_lo = 0xfee00000, .data = 4u << 8 };
	struct kvm_msi msi = { .address_lo = 0xfee00000, .data = VECTOR };
	eventfd_t n;

	atomic_store(&v->c.board->partner, gettid());
	while (!eventfd_read(v->c.command, &n)) {
		uint32_t calls = atomic_exchange(&v->c.board->calls, 0);

		if (calls & BIT(EV_MSI))
			need(call(v, v->vm, KVM_SIGNAL_MSI, &msi) == 1, "KVM_SIGNAL_MSI");
		if (calls & BIT(EV_NMI))
			need(call(v, v->vm, KVM_SIGNAL_MSI, &nmi) == 1, "KVM_SIGNAL_MSI of an NMI");
		if (calls & BIT(EV_SLOT)) {
			need(!set_slot(v, 1, WATCHED, 0, v->pages), "no page");
			need(!set_slot(v, 1, WATCHED, 4096, v->pages + 4096), "another page");
		}
		atomic_fetch_add(&v->c.board->made, 1);
	}
	return NULL;
}

/* It sleeps, and as long as no irqfd is written it listens to them for all. */
static void *leader(void *arg)
{
	struct kvm_mp_state mp = { KVM_MP_STATE_HALTED };
	struct guest *v = arg;
	int cpu = call(v, v->vm, KVM_CREATE_VCPU, (void *)2);

	need(cpu >= 0 && !call(v, cpu, KVM_SET_MP_STATE, &mp), "another vCPU");
	need(!call(v, cpu, KVM_RUN, NULL), "another vCPU that sleeps");
	return NULL;
}

static void put_guest(uint8_t *mem)
{
	static const uint8_t loop[] = {
		0xff, 0x06, STEPS_COUNT & 0xff, STEPS_COUNT >> 8, /* inc word [STEPS_COUNT] */
		0xa0, WATCHED & 0xff, WATCHED >> 8,   /* mov al, [WATCHED] */
		0x84, 0xc0,			      /* test al, al */
		0x74, 0xf5,			      /* jz */
		0xe6, PORT + SAYS_NEW,		      /* out PORT + SAYS_NEW, al */
		0xeb, 0xf1,
	};
	static const uint8_t on_irq[] = { 0xe6, PORT + SAYS_IRQ, 0xcf }; /* out, iret */
	static const uint8_t on_nmi[] = { 0xe6, PORT + SAYS_NMI, 0xcf };

	memcpy(mem + CODE, loop, sizeof(loop));
	memcpy(mem + HANDLER, on_irq, sizeof(on_irq));
	memcpy(mem + HANDLER + 16, on_nmi, sizeof(on_nmi));
	store_le16(mem + VECTOR * 4, HANDLER);
	store_le16(mem + 2 * 4, HANDLER + 16);
}

static void make_irqfds(struct guest *v)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e[2];
	} route = { .head.nr = 2 };

	for (unsigned i = 0; i < 2; i++) {
		route.e[i].gsi = GSI + i;
		route.e[i].type = KVM_IRQ_ROUTING_MSI;
		route.e[i].u.msi.address_lo = 0xfee00000 | i << 12;
		route.e[i].u.msi.data = VECTOR;
	}
	need(!call(v, v->vm, KVM_SET_GSI_ROUTING, &route), "routes");
	for (unsigned i = 0; i < 2; i++) {
		struct kvm_irqfd f = { .fd = (uint32_t)v->c.irq[i], .gsi = GSI + i };

		need(!call(v, v->vm, KVM_IRQFD, &f), "an irqfd");
	}
}

static void make_vm(struct guest *v)
{
	struct kvm_sregs s;

	need(!softkvm_create(&v->ctx, NULL), "softkvm");
	v->sys = softkvm_ops.open(v->ctx);
	v->vm = call(v, v->sys, KVM_CREATE_VM, NULL);
	need(v->vm >= 0 && !call(v, v->vm, KVM_CREATE_IRQCHIP, NULL), "a VM");
	v->cpu = call(v, v->vm, KVM_CREATE_VCPU, NULL);
	need(v->cpu >= 0 && !softkvm_ops.mmap(v->ctx, v->cpu, 12288, 0, (void **)&v->run), "a vCPU");
	need(call(v, v->vm, KVM_CREATE_VCPU, (void *)1) >= 0, "another vCPU");
	its_run = v->run;
	v->mem = v->c.board->mem;
	v->pages = v->mem + STEPS_MEM;
	v->pages[4096] = 1;
	put_guest(v->mem);
	need(!set_slot(v, 0, 0, WATCHED, v->mem) && !set_slot(v, 1, WATCHED, 4096, v->pages), "slots");
	make_irqfds(v);
	need(!call(v, v->cpu, KVM_GET_SREGS, &s), "sregs");
	s.cs.selector = 0, s.cs.base = 0;
	need(!call(v, v->cpu, KVM_SET_SREGS, &s), "sregs");
	v->regs = (struct kvm_regs){ .rip = CODE, .rflags = 0x202, .rsp = 0x7000 };
	need(!call(v, v->cpu, KVM_GET_LAPIC, &v->lapic), "local APIC");
	v->lapic.regs[0xf1] |= 1;
	need(!call(v, v->cpu, KVM_GET_VCPU_EVENTS, &v->events), "events");
}

/* What the last run left in flight. */
static void finish_run(struct guest *v)
{
	v->run->immediate_exit = 1;
	need(call(v, v->cpu, KVM_RUN, NULL) == -EINTR, "what was in flight");
	v->run->immediate_exit = 0;
}

/* Back to the page of zeroes. The guest sees something else there once, so that its code is translated. */
static void old_slot(struct guest *v)
{
	need(!set_slot(v, 1, WATCHED, 0, v->pages) && !set_slot(v, 1, WATCHED, 4096, v->pages), "the old page");
	v->pages[0] = 1;
	need(!call(v, v->cpu, KVM_SET_REGS, &v->regs) && !call(v, v->cpu, KVM_RUN, NULL) &&
	     v->run->exit_reason == KVM_EXIT_IO, "the old page, seen");
	v->pages[0] = 0;
	finish_run(v);
}

static void begin_round(struct guest *v)
{
	struct kvm_mp_state mp = { atomic_load(&v->c.board->halted) ? KVM_MP_STATE_HALTED : KVM_MP_STATE_RUNNABLE };
	struct kvm_lapic_state posted;

	atomic_store(&v->c.board->says, 0);
	finish_run(v);
	/* What is posted and was not taken is in IRR by this, and gone with it. */
	need(!call(v, v->cpu, KVM_GET_LAPIC, &posted), "local APIC");
	if (atomic_load(&v->c.board->event) == EV_SLOT)
		old_slot(v);
	need(!call(v, v->cpu, KVM_SET_REGS, &v->regs) && !call(v, v->cpu, KVM_SET_LAPIC, &v->lapic) &&
	     !call(v, v->cpu, KVM_SET_VCPU_EVENTS, &v->events) && !call(v, v->cpu, KVM_SET_MP_STATE, &mp), "state");
}

static void run_round(struct guest *v)
{
	struct board *b = v->c.board;
	int r;

	do {
		/* While the slot is away its page is a device's, which reads as zero. */
		memset(v->run->mmio.data, 0, 8);
		r = call(v, v->cpu, KVM_RUN, NULL);
		if (!r && v->run->exit_reason == KVM_EXIT_IO)
			atomic_fetch_or(&b->says, 1u << (v->run->io.port - PORT));
		else
			need(r == -EINTR || (!r && v->run->exit_reason == KVM_EXIT_MMIO), "an exit");
	} while (!r && (!b->want || (b->says & b->want) != b->want));
	atomic_store(&b->result, r);
	atomic_store(&b->said, b->says);
}

_Noreturn void steps_child(const struct steps_child *of)
{
	struct sigaction event = { .sa_handler = on_event }, round = { .sa_handler = on_round };
	struct guest guest = { .c = *of }, *v = &guest;
	struct board *b = of->board;
	pthread_t t;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigaction(SIG_EVENT, &event, NULL);
	sigaction(SIG_ROUND, &round, NULL);
	make_vm(v);
	need(!pthread_create(&t, NULL, partner, v), "a thread");
	if (atomic_load(&b->led))
		need(!pthread_create(&t, NULL, leader, v), "a thread");
	while (!atomic_load(&b->traced) || !atomic_load(&b->partner))
		sched_yield();
	for (;;) {
		begin_round(v);
		(void)syscall(SYS_tgkill, getpid(), getpid(), SIG_ROUND);
		run_round(v);
	}
}
