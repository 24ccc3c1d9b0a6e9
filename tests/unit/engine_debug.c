/* SPDX-License-Identifier: MIT
 *
 * Debug registers, single steps and alignment checks: the guest's own, and a
 * debugger's outside. What alignment an instruction wants is asked of the host's
 * processor, with the same bytes.
 */
#include "../lib/engine_snippet.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#define DR6_IDLE 0xffff0ff0u
#define BS	 (1u << 14)
#define BD	 (1u << 13)
#define TF	 0x100u
#define DATA	 0x12000u /* in the part that is mapped 1:1 */

/* DR7 for breakpoint n: kind 0 execution, 1 write, 2 port, 3 any data. */
static uint32_t dr7(unsigned int n, unsigned int kind, unsigned int bytes)
{
	static const uint8_t len[9] = {[1] = 0, [2] = 1, [4] = 3, [8] = 2};

	return 0x400u | 1u << (2 * n) | (kind | (uint32_t)len[bytes] << 2) << (16 + 4 * n);
}

static void set_dr(struct env *e, unsigned int n, uint64_t address, uint32_t control)
{
	struct engine_debugregs d = {.dr6 = DR6_IDLE, .dr7 = control};

	d.db[n] = address;
	assert_int_equal(engine_set_debugregs(e->cpu[0], &d), 0);
}

static uint64_t dr6(struct env *e)
{
	struct engine_debugregs d;

	engine_get_debugregs(e->cpu[0], &d);
	return d.dr6;
}

static struct env_frame frame(struct env *e, int vector)
{
	struct env_frame f;

	env_frame(e, 0, vector, &f);
	return f;
}

/* Run the snippet with RDI at DATA; a #DB is wanted with these bits and this RIP, or none (bits 0). */
#define WANT_DB(e, name, bits, at) want_db(e, sn_##name, sn_##name##_end, bits, at)
static void want_db(struct env *e, const uint8_t *from, const uint8_t *to, uint64_t bits, unsigned int at)
{
	struct engine_exit x;
	struct engine_debugregs d;
	int v;

	put(e, LOAD, from, to);
	engine_get_debugregs(e->cpu[0], &d);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	d.dr6 = DR6_IDLE;
	assert_int_equal(engine_set_debugregs(e->cpu[0], &d), 0);
	set_gpr(e, 0, 7, DATA);
	v = env_run(e, 0, &x);
	if (!bits) {
		assert_int_equal(v, 256);
		assert_int_equal(dr6(e), DR6_IDLE);
		return;
	}
	assert_int_equal(v, 1);
	assert_int_equal(frame(e, 1).rip, LOAD + at);
	assert_int_equal(dr6(e), DR6_IDLE | bits);
}

SNIPPET(store4, "movl %eax,4(%rdi)\nnop\nint3");
SNIPPET(load4, "movl 4(%rdi),%eax\nnop\nint3");
SNIPPET(rmw1, "incb 7(%rdi)\nnop\nint3");
SNIPPET(vload, "vmovups (%rdi),%ymm0\nnop\nint3");
SNIPPET(across, "movq %rax,-6(%rdi)\nnop\nint3");
SNIPPET(push8, "lea 8(%rdi),%rsp\npush %rax\nnop\nint3");
SNIPPET(lea_, "lea 4(%rdi),%rax\nprefetcht0 4(%rdi)\nint3");

static void data_breakpoints_trap_after_the_access(void **state)
{
	struct env *e = env_create(1);

	set_dr(e, 1, DATA + 4, dr7(1, 1, 4));
	WANT_DB(e, store4, 2, 3);
	WANT_DB(e, load4, 0, 0); /* a write breakpoint */
	set_dr(e, 1, DATA + 4, dr7(1, 3, 4));
	WANT_DB(e, load4, 2, 3);
	WANT_DB(e, rmw1, 2, 3);
	WANT_DB(e, vload, 2, 4);
	WANT_DB(e, lea_, 0, 0);
	WANT_DB(e, across, 0, 0); /* ends at DATA + 1 */
	set_dr(e, 3, DATA + 1, dr7(3, 1, 1));
	WANT_DB(e, across, 8, 4);
	/* the address is taken down to a multiple of the length */
	set_dr(e, 0, DATA + 7, dr7(0, 1, 8));
	WANT_DB(e, across, 1, 4);
	set_dr(e, 0, DATA + 2, dr7(0, 1, 1));
	WANT_DB(e, across, 0, 0);
	set_dr(e, 2, DATA, dr7(2, 1, 8));
	WANT_DB(e, push8, 4, 5);
	/* neither enabled nor of that kind */
	set_dr(e, 1, DATA + 4, dr7(1, 1, 4) & ~0xffu);
	WANT_DB(e, store4, 0, 0);
	set_dr(e, 1, DATA + 4, dr7(1, 2, 4));
	WANT_DB(e, store4, 0, 0);
	env_destroy(e);
}

