/* SPDX-License-Identifier: MIT
 *
 * What a change of the memory map leaves (docs/ENGINE.md, "The memory map"): code of the same
 * bytes in the same slot; nothing of what was elsewhere.
 */
#include "../lib/engine_snippet.h"

#include <pthread.h>
#include <stdlib.h>

#define HIGH 0x40000000u /* slots that come and go: guest-physical */
#define SIZE 0x4000u
#define AT   VA		 /* where they are mapped */

SNIPPET(five, "mov $5,%eax\nret");
SNIPPET(six, "mov $6,%eax\nret");
/* run it, change it by a store, run it again */
SNIPPET(call, "call *%rdi\nint3");
SNIPPET(patch, "call *%rdi\nmov %eax,%ebx\nmovl $7,1(%rdi)\ncall *%rdi\nint3");
SNIPPET(store, "mov %rax,(%rdi)\nint3");
SNIPPET(load, "mov (%rdi),%rax\nint3");

struct memory {
	uint8_t *host;
	struct engine_slot slot;
};

static struct memory memory(const uint8_t *from, const uint8_t *to)
{
	struct memory m = {.host = aligned_alloc(4096, SIZE)};

	memset(m.host, 0, SIZE);
	memcpy(m.host, from, (size_t)(to - from));
	m.slot = (struct engine_slot){.gpa = HIGH, .size = SIZE, .host = m.host};
	return m;
}
#define MEMORY(name) memory(sn_##name, sn_##name##_end)

static void change(struct env *e, const struct engine_slot *gone, const struct engine_slot *add)
{
	struct err err;

	assert_int_equal(engine_vm_change_slot(e->vm, gone ? &gone->gpa : NULL, add, &err), 0);
}

static struct env *start(unsigned int n_cpu)
{
	struct env *e = env_create(n_cpu);

	for (unsigned int i = 0; i < 4; i++)
		env_map(e, AT + 4096 * i, HIGH + 4096 * i, PTE_P_ | PTE_W_);
	PUT(e, LOAD, call);
	PUT(e, LOAD + 0x1000, patch);
	PUT(e, LOAD + 0x2000, store);
	PUT(e, LOAD + 0x3000, load);
	return e;
}

/* The program at LOAD + at, with rdi; rax when it is through. */
static uint64_t go(struct env *e, unsigned int cpu, uint32_t at, uint64_t rdi)
{
	struct engine_regs r;
	struct engine_exit x;

	env_start(e, cpu, 0, LOAD + at, ENV_KSTACK - cpu * 0x400);
	set_gpr(e, cpu, 7, rdi);
	assert_int_equal(env_run(e, cpu, &x), 256);
	engine_get_regs(e->cpu[cpu], &r);
	return r.gpr[0];
}

static uint64_t blocks(struct env *e)
{
	struct engine_stats s;

	engine_get_stats(e->cpu[0], &s);
	return s.blocks;
}

static void code_stays_when_its_slot_does(void **state)
{
	struct env *e = start(1);
	struct memory m = MEMORY(five), other = MEMORY(six);
	uint64_t log[1] = {0}, before;

	change(e, NULL, &m.slot);
	assert_int_equal(go(e, 0, 0, AT), 5);
	before = blocks(e);
	other.slot.gpa = HIGH + 0x1000000;
	change(e, NULL, &other.slot);
	assert_int_equal(go(e, 0, 0, AT), 5);
	change(e, &other.slot, NULL);
	assert_int_equal(go(e, 0, 0, AT), 5);
	/* the same slot, logged from now on, and no more */
	m.slot.dirty = log;
	change(e, &m.slot, &m.slot);
	assert_int_equal(go(e, 0, 0, AT), 5);
	m.slot.dirty = NULL;
	change(e, &m.slot, &m.slot);
	assert_int_equal(go(e, 0, 0, AT), 5);
	assert_int_equal(blocks(e), before);
	/* and a store to it is seen as ever */
	assert_int_equal(go(e, 0, 0x1000, AT), 7);
	env_destroy(e);
	free(m.host);
	free(other.host);
}

static void other_memory_has_other_code(void **state)
{
	struct env *e = start(1);
	struct memory five = MEMORY(five), six = MEMORY(six), again = MEMORY(five);
	struct engine_exit x;

	change(e, NULL, &five.slot);
	assert_int_equal(go(e, 0, 0, AT), 5);
	/* the same bytes, but what is noted of the page is forgotten: the store must be seen */
	change(e, &five.slot, &again.slot);
	assert_int_equal(go(e, 0, 0x1000, AT), 7);
	change(e, &again.slot, &five.slot);
	assert_int_equal(go(e, 0, 0, AT), 5);
	change(e, &five.slot, &six.slot);
	assert_int_equal(go(e, 0, 0, AT), 6);
	change(e, &six.slot, NULL);
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	set_gpr(e, 0, 7, AT);
	assert_int_equal(env_run(e, 0, &x), -(int)ENGINE_EXIT_NO_CODE - 1);
	change(e, NULL, &six.slot);
	assert_int_equal(go(e, 0, 0, AT), 6);
	change(e, &six.slot, NULL);
	/* moved away: what is there now is what comes from there */
	five.slot.gpa = HIGH + 0x2000;
	change(e, NULL, &five.slot);
	assert_int_equal(go(e, 0, 0, AT + 0x2000), 5);
	change(e, &five.slot, &six.slot);
	assert_int_equal(go(e, 0, 0, AT), 6);
	env_destroy(e);
	free(five.host);
	free(six.host);
	free(again.host);
}

