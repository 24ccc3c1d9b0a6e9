/* SPDX-License-Identifier: MIT
 * The command lines: what is taken, and above all what is refused and how.
 */
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdarg.h>
#include <cmocka.h>
#include "app/accel.h"
#include "app/commands.h"
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_ARGS 40

/* Split at spaces; "_" stands for an empty argument. */
static int split(char *line, char **argv)
{
	int argc = 0;

	for (char *p = strtok(line, " "); p && argc < MAX_ARGS; p = strtok(NULL, " "))
		argv[argc++] = strcmp(p, "_") ? p : "";
	return argc;
}

static int parse(const struct command *c, const char *line, void *result, struct opt_pool *pool,
		 struct err *e)
{
	static char copy[1024]; /* strings in the result point into it */
	char *argv[MAX_ARGS];

	snprintf(copy, sizeof(copy), "%s", line);
	e->text[0] = '\0';
	return options_parse(c, split(copy, argv), argv, result, pool, e);
}

struct bad {
	const char *line;
	const char *says[3]; /* all of these must be in the message */
};

static const struct bad bad_runs[] = {
	{ "", { "--kernel FILE is missing" } },
	{ "--kernel", { "--kernel needs a value" } },
	{ "--kernel _", { "--kernel \"\"", "must not be empty" } },
	{ "--kernel k --cpus 2 --cpus 0", { "--cpus 0: must be 1 to 255" } },
	{ "--kernel k --cpus 0 --cpus 2", { "--cpus 0: must be 1 to 255" } },
	{ "k", { "k: unexpected", "options begin with --" } },
	{ "--kernel k rest", { "rest: unexpected" } },
	{ "--kernl k", { "--kernl: unknown option", "did you mean --kernel?" } },
	{ "--kernl=k", { "--kernl: unknown option", "did you mean --kernel?" } },
	{ "--zzzzzzzz k", { "--zzzzzzzz: unknown option; 'belfry run --help'" } },
	{ "-k k", { "-k: unknown option" } },
	{ "--kernel k --cpus 0", { "--cpus 0: must be 1 to 255" } },
	{ "--kernel k --cpus 256", { "--cpus 256: must be 1 to 255" } },
	{ "--kernel k --cpus -1", { "--cpus -1: not a number" } },
	{ "--kernel k --cpus 1x", { "--cpus 1x: not a number" } },
	{ "--kernel k --cpus 99999999999999999999", { "must be 1 to 255" } },
	{ "--kernel k --cpus _", { "--cpus \"\": not a number" } },
	{ "--kernel k --mem 512", { "--mem 512: must be 2M to 1T", "did you mean 512M?" } },
	{ "--kernel k --mem 1M", { "--mem 1M: must be 2M to 1T" } },
	{ "--kernel k --mem 2T", { "--mem 2T: must be 2M to 1T" } },
	{ "--kernel k --mem 5000001", { "--mem 5000001: must be a multiple of 4K" } },
	{ "--kernel k --mem 1.5G", { "--mem 1.5G: not a size" } },
	{ "--kernel k --mem -5M", { "--mem -5M: not a size" } },
	{ "--kernel k --mem 99999999999999G", { "must be 2M to 1T" } },
	{ "--kernel k --accel hvf", { "--accel hvf: must be auto, kvm or soft" } },
	{ "--kernel k --irqchip apic", { "must be kernel, split or user" } },
	{ "--kernel k --irqchip split", { "--irqchip split: not built", "--irqchip kernel" } },
	{ "--kernel k --irqchip user", { "--irqchip user: not built", "--irqchip kernel" } },
	{ "--kernel k --console tty", { "must be serial or virtio" } },
	{ "--kernel k --rng maybe", { "--rng maybe: must be on or off" } },
	{ "--kernel k --debug-exit=1", { "--debug-exit takes no value" } },
	{ "--kernel k --name a/b", { "--name a/b: must be letters" } },
	{ "--kernel k --name aaaaaaaaaaaaaaaaaaaaaaaaa", { "23 characters at most" } },
	{ "--kernel k --log loud", { "must be error, warn, info or debug" } },
	{ "--kernel k --disk _", { "--disk \"\"", "must not be empty" } },
	{ "--kernel k --disk ,readonly", { "--disk ,readonly: FILE: must not be empty" } },
	{ "--kernel k --disk d,", { "--disk d,: a key is missing" } },
	{ "--kernel k --disk d,quues=2", { "unknown key \"quues\" (did you mean \"queues\"?)",
					   "queue-size=N", "cache=writeback|none|unsafe" } },
	{ "--kernel k --disk d,zzz", { "unknown key \"zzz\"; allowed: readonly, queues=N" } },
	{ "--kernel k --disk d,queues", { "queues needs a value: queues=N" } },
	{ "--kernel k --disk d,queues=0", { "queues=0: must be 1 to 64" } },
	{ "--kernel k --disk d,queues=1,queues=2", { "queues is given twice" } },
	{ "--kernel k --disk d,queue-size=6", { "queue-size=6: must be a power of two" } },
	{ "--kernel k --disk d,queue-size=2048", { "must be 4 to 1024" } },
	{ "--kernel k --disk d,iothread=yes", { "iothread=yes: must be on or off" } },
	{ "--kernel k --disk d,iothread", { "iothread needs a value: iothread=on|off" } },
	{ "--kernel k --disk d,iothread=off,poll=9", { "poll needs iothread=on" } },
	{ "--kernel k --disk d,cache=fast", { "must be writeback, none or unsafe" } },
	{ "--kernel k --disk d,serial=aaaaaaaaaaaaaaaaaaaaa", { "20 characters at most" } },
	{ "--kernel k --disk d,serial=", { "serial=: must not be empty" } },
	{ "--kernel k --disk d,readonly=1", { "readonly takes no value" } },
	{ "--kernel k --disk d,notify=poll", { "notify=poll: must be ioeventfd or exit" } },
	{ "--kernel k --disk d,inject=pin", { "must be auto, irqfd, msi or line" } },
	{ "--kernel k --net _", { "a key is missing" } },
	{ "--kernel k --net mac=52:54:00:00:00:01", { "must be either user or tap=NAME" } },
	{ "--kernel k --net user,tap=t0", { "must be either user or tap=NAME" } },
	{ "--kernel k --net bridge=br0", { "unknown key \"bridge\"", "user, tap=NAME" } },
	{ "--kernel k --net tap", { "tap needs a value: tap=NAME" } },
	{ "--kernel k --net tap=a/b", { "must be an interface name" } },
	{ "--kernel k --net tap=aaaaaaaaaaaaaaaa", { "15 characters at most" } },
	{ "--kernel k --net tap=t0,hostfwd=tcp::1-:2", { "hostfwd works with user only" } },
	{ "--kernel k --net user,hostfwd=tcp::0-:2", { "must be tcp|udp:[HOST]:PORT-[GUEST]:PORT" } },
	{ "--kernel k --net user,hostfwd=tcp::1-:65536", { "must be tcp|udp" } },
	{ "--kernel k --net user,hostfwd=icmp::1-:2", { "must be tcp|udp" } },
	{ "--kernel k --net user,hostfwd=tcp", { "must be tcp|udp" } },
	{ "--kernel k --net user,hostfwd=tcp:1-2", { "must be tcp|udp" } },
	{ "--kernel k --net user,mac=52:54:00:12:34", { "must be a unicast address" } },
	{ "--kernel k --net user,mac=53:54:00:12:34:56", { "must be a unicast address" } },
	{ "--kernel k --net user,mac=00:00:00:00:00:00", { "must be a unicast address" } },
	{ "--kernel k --net user,mac=52:54:00:12:34:56:78", { "must be a unicast address" } },
};

