/* SPDX-License-Identifier: MIT
 *
 * "KVM_RUN returns EINTR when an unblocked signal arrives." In the kernel that
 * is a look at TIF_SIGPENDING; here the signal's handler runs on our thread and
 * nobody tells us. So while the program has a handler for a signal, ours stands
 * before it: it notes the arrival for the vCPU that this thread runs, makes the
 * engine leave the guest, and calls the program's.
 *
 * KVM_SET_SIGNAL_MASK: a signal that only that mask lets through must end
 * KVM_RUN and be pending (not handled) when it returns. Ours keeps it and queues
 * it again once the thread's own mask is back.
 *
 * Dispositions belong to the process, hence the state at file scope. Handlers
 * are looked for at a thread's first KVM_RUN, after KVM_SET_SIGNAL_MASK, and now
 * and then; a program that installs one in between is seen a little later, so a
 * VMM should (and they all do) install its kick signal's handler first.
 */
#include "softkvm/vcpu.h"
#include <sys/syscall.h>
#include <unistd.h>

#define NR_SIGNALS   64
#define RESCAN_RUNS  1024u
#define SIG_BIT(sig) (1ull << ((sig) - 1))

/* Faults are the engine's and the program's; two cannot be caught. */
#define LEAVE_ALONE (SIG_BIT(SIGSEGV) | SIG_BIT(SIGBUS) | SIG_BIT(SIGFPE) | SIG_BIT(SIGILL) | \
		     SIG_BIT(SIGTRAP) | SIG_BIT(SIGKILL) | SIG_BIT(SIGSTOP))

static struct sigaction theirs[NR_SIGNALS + 1]; /* process-wide, as handlers are */
static pthread_mutex_t install_lock = PTHREAD_MUTEX_INITIALIZER; /* process-wide */
static _Thread_local struct soft_vcpu *current;

static int set_mask(uint64_t mask, uint64_t *old)
{
	return (int)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, old, sizeof(mask));
}

static void call_theirs(int sig, siginfo_t *info, void *context)
{
	const struct sigaction *sa = &theirs[sig];
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	uint64_t unblock, old;

	if (sa->sa_flags & SA_SIGINFO) {
		sa->sa_sigaction(sig, info, context);
		return;
	}
	if (sa->sa_handler == SIG_IGN)
		return;
	if (sa->sa_handler != SIG_DFL) {
		sa->sa_handler(sig);
		return;
	}
	/* We stand here for a mask of ours only: give the signal its default effect. */
	(void)sigaction(sig, &dfl, NULL);
	(void)syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &old, sizeof(old));
	(void)syscall(SYS_rt_tgsigqueueinfo, getpid(), thread_id(), sig, info);
	unblock = old & ~SIG_BIT(sig);
	(void)set_mask(unblock, NULL);
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	struct soft_vcpu *v = current;
	int saved_errno = errno;

	if (v) {
		struct vcpu_signals *s = &v->signals;

		atomic_store(&s->arrived, true);
		engine_vcpu_kick(v->cpu, ENGINE_KICK_EXIT);
		/* Its thread is this one: a sleeper is woken by the signal, and sees this. */
		atomic_fetch_add(&v->wake, 1);
		if (s->held & SIG_BIT(sig)) {
			if (s->nr_kept < ARRAY_SIZE(s->kept)) {
				s->kept[s->nr_kept].sig = sig;
				s->kept[s->nr_kept++].info = *info;
			}
			errno = saved_errno;
			return;
		}
	}
	errno = saved_errno;
	call_theirs(sig, info, context);
}

/* Stand before the handler of sig; `also_default`: even if there is none. */
static void take_over(int sig, bool also_default)
{
	struct sigaction cur, ours;

	if (sigaction(sig, NULL, &cur) < 0)
		return;
	if ((cur.sa_flags & SA_SIGINFO) && cur.sa_sigaction == on_signal)
		return;
	if (!(cur.sa_flags & SA_SIGINFO) && !also_default &&
	    (cur.sa_handler == SIG_DFL || cur.sa_handler == SIG_IGN))
		return;
	ours = cur;
	ours.sa_sigaction = on_signal;
	ours.sa_flags |= SA_SIGINFO;
	/* Written before ours can run. */
	theirs[sig] = cur;
	(void)sigaction(sig, &ours, NULL);
}

static void scan(uint64_t held)
{
	mutex_lock(&install_lock);
	for (int sig = 1; sig <= NR_SIGNALS; sig++)
		/* 32 and 33 are the C library's. */
		if (!(LEAVE_ALONE & SIG_BIT(sig)) && sig != 32 && sig != 33)
			take_over(sig, held & SIG_BIT(sig));
	mutex_unlock(&install_lock);
}

/*
 * The thread sanitizer's run-time keeps a signal back until its thread calls the C
 * library. Translated code never does, nor does a futex wait by system call. So with it
 * the VM's waiter has the vCPUs look up every now and then, and the look is such a call.
 */
#define NUDGE_NS 5000000ull

void signals_nudge(struct soft_timer *t)
{
	struct soft_vm *vm = container_of(t, struct soft_vm, nudge);
	unsigned nr = atomic_load(&vm->nr_vcpus);

	for (unsigned i = 0; i < nr; i++) {
		engine_vcpu_kick(vm->vcpus[i]->cpu, ENGINE_KICK_EXIT);
		vcpu_wake(vm->vcpus[i]);
	}
	timer_set(&vm->timers, t, clock_ns() + NUDGE_NS);
}

bool signals_arrived(struct soft_vcpu *v)
{
	if (WITH_TSAN) {
		sigset_t pending;

		(void)sigemptyset(&pending);
	}
	return atomic_load(&v->signals.arrived);
}

void signals_enter(struct soft_vcpu *v)
{
	struct vcpu_signals *s = &v->signals;
	uint64_t blocked = 0;

	s->outer = current;
	s->nr_kept = 0;
	s->held = 0;
	atomic_store(&s->arrived, false);
	if (s->mask_set) {
		(void)syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &blocked, sizeof(blocked));
		s->held = blocked & ~s->mask & ~LEAVE_ALONE;
	}
	if (!(s->runs++ % RESCAN_RUNS))
		scan(s->held);
	current = v;
	atomic_signal_fence(memory_order_seq_cst);
	if (s->mask_set)
		(void)set_mask(s->mask, &s->old);
}

void signals_leave(struct soft_vcpu *v)
{
	struct vcpu_signals *s = &v->signals;

	if (s->mask_set)
		(void)set_mask(s->old, NULL);
	atomic_signal_fence(memory_order_seq_cst);
	current = s->outer;
	for (uint32_t i = 0; i < s->nr_kept; i++)
		(void)syscall(SYS_rt_tgsigqueueinfo, getpid(), thread_id(), s->kept[i].sig,
			      &s->kept[i].info);
}
