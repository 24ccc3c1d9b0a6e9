/* SPDX-License-Identifier: MIT
 * virtio 1.2 "Block Device".
 *
 * All queues share one loop and one block queue, so that requests of several
 * virtqueues go to the host in one batch. A request uses a slot of its
 * queue's pool from the ring to the ring; no memory is allocated on the way.
 * Completions come in batches as well, and the driver is called once for each.
 */
#include "virtio/devices.h"
#include "virtio/iothread.h"
#include <linux/virtio_blk.h>
#include <stdatomic.h>
#include <stdlib.h>

#define SECTOR_SHIFT     9
#define MAX_QUEUES       64
#define MAX_SEGMENTS     254         /* data segments a driver may use in a request */
#define DISCARD_RANGES   16          /* in one request */
#define DISCARD_SECTORS  (1u << 22)  /* of one range: 2 GiB */
#define ZEROES_RANGES    1
#define ZEROES_SECTORS   (1u << 15)  /* 16 MiB, for the host may have to write them */
#define CONFIG_LEN       offsetof(struct virtio_blk_config, max_secure_erase_sectors)

struct blk_slot {
	struct block_req r;
	struct blk_queue *bq;
	struct virtq_chain c;    /* c.iov: room for the longest chain */
	uint8_t *status;         /* in guest memory */
	uint32_t type;
	uint32_t written;        /* into the in segments if it succeeds */
	unsigned range, nr_ranges;
	struct blk_slot *next;   /* free list */
};

struct blk_queue {
	struct blk *d;
	struct virtq *q;
	struct blk_slot *slots, *free;
	struct iovec *iov;       /* of all slots */
	bool starved;            /* more in the ring than there are slots */
};

struct blk {
	struct virtio_dev v;
	struct iothread thread;
	struct block *block;
	struct block_queue *queue;
	struct loop_poller poller;
	bool polling, stopping, worked;
	uint64_t capacity;       /* sectors */
	char serial[VIRTIO_BLK_ID_BYTES];
	_Atomic bool writeback;
	unsigned nr_queues;
	struct blk_queue *queues;
};

static struct blk *to_blk(struct virtio_dev *v)
{
	return container_of(v, struct blk, v);
}

/* ---- requests -------------------------------------------------------- */

static void finish(struct blk_slot *s, uint8_t status)
{
	struct blk_queue *bq = s->bq;
	uint32_t written = s->written;

	/*
	 * The length counts from the first byte without a gap ("The Virtqueue Used
	 * Ring"), and the status byte comes last: a read that failed wrote nothing
	 * in that sense.
	 */
	if (status != VIRTIO_BLK_S_OK)
		written = s->c.in_len == 1;
	*s->status = status;
	virtq_push(bq->q, s->c.head, written);
	s->next = bq->free;
	bq->free = s;
}

