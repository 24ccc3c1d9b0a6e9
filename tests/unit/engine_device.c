/* SPDX-License-Identifier: MIT
 *
 * Bare-metal guests through engine_run(): devices, memory slots, self-modifying
 * code, state, two vCPUs, and what the API refuses.
 */
#include "../lib/engine_snippet.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

/* ---- devices ---- */

SNIPPET(mmio, "mov (%rdi),%eax\nmov %rbx,8(%rdi)\naddl $3,16(%rdi)\nmovups 32(%rdi),%xmm0\nint3");
SNIPPET(pio, "mov $0x3f8,%dx\nmov $0x41,%al\nout %al,%dx\nin $0x60,%al\nmov %rsi,%rsi\nmov $3,%ecx\nrep outsb\nint3");

static void device_memory_goes_out(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	unsigned int n = 0;
	int r;

	env_map(e, VA, 0xfe000000, PTE_P_ | PTE_W_);
	for (int exits = 0; exits < 2; exits++) {
		PUT(e, LOAD, mmio);
		env_start(e, 0, 0, LOAD, ENV_KSTACK);
		memset(&e->mmio, 0, sizeof(e->mmio));
		e->mmio.read_value = 0x1122334455667788ull;
		e->mmio.exits = exits;
		set_gpr(e, 0, 7, VA);
		set_gpr(e, 0, 3, 0xdeadbeefcafef00dull);
		for (n = 0; (r = env_run(e, 0, &x)) == -(int)ENGINE_EXIT_MMIO - 1; n++)
			if (!x.access.write)
				x.access.data = x.access.len == 8 ? 0x1122334455667788ull : 0x55667788;
		assert_int_equal(r, 256);
		assert_int_equal(n, exits ? 6 : 0);
		assert_int_equal(regs(e).gpr[0], 0x55667788);
		assert_int_equal(e->mmio.n, 6);
		assert_int_equal(e->mmio.a[0].addr, 0xfe000000);
		assert_int_equal(e->mmio.a[0].len, 4);
		assert_int_equal(e->mmio.a[1].data, 0xdeadbeefcafef00dull);
		assert_true(e->mmio.a[1].write && e->mmio.a[1].len == 8);
		assert_false(e->mmio.a[2].write);
		assert_int_equal(e->mmio.a[3].data, 0x5566778b);
		assert_int_equal(e->mmio.a[5].addr, 0xfe000028);
	}
	env_destroy(e);
}

SNIPPET(moves, "mov %eax,(%rdi)\nmov %eax,(%rdi)\nmov %r8,(%rsi)\ninvlpg (%rdi)\nmov %eax,(%rdi)\n"
	       "mov %r9,(%rsi)\nmov %cr3,%rcx\nmov %rcx,%cr3\nmov %eax,(%rdi)\n"
	       "mov %r10,(%rsi)\ninvlpg (%rdi)\nmov (%rdi),%ebx\nmov %eax,(%rdi)\nint3");

