/* SPDX-License-Identifier: MIT
 * Every way for a kick and for a call through the machine's region map and
 * interrupt fabric, with bare-metal guests on the kernel's KVM (and, included by
 * other files, on other halves). What the guest
 * and the device see must be the same whichever way is taken.
 */
#include "../lib/check.h"
#include "machine/machine.h"
#include "monitor/bare.h"
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

/* Another file may include this one with a KVM half of its own. */
#ifndef KVM_HALF
static const struct kvmapi *kvm_half(void)
{
	static const struct kvmapi kernel = { .ops = &dev_kvm_ops };

	return &kernel;
}

static int kvm_half_done(void **state)
{
	return 0;
}

/* Of a test's signals, on this half. See docs/INTERRUPTS.md, "A signal during the bind". */
#define MAY_COME_TWICE 3
#endif

#define REPEATS   64
#define MSI(cpu)  (0xfee00000ull | (uint64_t)(cpu) << 12)
#define PATIENCE  (120 * NSEC_PER_SEC) /* a busy machine's */
#define LAST      0x20 /* a vector of the lowest class, for see_all() */

/* A machine with the bare guest in its memory. */
struct rig {
	struct machine *m;
	uint8_t *mem;
	struct region done;
	_Atomic unsigned nr_done;
};

static void on_done(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	atomic_fetch_add(&((struct rig *)arg)->nr_done, 1);
}

static const struct region_ops done_ops = { .write = on_done };

static void rig_create(struct rig *r, unsigned cpus, unsigned max_routes)
{
	const struct machine_config c = {
		.name = "paths", .cpus = cpus, .mem = 2 << 20, .max_routes = max_routes,
		.log_level = LOG_ERROR, .log_fd = 2,
	};
	struct err e;

	memset(r, 0, sizeof(*r));
	if (machine_create(&r->m, &c, kvm_half(), &e))
		fail_msg("%s", e.text);
	r->mem = ram_ptr(&r->m->ram, 0, BARE_MEM_SIZE);
	assert_non_null(r->mem);
	bare_build(r->mem, cpus, true);
	r->done = (struct region){
		.name = "done", .space = SPACE_PIO, .base = BARE_PORT_DONE, .size = 1,
		.enabled = true, .ops = &done_ops, .arg = r,
	};
	assert_int_equal(region_add(r->m->map, &r->done), 0);
	for (unsigned i = 0; i < cpus; i++)
		assert_int_equal(bare_enable_lapic(&r->m->cpus[i].vcpu), 0);
}

/* Let vCPU 0 do the job and the others wait for interrupts. */
static void rig_start(struct rig *r, const struct bare_job *job)
{
	const struct bare_job idle = { .entry = BARE_IDLE };
	struct err e;

	for (unsigned i = 0; i < r->m->config.cpus; i++)
		assert_int_equal(bare_enter(&r->m->cpus[i].vcpu, i, i ? &idle : job), 0);
	if (machine_start(r->m, NULL, &e))
		fail_msg("%s", e.text);
}

/* Give vCPU 0 another job. */
static void rig_again(struct rig *r, const struct bare_job *job)
{
	cpu_hold(&r->m->cpus[0]);
	assert_int_equal(bare_enter(&r->m->cpus[0].vcpu, 0, job), 0);
	cpu_release(&r->m->cpus[0]);
}

static void rig_destroy(struct rig *r)
{
	for (unsigned i = 0; i < r->m->config.cpus; i++)
		for (unsigned v = 0; v < 32; v++)
			assert_int_equal(bare_count_in(r->mem, i, v), 0); /* no exception */
	machine_destroy(r->m);
}

static void wait_done(struct rig *r, unsigned n)
{
	uint64_t deadline = clock_ns() + PATIENCE;

	while (atomic_load(&r->nr_done) < n) {
		if (clock_ns() > deadline)
			fail_msg("the guest has not come to its end");
		usleep(50);
	}
}

static void wait_count(struct rig *r, unsigned cpu, unsigned vector, uint64_t n)
{
	uint64_t deadline = clock_ns() + PATIENCE;

	while (bare_count_in(r->mem, cpu, vector) < n) {
		if (clock_ns() > deadline)
			fail_msg("vector %#x on vCPU %u: %llu instead of %llu", vector, cpu,
				 (unsigned long long)bare_count_in(r->mem, cpu, vector),
				 (unsigned long long)n);
		usleep(20);
	}
	assert_int_equal(bare_count_in(r->mem, cpu, vector), n);
}

