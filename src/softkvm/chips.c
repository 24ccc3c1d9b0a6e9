/* SPDX-License-Identifier: MIT */
#include "softkvm/chips.h"
#include "softkvm/irqfd.h"
#include "softkvm/vcpu.h"

#define MAX_LISTENERS 64
#define STORM_DELAY_NS 10000000ull

/* ---- what the chips tell us, under chips.lock -------------------------- */

static bool extint_accepted(void *opaque)
{
	struct soft_vm *vm = opaque;
	unsigned nr = atomic_load(&vm->nr_vcpus);

	for (unsigned i = 0; i < nr; i++)
		if (lapic_accepts_extint(vm->lapics[i]))
			return true;
	return false;
}

static void pic_output(void *opaque, bool raised)
{
	struct soft_vm *vm = opaque;
	unsigned nr = atomic_load(&vm->nr_vcpus);

	for (unsigned i = 0; raised && i < nr; i++)
		if (lapic_accepts_extint(vm->lapics[i]))
			vcpu_attention(vm->vcpus[i]);
}

/* KVM forgets ticks that wait for reinjection when the guest unmasks the timer. */
static void pic_mask_changed(void *opaque, unsigned pin, bool masked)
{
	if (!pin && !masked)
		pit_forget_ticks(opaque);
}

static const struct i8259_sink pic_sink = {
	.output = pic_output,
	.extint_accepted = extint_accepted,
	.mask_changed = pic_mask_changed,
};

static int ioapic_deliver(void *opaque, const struct irq_message *msg, struct ioapic_rtc *rtc)
{
	return vm_deliver(opaque, NULL, msg, rtc);
}

/* The entry before and after does not matter: each CPU scans all of them again. */
static void ioapic_route_changed(void *opaque, unsigned pin, uint64_t before, uint64_t after)
{
	vm_request_all(opaque, REQ_SCAN_EOI);
}

static void ioapic_mask_changed(void *opaque, unsigned pin, bool masked)
{
	if (pin == 2 && !masked)
		pit_forget_ticks(opaque);
}

static void ioapic_delay(void *opaque)
{
	struct soft_vm *vm = opaque;

	timer_set(&vm->timers, &vm->chips.delayed, clock_ns() + STORM_DELAY_NS);
}

static void ioapic_rtc_restored(void *opaque, const struct irq_message *msg, struct ioapic_rtc *rtc)
{
	struct soft_vm *vm = opaque;
	unsigned g = grace_enter(&vm->grace);
	const struct lapic_map *map = atomic_load(&vm->map);

	if (map)
		lapic_map_rtc_restore(map, msg, rtc);
	grace_leave(&vm->grace, g);
}

static const struct ioapic_sink ioapic_sink = {
	.deliver = ioapic_deliver,
	.route_changed = ioapic_route_changed,
	.mask_changed = ioapic_mask_changed,
	.delay = ioapic_delay,
	.rtc_restore = ioapic_rtc_restored,
};

static void delayed_fired(struct soft_timer *t)
{
	struct soft_vm *vm = container_of(t, struct soft_vm, chips.delayed);

	mutex_lock(&vm->chips.lock);
	ioapic_inject_delayed(&vm->chips.ioapic);
	mutex_unlock(&vm->chips.lock);
}

/* ---- acks ---------------------------------------------------------------- */

/* Pins of a chip were acked: tell the PIT and the resamplers. No lock held. */
static void notify_acks(struct soft_vm *vm, unsigned chip, uint32_t pins)
{
	while (pins) {
		unsigned pin = (unsigned)__builtin_ctz(pins);
		int gsi = route_pin_to_gsi(vm, chip, pin);

		pins &= pins - 1;
		if (gsi < 0)
			continue;
		if (!gsi)
			pit_acked(vm);
		irqfd_acked(vm, (gsi_t)gsi);
	}
}

static void pic_acked(struct soft_vm *vm, uint32_t acks)
{
	if (!acks)
		return;
	notify_acks(vm, KVM_IRQCHIP_PIC_MASTER, acks & 0xff);
	notify_acks(vm, KVM_IRQCHIP_PIC_SLAVE, acks >> 8 & 0xff);
	mutex_lock(&vm->chips.lock);
	i8259_complete(&vm->chips.pic);
	mutex_unlock(&vm->chips.lock);
}

void vmchips_update_wanted_acks(struct soft_vm *vm)
{
	gsi_t gsis[MAX_LISTENERS];
	unsigned n = 0;
	uint32_t pic, io;

	if (vm_irqchip(vm) != IRQCHIP_KERNEL)
		return;
	if (READ_ONCE(vm->pit))
		gsis[n++] = 0;
	n += irqfd_resampled_gsis(vm, gsis + n, MAX_LISTENERS - n);
	pic = route_pins_of(vm, KVM_IRQCHIP_PIC_MASTER, gsis, n) |
	      route_pins_of(vm, KVM_IRQCHIP_PIC_SLAVE, gsis, n) << 8;
	io = route_pins_of(vm, KVM_IRQCHIP_IOAPIC, gsis, n);
	mutex_lock(&vm->chips.lock);
	i8259_want_acks(&vm->chips.pic, pic);
	ioapic_want_acks(&vm->chips.ioapic, io);
	mutex_unlock(&vm->chips.lock);
	vm_request_all(vm, REQ_SCAN_EOI);
}

