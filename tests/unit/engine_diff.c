/* SPDX-License-Identifier: MIT
 *
 * Instruction differential test: random sequences run on the processor itself
 * and in the engine, in each of its ways of execution; registers, flags, memory,
 * SIMD state and faults must agree. `engine_diff COUNT [SEED]` runs more.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <Zydis/Zydis.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "../lib/engine_env.h"

#define ARENA	  0x10000000ull /* data: 4 pages read-write, one read-only, then nothing */
#define ARENA_LEN 0x4000u
#define RO_PAGE	  (ARENA + ARENA_LEN)
#define CODE	  0x20000000ull
#define AREA	  0x18000000ull /* for XSAVE; nobody else knows of it */
#define AREA_GPA  0x600000u
#define ARENA_GPA 0x400000u
#define CODE_GPA  0x500000u
#define CODE_LEN  0x2000u

struct cpu_state {
	uint64_t gpr[16], rip;
	uint32_t flags;
	int vector; /* -1: reached the end */
	uint64_t error, addr;
	uint8_t xs[ENGINE_XSAVE_SIZE] __attribute__((aligned(64)));
	uint8_t mem[ARENA_LEN];
};

static uint8_t area[4096]; /* what is at AREA before */

/* ---- native ---- */

static bool compat; /* 32-bit code in compatibility mode, else 64-bit code */
static bool wide;   /* with AVX-512 */
static unsigned int xs_size;
static struct { unsigned int off, size; } xcomp[8]; /* the components' places, from 2 on */
static sigjmp_buf back;
static struct cpu_state *native_out;
static bool in_native;

static void on_signal(int sig, siginfo_t *si, void *ctx)
{
	static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
				      REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
	ucontext_t *uc = ctx;
	greg_t *g = uc->uc_mcontext.gregs;
	struct cpu_state *o = native_out;

	if (!in_native) {
		signal(sig, SIG_DFL);
		return;
	}
	in_native = false;
	for (int i = 0; i < 16; i++)
		o->gpr[i] = (uint64_t)g[order[i]];
	o->rip = (uint64_t)g[REG_RIP];
	o->flags = (uint32_t)g[REG_EFL];
	o->vector = (int)g[REG_TRAPNO];
	o->error = (uint64_t)g[REG_ERR];
	o->addr = (uint64_t)g[REG_CR2];
	if (sig == SIGTRAP) {
		o->vector = -1;
		o->rip--;
	}
	memcpy(o->xs, uc->uc_mcontext.fpregs, xs_size);
	siglongjmp(back, 1);
}

static struct {
	uint64_t gpr[16], rip, flags;
} load __attribute__((used));
static uint8_t load_xs[4096] __attribute__((aligned(64)));
static struct {
	uint32_t off;
	uint16_t sel;
} load_far __attribute__((used));

__attribute__((noinline)) static void native_enter(void)
{
	__asm__ volatile("xrstor64 %0" : : "m"(load_xs), "a"(wide ? 0xe7 : 7), "d"(0));
	__asm__ volatile(
		"pushq load+136(%%rip)\n\tpopfq\n\t"
		"mov load+8(%%rip), %%rcx\n\tmov load+16(%%rip), %%rdx\n\tmov load+24(%%rip), %%rbx\n\t"
		"mov load+40(%%rip), %%rbp\n\tmov load+48(%%rip), %%rsi\n\tmov load+56(%%rip), %%rdi\n\t"
		"mov load+64(%%rip), %%r8\n\tmov load+72(%%rip), %%r9\n\tmov load+80(%%rip), %%r10\n\t"
		"mov load+88(%%rip), %%r11\n\tmov load+96(%%rip), %%r12\n\tmov load+104(%%rip), %%r13\n\t"
		"mov load+112(%%rip), %%r14\n\tmov load+120(%%rip), %%r15\n\tmov load(%%rip), %%rax\n\t"
		"mov load+32(%%rip), %%rsp\n\tjmp *load+128(%%rip)"
		: : : "memory");
	__builtin_unreachable();
}

/* The same into 32-bit code: Linux's selectors of compatibility mode. */
__attribute__((noinline)) static void native_enter32(void)
{
	__asm__ volatile("xrstor64 %0" : : "m"(load_xs), "a"(wide ? 0xe7 : 7), "d"(0));
	__asm__ volatile(
		"mov $0x2b, %%eax\n\tmov %%eax, %%ds\n\tmov %%eax, %%es\n\t"
		"pushq load+136(%%rip)\n\tpopfq\n\t"
		"mov load+8(%%rip), %%rcx\n\tmov load+16(%%rip), %%rdx\n\tmov load+24(%%rip), %%rbx\n\t"
		"mov load+40(%%rip), %%rbp\n\tmov load+48(%%rip), %%rsi\n\tmov load+56(%%rip), %%rdi\n\t"
		"mov load(%%rip), %%rax\n\tmov load+32(%%rip), %%rsp\n\tljmpl *load_far(%%rip)"
		: : : "memory");
	__builtin_unreachable();
}

static void run_native(const struct cpu_state *in, struct cpu_state *out)
{
	memcpy((void *)ARENA, in->mem, ARENA_LEN);
	memcpy((void *)AREA, area, sizeof(area));
	memcpy(load.gpr, in->gpr, sizeof(in->gpr));
	load.rip = in->rip;
	load.flags = in->flags;
	memcpy(load_xs, in->xs, sizeof(load_xs));
	native_out = out;
	if (!sigsetjmp(back, 1)) {
		in_native = true;
		load_far.off = (uint32_t)in->rip;
		load_far.sel = 0x23;
		if (compat)
			native_enter32();
		native_enter();
	}
	memcpy(out->mem, (void *)ARENA, ARENA_LEN);
	__asm__ volatile("fninit\n\tcld");
}

/* ---- engine ---- */

static struct env *env;

