/* SPDX-License-Identifier: MIT
 * Where things are in the guest-physical space, the port space and the gsi
 * space. One table, used by RAM, PCI, ACPI and boot.
 */
#ifndef BELFRY_MACHINE_LAYOUT_H
#define BELFRY_MACHINE_LAYOUT_H

/* Guest-physical */
#define LAYOUT_RAM_LOW_MAX    0xb0000000ull  /* RAM below 4 GiB ends here at most */
#define LAYOUT_ECAM           0xb0000000ull  /* PCI ECAM, 256 buses */
#define LAYOUT_ECAM_SIZE      0x10000000ull
#define LAYOUT_MMIO32         0xc0000000ull  /* window for 32-bit BARs */
#define LAYOUT_MMIO32_SIZE    0x3c000000ull
#define LAYOUT_IOAPIC         0xfec00000ull
#define LAYOUT_HPET           0xfed00000ull
#define LAYOUT_LAPIC          0xfee00000ull
#define LAYOUT_IDENTITY_MAP   0xfffbc000ull  /* KVM_SET_IDENTITY_MAP_ADDR, 1 page */
#define LAYOUT_TSS            0xfffbd000ull  /* KVM_SET_TSS_ADDR, 3 pages */
#define LAYOUT_RAM_HIGH       0x100000000ull /* the rest of RAM */
#define LAYOUT_MMIO64_ALIGN   0x1000000000ull /* 64 GiB: the 64-bit window starts at the first multiple above RAM */
#define LAYOUT_MMIO64_SIZE    0x1000000000ull

/* Below 1 MiB */
#define LAYOUT_ZERO_PAGE      0x7000ull      /* boot_params / hvm_start_info */
#define LAYOUT_BOOT_STACK     0x8000ull
#define LAYOUT_BOOT_TABLES    0x9000ull      /* page tables, GDT: up to 0xf000 */
#define LAYOUT_CMDLINE        0x20000ull     /* up to 0x30000 */
#define LAYOUT_EBDA           0x9fc00ull     /* low memory ends */
#define LAYOUT_RSDP           0xe0000ull     /* ACPI tables from here */
#define LAYOUT_ACPI_SIZE      0x20000ull
#define LAYOUT_KERNEL         0x100000ull

/* Ports */
#define LAYOUT_PORT_I8042     0x60
#define LAYOUT_PORT_RTC       0x70
#define LAYOUT_PORT_DEBUGEXIT 0xf4
#define LAYOUT_PORT_COM1      0x3f8
#define LAYOUT_PORT_PM        0x600          /* PM1a event, control, PM timer: 16 bytes */
#define LAYOUT_SLP_TYP_S5     5              /* SLP_TYP that the PM block and \_S5 agree on */
#define LAYOUT_PORT_PCI_ADDR  0xcf8
#define LAYOUT_PORT_RESET     0xcf9
#define LAYOUT_PORT_PCI_IO    0xc000         /* window for I/O BARs, to 0xffff */
#define LAYOUT_PORT_PCI_IO_SIZE 0x4000

/* gsi */
#define LAYOUT_GSI_KBD        1
#define LAYOUT_GSI_COM1       4
#define LAYOUT_GSI_RTC        8
#define LAYOUT_GSI_SCI        9
#define LAYOUT_GSI_PCI        16             /* INTx: 16 + (slot + pin) % 8 */
#define LAYOUT_NR_GSI_PCI     8
#define LAYOUT_NR_IOAPIC_PINS 24
#define LAYOUT_GSI_MSI        24             /* first gsi free for MSI routes */

#endif
