/* SPDX-License-Identifier: MIT
 *
 * memslots [SLOTS]: what KVM_SET_USER_MEMORY_REGION takes in a VM with so many slots (8000) of one
 * page each: making the last of them, then, in the middle, taking one out, putting it back and switching
 * its dirty log. Medians, in microseconds. On /dev/kvm as it is found: `belfry with-softkvm -- memslots`
 * measures softkvm.
 */
#include "base/base.h"
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define PAGE   4096ull
#define ROUNDS 501u

static int vm;
static uint8_t *mem;

static double set(unsigned id, uint64_t size, uint32_t flags)
{
	struct kvm_userspace_memory_region r = {
		.slot = id,
		.flags = flags,
		.guest_phys_addr = id * 2 * PAGE,
		.memory_size = size,
		.userspace_addr = (uintptr_t)mem + id * PAGE,
	};
	uint64_t t = clock_ns();

	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &r)) {
		perror("KVM_SET_USER_MEMORY_REGION");
		exit(1);
	}
	return (double)(clock_ns() - t) / 1e3;
}

static int order(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *v, unsigned n)
{
	qsort(v, n, sizeof(*v), order);
	return v[n / 2];
}

int main(int argc, char **argv)
{
	unsigned slots = argc > 1 ? (unsigned)atoi(argv[1]) : 8000, last;
	static double made[ROUNDS], out[ROUNDS], in[ROUNDS], log[ROUNDS];
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0) {
		perror("/dev/kvm");
		return 1;
	}
	mem = mmap(NULL, slots * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem == MAP_FAILED || !slots) {
		fprintf(stderr, "usage: memslots [SLOTS]\n");
		return 2;
	}
	for (unsigned i = 0; i < slots; i++)
		made[i % ROUNDS] = set(i, PAGE, 0);
	last = MIN(slots, ROUNDS);
	for (unsigned i = 0; i < ROUNDS; i++) {
		out[i] = set(slots / 2, 0, 0);
		in[i] = set(slots / 2, PAGE, 0);
		log[i] = set(slots / 2, PAGE, KVM_MEM_LOG_DIRTY_PAGES);
	}
	printf("%u slots: make the last %.1f us, take out %.1f, put back %.1f, log %.1f\n", slots, median(made, last),
	       median(out, ROUNDS), median(in, ROUNDS), median(log, ROUNDS));
	return 0;
}
