/* SPDX-License-Identifier: MIT */
#include "softkvm/eventfd.h"
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#define OWN_FDS 512 /* the least number of our duplicates */

/*
 * What we open for a moment, here and for the steal time, takes a number that the caller may
 * just have closed, and another of its threads may ask for: to them it is closed.
 */
static bool is_of_ours(int fd)
{
	char path[40], to[16];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, to, sizeof(to));
	return n > 6 && !memcmp(to, "/proc/", 6);
}

/*
 * /proc/self/fdinfo says "eventfd-id: n" ("Documentation/filesystems/proc.rst",
 * "Eventfd files") for an eventfd and only for one. fd: of ours, so that it stays what it is.
 */
static int identify(int fd, uint64_t *id)
{
	char path[40], text[512], *at;
	ssize_t n;
	int info;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = open(path, O_RDONLY | O_CLOEXEC);
	if (info < 0)
		return errno == ENOENT ? -EBADF : -errno;
	n = read(info, text, sizeof(text) - 1);
	close(info);
	if (n < 0)
		return -EBADF;
	text[n] = '\0';
	at = strstr(text, "\neventfd-id:");
	if (!at)
		return is_of_ours(fd) ? -EBADF : -EINVAL;
	*id = strtoull(at + strlen("\neventfd-id:"), NULL, 10);
	return 0;
}

int eventfd_hold(struct held_eventfd *e, int fd)
{
	int r, flags;

	/* Out of the way of the caller's numbers, if we may: what it has closed stays closed. */
	e->fd = fcntl(fd, F_DUPFD_CLOEXEC, OWN_FDS);
	if (e->fd < 0 && errno != EBADF)
		e->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (e->fd < 0)
		return -errno;
	/* Ask the duplicate: the caller's number may be another file by now. */
	r = identify(e->fd, &e->id);
	if (r) {
		eventfd_drop(e);
		return r;
	}
	flags = fcntl(e->fd, F_GETFL);
	e->blocking = flags >= 0 && !(flags & O_NONBLOCK);
	return 0;
}

int eventfd_identify(int fd, uint64_t *id)
{
	struct held_eventfd e;
	int r = eventfd_hold(&e, fd);

	if (r)
		return r;
	*id = e.id;
	eventfd_drop(&e);
	return 0;
}

void eventfd_drop(struct held_eventfd *e)
{
	if (e->fd >= 0)
		close(e->fd);
	e->fd = -1;
}

void eventfd_signal(const struct held_eventfd *e)
{
	const uint64_t one = 1;

	if (e->blocking) {
		struct pollfd p = { .fd = e->fd, .events = POLLOUT };

		if (poll(&p, 1, 0) != 1)
			return;
	}
	while (write(e->fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

bool eventfd_take(const struct held_eventfd *e)
{
	struct iovec iov;
	uint64_t value;
	ssize_t r;

	iov = (struct iovec){ .iov_base = &value, .iov_len = sizeof(value) };
	do
		r = e->blocking ? preadv2(e->fd, &iov, 1, -1, RWF_NOWAIT)
				: read(e->fd, &value, sizeof(value));
	while (r < 0 && errno == EINTR);
	return r == sizeof(value);
}
