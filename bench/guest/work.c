/* SPDX-License-Identifier: MIT
 *
 * work ROW:SIZE,...: the work that `make bench-guest` times, one static program
 * for the guest and for the bare machine. As process 1 it takes its rows from the
 * kernel's command line (bench=ROW:SIZE,ROW:SIZE) and powers off at the end.
 *
 * A row prints "bench: begin ROW" and "bench: end ROW NANOSECONDS RESULT". The
 * result depends on the row and its size only, so whoever reads it sees that the
 * same work was done everywhere. "bench: first" is the first thing process 1 does.
 */
#include <fcntl.h>
#include <immintrin.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define MIB (1ull << 20)

/* When what was said has gone through the serial port. */
static void power_off(void)
{
	(void)tcdrain(1);
	(void)reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

static void die(const char *what)
{
	dprintf(1, "bench: failed %s: %m\n", what);
	if (getpid() == 1)
		power_off();
	_exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static uint64_t mix(uint64_t z)
{
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static void *memory(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static void memory_free(void *p, size_t size)
{
	munmap(p, size);
}

/* ---- rows: size in, result out; what is prepared is not timed ---- */

struct clock {
	const char *name;
	uint64_t start, stop;
};

/* The line comes first: the host's clock, read when it arrives, then is beside ours. */
static void clock_start(struct clock *c)
{
	dprintf(1, "bench: begin %s\n", c->name);
	c->start = now_ns();
}

static void clock_stop(struct clock *c)
{
	c->stop = now_ns();
}

static uint64_t row_integer(uint64_t n, struct clock *c)
{
	uint64_t x = 88172645463325252ull, s = 0;

	clock_start(c);
	for (uint64_t i = 0; i < n; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		s += x % 7 ? x : i;
	}
	clock_stop(c);
	return s;
}

/* One cycle through every cache line of 64 MiB (Sattolo's shuffle). */
static uint64_t row_chase(uint64_t n, struct clock *c)
{
	const uint64_t lines = 64 * MIB / 64;
	uint64_t *m = memory(64 * MIB), at = 0;

	for (uint64_t i = 0; i < lines; i++)
		m[i * 8] = i * 8;
	for (uint64_t i = lines - 1; i; i--) {
		uint64_t j = mix(i) % i, t = m[i * 8];

		m[i * 8] = m[j * 8];
		m[j * 8] = t;
	}
	clock_start(c);
	for (uint64_t i = 0; i < n; i++)
		at = m[at];
	clock_stop(c);
	memory_free(m, 64 * MIB);
	return at;
}

static uint32_t ror(uint32_t x, unsigned n)
{
	return x >> n | x << (32 - n);
}

#define ROUND(a, b, c, d, e, f, g, h, i) do {                                                       \
	uint32_t t = h + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & f) ^ (~e & g)) + k[i] + w[i]; \
	d += t;                                                                                     \
	h = t + (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));              \
} while (0)

/* FIPS 180-4 */
static void sha256_block(uint32_t s[8], const uint32_t k[64], const uint8_t *p)
{
	uint32_t a = s[0], b = s[1], c = s[2], d = s[3], e = s[4], f = s[5], g = s[6], h = s[7], w[64];

	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 |
		       p[4 * i + 3];
	for (int i = 16; i < 64; i++)
		w[i] = (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10) + w[i - 7] +
		       (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 16];
	for (int i = 0; i < 64; i += 8) {
		ROUND(a, b, c, d, e, f, g, h, i);
		ROUND(h, a, b, c, d, e, f, g, i + 1);
		ROUND(g, h, a, b, c, d, e, f, i + 2);
		ROUND(f, g, h, a, b, c, d, e, i + 3);
		ROUND(e, f, g, h, a, b, c, d, i + 4);
		ROUND(d, e, f, g, h, a, b, c, i + 5);
		ROUND(c, d, e, f, g, h, a, b, i + 6);
		ROUND(b, c, d, e, f, g, h, a, i + 7);
	}
	s[0] += a;
	s[1] += b;
	s[2] += c;
	s[3] += d;
	s[4] += e;
	s[5] += f;
	s[6] += g;
	s[7] += h;
}

