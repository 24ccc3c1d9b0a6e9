/* SPDX-License-Identifier: MIT
 *
 * R9, R10, R11 and R15 live in memory; scratch registers keep them from one
 * instruction to the next (docs/ENGINE.md, "Scratch registers"). Each program ends
 * with all registers as when its instructions are executed one by one in C.
 * engine_diff has the random ones.
 */
#include "../lib/engine_snippet.h"

static int run(uint32_t way, const uint8_t *from, const uint8_t *to, struct engine_regs *r)
{
	struct env *e = env_create(1);
	int v;

	env_map(e, VA, PA, PTE_P_ | PTE_W_);
	env_map(e, VA + 0x10000, PA + 4096, PTE_P_ | PTE_W_);
	env_start(e, 0, 0, LOAD, ENV_KSTACK - 256);
	engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | way);
	put(e, LOAD, from, to);
	/* the second time the pages are dirty: groups that write are looked up at once */
	for (unsigned int n = 0; n < 2; n++) {
		set_rip(e, LOAD);
		for (unsigned int g = 0; g < 16; g++)
			set_gpr(e, 0, g, g == 4 ? ENV_KSTACK - 256 : 0x0101010101010101ull * (g + 3));
		set_gpr(e, 0, 7, VA);
		set_gpr(e, 0, 6, VA + 0x10000);
		for (unsigned int i = 0; i < 1024; i++)
			((uint64_t *)(e->ram + PA))[i] = i * 0x9e3779b97f4a7c15ull;
		v = env_run_through(e, 0);
	}
	*r = regs(e);
	env_destroy(e);
	return v;
}

/* three of them and two addends for three scratch registers */
SNIPPET(no_room, "mov (%rdi),%rax\n mov (%rsi),%rbx\n andn %r9,%r10,%r11\n mov 8(%rdi),%rcx\n mov 8(%rsi),%rdx\n"
		 "andn %r11,%r9,%r15\n add %r15,16(%rsi)\n mov 16(%rdi),%r8\n mov 16(%rsi),%r10\n int3");
SNIPPET(chain, "mov %r9,%r10\n not %r10\n and %r11,%r10\n xor %r10,%r9\n add %r9,%r15\n mov %r15d,%r11d\n"
	       "ror $7,%r11\n mov %r11b,%r9b\n movzwl %r9w,%r10d\n imul $77,%r10,%r15\n imul %r15,%r10\n int3");
SNIPPET(stack, "push %r9\n add $1,%r9\n push %r9\n pop %r10\n pop %r15\n add %r10,%r15\n push (%rdi)\n pop %r11\n"
	       "add %r11,%r9\n push %r11\n pop (%rsi)\n add (%rsi),%r10\n int3");
SNIPPET(addresses, "mov $0x18,%r9d\n mov (%rdi,%r9),%r10\n lea 8(%r9,%r9),%r11\n mov (%rdi,%r11),%r15\n mov %rdi,%r9\n"
		   "mov (%r9),%r9\n mov %rdi,%r10\n mov 8(%r10),%r10d\n mov %rsi,%r11\n mov %r11,(%r11)\n xadd %r11,(%r11)\n"
		   "lea 8(%rdi),%r15\n mov (%r15,%r15,1),%r9\n int3");
/* more than one of them holds it when it is written */
SNIPPET(copies, "mov %rdi,%r9\n mov 8(%r9),%rax\n push %rsi\n pop %r9\n mov 16(%r9),%rbx\n add %r9,%rbx\n"
		"add $8,%r11\n lea 8(%r11),%r11\n add %r11,%rax\n add $8,%r10\n lea (%r10,%r10),%rcx\n add %rax,%r10\n"
		"lea (%r10,%r10),%r15\n int3");
/* CPUID of a leaf that every processor of the host answers alike */
SNIPPET(partial, "mov %al,%r9b\n mov %ax,%r10w\n cmp %rax,%rbx\n cmovb %r9,%r11\n cmovae %r10d,%r15d\n setb %r9b\n"
		 "xchg %r9,%r10\n bsf %r9,%r11\n mov %ah,(%rdi)\n add %r9,%r10\n mul %r10\n adc %r9,%r15\n mov $0,%eax\n"
		 "cpuid\n add %r9,%r11\n int3");
/* a fault in the middle: none of what was only kept is lost */
SNIPPET(fault, "add %rax,%r9\n mov %r9,%r10\n lea 5(%r9),%r15\n not %r11\n mov (%rdi),%r9\n mov 0x5000(%rdi),%r10\n int3");
SNIPPET(divides, "mov $7,%r9d\n mov $0,%r10d\n xor %edx,%edx\n sub %r9,%r10\n add %r9,%r10\n mov %r10,%r11\n div %r11\n int3");
SNIPPET(loop, "mov $600,%r11d\n xor %r15d,%r15d\n mov %rdi,%r9\n jmp 1f\n"
	      "1: mov (%r9),%r10\n xor %r10,%r15\n mov %r15,(%rsi)\n add $4,%r9\n and $0xfff,%r15\n dec %r11\n jnz 1b\n int3");

static void registers_are_as_one_by_one(void **state)
{
#define OF(name) {#name, sn_##name, sn_##name##_end}
	static const struct { const char *name; const uint8_t *from, *to; } of[] = {
		OF(no_room), OF(chain), OF(stack), OF(addresses), OF(copies), OF(partial), OF(fault), OF(divides), OF(loop),
	};

	for (unsigned int i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
		struct engine_regs want, got;
		int v = run(env_ways[0], of[i].from, of[i].to, &want);

		for (unsigned int w = 1; w < ENV_WAYS; w++) {
			assert_int_equal(run(env_ways[w], of[i].from, of[i].to, &got), v);
			for (unsigned int g = 0; g < 16; g++)
				if (got.gpr[g] != want.gpr[g])
					fail_msg("%s: way %u, register %u: %llx, not %llx", of[i].name, w, g,
						 (unsigned long long)got.gpr[g], (unsigned long long)want.gpr[g]);
			assert_int_equal(got.rip, want.rip);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(registers_are_as_one_by_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