SNIPPET(rep_stos, "mov $16,%ecx\nrep stosl\nnop\nint3");

/* The trap comes between the iterations, registers exact, and the rest goes on. */
static void string_instructions_stop_at_the_element(void **state)
{
	struct env *e = env_create(1);
	struct engine_regs r;

	set_dr(e, 0, DATA + 20, dr7(0, 1, 4));
	WANT_DB(e, rep_stos, 1, 5);
	r = regs(e);
	assert_int_equal(r.gpr[1], 10);
	assert_int_equal(r.gpr[7], DATA + 24);
	assert_true(frame(e, 1).rflags & 1u << 16);
	/* with a breakpoint on the instruction itself: once, before the first */
	set_dr(e, 0, LOAD + 5, dr7(0, 0, 1));
	WANT_DB(e, rep_stos, 1, 5);
	assert_int_equal(regs(e).gpr[1], 16);
	env_destroy(e);
}

SNIPPET(out_dx, "mov $0x3f9,%dx\noutb %al,%dx\nnop\nint3");
SNIPPET(in_imm, "inl $0x60,%eax\nnop\nint3");

static void port_breakpoints_need_cr4_de(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;

	set_dr(e, 0, 0x3f8, dr7(0, 2, 2));
	WANT_DB(e, out_dx, 0, 0);
	for (int way = 0; way < 2; way++) {
		PUT(e, LOAD, out_dx);
		if (way)
			PUT(e, LOAD, in_imm);
		env_start(e, 0, 0, LOAD, ENV_KSTACK);
		set_cr4(e, 8, 0);
		set_dr(e, 2, way ? 0x62 : 0x3f8, dr7(2, 2, way ? 1 : 2));
		assert_int_equal(env_run(e, 0, &x), 1);
		assert_int_equal(frame(e, 1).rip, LOAD + (way ? 2 : 5));
		assert_int_equal(dr6(e), DR6_IDLE | 4);
	}
	env_destroy(e);
}

SNIPPET(mov_ss_nop, "mov %ds,%eax\nmov %eax,%ss\nnop\nnop\nint3");
SNIPPET(mov_ss_load, "mov %ds,(%rdi)\nmov (%rdi),%ss\nnop\nnop\nint3");
SNIPPET(mov_ss_int1, "mov %ds,(%rdi)\nmov (%rdi),%ss\n.byte 0xf1\nnop\nint3");

static void mov_ss_holds_debug_traps_back(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;

	/* a breakpoint on the instruction behind it: Intel's do not see it, AMD's do */
	set_dr(e, 0, LOAD + 4, dr7(0, 0, 1));
	e->intel = -1;
	engine_vcpu_cpuid_changed(e->cpu[0]);
	WANT_DB(e, mov_ss_nop, 1, 4);
	e->intel = 1;
	engine_vcpu_cpuid_changed(e->cpu[0]);
	set_dr(e, 0, LOAD + 4, dr7(0, 0, 1));
	WANT_DB(e, mov_ss_nop, 0, 0);
	set_dr(e, 0, LOAD + 5, dr7(0, 0, 1));
	WANT_DB(e, mov_ss_nop, 1, 5);
	/* what the load met is told one instruction later */
	set_dr(e, 1, DATA, dr7(1, 3, 2));
	PUT(e, LOAD, mov_ss_load);
	env_start(e, 0, 0, LOAD + 2, ENV_KSTACK);
	*(uint16_t *)(e->ram + DATA) = SEL_KDATA;
	set_gpr(e, 0, 7, DATA);
	assert_int_equal(env_run(e, 0, &x), 1);
	assert_int_equal(frame(e, 1).rip, LOAD + 5);
	assert_int_equal(dr6(e), DR6_IDLE | 2);
	/* and once only, if that is a debug exception anyway */
	PUT(e, LOAD, mov_ss_int1);
	set_dr(e, 1, DATA, dr7(1, 3, 2));
	env_start(e, 0, 0, LOAD + 2, ENV_KSTACK);
	set_gpr(e, 0, 7, DATA);
	assert_int_equal(env_run(e, 0, &x), 1);
	assert_int_equal(frame(e, 1).rip, LOAD + 5);
	assert_int_equal(regs(e).gpr[4], ENV_KSTACK - 40);
	/* a single step is lost there, and comes behind the next */
	set_dr(e, 0, 0, 0x400);
	PUT(e, LOAD, mov_ss_nop);
	env_start(e, 0, 0, LOAD + 2, ENV_KSTACK);
	set_gpr(e, 0, 0, SEL_KDATA);
	set_flags(e, 0, 2 | TF);
	assert_int_equal(env_run(e, 0, &x), 1);
	assert_int_equal(frame(e, 1).rip, LOAD + 5);
	assert_int_equal(dr6(e), DR6_IDLE | BS);
	env_destroy(e);
}

