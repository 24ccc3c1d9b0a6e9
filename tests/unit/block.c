/* SPDX-License-Identifier: MIT
 * The block back-end against real files, with both engines.
 */
#include "backend/backend.h"
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define IMAGE_SIZE (1u << 20)

struct image {
	char path[64];
	struct loop *loop;
	struct block *b;
	struct block_queue *q;
};

struct result {
	struct block_req r;
	struct iovec iov[8];
	bool done;
	int result;
	struct result **last; /* when set: where to note who finished last */
};

static void make_file(char *path, size_t room, const char *dir, off_t size)
{
	int fd;

	snprintf(path, room, "%s/belfry-block-XXXXXX", dir);
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	close(fd);
}

static void image_open(struct image *im, const char *dir, struct block_config c)
{
	struct err e = { "" };

	memset(im, 0, sizeof(*im));
	make_file(im->path, sizeof(im->path), dir, IMAGE_SIZE);
	c.path = im->path;
	assert_int_equal(loop_create(&im->loop), 0);
	if (c.direct && block_open(&im->b, &c, &e)) {
		print_message("no direct I/O in %s: tested without\n", dir);
		c.direct = false;
	}
	if (!im->b && block_open(&im->b, &c, &e))
		fail_msg("%s", e.text);
	assert_int_equal(block_queue_create(&im->q, im->b, im->loop), 0);
	/* Say so loudly if the engine under test is not the one asked for. */
	if (!c.threads && strcmp(block_engine(im->b), "io_uring"))
		print_message("no io_uring here: threads are tested twice\n");
	if (c.threads)
		assert_string_equal(block_engine(im->b), "threads");
}

static void image_close(struct image *im)
{
	block_queue_destroy(im->q);
	block_close(im->b);
	loop_destroy(im->loop);
	unlink(im->path);
}

static void on_done(struct block_req *r, int result)
{
	struct result *t = container_of(r, struct result, r);

	assert_false(t->done);
	t->done = true;
	t->result = result;
	if (t->last)
		*t->last = t;
}

/* Do one request and give its result. */
static int request(struct image *im, enum block_op op, uint64_t off, uint64_t len, void *buf,
		   bool unmap)
{
	struct result t = { .r = { .op = op, .offset = off, .len = len, .unmap = unmap,
				   .iov = t.iov, .nr_iov = buf ? 1 : 0, .done = on_done } };

	t.iov[0] = (struct iovec){ buf, len };
	block_queue_add(im->q, &t.r);
	block_queue_submit(im->q);
	block_queue_drain(im->q);
	assert_true(t.done);
	return t.result;
}

static void fill(uint8_t *p, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)(seed = seed * 1103515245 + 12345, seed >> 16);
}

static void check_file(const char *path, const uint8_t *want, size_t len, off_t at)
{
	uint8_t *got = malloc(len);
	int fd = open(path, O_RDONLY);

	assert_int_equal(pread(fd, got, len, at), len);
	assert_memory_equal(got, want, len);
	close(fd);
	free(got);
}

static const struct block_config engines[] = {
	{ .threads = false }, { .threads = true },
	{ .threads = false, .direct = true }, { .threads = true, .direct = true },
};

static void test_read_write(void **state)
{
	uint8_t *w = malloc(128 << 10), *r = malloc(128 << 10);

	fill(w, 128 << 10, 1);
	for (unsigned i = 0; i < ARRAY_SIZE(engines); i++) {
		struct image im;

		image_open(&im, "/var/tmp", engines[i]);
		assert_int_equal(block_size(im.b), IMAGE_SIZE);
		assert_false(block_readonly(im.b));
		memset(r, 0, 128 << 10);
		assert_int_equal(request(&im, BLOCK_WRITE, 512, 100 << 10, w, false), 0);
		assert_int_equal(request(&im, BLOCK_FLUSH, 0, 0, NULL, false), 0);
		check_file(im.path, w, 100 << 10, 512);
		assert_int_equal(request(&im, BLOCK_READ, 512, 100 << 10, r, false), 0);
		assert_memory_equal(r, w, 100 << 10);
		/* Memory that is aligned to nothing. */
		memset(r, 0, 128 << 10);
		assert_int_equal(request(&im, BLOCK_WRITE, 8192, 8192, w + 3, false), 0);
		assert_int_equal(request(&im, BLOCK_READ, 8192, 8192, r + 1, false), 0);
		assert_memory_equal(r + 1, w + 3, 8192);
		assert_int_equal(r[0], 0);
		assert_int_equal(r[8193], 0);
		check_file(im.path, w + 3, 8192, 8192);
		image_close(&im);
	}
	free(w);
	free(r);
}

