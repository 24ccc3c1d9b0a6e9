/* SPDX-License-Identifier: MIT
 * The split ring against an honest driver and against every lie it can tell.
 */
#include "../lib/ring.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <cmocka.h>

#define SIZE 8
#define DATA 0x20000ull
#define MEM  (1ull << 20)

struct fixture {
	struct machine m;
	struct virtio_dev v;
	struct virtq *q;
	struct ring r;
	struct virtq_chain c;
	struct iovec iov[16];
	unsigned calls;
};

static void count_call(void *arg, struct virtq *q)
{
	((struct fixture *)arg)->calls++;
}

static void no_config(void *arg)
{
}

static const struct virtio_transport_ops transport = { count_call, no_config };
static const struct virtio_ops ops = { .type = "dummy" };

/* Much memory has a hole at LAYOUT_RAM_LOW_MAX; what is never touched costs nothing. */
static struct fixture *make(uint64_t mem, uint16_t size)
{
	static const struct virtio_options o;
	struct fixture *f = calloc(1, sizeof(*f));
	struct err e;

	assert_int_equal(ram_create(&f->m.ram, mem, &e), 0);
	assert_int_equal(virtio_dev_init(&f->v, &f->m, &ops, 1, 1024, 0, &o), 0);
	f->v.transport = &transport;
	f->v.transport_arg = f;
	f->q = &f->v.queues[0];
	ring_init(&f->r, &f->m.ram, 0x10000, size);
	f->q->size = size;
	f->q->desc_gpa = f->r.desc_gpa;
	f->q->driver_gpa = f->r.avail_gpa;
	f->q->device_gpa = f->r.used_gpa;
	f->c = (struct virtq_chain){ .iov = f->iov, .iov_max = ARRAY_SIZE(f->iov) };
	return f;
}

static int setup(void **state)
{
	struct fixture *f = make(MEM, SIZE);

	f->v.features = BIT_ULL(VIRTIO_F_VERSION_1) | BIT_ULL(VIRTIO_RING_F_INDIRECT_DESC);
	assert_int_equal(virtq_start(f->q), 0);
	*state = f;
	return 0;
}