/* Where a device's page is, is not looked up each time; but anew when the guest says that it has changed. */
static void device_memory_moves(void **state)
{
	static uint8_t more[4096] __attribute__((aligned(4096)));
	static const gpa_t to[] = { 0xfe000000, 0xfe000000, 0xfd000000, 0xfc000000, 0xfb000000 };
	const struct engine_slot ram = { .gpa = 0xfe000000, .size = sizeof(more), .host = more };
	struct env *e = env_create(1);
	struct err err;

	env_map(e, VA + 4096, PA, PTE_P_ | PTE_W_);
	env_map(e, VA + 8192, (gpa_t)((uint8_t *)env_pte(e, VA) - e->ram) & ~0xfffull, PTE_P_ | PTE_W_);
	for (unsigned int way = 0; way < ENV_WAYS; way++) {
		engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | env_ways[way]);
		env_map(e, VA, to[0], PTE_P_ | PTE_W_);
		PUT(e, LOAD, moves);
		env_start(e, 0, 0, LOAD, ENV_KSTACK);
		set_gpr(e, 0, 7, VA);
		set_gpr(e, 0, 6, VA + 8192 + (VA >> 9 & 0xff8));
		set_gpr(e, 0, 8, to[2] | PTE_P_ | PTE_W_);
		set_gpr(e, 0, 9, to[3] | PTE_P_ | PTE_W_ | PTE_G_);
		/* what may still be read may not be written */
		set_gpr(e, 0, 10, to[4] | PTE_P_);
		e->mmio.n = 0;
		assert_int_equal(env_run_through(e, 0), 14);
		assert_int_equal(e->mmio.n, ARRAY_SIZE(to));
		for (unsigned int i = 0; i < ARRAY_SIZE(to); i++) {
			assert_int_equal(e->mmio.a[i].addr, to[i]);
			assert_int_equal(e->mmio.a[i].write, i < 4);
		}
		/* memory comes where the device was, and goes */
		for (unsigned int is_ram = 0; is_ram < 3; is_ram++) {
			if (is_ram)
				assert_int_equal(engine_vm_change_slot(e->vm, is_ram == 2 ? &ram.gpa : NULL,
								       is_ram == 1 ? &ram : NULL, &err), 0);
			env_map(e, VA, to[0], PTE_P_ | PTE_W_);
			env_start(e, 0, 0, LOAD, ENV_KSTACK);
			set_gpr(e, 0, 7, VA);
			set_gpr(e, 0, 6, VA + 4096);
			e->mmio.n = 0;
			more[0] = 0;
			set_gpr(e, 0, 0, 0x77);
			assert_int_equal(env_run_through(e, 0), 256);
			assert_int_equal(e->mmio.n, is_ram == 1 ? 0 : 6);
			assert_int_equal(more[0], is_ram == 1 ? 0x77 : 0);
		}
	}
	env_destroy(e);
}

static void ports_go_out(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;

	PUT(e, LOAD, pio);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	e->io.read_value = 0x99;
	set_gpr(e, 0, 6, 0x7000);
	memcpy(e->ram + 0x7000, "xyz", 3);
	assert_int_equal(env_run(e, 0, &x), 256);
	assert_int_equal(e->io.n, 5);
	assert_int_equal(e->io.a[0].addr, 0x3f8);
	assert_int_equal(e->io.a[0].data, 0x41);
	assert_int_equal(e->io.a[1].addr, 0x60);
	assert_int_equal(regs(e).gpr[0] & 0xff, 0x99);
	assert_int_equal(e->io.a[4].data, 'z');
	assert_int_equal(regs(e).gpr[1], 0);
	/* CPL 3 without a permission bitmap: #GP */
	env_map(e, LOAD, LOAD, PTE_P_ | PTE_U_);
	env_start(e, 0, 3, LOAD, ENV_KSTACK);
	assert_int_equal(env_run(e, 0, &x), 13);
	assert_int_equal(e->io.n, 5);
	env_destroy(e);
}

SNIPPET(rom, "mov (%rdi),%eax\nmovl $5,(%rdi)\nmovl $6,(%rsi)\nint3");

