/* SPDX-License-Identifier: MIT
 * Who hears an irqfd (docs/SOFTKVM.md, "A halted vCPU listens"): the waiter's thread
 * or a halted vCPU's, and nothing is lost where one takes over from the other.
 */
#include "../lib/check.h"
#include "../lib/kvm_stat.h"
#include "monitor/bare.h"
#include "softkvm/listen.h"
#include "softkvm/softkvm.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define GSI	 24
#define VECTOR	 0x51u
#define CPUS	 2
#define PATIENCE (60 * NSEC_PER_SEC)
#if WITH_TSAN || defined(__SANITIZE_ADDRESS__)
#define ROUNDS 300
#else
#define ROUNDS 2000
#endif

struct bed;

struct runner {
	struct bed *bed;
	unsigned cpu;
	pthread_t thread;
};

/* gsi GSI + i: VECTOR + i of vCPU i % CPUS. */
struct bed {
	struct kvmapi api;
	struct bare b;
	int stats;
	_Atomic bool stop;
	struct runner runner[CPUS];
};

static void setup(struct bed *t)
{
	struct kvm_irq_routing_entry e[4] = { 0 };
	struct err err;

	*t = (struct bed){ .api.ops = &softkvm_ops };
	assert_int_equal(softkvm_create(&t->api.ctx, NULL), 0);
	if (bare_create(&t->b, &t->api, CPUS, true, &err))
		fail_msg("%s", err.text);
	for (unsigned i = 0; i < ARRAY_SIZE(e); i++) {
		e[i].gsi = GSI + i;
		e[i].type = KVM_IRQ_ROUTING_MSI;
		e[i].u.msi.address_lo = 0xfee00000 | i % CPUS << 12;
		e[i].u.msi.data = VECTOR + i;
	}
	assert_int_equal(vm_set_routes(&t->b.vm, e, ARRAY_SIZE(e)), 0);
	t->stats = t->api.ops->ioctl(t->api.ctx, t->b.vm.fd, KVM_GET_STATS_FD, 0);
	assert_true(t->stats >= 0);
}

static void teardown(struct bed *t)
{
	close(t->stats);
	bare_destroy(&t->b);
	softkvm_destroy(t->api.ctx);
}

/* In and out again with each kick. */
static void *run_cpu(void *arg)
{
	struct runner *r = arg;
	struct bed *t = r->bed;

	if (bare_allow_kick(&t->b.cpus[r->cpu]))
		return (void *)1;
	while (!atomic_load(&t->stop)) {
		int x = vcpu_run(&t->b.cpus[r->cpu]);

		if (x == -EINTR)
			bare_eat_kick();
		else
			return (void *)1;
	}
	return NULL;
}

static void cpus_start(struct bed *t)
{
	sigset_t kick;

	/* They inherit it: KVM_RUN alone lets the kick through. */
	sigemptyset(&kick);
	sigaddset(&kick, BARE_KICK_SIGNAL);
	pthread_sigmask(SIG_BLOCK, &kick, NULL);
	for (unsigned i = 0; i < CPUS; i++) {
		t->runner[i] = (struct runner){ .bed = t, .cpu = i };
		assert_int_equal(bare_set(&t->b, i, BARE_IDLE, 0, 0), 0);
		assert_int_equal(pthread_create(&t->runner[i].thread, NULL, run_cpu, &t->runner[i]), 0);
	}
}

static void cpus_stop(struct bed *t)
{
	atomic_store(&t->stop, true);
	for (unsigned i = 0; i < CPUS; i++) {
		void *wrong;

		pthread_kill(t->runner[i].thread, BARE_KICK_SIGNAL);
		pthread_join(t->runner[i].thread, &wrong);
		assert_null(wrong);
		assert_int_equal(bare_faults(&t->b, i), 0);
	}
}

static int bound(struct bed *t, unsigned i, unsigned initial, int flags)
{
	int fd = eventfd(initial, EFD_NONBLOCK | EFD_CLOEXEC | flags);

	assert_true(fd >= 0);
	assert_int_equal(vm_bind_irqfd(&t->b.vm, fd, GSI + i, -1), 0);
	return fd;
}

