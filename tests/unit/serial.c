/* SPDX-License-Identifier: MIT */
#include "../lib/chip_bed.h"
#include "device/device.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define COM 0x3f8
#define RBR (COM + 0)
#define THR (COM + 0)
#define IER (COM + 1)
#define IIR (COM + 2)
#define FCR (COM + 2)
#define LCR (COM + 3)
#define MCR (COM + 4)
#define LSR (COM + 5)
#define MSR (COM + 6)
#define SCR (COM + 7)

/* A console that remembers: the room's own is not linked. */
static struct console {
	struct console_client client;
	char out[256];
	size_t nr_out;
	const char *typed; /* what waits to be taken */
	unsigned resumes;
} con;

void console_set_client(struct console *c, const struct console_client *cl)
{
	c->client = *cl;
}

int console_write(struct console *c, const void *data, size_t len)
{
	memcpy(c->out + c->nr_out, data, MIN(len, sizeof(c->out) - c->nr_out));
	c->nr_out += MIN(len, sizeof(c->out) - c->nr_out);
	return 0;
}

void console_resume(struct console *c)
{
	c->resumes++;
	if (*c->typed)
		c->typed += c->client.input(c->client.arg, c->typed, strlen(c->typed));
}

static size_t type(const char *s)
{
	size_t n = con.client.input(con.client.arg, s, strlen(s));

	con.typed = s + n;
	return n;
}

static struct chip_bed bed;

static uint8_t in(uint16_t port)
{
	return (uint8_t)chip_in(&bed, port, 1);
}

static void out(uint16_t port, uint8_t v)
{
	chip_out(&bed, port, v, 1);
}

static bool line(void)
{
	return bed.kvm.level[4];
}

static int setup(void **state)
{
	memset(&con, 0, sizeof(con));
	con.typed = "";
	chip_bed_init(&bed, 1 << 20, 1);
	assert_int_equal(serial_create(bed.m, &con), 0);
	chip_bed_reset(&bed);
	return 0;
}

static int teardown(void **state)
{
	chip_bed_fini(&bed);
	return 0;
}

static void set_baud_base(void)
{
	out(LCR, 0x83);
	out(COM, 1);
	out(COM + 1, 0);
	out(LCR, 0x03);
}

static void test_identity(void **state)
{
	/* What Linux's autoconfig does. */
	out(IER, 0);
	assert_int_equal(in(IER) & 0x0f, 0);
	out(IER, 0xff);
	assert_int_equal(in(IER), 0x0f); /* the upper bits do not exist */
	out(IER, 0);
	out(MCR, 0x1a); /* loop, OUT2, RTS */
	assert_int_equal(in(MSR) & 0xf0, 0x90);
	out(MCR, 0);
	out(FCR, 1);
	assert_int_equal(in(IIR) >> 6, 3); /* 16550A */
	out(FCR, 0);
	assert_int_equal(in(IIR) >> 6, 0);
	out(SCR, 0xa5);
	assert_int_equal(in(SCR), 0xa5);
	assert_int_equal(in(LSR), 0x60);
	assert_int_equal(in(MSR) & 0xf0, 0xb0);
	out(MCR, 0xff);
	assert_int_equal(in(MCR), 0x1f);
}

static void test_divisor_latch(void **state)
{
	out(LCR, 0x80);
	out(COM, 0x34);
	out(COM + 1, 0x12);
	assert_int_equal(in(COM), 0x34);
	assert_int_equal(in(COM + 1), 0x12);
	out(LCR, 0x03);
	assert_int_equal(in(IER), 0); /* not the latch's high byte */
	assert_int_equal(con.nr_out, 0);
}

static void test_output(void **state)
{
	for (const char *p = "hello\n"; *p; p++) {
		assert_true(in(LSR) & 0x20);
		out(THR, (uint8_t)*p);
	}
	assert_int_equal(con.nr_out, 6);
	assert_memory_equal(con.out, "hello\n", 6);
	assert_false(line());
}

/* Run until THRE has interrupted for writes that began then: it waits a quarter of their time. */
static void until_sent(uint64_t since)
{
	chip_bed_run(&bed, 5 + (unsigned)((clock_ns() - since) / 4 / 1000000));
}