/* Nothing more comes. */
static void still_count(struct rig *r, unsigned cpu, unsigned vector, uint64_t n)
{
	usleep(3000);
	assert_int_equal(bare_count_in(r->mem, cpu, vector), n);
}

/* The vCPU has taken what waits for it: what is sent now comes after all of it. */
static void see_all(struct rig *r, unsigned cpu)
{
	uint64_t n = bare_count_in(r->mem, cpu, LAST);

	assert_int_equal(vm_signal_msi(&r->m->vm, MSI(cpu), LAST), 1);
	wait_count(r, cpu, LAST, n + 1);
}

/* ---- kicks ------------------------------------------------------------- */

struct gadget {
	struct region region;
	struct doorbell bell;
	struct notifier n;
	_Atomic unsigned writes;
	_Atomic uint64_t last;
};

static void on_write(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	struct gadget *d = arg;

	atomic_fetch_add(&d->writes, 1);
	atomic_store(&d->last, value);
}

static const struct region_ops write_ops = { .write = on_write };

static void gadget_add(struct gadget *d, struct rig *r, enum region_space space, uint64_t base,
		       const struct doorbell *bell)
{
	memset(d, 0, sizeof(*d));
	assert_int_equal(notifier_create(&d->n, 0, 0), 0);
	d->bell = *bell;
	d->bell.n = &d->n;
	d->region = (struct region){
		.name = "device", .space = space, .base = base, .size = 16, .enabled = true,
		.ops = &write_ops, .arg = d,
	};
	region_begin(r->m->map);
	assert_int_equal(region_add(r->m->map, &d->region), 0);
	assert_int_equal(region_add_doorbell(r->m->map, &d->region, &d->bell), 0);
	assert_int_equal(region_commit(r->m->map), 0);
}

static const struct kick_case {
	const char *what;
	enum region_space space;
	enum bare_entry entry;
	unsigned at;          /* where in the device the guest writes */
	uint64_t value;
	struct doorbell bell;
	bool rings;           /* the doorbell takes it; else the device's write op does */
} kick_cases[] = {
	{ "MMIO, 4 bytes", SPACE_MMIO, BARE_REPEAT_MMIO4, 0, 1, { .len = 4 }, true },
	{ "MMIO, match", SPACE_MMIO, BARE_REPEAT_MMIO4, 0, 5,
	  { .len = 4, .match = true, .data = 5 }, true },
	{ "MMIO, other data", SPACE_MMIO, BARE_REPEAT_MMIO4, 0, 6,
	  { .len = 4, .match = true, .data = 5 }, false },
	{ "MMIO, other width", SPACE_MMIO, BARE_REPEAT_MMIO2, 0, 5,
	  { .len = 4, .match = true, .data = 5 }, false },
	{ "MMIO, 4-byte bell, 2-byte write", SPACE_MMIO, BARE_REPEAT_MMIO2, 0, 1, { .len = 4 }, false },
	{ "MMIO, any width, 2", SPACE_MMIO, BARE_REPEAT_MMIO2, 0, 1, { .len = 0 }, true },
	{ "MMIO, any width, 8", SPACE_MMIO, BARE_REPEAT_MMIO8, 0, 1, { .len = 0 }, true },
	{ "MMIO, 8 bytes, match", SPACE_MMIO, BARE_REPEAT_MMIO8, 8, 1ull << 40,
	  { .off = 8, .len = 8, .match = true, .data = 1ull << 40 }, true },
	{ "MMIO, 8 bytes, other upper half", SPACE_MMIO, BARE_REPEAT_MMIO8, 8, 1ull << 40,
	  { .off = 8, .len = 8, .match = true, .data = 1ull << 41 }, false },
	{ "MMIO, beside the bell", SPACE_MMIO, BARE_REPEAT_MMIO4, 4, 1, { .len = 4 }, false },
	{ "port, match", SPACE_PIO, BARE_REPEAT_OUT2, 0, 3,
	  { .len = 2, .match = true, .data = 3 }, true },
	{ "port, other data", SPACE_PIO, BARE_REPEAT_OUT2, 0, 4,
	  { .len = 2, .match = true, .data = 3 }, false },
	{ "port, other width", SPACE_PIO, BARE_REPEAT_OUT4, 0, 3,
	  { .len = 2, .match = true, .data = 3 }, false },
	{ "port, 4 bytes", SPACE_PIO, BARE_REPEAT_OUT4, 4, 9, { .off = 4, .len = 4 }, true },
	{ "port, beside the bell", SPACE_PIO, BARE_REPEAT_OUT4, 8, 9, { .off = 4, .len = 4 }, false },
};

