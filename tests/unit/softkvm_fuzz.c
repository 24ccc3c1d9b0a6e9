/* SPDX-License-Identifier: MIT
 * Random calls with random arguments, on the right and on the wrong fds, while
 * eventfds are signalled and random guests run for moments: nothing may crash or
 * hang. The seed is printed; `softkvm_fuzz SEED ROUNDS` runs another, or more.
 */
#include "../lib/check.h"
#include "softkvm/softkvm.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#define CALLS 400
#define MEM   (1u << 20)

static const unsigned long requests[] = {
	KVM_IRQ_LINE, KVM_IRQ_LINE_STATUS, KVM_SIGNAL_MSI, KVM_IRQFD, KVM_IOEVENTFD, KVM_SET_GSI_ROUTING,
	KVM_SET_USER_MEMORY_REGION, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG, KVM_REGISTER_COALESCED_MMIO,
	KVM_UNREGISTER_COALESCED_MMIO, KVM_CHECK_EXTENSION, KVM_ENABLE_CAP, KVM_CREATE_DEVICE,
	KVM_CREATE_IRQCHIP, KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, KVM_CREATE_PIT2, KVM_GET_PIT, KVM_SET_PIT,
	KVM_GET_PIT2, KVM_SET_PIT2, KVM_REINJECT_CONTROL, KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR,
	KVM_SET_BOOT_CPU_ID, KVM_GET_CLOCK, KVM_SET_CLOCK, KVM_X86_SET_MSR_FILTER, KVM_GET_TSC_KHZ,
	KVM_INTERRUPT, KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS, KVM_GET_FPU, KVM_SET_FPU,
	KVM_GET_XSAVE, KVM_SET_XSAVE, KVM_GET_XCRS, KVM_SET_XCRS, KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS,
	KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, KVM_GET_MP_STATE, KVM_SET_MP_STATE, KVM_GET_LAPIC,
	KVM_SET_LAPIC, KVM_GET_MSRS, KVM_SET_MSRS, KVM_SET_CPUID2, KVM_GET_CPUID2, KVM_NMI,
	KVM_SET_SIGNAL_MASK, KVM_SET_GUEST_DEBUG, KVM_TRANSLATE, KVM_SET_TSC_KHZ, KVM_KVMCLOCK_CTRL,
	KVM_GET_NESTED_STATE, KVM_SET_NESTED_STATE, KVM_X86_SETUP_MCE, KVM_X86_SET_MCE, KVM_RUN, KVM_CREATE_VCPU,
};

struct fuzz {
	uint64_t state;
	void *ctx;
	int sys, fd[3]; /* VM and two vCPUs */
	int event[4];
	struct kvm_run *run[2];
	uint8_t *mem;
	uint64_t arg[1024];
};

static uint64_t rnd(struct fuzz *f)
{
	f->state ^= f->state << 13;
	f->state ^= f->state >> 7;
	f->state ^= f->state << 17;
	return f->state;
}

static void on_alarm(int sig)
{
}

/* All random, small numbers, mostly zeros, or zeros. */
static void fill(struct fuzz *f)
{
	unsigned how = rnd(f) % 4;

	for (unsigned i = 0; i < ARRAY_SIZE(f->arg); i++) {
		uint64_t a = rnd(f);

		f->arg[i] = how == 0 ? a : how == 1 ? a & 0xff : how == 2 && !(a & 3) ? a & 0xffff : 0;
	}
}

/* Make some of what would always be refused a little more likely to be taken. */
static void tame(struct fuzz *f, unsigned long request)
{
	struct kvm_userspace_memory_region *m = (void *)f->arg;
	struct kvm_irqfd *i = (void *)f->arg;

	switch (request) {
	case KVM_IRQFD:
		i->fd = (uint32_t)f->event[rnd(f) & 3];
		i->resamplefd = (uint32_t)f->event[rnd(f) & 3];
		i->gsi &= 31;
		i->flags &= 3;
		break;
	case KVM_IOEVENTFD:
		((struct kvm_ioeventfd *)f->arg)->fd = f->event[rnd(f) & 3];
		break;
	case KVM_SET_USER_MEMORY_REGION:
		m->userspace_addr = (uintptr_t)f->mem + (rnd(f) & 15) * 4096;
		m->memory_size &= 0xf000;
		m->guest_phys_addr &= 0xff000;
		m->slot &= 7;
		m->flags &= 3;
		break;
	case KVM_GET_DIRTY_LOG:
		((struct kvm_dirty_log *)f->arg)->dirty_bitmap = f->arg + 512;
		break;
	case KVM_CLEAR_DIRTY_LOG:
		((struct kvm_clear_dirty_log *)f->arg)->dirty_bitmap = f->arg + 512;
		break;
	case KVM_GET_MSRS:
	case KVM_SET_MSRS:
	case KVM_SET_CPUID2:
	case KVM_GET_CPUID2:
	case KVM_SET_GSI_ROUTING:
		*(uint32_t *)f->arg = rnd(f) % 40;
		break;
	}
}

