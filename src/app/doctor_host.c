/* SPDX-License-Identifier: MIT
 * doctor: what the host has besides KVM.
 */
#include "app/doctor.h"
#include <liburing.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#include <fcntl.h>

struct host {
	struct report *r;
	const char *sysfs, *procfs;
};

/* First line of root/path without its newline. False if it cannot be read. */
static bool read_line(const char *root, const char *path, char *buf, size_t size)
{
	char full[300];
	FILE *f;

	snprintf(full, sizeof(full), "%s/%s", root, path);
	f = fopen(full, "re");
	if (!f)
		return false;
	if (!fgets(buf, (int)size, f))
		buf[0] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	fclose(f);
	return true;
}

/* A module parameter as a boolean: "Y" or "1". -1 if there is none. */
static int read_bool(struct host *h, const char *path)
{
	char line[32];

	if (!read_line(h->sysfs, path, line, sizeof(line)))
		return -1;
	return line[0] == 'Y' || line[0] == 'y' || line[0] == '1';
}

static void check_parameter(struct host *h, const char *name, const char *intel, const char *amd,
			    const char *purpose, const char *remedy)
{
	int v = read_bool(h, intel);
	struct finding *f;

	if (v < 0)
		v = read_bool(h, amd);
	if (v < 0) {
		f = report_add(h->r, FINDING_LACKS, name, "no (neither kvm_intel nor kvm_amd is loaded)");
	} else {
		f = report_add(h->r, v ? FINDING_OK : FINDING_LACKS, name, "%s", v ? "yes" : "no");
		if (!v)
			finding_remedy(f, "%s", remedy);
	}
	finding_purpose(f, purpose);
}

/* VT-d posting: bit 59 (PI) of the unit's capability register (VT-d "Capability Register"). */
static void check_vtd_posting(struct host *h)
{
	char line[64];

	if (!read_line(h->sysfs, "class/iommu/dmar0/intel-iommu/cap", line, sizeof(line)))
		report_add(h->r, FINDING_INFO, "VT-d posted interrupts", "no VT-d unit");
	else
		report_add(h->r, FINDING_INFO, "VT-d posted interrupts", "%s",
			   strtoull(line, NULL, 16) >> 59 & 1 ? "yes" : "no");
}

static void check_virtualization(struct host *h)
{
	char line[64];

	h->r->section = "Interrupts and nesting";
	check_parameter(h, "posted interrupts (APICv, AVIC)",
			"module/kvm_intel/parameters/enable_apicv",
			"module/kvm_amd/parameters/avic",
			"calls to a running vCPU without an exit",
			"load kvm_intel with enable_apicv=1 or kvm_amd with avic=1, if the processor "
			"can");
	check_vtd_posting(h);
	check_parameter(h, "nested virtualization", "module/kvm_intel/parameters/nested",
			"module/kvm_amd/parameters/nested", "guests that run guests",
			"load kvm_intel or kvm_amd with nested=1");
	if (read_line(h->sysfs, "module/kvm/parameters/halt_poll_ns", line, sizeof(line)))
		report_add(h->r, FINDING_INFO, "halt polling", "up to %s ns", line);
}

static void check_memory(struct host *h)
{
	char line[128];
	const char *on;

	h->r->section = "Memory";
	if (!read_line(h->sysfs, "kernel/mm/transparent_hugepage/shmem_enabled", line, sizeof(line))) {
		report_add(h->r, FINDING_LACKS, "huge pages for guest memory",
			   "the kernel has no transparent huge pages");
	} else {
		on = strchr(line, '[');
		if (on && (!strncmp(on, "[never]", 7) || !strncmp(on, "[deny]", 6)))
			finding_remedy(report_add(h->r, FINDING_LACKS, "huge pages for guest memory",
						  "off (%s)", line),
				       "write advise to /sys/kernel/mm/transparent_hugepage/"
				       "shmem_enabled for fewer TLB misses");
		else
			report_add(h->r, FINDING_OK, "huge pages for guest memory", "%s", line);
	}
	if (read_line(h->sysfs, "kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", line,
		      sizeof(line)))
		report_add(h->r, FINDING_INFO, "reserved 2 MiB pages", "%s", line);
}

static void check_limit(struct host *h, const char *name, int resource, uint64_t want,
			const char *purpose, const char *remedy)
{
	struct rlimit l;
	struct finding *f;

	if (getrlimit((__rlimit_resource_t)resource, &l)) {
		report_add(h->r, FINDING_INFO, name, "unknown");
		return;
	}
	if (l.rlim_cur == RLIM_INFINITY)
		f = report_add(h->r, FINDING_OK, name, "unlimited");
	else
		f = report_add(h->r, l.rlim_cur >= want ? FINDING_OK : FINDING_LACKS, name, "%llu",
			       (unsigned long long)l.rlim_cur);
	finding_purpose(f, purpose);
	if (l.rlim_cur < want)
		finding_remedy(f, "%s", remedy);
}

