/* SPDX-License-Identifier: MIT
 * softkvm's parts by themselves: descriptor, buses, faults, fds, and what has
 * no counterpart in the kernel.
 */
#include "../lib/check.h"
#include "../lib/process.h"
#include "softkvm/cpuid.h"
#include "softkvm/grace.h"
#include "softkvm/iobus.h"
#include "softkvm/posted.h"
#include "softkvm/softkvm.h"
#include "softkvm/softkvm_priv.h"
#include "softkvm/tsc.h"
#include "softkvm/usercopy.h"
#include "softkvm/vcpu.h"
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/kvm_para.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- the descriptor ------------------------------------------------------------- */

static void test_posted_states(void **state)
{
	struct posted_desc d;
	uint32_t ndst = 0;
	uint8_t nv = 0;

	assert_int_equal(sizeof(d), 64);
	posted_init(&d);
	/* Not running: nobody is told, but nothing is lost. */
	assert_int_equal(posted_post(&d, 0x41, false, &nv, &ndst), POSTED_QUIET);
	assert_int_equal(posted_post(&d, 0x41, false, &nv, &ndst), POSTED_COALESCED);
	assert_true(posted_load(&d, 7));
	assert_int_equal(posted_post(&d, 0xff, false, &nv, &ndst), POSTED_QUIET); /* ON is set */
	assert_true(posted_begin_take(&d));
	assert_false(posted_begin_take(&d));
	assert_int_equal(d.pir[1], 1ull << 1);
	assert_int_equal(d.pir[3], 1ull << 63);
	memset(d.pir, 0, sizeof(d.pir));
	/* Running: the first one notifies. */
	assert_int_equal(posted_post(&d, 0x20, false, &nv, &ndst), POSTED_NOTIFY);
	assert_int_equal(nv, POSTED_NV_NOTIFY);
	assert_int_equal(ndst, 7);
	assert_int_equal(posted_post(&d, 0x21, false, &nv, &ndst), POSTED_QUIET);
	/* It may not block over an outstanding notification. */
	assert_false(posted_block(&d));
	assert_true(posted_begin_take(&d));
	memset(d.pir, 0, sizeof(d.pir));
	assert_true(posted_block(&d));
	assert_int_equal(posted_post(&d, 0x22, false, &nv, &ndst), POSTED_NOTIFY);
	assert_int_equal(nv, POSTED_NV_WAKEUP);
	posted_unblock(&d);
	assert_true(posted_begin_take(&d));
	memset(d.pir, 0, sizeof(d.pir));
	/* Suppressed, unless it is urgent. */
	posted_put(&d);
	assert_int_equal(posted_post(&d, 0x23, true, &nv, &ndst), POSTED_NOTIFY);
	assert_int_equal(nv, POSTED_NV_NOTIFY);
}

#define POSTS 200000

struct race {
	struct posted_desc d;
	_Atomic uint32_t wake;
	_Atomic bool blocked;
	_Atomic uint64_t posted, taken;
};

