/* SPDX-License-Identifier: MIT
 *
 * Hardware task switches: 32- and 16-bit TSS, by far jumps and calls, gates and
 * IRET, with what is saved, loaded, marked busy and refused.
 */
#include "../lib/engine_snippet.h"

#define TSS_A	ENV_TSS
#define TSS_B	0x5000u
#define TSS_C	0x5100u /* 16-bit */
#define SEL_A	SEL_TSS
#define SEL_B	0x58
#define SEL_C	0x60
#define SEL_GATE 0x68 /* task gate to B */
#define SEL_LDT	0x70
#define STACK_B 0x9000u
#define CODE_B	(LOAD + 0x100)
#define DIR_A	0x20000u
#define DIR_B	0x21000u
#define NT	0x4000u
#define VM	0x20000u

static uint32_t *word(struct env *e, uint32_t at)
{
	return (uint32_t *)(e->ram + at);
}

static uint16_t *half(struct env *e, uint32_t at)
{
	return (uint16_t *)(e->ram + at);
}

static void descriptor(struct env *e, unsigned int sel, uint32_t base, uint32_t limit, uint32_t access)
{
	*word(e, ENV_GDT + sel) = (limit & 0xffff) | base << 16;
	*word(e, ENV_GDT + sel + 4) = (base >> 16 & 0xff) | access << 8 | (limit & 0xf0000) | (base & 0xff000000u);
}

static bool busy(struct env *e, unsigned int sel)
{
	return *word(e, ENV_GDT + sel + 4) & 0x200;
}

/* 32-bit TSS fields, in dwords from 0x1c: cr3 eip eflags eax ecx edx ebx esp ebp esi edi es cs ss ds fs gs ldt */
static void tss_b(struct env *e, uint32_t eip, uint32_t flags, uint16_t cs, uint16_t ds)
{
	uint32_t *t = word(e, TSS_B);

	memset(t, 0, 0x68);
	t[7] = DIR_B;
	t[8] = eip;
	t[9] = flags;
	for (uint32_t i = 0; i < 8; i++)
		t[10 + i] = 0xb0000000u + i;
	t[14] = STACK_B;
	for (int i = 18; i < 24; i++)
		t[i] = ds;
	t[19] = cs;
	t[25] = 0x680000;
}

static void task_gate(struct env *e, unsigned int vec, uint16_t sel)
{
	*word(e, ENV_IDT + 8 * vec) = (uint32_t)sel << 16;
	*word(e, ENV_IDT + 8 * vec + 4) = 0xe500;
}

/* 32-bit kernel code with paging (two directories, both 1:1) in task A; TSS B and C ready. */
static void start(struct env *e)
{
	struct engine_sregs s;

	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	engine_get_sregs(e->cpu[0], &s);
	s.efer = 0;
	s.cr4 = 0x610; /* PSE, OSFXSR */
	s.cr3 = DIR_A;
	s.gdt.limit = 0x7f;
	s.idt.limit = 0x7ff;
	for (int i = 0; i < 6; i++)
		s.seg[i] = (struct engine_segment){.selector = SEL_KDATA, .limit = ~0u, .type = 3, .s = 1,
						   .present = 1, .db = 1, .g = 1};
	s.seg[1].selector = SEL_KCODE32;
	s.seg[1].type = 11;
	assert_int_equal(engine_set_sregs(e->cpu[0], &s), 0);
	memset(e->ram + DIR_A, 0, 0x2000);
	for (uint32_t i = 0; i < 4; i++)
		*word(e, DIR_A + 4 * i) = *word(e, DIR_B + 4 * i) = i << 22 | 0x87;
	for (uint32_t v = 0; v < 256; v++) {
		*word(e, ENV_IDT + 8 * v) = (ENV_HANDLER + v) | SEL_KCODE32 << 16;
		*word(e, ENV_IDT + 8 * v + 4) = v == 3 ? 0xee00 : 0x8e00;
	}
	memset(e->ram + TSS_A, 0x5a, 0x68);
	memset(e->ram + TSS_A + 4, 0, 8);
	*word(e, TSS_A + 4) = ENV_KSTACK;
	*word(e, TSS_A + 8) = SEL_KDATA;
	descriptor(e, SEL_A, TSS_A, 0x67, 0x8b);
	descriptor(e, SEL_B, TSS_B, 0x67, 0x89);
	descriptor(e, SEL_C, TSS_C, 0x2b, 0x81);
	descriptor(e, SEL_GATE, (uint32_t)SEL_B, 0, 0x85);
	*word(e, ENV_GDT + SEL_GATE) = (uint32_t)SEL_B << 16;
	*word(e, ENV_GDT + SEL_GATE + 4) = 0x8500;
	descriptor(e, SEL_LDT, 0x6000, 0xf, 0x82);
	tss_b(e, CODE_B, 2, SEL_KCODE32, SEL_KDATA);
	memset(e->ram + CODE_B, 0xcc, 16);
	for (unsigned int i = 0; i < 8; i++)
		if (i != 4)
			set_gpr(e, 0, i, 0xa0000000u + i);
}

