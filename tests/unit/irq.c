/* SPDX-License-Identifier: MIT */
#include "../lib/check.h"
#include "../lib/fake_kvm.h"
#include "machine/machine.h"
#include <stdio.h>
#include <stdlib.h>

struct bed {
	struct fake_kvm kvm;
	struct sys sys;
	struct vm vm;
	struct irq_fabric *f;
};

static struct bed *bed_new(unsigned max_routes, unsigned absent_cap)
{
	struct bed *b = calloc(1, sizeof(*b));
	struct err e;

	fake_kvm_init(&b->kvm);
	if (absent_cap)
		fake_kvm_set_cap(&b->kvm, absent_cap, false);
	assert_int_equal(sys_open(&b->sys, &b->kvm.api, &e), 0);
	assert_int_equal(vm_create(&b->vm, &b->sys), 0);
	assert_int_equal(irq_create(&b->f, &b->vm, max_routes, NULL), 0);
	return b;
}

static void bed_free(struct bed *b)
{
	irq_destroy(b->f);
	vm_destroy(&b->vm);
	sys_close(&b->sys);
	assert_int_equal(fake_kvm_fini(&b->kvm), 0);
	free(b);
}

#define ADDR(cpu) (0xfee00000ull | (uint64_t)(cpu) << 12)

struct lines {
	char text[8192];
	unsigned nr;
};

static void add_line(void *arg, const char *line)
{
	struct lines *l = arg;

	strcat(strcat(l->text, line), "\n");
	l->nr++;
}

/* The first source document prints this very table for a PC. */
static void default_routes(void **state)
{
	struct bed *b = bed_new(0, 0);
	static struct lines l;

	irq_print_routes(b->f, add_line, &l);
	assert_int_equal(l.nr, 38);
	assert_non_null(strstr(l.text, "gsi=0 type=1 0 0\ngsi=1 type=1 0 1\ngsi=3 type=1 0 3\n"));
	assert_non_null(strstr(l.text, "gsi=7 type=1 0 7\ngsi=8 type=1 1 0\n"));
	assert_non_null(strstr(l.text, "gsi=15 type=1 1 7\ngsi=0 type=1 2 2\ngsi=1 type=1 2 1\n"));
	assert_non_null(strstr(l.text, "gsi=23 type=1 2 23\n"));
	assert_null(strstr(l.text, "gsi=2 "));
	assert_int_equal(b->kvm.nr_routes, 38);
	bed_free(b);
}

static void wires_are_counted(void **state)
{
	struct bed *b = bed_new(0, 0);
	struct irq_wire x, y, bad;

	irq_wire_init(&x, b->f, 17, "x");
	irq_wire_init(&y, b->f, 17, "y");
	irq_wire_init(&bad, b->f, 24, "bad");
	assert_true(irq_wire_set(&x, true) > 0);
	assert_int_equal(irq_wire_set(&x, true), 0);
	assert_int_equal(irq_wire_set(&y, true), 0);
	assert_int_equal(b->kvm.line_changes[17], 1);
	irq_wire_set(&x, false);
	assert_true(b->kvm.level[17]);   /* y still holds it */
	irq_wire_set(&y, false);
	assert_false(b->kvm.level[17]);
	irq_wire_set(&y, false);
	assert_int_equal(b->kvm.line_changes[17], 2);
	assert_true(irq_wire_pulse(&x) > 0);
	assert_int_equal(b->kvm.line_changes[17], 4);
	assert_int_equal(irq_wire_set(&bad, true), -EINVAL);
	irq_wire_set(&x, true);
	irq_wire_fini(&x);               /* goes low with its source */
	assert_false(b->kvm.level[17]);
	irq_wire_fini(&x);
	irq_wire_fini(&y);
	irq_wire_fini(&bad);
	assert_int_equal(irq_wire_set(&x, true), -EINVAL);
	bed_free(b);
}