static void *poster(void *arg)
{
	struct race *r = arg;
	uint32_t ndst;
	uint8_t nv;

	for (unsigned i = 0; i < POSTS; i++) {
		/* One at a time in flight, so that each must be seen. Who takes it may wait for our CPU. */
		for (unsigned spins = 1; atomic_load(&r->posted) != atomic_load(&r->taken); spins++) {
			if (spins % 1024)
				__builtin_ia32_pause();
			else
				sched_yield();
		}
		atomic_fetch_add(&r->posted, 1);
		if (posted_post(&r->d, (uint8_t)(i * 7), false, &nv, &ndst) == POSTED_NOTIFY &&
		    nv == POSTED_NV_WAKEUP) {
			atomic_fetch_add(&r->wake, 1);
			if (atomic_load(&r->blocked))
				syscall(SYS_futex, &r->wake, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
		}
	}
	return NULL;
}

static unsigned take(struct race *r)
{
	unsigned n = 0;

	if (!posted_begin_take(&r->d))
		return 0;
	for (unsigned i = 0; i < 4; i++)
		n += (unsigned)__builtin_popcountll(__atomic_exchange_n(&r->d.pir[i], 0, __ATOMIC_SEQ_CST));
	return n;
}

/* The vCPU's side as in the run loop; a lost wake-up would hang it. */
static void test_posted_race(void **state)
{
	struct race *r = aligned_alloc(64, sizeof(*r));
	unsigned slept = 0;
	pthread_t t;

	memset(r, 0, sizeof(*r));
	posted_init(&r->d);
	assert_int_equal(pthread_create(&t, NULL, poster, r), 0);
	while (atomic_load(&r->taken) < POSTS) {
		(void)posted_load(&r->d, 1);
		atomic_fetch_add(&r->taken, take(r));
		if (slept % 3 == 0)
			posted_put(&r->d); /* a round without KVM_RUN */
		(void)posted_load(&r->d, 1);
		atomic_store(&r->blocked, true);
		for (;;) {
			const struct timespec patience = { .tv_sec = 60 };
			uint32_t seen = atomic_load(&r->wake);
			unsigned n;

			if (!posted_block(&r->d)) {
				n = take(r);
				atomic_fetch_add(&r->taken, n);
				if (n)
					break;
				continue;
			}
			if (atomic_load(&r->taken) == POSTS)
				break;
			slept++;
			if (syscall(SYS_futex, &r->wake, FUTEX_WAIT_PRIVATE, seen, &patience, NULL, 0) < 0 &&
			    errno == ETIMEDOUT)
				fail_msg("lost wake-up after %llu", (unsigned long long)r->taken);
			posted_unblock(&r->d);
		}
		atomic_store(&r->blocked, false);
		posted_unblock(&r->d);
	}
	pthread_join(t, NULL);
	assert_int_equal(atomic_load(&r->taken), POSTS);
	free(r);
}

/* ---- buses ------------------------------------------------------------------------ */

struct fake_device {
	struct iobus_device dev;
	unsigned writes;
	uint64_t refuse; /* a value it does not take */
};

static bool fake_write(struct iobus_device *d, uint64_t addr, unsigned len, uint64_t value, void *cpu)
{
	struct fake_device *f = container_of(d, struct fake_device, dev);

	if (value == f->refuse)
		return false;
	f->writes++;
	return true;
}

static const struct iobus_ops fake_ops = { .write = fake_write, .counted = true };

static void add(struct iobus *b, struct fake_device *f, uint64_t addr, uint32_t len)
{
	*f = (struct fake_device){ .dev = { addr, len, &fake_ops }, .refuse = 99 };
	assert_int_equal(iobus_add(b, &f->dev), 0);
}

static void test_bus(void **state)
{
	struct fake_device wide, inner, any, last;
	struct grace g;
	struct iobus b;
	uint64_t v;

	grace_init(&g);
	assert_int_equal(iobus_init(&b, &g), 0);
	assert_false(iobus_write(&b, 0, 1, 0, NULL));
	add(&b, &wide, 0x1000, 0x1000);
	add(&b, &inner, 0x1800, 4);
	add(&b, &any, 0x1900, 0);
	add(&b, &last, UINT64_MAX, 1);
	/* Beside, across and inside. */
	assert_false(iobus_write(&b, 0xfff, 1, 0, NULL));
	assert_false(iobus_write(&b, 0x1fff, 2, 0, NULL));
	assert_true(iobus_write(&b, 0x1fff, 1, 0, NULL));
	assert_true(iobus_write(&b, UINT64_MAX, 1, 0, NULL));
	assert_false(iobus_write(&b, UINT64_MAX, 2, 0, NULL));
	/* One that refuses leaves it to the next. */
	wide.refuse = 5;
	assert_true(iobus_write(&b, 0x1800, 4, 5, NULL));
	assert_int_equal(inner.writes, 1);
	assert_true(iobus_write(&b, 0x1900, 8, 5, NULL));
	assert_int_equal(any.writes, 1);
	assert_false(iobus_write(&b, 0x1901, 1, 5, NULL));
	/* Nobody reads. */
	assert_false(iobus_read(&b, 0x1800, 4, &v, NULL));
	/* What lies before a removed one is still found, and so is what a long one hid. */
	iobus_remove(&b, &wide.dev);
	iobus_remove(&b, &wide.dev);
	assert_false(iobus_write(&b, 0x1700, 1, 0, NULL));
	assert_true(iobus_write(&b, 0x1802, 2, 0, NULL));
	assert_false(iobus_write(&b, 0x1802, 4, 0, NULL));
	iobus_remove(&b, &inner.dev);
	iobus_remove(&b, &any.dev);
	iobus_remove(&b, &last.dev);
	assert_false(iobus_write(&b, 0x1900, 1, 0, NULL));
	iobus_destroy(&b);
	grace_destroy(&g);
}

struct reader {
	struct iobus *b;
	_Atomic bool stop;
	unsigned long looks;
};

static void *reader(void *arg)
{
	struct reader *r = arg;

	while (!atomic_load(&r->stop)) {
		(void)iobus_write(r->b, 0x10, 1, 0, NULL);
		r->looks++;
	}
	return NULL;
}

/* A removed device's memory is the caller's again at once: asan sees a reader that is late. */
static void test_bus_removal_race(void **state)
{
	struct reader r = { 0 };
	struct grace g;
	struct iobus b;
	pthread_t t;

	grace_init(&g);
	assert_int_equal(iobus_init(&b, &g), 0);
	r.b = &b;
	assert_int_equal(pthread_create(&t, NULL, reader, &r), 0);
	for (unsigned i = 0; i < 500; i++) {
		struct fake_device *f = malloc(sizeof(*f));

		add(&b, f, 0x10, 1);
		iobus_remove(&b, &f->dev);
		memset(f, 0x5a, sizeof(*f));
		free(f);
	}
	atomic_store(&r.stop, true);
	pthread_join(t, NULL);
	iobus_destroy(&b);
	grace_destroy(&g);
}

/* ---- faults --------------------------------------------------------------------------- */

static void test_copies(void **state)
{
	uint8_t *two = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t buf[4096];

	usercopy_init(0);
	assert_int_equal(mprotect(two + 4096, 4096, PROT_NONE), 0);
	memset(two, 7, 4096);
	for (size_t n = 0; n < 70; n++) {
		memset(buf, 0, sizeof(buf));
		assert_int_equal(copy_from_user(buf, (uintptr_t)two + 4096 - n, n), 0);
		assert_int_equal(n ? buf[n - 1] : 0, n ? 7 : 0);
		assert_int_equal(buf[n], 0);
		assert_int_equal(copy_from_user(buf, (uintptr_t)two + 4096 - n, n + 1), -EFAULT);
	}
	assert_int_equal(copy_from_user(buf, (uintptr_t)two, 4096), 0);
	assert_int_equal(copy_to_user((uintptr_t)two + 1, buf, 4096), -EFAULT);
	assert_int_equal(copy_from_user(buf, 0, 1), -EFAULT);
	assert_int_equal(copy_from_user(buf, 0x8000000000000000ull, 8), -EFAULT); /* not canonical */
	assert_int_equal(copy_to_user(0xffffffff81000000ull, buf, 8), -EFAULT);
	two[0] = 0x0f;
	assert_int_equal(user_set_bits8(two, 0x30), 0x0f);
	assert_int_equal(user_clear_bits8(two, 0x01), 0x3f);
	assert_int_equal(two[0], 0x3e);
	assert_int_equal(user_set_bits8(two + 4096, 1), -EFAULT);
	munmap(two, 8192);
}

/* ---- fds -------------------------------------------------------------------------------- */

static int call(void *ctx, int fd, unsigned long request, uintptr_t arg)
{
	return softkvm_ops.ioctl(ctx, fd, request, arg);
}

/* Everything is closed with close(2), behind softkvm's back; nothing is left. */
static void test_fds_closed_outside(void **state)
{
	unsigned before = open_fds();
	int sys, vm, cpu;
	void *ctx, *run;

	assert_int_equal(softkvm_create(&ctx, NULL), 0);
	for (unsigned round = 0; round < 3; round++) {
		sys = softkvm_ops.open(ctx);
		vm = call(ctx, sys, KVM_CREATE_VM, 0);
		cpu = call(ctx, vm, KVM_CREATE_VCPU, 0);
		assert_true(sys >= 0 && vm >= 0 && cpu >= 0);
		assert_true(softkvm_owns_fd(ctx, cpu));
		assert_int_equal(softkvm_ops.mmap(ctx, cpu, 12288, 0, &run), 0);
		close(sys);
		close(vm);
		close(cpu);
		assert_false(softkvm_owns_fd(ctx, cpu));
		/* The mapping alone keeps the vCPU, and the VM. */
		assert_int_equal(((struct kvm_run *)run)->exit_reason, 0);
		assert_int_equal(softkvm_ops.munmap(ctx, run, 12288), 0);
		assert_int_equal(open_fds(), before);
	}
	softkvm_destroy(ctx);
	assert_int_equal(open_fds(), before);
}

/* A number that was closed outside and is another file now is not taken for the old one. */
static void test_reused_number(void **state)
{
	void *ctx;
	int sys, vm, other;

	assert_int_equal(softkvm_create(&ctx, NULL), 0);
	sys = softkvm_ops.open(ctx);
	vm = call(ctx, sys, KVM_CREATE_VM, 0);
	close(vm);
	other = eventfd(0, 0);
	assert_int_equal(other, vm);
	assert_int_equal(call(ctx, other, KVM_CHECK_EXTENSION, 0), -ENOTTY);
	vm = call(ctx, sys, KVM_CREATE_VM, 0);
	assert_true(vm >= 0 && vm != other);
	assert_int_equal(call(ctx, vm, KVM_CREATE_IRQCHIP, 0), 0);
	close(other);
	/* Destroyed with things open: closes them. */
	softkvm_destroy(ctx);
	assert_int_equal(fcntl(vm, F_GETFD), -1);
	assert_int_equal(fcntl(sys, F_GETFD), -1);
}

static void *publish(void *ctx)
{
	(void)!softkvm_ops.open(ctx);
	return NULL;
}

/* Somebody looks a number up; whoever wants to change the table is next, before others that look. */
static void test_table_changes_go_first(void **state)
{
	const struct timespec nap = { .tv_nsec = 1000000 };
	unsigned looks = 0;
	pthread_rwlock_t *lock;
	pthread_t t;
	void *ctx;

	assert_int_equal(softkvm_create(&ctx, NULL), 0);
	lock = &((struct softkvm *)ctx)->fds.lock;
	assert_int_equal(pthread_rwlock_rdlock(lock), 0);
	assert_int_equal(pthread_create(&t, NULL, publish, ctx), 0);
	/* The thread comes to the lock some time; from then on nobody else may look. */
	for (; looks < 60000 && !pthread_rwlock_tryrdlock(lock); looks++) {
		pthread_rwlock_unlock(lock);
		nanosleep(&nap, NULL);
	}
	pthread_rwlock_unlock(lock);
	assert_int_equal(pthread_join(t, NULL), 0);
	assert_true(looks < 60000);
	softkvm_destroy(ctx);
}

/* Two contexts know nothing of each other. */
static void test_two_contexts(void **state)
{
	void *a, *b;
	int sa, vm;

	assert_int_equal(softkvm_create(&a, NULL), 0);
	assert_int_equal(softkvm_create(&b, NULL), 0);
	sa = softkvm_ops.open(a);
	vm = call(a, sa, KVM_CREATE_VM, 0);
	assert_true(vm >= 0);
	assert_int_equal(call(b, vm, KVM_CHECK_EXTENSION, 0), -ENOTTY);
	assert_false(softkvm_owns_fd(b, vm));
	softkvm_destroy(b);
	assert_int_equal(call(a, vm, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP), 1);
	softkvm_destroy(a);
	softkvm_destroy(NULL);
}

/* As many vCPUs as are promised, and not one more. */
static void test_many_vcpus(void **state)
{
	void *ctx;
	int sys, vm, max, fd = 0;

	assert_int_equal(softkvm_create(&ctx, NULL), 0);
	sys = softkvm_ops.open(ctx);
	vm = call(ctx, sys, KVM_CREATE_VM, 0);
	assert_int_equal(call(ctx, vm, KVM_CREATE_IRQCHIP, 0), 0);
	max = call(ctx, vm, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
	for (int i = 0; i < max && fd >= 0; i++) {
		fd = call(ctx, vm, KVM_CREATE_VCPU, (uintptr_t)i);
		if (fd == -EMFILE)
			break; /* the limit of this process, not ours */
		assert_true(fd >= 0);
		close(fd);
	}
	if (fd >= 0)
		assert_int_equal(call(ctx, vm, KVM_CREATE_VCPU, (uintptr_t)max), -EINVAL);
	softkvm_destroy(ctx);
}

struct guest {
	uint8_t *mem;
	struct kvm_run *run;
	void *ctx;
	int vm, cpu;
};

/* A vCPU without chips at 1000h of 64 KiB, in real mode. */
static void guest_create(struct guest *g, bool no_apicv, const uint8_t *code, size_t len)
{
	struct kvm_userspace_memory_region slot = { .memory_size = 0x10000 };
	struct kvm_regs r = { .rip = 0x1000, .rflags = 2, .rsp = 0x8000 };
	struct softkvm_config c;
	struct kvm_sregs sr;
	int sys;

	g->mem = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(g->mem != MAP_FAILED);
	slot.userspace_addr = (uintptr_t)g->mem;
	softkvm_config_init(&c, false);
	c.no_apicv = no_apicv;
	assert_int_equal(softkvm_create(&g->ctx, &c), 0);
	sys = softkvm_ops.open(g->ctx);
	g->vm = call(g->ctx, sys, KVM_CREATE_VM, 0);
	assert_int_equal(call(g->ctx, g->vm, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&slot), 0);
	g->cpu = call(g->ctx, g->vm, KVM_CREATE_VCPU, 0);
	assert_int_equal(softkvm_ops.mmap(g->ctx, g->cpu, 12288, 0, (void **)&g->run), 0);
	memcpy(g->mem + 0x1000, code, len);
	assert_int_equal(call(g->ctx, g->cpu, KVM_GET_SREGS, (uintptr_t)&sr), 0);
	sr.cs.base = sr.cs.selector = 0;
	assert_int_equal(call(g->ctx, g->cpu, KVM_SET_SREGS, (uintptr_t)&sr), 0);
	assert_int_equal(call(g->ctx, g->cpu, KVM_SET_REGS, (uintptr_t)&r), 0);
}

static void guest_destroy(struct guest *g)
{
	softkvm_ops.munmap(g->ctx, g->run, 12288);
	softkvm_destroy(g->ctx);
	munmap(g->mem, 0x10000);
}

/* A guest without a way out ends as a shutdown; apicv off makes no difference to what is seen. */
static void test_shutdown(void **state)
{
	static const uint8_t code[] = { 0x0f, 0x01, 0x1e, 0x00, 0x50, 0xcc }; /* lidt 0x5000; int3 */
	struct guest g;

	guest_create(&g, true, code, sizeof(code));
	assert_int_equal(call(g.ctx, g.cpu, KVM_RUN, 0), 0);
	assert_int_equal(g.run->exit_reason, KVM_EXIT_SHUTDOWN);
	guest_destroy(&g);
}

static void test_guest_debug(void **state)
{
	static const uint8_t code[] = { 0x90, 0x40, 0x40, 0xcc, 0xf4 }; /* nop; inc; inc; int3; hlt */
	static const uint64_t after[] = { 0x1001, 0x1002, 0x1003 };
	struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP |
						KVM_GUESTDBG_USE_SW_BP };
	struct guest g;

	guest_create(&g, false, code, sizeof(code));
	assert_int_equal(call(g.ctx, g.cpu, KVM_SET_GUEST_DEBUG, (uintptr_t)&d), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(after); i++) {
		assert_int_equal(call(g.ctx, g.cpu, KVM_RUN, 0), 0);
		assert_int_equal(g.run->exit_reason, KVM_EXIT_DEBUG);
		assert_int_equal(g.run->debug.arch.exception, 1);
		assert_int_equal(g.run->debug.arch.pc, after[i]);
		assert_true(g.run->debug.arch.dr6 & 1 << 14);
	}
	assert_int_equal(call(g.ctx, g.cpu, KVM_RUN, 0), 0);
	assert_int_equal(g.run->exit_reason, KVM_EXIT_DEBUG);
	assert_int_equal(g.run->debug.arch.exception, 3);
	assert_int_equal(g.run->debug.arch.pc, 0x1003);
	/* Hardware breakpoints: on the hlt, and with them DR6 and DR7 as the processor's. */
	d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
	d.arch.debugreg[1] = 0x1004;
	d.arch.debugreg[7] = 0x404;
	g.mem[0x1003] = 0x90;
	assert_int_equal(call(g.ctx, g.cpu, KVM_SET_GUEST_DEBUG, (uintptr_t)&d), 0);
	assert_int_equal(call(g.ctx, g.cpu, KVM_RUN, 0), 0);
	assert_int_equal(g.run->exit_reason, KVM_EXIT_DEBUG);
	assert_int_equal(g.run->debug.arch.exception, 1);
	assert_int_equal(g.run->debug.arch.pc, 0x1004);
	assert_int_equal(g.run->debug.arch.dr6, 0xffff0ff2);
	assert_int_equal(g.run->debug.arch.dr7, 0x404);
	guest_destroy(&g);
}

/* While user space steps the trap flag is its own, and the guest's is gone with the stepping. */
static void test_guest_debug_takes_tf(void **state)
{
	struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE };
	struct kvm_regs r;
	struct guest g;

	guest_create(&g, false, (const uint8_t[]){ 0x90 }, 1);
	assert_int_equal(call(g.ctx, g.cpu, KVM_GET_REGS, (uintptr_t)&r), 0);
	r.rflags = 0x102;
	assert_int_equal(call(g.ctx, g.cpu, KVM_SET_REGS, (uintptr_t)&r), 0);
	for (unsigned stepping = 0; stepping < 3; stepping++) {
		d.control = stepping == 1 ? KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP : 0;
		assert_int_equal(call(g.ctx, g.cpu, KVM_SET_GUEST_DEBUG, (uintptr_t)&d), 0);
		assert_int_equal(call(g.ctx, g.cpu, KVM_GET_REGS, (uintptr_t)&r), 0);
		assert_int_equal(r.rflags, stepping ? 0x2 : 0x102);
	}
	guest_destroy(&g);
}

