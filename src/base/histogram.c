/* SPDX-License-Identifier: MIT */
#include "base/base.h"

#define SUB_BITS 4 /* log2 of HISTOGRAM_SUB */

/* Values below 16 have a bucket each; above, the top 4 bits after the leading one choose. */
static unsigned bucket_of(uint64_t v)
{
	unsigned shift;

	if (v < HISTOGRAM_SUB)
		return (unsigned)v;
	shift = 63u - (unsigned)__builtin_clzll(v) - SUB_BITS;
	return (shift + 1) * HISTOGRAM_SUB + (unsigned)((v >> shift) & (HISTOGRAM_SUB - 1));
}

static uint64_t bucket_middle(unsigned b)
{
	unsigned shift;

	if (b < HISTOGRAM_SUB)
		return b;
	shift = b / HISTOGRAM_SUB - 1;
	return ((uint64_t)(HISTOGRAM_SUB + b % HISTOGRAM_SUB) << shift) + ((1ull << shift) >> 1);
}

void histogram_init(struct histogram *h)
{
	memset(h, 0, sizeof(*h));
	h->min = UINT64_MAX;
}

void histogram_add(struct histogram *h, uint64_t value)
{
	h->count++;
	h->sum += value;
	h->min = MIN(h->min, value);
	h->max = MAX(h->max, value);
	h->bucket[bucket_of(value)]++;
}

uint64_t histogram_quantile(const struct histogram *h, double q)
{
	uint64_t rank, seen = 0, v;

	if (!h->count)
		return 0;
	q = q < 0 ? 0 : q > 1 ? 1 : q;
	rank = (uint64_t)(q * (double)(h->count - 1));
	for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) {
		seen += h->bucket[b];
		if (seen > rank) {
			v = bucket_middle(b);
			return v < h->min ? h->min : v > h->max ? h->max : v;
		}
	}
	return h->max;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
	into->count += from->count;
	into->sum += from->sum;
	into->min = MIN(into->min, from->min);
	into->max = MAX(into->max, from->max);
	for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++)
		into->bucket[b] += from->bucket[b];
}
