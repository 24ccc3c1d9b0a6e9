/* SPDX-License-Identifier: MIT */
#include "softkvm/route.h"
#include "softkvm/chips.h"
#include "softkvm/remap.h"
#include "softkvm/vcpu.h"
#include <stdlib.h>

static int set_pic(struct soft_vm *vm, const struct route *r, int source, bool level, bool status)
{
	return vmchips_set_pic(vm, r->pin, source, level);
}

static int set_ioapic(struct soft_vm *vm, const struct route *r, int source, bool level, bool status)
{
	return vmchips_set_ioapic(vm, r->pin, source, level, status);
}

/* An MSI is an edge: there is nothing to lower. */
static int set_msi(struct soft_vm *vm, const struct route *r, int source, bool level, bool status)
{
	return level ? vm_deliver(vm, NULL, &r->msg, NULL) : -1;
}

static int decode_msi(struct soft_vm *vm, uint64_t address, uint32_t data, struct irq_message *msg)
{
	bool wide = READ_ONCE(vm->x2apic_flags) & KVM_X2APIC_API_USE_32BIT_IDS;

	return msi_decode(address, data, wide ? MSI_X2APIC : MSI_XAPIC, msg);
}

static int build_chip(struct soft_vm *vm, const struct kvm_irq_routing_entry *e, struct route *r)
{
	if (vm_irqchip(vm) == IRQCHIP_SPLIT)
		return -EINVAL;
	r->chip = e->u.irqchip.irqchip;
	r->pin = e->u.irqchip.pin;
	switch (r->chip) {
	case KVM_IRQCHIP_PIC_MASTER:
	case KVM_IRQCHIP_PIC_SLAVE:
		if (r->pin >= 8)
			return -EINVAL;
		if (r->chip == KVM_IRQCHIP_PIC_SLAVE)
			r->pin += 8;
		r->set = set_pic;
		return 0;
	case KVM_IRQCHIP_IOAPIC:
		r->set = set_ioapic;
		return r->pin >= IOAPIC_PINS ? -EINVAL : 0;
	default:
		return -EINVAL;
	}
}

static int build_route(struct soft_vm *vm, const struct kvm_irq_routing_entry *e, struct route *r)
{
	*r = (struct route){ .gsi = e->gsi, .type = e->type };
	switch (e->type) {
	case KVM_IRQ_ROUTING_IRQCHIP:
		return e->flags ? -EINVAL : build_chip(vm, e, r);
	case KVM_IRQ_ROUTING_MSI:
		/* A device id is for chips with an ITS; the flag is let pass, as the kernel does. */
		if (e->flags & ~(uint32_t)KVM_MSI_VALID_DEVID)
			return -EINVAL;
		r->address = (uint64_t)e->u.msi.address_hi << 32 | e->u.msi.address_lo;
		r->data = e->u.msi.data;
		r->set = set_msi;
		if (decode_msi(vm, r->address, r->data, &r->msg))
			return -EINVAL;
		atomic_init(&r->irte, irte_remapped(&r->msg));
		return 0;
	default:
		return -EINVAL;
	}
}

static void table_free(struct route_table *t)
{
	if (t)
		free(t->first);
	free(t);
}

static struct route_table *table_alloc(unsigned nr, unsigned nr_gsis)
{
	struct route_table *t = calloc(1, sizeof(*t) + nr * sizeof(t->route[0]));

	if (!t)
		return NULL;
	t->first = calloc(nr_gsis + 1, sizeof(*t->first));
	if (!t->first) {
		free(t);
		return NULL;
	}
	t->nr_gsis = nr_gsis;
	for (unsigned c = 0; c < ROUTE_CHIPS; c++)
		for (unsigned p = 0; p < IOAPIC_PINS; p++)
			t->chip_gsi[c][p] = -1;
	return t;
}

/* By gsi; of one gsi the last given comes first, as the kernel's list has it. */
static int by_gsi(const void *a, const void *b)
{
	const struct route *x = a, *y = b;

	if (x->gsi != y->gsi)
		return x->gsi < y->gsi ? -1 : 1;
	return x->chip > y->chip ? -1 : x->chip < y->chip;
}

/* -EINVAL unless each gsi leads to one MSI, or to one pin of each chip. */
static int table_index(struct route_table *t)
{
	unsigned i = 0;

	qsort(t->route, t->nr, sizeof(t->route[0]), by_gsi);
	for (unsigned g = 0; g <= t->nr_gsis; g++) {
		while (i < t->nr && t->route[i].gsi < g)
			i++;
		t->first[g] = &t->route[i];
	}
	for (i = 1; i < t->nr; i++) {
		const struct route *a = &t->route[i - 1], *b = &t->route[i];

		if (a->gsi == b->gsi && (a->type != KVM_IRQ_ROUTING_IRQCHIP ||
					 b->type != KVM_IRQ_ROUTING_IRQCHIP || a->chip == b->chip))
			return -EINVAL;
	}
	return 0;
}

int routes_init(struct soft_vm *vm)
{
	struct route_table *t = table_alloc(0, 0);

	if (!t)
		return -ENOMEM;
	(void)table_index(t);
	atomic_init(&vm->routes, t);
	return 0;
}

void routes_destroy(struct soft_vm *vm)
{
	table_free(atomic_load(&vm->routes));
}

