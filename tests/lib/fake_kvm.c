/* SPDX-License-Identifier: MIT */
#include "fake_kvm.h"
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#define FD_BASE 100000 /* far from real fds: a close(2) of one by mistake shows */

static int fd_new(struct fake_kvm *k, int kind, unsigned id)
{
	for (unsigned i = 0; i < FAKE_KVM_FDS; i++) {
		if (k->fd[i].kind != FAKE_FREE)
			continue;
		memset(&k->fd[i], 0, sizeof(k->fd[i]));
		k->fd[i].kind = kind;
		k->fd[i].id = id;
		return FD_BASE + (int)i;
	}
	return -EMFILE;
}

static bool fd_is(const struct fake_kvm *k, int fd, int kind)
{
	return fd >= FD_BASE && fd < FD_BASE + FAKE_KVM_FDS && (int)k->fd[fd - FD_BASE].kind == kind;
}

static int do_open(void *ctx)
{
	struct fake_kvm *k = ctx;
	int r;

	mutex_lock(&k->lock);
	r = fd_new(k, FAKE_SYS, 0);
	mutex_unlock(&k->lock);
	return r;
}

static int do_close(void *ctx, int fd)
{
	struct fake_kvm *k = ctx;
	int r = 0;

	mutex_lock(&k->lock);
	if (fd < FD_BASE || fd >= FD_BASE + FAKE_KVM_FDS || fd_is(k, fd, FAKE_FREE)) {
		r = -EBADF;
	} else {
		free(k->fd[fd - FD_BASE].run);
		memset(&k->fd[fd - FD_BASE], 0, sizeof(k->fd[0]));
	}
	mutex_unlock(&k->lock);
	return r;
}

static int do_mmap(void *ctx, int fd, size_t size, uint64_t offset, void **out)
{
	struct fake_kvm *k = ctx;
	int r = 0;

	mutex_lock(&k->lock);
	if (!fd_is(k, fd, FAKE_VCPU) || size < sizeof(struct kvm_run)) {
		r = -EINVAL;
	} else {
		if (!k->fd[fd - FD_BASE].run)
			k->fd[fd - FD_BASE].run = calloc(1, size);
		*out = k->fd[fd - FD_BASE].run;
		r = *out ? 0 : -ENOMEM;
	}
	mutex_unlock(&k->lock);
	return r;
}

static int do_munmap(void *ctx, void *p, size_t size)
{
	return p ? 0 : -EINVAL; /* freed with its vCPU */
}

static uint64_t drain(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint64_t v = 0;

	if (poll(&p, 1, 0) != 1 || read(fd, &v, sizeof(v)) != sizeof(v))
		return 0;
	return v;
}

static void record_msi(struct fake_kvm *k, uint64_t address, uint32_t data, int gsi)
{
	if (k->nr_msis < FAKE_KVM_MSIS)
		k->msi[k->nr_msis] = (struct fake_msi){ address, data, gsi };
	k->nr_msis++;
}

static unsigned serve_one(struct fake_kvm *k, const struct kvm_irqfd *i)
{
	if (!drain((int)i->fd))
		return 0;
	for (unsigned n = 0; n < k->nr_routes; n++) {
		const struct kvm_irq_routing_entry *e = &k->route[n];

		if (e->gsi != i->gsi)
			continue;
		if (e->type == KVM_IRQ_ROUTING_MSI)
			record_msi(k, (uint64_t)e->u.msi.address_hi << 32 | e->u.msi.address_lo,
				   e->u.msi.data, (int)i->gsi);
		else
			k->nr_irqfd_pins++;
	}
	return 1;
}

unsigned fake_kvm_serve(struct fake_kvm *k)
{
	unsigned n = 0;

	mutex_lock(&k->lock);
	for (unsigned i = 0; i < k->nr_irqfds; i++)
		n += serve_one(k, &k->irqfd[i]);
	mutex_unlock(&k->lock);
	return n;
}

static int do_irqfd(struct fake_kvm *k, const struct kvm_irqfd *i)
{
	if (i->flags & ~(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE))
		return -EINVAL;
	if (fcntl((int)i->fd, F_GETFD) < 0)
		return -EBADF;
	if (i->flags & KVM_IRQFD_FLAG_DEASSIGN) {
		for (unsigned n = 0; n < k->nr_irqfds; n++) {
			if (k->irqfd[n].fd != i->fd || k->irqfd[n].gsi != i->gsi)
				continue;
			serve_one(k, &k->irqfd[n]);
			k->irqfd[n--] = k->irqfd[--k->nr_irqfds];
		}
		return 0;
	}
	for (unsigned n = 0; n < k->nr_irqfds; n++)
		if (k->irqfd[n].fd == i->fd)
			return -EBUSY;
	if (k->nr_irqfds == FAKE_KVM_NR)
		return -ENOMEM;
	k->irqfd[k->nr_irqfds++] = *i;
	serve_one(k, i);
	return 0;
}

