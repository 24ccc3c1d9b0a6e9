/* SPDX-License-Identifier: MIT
 * Looks at everything the machine says of itself and takes an interrupt from
 * each chip through the IOAPIC. Says what fails and ends with debug exit 1; if
 * all is well it resets by the keyboard controller, does it all again, and
 * powers off by ACPI.
 */
#include "guest.h"

#define IOAPIC     0xfec00000ull
#define PM         0x600
#define RESET_FLAG (*(volatile uint32_t *)0x180000)
#define RESET_SEEN 0xb007b007

static volatile unsigned com, kbd, rtc, sci;

static void check(bool ok, const char *what)
{
	if (ok)
		return;
	serial_puts("FAIL: ");
	serial_puts(what);
	serial_puts("\n");
	debug_exit(1);
	for (;;)
		__asm__ volatile("hlt");
}

static uint16_t inw(uint16_t port)
{
	uint16_t v;

	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static uint32_t inl(uint16_t port)
{
	uint32_t v;

	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static bool equal(const char *a, const char *b, unsigned len)
{
	for (unsigned i = 0; i < len; i++)
		if (a[i] != b[i])
			return false;
	return true;
}

static uint8_t sum(uint64_t at, uint32_t len)
{
	uint8_t s = 0;

	while (len--)
		s += *(const uint8_t *)at++;
	return s;
}

static uint32_t u32(uint64_t at)
{
	return *(const volatile uint32_t *)at;
}

static uint64_t u64(uint64_t at)
{
	return *(const volatile uint64_t *)at;
}

/* ---- what is told --------------------------------------------------------- */

static void check_start_info(uint64_t info)
{
	bool here = false;

	check(u32(info) == 0x336ec578, "start info magic");
	check(u32(info + 4) == 1, "start info version");
	check(u32(info + 12) == 1, "one module");
	check(equal((const char *)u64(u64(info + 16)), "initrd!", 7), "module contents");
	check(u64(u64(info + 16) + 8) == 7, "module size");
	check(equal(guest_cmdline(info), "platform check", 15), "command line");
	for (uint32_t i = 0; i < u32(info + 48); i++) {
		uint64_t e = u64(info + 40) + i * 24;

		here |= u32(e + 16) == 1 && u64(e) <= 0x100000 && u64(e) + u64(e + 8) > 0x200000;
	}
	check(here, "memory map has the memory we run in");
}

static void check_acpi(uint64_t rsdp)
{
	unsigned seen = 0;
	uint64_t xsdt;

	check(equal((const char *)rsdp, "RSD PTR ", 8), "RSDP signature");
	check(!sum(rsdp, 20) && !sum(rsdp, 36), "RSDP checksums");
	xsdt = u64(rsdp + 24);
	check(equal((const char *)xsdt, "XSDT", 4) && !sum(xsdt, u32(xsdt + 4)), "XSDT");
	for (uint32_t at = 36; at < u32(xsdt + 4); at += 8) {
		uint64_t t = u64(xsdt + at);

		check(!sum(t, u32(t + 4)), "table checksum");
		if (equal((const char *)t, "FACP", 4)) {
			uint64_t dsdt = u64(t + 140);

			seen |= 1;
			check(equal((const char *)dsdt, "DSDT", 4) && !sum(dsdt, u32(dsdt + 4)),
			      "DSDT");
		}
		seen |= equal((const char *)t, "APIC", 4) ? 2 : 0;
		seen |= equal((const char *)t, "MCFG", 4) ? 4 : 0;
	}
	check(seen == 7, "FADT, MADT and MCFG");
}

/* ---- interrupts -------------------------------------------------------------- */

static void route(uint8_t pin, uint8_t vector, bool level)
{
	mmio_write(IOAPIC, 0x11u + 2 * pin);
	mmio_write(IOAPIC + 0x10, 0); /* to APIC 0 */
	mmio_write(IOAPIC, 0x10u + 2 * pin);
	mmio_write(IOAPIC + 0x10, vector | (level ? 1u << 15 : 0));
}

static volatile uint8_t com_iir;

__attribute__((interrupt)) static void on_com(struct interrupt_frame *f)
{
	com_iir = inb(PORT_COM1 + 2);
	com++;
	lapic_eoi();
}

__attribute__((interrupt)) static void on_kbd(struct interrupt_frame *f)
{
	kbd = inb(0x60);
	lapic_eoi();
}

__attribute__((interrupt)) static void on_rtc(struct interrupt_frame *f)
{
	outb(0x70, 0x0c);
	if ((inb(0x71) & 0xc0) == 0xc0)
		rtc++;
	lapic_eoi();
}

__attribute__((interrupt)) static void on_sci(struct interrupt_frame *f)
{
	if (inw(PM) & 0x100)
		sci++;
	outw(PM, 0x100);
	lapic_eoi();
}

static void check_serial(void)
{
	idt_set(0x34, on_com);
	route(4, 0x34, false);
	outb(PORT_COM1 + 2, 0x01);
	outb(PORT_COM1 + 1, 0x02); /* the transmitter is empty: now */
	while (!com)
		wait_interrupt();
	check(com_iir == 0xc2, "THRE interrupt");
	outb(PORT_COM1 + 1, 0x00);
	outb(PORT_COM1 + 4, 0x10);
	outb(PORT_COM1 + 1, 0x01);
	outb(PORT_COM1, 'x'); /* comes back */
	while (com < 2)
		wait_interrupt();
	check(com_iir == 0xc4, "receive interrupt");
	check(inb(PORT_COM1) == 'x', "looped byte");
	outb(PORT_COM1 + 1, 0x00);
	outb(PORT_COM1 + 4, 0x00);
}

static uint8_t kbc_command(uint8_t command)
{
	outb(0x64, command);
	while (!(inb(0x64) & 1))
		;
	return inb(0x60);
}

static void check_i8042(void)
{
	outb(0x64, 0x60);
	outb(0x60, 0x44); /* interrupt off while polling */
	check(kbc_command(0xaa) == 0x55, "i8042 self-test");
	check(kbc_command(0xab) == 0x00, "keyboard port test");
	check(kbc_command(0xa9) != 0x00, "no mouse");
	outb(0x64, 0x60);
	outb(0x60, 0x45);
	idt_set(0x31, on_kbd);
	route(1, 0x31, false);
	outb(0x60, 0xee);
	while (!kbd)
		wait_interrupt();
	check(kbd == 0xee, "keyboard echo");
}

static void check_rtc(void)
{
	uint8_t month;

	outb(0x70, 0x08);
	month = inb(0x71);
	check(month >= 0x01 && month <= 0x12 && (month & 15) < 10, "RTC month");
	idt_set(0x38, on_rtc);
	route(8, 0x38, false);
	outb(0x70, 0x0a);
	outb(0x71, 0x28); /* 256 Hz */
	outb(0x70, 0x0c);
	(void)inb(0x71);
	outb(0x70, 0x0b);
	outb(0x71, 0x42);
	while (rtc < 3)
		wait_interrupt();
	outb(0x70, 0x0b);
	outb(0x71, 0x02);
}

static void check_pm(void)
{
	uint32_t start = inl(PM + 8), waited;

	do
		waited = inl(PM + 8) - start;
	while (waited < 358); /* 100 us */
	check(waited < 3579545, "PM timer runs at its rate");
	check(inw(PM + 4) & 1, "SCI_EN");
	idt_set(0x39, on_sci);
	route(9, 0x39, true);
	outw(PM + 2, 0x100);
	serial_puts("press\n");
	while (!sci)
		wait_interrupt();
	check(sci == 1, "one SCI for one press");
	outw(PM + 2, 0);
}

void guest_main(uint64_t info)
{
	check_start_info(info);
	check_acpi(u64(info + 32));
	outb(0x21, 0xff); /* the PICs hear the same lines */
	outb(0xa1, 0xff);
	lapic_enable();
	check_serial();
	check_i8042();
	check_rtc();
	check_pm();
	outl(0xcf8, 0x80000600); /* a byte of it looks like a reset */
	check(inl(0xcf8) == 0x80000600, "PCI address register");
	serial_puts("platform ok\n");
	if (RESET_FLAG != RESET_SEEN) {
		RESET_FLAG = RESET_SEEN;
		outb(0x64, 0xfe);
	} else {
		outw(PM + 4, 5 << 10 | 1 << 13);
	}
	for (;;)
		__asm__ volatile("hlt");
}
