/* SPDX-License-Identifier: MIT */
#include "softkvm/posted.h"

static uint64_t nv_bits(uint8_t nv)
{
	return (uint64_t)nv << POSTED_NV_SHIFT;
}

void posted_init(struct posted_desc *d)
{
	memset(d, 0, sizeof(*d));
	atomic_store(&d->control, POSTED_SN | nv_bits(POSTED_NV_NOTIFY));
}

enum posted_effect posted_post(struct posted_desc *d, uint8_t vector, bool urgent, uint8_t *nv,
			       uint32_t *ndst)
{
	uint64_t bit = BIT_ULL(vector & 63), old;

	if (__atomic_fetch_or(&d->pir[vector >> 6], bit, __ATOMIC_SEQ_CST) & bit)
		return POSTED_COALESCED;
	/*
	 * ON, SN, NV and NDST are one word: what is read here belongs together. As VT-d
	 * says, ON is set only with a notification, so that an urgent one is not kept back
	 * by one that was suppressed.
	 */
	old = atomic_load(&d->control);
	do {
		if (old & POSTED_ON || (old & POSTED_SN && !urgent))
			return POSTED_QUIET;
	} while (!atomic_compare_exchange_weak(&d->control, &old, old | POSTED_ON));
	*nv = (uint8_t)(old >> POSTED_NV_SHIFT);
	*ndst = (uint32_t)(old >> POSTED_NDST_SHIFT);
	return POSTED_NOTIFY;
}

static bool pir_empty(const struct posted_desc *d)
{
	for (unsigned i = 0; i < 4; i++)
		if (__atomic_load_n(&d->pir[i], __ATOMIC_SEQ_CST))
			return false;
	return true;
}

bool posted_load(struct posted_desc *d, uint32_t ndst)
{
	uint64_t old = atomic_load(&d->control), new;

	do
		new = (old & POSTED_ON) | nv_bits(POSTED_NV_NOTIFY) |
		      (uint64_t)ndst << POSTED_NDST_SHIFT;
	while (!atomic_compare_exchange_weak(&d->control, &old, new));
	/*
	 * A poster that found SN set has left PIR behind; one that is between the two
	 * will find SN clear. ON is set here for one that PIR tells of.
	 */
	if (!pir_empty(d))
		atomic_fetch_or(&d->control, POSTED_ON);
	return !posted_idle(d);
}

void posted_put(struct posted_desc *d)
{
	atomic_fetch_or(&d->control, POSTED_SN);
}

bool posted_block(struct posted_desc *d)
{
	uint64_t old = atomic_load(&d->control), new;

	do {
		if (old & POSTED_ON)
			return false;
		new = (old & ~(POSTED_NV_MASK | POSTED_SN)) | nv_bits(POSTED_NV_WAKEUP);
	} while (!atomic_compare_exchange_weak(&d->control, &old, new));
	return true;
}

void posted_unblock(struct posted_desc *d)
{
	uint64_t old = atomic_load(&d->control), new;

	do
		new = (old & ~POSTED_NV_MASK) | nv_bits(POSTED_NV_NOTIFY);
	while (!atomic_compare_exchange_weak(&d->control, &old, new));
}

bool posted_begin_take(struct posted_desc *d)
{
	/* With SN set, PIR may have bits that nobody told of. */
	if (!(atomic_load(&d->control) & (POSTED_ON | POSTED_SN)))
		return false;
	atomic_fetch_and(&d->control, ~POSTED_ON);
	return true;
}
