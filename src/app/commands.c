/* SPDX-License-Identifier: MIT */
#include "app/commands.h"
#include "monitor/monitor.h"
#include <ctype.h>

const struct command *const command_table[] = {
	&run_table, &doctor_table, &bench_events_table, &with_softkvm_table, NULL,
};

static const struct opt_choice accel_choices[] = {
	{ "auto", ACCEL_AUTO }, { "kvm", ACCEL_KVM }, { "soft", ACCEL_SOFT }, { NULL },
};

static const struct opt doctor_opts[] = {
	{ .name = "--json", .type = OPT_FLAG, .offset = offsetof(struct doctor_options, json),
	  .help = "Print one JSON object instead of text." },
	{ NULL },
};

const struct command doctor_table = {
	.name = "doctor",
	.summary = "say what this host offers to Belfry and what it lacks",
	.description =
		"Looks at the host and prints, for each thing that matters to a virtual machine, "
		"what was found, whether that is good, and how to mend it if it is not: the KVM "
		"module, access to /dev/kvm, each capability with what Belfry uses it for, posted "
		"interrupts, nesting, huge pages, io_uring, vhost and tun nodes, CPU features and "
		"limits. The last lines say what 'belfry run' will use.\n"
		"Nothing is changed on the host. Works without /dev/kvm too.",
	.opts = doctor_opts,
	.statuses = (const char *const[]){
		"0", "'belfry run' can run guests on this host",
		"1", "something that 'belfry run' cannot do without is missing",
		"2", "the command line is wrong", NULL },
	.examples = (const char *const[]){
		"belfry doctor", "What is there and what is missing:",
		"belfry doctor --json", "The same for a script:", NULL },
	.size = sizeof(struct doctor_options),
};

static const struct opt bench_opts[] = {
	{ .name = "--accel", .type = OPT_CHOICE, .offset = offsetof(struct bench_options, accel),
	  .choices = accel_choices,
	  .help = "The KVM half to measure. soft: softkvm, KVM in user space; auto: whatever answers "
		  "at /dev/kvm, with or without VT-x or SVM, as the guests here are a few "
		  "instructions long; softkvm if nothing does." },
	{ .name = "--count", .type = OPT_NUMBER, .metavar = "N",
	  .offset = offsetof(struct bench_options, count), .min = 1, .max = 100000,
	  .help = "Events to measure on each path. Default 500." },
	{ .name = "--path", .type = OPT_STRING, .metavar = "LIST",
	  .offset = offsetof(struct bench_options, path),
	  .check = bench_check_paths,
	  .help = "Measure only these paths, comma-separated; the names are the first column of "
		  "the table. 'kick' and 'call' stand for all of their kind." },
	{ .name = "--json", .type = OPT_FLAG, .offset = offsetof(struct bench_options, json),
	  .help = "Print one JSON object instead of a table; times in nanoseconds." },
	{ NULL },
};

static const struct bench_options bench_defaults = { .count = 500 };

const struct command bench_events_table = {
	.name = "bench events",
	.summary = "measure every path of a kick and of a call",
	.description = bench_description,
	.opts = bench_opts,
	.statuses = (const char *const[]){
		"0", "every path that this KVM half has was measured",
		"1", "events got lost or the guest failed; the table says where",
		"2", "the command line is wrong or there is no KVM", NULL },
	.examples = (const char *const[]){
		"belfry bench events", "The whole table:",
		"belfry bench events --path kick-ioeventfd-mmio,call-irqfd-msi --count 5000",
		"Two paths, against each other:",
		"belfry bench events --json >events.json", "For a script:", NULL },
	.size = sizeof(struct bench_options),
	.defaults = &bench_defaults,
};

static const struct opt_choice onoff_choices[] = {
	{ "on", 1 }, { "off", 0 }, { NULL },
};

static const struct opt with_softkvm_opts[] = {
	{ .name = "--apicv", .type = OPT_CHOICE, .offset = offsetof(struct with_softkvm_options, apicv),
	  .choices = onoff_choices,
	  .help = "Whether interrupts are posted to a running vCPU (on, the default) or it is "
		  "brought out of the guest to take them (off)." },
	{ NULL },
};

static const struct with_softkvm_options with_softkvm_defaults = { .apicv = 1 };

const struct command with_softkvm_table = {
	.name = "with-softkvm",
	.summary = "run a program on softkvm instead of /dev/kvm",
	.description =
		"Starts CMD with libsoftkvm-preload.so preloaded: when it opens /dev/kvm it gets "
		"softkvm, KVM's API in user space. The library is looked for beside this program "
		"and in ../lib/belfry from there.\n"
		"Programs that are linked statically, or make system calls without the C library, "
		"are not reached. A program with a seccomp sandbox of its own must leave it off.",
	.opts = with_softkvm_opts,
	.operands = "CMD [ARG…]",
	.statuses = (const char *const[]){
		"N", "what CMD ended with",
		"2", "the command line is wrong, or CMD or the library cannot be found", NULL },
	.examples = (const char *const[]){
		"belfry with-softkvm -- qemu-system-x86_64 -accel kvm -kernel vmlinuz",
		"QEMU's machine on our KVM:", NULL },
	.size = sizeof(struct with_softkvm_options),
	.defaults = &with_softkvm_defaults,
};

int mac_parse(const char *text, uint8_t mac[6])
{
	uint8_t m[6];

	for (unsigned i = 0; i < 6; i++) {
		unsigned v = 0;

		for (unsigned d = 0; d < 2; d++) {
			char c = (char)tolower((unsigned char)*text++);

			if (!isxdigit((unsigned char)c))
				return -EINVAL;
			v = v << 4 | (unsigned)(isdigit((unsigned char)c) ? c - '0' : c - 'a' + 10);
		}
		if (*text++ != (i < 5 ? ':' : '\0'))
			return -EINVAL;
		m[i] = (uint8_t)v;
	}
	if (m[0] & 1 || !(m[0] | m[1] | m[2] | m[3] | m[4] | m[5]))
		return -EINVAL;
	memcpy(mac, m, 6);
	return 0;
}
