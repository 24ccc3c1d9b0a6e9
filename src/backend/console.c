/* SPDX-License-Identifier: MIT
 * The console's two directions. Neither may block for long: input is read only
 * when there is some, output waits a bounded time. The caller's fds are shared
 * with whoever started us, so O_NONBLOCK must not be set on them: where the
 * file can be opened anew (terminals, pipes) we do and set it there.
 */
#include "backend/console.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#define BUFFER    4096
#define ESCAPE    1    /* Ctrl-A */
#define CAUTIOUS  512  /* bytes a write to a file that may block */

struct console {
	struct loop *loop;
	void (*quit)(void *arg);
	void *quit_arg;
	struct console_client client;
	/* input */
	int in_fd;                /* the caller's */
	int read_fd;              /* in_fd, or the same opened anew; -1: no more input */
	bool terminal, in_socket, in_file, escaped, offering;
	struct loop_watch watch;
	struct loop_timer read_file; /* files that epoll does not take are always ready */
	uint8_t buf[BUFFER];      /* from the user, not yet taken by the client */
	size_t start, len;
	struct termios saved;
	_Atomic bool raw;
	/* output */
	int out_fd, write_fd;
	bool out_nonblock, out_socket, out_sigpipe;
	pthread_mutex_t lock;     /* guards what follows */
	int gone;                 /* -errno: nobody will read any more */
	bool stalled;
	uint64_t lost;            /* bytes dropped in this stall */
};

/*
 * The same file by an open file description of our own. Not for regular files
 * (it would have a position of its own) nor for the master of a
 * pseudo-terminal (opening one makes another). -1 if that cannot be.
 */
static int open_anew(int fd, int flags)
{
	char path[32];
	struct stat st;
	unsigned pty;

	if (fstat(fd, &st) < 0 || !(S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode)))
		return -1;
	if (S_ISCHR(st.st_mode) && (!isatty(fd) || !ioctl(fd, TIOCGPTN, &pty)))
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

/* ---- input ----------------------------------------------------------- */

static void offer(struct console *c)
{
	/* The client may answer by console_resume(). */
	if (c->offering)
		return;
	c->offering = true;
	while (c->len && c->client.input) {
		size_t n = c->client.input(c->client.arg, c->buf + c->start, c->len);

		if (!n)
			break;
		n = MIN(n, c->len);
		c->start += n;
		c->len -= n;
	}
	c->offering = false;
	if (!c->len)
		c->start = 0;
}

static void keep(struct console *c, uint8_t byte)
{
	/* Typed faster than the guest takes it: as a real terminal line, lose it. */
	if (c->len == BUFFER)
		return;
	if (c->start + c->len == BUFFER) {
		memmove(c->buf, c->buf + c->start, c->len);
		c->start = 0;
	}
	c->buf[c->start + c->len++] = byte;
}

/* True if the user asked to quit. */
static bool take_typed(struct console *c, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (!c->escaped) {
			if (p[i] == ESCAPE)
				c->escaped = true;
			else
				keep(c, p[i]);
			continue;
		}
		c->escaped = false;
		if (p[i] == 'x')
			return true;
		/* Another key: the first Ctrl-A was meant for the guest after all. */
		keep(c, ESCAPE);
		if (p[i] != ESCAPE)
			keep(c, p[i]);
	}
	return false;
}

static void input_end(struct console *c)
{
	loop_unwatch(c->loop, &c->watch);
	loop_timer_cancel(c->loop, &c->read_file);
	if (c->read_fd >= 0 && c->read_fd != c->in_fd)
		close(c->read_fd);
	c->read_fd = -1;
}

/*
 * A terminal is read always, for the escape must work when the guest takes no
 * input. Anything else waits in its own queue until there is room here.
 */
static void watch_update(struct console *c)
{
	bool want = c->read_fd >= 0 && (c->terminal || c->len < BUFFER);

	if (c->in_file) {
		if (want)
			loop_timer_set(c->loop, &c->read_file, clock_ns());
		else
			loop_timer_cancel(c->loop, &c->read_file);
		return;
	}
	/* Not by an empty event mask: a hang-up would be reported all the time. */
	if (want && !c->watch.active) {
		if (loop_watch(c->loop, &c->watch))
			input_end(c);
	} else if (!want) {
		loop_unwatch(c->loop, &c->watch);
	}
}

