/* SPDX-License-Identifier: MIT */
#ifndef BELFRY_MACHINE_ACPI_PRIV_H
#define BELFRY_MACHINE_ACPI_PRIV_H

#include "machine/aml.h"

struct machine;

/* The namespace: the DSDT's definition block without its header. a is initialised. */
void acpi_namespace(struct aml *a, const struct machine *m);

#endif
