/* SPDX-License-Identifier: MIT */
#include "softkvm/irqfd.h"
#include "softkvm/chips.h"
#include "softkvm/eventfd.h"
#include "softkvm/irqfd_sink.h"
#include "softkvm/vm.h"
#include <stdlib.h>

struct soft_irqfd {
	struct soft_vm *vm;
	gsi_t gsi;
	struct held_eventfd event, resample; /* resample.fd -1: none */
	struct soft_resampler *resampler;
	struct listen_item item;	     /* the VM's listener's */
	struct irqfd_sink *sink;	     /* NULL: signals come through the eventfd only; vm->irqfd_lock */
	struct soft_irqfd *next;	     /* ctx->irqfds; ctx->irqfd_lock */
	struct soft_irqfd *next_in_resampler; /* vm->resample_lock */
};

/* One a gsi with resampling irqfds: they share a level. */
struct soft_resampler {
	gsi_t gsi;
	struct soft_irqfd *irqfds;
	struct soft_resampler *next; /* vm->resample_lock */
};

/* Any thread. */
static void deliver(struct soft_irqfd *f)
{
	bool fast = false;

	if (f->resampler) {
		(void)route_set(f->vm, f->gsi, IRQ_SOURCE_RESAMPLER, true, false);
	} else {
		(void)route_pulse(f->vm, f->gsi, &fast);
	}
	if (fast)
		vm_stat(f->vm, irqfd_fast);
	else
		vm_stat(f->vm, irqfd_slow);
}

static void heard(struct listen_item *i)
{
	struct soft_irqfd *f = container_of(i, struct soft_irqfd, item);

	if (eventfd_take(&f->event))
		deliver(f);
}

void irqfd_deliver_direct(struct soft_irqfd *f)
{
	vm_stat(f->vm, irqfd_direct);
	deliver(f);
}

static int resampler_join(struct soft_irqfd *f)
{
	struct soft_vm *vm = f->vm;
	struct soft_resampler *r;

	mutex_lock(&vm->resample_lock);
	for (r = vm->resamplers; r && r->gsi != f->gsi; r = r->next)
		;
	if (!r) {
		r = calloc(1, sizeof(*r));
		if (!r) {
			mutex_unlock(&vm->resample_lock);
			return -ENOMEM;
		}
		r->gsi = f->gsi;
		r->next = vm->resamplers;
		vm->resamplers = r;
	}
	f->next_in_resampler = r->irqfds;
	r->irqfds = f;
	f->resampler = r;
	mutex_unlock(&vm->resample_lock);
	vmchips_update_wanted_acks(vm);
	return 0;
}

/* The last one out lowers the level. */
static void resampler_leave(struct soft_irqfd *f)
{
	struct soft_resampler *r = f->resampler, **at;
	struct soft_irqfd **in;
	bool last;

	if (!r)
		return;
	mutex_lock(&f->vm->resample_lock);
	for (in = &r->irqfds; *in != f; in = &(*in)->next_in_resampler)
		;
	*in = f->next_in_resampler;
	last = !r->irqfds;
	if (last) {
		for (at = &f->vm->resamplers; *at != r; at = &(*at)->next)
			;
		*at = r->next;
	}
	mutex_unlock(&f->vm->resample_lock);
	f->resampler = NULL;
	if (last) {
		(void)route_set(f->vm, r->gsi, IRQ_SOURCE_RESAMPLER, false, false);
		vmchips_update_wanted_acks(f->vm);
		free(r);
	}
}

/* f is in no list. */
static void irqfd_free(struct soft_irqfd *f)
{
	resampler_leave(f);
	eventfd_drop(&f->event);
	if (f->resample.fd >= 0)
		eventfd_drop(&f->resample);
	free(f);
}

static int list_add(struct softkvm *ctx, struct soft_irqfd *f)
{
	int r = 0;

	mutex_lock(&ctx->irqfd_lock);
	for (struct soft_irqfd *o = ctx->irqfds; o && !r; o = o->next)
		if (o->event.id == f->event.id)
			r = -EBUSY;
	if (!r) {
		f->next = ctx->irqfds;
		ctx->irqfds = f;
	}
	mutex_unlock(&ctx->irqfd_lock);
	return r;
}

static void list_del(struct softkvm *ctx, struct soft_irqfd *f)
{
	mutex_lock(&ctx->irqfd_lock);
	for (struct soft_irqfd **at = &ctx->irqfds; *at; at = &(*at)->next)
		if (*at == f) {
			*at = f->next;
			break;
		}
	mutex_unlock(&ctx->irqfd_lock);
}

