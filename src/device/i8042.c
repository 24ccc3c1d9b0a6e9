/* SPDX-License-Identifier: MIT
 * i8042 keyboard controller with a keyboard that nobody types on: what guests
 * need to probe it, and to reset the machine through it. (IBM PS/2 Hardware
 * Interface Technical Reference, "Keyboard and Auxiliary Device Controller".)
 * There is no mouse, and the tests of its port say so.
 */
#include "device/device.h"
#include <stdlib.h>

#define PORT_DATA      LAYOUT_PORT_I8042
#define PORT_COMMAND   (LAYOUT_PORT_I8042 + 4)

#define STATUS_OBF     BIT(0)
#define STATUS_SYS     BIT(2)
#define STATUS_CMD     BIT(3) /* the last write was a command */
#define STATUS_UNLOCK  BIT(4)

#define CFG_KBD_IRQ    BIT(0)
#define CFG_SYS        BIT(2)
#define CFG_KBD_OFF    BIT(4)
#define CFG_AUX_OFF    BIT(5)
#define CFG_XLATE      BIT(6)

#define OUT_RESET_N    BIT(0) /* output port: 0 holds the CPU in reset */
#define OUT_A20        BIT(1)
#define OUT_KBD_IRQ    BIT(4) /* mirrors of the wires */

#define KBD_ACK        0xfa
#define KBD_RESEND     0xfe
#define KBD_QUEUE      16

struct i8042 {
	struct device dev;
	pthread_mutex_t lock;
	struct region data, command;
	struct irq_wire wire;
	uint8_t cfg, out_port, out, last_kbd;
	bool full;             /* `out` holds a byte (OBF) */
	bool last_was_command;
	uint8_t waiting;       /* controller command whose data byte comes next, 0: none */
	uint8_t kbd_waiting;   /* the same for the keyboard */
	uint8_t scan_set;
	uint8_t queue[KBD_QUEUE];
	unsigned head, count;
};

static void update_irq_locked(struct i8042 *c)
{
	irq_wire_set(&c->wire, c->full && (c->cfg & CFG_KBD_IRQ));
}

/* The keyboard's clock runs and the output buffer is free: the next byte comes over. */
static void refill_locked(struct i8042 *c)
{
	if (!c->full && c->count && !(c->cfg & CFG_KBD_OFF)) {
		c->out = c->last_kbd = c->queue[c->head];
		c->head = (c->head + 1) % KBD_QUEUE;
		c->count--;
		c->full = true;
	}
	update_irq_locked(c);
}

/* The controller's own answers do not wait for the keyboard's queue. */
static void answer_locked(struct i8042 *c, uint8_t v)
{
	c->out = v;
	c->full = true;
}

static void kbd_send_locked(struct i8042 *c, uint8_t v)
{
	if (c->count < KBD_QUEUE)
		c->queue[(c->head + c->count++) % KBD_QUEUE] = v;
}

static void kbd_defaults_locked(struct i8042 *c)
{
	c->scan_set = 2;
	c->kbd_waiting = 0;
}

static void kbd_argument_locked(struct i8042 *c, uint8_t command, uint8_t v)
{
	if (command == 0xf0 && v > 3) {
		kbd_send_locked(c, KBD_RESEND);
		return;
	}
	kbd_send_locked(c, KBD_ACK);
	if (command == 0xf0 && v == 0)
		kbd_send_locked(c, c->scan_set);
	else if (command == 0xf0)
		c->scan_set = v;
}

