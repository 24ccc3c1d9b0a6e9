/* SPDX-License-Identifier: MIT
 * virtio-blk driven as a guest drives it, well and badly.
 */
#include "../lib/check.h"
#include "../lib/virtio_driver.h"
#include "virtio/devices.h"
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define IMAGE_SIZE (1u << 20)
#define SECTORS    (IMAGE_SIZE / 512)
#define ALL        UINT64_MAX
#define STATUS_NONE 0xee

struct bed {
	struct pci_guest *g;
	struct virtio_driver d;
	char path[64];
	gpa_t hdr, data, status; /* one request's memory */
};

struct bed_options {
	unsigned queues;
	bool iothread, readonly, threads;
	uint64_t poll_ns;
	uint64_t features;
	uint16_t size;
};

static void bed_start(struct bed *b, const struct bed_options *o)
{
	driver_start(&b->d, o->features ? o->features : ALL & ~BIT_ULL(VIRTIO_BLK_F_CONFIG_WCE),
		     o->queues ? o->queues : 1, o->size ? o->size : 64);
	b->hdr = driver_alloc(&b->d, 4096);
	b->data = driver_alloc(&b->d, 1 << 20);
	b->status = driver_alloc(&b->d, 4096);
}

static void bed_open(struct bed *b, const struct bed_options *o)
{
	struct block_config bc = { .path = b->path, .readonly = o->readonly, .threads = o->threads };
	struct blk_config c = { .queues = o->queues, .queue_size = o->size, .iothread = o->iothread,
				.poll_ns = o->poll_ns, .serial = "BELL-0123456789" };
	struct err e = { "" };
	int fd;

	memset(b, 0, sizeof(*b));
	strcpy(b->path, "/var/tmp/belfry-vblk-XXXXXX");
	fd = mkstemp(b->path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, IMAGE_SIZE), 0);
	for (unsigned i = 0; i < SECTORS; i++)
		assert_int_equal(pwrite(fd, &i, 4, i * 512), 4);
	close(fd);
	b->g = pci_guest_create(32 << 20);
	if (block_open(&c.block, &bc, &e) || virtio_blk_create(b->g->m, b->g->bus, "disk0", &c, &e))
		fail_msg("%s", e.text);
	driver_open(&b->d, b->g, 1);
	bed_start(b, o);
}

static void bed_close(struct bed *b)
{
	pci_guest_destroy(b->g);
	unlink(b->path);
}

static void put_header(struct bed *b, gpa_t at, uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr *h = driver_mem(&b->d, at, sizeof(*h));

	*h = (struct virtio_blk_outhdr){ .type = type, .sector = sector };
}

static uint8_t *status(struct bed *b)
{
	return driver_mem(&b->d, b->status, 1);
}

/* Send these segments; the status byte, and what the used entry says in *written. */
static uint8_t send_chain(struct bed *b, const struct segment *s, unsigned nr, uint32_t *written)
{
	uint16_t head, used;
	uint32_t len;

	*status(b) = STATUS_NONE;
	head = driver_add(&b->d, 0, s, nr);
	driver_kick(&b->d, 0);
	assert_true(driver_wait(&b->d, 0, 1));
	len = driver_take(&b->d, 0, &used);
	assert_int_equal(used, head);
	assert_int_equal(driver_used(&b->d, 0), 0);
	if (written)
		*written = len;
	return *status(b);
}

/* A request of the usual form: header, data, status. */
static uint8_t request(struct bed *b, uint32_t type, uint64_t sector, uint32_t len, uint32_t *written)
{
	bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	struct segment s[3] = { { b->hdr, 16, false }, { b->data, len, in }, { b->status, 1, true } };

	put_header(b, b->hdr, type, sector);
	if (!len)
		s[1] = s[2];
	return send_chain(b, s, len ? 3 : 2, written);
}

static const struct bed_options beds[] = {
	{ .queues = 1 }, { .queues = 1, .threads = true }, { .queues = 1, .iothread = true },
	{ .queues = 1, .iothread = true, .poll_ns = 50000 },
	{ .queues = 1, .features = BIT_ULL(VIRTIO_BLK_F_FLUSH) },
};

