/* SPDX-License-Identifier: MIT */
#include "base/base.h"
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#define BATCH 64

struct posted {
	void (*fn)(void *arg);
	void *arg;
	bool heap; /* else its caller's, who waits for it */
	struct posted *next;
};

struct loop {
	int epfd;
	struct notifier wake;
	struct loop_watch wake_watch;
	pthread_mutex_t lock;             /* innermost: no callback runs under it */
	pthread_cond_t turn;              /* owner is 0 */
	struct posted *posted, **tail;    /* guarded by lock */
	bool running;                     /* guarded by lock: posted calls are served */
	_Atomic bool stop;
	/* Thread that runs the loop, or acts in its place while it stands; 0: none. Set under lock. */
	_Atomic pid_t owner;
	pthread_t thread;                 /* loop_thread_start() */
	bool has_thread;
	struct loop_timer *timers;        /* sorted by deadline; owner rule */
	struct loop_poller *pollers;      /* owner rule */
	uint64_t poll_window, spin_until;
	struct epoll_event ev[BATCH];     /* batch in work: unwatch() blanks entries of it */
	int nr_ev;
};

/* True if there was anything. */
static bool run_posted(struct loop *l)
{
	for (bool any = false;; any = true) {
		struct posted *p;

		mutex_lock(&l->lock);
		p = l->posted;
		if (p) {
			l->posted = p->next;
			if (!l->posted)
				l->tail = &l->posted;
		}
		mutex_unlock(&l->lock);
		if (!p)
			return any;
		bool heap = p->heap;

		p->fn(p->arg);
		if (heap)
			free(p);
	}
}

/* A loop that stands belongs to one thread at a time too. */
static void turn_take_locked(struct loop *l)
{
	while (atomic_load(&l->owner))
		pthread_cond_wait(&l->turn, &l->lock);
	atomic_store(&l->owner, thread_id());
}

/*
 * Whoever had the turn leaves nothing behind: what is posted while somebody has it, is for
 * him, who may stand in loop_serve() and wait for the thread that posted. True if there was
 * something.
 */
static bool turn_end(struct loop *l)
{
	for (bool any = false;;) {
		any |= run_posted(l);
		mutex_lock(&l->lock);
		if (!l->posted) {
			atomic_store(&l->owner, 0);
			pthread_cond_broadcast(&l->turn);
			mutex_unlock(&l->lock);
			return any;
		}
		mutex_unlock(&l->lock);
	}
}

static void on_wake(void *arg, uint32_t events)
{
	struct loop *l = arg;

	notifier_drain(&l->wake);
	(void)run_posted(l);
}

int loop_create(struct loop **out)
{
	struct loop *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return -ENOMEM;
	l->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (l->epfd < 0) {
		r = -errno;
		goto free_loop;
	}
	r = notifier_create(&l->wake, 0, 0);
	if (r)
		goto close_epoll;
	mutex_init(&l->lock);
	pthread_cond_init(&l->turn, NULL);
	l->tail = &l->posted;
	l->wake_watch = (struct loop_watch){
		.fd = l->wake.fd, .events = EPOLLIN, .ready = on_wake, .arg = l,
	};
	r = loop_watch(l, &l->wake_watch);
	if (r)
		goto destroy_wake;
	*out = l;
	return 0;

destroy_wake:
	pthread_cond_destroy(&l->turn);
	mutex_destroy(&l->lock);
	notifier_destroy(&l->wake);
close_epoll:
	close(l->epfd);
free_loop:
	free(l);
	return r;
}

void loop_destroy(struct loop *l)
{
	if (!l)
		return;
	loop_thread_stop(l);
	while (l->posted) {
		struct posted *p = l->posted;

		l->posted = p->next;
		if (p->heap)
			free(p);
	}
	notifier_destroy(&l->wake);
	pthread_cond_destroy(&l->turn);
	mutex_destroy(&l->lock);
	close(l->epfd);
	free(l);
}

bool loop_is_current(const struct loop *l)
{
	return atomic_load(&l->owner) == thread_id();
}

/* Fire what is due. A callback may set or cancel any timer: take one at a time from the head. */
static void run_timers(struct loop *l)
{
	uint64_t now = clock_ns();

	while (l->timers && l->timers->deadline <= now) {
		struct loop_timer *t = l->timers;

		l->timers = t->next;
		t->armed = false;
		t->fire(t->arg);
	}
}

