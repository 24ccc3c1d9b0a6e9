/* SPDX-License-Identifier: MIT */
#include "bench/compare/compare.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

#define PATIENCE_MS 300000 /* without a line: the machine hangs */

extern char **environ;

/* A started process and the lines it says. */
struct talk {
	struct compare *compare;
	enum side side;
	struct metric *boot, *resident;
	pid_t pid;
	int out;
	clockid_t cpu_clock;
	uint64_t started;
	uint64_t begin, begin_cpu; /* of the row that runs */
	bool failed, done;
};

static uint64_t cpu_ns(const struct talk *t)
{
	struct timespec ts;

	if (clock_gettime(t->cpu_clock, &ts))
		return 0;
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* Resident memory of the process that is not the guest's RAM. */
static double resident_mib(pid_t pid)
{
	char path[64], line[512];
	uint64_t kib, total = 0;
	bool ram = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	f = fopen(path, "r");
	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		unsigned long a, b;

		if (sscanf(line, "%lx-%lx", &a, &b) == 2)
			ram = strstr(line, "memfd:belfry-ram") || strstr(line, "memfd:memory-backend-memfd");
		else if (!ram && sscanf(line, "Rss: %lu kB", &kib) == 1)
			total += kib;
	}
	fclose(f);
	return (double)total / 1024;
}

static void row_end(struct talk *t, const char *words, uint64_t now)
{
	unsigned long long ns, result;
	uint64_t host = now - t->begin, differ;
	char name[32];
	struct metric *m;

	if (sscanf(words, "%31s %llu %llx", name, &ns, &result) != 3)
		return;
	differ = host > ns ? host - ns : ns - host;
	/* A line takes its time on a busy machine; a clock that is wrong is wrong by a share. */
	if (differ > 100000000 && differ * 20 > host) {
		t->compare->clock_errors++;
		fprintf(stderr, "%s: the guest's clock says %.3f s, the host's %.3f s\n", name, (double)ns / 1e9,
			(double)host / 1e9);
	}
	m = metric_find(t->compare, name, strlen(name));
	if (!m)
		return;
	if (m->has_result && m->result != result) {
		fprintf(stderr, "%s: the result is %llx, elsewhere it was %llx\n", name, result,
			(unsigned long long)m->result);
		t->failed = true;
	}
	m->result = result;
	m->has_result = true;
	series_add(&m->value[t->side], (double)ns / 1e6);
	if (t->side != NATIVE) /* whose children would not be in it */
		series_add(&m->cpu[t->side], (double)(cpu_ns(t) - t->begin_cpu) / 1e6);
}

static void on_line(struct talk *t, const char *line, uint64_t now)
{
	struct metric *m;

	if (t->compare->verbose)
		fprintf(stderr, "%8.3f %s\n", (double)(now - t->started) / 1e9, line);
	if (strncmp(line, "bench: ", 7))
		return;
	line += 7;
	if (!strcmp(line, "first")) {
		if (t->boot) {
			series_add(&t->boot->value[t->side], (double)(now - t->started) / 1e6);
			series_add(&t->boot->cpu[t->side], (double)cpu_ns(t) / 1e6);
		}
	} else if (!strncmp(line, "begin ", 6)) {
		t->begin = now;
		t->begin_cpu = cpu_ns(t);
		if (!strcmp(line + 6, "idle") && t->resident)
			series_add(&t->resident->value[t->side], resident_mib(t->pid));
	} else if (!strncmp(line, "end ", 4)) {
		row_end(t, line + 4, now);
	} else if (!strncmp(line, "lacks ", 6)) {
		m = metric_find(t->compare, line + 6, strlen(line + 6));
		if (m)
			m->lacks[t->side] = true;
	} else if (!strncmp(line, "failed ", 7)) {
		fprintf(stderr, "the work failed: %s\n", line + 7);
		t->failed = true;
	} else if (!strcmp(line, "done")) {
		t->done = true;
	}
}

/* Read to the end, line by line, each with the time it was complete. */
static int listen_to(struct talk *t)
{
	char line[1024];
	size_t len = 0;

	for (;;) {
		struct pollfd p = { .fd = t->out, .events = POLLIN };
		char buf[4096];
		uint64_t now;
		ssize_t n;

		if (poll(&p, 1, PATIENCE_MS) == 0)
			return -ETIME;
		n = read(t->out, buf, sizeof(buf));
		now = clock_ns();
		if (n <= 0)
			return 0;
		for (ssize_t i = 0; i < n; i++) {
			if (buf[i] == '\n') {
				line[len] = '\0';
				on_line(t, line, now);
				len = 0;
			} else if (buf[i] != '\r' && len < sizeof(line) - 1) {
				line[len++] = buf[i];
			}
		}
	}
}

static int start(struct talk *t, char *const argv[])
{
	posix_spawn_file_actions_t fa;
	int out[2], r;

	if (pipe(out))
		return -errno;
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&fa, out[1], 1);
	posix_spawn_file_actions_addclose(&fa, out[0]);
	posix_spawn_file_actions_addclose(&fa, out[1]);
	t->started = clock_ns();
	r = -posix_spawnp(&t->pid, argv[0], &fa, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	close(out[1]);
	if (!r)
		r = -clock_getcpuclockid(t->pid, &t->cpu_clock);
	if (r)
		close(out[0]);
	t->out = out[0];
	return r;
}

int run_rows(struct compare *c, enum side side, unsigned cpus, const char *rows, struct metric *boot,
	     struct metric *resident)
{
	struct talk t = { .compare = c, .side = side, .boot = boot, .resident = resident };
	char nr_cpus[16], words[2048];
	char *const native[] = { (char *)c->work, (char *)rows, NULL };
	char *const soft[] = { (char *)c->belfry, "run", "--accel", "soft", "--mem", "512M", "--cpus", nr_cpus,
			       "--kernel", (char *)c->vmlinuz, "--initrd", (char *)c->initrd, "--cmdline", words,
			       NULL };
	char *const tcg[] = { "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-M",
			      "q35,memory-backend=ram", "-object", "memory-backend-memfd,id=ram,size=512M", "-smp",
			      nr_cpus, "-m", "512", "-nodefaults", "-display", "none", "-serial", "stdio",
			      "-no-reboot", "-kernel", (char *)c->vmlinuz, "-initrd", (char *)c->initrd, "-append",
			      words, NULL };
	char *const *argv[NR_SIDES] = { native, soft, tcg };
	int r, status;

	snprintf(nr_cpus, sizeof(nr_cpus), "%u", cpus);
	snprintf(words, sizeof(words), "console=ttyS0 quiet bench=%s", rows);
	r = start(&t, argv[side]);
	if (r) {
		fprintf(stderr, "cannot start %s: %s\n", argv[side][0], strerror(-r));
		return r;
	}
	r = listen_to(&t);
	if (r)
		kill(t.pid, SIGKILL);
	close(t.out);
	if (waitpid(t.pid, &status, 0) != t.pid || r || status || t.failed || (side != NATIVE && !t.done)) {
		fprintf(stderr, "%s %s: %s\n", argv[side][0], rows, r == -ETIME ? "hangs" :
			t.failed ? "wrong" : "ended without having done its work");
		return r ? r : -EIO;
	}
	return 0;
}
