/* SPDX-License-Identifier: MIT
 *
 * app: the program. Knows every room, owns main(), the command line and the
 * exit statuses; the only room that may exit.
 */
#ifndef BELFRY_APP_H
#define BELFRY_APP_H

#include "base/base.h"

#define BELFRY_VERSION "0.1"

enum { EXIT_GOOD = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

#include "app/options.h"
#include "app/accel.h"
#include "app/commands.h"

/* One line "belfry COMMAND: text" to standard error. Returns status. */
int complain(const char *command, int status, const struct err *e);

/* The commands. Each returns the exit status. */
int run_command(const struct run_options *o);
int doctor_command(const struct doctor_options *o);
int bench_events_command(const struct bench_options *o);
int with_softkvm_command(const struct with_softkvm_options *o);

#endif