static int run_engine(const struct cpu_state *in, struct cpu_state *out, uint32_t debug)
{
	struct engine_vcpu *v = env->cpu[0];
	struct engine_exit x = {0};
	struct engine_regs r;
	struct engine_sregs s;
	int e;

	memcpy(env->ram + ARENA_GPA, in->mem, ARENA_LEN);
	memcpy(env->ram + AREA_GPA, area, sizeof(area));
	env_start(env, 0, 3, in->rip, 0);
	if (compat) {
		engine_get_sregs(v, &s);
		s.seg[1].selector = SEL_UCODE32;
		s.seg[1].l = 0;
		s.seg[1].db = 1;
		if (engine_set_sregs(v, &s))
			return -1;
	}
	if (engine_set_xcr0(v, wide ? 0xe7 : 7))
		return -1;
	engine_get_regs(v, &r);
	memcpy(r.gpr, in->gpr, sizeof(r.gpr));
	r.rflags = in->flags | 0x202;
	engine_set_regs(v, &r);
	if (engine_set_xsave(v, in->xs))
		return -1;
	engine_set_debug(v, ENGINE_DEBUG_BP | debug);
	do
		e = env_run(env, 0, &x);
	while (e < 0 && x.reason == ENGINE_EXIT_DEBUG);
	engine_get_regs(v, &r);
	memcpy(out->gpr, r.gpr, sizeof(r.gpr));
	out->rip = r.rip;
	out->flags = (uint32_t)r.rflags;
	out->vector = -1;
	out->error = 0;
	if (e >= 0 && e < 256) {
		struct env_frame f;

		env_frame(env, 0, e, &f);
		engine_get_sregs(v, &s);
		out->vector = e;
		out->rip = f.rip;
		out->flags = (uint32_t)f.rflags;
		out->gpr[4] = f.rsp;
		out->error = f.error;
		out->addr = s.cr2;
	} else if (e != 256) {
		printf("exit %d %s\n", e, x.text);
		return -1;
	}
	engine_get_xsave(v, out->xs);
	memcpy(out->mem, env->ram + ARENA_GPA, ARENA_LEN);
	return 0;
}

/* ---- random sequences ---- */

static uint64_t rng;
static struct cpu_state init_state;

static uint64_t rnd(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng * 0x2545f4914f6cdd1dull;
}

static unsigned int below(unsigned int n)
{
	return (unsigned int)((rnd() >> 33) % n);
}

struct seq {
	uint8_t b[2048];
	unsigned int n;
	uint32_t undef;	    /* flags with undefined values at the end */
	bool restored;	    /* from AREA */
	bool compact;	    /* it is by XSAVEC, of some components */
};

static ZydisDecoder dec, dec64, dec32;

static void seq_add(struct seq *s, const void *p, unsigned int n)
{
	memcpy(s->b + s->n, p, n);
	s->n += n;
}

static void mov_imm(struct seq *s, unsigned int reg, uint64_t v)
{
	uint8_t b[10] = {(uint8_t)(0x48 | (reg >= 8)), (uint8_t)(0xb8 | (reg & 7))};

	if (compat) {
		b[0] = (uint8_t)(0xb8 | (reg & 7));
		memcpy(b + 1, &v, 4);
		seq_add(s, b, 5);
		return;
	}
	memcpy(b + 2, &v, 8);
	seq_add(s, b, 10);
}

static bool allowed(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
	switch (z->meta.category) {
	case ZYDIS_CATEGORY_CALL: case ZYDIS_CATEGORY_RET: case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_COND_BR: case ZYDIS_CATEGORY_SYSCALL: case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_INTERRUPT: case ZYDIS_CATEGORY_SEGOP: case ZYDIS_CATEGORY_RDRAND:
	case ZYDIS_CATEGORY_RDSEED: case ZYDIS_CATEGORY_XSAVE: case ZYDIS_CATEGORY_XSAVEOPT:
	case ZYDIS_CATEGORY_IO: case ZYDIS_CATEGORY_IOSTRINGOP: case ZYDIS_CATEGORY_VTX:
	case ZYDIS_CATEGORY_RDWRFSGS: case ZYDIS_CATEGORY_WAITPKG: case ZYDIS_CATEGORY_MPX:
	case ZYDIS_CATEGORY_CET: case ZYDIS_CATEGORY_PKU: case ZYDIS_CATEGORY_RDPID:
	case ZYDIS_CATEGORY_RDPRU: case ZYDIS_CATEGORY_CLZERO: case ZYDIS_CATEGORY_SMAP:
		return false;
	default:
		break;
	}
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_HLT: case ZYDIS_MNEMONIC_CLI: case ZYDIS_MNEMONIC_INVLPG:
	case ZYDIS_MNEMONIC_RDMSR: case ZYDIS_MNEMONIC_WBINVD: case ZYDIS_MNEMONIC_CLTS:
		return true; /* #GP in user mode on both sides */
	case ZYDIS_MNEMONIC_FNSTENV: case ZYDIS_MNEMONIC_FNSAVE: case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FRSTOR: /* instruction pointers */
	case ZYDIS_MNEMONIC_FXSAVE: case ZYDIS_MNEMONIC_FXSAVE64: case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_POPF: case ZYDIS_MNEMONIC_POPFQ: case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_POPFD: case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_PUSHFQ:
	case ZYDIS_MNEMONIC_ENTER: /* levels: vendors differ in what is probed */
	case ZYDIS_MNEMONIC_SMSW: case ZYDIS_MNEMONIC_MONITORX: case ZYDIS_MNEMONIC_MWAITX:
	case ZYDIS_MNEMONIC_CPUID: case ZYDIS_MNEMONIC_RDTSC: case ZYDIS_MNEMONIC_RDTSCP:
	case ZYDIS_MNEMONIC_UD0: case ZYDIS_MNEMONIC_RSM: case ZYDIS_MNEMONIC_XGETBV:
	case ZYDIS_MNEMONIC_FEMMS: case ZYDIS_MNEMONIC_INVLPGB:
		return false;
	default:
		break;
	}
	if (z->meta.category == ZYDIS_CATEGORY_SYSTEM)
		return false;
	for (unsigned int i = 0; i < z->operand_count; i++) {
		if (op[i].type == ZYDIS_OPERAND_TYPE_REGISTER) {
			ZydisRegisterClass c = ZydisRegisterGetClass(op[i].reg.value);

			if (c == ZYDIS_REGCLASS_SEGMENT || c == ZYDIS_REGCLASS_CONTROL ||
			    c == ZYDIS_REGCLASS_DEBUG)
				return false;
		}
		if (op[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    (op[i].mem.segment == ZYDIS_REGISTER_FS || op[i].mem.segment == ZYDIS_REGISTER_GS))
			return false;
	}
	switch (z->meta.isa_ext) {
	case ZYDIS_ISA_EXT_AMD3DNOW: case ZYDIS_ISA_EXT_XOP: case ZYDIS_ISA_EXT_TBM:
	case ZYDIS_ISA_EXT_FMA4: case ZYDIS_ISA_EXT_SVM: case ZYDIS_ISA_EXT_PADLOCK:
	case ZYDIS_ISA_EXT_AMX_TILE:
	case ZYDIS_ISA_EXT_SERIALIZE: case ZYDIS_ISA_EXT_UINTR: case ZYDIS_ISA_EXT_RTM:
	case ZYDIS_ISA_EXT_KEYLOCKER: case ZYDIS_ISA_EXT_KEYLOCKER_WIDE: case ZYDIS_ISA_EXT_MCOMMIT:
	case ZYDIS_ISA_EXT_SGX: case ZYDIS_ISA_EXT_SMX: case ZYDIS_ISA_EXT_TSX_LDTRK: case ZYDIS_ISA_EXT_TDX:
	case ZYDIS_ISA_EXT_MOVDIR: case ZYDIS_ISA_EXT_ENQCMD: case ZYDIS_ISA_EXT_HRESET:
	case ZYDIS_ISA_EXT_KNC: case ZYDIS_ISA_EXT_KNCE: case ZYDIS_ISA_EXT_KNCV:
	case ZYDIS_ISA_EXT_CLWB: case ZYDIS_ISA_EXT_SNP: case ZYDIS_ISA_EXT_PCONFIG:
	case ZYDIS_ISA_EXT_AMX_BF16: case ZYDIS_ISA_EXT_AMX_INT8: case ZYDIS_ISA_EXT_SMAP:
		return false;
	case ZYDIS_ISA_EXT_AVX512EVEX: case ZYDIS_ISA_EXT_AVX512VEX:
		return wide;
	default:
		return true;
	}
}

