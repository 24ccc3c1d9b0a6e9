/* SPDX-License-Identifier: MIT
 *
 * An ordinary KVM program that knows nothing of softkvm: linked with the C library
 * and cmocka only, run with libsoftkvm-preload.so preloaded (tests/preload/run).
 * PRELOAD_TEST_NODE is the path it takes for /dev/kvm, which may be one that does
 * not exist.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MEM 0x10000u

static const char *node(void)
{
	const char *s = getenv("PRELOAD_TEST_NODE");

	return s ? s : "/dev/kvm";
}

/* softkvm's, not the kernel's: that one is a character device, ours a memfd. */
static void assert_soft(int fd)
{
	struct stat st;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true(S_ISREG(st.st_mode));
	assert_int_equal(ioctl(fd, KVM_GET_API_VERSION, 0), KVM_API_VERSION);
}

struct guest {
	int sys, vm, cpu;
	size_t size;
	struct kvm_run *run;
	uint8_t *mem;
};

/* Real mode, code at 0x1000. */
static void guest_create(struct guest *g, const void *code, size_t len)
{
	struct kvm_userspace_memory_region r = { .memory_size = MEM };
	struct kvm_regs regs = { .rip = 0x1000, .rflags = 2, .rsp = 0x8000 };
	struct kvm_sregs sregs;

	g->sys = open(node(), O_RDWR | O_CLOEXEC);
	assert_soft(g->sys);
	g->vm = ioctl(g->sys, KVM_CREATE_VM, 0);
	assert_true(g->vm >= 0);
	g->cpu = ioctl(g->vm, KVM_CREATE_VCPU, 0);
	assert_true(g->cpu >= 0);
	g->size = (size_t)ioctl(g->sys, KVM_GET_VCPU_MMAP_SIZE, 0);
	g->run = mmap(NULL, g->size, PROT_READ | PROT_WRITE, MAP_SHARED, g->cpu, 0);
	assert_true(g->run != MAP_FAILED);
	g->mem = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(g->mem != MAP_FAILED);
	memcpy(g->mem + 0x1000, code, len);
	r.userspace_addr = (uintptr_t)g->mem;
	assert_int_equal(ioctl(g->vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
	assert_int_equal(ioctl(g->cpu, KVM_GET_SREGS, &sregs), 0);
	sregs.cs.base = sregs.cs.selector = 0;
	assert_int_equal(ioctl(g->cpu, KVM_SET_SREGS, &sregs), 0);
	assert_int_equal(ioctl(g->cpu, KVM_SET_REGS, &regs), 0);
}

static void guest_destroy(struct guest *g)
{
	assert_int_equal(munmap(g->run, g->size), 0);
	assert_int_equal(close(g->cpu), 0);
	assert_int_equal(close(g->vm), 0);
	assert_int_equal(close(g->sys), 0);
	munmap(g->mem, MEM);
}

/* ---- names of the node --------------------------------------------------------- */

static void test_open(void **state)
{
	char dir[PATH_MAX], base[PATH_MAX], other[2 * PATH_MAX], tmp[] = "/tmp/preload.XXXXXX";
	const char *d, *b;
	int at, fd;
	FILE *f;

	snprintf(dir, sizeof(dir), "%s", node());
	snprintf(base, sizeof(base), "%s", node());
	d = dirname(dir), b = basename(base);
	fd = open(node(), O_RDWR | O_CLOEXEC);
	assert_soft(fd);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	close(fd);
	fd = open64(node(), O_RDWR);
	assert_soft(fd);
	assert_int_equal(fcntl(fd, F_GETFD), 0);
	close(fd);
	fd = openat(AT_FDCWD, node(), O_RDWR);
	assert_soft(fd);
	close(fd);
	at = open(d, O_PATH | O_DIRECTORY);
	assert_true(at >= 0);
	fd = openat(at, b, O_RDWR);
	assert_soft(fd);
	close(fd);
	snprintf(other, sizeof(other), "%s/../%s/./%s", d, strrchr(d, '/') + 1, b);
	fd = open(other, O_RDWR);
	assert_soft(fd);
	close(fd);
	/* A link to a link, the second relative. */
	assert_non_null(mkdtemp(tmp));
	snprintf(other, sizeof(other), "%s/one", tmp);
	assert_int_equal(symlink(node(), other), 0);
	snprintf(other, sizeof(other), "%s/two", tmp);
	assert_int_equal(symlink("one", other), 0);
	fd = open(other, O_RDWR);
	assert_soft(fd);
	close(fd);
	assert_int_equal(access(other, R_OK | W_OK), 0);
	unlink(other);
	/* And one that goes round. */
	assert_int_equal(symlink("two", other), 0);
	assert_int_equal(open(other, O_RDWR), -1);
	assert_int_equal(errno, ELOOP);
	unlink(other);
	snprintf(other, sizeof(other), "%s/one", tmp);
	unlink(other);
	rmdir(tmp);
	f = fopen(node(), "r+");
	assert_non_null(f);
	assert_soft(fileno(f));
	fclose(f);
	close(at);
}

static void test_look(void **state)
{
	struct stat st;
	struct stat64 st64;
	struct statx stx;

	assert_int_equal(access(node(), F_OK), 0);
	assert_int_equal(access(node(), R_OK | W_OK), 0);
	assert_int_equal(eaccess(node(), R_OK | W_OK), 0);
	assert_int_equal(faccessat(AT_FDCWD, node(), R_OK | W_OK, 0), 0);
	assert_int_equal(access(node(), X_OK), -1);
	assert_int_equal(stat(node(), &st), 0);
	assert_true(S_ISCHR(st.st_mode) && st.st_rdev == makedev(10, 232));
	assert_int_equal(lstat(node(), &st), 0);
	assert_true(S_ISCHR(st.st_mode));
	assert_int_equal(fstatat(AT_FDCWD, node(), &st, 0), 0);
	assert_true(S_ISCHR(st.st_mode));
	assert_int_equal(stat64(node(), &st64), 0);
	assert_true(S_ISCHR(st64.st_mode) && st64.st_rdev == makedev(10, 232));
	assert_int_equal(statx(AT_FDCWD, node(), 0, STATX_BASIC_STATS, &stx), 0);
	assert_true(S_ISCHR(stx.stx_mode) && stx.stx_rdev_major == 10 && stx.stx_rdev_minor == 232);
}

/* What is not the node is as it was. */
static void test_others(void **state)
{
	struct stat st;
	char name[] = "/tmp/preload.XXXXXX";
	int fd;

	assert_int_equal(open("/nonexistent/kvm", O_RDWR), -1);
	assert_int_equal(errno, ENOENT);
	assert_int_equal(open("/etc/passwd/kvm", O_RDWR), -1);
	assert_int_equal(errno, ENOTDIR);
	assert_int_equal(open("", O_RDWR), -1);
	assert_int_equal(access("/nonexistent", F_OK), -1);
	assert_int_equal(errno, ENOENT);
	assert_int_equal(stat("/nonexistent", &st), -1);
	assert_int_equal(errno, ENOENT);
	assert_int_equal(openat(9999, "kvm", O_RDWR), -1);
	assert_int_equal(errno, EBADF);
	fd = open("/dev/null", O_RDWR);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true(S_ISCHR(st.st_mode));
	assert_int_equal(ioctl(fd, KVM_GET_API_VERSION, 0), -1);
	assert_int_equal(errno, ENOTTY);
	close(fd);
	assert_int_equal(ioctl(fd, KVM_GET_API_VERSION, 0), -1);
	assert_int_equal(errno, EBADF);
	fd = mkstemp(name);
	close(fd);
	unlink(name);
	fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0640);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 0777 & ~0037, 0640 & ~0037);
	close(fd);
	unlink(name);
	fd = open("/tmp", O_TMPFILE | O_RDWR, 0600);
	if (fd >= 0) {
		assert_int_equal(fstat(fd, &st), 0);
		assert_int_equal(st.st_mode & 0777, 0600);
		close(fd);
	}
}

