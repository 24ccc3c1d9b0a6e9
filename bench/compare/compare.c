/* SPDX-License-Identifier: MIT */
#include "bench/compare/compare.h"
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/clock.h"

static const char usage[] =
	"usage: compare [OPTION...] BUILD IMAGES\n"
	"  --full           the sizes of the goals: sha256 of 1 GiB, gzip of 256 MiB, 2,000 fork+exec\n"
	"  --rounds=N       rounds, whose median counts (3, with --full 5)\n"
	"  --minutes=N      begin no round that would likely end later (3, with --full 12); one is always done\n"
	"  --only=ROW,...   these rows only\n"
	"  --json=FILE      all figures of all rounds\n"
	"  --verbose        show what the guests say\n"
	"BUILD has belfry and bench/work, IMAGES is what scripts/guest-images made.\n"
	"Each round does every row once on every side, the sides in turn.\n";

static struct metric metrics[] = {
	{ "boot-1", "start to the first user process, 1 vCPU", UNIT_MS },
	{ "boot-2", "the same, 2 vCPUs", UNIT_MS },
	{ "integer", "integer loop", UNIT_MS, { 50000000, 150000000 } },
	{ "chase", "pointer chase over 64 MiB", UNIT_MS, { 1000000, 4000000 } },
	{ "sha256", "sha256 (full: 1 GiB)", UNIT_MS, { 64, 1024 } },
	{ "gzip", "busybox gzip (full: 256 MiB)", UNIT_MS, { 16, 256 } },
	{ "float", "Mandelbrot, scalar doubles", UNIT_MS, { 200000, 500000 } },
	{ "sse2", "float multiply-add, SSE2", UNIT_MS, { 20000, 50000 } },
	{ "avx2", "the same, AVX2", UNIT_MS, { 20000, 50000 } },
	{ "forkexec", "fork+exec of a static program (full: 2,000)", UNIT_MS, { 200, 2000 } },
	{ "pipe", "pipe ping-pong on one CPU", UNIT_MS, { 5000, 20000 } },
	{ "pipe-cpus", "pipe ping-pong between two CPUs", UNIT_MS, { 500, 2000 } },
	{ "syscall", "system calls (getppid)", UNIT_MS, { 200000, 1000000 } },
	{ "faults", "page faults, 64 MiB of new memory", UNIT_MS, { 1, 4 } },
	{ "kick-pio", "port write until the device's thread, asleep, is awake", UNIT_US },
	{ "kick-mmio", "the same, MMIO write", UNIT_US },
	{ "kick-polled", "MMIO write until a thread that looks all the time sees it", UNIT_US },
	{ "kick-cost", "MMIO write until the guest goes on", UNIT_US },
	{ "call-halted", "write of the eventfd until the guest's handler runs, vCPU halted", UNIT_US },
	{ "call-running", "the same, vCPU running", UNIT_US },
	{ "resident-1", "memory beyond guest RAM, 1 vCPU", UNIT_MIB },
	{ "resident-4", "the same, 4 vCPUs", UNIT_MIB },
};

static const char *const side_names[NR_SIDES] = { "native", "soft", "tcg" };
static const char *const unit_names[] = { "ms", "us", "MiB" };

void series_add(struct series *s, double v)
{
	if (s->n < MAX_SAMPLES)
		s->v[s->n++] = v;
}