/* ---- on the buses -------------------------------------------------------- */

static bool pic_write(struct iobus_device *d, uint64_t port, unsigned len, uint64_t value, void *cpu)
{
	struct soft_vm *vm = ((struct soft_vcpu *)cpu)->vm;
	uint32_t acks;

	mutex_lock(&vm->chips.lock);
	acks = i8259_write(&vm->chips.pic, (uint16_t)port, len, (uint32_t)value);
	mutex_unlock(&vm->chips.lock);
	pic_acked(vm, acks);
	return true;
}

static bool pic_read(struct iobus_device *d, uint64_t port, unsigned len, uint64_t *value, void *cpu)
{
	struct soft_vm *vm = ((struct soft_vcpu *)cpu)->vm;
	uint32_t acks, v = 0;

	mutex_lock(&vm->chips.lock);
	acks = i8259_read(&vm->chips.pic, (uint16_t)port, len, &v);
	mutex_unlock(&vm->chips.lock);
	pic_acked(vm, acks);
	*value = v;
	return true;
}

static const struct iobus_ops pic_ops = { .write = pic_write, .read = pic_read, .counted = true };

static bool io_write(struct iobus_device *d, uint64_t addr, unsigned len, uint64_t value, void *cpu)
{
	struct soft_vm *vm = ((struct soft_vcpu *)cpu)->vm;

	mutex_lock(&vm->chips.lock);
	/* Version 11h has no EOI register, so nothing is acked by a write. */
	(void)!ioapic_write(&vm->chips.ioapic, (uint32_t)(addr - d->addr), len, value);
	mutex_unlock(&vm->chips.lock);
	return true;
}

static bool io_read(struct iobus_device *d, uint64_t addr, unsigned len, uint64_t *value, void *cpu)
{
	struct soft_vm *vm = ((struct soft_vcpu *)cpu)->vm;

	mutex_lock(&vm->chips.lock);
	*value = ioapic_read(&vm->chips.ioapic, (uint32_t)(addr - d->addr), len);
	mutex_unlock(&vm->chips.lock);
	return true;
}

static const struct iobus_ops io_ops = { .write = io_write, .read = io_read, .counted = true };

int vmchips_create_locked(struct soft_vm *vm)
{
	static const struct { uint16_t port; } ports[] = { { 0x20 }, { 0xa0 }, { 0x4d0 } };
	struct soft_chips *c = &vm->chips;
	unsigned i;
	int r;

	mutex_lock(&c->lock);
	i8259_init(&c->pic, &pic_sink, vm, false);
	ioapic_init(&c->ioapic, 0x11, false, &ioapic_sink, vm);
	mutex_unlock(&c->lock);
	mutex_lock(&vm->bus_lock);
	for (i = 0; i < ARRAY_SIZE(ports); i++) {
		c->pic_dev[i] = (struct iobus_device){
			.addr = ports[i].port, .len = 2, .ops = &pic_ops,
		};
		r = iobus_add(&vm->pio, &c->pic_dev[i]);
		if (r)
			goto remove;
	}
	c->ioapic_dev = (struct iobus_device){
		.addr = IOAPIC_DEFAULT_BASE, .len = IOAPIC_WINDOW_LENGTH, .ops = &io_ops,
	};
	r = iobus_add(&vm->mmio, &c->ioapic_dev);
	if (r)
		goto remove;
	mutex_unlock(&vm->bus_lock);
	c->delayed.fire = delayed_fired;
	timer_add(&vm->timers, &c->delayed);
	return 0;

remove:
	while (i--)
		iobus_remove(&vm->pio, &c->pic_dev[i]);
	mutex_unlock(&vm->bus_lock);
	return r;
}

/* The buses go with the VM. */
void vmchips_destroy(struct soft_vm *vm)
{
	if (vm_irqchip(vm) == IRQCHIP_KERNEL)
		timer_remove(&vm->timers, &vm->chips.delayed);
}

int vmchips_set_pic(struct soft_vm *vm, unsigned pin, int source, bool level)
{
	int r;

	mutex_lock(&vm->chips.lock);
	r = i8259_set_line(&vm->chips.pic, pin, (unsigned)source, level);
	mutex_unlock(&vm->chips.lock);
	return r;
}

int vmchips_set_ioapic(struct soft_vm *vm, unsigned pin, int source, bool level, bool status)
{
	int r;

	mutex_lock(&vm->chips.lock);
	r = ioapic_set_line(&vm->chips.ioapic, pin, (unsigned)source, level, status);
	mutex_unlock(&vm->chips.lock);
	return r;
}

