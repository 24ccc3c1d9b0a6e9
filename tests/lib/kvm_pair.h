/* SPDX-License-Identifier: MIT
 * The same calls on the kernel's KVM and on softkvm. A script runs once on each
 * side and says what it got; the two transcripts must be the same, line by line.
 */
#ifndef BELFRY_TESTS_KVM_PAIR_H
#define BELFRY_TESTS_KVM_PAIR_H

#include "softkvm/softkvm.h"

#define SIDE_VCPUS 4

struct side {
	struct kvmapi api;
	bool soft;
	int sys, vm;
	int vcpu[SIDE_VCPUS];
	struct kvm_run *run[SIDE_VCPUS];
	uint8_t *mem;	  /* 64 KiB, mapped, in no slot until a script says so */
	char *text;	  /* the transcript */
	size_t len, size;
};

#define SIDE_MEM 0x10000u

/* True if there is a /dev/kvm to compare with; else print why not. */
bool kvm_pair_possible(void);

/* Run script on both sides, each with a new system fd and VM; fail the test at the first line that differs. */
void kvm_pair_run(const char *name, void (*script)(struct side *s, uint64_t seed), uint64_t seed);

/*
 * main() of a test that is a list of scripts and tests of softkvm alone. An argument picks some by
 * name (* and ? match). Scripts run with seed 0, then with so many random seeds, always the same
 * ones; they are skipped without a /dev/kvm.
 */
struct pair_script {
	const char *name;
	void (*run)(struct side *s, uint64_t seed);
	unsigned seeds;
};
struct CMUnitTest;
int kvm_pair_main(int argc, char **argv, const struct pair_script *scripts, size_t n_scripts,
		  const struct CMUnitTest *alone, size_t n_alone);

/* One side alone: a context, system fd and VM; and away with them. */
void side_begin(struct side *s, bool soft);
void side_end(struct side *s);

/* Add a line. */
void say(struct side *s, const char *fmt, ...) __printf(2, 3);
/* Say name and result: 0 or positive as it is, errors by name. */
long say_result(struct side *s, const char *name, long r);
void say_hex(struct side *s, const char *name, const void *p, size_t len);

int side_ioctl(struct side *s, int fd, unsigned long request, void *arg);
int side_ioctl_val(struct side *s, int fd, unsigned long request, unsigned long arg);
#define vm_do(s, req, arg)     say_result(s, #req, side_ioctl(s, (s)->vm, req, arg))
#define vm_do_val(s, req, val) say_result(s, #req, side_ioctl_val(s, (s)->vm, req, val))
#define cpu_do(s, i, req, arg) say_result(s, #req, side_ioctl(s, (s)->vcpu[i], req, arg))

/* KVM_ENABLE_CAP of the VM, said. */
void vm_enable(struct side *s, unsigned cap, uint64_t arg);

/* What both know, so that the processors are alike: one leaf with the family and base features. */
int side_set_cpuid(struct side *s, int fd);
/* vCPU number i with this id and both sides' smallest CPUID; its local APIC enabled if there is one. */
void side_add_vcpu(struct side *s, unsigned i, unsigned id);
/* A fresh VM in place of the one there is (its vCPUs are closed). */
void side_new_vm(struct side *s);

/* Say what the chips hold, and the local APICs (without what time changes). */
void say_chips(struct side *s);
void say_lapic(struct side *s, unsigned i);

/* xorshift: the same on both sides. */
uint64_t next_random(uint64_t *state);

#endif
