/* SPDX-License-Identifier: MIT
 * Kicks and calls as single events, the same way on softkvm and under TCG: Debian's
 * QEMU, unmodified, with a vhost-user device whose back-end is this process. So the
 * doorbell is an eventfd that we read and the interrupt an eventfd that we write,
 * and only what is between the eventfd and the guest's instruction differs: with
 * -accel kvm on softkvm KVM_IOEVENTFD and KVM_IRQFD, with -accel tcg QEMU's memory
 * dispatch and its main loop.
 *
 * The guest (bench/guest/doorbell.c) has no kernel. It writes its TSC down as its
 * handler's first act and just before its doorbell; we read ours just before write()
 * and just after read(). The distance of the two clocks is found first, by asking the
 * guest for its time while both sides spin: it is in the middle of the shortest answer.
 */
#include "bench/compare/compare.h"
#include "bench/guest/mailbox.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

#include "base/clock.h"

#define PATIENCE_MS 60000
#define MAX_REGIONS 8

extern char **environ;

/* QEMU docs/interop/vhost-user.rst, "Message types" */
enum {
	GET_FEATURES = 1, SET_MEM_TABLE = 5, GET_VRING_BASE = 11, SET_VRING_KICK = 12, SET_VRING_CALL = 13,
	SET_VRING_ERR = 14, GET_PROTOCOL_FEATURES = 15,
};

#define REPLY    4u
#define NO_FD    0x100u

struct message {
	uint32_t request, flags, size;
	union {
		uint64_t u64;
		struct vhost_vring_state state;
		struct {
			uint32_t nr, pad;
			struct {
				uint64_t gpa, size, uaddr, offset;
			} region[MAX_REGIONS];
		} memory;
		uint8_t bytes[512];
	};
} __attribute__((packed));

struct bed {
	int listener, sock, kick, call;
	pid_t pid;
	uint8_t *mem;             /* of the region with the mailbox */
	size_t mem_size;
	struct mailbox *box;
	double ticks_per_us;
	int64_t offset;           /* the guest's TSC less ours */
	uint64_t handled;
};

/* ---- the vhost-user back-end ---- */