/* floor(2^32 * frac(cbrt(p))), by integers: the largest r with r^3 <= p * 2^96. */
static uint32_t cube_root_fraction(unsigned p)
{
	unsigned __int128 lo = 0, hi = (unsigned __int128)8 << 32;

	while (hi - lo > 1) {
		unsigned __int128 m = (lo + hi) / 2, q = m * m;

		/* m^3 < 2^108: no overflow. */
		if (q * m <= (unsigned __int128)p << 96)
			lo = m;
		else
			hi = m;
	}
	return (uint32_t)lo;
}

static uint64_t row_sha256(uint64_t mib, struct clock *c)
{
	uint32_t s[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
			  0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 }, k[64];
	uint8_t *m = memory(16 * MIB);

	for (unsigned n = 0, p = 2; n < 64; p++) {
		bool prime = true;

		for (unsigned d = 2; d * d <= p; d++)
			prime = prime && p % d;
		if (prime)
			k[n++] = cube_root_fraction(p);
	}
	for (uint64_t i = 0; i < 16 * MIB; i += 8)
		memcpy(m + i, &(uint64_t){ mix(i) }, 8);
	clock_start(c);
	for (uint64_t done = 0; done < mib * MIB; done += 64)
		sha256_block(s, k, m + done % (16 * MIB));
	clock_stop(c);
	memory_free(m, 16 * MIB);
	return (uint64_t)s[0] << 32 | s[1];
}

static void wait_child(pid_t pid, const char *what)
{
	int status;

	if (waitpid(pid, &status, 0) != pid || status)
		die(what);
}

/* Half of it new bytes, half copies of what came within 32 KiB before: deflate has something to find. */
static void deflatable_fill(uint8_t *m, size_t size)
{
	uint64_t x = 0;

	for (size_t i = 0; i < size;) {
		uint64_t r = mix(x++);
		size_t len = 4 + (r & 31), back = 1 + (r >> 8 & 0x7fff);

		if (len > size - i)
			len = size - i;
		if (r >> 63 && back < i)
			for (; len; len--, i++)
				m[i] = m[i - back];
		else
			for (; len; len--, i++)
				m[i] = (uint8_t)mix(i ^ r);
	}
}

/* busybox's gzip, fed by a pipe; its output is counted by a second one. */
static uint64_t row_gzip(uint64_t mib, struct clock *c)
{
	const size_t size = 16 * MIB;
	uint8_t *m = memory(size), buf[65536];
	uint64_t out_bytes = 0;
	int in[2], out[2];
	pid_t feeder, gzip;
	ssize_t n;

	deflatable_fill(m, size);
	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		die("pipe");
	clock_start(c);
	gzip = fork();
	if (!gzip) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		execl("/bin/busybox", "gzip", "-c", NULL);
		_exit(127);
	}
	feeder = fork();
	if (!feeder) {
		close(in[0]);
		close(out[0]);
		for (uint64_t done = 0; done < mib * MIB; done += sizeof(buf))
			if (write(in[1], m + done % size, sizeof(buf)) != sizeof(buf))
				_exit(1);
		_exit(0);
	}
	close(in[0]);
	close(in[1]);
	close(out[1]);
	while ((n = read(out[0], buf, sizeof(buf))) > 0)
		out_bytes += (uint64_t)n;
	close(out[0]);
	wait_child(feeder, "feeder");
	wait_child(gzip, "gzip");
	clock_stop(c);
	memory_free(m, size);
	return out_bytes;
}