int routes_set_locked(struct soft_vm *vm, const struct kvm_irq_routing_entry *e, unsigned nr)
{
	struct route_table *t, *old;
	unsigned nr_gsis = 0;
	int r;

	for (unsigned i = 0; i < nr; i++) {
		if (e[i].gsi >= SOFT_MAX_ROUTES)
			return -EINVAL;
		nr_gsis = MAX(nr_gsis, e[i].gsi + 1);
	}
	t = table_alloc(nr, nr_gsis);
	if (!t)
		return -ENOMEM;
	for (unsigned i = 0; i < nr; i++) {
		struct route *new = &t->route[t->nr];

		r = build_route(vm, &e[i], new);
		if (r) {
			table_free(t);
			return r;
		}
		if (new->type == KVM_IRQ_ROUTING_IRQCHIP)
			t->chip_gsi[new->chip][new->pin % (new->chip == KVM_IRQCHIP_IOAPIC ? 24 : 8)] =
				(int)new->gsi;
		t->nr++;
	}
	r = table_index(t);
	if (r) {
		table_free(t);
		return r;
	}
	old = atomic_exchange(&vm->routes, t);
	grace_wait(&vm->grace);
	table_free(old);
	mutex_lock(&vm->map_lock);
	remap_update_locked(vm);
	mutex_unlock(&vm->map_lock);
	vm_stat(vm, remap);
	vmchips_update_wanted_acks(vm);
	vm_request_all(vm, REQ_SCAN_EOI);
	return 0;
}

int routes_set_default_locked(struct soft_vm *vm)
{
	struct kvm_irq_routing_entry e[IOAPIC_PINS + I8259_PINS];
	unsigned n = 0;

	memset(e, 0, sizeof(e));
	for (unsigned gsi = 0; gsi < IOAPIC_PINS; gsi++) {
		e[n].gsi = gsi;
		e[n].type = KVM_IRQ_ROUTING_IRQCHIP;
		e[n].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
		e[n++].u.irqchip.pin = gsi;
		if (gsi >= I8259_PINS)
			continue;
		e[n].gsi = gsi;
		e[n].type = KVM_IRQ_ROUTING_IRQCHIP;
		e[n].u.irqchip.irqchip = gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
		e[n++].u.irqchip.pin = gsi & 7;
	}
	return routes_set_locked(vm, e, n);
}

/*
 * The routes of a gsi. An ack that a pin's change causes must not run inside
 * the reader's section (it may change resamplers); chips see to that.
 */
int route_set(struct soft_vm *vm, gsi_t gsi, int source, bool level, bool status)
{
	unsigned g = grace_enter(&vm->grace);
	const struct route_table *t = atomic_load(&vm->routes);
	int sum = -1;

	if (gsi < t->nr_gsis) {
		for (const struct route *r = t->first[gsi]; r < t->first[gsi + 1]; r++) {
			int n = r->set(vm, r, source, level, status);

			if (n >= 0)
				sum = n + MAX(sum, 0);
		}
	}
	grace_leave(&vm->grace, g);
	return sum;
}

int route_pulse(struct soft_vm *vm, gsi_t gsi, bool *fast)
{
	unsigned g = grace_enter(&vm->grace);
	const struct route_table *t = atomic_load(&vm->routes);
	const struct route *r = gsi < t->nr_gsis ? t->first[gsi] : NULL;
	int n;

	*fast = r && t->first[gsi + 1] - r == 1 && r->type == KVM_IRQ_ROUTING_MSI;
	n = *fast ? remap_deliver(vm, r) : 0;
	grace_leave(&vm->grace, g);
	if (*fast)
		return n;
	/* Whole: what comes next, on another thread, would find the line still up and be no edge. */
	mutex_lock(&vm->pulse_lock);
	n = route_set(vm, gsi, IRQ_SOURCE_USER, true, false);
	(void)route_set(vm, gsi, IRQ_SOURCE_USER, false, false);
	mutex_unlock(&vm->pulse_lock);
	return n;
}

int route_signal_msi(struct soft_vm *vm, const struct kvm_msi *msi)
{
	struct irq_message msg;

	if (vm_irqchip(vm) == IRQCHIP_NONE || msi->flags & ~(uint32_t)KVM_MSI_VALID_DEVID)
		return -EINVAL;
	if (decode_msi(vm, (uint64_t)msi->address_hi << 32 | msi->address_lo, msi->data, &msg))
		return -EINVAL;
	vm_stat(vm, msi);
	return vm_deliver(vm, NULL, &msg, NULL);
}

int route_pin_to_gsi(struct soft_vm *vm, unsigned chip, unsigned pin)
{
	unsigned g = grace_enter(&vm->grace);
	int gsi = atomic_load(&vm->routes)->chip_gsi[chip][pin];

	grace_leave(&vm->grace, g);
	return gsi;
}

uint32_t route_pins_of(struct soft_vm *vm, unsigned chip, const gsi_t *gsis, unsigned nr)
{
	unsigned g = grace_enter(&vm->grace);
	const struct route_table *t = atomic_load(&vm->routes);
	uint32_t pins = 0;

	for (unsigned p = 0; p < IOAPIC_PINS; p++)
		for (unsigned i = 0; i < nr; i++)
			if (t->chip_gsi[chip][p] == (int)gsis[i])
				pins |= BIT(p);
	grace_leave(&vm->grace, g);
	return pins;
}
