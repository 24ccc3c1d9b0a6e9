/* SPDX-License-Identifier: MIT
 * A network backend sends and receives Ethernet frames (no virtio header).
 * Used only on its loop's thread.
 */
#ifndef BELFRY_BACKEND_NET_H
#define BELFRY_BACKEND_NET_H

#include "base/base.h"
#include <sys/uio.h>

#define NET_MAX_FRAME 65550 /* 64 KiB and an Ethernet header */

struct net;

struct net_client {
	/*
	 * A frame came in. False: no room now; the backend keeps or holds back
	 * frames until net_resume().
	 */
	bool (*receive)(void *arg, const void *frame, size_t len);
	void *arg;
};

/*
 * hostfwd: NULL-terminated list of "tcp:[host]:port-[guest]:port" (udp: too), as
 * QEMU's; addresses are IPv4, host "" is every interface, guest "" 10.0.2.15.
 * restricted: no connections to the outside, save those of hostfwd.
 */
struct net_user_config {
	const char *const *hostfwd;
	const char *hostname; /* the guest's, told by DHCP; may be NULL */
	bool restricted;
};

/*
 * libslirp: guest 10.0.2.15, gateway and host 10.0.2.2, DNS 10.0.2.3, IPv4 only.
 * Owner rule of base/loop.h for everything here. -EINVAL: a bad hostfwd;
 * -EADDRINUSE, -EACCES: its port. The program must ignore SIGPIPE (libslirp
 * writes to sockets that may be gone). Several may exist, on loops of several
 * threads, but libslirp keeps a list of them without a lock: create and destroy
 * them from one thread at a time.
 */
int net_user_create(struct net **out, struct loop *l, const struct net_user_config *c,
		    struct err *e) __must_check;
/* An existing or new tap interface. -EPERM, -EBUSY, -ENOENT (no tun driver), -EINVAL (the name). */
int net_tap_create(struct net **out, struct loop *l, const char *ifname, struct err *e) __must_check;
/* NULL is fine. */
void net_destroy(struct net *n);

/*
 * Before the loop runs, or on its thread. NULL: frames are dropped, those held
 * back too.
 */
void net_set_client(struct net *n, const struct net_client *c);
/*
 * Send one frame. -EAGAIN: the host has no room; the frame is the caller's to
 * drop. -EMSGSIZE: shorter than an Ethernet header or longer than
 * NET_MAX_FRAME; -EIO: the interface is down. The client may be given frames
 * before this returns.
 */
int net_send(struct net *n, const struct iovec *iov, int nr) __must_check;
/* The client has room again. Not from within receive(). */
void net_resume(struct net *n);

#endif
