/* SPDX-License-Identifier: MIT */
#include "base/ranges.h"
#include <stdlib.h>

struct ranges *ranges_edit(const struct ranges *t, const struct range *gone, struct range *add,
			   struct ranges **spare)
{
	unsigned n = t ? t->n : 0, room = n + n / 8 + 8, i;
	struct ranges *new = *spare;

	if (!new || new->room <= n) {
		new = realloc(new, sizeof(*new) + room * sizeof(new->at[0]));
		if (!new)
			return NULL;
		new->room = room;
	}
	*spare = NULL;
	new->n = n;
	if (n)
		memcpy(new->at, t->at, n * sizeof(new->at[0]));
	if (gone) {
		i = ranges_place(new, gone->start);
		new->n--;
		memmove(&new->at[i], &new->at[i + 1], (new->n - i) * sizeof(new->at[0]));
	}
	if (add) {
		i = ranges_place(new, add->start);
		memmove(&new->at[i + 1], &new->at[i], (new->n - i) * sizeof(new->at[0]));
		new->at[i] = add;
		new->n++;
	}
	return new;
}
