/* SPDX-License-Identifier: MIT
 * The in-kernel PICs, IOAPIC and PIT: their state at power-on, put back at a
 * reset. The local APICs are part of each vCPU's state.
 */
#include "machine/cpu_priv.h"
#include <stdlib.h>

struct chips_state {
	struct kvm_irqchip chip[KVM_NR_IRQCHIPS];
	struct kvm_pit_state2 pit;
};

int chips_save(struct vm *vm, struct chips_state **out)
{
	struct chips_state *s = calloc(1, sizeof(*s));
	int r = 0;

	if (!s)
		return -ENOMEM;
	for (unsigned i = 0; i < KVM_NR_IRQCHIPS && !r; i++) {
		s->chip[i].chip_id = i;
		r = vm_get_irqchip(vm, &s->chip[i]);
	}
	if (!r)
		r = vm_get_pit2(vm, &s->pit);
	if (r) {
		free(s);
		return r;
	}
	*out = s;
	return 0;
}

int chips_load(struct vm *vm, const struct chips_state *s)
{
	int r = 0;

	for (unsigned i = 0; i < KVM_NR_IRQCHIPS && !r; i++)
		r = vm_set_irqchip(vm, &s->chip[i]);
	return r ? r : vm_set_pit2(vm, &s->pit);
}
