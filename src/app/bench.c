/* SPDX-License-Identifier: MIT
 * belfry bench events: the command around the measurement.
 */
#include "app/app.h"
#include "monitor/monitor.h"
#include <stdlib.h>
#include <unistd.h>

int bench_events_command(const struct bench_options *o)
{
	const struct bench_config config = { .count = o->count, .paths = o->path };
	/* These guests run on any KVM that answers, so auto asks for no more than that. */
	bool soft = o->accel == ACCEL_SOFT || (o->accel == ACCEL_AUTO && access("/dev/kvm", R_OK | W_OK));
	enum accel_choice choice = soft ? ACCEL_SOFT : ACCEL_KVM;
	struct kvmapi api;
	struct bench_row *rows;
	struct accel accel;
	int status = EXIT_GOOD;
	unsigned nr;
	struct err e;

	if (accel_open(choice, NULL, &api, &e))
		return complain("bench events", EXIT_USAGE, &e);
	if (bench_events(&config, &api, &rows, &nr, &e)) {
		accel_close(&api);
		return complain("bench events", EXIT_USAGE, &e);
	}
	accel_probe(&accel, NULL);
	if (o->json)
		bench_print_json(stdout, rows, nr, api.ops->name,
				 choice == ACCEL_SOFT ? "" : accel.module);
	else
		bench_print_table(stdout, rows, nr);
	for (unsigned i = 0; i < nr; i++)
		if (rows[i].lost)
			status = EXIT_FAILED;
	free(rows);
	accel_close(&api);
	return status;
}
