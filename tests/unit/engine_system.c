/* SPDX-License-Identifier: MIT
 *
 * Bare-metal guests through engine_run(): modes, paging faults, exceptions,
 * SYSCALL, interrupts.
 */
#include "../lib/engine_snippet.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

/* ---- modes ---- */

SNIPPET(boot, ".code16\n"
	      "cli\n xorw %ax,%ax\n movw %ax,%ds\n movw %ax,%ss\n movw $0x9000,%sp\n"
	      "pushw $0x1234\n popw %bx\n movl $0x11223344, 0x600\n movw 0x602, %dx\n"
	      "call 1f\n jmp 2f\n1: incw %bx\n ret\n2:\n"
	      "lgdtl 0x700\n movl %cr0,%eax\n orl $1,%eax\n movl %eax,%cr0\n"
	      "ljmpl $0x40, $(0x10000 + 3f - sn_boot)\n"
	      ".code32\n3: movw $0x10,%ax\n movw %ax,%ds\n movw %ax,%es\n movw %ax,%ss\n movl $0x9000,%esp\n"
	      "pushal\n popal\n pushl $0x55\n popl %esi\n daa\n"
	      "movl $0x620,%eax\n movl %eax,%cr4\n movl $0x100000,%eax\n movl %eax,%cr3\n"
	      "movl $0xc0000080,%ecx\n rdmsr\n orl $0x900,%eax\n wrmsr\n"
	      "movl $0x80010033,%eax\n movl %eax,%cr0\n"
	      "ljmpl $8, $(0x10000 + 4f - sn_boot)\n"
	      ".code64\n4: movabs $0x1122334455667788, %rax\n mov %cr0,%rcx\n int3\n");

static void boots_from_real_to_long_mode(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	struct engine_sregs s;
	struct engine_regs r;
	const uint8_t gdtr[6] = {0x7f, 0, ENV_GDT & 0xff, ENV_GDT >> 8, 0, 0};

	for (int w = 0; w < 3; w++) {
		PUT(e, LOAD, boot);
		memcpy(e->ram + 0x700, gdtr, 6);
		engine_vcpu_reset(e->cpu[0], false);
		engine_get_sregs(e->cpu[0], &s);
		assert_int_equal(s.seg[1].base, 0xffff0000u);
		s.seg[1].base = LOAD;
		s.seg[1].selector = LOAD >> 4;
		assert_int_equal(engine_set_sregs(e->cpu[0], &s), 0);
		engine_get_regs(e->cpu[0], &r);
		assert_int_equal(r.rip, 0xfff0);
		r.rip = 0;
		engine_set_regs(e->cpu[0], &r);
		engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | env_ways[w]);
		do
			assert_int_equal(engine_run(e->cpu[0], &x), 0);
		while (x.reason == ENGINE_EXIT_DEBUG && x.vector != 3);
		assert_int_equal(x.reason, ENGINE_EXIT_DEBUG);
		r = regs(e);
		assert_int_equal(r.gpr[0], 0x1122334455667788ull);
		assert_int_equal(r.gpr[1], 0x80010033u);
		assert_int_equal(r.gpr[3] & 0xffff, 0x1235);
		assert_int_equal(r.gpr[2] & 0xffff, 0x0);
		assert_int_equal(*(uint16_t *)(e->ram + 0x602), 0x1122);
		assert_int_equal(r.gpr[6], 0x55);
		engine_get_sregs(e->cpu[0], &s);
		assert_true(s.efer & 0x400);
		assert_int_equal(s.seg[1].l, 1);
	}
	env_destroy(e);
}

/* ---- paging ---- */

SNIPPET(load_rax, "mov (%rdi),%rax\nint3");
SNIPPET(store_rax, "mov %rax,(%rdi)\nint3");
SNIPPET(jump_rdi, "jmp *%rdi");
SNIPPET(rmw, "lock addl $1,(%rdi)\nint3");

