/* SPDX-License-Identifier: MIT
 * What this process has, to be compared with what it had before.
 */
#ifndef BELFRY_TESTS_PROCESS_H
#define BELFRY_TESTS_PROCESS_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

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

#endif
