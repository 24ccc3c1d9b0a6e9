/* SPDX-License-Identifier: MIT
 * Run a sequence on both sides and find the first line that nobody agreed to.
 */
#include "diff.h"

int pair_create(struct pair *p)
{
	int r;

	p->agreed = 0;
	r = world_create(&p->kernel, false);
	return r ? r : world_create(&p->soft, true);
}

void pair_destroy(struct pair *p)
{
	world_destroy(&p->kernel);
	world_destroy(&p->soft);
}

/* A line that begins with # starts an operation. */
static void run(struct world *w, const struct sequence *q)
{
	int r = world_begin(w);

	if (r) {
		say_result(&w->s, "begin", r);
		return;
	}
	for (unsigned i = 0; i < q->nr && !w->stop; i++) {
		say(&w->s, "#%u %s", i, q->op[i].kind->name);
		q->op[i].kind->run(w, q->op[i].arg);
	}
	if (!w->stop) {
		say(&w->s, "#%u state", q->nr);
		world_say_state(w);
	}
	world_end(w);
}

static enum verdict ask(const struct op *op, const char *kernel, const char *soft)
{
	for (unsigned i = 0; i < nr_agreed; i++) {
		enum verdict v = agreed_differences[i].look(op, kernel, soft);

		if (v != DIFFERS)
			return v;
	}
	return DIFFERS;
}

static const char *take_line(const char *at, char *line, size_t size)
{
	size_t n = strcspn(at, "\n");

	snprintf(line, size, "%.*s", (int)n, at);
	return at + n + (at[n] == '\n');
}

bool pair_differs(struct pair *p, const struct sequence *q, struct difference *d)
{
	const char *k, *s;
	int at = -1;

	run(&p->kernel, q);
	run(&p->soft, q);
	k = p->kernel.s.text;
	s = p->soft.s.text;
	while (*k || *s) {
		const char *k0 = k, *s0 = s;

		k = take_line(k, d->kernel, sizeof(d->kernel));
		s = take_line(s, d->soft, sizeof(d->soft));
		if (k - k0 == s - s0 && !memcmp(k0, s0, (size_t)(k - k0))) {
			if (*k0 == '#')
				at++;
			continue;
		}
		d->op = at;
		switch (ask(at >= 0 && at < (int)q->nr ? &q->op[at] : NULL, d->kernel, d->soft)) {
		case AGREED:
			p->agreed++;
			continue;
		case AGREED_STOP:
			p->agreed++;
			return false;
		case DIFFERS:
			return true;
		}
	}
	return false;
}