static void test_bad_runs(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(bad_runs); i++) {
		const struct bad *b = &bad_runs[i];
		struct opt_pool pool = { 0 };
		struct run_options o;
		struct err e;
		int r = parse(&run_table, b->line, &o, &pool, &e);

		if (r != -EINVAL)
			fail_msg("\"%s\" gave %d instead of -EINVAL", b->line, r);
		for (size_t j = 0; j < ARRAY_SIZE(b->says) && b->says[j]; j++)
			if (!strstr(e.text, b->says[j]))
				fail_msg("\"%s\" says \"%s\", which lacks \"%s\"", b->line, e.text,
					 b->says[j]);
		assert_null(strchr(e.text, '\n'));
		opt_pool_free(&pool);
	}
}

static void test_defaults(void **state)
{
	struct opt_pool pool = { 0 };
	struct run_options o;
	struct err e;

	assert_int_equal(parse(&run_table, "--kernel vmlinuz", &o, &pool, &e), 0);
	assert_string_equal(o.kernel, "vmlinuz");
	assert_null(o.initrd);
	assert_null(o.cmdline);
	assert_int_equal(o.cpus, 1);
	assert_int_equal(o.mem, 512ull << 20);
	assert_int_equal(o.nr_disks, 0);
	assert_int_equal(o.nr_nets, 0);
	assert_true(o.rng);
	assert_false(o.debug_exit);
	assert_int_equal(o.accel, ACCEL_AUTO);
	assert_int_equal(o.console, CONSOLE_SERIAL);
	opt_pool_free(&pool);
}