/* Two vCPUs that share nothing but the memory: each has its own code, and both hear of a store. */
static void every_vcpu_looks(void **state)
{
	struct env *e = start(2);
	struct memory m = MEMORY(five), copy = MEMORY(five);

	change(e, NULL, &m.slot);
	assert_int_equal(go(e, 0, 0, AT), 5);
	assert_int_equal(go(e, 1, 0, AT), 5);
	change(e, &m.slot, &copy.slot);
	/* vCPU 1 knows nothing of the copy's code; vCPU 0 has it */
	assert_int_equal(go(e, 0, 0, AT), 5);
	assert_int_equal(go(e, 1, 0x1000, AT), 7);
	assert_int_equal(go(e, 0, 0, AT), 7);
	assert_int_equal(m.host[1], 5);
	env_destroy(e);
	free(m.host);
	free(copy.host);
}

/* An instruction in two pages, of which each is a slot. */
static void both_pages_of_an_instruction_count(void **state)
{
	for (unsigned int second = 0; second < 2; second++) {
		struct env *e = start(1);
		struct memory a = MEMORY(five), b = MEMORY(five), c;

		a.slot.size = b.slot.size = 4096;
		b.slot.gpa += 4096;
		memcpy(a.host + 4096 - 3, sn_five, 3);
		memcpy(b.host, sn_five + 3, (size_t)(sn_five_end - sn_five) - 3);
		change(e, NULL, &a.slot);
		change(e, NULL, &b.slot);
		assert_int_equal(go(e, 0, 0, AT + 4096 - 3), 5);
		c = second ? b : a;
		c.host = c.slot.host = aligned_alloc(4096, 4096);
		memcpy(c.host, second ? b.host : a.host, 4096);
		c.host[second ? 0 : 4096 - 2] = 9; /* of the immediate */
		change(e, &c.slot, &c.slot);
		assert_int_equal(go(e, 0, 0, AT + 4096 - 3), second ? 0x90005 : 9);
		env_destroy(e);
		free(a.host);
		free(b.host);
		free(c.host);
	}
}

/* ---- a change while an instruction is at a device ---- */

static struct {
	struct env *e;
	const struct engine_slot *gone, *add;
} swap;

static void *swap_thread(void *arg)
{
	change(swap.e, swap.gone, swap.add);
	return NULL;
}

static void swap_slots(struct env *e)
{
	pthread_t t;

	e->on_mmio = NULL;
	assert_int_equal(pthread_create(&t, NULL, swap_thread, NULL), 0);
	pthread_join(t, NULL);
}

/* The first page is a device's, which takes so long that the second page's memory is another then. */
static void the_second_page_may_go_while_the_first_waits(void **state)
{
	for (unsigned int write = 0; write < 2; write++) {
		struct env *e = start(1);
		struct memory was = MEMORY(five), is = MEMORY(six);
		uint64_t at = AT + 4096 - 4, kept;

		memcpy(&kept, was.host, 8);
		was.slot.gpa = is.slot.gpa = HIGH + 4096;
		is.slot.size -= 4096;
		was.slot.size -= 4096;
		change(e, NULL, &was.slot);
		swap.e = e;
		swap.gone = &was.slot;
		swap.add = &is.slot;
		e->on_mmio = swap_slots;
		e->mmio.read_value = 0x44332211;
		assert_int_equal((uint32_t)go(e, 0, write ? 0x2000 : 0x3000, at), write ? 0 : 0x44332211);
		assert_null(e->on_mmio);
		if (write) {
			assert_int_equal(*(uint32_t *)is.host, 0); /* half of RAX */
			assert_memory_equal(was.host, &kept, 8);
		} else {
			assert_int_equal(regs(e).gpr[0] >> 32, *(uint32_t *)is.host);
		}
		env_destroy(e);
		free(was.host);
		free(is.host);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(code_stays_when_its_slot_does),
		cmocka_unit_test(other_memory_has_other_code),
		cmocka_unit_test(every_vcpu_looks),
		cmocka_unit_test(both_pages_of_an_instruction_count),
		cmocka_unit_test(the_second_page_may_go_while_the_first_waits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
