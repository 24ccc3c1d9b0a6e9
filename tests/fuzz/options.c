/* SPDX-License-Identifier: MIT
 * Command lines: the input split at NULs, against every command's table.
 */
#include "fuzz.h"
#include "app/app.h"

#define ARGS 64

static const struct command *const tables[] = { &run_table, &doctor_table, &bench_events_table };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *argv[ARGS + 1], *copy;
	const struct command *c;
	struct opt_pool pool = { NULL };
	struct err e = { "" };
	void *result;
	int argc = 0, r;

	if (!size)
		return 0;
	c = tables[data[0] % ARRAY_SIZE(tables)];
	copy = malloc(size);
	result = calloc(1, c->size);
	if (!copy || !result)
		abort();
	memcpy(copy, data + 1, size - 1);
	copy[size - 1] = '\0';
	for (char *p = copy; p < copy + size && argc < ARGS; p += strlen(p) + 1)
		argv[argc++] = p;
	argv[argc] = NULL;
	r = options_parse(c, argc, argv, result, &pool, &e);
	FUZZ_CHECK(r == 0 || r == 1 || r == -EINVAL, "options_parse gave %d", r);
	/* A refusal is one line of text that names what is wrong. */
	FUZZ_CHECK(r >= 0 || e.text[0], "no message");
	FUZZ_CHECK(memchr(e.text, 0, sizeof(e.text)), "an open message");
	opt_pool_free(&pool);
	free(result);
	free(copy);
	return 0;
}
