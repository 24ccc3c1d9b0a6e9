/* SPDX-License-Identifier: MIT
 * tests/kvm/conserve.c on softkvm, in earnest: vCPUs that run, and PV IPIs.
 */
#include "softkvm/softkvm.h"

/* One context for all machines of the process, as the kernel is one. */
static void *soft_context(void)
{
	static void *ctx;
	struct softkvm_config c;

	softkvm_config_init(&c, true); /* BELFRY_APICV=off tries the other way */
	if (!ctx && softkvm_create(&ctx, &c))
		return NULL;
	return ctx;
}

static int ctx_open(void *ctx)
{
	return softkvm_ops.open(soft_context());
}

static int ctx_ioctl(void *ctx, int fd, unsigned long request, uintptr_t arg)
{
	return softkvm_ops.ioctl(soft_context(), fd, request, arg);
}

static int ctx_mmap(void *ctx, int fd, size_t size, uint64_t offset, void **out)
{
	return softkvm_ops.mmap(soft_context(), fd, size, offset, out);
}

static int ctx_munmap(void *ctx, void *p, size_t size)
{
	return softkvm_ops.munmap(soft_context(), p, size);
}

static int ctx_close(void *ctx, int fd)
{
	return softkvm_ops.close(soft_context(), fd);
}

static const struct kvmapi_ops ctx_ops = {
	.name = "soft", .open = ctx_open, .ioctl = ctx_ioctl, .mmap = ctx_mmap,
	.munmap = ctx_munmap, .close = ctx_close,
};

#define CONSERVE_COUNT 8000
#define CONSERVE_RUN   true
#define CONSERVE_PV    true
#define dev_kvm_ops    ctx_ops
#include "../kvm/conserve.c"
