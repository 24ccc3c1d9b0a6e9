/* SPDX-License-Identifier: MIT
 * An event at every instruction of KVM_RUN's way into the guest, to sleep, or awake again.
 *
 * The vCPU's thread belongs to a child, which this process traces. It is stepped once
 * along the way, until it is in translated code or asleep. Then for each instruction
 * that it passed: a breakpoint holds it there; the event comes, from another thread of
 * the child or from here, and does all it can; the vCPU goes on, and must notice. So a
 * window of one instruction between "looked" and "slept" is met as surely as a wide one.
 * `softkvm_steps 1` takes each instruction, not some of them (make check-long).
 */
#include "../lib/check.h"
#include "../lib/process.h"
#include "softkvm/softkvm.h"
#include <ctype.h>
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

/* Some of the instructions; under asan there are several times as many. */
#ifdef __SANITIZE_ADDRESS__
#define EVERY 31
#else
#define EVERY 3
#endif

#define WAY_MAX 16384u
#define MEM	 0x10000u
#define CODE	 0x1000u
#define HANDLER	 0x1100u /* of VECTOR; that of the NMI 16 bytes further */
#define COUNT	 0x2000u /* the loop's turns */
#define WATCHED	 0x8000u /* a page of a slot of its own */
#define VECTOR	 0x40u
#define GSI	 24u /* VECTOR of vCPU 0; the next one that of vCPU 1, which never runs */
#define PORT	 0x10u
#define SAYS_IRQ 0u /* at PORT + n: that VECTOR has come */
#define SAYS_NMI 1u
#define SAYS_NEW 2u /* that the watched page is another one */

#define SIG_EVENT SIGUSR1
#define SIG_ROUND SIGUSR2

static unsigned every = EVERY;

enum event { EV_SIGNAL, EV_IRQFD, EV_OTHER, EV_MSI, EV_NMI, EV_SLOT };

/* What both processes see. */
struct board {
	_Atomic bool traced;	/* the first round may begin */
	_Atomic uint32_t event; /* what the round is about */
	_Atomic uint32_t halted, led; /* led: another vCPU, asleep, listens to the irqfds */
	uint8_t *mem;		      /* the guest's */
	/* A round lasts until the guest has said all this (bits), or, if it is none, until EINTR. */
	_Atomic uint32_t want;
	_Atomic uint32_t says; /* so far */
	/* What came of the last round. */
	_Atomic int32_t result;
	_Atomic uint32_t said;
};

/* ---- the child: a VM, its vCPU's thread and one that does calls -------------------------- */

