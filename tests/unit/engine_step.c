/* SPDX-License-Identifier: MIT
 *
 * Instructions that C executes when a block calls it (docs/ENGINE.md, "Steps"): the
 * block goes on behind them only if nothing is due before the next instruction.
 */
#include "../lib/engine_snippet.h"

static struct env *start(uint32_t way)
{
	struct env *e = env_create(1);

	env_start(e, 0, 0, LOAD, ENV_KSTACK - 256);
	engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | way);
	return e;
}

/* what Linux does to serialize, and a POPF */
SNIPPET(around, "mov $1000,%ecx\n xor %eax,%eax\n"
		"1: mov %rsp,%rdx\n pushq $0x10\n push %rdx\n pushfq\n pushq $8\n lea 2f(%rip),%rdx\n push %rdx\n"
		"stc\n iretq\n2: adc $1,%eax\n stc\n pushfq\n popfq\n adc $0,%ebx\n dec %ecx\n jne 1b\n int3");

static void blocks_go_on_behind_a_step(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w]);
		struct engine_stats s;

		PUT(e, LOAD, around);
		set_flags(e, 0, 2);
		assert_int_equal(env_run_through(e, 0), 256);
		/* the frame's CF: from PUSHFQ, before the STC; 1 once ADC has wrapped never */
		assert_int_equal(regs(e).gpr[0], 1000);
		assert_int_equal(regs(e).gpr[3], 1000);
		assert_int_equal(regs(e).gpr[4], ENV_KSTACK - 256);
		engine_get_stats(e->cpu[0], &s);
		assert_true(s.bounced >= 2000);
		if (!env_ways[w]) /* without leaving translated code */
			assert_true(s.exits < 100);
		env_destroy(e);
	}
}

/* IF becomes 1 in the middle of a block: the interrupt comes before the next instruction */
SNIPPET(popf_if, "mov $0x202,%edx\n push %rdx\n xor %eax,%eax\n popfq\n inc %eax\n inc %eax\n int3");
SNIPPET(iret_if, "mov %rsp,%rdx\n pushq $0x10\n push %rdx\n pushq $0x202\n pushq $8\n lea 2f(%rip),%rdx\n"
		 "push %rdx\n xor %eax,%eax\n iretq\n2: inc %eax\n inc %eax\n int3");
/* behind STI the shadow ends with the step */
SNIPPET(sti_popf, "pushq $0x202\n xor %eax,%eax\n sti\n popfq\n inc %eax\n int3");

static void interrupts_come_at_once(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++)
		for (int k = 0; k < 3; k++) {
			struct env *e = start(env_ways[w]);

			if (k == 0)
				PUT(e, LOAD, popf_if);
			else if (k == 1)
				PUT(e, LOAD, iret_if);
			else
				PUT(e, LOAD, sti_popf);
			set_flags(e, 0, 2);
			e->vector[0] = 0x50;
			engine_vcpu_kick(e->cpu[0], ENGINE_KICK_INTR);
			assert_int_equal(env_run_through(e, 0), 0x50);
			assert_int_equal(regs(e).gpr[0], 0);
			env_destroy(e);
		}
}

/* TF becomes 1: one instruction more, and one that C executes as well */
SNIPPET(popf_tf, "pushq $0x102\n xor %eax,%eax\n popfq\n1: inc %eax\n inc %eax\n int3");
SNIPPET(popf_tf_step, "pushq $0x103\n xor %eax,%eax\n popfq\n1: wrmsr\n inc %eax\n int3");

static void the_trap_flag_steps_from_there(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w]);
		struct env_frame f;

		PUT(e, LOAD, popf_tf);
		assert_int_equal(env_run_through(e, 0), 1);
		env_frame(e, 0, 1, &f);
		assert_int_equal(f.rip, LOAD + 5 + 2 + 1 + 2);
		assert_int_equal(regs(e).gpr[0], 1);
		env_destroy(e);
		e = start(env_ways[w]);
		PUT(e, LOAD, popf_tf_step);
		set_gpr(e, 0, 1, 0xc0000102u); /* ECX: KERNEL_GS_BASE; EDX:EAX are zero */
		assert_int_equal(env_run_through(e, 0), 1);
		env_frame(e, 0, 1, &f);
		assert_int_equal(f.rip, LOAD + 5 + 2 + 1 + 2);
		assert_int_equal(f.rflags & 0x101, 0x101);
		env_destroy(e);
	}
}

/* A step that faults: RIP and flags are those of the instruction, nothing is changed. */
SNIPPET(bad, "mov $1,%eax\n mov $2,%edx\n mov $0x12345678,%ecx\n cmp %edx,%eax\n wrmsr\n int3");
SNIPPET(bad_iret, "mov $1,%eax\n pushq $0x10\n push %rsp\n pushq $2\n pushq $0x48\n pushq $0\n mov %rsp,%rbx\n"
		  "cmp $2,%eax\n iretq\n int3");

