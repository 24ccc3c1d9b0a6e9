/* SPDX-License-Identifier: MIT */
#include "softkvm/cpuid.h"
#include "softkvm/vcpu.h"
#include <cpuid.h>
#include <linux/kvm_para.h>

#define B(n) (1u << (n))

/*
 * Per feature register: `host` bits are passed if the host has them (the engine
 * runs such instructions on the host's units), `ours` are there whatever the
 * host says (the engine and the local APIC do them).
 */
struct feature_word {
	uint32_t leaf, subleaf;
	unsigned reg;
	uint32_t host, ours;
};

/* avx512: f dq ifma cd bw vl; vbmi vbmi2 vnni bitalg vpopcntdq; bf16 */
#define AVX512_7B  (B(16) | B(17) | B(21) | B(28) | B(30) | B(31))
#define AVX512_7C  (B(1) | B(6) | B(11) | B(12) | B(14))
#define AVX512_71A B(5)
#define XCR0_AVX512 0xe0ull

static const struct feature_word features[] = {
	/* sse3 pclmul ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt aes xsave avx f16c rdrand |
	 * pcid x2apic tsc-deadline hypervisor */
	{ 1, 0, 2, B(0) | B(1) | B(9) | B(12) | B(13) | B(19) | B(20) | B(22) | B(23) | B(25) | B(26) |
		   B(28) | B(29) | B(30), B(17) | B(21) | B(24) | B(31) },
	/* fpu … clflush mmx fxsr sse sse2 | de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov
	 * pat pse36 */
	{ 1, 0, 3, B(0) | B(15) | B(19) | B(23) | B(24) | B(25) | B(26),
		   B(2) | B(3) | B(4) | B(5) | B(6) | B(7) | B(8) | B(9) | B(11) | B(12) | B(13) | B(14) |
		   B(16) | B(17) },
	/* bmi1 avx2 bmi2 erms rdseed adx clflushopt clwb sha | fsgsbase tsc_adjust smep invpcid smap */
	{ 7, 0, 1, B(3) | B(5) | B(8) | B(9) | B(18) | B(19) | B(23) | B(24) | B(29) | AVX512_7B,
		   B(0) | B(1) | B(7) | B(10) | B(20) },
	/* gfni vaes vpclmulqdq rdpid | umip */
	{ 7, 0, 2, B(8) | B(9) | B(10) | B(22) | AVX512_7C, B(2) },
	/* fsrm */
	{ 7, 0, 3, B(4), 0 },
	{ 7, 1, 0, AVX512_71A, 0 },
	/* xsaveopt xsavec xgetbv1 */
	{ 0xd, 1, 0, B(0) | B(1) | B(2), 0 },
	/* lahf abm sse4a 3dnowprefetch */
	{ 0x80000001, 0, 2, B(0) | B(5) | B(6) | B(8), 0 },
	/* mmxext | syscall nx pdpe1gb rdtscp lm */
	{ 0x80000001, 0, 3, B(22), B(11) | B(20) | B(26) | B(27) | B(29) },
	/* invariant TSC */
	{ 0x80000007, 0, 3, 0, B(8) },
	/* srso_no; tsa_sq_no tsa_l1_no: the guest's own barriers are none in translated code, and cost */
	{ 0x80000021, 0, 0, 0, B(29) },
	{ 0x80000021, 0, 2, 0, B(1) | B(2) },
};

uint32_t cpuid_reg(const struct kvm_cpuid_entry2 *e, unsigned reg)
{
	return (&e->eax)[reg];
}

static struct kvm_cpuid_entry2 host_leaf(uint32_t leaf, uint32_t subleaf, uint32_t flags)
{
	struct kvm_cpuid_entry2 e = { .function = leaf, .index = subleaf, .flags = flags };

	__cpuid_count(leaf, subleaf, e.eax, e.ebx, e.ecx, e.edx);
	return e;
}

static uint32_t feature(uint32_t leaf, uint32_t subleaf, unsigned reg, uint32_t host)
{
	for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
		const struct feature_word *f = &features[i];

		if (f->leaf == leaf && f->subleaf == subleaf && f->reg == reg)
			return (host & f->host) | f->ours;
	}
	return 0;
}

/* AVX-512: the processor has it, and the host's kernel carries its state. */
static bool avx512(void)
{
	return host_leaf(7, 0, 0).ebx & B(16) && (engine_xcr0_max() & XCR0_AVX512);
}

uint64_t cpuid_xcr0(void)
{
	uint32_t ecx = feature(1, 0, 2, host_leaf(1, 0, 0).ecx);

	if (!(ecx & B(26)))
		return 0;
	/* x87, SSE, AVX, AVX-512 */
	return !(ecx & B(28)) ? 3 : avx512() ? XCR0_AVX512 | 7 : 7;
}