static void slots_are_read_only_logged_and_checked(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	static uint8_t rom[4096] __attribute__((aligned(4096)));
	uint64_t dirty[ENV_RAM / 4096 / 64] = {0};
	struct engine_slot s[2] = {{.gpa = 0, .size = ENV_RAM, .host = e->ram, .dirty = dirty},
				   {.gpa = 0xfff00000, .size = 4096, .host = rom, .flags = ENGINE_SLOT_RDONLY}};
	static const struct { gpa_t gpa; uint64_t size; } bad[] = {
		{ENV_RAM - 4096, 4096}, {0xfff00100, 4096}, {~0ull << 12, 4096}, {1ull << 52, 4096}, {0xfff00000, 0},
	};
	struct err err;
	gpa_t was;

	memset(rom, 0x33, sizeof(rom));
	assert_int_equal(engine_vm_change_slot(e->vm, &s[0].gpa, &s[0], &err), 0);
	assert_int_equal(engine_vm_change_slot(e->vm, NULL, &s[1], &err), 0);
	env_map(e, VA, 0xfff00000, PTE_P_ | PTE_W_);
	env_map(e, VA + 4096, PA, PTE_P_ | PTE_W_);
	PUT(e, LOAD, rom);
	for (int i = 0; i < 2; i++) {
		memset(dirty, 0, sizeof(dirty));
		engine_vm_protect(e->vm, 0, ENV_RAM);
		e->mmio.n = 0;
		env_start(e, 0, 0, LOAD, ENV_KSTACK);
		set_gpr(e, 0, 7, VA);
		set_gpr(e, 0, 6, VA + 4096);
		assert_int_equal(env_run(e, 0, &x), 256);
		assert_int_equal(regs(e).gpr[0], 0x33333333);
		assert_int_equal(rom[0], 0x33);
		assert_int_equal(e->mmio.n, 1);
		assert_int_equal(e->mmio.a[0].data, 5);
		assert_true(dirty[(PA >> 12) / 64] >> (PA >> 12) % 64 & 1);
		assert_false(dirty[(PA >> 12) / 64] >> ((PA >> 12) + 1) % 64 & 1);
	}
	/* it may lie over what it comes for, and over nothing else */
	was = s[1].gpa;
	s[1].gpa = was - 4096;
	s[1].size = 8192;
	assert_int_equal(engine_vm_change_slot(e->vm, NULL, &s[1], &err), -EINVAL);
	assert_int_equal(engine_vm_change_slot(e->vm, &s[1].gpa, &s[1], &err), -ENOENT);
	assert_int_equal(engine_vm_change_slot(e->vm, &s[1].gpa, NULL, &err), -ENOENT);
	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++) {
		s[1].gpa = bad[i].gpa;
		s[1].size = bad[i].size;
		assert_int_equal(engine_vm_change_slot(e->vm, &was, &s[1], &err), -EINVAL);
	}
	s[1].gpa = was;
	s[1].size = 4096;
	assert_int_equal(engine_vm_change_slot(e->vm, &was, &s[1], &err), 0);
	env_destroy(e);
}

/* ---- code that changes ---- */

SNIPPET(smc, "xor %eax,%eax\nmov $100,%ecx\n1: add $0,%eax\nincb (1b + 2)(%rip)\ndec %ecx\njnz 1b\nint3");
SNIPPET(smc_next, "movb $0xc3, 1f(%rip)\nmov $3,%eax\n1: nop\nint3");

static void code_sees_its_own_stores(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;

	for (int w = 0; w < 3; w++) {
		PUT(e, LOAD, smc);
		env_start(e, 0, 0, LOAD, ENV_KSTACK);
		engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | env_ways[w]);
		do
			assert_int_equal(engine_run(e->cpu[0], &x), 0);
		while (x.reason == ENGINE_EXIT_DEBUG && x.vector != 3);
		assert_int_equal(regs(e).gpr[0], 99 * 100 / 2);
	}
	/* the very next instruction becomes RET, to an address on the stack */
	PUT(e, LOAD, smc_next);
	env_start(e, 0, 0, LOAD, 0x7000);
	*(uint64_t *)(e->ram + 0x7000) = ENV_HANDLER + 0x33;
	assert_int_equal(env_run(e, 0, &x), 0x33);
	env_destroy(e);
}

SNIPPET(flag_save, "mov $0x7fffffff,%eax\nadd $1,%eax\nmov (%rdi),%rbx\nmov %rbx,8(%rdi)\npushfq\npop %rcx\n"
		   "seto %dl\nstc\nmov (%rdi),%rbx\nadc $0,%rdi\nint3");

static void flags_survive_lookups(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;

	PUT(e, LOAD, flag_save);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	set_gpr(e, 0, 7, 0x7000);
	assert_int_equal(env_run(e, 0, &x), 256);
	assert_int_equal(regs(e).gpr[1] & 0x8d5, 0x894);
	assert_int_equal(regs(e).gpr[2] & 0xff, 1);
	assert_int_equal(regs(e).gpr[7], 0x7001);
	env_destroy(e);
}

SNIPPET(mxcsr, "ldmxcsr (%rdi)\nfxsave (%rsi)\nmov $3,%eax\nxor %edx,%edx\nxsave (%rbx)\n"
	       "xrstor (%rbx)\nfxrstor (%rsi)\nstmxcsr (%rdi)\nint3");

