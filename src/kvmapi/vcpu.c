/* SPDX-License-Identifier: MIT */
#include "kvmapi/kvmapi_priv.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int vcpu_open(struct vcpu *v, struct vm *vm, unsigned id)
{
	const struct kvmapi *api = &vm->sys->api;
	void *run;
	int fd, r;

	fd = vm_ioctl_val(vm, KVM_CREATE_VCPU, id);
	if (fd < 0)
		return fd;
	r = api->ops->mmap(api->ctx, fd, vm->sys->vcpu_mmap_size, 0, &run);
	if (r) {
		(void)api->ops->close(api->ctx, fd);
		return r;
	}
	*v = (struct vcpu){ .vm = vm, .id = id, .fd = fd, .run = run };
	return 0;
}

void vcpu_close(struct vcpu *v)
{
	if (!v->run)
		return;
	const struct kvmapi *api = &v->vm->sys->api;

	(void)api->ops->munmap(api->ctx, v->run, v->vm->sys->vcpu_mmap_size);
	(void)api->ops->close(api->ctx, v->fd);
	v->run = NULL;
	v->fd = -1;
}

int vcpu_run(struct vcpu *v)
{
	return vcpu_ioctl(v, KVM_RUN, NULL);
}

struct kvm_coalesced_mmio_ring *vcpu_coalesced_ring(struct vcpu *v)
{
	int page = vm_check_extension(v->vm, KVM_CAP_COALESCED_MMIO);

	if (page <= 0)
		return NULL;
	return (void *)((char *)v->run + (size_t)page * (size_t)sysconf(_SC_PAGESIZE));
}

int vcpu_get_regs(struct vcpu *v, struct kvm_regs *r)
{
	return vcpu_ioctl(v, KVM_GET_REGS, r);
}

int vcpu_set_regs(struct vcpu *v, const struct kvm_regs *r)
{
	return vcpu_ioctl(v, KVM_SET_REGS, r);
}

int vcpu_get_sregs(struct vcpu *v, struct kvm_sregs *r)
{
	return vcpu_ioctl(v, KVM_GET_SREGS, r);
}

int vcpu_set_sregs(struct vcpu *v, const struct kvm_sregs *r)
{
	return vcpu_ioctl(v, KVM_SET_SREGS, r);
}

int vcpu_get_fpu(struct vcpu *v, struct kvm_fpu *f)
{
	return vcpu_ioctl(v, KVM_GET_FPU, f);
}

int vcpu_set_fpu(struct vcpu *v, const struct kvm_fpu *f)
{
	return vcpu_ioctl(v, KVM_SET_FPU, f);
}

int vcpu_set_cpuid(struct vcpu *v, const struct kvm_cpuid2 *c)
{
	return vcpu_ioctl(v, KVM_SET_CPUID2, c);
}

int vcpu_get_msrs(struct vcpu *v, struct kvm_msrs *m)
{
	return vcpu_ioctl(v, KVM_GET_MSRS, m);
}

int vcpu_set_msrs(struct vcpu *v, const struct kvm_msrs *m)
{
	return vcpu_ioctl(v, KVM_SET_MSRS, m);
}

int vcpu_get_lapic(struct vcpu *v, struct kvm_lapic_state *s)
{
	return vcpu_ioctl(v, KVM_GET_LAPIC, s);
}

int vcpu_set_lapic(struct vcpu *v, const struct kvm_lapic_state *s)
{
	return vcpu_ioctl(v, KVM_SET_LAPIC, s);
}

int vcpu_get_mp_state(struct vcpu *v, struct kvm_mp_state *s)
{
	return vcpu_ioctl(v, KVM_GET_MP_STATE, s);
}

int vcpu_set_mp_state(struct vcpu *v, const struct kvm_mp_state *s)
{
	return vcpu_ioctl(v, KVM_SET_MP_STATE, s);
}

int vcpu_get_events(struct vcpu *v, struct kvm_vcpu_events *e)
{
	return vcpu_ioctl(v, KVM_GET_VCPU_EVENTS, e);
}

int vcpu_set_events(struct vcpu *v, const struct kvm_vcpu_events *e)
{
	return vcpu_ioctl(v, KVM_SET_VCPU_EVENTS, e);
}

int vcpu_get_xcrs(struct vcpu *v, struct kvm_xcrs *x)
{
	return vcpu_ioctl(v, KVM_GET_XCRS, x);
}

int vcpu_set_xcrs(struct vcpu *v, const struct kvm_xcrs *x)
{
	return vcpu_ioctl(v, KVM_SET_XCRS, x);
}

int vcpu_get_debugregs(struct vcpu *v, struct kvm_debugregs *d)
{
	return vcpu_ioctl(v, KVM_GET_DEBUGREGS, d);
}

int vcpu_set_debugregs(struct vcpu *v, const struct kvm_debugregs *d)
{
	return vcpu_ioctl(v, KVM_SET_DEBUGREGS, d);
}

int vcpu_get_xsave(struct vcpu *v, struct kvm_xsave *x)
{
	return vcpu_ioctl(v, KVM_GET_XSAVE, x);
}

