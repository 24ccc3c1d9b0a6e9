/* SPDX-License-Identifier: MIT
 * The same guest on softkvm, under QEMU's translator, and the same work with no
 * machine around it: what is measured (compare.c) and how (run.c, events.c).
 */
#ifndef BELFRY_BENCH_COMPARE_H
#define BELFRY_BENCH_COMPARE_H

#include "base/base.h"
#include <stdbool.h>

enum side { NATIVE, SOFT, TCG, NR_SIDES };

#define MAX_ROUNDS  50
#define MAX_SAMPLES 2000

struct series {
	double v[MAX_SAMPLES];
	unsigned n;
};

enum unit { UNIT_MS, UNIT_US, UNIT_MIB };

/* One line of the table. */
struct metric {
	const char *name, *what;
	enum unit unit;
	uint64_t size[2];          /* of a row of work.c: short, full */
	struct series value[NR_SIDES];
	struct series cpu[NR_SIDES]; /* the monitor's processor time meanwhile, ms */
	uint64_t result;           /* of a row: the same on every side */
	bool has_result, lacks[NR_SIDES];
};

struct compare {
	const char *belfry, *work, *doorbell, *vmlinuz, *initrd;
	bool full, verbose;
	struct metric *metrics;
	unsigned nr;
	unsigned clock_errors;     /* rows where the guest's clock and ours disagreed */
};

/* NULL: there is none of that name, or it is not asked for. */
struct metric *metric_find(struct compare *c, const char *name, size_t len);
void series_add(struct series *s, double v);
/* 0: nothing was measured. */
double series_median(const struct series *s);

/* ---- run.c ---- */

/*
 * Boot Debian's kernel with work.c as process 1 and its rows ("ROW:SIZE,..."),
 * and put down what they say: boot (from before the monitor's process is made to
 * "bench: first") and resident (at row idle) may be NULL. On NATIVE just run the rows.
 * 0, or -errno with a message printed.
 */
int run_rows(struct compare *c, enum side side, unsigned cpus, const char *rows, struct metric *boot,
	     struct metric *resident) __must_check;

/* ---- events.c ---- */

/* Kicks and calls, one by one, SOFT or TCG: the metrics kick-... and call-.... */
int run_events(struct compare *c, enum side side) __must_check;

#endif
