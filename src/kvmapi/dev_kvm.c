/* SPDX-License-Identifier: MIT
 * The kernel's KVM: every call goes straight through.
 */
#include "kvmapi/kvmapi.h"
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static int dev_open(void *ctx)
{
	int fd = open(ctx ? ctx : "/dev/kvm", O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int dev_ioctl(void *ctx, int fd, unsigned long request, uintptr_t arg)
{
	int r = ioctl(fd, request, arg);

	return r < 0 ? -errno : r;
}

static int dev_mmap(void *ctx, int fd, size_t size, uint64_t offset, void **out)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);

	if (p == MAP_FAILED)
		return -errno;
	*out = p;
	return 0;
}

static int dev_munmap(void *ctx, void *p, size_t size)
{
	return munmap(p, size) < 0 ? -errno : 0;
}

static int dev_close(void *ctx, int fd)
{
	return close(fd) < 0 ? -errno : 0;
}

const struct kvmapi_ops dev_kvm_ops = {
	.name = "kvm",
	.open = dev_open,
	.ioctl = dev_ioctl,
	.mmap = dev_mmap,
	.munmap = dev_munmap,
	.close = dev_close,
};
