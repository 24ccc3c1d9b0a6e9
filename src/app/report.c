/* SPDX-License-Identifier: MIT */
#include "app/doctor.h"
#include "app/options.h"
#include <stdarg.h>
#include <stdlib.h>

static const char *const state_names[NR_FINDING_STATES] = {
	[FINDING_OK] = "ok", [FINDING_INFO] = "info", [FINDING_LACKS] = "lacks",
	[FINDING_FATAL] = "fatal",
};

static const char *const state_marks[NR_FINDING_STATES] = {
	[FINDING_OK] = "  ", [FINDING_INFO] = "  ", [FINDING_LACKS] = "- ", [FINDING_FATAL] = "! ",
};

void report_init(struct report *r)
{
	*r = (struct report){ 0 };
	r->tail = &r->first;
}

void report_free(struct report *r)
{
	while (r->first) {
		struct finding *next = r->first->next;

		free(r->first);
		r->first = next;
	}
	r->tail = &r->first;
}

struct finding *report_add(struct report *r, enum finding_state state, const char *name,
			   const char *fmt, ...)
{
	struct finding *f = calloc(1, sizeof(*f));
	va_list ap;

	if (!f) { /* the report is worth nothing then: say so instead of printing it */
		r->out_of_memory = true;
		return NULL;
	}
	f->section = r->section;
	f->state = state;
	snprintf(f->name, sizeof(f->name), "%s", name);
	va_start(ap, fmt);
	vsnprintf(f->value, sizeof(f->value), fmt, ap);
	va_end(ap);
	*r->tail = f;
	r->tail = &f->next;
	return f;
}

void finding_remedy(struct finding *f, const char *fmt, ...)
{
	va_list ap;

	if (!f)
		return;
	va_start(ap, fmt);
	vsnprintf(f->remedy, sizeof(f->remedy), fmt, ap);
	va_end(ap);
}

void finding_purpose(struct finding *f, const char *text)
{
	if (f)
		snprintf(f->purpose, sizeof(f->purpose), "%s", text);
}

bool report_has(const struct report *r, enum finding_state state)
{
	for (const struct finding *f = r->first; f; f = f->next)
		if (f->state == state)
			return true;
	return false;
}

void report_print_text(const struct report *r, FILE *out)
{
	const char *section = NULL;

	for (const struct finding *f = r->first; f; f = f->next) {
		if (f->section != section) {
			fprintf(out, "%s%s\n", section ? "\n" : "", f->section);
			section = f->section;
		}
		fprintf(out, "  %s%-34s %s%s%s%s\n", state_marks[f->state], f->name, f->value,
			f->purpose[0] ? "  (" : "", f->purpose, f->purpose[0] ? ")" : "");
		if (f->remedy[0])
			help_wrap(out, 8, f->remedy);
	}
	fprintf(out, "\nMarks: '!' belfry run does not work without it, '-' something is missing.\n");
}

static void print_string(FILE *out, const char *s)
{
	fputc('"', out);
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			fprintf(out, "\\%c", *s);
		else if ((unsigned char)*s < ' ')
			fprintf(out, "\\u%04x", (unsigned char)*s);
		else
			fputc(*s, out);
	}
	fputc('"', out);
}

static void print_field(FILE *out, const char *name, const char *value)
{
	fprintf(out, ", \"%s\": ", name);
	print_string(out, value);
}

void report_print_json(const struct report *r, FILE *out)
{
	fprintf(out, "{\n  \"can_run\": %s,\n  \"findings\": [",
		report_has(r, FINDING_FATAL) ? "false" : "true");
	for (const struct finding *f = r->first; f; f = f->next) {
		fprintf(out, "%s\n    {\"section\": ", f == r->first ? "" : ",");
		print_string(out, f->section);
		print_field(out, "name", f->name);
		print_field(out, "state", state_names[f->state]);
		print_field(out, "value", f->value);
		if (f->purpose[0])
			print_field(out, "purpose", f->purpose);
		if (f->remedy[0])
			print_field(out, "remedy", f->remedy);
		fputc('}', out);
	}
	fprintf(out, "\n  ]\n}\n");
}
