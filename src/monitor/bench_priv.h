/* SPDX-License-Identifier: MIT
 * bench: shared by the table of paths (bench.c) and what moves the events
 * (bench_kick.c, bench_call.c).
 */
#ifndef BELFRY_MONITOR_BENCH_PRIV_H
#define BELFRY_MONITOR_BENCH_PRIV_H

#include "monitor/monitor.h"
#include <stdatomic.h>

/* Who sees a kick. */
enum bench_reader {
	READER_EXIT,    /* the vCPU's own thread, back from KVM_RUN */
	READER_BLOCKED, /* a thread that sleeps in epoll_wait */
	READER_POLLING, /* a thread that reads the eventfd over and over */
	READER_RING,    /* a thread that looks at the coalesced ring over and over */
};

enum bench_call { CALL_LINE, CALL_LINE_STATUS, CALL_MSI, CALL_IRQFD_MSI, CALL_IRQFD_PIN,
		  CALL_IRQFD_RESAMPLE, CALL_INTERRUPT };

/* Each path is one row of the table in bench.c. */
struct bench_path {
	const char *name, *what;
	bool call;
	unsigned caps[2];   /* capabilities it needs, 0: none */
	/* kicks */
	enum bare_entry entry;
	bool pio, match;
	uint8_t len;
	enum bench_reader reader;
	/* calls */
	enum bench_call how;
	bool running;       /* target runs in ring 3; else it is halted */
};

struct bench_sample {
	uint64_t latency, sender; /* ns */
};

/* A path with its fds; index is its place in the table, which gives it addresses, gsi and vector. */
struct bench_state {
	const struct bench_path *path;
	unsigned index;
	struct notifier n;        /* ioeventfd or irqfd */
	struct notifier resample;
	uint64_t patience;        /* ns until an event counts as lost */
	uint64_t where;           /* port or gpa */
	gsi_t gsi;
	unsigned vector, target;  /* of a call */
	struct bench_row row;
	struct bench_sample *samples;
};

/* ---- bench_kick.c: vCPU 0, run by the measuring thread, and the reader threads ---- */

struct kick_rig;
int kick_rig_create(struct kick_rig **out, struct bare *b) __must_check;
void kick_rig_destroy(struct kick_rig *k);
/* Bind what the path needs. Errors as KVM gives them; the row then says why. */
int kick_bind(struct kick_rig *k, struct bench_state *s) __must_check;
/* One event. -ETIME: lost. */
int kick_measure(struct kick_rig *k, struct bench_state *s, struct bench_sample *out) __must_check;

/* ---- bench_call.c: the target vCPUs and their threads ------------------- */

struct call_rig;
/* cpu 1 is halted, cpu 2 spins while it is asked to. */
int call_rig_create(struct call_rig **out, struct bare *b, const struct kvmapi *api,
		    struct err *e) __must_check;
void call_rig_destroy(struct call_rig *c);
/* Publish the routes for the calls among s[0..nr). */
int call_set_routes(struct call_rig *c, struct bench_state *s, unsigned nr) __must_check;
int call_bind(struct call_rig *c, struct bench_state *s) __must_check;
int call_measure(struct call_rig *c, struct bench_state *s, struct bench_sample *out) __must_check;

/* Sleep so that the other side settles: halts, or blocks. */
void bench_settle(void);

#endif
