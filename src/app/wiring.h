/* SPDX-License-Identifier: MIT
 * From the options to a machine with its devices. One table (wiring.c) says
 * which parts there are and in which order they are built.
 */
#ifndef BELFRY_APP_WIRING_H
#define BELFRY_APP_WIRING_H

#include "app/commands.h"
#include "backend/backend.h"
#include "pci/pci.h"

struct wiring {
	const struct run_options *options;
	struct boot *boot;
	struct block *images[RUN_MAX_DISKS]; /* until the machine owns them */
	struct machine *machine;
	/* owned by the machine */
	struct console *console;
	struct pci_bus *bus;
};

/*
 * Open and check every file of the options; nothing is made. wiring_close()
 * also after a failure.
 */
int wiring_open(struct wiring *w, const struct run_options *o, struct err *e) __must_check;
/* Make the machine with all of its devices, ready for machine_start(). */
int wiring_build(struct wiring *w, const struct kvmapi *api, struct err *e) __must_check;
/* Destroy the machine, close the files. The terminal is as it was. */
void wiring_close(struct wiring *w);

#endif
