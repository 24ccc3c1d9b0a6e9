/* SPDX-License-Identifier: MIT
 *
 * monitor: measure and watch. The room's public header.
 */
#ifndef BELFRY_MONITOR_H
#define BELFRY_MONITOR_H

#include "kvmapi/kvmapi.h"
#include "monitor/bare.h"
#include <stdio.h>

struct bench_config {
	unsigned count;    /* events a path, 1 to 100000 */
	const char *paths; /* comma-separated names, "kick", "call"; NULL: all */
	unsigned patience; /* seconds until an event counts as lost; 0: one */
};

/* What was measured on one path. Times in nanoseconds of CLOCK_MONOTONIC. */
struct bench_row {
	const char *name;  /* "kick-ioeventfd-mmio" */
	const char *what;  /* one line about it */
	bool available;
	char reason[96];   /* if not: why */
	unsigned count;    /* events measured */
	unsigned lost;     /* events that did not arrive in time */
	uint64_t min, median, p99, max;
	uint64_t sender;   /* median of what the sender itself spent */
};

/* What the figures are, for --help. */
extern const char bench_description[];

/* True if every name of the list is known; else *e tells them. The form of an option's check. */
int bench_check_paths(const char *value, void *field, struct err *e);

/*
 * Measure, all paths in turn `count` times over. *rows (free() it) has one
 * row for each path chosen. -EIO: the guest went wrong; else as the KVM half
 * failed to give a VM. *e has the line for the user.
 */
int bench_events(const struct bench_config *c, const struct kvmapi *api, struct bench_row **rows,
		 unsigned *nr, struct err *e) __must_check;

void bench_print_table(FILE *out, const struct bench_row *rows, unsigned nr);
/* module: name of the kernel module below, for the record. */
void bench_print_json(FILE *out, const struct bench_row *rows, unsigned nr, const char *accel,
		      const char *module);

#endif
