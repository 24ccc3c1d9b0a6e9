/* SPDX-License-Identifier: MIT
 * The ACPI namespace of the machine.
 */
#include "machine/acpi_priv.h"
#include "machine/machine.h"
#include <stdio.h>

#define NR_PCI_SLOTS   32
#define NR_PCI_PINS    4

/* _OSC control bits that are granted: PME, AER, the PCIe capability structure; no hot plug. */
#define OSC_GRANT      0x1c
#define OSC_UNKNOWN_UUID 0x04
#define OSC_UNKNOWN_REV  0x08
#define OSC_MASKED       0x10

static void name_id(struct aml *a, const char *id)
{
	aml_name_eisaid(a, "_HID", id);
}

/* ACPI 6.4 "_OSC (Operating System Capabilities)"; PCI Firmware Specification "_OSC". */
static void add_osc(struct aml *a)
{
	/* 33DB4D5B-1FF7-401C-9657-7441C03DD766 */
	static const uint8_t uuid[16] = {
		0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40,
		0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66,
	};

	aml_method(a, "_OSC", 4, true);
	aml_byte(a, AML_CREATE_DWORD_FIELD); /* CDW1: status */
	aml_byte(a, AML_ARG3);
	aml_integer(a, 0);
	aml_path(a, "CDW1");
	aml_if(a); /* the UUID is PCI's */
	aml_byte(a, AML_LEQUAL);
	aml_byte(a, AML_ARG0);
	aml_buffer(a, uuid, sizeof(uuid));
	{
		aml_byte(a, AML_CREATE_DWORD_FIELD); /* CDW3: control asked for */
		aml_byte(a, AML_ARG3);
		aml_integer(a, 8);
		aml_path(a, "CDW3");
		aml_byte(a, AML_AND); /* Local0 = CDW3 & grant */
		aml_path(a, "CDW3");
		aml_integer(a, OSC_GRANT);
		aml_byte(a, AML_LOCAL0);
		aml_if(a);
		aml_byte(a, AML_LNOT);
		aml_byte(a, AML_LEQUAL);
		aml_byte(a, AML_ARG1);
		aml_byte(a, AML_ONE);
		aml_byte(a, AML_OR);
		aml_path(a, "CDW1");
		aml_integer(a, OSC_UNKNOWN_REV);
		aml_path(a, "CDW1");
		aml_close(a);
		aml_if(a);
		aml_byte(a, AML_LNOT);
		aml_byte(a, AML_LEQUAL);
		aml_path(a, "CDW3");
		aml_byte(a, AML_LOCAL0);
		aml_byte(a, AML_OR);
		aml_path(a, "CDW1");
		aml_integer(a, OSC_MASKED);
		aml_path(a, "CDW1");
		aml_close(a);
		aml_byte(a, AML_STORE);
		aml_byte(a, AML_LOCAL0);
		aml_path(a, "CDW3");
	}
	aml_close(a);
	aml_else(a);
	aml_byte(a, AML_OR);
	aml_path(a, "CDW1");
	aml_integer(a, OSC_UNKNOWN_UUID);
	aml_path(a, "CDW1");
	aml_close(a);
	aml_byte(a, AML_RETURN);
	aml_byte(a, AML_ARG3);
	aml_close(a);
}

/* Interrupt routing with fixed gsis ("_PRT", "PCI Interrupt Pins", source 0). Slot 0 is the bridge. */
static void add_prt(struct aml *a)
{
	aml_name(a, "_PRT");
	aml_package(a, (NR_PCI_SLOTS - 1) * NR_PCI_PINS);
	for (unsigned slot = 1; slot < NR_PCI_SLOTS; slot++) {
		for (unsigned pin = 0; pin < NR_PCI_PINS; pin++) {
			aml_package(a, 4);
			aml_integer(a, slot << 16 | 0xffff);
			aml_integer(a, pin);
			aml_integer(a, 0);
			aml_integer(a, LAYOUT_GSI_PCI + (slot + pin) % LAYOUT_NR_GSI_PCI);
			aml_close(a);
		}
	}
	aml_close(a);
}

