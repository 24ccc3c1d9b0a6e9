/* SPDX-License-Identifier: MIT
 * The host's time stamp counter: its rate and its relation to the clocks.
 */
#ifndef BELFRY_SOFTKVM_TSC_H
#define BELFRY_SOFTKVM_TSC_H

#include "base/base.h"

static inline uint64_t host_tsc(void)
{
	return __builtin_ia32_rdtsc();
}

/* kHz: from CPUID where it tells, else measured (takes some ms). */
uint32_t tsc_khz_find(void);

/* The host's clocks at one time: its TSC, CLOCK_MONOTONIC (clock_ns()) and CLOCK_REALTIME, both in ns. */
struct clock_sample {
	uint64_t tsc, ns, realtime;
};

/* The narrowest of some tries, so that a preemption between two of the clocks does not count. */
struct clock_sample clock_sample(void);

/* Cycles to ns, without overflow. */
static inline uint64_t tsc_to_ns(uint64_t cycles, uint32_t khz)
{
	return (uint64_t)((unsigned __int128)cycles * 1000000u / khz);
}

/* The pvclock pair: ns = (cycles << shift) * mul >> 32 ("Documentation/virt/kvm/x86/msr.rst"). */
void tsc_pvclock_scale(uint32_t khz, uint32_t *mul, int8_t *shift);

#endif
