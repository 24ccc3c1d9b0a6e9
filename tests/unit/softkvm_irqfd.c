/* SPDX-License-Identifier: MIT
 * What an irqfd is bound to, and what is left of it afterwards: the contract of
 * KVM_IRQFD, with the bugs that others have had there (docs/BUGS.md).
 */
#include "../lib/check.h"
#include "../lib/process.h"
#include "monitor/bare.h"
#include "softkvm/softkvm.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MSI_GSI 24
#define PATIENCE (60 * NSEC_PER_SEC)

struct bed {
	void *ctx;
	struct kvmapi api;
	struct bare b;
};

static void setup(struct bed *t)
{
	struct err e;

	assert_int_equal(softkvm_create(&t->ctx, NULL), 0);
	t->api = (struct kvmapi){ .ops = &softkvm_ops, .ctx = t->ctx };
	if (bare_create(&t->b, &t->api, 1, true, &e))
		fail_msg("%s", e.text);
}

static void teardown(struct bed *t)
{
	bare_destroy(&t->b);
	softkvm_destroy(t->ctx);
}

static void route_msi(struct vm *vm, gsi_t gsi, unsigned vector)
{
	struct kvm_irq_routing_entry e = { .gsi = gsi, .type = KVM_IRQ_ROUTING_MSI };

	e.u.msi.address_lo = 0xfee00000;
	e.u.msi.data = vector;
	assert_int_equal(vm_set_routes(vm, &e, 1), 0);
}

/* The vectors that wait in vCPU 0's IRR: at most one is set by these tests. 0: none. */
static unsigned waiting(struct bed *t)
{
	struct kvm_lapic_state s;

	assert_int_equal(vcpu_get_lapic(&t->b.cpus[0], &s), 0);
	for (unsigned i = 0; i < 8; i++) {
		uint32_t irr = load_le32(s.regs + 0x200 + 16 * i);

		if (irr)
			return 32 * i + (unsigned)__builtin_ctz(irr);
	}
	return 0;
}

static void forget(struct bed *t)
{
	struct kvm_lapic_state s;

	assert_int_equal(vcpu_get_lapic(&t->b.cpus[0], &s), 0);
	for (unsigned i = 0; i < 8; i++)
		store_le32(s.regs + 0x200 + 16 * i, 0);
	assert_int_equal(vcpu_set_lapic(&t->b.cpus[0], &s), 0);
}

static void signal_fd(int fd, uint64_t n)
{
	assert_int_equal(write(fd, &n, sizeof(n)), sizeof(n));
}

static void expect(struct bed *t, unsigned vector)
{
	uint64_t deadline = clock_ns() + PATIENCE;
	unsigned v;

	while (!(v = waiting(t)))
		if (clock_ns() > deadline)
			fail_msg("vector %#x never came", vector);
	assert_int_equal(v, vector);
	forget(t);
}

/* Nothing of what was signalled before is still on its way: the waiter has served this one after it. */
static void expect_nothing(struct bed *t, int other, unsigned others_vector)
{
	signal_fd(other, 1);
	expect(t, others_vector);
}