static bool same_bus(const struct kvm_ioeventfd *a, const struct kvm_ioeventfd *b)
{
	return !((a->flags ^ b->flags) & KVM_IOEVENTFD_FLAG_PIO);
}

static bool collides(const struct kvm_ioeventfd *a, const struct kvm_ioeventfd *b)
{
	if (!same_bus(a, b) || a->addr != b->addr)
		return false;
	if (!a->len || !b->len)
		return true;
	return a->len == b->len && (!(a->flags & b->flags & KVM_IOEVENTFD_FLAG_DATAMATCH) ||
				    a->datamatch == b->datamatch);
}

static int do_ioeventfd(struct fake_kvm *k, const struct kvm_ioeventfd *i)
{
	const unsigned known = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH |
			       KVM_IOEVENTFD_FLAG_DEASSIGN;
	bool match = i->flags & KVM_IOEVENTFD_FLAG_DATAMATCH;

	if (i->flags & ~known || (i->len && i->len != 1 && i->len != 2 && i->len != 4 && i->len != 8))
		return -EINVAL;
	if (i->addr + i->len < i->addr || (!i->len && match))
		return -EINVAL;
	if (fcntl(i->fd, F_GETFD) < 0)
		return -EBADF;
	for (unsigned n = 0; n < k->nr_ioeventfds; n++) {
		struct kvm_ioeventfd *o = &k->ioeventfd[n];

		if (!(i->flags & KVM_IOEVENTFD_FLAG_DEASSIGN)) {
			if (collides(i, o))
				return -EEXIST;
			continue;
		}
		if (o->fd == i->fd && same_bus(o, i) && o->addr == i->addr && o->len == i->len &&
		    match == !!(o->flags & KVM_IOEVENTFD_FLAG_DATAMATCH) &&
		    (!match || o->datamatch == i->datamatch)) {
			*o = k->ioeventfd[--k->nr_ioeventfds];
			return 0;
		}
	}
	if (i->flags & KVM_IOEVENTFD_FLAG_DEASSIGN)
		return -ENOENT;
	if (k->nr_ioeventfds >= MIN(k->max_ioeventfds, FAKE_KVM_NR))
		return -ENOSPC;
	k->ioeventfd[k->nr_ioeventfds++] = *i;
	return 0;
}

bool fake_kvm_guest_write(struct fake_kvm *k, bool pio, uint64_t address, uint64_t data,
			  unsigned len)
{
	bool taken = false;

	mutex_lock(&k->lock);
	for (unsigned n = 0; n < k->nr_ioeventfds && !taken; n++) {
		const struct kvm_ioeventfd *o = &k->ioeventfd[n];
		uint64_t one = 1;

		if (!!(o->flags & KVM_IOEVENTFD_FLAG_PIO) != pio || o->addr != address)
			continue;
		if (o->len && o->len != len)
			continue;
		if ((o->flags & KVM_IOEVENTFD_FLAG_DATAMATCH) &&
		    o->datamatch != (data & len_mask(len)))
			continue;
		taken = write(o->fd, &one, sizeof(one)) == sizeof(one) || errno == EAGAIN;
	}
	mutex_unlock(&k->lock);
	return taken;
}

const struct kvm_ioeventfd *fake_kvm_find_doorbell(struct fake_kvm *k, bool pio, uint64_t address)
{
	for (unsigned n = 0; n < k->nr_ioeventfds; n++)
		if (k->ioeventfd[n].addr == address &&
		    !!(k->ioeventfd[n].flags & KVM_IOEVENTFD_FLAG_PIO) == pio)
			return &k->ioeventfd[n];
	return NULL;
}

bool fake_kvm_irqfd_bound(struct fake_kvm *k, int fd)
{
	for (unsigned n = 0; n < k->nr_irqfds; n++)
		if ((int)k->irqfd[n].fd == fd)
			return true;
	return false;
}

static int do_routing(struct fake_kvm *k, const struct kvm_irq_routing *t)
{
	if (t->nr > FAKE_KVM_ROUTES || t->flags)
		return -EINVAL;
	memcpy(k->route, t->entries, t->nr * sizeof(t->entries[0]));
	k->nr_routes = t->nr;
	k->nr_route_updates++;
	return 0;
}

