/* SPDX-License-Identifier: MIT
 * Arithmetic that does not overflow silently, and little-endian accessors.
 */
#ifndef BELFRY_BASE_ARITH_H
#define BELFRY_BASE_ARITH_H

#include "base/base.h"
#include <string.h>

#define ARRAY_SIZE(a)             (sizeof(a) / sizeof((a)[0]))
#define container_of(p, type, m)  ((type *)((char *)(p) - offsetof(type, m)))
#define BIT(n)                    (1u << (n))
#define BIT_ULL(n)                (1ull << (n))
#define MIN(a, b)                 ((a) < (b) ? (a) : (b))
#define MAX(a, b)                 ((a) > (b) ? (a) : (b))

/* True if [start, start+len) stays within [0, limit); len 0 is within if start <= limit. */
static inline bool range_within(uint64_t start, uint64_t len, uint64_t limit)
{
	return start <= limit && len <= limit - start;
}

/* True if [a, a+alen) and [b, b+blen) share a byte. Neither range may wrap. */
static inline bool range_overlaps(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
	return alen && blen && a <= b + (blen - 1) && b <= a + (alen - 1);
}

static inline bool add_overflows(uint64_t a, uint64_t b, uint64_t *sum)
{
	return __builtin_add_overflow(a, b, sum);
}

static inline bool is_pow2(uint64_t v)
{
	return v && !(v & (v - 1));
}

/* align must be a power of two. align_up wraps to 0 past the top: check first. */
static inline uint64_t align_down(uint64_t v, uint64_t align)
{
	return v & ~(align - 1);
}

static inline uint64_t align_up(uint64_t v, uint64_t align)
{
	return (v + align - 1) & ~(align - 1);
}

/* Unaligned little-endian loads and stores (the host is x86-64: plain copies). */
static inline uint16_t load_le16(const void *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static inline uint32_t load_le32(const void *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static inline uint64_t load_le64(const void *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static inline void store_le16(void *p, uint16_t v) { memcpy(p, &v, 2); }
static inline void store_le32(void *p, uint32_t v) { memcpy(p, &v, 4); }
static inline void store_le64(void *p, uint64_t v) { memcpy(p, &v, 8); }

/* The low len (1..8) bytes of v as stored in memory, and back. */
static inline uint64_t load_le(const void *p, unsigned len)
{
	uint64_t v = 0;

	memcpy(&v, p, len <= 8 ? len : 8);
	return v;
}

static inline void store_le(void *p, uint64_t v, unsigned len)
{
	memcpy(p, &v, len <= 8 ? len : 8);
}

/* All ones in the low len bytes (len 1..8). */
static inline uint64_t len_mask(unsigned len)
{
	return len >= 8 ? UINT64_MAX : (1ull << (len * 8)) - 1;
}

/*
 * Parse a size such as "512M": decimal digits with an optional K, M, G or T
 * (powers of 1024). Returns 0, -EINVAL on anything else, -ERANGE past 2^64-1.
 */
int size_parse(const char *s, uint64_t *out) __must_check;

/* Parse a decimal or 0x number in [min, max]. -EINVAL, -ERANGE. */
int number_parse(const char *s, uint64_t min, uint64_t max, uint64_t *out) __must_check;

#endif
