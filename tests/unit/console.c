/* SPDX-License-Identifier: MIT
 * The console on a pseudo-terminal, on pipes, files and nothing.
 */
#include "../lib/rounds.h"
#include "backend/backend.h"
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>
#include <cmocka.h>

struct user {
	struct loop *loop;
	struct console *c;
	int master, slave;
	char got[16384];
	size_t len, room; /* the client takes no more than room at a time */
	unsigned quits, columns, rows;
};

static size_t on_input(void *arg, const void *data, size_t len)
{
	struct user *u = arg;
	size_t n = MIN(MIN(len, u->room), sizeof(u->got) - u->len);

	memcpy(u->got + u->len, data, n);
	u->len += n;
	u->room -= n;
	return n;
}

static void on_resized(void *arg, unsigned columns, unsigned rows)
{
	struct user *u = arg;

	u->columns = columns;
	u->rows = rows;
}

static void on_quit(void *arg)
{
	((struct user *)arg)->quits++;
}

/* After so many rounds of the loop it has done all that there was to do. */
static void settle(struct user *u)
{
	loop_rounds(u->loop, 50);
}

static void user_client(struct user *u, size_t room)
{
	struct console_client cl = { .input = on_input, .resized = on_resized, .arg = u };

	u->room = room;
	console_set_client(u->c, &cl);
}

static void user_open(struct user *u, int in_fd, int out_fd)
{
	struct err e = { "" };

	assert_int_equal(loop_create(&u->loop), 0);
	if (console_create(&u->c, u->loop, in_fd, out_fd, on_quit, u, &e))
		fail_msg("%s", e.text);
}

static void user_close(struct user *u)
{
	console_destroy(u->c);
	loop_destroy(u->loop);
}

static void pty_open(struct user *u)
{
	memset(u, 0, sizeof(*u));
	u->master = posix_openpt(O_RDWR | O_NOCTTY);
	assert_true(u->master >= 0);
	assert_int_equal(grantpt(u->master), 0);
	assert_int_equal(unlockpt(u->master), 0);
	u->slave = open(ptsname(u->master), O_RDWR | O_NOCTTY);
	assert_true(u->slave >= 0);
	user_open(u, u->slave, u->slave);
}

static void pty_close(struct user *u)
{
	user_close(u);
	close(u->slave);
	close(u->master);
}

static void type(struct user *u, const char *s, size_t len)
{
	struct pollfd p = { .fd = u->slave, .events = POLLIN };

	assert_int_equal(write(u->master, s, len), len);
	/* The kernel passes it on in a work item of its own. */
	assert_int_equal(poll(&p, 1, -1), 1);
	settle(u);
}

static void test_raw_and_back(void **state)
{
	struct user u;
	struct termios t;

	pty_open(&u);
	tcgetattr(u.slave, &t);
	assert_int_equal(t.c_lflag & (ICANON | ECHO | ISIG), 0);
	/* The caller's description is not made non-blocking under him. */
	assert_int_equal(fcntl(u.slave, F_GETFL) & O_NONBLOCK, 0);
	console_restore_terminal(u.c);
	tcgetattr(u.slave, &t);
	assert_int_not_equal(t.c_lflag & ICANON, 0);
	console_restore_terminal(NULL);
	pty_close(&u);

	pty_open(&u);
	console_destroy(u.c);
	tcgetattr(u.slave, &t);
	assert_int_equal(t.c_lflag & (ICANON | ECHO | ISIG), ICANON | ECHO | ISIG);
	loop_destroy(u.loop);
	close(u.slave);
	close(u.master);
}

static void test_input(void **state)
{
	struct user u;

	pty_open(&u);
	user_client(&u, 1000);
	type(&u, "hello\r\003", 7);
	assert_int_equal(u.len, 7);
	assert_memory_equal(u.got, "hello\r\003", 7);
	assert_int_equal(u.quits, 0);
	pty_close(&u);
}