/* ---- fds ------------------------------------------------------------------------ */

static const uint8_t out_and_halt[] = { 0xe6, 0x80, 0xf4 };

static void test_fds(void **state)
{
	struct guest g;
	struct pollfd p = { .events = POLLIN };
	int copy, high;

	guest_create(&g, out_and_halt, sizeof(out_and_halt));
	copy = dup(g.cpu);
	high = fcntl(g.cpu, F_DUPFD_CLOEXEC, 500);
	assert_true(copy >= 0 && high >= 500);
	p.fd = g.cpu;
	assert_true(poll(&p, 1, 0) >= 0);
	/* The first number goes, a duplicate runs. */
	close(g.cpu);
	assert_int_equal(ioctl(high, KVM_RUN, 0), 0);
	assert_int_equal(g.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(g.run->io.port, 0x80);
	close(high);
	/* The VM lives while one of its vCPUs does. */
	close(g.vm);
	assert_int_equal(ioctl(copy, KVM_RUN, 0), 0);
	assert_int_equal(g.run->exit_reason, KVM_EXIT_HLT);
	g.vm = dup(g.sys);
	g.cpu = copy;
	guest_destroy(&g);
}

/* The ring of dirty pages lies in the vCPU's fd, too, shared and without code. */
static void test_dirty_ring(void **state)
{
	const off_t at = KVM_DIRTY_LOG_PAGE_OFFSET * 4096;
	struct kvm_userspace_memory_region r = { .memory_size = MEM, .flags = KVM_MEM_LOG_DIRTY_PAGES };
	struct kvm_enable_cap ring = { .cap = KVM_CAP_DIRTY_LOG_RING, .args = { 8192 } };
	static const uint8_t store_and_halt[] = { 0xa2, 0x00, 0x40, 0xf4 };
	struct kvm_dirty_gfn *gfn;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	struct guest g;
	int vm, cpu;

	guest_create(&g, store_and_halt, sizeof(store_and_halt));
	/* Another VM, with the same memory and registers. */
	vm = ioctl(g.sys, KVM_CREATE_VM, 0);
	assert_int_equal(ioctl(vm, KVM_ENABLE_CAP, &ring), 0);
	r.userspace_addr = (uintptr_t)g.mem;
	assert_int_equal(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
	cpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	assert_true(cpu >= 0);
	assert_int_equal(ioctl(g.cpu, KVM_GET_SREGS, &sregs), 0);
	assert_int_equal(ioctl(g.cpu, KVM_GET_REGS, &regs), 0);
	assert_int_equal(ioctl(cpu, KVM_SET_SREGS, &sregs), 0);
	assert_int_equal(ioctl(cpu, KVM_SET_REGS, &regs), 0);
	assert_ptr_equal(mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, cpu, at), MAP_FAILED);
	assert_int_equal(errno, EINVAL);
	assert_ptr_equal(mmap(NULL, 8192, PROT_READ | PROT_EXEC, MAP_SHARED, cpu, at), MAP_FAILED);
	assert_int_equal(errno, EINVAL);
	gfn = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, cpu, at);
	assert_true(gfn != MAP_FAILED);
	assert_int_equal(ioctl(cpu, KVM_RUN, 0), 0);
	assert_int_equal(gfn[0].flags, KVM_DIRTY_GFN_F_DIRTY);
	assert_int_equal(gfn[0].offset, 4);
	assert_int_equal(gfn[1].flags, 0);
	gfn[0].flags = KVM_DIRTY_GFN_F_RESET;
	assert_int_equal(ioctl(vm, KVM_RESET_DIRTY_RINGS, 0), 1);
	assert_int_equal(munmap(gfn, 8192), 0);
	assert_int_equal(close(cpu), 0);
	assert_int_equal(close(vm), 0);
	guest_destroy(&g);
}