struct guest {
	struct board *board;
	void *ctx;
	int sys, vm, cpu, irq[2], command;
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

/* The command is the event's number, and one. */
static void *partner(void *arg)
{
	struct guest *v = arg;
	struct kvm_msi msi = { .address_lo = 0xfee00000 };
	eventfd_t n;

	while (!eventfd_read(v->command, &n)) {
		switch (n - 1) {
		case EV_NMI:
		case EV_MSI:
			msi.data = n - 1 == EV_NMI ? 4u << 8 : VECTOR;
			need(call(v, v->vm, KVM_SIGNAL_MSI, &msi) == 1, "KVM_SIGNAL_MSI");
			break;
		case EV_SLOT:
			need(!set_slot(v, 1, WATCHED, 0, v->pages), "no page");
			need(!set_slot(v, 1, WATCHED, 4096, v->pages + 4096), "another page");
			break;
		}
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
		0xff, 0x06, COUNT & 0xff, COUNT >> 8, /* inc word [COUNT] */
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
		struct kvm_irqfd f = { .fd = (uint32_t)v->irq[i], .gsi = GSI + i };

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
	v->mem = v->board->mem;
	v->pages = v->mem + MEM;
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
	struct kvm_mp_state mp = { atomic_load(&v->board->halted) ? KVM_MP_STATE_HALTED : KVM_MP_STATE_RUNNABLE };
	struct kvm_lapic_state posted;

	atomic_store(&v->board->says, 0);
	finish_run(v);
	/* What is posted and was not taken is in IRR by this, and gone with it. */
	need(!call(v, v->cpu, KVM_GET_LAPIC, &posted), "local APIC");
	if (atomic_load(&v->board->event) == EV_SLOT)
		old_slot(v);
	need(!call(v, v->cpu, KVM_SET_REGS, &v->regs) && !call(v, v->cpu, KVM_SET_LAPIC, &v->lapic) &&
	     !call(v, v->cpu, KVM_SET_VCPU_EVENTS, &v->events) && !call(v, v->cpu, KVM_SET_MP_STATE, &mp), "state");
}

static void run_round(struct guest *v)
{
	struct board *b = v->board;
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

static _Noreturn void child(struct guest *v)
{
	struct sigaction event = { .sa_handler = on_event }, round = { .sa_handler = on_round };
	pthread_t t;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigaction(SIG_EVENT, &event, NULL);
	sigaction(SIG_ROUND, &round, NULL);
	make_vm(v);
	need(!pthread_create(&t, NULL, partner, v), "a thread");
	if (atomic_load(&v->board->led))
		need(!pthread_create(&t, NULL, leader, v), "a thread");
	while (!atomic_load(&v->board->traced))
		sched_yield();
	for (;;) {
		begin_round(v);
		(void)syscall(SYS_tgkill, getpid(), getpid(), SIG_ROUND);
		run_round(v);
	}
}

/* ---- the parent: steps and events ---------------------------------------------------------- */

struct tracer {
	struct guest v;
	pid_t pid;
	int sig;      /* to be delivered when it goes on */
	uint64_t rip; /* after a step */
	unsigned nr_text;
	struct {
		uint64_t from, to;
	} text[64]; /* code that was there before there was translated code */
};

static void find_text(struct tracer *t)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f) && t->nr_text < ARRAY_SIZE(t->text)) {
		unsigned long from, to;
		char x;

		if (sscanf(line, "%lx-%lx %*c%*c%c", &from, &to, &x) == 3 && x == 'x')
			t->text[t->nr_text].from = from, t->text[t->nr_text++].to = to;
	}
	fclose(f);
}

static bool in_text(struct tracer *t, uint64_t rip)
{
	for (unsigned i = 0; i < t->nr_text; i++)
		if (rip >= t->text[i].from && rip < t->text[i].to)
			return true;
	return false;
}

/* The child's other threads have nothing to do, or wait for what the vCPU's holds. */
static bool others_asleep(pid_t pid)
{
	char path[64];
	bool all = true;
	struct dirent *e;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	d = opendir(path);
	assert_non_null(d);
	while (all && (e = readdir(d)))
		if (isdigit((unsigned char)e->d_name[0]) && atoi(e->d_name) != pid)
			all = thread_state(pid, atoi(e->d_name)) == 'S';
	closedir(d);
	return all;
}

static void on_alarm(int sig)
{
}

static void tracer_end(struct tracer *t)
{
	kill(t->pid, SIGKILL);
	waitpid(t->pid, NULL, __WALL);
	close(t->v.irq[0]);
	close(t->v.irq[1]);
	close(t->v.command);
	munmap(t->v.board->mem, MEM + 8192);
	munmap(t->v.board, 4096);
}

static _Noreturn void lost(struct tracer *t, const char *where, unsigned k, const char *what)
{
	alarm(0);
	tracer_end(t);
	fail_msg("%s, instruction %u: %s", where, k, what);
	abort(); /* not reached */
}

/* Until the child stops: the signal, which it has not got yet (SIGTRAP: a step is done). */
static int stopped(struct tracer *t, const char *where, unsigned k)
{
	int status;

	alarm(60);
	if (waitpid(t->pid, &status, __WALL) != t->pid)
		lost(t, where, k, "nothing came of it");
	alarm(0);
	if (!WIFSTOPPED(status))
		lost(t, where, k, "the child ended");
	return WSTOPSIG(status);
}

static void go_on(struct tracer *t, enum __ptrace_request how)
{
	assert_int_equal(ptrace(how, t->pid, NULL, (void *)(uintptr_t)t->sig), 0);
	t->sig = 0;
	t->rip = 0;
}