/* ---- towards the CPU ------------------------------------------------------ */

void vmchips_eoi(struct soft_vcpu *v, uint8_t vector, bool level)
{
	struct soft_vm *vm = v->vm;
	bool suppressed = lapic_reg(&v->lapic, LAPIC_SVR) & LAPIC_SVR_NO_BROADCAST;
	uint32_t acks;

	if (vm_irqchip(vm) != IRQCHIP_KERNEL)
		return;
	if (vector == v->stale_eoi)
		vcpu_request(v, REQ_SCAN_EOI);
	mutex_lock(&vm->chips.lock);
	acks = ioapic_eoi(&vm->chips.ioapic, v->id, vector, level, suppressed);
	mutex_unlock(&vm->chips.lock);
	if (!acks)
		return;
	notify_acks(vm, KVM_IRQCHIP_IOAPIC, acks);
	mutex_lock(&vm->chips.lock);
	ioapic_eoi_end(&vm->chips.ioapic, acks, level && !suppressed);
	mutex_unlock(&vm->chips.lock);
}

/* With a split irqchip, level MSIs on the first gsis stand for the pins of user space's IOAPIC. */
static void scan_split(struct soft_vcpu *v, uint64_t handled[4])
{
	struct soft_vm *vm = v->vm;
	unsigned g = grace_enter(&vm->grace);
	const struct route_table *t = atomic_load(&vm->routes);
	unsigned n = MIN(vm->split_pins, t->nr_gsis);
	const struct route *end = t->first[n];

	memset(handled, 0, 4 * sizeof(*handled));
	for (const struct route *r = t->first[0]; r < end; r++)
		if (r->type == KVM_IRQ_ROUTING_MSI && r->msg.level &&
		    (lapic_match(&v->lapic, NULL, &r->msg) ||
		     lapic_owes_eoi(&v->lapic, r->msg.vector)))
			handled[r->msg.vector >> 6] |= BIT_ULL(r->msg.vector & 63);
	grace_leave(&vm->grace, g);
}

void vmchips_scan_eois(struct soft_vcpu *v)
{
	uint64_t handled[4] = { 0 };

	switch (vm_irqchip(v->vm)) {
	case IRQCHIP_KERNEL:
		mutex_lock(&v->vm->chips.lock);
		v->stale_eoi = lapic_scan_ioapic(&v->lapic, &v->vm->chips.ioapic, v->id, handled);
		mutex_unlock(&v->vm->chips.lock);
		break;
	case IRQCHIP_SPLIT:
		scan_split(v, handled);
		break;
	default:
		return;
	}
	lapic_set_handled(&v->lapic, handled);
}

void vmchips_lapic_loaded(struct soft_vcpu *v)
{
	if (vm_irqchip(v->vm) != IRQCHIP_KERNEL)
		return;
	mutex_lock(&v->vm->chips.lock);
	lapic_load_rtc(&v->lapic, &v->vm->chips.ioapic);
	mutex_unlock(&v->vm->chips.lock);
}

bool vmchips_extint_pending(struct soft_vm *vm)
{
	return i8259_output(&vm->chips.pic);
}

int vmchips_inta(struct soft_vm *vm)
{
	uint32_t acks = 0;
	int vector = -1;

	mutex_lock(&vm->chips.lock);
	/* Somebody else may have taken it between the look and here. */
	if (i8259_output(&vm->chips.pic))
		vector = i8259_inta(&vm->chips.pic, &acks);
	mutex_unlock(&vm->chips.lock);
	pic_acked(vm, acks);
	return vector;
}

int vmchips_save(struct soft_vm *vm, struct kvm_irqchip *c)
{
	int r = 0;

	mutex_lock(&vm->chips.lock);
	switch (c->chip_id) {
	case KVM_IRQCHIP_PIC_MASTER:
	case KVM_IRQCHIP_PIC_SLAVE:
		r = i8259_save(&vm->chips.pic, c->chip_id, &c->chip.pic);
		break;
	case KVM_IRQCHIP_IOAPIC:
		ioapic_save(&vm->chips.ioapic, &c->chip.ioapic);
		break;
	default:
		r = -EINVAL;
	}
	mutex_unlock(&vm->chips.lock);
	return r;
}

int vmchips_load(struct soft_vm *vm, const struct kvm_irqchip *c)
{
	int r = 0;

	mutex_lock(&vm->chips.lock);
	/* KVM looks at the PICs' pins whichever chip it is, even one that there is not. */
	if (c->chip_id == KVM_IRQCHIP_IOAPIC) {
		ioapic_load(&vm->chips.ioapic, &c->chip.ioapic);
		i8259_update(&vm->chips.pic);
	} else {
		r = i8259_load(&vm->chips.pic, c->chip_id, &c->chip.pic);
	}
	mutex_unlock(&vm->chips.lock);
	vm_request_all(vm, REQ_SCAN_EOI);
	return r;
}
