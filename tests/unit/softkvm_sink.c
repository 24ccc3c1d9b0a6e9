/* SPDX-License-Identifier: MIT
 * The in-process sink of an irqfd: a notifier's signal is delivered before
 * notifier_signal() returns, the eventfd stays right for everybody else, and
 * binding and unbinding lose nothing (docs/SOFTKVM.md, "In-process sink").
 */
#include "../lib/check.h"
#include "../lib/kvm_stat.h"
#include "monitor/bare.h"
#include "softkvm/softkvm.h"
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#define GSI	 24
#define VECTOR	 0x51u
#define PATIENCE (60 * NSEC_PER_SEC)

struct bed {
	struct kvmapi api;
	struct bare b;
	int stats;
	struct notifier n, resample;
};

static void setup(struct bed *t)
{
	struct kvm_irq_routing_entry e[2] = {
		{ .gsi = GSI, .type = KVM_IRQ_ROUTING_MSI,
		  .u.msi = { .address_lo = 0xfee00000, .data = VECTOR } },
		{ .gsi = 20, .type = KVM_IRQ_ROUTING_IRQCHIP,
		  .u.irqchip = { .irqchip = KVM_IRQCHIP_IOAPIC, .pin = 20 } },
	};
	struct err err;

	*t = (struct bed){ .api.ops = &softkvm_ops };
	assert_int_equal(softkvm_create(&t->api.ctx, NULL), 0);
	if (bare_create(&t->b, &t->api, 1, true, &err))
		fail_msg("%s", err.text);
	assert_int_equal(vm_set_routes(&t->b.vm, e, ARRAY_SIZE(e)), 0);
	t->stats = t->api.ops->ioctl(t->api.ctx, t->b.vm.fd, KVM_GET_STATS_FD, 0);
	assert_true(t->stats >= 0);
	assert_int_equal(notifier_create(&t->n, 0, 0), 0);
	assert_int_equal(notifier_create(&t->resample, 0, 0), 0);
}

static void teardown(struct bed *t)
{
	notifier_destroy(&t->n);
	notifier_destroy(&t->resample);
	close(t->stats);
	bare_destroy(&t->b);
	softkvm_destroy(t->api.ctx);
}

static bool irr(struct bed *t)
{
	struct kvm_lapic_state s;
	bool set;

	assert_int_equal(vcpu_get_lapic(&t->b.cpus[0], &s), 0);
	set = load_le32(s.regs + 0x200 + 16 * (VECTOR / 32)) >> VECTOR % 32 & 1;
	store_le32(s.regs + 0x200 + 16 * (VECTOR / 32), 0);
	assert_int_equal(vcpu_set_lapic(&t->b.cpus[0], &s), 0);
	return set;
}

static void expect_soon(struct bed *t)
{
	uint64_t deadline = clock_ns() + PATIENCE;

	while (!irr(t))
		if (clock_ns() > deadline)
			fail_msg("the interrupt never came");
}

static void test_at_once(void **state)
{
	struct bed t;

	setup(&t);
	assert_int_equal(vm_bind_notifier(&t.b.vm, &t.n, GSI, -1), 0);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(notifier_signal(&t.n), 0);
		assert_true(irr(&t));
		assert_false(notifier_pending(&t.n));
	}
	assert_int_equal(kvm_stat(t.stats, "irqfd_direct"), 3);
	assert_int_equal(kvm_stat(t.stats, "irqfd_fast_path"), 3);
	teardown(&t);
}

/* Somebody else writes the eventfd: another process, say. */
static void test_others_write(void **state)
{
	const uint64_t one = 1;
	struct bed t;
	int fd;

	setup(&t);
	fd = dup(t.n.fd);
	assert_int_equal(vm_bind_notifier(&t.b.vm, &t.n, GSI, -1), 0);
	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
	expect_soon(&t);
	assert_int_equal(kvm_stat(t.stats, "irqfd_direct"), 0);
	close(fd);
	teardown(&t);
}