SNIPPET(dr_moves, "mov %dr0,%rax\nmov %rax,%dr1\nint3");

static void general_detect_guards_the_registers(void **state)
{
	struct env *e = env_create(1);
	struct engine_debugregs d;

	set_dr(e, 0, 0x1234, 0x2400);
	WANT_DB(e, dr_moves, BD, 0);
	engine_get_debugregs(e->cpu[0], &d);
	assert_int_equal(d.dr7, 0x400); /* the handler may touch them */
	WANT_DB(e, dr_moves, 0, 0);
	assert_int_equal(regs(e).gpr[0], 0x1234);
	env_destroy(e);
}

SNIPPET(int_tf, "int $0x80\nnop\nint3");
SNIPPET(syscall_tf, "syscall\nnop\nint3");
SNIPPET(hlt_tf, "hlt\nnop\nint3");
SNIPPET(nops, "nop\nnop\nnop\nnop\nint3");

static void steps_follow_tf(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;

	/* INT clears TF: its handler is not stepped into */
	PUT(e, LOAD, int_tf);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	set_flags(e, 0, 2 | TF);
	assert_int_equal(env_run(e, 0, &x), 0x80);
	assert_true(frame(e, 0x80).rflags & TF);
	/* SYSCALL goes by the flag as it is afterwards */
	for (int masked = 0; masked < 2; masked++) {
		PUT(e, LOAD, syscall_tf);
		PUT(e, LOAD + 256, nops);
		env_start(e, 0, 3, LOAD, ENV_KSTACK);
		env_map(e, LOAD, LOAD, PTE_P_ | PTE_U_);
		assert_int_equal(engine_set_msr(e->cpu[0], 0xc0000081, (uint64_t)SEL_KCODE << 32), 0);
		assert_int_equal(engine_set_msr(e->cpu[0], 0xc0000082, LOAD + 256), 0);
		assert_int_equal(engine_set_msr(e->cpu[0], 0xc0000084, masked ? TF : 0), 0);
		set_flags(e, 0, 2 | TF);
		assert_int_equal(env_run(e, 0, &x), masked ? 256 : 1);
		if (!masked)
			assert_int_equal(frame(e, 1).rip, LOAD + 256);
	}
	/* the trap ends a halt */
	PUT(e, LOAD, hlt_tf);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	set_flags(e, 0, 2 | TF);
	assert_int_equal(env_run(e, 0, &x), 1);
	assert_int_equal(frame(e, 1).rip, LOAD + 1);
	env_destroy(e);
}

