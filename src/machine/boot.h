/* SPDX-License-Identifier: MIT
 * Direct boot: a Linux bzImage by its 64-bit entry (Linux x86 boot protocol,
 * "64-bit BOOT PROTOCOL"), or an ELF by its PVH entry (XEN_ELFNOTE_PHYS32_ENTRY).
 */
#ifndef BELFRY_MACHINE_BOOT_H
#define BELFRY_MACHINE_BOOT_H

#include "base/base.h"

struct machine;
struct boot;

struct boot_config {
	const char *kernel;  /* path; required */
	const char *initrd;  /* path or NULL */
	const char *cmdline; /* or NULL */
};

/*
 * Open and check the images (type, size, entry, command line length against
 * what the kernel takes), nothing is copied yet; so a bad file is told before
 * anything starts. *e names the file, what is wrong and the remedy.
 */
int boot_open(struct boot **out, const struct boot_config *c, struct err *e) __must_check;
void boot_close(struct boot *b);
/*
 * Copy the images into RAM, build boot_params or hvm_start_info with the memory
 * map and RSDP, and set vCPU 0's registers. vCPUs held. Called at start and at
 * every reset, after acpi_build().
 */
int boot_load(struct boot *b, struct machine *m, struct err *e) __must_check;

#endif