static void run_kick_case(const struct kick_case *k, enum notify_path path)
{
	uint64_t base = k->space == SPACE_MMIO ? BARE_MMIO : 0x520, signals, exits;
	struct bare_job job = { .entry = k->entry, .where = base + k->at, .value = k->value,
				.count = REPEATS };
	struct doorbell bell = k->bell;
	struct gadget d;
	struct rig r;

	bell.path = path;
	rig_create(&r, 1, 0);
	gadget_add(&d, &r, k->space, base, &bell);
	rig_start(&r, &job);
	wait_done(&r, 1);
	signals = notifier_drain(&d.n);
	exits = atomic_load(&d.bell.exits);
	print_message("  %-34s %-9s %3u signals, %3u by exit, %3u writes\n", k->what,
		      path == NOTIFY_EXIT ? "exit" : "ioeventfd", (unsigned)signals, (unsigned)exits,
		      atomic_load(&d.writes));
	assert_int_equal(signals, k->rings ? REPEATS : 0);
	assert_int_equal(atomic_load(&d.writes), k->rings ? 0 : REPEATS);
	if (!k->rings)
		assert_int_equal(atomic_load(&d.last), k->value);
	assert_int_equal(exits, path == NOTIFY_EXIT ? signals : 0);
	rig_destroy(&r);
	notifier_destroy(&d.n);
}

static void test_kick_paths(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(kick_cases); i++) {
		run_kick_case(&kick_cases[i], NOTIFY_IOEVENTFD);
		run_kick_case(&kick_cases[i], NOTIFY_EXIT);
	}
}

/* The region moves (a BAR), goes and comes: its doorbell with it, between two of the guest's writes. */
static void test_doorbell_follows(void **state)
{
	struct bare_job job = { .entry = BARE_REPEAT_MMIO4, .where = BARE_MMIO, .value = 1,
				.count = 8 };
	const struct doorbell bell = { .len = 4, .path = NOTIFY_IOEVENTFD };
	struct gadget d;
	struct rig r;
	unsigned bound;

	rig_create(&r, 1, 0);
	gadget_add(&d, &r, SPACE_MMIO, BARE_MMIO, &bell);
	bound = region_nr_bound(r.m->map);
	rig_start(&r, &job);
	wait_done(&r, 1);
	assert_int_equal(notifier_drain(&d.n), 8);

	assert_int_equal(region_move(r.m->map, &d.region, BARE_MMIO + 0x1000), 0);
	rig_again(&r, &job); /* the old place: nobody */
	wait_done(&r, 2);
	assert_int_equal(notifier_drain(&d.n), 0);
	assert_int_equal(atomic_load(&r.m->cpus[0].nowhere), 8);

	job.where = BARE_MMIO + 0x1000;
	rig_again(&r, &job);
	wait_done(&r, 3);
	assert_int_equal(notifier_drain(&d.n), 8);

	assert_int_equal(region_enable(r.m->map, &d.region, false), 0);
	assert_int_equal(region_nr_bound(r.m->map), bound - 1);
	rig_again(&r, &job);
	wait_done(&r, 4);
	assert_int_equal(notifier_drain(&d.n), 0);

	assert_int_equal(region_enable(r.m->map, &d.region, true), 0);
	rig_again(&r, &job);
	wait_done(&r, 5);
	assert_int_equal(notifier_drain(&d.n), 8);
	assert_int_equal(atomic_load(&d.writes), 0);
	rig_destroy(&r);
	notifier_destroy(&d.n);
}

