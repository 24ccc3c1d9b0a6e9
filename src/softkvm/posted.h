/* SPDX-License-Identifier: MIT
 * The posted-interrupt descriptor, Intel SDM Vol. 3C, "Posted-Interrupt
 * Processing", with the fields VT-d adds ("Posted Interrupt Descriptor (PID)").
 * docs/SOFTKVM.md draws every interleaving of the functions below.
 */
#ifndef BELFRY_SOFTKVM_POSTED_H
#define BELFRY_SOFTKVM_POSTED_H

#include "base/base.h"
#include <stdatomic.h>

/* Control word. */
#define POSTED_ON	  (1ull << 0) /* a notification is outstanding */
#define POSTED_SN	  (1ull << 1) /* suppress notification: nobody would hear it */
#define POSTED_NV_SHIFT	  16
#define POSTED_NV_MASK	  (0xffull << POSTED_NV_SHIFT)
#define POSTED_NDST_SHIFT 32

/* The vectors Linux uses on hardware; here they tell what a notification does. */
#define POSTED_NV_NOTIFY 0xf2u /* the running CPU looks at PIR at its next block edge */
#define POSTED_NV_WAKEUP 0xf1u /* the blocked CPU is woken */

struct posted_desc {
	_Alignas(64) uint64_t pir[4]; /* atomic: one bit a vector */
	_Atomic uint64_t control;
	uint64_t reserved[3];
};

enum posted_effect {
	POSTED_COALESCED, /* the vector was pending already */
	POSTED_QUIET,	  /* set; somebody else has notified, or SN suppresses it */
	POSTED_NOTIFY,	  /* set; the caller must send the notification *nv to *ndst */
};

/* Not running: SN set. */
void posted_init(struct posted_desc *d);

/* Any thread. urgent: not suppressed by SN (VT-d's URG). */
enum posted_effect posted_post(struct posted_desc *d, uint8_t vector, bool urgent, uint8_t *nv,
			       uint32_t *ndst);

/* The vCPU's thread: it is about to run on ndst. True if something was posted meanwhile. */
bool posted_load(struct posted_desc *d, uint32_t ndst);
/* It stops running, without waiting for interrupts. */
void posted_put(struct posted_desc *d);
/* It is going to block. False if a notification is outstanding: do not block. */
bool posted_block(struct posted_desc *d);
/* It woke up, for whatever reason. */
void posted_unblock(struct posted_desc *d);

/* True if no notification is outstanding. */
static inline bool posted_idle(const struct posted_desc *d)
{
	return !(atomic_load_explicit(&((struct posted_desc *)d)->control, memory_order_acquire) & POSTED_ON);
}

/* Clear ON; after it the caller takes PIR (never the other way round). False if there is nothing. */
bool posted_begin_take(struct posted_desc *d);

#endif
