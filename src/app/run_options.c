/* SPDX-License-Identifier: MIT
 * The command line of `belfry run`.
 */
#include "app/commands.h"
#include <ctype.h>
#include <net/if.h>

static const struct opt_choice accel_choices[] = {
	{ "auto", ACCEL_AUTO }, { "kvm", ACCEL_KVM }, { "soft", ACCEL_SOFT }, { NULL },
};
static const struct opt_choice irqchip_choices[] = {
	{ "kernel", IRQCHIP_KERNEL }, { "split", IRQCHIP_SPLIT }, { "user", IRQCHIP_USER }, { NULL },
};
static const struct opt_choice console_choices[] = {
	{ "serial", CONSOLE_SERIAL }, { "virtio", CONSOLE_VIRTIO }, { NULL },
};
static const struct opt_choice cache_choices[] = {
	{ "writeback", CACHE_WRITEBACK }, { "none", CACHE_NONE }, { "unsafe", CACHE_UNSAFE },
	{ NULL },
};
static const struct opt_choice notify_choices[] = {
	{ "ioeventfd", NOTIFY_IOEVENTFD }, { "exit", NOTIFY_EXIT }, { NULL },
};
static const struct opt_choice inject_choices[] = {
	{ "auto", INJECT_AUTO }, { "irqfd", INJECT_IRQFD }, { "msi", INJECT_MSI },
	{ "line", INJECT_LINE }, { NULL },
};
static const struct opt_choice log_choices[] = {
	{ "error", LOG_ERROR }, { "warn", LOG_WARN }, { "info", LOG_INFO }, { "debug", LOG_DEBUG },
	{ NULL },
};

static int check_pow2(const char *value, void *field, struct err *e)
{
	return is_pow2(*(unsigned *)field) ? 0 : err_set(e, -EINVAL, "must be a power of two");
}

static int check_serial(const char *value, void *field, struct err *e)
{
	for (const char *p = value; *p; p++)
		if (!isgraph((unsigned char)*p))
			return err_set(e, -EINVAL, "must be printable ASCII without spaces");
	return strlen(value) <= 20 ? 0 : err_set(e, -EINVAL, "must be 20 characters at most");
}