/* An exception that is pending belongs to the registers that are there. */
static void test_new_registers_drop_pending(void **state)
{
	struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_DB };
	struct kvm_vcpu_events e;
	struct kvm_regs r;
	struct guest g;

	guest_create(&g, false, (const uint8_t[]){ 0x90 }, 1);
	assert_int_equal(call(g.ctx, g.cpu, KVM_SET_GUEST_DEBUG, (uintptr_t)&d), 0);
	assert_int_equal(call(g.ctx, g.cpu, KVM_GET_VCPU_EVENTS, (uintptr_t)&e), 0);
	assert_true(e.exception.injected);
	assert_int_equal(call(g.ctx, g.cpu, KVM_GET_REGS, (uintptr_t)&r), 0);
	assert_int_equal(call(g.ctx, g.cpu, KVM_SET_REGS, (uintptr_t)&r), 0);
	assert_int_equal(call(g.ctx, g.cpu, KVM_GET_VCPU_EVENTS, (uintptr_t)&e), 0);
	assert_false(e.exception.injected);
	guest_destroy(&g);
}

/* The memory behind a slot is gone: the caller's mistake may end the run, but not the process. */
static void test_slot_without_memory(void **state)
{
	static const uint8_t code[] = { 0xa0, 0x00, 0x90, 0xf4 }; /* mov 0x9000,%al; hlt */
	struct guest g;
	int r;

	guest_create(&g, false, code, sizeof(code));
	assert_int_equal(mprotect(g.mem + 0x9000, 4096, PROT_NONE), 0);
	r = call(g.ctx, g.cpu, KVM_RUN, 0);
	assert_true(r == -EFAULT || !r);
	guest_destroy(&g);
}