static void add_pci(struct aml *a, const struct machine *m)
{
	struct aml_resources res = { 0 };

	aml_device(a, "PCI0");
	name_id(a, "PNP0A08");
	aml_name_eisaid(a, "_CID", "PNP0A03");
	aml_name_integer(a, "_UID", 0);
	aml_name_integer(a, "_SEG", 0);
	aml_name_integer(a, "_BBN", 0);
	aml_name_integer(a, "_CCA", 1);
	res_bus_window(&res, 0, (LAYOUT_ECAM_SIZE >> 20) - 1);
	res_io(&res, LAYOUT_PORT_PCI_ADDR, 8);
	res_io_window(&res, LAYOUT_PORT_PCI_IO, LAYOUT_PORT_PCI_IO_SIZE);
	res_memory32_window(&res, LAYOUT_MMIO32, LAYOUT_MMIO32_SIZE);
	res_memory64_window(&res, align_up(ram_high_end(&m->ram), LAYOUT_MMIO64_ALIGN),
			    LAYOUT_MMIO64_SIZE);
	aml_name_resources(a, "_CRS", &res);
	add_prt(a);
	add_osc(a);
	aml_close(a);
}

/* What belongs to no other device. Linux uses ECAM only if it finds it reserved here. */
static void add_motherboard(struct aml *a)
{
	struct aml_resources res = { 0 };

	aml_device(a, "MBRD");
	name_id(a, "PNP0C02");
	aml_name_integer(a, "_UID", 0);
	res_memory32(&res, LAYOUT_ECAM, LAYOUT_ECAM_SIZE);
	res_io(&res, LAYOUT_PORT_PM, 16);
	res_io(&res, LAYOUT_PORT_DEBUGEXIT, 4);
	aml_name_resources(a, "_CRS", &res);
	aml_close(a);
}

static void add_isa(struct aml *a)
{
	struct aml_resources com = { 0 }, rtc = { 0 }, kbd = { 0 };

	aml_device(a, "COM1");
	name_id(a, "PNP0501");
	aml_name_integer(a, "_UID", 1);
	res_io(&com, LAYOUT_PORT_COM1, 8);
	res_irq(&com, LAYOUT_GSI_COM1);
	aml_name_resources(a, "_CRS", &com);
	aml_close(a);

	aml_device(a, "RTC_");
	name_id(a, "PNP0B00");
	res_io(&rtc, LAYOUT_PORT_RTC, 2);
	res_irq(&rtc, LAYOUT_GSI_RTC);
	aml_name_resources(a, "_CRS", &rtc);
	aml_close(a);

	aml_device(a, "KBD_");
	name_id(a, "PNP0303");
	res_io(&kbd, LAYOUT_PORT_I8042, 1);
	res_io(&kbd, LAYOUT_PORT_I8042 + 4, 1);
	res_irq(&kbd, LAYOUT_GSI_KBD);
	aml_name_resources(a, "_CRS", &kbd);
	aml_close(a);
}

/* "Declaring Processors": one device for each local APIC in the MADT, matched by _UID. */
static void add_cpus(struct aml *a, const struct machine *m)
{
	for (unsigned i = 0; i < m->config.cpus; i++) {
		char name[16];

		snprintf(name, sizeof(name), "C%03X", i & 0xfff);
		aml_device(a, name);
		aml_name(a, "_HID");
		aml_string(a, "ACPI0007");
		aml_name_integer(a, "_UID", i);
		aml_close(a);
	}
}

void acpi_namespace(struct aml *a, const struct machine *m)
{
	aml_name(a, "\\_S5_");
	aml_package(a, 4);
	aml_integer(a, LAYOUT_SLP_TYP_S5); /* PM1a_CNT.SLP_TYP */
	aml_integer(a, LAYOUT_SLP_TYP_S5); /* PM1b_CNT.SLP_TYP: there is none */
	aml_integer(a, 0);
	aml_integer(a, 0);
	aml_close(a);
	aml_scope(a, "\\_SB_");
	add_pci(a, m);
	add_motherboard(a);
	add_isa(a);
	add_cpus(a, m);
	aml_close(a);
}
