/* SPDX-License-Identifier: MIT
 * Interrupt remapping: VT-d's formats bit by bit, which messages are posted,
 * where they go when affinity, APIC IDs and enables change, and what a flood costs.
 */
#include "../lib/check.h"
#include "../lib/kvm_pair.h"
#include "../lib/kvm_stat.h"
#include "monitor/bare.h"
#include "softkvm/softkvm.h"
#include "softkvm/posted.h"
#include "softkvm/remap.h"
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#define GSI	 30
#define CPUS	 3
#define PATIENCE (60 * NSEC_PER_SEC)

/* ---- formats --------------------------------------------------------------------------- */

/* "Interrupt Remapping Table Entry (IRTE) for Remapped Interrupts" and "… for Posted Interrupts". */
static void test_formats(void **state)
{
	const struct irq_message m = {
		.dest = 0x89abcdef, .vector = 0x51, .delivery = IRQ_LOWEST, .logical = true,
		.assert = true, .redirection_hint = true,
	};
	uint64_t seed = 0x1de;

	assert_int_equal(irte_remapped(&m), 0x89abcdef0051002dull);
	assert_int_equal(irte_posted(0x1240, 0x61, false), 0x0000124000618001ull);
	assert_int_equal(irte_posted(0xffffffc0u, 0xff, true), 0xffffffc000ffc001ull);
	for (unsigned i = 0; i < 1000; i++) {
		uint64_t r = next_random(&seed);
		const struct irq_message in = {
			.dest = (uint32_t)(r >> 32), .vector = (uint8_t)r, .delivery = r >> 8 & 7,
			.logical = r & 0x800, .level = r & 0x1000, .assert = true,
			.redirection_hint = r & 0x2000,
		};
		struct irq_message out;
		uint64_t e = irte_remapped(&in);

		assert_false(e & IRTE_POSTED);
		irte_message(e, &out);
		assert_int_equal(out.dest, in.dest);
		assert_int_equal(out.vector, in.vector);
		assert_int_equal(out.delivery, in.delivery);
		assert_int_equal(out.logical, in.logical);
		assert_int_equal(out.level, in.level);
		assert_int_equal(out.redirection_hint, in.redirection_hint);
		assert_true(out.assert);
		e = irte_posted((uint32_t)r & ~63u, (uint8_t)(r >> 40), r >> 63);
		assert_true(e & IRTE_POSTED);
		assert_int_equal(irte_descriptor(e), (uint32_t)r & ~63u);
		assert_int_equal(irte_vector(e), (uint8_t)(r >> 40));
		assert_int_equal(!!(e & IRTE_URGENT), r >> 63);
	}
}

/* "Interrupt-Posting Hardware Operation": ON is set with a notification, and only then. */
static void test_urgent(void **state)
{
	struct posted_desc d;
	uint32_t ndst;
	uint8_t nv;

	posted_init(&d);
	assert_int_equal(posted_post(&d, 1, false, &nv, &ndst), POSTED_QUIET);
	assert_false(atomic_load(&d.control) & POSTED_ON);
	/* What was suppressed does not keep an urgent one back; that one keeps back the next. */
	assert_int_equal(posted_post(&d, 2, true, &nv, &ndst), POSTED_NOTIFY);
	assert_true(atomic_load(&d.control) & POSTED_ON);
	assert_int_equal(posted_post(&d, 3, true, &nv, &ndst), POSTED_QUIET);
	assert_int_equal(posted_post(&d, 2, true, &nv, &ndst), POSTED_COALESCED);
	/* Suppressed vectors are found by who looks while SN is set, and by the next load. */
	posted_init(&d);
	assert_int_equal(posted_post(&d, 9, false, &nv, &ndst), POSTED_QUIET);
	assert_true(posted_begin_take(&d));
	assert_true(posted_load(&d, 5));
	assert_int_equal(d.pir[0], 1 << 9);
}

/* ---- in a VM --------------------------------------------------------------------------------- */

struct bed {
	struct kvmapi api;
	struct bare b;
	int stats;
	struct notifier n;
};

static void route(struct bed *t, uint32_t address, uint32_t data)
{
	struct kvm_irq_routing_entry e = {
		.gsi = GSI, .type = KVM_IRQ_ROUTING_MSI, .u.msi = { .address_lo = address, .data = data },
	};

	assert_int_equal(vm_set_routes(&t->b.vm, &e, 1), 0);
}