static void test_read_write(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(beds); i++) {
		struct bed b;
		uint32_t *data, written;

		bed_open(&b, &beds[i]);
		data = driver_mem(&b.d, b.data, 1 << 20);
		assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 5, 1024, &written), VIRTIO_BLK_S_OK);
		assert_int_equal(written, 1025);
		assert_int_equal(data[0], 5);
		assert_int_equal(data[128], 6);
		memset(data, 0x5a, 4096);
		assert_int_equal(request(&b, VIRTIO_BLK_T_OUT, SECTORS - 8, 4096, &written),
				 VIRTIO_BLK_S_OK);
		assert_int_equal(written, 1);
		assert_int_equal(request(&b, VIRTIO_BLK_T_FLUSH, 0, 0, &written), VIRTIO_BLK_S_OK);
		memset(data, 0, 4096);
		assert_int_equal(request(&b, VIRTIO_BLK_T_IN, SECTORS - 8, 4096, NULL), VIRTIO_BLK_S_OK);
		assert_int_equal(data[1023], 0x5a5a5a5a);
		assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 0, IMAGE_SIZE, NULL), VIRTIO_BLK_S_OK);
		assert_int_equal(data[128 * 77], 77);
		bed_close(&b);
	}
}

static void test_identity(void **state)
{
	struct bed b;
	char *data;
	uint32_t written;

	bed_open(&b, &beds[0]);
	data = driver_mem(&b.d, b.data, 64);
	memset(data, 'x', 64);
	assert_int_equal(request(&b, VIRTIO_BLK_T_GET_ID, 0, 20, &written), VIRTIO_BLK_S_OK);
	assert_int_equal(written, 21);
	assert_memory_equal(data, "BELL-0123456789\0\0\0\0\0x", 21);
	memset(data, 'x', 64);
	assert_int_equal(request(&b, VIRTIO_BLK_T_GET_ID, 0, 4, NULL), VIRTIO_BLK_S_OK);
	assert_memory_equal(data, "BELLx", 5);
	assert_int_equal(request(&b, VIRTIO_BLK_T_GET_ID, 0, 0, NULL), VIRTIO_BLK_S_OK);
	assert_int_equal(driver_config(&b.d, 0, 4), SECTORS);
	assert_int_equal(driver_config(&b.d, offsetof(struct virtio_blk_config, blk_size), 4), 512);
	assert_true(driver_offered(&b.d) & BIT_ULL(VIRTIO_BLK_F_FLUSH));
	assert_false(driver_offered(&b.d) & BIT_ULL(VIRTIO_BLK_F_MQ));
	assert_false(driver_offered(&b.d) & BIT_ULL(VIRTIO_BLK_F_RO));
	bed_close(&b);
}

/* The layout is the driver's choice ("Message Framing"). */
static void test_odd_framing(void **state)
{
	struct bed b;
	uint32_t *data;

	bed_open(&b, &beds[0]);
	data = driver_mem(&b.d, b.data, 8192);
	/* Header in three pieces, the last of them with the data; the status with the data. */
	put_header(&b, b.data, VIRTIO_BLK_T_OUT, 3);
	for (unsigned i = 4; i < 4 + 256; i++)
		data[i] = i;
	struct segment out[] = { { b.data, 1, false }, { b.data + 1, 9, false },
				 { b.data + 10, 6 + 700, false }, { b.data + 716, 324, false },
				 { b.status, 1, true } };
	assert_int_equal(send_chain(&b, out, 5, NULL), VIRTIO_BLK_S_OK);
	memset(data, 0, 8192);
	put_header(&b, b.hdr, VIRTIO_BLK_T_IN, 3);
	b.status = b.data + 1024;
	struct segment in[] = { { b.hdr, 16, false }, { b.data, 500, true }, { b.data + 500, 525, true } };
	assert_int_equal(send_chain(&b, in, 3, NULL), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < 256; i++)
		assert_int_equal(data[i] & (i == 256 ? 0 : ~0u), i + 4);
	bed_close(&b);
}

