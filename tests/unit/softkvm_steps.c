/* SPDX-License-Identifier: MIT
 * An event at every instruction of KVM_RUN's way into the guest, or into its sleep.
 *
 * The vCPU's thread belongs to a child, which this process traces. It is stepped once
 * through KVM_RUN until it is in translated code or asleep. Then for each instruction
 * that it passed: a breakpoint holds it there; the event comes, from another thread of
 * the child or from here, and does all it can; the vCPU goes on, and must notice. So a
 * window of one instruction between "looked" and "slept" is met as surely as a wide one.
 */
#include "../lib/check.h"
#include "softkvm/softkvm.h"
#include <ctype.h>
#include <dirent.h>
#include <inttypes.h>
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

/* Under asan there are several times as many: some of them. */
#ifdef __SANITIZE_ADDRESS__
#define EVERY 31
#else
#define EVERY 1
#endif

#define WAY_MAX 16384u
#define MEM	 0x10000u
#define CODE	 0x1000u
#define HANDLER	 0x1100u /* of VECTOR; that of the NMI 16 bytes further */
#define COUNT	 0x2000u /* the loop's turns */
#define WATCHED	 0x8000u /* a page of a slot of its own */
#define VECTOR	 0x40u
#define GSI	 24u
#define SAYS_IRQ 0x10u /* ports */
#define SAYS_NMI 0x11u
#define SAYS_NEW 0x12u

#define SIG_EVENT SIGUSR1
#define SIG_ROUND SIGUSR2

enum event { EV_SIGNAL, EV_IRQFD, EV_MSI, EV_NMI, EV_SLOT };

/* What both processes see. */
struct board {
	_Atomic uint32_t event; /* what the round is about */
	_Atomic uint32_t halted, led; /* led: another vCPU, asleep, listens to the irqfds */
	uint8_t *mem;		      /* the guest's */
	/* What came of the last round. */
	_Atomic int32_t result;
	_Atomic uint32_t reason, port;
};

/* ---- the child: a VM, its vCPU's thread and one that does calls -------------------------- */

struct guest {
	struct board *board;
	void *ctx;
	int sys, vm, cpu, irq, command;
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
	struct kvm_msi msi = { .address_lo = 0xfee00000 };
	eventfd_t n;

	while (!eventfd_read(v->command, &n)) {
		switch (atomic_load(&v->board->event)) {
		case EV_NMI:
		case EV_MSI:
			msi.data = atomic_load(&v->board->event) == EV_NMI ? 4u << 8 : VECTOR;
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
	int cpu = call(v, v->vm, KVM_CREATE_VCPU, (void *)1);

	need(cpu >= 0 && !call(v, cpu, KVM_SET_MP_STATE, &mp), "a second vCPU");
	need(!call(v, cpu, KVM_RUN, NULL), "a second vCPU that sleeps");
	return NULL;
}

static void put_guest(uint8_t *mem)
{
	static const uint8_t loop[] = {
		0xff, 0x06, COUNT & 0xff, COUNT >> 8, /* inc word [COUNT] */
		0xa0, WATCHED & 0xff, WATCHED >> 8,   /* mov al, [WATCHED] */
		0x84, 0xc0,			      /* test al, al */
		0x74, 0xf5,			      /* jz */
		0xe6, SAYS_NEW,			      /* out SAYS_NEW, al */
		0xeb, 0xf1,
	};
	static const uint8_t on_irq[] = { 0xe6, SAYS_IRQ, 0xeb, 0xfc };
	static const uint8_t on_nmi[] = { 0xe6, SAYS_NMI, 0xeb, 0xfc };

	memcpy(mem + CODE, loop, sizeof(loop));
	memcpy(mem + HANDLER, on_irq, sizeof(on_irq));
	memcpy(mem + HANDLER + 16, on_nmi, sizeof(on_nmi));
	store_le16(mem + VECTOR * 4, HANDLER);
	store_le16(mem + 2 * 4, HANDLER + 16);
}

static void make_vm(struct guest *v)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e;
	} route = { .head.nr = 1, .e = { .gsi = GSI, .type = KVM_IRQ_ROUTING_MSI } };
	struct kvm_irqfd f = { .fd = (uint32_t)v->irq, .gsi = GSI };
	struct kvm_sregs s;

