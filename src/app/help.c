/* SPDX-License-Identifier: MIT
 * `--help`, laid out as a manual page, from the same table that parses.
 */
#include "app/options.h"

#define WIDTH  79
#define INDENT 7
#define NO_BREAK '\x01' /* printed as a space that wrapping does not touch */

/* Columns of a UTF-8 word: continuation bytes take none. */
static unsigned columns(const char *s, size_t bytes)
{
	unsigned n = 0;

	for (size_t i = 0; i < bytes; i++)
		n += ((unsigned char)s[i] & 0xc0) != 0x80;
	return n;
}

/* Wrap with a hanging indent: the first line begins at column `at`, which is where the cursor is. */
static void wrap(FILE *out, unsigned at, unsigned indent, const char *text)
{
	unsigned col = at;
	bool begin = true;

	while (*text) {
		size_t len = strcspn(text, " \n");
		unsigned w = columns(text, len);

		if (!begin && col + 1 + w > WIDTH) {
			fputc('\n', out);
			col = 0;
			begin = true;
		}
		if (len) {
			if (!begin) {
				fputc(' ', out);
				col++;
			}
			for (; col < indent; col++)
				fputc(' ', out);
			for (size_t i = 0; i < len; i++)
				fputc(text[i] == NO_BREAK ? ' ' : text[i], out);
			col += w;
			begin = false;
		}
		text += len;
		if (*text == '\n') {
			fputc('\n', out);
			col = 0;
			begin = true;
		}
		if (*text)
			text++;
	}
	fputc('\n', out);
}

void help_wrap(FILE *out, unsigned indent, const char *text)
{
	wrap(out, 0, indent, text);
}

/* What follows the name: " N", "=N", " on|off", " auto|kvm", or nothing. */
static int value_text(const struct opt *o, char sep, char *buf, size_t size)
{
	int n = 0;

	buf[0] = '\0';
	if (o->type == OPT_FLAG)
		return 0;
	if (o->metavar)
		return snprintf(buf, size, "%c%s", sep, o->metavar);
	if (o->type == OPT_ONOFF)
		return snprintf(buf, size, "%con|off", sep);
	for (const struct opt_choice *c = o->choices; c && c->name && (size_t)n < size; c++)
		n += snprintf(buf + n, size - (size_t)n, "%c%s", c == o->choices ? sep : '|',
			      c->name);
	return n;
}

static void print_synopsis(const struct command *c, FILE *out)
{
	char text[2048], value[160];
	int n = 0;

	for (const struct opt *o = c->opts; o->name && (size_t)n < sizeof(text); o++) {
		value_text(o, NO_BREAK, value, sizeof(value));
		n += snprintf(text + n, sizeof(text) - (size_t)n, "%s%s%s%s%s%s", n ? " " : "",
			      o->required ? "" : "[", o->name, value, o->required ? "" : "]",
			      o->max_count ? "…" : "");
	}
	if (c->operands && (size_t)n < sizeof(text))
		n += snprintf(text + n, sizeof(text) - (size_t)n, "%s--%c%s", n ? " " : "", NO_BREAK,
			      c->operands);
	fprintf(out, "%*sbelfry %s", INDENT, "", c->name);
	if (n) {
		unsigned at = INDENT + 7 + (unsigned)strlen(c->name) + 1;

		fputc(' ', out);
		wrap(out, at, at, text);
	} else {
		fputc('\n', out);
	}
}

static void print_keys(const struct opt *keys, FILE *out)
{
	char value[160];

	for (const struct opt *k = keys; k->name; k++) {
		if (!k->name[0])
			continue;
		value_text(k, '=', value, sizeof(value));
		fprintf(out, "%*s%s%s%s\n", INDENT + 7, "", k->name, value,
			k->max_count ? " (may repeat)" : "");
		help_wrap(out, INDENT + 14, k->help);
	}
}

static void print_options(const struct command *c, FILE *out)
{
	char value[160];

	for (const struct opt *o = c->opts; o->name; o++) {
		value_text(o, ' ', value, sizeof(value));
		fprintf(out, "%*s%s%s%s\n", INDENT, "", o->name, value,
			o->max_count ? " (may repeat)" : "");
		help_wrap(out, INDENT + 7, o->help);
		if (o->keys)
			print_keys(o->keys, out);
		fputc('\n', out);
	}
	fprintf(out, "%*s--help\n%*sPrint this page.\n\n", INDENT, "", INDENT + 7, "");
}

void options_help(const struct command *c, FILE *out)
{
	fprintf(out, "NAME\n%*sbelfry %s - %s\n\nSYNOPSIS\n", INDENT, "", c->name, c->summary);
	print_synopsis(c, out);
	fputs("\nDESCRIPTION\n", out);
	help_wrap(out, INDENT, c->description);
	fputs("\nOPTIONS\n", out);
	help_wrap(out, INDENT, "Of an option given more than once the last one counts, unless it may "
			       "repeat.\n");
	print_options(c, out);
	fputs("EXIT STATUS\n", out);
	for (const char *const *s = c->statuses; *s; s += 2) {
		fprintf(out, "%*s%-4s", INDENT, "", s[0]);
		wrap(out, INDENT + 4, INDENT + 4, s[1]);
	}
	fputs("\nEXAMPLES\n", out);
	for (const char *const *s = c->examples; *s; s += 2) {
		help_wrap(out, INDENT, s[1]);
		fprintf(out, "%*s%s\n%s", INDENT + 4, "", s[0], s[2] ? "\n" : "");
	}
}