static void test_ranges(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(beds); i++) {
		struct virtio_blk_discard_write_zeroes *r;
		struct bed b;
		uint32_t *data;

		if (beds[i].features)
			continue;
		bed_open(&b, &beds[i]);
		r = driver_mem(&b.d, b.data, 4096);
		data = driver_mem(&b.d, b.data + 4096, 65536);
		r[0] = (struct virtio_blk_discard_write_zeroes){ .sector = 16, .num_sectors = 16 };
		assert_int_equal(request(&b, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, NULL), VIRTIO_BLK_S_OK);
		r[0] = (struct virtio_blk_discard_write_zeroes){ .sector = 40, .num_sectors = 8 };
		r[1] = (struct virtio_blk_discard_write_zeroes){ .sector = 56, .num_sectors = 8 };
		assert_int_equal(request(&b, VIRTIO_BLK_T_DISCARD, 0, 32, NULL), VIRTIO_BLK_S_OK);
		struct segment s[] = { { b.hdr, 16, false }, { b.data + 4096, 65536, true },
				       { b.status, 1, true } };
		put_header(&b, b.hdr, VIRTIO_BLK_T_IN, 0);
		assert_int_equal(send_chain(&b, s, 3, NULL), VIRTIO_BLK_S_OK);
		for (unsigned k = 0; k < 128; k++) {
			bool gone = (k >= 16 && k < 32) || (k >= 40 && k < 48) || (k >= 56 && k < 64);

			assert_int_equal(data[k * 128], gone ? 0 : k);
		}
		bed_close(&b);
	}
}

static void test_bad_requests(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(beds); i++) {
		struct virtio_blk_discard_write_zeroes *r;
		struct bed b;
		uint32_t written;

		bed_open(&b, &beds[i]);
		r = driver_mem(&b.d, b.data, 4096);
		assert_int_equal(request(&b, VIRTIO_BLK_T_IN, SECTORS, 512, &written), VIRTIO_BLK_S_IOERR);
		assert_int_equal(written, 0);
		assert_int_equal(request(&b, VIRTIO_BLK_T_IN, SECTORS - 1, 1024, NULL), VIRTIO_BLK_S_IOERR);
		assert_int_equal(request(&b, VIRTIO_BLK_T_OUT, UINT64_MAX, 512, NULL), VIRTIO_BLK_S_IOERR);
		/* Times 512 it would wrap to a sector that exists. */
		assert_int_equal(request(&b, VIRTIO_BLK_T_OUT, 1ull << 55, 512, NULL), VIRTIO_BLK_S_IOERR);
		assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 0, 511, NULL), VIRTIO_BLK_S_IOERR);
		assert_int_equal(request(&b, VIRTIO_BLK_T_OUT, 0, 513, NULL), VIRTIO_BLK_S_IOERR);
		assert_int_equal(request(&b, VIRTIO_BLK_T_SCSI_CMD, 0, 512, NULL), VIRTIO_BLK_S_UNSUPP);
		assert_int_equal(request(&b, 0xdeadbeef, 0, 512, NULL), VIRTIO_BLK_S_UNSUPP);
		if (!beds[i].features) {
			static const struct virtio_blk_discard_write_zeroes bad[] = {
				{ .sector = SECTORS, .num_sectors = 1 },
				{ .sector = UINT64_MAX, .num_sectors = 2 },
				{ .sector = 0, .num_sectors = UINT32_MAX },
			};

			for (unsigned k = 0; k < ARRAY_SIZE(bad); k++) {
				r[0] = bad[k];
				assert_int_equal(request(&b, VIRTIO_BLK_T_DISCARD, 0, 16, NULL),
						 VIRTIO_BLK_S_IOERR);
				assert_int_equal(request(&b, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, NULL),
						 VIRTIO_BLK_S_IOERR);
			}
			r[0] = (struct virtio_blk_discard_write_zeroes){ .num_sectors = 1, .flags = 1 };
			assert_int_equal(request(&b, VIRTIO_BLK_T_DISCARD, 0, 16, NULL),
					 VIRTIO_BLK_S_UNSUPP);
			r[0].flags = 2;
			assert_int_equal(request(&b, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, NULL),
					 VIRTIO_BLK_S_UNSUPP);
			assert_int_equal(request(&b, VIRTIO_BLK_T_DISCARD, 0, 15, NULL), VIRTIO_BLK_S_IOERR);
			assert_int_equal(request(&b, VIRTIO_BLK_T_DISCARD, 0, 0, NULL), VIRTIO_BLK_S_IOERR);
			assert_int_equal(request(&b, VIRTIO_BLK_T_DISCARD, 0, 16 * 17, NULL),
					 VIRTIO_BLK_S_IOERR);
			assert_int_equal(request(&b, VIRTIO_BLK_T_WRITE_ZEROES, 0, 32, NULL),
					 VIRTIO_BLK_S_IOERR);
		} else {
			assert_int_equal(request(&b, VIRTIO_BLK_T_DISCARD, 0, 16, NULL),
					 VIRTIO_BLK_S_UNSUPP);
		}
		/* A header too short; a read without room; a write of what is not there. */
		struct segment short_hdr[] = { { b.hdr, 15, false }, { b.status, 1, true } };
		assert_int_equal(send_chain(&b, short_hdr, 2, NULL), VIRTIO_BLK_S_IOERR);
		struct segment no_hdr[] = { { b.status, 1, true } };
		assert_int_equal(send_chain(&b, no_hdr, 1, NULL), VIRTIO_BLK_S_IOERR);
		/* No room for the status: the buffer comes back, nothing was done. */
		put_header(&b, b.hdr, VIRTIO_BLK_T_OUT, 0);
		struct segment no_status[] = { { b.hdr, 16, false }, { b.data, 512, false } };
		assert_int_equal(send_chain(&b, no_status, 2, &written), STATUS_NONE);
		assert_int_equal(written, 0);
		/* The direction is the type's, not the descriptors': no data where it should be. */
		put_header(&b, b.hdr, VIRTIO_BLK_T_OUT, 0);
		struct segment wrong_way[] = { { b.hdr, 16, false }, { b.data, 512, true },
					       { b.status, 1, true } };
		send_chain(&b, wrong_way, 3, NULL);
		/* And after all that it works. */
		assert_int_equal(driver_status(&b.d) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
		assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 7, 512, NULL), VIRTIO_BLK_S_OK);
		assert_int_equal(*(uint32_t *)driver_mem(&b.d, b.data, 4), 7);
		assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 0, 512, NULL), VIRTIO_BLK_S_OK);
		assert_int_equal(*(uint32_t *)driver_mem(&b.d, b.data, 4), 0);
		bed_close(&b);
	}
}

