/* SPDX-License-Identifier: MIT
 * Split virtqueue, device side (virtio 1.2 "Split Virtqueues").
 *
 * Every field in guest memory is read once, into a local, before it is looked
 * at: the driver may change it at any moment. The barriers are drawn in
 * docs/VIRTIO.md.
 */
#include "virtio/virtio.h"
#include <linux/virtio_pci.h>
#include <stdatomic.h>

/* One read of a 16-bit field the driver writes, and one write of a field it reads. */
static uint16_t guest_load(const __virtio16 *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static void guest_store(__virtio16 *p, uint16_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELAXED);
}

/* Acquire: the ring entries and descriptors behind the index are read after it. */
static uint16_t avail_index(const struct virtq *q)
{
	return __atomic_load_n(&q->avail->idx, __ATOMIC_ACQUIRE);
}

/* Where the driver wants its next call, and where the device says so for kicks: behind the rings. */
static __virtio16 *used_event(const struct virtq *q)
{
	return &q->avail->ring[q->size];
}

static __virtio16 *avail_event(const struct virtq *q)
{
	return (__virtio16 *)&q->used->ring[q->size];
}

/* Nothing more is taken from the ring or put into it. */
static bool is_dead(const struct virtq *q)
{
	return !q->started || q->broken ||
	       (atomic_load_explicit(&q->v->status, memory_order_relaxed) &
		VIRTIO_CONFIG_S_NEEDS_RESET);
}

static bool is_spent(const struct virtq *q)
{
	return q->in_handle && !q->budget;
}

/* ---- life cycle -------------------------------------------------------------- */

int virtq_start(struct virtq *q)
{
	const struct ram *ram = &q->v->machine->ram;

	if (!is_pow2(q->size) || q->size > q->max_size || q->size > VIRTQ_MAX_SIZE)
		return -EINVAL;
	if (q->desc_gpa % VRING_DESC_ALIGN_SIZE || q->driver_gpa % VRING_AVAIL_ALIGN_SIZE ||
	    q->device_gpa % VRING_USED_ALIGN_SIZE)
		return -EINVAL;
	/* Both event fields belong to the areas whether negotiated or not. */
	q->desc = ram_ptr(ram, q->desc_gpa, sizeof(struct vring_desc) * (uint64_t)q->size);
	q->avail = ram_ptr(ram, q->driver_gpa, 6 + 2 * (uint64_t)q->size);
	q->used = ram_ptr(ram, q->device_gpa,
			  6 + sizeof(struct vring_used_elem) * (uint64_t)q->size);
	if (!q->desc || !q->avail || !q->used)
		return -EFAULT;
	q->event_idx = virtio_has(q->v, VIRTIO_RING_F_EVENT_IDX);
	q->last_called = q->next_used;
	q->looked_avail = q->seen_avail = q->next_avail;
	q->started = true;
	q->want_kicks = true;
	q->kicks_on = false;
	/* The caller looks at the ring after this, so the answer is not needed here. */
	(void)!virtq_settle_kicks(q);
	return 0;
}

void virtq_stop(struct virtq *q)
{
	q->started = false;
	q->desc = NULL;
	q->avail = NULL;
	q->used = NULL;
}

void virtq_reset(struct virtq *q)
{
	virtq_stop(q);
	q->size = q->max_size;
	q->desc_gpa = q->driver_gpa = q->device_gpa = 0;
	q->enabled = q->broken = q->event_idx = false;
	q->next_avail = q->next_used = q->last_called = 0;
	__atomic_store_n(&q->vector, VIRTIO_MSI_NO_VECTOR, __ATOMIC_RELAXED);
}

/* ---- kicks -------------------------------------------------------------------- */

bool virtq_has_work(const struct virtq *q)
{
	return !is_dead(q) && !is_spent(q) && avail_index(q) != q->next_avail;
}

bool virtq_wants_handle(const struct virtq *q)
{
	return q->want_kicks && !is_dead(q) && avail_index(q) != q->looked_avail;
}