static int assign(struct soft_vm *vm, const struct kvm_irqfd *a)
{
	struct soft_irqfd *f;
	int r;

	if (vm_irqchip(vm) == IRQCHIP_NONE)
		return -EINVAL;
	/* With a split irqchip the EOI goes to user space, which resamples by itself. */
	if (a->flags & KVM_IRQFD_FLAG_RESAMPLE && vm_irqchip(vm) != IRQCHIP_KERNEL)
		return -EINVAL;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->vm = vm;
	f->gsi = a->gsi;
	f->resample.fd = -1;
	r = eventfd_hold(&f->event, (int)a->fd);
	if (r)
		goto free_it;
	/* The resampler before the list: one that is refused there lowers the level again, as in KVM. */
	if (a->flags & KVM_IRQFD_FLAG_RESAMPLE) {
		r = eventfd_hold(&f->resample, (int)a->resamplefd);
		if (r)
			goto drop_event;
		r = resampler_join(f);
		if (r)
			goto drop_resample;
	}
	r = list_add(vm->ctx, f);
	if (r)
		goto leave;
	f->item = (struct listen_item){ .fd = f->event.fd, .heard = heard };
	r = listener_add(&vm->listener, &f->item);
	if (!r)
		return 0;
	list_del(vm->ctx, f);
leave:
	resampler_leave(f);
drop_resample:
	if (f->resample.fd >= 0)
		eventfd_drop(&f->resample);
drop_event:
	eventfd_drop(&f->event);
free_it:
	free(f);
	return r;
}

/* f is out of the context's list. */
static void unbind(struct soft_vm *vm, struct soft_irqfd *f)
{
	irqfd_sink_disconnect(f->sink);
	listener_remove(&vm->listener, &f->item);
	irqfd_free(f);
}

static int deassign(struct soft_vm *vm, const struct kvm_irqfd *a)
{
	struct soft_irqfd *f, **at;
	uint64_t id;
	int r = eventfd_identify((int)a->fd, &id);

	if (r)
		return r;
	mutex_lock(&vm->ctx->irqfd_lock);
	for (at = &vm->ctx->irqfds; *at; at = &(*at)->next)
		if ((*at)->vm == vm && (*at)->event.id == id && (*at)->gsi == a->gsi)
			break;
	f = *at;
	if (f)
		*at = f->next;
	mutex_unlock(&vm->ctx->irqfd_lock);
	if (f)
		unbind(vm, f);
	return 0;
}

int irqfd_set(struct soft_vm *vm, const struct kvm_irqfd *a)
{
	int r;

	if (a->flags & ~(uint32_t)(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE))
		return -EINVAL;
	/* One at a time: nobody unbinds what is half bound. */
	mutex_lock(&vm->irqfd_lock);
	r = a->flags & KVM_IRQFD_FLAG_DEASSIGN ? deassign(vm, a) : assign(vm, a);
	mutex_unlock(&vm->irqfd_lock);
	return r;
}

void irqfd_connect(struct soft_vm *vm, struct notifier *n)
{
	struct soft_irqfd *f = NULL;
	uint64_t id;

	if (eventfd_identify(n->fd, &id))
		return;
	mutex_lock(&vm->irqfd_lock);
	mutex_lock(&vm->ctx->irqfd_lock);
	for (f = vm->ctx->irqfds; f && (f->vm != vm || f->event.id != id); f = f->next)
		;
	mutex_unlock(&vm->ctx->irqfd_lock);
	/* It stays in the table while we hold the VM's lock. */
	if (f && !f->sink)
		f->sink = irqfd_sink_connect(n, f);
	mutex_unlock(&vm->irqfd_lock);
}

void irqfd_destroy_all(struct soft_vm *vm)
{
	struct soft_irqfd *f, **at;

	mutex_lock(&vm->irqfd_lock);
	do {
		mutex_lock(&vm->ctx->irqfd_lock);
		for (at = &vm->ctx->irqfds; *at && (*at)->vm != vm; at = &(*at)->next)
			;
		f = *at;
		if (f)
			*at = f->next;
		mutex_unlock(&vm->ctx->irqfd_lock);
		if (f)
			unbind(vm, f);
	} while (f);
	mutex_unlock(&vm->irqfd_lock);
}

void irqfd_acked(struct soft_vm *vm, gsi_t gsi)
{
	struct soft_resampler *r;

	mutex_lock(&vm->resample_lock);
	for (r = vm->resamplers; r && r->gsi != gsi; r = r->next)
		;
	mutex_unlock(&vm->resample_lock);
	if (!r)
		return;
	/* Lower first: a source that still asserts raises it again when it hears of the ack. */
	(void)route_set(vm, gsi, IRQ_SOURCE_RESAMPLER, false, false);
	mutex_lock(&vm->resample_lock);
	for (r = vm->resamplers; r && r->gsi != gsi; r = r->next)
		;
	for (struct soft_irqfd *f = r ? r->irqfds : NULL; f; f = f->next_in_resampler)
		eventfd_signal(&f->resample);
	mutex_unlock(&vm->resample_lock);
	vm_stat(vm, irqfd_resample);
}

unsigned irqfd_resampled_gsis(struct soft_vm *vm, gsi_t *gsis, unsigned nr)
{
	unsigned n = 0;

	mutex_lock(&vm->resample_lock);
	for (struct soft_resampler *r = vm->resamplers; r && n < nr; r = r->next)
		gsis[n++] = r->gsi;
	mutex_unlock(&vm->resample_lock);
	return n;
}