static void fault_case(uint64_t flags, unsigned int cpl, char op, uint64_t cr4, int vector, uint64_t error)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	struct env_frame f;
	struct engine_sregs s;
	int v;

	env_map(e, LOAD, LOAD, PTE_P_ | (cpl == 3 ? PTE_U_ : 0));
	/* all levels above allow the user */
	*env_pte(e, VA) = flags ? PA | flags : 0;
	if (op == 'r')
		PUT(e, LOAD, load_rax);
	else if (op == 'w')
		PUT(e, LOAD, store_rax);
	else if (op == 'm')
		PUT(e, LOAD, rmw);
	else
		PUT(e, LOAD, jump_rdi);
	memset(e->ram + PA, 0xcc, 16);
	env_start(e, 0, cpl, LOAD, ENV_KSTACK - 256);
	set_cr4(e, cr4, 0);
	set_gpr(e, 0, 7, VA + 8);
	v = env_run(e, 0, &x);
	assert_int_equal(v, vector);
	if (vector == 14) {
		env_frame(e, 0, v, &f);
		engine_get_sregs(e->cpu[0], &s);
		assert_int_equal(f.error, error);
		assert_int_equal(s.cr2, VA + 8);
		assert_int_equal(f.rip, op == 'x' ? VA + 8 : LOAD);
		assert_int_equal(f.cs & 3, cpl);
	} else {
		uint64_t pte = *env_pte(e, VA);

		assert_true(pte & PTE_A_);
		assert_int_equal(!!(pte & PTE_D_), op == 'w' || op == 'm');
	}
	env_destroy(e);
}

static void page_faults_have_exact_error_codes(void **state)
{
	const uint64_t p = PTE_P_, w = PTE_W_, u = PTE_U_, smep = 1ull << 20, smap = 1ull << 21;

	fault_case(0, 3, 'r', 0, 14, 4);
	fault_case(0, 3, 'w', 0, 14, 6);
	fault_case(0, 3, 'x', 0, 14, 0x14);
	fault_case(0, 0, 'r', 0, 14, 0);
	fault_case(0, 0, 'm', 0, 14, 2);
	fault_case(p | w, 3, 'r', 0, 14, 5);
	fault_case(p | u, 3, 'w', 0, 14, 7);
	fault_case(p | u, 3, 'm', 0, 14, 7);
	fault_case(p | u | PTE_NX_, 3, 'x', 0, 14, 0x15);
	fault_case(p | PTE_NX_, 0, 'x', 0, 14, 0x11);
	fault_case(p, 0, 'w', 0, 14, 3); /* WP */
	fault_case(p | w | u | 1ull << 51, 0, 'r', 0, 14, 9);
	fault_case(p | w | u, 0, 'x', smep, 14, 0x11);
	fault_case(p | w | u, 0, 'r', smap, 14, 1);
	fault_case(p | w | u, 0, 'w', smap, 14, 3);
	fault_case(p | w | u, 0, 'r', smep, 256, 0);
	fault_case(p | w | u, 3, 'w', smap, 256, 0);
	fault_case(p | w, 0, 'm', smap | smep, 256, 0);
}

SNIPPET(stac, "stac\nmov (%rdi),%rax\nclac\nmov (%rdi),%rbx\nint3");

static void stac_opens_user_pages(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	struct env_frame f;

	env_map(e, VA, PA, PTE_P_ | PTE_W_ | PTE_U_);
	memset(e->ram + PA, 0x5a, 8);
	PUT(e, LOAD, stac);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	set_cr4(e, 1u << 21, 0);
	set_gpr(e, 0, 7, VA);
	assert_int_equal(env_run(e, 0, &x), 14);
	env_frame(e, 0, 14, &f);
	assert_int_equal(f.rip - LOAD, 3 + 3 + 3);
	assert_int_equal(regs(e).gpr[0], 0x5a5a5a5a5a5a5a5aull);
	assert_int_equal(f.rflags >> 18 & 1, 0);
	env_destroy(e);
}

SNIPPET(remap, "mov (%rdi),%rax\nmov %rsi,(%rdx)\nmov (%rdi),%rbx\ninvlpg (%rdi)\nmov (%rdi),%rcx\nint3");

static void invlpg_forgets_a_translation(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	uint64_t at;

	env_map(e, VA, PA, PTE_P_ | PTE_W_);
	at = (uint64_t)((uint8_t *)env_pte(e, VA) - e->ram);
	env_map(e, 0x50000000, at & ~4095ull, PTE_P_ | PTE_W_);
	memset(e->ram + PA, 1, 8);
	memset(e->ram + PA + 4096, 2, 8);
	PUT(e, LOAD, remap);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	set_gpr(e, 0, 7, VA);
	set_gpr(e, 0, 6, (PA + 4096) | PTE_P_ | PTE_W_ | PTE_A_);
	set_gpr(e, 0, 2, 0x50000000 + (at & 4095));
	assert_int_equal(env_run(e, 0, &x), 256);
	assert_int_equal(regs(e).gpr[0], 0x0101010101010101ull);
	assert_int_equal(regs(e).gpr[1], 0x0202020202020202ull);
	env_destroy(e);
}

