/* SPDX-License-Identifier: MIT
 * 16550A UART (National Semiconductor PC16550D data sheet; section names below
 * are its). What is written is sent at once, so THRE and TEMT are always set and
 * a guest that polls them never waits. The THRE interrupt, though, comes a while
 * after the write: an interrupt handler that is asked for more the moment it has
 * written would never come to its end (Linux: "soft lockup" when one CPU fills
 * the buffer and another empties it). Input waits in the console while the FIFO
 * is full, so nothing overruns but what the guest loops back to itself.
 */
#include "device/device.h"
#include "device/timer.h"
#include <stdlib.h>

#define FIFO_SIZE      16

#define REG_DATA       0 /* RBR, THR; DLL with DLAB */
#define REG_IER        1 /* DLM with DLAB */
#define REG_IIR        2 /* read; FCR when written */
#define REG_LCR        3
#define REG_MCR        4
#define REG_LSR        5
#define REG_MSR        6
#define REG_SCR        7

#define IER_RDA        BIT(0)
#define IER_THRE       BIT(1)
#define IER_RLS        BIT(2)
#define IER_MSI        BIT(3)

#define IIR_NONE       0x01
#define IIR_RLS        0x06
#define IIR_RDA        0x04
#define IIR_TIMEOUT    0x0c
#define IIR_THRE       0x02
#define IIR_MSI        0x00
#define IIR_FIFO       0xc0

#define FCR_ENABLE     BIT(0)
#define FCR_CLEAR_RX   BIT(1)

#define LCR_DLAB       BIT(7)

#define MCR_DTR        BIT(0)
#define MCR_RTS        BIT(1)
#define MCR_OUT1       BIT(2)
#define MCR_OUT2       BIT(3)
#define MCR_LOOP       BIT(4)

#define LSR_DR         BIT(0)
#define LSR_OE         BIT(1)
#define LSR_THRE       BIT(5)
#define LSR_TEMT       BIT(6)

#define MSR_DELTA      0x0f
#define MSR_TERI       BIT(2)
#define MSR_CTS        BIT(4)
#define MSR_DSR        BIT(5)
#define MSR_RI         BIT(6)
#define MSR_DCD        BIT(7)

/* Before THRE interrupts again the guest has a quarter of its last burst's time, at least this. */
#define THRE_DELAY_NS  50000u
#define THRE_SHARE     4

#define BAUD_BASE      115200u
#define CHAR_BITS      10u

struct serial {
	struct device dev;
	pthread_mutex_t lock;
	struct region region;
	struct irq_wire wire;
	struct chip_timer timeout, sent;
	struct console *con;
	uint8_t ier, fcr, lcr, mcr, msr, scr, dll, dlm;
	bool overrun;        /* LSR's OE */
	bool thre_pending;   /* the transmitter became empty and nobody has been told */
	uint64_t burst;      /* clock_ns() of the first write that waits for THRE, 0: none waits */
	bool timed_out;      /* character timeout indication */
	bool starved;        /* the console has more and waits for console_resume() */
	uint8_t fifo[FIFO_SIZE];
	unsigned head, count;
	uint64_t last_char;  /* clock_ns() of the last character in or out of the FIFO */
};