static int by_value(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

double series_median(const struct series *s)
{
	double v[MAX_SAMPLES];

	if (!s->n)
		return 0;
	memcpy(v, s->v, s->n * sizeof(*v));
	qsort(v, s->n, sizeof(*v), by_value);
	return s->n % 2 ? v[s->n / 2] : (v[s->n / 2 - 1] + v[s->n / 2]) / 2;
}

/* Half the distance between the quartiles' ends, as a share of the median: how far to trust it. */
static double spread(const struct series *s)
{
	double v[MAX_SAMPLES], m = series_median(s);

	if (s->n < 2 || m <= 0)
		return 0;
	memcpy(v, s->v, s->n * sizeof(*v));
	qsort(v, s->n, sizeof(*v), by_value);
	return (v[s->n * 3 / 4] - v[s->n / 4]) / 2 / m;
}

struct metric *metric_find(struct compare *c, const char *name, size_t len)
{
	for (unsigned i = 0; i < c->nr; i++)
		if (strlen(c->metrics[i].name) == len && !memcmp(c->metrics[i].name, name, len))
			return &c->metrics[i];
	return NULL;
}

static struct metric *metric_named(struct compare *c, const char *name)
{
	return metric_find(c, name, strlen(name));
}

/* ---- a round ---- */

/* All rows but one need one CPU. */
static void rows_of(struct compare *c, bool two_cpus, char *out, size_t size)
{
	size_t at = 0;

	out[0] = '\0';
	for (unsigned i = 0; i < c->nr; i++) {
		const struct metric *m = &c->metrics[i];

		if (m->size[0] && !strcmp(m->name, "pipe-cpus") == two_cpus)
			at += (size_t)snprintf(out + at, size - at, ",%s:%llu", m->name,
					       (unsigned long long)m->size[c->full]);
	}
}

static bool wants_events(const struct compare *c)
{
	for (unsigned i = 0; i < c->nr; i++)
		if (!strncmp(c->metrics[i].name, "kick-", 5) || !strncmp(c->metrics[i].name, "call-", 5))
			return true;
	return false;
}

static int side_round(struct compare *c, enum side side)
{
	struct metric *boot1 = metric_named(c, "boot-1"), *boot2 = metric_named(c, "boot-2");
	struct metric *res1 = metric_named(c, "resident-1"), *res4 = metric_named(c, "resident-4");
	char one[1024], two[1024], rows[2080];
	int r = 0;

	rows_of(c, false, one, sizeof(one));
	rows_of(c, true, two, sizeof(two));
	if (side == NATIVE) {
		snprintf(rows, sizeof(rows), "%s%s", one, two);
		return rows[0] ? run_rows(c, side, 0, rows + 1, NULL, NULL) : 0;
	}
	if (one[0] || boot1 || res1) {
		snprintf(rows, sizeof(rows), "idle:%d%s", res1 ? 300 : 0, one);
		r = run_rows(c, side, 1, rows, boot1, res1);
	}
	if (!r && (two[0] || boot2)) {
		snprintf(rows, sizeof(rows), "idle:0%s", two);
		r = run_rows(c, side, 2, rows, boot2, NULL);
	}
	if (!r && wants_events(c))
		r = run_events(c, side);
	if (!r && res4)
		r = run_rows(c, side, 4, "idle:300", NULL, res4);
	return r;
}

/* ---- what comes out ---- */

static void print_value(const struct metric *m, enum side s)
{
	double v = series_median(&m->value[s]);

	if (m->lacks[s])
		printf(" %10s", "lacks");
	else if (v <= 0)
		printf(" %10s", "-");
	else
		printf(" %10.*f", v < 100 ? 2 : v < 1000 ? 1 : 0, v);
}

static void print_ratio(double a, double b)
{
	if (a > 0 && b > 0)
		printf(" %9.2f", a / b);
	else
		printf(" %9s", "-");
}

static void print_table(const struct compare *c, unsigned rounds)
{
	printf("%-11s %3s %10s %10s %10s %9s %9s %9s %5s  %s\n", "", "", "native", "soft", "tcg", "soft/nat", "tcg/soft",
	       "by CPU", "+-%", "");
	for (unsigned i = 0; i < c->nr; i++) {
		const struct metric *m = &c->metrics[i];
		double soft = series_median(&m->value[SOFT]), tcg = series_median(&m->value[TCG]);
		double s = spread(&m->value[SOFT]), t = spread(&m->value[TCG]);

		printf("%-11s %3s", m->name, unit_names[m->unit]);
		for (enum side side = 0; side < NR_SIDES; side++)
			print_value(m, side);
		print_ratio(soft, series_median(&m->value[NATIVE]));
		print_ratio(tcg, soft);
		print_ratio(series_median(&m->cpu[TCG]), series_median(&m->cpu[SOFT]));
		printf(" %5.0f  %s\n", 100 * (s > t ? s : t), m->what);
	}
	printf("medians of %u; tcg/soft: how many times faster than QEMU, by the clock and by the monitor's processor "
	       "time; +-: half the quartiles' distance\n", rounds);
	if (c->clock_errors)
		printf("%u rows in which the guest's clock and the host's disagree: see above\n", c->clock_errors);
}

static void json_series(FILE *f, const char *name, const struct series *s)
{
	fprintf(f, ",\"%s\":[", name);
	for (unsigned i = 0; i < s->n; i++)
		fprintf(f, "%s%.6g", i ? "," : "", s->v[i]);
	fprintf(f, "]");
}

static int write_json(const struct compare *c, const char *path, unsigned rounds)
{
	FILE *f = strcmp(path, "-") ? fopen(path, "w") : stdout;
	struct utsname u;
	time_t now = time(NULL);
	char date[32];

	if (!f) {
		perror(path);
		return -errno;
	}
	uname(&u);
	strftime(date, sizeof(date), "%FT%TZ", gmtime(&now));
	fprintf(f, "{\"date\":\"%s\",\"kernel\":\"%s\",\"cpus\":%ld,\"full\":%s,\"rounds\":%u,\"clock_errors\":%u,\n\"rows\":[",
		date, u.release, sysconf(_SC_NPROCESSORS_ONLN), c->full ? "true" : "false", rounds, c->clock_errors);
	for (unsigned i = 0; i < c->nr; i++) {
		const struct metric *m = &c->metrics[i];

		fprintf(f, "%s\n{\"name\":\"%s\",\"unit\":\"%s\",\"size\":%llu", i ? "," : "", m->name,
			unit_names[m->unit], (unsigned long long)m->size[c->full]);
		for (enum side s = 0; s < NR_SIDES; s++) {
			char name[32];

			json_series(f, side_names[s], &m->value[s]);
			snprintf(name, sizeof(name), "%s_cpu", side_names[s]);
			json_series(f, name, &m->cpu[s]);
		}
		fprintf(f, "}");
	}
	fprintf(f, "]}\n");
	return f != stdout && fclose(f) ? -errno : 0;
}

/* ---- what goes in ---- */

/* The initrd of the images and behind it our own /init, which takes the other's place. */
static int join_initrd(const char *images, const char *ours, char *path)
{
	char from[PATH_MAX];
	const char *parts[2] = { from, ours };
	int out = mkstemp(path);

	snprintf(from, sizeof(from), "%s/initrd.cpio", images);
	for (unsigned i = 0; i < 2 && out >= 0; i++) {
		FILE *f = fopen(parts[i], "r");
		char buf[65536];
		size_t n;

		if (!f) {
			perror(parts[i]);
			close(out);
			return -errno;
		}
		while ((n = fread(buf, 1, sizeof(buf), f)) > 0)
			if (write(out, buf, n) != (ssize_t)n)
				out = -1;
		fclose(f);
	}
	return out < 0 || close(out) ? -EIO : 0;
}

/* Keep the metrics that are asked for. */
static int choose(struct compare *c, const char *list)
{
	struct metric kept[ARRAY_SIZE(metrics)];
	unsigned nr = 0;

	for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
		struct metric *m = metric_find(c, at, strcspn(at, ","));

		if (!m || nr == ARRAY_SIZE(kept)) {
			fprintf(stderr, "compare: no row '%.*s'\n", (int)strcspn(at, ","), at);
			return -EINVAL;
		}
		kept[nr++] = *m;
	}
	memcpy(c->metrics, kept, nr * sizeof(*kept));
	c->nr = nr;
	return 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "full", no_argument, NULL, 'f' },      { "rounds", required_argument, NULL, 'r' },
		{ "minutes", required_argument, NULL, 'm' }, { "only", required_argument, NULL, 'o' },
		{ "json", required_argument, NULL, 'j' },  { "verbose", no_argument, NULL, 'v' }, {},
	};
	struct compare c = { .metrics = metrics, .nr = ARRAY_SIZE(metrics) };
	char belfry[PATH_MAX], work[PATH_MAX], cpio[PATH_MAX], vmlinuz[PATH_MAX], doorbell[PATH_MAX];
	char initrd[] = "/tmp/belfry-bench.XXXXXX";
	const char *only = NULL, *json = NULL;
	uint64_t rounds = 0, minutes = 0, start, longest = 0;
	unsigned done = 0;
	int o, r = 0;

	while ((o = getopt_long(argc, argv, "", options, NULL)) != -1)
		switch (o) {
		case 'f': c.full = true; break;
		case 'r': r |= number_parse(optarg, 1, MAX_ROUNDS, &rounds); break;
		case 'm': r |= number_parse(optarg, 1, 1000, &minutes); break;
		case 'o': only = optarg; break;
		case 'j': json = optarg; break;
		case 'v': c.verbose = true; break;
		default: r = -EINVAL;
		}
	if (r || optind != argc - 2) {
		fputs(usage, stderr);
		return 2;
	}
	rounds = rounds ? rounds : c.full ? 5 : 3;
	minutes = minutes ? minutes : c.full ? 12 : 3;
	snprintf(belfry, sizeof(belfry), "%s/belfry", argv[optind]);
	snprintf(work, sizeof(work), "%s/bench/work", argv[optind]);
	snprintf(cpio, sizeof(cpio), "%s/bench/work.cpio", argv[optind]);
	snprintf(vmlinuz, sizeof(vmlinuz), "%s/vmlinuz", argv[optind + 1]);
	snprintf(doorbell, sizeof(doorbell), "%s/bench/doorbell.elf", argv[optind]);
	c.belfry = belfry;
	c.doorbell = doorbell;
	c.work = work;
	c.vmlinuz = vmlinuz;
	c.initrd = initrd;
	if (only && choose(&c, only))
		return 2;
	if (join_initrd(argv[optind + 1], cpio, initrd))
		return 1;
	start = clock_ns();
	for (unsigned i = 0; i < rounds && !r; i++) {
		uint64_t t0 = clock_ns();

		if (i && t0 + longest - start > minutes * 60 * NSEC_PER_SEC) {
			fprintf(stderr, "compare: %u of %u rounds; another would take more than %u minutes in all\n", i,
				(unsigned)rounds, (unsigned)minutes);
			break;
		}
		for (unsigned s = 0; s < NR_SIDES && !r; s++)
			r = side_round(&c, (s + i) % NR_SIDES);
		if (clock_ns() - t0 > longest)
			longest = clock_ns() - t0;
		done += !r;
		fprintf(stderr, "compare: round %u, %.0f s\n", i + 1, (double)(clock_ns() - t0) / 1e9);
	}
	unlink(initrd);
	if (done)
		print_table(&c, done);
	if (json && done && write_json(&c, json, done))
		return 1;
	return r ? 1 : 0;
}
