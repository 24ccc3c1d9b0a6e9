/* SPDX-License-Identifier: MIT
 * What every fuzz target shares: an input that never runs dry (it gives zeroes
 * at its end), and a check that ends the run with a line.
 */
#ifndef BELFRY_FUZZ_H
#define BELFRY_FUZZ_H

#include "base/base.h"
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct feed {
	const uint8_t *p;
	size_t left;
};

static inline void feed_bytes(struct feed *f, void *out, size_t len)
{
	size_t n = MIN(len, f->left);

	memset(out, 0, len);
	if (n)
		memcpy(out, f->p, n);
	f->p += n;
	f->left -= n;
}

static inline uint8_t feed_u8(struct feed *f)
{
	uint8_t v;

	feed_bytes(f, &v, sizeof(v));
	return v;
}

static inline uint16_t feed_u16(struct feed *f)
{
	uint16_t v;

	feed_bytes(f, &v, sizeof(v));
	return v;
}

static inline uint32_t feed_u32(struct feed *f)
{
	uint32_t v;

	feed_bytes(f, &v, sizeof(v));
	return v;
}

static inline uint64_t feed_u64(struct feed *f)
{
	uint64_t v;

	feed_bytes(f, &v, sizeof(v));
	return v;
}

/* 0 to n - 1 (n up to 65536), from one byte if that is enough. */
static inline unsigned feed_below(struct feed *f, unsigned n)
{
	return (n > 256 ? feed_u16(f) : feed_u8(f)) % n;
}

/* An access width: 1, 2, 4 or 8, at most max. */
static inline unsigned feed_len(struct feed *f, unsigned max)
{
	unsigned len = 1u << (feed_u8(f) & 3);

	return MIN(len, max);
}

#define FUZZ_CHECK(cond, ...)                                                     \
	do {                                                                      \
		if (!(cond)) {                                                    \
			fprintf(stderr, "%s:%d: %s does not hold: ", __FILE__,    \
				__LINE__, #cond);                                 \
			fprintf(stderr, __VA_ARGS__);                             \
			fputc('\n', stderr);                                      \
			abort();                                                  \
		}                                                                 \
	} while (0)

#endif