static int setup_event(void **state)
{
	struct fixture *f = make(MEM, SIZE);

	f->v.features = BIT_ULL(VIRTIO_F_VERSION_1) | BIT_ULL(VIRTIO_RING_F_EVENT_IDX);
	f->r.event_idx = true;
	assert_int_equal(virtq_start(f->q), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	virtq_stop(f->q);
	virtio_dev_fini(&f->v);
	virtio_dev_fini(&f->v);
	ram_destroy(&f->m.ram);
	free(f);
	return 0;
}

static int pop(struct fixture *f)
{
	return virtq_pop(f->q, &f->c);
}

/* The lie was noticed once, and then the queue is silent. */
static void expect_broken(struct fixture *f, int error)
{
	assert_int_equal(pop(f), error);
	assert_true(f->q->broken);
	assert_int_equal(pop(f), 0);
	assert_false(virtq_has_work(f->q));
	virtq_push(f->q, 0, 1);
	virtq_flush(f->q);
	assert_int_equal(f->r.used->idx, 0);
	assert_int_equal(f->calls, 0);
}

static void *data(struct fixture *f, uint64_t off)
{
	return ram_ptr(&f->m.ram, DATA + off, 1);
}

/* ---- honest ------------------------------------------------------------------ */

static void test_chain(void **state)
{
	struct fixture *f = *state;
	uint32_t id, len;
	char buf[64];

	assert_int_equal(pop(f), 0);
	memcpy(data(f, 0), "hello ", 6);
	memcpy(data(f, 100), "world", 5);
	ring_desc(&f->r, 2, DATA, 6, VRING_DESC_F_NEXT, 5);
	ring_desc(&f->r, 5, DATA + 100, 5, VRING_DESC_F_NEXT, 0);
	ring_desc(&f->r, 0, DATA + 200, 3, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 7);
	ring_desc(&f->r, 7, DATA + 300, 10, VRING_DESC_F_WRITE, 0);
	assert_true(ring_offer(&f->r, 2));
	assert_true(virtq_has_work(f->q));
	assert_int_equal(pop(f), 1);
	assert_false(virtq_has_work(f->q));
	assert_int_equal(f->c.head, 2);
	assert_int_equal(f->c.nr_out, 2);
	assert_int_equal(f->c.nr_in, 2);
	assert_int_equal(f->c.out_len, 11);
	assert_int_equal(f->c.in_len, 13);

	assert_int_equal(chain_read(&f->c, 0, buf, sizeof(buf)), 11);
	assert_memory_equal(buf, "hello world", 11);
	assert_int_equal(chain_read(&f->c, 4, buf, 4), 4);
	assert_memory_equal(buf, "o wo", 4);
	assert_int_equal(chain_read(&f->c, 11, buf, 1), 0);
	assert_int_equal(chain_read(&f->c, SIZE_MAX, buf, 1), 0);
	assert_int_equal(chain_write(&f->c, 1, "abcdef", 6), 6);
	assert_memory_equal(data(f, 201), "ab", 2);
	assert_memory_equal(data(f, 300), "cdef", 4);
	assert_int_equal(chain_write(&f->c, 12, "xyz", 3), 1);
	assert_int_equal(*(char *)data(f, 310), 0);

	virtq_push(f->q, f->c.head, 13);
	assert_false(ring_take(&f->r, &id, &len));
	virtq_flush(f->q);
	assert_true(ring_take(&f->r, &id, &len));
	assert_int_equal(id, 2);
	assert_int_equal(len, 13);
	assert_int_equal(f->calls, 1);
	virtq_flush(f->q);
	assert_int_equal(f->calls, 1);
}

static void test_zero_length(void **state)
{
	struct fixture *f = *state;

	ring_desc(&f->r, 0, DATA, 0, VRING_DESC_F_NEXT, 1);
	ring_desc(&f->r, 1, DATA, 5, VRING_DESC_F_NEXT, 2);
	ring_desc(&f->r, 2, ~0ull, 0, VRING_DESC_F_WRITE, 0); /* its address does not matter */
	ring_offer(&f->r, 0);
	assert_int_equal(pop(f), 1);
	assert_int_equal(f->c.nr_out, 1);
	assert_int_equal(f->c.nr_in, 0);
	assert_int_equal(f->c.out_len, 5);
}

static void test_unpop(void **state)
{
	struct fixture *f = *state;

	ring_add(&f->r, DATA, 4, true);
	ring_add(&f->r, DATA, 5, true);
	assert_int_equal(pop(f), 1);
	assert_int_equal(f->c.in_len, 4);
	virtq_unpop(f->q);
	assert_int_equal(pop(f), 1);
	assert_int_equal(f->c.in_len, 4);
	assert_int_equal(pop(f), 1);
	assert_int_equal(f->c.in_len, 5);
}

static unsigned indirect(struct fixture *f, unsigned nr, uint16_t last_flags)
{
	struct vring_desc *t = ram_ptr(&f->m.ram, 0x30000, 16 * nr);

	for (unsigned i = 0; i < nr; i++)
		t[i] = (struct vring_desc){ .addr = DATA + i, .len = 1,
					    .flags = i + 1 < nr ? VRING_DESC_F_NEXT : last_flags,
					    .next = (uint16_t)(i + 1) };
	ring_desc(&f->r, 0, 0x30000, 16 * nr, VRING_DESC_F_INDIRECT, 0);
	ring_offer(&f->r, 0);
	return nr;
}

static void test_indirect(void **state)
{
	struct fixture *f = *state;

	indirect(f, 12, VRING_DESC_F_WRITE); /* longer than the ring: legal */
	assert_int_equal(pop(f), 1);
	assert_int_equal(f->c.nr_out, 11);
	assert_int_equal(f->c.nr_in, 1);
	assert_int_equal(f->c.head, 0);
}

static void test_indirect_ends_a_chain(void **state)
{
	struct fixture *f = *state;
	struct vring_desc *t = ram_ptr(&f->m.ram, 0x30000, 16);

	*t = (struct vring_desc){ .addr = DATA, .len = 2, .flags = VRING_DESC_F_WRITE };
	ring_desc(&f->r, 3, DATA, 1, VRING_DESC_F_NEXT, 4);
	ring_desc(&f->r, 4, 0x30000, 16, VRING_DESC_F_INDIRECT, 0);
	ring_offer(&f->r, 3);
	assert_int_equal(pop(f), 1);
	assert_int_equal(f->c.nr_out, 1);
	assert_int_equal(f->c.nr_in, 1);
}

static void test_wraps_at_65536(void **state)
{
	struct fixture *f = *state;
	uint32_t id, len;

	for (unsigned i = 0; i < 70000; i++) {
		uint16_t head = ring_add(&f->r, DATA, 1 + i % 100, true);

		assert_int_equal(pop(f), 1);
		assert_int_equal(f->c.head, head);
		assert_int_equal(f->c.in_len, 1 + i % 100);
		virtq_push(f->q, head, i);
		virtq_flush(f->q);
		assert_true(ring_take(&f->r, &id, &len));
		assert_int_equal(id, head);
		assert_int_equal(len, i);
	}
	assert_int_equal(f->calls, 70000);
	assert_int_equal(f->q->calls, 70000);
}

static void test_full_ring(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < SIZE; i++)
		ring_add(&f->r, DATA, i + 1, false);
	for (unsigned i = 0; i < SIZE; i++) {
		assert_int_equal(pop(f), 1);
		assert_int_equal(f->c.out_len, i + 1);
	}
	assert_int_equal(pop(f), 0);
}

