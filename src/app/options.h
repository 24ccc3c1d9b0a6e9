/* SPDX-License-Identifier: MIT
 * Command lines by table. One table of options per command drives parsing,
 * checking, the messages and `--help`; nothing about an option is said twice.
 */
#ifndef BELFRY_APP_OPTIONS_H
#define BELFRY_APP_OPTIONS_H

#include "base/base.h"
#include <stdio.h>

/* Type of the field the value goes to. */
enum opt_type {
	OPT_FLAG,   /* bool; takes no value */
	OPT_ONOFF,  /* bool; "on" or "off" */
	OPT_STRING, /* const char * */
	OPT_NUMBER, /* unsigned, within min..max */
	OPT_SIZE,   /* uint64_t bytes, within min..max, suffixes K, M, G, T */
	OPT_CHOICE, /* int, one of choices */
	OPT_GROUP,  /* a struct of its own: comma-separated keys, see `keys` */
};

struct opt_choice {
	const char *name;
	int value;
};

struct opt {
	const char *name;    /* "--cpus"; of a key "queues"; "" is a group's first, unnamed item */
	enum opt_type type;
	const char *metavar; /* what the help calls the value; NULL for flags, on|off, choices */
	size_t offset;       /* of the field in the result */
	uint64_t min, max;
	const struct opt_choice *choices; /* ends with a NULL name */
	const char *help;
	/*
	 * Checks that types cannot express. value: the text; field: where it was
	 * stored. An error fills *e with what is wrong ("must be …"), no prefix.
	 * Of a group: called when all of its keys are in, value NULL.
	 */
	int (*check)(const char *value, void *field, struct err *e);
	bool required;
	/* May repeat: the field is an array of max_count (strings: one more, NULL at the end). */
	unsigned max_count;
	size_t count_offset; /* unsigned, how many there are */
	size_t stride;       /* bytes an element; strings need none */
	/* OPT_GROUP: the keys, ended by a NULL name; defaults for a new element. */
	const struct opt *keys;
	const void *defaults;
};

struct command {
	const char *name;    /* "run", "bench events" */
	const char *summary; /* one line for NAME */
	const char *description;
	const struct opt *opts;      /* ends with a NULL name */
	const char *operands;        /* what stands behind "--", for the synopsis; NULL: nothing may */
	const char *const *statuses; /* "0", "The guest …", … NULL */
	const char *const *examples; /* command, what it does, … NULL */
	size_t size;                 /* of the result */
	const void *defaults;        /* of that size; NULL: zeroes */
	/* Checks across options. */
	int (*check)(void *result, struct err *e);
};

/* Owns the copies that strings in a result point into. */
struct opt_pool {
	struct opt_pool_entry *first;
};
void opt_pool_free(struct opt_pool *p);

/*
 * Parse argv[0..argc) (without program and command) into result, which gets
 * the command's defaults first. An option that may not repeat can be given
 * again: the last one counts; a key within a group cannot. 1: --help was asked for. -EINVAL: *e says
 * "--cpus 0: must be 1 to 255", without the program's name. Strings in result
 * live as long as argv and the pool.
 */
int options_parse(const struct command *c, int argc, char *const *argv, void *result,
		  struct opt_pool *pool, struct err *e) __must_check;

/* The man-page style help of one command. */
void options_help(const struct command *c, FILE *out);

/* Print text wrapped at 79 columns, every line indented; "\n" starts a new line. */
void help_wrap(FILE *out, unsigned indent, const char *text);

/*
 * The name among `names` (an array of n, stride bytes apart) nearest to a
 * mistyped word, NULL if none is near.
 */
const char *nearest_name(const char *word, const char *const *names, unsigned n);

#endif
