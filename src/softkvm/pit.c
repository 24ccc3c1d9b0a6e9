/* SPDX-License-Identifier: MIT
 * The PIT on its ports, its deadline on the VM's timer, and what becomes of
 * ticks the guest has not taken: with reinjection (the default, as in KVM) they
 * wait and come one after each ack, without it they are lost.
 */
#include "softkvm/chips.h"
#include "softkvm/vcpu.h"
#include <stdlib.h>

struct soft_pit {
	struct soft_vm *vm;
	pthread_mutex_t lock;
	struct i8254 chip;	/* lock */
	struct soft_timer timer;
	_Atomic int reinject;
	_Atomic int64_t waiting; /* ticks */
	_Atomic int acked;	/* the guest took the last one */
	struct iobus_device dev, speaker;
};

static void inject(struct soft_pit *p)
{
	struct soft_vm *vm = p->vm;
	unsigned nr;

	if (atomic_load(&p->reinject) && !atomic_exchange(&p->acked, 0))
		return;
	(void)route_set(vm, 0, IRQ_SOURCE_PIT, true, false);
	(void)route_set(vm, 0, IRQ_SOURCE_PIT, false, false);
	/* LINT0 in NMI mode: the tick is a watchdog on every CPU that asks for it. */
	if (atomic_load(&vm->nmi_watchdogs) <= 0)
		return;
	nr = atomic_load(&vm->nr_vcpus);
	for (unsigned i = 0; i < nr; i++)
		(void)lapic_deliver_local(vm->lapics[i], LAPIC_LVT_LINT0);
}

/* pit->lock. */
static void arm(struct soft_pit *p)
{
	uint64_t at;

	timer_set(&p->vm->timers, &p->timer, i8254_next_edge(&p->chip, &at) ? at : TIMER_NEVER);
}

static void fired(struct soft_timer *t)
{
	struct soft_pit *p = container_of(t, struct soft_pit, timer);
	uint64_t ticks;

	mutex_lock(&p->lock);
	ticks = i8254_expire(&p->chip, clock_ns());
	arm(p);
	mutex_unlock(&p->lock);
	if (!ticks)
		return;
	if (atomic_load(&p->reinject))
		atomic_fetch_add(&p->waiting, (int64_t)ticks);
	inject(p);
}

void pit_acked(struct soft_vm *vm)
{
	struct soft_pit *p = READ_ONCE(vm->pit);
	int64_t n;

	if (!p)
		return;
	/* Before the look at what waits: a tick in between sees one or the other. */
	atomic_store(&p->acked, 1);
	n = atomic_load(&p->waiting);
	while (n > 0 && !atomic_compare_exchange_weak(&p->waiting, &n, n - 1))
		;
	if (n > 1)
		inject(p);
}

void pit_forget_ticks(struct soft_vm *vm)
{
	struct soft_pit *p = READ_ONCE(vm->pit);

	if (!p)
		return;
	atomic_store(&p->waiting, 0);
	atomic_store(&p->acked, 1);
}

/* pit->lock. */
static void restarted(void *opaque)
{
	struct soft_pit *p = opaque;

	atomic_store(&p->waiting, 0);
	atomic_store(&p->acked, 1);
}

static const struct i8254_sink pit_sink = { .restarted = restarted };

static bool pit_write(struct iobus_device *d, uint64_t port, unsigned len, uint64_t value, void *cpu)
{
	struct soft_pit *p = container_of(d, struct soft_pit, dev);

	mutex_lock(&p->lock);
	i8254_write(&p->chip, (uint16_t)port, (uint8_t)value, clock_ns());
	arm(p);
	mutex_unlock(&p->lock);
	return true;
}

static bool pit_read(struct iobus_device *d, uint64_t port, unsigned len, uint64_t *value, void *cpu)
{
	struct soft_pit *p = container_of(d, struct soft_pit, dev);

	mutex_lock(&p->lock);
	*value = i8254_read(&p->chip, (uint16_t)port, clock_ns());
	mutex_unlock(&p->lock);
	return true;
}