/* ---- calls and kicks ------------------------------------------------------------ */

static void one(struct fixture *f)
{
	ring_add(&f->r, DATA, 1, true);
	assert_int_equal(pop(f), 1);
	virtq_push(f->q, f->c.head, 1);
	virtq_flush(f->q);
}

static void test_no_interrupt_flag(void **state)
{
	struct fixture *f = *state;

	f->r.avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	one(f);
	assert_int_equal(f->calls, 0);
	assert_int_equal(f->q->calls_suppressed, 1);
	f->r.avail->flags = 0;
	one(f);
	assert_int_equal(f->calls, 1);
}

static void test_kick_flag(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(f->r.used->flags, 0);
	virtq_disable_kicks(f->q);
	assert_int_equal(f->r.used->flags, VRING_USED_F_NO_NOTIFY);
	assert_false(ring_offer(&f->r, 0));
	/* It came meanwhile: the device must look again. */
	assert_true(virtq_enable_kicks(f->q));
	assert_int_equal(f->r.used->flags, 0);
	assert_int_equal(pop(f), 1);
	assert_false(virtq_enable_kicks(f->q));
	assert_true(ring_offer(&f->r, 0));
}

static void test_event_idx_calls(void **state)
{
	struct fixture *f = *state;
	unsigned expected = 0;

	/* The driver asks for a call each third request, over the wrap of the index. */
	for (unsigned i = 0; i < 3 * 23000; i++) {
		if (i % 3 == 0)
			f->r.avail->ring[SIZE] = (uint16_t)(i + 2);
		one(f);
		expected += i % 3 == 2;
		assert_int_equal(f->calls, expected);
	}
	assert_int_equal(f->q->calls_suppressed, 2 * f->q->calls);
	/* Several in one flush that step over the wish: one call. */
	f->r.avail->ring[SIZE] = f->q->next_used + 1;
	for (unsigned i = 0; i < 4; i++) {
		ring_add(&f->r, DATA, 1, true);
		assert_int_equal(pop(f), 1);
		virtq_push(f->q, f->c.head, 1);
	}
	virtq_flush(f->q);
	assert_int_equal(f->calls, expected + 1);
	/* The wish lies behind: no call, whatever the flag says. */
	f->r.avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	one(f);
	assert_int_equal(f->calls, expected + 1);
	f->r.avail->ring[SIZE] = f->q->next_used;
	one(f);
	assert_int_equal(f->calls, expected + 2);
}

