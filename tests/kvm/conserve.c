/* SPDX-License-Identifier: MIT
 * Conservation: what is sent through each call path, less what the chips' own rules
 * make one of, is what the guest's handlers have counted, by vector and CPU, exactly.
 *
 *   conserve [COUNT [SEED [TEST]]]   COUNT events on each path with 1, 2 and 4 vCPUs each
 *
 * Many slots (a vector of a CPU, with a pin or an eventfd) are in flight at once, but of
 * each slot one event at a time: the next is sent when the handler has counted the
 * last. So each must be seen. Meanwhile the vCPUs change between running and halting,
 * and they and the sender move between host CPUs. Where several are sent at once it is where a rule
 * says what becomes of them:
 *   - a write of n to an eventfd is one event (eventfd(2): a read takes all);
 *   - n edges or messages while the vCPU stands are one bit of IRR (Intel SDM "Interrupt
 *     Acceptance for Fixed Interrupts");
 *   - a resampled line tells its source once for each EOI.
 */
#include "../lib/check.h"
#include "monitor/bare.h"
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* On the kernel's KVM without VT-x or SVM ring 0 is emulated, and a vCPU that runs sees its
 * interrupts late: there they halt, and there are few. */
#ifndef CONSERVE_COUNT
#define CONSERVE_COUNT 900
#define CONSERVE_RUN   false
#define CONSERVE_PV    false
#endif

#define PATIENCE    (60 * NSEC_PER_SEC)
#define PINS        23
#define VECTORS     24     /* of a CPU, for messages */
#define MAX_SLOTS   (VECTORS * BARE_MAX_CPUS)

static const unsigned cpu_counts[] = { 1, 2, 4 };

enum path { LINE, MSI, IRQFD_MSI, IRQFD_PIN, IRQFD_RESAMPLE, NR_PATHS };
static const char *const path_names[NR_PATHS] = {
	"KVM_IRQ_LINE", "KVM_SIGNAL_MSI", "irqfd to MSI", "irqfd to pin", "irqfd, resampled",
};

struct slot {
	unsigned vector, cpu;
	gsi_t gsi;
	struct notifier n, resample;
	uint64_t sent, coalesced, expected, resampled;
};

struct target {
	struct bare *b;
	unsigned cpu;
	pthread_t thread;
	_Atomic bool hold, held, leave;
	_Atomic int error;
};

struct rig {
	struct bare b;
	unsigned cpus;
	struct target targets[BARE_MAX_CPUS];
	struct slot slots[MAX_SLOTS];
	unsigned nr;
	uint64_t random, moves, holds;
	uint64_t last_progress;
};

struct totals {
	uint64_t sent, coalesced, seen;
};

static uint64_t seed = 1, count = CONSERVE_COUNT;

static const struct kvmapi api = { .ops = &dev_kvm_ops };

static uint64_t draw(uint64_t *s)
{
	uint64_t z = *s += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* Put the thread on one host CPU, any; where we may not, it stays where it is. */
static void move_thread(pthread_t t, uint64_t *random)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(draw(random) % (uint64_t)(n > 0 ? n : 1), &set);
	(void)pthread_setaffinity_np(t, sizeof(set), &set);
}