static void test_everything(void **state)
{
	struct opt_pool pool = { 0 };
	struct run_options o;
	struct err e;

	assert_int_equal(parse(&run_table,
			       "--accel kvm --kernel=v --initrd i --cmdline a=b --cpus 255 --mem 3G "
			       "--disk a.img,readonly,queues=4,queue-size=128,iothread=on,poll=50,"
			       "cache=none,serial=XY,notify=exit,inject=msi,transitional=on "
			       "--disk b.img --disk c.img,iothread=off --net user,hostfwd=tcp::2222-:22,"
			       "hostfwd=udp:127.0.0.1:53-10.0.2.15:53,mac=52:54:00:AB:cd:ef "
			       "--net tap=t0,inject=line,iothread=on "
			       "--irqchip kernel --console virtio --name vm-1 --log debug --rng off "
			       "--debug-exit", &o, &pool, &e), 0);
	assert_int_equal(o.accel, ACCEL_KVM);
	assert_string_equal(o.cmdline, "a=b");
	assert_int_equal(o.cpus, 255);
	assert_int_equal(o.mem, 3ull << 30);
	assert_int_equal(o.nr_disks, 3);
	assert_string_equal(o.disks[0].file, "a.img");
	assert_string_equal(o.disks[0].serial, "XY");
	assert_true(o.disks[0].readonly && o.disks[0].iothread);
	assert_int_equal(o.disks[0].queues, 4);
	assert_int_equal(o.disks[0].queue_size, 128);
	assert_int_equal(o.disks[0].poll_us, 50);
	assert_int_equal(o.disks[0].cache, CACHE_NONE);
	assert_int_equal(o.disks[0].transport.notify, NOTIFY_EXIT);
	assert_int_equal(o.disks[0].transport.inject, INJECT_MSI);
	assert_true(o.disks[0].transport.transitional);
	assert_string_equal(o.disks[1].file, "b.img");
	assert_int_equal(o.disks[1].queues, 1);
	assert_int_equal(o.disks[1].queue_size, 256);
	assert_false(o.disks[1].readonly);
	/* A thread of its own is the default; off is the main loop. */
	assert_true(o.disks[1].iothread);
	assert_false(o.disks[2].iothread);
	assert_int_equal(o.disks[1].transport.notify, NOTIFY_IOEVENTFD);
	assert_int_equal(o.disks[1].transport.inject, INJECT_AUTO);
	assert_int_equal(o.nr_nets, 2);
	assert_true(o.nets[0].user);
	assert_int_equal(o.nets[0].nr_hostfwd, 2);
	assert_string_equal(o.nets[0].hostfwd[1], "udp:127.0.0.1:53-10.0.2.15:53");
	assert_null(o.nets[0].hostfwd[2]);
	assert_string_equal(o.nets[0].mac, "52:54:00:AB:cd:ef");
	assert_false(o.nets[1].user);
	assert_string_equal(o.nets[1].tap, "t0");
	assert_int_equal(o.nets[1].transport.inject, INJECT_LINE);
	assert_false(o.rng);
	assert_true(o.debug_exit);
	assert_int_equal(o.log_level, LOG_DEBUG);
	assert_string_equal(o.name, "vm-1");
	opt_pool_free(&pool);
}