/* An interrupt that comes between KVM_GET_LAPIC and KVM_SET_LAPIC is not lost. */
static void test_set_lapic_keeps_posted(void **state)
{
	struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x41 };
	struct kvm_lapic_state l;
	void *ctx;
	int sys, vm, cpu;

	assert_int_equal(softkvm_create(&ctx, NULL), 0);
	sys = softkvm_ops.open(ctx);
	vm = call(ctx, sys, KVM_CREATE_VM, 0);
	assert_int_equal(call(ctx, vm, KVM_CREATE_IRQCHIP, 0), 0);
	cpu = call(ctx, vm, KVM_CREATE_VCPU, 0);
	assert_int_equal(call(ctx, cpu, KVM_GET_LAPIC, (uintptr_t)&l), 0);
	l.regs[0xf1] |= 1;
	assert_int_equal(call(ctx, cpu, KVM_SET_LAPIC, (uintptr_t)&l), 0);
	assert_int_equal(call(ctx, cpu, KVM_GET_LAPIC, (uintptr_t)&l), 0);
	assert_int_equal(call(ctx, vm, KVM_SIGNAL_MSI, (uintptr_t)&msi), 1);
	assert_int_equal(call(ctx, cpu, KVM_SET_LAPIC, (uintptr_t)&l), 0);
	assert_int_equal(call(ctx, cpu, KVM_GET_LAPIC, (uintptr_t)&l), 0);
	assert_int_equal(load_le32(l.regs + 0x220), 1 << 1);
	softkvm_destroy(ctx);
}

