/* SPDX-License-Identifier: MIT
 * The PIC pair by the datasheet. What KVM makes of the corners is in irqchip_diff.
 */
#include "irqchip/irqchip.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

struct rig {
	struct i8259 pic;
	unsigned raised, lowered, masked, unmasked;
	bool extint;
};

static void output(void *opaque, bool raised)
{
	struct rig *r = opaque;

	if (raised)
		r->raised++;
	else
		r->lowered++;
}

static bool accepted(void *opaque)
{
	return ((struct rig *)opaque)->extint;
}

static void mask_changed(void *opaque, unsigned pin, bool masked)
{
	struct rig *r = opaque;

	if (masked)
		r->masked |= BIT(pin);
	else
		r->unmasked |= BIT(pin);
}

static const struct i8259_sink sink = { output, accepted, mask_changed };

static void out(struct rig *r, uint16_t port, uint8_t value)
{
	assert_int_equal(i8259_write(&r->pic, port, 1, value), 0);
}

static uint32_t in(struct rig *r, uint16_t port)
{
	uint32_t value;

	assert_int_equal(i8259_read(&r->pic, port, 1, &value), 0);
	return value;
}

/* ICW1..4 as Linux writes them: bases 30h and 38h. */
static void setup(struct rig *r, uint8_t icw4)
{
	memset(r, 0, sizeof(*r));
	r->extint = true;
	i8259_init(&r->pic, &sink, r, false);
	out(r, 0x20, 0x11);
	out(r, 0x21, 0x30);
	out(r, 0x21, 0x04);
	out(r, 0x21, icw4);
	out(r, 0xa0, 0x11);
	out(r, 0xa1, 0x38);
	out(r, 0xa1, 0x02);
	out(r, 0xa1, icw4);
}

static int inta(struct rig *r)
{
	uint32_t acks;
	int vector = i8259_inta(&r->pic, &acks);

	assert_int_equal(acks, 0);
	return vector;
}

static int set(struct rig *r, unsigned pin, bool level)
{
	return i8259_set_line(&r->pic, pin, 0, level);
}

static void edge_is_latched_once(void **state)
{
	struct rig r;

	setup(&r, 1);
	assert_int_equal(set(&r, 1, true), 1);
	assert_true(i8259_output(&r.pic));
	assert_int_equal(r.raised, 1);
	set(&r, 1, false);
	assert_true(i8259_output(&r.pic));	/* the edge stays */
	assert_int_equal(set(&r, 1, true), 0);	/* coalesced */
	assert_int_equal(inta(&r), 0x31);
	assert_int_equal(in(&r, 0x20), 0);	/* IRR */
	out(&r, 0x20, 0x0b);
	assert_int_equal(in(&r, 0x20), 2);	/* ISR */
	out(&r, 0x20, 0x20);
	assert_int_equal(in(&r, 0x20), 0);
	assert_false(i8259_output(&r.pic));	/* still high, but no new edge */
}

static void level_asks_again(void **state)
{
	struct rig r;

	setup(&r, 1);
	out(&r, 0x4d1, 0x04);			/* IRQ 10 */
	set(&r, 10, true);
	assert_int_equal(inta(&r), 0x3a);
	out(&r, 0xa0, 0x20);
	out(&r, 0x20, 0x20);
	assert_true(i8259_output(&r.pic));
	set(&r, 10, false);
	/* The cascade's edge is still latched: a spurious IRQ 15, as on hardware. */
	assert_int_equal(inta(&r), 0x3f);
	out(&r, 0xa0, 0x0b);
	assert_int_equal(in(&r, 0xa0), 0);	/* spurious: not in service on the slave */
}

static void spurious_on_master(void **state)
{
	struct rig r;

	setup(&r, 1);
	assert_int_equal(inta(&r), 0x37);
	out(&r, 0x20, 0x0b);
	assert_int_equal(in(&r, 0x20), 0);
}

static void masked_is_ignored(void **state)
{
	struct rig r;

	setup(&r, 1);
	out(&r, 0x21, 0x02);
	assert_int_equal(r.masked, 2);
	assert_int_equal(set(&r, 1, true), -1);
	assert_false(i8259_output(&r.pic));
	out(&r, 0x21, 0x00);			/* but latched */
	assert_int_equal(r.unmasked, 2);
	assert_int_equal(inta(&r), 0x31);
}

