/* SPDX-License-Identifier: MIT
 * A bare-metal guest with one virtio device (virtio-rng, modern, over PCI, MSI-X),
 * whose host is bench/compare/events.c as a vhost-user back-end. After each
 * interrupt it waits a little and rings the doorbell, with the time of each in the
 * mailbox. No request is ever made: only the two events are of interest.
 * VIRTIO 1.2, "Virtio Over PCI Bus"; PCI Local Bus 3.0, "Configuration Mechanism".
 */
#include "guest.h"
#include "mailbox.h"

#define M       ((struct mailbox *)MAILBOX)
#define RINGS   0x310000ull
#define BAR_NEW 0xe8000000u /* for a BAR beyond what start.S maps */

static uint32_t slot; /* CONFIG_ADDRESS of the device */

static inline uint32_t inl(uint16_t port)
{
	uint32_t v;

	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

static uint32_t pci_read(unsigned off)
{
	outl(0xcf8, slot | (off & 0xfc));
	return inl(0xcfc) >> 8 * (off & 3);
}

static void pci_write(unsigned off, uint32_t v)
{
	outl(0xcf8, slot | (off & 0xfc));
	outl(0xcfc, v);
}

static void give_up(uint32_t line)
{
	M->failed = line;
	for (;;)
		__asm__ volatile("cli; hlt");
}

#define NEED(what) do { if (!(what)) give_up(__LINE__); } while (0)

static void find_device(void)
{
	for (unsigned i = 0; i < 32; i++) {
		slot = 0x80000000u | i << 11;
		if (pci_read(0) == 0x10441af4)
			return;
	}
	give_up(__LINE__);
}

/* Where the BAR is; one that is out of reach is moved. */
static uint64_t bar(unsigned nr)
{
	unsigned off = 0x10 + 4 * nr;
	uint32_t low = pci_read(off);

	if (low & 1)
		return low & ~3u;
	if ((low & 6) == 4 && pci_read(off + 4)) {
		pci_write(off + 4, 0);
		pci_write(off, BAR_NEW + nr * 0x100000);
		low = pci_read(off);
	}
	NEED(low >= 0xc0000000u);
	return low & ~15u;
}

static uint64_t common, notify_mmio;
static uint16_t notify_pio;

static void read_capabilities(void)
{
	uint64_t msix = 0;

	for (unsigned at = pci_read(0x34) & 0xfc; at; at = pci_read(at + 1) & 0xfc) {
		uint8_t id = (uint8_t)pci_read(at), type = (uint8_t)pci_read(at + 3);

		if (id == 0x11) {
			uint32_t table = pci_read(at + 4);

			msix = bar(table & 7) + (table & ~7u);
			pci_write(at, (pci_read(at) & 0x3fffffff) | 0x80000000u);
		} else if (id == 9 && (type == 1 || type == 2)) {
			unsigned nr = pci_read(at + 4) & 7;
			uint64_t where = bar(nr) + pci_read(at + 8);

			if (type == 1) {
				common = where;
			} else if (pci_read(0x10 + 4 * nr) & 1) {
				notify_pio = (uint16_t)where;
			} else {
				notify_mmio = where;
			}
		}
	}
	NEED(msix && common && notify_mmio && notify_pio);
	pci_write(4, 7); /* ports, memory, bus master */
	mmio_write(msix, 0xfee00000u); /* entry 0: APIC 0, our vector, unmasked */
	mmio_write(msix + 4, 0);
	mmio_write(msix + 8, MAILBOX_VECTOR);
	mmio_write(msix + 12, 0);
}

#define STATUS (*(volatile uint8_t *)(common + 20))

static void w16(unsigned off, uint16_t v)
{
	*(volatile uint16_t *)(common + off) = v;
}

static uint16_t r16(unsigned off)
{
	return *(volatile uint16_t *)(common + off);
}

static void start_device(void)
{
	STATUS = 0;
	while (STATUS)
		;
	STATUS = 1;
	STATUS = 3;
	mmio_write(common + 8, 0);
	mmio_write(common + 12, 0);
	mmio_write(common + 8, 1);
	mmio_write(common + 12, 1); /* VIRTIO_F_VERSION_1 */
	STATUS = 11;
	NEED(STATUS & 8);
	w16(22, 0);
	w16(24, 4);
	w16(26, 0); /* MSI-X vector */
	NEED(r16(26) == 0);
	for (unsigned i = 0; i < 3; i++) {
		mmio_write(common + 32 + 8 * i, (uint32_t)RINGS + i * 0x1000);
		mmio_write(common + 36 + 8 * i, 0);
	}
	w16(28, 1);
	STATUS = 15;
	NEED(STATUS == 15);
}

static volatile uint64_t handled, handled_tsc;

__attribute__((interrupt)) static void on_call(struct interrupt_frame *f)
{
	handled_tsc = rdtsc();
	handled++;
	lapic_eoi();
}

/* Until the host says otherwise: what is our clock when you write? */
static void answer_pings(void)
{
	uint64_t seen = 0, ping;

	while ((ping = M->ping) != ~0ull)
		if (ping != seen) {
			M->pong_tsc = rdtsc();
			M->pong = seen = ping;
		}
}

void guest_main(uint64_t info)
{
	uint64_t seen = 0;

	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	lapic_enable();
	idt_set(MAILBOX_VECTOR, on_call);
	find_device();
	read_capabilities();
	start_device();
	M->magic = MAILBOX_MAGIC;
	answer_pings();
	for (;;) {
		uint64_t until;

		if (M->running) {
			__asm__ volatile("sti" : : : "memory");
			while (handled == seen)
				;
			__asm__ volatile("cli" : : : "memory");
		} else {
			while (handled == seen)
				wait_interrupt();
		}
		seen = handled;
		M->handler_tsc = handled_tsc;
		M->handled = handled;
		until = rdtsc() + M->delay;
		while (rdtsc() < until)
			;
		/* The serial number last: the host then has all of this event. */
		if (M->kick == MAILBOX_KICK_PIO) {
			M->doorbell_tsc = rdtsc();
			outw(notify_pio, 0);
		} else {
			M->doorbell_tsc = rdtsc();
			*(volatile uint16_t *)notify_mmio = 0;
		}
		M->after_tsc = rdtsc();
		M->rung = seen;
	}
}
