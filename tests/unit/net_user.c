/* SPDX-License-Identifier: MIT
 * The user-mode network as a guest sees it: frames in, frames out.
 */
#include "backend/backend.h"
#include <arpa/inet.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#define MAX_FRAMES 512
#define PATIENCE   60000 /* ms, for what must come */

static const uint8_t our_mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };

struct guest {
	struct loop *loop;
	struct net *n;
	struct { uint8_t data[2048]; size_t len; } frame[MAX_FRAMES];
	unsigned nr, room;
	bool (*until)(struct guest *g);
};

static bool on_receive(void *arg, const void *frame, size_t len)
{
	struct guest *g = arg;

	if (!g->room || g->nr == MAX_FRAMES)
		return false;
	g->room--;
	assert_true(len <= sizeof(g->frame[0].data));
	memcpy(g->frame[g->nr].data, frame, len);
	g->frame[g->nr++].len = len;
	if (g->until && g->until(g))
		loop_stop(g->loop);
	return true;
}

static int try_open(struct guest *g, const struct net_user_config *c, struct err *e)
{
	struct net_client cl = { .receive = on_receive, .arg = g };
	int r;

	memset(g, 0, sizeof(*g));
	g->room = UINT32_MAX;
	assert_int_equal(loop_create(&g->loop), 0);
	r = net_user_create(&g->n, g->loop, c, e);
	if (r)
		loop_destroy(g->loop);
	else
		net_set_client(g->n, &cl);
	return r;
}

static void guest_open(struct guest *g, bool restricted)
{
	struct net_user_config c = { .restricted = restricted };
	struct err e = { "" };

	if (try_open(g, &c, &e))
		fail_msg("%s", e.text);
}

static void guest_close(struct guest *g)
{
	net_destroy(g->n);
	loop_destroy(g->loop);
}

static void stop(void *arg)
{
	loop_stop(arg);
}

/* Run until the condition holds (looked at after each frame) or the time is over. */
static bool wait_until(struct guest *g, bool (*until)(struct guest *g), unsigned ms)
{
	struct loop_timer t = { .fire = stop, .arg = g->loop };

	if (until && until(g))
		return true;
	g->until = until;
	loop_timer_set(g->loop, &t, clock_ns() + ms * 1000000ull);
	loop_run(g->loop);
	loop_timer_cancel(g->loop, &t);
	g->until = NULL;
	return until && until(g);
}

static int send_bytes(struct guest *g, const void *p, size_t len)
{
	struct iovec iov[2] = { { (void *)p, MIN(len, 9) },
				{ (uint8_t *)p + MIN(len, 9), len - MIN(len, 9) } };

	return net_send(g->n, iov, 2);
}

static void arp_ask(struct guest *g)
{
	uint8_t f[42] = { [0 ... 5] = 0xff, [12] = 8, [13] = 6, [15] = 1, [16] = 8, [18] = 6,
			  [19] = 4, [21] = 1, [28] = 10, [30] = 2, [31] = 15,
			  [38] = 10, [40] = 2, [41] = 2 };

	memcpy(f + 6, our_mac, 6);
	memcpy(f + 22, our_mac, 6);
	assert_int_equal(send_bytes(g, f, sizeof(f)), 0);
}

