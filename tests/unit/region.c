/* SPDX-License-Identifier: MIT */
#include "../lib/check.h"
#include "../lib/fake_kvm.h"
#include "machine/machine.h"
#include <stdatomic.h>
#include <stdlib.h>

struct recorder {
	struct region r;
	uint64_t off[32], value[32];
	unsigned len[32], nr, reads;
};

static uint64_t rec_read(void *arg, uint64_t off, unsigned len)
{
	struct recorder *x = arg;

	x->reads++;
	return 0x1122334455667700 + off;
}

static void rec_write(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	struct recorder *x = arg;

	if (x->nr < 32) {
		x->off[x->nr] = off;
		x->value[x->nr] = value;
		x->len[x->nr] = len;
	}
	x->nr++;
}

static const struct region_ops rec_ops = { .read = rec_read, .write = rec_write };
static const struct region_ops dword_ops = {
	.read = rec_read, .write = rec_write, .min_len = 4, .max_len = 4,
};

struct bed {
	struct fake_kvm kvm;
	struct sys sys;
	struct vm vm;
	struct region_map *map;
	struct region_reader rd;
};

static int setup(void **state)
{
	struct bed *b = calloc(1, sizeof(*b));
	struct err e;

	fake_kvm_init(&b->kvm);
	assert_int_equal(sys_open(&b->sys, &b->kvm.api, &e), 0);
	assert_int_equal(vm_create(&b->vm, &b->sys), 0);
	assert_int_equal(region_map_create(&b->map, &b->vm, NULL), 0);
	region_reader_add(b->map, &b->rd);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bed *b = *state;

	region_reader_del(b->map, &b->rd);
	region_map_destroy(b->map);
	assert_int_equal(b->kvm.nr_ioeventfds, 0);
	vm_destroy(&b->vm);
	sys_close(&b->sys);
	assert_int_equal(fake_kvm_fini(&b->kvm), 0);
	free(b);
	return 0;
}

static struct recorder *rec(enum region_space space, uint64_t base, uint64_t size, int priority)
{
	struct recorder *x = calloc(1, sizeof(*x));

	x->r = (struct region){
		.name = "rec", .space = space, .base = base, .size = size, .priority = priority,
		.enabled = true, .ops = &rec_ops, .arg = x,
	};
	return x;
}

static int w32(struct bed *b, uint64_t addr, uint32_t v)
{
	return region_write(b->map, &b->rd, SPACE_MMIO, addr, &v, 4);
}

static void overlaps(void **state)
{
	struct bed *b = *state;
	struct recorder *low = rec(SPACE_MMIO, 0x1000, 0x1000, 0);
	struct recorder *high = rec(SPACE_MMIO, 0x1400, 0x100, 1);
	struct recorder *equal = rec(SPACE_MMIO, 0x1f00, 0x200, 0);
	uint32_t v;

	assert_int_equal(region_add(b->map, &low->r), 0);
	assert_int_equal(region_add(b->map, &low->r), -EEXIST);
	assert_int_equal(region_add(b->map, &high->r), 0);
	assert_int_equal(region_add(b->map, &equal->r), 0);

	assert_int_equal(w32(b, 0x1000, 1), 0);
	assert_int_equal(w32(b, 0x1400, 2), 0);
	assert_int_equal(w32(b, 0x14fc, 3), 0);
	assert_int_equal(w32(b, 0x1500, 4), 0);
	assert_int_equal(w32(b, 0x1f00, 5), 0);  /* equal priority: the first added keeps it */
	assert_int_equal(w32(b, 0x2000, 6), 0);
	assert_int_equal(low->nr, 3);
	assert_int_equal(low->off[1], 0x500);
	assert_int_equal(high->nr, 2);
	assert_int_equal(high->off[1], 0xfc);
	assert_int_equal(equal->nr, 1);
	assert_int_equal(equal->off[0], 0x100);

	/* Nowhere: reads give ones and say so. */
	v = 0;
	assert_int_equal(region_read(b->map, &b->rd, SPACE_MMIO, 0x2100, &v, 4), -ENXIO);
	assert_int_equal(v, UINT32_MAX);
	assert_int_equal(region_read(b->map, &b->rd, SPACE_PIO, 0x1000, &v, 4), -ENXIO);

	/* Taking the high one away uncovers the low one. */
	assert_int_equal(region_enable(b->map, &high->r, false), 0);
	assert_int_equal(w32(b, 0x1400, 7), 0);
	assert_int_equal(low->nr, 4);
	assert_int_equal(region_del(b->map, &low->r), 0);
	assert_int_equal(region_del(b->map, &low->r), -ENOENT);
	assert_int_equal(w32(b, 0x1f00, 8), 0);
	assert_int_equal(equal->nr, 2);
	assert_int_equal(region_move(b->map, &equal->r, 0x8000), 0);
	assert_int_equal(w32(b, 0x1f00, 9), -ENXIO);
	assert_int_equal(w32(b, 0x81fc, 9), 0);
	assert_int_equal(region_del(b->map, &equal->r), 0);
	assert_int_equal(region_del(b->map, &high->r), 0);
	free(low);
	free(high);
	free(equal);
}

