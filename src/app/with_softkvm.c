/* SPDX-License-Identifier: MIT
 * belfry with-softkvm: an unmodified program on softkvm.
 */
#include "app/app.h"
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#define LIBRARY "libsoftkvm-preload.so"

/* Beside this program, or where `make install` style layouts keep libraries. */
static int find_library(char path[PATH_MAX], struct err *e)
{
	static const char *const places[] = { "%s/" LIBRARY, "%s/../lib/belfry/" LIBRARY };
	char dir[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", dir, sizeof(dir) - 1);

	if (n < 0)
		return err_set(e, -errno, "cannot tell where this program is: %s", strerror(errno));
	dir[n] = '\0';
	*strrchr(dir, '/') = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		if (snprintf(path, PATH_MAX, places[i], dir) < PATH_MAX && !access(path, R_OK))
			return 0;
	}
	return err_set(e, -ENOENT, LIBRARY " is not beside the program in %s: build it with 'make'",
		       dir);
}

int with_softkvm_command(const struct with_softkvm_options *o)
{
	char library[PATH_MAX], preload[2 * PATH_MAX];
	const char *old = getenv("LD_PRELOAD");
	struct err e;

	if (!o->operands[0]) {
		err_set(&e, -EINVAL, "no command: say it behind \"--\"");
		return complain("with-softkvm", EXIT_USAGE, &e);
	}
	if (find_library(library, &e))
		return complain("with-softkvm", EXIT_USAGE, &e);
	snprintf(preload, sizeof(preload), "%s%s%s", library, old && *old ? ":" : "", old ? old : "");
	if (setenv("LD_PRELOAD", preload, 1) || setenv("BELFRY_APICV", o->apicv ? "on" : "off", 1)) {
		err_set(&e, -errno, "cannot set the environment: %s", strerror(errno));
		return complain("with-softkvm", EXIT_USAGE, &e);
	}
	execvp(o->operands[0], o->operands);
	err_set(&e, -errno, "%.200s: %s", o->operands[0], strerror(errno));
	return complain("with-softkvm", EXIT_USAGE, &e);
}
