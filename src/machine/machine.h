/* SPDX-License-Identifier: MIT
 *
 * machine: one virtual machine on a KVM half. RAM, the region map and its
 * doorbells, the interrupt fabric, vCPU threads, boot and ACPI. The room's
 * public header.
 *
 * Threads: one main loop (the thread that calls machine_run()), one thread a
 * vCPU, and whatever I/O threads devices own. Locks, in the order they are
 * taken: a device's own lock → region map → interrupt fabric. Nothing holds a
 * lock across KVM_RUN, and no lock is taken to dispatch a port or MMIO access.
 */
#ifndef BELFRY_MACHINE_H
#define BELFRY_MACHINE_H

#include "base/base.h"
#include "kvmapi/kvmapi.h"

#include "machine/layout.h"
#include "machine/ram.h"
#include "machine/region.h"
#include "machine/irq.h"
#include "machine/device.h"
#include "machine/cpu.h"
#include "machine/boot.h"
#include "machine/acpi.h"

enum irqchip_mode { IRQCHIP_KERNEL, IRQCHIP_SPLIT, IRQCHIP_USER };

struct machine_config {
	const char *name;          /* for logs and thread names */
	unsigned cpus;             /* 1 to 255 */
	uint64_t mem;              /* bytes, a multiple of 4 KiB */
	enum irqchip_mode irqchip;
	unsigned max_routes;       /* 0: what the KVM half offers */
	enum log_level log_level;
	int log_fd;
};


/* Why machine_run() came back; also what the guest or the operator asks for. */
enum machine_outcome {
	MACHINE_RUNNING,
	MACHINE_POWEROFF, /* the guest powered off: success */
	MACHINE_RESET,    /* the guest asked for a reset; machine_run() does it and goes on */
	MACHINE_QUIT,     /* the operator asked to stop */
	MACHINE_FAILED,   /* the guest or the monitor cannot go on; the log says why */
};

struct machine {
	struct machine_config config;
	struct log log;
	struct loop *loop;          /* main loop */
	struct sys sys;
	struct vm vm;
	struct ram ram;
	struct region_map *map;
	struct irq_fabric *irq;
	struct cpu *cpus;           /* config.cpus of them */
	struct device *devices;     /* in order of creation */
	struct chips_state *power_on_chips; /* private */
	struct boot *boot;          /* what to load at start and at each reset; NULL: caller sets registers */
	_Atomic int request;        /* enum machine_outcome asked for; private */
	int exit_code;              /* set with MACHINE_FAILED/POWEROFF by debug-exit, 0 otherwise */
	uint64_t started_at;        /* clock_ns() of the last start or reset */
	bool started;
};

/*
 * Open the KVM half, check its capabilities, create the VM with its irqchip,
 * RAM, map, fabric and vCPUs (threads not yet running). On failure nothing is
 * left behind and *e has the line for the user.
 */
int machine_create(struct machine **out, const struct machine_config *c, const struct kvmapi *api,
		   struct err *e) __must_check;
/* Stops everything and destroys the devices, last created first. NULL is fine. */
void machine_destroy(struct machine *m);

/* Append to the wiring; the machine owns dev from here and calls its ops. Before machine_start(). */
void machine_add_device(struct machine *m, struct device *dev);

/*
 * Reset devices, load the boot images, set up the vCPUs and let them run.
 * boot may be NULL (a test that has set memory and registers itself).
 */
int machine_start(struct machine *m, struct boot *boot, struct err *e) __must_check;
/* Run the main loop until the machine ends. Handles guest resets by itself. */
enum machine_outcome machine_run(struct machine *m);

/* Ask for an outcome. Any thread, a vCPU's own too; the first request wins, but a reset gives way. */
void machine_request(struct machine *m, enum machine_outcome what);

/* Bring every vCPU out of the guest and hold it; and let them go on. Main loop's thread; nests not. */
void machine_pause(struct machine *m);
void machine_resume(struct machine *m);

#endif
