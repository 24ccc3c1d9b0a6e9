/* SPDX-License-Identifier: MIT
 * The interrupt fabric: level wires into gsis, the route table, and message
 * interrupts with an eventfd each. Every event is counted.
 *
 * See docs/INTERRUPTS.md for the protocol of masking and re-vectoring and why
 * no interrupt is lost.
 */
#ifndef BELFRY_MACHINE_IRQ_H
#define BELFRY_MACHINE_IRQ_H

#include "base/base.h"
#include "kvmapi/kvmapi.h"

struct irq_fabric;

/* How a call reaches the guest. INJECT_AUTO: the fastest the KVM half offers. */
enum inject_path { INJECT_AUTO, INJECT_IRQFD, INJECT_MSI, INJECT_LINE, NR_INJECT };

/* "irqfd", "msi", "line", "auto". */
const char *inject_name(enum inject_path p);

/* max_routes: entries the table may hold, 0 for what KVM_CAP_IRQ_ROUTING says. */
int irq_create(struct irq_fabric **out, struct vm *vm, unsigned max_routes,
	       const struct log *log) __must_check;
void irq_destroy(struct irq_fabric *f);

/* The best path at or below `wanted` that this KVM half can do. */
enum inject_path irq_best_path(struct irq_fabric *f, enum inject_path wanted);

/*
 * A wire: one source's connection to a gsi. Several wires may share a gsi; its
 * level is high while any of them is. Any thread.
 */
struct irq_wire {
	struct irq_fabric *fabric;
	gsi_t gsi;
	const char *name;
	/* private to irq.c */
	bool level; /* under the fabric's lock */
	_Atomic uint64_t signals, coalesced, errors;
	struct irq_wire *next;
};
/* Joins w, low, to the fabric (NULL: a wire to nowhere). name and w stay the caller's. */
void irq_wire_init(struct irq_wire *w, struct irq_fabric *f, gsi_t gsi, const char *name);
/* Lowers it and takes it out. Harmless if not joined. */
void irq_wire_fini(struct irq_wire *w);
/* Returns the tri-state of the delivery (see kvmapi.h), 0 if nothing changed. */
int irq_wire_set(struct irq_wire *w, bool level);
/* Raise and lower: an edge. */
int irq_wire_pulse(struct irq_wire *w);

/*
 * A message interrupt: one MSI or MSI-X vector. The eventfd is the pending
 * bit: while masked nothing consumes it, so a signal stays in its count, and
 * unmasking binds it again and delivers. That holds also when another process
 * signals it. A gsi and its route are taken at the first unmask (lazy), and
 * kept until destroy; if none is free the path falls back to INJECT_MSI.
 */
struct irq_msi {
	struct irq_fabric *fabric;
	const char *name;
	_Atomic(enum inject_path) path; /* INJECT_IRQFD or INJECT_MSI: what is in use */
	struct notifier n;      /* the eventfd */
	/* private to irq.c, under the fabric's lock unless said */
	pthread_mutex_t lock;   /* INJECT_MSI: masked/pending against signal */
	uint64_t address;
	uint32_t data;
	int gsi;                /* -1: none yet */
	bool masked, pending, bound;
	_Atomic uint64_t signals, coalesced, errors;
	struct irq_msi *next;
};

/* Starts masked. path as wanted; resolved by irq_best_path(). -EMFILE, -ENOMEM. */
int irq_msi_create(struct irq_msi *m, struct irq_fabric *f, enum inject_path path,
		   const char *name) __must_check;
void irq_msi_destroy(struct irq_msi *m);
/*
 * Set the message (MSI address and data, Intel SDM "Message Signalled
 * Interrupts"). While unmasked the route moves at once: an interrupt signalled
 * meanwhile goes to the old or the new target, to exactly one of them.
 */
int irq_msi_set(struct irq_msi *m, uint64_t address, uint32_t data) __must_check;
int irq_msi_mask(struct irq_msi *m);
int irq_msi_unmask(struct irq_msi *m) __must_check;
/* Signal from inside this process. Any thread; with irqfd one write(2), no lock. */
void irq_msi_signal(struct irq_msi *m);
/* The pending bit as the PBA shows it: signalled while masked. */
bool irq_msi_pending(struct irq_msi *m);
/* Forget a pending signal (device reset). Only while masked. */
void irq_msi_clear(struct irq_msi *m);

/* Print the route table as `gsi=0 type=1 0 0` lines (seed 000's form) through fn. */
void irq_print_routes(struct irq_fabric *f, void (*fn)(void *arg, const char *line), void *arg);

/* One row a source: counts by path, gsi, vector and destination. */
struct irq_count {
	const char *name;
	enum inject_path path;
	int gsi;           /* -1: none */
	int vector;        /* -1: a wire (the IOAPIC knows) */
	int dest;          /* APIC ID the message names, -1: a wire */
	uint64_t signals, coalesced, errors;
};
void irq_walk_counts(struct irq_fabric *f, void (*fn)(void *arg, const struct irq_count *c),
		     void *arg);

#endif