static void bad_regions(void **state)
{
	struct bed *b = *state;
	struct recorder *x = rec(SPACE_MMIO, 0, 0, 0);

	assert_int_equal(region_add(b->map, &x->r), -EINVAL);
	x->r.base = UINT64_MAX;
	x->r.size = 2;
	assert_int_equal(region_add(b->map, &x->r), -EINVAL);
	x->r.size = 1;
	assert_int_equal(region_add(b->map, &x->r), 0);
	assert_int_equal(region_del(b->map, &x->r), 0);
	x->r.space = SPACE_PIO;
	x->r.base = 0xfff8;
	x->r.size = 16;
	assert_int_equal(region_add(b->map, &x->r), -EINVAL);
	x->r.base = 0xfff0;
	assert_int_equal(region_add(b->map, &x->r), 0);
	assert_int_equal(region_move(b->map, &x->r, 0xfff1), -EINVAL);
	assert_int_equal(x->r.base, 0xfff0);
	assert_int_equal(region_del(b->map, &x->r), 0);
	free(x);
}

static void widths(void **state)
{
	struct bed *b = *state;
	struct recorder *x = rec(SPACE_MMIO, 0x1000, 0x10, 0), *y = rec(SPACE_MMIO, 0x1010, 0x10, 0);
	uint64_t v = 0x8877665544332211;
	uint8_t big[16];

	x->r.ops = &dword_ops;
	assert_int_equal(region_add(b->map, &x->r), 0);
	assert_int_equal(region_add(b->map, &y->r), 0);
	/* 8 bytes to a 4-byte device: two writes. */
	assert_int_equal(region_write(b->map, &b->rd, SPACE_MMIO, 0x1000, &v, 8), 0);
	assert_int_equal(x->nr, 2);
	assert_int_equal(x->value[0], 0x44332211);
	assert_int_equal(x->value[1], 0x88776655);
	assert_int_equal(x->off[1], 4);
	/* Too narrow: dropped, reads as ones. */
	assert_int_equal(region_write(b->map, &b->rd, SPACE_MMIO, 0x1000, &v, 2), 0);
	assert_int_equal(x->nr, 2);
	v = 0;
	assert_int_equal(region_read(b->map, &b->rd, SPACE_MMIO, 0x1000, &v, 1), 0);
	assert_int_equal(v, 0xff);
	assert_int_equal(x->reads, 0);
	/* Across the border: 2 bytes here (dropped, too narrow), 2 there. */
	v = 0xddccbbaa;
	assert_int_equal(region_write(b->map, &b->rd, SPACE_MMIO, 0x100e, &v, 4), 0);
	assert_int_equal(x->nr, 2);
	assert_int_equal(y->nr, 1);
	assert_int_equal(y->value[0], 0xddcc);
	assert_int_equal(y->len[0], 2);
	/* Off the end: what is nowhere is ones. */
	v = 0;
	assert_int_equal(region_read(b->map, &b->rd, SPACE_MMIO, 0x101c, &v, 8), -ENXIO);
	assert_int_equal(v >> 32, 0xffffffff);
	/* Odd lengths are split; 0 and 9 refused. */
	assert_int_equal(region_write(b->map, &b->rd, SPACE_MMIO, 0x1010, &v, 7), 0);
	assert_int_equal(y->nr, 4);
	assert_int_equal(y->len[1] + y->len[2] + y->len[3], 7);
	assert_int_equal(region_write(b->map, &b->rd, SPACE_MMIO, 0x1010, big, 9), -EINVAL);
	assert_int_equal(region_read(b->map, &b->rd, SPACE_MMIO, 0x1010, big, 0), -EINVAL);
	assert_int_equal(region_del(b->map, &x->r), 0);
	assert_int_equal(region_del(b->map, &y->r), 0);
	free(x);
	free(y);
}