SNIPPET(jmp_b, ".code32\nljmp $0x58,$0x1234\nint3");
SNIPPET(jmp_a, ".code32\nljmp $0x30,$0\nint3");
SNIPPET(jmp_c, ".code32\nljmp $0x60,$0\nint3");
SNIPPET(jmp_gate, ".code32\nljmp $0x68,$0\nint3");
SNIPPET(call_gate, ".code32\nlcall $0x68,$0\nint3");
SNIPPET(call_b, ".code32\nlcall $0x58,$0\nint3");
SNIPPET(iret32, ".code32\niret\nint3");
SNIPPET(int60, ".code32\nint $0x60\nint3");
SNIPPET(bad_load, ".code32\nmov $0x1234,%ax\nmov %ax,%es\nint3");

static void jump_saves_and_loads(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	struct engine_sregs s;
	struct engine_regs r;
	struct engine_debugregs d = {.dr6 = 0xffff0ff0u, .dr7 = 0x755};
	uint32_t *t = word(e, TSS_A);

	PUT(e, LOAD, jmp_b);
	start(e);
	set_flags(e, 0, 0x846);
	assert_int_equal(engine_set_debugregs(e->cpu[0], &d), 0);
	assert_int_equal(env_run(e, 0, &x), 256);
	assert_int_equal(x.rip, CODE_B);
	r = regs(e);
	for (uint32_t i = 0; i < 8; i++)
		assert_int_equal(r.gpr[i], i == 4 ? STACK_B : 0xb0000000u + i);
	assert_int_equal(r.rflags, 2);
	engine_get_sregs(e->cpu[0], &s);
	assert_int_equal(s.tr.selector, SEL_B);
	assert_int_equal(s.tr.base, TSS_B);
	assert_int_equal(s.tr.type, 11);
	assert_int_equal(s.cr3, DIR_B);
	assert_true(s.cr0 & 8);
	assert_true(s.seg[4].present && !s.seg[4].unusable && s.seg[4].limit == ~0u);
	/* local breakpoints are off, global ones are not */
	engine_get_debugregs(e->cpu[0], &d);
	assert_int_equal(d.dr7, 0x600);
	/* the old task: what changes is saved, what does not is not touched */
	assert_int_equal(t[8], LOAD + 7);
	assert_int_equal(t[9], 0x846);
	for (uint32_t i = 0; i < 8; i++)
		assert_int_equal(t[10 + i], i == 4 ? ENV_KSTACK : 0xa0000000u + i);
	assert_int_equal(t[19] & 0xffff, SEL_KCODE32);
	assert_int_equal(t[20] & 0xffff, SEL_KDATA);
	assert_int_equal(t[7], 0x5a5a5a5a);
	assert_int_equal(t[24], 0x5a5a5a5a);
	assert_int_equal(t[0], 0x5a5a5a5a);
	assert_int_equal(*half(e, TSS_B), 0);
	assert_true(busy(e, SEL_B) && !busy(e, SEL_A));
	/* and back: it goes on behind its jump */
	t[7] = DIR_A;
	t[24] = 0;
	t[25] = 0;
	put(e, CODE_B, sn_jmp_a, sn_jmp_a_end);
	assert_int_equal(env_run(e, 0, &x), 256);
	assert_int_equal(x.rip, LOAD + 7);
	r = regs(e);
	assert_int_equal(r.gpr[0], 0xa0000000u);
	assert_int_equal(r.rflags, 0x846);
	assert_true(busy(e, SEL_A) && !busy(e, SEL_B));
	env_destroy(e);
}