static unsigned int random_bytes(uint8_t *b)
{
	unsigned int n = 0, map = below(16);

	if (below(6) == 0)
		b[n++] = 0x66;
	if (below(10) == 0)
		b[n++] = below(2) ? 0xf3 : 0xf2;
	if (below(40) == 0)
		b[n++] = 0x67;
	if (below(24) == 0)
		b[n++] = 0xf0;
	if (wide && map >= 8 && map < 12) {
		n = 0;
		b[n++] = 0x62;
		b[n++] = (uint8_t)((compat ? 0xf0 : (rnd() & 0xf0)) | (1 + below(3)));
		b[n++] = (uint8_t)(rnd() | 4);
		b[n++] = (uint8_t)rnd();
		if (below(2))
			b[n - 1] |= 8; /* V' */
		if (below(3) == 0)
			b[n - 2] |= 0x78; /* vvvv unused */
		if (below(2))
			b[n - 1] &= 0x6f; /* no zeroing, no broadcast */
	} else if (map >= 12) {
		n = 0;
		b[n++] = 0xc4;
		b[n++] = (uint8_t)((compat ? 0xe0 : rnd() & 0xe0) | (1 + below(3)));
		b[n++] = (uint8_t)rnd();
	} else {
		if (!compat && below(2))
			b[n++] = (uint8_t)(0x40 | below(16));
		if (map >= 5)
			b[n++] = 0x0f;
		if (map == 10)
			b[n++] = 0x38;
		if (map == 11)
			b[n++] = 0x3a;
	}
	b[n++] = (uint8_t)rnd();
	for (unsigned int i = 0; i < 10; i++)
		b[n + i] = (uint8_t)rnd();
	/* small displacements are more interesting than wild ones */
	if (below(3)) {
		unsigned int at = n + 1 + ((b[n] & 7) == 4);

		if ((b[n] & 0xc0) == 0x80) {
			b[at + 2] = b[at + 3] = 0;
			b[at + 1] &= 15;
		}
	}
	return n + 10;
}

static uint32_t flag_bits(uint32_t m)
{
	return m & 0x8d5;
}

/* Make the memory operand point into the arena, most of the time. */
static void aim(struct seq *s, const ZydisDecodedOperand *op, unsigned int n_op)
{
	for (unsigned int i = 0; i < n_op; i++) {
		const ZydisDecodedOperandMem *m = &op[i].mem;
		uint64_t target = ARENA + 64 + below(ARENA_LEN - 256);

		if (op[i].type != ZYDIS_OPERAND_TYPE_MEMORY || below(25) == 0)
			continue;
		if (below(8))
			target &= ~63ull;
		if (below(12) == 0) {
			/* across a page */
			target = ARENA + 0x1000 * (1 + below(4)) - 1 - below(31);
		} else if (below(40) == 0) {
			target = RO_PAGE + 8 * below(8);
		}
		int idx = m->type == ZYDIS_MEMOP_TYPE_VSIB ? -1 :
			  m->index == ZYDIS_REGISTER_NONE ? -1 : ZydisRegisterGetId(m->index);
		int base = m->base == ZYDIS_REGISTER_NONE || m->base == ZYDIS_REGISTER_RIP ||
			   m->base == ZYDIS_REGISTER_EIP ? -1 : ZydisRegisterGetId(m->base);
		uint64_t x = below(64);

		if (m->disp.has_displacement)
			target -= (uint64_t)m->disp.value;
		if (idx >= 0 && idx == base) {
			x = target / (m->scale + 1u);
			mov_imm(s, (unsigned int)base, x);
			continue;
		}
		if (idx >= 0) {
			if (base < 0)
				x = target / (m->scale ? m->scale : 1u);
			mov_imm(s, (unsigned int)idx, x);
			target -= x * m->scale;
		}
		if (base >= 0)
			mov_imm(s, (unsigned int)base, target);
	}
}