static void large_pages_translate(void **state)
{
	struct env *e = env_create(1);
	uint64_t *pml4 = (uint64_t *)(e->ram + ENV_PT), *pdpt, *pd;
	struct engine_exit x;
	gpa_t gpa;
	bool w, u;

	(void)env_pte(e, 0x80000000ull);
	pdpt = (uint64_t *)(e->ram + (pml4[0] & ~4095ull));
	pd = (uint64_t *)(e->ram + (pdpt[2] & ~4095ull));
	pd[1] = 0x400000 | PTE_P_ | PTE_PS_;		   /* 2 MiB, read-only */
	pdpt[3] = PTE_P_ | PTE_W_ | PTE_PS_ | PTE_U_;	   /* 1 GiB */
	assert_int_equal(engine_translate(e->cpu[0], 0x80345678, &gpa, &w, &u), 0);
	assert_int_equal(gpa, 0x545678);
	assert_false(w);
	assert_int_equal(engine_translate(e->cpu[0], 0xc0345678, &gpa, &w, &u), 0);
	assert_int_equal(gpa, 0x345678);
	assert_true(w && u);
	assert_int_equal(engine_translate(e->cpu[0], 0x90000000, &gpa, &w, &u), -EFAULT);
	PUT(e, LOAD, store_rax);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	set_gpr(e, 0, 7, 0xc0345678);
	set_gpr(e, 0, 0, 77);
	assert_int_equal(env_run(e, 0, &x), 256);
	assert_int_equal(*(uint64_t *)(e->ram + 0x345678), 77);
	assert_true(pdpt[3] & PTE_D_);
	env_destroy(e);
}

/* ---- exceptions ---- */

SNIPPET(int80, "int $0x80\nmov $7,%eax\nint3");
SNIPPET(count_iret, "incq 0x6000\nmov %rsp,0x6008\niretq");

static void int_and_iret_change_privilege(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	struct env_frame f;

	env_map(e, LOAD, LOAD, PTE_P_ | PTE_U_);
	PUT(e, LOAD, int80);
	PUT(e, 0x5000, count_iret);
	set_idt(e, 0x80, 0x5000, 0, 3);
	env_start(e, 0, 3, LOAD, 0x12340);
	assert_int_equal(env_run(e, 0, &x), 256);
	assert_int_equal(*(uint64_t *)(e->ram + 0x6000), 1);
	assert_int_equal(*(uint64_t *)(e->ram + 0x6008), ENV_KSTACK - 40);
	assert_int_equal(regs(e).gpr[4], 0x12340);
	assert_int_equal(regs(e).gpr[0], 7);
	/* on an IST stack */
	set_idt(e, 0x80, 0x5000, 1, 3);
	env_start(e, 0, 3, LOAD, 0x12340);
	assert_int_equal(env_run(e, 0, &x), 256);
	assert_int_equal(*(uint64_t *)(e->ram + 0x6008), ENV_IST1 - 40);
	/* the gate's DPL forbids it */
	set_idt(e, 0x80, 0x5000, 0, 0);
	env_start(e, 0, 3, LOAD, 0x12340);
	assert_int_equal(env_run(e, 0, &x), 13);
	env_frame(e, 0, 13, &f);
	assert_int_equal(f.error, 0x80 * 8 + 2);
	assert_int_equal(f.rip, LOAD);
	env_destroy(e);
}

SNIPPET(divide, "xor %ecx,%ecx\nmov $5,%eax\nxor %edx,%edx\ndiv %r9d\nint3");
SNIPPET(ud, "ud2");
SNIPPET(bad_stack, "push %rax\nint3");

static void double_and_triple_faults(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	struct env_frame f;
	struct engine_sregs s;

	PUT(e, LOAD, divide);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	assert_int_equal(env_run(e, 0, &x), 0);
	env_frame(e, 0, 0, &f);
	assert_int_equal(f.rip - LOAD, 9);
	/* #PF on the way to a #PF: #DF on its IST stack */
	PUT(e, LOAD, bad_stack);
	env_start(e, 0, 0, LOAD, 0x70000000);
	assert_int_equal(env_run(e, 0, &x), 8);
	env_frame(e, 0, 8, &f);
	assert_int_equal(f.error, 0);
	assert_int_equal(f.rip, LOAD);
	assert_int_equal(f.rsp, 0x70000000);
	/* no IDT at all: shutdown */
	PUT(e, LOAD, ud);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	engine_get_sregs(e->cpu[0], &s);
	s.idt.limit = 0;
	assert_int_equal(engine_set_sregs(e->cpu[0], &s), 0);
	assert_int_equal(env_run(e, 0, &x), -(int)ENGINE_EXIT_SHUTDOWN - 1);
	env_destroy(e);
}