static bool speaker_write(struct iobus_device *d, uint64_t port, unsigned len, uint64_t value,
			  void *cpu)
{
	struct soft_pit *p = container_of(d, struct soft_pit, speaker);

	if (port != I8254_SPEAKER)
		return false;
	mutex_lock(&p->lock);
	i8254_speaker_write(&p->chip, (uint8_t)value, clock_ns());
	mutex_unlock(&p->lock);
	return true;
}

static bool speaker_read(struct iobus_device *d, uint64_t port, unsigned len, uint64_t *value,
			 void *cpu)
{
	struct soft_pit *p = container_of(d, struct soft_pit, speaker);

	if (port != I8254_SPEAKER)
		return false;
	mutex_lock(&p->lock);
	*value = i8254_speaker_read(&p->chip, clock_ns());
	mutex_unlock(&p->lock);
	return true;
}

static const struct iobus_ops pit_ops = { .write = pit_write, .read = pit_read, .counted = true };
static const struct iobus_ops speaker_ops = {
	.write = speaker_write, .read = speaker_read, .counted = true,
};

int pit_create_locked(struct soft_vm *vm, uint32_t flags)
{
	struct soft_pit *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	p->vm = vm;
	mutex_init(&p->lock);
	atomic_init(&p->reinject, 1);
	atomic_init(&p->acked, 1);
	i8254_init(&p->chip, 0, &pit_sink, p, clock_ns());
	p->timer.fire = fired;
	p->dev = (struct iobus_device){ .addr = 0x40, .len = 4, .ops = &pit_ops };
	/* Four bytes, as the kernel has it, so that a wide access to 61h is taken; only 61h is ours. */
	p->speaker = (struct iobus_device){ .addr = I8254_SPEAKER, .len = 4, .ops = &speaker_ops };
	mutex_lock(&vm->bus_lock);
	r = iobus_add(&vm->pio, &p->dev);
	if (!r && flags & KVM_PIT_SPEAKER_DUMMY) {
		r = iobus_add(&vm->pio, &p->speaker);
		if (r)
			iobus_remove(&vm->pio, &p->dev);
	}
	mutex_unlock(&vm->bus_lock);
	if (r) {
		mutex_destroy(&p->lock);
		free(p);
		return r;
	}
	timer_add(&vm->timers, &p->timer);
	__atomic_store_n(&vm->pit, p, __ATOMIC_RELEASE);
	vmchips_update_wanted_acks(vm);
	return 0;
}

void pit_destroy(struct soft_vm *vm)
{
	struct soft_pit *p = vm->pit;

	if (!p)
		return;
	timer_remove(&vm->timers, &p->timer);
	vm->pit = NULL;
	iobus_remove(&vm->pio, &p->dev);
	iobus_remove(&vm->pio, &p->speaker);
	mutex_destroy(&p->lock);
	free(p);
}

void pit_save(struct soft_vm *vm, struct kvm_pit_state2 *out)
{
	mutex_lock(&vm->pit->lock);
	i8254_save(&vm->pit->chip, out);
	mutex_unlock(&vm->pit->lock);
}

void pit_load(struct soft_vm *vm, const struct kvm_pit_state2 *in)
{
	mutex_lock(&vm->pit->lock);
	i8254_load(&vm->pit->chip, in, clock_ns());
	arm(vm->pit);
	mutex_unlock(&vm->pit->lock);
}

void pit_load_channels(struct soft_vm *vm, const struct kvm_pit_state *in)
{
	struct kvm_pit_state2 s;

	mutex_lock(&vm->pit->lock);
	i8254_save(&vm->pit->chip, &s);
	memcpy(s.channels, in->channels, sizeof(s.channels));
	i8254_load(&vm->pit->chip, &s, clock_ns());
	arm(vm->pit);
	mutex_unlock(&vm->pit->lock);
}

void pit_set_reinject(struct soft_vm *vm, bool on)
{
	pit_forget_ticks(vm);
	atomic_store(&vm->pit->reinject, on);
}