static void test_event_idx_kicks(void **state)
{
	struct fixture *f = *state;
	unsigned kicks = 0;

	/* From the start the driver is to kick for the first; then not until asked again. */
	for (unsigned round = 0; round < 20000; round++) {
		for (unsigned i = 0; i < 4; i++) {
			ring_desc(&f->r, i, DATA, 1, 0, 0);
			kicks += ring_offer(&f->r, (uint16_t)i);
		}
		assert_int_equal(kicks, round + 1);
		virtq_disable_kicks(f->q);
		for (unsigned i = 0; i < 4; i++) {
			assert_int_equal(pop(f), 1);
			virtq_push(f->q, f->c.head, 0);
		}
		assert_false(virtq_enable_kicks(f->q));
	}
	assert_int_equal(f->r.used->flags, 0);
}

static void test_deferred_kicks(void **state)
{
	struct fixture *f = *state;

	f->q->defer_kicks = true;
	virtq_disable_kicks(f->q);
	assert_false(virtq_enable_kicks(f->q));
	/* Not told yet, so no kick; but the loop finds the work before it sleeps. */
	assert_int_equal(f->r.used->flags, VRING_USED_F_NO_NOTIFY);
	assert_false(ring_offer(&f->r, 0));
	assert_true(virtq_wants_handle(f->q));
	assert_true(virtq_settle_kicks(f->q));
	assert_int_equal(f->r.used->flags, 0);
	assert_int_equal(pop(f), 1);
	f->q->looked_avail = f->q->next_avail;
	assert_false(virtq_settle_kicks(f->q));
	/* A device that wants none is left alone, work or not. */
	virtq_disable_kicks(f->q);
	ring_offer(&f->r, 0);
	assert_false(virtq_wants_handle(f->q));
	assert_false(virtq_settle_kicks(f->q));
	assert_int_equal(f->r.used->flags, VRING_USED_F_NO_NOTIFY);
}

static void test_budget(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 3; i++)
		ring_add(&f->r, DATA, 1, false);
	f->q->in_handle = true;
	f->q->budget = 2;
	assert_int_equal(pop(f), 1);
	assert_int_equal(pop(f), 1);
	assert_int_equal(pop(f), 0);
	assert_false(virtq_has_work(f->q));
	assert_false(virtq_enable_kicks(f->q));
	virtq_unpop(f->q);
	assert_int_equal(pop(f), 1);
	f->q->in_handle = false;
	assert_int_equal(pop(f), 1);
}

/* ---- lies --------------------------------------------------------------------------- */

static void test_head_out_of_range(void **state)
{
	struct fixture *f = *state;

	ring_offer(&f->r, SIZE);
	expect_broken(f, -EINVAL);
}

static void test_index_jump(void **state)
{
	struct fixture *f = *state;

	f->r.avail->idx = SIZE + 1;
	expect_broken(f, -EINVAL);
}

static void test_index_backwards(void **state)
{
	struct fixture *f = *state;

	f->r.avail->idx = (uint16_t)-1;
	expect_broken(f, -EINVAL);
}

/* CVE-2016-5403: requests offered over and over while the device still has them. */
static void test_more_in_flight_than_entries(void **state)
{
	struct fixture *f = *state;

	ring_desc(&f->r, 0, DATA, 1, 0, 0);
	for (unsigned i = 0; i < SIZE; i++)
		ring_offer(&f->r, 0);
	for (unsigned i = 0; i < SIZE; i++)
		assert_int_equal(pop(f), 1);
	ring_offer(&f->r, 0);
	expect_broken(f, -EINVAL);
}