/* What bits MXCSR has is the host's: LDMXCSR goes by that, so all else must. */
static void mxcsr_has_the_hosts_bits(void **state)
{
	uint8_t host[512] __attribute__((aligned(16)));
	uint32_t mask;

	__asm__ volatile("fxsave64 %0" : "=m"(host));
	mask = load_le32(host + 28) ? load_le32(host + 28) : 0xffbf;
	for (unsigned int w = 0; w < ENV_WAYS; w++)
		for (unsigned int bad = 0; bad < 2; bad++) {
			struct env *e = env_create(1);
			uint32_t value = 0x1f80 | (mask & ~0xffffu) | (bad ? 1u << 31 : 0);
			uint8_t image[ENGINE_XSAVE_SIZE];

			PUT(e, LOAD, mxcsr);
			env_start(e, 0, 0, LOAD, ENV_KSTACK);
			engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | env_ways[w]);
			store_le32(e->ram + 0x7000, value);
			set_gpr(e, 0, 7, 0x7000);
			set_gpr(e, 0, 6, 0x12000);
			set_gpr(e, 0, 3, 0x13000);
			assert_int_equal(env_run_through(e, 0), bad ? 13 : 256);
			if (!bad) {
				for (unsigned int i = 0; i < 2; i++) {
					assert_int_equal(load_le32(e->ram + 0x12018 + 0x1000 * i), value);
					assert_int_equal(load_le32(e->ram + 0x1201c + 0x1000 * i), mask);
				}
				assert_int_equal(load_le32(e->ram + 0x7000), value);
				engine_get_xsave(e->cpu[0], image);
				assert_int_equal(load_le32(image + 24), value);
				assert_int_equal(engine_set_xsave(e->cpu[0], image), 0);
				store_le32(image + 24, value | 1u << 31);
				assert_int_equal(engine_set_xsave(e->cpu[0], image), -EINVAL);
			}
			env_destroy(e);
		}
}

SNIPPET(xsave, "vbroadcastsd (%rdi),%ymm3\nfld1\nmov $7,%eax\nxor %edx,%edx\nxsave (%rsi)\nvzeroall\nfninit\n"
	       "xsavec (%rbx)\nmov $7,%eax\nxrstor (%rsi)\nvmovups %ymm3,(%rdi)\nfstpl 32(%rdi)\nxrstor (%rbx)\n"
	       "vmovups %ymm3,64(%rdi)\nint3");

static void xsave_keeps_vectors(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	uint64_t *p = (uint64_t *)(e->ram + 0x7000);

	PUT(e, LOAD, xsave);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	p[0] = 0x123456789abcdefull;
	p[8] = p[11] = 5;
	set_gpr(e, 0, 7, 0x7000);
	set_gpr(e, 0, 6, 0x12000);
	set_gpr(e, 0, 3, 0x13000);
	assert_int_equal(env_run(e, 0, &x), 256);
	for (int i = 0; i < 4; i++)
		assert_int_equal(p[i], 0x123456789abcdefull);
	assert_int_equal(p[4], 0x3ff0000000000000ull);
	assert_int_equal(p[8], 0);
	assert_int_equal(p[11], 0);
	assert_int_equal(*(uint64_t *)(e->ram + 0x12200), 7);
	/* TS: #NM, and the state stays */
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	struct engine_sregs s;

	engine_get_sregs(e->cpu[0], &s);
	s.cr0 |= 8;
	assert_int_equal(engine_set_sregs(e->cpu[0], &s), 0);
	assert_int_equal(env_run(e, 0, &x), 7);
	env_destroy(e);
}

/* ---- two vCPUs ---- */

SNIPPET(counter, "1: lock incq (%rdi)\nmov $1,%eax\nlock xaddl %eax,8(%rdi)\nlock btsq %rcx,64(%rdi)\ndec %ecx\njnz 1b\nint3");
SNIPPET(wait_change, "1: call 2f\ncmp $7,%eax\njne 1b\nint3\n.skip 0x1000 - (. - sn_wait_change)\n2: mov $1,%eax\nret");
SNIPPET(make_change, "mov $2000000,%ecx\n1: dec %ecx\njnz 1b\nmovl $7,(%rdi)\nint3");

static void run_two(struct env *e)
{
	struct env_runner r[2] = {{.e = e, .cpu = 0}, {.e = e, .cpu = 1}};
	pthread_t t[2];

	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, env_run_thread, &r[i]), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(r[0].result, 256);
	assert_int_equal(r[1].result, 256);
}