	need(!softkvm_create(&v->ctx, NULL), "softkvm");
	v->sys = softkvm_ops.open(v->ctx);
	v->vm = call(v, v->sys, KVM_CREATE_VM, NULL);
	need(v->vm >= 0 && !call(v, v->vm, KVM_CREATE_IRQCHIP, NULL), "a VM");
	v->cpu = call(v, v->vm, KVM_CREATE_VCPU, NULL);
	need(v->cpu >= 0 && !softkvm_ops.mmap(v->ctx, v->cpu, 12288, 0, (void **)&v->run), "a vCPU");
	its_run = v->run;
	v->mem = v->board->mem;
	v->pages = v->mem + MEM;
	v->pages[4096] = 1;
	put_guest(v->mem);
	need(!set_slot(v, 0, 0, WATCHED, v->mem) && !set_slot(v, 1, WATCHED, 4096, v->pages), "slots");
	route.e.u.msi.address_lo = 0xfee00000;
	route.e.u.msi.data = VECTOR;
	need(!call(v, v->vm, KVM_SET_GSI_ROUTING, &route) && !call(v, v->vm, KVM_IRQFD, &f), "an irqfd");
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

	finish_run(v);
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
	} while (!r && v->run->exit_reason == KVM_EXIT_MMIO);
	atomic_store(&b->result, r);
	atomic_store(&b->reason, v->run->exit_reason);
	atomic_store(&b->port, v->run->io.port);
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