static uint16_t checksum(const uint8_t *p, size_t len)
{
	uint32_t sum = 0;

	for (size_t i = 0; i + 1 < len; i += 2)
		sum += (uint32_t)(p[i] << 8 | p[i + 1]);
	if (len & 1)
		sum += (uint32_t)(p[len - 1] << 8);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

/* Ethernet, IP and UDP around a payload; returns the frame's length. */
static size_t udp_frame(uint8_t *f, uint32_t src, uint32_t dst, uint16_t sport, uint16_t dport,
			const void *data, size_t len)
{
	memset(f, 0, 42);
	memset(f, 0xff, 6);
	memcpy(f + 6, our_mac, 6);
	f[12] = 8;
	f[14] = 0x45;
	put16(f + 16, (unsigned)(28 + len));
	f[22] = 64;
	f[23] = IPPROTO_UDP;
	put16(f + 26, src >> 16);
	put16(f + 28, src & 0xffff);
	put16(f + 30, dst >> 16);
	put16(f + 32, dst & 0xffff);
	put16(f + 24, checksum(f + 14, 20));
	put16(f + 34, sport);
	put16(f + 36, dport);
	put16(f + 38, (unsigned)(8 + len));
	memcpy(f + 42, data, len);
	return 42 + len;
}

static const uint8_t *ip_frame(struct guest *g, uint8_t proto)
{
	for (unsigned i = 0; i < g->nr; i++) {
		const uint8_t *f = g->frame[i].data;

		if (g->frame[i].len >= 42 && f[12] == 8 && f[13] == 0 && f[23] == proto)
			return f;
	}
	return NULL;
}

static bool got_arp_reply(struct guest *g)
{
	for (unsigned i = 0; i < g->nr; i++) {
		const uint8_t *f = g->frame[i].data;

		if (g->frame[i].len >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 2)
			return true;
	}
	return false;
}

static bool got_udp(struct guest *g)
{
	return ip_frame(g, IPPROTO_UDP);
}

static bool got_syn(struct guest *g)
{
	const uint8_t *f = ip_frame(g, IPPROTO_TCP);

	return f && (f[47] & 0x12) == 0x02;
}

static void test_arp(void **state)
{
	struct guest *g = calloc(1, sizeof(*g));
	static const uint8_t gateway[4] = { 10, 0, 2, 2 };

	guest_open(g, false);
	arp_ask(g);
	assert_true(wait_until(g, got_arp_reply, PATIENCE));
	assert_memory_equal(g->frame[0].data, our_mac, 6);
	assert_memory_equal(g->frame[0].data + 28, gateway, 4);
	guest_close(g);
	free(g);
}

static void test_dhcp(void **state)
{
	struct guest *g = calloc(1, sizeof(*g));
	uint8_t bootp[300] = { 1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef };
	static const uint8_t options[] = { 0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255 };
	static const uint8_t offer[4] = { 10, 0, 2, 15 };
	uint8_t f[400];
	const uint8_t *r;

	memcpy(bootp + 28, our_mac, 6);
	memcpy(bootp + 236, options, sizeof(options));
	guest_open(g, false);
	assert_int_equal(send_bytes(g, f, udp_frame(f, 0, 0xffffffff, 68, 67, bootp, sizeof(bootp))), 0);
	assert_true(wait_until(g, got_udp, PATIENCE));
	r = ip_frame(g, IPPROTO_UDP);
	assert_int_equal(r[42], 2);                   /* a reply */
	assert_memory_equal(r + 42 + 4, bootp + 4, 4); /* to our question */
	assert_memory_equal(r + 42 + 16, offer, 4);
	guest_close(g);
	free(g);
}

static int host_udp(uint16_t *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	*port = ntohs(a.sin_port);
	return fd;
}

/* Out to a socket of the host and back: descriptors come and go in the loop. */
static void udp_round_trip(bool restricted, unsigned nr)
{
	struct guest *g = calloc(1, sizeof(*g));
	struct sockaddr_in from;
	socklen_t len = sizeof(from);
	uint16_t port;
	int fd = host_udp(&port);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint8_t f[200];
	char buf[64];

	guest_open(g, restricted);
	arp_ask(g);
	wait_until(g, got_arp_reply, PATIENCE);
	for (unsigned i = 0; i < nr; i++) {
		g->nr = 0;
		assert_int_equal(send_bytes(g, f, udp_frame(f, 0x0a00020f, 0x0a000202,
							    (uint16_t)(5000 + i), port, "ping", 4)), 0);
		if (restricted) {
			assert_false(wait_until(g, got_udp, 100));
			assert_int_equal(poll(&p, 1, 0), 0);
			continue;
		}
		assert_int_equal(poll(&p, 1, PATIENCE), 1);
		assert_int_equal(recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len), 4);
		assert_int_equal(sendto(fd, "pong!", 5, 0, (struct sockaddr *)&from, len), 5);
		assert_true(wait_until(g, got_udp, PATIENCE));
		assert_memory_equal(ip_frame(g, IPPROTO_UDP) + 42, "pong!", 5);
	}
	guest_close(g);
	close(fd);
	free(g);
}

static void test_udp(void **state)
{
	udp_round_trip(false, 100);
}

static void test_restricted(void **state)
{
	udp_round_trip(true, 1);
}

static uint16_t free_port(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	close(fd);
	return ntohs(a.sin_port);
}

static int host_connect(uint16_t port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_true(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 || errno == EINPROGRESS);
	return fd;
}

static void test_hostfwd(void **state)
{
	struct guest *g = calloc(1, sizeof(*g));
	uint16_t port;
	char spec[64];
	const char *list[] = { spec, NULL };
	const uint8_t *f;
	struct net_user_config c = { .hostfwd = list };
	struct net *second = NULL;
	struct err e = { "" };
	int fd, r, tries = 0;

	do {
		/* Another program may take it before we do. */
		port = free_port();
		snprintf(spec, sizeof(spec), "tcp:127.0.0.1:%u-:22", port);
		r = try_open(g, &c, &e);
	} while (r == -EADDRINUSE && ++tries < 100);
	if (r)
		fail_msg("%s", e.text);
	/* The port is taken now: said so. */
	assert_int_equal(net_user_create(&second, g->loop, &c, &e), -EADDRINUSE);
	assert_non_null(strstr(e.text, spec));
	assert_non_null(strstr(e.text, "choose another"));
	arp_ask(g);
	wait_until(g, got_arp_reply, PATIENCE);
	g->nr = 0;
	fd = host_connect(port);
	assert_true(wait_until(g, got_syn, PATIENCE));
	f = ip_frame(g, IPPROTO_TCP);
	assert_int_equal(f[36] << 8 | f[37], 22);
	close(fd);
	guest_close(g);
	free(g);
}