static void input_ready(void *arg, uint32_t events)
{
	struct console *c = arg;
	uint8_t typed[BUFFER];
	size_t room = c->terminal ? BUFFER : BUFFER - c->len;
	ssize_t n;

	if (!room)
		n = -1, errno = EAGAIN;
	else if (c->in_socket)
		n = recv(c->read_fd, typed, room, MSG_DONTWAIT);
	else
		n = read(c->read_fd, typed, room);
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		watch_update(c);
		return;
	}
	if (n <= 0) {
		input_end(c);
		return;
	}
	if (c->terminal) {
		if (take_typed(c, typed, (size_t)n) && c->quit) {
			c->quit(c->quit_arg);
			return;
		}
	} else {
		for (ssize_t i = 0; i < n; i++)
			keep(c, typed[i]);
	}
	offer(c);
	watch_update(c);
}

static void file_ready(void *arg)
{
	input_ready(arg, EPOLLIN);
}

static int input_create(struct console *c, struct err *e)
{
	struct termios raw;
	struct stat st;
	int r;

	if (fstat(c->in_fd, &st) < 0)
		return err_set(e, -errno, "console input: %s", strerror(errno));
	c->in_socket = S_ISSOCK(st.st_mode);
	c->read_fd = open_anew(c->in_fd, O_RDONLY);
	if (c->read_fd < 0)
		c->read_fd = c->in_fd;
	c->watch = (struct loop_watch){
		.fd = c->read_fd, .events = EPOLLIN, .ready = input_ready, .arg = c,
	};
	c->read_file = (struct loop_timer){ .fire = file_ready, .arg = c };
	r = loop_watch(c->loop, &c->watch);
	if (r == -EPERM)
		c->in_file = true; /* epoll_ctl(2): a file or device that is always ready */
	else if (r)
		return err_set(e, r, "console input: cannot be watched: %s", strerror(-r));
	if (tcgetattr(c->in_fd, &c->saved) == 0) {
		c->terminal = true;
		raw = c->saved;
		cfmakeraw(&raw);
		atomic_store(&c->raw, true);
		/* In the background this would stop us for ever: SIGTTOU. Leave it to the shell then. */
		if (tcgetpgrp(c->in_fd) != -1 && tcgetpgrp(c->in_fd) != getpgrp())
			atomic_store(&c->raw, false);
		else if (tcsetattr(c->in_fd, TCSANOW, &raw) < 0)
			atomic_store(&c->raw, false);
	}
	watch_update(c);
	return 0;
}

int console_create(struct console **out, struct loop *l, int in_fd, int out_fd,
		   void (*quit)(void *arg), void *arg, struct err *e)
{
	struct console *c = calloc(1, sizeof(*c));
	struct stat st;
	int r = 0;

	if (!c)
		return err_set(e, -ENOMEM, "console: no memory");
	c->loop = l;
	c->quit = quit;
	c->quit_arg = arg;
	c->in_fd = in_fd;
	c->read_fd = -1;
	c->out_fd = c->write_fd = out_fd;
	mutex_init(&c->lock);
	if (out_fd >= 0) {
		int fd;

		if (fstat(out_fd, &st) < 0) {
			r = err_set(e, -errno, "console output: %s", strerror(errno));
			goto destroy;
		}
		c->out_socket = S_ISSOCK(st.st_mode);
		c->out_sigpipe = S_ISFIFO(st.st_mode);
		fd = open_anew(out_fd, O_WRONLY);
		if (fd >= 0) {
			c->write_fd = fd;
			c->out_nonblock = true;
		}
	}
	if (in_fd >= 0)
		r = input_create(c, e);
	if (r)
		goto destroy;
	*out = c;
	return 0;

destroy:
	console_destroy(c);
	return r;
}

void console_restore_terminal(struct console *c)
{
	if (c && atomic_exchange(&c->raw, false))
		(void)tcsetattr(c->in_fd, TCSANOW, &c->saved);
}

void console_destroy(struct console *c)
{
	if (!c)
		return;
	input_end(c);
	console_restore_terminal(c);
	if (c->write_fd >= 0 && c->write_fd != c->out_fd)
		close(c->write_fd);
	mutex_destroy(&c->lock);
	free(c);
}