/* It is running, as far as the next round's begin. */
static void await_round(struct tracer *t, const char *where, unsigned k)
{
	int sig;

	while ((sig = stopped(t, where, k)) != SIG_ROUND) {
		t->sig = sig == SIGTRAP ? 0 : sig;
		go_on(t, PTRACE_CONT);
	}
}

/* The same of one that is stopped. */
static void finish(struct tracer *t, const char *where, unsigned k)
{
	go_on(t, PTRACE_CONT);
	await_round(t, where, k);
}

enum place { IN_KVM, IN_GUEST, ASLEEP };

/* Where it is: the child's code lies where ours does. */
static bool at_syscall(struct tracer *t)
{
	const uint8_t *p = (const uint8_t *)(uintptr_t)t->rip;

	return p && p[0] == 0x0f && p[1] == 0x05;
}

/* After a system call that does not come back, and only there, it is asleep. */
static enum place one_step(struct tracer *t)
{
	bool may_sleep = at_syscall(t);
	int status, sig;

	go_on(t, PTRACE_SINGLESTEP);
	while (waitpid(t->pid, &status, __WALL | (may_sleep ? WNOHANG : 0)) != t->pid)
		if (thread_state(t->pid, t->pid) == 'S')
			return ASLEEP;
	assert_true(WIFSTOPPED(status));
	sig = WSTOPSIG(status);
	if (sig != SIGTRAP)
		t->sig = sig;
	t->rip = (uint64_t)ptrace(PTRACE_PEEKUSER, t->pid, offsetof(struct user_regs_struct, rip), NULL);
	return in_text(t, t->rip) ? IN_KVM : IN_GUEST;
}

static void happen(struct tracer *t, enum event event)
{
	if (event == EV_SIGNAL)
		assert_int_equal(syscall(SYS_tgkill, t->pid, t->pid, SIG_EVENT), 0);
	else if (event == EV_IRQFD || event == EV_OTHER)
		assert_int_equal(eventfd_write(t->v.irq[event == EV_OTHER], 1), 0);
	else
		assert_int_equal(eventfd_write(t->v.command, event + 1), 0);
	/* One that looks again and again for the vCPU to leave does all it can, too. */
	for (uint64_t until = clock_ns() + 3000000; !others_asleep(t->pid) && clock_ns() < until;)
		sched_yield();
}

static void tracer_start(struct tracer *t, bool led)
{
	struct sigaction sa = { .sa_handler = on_alarm };

	*t = (struct tracer){ .v.board = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) };
	assert_true(t->v.board != MAP_FAILED);
	t->v.board->mem = mmap(NULL, MEM + 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(t->v.board->mem != MAP_FAILED);
	atomic_store(&t->v.board->led, led);
	sigaction(SIGALRM, &sa, NULL);
	t->v.irq[0] = eventfd(0, EFD_NONBLOCK);
	t->v.irq[1] = eventfd(0, EFD_NONBLOCK);
	t->v.command = eventfd(0, 0);
	find_text(t);
	t->pid = fork();
	assert_true(t->pid >= 0);
	if (!t->pid)
		child(&t->v);
}

/* As far as the first round's begin. */
static bool tracer_attach(struct tracer *t)
{
	if (ptrace(PTRACE_SEIZE, t->pid, NULL, NULL)) {
		fprintf(stderr, "skip: ptrace: %s\n", strerror(errno));
		return false;
	}
	/* A round that began unseen would not end. */
	atomic_store(&t->v.board->traced, true);
	await_round(t, "begin", 0);
	return true;
}

static int debug_reg(struct tracer *t, unsigned i, uint64_t value)
{
	return (int)ptrace(PTRACE_POKEUSER, t->pid, offsetof(struct user, u_debugreg) + i * 8, (void *)value);
}

/* ---- the ways ------------------------------------------------------------------------------- */

/* LED: while another vCPU listens to the irqfds; else this one does, in its sleep. */
enum way { TO_GUEST, TO_SLEEP, TO_SLEEP_LED, AWAKE, AWAKE_LED, NR_WAYS };

