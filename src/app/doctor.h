/* SPDX-License-Identifier: MIT
 * doctor: a report is a list of findings, gathered first and printed after.
 */
#ifndef BELFRY_APP_DOCTOR_H
#define BELFRY_APP_DOCTOR_H

#include "base/base.h"
#include <stdio.h>

enum finding_state {
	FINDING_OK,
	FINDING_INFO,    /* neither good nor bad */
	FINDING_LACKS,   /* something works less well, or not at all, without it */
	FINDING_FATAL,   /* belfry run does not work without it */
	NR_FINDING_STATES,
};

struct finding {
	struct finding *next;
	const char *section;
	enum finding_state state;
	char name[48];
	char value[200];
	char purpose[200]; /* what Belfry does with it; "" if plain */
	char remedy[300];  /* how to mend it; "" if there is nothing to mend */
};

struct report {
	struct finding *first, **tail;
	const char *section;  /* of the findings to come */
	bool out_of_memory;
};

void report_init(struct report *r);
void report_free(struct report *r);
/* Append one. NULL when memory is out (out_of_memory is then set); the calls below take that. */
struct finding *report_add(struct report *r, enum finding_state state, const char *name,
			   const char *fmt, ...) __printf(4, 5);
void finding_remedy(struct finding *f, const char *fmt, ...) __printf(2, 3);

/* What Belfry uses it for. */
void finding_purpose(struct finding *f, const char *text);

bool report_has(const struct report *r, enum finding_state state);
void report_print_text(const struct report *r, FILE *out);
void report_print_json(const struct report *r, FILE *out);

/* Gather everything, the verdict last. */
void doctor_all(struct report *r);
/* What the host has besides KVM. sysfs and procfs: where they are mounted. */
void doctor_host(struct report *r, const char *sysfs, const char *procfs);

#endif
