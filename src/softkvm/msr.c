/* SPDX-License-Identifier: MIT
 * MSRs that are not the engine's. Most of them only keep a value: what they
 * steer does not exist here, but guests write and savers read them.
 */
#include "softkvm/msr.h"
#include "softkvm/cpuid.h"
#include "softkvm/vcpu.h"
#include <linux/kvm_para.h>
#include <stdlib.h>

enum {
	MSR_APIC_BASE = 0x1b, MSR_TSC_ADJUST = 0x3b, MSR_TSC = 0x10, MSR_TSC_DEADLINE = 0x6e0,
	MSR_MCG_CAP = 0x179, MSR_MCG_STATUS = 0x17a, MSR_MCG_CTL = 0x17b, MSR_MC0_CTL = 0x400,
	MSR_X2APIC_FIRST = 0x800, MSR_X2APIC_LAST = 0x8ff, MSR_MTRR_CAP = 0xfe, MSR_MTRR_DEF_TYPE = 0x2ff,
	MSR_UCODE_REV = 0x8b, MSR_PLATFORM_INFO = 0xce, MSR_HWCR = 0xc0010015,
};

struct stored {
	uint32_t first, last;
	uint64_t initial;
	uint64_t guest; /* bits the guest may write; others must be 0 */
	uint64_t host;	/* bits user space may write */
	uint64_t dropped; /* of these, bits that are taken and stay 0 */
	uint64_t kept;	/* of these, bits that a guest's write must not change */
};

#define ALL UINT64_MAX
#define NO_TRACING (BIT_ULL(11) | BIT_ULL(12)) /* BTS and PEBS unavailable */
#define HWCR_MCE_WRITE BIT_ULL(18) /* McStatusWrEn: the guest may make up errors */
/* It and TscFreqSel; TLB cache, flush filter and IGNNE settings are nobody's here. */
#define HWCR_DROPPED (BIT_ULL(3) | BIT_ULL(6) | BIT_ULL(8))
#define HWCR	     (HWCR_MCE_WRITE | BIT_ULL(24) | HWCR_DROPPED)

static const struct stored stored[] = {
	{ 0x2a, 0x2a, 0, 0, 0 },			/* EBL_CR_POWERON */
	{ 0x34, 0x34, 0, 0, ALL },			/* SMI_COUNT */
	{ MSR_UCODE_REV, MSR_UCODE_REV, 0x100000000ull, 0, ALL },
	{ MSR_PLATFORM_INFO, MSR_PLATFORM_INFO, 1ull << 31, 0, ALL },
	{ 0x140, 0x140, 0, 0, 1 },			/* MISC_FEATURES_ENABLES */
	{ 0x198, 0x198, 0x400000003e8ull, 0, 0 },	/* PERF_STATUS */
	{ 0x1a0, 0x1a0, NO_TRACING, ALL, ALL, .kept = NO_TRACING }, /* MISC_ENABLE */
	{ 0x1fc, 0x1fc, 0, ALL, ALL },			/* POWER_CTL */
	{ 0x1d9, 0x1d9, 0, 3, 3 },			/* DEBUGCTL: LBR, BTF, without effect */
	{ 0x1db, 0x1de, 0, 0, 0 },			/* last branch and interrupt */
	{ 0x200, 0x20f, 0, ALL, ALL },			/* MTRRs: see mtrr_valid() */
	{ 0x250, 0x250, 0, ALL, ALL }, { 0x258, 0x259, 0, ALL, ALL }, { 0x268, 0x26f, 0, ALL, ALL },
	{ MSR_MTRR_DEF_TYPE, MSR_MTRR_DEF_TYPE, 0, 0xcff, 0xcff },
	{ 0xc0010010, 0xc0010010, 0, 0, 0 },		/* SYSCFG */
	{ MSR_HWCR, MSR_HWCR, 0, HWCR, HWCR, HWCR_DROPPED },
	{ 0xc001001b, 0xc001001b, 0x20000000, ALL, ALL }, { 0xc001001f, 0xc001001f, 0, ALL, ALL },
	{ 0xc0010055, 0xc0010055, 0, 0, 0 }, { 0xc0010058, 0xc0010058, 0, 0, 0 },
	{ 0xc0010117, 0xc0010117, 0, ALL, ALL },	/* VM_HSAVE_PA */
	{ 0xc0011022, 0xc0011022, 0, ALL, ALL },
};

/* The place of index in vcpu_msrs.stored, and its row; NULL: not one of these. */
static const struct stored *find_stored(uint32_t index, unsigned *place)
{
	*place = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(stored); i++) {
		const struct stored *s = &stored[i];

		if (index >= s->first && index <= s->last) {
			*place += index - s->first;
			return *place < MSR_STORED_MAX ? s : NULL;
		}
		*place += s->last - s->first + 1;
	}
	return NULL;
}