static void test_readonly(void **state)
{
	struct bed_options o = { .readonly = true };
	struct bed b;

	bed_open(&b, &o);
	assert_true(driver_offered(&b.d) & BIT_ULL(VIRTIO_BLK_F_RO));
	assert_false(driver_offered(&b.d) & BIT_ULL(VIRTIO_BLK_F_DISCARD));
	assert_int_equal(request(&b, VIRTIO_BLK_T_OUT, 0, 512, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&b, VIRTIO_BLK_T_DISCARD, 0, 16, NULL), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 9, 512, NULL), VIRTIO_BLK_S_OK);
	assert_int_equal(*(uint32_t *)driver_mem(&b.d, b.data, 4), 9);
	bed_close(&b);
}

/* Broken rings end in NEEDS_RESET, and a reset brings the device back. */
static void test_broken_ring(void **state)
{
	for (unsigned i = 0; i < 3; i++) {
		struct bed b;

		bed_open(&b, &beds[i]);
		struct segment outside[] = { { 1ull << 40, 16, false }, { b.status, 1, true } };
		for (unsigned round = 0; round < 3; round++) {
			driver_add(&b.d, 0, outside, 2);
			driver_kick(&b.d, 0);
			assert_true(driver_wait_broken(&b.d));
			bed_start(&b, &beds[i]);
			assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 11, 512, NULL), VIRTIO_BLK_S_OK);
		}
		bed_close(&b);
	}
}

