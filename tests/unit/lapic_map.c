/* SPDX-License-Identifier: MIT
 * Several local APICs: who is a message for?
 */
#include "../lib/lapic_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#define CPUS 4

struct group {
	struct lapic_rig r[CPUS];
	struct lapic *all[CPUS];
	struct lapic_map *map;
};

static void setup_group(struct group *g)
{
	for (unsigned i = 0; i < CPUS; i++) {
		rig_setup_id(&g->r[i], i, &rig_sink);
		rig_write(&g->r[i], LAPIC_SVR, 0x1ff);
		g->all[i] = &g->r[i].l;
	}
	g->map = malloc(lapic_map_size(CPUS));
	assert_non_null(g->map);
	lapic_map_build(g->map, CPUS, g->all, CPUS);
}

/* Who got vector, as a bit mask; forgets it. */
static unsigned got(struct group *g, uint8_t vector)
{
	unsigned who = 0;

	for (unsigned i = 0; i < CPUS; i++)
		if (g->all[i] && lapic_highest_irr(g->all[i]) == vector) {
			who |= 1u << i;
			lapic_accept_vector(g->all[i], vector);
			lapic_eoi(g->all[i]);
		}
	return who;
}

static void check(struct group *g, struct lapic *src, struct irq_message m, int result,
		  unsigned who)
{
	m.vector = 0x51;
	m.assert = true;
	assert_int_equal(lapic_map_deliver(g->map, src, &m, NULL), result);
	assert_int_equal(got(g, 0x51), who);
}

static void logical_flat(struct group *g)
{
	for (unsigned i = 0; i < CPUS; i++)
		rig_write(&g->r[i], LAPIC_LDR, 0x1000000u << i);
	lapic_map_build(g->map, CPUS, g->all, CPUS);
}

static void physical_and_shorthands(void **state)
{
	static struct group g;

	setup_group(&g);
	check(&g, NULL, (struct irq_message) { .dest = 2 }, 1, 4);
	check(&g, NULL, (struct irq_message) { .dest = 9 }, 0, 0);	/* nobody, by the map */
	check(&g, NULL, (struct irq_message) { .dest = 0x12345678 }, 0, 0);
	check(&g, NULL, (struct irq_message) { .dest = 0xff }, 4, 15);
	check(&g, g.all[1], (struct irq_message) { .shorthand = IRQ_SELF }, 1, 2);
	check(&g, g.all[1], (struct irq_message) { .shorthand = IRQ_ALL }, 4, 15);
	check(&g, g.all[1], (struct irq_message) { .shorthand = IRQ_ALL_BUT_SELF }, 3, 13);
	check(&g, NULL, (struct irq_message) { .shorthand = IRQ_SELF }, 0, 0);
	/* Disabled ones are not there. */
	assert_int_equal(lapic_set_base(g.all[2], APIC_BASE_DEFAULT, false), 0);
	lapic_map_build(g.map, CPUS, g.all, CPUS);
	check(&g, NULL, (struct irq_message) { .dest = 0xff }, 3, 11);
	free(g.map);
}

static void nobody_at_all(void **state)
{
	static struct group g;

	setup_group(&g);
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(lapic_set_base(g.all[i], APIC_BASE_DEFAULT, true), 0);
	lapic_map_build(g.map, CPUS, g.all, CPUS);
	check(&g, NULL, (struct irq_message) { .dest = 0xff }, -1, 0);
	check(&g, NULL, (struct irq_message) { .dest = 0xff, .delivery = IRQ_LOWEST }, -1, 0);
	lapic_map_build(g.map, CPUS, g.all, 0);
	check(&g, NULL, (struct irq_message) { .shorthand = IRQ_ALL }, -1, 0);
	free(g.map);
}

static void logical_destinations(void **state)
{
	static struct group g;
	struct irq_message m = { .dest = 6, .logical = true };

	setup_group(&g);
	check(&g, NULL, m, 0, 0);	/* no logical IDs yet */
	logical_flat(&g);
	check(&g, NULL, m, 2, 6);
	m.delivery = IRQ_LOWEST;	/* vector 51h modulo 2 is the second */
	check(&g, NULL, m, 1, 4);
	m.delivery = IRQ_FIXED;
	m.redirection_hint = true;
	check(&g, NULL, m, 1, 4);
	m.redirection_hint = false;
	for (unsigned i = 0; i < CPUS; i++) {
		rig_write(&g.r[i], LAPIC_DFR, 0);
		rig_write(&g.r[i], LAPIC_LDR, ((i < 2 ? 0x10u : 0x20u) | 1u << (i & 1)) << 24);
	}
	lapic_map_build(g.map, CPUS, g.all, CPUS);
	m.dest = 0x13;
	check(&g, NULL, m, 2, 3);
	m.dest = 0x22;
	check(&g, NULL, m, 1, 8);
	m.dest = 0x33;
	check(&g, NULL, m, 0, 0);
	free(g.map);
}

