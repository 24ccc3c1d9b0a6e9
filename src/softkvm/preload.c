/* SPDX-License-Identifier: MIT
 *
 * libsoftkvm-preload.so: an unmodified, dynamically linked program that has it
 * in LD_PRELOAD gets softkvm when it opens /dev/kvm, under whatever name, and
 * whether or not this machine has one.
 *
 * Only what the seam has is intercepted: open, ioctl, mmap, munmap, close; what
 * closes by the way (dup2, close_range); and sigaction, because a signal must end
 * KVM_RUN. softkvm's fds are real ones, so dup, fcntl, poll, fork and sendmsg go to
 * the kernel as they are, and a duplicate is recognized by its inode. Looking at the node without opening it is
 * preload_path.c's. These files are no part of the library of rooms; in the
 * preload library the rooms' own calls of these go straight to the C library
 * (mk/preload.mk renames them), so that nothing here is ever entered from inside.
 *
 * Limits: docs/VMMS.md.
 *
 * BELFRY_PRELOAD_NODE names another path to stand in for /dev/kvm.
 */
#include "softkvm/preload.h"
#include "softkvm/softkvm.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/sysmacros.h>

#define KVM_MISC_MAJOR 10
#define KVM_MISC_MINOR 232

static struct {
	pthread_once_t libc_once, ctx_once;
	struct preload_libc libc;
	const char *node;
	/* One context a process: so is /dev/kvm. Made when it is first opened. */
	_Atomic(void *) ctx;
	/*
	 * Whether this process has opened the node. Its page is wiped in a child, also in one that
	 * the C library does not know of, as jailers make them by clone.
	 */
	_Atomic int *opened;
} pre = { .libc_once = PTHREAD_ONCE_INIT, .ctx_once = PTHREAD_ONCE_INIT }; /* process-wide */

/* What the rooms call, after renaming. */
int soft_real_open(const char *path, int flags, ...);
int soft_real_open64(const char *path, int flags, ...) __attribute__((alias("soft_real_open")));
int soft_real_ioctl(int fd, unsigned long request, ...);
void *soft_real_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);
void *soft_real_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t off)
	__attribute__((alias("soft_real_mmap")));
int soft_real_munmap(void *addr, size_t len);
int soft_real_close(int fd);
int soft_real_sigaction(int sig, const struct sigaction *act, struct sigaction *old);