static void setup(struct bed *t, bool no_apicv)
{
	struct softkvm_config c;
	struct err err;

	*t = (struct bed){ .api.ops = &softkvm_ops };
	softkvm_config_init(&c, false);
	c.no_apicv = no_apicv;
	assert_int_equal(softkvm_create(&t->api.ctx, &c), 0);
	if (bare_create(&t->b, &t->api, CPUS, true, &err))
		fail_msg("%s", err.text);
	route(t, 0xfee00000, 0x51);
	t->stats = t->api.ops->ioctl(t->api.ctx, t->b.vm.fd, KVM_GET_STATS_FD, 0);
	assert_true(t->stats >= 0);
	assert_int_equal(notifier_create(&t->n, 0, 0), 0);
	assert_int_equal(vm_bind_notifier(&t->b.vm, &t->n, GSI, -1), 0);
}

static void teardown(struct bed *t)
{
	notifier_destroy(&t->n);
	close(t->stats);
	bare_destroy(&t->b);
	softkvm_destroy(t->api.ctx);
}

static uint32_t read_reg(struct bed *t, unsigned cpu, unsigned reg)
{
	struct kvm_lapic_state s;

	assert_int_equal(vcpu_get_lapic(&t->b.cpus[cpu], &s), 0);
	return load_le32(s.regs + reg);
}

static void write_reg(struct bed *t, unsigned cpu, unsigned reg, uint32_t value)
{
	struct kvm_lapic_state s;

	assert_int_equal(vcpu_get_lapic(&t->b.cpus[cpu], &s), 0);
	store_le32(s.regs + reg, value);
	assert_int_equal(vcpu_set_lapic(&t->b.cpus[cpu], &s), 0);
}

/* The CPUs that have the vector in IRR, as a mask; it is taken out. */
static unsigned who(struct bed *t, unsigned vector)
{
	unsigned reg = 0x200 + 16 * (vector / 32), mask = 0;

	for (unsigned i = 0; i < CPUS; i++) {
		uint32_t irr = read_reg(t, i, reg);

		if (!(irr >> vector % 32 & 1))
			continue;
		mask |= BIT(i);
		write_reg(t, i, reg, irr & ~BIT(vector % 32));
	}
	return mask;
}

/* One signal; says which CPUs got the vector, checks which way it went. */
static unsigned signal_one(struct bed *t, unsigned vector, bool posted)
{
	uint64_t p = kvm_stat(t->stats, "irte_posted"), r = kvm_stat(t->stats, "irte_remapped");

	assert_int_equal(notifier_signal(&t->n), 0);
	assert_int_equal(kvm_stat(t->stats, "irte_posted") - p, posted);
	assert_int_equal(kvm_stat(t->stats, "irte_remapped") - r, !posted);
	return who(t, vector);
}

/* Fixed and lowest priority to one CPU are posted, the rest is remapped; both arrive. */
static void test_which_are_posted(void **state)
{
	struct kvm_vcpu_events ev;
	struct bed t;

	setup(&t, false);
	assert_int_equal(signal_one(&t, 0x51, true), 1);
	/* Affinity: another CPU, another vector. */
	route(&t, 0xfee01000, 0x62);
	assert_int_equal(signal_one(&t, 0x62, true), 2);
	/* Lowest priority to one. */
	route(&t, 0xfee02000, 0x163);
	assert_int_equal(signal_one(&t, 0x63, true), 4);
	/* Logical, to one and to two. */
	for (unsigned i = 0; i < CPUS; i++) {
		write_reg(&t, i, 0xe0, 0xffffffff);
		write_reg(&t, i, 0xd0, 1u << (24 + i));
	}
	route(&t, 0xfee04004, 0x64);
	assert_int_equal(signal_one(&t, 0x64, true), 4);
	route(&t, 0xfee06004, 0x65);
	assert_int_equal(signal_one(&t, 0x65, false), 6);
	/* To all, to nobody, level-triggered, NMI. */
	route(&t, 0xfeeff000, 0x66);
	assert_int_equal(signal_one(&t, 0x66, false), 7);
	route(&t, 0xfee09000, 0x67);
	assert_int_equal(signal_one(&t, 0x67, false), 0);
	route(&t, 0xfee01000, 0xc068);
	assert_int_equal(signal_one(&t, 0x68, false), 2);
	route(&t, 0xfee01000, 0x400);
	assert_int_equal(signal_one(&t, 0, false), 0);
	assert_int_equal(vcpu_get_events(&t.b.cpus[1], &ev), 0);
	assert_int_equal(ev.nmi.pending, 1);
	teardown(&t);
	/* Without posting nothing is posted. */
	setup(&t, true);
	assert_int_equal(signal_one(&t, 0x51, false), 1);
	teardown(&t);
}