/* A byte for the keyboard. One at or above EDh is a command even where an argument is due. */
static void kbd_write_locked(struct i8042 *c, uint8_t v)
{
	uint8_t pending = c->kbd_waiting;

	c->kbd_waiting = 0;
	if (pending && v < 0xed) {
		kbd_argument_locked(c, pending, v);
		return;
	}
	switch (v) {
	case 0xed: /* LEDs */
	case 0xf0: /* scan code set */
	case 0xf3: /* typematic rate */
		c->kbd_waiting = v;
		kbd_send_locked(c, KBD_ACK);
		break;
	case 0xee: /* echo */
		kbd_send_locked(c, 0xee);
		break;
	case 0xf2: /* identify: MF2 keyboard, as the translating controller shows it */
		kbd_send_locked(c, KBD_ACK);
		kbd_send_locked(c, 0xab);
		kbd_send_locked(c, c->cfg & CFG_XLATE ? 0x41 : 0x83);
		break;
	case 0xf4: /* enable */
	case 0xf7 ... 0xfa: /* key types: no keys, so no matter */
		kbd_send_locked(c, KBD_ACK);
		break;
	case 0xf5: /* disable and defaults */
	case 0xf6: /* defaults */
		kbd_defaults_locked(c);
		kbd_send_locked(c, KBD_ACK);
		break;
	case 0xfe: /* resend */
		kbd_send_locked(c, c->last_kbd);
		break;
	case 0xff: /* reset and self-test */
		c->head = c->count = 0;
		kbd_defaults_locked(c);
		kbd_send_locked(c, KBD_ACK);
		kbd_send_locked(c, 0xaa);
		break;
	default:
		kbd_send_locked(c, KBD_RESEND);
		break;
	}
}

/* Returns true if the machine is to be reset. */
static bool command_locked(struct i8042 *c, uint8_t v)
{
	c->waiting = 0;
	switch (v) {
	case 0x20: /* read configuration byte */
		answer_locked(c, c->cfg);
		break;
	case 0xa7:
		c->cfg |= CFG_AUX_OFF;
		break;
	case 0xa8:
		c->cfg &= ~CFG_AUX_OFF;
		break;
	case 0xa9: /* mouse port test: clock line stuck high, nothing is there */
		answer_locked(c, 0x02);
		break;
	case 0xaa: /* self-test passed */
		c->cfg |= CFG_SYS;
		answer_locked(c, 0x55);
		break;
	case 0xab: /* keyboard port test passed */
		answer_locked(c, 0x00);
		break;
	case 0xad:
		c->cfg |= CFG_KBD_OFF;
		break;
	case 0xae:
		c->cfg &= ~CFG_KBD_OFF;
		break;
	case 0xc0: /* input port: keyboard not locked */
		answer_locked(c, 0x80);
		break;
	case 0xd0:
		answer_locked(c, c->out_port | (c->full ? OUT_KBD_IRQ : 0));
		break;
	case 0x60: /* write configuration byte */
	case 0xd1: /* write output port */
	case 0xd2: /* data as if from the keyboard */
	case 0xd3: /* data as if from the mouse */
	case 0xd4: /* data to the mouse */
		c->waiting = v;
		break;
	case 0xf0 ... 0xff: /* pulse output lines low: bit 0 clear is the CPU's reset */
		return !(v & 1);
	default:
		device_complain(&c->dev, "guest sent the unknown command %02xh", v);
		break;
	}
	return false;
}

static bool command_data_locked(struct i8042 *c, uint8_t command, uint8_t v)
{
	switch (command) {
	case 0x60:
		c->cfg = v;
		break;
	case 0xd1:
		c->out_port = v & (OUT_RESET_N | OUT_A20); /* A20 is never masked, only remembered */
		return !(v & OUT_RESET_N);
	case 0xd2:
	case 0xd3: /* there is no mouse buffer: it comes back as the keyboard's */
		answer_locked(c, v);
		break;
	case 0xd4: /* no mouse: nobody answers */
		break;
	}
	return false;
}

static uint64_t i8042_read_data(void *arg, uint64_t off, unsigned len)
{
	struct i8042 *c = arg;
	uint8_t v;

	mutex_lock(&c->lock);
	v = c->out;
	c->full = false;
	update_irq_locked(c); /* falls between two bytes: each is an edge */
	refill_locked(c);
	mutex_unlock(&c->lock);
	return v;
}

