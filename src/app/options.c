/* SPDX-License-Identifier: MIT */
#include "app/options.h"
#include <stdlib.h>

#define MAX_OPTS  64 /* `seen` is a bit mask */
#define MAX_NAMES (MAX_OPTS + 1)

struct opt_pool_entry {
	struct opt_pool_entry *next;
	char text[];
};

void opt_pool_free(struct opt_pool *p)
{
	while (p->first) {
		struct opt_pool_entry *next = p->first->next;

		free(p->first);
		p->first = next;
	}
}

static char *pool_copy(struct opt_pool *p, const char *text)
{
	size_t len = strlen(text) + 1;
	struct opt_pool_entry *n = malloc(sizeof(*n) + len);

	if (!n)
		return NULL;
	memcpy(n->text, text, len);
	n->next = p->first;
	p->first = n;
	return n->text;
}

/* Levenshtein distance; words longer than any option are far from everything. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[33];
	size_t la = strlen(a), lb = strlen(b);

	if (la > 32 || lb > 32)
		return 99;
	for (size_t j = 0; j <= lb; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= la; i++) {
		unsigned diag = row[0];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= lb; j++) {
			unsigned best = MIN(row[j], row[j - 1]) + 1;
			unsigned subst = diag + (a[i - 1] != b[j - 1]);

			diag = row[j];
			row[j] = MIN(best, subst);
		}
	}
	return row[lb];
}

const char *nearest_name(const char *word, const char *const *names, unsigned n)
{
	const char *best = NULL;
	unsigned limit = strlen(word) > 4 ? 3 : 2; /* differ by less than this */

	for (unsigned i = 0; i < n; i++) {
		unsigned d = distance(word, names[i]);

		if (d < limit) {
			limit = d;
			best = names[i];
		}
	}
	return best;
}

static const char *nearest_opt(const char *word, const struct opt *table)
{
	const char *names[MAX_NAMES] = { NULL };
	unsigned n = 0;

	for (const struct opt *o = table; o->name && n < MAX_NAMES; o++)
		if (o->name[0])
			names[n++] = o->name;
	return nearest_name(word, names, n);
}

static const struct opt *find_opt(const struct opt *table, const char *name, size_t len)
{
	for (const struct opt *o = table; o->name; o++)
		if (strlen(o->name) == len && !memcmp(o->name, name, len))
			return o;
	return NULL;
}

static void append(char *buf, size_t size, const char *text)
{
	size_t n = strlen(buf);

	if (n + 1 < size)
		snprintf(buf + n, size - n, "%s", text);
}

/* "a, b or c" */
static void list_choices(const struct opt_choice *c, char *buf, size_t size)
{
	buf[0] = '\0';
	for (const struct opt_choice *i = c; i->name; i++) {
		if (i != c)
			append(buf, size, i[1].name ? ", " : " or ");
		append(buf, size, i->name);
	}
}

static void print_size(uint64_t v, char *buf, size_t size)
{
	static const char units[] = "TGMK";

	for (unsigned i = 0; i < 4; i++) {
		unsigned shift = 40 - 10 * i;

		if (v >> shift && !(v & ((1ull << shift) - 1))) {
			snprintf(buf, size, "%llu%c", (unsigned long long)(v >> shift), units[i]);
			return;
		}
	}
	snprintf(buf, size, "%llu", (unsigned long long)v);
}

static int set_number(const struct opt *o, const char *value, unsigned *field, struct err *e)
{
	uint64_t v;
	int r = number_parse(value, o->min, o->max, &v);

	if (r == -EINVAL)
		return err_set(e, -EINVAL, "not a number; must be %llu to %llu",
			       (unsigned long long)o->min, (unsigned long long)o->max);
	if (r)
		return err_set(e, -EINVAL, "must be %llu to %llu", (unsigned long long)o->min,
			       (unsigned long long)o->max);
	*field = (unsigned)v;
	return 0;
}

static int set_size(const struct opt *o, const char *value, uint64_t *field, struct err *e)
{
	char lo[32], hi[32];
	uint64_t v;
	int r = size_parse(value, &v);

	if (r == -EINVAL)
		return err_set(e, -EINVAL,
			       "not a size; give a whole number with K, M, G or T, such as 512M");
	if (r || v < o->min || v > o->max) {
		bool bare = !r && v < o->min && value[0] && !strpbrk(value, "KMGTkmgt");

		print_size(o->min, lo, sizeof(lo));
		print_size(o->max, hi, sizeof(hi));
		return err_set(e, -EINVAL, "must be %s to %s%s%s%s", lo, hi,
			       bare ? "; did you mean " : "", bare ? value : "", bare ? "M?" : "");
	}
	*field = v;
	return 0;
}

