/* SPDX-License-Identifier: MIT */
#include "base/base.h"
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

void log_init(struct log *l, int fd, enum log_level level, const char *name)
{
	*l = (struct log){ .fd = fd, .level = level, .crlf = fd >= 0 && isatty(fd) };
	snprintf(l->name, sizeof(l->name), "%s", name);
}

void log_msg(const struct log *l, enum log_level level, const char *fmt, ...)
{
	static const char *const tag[] = { "error: ", "warning: ", "", "debug: " };
	char line[1024];
	const size_t room = sizeof(line) - 2;
	va_list ap;
	size_t n;
	int r;

	if (!l || l->fd < 0 || level > l->level)
		return;
	r = snprintf(line, room, "%s: %s", l->name, tag[level]);
	n = r < 0 ? 0 : MIN((size_t)r, room - 1);
	va_start(ap, fmt);
	r = vsnprintf(line + n, room - n, fmt, ap);
	va_end(ap);
	if (r > 0)
		n = MIN(n + (size_t)r, room - 1);
	if (l->crlf)
		line[n++] = '\r';
	line[n++] = '\n';
	if (write(l->fd, line, n) < 0)
		return; /* a log that cannot be written has nobody to tell */
}