/* *again: one worked that has no other way to say that it has more. */
static bool run_pollers(struct loop *l, bool *again)
{
	bool worked = false;
	struct loop_poller *next;

	for (struct loop_poller *p = l->pollers; p; p = next) {
		next = p->next;
		if (p->poll(p->arg)) {
			worked = true;
			*again |= !p->sleep;
		}
	}
	return worked;
}

static bool tell_pollers(struct loop *l)
{
	bool more = false;
	struct loop_poller *next;

	for (struct loop_poller *p = l->pollers; p; p = next) {
		next = p->next;
		more |= p->sleep && p->sleep(p->arg);
	}
	return more;
}

/* True if the loop must not sleep now. */
static bool poll_before_sleep(struct loop *l)
{
	bool again = false;

	if (!l->pollers)
		return false;
	if (run_pollers(l, &again) && l->poll_window)
		l->spin_until = clock_ns() + l->poll_window;
	if (l->spin_until && clock_ns() < l->spin_until)
		return true;
	l->spin_until = 0;
	return tell_pollers(l) || again;
}

/* How long epoll may sleep: 0 while spinning, -1 for ever. */
static struct timespec *sleep_time(struct loop *l, struct timespec *ts)
{
	uint64_t now, wait;

	if (poll_before_sleep(l)) {
		wait = 0;
	} else if (l->timers) {
		now = clock_ns();
		wait = l->timers->deadline > now ? l->timers->deadline - now : 0;
	} else {
		return NULL;
	}
	ts->tv_sec = (time_t)(wait / NSEC_PER_SEC);
	ts->tv_nsec = (long)(wait % NSEC_PER_SEC);
	return ts;
}

/* The caller has set l->running. */
static void run(struct loop *l)
{
	struct timespec ts;

	mutex_lock(&l->lock);
	turn_take_locked(l);
	mutex_unlock(&l->lock);

	while (!atomic_load(&l->stop)) {
		int n = epoll_pwait2(l->epfd, l->ev, BATCH, sleep_time(l, &ts), NULL);

		l->nr_ev = MAX(n, 0);
		for (int i = 0; i < l->nr_ev && !atomic_load(&l->stop); i++) {
			struct loop_watch *w = l->ev[i].data.ptr;

			if (w)
				w->ready(w->arg, l->ev[i].events);
		}
		l->nr_ev = 0;
		if (l->timers)
			run_timers(l);
	}

	mutex_lock(&l->lock);
	l->running = false;
	atomic_store(&l->stop, false);
	mutex_unlock(&l->lock);
	(void)turn_end(l);
}

int loop_run(struct loop *l)
{
	mutex_lock(&l->lock);
	if (l->running || loop_is_current(l)) {
		mutex_unlock(&l->lock);
		return -EBUSY;
	}
	l->running = true;
	mutex_unlock(&l->lock);
	run(l);
	return 0;
}

void loop_stop(struct loop *l)
{
	atomic_store(&l->stop, true);
	(void)notifier_signal(&l->wake);
}

void loop_wake(struct loop *l)
{
	(void)notifier_signal(&l->wake);
}

/* run_posted() also where the loop stands and others may want to act in its place. */
static bool serve_posted(struct loop *l)
{
	if (loop_is_current(l))
		return run_posted(l);
	mutex_lock(&l->lock);
	turn_take_locked(l);
	mutex_unlock(&l->lock);
	return turn_end(l);
}

void loop_serve(struct loop *l)
{
	struct pollfd p = { .fd = l->wake.fd, .events = POLLIN };

	/* We may be inside a posted call, with others behind it whose wake-up is drained already. */
	if (serve_posted(l))
		return;
	(void)poll(&p, 1, -1);
	notifier_drain(&l->wake);
	(void)serve_posted(l);
}

static void *loop_thread(void *arg)
{
	run(arg);
	return NULL;
}

int loop_thread_start(struct loop *l, const char *name)
{
	int r;

	mutex_lock(&l->lock);
	if (l->running) {
		mutex_unlock(&l->lock);
		return -EBUSY;
	}
	/* From now on, whenever the thread gets its first turn: a call comes after what was posted. */
	l->running = true;
	mutex_unlock(&l->lock);
	r = thread_create(&l->thread, name, loop_thread, l);
	if (!r) {
		l->has_thread = true;
		return 0;
	}
	mutex_lock(&l->lock);
	l->running = false;
	mutex_unlock(&l->lock);
	(void)serve_posted(l); /* for who called meanwhile */
	return r;
}