static void a_debuggers_breakpoints_are_not_the_guests(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	struct engine_debugregs d;
	const uint64_t none[4] = {0}, at[4] = {LOAD + 3, 0, DATA + 4};

	PUT(e, LOAD, store4);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	set_gpr(e, 0, 7, DATA);
	set_dr(e, 0, LOAD, dr7(0, 0, 1)); /* the guest's: out of effect */
	engine_set_breakpoints(e->cpu[0], at, dr7(0, 0, 1) | dr7(2, 1, 4));
	engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | ENGINE_DEBUG_HWBP);
	assert_int_equal(engine_run(e->cpu[0], &x), 0);
	assert_int_equal(x.reason, ENGINE_EXIT_DEBUG);
	assert_int_equal(x.vector, 1);
	assert_int_equal(x.rip, LOAD + 3);
	assert_int_equal(x.dr6, DR6_IDLE | 4);
	assert_int_equal(x.dr7, dr7(0, 0, 1) | dr7(2, 1, 4));
	assert_int_equal(engine_run(e->cpu[0], &x), 0);
	assert_int_equal(x.dr6, DR6_IDLE | 1);
	assert_int_equal(x.rip, LOAD + 3);
	/* it stays there until it is stepped over */
	engine_set_breakpoints(e->cpu[0], none, 0x400);
	engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | ENGINE_DEBUG_HWBP | ENGINE_DEBUG_STEP);
	assert_int_equal(engine_run(e->cpu[0], &x), 0);
	assert_int_equal(x.dr6, DR6_IDLE | BS);
	assert_int_equal(x.rip, LOAD + 4);
	engine_get_debugregs(e->cpu[0], &d);
	assert_int_equal(d.dr6, DR6_IDLE);
	assert_int_equal(d.dr7, dr7(0, 0, 1));
	assert_int_equal(d.db[0], LOAD);
	/* general detect */
	PUT(e, LOAD, dr_moves);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	engine_set_breakpoints(e->cpu[0], none, 0x2400);
	engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | ENGINE_DEBUG_HWBP);
	assert_int_equal(engine_run(e->cpu[0], &x), 0);
	assert_int_equal(x.reason, ENGINE_EXIT_DEBUG);
	assert_int_equal(x.dr6, DR6_IDLE | BD);
	assert_int_equal(x.rip, LOAD);
	env_destroy(e);
}

SNIPPET(int1, "nop\n.byte 0xf1\nmov $5,%eax\nint3");

/* INT1 is a debug exception: the debugger's if it asked for those, else the guest's. */
static void a_debugger_sees_int1(void **state)
{
	static const uint32_t flags[] = {ENGINE_DEBUG_HWBP, ENGINE_DEBUG_HWBP | ENGINE_DEBUG_SLOW, ENGINE_DEBUG_STEP};
	struct env *e = env_create(1);
	struct engine_exit x;

	PUT(e, LOAD, int1);
	for (unsigned int i = 0; i < 3; i++) {
		env_start(e, 0, 0, LOAD + (i == 2), ENV_KSTACK);
		engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | flags[i]);
		assert_int_equal(engine_run(e->cpu[0], &x), 0);
		assert_int_equal(x.reason, ENGINE_EXIT_DEBUG);
		assert_int_equal(x.vector, 1);
		assert_int_equal(x.dr6, DR6_IDLE);
		assert_int_equal(x.rip, LOAD + 2);
		assert_int_equal(regs(e).rip, LOAD + 2);
		assert_int_equal(regs(e).gpr[4], ENV_KSTACK);
		/* it is over */
		engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP);
		assert_int_equal(env_run(e, 0, &x), 256);
		assert_int_equal(regs(e).gpr[0], 5);
	}
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	assert_int_equal(env_run(e, 0, &x), 1);
	assert_int_equal(frame(e, 1).rip, LOAD + 2);
	env_destroy(e);
}

/* Steps that no interrupt gets between. */
static void stepping_can_hold_interrupts_back(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;

	for (int held = 0; held < 2; held++) {
		PUT(e, LOAD, nops);
		env_start(e, 0, 0, LOAD, ENV_KSTACK);
		set_flags(e, 0, 0x202);
		engine_set_debug(e->cpu[0], ENGINE_DEBUG_STEP | (held ? ENGINE_DEBUG_NOIRQ : 0));
		atomic_store(&e->vector[0], 0x40);
		engine_vcpu_kick(e->cpu[0], ENGINE_KICK_INTR);
		assert_int_equal(engine_run(e->cpu[0], &x), 0);
		assert_int_equal(x.reason, ENGINE_EXIT_DEBUG);
		assert_int_equal(x.rip, held ? LOAD + 1 : ENV_HANDLER + 3); /* the INT3 of its handler */
	}
	engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP);
	assert_int_equal(env_run(e, 0, &x), 0x40);
	env_destroy(e);
}

/* ---- alignment ---- */

