/* SPDX-License-Identifier: MIT
 * Wires and the route table. Message interrupts are in irq_msi.c.
 */
#include "machine/irq_priv.h"
#include <stdio.h>
#include <stdlib.h>

const char *inject_name(enum inject_path p)
{
	static const char *const names[NR_INJECT] = { "auto", "irqfd", "msi", "line" };

	return p < NR_INJECT ? names[p] : "?";
}

static void route_pin(struct irq_fabric *f, gsi_t gsi, unsigned chip, unsigned pin)
{
	f->routes[f->nr_routes++] = (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { .irqchip = chip, .pin = pin },
	};
}

/*
 * The table of a PC: the sender cannot know which chip the guest uses, so ISA
 * gsis reach both. gsi 0 is IOAPIC pin 2 (the timer's override), the PICs'
 * cascade has no gsi.
 */
static void route_defaults(struct irq_fabric *f)
{
	for (gsi_t g = 0; g < 16; g++)
		if (g != 2)
			route_pin(f, g, g < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, g % 8);
	for (gsi_t g = 0; g < LAYOUT_NR_IOAPIC_PINS; g++)
		if (g != 2)
			route_pin(f, g, KVM_IRQCHIP_IOAPIC, g ? g : 2);
}

int irq_create(struct irq_fabric **out, struct vm *vm, unsigned max_routes, const struct log *log)
{
	unsigned cap = (unsigned)vm_check_extension(vm, KVM_CAP_IRQ_ROUTING);
	struct irq_fabric *f;
	int r;

	max_routes = max_routes ? MIN(max_routes, cap) : cap;
	if (max_routes < NR_DEFAULT_ROUTES)
		return -ENOTSUP;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	*f = (struct irq_fabric){
		.vm = vm,
		.log = log,
		.max_gsi = max_routes,
		.max_routes = max_routes,
		.has_irqfd = vm_check_extension(vm, KVM_CAP_IRQFD) > 0,
		.has_msi = vm_check_extension(vm, KVM_CAP_SIGNAL_MSI) > 0,
		.has_status = vm_check_extension(vm, KVM_CAP_IRQ_INJECT_STATUS) > 0,
	};
	mutex_init(&f->lock);
	f->table_len = MIN(NR_DEFAULT_ROUTES + 32, max_routes);
	f->routes = calloc(f->table_len, sizeof(*f->routes));
	if (!f->routes) {
		r = -ENOMEM;
		goto destroy_lock;
	}
	route_defaults(f);
	r = vm_set_routes(vm, f->routes, f->nr_routes);
	if (r < 0)
		goto free_routes;
	*out = f;
	return 0;

free_routes:
	free(f->routes);
destroy_lock:
	mutex_destroy(&f->lock);
	free(f);
	return r;
}

void irq_destroy(struct irq_fabric *f)
{
	if (!f)
		return;
	mutex_destroy(&f->lock);
	free(f->routes);
	free(f);
}

enum inject_path irq_best_path(struct irq_fabric *f, enum inject_path wanted)
{
	if (wanted <= INJECT_IRQFD && f->has_irqfd)
		return INJECT_IRQFD;
	if (wanted <= INJECT_MSI && f->has_msi)
		return INJECT_MSI;
	return INJECT_LINE;
}

void irq_wire_init(struct irq_wire *w, struct irq_fabric *f, gsi_t gsi, const char *name)
{
	*w = (struct irq_wire){ .fabric = f, .gsi = gsi, .name = name };
	if (!f)
		return;
	mutex_lock(&f->lock);
	w->next = f->wires;
	f->wires = w;
	mutex_unlock(&f->lock);
}

void irq_wire_fini(struct irq_wire *w)
{
	struct irq_fabric *f = w->fabric;

	if (!f)
		return;
	(void)irq_wire_set(w, false);
	mutex_lock(&f->lock);
	for (struct irq_wire **at = &f->wires; *at; at = &(*at)->next) {
		if (*at == w) {
			*at = w->next;
			break;
		}
	}
	mutex_unlock(&f->lock);
	w->fabric = NULL;
}

static int line_set_locked(struct irq_wire *w, bool level)
{
	struct irq_fabric *f = w->fabric;
	int status = 1, r;

	if (f->has_status)
		r = vm_irq_line_status(f->vm, w->gsi, level, &status);
	else
		r = vm_irq_line(f->vm, w->gsi, level);
	if (r < 0)
		status = r;
	if (!level)
		return status;
	atomic_fetch_add_explicit(&w->signals, 1, memory_order_relaxed);
	if (status == 0)
		atomic_fetch_add_explicit(&w->coalesced, 1, memory_order_relaxed);
	else if (r < 0)
		atomic_fetch_add_explicit(&w->errors, 1, memory_order_relaxed);
	return status;
}

int irq_wire_set(struct irq_wire *w, bool level)
{
	struct irq_fabric *f = w->fabric;
	int r = 0;

	if (!f || w->gsi >= LAYOUT_NR_IOAPIC_PINS)
		return -EINVAL;
	mutex_lock(&f->lock);
	if (w->level != level) {
		w->level = level;
		if (level ? f->high[w->gsi]++ == 0 : --f->high[w->gsi] == 0)
			r = line_set_locked(w, level);
	}
	mutex_unlock(&f->lock);
	return r;
}