void console_set_client(struct console *c, const struct console_client *cl)
{
	c->client = cl ? *cl : (struct console_client){ 0 };
	console_resume(c);
}

void console_resume(struct console *c)
{
	offer(c);
	watch_update(c);
}

void console_get_size(struct console *c, unsigned *columns, unsigned *rows)
{
	struct winsize w;

	*columns = 80;
	*rows = 25;
	if ((ioctl(c->out_fd, TIOCGWINSZ, &w) == 0 || ioctl(c->in_fd, TIOCGWINSZ, &w) == 0) &&
	    w.ws_col && w.ws_row) {
		*columns = w.ws_col;
		*rows = w.ws_row;
	}
}

void console_resized(struct console *c)
{
	unsigned columns, rows;

	console_get_size(c, &columns, &rows);
	if (c->client.resized)
		c->client.resized(c->client.arg, columns, rows);
}

/* ---- output ---------------------------------------------------------- */

/* write(2), but EPIPE comes without its signal, whatever the thread's mask is. */
static ssize_t write_quietly(struct console *c, const void *data, size_t len)
{
	const struct timespec now = { 0 };
	sigset_t pipe, old, before;
	ssize_t n;
	int saved;

	if (c->out_socket)
		return send(c->write_fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (!c->out_sigpipe)
		return write(c->write_fd, data, len);
	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	sigpending(&before);
	pthread_sigmask(SIG_BLOCK, &pipe, &old);
	n = write(c->write_fd, data, len);
	saved = errno;
	if (n < 0 && saved == EPIPE && !sigismember(&before, SIGPIPE))
		while (sigtimedwait(&pipe, NULL, &now) < 0 && errno == EINTR)
			;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	errno = saved;
	return n;
}

/* -EAGAIN if it takes nothing until then. */
static int wait_writable(struct console *c, uint64_t until)
{
	struct pollfd p = { .fd = c->write_fd, .events = POLLOUT };
	uint64_t now;
	int n;

	do {
		now = clock_ns();
		n = poll(&p, 1, now < until ? (int)((until - now + 999999) / 1000000) : 0);
	} while (n < 0 && errno == EINTR);
	return n > 0 ? 0 : -EAGAIN;
}

/* The bytes written; if fewer than len, *err says why. */
static size_t write_for_a_while(struct console *c, const uint8_t *p, size_t len, int *err)
{
	uint64_t patience = c->stalled ? 0 : (uint64_t)CONSOLE_STALL_MS * 1000000;
	size_t done = 0;

	*err = 0;
	while (done < len) {
		size_t chunk = len - done;
		ssize_t n;

		if (!c->out_nonblock && !c->out_socket) {
			/* It may block if it takes only a part of the chunk: ask, and keep it small. */
			chunk = MIN(chunk, CAUTIOUS);
			if (wait_writable(c, clock_ns() + patience)) {
				*err = -EAGAIN;
				break;
			}
		}
		n = write_quietly(c, p + done, chunk);
		if (n > 0) {
			done += (size_t)n;
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if ((n == 0 || errno == EAGAIN) && !wait_writable(c, clock_ns() + patience))
			continue;
		*err = n ? -errno : -EAGAIN;
		break;
	}
	return done;
}

static void tell_loss(struct console *c)
{
	char line[80];
	size_t n;
	int err;

	n = (size_t)snprintf(line, sizeof(line), "\r\n[%llu bytes of output lost: nobody took it]\r\n",
			     (unsigned long long)c->lost);
	n -= write_for_a_while(c, (uint8_t *)line, n, &err);
	if (n)
		return;
	c->stalled = false;
	c->lost = 0;
}

int console_write(struct console *c, const void *data, size_t len)
{
	size_t done = 0;
	int r = 0;

	if (c->write_fd < 0)
		return 0;
	mutex_lock(&c->lock);
	r = c->gone;
	if (r)
		goto unlock;
	if (c->stalled)
		tell_loss(c);
	if (c->stalled)
		r = -EAGAIN;
	else
		done = write_for_a_while(c, data, len, &r);
	if (r == -EAGAIN) {
		c->stalled = true;
		c->lost += len - done;
	} else if (r && r != -ENOSPC) {
		c->gone = r;
	}
unlock:
	mutex_unlock(&c->lock);
	return r;
}
