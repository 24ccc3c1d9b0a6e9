/* SPDX-License-Identifier: MIT
 * A vCPU that is held at any instruction of softkvm, and so is a thread that sends it something.
 *
 * A child has a VM, whose vCPU's thread is its first one, and a partner, which makes calls.
 * This process traces the first, the partner if it likes. The vCPU runs in rounds: the child
 * makes a state anew, stops with SIG_ROUND, and is in KVM_RUN until the guest has said what
 * the round is about (board.want).
 */
#ifndef BELFRY_TESTS_STEPS_H
#define BELFRY_TESTS_STEPS_H

#include "base/base.h"
#include <signal.h>
#include <stdatomic.h>
#include <sys/ptrace.h>
#include <sys/types.h>

/* Of the instructions each 3rd; under asan there are several times as many. */
#ifdef __SANITIZE_ADDRESS__
#define STEPS_EVERY 31
#else
#define STEPS_EVERY 3
#endif

#define STEPS_MEM   0x10000u /* the guest's; behind it a page of zeroes and one that begins with 1 */
#define STEPS_COUNT 0x2000u  /* there: the guest's turns */

/* What the guest has said, as bits: that the interrupt came, the NMI, that the watched page is another. */
enum { SAYS_IRQ, SAYS_NMI, SAYS_NEW };

#define SIG_EVENT SIGUSR1
#define SIG_ROUND SIGUSR2

enum event { EV_SIGNAL, EV_IRQFD, EV_OTHER, EV_MSI, EV_NMI, EV_SLOT, NR_EVENTS };

/* What the guest says of each, as it awaits nothing else; none: EINTR. */
extern const uint32_t steps_wants[NR_EVENTS];

/* What both processes see. */
struct board {
	_Atomic bool traced;	/* the first round may begin */
	_Atomic pid_t partner;	/* its thread */
	_Atomic uint32_t calls; /* it is to make, as bits 1 << EV_... */
	_Atomic uint32_t made;	/* how often it has made what it was told */
	_Atomic uint32_t event; /* what the round is about */
	_Atomic uint32_t halted, led; /* led: another vCPU, asleep, listens to the irqfds */
	uint8_t *mem;		      /* the guest's */
	/* A round lasts until the guest has said all this (bits), or, if it is none, until EINTR. */
	_Atomic uint32_t want;
	_Atomic uint32_t says; /* so far */
	/* What came of the last round. */
	_Atomic int32_t result;
	_Atomic uint32_t said;
};

/* What a child is made of; irq: this vCPU's irqfd and another's; command: look at board.calls. */
struct steps_child {
	struct board *board;
	int irq[2], command;
};

/* The child's life, rounds without end. */
_Noreturn void steps_child(const struct steps_child *c);

struct tracer {
	struct steps_child c;
	pid_t pid, partner; /* partner: 0 as long as it is not traced */
	int sig;	    /* to be delivered to the first when it goes on */
	uint64_t rip;	    /* of the first, after a step */
	unsigned nr_text;
	struct {
		uint64_t from, to;
	} text[64]; /* code that was there before there was translated code */
};

/* Each ends the child and fails the test, with the place, if a minute does not bring what it waits for. */

/* As far as the first round's begin, which knows nothing of the board yet. Skips the test if ptrace is not allowed. */
void tracer_start(struct tracer *t, bool led);
/* Trace the partner too. */
void tracer_attach_partner(struct tracer *t);
void tracer_end(struct tracer *t);
/* End it and fail. */
_Noreturn void tracer_lost(struct tracer *t, const char *where, unsigned k, const char *what);

/* A minute from now, and whether it has passed. */
uint64_t tracer_patience(void);
void tracer_wait_more(struct tracer *t, uint64_t until, const char *where, unsigned k, const char *what);

/* Until one of its threads stops: the signal, which that has not got yet (SIGTRAP: a step is done). */
int tracer_stopped(struct tracer *t, pid_t tid, const char *where, unsigned k);
/* The first goes on from a stop. */
void tracer_go_on(struct tracer *t, enum __ptrace_request how);
/* It is running, as far as the next round's begin; the second: it is stopped. */
void tracer_await_round(struct tracer *t, const char *where, unsigned k);
void tracer_finish(struct tracer *t, const char *where, unsigned k);
/* Stop a thread that runs or sleeps. */
void tracer_interrupt(struct tracer *t, pid_t tid, const char *where, unsigned k);
/* A breakpoint of a thread that is stopped; 0: none. */
void tracer_break(pid_t tid, uint64_t rip);

/* Instructions that were passed, each once, in the order in which they were met. */
struct passed {
	uint64_t rip[16384];
	unsigned n;
};

void passed_add(struct passed *p, uint64_t rip);

enum place { IN_KVM, IN_GUEST, ASLEEP };

/* One instruction of the first. After a system call that does not come back it is asleep, and only there. */
enum place tracer_step(struct tracer *t);

/* Have the partner make a call. */
void tracer_call(struct tracer *t, enum event event);
/* The event comes, and does all it can as long as the first stands where it is. */
void tracer_happen(struct tracer *t, enum event event);

#endif
