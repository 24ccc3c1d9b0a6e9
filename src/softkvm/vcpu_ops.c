/* SPDX-License-Identifier: MIT
 * What the engine asks of the outside, on the vCPU's thread inside engine_run().
 */
#include "softkvm/usercopy.h"
#include "softkvm/vcpu_state.h"

static bool apic_page(struct soft_vcpu *v, uint64_t addr, uint32_t *offset)
{
	uint64_t base = v->lapic.base_msr & ~0xfffull;

	if (!v->has_lapic || addr - base >= SOFT_PAGE_SIZE)
		return false;
	*offset = (uint32_t)(addr - base);
	return true;
}

/* 0: taken; -EOPNOTSUPP: there is no page now. */
static int apic_access(struct soft_vcpu *v, struct engine_access *a, uint32_t offset)
{
	uint32_t value = 0;
	int r;

	if (a->write) {
		if (offset == LAPIC_EOI)
			vcpu_stat(v, eois);
		if (v->pv.eoi_offered)
			pv_eoi_collect(v);
		r = lapic_mmio_write(&v->lapic, offset, a->len, (uint32_t)a->data, clock_ns());
		vcpu_lapic_done(v);
		return r;
	}
	vcpu_sync_irr(v);
	r = lapic_mmio_read(&v->lapic, offset, a->len, clock_ns(), &value);
	a->data = value;
	return r;
}

static int op_mmio(void *cpu, struct engine_access *a)
{
	struct soft_vcpu *v = cpu;
	uint32_t offset;
	bool taken;

	if (apic_page(v, a->addr, &offset) && !apic_access(v, a, offset)) {
		vcpu_stat(v, mmio_kernel);
		return 0;
	}
	taken = a->write ? iobus_write(&v->vm->mmio, a->addr, a->len, a->data, v)
			 : iobus_read(&v->vm->mmio, a->addr, a->len, &a->data, v);
	if (taken)
		vcpu_stat(v, mmio_kernel);
	return !taken;
}

static int op_io(void *cpu, struct engine_access *a)
{
	struct soft_vcpu *v = cpu;
	bool taken = a->write ? iobus_write(&v->vm->pio, a->addr, a->len, a->data, v)
			      : iobus_read(&v->vm->pio, a->addr, a->len, &a->data, v);

	if (taken)
		vcpu_stat(v, io_kernel);
	return !taken;
}

static bool op_ring(void *cpu, bool io, const struct engine_access *a)
{
	struct soft_vcpu *v = cpu;
	uint32_t offset;

	if (!io && apic_page(v, a->addr, &offset))
		return false;
	if (!iobus_ring(io ? &v->vm->pio : &v->vm->mmio, a->addr, a->len, a->data))
		return false;
	if (io)
		vcpu_stat(v, io_kernel);
	else
		vcpu_stat(v, mmio_kernel);
	return true;
}

/* What the guest gets that may not, or cannot: #GP, or user space's answer if it wants to give one. */
static int msr_refused(struct soft_vcpu *v, uint32_t reason)
{
	v->msr_exit_reason = reason;
	if (READ_ONCE(v->vm->msr_exits) & reason)
		return 2;
	state_forget_payload(v);
	return 1;
}

static int msr_done(struct soft_vcpu *v, int r)
{
	if (r == MSR_OK)
		return 0;
	return msr_refused(v, r == MSR_UNKNOWN ? KVM_MSR_EXIT_REASON_UNKNOWN : KVM_MSR_EXIT_REASON_INVAL);
}

static int op_rdmsr(void *cpu, uint32_t index, uint64_t *value)
{
	struct soft_vcpu *v = cpu;

	if (!msr_filter_allows(v->vm, index, false))
		return msr_refused(v, KVM_MSR_EXIT_REASON_FILTER);
	return msr_done(v, vcpu_msr_get(v, index, value, false));
}

static int op_wrmsr(void *cpu, uint32_t index, uint64_t value)
{
	struct soft_vcpu *v = cpu;

	if (!msr_filter_allows(v->vm, index, true))
		return msr_refused(v, KVM_MSR_EXIT_REASON_FILTER);
	return msr_done(v, vcpu_msr_set(v, index, value, false));
}

static void op_cpuid(void *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	vcpu_cpuid(cpu, leaf, subleaf, out);
}

static int op_intr_take(void *cpu)
{
	return vcpu_take_interrupt(cpu);
}

static uint64_t op_cr8_read(void *cpu)
{
	struct soft_vcpu *v = cpu;

	return v->has_lapic ? lapic_cr8(&v->lapic) : v->cr8;
}

static void op_cr8_write(void *cpu, uint64_t value)
{
	struct soft_vcpu *v = cpu;

	if (!v->has_lapic) {
		v->cr8 = value & 0xf;
		return;
	}
	if (v->pv.eoi_offered)
		pv_eoi_collect(v);
	lapic_set_cr8(&v->lapic, value);
}

static int op_hypercall(void *cpu, uint64_t nr, const uint64_t args[4], uint64_t *result)
{
	struct soft_vcpu *v = cpu;

	vcpu_stat(v, hypercalls);
	return pv_hypercall(v, nr, args, result);
}

static bool op_fixes_hypercall(void *cpu)
{
	const struct soft_vcpu *v = cpu;

	return vm_quirk(v->vm, KVM_X86_QUIRK_FIX_HYPERCALL_INSN);
}

GENERAL_REGS_ONLY static void op_dirtied(void *cpu, uint32_t id, uint64_t page)
{
	struct soft_vcpu *v = cpu;

	if (!v->ring.gfn)
		return;
	dirty_ring_push(&v->ring, id, page);
	if (dirty_ring_full(&v->ring))
		engine_vcpu_kick(v->cpu, ENGINE_KICK_EXIT);
}

const struct engine_ops vcpu_engine_ops = {
	.mmio = op_mmio, .io = op_io, .ring = op_ring, .rdmsr = op_rdmsr, .wrmsr = op_wrmsr, .cpuid = op_cpuid,
	.intr_take = op_intr_take, .cr8_read = op_cr8_read, .cr8_write = op_cr8_write,
	.hypercall = op_hypercall, .fixes_hypercall = op_fixes_hypercall, .dirtied = op_dirtied, .handles_fault = usercopy_owns,
};
