/* SPDX-License-Identifier: MIT
 *
 * startup [RUNS] BELFRY: how long from starting the process to the guest's first
 * instruction, and how much memory the monitor itself takes, with one vCPU, one
 * disk and one network card.
 *
 * The guest's first instructions write a byte to the serial port. The time runs
 * from just before the process is made until that byte comes out of the
 * monitor's standard output. Beside it, in turn, a process that makes the bare
 * KVM calls for the same guest (VM, irqchip, PIT, memory, vCPU, CPUID,
 * registers, KVM_RUN) and nothing else: what KVM itself takes. Medians.
 *
 * Memory: resident pages of the monitor that are not guest RAM, once the guest
 * runs; and the part of it that is private (not shared libraries' file pages).
 */
#include "kvmapi/kvmapi.h"
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MEM     (512ull << 20)
#define ENTRY   0x100000u
#define MAX_RUNS     200

extern char **environ;

/* mov dx,0x3f8; mov al,'B'; out dx,al; hlt; jmp -3: the same bytes in 16 and 32 bits but for the first. */
static const uint8_t code32[] = { 0x66, 0xba, 0xf8, 0x03, 0xb0, 'B', 0xee, 0xf4, 0xeb, 0xfd };
static const uint8_t code16[] = { 0xba, 0xf8, 0x03, 0xb0, 'B', 0xee, 0xf4, 0xeb, 0xfd };

static void die(const char *what)
{
	perror(what);
	exit(2);
}

/* An ELF with the PVH entry and nothing else. */
static void write_kernel(const char *path)
{
	struct {
		uint8_t ident[16];
		uint16_t type, machine;
		uint32_t version;
		uint64_t entry, phoff, shoff;
		uint32_t flags;
		uint16_t ehsize, phentsize, phnum, shentsize, shnum, shstrndx;
		struct {
			uint32_t type, flags;
			uint64_t offset, vaddr, paddr, filesz, memsz, align;
		} ph[2];
		uint32_t namesz, descsz, note_type;
		char name[4];
		uint32_t desc;
		uint8_t code[16];
	} __attribute__((packed)) elf = {
		.ident = { 0x7f, 'E', 'L', 'F', 2, 1, 1 },
		.type = 2, .machine = 62, .version = 1, .entry = ENTRY,
		.phoff = 64, .ehsize = 64, .phentsize = 56, .phnum = 2,
		.namesz = 4, .descsz = 4, .note_type = 18, .name = "Xen", .desc = ENTRY,
	};
	uint64_t note = offsetof(__typeof__(elf), namesz), code = offsetof(__typeof__(elf), code);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	elf.ph[0].type = 4; /* PT_NOTE */
	elf.ph[0].offset = note;
	elf.ph[0].filesz = elf.ph[0].memsz = 20;
	elf.ph[0].align = 4;
	elf.ph[1].type = 1; /* PT_LOAD */
	elf.ph[1].flags = 5;
	elf.ph[1].offset = code;
	elf.ph[1].vaddr = elf.ph[1].paddr = ENTRY;
	elf.ph[1].filesz = elf.ph[1].memsz = sizeof(code32);
	memcpy(elf.code, code32, sizeof(code32));
	if (fd < 0 || write(fd, &elf, sizeof(elf)) != sizeof(elf))
		die(path);
	close(fd);
}

/* What KVM itself takes. Ends when its standard output's reader has had enough. */
static int raw(void)
{
	struct kvmapi api = { &dev_kvm_ops, NULL };
	struct kvm_cpuid2 *cpuid;
	struct kvm_regs regs = { .rflags = 2 };
	struct kvm_sregs sregs;
	struct sys s;
	struct vm vm;
	struct vcpu v;
	struct err e;
	void *ram;

	if (sys_open(&s, &api, &e) || vm_create(&vm, &s) ||
	    vm_set_identity_map_addr(&vm, 0xfffbc000) || vm_set_tss_addr(&vm, 0xfffbd000) ||
	    vm_create_irqchip(&vm) || vm_create_pit2(&vm, 0))
		die("KVM");
	ram = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ram == MAP_FAILED || vm_set_memory(&vm, 0, 0, MEM, ram, 0) || vcpu_open(&v, &vm, 0) ||
	    sys_supported_cpuid(&s, &cpuid) || vcpu_set_cpuid(&v, cpuid))
		die("KVM");
	memcpy((char *)ram + 0x1000, code16, sizeof(code16));
	if (vcpu_get_sregs(&v, &sregs))
		die("KVM_GET_SREGS");
	sregs.cs.base = sregs.cs.selector = 0;
	regs.rip = 0x1000;
	if (vcpu_set_sregs(&v, &sregs) || vcpu_set_regs(&v, &regs) || vcpu_run(&v) ||
	    v.run->exit_reason != KVM_EXIT_IO)
		die("KVM_RUN");
	if (write(1, "B", 1) != 1)
		return 1;
	pause();
	return 0;
}