static void test_segments(void **state)
{
	uint8_t w[4096], r[4096];

	fill(w, sizeof(w), 2);
	for (unsigned i = 0; i < ARRAY_SIZE(engines); i++) {
		struct image im;
		struct result t = { .r = { .op = BLOCK_WRITE, .offset = 1024, .len = 4096,
					   .iov = t.iov, .nr_iov = 4, .done = on_done } };

		image_open(&im, "/var/tmp", engines[i]);
		t.iov[0] = (struct iovec){ w, 1 };
		t.iov[1] = (struct iovec){ w + 1, 0 };
		t.iov[2] = (struct iovec){ w + 1, 1000 };
		t.iov[3] = (struct iovec){ w + 1001, 3095 };
		block_queue_add(im.q, &t.r);
		block_queue_drain(im.q);
		assert_int_equal(t.result, 0);
		check_file(im.path, w, 4096, 1024);
		memset(r, 0, sizeof(r));
		t.done = false;
		t.r.op = BLOCK_READ;
		t.iov[0].iov_base = r;
		t.iov[2].iov_base = r + 1;
		t.iov[3].iov_base = r + 1001;
		block_queue_add(im.q, &t.r);
		block_queue_drain(im.q);
		assert_int_equal(t.result, 0);
		assert_memory_equal(r, w, 4096);
		image_close(&im);
	}
}

static void test_zeroes(void **state)
{
	/* ext4 and the like punch and zero ranges; tmpfs cannot zero ranges and gets them written. */
	static const char *const dirs[] = { "/var/tmp", "/dev/shm" };
	uint8_t *ones = malloc(300 << 10), *want = calloc(1, 300 << 10), *got = malloc(300 << 10);

	memset(ones, 0xff, 300 << 10);
	for (unsigned d = 0; d < 2; d++) {
		for (unsigned i = 0; i < 2; i++) {
			for (unsigned unmap = 0; unmap < 2; unmap++) {
				struct image im;

				image_open(&im, dirs[d], engines[i]);
				assert_int_equal(request(&im, BLOCK_WRITE, 0, 300 << 10, ones, false), 0);
				assert_int_equal(request(&im, BLOCK_WRITE_ZEROES, 512, 298 << 10, NULL,
							 unmap), 0);
				memset(want, 0, 300 << 10);
				memset(want, 0xff, 512);
				memset(want + 512 + (298 << 10), 0xff, (2 << 10) - 512);
				assert_int_equal(request(&im, BLOCK_READ, 0, 300 << 10, got, false), 0);
				assert_memory_equal(got, want, 300 << 10);
				image_close(&im);
			}
		}
	}
	free(ones);
	free(want);
	free(got);
}

static void test_discard(void **state)
{
	uint8_t *ones = malloc(256 << 10), *got = malloc(256 << 10);
	struct stat before, after;

	memset(ones, 0xff, 256 << 10);
	for (unsigned i = 0; i < 2; i++) {
		struct image im;

		image_open(&im, "/dev/shm", engines[i]);
		assert_int_equal(request(&im, BLOCK_WRITE, 0, 256 << 10, ones, false), 0);
		stat(im.path, &before);
		assert_int_equal(request(&im, BLOCK_DISCARD, 64 << 10, 128 << 10, NULL, false), 0);
		stat(im.path, &after);
		assert_true(after.st_blocks < before.st_blocks);
		assert_int_equal(after.st_size, before.st_size);
		assert_int_equal(request(&im, BLOCK_READ, 0, 256 << 10, got, false), 0);
		assert_int_equal(got[(64 << 10) - 1], 0xff);
		assert_int_equal(got[64 << 10], 0);
		assert_int_equal(got[(192 << 10) - 1], 0);
		assert_int_equal(got[192 << 10], 0xff);
		image_close(&im);
	}
	free(ones);
	free(got);
}

