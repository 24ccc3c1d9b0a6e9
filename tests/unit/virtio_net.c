/* SPDX-License-Identifier: MIT
 * virtio-net between a driver made for the test and a backend made for it;
 * once also with libslirp behind it, on a thread of its own.
 */
#include "../lib/check.h"
#include "../lib/virtio_driver.h"
#include "backend/net_priv.h"
#include "virtio/devices.h"
#include <linux/virtio_net.h>
#include <stdlib.h>

#define ALL UINT64_MAX
#define MRG BIT_ULL(VIRTIO_NET_F_MRG_RXBUF)
#define RX  0
#define TX  1

/* ---- a backend that records ------------------------------------------ */

struct wire {
	struct net net;
	uint8_t sent[70000];
	size_t sent_len;
	unsigned nr_sent, resumes;
	int answer; /* of send */
	bool destroyed;
};

static int wire_send(struct net *n, const struct iovec *iov, int nr, size_t len)
{
	struct wire *w = container_of(n, struct wire, net);

	if (w->answer)
		return w->answer;
	w->sent_len = 0;
	for (int i = 0; i < nr; i++) {
		memcpy(w->sent + w->sent_len, iov[i].iov_base, iov[i].iov_len);
		w->sent_len += iov[i].iov_len;
	}
	assert_int_equal(w->sent_len, len);
	w->nr_sent++;
	return 0;
}

static void wire_resume(struct net *n)
{
	container_of(n, struct wire, net)->resumes++;
}

static void wire_flush(struct net *n)
{
}

static void wire_destroy(struct net *n)
{
	container_of(n, struct wire, net)->destroyed = true;
}

static const struct net_ops wire_ops = {
	.send = wire_send, .resume = wire_resume, .flush = wire_flush, .destroy = wire_destroy,
};

static int wire_create(struct net **out, struct loop *l, void *arg, struct err *e)
{
	struct wire *w = arg;

	*w = (struct wire){ .net = { .ops = &wire_ops, .loop = l } };
	*out = &w->net;
	return 0;
}

/* ---- the bed --------------------------------------------------------- */

struct bed {
	struct pci_guest *g;
	struct virtio_driver d;
	struct wire w;
	gpa_t buf; /* receive buffers, 64 KiB apart; transmit after them */
};

static const uint8_t mac[6] = { 0x52, 0x54, 0, 0xaa, 0xbb, 0xcc };

static void bed_create(struct bed *b, bool transitional)
{
	struct net_config c = { .create = wire_create, .arg = &b->w, .o.transitional = transitional };
	struct err e = { "" };

	memset(b, 0, sizeof(*b));
	memcpy(c.mac, mac, 6);
	b->g = pci_guest_create(64 << 20);
	if (virtio_net_create(b->g->m, b->g->bus, "net0", &c, &e))
		fail_msg("%s", e.text);
	driver_open(&b->d, b->g, 1);
}

static void bed_open(struct bed *b, uint64_t features)
{
	bed_create(b, false);
	driver_start(&b->d, features, 2, 64);
	b->buf = driver_alloc(&b->d, 32 << 16);
}

static void bed_close(struct bed *b)
{
	pci_guest_destroy(b->g);
	assert_true(b->w.destroyed);
}

static gpa_t buffer(struct bed *b, unsigned i)
{
	return b->buf + ((uint64_t)i << 16);
}

static void give(struct bed *b, unsigned i, uint32_t len)
{
	struct segment s = { buffer(b, i), len, true };

	driver_add(&b->d, RX, &s, 1);
}

/* A frame comes in; whether the device took it. */
static bool arrive(struct bed *b, size_t len, unsigned seed)
{
	uint8_t *f = malloc(len);
	bool taken;

	for (size_t i = 0; i < len; i++)
		f[i] = (uint8_t)(i * 7 + seed);
	taken = net_deliver(&b->w.net, f, len);
	free(f);
	return taken;
}

