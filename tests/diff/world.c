/* SPDX-License-Identifier: MIT
 * One side's objects: VMs, vCPUs, eventfds, memory, and what is said of them.
 */
#include "diff.h"
#include <stdlib.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FENCE_GSI 4000u

long world_quiet(struct world *w, int fd, unsigned long request, void *arg)
{
	return side_ioctl(&w->s, fd, request, arg);
}

long world_call(struct world *w, const char *name, int fd, unsigned long request, void *arg)
{
	return say_result(&w->s, name, side_ioctl(&w->s, fd, request, arg));
}

void *world_pointer(uint64_t which, void *p)
{
	switch (which) {
	case 0:
		return p;
	case 1:
		return NULL;
	case 2:
		return (void *)8;
	case 3:
		return (void *)0xffff888000000000ull;
	default:
		return (void *)0x8000000000000000ull;
	}
}

static void on_alarm(int sig)
{
}

int world_create(struct world *w, bool soft)
{
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = WORLD_ALARM };
	struct sigaction sa = { .sa_handler = on_alarm };
	int r;

	/* Before a vCPU runs, as softkvm asks for. */
	sigaction(WORLD_ALARM, &sa, NULL);
	*w = (struct world){ .s = { .soft = soft } };
	w->s.api.ops = soft ? &softkvm_ops : &dev_kvm_ops;
	if (soft) {
		r = softkvm_create(&w->s.api.ctx, NULL);
		if (r)
			return r;
	}
	w->s.sys = w->s.api.ops->open(w->s.api.ctx);
	r = MIN(w->s.sys, 0);
	if (r)
		goto destroy_context;
	ev._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	if (timer_create(CLOCK_MONOTONIC, &ev, &w->alarm)) {
		r = -errno;
		goto close_system;
	}
	w->run_size = (size_t)world_quiet(w, w->s.sys, KVM_GET_VCPU_MMAP_SIZE, NULL);
	return 0;
close_system:
	(void)w->s.api.ops->close(w->s.api.ctx, w->s.sys);
destroy_context:
	if (soft)
		softkvm_destroy(w->s.api.ctx);
	return r;
}

void world_destroy(struct world *w)
{
	timer_delete(w->alarm);
	(void)w->s.api.ops->close(w->s.api.ctx, w->s.sys);
	if (w->s.soft)
		softkvm_destroy(w->s.api.ctx);
	free(w->s.text);
}

