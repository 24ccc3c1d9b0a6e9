/* SPDX-License-Identifier: MIT
 * A doorbell is rung with the guest's SIMD state in the processor (engine.h,
 * engine_ops.ring): the guest finds its registers as they were, and what cannot be
 * rung so goes the long way.
 */
#include "../lib/check.h"
#include "../lib/kvm_stat.h"
#include "monitor/bare.h"
#include "softkvm/softkvm.h"
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CODE	 0x30000u
#define DATA	 0x31000u
#define PORT	0x700u
#define TIMES	 1000u
#define CR4_OSFXSR (1u << 9)

/* RSI: sixteen values for XMM0 to XMM15, then where they go in the end; RDI: the doorbell in memory. */
__asm__(".pushsection .rodata\n"
	"ring_code:\n"
	".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
	"movdqu \\n * 16(%rsi), %xmm\\n\n"
	".endr\n"
	"1: mov %bx, (%rdi)\n"
	"mov $0x700, %dx\n"
	"mov %ebx, %eax\n"
	"out %ax, %dx\n"
	"paddq %xmm0, %xmm1\n"
	"dec %rcx\n"
	"jnz 1b\n"
	".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
	"movdqu %xmm\\n, 256 + \\n * 16(%rsi)\n"
	".endr\n"
	"out %al, $0xe0\n" /* BARE_PORT_DONE */
	"ring_code_end:\n"
	".popsection\n");
extern const uint8_t ring_code[], ring_code_end[];

struct bed {
	struct kvmapi api;
	struct bare b;
	int stats;
};

static void setup(struct bed *t)
{
	struct err err;

	*t = (struct bed){ .api.ops = &softkvm_ops };
	assert_int_equal(softkvm_create(&t->api.ctx, NULL), 0);
	if (bare_create(&t->b, &t->api, 1, true, &err))
		fail_msg("%s", err.text);
	memcpy(t->b.mem + CODE, ring_code, (size_t)(ring_code_end - ring_code));
	t->stats = t->api.ops->ioctl(t->api.ctx, t->b.cpus[0].fd, KVM_GET_STATS_FD, 0);
	assert_true(t->stats >= 0);
}

static void teardown(struct bed *t)
{
	close(t->stats);
	bare_destroy(&t->b);
	softkvm_destroy(t->api.ctx);
}

static int bell(struct bed *t, bool pio, uint64_t address, int flags)
{
	struct vm_doorbell d = { .pio = pio, .len = 2, .address = address };

	d.fd = eventfd(0, EFD_CLOEXEC | flags);
	assert_true(d.fd >= 0);
	assert_int_equal(vm_bind_ioeventfd(&t->b.vm, &d), 0);
	return d.fd;
}

/* Ring both `times`; returns how many accesses left to user space on the way. */
static unsigned ring(struct bed *t, uint64_t where, uint16_t value, unsigned times)
{
	struct kvm_run *run = t->b.cpus[0].run;
	struct kvm_sregs s;
	struct kvm_regs r;
	unsigned left = 0;

	assert_int_equal(bare_set(&t->b, 0, BARE_CLI_HALT, 0, 0), 0);
	assert_int_equal(vcpu_get_sregs(&t->b.cpus[0], &s), 0);
	s.cr4 |= CR4_OSFXSR;
	assert_int_equal(vcpu_set_sregs(&t->b.cpus[0], &s), 0);
	assert_int_equal(vcpu_get_regs(&t->b.cpus[0], &r), 0);
	r.rip = CODE;
	r.rsi = DATA;
	r.rdi = where;
	r.rbx = value;
	r.rcx = times;
	assert_int_equal(vcpu_set_regs(&t->b.cpus[0], &r), 0);
	for (unsigned i = 0; i < 256; i++)
		t->b.mem[DATA + i] = (uint8_t)(17 * i + 3);
	for (;; left++) {
		assert_int_equal(vcpu_run(&t->b.cpus[0]), 0);
		if (run->exit_reason == KVM_EXIT_IO && run->io.port == BARE_PORT_DONE)
			break;
		assert_true(run->exit_reason == KVM_EXIT_MMIO || run->exit_reason == KVM_EXIT_IO);
	}
	return left;
}