static int in_child(int (*fn)(void *), void *arg)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(fn(arg));
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static int use_parents_vm(void *arg)
{
	struct guest *g = arg;
	struct kvm_regs r;

	return ioctl(g->cpu, KVM_GET_REGS, &r) == -1 && errno == EIO ? 0 : 1;
}

static int use_own_vm(void *arg)
{
	struct guest g;

	guest_create(&g, out_and_halt, sizeof(out_and_halt));
	return !ioctl(g.cpu, KVM_RUN, 0) && g.run->exit_reason == KVM_EXIT_IO ? 0 : 1;
}

/* As "qemu -daemonize": KVM is looked at, then the process forks and goes on in the child. */
static void test_fork(void **state)
{
	struct guest g;

	guest_create(&g, out_and_halt, sizeof(out_and_halt));
	assert_int_equal(in_child(use_parents_vm, &g), 0);
	assert_int_equal(in_child(use_own_vm, NULL), 0);
	assert_int_equal(ioctl(g.cpu, KVM_RUN, 0), 0);
	guest_destroy(&g);
}

#define KILL_AT(call)                                                                             \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (call), 0, 1),                                        \
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)

/* As a jailed device: its filter knows what it does with its own fds, and nothing else. */
static int use_own_fd_jailed(void *arg)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		KILL_AT(SYS_fstat),
		KILL_AT(SYS_newfstatat),
		KILL_AT(SYS_flock),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = { .len = sizeof(code) / sizeof(code[0]), .filter = code };
	int fd = *(int *)arg;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
		return 2;
	return mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED || close(fd);
}