static void test_loop(void **state)
{
	struct fixture *f = *state;

	ring_desc(&f->r, 0, DATA, 0, VRING_DESC_F_NEXT, 1);
	ring_desc(&f->r, 1, DATA, 0, VRING_DESC_F_NEXT, 0);
	ring_offer(&f->r, 0);
	expect_broken(f, -EINVAL);
}

static void test_self_loop(void **state)
{
	struct fixture *f = *state;

	ring_desc(&f->r, 0, DATA, 1, VRING_DESC_F_NEXT, 0);
	ring_offer(&f->r, 0);
	expect_broken(f, -EINVAL);
}

static void test_next_out_of_range(void **state)
{
	struct fixture *f = *state;

	ring_desc(&f->r, 0, DATA, 1, VRING_DESC_F_NEXT, SIZE);
	ring_offer(&f->r, 0);
	expect_broken(f, -EINVAL);
}

static void test_readable_after_writable(void **state)
{
	struct fixture *f = *state;

	ring_desc(&f->r, 0, DATA, 1, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1);
	ring_desc(&f->r, 1, DATA, 1, 0, 0);
	ring_offer(&f->r, 0);
	expect_broken(f, -EINVAL);
}

static void test_outside_ram(void **state)
{
	struct fixture *f = *state;

	ring_add(&f->r, MEM, 1, false);
	expect_broken(f, -EFAULT);
}

static void test_over_the_end(void **state)
{
	struct fixture *f = *state;

	ring_add(&f->r, MEM - 10, 11, false);
	expect_broken(f, -EFAULT);
}

static void test_address_wraps(void **state)
{
	struct fixture *f = *state;

	ring_add(&f->r, UINT64_MAX - 3, 16, true);
	expect_broken(f, -EFAULT);
}

static void test_too_many_segments(void **state)
{
	struct fixture *f = *state;

	indirect(f, 17, 0);
	expect_broken(f, -EINVAL);
}

static void test_nested_indirect(void **state)
{
	struct fixture *f = *state;

	struct vring_desc *t = ram_ptr(&f->m.ram, 0x30000, 16), *inner = ram_ptr(&f->m.ram, 0x31000, 16);

	/* Each table is fine by itself. */
	*inner = (struct vring_desc){ .addr = DATA, .len = 1 };
	*t = (struct vring_desc){ .addr = 0x31000, .len = 16, .flags = VRING_DESC_F_INDIRECT };
	ring_desc(&f->r, 0, 0x30000, 16, VRING_DESC_F_INDIRECT, 0);
	ring_offer(&f->r, 0);
	expect_broken(f, -EINVAL);
}

static void test_indirect_with_next(void **state)
{
	struct fixture *f = *state;

	ring_desc(&f->r, 0, 0x30000, 16, VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT, 1);
	ring_offer(&f->r, 0);
	expect_broken(f, -EINVAL);
}

static void test_indirect_odd_length(void **state)
{
	struct fixture *f = *state;

	ring_desc(&f->r, 0, 0x30000, 24, VRING_DESC_F_INDIRECT, 0);
	ring_offer(&f->r, 0);
	expect_broken(f, -EINVAL);
}

static void test_indirect_empty(void **state)
{
	struct fixture *f = *state;

	ring_desc(&f->r, 0, 0x30000, 0, VRING_DESC_F_INDIRECT, 0);
	ring_offer(&f->r, 0);
	expect_broken(f, -EINVAL);
}

static void test_indirect_huge(void **state)
{
	struct fixture *f = *state;

	ring_desc(&f->r, 0, 0x30000, 16 * (VIRTQ_MAX_SIZE + 1), VRING_DESC_F_INDIRECT, 0);
	ring_offer(&f->r, 0);
	expect_broken(f, -EINVAL);
}