/* A timer's signal ends a guest that runs, or waits, for ever. */
static void prepare_run(struct fuzz *f)
{
	const struct itimerval it = { { 0, 3000 }, { 0, 3000 } };

	for (unsigned i = 0; i < 64; i++)
		store_le64(f->mem + (rnd(f) & (MEM - 8)), rnd(f));
	for (unsigned i = 0; i < 2; i++)
		f->run[i]->immediate_exit = rnd(f) & 1;
	setitimer(ITIMER_REAL, &it, NULL);
}

static void one_call(struct fuzz *f)
{
	unsigned long request = requests[rnd(f) % ARRAY_SIZE(requests)];
	uintptr_t arg = rnd(f) & 31 ? (uintptr_t)f->arg : rnd(f);
	int fd = f->fd[rnd(f) % 3], r;

	fill(f);
	tame(f, request);
	if (request == KVM_RUN) {
		prepare_run(f);
		arg = 0;
	}
	if (request == KVM_CREATE_VCPU)
		arg = rnd(f) & 0x1fff;
	if (rnd(f) % 7 == 0)
		eventfd_write(f->event[rnd(f) & 3], 1);
	r = softkvm_ops.ioctl(f->ctx, fd, request, arg);
	if (request == KVM_CREATE_VCPU && r >= 0)
		assert_int_equal(softkvm_ops.close(f->ctx, r), 0);
}

static void one_vm(struct fuzz *f)
{
	struct kvm_userspace_memory_region m = {
		.memory_size = MEM, .userspace_addr = (uintptr_t)f->mem,
	};

	f->fd[0] = softkvm_ops.ioctl(f->ctx, f->sys, KVM_CREATE_VM, 0);
	assert_true(f->fd[0] >= 0);
	if (rnd(f) & 1)
		softkvm_ops.ioctl(f->ctx, f->fd[0], KVM_CREATE_IRQCHIP, 0);
	assert_int_equal(softkvm_ops.ioctl(f->ctx, f->fd[0], KVM_SET_USER_MEMORY_REGION, (uintptr_t)&m), 0);
	for (unsigned i = 0; i < 2; i++) {
		f->fd[1 + i] = softkvm_ops.ioctl(f->ctx, f->fd[0], KVM_CREATE_VCPU, i);
		assert_true(f->fd[1 + i] >= 0);
		assert_int_equal(softkvm_ops.mmap(f->ctx, f->fd[1 + i], 12288, 0, (void **)&f->run[i]), 0);
	}
	for (unsigned i = 0; i < CALLS; i++)
		one_call(f);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(softkvm_ops.munmap(f->ctx, f->run[i], 12288), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(softkvm_ops.close(f->ctx, f->fd[i]), 0);
}

static uint64_t first_seed = 1;
static unsigned rounds = 40;

static void test_random_calls(void **state)
{
	struct sigaction sa = { .sa_handler = on_alarm };
	const struct itimerval off = { 0 };
	struct fuzz *f = calloc(1, sizeof(*f));

	printf("seed %llu, %u VMs of %u calls\n", (unsigned long long)first_seed, rounds, CALLS);
	f->state = first_seed * 0x9e3779b97f4a7c15ull | 1;
	sigaction(SIGALRM, &sa, NULL);
	f->mem = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(f->mem != MAP_FAILED);
	assert_int_equal(softkvm_create(&f->ctx, NULL), 0);
	f->sys = softkvm_ops.open(f->ctx);
	for (unsigned i = 0; i < 4; i++)
		f->event[i] = eventfd(0, i & 1 ? EFD_NONBLOCK : 0);
	for (unsigned i = 0; i < rounds; i++)
		one_vm(f);
	setitimer(ITIMER_REAL, &off, NULL);
	softkvm_destroy(f->ctx);
	for (unsigned i = 0; i < 4; i++)
		close(f->event[i]);
	munmap(f->mem, MEM);
	free(f);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_random_calls) };

	if (argc > 1)
		first_seed = strtoull(argv[1], NULL, 0);
	if (argc > 2)
		rounds = (unsigned)strtoul(argv[2], NULL, 0);
	return RUN(tests);
}
