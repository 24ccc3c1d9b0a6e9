/* SPDX-License-Identifier: MIT
 *
 * Memory for translated code: it stays within the VM's budget, what had to go is
 * translated again, and vCPUs come to equal shares of it.
 */
#include "../lib/engine_snippet.h"
#include <errno.h>
#include <sys/mman.h>

#define CODE	0x400000u /* functions, STRIDE apart */
#define STRIDE	32u
#define SPAN	(512u << 10) /* what code memory is taken by */

/* Calls every function from RCX to RDX. */
SNIPPET(caller, "1: call *%rcx\nadd $32,%rcx\ncmp %rdx,%rcx\njb 1b\nint3");
SNIPPET(function, "inc %rax\nret");

/* Enough of them to fill more than any vCPU here may have. */
static const unsigned int n = 40000;

static struct env *many_functions(unsigned int n_cpu, uint32_t code_mib)
{
	struct env *e = env_create_small(n_cpu, code_mib);

	for (uint64_t p = CODE; p < CODE + n * STRIDE; p += 4096)
		env_map(e, p, p, PTE_P_ | PTE_W_);
	for (unsigned int i = 0; i < n; i++)
		PUT(e, CODE + i * STRIDE, function);
	PUT(e, LOAD, caller);
	return e;
}

static void call_all(struct env *e, unsigned int cpu)
{
	struct engine_exit x;
	struct engine_regs r;

	env_start(e, cpu, 0, LOAD, ENV_KSTACK - cpu * 0x800);
	set_gpr(e, cpu, 0, 0);
	set_gpr(e, cpu, 1, CODE);
	set_gpr(e, cpu, 2, CODE + n * STRIDE);
	assert_int_equal(env_run(e, cpu, &x), 256);
	engine_get_regs(e->cpu[cpu], &r);
	assert_int_equal(r.gpr[0], n);
}

static struct engine_stats stats_of(struct env *e, unsigned int cpu)
{
	struct engine_stats s;

	engine_get_stats(e->cpu[cpu], &s);
	return s;
}

static void code_stays_within_its_budget(void **state)
{
	struct env *small = many_functions(1, 1), *large = many_functions(1, 0);

	for (unsigned int round = 0; round < 2; round++) {
		call_all(small, 0);
		call_all(large, 0);
	}
	/* all were kept, or all had to be made again */
	assert_true(stats_of(large, 0).blocks < n + 100);
	assert_int_equal(stats_of(large, 0).evictions, 0);
	assert_true(stats_of(small, 0).blocks > 2 * n);
	assert_true(stats_of(small, 0).evictions > 1);
	assert_true(stats_of(small, 0).code_bytes > 4 * SPAN);
	assert_int_equal(stats_of(small, 0).code_held, 4 * SPAN);
	env_destroy(small);
	env_destroy(large);
}

/* Pages with all, some and none of their blocks evicted are changed by somebody outside. */
static void evicted_pages_notice_changes(void **state)
{
	struct env *e = many_functions(1, 1);
	struct engine_exit x;

	call_all(e, 0);
	/* add $2,%rax; ret */
	for (unsigned int i = 1; i < n; i += 2)
		memcpy(e->ram + CODE + i * STRIDE, "\x48\x83\xc0\x02\xc3", 5);
	/* nobody is told; the guest maps its pages afresh */
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	set_gpr(e, 0, 0, 0);
	set_gpr(e, 0, 1, CODE);
	set_gpr(e, 0, 2, CODE + n * STRIDE);
	assert_int_equal(env_run(e, 0, &x), 256);
	assert_int_equal(regs(e).gpr[0], n + n / 2);
	env_destroy(e);
}

/* What a sum of known constants would let pass: a factor of nought makes its fellow count for nothing. */
static void pages_cannot_be_made_alike(void **state)
{
	static const uint64_t k[4] = {0x9e3779b97f4a7c15ull, 0xc2b2ae3d27d4eb4full, 0x165667b19e3779f9ull,
				      0xd6e8feb86659fd93ull};
	struct env *e = env_create(1);
	struct engine_exit x;

	env_map(e, CODE, CODE, PTE_P_ | PTE_W_);
	for (unsigned int i = 0; i < 4; i++)
		memcpy(e->ram + CODE + 16 * i, &k[i], 8);
	for (unsigned int made = 1; made < 3; made++) {
		/* mov $made,%eax; int3, in the eight bytes between the constants */
		memcpy(e->ram + CODE + 8, (uint8_t[]){0xb8, (uint8_t)made, 0, 0, 0, 0xcc, 0, 0}, 8);
		env_start(e, 0, 0, CODE + 8, ENV_KSTACK);
		assert_int_equal(env_run(e, 0, &x), 256);
		assert_int_equal(regs(e).gpr[0], made);
	}
	env_destroy(e);
}