static uint8_t status_of(int result)
{
	if (!result)
		return VIRTIO_BLK_S_OK;
	return result == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

static void on_done(struct block_req *r, int result);

static void submit(struct blk_slot *s, enum block_op op, uint64_t offset, uint64_t len)
{
	s->r.op = op;
	s->r.offset = offset;
	s->r.len = len;
	s->r.done = on_done;
	block_queue_add(s->bq->d->queue, &s->r);
}

/*
 * One range of DISCARD or WRITE_ZEROES. It is read from guest memory when its
 * turn comes and checked then: what was there before does not count.
 */
static void submit_range(struct blk_slot *s)
{
	struct blk *d = s->bq->d;
	struct virtio_blk_discard_write_zeroes range;
	bool zeroes = s->type == VIRTIO_BLK_T_WRITE_ZEROES;
	uint32_t allowed = zeroes ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
	uint32_t max = zeroes ? ZEROES_SECTORS : DISCARD_SECTORS;
	size_t at = sizeof(struct virtio_blk_outhdr) + s->range * sizeof(range);

	if (chain_read(&s->c, at, &range, sizeof(range)) != sizeof(range)) {
		finish(s, VIRTIO_BLK_S_IOERR);
		return;
	}
	s->range++;
	if (range.flags & ~allowed) {
		finish(s, VIRTIO_BLK_S_UNSUPP);
		return;
	}
	if (range.num_sectors > max || !range_within(range.sector, range.num_sectors, d->capacity)) {
		finish(s, VIRTIO_BLK_S_IOERR);
		return;
	}
	s->r.iov = NULL;
	s->r.nr_iov = 0;
	s->r.unmap = range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	submit(s, zeroes ? BLOCK_WRITE_ZEROES : BLOCK_DISCARD, range.sector << SECTOR_SHIFT,
	       (uint64_t)range.num_sectors << SECTOR_SHIFT);
}

/* On the device's loop; the batch callback tells the driver. */
static void on_done(struct block_req *r, int result)
{
	struct blk_slot *s = container_of(r, struct blk_slot, r);
	struct blk *d = s->bq->d;
	bool wrote = r->op == BLOCK_WRITE || r->op == BLOCK_WRITE_ZEROES;

	if (!result && s->range < s->nr_ranges) {
		submit_range(s);
		return;
	}
	/* Without a write-back cache "written" means on stable storage. */
	if (!result && wrote && !atomic_load_explicit(&d->writeback, memory_order_relaxed)) {
		submit(s, BLOCK_FLUSH, 0, 0);
		return;
	}
	finish(s, status_of(result));
}

/* Leave out the first `len` bytes of the out segments. Returns the index of the first left. */
static unsigned skip_out(struct virtq_chain *c, size_t len)
{
	unsigned i = 0;

	while (i < c->nr_out && len >= c->iov[i].iov_len)
		len -= c->iov[i++].iov_len;
	if (len) {
		c->iov[i].iov_base = (char *)c->iov[i].iov_base + len;
		c->iov[i].iov_len -= len;
	}
	return i;
}

static void start_transfer(struct blk_slot *s, uint64_t sector, bool in)
{
	struct blk *d = s->bq->d;
	struct virtq_chain *c = &s->c;
	/* The header and the status byte are known to be there. */
	uint64_t len = in ? c->in_len - 1 : c->out_len - sizeof(struct virtio_blk_outhdr);
	unsigned first;

	if (len & ((1u << SECTOR_SHIFT) - 1) ||
	    !range_within(sector, len >> SECTOR_SHIFT, d->capacity)) {
		finish(s, VIRTIO_BLK_S_IOERR);
		return;
	}
	if (in) {
		struct iovec *last = &c->iov[c->nr_out + c->nr_in - 1];

		first = c->nr_out;
		s->r.nr_iov = c->nr_in;
		if (!--last->iov_len)
			s->r.nr_iov--;
		s->written = (uint32_t)len + 1;
	} else {
		first = skip_out(c, sizeof(struct virtio_blk_outhdr));
		s->r.nr_iov = (int)(c->nr_out - first);
	}
	s->r.iov = c->iov + first;
	submit(s, in ? BLOCK_READ : BLOCK_WRITE, sector << SECTOR_SHIFT, len);
}

static void start_ranges(struct blk_slot *s, unsigned feature, unsigned max)
{
	struct blk *d = s->bq->d;
	uint32_t len = s->c.out_len - sizeof(struct virtio_blk_outhdr);
	uint32_t one = sizeof(struct virtio_blk_discard_write_zeroes);

	if (!virtio_has(&d->v, feature)) {
		finish(s, VIRTIO_BLK_S_UNSUPP);
	} else if (!len || len % one || len / one > max) {
		finish(s, VIRTIO_BLK_S_IOERR);
	} else {
		s->nr_ranges = len / one;
		submit_range(s);
	}
}

static void start_get_id(struct blk_slot *s)
{
	struct blk *d = s->bq->d;
	size_t n = MIN(s->c.in_len - 1, sizeof(d->serial));

	(void)chain_write(&s->c, 0, d->serial, n);
	s->written = s->c.in_len - 1 == n ? s->c.in_len : (uint32_t)n;
	finish(s, VIRTIO_BLK_S_OK);
}

static void start(struct blk_slot *s)
{
	struct blk *d = s->bq->d;
	struct virtq_chain *c = &s->c;
	struct virtio_blk_outhdr hdr;
	struct iovec *last;

	s->range = s->nr_ranges = 0;
	s->written = 1;
	if (!c->in_len) {
		/* Nowhere to put the answer: give the buffer back and say so once. */
		device_complain(d->v.dev, "a request without room for its status");
		virtq_push(s->bq->q, c->head, 0);
		s->next = s->bq->free;
		s->bq->free = s;
		return;
	}
	last = &c->iov[c->nr_out + c->nr_in - 1];
	s->status = (uint8_t *)last->iov_base + last->iov_len - 1;
	if (chain_read(c, 0, &hdr, sizeof(hdr)) != sizeof(hdr)) {
		finish(s, VIRTIO_BLK_S_IOERR);
		return;
	}
	s->type = hdr.type;
	switch (hdr.type) {
	case VIRTIO_BLK_T_IN:
		start_transfer(s, hdr.sector, true);
		break;
	case VIRTIO_BLK_T_OUT:
		start_transfer(s, hdr.sector, false);
		break;
	case VIRTIO_BLK_T_FLUSH:
		s->r.iov = NULL;
		s->r.nr_iov = 0;
		submit(s, BLOCK_FLUSH, 0, 0);
		break;
	case VIRTIO_BLK_T_GET_ID:
		start_get_id(s);
		break;
	case VIRTIO_BLK_T_DISCARD:
		start_ranges(s, VIRTIO_BLK_F_DISCARD, DISCARD_RANGES);
		break;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		start_ranges(s, VIRTIO_BLK_F_WRITE_ZEROES, ZEROES_RANGES);
		break;
	default:
		finish(s, VIRTIO_BLK_S_UNSUPP);
		break;
	}
}

/* ---- queues ---------------------------------------------------------- */

static void blk_handle(struct virtio_dev *v, struct virtq *q)
{
	struct blk *d = to_blk(v);
	struct blk_queue *bq = &d->queues[q->index];
	int r = 0;

	virtq_disable_kicks(q);
	do {
		struct blk_slot *s;

		while ((s = bq->free) && (r = virtq_pop(q, &s->c)) > 0) {
			bq->free = s->next;
			start(s);
		}
		/* A driver that offers a buffer twice has more in flight than the ring holds: later. */
		bq->starved = !bq->free;
	} while (r >= 0 && !bq->starved && virtq_enable_kicks(q));
	block_queue_submit(d->queue);
	virtq_flush(q);
	if (r < 0)
		virtio_fail(v, "queue %u: malformed descriptors", q->index);
}

/* Requests were finished: tell the drivers of their queues. */
static void blk_batch(void *arg)
{
	struct blk *d = arg;

	d->worked = true;
	for (unsigned i = 0; i < d->nr_queues; i++) {
		struct blk_queue *bq = &d->queues[i];

		virtq_flush(bq->q);
		if (bq->starved && bq->free && !d->stopping)
			blk_handle(&d->v, bq->q);
	}
}

static void blk_stop_queue(struct virtio_dev *v, struct virtq *q)
{
	struct blk *d = to_blk(v);

	d->stopping = true;
	block_queue_drain(d->queue);
	d->stopping = false;
	d->queues[q->index].starved = false;
	virtq_flush(q);
}

/* Completions that came by the eventfd keep the loop looking for more as well. */
static bool blk_poll(void *arg)
{
	struct blk *d = arg;
	bool worked = block_queue_poll(d->queue) || d->worked;

	d->worked = false;
	return worked;
}

/* ---- configuration --------------------------------------------------- */

static void blk_config_read(struct virtio_dev *v, unsigned off, void *data, unsigned len)
{
	struct blk *d = to_blk(v);
	struct virtio_blk_config c = {
		.capacity = d->capacity,
		.seg_max = MIN(v->queue_size, MAX_SEGMENTS + 2) - 2,
		.blk_size = 1u << SECTOR_SHIFT,
		.physical_block_exp = 3, /* what host file systems work with: 4 KiB */
		.wce = atomic_load(&d->writeback),
		.num_queues = (uint16_t)d->nr_queues,
		.max_discard_sectors = DISCARD_SECTORS,
		.max_discard_seg = DISCARD_RANGES,
		.discard_sector_alignment = 8,
		.max_write_zeroes_sectors = ZEROES_SECTORS,
		.max_write_zeroes_seg = ZEROES_RANGES,
		.write_zeroes_may_unmap = 1,
	};

	memcpy(data, (char *)&c + off, len);
}

static void blk_config_write(struct virtio_dev *v, unsigned off, const void *data, unsigned len)
{
	struct blk *d = to_blk(v);

	if (off == offsetof(struct virtio_blk_config, wce) && len == 1 &&
	    virtio_has(v, VIRTIO_BLK_F_CONFIG_WCE))
		atomic_store(&d->writeback, *(const uint8_t *)data & 1);
}

static int blk_start(struct virtio_dev *v)
{
	struct blk *d = to_blk(v);

	/* "Device Initialization": a driver that cannot flush gets write-through. */
	if (!virtio_has(v, VIRTIO_BLK_F_CONFIG_WCE))
		atomic_store(&d->writeback, virtio_has(v, VIRTIO_BLK_F_FLUSH));
	return 0;
}

static void blk_stop(struct virtio_dev *v)
{
	atomic_store(&to_blk(v)->writeback, true);
}

static void blk_free(struct blk *d)
{
	for (unsigned i = 0; d->queues && i < d->nr_queues; i++) {
		free(d->queues[i].slots);
		free(d->queues[i].iov);
	}
	free(d->queues);
	free(d);
}

/* Everything but the image. */
static void blk_teardown(struct blk *d)
{
	iothread_stop(&d->thread);
	if (d->polling)
		loop_poller_del(d->thread.loop, &d->poller);
	block_queue_destroy(d->queue);
	virtio_dev_fini(&d->v);
	iothread_fini(&d->thread);
	blk_free(d);
}

static void blk_destroy(struct virtio_dev *v)
{
	struct block *block = to_blk(v)->block;

	blk_teardown(to_blk(v));
	block_close(block);
}

static const struct virtio_ops blk_ops = {
	.type = "virtio-blk",
	.id = VIRTIO_ID_BLOCK,
	.config_read = blk_config_read,
	.config_write = blk_config_write,
	.start = blk_start,
	.stop = blk_stop,
	.stop_queue = blk_stop_queue,
	.handle = blk_handle,
	.destroy = blk_destroy,
};

/* ---- creation -------------------------------------------------------- */

/* The slots' memory costs nothing until it is used. */
static int blk_queue_init(struct blk *d, unsigned i)
{
	struct blk_queue *bq = &d->queues[i];
	unsigned nr = d->v.queue_size, room = nr + 2;

	bq->d = d;
	bq->q = &d->v.queues[i];
	bq->q->loop = d->thread.loop;
	bq->slots = calloc(nr, sizeof(*bq->slots));
	bq->iov = calloc((size_t)nr * room, sizeof(*bq->iov));
	if (!bq->slots || !bq->iov)
		return -ENOMEM;
	while (nr--) {
		struct blk_slot *s = &bq->slots[nr];

		s->bq = bq;
		s->c.iov = bq->iov + (size_t)nr * room;
		s->c.iov_max = room;
		s->next = bq->free;
		bq->free = s;
	}
	return 0;
}

static uint64_t blk_features(const struct blk *d)
{
	uint64_t f = BIT_ULL(VIRTIO_BLK_F_SEG_MAX) | BIT_ULL(VIRTIO_BLK_F_BLK_SIZE) |
		     BIT_ULL(VIRTIO_BLK_F_TOPOLOGY) | BIT_ULL(VIRTIO_BLK_F_FLUSH);

	if (d->nr_queues > 1)
		f |= BIT_ULL(VIRTIO_BLK_F_MQ);
	if (block_readonly(d->block))
		return f | BIT_ULL(VIRTIO_BLK_F_RO);
	return f | BIT_ULL(VIRTIO_BLK_F_CONFIG_WCE) | BIT_ULL(VIRTIO_BLK_F_DISCARD) |
	       BIT_ULL(VIRTIO_BLK_F_WRITE_ZEROES);
}

int virtio_blk_create(struct machine *m, struct pci_bus *bus, const char *name,
		      const struct blk_config *c, struct err *e)
{
	unsigned nr = c->queues ? c->queues : 1;
	uint16_t size = c->queue_size ? c->queue_size : 256;
	const char *serial = c->serial ? c->serial : name;
	struct blk *d;
	int r;

	if (nr > MAX_QUEUES)
		return err_set(e, -EINVAL, "%s: %u queues: give 1 to %u", name, nr, MAX_QUEUES);
	if (size < 4 || size > VIRTQ_MAX_SIZE || !is_pow2(size))
		return err_set(e, -EINVAL, "%s: a queue size of %u: give a power of two from 4 to %u",
			       name, size, VIRTQ_MAX_SIZE);
	if (strlen(serial) > sizeof(d->serial))
		return err_set(e, -EINVAL, "%s: the serial number \"%s\" is longer than %zu characters",
			       name, serial, sizeof(d->serial));
	d = calloc(1, sizeof(*d));
	if (!d)
		return err_set(e, -ENOMEM, "%s: no memory", name);
	d->block = c->block;
	d->capacity = block_size(c->block) >> SECTOR_SHIFT;
	d->nr_queues = nr;
	atomic_init(&d->writeback, true);
	memcpy(d->serial, serial, strlen(serial));
	r = virtio_dev_init(&d->v, m, &blk_ops, nr, size, CONFIG_LEN, &c->o);
	if (r) {
		blk_free(d);
		return err_set(e, r, "%s: %s", name, strerror(-r));
	}
	d->v.offered = blk_features(d);
	r = iothread_init(&d->thread, m, c->iothread, c->poll_ns);
	if (!r) {
		d->queues = calloc(nr, sizeof(*d->queues));
		r = d->queues ? 0 : -ENOMEM;
	}
	for (unsigned i = 0; !r && i < nr; i++)
		r = blk_queue_init(d, i);
	if (!r)
		r = block_queue_create(&d->queue, d->block, d->thread.loop);
	if (!r) {
		block_queue_set_batch(d->queue, blk_batch, d);
		if (c->iothread && c->poll_ns) {
			d->poller = (struct loop_poller){ .poll = blk_poll, .arg = d };
			loop_poller_add(d->thread.loop, &d->poller);
			d->polling = true;
		}
		r = iothread_start(&d->thread, "blk", name);
	}
	if (r)
		err_set(e, r, "%s: %s", name, strerror(-r));
	else
		r = virtio_pci_create(&d->v, bus, name, e);
	if (r)
		blk_teardown(d);
	return r;
}
