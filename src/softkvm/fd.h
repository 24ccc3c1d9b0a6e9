/* SPDX-License-Identifier: MIT
 * The fds a caller holds. Each is a memfd: it has a number that dup, poll, fork
 * and close treat as any other, an inode by which a duplicate is recognized,
 * and pages to map (a vCPU's kvm_run) or to read (statistics).
 *
 * When is it gone? The description the caller holds carries a flock; a second
 * description of the same memfd, ours, can take that lock only after the last
 * duplicate and the last mapping in any process have gone. That is when the
 * kernel would release the file, too.
 */
#ifndef BELFRY_SOFTKVM_FD_H
#define BELFRY_SOFTKVM_FD_H

#include "base/base.h"

struct softkvm;
struct soft_file;

enum soft_kind { SOFT_SYSTEM, SOFT_VM, SOFT_VCPU, SOFT_STATS };

struct soft_file_ops {
	enum soft_kind kind;
	const char *name; /* of the memfd */
	/* As ioctl(2). Any thread, several at once. */
	int (*ioctl)(struct soft_file *f, unsigned long request, uintptr_t arg);
	/* Complete the mapping at p (size bytes) that mmap made of the memfd from offset. May be NULL. */
	int (*mapped)(struct soft_file *f, void *p, size_t size, uint64_t offset);
	/* No caller holds it any more; an object of ours may (a vCPU its VM). May be NULL. */
	void (*closed)(struct soft_file *f);
	/* The last reference has gone: free the object that f is part of. */
	void (*release)(struct soft_file *f);
};

struct soft_file {
	const struct soft_file_ops *ops; /* (o) */
	struct softkvm *ctx;		 /* (o) */
	int fd;				 /* the number first given out, -1 when closed; fd_lock */
	int own_fd;			 /* (o) our description of the memfd */
	pid_t pid;			 /* (o) who made it: calls of a forked child are refused */
	dev_t dev;			 /* (o) */
	ino_t ino;			 /* (o) */
	unsigned refs;			 /* atomic; the table holds one while the caller does */
	struct soft_file *next;		 /* hash chain; fd_lock */
};

struct fd_table {
	pthread_rwlock_t lock;
	struct soft_file **by_fd; /* by number as given out */
	int nr;
	struct soft_file *hash[64]; /* by inode */
};

int fd_table_init(struct fd_table *t) __must_check;
/* Its lock alone, new. Nobody takes it for reading twice. */
int fd_lock_init(pthread_rwlock_t *lock) __must_check;
/* Every file is released, whoever still holds its fd. */
void fd_table_destroy(struct fd_table *t);

/*
 * Make the memfd of f (size bytes). The fd is in f->fd but in no table yet, so
 * nobody else knows of it. Errors: -EMFILE, -ENFILE, -ENOMEM, -ENOENT (no /proc).
 */
int file_init(struct soft_file *f, struct softkvm *ctx, const struct soft_file_ops *ops,
	      size_t size) __must_check;
/* Undo file_init() of a file that was never published. */
void file_abandon(struct soft_file *f);
/* Let callers find it. The table takes over one reference. Returns the fd number or -ENOMEM. */
int file_publish(struct soft_file *f) __must_check;

/*
 * The file of an fd with a reference, or NULL. trusted: believe the number
 * without asking the kernel whether it was closed and reused behind our back.
 */
struct soft_file *file_get(struct softkvm *ctx, int fd, bool trusted);
void file_ref(struct soft_file *f);
void file_put(struct soft_file *f);

/* These numbers are no longer files of ours, or soon will not be. True if there were any. */
bool file_forget(struct softkvm *ctx, unsigned first, unsigned last);

/* close(2) one fd of ours, or any; releases what has no holder left. -EBADF. */
int file_close(struct softkvm *ctx, int fd);
/* Call fn for each file there is; it must not take or release one. */
void file_each(struct softkvm *ctx, void (*fn)(struct soft_file *f, void *arg), void *arg);
/* Release all files whose fds were closed without us. */
void file_reap(struct softkvm *ctx);

#endif
