/* SPDX-License-Identifier: MIT */
#include "steps.h"
#include "check.h"
#include "base/clock.h"
#include "process.h"
#include <ctype.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>

const uint32_t steps_wants[NR_EVENTS] = {
	[EV_IRQFD] = BIT(SAYS_IRQ), [EV_MSI] = BIT(SAYS_IRQ), [EV_NMI] = BIT(SAYS_NMI), [EV_SLOT] = BIT(SAYS_NEW),
	[EV_OTHER] = 0, [EV_SIGNAL] = 0,
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
	struct dirent *e;
	char path[64];
	bool all = true;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	d = dir_open(path);
	while (all && (e = readdir(d)))
		if (isdigit((unsigned char)e->d_name[0]) && atoi(e->d_name) != pid)
			all = thread_state(pid, atoi(e->d_name)) == 'S';
	closedir(d);
	return all;
}

static void on_alarm(int sig)
{
}

void tracer_end(struct tracer *t)
{
	kill(t->pid, SIGKILL);
	/* Its first thread is not done with before the others that are traced. */
	if (t->partner)
		waitpid(t->partner, NULL, __WALL);
	waitpid(t->pid, NULL, __WALL);
	close(t->c.irq[0]);
	close(t->c.irq[1]);
	close(t->c.command);
	munmap(t->c.board->mem, STEPS_MEM + 8192);
	munmap(t->c.board, 4096);
}

_Noreturn void tracer_lost(struct tracer *t, const char *where, unsigned k, const char *what)
{
	alarm(0);
	tracer_end(t);
	fail_msg("%s, instruction %u: %s", where, k, what);
	abort(); /* not reached */
}

#define PATIENCE 60u /* seconds */

uint64_t tracer_patience(void)
{
	return clock_ns() + PATIENCE * NSEC_PER_SEC;
}

void tracer_wait_more(struct tracer *t, uint64_t until, const char *where, unsigned k, const char *what)
{
	if (clock_ns() > until)
		tracer_lost(t, where, k, what);
	sched_yield();
}

int tracer_stopped(struct tracer *t, pid_t tid, const char *where, unsigned k)
{
	int status;

	alarm(PATIENCE);
	if (waitpid(tid, &status, __WALL) != tid)
		tracer_lost(t, where, k, "nothing came of it");
	alarm(0);
	if (!WIFSTOPPED(status))
		tracer_lost(t, where, k, "the child ended");
	return WSTOPSIG(status);
}

void tracer_go_on(struct tracer *t, enum __ptrace_request how)
{
	assert_int_equal(ptrace(how, t->pid, NULL, (void *)(uintptr_t)t->sig), 0);
	t->sig = 0;
	t->rip = 0;
}

void tracer_await_round(struct tracer *t, const char *where, unsigned k)
{
	int sig;

	while ((sig = tracer_stopped(t, t->pid, where, k)) != SIG_ROUND) {
		t->sig = sig == SIGTRAP ? 0 : sig;
		tracer_go_on(t, PTRACE_CONT);
	}
}

void tracer_finish(struct tracer *t, const char *where, unsigned k)
{
	tracer_go_on(t, PTRACE_CONT);
	tracer_await_round(t, where, k);
}

void passed_add(struct passed *p, uint64_t rip)
{
	for (unsigned i = 0; i < p->n; i++)
		if (p->rip[i] == rip)
			return;
	assert_true(p->n < ARRAY_SIZE(p->rip));
	p->rip[p->n++] = rip;
}

/* Where it is: the child's code lies where ours does. */
static bool at_syscall(struct tracer *t)
{
	const uint8_t *p = (const uint8_t *)(uintptr_t)t->rip;

	return p && p[0] == 0x0f && p[1] == 0x05;
}

enum place tracer_step(struct tracer *t)
{
	bool may_sleep = at_syscall(t);
	int status, sig;

	tracer_go_on(t, PTRACE_SINGLESTEP);
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

void tracer_call(struct tracer *t, enum event event)
{
	atomic_fetch_or(&t->c.board->calls, BIT(event));
	assert_int_equal(eventfd_write(t->c.command, 1), 0);
}

void tracer_happen(struct tracer *t, enum event event)
{
	if (event == EV_SIGNAL)
		assert_int_equal(syscall(SYS_tgkill, t->pid, t->pid, SIG_EVENT), 0);
	else if (event == EV_IRQFD || event == EV_OTHER)
		assert_int_equal(eventfd_write(t->c.irq[event == EV_OTHER], 1), 0);
	else
		tracer_call(t, event);
	/* One that looks again and again for the vCPU to leave does all it can, too. */
	for (uint64_t until = clock_ns() + 3000000; !others_asleep(t->pid) && clock_ns() < until;)
		sched_yield();
}

static void attach(struct tracer *t)
{
	if (ptrace(PTRACE_SEIZE, t->pid, NULL, NULL)) {
		fprintf(stderr, "skip: ptrace: %s\n", strerror(errno));
		tracer_end(t);
		skip();
	}
	/* A round that began unseen would not end. */
	atomic_store(&t->c.board->traced, true);
	tracer_await_round(t, "begin", 0);
}

void tracer_start(struct tracer *t, bool led)
{
	struct sigaction sa = { .sa_handler = on_alarm };

	*t = (struct tracer){ .c.board = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) };
	assert_true(t->c.board != MAP_FAILED);
	t->c.board->mem = mmap(NULL, STEPS_MEM + 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(t->c.board->mem != MAP_FAILED);
	atomic_store(&t->c.board->led, led);
	sigaction(SIGALRM, &sa, NULL);
	t->c.irq[0] = eventfd(0, EFD_NONBLOCK);
	t->c.irq[1] = eventfd(0, EFD_NONBLOCK);
	t->c.command = eventfd(0, 0);
	find_text(t);
	t->pid = fork();
	assert_true(t->pid >= 0);
	if (!t->pid)
		steps_child(&t->c);
	attach(t);
}

void tracer_attach_partner(struct tracer *t)
{
	pid_t tid = atomic_load(&t->c.board->partner);

	assert_int_equal(ptrace(PTRACE_SEIZE, tid, NULL, NULL), 0);
	t->partner = tid;
}

void tracer_interrupt(struct tracer *t, pid_t tid, const char *where, unsigned k)
{
	assert_int_equal(ptrace(PTRACE_INTERRUPT, tid, NULL, NULL), 0);
	(void)tracer_stopped(t, tid, where, k);
}

static void debug_reg(pid_t tid, unsigned i, uint64_t value)
{
	assert_int_equal(ptrace(PTRACE_POKEUSER, tid, offsetof(struct user, u_debugreg) + i * 8, (void *)value), 0);
}

void tracer_break(pid_t tid, uint64_t rip)
{
	if (rip)
		debug_reg(tid, 0, rip);
	debug_reg(tid, 7, rip ? 1 : 0);
}
