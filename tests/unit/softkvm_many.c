/* SPDX-License-Identifier: MIT
 * Many vCPUs in one VM, several VMs in one process, and many VMs one after the
 * other. The guests are a few bytes of real mode that take interrupts and send
 * them on through the x2APIC.
 *
 * softkvm_many [ROUNDS]: how many VMs come and go (200).
 */
#include "../lib/check.h"
#include "../lib/process.h"
#include "softkvm/softkvm.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#define MANY	  24u
#else
#define SANITIZED 0
#define MANY	  255u
#endif

#define MEM	 0x10000u
#define MAIN	 0x1000u
#define TOKEN	 0x1100u /* handler of vector 40h */
#define ALL	 0x1200u /* handler of vector 41h */
#define SHOUT	 0x1300u
#define REACHED	 0x1ff0u /* how many have got vector 41h */
#define CELLS	 0x2000u /* a word a vCPU: how often it had the token */
#define STACKS	 0x8000u /* 64 bytes a vCPU */
#define PATIENCE (60 * NSEC_PER_SEC) /* until the next interrupt */

static unsigned rounds = 200;

/* Also on threads that cmocka does not know. */
#define MUST(x)                                                                                   \
	do {                                                                                      \
		if (!(x)) {                                                                       \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                   \
			abort();                                                                  \
		}                                                                                 \
	} while (0)

struct machine {
	void *ctx;
	const struct kvmapi_ops *ops;
	int sys, vm;
	unsigned n;
	uint8_t *mem;
	size_t run_size;
	struct cpu {
		struct machine *m;
		int fd;
		struct kvm_run *run;
		pthread_t thread;
		bool stop; /* atomic */
	} cpu[MANY];
	_Atomic unsigned outs[2]; /* writes to 80h and 81h */
	_Atomic unsigned strays;  /* any other exit */
};

static int call(struct machine *m, int fd, unsigned long request, const void *arg)
{
	return m->ops->ioctl(m->ctx, fd, request, (uintptr_t)arg);
}

/* main: sti; 1: hlt; jmp 1b */
static const uint8_t main_code[] = { 0xfb, 0xf4, 0xeb, 0xfd };

/* Count; EOI; unless this was the last time (di) the token goes on to bp, else tell user space. */
static const uint8_t token_code[] = {
	0xff, 0x07,				/* incw (%bx) */
	0x66, 0xb9, 0x0b, 0x08, 0x00, 0x00,	/* mov $0x80b,%ecx: EOI */
	0x66, 0x31, 0xc0, 0x66, 0x31, 0xd2, 0x0f, 0x30,
	0x39, 0x3f, 0x74, 0x12,			/* cmp %di,(%bx); je */
	0x66, 0xb9, 0x30, 0x08, 0x00, 0x00,	/* mov $0x830,%ecx: ICR */
	0x66, 0xb8, 0x40, 0x00, 0x00, 0x00,	/* mov $0x40,%eax */
	0x66, 0x89, 0xea, 0x0f, 0x30, 0xcf,	/* mov %ebp,%edx; wrmsr; iret */
	0xe6, 0x80, 0xcf,
};

static const uint8_t all_code[] = {
	0x66, 0x50, 0x66, 0x51, 0x66, 0x52, 0xf0, 0xff, 0x06, 0xf0, 0x1f, /* push …; lock incw REACHED */
	0x66, 0xb9, 0x0b, 0x08, 0x00, 0x00, 0x66, 0x31, 0xc0, 0x66, 0x31, 0xd2, 0x0f, 0x30,
	0x66, 0x5a, 0x66, 0x59, 0x66, 0x58, 0xcf,
};