static void test_refused_requests(void **state)
{
	uint8_t buf[1024];

	for (unsigned i = 0; i < 2; i++) {
		struct result t = { .r = { .op = BLOCK_READ, .offset = 0, .len = 1024, .iov = t.iov,
					   .nr_iov = 1, .done = on_done } };
		struct image im;

		image_open(&im, "/var/tmp", engines[i]);
		assert_int_equal(request(&im, BLOCK_READ, IMAGE_SIZE, 512, buf, false), -ERANGE);
		assert_int_equal(request(&im, BLOCK_READ, IMAGE_SIZE - 512, 1024, buf, false), -ERANGE);
		assert_int_equal(request(&im, BLOCK_WRITE, UINT64_MAX - 511, 1024, buf, false), -ERANGE);
		assert_int_equal(request(&im, BLOCK_DISCARD, 0, UINT64_MAX, NULL, false), -ERANGE);
		assert_int_equal(request(&im, BLOCK_WRITE_ZEROES, IMAGE_SIZE - 512, 513, NULL, false),
				 -ERANGE);
		assert_int_equal(request(&im, (enum block_op)99, 0, 512, buf, false), -EINVAL);
		assert_int_equal(request(&im, BLOCK_READ, IMAGE_SIZE, 0, buf, false), 0);
		/* Segments that do not sum up to the length. */
		t.iov[0] = (struct iovec){ buf, 512 };
		block_queue_add(im.q, &t.r);
		assert_true(t.done);
		assert_int_equal(t.result, -EINVAL);
		/* The file is as it was. */
		struct stat st;
		assert_int_equal(stat(im.path, &st), 0);
		assert_int_equal(st.st_size, IMAGE_SIZE);
		image_close(&im);
	}
}

static void test_image_shrank(void **state)
{
	uint8_t buf[8192];

	for (unsigned i = 0; i < 2; i++) {
		struct image im;

		image_open(&im, "/var/tmp", engines[i]);
		assert_int_equal(truncate(im.path, 4096), 0);
		assert_int_equal(request(&im, BLOCK_READ, 0, 8192, buf, false), -EIO);
		assert_int_equal(request(&im, BLOCK_READ, 65536, 512, buf, false), -EIO);
		assert_int_equal(request(&im, BLOCK_READ, 0, 4096, buf, false), 0);
		image_close(&im);
	}
}

static void test_readonly(void **state)
{
	struct image im;
	uint8_t buf[512] = { 0 };

	image_open(&im, "/var/tmp", (struct block_config){ .readonly = true });
	assert_true(block_readonly(im.b));
	assert_int_equal(request(&im, BLOCK_WRITE, 0, 512, buf, false), -EROFS);
	assert_int_equal(request(&im, BLOCK_DISCARD, 0, 512, NULL, false), -EROFS);
	assert_int_equal(request(&im, BLOCK_WRITE_ZEROES, 0, 512, NULL, true), -EROFS);
	assert_int_equal(request(&im, BLOCK_READ, 0, 512, buf, false), 0);
	assert_int_equal(request(&im, BLOCK_FLUSH, 0, 0, NULL, false), 0);
	image_close(&im);
}

static int try_open(const char *path, bool readonly, struct err *e)
{
	struct block_config c = { .path = path, .readonly = readonly };
	struct block *b = NULL;
	int r;

	e->text[0] = '\0';
	r = block_open(&b, &c, e);
	if (!r)
		block_close(b);
	return r;
}

static void test_locks(void **state)
{
	struct image im;
	struct err e;
	int status;

	image_open(&im, "/var/tmp", (struct block_config){ 0 });
	assert_int_equal(try_open(im.path, false, &e), -EAGAIN);
	assert_non_null(strstr(e.text, im.path));
	assert_non_null(strstr(e.text, "somebody has it open"));
	assert_int_equal(try_open(im.path, true, &e), -EAGAIN);
	assert_non_null(strstr(e.text, "for writing"));
	/* Another process, too. */
	if (!fork())
		_exit(try_open(im.path, false, &e) == -EAGAIN ? 0 : 1);
	wait(&status);
	assert_int_equal(status, 0);
	block_queue_destroy(im.q);
	block_close(im.b);
	/* Free again; readers share. */
	assert_int_equal(try_open(im.path, false, &e), 0);
	struct block_config c = { .path = im.path, .readonly = true };
	assert_int_equal(block_open(&im.b, &c, NULL), 0);
	assert_int_equal(try_open(im.path, true, &e), 0);
	assert_int_equal(try_open(im.path, false, &e), -EAGAIN);
	block_close(im.b);
	loop_destroy(im.loop);
	unlink(im.path);
}

