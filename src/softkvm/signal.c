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
 * Dispositions belong to the process, hence the state at file scope. A program
 * whose sigaction() comes to softkvm_sigaction() (the preload library) keeps us
 * in front whatever it installs, and whenever. Others are looked at when a vCPU
 * first runs, after KVM_SET_SIGNAL_MASK, and now and then: they should install
 * their kick signal's handler before the first KVM_RUN of any vCPU.
 */
#include "softkvm/softkvm.h"
#include "softkvm/usercopy.h"
#include "softkvm/vcpu.h"
#include <sys/syscall.h>
#include <unistd.h>

#define NR_SIGNALS   64
#define RESCAN_RUNS  1024u
#define SIG_BIT(sig) (1ull << ((sig) - 1))

/* Other files' (usercopy.c, the engine): they go to the program when they are not ours. */
#define FAULTS	    (SIG_BIT(SIGSEGV) | SIG_BIT(SIGBUS) | SIG_BIT(SIGFPE) | SIG_BIT(SIGILL))
/* Two cannot be caught; 32 and 33 are the C library's. */
#define LEAVE_ALONE (FAULTS | SIG_BIT(SIGTRAP) | SIG_BIT(SIGKILL) | SIG_BIT(SIGSTOP) | \
		     SIG_BIT(32) | SIG_BIT(33))

static struct {
	pthread_mutex_t lock; /* for all but theirs */
	pthread_once_t once;
	bool scanned;	      /* a vCPU has run: the handlers there are are taken */
	bool faults_taken;    /* a context is there, and the fault handlers with it */
	uint64_t insisted;    /* ours stays, whether the program has one or not */
	uint64_t recorded;    /* whose `asked` is true */
	uint64_t fork_mask;   /* the forking thread's */
	struct sigaction asked[NR_SIGNALS + 1]; /* what the program set */
	/* Its handler where ours is, SIG_DFL and SIG_IGN included: all that ours reads. */
	_Atomic uintptr_t theirs[NR_SIGNALS + 1];
} proc = { .lock = PTHREAD_MUTEX_INITIALIZER, .once = PTHREAD_ONCE_INIT }; /* process-wide */

static _Thread_local struct soft_vcpu *current;

static int set_mask(uint64_t mask, uint64_t *old)
{
	return (int)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, old, sizeof(mask));
}