static void test_bad_hostfwd(void **state)
{
	static const char *const bad[] = {
		"", "22", "tcp", "tcp:", "sctp::1-:2", "tcp::2222", "tcp::2222-", "tcp:-:22",
		"tcp:x:2222-:22", "tcp::0-:22", "tcp::65536-:22", "tcp::2222-:0", "tcp::2222-:99999",
		"tcp::2222-1.2.3:22", "tcp:::1:2222-:22", "tcp::22a-:22", "tcp::2222-:-1",
		"tcp:127.0.0.1111111111111111111111111111111111111111111111111111111111111:1-:2",
	};
	struct loop *l;

	assert_int_equal(loop_create(&l), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		const char *list[] = { bad[i], NULL };
		struct net_user_config c = { .hostfwd = list };
		struct net *n = NULL;
		struct err e = { "" };

		if (net_user_create(&n, l, &c, &e) != -EINVAL)
			fail_msg("%s was taken", bad[i]);
		assert_non_null(strstr(e.text, "hostfwd="));
	}
	loop_destroy(l);
}

/* The guest has no room: frames wait, in order, and not without bound. */
static void test_flow_control(void **state)
{
	struct guest *g = calloc(1, sizeof(*g));

	guest_open(g, false);
	g->room = 1;
	for (int i = 0; i < 5; i++)
		arp_ask(g);
	assert_int_equal(g->nr, 1);
	wait_until(g, NULL, 20);
	assert_int_equal(g->nr, 1);
	g->room = 2;
	net_resume(g->n);
	assert_int_equal(g->nr, 3);
	g->room = 100;
	net_resume(g->n);
	assert_int_equal(g->nr, 5);
	net_resume(g->n);
	assert_int_equal(g->nr, 5);
	/* 256 KiB at the most: a frame of an ARP answer has 42 bytes or a little more. */
	g->room = 0;
	for (int i = 0; i < 20000; i++)
		arp_ask(g);
	g->nr = 0;
	g->room = UINT32_MAX;
	unsigned total = 0;
	do {
		total += g->nr;
		g->nr = 0;
		net_resume(g->n);
	} while (g->nr);
	assert_true(total > 1000 && total < 8000);
	/* And it goes on as before. */
	arp_ask(g);
	assert_true(wait_until(g, got_arp_reply, PATIENCE));
	/* Held for a client that goes away: dropped. */
	g->room = 0;
	arp_ask(g);
	net_set_client(g->n, NULL);
	g->room = 100;
	g->nr = 0;
	net_resume(g->n);
	assert_int_equal(g->nr, 0);
	guest_close(g);
	free(g);
}

static void test_bad_frames(void **state)
{
	struct guest *g = calloc(1, sizeof(*g));
	uint8_t *f = malloc(NET_MAX_FRAME + 1);
	unsigned seed = 3;

	guest_open(g, false);
	memset(f, 0, NET_MAX_FRAME + 1);
	assert_int_equal(send_bytes(g, f, 0), -EMSGSIZE);
	assert_int_equal(send_bytes(g, f, 13), -EMSGSIZE);
	assert_int_equal(send_bytes(g, f, NET_MAX_FRAME + 1), -EMSGSIZE);
	assert_int_equal(send_bytes(g, f, 14), 0);
	assert_int_equal(send_bytes(g, f, NET_MAX_FRAME), 0);
	/* Nonsense of every kind in a plausible wrapping. */
	for (int i = 0; i < 5000; i++) {
		size_t len = 14 + (size_t)(rand_r(&seed) % 200);

		for (size_t k = 0; k < len; k++)
			f[k] = (uint8_t)rand_r(&seed);
		if (i & 1)
			udp_frame(f, 0x0a00020f, 0x0a000202, 1000, 69, f + 110, 60);
		f[12] = 8;
		f[13] = i % 3 ? 0 : 6;
		if (i & 2)
			f[14] = 0x45;
		if (i % 7 == 0)
			put16(f + 24, 0), put16(f + 24, checksum(f + 14, 20));
		assert_int_equal(send_bytes(g, f, len), 0);
	}
	g->nr = 0;
	net_resume(g->n);
	g->nr = 0;
	arp_ask(g);
	assert_true(wait_until(g, got_arp_reply, PATIENCE));
	guest_close(g);
	free(f);
	free(g);
}

static void test_tap_errors(void **state)
{
	struct net *n = NULL;
	struct loop *l;
	struct err e;

	assert_int_equal(loop_create(&l), 0);
	assert_int_equal(net_tap_create(&n, l, "", &e), -EINVAL);
	assert_int_equal(net_tap_create(&n, l, "a-name-that-is-too-long", &e), -EINVAL);
	assert_non_null(strstr(e.text, "a-name-that-is-too-long"));
	assert_int_equal(net_tap_create(&n, l, "tap%d", &e), -EINVAL);
	assert_int_equal(net_tap_create(&n, l, "lo", &e) < 0, true);
	assert_non_null(strstr(e.text, "tap lo: "));
	loop_destroy(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_arp),
		cmocka_unit_test(test_dhcp),
		cmocka_unit_test(test_udp),
		cmocka_unit_test(test_restricted),
		cmocka_unit_test(test_hostfwd),
		cmocka_unit_test(test_bad_hostfwd),
		cmocka_unit_test(test_flow_control),
		cmocka_unit_test(test_bad_frames),
		cmocka_unit_test(test_tap_errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
