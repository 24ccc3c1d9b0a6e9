/* SPDX-License-Identifier: MIT
 * What every device is to the machine.
 */
#ifndef BELFRY_MACHINE_DEVICE_H
#define BELFRY_MACHINE_DEVICE_H

#include "base/base.h"

struct machine;
struct device;

/* Called on the main loop's thread while every vCPU is held. Any op may be NULL. */
struct device_ops {
	const char *type; /* "serial", "virtio-blk" */
	/* Back to the state at power-on. Also called once before the first start. */
	void (*reset)(struct device *d);
	/* vCPUs are about to be held or let go: stop or start what runs on other threads. */
	void (*pause)(struct device *d);
	void (*resume)(struct device *d);
	/* Free everything, the device too. */
	void (*destroy)(struct device *d);
};

/* Embedded in the device's own struct. */
struct device {
	const struct device_ops *ops;
	char name[32];           /* "disk0" */
	struct machine *machine; /* set by machine_add_device() */
	struct device *next;
	_Atomic bool complained; /* the log has said once what the guest did wrong */
};

/* Log a misuse by the guest once per device life. */
void device_complain(struct device *d, const char *fmt, ...) __printf(2, 3);

#endif
