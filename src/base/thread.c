/* SPDX-License-Identifier: MIT */
#include "base/base.h"
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * Raised by what the thread itself does. The kernel does not wait where they
 * are blocked: it kills without the handler, which has a terminal to put back.
 */
static const int faults[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT, SIGSYS };

int thread_create(pthread_t *t, const char *name, void *(*fn)(void *), void *arg)
{
	sigset_t most, old;
	int r;

	/* The mask is inherited: block around the creation, so no signal slips in at the start. */
	sigfillset(&most);
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++)
		sigdelset(&most, faults[i]);
	r = pthread_sigmask(SIG_SETMASK, &most, &old);
	if (r)
		return -r;
	r = pthread_create(t, NULL, fn, arg);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r)
		return -r;
	if (name) {
		char short_name[16];

		strncpy(short_name, name, sizeof(short_name) - 1);
		short_name[sizeof(short_name) - 1] = '\0';
		(void)pthread_setname_np(*t, short_name);
	}
	return 0;
}

void thread_join(pthread_t t)
{
	(void)pthread_join(t, NULL);
}

void mutex_init_recursive(pthread_mutex_t *m)
{
	pthread_mutexattr_t a;

	pthread_mutexattr_init(&a);
	pthread_mutexattr_settype(&a, PTHREAD_MUTEX_RECURSIVE);
	(void)pthread_mutex_init(m, &a);
	pthread_mutexattr_destroy(&a);
}

pid_t thread_id(void)
{
	return (pid_t)syscall(SYS_gettid);
}
