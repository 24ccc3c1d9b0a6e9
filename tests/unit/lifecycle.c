/* SPDX-License-Identifier: MIT
 * Whole machines on a KVM half that runs no guest.
 */
#include "../lib/check.h"
#include "../life/lifecycle.h"

static const struct lifecycle fake;

static void rounds(void **state)
{
	lifecycle_rounds(&fake, 100);
}

static void two_at_once(void **state)
{
	lifecycle_two(&fake);
}

static void paths(void **state)
{
	lifecycle_paths(&fake);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rounds), cmocka_unit_test(two_at_once), cmocka_unit_test(paths),
	};

	return RUN(tests);
}
