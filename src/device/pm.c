/* SPDX-License-Identifier: MIT
 * ACPI fixed hardware (ACPI 6.4 "ACPI Hardware Specification", "Fixed Hardware
 * Registers") and the reset control register at CF9h.
 *
 * There is no SMI command port, so the machine is always in ACPI mode and
 * SCI_EN reads as 1.
 */
#include "device/device.h"
#include "device/timer.h"
#include <stdlib.h>

#define PM_SIZE        16
#define PM_OFF_STS     0
#define PM_OFF_EN      2
#define PM_OFF_CNT     4
#define PM_OFF_TMR     8

#define PM_TMR         BIT(0)  /* status and enable */
#define PM_GBL         BIT(5)
#define PM_PWRBTN      BIT(8)
#define PM_RTC         BIT(10) /* wakes from sleep states, of which there are none: only kept */
#define PM_EVENTS      (PM_TMR | PM_GBL | PM_PWRBTN | PM_RTC)

#define PM_CNT_SCI_EN  BIT(0)
#define PM_CNT_BM_RLD  BIT(1)
#define PM_CNT_TYP(v)  (((v) >> 10) & 7)
#define PM_CNT_TYP_ALL (7u << 10)
#define PM_CNT_SLP_EN  BIT(13)

#define PM_TMR_HZ      3579545ull

#define RESET_CPU      BIT(2)  /* of CF9h: its rise resets */

struct pm {
	struct device dev;
	pthread_mutex_t lock;
	struct region region, reset_region;
	struct irq_wire sci;
	struct chip_timer timer;
	uint16_t sts, en, cnt;
	uint8_t reset_control;
	uint64_t base;          /* clock_ns() when the PM timer was 0 */
	uint64_t half;          /* half periods of the 32-bit timer seen so far */
};

static uint64_t ticks_at(const struct pm *p, uint64_t now)
{
	return (uint64_t)((unsigned __int128)(now - p->base) * PM_TMR_HZ / NSEC_PER_SEC);
}

/* TMR_STS is set when the timer's highest bit changes ("Power Management Timer"). */
static void pm_update_locked(struct pm *p)
{
	uint64_t now = clock_ns(), half = ticks_at(p, now) >> 31, deadline = 0;

	if (half != p->half) {
		p->half = half;
		p->sts |= PM_TMR;
	}
	if ((p->en & PM_TMR) && !(p->sts & PM_TMR)) {
		unsigned __int128 next = (unsigned __int128)(half + 1) << 31;

		deadline = p->base + (uint64_t)(next * NSEC_PER_SEC / PM_TMR_HZ) + 1;
	}
	chip_timer_set(&p->timer, deadline);
	irq_wire_set(&p->sci, p->sts & p->en & PM_EVENTS);
}

static void pm_on_timer(void *arg)
{
	struct pm *p = arg;

	mutex_lock(&p->lock);
	pm_update_locked(p);
	mutex_unlock(&p->lock);
}

static uint64_t pm_read(void *arg, uint64_t off, unsigned len)
{
	struct pm *p = arg;
	uint8_t image[PM_SIZE + 8] = { 0 };

	mutex_lock(&p->lock);
	if (off < PM_OFF_EN)
		pm_update_locked(p);
	store_le16(image + PM_OFF_STS, p->sts);
	store_le16(image + PM_OFF_EN, p->en);
	store_le16(image + PM_OFF_CNT, p->cnt | PM_CNT_SCI_EN);
	store_le32(image + PM_OFF_TMR, (uint32_t)ticks_at(p, clock_ns()));
	mutex_unlock(&p->lock);
	return load_le(image + off, len);
}

/* What a write of len bytes at off gives to the 16-bit register at reg; *touched: which bits. */
static uint16_t write_to(uint64_t off, uint64_t value, unsigned len, uint64_t reg,
			 uint16_t *touched)
{
	uint8_t data[PM_SIZE + 8] = { 0 }, mask[PM_SIZE + 8] = { 0 };

	store_le(data + off, value, len);
	memset(mask + off, 0xff, len);
	*touched = load_le16(mask + reg);
	return load_le16(data + reg);
}

