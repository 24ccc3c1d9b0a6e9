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

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "../lib/diff_seq.h"
#include "../lib/engine_env.h"

static uint8_t area[4096]; /* what is at AREA before */

/* ---- native ---- */

static struct diff_seq seq;
static unsigned int xs_size;
static sigjmp_buf back;
static struct diff_state *native_out;
static bool in_native;

static void on_signal(int sig, siginfo_t *si, void *ctx)
{
	static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
				      REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
	ucontext_t *uc = ctx;
	greg_t *g = uc->uc_mcontext.gregs;
	struct diff_state *o = native_out;

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
	__asm__ volatile("xrstor64 %0" : : "m"(load_xs), "a"(seq.wide ? 0xe7 : 7), "d"(0));
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
	__asm__ volatile("xrstor64 %0" : : "m"(load_xs), "a"(seq.wide ? 0xe7 : 7), "d"(0));
	__asm__ volatile(
		"mov $0x2b, %%eax\n\tmov %%eax, %%ds\n\tmov %%eax, %%es\n\t"
		"pushq load+136(%%rip)\n\tpopfq\n\t"
		"mov load+8(%%rip), %%rcx\n\tmov load+16(%%rip), %%rdx\n\tmov load+24(%%rip), %%rbx\n\t"
		"mov load+40(%%rip), %%rbp\n\tmov load+48(%%rip), %%rsi\n\tmov load+56(%%rip), %%rdi\n\t"
		"mov load(%%rip), %%rax\n\tmov load+32(%%rip), %%rsp\n\tljmpl *load_far(%%rip)"
		: : : "memory");
	__builtin_unreachable();
}

static void run_native(const struct diff_state *in, struct diff_state *out)
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
		if (seq.compat)
			native_enter32();
		native_enter();
	}
	memcpy(out->mem, (void *)ARENA, ARENA_LEN);
	__asm__ volatile("fninit\n\tcld");
}

/* ---- engine ---- */

static struct env *env;

static int run_engine(const struct diff_state *in, struct diff_state *out, uint32_t debug)
{
	struct engine_vcpu *v = env->cpu[0];
	struct engine_exit x = {0};
	struct engine_regs r;
	struct engine_sregs s;
	int e;

	memcpy(env->ram + ARENA_GPA, in->mem, ARENA_LEN);
	memcpy(env->ram + AREA_GPA, area, sizeof(area));
	env_start(env, 0, 3, in->rip, 0);
	if (seq.compat) {
		engine_get_sregs(v, &s);
		s.seg[1].selector = SEL_UCODE32;
		s.seg[1].l = 0;
		s.seg[1].db = 1;
		if (engine_set_sregs(v, &s))
			return -1;
	}
	if (engine_set_xcr0(v, seq.wide ? 0xe7 : 7))
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

		if (!memchr(prefix, b, sizeof(prefix)) && (seq.compat || b >> 4 != 4))
			return false;
	}
	return first == last;
}

/*
 * Across the end of a segment of 4 GiB: SDM vol. 3, "Limit Checking" leaves it to the processor
 * whether that faults. a, the processor, went on to addresses that the engine refuses.
 */
static bool past_4g(const struct diff_state *a, const struct diff_state *b)
{
	return seq.compat && a->vector == 14 && (b->vector == 12 || b->vector == 13) &&
	       (a->addr >= 0xffffffc0 || a->addr < 64);
}

static bool differs(const struct diff_state *a, const struct diff_state *b, uint32_t undef, bool quiet)
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
	if (a->vector != b->vector && !past_4g(a, b))
		SAY("  vector %d %d (addr %lx %lx)\n", a->vector, b->vector, a->addr, b->addr);
	for (int i = 0; i < (seq.compat ? 8 : 16); i++)
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
		for (unsigned int i = 0; i < diff_xcomp[c].size && (seq.wide || c == 2); i += 8) {
			uint64_t x = *(const uint64_t *)(a->xs + diff_xcomp[c].off + i), y = *(const uint64_t *)(b->xs + diff_xcomp[c].off + i);

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

/* XSAVE images with init components differ in bytes that mean nothing: expand. */
static void expand(struct diff_state *st)
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
			memset(st->xs + diff_xcomp[i].off, 0, diff_xcomp[i].size);
}

static const struct {
	uint32_t debug;
	const char *name;
} ways[] = {{ENGINE_DEBUG_SLOW, "bounce"}, {ENGINE_DEBUG_ONE, "one"}, {0, "blocks"}};

static struct diff_state init_state, nat, eng, bounced;
static unsigned long unjudged; /* changed their own code to something that says where it runs */
static unsigned long faults[32];
static uint8_t code[CODE_LEN];

/* 0: agreed. */
static int one_test(uint64_t seed, bool verbose)
{
	struct timespec t0, t1;
	const struct diff_state *ref;
	bool changed;
	int bad = 0;

	diff_make(&seq, seed, (engine_xcr0_max() & 0xe0) == 0xe0, &init_state, area);
	memset((void *)(uintptr_t)CODE, 0xcc, CODE_LEN);
	memcpy((void *)init_state.rip, seq.b, seq.n);
	memcpy(code, (void *)(uintptr_t)CODE, CODE_LEN);
	if (getenv("PRINT"))
		diff_print(&seq);
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
			diff_print(&seq);
			continue;
		}
		expand(&eng);
		if (changed && !w && differs(&nat, &eng, seq.undef, true)) {
			/* then at least all ways must agree */
			unjudged++;
			bounced = eng;
			ref = &bounced;
		}
		if (differs(ref, &eng, seq.undef, true)) {
			bad = 1;
			printf("seed %lu, %s: %s and engine differ\n", seed, ways[w].name, ref == &nat ? "native" : "bounce");
			(void)differs(ref, &eng, seq.undef, false);
			if (verbose)
				diff_print(&seq);
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
		diff_xcomp[i].size = r[0];
		diff_xcomp[i].off = r[1];
		if (r[0] + r[1] > xs_size)
			xs_size = r[0] + r[1];
	}
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