static void test_pvclock_scale(void **state)
{
	static const uint32_t khz[] = { 1000, 999999, 1000000, 2100000, 2445424, 5000000, 1 };

	for (unsigned i = 0; i < ARRAY_SIZE(khz); i++) {
		uint64_t cycles = (uint64_t)khz[i] * 1000; /* a second */
		int8_t shift;
		uint32_t mul;
		uint64_t ns;

		tsc_pvclock_scale(khz[i], &mul, &shift);
		cycles = shift < 0 ? cycles >> -shift : cycles << shift;
		ns = (uint64_t)((unsigned __int128)cycles * mul >> 32);
		assert_in_range(ns, NSEC_PER_SEC - 1000, NSEC_PER_SEC + 1000);
		assert_in_range(tsc_to_ns((uint64_t)khz[i] * 1000, khz[i]), NSEC_PER_SEC, NSEC_PER_SEC);
	}
	/* A deadline centuries away does not wrap. */
	assert_true(tsc_to_ns(UINT64_MAX, 2100000) > NSEC_PER_SEC * 86400);
}

/* A halted vCPU polls only while that has been of use. */
static void test_halt_poll(void **state)
{
	uint64_t w = 0;

	/* Long waits: never. */
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(w = halt_poll_next(w, 200000, 20000), 0);
	/* Short ones: until it polls long enough for them, and then as long. */
	for (unsigned i = 0; i < 10; i++)
		w = halt_poll_next(w, 9000, 20000);
	assert_int_equal(w, 10000);
	/* Never longer than allowed; the first long wait ends it. */
	for (unsigned i = 0; i < 10; i++)
		assert_true((w = halt_poll_next(w, 19999, 20000)) <= 20000);
	assert_int_equal(w, 20000);
	assert_int_equal(halt_poll_next(w, 20001, 20000), 0);
	/* Switched off. */
	assert_int_equal(halt_poll_next(20000, 10, 0), 0);
	assert_int_equal(halt_poll_next(0, 0, 0), 0);
}