static void call_nests_and_iret_returns(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	struct engine_sregs s;

	for (int gate = 0; gate < 2; gate++) {
		start(e);
		if (gate)
			PUT(e, LOAD, call_gate);
		else
			PUT(e, LOAD, call_b);
		*word(e, TSS_A + 0x1c) = DIR_A;
		*word(e, TSS_A + 0x60) = 0;
		*word(e, TSS_A + 0x64) = 0;
		assert_int_equal(env_run(e, 0, &x), 256);
		assert_int_equal(*half(e, TSS_B), SEL_A);
		assert_int_equal(regs(e).rflags, 2 | NT);
		assert_int_equal(*word(e, TSS_A + 0x24) & NT, 0);
		assert_true(busy(e, SEL_A) && busy(e, SEL_B));
		put(e, CODE_B, sn_iret32, sn_iret32_end);
		assert_int_equal(env_run(e, 0, &x), 256);
		assert_int_equal(x.rip, LOAD + 7);
		assert_int_equal(regs(e).rflags, 2);
		assert_int_equal(*word(e, TSS_B + 0x24), 2); /* without NT */
		assert_int_equal(*word(e, TSS_B + 0x20), CODE_B + 1);
		assert_true(busy(e, SEL_A) && !busy(e, SEL_B));
		engine_get_sregs(e->cpu[0], &s);
		assert_int_equal(s.tr.selector, SEL_A);
		assert_int_equal(s.cr3, DIR_A);
	}
	env_destroy(e);
}

static void events_take_task_gates(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	struct engine_regs r;

	/* an exception: its RIP is saved, its error code is on the new stack */
	start(e);
	PUT(e, LOAD, bad_load);
	task_gate(e, 13, SEL_B);
	assert_int_equal(env_run(e, 0, &x), 256);
	assert_int_equal(x.rip, CODE_B);
	r = regs(e);
	assert_int_equal(r.gpr[4], STACK_B - 4);
	assert_int_equal(*word(e, STACK_B - 4), 0x1234);
	assert_int_equal(r.rflags, 2 | NT);
	assert_int_equal(*word(e, TSS_A + 0x20), LOAD + 4);
	/* a software interrupt has none */
	start(e);
	PUT(e, LOAD, int60);
	task_gate(e, 0x60, SEL_B);
	assert_int_equal(env_run(e, 0, &x), 256);
	assert_int_equal(regs(e).gpr[4], STACK_B);
	assert_int_equal(*word(e, TSS_A + 0x20), LOAD + 2);
	/* an external one */
	start(e);
	task_gate(e, 0x70, SEL_B);
	PUT(e, LOAD, iret32);
	set_flags(e, 0, 0x202);
	e->vector[0] = 0x70;
	engine_vcpu_kick(e->cpu[0], ENGINE_KICK_INTR);
	assert_int_equal(env_run(e, 0, &x), 256);
	assert_int_equal(x.rip, CODE_B);
	assert_int_equal(*word(e, TSS_A + 0x20), LOAD);
	assert_int_equal(*word(e, TSS_A + 0x24), 0x202);
	env_destroy(e);
}

static void a_task_may_be_another_ring(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	struct engine_sregs s;

	start(e);
	PUT(e, LOAD, jmp_gate);
	tss_b(e, CODE_B, 0x3002, SEL_UCODE32, SEL_UDATA);
	assert_int_equal(env_run(e, 0, &x), 256);
	engine_get_sregs(e->cpu[0], &s);
	assert_int_equal(s.seg[1].dpl, 3);
	assert_int_equal(s.seg[2].dpl, 3);
	assert_int_equal(s.seg[1].selector, SEL_UCODE32);
	/* virtual-8086 */
	start(e);
	tss_b(e, 0x40, VM | 0x3002, (LOAD + 0x100 - 0x40) >> 4, 0x55);
	assert_int_equal(env_run(e, 0, &x), 256);
	assert_int_equal(x.rip, CODE_B);
	engine_get_sregs(e->cpu[0], &s);
	assert_int_equal(s.seg[3].base, 0x550);
	assert_int_equal(s.seg[3].limit, 0xffff);
	assert_int_equal(s.seg[1].base, LOAD + 0x100 - 0x40);
	env_destroy(e);
}