static void locked_counters_agree(void **state)
{
	struct env *e = env_create(2);
	const uint64_t n = 300000;

	PUT(e, LOAD, counter);
	for (unsigned int i = 0; i < 2; i++) {
		env_start(e, i, 0, LOAD, i ? ENV_IST1 : ENV_KSTACK);
		set_gpr(e, i, 7, 0x100000 + PA);
		set_gpr(e, i, 1, n);
	}
	for (uint64_t p = 0; p < 0x20000; p += 4096)
		env_map(e, 0x100000 + PA + p, 0x100000 + PA + p, PTE_P_ | PTE_W_);
	run_two(e);
	assert_int_equal(*(uint64_t *)(e->ram + 0x100000 + PA), 2 * n);
	assert_int_equal(*(uint32_t *)(e->ram + 0x100000 + PA + 8), 2 * n);
	env_destroy(e);
}

static void one_vcpu_changes_the_code_of_another(void **state)
{
	struct env *e = env_create(2);

	for (int round = 0; round < 5; round++) {
		PUT(e, LOAD, wait_change);
		PUT(e, LOAD + 0x4000, make_change);
		env_start(e, 0, 0, LOAD, ENV_KSTACK);
		env_start(e, 1, 0, LOAD + 0x4000, ENV_IST1);
		set_gpr(e, 1, 7, LOAD + 0x1000 + 1);
		run_two(e);
		struct engine_regs r = regs(e);

		assert_int_equal(r.gpr[0], 7);
	}
	env_destroy(e);
}

SNIPPET(walk_memory, "1: mov %rdi,%rbx\nmov $64,%ecx\n2: mov %rax,(%rbx)\nadd (%rbx),%rdx\nadd $4096,%rbx\n"
		     "dec %ecx\njnz 2b\ninc %rax\njmp 1b");

static void maps_and_logs_change_under_a_running_guest(void **state)
{
	struct env *e = env_create(1);
	struct env_runner r = {.e = e, .cpu = 0};
	static uint64_t dirty[ENV_RAM / 4096 / 64];
	struct engine_slot s[2] = {{.gpa = 0, .size = ENV_RAM, .host = e->ram, .dirty = dirty}, {.gpa = 1u << 30}};
	struct err err;
	pthread_t t;

	assert_int_equal(engine_vm_change_slot(e->vm, &s[0].gpa, &s[0], &err), 0);
	for (uint64_t p = 0; p < 64; p++)
		env_map(e, VA + p * 4096, PA + p * 4096, PTE_P_ | PTE_W_);
	PUT(e, LOAD, walk_memory);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	set_gpr(e, 0, 7, VA);
	assert_int_equal(pthread_create(&t, NULL, env_run_thread, &r), 0);
	for (int i = 0; i < 200; i++) {
		/* a slot that comes and goes, and whose memory goes with it */
		s[1].size = 4096;
		s[1].host = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		assert_int_equal(engine_vm_change_slot(e->vm, NULL, &s[1], &err), 0);
		assert_int_equal(engine_vm_change_slot(e->vm, &s[1].gpa, NULL, &err), 0);
		munmap(s[1].host, 4096);
		/* what is written after the log was cleared is in it, or seen in memory */
		uint64_t *page = (uint64_t *)(e->ram + PA + 4096 * (uint64_t)(i % 64)), before, after;
		uint64_t bit = (PA >> 12) + (uint64_t)(i % 64);

		__atomic_fetch_and(&dirty[bit / 64], ~(1ull << bit % 64), __ATOMIC_SEQ_CST);
		engine_vm_protect(e->vm, PA, 64 * 4096);
		before = __atomic_load_n(page, __ATOMIC_SEQ_CST);
		for (int k = 0; k < 1000; k++)
			after = __atomic_load_n(page, __ATOMIC_SEQ_CST);
		if (after != before)
			assert_true(__atomic_load_n(&dirty[bit / 64], __ATOMIC_SEQ_CST) >> bit % 64 & 1);
	}
	engine_vcpu_kick(e->cpu[0], ENGINE_KICK_EXIT);
	pthread_join(t, NULL);
	assert_int_equal(r.result, -(int)ENGINE_EXIT_INTR - 1);
	env_destroy(e);
}

/* ---- the API's own refusals ---- */