/* False: it never came. */
static bool counted(struct bed *t, unsigned i, uint64_t n)
{
	uint64_t deadline = clock_ns() + PATIENCE;

	while (bare_count(&t->b, i % CPUS, VECTOR + i) < n) {
		if (clock_ns() > deadline)
			return false;
		sched_yield();
	}
	return true;
}

/* ---- edges ------------------------------------------------------------------------- */

/* It may lag behind what the guest has counted. */
static uint64_t delivered(struct bed *t)
{
	return kvm_stat(t->stats, "irqfd_fast_path") + kvm_stat(t->stats, "irqfd_slow_path");
}

/* A count that no read empties is one event a write, not one for ever. */
static void test_semaphore(void **state)
{
	struct bed t;
	int many, plain;

	setup(&t);
	cpus_start(&t);
	many = bound(&t, 0, 1000000, EFD_SEMAPHORE);
	plain = bound(&t, 1, 0, 0);
	assert_true(counted(&t, 0, 1)); /* what was there before */
	for (unsigned i = 1; i <= 100; i++) {
		assert_int_equal(eventfd_write(plain, 1), 0);
		assert_true(counted(&t, 1, i));
	}
	assert_true(delivered(&t) <= 101);
	for (unsigned i = 1; i <= 100; i++) {
		assert_int_equal(eventfd_write(many, 1), 0);
		assert_true(counted(&t, 0, 1 + i));
	}
	assert_true(delivered(&t) <= 201);
	cpus_stop(&t);
	close(many);
	close(plain);
	teardown(&t);
}

/* More than one table holds, in any order, and the places of those that left are used again. */
static void test_many(void **state)
{
	enum { MANY = 100 };
	struct bed t;
	int fd[MANY];
	uint64_t n = 0;

	setup(&t);
	cpus_start(&t);
	for (unsigned i = 0; i < MANY; i++)
		fd[i] = bound(&t, 0, 0, 0);
	for (unsigned turn = 0; turn < 3; turn++) {
		for (unsigned i = 0; i < MANY; i++) {
			assert_int_equal(eventfd_write(fd[i], 1), 0);
			assert_true(counted(&t, 0, ++n));
		}
		for (unsigned i = turn; i < MANY; i += 3) {
			assert_int_equal(vm_unbind_irqfd(&t.b.vm, fd[i], GSI), 0);
			close(fd[i]);
		}
		for (unsigned i = turn; i < MANY; i += 3)
			fd[i] = bound(&t, 0, 0, 0);
	}
	assert_true(delivered(&t) <= n);
	cpus_stop(&t);
	for (unsigned i = 0; i < MANY; i++)
		close(fd[i]);
	teardown(&t);
}

/* ---- the lead ---------------------------------------------------------------------- */

/* Each event arrives; and, sooner or later, some of them at a halted vCPU, for this or that CPU. */
static void test_halted_hears(void **state)
{
	uint64_t n[CPUS] = { 0 };
	struct bed t;
	int fd[CPUS];

	setup(&t);
	cpus_start(&t);
	for (unsigned i = 0; i < CPUS; i++)
		fd[i] = bound(&t, i, 0, 0);
	for (unsigned k = 0; k < CPUS * 20; k++) {
		uint64_t before = kvm_stat(t.stats, "irqfd_by_halted_vcpu"), deadline = clock_ns() + PATIENCE;
		unsigned i = k / 20;

		while (kvm_stat(t.stats, "irqfd_by_halted_vcpu") == before) {
			assert_true(clock_ns() < deadline);
			assert_int_equal(eventfd_write(fd[i], 1), 0);
			assert_true(counted(&t, i, ++n[i]));
			/* It halts, most likely: only then somebody hears. */
			(void)usleep(100);
		}
	}
	assert_true(delivered(&t) <= n[0] + n[1]);
	cpus_stop(&t);
	for (unsigned i = 0; i < CPUS; i++)
		close(fd[i]);
	teardown(&t);
}

/* One kind of event over and over, each waited for. */
struct source {
	struct bed *t;
	pthread_t thread;
	unsigned gsi; /* - GSI */
	int fd;	      /* of the irqfd, -1: by KVM_SIGNAL_MSI */
	bool lost;
};

