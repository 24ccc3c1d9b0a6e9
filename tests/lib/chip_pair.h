/* SPDX-License-Identifier: MIT
 * The chip models, wired on one thread as softkvm wires them, beside the kernel's own
 * chips (kchip.h). What a test does, it does to both, and compares. Everything that
 * compares fails the test with the step's number and what it did.
 */
#ifndef BELFRY_TESTS_CHIP_PAIR_H
#define BELFRY_TESTS_CHIP_PAIR_H

#include "irqchip/irqchip.h"
#include "kchip.h"

#define CHIP_PAIR_ALL ((1u << KCHIP_CPUS) - 1)

struct chip_pair {
	struct kchip k;
	struct i8259 pic;
	struct ioapic io;
	struct i8254 pit;
	struct lapic cpu[KCHIP_CPUS];
	struct lapic *cpus[KCHIP_CPUS];
	struct lapic_map *map;
	bool map_stale;
	unsigned scan_due;		/* a bit for each CPU */
	int stale;			/* of vCPU 0: its EOI makes a scan due */
	bool ends_at_once;	/* agreed difference 1 */
	bool nmi[KCHIP_CPUS];
	bool parked[KCHIP_CPUS];	/* INIT received, waits for a SIPI */
	uint64_t rng;
	unsigned step;
	char what[160];
};

/* BELFRY_TRACE=1 prints every step. */
#define SAY(r, ...) do {							\
	snprintf((r)->what, sizeof((r)->what), __VA_ARGS__);			\
	if (getenv("BELFRY_TRACE"))						\
		fprintf(stderr, "%u %s\n", (r)->step, (r)->what);		\
} while (0)

/* api: KVM_CAP_X2APIC_API. False, and says why, where there is no KVM to compare with. */
bool chip_pair_open(struct chip_pair *r, int cpus, bool api);
void chip_pair_close(struct chip_pair *r);

/* Random numbers: of BELFRY_SEED, or always the same. */
uint32_t chip_rnd(struct chip_pair *r);
uint32_t chip_below(struct chip_pair *r, uint32_t n);

/* --- The model's side --- */

/* The map of destinations, as new as the local APICs. */
const struct lapic_map *chip_pair_map(struct chip_pair *r);
/* The EOIs of vCPU i reach the I/O APIC. */
void chip_pair_broadcast(struct chip_pair *r, int i);
/* What the kernel does when vCPU 0 is about to run. */
void chip_pair_enter(struct chip_pair *r);
/* KVM_IRQ_LINE, status: KVM_IRQ_LINE_STATUS; the status it gives. */
int chip_pair_line(struct chip_pair *r, unsigned gsi, bool level, bool status);
/* The guest of vCPU 0 lets one interrupt in: its vector, or -1. */
int chip_pair_window(struct chip_pair *r);
/* Acks of the PIC: only of pin 0, for which the PIT asks. */
void chip_pair_finish(struct chip_pair *r, uint32_t acks);

/* --- Comparison --- */

void chip_pair_same(struct chip_pair *r, const char *what, int64_t kernel, int64_t model);
void chip_pair_same_pics(struct chip_pair *r);
void chip_pair_same_ioapic(struct chip_pair *r);
void chip_pair_same_lapics(struct chip_pair *r);

#endif
