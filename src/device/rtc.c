/* SPDX-License-Identifier: MIT
 * MC146818 real-time clock and CMOS RAM (Motorola MC146818 data sheet; section
 * names below are its). Time of day is the host's in UTC plus what the guest
 * has set, so the second changes with the host's. Nothing ticks while no
 * interrupt is enabled: flags are worked out when somebody looks.
 */
#include "device/device.h"
#include "device/rtc_time.h"
#include "device/timer.h"
#include <stdlib.h>

#define NR_CMOS        128

#define REG_A          0x0a
#define REG_B          0x0b
#define REG_C          0x0c
#define REG_D          0x0d

#define A_UIP          BIT(7)
#define A_DIVIDER      0x70
#define A_DIVIDER_RUN  0x20 /* 32.768 kHz */
#define A_RATE         0x0f

#define B_SET          BIT(7)

#define C_IRQF         BIT(7)
#define C_PF           BIT(6) /* in the same places as their enables in register B */
#define C_AF           BIT(5)
#define C_UF           BIT(4)
#define C_FLAGS        (C_PF | C_AF | C_UF)

#define D_VRT          BIT(7)

/* "Update Cycle": UIP rises 244 us before an update that takes 1,984 us. */
#define UPDATE_NS      (244000 + 1984000)

/* CMOS bytes that tell the size of memory, as PC firmware leaves them. */
#define CMOS_BASE_KB   0x15
#define CMOS_EXT_KB    0x17 /* above 1 MiB, at most 65,535 KiB; again at 30h */
#define CMOS_EXT_KB2   0x30
#define CMOS_EXT_64K   0x34 /* above 16 MiB, in 64 KiB */
#define CMOS_HIGH_64K  0x5b /* above 4 GiB, in 64 KiB, 3 bytes */
#define CMOS_CPUS      0x5f /* CPUs less one */

struct rtc {
	struct device dev;
	pthread_mutex_t lock;
	struct region region;
	struct irq_wire wire;
	struct chip_timer timer;
	uint8_t index;
	uint8_t cmos[NR_CMOS];
	int64_t offset;      /* guest's seconds less the host's */
	int64_t last_second; /* guest's, up to which UF and AF are worked out */
	uint64_t next_tick;  /* clock_ns() of the next periodic tick, 0: off */
};

static struct timespec guest_now(const struct rtc *r)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += r->offset;
	return ts;
}

static bool running(const struct rtc *r)
{
	return (r->cmos[REG_A] & A_DIVIDER) == A_DIVIDER_RUN;
}

/* Nanoseconds, 0 for none ("Periodic Interrupt Rate": 1 and 2 are as 8 and 9). */
static uint64_t period_ns(const struct rtc *r)
{
	unsigned rate = r->cmos[REG_A] & A_RATE;

	if (!rate || !running(r))
		return 0;
	if (rate < 3)
		rate += 7;
	return (NSEC_PER_SEC << (rate - 1)) / 32768;
}

/* The clock goes unless the guest holds it (SET) or holds the divider. */
static bool clock_goes(const struct rtc *r)
{
	return running(r) && !(r->cmos[REG_B] & B_SET);
}

/* Work out which flags have come up until now. */
static void catch_up_locked(struct rtc *r, const struct timespec *now)
{
	uint64_t period = period_ns(r), mono;

	if (clock_goes(r) && now->tv_sec > r->last_second) {
		int64_t alarm = rtc_next_alarm(r->cmos, r->last_second + 1);

		r->cmos[REG_C] |= C_UF;
		if (alarm >= 0 && alarm <= now->tv_sec)
			r->cmos[REG_C] |= C_AF;
	}
	r->last_second = now->tv_sec; /* also where the clock stood or was set back */

	if (!period) {
		r->next_tick = 0;
		return;
	}
	mono = clock_ns();
	if (!r->next_tick) {
		r->next_tick = mono + period;
	} else if (mono >= r->next_tick) {
		/* However many were missed, they are one. */
		r->next_tick += ((mono - r->next_tick) / period + 1) * period;
		r->cmos[REG_C] |= C_PF;
	}
}