static int set_choice(const struct opt *o, const char *value, int *field, struct err *e)
{
	char list[200];

	for (const struct opt_choice *c = o->choices; c->name; c++)
		if (!strcmp(c->name, value)) {
			*field = c->value;
			return 0;
		}
	list_choices(o->choices, list, sizeof(list));
	return err_set(e, -EINVAL, "must be %s", list);
}

static int set_group(const struct opt *o, const char *value, void *elem, struct opt_pool *pool,
		     struct err *e);

/* Where the value of o goes; -EINVAL if no more of them fit. */
static int next_field(const struct opt *o, void *result, void **field, struct err *e)
{
	char *p = (char *)result + o->offset;
	unsigned *count = (unsigned *)((char *)result + o->count_offset);

	if (o->max_count) {
		if (*count == o->max_count)
			return err_set(e, -EINVAL, "more than %u of them", o->max_count);
		p += *count * (o->stride ? o->stride : sizeof(char *));
		(*count)++;
	}
	*field = p;
	return 0;
}

static int set_value(const struct opt *o, const char *value, void *result, struct opt_pool *pool,
		     struct err *e)
{
	void *field = NULL;
	int r = next_field(o, result, &field, e);

	if (r)
		return r;
	switch (o->type) {
	case OPT_FLAG:
		*(bool *)field = true;
		break;
	case OPT_ONOFF:
		if (strcmp(value, "on") && strcmp(value, "off"))
			return err_set(e, -EINVAL, "must be on or off");
		*(bool *)field = !strcmp(value, "on");
		break;
	case OPT_STRING:
		if (!value[0])
			return err_set(e, -EINVAL, "must not be empty");
		*(const char **)field = value;
		break;
	case OPT_NUMBER:
		r = set_number(o, value, field, e);
		break;
	case OPT_SIZE:
		r = set_size(o, value, field, e);
		break;
	case OPT_CHOICE:
		r = set_choice(o, value, field, e);
		break;
	case OPT_GROUP:
		if (o->defaults)
			memcpy(field, o->defaults, o->stride);
		r = set_group(o, value, field, pool, e);
		value = NULL;
		break;
	}
	if (!r && o->check)
		r = o->check(value, field, e);
	return r;
}

/* "queues=N, readonly, cache=writeback|none|unsafe" */
static void list_keys(const struct opt *keys, char *buf, size_t size)
{
	bool first = true;

	buf[0] = '\0';
	for (const struct opt *k = keys; k->name; k++) {
		if (!k->name[0])
			continue;
		append(buf, size, first ? "" : ", ");
		first = false;
		append(buf, size, k->name);
		append(buf, size, k->type == OPT_FLAG ? "" : "=");
		if (k->metavar)
			append(buf, size, k->metavar);
		else if (k->type == OPT_ONOFF)
			append(buf, size, "on|off");
		for (const struct opt_choice *c = k->choices; c && c->name; c++) {
			append(buf, size, c->name);
			append(buf, size, c[1].name ? "|" : "");
		}
	}
}

/* Cut the next comma-separated item out of *rest, in place; ",," is a comma that belongs to it. */
static char *next_item(char **rest)
{
	char *item = *rest, *in = item, *out = item;

	if (!item)
		return NULL;
	for (; *in; in++) {
		if (*in == ',') {
			if (in[1] != ',')
				break;
			in++;
		}
		*out++ = *in;
	}
	*rest = *in ? in + 1 : NULL;
	*out = '\0';
	return item;
}

static int unknown_key(const struct opt *o, const char *key, struct err *e)
{
	const char *near = nearest_opt(key, o->keys);
	char list[400];

	list_keys(o->keys, list, sizeof(list));
	return err_set(e, -EINVAL, "unknown key \"%.40s\"%s%s%s; allowed: %s", key,
		       near ? " (did you mean \"" : "", near ? near : "", near ? "\"?)" : "", list);
}

static int set_group(const struct opt *o, const char *value, void *elem, struct opt_pool *pool,
		     struct err *e)
{
	char *rest = pool_copy(pool, value), *item;
	uint64_t seen = 0;