static void mask_keeps_pending(enum inject_path path)
{
	struct bed *b = bed_new(0, 0);
	struct irq_msi m;

	assert_int_equal(irq_msi_create(&m, b->f, path, "m"), 0);
	assert_int_equal(m.path, path);
	assert_int_equal(irq_msi_set(&m, ADDR(1), 0x41), 0);
	irq_msi_signal(&m);
	irq_msi_signal(&m);
	fake_kvm_serve(&b->kvm);
	assert_int_equal(b->kvm.nr_msis, 0);
	assert_true(irq_msi_pending(&m));
	assert_int_equal(b->kvm.nr_routes, 38); /* lazy: no gsi yet */

	assert_int_equal(irq_msi_unmask(&m), 0);
	fake_kvm_serve(&b->kvm);
	assert_int_equal(b->kvm.nr_msis, 1);
	assert_int_equal(b->kvm.msi[0].address, ADDR(1));
	assert_int_equal(b->kvm.msi[0].data, 0x41);
	assert_false(irq_msi_pending(&m));
	assert_int_equal(irq_msi_unmask(&m), 0); /* again: nothing happens */

	irq_msi_signal(&m);
	fake_kvm_serve(&b->kvm);
	assert_int_equal(b->kvm.nr_msis, 2);
	/* Moved while unmasked: from now on there. */
	assert_int_equal(irq_msi_set(&m, ADDR(2), 0x42), 0);
	irq_msi_signal(&m);
	fake_kvm_serve(&b->kvm);
	assert_int_equal(b->kvm.nr_msis, 3);
	assert_int_equal(b->kvm.msi[2].address, ADDR(2));
	/* Moved while masked, with one pending: it goes to the new place. */
	assert_int_equal(irq_msi_mask(&m), 0);
	irq_msi_signal(&m);
	fake_kvm_serve(&b->kvm);
	assert_int_equal(b->kvm.nr_msis, 3);
	assert_int_equal(irq_msi_set(&m, ADDR(3), 0x43), 0);
	assert_int_equal(irq_msi_unmask(&m), 0);
	fake_kvm_serve(&b->kvm);
	assert_int_equal(b->kvm.nr_msis, 4);
	assert_int_equal(b->kvm.msi[3].address, ADDR(3));
	assert_int_equal(b->kvm.msi[3].data, 0x43);
	/* A reset forgets. */
	assert_int_equal(irq_msi_mask(&m), 0);
	irq_msi_signal(&m);
	irq_msi_clear(&m);
	assert_false(irq_msi_pending(&m));
	assert_int_equal(irq_msi_unmask(&m), 0);
	fake_kvm_serve(&b->kvm);
	assert_int_equal(b->kvm.nr_msis, 4);
	irq_msi_destroy(&m);
	assert_int_equal(b->kvm.nr_irqfds, 0);
	assert_int_equal(b->kvm.nr_routes, 38);
	bed_free(b);
}

static void mask_irqfd(void **state)
{
	mask_keeps_pending(INJECT_IRQFD);
}

static void mask_msi(void **state)
{
	mask_keeps_pending(INJECT_MSI);
}

static void paths_by_capability(void **state)
{
	struct bed *b = bed_new(0, KVM_CAP_IRQFD);
	struct irq_msi m;

	assert_int_equal(irq_best_path(b->f, INJECT_AUTO), INJECT_MSI);
	assert_int_equal(irq_best_path(b->f, INJECT_IRQFD), INJECT_MSI);
	assert_int_equal(irq_best_path(b->f, INJECT_LINE), INJECT_LINE);
	assert_int_equal(irq_msi_create(&m, b->f, INJECT_IRQFD, "m"), 0);
	assert_int_equal(m.path, INJECT_MSI);
	irq_msi_destroy(&m);
	irq_msi_destroy(&m);
	assert_int_equal(irq_msi_create(&m, b->f, INJECT_LINE, "m"), -ENOTSUP);
	bed_free(b);
}

/* More vectors than gsis: the rest go on by KVM_SIGNAL_MSI and nothing is lost. */
static void out_of_gsis(void **state)
{
	struct bed *b = bed_new(38 + 4, 0);
	struct irq_msi m[8];
	unsigned by_irqfd = 0;

	for (unsigned i = 0; i < 8; i++) {
		assert_int_equal(irq_msi_create(&m[i], b->f, INJECT_IRQFD, "m"), 0);
		assert_int_equal(irq_msi_set(&m[i], ADDR(0), 0x50 + i), 0);
		irq_msi_signal(&m[i]);
		assert_int_equal(irq_msi_unmask(&m[i]), 0);
		by_irqfd += m[i].path == INJECT_IRQFD;
	}
	assert_int_equal(by_irqfd, 4);
	fake_kvm_serve(&b->kvm);
	assert_int_equal(b->kvm.nr_msis, 8);
	for (unsigned i = 0; i < 8; i++)
		irq_msi_signal(&m[i]);
	fake_kvm_serve(&b->kvm);
	assert_int_equal(b->kvm.nr_msis, 16);
	/* A freed gsi serves the next. */
	irq_msi_destroy(&m[0]);
	assert_int_equal(irq_msi_create(&m[0], b->f, INJECT_IRQFD, "again"), 0);
	assert_int_equal(irq_msi_set(&m[0], ADDR(0), 0x77), 0);
	assert_int_equal(irq_msi_unmask(&m[0]), 0);
	assert_int_equal(m[0].path, INJECT_IRQFD);
	for (unsigned i = 0; i < 8; i++)
		irq_msi_destroy(&m[i]);
	bed_free(b);
}

