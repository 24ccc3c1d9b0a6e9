/* SPDX-License-Identifier: MIT
 * The option tables of all commands and what they parse into.
 */
#ifndef BELFRY_APP_COMMANDS_H
#define BELFRY_APP_COMMANDS_H

#include "app/accel.h"
#include "app/options.h"
#include "machine/machine.h"

#define RUN_MAX_DISKS   16
#define RUN_MAX_NETS    8
#define RUN_MAX_HOSTFWD 16

enum console_choice { CONSOLE_SERIAL, CONSOLE_VIRTIO };
enum cache_choice { CACHE_WRITEBACK, CACHE_NONE, CACHE_UNSAFE };

/* The virtio keys that every device shares. */
struct transport_option {
	int notify;        /* enum notify_path */
	int inject;        /* enum inject_path */
	bool transitional;
};

struct disk_option {
	const char *file, *serial;
	bool readonly, iothread;
	unsigned queues, queue_size, poll_us;
	int cache;         /* enum cache_choice */
	struct transport_option transport;
};

struct net_option {
	bool user;         /* else tap */
	const char *tap;
	const char *hostfwd[RUN_MAX_HOSTFWD + 1];
	unsigned nr_hostfwd;
	const char *mac;   /* NULL: made from the position */
	bool iothread;
	struct transport_option transport;
};

struct run_options {
	int accel;         /* enum accel_choice */
	const char *kernel, *initrd, *cmdline;
	struct disk_option disks[RUN_MAX_DISKS];
	unsigned nr_disks;
	struct net_option nets[RUN_MAX_NETS];
	unsigned nr_nets;
	unsigned cpus;
	uint64_t mem;
	int irqchip;       /* enum irqchip_mode */
	int console;       /* enum console_choice */
	bool rng, debug_exit;
	const char *name;
	int log_level;     /* enum log_level */
};

struct doctor_options {
	bool json;
};

struct bench_options {
	int accel;
	unsigned count;
	bool json;
	const char *path;  /* comma-separated names, NULL: all */
};

struct with_softkvm_options {
	int apicv;
	char *const *operands; /* set by main(): what stood behind "--", NULL-terminated */
};
extern const struct command with_softkvm_table;

extern const struct command run_table, doctor_table, bench_events_table;
/* Every command, in the order `belfry help` lists them; ends with NULL. */
extern const struct command *const command_table[];

/* "52:54:00:12:34:56" to bytes. -EINVAL if it is no unicast address. */
int mac_parse(const char *text, uint8_t mac[6]) __must_check;

#endif
