/* SPDX-License-Identifier: MIT
 * A sequence as C, and what such a printed file calls.
 */
#include "diff.h"
#include <stdlib.h>

static void print_op(FILE *f, const struct op *op)
{
	unsigned last = 0;

	for (unsigned i = 0; i < OP_ARGS; i++)
		if (op->arg[i])
			last = i;
	fprintf(f, "\t{ &op_%s, {", op->kind->name);
	for (unsigned i = 0; i <= last; i++) {
		if (op->arg[i] && op->kind->arg[i].name)
			fprintf(f, " /* %s */", op->kind->arg[i].name);
		fprintf(f, op->arg[i] < 10 ? " %llu%s" : " %#llx%s", (unsigned long long)op->arg[i],
			i < last ? "," : "");
	}
	fprintf(f, " } },\n");
}

void sequence_print(FILE *f, const struct sequence *q, uint64_t seed, const struct difference *d)
{
	fprintf(f, "/* Seed %#llx: operation %d differs.\n * kernel:  %s\n * softkvm: %s\n */\n",
		(unsigned long long)seed, d->op, d->kernel, d->soft);
	fprintf(f, "#include \"diff/diff.h\"\n\nstatic const struct op ops[] = {\n");
	for (unsigned i = 0; i < q->nr; i++)
		print_op(f, &q->op[i]);
	fprintf(f, "};\n\nint main(void)\n{\n\treturn diff_replay(\"%llx\", ops, ARRAY_SIZE(ops));\n}\n",
		(unsigned long long)seed);
}

int diff_replay(const char *name, const struct op *op, unsigned nr)
{
	struct sequence q = { .nr = MIN(nr, (unsigned)SEQ_MAX) };
	struct difference d;
	struct pair p;
	unsigned times = 0;
	int r = pair_create(&p);

	if (r) {
		fprintf(stderr, "no pair: %s\n", strerror(-r));
		return 77;
	}
	memcpy(q.op, op, q.nr * sizeof(*op));
	/* As in a run of many: what is a matter of time does not come three times. */
	do
		r = pair_differs(&p, &q, &d);
	while (r && ++times < 3);
	if (r)
		printf("%s: operation %d (%s) differs\n  kernel:  %s\n  softkvm: %s\n", name, d.op,
		       d.op >= 0 && d.op < (int)q.nr ? q.op[d.op].kind->name : "state", d.kernel, d.soft);
	if (getenv("BELFRY_TRANSCRIPT"))
		printf("---- kernel\n%s---- softkvm\n%s", p.kernel.s.text, p.soft.s.text);
	pair_destroy(&p);
	return r;
}