static int check_name(const char *value, void *field, struct err *e)
{
	for (const char *p = value; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
			return err_set(e, -EINVAL, "must be letters, digits, '.', '_' and '-'");
	return strlen(value) <= 23 ? 0 : err_set(e, -EINVAL, "must be 23 characters at most");
}

static int check_tap(const char *value, void *field, struct err *e)
{
	if (strlen(value) >= IFNAMSIZ || strchr(value, '/') || strchr(value, ' '))
		return err_set(e, -EINVAL, "must be an interface name, %d characters at most",
			       IFNAMSIZ - 1);
	return 0;
}

static int check_mac(const char *value, void *field, struct err *e)
{
	uint8_t mac[6];

	return mac_parse(value, mac) ?
		err_set(e, -EINVAL, "must be a unicast address such as 52:54:00:12:34:56") : 0;
}

/* [host]:port */
static bool is_endpoint(const char *s, size_t len)
{
	const char *colon = memrchr(s, ':', len);
	char port[8];
	uint64_t v;
	size_t n;

	if (!colon)
		return false;
	n = (size_t)(s + len - colon) - 1;
	if (!n || n >= sizeof(port))
		return false;
	memcpy(port, colon + 1, n);
	port[n] = '\0';
	return !number_parse(port, 1, 65535, &v);
}

static int check_hostfwd(const char *value, void *field, struct err *e)
{
	const char *from = value + 4, *to;

	if (strncmp(value, "tcp:", 4) && strncmp(value, "udp:", 4))
		goto bad;
	to = strchr(from, '-');
	if (to && is_endpoint(from, (size_t)(to - from)) && is_endpoint(to + 1, strlen(to + 1)))
		return 0;
bad:
	return err_set(e, -EINVAL, "must be tcp|udp:[HOST]:PORT-[GUEST]:PORT, such as "
		       "tcp:127.0.0.1:2222-:22");
}

static int check_mem(const char *value, void *field, struct err *e)
{
	return *(uint64_t *)field % 4096 ? err_set(e, -EINVAL, "must be a multiple of 4K") : 0;
}

static int check_irqchip(const char *value, void *field, struct err *e)
{
	if (*(int *)field == IRQCHIP_KERNEL)
		return 0;
	return err_set(e, -EINVAL, "not built in this version; use --irqchip kernel");
}

static int check_disk(const char *value, void *field, struct err *e)
{
	const struct disk_option *d = field;

	if (d->poll_us && !d->iothread)
		return err_set(e, -EINVAL, "poll needs iothread=on, as it spins that thread");
	return 0;
}

static int check_net(const char *value, void *field, struct err *e)
{
	const struct net_option *n = field;

	if (n->user == !!n->tap)
		return err_set(e, -EINVAL, "must be either user or tap=NAME");
	if (n->nr_hostfwd && !n->user)
		return err_set(e, -EINVAL, "hostfwd works with user only");
	return 0;
}

#define TRANSPORT_KEYS(OPTIONS)                                                                   \
	{ .name = "notify", .type = OPT_CHOICE, .offset = offsetof(OPTIONS, transport.notify),       \
	  .choices = notify_choices,                                                              \
	  .help = "How the guest's kick arrives. ioeventfd (default): the KVM half signals an "   \
		  "eventfd; exit: the vCPU leaves to the monitor, which signals it." },           \
	{ .name = "inject", .type = OPT_CHOICE, .offset = offsetof(OPTIONS, transport.inject),       \
	  .choices = inject_choices,                                                              \
	  .help = "How the device's call reaches the guest. irqfd: an eventfd with an MSI "       \
		  "route; msi: KVM_SIGNAL_MSI; line: INTx by KVM_IRQ_LINE, no MSI-X offered; "    \
		  "auto (default): the fastest there is." },                                      \
	{ .name = "transitional", .type = OPT_ONOFF,                                              \
	  .offset = offsetof(OPTIONS, transport.transitional),                                       \
	  .help = "Offer the legacy virtio interface (port BAR) besides the modern one. "         \
		  "Default off." }

static const struct opt disk_keys[] = {
	{ .name = "", .type = OPT_STRING, .metavar = "FILE",
	  .offset = offsetof(struct disk_option, file) },
	{ .name = "readonly", .type = OPT_FLAG, .offset = offsetof(struct disk_option, readonly),
	  .help = "Open the image for reading only; the guest sees a write-protected disk." },
	{ .name = "queues", .type = OPT_NUMBER, .metavar = "N", .min = 1, .max = 64,
	  .offset = offsetof(struct disk_option, queues),
	  .help = "Request queues, each with its own MSI-X vector. Default 1." },
	{ .name = "queue-size", .type = OPT_NUMBER, .metavar = "N", .min = 4, .max = 1024,
	  .offset = offsetof(struct disk_option, queue_size), .check = check_pow2,
	  .help = "Entries a queue, a power of two. Default 256." },
	{ .name = "iothread", .type = OPT_ONOFF, .offset = offsetof(struct disk_option, iothread),
	  .help = "Serve the disk on a thread of its own; off: in the main loop. Default on." },
	{ .name = "poll", .type = OPT_NUMBER, .metavar = "MICROSECONDS", .min = 0, .max = 1000000,
	  .offset = offsetof(struct disk_option, poll_us),
	  .help = "Longest time the I/O thread spins for more work before it sleeps. Default 0: "
		  "it sleeps at once." },
	{ .name = "cache", .type = OPT_CHOICE, .choices = cache_choices,
	  .offset = offsetof(struct disk_option, cache),
	  .help = "writeback (default): through the host's page cache, flushes go to the disk; "
		  "none: direct I/O past the page cache; unsafe: flushes are answered and "
		  "forgotten." },
	{ .name = "serial", .type = OPT_STRING, .metavar = "STR",
	  .offset = offsetof(struct disk_option, serial), .check = check_serial,
	  .help = "Serial number that the guest reads, up to 20 characters." },
	TRANSPORT_KEYS(struct disk_option),
	{ NULL },
};

static const struct opt net_keys[] = {
	{ .name = "user", .type = OPT_FLAG, .offset = offsetof(struct net_option, user),
	  .help = "User-mode network, no rights needed: the guest is 10.0.2.15, the host 10.0.2.2, "
		  "DNS 10.0.2.3." },
	{ .name = "tap", .type = OPT_STRING, .metavar = "NAME",
	  .offset = offsetof(struct net_option, tap), .check = check_tap,
	  .help = "The host's tap interface of this name; it is made if it does not exist." },
	{ .name = "hostfwd", .type = OPT_STRING, .metavar = "RULE",
	  .offset = offsetof(struct net_option, hostfwd), .check = check_hostfwd,
	  .max_count = RUN_MAX_HOSTFWD, .count_offset = offsetof(struct net_option, nr_hostfwd),
	  .help = "With user: forward a port of the host, as tcp:[HOST]:PORT-[GUEST]:PORT (or udp)." },
	{ .name = "mac", .type = OPT_STRING, .metavar = "ADDRESS",
	  .offset = offsetof(struct net_option, mac), .check = check_mac,
	  .help = "The guest's Ethernet address. Default 52:54:00:12:34:56 and on." },
	{ .name = "iothread", .type = OPT_ONOFF, .offset = offsetof(struct net_option, iothread),
	  .help = "Serve the network on a thread of its own. Default off." },
	TRANSPORT_KEYS(struct net_option),
	{ NULL },
};

static const struct disk_option disk_defaults = {
	.queues = 1, .queue_size = 256, .iothread = true,
};
static const struct net_option net_defaults = { 0 };

#define FIELD(f) .offset = offsetof(struct run_options, f)

static const struct opt run_opts[] = {
	{ .name = "--kernel", .type = OPT_STRING, .metavar = "FILE", FIELD(kernel), .required = true,
	  .help = "The guest's kernel: a Linux bzImage, or an ELF with a PVH entry." },
	{ .name = "--initrd", .type = OPT_STRING, .metavar = "FILE", FIELD(initrd),
	  .help = "Initial RAM disk." },
	{ .name = "--cmdline", .type = OPT_STRING, .metavar = "STR", FIELD(cmdline),
	  .help = "Kernel command line. Default: console=ttyS0 (or hvc0, see --console), and "
		  "root=/dev/vda if there are a disk and no initrd." },
	{ .name = "--disk", .type = OPT_GROUP, .metavar = "FILE[,KEY=VALUE…]", FIELD(disks),
	  .max_count = RUN_MAX_DISKS, .count_offset = offsetof(struct run_options, nr_disks),
	  .stride = sizeof(struct disk_option), .keys = disk_keys, .defaults = &disk_defaults,
	  .check = check_disk,
	  .help = "A virtio-blk disk from a raw image. Write a comma in FILE twice." },
	{ .name = "--net", .type = OPT_GROUP, .metavar = "user|tap=NAME[,KEY=VALUE…]", FIELD(nets),
	  .max_count = RUN_MAX_NETS, .count_offset = offsetof(struct run_options, nr_nets),
	  .stride = sizeof(struct net_option), .keys = net_keys, .defaults = &net_defaults,
	  .check = check_net, .help = "A virtio-net interface." },
	{ .name = "--cpus", .type = OPT_NUMBER, .metavar = "N", FIELD(cpus), .min = 1, .max = 255,
	  .help = "Virtual CPUs, 1 to 255. Default 1." },
	{ .name = "--mem", .type = OPT_SIZE, .metavar = "SIZE", FIELD(mem), .min = 2ull << 20,
	  .max = 1ull << 40, .check = check_mem,
	  .help = "Guest memory; the host gives it as the guest touches it. Default 512M." },
	{ .name = "--accel", .type = OPT_CHOICE, FIELD(accel), .choices = accel_choices,
	  .help = "The KVM half. kvm: the kernel's, whatever it is; soft: softkvm, KVM in user space; "
		  "auto (default): the kernel's if it has VT-x or SVM under it, else softkvm." },
	{ .name = "--irqchip", .type = OPT_CHOICE, FIELD(irqchip), .choices = irqchip_choices,
	  .check = check_irqchip,
	  .help = "Where the interrupt controllers live. kernel (default): all in the KVM half. "
		  "split and user are known, but not built in this version." },
	{ .name = "--console", .type = OPT_CHOICE, FIELD(console), .choices = console_choices,
	  .help = "What standard input and output are to the guest: the serial port (default), "
		  "or a virtio console. Ctrl-A x ends the machine, Ctrl-A Ctrl-A types Ctrl-A." },
	{ .name = "--rng", .type = OPT_ONOFF, FIELD(rng),
	  .help = "A virtio-rng device, fed by the host. Default on." },
	{ .name = "--debug-exit", .type = OPT_FLAG, FIELD(debug_exit),
	  .help = "A port (0xf4) by which the guest ends the machine with a code: 0 is success." },
	{ .name = "--name", .type = OPT_STRING, .metavar = "NAME", FIELD(name), .check = check_name,
	  .help = "Name of the machine in messages and thread names. Default belfry." },
	{ .name = "--log", .type = OPT_CHOICE, FIELD(log_level), .choices = log_choices,
	  .help = "Least important message to show on standard error. Default warn." },
	{ NULL },
};

static const struct run_options run_defaults = {
	.cpus = 1, .mem = 512ull << 20, .irqchip = IRQCHIP_KERNEL, .rng = true, .name = "belfry",
	.log_level = LOG_WARN,
};

const struct command run_table = {
	.name = "run",
	.summary = "run a guest",
	.description =
		"Builds a machine from the options, boots the kernel in it directly, connects "
		"standard input and output to its console, and stays until it ends. Everything on "
		"the command line, every file and the host's KVM are checked before anything "
		"starts. SIGTERM and SIGINT end the machine in order, SIGWINCH tells the guest the "
		"terminal's new size.",
	.opts = run_opts,
	.statuses = (const char *const[]){
		"0", "the guest powered off, or the operator ended the machine",
		"1", "the guest or the monitor failed",
		"2", "the command line, a file or the host does not permit to start", NULL },
	.examples = (const char *const[]){
		"belfry run --kernel vmlinuz --initrd initrd.img --cmdline 'console=ttyS0 quiet'",
		"A kernel and its initial RAM disk:",
		"belfry run --kernel vmlinuz --disk root.img,cache=none,queues=4 --cpus 4 --mem 2G",
		"From a disk, four CPUs:",
		"belfry run --kernel vmlinuz --initrd i.img --net user,hostfwd=tcp::2222-:22",
		"With a network, the guest's ssh at port 2222 of the host:",
		"belfry run --kernel vmlinuz --disk d.img,notify=exit,inject=msi",
		"A disk by the slower paths, to compare:", NULL },
	.size = sizeof(struct run_options),
	.defaults = &run_defaults,
};
