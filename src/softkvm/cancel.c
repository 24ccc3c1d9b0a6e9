/* SPDX-License-Identifier: MIT
 *
 * pthread_cancel() of a thread that is in KVM_RUN. In the kernel KVM_RUN is a
 * system call like another, which the C library's signal ends. Here that signal
 * would unwind a stack full of held locks and translated code. So who calls in
 * from outside holds cancellation back while it is in here (the preload library
 * does), and tells of each thread that is cancelled: its KVM_RUN then ends with
 * EINTR, and the thread's own end comes when it lets cancellation through again.
 *
 *     canceller                       thread
 *     note its name
 *                                     runner = me
 *     look for its runner             look for a note
 *
 * Both look after they wrote: one of them sees the other.
 */
#include "softkvm/vcpu.h"

#define NOTES 32u

static struct {
	pthread_mutex_t lock;
	_Atomic unsigned nr;
	pthread_t note[NOTES]; /* threads that are to leave; lock */
} proc = { .lock = PTHREAD_MUTEX_INITIALIZER }; /* process-wide, as threads are */

static void stop(struct soft_vcpu *v)
{
	atomic_store(&v->signals.arrived, true);
	engine_vcpu_kick(v->cpu, ENGINE_KICK_EXIT);
	vcpu_wake(v);
}

/* If there is a note for this thread, take it. */
static bool take(pthread_t thread)
{
	unsigned nr;
	bool found = false;

	mutex_lock(&proc.lock);
	nr = atomic_load(&proc.nr);
	for (unsigned i = 0; i < nr && !found; i++) {
		found = pthread_equal(proc.note[i], thread);
		if (found)
			proc.note[i] = proc.note[nr - 1];
	}
	atomic_store(&proc.nr, nr - found);
	mutex_unlock(&proc.lock);
	return found;
}

/* A thread that never comes by leaves its note; a later one of the same name gets one EINTR for nothing. */
static void put(pthread_t thread)
{
	unsigned nr;

	mutex_lock(&proc.lock);
	nr = atomic_load(&proc.nr);
	if (nr == NOTES)
		memmove(proc.note, proc.note + 1, --nr * sizeof(proc.note[0]));
	proc.note[nr] = thread;
	atomic_store(&proc.nr, nr + 1);
	mutex_unlock(&proc.lock);
}

void cancel_enter(struct soft_vcpu *v)
{
	atomic_store(&v->runner, (uintptr_t)pthread_self());
	if (atomic_load(&proc.nr) && take(pthread_self()))
		stop(v);
}

void cancel_leave(struct soft_vcpu *v)
{
	atomic_store_explicit(&v->runner, 0, memory_order_release);
}

static void stop_if_running(struct soft_file *f, void *thread)
{
	struct soft_vcpu *v;

	if (f->ops->kind != SOFT_VCPU)
		return;
	v = file_vcpu(f);
	if (atomic_load(&v->runner) == (uintptr_t)thread && take((pthread_t)thread))
		stop(v);
}

void softkvm_cancelled(void *ctx, pthread_t thread)
{
	put(thread);
	file_each(ctx, stop_if_running, (void *)thread);
}