void msr_init(struct soft_vcpu *v)
{
	for (unsigned i = 0; i < ARRAY_SIZE(stored); i++) {
		for (uint32_t n = stored[i].first; n <= stored[i].last; n++) {
			unsigned place;

			if (find_stored(n, &place))
				v->msr.stored[place] = stored[i].initial;
		}
	}
	v->msr.mcg_cap = MCG_MAX_BANKS;
	v->pv.poll_msr = 1;
}

static const uint32_t saved[] = {
	0x174, 0x175, 0x176, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102, 0xc0000103,
	0x10, 0x277, 0xc0000080, 0x1d9, 0x1db, 0x1dc, 0x1dd, 0x1de, 0xc0010117,
	MSR_KVM_WALL_CLOCK, MSR_KVM_SYSTEM_TIME, MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_SYSTEM_TIME_NEW,
	MSR_KVM_STEAL_TIME, MSR_KVM_PV_EOI_EN, MSR_KVM_POLL_CONTROL,
	MSR_TSC_ADJUST, MSR_TSC_DEADLINE, 0x1a0, MSR_MCG_STATUS, MSR_MCG_CTL, 0x34, MSR_PLATFORM_INFO,
	0x140, MSR_UCODE_REV, 0xc0010015, 0x2ff,
};

const uint32_t *msr_list(unsigned *nr)
{
	*nr = ARRAY_SIZE(saved);
	return saved;
}

const uint32_t *msr_feature_list(unsigned *nr)
{
	static const uint32_t list[] = { MSR_UCODE_REV, MSR_PLATFORM_INFO };

	*nr = ARRAY_SIZE(list);
	return list;
}

int msr_feature_get(uint32_t index, uint64_t *value)
{
	unsigned place;
	const struct stored *s = find_stored(index, &place);

	if (!s || (index != MSR_UCODE_REV && index != MSR_PLATFORM_INFO))
		return -EINVAL;
	*value = s->initial;
	return 0;
}

static bool is_mce(struct soft_vcpu *v, uint32_t index)
{
	return index <= 1 || /* the P5's address and type */
	       (index >= MSR_MCG_CAP && index <= MSR_MCG_CTL) ||
	       (index >= MSR_MC0_CTL && index < MSR_MC0_CTL + 4 * MCG_MAX_BANKS);
}

static int mce_get(struct soft_vcpu *v, uint32_t index, uint64_t *value, bool host)
{
	switch (index) {
	case 0:
	case 1:
		*value = 0;
		return 0;
	case MSR_MCG_CAP:
		*value = v->msr.mcg_cap;
		return 0;
	case MSR_MCG_STATUS:
		*value = v->msr.mcg_status;
		return 0;
	case MSR_MCG_CTL:
		if (!(v->msr.mcg_cap & 1 << 8) && !host)
			return 1;
		*value = v->msr.mcg_ctl;
		return 0;
	}
	if ((index - MSR_MC0_CTL) / 4 >= (v->msr.mcg_cap & 0xff))
		return 1;
	*value = v->msr.mci[index - MSR_MC0_CTL];
	return 0;
}

static uint64_t hwcr(struct soft_vcpu *v)
{
	unsigned place;

	return find_stored(MSR_HWCR, &place) ? v->msr.stored[place] : 0;
}

static int mce_set(struct soft_vcpu *v, uint32_t index, uint64_t value, bool host)
{
	uint32_t n = index - MSR_MC0_CTL;

	switch (index) {
	case 0:
	case 1:
	case MSR_MCG_CAP:
		return 1;
	case MSR_MCG_STATUS:
		v->msr.mcg_status = value;
		return 0;
	case MSR_MCG_CTL:
		if ((!(v->msr.mcg_cap & 1 << 8) && (value || !host)) || (value && ~value))
			return 1;
		v->msr.mcg_ctl = value;
		return 0;
	}
	if (n / 4 >= (v->msr.mcg_cap & 0xff))
		return 1;
	/* All or nothing enables; some systems clear bit 10 of bank 4. The guest only clears a status. */
	if (n % 4 == 0 && value && (value | 1 << 10 | 1) != UINT64_MAX)
		return 1;
	if (n % 4 == 1 && !host && value && !(hwcr(v) & HWCR_MCE_WRITE))
		return 1;
	v->msr.mci[n] = value;
	return 0;
}

static int set_tsc(struct soft_vcpu *v, uint32_t index, uint64_t value, bool host)
{
	/* A guest that does not have it may write it, to no effect. */
	if (index == MSR_TSC_ADJUST && !vcpu_cpuid_has(v, CPUID_TSC_ADJUST))
		return MSR_OK;
	if (index == MSR_TSC)
		(host ? vcpu_tsc_load : vcpu_tsc_write)(v, value);
	else if (host)
		v->tsc_adjust = value; /* the TSC stays */
	else
		vcpu_tsc_write_adjust(v, value);
	return MSR_OK;
}

