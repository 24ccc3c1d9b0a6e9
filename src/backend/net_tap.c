/* SPDX-License-Identifier: MIT
 * A tap interface (Documentation/networking/tuntap.rst): one frame a read or
 * write, no header before it.
 */
#include "backend/net_priv.h"
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BATCH 64 /* frames taken in a turn of the loop, so that others get theirs */

struct net_tap {
	struct net net;
	struct loop_watch watch;
	size_t held;                 /* bytes of a frame the client had no room for */
	uint8_t frame[NET_MAX_FRAME];
};

static void tap_ready(void *arg, uint32_t events)
{
	struct net_tap *t = arg;

	for (int i = 0; i < BATCH; i++) {
		ssize_t n = read(t->watch.fd, t->frame, sizeof(t->frame));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN) {
			/* The interface was deleted: it would be ready for ever. */
			loop_unwatch(t->net.loop, &t->watch);
			return;
		}
		if (n <= 0)
			return;
		if (!net_deliver(&t->net, t->frame, (size_t)n)) {
			t->held = (size_t)n;
			loop_unwatch(t->net.loop, &t->watch);
			return;
		}
	}
}

static int tap_send(struct net *n, const struct iovec *iov, int nr, size_t len)
{
	struct net_tap *t = container_of(n, struct net_tap, net);
	ssize_t r;

	do
		r = writev(t->watch.fd, iov, nr);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

static void tap_resume(struct net *n)
{
	struct net_tap *t = container_of(n, struct net_tap, net);

	if (!t->held || !net_deliver(n, t->frame, t->held))
		return;
	t->held = 0;
	/* On failure the guest hears nothing more; there is nobody to tell. */
	if (loop_watch(n->loop, &t->watch))
		return;
}

static void tap_flush(struct net *n)
{
	tap_resume(n); /* nobody is there: it is dropped */
}

static void tap_destroy(struct net *n)
{
	struct net_tap *t = container_of(n, struct net_tap, net);

	loop_unwatch(n->loop, &t->watch);
	close(t->watch.fd);
	free(t);
}

static const struct net_ops tap_ops = {
	.send = tap_send,
	.resume = tap_resume,
	.flush = tap_flush,
	.destroy = tap_destroy,
};

static int tap_open(const char *ifname, struct err *e)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI };
	int fd, r;

	if (!ifname[0] || strlen(ifname) >= sizeof(ifr.ifr_name) || strchr(ifname, '/') ||
	    strchr(ifname, '%'))
		return err_set(e, -EINVAL, "tap \"%s\": no name for an interface (1 to %zu characters, "
			       "no / or %%)", ifname, sizeof(ifr.ifr_name) - 1);
	strcpy(ifr.ifr_name, ifname);
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0) {
		r = -errno;
		return err_set(e, r, "tap %s: /dev/net/tun: %s%s", ifname, strerror(-r),
			       r == -ENOENT || r == -ENODEV ? ": modprobe tun" : "");
	}
	if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
		r = -errno;
		close(fd);
		if (r == -EPERM)
			return err_set(e, r, "tap %s: not permitted: make it for this user first, "
				       "e.g. ip tuntap add %s mode tap user $USER", ifname, ifname);
		if (r == -EBUSY)
			return err_set(e, r, "tap %s: another program is attached to it: give each "
				       "machine an interface of its own", ifname);
		if (r == -EINVAL)
			return err_set(e, r, "tap %s: not a tap interface with one queue and without "
				       "vnet header: make another, e.g. ip tuntap add NAME mode tap",
				       ifname);
		return err_set(e, r, "tap %s: %s", ifname, strerror(-r));
	}
	return fd;
}

int net_tap_create(struct net **out, struct loop *l, const char *ifname, struct err *e)
{
	struct net_tap *t;
	int fd = tap_open(ifname, e), r;

	if (fd < 0)
		return fd;
	t = calloc(1, sizeof(*t));
	if (!t) {
		r = err_set(e, -ENOMEM, "tap %s: no memory", ifname);
		goto close_tap;
	}
	t->net = (struct net){ .ops = &tap_ops, .loop = l };
	t->watch = (struct loop_watch){ .fd = fd, .events = EPOLLIN, .ready = tap_ready, .arg = t };
	r = loop_watch(l, &t->watch);
	if (r) {
		err_set(e, r, "tap %s: %s", ifname, strerror(-r));
		free(t);
		goto close_tap;
	}
	*out = &t->net;
	return 0;

close_tap:
	close(fd);
	return r;
}