static void find_libc(void)
{
#define X(name)                                                                                   \
	pre.libc.name = dlsym(RTLD_NEXT, #name);                                                  \
	if (!pre.libc.name) {                                                                     \
		fputs("libsoftkvm-preload: the C library has no " #name "\n", stderr);            \
		abort();                                                                          \
	}
	PRELOAD_CALLS(X)
#undef X
	pre.node = getenv("BELFRY_PRELOAD_NODE");
	if (!pre.node)
		pre.node = "/dev/kvm";
}

const struct preload_libc *preload_libc(void)
{
	(void)pthread_once(&pre.libc_once, find_libc);
	return &pre.libc;
}

const char *preload_node(void)
{
	(void)preload_libc();
	return pre.node;
}

bool preload_is_node(const char *path)
{
	return path && !strcmp(path, preload_node());
}

/* The values of pre.opened. NOT_KNOWN: a child, and in_child() was not called. */
enum { NOT_KNOWN, NOT_OPENED, OPENED };

static void before_fork(void)
{
	softkvm_fork_begin(atomic_load(&pre.ctx));
}

static void after_fork(void)
{
	softkvm_fork_end(atomic_load(&pre.ctx), false);
}

static void in_child(void)
{
	softkvm_fork_end(atomic_load(&pre.ctx), true);
	atomic_store(pre.opened, NOT_OPENED);
}

static void make_context(void)
{
	struct softkvm_config c;
	void *ctx, *page;

	page = pre.libc.mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return;
	(void)madvise(page, 4096, MADV_WIPEONFORK);
	pre.opened = page;
	softkvm_config_init(&c, true);
	if (softkvm_create(&ctx, &c))
		return;
	atomic_store(pre.opened, OPENED);
	atomic_store(&pre.ctx, ctx);
	(void)pthread_atfork(before_fork, after_fork, in_child);
}

/* softkvm's, if the program has opened it yet. */
static void *context(void)
{
	return atomic_load_explicit(&pre.ctx, memory_order_acquire);
}

/*
 * The same, if this very process has: only then can an fd be an object of it. Who asks this first
 * makes no system call for other processes' fds, which a jailed child may not be allowed.
 */
static void *own_context(void)
{
	void *ctx = context();

	return ctx && atomic_load_explicit(pre.opened, memory_order_relaxed) == OPENED ? ctx : NULL;
}

/* What is ours must not be left half-way: pthread_cancel() waits until it is done. */
struct cancel {
	int state, type;
};

static struct cancel hold_cancel(void)
{
	struct cancel old;

	(void)pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &old.type);
	(void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old.state);
	return old;
}

/* The type last: acting on it the C library gives the thread's result, on the state it may not. */
static void let_cancel(struct cancel old)
{
	(void)pthread_setcancelstate(old.state, NULL);
	(void)pthread_setcanceltype(old.type, NULL);
}

static int fail(int r)
{
	if (r >= 0)
		return r;
	errno = -r;
	return -1;
}

static int open_node(int flags)
{
	struct cancel cancel = hold_cancel();
	int fd;

	(void)pthread_once(&pre.ctx_once, make_context);
	if (context() && atomic_exchange(pre.opened, OPENED) == NOT_KNOWN)
		softkvm_fork_end(context(), true);
	fd = context() ? softkvm_ops.open(context()) : -ENOMEM;
	if (fd >= 0 && !(flags & O_CLOEXEC))
		(void)fcntl(fd, F_SETFD, 0);
	let_cancel(cancel);
	return fail(fd);
}

static bool is_kernels_kvm(int fd)
{
	struct stat st;

	return !fstat(fd, &st) && S_ISCHR(st.st_mode) &&
	       st.st_rdev == makedev(KVM_MISC_MAJOR, KVM_MISC_MINOR);
}

/* fd is what the C library gave for path: by another name it may be the node, or have failed at it. */
static int instead_of(int fd, int dir, const char *path, int flags)
{
	/* Nobody can call KVM on one of these; open it again through /proc and come back here. */
	if (flags & O_PATH)
		return fd;
	if (fd < 0)
		return preload_failed_at_node(dir, path) ? open_node(flags) : fd;
	if (strcmp(preload_node(), "/dev/kvm") != 0 || !is_kernels_kvm(fd))
		return fd;
	(void)pre.libc.close(fd);
	return open_node(flags);
}

static mode_t mode_of(int flags, va_list ap)
{
	return __OPEN_NEEDS_MODE(flags) ? va_arg(ap, mode_t) : 0;
}

EXPORT int open(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = mode_of(flags, ap);
	va_end(ap);
	if (preload_is_node(path) && !(flags & O_PATH))
		return open_node(flags);
	return instead_of(pre.libc.open(path, flags, mode), AT_FDCWD, path, flags);
}

EXPORT int openat(int dir, const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = mode_of(flags, ap);
	va_end(ap);
	if (preload_is_node(path) && !(flags & O_PATH))
		return open_node(flags);
	return instead_of(pre.libc.openat(dir, path, flags, mode), dir, path, flags);
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

/* The C library's own opens inside itself: only the plain name. */
EXPORT FILE *fopen(const char *path, const char *mode)
{
	int fd;
	FILE *f;

	if (!preload_is_node(path))
		return pre.libc.fopen(path, mode);
	fd = open_node(strchr(mode, 'e') ? O_CLOEXEC : 0);
	if (fd < 0)
		return NULL;
	f = fdopen(fd, mode);
	if (!f)
		(void)close(fd);
	return f;
}

EXPORT FILE *fopen64(const char *path, const char *mode) __attribute__((alias("fopen")));

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	void *ctx = context();
	va_list ap;
	uintptr_t arg;
	struct cancel cancel;
	int r;

	va_start(ap, request);
	arg = va_arg(ap, uintptr_t);
	va_end(ap);
	/* KVM's requests are all of one type; a glance spares everybody else the look-up. */
	if (!ctx || _IOC_TYPE(request) != KVMIO)
		return preload_libc()->ioctl(fd, request, arg);
	/* The caller's int may have been sign-extended on its way here. */
	cancel = hold_cancel();
	r = softkvm_ops.ioctl(ctx, fd, (uint32_t)request, arg);
	let_cancel(cancel);
	if (r == -ENOTTY && !softkvm_owns_fd(ctx, fd))
		return pre.libc.ioctl(fd, request, arg);
	return fail(r);
}

#define RING_OFFSET (KVM_DIRTY_LOG_PAGE_OFFSET * UINT64_C(4096))

EXPORT void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	void *ctx = own_context(), *p;
	struct cancel cancel;
	int r;

	if (fd < 0 || (flags & MAP_ANONYMOUS) || !ctx || !softkvm_owns_fd(ctx, fd))
		return preload_libc()->mmap(addr, len, prot, flags, fd, off);
	/* A ring of dirty pages is shared data or nothing. */
	if ((uint64_t)off + len > RING_OFFSET && (!(flags & MAP_SHARED) || prot & PROT_EXEC)) {
		errno = EINVAL;
		return MAP_FAILED;
	}
	if (!(flags & MAP_SHARED))
		return pre.libc.mmap(addr, len, prot, flags, fd, off);
	cancel = hold_cancel();
	r = softkvm_ops.mmap(ctx, fd, len, (uint64_t)off, &p);
	let_cancel(cancel);
	if (r) {
		errno = -r;
		return MAP_FAILED;
	}
	return p;
}

