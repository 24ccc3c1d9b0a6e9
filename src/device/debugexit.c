/* SPDX-License-Identifier: MIT
 * A port that ends the machine: what test guests use to say how it went.
 */
#include "device/device.h"
#include <stdatomic.h>
#include <stdlib.h>

struct debugexit {
	struct device dev;
	struct region region;
	_Atomic bool done; /* the first vCPU to write decides */
};

static void debugexit_write(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	struct debugexit *d = arg;
	struct machine *m = d->dev.machine;

	if (atomic_exchange(&d->done, true))
		return;
	m->exit_code = (int)(uint32_t)value;
	machine_request(m, m->exit_code ? MACHINE_FAILED : MACHINE_POWEROFF);
}

static const struct region_ops debugexit_region_ops = {
	.write = debugexit_write, .min_len = 1, .max_len = 4,
};

static void debugexit_reset(struct device *dev)
{
	struct debugexit *d = container_of(dev, struct debugexit, dev);

	atomic_store(&d->done, false);
	dev->machine->exit_code = 0;
}

static void debugexit_destroy(struct device *dev)
{
	struct debugexit *d = container_of(dev, struct debugexit, dev);

	region_del(dev->machine->map, &d->region);
	free(d);
}

static const struct device_ops debugexit_ops = {
	.type = "debug-exit", .reset = debugexit_reset, .destroy = debugexit_destroy,
};

int debugexit_create(struct machine *m)
{
	struct debugexit *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return -ENOMEM;
	d->dev = (struct device){ .ops = &debugexit_ops, .name = "debugexit", .machine = m };
	d->region = (struct region){
		.name = "debug-exit", .space = SPACE_PIO, .base = LAYOUT_PORT_DEBUGEXIT, .size = 4,
		.enabled = true, .ops = &debugexit_region_ops, .arg = d,
	};
	r = region_add(m->map, &d->region);
	if (r) {
		free(d);
		return r;
	}
	machine_add_device(m, &d->dev);
	return 0;
}