bool virtq_settle_kicks(struct virtq *q)
{
	if (!q->want_kicks || is_dead(q))
		return false;
	if (q->event_idx) {
		/* A wish already told stands until the driver passes it. */
		if (q->kicks_on && guest_load(avail_event(q)) == q->seen_avail)
			return virtq_wants_handle(q);
		guest_store(avail_event(q), q->seen_avail);
	} else {
		if (q->kicks_on)
			return virtq_wants_handle(q);
		guest_store(&q->used->flags, 0);
	}
	q->kicks_on = true;
	/* The wish must be visible before the index is looked at again, or both sides wait. */
	atomic_thread_fence(memory_order_seq_cst);
	return virtq_wants_handle(q);
}

void virtq_disable_kicks(struct virtq *q)
{
	q->want_kicks = false;
	if (is_dead(q))
		return;
	/*
	 * With EVENT_IDX there is no way to say "never": a stale avail_event
	 * brings one kick each 65536 requests, and that is all.
	 */
	if (!q->event_idx && q->kicks_on)
		guest_store(&q->used->flags, VRING_USED_F_NO_NOTIFY);
	q->kicks_on = false;
}

bool virtq_enable_kicks(struct virtq *q)
{
	q->want_kicks = true;
	if (!q->defer_kicks)
		(void)!virtq_settle_kicks(q);
	return virtq_has_work(q);
}

/* ---- taking requests ----------------------------------------------------------- */

/* A descriptor as it was at one moment: the compiler must not go back to guest memory for parts. */
static struct vring_desc load_desc(const void *table, unsigned i)
{
	struct vring_desc d;

	memcpy(&d, (const char *)table + i * sizeof(d), sizeof(d));
	__asm__ volatile("" ::: "memory");
	return d;
}

static int add_segment(struct virtq *q, struct virtq_chain *c, const struct vring_desc *d)
{
	bool in = d->flags & VRING_DESC_F_WRITE;
	uint32_t *total = in ? &c->in_len : &c->out_len;
	void *host;

	/* "The driver MUST place any device-writable descriptors after any device-readable ones." */
	if (!in && c->nr_in)
		return -EINVAL;
	if (!d->len)
		return 0;
	if (__builtin_add_overflow(*total, d->len, total))
		return -EINVAL;
	if (c->nr_out + c->nr_in >= (int)MIN(c->iov_max, UINT16_MAX))
		return -EINVAL;
	host = ram_ptr(&q->v->machine->ram, d->addr, d->len);
	if (!host)
		return -EFAULT;
	c->iov[c->nr_out + c->nr_in] = (struct iovec){ .iov_base = host, .iov_len = d->len };
	if (in)
		c->nr_in++;
	else
		c->nr_out++;
	return 0;
}

/*
 * "Indirect Descriptors": the table takes the place of the descriptor that
 * names it, which is the last of its chain; tables do not nest.
 */
static int enter_indirect(struct virtq *q, const struct vring_desc *d, const void **table,
			  unsigned *nr)
{
	if (!virtio_has(q->v, VIRTIO_RING_F_INDIRECT_DESC) || *table != q->desc ||
	    (d->flags & VRING_DESC_F_NEXT) || !d->len || d->len % sizeof(struct vring_desc) ||
	    d->len / sizeof(struct vring_desc) > VIRTQ_MAX_SIZE)
		return -EINVAL;
	*table = ram_ptr(&q->v->machine->ram, d->addr, d->len);
	*nr = d->len / sizeof(struct vring_desc);
	return *table ? 0 : -EFAULT;
}

static int walk(struct virtq *q, struct virtq_chain *c)
{
	const void *table = q->desc;
	unsigned nr = q->size, i = c->head, steps = 0;
	int r;

	for (;;) {
		struct vring_desc d = load_desc(table, i);

		/* More steps than entries: a loop. */
		if (++steps > nr)
			return -EINVAL;
		if (d.flags & VRING_DESC_F_INDIRECT) {
			r = enter_indirect(q, &d, &table, &nr);
			if (r)
				return r;
			i = steps = 0;
			continue;
		}
		r = add_segment(q, c, &d);
		if (r)
			return r;
		if (!(d.flags & VRING_DESC_F_NEXT))
			return 0;
		if (d.next >= nr)
			return -EINVAL;
		i = d.next;
	}
}

