/* SPDX-License-Identifier: MIT
 *
 * libsoftkvm-preload.so: a program that looks before it opens finds a node it may
 * use, also where this machine has none or keeps it to others. What succeeds
 * without us is left as it is; a failure is looked at again.
 */
#include "softkvm/preload.h"
#include <limits.h>
#include <stdlib.h>
#include <sys/sysmacros.h>

#define MAX_LINKS 40

/* "dir/name" of what realpath() finds and the last component as it is. 0 or -1. */
static int absolute(char out[PATH_MAX], const char *path)
{
	char parent[PATH_MAX], full[PATH_MAX];
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	int n;

	n = snprintf(parent, sizeof(parent), "%.*s", slash ? (int)(slash - path + 1) : 1,
		     slash ? path : ".");
	if (n >= (int)sizeof(parent) || !*name || !realpath(parent, full))
		return -1;
	n = snprintf(out, PATH_MAX, "%s/%s", full[1] ? full : "", name);
	return n < PATH_MAX ? 0 : -1;
}

static bool leads_to_node(const char *path)
{
	char at[PATH_MAX], link[PATH_MAX], next[2 * PATH_MAX];

	if (strlen(path) >= PATH_MAX)
		return false;
	strcpy(next, path);
	for (unsigned i = 0; i < MAX_LINKS; i++) {
		ssize_t n;

		if (absolute(at, next))
			return false;
		if (!strcmp(at, preload_node()))
			return true;
		n = readlink(at, link, sizeof(link) - 1);
		if (n < 0)
			return false;
		link[n] = '\0';
		if (link[0] == '/')
			strcpy(next, link);
		else if (snprintf(next, sizeof(next), "%.*s%s", (int)(strrchr(at, '/') - at + 1), at,
				  link) >= PATH_MAX)
			return false;
	}
	return false;
}

bool preload_failed_at_node(int dir, const char *path)
{
	char from_dir[PATH_MAX];
	int e = errno;
	bool yes;

	if (!path || !*path || (e != ENOENT && e != EACCES && e != ENXIO && e != ENODEV && e != EROFS))
		return false;
	if (dir != AT_FDCWD && *path != '/') {
		if (snprintf(from_dir, sizeof(from_dir), "/proc/self/fd/%d/%s", dir, path) >= PATH_MAX)
			return false;
		path = from_dir;
	}
	yes = leads_to_node(path);
	errno = e;
	return yes;
}

/* ---- access ------------------------------------------------------------------ */

/* r: what the C library said. Anybody may read and write the node. */
static int access_anyway(int r, int dir, const char *path, int mode)
{
	return r < 0 && !(mode & X_OK) && preload_failed_at_node(dir, path) ? 0 : r;
}

EXPORT int access(const char *path, int mode)
{
	return access_anyway(preload_libc()->access(path, mode), AT_FDCWD, path, mode);
}

EXPORT int eaccess(const char *path, int mode)
{
	return access_anyway(preload_libc()->eaccess(path, mode), AT_FDCWD, path, mode);
}

EXPORT int euidaccess(const char *path, int mode) __attribute__((alias("eaccess")));

EXPORT int faccessat(int dir, const char *path, int mode, int flags)
{
	return access_anyway(preload_libc()->faccessat(dir, path, mode, flags), dir, path, mode);
}

/* ---- stat -------------------------------------------------------------------- */

static int stat_anyway(int r, int dir, const char *path, struct stat *st)
{
	if (r >= 0 || !preload_failed_at_node(dir, path))
		return r;
	*st = (struct stat){
		.st_mode = S_IFCHR | 0666, .st_rdev = makedev(10, 232), .st_nlink = 1, .st_blksize = 4096,
	};
	return 0;
}

EXPORT int stat(const char *path, struct stat *st)
{
	return stat_anyway(preload_libc()->stat(path, st), AT_FDCWD, path, st);
}

EXPORT int lstat(const char *path, struct stat *st)
{
	return stat_anyway(preload_libc()->lstat(path, st), AT_FDCWD, path, st);
}

EXPORT int fstatat(int dir, const char *path, struct stat *st, int flags)
{
	return stat_anyway(preload_libc()->fstatat(dir, path, st, flags), dir, path, st);
}

/* The 64-bit names' struct is the same one here. */
EXPORT int stat64(const char *path, struct stat64 *st)
{
	return stat(path, (struct stat *)st);
}

EXPORT int lstat64(const char *path, struct stat64 *st)
{
	return lstat(path, (struct stat *)st);
}

EXPORT int fstatat64(int dir, const char *path, struct stat64 *st, int flags)
{
	return fstatat(dir, path, (struct stat *)st, flags);
}

EXPORT int statx(int dir, const char *path, int flags, unsigned int mask, struct statx *st)
{
	int r = preload_libc()->statx(dir, path, flags, mask, st);

	if (r >= 0 || !preload_failed_at_node(dir, path))
		return r;
	*st = (struct statx){
		.stx_mask = STATX_TYPE | STATX_MODE | STATX_NLINK, .stx_mode = S_IFCHR | 0666,
		.stx_rdev_major = 10, .stx_rdev_minor = 232, .stx_nlink = 1, .stx_blksize = 4096,
	};
	return 0;
}