/* One accepted random instruction. */
static bool add_random(struct seq *s)
{
	uint8_t b[24];
	ZydisDecodedInstruction z;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];

	for (int tries = 0; tries < 200; tries++) {
		unsigned int n = random_bytes(b);
		uint32_t und = 0, def = 0;

		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&dec, b, n > 15 ? 15 : n, &z, op)) || !allowed(&z, op))
			continue;
		if (z.cpu_flags) {
			if (flag_bits(z.cpu_flags->tested) & s->undef)
				continue;
			und = flag_bits(z.cpu_flags->undefined);
			def = flag_bits(z.cpu_flags->modified | z.cpu_flags->set_0 | z.cpu_flags->set_1) & ~und;
		}
		/* a count of zero may leave flags alone: only their being undefined is taken over */
		if (z.meta.category == ZYDIS_CATEGORY_SHIFT || z.meta.category == ZYDIS_CATEGORY_ROTATE)
			def = 0;
		bool str = z.meta.category == ZYDIS_CATEGORY_STRINGOP;

		if (str)
			def = 0;

		/* 16-bit addresses: both sides of CMPS fault (see below) */
		if (str && (z.opcode & 0xfe) == 0xa6 && z.address_width == 16)
			continue;

		if (below(20))
			aim(s, op, z.operand_count);
		if (str) {
			mov_imm(s, 1, below(40));
			/* which side of CMPS faults first differs: let only one */
			if ((z.opcode & 0xfe) == 0xa6)
				mov_imm(s, 7, ARENA + 0x400 + below(0x3000));
		}
		s->undef = (s->undef & ~def) | und;
		seq_add(s, b, z.length);
		return true;
	}
	return false;
}


/* Wild numbers, doubles near one, and small numbers for indices. */
static void random_vectors(uint8_t *p, unsigned int n)
{
	for (unsigned int i = 0; i < n / 8; i++)
		((uint64_t *)p)[i] = below(3) == 0 ? 0x3ff0000000000000ull + (rnd() >> 12) :
				     below(3) == 0 ? rnd() & 0x3ff000003ffull : rnd();
}

static void state_op(struct seq *s, const char *op, uint32_t mask)
{
	uint8_t b[5];
	unsigned int n = 0;

	mov_imm(s, 0, wide ? mask : mask & 7); /* here XCR0 has them all the time */
	mov_imm(s, 2, 0);
	mov_imm(s, 7, AREA);
	if (!compat && below(2))
		b[n++] = 0x48;
	memcpy(b + n, op, 3);
	seq_add(s, b, n + 3);
	mov_imm(s, 7, ARENA + 64);
}

/*
 * XSAVE, XSAVEOPT or XSAVEC, something else, XRSTOR, of some components: what comes back is what was
 * saved. The area itself need not be the same: what counts as in use is the processor's affair. (And
 * so is what XSAVEOPT leaves out where something was restored from, which may have been initial there.)
 */
static void add_state(struct seq *s)
{
	static const char *const save[] = {"\x0f\xae\x27", "\x0f\xae\x37", "\x0f\xc7\x27"};
	unsigned int n = below(4), how = s->compact ? 2 : s->restored ? 2 * below(2) : below(3);

	if (below(6)) {
		state_op(s, save[how], (uint32_t)(below(3) ? ~0u : rnd()));
		s->compact = how == 2;
	}
	for (unsigned int i = 0; i < n; i++)
		add_random(s);
	if (below(3))
		s->restored = true;
	if (s->restored)
		state_op(s, "\x0f\xae\x2f", (uint32_t)(below(3) ? ~0u : rnd()));
}

/* What is restored without having been saved: perhaps nothing that can be. */
static void random_area(void)
{
	memset(area, 0, sizeof(area));
	random_vectors(area + 32, sizeof(area) - 32);
	for (unsigned int i = 0; i < 8; i++)
		memset(area + 32 + 16 * i + 10, 0, 6);
	*(uint16_t *)area = 0x37f;
	*(uint32_t *)(area + 24) = 0x1f80;
	memset(area + 512, 0, 64);
	area[512] = (uint8_t)(rnd() & (wide ? 0xe7 : 7));
	/* XSAVEC makes areas of fewer components */
	if (below(3) == 0)
		*(uint64_t *)(area + 520) = 1ull << 63 | (wide ? 0xe7 : 7);
	if (below(10) == 0)
		area[513 + below(7)] = area[521 + below(55)] = (uint8_t)rnd();
}

/* An indirect jump or call, or a return: on behind it, to wherever, or to nowhere. */
static void add_branch(struct seq *s)
{
	static const uint64_t wild[] = {1ull << 47, ~0ull << 47, 1ull << 45, 0x123456789abcdefull, 0};
	unsigned int reg = below(compat ? 8 : 16), how = below(5), fix, size = compat ? 4 : 8;
	bool on = below(3);
	uint64_t target = below(4) ? wild[below(5)] : rnd(), at;
	uint8_t b[16];

	if (reg == 4)
		reg = 3;
	fix = s->n + (compat ? 1 : 2);
	mov_imm(s, reg, target);
	b[0] = 0x41;
	switch (how) {
	case 0: /* push reg; ret */
	case 1: /* push reg; ret n */
		b[1] = (uint8_t)(0x50 | (reg & 7));
		seq_add(s, b + (reg < 8), 1 + (reg >= 8));
		memcpy(b, how ? "\xc2\x08\x00" : "\xc3\xcc", 3);
		seq_add(s, b, how ? 3 : 1);
		break;
	case 2: /* through memory */
		b[1] = (uint8_t)(0x50 | (reg & 7));
		seq_add(s, b + (reg < 8), 1 + (reg >= 8));
		memcpy(b, below(2) ? "\xff\x24\x24" : "\xff\x14\x24", 3);
		seq_add(s, b, 3);
		break;
	default:
		b[1] = 0xff;
		b[2] = (uint8_t)((how == 3 ? 0xe0 : 0xd0) | (reg & 7));
		seq_add(s, b + (reg < 8), 2 + (reg >= 8));
		break;
	}
	at = init_state.rip + s->n;
	if (on)
		memcpy(s->b + fix, &at, size);
}

