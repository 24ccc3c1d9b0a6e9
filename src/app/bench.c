/* SPDX-License-Identifier: MIT
 * belfry bench events: the command around the measurement.
 */
#include "app/app.h"
#include "monitor/monitor.h"
#include <stdlib.h>

int bench_events_command(const struct bench_options *o)
{
	const struct bench_config config = { .count = o->count, .paths = o->path };
	const struct kvmapi api = { .ops = &dev_kvm_ops };
	struct bench_row *rows;
	struct accel accel;
	int status = EXIT_GOOD;
	unsigned nr;
	struct err e;

	if (bench_events(&config, &api, &rows, &nr, &e))
		return complain("bench events", EXIT_USAGE, &e);
	accel_probe(&accel, NULL);
	if (o->json)
		bench_print_json(stdout, rows, nr, api.ops->name, accel.module);
	else
		bench_print_table(stdout, rows, nr);
	for (unsigned i = 0; i < nr; i++)
		if (rows[i].lost)
			status = EXIT_FAILED;
	free(rows);
	return status;
}