/* A guest is told that it needs no barriers of its own (docs/SOFTKVM.md, "Barriers"). */
static void test_cpuid_no_barriers(void **state)
{
	struct kvm_cpuid_entry2 e[64];
	int n = cpuid_supported(e, ARRAY_SIZE(e)), found = 0;

	assert_true(n > 0);
	for (int i = 0; i < n; i++) {
		if (e[i].function == 0x80000000)
			assert_int_equal(e[i].eax, 0x80000021);
		if (e[i].function != 0x80000021)
			continue;
		found++;
		assert_int_equal(e[i].eax, 1u << 29);
		assert_int_equal(e[i].ecx, 1u << 1 | 1u << 2);
		assert_int_equal(e[i].ebx | e[i].edx, 0);
	}
	assert_int_equal(found, 1);
	assert_int_equal(cpuid_supported(e, (unsigned)n - 1), -E2BIG);
}

/* 0 on a kernel that does not tell. */
static uint64_t run_delay(void)
{
	unsigned long long ran, waited;
	FILE *f = fopen("/proc/thread-self/schedstat", "r");

	if (!f)
		return 0;
	if (fscanf(f, "%llu %llu", &ran, &waited) != 2)
		waited = 0;
	fclose(f);
	return waited;
}

/* Let others have the CPU until they had it for 200 us. False: nobody counts that. */
static bool be_stolen_from(void)
{
	uint64_t since = run_delay(), until = clock_ns() + 20 * NSEC_PER_SEC;

	while (run_delay() - since < 200000 && clock_ns() < until)
		sched_yield();
	return run_delay() - since >= 200000;
}

