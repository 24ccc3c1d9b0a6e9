/* SPDX-License-Identifier: MIT */
#include "softkvm/ioeventfd.h"
#include "softkvm/eventfd.h"
#include "softkvm/vm.h"
#include <stdlib.h>
#include <sys/syscall.h>

#define VALID_FLAGS ((1u << kvm_ioeventfd_flag_nr_max) - 1)

/* Where a write is looked for. */
enum space { SPACE_MMIO, SPACE_PIO, SPACE_CCW };

struct soft_ioeventfd {
	struct iobus_device dev;
	struct held_eventfd event;
	enum space space;
	bool match;
	uint64_t datamatch;
	struct soft_ioeventfd *next; /* vm->bus_lock */
};

static bool takes(const struct soft_ioeventfd *p, uint64_t addr, unsigned len, uint64_t value)
{
	if (addr != p->dev.addr || (p->dev.len && p->dev.len != len))
		return false;
	return !p->match || value == p->datamatch;
}

static bool ioeventfd_write(struct iobus_device *d, uint64_t addr, unsigned len, uint64_t value,
			    void *cpu)
{
	struct soft_ioeventfd *p = container_of(d, struct soft_ioeventfd, dev);

	if (!takes(p, addr, len, value))
		return false;
	eventfd_signal(&p->event);
	return true;
}

/* The C library's write() is a cancellation point, and others may stand before it. */
static long write_word(int fd, const uint64_t *word)
{
	long r;

	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "a"(SYS_write), "D"((long)fd), "S"(word), "d"(sizeof(*word))
			 : "rcx", "r11", "memory");
	return r;
}

static bool ioeventfd_ring(struct iobus_device *d, uint64_t addr, unsigned len, uint64_t value)
{
	struct soft_ioeventfd *p = container_of(d, struct soft_ioeventfd, dev);
	const uint64_t one = 1;

	/* A full one has its signal already; one that would block after all is left to the long way. */
	return takes(p, addr, len, value) && write_word(p->event.fd, &one) != -EINTR;
}

static const struct iobus_ops ioeventfd_ops = { .write = ioeventfd_write, .ring = ioeventfd_ring };
/* A write to a blocking eventfd may wait, which `ring` may not. */
static const struct iobus_ops blocking_ops = { .write = ioeventfd_write };

/* Could both take the same write? */
static bool collides(const struct soft_ioeventfd *a, const struct soft_ioeventfd *b)
{
	if (a->space != b->space || a->dev.addr != b->dev.addr)
		return false;
	if (!a->dev.len || !b->dev.len)
		return true;
	return a->dev.len == b->dev.len && (!a->match || !b->match || a->datamatch == b->datamatch);
}

static enum space space_of(const struct kvm_ioeventfd *a)
{
	if (a->flags & KVM_IOEVENTFD_FLAG_PIO)
		return SPACE_PIO;
	return a->flags & KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY ? SPACE_CCW : SPACE_MMIO;
}

/* The third is s390's hypercall. KVM takes it on x86, too, where nothing ever writes there. */
static struct iobus *bus_of(struct soft_vm *vm, enum space space)
{
	return space == SPACE_PIO ? &vm->pio : space == SPACE_MMIO ? &vm->mmio : &vm->ccw;
}

static int assign(struct soft_vm *vm, struct soft_ioeventfd *p)
{
	int r;

	mutex_lock(&vm->bus_lock);
	for (struct soft_ioeventfd *o = vm->ioeventfds; o; o = o->next)
		if (collides(o, p)) {
			mutex_unlock(&vm->bus_lock);
			return -EEXIST;
		}
	r = iobus_add(bus_of(vm, p->space), &p->dev);
	if (!r) {
		p->next = vm->ioeventfds;
		vm->ioeventfds = p;
	}
	mutex_unlock(&vm->bus_lock);
	return r;
}

static int deassign(struct soft_vm *vm, const struct kvm_ioeventfd *a)
{
	enum space space = space_of(a);
	bool match = a->flags & KVM_IOEVENTFD_FLAG_DATAMATCH;
	struct soft_ioeventfd *p = NULL, **at;
	uint64_t id;
	int r;

	r = eventfd_identify(a->fd, &id);
	if (r)
		return r;
	mutex_lock(&vm->bus_lock);
	for (at = &vm->ioeventfds; *at; at = &(*at)->next) {
		p = *at;
		if (p->space == space && p->event.id == id && p->dev.addr == a->addr &&
		    p->dev.len == a->len && p->match == match &&
		    (!match || p->datamatch == a->datamatch))
			break;
	}
	if (*at) {
		*at = p->next;
		iobus_remove(bus_of(vm, space), &p->dev);
	} else {
		p = NULL;
	}
	mutex_unlock(&vm->bus_lock);
	if (!p)
		return -ENOENT;
	eventfd_drop(&p->event);
	free(p);
	return 0;
}

int ioeventfd_set(struct soft_vm *vm, const struct kvm_ioeventfd *a)
{
	struct soft_ioeventfd *p;
	int r;

	if (a->flags & KVM_IOEVENTFD_FLAG_DEASSIGN)
		return deassign(vm, a);
	if (a->len > 8 || (a->len && !is_pow2(a->len)))
		return -EINVAL;
	if (a->addr + a->len < a->addr || a->flags & ~VALID_FLAGS)
		return -EINVAL;
	if (!a->len && a->flags & KVM_IOEVENTFD_FLAG_DATAMATCH)
		return -EINVAL;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	r = eventfd_hold(&p->event, a->fd);
	if (r)
		goto free_it;
	p->dev = (struct iobus_device){
		.addr = a->addr, .len = a->len, .ops = p->event.blocking ? &blocking_ops : &ioeventfd_ops,
	};
	p->space = space_of(a);
	p->match = a->flags & KVM_IOEVENTFD_FLAG_DATAMATCH;
	p->datamatch = a->datamatch;
	r = assign(vm, p);
	if (!r)
		return 0;
	eventfd_drop(&p->event);
free_it:
	free(p);
	return r;
}

void ioeventfd_destroy_all(struct soft_vm *vm)
{
	while (vm->ioeventfds) {
		struct soft_ioeventfd *p = vm->ioeventfds;

		vm->ioeventfds = p->next;
		iobus_remove(bus_of(vm, p->space), &p->dev);
		eventfd_drop(&p->event);
		free(p);
	}
}
