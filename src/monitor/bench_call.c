/* SPDX-License-Identifier: MIT
 * Calls: the host sends an interrupt, the guest's handler counts it.
 */
#include "monitor/bench_priv.h"
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define CPU_HALTED  1
#define CPU_RUNNING 2

/*
 * A vCPU with its thread. The thread keeps BARE_KICK_SIGNAL blocked and KVM_RUN
 * unblocks it (KVM_SET_SIGNAL_MASK), so it only ends KVM_RUN: no handler runs.
 */
struct target {
	struct bare *bare;
	unsigned cpu;
	pthread_t thread;
	bool has_thread;
	struct notifier go;      /* enter the guest, or look at leave, or (plain VM) inject */
	_Atomic bool leave, in_guest;
	_Atomic unsigned vector; /* to inject by KVM_INTERRUPT */
	_Atomic int error;
};

struct call_rig {
	struct bare *bare;
	struct target halted, running;
	struct bare plain;       /* a VM without irqchip, for KVM_INTERRUPT */
	struct target plain_target;
	bool has_plain;
};

static void wait_go(struct target *t)
{
	struct pollfd p = { .fd = t->go.fd, .events = POLLIN };

	while (poll(&p, 1, -1) < 0)
		;
	notifier_drain(&t->go);
}

/* In the guest until kicked out, again and again. */
static void *target_main(void *arg)
{
	struct target *t = arg;
	struct vcpu *v = &t->bare->cpus[t->cpu];
	int r = bare_allow_kick(v);

	for (;;) {
		wait_go(t);
		if (atomic_load(&t->leave))
			return NULL;
		if (!r) {
			atomic_store(&t->in_guest, true);
			do
				r = vcpu_run(v);
			while (!r && v->run->exit_reason == KVM_EXIT_INTR);
			atomic_store(&t->in_guest, false);
			bare_eat_kick();
			if (r == -EINTR)
				r = 0;
			else if (!r)
				r = -EIO; /* idle and spin never exit */
		}
		atomic_store(&t->error, r);
	}
}

/* Without an irqchip hlt leaves to us: the thread sleeps here until told to inject. */
static void *plain_main(void *arg)
{
	struct target *t = arg;
	struct vcpu *v = &t->bare->cpus[t->cpu];
	int r = bare_allow_kick(v);

	for (;;) {
		while (!r) {
			r = vcpu_run(v);
			if (!r && v->run->exit_reason == KVM_EXIT_HLT)
				break;
			if (!r && v->run->exit_reason != KVM_EXIT_IRQ_WINDOW_OPEN)
				r = -EIO;
		}
		if (r == -EINTR)
			bare_eat_kick();
		else
			atomic_store(&t->error, r);
		wait_go(t);
		if (atomic_load(&t->leave))
			return NULL;
		r = r ? r : vcpu_interrupt(v, atomic_load(&t->vector));
	}
}

static int target_start(struct target *t, struct bare *b, unsigned cpu, enum bare_entry entry,
			void *(*fn)(void *))
{
	int r = bare_set(b, cpu, entry, 0, 0);

	t->bare = b;
	t->cpu = cpu;
	if (!r)
		r = notifier_create(&t->go, 0, 0);
	if (!r)
		r = thread_create(&t->thread, "bench-vcpu", fn, t);
	t->has_thread = !r;
	return r;
}

static void target_kick_out(struct target *t)
{
	t->bare->cpus[t->cpu].run->immediate_exit = 1;
	pthread_kill(t->thread, BARE_KICK_SIGNAL);
}

static void target_stop(struct target *t)
{
	if (t->has_thread) {
		atomic_store(&t->leave, true);
		target_kick_out(t);
		notifier_signal(&t->go);
		thread_join(t->thread);
	}
	notifier_destroy(&t->go);
}

int call_rig_create(struct call_rig **out, struct bare *b, const struct kvmapi *api, struct err *e)
{
	struct call_rig *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return err_set(e, -ENOMEM, "out of memory");
	c->bare = b;
	c->halted.go.fd = c->running.go.fd = c->plain_target.go.fd = -1;
	r = bare_create(&c->plain, api, 1, false, e);
	if (r)
		goto destroy;
	c->has_plain = true;
	r = target_start(&c->plain_target, &c->plain, 0, BARE_IDLE, plain_main);
	if (!r)
		r = target_start(&c->halted, b, CPU_HALTED, BARE_IDLE, target_main);
	if (!r)
		r = target_start(&c->running, b, CPU_RUNNING, BARE_SPIN, target_main);
	if (!r) {
		notifier_signal(&c->halted.go);
		*out = c;
		return 0;
	}
	err_set(e, r, "cannot start the target vCPUs: %s", strerror(-r));
destroy:
	call_rig_destroy(c);
	return r;
}

void call_rig_destroy(struct call_rig *c)
{
	if (!c)
		return;
	target_stop(&c->halted);
	target_stop(&c->running);
	target_stop(&c->plain_target);
	if (c->has_plain)
		bare_destroy(&c->plain);
	free(c);
}

static bool uses_pin(enum bench_call how)
{
	return how != CALL_MSI && how != CALL_IRQFD_MSI && how != CALL_INTERRUPT;
}

