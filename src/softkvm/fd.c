/* SPDX-License-Identifier: MIT */
#include "softkvm/softkvm_priv.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static unsigned hash_of(ino_t ino)
{
	return (unsigned)(ino ^ (ino >> 6)) % ARRAY_SIZE(((struct fd_table *)0)->hash);
}

/* Writers first: under the preload library every close() of the program is a reader. */
int fd_lock_init(pthread_rwlock_t *lock)
{
	pthread_rwlockattr_t attr;
	int r = -pthread_rwlockattr_init(&attr);

	if (r)
		return r;
	(void)pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	r = -pthread_rwlock_init(lock, &attr);
	(void)pthread_rwlockattr_destroy(&attr);
	return r;
}

int fd_table_init(struct fd_table *t)
{
	*t = (struct fd_table){ 0 };
	return fd_lock_init(&t->lock);
}

int file_init(struct soft_file *f, struct softkvm *ctx, const struct soft_file_ops *ops,
	      size_t size)
{
	char path[32];
	struct stat st;
	int r;

	*f = (struct soft_file){ .ops = ops, .ctx = ctx, .refs = 1, .own_fd = -1, .pid = getpid() };
	f->fd = memfd_create(ops->name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (f->fd < 0)
		return -errno;
	if (ftruncate(f->fd, (off_t)size) < 0 || fstat(f->fd, &st) < 0)
		goto fail;
	f->dev = st.st_dev;
	f->ino = st.st_ino;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->fd);
	f->own_fd = open(path, O_RDWR | O_CLOEXEC);
	if (f->own_fd < 0)
		goto fail;
	if (flock(f->fd, LOCK_EX | LOCK_NB) < 0)
		goto fail;
	return 0;

fail:
	r = -errno;
	file_abandon(f);
	return r;
}

void file_abandon(struct soft_file *f)
{
	if (f->own_fd >= 0)
		close(f->own_fd);
	if (f->fd >= 0)
		close(f->fd);
	f->fd = f->own_fd = -1;
}

int file_publish(struct soft_file *f)
{
	struct fd_table *t = &f->ctx->fds;
	unsigned h = hash_of(f->ino);
	int fd = f->fd;

	pthread_rwlock_wrlock(&t->lock);
	if (fd >= t->nr) {
		int nr = MAX(fd + 1, t->nr * 2 + 16);
		struct soft_file **n = realloc(t->by_fd, (size_t)nr * sizeof(*n));

		if (!n) {
			pthread_rwlock_unlock(&t->lock);
			return -ENOMEM;
		}
		memset(n + t->nr, 0, (size_t)(nr - t->nr) * sizeof(*n));
		t->by_fd = n;
		t->nr = nr;
	}
	/* A file whose number was closed behind our back and reused has lost it. */
	if (t->by_fd[fd])
		t->by_fd[fd]->fd = -1;
	t->by_fd[fd] = f;
	f->next = t->hash[h];
	t->hash[h] = f;
	pthread_rwlock_unlock(&t->lock);
	return fd;
}

void file_ref(struct soft_file *f)
{
	__atomic_fetch_add(&f->refs, 1, __ATOMIC_RELAXED);
}

void file_put(struct soft_file *f)
{
	int own = f->own_fd;

	if (__atomic_sub_fetch(&f->refs, 1, __ATOMIC_ACQ_REL))
		return;
	f->ops->release(f);
	close(own);
}

static struct soft_file *find_inode_locked(struct fd_table *t, const struct stat *st)
{
	for (struct soft_file *f = t->hash[hash_of(st->st_ino)]; f; f = f->next)
		if (f->ino == st->st_ino && f->dev == st->st_dev)
			return f;
	return NULL;
}

struct soft_file *file_get(struct softkvm *ctx, int fd, bool trusted)
{
	struct fd_table *t = &ctx->fds;
	struct soft_file *f = NULL;
	struct stat st;

	if (fd < 0)
		return NULL;
	if (trusted) {
		pthread_rwlock_rdlock(&t->lock);
		if (fd < t->nr && t->by_fd[fd]) {
			f = t->by_fd[fd];
			file_ref(f);
		}
		pthread_rwlock_unlock(&t->lock);
		if (f)
			return f;
	}
	/* The lock also keeps file_close() from another thread's number in the middle. */
	pthread_rwlock_rdlock(&t->lock);
	if (!fstat(fd, &st))
		f = find_inode_locked(t, &st);
	if (f)
		file_ref(f);
	pthread_rwlock_unlock(&t->lock);
	return f;
}