static void aliased_ids_go_the_slow_way(void **state)
{
	static struct group g;

	setup_group(&g);
	rig_write(&g.r[3], LAPIC_ID, 1 << 24);
	lapic_map_build(g.map, CPUS, g.all, CPUS);
	assert_false(g.map->usable);
	check(&g, NULL, (struct irq_message) { .dest = 1 }, 2, 10);
	check(&g, NULL, (struct irq_message) { .dest = 3 }, -1, 0);
	assert_null(lapic_map_single(g.map, &(struct irq_message) { .dest = 1 }));
	assert_ptr_equal(lapic_map_single(g.map, &(struct irq_message) { .dest = 2 }), g.all[2]);
	assert_int_equal(lapic_map_pv_ipi(g.map, 15, 0, 0, 0x51, true), -EOPNOTSUPP);
	free(g.map);
}

static void mixed_modes_go_the_slow_way(void **state)
{
	static struct group g;
	struct irq_message m = { .dest = 5, .logical = true };

	setup_group(&g);
	logical_flat(&g);
	rig_to_x2apic(&g.r[3]);
	lapic_map_build(g.map, CPUS, g.all, CPUS);
	assert_int_equal(g.map->logical, LAPIC_LOGICAL_UNUSABLE);
	check(&g, NULL, m, 2, 5);
	/* A device's ffh is everybody also in x2APIC mode; an IPI's is not. */
	check(&g, NULL, (struct irq_message) { .dest = 0xff }, 4, 15);
	check(&g, g.all[3], (struct irq_message) { .dest = UINT32_MAX }, 1, 8);
	free(g.map);
}

static void x2apic_logical(void **state)
{
	static struct group g;
	struct irq_message m = { .dest = 0x5, .logical = true };

	setup_group(&g);
	for (unsigned i = 0; i < CPUS; i++)
		rig_to_x2apic(&g.r[i]);
	lapic_map_build(g.map, CPUS, g.all, CPUS);
	check(&g, NULL, m, 2, 5);
	m.dest = 0x10005;		/* another cluster */
	check(&g, NULL, m, 0, 0);
	m.dest = 0xffff0001;
	check(&g, NULL, m, 0, 0);
	free(g.map);
}

static void ids_past_the_map(void **state)
{
	static struct lapic_rig r;
	struct lapic *all[2] = { NULL, &r.l };
	struct lapic_map *map = malloc(lapic_map_size(0));

	assert_non_null(map);
	rig_setup_id(&r, 300, &rig_sink);
	rig_write(&r, LAPIC_SVR, 0x1ff);
	lapic_map_build(map, 0, all, 2);
	assert_false(map->usable);
	assert_int_equal(lapic_map_deliver(map, NULL, &(struct irq_message) { .dest = 300, .vector = 0x51 },
					   NULL), 1);
	free(map);
}

static void pv_ipi(void **state)
{
	static struct group g;

	setup_group(&g);
	assert_int_equal(lapic_map_pv_ipi(g.map, 6, 0, 0, 0x51, true), 2);
	assert_int_equal(got(&g, 0x51), 6);
	assert_int_equal(lapic_map_pv_ipi(g.map, 3, 0, 2, 0x51, true), 2);
	assert_int_equal(got(&g, 0x51), 12);
	/* Nobody there, and no wrap at the top. */
	assert_int_equal(lapic_map_pv_ipi(g.map, UINT64_MAX, UINT64_MAX, UINT32_MAX, 0x51, true), 0);
	assert_int_equal(lapic_map_pv_ipi(g.map, 1, 0, 0, 0x51 | ICR_LOGICAL, true), -EINVAL);
	assert_int_equal(lapic_map_pv_ipi(g.map, 1, 0, 0, 0x40051, true), -EINVAL);
	assert_int_equal(lapic_map_pv_ipi(g.map, 0, 1, 0, 0x51, false), 0);
	free(g.map);
}

static void scan_for_the_io_apic(void **state)
{
	static struct ioapic io;
	static const struct ioapic_sink no_sink;
	struct lapic_rig r;
	uint64_t handled[4];

	rig_setup(&r);
	ioapic_init(&io, 0x11, false, &no_sink, NULL);
	io.rte[3] = RTE_LEVEL | 0x41;			/* for CPU 0 */
	io.rte[4] = 0x42;				/* edge: no matter */
	io.rte[5] = RTE_LEVEL | 0x43 | 1ull << 56;	/* for CPU 1 */
	io.rte[6] = 0x44;
	io.rte[8] = 0x45;				/* the RTC is always tracked */
	ioapic_want_acks(&io, 1 << 6);
	assert_int_equal(lapic_scan_ioapic(&r.l, &io, 0, handled), -1);
	assert_int_equal(handled[0], 0);
	/* Also the 0 of all other pins: RTEs are edge and not wanted. */
	assert_int_equal(handled[1], 1 << 1 | 1 << 4 | 1 << 5);
	rig_send(&r, 0x43, true);				/* from before it was moved away */
	assert_int_equal(lapic_scan_ioapic(&r.l, &io, 0, handled), 0x43);
	assert_int_equal(handled[1], 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(physical_and_shorthands),
		cmocka_unit_test(nobody_at_all),
		cmocka_unit_test(logical_destinations),
		cmocka_unit_test(aliased_ids_go_the_slow_way),
		cmocka_unit_test(mixed_modes_go_the_slow_way),
		cmocka_unit_test(x2apic_logical),
		cmocka_unit_test(ids_past_the_map),
		cmocka_unit_test(pv_ipi),
		cmocka_unit_test(scan_for_the_io_apic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
