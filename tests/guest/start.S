/* SPDX-License-Identifier: MIT
 * PVH entry (Xen "x86/HVM direct boot ABI"): 32-bit protected mode, no paging,
 * ebx = hvm_start_info. Goes to 64-bit mode by tables made at build time, since
 * some KVM halves emulate each instruction, then calls guest_main(info).
 */
	.section .note.pvh, "a", @note
	.balign 4
	.long	4, 8, 18        /* name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz	"Xen"
	.quad	start32

	.text
	.code32
	.globl	start32
start32:
	lgdt	gdt_pointer
	movl	$pml4, %eax
	movl	%eax, %cr3
	movl	$0x20, %eax              /* PAE */
	movl	%eax, %cr4
	movl	$0xc0000080, %ecx        /* EFER: LME */
	movl	$0x100, %eax
	xorl	%edx, %edx
	wrmsr
	movl	$0x80000011, %eax        /* PG, ET, PE */
	movl	%eax, %cr0
	ljmp	$8, $start64

	.code64
start64:
	movl	$0x10, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	movl	$stack_end, %esp
	movl	%ebx, %edi
	call	guest_main
1:	cli
	hlt
	jmp	1b

	.data
	.balign 8
gdt:	.quad	0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
	.word	. - gdt - 1
	.long	gdt

/* Identity: GiB 0, and GiB 3 (devices, local APIC), by 2 MiB pages. */
	.balign 4096
pml4:	.quad	pdpt + 3
	.fill	511, 8, 0
pdpt:	.quad	pd_low + 3, 0, 0, pd_high + 3
	.fill	508, 8, 0
	.set	page, 0
pd_low:	.rept	512
	.quad	page + 0x83
	.set	page, page + 0x200000
	.endr
	.set	page, 0xc0000000
pd_high:
	.rept	512
	.quad	page + 0x9b
	.set	page, page + 0x200000
	.endr

	.bss
	.balign 16
	.skip	8192
stack_end:
	.section .note.GNU-stack, "", @progbits
