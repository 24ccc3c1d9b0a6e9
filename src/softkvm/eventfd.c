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
 * /proc/self/fdinfo says "eventfd-id: n" ("Documentation/filesystems/proc.rst",
 * "Eventfd files") for an eventfd and only for one.
 */
int eventfd_identify(int fd, uint64_t *id)
{
	char path[40], text[512], *at;
	ssize_t n;
	int info;

	if (fd < 0 || fcntl(fd, F_GETFD) < 0)
		return -EBADF;
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
		return -EINVAL;
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
	r = eventfd_identify(e->fd, &e->id);
	if (r) {
		eventfd_drop(e);
		return r;
	}
	flags = fcntl(e->fd, F_GETFL);
	e->blocking = flags >= 0 && !(flags & O_NONBLOCK);
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
