/* SPDX-License-Identifier: MIT
 * User-mode network by libslirp.
 *
 * libslirp wants to be asked for its file descriptors before every sleep. They
 * live in an epoll set of their own, of which the loop watches one descriptor.
 * After anything that may have changed what libslirp waits for (a frame from
 * the guest, an event, a timer) the set is brought up to date once, at the end
 * of the loop's turn.
 *
 * While the client has no room, frames are held in a bounded backlog and
 * libslirp's sockets are not served, so that the hosts at the other end feel
 * it; frames past the bound are dropped, as on a wire.
 */
#include "backend/net_priv.h"
#include <arpa/inet.h>
#include <poll.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <unistd.h>

#define BACKLOG_BYTES (256u << 10)
#define NSEC_PER_MSEC 1000000ull

struct held {
	struct held *next;
	size_t len;
	uint8_t frame[];
};

/* What the epoll set holds for a descriptor, by its number. */
struct interest {
	uint32_t events; /* 0: not in the set */
	uint32_t round;  /* of update() that last asked for it */
};

struct net_user {
	struct net net;
	Slirp *slirp;
	int epfd;
	struct loop_watch watch;
	struct loop_timer timer;      /* for `due`, or now if stale */
	uint64_t due;                 /* libslirp's own timers want a turn by then; 0: never */
	bool stale;                   /* update() is to come at the end of this turn of the loop */
	struct pollfd *fds;           /* as libslirp named them last */
	unsigned nr_fds, room_fds;
	int *last;                    /* descriptors of the round before */
	unsigned nr_last, room_last;
	struct interest *interest;
	unsigned nr_interest;
	uint32_t round;
	struct held *held, **held_tail;
	size_t held_bytes;
	uint8_t linear[NET_MAX_FRAME];
};

struct user_timer {
	struct loop_timer timer;
	struct net_user *u;
	SlirpTimerId id;
	void *opaque;
};

static void set_stale(struct net_user *u)
{
	if (u->stale)
		return;
	u->stale = true;
	loop_timer_set(u->net.loop, &u->timer, clock_ns());
}

/* ---- what libslirp calls --------------------------------------------- */

static void hold(struct net_user *u, const void *frame, size_t len)
{
	struct held *h;

	if (u->held_bytes + len > BACKLOG_BYTES)
		return;
	h = malloc(sizeof(*h) + len);
	if (!h)
		return;
	h->next = NULL;
	h->len = len;
	memcpy(h->frame, frame, len);
	*u->held_tail = h;
	u->held_tail = &h->next;
	u->held_bytes += len;
}

static ssize_t on_frame(const void *frame, size_t len, void *arg)
{
	struct net_user *u = arg;

	if (u->held || !net_deliver(&u->net, frame, len))
		hold(u, frame, len);
	return (ssize_t)len;
}

static void on_guest_error(const char *msg, void *arg)
{
	/* The guest sent nonsense: its business. */
}

static int64_t on_clock(void *arg)
{
	return (int64_t)clock_ns();
}

static void timer_fire(void *arg)
{
	struct user_timer *t = arg;

	slirp_handle_timer(t->u->slirp, t->id, t->opaque);
	set_stale(t->u);
}

static void *on_timer_new(SlirpTimerId id, void *opaque, void *arg)
{
	struct user_timer *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->timer = (struct loop_timer){ .fire = timer_fire, .arg = t };
	t->u = arg;
	t->id = id;
	t->opaque = opaque;
	return t;
}

static void on_timer_free(void *timer, void *arg)
{
	struct net_user *u = arg;
	struct user_timer *t = timer;

	if (!t)
		return;
	loop_timer_cancel(u->net.loop, &t->timer);
	free(t);
}

static void on_timer_mod(void *timer, int64_t ms, void *arg)
{
	struct net_user *u = arg;
	struct user_timer *t = timer;

	if (t)
		loop_timer_set(u->net.loop, &t->timer, (uint64_t)MAX(ms, 0) * NSEC_PER_MSEC);
}

static void on_register(int fd, void *arg)
{
	set_stale(arg);
}

/* It closes fd next; the number may come back as another socket's. */
static void on_unregister(int fd, void *arg)
{
	struct net_user *u = arg;

	if (fd < 0 || (unsigned)fd >= u->nr_interest || !u->interest[fd].events)
		return;
	(void)epoll_ctl(u->epfd, EPOLL_CTL_DEL, fd, NULL);
	u->interest[fd].events = 0;
	set_stale(u);
}

static void on_notify(void *arg)
{
	set_stale(arg);
}

static void on_init(Slirp *slirp, void *arg)
{
	struct net_user *u = arg;

	u->slirp = slirp;
}

static const SlirpCb callbacks = {
	.send_packet = on_frame,
	.guest_error = on_guest_error,
	.clock_get_ns = on_clock,
	.timer_free = on_timer_free,
	.timer_mod = on_timer_mod,
	.register_poll_fd = on_register,
	.unregister_poll_fd = on_unregister,
	.notify = on_notify,
	.init_completed = on_init,
	.timer_new_opaque = on_timer_new,
};

