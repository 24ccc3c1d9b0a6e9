/* SPDX-License-Identifier: MIT
 * MSRs: those that user space filters and answers, and what becomes of some that a
 * guest or user space writes, on the kernel and on softkvm. What the kernel of the
 * reference machine does otherwise is tried on softkvm alone.
 */
#include "../lib/check.h"
#include "../lib/pair_guest.h"
#include "softkvm/uapi.h"

static void say_msr(struct side *s, uint32_t index)
{
	uint64_t v;
	int r = side_get_msr(s, 0, index, &v);

	say(s, "msr %x: %d %llx", index, r, (unsigned long long)v);
}

/* Real mode pushes no error code: step over the two bytes of RDMSR or WRMSR. */
static void skip_faults(struct side *s)
{
	static const uint8_t handler[] = { 0xe6, 0x91, 0x55, 0x89, 0xe5, 0x83, 0x46, 0x02, 0x02, 0x5d, 0xcf };

	store_le32(s->mem + 13 * 4, 0x2000);
	memcpy(s->mem + 0x2000, handler, sizeof(handler));
}

static void script_user_msr(struct side *s, uint64_t seed)
{
	uint8_t none[8] = { 0 };
	struct kvm_msr_filter filter = {
		.ranges[0] = { .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, .base = 0x174,
			       .nmsrs = 2, .bitmap = none },
	};

	say_result(s, "cap", side_ioctl_val(s, s->vm, KVM_CHECK_EXTENSION, KVM_CAP_X86_USER_SPACE_MSR));
	for (unsigned bit = 0; bit < 64; bit += bit < 6 ? 1 : 19)
		vm_enable(s, KVM_CAP_X86_USER_SPACE_MSR, BIT_ULL(bit));
	side_add_vcpu(s, 0, 0);
	map_memory(s, 0);
	skip_faults(s);
	vm_do(s, KVM_X86_SET_MSR_FILTER, &filter);
	for (unsigned exits = 0; exits < 8; exits++) {
		vm_enable(s, KVM_CAP_X86_USER_SPACE_MSR, exits);
		LOAD(s, 2, 0x66, 0xb9, 0x74, 0x01, 0x00, 0x00, 0x0f, 0x32, 0xe6, 0x80, /* filtered */
		     0x66, 0xb8, 0xad, 0x0b, 0x00, 0x00, 0x66, 0x31, 0xd2, 0x0f, 0x30,
		     0x66, 0xb8, 0xee, 0x0b, 0x00, 0x00, 0x0f, 0x30,
		     0x66, 0xb9, 0xef, 0xbe, 0xad, 0xde, 0x0f, 0x32, 0xe6, 0x80, /* unknown */
		     0x66, 0xb8, 0xad, 0x0b, 0x00, 0x00, 0x66, 0x31, 0xd2, 0x0f, 0x30,
		     0x66, 0xb8, 0xee, 0x0b, 0x00, 0x00, 0x0f, 0x30,
		     0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0, /* EFER: a reserved bit */
		     0x66, 0xb8, 0x00, 0x00, 0x00, 0x80, 0x0f, 0x30, 0xf4);
		run_to_end(s);
	}
}

/* Whether the MSR is the engine's or ours makes no difference. */
static void msrs_of_the_processor_are_filtered(void **state)
{
	static const uint32_t msrs[] = { 0xc0000080, 0xc0000081, 0xc0000100, 0x10, 0x277 };
	uint8_t none[8] = { 0 };
	struct kvm_msr_filter filter = { 0 };
	struct side s;

	side_begin(&s, true);
	for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++)
		filter.ranges[i] = (struct kvm_msr_filter_range){
			.flags = KVM_MSR_FILTER_READ, .base = msrs[i], .nmsrs = 1, .bitmap = none,
		};
	vm_enable(&s, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER);
	side_add_vcpu(&s, 0, 0);
	map_memory(&s, 0);
	assert_int_equal(side_ioctl(&s, s.vm, KVM_X86_SET_MSR_FILTER, &filter), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
		uint8_t code[] = { 0x66, 0xb9, 0, 0, 0, 0, 0x0f, 0x32, 0x66, 0xe7, 0x80, 0xf4 };

		store_le32(code + 2, msrs[i]);
		load(&s, code, sizeof(code), 2);
		run_once(&s);
		assert_int_equal(s.run[0]->exit_reason, KVM_EXIT_X86_RDMSR);
		assert_int_equal(s.run[0]->msr.index, msrs[i]);
		assert_int_equal(s.run[0]->msr.reason, KVM_MSR_EXIT_REASON_FILTER);
		run_once(&s);
		assert_int_equal(s.run[0]->exit_reason, KVM_EXIT_IO);
		assert_int_equal(load_le32((uint8_t *)s.run[0] + s.run[0]->io.data_offset), msrs[i] + 1);
		run_once(&s);
		assert_int_equal(s.run[0]->exit_reason, KVM_EXIT_HLT);
	}
	side_end(&s);
}