static void add_flow(struct seq *s)
{
	uint8_t b[16];
	unsigned int cc, at;

	switch (below(8)) {
	case 6:
		add_branch(s);
		break;
	case 7:
		add_state(s);
		break;
	case 0: /* jcc over one instruction */
	case 1:
		if (s->undef)
			return;
		cc = below(16);
		b[0] = (uint8_t)(0x70 | cc);
		b[1] = 0;
		seq_add(s, b, 2);
		at = s->n;
		add_random(s);
		s->b[at - 1] = (uint8_t)(s->n - at);
		break;
	case 2: /* push, pop */
		b[0] = (uint8_t)(0x50 | below(8));
		seq_add(s, b, 1);
		b[0] = 0x41;
		b[1] = (uint8_t)(0x58 | below(8));
		seq_add(s, b, 2);
		break;
	case 3: /* call next; pop */
		b[0] = 0xe8;
		memset(b + 1, 0, 4);
		seq_add(s, b, 5);
		b[0] = 0x5a;
		seq_add(s, b, 1);
		break;
	case 4: { /* call over; … ret */
		static const uint8_t c[] = {0xe8, 2, 0, 0, 0, 0xeb, 1, 0xc3};

		seq_add(s, c, sizeof(c));
		break;
	}
	default: { /* a counted loop around memory */
		static const uint8_t c[] = {0xb9, 5, 0, 0, 0, 0x48, 0x01, 0xc8, 0x50, 0x8f, 0xc3, 0xff, 0xc9, 0x75, 0xf6};

		seq_add(s, c, sizeof(c));
		s->undef = 0;
		break;
	}
	}
}

/* op reg, [base + index * scale + disp8]; index -1: none. */
static void mem_op(struct seq *s, uint8_t prefix, const char *op, unsigned int n_op, bool w, unsigned int reg,
		   unsigned int base, int index, unsigned int scale, int8_t disp)
{
	uint8_t b[16], rex = (uint8_t)((w ? 8 : 0) | (reg >= 8 ? 4 : 0) | (index >= 8 ? 2 : 0) | (base >= 8 ? 1 : 0));
	unsigned int n = 0;
	bool sib = index >= 0 || (base & 7) == 4;

	if (prefix)
		b[n++] = prefix;
	if (!compat)
		b[n++] = (uint8_t)(0x40 | rex);
	memcpy(b + n, op, n_op);
	n += n_op;
	b[n++] = (uint8_t)(0x40 | (reg & 7) << 3 | (sib ? 4 : base & 7));
	if (sib)
		b[n++] = (uint8_t)(scale << 6 | (index >= 0 ? index & 7 : 4) << 3 | (base & 7));
	b[n++] = (uint8_t)disp;
	seq_add(s, b, n);
}

/*
 * Accesses off one register around the end of a page, which may be the last that can be written
 * or read; the register is changed and copied, flags are made and used between them.
 */
static void add_run(struct seq *s)
{
	static const struct {
		uint8_t prefix;
		const char *op;
		unsigned int n;
	} ops[] = {
		{0, "\x8b", 1}, {0, "\x89", 1}, {0, "\x8a", 1}, {0, "\x88", 1}, {0, "\x03", 1}, {0, "\x01", 1},
		{0, "\x13", 1}, {0, "\x11", 1}, {0, "\x3b", 1}, {0, "\x0f\xb6", 2}, {0, "\x0f\x44", 2},
		{0, "\x0f\x10", 2}, {0, "\x0f\x11", 2}, {0x66, "\x0f\xef", 2}, {0, "\x87", 1}, {0, "\x0f\xc1", 2},
	};
	unsigned int regs = compat ? 8 : 16, base = below(regs), n = 2 + below(7), copy = below(regs), from = base;
	int index = below(3) ? -1 : (int)below(regs);
	unsigned int scale = below(4);
	uint64_t target = ARENA + 0x1000 * (1 + below(5)) - below(96);
	uint8_t b[8];

	if (index == 4 || index == (int)base || index == (int)copy)
		index = -1;
	if (index >= 0) {
		unsigned int x = below(16);

		mov_imm(s, (unsigned int)index, x);
		target -= (uint64_t)x << scale;
	}
	mov_imm(s, base, target);
	for (unsigned int i = 0; i < n; i++) {
		unsigned int k = below(sizeof(ops) / sizeof(ops[0])), reg = below(regs);
		uint8_t rex = compat ? 0x90 : (uint8_t)(0x48 | (from >= 8));
		int8_t disp = (int8_t)((int)below(128) - 64);

		if (reg == 4 || (reg == from && below(8)))
			reg = (reg + 1) % 4;
		switch (below(12)) {
		case 0: /* add, sub base, imm */
			b[0] = rex;
			b[1] = 0x83;
			b[2] = (uint8_t)((below(2) ? 0xc0 : 0xe8) | (from & 7));
			b[3] = (uint8_t)below(32);
			seq_add(s, b, 4);
			s->undef = 0;
			break;
		case 1: /* push, pop */
			b[0] = (uint8_t)((below(2) ? 0x50 : 0x58) | below(4));
			seq_add(s, b, 1);
			break;
		case 2: /* copy */
			if (copy == 4 || from == 4)
				break;
			b[0] = compat ? 0x90 : (uint8_t)(0x48 | (from >= 8 ? 4 : 0) | (copy >= 8));
			b[1] = 0x89;
			b[2] = (uint8_t)(0xc0 | (from & 7) << 3 | (copy & 7));
			seq_add(s, b, 3);
			from = copy;
			break;
		case 3: /* lea base, [base + disp] */
			mem_op(s, 0, "\x8d", 1, below(8), from, from, -1, 0, (int8_t)below(32));
			break;
		case 4: /* inc, dec; 32 bits now and then */
			b[0] = below(6) || compat ? rex : 0x40 | (from >= 8);
			b[1] = 0xff;
			b[2] = (uint8_t)(0xc0 | below(2) << 3 | (from & 7));
			seq_add(s, b, 3);
			break;
		case 5:
			if (below(3) == 0) { /* a division that may fault: by a byte of memory */
				mem_op(s, 0, "\xf6", 1, false, 6, from, index, scale, disp);
				s->undef = 0x8d5;
				break;
			}
			/* fall through */
		default:
			if (s->undef && (k == 6 || k == 7 || k == 10))
				k = 0;
			mem_op(s, ops[k].prefix, ops[k].op, ops[k].n, below(2) && !compat, reg, from, index, scale, disp);
			if ((k >= 4 && k <= 8) || k == 15)
				s->undef = 0;
			break;
		}
	}
}