	if (!rest)
		return err_set(e, -ENOMEM, "out of memory");
	for (bool first = true; (item = next_item(&rest)); first = false) {
		const struct opt *k = NULL;
		char *eq = NULL;
		int r;

		if (first && !o->keys[0].name[0]) {
			k = &o->keys[0];
		} else {
			eq = strchr(item, '=');
			if (eq)
				*eq = '\0';
			if (!item[0])
				return err_set(e, -EINVAL, "a key is missing between commas");
			k = find_opt(o->keys, item, strlen(item));
			if (!k)
				return unknown_key(o, item, e);
		}
		if (k->type == OPT_FLAG && eq)
			return err_set(e, -EINVAL, "%s takes no value", k->name);
		if (k->type != OPT_FLAG && k->name[0] && !eq)
			return err_set(e, -EINVAL, "%s needs a value: %s=%s", k->name, k->name,
				       k->metavar ? k->metavar :
				       k->type == OPT_ONOFF ? "on|off" : "…");
		if (seen & BIT_ULL(k - o->keys) && !k->max_count)
			return err_set(e, -EINVAL, "%s is given twice", k->name);
		seen |= BIT_ULL(k - o->keys);
		r = set_value(k, eq ? eq + 1 : item, elem, pool, e);
		if (r && k->name[0])
			return err_prefix(e, r, "%s%s%.100s", k->name, eq ? "=" : "",
					  eq ? eq + 1 : "");
		if (r)
			return err_prefix(e, r, "%s", k->metavar);
	}
	return 0;
}

static int unknown_option(const struct command *c, const char *arg, size_t len, struct err *e)
{
	char word[40];
	const char *near;

	snprintf(word, sizeof(word), "%.*s", (int)MIN(len, sizeof(word) - 1), arg);
	near = nearest_opt(word, c->opts);
	return err_set(e, -EINVAL, "%s: unknown option%s%s%s; 'belfry %s --help' lists them", word,
		       near ? " (did you mean " : "", near ? near : "", near ? "?)" : "", c->name);
}

static int check_required(const struct command *c, uint64_t seen, struct err *e)
{
	for (const struct opt *o = c->opts; o->name; o++)
		if (o->required && !(seen & BIT_ULL(o - c->opts)))
			return err_set(e, -EINVAL, "%s %s is missing; 'belfry %s --help' explains",
				       o->name, o->metavar ? o->metavar : "", c->name);
	return 0;
}

/* One option at argv[*i]; moves *i past its value. */
static int parse_one(const struct command *c, int argc, char *const *argv, int *i, void *result,
		     uint64_t *seen, struct opt_pool *pool, struct err *e)
{
	const char *arg = argv[*i], *eq = strchr(arg, '='), *value = NULL;
	size_t len = eq ? (size_t)(eq - arg) : strlen(arg);
	const struct opt *o;
	int r;

	if (arg[0] != '-')
		return err_set(e, -EINVAL, "%.100s: unexpected; options begin with --, "
			       "'belfry %s --help' lists them", arg, c->name);
	o = find_opt(c->opts, arg, len);
	if (!o)
		return unknown_option(c, arg, len, e);
	if (o->type == OPT_FLAG) {
		if (eq)
			return err_set(e, -EINVAL, "%s takes no value", o->name);
	} else if (eq) {
		value = eq + 1;
	} else {
		if (*i + 1 >= argc)
			return err_set(e, -EINVAL, "%s needs a value", o->name);
		value = argv[++*i];
	}
	/* Given again the last one counts, so that a script's options can be overridden. */
	*seen |= BIT_ULL(o - c->opts);
	r = set_value(o, value, result, pool, e);
	if (!r)
		return 0;
	if (!value)
		return err_prefix(e, r, "%s", o->name);
	return err_prefix(e, r, "%s %.100s", o->name, value[0] ? value : "\"\"");
}

int options_parse(const struct command *c, int argc, char *const *argv, void *result,
		  struct opt_pool *pool, struct err *e)
{
	uint64_t seen = 0;
	int r;

	for (int i = 0; i < argc; i++)
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			return 1;
	if (c->defaults)
		memcpy(result, c->defaults, c->size);
	else
		memset(result, 0, c->size);
	for (int i = 0; i < argc; i++) {
		r = parse_one(c, argc, argv, &i, result, &seen, pool, e);
		if (r)
			return r;
	}
	r = check_required(c, seen, e);
	if (!r && c->check)
		r = c->check(result, e);
	return r;
}