static int do_line(struct fake_kvm *k, struct kvm_irq_level *l, bool status)
{
	gsi_t gsi = l->irq;

	if (gsi >= FAKE_KVM_GSIS)
		return -EINVAL;
	if (k->level[gsi] != !!l->level)
		k->line_changes[gsi]++;
	k->level[gsi] = l->level;
	if (status)
		l->status = 1;
	return 0;
}

static int check_extension(const struct fake_kvm *k, unsigned cap)
{
	if (cap < 256 && (k->cap_absent[cap / 64] >> cap % 64 & 1))
		return 0;
	switch (cap) {
	case KVM_CAP_IRQ_ROUTING:
		return FAKE_KVM_ROUTES;
	case KVM_CAP_NR_MEMSLOTS:
		return 32;
	case KVM_CAP_NR_VCPUS:
	case KVM_CAP_MAX_VCPUS:
	case KVM_CAP_MAX_VCPU_ID:
		return 255;
	case KVM_CAP_COALESCED_MMIO:
		return 1;
	case KVM_CAP_XSAVE2:
		return 4096;
	default:
		return 1;
	}
}

static int sys_request(struct fake_kvm *k, unsigned long request, uintptr_t arg)
{
	switch (request) {
	case KVM_GET_API_VERSION:
		return KVM_API_VERSION;
	case KVM_CHECK_EXTENSION:
		return check_extension(k, (unsigned)arg);
	case KVM_GET_VCPU_MMAP_SIZE:
		return 3 * 4096;
	case KVM_CREATE_VM:
		return fd_new(k, FAKE_VM, 0);
	case KVM_GET_SUPPORTED_CPUID: {
		struct kvm_cpuid2 *c = (void *)arg;

		if (c->nent < 2)
			return -E2BIG;
		c->nent = 2;
		c->entries[0] = (struct kvm_cpuid_entry2){ .function = 0, .eax = 1 };
		c->entries[1] = (struct kvm_cpuid_entry2){ .function = 1 };
		return 0;
	}
	default:
		return -ENOTTY;
	}
}

static int vm_request(struct fake_kvm *k, unsigned long request, uintptr_t arg)
{
	switch (request) {
	case KVM_CHECK_EXTENSION:
		return check_extension(k, (unsigned)arg);
	case KVM_CREATE_VCPU:
		return fd_new(k, FAKE_VCPU, (unsigned)arg);
	case KVM_IRQFD:
		return do_irqfd(k, (void *)arg);
	case KVM_IOEVENTFD:
		return do_ioeventfd(k, (void *)arg);
	case KVM_SET_GSI_ROUTING:
		return do_routing(k, (void *)arg);
	case KVM_IRQ_LINE:
		return do_line(k, (void *)arg, false);
	case KVM_IRQ_LINE_STATUS:
		return do_line(k, (void *)arg, true);
	case KVM_SIGNAL_MSI: {
		const struct kvm_msi *m = (void *)arg;

		record_msi(k, (uint64_t)m->address_hi << 32 | m->address_lo, m->data, -1);
		return 1;
	}
	case KVM_SET_USER_MEMORY_REGION: {
		const struct kvm_userspace_memory_region *m = (void *)arg;

		if (m->slot >= ARRAY_SIZE(k->slot))
			return -EINVAL;
		k->slot[m->slot] = *m;
		return 0;
	}
	case KVM_GET_PIT2:
		memset((void *)arg, 0, sizeof(struct kvm_pit_state2));
		return 0;
	case KVM_GET_CLOCK:
		memset((void *)arg, 0, sizeof(struct kvm_clock_data));
		return 0;
	case KVM_GET_IRQCHIP:
	case KVM_SET_PIT2:
	case KVM_ENABLE_CAP:
	case KVM_SET_TSS_ADDR:
	case KVM_SET_IDENTITY_MAP_ADDR:
	case KVM_CREATE_IRQCHIP:
	case KVM_CREATE_PIT2:
	case KVM_SET_BOOT_CPU_ID:
	case KVM_SET_CLOCK:
	case KVM_SET_IRQCHIP:
	case KVM_REGISTER_COALESCED_MMIO:
	case KVM_UNREGISTER_COALESCED_MMIO:
		return 0;
	default:
		return -ENOTTY;
	}
}