static void script_platform_info(struct side *s, uint64_t seed)
{
	side_add_vcpu(s, 0, 0);
	map_memory(s, 0);
	skip_faults(s);
	for (unsigned i = 0; i < 3; i++) {
		if (i)
			vm_enable(s, KVM_CAP_MSR_PLATFORM_INFO, i - 1);
		LOAD(s, 2, 0x66, 0x31, 0xc0, 0x66, 0xb9, 0xce, 0x00, 0x00, 0x00, 0x0f, 0x32, 0x66, 0xe7, 0x80,
		     0xf4);
		run_to_end(s);
		say_msr(s, 0xce);
	}
}

static void script_hwcr(struct side *s, uint64_t seed)
{
	side_add_vcpu(s, 0, 0);
	for (unsigned bit = 0; bit < 64; bit++) {
		say(s, "bit %u: %d", bit, side_set_msr(s, 0, 0xc0010015, BIT_ULL(bit)));
		say_msr(s, 0xc0010015);
	}
}

/* What newer AMD processors and the kernel do to some MSRs. (The reference machine differs.) */
static void msrs_have_the_vendors_width(void **state)
{
	static const uint32_t msrs[] = { 0xc0000103, 0x175, 0x176 };
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 e;
	} c = { .head.nent = 1, .e = { .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69 } };
	uint64_t v;
	struct side s;

	side_begin(&s, true);
	side_add_vcpu(&s, 0, 0); /* AuthenticAMD */
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(side_set_msr(&s, 0, msrs[i], 0xaaaa555512345678), 1);
		assert_int_equal(side_get_msr(&s, 0, msrs[i], &v), 1);
		assert_int_equal(v, 0x12345678);
	}
	assert_int_equal(side_ioctl(&s, s.vcpu[0], KVM_SET_CPUID2, &c), 0);
	assert_int_equal(side_set_msr(&s, 0, 0xc0000103, 1ull << 32), 0);
	assert_int_equal(side_set_msr(&s, 0, 0x175, 0x123456789000), 1);
	assert_int_equal(side_get_msr(&s, 0, 0x175, &v), 1);
	assert_int_equal(v, 0x123456789000);
	/* MISC_ENABLE: no BTS, no PEBS, and no guest changes that. */
	assert_int_equal(side_get_msr(&s, 0, 0x1a0, &v), 1);
	assert_int_equal(v, 0x1800);
	map_memory(&s, 0);
	skip_faults(&s);
	write_msr_in_guest(&s, 0x1a0, 1);
	assert_int_equal(side_get_msr(&s, 0, 0x1a0, &v), 1);
	assert_int_equal(v, 0x1800);
	write_msr_in_guest(&s, 0x1a0, 0x1801);
	assert_int_equal(side_get_msr(&s, 0, 0x1a0, &v), 1);
	assert_int_equal(v, 0x1801);
	side_end(&s);
}

static const struct pair_script scripts[] = {
	{ "user msr", script_user_msr }, { "platform info", script_platform_info }, { "hwcr", script_hwcr },
};

/* An argument picks tests by name (* and ? match). */
int main(int argc, char **argv)
{
	const struct CMUnitTest alone[] = {
		cmocka_unit_test(msrs_of_the_processor_are_filtered),
		cmocka_unit_test(msrs_have_the_vendors_width),
	};

	return kvm_pair_main(argc, argv, scripts, ARRAY_SIZE(scripts), alone, ARRAY_SIZE(alone));
}
