/* SPDX-License-Identifier: MIT */
#ifndef BELFRY_NET_PRIV_H
#define BELFRY_NET_PRIV_H

#include "backend/net.h"

#define NET_MIN_FRAME 14 /* an Ethernet header */

struct net_ops {
	int (*send)(struct net *n, const struct iovec *iov, int nr, size_t len);
	void (*resume)(struct net *n);
	void (*flush)(struct net *n); /* forget frames that are held back */
	void (*destroy)(struct net *n);
};

/* Embedded in the backend's own struct. */
struct net {
	const struct net_ops *ops;
	struct loop *loop;
	struct net_client client; /* receive NULL: nobody */
};

/* True if the frame is dealt with; false: hold it until net_resume(). */
bool net_deliver(struct net *n, const void *frame, size_t len) __must_check;

/* "tcp:[host]:port-[guest]:port", addresses in network byte order (0 if not given). */
struct hostfwd {
	bool udp;
	uint32_t host_addr, guest_addr;
	uint16_t host_port, guest_port;
};
int hostfwd_parse(struct hostfwd *f, const char *spec, struct err *e) __must_check;

#endif