static int receive(int sock, struct message *m, int *fds, unsigned *nr_fds)
{
	union {
		char buf[CMSG_SPACE(MAX_REGIONS * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec v = { m, 12 };
	struct msghdr h = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(sock, &h, MSG_CMSG_CLOEXEC | MSG_WAITALL);

	*nr_fds = 0;
	if (n != 12 || m->size > sizeof(m->bytes))
		return n ? -EPROTO : -EPIPE;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&h); c; c = CMSG_NXTHDR(&h, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
			*nr_fds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
			memcpy(fds, CMSG_DATA(c), *nr_fds * sizeof(int));
		}
	return m->size && recv(sock, m->bytes, m->size, MSG_WAITALL) != (ssize_t)m->size ? -EPROTO : 0;
}

static int reply(int sock, struct message *m, uint32_t size)
{
	m->flags = 1 | REPLY;
	m->size = size;
	return send(sock, m, 12 + size, MSG_NOSIGNAL) == (ssize_t)(12 + size) ? 0 : -EPIPE;
}

static void fd_take(int *to, const struct message *m, int *fds, unsigned *nr)
{
	if (*to >= 0)
		close(*to);
	*to = -1;
	if (!(m->u64 & NO_FD) && *nr) {
		*to = fds[0];
		fds[0] = -1;
	}
}

static int memory_map(struct bed *b, const struct message *m, const int *fds, unsigned nr)
{
	for (unsigned i = 0; i < m->memory.nr && i < nr; i++) {
		uint64_t gpa = m->memory.region[i].gpa, size = m->memory.region[i].size;

		if (gpa > MAILBOX || gpa + size < MAILBOX + sizeof(struct mailbox))
			continue;
		if (b->mem)
			munmap(b->mem, b->mem_size);
		b->mem_size = m->memory.region[i].offset + size;
		b->mem = mmap(NULL, b->mem_size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0);
		if (b->mem == MAP_FAILED) {
			b->mem = NULL;
			return -errno;
		}
		b->box = (struct mailbox *)(b->mem + m->memory.region[i].offset + (MAILBOX - gpa));
	}
	return b->box ? 0 : -EPROTO;
}

/* One message of QEMU's. */
static int serve(struct bed *b)
{
	struct message m;
	int fds[MAX_REGIONS], r;
	unsigned nr;

	r = receive(b->sock, &m, fds, &nr);
	if (r)
		return r;
	switch (m.request) {
	case GET_FEATURES:
		m.u64 = 1ull << 32 | 1u << 30; /* VIRTIO_F_VERSION_1, VHOST_USER_F_PROTOCOL_FEATURES */
		r = reply(b->sock, &m, 8);
		break;
	case GET_PROTOCOL_FEATURES:
		m.u64 = 0;
		r = reply(b->sock, &m, 8);
		break;
	case GET_VRING_BASE:
		m.state.num = 0;
		r = reply(b->sock, &m, sizeof(m.state));
		break;
	case SET_MEM_TABLE:
		r = memory_map(b, &m, fds, nr);
		break;
	case SET_VRING_KICK:
		fd_take(&b->kick, &m, fds, &nr);
		break;
	case SET_VRING_CALL:
		fd_take(&b->call, &m, fds, &nr);
		break;
	default: /* sets what we need not know */
		break;
	}
	for (unsigned i = 0; i < nr; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	return r;
}

/* ---- the machine ---- */

static int listen_at(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 1)) {
		if (fd >= 0)
			close(fd);
		return -errno;
	}
	return fd;
}

static int machine_start(struct bed *b, struct compare *c, enum side side, const char *sock)
{
	char chardev[160];
	char *const argv[] = {
		(char *)c->belfry, "with-softkvm", "--", "qemu-system-x86_64",
		"-accel", side == SOFT ? "kvm" : "tcg,thread=multi", "-cpu", "max", "-M", "q35,memory-backend=ram",
		"-object", "memory-backend-memfd,id=ram,size=64M,share=on", "-m", "64", "-nodefaults", "-display",
		"none", "-no-reboot", "-kernel", (char *)c->doorbell, "-chardev", chardev, "-device",
		"vhost-user-rng-pci,chardev=back,modern-pio-notify=on,romfile=", NULL,
	};
	posix_spawn_file_actions_t fa;
	int r;

	snprintf(chardev, sizeof(chardev), "socket,id=back,path=%s", sock);
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
	r = -posix_spawnp(&b->pid, argv[side == SOFT ? 0 : 3], &fa, NULL, argv + (side == SOFT ? 0 : 3), environ);
	posix_spawn_file_actions_destroy(&fa);
	return r;
}

static int poll_one(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int r = poll(&p, 1, ms);

	return r < 0 ? -errno : r ? 0 : -ETIME;
}

/* Until the guest has its device. */
static int wait_ready(struct bed *b)
{
	uint64_t deadline = clock_ns() + PATIENCE_MS * 1000000ull;
	int r = poll_one(b->listener, PATIENCE_MS);

	if (r)
		return r;
	b->sock = accept4(b->listener, NULL, NULL, SOCK_CLOEXEC);
	if (b->sock < 0)
		return -errno;
	while (clock_ns() < deadline) {
		r = poll_one(b->sock, 1);
		if (!r)
			r = serve(b);
		if (r && r != -ETIME)
			return r;
		if (b->box && b->box->failed) {
			fprintf(stderr, "doorbell.c:%u: the guest gave up\n", b->box->failed);
			return -EIO;
		}
		if (r == -ETIME && b->box && b->box->magic == MAILBOX_MAGIC && b->kick >= 0 && b->call >= 0)
			return 0;
	}
	return -ETIME;
}

/* ---- clocks ---- */

static uint64_t tsc(void)
{
	_mm_lfence();
	return __rdtsc();
}

static double tsc_rate(void)
{
	uint64_t n0 = clock_ns(), t0 = tsc(), n1;

	usleep(20000);
	n1 = clock_ns();
	return (double)(tsc() - t0) * 1000 / (double)(n1 - n0);
}

/* How far the guest's TSC is from ours; *error: at most wrong by this many ticks. */
static int clocks_compare(struct bed *b, uint64_t *error)
{
	*error = ~0ull;
	for (uint64_t i = 1; i <= 3000; i++) {
		uint64_t deadline = clock_ns() + 2 * NSEC_PER_SEC, t0 = tsc(), t1;

		b->box->ping = i;
		while (b->box->pong != i)
			if (clock_ns() > deadline)
				return -ETIME;
		t1 = tsc();
		if ((t1 - t0) / 2 < *error) {
			*error = (t1 - t0) / 2;
			b->offset = (int64_t)(b->box->pong_tsc - (t0 + (t1 - t0) / 2));
		}
	}
	b->box->ping = ~0ull;
	return 0;
}

/* ---- events ---- */

/* How a series of events goes, and where its figures are put down. */
struct how {
	enum mailbox_kick kick;
	bool running;   /* the vCPU waits running, not halted */
	bool polled;    /* the reader reads the eventfd over and over, it does not sleep */
	const char *call_name, *kick_name, *cost_name;
};

static const struct how hows[] = {
	{ MAILBOX_KICK_MMIO, false, false, "call-halted", "kick-mmio", NULL },
	{ MAILBOX_KICK_PIO, true, false, "call-running", "kick-pio", NULL },
	{ MAILBOX_KICK_MMIO, false, true, NULL, "kick-polled", "kick-cost" },
};

struct event {
	double call, kick, cost; /* us */
};

static double us(const struct bed *b, uint64_t from, uint64_t to)
{
	return (double)(int64_t)(to - from) / b->ticks_per_us;
}

/* Where we sleep, or do not. */
static int wait_kick(struct bed *b, bool polled)
{
	uint64_t deadline = clock_ns() + 5 * NSEC_PER_SEC;

	if (!polled)
		return poll_one(b->kick, 5000);
	for (;;) {
		int r = poll_one(b->kick, 0);

		if (r != -ETIME || clock_ns() > deadline)
			return r;
	}
}

static int one_event(struct bed *b, const struct how *how, struct event *out)
{
	const struct timespec pause = { .tv_nsec = 200000 };
	uint64_t t0, t3, n = 1, host = (uint64_t)b->offset, deadline;
	int r;

	clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL); /* all others sleep, or spin */
	t0 = tsc();
	if (write(b->call, &n, 8) != 8)
		return -errno;
	r = wait_kick(b, how->polled);
	t3 = tsc();
	if (r)
		return r;
	if (read(b->kick, &n, 8) != 8)
		return -errno;
	b->handled++;
	deadline = clock_ns() + 5 * NSEC_PER_SEC;
	while (b->box->rung != b->handled)
		if (clock_ns() > deadline || b->box->rung > b->handled)
			return -EIO;
	out->call = us(b, t0, b->box->handler_tsc - host);
	out->kick = us(b, b->box->doorbell_tsc - host, t3);
	out->cost = us(b, b->box->doorbell_tsc, b->box->after_tsc);
	return 0;
}

