/* SPDX-License-Identifier: MIT
 * apidiff [count N] [seed S] [from I] [at I] [jobs J] [batch B] [findings F]
 *
 * Run N sequences of seed S from number I on, or only number I, in J processes at
 * once; a process does B sequences. Nearly all the time is the kernel's waiting for its
 * readers, so more processes than processors pay. A difference is run again (it
 * must come back), shrunk and printed as C; a process that makes no progress is
 * ended, and its sequence printed. Exits 1 if anything was found, 77 without /dev/kvm.
 */
#include "diff.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_JOBS      64
#define STUCK_SECONDS 60

/* What a process and its parent share. */
struct progress {
	_Atomic uint64_t at;   /* the sequence it is in */
	_Atomic uint64_t done; /* sequences, by all processes in this place */
	_Atomic uint64_t agreed, stray;
};

struct shared {
	_Atomic unsigned findings;
	pthread_mutex_t print;
	struct progress job[MAX_JOBS];
};

struct options {
	uint64_t count, seed, from, at;
	bool only_one;
	unsigned jobs, batch, findings;
};

static uint64_t seed_of(const struct options *o, uint64_t i)
{
	struct rng r = { .state = o->seed * 0xd1342543de82ef95ull + i };

	return rng_next(&r);
}

static void report(struct shared *sh, struct pair *p, struct sequence *q, uint64_t i, uint64_t seed,
		   struct difference *d)
{
	unsigned runs = pair_shrink(p, q, d, 400);
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return;
	fprintf(f, "---- sequence %llu, shrunk to %u operations in %u runs\n", (unsigned long long)i, q->nr, runs);
	sequence_print(f, q, seed, d);
	fclose(f);
	pthread_mutex_lock(&sh->print);
	fwrite(text, 1, len, stdout);
	fflush(stdout);
	pthread_mutex_unlock(&sh->print);
	free(text);
}

static void one(struct shared *sh, struct progress *pr, const struct options *o, struct pair *p, uint64_t i)
{
	uint64_t seed = seed_of(o, i);
	struct sequence q;
	struct difference d;

	sequence_make(&q, seed);
	if (!pair_differs(p, &q, &d))
		return;
	/* Other threads of the kernel's and of ours have their say in time; not twice in the same way. */
	for (unsigned n = 0; n < 2; n++)
		if (!pair_differs(p, &q, &d)) {
			pr->stray++;
			return;
		}
	if (++sh->findings <= o->findings)
		report(sh, p, &q, i, seed, &d);
}

static void run_batch(struct shared *sh, struct progress *pr, const struct options *o, uint64_t from, uint64_t to)
{
	struct pair p;

	if (pair_create(&p)) {
		sh->findings++;
		fprintf(stderr, "no pair of worlds\n");
		return;
	}
	for (uint64_t i = from; i < to && sh->findings < o->findings; i++) {
		pr->at = i;
		one(sh, pr, o, &p, i);
		pr->done++;
	}
	pr->agreed += p.agreed;
	pair_destroy(&p);
}

/* ---- the parent ------------------------------------------------------------------- */

struct job {
	pid_t pid;
	uint64_t last;
	time_t since;
};

static void print_sequence(const struct options *o, uint64_t i, const char *why)
{
	struct difference d = { .op = -1 };
	struct sequence q;

	snprintf(d.kernel, sizeof(d.kernel), "%s", why);
	sequence_make(&q, seed_of(o, i));
	printf("---- sequence %llu: %s\n", (unsigned long long)i, why);
	sequence_print(stdout, &q, seed_of(o, i), &d);
	fflush(stdout);
}

static void ended(struct shared *sh, struct job *j, struct progress *pr, const struct options *o, int status)
{
	char why[80];

	j->pid = 0;
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return;
	snprintf(why, sizeof(why), "the process ended with status %#x", status);
	sh->findings++;
	print_sequence(o, pr->at, why);
}

static void watch(struct shared *sh, struct job *j, struct progress *pr, const struct options *o)
{
	time_t now = time(NULL);
	uint64_t mark = pr->at * 2 + pr->done;

	if (mark != j->last) {
		j->last = mark;
		j->since = now;
	}
	/* Shrinking is many runs: findings have their own time. */
	if (now - j->since < (sh->findings ? 5 : 1) * STUCK_SECONDS)
		return;
	kill(j->pid, SIGKILL);
	j->since = now;
}

