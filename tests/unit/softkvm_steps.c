/* SPDX-License-Identifier: MIT
 * An event at every instruction of KVM_RUN's way into the guest, to sleep, or awake again.
 *
 * The vCPU's thread is traced (steps.h). It is stepped once along the way, until it is in
 * translated code or asleep. Then for each instruction that it passed: a breakpoint holds it
 * there; the event comes, from another thread of the child or from here, and does all it can;
 * the vCPU goes on, and must notice. So a window of one instruction between "looked" and
 * "slept" is met as surely as a wide one.
 * `softkvm_steps 1` takes each instruction, not some of them (make check-long).
 */
#include "../lib/check.h"
#include "../lib/process.h"
#include "../lib/steps.h"
#include <poll.h>
#include <stdio.h>
#include <sys/wait.h>

static unsigned every = STEPS_EVERY;

/* ---- the ways ------------------------------------------------------------------------------- */

/* LED: while another vCPU listens to the irqfds; else this one does, in its sleep. */
enum way { TO_GUEST, TO_SLEEP, TO_SLEEP_LED, AWAKE, AWAKE_LED, NR_WAYS };

static const char *const way_names[NR_WAYS] = {
	"into the guest", "to sleep", "to sleep, while another listens", "awake", "awake, while another listened",
};

static bool wakes(enum way w)
{
	return w == AWAKE || w == AWAKE_LED;
}

/* Let it go on until it is at the end of its way: false. True: at a breakpoint before. */
static bool go_on_to_end(struct tracer *t, enum way w, uint64_t until)
{
	struct board *b = t->c.board;
	uint16_t before = load_le16(b->mem + STEPS_COUNT);
	int status;
	pid_t got;

	tracer_go_on(t, PTRACE_CONT);
	while ((got = waitpid(t->pid, &status, __WALL | WNOHANG)) == 0 &&
	       (b->halted ? thread_state(t->pid, t->pid) != 'S' : load_le16(b->mem + STEPS_COUNT) == before))
		tracer_wait_more(t, until, way_names[w], 0, b->halted ? "it does not sleep" : "it does not run");
	if (clock_ns() > until)
		tracer_lost(t, way_names[w], 0, "it comes by again and again");
	if (!got)
		return false;
	if (got != t->pid || !WIFSTOPPED(status))
		tracer_lost(t, "looking for the instruction", 0, "the child ended");
	if (WSTOPSIG(status) != SIGTRAP)
		t->sig = WSTOPSIG(status);
	return true;
}

/* A signal ends the round. */
static void find_way(struct tracer *t, enum way w, struct passed *way)
{
	enum place at;

	if (wakes(w)) {
		while (tracer_step(t) == IN_KVM)
			;
		tracer_happen(t, EV_MSI);
		if (tracer_stopped(t, t->pid, way_names[w], 0) != SIGTRAP)
			tracer_lost(t, way_names[w], 0, "a signal");
	}
	/* A handler's first instruction may be one that the engine does by itself. */
	while ((at = tracer_step(t)) == IN_KVM && !t->c.board->says)
		passed_add(way, t->rip);
	tracer_happen(t, EV_SIGNAL);
	if (at == ASLEEP)
		tracer_await_round(t, way_names[w], way->n);
	else
		tracer_finish(t, way_names[w], way->n);
}

enum met { MET, PAST, OVER };

/*
 * From a round's begin to where the instruction is first met on its way. PAST: to the way's end, since it was
 * not (another way, this time), or is none; OVER: the round has ended.
 */
static enum met run_to(struct tracer *t, enum way w, uint64_t rip)
{
	uint64_t until = tracer_patience();
	struct board *b = t->c.board;
	enum met met = PAST;
	int status;

	tracer_break(t->pid, rip);
	if (!wakes(w)) {
		met = go_on_to_end(t, w, until) ? MET : PAST;
	} else {
		while (go_on_to_end(t, w, until)) /* breakpoints before its sleep */
			;
		tracer_happen(t, EV_MSI);
		while (!waitpid(t->pid, &status, __WALL | WNOHANG)) {
			if (b->says && b->says != b->want)
				goto past;
			tracer_wait_more(t, until, way_names[w], 0, "a message does not wake it");
		}
		met = WIFSTOPPED(status) && WSTOPSIG(status) == SIG_ROUND ? OVER : MET;
	}
past:
	if (met == PAST)
		tracer_interrupt(t, t->pid, way_names[w], 0);
	tracer_break(t->pid, 0);
	return met;
}