static void test_thre(void **state)
{
	unsigned changes;
	uint64_t start;

	/* Enabling the interrupt while the transmitter is empty raises it. */
	out(IER, 2);
	assert_true(line());
	assert_int_equal(in(IIR), 0x02);
	/* Reading IIR as its source took it away. */
	assert_false(line());
	assert_int_equal(in(IIR), 0x01);
	/* Disabling and enabling raises it anew; writing the same value does not. */
	out(IER, 2);
	assert_false(line());
	out(IER, 0);
	out(IER, 2);
	assert_true(line());
	/* A write takes it away, and some time later the transmitter is empty: a new edge. */
	changes = bed.kvm.line_changes[4];
	out(THR, 'x');
	assert_false(line());
	assert_int_equal(in(LSR) & 0x60, 0x60); /* who polls need not wait */
	out(IER, 3); /* another interrupt's enable does not lose it */
	chip_bed_run(&bed, 5);
	assert_true(line());
	assert_int_equal(bed.kvm.line_changes[4], changes + 2);
	/* Once for a burst. */
	start = clock_ns();
	for (int i = 0; i < 16; i++)
		out(THR, 'x');
	until_sent(start);
	assert_int_equal(in(IIR), 0x02);
	chip_bed_run(&bed, 5);
	assert_int_equal(in(IIR), 0x01);
	out(THR, 'x');
	/* Disabled while it was due: nothing comes, until it is enabled again. */
	out(IER, 0);
	chip_bed_run(&bed, 5);
	assert_false(line());
	assert_int_equal(in(IIR), 0x01);
	out(IER, 2);
	assert_int_equal(in(IIR), 0x02);
}

/* The guest has a part of its time for itself: no handler is kept busy for ever. */
static void test_thre_leaves_time(void **state)
{
	uint64_t first, last = 0, end;

	out(IER, 2);
	(void)in(IIR);
	out(THR, 'x');
	first = clock_ns();
	for (int i = 0; i < 16; i++) {
		struct timespec ts = { 0, 1000000 };

		nanosleep(&ts, NULL);
		last = clock_ns();
		out(THR, 'x');
	}
	do
		chip_bed_run(&bed, 1);
	while (!line() && clock_ns() - last < 60 * NSEC_PER_SEC);
	end = clock_ns();
	assert_true(line());
	/* It began before `first` and ended after `last`. */
	assert_true(end - last >= (last - first) / 4);
}

static void test_priority(void **state)
{
	uint64_t start;

	out(MCR, 0x10);
	out(IER, 0x0f);
	/* Loop two bytes without FIFO: data, overrun, THRE and modem at once. */
	out(MCR, 0x10 | 0x02);
	start = clock_ns();
	out(THR, 'a');
	out(THR, 'b');
	until_sent(start);
	assert_int_equal(in(IIR), 0x06);
	assert_int_equal(in(LSR) & 0x03, 0x03);
	assert_int_equal(in(LSR) & 0x02, 0); /* read once */
	assert_int_equal(in(IIR), 0x04);
	assert_int_equal(in(RBR), 'a'); /* the byte that overran is lost */
	assert_int_equal(in(IIR), 0x02);
	assert_int_equal(in(IIR), 0x00);
	assert_true(line());
	assert_int_equal(in(MSR) & 0x01, 0x01); /* delta CTS */
	assert_int_equal(in(IIR), 0x01);
	assert_false(line());
	assert_int_equal(con.nr_out, 0); /* nothing of it left the chip */
}

static void test_ring_edge(void **state)
{
	out(MCR, 0x10);
	(void)in(MSR);
	out(MCR, 0x14); /* RI rises: no trailing edge */
	assert_int_equal(in(MSR), 0x40);
	out(MCR, 0x10);
	assert_int_equal(in(MSR), 0x04);
}

static void test_trigger_levels(void **state)
{
	static const struct { uint8_t fcr; unsigned level; } t[] = {
		{ 0x01, 1 }, { 0x41, 4 }, { 0x81, 8 }, { 0xc1, 14 },
	};

	out(IER, 1);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		out(FCR, t[i].fcr | 2);
		for (unsigned n = 1; n <= t[i].level; n++) {
			assert_false(line());
			assert_int_equal(type("z"), 1);
		}
		assert_true(line());
		assert_int_equal(in(IIR), 0xc4);
		assert_int_equal(in(RBR), 'z');
		assert_false(line());
	}
}

static void test_character_timeout(void **state)
{
	set_baud_base();
	out(IER, 1);
	out(FCR, 0x81);
	assert_int_equal(type("abc"), 3);
	assert_int_equal(in(IIR), 0xc1);
	chip_bed_run(&bed, 20);
	assert_true(line());
	assert_int_equal(in(IIR), 0xcc);
	assert_int_equal(in(RBR), 'a');
	assert_int_equal(in(IIR), 0xc1); /* a read ends it and starts the time again */
	chip_bed_run(&bed, 20);
	assert_int_equal(in(IIR), 0xcc);
	assert_int_equal(in(RBR), 'b');
	assert_int_equal(in(RBR), 'c');
	chip_bed_run(&bed, 20);
	assert_int_equal(in(IIR), 0xc1); /* empty: nothing to indicate */
	assert_false(line());
}

static void test_no_timeout_without_fifo(void **state)
{
	set_baud_base();
	out(IER, 1);
	assert_int_equal(type("ab"), 1);
	assert_int_equal(in(IIR), 0x04);
	assert_int_equal(in(RBR), 'a');
	chip_bed_run(&bed, 1); /* resumes: 'b' */
	assert_int_equal(in(RBR), 'b');
	chip_bed_run(&bed, 20);
	assert_int_equal(in(IIR), 0x01);
}