int virtq_pop(struct virtq *q, struct virtq_chain *c)
{
	uint16_t avail;
	int r = -EINVAL;

	if (is_dead(q) || is_spent(q))
		return 0;
	avail = avail_index(q);
	q->seen_avail = avail;
	if (avail == q->next_avail)
		return 0;
	c->nr_out = c->nr_in = 0;
	c->out_len = c->in_len = 0;
	/* There are only `size` entries: an index further ahead is a lie (CVE-2016-5403). */
	if ((uint16_t)(avail - q->next_avail) > q->size)
		goto broken;
	/* And what has not been returned cannot be offered again. */
	if ((uint16_t)(q->next_avail - q->next_used) >= q->size)
		goto broken;
	c->head = guest_load(&q->avail->ring[q->next_avail & (q->size - 1)]);
	if (c->head >= q->size)
		goto broken;
	r = walk(q, c);
	if (r)
		goto broken;
	q->next_avail++;
	if (q->in_handle)
		q->budget--;
	return 1;

broken:
	q->broken = true;
	return r;
}

void virtq_unpop(struct virtq *q)
{
	q->next_avail--;
	if (q->in_handle)
		q->budget++;
}

/* ---- returning requests ---------------------------------------------------------- */

void virtq_push(struct virtq *q, uint16_t head, uint32_t written)
{
	struct vring_used_elem *e;

	if (is_dead(q))
		return;
	e = &q->used->ring[q->next_used & (q->size - 1)];
	__atomic_store_n(&e->id, head, __ATOMIC_RELAXED);
	__atomic_store_n(&e->len, written, __ATOMIC_RELAXED);
	q->next_used++;
}

static bool wants_call(struct virtq *q)
{
	if (q->event_idx)
		return vring_need_event(guest_load(used_event(q)), q->next_used, q->last_called);
	return !(guest_load(&q->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
}

void virtq_flush(struct virtq *q)
{
	if (is_dead(q) || q->next_used == q->last_called)
		return;
	/* Release: the entries, and the data they tell of, are visible before the index. */
	__atomic_store_n(&q->used->idx, q->next_used, __ATOMIC_RELEASE);
	/* And the index before the driver's wish is read, or both sides wait. */
	atomic_thread_fence(memory_order_seq_cst);
	if (wants_call(q)) {
		atomic_fetch_add_explicit(&q->calls, 1, memory_order_relaxed);
		q->v->transport->call(q->v->transport_arg, q);
	} else {
		atomic_fetch_add_explicit(&q->calls_suppressed, 1, memory_order_relaxed);
	}
	q->last_called = q->next_used;
}

/* ---- chains ------------------------------------------------------------------------ */

static size_t copy(const struct iovec *iov, unsigned nr, size_t off, void *buf, size_t len,
		   bool to_guest)
{
	size_t done = 0;

	for (unsigned i = 0; i < nr && done < len; i++) {
		size_t n;

		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		n = MIN(iov[i].iov_len - off, len - done);
		if (to_guest)
			memcpy((char *)iov[i].iov_base + off, (char *)buf + done, n);
		else
			memcpy((char *)buf + done, (char *)iov[i].iov_base + off, n);
		done += n;
		off = 0;
	}
	return done;
}

size_t chain_read(const struct virtq_chain *c, size_t off, void *buf, size_t len)
{
	return copy(c->iov, c->nr_out, off, buf, len, false);
}

size_t chain_write(const struct virtq_chain *c, size_t off, const void *buf, size_t len)
{
	return copy(c->iov + c->nr_out, c->nr_in, off, (void *)(uintptr_t)buf, len, true);
}
