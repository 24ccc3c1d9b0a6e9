/* SPDX-License-Identifier: MIT
 * When a loop polls, when it asks for wake-ups, and that it starves nobody.
 */
#include "base/base.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

struct source {
	struct loop *l;
	struct loop_poller p;
	struct notifier n;
	struct loop_watch w;
	unsigned work;          /* what poll() finds, one at a time */
	unsigned late;          /* what comes when sleep() looks */
	unsigned polls, sleeps, woken;
	unsigned enough;        /* stop the loop at this poll */
	bool until_sleep;       /* stop it when it sleeps */
	uint64_t slept_at;      /* clock_ns() */
	bool endless;
};

static bool do_poll(void *arg)
{
	struct source *s = arg;

	if (++s->polls == s->enough)
		loop_stop(s->l);
	if (s->endless)
		return true;
	if (!s->work)
		return false;
	s->work--;
	return true;
}

static bool do_sleep(void *arg)
{
	struct source *s = arg;

	s->sleeps++;
	if (s->endless)
		return true;
	if (!s->late) {
		s->slept_at = clock_ns();
		if (s->until_sleep)
			loop_stop(s->l);
		return false;
	}
	s->late--;
	s->work++;
	return true;
}

static void on_ready(void *arg, uint32_t events)
{
	struct source *s = arg;

	notifier_drain(&s->n);
	s->woken++;
	loop_stop(s->l);
}

static void on_timer(void *arg)
{
	loop_stop(arg);
}

static int setup(void **state)
{
	struct source *s = calloc(1, sizeof(*s));

	assert_int_equal(loop_create(&s->l), 0);
	assert_int_equal(notifier_create(&s->n, 0, 0), 0);
	s->w = (struct loop_watch){ .fd = s->n.fd, .events = EPOLLIN, .ready = on_ready, .arg = s };
	s->p = (struct loop_poller){ .poll = do_poll, .sleep = do_sleep, .arg = s };
	assert_int_equal(loop_watch(s->l, &s->w), 0);
	loop_poller_add(s->l, &s->p);
	alarm(60);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct source *s = *state;

	alarm(0);
	loop_destroy(s->l);
	notifier_destroy(&s->n);
	free(s);
	return 0;
}

static void run_for(struct source *s, uint64_t ns)
{
	struct loop_timer t = { .fire = on_timer, .arg = s->l };

	loop_timer_set(s->l, &t, clock_ns() + ns);
	assert_int_equal(loop_run(s->l), 0);
}

static void test_sleeps_when_idle(void **state)
{
	struct source *s = *state;

	run_for(s, 20000000);
	/* One look and one announcement, and then it slept until the timer. */
	assert_in_range(s->polls, 1, 3);
	assert_int_equal(s->sleeps, s->polls);
}

static void test_late_work_is_found(void **state)
{
	struct source *s = *state;

	s->late = 3;
	s->until_sleep = true;
	assert_int_equal(loop_run(s->l), 0);
	assert_int_equal(s->late, 0);
	assert_int_equal(s->work, 0);
}

static void test_no_sleep_hook(void **state)
{
	struct source *s = *state;

	s->p.sleep = NULL;
	s->work = 5;
	s->enough = 6;
	assert_int_equal(loop_run(s->l), 0);
	assert_int_equal(s->work, 0);
	assert_int_equal(s->sleeps, 0);
}

static void test_window_spins(void **state)
{
	const uint64_t window = 30000000;
	struct source *s = *state;
	uint64_t start;

	/* Within the window it looks again and again, and announces no sleep. */
	loop_set_poll_window(s->l, 60 * NSEC_PER_SEC);
	s->work = 1;
	s->enough = 20;
	s->until_sleep = true;
	assert_int_equal(loop_run(s->l), 0);
	assert_int_equal(s->sleeps, 0);
	/* After it, it does. */
	loop_set_poll_window(s->l, window);
	s->work = 1;
	start = clock_ns();
	assert_int_equal(loop_run(s->l), 0);
	assert_int_equal(s->sleeps, 1);
	assert_true(s->slept_at - start >= window);
}

static void test_endless_work_starves_nobody(void **state)
{
	struct source *s = *state;

	s->endless = true;
	notifier_signal(&s->n);
	assert_int_equal(loop_run(s->l), 0);
	assert_int_equal(s->woken, 1);
	run_for(s, 2000000);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_sleeps_when_idle), T(test_late_work_is_found), T(test_no_sleep_hook),
		T(test_window_spins), T(test_endless_work_starves_nobody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
