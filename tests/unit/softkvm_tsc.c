/* SPDX-License-Identifier: MIT
 * The TSC: its offsets, IA32_TSC_ADJUST, and KVM_SET_TSC_KHZ to another rate than the host's. (The
 * reference machine's guests have the host's.) What can be told exactly is: a value lies between
 * those that two readings of the host's counter give. Of the host's own rate only that it is right
 * to a hundredth.
 */
#include "../lib/check.h"
#include "../lib/pair_guest.h"
#include <signal.h>
#include <time.h>
#include <x86intrin.h>

#define MSR_TSC	       0x10
#define MSR_TSC_ADJUST 0x3b

static uint64_t get_msr(struct side *s, unsigned i, uint32_t index)
{
	uint64_t v;

	assert_int_equal(side_get_msr(s, i, index, &v), 1);
	return v;
}

static void set_msr(struct side *s, unsigned i, uint32_t index, uint64_t value)
{
	assert_int_equal(side_set_msr(s, i, index, value), 1);
}

static int set_khz(struct side *s, unsigned i, uint64_t khz)
{
	return side_ioctl_val(s, s->vcpu[i], KVM_SET_TSC_KHZ, khz);
}

static uint32_t get_khz(struct side *s, unsigned i)
{
	return (uint32_t)side_ioctl_val(s, s->vcpu[i], KVM_GET_TSC_KHZ, 0);
}

static uint64_t offset_of(struct side *s, unsigned i)
{
	uint64_t offset;
	struct kvm_device_attr a = {
		.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset,
	};

	assert_int_equal(side_ioctl(s, s->vcpu[i], KVM_GET_DEVICE_ATTR, &a), 0);
	return offset;
}

static void set_offset(struct side *s, unsigned i, uint64_t offset)
{
	struct kvm_device_attr a = {
		.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset,
	};

	assert_int_equal(side_ioctl(s, s->vcpu[i], KVM_SET_DEVICE_ATTR, &a), 0);
}

/* The counter is the host's at this rate, plus the offset. */
static void expect_rate(struct side *s, unsigned i, uint32_t khz, uint32_t host_khz)
{
	unsigned __int128 ratio = khz == host_khz ? (unsigned __int128)1 << 48 :
						    ((unsigned __int128)khz << 48) / host_khz;
	uint64_t offset = offset_of(s, i);
	uint64_t lo = (uint64_t)(__rdtsc() * ratio >> 48) + offset;
	uint64_t is = get_msr(s, i, MSR_TSC);
	uint64_t hi = (uint64_t)(__rdtsc() * ratio >> 48) + offset;

	assert_true(is - lo <= hi - lo);
}

static void wait_us(unsigned us)
{
	for (uint64_t t = clock_ns(); clock_ns() - t < us * 1000ull;)
		;
}

static void rates_are_set(void **state)
{
	uint32_t host;
	struct side s;

	side_begin(&s, true);
	assert_int_equal(side_ioctl_val(&s, s.sys, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL), 1);
	assert_int_equal(side_ioctl_val(&s, s.vm, KVM_CHECK_EXTENSION, KVM_CAP_VM_TSC_CONTROL), 1);
	host = (uint32_t)side_ioctl_val(&s, s.vm, KVM_GET_TSC_KHZ, 0);
	assert_int_equal(side_ioctl_val(&s, s.vm, KVM_SET_TSC_KHZ, 0x7fffffff), -EINVAL);
	assert_int_equal(side_ioctl_val(&s, s.vm, KVM_SET_TSC_KHZ, 1234567), 0);
	assert_int_equal(side_ioctl_val(&s, s.vm, KVM_GET_TSC_KHZ, 0), 1234567);
	side_add_vcpu(&s, 0, 0);
	/* vCPUs begin with it, and then it is too late */
	assert_int_equal(get_khz(&s, 0), 1234567);
	expect_rate(&s, 0, 1234567, host);
	assert_int_equal(side_ioctl_val(&s, s.vm, KVM_SET_TSC_KHZ, 0), -EINVAL);
	assert_int_equal(set_khz(&s, 0, 0x7fffffff), -EINVAL);
	assert_int_equal(set_khz(&s, 0, 0xffffffff), -EINVAL);
	assert_int_equal(get_khz(&s, 0), 1234567);
	assert_int_equal(set_khz(&s, 0, 0x7ffffffe), 0);
	expect_rate(&s, 0, 0x7ffffffe, host);
	assert_int_equal(set_khz(&s, 0, 1), 0);
	expect_rate(&s, 0, 1, host);
	assert_int_equal(set_khz(&s, 0, 1ull << 32 | host / 2), 0);
	assert_int_equal(get_khz(&s, 0), host / 2);
	expect_rate(&s, 0, host / 2, host);
	/* within 250 ppm of the host's it is the host's */
	assert_int_equal(set_khz(&s, 0, host + host / 5000), 0);
	assert_int_equal(get_khz(&s, 0), host + host / 5000);
	expect_rate(&s, 0, host, host);
	assert_int_equal(set_khz(&s, 0, host + host / 3000), 0);
	expect_rate(&s, 0, host + host / 3000, host);
	assert_int_equal(set_khz(&s, 0, 0), 0);
	assert_int_equal(get_khz(&s, 0), host);
	expect_rate(&s, 0, host, host);
	side_end(&s);
}