static void move_back(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	for (int i = 0; i < CPU_SETSIZE; i++)
		CPU_SET(i, &set);
	(void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

/* ---- vCPU threads ---------------------------------------------------------- */

static void *target_main(void *arg)
{
	struct target *t = arg;
	struct vcpu *v = &t->b->cpus[t->cpu];
	int r = bare_allow_kick(v);

	while (!r && !atomic_load(&t->leave)) {
		if (atomic_load(&t->hold)) {
			atomic_store(&t->held, true);
			while (atomic_load(&t->hold) && !atomic_load(&t->leave))
				sched_yield();
			atomic_store(&t->held, false);
			/* Whoever wants us to hold again says so first, then sets this. */
			__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
			continue;
		}
		r = vcpu_run(v);
		if (r == -EINTR)
			r = 0;
		else if (!r)
			r = v->run->exit_reason == KVM_EXIT_INTR ? 0 : -EIO;
		bare_eat_kick();
	}
	atomic_store(&t->error, r);
	return NULL;
}

static void target_kick(struct target *t)
{
	__atomic_store_n(&t->b->cpus[t->cpu].run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_kill(t->thread, BARE_KICK_SIGNAL);
}

static void targets_start(struct rig *r, unsigned first)
{
	const struct bare_job job = { .entry = BARE_MIXED };

	for (unsigned i = first; i < r->cpus; i++) {
		struct target *t = &r->targets[i];

		t->b = &r->b;
		t->cpu = i;
		bare_set_halt(r->b.mem, i, true);
		assert_int_equal(bare_enter(&r->b.cpus[i], i, &job), 0);
		assert_int_equal(thread_create(&t->thread, "vcpu", target_main, t), 0);
	}
}

static void targets_stop(struct rig *r, unsigned first)
{
	for (unsigned i = first; i < r->cpus; i++) {
		atomic_store(&r->targets[i].leave, true);
		target_kick(&r->targets[i]);
		thread_join(r->targets[i].thread);
		assert_int_equal(r->targets[i].error, 0);
	}
	move_back();
}

static void rig_create(struct rig *r, unsigned cpus, bool irqchip)
{
	struct err e;

	memset(r, 0, sizeof(*r));
	r->cpus = cpus;
	r->random = seed;
	if (bare_create(&r->b, &api, cpus, irqchip, &e))
		fail_msg("%s", e.text);
}

/* No exception, and no vector of which nobody knows. */
static void rig_destroy(struct rig *r)
{
	for (unsigned cpu = 0; cpu < r->cpus; cpu++)
		assert_int_equal(bare_faults(&r->b, cpu), 0);
	bare_destroy(&r->b);
}

/* Now and then: another vCPU halts or runs, somebody moves to another host CPU. */
static void disturb(struct rig *r, unsigned first)
{
	unsigned cpu = (unsigned)(draw(&r->random) % r->cpus);

	if (CONSERVE_RUN)
		bare_set_halt(r->b.mem, cpu, draw(&r->random) & 3);
	if (draw(&r->random) & 3)
		return;
	r->moves++;
	move_thread(cpu < first ? pthread_self() : r->targets[cpu].thread, &r->random);
	if (!(draw(&r->random) & 3))
		move_thread(pthread_self(), &r->random);
}

/* ---- events by the host ------------------------------------------------------ */

static bool by_pin(enum path p)
{
	return p == LINE || p == IRQFD_PIN || p == IRQFD_RESAMPLE;
}

static bool by_irqfd(enum path p)
{
	return p == IRQFD_MSI || p == IRQFD_PIN || p == IRQFD_RESAMPLE;
}

static void slots_create(struct rig *r, enum path p)
{
	struct kvm_irq_routing_entry e[MAX_SLOTS];

	r->nr = by_pin(p) ? PINS : VECTORS * r->cpus;
	for (unsigned i = 0; i < r->nr; i++) {
		struct slot *s = &r->slots[i];
		uint64_t pin;

		s->cpu = i % r->cpus;
		/* Spread over the priority classes. */
		s->vector = by_pin(p) ? 0x30 + 7 * i : 0x30 + 8 * (i / r->cpus);
		s->gsi = i;
		s->n.fd = s->resample.fd = -1;
		e[i] = (struct kvm_irq_routing_entry){ .gsi = i };
		if (by_pin(p)) {
			e[i].type = KVM_IRQ_ROUTING_IRQCHIP;
			e[i].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
			e[i].u.irqchip.pin = i;
			pin = (uint64_t)s->cpu << 56 | (p == IRQFD_RESAMPLE ? 1u << 15 : 0) | s->vector;
			assert_int_equal(bare_set_pin(&r->b.vm, i, pin), 0);
		} else {
			e[i].type = KVM_IRQ_ROUTING_MSI;
			e[i].u.msi.address_lo = 0xfee00000u | s->cpu << 12;
			e[i].u.msi.data = s->vector;
		}
	}
	assert_int_equal(vm_set_routes(&r->b.vm, e, r->nr), 0);
	for (unsigned i = 0; i < r->nr && by_irqfd(p); i++) {
		struct slot *s = &r->slots[i];

		assert_int_equal(notifier_create(&s->n, 0, 0), 0);
		if (p == IRQFD_RESAMPLE)
			assert_int_equal(notifier_create(&s->resample, 0, 0), 0);
		assert_int_equal(vm_bind_irqfd(&r->b.vm, s->n.fd, s->gsi, s->resample.fd), 0);
	}
}

/* n at once, of which one is to be seen. */
static void slot_send(struct rig *r, enum path p, struct slot *s, unsigned n)
{
	if (by_irqfd(p)) {
		assert_int_equal(notifier_add(&s->n, n), 0);
	} else {
		for (unsigned i = 0; i < n; i++)
			if (p == LINE) {
				assert_int_equal(vm_irq_line(&r->b.vm, s->gsi, true), 0);
				assert_int_equal(vm_irq_line(&r->b.vm, s->gsi, false), 0);
			} else {
				assert_int_equal(vm_signal_msi(&r->b.vm, 0xfee00000u | s->cpu << 12, s->vector), 1);
			}
	}
	s->sent += n;
	s->coalesced += n - 1;
	s->expected++;
}

static bool slot_done(struct rig *r, enum path p, struct slot *s)
{
	uint64_t seen = bare_count(&r->b, s->cpu, s->vector);

	if (seen > s->expected)
		fail_msg("%s, vector %#x on vCPU %u: %llu seen, %llu expected (seed %llu)", path_names[p],
			 s->vector, s->cpu, (unsigned long long)seen, (unsigned long long)s->expected,
			 (unsigned long long)seed);
	if (seen < s->expected)
		return false;
	if (p == IRQFD_RESAMPLE && s->resampled < s->expected)
		s->resampled += notifier_drain(&s->resample);
	return p != IRQFD_RESAMPLE || s->resampled == s->expected;
}

static void check_progress(struct rig *r, enum path p, bool progress)
{
	uint64_t now = clock_ns();

	if (progress || !r->last_progress)
		r->last_progress = now;
	if (now - r->last_progress < PATIENCE)
		return;
	for (unsigned i = 0; i < r->nr; i++)
		if (!slot_done(r, p, &r->slots[i]))
			print_error("%s, vector %#x on vCPU %u: %llu of %llu, resampled %llu\n", path_names[p],
				    r->slots[i].vector, r->slots[i].cpu,
				    (unsigned long long)bare_count(&r->b, r->slots[i].cpu, r->slots[i].vector),
				    (unsigned long long)r->slots[i].expected,
				    (unsigned long long)r->slots[i].resampled);
	fail_msg("lost (seed %llu)", (unsigned long long)seed);
}

static void wait_all(struct rig *r, enum path p)
{
	for (unsigned i = 0; i < r->nr; i++)
		while (!slot_done(r, p, &r->slots[i])) {
			check_progress(r, p, false);
			sched_yield();
		}
	check_progress(r, p, true);
}

/* Several of each while no vCPU runs: the rules make one of them. */
static uint64_t send_held(struct rig *r, enum path p)
{
	uint64_t sent = 0;

	wait_all(r, p);
	for (unsigned i = 0; i < r->cpus; i++) {
		atomic_store(&r->targets[i].hold, true);
		target_kick(&r->targets[i]);
	}
	for (unsigned i = 0; i < r->cpus; i++)
		while (!atomic_load(&r->targets[i].held)) {
			check_progress(r, p, false);
			sched_yield();
		}
	for (unsigned i = 0; i < r->nr; i++) {
		unsigned n = 1 + (unsigned)(draw(&r->random) % 4);

		slot_send(r, p, &r->slots[i], n);
		sent += n;
	}
	for (unsigned i = 0; i < r->cpus; i++)
		atomic_store(&r->targets[i].hold, false);
	for (unsigned i = 0; i < r->cpus; i++)
		while (atomic_load(&r->targets[i].held))
			sched_yield();
	r->holds++;
	return sent;
}

static void run_path(enum path p, unsigned cpus, struct totals *t)
{
	struct rig *r = calloc(1, sizeof(*r));
	uint64_t sent = 0, rounds = 0;

	assert_non_null(r);
	rig_create(r, cpus, true);
	slots_create(r, p);
	targets_start(r, 0);
	while (sent < count) {
		bool progress = false;

		for (unsigned i = 0; i < r->nr; i++) {
			struct slot *s = &r->slots[i];
			unsigned n = by_irqfd(p) && !(draw(&r->random) & 7) ? 2 : 1;

			if (!slot_done(r, p, s))
				continue;
			slot_send(r, p, s, n);
			sent += n;
			progress = true;
		}
		check_progress(r, p, progress);
		if (!progress)
			sched_yield();
		rounds++;
		if (!(rounds & 63))
			disturb(r, 0);
		if (!(rounds & 1023))
			sent += send_held(r, p);
	}
	sent += send_held(r, p);
	wait_all(r, p);
	targets_stop(r, 0);
	/* By vector and CPU: the slots' are right (wait_all), all others are 0. */
	for (unsigned i = 0; i < r->nr; i++) {
		t->sent += r->slots[i].sent;
		t->coalesced += r->slots[i].coalesced;
	}
	for (unsigned cpu = 0; cpu < cpus; cpu++)
		for (unsigned v = 32; v < 256; v++) {
			uint64_t seen = bare_count(&r->b, cpu, v), expected = 0;

			for (unsigned i = 0; i < r->nr; i++)
				if (r->slots[i].cpu == cpu && r->slots[i].vector == v)
					expected += r->slots[i].sent - r->slots[i].coalesced;
			assert_int_equal(seen, expected);
			t->seen += seen;
		}
	print_message("  %-17s %u vCPUs: %llu sent, %llu coalesced, %llu seen; %llu moves, %llu holds\n",
		      path_names[p], cpus, (unsigned long long)t->sent, (unsigned long long)t->coalesced,
		      (unsigned long long)t->seen, (unsigned long long)r->moves, (unsigned long long)r->holds);
	for (unsigned i = 0; i < r->nr; i++) {
		notifier_destroy(&r->slots[i].n);
		notifier_destroy(&r->slots[i].resample);
	}
	rig_destroy(r);
	free(r);
}

static void run_all_counts(enum path p)
{
	for (unsigned i = 0; i < ARRAY_SIZE(cpu_counts); i++) {
		struct totals t = { 0 };

		run_path(p, cpu_counts[i], &t);
		assert_int_equal(t.sent, t.coalesced + t.seen);
	}
}

static void test_line(void **state) { run_all_counts(LINE); }
static void test_msi(void **state) { run_all_counts(MSI); }
static void test_irqfd_msi(void **state) { run_all_counts(IRQFD_MSI); }
static void test_irqfd_pin(void **state) { run_all_counts(IRQFD_PIN); }
static void test_irqfd_resample(void **state) { run_all_counts(IRQFD_RESAMPLE); }

/* ---- KVM_INTERRUPT: every vCPU's thread injects into its own ---------------------- */

struct injector {
	struct bare *b;
	unsigned cpu;
	uint64_t count, random, sent[256];
	int error;
	pthread_t thread;
};

static void *injector_main(void *arg)
{
	struct injector *j = arg;
	struct vcpu *v = &j->b->cpus[j->cpu];
	const struct bare_job job = { .entry = BARE_MIXED };
	uint64_t n = 0;

	j->error = bare_enter(v, j->cpu, &job);
	v->run->request_interrupt_window = 1;
	while (!j->error) {
		j->error = vcpu_run(v);
		if (j->error == -EINTR)
			j->error = 0;
		else if (!j->error && v->run->exit_reason != KVM_EXIT_IRQ_WINDOW_OPEN &&
			 v->run->exit_reason != KVM_EXIT_HLT)
			j->error = -EIO;
		if (j->error || !v->run->ready_for_interrupt_injection)
			continue;
		if (n == j->count)
			break;
		if (!(n & 63)) {
			bare_set_halt(j->b->mem, j->cpu, !CONSERVE_RUN || (draw(&j->random) & 1));
			if (!(draw(&j->random) & 63))
				move_thread(pthread_self(), &j->random);
		}
		unsigned vector = 0x20 + (unsigned)(draw(&j->random) % 0xe0);

		j->error = vcpu_interrupt(v, vector);
		j->sent[vector] += !j->error;
		n++;
	}
	return NULL;
}

static void test_interrupt(void **state)
{
	for (unsigned k = 0; k < ARRAY_SIZE(cpu_counts); k++) {
		unsigned cpus = cpu_counts[k];
		struct injector *j = calloc(cpus, sizeof(*j));
		struct rig *r = calloc(1, sizeof(*r));
		uint64_t total = 0;

		assert_true(j && r);
		rig_create(r, cpus, false);
		for (unsigned i = 0; i < cpus; i++) {
			j[i] = (struct injector){ .b = &r->b, .cpu = i, .count = count / cpus, .random = seed + i };
			assert_int_equal(thread_create(&j[i].thread, "vcpu", injector_main, &j[i]), 0);
		}
		for (unsigned i = 0; i < cpus; i++) {
			thread_join(j[i].thread);
			assert_int_equal(j[i].error, 0);
			for (unsigned v = 32; v < 256; v++) {
				assert_int_equal(bare_count(&r->b, i, v), j[i].sent[v]);
				total += j[i].sent[v];
			}
		}
		assert_int_equal(total, count / cpus * cpus);
		print_message("  %-17s %u vCPUs: %llu sent and seen\n", "KVM_INTERRUPT", cpus,
			      (unsigned long long)total);
		rig_destroy(r);
		free(r);
		free(j);
	}
}

/* ---- vCPU to vCPU ------------------------------------------------------------------ */

/* vCPU 0 sends to sets of CPUs, itself among them at times, and waits there for all of them. */
static void run_ipi(enum bare_entry entry, const char *name, unsigned cpus)
{
	struct rig *r = calloc(1, sizeof(*r));
	uint64_t total = 0, jobs = 0;

	assert_non_null(r);
	rig_create(r, cpus, true);
	targets_start(r, 1);
	while (total < count) {
		uint64_t set = 1 + draw(&r->random) % ((1u << cpus) - 1);
		unsigned first = 0x20 + (unsigned)(jobs++ % 7 * BARE_IPI_VECTORS);
		struct bare_job job = { .entry = entry, .value = first | set << 32,
					.count = 1 + draw(&r->random) % 10 };

		/* Nothing is in flight. */
		for (unsigned i = 0; i < cpus; i++)
			memset(r->b.mem + BARE_PAGES + i * 0x1000, 0, 256 * 8);
		assert_int_equal(bare_enter(&r->b.cpus[0], 0, &job), 0);
		assert_int_equal(bare_run_until_done(&r->b, 0, NULL, NULL), 0);
		for (unsigned i = 0; i < cpus; i++)
			for (unsigned v = 0; v < 256; v++) {
				bool meant = v >= first && v < first + BARE_IPI_VECTORS && (set >> i & 1);

				assert_int_equal(bare_count(&r->b, i, v), meant ? job.count : 0);
				total += meant ? job.count : 0;
			}
		if (!(jobs & 1))
			disturb(r, 1);
	}
	targets_stop(r, 1);
	print_message("  %-17s %u vCPUs: %llu sent and seen, %llu moves\n", name, cpus, (unsigned long long)total,
		      (unsigned long long)r->moves);
	rig_destroy(r);
	free(r);
}

static void test_icr(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(cpu_counts); i++)
		run_ipi(BARE_IPI_ICR, "ICR", cpu_counts[i]);
}

static void test_pv(void **state)
{
	if (!CONSERVE_PV) {
		print_message("skip: no hypercall at CPL 0 on this KVM\n");
		skip();
	}
	for (unsigned i = 0; i < ARRAY_SIZE(cpu_counts); i++)
		run_ipi(BARE_IPI_PV, "KVM_HC_SEND_IPI", cpu_counts[i]);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_line),      cmocka_unit_test(test_msi),
		cmocka_unit_test(test_irqfd_msi), cmocka_unit_test(test_irqfd_pin),
		cmocka_unit_test(test_irqfd_resample), cmocka_unit_test(test_interrupt),
		cmocka_unit_test(test_icr),       cmocka_unit_test(test_pv),
	};
	sigset_t set;
	struct sys s;
	struct err e;

	if (argc > 1)
		count = strtoull(argv[1], NULL, 0);
	if (argc > 2)
		seed = strtoull(argv[2], NULL, 0);
	if (argc > 3)
		cmocka_set_test_filter(argv[3]);
	if (sys_open(&s, &api, &e)) {
		fprintf(stderr, "skip: %s\n", e.text);
		return 77;
	}
	sys_close(&s);
	print_message("seed %llu, %llu events a path\n", (unsigned long long)seed, (unsigned long long)count);
	/* Threads inherit it. */
	sigemptyset(&set);
	sigaddset(&set, BARE_KICK_SIGNAL);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	return RUN(tests);
}