static int new_eventfd(void)
{
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

/* One eventfd serves one gsi of one VM; unbinding what is not bound is no error, of what is no eventfd it is. */
static void test_contract(void **state)
{
	struct bed t;
	struct bare other;
	struct err err;
	int e, closed, p[2], ours;

	setup(&t);
	if (bare_create(&other, &t.api, 1, true, &err))
		fail_msg("%s", err.text);
	e = new_eventfd();
	assert_int_equal(pipe(p), 0);
	closed = new_eventfd();
	close(closed);
	assert_int_equal(vm_bind_irqfd(&t.b.vm, e, 10, -1), 0);
	assert_int_equal(vm_bind_irqfd(&t.b.vm, e, 10, -1), -EBUSY);
	assert_int_equal(vm_bind_irqfd(&t.b.vm, e, 11, -1), -EBUSY);
	assert_int_equal(vm_bind_irqfd(&other.vm, e, 10, -1), -EBUSY);
	assert_int_equal(vm_bind_irqfd(&t.b.vm, closed, 10, -1), -EBADF);
	assert_int_equal(vm_bind_irqfd(&t.b.vm, p[0], 10, -1), -EINVAL);
	/* What another thread's call has open for a moment, under a number that was closed. */
	ours = open("/proc/self/fdinfo/0", O_RDONLY);
	assert_true(ours >= 0);
	assert_int_equal(vm_bind_irqfd(&t.b.vm, ours, 10, -1), -EBADF);
	assert_int_equal(vm_unbind_irqfd(&t.b.vm, ours, 10), -EBADF);
	close(ours);
	/* Not bound here, there, or at all. */
	assert_int_equal(vm_unbind_irqfd(&t.b.vm, e, 11), 0);
	assert_int_equal(vm_unbind_irqfd(&other.vm, e, 10), 0);
	assert_int_equal(vm_unbind_irqfd(&t.b.vm, closed, 10), -EBADF);
	assert_int_equal(vm_bind_irqfd(&other.vm, e, 10, -1), -EBUSY); /* those changed nothing */
	assert_int_equal(vm_unbind_irqfd(&t.b.vm, e, 10), 0);
	assert_int_equal(vm_unbind_irqfd(&t.b.vm, e, 10), 0);
	assert_int_equal(vm_bind_irqfd(&other.vm, e, 10, -1), 0);
	/* A VM's end frees its eventfds. */
	bare_destroy(&other);
	assert_int_equal(vm_bind_irqfd(&t.b.vm, e, 10, -1), 0);
	close(e);
	close(p[0]);
	close(p[1]);
	teardown(&t);
}

/* CVE-2026-23198: unbinding one spoilt a route; and an unbound one must not use the route it had. */
static void test_unbind_leaves_the_route(void **state)
{
	struct bed t;
	int a = new_eventfd(), b = new_eventfd();

	setup(&t);
	route_msi(&t.b.vm, MSI_GSI, 0x41);
	assert_int_equal(vm_bind_irqfd(&t.b.vm, a, MSI_GSI, -1), 0);
	assert_int_equal(vm_bind_irqfd(&t.b.vm, b, MSI_GSI, -1), 0);
	signal_fd(a, 1);
	expect(&t, 0x41);
	assert_int_equal(vm_unbind_irqfd(&t.b.vm, a, MSI_GSI), 0);
	/* The other one still has the route, as it is and as it becomes. */
	signal_fd(b, 1);
	expect(&t, 0x41);
	route_msi(&t.b.vm, MSI_GSI, 0x42);
	signal_fd(b, 1);
	expect(&t, 0x42);
	/* The unbound one delivers nothing: its count stays its own. */
	signal_fd(a, 7);
	expect_nothing(&t, b, 0x42);
	assert_int_equal(waiting(&t), 0);
	assert_int_equal(read(a, &(uint64_t){ 0 }, 8), 8);
	/* Bound again it is as new. */
	assert_int_equal(vm_bind_irqfd(&t.b.vm, a, MSI_GSI, -1), 0);
	signal_fd(a, 1);
	expect(&t, 0x42);
	close(a);
	close(b);
	teardown(&t);
}

/* CVE-2017-1000252: an irqfd's gsi past the end of the route table. */
static void test_gsi_out_of_range(void **state)
{
	static const gsi_t gsis[] = { 0x7fffffff, 0xffffffff, 4096, 4095, 1024, 25 };
	struct kvm_irq_routing_entry far = { .gsi = 4096, .type = KVM_IRQ_ROUTING_MSI };
	struct bed t;
	int e = new_eventfd(), good = new_eventfd();

	setup(&t);
	route_msi(&t.b.vm, MSI_GSI, 0x41);
	assert_int_equal(vm_bind_irqfd(&t.b.vm, good, MSI_GSI, -1), 0);
	assert_int_equal(vm_set_routes(&t.b.vm, &far, 1), -EINVAL);
	for (unsigned i = 0; i < ARRAY_SIZE(gsis); i++) {
		/* As in the kernel it may be bound; there is just no route. */
		assert_int_equal(vm_bind_irqfd(&t.b.vm, e, gsis[i], -1), 0);
		signal_fd(e, 1);
		expect_nothing(&t, good, 0x41);
		assert_int_equal(waiting(&t), 0);
		assert_true(vm_irq_line(&t.b.vm, gsis[i], true) <= 0);
		assert_int_equal(vm_unbind_irqfd(&t.b.vm, e, gsis[i]), 0);
	}
	/* A table that shrinks under a bound one. */
	assert_int_equal(vm_bind_irqfd(&t.b.vm, e, MSI_GSI, -1), 0);
	route_msi(&t.b.vm, 3, 0x43);
	signal_fd(e, 1);
	signal_fd(good, 1);
	route_msi(&t.b.vm, MSI_GSI, 0x44);
	forget(&t);
	signal_fd(e, 1);
	expect(&t, 0x44);
	close(e);
	close(good);
	teardown(&t);
}

static uint64_t resampled(int fd)
{
	uint64_t deadline = clock_ns() + PATIENCE, n = 0;

	while (read(fd, &n, sizeof(n)) != sizeof(n))
		if (clock_ns() > deadline)
			fail_msg("the source was not asked again");
	return n;
}

/*
 * 77377064 (and 8be8f932): a resampler behind a pin that has become edge-triggered. Its ack
 * raised the line from inside, whose request was acked from inside, and so on.
 */
static void test_resampler_on_an_edge_pin(void **state)
{
	struct kvm_irq_routing_entry pin = { .gsi = 20, .type = KVM_IRQ_ROUTING_IRQCHIP };
	struct bed t;
	int e = new_eventfd(), r = new_eventfd();

	setup(&t);
	pin.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
	pin.u.irqchip.pin = 20;
	assert_int_equal(vm_set_routes(&t.b.vm, &pin, 1), 0);
	assert_int_equal(bare_set_pin(&t.b.vm, 20, 1 << 15 | 0x54), 0);
	assert_int_equal(vm_bind_irqfd(&t.b.vm, e, 20, r), 0);
	/* Up as a level, then the entry becomes an edge one; each new edge finds the old one unserved. */
	signal_fd(e, 1);
	expect(&t, 0x54);
	assert_int_equal(bare_set_pin(&t.b.vm, 20, 0x55), 0);
	for (unsigned i = 0; i < 1000; i++) {
		signal_fd(e, 1);
		assert_true(vm_irq_line(&t.b.vm, 20, i & 1) >= 0);
	}
	assert_int_equal(vm_irq_line(&t.b.vm, 20, false), 0);
	/* Down goes the resampler's line with its end; then all is as new. */
	assert_int_equal(vm_unbind_irqfd(&t.b.vm, e, 20), 0);
	forget(&t);
	assert_int_equal(bare_set_pin(&t.b.vm, 20, 1 << 15 | 0x56), 0);
	assert_int_equal(waiting(&t), 0);
	(void)!read(r, &(uint64_t){ 0 }, 8);
	assert_int_equal(vm_bind_irqfd(&t.b.vm, e, 20, r), 0);
	signal_fd(e, 1);
	expect(&t, 0x56);
	close(e);
	close(r);
	teardown(&t);
}

/* The guest acks an edge pin whose resampler raises again at once, from another thread. */
struct source {
	int event, resample;
	unsigned rounds;
};

static void *raise_again(void *arg)
{
	struct source *s = arg;

	for (unsigned i = 0; i < s->rounds; i++) {
		signal_fd(s->event, 1);
		assert_int_equal(resampled(s->resample), 1);
	}
	return NULL;
}

static void *run_guest(void *arg)
{
	struct bed *t = arg;
	int r;

	do
		r = vcpu_run(&t->b.cpus[0]);
	while (!r && t->b.cpus[0].run->exit_reason == KVM_EXIT_INTR);
	return (void *)(intptr_t)(r ? r : -EIO);
}

static void test_acked_edge_asks_its_source(void **state)
{
	struct kvm_irq_routing_entry pin = { .gsi = 20, .type = KVM_IRQ_ROUTING_IRQCHIP };
	struct bed t;
	struct source s = { .event = new_eventfd(), .resample = new_eventfd(), .rounds = 500 };
	pthread_t guest, source;

	setup(&t);
	pin.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
	pin.u.irqchip.pin = 20;
	assert_int_equal(vm_set_routes(&t.b.vm, &pin, 1), 0);
	assert_int_equal(bare_set_pin(&t.b.vm, 20, 0x54), 0); /* edge */
	assert_int_equal(vm_bind_irqfd(&t.b.vm, s.event, 20, s.resample), 0);
	assert_int_equal(pthread_create(&guest, NULL, run_guest, &t), 0);
	assert_int_equal(pthread_create(&source, NULL, raise_again, &s), 0);
	pthread_join(source, NULL);
	assert_int_equal(bare_count(&t.b, 0, 0x54), s.rounds);
	t.b.cpus[0].run->immediate_exit = 1;
	pthread_kill(guest, SIGUSR1);
	pthread_join(guest, NULL);
	close(s.event);
	close(s.resample);
	teardown(&t);
}

/* Two VMs fight for one eventfd: never both have it, and at the end it is free. */
struct fighter {
	struct vm *vm;
	int fd;
	_Atomic unsigned *owners;
	unsigned won, wrong;
};

#define ROUNDS 10000

static void *fight(void *arg)
{
	struct fighter *f = arg;

	for (unsigned i = 0; i < ROUNDS; i++) {
		int r = vm_bind_irqfd(f->vm, f->fd, 10, -1);

		if (r) {
			f->wrong += r != -EBUSY;
			continue;
		}
		f->won++;
		f->wrong += atomic_fetch_add(f->owners, 1) != 0;
		sched_yield(); /* the other one tries meanwhile */
		atomic_fetch_sub(f->owners, 1);
		f->wrong += vm_unbind_irqfd(f->vm, f->fd, 10) != 0;
	}
	return NULL;
}

static void test_two_vms_fight(void **state)
{
	_Atomic unsigned owners = 0;
	struct fighter f[2];
	struct bare other;
	struct bed t;
	struct err err;
	pthread_t thread[2];
	int e = new_eventfd();

	setup(&t);
	if (bare_create(&other, &t.api, 1, true, &err))
		fail_msg("%s", err.text);
	for (unsigned i = 0; i < 2; i++) {
		f[i] = (struct fighter){ .vm = i ? &other.vm : &t.b.vm, .fd = e, .owners = &owners };
		assert_int_equal(pthread_create(&thread[i], NULL, fight, &f[i]), 0);
	}
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(thread[i], NULL);
		assert_int_equal(f[i].wrong, 0);
	}
	assert_true(f[0].won + f[1].won > 0);
	assert_int_equal(vm_bind_irqfd(&other.vm, e, 11, -1), 0);
	bare_destroy(&other);
	close(e);
	teardown(&t);
}