static void pm_write(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	struct pm *p = arg;
	uint16_t v, touched;
	bool sleep = false;
	unsigned type = 0;

	mutex_lock(&p->lock);
	pm_update_locked(p);
	v = write_to(off, value, len, PM_OFF_STS, &touched);
	p->sts &= ~v;
	v = write_to(off, value, len, PM_OFF_EN, &touched);
	p->en = ((p->en & ~touched) | v) & PM_EVENTS;
	v = write_to(off, value, len, PM_OFF_CNT, &touched);
	if (touched) {
		p->cnt = (p->cnt & ~touched) | v;
		sleep = p->cnt & PM_CNT_SLP_EN;
		type = PM_CNT_TYP(p->cnt);
		p->cnt &= PM_CNT_BM_RLD | PM_CNT_TYP_ALL; /* the others are write-only or fixed */
	}
	pm_update_locked(p);
	mutex_unlock(&p->lock);

	if (sleep && type == LAYOUT_SLP_TYP_S5)
		machine_request(p->dev.machine, MACHINE_POWEROFF);
	else if (sleep)
		device_complain(&p->dev, "guest asked for sleep type %u; only %u (S5) exists", type,
				LAYOUT_SLP_TYP_S5);
}

static const struct region_ops pm_region_ops = {
	.read = pm_read, .write = pm_write, .min_len = 1, .max_len = 4,
};

static uint64_t pm_reset_read(void *arg, uint64_t off, unsigned len)
{
	struct pm *p = arg;
	uint8_t v;

	mutex_lock(&p->lock);
	v = p->reset_control;
	mutex_unlock(&p->lock);
	return v;
}

static void pm_reset_write(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	struct pm *p = arg;
	bool reset;

	mutex_lock(&p->lock);
	reset = value & RESET_CPU;
	p->reset_control = value & 0x0a; /* type bits stay readable */
	mutex_unlock(&p->lock);
	if (reset)
		machine_request(p->dev.machine, MACHINE_RESET);
}

static const struct region_ops pm_reset_region_ops = {
	.read = pm_reset_read, .write = pm_reset_write, .min_len = 1, .max_len = 1,
};

static void pm_reset(struct device *dev)
{
	struct pm *p = container_of(dev, struct pm, dev);

	mutex_lock(&p->lock);
	p->sts = p->en = p->cnt = 0;
	p->reset_control = 0;
	p->base = clock_ns();
	p->half = 0;
	pm_update_locked(p);
	mutex_unlock(&p->lock);
}

static void pm_free(struct pm *p)
{
	chip_timer_destroy(&p->timer);
	irq_wire_fini(&p->sci);
	mutex_destroy(&p->lock);
	free(p);
}

static void pm_destroy(struct device *dev)
{
	struct pm *p = container_of(dev, struct pm, dev);

	region_del(dev->machine->map, &p->region);
	region_del(dev->machine->map, &p->reset_region);
	pm_free(p);
}

static const struct device_ops pm_ops = {
	.type = "acpi-pm", .reset = pm_reset, .destroy = pm_destroy,
};

bool pm_power_button(struct machine *m)
{
	struct device *d = m->devices;
	bool enabled;
	struct pm *p;

	while (d && d->ops != &pm_ops)
		d = d->next;
	if (!d)
		return false;
	p = container_of(d, struct pm, dev);
	mutex_lock(&p->lock);
	enabled = p->en & PM_PWRBTN;
	if (enabled) {
		p->sts |= PM_PWRBTN;
		pm_update_locked(p);
	}
	mutex_unlock(&p->lock);
	return enabled;
}

int pm_create(struct machine *m)
{
	struct pm *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	mutex_init(&p->lock);
	chip_timer_init(&p->timer, m->loop, pm_on_timer, p);
	irq_wire_init(&p->sci, m->irq, LAYOUT_GSI_SCI, "sci");
	p->base = clock_ns();
	p->dev = (struct device){ .ops = &pm_ops, .name = "pm", .machine = m };
	p->region = (struct region){
		.name = "acpi-pm", .space = SPACE_PIO, .base = LAYOUT_PORT_PM, .size = PM_SIZE,
		.enabled = true, .ops = &pm_region_ops, .arg = p,
	};
	/* Inside the PCI address port (CF8h, 4 bytes): only a byte access to CF9h is meant for it. */
	p->reset_region = (struct region){
		.name = "reset-control", .space = SPACE_PIO, .base = LAYOUT_PORT_RESET, .size = 1,
		.priority = 1, .enabled = true, .ops = &pm_reset_region_ops, .arg = p,
	};
	r = region_add(m->map, &p->region);
	if (r)
		goto free_pm;
	r = region_add(m->map, &p->reset_region);
	if (r)
		goto del_region;
	machine_add_device(m, &p->dev);
	return 0;

del_region:
	region_del(m->map, &p->region);
free_pm:
	pm_free(p);
	return r;
}
