/* SPDX-License-Identifier: MIT
 * Random numbers, and the makers of arguments. The ranges are small on purpose:
 * two operations of one sequence must often mean the same gsi, address or slot.
 */
#include "diff.h"

uint64_t rng_next(struct rng *r)
{
	uint64_t x = r->state += 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

unsigned rng_below(struct rng *r, unsigned n)
{
	return (unsigned)(rng_next(r) >> 32) % n;
}

bool rng_hostile(struct rng *r)
{
	return rng_below(r, 256) < r->hostile;
}

#define PICK(r, ...) \
	({ static const uint64_t list_[] = { __VA_ARGS__ }; list_[rng_below(r, ARRAY_SIZE(list_))]; })

uint64_t any_vm(struct rng *r)
{
	return rng_below(r, 8) == 0;
}

uint64_t any_cpu(struct rng *r)
{
	return rng_hostile(r) ? rng_below(r, WORLD_VCPUS) : rng_below(r, 3) == 0;
}

uint64_t any_event(struct rng *r)
{
	return rng_hostile(r) ? rng_below(r, WORLD_EVENTS) : rng_below(r, WORLD_EVENTS - 4);
}

uint64_t any_gsi(struct rng *r)
{
	if (rng_hostile(r))
		return PICK(r, 24, 255, 4094, 4095, 4096, 0x7fffffff, 0xffffffff);
	return rng_below(r, 4) ? PICK(r, 0, 1, 3, 5, 8, 9, 20, 21, 24, 25) : rng_below(r, 28);
}

uint64_t any_bit(struct rng *r)
{
	return rng_below(r, 2);
}

uint64_t rare_bit(struct rng *r)
{
	return rng_hostile(r);
}

uint64_t any_byte(struct rng *r)
{
	return rng_below(r, 256);
}

uint64_t any_vector(struct rng *r)
{
	return rng_hostile(r) ? rng_below(r, 260) : 0x30 + rng_below(r, 0x20) * 4;
}

uint64_t any_small(struct rng *r)
{
	return rng_below(r, 16);
}

uint64_t any_word(struct rng *r)
{
	return rng_below(r, 4) ? rng_below(r, 256) : (uint32_t)rng_next(r);
}

uint64_t any_u64(struct rng *r)
{
	switch (rng_below(r, 6)) {
	case 0:
		return 0;
	case 1:
		return rng_below(r, 256);
	case 2:
		return 1ull << rng_below(r, 64);
	case 3:
		return ~(1ull << rng_below(r, 64));
	case 4:
		return (uint32_t)rng_next(r);
	default:
		return rng_next(r);
	}
}

uint64_t any_slot(struct rng *r)
{
	if (rng_hostile(r))
		return PICK(r, 0, 32763, 32764, 32767, 0x10000, 0x10001, 0xffff0000);
	return rng_below(r, 5);
}

uint64_t any_gpa(struct rng *r)
{
	if (rng_hostile(r))
		return PICK(r, 0x100, 0xfffffffffffff000, 1ull << 46, 1ull << 52, 1ull << 53,
			    0xfec00000, 0x8001);
	return (8 + rng_below(r, 24)) * 0x1000ull;
}

uint64_t any_pages(struct rng *r)
{
	if (rng_hostile(r))
		return PICK(r, 0, 0x10, 0x1001, 1ull << 43, 1ull << 44, 0xfffffffffffff000);
	return rng_below(r, 8) * 0x1000ull;
}

uint64_t any_pointer(struct rng *r)
{
	return rng_hostile(r) ? 1 + rng_below(r, 4) : 0;
}

/* So far apart that devices do not overlap (docs/DIFF.md). */
uint64_t any_mmio(struct rng *r)
{
	if (rng_hostile(r))
		return PICK(r, 0xfffffffffffffffc, UINT64_MAX, 0x3000);
	return 0x100000 + PICK(r, 0, 0, 0, 8, 8, 0x10, 0xf8, 0xff8);
}

uint64_t any_port(struct rng *r)
{
	if (rng_hostile(r))
		return PICK(r, 0x20, 0xa1, 0x4d0, 0xffff, 0x61, 0x40, 0x10300);
	return 0x300 + PICK(r, 0, 0, 0, 8, 8, 0x10);
}

uint64_t any_len(struct rng *r)
{
	return rng_hostile(r) ? PICK(r, 3, 5, 9, 16, 0x80000000) : PICK(r, 0, 1, 2, 4, 4, 8);
}
