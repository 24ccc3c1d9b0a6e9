/* SPDX-License-Identifier: MIT
 * The device's side of a split ring: guest memory, where the rings lie and what
 * the device does next all come from the input, and the driver goes on writing
 * between two pops. What a chain hands out must lie within the guest's RAM.
 */
#include "fuzz.h"
#include "virtio/virtio.h"
#include <linux/virtio_pci.h>

#define MEM      (64u << 10)
#define SEGMENTS 24

struct bed {
	struct machine m;
	struct virtio_dev v;
	struct virtq_chain c;
	struct iovec iov[SEGMENTS];
};

static void call(void *arg, struct virtq *q)
{
}

static void no_config(void *arg)
{
}

static const struct virtio_transport_ops transport = { call, no_config };
static const struct virtio_ops ops = { .type = "fuzz" };

/* Bytes of the input somewhere into the guest's memory. */
static void scribble(struct bed *b, struct feed *f)
{
	gpa_t at = feed_u16(f);
	unsigned len = feed_u8(f);
	uint8_t buf[255];

	feed_bytes(f, buf, len);
	(void)!ram_write(&b->m.ram, at, buf, MIN(len, MEM - at));
}

/* One field of a ring, so that the fuzzer need not find its address. */
static void lie(struct bed *b, struct feed *f)
{
	const struct virtq *q = &b->v.queues[0];
	unsigned i = feed_below(f, 16);
	uint16_t v = feed_u16(f);
	struct vring_desc d;

	switch (feed_below(f, 5)) {
	case 0:
		(void)!ram_write(&b->m.ram, q->driver_gpa + 2, &v, 2); /* the index */
		break;
	case 1:
		(void)!ram_write(&b->m.ram, q->driver_gpa + 4 + 2 * i, &v, 2);
		break;
	case 2:
		(void)!ram_write(&b->m.ram, q->driver_gpa, &v, 2); /* flags */
		break;
	case 3:
		d = (struct vring_desc){ .addr = v, .len = feed_u16(f), .flags = feed_u8(f) & 7,
					 .next = feed_below(f, 20) };
		(void)!ram_write(&b->m.ram, q->desc_gpa + 16 * i, &d, 16);
		break;
	default:
		d = (struct vring_desc){ .addr = feed_u64(f), .len = feed_u32(f),
					 .flags = feed_u16(f), .next = v };
		(void)!ram_write(&b->m.ram, q->desc_gpa + 16 * i, &d, 16);
	}
}

/* Every link of the chain stays in its table. A link out of it may well find RAM there. */
static void check_links(const struct bed *b)
{
	const struct virtq *q = &b->v.queues[0];
	gpa_t table = q->desc_gpa;
	unsigned i = b->c.head, nr = q->size;
	struct vring_desc d;

	for (unsigned steps = 0;; steps++) {
		FUZZ_CHECK(i < nr && steps <= q->size + 1024u, "descriptor %u of %u", i, nr);
		if (ram_read(&b->m.ram, table + 16ull * i, &d, sizeof(d)))
			FUZZ_CHECK(false, "a table outside of RAM");
		if (d.flags & VRING_DESC_F_INDIRECT) {
			table = d.addr;
			nr = d.len / 16;
			i = 0;
			continue;
		}
		if (!(d.flags & VRING_DESC_F_NEXT))
			return;
		i = d.next;
	}
}

static void check_chain(const struct bed *b)
{
	const struct virtq_chain *c = &b->c;
	uint64_t sum[2] = { 0, 0 };

	FUZZ_CHECK(c->head < b->v.queues[0].size, "head %u", c->head);
	FUZZ_CHECK(c->nr_out + c->nr_in <= SEGMENTS, "%u + %u segments", c->nr_out, c->nr_in);
	for (unsigned i = 0; i < c->nr_out + c->nr_in; i++) {
		uint64_t off = (uint64_t)((uint8_t *)c->iov[i].iov_base - b->m.ram.host);

		FUZZ_CHECK(range_within(off, c->iov[i].iov_len, b->m.ram.size), "segment %u", i);
		sum[i >= c->nr_out] += c->iov[i].iov_len;
	}
	FUZZ_CHECK(sum[0] == c->out_len && sum[1] == c->in_len, "lengths");
}

