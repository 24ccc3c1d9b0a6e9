/* SPDX-License-Identifier: MIT */
#include "machine/machine.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

void device_complain(struct device *d, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	if (atomic_exchange(&d->complained, true))
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_warn(d->machine ? &d->machine->log : NULL, "%s: %s", d->name, text);
}