static uint64_t take(int fd)
{
	eventfd_t n = 0;

	assert_int_equal(eventfd_read(fd, &n), 0);
	return n;
}

/* As they were, and XMM1 has XMM0 added `times`. */
static void check_registers(struct bed *t, unsigned times)
{
	const uint8_t *in = t->b.mem + DATA, *out = in + 256;

	for (unsigned i = 0; i < 16; i++)
		if (i != 1)
			assert_memory_equal(in + 16 * i, out + 16 * i, 16);
	for (unsigned k = 0; k < 2; k++)
		assert_int_equal(load_le64(out + 16 + 8 * k), load_le64(in + 16 + 8 * k) + times * load_le64(in + 8 * k));
}

static void test_registers(void **state)
{
	struct bed t;
	int mmio, pio;

	setup(&t);
	mmio = bell(&t, false, BARE_MMIO, EFD_NONBLOCK);
	pio = bell(&t, true, PORT, EFD_NONBLOCK);
	assert_int_equal(ring(&t, BARE_MMIO, 7, TIMES), 0);
	check_registers(&t, TIMES);
	assert_int_equal(take(mmio), TIMES);
	assert_int_equal(take(pio), TIMES);
	assert_int_equal(kvm_stat(t.stats, "mmio_bus_hits"), TIMES);
	assert_int_equal(kvm_stat(t.stats, "io_bus_hits"), TIMES);
	close(mmio);
	close(pio);
	teardown(&t);
}

/* One that blocks is not waited for: its count is full, and the guest goes on all the same. */
static void test_full(void **state)
{
	static const int flags[] = { EFD_NONBLOCK, 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(flags); i++) {
		struct bed t;
		int mmio, pio;

		setup(&t);
		mmio = bell(&t, false, BARE_MMIO, flags[i]);
		pio = bell(&t, true, PORT, flags[i]);
		assert_int_equal(eventfd_write(mmio, UINT64_MAX - 1 - 3), 0);
		assert_int_equal(ring(&t, BARE_MMIO, 7, 10), 0);
		check_registers(&t, 10);
		assert_int_equal(take(mmio), UINT64_MAX - 1);
		assert_int_equal(take(pio), 10);
		close(mmio);
		close(pio);
		teardown(&t);
	}
}

/* By its value; what no bell takes, or what one beside it takes, goes on as ever. */
static void test_match(void **state)
{
	struct bed t;
	int pio;
	struct vm_doorbell d = { .len = 2, .match = true, .address = BARE_MMIO, .data = 7 };
	struct vm_doorbell e = { .len = 2, .match = true, .address = BARE_MMIO, .data = 8 };

	setup(&t);
	pio = bell(&t, true, PORT, EFD_NONBLOCK);
	d.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	e.fd = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(vm_bind_ioeventfd(&t.b.vm, &d), 0);
	assert_int_equal(vm_bind_ioeventfd(&t.b.vm, &e), 0);
	assert_int_equal(ring(&t, BARE_MMIO, 7, 5), 0);
	assert_int_equal(take(d.fd), 5);
	assert_int_equal(ring(&t, BARE_MMIO, 8, 6), 0);
	assert_int_equal(take(e.fd), 6);
	assert_int_equal(ring(&t, BARE_MMIO, 9, 7), 7);
	check_registers(&t, 7);
	assert_int_equal(take(pio), 18);
	/* A coalesced zone over it takes the rest. */
	assert_int_equal(vm_coalesce(&t.b.vm, false, BARE_MMIO, 16), 0);
	assert_int_equal(ring(&t, BARE_MMIO, 9, 4), 0);
	assert_int_equal(take(pio), 4);
	/* Unbound it is none any more. */
	assert_int_equal(vm_uncoalesce(&t.b.vm, false, BARE_MMIO, 16), 0);
	assert_int_equal(vm_unbind_ioeventfd(&t.b.vm, &d), 0);
	assert_int_equal(ring(&t, BARE_MMIO, 7, 3), 3);
	check_registers(&t, 3);
	close(d.fd);
	close(e.fd);
	close(pio);
	teardown(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_registers),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_match),
	};

	return RUN(tests);
}