/* What goes by in real time. */
static void the_rate_is_that_of_the_clock(void **state)
{
	static const uint32_t rates[] = { 100000, 1000000, 5000000, 50000000 };
	struct side s;

	side_begin(&s, true);
	side_add_vcpu(&s, 0, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(rates); i++) {
		uint64_t t[4], a, b;

		assert_int_equal(set_khz(&s, 0, rates[i]), 0);
		set_msr(&s, 0, MSR_TSC, 1000);
		t[0] = clock_ns();
		a = get_msr(&s, 0, MSR_TSC);
		t[1] = clock_ns();
		wait_us(20000);
		t[2] = clock_ns();
		b = get_msr(&s, 0, MSR_TSC);
		t[3] = clock_ns();
		assert_true((double)(b - a) >= (double)(t[2] - t[1]) * rates[i] / 1e6 * 0.99);
		assert_true((double)(b - a) <= (double)(t[3] - t[0]) * rates[i] / 1e6 * 1.01);
	}
	side_end(&s);
}

/* Counters of one rate stay in step, whoever sets them; one of another rate goes its own way. */
static void counters_of_a_rate_stay_in_step(void **state)
{
	const uint64_t second = 1000000; /* at a rate so slow that the host's cycles would not pass for its own */
	struct side s;
	uint32_t host;
	uint64_t tsc, began;

	side_begin(&s, true);
	host = (uint32_t)side_ioctl_val(&s, s.vm, KVM_GET_TSC_KHZ, 0);
	assert_int_equal(side_ioctl_val(&s, s.vm, KVM_SET_TSC_KHZ, second / 1000), 0);
	side_add_vcpu(&s, 0, 0);
	wait_us(2000);
	side_add_vcpu(&s, 1, 1);
	assert_true(offset_of(&s, 0) == offset_of(&s, 1));
	/*
	 * a loader, who takes his time: half a second apart is the same, a hundred are not. If we were
	 * put aside it may be more than one.
	 */
	do {
		began = clock_ns();
		tsc = get_msr(&s, 0, MSR_TSC) + 100 * second;
		set_msr(&s, 0, MSR_TSC, tsc);
		wait_us(20000);
		set_msr(&s, 1, MSR_TSC, tsc + second / 2);
	} while (clock_ns() - began > NSEC_PER_SEC);
	assert_true(offset_of(&s, 0) == offset_of(&s, 1));
	set_msr(&s, 1, MSR_TSC, get_msr(&s, 0, MSR_TSC) + 100 * second);
	assert_true(offset_of(&s, 0) != offset_of(&s, 1));
	assert_true(get_msr(&s, 1, MSR_TSC) > get_msr(&s, 0, MSR_TSC));
	/* back to 0 together, but for the one at another rate */
	side_add_vcpu(&s, 2, 2);
	assert_int_equal(set_khz(&s, 2, 1000000), 0);
	set_msr(&s, 0, MSR_TSC, 0);
	set_msr(&s, 1, MSR_TSC, 0);
	assert_true(offset_of(&s, 0) == offset_of(&s, 1));
	set_msr(&s, 2, MSR_TSC, 0);
	assert_true(offset_of(&s, 2) != offset_of(&s, 0));
	assert_true(get_msr(&s, 2, MSR_TSC) < 1000000ull * 1000 * 60);
	set_offset(&s, 2, 12345);
	assert_true(offset_of(&s, 2) == 12345);
	expect_rate(&s, 2, 1000000, host);
	side_end(&s);
}