/* The entry follows the CPUs: an APIC ID changes hands, an APIC is switched off and on. */
static void test_follows_destinations(void **state)
{
	struct bed t;

	setup(&t, false);
	route(&t, 0xfee07000, 0x51);
	assert_int_equal(signal_one(&t, 0x51, false), 0); /* nobody has that ID */
	write_reg(&t, 1, 0x20, 7u << 24);
	assert_int_equal(signal_one(&t, 0x51, true), 2);
	write_reg(&t, 1, 0x20, 1u << 24);
	write_reg(&t, 2, 0x20, 7u << 24);
	assert_int_equal(signal_one(&t, 0x51, true), 4);
	write_reg(&t, 2, 0xf0, 0xff);
	assert_int_equal(signal_one(&t, 0x51, false), 0);
	write_reg(&t, 2, 0xf0, 0x1ff);
	assert_int_equal(signal_one(&t, 0x51, true), 4);
	teardown(&t);
}

struct mover {
	struct bed *t;
	_Atomic bool stop;
	unsigned moves;
};

static void *move(void *arg)
{
	struct mover *m = arg;

	while (!atomic_load(&m->stop))
		route(m->t, 0xfee00000 + 0x1000 * (m->moves++ % CPUS), 0x51);
	return NULL;
}

/* While the entry moves from CPU to CPU each signal arrives at exactly one. */
static void test_move_race(void **state)
{
	enum { SIGNALS = 3000 };
	struct mover m = { 0 };
	pthread_t thread;
	struct bed t;

	setup(&t, false);
	m.t = &t;
	assert_int_equal(thread_create(&thread, "mover", move, &m), 0);
	for (unsigned i = 0; i < SIGNALS; i++) {
		unsigned mask;

		assert_int_equal(notifier_signal(&t.n), 0);
		mask = who(&t, 0x51);
		if (!is_pow2(mask))
			fail_msg("signal %u reached %#x after %u moves", i, mask, m.moves);
	}
	atomic_store(&m.stop, true);
	thread_join(thread);
	assert_int_equal(kvm_stat(t.stats, "irte_posted") + kvm_stat(t.stats, "irte_remapped"), SIGNALS);
	print_message("  %llu posted, %llu remapped, %u moves\n", (unsigned long long)kvm_stat(t.stats, "irte_posted"),
		      (unsigned long long)kvm_stat(t.stats, "irte_remapped"), m.moves);
	teardown(&t);
}

/*
 * However much is sent, a CPU has one notification outstanding: a flood of interrupts
 * costs the receiver one look, and the sender no more than a locked instruction each.
 */
static void test_flood(void **state)
{
	struct posted_desc d;
	unsigned notified = 0;
	uint32_t ndst;
	uint8_t nv;

	posted_init(&d);
	assert_false(posted_load(&d, 3));
	for (unsigned round = 1; round <= 3; round++) {
		for (unsigned i = 0; i < 100000; i++)
			notified += posted_post(&d, (uint8_t)i, i & 1, &nv, &ndst) == POSTED_NOTIFY;
		assert_int_equal(notified, round);
		assert_true(posted_begin_take(&d));
		for (unsigned i = 0; i < 4; i++) {
			assert_int_equal(d.pir[i], UINT64_MAX);
			d.pir[i] = 0;
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_formats),		  cmocka_unit_test(test_urgent),
		cmocka_unit_test(test_which_are_posted),  cmocka_unit_test(test_follows_destinations),
		cmocka_unit_test(test_move_race),	  cmocka_unit_test(test_flood),
	};

	return RUN(tests);
}