SNIPPET(al_mov2, "mov (%rdi),%ax\nint3");
SNIPPET(al_mov4, "mov %eax,(%rdi)\nint3");
SNIPPET(al_mov8, "mov (%rdi),%rax\nint3");
SNIPPET(al_mov1, "mov (%rdi),%al\nint3");
SNIPPET(al_add, "lock addl $1,(%rdi)\nint3");
SNIPPET(al_xchg, "xchg %ax,(%rdi)\nint3");
SNIPPET(al_cx8, "cmpxchg8b (%rdi)\nint3");
SNIPPET(al_cx16, "cmpxchg16b (%rdi)\nint3");
SNIPPET(al_bt, "mov $77,%eax\nbtsl %eax,(%rdi)\nint3");
SNIPPET(al_movups, "movups (%rdi),%xmm0\nint3");
SNIPPET(al_movaps, "movaps %xmm0,(%rdi)\nint3");
SNIPPET(al_movlps, "movlps %xmm0,(%rdi)\nint3");
SNIPPET(al_movss, "movss (%rdi),%xmm0\nint3");
SNIPPET(al_vmovups, "vmovups (%rdi),%ymm0\nint3");
SNIPPET(al_vpaddd, "vpaddd (%rdi),%xmm0,%xmm0\nint3");
SNIPPET(al_fldt, "fldt (%rdi)\nfstp %st(0)\nint3");
SNIPPET(al_fld, "fldl (%rdi)\nfstp %st(0)\nint3");
SNIPPET(al_fnstenv, "fnstenv (%rdi)\nint3");
SNIPPET(al_stmxcsr, "stmxcsr (%rdi)\nint3");
SNIPPET(al_movs, "movsq\nint3");
SNIPPET(al_scas, "repne scasw\nint3");
SNIPPET(al_cmps, "cmpsl\nint3");

static const struct {
	const char *name;
	const uint8_t *from, *to;
} al[] = {
#define AL(n) {#n, sn_al_##n, sn_al_##n##_end}
	AL(mov1), AL(mov2), AL(mov4), AL(mov8), AL(add), AL(xchg), AL(cx8), AL(cx16), AL(bt), AL(movups),
	AL(movaps), AL(movlps), AL(movss), AL(vmovups), AL(vpaddd), AL(fldt), AL(fld), AL(fnstenv),
	AL(stmxcsr), AL(movs), AL(scas), AL(cmps),
};

static sigjmp_buf al_out;

static void al_fault(int sig)
{
	__asm__ volatile("pushfq\nandl $~0x40000,(%%rsp)\npopfq" : : : "cc", "memory");
	siglongjmp(al_out, sig == SIGBUS ? 17 : sig == SIGSEGV ? 13 : 256);
}

/* The vector on the host, 256 for the INT3 at the end. */
static int al_host(const uint8_t *code, uint8_t *p)
{
	int v = sigsetjmp(al_out, 1);

	if (!v)
		__asm__ volatile("pushfq\norl $0x40000,(%%rsp)\npopfq\nmov $1,%%ecx\njmp *%0"
				 : : "r"(code), "D"(p), "S"(p + 64) : "rax", "rcx", "rdx", "rbx", "memory");
	return v;
}

