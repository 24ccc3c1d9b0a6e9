/* SPDX-License-Identifier: MIT
 * softkvm's API: a sequence of the API differential's operations (tests/diff), on
 * two VMs, with arguments from its makers or from the input, small guests
 * included. No fd may be left when all is closed, and the context must serve a
 * new VM as if nothing had been: a line, a message and an irqfd arrive.
 */
#include "api.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct feed f = { data, size };
	struct world w;
	unsigned fds;

	FUZZ_CHECK(!world_create(&w, true), "no context");
	expect_service(&w);
	fds = open_fds();
	FUZZ_CHECK(!world_begin(&w), "no VM");
	for (unsigned i = 0; i < MAX_OPS && f.left && !w.stop; i++)
		one_op(&w, &f);
	world_say_state(&w);
	world_end(&w);
	FUZZ_CHECK(open_fds() == fds, "%u fds instead of %u", open_fds(), fds);
	expect_service(&w);
	world_destroy(&w);
	return 0;
}