/* QEMU signals both eventfds when the device starts: let that pass. */
static int settle(struct bed *b)
{
	uint64_t n;

	while (!poll_one(b->kick, 200))
		if (read(b->kick, &n, 8) != 8)
			return -errno;
	b->handled = b->box->rung;
	return 0;
}

static void put_down(struct compare *c, enum side side, const char *name, const struct series *s)
{
	struct metric *m = name ? metric_find(c, name, strlen(name)) : NULL;

	if (m)
		series_add(&m->value[side], series_median(s));
}

/* The median of many, as one value of this round. */
static int measure(struct bed *b, struct compare *c, enum side side, const struct how *how)
{
	unsigned count = c->full ? MAX_SAMPLES : MAX_SAMPLES / 4;
	struct series *s = calloc(3, sizeof(*s));
	int r = 0;

	if (!s)
		return -ENOMEM;
	b->box->kick = how->kick;
	b->box->running = how->running;
	for (unsigned i = 0; i < count && !r; i++) {
		struct event e = { 0 };

		r = one_event(b, how, &e);
		if (r || i < 5)
			continue;
		series_add(&s[0], e.call);
		series_add(&s[1], e.kick);
		series_add(&s[2], e.cost);
	}
	if (!r) {
		put_down(c, side, how->call_name, &s[0]);
		put_down(c, side, how->kick_name, &s[1]);
		put_down(c, side, how->cost_name, &s[2]);
	}
	free(s);
	return r;
}

int run_events(struct compare *c, enum side side)
{
	struct bed b = { .listener = -1, .sock = -1, .kick = -1, .call = -1, .ticks_per_us = tsc_rate() };
	char dir[] = "/tmp/belfry-bench.XXXXXX", sock[64];
	uint64_t error = 0;
	int r;

	if (!mkdtemp(dir))
		return -errno;
	snprintf(sock, sizeof(sock), "%s/s", dir);
	b.listener = r = listen_at(sock);
	if (r >= 0)
		r = machine_start(&b, c, side, sock);
	if (!r)
		r = wait_ready(&b);
	if (!r) {
		b.box->delay = (uint64_t)(100 * b.ticks_per_us);
		r = clocks_compare(&b, &error);
	}
	if (!r)
		r = settle(&b);
	for (unsigned i = 0; i < ARRAY_SIZE(hows) && !r; i++)
		r = measure(&b, c, side, &hows[i]);
	if (c->verbose)
		fprintf(stderr, "events: clocks compared to within %.2f us\n", (double)error / b.ticks_per_us);
	if (r)
		fprintf(stderr, "events, %s: %s\n", side == SOFT ? "softkvm" : "TCG", strerror(-r));
	if (b.pid > 0) {
		kill(b.pid, SIGKILL);
		waitpid(b.pid, NULL, 0);
	}
	if (b.mem)
		munmap(b.mem, b.mem_size);
	for (unsigned i = 0; i < 4; i++) {
		int fds[] = { b.listener, b.sock, b.kick, b.call };

		if (fds[i] >= 0)
			close(fds[i]);
	}
	unlink(sock);
	rmdir(dir);
	return r;
}