static void *source_main(void *arg)
{
	struct source *s = arg;
	const uint64_t address = 0xfee00000 | s->gsi % CPUS << 12;

	for (unsigned i = 1; i <= ROUNDS && !s->lost; i++) {
		int r = s->fd >= 0 ? eventfd_write(s->fd, 1) : vm_signal_msi(&s->t->b.vm, address, VECTOR + s->gsi) != 1;

		s->lost = r || !counted(s->t, s->gsi, i);
		/* Now at once, now when all have gone to sleep. */
		if (i % 3 == 0)
			(void)usleep(30 * (i % 7));
	}
	return NULL;
}

struct disturber {
	struct bed *t;
	pthread_t thread;
	_Atomic bool stop;
	bool wrong;
};

static void *kick_all(void *arg)
{
	struct disturber *d = arg;

	for (unsigned i = 0; !atomic_load(&d->stop); i++) {
		pthread_kill(d->t->runner[i % CPUS].thread, BARE_KICK_SIGNAL);
		(void)usleep(50 * (i % 5));
	}
	return NULL;
}

static void *bind_all(void *arg)
{
	struct disturber *d = arg;
	const uint64_t one = 1;

	while (!atomic_load(&d->stop)) {
		int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

		d->wrong |= vm_bind_irqfd(&d->t->b.vm, fd, 4000, -1) != 0; /* no route leads anywhere */
		d->wrong |= write(fd, &one, sizeof(one)) != sizeof(one);
		d->wrong |= vm_unbind_irqfd(&d->t->b.vm, fd, 4000) != 0;
		close(fd);
		sched_yield();
	}
	return NULL;
}

/* By eventfd and by message, for both vCPUs, which come and go, while others are bound and unbound. */
static void test_nothing_lost(void **state)
{
	struct bed t;
	struct source s[4];
	struct disturber kicker = { .t = &t }, binder = { .t = &t };

	setup(&t);
	cpus_start(&t);
	assert_int_equal(pthread_create(&kicker.thread, NULL, kick_all, &kicker), 0);
	assert_int_equal(pthread_create(&binder.thread, NULL, bind_all, &binder), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(s); i++) {
		s[i] = (struct source){ .t = &t, .gsi = i, .fd = i < 2 ? bound(&t, i, 0, 0) : -1 };
		assert_int_equal(pthread_create(&s[i].thread, NULL, source_main, &s[i]), 0);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(s); i++)
		pthread_join(s[i].thread, NULL);
	atomic_store(&kicker.stop, true);
	atomic_store(&binder.stop, true);
	pthread_join(kicker.thread, NULL);
	pthread_join(binder.thread, NULL);
	for (unsigned i = 0; i < ARRAY_SIZE(s); i++) {
		assert_false(s[i].lost);
		assert_int_equal(bare_count(&t.b, i % CPUS, VECTOR + i), ROUNDS);
	}
	assert_false(binder.wrong);
	printf("  %llu of %llu heard by a halted vCPU\n",
	       (unsigned long long)kvm_stat(t.stats, "irqfd_by_halted_vcpu"), (unsigned long long)delivered(&t));
	cpus_stop(&t);
	for (unsigned i = 0; i < 2; i++)
		close(s[i].fd);
	teardown(&t);
}

/* A halted vCPU's own timer, near and far: epoll's time-out and the waiter's timerfd. */
static void test_timer(void **state)
{
	static const unsigned ms[] = { 5, 120 };

	for (unsigned i = 0; i < ARRAY_SIZE(ms); i++) {
		struct kvm_lapic_state s;
		uint64_t since;
		struct bed t;

		setup(&t);
		assert_int_equal(vcpu_get_lapic(&t.b.cpus[0], &s), 0);
		store_le32(s.regs + 0x320, VECTOR);	      /* LVT timer: one-shot */
		store_le32(s.regs + 0x3e0, 0xb);	      /* divide by 1 */
		store_le32(s.regs + 0x380, ms[i] * 1000000u); /* cycles of 1 ns at first, */
		store_le32(s.regs + 0x390, ms[i] * 1000000u); /* and still to go */
		since = clock_ns();
		assert_int_equal(vcpu_set_lapic(&t.b.cpus[0], &s), 0);
		cpus_start(&t);
		assert_true(counted(&t, 0, 1));
		assert_true(clock_ns() - since >= ms[i] * UINT64_C(1000000));
		cpus_stop(&t);
		teardown(&t);
	}
}