static void pop(struct bed *b, struct feed *f)
{
	struct virtq *q = &b->v.queues[0];
	uint8_t buf[300] = { 0 };
	size_t off, n;
	int r;

	r = virtq_pop(q, &b->c);
	FUZZ_CHECK(r == 0 || r == 1 || r == -EINVAL || r == -EFAULT, "virtq_pop gave %d", r);
	if (r < 0) {
		FUZZ_CHECK(virtq_pop(q, &b->c) == 0, "a broken queue goes on");
		FUZZ_CHECK(!virtq_has_work(q), "a broken queue has work");
	}
	if (r != 1)
		return;
	check_links(b);
	check_chain(b);
	off = feed_u16(f);
	n = chain_read(&b->c, off, buf, sizeof(buf));
	FUZZ_CHECK(n == MIN(sizeof(buf), b->c.out_len > off ? b->c.out_len - off : 0), "read %zu", n);
	n = chain_write(&b->c, off, buf, sizeof(buf));
	FUZZ_CHECK(n == MIN(sizeof(buf), b->c.in_len > off ? b->c.in_len - off : 0), "wrote %zu", n);
	switch (feed_below(f, 4)) {
	case 0:
		virtq_unpop(q);
		break;
	case 1:
		break;
	default:
		virtq_push(q, b->c.head, feed_u32(f));
	}
}

static int set_up(struct bed *b, struct feed *f)
{
	static const struct virtio_options o;
	struct virtq *q;
	struct err e;

	if (ram_create(&b->m.ram, MEM, &e))
		return -1;
	if (virtio_dev_init(&b->v, &b->m, &ops, 1, 1024, 0, &o)) {
		ram_destroy(&b->m.ram);
		return -1;
	}
	b->v.transport = &transport;
	b->v.features = BIT_ULL(VIRTIO_F_VERSION_1);
	if (feed_u8(f) & 1)
		b->v.features |= BIT_ULL(VIRTIO_RING_F_INDIRECT_DESC);
	if (feed_u8(f) & 1)
		b->v.features |= BIT_ULL(VIRTIO_RING_F_EVENT_IDX);
	b->c = (struct virtq_chain){ .iov = b->iov, .iov_max = feed_below(f, SEGMENTS + 1) };
	q = &b->v.queues[0];
	q->size = feed_u8(f) & 1 ? feed_u16(f) : 8;
	q->desc_gpa = 0x1000;
	q->driver_gpa = 0x1100;
	q->device_gpa = 0x1200;
	if (feed_u8(f) & 1) {
		q->desc_gpa = feed_u32(f);
		q->driver_gpa = feed_u16(f);
		q->device_gpa = feed_u16(f);
	}
	if (feed_u8(f) & 1)
		q->next_avail = q->next_used = feed_u16(f);
	return 0;
}

static void step(struct bed *b, struct feed *f)
{
	struct virtq *q = &b->v.queues[0];

	switch (feed_below(f, 10)) {
	case 0:
		scribble(b, f);
		break;
	case 1:
	case 2:
	case 3:
		lie(b, f);
		break;
	case 4:
	case 5:
	case 6:
		pop(b, f);
		break;
	case 7:
		virtq_flush(q);
		break;
	case 8:
		virtq_disable_kicks(q);
		break;
	default:
		if (virtq_enable_kicks(q))
			FUZZ_CHECK(virtq_has_work(q), "work that is not there");
		(void)!virtq_settle_kicks(q);
		(void)virtq_wants_handle(q);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct feed f = { data, size };
	struct bed b = { .m = { .exit_code = 0 } };
	int r;

	if (set_up(&b, &f))
		return 0;
	scribble(&b, &f);
	r = virtq_start(&b.v.queues[0]);
	FUZZ_CHECK(r == 0 || r == -EINVAL || r == -EFAULT, "virtq_start gave %d", r);
	while (f.left && !r)
		step(&b, &f);
	virtq_stop(&b.v.queues[0]);
	virtio_dev_fini(&b.v);
	ram_destroy(&b.m.ram);
	return 0;
}
