/* SPDX-License-Identifier: MIT
 * What this process has, to be compared with what it had before; and what a thread does.
 */
#ifndef BELFRY_TESTS_PROCESS_H
#define BELFRY_TESTS_PROCESS_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

static inline unsigned count_dir(const char *path)
{
	DIR *d = opendir(path);
	unsigned n = 0;

	if (!d) {
		perror(path);
		abort();
	}
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static inline unsigned open_fds(void)
{
	return count_dir("/proc/self/fd");
}

static inline unsigned threads(void)
{
	return count_dir("/proc/self/task");
}

/* R, S, t, ... of any process's thread, as /proc says; X: it has none. */
static inline char thread_state(pid_t pid, pid_t tid)
{
	char path[64], text[512] = "", *p;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	f = fopen(path, "r");
	if (!f)
		return 'X';
	(void)!fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	p = strrchr(text, ')');
	return p ? p[2] : 'X';
}

#endif