/* Two doorbells at one place that cannot be told apart: the commit fails and undoes itself. */
static void test_doorbell_collision(void **state)
{
	struct bare_job job = { .entry = BARE_REPEAT_MMIO4, .where = BARE_MMIO, .value = 1,
				.count = 8 };
	const struct doorbell bell = { .len = 4, .path = NOTIFY_IOEVENTFD };
	struct doorbell second;
	struct notifier n;
	struct gadget d;
	struct rig r;

	rig_create(&r, 1, 0);
	gadget_add(&d, &r, SPACE_MMIO, BARE_MMIO, &bell);
	assert_int_equal(notifier_create(&n, 0, 0), 0);
	second = bell;
	second.n = &n;
	assert_int_equal(region_add_doorbell(r.m->map, &d.region, &second), -EEXIST);
	rig_start(&r, &job);
	wait_done(&r, 1);
	assert_int_equal(notifier_drain(&d.n), 8); /* the first works on */
	assert_int_equal(notifier_drain(&n), 0);
	rig_destroy(&r);
	notifier_destroy(&d.n);
	notifier_destroy(&n);
}

/* ---- calls ------------------------------------------------------------- */

static const enum inject_path message_paths[] = { INJECT_IRQFD, INJECT_MSI };
static const struct bare_job idle_job = { .entry = BARE_IDLE };

static void test_call_paths(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(message_paths); i++) {
		struct irq_msi msi;
		struct rig r;

		rig_create(&r, 2, 0);
		assert_int_equal(irq_msi_create(&msi, r.m->irq, message_paths[i], "t"), 0);
		assert_int_equal(msi.path, message_paths[i]);
		assert_int_equal(irq_msi_set(&msi, MSI(0), 0x51), 0);
		assert_int_equal(irq_msi_unmask(&msi), 0);
		rig_start(&r, &idle_job);
		for (unsigned n = 1; n <= REPEATS; n++) {
			irq_msi_signal(&msi);
			wait_count(&r, 0, 0x51, n);
		}
		for (unsigned v = 0x20; v < 256; v++)
			if (v != 0x51)
				assert_int_equal(bare_count_in(r.mem, 0, v), 0);
		still_count(&r, 1, 0x51, 0);
		assert_int_equal(msi.signals, REPEATS);
		machine_pause(r.m);
		irq_msi_destroy(&msi);
		machine_resume(r.m);
		rig_destroy(&r);
	}
}

static void test_call_line(void **state)
{
	struct irq_wire wire;
	struct rig r;

	rig_create(&r, 2, 0);
	assert_int_equal(bare_set_pin(&r.m->vm, 16, 0x52), 0); /* edge, vCPU 0 */
	irq_wire_init(&wire, r.m->irq, 16, "t");
	rig_start(&r, &idle_job);
	for (unsigned n = 1; n <= REPEATS; n++) {
		irq_wire_pulse(&wire);
		wait_count(&r, 0, 0x52, n);
	}
	/* Raised twice is one edge; lowering is none. */
	irq_wire_set(&wire, true);
	irq_wire_set(&wire, true);
	wait_count(&r, 0, 0x52, REPEATS + 1);
	irq_wire_set(&wire, false);
	still_count(&r, 0, 0x52, REPEATS + 1);
	/* A masked pin delivers nothing. */
	assert_int_equal(bare_set_pin(&r.m->vm, 16, 0x52 | 1 << 16), 0);
	irq_wire_pulse(&wire);
	still_count(&r, 0, 0x52, REPEATS + 1);
	/* Another target: vCPU 1. */
	assert_int_equal(bare_set_pin(&r.m->vm, 16, 0x53 | 1ull << 56), 0);
	irq_wire_pulse(&wire);
	wait_count(&r, 1, 0x53, 1);
	still_count(&r, 0, 0x53, 0);
	rig_destroy(&r);
}

