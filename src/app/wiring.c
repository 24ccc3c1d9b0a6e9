/* SPDX-License-Identifier: MIT */
#include "app/wiring.h"
#include "device/device.h"
#include "virtio/virtio.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/*
 * Something a device uses and that must outlive it: the machine destroys
 * devices last made first, so a resource is made before its device.
 */
struct resource {
	struct device dev;
	void (*free)(void *object);
	void *object;
};

static void resource_destroy(struct device *d)
{
	struct resource *r = container_of(d, struct resource, dev);

	r->free(r->object);
	free(r);
}

static const struct device_ops resource_ops = { .type = "resource", .destroy = resource_destroy };

/* Hand object to the machine, in any case: if that fails it is freed at once. */
static int own(struct wiring *w, const char *name, void (*free_object)(void *), void *object)
{
	struct resource *r = calloc(1, sizeof(*r));

	if (!r) {
		free_object(object);
		return -ENOMEM;
	}
	r->dev.ops = &resource_ops;
	snprintf(r->dev.name, sizeof(r->dev.name), "%s", name);
	r->free = free_object;
	r->object = object;
	machine_add_device(w->machine, &r->dev);
	return 0;
}

/* ---- parts ----------------------------------------------------------- */

static void free_console(void *object)
{
	console_destroy(object);
}

static void quit(void *arg)
{
	machine_request(arg, MACHINE_QUIT);
}

static int make_console(struct wiring *w, struct err *e)
{
	int r = console_create(&w->console, w->machine->loop, STDIN_FILENO, STDOUT_FILENO, quit,
			       w->machine, e);

	if (r)
		return r;
	r = own(w, "console", free_console, w->console);
	if (r)
		w->console = NULL;
	return r ? err_set(e, r, "out of memory") : 0;
}

static int made(const char *what, int r, struct err *e)
{
	return r ? err_set(e, r, "cannot make the %s: %s", what, strerror(-r)) : 0;
}

static int make_bus(struct wiring *w, struct err *e)
{
	return made("PCI bus", pci_bus_create(&w->bus, w->machine), e);
}

static int make_serial(struct wiring *w, struct err *e)
{
	bool mine = w->options->console == CONSOLE_SERIAL;

	return made("serial port", serial_create(w->machine, mine ? w->console : NULL), e);
}

static int make_i8042(struct wiring *w, struct err *e)
{
	return made("keyboard controller", i8042_create(w->machine), e);
}

static int make_rtc(struct wiring *w, struct err *e)
{
	return made("real-time clock", rtc_create(w->machine), e);
}

static int make_pm(struct wiring *w, struct err *e)
{
	return made("ACPI fixed hardware", pm_create(w->machine), e);
}

static int make_debugexit(struct wiring *w, struct err *e)
{
	return w->options->debug_exit ? made("debug exit", debugexit_create(w->machine), e) : 0;
}

static struct virtio_options virtio_options(const struct transport_option *t)
{
	return (struct virtio_options){
		.notify = (enum notify_path)t->notify,
		.inject = (enum inject_path)t->inject,
		.transitional = t->transitional,
	};
}

static int make_disk(struct wiring *w, unsigned i, struct err *e)
{
	const struct disk_option *d = &w->options->disks[i];
	struct blk_config c = {
		.block = w->images[i], .queues = d->queues, .queue_size = (uint16_t)d->queue_size,
		.iothread = d->iothread, .poll_ns = d->poll_us * 1000ull, .serial = d->serial,
		.o = virtio_options(&d->transport),
	};
	char name[16];
	int r;

	snprintf(name, sizeof(name), "disk%u", i);
	r = virtio_blk_create(w->machine, w->bus, name, &c, e);
	if (!r)
		w->images[i] = NULL;
	return r;
}

static int make_disks(struct wiring *w, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < w->options->nr_disks && !r; i++)
		r = make_disk(w, i, e);
	return r;
}

static int make_net_backend(struct net **out, struct loop *l, void *arg, struct err *e)
{
	const struct net_option *n = arg;
	struct net_user_config c = { .hostfwd = n->hostfwd };

	return n->user ? net_user_create(out, l, &c, e) : net_tap_create(out, l, n->tap, e);
}