int irq_wire_pulse(struct irq_wire *w)
{
	int r = irq_wire_set(w, true);

	(void)irq_wire_set(w, false);
	return r;
}

/* A table with room for one entry more. */
static int table_grow_locked(struct irq_fabric *f)
{
	struct kvm_irq_routing_entry *t;
	unsigned len = MIN(f->table_len * 2, f->max_routes);

	if (f->nr_routes < f->table_len)
		return 0;
	if (len <= f->table_len)
		return -ENOSPC;
	t = realloc(f->routes, len * sizeof(*t));
	if (!t)
		return -ENOMEM;
	f->routes = t;
	f->table_len = len;
	return 0;
}

static struct kvm_irq_routing_entry *route_find_locked(struct irq_fabric *f, gsi_t gsi)
{
	for (unsigned i = NR_DEFAULT_ROUTES; i < f->nr_routes; i++)
		if (f->routes[i].gsi == gsi)
			return &f->routes[i];
	return NULL;
}

static bool gsi_in_use_locked(struct irq_fabric *f, gsi_t gsi)
{
	return route_find_locked(f, gsi) != NULL;
}

int route_alloc_locked(struct irq_fabric *f, uint64_t address, uint32_t data)
{
	gsi_t gsi;
	int r = table_grow_locked(f);

	if (r)
		return r;
	for (gsi = LAYOUT_GSI_MSI; gsi < f->max_gsi && gsi_in_use_locked(f, gsi); gsi++)
		;
	if (gsi >= f->max_gsi)
		return -ENOSPC;
	f->routes[f->nr_routes++] = (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_MSI,
		.u.msi = {
			.address_lo = (uint32_t)address,
			.address_hi = (uint32_t)(address >> 32),
			.data = data,
		},
	};
	r = vm_set_routes(f->vm, f->routes, f->nr_routes);
	if (r < 0) {
		f->nr_routes--;
		return r;
	}
	return (int)gsi;
}

int route_set_locked(struct irq_fabric *f, gsi_t gsi, uint64_t address, uint32_t data)
{
	struct kvm_irq_routing_entry *e = route_find_locked(f, gsi), old;
	int r;

	if (!e)
		return -ENOENT;
	old = *e;
	e->u.msi.address_lo = (uint32_t)address;
	e->u.msi.address_hi = (uint32_t)(address >> 32);
	e->u.msi.data = data;
	if (!memcmp(&old, e, sizeof(old)))
		return 0;
	r = vm_set_routes(f->vm, f->routes, f->nr_routes);
	if (r < 0)
		*e = old;
	return r < 0 ? r : 0;
}

void route_free_locked(struct irq_fabric *f, gsi_t gsi)
{
	struct kvm_irq_routing_entry *e = route_find_locked(f, gsi);

	if (!e)
		return;
	*e = f->routes[--f->nr_routes];
	/* A shorter table can only fail for want of memory: the stale route then goes with the next change. */
	if (vm_set_routes(f->vm, f->routes, f->nr_routes) < 0)
		log_debug(f->log, "route of gsi %u stays until the next change", gsi);
}

void irq_print_routes(struct irq_fabric *f, void (*fn)(void *arg, const char *line), void *arg)
{
	char line[80];

	mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->nr_routes; i++) {
		const struct kvm_irq_routing_entry *e = &f->routes[i];

		if (e->type == KVM_IRQ_ROUTING_IRQCHIP)
			snprintf(line, sizeof(line), "gsi=%u type=1 %u %u", e->gsi,
				 e->u.irqchip.irqchip, e->u.irqchip.pin);
		else
			snprintf(line, sizeof(line), "gsi=%u type=2 address=0x%x%08x data=0x%x",
				 e->gsi, e->u.msi.address_hi, e->u.msi.address_lo, e->u.msi.data);
		fn(arg, line);
	}
	mutex_unlock(&f->lock);
}

void irq_walk_counts(struct irq_fabric *f, void (*fn)(void *arg, const struct irq_count *c),
		     void *arg)
{
	mutex_lock(&f->lock);
	for (struct irq_wire *w = f->wires; w; w = w->next) {
		struct irq_count c = {
			.name = w->name, .path = INJECT_LINE, .gsi = (int)w->gsi, .vector = -1,
			.dest = -1, .signals = w->signals, .coalesced = w->coalesced,
			.errors = w->errors,
		};

		fn(arg, &c);
	}
	for (struct irq_msi *m = f->msis; m; m = m->next) {
		struct irq_count c = {
			.name = m->name, .path = m->path, .gsi = m->gsi,
			.vector = (int)(m->data & 0xff), .dest = (int)(m->address >> 12 & 0xff),
			.signals = m->signals, .coalesced = m->coalesced, .errors = m->errors,
		};

		fn(arg, &c);
	}
	mutex_unlock(&f->lock);
}