/* A doubled comma belongs to the file's name, wherever it stands. */
static void test_group_commas(void **state)
{
	static const struct {
		const char *line, *file;
		bool readonly;
	} cases[] = {
		{ "--kernel k --disk a,,b.img", "a,b.img", false },
		{ "--kernel k --disk a,,b.img,readonly", "a,b.img", true },
		{ "--kernel k --disk a,,", "a,", false },
		{ "--kernel k --disk a,,,readonly", "a,", true },
		{ "--kernel k --disk ,,a", ",a", false },
		{ "--kernel k --disk a=b", "a=b", false },
		{ "--kernel k --disk readonly", "readonly", false },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct opt_pool pool = { 0 };
		struct run_options o;
		struct err e;

		assert_int_equal(parse(&run_table, cases[i].line, &o, &pool, &e), 0);
		assert_string_equal(o.disks[0].file, cases[i].file);
		assert_int_equal(o.disks[0].readonly, cases[i].readonly);
		opt_pool_free(&pool);
	}
}

/* A script's options can be overridden behind it. */
static void test_last_counts(void **state)
{
	struct opt_pool pool = { 0 };
	struct run_options o;
	struct err e;

	assert_int_equal(parse(&run_table, "--kernel a --cpus 2 --rng off --kernel=b --cpus 4 "
			       "--rng on --mem 1G --mem 2G", &o, &pool, &e), 0);
	assert_string_equal(o.kernel, "b");
	assert_int_equal(o.cpus, 4);
	assert_int_equal(o.mem, 2ull << 30);
	assert_true(o.rng);
	opt_pool_free(&pool);
}

/* Whatever words come in whatever order: taken or refused with one line, never worse. */
static void test_random_lines(void **state)
{
	static const char *const words[] = {
		"--kernel", "--kernel=", "k", "--disk", "d,,", ",", ",,,", "=", "d,queues=1,poll=1",
		"--net", "user", "user,hostfwd=tcp:-:", "tap=", "user,mac=", "--cpus", "1", "0x10",
		"--mem", "1G", "G", "18446744073709551616", "--", "-", "_", "--=", "--rng=on", "off",
		"--debug-exit", "--accel", "kvm", "d,serial=\xc3\xa9", "user,hostfwd=tcp::1-:2,,",
		"user,hostfwd", "%s%n", "--cmdline", "--name", "d,=,=", "d,readonly,readonly",
	};
	unsigned seed = 1, taken = 0;

	for (unsigned n = 0; n < 20000; n++) {
		struct opt_pool pool = { 0 };
		char line[512] = "";
		struct run_options o;
		struct err e;
		int r;

		for (unsigned i = 0, len = 1 + (unsigned)rand_r(&seed) % 7; i < len; i++) {
			size_t at = strlen(line);

			snprintf(line + at, sizeof(line) - at, "%s ",
				 words[(unsigned)rand_r(&seed) % ARRAY_SIZE(words)]);
		}
		r = parse(&run_table, line, &o, &pool, &e);
		assert_true(r == 0 || r == -EINVAL);
		assert_int_equal(r == 0, e.text[0] == '\0');
		assert_null(strchr(e.text, '\n'));
		taken += !r;
		opt_pool_free(&pool);
	}
	assert_in_range(taken, 1, 19999);
}