static void test_jailed_child(void **state)
{
	int fd = memfd_create("device", MFD_CLOEXEC), status;
	struct guest g;
	pid_t pid;

	assert_int_equal(ftruncate(fd, 4096), 0);
	guest_create(&g, out_and_halt, sizeof(out_and_halt));
	assert_int_equal(in_child(use_own_fd_jailed, &fd), 0);
	/* A jailer's clone is none that the C library knows of. */
	pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
	if (!pid)
		_exit(use_own_fd_jailed(&fd));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
	if (!pid)
		_exit(use_own_vm(NULL));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(close(fd), 0);
	guest_destroy(&g);
}

static void *open_and_close(void *arg)
{
	while (!atomic_load((_Atomic bool *)arg))
		close(open(node(), O_RDWR | O_CLOEXEC));
	return NULL;
}

/* Whatever other threads were doing to fds, a child can open and close its own. */
static void test_fork_in_the_middle(void **state)
{
	_Atomic bool stop = false;
	pthread_t thread[2];
	int status = 0;

	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, open_and_close, (void *)&stop), 0);
	for (unsigned i = 0; i < 200 && !status; i++) {
		pid_t pid = fork();

		if (!pid) {
			int fd;

			alarm(60);
			fd = open(node(), O_RDWR | O_CLOEXEC);
			_exit(fd < 0 || close(fd));
		}
		assert_true(pid > 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(status, 0);
}

#define NOT_OPEN 100000

static void *close_others(void *arg)
{
	while (!atomic_load((_Atomic bool *)arg))
		close(NOT_OPEN);
	return NULL;
}

/*
 * Threads that close and close, whatever it is, do not keep a VM from being made. There are enough for
 * one of them always to be in the middle of a look-up: in one that does not run now, if not in one that does.
 */
static void test_busy_closers(void **state)
{
	_Atomic bool stop = false;
	pthread_t thread[64];
	struct guest g;

	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, close_others, (void *)&stop), 0);
	alarm(120);
	guest_create(&g, out_and_halt, sizeof(out_and_halt));
	guest_destroy(&g);
	alarm(0);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 64; i++)
		pthread_join(thread[i], NULL);
}

