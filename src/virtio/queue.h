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
	_Atomic uint64_t kicks, calls, calls_suppressed;
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
 * After an error the queue is broken and gives 0.
 */
int virtq_pop(struct virtq *q, struct virtq_chain *c) __must_check;
/* True if the driver has made something available. Cheap: one load. */
bool virtq_has_work(const struct virtq *q);
/* Undo the last virtq_pop() (net rx with too little room). */
void virtq_unpop(struct virtq *q);
/* Return a request; written: bytes the device wrote into the in segments. Visible after virtq_flush(). */
void virtq_push(struct virtq *q, uint16_t head, uint32_t written);
/* Publish what was pushed and call the driver if it wants to be called. */
void virtq_flush(struct virtq *q);
/*
 * Ask for no kicks / ask for kicks again. virtq_enable_kicks() returns true if
 * work came meanwhile: the caller must look again (it re-checks after a full
 * barrier).
 */
void virtq_disable_kicks(struct virtq *q);
bool virtq_enable_kicks(struct virtq *q) __must_check;

/* Copy between a chain and a buffer, from byte offset `off` of its out or in part. Return the bytes copied. */
size_t chain_read(const struct virtq_chain *c, size_t off, void *buf, size_t len);
size_t chain_write(const struct virtq_chain *c, size_t off, const void *buf, size_t len);

/* Core only: map the rings and begin at the given positions. -EFAULT/-EINVAL on bad addresses or size. */
int virtq_start(struct virtq *q) __must_check;
void virtq_stop(struct virtq *q);
void virtq_reset(struct virtq *q);

#endif