static uint64_t i8042_read_status(void *arg, uint64_t off, unsigned len)
{
	struct i8042 *c = arg;
	uint8_t v;

	mutex_lock(&c->lock);
	v = STATUS_UNLOCK | (c->full ? STATUS_OBF : 0) | (c->cfg & CFG_SYS ? STATUS_SYS : 0) |
	    (c->last_was_command ? STATUS_CMD : 0);
	mutex_unlock(&c->lock);
	return v;
}

static void i8042_write(struct i8042 *c, bool command, uint8_t v)
{
	bool reset = false;

	mutex_lock(&c->lock);
	c->last_was_command = command;
	if (command) {
		reset = command_locked(c, v);
	} else if (c->waiting) {
		uint8_t pending = c->waiting;

		c->waiting = 0;
		reset = command_data_locked(c, pending, v);
	} else {
		c->cfg &= ~CFG_KBD_OFF; /* writing to the keyboard starts its clock */
		kbd_write_locked(c, v);
	}
	refill_locked(c);
	mutex_unlock(&c->lock);
	if (reset)
		machine_request(c->dev.machine, MACHINE_RESET);
}

static void i8042_write_data(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	i8042_write(arg, false, (uint8_t)value);
}

static void i8042_write_command(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	i8042_write(arg, true, (uint8_t)value);
}

static const struct region_ops data_ops = {
	.read = i8042_read_data, .write = i8042_write_data, .min_len = 1, .max_len = 1,
};

static const struct region_ops command_ops = {
	.read = i8042_read_status, .write = i8042_write_command, .min_len = 1, .max_len = 1,
};

/* As firmware leaves it: keyboard tested, on, translating, its interrupt enabled. */
static void i8042_reset(struct device *dev)
{
	struct i8042 *c = container_of(dev, struct i8042, dev);

	mutex_lock(&c->lock);
	c->cfg = CFG_KBD_IRQ | CFG_SYS | CFG_AUX_OFF | CFG_XLATE;
	c->out_port = OUT_RESET_N | OUT_A20;
	c->out = c->last_kbd = 0;
	c->full = c->last_was_command = false;
	c->waiting = 0;
	c->head = c->count = 0;
	kbd_defaults_locked(c);
	update_irq_locked(c);
	mutex_unlock(&c->lock);
}

static void i8042_free(struct i8042 *c)
{
	irq_wire_fini(&c->wire);
	mutex_destroy(&c->lock);
	free(c);
}

static void i8042_destroy(struct device *dev)
{
	struct i8042 *c = container_of(dev, struct i8042, dev);

	region_del(dev->machine->map, &c->data);
	region_del(dev->machine->map, &c->command);
	i8042_free(c);
}

static const struct device_ops i8042_ops = {
	.type = "i8042", .reset = i8042_reset, .destroy = i8042_destroy,
};

int i8042_create(struct machine *m)
{
	struct i8042 *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	mutex_init(&c->lock);
	irq_wire_init(&c->wire, m->irq, LAYOUT_GSI_KBD, "keyboard");
	c->dev = (struct device){ .ops = &i8042_ops, .name = "i8042", .machine = m };
	c->data = (struct region){
		.name = "i8042-data", .space = SPACE_PIO, .base = PORT_DATA, .size = 1,
		.enabled = true, .ops = &data_ops, .arg = c,
	};
	c->command = (struct region){
		.name = "i8042-command", .space = SPACE_PIO, .base = PORT_COMMAND, .size = 1,
		.enabled = true, .ops = &command_ops, .arg = c,
	};
	i8042_reset(&c->dev);
	r = region_add(m->map, &c->data);
	if (r)
		goto free_chip;
	r = region_add(m->map, &c->command);
	if (r)
		goto del_data;
	machine_add_device(m, &c->dev);
	return 0;

del_data:
	region_del(m->map, &c->data);
free_chip:
	i8042_free(c);
	return r;
}
