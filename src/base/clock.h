/* SPDX-License-Identifier: MIT */
#ifndef BELFRY_BASE_CLOCK_H
#define BELFRY_BASE_CLOCK_H

#include "base/base.h"
#include <time.h>

#define NSEC_PER_SEC 1000000000ull

/* CLOCK_MONOTONIC in nanoseconds. Any thread, no system call (vDSO). */
static inline uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

#endif