static int apic_get(struct soft_vcpu *v, uint32_t index, uint64_t *value)
{
	switch (index) {
	case MSR_APIC_BASE:
		*value = v->lapic.base_msr;
		return 0;
	case MSR_TSC_DEADLINE:
		*value = v->has_lapic ? lapic_tsc_deadline(&v->lapic) : 0;
		return 0;
	}
	if (!v->has_lapic)
		return 1;
	vcpu_sync_irr(v);
	return lapic_msr_read(&v->lapic, index, clock_ns(), value) ? 1 : 0;
}

static int apic_set(struct soft_vcpu *v, uint32_t index, uint64_t value, bool host)
{
	int r = 0;

	if (!v->has_lapic && index != MSR_APIC_BASE)
		return index != MSR_TSC_DEADLINE;
	if (v->pv.eoi_offered)
		pv_eoi_collect(v);
	switch (index) {
	case MSR_APIC_BASE:
		r = lapic_set_base(&v->lapic, value, host);
		if (!r)
			engine_vcpu_cpuid_changed(v->cpu);
		break;
	case MSR_TSC_DEADLINE:
		lapic_set_tsc_deadline(&v->lapic, value);
		break;
	default:
		if (index == MSR_X2APIC_FIRST + (LAPIC_EOI >> 4))
			vcpu_stat(v, eois);
		r = lapic_msr_write(&v->lapic, index, value, clock_ns());
	}
	vcpu_lapic_done(v);
	return r ? 1 : 0;
}

static bool is_apic(uint32_t index)
{
	return index == MSR_APIC_BASE || index == MSR_TSC_DEADLINE ||
	       (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST);
}

static bool is_pv(uint32_t index)
{
	return index == MSR_KVM_WALL_CLOCK || index == MSR_KVM_SYSTEM_TIME ||
	       (index >= MSR_KVM_WALL_CLOCK_NEW && index <= 0x4b564dff);
}

/* SDM Vol. 3A, "Memory Type Range Registers (MTRRs)": types 0, 1, 4 to 6; reserved bits. */
static bool mtrr_valid(const struct soft_vcpu *v, uint32_t index, uint64_t value)
{
	const unsigned types = 0x73;
	unsigned bytes = 1;

	if (index >= 0x250 && index <= 0x26f)
		bytes = 8;
	else if (index >= 0x200 && index <= 0x20f && (value & (index & 1 ? 0x7ff : 0xf00) ||
						      (v->phys_bits < 64 && value >> v->phys_bits)))
		return false;
	else if (!(index >= 0x200 && index <= 0x20f && !(index & 1)) && index != MSR_MTRR_DEF_TYPE)
		return true;
	for (unsigned i = 0; i < bytes; i++)
		if (value >> i * 8 & 0xf8 || !(types >> (value >> i * 8 & 7) & 1))
			return false;
	return true;
}

/* P6's and K7's performance counters: they take everything and read as zero. */
static bool is_counter(uint32_t index)
{
	return index == 0x186 || index == 0x187 || index == 0xc1 || index == 0xc2 ||
	       (index >= 0xc0010000 && index <= 0xc0010007);
}

int vcpu_msr_get(struct soft_vcpu *v, uint32_t index, uint64_t *value, bool host)
{
	unsigned place;
	int r;

	if (is_apic(index))
		return apic_get(v, index, value);
	if (is_pv(index))
		return pv_msr_get(v, index, value);
	if (is_mce(v, index))
		return mce_get(v, index, value, host);
	if (index == MSR_TSC_ADJUST) {
		*value = v->tsc_adjust;
		return 0;
	}
	if (index == MSR_PLATFORM_INFO && !host && READ_ONCE(v->vm->hide_platform_info))
		return MSR_INVALID;
	if (is_counter(index)) {
		*value = 0;
		return 0;
	}
	if (index == MSR_MTRR_CAP) {
		*value = 0x508; /* 8 variable ranges, fixed ones, WC */
		return 0;
	}
	if (find_stored(index, &place)) {
		*value = v->msr.stored[place];
		return 0;
	}
	r = host ? engine_get_msr(v->cpu, index, value) : engine_guest_rdmsr(v->cpu, index, value);
	return r == -ENOENT ? MSR_UNKNOWN : r ? MSR_INVALID : MSR_OK;
}