static void sixteen_bit_tasks(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	struct engine_regs r;
	uint16_t *t = half(e, TSS_C);

	start(e);
	PUT(e, LOAD, jmp_c);
	memset(t, 0, 0x2c);
	memset(e->ram + 0x600, 0xcc, 4);
	t[7] = 0x600;
	t[8] = 2;
	for (unsigned int i = 0; i < 8; i++)
		t[9 + i] = (uint16_t)(0xc000 + i);
	t[17] = t[19] = t[20] = SEL_KDATA;
	t[18] = SEL_KCODE32;
	assert_int_equal(env_run(e, 0, &x), 256);
	assert_int_equal(x.rip, 0x600);
	r = regs(e);
	for (unsigned int i = 0; i < 8; i++)
		assert_int_equal(r.gpr[i], 0xc000 + i);
	/* from a 16-bit task its low halves are saved */
	put(e, 0x600, sn_jmp_b, sn_jmp_b_end);
	set_gpr(e, 0, 3, 0x12345678);
	assert_int_equal(env_run(e, 0, &x), 256);
	assert_int_equal(x.rip, CODE_B);
	assert_int_equal(t[12], 0x5678);
	assert_int_equal(t[13], 0xc004);
	assert_int_equal(t[7], 0x607);
	assert_int_equal(t[21], 0);
	env_destroy(e);
}

/* What does not go: the fault is the old task's, and nothing has changed. */
static void refused(struct env *e, int vector, uint32_t error)
{
	struct engine_exit x;
	struct engine_sregs s;
	const uint32_t *f;

	memset(e->ram + TSS_A + 0x20, 0x5a, 0x40);
	assert_int_equal(env_run(e, 0, &x), vector);
	f = word(e, (uint32_t)regs(e).gpr[4]);
	assert_int_equal(f[0], error);
	assert_int_equal(f[1], LOAD);
	engine_get_sregs(e->cpu[0], &s);
	assert_int_equal(s.tr.selector, SEL_A);
	assert_int_equal(s.cr3, DIR_A);
	assert_int_equal(s.cr0 & 8, 0);
	assert_true(busy(e, SEL_A));
	assert_int_equal(*word(e, TSS_A + 0x20), 0x5a5a5a5a);
}

static void what_is_wrong_with_a_task_is_found_before(void **state)
{
	struct env *e = env_create(1);
	struct engine_sregs s;

	start(e);
	PUT(e, LOAD, jmp_b);
	descriptor(e, SEL_B, TSS_B, 0x67, 0x8b); /* busy */
	refused(e, 13, SEL_B);
	start(e);
	descriptor(e, SEL_B, TSS_B, 0x67, 0x09); /* not present */
	refused(e, 11, SEL_B);
	start(e);
	descriptor(e, SEL_B, TSS_B, 0x66, 0x89); /* too short */
	refused(e, 10, SEL_B);
	start(e);
	descriptor(e, SEL_B, TSS_B + 0x1000000u, 0x67, 0x89); /* not mapped */
	refused(e, 14, 0);
	engine_get_sregs(e->cpu[0], &s);
	assert_int_equal(s.cr2, TSS_B + 0x1000000u);
	PUT(e, LOAD, jmp_gate);
	start(e);
	*word(e, ENV_GDT + SEL_GATE) = (SEL_B | 4u) << 16; /* in an LDT */
	refused(e, 13, SEL_B | 4);
	start(e);
	*word(e, ENV_GDT + SEL_GATE) = SEL_KDATA << 16; /* no TSS */
	refused(e, 13, SEL_KDATA);
	start(e);
	*word(e, ENV_GDT + SEL_GATE + 4) = 0x500;
	refused(e, 11, SEL_GATE);
	/* IRET to a task that is not busy */
	PUT(e, LOAD, iret32);
	start(e);
	set_flags(e, 0, 2 | NT);
	*half(e, TSS_A) = SEL_B;
	refused(e, 10, SEL_B);
	env_destroy(e);
}

