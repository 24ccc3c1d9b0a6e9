/* SPDX-License-Identifier: MIT
 * ACPI tables for the machine (ACPI 6.4 "ACPI Software Programming Model"):
 * RSDP, XSDT, FADT, MADT (local APICs, IOAPIC with gsi base 0, override
 * 0→2, SCI level, LINT1 NMI), MCFG, DSDT (PCI root with _CRS and _PRT, COM1,
 * RTC, keyboard, power button, _S5). Written into RAM from LAYOUT_RSDP.
 */
#ifndef BELFRY_MACHINE_ACPI_H
#define BELFRY_MACHINE_ACPI_H

#include "base/base.h"

struct machine;

/* -ENOSPC if the tables outgrow their area. vCPUs held. */
int acpi_build(struct machine *m, struct err *e) __must_check;

#endif