/* ---- the listener by itself ---------------------------------------------------------- */

struct ear {
	struct listener l;
	struct grace grace;
	struct loop *loop;
	struct listen_item item;
	_Atomic unsigned heard, heard_before;
	/* The loop's thread stands in a callback from the one to the other. */
	pthread_barrier_t begin, end;
	struct loop_watch other;
};

static void on_heard(struct listen_item *i)
{
	struct ear *e = container_of(i, struct ear, item);

	atomic_fetch_add(&e->heard, 1);
}

static void stand_still(void *arg, uint32_t events)
{
	struct ear *e = arg;
	eventfd_t n;

	assert_int_equal(eventfd_read(e->other.fd, &n), 0);
	atomic_store(&e->heard_before, atomic_load(&e->heard));
	pthread_barrier_wait(&e->begin);
	pthread_barrier_wait(&e->end);
}

/*
 * The loop's thread has been woken for the listener and has not come to it yet. Now another leads,
 * and the bell is rung for that one: it must hear it, whoever takes it out of the set.
 */
static void test_bell_is_passed_on(void **state)
{
	struct ear e = { .item.heard = on_heard };
	struct listen_events events;

	grace_init(&e.grace);
	assert_int_equal(loop_create(&e.loop), 0);
	assert_int_equal(listener_init(&e.l, e.loop, &e.grace), 0);
	pthread_barrier_init(&e.begin, NULL, 2);
	pthread_barrier_init(&e.end, NULL, 2);
	e.other = (struct loop_watch){
		.fd = eventfd(1, EFD_NONBLOCK), .events = EPOLLIN, .ready = stand_still, .arg = &e,
	};
	e.item.fd = eventfd(1, EFD_NONBLOCK);
	assert_int_equal(loop_watch(e.loop, &e.other), 0);
	assert_int_equal(listener_add(&e.l, &e.item), 0);
	assert_int_equal(loop_thread_start(e.loop, "ear"), 0);
	pthread_barrier_wait(&e.begin);
	assert_int_equal(atomic_load(&e.heard_before), 0);
	assert_true(listener_lead(&e.l));
	assert_false(listener_lead(&e.l));
	listener_ring(&e.l);
	pthread_barrier_wait(&e.end);
	/* It takes the item's event, and the bell with it. */
	for (uint64_t deadline = clock_ns() + PATIENCE; !atomic_load(&e.heard); sched_yield())
		assert_true(clock_ns() < deadline);
	listener_wait(&e.l, clock_ns() + PATIENCE, &events);
	assert_int_equal(events.nr, 1);
	assert_int_equal(listener_serve(&e.l, &events), 0);
	/* Deaf meanwhile, the loop hears afterwards what came. */
	assert_int_equal(eventfd_write(e.item.fd, 1), 0);
	listener_wait(&e.l, clock_ns() + PATIENCE, &events);
	assert_int_equal(listener_serve(&e.l, &events), 1);
	assert_int_equal(eventfd_write(e.item.fd, 1), 0);
	listener_follow(&e.l);
	for (uint64_t deadline = clock_ns() + PATIENCE; atomic_load(&e.heard) < 3; sched_yield())
		assert_true(clock_ns() < deadline);
	loop_thread_stop(e.loop);
	listener_remove(&e.l, &e.item);
	loop_unwatch(e.loop, &e.other);
	listener_destroy(&e.l);
	loop_destroy(e.loop);
	grace_destroy(&e.grace);
	pthread_barrier_destroy(&e.begin);
	pthread_barrier_destroy(&e.end);
	close(e.item.fd);
	close(e.other.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_semaphore),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_halted_hears),
		cmocka_unit_test(test_nothing_lost),
		cmocka_unit_test(test_timer),
		cmocka_unit_test(test_bell_is_passed_on),
	};

	return RUN(tests);
}