static unsigned capacity(const struct serial *s)
{
	return s->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static unsigned trigger(const struct serial *s)
{
	static const uint8_t level[4] = { 1, 4, 8, 14 };

	return s->fcr & FCR_ENABLE ? level[s->fcr >> 6] : 1;
}

/* "FIFO Interrupt Mode Operation": four character times without a character. */
static uint64_t timeout_ns(const struct serial *s)
{
	uint64_t divisor = MAX(s->dll | (unsigned)s->dlm << 8, 1u);

	return 4 * CHAR_BITS * NSEC_PER_SEC * divisor / BAUD_BASE;
}

/* "Interrupt Identification Register": the highest priority that is pending. */
static uint8_t iir_locked(const struct serial *s)
{
	if ((s->ier & IER_RLS) && s->overrun)
		return IIR_RLS;
	if ((s->ier & IER_RDA) && s->count >= trigger(s))
		return IIR_RDA;
	if ((s->ier & IER_RDA) && s->timed_out)
		return IIR_TIMEOUT;
	if ((s->ier & IER_THRE) && s->thre_pending)
		return IIR_THRE;
	if ((s->ier & IER_MSI) && (s->msr & MSR_DELTA))
		return IIR_MSI;
	return IIR_NONE;
}

/* A PC gates the wire with OUT2; guests that forget it work here all the same. */
static void update_irq_locked(struct serial *s)
{
	irq_wire_set(&s->wire, iir_locked(s) != IIR_NONE);
}

/* A character went in or out: the timeout indication ends and its time starts again. */
static void touch_rx_locked(struct serial *s)
{
	bool wait = (s->fcr & FCR_ENABLE) && s->count && s->count < trigger(s);

	s->timed_out = false;
	s->last_char = clock_ns();
	chip_timer_set(&s->timeout, wait ? s->last_char + timeout_ns(s) : 0);
}

static void push_locked(struct serial *s, uint8_t byte)
{
	s->fifo[(s->head + s->count++) % FIFO_SIZE] = byte;
}

static void clear_rx_locked(struct serial *s)
{
	s->head = s->count = 0;
	touch_rx_locked(s);
}

static void resume_input(void *arg)
{
	struct serial *s = arg;

	console_resume(s->con); /* calls serial_input() again: no lock held */
}

/* console_resume() belongs to the loop's thread; call this after each change that makes room. */
static void wake_console_locked(struct serial *s)
{
	if (!s->starved || s->count || (s->mcr & MCR_LOOP))
		return;
	/* Without memory the next read tries again. */
	s->starved = loop_post(s->dev.machine->loop, resume_input, s) != 0;
}

static void serial_on_timeout(void *arg)
{
	struct serial *s = arg;

	mutex_lock(&s->lock);
	if ((s->fcr & FCR_ENABLE) && s->count && clock_ns() - s->last_char >= timeout_ns(s)) {
		s->timed_out = true;
		update_irq_locked(s);
	}
	mutex_unlock(&s->lock);
}

static void serial_on_sent(void *arg)
{
	struct serial *s = arg;

	mutex_lock(&s->lock);
	if (s->burst) {
		s->burst = 0;
		s->thre_pending = true;
		update_irq_locked(s);
	}
	mutex_unlock(&s->lock);
}

static size_t serial_input(void *arg, const void *data, size_t len)
{
	struct serial *s = arg;
	const uint8_t *p = data;
	size_t n = 0;

	mutex_lock(&s->lock);
	if (!(s->mcr & MCR_LOOP))
		for (; n < len && s->count < capacity(s); n++)
			push_locked(s, p[n]);
	if (n)
		touch_rx_locked(s);
	s->starved = n < len;
	update_irq_locked(s);
	mutex_unlock(&s->lock);
	return n;
}

static uint64_t serial_read(void *arg, uint64_t off, unsigned len)
{
	struct serial *s = arg;
	uint8_t v = 0;

	mutex_lock(&s->lock);
	switch (off) {
	case REG_DATA:
		if (s->lcr & LCR_DLAB) {
			v = s->dll;
		} else if (s->count) {
			v = s->fifo[s->head];
			s->head = (s->head + 1) % FIFO_SIZE;
			s->count--;
			touch_rx_locked(s);
		}
		break;
	case REG_IER:
		v = s->lcr & LCR_DLAB ? s->dlm : s->ier;
		break;
	case REG_IIR:
		v = iir_locked(s);
		if (v == IIR_THRE) /* reading it as the source clears it */
			s->thre_pending = false;
		if (s->fcr & FCR_ENABLE)
			v |= IIR_FIFO;
		break;
	case REG_LCR:
		v = s->lcr;
		break;
	case REG_MCR:
		v = s->mcr;
		break;
	case REG_LSR:
		v = LSR_THRE | LSR_TEMT | (s->count ? LSR_DR : 0) | (s->overrun ? LSR_OE : 0);
		s->overrun = false;
		break;
	case REG_MSR:
		v = s->msr;
		s->msr &= ~MSR_DELTA;
		break;
	case REG_SCR:
		v = s->scr;
		break;
	}
	wake_console_locked(s);
	update_irq_locked(s);
	mutex_unlock(&s->lock);
	return v;
}

/* "Modem Control Register": in loopback the four outputs are the four inputs. */
static void update_modem_locked(struct serial *s)
{
	uint8_t lines = MSR_CTS | MSR_DSR | MSR_DCD, delta;

	if (s->mcr & MCR_LOOP)
		lines = (s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) |
			(s->mcr & MCR_OUT1 ? MSR_RI : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0);
	delta = (lines ^ s->msr) >> 4;
	if (lines & MSR_RI)
		delta &= ~MSR_TERI; /* the trailing edge only */
	s->msr = lines | (s->msr & MSR_DELTA) | delta;
}

/* Returns true if the byte is to go to the console. */
static bool transmit_locked(struct serial *s, uint8_t byte)
{
	uint64_t now;

	s->thre_pending = false;
	if (s->ier & IER_THRE) {
		now = clock_ns();
		if (!s->burst)
			s->burst = now;
		if (!chip_timer_set(&s->sent, now + MAX((now - s->burst) / THRE_SHARE, THRE_DELAY_NS))) {
			update_irq_locked(s); /* falls and rises: an edge, too early but not lost */
			s->thre_pending = true;
		}
	}
	if (!(s->mcr & MCR_LOOP))
		return true;
	if (s->count < capacity(s))
		push_locked(s, byte);
	else
		s->overrun = true;
	touch_rx_locked(s);
	return false;
}

static void write_fcr_locked(struct serial *s, uint8_t v)
{
	uint8_t fcr = v & FCR_ENABLE ? v & 0xc9 : 0; /* the other bits need bit 0 */

	if (((fcr ^ s->fcr) & FCR_ENABLE) || (fcr && (v & FCR_CLEAR_RX))) {
		s->fcr = fcr;
		clear_rx_locked(s);
	}
	s->fcr = fcr;
	touch_rx_locked(s);
}

static void serial_write(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	struct serial *s = arg;
	uint8_t v = (uint8_t)value;
	bool send = false;

	mutex_lock(&s->lock);
	switch (off) {
	case REG_DATA:
		if (s->lcr & LCR_DLAB)
			s->dll = v;
		else
			send = transmit_locked(s, v);
		break;
	case REG_IER:
		if (s->lcr & LCR_DLAB) {
			s->dlm = v;
			break;
		}
		/* Enabling THRE while the transmitter is empty interrupts at once, each time. */
		if ((v ^ s->ier) & IER_THRE) {
			s->thre_pending = v & IER_THRE;
			s->burst = 0;
		}
		s->ier = v & 0x0f;
		break;
	case REG_IIR:
		write_fcr_locked(s, v);
		break;
	case REG_LCR:
		s->lcr = v;
		break;
	case REG_MCR:
		s->mcr = v & 0x1f;
		update_modem_locked(s);
		break;
	case REG_SCR:
		s->scr = v;
		break;
	default: /* LSR and MSR: factory test and read-only */
		break;
	}
	wake_console_locked(s);
	update_irq_locked(s);
	mutex_unlock(&s->lock);
	/* Without the lock: a console whose reader is slow must not stop the main loop. */
	if (send && s->con)
		(void)console_write(s->con, &v, 1);
}

static const struct region_ops serial_region_ops = {
	.read = serial_read, .write = serial_write, .min_len = 1, .max_len = 1,
};

static void serial_reset(struct device *dev)
{
	struct serial *s = container_of(dev, struct serial, dev);

	mutex_lock(&s->lock);
	s->ier = s->fcr = s->lcr = s->mcr = s->scr = s->dlm = 0;
	s->dll = 12; /* 9600 baud */
	s->overrun = s->thre_pending = false;
	s->burst = 0;
	clear_rx_locked(s);
	update_modem_locked(s);
	s->msr &= ~MSR_DELTA;
	wake_console_locked(s);
	update_irq_locked(s);
	mutex_unlock(&s->lock);
}

static void serial_free(struct serial *s)
{
	chip_timer_destroy(&s->timeout);
	chip_timer_destroy(&s->sent);
	irq_wire_fini(&s->wire);
	mutex_destroy(&s->lock);
	free(s);
}

static void serial_destroy(struct device *dev)
{
	struct serial *s = container_of(dev, struct serial, dev);

	region_del(dev->machine->map, &s->region);
	serial_free(s);
}

static const struct device_ops serial_ops = {
	.type = "serial", .reset = serial_reset, .destroy = serial_destroy,
};

int serial_create(struct machine *m, struct console *con)
{
	struct serial *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	mutex_init(&s->lock);
	chip_timer_init(&s->timeout, m->loop, serial_on_timeout, s);
	chip_timer_init(&s->sent, m->loop, serial_on_sent, s);
	irq_wire_init(&s->wire, m->irq, LAYOUT_GSI_COM1, "com1");
	s->con = con;
	s->dev = (struct device){ .ops = &serial_ops, .name = "com1", .machine = m };
	s->region = (struct region){
		.name = "com1", .space = SPACE_PIO, .base = LAYOUT_PORT_COM1, .size = 8,
		.enabled = true, .ops = &serial_region_ops, .arg = s,
	};
	serial_reset(&s->dev);
	r = region_add(m->map, &s->region);
	if (r) {
		serial_free(s);
		return r;
	}
	machine_add_device(m, &s->dev);
	if (con)
		console_set_client(con, &(struct console_client){ .input = serial_input, .arg = s });
	return 0;
}