/* Many in flight on several queues, a reset in the middle: nothing is touched after it. */
static void test_reset_in_flight(void **state)
{
	struct bed_options o = { .queues = 4, .size = 64 };

	for (unsigned i = 0; i < 4; i++) {
		struct bed b;

		o.iothread = i & 1;
		o.threads = i & 2;
		bed_open(&b, &o);
		assert_true(driver_offered(&b.d) & BIT_ULL(VIRTIO_BLK_F_MQ));
		assert_int_equal(driver_config(&b.d, offsetof(struct virtio_blk_config, num_queues), 2), 4);
		for (unsigned round = 0; round < 10; round++) {
			uint8_t *data = driver_mem(&b.d, b.data, 1 << 20);

			put_header(&b, b.hdr, VIRTIO_BLK_T_IN, 100);
			for (unsigned q = 0; q < 4; q++) {
				for (unsigned n = 0; n < 20; n++) {
					struct segment s[] = { { b.hdr, 16, false },
							       { b.data + (q * 20 + n) * 8192, 8192, true },
							       { b.status + 8 + q * 20 + n, 1, true } };
					driver_add(&b.d, q, s, 3);
				}
				driver_kick(&b.d, q);
			}
			if (round & 1)
				driver_idle(&b.d, 1);
			driver_reset(&b.d);
			memset(data, 0x77, 1 << 20);
			driver_idle(&b.d, 2);
			for (unsigned k = 0; k < 1 << 20; k += 512)
				assert_int_equal(data[k], 0x77);
			bed_start(&b, &o);
			assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 11, 512, NULL), VIRTIO_BLK_S_OK);
		}
		bed_close(&b);
	}
}