static void failing_kvm(void **state)
{
	struct bed *b = bed_new(0, KVM_CAP_SIGNAL_MSI);
	struct irq_msi m;

	assert_int_equal(irq_msi_create(&m, b->f, INJECT_IRQFD, "m"), 0);
	assert_int_equal(irq_msi_set(&m, ADDR(0), 0x30), 0);
	irq_msi_signal(&m);
	/* No way to fall back to: the unmask fails, the vector stays masked and pending. */
	fake_kvm_fail(&b->kvm, KVM_SET_GSI_ROUTING, 1, ENOMEM);
	assert_int_equal(irq_msi_unmask(&m), -ENOMEM);
	assert_true(irq_msi_pending(&m));
	assert_int_equal(b->kvm.nr_routes, 38);
	fake_kvm_fail(&b->kvm, KVM_IRQFD, 1, EBUSY);
	assert_int_equal(irq_msi_unmask(&m), -EBUSY);
	assert_true(irq_msi_pending(&m));
	assert_int_equal(irq_msi_unmask(&m), 0);
	fake_kvm_serve(&b->kvm);
	assert_int_equal(b->kvm.nr_msis, 1);
	/* A route that cannot move leaves the old one whole. */
	fake_kvm_fail(&b->kvm, KVM_SET_GSI_ROUTING, 1, ENOMEM);
	assert_int_equal(irq_msi_set(&m, ADDR(1), 0x31), -ENOMEM);
	irq_msi_signal(&m);
	fake_kvm_serve(&b->kvm);
	assert_int_equal(b->kvm.msi[1].address, ADDR(0));
	assert_int_equal(b->kvm.msi[1].data, 0x30);
	irq_msi_destroy(&m);
	bed_free(b);
}

/* ---- a signaller against masks and moves: nothing lost, nothing doubled ----- */

struct storm {
	struct irq_msi *m;
	_Atomic bool stop;
	uint64_t sent;
};

static void *storm_thread(void *arg)
{
	struct storm *s = arg;

	while (!s->stop) {
		irq_msi_signal(s->m);
		s->sent++;
	}
	return NULL;
}

static void msi_storm(void **state)
{
	struct bed *b = bed_new(0, 0);
	struct irq_msi m;
	struct storm s = { .m = &m };
	unsigned before;
	pthread_t t;

	assert_int_equal(irq_msi_create(&m, b->f, INJECT_MSI, "m"), 0);
	assert_int_equal(irq_msi_set(&m, ADDR(0), 0x60), 0);
	assert_int_equal(thread_create(&t, "storm", storm_thread, &s), 0);
	for (unsigned i = 0; i < 3000; i++) {
		assert_int_equal(irq_msi_unmask(&m), 0);
		assert_int_equal(irq_msi_set(&m, ADDR(i % 4), 0x60), 0);
		assert_int_equal(irq_msi_mask(&m), 0);
		before = b->kvm.nr_msis;
		assert_int_equal(irq_msi_set(&m, ADDR(i % 4 + 1), 0x60), 0);
		assert_int_equal(b->kvm.nr_msis, before); /* masked: not one gets through */
	}
	s.stop = true;
	thread_join(t);
	irq_msi_clear(&m);
	irq_msi_signal(&m);
	assert_true(irq_msi_pending(&m));
	assert_int_equal(m.signals, s.sent + 1);
	irq_msi_destroy(&m);
	bed_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(default_routes),
		cmocka_unit_test(wires_are_counted),
		cmocka_unit_test(mask_irqfd),
		cmocka_unit_test(mask_msi),
		cmocka_unit_test(paths_by_capability),
		cmocka_unit_test(out_of_gsis),
		cmocka_unit_test(failing_kvm),
		cmocka_unit_test(msi_storm),
	};

	return RUN(tests);
}