static void *work_and_yield(void *arg)
{
	while (!atomic_load((_Atomic bool *)arg)) {
		uint64_t until = clock_ns() + 50000;

		while (clock_ns() < until)
			;
		sched_yield();
	}
	return NULL;
}

/* What was stolen between two runs is told by the second, however soon after the first. */
static void test_steal(void **state)
{
	static const uint8_t code[] = { 0xe6, 0x80, 0xeb, 0xfc }; /* out %al,$0x80, again and again */
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e;
	} m = { { 1, 0 }, { .index = MSR_KVM_STEAL_TIME, .data = 0x4000 | KVM_MSR_ENABLED } };
	_Atomic bool stop = false;
	bool counted = true;
	cpu_set_t old, one;
	pthread_t thread;
	struct guest g;

	assert_int_equal(sched_getaffinity(0, sizeof(old), &old), 0);
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	guest_create(&g, false, code, sizeof(code));
	assert_int_equal(call(g.ctx, g.cpu, KVM_SET_MSRS, (uintptr_t)&m), 1);
	assert_int_equal(pthread_create(&thread, NULL, work_and_yield, (void *)&stop), 0); /* on the same CPU */
	for (unsigned i = 0; i < 50 && counted; i++) {
		uint64_t told, since;

		assert_int_equal(call(g.ctx, g.cpu, KVM_RUN, 0), 0);
		told = load_le64(g.mem + 0x4000);
		since = run_delay();
		counted = be_stolen_from();
		since = run_delay() - since;
		assert_int_equal(call(g.ctx, g.cpu, KVM_RUN, 0), 0);
		assert_true(load_le64(g.mem + 0x4000) - told >= since);
	}
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	guest_destroy(&g);
	assert_int_equal(sched_setaffinity(0, sizeof(old), &old), 0);
	if (!counted)
		skip();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_posted_states), cmocka_unit_test(test_posted_race),
		cmocka_unit_test(test_bus), cmocka_unit_test(test_bus_removal_race),
		cmocka_unit_test(test_copies), cmocka_unit_test(test_fds_closed_outside),
		cmocka_unit_test(test_reused_number), cmocka_unit_test(test_two_contexts),
		cmocka_unit_test(test_table_changes_go_first),
		cmocka_unit_test(test_many_vcpus), cmocka_unit_test(test_shutdown),
		cmocka_unit_test(test_guest_debug),
		cmocka_unit_test(test_guest_debug_takes_tf),
		cmocka_unit_test(test_new_registers_drop_pending), cmocka_unit_test(test_slot_without_memory),
		cmocka_unit_test(test_set_lapic_keeps_posted), cmocka_unit_test(test_pvclock_scale),
		cmocka_unit_test(test_halt_poll), cmocka_unit_test(test_cpuid_no_barriers),
		cmocka_unit_test(test_steal),
	};

	return RUN(tests);
}