static void check_data(struct bed *b, gpa_t at, size_t from, size_t len, unsigned seed)
{
	const uint8_t *p = driver_mem(&b->d, at, len);

	for (size_t i = 0; i < len; i++)
		assert_int_equal(p[i], (uint8_t)((from + i) * 7 + seed));
}

/* ---- tests ----------------------------------------------------------- */

static void test_config(void **state)
{
	struct bed b;

	bed_open(&b, ALL);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(driver_config(&b.d, i, 1), mac[i]);
	assert_int_equal(driver_config(&b.d, 6, 2), VIRTIO_NET_S_LINK_UP);
	/* What we could not do right is not offered. */
	assert_int_equal(driver_offered(&b.d) & (BIT_ULL(VIRTIO_NET_F_CSUM) |
			 BIT_ULL(VIRTIO_NET_F_GUEST_TSO4) | BIT_ULL(VIRTIO_NET_F_HOST_TSO4) |
			 BIT_ULL(VIRTIO_NET_F_CTRL_VQ) | BIT_ULL(VIRTIO_NET_F_MQ)), 0);
	bed_close(&b);
}

static void test_receive(void **state)
{
	for (unsigned merge = 0; merge < 2; merge++) {
		struct bed b;
		uint16_t head;

		bed_open(&b, merge ? ALL : ~MRG);
		give(&b, 0, 1526);
		give(&b, 1, 1526);
		driver_kick(&b.d, RX);
		driver_idle(&b.d, 2);
		memset(driver_mem(&b.d, buffer(&b, 0), 12), 0xff, 12);
		assert_true(arrive(&b, 60, 1));
		assert_true(arrive(&b, 1514, 2));
		assert_true(driver_wait(&b.d, RX, 2));
		assert_int_equal(driver_take(&b.d, RX, &head), 72);
		assert_int_equal(head, 0);
		static const uint8_t hdr[12] = { [10] = 1 };
		assert_memory_equal(driver_mem(&b.d, buffer(&b, 0), 12), hdr, 12);
		check_data(&b, buffer(&b, 0) + 12, 0, 60, 1);
		assert_int_equal(driver_take(&b.d, RX, &head), 1526);
		check_data(&b, buffer(&b, 1) + 12, 0, 1514, 2);
		bed_close(&b);
	}
}

static void test_merged(void **state)
{
	struct bed b;

	bed_open(&b, ALL);
	for (unsigned i = 0; i < 3; i++)
		give(&b, i, 1000);
	driver_kick(&b.d, RX);
	driver_idle(&b.d, 2);
	assert_true(arrive(&b, 2500, 3));
	assert_true(driver_wait(&b.d, RX, 3));
	assert_int_equal(driver_take(&b.d, RX, NULL), 1000);
	assert_int_equal(driver_take(&b.d, RX, NULL), 1000);
	assert_int_equal(driver_take(&b.d, RX, NULL), 512);
	assert_int_equal(load_le16((uint8_t *)driver_mem(&b.d, buffer(&b, 0), 12) + 10), 3);
	check_data(&b, buffer(&b, 0) + 12, 0, 988, 3);
	check_data(&b, buffer(&b, 1), 988, 1000, 3);
	check_data(&b, buffer(&b, 2), 1988, 512, 3);
	bed_close(&b);
}

/* No buffer, or too few: the frame waits until the driver kicks, and is not lost. */
/* Would a driver kick for one buffer more ("Driver Notification Suppression")? */
static bool would_kick(struct bed *b, unsigned queue)
{
	const struct driver_queue *q = &b->d.q[queue];
	uint16_t event = load_le16(driver_mem(&b->d, q->device + 4 + 8 * (gpa_t)q->size, 2));

	return vring_need_event(event, (uint16_t)(q->avail + 1), q->avail);
}