static void step_add(struct seq *s, unsigned int reg, int8_t step)
{
	uint8_t b[4] = {compat ? 0x90 : (uint8_t)(0x48 | (reg >= 8)), 0x83, (uint8_t)(0xc0 | (reg & 7)), (uint8_t)step};

	seq_add(s, b, 4);
}

/*
 * A counted loop over two arrays, by pointers or by an index, upwards or downwards, through
 * several pages and perhaps out of them.
 */
static void add_loop(struct seq *s)
{
	static const struct {
		uint8_t prefix;
		const char *op;
		unsigned int n;
	} ops[] = {
		{0, "\x8b", 1}, {0, "\x89", 1}, {0, "\x03", 1}, {0, "\x01", 1}, {0, "\x0f\xb6", 2}, {0, "\x88", 1},
		{0, "\x0f\x10", 2}, {0, "\x0f\x11", 2}, {0x66, "\x0f\xef", 2}, {0, "\x13", 1},
	};
	/* pointers, an index; neither is a destination, nor is RCX */
	static const uint8_t pointer[] = {6, 7, 3, 9, 12, 15}, dest[] = {0, 2, 5, 8, 10, 14};
	unsigned int many = compat ? 3 : 6, n = 1 + below(4), head, out, hole = 0, scale = below(4);
	unsigned int p[2] = {pointer[below(many)], pointer[below(many)]}, x = below(2) ? 11 : 13;
	int8_t step[2] = {(int8_t)((int)below(128) - 64), (int8_t)((int)below(64) - 16)};
	bool indexed = !compat && below(3) == 0;
	uint8_t b[8];

	mov_imm(s, 1, 1 + below(below(3) ? 20 : 200));
	for (unsigned int i = 0; i < 2; i++)
		mov_imm(s, p[i], ARENA + 0x1000 * (1 + below(4)) + (below(2) ? 0 : below(0x1000)) - below(128));
	if (indexed)
		mov_imm(s, x, below(2) ? below(64) : -(uint64_t)below(64));
	memcpy(b, "\x39\xc0", 2); /* flags defined */
	seq_add(s, b, 2);
	s->undef = 0;
	head = s->n;
	out = below(2) ? n : below(n);
	for (unsigned int i = 0; i < n; i++) {
		unsigned int k = below(sizeof(ops) / sizeof(ops[0])), which = below(2);

		if (i == out) { /* cmp al, x; jcc out */
			memcpy(b, "\x3c\x00\x70", 3);
			b[1] = (uint8_t)rnd();
			b[2] |= (uint8_t)below(16);
			b[3] = 0;
			seq_add(s, b, 4);
			hole = s->n;
		}

		if (below(4) == 0)
			step_add(s, p[which], below(2) ? 8 : step[which]);
		mem_op(s, ops[k].prefix, ops[k].op, ops[k].n, below(2) && !compat, dest[below(many)], p[which],
		       indexed && below(2) ? (int)x : -1, scale, (int8_t)((int)below(64) - 32));
	}
	for (unsigned int i = 0; i < 2; i++)
		if (below(5))
			step_add(s, p[i], step[i]);
	if (indexed)
		step_add(s, x, step[0] / 8);
	memcpy(b, "\xff\xc9\x75", 3); /* dec ecx; jnz */
	b[3] = (uint8_t)(head - (s->n + 4));
	seq_add(s, b, 4);
	if (hole)
		s->b[hole - 1] = (uint8_t)(s->n - hole);
}

static void random_state(struct cpu_state *st)
{
	uint64_t *m = (uint64_t *)st->mem;

	memset(st, 0, sizeof(*st));
	for (unsigned int i = 0; i < 16; i++)
		st->gpr[i] = below(3) ? rnd() : below(2) ? below(256) : ARENA + below(ARENA_LEN);
	st->gpr[4] = ARENA + 0x800 + 8 * below(256);
	if (below(8) == 0)
		st->gpr[4] = ARENA + 0x1000 + 8 * below(4) - below(8);
	st->flags = ((uint32_t)rnd() & 0x8d5) | 2;
	for (unsigned int i = 0; i < ARENA_LEN / 8; i++)
		m[i] = below(4) ? rnd() : ARENA + below(ARENA_LEN);
	*(uint16_t *)st->xs = 0x37f;
	*(uint32_t *)(st->xs + 24) = below(8) ? 0x1f80 : 0x1f80 & ~(uint32_t)(1u << (7 + below(6)));
	random_vectors(st->xs + 160, 256);
	for (unsigned int i = 2; i < 8; i++)
		if ((wide ? 0xe7u : 7u) >> i & 1)
			random_vectors(st->xs + xcomp[i].off, xcomp[i].size);
	for (unsigned int i = 0; wide && i < 8; i++)
		if (below(3))
			((uint64_t *)(st->xs + xcomp[5].off))[i] = below(3) ? -(uint64_t)below(2) : 1u << below(16);
	*(uint64_t *)(st->xs + 512) = wide ? 0xe7 : 7;
	for (unsigned int i = 0; compat && i < 16; i++)
		st->gpr[i] = i < 8 ? (uint32_t)st->gpr[i] : 0;
	st->rip = CODE + below(64);
}

static bool x87_differs(const uint8_t *a, const uint8_t *b)
{
	if (memcmp(a, b, 5))
		return true;
	for (int i = 0; i < 8; i++) {
		/* the content of empty registers is kept, too */
		if (memcmp(a + 32 + 16 * i, b + 32 + 16 * i, 10))
			return true;
	}
	return false;
}

/* INT3 with prefixes: one side tells where it begins, the other its last byte. */
static bool breakpoint_prefixed(uint64_t last, uint64_t first)
{
	static const uint8_t prefix[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3};

	for (; first < last && last - first < 15; first++) {
		uint8_t b = *(uint8_t *)first;

		if (!memchr(prefix, b, sizeof(prefix)) && (compat || b >> 4 != 4))
			return false;
	}
	return first == last;
}