static void bad_pins_and_sources_are_ignored(void **state)
{
	struct rig r;

	setup(&r, 1);
	assert_int_equal(i8259_set_line(&r.pic, 16, 0, true), -1);
	assert_int_equal(i8259_set_line(&r.pic, UINT32_MAX, 0, true), -1);
	assert_int_equal(i8259_set_line(&r.pic, 1, 64, true), -1);
	i8259_clear_source(&r.pic, 64);
	assert_false(i8259_output(&r.pic));
}

static void sources_share_a_pin(void **state)
{
	struct rig r;

	setup(&r, 1);
	out(&r, 0x4d1, 0x04);
	i8259_set_line(&r.pic, 10, 1, true);
	i8259_set_line(&r.pic, 10, 2, true);
	i8259_set_line(&r.pic, 10, 1, false);
	assert_int_equal(in(&r, 0xa0), 4);
	i8259_set_line(&r.pic, 10, 2, false);
	assert_int_equal(in(&r, 0xa0), 0);
}

static void priorities_nest_and_rotate(void **state)
{
	struct rig r;

	setup(&r, 1);
	set(&r, 3, true);
	assert_int_equal(inta(&r), 0x33);
	set(&r, 5, true);
	assert_false(i8259_output(&r.pic));	/* lower: waits */
	set(&r, 0, true);
	assert_int_equal(inta(&r), 0x30);	/* higher: nests */
	out(&r, 0x20, 0x20);
	assert_false(i8259_output(&r.pic));
	out(&r, 0x20, 0xa0);			/* EOI 3 and rotate: 4 is on top */
	assert_int_equal(inta(&r), 0x35);
	out(&r, 0x20, 0x65);			/* specific EOI */
	set(&r, 3, false);
	set(&r, 3, true);
	set(&r, 7, true);
	assert_int_equal(inta(&r), 0x37);
	out(&r, 0x20, 0xc2);			/* set priority: 3 on top */
	assert_int_equal(inta(&r), 0x33);
}

static void elcr_masks_fixed_pins(void **state)
{
	struct rig r;

	setup(&r, 1);
	out(&r, 0x4d0, 0xff);
	out(&r, 0x4d1, 0xff);
	assert_int_equal(in(&r, 0x4d0), 0xf8);
	assert_int_equal(in(&r, 0x4d1), 0xde);
}

static void automatic_eoi(void **state)
{
	struct rig r;
	uint32_t acks;

	setup(&r, 3);
	i8259_want_acks(&r.pic, 2);
	set(&r, 1, true);
	assert_int_equal(i8259_inta(&r.pic, &acks), 0x31);
	assert_int_equal(acks, 2);
	i8259_complete(&r.pic);
	out(&r, 0x20, 0x0b);
	assert_int_equal(in(&r, 0x20), 0);
}

static void poll_takes_the_interrupt(void **state)
{
	struct rig r;

	setup(&r, 1);
	set(&r, 9, true);
	out(&r, 0xa0, 0x0c);
	assert_int_equal(in(&r, 0xa0), 0x81);
	assert_int_equal(in(&r, 0xa1), 0);	/* back to the mask */
	out(&r, 0xa0, 0x0c);
	assert_int_equal(in(&r, 0xa0), 7);	/* nothing there */
	assert_false(i8259_output(&r.pic));
}

static void special_fully_nested(void **state)
{
	struct rig r;

	setup(&r, 0x11);
	set(&r, 12, true);
	assert_int_equal(inta(&r), 0x3c);
	set(&r, 8, true);
	assert_int_equal(inta(&r), 0x38);	/* from the same slave */
	setup(&r, 1);
	set(&r, 12, true);
	assert_int_equal(inta(&r), 0x3c);
	set(&r, 8, true);
	assert_false(i8259_output(&r.pic));	/* not without the mode */
}

