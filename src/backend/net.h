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

/* hostfwd: NULL-terminated list of "tcp:[host]:port-[guest]:port" (udp: too), as QEMU's. */
struct net_user_config {
	const char *const *hostfwd;
	const char *hostname;
	bool restricted; /* no connections to the outside */
};

/* libslirp: guest 10.0.2.15, gateway and host 10.0.2.2, DNS 10.0.2.3. */
int net_user_create(struct net **out, struct loop *l, const struct net_user_config *c,
		    struct err *e) __must_check;
/* An existing or new tap interface. */
int net_tap_create(struct net **out, struct loop *l, const char *ifname, struct err *e) __must_check;
void net_destroy(struct net *n);

/* Before the loop runs, or on its thread. NULL: frames are dropped. */
void net_set_client(struct net *n, const struct net_client *c);
/* Send one frame. -EAGAIN: the host has no room; the frame is the caller's to drop. */
int net_send(struct net *n, const struct iovec *iov, int nr) __must_check;
/* The client has room again. */
void net_resume(struct net *n);

#endif
