/* SPDX-License-Identifier: MIT */
#include "irqchip/i8259.h"

#define CASCADE_PIN	2
#define NO_IRQ		(-1)

/* ICW1, OCW2 and OCW3 share the even port: 8259A, "Programming the 8259A". */
#define ICW1_SELECT	0x10
#define ICW1_IC4	0x01
#define OCW3_SELECT	0x08
#define OCW3_POLL	0x04
#define OCW3_READ_REG	0x02
#define OCW3_SET_SMM	0x40

enum { STATE_READY, STATE_ICW2, STATE_ICW3, STATE_ICW4 };

static bool is_master(const struct i8259 *pic, const struct kvm_pic_state *c)
{
	return c == &pic->chip[0];
}

/* Distance of the most urgent bit from the current top priority; 8 if none. */
static unsigned priority_of(const struct kvm_pic_state *c, uint8_t mask)
{
	unsigned top = c->priority_add & 7;
	unsigned rotated = (uint8_t)(mask >> top | mask << (8 - top));

	return rotated ? (unsigned)__builtin_ctz(rotated) : 8;
}

static unsigned pin_at(const struct kvm_pic_state *c, unsigned priority)
{
	return (priority + c->priority_add) & 7;
}

/* The pin this chip wants served now, or NO_IRQ. */
static int pin_wanted(const struct i8259 *pic, const struct kvm_pic_state *c)
{
	unsigned wanted = priority_of(c, c->irr & ~c->imr);
	uint8_t in_service = c->isr;

	if (wanted == 8)
		return NO_IRQ;
	/* 8259A, "Special Mask Mode": a masked level does not inhibit lower ones. */
	if (pic->honour_special_mask && c->special_mask)
		in_service &= ~c->imr;
	/* 8259A, "Special Fully Nested Mode": the slave may interrupt itself. */
	if (c->special_fully_nested_mode && is_master(pic, c))
		in_service &= ~(1 << CASCADE_PIN);
	return wanted < priority_of(c, in_service) ? (int)pin_at(c, wanted) : NO_IRQ;
}

/* Returns 0 if the request was already pending, 1 otherwise, -1 if masked. */
static int pin_set(struct kvm_pic_state *c, unsigned pin, bool level)
{
	uint8_t bit = 1 << pin;
	int ret = 1;

	if (c->elcr & bit) {
		if (level) {
			ret = !(c->irr & bit);
			c->irr |= bit;
			c->last_irr |= bit;
		} else {
			c->irr &= ~bit;
			c->last_irr &= ~bit;
		}
	} else if (level) {
		if (!(c->last_irr & bit)) {
			ret = !(c->irr & bit);
			c->irr |= bit;
		}
		c->last_irr |= bit;
	} else {
		c->last_irr &= ~bit;
	}
	return c->imr & bit ? -1 : ret;
}

/* Stored whole: i8259_output() is for any thread, without the caller's lock. */
static void set_output(struct i8259 *pic, bool output)
{
	__atomic_store_n(&pic->output, output, __ATOMIC_SEQ_CST);
	pic->sink->output(pic->opaque, output);
}

static void update_output(struct i8259 *pic)
{
	bool output;

	/* The slave's INT is an edge for the master's cascade pin. */
	if (pin_wanted(pic, &pic->chip[1]) != NO_IRQ) {
		pin_set(&pic->chip[0], CASCADE_PIN, true);
		pin_set(&pic->chip[0], CASCADE_PIN, false);
	}
	output = pin_wanted(pic, &pic->chip[0]) != NO_IRQ;
	pic->update_due = false;
	if (output != pic->output)
		set_output(pic, output);
}

/* With acks outstanding the wires are looked at after they have run. */
static void update_after_acks(struct i8259 *pic)
{
	if (pic->acks)
		pic->update_due = true;
	else
		update_output(pic);
}

static void clear_isr(struct i8259 *pic, struct kvm_pic_state *c, unsigned pin)
{
	c->isr &= ~(1 << pin);
	pic->acks |= (1u << (is_master(pic, c) ? pin : pin + 8)) & pic->ack_pins;
}

static uint32_t take_acks(struct i8259 *pic)
{
	uint32_t acks = pic->acks;

	pic->acks = 0;
	return acks;
}

