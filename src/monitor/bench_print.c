/* SPDX-License-Identifier: MIT */
#include "monitor/monitor.h"

static double us(uint64_t ns)
{
	return (double)ns / 1000;
}

void bench_print_table(FILE *out, const struct bench_row *rows, unsigned nr)
{
	fprintf(out, "%-24s %7s %9s %9s %9s %9s  %s\n", "path (times in us)", "count", "median",
		"p99", "min", "sender", "what");
	for (unsigned i = 0; i < nr; i++) {
		const struct bench_row *r = &rows[i];

		if (!r->available) {
			fprintf(out, "%-24s not available: %s\n", r->name, r->reason);
			continue;
		}
		fprintf(out, "%-24s %7u %9.2f %9.2f %9.2f %9.2f  %s", r->name, r->count,
			us(r->median), us(r->p99), us(r->min), us(r->sender), r->what);
		if (r->lost)
			fprintf(out, "; LOST %u", r->lost);
		fputc('\n', out);
	}
}

/* Our own strings: ASCII; quotes and backslashes only in an error's text. */
static void print_string(FILE *out, const char *s)
{
	fputc('"', out);
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			fputc('\\', out);
		fputc((unsigned char)*s < ' ' ? ' ' : *s, out);
	}
	fputc('"', out);
}

void bench_print_json(FILE *out, const struct bench_row *rows, unsigned nr, const char *accel,
		      const char *module)
{
	fprintf(out, "{\n  \"bench\": \"events\",\n  \"accel\": ");
	print_string(out, accel);
	fprintf(out, ",\n  \"module\": ");
	print_string(out, module);
	fprintf(out, ",\n  \"unit\": \"ns\",\n  \"paths\": [");
	for (unsigned i = 0; i < nr; i++) {
		const struct bench_row *r = &rows[i];

		fprintf(out, "%s\n    {\"name\": ", i ? "," : "");
		print_string(out, r->name);
		fprintf(out, ", \"what\": ");
		print_string(out, r->what);
		if (r->available)
			fprintf(out, ", \"available\": true, \"count\": %u, \"lost\": %u, "
				"\"min\": %llu, \"median\": %llu, \"p99\": %llu, \"max\": %llu, "
				"\"sender\": %llu}",
				r->count, r->lost, (unsigned long long)r->min,
				(unsigned long long)r->median, (unsigned long long)r->p99,
				(unsigned long long)r->max, (unsigned long long)r->sender);
		else {
			fprintf(out, ", \"available\": false, \"reason\": ");
			print_string(out, r->reason);
			fputc('}', out);
		}
	}
	fprintf(out, "\n  ]\n}\n");
}
