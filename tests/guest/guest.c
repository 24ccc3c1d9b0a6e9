/* SPDX-License-Identifier: MIT */
#include "guest.h"

static struct idt_gate {
	uint16_t low, selector, flags, middle;
	uint32_t high, zero;
} idt[256] __attribute__((aligned(16)));

const char *guest_cmdline(uint64_t info)
{
	/* struct hvm_start_info: magic, version, flags, nr_modules, modlist, cmdline */
	if (!info || *(const uint32_t *)info != 0x336ec578)
		return 0;
	return (const char *)*(const uint64_t *)(info + 24);
}

void serial_puts(const char *s)
{
	for (; *s; s++) {
		while (!(inb(PORT_COM1 + 5) & 0x20))
			;
		outb(PORT_COM1, (uint8_t)*s);
	}
}

void idt_set(uint8_t vector, void (*handler)(struct interrupt_frame *))
{
	uint64_t at = (uint64_t)handler;
	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} pointer = { sizeof(idt) - 1, (uint64_t)idt };

	idt[vector] = (struct idt_gate){
		.low = (uint16_t)at, .selector = 8, .flags = 0x8e00,
		.middle = (uint16_t)(at >> 16), .high = (uint32_t)(at >> 32),
	};
	__asm__ volatile("lidt %0" : : "m"(pointer));
}