static int start(struct shared *sh, struct job *j, struct progress *pr, const struct options *o, uint64_t from,
		 uint64_t to)
{
	fflush(stdout);
	j->since = time(NULL);
	j->pid = fork();
	if (j->pid < 0)
		return -errno;
	if (j->pid)
		return 0;
	run_batch(sh, pr, o, from, to);
	/* _exit() skips the leak check of a sanitizer, exit() would run the parent's too. */
	exit(0);
}

static int run_all(struct shared *sh, const struct options *o)
{
	struct job job[MAX_JOBS] = { 0 };
	uint64_t next = o->only_one ? o->at : o->from, end = o->only_one ? o->at + 1 : o->from + o->count;
	unsigned alive = 0;

	while (alive || (next < end && sh->findings < o->findings)) {
		int status;
		pid_t pid;

		for (unsigned i = 0; i < o->jobs && next < end && sh->findings < o->findings; i++) {
			uint64_t to = MIN(next + o->batch, end);

			if (job[i].pid)
				continue;
			if (start(sh, &job[i], &sh->job[i], o, next, to))
				return 1;
			next = to;
			alive++;
		}
		pid = waitpid(-1, &status, WNOHANG);
		if (pid <= 0) {
			usleep(2000);
			for (unsigned i = 0; i < o->jobs; i++)
				if (job[i].pid)
					watch(sh, &job[i], &sh->job[i], o);
			continue;
		}
		for (unsigned i = 0; i < o->jobs; i++)
			if (job[i].pid == pid) {
				ended(sh, &job[i], &sh->job[i], o, status);
				alive--;
			}
	}
	return 0;
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int parse(int argc, char **argv, struct options *o)
{
	for (int i = 1; i + 1 < argc; i += 2) {
		uint64_t v = strtoull(argv[i + 1], NULL, 0);

		if (!strcmp(argv[i], "count"))
			o->count = v;
		else if (!strcmp(argv[i], "seed"))
			o->seed = v;
		else if (!strcmp(argv[i], "from"))
			o->from = v;
		else if (!strcmp(argv[i], "at"))
			o->at = v, o->only_one = true;
		else if (!strcmp(argv[i], "jobs"))
			o->jobs = (unsigned)MIN(v, (uint64_t)MAX_JOBS);
		else if (!strcmp(argv[i], "batch"))
			o->batch = (unsigned)v;
		else if (!strcmp(argv[i], "findings"))
			o->findings = (unsigned)v;
		else
			return -EINVAL;
	}
	return argc % 2 && o->jobs && o->batch ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
	struct options o = { .count = 20000, .seed = 1, .jobs = 16, .batch = 100, .findings = 5 };
	struct shared *sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t done = 0, agreed = 0, stray = 0;
	pthread_mutexattr_t attr;
	double t = seconds();

	if (sh == MAP_FAILED || parse(argc, argv, &o)) {
		fprintf(stderr, "usage: apidiff [count N] [seed S] [from I] [at I] [jobs J] [batch B] [findings F]\n");
		return 2;
	}
	if (!kvm_pair_possible()) {
		fprintf(stderr, "skip: no /dev/kvm to compare with\n");
		return 77;
	}
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(&sh->print, &attr);
	for (unsigned i = 0; i < nr_diff_cases && !o.only_one; i++)
		if (diff_cases[i].nr && diff_replay(diff_cases[i].name, diff_cases[i].op, diff_cases[i].nr))
			sh->findings++;
	if (run_all(sh, &o))
		return 1;
	for (unsigned i = 0; i < o.jobs; i++) {
		done += sh->job[i].done;
		agreed += sh->job[i].agreed;
		stray += sh->job[i].stray;
	}
	t = seconds() - t;
	printf("seed %llu: %llu sequences in %.1f s (%.0f/s), %u differ, %llu agreed differences, %llu that did not "
	       "come again\n", (unsigned long long)o.seed, (unsigned long long)done, t, (double)done / t,
	       sh->findings, (unsigned long long)agreed, (unsigned long long)stray);
	return sh->findings || !done;
}