int world_begin(struct world *w)
{
	int pipes[2];

	w->s.len = 0;
	w->stop = false;
	for (unsigned v = 0; v < WORLD_VMS; v++) {
		w->vm[v] = -1;
		w->chips[v] = CHIPS_NONE;
		w->can_run[v] = w->rings[v] = false;
		for (unsigned c = 0; c < WORLD_VCPUS; c++)
			w->odd[v][c] = false, w->cpu[v][c] = w->user_vector[v][c] = -1;
	}
	memset(w->binding, 0, sizeof(w->binding));
	memset(w->routed, 0, sizeof(w->routed));
	w->mem = mmap(NULL, WORLD_MEM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (w->mem == MAP_FAILED || pipe2(pipes, O_NONBLOCK) < 0)
		return -errno;
	for (unsigned i = 0; i < WORLD_EVENTS - 4; i++)
		w->event[i] = eventfd(0, EFD_NONBLOCK | (i == WORLD_SEMAPHORE ? EFD_SEMAPHORE : 0));
	w->event[WORLD_EVENTS - 4] = pipes[0];
	w->event[WORLD_EVENTS - 3] = -1;
	w->event[WORLD_EVENTS - 2] = 1 << 20; /* not open */
	w->event[WORLD_EVENTS - 1] = w->s.sys;
	w->pipe_end = pipes[1];
	w->fence = eventfd(0, EFD_NONBLOCK);
	w->vm[0] = (int)world_quiet(w, w->s.sys, KVM_CREATE_VM, NULL);
	return w->fence < 0 ? -errno : MIN(w->vm[0], 0);
}

void world_end(struct world *w)
{
	for (unsigned v = 0; v < WORLD_VMS; v++) {
		for (unsigned c = 0; c < WORLD_VCPUS; c++)
			world_close_vcpu(w, v, c);
		world_close_vm(w, v);
	}
	for (unsigned i = 0; i < WORLD_EVENTS - 3; i++)
		close(w->event[i]);
	close(w->pipe_end);
	close(w->fence);
	munmap(w->mem, WORLD_MEM);
}

void world_close_vcpu(struct world *w, unsigned vm, unsigned cpu)
{
	if (w->cpu[vm][cpu] < 0)
		return;
	(void)w->s.api.ops->munmap(w->s.api.ctx, w->run[vm][cpu], w->run_size);
	say_result(&w->s, "close vcpu", w->s.api.ops->close(w->s.api.ctx, w->cpu[vm][cpu]));
	w->cpu[vm][cpu] = -1;
}

void world_close_vm(struct world *w, unsigned vm)
{
	if (w->vm[vm] < 0)
		return;
	say_result(&w->s, "close vm", w->s.api.ops->close(w->s.api.ctx, w->vm[vm]));
	w->vm[vm] = -1;
	w->can_run[vm] = w->rings[vm] = false;
}

void world_add_vcpu(struct world *w, unsigned vm, unsigned long id)
{
	long fd = world_quiet(w, w->vm[vm], KVM_CREATE_VCPU, (void *)id);
	struct kvm_lapic_state l;
	void *run;
	unsigned c = 0;

	say_result(&w->s, "KVM_CREATE_VCPU", MIN(fd, 0));
	if (fd < 0)
		return;
	while (c < WORLD_VCPUS && w->cpu[vm][c] >= 0)
		c++;
	if (c == WORLD_VCPUS || w->s.api.ops->mmap(w->s.api.ctx, (int)fd, w->run_size, 0, &run)) {
		(void)w->s.api.ops->close(w->s.api.ctx, (int)fd);
		return;
	}
	w->cpu[vm][c] = (int)fd;
	w->odd[vm][c] = false;
	w->run[vm][c] = run;
	(void)side_set_cpuid(&w->s, (int)fd);
	if (world_quiet(w, (int)fd, KVM_GET_LAPIC, &l))
		return;
	l.regs[0xf1] |= 1; /* SVR: software enable */
	(void)world_quiet(w, (int)fd, KVM_SET_LAPIC, &l);
}

/* ---- waiting --------------------------------------------------------------------- */

/*
 * The kernel takes the count at once and may leave the interrupt to a work item;
 * softkvm's waiter thread does both. An irqfd bound, signalled and unbound after
 * the fact makes both finish: the kernel's work items run in order, and so do
 * the waiter's callbacks, which is why it is enough to see the last one's count taken
 * (a semaphore that is an irqfd keeps a count on both sides).
 */
static void fence(struct world *w, int vm)
{
	struct kvm_irqfd f = { .fd = (uint32_t)w->fence, .gsi = FENCE_GSI };
	struct pollfd p = { .fd = w->fence, .events = POLLIN };

	if (world_quiet(w, vm, KVM_IRQFD, &f))
		return;
	eventfd_write(w->fence, 1);
	for (unsigned n = 0; poll(&p, 1, 0) == 1 && n < 200000; n++)
		usleep(n < 100 ? 0 : 100);
	f.flags = KVM_IRQFD_FLAG_DEASSIGN;
	(void)world_quiet(w, vm, KVM_IRQFD, &f);
}

void world_settle(struct world *w)
{
	for (unsigned v = 0; v < WORLD_VMS; v++)
		if (w->vm[v] >= 0 && w->chips[v] != CHIPS_NONE)
			fence(w, w->vm[v]);
}

/* ---- saying ------------------------------------------------------------------------- */

/* The kernel itself fills an eventfd to the last, a process to the last but one. */
uint64_t event_count(uint64_t n)
{
	return MIN(n, UINT64_MAX - 1);
}

void say_events(struct world *w)
{
	for (unsigned i = 0; i < WORLD_EVENTS - 4; i++) {
		uint64_t n = 0;

		if (!w->binding[i].bound && read(w->event[i], &n, 8) == 8)
			say(&w->s, "event %u: %llu", i, (unsigned long long)event_count(n));
	}
}

/*
 * Without what time changes: the timer's current count; in an odd state without what is in service;
 * and without the mode (TMR) of what an irqfd may have posted, which leaves it as it was.
 */
void say_local_apic(struct world *w, unsigned vm, unsigned cpu)
{
	struct kvm_lapic_state l;

	if (world_quiet(w, w->cpu[vm][cpu], KVM_GET_LAPIC, &l))
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(w->routed); i++)
		store_le32(l.regs + 0x180 + i * 16, load_le32(l.regs + 0x180 + i * 16) & ~w->routed[i]);
	for (unsigned i = 0x20; i < sizeof(l.regs); i += 16)
		if (i != 0x390 && !(w->odd[vm][cpu] && (i == 0xa0 || (i >= 0x100 && i < 0x180))) && load_le32(l.regs + i))
			say(&w->s, "lapic %u.%u %03x: %08x", vm, cpu, i, load_le32(l.regs + i));
}

