/* SPDX-License-Identifier: MIT */
#include "softkvm/irqfd.h"
#include "softkvm/vm.h"
#include "softkvm/tsc.h"
#include "softkvm/vcpu.h"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

void softkvm_config_init(struct softkvm_config *c, bool env)
{
	const char *s;
	uint64_t n;

	*c = (struct softkvm_config){ .halt_poll_ns = 20000 };
	if (!env)
		return;
	s = getenv("BELFRY_APICV");
	if (s && !strcmp(s, "off"))
		c->no_apicv = true;
	s = getenv("BELFRY_LATE_THREAD");
	c->late_thread = s && !strcmp(s, "on");
	s = getenv("BELFRY_HALT_POLL_NS");
	if (s && !number_parse(s, 0, 10 * NSEC_PER_SEC, &n))
		c->halt_poll_ns = n;
	s = getenv("BELFRY_CODE_MIB");
	if (s && !number_parse(s, 1, 1024, &n))
		c->code_mib = (uint32_t)n;
}

int softkvm_create(void **out, const struct softkvm_config *cfg)
{
	struct softkvm *ctx = calloc(1, sizeof(*ctx));
	int r;

	if (!ctx)
		return -ENOMEM;
	if (cfg)
		ctx->cfg = *cfg;
	else
		softkvm_config_init(&ctx->cfg, false);
	ctx->tsc_khz = tsc_khz_find();
	signals_take_faults();
	r = fd_table_init(&ctx->fds);
	if (r) {
		free(ctx);
		return r;
	}
	mutex_init(&ctx->irqfd_lock);
	*out = ctx;
	return 0;
}

void softkvm_destroy(void *p)
{
	struct softkvm *ctx = p;

	if (!ctx)
		return;
	fd_table_destroy(&ctx->fds);
	mutex_destroy(&ctx->irqfd_lock);
	free(ctx);
}

bool softkvm_owns_fd(void *ctx, int fd)
{
	struct soft_file *f = file_get(ctx, fd, false);

	if (f)
		file_put(f);
	return f;
}

bool softkvm_forget(void *ctx, unsigned first, unsigned last)
{
	return file_forget(ctx, first, last);
}

void softkvm_reap(void *ctx)
{
	file_reap(ctx);
}

void softkvm_fork_begin(void *p)
{
	struct softkvm *ctx = p;

	mutex_lock(&ctx->irqfd_lock);
	(void)pthread_rwlock_wrlock(&ctx->fds.lock);
}

void softkvm_fork_end(void *p, bool child)
{
	struct softkvm *ctx = p;

	if (child) {
		/* The thread is another one to the C library, which would not take it for the writer. */
		mutex_init(&ctx->irqfd_lock);
		(void)!fd_lock_init(&ctx->fds.lock);
		return;
	}
	(void)pthread_rwlock_unlock(&ctx->fds.lock);
	mutex_unlock(&ctx->irqfd_lock);
}

int ioctl_dispatch(const struct ioctl_row *rows, size_t nr, void *obj, unsigned long request,
		   uintptr_t arg, int fallback)
{
	_Alignas(16) uint8_t buf[sizeof(struct kvm_xsave)];
	const struct ioctl_row *row = rows;
	size_t size = _IOC_SIZE(request);
	int r;

	for (; row < rows + nr && row->request != request; row++)
		;
	if (row == rows + nr)
		return fallback;
	if (row->raw)
		return row->fn(obj, arg);
	if (_IOC_DIR(request) & _IOC_WRITE) {
		if (copy_from_user(buf, arg, size))
			return -EFAULT;
	} else {
		memset(buf, 0, size);
	}
	r = row->fn(obj, (uintptr_t)buf);
	if (r >= 0 && (_IOC_DIR(request) & _IOC_READ) && copy_to_user(arg, buf, size))
		return -EFAULT;
	return r;
}

/* Requests that carry an event, not state: a table look-up must do for them. */
static bool is_hot(unsigned long request)
{
	return request == KVM_RUN || request == KVM_SIGNAL_MSI || request == KVM_IRQ_LINE ||
	       request == KVM_IRQ_LINE_STATUS || request == KVM_INTERRUPT;
}

static int soft_open(void *p)
{
	struct softkvm *ctx = p;
	struct soft_file *f;
	int r;

	file_reap(ctx);
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	r = file_init(f, ctx, &system_file_ops, 0);
	if (!r)
		r = file_publish(f);
	if (r < 0) {
		file_abandon(f);
		free(f);
	}
	return r;
}

static int soft_ioctl(void *ctx, int fd, unsigned long request, uintptr_t arg)
{
	bool hot = is_hot(request);
	struct soft_file *f = file_get(ctx, fd, hot);
	int r;

	if (!f)
		return fcntl(fd, F_GETFD) < 0 ? -EBADF : -ENOTTY;
	if (!hot && f->ops->kind != SOFT_SYSTEM && getpid() != f->pid)
		r = -EIO;
	else
		r = f->ops->ioctl(f, request, arg);
	file_put(f);
	return r;
}

static int soft_mmap(void *ctx, int fd, size_t size, uint64_t offset, void **out)
{
	struct soft_file *f = file_get(ctx, fd, false);
	void *p;
	int r = -ENODEV;

	if (!f)
		return fcntl(fd, F_GETFD) < 0 ? -EBADF : -ENODEV;
	if (f->ops->kind != SOFT_VCPU)
		goto put;
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
	if (p == MAP_FAILED) {
		r = -errno;
		goto put;
	}
	r = f->ops->mapped ? f->ops->mapped(f, p, size, offset) : 0;
	if (r)
		munmap(p, size);
	else
		*out = p;
put:
	file_put(f);
	return r;
}

static int soft_munmap(void *ctx, void *p, size_t size)
{
	int r = munmap(p, size) < 0 ? -errno : 0;

	/* It may have been the last thing that held a vCPU. */
	file_reap(ctx);
	return r;
}

static void soft_direct(void *ctx, int vm_fd, struct notifier *n)
{
	struct soft_file *f = file_get(ctx, vm_fd, false);

	if (!f)
		return;
	if (f->ops->kind == SOFT_VM)
		irqfd_connect(file_vm(f), n);
	file_put(f);
}

static int soft_close(void *ctx, int fd)
{
	return file_close(ctx, fd);
}

const struct kvmapi_ops softkvm_ops = {
	.name = "soft",
	.open = soft_open,
	.ioctl = soft_ioctl,
	.mmap = soft_mmap,
	.munmap = soft_munmap,
	.close = soft_close,
	.direct = soft_direct,
};