static void call_theirs(int sig, siginfo_t *info, void *context)
{
	uintptr_t handler = atomic_load(&proc.theirs[sig]);
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	uint64_t unblock, old;

	if (handler == (uintptr_t)SIG_IGN)
		return;
	if (handler != (uintptr_t)SIG_DFL) {
		/* One without SA_SIGINFO takes the first argument and leaves the others. */
		((void (*)(int, siginfo_t *, void *))handler)(sig, info, context);
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
		/* Its thread is this one, maybe just before its sleep. */
		vcpu_wake(v);
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

static bool is_ours(const struct sigaction *sa)
{
	return (sa->sa_flags & SA_SIGINFO) && sa->sa_sigaction == on_signal;
}

static bool wants_us_locked(int sig, const struct sigaction *sa)
{
	return (proc.insisted & SIG_BIT(sig)) || (sa->sa_handler != SIG_DFL && sa->sa_handler != SIG_IGN);
}

/* Install what the program wants, behind ours if that has to be. As sigaction(2). */
static int install_locked(int sig, const struct sigaction *want)
{
	struct sigaction ours = *want;

	if (!wants_us_locked(sig, want))
		return sigaction(sig, want, NULL);
	proc.asked[sig] = *want;
	/* Written before ours can run; one pointer, so ours may be running. */
	atomic_store(&proc.theirs[sig], (uintptr_t)want->sa_handler);
	ours.sa_sigaction = on_signal;
	ours.sa_flags |= SA_SIGINFO;
	return sigaction(sig, &ours, NULL);
}

static void watch_forks(void);

/* With signals blocked: a handler may call sigaction(). */
static uint64_t lock_handlers(void)
{
	uint64_t old = 0;

	(void)pthread_once(&proc.once, watch_forks);
	(void)set_mask(UINT64_MAX & ~FAULTS, &old);
	mutex_lock(&proc.lock);
	return old;
}

static void unlock_handlers(uint64_t old)
{
	mutex_unlock(&proc.lock);
	(void)set_mask(old, NULL);
}

static void fork_prepare(void)
{
	proc.fork_mask = lock_handlers();
}

static void fork_done(void)
{
	unlock_handlers(proc.fork_mask);
}

/* A child that is forked while another thread holds the lock must find it free. */
static void watch_forks(void)
{
	(void)pthread_atfork(fork_prepare, fork_done, fork_done);
}

/* Stand before every handler there is, and where one of `held` is none. */
static void scan(uint64_t held)
{
	uint64_t old = lock_handlers();

	proc.scanned = true;
	proc.insisted |= held;
	for (int sig = 1; sig <= NR_SIGNALS; sig++) {
		struct sigaction cur;

		if (!(LEAVE_ALONE & SIG_BIT(sig)) && !sigaction(sig, NULL, &cur) && !is_ours(&cur) &&
		    wants_us_locked(sig, &cur))
			(void)install_locked(sig, &cur);
	}
	unlock_handlers(old);
}

void signals_take_faults(void)
{
	uint64_t old = lock_handlers();

	usercopy_init(0);
	proc.faults_taken = true;
	unlock_handlers(old);
}

/* Over the program's newest: what it handles is what is left of ours. */
static int install_fault_locked(int sig, const struct sigaction *want)
{
	if (sigaction(sig, want, NULL) < 0)
		return -1;
	proc.asked[sig] = *want;
	proc.recorded |= SIG_BIT(sig);
	if (!proc.faults_taken)
		return 0;
	usercopy_init(sig);
	return engine_faults_take() ? -1 : 0;
}

/* What the program believes is there. */
static int seen_locked(int sig, struct sigaction *sa)
{
	if (sigaction(sig, NULL, sa) < 0)
		return -1;
	if (is_ours(sa))
		*sa = proc.asked[sig];
	else if ((FAULTS & SIG_BIT(sig)) && proc.faults_taken)
		*sa = proc.recorded & SIG_BIT(sig) ? proc.asked[sig] : (struct sigaction){ .sa_handler = SIG_DFL };
	return 0;
}

int softkvm_sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	struct sigaction seen;
	uint64_t mask;
	int r;

	if (sig < 1 || sig > NR_SIGNALS || (LEAVE_ALONE & ~FAULTS & SIG_BIT(sig)))
		return sigaction(sig, act, old) < 0 ? -errno : 0;
	mask = lock_handlers();
	r = seen_locked(sig, &seen);
	if (!r && act) {
		if (FAULTS & SIG_BIT(sig))
			r = install_fault_locked(sig, act);
		else
			r = proc.scanned ? install_locked(sig, act) : sigaction(sig, act, NULL);
	}
	r = r < 0 ? -errno : 0;
	if (!r && old)
		*old = seen;
	unlock_handlers(mask);
	return r;
}

/*
 * The thread sanitizer's run-time keeps a signal back until its thread calls the C
 * library. Translated code never does, nor does a futex wait by system call. So with it
 * the VM's waiter has the vCPUs look up every now and then, and the look makes one.
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

/* Such a call: handlers that have been kept back run now. */
static void take_kept_back(void)
{
	if (WITH_TSAN) {
		sigset_t any;

		(void)sigemptyset(&any);
	}
}

bool signals_arrived(struct soft_vcpu *v)
{
	take_kept_back();
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
	/* While they are still this vCPU's: one that the program blocks must not run a handler. */
	take_kept_back();
	atomic_signal_fence(memory_order_seq_cst);
	current = s->outer;
	for (uint32_t i = 0; i < s->nr_kept; i++)
		(void)syscall(SYS_rt_tgsigqueueinfo, getpid(), thread_id(), s->kept[i].sig,
			      &s->kept[i].info);
}