/* When a flag that is enabled and down comes up next. */
static void arm_locked(struct rtc *r, const struct timespec *now)
{
	uint8_t wanted = r->cmos[REG_B] & ~r->cmos[REG_C];
	uint64_t deadline = 0;
	int64_t second = -1;

	if (clock_goes(r) && (wanted & C_UF))
		second = r->last_second + 1;
	else if (clock_goes(r) && (wanted & C_AF))
		second = rtc_next_alarm(r->cmos, r->last_second + 1);
	if (second >= 0)
		deadline = clock_ns() + (uint64_t)(second - now->tv_sec) * NSEC_PER_SEC -
			   (uint64_t)now->tv_nsec;
	if ((wanted & C_PF) && r->next_tick && (!deadline || r->next_tick < deadline))
		deadline = r->next_tick;
	chip_timer_set(&r->timer, deadline);
}

/* After every change: flags, wire and timer agree again. */
static void update_locked(struct rtc *r)
{
	struct timespec now = guest_now(r);

	catch_up_locked(r, &now);
	if (r->cmos[REG_C] & r->cmos[REG_B] & C_FLAGS)
		r->cmos[REG_C] |= C_IRQF;
	else
		r->cmos[REG_C] &= ~C_IRQF;
	irq_wire_set(&r->wire, r->cmos[REG_C] & C_IRQF);
	arm_locked(r, &now);
}

static void rtc_on_timer(void *arg)
{
	struct rtc *r = arg;

	mutex_lock(&r->lock);
	update_locked(r);
	mutex_unlock(&r->lock);
}

/* The time registers take the time, unless they hold what the guest is setting. */
static void refresh_locked(struct rtc *r)
{
	if (!(r->cmos[REG_B] & B_SET))
		rtc_encode(r->cmos, guest_now(r).tv_sec);
}

/* And the other way: the guest's clock is set to what the registers say. */
static void set_clock_locked(struct rtc *r)
{
	struct timespec host;

	clock_gettime(CLOCK_REALTIME, &host);
	r->offset = rtc_decode(r->cmos) - host.tv_sec;
	r->last_second = host.tv_sec + r->offset;
}

static uint64_t read_cmos_locked(struct rtc *r)
{
	struct timespec now;
	uint8_t v;

	switch (r->index) {
	case REG_A:
		now = guest_now(r);
		v = r->cmos[REG_A];
		if (clock_goes(r) && now.tv_nsec >= (long)NSEC_PER_SEC - UPDATE_NS)
			v |= A_UIP;
		return v;
	case REG_C:
		update_locked(r);
		v = r->cmos[REG_C];
		r->cmos[REG_C] = 0;
		update_locked(r);
		return v;
	default:
		if (rtc_is_time(r->index))
			refresh_locked(r);
		return r->cmos[r->index];
	}
}

static void write_cmos_locked(struct rtc *r, uint8_t v)
{
	uint8_t old;

	switch (r->index) {
	case REG_A:
		update_locked(r);
		r->cmos[REG_A] = v & ~A_UIP;
		r->next_tick = 0; /* the new rate starts now */
		break;
	case REG_B:
		update_locked(r);
		refresh_locked(r); /* as the clock stands when SET stops it */
		old = r->cmos[REG_B];
		if (v & B_SET)
			v &= ~C_UF; /* "Register B": SET clears UIE */
		r->cmos[REG_B] = v;
		if ((old & B_SET) && !(v & B_SET))
			set_clock_locked(r);
		break;
	case REG_C:
	case REG_D:
		return; /* read-only */
	default:
		if (rtc_is_time(r->index))
			refresh_locked(r);
		r->cmos[r->index] = v;
		if (rtc_is_time(r->index) && !(r->cmos[REG_B] & B_SET))
			set_clock_locked(r);
		break;
	}
	update_locked(r);
}