EXPORT void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t off)
	__attribute__((alias("mmap")));

EXPORT int close(int fd)
{
	void *ctx = own_context();
	struct cancel cancel;
	int r;

	if (!ctx || !softkvm_owns_fd(ctx, fd))
		return preload_libc()->close(fd);
	cancel = hold_cancel();
	r = softkvm_ops.close(ctx, fd);
	let_cancel(cancel);
	return fail(r);
}

/* ---- what closes numbers by the way ---------------------------------------------- */

/* To be called with what softkvm_forget() said before. */
static int closed(bool any, int r)
{
	int saved = errno;

	if (any)
		softkvm_reap(context());
	errno = saved;
	return r;
}

static bool forget(unsigned first, unsigned last)
{
	void *ctx = context();

	(void)preload_libc();
	return ctx && softkvm_forget(ctx, first, last);
}

EXPORT int dup2(int fd, int to)
{
	bool any = fd != to && forget((unsigned)to, (unsigned)to);

	return closed(any, preload_libc()->dup2(fd, to));
}

EXPORT int dup3(int fd, int to, int flags)
{
	bool any = forget((unsigned)to, (unsigned)to);

	return closed(any, preload_libc()->dup3(fd, to, flags));
}

EXPORT int close_range(unsigned first, unsigned last, int flags)
{
	bool any = forget(first, last);

	return closed(any, preload_libc()->close_range(first, last, flags));
}

EXPORT int pthread_cancel(pthread_t thread)
{
	int r = preload_libc()->pthread_cancel(thread);

	if (!r && context())
		softkvm_cancelled(context(), thread);
	return r;
}

EXPORT int sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	return fail(softkvm_sigaction(sig, act, old));
}

/* In the C library these two do not come by sigaction(). */
EXPORT sighandler_t signal(int sig, sighandler_t handler)
{
	struct sigaction sa = { .sa_handler = handler, .sa_flags = SA_RESTART }, old;

	sigemptyset(&sa.sa_mask);
	return sigaction(sig, &sa, &old) < 0 ? SIG_ERR : old.sa_handler;
}

EXPORT sighandler_t __sysv_signal(int sig, sighandler_t handler)
{
	struct sigaction sa = { .sa_handler = handler, .sa_flags = SA_RESETHAND | SA_NODEFER }, old;

	sigemptyset(&sa.sa_mask);
	return sigaction(sig, &sa, &old) < 0 ? SIG_ERR : old.sa_handler;
}

EXPORT sighandler_t sysv_signal(int sig, sighandler_t handler) __attribute__((alias("__sysv_signal")));
EXPORT sighandler_t ssignal(int sig, sighandler_t handler) __attribute__((alias("signal")));

/* ---- the rooms' way past us -------------------------------------------- */

int soft_real_open(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = mode_of(flags, ap);
	va_end(ap);
	return preload_libc()->open(path, flags, mode);
}

int soft_real_ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	uintptr_t arg;

	va_start(ap, request);
	arg = va_arg(ap, uintptr_t);
	va_end(ap);
	return preload_libc()->ioctl(fd, request, arg);
}

void *soft_real_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	return preload_libc()->mmap(addr, len, prot, flags, fd, off);
}

int soft_real_munmap(void *addr, size_t len)
{
	return preload_libc()->munmap(addr, len);
}

int soft_real_close(int fd)
{
	return preload_libc()->close(fd);
}

int soft_real_sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	return preload_libc()->sigaction(sig, act, old);
}