static void faults_are_exact(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w]);
		struct env_frame f;

		PUT(e, LOAD, bad);
		assert_int_equal(env_run_through(e, 0), 13);
		env_frame(e, 0, 13, &f);
		assert_int_equal(f.rip, LOAD + 17);
		assert_int_equal(f.error, 0);
		assert_int_equal(f.rflags & 0x8d5, 0x95); /* 1 - 2 */
		assert_int_equal(regs(e).gpr[0], 1);
		env_destroy(e);
		/* IRETQ to what is no code segment of 64 or 32 bits but of 16, beyond its limit */
		e = start(env_ways[w]);
		PUT(e, LOAD, bad_iret);
		((uint64_t *)(e->ram + ENV_GDT))[SEL_CODE16 / 8] &= ~(1ull << 47); /* not present */
		assert_int_equal(env_run_through(e, 0), 11);
		env_frame(e, 0, 11, &f);
		assert_int_equal(f.error, SEL_CODE16);
		assert_int_equal(f.rsp, regs(e).gpr[3]);
		assert_int_equal(f.rflags & 0x8d5, 0x95);
		env_destroy(e);
	}
}

/* The mode changes: to 32-bit code and back, and into 16-bit code, which has no blocks. */
SNIPPET(to32, "mov %rsp,%rbx\n pushq $0x10\n push %rbx\n pushq $2\n pushq $0x40\n lea 1f(%rip),%rdx\n push %rdx\n"
	      "iretq\n .code32\n1: .byte 0x48\n xor %ecx,%ecx\n ljmp $8,$(0x10000 + 2f - sn_to32)\n .code64\n"
	      "2: mov $7,%edx\n int3");

static void the_mode_may_change(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w]);

		PUT(e, LOAD, to32);
		set_gpr(e, 0, 0, 5);
		assert_int_equal(env_run_through(e, 0), 256);
		assert_int_equal(regs(e).gpr[0], 4); /* 48h is DEC EAX there */
		assert_int_equal(regs(e).gpr[2], 7);
		env_destroy(e);
	}
}

/* A port that the caller serves: engine_run() is left in the middle of the step. */
SNIPPET(ports, "mov $0x80,%edx\n xor %eax,%eax\n stc\n in %dx,%al\n adc $0,%eax\n out %al,%dx\n int3");

static void steps_leave_and_come_back(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w]);
		struct engine_exit x;
		unsigned int n = 0;

		PUT(e, LOAD, ports);
		e->io.exits = 1;
		for (;;) {
			assert_int_equal(engine_run(e->cpu[0], &x), 0);
			if (x.reason == ENGINE_EXIT_DEBUG && x.vector == 3)
				break;
			if (x.reason != ENGINE_EXIT_IO)
				continue;
			n++;
			if (!x.access.write)
				x.access.data = 0x41;
			else
				assert_int_equal(x.access.data, 0x42);
		}
		assert_int_equal(n, 2);
		assert_int_equal(regs(e).gpr[0], 0x42);
		env_destroy(e);
	}
}

/* One PAUSE in 512 gives way to other threads, whatever executes it; flags stay. */
SNIPPET(spin, "xor %eax,%eax\n mov $51200,%ecx\n1: stc\n pause\n adc $0,%eax\n dec %ecx\n jne 1b\n int3");

static void spinning_guests_give_way(void **state)
{
	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w]);
		struct engine_stats s;

		PUT(e, LOAD, spin);
		assert_int_equal(env_run_through(e, 0), 256);
		assert_int_equal(regs(e).gpr[0], 51200);
		engine_get_stats(e->cpu[0], &s);
		assert_int_equal(s.yields, 100);
		if (!env_ways[w])
			assert_true(s.exits < 100 && s.bounced < 200);
		env_destroy(e);
	}
}

SNIPPET(cpuid, "xor %eax,%eax\n cpuid");

/* Behind the step there is no address. */
static void the_canonical_addresses_end_behind_a_step(void **state)
{
	const uint64_t size = (uint64_t)(sn_cpuid_end - sn_cpuid), edge = 1ull << 47;

	for (unsigned int w = 0; w < ENV_WAYS; w++) {
		struct env *e = start(env_ways[w]);
		struct env_frame f;

		env_map(e, edge - 4096, PA, PTE_P_);
		PUT(e, PA + 4096 - size, cpuid);
		set_rip(e, edge - size);
		assert_int_equal(env_run_through(e, 0), 13);
		env_frame(e, 0, 13, &f);
		assert_int_equal(f.rip, edge);
		env_destroy(e);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_go_on_behind_a_step),
		cmocka_unit_test(interrupts_come_at_once),
		cmocka_unit_test(the_trap_flag_steps_from_there),
		cmocka_unit_test(faults_are_exact),
		cmocka_unit_test(the_mode_may_change),
		cmocka_unit_test(steps_leave_and_come_back),
		cmocka_unit_test(the_canonical_addresses_end_behind_a_step),
		cmocka_unit_test(spinning_guests_give_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
