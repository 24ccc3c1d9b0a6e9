/* SPDX-License-Identifier: MIT
 * The pair of 8259As against any sequence of port accesses, wires and INTA
 * cycles. A second chip, made by save and load at a moment the input picks,
 * must behave as the first from there on.
 */
#include "fuzz.h"
#include "irqchip/irqchip.h"

struct bed {
	struct i8259 pic;
	bool wire;          /* INTR as the sink last heard of it */
	bool extint;
	uint32_t masked;    /* what mask_changed told */
	unsigned outputs;
};

static void on_output(void *opaque, bool raised)
{
	struct bed *b = opaque;

	FUZZ_CHECK(b->wire != raised, "INTR told twice");
	b->wire = raised;
	b->outputs++;
}

static bool on_extint(void *opaque)
{
	return ((struct bed *)opaque)->extint;
}

static void on_mask(void *opaque, unsigned pin, bool masked)
{
	FUZZ_CHECK(pin < I8259_PINS, "pin %u", pin);
}

static const struct i8259_sink sink = { on_output, on_extint, on_mask };

struct action {
	uint8_t what, arg;
	uint32_t value;
	uint16_t port;
	unsigned len;
};

static void take(struct feed *f, struct action *a)
{
	static const uint16_t ports[] = { 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1 };

	a->what = feed_u8(f);
	a->arg = feed_u8(f);
	a->value = feed_u8(f);
	a->port = ports[a->arg % ARRAY_SIZE(ports)];
	a->len = 1;
	if (a->what == 0xff) { /* seldom: any port, any length */
		a->port = feed_u16(f);
		a->len = feed_u8(f);
		a->value = feed_u32(f);
	}
}

static void finish(struct bed *b, uint32_t acks)
{
	FUZZ_CHECK(!(acks & ~b->pic.ack_pins), "acks %x nobody asked for", acks);
	i8259_complete(&b->pic);
	FUZZ_CHECK(!b->pic.update_due, "an update is still due");
}

static uint32_t act(struct bed *b, const struct action *a)
{
	uint32_t acks = 0, value = 0;

	switch (a->what % 8) {
	case 0:
	case 1:
	case 7:
		finish(b, i8259_write(&b->pic, a->port, a->len, a->value));
		break;
	case 2:
		finish(b, i8259_read(&b->pic, a->port, a->len, &value));
		break;
	case 3:
		value = i8259_inta(&b->pic, &acks);
		/* ICW2 gives the upper five bits, a loaded state may have any. */
		finish(b, acks);
		break;
	case 4:
	case 5:
		value = (uint32_t)i8259_set_line(&b->pic, a->arg % 17, a->value % 65, a->value >> 7);
		FUZZ_CHECK((int)value >= -1 && (int)value <= 1, "tri-state %d", (int)value);
		break;
	case 6:
		if (a->arg & 1)
			i8259_clear_source(&b->pic, a->value);
		else if (a->arg & 2)
			b->extint = a->value & 1;
		else
			i8259_want_acks(&b->pic, a->value * 257u);
		break;
	}
	FUZZ_CHECK(b->wire == b->pic.output && b->wire == i8259_output(&b->pic), "INTR");
	return value;
}

/* What save and load carry, with what the caller keeps by itself: sources, ack pins, the CPUs. */
static void copy(struct bed *to, const struct bed *from)
{
	struct kvm_pic_state s;

	i8259_init(&to->pic, &sink, to, from->pic.honour_special_mask);
	to->extint = from->extint;
	i8259_want_acks(&to->pic, from->pic.ack_pins);
	memcpy(to->pic.lines, from->pic.lines, sizeof(to->pic.lines));
	to->wire = to->pic.output;
	for (unsigned i = 0; i < 2; i++) {
		if (i8259_save(&from->pic, i, &s) || i8259_load(&to->pic, i, &s))
			abort();
	}
}

static void compare(const struct bed *a, const struct bed *b)
{
	const uint8_t *s = (const uint8_t *)a->pic.chip, *t = (const uint8_t *)b->pic.chip;

	for (unsigned i = 0; i < sizeof(a->pic.chip); i++)
		FUZZ_CHECK(s[i] == t[i], "byte %u of struct kvm_pic_state: %x, after save and load %x",
			   i, s[i], t[i]);
}

/*
 * A load recomputes INTR, and with it the slave's edge into the master; a running
 * chip does so at its next event. A few events make the two the same.
 */
static void settle(struct bed *b)
{
	for (unsigned i = 0; i < 3; i++)
		(void)i8259_set_line(&b->pic, 0, 63, b->pic.lines[0] >> 63);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct feed f = { data, size };
	struct bed a = { .extint = true }, b = { .extint = true };
	bool twin = false;
	struct action x;

	i8259_init(&a.pic, &sink, &a, feed_u8(&f) & 1);
	if (feed_u8(&f) & 1) { /* any state can be loaded */
		for (unsigned i = 0; i < 2; i++) {
			struct kvm_pic_state s;

			feed_bytes(&f, &s, sizeof(s));
			FUZZ_CHECK(!i8259_load(&a.pic, i, &s), "load");
		}
	}
	while (f.left) {
		if (!twin && feed_u8(&f) < 8) {
			settle(&a);
			copy(&b, &a);
			twin = true;
			FUZZ_CHECK(a.wire == b.wire, "INTR after a load");
			continue;
		}
		take(&f, &x);
		if (twin) {
			uint32_t va = act(&a, &x), vb = act(&b, &x);

			FUZZ_CHECK(va == vb, "%x here, %x after save and load", va, vb);
			FUZZ_CHECK(a.wire == b.wire, "INTR");
			compare(&a, &b);
		} else {
			(void)act(&a, &x);
		}
	}
	return 0;
}