/* Held with requests in flight and in the ring, and let go: each is answered once. */
static void test_pause(void **state)
{
	struct bed_options o = { .queues = 2, .size = 128 };

	for (unsigned i = 0; i < 4; i++) {
		struct bed b;
		uint8_t *st;

		o.iothread = i & 1;
		o.threads = i & 2;
		bed_open(&b, &o);
		st = driver_mem(&b.d, b.status, 4096);
		for (unsigned round = 0; round < 10; round++) {
			memset(st, STATUS_NONE, 4096);
			for (unsigned k = 0; k < 60; k++) {
				struct segment s[] = { { b.hdr + 16 * k, 16, false },
						       { b.data + k * 4096, 4096, true },
						       { b.status + k, 1, true } };

				put_header(&b, b.hdr + 16 * k, VIRTIO_BLK_T_IN, k * 8);
				driver_add(&b.d, k & 1, s, 3);
				driver_kick(&b.d, k & 1);
				if (k == 20 || k == 40) {
					if (round & 1)
						driver_turn(&b.d);
					cfg_write(b.g, 1, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
				}
				if (k == 30 || k == 50)
					cfg_write(b.g, 1, PCI_COMMAND,
						  PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
			}
			for (unsigned q = 0; q < 2; q++) {
				assert_true(driver_wait(&b.d, q, 30));
				assert_int_equal(driver_used(&b.d, q), 30);
				while (driver_used(&b.d, q))
					driver_take(&b.d, q, NULL);
			}
			for (unsigned k = 0; k < 60; k++) {
				assert_int_equal(st[k], VIRTIO_BLK_S_OK);
				assert_int_equal(*(uint32_t *)driver_mem(&b.d, b.data + k * 4096, 4), k * 8);
			}
		}
		bed_close(&b);
	}
}

/* A driver that cannot flush gets its writes on stable storage; with CONFIG_WCE it says so itself. */
static void test_write_cache(void **state)
{
	static const unsigned wce = offsetof(struct virtio_blk_config, wce);
	struct bed_options o = { .features = BIT_ULL(VIRTIO_BLK_F_SEG_MAX) };
	struct bed b;

	bed_open(&b, &o);
	assert_int_equal(driver_config(&b.d, wce, 1), 0);
	assert_int_equal(request(&b, VIRTIO_BLK_T_OUT, 0, 512, NULL), VIRTIO_BLK_S_OK);
	mem_write(b.g, b.d.device + wce, 1, 1); /* not negotiated */
	assert_int_equal(driver_config(&b.d, wce, 1), 0);
	o.features = ALL;
	bed_start(&b, &o);
	assert_int_equal(driver_config(&b.d, wce, 1), 1);
	mem_write(b.g, b.d.device + wce, 0, 1);
	assert_int_equal(driver_config(&b.d, wce, 1), 0);
	assert_int_equal(request(&b, VIRTIO_BLK_T_OUT, 0, 512, NULL), VIRTIO_BLK_S_OK);
	/* Nothing else of the configuration can be written. */
	mem_write(b.g, b.d.device, 0x12345678, 4);
	assert_int_equal(driver_config(&b.d, 0, 4), SECTORS);
	bed_close(&b);
}

/* All queues full of reads: each answered once, with the right data. */
static void test_many(void **state)
{
	struct bed_options o = { .queues = 4, .size = 64, .iothread = true, .poll_ns = 20000 };

	for (unsigned i = 0; i < 2; i++, o.iothread = false) {
		struct bed b;
		uint8_t *st;

		bed_open(&b, &o);
		st = driver_mem(&b.d, b.status, 4096);
		for (unsigned round = 0; round < 20; round++) {
			memset(st, STATUS_NONE, 4096);
			for (unsigned k = 0; k < 80; k++) {
				unsigned q = k % 4;
				struct segment s[] = { { b.hdr + 16 * k, 16, false },
						       { b.data + k * 8192, 512 + (k % 3) * 512, true },
						       { b.status + k, 1, true } };

				put_header(&b, b.hdr + 16 * k, VIRTIO_BLK_T_IN, k * 20 + round);
				driver_add(&b.d, q, s, 3);
				if (k % 7 == 0)
					driver_kick(&b.d, q);
			}
			for (unsigned q = 0; q < 4; q++) {
				driver_kick(&b.d, q);
				assert_true(driver_wait(&b.d, q, 20));
				assert_int_equal(driver_used(&b.d, q), 20);
				while (driver_used(&b.d, q))
					driver_take(&b.d, q, NULL);
			}
			for (unsigned k = 0; k < 80; k++) {
				assert_int_equal(st[k], VIRTIO_BLK_S_OK);
				assert_int_equal(*(uint32_t *)driver_mem(&b.d, b.data + k * 8192, 4),
						 k * 20 + round);
			}
		}
		bed_close(&b);
	}
}

/* Chains made by dice: whatever they are, the device lives and answers a good one. */
static void test_dice(void **state)
{
	unsigned seed = 11;

	for (unsigned i = 0; i < 3; i++) {
		struct bed b;

		bed_open(&b, &beds[i]);
		for (unsigned n = 0; n < 3000; n++) {
			struct segment s[6];
			unsigned nr = 1 + (unsigned)rand_r(&seed) % 6, outs = (unsigned)rand_r(&seed) % 7;

			put_header(&b, b.hdr, (uint32_t)rand_r(&seed) % 15,
				   rand_r(&seed) & 1 ? (uint64_t)rand_r(&seed) % SECTORS :
						       (uint64_t)rand_r(&seed) << 40);
			for (unsigned k = 0; k < nr; k++) {
				static const uint32_t lens[] = { 0, 1, 7, 15, 16, 17, 511, 512, 513, 4096 };

				s[k].in = k >= outs;
				s[k].len = lens[(unsigned)rand_r(&seed) % ARRAY_SIZE(lens)];
				s[k].at = k ? b.data + (unsigned)rand_r(&seed) % 65536 : b.hdr;
				if (rand_r(&seed) % 500 == 0)
					s[k].at = (uint64_t)rand_r(&seed) << 20;
			}
			driver_add(&b.d, 0, s, nr);
			driver_kick(&b.d, 0);
			if (driver_wait(&b.d, 0, 1)) {
				assert_int_equal(driver_used(&b.d, 0), 1);
				driver_take(&b.d, 0, NULL);
			} else {
				assert_true(driver_is_broken(&b.d));
				b.d.next = 1 << 20;
				bed_start(&b, &beds[i]);
			}
		}
		b.d.next = 1 << 20;
		bed_start(&b, &beds[i]);
		assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 1, 512, NULL), VIRTIO_BLK_S_OK);
		bed_close(&b);
	}
}

