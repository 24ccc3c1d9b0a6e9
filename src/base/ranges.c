/* SPDX-License-Identifier: MIT */
#include "base/ranges.h"
#include <stdlib.h>

struct ranges *ranges_edit(const struct ranges *t, const struct range *gone, struct range *add)
{
	unsigned n = t ? t->n : 0, i;
	struct ranges *new = malloc(sizeof(*new) + (n + 1) * sizeof(new->at[0]));

	if (!new)
		return NULL;
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