/* Addresses through R9 and R10, which are not in registers of the host: with a displacement, without,
 * with an index, off a segment. */
SNIPPET(walk_pages, "1: mov 8(%r9),%rax\nadd %rax,%rbx\nmov %rax,16(%r9)\nadd $0x1000,%r9\n"
		    "add (%r9),%rbx\nmov (%r9,%r10,8),%rax\nadd %rax,%rbx\nadd $0x1000,%r9\n"
		    "mov %gs:8(%r9),%rax\nadd %rax,%rbx\nadd $0x1000,%r9\n"
		    "dec %ecx\njnz 1b\nint3");

static void first_touch_of_a_page_stays_in_translated_code(void **state)
{
	enum { PAGES = 96, TOUCHED = 0x40000000 };
	struct env *e = env_create(1);
	struct engine_stats before, after;
	struct engine_exit x;
	uint64_t sum = 0;

	PUT(e, LOAD, walk_pages);
	for (unsigned int i = 0; i < PAGES; i++) {
		uint64_t *p = (uint64_t *)(e->ram + 0x200000 + 4096 * i);

		env_map(e, TOUCHED + 4096 * i, 0x200000 + 4096 * i, PTE_P_ | PTE_W_);
		p[0] = i;
		p[1] = 1000 + i;
		/* the index is 1: the same word as with the displacement */
		sum += i % 3 == 1 ? p[0] + p[1] : p[1];
	}
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	set_gpr(e, 0, 9, TOUCHED);
	set_gpr(e, 0, 10, 1);
	set_gpr(e, 0, 3, 0);
	set_gpr(e, 0, 1, PAGES / 3);
	engine_get_stats(e->cpu[0], &before);
	assert_int_equal(env_run(e, 0, &x), 256);
	engine_get_stats(e->cpu[0], &after);
	assert_int_equal(regs(e).gpr[3], sum);
	for (unsigned int i = 0; i < PAGES; i += 3)
		assert_int_equal(*(uint64_t *)(e->ram + 0x200000 + 4096 * i + 16), 1000 + i);
	/* an INT3, its frame; not an instruction a page */
	assert_in_range(after.bounced - before.bounced, 0, 8);
	env_destroy(e);
}

SNIPPET(user_syscall, "mov $1,%eax\nsyscall\nint3");
SNIPPET(kernel_syscall, "swapgs\nmov %gs:0,%rbx\nadd $41,%eax\nswapgs\nsysretq");

static void syscall_and_sysret(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	struct engine_regs r;
	struct engine_sregs s;

	env_map(e, LOAD, LOAD, PTE_P_ | PTE_U_);
	PUT(e, LOAD, user_syscall);
	PUT(e, 0x5000, kernel_syscall);
	*(uint64_t *)(e->ram + 0x6000) = 0xabcdef;
	env_start(e, 0, 3, LOAD, 0x12340);
	assert_int_equal(engine_set_msr(e->cpu[0], 0xc0000081, 0x0018000800000000ull), 0);
	assert_int_equal(engine_set_msr(e->cpu[0], 0xc0000082, 0x5000), 0);
	assert_int_equal(engine_set_msr(e->cpu[0], 0xc0000084, 0x200), 0);
	assert_int_equal(engine_set_msr(e->cpu[0], 0xc0000102, 0x6000), 0);
	set_flags(e, 0, 0x202);
	assert_int_equal(env_run(e, 0, &x), 256);
	r = regs(e);
	assert_int_equal(r.gpr[0], 42);
	assert_int_equal(r.gpr[3], 0xabcdef);
	assert_int_equal(r.gpr[1], LOAD + 7);
	assert_int_equal(r.rflags & 0x200, 0x200);
	engine_get_sregs(e->cpu[0], &s);
	assert_int_equal(s.seg[1].selector, SEL_UCODE);
	assert_int_equal(s.seg[2].dpl, 3);
	/* SCE off: #UD */
	env_start(e, 0, 3, LOAD, 0x12340);
	engine_get_sregs(e->cpu[0], &s);
	s.efer &= ~1ull;
	assert_int_equal(engine_set_sregs(e->cpu[0], &s), 0);
	assert_int_equal(env_run(e, 0, &x), 6);
	env_destroy(e);
}

