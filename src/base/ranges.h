/* SPDX-License-Identifier: MIT
 * Pieces of an address space, sorted, none over another. A table that is read is never edited: a
 * change makes a new one, for its owner to publish; the old one is the place for the next when
 * nobody reads it any more. It holds pointers to what its owner has the ranges in, so that a
 * change moves 8 bytes a range, whatever the owner keeps with each.
 */
#ifndef BELFRY_BASE_RANGES_H
#define BELFRY_BASE_RANGES_H

#include "base/base.h"

struct range {
	uint64_t start, size; /* size > 0, start + size does not wrap */
};

struct ranges {
	unsigned n, room;
	struct range *at[]; /* by start */
};

/* The first that does not lie wholly below a; t->n: there is none. */
static inline unsigned ranges_place(const struct ranges *t, uint64_t a)
{
	unsigned lo = 0, hi = t->n;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (t->at[mid]->start + t->at[mid]->size <= a)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* The one that holds a, or NULL. */
static inline struct range *ranges_find(const struct ranges *t, uint64_t a)
{
	unsigned i = ranges_place(t, a);

	return i < t->n && t->at[i]->start <= a ? t->at[i] : NULL;
}

/* Does one of them, but `but` (NULL: none is left out), reach into [a, a + size), which does not wrap? */
static inline bool ranges_overlap(const struct ranges *t, const struct range *but, uint64_t a, uint64_t size)
{
	for (unsigned i = ranges_place(t, a); i < t->n && t->at[i]->start < a + size; i++)
		if (t->at[i] != but)
			return true;
	return false;
}

/*
 * A table like t (NULL: an empty one) without `gone`, which is in t, and with `add`, which lies
 * over none that stays; each may be NULL. It is made in *spare, a table that nobody reads (NULL:
 * there is none), which is taken, or in memory of its own. NULL: no memory. free() frees it.
 */
struct ranges *ranges_edit(const struct ranges *t, const struct range *gone, struct range *add,
			   struct ranges **spare) __must_check;

#endif