static bool differs(const struct cpu_state *a, const struct cpu_state *b, uint32_t undef, bool quiet)
{
	bool bad = false;
	uint32_t mask = 0x8d5 & ~undef;

#define SAY(...)                             \
	do {                                 \
		bad = true;                  \
		if (!quiet)                  \
			printf(__VA_ARGS__); \
	} while (0)
	if (a->vector >= 0)
		mask = 0; /* flags that are dead at a fault are not kept */
	if (a->vector != b->vector)
		SAY("  vector %d %d (addr %lx %lx)\n", a->vector, b->vector, a->addr, b->addr);
	for (int i = 0; i < (compat ? 8 : 16); i++)
		if (a->gpr[i] != b->gpr[i])
			SAY("  gpr%d %lx %lx\n", i, a->gpr[i], b->gpr[i]);
	if (a->rip != b->rip && !(a->vector == -1 && b->vector == -1 && breakpoint_prefixed(a->rip, b->rip)))
		SAY("  rip %lx %lx\n", a->rip, b->rip);
	if ((a->flags ^ b->flags) & (mask | 0x400))
		SAY("  flags %x %x (mask %x)\n", a->flags & 0xcd5, b->flags & 0xcd5, mask | 0x400);
	/* the host's kernel and the guest's low pages are mapped on one side only: P differs */
	if (a->vector == 14 && b->vector == 14 &&
	    (a->addr != b->addr || ((a->error ^ b->error) & (a->addr >> 63 || a->addr < 0x20000 ? ~1ull : ~0ull))))
		SAY("  #PF %lx/%lx %lx/%lx\n", a->addr, a->error, b->addr, b->error);
	if (memcmp(a->mem, b->mem, ARENA_LEN)) {
		for (unsigned int i = 0, n = 0; i < ARENA_LEN && n < 8; i++)
			if (a->mem[i] != b->mem[i]) {
				SAY("  mem %llx %02x %02x\n", ARENA + i, a->mem[i], b->mem[i]);
				n++;
			}
	}
	if (memcmp(a->xs + 160, b->xs + 160, 256))
		for (int i = 0; i < 32; i++)
			if (((uint64_t *)(a->xs + 160))[i] != ((uint64_t *)(b->xs + 160))[i])
				SAY("  xmm%d.%d %lx %lx\n", i / 2, i & 1, ((uint64_t *)(a->xs + 160))[i],
				    ((uint64_t *)(b->xs + 160))[i]);
	for (unsigned int c = 2; c < 8; c++)
		for (unsigned int i = 0; i < xcomp[c].size && (wide || c == 2); i += 8) {
			uint64_t x = *(const uint64_t *)(a->xs + xcomp[c].off + i), y = *(const uint64_t *)(b->xs + xcomp[c].off + i);

			if (x != y)
				SAY("  component %u +%u: %lx %lx\n", c, i, x, y);
		}
	if (*(uint32_t *)(a->xs + 24) != *(uint32_t *)(b->xs + 24))
		SAY("  mxcsr %x %x\n", *(uint32_t *)(a->xs + 24), *(uint32_t *)(b->xs + 24));
	if (x87_differs(a->xs, b->xs))
		SAY("  x87 fcw %x %x fsw %x %x ftw %x %x\n", *(uint16_t *)a->xs, *(uint16_t *)b->xs,
		    *(uint16_t *)(a->xs + 2), *(uint16_t *)(b->xs + 2), a->xs[4], b->xs[4]);
#undef SAY
	return bad;
}

static void print_seq(const struct seq *s, uint64_t rip)
{
	ZydisFormatter f;

	ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
	for (unsigned int i = 0; i < s->n;) {
		ZydisDecodedInstruction z;
		ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
		char buf[128];

		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&dec, s->b + i, s->n - i, &z, op)))
			break;
		ZydisFormatterFormatInstruction(&f, &z, op, z.operand_count_visible, buf, sizeof(buf),
						rip + i, ZYAN_NULL);
		printf("  %lx:", rip + i);
		for (unsigned int k = 0; k < z.length; k++)
			printf(" %02x", s->b[i + k]);
		printf("\t%s\n", buf);
		i += z.length;
	}
}

/* XSAVE images with init components differ in bytes that mean nothing: expand. */
static void expand(struct cpu_state *st)
{
	uint64_t bv = *(uint64_t *)(st->xs + 512);

	if (!(bv & 1)) {
		memset(st->xs, 0, 24);
		*(uint16_t *)st->xs = 0x37f;
		memset(st->xs + 32, 0, 128);
	}
	if (!(bv & 2))
		memset(st->xs + 160, 0, 256);
	for (unsigned int i = 2; i < 8; i++)
		if (!(bv >> i & 1))
			memset(st->xs + xcomp[i].off, 0, xcomp[i].size);
}

static const struct {
	uint32_t debug;
	const char *name;
} ways[] = {{ENGINE_DEBUG_SLOW, "bounce"}, {ENGINE_DEBUG_ONE, "one"}, {0, "blocks"}};

static struct cpu_state nat, eng, bounced;
static unsigned long unjudged; /* changed their own code to something that says where it runs */
static unsigned long faults[32];
static uint8_t code[CODE_LEN];

