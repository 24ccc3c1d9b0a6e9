/* SPDX-License-Identifier: MIT */
#include "softkvm/remap.h"
#include "softkvm/vcpu.h"

uint64_t irte_remapped(const struct irq_message *msg)
{
	return IRTE_PRESENT | (msg->logical ? IRTE_LOGICAL : 0) |
	       (msg->redirection_hint ? IRTE_HINT : 0) | (msg->level ? IRTE_LEVEL : 0) |
	       (uint64_t)(msg->delivery & 7) << IRTE_DLM_SHIFT |
	       (uint64_t)msg->vector << IRTE_VECTOR_SHIFT | (uint64_t)msg->dest << IRTE_DST_SHIFT;
}

uint64_t irte_posted(uint32_t descriptor, uint8_t vector, bool urgent)
{
	return IRTE_PRESENT | IRTE_POSTED | (urgent ? IRTE_URGENT : 0) |
	       (uint64_t)vector << IRTE_VECTOR_SHIFT | (uint64_t)(descriptor >> 6) << IRTE_PDAL_SHIFT;
}

void irte_message(uint64_t irte, struct irq_message *msg)
{
	*msg = (struct irq_message){
		.dest = (uint32_t)(irte >> IRTE_DST_SHIFT), .vector = irte_vector(irte),
		.delivery = irte >> IRTE_DLM_SHIFT & 7, .logical = irte & IRTE_LOGICAL,
		.level = irte & IRTE_LEVEL, .assert = true, .redirection_hint = irte & IRTE_HINT,
	};
}

uint32_t irte_descriptor(uint64_t irte)
{
	return (uint32_t)(irte >> IRTE_PDAL_SHIFT) << 6;
}

/* Only what sets a bit in PIR and nothing else can be posted. */
static bool is_postable(const struct irq_message *msg)
{
	return (msg->delivery == IRQ_FIXED || msg->delivery == IRQ_LOWEST) && !msg->level;
}

static uint64_t entry_for(const struct lapic_map *map, const struct irq_message *msg)
{
	struct lapic *l = map && is_postable(msg) ? lapic_map_single(map, msg) : NULL;
	struct soft_vcpu *v;

	if (!l || !lapic_hw_enabled(l) || !lapic_sw_enabled(l))
		return irte_remapped(msg);
	v = container_of(l, struct soft_vcpu, lapic);
	return v->posting ? irte_posted(v->index * 64, msg->vector, false) : irte_remapped(msg);
}

void remap_update_locked(struct soft_vm *vm)
{
	unsigned g = grace_enter(&vm->grace);
	struct route_table *t = atomic_load(&vm->routes);
	const struct lapic_map *map = atomic_load(&vm->map);

	for (unsigned i = 0; i < t->nr; i++) {
		struct route *r = &t->route[i];
		uint64_t new;

		if (r->type != KVM_IRQ_ROUTING_MSI)
			continue;
		new = entry_for(map, &r->msg);
		if (atomic_exchange(&r->irte, new) != new)
			vm_stat(vm, irte_updates);
	}
	grace_leave(&vm->grace, g);
}

int remap_deliver(struct soft_vm *vm, const struct route *r)
{
	uint64_t irte = atomic_load(&r->irte);
	struct irq_message msg;

	if (irte & IRTE_POSTED) {
		/* A vCPU lives as long as its VM, and with it its descriptor. */
		vcpu_post(vm->vcpus[irte_descriptor(irte) / 64], irte_vector(irte), irte & IRTE_URGENT);
		vm_stat(vm, irte_posted);
		return 1;
	}
	irte_message(irte, &msg);
	vm_stat(vm, irte_remapped);
	return vm_deliver(vm, NULL, &msg, NULL);
}