/* How often each point of the Mandelbrot set's frame is mapped: scalar doubles in registers. */
static uint64_t row_float(uint64_t points, struct clock *c)
{
	uint64_t total = 0;

	clock_start(c);
	for (uint64_t i = 0; i < points; i++) {
		double cr = -2.0 + 3.0 * (double)(i * 7919 % points) / (double)points;
		double ci = -1.0 + 2.0 * (double)i / (double)points, r = 0, j = 0;
		int n = 0;

		for (; n < 200 && r * r + j * j < 4; n++) {
			double t = r * r - j * j + cr;

			j = 2 * r * j + ci;
			r = t;
		}
		total += (uint64_t)n;
	}
	clock_stop(c);
	return total;
}

/* 16 KiB of floats: a[i] = a[i] * x + y. */
#define FLOATS 4096

static uint64_t float_sum(const float *a)
{
	double s = 0;

	for (int i = 0; i < FLOATS; i++)
		s += a[i];
	return (uint64_t)(s * 1000);
}

static void float_fill(float *a)
{
	for (int i = 0; i < FLOATS; i++)
		a[i] = (float)i / FLOATS;
}

static uint64_t row_sse2(uint64_t n, struct clock *c)
{
	static float a[FLOATS] __attribute__((aligned(64)));
	__m128 x = _mm_set1_ps(0.999f), y = _mm_set1_ps(0.125f);

	float_fill(a);
	clock_start(c);
	for (uint64_t k = 0; k < n; k++)
		for (int i = 0; i < FLOATS; i += 4)
			_mm_store_ps(a + i, _mm_add_ps(_mm_mul_ps(_mm_load_ps(a + i), x), y));
	clock_stop(c);
	return float_sum(a);
}

__attribute__((target("avx2"))) static uint64_t row_avx2(uint64_t n, struct clock *c)
{
	static float a[FLOATS] __attribute__((aligned(64)));
	__m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.125f);
	__m256i sum = _mm256_setzero_si256();

	float_fill(a);
	clock_start(c);
	for (uint64_t k = 0; k < n; k++)
		for (int i = 0; i < FLOATS; i += 8) {
			__m256 v = _mm256_add_ps(_mm256_mul_ps(_mm256_load_ps(a + i), x), y);

			_mm256_store_ps(a + i, v);
			sum = _mm256_add_epi32(sum, _mm256_castps_si256(v));
		}
	clock_stop(c);
	return float_sum(a) + (uint32_t)_mm256_extract_epi32(sum, 0);
}

static uint64_t row_forkexec(uint64_t n, struct clock *c)
{
	clock_start(c);
	for (uint64_t i = 0; i < n; i++) {
		pid_t pid = fork();

		if (!pid) {
			execl("/proc/self/exe", "work", "--nothing", NULL);
			_exit(127);
		}
		wait_child(pid, "exec");
	}
	clock_stop(c);
	return n;
}

static void cpu_take(unsigned cpu)
{
	cpu_set_t s;

	CPU_ZERO(&s);
	CPU_SET(cpu, &s);
	if (sched_setaffinity(0, sizeof(s), &s))
		die("sched_setaffinity");
}

static uint64_t ping_pong(uint64_t n, struct clock *c, unsigned other)
{
	int to[2], from[2];
	cpu_set_t all;
	uint64_t sum = 0;
	pid_t pid;
	char b;

	if (pipe(to) || pipe(from) || sched_getaffinity(0, sizeof(all), &all))
		die("pipe");
	pid = fork();
	if (!pid) {
		cpu_take(other);
		for (uint64_t i = 0; i < n; i++)
			if (read(to[0], &b, 1) != 1 || write(from[1], &b, 1) != 1)
				_exit(1);
		_exit(0);
	}
	cpu_take(0);
	clock_start(c);
	for (uint64_t i = 0; i < n; i++) {
		b = (char)i;
		if (write(to[1], &b, 1) != 1 || read(from[0], &b, 1) != 1)
			die("ping-pong");
		sum += (uint8_t)b;
	}
	clock_stop(c);
	wait_child(pid, "ping-pong");
	for (int i = 0; i < 2; i++) {
		close(to[i]);
		close(from[i]);
	}
	if (sched_setaffinity(0, sizeof(all), &all))
		die("sched_setaffinity");
	return sum;
}

