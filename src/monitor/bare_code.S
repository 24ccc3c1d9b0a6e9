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
	.globl bare_mixed, bare_ipi_icr, bare_ipi_pv
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
/* Halt while told so; what comes between the look and hlt wakes it all the same, or is the last. */
bare_mixed:
	sti
1:	pause
	cmpq	$0, %gs:BARE_PAGE_HALT
	je	1b
	hlt
	jmp	1b

/*
 * rcx times: each of BARE_IPI_VECTORS vectors to the CPUs in the upper half of rax,
 * from the vector in its lower on; then wait until all CPUs have counted all. rdi is
 * where CPU 0 counts the first; r10 is how many each must have.
 */
	.macro	ipi name, send
\name:
	mov	%rax, %r8
	mov	%rcx, %r12
	xor	%r10d, %r10d
	sti
1:	inc	%r10
	xor	%r13d, %r13d
2:	lea	(%r8, %r13), %rsi
	movzbl	%sil, %esi
	\send
	inc	%r13
	cmp	$BARE_IPI_VECTORS, %r13
	jb	2b
	mov	%r8, %r11
	shr	$32, %r11
	mov	%rdi, %r9
3:	test	$1, %r11b
	jz	5f
	xor	%r13d, %r13d
4:	pause
	cmp	%r10, (%r9, %r13, 8)
	jb	4b
	inc	%r13
	cmp	$BARE_IPI_VECTORS, %r13
	jb	4b
5:	add	$0x1000, %r9
	shr	$1, %r11
	jnz	3b
	dec	%r12
	jnz	1b
	out	%al, $BARE_PORT_DONE
	jmp	bare_idle
	.endm

/* Intel SDM "Interrupt Command Register (ICR)": fixed, logical destination. */
	.macro	send_icr
	mov	$0xfee00300, %edx
	mov	%r8, %rax
	shr	$32, %rax
	shl	$24, %eax
	mov	%eax, 0x10(%rdx)
	or	$0x800, %esi
	mov	%esi, (%rdx)
	.endm

/* Documentation/virt/kvm/x86/hypercalls.rst, "KVM_HC_SEND_IPI" */
	.macro	send_pv
	mov	$10, %eax
	mov	%r8, %rbx
	shr	$32, %rbx
	xor	%ecx, %ecx
	xor	%edx, %edx
	vmcall
	.endm

	ipi	bare_ipi_icr, send_icr
	ipi	bare_ipi_pv, send_pv
bare_code_end:

	.section .note.GNU-stack, "", @progbits