static void test_too_many(void **state)
{
	char *argv[2 * RUN_MAX_DISKS + 6] = { "--kernel", "k" };
	struct opt_pool pool = { 0 };
	struct run_options o;
	struct err e;
	int argc = 2;

	for (unsigned i = 0; i < RUN_MAX_DISKS; i++) {
		argv[argc++] = "--disk";
		argv[argc++] = "d";
	}
	assert_int_equal(options_parse(&run_table, argc, argv, &o, &pool, &e), 0);
	assert_int_equal(o.nr_disks, RUN_MAX_DISKS);
	argv[argc++] = "--disk";
	argv[argc++] = "d";
	assert_int_equal(options_parse(&run_table, argc, argv, &o, &pool, &e), -EINVAL);
	assert_non_null(strstr(e.text, "more than 16"));
	opt_pool_free(&pool);
}

static const struct bad bad_benches[] = {
	{ "--count 0", { "--count 0: must be 1 to 100000" } },
	{ "--count 100001", { "must be 1 to 100000" } },
	{ "--path kick-foo", { "no path \"kick-foo\"", "call-irqfd-msi" } },
	{ "--path kick,", { "no path \"\"" } },
	{ "--path call-msi,kick-", { "no path \"kick-\"" } },
	{ "--accel hvf", { "must be auto, kvm or soft" } },
	{ "extra", { "extra: unexpected" } },
};

static void test_bad_benches(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(bad_benches); i++) {
		const struct bad *b = &bad_benches[i];
		struct opt_pool pool = { 0 };
		struct bench_options o;
		struct err e;

		if (parse(&bench_events_table, b->line, &o, &pool, &e) != -EINVAL)
			fail_msg("\"%s\" was taken", b->line);
		for (size_t j = 0; j < ARRAY_SIZE(b->says) && b->says[j]; j++)
			if (!strstr(e.text, b->says[j]))
				fail_msg("\"%s\" says \"%s\", which lacks \"%s\"", b->line, e.text,
					 b->says[j]);
		opt_pool_free(&pool);
	}
}

static void test_good_benches(void **state)
{
	struct opt_pool pool = { 0 };
	struct bench_options o;
	struct err e;

	assert_int_equal(parse(&bench_events_table, "--json --path kick,call-msi", &o, &pool, &e), 0);
	assert_true(o.json);
	assert_int_equal(o.count, 500);
	opt_pool_free(&pool);
}

/* Every command's page has every heading and every option, and no line is too wide. */
static void test_help(void **state)
{
	static const char *const headings[] = { "NAME\n", "\nSYNOPSIS\n", "\nDESCRIPTION\n",
						"\nOPTIONS\n", "\nEXIT STATUS\n", "\nEXAMPLES\n" };

	for (const struct command *const *c = command_table; *c; c++) {
		struct opt_pool pool = { 0 };
		char *text = NULL;
		size_t len;
		FILE *f = open_memstream(&text, &len);
		void *result = malloc((*c)->size);
		char *help[] = { "--zz", "--help" };
		struct err e;

		/* Asking for help wins over anything wrong beside it. */
		assert_int_equal(options_parse(*c, 2, help, result, &pool, &e), 1);
		options_help(*c, f);
		fclose(f);
		for (size_t i = 0; i < ARRAY_SIZE(headings); i++)
			assert_non_null(strstr(text, headings[i]));
		for (const struct opt *o = (*c)->opts; o->name; o++) {
			assert_non_null(strstr(text, o->name));
			assert_non_null(o->help);
			for (const struct opt *k = o->keys; k && k->name; k++)
				assert_non_null(strstr(text, k->name));
		}
		for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
			size_t wide = 0;

			for (const char *p = line; *p; p++)
				wide += (*p & 0xc0) != 0x80;
			if (wide > 79 && strncmp(line, "           belfry", 17))
				fail_msg("too wide: %s", line);
		}
		free(text);
		free(result);
	}
}

