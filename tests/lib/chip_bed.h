/* SPDX-License-Identifier: MIT
 * A machine on the fake KVM half, for tests of chips, tables and boot: a
 * guest's port accesses, wires as KVM hears of them, the main loop for a while.
 */
#ifndef BELFRY_TESTS_CHIP_BED_H
#define BELFRY_TESTS_CHIP_BED_H

#include "machine/machine.h"
#include "fake_kvm.h"

struct chip_bed {
	struct fake_kvm kvm;
	struct machine *m;
	struct region_reader reader;
};

/* Asserts on failure. */
void chip_bed_init(struct chip_bed *b, uint64_t mem, unsigned cpus);
/* Also asserts that nothing was left open. */
void chip_bed_fini(struct chip_bed *b);
/* Reset every device, as the machine does before it starts. */
void chip_bed_reset(struct chip_bed *b);

uint32_t chip_in(struct chip_bed *b, uint16_t port, unsigned len);
void chip_out(struct chip_bed *b, uint16_t port, uint32_t value, unsigned len);
/* Run the main loop for so long. */
void chip_bed_run(struct chip_bed *b, unsigned ms);
/* What was asked of the machine since the last call (enum machine_outcome). */
int chip_bed_request(struct chip_bed *b);

#endif
