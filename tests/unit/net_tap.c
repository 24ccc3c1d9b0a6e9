/* SPDX-License-Identifier: MIT
 * A tap interface in a network namespace of its own: the host's kernel is the
 * machine at the other end. Skipped where there is no tun driver or no right
 * to make a namespace.
 */
#include "backend/backend.h"
#include <arpa/inet.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

struct guest {
	struct loop *loop;
	struct net *n;
	unsigned room, nr, arp_replies;
};

static bool on_receive(void *arg, const void *frame, size_t len)
{
	struct guest *g = arg;
	const uint8_t *f = frame;

	if (!g->room)
		return false;
	g->room--;
	g->nr++;
	if (len >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 2) {
		g->arp_replies++;
		loop_stop(g->loop);
	}
	return true;
}

static void stop(void *arg)
{
	loop_stop(arg);
}

static void run(struct guest *g, unsigned ms)
{
	struct loop_timer t = { .fire = stop, .arg = g->loop };

	loop_timer_set(g->loop, &t, clock_ns() + ms * 1000000ull);
	loop_run(g->loop);
	loop_timer_cancel(g->loop, &t);
}

/* Address 10.9.0.1/24, and up. */
static void interface_up(const char *name)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	struct ifreq ifr = { 0 };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	assert_true(fd >= 0);
	strcpy(ifr.ifr_name, name);
	a.sin_addr.s_addr = htonl(0x0a090001);
	memcpy(&ifr.ifr_addr, &a, sizeof(a));
	assert_int_equal(ioctl(fd, SIOCSIFADDR, &ifr), 0);
	a.sin_addr.s_addr = htonl(0xffffff00);
	memcpy(&ifr.ifr_netmask, &a, sizeof(a));
	assert_int_equal(ioctl(fd, SIOCSIFNETMASK, &ifr), 0);
	ifr.ifr_flags = IFF_UP;
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &ifr), 0);
	close(fd);
}

static int arp_ask(struct guest *g)
{
	uint8_t f[42] = { [0 ... 5] = 0xff, [6] = 0x52, [11] = 9, [12] = 8, [13] = 6, [15] = 1,
			  [16] = 8, [18] = 6, [19] = 4, [21] = 1, [22] = 0x52, [27] = 9, [28] = 10,
			  [29] = 9, [31] = 2, [38] = 10, [39] = 9, [41] = 1 };
	struct iovec iov = { f, sizeof(f) };

	return net_send(g->n, &iov, 1);
}

static void test_tap(void **state)
{
	struct guest g = { .room = 1000 };
	struct net_client cl = { .receive = on_receive, .arg = &g };
	struct net *second = NULL;
	struct err e = { "" };
	int r;

	if (unshare(CLONE_NEWUSER | CLONE_NEWNET)) {
		print_message("no namespace: %s\n", strerror(errno));
		skip();
	}
	assert_int_equal(loop_create(&g.loop), 0);
	r = net_tap_create(&g.n, g.loop, "bell0", &e);
	if (r) {
		assert_non_null(strstr(e.text, "bell0"));
		print_message("no tap: %s\n", e.text);
		loop_destroy(g.loop);
		skip();
	}
	assert_int_equal(net_tap_create(&second, g.loop, "bell0", &e), -EBUSY);
	assert_non_null(strstr(e.text, "another program"));
	net_set_client(g.n, &cl);
	assert_int_equal(arp_ask(&g), -EIO); /* not up yet */
	interface_up("bell0");
	assert_int_equal(arp_ask(&g), 0);
	run(&g, 60000);
	assert_int_equal(g.arp_replies, 1);
	/* No room: one frame held, the rest in the interface's queue; none lost. */
	g.room = 0;
	for (int i = 0; i < 20; i++)
		assert_int_equal(arp_ask(&g), 0);
	run(&g, 30);
	assert_int_equal(g.arp_replies, 1);
	g.room = 1000;
	net_resume(g.n);
	for (uint64_t until = clock_ns() + 60 * NSEC_PER_SEC; g.arp_replies < 21 && clock_ns() < until;)
		run(&g, 50);
	assert_int_equal(g.arp_replies, 21);
	net_destroy(g.n);
	loop_destroy(g.loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
