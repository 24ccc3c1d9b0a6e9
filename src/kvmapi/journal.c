/* SPDX-License-Identifier: MIT */
#include "kvmapi/journal.h"
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* What a call means for those noted before it. */
enum effect {
	PASS,	 /* state that can be read back, an event, a question */
	ADD,	 /* one more */
	REPLACE, /* in place of the last of its kind */
	SLOT, CAP, IOEVENTFD, IRQFD, ZONE, UNZONE,
};

static const struct row {
	unsigned long request;
	enum effect effect;
	bool raw;
} rows[] = {
	/* VM */
	{ KVM_SET_TSS_ADDR, REPLACE, true }, { KVM_SET_IDENTITY_MAP_ADDR, REPLACE },
	{ KVM_CREATE_IRQCHIP, ADD, true }, { KVM_CREATE_PIT2, ADD },
	{ KVM_REINJECT_CONTROL, REPLACE }, { KVM_SET_BOOT_CPU_ID, REPLACE, true },
	{ KVM_CREATE_VCPU, ADD, true }, { KVM_SET_USER_MEMORY_REGION, SLOT },
	{ KVM_SET_GSI_ROUTING, REPLACE }, { KVM_IOEVENTFD, IOEVENTFD }, { KVM_IRQFD, IRQFD },
	{ KVM_REGISTER_COALESCED_MMIO, ZONE }, { KVM_UNREGISTER_COALESCED_MMIO, UNZONE },
	{ KVM_CHECK_EXTENSION, PASS }, { KVM_IRQ_LINE, PASS }, { KVM_IRQ_LINE_STATUS, PASS },
	{ KVM_SIGNAL_MSI, PASS }, { KVM_GET_IRQCHIP, PASS }, { KVM_SET_IRQCHIP, PASS },
	{ KVM_GET_PIT2, PASS }, { KVM_SET_PIT2, PASS }, { KVM_GET_CLOCK, PASS },
	{ KVM_SET_CLOCK, PASS }, { KVM_GET_DIRTY_LOG, PASS },
	/* both */
	{ KVM_ENABLE_CAP, CAP }, { KVM_GET_STATS_FD, PASS },
	/* vCPU */
	{ KVM_SET_CPUID2, REPLACE }, { KVM_SET_TSC_KHZ, REPLACE, true },
	{ KVM_SET_GUEST_DEBUG, REPLACE }, { KVM_X86_SETUP_MCE, REPLACE },
	{ KVM_RUN, PASS }, { KVM_INTERRUPT, PASS }, { KVM_NMI, PASS }, { KVM_TRANSLATE, PASS },
	{ KVM_KVMCLOCK_CTRL, PASS }, { KVM_GET_CPUID2, PASS }, { KVM_GET_TSC_KHZ, PASS },
	{ KVM_GET_REGS, PASS }, { KVM_SET_REGS, PASS }, { KVM_GET_SREGS, PASS },
	{ KVM_SET_SREGS, PASS }, { KVM_GET_FPU, PASS }, { KVM_SET_FPU, PASS },
	{ KVM_GET_XSAVE, PASS }, { KVM_SET_XSAVE, PASS }, { KVM_GET_XCRS, PASS },
	{ KVM_SET_XCRS, PASS }, { KVM_GET_MSRS, PASS }, { KVM_SET_MSRS, PASS },
	{ KVM_GET_LAPIC, PASS }, { KVM_SET_LAPIC, PASS }, { KVM_GET_MP_STATE, PASS },
	{ KVM_SET_MP_STATE, PASS }, { KVM_GET_VCPU_EVENTS, PASS }, { KVM_SET_VCPU_EVENTS, PASS },
	{ KVM_GET_DEBUGREGS, PASS }, { KVM_SET_DEBUGREGS, PASS },
	/* of a vCPU, the TSC's offset */
	{ KVM_HAS_DEVICE_ATTR, PASS }, { KVM_GET_DEVICE_ATTR, PASS }, { KVM_SET_DEVICE_ATTR, PASS },
};

static size_t arg_size(unsigned long request, uintptr_t arg)
{
	switch (request) {
	case KVM_SET_GSI_ROUTING:
		return sizeof(struct kvm_irq_routing) +
		       ((const struct kvm_irq_routing *)arg)->nr * sizeof(struct kvm_irq_routing_entry);
	case KVM_SET_CPUID2:
		return sizeof(struct kvm_cpuid2) +
		       ((const struct kvm_cpuid2 *)arg)->nent * sizeof(struct kvm_cpuid_entry2);
	default:
		return _IOC_SIZE(request);
	}
}

static void drop(struct journal_entry **at)
{
	struct journal_entry *e = *at;

	*at = e->next;
	if (e->fd >= 0)
		close(e->fd);
	if (e->fd2 >= 0)
		close(e->fd2);
	free(e);
}