/* ---- descriptors ----------------------------------------------------- */

static const struct { int slirp; short poll; } event_map[] = {
	{ SLIRP_POLL_IN, POLLIN }, { SLIRP_POLL_OUT, POLLOUT }, { SLIRP_POLL_PRI, POLLPRI },
	{ SLIRP_POLL_ERR, POLLERR }, { SLIRP_POLL_HUP, POLLHUP },
};

/* Make room for index at. False: no memory. */
static bool grow(void **array, unsigned *room, unsigned at, size_t size)
{
	unsigned want = MAX(MAX(*room * 2, 64u), at + 1);
	void *p;

	if (at < *room)
		return true;
	p = realloc(*array, want * size);
	if (!p)
		return false;
	memset((char *)p + *room * size, 0, (want - *room) * size);
	*array = p;
	*room = want;
	return true;
}

static int on_add_poll(int fd, int events, void *arg)
{
	struct net_user *u = arg;
	struct pollfd *p;

	if (!grow((void **)&u->fds, &u->room_fds, u->nr_fds, sizeof(*u->fds)))
		return -1;
	p = &u->fds[u->nr_fds];
	*p = (struct pollfd){ .fd = fd };
	for (unsigned i = 0; i < ARRAY_SIZE(event_map); i++)
		if (events & event_map[i].slirp)
			p->events |= event_map[i].poll;
	return (int)u->nr_fds++;
}

static int on_get_revents(int idx, void *arg)
{
	struct net_user *u = arg;
	int events = 0;

	if (idx < 0 || (unsigned)idx >= u->nr_fds)
		return 0;
	for (unsigned i = 0; i < ARRAY_SIZE(event_map); i++)
		if (u->fds[idx].revents & event_map[i].poll)
			events |= event_map[i].slirp;
	return events;
}

static void want_fd(struct net_user *u, int fd, uint32_t events)
{
	/* The values of poll(2) and epoll(7) are the same. */
	struct epoll_event ev = { .events = events, .data.fd = fd };
	struct interest *in;

	if (fd < 0 || !grow((void **)&u->interest, &u->nr_interest, (unsigned)fd, sizeof(*in)))
		return;
	in = &u->interest[fd];
	in->round = u->round;
	if (in->events == events)
		return;
	if (epoll_ctl(u->epfd, EPOLL_CTL_MOD, fd, &ev) < 0 &&
	    (errno != ENOENT || epoll_ctl(u->epfd, EPOLL_CTL_ADD, fd, &ev) < 0))
		return;
	in->events = events;
}

/* Ask libslirp what it waits for now, and wait for that. */
static void update(struct net_user *u)
{
	uint32_t timeout = UINT32_MAX;
	uint64_t due;

	u->nr_fds = 0;
	u->round++;
	slirp_pollfds_fill(u->slirp, &timeout, on_add_poll, u);
	for (unsigned i = 0; i < u->nr_fds; i++)
		want_fd(u, u->fds[i].fd, (uint32_t)u->fds[i].events);
	for (unsigned i = 0; i < u->nr_last; i++) {
		struct interest *in = &u->interest[u->last[i]];

		if (in->events && in->round != u->round) {
			(void)epoll_ctl(u->epfd, EPOLL_CTL_DEL, u->last[i], NULL);
			in->events = 0;
		}
	}
	u->nr_last = 0;
	for (unsigned i = 0; i < u->nr_fds; i++) {
		int fd = u->fds[i].fd;

		if (fd >= 0 && (unsigned)fd < u->nr_interest && u->interest[fd].events &&
		    grow((void **)&u->last, &u->room_last, u->nr_last, sizeof(*u->last)))
			u->last[u->nr_last++] = fd;
	}
	u->stale = false;
	/* Only nearer: a guest that sends all the time must not put the timers off for ever. */
	due = clock_ns() + timeout * NSEC_PER_MSEC;
	if (timeout != UINT32_MAX && (!u->due || due < u->due))
		u->due = due;
	if (u->due)
		loop_timer_set(u->net.loop, &u->timer, u->due);
	else
		loop_timer_cancel(u->net.loop, &u->timer);
}

/* Let libslirp do what its descriptors and timeouts allow. */
static void serve(struct net_user *u)
{
	uint32_t timeout = UINT32_MAX;
	int n;

	if (u->held) {
		/* Nobody takes frames: leave the sockets alone until net_resume(). */
		loop_unwatch(u->net.loop, &u->watch);
		loop_timer_cancel(u->net.loop, &u->timer);
		u->stale = false;
		return;
	}
	/* The list of update() may be out of date: its numbers must be of this moment. */
	u->nr_fds = 0;
	slirp_pollfds_fill(u->slirp, &timeout, on_add_poll, u);
	do
		n = poll(u->fds, u->nr_fds, 0);
	while (n < 0 && errno == EINTR);
	slirp_pollfds_poll(u->slirp, n < 0, on_get_revents, u);
	u->due = 0;
	update(u);
}

