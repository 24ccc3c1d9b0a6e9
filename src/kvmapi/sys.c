/* SPDX-License-Identifier: MIT */
#include "kvmapi/kvmapi_priv.h"
#include <stdlib.h>

#define CAP(c, req, why) { KVM_CAP_##c, "KVM_CAP_" #c, why, req }

const struct cap_info cap_table[] = {
	CAP(USER_MEMORY, true, "guest memory"),
	CAP(IRQCHIP, true, "in-kernel PIC, IOAPIC and local APICs"),
	CAP(EXT_CPUID, true, "the guest's CPUID"),
	CAP(SET_TSS_ADDR, true, "real-mode support pages"),
	CAP(IMMEDIATE_EXIT, true, "kicking a vCPU thread without a race"),
	CAP(IRQ_ROUTING, true, "gsi to pin and MSI routes"),
	CAP(PIT2, true, "the interval timer"),
	CAP(MP_STATE, true, "starting and resetting secondary CPUs"),
	CAP(IOEVENTFD, false, "notify=ioeventfd: kicks without leaving to the monitor"),
	CAP(IOEVENTFD_NO_LENGTH, false, "zero-length doorbells"),
	CAP(IOEVENTFD_ANY_LENGTH, false, "doorbells of any access width"),
	CAP(IRQFD, false, "inject=irqfd: calls by writing an eventfd"),
	CAP(IRQFD_RESAMPLE, false, "level interrupts through eventfds"),
	CAP(SIGNAL_MSI, false, "inject=msi: calls by one ioctl"),
	CAP(IRQ_INJECT_STATUS, false, "knowing whether a line was coalesced"),
	CAP(COALESCED_MMIO, false, "batched device writes"),
	CAP(COALESCED_PIO, false, "batched port writes"),
	CAP(SPLIT_IRQCHIP, false, "irqchip=split"),
	CAP(SET_IDENTITY_MAP_ADDR, false, "placing the identity map page"),
	CAP(TSC_DEADLINE_TIMER, false, "the guest's TSC-deadline timer"),
	CAP(X2APIC_API, false, "more than 255 CPUs, 32-bit APIC IDs"),
	CAP(VCPU_EVENTS, false, "saving pending events"),
	CAP(XSAVE, false, "saving vector state"),
	CAP(ADJUST_CLOCK, false, "the guest's kvmclock across pauses"),
	CAP(READONLY_MEM, false, "ROM"),
	CAP(BINARY_STATS_FD, false, "statistics of the KVM half"),
	CAP(DIRTY_LOG_RING, false, "dirty tracking by ring"),
	CAP(MANUAL_DIRTY_LOG_PROTECT2, false, "dirty tracking, cleared in parts"),
	{ 0 },
};

int sys_check_extension(struct sys *s, unsigned cap)
{
	int r = api_ioctl(&s->api, s->fd, KVM_CHECK_EXTENSION, cap);

	return r < 0 ? 0 : r;
}

static int explain_open(int r, const struct kvmapi *api, struct err *e)
{
	const char *node = api->ctx ? api->ctx : "/dev/kvm";

	switch (r) {
	case -ENOENT:
		return err_set(e, r, "%s does not exist: load the kvm_intel or kvm_amd module, or "
			       "enable virtualization in the firmware", node);
	case -EACCES:
	case -EPERM:
		return err_set(e, r, "no permission to open %s: add the user to its group (usually "
			       "\"kvm\") or run as root", node);
	case -ENODEV:
	case -ENXIO:
		return err_set(e, r, "%s has no KVM behind it: load the kvm_intel or kvm_amd module",
			       node);
	default:
		return err_set(e, r, "cannot open %s: %s", node, strerror(-r));
	}
}

int sys_open(struct sys *s, const struct kvmapi *api, struct err *e)
{
	int r;

	s->api = *api;
	s->fd = api->ops->open(api->ctx);
	if (s->fd < 0)
		return explain_open(s->fd, api, e);
	r = api_ioctl(api, s->fd, KVM_GET_API_VERSION, 0);
	if (r != KVM_API_VERSION) {
		r = err_set(e, r < 0 ? r : -ENOTSUP,
			    "KVM API version %d is not the stable version %d: use a newer kernel", r,
			    KVM_API_VERSION);
		goto close_fd;
	}
	r = api_ioctl(api, s->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (r < (int)sizeof(struct kvm_run)) {
		r = err_set(e, r < 0 ? r : -EIO, "KVM_GET_VCPU_MMAP_SIZE failed: %s",
			    strerror(r < 0 ? -r : EIO));
		goto close_fd;
	}
	s->vcpu_mmap_size = (size_t)r;
	return 0;

close_fd:
	sys_close(s);
	return r;
}

void sys_close(struct sys *s)
{
	if (s->fd >= 0)
		(void)s->api.ops->close(s->api.ctx, s->fd);
	s->fd = -1;
}

int sys_check_required(struct sys *s, struct err *e)
{
	for (const struct cap_info *c = cap_table; c->name; c++)
		if (c->required && !sys_check_extension(s, c->cap))
			return err_set(e, -ENOTSUP,
				       "this KVM lacks %s (%s): use a newer kernel or another accelerator",
				       c->name, c->purpose);
	return 0;
}

int sys_supported_cpuid(struct sys *s, struct kvm_cpuid2 **out)
{
	struct kvm_cpuid2 *c;
	unsigned nr = 128;
	int r;

	for (;;) {
		c = calloc(1, sizeof(*c) + nr * sizeof(c->entries[0]));
		if (!c)
			return -ENOMEM;
		c->nent = nr;
		r = api_ioctl(&s->api, s->fd, KVM_GET_SUPPORTED_CPUID, (uintptr_t)c);
		if (r >= 0) {
			*out = c;
			return 0;
		}
		free(c);
		if (r != -E2BIG || nr > 4096)
			return r;
		nr *= 2;
	}
}

int sys_msr_list(struct sys *s, struct kvm_msr_list **out)
{
	struct kvm_msr_list probe = { 0 }, *l;
	int r = api_ioctl(&s->api, s->fd, KVM_GET_MSR_INDEX_LIST, (uintptr_t)&probe);

	/* -E2BIG tells how many there are. */
	if (r < 0 && r != -E2BIG)
		return r;
	l = calloc(1, sizeof(*l) + probe.nmsrs * sizeof(l->indices[0]));
	if (!l)
		return -ENOMEM;
	l->nmsrs = probe.nmsrs;
	r = api_ioctl(&s->api, s->fd, KVM_GET_MSR_INDEX_LIST, (uintptr_t)l);
	if (r < 0) {
		free(l);
		return r;
	}
	*out = l;
	return 0;
}