static void initialise(struct i8259 *pic, struct kvm_pic_state *c, uint8_t icw1)
{
	uint8_t edges = c->irr & ~c->elcr;

	c->init4 = icw1 & ICW1_IC4;
	c->last_irr = 0;
	c->irr &= c->elcr;
	c->imr = 0;
	c->priority_add = 0;
	c->special_mask = 0;
	c->read_reg_select = 0;
	if (!c->init4) {
		c->special_fully_nested_mode = 0;
		c->auto_eoi = 0;
	}
	c->init_state = STATE_ICW2;

	/*
	 * A latched edge is lost here. Its source must hear of an ack or it would
	 * wait for one for ever (KVM: the PIT's reinjection), but only if the edge
	 * could have been seen through the PIC at all.
	 */
	if (pic->sink->extint_accepted && !pic->sink->extint_accepted(pic->opaque))
		return;
	for (unsigned pin = 0; pin < 8; pin++)
		if (edges & (1 << pin))
			clear_isr(pic, c, pin);
}

static void operation_word_2(struct i8259 *pic, struct kvm_pic_state *c, uint8_t value)
{
	unsigned pin = value & 7;
	unsigned priority;

	switch (value >> 5) {
	case 0:		/* rotate in automatic EOI mode: clear */
	case 4:		/* ... set */
		c->rotate_on_auto_eoi = value >> 7;
		return;
	case 1:		/* non-specific EOI */
	case 5:		/* ... and rotate */
		priority = priority_of(c, c->isr);
		if (priority == 8)
			return;
		pin = pin_at(c, priority);
		if (value & 0x80)
			c->priority_add = (pin + 1) & 7;
		clear_isr(pic, c, pin);
		break;
	case 3:		/* specific EOI */
	case 7:		/* ... and rotate */
		if (value & 0x80)
			c->priority_add = (pin + 1) & 7;
		clear_isr(pic, c, pin);
		break;
	case 6:		/* set priority */
		c->priority_add = (pin + 1) & 7;
		break;
	default:
		return;
	}
	update_after_acks(pic);
}

static void write_command(struct i8259 *pic, struct kvm_pic_state *c, uint8_t value)
{
	if (value & ICW1_SELECT) {
		initialise(pic, c, value);
	} else if (value & OCW3_SELECT) {
		if (value & OCW3_POLL)
			c->poll = 1;
		if (value & OCW3_READ_REG)
			c->read_reg_select = value & 1;
		if (value & OCW3_SET_SMM)
			c->special_mask = value >> 5 & 1;
	} else {
		operation_word_2(pic, c, value);
	}
}

static void write_mask(struct i8259 *pic, struct kvm_pic_state *c, uint8_t value)
{
	uint8_t changed = c->imr ^ value;
	unsigned first = is_master(pic, c) ? 0 : 8;

	c->imr = value;
	for (unsigned pin = 0; pin < 8 && pic->sink->mask_changed; pin++)
		if (changed & (1 << pin))
			pic->sink->mask_changed(pic->opaque, first + pin, value & (1 << pin));
	update_output(pic);
}

static void write_data(struct i8259 *pic, struct kvm_pic_state *c, uint8_t value)
{
	switch (c->init_state) {
	case STATE_READY:
		write_mask(pic, c, value);
		break;
	case STATE_ICW2:
		c->irq_base = value & 0xf8;
		c->init_state = STATE_ICW3;
		break;
	case STATE_ICW3:	/* the cascade is wired, whatever the guest says */
		c->init_state = c->init4 ? STATE_ICW4 : STATE_READY;
		break;
	case STATE_ICW4:
		c->special_fully_nested_mode = value >> 4 & 1;
		c->auto_eoi = value >> 1 & 1;
		c->init_state = STATE_READY;
		break;
	default:		/* a loaded state nobody can program: stuck until ICW1 */
		break;
	}
}

/* 8259A, "Poll Command": the read is the INTA. KVM ends the interrupt at once. */
static uint8_t read_polled(struct i8259 *pic, struct kvm_pic_state *c)
{
	int pin = pin_wanted(pic, c);

	if (pin == NO_IRQ) {
		update_output(pic);
		return 7;
	}
	if (!is_master(pic, c)) {
		pic->chip[0].isr &= ~(1 << CASCADE_PIN);
		pic->chip[0].irr &= ~(1 << CASCADE_PIN);
	}
	c->irr &= ~(1 << pin);
	clear_isr(pic, c, pin);
	if (!is_master(pic, c) || pin != CASCADE_PIN)
		update_after_acks(pic);
	return 0x80 | pin;
}