void loop_thread_stop(struct loop *l)
{
	if (!l->has_thread)
		return;
	loop_stop(l);
	thread_join(l->thread);
	l->has_thread = false;
}

static void enqueue_locked(struct loop *l, struct posted *p)
{
	p->next = NULL;
	*l->tail = p;
	l->tail = &p->next;
}

int loop_post(struct loop *l, void (*fn)(void *arg), void *arg)
{
	struct posted *p = malloc(sizeof(*p));

	if (!p)
		return -ENOMEM;
	*p = (struct posted){ .fn = fn, .arg = arg, .heap = true };
	mutex_lock(&l->lock);
	enqueue_locked(l, p);
	mutex_unlock(&l->lock);
	(void)notifier_signal(&l->wake);
	return 0;
}

struct call {
	void (*fn)(void *arg);
	void *arg;
	pthread_mutex_t lock;
	pthread_cond_t done_cond;
	bool done;
};

static void run_call(void *arg)
{
	struct call *c = arg;

	c->fn(c->arg);
	mutex_lock(&c->lock);
	c->done = true;
	pthread_cond_signal(&c->done_cond);
	mutex_unlock(&c->lock);
}

void loop_call(struct loop *l, void (*fn)(void *arg), void *arg)
{
	struct call c = { .fn = fn, .arg = arg };
	struct posted p = { .fn = run_call, .arg = &c };
	bool act;

	if (loop_is_current(l)) {
		fn(arg);
		return;
	}
	mutex_init(&c.lock);
	pthread_cond_init(&c.done_cond, NULL);
	mutex_lock(&l->lock);
	enqueue_locked(l, &p);
	act = !l->running && !atomic_load(&l->owner);
	if (act)
		turn_take_locked(l);
	mutex_unlock(&l->lock);
	if (act)
		(void)turn_end(l);
	else
		(void)notifier_signal(&l->wake);

	mutex_lock(&c.lock);
	while (!c.done)
		pthread_cond_wait(&c.done_cond, &c.lock);
	mutex_unlock(&c.lock);
	pthread_cond_destroy(&c.done_cond);
	mutex_destroy(&c.lock);
}

int loop_watch(struct loop *l, struct loop_watch *w)
{
	struct epoll_event ev = { .events = w->events, .data.ptr = w };

	if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, w->fd, &ev) < 0)
		return -errno;
	w->active = true;
	return 0;
}

int loop_rewatch(struct loop *l, struct loop_watch *w, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = w };

	if (w->events == events)
		return 0;
	if (epoll_ctl(l->epfd, EPOLL_CTL_MOD, w->fd, &ev) < 0)
		return -errno;
	w->events = events;
	return 0;
}

void loop_watch_pause(struct loop *l, struct loop_watch *w, bool pause)
{
	struct epoll_event ev = { .events = pause ? 0 : w->events, .data.ptr = w };

	(void)epoll_ctl(l->epfd, EPOLL_CTL_MOD, w->fd, &ev);
}

void loop_unwatch(struct loop *l, struct loop_watch *w)
{
	if (!w->active)
		return;
	(void)epoll_ctl(l->epfd, EPOLL_CTL_DEL, w->fd, NULL);
	w->active = false;
	for (int i = 0; i < l->nr_ev; i++)
		if (l->ev[i].data.ptr == w)
			l->ev[i].data.ptr = NULL;
}

void loop_timer_set(struct loop *l, struct loop_timer *t, uint64_t deadline)
{
	struct loop_timer **at = &l->timers;

	loop_timer_cancel(l, t);
	t->deadline = deadline;
	while (*at && (*at)->deadline <= deadline)
		at = &(*at)->next;
	t->next = *at;
	*at = t;
	t->armed = true;
}

void loop_timer_cancel(struct loop *l, struct loop_timer *t)
{
	if (!t->armed)
		return;
	for (struct loop_timer **at = &l->timers; *at; at = &(*at)->next) {
		if (*at == t) {
			*at = t->next;
			break;
		}
	}
	t->armed = false;
}

void loop_poller_add(struct loop *l, struct loop_poller *p)
{
	p->next = l->pollers;
	l->pollers = p;
}

void loop_poller_del(struct loop *l, struct loop_poller *p)
{
	for (struct loop_poller **at = &l->pollers; *at; at = &(*at)->next) {
		if (*at == p) {
			*at = p->next;
			return;
		}
	}
}

void loop_set_poll_window(struct loop *l, uint64_t ns)
{
	l->poll_window = ns;
}
