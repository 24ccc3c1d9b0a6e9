/* SPDX-License-Identifier: MIT
 * Opening an image, and what each request asks of the host, step by step.
 */
#include "backend/block_priv.h"
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR       512
#define BOUNCE_BYTES (1u << 20)
#define ZERO_BYTES   16384
#define NR_ZERO_IOV  64

/* Written where the file system cannot make zeroes itself. */
static const uint8_t zeroes[ZERO_BYTES] __attribute__((aligned(4096)));
#define Z1  { (void *)zeroes, ZERO_BYTES }
#define Z4  Z1, Z1, Z1, Z1
#define Z16 Z4, Z4, Z4, Z4
static const struct iovec zero_iov[NR_ZERO_IOV] = { Z16, Z16, Z16, Z16 };

/* ---- the image ------------------------------------------------------- */

/*
 * The lock is held by an open file of its own: the kernel lets go of the files
 * registered with an io_uring only a while after their process is gone, and a
 * monitor that was killed must not keep the next one out.
 *
 * A file system without locks (some network ones) must not make the image
 * unusable: only a lock that somebody holds refuses.
 */
static int image_lock(struct block *b, int flags, const char *path, struct err *e)
{
	struct flock fl = { .l_type = b->readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };
	char self[64];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", b->fd);
	b->lock_fd = open(self, flags);
	if (b->lock_fd < 0)
		return err_set(e, -errno, "%s: cannot open it a second time to lock it: %s", path,
			       strerror(errno));
	if (!fcntl(b->lock_fd, F_OFD_SETLK, &fl))
		return 0;
	if (errno != EAGAIN && errno != EACCES) {
		if (!flock(b->lock_fd, (b->readonly ? LOCK_SH : LOCK_EX) | LOCK_NB) ||
		    errno != EWOULDBLOCK)
			return 0;
	}
	if (b->readonly)
		return err_set(e, -EAGAIN, "%s: somebody has it open for writing: stop the other "
			       "machine or give this one a copy", path);
	return err_set(e, -EAGAIN, "%s: somebody has it open: stop the other machine, or open "
		       "it read-only in both", path);
}

static int image_size(int fd, const char *path, uint64_t *size, struct err *e)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_set(e, -errno, "%s: %s", path, strerror(errno));
	if (S_ISREG(st.st_mode)) {
		*size = (uint64_t)st.st_size;
	} else if (S_ISBLK(st.st_mode)) {
		if (ioctl(fd, BLKGETSIZE64, size) < 0)
			return err_set(e, -errno, "%s: cannot tell its size: %s", path,
				       strerror(errno));
	} else {
		return err_set(e, -EINVAL, "%s: neither a file nor a block device", path);
	}
	if (!*size)
		return err_set(e, -EINVAL, "%s: it is empty: give it a size, e.g. truncate -s 1G %s",
			       path, path);
	if (*size % SECTOR)
		return err_set(e, -EINVAL, "%s: its size of %llu bytes is no multiple of %d (the last "
			       "%llu bytes would be lost): pad it, e.g. truncate -s %%%d %s",
			       path, (unsigned long long)*size, SECTOR,
			       (unsigned long long)(*size % SECTOR), SECTOR, path);
	return 0;
}

/*
 * What O_DIRECT wants aligned. There is no call for it on every kernel we run
 * on: try the sizes there are. 0: none works.
 */
static unsigned direct_align(int fd)
{
	static const unsigned sizes[] = { 512, 1024, 2048, 4096 };
	unsigned found = 0;
	uint8_t *buf;

	if (posix_memalign((void **)&buf, 8192, 8192))
		return 4096;
	for (unsigned i = 0; i < ARRAY_SIZE(sizes) && !found; i++) {
		/* Aligned to this size and to no larger one, in memory too. */
		ssize_t r = pread(fd, buf + sizes[i], sizes[i], sizes[i]);

		if (r >= 0 || errno != EINVAL)
			found = sizes[i];
	}
	free(buf);
	return found;
}

static int open_direct(struct block *b, const char *path, int flags, struct err *e)
{
	b->buffered_fd = b->fd;
	b->fd = open(path, flags | O_DIRECT);
	if (b->fd < 0)
		return err_set(e, -errno, "%s: no direct I/O: %s: leave the option out", path,
			       strerror(errno));
	b->align = direct_align(b->fd);
	if (!b->align)
		return err_set(e, -EINVAL, "%s: direct I/O wants an alignment that is not known: "
			       "leave the option out", path);
	return 0;
}