static uint64_t row_pipe(uint64_t n, struct clock *c)
{
	return ping_pong(n, c, 0);
}

static uint64_t row_pipe_cpus(uint64_t n, struct clock *c)
{
	return ping_pong(n, c, 1);
}

static uint64_t row_syscall(uint64_t n, struct clock *c)
{
	uint64_t failed = 0;

	clock_start(c);
	for (uint64_t i = 0; i < n; i++)
		failed += syscall(SYS_getppid) < 0;
	clock_stop(c);
	return failed;
}

/* Touch each page of 64 MiB of new memory, as often as asked. */
static uint64_t row_faults(uint64_t n, struct clock *c)
{
	uint64_t pages = 0;

	clock_start(c);
	for (uint64_t i = 0; i < n; i++) {
		volatile uint8_t *m = mmap(NULL, 64 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
					   -1, 0);

		if (m == MAP_FAILED || madvise((void *)m, 64 * MIB, MADV_NOHUGEPAGE))
			die("mmap");
		for (uint64_t at = 0; at < 64 * MIB; at += 4096) {
			m[at] = 1;
			pages++;
		}
		munmap((void *)m, 64 * MIB);
	}
	clock_stop(c);
	return pages;
}

/* Nothing, for so many milliseconds: whoever wants to look at the monitor does it now. */
static uint64_t row_idle(uint64_t ms, struct clock *c)
{
	const struct timespec t = { .tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000 };

	clock_start(c);
	nanosleep(&t, NULL);
	clock_stop(c);
	return 0;
}

static bool has_avx2(void)
{
	return __builtin_cpu_supports("avx2");
}

static const struct row {
	const char *name;
	uint64_t (*fn)(uint64_t size, struct clock *c);
	bool (*available)(void);
} rows[] = {
	{ "integer", row_integer }, { "chase", row_chase }, { "sha256", row_sha256 },
	{ "gzip", row_gzip }, { "float", row_float }, { "sse2", row_sse2 },
	{ "avx2", row_avx2, has_avx2 }, { "forkexec", row_forkexec }, { "pipe", row_pipe },
	{ "pipe-cpus", row_pipe_cpus }, { "syscall", row_syscall }, { "faults", row_faults },
	{ "idle", row_idle },
};

static void run(const char *name, size_t len, uint64_t size)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct clock c = { .name = rows[i].name };
		uint64_t result;

		if (strlen(rows[i].name) != len || memcmp(rows[i].name, name, len))
			continue;
		if (rows[i].available && !rows[i].available()) {
			dprintf(1, "bench: lacks %s\n", rows[i].name);
			return;
		}
		result = rows[i].fn(size, &c);
		dprintf(1, "bench: end %s %llu %llx\n", rows[i].name, (unsigned long long)(c.stop - c.start),
			(unsigned long long)result);
		return;
	}
	die("unknown row");
}

/* ROW:SIZE,ROW:SIZE up to a space or the end. */
static void run_list(const char *list)
{
	for (const char *at = list; at; at = strpbrk(at, ", \n")) {
		size_t len;
		char *end;

		if (*at == ' ' || *at == '\n')
			return;
		at += *at == ',';
		len = strcspn(at, ":, \n");
		run(at, len, at[len] == ':' ? strtoull(at + len + 1, &end, 10) : 1);
	}
}

int main(int argc, char **argv)
{
	static char line[4096];
	char *list;
	int fd;

	if (argc == 2 && !strcmp(argv[1], "--nothing"))
		return 0;
	if (getpid() != 1) {
		if (argc == 2)
			run_list(argv[1]);
		return argc == 2 ? 0 : 2;
	}
	dprintf(1, "bench: first\n");
	if (mount("proc", "/proc", "proc", 0, NULL))
		die("mount /proc");
	fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, line, sizeof(line) - 1) < 0)
		die("/proc/cmdline");
	close(fd);
	list = strstr(line, "bench=");
	if (list)
		run_list(list + 6);
	dprintf(1, "bench: done\n");
	power_off();
	return 1;
}