static int vcpu_request(struct fake_kvm *k, int fd, unsigned long request, uintptr_t arg)
{
	switch (request) {
	case KVM_GET_MP_STATE:
		*(struct kvm_mp_state *)arg = k->fd[fd - FD_BASE].mp;
		return 0;
	case KVM_SET_MP_STATE:
		k->fd[fd - FD_BASE].mp = *(const struct kvm_mp_state *)arg;
		return 0;
	case KVM_GET_REGS:
		memset((void *)arg, 0, sizeof(struct kvm_regs));
		return 0;
	case KVM_GET_SREGS:
		memset((void *)arg, 0, sizeof(struct kvm_sregs));
		return 0;
	case KVM_GET_LAPIC:
		memset((void *)arg, 0, sizeof(struct kvm_lapic_state));
		return 0;
	case KVM_GET_FPU:
		memset((void *)arg, 0, sizeof(struct kvm_fpu));
		return 0;
	case KVM_GET_VCPU_EVENTS:
		memset((void *)arg, 0, sizeof(struct kvm_vcpu_events));
		return 0;
	case KVM_GET_XCRS:
		memset((void *)arg, 0, sizeof(struct kvm_xcrs));
		return 0;
	case KVM_GET_DEBUGREGS:
		memset((void *)arg, 0, sizeof(struct kvm_debugregs));
		return 0;
	case KVM_GET_MSRS:
	case KVM_SET_MSRS:
		return (int)((struct kvm_msrs *)arg)->nmsrs;
	case KVM_INTERRUPT:
		k->nr_interrupts++;
		return 0;
	case KVM_SET_REGS:
		k->regs = *(const struct kvm_regs *)arg;
		return 0;
	case KVM_SET_SREGS:
		k->sregs = *(const struct kvm_sregs *)arg;
		return 0;
	case KVM_SET_LAPIC:
	case KVM_SET_FPU:
	case KVM_SET_CPUID2:
	case KVM_SET_VCPU_EVENTS:
	case KVM_SET_XCRS:
	case KVM_SET_DEBUGREGS:
	case KVM_SET_SIGNAL_MASK:
	case KVM_NMI:
		return 0;
	default:
		return -ENOTTY;
	}
}

/* Without the lock: it may take long. */
static int do_run(struct fake_kvm *k, int fd)
{
	struct kvm_run *run = k->fd[fd - FD_BASE].run;
	struct timespec moment = { .tv_nsec = 1000000 };

	if (!run || __atomic_load_n(&run->immediate_exit, __ATOMIC_SEQ_CST))
		return -EINTR;
	if (k->run)
		return k->run(k->run_arg, k->fd[fd - FD_BASE].id, run);
	(void)ppoll(NULL, 0, &moment, NULL);
	return -EINTR;
}

static int do_ioctl(void *ctx, int fd, unsigned long request, uintptr_t arg)
{
	struct fake_kvm *k = ctx;
	int r;

	mutex_lock(&k->lock);
	k->nr_ioctls++;
	if (k->fail_after && (!k->fail_request || k->fail_request == request) &&
	    --k->fail_after == 0) {
		k->fail_after = k->fail_always;
		r = -k->fail_error;
	} else if (fd_is(k, fd, FAKE_SYS)) {
		r = sys_request(k, request, arg);
	} else if (fd_is(k, fd, FAKE_VM)) {
		r = vm_request(k, request, arg);
	} else if (fd_is(k, fd, FAKE_VCPU)) {
		if (request == KVM_RUN) {
			mutex_unlock(&k->lock);
			return do_run(k, fd);
		}
		r = vcpu_request(k, fd, request, arg);
	} else {
		r = -EBADF;
	}
	mutex_unlock(&k->lock);
	return r;
}

static const struct kvmapi_ops fake_ops = {
	.name = "fake",
	.open = do_open,
	.ioctl = do_ioctl,
	.mmap = do_mmap,
	.munmap = do_munmap,
	.close = do_close,
};

void fake_kvm_init(struct fake_kvm *k)
{
	memset(k, 0, sizeof(*k));
	mutex_init(&k->lock);
	k->api = (struct kvmapi){ .ops = &fake_ops, .ctx = k };
	k->max_ioeventfds = FAKE_KVM_NR;
}

unsigned fake_kvm_fini(struct fake_kvm *k)
{
	unsigned left = 0;

	for (unsigned i = 0; i < FAKE_KVM_FDS; i++) {
		left += k->fd[i].kind != FAKE_FREE;
		free(k->fd[i].run);
	}
	mutex_destroy(&k->lock);
	return left;
}

void fake_kvm_fail(struct fake_kvm *k, unsigned long request, unsigned nth, int error)
{
	mutex_lock(&k->lock);
	k->fail_request = request;
	k->fail_after = nth;
	k->fail_error = error;
	k->fail_always = false;
	mutex_unlock(&k->lock);
}

void fake_kvm_set_cap(struct fake_kvm *k, unsigned cap, bool present)
{
	if (cap >= 256)
		return;
	if (present)
		k->cap_absent[cap / 64] &= ~BIT_ULL(cap % 64);
	else
		k->cap_absent[cap / 64] |= BIT_ULL(cap % 64);
}
