/* SPDX-License-Identifier: MIT
 * An error a person can read: what failed and how to mend it. Functions that
 * can fail for a reason the user must hear take a `struct err *` (may be NULL),
 * fill it with one line and return the negative errno as always.
 */
#ifndef BELFRY_BASE_ERR_H
#define BELFRY_BASE_ERR_H

#include "base/base.h"

struct err {
	char text[512];
};

/* Write the line (no newline) unless e is NULL; returns code, so `return err_set(e, -EINVAL, …)`. */
int err_set(struct err *e, int code, const char *fmt, ...) __printf(3, 4);

/* Put "prefix: " before the line that is there. Returns code. */
int err_prefix(struct err *e, int code, const char *fmt, ...) __printf(3, 4);

#endif
