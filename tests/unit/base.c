/* SPDX-License-Identifier: MIT */
#include "../lib/check.h"
#include "base/base.h"
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void sizes(void **state)
{
	static const struct {
		const char *text;
		int result;
		uint64_t value;
	} rows[] = {
		{ "0", 0, 0 },
		{ "512", 0, 512 },
		{ "4K", 0, 4096 },
		{ "4k", 0, 4096 },
		{ "512M", 0, 512ull << 20 },
		{ "16777215T", 0, 16777215ull << 40 },
		{ "16777216T", -ERANGE, 0 },
		{ "18446744073709551616", -ERANGE, 0 },
		{ "", -EINVAL, 0 },
		{ "-1", -EINVAL, 0 },
		{ " 1", -EINVAL, 0 },
		{ "1KB", -EINVAL, 0 },
		{ "1X", -EINVAL, 0 },
		{ "M", -EINVAL, 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		uint64_t v = 77;

		assert_int_equal(size_parse(rows[i].text, &v), rows[i].result);
		assert_int_equal(v, rows[i].result ? 77 : rows[i].value);
	}
}

static void numbers(void **state)
{
	uint64_t v = 77;

	assert_int_equal(number_parse("0x1f", 0, 255, &v), 0);
	assert_int_equal(v, 31);
	assert_int_equal(number_parse("010", 0, 255, &v), 0);
	assert_int_equal(v, 10);
	assert_int_equal(number_parse("256", 0, 255, &v), -ERANGE);
	assert_int_equal(number_parse("0", 1, 255, &v), -ERANGE);
	assert_int_equal(number_parse("99999999999999999999", 0, UINT64_MAX, &v), -ERANGE);
	assert_int_equal(number_parse("0x", 0, 255, &v), -EINVAL);
	assert_int_equal(number_parse("1a", 0, 255, &v), -EINVAL);
	assert_int_equal(number_parse("+1", 0, 255, &v), -EINVAL);
	assert_int_equal(number_parse(NULL, 0, 255, &v), -EINVAL);
	assert_int_equal(v, 10);
}

static void ranges(void **state)
{
	assert_true(range_within(0, 10, 10));
	assert_true(range_within(10, 0, 10));
	assert_false(range_within(11, 0, 10));
	assert_false(range_within(UINT64_MAX, 2, 10));
	assert_false(range_within(5, UINT64_MAX, 10));
	assert_true(range_overlaps(0, 10, 9, 1));
	assert_false(range_overlaps(0, 10, 10, 1));
	assert_false(range_overlaps(0, 0, 0, 10));
	assert_true(range_overlaps(UINT64_MAX, 1, UINT64_MAX - 1, 2));
}

static void histograms(void **state)
{
	static struct histogram h, g;

	histogram_init(&h);
	assert_int_equal(histogram_quantile(&h, 0.5), 0);
	for (uint64_t v = 1; v <= 100000; v++)
		histogram_add(&h, v);
	assert_int_equal(h.min, 1);
	assert_int_equal(h.max, 100000);
	for (int p = 1; p < 100; p++) {
		double want = p * 1000.0, got = (double)histogram_quantile(&h, p / 100.0);

		assert_true(got > want * 0.9375 - 1 && got < want * 1.0625 + 1);
	}
	histogram_init(&g);
	histogram_add(&g, UINT64_MAX);
	histogram_add(&g, 0);
	histogram_merge(&h, &g);
	assert_int_equal(h.count, 100002);
	assert_int_equal(h.min, 0);
	assert_true(h.max == UINT64_MAX);
	assert_true(histogram_quantile(&h, 1.0) > UINT64_MAX / 2);
}

static void notifier_counts(void **state)
{
	struct notifier n;

	assert_int_equal(notifier_create(&n, 0, 1 << 30), -EINVAL);
	assert_int_equal(notifier_create(&n, 0, 0), 0);
	assert_false(notifier_pending(&n));
	assert_int_equal(notifier_drain(&n), 0);
	assert_int_equal(notifier_signal(&n), 0);
	assert_int_equal(notifier_add(&n, 41), 0);
	assert_true(notifier_pending(&n));
	assert_int_equal(notifier_drain(&n), 42);
	assert_false(notifier_pending(&n));
	/* The top: 2^64-2 is the largest count, and nothing is added past it. */
	assert_int_equal(notifier_add(&n, UINT64_MAX - 1), 0);
	assert_int_equal(notifier_signal(&n), -EAGAIN);
	assert_true(notifier_drain(&n) == UINT64_MAX - 1);
	assert_int_equal(notifier_add(&n, UINT64_MAX), -EINVAL);
	notifier_destroy(&n);

	assert_int_equal(notifier_create(&n, 0, EFD_SEMAPHORE), 0);
	assert_int_equal(notifier_add(&n, 3), 0);
	assert_int_equal(notifier_drain(&n), 1);
	assert_int_equal(notifier_drain(&n), 1);
	assert_true(notifier_pending(&n));
	notifier_destroy(&n);
	notifier_destroy(&n);
}

struct sink {
	struct notifier *n;
	uint64_t taken;
	bool refuse;
	int depth;
};

static bool sink_fn(void *arg, uint64_t value)
{
	struct sink *s = arg;

	if (s->refuse)
		return false;
	s->taken += value;
	/* Signalling from inside must reach the eventfd, not us again. */
	if (s->depth++ == 0)
		assert_int_equal(notifier_add(s->n, 100), 0);
	return true;
}

static void notifier_sinks(void **state)
{
	struct notifier n;
	struct sink s = { .n = &n };
	struct notifier_sink_ref ref = { sink_fn, &s };

	assert_int_equal(notifier_create(&n, 0, 0), 0);
	notifier_set_sink(&n, &ref);
	assert_int_equal(notifier_signal(&n), 0);
	assert_int_equal(s.taken, 1);
	assert_int_equal(notifier_drain(&n), 100);
	s.refuse = true;
	assert_int_equal(notifier_signal(&n), 0);
	assert_int_equal(s.taken, 1);
	assert_int_equal(notifier_drain(&n), 1);
	notifier_set_sink(&n, NULL);
	assert_int_equal(notifier_signal(&n), 0);
	assert_int_equal(notifier_drain(&n), 1);
	notifier_destroy(&n);
}

/* ---- loop -------------------------------------------------------------- */

struct looped {
	struct loop *l;
	struct notifier n;
	struct loop_watch w, w2;
	struct loop_timer t[3];
	int order[8], nr;
	_Atomic int calls;
	bool right_thread;
};

static void on_readable(void *arg, uint32_t events)
{
	struct looped *x = arg;

	notifier_drain(&x->n);
	x->calls++;
	loop_unwatch(x->l, &x->w2);
	loop_stop(x->l);
}

static void on_never(void *arg, uint32_t events)
{
	struct looped *x = arg;

	x->calls += 1000;
	loop_unwatch(x->l, &x->w);
	loop_stop(x->l);
}

/* Two watches ready at once; the first to run takes the other away: it must not run then. */
static void loop_unwatch_in_batch(void **state)
{
	struct looped x = { 0 };

	assert_int_equal(loop_create(&x.l), 0);
	assert_int_equal(notifier_create(&x.n, 1, 0), 0);
	x.w = (struct loop_watch){ .fd = x.n.fd, .events = EPOLLIN, .ready = on_readable, .arg = &x };
	x.w2 = (struct loop_watch){ .fd = dup(x.n.fd), .events = EPOLLIN, .ready = on_never, .arg = &x };
	assert_int_equal(loop_watch(x.l, &x.w), 0);
	assert_int_equal(loop_watch(x.l, &x.w), -EEXIST);
	assert_int_equal(loop_watch(x.l, &x.w2), 0);
	assert_int_equal(loop_run(x.l), 0);
	assert_true(x.calls == 1 || x.calls == 1000);
	loop_unwatch(x.l, &x.w);
	close(x.w2.fd);
	notifier_destroy(&x.n);
	loop_destroy(x.l);
}

static void fire0(void *arg) { struct looped *x = arg; x->order[x->nr++] = 0; }
static void fire1(void *arg) { struct looped *x = arg; x->order[x->nr++] = 1; loop_timer_cancel(x->l, &x->t[2]); }
static void fire2(void *arg) { struct looped *x = arg; x->order[x->nr++] = 2; loop_stop(x->l); }

static void loop_timers(void **state)
{
	struct looped x = { 0 };
	uint64_t now = clock_ns();

	assert_int_equal(loop_create(&x.l), 0);
	x.t[0] = (struct loop_timer){ .fire = fire0, .arg = &x };
	x.t[1] = (struct loop_timer){ .fire = fire1, .arg = &x };
	x.t[2] = (struct loop_timer){ .fire = fire2, .arg = &x };
	loop_timer_set(x.l, &x.t[1], now + 4000000);
	loop_timer_set(x.l, &x.t[0], now + 9000000);
	loop_timer_set(x.l, &x.t[0], now + 2000000); /* moved, not doubled */
	loop_timer_set(x.l, &x.t[2], now + 6000000); /* cancelled by fire1 */
	struct loop_timer end = { .fire = fire2, .arg = &x };
	loop_timer_set(x.l, &end, now + 12000000);
	assert_int_equal(loop_run(x.l), 0);
	assert_true(clock_ns() >= now + 12000000);
	assert_int_equal(x.nr, 3);
	assert_int_equal(x.order[0], 0);
	assert_int_equal(x.order[1], 1);
	assert_int_equal(x.order[2], 2);
	loop_destroy(x.l);
}

static void count_call(void *arg)
{
	struct looped *x = arg;

	x->right_thread = loop_is_current(x->l);
	x->calls++;
}

static void *hammer(void *arg)
{
	struct looped *x = arg;

	for (int i = 0; i < 2000; i++) {
		if (i % 2)
			loop_call(x->l, count_call, x);
		else
			assert_int_equal(loop_post(x->l, count_call, x), 0);
	}
	return NULL;
}

static void loop_calls(void **state)
{
	struct looped x = { 0 };
	pthread_t t[3];

	assert_int_equal(loop_create(&x.l), 0);
	/* Nobody runs it: the call acts at once, here. */
	loop_call(x.l, count_call, &x);
	assert_int_equal(x.calls, 1);
	assert_int_equal(loop_thread_start(x.l, "test"), 0);
	assert_int_equal(loop_thread_start(x.l, "test"), -EBUSY);
	for (int i = 0; i < 3; i++)
		assert_int_equal(thread_create(&t[i], "hammer", hammer, &x), 0);
	for (int i = 0; i < 3; i++)
		thread_join(t[i]);
	loop_call(x.l, count_call, &x);
	assert_true(x.right_thread);
	assert_int_equal(x.calls, 6002);
	loop_thread_stop(x.l);
	loop_thread_stop(x.l);
	/* Posted to a loop that stands: kept, and dropped without a leak. */
	assert_int_equal(loop_post(x.l, count_call, &x), 0);
	loop_destroy(x.l);
	assert_int_equal(x.calls, 6002);
}

static void remember_calls(void *arg)
{
	struct looped *x = arg;

	x->nr = (int)x->calls;
}

/* What is called comes after what was posted, also while the loop's thread has not had a turn yet. */
static void loop_keeps_order(void **state)
{
	for (unsigned i = 0; i < 100; i++) {
		struct looped x = { 0 };

		assert_int_equal(loop_create(&x.l), 0);
		assert_int_equal(loop_thread_start(x.l, "test"), 0);
		assert_int_equal(loop_post(x.l, count_call, &x), 0);
		loop_call(x.l, remember_calls, &x);
		assert_int_equal(x.nr, 1);
		assert_int_equal(loop_run(x.l), -EBUSY);
		loop_destroy(x.l);
	}
}

static void *serve_later(void *arg)
{
	struct looped *x = arg;

	usleep(2000);
	assert_int_equal(loop_post(x->l, count_call, x), 0);
	return NULL;
}

static void loop_serves(void **state)
{
	struct looped x = { 0 };
	pthread_t t;

	assert_int_equal(loop_create(&x.l), 0);
	assert_int_equal(thread_create(&t, "later", serve_later, &x), 0);
	while (!x.calls)
		loop_serve(x.l);
	thread_join(t);
	loop_destroy(x.l);
}

/* Everybody who acts for a loop that stands, one at a time. */
struct standing {
	struct loop *l;
	pthread_mutex_t chip;   /* a device's lock: callbacks take it, its holders post */
	_Atomic int inside, seen; /* seen: by how many others */
	_Atomic bool overlapped, called, posted;
};

static void act(void *arg)
{
	struct standing *x = arg;

	if (atomic_fetch_add(&x->inside, 1))
		x->overlapped = true;
	/* Until the others are there, and have had their chance to come in between. */
	while (x->seen < 2)
		usleep(100);
	for (int i = 0; i < 200 && !x->called; i++)
		usleep(100);
	mutex_lock(&x->chip);
	mutex_unlock(&x->chip);
	atomic_fetch_sub(&x->inside, 1);
}

static void act_called(void *arg)
{
	struct standing *x = arg;

	if (atomic_load(&x->inside))
		x->overlapped = true;
	x->called = true;
}

static void *call_inside(void *arg)
{
	struct standing *x = arg;

	while (!x->inside)
		sched_yield();
	x->seen++;
	loop_call(x->l, act_called, x);
	return NULL;
}

static void *post_locked(void *arg)
{
	struct standing *x = arg;

	mutex_lock(&x->chip);
	while (!x->inside)
		sched_yield();
	x->seen++;
	usleep(1000);
	assert_int_equal(loop_post(x->l, act_called, x), 0);
	x->posted = true;
	mutex_unlock(&x->chip);
	return NULL;
}

/* What was posted is run by loop_serve() while another thread calls the same standing loop. */
static void loop_stands(void **state)
{
	struct standing x = { 0 };
	pthread_t caller, poster;

	assert_int_equal(loop_create(&x.l), 0);
	mutex_init(&x.chip);
	assert_int_equal(loop_post(x.l, act, &x), 0);
	assert_int_equal(thread_create(&caller, "caller", call_inside, &x), 0);
	assert_int_equal(thread_create(&poster, "poster", post_locked, &x), 0);
	while (!x.called || !x.posted)
		loop_serve(x.l);
	thread_join(caller);
	thread_join(poster);
	assert_false(x.overlapped);
	mutex_destroy(&x.chip);
	loop_destroy(x.l);
}

static void serve_inside(void *arg)
{
	struct standing *x = arg;

	x->inside = 1;
	while (!x->called)
		loop_serve(x->l);
	x->inside = 0;
}

static void call_done(void *arg)
{
	((struct standing *)arg)->called = true;
}

static void *call_meanwhile(void *arg)
{
	struct standing *x = arg;

	while (!x->inside)
		sched_yield();
	loop_call(x->l, call_done, x);
	return NULL;
}

/* Who acts for a standing loop may wait in loop_serve() for a thread that calls it: machine_pause() does. */
static void loop_serves_while_it_stands(void **state)
{
	struct standing x = { 0 };
	pthread_t t;

	assert_int_equal(loop_create(&x.l), 0);
	assert_int_equal(thread_create(&t, "caller", call_meanwhile, &x), 0);
	loop_call(x.l, serve_inside, &x);
	thread_join(t);
	assert_true(x.called);
	loop_destroy(x.l);
}

/* A call on a standing loop comes behind what was posted, as on one that runs. */
static void loop_stands_in_order(void **state)
{
	struct looped x = { 0 };

	assert_int_equal(loop_create(&x.l), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(loop_post(x.l, count_call, &x), 0);
	loop_call(x.l, remember_calls, &x);
	assert_int_equal(x.nr, 3);
	loop_destroy(x.l);
}

static void *read_mask(void *arg)
{
	assert_int_equal(pthread_sigmask(SIG_BLOCK, NULL, arg), 0);
	return NULL;
}

/* A fault in a blocked state kills without its handler: the terminal would stay raw. */
static void thread_signals(void **state)
{
	static const int faults[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT };
	sigset_t mask, before, after;
	pthread_t t;

	assert_int_equal(pthread_sigmask(SIG_BLOCK, NULL, &before), 0);
	assert_int_equal(thread_create(&t, "mask", read_mask, &mask), 0);
	thread_join(t);
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++)
		assert_false(sigismember(&mask, faults[i]));
	assert_true(sigismember(&mask, SIGTERM));
	assert_true(sigismember(&mask, SIGWINCH));
	assert_true(sigismember(&mask, SIGPIPE));
	/* The creator's own stays as it was. */
	assert_int_equal(pthread_sigmask(SIG_BLOCK, NULL, &after), 0);
	for (int i = 1; i < 32; i++)
		assert_int_equal(sigismember(&before, i), sigismember(&after, i));
}

static void errors(void **state)
{
	struct err e;
	char longer[1000];

	assert_int_equal(err_set(&e, -ENOENT, "disk %d", 3), -ENOENT);
	assert_int_equal(err_prefix(&e, -ENOENT, "run"), -ENOENT);
	assert_string_equal(e.text, "run: disk 3");
	assert_int_equal(err_set(NULL, -EIO, "x"), -EIO);
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	err_set(&e, -EIO, "%s", longer);
	err_prefix(&e, -EIO, "%s", longer);
	assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
}

/* Random edits against one mark a unit of the space. */
static void range_tables(void **state)
{
	enum { SPACE = 64, IDS = 12 };
	static struct range all[IDS];
	struct ranges *spare = NULL, *t = ranges_edit(NULL, NULL, NULL, &spare);
	uint64_t seed = 1;

	assert_non_null(t);
	for (unsigned round = 0; round < 20000; round++) {
		struct range want, *in, *gone = NULL, *add = NULL;
		struct ranges *new;
		bool taken = false;

		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		in = &all[(seed >> 33) % IDS];
		want.start = (seed >> 40) % SPACE;
		want.size = 1 + (seed >> 50) % (SPACE - want.start);
		if (in->size)
			gone = in;
		for (unsigned i = 0; i < IDS; i++)
			taken |= &all[i] != in && range_overlaps(all[i].start, all[i].size, want.start, want.size);
		if (!taken && (!gone || seed >> 63))
			add = &want;
		new = ranges_edit(t, gone, add, &spare);
		assert_non_null(new);
		assert_int_equal(new->n, t->n - !!gone + !!add);
		*in = add ? want : (struct range){ 0, 0 };
		/* the old table is as it was */
		for (unsigned i = 0; i < t->n; i++)
			assert_true(i == 0 || t->at[i] == in || t->at[i - 1] == in || t->at[i - 1]->start < t->at[i]->start);
		for (unsigned i = 0; i < new->n; i++)
			if (new->at[i] == &want)
				new->at[i] = in;
		/* now and then there is none */
		spare = t;
		if (round % 16 == 0) {
			free(spare);
			spare = NULL;
		}
		t = new;
		for (uint64_t a = 0; a < SPACE; a++) {
			const struct range *r = ranges_find(t, a), *found = NULL;

			for (unsigned i = 0; i < IDS; i++)
				if (a - all[i].start < all[i].size)
					found = &all[i];
			assert_ptr_equal(r, found);
		}
	}
	free(t);
	free(spare);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes),
		cmocka_unit_test(numbers),
		cmocka_unit_test(ranges),
		cmocka_unit_test(range_tables),
		cmocka_unit_test(histograms),
		cmocka_unit_test(notifier_counts),
		cmocka_unit_test(notifier_sinks),
		cmocka_unit_test(loop_unwatch_in_batch),
		cmocka_unit_test(loop_timers),
		cmocka_unit_test(loop_calls), cmocka_unit_test(loop_keeps_order),
		cmocka_unit_test(loop_serves),
		cmocka_unit_test(loop_stands), cmocka_unit_test(loop_stands_in_order),
		cmocka_unit_test(loop_serves_while_it_stands),
		cmocka_unit_test(thread_signals),
		cmocka_unit_test(errors),
	};

	return RUN(tests);
}
