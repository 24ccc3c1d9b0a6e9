/* SPDX-License-Identifier: MIT
 *
 * device: the small chips of a PC that are not PCI. The room's public header.
 * Each create function adds its device (regions, wire, reset) to the machine,
 * which owns it from then on. Each device has a lock of its own; register
 * accesses come on any vCPU thread.
 */
#ifndef BELFRY_DEVICE_H
#define BELFRY_DEVICE_H

#include "machine/machine.h"
#include "backend/backend.h"

/* 16550A UART at LAYOUT_PORT_COM1, gsi LAYOUT_GSI_COM1. con NULL: output is dropped. Becomes con's client. */
int serial_create(struct machine *m, struct console *con) __must_check;

/* i8042 keyboard controller at 60h/64h, gsi 1 (12 for the mouse port): self-test, config byte, A20, FEh reset. */
int i8042_create(struct machine *m) __must_check;

/* MC146818 RTC at 70h/71h, gsi 8: time of day from the host, alarm, periodic and update interrupts, CMOS RAM. */
int rtc_create(struct machine *m) __must_check;

/*
 * ACPI fixed hardware at LAYOUT_PORT_PM: PM1a event and control, PM timer;
 * _S5 power-off, power button, SCI; reset register at LAYOUT_PORT_RESET.
 */
int pm_create(struct machine *m) __must_check;
/* Press the power button (any thread). False if the guest has not enabled it. */
bool pm_power_button(struct machine *m);

/* Debug exit at LAYOUT_PORT_DEBUGEXIT: a write of v ends the machine; exit_code = v, 0 is success. */
int debugexit_create(struct machine *m) __must_check;

#endif
