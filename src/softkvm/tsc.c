/* SPDX-License-Identifier: MIT */
#include "softkvm/tsc.h"
#include <cpuid.h>

#define MEASURE_NS 8000000ull

struct clock_sample clock_sample(void)
{
	struct clock_sample s = { 0 };
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < 16; i++) {
		uint64_t a = host_tsc(), t = clock_ns(), b;
		struct timespec ts;

		clock_gettime(CLOCK_REALTIME, &ts);
		b = host_tsc();
		if (b - a < best) {
			best = b - a;
			s.tsc = a + (b - a) / 2;
			s.ns = t;
			s.realtime = (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
		}
	}
	return s;
}

uint32_t tsc_khz_find(void)
{
	struct clock_sample from, to;
	unsigned a, b, c, d;

	/* Hypervisors' timing leaf, and SDM "CPUID—TSC and Nominal Core Crystal Clock". */
	__cpuid(1, a, b, c, d);
	if (c & 1u << 31) {
		__cpuid(0x40000000, a, b, c, d);
		if (a >= 0x40000010 && a < 0x40000100) {
			__cpuid(0x40000010, a, b, c, d);
			if (a)
				return a;
		}
	}
	if (__get_cpuid_count(0x15, 0, &a, &b, &c, &d) && a && b && c)
		return (uint32_t)((uint64_t)c * b / a / 1000);
	from = clock_sample();
	do
		to = clock_sample();
	while (to.ns - from.ns < MEASURE_NS);
	return (uint32_t)((to.tsc - from.tsc) * 1000000 / (to.ns - from.ns));
}

void tsc_pvclock_scale(uint32_t khz, uint32_t *mul, int8_t *shift)
{
	uint64_t base = (uint64_t)khz * 1000, scaled = NSEC_PER_SEC;

	*shift = 0;
	while (base > scaled * 2) {
		base >>= 1;
		(*shift)--;
	}
	while (base <= scaled) {
		base <<= 1;
		(*shift)++;
	}
	/* Now scaled < base <= 2 * scaled: the quotient fits 32 bits. */
	*mul = (uint32_t)((scaled << 32) / base);
}