static void bad_state_is_refused(void **state)
{
	struct env *e = env_create(1);
	struct engine_sregs s, t;
	uint8_t xs[ENGINE_XSAVE_SIZE];
	uint64_t val;
	struct engine_events ev = {0};
	struct engine_debugregs d = {.dr6 = 1ull << 40};

	engine_get_sregs(e->cpu[0], &s);
	t = s;
	t.cr0 &= ~1ull; /* PG without PE */
	assert_int_equal(engine_set_sregs(e->cpu[0], &t), -EINVAL);
	t = s;
	t.cr4 &= ~(1ull << 5); /* long mode without PAE */
	assert_int_equal(engine_set_sregs(e->cpu[0], &t), -EINVAL);
	t = s;
	t.efer &= ~0x400ull; /* LME and PG without LMA */
	assert_int_equal(engine_set_sregs(e->cpu[0], &t), -EINVAL);
	assert_int_equal(engine_set_xcr0(e->cpu[0], 4), -EINVAL);
	assert_int_equal(engine_set_xcr0(e->cpu[0], 1ull << 20), -EINVAL);
	engine_get_xsave(e->cpu[0], xs);
	*(uint32_t *)(xs + 24) = 0xffff0000u;
	assert_int_equal(engine_set_xsave(e->cpu[0], xs), -EINVAL);
	assert_int_equal(engine_get_msr(e->cpu[0], 0x1b, &val), -ENOENT);
	assert_int_equal(engine_set_msr(e->cpu[0], 0xc0000100, 1ull << 60), -EINVAL);
	ev.exception.injected = 1;
	ev.exception.nr = 40;
	assert_int_equal(engine_set_events(e->cpu[0], &ev), -EINVAL);
	assert_int_equal(engine_set_debugregs(e->cpu[0], &d), -EINVAL);
	env_destroy(e);
}

SNIPPET(msr, "mov $0x1b,%ecx\nrdmsr\nmov $0x999,%ecx\nrdmsr\nint3");
SNIPPET(outside, "mov $0x1c,%ecx\nrdmsr\nmov %rax,%rdi\nmov $7,%eax\nmov $8,%edx\nwrmsr\nwrmsr\nint3");

static void msrs_are_answered_by_the_caller(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	struct env_frame f;

	PUT(e, LOAD, outside);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	assert_int_equal(env_run(e, 0, &x), -(int)ENGINE_EXIT_MSR - 1);
	assert_int_equal(x.access.addr, 0x1c);
	assert_false(x.access.write);
	x.access.data = 0x1122334455667788;
	assert_int_equal(env_run(e, 0, &x), -(int)ENGINE_EXIT_MSR - 1);
	assert_int_equal(regs(e).gpr[7], 0x55667788);
	assert_int_equal(regs(e).gpr[2], 8);
	assert_true(x.access.write);
	assert_int_equal(x.access.data, 0x800000007);
	assert_int_equal(env_run(e, 0, &x), -(int)ENGINE_EXIT_MSR - 1);
	x.failed = true;
	assert_int_equal(env_run(e, 0, &x), 13);
	env_frame(e, 0, 13, &f);
	assert_int_equal(f.rip, LOAD + 22);
	env_destroy(e);
}

SNIPPET(hyper, "mov $5,%eax\nmov $10,%ebx\nvmmcall\nmov %rax,%rdi\nmov $99,%eax\nvmcall\nint3");

static void msrs_and_hypercalls_reach_the_ops(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	struct env_frame f;

	PUT(e, LOAD, msr);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	assert_int_equal(env_run(e, 0, &x), 13);
	env_frame(e, 0, 13, &f);
	assert_int_equal(f.rip, LOAD + 12);
	assert_int_equal(regs(e).gpr[0], 0x1234);
	PUT(e, LOAD, hyper);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	assert_int_equal(env_run(e, 0, &x), -(int)ENGINE_EXIT_HYPERCALL - 1);
	assert_int_equal(x.access.addr, 99);
	x.access.data = 1234;
	assert_int_equal(env_run(e, 0, &x), 256);
	assert_int_equal(regs(e).gpr[7], 11);
	assert_int_equal(regs(e).gpr[0], 1234);
	env_destroy(e);
}

SNIPPET(intels, "mov $10,%ebx\nvmcall\nint3");
SNIPPET(amds, "mov $10,%ebx\nvmmcall\nint3");

