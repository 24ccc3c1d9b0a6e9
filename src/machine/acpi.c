/* SPDX-License-Identifier: MIT
 * The fixed tables. Section and field names are those of ACPI 6.4.
 */
#include "machine/acpi_priv.h"
#include "machine/machine.h"
#include <stdlib.h>

#define HEADER_SIZE       36
#define FADT_SIZE         276
#define FACS_SIZE         64

/* "Fixed ACPI Description Table (FADT)", fixed feature flags */
#define FADT_WBINVD       BIT(0)
#define FADT_PROC_C1      BIT(2)
#define FADT_SLP_BUTTON   BIT(5)  /* set: there is no fixed sleep button */
#define FADT_FIX_RTC      BIT(6)  /* set: RTC wake is not in the fixed registers */
#define FADT_TMR_VAL_EXT  BIT(8)
#define FADT_RESET_REG    BIT(10)

/* IA-PC boot architecture flags */
#define BOOT_LEGACY       BIT(0)
#define BOOT_8042         BIT(1)
#define BOOT_NO_VGA       BIT(2)

#define RESET_VALUE       0x06
#define CMOS_CENTURY      0x32

/* "MPS INTI Flags" */
#define INTI_HIGH_LEVEL   0x0d

/* Tables are composed here, then copied into the guest at once. */
struct area {
	uint8_t buf[LAYOUT_ACPI_SIZE];
	size_t len;
	bool full;
	uint64_t tables[8]; /* gpa of what the XSDT lists */
	unsigned nr_tables;
};

static uint8_t checksum(const uint8_t *p, size_t len)
{
	uint8_t sum = 0;

	while (len--)
		sum += *p++;
	return (uint8_t)-sum;
}

/* Room for a table, zeroed, 64-byte aligned (the FACS asks for it). *gpa: where. */
static uint8_t *area_take(struct area *a, size_t len, uint64_t *gpa)
{
	size_t at = align_up(a->len, 64);

	if (!range_within(at, len, sizeof(a->buf))) {
		a->full = true;
		at = 0;
		*gpa = 0;
		return len <= sizeof(a->buf) ? a->buf : NULL;
	}
	a->len = at + len;
	*gpa = LAYOUT_RSDP + at;
	return a->buf + at;
}

/* "System Description Table Header"; the contents are in place. */
static void header_fill(uint8_t *t, const char *signature, size_t len, uint8_t revision)
{
	memcpy(t, signature, 4);
	store_le32(t + 4, (uint32_t)len);
	t[8] = revision;
	memcpy(t + 10, "BELFRY", 6);
	memcpy(t + 16, "BELFRYVM", 8);
	store_le32(t + 24, 1);
	memcpy(t + 28, "BLFR", 4);
	store_le32(t + 32, 1);
	t[9] = 0;
	t[9] = checksum(t, len);
}

static void area_list(struct area *a, uint64_t gpa)
{
	if (a->nr_tables < ARRAY_SIZE(a->tables))
		a->tables[a->nr_tables++] = gpa;
	else
		a->full = true;
}

/* "Generic Address Structure (GAS)" for a port. */
static void gas_port(uint8_t *g, uint64_t port, unsigned bytes)
{
	g[0] = 1; /* system I/O */
	g[1] = (uint8_t)(bytes * 8);
	g[3] = (uint8_t)(bytes == 4 ? 3 : bytes); /* access size: byte 1, word 2, dword 3 */
	store_le64(g + 4, port);
}

static int build_dsdt(struct area *a, const struct machine *m, uint64_t *gpa)
{
	struct aml aml;
	uint8_t *t;
	int r;

	aml_init(&aml);
	acpi_namespace(&aml, m);
	r = aml_finish(&aml);
	if (!r) {
		t = area_take(a, HEADER_SIZE + aml.len, gpa);
		if (t && !a->full) {
			memcpy(t + HEADER_SIZE, aml.buf, aml.len);
			header_fill(t, "DSDT", HEADER_SIZE + aml.len, 2);
		}
	}
	aml_free(&aml);
	return r;
}

static uint64_t build_facs(struct area *a)
{
	uint64_t gpa;
	uint8_t *t = area_take(a, FACS_SIZE, &gpa);

	memcpy(t, "FACS", 4);
	store_le32(t + 4, FACS_SIZE);
	t[32] = 2; /* version */
	return gpa;
}

static void build_fadt(struct area *a, uint64_t facs, uint64_t dsdt)
{
	uint64_t gpa;
	uint8_t *t = area_take(a, FADT_SIZE, &gpa);

	store_le32(t + 36, (uint32_t)facs);
	store_le32(t + 40, (uint32_t)dsdt);
	store_le16(t + 46, LAYOUT_GSI_SCI);
	store_le32(t + 56, LAYOUT_PORT_PM);     /* PM1a_EVT_BLK */
	store_le32(t + 64, LAYOUT_PORT_PM + 4); /* PM1a_CNT_BLK */
	store_le32(t + 76, LAYOUT_PORT_PM + 8); /* PM_TMR_BLK */
	t[88] = 4;                              /* PM1_EVT_LEN */
	t[89] = 2;                              /* PM1_CNT_LEN */
	t[91] = 4;                              /* PM_TMR_LEN */
	store_le16(t + 96, 101);                /* P_LVL2_LAT: no C2 */
	store_le16(t + 98, 1001);               /* P_LVL3_LAT: no C3 */
	t[108] = CMOS_CENTURY;
	store_le16(t + 109, BOOT_LEGACY | BOOT_8042 | BOOT_NO_VGA);
	store_le32(t + 112, FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_FIX_RTC |
			    FADT_TMR_VAL_EXT | FADT_RESET_REG);
	gas_port(t + 116, LAYOUT_PORT_RESET, 1);
	t[128] = RESET_VALUE;
	t[131] = 4;                             /* minor version */
	store_le64(t + 140, dsdt);              /* X_DSDT */
	gas_port(t + 148, LAYOUT_PORT_PM, 4);   /* X_PM1a_EVT_BLK: two words */
	t[148 + 3] = 2;
	gas_port(t + 172, LAYOUT_PORT_PM + 4, 2);
	gas_port(t + 208, LAYOUT_PORT_PM + 8, 4);
	memcpy(t + 268, "BELFRY", 6);           /* hypervisor vendor identity */
	header_fill(t, "FACP", FADT_SIZE, 6);
	area_list(a, gpa);
}

