/* SPDX-License-Identifier: MIT
 * What a bare-metal guest has: ports, serial output, debug exit, its command
 * line, the local APIC and an IDT. No library below it, ring 0, 64-bit mode.
 */
#ifndef BELFRY_TESTS_GUEST_H
#define BELFRY_TESTS_GUEST_H

#include <stdbool.h>
#include <stdint.h>

#define PORT_COM1      0x3f8
#define PORT_DEBUGEXIT 0xf4
#define PORT_PM_CNT    0x604
#define PORT_RESET     0xcf9

static inline void outb(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t v)
{
	__asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}

static inline void outl(uint16_t port, uint32_t v)
{
	__asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline void mmio_write(uint64_t at, uint32_t v)
{
	*(volatile uint32_t *)at = v;
}

static inline uint32_t mmio_read(uint64_t at)
{
	return *(volatile uint32_t *)at;
}

static inline void debug_exit(uint32_t code)
{
	outl(PORT_DEBUGEXIT, code);
}

/* By the PVH start info: NULL if there is none. */
const char *guest_cmdline(uint64_t info);
void serial_puts(const char *s);

/* Local APIC (Intel SDM "Local APIC"): on, with this spurious vector. */
#define LAPIC 0xfee00000ull
static inline void lapic_enable(void)
{
	mmio_write(LAPIC + 0xf0, 0x1ff);
}

static inline void lapic_eoi(void)
{
	mmio_write(LAPIC + 0xb0, 0);
}

/* A fixed interrupt to this CPU itself. */
static inline void lapic_self_ipi(uint8_t vector)
{
	mmio_write(LAPIC + 0x300, 0x40000u | vector);
}

struct interrupt_frame {
	uint64_t rip, cs, rflags, rsp, ss;
};

/* handler: a function with __attribute__((interrupt)). The first call loads the IDT. */
void idt_set(uint8_t vector, void (*handler)(struct interrupt_frame *));

/* Wait for an interrupt with the flag set, so that none is missed in between; then clear it. */
static inline void wait_interrupt(void)
{
	__asm__ volatile("sti; hlt; cli" : : : "memory");
}

void guest_main(uint64_t info);

#endif