/* 0: agreed. */
static int one_test(uint64_t seed, bool verbose)
{
	struct seq s = {0};
	uint8_t end = 0xcc;
	struct timespec t0, t1;
	const struct cpu_state *ref;
	bool changed;
	int bad = 0;
	unsigned int len;

	/* one in four is 32-bit code */
	compat = seed % 4 == 3;
	wide = (engine_xcr0_max() & 0xe0) == 0xe0 && seed / 4 % 4 != 3;
	dec = compat ? dec32 : dec64;
	rng = seed * 0x9e3779b97f4a7c15ull + 0x1234567;
	for (int i = 0; i < 4; i++)
		rnd();
	random_state(&init_state);
	random_area();
	len = 1 + below(10);
	if (below(4) == 0) /* let it cross into the next page */
		init_state.rip = CODE + 0x1000 - below(16 * len);
	for (unsigned int i = 0; i < len; i++) {
		unsigned int kind = below(12);

		if (kind < 2)
			add_flow(&s);
		else if (kind == 2)
			add_run(&s);
		else if (kind == 3 && below(2))
			add_loop(&s);
		else
			add_random(&s);
	}
	seq_add(&s, &end, 1);
	memset((void *)(uintptr_t)CODE, 0xcc, CODE_LEN);
	memcpy((void *)init_state.rip, s.b, s.n);
	memcpy(code, (void *)(uintptr_t)CODE, CODE_LEN);
	if (getenv("PRINT"))
		print_seq(&s, init_state.rip);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t0);
	run_native(&init_state, &nat);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t1);
	/* it has rewritten the count of a loop: an instruction at a time this takes minutes */
	if (t1.tv_sec - t0.tv_sec + (t1.tv_nsec - t0.tv_nsec) / 20000000)
		return 0;
	expand(&nat);
	if (nat.vector >= 0)
		faults[nat.vector & 31]++;
	ref = &nat;
	/* it may have written to itself, and run what nobody has looked at: selectors, say, are not the same */
	changed = memcmp(code, (void *)(uintptr_t)CODE, CODE_LEN);
	for (unsigned int w = 0; w < 3; w++) {
		memcpy(env->ram + CODE_GPA, code, CODE_LEN);
		engine_vm_code_changed(env->vm, CODE_GPA, CODE_LEN);
		if (run_engine(&init_state, &eng, ways[w].debug)) {
			bad = 1;
			printf("seed %lu, %s: no result\n", seed, ways[w].name);
			print_seq(&s, init_state.rip);
			continue;
		}
		expand(&eng);
		if (changed && !w && differs(&nat, &eng, s.undef, true)) {
			/* then at least all ways must agree */
			unjudged++;
			bounced = eng;
			ref = &bounced;
		}
		if (differs(ref, &eng, s.undef, true)) {
			bad = 1;
			printf("seed %lu, %s: %s and engine differ\n", seed, ways[w].name, ref == &nat ? "native" : "bounce");
			(void)differs(ref, &eng, s.undef, false);
			if (verbose)
				print_seq(&s, init_state.rip);
		}
	}
	return bad;
}

static const int sigs[] = {SIGSEGV, SIGFPE, SIGILL, SIGBUS, SIGTRAP};
static struct sigaction ours[5]; /* the engine's, which pass on to on_signal */

static void setup(void)
{
	static uint8_t alt[65536];
	stack_t ss = {.ss_sp = alt, .ss_size = sizeof(alt)};
	struct sigaction sa;

	memset(&sa, 0, sizeof(sa));
	sa.sa_sigaction = on_signal;
	sa.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
	sigaltstack(&ss, NULL);
	for (unsigned int i = 0; i < 5; i++)
		sigaction(sigs[i], &sa, NULL);
	if (mmap((void *)ARENA, ARENA_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
		 -1, 0) != (void *)ARENA ||
	    mmap((void *)RO_PAGE, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) !=
		    (void *)RO_PAGE ||
	    mmap((void *)(uintptr_t)AREA, sizeof(area), PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != (void *)(uintptr_t)AREA ||
	    mmap((void *)(uintptr_t)CODE, CODE_LEN, PROT_READ | PROT_WRITE | PROT_EXEC,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != (void *)(uintptr_t)CODE)
		abort();
	*(volatile char *)RO_PAGE;
	xs_size = 832;
	for (unsigned int i = 2; i < 8; i++) {
		uint32_t r[4];

		if (!(engine_xcr0_max() >> i & 1))
			continue;
		__asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(0xd), "c"(i));
		xcomp[i].size = r[0];
		xcomp[i].off = r[1];
		if (r[0] + r[1] > xs_size)
			xs_size = r[0] + r[1];
	}
	ZydisDecoderInit(&dec64, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderEnableMode(&dec64, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	ZydisDecoderEnableMode(&dec64, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
	ZydisDecoderInit(&dec32, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
	ZydisDecoderEnableMode(&dec32, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	ZydisDecoderEnableMode(&dec32, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
	env = env_create(1);
	for (unsigned int i = 0; i < ARENA_LEN; i += 4096)
		env_map(env, ARENA + i, ARENA_GPA + i, PTE_P_ | PTE_W_ | PTE_U_);
	env_map(env, RO_PAGE, ARENA_GPA + ARENA_LEN, PTE_P_ | PTE_U_);
	env_map(env, AREA, AREA_GPA, PTE_P_ | PTE_W_ | PTE_U_);
	for (unsigned int i = 0; i < CODE_LEN; i += 4096)
		env_map(env, CODE + i, CODE_GPA + i, PTE_P_ | PTE_W_ | PTE_U_);
	for (unsigned int i = 0; i < 5; i++)
		sigaction(sigs[i], NULL, &ours[i]);
}

static unsigned long run_many(unsigned long count, uint64_t seed, unsigned int seconds)
{
	time_t t0 = time(NULL);
	unsigned long bad = 0, i;

	for (i = 0; i < count && bad < 60; i++) {
		bad += (unsigned long)one_test(seed + i, true);
		if (seconds && time(NULL) - t0 >= (time_t)seconds)
			break;
	}
	printf("%lu sequences from seed %lu: %lu differ; faults:", i, seed, bad);
	for (int k = 0; k < 32; k++)
		if (faults[k])
			printf(" #%d %lu", k, faults[k]);
	printf("; not judged %lu\n", unjudged);
	/* they are few, or the engine does not see that code is written */
	return bad + (i > 1000 && unjudged > i / 1000);
}

static void sequences_agree(void **state)
{
	uint64_t seed = (uint64_t)time(NULL);

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	skip(); /* their shadow memory is where wild addresses must fault */
#endif
	/* cmocka has put its own handlers in place */
	for (unsigned int i = 0; i < 5; i++)
		sigaction(sigs[i], &ours[i], NULL);
	assert_int_equal(run_many(2000, 1, 10), 0);
	assert_int_equal(run_many(6000, seed, 10), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(sequences_agree)};

	setup();
	int r;

	if (argc > 1)
		r = run_many(strtoul(argv[1], NULL, 0), argc > 2 ? strtoul(argv[2], NULL, 0) : (uint64_t)time(NULL),
				0) ? 1 : 0;
	else
		r = cmocka_run_group_tests(tests, NULL, NULL);
	env_destroy(env);
	return r;
}