/* A number that became another file is that, for the requests that look no further, too. */
static void test_closed_by_the_way(void **state)
{
	struct kvm_irq_level line = { .irq = 4, .level = 1 };
	int other = open("/dev/null", O_RDWR), vm;
	struct guest g;

	guest_create(&g, out_and_halt, sizeof(out_and_halt));
	for (unsigned i = 0; i < 3; i++) {
		vm = ioctl(g.sys, KVM_CREATE_VM, 0);
		assert_int_equal(ioctl(vm, KVM_CREATE_IRQCHIP, 0), 0);
		assert_int_equal(ioctl(vm, KVM_IRQ_LINE, &line), 0);
		if (i == 0)
			assert_int_equal(dup2(other, vm), vm);
		else if (i == 1)
			assert_int_equal(dup3(other, vm, O_CLOEXEC), vm);
		else
			assert_int_equal(close_range((unsigned)vm, (unsigned)vm, 0), 0);
		assert_int_equal(ioctl(vm, KVM_IRQ_LINE, &line), -1);
		assert_int_equal(errno, i < 2 ? ENOTTY : EBADF);
		if (i < 2)
			close(vm);
	}
	/* One that fails changes nothing. */
	vm = ioctl(g.sys, KVM_CREATE_VM, 0);
	assert_int_equal(ioctl(vm, KVM_CREATE_IRQCHIP, 0), 0);
	assert_int_equal(dup2(-1, vm), -1);
	assert_int_equal(errno, EBADF);
	assert_int_equal(ioctl(vm, KVM_IRQ_LINE, &line), 0);
	close(vm);
	close(other);
	guest_destroy(&g);
}

/* ---- signals -------------------------------------------------------------------- */

static _Atomic(struct kvm_run *) running;
static _Atomic unsigned kicks;

static void on_kick(int sig)
{
	struct kvm_run *run = running;

	kicks++;
	if (run)
		run->immediate_exit = 1;
}

static void *run_it(void *arg)
{
	struct guest *g = arg;
	int r = ioctl(g->cpu, KVM_RUN, 0);

	return (void *)(intptr_t)(r < 0 ? errno : 0);
}

static void install_by_sigaction(int sig)
{
	struct sigaction sa = { .sa_handler = on_kick }, old;

	assert_int_equal(sigaction(sig, &sa, NULL), 0);
	/* The program sees what it set, not who stands before it. */
	assert_int_equal(sigaction(sig, NULL, &old), 0);
	assert_ptr_equal(old.sa_handler, on_kick);
	assert_int_equal(old.sa_flags & SA_SIGINFO, 0);
}

static void install_by_signal(int sig)
{
	assert_true(signal(sig, on_kick) != SIG_ERR);
	assert_ptr_equal(signal(sig, on_kick), on_kick);
}

/*
 * The kick signal's handler is installed while a vCPU runs (QEMU does so for each
 * vCPU it starts, over the last one's). Afterwards a kick must still end KVM_RUN.
 */
static void kick_late(void (*install)(int))
{
	static const uint8_t count_for_ever[] = { 0xff, 0x06, 0x00, 0x20, 0xeb, 0xfa };
	struct guest g;
	pthread_t t;
	void *r;

	kicks = 0;
	install(SIGUSR1);
	guest_create(&g, count_for_ever, sizeof(count_for_ever));
	running = g.run;
	assert_int_equal(pthread_create(&t, NULL, run_it, &g), 0);
	while (!*(volatile uint16_t *)(g.mem + 0x2000))
		usleep(100);
	install(SIGUSR1);
	assert_int_equal(pthread_kill(t, SIGUSR1), 0);
	pthread_join(t, &r);
	assert_int_equal((intptr_t)r, EINTR);
	assert_int_equal(kicks, 1);
	/* Ignored again: nothing stands in its place. */
	assert_true(signal(SIGUSR1, SIG_IGN) == on_kick);
	assert_int_equal(raise(SIGUSR1), 0);
	assert_int_equal(kicks, 1);
	assert_true(signal(SIGUSR1, SIG_DFL) == SIG_IGN);
	running = NULL;
	guest_destroy(&g);
}

static void test_kick(void **state)
{
	kick_late(install_by_sigaction);
	kick_late(install_by_signal);
}

static void *run_until_cancelled(void *arg)
{
	struct guest *g = arg;

	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	while (g)
		ioctl(g->cpu, KVM_RUN, 0);
	return NULL;
}