static void vcpus_come_to_equal_shares(void **state)
{
	struct env *e = many_functions(2, 8); /* 10 spans: 4 each, 2 to share */

	call_all(e, 0);
	assert_int_equal(stats_of(e, 0).code_held, 6 * SPAN);
	for (unsigned int round = 0; round < 3; round++) {
		call_all(e, 1);
		call_all(e, 0);
		assert_true(stats_of(e, 0).code_held + stats_of(e, 1).code_held <= 10 * SPAN);
	}
	assert_int_equal(stats_of(e, 0).code_held, 5 * SPAN);
	assert_int_equal(stats_of(e, 1).code_held, 5 * SPAN);
	env_destroy(e);
}

/*
 * Memory that a slot promises and the host does not give, met by translated code: the state is that before
 * the instruction (or, of a string, between two of its units), and with the memory back it goes on.
 */
#define GONE 0x600000u /* two pages, the second goes */

SNIPPET(gone, "mov $0x601000,%ebx\nmov $0x601000,%rsi\nmov $0x600800,%rdi\nmov $7,%ecx\n" /* 0 */
	"mov (%rbx),%rax\nint3\n");
SNIPPET(gone_group, "mov $0x601000,%ebx\nmov $1,%r9\nmov 8(%rbx),%r9\nadd 16(%rbx),%r9\nint3\n");
SNIPPET(gone_flags, "mov $0x601000,%ebx\nxor %eax,%eax\ncmp $1,%eax\nmov (%rbx),%r10\nadc $0,%eax\nint3\n");
SNIPPET(gone_high, "mov $0x601000,%ebx\nmov $0x40,%ebp\nadd %ch,(%rbx,%rbp)\nint3\n");
SNIPPET(gone_high_load, "mov $0x601000,%ebx\nmov $0x40,%ebp\nmov (%rsi,%rbx),%ah\nint3\n");
SNIPPET(gone_push, "mov $0x601100,%esp\nmov $5,%eax\npush %rax\nint3\n");
SNIPPET(gone_pushm, "mov $0x602000,%esp\nmov $0x600000,%eax\npush (%rax)\nint3\n");
SNIPPET(gone_pop, "mov $0x601000,%esp\nmov $5,%eax\npop %rax\nint3\n");
SNIPPET(gone_ret, "mov $0x601000,%esp\nret\n");
SNIPPET(gone_call, "mov $0x601100,%esp\ncall 1f\n1: int3\n");
SNIPPET(gone_calli, "mov $0x601100,%esp\nlea 1f(%rip),%rax\ncall *%rax\n1: int3\n");
SNIPPET(gone_leave, "mov $0x601000,%ebp\nleave\nint3\n");
SNIPPET(gone_enter, "mov $0x601100,%esp\nenter $16,$1\nint3\n");
SNIPPET(gone_stos, "mov $0x601000,%edi\nmov $9,%ecx\nrep stosq\nint3\n");
SNIPPET(gone_movs, "mov $0x601000,%esi\nmov $0x600100,%edi\nmov $9,%ecx\nrep movsb\nint3\n");
SNIPPET(gone_loop, "mov $0x600fc0,%ebx\n1: add (%rbx),%rax\nadd $8,%rbx\ncmp $0x601040,%rbx\njb 1b\nint3\n");
SNIPPET(gone_simd, "mov $0x601000,%ebx\nmovdqu 16(%rbx),%xmm0\nmovdqu %xmm0,32(%rbx)\nint3\n");
SNIPPET(gone_cmpxchg, "mov $0x601000,%ebx\nmov $3,%r15d\nlock cmpxchg %r15,(%rbx)\nint3\n");

static void gone_map(struct env *e, int prot)
{
	assert_int_equal(mprotect(e->ram + GONE + 4096, 4096, prot), 0);
}

static struct env *gone_env(const uint8_t *from, const uint8_t *to)
{
	struct env *e = env_create(1);

	for (unsigned int i = 0; i < 3; i++)
		env_map(e, GONE + 4096 * i, GONE + 4096 * i, PTE_P_ | PTE_W_);
	for (unsigned int i = 0; i < 3 * 4096; i += 8)
		*(uint64_t *)(e->ram + GONE + i) = 0x10000 + i; /* also an address for RET */
	put(e, LOAD, from, to);
	e->ram[0x10000 + 0x1000] = 0xcc;
	return e;
}