static const char *const way_names[NR_WAYS] = {
	"into the guest", "to sleep", "to sleep, while another listens", "awake", "awake, while another listened",
};

static bool wakes(enum way w)
{
	return w == AWAKE || w == AWAKE_LED;
}

/* Let it go on until it is at the end of its way: false. True: at a breakpoint before. */
static bool go_on_to_end(struct tracer *t)
{
	struct board *b = t->v.board;
	uint16_t before = load_le16(b->mem + COUNT);
	int status;
	pid_t got;

	go_on(t, PTRACE_CONT);
	while ((got = waitpid(t->pid, &status, __WALL | WNOHANG)) == 0 &&
	       (b->halted ? thread_state(t->pid, t->pid) != 'S' : load_le16(b->mem + COUNT) == before))
		sched_yield();
	if (!got)
		return false;
	if (got != t->pid || !WIFSTOPPED(status))
		lost(t, "looking for the instruction", 0, "the child ended");
	if (WSTOPSIG(status) != SIGTRAP)
		t->sig = WSTOPSIG(status);
	return true;
}

/* The instructions on the way, each once, in their order. A signal ends the round. */
static unsigned find_way(struct tracer *t, enum way w, uint64_t *way)
{
	enum place at;
	unsigned n = 0;

	if (wakes(w)) {
		while (one_step(t) == IN_KVM)
			;
		happen(t, EV_MSI);
		if (stopped(t, way_names[w], 0) != SIGTRAP)
			lost(t, way_names[w], 0, "a signal");
	}
	/* A handler's first instruction may be one that the engine does by itself. */
	while ((at = one_step(t)) == IN_KVM && !t->v.board->says) {
		unsigned i = 0;

		while (i < n && way[i] != t->rip)
			i++;
		if (i < n)
			continue;
		assert_true(n < WAY_MAX);
		way[n++] = t->rip;
	}
	happen(t, EV_SIGNAL);
	if (at == ASLEEP)
		await_round(t, way_names[w], n);
	else
		finish(t, way_names[w], n);
	return n;
}

enum met { MET, PAST, OVER };

/*
 * From a round's begin to where the instruction is first met on its way. PAST: to the way's end, since it was
 * not (another way, this time), or is none; OVER: the round has ended.
 */
static enum met run_to(struct tracer *t, enum way w, uint64_t rip)
{
	struct board *b = t->v.board;
	enum met met = PAST;
	int status;

	assert_int_equal(debug_reg(t, 0, rip), 0);
	assert_int_equal(debug_reg(t, 7, 1), 0);
	if (!wakes(w)) {
		met = go_on_to_end(t) ? MET : PAST;
	} else {
		while (go_on_to_end(t)) /* breakpoints before its sleep */
			;
		happen(t, EV_MSI);
		while (!waitpid(t->pid, &status, __WALL | WNOHANG)) {
			if (b->says && b->says != b->want)
				goto past;
			sched_yield();
		}
		met = WIFSTOPPED(status) && WSTOPSIG(status) == SIG_ROUND ? OVER : MET;
	}
past:
	if (met == PAST) {
		assert_int_equal(ptrace(PTRACE_INTERRUPT, t->pid, NULL, NULL), 0);
		(void)stopped(t, way_names[w], 0);
	}
	assert_int_equal(debug_reg(t, 7, 0), 0);
	return met;
}

/* ---- sweeps ---------------------------------------------------------------------------------- */

/* Somebody has heard the other vCPU's irqfd. */
static void wait_taken(struct tracer *t, enum way w, unsigned k)
{
	struct pollfd p = { .fd = t->v.irq[1], .events = POLLIN };

	for (uint64_t until = clock_ns() + 60000000000ull; poll(&p, 1, 0) == 1; sched_yield())
		if (clock_ns() > until)
			lost(t, way_names[w], k, "nobody heard an irqfd");
}