int vcpu_msr_set(struct soft_vcpu *v, uint32_t index, uint64_t value, bool host)
{
	const struct stored *s;
	unsigned place;
	int r;

	if (is_apic(index))
		return apic_set(v, index, value, host);
	if (is_pv(index))
		return pv_msr_set(v, index, value);
	if (is_mce(v, index))
		return mce_set(v, index, value, host);
	if (index == MSR_TSC || index == MSR_TSC_ADJUST)
		return set_tsc(v, index, value, host);
	if (is_counter(index))
		return 0;
	/* Loading microcode is quietly accepted from a guest that tries. */
	if (index == 0x79 || (index == MSR_UCODE_REV && !host))
		return 0;
	s = find_stored(index, &place);
	if (s) {
		/* What it is shows in it: as CPUID it stays once the guest has run. */
		if (index == MSR_PLATFORM_INFO && v->has_run && value != v->msr.stored[place])
			return 1;
		if (value & ~(host ? s->host : s->guest) || !mtrr_valid(v, index, value))
			return 1;
		if (!host && (value ^ v->msr.stored[place]) & s->kept)
			return 1;
		v->msr.stored[place] = value & ~s->dropped;
		return 0;
	}
	r = host ? engine_set_msr(v->cpu, index, value) : engine_guest_wrmsr(v->cpu, index, value);
	return r == -ENOENT ? MSR_UNKNOWN : r ? MSR_INVALID : MSR_OK;
}

/* ---- KVM_X86_SET_MSR_FILTER --------------------------------------------------- */

struct msr_filter {
	bool default_deny;
	unsigned nr;
	struct {
		uint32_t flags, base, nmsrs;
		uint8_t *bits;
	} range[KVM_MSR_FILTER_MAX_RANGES];
};

void msr_filter_free(struct msr_filter *f)
{
	if (!f)
		return;
	for (unsigned i = 0; i < f->nr; i++)
		free(f->range[i].bits);
	free(f);
}

static int add_range(struct msr_filter *f, const struct kvm_msr_filter_range *r)
{
	size_t size = ((size_t)r->nmsrs + 63) / 64 * 8;
	uint8_t *bits;

	if (!r->nmsrs)
		return 0;
	if (r->flags & ~(uint32_t)(KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE) || !r->flags ||
	    size > 0x600)
		return -EINVAL;
	bits = malloc(size);
	if (!bits)
		return -ENOMEM;
	if (copy_from_user(bits, (uintptr_t)r->bitmap, size)) {
		free(bits);
		return -EFAULT;
	}
	f->range[f->nr].flags = r->flags;
	f->range[f->nr].base = r->base;
	f->range[f->nr].nmsrs = r->nmsrs;
	f->range[f->nr++].bits = bits;
	return 0;
}

int msr_filter_set(struct soft_vm *vm, uintptr_t arg)
{
	struct kvm_msr_filter in;
	struct msr_filter *f, *old;
	bool empty = true;
	int r = 0;

	if (copy_from_user(&in, arg, sizeof(in)))
		return -EFAULT;
	if (in.flags & ~(uint32_t)KVM_MSR_FILTER_DEFAULT_DENY)
		return -EINVAL;
	for (unsigned i = 0; i < ARRAY_SIZE(in.ranges); i++)
		empty &= !in.ranges[i].nmsrs;
	/* Deny everything and name no exception: that cannot be meant. */
	if (empty && in.flags & KVM_MSR_FILTER_DEFAULT_DENY)
		return -EINVAL;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->default_deny = in.flags & KVM_MSR_FILTER_DEFAULT_DENY;
	for (unsigned i = 0; i < ARRAY_SIZE(in.ranges) && !r; i++)
		r = add_range(f, &in.ranges[i]);
	if (r) {
		msr_filter_free(f);
		return r;
	}
	mutex_lock(&vm->lock);
	old = atomic_exchange(&vm->msr_filter, f);
	grace_wait(&vm->grace);
	mutex_unlock(&vm->lock);
	msr_filter_free(old);
	return 0;
}

static bool allows(const struct msr_filter *f, uint32_t index, uint32_t access)
{
	for (unsigned i = 0; i < f->nr; i++) {
		uint32_t n = index - f->range[i].base;

		if (index >= f->range[i].base && n < f->range[i].nmsrs && f->range[i].flags & access)
			return f->range[i].bits[n / 8] >> n % 8 & 1;
	}
	return !f->default_deny;
}

bool msr_filter_allows(struct soft_vm *vm, uint32_t index, bool write)
{
	const struct msr_filter *f;
	bool ok = true;
	unsigned g;

	/* The x2APIC's registers are not filtered. */
	if (!atomic_load_explicit(&vm->msr_filter, memory_order_relaxed) ||
	    (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST))
		return true;
	g = grace_enter(&vm->grace);
	f = atomic_load(&vm->msr_filter);
	if (f)
		ok = allows(f, index, write ? KVM_MSR_FILTER_WRITE : KVM_MSR_FILTER_READ);
	grace_leave(&vm->grace, g);
	return ok;
}
