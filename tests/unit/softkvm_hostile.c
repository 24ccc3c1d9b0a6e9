/* SPDX-License-Identifier: MIT
 * What crashed other KVMs (docs/BUGS.md): calls for chips that are not there, and pages
 * shared with the guest at the ends of its memory.
 */
#include "../lib/check.h"
#include "monitor/bare.h"
#include "softkvm/softkvm.h"
#include <errno.h>
#include <linux/kvm_para.h>
#include <stdlib.h>
#include <sys/mman.h>

struct bed {
	void *ctx;
	struct kvmapi api;
	struct bare b;
};

static void setup(struct bed *t, unsigned cpus, bool irqchip)
{
	struct err e;

	assert_int_equal(softkvm_create(&t->ctx, NULL), 0);
	t->api = (struct kvmapi){ .ops = &softkvm_ops, .ctx = t->ctx };
	if (bare_create(&t->b, &t->api, cpus, irqchip, &e))
		fail_msg("%s", e.text);
}

static void teardown(struct bed *t)
{
	bare_destroy(&t->b);
	softkvm_destroy(t->ctx);
}

static int set_msr(struct vcpu *v, uint32_t index, uint64_t data)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e;
	} m = { .head.nmsrs = 1, .e = { .index = index, .data = data } };

	return vcpu_set_msrs(v, &m.head);
}

/* One instruction in the guest that leaves: it lives. */
static void runs(struct bed *t)
{
	assert_int_equal(bare_set(&t->b, 0, BARE_OUT1, BARE_PORT_DONE, 1), 0);
	assert_int_equal(bare_run_until_done(&t->b, 0, NULL, NULL), 0);
	assert_int_equal(bare_faults(&t->b, 0), 0);
}

