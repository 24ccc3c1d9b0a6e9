/* SPDX-License-Identifier: MIT
 * The chips on ports (serial, i8042, RTC, PM, debug exit) by any accesses of any
 * width anywhere in the port space, with turns of the main loop, resets, input
 * on the console and failing wires between them.
 */
#include "fuzz.h"
#include "chip_bed.h"
#include "device/device.h"
#include <fcntl.h>
#include <unistd.h>

struct bed {
	struct chip_bed chips;
	struct device keeper; /* of the console: destroyed after its client, before its loop */
	struct console *console;
	int in[2]; /* a pipe: what the user types */
	int null;
};

static void destroy_console(struct device *d)
{
	console_destroy(container_of(d, struct bed, keeper)->console);
}

static const struct device_ops keeper_ops = { .type = "keeper", .destroy = destroy_console };

static void set_up(struct bed *b, uint8_t kind)
{
	struct err e = { "" };

	chip_bed_init(&b->chips, 1 << 20, 1);
	b->null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (b->null < 0 || pipe2(b->in, O_CLOEXEC | O_NONBLOCK))
		abort();
	if (kind & 1 && console_create(&b->console, b->chips.m->loop, b->in[0], b->null, NULL, NULL, &e))
		abort();
	b->keeper.ops = &keeper_ops;
	machine_add_device(b->chips.m, &b->keeper);
	if (serial_create(b->chips.m, b->console) || i8042_create(b->chips.m) ||
	    rtc_create(b->chips.m) || pm_create(b->chips.m) || debugexit_create(b->chips.m))
		abort();
	chip_bed_reset(&b->chips);
}

static void tear_down(struct bed *b)
{
	chip_bed_fini(&b->chips);
	close(b->in[0]);
	close(b->in[1]);
	close(b->null);
}

static uint16_t port(struct feed *f)
{
	static const struct {
		uint16_t base, len;
	} ranges[] = {
		{ 0x3f8, 8 }, { 0x60, 1 }, { 0x64, 1 }, { 0x70, 2 }, { 0x600, 16 }, { 0xcf9, 1 },
		{ 0xf4, 4 }, { 0x3f6, 12 },
	};
	unsigned i = feed_below(f, 9), off = feed_u8(f);

	return i == 8 ? feed_u16(f) : (uint16_t)(ranges[i].base + off % ranges[i].len);
}

static void type(struct bed *b, struct feed *f)
{
	uint8_t text[32];
	unsigned n = feed_u8(f) & 31;

	feed_bytes(f, text, n);
	if (write(b->in[1], text, n) < 0 && errno != EAGAIN)
		abort();
}

static void step(struct bed *b, struct feed *f)
{
	uint16_t p;
	uint8_t v;

	switch (feed_below(f, 12)) {
	case 0:
		chip_bed_run(&b->chips, 0);
		break;
	case 1:
		type(b, f);
		break;
	case 2:
		if (feed_u8(f) < 32)
			chip_bed_reset(&b->chips);
		(void)chip_bed_request(&b->chips);
		(void)pm_power_button(b->chips.m);
		break;
	case 3:
		fake_kvm_fail(&b->chips.kvm, feed_u8(f) & 1 ? KVM_IRQ_LINE_STATUS : 0, feed_u8(f) & 3, EIO);
		break;
	case 4: /* the RTC by index */
		chip_out(&b->chips, 0x70, feed_u8(f), 1);
		chip_out(&b->chips, 0x71, feed_u8(f), 1);
		break;
	case 5:
		chip_out(&b->chips, 0x70, feed_u8(f) & 15, 1);
		(void)chip_in(&b->chips, 0x71, 1);
		break;
	case 6:
	case 7:
		p = port(f);
		v = feed_u8(f);
		(void)chip_in(&b->chips, p, v & 0x80 ? v & 7 : 1);
		break;
	default:
		p = port(f);
		v = feed_u8(f);
		chip_out(&b->chips, p, feed_u32(f), v & 0x80 ? (v & 3) + 1 : 1);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct feed f = { data, size };
	struct bed *b = calloc(1, sizeof(*b));

	if (!b)
		abort();
	set_up(b, feed_u8(&f));
	while (f.left)
		step(b, &f);
	fake_kvm_fail(&b->chips.kvm, 0, 0, 0);
	tear_down(b);
	free(b);
	return 0;
}