static void test_no_room(void **state)
{
	struct bed b;
	unsigned before;

	bed_open(&b, ALL);
	driver_idle(&b.d, 2);
	assert_false(arrive(&b, 60, 1));
	before = b.w.resumes;
	give(&b, 0, 1000);
	driver_kick(&b.d, RX);
	for (int i = 0; i < 100 && b.w.resumes == before; i++)
		driver_idle(&b.d, 1);
	assert_true(b.w.resumes > before);
	assert_true(arrive(&b, 60, 1));
	assert_true(driver_wait(&b.d, RX, 1));
	driver_take(&b.d, RX, NULL);
	/* Two of three. */
	give(&b, 1, 1000);
	give(&b, 2, 1000);
	driver_kick(&b.d, RX);
	driver_idle(&b.d, 2);
	assert_false(arrive(&b, 2500, 5));
	driver_idle(&b.d, 2);
	assert_false(arrive(&b, 2500, 5));
	assert_int_equal(driver_used(&b.d, RX), 0);
	/* The two stay in the ring, but it is a third that is waited for. */
	for (int i = 0; i < 10; i++)
		driver_idle(&b.d, 1);
	assert_true(would_kick(&b, RX));
	before = b.w.resumes;
	give(&b, 3, 1000);
	driver_kick(&b.d, RX);
	for (int i = 0; i < 100 && b.w.resumes == before; i++)
		driver_idle(&b.d, 1);
	assert_true(b.w.resumes > before);
	assert_true(arrive(&b, 2500, 5));
	assert_true(driver_wait(&b.d, RX, 3));
	check_data(&b, buffer(&b, 2), 988, 1000, 5);
	bed_close(&b);
}

static void test_too_long(void **state)
{
	struct bed b;

	/* One buffer is all a frame can have. */
	bed_open(&b, ~MRG);
	give(&b, 0, 1526);
	driver_kick(&b.d, RX);
	driver_idle(&b.d, 2);
	assert_true(arrive(&b, 1515, 1)); /* taken, and thrown away */
	driver_idle(&b.d, 2);
	assert_int_equal(driver_used(&b.d, RX), 0);
	assert_true(arrive(&b, 1514, 2));
	assert_true(driver_wait(&b.d, RX, 1));
	check_data(&b, buffer(&b, 0) + 12, 0, 1514, 2);
	bed_close(&b);
	/* More buffers than the ring has. */
	bed_open(&b, ALL);
	for (unsigned i = 0; i < 64; i++) {
		struct segment s = { buffer(&b, 0) + i * 16, 16, true };
		driver_add(&b.d, RX, &s, 1);
	}
	driver_kick(&b.d, RX);
	driver_idle(&b.d, 2);
	assert_true(arrive(&b, 1500, 1));
	assert_true(arrive(&b, 60, 1));
	assert_true(driver_wait(&b.d, RX, 5));
	assert_int_equal(driver_used(&b.d, RX), 5);
	bed_close(&b);
}

static void test_bad_buffers(void **state)
{
	struct bed b;
	struct segment outside = { 1ull << 50, 100, true }, wrong_way = { 1 << 20, 2000, false };

	bed_open(&b, ALL);
	give(&b, 0, 11); /* not even the header */
	driver_kick(&b.d, RX);
	driver_idle(&b.d, 2);
	assert_true(arrive(&b, 60, 1));
	assert_true(driver_wait_broken(&b.d));
	(void)!arrive(&b, 60, 1); /* and nothing more happens */
	driver_start(&b.d, ALL, 2, 64);
	driver_add(&b.d, RX, &wrong_way, 1);
	driver_kick(&b.d, RX);
	driver_idle(&b.d, 2);
	assert_true(arrive(&b, 60, 1));
	assert_true(driver_wait_broken(&b.d));
	driver_start(&b.d, ALL, 2, 64);
	driver_add(&b.d, TX, &outside, 1);
	driver_kick(&b.d, TX);
	assert_true(driver_wait_broken(&b.d));
	assert_int_equal(b.w.nr_sent, 0);
	bed_close(&b);
}