/* To a vCPU that runs in ring 3 and is never idle; it also comes out when it is to be held. */
static void test_call_running(void **state)
{
	const struct bare_job spin = { .entry = BARE_SPIN };
	struct irq_wire wire;
	struct irq_msi msi[2];
	struct rig r;

	rig_create(&r, 1, 0);
	assert_int_equal(bare_set_pin(&r.m->vm, 16, 0x5c), 0);
	irq_wire_init(&wire, r.m->irq, 16, "t");
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(irq_msi_create(&msi[i], r.m->irq, message_paths[i], "t"), 0);
		assert_int_equal(irq_msi_set(&msi[i], MSI(0), 0x5d + i), 0);
		assert_int_equal(irq_msi_unmask(&msi[i]), 0);
	}
	rig_start(&r, &spin);
	for (unsigned n = 1; n <= 16; n++) {
		irq_wire_pulse(&wire);
		wait_count(&r, 0, 0x5c, n);
		irq_msi_signal(&msi[0]);
		wait_count(&r, 0, 0x5d, n);
		irq_msi_signal(&msi[1]);
		wait_count(&r, 0, 0x5e, n);
		if (n % 4)
			continue;
		/* Held: nothing is taken. Let go: it is. */
		cpu_hold(&r.m->cpus[0]);
		irq_msi_signal(&msi[0]);
		still_count(&r, 0, 0x5d, n);
		cpu_release(&r.m->cpus[0]);
		wait_count(&r, 0, 0x5d, n + 1);
		still_count(&r, 0, 0x5c, n);
		n++;
		irq_wire_pulse(&wire);
		wait_count(&r, 0, 0x5c, n);
		irq_msi_signal(&msi[1]);
		wait_count(&r, 0, 0x5e, n);
	}
	machine_pause(r.m);
	irq_msi_destroy(&msi[0]);
	irq_msi_destroy(&msi[1]);
	machine_resume(r.m);
	rig_destroy(&r);
}

/* A level pin that two wires share interrupts for as long as either is high. */
static void test_shared_level(void **state)
{
	struct irq_wire a, b;
	struct rig r;
	uint64_t n;

	rig_create(&r, 1, 0);
	assert_int_equal(bare_set_pin(&r.m->vm, 17, 0x54 | 1 << 15), 0);
	irq_wire_init(&a, r.m->irq, 17, "a");
	irq_wire_init(&b, r.m->irq, 17, "b");
	rig_start(&r, &idle_job);
	still_count(&r, 0, 0x54, 0);
	irq_wire_set(&a, true);
	irq_wire_set(&b, true);
	irq_wire_set(&a, false);
	n = bare_count_in(r.mem, 0, 0x54);
	for (uint64_t end = clock_ns() + PATIENCE; bare_count_in(r.mem, 0, 0x54) < n + 3;)
		if (clock_ns() > end)
			fail_msg("the pin went low while b is high");
	irq_wire_set(&b, false);
	see_all(&r, 0);
	n = bare_count_in(r.mem, 0, 0x54);
	still_count(&r, 0, 0x54, n);
	rig_destroy(&r);
}

/* Masked: nothing comes, one is remembered. Unmasked: exactly that one comes. */
static void test_mask(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(message_paths); i++) {
		struct irq_msi msi;
		struct rig r;

		rig_create(&r, 1, 0);
		assert_int_equal(irq_msi_create(&msi, r.m->irq, message_paths[i], "t"), 0);
		assert_int_equal(irq_msi_set(&msi, MSI(0), 0x55), 0);
		rig_start(&r, &idle_job);
		assert_false(irq_msi_pending(&msi));
		for (unsigned n = 0; n < 3; n++)
			irq_msi_signal(&msi);
		still_count(&r, 0, 0x55, 0);
		assert_true(irq_msi_pending(&msi));
		assert_int_equal(irq_msi_unmask(&msi), 0);
		wait_count(&r, 0, 0x55, 1);
		still_count(&r, 0, 0x55, 1);
		assert_false(irq_msi_pending(&msi));
		/* Masked again, signalled, forgotten: nothing comes. */
		irq_msi_mask(&msi);
		irq_msi_signal(&msi);
		irq_msi_clear(&msi);
		assert_int_equal(irq_msi_unmask(&msi), 0);
		still_count(&r, 0, 0x55, 1);
		/* Masked, re-vectored, unmasked: it comes as what it is now. */
		irq_msi_mask(&msi);
		irq_msi_signal(&msi);
		assert_int_equal(irq_msi_set(&msi, MSI(0), 0x56), 0);
		assert_int_equal(irq_msi_unmask(&msi), 0);
		wait_count(&r, 0, 0x56, 1);
		still_count(&r, 0, 0x55, 1);
		machine_pause(r.m);
		irq_msi_destroy(&msi);
		machine_resume(r.m);
		rig_destroy(&r);
	}
}

