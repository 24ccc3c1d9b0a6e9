/* SPDX-License-Identifier: MIT
 *
 * libsoftkvm-preload.so: an unmodified, dynamically linked program that has it
 * in LD_PRELOAD gets softkvm when it opens /dev/kvm.
 *
 * Only what the seam has is intercepted: open, ioctl, mmap, munmap, close.
 * softkvm's fds are real ones, so dup, fcntl, poll, fork and sendmsg go to the
 * kernel as they are, and a duplicate is recognized by its inode. This file is
 * no part of the library of rooms; in the preload library the rooms' own calls
 * of these five go straight to the C library (mk/preload.mk renames them), so
 * that nothing here is ever entered from inside.
 *
 * Limits: static programs and programs that make system calls without the C
 * library are not reached; a seccomp sandbox must allow what softkvm does
 * (threads, memfd, eventfd, epoll, arch_prctl).
 *
 * BELFRY_PRELOAD_NODE names another path to stand in for /dev/kvm.
 */
#include "softkvm/softkvm.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* One context a process: so is /dev/kvm. */
static struct {
	pthread_once_t once;
	void *ctx;
	const char *node;
	int (*open)(const char *path, int flags, ...);
	int (*openat)(int dir, const char *path, int flags, ...);
	int (*ioctl)(int fd, unsigned long request, ...);
	void *(*mmap)(void *addr, size_t len, int prot, int flags, int fd, off_t off);
	int (*munmap)(void *addr, size_t len);
	int (*close)(int fd);
} pre = { .once = PTHREAD_ONCE_INIT }; /* process-wide */

/* What the rooms call, after renaming. */
int soft_real_open(const char *path, int flags, ...);
int soft_real_open64(const char *path, int flags, ...) __attribute__((alias("soft_real_open")));
int soft_real_ioctl(int fd, unsigned long request, ...);
void *soft_real_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);
void *soft_real_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t off)
	__attribute__((alias("soft_real_mmap")));
int soft_real_munmap(void *addr, size_t len);
int soft_real_close(int fd);

static void init(void)
{
	struct softkvm_config c;

	pre.open = dlsym(RTLD_NEXT, "open");
	pre.openat = dlsym(RTLD_NEXT, "openat");
	pre.ioctl = dlsym(RTLD_NEXT, "ioctl");
	pre.mmap = dlsym(RTLD_NEXT, "mmap");
	pre.munmap = dlsym(RTLD_NEXT, "munmap");
	pre.close = dlsym(RTLD_NEXT, "close");
	if (!pre.open || !pre.openat || !pre.ioctl || !pre.mmap || !pre.munmap || !pre.close) {
		fputs("libsoftkvm-preload: the C library lacks a call\n", stderr);
		abort();
	}
	pre.node = getenv("BELFRY_PRELOAD_NODE");
	if (!pre.node)
		pre.node = "/dev/kvm";
	softkvm_config_init(&c, true);
	/* Without a context the program sees no KVM, as on a machine that has none. */
	if (softkvm_create(&pre.ctx, &c))
		pre.ctx = NULL;
}

static void ready(void)
{
	(void)pthread_once(&pre.once, init);
}

static int fail(int r)
{
	if (r >= 0)
		return r;
	errno = -r;
	return -1;
}

static bool is_node(const char *path)
{
	ready();
	return pre.ctx && path && !strcmp(path, pre.node);
}

static int open_node(int flags)
{
	int fd = softkvm_ops.open(pre.ctx);

	if (fd >= 0 && !(flags & O_CLOEXEC))
		(void)fcntl(fd, F_SETFD, 0);
	return fail(fd);
}

static mode_t mode_of(int flags, va_list ap)
{
	return flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
}

EXPORT int open(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = mode_of(flags, ap);
	va_end(ap);
	if (is_node(path))
		return open_node(flags);
	return pre.open(path, flags, mode);
}

EXPORT int openat(int dir, const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = mode_of(flags, ap);
	va_end(ap);
	if (is_node(path))
		return open_node(flags);
	return pre.openat(dir, path, flags, mode);
}

EXPORT int open64(const char *path, int flags, ...) __attribute__((alias("open")));
EXPORT int openat64(int dir, const char *path, int flags, ...) __attribute__((alias("openat")));

/* What fortified programs call. */
EXPORT int __open_2(const char *path, int flags);
EXPORT int __open64_2(const char *path, int flags);
EXPORT int __openat_2(int dir, const char *path, int flags);
EXPORT int __openat64_2(int dir, const char *path, int flags);

EXPORT int __open_2(const char *path, int flags)
{
	return open(path, flags & ~(O_CREAT | O_TMPFILE));
}

EXPORT int __open64_2(const char *path, int flags)
{
	return __open_2(path, flags);
}

EXPORT int __openat_2(int dir, const char *path, int flags)
{
	return openat(dir, path, flags & ~(O_CREAT | O_TMPFILE));
}

EXPORT int __openat64_2(int dir, const char *path, int flags)
{
	return __openat_2(dir, path, flags);
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	uintptr_t arg;
	int r;

	va_start(ap, request);
	arg = va_arg(ap, uintptr_t);
	va_end(ap);
	ready();
	/* KVM's requests are all of one type; a glance spares everybody else the look-up. */
	if (!pre.ctx || _IOC_TYPE(request) != KVMIO)
		return pre.ioctl(fd, request, arg);
	/* The caller's int may have been sign-extended on its way here. */
	r = softkvm_ops.ioctl(pre.ctx, fd, (uint32_t)request, arg);
	if (r == -ENOTTY && !softkvm_owns_fd(pre.ctx, fd))
		return pre.ioctl(fd, request, arg);
	return fail(r);
}

EXPORT void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	void *p;
	int r;

	ready();
	if (fd < 0 || (flags & MAP_ANONYMOUS) || !(flags & MAP_SHARED) || !pre.ctx ||
	    !softkvm_owns_fd(pre.ctx, fd))
		return pre.mmap(addr, len, prot, flags, fd, off);
	if (off) {
		errno = EINVAL;
		return MAP_FAILED;
	}
	r = softkvm_ops.mmap(pre.ctx, fd, len, &p);
	if (r) {
		errno = -r;
		return MAP_FAILED;
	}
	return p;
}

EXPORT void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t off)
	__attribute__((alias("mmap")));

EXPORT int munmap(void *addr, size_t len)
{
	ready();
	return pre.munmap(addr, len);
}

EXPORT int close(int fd)
{
	ready();
	if (!pre.ctx || !softkvm_owns_fd(pre.ctx, fd))
		return pre.close(fd);
	return fail(softkvm_ops.close(pre.ctx, fd));
}

/* ---- the rooms' way past us -------------------------------------------- */

int soft_real_open(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = mode_of(flags, ap);
	va_end(ap);
	return pre.open(path, flags, mode);
}

int soft_real_ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	uintptr_t arg;

	va_start(ap, request);
	arg = va_arg(ap, uintptr_t);
	va_end(ap);
	return pre.ioctl(fd, request, arg);
}

void *soft_real_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	return pre.mmap(addr, len, prot, flags, fd, off);
}

int soft_real_munmap(void *addr, size_t len)
{
	return pre.munmap(addr, len);
}

int soft_real_close(int fd)
{
	return pre.close(fd);
}