void say_ring(struct world *w, unsigned vm, unsigned cpu)
{
	struct kvm_coalesced_mmio_ring *r = (void *)((uint8_t *)w->run[vm][cpu] + 2 * 4096);
	const unsigned nr = (4096 - sizeof(*r)) / sizeof(r->coalesced_mmio[0]);

	while (r->first != r->last) {
		struct kvm_coalesced_mmio *e = &r->coalesced_mmio[r->first];

		say(&w->s, "ring %llx len %u pio %u: %llx", e->phys_addr, e->len, e->pio,
		    (unsigned long long)load_le(e->data, MIN(e->len, 8u)));
		r->first = (r->first + 1) % nr;
	}
}

static void say_chips_of(struct world *w, unsigned v)
{
	for (unsigned id = 0; id < 3; id++) {
		struct kvm_irqchip c = { .chip_id = id };

		if (world_quiet(w, w->vm[v], KVM_GET_IRQCHIP, &c))
			return;
		if (id < 2) {
			say_hex(&w->s, "pic", &c.chip, sizeof(c.chip.pic));
			continue;
		}
		say(&w->s, "ioapic id %u sel %x irr %08x", c.chip.ioapic.id, c.chip.ioapic.ioregsel,
		    c.chip.ioapic.irr);
		for (unsigned p = 0; p < 24; p++)
			if (c.chip.ioapic.redirtbl[p].bits != 0x10000)
				say(&w->s, "pin %u: %llx", p,
				    (unsigned long long)c.chip.ioapic.redirtbl[p].bits);
	}
}

static void say_vcpu(struct world *w, unsigned v, unsigned c)
{
	struct kvm_regs r;
	struct kvm_sregs s;
	struct kvm_vcpu_events e;
	struct kvm_mp_state mp;
	int fd = w->cpu[v][c];

	say_local_apic(w, v, c);
	if (!world_quiet(w, fd, KVM_GET_MP_STATE, &mp))
		say(&w->s, "cpu %u.%u mp %u", v, c, mp.mp_state);
	if (!world_quiet(w, fd, KVM_GET_REGS, &r)) {
		say(&w->s, "rip %llx rflags %llx rsp %llx rax %llx", r.rip, r.rflags, r.rsp, r.rax);
		say_hex(&w->s, "regs", &r, sizeof(r));
	}
	if (!world_quiet(w, fd, KVM_GET_SREGS, &s)) {
		say(&w->s, "cr0 %llx cr2 %llx cr3 %llx cr4 %llx cr8 %llx efer %llx base %llx", s.cr0, s.cr2,
		    s.cr3, s.cr4, s.cr8, s.efer, s.apic_base);
		say_hex(&w->s, "segments", &s, offsetof(struct kvm_sregs, gdt));
		say(&w->s, "gdt %llx %x idt %llx %x", s.gdt.base, s.gdt.limit, s.idt.base, s.idt.limit);
		say_hex(&w->s, "interrupts", s.interrupt_bitmap, sizeof(s.interrupt_bitmap));
	}
	if (!world_quiet(w, fd, KVM_GET_VCPU_EVENTS, &e))
		say(&w->s, "exception %u %u %u %u %llx interrupt %u %u %u nmi %u %u %u flags %x", e.exception.injected,
		    e.exception.pending, e.exception.injected | e.exception.pending ? e.exception.nr : 0,
		    e.exception_has_payload, e.exception_payload, e.interrupt.injected,
		    e.interrupt.injected ? e.interrupt.nr : 0, e.interrupt.shadow,
		    e.nmi.injected, e.nmi.pending, e.nmi.masked, e.flags);
	say_ring(w, v, c);
}

void world_say_state(struct world *w)
{
	uint64_t sum = 0;

	world_settle(w);
	for (unsigned v = 0; v < WORLD_VMS; v++) {
		if (w->vm[v] >= 0)
			say_chips_of(w, v);
		for (unsigned c = 0; c < WORLD_VCPUS; c++)
			if (w->cpu[v][c] >= 0)
				say_vcpu(w, v, c);
	}
	say_events(w);
	/* Not the guest's stack: where exactly it took an interrupt is its own affair. */
	memset(w->mem + 0x7d00, 0, 0x300);
	for (unsigned i = 0; i < WORLD_MEM; i += 8)
		sum = (sum ^ load_le64(w->mem + i)) * 0x9e3779b97f4a7c15ull;
	say(&w->s, "memory %llx", (unsigned long long)sum);
}