/* ---- sweeps ---------------------------------------------------------------------------------- */

/* Somebody has heard the other vCPU's irqfd. */
static void wait_taken(struct tracer *t, enum way w, unsigned k)
{
	struct pollfd p = { .fd = t->c.irq[1], .events = POLLIN };

	for (uint64_t until = tracer_patience(); poll(&p, 1, 0) == 1;)
		tracer_wait_more(t, until, way_names[w], k, "nobody heard an irqfd");
}

/* After the event, as far as the next round's begin. */
static void end_round(struct tracer *t, enum event event, enum way w, unsigned k)
{
	struct board *b = t->c.board;
	bool interrupted = event == EV_SIGNAL;

	if (event == EV_OTHER && !wakes(w)) {
		/* Not this vCPU's: a signal ends the round. */
		tracer_go_on(t, PTRACE_CONT);
		wait_taken(t, w, k);
		tracer_happen(t, EV_SIGNAL);
		tracer_await_round(t, way_names[w], k);
		interrupted = true;
	} else {
		tracer_finish(t, way_names[w], k);
	}
	if (event == EV_OTHER)
		wait_taken(t, w, k);
	if (b->result != (interrupted ? -EINTR : 0) || (!interrupted && (b->said & b->want) != b->want)) {
		fprintf(stderr, "  KVM_RUN: %d; the guest: %#x, wanted %#x\n", b->result, b->said, b->want);
		tracer_lost(t, way_names[w], k, "KVM_RUN said something else");
	}
}

static void sweep(enum event event, enum way w)
{
	static struct passed way;
	unsigned met = 0;
	struct tracer t;
	struct board *b;

	way.n = 0;
	tracer_start(&t, w == TO_SLEEP_LED || w == AWAKE_LED);
	b = t.c.board;
	b->event = event;
	b->halted = w != TO_GUEST;
	/* What wakes it is seen too; but a signal may come before it. */
	b->want = steps_wants[event] | (wakes(w) && event != EV_SIGNAL ? BIT(SAYS_IRQ) : 0);
	/* These hold from the next round's begin; in the round after it does all that is done once. */
	tracer_happen(&t, EV_SIGNAL);
	tracer_finish(&t, way_names[w], 0);
	if (run_to(&t, w, 0) != OVER) {
		tracer_happen(&t, EV_SIGNAL);
		tracer_finish(&t, way_names[w], 0);
	}
	find_way(&t, w, &way);
	for (unsigned k = 0; k < way.n; k += every) {
		enum met m = run_to(&t, w, way.rip[k]);

		if (m == OVER)
			continue;
		met += m == MET;
		tracer_happen(&t, event);
		end_round(&t, event, w, k);
	}
	printf("  %s: %u instructions, held at %u\n", way_names[w], way.n, met);
	tracer_end(&t);
	assert_true(met >= way.n / every / 2);
}

static void signal_comes(void **state)
{
	for (enum way w = 0; w < NR_WAYS; w++)
		sweep(EV_SIGNAL, w);
}

/* Who hears one for another does not listen any more: nobody else leads for long. */
static void irqfd_comes(void **state)
{
	sweep(EV_IRQFD, TO_GUEST);
	sweep(EV_IRQFD, TO_SLEEP);
}

static void irqfd_of_another_comes(void **state)
{
	sweep(EV_OTHER, TO_GUEST);
	sweep(EV_OTHER, TO_SLEEP);
	sweep(EV_OTHER, AWAKE);
}

static void message_comes(void **state)
{
	for (enum way w = TO_GUEST; w <= TO_SLEEP_LED; w++)
		sweep(EV_MSI, w);
}

static void nmi_comes(void **state)
{
	for (enum way w = 0; w < NR_WAYS; w++)
		sweep(EV_NMI, w);
}

static void slot_changes(void **state)
{
	sweep(EV_SLOT, TO_GUEST);
	sweep(EV_SLOT, AWAKE);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(signal_comes),
		cmocka_unit_test(irqfd_comes),
		cmocka_unit_test(irqfd_of_another_comes),
		cmocka_unit_test(message_comes),
		cmocka_unit_test(nmi_comes),
		cmocka_unit_test(slot_changes),
	};

	if (argc > 1)
		every = MAX((unsigned)strtoul(argv[1], NULL, 0), 1u);
	return RUN(tests);
}
