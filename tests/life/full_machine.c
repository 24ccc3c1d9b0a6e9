/* SPDX-License-Identifier: MIT */
#include "../lib/check.h"
#include "../lib/process.h"
#include "full_machine.h"
#include "device/device.h"
#include <linux/virtio_blk.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SECTORS 8

static void must(int r, const struct err *e)
{
	if (r)
		fail_msg("%s", e->text);
}

/* The console must outlive the devices that use it, and not the loop. */
struct console_owner {
	struct device dev;
	struct console *console;
};

static void owner_destroy(struct device *d)
{
	struct console_owner *o = container_of(d, struct console_owner, dev);

	console_destroy(o->console);
	free(o);
}

static const struct device_ops owner_ops = { .type = "console", .destroy = owner_destroy };

static struct console *add_console(struct machine *m)
{
	struct console_owner *o = calloc(1, sizeof(*o));
	struct err e = { "" };

	assert_non_null(o);
	must(console_create(&o->console, m->loop, -1, -1, NULL, NULL, &e), &e);
	o->dev.ops = &owner_ops;
	machine_add_device(m, &o->dev);
	return o->console;
}

static int create_net(struct net **out, struct loop *l, void *arg, struct err *e)
{
	return net_user_create(out, l, &(struct net_user_config){ 0 }, e);
}

static void add_disk(struct full_machine *f, const struct full_options *o, unsigned i,
		     const struct virtio_options *v)
{
	const struct block_config image = { .path = o->disk[i] };
	struct blk_config c = { .iothread = i == 0, .queues = 2, .o = *v };
	struct err e = { "" };
	char name[8];

	snprintf(name, sizeof(name), "disk%u", i);
	must(block_open(&c.block, &image, &e), &e);
	must(virtio_blk_create(f->g.m, f->g.bus, name, &c, &e), &e);
}

void full_create(struct full_machine *f, const struct full_options *o)
{
	const struct machine_config c = {
		.name = "full", .cpus = o->cpus, .mem = 64 << 20, .log_fd = 2,
		.log_level = LOG_ERROR,
	};
	const struct virtio_options v = { .notify = o->notify, .inject = o->inject };
	struct net_config net = { .create = create_net, .iothread = true,
				  .mac = { 0x52, 0x54, 0, 1, 2, 3 }, .o = v };
	struct console_config console = { .o = v };
	struct rng_config rng = { .o = v };
	struct err e = { "" };
	struct machine *m;

	memset(f, 0, sizeof(*f));
	f->fake = !o->api;
	fake_kvm_init(&f->g.k);
	must(machine_create(&m, &c, o->api ? o->api : &f->g.k.api, &e), &e);
	f->g.m = m;
	region_reader_add(m->map, &f->g.rd);
	console.console = add_console(m);
	assert_int_equal(pci_bus_create(&f->g.bus, m), 0);
	assert_int_equal(serial_create(m, NULL), 0);
	assert_int_equal(i8042_create(m), 0);
	assert_int_equal(rtc_create(m), 0);
	assert_int_equal(pm_create(m), 0);
	assert_int_equal(debugexit_create(m), 0);
	add_disk(f, o, 0, &v);
	add_disk(f, o, 1, &v);
	must(virtio_net_create(m, f->g.bus, "net0", &net, &e), &e);
	must(virtio_console_create(m, f->g.bus, "console0", &console, &e), &e);
	must(virtio_rng_create(m, f->g.bus, "rng0", &rng, &e), &e);
}

void full_drive(struct full_machine *f)
{
	for (unsigned i = 0; i < NR_FULL; i++) {
		driver_open(&f->d[i], &f->g, i + 1);
		f->d[i].next = (gpa_t)(i + 1) * (8 << 20);
		driver_start(&f->d[i], UINT64_MAX, i == FULL_RNG ? 1 : 2, 64);
	}
}

static void expect(struct virtio_driver *d, unsigned queue, unsigned nr)
{
	if (!driver_wait(d, queue, nr))
		fail_msg("the device in slot %u does not answer", d->slot);
	while (nr--)
		driver_take(d, queue, NULL);
}

/* One transfer by queue 0 or 1. */
static void transfer(struct virtio_driver *d, unsigned queue, gpa_t head, gpa_t data, bool in)
{
	struct virtio_blk_outhdr h = { .type = in ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT,
				       .sector = queue * SECTORS };
	const struct segment s[] = {
		{ head, sizeof(h), false }, { data, SECTORS * 512, in }, { head + 512, 1, true },
	};

	memcpy(driver_mem(d, head, sizeof(h)), &h, sizeof(h));
	driver_add(d, queue, s, ARRAY_SIZE(s));
	driver_kick(d, queue);
	expect(d, queue, 1);
	assert_int_equal(*(uint8_t *)driver_mem(d, head + 512, 1), VIRTIO_BLK_S_OK);
}

static void work_disk(struct virtio_driver *d, unsigned round)
{
	for (unsigned q = 0; q < 2; q++) {
		/* Far from the rings, which driver_start() put at d->next. */
		gpa_t head = d->next + (4 << 20) + q * 0x10000, data = head + 0x1000;
		uint8_t *p = driver_mem(d, data, 2 * SECTORS * 512);

		for (unsigned i = 0; i < SECTORS * 512; i++)
			p[i] = (uint8_t)(i * 13 + round * 7 + q);
		memset(p + SECTORS * 512, 0, SECTORS * 512);
		transfer(d, q, head, data, false);
		transfer(d, q, head, data + SECTORS * 512, true);
		assert_memory_equal(p, p + SECTORS * 512, SECTORS * 512);
	}
}

void full_work(struct full_machine *f, unsigned round)
{
	struct virtio_driver *rng = &f->d[FULL_RNG], *con = &f->d[FULL_CONSOLE];
	struct virtio_driver *net = &f->d[FULL_NET];
	struct segment s;

	work_disk(&f->d[FULL_DISK], round);
	work_disk(&f->d[FULL_DISK_MAIN], round);
	s = (struct segment){ rng->next + (4 << 20), 64, true };
	driver_add(rng, 0, &s, 1);
	driver_kick(rng, 0);
	expect(rng, 0, 1);
	s = (struct segment){ con->next + (4 << 20), 80, false };
	driver_add(con, 1, &s, 1);
	driver_kick(con, 1);
	expect(con, 1, 1);
	/* A frame of zeroes, which nobody answers; and a buffer that stays with the device. */
	s = (struct segment){ net->next + (4 << 20), 12 + 60, false };
	driver_add(net, 1, &s, 1);
	driver_kick(net, 1);
	expect(net, 1, 1);
	if (round % 8 == 0) {
		s = (struct segment){ net->next + (5 << 20), 2048, true };
		driver_add(net, 0, &s, 1);
		driver_kick(net, 0);
	}
}

void full_destroy(struct full_machine *f)
{
	region_reader_del(f->g.m->map, &f->g.rd);
	machine_destroy(f->g.m);
	assert_int_equal(f->g.k.nr_ioeventfds, 0);
	assert_int_equal(f->g.k.nr_irqfds, 0);
	assert_int_equal(fake_kvm_fini(&f->g.k), 0);
}

static unsigned count_lines(const char *path)
{
	FILE *in = fopen(path, "r");
	unsigned n = 0;
	int c;

	assert_non_null(in);
	while ((c = getc(in)) != EOF)
		n += c == '\n';
	fclose(in);
	return n;
}

void full_count(struct full_count *c)
{
	*c = (struct full_count){
		.fds = open_fds(),
		.threads = threads(),
		.maps = count_lines("/proc/self/maps"),
		.heap = mallinfo2().uordblks,
	};
}
