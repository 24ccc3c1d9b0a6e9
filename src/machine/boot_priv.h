/* SPDX-License-Identifier: MIT
 * Between boot.c and the two kinds of kernels it knows.
 */
#ifndef BELFRY_MACHINE_BOOT_PRIV_H
#define BELFRY_MACHINE_BOOT_PRIV_H

#include "machine/machine.h"
#include <asm/bootparam.h>
#include <elf.h>

#define BOOT_MAX_SEGMENTS 128
#define BOOT_MAX_RANGES   8
#define BOOT_CMDLINE_MAX  0xffffu /* without the terminating 0: up to 30000h */

#define BOOT_RAM          1 /* e820 and PVH memory types */
#define BOOT_RESERVED     2

/* An open image file. */
struct image {
	int fd;
	const char *path;
	uint64_t size;
};

/* A kernel that has been checked. It is checked again each time it is loaded. */
struct linux_kernel {
	struct setup_header header;
	uint64_t payload_off, payload_len; /* protected-mode code in the file */
};

struct pvh_kernel {
	uint32_t entry;
	unsigned nr_segments;
	Elf64_Phdr segment[BOOT_MAX_SEGMENTS]; /* PT_LOAD only, not empty */
};

struct boot {
	struct image kernel, initrd; /* initrd.fd -1: none */
	char *cmdline;
};

struct boot_range {
	gpa_t addr;
	uint64_t size;
	uint32_t type;
};

/* Read all len bytes at off into buf (which may be guest memory). A short file is "truncated". */
int image_read(const struct image *img, uint64_t off, void *buf, uint64_t len,
	       struct err *e) __must_check;
/* The guest's memory map, in order; returns how many ranges. */
unsigned boot_memory_map(const struct ram *ram, struct boot_range *out);
/*
 * Copy the initrd as high as possible into low memory, below `limit` and not
 * below `floor`. *gpa: where. Only if there is one.
 */
int boot_load_initrd(const struct boot *b, struct machine *m, uint64_t floor, uint64_t limit,
		     gpa_t *gpa, struct err *e) __must_check;
int boot_load_cmdline(const struct boot *b, struct machine *m, struct err *e) __must_check;

/* A flat segment for kvm_sregs. */
struct kvm_segment boot_segment(uint16_t selector, bool code, bool long_mode);
/* Set the registers of vCPU 0 from these (the other special registers stay). */
int boot_set_cpu(struct machine *m, const struct kvm_sregs *s, const struct kvm_regs *r,
		 struct err *e) __must_check;

/* True if the first bytes of the file look like one. */
bool linux_probe(const struct image *img);
bool pvh_probe(const struct image *img);
int linux_check(struct linux_kernel *k, const struct image *img, struct err *e) __must_check;
int pvh_check(struct pvh_kernel *k, const struct image *img, struct err *e) __must_check;
int linux_load(const struct linux_kernel *k, const struct boot *b, struct machine *m,
	       struct err *e) __must_check;
int pvh_load(const struct pvh_kernel *k, const struct boot *b, struct machine *m,
	     struct err *e) __must_check;

#endif
