/* SPDX-License-Identifier: MIT
 * Publish a structure whole, read it without a lock, free the old one when
 * nobody can be reading it. A reader says enter and leave around its use; both
 * are one atomic addition and never wait.
 *
 * Why two counters and two flips: a reader may take its index, sleep, and count
 * itself only after a writer has flipped. The first writer does not miss it (the
 * reader will load what was published before the flip), but the next writer
 * would, if it looked at the other counter only. So each writer waits for both.
 *
 *   reader                        writer
 *   i = idx                       publish new
 *   n[i]++   (seq_cst)            idx ^= 1, wait n[old] == 0   (twice)
 *   load pointer                  free old
 *   n[i]--   (release)
 *
 * Reader counts before the writer looks: the writer waits. After it: in the one
 * order of seq_cst operations its pointer load comes after the publication.
 */
#ifndef BELFRY_SOFTKVM_GRACE_H
#define BELFRY_SOFTKVM_GRACE_H

#include "base/base.h"
#include <stdatomic.h>

struct grace {
	struct {
		_Alignas(64) _Atomic unsigned long readers;
	} n[2];
	_Atomic unsigned idx;
	pthread_mutex_t lock; /* (o) one writer waits at a time */
};

static inline unsigned grace_enter(struct grace *g)
{
	unsigned i = atomic_load_explicit(&g->idx, memory_order_acquire) & 1;

	atomic_fetch_add(&g->n[i].readers, 1);
	return i;
}

static inline void grace_leave(struct grace *g, unsigned i)
{
	atomic_fetch_sub_explicit(&g->n[i].readers, 1, memory_order_release);
}

void grace_init(struct grace *g);
void grace_destroy(struct grace *g);

/*
 * Returns when every reader that might have seen what was published before the
 * last publication has left. The caller must not be a reader, nor hold a lock
 * that a reader may wait for.
 */
void grace_wait(struct grace *g);

#endif