int block_open(struct block **out, const struct block_config *c, struct err *e)
{
	int flags = (c->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY, excl = 0;
	struct block *b = calloc(1, sizeof(*b));
	struct stat st;
	int r;

	if (!b)
		return err_set(e, -ENOMEM, "%s: no memory", c->path);
	b->buffered_fd = b->lock_fd = -1;
	b->align = 1;
	b->readonly = c->readonly;
	b->no_flush = c->no_flush;
	b->threads = c->threads;
	/*
	 * O_NONBLOCK: a FIFO given by mistake must not hang us. O_EXCL: the kernel
	 * refuses a block device that is mounted or otherwise in use (open(2)).
	 */
	if (!c->readonly && !stat(c->path, &st) && S_ISBLK(st.st_mode))
		excl = O_EXCL;
	b->fd = open(c->path, flags | excl | O_NONBLOCK);
	if (b->fd < 0) {
		r = -errno;
		if (r == -EACCES || r == -EROFS || r == -EPERM)
			err_set(e, r, "%s: %s%s", c->path, strerror(-r),
				c->readonly ? "" : ": get the right to write, or open it read-only");
		else if (r == -EBUSY)
			err_set(e, r, "%s: the host uses this device (mounted?): unmount it, or open "
				"it read-only", c->path);
		else if (r == -ENOENT)
			err_set(e, r, "%s: %s: check the path, or make an empty image, e.g. "
				"truncate -s 1G %s", c->path, strerror(-r), c->path);
		else
			err_set(e, r, "%s: %s", c->path, strerror(-r));
		goto close_all;
	}
	/* io_uring would take it to mean "never wait" and fail requests with -EAGAIN. */
	(void)fcntl(b->fd, F_SETFL, 0);
	r = image_size(b->fd, c->path, &b->size, e);
	if (!r)
		r = image_lock(b, flags, c->path, e);
	if (!r && c->direct)
		r = open_direct(b, c->path, flags, e);
	if (r)
		goto close_all;
	*out = b;
	return 0;

close_all:
	block_close(b);
	return r;
}

void block_close(struct block *b)
{
	if (!b)
		return;
	if (b->lock_fd >= 0)
		close(b->lock_fd);
	if (b->fd >= 0)
		close(b->fd);
	if (b->buffered_fd >= 0)
		close(b->buffered_fd);
	free(b);
}

uint64_t block_size(const struct block *b)
{
	return b->size;
}

bool block_readonly(const struct block *b)
{
	return b->readonly;
}

const char *block_engine(const struct block *b)
{
	return b->threads || b->used_threads ? block_threads.name : block_uring.name;
}

/* ---- steps ----------------------------------------------------------- */

/* Ways to discard and to write zeroes, in the order they are tried; and to transfer. */
enum { WAY_PUNCH, WAY_ZERO_RANGE, WAY_WRITE, WAY_PLAIN, WAY_BOUNCE };

static void first_way(struct block_req *r)
{
	const struct block *b = r->queue->b;

	r->way = r->op == BLOCK_DISCARD || r->unmap ? WAY_PUNCH : WAY_ZERO_RANGE;
	if (r->way == WAY_PUNCH && b->no_punch)
		r->way = WAY_ZERO_RANGE;
	if (r->way == WAY_ZERO_RANGE && b->no_zero_range)
		r->way = WAY_WRITE;
}

/* The file system cannot do it this way: remember, and go to the next. */
static void next_way(struct block_req *r, bool remember)
{
	struct block *b = r->queue->b;

	if (r->way == WAY_PUNCH) {
		if (remember)
			atomic_store(&b->no_punch, true);
		r->way = b->no_zero_range ? WAY_WRITE : WAY_ZERO_RANGE;
	} else {
		if (remember)
			atomic_store(&b->no_zero_range, true);
		r->way = WAY_WRITE;
	}
}

/* Find the segment that byte `at` lies in; *skip: how far into it. */
static int segment_of(const struct block_req *r, uint64_t at, uint64_t *skip)
{
	int i = 0;

	while (i < r->nr_iov && at >= r->iov[i].iov_len)
		at -= r->iov[i++].iov_len;
	*skip = at;
	return i;
}

/* Copy between the segments, from byte `at` on, and the bounce buffer. */
static void bounce_copy(struct block_req *r, uint64_t at, uint64_t len, bool to_bounce)
{
	uint8_t *p = r->bounce;
	uint64_t skip;

	for (int i = segment_of(r, at, &skip); len; i++, skip = 0) {
		uint64_t n = MIN(len, r->iov[i].iov_len - skip);
		uint8_t *seg = (uint8_t *)r->iov[i].iov_base + skip;

		memcpy(to_bounce ? p : seg, to_bounce ? seg : p, n);
		p += n;
		len -= n;
	}
}

static bool memory_aligned(const struct block_req *r, unsigned align)
{
	uintptr_t bits = 0;

	for (int i = 0; i < r->nr_iov; i++)
		bits |= (uintptr_t)r->iov[i].iov_base | r->iov[i].iov_len;
	return !(bits & (align - 1));
}

static int transfer_step(struct block_req *r, struct block_step *s)
{
	const struct block *b = r->queue->b;
	uint64_t left = r->len - r->progress, skip;
	int i;

	s->kind = r->op == BLOCK_READ ? STEP_READ : STEP_WRITE;
	s->offset = r->offset + r->progress;
	s->len = left;
	/*
	 * A place in the image that direct I/O cannot reach goes through the page
	 * cache. That is safe beside direct I/O because the alignment asked for is
	 * then as large as what the cache would read and write back with it.
	 */
	s->buffered = b->align > 1 && ((s->offset | left) & (b->align - 1));
	/* Memory is another matter: the page cache could write back old neighbours. Copy. */
	if (b->align > 1 && !s->buffered && !memory_aligned(r, b->align)) {
		if (!r->bounce && posix_memalign(&r->bounce, 4096, MIN(r->len, BOUNCE_BYTES))) {
			r->bounce = NULL;
			return -ENOMEM;
		}
		s->len = MIN(left, BOUNCE_BYTES);
		if (r->op == BLOCK_WRITE)
			bounce_copy(r, r->progress, s->len, true);
		r->way = WAY_BOUNCE;
		r->part = (struct iovec){ r->bounce, s->len };
		s->iov = &r->part;
		s->nr_iov = 1;
		return 0;
	}
	r->way = WAY_PLAIN;
	i = segment_of(r, r->progress, &skip);
	if (skip) {
		r->part = (struct iovec){ (uint8_t *)r->iov[i].iov_base + skip,
					  r->iov[i].iov_len - skip };
		s->iov = &r->part;
		s->nr_iov = 1;
	} else {
		s->iov = r->iov + i;
		s->nr_iov = MIN(r->nr_iov - i, IOV_MAX);
	}
	return 0;
}

static void zeroes_step(struct block_req *r, struct block_step *s)
{
	const struct block *b = r->queue->b;
	uint64_t left = r->len - r->progress;

	s->offset = r->offset + r->progress;
	s->len = left;
	if (r->way != WAY_WRITE) {
		s->kind = STEP_ALLOCATE;
		s->mode = FALLOC_FL_KEEP_SIZE |
			  (r->way == WAY_PUNCH ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
		return;
	}
	s->kind = STEP_WRITE;
	s->buffered = b->align > 1 && ((s->offset | left) & (b->align - 1));
	if (left < ZERO_BYTES) {
		r->part = (struct iovec){ (void *)zeroes, left };
		s->iov = &r->part;
		s->nr_iov = 1;
	} else {
		s->iov = zero_iov;
		s->nr_iov = MIN(left / ZERO_BYTES, NR_ZERO_IOV);
	}
}

int block_req_step(struct block_req *r, struct block_step *s)
{
	int err = 0;

	*s = (struct block_step){ 0 };
	switch (r->op) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		err = transfer_step(r, s);
		break;
	case BLOCK_FLUSH:
		s->kind = STEP_SYNC;
		break;
	case BLOCK_DISCARD:
	case BLOCK_WRITE_ZEROES:
		zeroes_step(r, s);
		break;
	}
	if (err)
		r->result = err;
	return err;
}

static bool finished(struct block_req *r, int result)
{
	r->result = result;
	return true;
}

bool block_req_advance(struct block_req *r, int64_t res)
{
	bool allocate = (r->op == BLOCK_DISCARD || r->op == BLOCK_WRITE_ZEROES) &&
			r->way != WAY_WRITE;

	if (res == -EINTR || res == -EAGAIN)
		return false;
	if (allocate && (res == -EOPNOTSUPP || res == -EINVAL || res == -ENOSYS)) {
		/* Discard is a hint; -EINVAL may come from this range's alignment alone. */
		if (r->op == BLOCK_DISCARD) {
			if (res != -EINVAL)
				atomic_store(&r->queue->b->no_punch, true);
			return finished(r, 0);
		}
		next_way(r, res != -EINVAL);
		return false;
	}
	if (res < 0)
		return finished(r, (int)res);
	if (allocate || r->op == BLOCK_FLUSH)
		return finished(r, 0);
	/* The image ends before the size it had when it was opened. */
	if (!res)
		return finished(r, -EIO);
	if (r->op == BLOCK_READ && r->way == WAY_BOUNCE)
		bounce_copy(r, r->progress, (uint64_t)res, false);
	r->progress += (uint64_t)res;
	return r->progress >= r->len ? finished(r, 0) : false;
}

/* ---- queues ---------------------------------------------------------- */

int block_queue_create(struct block_queue **out, struct block *b, struct loop *l)
{
	struct block_queue *q = calloc(1, sizeof(*q));
	int r = -ENOSYS;

	if (!q)
		return -ENOMEM;
	q->b = b;
	q->loop = l;
	q->tail = &q->todo;
	if (!b->threads) {
		q->engine = &block_uring;
		r = q->engine->create(q);
	}
	if (r) {
		/* Whatever the reason (not built in, a sandbox, locked memory): threads need nothing. */
		q->engine = &block_threads;
		r = q->engine->create(q);
		if (!r)
			atomic_store(&b->used_threads, true);
	}
	if (r) {
		free(q);
		return r;
	}
	*out = q;
	return 0;
}

void block_queue_destroy(struct block_queue *q)
{
	if (!q)
		return;
	q->engine->destroy(q);
	free(q);
}

void block_queue_set_batch(struct block_queue *q, void (*fn)(void *arg), void *arg)
{
	q->batch = fn;
	q->batch_arg = arg;
}

struct block_req *block_queue_take(struct block_queue *q)
{
	struct block_req *r = q->todo;

	if (!r)
		return NULL;
	q->todo = r->next;
	if (!q->todo)
		q->tail = &q->todo;
	return r;
}

void block_queue_put_back(struct block_queue *q, struct block_req *r)
{
	r->next = q->todo;
	if (!q->todo)
		q->tail = &r->next;
	q->todo = r;
}

void block_req_finish(struct block_req *r)
{
	free(r->bounce);
	r->bounce = NULL;
	r->done(r, r->result);
}

/* 0: to the engine; 1: nothing to do; -errno. */
static int req_check(const struct block *b, const struct block_req *r)
{
	uint64_t sum = 0;

	if (r->op > BLOCK_WRITE_ZEROES)
		return -EINVAL;
	if (r->op == BLOCK_FLUSH)
		return b->no_flush || b->readonly;
	if (r->op != BLOCK_READ && b->readonly)
		return -EROFS;
	if (!range_within(r->offset, r->len, b->size))
		return -ERANGE;
	if (r->op == BLOCK_READ || r->op == BLOCK_WRITE) {
		for (int i = 0; i < r->nr_iov; i++)
			if (add_overflows(sum, r->iov[i].iov_len, &sum))
				return -EINVAL;
		if (sum != r->len)
			return -EINVAL;
	}
	if (r->op == BLOCK_DISCARD && b->no_punch)
		return 1;
	return !r->len;
}

void block_queue_add(struct block_queue *q, struct block_req *r)
{
	int check = req_check(q->b, r);

	r->queue = q;
	r->bounce = NULL;
	r->progress = 0;
	r->next = NULL;
	if (check) {
		r->result = MIN(check, 0);
		block_req_finish(r);
		return;
	}
	first_way(r);
	*q->tail = r;
	q->tail = &r->next;
}

void block_queue_submit(struct block_queue *q)
{
	if (q->todo)
		q->engine->submit(q);
}

void block_queue_event(struct block_queue *q)
{
	if (q->engine->reap(q) && q->batch)
		q->batch(q->batch_arg);
	block_queue_submit(q);
}

bool block_queue_poll(struct block_queue *q)
{
	if (!q->busy || !q->engine->reap(q))
		return false;
	if (q->batch)
		q->batch(q->batch_arg);
	block_queue_submit(q);
	return true;
}

void block_queue_drain(struct block_queue *q)
{
	while (q->todo || q->busy) {
		block_queue_submit(q);
		if (q->busy)
			q->engine->wait(q);
		if (q->engine->reap(q) && q->batch)
			q->batch(q->batch_arg);
	}
}