void file_each(struct softkvm *ctx, void (*fn)(struct soft_file *f, void *arg), void *arg)
{
	struct fd_table *t = &ctx->fds;

	pthread_rwlock_rdlock(&t->lock);
	for (unsigned h = 0; h < ARRAY_SIZE(t->hash); h++)
		for (struct soft_file *f = t->hash[h]; f; f = f->next)
			fn(f, arg);
	pthread_rwlock_unlock(&t->lock);
}

static void unhash_locked(struct fd_table *t, struct soft_file *f)
{
	struct soft_file **at = &t->hash[hash_of(f->ino)];

	while (*at != f)
		at = &(*at)->next;
	*at = f->next;
	if (f->fd >= 0 && t->by_fd[f->fd] == f)
		t->by_fd[f->fd] = NULL;
	f->fd = -1;
}

/* Take files that nobody holds out of the table; returns them chained. only: NULL for all. */
static struct soft_file *collect_locked(struct fd_table *t, const struct soft_file *only)
{
	struct soft_file *gone = NULL;
	pid_t pid = getpid();

	for (unsigned h = 0; h < ARRAY_SIZE(t->hash); h++) {
		struct soft_file *f = t->hash[h], *next;

		for (; f; f = next) {
			next = f->next;
			/* A parent's object, with its threads, is the parent's to release. */
			if ((only && f != only) || f->pid != pid || flock(f->own_fd, LOCK_EX | LOCK_NB) < 0)
				continue;
			unhash_locked(t, f);
			f->next = gone;
			gone = f;
		}
	}
	return gone;
}

static void put_all(struct soft_file *gone)
{
	while (gone) {
		struct soft_file *next = gone->next;

		if (gone->ops->closed)
			gone->ops->closed(gone);
		file_put(gone);
		gone = next;
	}
}

void file_reap(struct softkvm *ctx)
{
	struct soft_file *gone;

	pthread_rwlock_wrlock(&ctx->fds.lock);
	gone = collect_locked(&ctx->fds, NULL);
	pthread_rwlock_unlock(&ctx->fds.lock);
	put_all(gone);
}

bool file_forget(struct softkvm *ctx, unsigned first, unsigned last)
{
	struct fd_table *t = &ctx->fds;
	bool any = false;

	pthread_rwlock_wrlock(&t->lock);
	for (unsigned fd = first; fd <= last && fd < (unsigned)t->nr; fd++) {
		if (!t->by_fd[fd])
			continue;
		t->by_fd[fd]->fd = -1;
		t->by_fd[fd] = NULL;
		any = true;
	}
	pthread_rwlock_unlock(&t->lock);
	return any;
}

int file_close(struct softkvm *ctx, int fd)
{
	struct fd_table *t = &ctx->fds;
	struct soft_file *f, *gone = NULL;
	struct stat st;
	int r = 0;

	if (fstat(fd, &st) < 0)
		return -errno;
	/* The number must leave the table before it can be given out anew. */
	pthread_rwlock_wrlock(&t->lock);
	f = find_inode_locked(t, &st);
	if (f && f->fd == fd) {
		t->by_fd[fd] = NULL;
		f->fd = -1;
	}
	if (close(fd) < 0)
		r = -errno;
	if (f)
		gone = collect_locked(t, f);
	pthread_rwlock_unlock(&t->lock);
	put_all(gone);
	return r;
}

void fd_table_destroy(struct fd_table *t)
{
	struct soft_file *gone = NULL;

	for (unsigned h = 0; h < ARRAY_SIZE(t->hash); h++) {
		while (t->hash[h]) {
			struct soft_file *f = t->hash[h];
			struct stat st;
			int fd = f->fd;

			unhash_locked(t, f);
			if (fd >= 0 && !fstat(fd, &st) && st.st_ino == f->ino && st.st_dev == f->dev)
				close(fd);
			f->next = gone;
			gone = f;
		}
	}
	put_all(gone);
	free(t->by_fd);
	pthread_rwlock_destroy(&t->lock);
}