struct memory {
	uint64_t rss, private; /* KiB, without guest RAM */
};

static struct memory own_memory(pid_t pid)
{
	char path[64], line[512], name[256] = "";
	struct memory m = { 0 };
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	f = fopen(path, "r");
	if (!f)
		die(path);
	while (fgets(line, sizeof(line), f)) {
		unsigned long a, b;
		uint64_t kib;

		if (sscanf(line, "%lx-%lx", &a, &b) == 2) {
			name[0] = '\0';
			(void)!sscanf(line, "%*s %*s %*s %*s %*s %255[^\n]", name);
		} else if (!strstr(name, "belfry-ram")) {
			if (sscanf(line, "Rss: %lu kB", &kib) == 1)
				m.rss += kib;
			else if (sscanf(line, "Private_Clean: %lu kB", &kib) == 1 ||
				 sscanf(line, "Private_Dirty: %lu kB", &kib) == 1)
				m.private += kib;
		}
	}
	fclose(f);
	return m;
}

/* Nanoseconds from before the spawn to the first byte out. */
static uint64_t once(char *const argv[], struct memory *memory)
{
	posix_spawn_file_actions_t fa;
	uint64_t t0, t1;
	int out[2], status;
	pid_t pid;
	char c;

	if (pipe2(out, O_CLOEXEC))
		die("pipe");
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&fa, out[1], 1);
	t0 = clock_ns();
	if (posix_spawn(&pid, argv[0], &fa, NULL, argv, environ))
		die(argv[0]);
	close(out[1]);
	if (read(out[0], &c, 1) != 1 || c != 'B') {
		fprintf(stderr, "startup: %s ended without its guest's word\n", argv[0]);
		exit(1);
	}
	t1 = clock_ns();
	if (memory) {
		usleep(100000); /* settled: the guest has halted */
		*memory = own_memory(pid);
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	close(out[0]);
	posix_spawn_file_actions_destroy(&fa);
	return t1 - t0;
}

static int by_value(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static double median_ms(uint64_t *v, unsigned n)
{
	qsort(v, n, sizeof(*v), by_value);
	return (double)v[n / 2] / 1e6;
}

int main(int argc, char **argv)
{
	static uint64_t bare[MAX_RUNS], full[MAX_RUNS], rss[MAX_RUNS], priv[MAX_RUNS];
	char dir[] = "/tmp/belfry-startup.XXXXXX", kernel[64], disk[64];
	uint64_t runs = 15;
	double a, b;
	int fd;

	if (argc == 2 && !strcmp(argv[1], "--raw"))
		return raw();
	if (argc < 2 || argc > 3 || (argc == 3 && number_parse(argv[1], 3, MAX_RUNS, &runs))) {
		fprintf(stderr, "usage: startup [RUNS (3 to %d)] BELFRY\n", MAX_RUNS);
		return 2;
	}
	if (!mkdtemp(dir))
		die(dir);
	snprintf(kernel, sizeof(kernel), "%s/kernel", dir);
	snprintf(disk, sizeof(disk), "%s/disk", dir);
	write_kernel(kernel);
	fd = open(disk, O_WRONLY | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, 64 << 20))
		die(disk);
	close(fd);

	char *const raw_argv[] = { "/proc/self/exe", "--raw", NULL };
	char *const full_argv[] = {
		argv[argc - 1], "run", "--accel", "kvm", "--kernel", kernel, "--disk", disk,
		"--net", "user", "--cpus", "1", "--mem", "512M", NULL,
	};

	(void)once(raw_argv, NULL);
	(void)once(full_argv, NULL);
	for (unsigned i = 0; i < runs; i++) {
		struct memory m;

		bare[i] = once(raw_argv, NULL);
		full[i] = once(full_argv, &m);
		rss[i] = m.rss;
		priv[i] = m.private;
	}
	unlink(kernel);
	unlink(disk);
	rmdir(dir);
	a = median_ms(bare, (unsigned)runs);
	b = median_ms(full, (unsigned)runs);
	qsort(rss, runs, sizeof(*rss), by_value);
	qsort(priv, runs, sizeof(*priv), by_value);
	printf("start to the guest's first instruction, median of %u, in turn:\n", (unsigned)runs);
	printf("  bare KVM calls  %7.2f ms\n", a);
	printf("  belfry run      %7.2f ms   (%.2f ms beyond KVM itself)\n", b, b - a);
	printf("memory of the monitor without guest RAM, 1 vCPU, 1 disk, 1 network card:\n");
	printf("  resident        %7.2f MiB  of it private %.2f MiB\n", (double)rss[runs / 2] / 1024,
	       (double)priv[runs / 2] / 1024);
	return 0;
}