/* Cut an entry down; false: leave it out of the table. */
static void cut(struct kvm_cpuid_entry2 *e)
{
	switch (e->function) {
	case 0:
		e->eax = 0xd;
		break;
	case 1:
		e->ebx &= 0x0000ff00; /* CLFLUSH size; the APIC ID and count are the VMM's */
		e->ecx = feature(1, 0, 2, e->ecx);
		e->edx = feature(1, 0, 3, e->edx);
		break;
	case 7:
		e->eax = e->index ? feature(7, 1, 0, e->eax) & (avx512() ? ~0u : ~AVX512_71A) : 1;
		e->ebx = feature(7, e->index, 1, e->ebx) & (avx512() ? ~0u : ~AVX512_7B);
		e->ecx = feature(7, e->index, 2, e->ecx) & (avx512() ? ~0u : ~AVX512_7C);
		e->edx = feature(7, e->index, 3, e->edx);
		break;
	case 6:
		e->eax = B(2); /* ARAT: the APIC timer does not stop */
		e->ebx = e->ecx = e->edx = 0;
		break;
	case 0xb:
		e->eax = e->ebx = e->ecx = e->edx = 0;
		break;
	case 0xd:
		if (e->index == 0) {
			e->eax = (uint32_t)cpuid_xcr0();
			e->ebx = e->ecx = engine_xsave_size(NULL, cpuid_xcr0(), false);
			e->edx = 0;
		} else if (e->index == 1) {
			e->eax = feature(0xd, 1, 0, e->eax);
			e->ebx = engine_xsave_size(NULL, cpuid_xcr0(), true);
			e->ecx = e->edx = 0;
		} else if (cpuid_xcr0() >> e->index & 1) {
			e->ecx &= 2; /* to be aligned in a compacted area */
			e->edx = 0;
		} else {
			e->eax = e->ebx = e->ecx = e->edx = 0;
		}
		break;
	case 0x80000000:
		e->eax = 0x80000021;
		break;
	case 0x80000001:
		e->ebx = 0;
		e->ecx = feature(0x80000001, 0, 2, e->ecx);
		e->edx = feature(0x80000001, 0, 3, e->edx);
		break;
	case 0x80000007:
		e->eax = e->ebx = e->ecx = 0;
		e->edx = feature(0x80000007, 0, 3, e->edx);
		break;
	case 0x80000008:
		e->eax = SOFT_MAXPHYADDR | 48 << 8;
		e->ebx = e->ecx = e->edx = 0;
		break;
	case 0x80000021:
		e->eax = feature(0x80000021, 0, 0, e->eax);
		e->ecx = feature(0x80000021, 0, 2, e->ecx);
		e->ebx = e->edx = 0;
		break;
	}
}

#define PV_FEATURES                                                                             \
	(B(KVM_FEATURE_CLOCKSOURCE) | B(KVM_FEATURE_NOP_IO_DELAY) | B(KVM_FEATURE_CLOCKSOURCE2) | \
	 B(KVM_FEATURE_STEAL_TIME) | B(KVM_FEATURE_PV_EOI) | B(KVM_FEATURE_PV_UNHALT) |           \
	 B(KVM_FEATURE_PV_SEND_IPI) | B(KVM_FEATURE_POLL_CONTROL) | B(KVM_FEATURE_PV_SCHED_YIELD) | \
	 B(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT))

int cpuid_supported(struct kvm_cpuid_entry2 *out, unsigned max)
{
	static const struct { uint32_t leaf, subleaf; bool indexed; } leaves[] = {
		{ 0 }, { 1 }, { 2 }, { 4, 0, true }, { 4, 1, true }, { 4, 2, true }, { 4, 3, true },
		{ 4, 4, true }, { 6 }, { 7, 0, true }, { 7, 1, true }, { 0xb, 0, true }, { 0xb, 1, true },
		{ 0xd, 0, true }, { 0xd, 1, true }, { 0xd, 2, true }, { 0xd, 5, true },
		{ 0xd, 6, true }, { 0xd, 7, true }, { 0x80000000 },
		{ 0x80000001 }, { 0x80000002 }, { 0x80000003 }, { 0x80000004 }, { 0x80000005 },
		{ 0x80000006 }, { 0x80000007 }, { 0x80000008 }, { 0x80000021 },
	};
	struct kvm_cpuid_entry2 kvm[2] = {
		{ .function = KVM_CPUID_SIGNATURE, .eax = KVM_CPUID_FEATURES },
		{ .function = KVM_CPUID_FEATURES, .eax = PV_FEATURES },
	};
	unsigned host_max = (unsigned)__get_cpuid_max(0, NULL);

	memcpy(&kvm[0].ebx, KVM_SIGNATURE, sizeof(KVM_SIGNATURE) - 1);
	if (max < ARRAY_SIZE(leaves) + ARRAY_SIZE(kvm))
		return -E2BIG;
	for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++) {
		uint32_t leaf = leaves[i].leaf;

		out[i] = (struct kvm_cpuid_entry2){
			.function = leaf, .index = leaves[i].subleaf,
			.flags = leaves[i].indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
		};
		if (leaf >= 0x80000000 || leaf <= host_max)
			out[i] = host_leaf(leaf, leaves[i].subleaf, out[i].flags);
		cut(&out[i]);
	}
	memcpy(out + ARRAY_SIZE(leaves), kvm, sizeof(kvm));
	return ARRAY_SIZE(leaves) + ARRAY_SIZE(kvm);
}

