/* SPDX-License-Identifier: MIT
 * Make a sequence smaller while it still differs at the same kind of operation.
 */
#include "diff.h"

struct shrink {
	struct pair *p;
	struct sequence *best;
	struct difference *d;
	const struct op_kind *kind; /* of the operation that differs; NULL: the state at the end */
	unsigned runs, max;
};

static const struct op_kind *kind_at(const struct sequence *q, const struct difference *d)
{
	return d->op >= 0 && d->op < (int)q->nr ? q->op[d->op].kind : NULL;
}

/* Keep q if it still differs in the same way. */
static bool keep(struct shrink *s, const struct sequence *q)
{
	struct difference d;

	if (s->runs >= s->max)
		return false;
	s->runs++;
	if (!pair_differs(s->p, q, &d) || kind_at(q, &d) != s->kind)
		return false;
	*s->best = *q;
	*s->d = d;
	return true;
}

static bool drop_ops(struct shrink *s)
{
	bool any = false;

	for (unsigned n = MAX(s->best->nr / 2, 1u); n; n /= 2)
		for (unsigned at = 0; at + n <= s->best->nr;) {
			struct sequence q = *s->best;

			memmove(&q.op[at], &q.op[at + n], (q.nr - at - n) * sizeof(q.op[0]));
			q.nr -= n;
			if (keep(s, &q))
				any = true;
			else
				at += n;
		}
	return any;
}

static bool simplify_arg(struct shrink *s, unsigned op, unsigned arg)
{
	const uint64_t v = s->best->op[op].arg[arg];
	const uint64_t simpler[] = { 0, 1, v & 0xff, v & 0xffff, v & 0xffffff, v & (v - 1) };

	for (unsigned i = 0; i < ARRAY_SIZE(simpler); i++) {
		struct sequence q = *s->best;

		if (simpler[i] >= v)
			continue;
		q.op[op].arg[arg] = simpler[i];
		if (keep(s, &q))
			return true;
	}
	return false;
}

static bool simplify(struct shrink *s)
{
	bool any = false;

	for (unsigned i = 0; i < s->best->nr; i++)
		for (unsigned a = 0; a < OP_ARGS; a++)
			while (simplify_arg(s, i, a))
				any = true;
	return any;
}

unsigned pair_shrink(struct pair *p, struct sequence *q, struct difference *d, unsigned max_runs)
{
	struct shrink s = { .p = p, .best = q, .d = d, .kind = kind_at(q, d), .max = max_runs };

	/* What comes after the operation that differs has no part in it. */
	if (s.kind && d->op + 1 < (int)q->nr) {
		struct sequence cut = *q;

		cut.nr = (unsigned)d->op + 1;
		keep(&s, &cut);
	}
	drop_ops(&s);
	while (s.runs < s.max && simplify(&s) && drop_ops(&s))
		;
	return s.runs;
}
