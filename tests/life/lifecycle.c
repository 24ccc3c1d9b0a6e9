/* SPDX-License-Identifier: MIT */
#include "../lib/check.h"
#include "lifecycle.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define IMAGE_SIZE (1 << 20)

struct images {
	char path[2][64];
	const char *name[2];
};

static void images_create(struct images *im)
{
	for (unsigned i = 0; i < 2; i++) {
		int fd;

		strcpy(im->path[i], "/tmp/belfry-life-XXXXXX");
		fd = mkstemp(im->path[i]);
		assert_true(fd >= 0);
		assert_int_equal(ftruncate(fd, IMAGE_SIZE), 0);
		close(fd);
		im->name[i] = im->path[i];
	}
}

static void images_remove(struct images *im)
{
	for (unsigned i = 0; i < 2; i++)
		unlink(im->path[i]);
}

static struct full_options options(const struct lifecycle *l, const struct images *im)
{
	return (struct full_options){
		.api = l->api, .cpus = 2, .disk = { im->name[0], im->name[1] },
	};
}

/* A machine without boot images: the vCPUs' registers are set again at each reset. */
struct preparer {
	struct device dev;
	void (*prepare)(struct machine *m);
};

static void prepare_reset(struct device *d)
{
	container_of(d, struct preparer, dev)->prepare(d->machine);
}

static void prepare_destroy(struct device *d)
{
	free(container_of(d, struct preparer, dev));
}

static const struct device_ops preparer_ops = {
	.type = "preparer", .reset = prepare_reset, .destroy = prepare_destroy,
};

static void start(const struct lifecycle *l, struct full_machine *f)
{
	struct preparer *p;
	struct err e = { "" };

	if (l->prepare) {
		p = calloc(1, sizeof(*p));
		assert_non_null(p);
		p->dev.ops = &preparer_ops;
		p->prepare = l->prepare;
		machine_add_device(f->g.m, &p->dev);
	}
	if (machine_start(f->g.m, NULL, &e))
		fail_msg("%s", e.text);
	full_drive(f);
}

static void stop_soon(void *arg)
{
	machine_request(arg, MACHINE_QUIT);
}

/* What a life may end in. */
static void one_life(const struct lifecycle *l, const struct images *im, unsigned round)
{
	struct full_machine *f = calloc(1, sizeof(*f));
	struct full_options o = options(l, im);

	assert_non_null(f);
	full_create(f, &o);
	switch (round % 4) {
	case 0: /* never started */
		break;
	case 1: /* in the middle of it */
		start(l, f);
		full_work(f, round);
		break;
	case 2: /* pauses, with work before and after */
		start(l, f);
		full_work(f, round);
		machine_pause(f->g.m);
		machine_resume(f->g.m);
		full_work(f, round + 1);
		break;
	case 3: /* a reset by the guest, then the operator's end */
		start(l, f);
		full_work(f, round);
		machine_request(f->g.m, MACHINE_RESET);
		assert_int_equal(loop_post(f->g.m->loop, stop_soon, f->g.m), 0);
		assert_int_equal(machine_run(f->g.m), MACHINE_QUIT);
		break;
	}
	full_destroy(f);
	free(f);
}

void lifecycle_rounds(const struct lifecycle *l, unsigned rounds)
{
	struct full_count before, after;
	struct images im;

	images_create(&im);
	/* What is made once (libraries, arenas, stacks that are kept) is made here. */
	for (unsigned i = 0; i < 12; i++)
		one_life(l, &im, i);
	full_count(&before);
	for (unsigned i = 0; i < rounds; i++)
		one_life(l, &im, i);
	full_count(&after);
	images_remove(&im);
	assert_int_equal(after.fds, before.fds);
	assert_int_equal(after.threads, before.threads);
	/* Allocators keep some and give some back: a leak would show once a round. */
	assert_true(after.maps < before.maps + rounds / 2);
	assert_true(after.heap < before.heap + rounds * 128);
}

void lifecycle_two(const struct lifecycle *l)
{
	struct full_machine *a = calloc(1, sizeof(*a)), *b = calloc(1, sizeof(*b));
	struct images ia, ib;
	struct full_options oa, ob;

	assert_true(a && b);
	images_create(&ia);
	images_create(&ib);
	oa = options(l, &ia);
	ob = options(l, &ib);
	full_create(a, &oa);
	full_create(b, &ob);
	start(l, a);
	start(l, b);
	for (unsigned i = 0; i < 8; i++) {
		full_work(a, i);
		full_work(b, i + 100);
	}
	/* One stands still, resets, goes: the other works on. */
	machine_pause(a->g.m);
	full_work(b, 200);
	machine_resume(a->g.m);
	full_work(a, 201);
	full_destroy(a);
	full_work(b, 202);
	full_create(a, &oa);
	full_work(b, 203);
	full_destroy(b);
	start(l, a);
	full_work(a, 204);
	full_destroy(a);
	images_remove(&ia);
	images_remove(&ib);
	free(a);
	free(b);
}

void lifecycle_paths(const struct lifecycle *l)
{
	static const enum notify_path notify[] = { NOTIFY_IOEVENTFD, NOTIFY_EXIT };
	static const enum inject_path inject[] = { INJECT_IRQFD, INJECT_MSI, INJECT_LINE };
	struct images im;

	images_create(&im);
	for (unsigned n = 0; n < ARRAY_SIZE(notify); n++) {
		for (unsigned i = 0; i < ARRAY_SIZE(inject); i++) {
			struct full_machine *f = calloc(1, sizeof(*f));
			struct full_options o = options(l, &im);
			unsigned bound;

			assert_non_null(f);
			o.notify = notify[n];
			o.inject = inject[i];
			full_create(f, &o);
			start(l, f);
			/* One doorbell a queue: 2 + 2 + 2 + 2 + 1, or none. */
			bound = region_nr_bound(f->g.m->map);
			assert_int_equal(bound, notify[n] == NOTIFY_IOEVENTFD ? 9 : 0);
			for (unsigned r = 0; r < 4; r++)
				full_work(f, r);
			full_destroy(f);
			free(f);
		}
	}
	images_remove(&im);
}
