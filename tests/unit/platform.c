/* SPDX-License-Identifier: MIT
 * The platform guest on the kernel's KVM, where there is one: boot, tables,
 * chips and their interrupts, reset and power-off, all together.
 */
#include "../lib/check.h"
#include "device/device.h"
#include "pci/pci.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct stage {
	struct machine *m;
	struct loop_watch output;
	struct loop_timer limit;
	char text[4096]; /* what the guest has said */
	size_t len;
	unsigned presses;
};

static unsigned count(const char *text, const char *word)
{
	unsigned n = 0;

	while ((text = strstr(text, word))) {
		n++;
		text++;
	}
	return n;
}

/* False: it says no more. */
static bool hear(struct stage *s)
{
	ssize_t n = read(s->output.fd, s->text + s->len, sizeof(s->text) - 1 - s->len);

	if (n <= 0)
		return false;
	s->len += (size_t)n;
	return true;
}

/* The guest says when it listens to the button, once in each of its lives. */
static void on_output(void *arg, uint32_t events)
{
	struct stage *s = arg;

	(void)hear(s);
	if (s->presses < count(s->text, "press\n"))
		s->presses += pm_power_button(s->m);
}

static void too_long(void *arg)
{
	struct stage *s = arg;

	machine_request(s->m, MACHINE_QUIT);
}

static void no_quit(void *arg)
{
}

/* The guest's image lies beside this program's folder. */
static void image_path(char *buf, size_t len)
{
	ssize_t n = readlink("/proc/self/exe", buf, len - 1);

	assert_true(n > 0);
	buf[n] = 0;
	*strrchr(buf, '/') = 0;
	strcpy(strrchr(buf, '/'), "/guest/platform.elf");
}

static void test_platform(void **state)
{
	struct machine_config config = {
		.name = "platform", .cpus = 1, .mem = 32 << 20, .log_fd = 2, .log_level = LOG_WARN,
	};
	struct kvmapi api = { .ops = &dev_kvm_ops };
	char kernel[512], initrd[] = "/tmp/platform-initrd.XXXXXX";
	struct boot_config bc = {
		.kernel = kernel, .initrd = initrd, .cmdline = "platform check",
	};
	struct err e = { "" };
	struct console *con;
	struct pci_bus *bus;
	struct stage s = { 0 };
	struct boot *boot;
	int out[2], fd;
	enum machine_outcome outcome;

	if (access("/dev/kvm", R_OK | W_OK)) {
		print_message("skipped: no usable /dev/kvm\n");
		skip();
	}
	fd = mkstemp(initrd);
	assert_int_equal(write(fd, "initrd!", 7), 7);
	close(fd);
	image_path(kernel, sizeof(kernel));
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	if (boot_open(&boot, &bc, &e) || machine_create(&s.m, &config, &api, &e))
		fail_msg("%s", e.text);
	if (console_create(&con, s.m->loop, -1, out[1], no_quit, NULL, &e))
		fail_msg("%s", e.text);
	/* The guest writes a configuration address that has a reset in its second byte. */
	assert_int_equal(pci_bus_create(&bus, s.m), 0);
	assert_int_equal(serial_create(s.m, con), 0);
	assert_int_equal(i8042_create(s.m), 0);
	assert_int_equal(rtc_create(s.m), 0);
	assert_int_equal(pm_create(s.m), 0);
	assert_int_equal(debugexit_create(s.m), 0);
	if (machine_start(s.m, boot, &e))
		fail_msg("%s", e.text);
	s.output = (struct loop_watch){
		.fd = out[0], .events = EPOLLIN, .ready = on_output, .arg = &s,
	};
	assert_int_equal(loop_watch(s.m->loop, &s.output), 0);
	s.limit = (struct loop_timer){ .fire = too_long, .arg = &s };
	loop_timer_set(s.m->loop, &s.limit, clock_ns() + 240 * NSEC_PER_SEC);
	outcome = machine_run(s.m);
	loop_unwatch(s.m->loop, &s.output);
	loop_timer_cancel(s.m->loop, &s.limit);
	close(out[1]);
	fd = s.m->exit_code;
	console_destroy(con);
	machine_destroy(s.m);
	boot_close(boot);
	unlink(initrd);
	while (hear(&s))
		;
	close(out[0]);

	if (outcome != MACHINE_POWEROFF)
		fail_msg("ended with outcome %d, exit code %d, said: %s", outcome, fd, s.text);
	assert_int_equal(count(s.text, "platform ok"), 2); /* before and after the reset */
	assert_int_equal(count(s.text, "FAIL"), 0);
	assert_int_equal(s.presses, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_platform),
	};

	return RUN(tests);
}