static void what_is_wrong_with_its_segments_is_its_own_fault(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;
	struct engine_sregs s;
	static const struct {
		unsigned int field, sel;
		int vector;
		uint32_t error;
	} cases[] = {
		{18, SEL_TSS, 10, SEL_TSS},	  /* ES no data segment */
		{19, SEL_KDATA, 10, SEL_KDATA},	  /* CS no code */
		{20, SEL_UDATA, 10, SEL_UDATA & ~3u}, /* SS of another ring */
		{21, 0x1230, 10, 0x1230},	  /* beyond the table */
		{24, SEL_KDATA, 10, SEL_KDATA},	  /* no LDT */
		{24, 0x14, 10, 0x14},
		{18, 0x78, 11, 0x78},		  /* not present */
		{20, 0x78, 12, 0x78},
	};

	PUT(e, LOAD, jmp_b);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		start(e);
		descriptor(e, 0x78, 0, 0xfffff, 0x13);
		word(e, TSS_B)[cases[i].field] = cases[i].sel;
		/* its handler runs in a task of its own, whatever is left of this one */
		descriptor(e, SEL_C, TSS_A, 0x67, 0x89);
		task_gate(e, (unsigned int)cases[i].vector, SEL_C);
		memset(e->ram + TSS_A, 0, 0x68);
		/* the jump away fills A's image; then it is C's */
		word(e, TSS_A)[7] = DIR_A;
		assert_int_equal(env_run(e, 0, &x), 256);
		assert_int_equal(x.rip, LOAD + 7);
		assert_int_equal(*half(e, TSS_A), SEL_B);
		assert_int_equal(*word(e, TSS_B + 0x20), CODE_B);
		assert_int_equal(*word(e, (uint32_t)regs(e).gpr[4]), cases[i].error);
		engine_get_sregs(e->cpu[0], &s);
		assert_int_equal(s.tr.selector, SEL_C);
	}
	/* an EIP beyond the limit is #GP(0) there; an LDT and the T bit are no faults */
	start(e);
	word(e, TSS_B)[24] = SEL_LDT;
	*word(e, TSS_B + 0x64) = 1;
	assert_int_equal(env_run(e, 0, &x), 1);
	engine_get_sregs(e->cpu[0], &s);
	assert_int_equal(s.ldt.base, 0x6000);
	assert_int_equal(word(e, (uint32_t)regs(e).gpr[4])[0], CODE_B);
	struct engine_debugregs d;

	engine_get_debugregs(e->cpu[0], &d);
	assert_int_equal(d.dr6, 0xffff8ff0u);
	env_destroy(e);
}

SNIPPET(jmp_long, "ljmp *(%rdi)\nint3");

static void long_mode_has_none(void **state)
{
	struct env *e = env_create(1);
	struct engine_exit x;

	PUT(e, LOAD, jmp_long);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	descriptor(e, SEL_B, TSS_B, 0x67, 0x89);
	*word(e, 0x600) = 0;
	*half(e, 0x604) = SEL_B;
	set_gpr(e, 0, 7, 0x600);
	assert_int_equal(env_run(e, 0, &x), 13);
	assert_int_equal(*word(e, (uint32_t)regs(e).gpr[4]), SEL_B);
	env_destroy(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(jump_saves_and_loads),
		cmocka_unit_test(call_nests_and_iret_returns),
		cmocka_unit_test(events_take_task_gates),
		cmocka_unit_test(a_task_may_be_another_ring),
		cmocka_unit_test(sixteen_bit_tasks),
		cmocka_unit_test(what_is_wrong_with_a_task_is_found_before),
		cmocka_unit_test(what_is_wrong_with_its_segments_is_its_own_fault),
		cmocka_unit_test(long_mode_has_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