/* Vector and target change between any two signals: each goes to exactly one. */
static void test_affinity(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(message_paths); i++) {
		struct irq_msi msi;
		struct rig r;

		rig_create(&r, 2, 0);
		assert_int_equal(irq_msi_create(&msi, r.m->irq, message_paths[i], "t"), 0);
		assert_int_equal(irq_msi_set(&msi, MSI(0), 0x60), 0);
		assert_int_equal(irq_msi_unmask(&msi), 0);
		rig_start(&r, &idle_job);
		for (unsigned n = 0; n < REPEATS; n++) {
			unsigned cpu = n & 1, vector = 0x60 + (n >> 1 & 1);

			assert_int_equal(irq_msi_set(&msi, MSI(cpu), vector), 0);
			irq_msi_signal(&msi);
			wait_count(&r, cpu, vector, n / 4 + 1);
		}
		for (unsigned cpu = 0; cpu < 2; cpu++)
			for (unsigned v = 0x60; v < 0x62; v++)
				still_count(&r, cpu, v, REPEATS / 4);
		machine_pause(r.m);
		irq_msi_destroy(&msi);
		machine_resume(r.m);
		rig_destroy(&r);
	}
}

struct mover {
	struct irq_msi *msi;
	_Atomic bool stop;
	unsigned moves;
};

static void *move_main(void *arg)
{
	struct mover *m = arg;

	while (!atomic_load(&m->stop)) {
		unsigned n = m->moves++;

		if (irq_msi_set(m->msi, MSI(n & 1), 0x70 + (n >> 1 & 3)))
			return (void *)1;
		if (n % 3 == 0) {
			irq_msi_mask(m->msi);
			if (irq_msi_unmask(m->msi))
				return (void *)1;
		}
		usleep(30);
	}
	return NULL;
}

static uint64_t count_all(struct rig *r)
{
	uint64_t n = 0;

	for (unsigned cpu = 0; cpu < 2; cpu++)
		for (unsigned v = 0x70; v < 0x74; v++)
			n += bare_count_in(r->mem, cpu, v);
	return n;
}

/* The same with the change and the signal on two threads: none lost, none twice but the kernel's. */
static void test_affinity_race(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(message_paths); i++) {
		struct irq_msi msi;
		struct mover mover = { .msi = &msi };
		uint64_t twice = 0;
		pthread_t t;
		void *failed;
		struct rig r;

		rig_create(&r, 2, 0);
		assert_int_equal(irq_msi_create(&msi, r.m->irq, message_paths[i], "t"), 0);
		assert_int_equal(irq_msi_set(&msi, MSI(0), 0x70), 0);
		assert_int_equal(irq_msi_unmask(&msi), 0);
		rig_start(&r, &idle_job);
		assert_int_equal(pthread_create(&t, NULL, move_main, &mover), 0);
		for (uint64_t n = 1; n <= 500; n++) {
			uint64_t deadline = clock_ns() + PATIENCE, seen;

			irq_msi_signal(&msi);
			while ((seen = count_all(&r)) < n + twice && clock_ns() < deadline)
				usleep(20);
			twice += seen == n + twice + 1;
			if (seen != n + twice || twice > MAY_COME_TWICE) {
				atomic_store(&mover.stop, true);
				pthread_join(t, NULL);
				fail_msg("%s: %llu signals, %llu interrupts after %u moves",
					 inject_name(msi.path), (unsigned long long)n,
					 (unsigned long long)seen, mover.moves);
			}
		}
		atomic_store(&mover.stop, true);
		pthread_join(t, &failed);
		assert_null(failed);
		print_message("  %s: 500 signals, %u moves\n", inject_name(msi.path), mover.moves);
		machine_pause(r.m);
		irq_msi_destroy(&msi);
		machine_resume(r.m);
		rig_destroy(&r);
	}
}

