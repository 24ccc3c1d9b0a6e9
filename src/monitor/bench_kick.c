/* SPDX-License-Identifier: MIT
 * Kicks: the guest does one access, somebody on the host sees it.
 */
#include "monitor/bench_priv.h"
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

struct kick_rig {
	struct bare *bare;
	struct kvm_coalesced_mmio_ring *ring;
	int epfd;
	struct notifier seen, go;  /* reader → measurer; measurer → polling reader */
	struct notifier stop;      /* for the blocked reader: never drained, so never missed */
	pthread_t blocked, polling;
	bool has_blocked, has_polling;
	_Atomic bool leave;
	_Atomic uint64_t stamp;    /* when the reader saw it */
	/* What the polling reader is to watch; set before `go`, read after it. */
	const struct bench_state *watched;
	_Atomic bool spinning;
};

static void report(struct kick_rig *k, uint64_t now)
{
	atomic_store(&k->stamp, now);
	notifier_signal(&k->seen);
}

static void *blocked_main(void *arg)
{
	struct kick_rig *k = arg;
	struct epoll_event ev;

	for (;;) {
		uint64_t now;

		if (epoll_wait(k->epfd, &ev, 1, -1) != 1)
			continue;
		now = clock_ns();
		if (ev.data.ptr == &k->stop)
			return NULL;
		notifier_drain(ev.data.ptr);
		report(k, now);
	}
	return NULL;
}

/* True once the event is there; takes it. */
static bool look(struct kick_rig *k, const struct bench_state *s)
{
	uint64_t count;

	if (s->path->reader == READER_POLLING)
		return read(s->n.fd, &count, sizeof(count)) == sizeof(count);
	if (__atomic_load_n(&k->ring->last, __ATOMIC_ACQUIRE) == k->ring->first)
		return false;
	__atomic_store_n(&k->ring->first, k->ring->last, __ATOMIC_RELEASE);
	return true;
}

static void *polling_main(void *arg)
{
	struct kick_rig *k = arg;

	for (;;) {
		struct pollfd p = { .fd = k->go.fd, .events = POLLIN };
		uint64_t now, deadline;

		if (poll(&p, 1, -1) < 0)
			continue;
		notifier_drain(&k->go);
		if (atomic_load(&k->leave))
			return NULL;
		now = clock_ns();
		deadline = now + 2 * k->watched->patience;
		atomic_store(&k->spinning, true);
		while (!look(k, k->watched)) {
			now = clock_ns();
			if (now > deadline)
				break;
			__builtin_ia32_pause();
		}
		now = clock_ns();
		atomic_store(&k->spinning, false);
		if (now <= deadline)
			report(k, now);
	}
}

int kick_rig_create(struct kick_rig **out, struct bare *b)
{
	struct kick_rig *k = calloc(1, sizeof(*k));
	struct epoll_event stop = { .events = EPOLLIN };
	int r;

	if (!k)
		return -ENOMEM;
	k->bare = b;
	k->seen.fd = k->go.fd = k->stop.fd = -1;
	stop.data.ptr = &k->stop;
	k->ring = vcpu_coalesced_ring(&b->cpus[0]);
	k->epfd = epoll_create1(EPOLL_CLOEXEC);
	r = k->epfd < 0 ? -errno : 0;
	if (!r)
		r = notifier_create(&k->seen, 0, 0);
	if (!r)
		r = notifier_create(&k->go, 0, 0);
	if (!r)
		r = notifier_create(&k->stop, 0, 0);
	if (!r && epoll_ctl(k->epfd, EPOLL_CTL_ADD, k->stop.fd, &stop) < 0)
		r = -errno;
	if (!r)
		r = thread_create(&k->blocked, "bench-epoll", blocked_main, k);
	k->has_blocked = !r;
	if (!r)
		r = thread_create(&k->polling, "bench-poll", polling_main, k);
	k->has_polling = !r && k->has_blocked;
	if (r) {
		kick_rig_destroy(k);
		return r;
	}
	*out = k;
	return 0;
}

void kick_rig_destroy(struct kick_rig *k)
{
	if (!k)
		return;
	atomic_store(&k->leave, true);
	if (k->has_blocked) {
		notifier_signal(&k->stop);
		thread_join(k->blocked);
	}
	if (k->has_polling) {
		notifier_signal(&k->go);
		thread_join(k->polling);
	}
	notifier_destroy(&k->stop);
	notifier_destroy(&k->seen);
	notifier_destroy(&k->go);
	if (k->epfd >= 0)
		close(k->epfd);
	free(k);
}

int kick_bind(struct kick_rig *k, struct bench_state *s)
{
	const struct bench_path *p = s->path;
	struct vm_doorbell d = {
		.pio = p->pio, .len = p->len, .match = p->match, .address = s->where,
		.data = s->index, .fd = s->n.fd,
	};
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = &s->n };
	int r;

	if (p->reader == READER_EXIT)
		return 0;
	if (p->reader == READER_RING) {
		if (!k->ring)
			return -ENOTSUP;
		return vm_coalesce(&k->bare->vm, p->pio, s->where, 4);
	}
	r = vm_bind_ioeventfd(&k->bare->vm, &d);
	if (r || p->reader != READER_BLOCKED)
		return r;
	return epoll_ctl(k->epfd, EPOLL_CTL_ADD, s->n.fd, &ev) < 0 ? -errno : 0;
}

struct exit_watch {
	const struct bench_state *s;
	uint64_t seen;
};

/* An exit other than the last: only READER_EXIT may have one, and only at its own address. */
static int on_exit_watch(void *arg, struct kvm_run *run)
{
	struct exit_watch *w = arg;
	uint64_t now = clock_ns();

	if (w->s->path->reader != READER_EXIT || w->seen)
		return -EIO;
	if (w->s->path->pio ? run->exit_reason != KVM_EXIT_IO || run->io.port != w->s->where
			    : run->exit_reason != KVM_EXIT_MMIO || run->mmio.phys_addr != w->s->where)
		return -EIO;
	w->seen = now;
	return 0;
}

/* Get the polling reader going, and wait until it is. */
static int arm_polling(struct kick_rig *k, struct bench_state *s)
{
	uint64_t deadline = clock_ns() + s->patience;

	k->watched = s;
	notifier_signal(&k->go);
	while (!atomic_load(&k->spinning)) {
		if (clock_ns() > deadline)
			return -ETIME;
		__builtin_ia32_pause();
	}
	return 0;
}

int kick_measure(struct kick_rig *k, struct bench_state *s, struct bench_sample *out)
{
	const struct bench_path *p = s->path;
	struct pollfd seen = { .fd = k->seen.fd, .events = POLLIN };
	struct exit_watch w = { .s = s };
	uint64_t t0;
	int r = bare_set(k->bare, 0, p->entry, s->where, s->index);

	if (r)
		return r;
	notifier_drain(&k->seen); /* of an event that had been given up */
	if (p->reader == READER_BLOCKED)
		bench_settle();
	else if (p->reader != READER_EXIT)
		r = arm_polling(k, s);
	if (r)
		return r;
	t0 = clock_ns();
	do
		r = bare_run_until_done(k->bare, 0, on_exit_watch, &w);
	while (r == -EINTR);
	out->sender = clock_ns() - t0;
	if (r)
		return r;
	if (p->reader != READER_EXIT) {
		if (poll(&seen, 1, (int)(s->patience / 1000000)) != 1)
			return -ETIME;
		notifier_drain(&k->seen);
		w.seen = atomic_load(&k->stamp);
	}
	if (!w.seen)
		return -ETIME;
	out->latency = w.seen - t0;
	return 0;
}
