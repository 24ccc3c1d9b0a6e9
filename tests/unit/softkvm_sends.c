/* SPDX-License-Identifier: MIT
 * Who sends an interrupt or an NMI, held at every instruction of the call.
 *
 * The vCPU runs in the guest meanwhile. If it has seen what was sent, it halts, and sleeps;
 * then the call goes on. What is left of it must not end that halt: nothing comes any more.
 * And if the vCPU had seen nothing yet, it must now.
 *
 *     sender                    vCPU
 *     says what                 in the guest
 *     (held)                    takes it; HLT
 *     says that there is some   goes on sleeping
 *
 * `softkvm_sends 1` takes each instruction, not some of them (make check-long).
 */
#include "../lib/check.h"
#include "../lib/process.h"
#include "../lib/steps.h"
#include "base/clock.h"
#include <stdio.h>
#include <sys/user.h>
#include <sys/wait.h>

#define STEPS_MAX  1000000u /* of one call, each time that an instruction is passed */
#define SHORTLY_NS 3000000u /* the vCPU, if it can, has taken it by then */

static unsigned every = STEPS_EVERY;
static const char where[] = "the sender";

static uint16_t turns(struct tracer *t)
{
	return load_le16(t->c.board->mem + STEPS_COUNT);
}

static uint64_t partner_step(struct tracer *t)
{
	assert_int_equal(ptrace(PTRACE_SINGLESTEP, t->partner, NULL, NULL), 0);
	(void)tracer_stopped(t, t->partner, where, 0);
	return (uint64_t)ptrace(PTRACE_PEEKUSER, t->partner, offsetof(struct user_regs_struct, rip), NULL);
}

static void partner_goes_on(struct tracer *t)
{
	assert_int_equal(ptrace(PTRACE_CONT, t->partner, NULL, NULL), 0);
}

/* The call's instructions: from its thread's read(2) to the next. */
static void find_way(struct tracer *t, enum event event, struct passed *way)
{
	uint64_t rip, after_read;
	unsigned steps = 0;

	tracer_go_on(t, PTRACE_CONT);
	tracer_interrupt(t, t->partner, where, 0);
	tracer_call(t, event);
	/* A SYSCALL has two bytes. */
	for (after_read = rip = partner_step(t); rip != after_read - 2; rip = partner_step(t)) {
		if (steps++ == STEPS_MAX)
			tracer_lost(t, where, way->n, "its call does not end");
		passed_add(way, rip);
	}
	partner_goes_on(t);
	tracer_await_round(t, where, 0);
}

/* Its thread, which runs, stops at the instruction: true. False: it has made its call without, this time. */
static bool held(struct tracer *t, uint32_t made, unsigned k)
{
	uint64_t until = tracer_patience();
	int status;

	while (!waitpid(t->partner, &status, __WALL | WNOHANG)) {
		if (t->c.board->made != made && thread_state(t->pid, t->partner) == 'S')
			return false;
		tracer_wait_more(t, until, where, k, "its call does not end");
	}
	return true;
}

/* The vCPU stops within a short while, at the next round's begin. */
static bool ends_shortly(struct tracer *t)
{
	uint64_t until = clock_ns() + SHORTLY_NS;
	int status;

	while (!waitpid(t->pid, &status, __WALL | WNOHANG)) {
		if (clock_ns() > until)
			return false;
		sched_yield();
	}
	assert_true(WIFSTOPPED(status) && WSTOPSIG(status) == SIG_ROUND);
	return true;
}

/* It has been woken by nothing, or has looked and sleeps again. */
static void sleeps(struct tracer *t, uint16_t before, unsigned k)
{
	uint64_t until = tracer_patience();

	while (turns(t) == before && thread_state(t->pid, t->pid) != 'S')
		tracer_wait_more(t, until, where, k, "the vCPU neither sleeps nor runs");
	if (turns(t) != before || t->c.board->says)
		tracer_lost(t, where, k, "what is left of it wakes a vCPU that has taken it already");
}

/* From a round's begin to another's. True: it was held there, and the vCPU did not wait for what came after. */
static bool hold(struct tracer *t, enum event event, uint64_t rip, unsigned k)
{
	struct board *b = t->c.board;
	uint64_t until = tracer_patience();
	uint16_t before = turns(t);
	uint32_t made = b->made;
	bool is_held, ended = false;

	/* This holds from the next round on. */
	b->halted = 1;
	tracer_go_on(t, PTRACE_CONT);
	while (turns(t) == before)
		tracer_wait_more(t, until, where, k, "the vCPU does not run");
	tracer_interrupt(t, t->partner, where, k);
	tracer_break(t->partner, rip);
	partner_goes_on(t);
	tracer_call(t, event);
	is_held = held(t, made, k);
	if (is_held) {
		tracer_break(t->partner, 0);
		ended = ends_shortly(t);
	}
	if (ended) {
		before = turns(t);
		tracer_go_on(t, PTRACE_CONT);
		sleeps(t, before, k);
	}
	if (is_held)
		partner_goes_on(t);
	until = tracer_patience();
	while (b->made == made)
		tracer_wait_more(t, until, where, k, "its call does not end");
	if (!ended) {
		tracer_await_round(t, where, k);
		before = turns(t);
		tracer_go_on(t, PTRACE_CONT);
	}
	sleeps(t, before, k);
	/* The same again ends the halt. */
	b->halted = 0;
	tracer_interrupt(t, t->partner, where, k);
	tracer_break(t->partner, 0);
	partner_goes_on(t);
	tracer_happen(t, event);
	tracer_await_round(t, where, k);
	return ended;
}

static void sweep(enum event event)
{
	static struct passed way;
	unsigned met = 0;
	struct tracer t;

	way.n = 0;
	tracer_start(&t, false);
	tracer_attach_partner(&t);
	t.c.board->event = event;
	t.c.board->want = steps_wants[event];
	/* The first round knew nothing of it. */
	tracer_happen(&t, EV_SIGNAL);
	tracer_finish(&t, where, 0);
	find_way(&t, event, &way);
	for (unsigned k = 0; k < way.n; k += every)
		met += hold(&t, event, way.rip[k], k);
	printf("  %u instructions; at %u of %u it was taken before the call's end\n", way.n, met,
	       (way.n + every - 1) / every);
	tracer_end(&t);
	assert_true(met > 0);
}

static void message(void **state)
{
	sweep(EV_MSI);
}

static void nmi(void **state)
{
	sweep(EV_NMI);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(message),
		cmocka_unit_test(nmi),
	};

	if (argc > 1)
		every = MAX((unsigned)strtoul(argv[1], NULL, 0), 1u);
	return RUN(tests);
}