/* R, S, t, ... as /proc says. */
static char state_of(pid_t pid, const char *tid)
{
	char path[300], text[512] = "", *p;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%s/stat", pid, tid);
	f = fopen(path, "r");
	if (!f)
		return 'X';
	(void)!fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	p = strrchr(text, ')');
	return p ? p[2] : 'X';
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
			all = state_of(pid, e->d_name) == 'S';
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
	close(t->v.irq);
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

/* As far as the next round's begin. */
static void finish(struct tracer *t, const char *where, unsigned k)
{
	int sig;

	go_on(t, PTRACE_CONT);
	while ((sig = stopped(t, where, k)) != SIG_ROUND) {
		t->sig = sig == SIGTRAP ? 0 : sig;
		go_on(t, PTRACE_CONT);
	}
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
	char tid[16];

	snprintf(tid, sizeof(tid), "%d", t->pid);
	go_on(t, PTRACE_SINGLESTEP);
	while (waitpid(t->pid, &status, __WALL | (may_sleep ? WNOHANG : 0)) != t->pid)
		if (state_of(t->pid, tid) == 'S')
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
	else
		assert_int_equal(eventfd_write(event == EV_IRQFD ? t->v.irq : t->v.command, 1), 0);
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
	t->v.irq = eventfd(0, EFD_NONBLOCK);
	t->v.command = eventfd(0, 0);
	find_text(t);
	t->pid = fork();
	assert_true(t->pid >= 0);
	if (!t->pid)
		child(&t->v);
}

static bool tracer_attach(struct tracer *t)
{
	int sig;

	if (ptrace(PTRACE_SEIZE, t->pid, NULL, NULL)) {
		fprintf(stderr, "skip: ptrace: %s\n", strerror(errno));
		return false;
	}
	/* It may have begun its first round before. */
	assert_int_equal(ptrace(PTRACE_INTERRUPT, t->pid, NULL, NULL), 0);
	do {
		sig = stopped(t, "begin", 0);
		if (sig != SIG_ROUND)
			go_on(t, PTRACE_CONT);
	} while (sig != SIG_ROUND);
	return true;
}

/* The instructions on the way, each once, in their order; and the event at its end. */
static unsigned find_way(struct tracer *t, enum event event, uint64_t *way)
{
	enum place at;
	unsigned n = 0;

	while ((at = one_step(t)) == IN_KVM) {
		unsigned i = 0;

		while (i < n && way[i] != t->rip)
			i++;
		if (i < n)
			continue;
		assert_true(n < WAY_MAX);
		way[n++] = t->rip;
	}
	happen(t, event);
	/* The last step ends when it has woken up. */
	if (at == ASLEEP) {
		int sig = stopped(t, "asleep", n);

		t->sig = sig == SIGTRAP ? 0 : sig;
	}
	finish(t, "at the end", n);
	return n;
}

static int debug_reg(struct tracer *t, unsigned i, uint64_t value)
{
	return (int)ptrace(PTRACE_POKEUSER, t->pid, offsetof(struct user, u_debugreg) + i * 8, (void *)value);
}

/*
 * From a round's begin to where the instruction is first met. False: to the way's end, since it was not
 * (another way, this time), or is none.
 */
static bool run_to(struct tracer *t, uint64_t rip)
{
	struct board *b = t->v.board;
	uint16_t before = load_le16(b->mem + COUNT);
	char tid[16];
	int status;
	pid_t got;

	snprintf(tid, sizeof(tid), "%d", t->pid);
	assert_int_equal(debug_reg(t, 0, rip), 0);
	assert_int_equal(debug_reg(t, 7, 1), 0);
	go_on(t, PTRACE_CONT);
	while ((got = waitpid(t->pid, &status, __WALL | WNOHANG)) == 0 &&
	       (b->halted ? state_of(t->pid, tid) != 'S' : load_le16(b->mem + COUNT) == before))
		sched_yield();
	if (!got) {
		assert_int_equal(ptrace(PTRACE_INTERRUPT, t->pid, NULL, NULL), 0);
		(void)stopped(t, "looking for the instruction", 0);
	} else if (got != t->pid || !WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP) {
		lost(t, "looking for the instruction", 0, "it stopped for something else");
	}
	assert_int_equal(debug_reg(t, 7, 0), 0);
	return got;
}

enum way { TO_GUEST, TO_SLEEP, TO_SLEEP_LED };

static void sweep(enum event event, enum way kind, int result, unsigned port)
{
	static const char *const names[] = { "into the guest", "to sleep", "to sleep, while another listens" };
	const char *where = names[kind];
	static uint64_t way[WAY_MAX];
	unsigned met = 0, n;
	struct tracer t;

	tracer_start(&t, kind == TO_SLEEP_LED);
	if (!tracer_attach(&t)) {
		tracer_end(&t);
		skip();
	}
	atomic_store(&t.v.board->event, event);
	atomic_store(&t.v.board->halted, kind != TO_GUEST);
	/* The board's words hold from the next round's begin; in the round after it does all that is done once. */
	for (unsigned i = 0; i < 2; i++) {
		if (i)
			(void)run_to(&t, 0);
		happen(&t, i ? event : EV_SIGNAL);
		finish(&t, where, 0);
	}
	n = find_way(&t, event, way);
	for (unsigned k = 0; k < n; k += EVERY) {
		struct board *b = t.v.board;

		met += run_to(&t, way[k]);
		happen(&t, event);
		finish(&t, where, k);
		if (b->result != result || (!result && (b->reason != KVM_EXIT_IO || b->port != port)))
			lost(&t, where, k, "KVM_RUN said something else");
	}
	printf("  %s: %u instructions, held at %u\n", where, n, met);
	tracer_end(&t);
	assert_true(met >= n / EVERY / 2);
}

static void signal_comes(void **state)
{
	for (enum way w = TO_GUEST; w <= TO_SLEEP_LED; w++)
		sweep(EV_SIGNAL, w, -EINTR, 0);
}

/* Who hears one for another does not listen any more: nobody leads for long. */
static void irqfd_comes(void **state)
{
	sweep(EV_IRQFD, TO_GUEST, 0, SAYS_IRQ);
	sweep(EV_IRQFD, TO_SLEEP, 0, SAYS_IRQ);
}

static void message_comes(void **state)
{
	for (enum way w = TO_GUEST; w <= TO_SLEEP_LED; w++)
		sweep(EV_MSI, w, 0, SAYS_IRQ);
}

static void nmi_comes(void **state)
{
	for (enum way w = TO_GUEST; w <= TO_SLEEP_LED; w++)
		sweep(EV_NMI, w, 0, SAYS_NMI);
}

static void slot_changes(void **state)
{
	sweep(EV_SLOT, TO_GUEST, 0, SAYS_NEW);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(signal_comes),
		cmocka_unit_test(irqfd_comes),
		cmocka_unit_test(message_comes),
		cmocka_unit_test(nmi_comes),
		cmocka_unit_test(slot_changes),
	};

	return RUN(tests);
}
