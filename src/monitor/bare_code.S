/* SPDX-License-Identifier: MIT
 * Code of the bare-metal guests (see bare.h). 64-bit mode, copied as it is to
 * BARE_CODE in the guest: position-independent, and as short as can be, as
 * some KVM halves emulate ring 0 at a microsecond an instruction.
 *
 * Registers are set by the host before an entry is run:
 *   rax value, dx port, rdi address, rcx count.  gs: base of the CPU's own page.
 */
#include "monitor/bare_layout.h"

	.section .rodata
	.code64
	.balign 16
	.globl bare_code, bare_code_end, bare_vectors
	.globl bare_idle, bare_spin, bare_out4, bare_out2, bare_out1, bare_in4
	.globl bare_repeat_out2, bare_repeat_out4, bare_repeat_mmio2, bare_repeat_mmio4
	.globl bare_repeat_mmio8
	.globl bare_mmio1, bare_mmio2, bare_mmio4, bare_mmio8, bare_mmio_load, bare_cli_halt

/*
 * One stub of 16 bytes a vector. Interrupts are counted in the CPU's page and
 * acknowledged; exceptions are counted and end the guest.
 */
bare_code:
bare_vectors:
	.set	vector, 0
	.rept	256
	.balign 16
	incq	%gs:BARE_PAGE_COUNT + 8 * vector
	.if	vector < 32 && vector != 2
	jmp	fatal
	.elseif	vector == 2
	iretq
	.else
	jmp	eoi
	.endif
	.set	vector, vector + 1
	.endr

	.balign 16
/* Where EOI goes is the CPU page's word: the local APIC, or RAM where there is none. */
eoi:
	push	%rax
	mov	%gs:BARE_PAGE_EOI, %rax
	movl	$0, (%rax)
	pop	%rax
	iretq

fatal:
	out	%al, $BARE_PORT_FATAL
	jmp	fatal

/* Wait for interrupts. */
bare_idle:
	sti
	hlt
	jmp	bare_idle

/* Halt with interrupts off: nothing but INIT, NMI or SMI gets in. */
bare_cli_halt:
	cli
	hlt
	jmp	bare_cli_halt

/* Run for ever: in ring 3 (the host sets the segments). */
bare_spin:
	pause
	jmp	bare_spin

/* Kicks: one access, then tell the host that it is done. */
	.macro	kick name, insn:vararg
\name:
	\insn
	out	%al, $BARE_PORT_DONE
	jmp	\name
	.endm

	kick	bare_out1, out %al, %dx
	kick	bare_out2, out %ax, %dx
	kick	bare_out4, out %eax, %dx
	kick	bare_in4, in %dx, %eax
	kick	bare_mmio1, movb %al, (%rdi)
	kick	bare_mmio2, movw %ax, (%rdi)
	kick	bare_mmio4, movl %eax, (%rdi)
	kick	bare_mmio8, movq %rax, (%rdi)
	kick	bare_mmio_load, movl (%rdi), %eax

/* The same rcx times over, then tell the host and wait for interrupts. */
	.macro	repeat name, insn:vararg
\name:
	\insn
	dec	%rcx
	jnz	\name
	out	%al, $BARE_PORT_DONE
	jmp	bare_idle
	.endm

	repeat	bare_repeat_out2, out %ax, %dx
	repeat	bare_repeat_out4, out %eax, %dx
	repeat	bare_repeat_mmio2, movw %ax, (%rdi)
	repeat	bare_repeat_mmio4, movl %eax, (%rdi)
	repeat	bare_repeat_mmio8, movq %rax, (%rdi)
bare_code_end:

	.section .note.GNU-stack, "", @progbits
