/* SPDX-License-Identifier: MIT
 *
 * virtio: device core, queues and transports (virtio 1.2). The room's public
 * header. A device is one file: it fills a struct virtio_ops and says which
 * loop each of its queues lives on; the core and the transport do the rest
 * (feature negotiation, status, kicks, calls, reset, polling).
 *
 * Threads: register accesses come on vCPU threads under the device's lock.
 * A started queue belongs to its loop's thread alone: handle() and everything
 * virtq_* run there, without any lock. Starting and stopping go through
 * loop_call(), so the two never overlap. See docs/VIRTIO.md.
 */
#ifndef BELFRY_VIRTIO_H
#define BELFRY_VIRTIO_H

#include "pci/pci.h"
#include "virtio/queue.h"
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>

struct virtio_dev;

struct virtio_ops {
	const char *type;      /* "virtio-blk" */
	uint16_t id;           /* VIRTIO_ID_* */
	/* Config space, device part. off + len within config_len. Any thread, device lock held. */
	void (*config_read)(struct virtio_dev *v, unsigned off, void *data, unsigned len);
	void (*config_write)(struct virtio_dev *v, unsigned off, const void *data, unsigned len);
	/*
	 * DRIVER_OK: v->features is final. Device lock held, no queue runs yet.
	 * An error makes the device NEEDS_RESET. May be NULL.
	 */
	int (*start)(struct virtio_dev *v);
	/*
	 * Reset, pause or destroy: finish all requests in flight (push and flush
	 * still work), or cancel and unpop them: a pause must lose none. Called
	 * on each queue's loop with its queue, after its watch is gone; when it
	 * returns nobody touches that queue's memory any more. May be NULL.
	 */
	void (*stop_queue)(struct virtio_dev *v, struct virtq *q);
	/* Reset or destroy, after all queues stopped: undo start(). Device lock held. May be NULL. */
	void (*stop)(struct virtio_dev *v);
	/*
	 * The driver kicked, or the queue was just started or resumed. On the
	 * queue's loop. Must not take the device lock: whoever holds it may be
	 * waiting for this loop. No handle() runs before all queues are started.
	 */
	void (*handle)(struct virtio_dev *v, struct virtq *q);
	/* virtio_dev_fini(), and free the device's own struct (v is embedded in it). */
	void (*destroy)(struct virtio_dev *v);
};

/* Given by the user per device: `notify=`, `inject=`, `transitional=`. */
struct virtio_options {
	enum notify_path notify;
	enum inject_path inject;
	bool transitional;      /* legacy interface by I/O BAR 0 besides the modern one */
};

struct virtio_dev {
	const struct virtio_ops *ops;
	struct machine *machine;
	uint64_t offered;       /* device features; the core adds VERSION_1, EVENT_IDX, INDIRECT_DESC */
	uint64_t features;      /* negotiated */
	unsigned config_len;    /* bytes of device config */
	unsigned nr_queues;
	struct virtq *queues;   /* nr_queues, allocated by virtio_dev_init() */
	struct virtio_options options;
	uint16_t queue_size;    /* largest size offered, a power of two */
	/* set by the transport */
	const struct virtio_transport_ops *transport;
	void *transport_arg;
	struct device *dev;     /* for device_complain() */
	pthread_mutex_t lock;
	_Atomic uint8_t status; /* VIRTIO_CONFIG_S_* */
	_Atomic uint8_t config_generation;
	/* device lock; set by the core */
	bool legacy;            /* the driver uses the legacy interface */
	bool started;           /* DRIVER_OK came and start() succeeded */
	bool running;           /* started, and not paused: the queues are on their loops */
	unsigned pauses;
};

struct virtio_transport_ops {
	/* Interrupt for a queue; any thread, no lock. */
	void (*call)(void *arg, struct virtq *q);
	/* Configuration change interrupt. Any thread, no lock. */
	void (*config_changed)(void *arg);
};

/*
 * Prepare an embedded virtio_dev. Each queue's loop is the machine's main loop
 * until the device sets v->queues[i].loop (before virtio_pci_create()).
 * queue_size: power of two up to VIRTQ_MAX_SIZE.
 */
int virtio_dev_init(struct virtio_dev *v, struct machine *m, const struct virtio_ops *ops,
		    unsigned nr_queues, uint16_t queue_size, unsigned config_len,
		    const struct virtio_options *o) __must_check;
/* For the device's destroy op, and where creation failed. Harmless twice. */
void virtio_dev_fini(struct virtio_dev *v);

/*
 * Put v on the bus by virtio-pci, modern or transitional as its options say
 * (virtio 1.2 "Virtio Over PCI Bus"). From here the machine owns it: its
 * destroy op runs at machine_destroy(). On failure the caller still owns v.
 */
int virtio_pci_create(struct virtio_dev *v, struct pci_bus *bus, const char *name,
		      struct err *e) __must_check;

/*
 * The driver did something the device cannot go on with: log it once, set
 * DEVICE_NEEDS_RESET, tell the driver if it can be told. On a queue's loop or
 * under the device lock. Queues answer no more until reset.
 */
void virtio_fail(struct virtio_dev *v, const char *fmt, ...) __printf(2, 3);

/* Device config changed (a new size, link state): bump the generation and interrupt. Any thread. */
void virtio_config_changed(struct virtio_dev *v);

static inline bool virtio_has(const struct virtio_dev *v, unsigned feature_bit)
{
	return v->features >> feature_bit & 1;
}

/* ---- used by transports only ----------------------------------------- */

/*
 * Device lock held for all of these. Those that start or stop wait for the
 * queues' loops (loop_call()).
 */

/*
 * What the driver wrote to the status register: 0 resets, DRIVER_OK starts;
 * other bits can only be added, and NEEDS_RESET is the device's own.
 */
void virtio_set_status(struct virtio_dev *v, uint8_t status);
void virtio_reset(struct virtio_dev *v);
/* FEATURES_OK, or a write of the legacy feature register. -EINVAL: not a subset, or no VERSION_1. */
int virtio_set_features(struct virtio_dev *v, uint64_t driver) __must_check;
/* What the driver sees: with the core's own bits; by the legacy interface without VERSION_1. */
uint64_t virtio_offered(const struct virtio_dev *v, bool legacy);
/* A kick that came by a register write. Queues that do not exist or do not run are ignored. */
void virtio_kick(struct virtio_dev *v, unsigned queue);
/* Stop and start the queues' work without touching driver-visible state (machine pause). Nests. */
void virtio_pause(struct virtio_dev *v);
void virtio_resume(struct virtio_dev *v);

#include "virtio/devices.h"

#include "virtio/devices.h"

#endif