int vcpu_set_xsave(struct vcpu *v, const struct kvm_xsave *x)
{
	return vcpu_ioctl(v, KVM_SET_XSAVE, x);
}

uint32_t vcpu_get_tsc_khz(struct vcpu *v)
{
	int r = vcpu_ioctl(v, KVM_GET_TSC_KHZ, NULL);

	return r > 0 ? (uint32_t)r : 0;
}

int vcpu_set_tsc_khz(struct vcpu *v, uint32_t khz)
{
	return vcpu_ioctl(v, KVM_SET_TSC_KHZ, (void *)(uintptr_t)khz);
}

int vcpu_get_tsc_offset(struct vcpu *v, uint64_t *offset)
{
	const struct kvm_device_attr a = {
		.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)offset,
	};

	return vcpu_ioctl(v, KVM_GET_DEVICE_ATTR, &a);
}

int vcpu_set_tsc_offset(struct vcpu *v, uint64_t offset)
{
	const struct kvm_device_attr a = {
		.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset,
	};

	return vcpu_ioctl(v, KVM_SET_DEVICE_ATTR, &a);
}

int vcpu_set_signal_mask(struct vcpu *v, const void *sigset, unsigned len)
{
	struct {
		struct kvm_signal_mask m;
		uint8_t set[8];
	} arg = { .m.len = len };

	if (!sigset)
		return vcpu_ioctl(v, KVM_SET_SIGNAL_MASK, NULL);
	if (len > sizeof(arg.set))
		return -EINVAL;
	memcpy(arg.m.sigset, sigset, len);
	return vcpu_ioctl(v, KVM_SET_SIGNAL_MASK, &arg);
}

int vcpu_interrupt(struct vcpu *v, unsigned vector)
{
	struct kvm_interrupt i = { .irq = vector };

	return vcpu_ioctl(v, KVM_INTERRUPT, &i);
}

int vcpu_nmi(struct vcpu *v)
{
	return vcpu_ioctl(v, KVM_NMI, NULL);
}

#define EXIT(n) [KVM_EXIT_##n] = "KVM_EXIT_" #n

static const char *const exit_names[] = {
	EXIT(UNKNOWN), EXIT(EXCEPTION), EXIT(IO), EXIT(HYPERCALL), EXIT(DEBUG), EXIT(HLT),
	EXIT(MMIO), EXIT(IRQ_WINDOW_OPEN), EXIT(SHUTDOWN), EXIT(FAIL_ENTRY), EXIT(INTR),
	EXIT(SET_TPR), EXIT(TPR_ACCESS), EXIT(NMI), EXIT(INTERNAL_ERROR), EXIT(SYSTEM_EVENT),
	EXIT(IOAPIC_EOI), EXIT(HYPERV), EXIT(X86_RDMSR), EXIT(X86_WRMSR), EXIT(DIRTY_RING_FULL),
	EXIT(AP_RESET_HOLD), EXIT(X86_BUS_LOCK), EXIT(XEN), EXIT(NOTIFY),
};

const char *vcpu_exit_name(unsigned reason)
{
	if (reason >= ARRAY_SIZE(exit_names) || !exit_names[reason])
		return "unknown";
	return exit_names[reason];
}

void vcpu_describe(struct vcpu *v, char *buf, size_t len)
{
	const struct kvm_run *run = v->run;
	struct kvm_regs r;
	struct kvm_sregs s;
	int n = 0;

	buf[0] = '\0';
	if (vcpu_get_regs(v, &r) < 0 || vcpu_get_sregs(v, &s) < 0) {
		snprintf(buf, len, "  (the registers cannot be read)");
		return;
	}
	n += snprintf(buf, len,
		      "  vCPU %u, last exit %s (%u)\n"
		      "  rip %016llx rflags %08llx cs %04x ss %04x cpl %u\n"
		      "  rax %016llx rbx %016llx rcx %016llx rdx %016llx\n"
		      "  rsi %016llx rdi %016llx rbp %016llx rsp %016llx\n"
		      "  r8  %016llx r9  %016llx r10 %016llx r11 %016llx\n"
		      "  r12 %016llx r13 %016llx r14 %016llx r15 %016llx\n"
		      "  cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx efer %llx",
		      v->id, vcpu_exit_name(run->exit_reason), run->exit_reason, r.rip, r.rflags,
		      s.cs.selector, s.ss.selector, s.ss.dpl, r.rax, r.rbx, r.rcx, r.rdx, r.rsi,
		      r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15,
		      s.cr0, s.cr2, s.cr3, s.cr4, s.efer);
	if (n < 0 || (size_t)n >= len)
		return;
	if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		n += snprintf(buf + n, len - (size_t)n, "\n  internal error, suberror %u",
			      run->internal.suberror);
	else if (run->exit_reason == KVM_EXIT_FAIL_ENTRY)
		n += snprintf(buf + n, len - (size_t)n, "\n  hardware entry failure reason 0x%llx",
			      run->fail_entry.hardware_entry_failure_reason);
}
