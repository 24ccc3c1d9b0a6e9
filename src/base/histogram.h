/* SPDX-License-Identifier: MIT
 * A histogram of 64-bit values (nanoseconds as a rule), log-linear: 16 buckets
 * an octave, so any quantile is right within 6.25 %. Fixed size, no allocation.
 */
#ifndef BELFRY_BASE_HISTOGRAM_H
#define BELFRY_BASE_HISTOGRAM_H

#include "base/base.h"

#define HISTOGRAM_SUB     16
#define HISTOGRAM_BUCKETS (61 * HISTOGRAM_SUB)

struct histogram {
	uint64_t count, sum, min, max;
	uint64_t bucket[HISTOGRAM_BUCKETS];
};

/* One writer at a time; readers may look while it writes (counts may lag). */
void histogram_init(struct histogram *h);
void histogram_add(struct histogram *h, uint64_t value);
/* Value at quantile q in [0,1] (the bucket's middle, clamped to min..max); 0 if empty. */
uint64_t histogram_quantile(const struct histogram *h, double q);
void histogram_merge(struct histogram *into, const struct histogram *from);

#endif