/* bp times: to all but oneself; then wait until si more have it. */
static const uint8_t shout_code[] = {
	0x66, 0xb9, 0x30, 0x08, 0x00, 0x00,	/* mov $0x830,%ecx */
	0x66, 0xb8, 0x41, 0x00, 0x0c, 0x00,	/* mov $0xc0041,%eax */
	0x66, 0x31, 0xd2, 0x0f, 0x30,		/* xor %edx,%edx; wrmsr */
	0x01, 0xf7,				/* add %si,%di */
	0xf3, 0x90, 0x39, 0x3e, 0xf0, 0x1f, 0x75, 0xf8, /* 1: pause; cmp %di,REACHED; jne 1b */
	0x4d, 0x75, 0xe2,			/* dec %bp; jnz */
	0xe6, 0x81, 0xf4,
};

static void place(struct machine *m, unsigned i, uint16_t rip, uint16_t di, uint16_t bp)
{
	struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct kvm_regs r = {
		.rip = rip, .rflags = 2, .rsp = STACKS + 64 * i + 64, .rbx = CELLS + 2 * i,
		.rsi = m->n - 1, .rdi = di, .rbp = bp,
	};

	MUST(call(m, m->cpu[i].fd, KVM_SET_REGS, &r) == 0);
	MUST(call(m, m->cpu[i].fd, KVM_SET_MP_STATE, &runnable) == 0);
}

static void add_cpu(struct machine *m, unsigned i)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 e;
	} id = { .head.nent = 1, .e = { .function = 1, .ecx = 1u << 21, .edx = 1u << 9 | 1u << 5 } };
	struct cpu *c = &m->cpu[i];
	struct kvm_lapic_state l;
	struct kvm_sregs sr;

	c->m = m;
	c->stop = false;
	c->fd = m->ops->ioctl(m->ctx, m->vm, KVM_CREATE_VCPU, i);
	MUST(c->fd >= 0);
	MUST(m->ops->mmap(m->ctx, c->fd, m->run_size, 0, (void **)&c->run) == 0);
	MUST(call(m, c->fd, KVM_SET_CPUID2, &id) == 0);
	MUST(call(m, c->fd, KVM_GET_SREGS, &sr) == 0);
	sr.cs.base = sr.cs.selector = 0;
	sr.apic_base |= 0xc00;
	MUST(call(m, c->fd, KVM_SET_SREGS, &sr) == 0);
	MUST(call(m, c->fd, KVM_GET_LAPIC, &l) == 0);
	l.regs[0xf1] |= 1;
	MUST(call(m, c->fd, KVM_SET_LAPIC, &l) == 0);
	place(m, i, MAIN, 0xffff, (uint16_t)((i + 1) % m->n));
}

static void machine_begin(struct machine *m, void *ctx, unsigned n)
{
	struct kvm_userspace_memory_region r = { .memory_size = MEM };

	*m = (struct machine){ .ctx = ctx, .ops = &softkvm_ops, .n = n };
	m->sys = m->ops->open(ctx);
	MUST(m->sys >= 0);
	m->vm = m->ops->ioctl(ctx, m->sys, KVM_CREATE_VM, 0);
	MUST(m->vm >= 0);
	MUST(m->ops->ioctl(ctx, m->vm, KVM_CREATE_IRQCHIP, 0) == 0);
	m->run_size = (size_t)m->ops->ioctl(ctx, m->sys, KVM_GET_VCPU_MMAP_SIZE, 0);
	m->mem = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	MUST(m->mem != MAP_FAILED);
	memcpy(m->mem + MAIN, main_code, sizeof(main_code));
	memcpy(m->mem + TOKEN, token_code, sizeof(token_code));
	memcpy(m->mem + ALL, all_code, sizeof(all_code));
	memcpy(m->mem + SHOUT, shout_code, sizeof(shout_code));
	store_le32(m->mem + 0x40 * 4, TOKEN);
	store_le32(m->mem + 0x41 * 4, ALL);
	r.userspace_addr = (uintptr_t)m->mem;
	MUST(call(m, m->vm, KVM_SET_USER_MEMORY_REGION, &r) == 0);
	for (unsigned i = 0; i < n; i++)
		add_cpu(m, i);
}