static void test_indirect_outside_ram(void **state)
{
	struct fixture *f = *state;

	ring_desc(&f->r, 0, MEM - 16, 32, VRING_DESC_F_INDIRECT, 0);
	ring_offer(&f->r, 0);
	expect_broken(f, -EFAULT);
}

static void test_indirect_loop(void **state)
{
	struct fixture *f = *state;
	struct vring_desc *t = ram_ptr(&f->m.ram, 0x30000, 32);

	t[0] = (struct vring_desc){ .flags = VRING_DESC_F_NEXT, .next = 1 };
	t[1] = (struct vring_desc){ .flags = VRING_DESC_F_NEXT, .next = 0 };
	ring_desc(&f->r, 0, 0x30000, 32, VRING_DESC_F_INDIRECT, 0);
	ring_offer(&f->r, 0);
	expect_broken(f, -EINVAL);
}

static void test_indirect_next_out_of_range(void **state)
{
	struct fixture *f = *state;

	indirect(f, 2, VRING_DESC_F_NEXT);
	expect_broken(f, -EINVAL);
}

static void test_indirect_not_negotiated(void **state)
{
	struct fixture *f = *state;

	f->v.features &= ~BIT_ULL(VIRTIO_RING_F_INDIRECT_DESC);
	indirect(f, 1, 0);
	expect_broken(f, -EINVAL);
}

/* Two segments of 2 GiB and a bit: each is in RAM, their sum is not in 32 bits. */
static void test_total_overflows(void **state)
{
	struct fixture *f = make(0xa0000000ull, SIZE);

	f->v.features = BIT_ULL(VIRTIO_F_VERSION_1);
	assert_int_equal(virtq_start(f->q), 0);
	ring_desc(&f->r, 0, 0x100000, 0x90000000u, VRING_DESC_F_NEXT, 1);
	ring_desc(&f->r, 1, 0x100000, 0x90000000u, 0, 0);
	ring_offer(&f->r, 0);
	expect_broken(f, -EINVAL);
	teardown((void **)&f);
}

static void test_straddles_the_hole(void **state)
{
	struct fixture *f = make(LAYOUT_RAM_LOW_MAX + (1 << 20), SIZE);

	f->v.features = BIT_ULL(VIRTIO_F_VERSION_1);
	assert_int_equal(virtq_start(f->q), 0);
	/* Up to the hole and from behind it: fine, and the hole's two sides are apart in the guest. */
	ring_add(&f->r, LAYOUT_RAM_LOW_MAX - 16, 16, false);
	ring_add(&f->r, LAYOUT_RAM_HIGH, 16, false);
	assert_int_equal(pop(f), 1);
	assert_int_equal(f->c.iov[0].iov_len, 16);
	assert_int_equal(pop(f), 1);
	ring_add(&f->r, LAYOUT_RAM_LOW_MAX - 16, 17, false);
	assert_int_equal(pop(f), -EFAULT);
	teardown((void **)&f);
}

static void test_start_checks(void **state)
{
	struct fixture *f = *state;
	struct virtq *q = f->q;
	uint64_t *const gpa[] = { &q->desc_gpa, &q->driver_gpa, &q->device_gpa };
	static const uint64_t odd[] = { 8, 1, 2 };

	virtq_stop(q);
	for (unsigned i = 0; i < 3; i++) {
		uint64_t good = *gpa[i];

		*gpa[i] = MEM;
		assert_int_equal(virtq_start(q), -EFAULT);
		*gpa[i] = MEM - 64; /* begins in RAM only */
		assert_int_equal(virtq_start(q), i == 1 ? 0 : -EFAULT);
		virtq_stop(q);
		*gpa[i] = -16ull;
		assert_int_equal(virtq_start(q), -EFAULT);
		*gpa[i] = good + odd[i];
		assert_int_equal(virtq_start(q), -EINVAL);
		*gpa[i] = good;
	}
	q->size = 0;
	assert_int_equal(virtq_start(q), -EINVAL);
	q->size = 12;
	assert_int_equal(virtq_start(q), -EINVAL);
	q->size = 2048;
	assert_int_equal(virtq_start(q), -EINVAL);
	q->size = SIZE;
	assert_false(q->started);
	assert_int_equal(pop(f), 0);
	virtq_disable_kicks(q);
	assert_false(virtq_enable_kicks(q));
	virtq_push(q, 0, 0);
	virtq_flush(q);
	assert_int_equal(virtq_start(q), 0);
}