/* With the VM's last fd its irqfds go, whether it has vCPUs or not: they are free for another VM. */
static void test_ends_with_the_fd(void **state)
{
	struct bare other;
	struct bed t;
	struct err err;
	int e = new_eventfd(), vm2;
	eventfd_t n;

	setup(&t);
	if (bare_create(&other, &t.api, 1, true, &err))
		fail_msg("%s", err.text);
	route_msi(&t.b.vm, MSI_GSI, 0x41);
	assert_int_equal(vm_bind_irqfd(&t.b.vm, e, MSI_GSI, -1), 0);
	vm2 = dup(t.b.vm.fd);
	assert_true(vm2 >= 0);
	vm_destroy(&t.b.vm);
	signal_fd(e, 1);
	expect(&t, 0x41);
	assert_int_equal(vm_bind_irqfd(&other.vm, e, MSI_GSI, -1), -EBUSY);
	assert_int_equal(softkvm_ops.close(t.ctx, vm2), 0);
	signal_fd(e, 1);
	assert_int_equal(eventfd_read(e, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(waiting(&t), 0);
	assert_int_equal(vm_bind_irqfd(&other.vm, e, MSI_GSI, -1), 0);
	bare_destroy(&other);
	close(e);
	teardown(&t);
}

static void on_usr1(int sig)
{
}

/*
 * With late_thread a VM makes no thread before it has a vCPU: crosvm forks its devices only while its
 * process has one. What is signalled meanwhile is not lost.
 */
static void test_late_thread(void **state)
{
	unsigned before = threads();
	struct softkvm_config config;
	struct pollfd taken = { .events = POLLIN };
	struct kvmapi api;
	struct sys sys;
	struct vm vm;
	struct vcpu cpu;
	struct err err;

	taken.fd = new_eventfd();
	softkvm_config_init(&config, false);
	config.late_thread = true;
	assert_int_equal(softkvm_create(&api.ctx, &config), 0);
	api.ops = &softkvm_ops;
	assert_int_equal(sys_open(&sys, &api, &err), 0);
	assert_int_equal(vm_create(&vm, &sys), 0);
	assert_int_equal(vm_create_irqchip(&vm), 0);
	assert_int_equal(vm_create_pit2(&vm, 0), 0);
	assert_int_equal(vm_bind_irqfd(&vm, taken.fd, 4, -1), 0);
	signal_fd(taken.fd, 1);
	assert_int_equal(threads(), before);
	assert_int_equal(vcpu_open(&cpu, &vm, 0), 0);
	assert_int_equal(threads(), before + 1);
	for (uint64_t deadline = clock_ns() + PATIENCE; poll(&taken, 1, 1);)
		assert_true(clock_ns() < deadline);
	vcpu_close(&cpu);
	vm_destroy(&vm);
	sys_close(&sys);
	softkvm_destroy(api.ctx);
	close(taken.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_contract),
		cmocka_unit_test(test_unbind_leaves_the_route),
		cmocka_unit_test(test_gsi_out_of_range),
		cmocka_unit_test(test_resampler_on_an_edge_pin),
		cmocka_unit_test(test_acked_edge_asks_its_source),
		cmocka_unit_test(test_two_vms_fight),
		cmocka_unit_test(test_ends_with_the_fd),
		cmocka_unit_test(test_late_thread),
	};
	struct sigaction a = { .sa_handler = on_usr1 };

	sigaction(SIGUSR1, &a, NULL);
	return RUN(tests);
}