/* When no route is left a message goes by KVM_SIGNAL_MSI instead; all of them arrive. */
static void test_routes_run_out(void **state)
{
	struct irq_msi msi[8];
	unsigned by_irqfd = 0;
	struct rig r;

	rig_create(&r, 1, 40); /* the default table and a few */
	for (unsigned i = 0; i < ARRAY_SIZE(msi); i++) {
		assert_int_equal(irq_msi_create(&msi[i], r.m->irq, INJECT_IRQFD, "t"), 0);
		assert_int_equal(irq_msi_set(&msi[i], MSI(0), 0x80 + i), 0);
		assert_int_equal(irq_msi_unmask(&msi[i]), 0);
		by_irqfd += msi[i].path == INJECT_IRQFD;
	}
	assert_in_range(by_irqfd, 1, ARRAY_SIZE(msi) - 1);
	assert_int_equal(msi[ARRAY_SIZE(msi) - 1].path, INJECT_MSI);
	rig_start(&r, &idle_job);
	for (unsigned n = 1; n <= 4; n++)
		for (unsigned i = 0; i < ARRAY_SIZE(msi); i++) {
			irq_msi_signal(&msi[i]);
			wait_count(&r, 0, 0x80 + i, n);
		}
	machine_pause(r.m);
	for (unsigned i = 0; i < ARRAY_SIZE(msi); i++)
		irq_msi_destroy(&msi[i]);
	machine_resume(r.m);
	rig_destroy(&r);
}

/* A message to a CPU that does not exist reaches nobody, and nobody minds. */
static void test_no_target(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(message_paths); i++) {
		uint64_t deadline = clock_ns() + PATIENCE;
		struct irq_msi msi;
		struct rig r;

		rig_create(&r, 1, 0);
		assert_int_equal(irq_msi_create(&msi, r.m->irq, message_paths[i], "t"), 0);
		assert_int_equal(irq_msi_set(&msi, MSI(7), 0x59), 0);
		assert_int_equal(irq_msi_unmask(&msi), 0);
		rig_start(&r, &idle_job);
		irq_msi_signal(&msi);
		/* Taken out of its eventfd; and the unbinding waits for who has it: only then does it move. */
		while (notifier_pending(&msi.n))
			if (clock_ns() > deadline)
				fail_msg("nobody takes the signal");
		assert_int_equal(irq_msi_mask(&msi), 0);
		assert_int_equal(irq_msi_unmask(&msi), 0);
		still_count(&r, 0, 0x59, 0);
		assert_int_equal(irq_msi_set(&msi, MSI(0), 0x59), 0);
		still_count(&r, 0, 0x59, 0); /* what is gone is gone */
		irq_msi_signal(&msi);
		wait_count(&r, 0, 0x59, 1);
		machine_pause(r.m);
		irq_msi_destroy(&msi);
		machine_resume(r.m);
		rig_destroy(&r);
	}
}

/* Two machines in one process keep to themselves. */
static void test_two_machines(void **state)
{
	struct irq_msi msi[2];
	struct rig r[2];

	for (unsigned i = 0; i < 2; i++) {
		rig_create(&r[i], 1, 0);
		assert_int_equal(irq_msi_create(&msi[i], r[i].m->irq, INJECT_AUTO, "t"), 0);
		assert_int_equal(irq_msi_set(&msi[i], MSI(0), 0x5a + i), 0);
		assert_int_equal(irq_msi_unmask(&msi[i]), 0);
		rig_start(&r[i], &idle_job);
	}
	for (unsigned n = 1; n <= 8; n++)
		for (unsigned i = 0; i < 2; i++) {
			irq_msi_signal(&msi[i]);
			wait_count(&r[i], 0, 0x5a + i, n);
		}
	for (unsigned i = 0; i < 2; i++) {
		still_count(&r[i], 0, 0x5b - i, 0);
		machine_pause(r[i].m);
		irq_msi_destroy(&msi[i]);
		machine_resume(r[i].m);
		rig_destroy(&r[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kick_paths),     cmocka_unit_test(test_doorbell_follows),
		cmocka_unit_test(test_doorbell_collision), cmocka_unit_test(test_call_paths),
		cmocka_unit_test(test_call_line),      cmocka_unit_test(test_call_running),
		cmocka_unit_test(test_shared_level),
		cmocka_unit_test(test_mask),           cmocka_unit_test(test_affinity),
		cmocka_unit_test(test_affinity_race),  cmocka_unit_test(test_routes_run_out),
		cmocka_unit_test(test_no_target),      cmocka_unit_test(test_two_machines),
	};
	struct sys s;
	struct err e;

	if (sys_open(&s, kvm_half(), &e)) {
		fprintf(stderr, "skip: %s\n", e.text);
		return 77;
	}
	sys_close(&s);
	return cmocka_run_group_tests(tests, NULL, kvm_half_done);
}