static void test_mac(void **state)
{
	uint8_t mac[6] = { 9, 9, 9, 9, 9, 9 };

	assert_int_equal(mac_parse("52:54:00:12:aB:Ff", mac), 0);
	assert_memory_equal(mac, "\x52\x54\x00\x12\xab\xff", 6);
	assert_int_equal(mac_parse("", mac), -EINVAL);
	assert_int_equal(mac_parse("52-54-00-12-34-56", mac), -EINVAL);
	assert_int_equal(mac_parse("5:54:00:12:34:56", mac), -EINVAL);
	assert_memory_equal(mac, "\x52\x54\x00\x12\xab\xff", 6); /* untouched by failures */
}

/* A /sys of our own with the given modules. */
static void probe_with(const char *const *modules, struct accel *a)
{
	char root[] = "/tmp/belfry-sys-XXXXXX", path[300];

	assert_non_null(mkdtemp(root));
	snprintf(path, sizeof(path), "%s/module", root);
	assert_int_equal(mkdir(path, 0700), 0);
	for (const char *const *m = modules; *m; m++) {
		snprintf(path, sizeof(path), "%s/module/%s", root, *m);
		assert_int_equal(mkdir(path, 0700), 0);
	}
	accel_probe(a, root);
	for (const char *const *m = modules; *m; m++) {
		snprintf(path, sizeof(path), "%s/module/%s", root, *m);
		rmdir(path);
	}
	snprintf(path, sizeof(path), "%s/module", root);
	rmdir(path);
	rmdir(root);
}

static void test_accel(void **state)
{
	struct accel a;
	struct kvmapi api;
	struct err e;

	probe_with((const char *const[]){ "kvm", "kvm_intel", "loop", NULL }, &a);
	assert_true(a.hardware);
	assert_string_equal(a.module, "kvm_intel");

	probe_with((const char *const[]){ "kvm_pvm", "kvm", "kvm_amd", NULL }, &a);
	assert_true(a.hardware);
	assert_string_equal(a.module, "kvm_amd");

	/* A KVM that emulates ring 0 is not taken, and the reason names it. */
	probe_with((const char *const[]){ "kvm", "kvm_pvm", NULL }, &a);
	assert_false(a.hardware);
	assert_string_equal(a.module, "kvm_pvm");
	assert_int_equal(accel_choose(&a, &e), ACCEL_SOFT);
	assert_non_null(strstr(e.text, "kvm_pvm"));

	/* No /sys at all: nothing can be said, so what opens is taken. */
	accel_probe(&a, "/nonexistent");
	assert_false(a.sysfs);
	if (access("/dev/kvm", R_OK | W_OK)) {
		assert_int_equal(accel_choose(&a, &e), ACCEL_SOFT);
		assert_non_null(strstr(e.text, "/dev/kvm"));
	} else {
		assert_int_equal(accel_choose(&a, &e), ACCEL_KVM);
	}

	assert_int_equal(accel_open(ACCEL_KVM, NULL, &api, &e), 0);
	assert_string_equal(api.ops->name, "kvm");
	accel_close(&api);
	assert_int_equal(accel_open(ACCEL_SOFT, NULL, &api, &e), 0);
	assert_string_equal(api.ops->name, "soft");
	accel_close(&api);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bad_runs),     cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_everything),   cmocka_unit_test(test_group_commas),
		cmocka_unit_test(test_too_many),     cmocka_unit_test(test_bad_benches),
		cmocka_unit_test(test_good_benches), cmocka_unit_test(test_help),
		cmocka_unit_test(test_mac),          cmocka_unit_test(test_accel),
		cmocka_unit_test(test_last_counts),  cmocka_unit_test(test_random_lines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