SNIPPET(compat, "push $0x1b\nlea 1f(%rip),%rax\npush %rax\nlretq\n.code32\n1: movl $0x12345678,%eax\n incl %eax\n"
		"pushl %eax\n popl %ebx\n leal (%ebx,%eax,2),%ecx\n movl %ecx, 0x12000\n call 2f\n int3\n2: movl $9,%edi\n ret\n");

static void compatibility_mode_runs(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	struct engine_regs r;

	for (int w = 0; w < 3; w++) {
		for (uint64_t p = LOAD; p < LOAD + 0x4000; p += 4096)
			env_map(e, p, p, PTE_P_ | PTE_W_ | PTE_U_);
		PUT(e, LOAD, compat);
		env_start(e, 0, 3, LOAD, LOAD + 0x3000);
		engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | env_ways[w]);
		do
			assert_int_equal(engine_run(e->cpu[0], &x), 0);
		while (x.reason == ENGINE_EXIT_DEBUG && x.vector != 3);
		r = regs(e);
		assert_int_equal(x.reason, ENGINE_EXIT_DEBUG);
		assert_int_equal(r.gpr[0], 0x12345679);
		assert_int_equal(r.gpr[1], (uint32_t)(0x12345679u * 3));
		assert_int_equal(*(uint32_t *)(e->ram + 0x12000), (uint32_t)(0x12345679u * 3));
		assert_int_equal(r.gpr[7], 9);
		assert_int_equal(r.gpr[4], LOAD + 0x3000);
	}
	env_destroy(e);
}

/* ---- interrupts ---- */

SNIPPET(spin, "sti\n1: inc %rax\njmp 1b");
SNIPPET(sti_shadow, "xor %eax,%eax\nsti\ninc %eax\ninc %eax\ninc %eax\nint3");
SNIPPET(sti_hlt, "sti\nhlt\nmov $5,%ebx\nint3");

struct kicker {
	struct env *e;
	unsigned int cpu;
};

static void *kick_thread(void *p)
{
	struct kicker *k = p;

	for (volatile int i = 0; i < 2000000; i++)
		;
	k->e->vector[k->cpu] = 0x77;
	engine_vcpu_kick(k->e->cpu[k->cpu], ENGINE_KICK_INTR);
	return NULL;
}

static void interrupts_reach_a_spinning_guest(void **state)
{
	struct env *e = env_create(1);
	struct kicker k = {e, 0};
	struct engine_exit x;
	pthread_t t;

	PUT(e, LOAD, spin);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	assert_int_equal(pthread_create(&t, NULL, kick_thread, &k), 0);
	assert_int_equal(env_run(e, 0, &x), 0x77);
	pthread_join(t, NULL);
	assert_true(regs(e).gpr[0] > 0);
	/* a kick to leave */
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	engine_vcpu_kick(e->cpu[0], ENGINE_KICK_EXIT);
	assert_int_equal(env_run(e, 0, &x), -(int)ENGINE_EXIT_INTR - 1);
	/* taken back in time: does not leave for it */
	engine_vcpu_kick(e->cpu[0], ENGINE_KICK_EXIT);
	engine_vcpu_unkick(e->cpu[0], ENGINE_KICK_EXIT);
	e->vector[0] = 0x78;
	engine_vcpu_kick(e->cpu[0], ENGINE_KICK_INTR);
	assert_int_equal(env_run(e, 0, &x), 0x78);
	env_destroy(e);
}