/* CVE-2022-2153: interrupts, SynIC and timers of vCPUs that have no local APIC. */
static void test_no_local_apic(void **state)
{
	struct kvm_lapic_state lapic;
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
	struct kvm_irq_routing_entry route = { .gsi = 5, .type = KVM_IRQ_ROUTING_MSI };
	struct kvm_vcpu_events events;
	struct notifier n;
	struct bed t;
	int status;

	setup(&t, 2, false);
	assert_int_equal(notifier_create(&n, 0, 0), 0);
	assert_int_equal(vm_signal_msi(&t.b.vm, 0xfee00000, 0x41), -EINVAL);
	assert_int_equal(vm_signal_msi(&t.b.vm, 0xfeeff000, 0x41), -EINVAL);
	assert_true(vm_irq_line(&t.b.vm, 1, true) < 0);
	assert_true(vm_irq_line_status(&t.b.vm, 1, true, &status) < 0);
	assert_true(vm_set_routes(&t.b.vm, &route, 1) < 0);
	assert_int_equal(vm_bind_irqfd(&t.b.vm, n.fd, 5, -1), -EINVAL);
	assert_true(vm_get_irqchip(&t.b.vm, &chip) < 0);
	assert_int_equal(vcpu_get_lapic(&t.b.cpus[0], &lapic), -EINVAL);
	memset(&lapic, 0xff, sizeof(lapic));
	assert_int_equal(vcpu_set_lapic(&t.b.cpus[0], &lapic), -EINVAL);
	for (uint32_t i = 0x40000070; i < 0x400000c0; i++) /* SynIC, its timers */
		(void)!set_msr(&t.b.cpus[0], i, ~0ull);
	for (uint32_t i = 0x800; i < 0x840; i++) /* x2APIC */
		(void)!set_msr(&t.b.cpus[0], i, 0x41);
	(void)!set_msr(&t.b.cpus[0], 0x6e0, 1);
	(void)!set_msr(&t.b.cpus[0], 0x1b, 0xfee00d00);
	(void)!set_msr(&t.b.cpus[0], MSR_KVM_PV_EOI_EN, 0x3001);
	assert_int_equal(vcpu_get_events(&t.b.cpus[0], &events), 0);
	runs(&t);
	/* An IPI by the guest: nobody hears it, and its write is a write of memory that is not there. */
	assert_int_equal(bare_set(&t.b, 0, BARE_MMIO4, 0xfee00300, 0xc0041), 0);
	assert_int_equal(vcpu_run(&t.b.cpus[0]), 0);
	assert_int_equal(t.b.cpus[0].run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(t.b.cpus[0].run->mmio.phys_addr, 0xfee00300);
	notifier_destroy(&n);
	teardown(&t);
}

/* CVE-2011-4622: a PIT for a VM without the chips it drives. */
static void test_pit_without_irqchip(void **state)
{
	struct kvm_pit_state2 s;
	struct bed t;

	setup(&t, 1, false);
	assert_int_equal(vm_create_pit2(&t.b.vm, 0), -ENOENT);
	assert_true(vm_get_pit2(&t.b.vm, &s) < 0);
	memset(&s, 0, sizeof(s));
	s.channels[0] = (struct kvm_pit_channel_state){ .count = 100, .mode = 2, .gate = 1 };
	assert_true(vm_set_pit2(&t.b.vm, &s) < 0);
	runs(&t);
	teardown(&t);
}

/* CVE-2016-9777: an interrupt whose EOI is noted for a vCPU of the highest id. */
static void test_highest_id(void **state)
{
	struct kvm_irq_routing_entry clock = { .gsi = 8, .type = KVM_IRQ_ROUTING_IRQCHIP };
	struct kvm_lapic_state lapic;
	struct vcpu high;
	struct bed t;
	int status = -1;
	unsigned id = 0;

	setup(&t, 1, true);
	while (id < 4096 && vm_check_extension(&t.b.vm, KVM_CAP_MAX_VCPU_ID) > (int)id + 1)
		id++;
	assert_true(id >= 254);
	assert_int_equal(vcpu_open(&high, &t.b.vm, id), 0);
	assert_true(vcpu_open(&(struct vcpu){ 0 }, &t.b.vm, id + 1) < 0);
	assert_int_equal(vcpu_get_lapic(&high, &lapic), 0);
	lapic.regs[0xf1] |= 1; /* SVR: software enable, or nothing is accepted */
	assert_int_equal(vcpu_set_lapic(&high, &lapic), 0);
	assert_int_equal(vcpu_get_lapic(&t.b.cpus[0], &lapic), 0);
	lapic.regs[0xf1] &= (uint8_t)~1;
	assert_int_equal(vcpu_set_lapic(&t.b.cpus[0], &lapic), 0);
	/* The clock's tick, by its status, to all, of whom only that one takes it. */
	clock.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
	clock.u.irqchip.pin = 8;
	assert_int_equal(vm_set_routes(&t.b.vm, &clock, 1), 0);
	assert_int_equal(bare_set_pin(&t.b.vm, 8, (uint64_t)0xff << 56 | 0x48), 0);
	assert_int_equal(vm_irq_line_status(&t.b.vm, 8, true, &status), 0);
	assert_int_equal(status, 1);
	assert_int_equal(vm_irq_line_status(&t.b.vm, 8, false, &status), 0);
	/* Past the map of those who owe an EOI: nobody waits for that, and the next tick goes through. */
	assert_int_equal(vm_irq_line_status(&t.b.vm, 8, true, &status), 0);
	assert_int_equal(status, 1);
	assert_int_equal(vcpu_get_lapic(&t.b.cpus[0], &lapic), 0);
	lapic.regs[0xf1] |= 1;
	assert_int_equal(vcpu_set_lapic(&t.b.cpus[0], &lapic), 0);
	runs(&t);
	vcpu_close(&high);
	teardown(&t);
}

#define LAST 0x200000ull

/* CVE-2013-6368 and its kind: a page shared with the guest that does not lie in its memory whole. */
static void test_shared_pages_at_the_end(void **state)
{
	static const uint32_t msrs[] = {
		MSR_KVM_WALL_CLOCK, MSR_KVM_SYSTEM_TIME, MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_SYSTEM_TIME_NEW,
		MSR_KVM_STEAL_TIME, MSR_KVM_PV_EOI_EN, MSR_KVM_ASYNC_PF_EN, MSR_KVM_ASYNC_PF_INT,
	};
	static const uint64_t at[] = {
		LAST + 4096 - 1, LAST + 4096 - 4, LAST + 4096 - 12, LAST + 4096 - 32, LAST + 4096 - 64 + 8,
		LAST + 4096, 0xfff, 0xffffffff, 1ull << 36, 0xfee00000, 0x8000000000000000ull, UINT64_MAX - 63,
		UINT64_MAX - 3, UINT64_MAX,
	};
	uint8_t *two = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct bed t;

	assert_true(two != MAP_FAILED);
	setup(&t, 1, true);
	/* The guest's last page; the one behind it is ours. */
	assert_int_equal(vm_set_memory(&t.b.vm, 1, LAST, 4096, two, 0), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++)
		for (unsigned k = 0; k < ARRAY_SIZE(at); k++)
			for (unsigned low = 0; low < 2; low++) {
				(void)!set_msr(&t.b.cpus[0], msrs[i], (at[k] & ~1ull) | low);
				assert_true(vm_signal_msi(&t.b.vm, 0xfee00000, 0x41) >= 0);
				runs(&t);
			}
	for (unsigned i = 4096; i < 8192; i++)
		assert_int_equal(two[i], 0);
	for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++)
		(void)!set_msr(&t.b.cpus[0], msrs[i], 0);
	runs(&t);
	teardown(&t);
	munmap(two, 8192);
}

/* CVE-2013-6367: the timer's count, read at every moment of a timer that never had one. */
static void test_timer_without_a_period(void **state)
{
	struct kvm_lapic_state s;
	struct bed t;

	setup(&t, 1, true);
	for (unsigned mode = 0; mode < 4; mode++)
		for (unsigned tdcr = 0; tdcr < 16; tdcr++)
			for (unsigned count = 0; count < 2; count++) {
				assert_int_equal(vcpu_get_lapic(&t.b.cpus[0], &s), 0);
				store_le32(s.regs + 0x320, mode << 17 | 0x40);
				store_le32(s.regs + 0x3e0, tdcr);
				store_le32(s.regs + 0x380, count);
				store_le32(s.regs + 0x390, 0xffffffff);
				assert_int_equal(vcpu_set_lapic(&t.b.cpus[0], &s), 0);
				assert_int_equal(vcpu_get_lapic(&t.b.cpus[0], &s), 0);
				assert_int_equal(bare_set(&t.b, 0, BARE_MMIO_LOAD, 0xfee00390, 0), 0);
				assert_int_equal(bare_run_until_done(&t.b, 0, NULL, NULL), 0);
			}
	teardown(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_local_apic),
		cmocka_unit_test(test_pit_without_irqchip),
		cmocka_unit_test(test_highest_id),
		cmocka_unit_test(test_shared_pages_at_the_end),
		cmocka_unit_test(test_timer_without_a_period),
	};

	return RUN(tests);
}