static uint64_t rtc_read(void *arg, uint64_t off, unsigned len)
{
	struct rtc *r = arg;
	uint64_t v = 0xff; /* the index port is write-only */

	if (off == 1) {
		mutex_lock(&r->lock);
		v = read_cmos_locked(r);
		mutex_unlock(&r->lock);
	}
	return v;
}

static void rtc_write(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	struct rtc *r = arg;

	mutex_lock(&r->lock);
	if (off == 0)
		r->index = value & (NR_CMOS - 1); /* bit 7 masks NMI on a PC; there is none to mask */
	else
		write_cmos_locked(r, (uint8_t)value);
	mutex_unlock(&r->lock);
}

static const struct region_ops rtc_region_ops = {
	.read = rtc_read, .write = rtc_write, .min_len = 1, .max_len = 1,
};

static void store_memory_locked(struct rtc *r)
{
	const struct ram *ram = &r->dev.machine->ram;
	uint64_t above_1m = ram->low_size > 0x100000 ? ram->low_size - 0x100000 : 0;
	uint64_t above_16m = ram->low_size > 0x1000000 ? ram->low_size - 0x1000000 : 0;
	uint64_t high = ram_high_end(ram) - LAYOUT_RAM_HIGH;
	uint16_t kb = (uint16_t)MIN(above_1m >> 10, 0xffffull);

	store_le16(r->cmos + CMOS_BASE_KB, 640);
	store_le16(r->cmos + CMOS_EXT_KB, kb);
	store_le16(r->cmos + CMOS_EXT_KB2, kb);
	store_le16(r->cmos + CMOS_EXT_64K, (uint16_t)MIN(above_16m >> 16, 0xffffull));
	store_le(r->cmos + CMOS_HIGH_64K, MIN(high >> 16, 0xffffffull), 3);
	r->cmos[CMOS_CPUS] = (uint8_t)(r->dev.machine->config.cpus - 1);
}

/* "RESET": interrupts off, flags clear; the battery keeps the rest. */
static void rtc_reset(struct device *dev)
{
	struct rtc *r = container_of(dev, struct rtc, dev);

	mutex_lock(&r->lock);
	if (r->cmos[REG_B] & B_SET) { /* do not leave the clock stopped */
		r->cmos[REG_B] &= ~B_SET;
		set_clock_locked(r);
	}
	r->cmos[REG_A] = A_DIVIDER_RUN | 6; /* 1,024 Hz */
	r->cmos[REG_B] = RTC_B_24H;
	r->cmos[REG_C] = 0;
	r->cmos[REG_D] = D_VRT;
	r->index = 0;
	r->next_tick = 0;
	store_memory_locked(r);
	r->last_second = guest_now(r).tv_sec;
	update_locked(r);
	mutex_unlock(&r->lock);
}

static void rtc_free(struct rtc *r)
{
	chip_timer_destroy(&r->timer);
	irq_wire_fini(&r->wire);
	mutex_destroy(&r->lock);
	free(r);
}

static void rtc_destroy(struct device *dev)
{
	struct rtc *r = container_of(dev, struct rtc, dev);

	region_del(dev->machine->map, &r->region);
	rtc_free(r);
}

static const struct device_ops rtc_ops = {
	.type = "rtc", .reset = rtc_reset, .destroy = rtc_destroy,
};

int rtc_create(struct machine *m)
{
	struct rtc *r = calloc(1, sizeof(*r));
	int err;

	if (!r)
		return -ENOMEM;
	mutex_init(&r->lock);
	chip_timer_init(&r->timer, m->loop, rtc_on_timer, r);
	irq_wire_init(&r->wire, m->irq, LAYOUT_GSI_RTC, "rtc");
	r->dev = (struct device){ .ops = &rtc_ops, .name = "rtc", .machine = m };
	r->region = (struct region){
		.name = "rtc", .space = SPACE_PIO, .base = LAYOUT_PORT_RTC, .size = 2,
		.enabled = true, .ops = &rtc_region_ops, .arg = r,
	};
	rtc_reset(&r->dev);
	err = region_add(m->map, &r->region);
	if (err) {
		rtc_free(r);
		return err;
	}
	machine_add_device(m, &r->dev);
	return 0;
}