static void doorbells_follow(void **state)
{
	struct bed *b = *state;
	struct recorder *bar = rec(SPACE_MMIO, 0x10000, 0x1000, 0), *cover = rec(SPACE_MMIO, 0x20000, 0x100, 5);
	struct notifier n;
	struct doorbell d = { .off = 0x10, .len = 4, .n = &n };
	struct doorbell bad;

	assert_int_equal(notifier_create(&n, 0, 0), 0);
	bar->r.enabled = false;
	assert_int_equal(region_add(b->map, &bar->r), 0);
	assert_int_equal(region_add_doorbell(b->map, &bar->r, &d), 0);
	assert_int_equal(region_add_doorbell(b->map, &bar->r, &d), -EEXIST);
	assert_int_equal(b->kvm.nr_ioeventfds, 0); /* not visible, not bound */
	assert_int_equal(region_enable(b->map, &bar->r, true), 0);
	assert_non_null(fake_kvm_find_doorbell(&b->kvm, false, 0x10010));
	assert_int_equal(region_move(b->map, &bar->r, 0x20000), 0);
	assert_null(fake_kvm_find_doorbell(&b->kvm, false, 0x10010));
	assert_non_null(fake_kvm_find_doorbell(&b->kvm, false, 0x20010));
	assert_int_equal(region_nr_bound(b->map), 1);
	/* Covered by another region: the guest no longer sees it, so it must not ring. */
	assert_int_equal(region_add(b->map, &cover->r), 0);
	assert_int_equal(b->kvm.nr_ioeventfds, 0);
	assert_int_equal(w32(b, 0x20010, 0), 0);
	assert_int_equal(notifier_drain(&n), 0);
	assert_int_equal(cover->nr, 1);
	assert_int_equal(region_del(b->map, &cover->r), 0);
	assert_int_equal(b->kvm.nr_ioeventfds, 1);
	/* A write that does come out is matched here: right width only. */
	assert_int_equal(w32(b, 0x20010, 0), 0);
	assert_int_equal(notifier_drain(&n), 1);
	assert_int_equal(bar->nr, 0);
	assert_int_equal(region_write(b->map, &b->rd, SPACE_MMIO, 0x20010, "ab", 2), 0);
	assert_int_equal(notifier_drain(&n), 0);
	assert_int_equal(bar->nr, 1);
	assert_int_equal(region_del_doorbell(b->map, &d), 0);
	assert_int_equal(region_del_doorbell(b->map, &d), -ENOENT);
	assert_int_equal(b->kvm.nr_ioeventfds, 0);

	bad = (struct doorbell){ .off = 0xffe, .len = 4, .n = &n };
	assert_int_equal(region_add_doorbell(b->map, &bar->r, &bad), -EINVAL);
	bad = (struct doorbell){ .off = 0x1000, .len = 0, .n = &n };
	assert_int_equal(region_add_doorbell(b->map, &bar->r, &bad), -EINVAL);
	bad = (struct doorbell){ .off = 0, .len = 3, .n = &n };
	assert_int_equal(region_add_doorbell(b->map, &bar->r, &bad), -EINVAL);
	bad = (struct doorbell){ .off = 0, .len = 0, .match = true, .n = &n };
	assert_int_equal(region_add_doorbell(b->map, &bar->r, &bad), -EINVAL);
	assert_int_equal(region_del(b->map, &bar->r), 0);
	notifier_destroy(&n);
	free(bar);
	free(cover);
}