/* ---- at the host's rate -------------------------------------------------------------------- */

#define STEP (1ull << 40) /* cycles: some minutes */

/* Time goes on between the calls: compared in units of minutes. */
static void expect_tsc(struct side *s, uint64_t tsc, uint64_t adjust)
{
	assert_int_equal((get_msr(s, 0, MSR_TSC) + STEP / 4) / (STEP / 2) * (STEP / 2), tsc);
	assert_int_equal((get_msr(s, 0, MSR_TSC_ADJUST) + STEP / 4) / (STEP / 2) * (STEP / 2), adjust);
}

/* SDM Vol. 3B, "IA32_TSC_ADJUST Register Support". The reference machine's guests have the host's TSC. */
static void the_tsc_and_its_adjustment(void **state)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 e[2];
	} c = { .head.nent = 2, .e = { { .eax = 7 }, { .function = 7, .flags = 1, .ebx = 1u << 1 } } };
	struct side s;

	side_begin(&s, true);
	side_add_vcpu(&s, 0, 0);
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_SET_CPUID2, &c), 0);
	map_memory(&s, 0);
	expect_tsc(&s, 0, 0);
	write_msr_in_guest(&s, MSR_TSC, STEP);
	expect_tsc(&s, STEP, STEP);
	write_msr_in_guest(&s, MSR_TSC_ADJUST, 2 * STEP);
	expect_tsc(&s, 2 * STEP, 2 * STEP);
	/* User space sets the one without the other. */
	set_msr(&s, 0, MSR_TSC, 20 * STEP);
	expect_tsc(&s, 20 * STEP, 2 * STEP);
	set_msr(&s, 0, MSR_TSC_ADJUST, 50 * STEP);
	expect_tsc(&s, 20 * STEP, 50 * STEP);
	set_msr(&s, 0, MSR_TSC_ADJUST, 2 * STEP);
	write_msr_in_guest(&s, MSR_TSC_ADJUST, 3 * STEP);
	expect_tsc(&s, 21 * STEP, 3 * STEP);
	write_msr_in_guest(&s, MSR_TSC, 4 * STEP);
	expect_tsc(&s, 4 * STEP, 3 * STEP - 17 * STEP);
	side_end(&s);
}

/* Of each vCPU, the lowest number of one with the same offset. */
static void expect_offsets(struct side *s, unsigned a, unsigned b, unsigned c)
{
	const unsigned same[] = { a, b, c };
	uint64_t offset[3] = { 0 };

	for (unsigned i = 0; i < 3; i++) {
		unsigned k = 0;

		offset[i] = offset_of(s, i);
		while (offset[k] != offset[i])
			k++;
		assert_int_equal(k, same[i]);
	}
}

/* One counter, a little later. False: so much later that it need not be taken for the same. */
static bool set_ahead(struct side *s, unsigned from, unsigned to, uint64_t more)
{
	uint64_t began = clock_ns();

	set_msr(s, to, MSR_TSC, get_msr(s, from, MSR_TSC) + more);
	return clock_ns() - began < NSEC_PER_SEC / 2;
}