static int make_net(struct wiring *w, unsigned i, struct err *e)
{
	struct net_option n = w->options->nets[i];
	struct net_config c = {
		.create = make_net_backend, .arg = &n, .iothread = n.iothread,
		.mac = { 0x52, 0x54, 0x00, 0x12, 0x34, (uint8_t)(0x56 + i) },
		.o = virtio_options(&n.transport),
	};
	char name[16];
	int r = n.mac ? mac_parse(n.mac, c.mac) : 0; /* checked with the options */

	snprintf(name, sizeof(name), "net%u", i);
	return r ? err_set(e, r, "bad address %s", n.mac)
		 : virtio_net_create(w->machine, w->bus, name, &c, e);
}

static int make_nets(struct wiring *w, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < w->options->nr_nets && !r; i++)
		r = make_net(w, i, e);
	return r;
}

static int make_virtio_console(struct wiring *w, struct err *e)
{
	const struct console_config c = { .console = w->console };

	return w->options->console == CONSOLE_VIRTIO ?
		virtio_console_create(w->machine, w->bus, "console0", &c, e) : 0;
}

static int make_rng(struct wiring *w, struct err *e)
{
	const struct rng_config c = { .o.inject = INJECT_AUTO };

	return w->options->rng ? virtio_rng_create(w->machine, w->bus, "rng0", &c, e) : 0;
}

/* Everything a machine has, in the order it is made; it goes in the other direction. */
static int (*const parts[])(struct wiring *w, struct err *e) = {
	make_console, make_bus, make_serial, make_i8042, make_rtc, make_pm, make_debugexit,
	make_disks, make_nets, make_virtio_console, make_rng,
};

/* ---- the whole ------------------------------------------------------- */

/* What boots without the user saying how. The caller frees it. */
static char *default_cmdline(const struct run_options *o)
{
	const char *console = o->console == CONSOLE_SERIAL ? "console=ttyS0" : "console=hvc0";
	bool disk = o->nr_disks && !o->initrd;
	char *s;

	if (asprintf(&s, "%s%s%s", console, disk ? " root=/dev/vda" : "",
		     disk ? o->disks[0].readonly ? " ro" : " rw" : "") < 0)
		return NULL;
	return s;
}

static int open_boot(struct wiring *w, struct err *e)
{
	const struct run_options *o = w->options;
	char *made_up = o->cmdline ? NULL : default_cmdline(o);
	struct boot_config c = {
		.kernel = o->kernel, .initrd = o->initrd,
		.cmdline = o->cmdline ? o->cmdline : made_up,
	};
	int r = c.cmdline ? boot_open(&w->boot, &c, e) : err_set(e, -ENOMEM, "out of memory");

	free(made_up);
	return r;
}

int wiring_open(struct wiring *w, const struct run_options *o, struct err *e)
{
	int r;

	*w = (struct wiring){ .options = o };
	r = open_boot(w, e);
	for (unsigned i = 0; i < o->nr_disks && !r; i++) {
		const struct disk_option *d = &o->disks[i];
		struct block_config c = {
			.path = d->file, .readonly = d->readonly,
			.direct = d->cache == CACHE_NONE, .no_flush = d->cache == CACHE_UNSAFE,
		};

		r = block_open(&w->images[i], &c, e);
	}
	return r;
}

int wiring_build(struct wiring *w, const struct kvmapi *api, struct err *e)
{
	const struct run_options *o = w->options;
	struct machine_config c = {
		.name = o->name, .cpus = o->cpus, .mem = o->mem,
		.irqchip = (enum irqchip_mode)o->irqchip,
		.log_level = (enum log_level)o->log_level, .log_fd = STDERR_FILENO,
	};
	int r = machine_create(&w->machine, &c, api, e);

	for (size_t i = 0; i < ARRAY_SIZE(parts) && !r; i++)
		r = parts[i](w, e);
	return r;
}

void wiring_close(struct wiring *w)
{
	machine_destroy(w->machine);
	boot_close(w->boot);
	for (unsigned i = 0; i < RUN_MAX_DISKS; i++)
		block_close(w->images[i]);
	*w = (struct wiring){ 0 };
}
