/* SPDX-License-Identifier: MIT
 * The console: a pair of fds (standard input and output as a rule), raw if a
 * terminal, with an escape key (Ctrl-A then x quits, Ctrl-A Ctrl-A sends one).
 */
#ifndef BELFRY_BACKEND_CONSOLE_H
#define BELFRY_BACKEND_CONSOLE_H

#include "base/base.h"

struct console;

struct console_client {
	/* Input from the user: returns how many bytes it took; the rest comes again after console_resume(). */
	size_t (*input)(void *arg, const void *data, size_t len);
	/* Terminal size changed; may be NULL. */
	void (*resized)(void *arg, unsigned columns, unsigned rows);
	void *arg;
};

/*
 * quit(arg) is called when the user types the escape. in_fd -1: no input. The
 * loop watches in_fd; a terminal is made raw and put back by console_destroy().
 */
int console_create(struct console **out, struct loop *l, int in_fd, int out_fd,
		   void (*quit)(void *arg), void *arg, struct err *e) __must_check;
void console_destroy(struct console *c);
/* Put the terminal back (safe in a signal handler); console_destroy() does it too. */
void console_restore_terminal(struct console *c);
/* The loop's thread or while it stands. */
void console_set_client(struct console *c, const struct console_client *cl);
void console_resume(struct console *c);
/* Write all of it; waits if the other end is slow. Any thread. -EPIPE etc. once gone. */
int console_write(struct console *c, const void *data, size_t len);
void console_get_size(struct console *c, unsigned *columns, unsigned *rows);

#endif