/* After the event, as far as the next round's begin. */
static void end_round(struct tracer *t, enum event event, enum way w, unsigned k)
{
	struct board *b = t->v.board;
	bool interrupted = event == EV_SIGNAL;

	if (event == EV_OTHER && !wakes(w)) {
		/* Not this vCPU's: a signal ends the round. */
		go_on(t, PTRACE_CONT);
		wait_taken(t, w, k);
		happen(t, EV_SIGNAL);
		await_round(t, way_names[w], k);
		interrupted = true;
	} else {
		finish(t, way_names[w], k);
	}
	if (event == EV_OTHER)
		wait_taken(t, w, k);
	if (b->result != (interrupted ? -EINTR : 0) || (!interrupted && (b->said & b->want) != b->want))
		fprintf(stderr, "  KVM_RUN: %d; the guest: %#x, wanted %#x\n", b->result, b->said, b->want);
	if (b->result != (interrupted ? -EINTR : 0) || (!interrupted && (b->said & b->want) != b->want))
		lost(t, way_names[w], k, "KVM_RUN said something else");
}

static const uint32_t wants[] = {
	[EV_IRQFD] = BIT(SAYS_IRQ), [EV_MSI] = BIT(SAYS_IRQ), [EV_NMI] = BIT(SAYS_NMI), [EV_SLOT] = BIT(SAYS_NEW),
	[EV_OTHER] = 0, [EV_SIGNAL] = 0,
};

static void sweep(enum event event, enum way w)
{
	static uint64_t way[WAY_MAX];
	unsigned met = 0, n;
	struct tracer t;
	struct board *b;

	tracer_start(&t, w == TO_SLEEP_LED || w == AWAKE_LED);
	if (!tracer_attach(&t)) {
		tracer_end(&t);
		skip();
	}
	b = t.v.board;
	b->event = event;
	b->halted = w != TO_GUEST;
	/* What wakes it is seen too; but a signal may come before it. */
	b->want = wants[event] | (wakes(w) && event != EV_SIGNAL ? BIT(SAYS_IRQ) : 0);
	/* These hold from the next round's begin; in the round after it does all that is done once. */
	happen(&t, EV_SIGNAL);
	finish(&t, way_names[w], 0);
	if (run_to(&t, w, 0) != OVER) {
		happen(&t, EV_SIGNAL);
		finish(&t, way_names[w], 0);
	}
	n = find_way(&t, w, way);
	for (unsigned k = 0; k < n; k += every) {
		enum met m = run_to(&t, w, way[k]);

		if (m == OVER)
			continue;
		met += m == MET;
		happen(&t, event);
		end_round(&t, event, w, k);
	}
	printf("  %s: %u instructions, held at %u\n", way_names[w], n, met);
	tracer_end(&t);
	assert_true(met >= n / every / 2);
}

static void signal_comes(void **state)
{
	for (enum way w = 0; w < NR_WAYS; w++)
		sweep(EV_SIGNAL, w);
}

/* Who hears one for another does not listen any more: nobody else leads for long. */
static void irqfd_comes(void **state)
{
	sweep(EV_IRQFD, TO_GUEST);
	sweep(EV_IRQFD, TO_SLEEP);
}

static void irqfd_of_another_comes(void **state)
{
	sweep(EV_OTHER, TO_GUEST);
	sweep(EV_OTHER, TO_SLEEP);
	sweep(EV_OTHER, AWAKE);
}

static void message_comes(void **state)
{
	for (enum way w = TO_GUEST; w <= TO_SLEEP_LED; w++)
		sweep(EV_MSI, w);
}

static void nmi_comes(void **state)
{
	for (enum way w = 0; w < NR_WAYS; w++)
		sweep(EV_NMI, w);
}

static void slot_changes(void **state)
{
	sweep(EV_SLOT, TO_GUEST);
	sweep(EV_SLOT, AWAKE);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(signal_comes),
		cmocka_unit_test(irqfd_comes),
		cmocka_unit_test(irqfd_of_another_comes),
		cmocka_unit_test(message_comes),
		cmocka_unit_test(nmi_comes),
		cmocka_unit_test(slot_changes),
	};

	if (argc > 1)
		every = MAX((unsigned)strtoul(argv[1], NULL, 0), 1u);
	return RUN(tests);
}