static void memory_gone_is_exact(void **state)
{
#define WAY(name) {#name, sn_##name, sn_##name##_end}
	static const struct {
		const char *name;
		const uint8_t *from, *to;
	} way[] = {
		WAY(gone), WAY(gone_group), WAY(gone_flags), WAY(gone_high), WAY(gone_high_load), WAY(gone_push),
		WAY(gone_pushm), WAY(gone_pop), WAY(gone_ret), WAY(gone_call), WAY(gone_calli), WAY(gone_leave),
		WAY(gone_enter), WAY(gone_stos), WAY(gone_movs), WAY(gone_loop), WAY(gone_simd), WAY(gone_cmpxchg),
	};

	for (unsigned int i = 0; i < sizeof(way) / sizeof(way[0]); i++) {
		struct env *e = gone_env(way[i].from, way[i].to);
		struct engine_exit x;
		struct engine_regs start, before, at, end, again;
		int first;

		/* all there; then one instruction at a time, up to the access */
		env_start(e, 0, 0, LOAD, ENV_KSTACK);
		start = regs(e);
		first = env_run(e, 0, &x);
		end = regs(e);
		env_destroy(e);

		e = gone_env(way[i].from, way[i].to);
		env_start(e, 0, 0, LOAD, ENV_KSTACK);
		gone_map(e, PROT_NONE);
		engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | ENGINE_DEBUG_STEP);
		do {
			before = regs(e);
		} while (engine_run(e->cpu[0], &x) == 0 && x.reason == ENGINE_EXIT_DEBUG && x.vector == 1);
		assert_int_equal(x.reason, ENGINE_EXIT_INTERNAL);
		at = regs(e);
		print_message("%s\n", way[i].name);
		assert_memory_equal(&before, &at, sizeof(at));
		env_destroy(e);

		/* in blocks: the page is in the table when it goes */
		e = gone_env(way[i].from, way[i].to);
		env_start(e, 0, 0, LOAD, ENV_KSTACK);
		assert_int_equal(env_run(e, 0, &x), first);
		for (unsigned int k = 0; k < 3 * 4096; k += 8)
			*(uint64_t *)(e->ram + GONE + k) = 0x10000 + k;
		gone_map(e, PROT_NONE);
		engine_set_regs(e->cpu[0], &start);
		assert_int_equal(engine_run(e->cpu[0], &x), -EFAULT);
		assert_int_equal(x.reason, ENGINE_EXIT_INTERNAL);
		at = regs(e);
		assert_int_equal(at.rip, before.rip);
		assert_memory_equal(at.gpr, before.gpr, sizeof(at.gpr));
		/* elsewhere nobody reads it any more */
		if (way[i].from == sn_gone_flags)
			assert_int_equal(at.rflags & 1, before.rflags & 1);
		gone_map(e, PROT_READ | PROT_WRITE);
		assert_int_equal(env_run(e, 0, &x), first);
		again = regs(e);
		assert_memory_equal(end.gpr, again.gpr, sizeof(end.gpr));
		assert_int_equal(end.rip, again.rip);
		env_destroy(e);
	}
}

/* A page table that goes, of a page that the translated code looks up: all is as it was before, here too. */
static void tables_gone_are_exact(void **state)
{
	struct env *e = gone_env(sn_gone_group, sn_gone_group_end);
	uint8_t *table = (uint8_t *)((uintptr_t)env_pte(e, GONE) & ~4095ull);
	struct engine_exit x;
	struct engine_regs at;

	/* a table of its own: not the one of the code and the stack */
	assert_ptr_not_equal(table, (uint8_t *)((uintptr_t)env_pte(e, LOAD) & ~4095ull));
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	for (unsigned int g = 5; g < 16; g++)
		set_gpr(e, 0, g, 0x100 + g);
	assert_int_equal(mprotect(table, 4096, PROT_NONE), 0);
	assert_int_equal(engine_run(e->cpu[0], &x), -EFAULT);
	at = regs(e);
	assert_int_equal(at.rip, LOAD + 12); /* behind the two MOVs */
	assert_int_equal(at.gpr[3], 0x601000);
	for (unsigned int g = 5; g < 16; g++)
		assert_int_equal(at.gpr[g], g == 9 ? 1 : 0x100 + g);
	assert_int_equal(mprotect(table, 4096, PROT_READ | PROT_WRITE), 0);
	assert_int_equal(env_run(e, 0, &x), 256);
	assert_int_equal(regs(e).gpr[9], 2 * 0x11000 + 24);
	env_destroy(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(code_stays_within_its_budget),
		cmocka_unit_test(evicted_pages_notice_changes),
		cmocka_unit_test(pages_cannot_be_made_alike),
		cmocka_unit_test(vcpus_come_to_equal_shares),
		cmocka_unit_test(memory_gone_is_exact),
		cmocka_unit_test(tables_gone_are_exact),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
