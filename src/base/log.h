/* SPDX-License-Identifier: MIT
 * A log with a name. One message is one write(2), so lines of threads do not
 * mix. A device that a guest misuses logs once (keep a flag), never per event.
 */
#ifndef BELFRY_BASE_LOG_H
#define BELFRY_BASE_LOG_H

#include "base/base.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

struct log {
	int fd;               /* where lines go; -1: nowhere */
	enum log_level level; /* messages above it are dropped */
	bool crlf;            /* the terminal is raw: end lines with CR LF */
	char name[32];        /* put before each message */
};

/* fd stays the caller's. */
void log_init(struct log *l, int fd, enum log_level level, const char *name);

/* Any thread. l may be NULL (dropped). No newline in fmt. */
void log_msg(const struct log *l, enum log_level level, const char *fmt, ...) __printf(3, 4);

#define log_error(l, ...) log_msg(l, LOG_ERROR, __VA_ARGS__)
#define log_warn(l, ...)  log_msg(l, LOG_WARN, __VA_ARGS__)
#define log_info(l, ...)  log_msg(l, LOG_INFO, __VA_ARGS__)
#define log_debug(l, ...) log_msg(l, LOG_DEBUG, __VA_ARGS__)

#endif