/* One buffer offered many times over: more in flight than there are slots. */
static void test_same_buffer(void **state)
{
	struct bed_options o = { .size = 8 };
	struct bed b;

	bed_open(&b, &o);
	for (unsigned round = 0; round < 50; round++) {
		put_header(&b, b.hdr, VIRTIO_BLK_T_IN, 2);
		struct segment s[] = { { b.hdr, 16, false }, { b.data, 4096, true }, { b.status, 1, true } };
		for (unsigned n = 0; n < 8; n++) {
			b.d.q[0].next_desc = 0;
			driver_add(&b.d, 0, s, 3);
		}
		driver_kick(&b.d, 0);
		assert_true(driver_wait(&b.d, 0, 8));
		while (driver_used(&b.d, 0))
			driver_take(&b.d, 0, NULL);
	}
	bed_close(&b);
}

/*
 * More offered while as many as the device has slots for are in flight (slow
 * ones: flushes): it neither spins nor forgets them.
 */
static void test_no_slot(void **state)
{
	struct bed_options o = { .size = 8 };

	for (unsigned i = 0; i < 2; i++, o.threads = true) {
		struct bed b;

		bed_open(&b, &o);
		for (unsigned round = 0; round < 20; round++) {
			struct segment s[] = { { b.hdr, 16, false }, { b.status, 1, true } };

			assert_int_equal(request(&b, VIRTIO_BLK_T_OUT, 0, 65536, NULL), VIRTIO_BLK_S_OK);
			put_header(&b, b.hdr, VIRTIO_BLK_T_FLUSH, 0);
			for (unsigned half = 0; half < 2; half++) {
				for (unsigned n = 0; n < 8; n++) {
					b.d.q[0].next_desc = 0;
					driver_add(&b.d, 0, s, 2);
				}
				driver_kick(&b.d, 0);
				if (!half)
					driver_step(&b.d); /* taken, and surely not yet answered */
			}
			assert_true(driver_wait(&b.d, 0, 16));
			while (driver_used(&b.d, 0))
				driver_take(&b.d, 0, NULL);
		}
		assert_false(driver_status(&b.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
		bed_close(&b);
	}
}

static void test_bad_options(void **state)
{
	struct pci_guest *g = pci_guest_create(16 << 20);
	char path[] = "/var/tmp/belfry-vblk-XXXXXX";
	struct block_config bc = { .path = path };
	struct blk_config c = { .queues = 65 };
	struct err e;
	int fd = mkstemp(path);

	assert_int_equal(ftruncate(fd, 4096), 0);
	close(fd);
	assert_int_equal(block_open(&c.block, &bc, &e), 0);
	assert_int_equal(virtio_blk_create(g->m, g->bus, "disk0", &c, &e), -EINVAL);
	c.queues = 1;
	c.queue_size = 100;
	assert_int_equal(virtio_blk_create(g->m, g->bus, "disk0", &c, &e), -EINVAL);
	c.queue_size = 2048;
	assert_int_equal(virtio_blk_create(g->m, g->bus, "disk0", &c, &e), -EINVAL);
	c.queue_size = 0;
	c.serial = "123456789012345678901";
	assert_int_equal(virtio_blk_create(g->m, g->bus, "disk0", &c, &e), -EINVAL);
	assert_non_null(strstr(e.text, "disk0"));
	/* Still ours. */
	block_close(c.block);
	unlink(path);
	pci_guest_destroy(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_read_write),
		cmocka_unit_test(test_identity),
		cmocka_unit_test(test_odd_framing),
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_bad_requests),
		cmocka_unit_test(test_readonly),
		cmocka_unit_test(test_broken_ring),
		cmocka_unit_test(test_reset_in_flight),
		cmocka_unit_test(test_pause),
		cmocka_unit_test(test_write_cache),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_dice),
		cmocka_unit_test(test_same_buffer),
		cmocka_unit_test(test_no_slot),
		cmocka_unit_test(test_bad_options),
	};

	return RUN(tests);
}