static void doorbell_match(void **state)
{
	struct bed *b = *state;
	struct recorder *io = rec(SPACE_PIO, 0xc000, 0x40, 0);
	struct notifier n[3];
	struct doorbell d[3];

	for (int i = 0; i < 3; i++) {
		assert_int_equal(notifier_create(&n[i], 0, 0), 0);
		d[i] = (struct doorbell){
			.off = 16, .len = 2, .match = true, .data = (uint64_t)i, .n = &n[i],
			.path = i == 2 ? NOTIFY_EXIT : NOTIFY_IOEVENTFD,
		};
	}
	assert_int_equal(region_add(b->map, &io->r), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(region_add_doorbell(b->map, &io->r, &d[i]), 0);
	assert_int_equal(b->kvm.nr_ioeventfds, 2); /* notify=exit is not bound */
	for (uint16_t v = 0; v < 4; v++)
		assert_int_equal(region_write(b->map, &b->rd, SPACE_PIO, 0xc010, &v, 2), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(notifier_drain(&n[i]), 1);
	assert_int_equal(io->nr, 1); /* 3 matched nobody and reached the device */
	assert_int_equal(io->value[0], 3);
	assert_int_equal(region_del(b->map, &io->r), 0);
	assert_int_equal(b->kvm.nr_ioeventfds, 0);
	for (int i = 0; i < 3; i++)
		notifier_destroy(&n[i]);
	free(io);
}

/* A bind that fails in the middle of a commit: everything as before. */
static void all_or_nothing(void **state)
{
	struct bed *b = *state;
	struct recorder *bar = rec(SPACE_MMIO, 0x10000, 0x1000, 0), *other = rec(SPACE_MMIO, 0x50000, 0x1000, 0);
	struct notifier n[3];
	struct doorbell d[3];

	assert_int_equal(region_add(b->map, &bar->r), 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(notifier_create(&n[i], 0, 0), 0);
		d[i] = (struct doorbell){ .off = (uint64_t)i * 4, .len = 4, .n = &n[i] };
		assert_int_equal(region_add_doorbell(b->map, &bar->r, &d[i]), 0);
	}
	for (unsigned nth = 4; nth <= 6; nth++) { /* 3 unbinds come first */
		fake_kvm_fail(&b->kvm, KVM_IOEVENTFD, nth, ENOSPC);
		region_begin(b->map);
		assert_int_equal(region_add(b->map, &other->r), 0);
		assert_int_equal(region_move(b->map, &bar->r, 0x30000), 0);
		assert_int_equal(region_commit(b->map), -ENOSPC);
		assert_int_equal(bar->r.base, 0x10000);
		assert_int_equal(w32(b, 0x50000, 1), -ENXIO);
		assert_int_equal(w32(b, 0x30800, 1), -ENXIO);
		assert_int_equal(w32(b, 0x10800, 1), 0);
		assert_int_equal(b->kvm.nr_ioeventfds, 3);
		for (uint64_t i = 0; i < 3; i++)
			assert_non_null(fake_kvm_find_doorbell(&b->kvm, false, 0x10000 + i * 4));
	}
	/* Order and a removal are undone too. */
	assert_int_equal(region_add(b->map, &other->r), 0);
	fake_kvm_fail(&b->kvm, KVM_IOEVENTFD, 4, ENOSPC);
	region_begin(b->map);
	assert_int_equal(region_del(b->map, &other->r), 0);
	assert_int_equal(region_del_doorbell(b->map, &d[0]), 0);
	assert_int_equal(region_add_doorbell(b->map, &bar->r, &d[0]), 0);
	assert_int_equal(region_move(b->map, &bar->r, 0x30000), 0);
	assert_int_equal(region_commit(b->map), -ENOSPC);
	assert_int_equal(w32(b, 0x50000, 1), 0);
	assert_int_equal(b->kvm.nr_ioeventfds, 3);
	/* And the same without the fault goes through. */
	assert_int_equal(region_move(b->map, &bar->r, 0x30000), 0);
	assert_int_equal(b->kvm.nr_ioeventfds, 3);
	assert_non_null(fake_kvm_find_doorbell(&b->kvm, false, 0x30008));
	assert_int_equal(region_del(b->map, &bar->r), 0);
	assert_int_equal(region_del(b->map, &other->r), 0);
	for (int i = 0; i < 3; i++)
		notifier_destroy(&n[i]);
	free(bar);
	free(other);
}

/* ---- many readers while the map changes -------------------------------- */

struct race {
	struct bed *b;
	_Atomic bool stop;
	_Atomic uint64_t hits, misses;
};

static uint64_t race_read(void *arg, uint64_t off, unsigned len)
{
	return 0xabcd0000 + off;
}

static const struct region_ops race_ops = { .read = race_read };

static void *race_reader(void *arg)
{
	struct race *x = arg;
	struct region_reader rd;

	region_reader_add(x->b->map, &rd);
	while (!x->stop) {
		for (uint64_t a = 0; a < 8; a++) {
			uint32_t v = 0;
			int r = region_read(x->b->map, &rd, SPACE_MMIO, a * 0x1000 + 4, &v, 4);

			/* Either the device answered, or nobody: never half of it. */
			if (r == 0 && v == 0xabcd0004)
				x->hits++;
			else if (r == -ENXIO && v == UINT32_MAX)
				x->misses++;
			else
				abort();
		}
	}
	region_reader_del(x->b->map, &rd);
	return NULL;
}

static void readers_and_commits(void **state)
{
	struct bed *b = *state;
	struct race x = { .b = b };
	struct region r[8];
	pthread_t t[2];

	for (unsigned i = 0; i < 8; i++) {
		r[i] = (struct region){
			.name = "race", .space = SPACE_MMIO, .base = i * 0x1000ull, .size = 0x1000,
			.enabled = true, .ops = &race_ops,
		};
		assert_int_equal(region_add(b->map, &r[i]), 0);
	}
	for (int i = 0; i < 2; i++)
		assert_int_equal(thread_create(&t[i], "reader", race_reader, &x), 0);
	for (unsigned i = 0; i < 20000 || (x.hits < 1000 && i < 10000000); i++)
		assert_int_equal(region_enable(b->map, &r[i % 8], i / 8 % 2), 0);
	x.stop = true;
	for (int i = 0; i < 2; i++)
		thread_join(t[i]);
	assert_true(x.hits >= 1000);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(region_del(b->map, &r[i]), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(overlaps, setup, teardown),
		cmocka_unit_test_setup_teardown(bad_regions, setup, teardown),
		cmocka_unit_test_setup_teardown(widths, setup, teardown),
		cmocka_unit_test_setup_teardown(doorbells_follow, setup, teardown),
		cmocka_unit_test_setup_teardown(doorbell_match, setup, teardown),
		cmocka_unit_test_setup_teardown(all_or_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(readers_and_commits, setup, teardown),
	};

	return RUN(tests);
}