/* False: it was put aside for too long to tell. */
static bool stay_in_step(struct side *s)
{
	uint64_t offset = 12345;
	bool in_time = true;

	for (unsigned i = 0; i < 3; i++)
		side_add_vcpu(s, i, i);
	expect_offsets(s, 0, 0, 0);
	/* Read one after the other, written one after the other. */
	for (unsigned i = 0; i < 3; i++)
		in_time &= set_ahead(s, i, i, 10 * STEP - (i ? 0 : 100));
	if (!in_time)
		return false;
	expect_offsets(s, 0, 0, 0);
	set_msr(s, 1, MSR_TSC, 100 * STEP);
	expect_offsets(s, 0, 1, 0);
	/* 0 is taken as the newest that was set. */
	set_msr(s, 2, MSR_TSC, 0);
	expect_offsets(s, 0, 1, 1);
	set_offset(s, 0, offset);
	assert_int_equal(offset_of(s, 0), offset);
	expect_offsets(s, 0, 1, 1);
	if (!set_ahead(s, 0, 2, 1000))
		return false;
	expect_offsets(s, 0, 1, 0);
	/* A guest's own write sets it apart, and later vCPUs follow the others. */
	map_memory(s, 0);
	write_msr_in_guest(s, MSR_TSC, STEP);
	expect_offsets(s, 0, 1, 2);
	side_add_vcpu(s, 3, 3);
	assert_int_equal(offset_of(s, 3), offset);
	return true;
}

static void tscs_of_a_vm_stay_in_step(void **state)
{
	struct side s;
	bool told;

	do {
		side_begin(&s, true);
		told = stay_in_step(&s);
		side_end(&s);
	} while (!told);
}

/* ---- what counts in its cycles ------------------------------------------------------------- */

struct clock_page {
	uint32_t version, pad0;
	uint64_t tsc, ns;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, pad[2];
};

static uint64_t page_ns(const struct clock_page *p, uint64_t tsc)
{
	uint64_t d = tsc - p->tsc;

	d = p->shift < 0 ? d >> -p->shift : d << p->shift;
	return p->ns + (uint64_t)((unsigned __int128)d * p->mul >> 32);
}

static uint64_t clock_of(struct side *s)
{
	struct kvm_clock_data c = { 0 };

	assert_int_equal(side_ioctl(s, s->vm, KVM_GET_CLOCK, &c), 0);
	return c.clock;
}

static void kvmclock_goes_as_ever(void **state)
{
	static const uint32_t rates[] = { 0, 1, 1000, 100000, 1000000, 50000000 };
	struct side s;

	side_begin(&s, true);
	side_add_vcpu(&s, 0, 0);
	map_memory(&s, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(rates); i++) {
		const struct clock_page *p = (const void *)(s.mem + 0x6000);
		uint64_t a, b, tsc, slack, cycle;

		/* the MSR first: it must be written anew when the rate changes */
		set_msr(&s, 0, 0x4b564d01, 0x6001);
		assert_int_equal(set_khz(&s, 0, rates[i]), 0);
		LOAD(&s, 2, 0xec, 0xeb, 0xfd);
		assert_int_equal(run_once(&s), 0);
		wait_us(20000);
		a = clock_of(&s);
		tsc = get_msr(&s, 0, MSR_TSC);
		b = clock_of(&s);
		cycle = 1000000 / get_khz(&s, 0) + 1;
		slack = (b - p->ns) / 100 + 1000 + cycle;
		assert_in_range(page_ns(p, tsc), a - slack, b + slack);
	}
	side_end(&s);
}

static void held_up(int sig)
{
	wait_us(200);
}

/* Whatever comes between: a thread that is held up reads no clock earlier than another. */
static void the_clocks_are_read_at_one_time(void **state)
{
	struct sigevent on = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM };
	struct itimerspec often = { .it_interval.tv_nsec = 300000, .it_value.tv_nsec = 300000 };
	struct sigaction old, sa = { .sa_handler = held_up, .sa_flags = SA_RESTART };
	struct kvm_clock_data c, before = { 0 };
	uint64_t began = clock_ns();
	uint32_t khz;
	struct side s;
	timer_t timer;

	side_begin(&s, true);
	khz = (uint32_t)side_ioctl_val(&s, s.vm, KVM_GET_TSC_KHZ, 0);
	sigaction(SIGALRM, &sa, &old);
	assert_int_equal(timer_create(CLOCK_MONOTONIC, &on, &timer), 0);
	assert_int_equal(timer_settime(timer, 0, &often, NULL), 0);
	while (clock_ns() - began < NSEC_PER_SEC / 4) {
		assert_int_equal(side_ioctl(&s, s.vm, KVM_GET_CLOCK, &c), 0);
		if (before.clock) {
			int64_t ns = (int64_t)(c.clock - before.clock);
			int64_t real = (int64_t)(c.realtime - before.realtime);
			int64_t cycles = (int64_t)((c.host_tsc - before.host_tsc) * 1000000 / khz);

			assert_in_range(llabs(real - ns), 0, 100000);
			assert_in_range(llabs(cycles - ns), 0, 100000 + ns / 100);
		}
		before = c;
	}
	timer_delete(timer);
	sigaction(SIGALRM, &old, NULL);
	side_end(&s);
}