void i8259_init(struct i8259 *pic, const struct i8259_sink *sink, void *opaque,
		bool honour_special_mask)
{
	*pic = (struct i8259) {
		.chip = { { .elcr_mask = 0xf8 }, { .elcr_mask = 0xde } },
		.honour_special_mask = honour_special_mask,
		.sink = sink,
		.opaque = opaque,
	};
}

void i8259_want_acks(struct i8259 *pic, uint32_t pins)
{
	pic->ack_pins = pins;
}

int i8259_set_line(struct i8259 *pic, unsigned pin, unsigned source, bool level)
{
	int ret;

	if (pin >= I8259_PINS || source >= 64)
		return -1;
	if (level)
		pic->lines[pin] |= BIT_ULL(source);
	else
		pic->lines[pin] &= ~BIT_ULL(source);
	ret = pin_set(&pic->chip[pin >> 3], pin & 7, pic->lines[pin]);
	update_output(pic);
	return ret;
}

void i8259_clear_source(struct i8259 *pic, unsigned source)
{
	if (source >= 64)
		return;
	for (unsigned pin = 0; pin < I8259_PINS; pin++)
		pic->lines[pin] &= ~BIT_ULL(source);
}

bool i8259_owns_port(uint16_t port)
{
	return port == 0x20 || port == 0x21 || port == 0xa0 || port == 0xa1 ||
	       port == 0x4d0 || port == 0x4d1;
}

uint32_t i8259_write(struct i8259 *pic, uint16_t port, unsigned len, uint32_t value)
{
	struct kvm_pic_state *c = &pic->chip[port == 0x4d0 || port == 0x4d1 ? port & 1 : port >> 7 & 1];

	if (len != 1 || !i8259_owns_port(port))
		return 0;
	if (port >= 0x4d0)
		c->elcr = value & c->elcr_mask;
	else if (port & 1)
		write_data(pic, c, (uint8_t)value);
	else
		write_command(pic, c, (uint8_t)value);
	return take_acks(pic);
}

uint32_t i8259_read(struct i8259 *pic, uint16_t port, unsigned len, uint32_t *value)
{
	struct kvm_pic_state *c = &pic->chip[port == 0x4d0 || port == 0x4d1 ? port & 1 : port >> 7 & 1];

	*value = 0;
	if (len != 1 || !i8259_owns_port(port))
		return 0;
	if (port >= 0x4d0) {
		*value = c->elcr;
	} else if (c->poll) {
		*value = read_polled(pic, c);
		c->poll = 0;
	} else if (port & 1) {
		*value = c->imr;
	} else {
		*value = c->read_reg_select ? c->isr : c->irr;
	}
	return take_acks(pic);
}

static void pin_accept(struct i8259 *pic, struct kvm_pic_state *c, unsigned pin)
{
	c->isr |= 1 << pin;
	/* A level request stays until its source withdraws it. */
	if (!(c->elcr & (1 << pin)))
		c->irr &= ~(1 << pin);
	if (c->auto_eoi) {
		if (c->rotate_on_auto_eoi)
			c->priority_add = (pin + 1) & 7;
		clear_isr(pic, c, pin);
	}
}

uint8_t i8259_inta(struct i8259 *pic, uint32_t *acks)
{
	struct kvm_pic_state *c = &pic->chip[0];
	int pin = pin_wanted(pic, c);

	/* INTA takes the wire down; a request that is left makes it an edge again. */
	if (pic->output)
		set_output(pic, false);
	if (pin == NO_IRQ) {
		pin = 7;
	} else {
		pin_accept(pic, c, pin);
		if (pin == CASCADE_PIN) {
			c = &pic->chip[1];
			pin = pin_wanted(pic, c);
			if (pin == NO_IRQ)
				pin = 7;
			else
				pin_accept(pic, c, pin);
		}
	}
	update_after_acks(pic);
	*acks = take_acks(pic);
	return (uint8_t)(c->irq_base + pin);
}

void i8259_complete(struct i8259 *pic)
{
	if (pic->update_due)
		update_output(pic);
}

int i8259_save(const struct i8259 *pic, unsigned which, struct kvm_pic_state *out)
{
	if (which > KVM_IRQCHIP_PIC_SLAVE)
		return -EINVAL;
	*out = pic->chip[which];
	return 0;
}

void i8259_update(struct i8259 *pic)
{
	update_output(pic);
}

int i8259_load(struct i8259 *pic, unsigned which, const struct kvm_pic_state *in)
{
	bool known = which <= KVM_IRQCHIP_PIC_SLAVE;

	if (known)
		pic->chip[which] = *in;
	update_output(pic);
	return known ? 0 : -EINVAL;
}
