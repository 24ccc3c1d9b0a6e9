/* SPDX-License-Identifier: MIT
 * What this process has, to be compared with what it had before; and what a thread does.
 */
#ifndef BELFRY_TESTS_PROCESS_H
#define BELFRY_TESTS_PROCESS_H

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static inline DIR *dir_open(const char *path)
{
	DIR *d = opendir(path);

	if (!d) {
		perror(path);
		abort();
	}
	return d;
}

static inline unsigned open_fds(void)
{
	DIR *d = dir_open("/proc/self/fd");
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* R, S, t, ... of any process's thread, as /proc says, with its flags; X: it has none. */
static inline char thread_stat(pid_t pid, pid_t tid, unsigned *flags)
{
	char path[64], text[512] = "", state, *p;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	f = fopen(path, "r");
	if (!f)
		return 'X';
	(void)!fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	p = strrchr(text, ')');
	return p && sscanf(p, ") %c %*d %*d %*d %*d %*d %u", &state, flags) == 2 ? state : 'X';
}

static inline char thread_state(pid_t pid, pid_t tid)
{
	unsigned flags;

	return thread_stat(pid, tid, &flags);
}

/*
 * How many threads it runs. One that was joined is in /proc until the kernel has done with it:
 * that is waited for. Workers of the kernel's (io_uring, KVM) come and go by themselves and do not count.
 */
static inline unsigned threads(void)
{
	enum { EXITING = 0x4, WORKER = 0x10 | 0x4000 }; /* Linux's PF_EXITING, PF_IO_WORKER, PF_USER_WORKER */
	bool leaving;
	unsigned n;

	do {
		DIR *d = dir_open("/proc/self/task");
		struct dirent *e;

		n = 0;
		leaving = false;
		while ((e = readdir(d))) {
			unsigned flags = EXITING;

			if (e->d_name[0] == '.')
				continue;
			(void)thread_stat(getpid(), atoi(e->d_name), &flags);
			if (flags & EXITING)
				leaving = true;
			else if (!(flags & WORKER))
				n++;
		}
		closedir(d);
	} while (leaving);
	return n;
}

#endif