/* A monitor that was killed in the middle of its work does not keep the next one out. */
static void test_lock_dies(void **state)
{
	uint8_t buf[4096] = { 1 };
	struct image im;
	struct err e;
	int ready[2];
	char byte;
	pid_t pid;

	for (unsigned i = 0; i < 10; i++) {
		make_file(im.path, sizeof(im.path), "/var/tmp", IMAGE_SIZE);
		assert_int_equal(pipe(ready), 0);
		pid = fork();
		if (!pid) {
			struct block_config c = { .path = im.path };

			if (!loop_create(&im.loop) && !block_open(&im.b, &c, NULL) &&
			    !block_queue_create(&im.q, im.b, im.loop) &&
			    !request(&im, BLOCK_WRITE, 0, sizeof(buf), buf, false))
				(void)!write(ready[1], "x", 1);
			pause();
		}
		close(ready[1]);
		assert_int_equal(read(ready[0], &byte, 1), 1);
		assert_int_equal(try_open(im.path, false, &e), -EAGAIN);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		assert_int_equal(try_open(im.path, false, &e), 0);
		close(ready[0]);
		unlink(im.path);
	}
}

static void test_bad_files(void **state)
{
	char path[64], fifo[80];
	struct err e;

	assert_int_equal(try_open("/nonexistent/x", false, &e), -ENOENT);
	assert_non_null(strstr(e.text, "/nonexistent/x: "));
	assert_non_null(strstr(e.text, "truncate")); /* and how to mend it */
	assert_non_null(strstr(e.text, "/nonexistent/x"));
	assert_int_equal(try_open("/tmp", true, &e), -EINVAL);
	assert_non_null(strstr(e.text, "neither a file nor a block device"));
	assert_int_equal(try_open("/dev/null", false, &e), -EINVAL);
	make_file(path, sizeof(path), "/var/tmp", 0);
	assert_int_equal(try_open(path, false, &e), -EINVAL);
	assert_non_null(strstr(e.text, "empty"));
	assert_int_equal(truncate(path, 1000), 0);
	assert_int_equal(try_open(path, false, &e), -EINVAL);
	assert_non_null(strstr(e.text, "no multiple of 512"));
	assert_int_equal(truncate(path, 1024), 0);
	assert_int_equal(try_open(path, false, &e), 0);
	snprintf(fifo, sizeof(fifo), "%s.fifo", path);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	assert_int_equal(try_open(fifo, true, &e), -EINVAL);
	unlink(fifo);
	unlink(path);
}

/* From here on the kernel answers this system call with EPERM, as a sandbox may. */
static int forbid(unsigned nr)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { .len = ARRAY_SIZE(code), .filter = code };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, 2, &prog);
}

/* In a process of its own, for there is no way back. Exit code 0: as it should be. */
static int run_child(int (*fn)(void))
{
	int status;

	if (!fork())
		_exit(fn());
	wait(&status);
	return status;
}

static int child_no_uring(void)
{
	uint8_t buf[512] = { 0 };
	struct image im;

	if (forbid(SYS_io_uring_setup))
		return 1;
	image_open(&im, "/var/tmp", (struct block_config){ 0 });
	if (strcmp(block_engine(im.b), "threads") || request(&im, BLOCK_READ, 0, 512, buf, false))
		return 2;
	image_close(&im);
	return 0;
}

/* The ring works at first and then no more: errors, not a hang. */
static int child_dead_ring(void)
{
	struct result t[3] = { 0 };
	uint8_t buf[512] = { 0 };
	struct image im;

	image_open(&im, "/var/tmp", (struct block_config){ 0 });
	if (strcmp(block_engine(im.b), "io_uring"))
		return 0;
	if (request(&im, BLOCK_READ, 0, 512, buf, false))
		return 1;
	if (forbid(SYS_io_uring_enter))
		return 2;
	for (int i = 0; i < 3; i++) {
		t[i].iov[0] = (struct iovec){ buf, 512 };
		t[i].r = (struct block_req){ .op = BLOCK_READ, .len = 512, .iov = t[i].iov, .nr_iov = 1,
					     .done = on_done };
		block_queue_add(im.q, &t[i].r);
	}
	block_queue_submit(im.q);
	block_queue_drain(im.q);
	for (int i = 0; i < 3; i++)
		if (!t[i].done || t[i].result != -EPERM)
			return 3;
	if (request(&im, BLOCK_FLUSH, 0, 0, NULL, false) != -EPERM)
		return 4;
	image_close(&im);
	return 0;
}

static void test_sandboxed(void **state)
{
	assert_int_equal(run_child(child_no_uring), 0);
	assert_int_equal(run_child(child_dead_ring), 0);
}

static unsigned batches;

static void on_batch(void *arg)
{
	batches++;
	loop_stop(arg);
}