/*
 * CVE-2021-3748: a frame over several buffers, one of which is not in memory, when the
 * header with their number is in one that has been given up.
 */
static void test_bad_merged_buffer(void **state)
{
	static const struct segment bad[] = {
		{ 1ull << 50, 1000, true }, { 0xfee00000, 1000, true }, { UINT64_MAX - 500, 1000, true },
	};
	struct bed b;

	bed_open(&b, ALL);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		uint8_t *first = driver_mem(&b.d, buffer(&b, 0), 1000);

		memset(first, 0x5a, 1000);
		give(&b, 0, 1000);
		driver_add(&b.d, RX, &bad[i], 1);
		give(&b, 2, 1000);
		driver_kick(&b.d, RX);
		driver_idle(&b.d, 2);
		(void)!arrive(&b, 2500, 3);
		assert_true(driver_wait_broken(&b.d));
		assert_int_equal(driver_used(&b.d, RX), 0);
		driver_start(&b.d, ALL, 2, 64);
	}
	/* And it works as ever. */
	give(&b, 0, 1000);
	driver_kick(&b.d, RX);
	driver_idle(&b.d, 2);
	assert_true(arrive(&b, 60, 1));
	assert_true(driver_wait(&b.d, RX, 1));
	bed_close(&b);
}

static void test_transmit(void **state)
{
	struct bed b;
	uint8_t *p;

	bed_open(&b, ALL);
	p = driver_mem(&b.d, buffer(&b, 0), 1 << 16);
	for (unsigned i = 0; i < 1 << 16; i++)
		p[i] = (uint8_t)((i - 12) * 7 + 9);
	/* Header with the frame; header apart; header in pieces. */
	struct segment one[] = { { buffer(&b, 0), 12 + 1514, false } };
	struct segment two[] = { { buffer(&b, 0), 12, false }, { buffer(&b, 0) + 12, 60, false } };
	struct segment odd[] = { { buffer(&b, 0), 5, false }, { buffer(&b, 0) + 5, 100, false },
				 { buffer(&b, 0) + 105, 7, false } };
	static const struct { unsigned nr; size_t len; } want[] = { { 1, 1514 }, { 2, 60 }, { 3, 100 } };
	struct segment *const chains[] = { one, two, odd };
	for (unsigned i = 0; i < 3; i++) {
		driver_add(&b.d, TX, chains[i], want[i].nr);
		driver_kick(&b.d, TX);
		assert_true(driver_wait(&b.d, TX, 1));
		assert_int_equal(driver_take(&b.d, TX, NULL), 0);
		assert_int_equal(b.w.nr_sent, i + 1);
		assert_int_equal(b.w.sent_len, want[i].len);
		for (size_t k = 0; k < b.w.sent_len; k++)
			assert_int_equal(b.w.sent[k], (uint8_t)(k * 7 + 9));
	}
	/* Not frames: nothing sent, the buffers come back. */
	static const uint32_t bad[] = { 1, 11, 12, 25 };
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct segment s = { buffer(&b, 0), bad[i], false };
		driver_add(&b.d, TX, &s, 1);
	}
	struct segment giant = { buffer(&b, 0), 12 + NET_MAX_FRAME + 1, false };
	driver_add(&b.d, TX, &giant, 1);
	struct segment in_only = { buffer(&b, 0), 100, true };
	driver_add(&b.d, TX, &in_only, 1);
	driver_kick(&b.d, TX);
	assert_true(driver_wait(&b.d, TX, 6));
	while (driver_used(&b.d, TX))
		driver_take(&b.d, TX, NULL);
	assert_int_equal(b.w.nr_sent, 3);
	/* The host has no room: dropped, as on a wire. */
	b.w.answer = -EAGAIN;
	driver_add(&b.d, TX, one, 1);
	driver_kick(&b.d, TX);
	assert_true(driver_wait(&b.d, TX, 1));
	bed_close(&b);
}