static void machine_end(struct machine *m)
{
	for (unsigned i = 0; i < m->n; i++) {
		m->ops->munmap(m->ctx, m->cpu[i].run, m->run_size);
		MUST(m->ops->close(m->ctx, m->cpu[i].fd) == 0);
	}
	MUST(m->ops->close(m->ctx, m->vm) == 0);
	MUST(m->ops->close(m->ctx, m->sys) == 0);
	munmap(m->mem, MEM);
}

static void *run_cpu(void *arg)
{
	struct cpu *c = arg;
	struct machine *m = c->m;

	while (!__atomic_load_n(&c->stop, __ATOMIC_SEQ_CST)) {
		int r = m->ops->ioctl(m->ctx, c->fd, KVM_RUN, 0);

		if (r == -EINTR)
			continue;
		if (!r && c->run->exit_reason == KVM_EXIT_IO && (c->run->io.port & ~1) == 0x80) {
			atomic_fetch_add(&m->outs[c->run->io.port & 1], 1);
			continue;
		}
		atomic_fetch_add(&m->strays, 1);
		break;
	}
	return NULL;
}

static void start(struct machine *m)
{
	pthread_attr_t a;

	pthread_attr_init(&a);
	pthread_attr_setstacksize(&a, 256 << 10);
	for (unsigned i = 0; i < m->n; i++)
		MUST(pthread_create(&m->cpu[i].thread, &a, run_cpu, &m->cpu[i]) == 0);
	pthread_attr_destroy(&a);
}

static void on_kick(int sig)
{
}

static void stop(struct machine *m)
{
	for (unsigned i = 0; i < m->n; i++) {
		__atomic_store_n(&m->cpu[i].stop, true, __ATOMIC_SEQ_CST);
		__atomic_store_n(&m->cpu[i].run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		pthread_kill(m->cpu[i].thread, SIGUSR1);
	}
	for (unsigned i = 0; i < m->n; i++) {
		pthread_join(m->cpu[i].thread, NULL);
		m->cpu[i].run->immediate_exit = 0;
		m->cpu[i].stop = false;
	}
	MUST(atomic_load(&m->strays) == 0);
}

/* How many interrupts have been counted. */
static unsigned counted(struct machine *m)
{
	unsigned n = __atomic_load_n((uint16_t *)(m->mem + REACHED), __ATOMIC_RELAXED);

	for (unsigned i = 0; i < m->n; i++)
		n += __atomic_load_n((uint16_t *)(m->mem + CELLS) + i, __ATOMIC_RELAXED);
	return n;
}

static void wait_for_out(struct machine *m, unsigned port)
{
	uint64_t deadline = clock_ns() + PATIENCE;
	unsigned last = counted(m);

	while (!atomic_load(&m->outs[port & 1]) && !atomic_load(&m->strays)) {
		unsigned now = counted(m);

		if (now != last)
			deadline = clock_ns() + PATIENCE;
		last = now;
		MUST(clock_ns() < deadline);
		usleep(100);
	}
	MUST(atomic_load(&m->outs[port & 1]) == 1);
}

/* vCPU 0 has the token `times` times, each other one a time less, no more. */
static void send_round(struct machine *m, uint16_t times)
{
	struct kvm_msi first = { .address_lo = 0xfee00000, .data = 0x40 };

	memset(m->mem + CELLS, 0, 2 * MANY);
	place(m, 0, MAIN, times, 1 % (uint16_t)m->n);
	atomic_store(&m->outs[0], 0);
	start(m);
	MUST(call(m, m->vm, KVM_SIGNAL_MSI, &first) == 1);
	wait_for_out(m, 0x80);
	stop(m);
	for (unsigned i = 0; i < m->n; i++)
		MUST(load_le16(m->mem + CELLS + 2 * i) == times - (i ? 1 : 0));
}

static size_t resident(void)
{
	unsigned long size = 0, pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%lu %lu", &size, &pages), 2);
	fclose(f);
	return pages * 4096;
}

static void *new_context(void)
{
	void *ctx;

	assert_int_equal(softkvm_create(&ctx, NULL), 0);
	return ctx;
}

/* ---- the tests ------------------------------------------------------------------- */

static void all_vcpus_of_a_big_vm_run(void **state)
{
	size_t before = resident();
	struct machine m;

	machine_begin(&m, new_context(), MANY);
	if (!SANITIZED)
		assert_true(resident() - before < MANY * (512u << 10));
	send_round(&m, 5);
	/* One shouts, all others answer; 20 times. */
	place(&m, 0, SHOUT, 0, 20);
	atomic_store(&m.outs[1], 0);
	start(&m);
	wait_for_out(&m, 0x81);
	stop(&m);
	assert_int_equal(load_le16(m.mem + REACHED), 20 * (MANY - 1));
	machine_end(&m);
	softkvm_destroy(m.ctx);
}

struct job {
	struct machine *m;
	uint16_t times;
};

static void *round_job(void *arg)
{
	struct job *j = arg;

	send_round(j->m, j->times);
	return NULL;
}

/* Several VMs, of one context and of two, at once; one more comes and goes meanwhile. */
static void vms_do_not_disturb_each_other(void **state)
{
	void *ctx[2] = { new_context(), new_context() };
	struct machine m[3], extra;
	struct job job[3];
	pthread_t t[3];

	for (unsigned i = 0; i < 3; i++) {
		machine_begin(&m[i], ctx[i / 2], 2 + i);
		job[i] = (struct job){ &m[i], (uint16_t)(300 + 100 * i) };
	}
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&t[i], NULL, round_job, &job[i]), 0);
	for (unsigned i = 0; i < 5; i++) {
		machine_begin(&extra, ctx[i % 2], 2);
		send_round(&extra, 10);
		machine_end(&extra);
	}
	for (unsigned i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	for (unsigned i = 0; i < 3; i++)
		machine_end(&m[i]);
	softkvm_destroy(ctx[0]);
	softkvm_destroy(ctx[1]);
}