/* The normal way: the loop brings the completions, and one batch call after them. */
static void test_loop_and_batch(void **state)
{
	uint8_t buf[4][512];

	for (unsigned i = 0; i < 2; i++) {
		struct result t[4] = { 0 };
		struct image im;

		image_open(&im, "/var/tmp", engines[i]);
		block_queue_set_batch(im.q, on_batch, im.loop);
		for (unsigned k = 0; k < 4; k++) {
			t[k].iov[0] = (struct iovec){ buf[k], 512 };
			t[k].r = (struct block_req){ .op = BLOCK_READ, .offset = k * 512, .len = 512,
						     .iov = t[k].iov, .nr_iov = 1, .done = on_done };
			block_queue_add(im.q, &t[k].r);
		}
		/* Nothing happens before the submission. */
		assert_false(block_queue_poll(im.q));
		block_queue_submit(im.q);
		batches = 0;
		while (!(t[0].done && t[1].done && t[2].done && t[3].done))
			loop_run(im.loop);
		assert_true(batches >= 1 && batches <= 4);
		image_close(&im);
	}
}

/*
 * Many at once, none overlapping within a round, against a shadow. More than
 * the ring's size, so that requests also wait for room.
 */
#define NR_MIX  2000
#define MIX_MAX 8192

static void test_mix(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(engines); i++) {
		uint8_t *shadow = calloc(1, IMAGE_SIZE), *data = malloc(IMAGE_SIZE + 64);
		uint8_t *back = calloc(1, IMAGE_SIZE + 64);
		struct result *t = calloc(NR_MIX, sizeof(*t));
		unsigned seed = 7 + i;
		struct image im;

		image_open(&im, "/var/tmp", engines[i]);
		for (unsigned round = 0; round < 8; round++) {
			uint64_t at = 0;
			unsigned nr = 0;

			fill(data, IMAGE_SIZE + 64, seed += 77);
			while (at < IMAGE_SIZE && nr < NR_MIX) {
				uint64_t len = 512 * (1 + (uint64_t)(rand_r(&seed) % (nr % 8 ? 2 : 16)));
				struct result *x = &t[nr++];
				/* Now and then unaligned memory. */
				uint8_t *mem = data + at + (rand_r(&seed) % 4 ? 0 : 5);
				static const enum block_op ops[] = { BLOCK_READ, BLOCK_WRITE, BLOCK_WRITE,
								     BLOCK_WRITE_ZEROES, BLOCK_FLUSH };
				enum block_op op = ops[(unsigned)rand_r(&seed) % 5];

				len = MIN(len, IMAGE_SIZE - at);
				memset(x, 0, sizeof(*x));
				x->r = (struct block_req){ .op = op, .offset = at, .len = len, .iov = x->iov,
							   .nr_iov = 2, .done = on_done,
							   .unmap = rand_r(&seed) & 1 };
				if (op == BLOCK_READ)
					mem = back + at;
				x->iov[0] = (struct iovec){ mem, len / 2 };
				x->iov[1] = (struct iovec){ mem + len / 2, len - len / 2 };
				if (op == BLOCK_WRITE)
					memcpy(shadow + at, mem, len);
				else if (op == BLOCK_WRITE_ZEROES)
					memset(shadow + at, 0, len);
				block_queue_add(im.q, &x->r);
				at += len;
			}
			block_queue_submit(im.q);
			block_queue_drain(im.q);
			for (unsigned k = 0; k < nr; k++) {
				assert_true(t[k].done);
				assert_int_equal(t[k].result, 0);
				if (t[k].r.op == BLOCK_READ)
					assert_memory_equal(back + t[k].r.offset,
							    shadow + t[k].r.offset, t[k].r.len);
			}
			check_file(im.path, shadow, IMAGE_SIZE, 0);
		}
		image_close(&im);
		free(t);
		free(shadow);
		free(data);
		free(back);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_read_write),
		cmocka_unit_test(test_segments),
		cmocka_unit_test(test_zeroes),
		cmocka_unit_test(test_discard),
		cmocka_unit_test(test_refused_requests),
		cmocka_unit_test(test_image_shrank),
		cmocka_unit_test(test_readonly),
		cmocka_unit_test(test_locks),
		cmocka_unit_test(test_lock_dies),
		cmocka_unit_test(test_bad_files),
		cmocka_unit_test(test_sandboxed),
		cmocka_unit_test(test_loop_and_batch),
		cmocka_unit_test(test_mix),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
