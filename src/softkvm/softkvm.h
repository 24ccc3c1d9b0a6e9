/* SPDX-License-Identifier: MIT
 *
 * softkvm: KVM's API in user space, in this process. The room's public header.
 * What the calls mean is the kernel's "The Definitive KVM (Kernel-based Virtual
 * Machine) API Documentation"; docs/SOFTKVM.md tells how it is done and where
 * it differs on purpose.
 */
#ifndef BELFRY_SOFTKVM_H
#define BELFRY_SOFTKVM_H

#include "base/base.h"
#include "kvmapi/kvmapi.h"

struct softkvm;

struct softkvm_config {
	/*
	 * Deliver without leaving guest execution (posted interrupts, the default),
	 * or set IRR, kick the vCPU out of guest execution and inject on entry.
	 */
	bool no_apicv;
	/* How long a halted vCPU polls at most before it blocks, ns: as long as its waits are short. */
	uint64_t halt_poll_ns;
	/*
	 * A VM's thread starts with its first vCPU only, for programs that fork before that and want to
	 * have one thread then. Till then no irqfd is served, which the kernel's are (BELFRY_LATE_THREAD=on).
	 */
	bool late_thread;
	/* MiB that the translated code of a VM may take; 0: the engine's default. */
	uint32_t code_mib;
	/* Where complaints about misuse go; NULL: nowhere. Must outlive the context. */
	const struct log *log;
};

/*
 * The defaults; if env is true, changed by BELFRY_APICV=on|off,
 * BELFRY_HALT_POLL_NS=n and BELFRY_CODE_MIB=n.
 */
void softkvm_config_init(struct softkvm_config *c, bool env);

/*
 * One context serves any number of VMs and threads; there may be several. cfg
 * may be NULL. The first one of a process installs handlers for SIGSEGV and
 * SIGBUS that pass on what is not ours (a caller's bad pointer becomes EFAULT).
 * Errors: -ENOMEM.
 */
int softkvm_create(void **ctx, const struct softkvm_config *cfg) __must_check;

/*
 * Close whatever is still open and free everything. No thread may be in a call
 * of this context, and mappings that ops->mmap gave stay, unused, until they
 * are unmapped. NULL is allowed.
 */
void softkvm_destroy(void *ctx);

/*
 * The seam. open, ioctl, mmap and close may be called from any thread; a vCPU's
 * calls are serialized, as in the kernel, and all of them wait for KVM_RUN.
 * An fd is a real one: it may be dup()ed, passed on to fork() (where, as with
 * the kernel, calls fail with -EIO), and closed with close(2) too: the object
 * is then noticed to be gone at the next open, create or close.
 * For an fd that is not ours ioctl returns -ENOTTY, or -EBADF if it is closed.
 */
extern const struct kvmapi_ops softkvm_ops;

/*
 * True if fd (open, of any kind) belongs to this context. For a caller that
 * stands between a program and the kernel (the preload library).
 */
bool softkvm_owns_fd(void *ctx, int fd);

/*
 * For the same caller. These numbers are about to be closed or given to other files (dup2,
 * close_range): what comes by them from now on is not for us. True if there were any; then
 * softkvm_reap() after the fact lets go of objects that nobody holds any more.
 */
bool softkvm_forget(void *ctx, unsigned first, unsigned last);
void softkvm_reap(void *ctx);

/*
 * Around fork(2) (pthread_atfork), for the same caller: no other thread is in the middle of
 * something that the child needs. begin and end on the forking thread, or end in its child.
 */
void softkvm_fork_begin(void *ctx);
void softkvm_fork_end(void *ctx, bool child);

struct sigaction;
/*
 * The program's sigaction(2), for the same caller. softkvm stands before the
 * program's handlers to see what must end KVM_RUN; a program that comes here
 * sees its own handlers only, and may install them whenever it likes. Any
 * thread, signal handlers included. Errors: those of sigaction(2).
 */
int softkvm_sigaction(int sig, const struct sigaction *act, struct sigaction *old);

/*
 * The thread is cancelled: if it is in KVM_RUN, or when it next gets there, that ends
 * with EINTR. For a caller that holds cancellation back while it is in a call of ours.
 */
void softkvm_cancelled(void *ctx, pthread_t thread);

#endif