static void test_no_driver(void **state)
{
	struct bed b;

	bed_create(&b, false);
	assert_true(arrive(&b, 60, 1)); /* nobody there: gone */
	driver_start(&b.d, ALL, 2, 64);
	driver_idle(&b.d, 2);
	assert_false(arrive(&b, 60, 1)); /* somebody without buffers: waits */
	driver_reset(&b.d);
	assert_true(arrive(&b, 60, 1));
	bed_close(&b);
}

/* Held (here: no bus mastering; a machine's pause is the same): frames wait. */
static void test_pause(void **state)
{
	struct bed b;

	bed_open(&b, ALL);
	give(&b, 0, 1526);
	driver_kick(&b.d, RX);
	driver_idle(&b.d, 2);
	cfg_write(b.g, 1, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	assert_false(arrive(&b, 60, 1));
	b.w.resumes = 0;
	cfg_write(b.g, 1, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	driver_idle(&b.d, 2);
	assert_true(b.w.resumes);
	assert_true(arrive(&b, 60, 1));
	assert_true(driver_wait(&b.d, RX, 1));
	bed_close(&b);
}

/* "Legacy Interface": the header has 10 bytes, or 12 with MRG_RXBUF. */
static void test_legacy(void **state)
{
	for (unsigned merge = 0; merge < 2; merge++) {
		unsigned hdr = merge ? 12 : 10;
		struct bed b;
		uint8_t *p;

		bed_create(&b, true);
		driver_start_legacy(&b.d, merge ? ~0u : (uint32_t)~MRG, 2);
		b.buf = driver_alloc(&b.d, 32 << 16);
		give(&b, 0, 2000);
		driver_kick(&b.d, RX);
		driver_idle(&b.d, 2);
		assert_true(arrive(&b, 60, 4));
		assert_true(driver_wait(&b.d, RX, 1));
		assert_int_equal(driver_take(&b.d, RX, NULL), hdr + 60);
		check_data(&b, buffer(&b, 0) + hdr, 0, 60, 4);
		p = driver_mem(&b.d, buffer(&b, 1), 2000);
		memset(p, 0, 2000);
		p[hdr] = 0x42;
		struct segment s = { buffer(&b, 1), hdr + 60, false };
		driver_add(&b.d, TX, &s, 1);
		driver_kick(&b.d, TX);
		assert_true(driver_wait(&b.d, TX, 1));
		assert_int_equal(b.w.sent_len, 60);
		assert_int_equal(b.w.sent[0], 0x42);
		bed_close(&b);
	}
}

static void test_dice(void **state)
{
	unsigned seed = 5;
	struct bed b;

	bed_open(&b, ALL);
	for (unsigned n = 0; n < 5000; n++) {
		struct segment s[4];
		unsigned nr = 1 + (unsigned)rand_r(&seed) % 4, outs = (unsigned)rand_r(&seed) % 5;

		for (unsigned k = 0; k < nr; k++)
			s[k] = (struct segment){ buffer(&b, (unsigned)rand_r(&seed) % 16),
						 (uint32_t)rand_r(&seed) % 300, k >= outs };
		driver_add(&b.d, n & 1, s, nr);
		driver_kick(&b.d, n & 1);
		if (rand_r(&seed) % 4 == 0)
			driver_turn(&b.d);
		(void)!arrive(&b, 14 + (size_t)(rand_r(&seed) % 3000), n);
		if (n % 32 == 0) {
			driver_idle(&b.d, 1);
			b.d.next = 1 << 20;
			driver_start(&b.d, rand_r(&seed) & 1 ? ALL : ~MRG, 2, 64);
			b.buf = driver_alloc(&b.d, 32 << 16);
		}
	}
	driver_start(&b.d, ALL, 2, 64);
	give(&b, 0, 1526);
	driver_kick(&b.d, RX);
	driver_idle(&b.d, 2);
	assert_true(arrive(&b, 60, 1));
	assert_true(driver_wait(&b.d, RX, 1));
	bed_close(&b);
}

/* ---- the whole way --------------------------------------------------- */

static int user_create(struct net **out, struct loop *l, void *arg, struct err *e)
{
	struct net_user_config c = { 0 };

	return net_user_create(out, l, &c, e);
}

static int no_create(struct net **out, struct loop *l, void *arg, struct err *e)
{
	return err_set(e, -ENOENT, "no such network");
}

static void test_slirp(void **state)
{
	for (unsigned thread = 0; thread < 2; thread++) {
		struct net_config c = { .create = user_create, .iothread = thread, .poll_ns = 10000,
					.mac = { 0x52, 0x54, 0, 1, 2, 3 } };
		static const uint8_t ask[12 + 42] = {
			[12 ... 17] = 0xff, [18] = 0x52, [19] = 0x54, [21] = 1, [22] = 2, [23] = 3,
			[24] = 8, [25] = 6, [27] = 1, [28] = 8, [30] = 6, [31] = 4, [33] = 1,
			[34] = 0x52, [35] = 0x54, [37] = 1, [38] = 2, [39] = 3,
			[40] = 10, [42] = 2, [43] = 15, [50] = 10, [52] = 2, [53] = 2 };
		struct bed b = { 0 };
		struct err e = { "" };
		uint8_t *p;

		b.g = pci_guest_create(64 << 20);
		if (virtio_net_create(b.g->m, b.g->bus, "net0", &c, &e))
			fail_msg("%s", e.text);
		driver_open(&b.d, b.g, 1);
		driver_start(&b.d, ALL, 2, 64);
		b.buf = driver_alloc(&b.d, 32 << 16);
		memcpy(driver_mem(&b.d, buffer(&b, 20), sizeof(ask)), ask, sizeof(ask));
		for (unsigned i = 0; i < 8; i++)
			give(&b, i, 2000);
		driver_kick(&b.d, RX);
		struct segment s = { buffer(&b, 20), sizeof(ask), false };
		driver_add(&b.d, TX, &s, 1);
		driver_kick(&b.d, TX);
		assert_true(driver_wait(&b.d, RX, 1));
		p = driver_mem(&b.d, buffer(&b, 0), 2000);
		assert_int_equal(p[12 + 21], 2); /* an ARP answer from 10.0.2.2 */
		assert_int_equal(p[12 + 31], 2);
		pci_guest_destroy(b.g);
	}
}

static void test_bad_options(void **state)
{
	struct pci_guest *g = pci_guest_create(16 << 20);
	struct net_config c = { .create = no_create, .iothread = true };
	struct err e;

	assert_int_equal(virtio_net_create(g->m, g->bus, "net0", &c, &e), -ENOENT);
	assert_string_equal(e.text, "net0: no such network");
	c.mac[0] = 1;
	assert_int_equal(virtio_net_create(g->m, g->bus, "net0", &c, &e), -EINVAL);
	c.mac[0] = 0;
	c.queue_size = 1000;
	assert_int_equal(virtio_net_create(g->m, g->bus, "net0", &c, &e), -EINVAL);
	pci_guest_destroy(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_receive),
		cmocka_unit_test(test_merged),
		cmocka_unit_test(test_no_room),
		cmocka_unit_test(test_too_long),
		cmocka_unit_test(test_bad_buffers), cmocka_unit_test(test_bad_merged_buffer),
		cmocka_unit_test(test_transmit),
		cmocka_unit_test(test_no_driver),
		cmocka_unit_test(test_pause),
		cmocka_unit_test(test_legacy),
		cmocka_unit_test(test_dice),
		cmocka_unit_test(test_slirp),
		cmocka_unit_test(test_bad_options),
	};

	return RUN(tests);
}