static void test_escape(void **state)
{
	struct user u;

	pty_open(&u);
	user_client(&u, 1000);
	type(&u, "a\001\001b", 4); /* one Ctrl-A for the guest */
	assert_int_equal(u.len, 3);
	assert_memory_equal(u.got, "a\001b", 3);
	type(&u, "\001k", 2); /* not ours */
	assert_int_equal(u.len, 5);
	assert_memory_equal(u.got + 3, "\001k", 2);
	assert_int_equal(u.quits, 0);
	type(&u, "\001", 1); /* in two pieces */
	assert_int_equal(u.len, 5);
	type(&u, "x", 1);
	assert_int_equal(u.quits, 1);
	assert_int_equal(u.len, 5);
	pty_close(&u);
}

/* The guest takes nothing: what was typed waits, and the way out still works. */
static void test_flow_control(void **state)
{
	struct user u;
	char many[1000];

	pty_open(&u);
	type(&u, "early", 5); /* nobody there yet */
	user_client(&u, 3);
	assert_int_equal(u.len, 3);
	settle(&u);
	assert_int_equal(u.len, 3);
	u.room = 100;
	console_resume(u.c);
	assert_int_equal(u.len, 5);
	assert_memory_equal(u.got, "early", 5);
	u.room = 0;
	memset(many, 'm', sizeof(many));
	for (int i = 0; i < 10; i++)
		type(&u, many, sizeof(many));
	assert_int_equal(u.len, 5);
	type(&u, "\001x", 2);
	assert_int_equal(u.quits, 1);
	u.room = 100000;
	console_resume(u.c);
	assert_int_equal(u.len, 5 + 4096); /* the buffer's worth, the rest is lost */
	pty_close(&u);
}

static void test_output(void **state)
{
	struct user u;
	char buf[64];

	pty_open(&u);
	assert_int_equal(console_write(u.c, "a\r\nb\n", 5), 0);
	assert_int_equal(read(u.master, buf, sizeof(buf)), 5);
	assert_memory_equal(buf, "a\r\nb\n", 5); /* untouched: it is raw */
	pty_close(&u);
}

static void test_size(void **state)
{
	struct winsize w = { .ws_col = 132, .ws_row = 43 };
	struct user u;
	unsigned columns, rows;

	pty_open(&u);
	console_get_size(u.c, &columns, &rows);
	assert_int_equal(columns, 80);
	assert_int_equal(rows, 25);
	assert_int_equal(ioctl(u.master, TIOCSWINSZ, &w), 0);
	console_resized(u.c); /* no client: nothing happens */
	user_client(&u, 0);
	console_resized(u.c);
	assert_int_equal(u.columns, 132);
	assert_int_equal(u.rows, 43);
	pty_close(&u);
}

static void test_hang_up(void **state)
{
	struct user u;

	pty_open(&u);
	user_client(&u, 100);
	close(u.master);
	u.master = -1;
	settle(&u); /* and does not spin: the timer gets its turn */
	assert_int_equal(u.len, 0);
	assert_true(console_write(u.c, "x", 1) < 0);
	assert_true(console_write(u.c, "x", 1) < 0);
	pty_close(&u);
}

static void test_pipe(void **state)
{
	struct user u = { 0 };
	int in[2], out[2];
	char many[8192], buf[8192];
	ssize_t n;

	assert_int_equal(pipe(in), 0);
	assert_int_equal(pipe(out), 0);
	user_open(&u, in[0], out[1]);
	user_client(&u, 100000);
	/* Data, not keys. */
	assert_int_equal(write(in[1], "\001x\001\001", 4), 4);
	settle(&u);
	assert_int_equal(u.quits, 0);
	assert_int_equal(u.len, 4);
	assert_memory_equal(u.got, "\001x\001\001", 4);
	/* No byte of a pipe is lost when the guest is slow. */
	u.room = 0;
	for (size_t i = 0; i < sizeof(many); i++)
		many[i] = (char)(i * 7);
	assert_int_equal(write(in[1], many, sizeof(many)), sizeof(many));
	settle(&u);
	close(in[1]);
	settle(&u);
	assert_int_equal(u.len, 4);
	u.room = 100000;
	console_resume(u.c);
	settle(&u);
	assert_int_equal(u.len, 4 + sizeof(many));
	assert_memory_equal(u.got + 4, many, sizeof(many));
	assert_int_equal(console_write(u.c, many, sizeof(many)), 0);
	n = read(out[0], buf, sizeof(buf));
	assert_int_equal(n, sizeof(many));
	assert_memory_equal(buf, many, sizeof(many));
	/* The reader goes: an error, no signal. */
	close(out[0]);
	assert_int_equal(console_write(u.c, "x", 1), -EPIPE);
	assert_int_equal(console_write(u.c, "x", 1), -EPIPE);
	user_close(&u);
	close(in[0]);
	close(out[1]);
}