static void check_limits(struct host *h)
{
	h->r->section = "Limits";
	check_limit(h, "open files (RLIMIT_NOFILE)", RLIMIT_NOFILE, 1024,
		    "two eventfds a queue, one a vector", "raise it: ulimit -n 4096");
	check_limit(h, "locked memory (RLIMIT_MEMLOCK)", RLIMIT_MEMLOCK, 8ull << 20,
		    "io_uring on older kernels, assigned devices", "raise it: ulimit -l 65536");
	report_add(h->r, FINDING_INFO, "processors on line", "%ld", sysconf(_SC_NPROCESSORS_ONLN));
}

static void check_io_uring(struct host *h)
{
	static const char *const disabled[] = { "0 (allowed)", "1 (only for a group)", "2 (for nobody)" };
	struct io_uring ring;
	struct finding *f;
	char line[32];
	int r;

	h->r->section = "Input and output";
	if (read_line(h->procfs, "sys/kernel/io_uring_disabled", line, sizeof(line)))
		report_add(h->r, FINDING_INFO, "kernel.io_uring_disabled", "%s",
			   line[0] >= '0' && line[0] <= '2' ? disabled[line[0] - '0'] : line);
	r = io_uring_queue_init(2, &ring, 0);
	if (!r) {
		io_uring_queue_exit(&ring);
		f = report_add(h->r, FINDING_OK, "io_uring", "works");
	} else {
		f = report_add(h->r, FINDING_LACKS, "io_uring", "refused: %s", strerror(-r));
		finding_remedy(f, "disks use threads instead; %s",
			       r == -ENOSYS ? "a kernel with io_uring, or a seccomp filter that "
					      "permits it, is faster" :
			       "set the sysctl kernel.io_uring_disabled to 0 or permit it in the "
			       "seccomp filter");
	}
	finding_purpose(f, "disk I/O");
}

static void check_node(struct host *h, const char *path, const char *purpose, const char *remedy)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	struct finding *f;

	if (fd >= 0) {
		close(fd);
		f = report_add(h->r, FINDING_OK, path, "can be opened");
	} else {
		f = report_add(h->r, FINDING_LACKS, path, "%s", strerror(errno));
		finding_remedy(f, "%s", remedy);
	}
	finding_purpose(f, purpose);
}

/* True if the word stands in the list, whole. */
static bool has_word(const char *list, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = list; (p = strstr(p, word)); p += len)
		if ((p == list || p[-1] == ' ') && (!p[len] || p[len] == ' '))
			return true;
	return false;
}

static void check_cpu(struct host *h)
{
	static const struct {
		const char *flag, *purpose;
	} flags[] = {
		{ "vmx", "Intel's virtualization" }, { "svm", "AMD's virtualization" },
		{ "x2apic", "guests' x2APIC at the host's speed" },
		{ "tsc_deadline_timer", "precise timers" }, { "constant_tsc", "a steady TSC" },
		{ "nonstop_tsc", "a TSC that does not stop in sleep" },
	};
	char line[8192], path[300], model[160] = "unknown";
	FILE *f;

	h->r->section = "Processor";
	snprintf(path, sizeof(path), "%s/cpuinfo", h->procfs);
	f = fopen(path, "re");
	if (!f) {
		report_add(h->r, FINDING_INFO, "cpuinfo", "cannot be read: %s", strerror(errno));
		return;
	}
	while (fgets(line, sizeof(line), f)) {
		char *value = strchr(line, ':');

		line[strcspn(line, "\n")] = '\0';
		if (!value)
			continue;
		value += value[1] == ' ' ? 2 : 1;
		if (!strncmp(line, "model name", 10))
			snprintf(model, sizeof(model), "%.150s", value);
		if (strncmp(line, "flags", 5))
			continue;
		report_add(h->r, FINDING_INFO, "model", "%s", model);
		report_add(h->r, FINDING_INFO, "runs in a virtual machine", "%s",
			   has_word(value, "hypervisor") ? "yes" : "no");
		for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
			finding_purpose(report_add(h->r, FINDING_INFO, flags[i].flag, "%s",
						   has_word(value, flags[i].flag) ? "yes" : "no"),
					flags[i].purpose);
		break;
	}
	fclose(f);
}

void doctor_host(struct report *r, const char *sysfs, const char *procfs)
{
	struct host h = { .r = r, .sysfs = sysfs, .procfs = procfs };

	check_virtualization(&h);
	check_cpu(&h);
	check_memory(&h);
	check_io_uring(&h);
	check_node(&h, "/dev/net/tun", "--net tap=",
		   "load the tun module and give the user the node, or use --net user");
	check_node(&h, "/dev/vhost-net", "networks served in the kernel", "load the vhost_net module");
	check_node(&h, "/dev/vhost-vsock", "sockets to the guest served in the kernel",
		   "load the vhost_vsock module");
	check_limits(&h);
}