static void alignment_is_what_the_processor_wants(void **state)
{
	static const int sigs[] = {SIGBUS, SIGSEGV, SIGTRAP};
	struct sigaction sa = {.sa_handler = al_fault, .sa_flags = SA_NODEFER}, old[3];
	struct env *e;
	struct engine_exit x;
	uint8_t *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *data = aligned_alloc(64, 256);
	int found = 0;

	assert_true(code != MAP_FAILED && data);
#ifdef __SANITIZE_THREAD__
	print_message("skip: the thread sanitizer's own signal handling does not work with AC set\n");
	skip();
#endif
	for (int i = 0; i < 3; i++)
		assert_int_equal(sigaction(sigs[i], &sa, &old[i]), 0);
	e = env_create(1);
	env_map(e, LOAD, LOAD, PTE_P_ | PTE_U_);
	env_map(e, VA, PA, PTE_P_ | PTE_U_ | PTE_W_);
	for (unsigned int i = 0; i < sizeof(al) / sizeof(al[0]); i++) {
		for (unsigned int off = 1; off <= 32; off *= 2) {
			int host, guest, unmasked;

			memset(data, 0, 256);
			memset(e->ram + PA, 0, 4096);
			memcpy(code, al[i].from, (size_t)(al[i].to - al[i].from));
			host = al_host(code, data + off);
			put(e, LOAD, al[i].from, al[i].to);
			for (int ac = 0; ac < 2; ac++) {
				env_start(e, 0, 3, LOAD, ENV_KSTACK);
				set_gpr(e, 0, 7, VA + off);
				set_gpr(e, 0, 6, VA + off + 64);
				set_gpr(e, 0, 1, 1);
				set_flags(e, 0, ac ? 0x40202 : 0x202);
				guest = env_run(e, 0, &x);
				if (!ac)
					unmasked = guest;
			}
			if (guest != host)
				fail_msg("%s at %u: host %d, engine %d", al[i].name, off, host, guest);
			assert_int_not_equal(unmasked, 17);
			if (guest == 17) {
				assert_int_equal(frame(e, 17).error, 0);
				assert_int_equal(frame(e, 17).rip, LOAD + (al[i].name[0] == 'b' ? 5 : 0));
				found++;
			}
		}
	}
	assert_true(found > 40);
	/* where nothing is mapped, alignment is found first */
	put(e, LOAD, al[3].from, al[3].to);
	for (int off = 0; off < 2; off++) {
		env_start(e, 0, 3, LOAD, ENV_KSTACK);
		set_gpr(e, 0, 7, VA + 4096 + (unsigned int)off);
		set_flags(e, 0, 0x40202);
		assert_int_equal(env_run(e, 0, &x), off ? 17 : 14);
	}
	/* AM off: never; a kernel: never */
	for (int way = 0; way < 2; way++) {
		struct engine_sregs s;

		env_start(e, 0, way ? 0 : 3, LOAD, ENV_KSTACK);
		set_gpr(e, 0, 7, way ? DATA + 1 : VA + 1);
		set_flags(e, 0, 0x40202);
		engine_get_sregs(e->cpu[0], &s);
		s.cr0 &= way ? ~0ull : ~(1ull << 18);
		assert_int_equal(engine_set_sregs(e->cpu[0], &s), 0);
		assert_int_equal(env_run(e, 0, &x), 256);
	}
	env_destroy(e);
	for (int i = 0; i < 3; i++)
		(void)sigaction(sigs[i], &old[i], NULL);
	munmap(code, 4096);
	free(data);
}

SNIPPET(set_ac, "pushfq\norl $0x40000,(%rsp)\npopfq\nmov 1(%rdi),%eax\nint3");
SNIPPET(al_push, "push %rax\nint3");
SNIPPET(al_call, "call 1f\n1: int3");

/* AC set by the guest itself, in blocks; stacks. */
static void alignment_holds_from_popf_on(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;

	env_map(e, LOAD, LOAD, PTE_P_ | PTE_U_);
	env_map(e, VA, PA, PTE_P_ | PTE_U_ | PTE_W_);
	PUT(e, LOAD, set_ac);
	env_start(e, 0, 3, LOAD, VA + 2048);
	set_gpr(e, 0, 7, VA);
	assert_int_equal(env_run(e, 0, &x), 17);
	assert_int_equal(frame(e, 17).rip, LOAD + 9);
	for (int way = 0; way < 2; way++) {
		if (way)
			PUT(e, LOAD, al_call);
		else
			PUT(e, LOAD, al_push);
		for (unsigned int off = 0; off <= 4; off += 4) {
			env_start(e, 0, 3, LOAD, VA + 2048 + off);
			set_flags(e, 0, 0x40202);
			assert_int_equal(env_run(e, 0, &x), off ? 17 : 256);
			if (off)
				assert_int_equal(frame(e, 17).rsp, VA + 2048 + off);
		}
	}
	env_destroy(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(data_breakpoints_trap_after_the_access),
		cmocka_unit_test(string_instructions_stop_at_the_element),
		cmocka_unit_test(port_breakpoints_need_cr4_de),
		cmocka_unit_test(mov_ss_holds_debug_traps_back),
		cmocka_unit_test(general_detect_guards_the_registers),
		cmocka_unit_test(steps_follow_tf),
		cmocka_unit_test(a_debuggers_breakpoints_are_not_the_guests),
		cmocka_unit_test(a_debugger_sees_int1),
		cmocka_unit_test(stepping_can_hold_interrupts_back),
		cmocka_unit_test(alignment_is_what_the_processor_wants),
		cmocka_unit_test(alignment_holds_from_popf_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
