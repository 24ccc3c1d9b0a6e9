/* SPDX-License-Identifier: MIT
 * belfry run: checks, builds the machine, runs it, turns its end into a status.
 */
#include "app/app.h"
#include "app/wiring.h"
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/signalfd.h>
#include <unistd.h>

struct run {
	struct wiring wiring;
	struct kvmapi api;
	int signal_fd;
	struct loop_watch signals;
};

/*
 * For the handler of deadly signals alone: a handler gets no argument, and
 * both signals and the controlling terminal belong to the process as a whole.
 */
static struct console *_Atomic crash_console;

/* The monitor itself crashes: leave the user a terminal that works. */
static void on_crash(int sig)
{
	console_restore_terminal(atomic_load(&crash_console));
	(void)raise(sig); /* SA_RESETHAND: the default action now */
}

static void catch_crashes(struct console *c)
{
	static const int deadly[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
	struct sigaction a = { .sa_handler = on_crash, .sa_flags = SA_RESETHAND | SA_NODEFER };

	atomic_store(&crash_console, c);
	for (size_t i = 0; i < ARRAY_SIZE(deadly); i++)
		(void)sigaction(deadly[i], &a, NULL); /* fails for bad numbers only */
}

static void on_signal(void *arg, uint32_t events)
{
	struct run *r = arg;
	struct signalfd_siginfo s;

	while (read(r->signal_fd, &s, sizeof(s)) == sizeof(s)) {
		if (s.ssi_signo == SIGWINCH) {
			console_resized(r->wiring.console);
			continue;
		}
		log_info(&r->wiring.machine->log, "signal %u: the machine ends", s.ssi_signo);
		machine_request(r->wiring.machine, MACHINE_QUIT);
	}
}

/* Before any thread is made: threads inherit the mask. */
static int take_signals(struct run *r, struct err *e)
{
	static const int taken[] = { SIGTERM, SIGINT, SIGHUP, SIGWINCH };
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(taken); i++)
		sigaddset(&set, taken[i]);
	(void)signal(SIGPIPE, SIG_IGN);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	r->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return r->signal_fd < 0 ? err_set(e, -errno, "signalfd failed: %s", strerror(errno)) : 0;
}

static int watch_signals(struct run *r, struct err *e)
{
	int code;

	r->signals = (struct loop_watch){
		.fd = r->signal_fd, .events = EPOLLIN, .ready = on_signal, .arg = r,
	};
	code = loop_watch(r->wiring.machine->loop, &r->signals);
	return code ? err_set(e, code, "cannot watch signals: %s", strerror(-code)) : 0;
}

/* The KVM half; where it is not the obvious one, say which and why. */
static int open_accel(struct run *r, const struct run_options *o, struct err *e)
{
	enum accel_choice choice = (enum accel_choice)o->accel;
	struct accel a;
	struct err why;

	if (choice == ACCEL_AUTO) {
		accel_probe(&a, NULL);
		choice = accel_choose(&a, &why);
		if (choice == ACCEL_SOFT)
			fprintf(stderr, "belfry run: on softkvm: %s\n", why.text);
	}
	return accel_open(choice, NULL, &r->api, e);
}

static int start(struct run *r, const struct run_options *o, struct err *e)
{
	int code = wiring_open(&r->wiring, o, e);

	if (!code)
		code = open_accel(r, o, e);
	if (!code)
		code = take_signals(r, e);
	if (!code)
		code = wiring_build(&r->wiring, &r->api, e);
	if (!code)
		code = watch_signals(r, e);
	if (!code)
		catch_crashes(r->wiring.console);
	if (!code)
		code = machine_start(r->wiring.machine, r->wiring.boot, e);
	return code;
}

static int finish(struct machine *m)
{
	switch (machine_run(m)) {
	case MACHINE_POWEROFF:
	case MACHINE_QUIT:
		return EXIT_GOOD;
	default:
		if (m->exit_code)
			log_error(&m->log, "the guest ended with code %d", m->exit_code);
		return EXIT_FAILED;
	}
}

int run_command(const struct run_options *o)
{
	struct run r = { .signal_fd = -1 };
	struct err e;
	int status, code = start(&r, o, &e);

	status = code ? EXIT_USAGE : finish(r.wiring.machine);
	atomic_store(&crash_console, NULL);
	wiring_close(&r.wiring);
	accel_close(&r.api);
	if (r.signal_fd >= 0)
		close(r.signal_fd);
	/* After wiring_close(): the terminal is cooked again. */
	return code ? complain("run", status, &e) : status;
}