/* A program with the hypercall of a vendor, and the same with the other's. */
static const struct {
	int intel;
	const uint8_t *own, *other;
} vendors[] = {{1, sn_intels, sn_amds}, {-1, sn_amds, sn_intels}};

static void the_other_vendors_hypercall_becomes_the_own(void **state)
{
	const unsigned int size = (unsigned int)(sn_intels_end - sn_intels);

	/* from all in one page to all in the next but the first byte */
	for (unsigned int i = 0; i < 2 * ENV_WAYS; i++)
		for (unsigned int before = size; before; before--) {
			struct env *e = env_create(1);
			uint64_t at = 0x11000 - before;

			e->intel = vendors[i & 1].intel;
			engine_vcpu_cpuid_changed(e->cpu[0]);
			put(e, at, vendors[i & 1].other, vendors[i & 1].other + size);
			for (unsigned int again = 0; again < 2; again++) {
				env_start(e, 0, 0, at, ENV_KSTACK);
				engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | env_ways[i / 2]);
				set_gpr(e, 0, 0, 5 + again);
				assert_int_equal(env_run_through(e, 0), 256);
				assert_int_equal(e->hyper_nr, 5 + again);
				assert_int_equal(regs(e).gpr[0], 11);
				assert_memory_equal(e->ram + at, vendors[i & 1].own, size);
			}
			env_destroy(e);
		}
}

static void the_other_vendors_hypercall_is_refused(void **state)
{
	const unsigned int size = (unsigned int)(sn_intels_end - sn_intels);

	for (unsigned int i = 0; i < 2; i++) {
		struct env *e = env_create(1);
		struct env_frame f;
		struct engine_exit x;

		e->intel = vendors[i].intel;
		engine_vcpu_cpuid_changed(e->cpu[0]);
		put(e, LOAD, vendors[i].other, vendors[i].other + size);
		/* as the VM wants it */
		e->keep_hypercalls = true;
		env_start(e, 0, 0, LOAD, ENV_KSTACK);
		assert_int_equal(env_run(e, 0, &x), 6);
		env_frame(e, 0, 6, &f);
		assert_int_equal(f.rip, LOAD + 5);
		/* a page that is not to be written */
		e->keep_hypercalls = false;
		env_map(e, LOAD, LOAD, PTE_P_);
		env_start(e, 0, 0, LOAD, ENV_KSTACK);
		assert_int_equal(env_run(e, 0, &x), 14);
		env_frame(e, 0, 14, &f);
		assert_int_equal(f.rip, LOAD + 5);
		assert_int_equal(f.error, 3);
		/* a user's program */
		env_map(e, LOAD, LOAD, PTE_P_ | PTE_W_ | PTE_U_);
		env_start(e, 0, 3, LOAD, ENV_KSTACK);
		if (vendors[i].intel < 0) {
			assert_int_equal(env_run(e, 0, &x), 13);
			assert_memory_equal(e->ram + LOAD, vendors[i].other, size);
		} else {
			assert_int_equal(env_run(e, 0, &x), 256);
			assert_int_equal(regs(e).gpr[0], (uint64_t)-EPERM);
			assert_memory_equal(e->ram + LOAD, vendors[i].own, size);
		}
		assert_int_equal(e->hyper_nr, 0);
		env_destroy(e);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(device_memory_goes_out),
		cmocka_unit_test(device_memory_moves),
		cmocka_unit_test(ports_go_out),
		cmocka_unit_test(slots_are_read_only_logged_and_checked),
		cmocka_unit_test(code_sees_its_own_stores),
		cmocka_unit_test(flags_survive_lookups),
		cmocka_unit_test(xsave_keeps_vectors),
		cmocka_unit_test(mxcsr_has_the_hosts_bits),
		cmocka_unit_test(locked_counters_agree),
		cmocka_unit_test(one_vcpu_changes_the_code_of_another),
		cmocka_unit_test(maps_and_logs_change_under_a_running_guest),
		cmocka_unit_test(bad_state_is_refused),
		cmocka_unit_test(msrs_and_hypercalls_reach_the_ops),
		cmocka_unit_test(the_other_vendors_hypercall_becomes_the_own),
		cmocka_unit_test(the_other_vendors_hypercall_is_refused),
		cmocka_unit_test(msrs_are_answered_by_the_caller),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