static void test_failed_device_is_silent(void **state)
{
	struct fixture *f = *state;

	ring_add(&f->r, DATA, 1, true);
	assert_int_equal(pop(f), 1);
	virtio_fail(&f->v, "test");
	virtq_push(f->q, f->c.head, 1);
	virtq_flush(f->q);
	assert_int_equal(f->r.used->idx, 0);
	assert_int_equal(f->calls, 0);
}

/* Pause and resume: positions stay, nothing is lost or done twice. */
static void test_stop_and_start(void **state)
{
	struct fixture *f = *state;
	uint32_t id, len;

	one(f);
	ring_add(&f->r, DATA, 7, true);
	virtq_stop(f->q);
	assert_int_equal(virtq_start(f->q), 0);
	assert_int_equal(pop(f), 1);
	assert_int_equal(f->c.in_len, 7);
	virtq_push(f->q, f->c.head, 7);
	virtq_flush(f->q);
	assert_true(ring_take(&f->r, &id, &len));
	assert_true(ring_take(&f->r, &id, &len));
	assert_int_equal(len, 7);
	assert_false(ring_take(&f->r, &id, &len));
}

/* Whatever the ring holds: pop() ends, and every segment it gives is in RAM. */
static void test_random_rings(void **state)
{
	struct fixture *f = *state;
	uint64_t x = 88172645463325252ull;
	uint8_t *ring = (uint8_t *)f->r.desc;

	for (unsigned round = 0; round < 20000; round++) {
		for (unsigned i = 0; i < 16 * SIZE + 6 + 2 * SIZE; i++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			ring[i] = (uint8_t)(i % 16 < 8 && i % 16 >= 2 ? 0 : x & (i % 3 ? 0x0f : 0xff));
		}
		f->r.avail->idx = f->q->next_avail + (x & 1);
		f->q->broken = false;
		if (pop(f) == 1) {
			for (int i = 0; i < f->c.nr_out + f->c.nr_in; i++) {
				uint8_t *p = f->c.iov[i].iov_base;

				assert_true(p >= f->m.ram.host);
				assert_true(p + f->c.iov[i].iov_len <= f->m.ram.host + MEM);
			}
		}
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define E(f) cmocka_unit_test_setup_teardown(f, setup_event, teardown)
	const struct CMUnitTest tests[] = {
		T(test_chain), T(test_zero_length), T(test_unpop), T(test_indirect),
		T(test_indirect_ends_a_chain), T(test_wraps_at_65536), T(test_full_ring),
		T(test_no_interrupt_flag), T(test_kick_flag), E(test_event_idx_calls),
		E(test_event_idx_kicks), T(test_deferred_kicks), T(test_budget),
		T(test_head_out_of_range), T(test_index_jump), T(test_index_backwards),
		T(test_more_in_flight_than_entries),
		T(test_loop), T(test_self_loop), T(test_next_out_of_range),
		T(test_readable_after_writable), T(test_outside_ram), T(test_over_the_end),
		T(test_address_wraps), T(test_too_many_segments), T(test_nested_indirect),
		T(test_indirect_with_next), T(test_indirect_odd_length), T(test_indirect_empty),
		T(test_indirect_huge), T(test_indirect_outside_ram), T(test_indirect_loop),
		T(test_indirect_next_out_of_range), T(test_indirect_not_negotiated),
		cmocka_unit_test(test_total_overflows), cmocka_unit_test(test_straddles_the_hole),
		T(test_start_checks), T(test_failed_device_is_silent), T(test_stop_and_start),
		T(test_random_rings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
