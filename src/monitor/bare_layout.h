/* SPDX-License-Identifier: MIT
 * Where things are in a bare-metal guest; for C and assembly.
 */
#ifndef BELFRY_MONITOR_BARE_LAYOUT_H
#define BELFRY_MONITOR_BARE_LAYOUT_H

#define BARE_PML4        0x1000
#define BARE_PDPT        0x2000
#define BARE_PD_LOW      0x3000  /* the first GiB */
#define BARE_PD_HIGH     0x4000  /* the fourth: MMIO, local APIC */
#define BARE_GDT         0x5000
#define BARE_TSS         0x6000  /* 128 bytes a CPU */
#define BARE_IDT         0x7000
#define BARE_CODE        0x8000
#define BARE_PAGES       0x10000 /* a page a CPU */
#define BARE_STACKS      0x20000 /* two pages a CPU: ring 0 up to the end, ring 3 below */
#define BARE_MEM_SIZE    0x40000
#define BARE_MAX_CPUS    4

/* In a CPU's page */
#define BARE_PAGE_COUNT  0       /* 256 counters of 8 bytes, one a vector */
#define BARE_PAGE_EOI    0x800   /* address that EOI is written to */
#define BARE_PAGE_SINK   0x808   /* the place for EOIs without a local APIC */

#define BARE_PAGE_HALT   0x810   /* BARE_MIXED: not 0: halt, else run on */

#define BARE_PORT_DONE   0xe0    /* the guest has done its one access */
#define BARE_PORT_FATAL  0xe1    /* an exception */

#define BARE_IPI_VECTORS 32      /* BARE_IPI_*: that many from the vector given on */

#define BARE_MMIO        0xd0000000 /* no memory there: MMIO */

#endif