/* With an irqfd and a doorbell, closed in any order, some left to the VM's end. */
static void come_and_go(void *ctx, unsigned round)
{
	struct kvm_irqfd irqfd = { .gsi = 5 };
	struct kvm_ioeventfd bell = { .addr = 0x300, .len = 2, .flags = KVM_IOEVENTFD_FLAG_PIO };
	struct machine m;
	int stats = -1;

	machine_begin(&m, ctx, 2);
	irqfd.fd = (uint32_t)eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	bell.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_int_equal(call(&m, m.vm, KVM_IRQFD, &irqfd), 0);
	assert_int_equal(call(&m, m.vm, KVM_IOEVENTFD, &bell), 0);
	if (!(round % 4))
		send_round(&m, 2);
	if (!(round % 3))
		stats = m.ops->ioctl(ctx, m.cpu[0].fd, KVM_GET_STATS_FD, 0);
	irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
	if (round % 2)
		assert_int_equal(call(&m, m.vm, KVM_IRQFD, &irqfd), 0);
	close((int)irqfd.fd);
	machine_end(&m);
	close(bell.fd);
	if (stats >= 0)
		close(stats);
}

static void vms_leave_nothing_behind(void **state)
{
	void *ctx = new_context();
	unsigned fds, n = SANITIZED ? rounds / 10 : rounds;
	size_t mem;

	/* What is made once and kept. */
	for (unsigned i = 0; i < 12; i++)
		come_and_go(ctx, i);
	fds = open_fds();
	mem = resident();
	for (unsigned i = 0; i < n; i++)
		come_and_go(ctx, i);
	assert_int_equal(open_fds(), fds);
	if (!SANITIZED) {
		size_t after = resident();

		printf("%u VMs: %zd KiB more\n", n, (ssize_t)(after - mem) / 1024);
		assert_true(after < mem + (4u << 20));
	}
	softkvm_destroy(ctx);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_vcpus_of_a_big_vm_run),
		cmocka_unit_test(vms_do_not_disturb_each_other),
		cmocka_unit_test(vms_leave_nothing_behind),
	};

	if (argc > 1)
		rounds = (unsigned)strtoul(argv[1], NULL, 0);
	signal(SIGUSR1, on_kick);
	return RUN(tests);
}
