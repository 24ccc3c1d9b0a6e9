/* SPDX-License-Identifier: MIT
 * Does what its command line says:
 *
 *   exit=N   debug exit with code N          off      ACPI power-off
 *   hello    print a line, debug exit 0      echo     echo input; 'q' ends it
 *   reset    reset once, then debug exit 0   triple   triple fault
 *   ipi      take an interrupt from itself   halt     halt for ever
 */
#include "guest.h"

/* In memory that no image covers: it outlives a reset. */
#define RESET_FLAG (*(volatile uint32_t *)0x180000)
#define RESET_SEEN 0x5eed

static volatile int taken;

__attribute__((interrupt)) static void on_ipi(struct interrupt_frame *f)
{
	taken++;
	lapic_eoi();
}

static bool is(const char *text, const char *word)
{
	while (*word && *text == *word)
		text++, word++;
	return !*word;
}

static uint32_t number(const char *s)
{
	uint32_t v = 0;

	for (; *s >= '0' && *s <= '9'; s++)
		v = v * 10 + (uint32_t)(*s - '0');
	return v;
}

static void echo(void)
{
	uint8_t c;

	do {
		while (!(inb(PORT_COM1 + 5) & 1))
			;
		c = inb(PORT_COM1);
		outb(PORT_COM1, c);
	} while (c != 'q');
	debug_exit(0);
}

static void reset_once(void)
{
	if (RESET_FLAG == RESET_SEEN) {
		serial_puts("again\n");
		debug_exit(0);
	}
	RESET_FLAG = RESET_SEEN;
	outb(PORT_RESET, 0x06);
}

static void triple_fault(void)
{
	static const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) none = { 0 };

	/* GiB 2 is not mapped: a page fault, and nobody to take it or what follows. */
	__asm__ volatile("lidt %0" : : "m"(none));
	mmio_write(0x80000000ull, 0);
}

static void self_ipi(void)
{
	idt_set(0x40, on_ipi);
	lapic_enable();
	lapic_self_ipi(0x40);
	while (!taken)
		wait_interrupt();
	debug_exit(taken == 1 ? 0 : 2);
}

void guest_main(uint64_t info)
{
	const char *what = guest_cmdline(info);

	if (!what)
		debug_exit(99);
	else if (is(what, "exit="))
		debug_exit(number(what + 5));
	else if (is(what, "hello")) {
		serial_puts("hello from the guest\n");
		debug_exit(0);
	} else if (is(what, "off"))
		outw(PORT_PM_CNT, 5 << 10 | 1 << 13); /* SLP_TYP of _S5, SLP_EN */
	else if (is(what, "echo"))
		echo();
	else if (is(what, "reset"))
		reset_once();
	else if (is(what, "triple"))
		triple_fault();
	else if (is(what, "ipi"))
		self_ipi();
	else if (!is(what, "halt"))
		debug_exit(98);
}