static void test_flow_control(void **state)
{
	char got[64] = "";
	unsigned n = 0;

	out(FCR, 0x01);
	assert_int_equal(type("The quick brown fox jumps over."), 16);
	assert_int_equal(type(con.typed), 0);
	for (int round = 0; round < 5; round++) {
		while (in(LSR) & 1)
			got[n++] = (char)in(RBR);
		chip_bed_run(&bed, 1);
	}
	assert_string_equal(got, "The quick brown fox jumps over.");
	assert_int_equal(con.resumes, 1); /* asked only while something waited */
	assert_int_equal(in(LSR) & 0x02, 0);
}

static void test_loopback_takes_no_input(void **state)
{
	out(FCR, 0x01);
	out(MCR, 0x10);
	assert_int_equal(type("x"), 0);
	out(MCR, 0);
	chip_bed_run(&bed, 1);
	assert_int_equal(in(RBR), 'x');
}

static void test_fifo_clear(void **state)
{
	out(FCR, 0x01);
	assert_int_equal(type("abc"), 3);
	out(FCR, 0x03);
	assert_int_equal(in(LSR) & 1, 0);
	assert_int_equal(in(RBR), 0);
	assert_int_equal(type("abc"), 3);
	out(FCR, 0x00); /* turning the FIFO off empties it */
	assert_int_equal(in(LSR) & 1, 0);
}

static void test_read_only_registers(void **state)
{
	out(LSR, 0xff);
	out(MSR, 0xff);
	assert_int_equal(in(LSR), 0x60);
	assert_int_equal(in(MSR), 0xb0);
	out(FCR, 0xc2); /* without bit 0 the others mean nothing */
	assert_int_equal(in(IIR), 0x01);
}

static void test_wide_access(void **state)
{
	/* A word at the data port is two registers. */
	chip_out(&bed, COM, 0x0541, 2);
	assert_int_equal(con.nr_out, 1);
	assert_int_equal(in(IER), 0x05);
	assert_int_equal(chip_in(&bed, SCR - 1, 2) & 0xff, 0xb0);
}

static void test_reset(void **state)
{
	out(FCR, 0x81);
	out(IER, 0x0f);
	out(SCR, 1);
	assert_int_equal(type("0123456789abcdefXYZ"), 16);
	chip_bed_reset(&bed);
	assert_false(line());
	assert_int_equal(in(IER), 0);
	assert_int_equal(in(SCR), 0);
	assert_int_equal(in(IIR), 0x01);
	chip_bed_run(&bed, 1); /* what waited comes into the one-byte register */
	assert_int_equal(in(RBR), 'X');
}

static void test_no_console(void **state)
{
	struct chip_bed b;

	chip_bed_init(&b, 1 << 20, 1);
	assert_int_equal(serial_create(b.m, NULL), 0);
	chip_out(&b, THR, 'x', 1);
	assert_int_equal(chip_in(&b, LSR, 1), 0x60);
	chip_bed_fini(&b);
}

static void test_random_accesses(void **state)
{
	uint32_t x = 12345;

	for (int i = 0; i < 200000; i++) {
		uint16_t port;

		x = x * 1664525 + 1013904223;
		port = (uint16_t)(COM + (x >> 28) % 8);
		con.nr_out = 0;
		if (x & 0x100)
			chip_out(&bed, port, x >> 16, 1u << (x >> 9 & 1));
		else
			chip_in(&bed, port, 1u << (x >> 9 & 1));
		if ((x & 0xff) == 0)
			type("abcdefgh");
		/* The wire always says what IIR would. */
		if ((x & 0xf000) == 0) {
			bool before = line();

			assert_int_equal(before, !(in(IIR) & 1));
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_identity, setup, teardown),
		cmocka_unit_test_setup_teardown(test_divisor_latch, setup, teardown),
		cmocka_unit_test_setup_teardown(test_output, setup, teardown),
		cmocka_unit_test_setup_teardown(test_thre, setup, teardown),
		cmocka_unit_test_setup_teardown(test_thre_leaves_time, setup, teardown),
		cmocka_unit_test_setup_teardown(test_priority, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ring_edge, setup, teardown),
		cmocka_unit_test_setup_teardown(test_trigger_levels, setup, teardown),
		cmocka_unit_test_setup_teardown(test_character_timeout, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_timeout_without_fifo, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flow_control, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loopback_takes_no_input, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fifo_clear, setup, teardown),
		cmocka_unit_test_setup_teardown(test_read_only_registers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wide_access, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
		cmocka_unit_test(test_no_console),
		cmocka_unit_test_setup_teardown(test_random_accesses, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
