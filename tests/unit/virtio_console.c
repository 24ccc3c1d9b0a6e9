/* SPDX-License-Identifier: MIT
 * virtio-console between a driver and two pipes; and virtio-rng.
 */
#include "../lib/check.h"
#include "../lib/virtio_driver.h"
#include "virtio/devices.h"
#include <fcntl.h>
#include <linux/virtio_console.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#define ALL UINT64_MAX
#define RX  0
#define TX  1

struct bed {
	struct device dev; /* keeps the console until the machine goes */
	struct pci_guest *g;
	struct virtio_driver d;
	struct console *console;
	int in, out; /* our ends: what the user types, what he sees */
	int theirs[2];
	gpa_t mem;
};

static void free_console(struct device *dev)
{
	console_destroy(container_of(dev, struct bed, dev)->console);
}

static const struct device_ops keeper_ops = { .type = "test", .destroy = free_console };

static void bed_open(struct bed *b)
{
	struct console_config c = { 0 };
	struct err e = { "" };
	int in[2], out[2];

	assert_int_equal(pipe(in), 0);
	assert_int_equal(pipe(out), 0);
	memset(b, 0, sizeof(*b));
	b->dev.ops = &keeper_ops;
	b->in = in[1];
	b->out = out[0];
	b->theirs[0] = in[0];
	b->theirs[1] = out[1];
	fcntl(b->out, F_SETFL, O_NONBLOCK);
	b->g = pci_guest_create(32 << 20);
	if (console_create(&b->console, b->g->m->loop, in[0], out[1], NULL, NULL, &e))
		fail_msg("%s", e.text);
	machine_add_device(b->g->m, &b->dev);
	c.console = b->console;
	if (virtio_console_create(b->g->m, b->g->bus, "console0", &c, &e))
		fail_msg("%s", e.text);
	driver_open(&b->d, b->g, 1);
}

static void bed_start(struct bed *b)
{
	driver_start(&b->d, ALL, 2, 32);
	b->mem = driver_alloc(&b->d, 8 << 20);
}

static void bed_close(struct bed *b)
{
	pci_guest_destroy(b->g);
	close(b->in);
	close(b->out);
	close(b->theirs[0]);
	close(b->theirs[1]);
}

static void expect_output(struct bed *b, const char *want)
{
	char buf[256] = "";

	assert_int_equal(read(b->out, buf, sizeof(buf) - 1), strlen(want));
	assert_string_equal(buf, want);
}

static void test_output(void **state)
{
	struct bed b;
	char *p;

	bed_open(&b);
	bed_start(&b);
	p = driver_mem(&b.d, b.mem, 4096);
	strcpy(p, "Hello, bell");
	struct segment s[] = { { b.mem, 7, false }, { b.mem + 7, 4, false } };
	driver_add(&b.d, TX, s, 2);
	driver_kick(&b.d, TX);
	assert_true(driver_wait(&b.d, TX, 1));
	assert_int_equal(driver_take(&b.d, TX, NULL), 0);
	expect_output(&b, "Hello, bell");
	/* Buffers for reading are not output. */
	struct segment in = { b.mem, 11, true };
	driver_add(&b.d, TX, &in, 1);
	driver_add(&b.d, TX, s, 1);
	driver_kick(&b.d, TX);
	assert_true(driver_wait(&b.d, TX, 2));
	expect_output(&b, "Hello, ");
	bed_close(&b);
}

/* A buffer of half a megabyte goes in pieces, and every byte of it arrives. */
static void test_large_output(void **state)
{
	const unsigned len = 512 << 10;
	struct bed b;
	uint8_t *p, buf[65536];
	unsigned got = 0;

	bed_open(&b);
	bed_start(&b);
	p = driver_mem(&b.d, b.mem, len);
	for (unsigned i = 0; i < len; i++)
		p[i] = (uint8_t)(i * 31 + i / 4096);
	assert_true(fcntl(b.out, F_SETPIPE_SZ, 1 << 20) > (int)len);
	struct segment s = { b.mem, len, false };
	driver_add(&b.d, TX, &s, 1);
	driver_kick(&b.d, TX);
	assert_true(driver_wait(&b.d, TX, 1));
	for (ssize_t n; (n = read(b.out, buf, sizeof(buf))) > 0; got += (unsigned)n)
		assert_memory_equal(buf, p + got, n);
	assert_int_equal(got, len);
	bed_close(&b);
}

