/* SPDX-License-Identifier: MIT
 * Coalesced I/O: "KVM_(UN)REGISTER_COALESCED_MMIO". The ring is a page that all
 * vCPU mappings of the VM share; writers take ring_lock, the caller drains it
 * without one by moving `first`. Both indices can be anything the caller wrote.
 */
#include "softkvm/ioeventfd.h"
#include "softkvm/vm.h"
#include <stdlib.h>

#define RING_MAX ((SOFT_PAGE_SIZE - sizeof(struct kvm_coalesced_mmio_ring)) / \
		  sizeof(struct kvm_coalesced_mmio))

struct coalesced_zone {
	struct iobus_device dev;
	struct soft_vm *vm;
	bool pio;
	struct coalesced_zone *next; /* vm->bus_lock */
};

static bool zone_write(struct iobus_device *d, uint64_t addr, unsigned len, uint64_t value,
		       void *cpu)
{
	struct coalesced_zone *z = container_of(d, struct coalesced_zone, dev);
	struct kvm_coalesced_mmio_ring *ring = z->vm->ring;
	struct kvm_coalesced_mmio *e;
	bool taken = false;
	uint32_t last;

	if (!d->len) /* a zone of no bytes, not one of any length */
		return false;
	mutex_lock(&z->vm->ring_lock);
	last = READ_ONCE(ring->last);
	/* One place stays free, to tell full from empty. */
	if (last < RING_MAX && (last + 1) % RING_MAX != READ_ONCE(ring->first)) {
		e = &ring->coalesced_mmio[last];
		e->phys_addr = addr;
		e->len = len;
		memset(e->data, 0, sizeof(e->data));
		store_le(e->data, value, len);
		e->pio = z->pio;
		__atomic_store_n(&ring->last, (uint32_t)((last + 1) % RING_MAX), __ATOMIC_RELEASE);
		taken = true;
	}
	mutex_unlock(&z->vm->ring_lock);
	return taken;
}

static const struct iobus_ops zone_ops = { .write = zone_write, .counted = true };

int coalesced_register(struct soft_vm *vm, const struct kvm_coalesced_mmio_zone *in)
{
	struct coalesced_zone *z;
	int r;

	if (in->pio > 1)
		return -EINVAL;
	z = calloc(1, sizeof(*z));
	if (!z)
		return -ENOMEM;
	z->dev = (struct iobus_device){ .addr = in->addr, .len = in->size, .ops = &zone_ops };
	z->vm = vm;
	z->pio = in->pio;
	mutex_lock(&vm->bus_lock);
	r = iobus_add(z->pio ? &vm->pio : &vm->mmio, &z->dev);
	if (!r) {
		z->next = vm->zones;
		vm->zones = z;
	}
	mutex_unlock(&vm->bus_lock);
	if (r)
		free(z);
	return r;
}

static bool within(const struct coalesced_zone *z, const struct kvm_coalesced_mmio_zone *in)
{
	return in->addr >= z->dev.addr &&
	       range_within(in->addr - z->dev.addr, in->size, z->dev.len);
}

/* The kernel removes each zone that holds the given range. */
int coalesced_unregister(struct soft_vm *vm, const struct kvm_coalesced_mmio_zone *in)
{
	if (in->pio > 1)
		return -EINVAL;
	mutex_lock(&vm->bus_lock);
	for (struct coalesced_zone **at = &vm->zones; *at;) {
		struct coalesced_zone *z = *at;

		if (z->pio != (bool)in->pio || !within(z, in)) {
			at = &z->next;
			continue;
		}
		*at = z->next;
		iobus_remove(z->pio ? &vm->pio : &vm->mmio, &z->dev);
		free(z);
	}
	mutex_unlock(&vm->bus_lock);
	return 0;
}

void coalesced_destroy_all(struct soft_vm *vm)
{
	while (vm->zones) {
		struct coalesced_zone *z = vm->zones;

		vm->zones = z->next;
		iobus_remove(z->pio ? &vm->pio : &vm->mmio, &z->dev);
		free(z);
	}
}