static bool same_ioeventfd(const struct journal_entry *e, const struct kvm_ioeventfd *n)
{
	const struct kvm_ioeventfd *o = (const void *)e->data;
	uint32_t flags = n->flags & ~(uint32_t)KVM_IOEVENTFD_FLAG_DEASSIGN;

	return o->addr == n->addr && o->len == n->len && o->flags == flags &&
	       e->callers_fd == n->fd &&
	       (!(flags & KVM_IOEVENTFD_FLAG_DATAMATCH) || o->datamatch == n->datamatch);
}

static bool inside(const struct kvm_coalesced_mmio_zone *o, const struct kvm_coalesced_mmio_zone *n)
{
	return o->pio == n->pio && o->addr >= n->addr && o->addr + o->size <= n->addr + n->size;
}

/* Does the new call (arg) undo or replace e? */
static bool superseded(const struct journal_entry *e, const struct row *row, uintptr_t arg)
{
	if (row->effect == UNZONE)
		return e->request == KVM_REGISTER_COALESCED_MMIO && inside((const void *)e->data, (const void *)arg);
	if (e->request != row->request)
		return false;
	switch (row->effect) {
	case REPLACE:
		return true;
	case SLOT:
		return ((const struct kvm_userspace_memory_region *)e->data)->slot ==
		       ((const struct kvm_userspace_memory_region *)arg)->slot;
	case CAP:
		return ((const struct kvm_enable_cap *)e->data)->cap == ((const struct kvm_enable_cap *)arg)->cap;
	case IOEVENTFD:
		return same_ioeventfd(e, (const void *)arg);
	case IRQFD:
		return e->callers_fd == (int)((const struct kvm_irqfd *)arg)->fd &&
		       ((const struct kvm_irqfd *)e->data)->gsi == ((const struct kvm_irqfd *)arg)->gsi;
	default:
		return false;
	}
}

/* Does the call leave nothing behind? */
static bool only_undoes(const struct row *row, uintptr_t arg)
{
	switch (row->effect) {
	case PASS:
	case UNZONE:
		return true;
	case SLOT:
		return !((const struct kvm_userspace_memory_region *)arg)->memory_size;
	case IOEVENTFD:
		return ((const struct kvm_ioeventfd *)arg)->flags & KVM_IOEVENTFD_FLAG_DEASSIGN;
	case IRQFD:
		return ((const struct kvm_irqfd *)arg)->flags & KVM_IRQFD_FLAG_DEASSIGN;
	default:
		return false;
	}
}

/* The eventfds stay what they are, whatever becomes of the caller's numbers. */
static int hold_fds(struct journal_entry *e)
{
	struct kvm_irqfd *i = (void *)e->data;
	struct kvm_ioeventfd *d = (void *)e->data;
	int other = -1;

	if (e->request == KVM_IOEVENTFD) {
		e->callers_fd = d->fd;
	} else if (e->request == KVM_IRQFD) {
		e->callers_fd = (int)i->fd;
		if (i->flags & KVM_IRQFD_FLAG_RESAMPLE)
			other = (int)i->resamplefd;
	} else {
		return 0;
	}
	e->fd = fcntl(e->callers_fd, F_DUPFD_CLOEXEC, 0);
	if (e->fd < 0)
		return -errno;
	if (other < 0)
		return 0;
	e->fd2 = fcntl(other, F_DUPFD_CLOEXEC, 0);
	return e->fd2 < 0 ? -errno : 0;
}

static int append(struct journal *j, const struct row *row, uintptr_t arg)
{
	size_t size = row->raw ? 0 : arg_size(row->request, arg);
	struct journal_entry **at = &j->first, *e = calloc(1, sizeof(*e) + size);

	if (!e)
		return -ENOMEM;
	*e = (struct journal_entry){
		.request = row->request, .raw = row->raw, .value = arg, .size = size, .fd = -1, .fd2 = -1,
	};
	if (size)
		memcpy(e->data, (const void *)arg, size);
	while (*at)
		at = &(*at)->next;
	*at = e;
	return hold_fds(e);
}

void journal_note(struct journal *j, unsigned long request, uintptr_t arg)
{
	const struct row *row = rows;

	for (; row < rows + ARRAY_SIZE(rows) && row->request != request; row++)
		;
	if (row == rows + ARRAY_SIZE(rows)) {
		j->beyond = true;
		return;
	}
	if (row->effect == PASS)
		return;
	for (struct journal_entry **at = &j->first; *at;) {
		if (superseded(*at, row, arg))
			drop(at);
		else
			at = &(*at)->next;
	}
	if (!only_undoes(row, arg) && append(j, row, arg))
		j->beyond = true;
}

void journal_clear(struct journal *j)
{
	while (j->first)
		drop(&j->first);
}

uintptr_t journal_arg(struct journal_entry *e)
{
	if (e->raw)
		return e->value;
	if (e->request == KVM_IOEVENTFD)
		((struct kvm_ioeventfd *)e->data)->fd = e->fd;
	if (e->request == KVM_IRQFD) {
		((struct kvm_irqfd *)e->data)->fd = (uint32_t)e->fd;
		if (e->fd2 >= 0)
			((struct kvm_irqfd *)e->data)->resamplefd = (uint32_t)e->fd2;
	}
	return (uintptr_t)e->data;
}
