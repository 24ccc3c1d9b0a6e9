/* SPDX-License-Identifier: MIT
 * The life cycle of whole machines, the same on every KVM half.
 */
#ifndef BELFRY_TESTS_LIFECYCLE_H
#define BELFRY_TESTS_LIFECYCLE_H

#include "full_machine.h"

struct lifecycle {
	const struct kvmapi *api; /* NULL: fake halves */
	/* Give the vCPUs something to do, at the start and at each reset. May be NULL. */
	void (*prepare)(struct machine *m);
};

/* Create, start, work, pause, reset, destroy, `rounds` times: nothing is left of it. */
void lifecycle_rounds(const struct lifecycle *l, unsigned rounds);
/* Two at once in one process, neither of which hears of the other. */
void lifecycle_two(const struct lifecycle *l);
/* notify= and inject= change the way and nothing else. */
void lifecycle_paths(const struct lifecycle *l);

#endif
