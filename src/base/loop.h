/* SPDX-License-Identifier: MIT
 * An event loop: epoll, timers, posted calls and adaptive polling. One thread
 * runs a loop at a time. Ownership rule instead of locks: watches, timers and
 * pollers are touched only on the loop's own thread, or while no thread runs
 * it; everybody else goes through loop_call() or loop_post().
 */
#ifndef BELFRY_BASE_LOOP_H
#define BELFRY_BASE_LOOP_H

#include "base/base.h"
#include <sys/epoll.h>

struct loop;

struct loop_watch {
	int fd;
	uint32_t events; /* EPOLLIN, EPOLLOUT; level-triggered */
	void (*ready)(void *arg, uint32_t events);
	void *arg;
	/* private to loop.c */
	bool active;
};

struct loop_timer {
	void (*fire)(void *arg);
	void *arg;
	/* private to loop.c */
	uint64_t deadline;
	struct loop_timer *next;
	bool armed;
};

/*
 * poll is called before the loop sleeps, or would. Returns true if it did work.
 * While any poller did work within the loop's poll window the loop spins
 * instead of sleeping. When it is about to sleep all the same, sleep is called:
 * the last moment to ask for wake-ups. It returns true if there is work after
 * all, and then the loop comes round once more. May be NULL.
 */
struct loop_poller {
	bool (*poll)(void *arg);
	bool (*sleep)(void *arg);
	void *arg;
	/* private to loop.c */
	struct loop_poller *next;
};

int loop_create(struct loop **out) __must_check;
/* Not while it runs. Watches still active are forgotten, posted calls are dropped. NULL is fine. */
void loop_destroy(struct loop *l);

/* Run on the calling thread until loop_stop(). -EBUSY if another thread runs it. */
int loop_run(struct loop *l);
/* Any thread, also before loop_run(): makes it (the next one) return after the current callback. */
void loop_stop(struct loop *l);

/*
 * Run it on a thread of its own, named (15 characters at most), signals but faults
 * blocked. It counts as running at once. -EBUSY if another thread runs it.
 */
int loop_thread_start(struct loop *l, const char *name) __must_check;
/* Stop and join that thread; not from the loop itself. Harmless if none runs. */
void loop_thread_stop(struct loop *l);

/* True on the thread that runs l, or acts in its place just now (loop_call(), loop_serve()). */
bool loop_is_current(const struct loop *l);

/* Run fn(arg) on the loop's thread soon. Any thread. -ENOMEM. */
int loop_post(struct loop *l, void (*fn)(void *arg), void *arg) __must_check;
/*
 * Run fn(arg) on the loop's thread and wait for it; at once if the caller is
 * that thread, otherwise behind all that was posted. If no thread runs the loop
 * the caller acts in its place, or whoever does so just now. The caller must hold
 * no lock that a callback of the loop may take.
 */
void loop_call(struct loop *l, void (*fn)(void *arg), void *arg);

/*
 * Wait until something was posted (or `wake` is called), and run it. For an
 * owner that must wait for other threads which may themselves wait in
 * loop_call(). On the loop's thread, or while no thread runs it.
 */
void loop_serve(struct loop *l);
/* Make loop_serve() or the loop come round. Any thread. */
void loop_wake(struct loop *l);

/* Owner rule (above) for all below. -EEXIST, -ENOSPC, -ENOMEM, -EPERM as epoll_ctl(2). */
int loop_watch(struct loop *l, struct loop_watch *w) __must_check;
int loop_rewatch(struct loop *l, struct loop_watch *w, uint32_t events) __must_check;
/*
 * Any thread, for a watch that stays active meanwhile: ask for no events of w, or again for
 * all (those that wait make the loop come round). A callback may be running, or about to.
 */
void loop_watch_pause(struct loop *l, struct loop_watch *w, bool pause);
/* After it returns, w's callback does not run any more. Harmless if not active. */
void loop_unwatch(struct loop *l, struct loop_watch *w);

/* Fire once at `deadline` (clock_ns()); re-arming moves it. */
void loop_timer_set(struct loop *l, struct loop_timer *t, uint64_t deadline);
void loop_timer_cancel(struct loop *l, struct loop_timer *t);

void loop_poller_add(struct loop *l, struct loop_poller *p);
void loop_poller_del(struct loop *l, struct loop_poller *p);
/* Longest time to spin after a poller last found work; 0 (default) never spins. Nanoseconds. */
void loop_set_poll_window(struct loop *l, uint64_t ns);

#endif
