/* SPDX-License-Identifier: MIT
 * The device's side of a split virtqueue (virtio 1.2 "Split Virtqueues"), with
 * indirect descriptors and EVENT_IDX. Everything the driver wrote is hostile
 * until checked: indexes, lengths, addresses, loops. Malformed rings give
 * -EINVAL or -EFAULT once; the caller then calls virtio_fail().
 */
#ifndef BELFRY_VIRTIO_QUEUE_H
#define BELFRY_VIRTIO_QUEUE_H

#include "machine/machine.h"
#include <linux/virtio_ring.h>
#include <sys/uio.h>

#define VIRTQ_MAX_SIZE 1024

struct virtio_dev;

struct virtq {
	struct virtio_dev *v;
	uint16_t index;
	struct loop *loop;       /* the thread it belongs to while started */
	/* as the driver set it up, under the device lock; fixed while started */
	uint16_t size;           /* entries */
	uint16_t max_size;
	uint64_t desc_gpa, driver_gpa, device_gpa;
	bool enabled;
	uint16_t vector;         /* MSI-X vector, VIRTIO_MSI_NO_VECTOR */
	/* while started: host addresses and positions, owner loop only */
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t next_avail;     /* next head to take */
	uint16_t next_used;      /* next used entry to write */
	uint16_t last_called;    /* used index at the last call decision */
	bool event_idx, broken, started;
	struct notifier kick;    /* doorbell's eventfd */
	struct doorbell doorbell, doorbell_legacy;
	struct loop_watch watch;
	struct loop_poller poller;
	_Atomic uint64_t kicks, polls, calls, calls_suppressed;
	/* private to the core: see docs/VIRTIO.md, owner loop only */
	uint16_t looked_avail;   /* driver's index when handle() last began */
	uint16_t seen_avail;     /* driver's index when virtq_pop() last looked */
	bool want_kicks;         /* the device waits for the driver */
	bool kicks_on;           /* and the driver has been told so */
	bool defer_kicks;        /* tell it when the loop is about to sleep */
	bool in_handle;
	bool worked;             /* a kick brought work since the last poll */
	unsigned budget;         /* requests handle() may still take */
};

/* One request: readable (out) segments first, then writable (in) ones, as the driver gave them. */
struct virtq_chain {
	uint16_t head;
	uint16_t nr_out, nr_in;       /* segments: iov[0..nr_out) then iov[nr_out..nr_out+nr_in) */
	uint32_t out_len, in_len;     /* bytes; the sum of each kind fits 32 bits (checked) */
	unsigned iov_max;             /* room in iov[], set by the caller */
	struct iovec *iov;            /* host memory, checked */
};

/*
 * Take the next request. 1: got one; 0: the ring is empty; -EINVAL: bad index,
 * loop, bad flags or more segments than iov_max; -EFAULT: memory outside RAM.
 * After an error the queue is broken and gives 0. Also 0, though there is more,
 * when one handle() has taken its fair share: return, it is called again after
 * the loop's other work (virtq_has_work() and virtq_enable_kicks() then say
 * false as well).
 *
 * Zero-length segments are legal and left out; out_len and in_len do not miss
 * them. Segments of one chain that touch in guest-physical space stay apart.
 */
int virtq_pop(struct virtq *q, struct virtq_chain *c) __must_check;
/* True if the driver has made something available. Cheap: one load. */
bool virtq_has_work(const struct virtq *q);
/* Undo the last virtq_pop() (net rx with too little room). */
void virtq_unpop(struct virtq *q);
/*
 * Return a request; written: bytes the device wrote into the in segments.
 * Visible after virtq_flush(). Does nothing once the queue is stopped or broken.
 */
void virtq_push(struct virtq *q, uint16_t head, uint32_t written);
/* Publish what was pushed and call the driver if it wants to be called. */
void virtq_flush(struct virtq *q);
/*
 * Ask for no kicks / ask for kicks again. virtq_enable_kicks() returns true if
 * work came meanwhile: the caller must look again. On a running queue the
 * driver is told only when the loop is about to sleep (and the ring looked at
 * again after a full barrier), so that a busy queue is kicked not at all. A
 * device that leaves kicks disabled gets no handle() until it enables them.
 */
void virtq_disable_kicks(struct virtq *q);
bool virtq_enable_kicks(struct virtq *q) __must_check;

/* Copy between a chain and a buffer, from byte offset `off` of its out or in part. Return the bytes copied. */
size_t chain_read(const struct virtq_chain *c, size_t off, void *buf, size_t len);
size_t chain_write(const struct virtq_chain *c, size_t off, const void *buf, size_t len);

/*
 * Core only, on the queue's loop. Start: map the rings and begin at the given
 * positions; -EFAULT/-EINVAL on bad addresses or size.
 */
int virtq_start(struct virtq *q) __must_check;
void virtq_stop(struct virtq *q);
void virtq_reset(struct virtq *q);
/* Tell the driver now what the device wishes; true if work came since handle() last began. */
bool virtq_settle_kicks(struct virtq *q) __must_check;
/* True if the device waits for work and there is some it has not looked at. */
bool virtq_wants_handle(const struct virtq *q);

#endif