/* As a masked MSI-X entry does it: nothing is delivered, the count remembers, the next binding delivers. */
static void test_unbound(void **state)
{
	struct bed t;

	setup(&t);
	assert_int_equal(notifier_signal(&t.n), 0);
	assert_int_equal(vm_bind_notifier(&t.b.vm, &t.n, GSI, -1), 0);
	expect_soon(&t); /* it was there before the binding */
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(vm_unbind_irqfd(&t.b.vm, t.n.fd, GSI), 0);
		assert_int_equal(notifier_signal(&t.n), 0);
		assert_int_equal(notifier_signal(&t.n), 0);
		assert_false(irr(&t));
		assert_true(notifier_pending(&t.n));
		assert_int_equal(vm_bind_notifier(&t.b.vm, &t.n, GSI, -1), 0);
		expect_soon(&t);
		assert_int_equal(notifier_signal(&t.n), 0);
		assert_true(irr(&t));
	}
	/* Bound by its number alone it has no short way. */
	assert_int_equal(vm_unbind_irqfd(&t.b.vm, t.n.fd, GSI), 0);
	assert_int_equal(vm_bind_irqfd(&t.b.vm, t.n.fd, GSI, -1), 0);
	assert_int_equal(notifier_signal(&t.n), 0);
	expect_soon(&t);
	assert_int_equal(kvm_stat(t.stats, "irqfd_direct"), 3);
	teardown(&t);
}

static bool pin_raised(struct bed *t)
{
	struct kvm_irqchip c = { .chip_id = KVM_IRQCHIP_IOAPIC };

	assert_int_equal(vm_get_irqchip(&t->b.vm, &c), 0);
	return c.chip.ioapic.irr >> 20 & 1;
}

/* A level goes up at once and stays; unbinding lowers it. */
static void test_resample(void **state)
{
	struct bed t;

	setup(&t);
	assert_int_equal(bare_set_pin(&t.b.vm, 20, 0x18000 | VECTOR), 0); /* level, masked */
	assert_int_equal(vm_bind_notifier(&t.b.vm, &t.n, 20, t.resample.fd), 0);
	assert_false(pin_raised(&t));
	assert_int_equal(notifier_signal(&t.n), 0);
	assert_true(pin_raised(&t));
	assert_int_equal(kvm_stat(t.stats, "irqfd_direct"), 1);
	assert_int_equal(vm_unbind_irqfd(&t.b.vm, t.n.fd, 20), 0);
	assert_false(pin_raised(&t));
	teardown(&t);
}

/* The VM may go before the notifier, and the notifier before the VM. */
static void test_either_goes_first(void **state)
{
	struct bed t;
	struct notifier early;

	setup(&t);
	assert_int_equal(notifier_create(&early, 0, 0), 0);
	assert_int_equal(vm_bind_notifier(&t.b.vm, &early, GSI, -1), 0);
	notifier_destroy(&early);
	assert_int_equal(vm_bind_notifier(&t.b.vm, &t.n, GSI, -1), 0);
	close(t.stats);
	bare_destroy(&t.b);
	softkvm_destroy(t.api.ctx);
	assert_int_equal(notifier_signal(&t.n), 0);
	assert_int_equal(notifier_drain(&t.n), 1);
	notifier_destroy(&t.n);
	notifier_destroy(&t.resample);
}

struct toggler {
	struct bed *t;
	_Atomic bool stop;
	unsigned times;
};

static void *toggle(void *arg)
{
	struct toggler *g = arg;
	struct bed *t = g->t;

	while (!atomic_load(&g->stop)) {
		if (vm_unbind_irqfd(&t->b.vm, t->n.fd, GSI) || vm_bind_notifier(&t->b.vm, &t->n, GSI, -1))
			return arg;
		g->times++;
	}
	return NULL;
}

/* One signal at a time, while the binding comes and goes: each arrives once, this way or that. */
static void test_toggle_race(void **state)
{
	enum { SIGNALS = 2000 };
	struct toggler g = { 0 };
	pthread_t thread;
	struct bed t;
	void *failed;

	setup(&t);
	assert_int_equal(vm_bind_notifier(&t.b.vm, &t.n, GSI, -1), 0);
	g.t = &t;
	assert_int_equal(thread_create(&thread, "toggle", toggle, &g), 0);
	for (unsigned i = 1; i <= SIGNALS; i++) {
		uint64_t deadline = clock_ns() + PATIENCE;

		assert_int_equal(notifier_signal(&t.n), 0);
		while (kvm_stat(t.stats, "irqfd_fast_path") < i)
			if (clock_ns() > deadline)
				fail_msg("signal %u is lost", i);
	}
	atomic_store(&g.stop, true);
	assert_int_equal(pthread_join(thread, &failed), 0);
	assert_null(failed);
	assert_int_equal(kvm_stat(t.stats, "irqfd_fast_path"), SIGNALS);
	print_message("  %llu of %d direct, %u bindings\n", (unsigned long long)kvm_stat(t.stats, "irqfd_direct"),
		      SIGNALS, g.times);
	teardown(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_at_once),	  cmocka_unit_test(test_others_write),
		cmocka_unit_test(test_unbound),	  cmocka_unit_test(test_resample),
		cmocka_unit_test(test_either_goes_first), cmocka_unit_test(test_toggle_race),
	};

	return RUN(tests);
}