static void special_mask_only_by_datasheet(void **state)
{
	struct rig r;

	for (int honour = 0; honour < 2; honour++) {
		setup(&r, 1);
		r.pic.honour_special_mask = honour;
		set(&r, 3, true);
		assert_int_equal(inta(&r), 0x33);
		out(&r, 0x21, 0x08);
		out(&r, 0x20, 0x68);
		set(&r, 5, true);
		assert_int_equal(i8259_output(&r.pic), honour);
	}
}

static void no_spurious_cascade_after_resample(void **state)
{
	struct rig r;

	setup(&r, 1);
	out(&r, 0x4d1, 0x04);
	i8259_want_acks(&r.pic, 1u << 10);
	set(&r, 10, true);
	assert_int_equal(inta(&r), 0x3a);
	/* The EOI does not look at the wire before its source has been asked. */
	assert_int_equal(i8259_write(&r.pic, 0xa0, 1, 0x20), 1u << 10);
	set(&r, 10, false);
	i8259_complete(&r.pic);
	out(&r, 0x20, 0x20);
	assert_false(i8259_output(&r.pic));
}

static void initialisation_acks_lost_edges(void **state)
{
	struct rig r;

	for (int extint = 0; extint < 2; extint++) {
		setup(&r, 1);
		r.extint = extint;
		i8259_want_acks(&r.pic, 0xffff);
		set(&r, 0, true);
		/* Nobody could have seen it through the PIC: then nobody is told. */
		assert_int_equal(i8259_write(&r.pic, 0x20, 1, 0x11), extint);
		assert_int_equal(in(&r, 0x20), 0);
	}
}

static void wide_and_foreign_accesses_do_nothing(void **state)
{
	struct rig r;
	uint32_t value = 1;

	setup(&r, 1);
	assert_int_equal(i8259_write(&r.pic, 0x21, 2, 0xff), 0);
	assert_int_equal(i8259_write(&r.pic, 0x22, 1, 0xff), 0);
	assert_int_equal(in(&r, 0x21), 0);
	assert_int_equal(i8259_read(&r.pic, 0x21, 4, &value), 0);
	assert_int_equal(value, 0);
	assert_false(i8259_owns_port(0x22));
	assert_false(i8259_owns_port(0x4d2));
	assert_true(i8259_owns_port(0xa1));
}

static void any_state_loads_and_none_breaks(void **state)
{
	struct rig r;
	struct kvm_pic_state s, back;
	uint32_t value, acks;

	setup(&r, 1);
	for (unsigned i = 0; i < 256; i++) {
		memset(&s, i, sizeof(s));
		assert_int_equal(i8259_load(&r.pic, i & 1, &s), 0);
		assert_int_equal(i8259_save(&r.pic, i & 1, &back), 0);
		/* The slave's request may have been passed on to the master at once. */
		assert_int_equal(s.imr, back.imr);
		assert_int_equal(s.init_state, back.init_state);
		i8259_inta(&r.pic, &acks);
		for (uint16_t port = 0; port < 0x500; port++)
			if (i8259_owns_port(port)) {
				assert_int_equal(i8259_write(&r.pic, port, 1, i * 7 + port), 0);
				assert_int_equal(i8259_read(&r.pic, port, 1, &value), 0);
			}
	}
	assert_int_equal(i8259_load(&r.pic, 2, &s), -EINVAL);
	assert_int_equal(i8259_save(&r.pic, 2, &s), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(edge_is_latched_once),
		cmocka_unit_test(level_asks_again),
		cmocka_unit_test(spurious_on_master),
		cmocka_unit_test(masked_is_ignored),
		cmocka_unit_test(bad_pins_and_sources_are_ignored),
		cmocka_unit_test(sources_share_a_pin),
		cmocka_unit_test(priorities_nest_and_rotate),
		cmocka_unit_test(elcr_masks_fixed_pins),
		cmocka_unit_test(automatic_eoi),
		cmocka_unit_test(poll_takes_the_interrupt),
		cmocka_unit_test(special_fully_nested),
		cmocka_unit_test(special_mask_only_by_datasheet),
		cmocka_unit_test(no_spurious_cascade_after_resample),
		cmocka_unit_test(initialisation_acks_lost_edges),
		cmocka_unit_test(wide_and_foreign_accesses_do_nothing),
		cmocka_unit_test(any_state_loads_and_none_breaks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