static void test_input(void **state)
{
	struct bed b;
	char *p;

	bed_open(&b);
	/* Typed before the driver is there, and before it has buffers: it waits. */
	assert_int_equal(write(b.in, "early", 5), 5);
	driver_idle(&b.d, 5);
	bed_start(&b);
	driver_idle(&b.d, 5);
	p = driver_mem(&b.d, b.mem, 4096);
	struct segment s[2] = { { b.mem, 3, true }, { b.mem + 100, 50, true } };
	driver_add(&b.d, RX, &s[0], 1);
	driver_kick(&b.d, RX);
	assert_true(driver_wait(&b.d, RX, 1));
	assert_int_equal(driver_take(&b.d, RX, NULL), 3);
	assert_memory_equal(p, "ear", 3);
	driver_add(&b.d, RX, &s[1], 1);
	driver_kick(&b.d, RX);
	assert_true(driver_wait(&b.d, RX, 1));
	assert_int_equal(driver_take(&b.d, RX, NULL), 2);
	assert_memory_equal(p + 100, "ly", 2);
	/* And when buffers wait for input. */
	driver_add(&b.d, RX, &s[1], 1);
	driver_kick(&b.d, RX);
	driver_idle(&b.d, 5);
	assert_int_equal(driver_used(&b.d, RX), 0);
	assert_int_equal(write(b.in, "now\n", 4), 4);
	assert_true(driver_wait(&b.d, RX, 1));
	assert_int_equal(driver_take(&b.d, RX, NULL), 4);
	assert_memory_equal(p + 100, "now\n", 4);
	bed_close(&b);
}

static void test_config(void **state)
{
	struct bed b;

	bed_open(&b);
	bed_start(&b);
	assert_int_equal(driver_config(&b.d, 0, 2), 80);
	assert_int_equal(driver_config(&b.d, 2, 2), 25);
	assert_int_equal(driver_config(&b.d, 4, 4), 1);
	assert_false(driver_offered(&b.d) & BIT_ULL(VIRTIO_CONSOLE_F_MULTIPORT));
	mem_write(b.g, b.d.device + 8, '!', 4);
	expect_output(&b, "!");
	mem_write(b.g, b.d.device, 0x12345678, 4); /* not the guest's to set */
	assert_int_equal(driver_config(&b.d, 0, 2), 80);
	char none;
	assert_int_equal(read(b.out, &none, 1), -1);
	bed_close(&b);
}

static void test_bad_rings(void **state)
{
	struct segment outside = { 1ull << 52, 10, false }, outside_in = { 1ull << 52, 10, true };
	struct bed b;

	bed_open(&b);
	bed_start(&b);
	driver_add(&b.d, TX, &outside, 1);
	driver_kick(&b.d, TX);
	assert_true(driver_wait_broken(&b.d));
	bed_start(&b);
	driver_add(&b.d, RX, &outside_in, 1);
	driver_kick(&b.d, RX);
	driver_idle(&b.d, 2);
	assert_int_equal(write(b.in, "x", 1), 1);
	assert_true(driver_wait_broken(&b.d));
	/* What was typed is not lost with it. */
	bed_start(&b);
	struct segment s = { b.mem, 10, true };
	driver_add(&b.d, RX, &s, 1);
	driver_kick(&b.d, RX);
	assert_true(driver_wait(&b.d, RX, 1));
	assert_int_equal(driver_take(&b.d, RX, NULL), 1);
	bed_close(&b);
}

/* ---- entropy --------------------------------------------------------- */

static void test_rng(void **state)
{
	struct pci_guest *g = pci_guest_create(32 << 20);
	struct rng_config c = { 0 };
	struct virtio_driver d;
	struct err e = { "" };
	uint8_t *p, zero[1000] = { 0 };
	gpa_t mem;

	if (virtio_rng_create(g->m, g->bus, "rng0", &c, &e))
		fail_msg("%s", e.text);
	driver_open(&d, g, 1);
	driver_start(&d, ALL, 1, 32);
	mem = driver_alloc(&d, 16 << 20);
	p = driver_mem(&d, mem, 16 << 20);
	struct segment s[] = { { mem, 1000, true }, { mem + 5000, 1000, true } };
	driver_add(&d, 0, s, 2);
	driver_kick(&d, 0);
	assert_true(driver_wait(&d, 0, 1));
	assert_int_equal(driver_take(&d, 0, NULL), 2000);
	assert_memory_not_equal(p, zero, 1000);
	assert_memory_not_equal(p + 5000, zero, 1000);
	assert_memory_not_equal(p, p + 5000, 1000);
	assert_memory_equal(p + 1000, zero, 1000);
	/* A huge one is answered in part; none to write is answered with nothing. */
	struct segment huge = { mem, 16 << 20, true }, out = { mem, 100, false };
	driver_add(&d, 0, &huge, 1);
	driver_add(&d, 0, &out, 1);
	driver_kick(&d, 0);
	assert_true(driver_wait(&d, 0, 2));
	assert_int_equal(driver_take(&d, 0, NULL), 65536);
	assert_int_equal(driver_take(&d, 0, NULL), 0);
	assert_memory_equal(p + 65536, zero, 1000);
	/* More than a turn's share: the rest comes in later turns, with no further kick. */
	for (unsigned i = 0; i < 30; i++)
		driver_add(&d, 0, &huge, 1);
	driver_kick(&d, 0);
	assert_true(driver_wait(&d, 0, 30));
	while (driver_used(&d, 0))
		driver_take(&d, 0, NULL);
	struct segment outside = { 1ull << 52, 10, true };
	driver_add(&d, 0, &outside, 1);
	driver_kick(&d, 0);
	assert_true(driver_wait_broken(&d));
	pci_guest_destroy(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_output),
		cmocka_unit_test(test_large_output),
		cmocka_unit_test(test_input),
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_bad_rings),
		cmocka_unit_test(test_rng),
	};

	return RUN(tests);
}