/* x2APIC, its timer at vector 40h by the TSC: 81h, then ESI:EDI cycles from now, then 80h. */
__asm__(".pushsection .rodata\n.code16\ndeadline_code:\n"
	"movl $0x1b,%ecx\n rdmsr\n orl $0xc00,%eax\n wrmsr\n"
	"movl $0x80f,%ecx\n movl $0x1ff,%eax\n xorl %edx,%edx\n wrmsr\n"
	"movl $0x832,%ecx\n movl $0x40040,%eax\n wrmsr\n"
	"1: outb %al,$0x81\n movl $0x6e0,%ecx\n rdtsc\n addl %edi,%eax\n adcl %esi,%edx\n wrmsr\n"
	"sti\n hlt\n cli\n outb %al,$0x80\n jmp 1b\n"
	"deadline_irq: pushal\n movl $0x80b,%ecx\n xorl %eax,%eax\n xorl %edx,%edx\n wrmsr\n"
	"popal\n iretw\n"
	"deadline_end:\n.code64\n.popsection\n");
extern const uint8_t deadline_code[], deadline_irq[], deadline_end[];

static void run_to(struct side *s, uint16_t port)
{
	assert_int_equal(run_once(s), 0);
	assert_int_equal(s->run[0]->exit_reason, KVM_EXIT_IO);
	assert_int_equal(s->run[0]->io.port, port);
}

static void a_deadline_is_when_it_should_be(void **state)
{
	static const uint32_t rates[] = { 0, 50000, 1000000, 0x7ffffffe };
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 e[1];
	} cpuid = { .head.nent = 1, .e[0] = { .function = 1, .ecx = 1u << 24 | 1u << 21 } };
	struct kvm_regs r;
	struct side s;

	side_begin(&s, true);
	vm_do_val(&s, KVM_CREATE_IRQCHIP, 0);
	side_add_vcpu(&s, 0, 0);
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_SET_CPUID2, &cpuid), 0);
	map_memory(&s, 0);
	load(&s, deadline_code, (size_t)(deadline_end - deadline_code), 2);
	store_le32(s.mem + 0x40 * 4, CODE + (uint32_t)(deadline_irq - deadline_code));
	for (unsigned i = 0; i < ARRAY_SIZE(rates); i++) {
		const uint64_t ms = 100;
		uint64_t t;

		run_to(&s, 0x81);
		assert_int_equal(set_khz(&s, 0, rates[i]), 0);
		assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_GET_REGS, &r), 0);
		r.rdi = (uint32_t)(get_khz(&s, 0) * ms);
		r.rsi = get_khz(&s, 0) * ms >> 32;
		assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_SET_REGS, &r), 0);
		t = clock_ns();
		run_to(&s, 0x80);
		t = clock_ns() - t;
		/* by the host's cycles the last one would take a minute */
		assert_in_range(t, ms * 990000, 30 * NSEC_PER_SEC);
	}
	side_end(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rates_are_set),
		cmocka_unit_test(the_rate_is_that_of_the_clock),
		cmocka_unit_test(counters_of_a_rate_stay_in_step),
		cmocka_unit_test(the_tsc_and_its_adjustment),
		cmocka_unit_test(tscs_of_a_vm_stay_in_step),
		cmocka_unit_test(kvmclock_goes_as_ever),
		cmocka_unit_test(the_clocks_are_read_at_one_time),
		cmocka_unit_test(a_deadline_is_when_it_should_be),
	};

	return RUN(tests);
}