/* Nobody reads the other end: one bounded wait, then nothing is waited for. */
static void test_stalled_output(void **state)
{
	struct user u = { 0 };
	char buf[4096], *all = calloc(1, 1 << 20);
	uint64_t t0, waited;
	size_t got = 0;
	ssize_t n;
	int out[2], r;

	assert_int_equal(pipe(out), 0);
	user_open(&u, -1, out[1]);
	memset(buf, 'o', sizeof(buf));
	t0 = clock_ns();
	do
		r = console_write(u.c, buf, sizeof(buf));
	while (!r);
	waited = (clock_ns() - t0) / 1000000;
	assert_int_equal(r, -EAGAIN);
	assert_true(waited >= CONSOLE_STALL_MS);
	t0 = clock_ns();
	for (int i = 0; i < 100; i++)
		assert_int_equal(console_write(u.c, buf, sizeof(buf)), -EAGAIN);
	/* Had each of them waited it would be a hundred times as long; a busy machine is not. */
	assert_true((clock_ns() - t0) / 1000000 < 50 * CONSOLE_STALL_MS);
	/* It reads again: it hears of the loss and of what comes after. */
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	while ((n = read(out[0], all, 1 << 20)) > 0)
		;
	assert_int_equal(console_write(u.c, "back", 4), 0);
	while ((n = read(out[0], all + got, 1000)) > 0)
		got += (size_t)n;
	all[got] = '\0';
	assert_non_null(strstr(all, "413696 bytes of output lost"));
	assert_string_equal(all + got - 4, "back");
	user_close(&u);
	close(out[0]);
	close(out[1]);
	free(all);
}

static void test_files(void **state)
{
	struct user u = { 0 };
	int null = open("/dev/null", O_RDWR), file;
	char path[] = "/tmp/belfry-console-XXXXXX";

	user_open(&u, null, null);
	user_client(&u, 100);
	settle(&u);
	assert_int_equal(u.len, 0);
	assert_int_equal(console_write(u.c, "x", 1), 0);
	user_close(&u);

	file = mkstemp(path);
	unlink(path);
	assert_int_equal(write(file, "script\n", 7), 7);
	lseek(file, 0, SEEK_SET);
	memset(&u, 0, sizeof(u));
	user_open(&u, file, -1);
	settle(&u);
	user_client(&u, 100);
	settle(&u);
	assert_int_equal(u.len, 7);
	assert_int_equal(console_write(u.c, "x", 1), 0); /* nowhere */
	user_close(&u);
	close(file);
	close(null);

	/* Always something to read: everybody else still gets a turn (settle() comes back). */
	file = open("/dev/zero", O_RDONLY);
	memset(&u, 0, sizeof(u));
	user_open(&u, file, -1);
	user_client(&u, 1000000000);
	settle(&u);
	assert_int_equal(u.len, sizeof(u.got));
	user_close(&u);
	close(file);
}

static void test_bad_fds(void **state)
{
	struct console *c = NULL;
	struct loop *l;
	struct err e;
	int closed = dup(0);

	assert_int_equal(loop_create(&l), 0);
	close(closed);
	assert_int_equal(console_create(&c, l, closed, -1, NULL, NULL, &e), -EBADF);
	assert_non_null(strstr(e.text, "console input"));
	assert_int_equal(console_create(&c, l, -1, closed, NULL, NULL, &e), -EBADF);
	assert_non_null(strstr(e.text, "console output"));
	loop_destroy(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_raw_and_back),
		cmocka_unit_test(test_input),
		cmocka_unit_test(test_escape),
		cmocka_unit_test(test_flow_control),
		cmocka_unit_test(test_output),
		cmocka_unit_test(test_size),
		cmocka_unit_test(test_hang_up),
		cmocka_unit_test(test_pipe),
		cmocka_unit_test(test_stalled_output),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_bad_fds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
