/* SPDX-License-Identifier: MIT
 * belfry: the program. Finds the command, parses its options, runs it.
 */
#include "app/app.h"
#include <stdlib.h>

static int run_main(void *o) { return run_command(o); }
static int doctor_main(void *o) { return doctor_command(o); }
static int bench_events_main(void *o) { return bench_events_command(o); }
static int with_softkvm_main(void *o) { return with_softkvm_command(o); }

static const struct {
	const struct command *command;
	int (*main)(void *options);
} mains[] = {
	{ &run_table, run_main },
	{ &doctor_table, doctor_main },
	{ &bench_events_table, bench_events_main },
	{ &with_softkvm_table, with_softkvm_main },
};

int complain(const char *command, int status, const struct err *e)
{

	if (dprintf(2, "belfry%s%s: %s\n", command ? " " : "", command ? command : "", e->text) < 0)
		return status; /* nobody to tell */
	return status;
}

static void print_overview(FILE *out)
{
	fprintf(out, "NAME\n       belfry - a virtual machine monitor\n\nSYNOPSIS\n"
		     "       belfry COMMAND [OPTION…]\n       belfry help [COMMAND]\n"
		     "       belfry --version\n\nCOMMANDS\n");
	for (const struct command *const *c = command_table; *c; c++)
		fprintf(out, "       %-14s %s\n", (*c)->name, (*c)->summary);
	fprintf(out, "\n       'belfry COMMAND --help' explains a command's options.\n");
}

/* How many words of argv the command's name takes; 0 if it is not this one. */
static int match_command(const struct command *c, int argc, char *const *argv)
{
	const char *p = c->name;

	for (int i = 0; i < argc; i++) {
		size_t len = strcspn(p, " ");

		if (strlen(argv[i]) != len || memcmp(argv[i], p, len))
			return 0;
		p += len;
		if (!*p)
			return i + 1;
		p++;
	}
	return 0;
}

static const struct command *find_command(int argc, char *const *argv, int *words)
{
	for (const struct command *const *c = command_table; *c; c++) {
		*words = match_command(*c, argc, argv);
		if (*words)
			return *c;
	}
	return NULL;
}

static int unknown_command(const char *word)
{
	const char *names[] = { "run", "doctor", "bench events", "with-softkvm", "help" };
	const char *near = nearest_name(word, names, ARRAY_SIZE(names));
	struct err e;

	if (!strcmp(word, "bench"))
		near = "bench events";
	err_set(&e, 0, "%.60s: unknown command%s%s%s; 'belfry help' lists them", word,
		near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
	return complain(NULL, EXIT_USAGE, &e);
}

static int help_main(int argc, char *const *argv)
{
	const struct command *c;
	int words;

	if (!argc) {
		print_overview(stdout);
		return EXIT_GOOD;
	}
	c = find_command(argc, argv, &words);
	if (!c)
		return unknown_command(argv[0]);
	options_help(c, stdout);
	return EXIT_GOOD;
}

/* Words before "--"; what stands behind it belongs to the command's operands. */
static int option_words(const struct command *c, int argc, char *const *argv)
{
	int n = 0;

	while (n < argc && !(c->operands && !strcmp(argv[n], "--")))
		n++;
	return n;
}

static int command_main(const struct command *c, int argc, char *const *argv)
{
	int nr = option_words(c, argc, argv);
	struct opt_pool pool = { 0 };
	void *options = malloc(c->size);
	struct err e;
	int r;

	if (!options) {
		err_set(&e, -ENOMEM, "out of memory");
		return complain(c->name, EXIT_USAGE, &e);
	}
	r = options_parse(c, nr, argv, options, &pool, &e);
	if (r > 0) {
		options_help(c, stdout);
		r = EXIT_GOOD;
	} else if (!r) {
		if (c == &with_softkvm_table)
			((struct with_softkvm_options *)options)->operands = argv + MIN(nr + 1, argc);
		for (size_t i = 0; i < ARRAY_SIZE(mains); i++)
			if (mains[i].command == c)
				r = mains[i].main(options);
	}
	if (r < 0)
		r = complain(c->name, EXIT_USAGE, &e);
	opt_pool_free(&pool);
	free(options);
	return r;
}

int main(int argc, char **argv)
{
	const struct command *c;
	int words;

	if (argc < 2) {
		print_overview(stderr);
		return EXIT_USAGE;
	}
	argc--;
	argv++;
	if (!strcmp(argv[0], "--version")) {
		printf("belfry " BELFRY_VERSION "\n");
		return EXIT_GOOD;
	}
	if (!strcmp(argv[0], "--help") || !strcmp(argv[0], "-h"))
		return help_main(0, NULL);
	if (!strcmp(argv[0], "help"))
		return help_main(argc - 1, argv + 1);
	c = find_command(argc, argv, &words);
	if (!c)
		return unknown_command(argv[0]);
	return command_main(c, argc - words, argv + words);
}