const struct kvm_cpuid_entry2 *vcpu_cpuid_find(const struct soft_vcpu *v, uint32_t leaf,
					       uint32_t subleaf)
{
	for (unsigned i = 0; i < v->nr_cpuid; i++) {
		const struct kvm_cpuid_entry2 *e = &v->cpuid[i];

		if (e->function == leaf && (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) ||
					    e->index == subleaf))
			return e;
	}
	return NULL;
}

bool vcpu_cpuid_has(const struct soft_vcpu *v, uint32_t leaf, uint32_t subleaf, unsigned reg,
		    unsigned bit)
{
	const struct kvm_cpuid_entry2 *e = vcpu_cpuid_find(v, leaf, subleaf);

	return e && cpuid_reg(e, reg) & B(bit);
}

/* SDM: a basic leaf past the highest gives the highest's data, on Intel; others give zeros. */
static const struct kvm_cpuid_entry2 *out_of_range(struct soft_vcpu *v, uint32_t leaf,
						   uint32_t subleaf)
{
	const struct kvm_cpuid_entry2 *basic = vcpu_cpuid_find(v, 0, 0);
	const struct kvm_cpuid_entry2 *class = vcpu_cpuid_find(v, leaf & 0x80000000, 0);

	if (!basic || memcmp(&basic->ebx, "Genu", 4))
		return NULL;
	if (leaf >= 0x40000000 && leaf <= 0x4fffffff)
		class = vcpu_cpuid_find(v, leaf & 0xffffff00, 0);
	if (class && leaf <= class->eax)
		return NULL;
	return vcpu_cpuid_find(v, basic->eax, subleaf);
}

/* What an entry says changes with the processor's state. */
static void at_run_time(const struct soft_vcpu *v, const struct kvm_cpuid_entry2 *e, uint32_t out[4])
{
	struct engine_sregs s;

	switch (e->function) {
	case 1:
		engine_get_sregs(v->cpu, &s);
		out[2] = (out[2] & ~B(27)) | (s.cr4 >> 18 & 1 ? B(27) : 0); /* OSXSAVE */
		out[3] = (out[3] & ~B(9)) | (lapic_hw_enabled(&v->lapic) ? B(9) : 0);
		break;
	case 0xd:
		if (!e->index && out[0])
			out[1] = engine_xsave_size(v->cpu, engine_get_xcr0(v->cpu), false);
		else if (e->index == 1 && out[0] & B(1))
			out[1] = engine_xsave_size(v->cpu, engine_get_xcr0(v->cpu), true);
		break;
	case KVM_CPUID_FEATURES:
		/* Who is not to be halted by the host cannot be woken by it. */
		if (READ_ONCE(v->vm->disabled_exits) & KVM_X86_DISABLE_EXITS_HLT)
			out[0] &= ~B(KVM_FEATURE_PV_UNHALT);
		break;
	}
}

void vcpu_cpuid_entry(const struct soft_vcpu *v, const struct kvm_cpuid_entry2 *in,
		      struct kvm_cpuid_entry2 *out)
{
	uint32_t regs[4];

	memcpy(regs, &in->eax, sizeof(regs));
	at_run_time(v, in, regs);
	*out = *in;
	memcpy(&out->eax, regs, sizeof(regs));
}

void vcpu_cpuid(struct soft_vcpu *v, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	const struct kvm_cpuid_entry2 *e = vcpu_cpuid_find(v, leaf, subleaf);
	bool exact = e;

	if (!e)
		e = out_of_range(v, leaf, subleaf);
	memset(out, 0, 4 * sizeof(*out));
	if (e)
		memcpy(out, &e->eax, 4 * sizeof(*out));
	if (exact)
		at_run_time(v, e, out);
	/* Topology leaves: a subleaf past the last still tells the level and the x2APIC ID. */
	if (!e && leaf == 0xb) {
		e = vcpu_cpuid_find(v, leaf, 1);
		if (e) {
			out[2] = subleaf & 0xff;
			out[3] = e->edx;
		}
	}
}

/* As the op cpuid, of a processor with all that there is. */
static void best_cpuid(void *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	for (unsigned reg = 0; reg < 4; reg++)
		out[reg] = feature(leaf, subleaf, reg, UINT32_MAX);
}

static void own_cpuid(void *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	vcpu_cpuid(cpu, leaf, subleaf, out);
}

uint64_t vcpu_cr4_bits(struct soft_vcpu *v)
{
	return engine_cr4_bits(v->cpuid ? own_cpuid : best_cpuid, v);
}
