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
 * quit(arg) is called on the loop's thread when the user types the escape,
 * which only a terminal has: what comes from a pipe or a file is data. in_fd
 * -1: no input; out_fd -1: output is dropped. A terminal is made raw and put
 * back by console_destroy(). The fds stay the caller's and their flags are not
 * touched (a shell may share them). -ENOMEM; -EBADF; as loop_watch().
 */
int console_create(struct console **out, struct loop *l, int in_fd, int out_fd,
		   void (*quit)(void *arg), void *arg, struct err *e) __must_check;
/* Owner rule of base/loop.h; nobody writes any more. NULL is fine. */
void console_destroy(struct console *c);
/* Put the terminal back (safe in a signal handler; NULL is fine); console_destroy() does it too. */
void console_restore_terminal(struct console *c);
/* Owner rule of base/loop.h. NULL: nobody; input waits. What waits is offered at once. */
void console_set_client(struct console *c, const struct console_client *cl);
void console_resume(struct console *c);
/* The terminal's size changed (SIGWINCH): tell the client. Owner rule. */
void console_resized(struct console *c);
/*
 * Write all of it. Any thread; writers take turns. If the other end takes
 * nothing for CONSOLE_STALL_MS, the rest and all that follows is dropped
 * (-EAGAIN, at once) until it takes some again; then a line says how much was
 * lost. -EPIPE, -EIO etc. once it is gone.
 */
#define CONSOLE_STALL_MS 2000
int console_write(struct console *c, const void *data, size_t len);
/* Of the terminal; 80 by 25 if there is none. */
void console_get_size(struct console *c, unsigned *columns, unsigned *rows);

#endif
