/* SPDX-License-Identifier: MIT
 * pthread with the house's errors: 0 or a negative errno.
 */
#ifndef BELFRY_BASE_THREAD_H
#define BELFRY_BASE_THREAD_H

#include "base/base.h"
#include <pthread.h>

/* name: 15 characters at most. All signals but faults (SIGSEGV and so on) start blocked in the thread. */
int thread_create(pthread_t *t, const char *name, void *(*fn)(void *), void *arg) __must_check;
void thread_join(pthread_t t);

/* Locks never fail when used rightly (no error checking mutexes here). */
static inline void mutex_init(pthread_mutex_t *m) { (void)pthread_mutex_init(m, NULL); }
static inline void mutex_destroy(pthread_mutex_t *m) { (void)pthread_mutex_destroy(m); }
static inline void mutex_lock(pthread_mutex_t *m) { (void)pthread_mutex_lock(m); }
static inline void mutex_unlock(pthread_mutex_t *m) { (void)pthread_mutex_unlock(m); }
void mutex_init_recursive(pthread_mutex_t *m);

/* Calling thread's id as the kernel knows it, and signalling it. */
pid_t thread_id(void);

#endif