int call_set_routes(struct call_rig *c, struct bench_state *s, unsigned nr)
{
	struct kvm_irq_routing_entry e[64];
	unsigned n = 0;

	for (unsigned i = 0; i < nr && n < ARRAY_SIZE(e); i++) {
		const struct bench_path *p = s[i].path;
		bool pin = uses_pin(p->how);

		if (!p->call || (!pin && p->how != CALL_IRQFD_MSI))
			continue;
		e[n] = (struct kvm_irq_routing_entry){
			.gsi = s[i].gsi,
			.type = pin ? KVM_IRQ_ROUTING_IRQCHIP : KVM_IRQ_ROUTING_MSI,
		};
		if (pin) {
			e[n].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
			e[n].u.irqchip.pin = s[i].gsi;
		} else {
			e[n].u.msi.address_lo = 0xfee00000u | s[i].target << 12;
			e[n].u.msi.data = s[i].vector;
		}
		n++;
	}
	return vm_set_routes(&c->bare->vm, e, n);
}

int call_bind(struct call_rig *c, struct bench_state *s)
{
	const struct bench_path *p = s->path;
	uint64_t pin = (uint64_t)s->target << 56 | s->vector;
	int r = 0;

	if (p->how == CALL_IRQFD_RESAMPLE)
		pin |= 1u << 15; /* level-triggered */
	if (uses_pin(p->how))
		r = bare_set_pin(&c->bare->vm, s->gsi, pin);
	if (r)
		return r;
	switch (p->how) {
	case CALL_IRQFD_MSI:
	case CALL_IRQFD_PIN:
		return vm_bind_notifier(&c->bare->vm, &s->n, s->gsi, -1);
	case CALL_IRQFD_RESAMPLE:
		return vm_bind_notifier(&c->bare->vm, &s->n, s->gsi, s->resample.fd);
	default:
		return 0;
	}
}

static int send(struct call_rig *c, struct bench_state *s)
{
	struct vm *vm = &c->bare->vm;
	int status;

	switch (s->path->how) {
	case CALL_LINE:
		return vm_irq_line(vm, s->gsi, true);
	case CALL_LINE_STATUS:
		return vm_irq_line_status(vm, s->gsi, true, &status);
	case CALL_MSI:
		return vm_signal_msi(vm, 0xfee00000u | s->target << 12, s->vector);
	case CALL_IRQFD_MSI:
	case CALL_IRQFD_PIN:
	case CALL_IRQFD_RESAMPLE:
		return notifier_signal(&s->n);
	case CALL_INTERRUPT:
		atomic_store(&c->plain_target.vector, s->vector);
		return notifier_signal(&c->plain_target.go);
	}
	return -EINVAL;
}

/* After the handler: put the source back to rest. */
static int settle_source(struct call_rig *c, struct bench_state *s)
{
	switch (s->path->how) {
	case CALL_LINE:
	case CALL_LINE_STATUS:
		return vm_irq_line(&c->bare->vm, s->gsi, false);
	case CALL_IRQFD_RESAMPLE: {
		struct pollfd p = { .fd = s->resample.fd, .events = POLLIN };

		/* The EOI lowers the pin and tells us; without it no next one comes. */
		if (poll(&p, 1, (int)(s->patience / 1000000)) != 1)
			return -ETIME;
		notifier_drain(&s->resample);
		return 0;
	}
	default:
		return 0;
	}
}

/*
 * It goes on where it was taken out, which may be its handler, between the count and
 * the EOI: the time to settle is enough for the rest.
 */
static int enter_running(struct call_rig *c, const struct bench_state *s)
{
	struct target *t = &c->running;
	uint64_t deadline = clock_ns() + s->patience;

	t->bare->cpus[t->cpu].run->immediate_exit = 0;
	notifier_signal(&t->go);
	while (!atomic_load(&t->in_guest)) {
		if (clock_ns() > deadline)
			return -ETIME;
		__builtin_ia32_pause();
	}
	bench_settle();
	return 0;
}

static int leave_running(struct call_rig *c, const struct bench_state *s)
{
	struct target *t = &c->running;
	uint64_t deadline = clock_ns() + s->patience;

	target_kick_out(t);
	while (atomic_load(&t->in_guest)) {
		if (clock_ns() > deadline)
			return -ETIME;
		sched_yield();
	}
	return atomic_load(&t->error);
}

static struct target *target_of(struct call_rig *c, const struct bench_path *p)
{
	if (p->how == CALL_INTERRUPT)
		return &c->plain_target;
	return p->running ? &c->running : &c->halted;
}

static int send_and_wait(struct call_rig *c, struct bench_state *s, struct bench_sample *out)
{
	struct target *t = target_of(c, s->path);
	uint64_t before = bare_count(t->bare, t->cpu, s->vector), t0, now;
	int r;

	t0 = clock_ns();
	r = send(c, s);
	now = clock_ns();
	out->sender = now - t0;
	if (r < 0)
		return r;
	while (bare_count(t->bare, t->cpu, s->vector) == before) {
		now = clock_ns();
		if (now - t0 > s->patience)
			return atomic_load(&t->error) ? atomic_load(&t->error) : -ETIME;
		__builtin_ia32_pause();
	}
	out->latency = clock_ns() - t0;
	return settle_source(c, s);
}

int call_measure(struct call_rig *c, struct bench_state *s, struct bench_sample *out)
{
	int r, left;

	if (!s->path->running) {
		bench_settle();
		return send_and_wait(c, s, out);
	}
	r = enter_running(c, s);
	if (r)
		return r;
	r = send_and_wait(c, s, out);
	left = leave_running(c, s);
	return r ? r : left;
}
