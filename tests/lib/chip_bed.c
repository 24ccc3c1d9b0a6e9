/* SPDX-License-Identifier: MIT */
#include "chip_bed.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <cmocka.h>

void chip_bed_init(struct chip_bed *b, uint64_t mem, unsigned cpus)
{
	struct machine_config c = { .name = "test", .cpus = cpus, .mem = mem, .log_fd = -1 };
	struct err e = { "" };

	memset(b, 0, sizeof(*b));
	fake_kvm_init(&b->kvm);
	if (machine_create(&b->m, &c, &b->kvm.api, &e))
		fail_msg("machine_create: %s", e.text);
	region_reader_add(b->m->map, &b->reader);
}

void chip_bed_fini(struct chip_bed *b)
{
	region_reader_del(b->m->map, &b->reader);
	machine_destroy(b->m);
	assert_int_equal(fake_kvm_fini(&b->kvm), 0);
}

void chip_bed_reset(struct chip_bed *b)
{
	for (struct device *d = b->m->devices; d; d = d->next)
		if (d->ops->reset)
			d->ops->reset(d);
}

uint32_t chip_in(struct chip_bed *b, uint16_t port, unsigned len)
{
	uint8_t data[8] = { 0 };

	(void)region_read(b->m->map, &b->reader, SPACE_PIO, port, data, len);
	return load_le32(data);
}

void chip_out(struct chip_bed *b, uint16_t port, uint32_t value, unsigned len)
{
	(void)region_write(b->m->map, &b->reader, SPACE_PIO, port, &value, len);
}

static void stop(void *arg)
{
	loop_stop(arg);
}

void chip_bed_run(struct chip_bed *b, unsigned ms)
{
	struct loop_timer t = { .fire = stop, .arg = b->m->loop };

	loop_timer_set(b->m->loop, &t, clock_ns() + ms * 1000000ull);
	(void)loop_run(b->m->loop);
	loop_timer_cancel(b->m->loop, &t);
}

int chip_bed_request(struct chip_bed *b)
{
	return atomic_exchange(&b->m->request, MACHINE_RUNNING);
}