/* A thread that is cancelled in KVM_RUN goes, and leaves nothing locked or waited for. */
static void cancel_one(const void *code, size_t len, int started)
{
	struct kvm_userspace_memory_region none = { 0 };
	struct guest g;
	pthread_t t;
	void *r;

	guest_create(&g, code, len);
	assert_int_equal(pthread_create(&t, NULL, run_until_cancelled, &g), 0);
	while (started && !*(volatile uint16_t *)(g.mem + 0x2000))
		usleep(100);
	assert_int_equal(pthread_cancel(t), 0);
	pthread_join(t, &r);
	assert_ptr_equal(r, PTHREAD_CANCELED);
	assert_int_equal(ioctl(g.vm, KVM_SET_USER_MEMORY_REGION, &none), 0);
	guest_destroy(&g);
}

static void test_cancel(void **state)
{
	static const uint8_t count_for_ever[] = { 0xff, 0x06, 0x00, 0x20, 0xeb, 0xfa };
	static const uint8_t count_by_exits[] = { 0xff, 0x06, 0x00, 0x20, 0xe6, 0x80, 0xeb, 0xf8 };

	for (unsigned i = 0; i < 50; i++) {
		cancel_one(count_for_ever, sizeof(count_for_ever), i % 2);
		cancel_one(count_by_exits, sizeof(count_by_exits), i % 2);
	}
}

static sigjmp_buf fault;
static _Atomic unsigned faults;

static void on_fault(int sig)
{
	faults++;
	siglongjmp(fault, 1);
}

/* The program has its own handlers of faults; ours come first for what is ours. */
static void test_faults(void **state)
{
	/* mov $1,%ax; xor %dx,%dx; xor %bx,%bx; div %bx: #DE goes by vector 0 to 0x1100 */
	static const uint8_t divides[] = { 0xb8, 1, 0, 0x31, 0xd2, 0x31, 0xdb, 0xf7, 0xf3, 0xf4 };
	static const int sigs[] = { SIGSEGV, SIGFPE };
	struct sigaction sa = { .sa_handler = on_fault, .sa_flags = SA_NODEFER }, old[2], seen;
	volatile int zero = 0, one = 1;
	char *volatile nowhere = (char *)8;
	struct guest g;

	guest_create(&g, divides, sizeof(divides));
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(sigaction(sigs[i], &sa, &old[i]), 0);
		assert_int_equal(sigaction(sigs[i], NULL, &seen), 0);
		assert_ptr_equal(seen.sa_handler, on_fault);
	}
	g.mem[0] = 0, g.mem[1] = 0x11; /* vector 0: 0:1100h */
	g.mem[0x1100] = 0xe6, g.mem[0x1101] = 0x99;
	faults = 0;
	assert_int_equal(ioctl(g.cpu, KVM_GET_REGS, 8), -1);
	assert_int_equal(errno, EFAULT);
	assert_int_equal(ioctl(g.cpu, KVM_RUN, 0), 0);
	assert_int_equal(g.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(g.run->io.port, 0x99);
	assert_int_equal(faults, 0);
	if (!sigsetjmp(fault, 1))
		*nowhere = 1;
	assert_int_equal(faults, 1);
	if (!sigsetjmp(fault, 1))
		one = one / zero;
	assert_int_equal(faults, 2);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(sigaction(sigs[i], &old[i], NULL), 0);
	guest_destroy(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open), cmocka_unit_test(test_look), cmocka_unit_test(test_others),
		cmocka_unit_test(test_fds), cmocka_unit_test(test_dirty_ring),
		cmocka_unit_test(test_jailed_child),
		cmocka_unit_test(test_fork_in_the_middle), cmocka_unit_test(test_closed_by_the_way),
		cmocka_unit_test(test_busy_closers), cmocka_unit_test(test_fork), cmocka_unit_test(test_kick),
		cmocka_unit_test(test_cancel), cmocka_unit_test(test_faults),
	};

	alarm(100); /* a kick that is lost */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