/* One MADT interrupt controller structure: type, length, then what the caller fills in. */
static uint8_t *madt_entry(uint8_t **at, uint8_t type, uint8_t len)
{
	uint8_t *e = *at;

	e[0] = type;
	e[1] = len;
	*at += len;
	return e;
}

/* "Interrupt Source Override Structure": ISA interrupt irq arrives at gsi. */
static void madt_override(uint8_t **at, uint8_t irq, uint32_t gsi, uint16_t flags)
{
	uint8_t *e = madt_entry(at, 2, 10);

	e[3] = irq;
	store_le32(e + 4, gsi);
	store_le16(e + 8, flags);
}

/* "Multiple APIC Description Table (MADT)". */
static void build_madt(struct area *a, const struct machine *m)
{
	unsigned cpus = m->config.cpus, x2 = cpus > 255 ? cpus - 255 : 0;
	size_t len = HEADER_SIZE + 8 + (cpus - x2) * 8 + x2 * 16 + 12 + 2 * 10 + 6;
	uint64_t gpa;
	uint8_t *t = area_take(a, len, &gpa), *at, *e;

	if (!t || a->full)
		return;
	store_le32(t + 36, (uint32_t)LAYOUT_LAPIC);
	store_le32(t + 40, 1); /* PCAT_COMPAT: there are two 8259s too */
	at = t + HEADER_SIZE + 8;
	for (unsigned i = 0; i < cpus; i++) {
		if (i < 255) {
			e = madt_entry(&at, 0, 8); /* Processor Local APIC */
			e[2] = e[3] = (uint8_t)i;
			store_le32(e + 4, 1); /* enabled */
		} else {
			e = madt_entry(&at, 9, 16); /* Processor Local x2APIC */
			store_le32(e + 4, i);
			store_le32(e + 8, 1);
			store_le32(e + 12, i);
		}
	}
	e = madt_entry(&at, 1, 12); /* I/O APIC: id 0, gsi base 0 */
	store_le32(e + 4, (uint32_t)LAYOUT_IOAPIC);
	madt_override(&at, 0, 2, 0); /* the PIT is on pin 2 */
	madt_override(&at, LAYOUT_GSI_SCI, LAYOUT_GSI_SCI, INTI_HIGH_LEVEL);
	e = madt_entry(&at, 4, 6); /* Local APIC NMI: LINT1 of every CPU */
	e[2] = 0xff;
	e[5] = 1;
	header_fill(t, "APIC", len, 5);
	area_list(a, gpa);
}

/* PCI Firmware Specification "MCFG Table Description". */
static void build_mcfg(struct area *a)
{
	uint64_t gpa;
	uint8_t *t = area_take(a, HEADER_SIZE + 8 + 16, &gpa);

	store_le64(t + 44, LAYOUT_ECAM);
	t[55] = (LAYOUT_ECAM_SIZE >> 20) - 1; /* last bus */
	header_fill(t, "MCFG", HEADER_SIZE + 8 + 16, 1);
	area_list(a, gpa);
}

static uint64_t build_xsdt(struct area *a)
{
	size_t len = HEADER_SIZE + 8 * a->nr_tables;
	uint64_t gpa;
	uint8_t *t = area_take(a, len, &gpa);

	for (unsigned i = 0; i < a->nr_tables; i++)
		store_le64(t + HEADER_SIZE + 8 * i, a->tables[i]);
	header_fill(t, "XSDT", len, 1);
	return gpa;
}

/* "Root System Description Pointer (RSDP)". */
static void fill_rsdp(uint8_t *t, uint64_t xsdt)
{
	memcpy(t, "RSD PTR ", 8);
	memcpy(t + 9, "BELFRY", 6);
	t[15] = 2;
	store_le32(t + 20, 36);
	store_le64(t + 24, xsdt);
	t[8] = checksum(t, 20);
	t[32] = checksum(t, 36);
}

int acpi_build(struct machine *m, struct err *e)
{
	struct area *a = calloc(1, sizeof(*a));
	uint64_t dsdt, rsdp;
	uint8_t *root;
	int r;

	if (!a)
		return err_set(e, -ENOMEM, "no memory for the ACPI tables");
	root = area_take(a, 36, &rsdp);
	r = build_dsdt(a, m, &dsdt);
	if (r) {
		err_set(e, r, "cannot build the ACPI namespace (internal error %d)", r);
		goto out;
	}
	build_fadt(a, build_facs(a), dsdt);
	build_madt(a, m);
	build_mcfg(a);
	fill_rsdp(root, build_xsdt(a));
	if (a->full) {
		r = err_set(e, -ENOSPC, "the ACPI tables for %u CPUs do not fit into %u KiB",
			    m->config.cpus, (unsigned)(LAYOUT_ACPI_SIZE >> 10));
		goto out;
	}
	r = ram_write(&m->ram, LAYOUT_RSDP, a->buf, a->len);
	if (r)
		err_set(e, r, "the guest's memory ends below the ACPI tables; give it at least 1 MiB");
out:
	free(a);
	return r;
}