static void sti_holds_interrupts_for_one_instruction(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;

	for (int w = 0; w < 3; w++) {
		PUT(e, LOAD, sti_shadow);
		env_start(e, 0, 0, LOAD, ENV_KSTACK);
		engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | env_ways[w]);
		e->vector[0] = 0x50;
		engine_vcpu_kick(e->cpu[0], ENGINE_KICK_INTR);
		do
			assert_int_equal(engine_run(e->cpu[0], &x), 0);
		while (x.reason == ENGINE_EXIT_DEBUG && x.vector != 3);
		assert_int_equal(x.rip, ENV_HANDLER + 0x50);
		assert_int_equal(regs(e).gpr[0], 1);
		/* STI; HLT: the halt is reached first */
		PUT(e, LOAD, sti_hlt);
		env_start(e, 0, 0, LOAD, ENV_KSTACK);
		engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | env_ways[w]);
		e->vector[0] = 0x51;
		engine_vcpu_kick(e->cpu[0], ENGINE_KICK_INTR);
		do
			assert_int_equal(engine_run(e->cpu[0], &x), 0);
		while (x.reason == ENGINE_EXIT_DEBUG && x.vector != 3);
		assert_int_equal(x.reason, ENGINE_EXIT_HLT);
		assert_int_equal(regs(e).rip, LOAD + 2);
		assert_int_equal(env_run(e, 0, &x), 0x51);
	}
	env_destroy(e);
}

static void masked_interrupts_wait_and_window_opens(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;

	PUT(e, LOAD, spin);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	assert_false(engine_can_inject(e->cpu[0]));
	engine_request_window(e->cpu[0], true);
	assert_int_equal(env_run(e, 0, &x), -(int)ENGINE_EXIT_WINDOW - 1);
	assert_true(engine_can_inject(e->cpu[0]));
	env_destroy(e);
}

SNIPPET(tf, "nop\nnop\nnop\nint3");
SNIPPET(iretq_, "iretq");

static void nmi(struct engine_vcpu *v)
{
	engine_vcpu_queue_nmi(v);
	engine_vcpu_kick(v, ENGINE_KICK_NMI);
}

/* Two can wait; the second comes when the first one's handler is left. */
static void two_nmis_can_wait(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	struct engine_events ev;

	PUT(e, LOAD, tf);
	PUT(e, LOAD + 64, iretq_);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	for (int i = 0; i < 5; i++)
		nmi(e->cpu[0]);
	assert_int_equal(env_run(e, 0, &x), 2);
	engine_get_events(e->cpu[0], &ev);
	assert_int_equal(ev.nmi.pending, 1);
	assert_int_equal(ev.nmi.masked, 1);
	/* one more is merged with it */
	nmi(e->cpu[0]);
	set_rip(e, LOAD + 64);
	assert_int_equal(env_run(e, 0, &x), 2);
	set_rip(e, LOAD + 64);
	assert_int_equal(env_run(e, 0, &x), 256);
	engine_get_events(e->cpu[0], &ev);
	assert_int_equal(ev.nmi.pending, 0);
	assert_int_equal(ev.nmi.masked, 0);
	env_destroy(e);
}

static void trap_flag_steps(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	struct env_frame f;
	struct engine_debugregs d;

	PUT(e, LOAD, tf);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	set_flags(e, 0, 0x102);
	assert_int_equal(env_run(e, 0, &x), 1);
	env_frame(e, 0, 1, &f);
	assert_int_equal(f.rip, LOAD + 1);
	engine_get_debugregs(e->cpu[0], &d);
	assert_true(d.dr6 & 1u << 14);
	/* an instruction breakpoint: before the instruction */
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	engine_get_debugregs(e->cpu[0], &d);
	d.db[0] = LOAD + 2;
	d.dr7 = 0x401;
	d.dr6 = 0xffff0ff0u;
	assert_int_equal(engine_set_debugregs(e->cpu[0], &d), 0);
	assert_int_equal(env_run(e, 0, &x), 1);
	env_frame(e, 0, 1, &f);
	assert_int_equal(f.rip, LOAD + 2);
	assert_true(f.rflags & 1u << 16);
	env_destroy(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(boots_from_real_to_long_mode),
		cmocka_unit_test(page_faults_have_exact_error_codes),
		cmocka_unit_test(stac_opens_user_pages),
		cmocka_unit_test(invlpg_forgets_a_translation),
		cmocka_unit_test(large_pages_translate),
		cmocka_unit_test(int_and_iret_change_privilege),
		cmocka_unit_test(double_and_triple_faults),
		cmocka_unit_test(first_touch_of_a_page_stays_in_translated_code),
		cmocka_unit_test(syscall_and_sysret),
		cmocka_unit_test(compatibility_mode_runs),
		cmocka_unit_test(interrupts_reach_a_spinning_guest),
		cmocka_unit_test(sti_holds_interrupts_for_one_instruction),
		cmocka_unit_test(masked_interrupts_wait_and_window_opens),
		cmocka_unit_test(two_nmis_can_wait),
		cmocka_unit_test(trap_flag_steps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