static void user_ready(void *arg, uint32_t events)
{
	serve(arg);
}

static void user_timer(void *arg)
{
	struct net_user *u = arg;

	if (u->stale && !u->held && (!u->due || clock_ns() < u->due))
		update(u);
	else
		serve(u);
}

/* ---- net ops --------------------------------------------------------- */

static int user_send(struct net *n, const struct iovec *iov, int nr, size_t len)
{
	struct net_user *u = container_of(n, struct net_user, net);
	uint8_t *p = u->linear;

	for (int i = 0; i < nr; i++) {
		memcpy(p, iov[i].iov_base, iov[i].iov_len);
		p += iov[i].iov_len;
	}
	slirp_input(u->slirp, u->linear, (int)len);
	set_stale(u);
	return 0;
}

static void held_drop(struct net_user *u)
{
	struct held *h = u->held;

	u->held = h->next;
	if (!u->held)
		u->held_tail = &u->held;
	u->held_bytes -= h->len;
	free(h);
}

static void user_wake(struct net_user *u)
{
	if (!u->watch.active && loop_watch(u->net.loop, &u->watch) == 0)
		set_stale(u);
}

static void user_resume(struct net *n)
{
	struct net_user *u = container_of(n, struct net_user, net);

	while (u->held && net_deliver(n, u->held->frame, u->held->len))
		held_drop(u);
	if (!u->held)
		user_wake(u);
}

static void user_flush(struct net *n)
{
	struct net_user *u = container_of(n, struct net_user, net);

	while (u->held)
		held_drop(u);
	user_wake(u);
}

static void user_destroy(struct net *n)
{
	struct net_user *u = container_of(n, struct net_user, net);

	n->client = (struct net_client){ 0 };
	if (u->slirp)
		slirp_cleanup(u->slirp);
	loop_timer_cancel(n->loop, &u->timer);
	loop_unwatch(n->loop, &u->watch);
	while (u->held)
		held_drop(u);
	if (u->epfd >= 0)
		close(u->epfd);
	free(u->fds);
	free(u->last);
	free(u->interest);
	free(u);
}

static const struct net_ops user_ops = {
	.send = user_send,
	.resume = user_resume,
	.flush = user_flush,
	.destroy = user_destroy,
};

static int add_hostfwds(struct net_user *u, const char *const *list, struct err *e)
{
	for (; list && *list; list++) {
		struct hostfwd f;
		int r = hostfwd_parse(&f, *list, e);

		if (r)
			return r;
		errno = 0;
		if (slirp_add_hostfwd(u->slirp, f.udp, (struct in_addr){ f.host_addr }, f.host_port,
				      (struct in_addr){ f.guest_addr }, f.guest_port) < 0) {
			r = errno ? -errno : -EINVAL;
			return err_set(e, r, "hostfwd=%s: the host's port %u: %s%s", *list, f.host_port,
				       strerror(-r),
				       r == -EADDRINUSE ? ": choose another" :
				       r == -EACCES ? ": ports below 1024 need privilege" : "");
		}
	}
	return 0;
}

int net_user_create(struct net **out, struct loop *l, const struct net_user_config *c,
		    struct err *e)
{
	SlirpConfig sc = {
		.version = 4,
		.restricted = c->restricted,
		.in_enabled = true,
		.vnetwork.s_addr = htonl(0x0a000200),
		.vnetmask.s_addr = htonl(0xffffff00),
		.vhost.s_addr = htonl(0x0a000202),
		.vdhcp_start.s_addr = htonl(0x0a00020f),
		.vnameserver.s_addr = htonl(0x0a000203),
		.vhostname = c->hostname,
	};
	struct net_user *u = calloc(1, sizeof(*u));
	int r;

	if (!u)
		return err_set(e, -ENOMEM, "user network: no memory");
	u->net.ops = &user_ops;
	u->net.loop = l;
	u->held_tail = &u->held;
	u->timer = (struct loop_timer){ .fire = user_timer, .arg = u };
	u->epfd = epoll_create1(EPOLL_CLOEXEC);
	u->watch = (struct loop_watch){
		.fd = u->epfd, .events = EPOLLIN, .ready = user_ready, .arg = u,
	};
	r = u->epfd < 0 ? -errno : loop_watch(l, &u->watch);
	if (r) {
		err_set(e, r, "user network: %s", strerror(-r));
		goto destroy;
	}
	u->slirp = slirp_new(&sc, &callbacks, u);
	if (!u->slirp) {
		r = err_set(e, -EINVAL, "user network: libslirp %s cannot be set up",
			    slirp_version_string());
		goto destroy;
	}
	r = add_hostfwds(u, c->hostfwd, e);
	if (r)
		goto destroy;
	set_stale(u);
	*out = &u->net;
	return 0;

destroy:
	user_destroy(&u->net);
	return r;
}
