/* SPDX-License-Identifier: MIT
 *
 * Code that several vCPUs change: between a store that takes a page's marks away and
 * the word to who has code there (docs/ENGINE.md, "Code that changes"). The test
 * holds the lock that the word needs, so that the window is as wide as it likes.
 */
#include "../lib/engine_snippet.h"
#include "engine/engine_priv.h"

#include <pthread.h>
#include <unistd.h>

#define FUNCTION 0x18000u
#define FLAG	 0x1a000u

/* rdi: the function, rsi: the flag. Run it, say so, wait for a 2; perhaps change it; run it again. */
#define RUN_AND_WAIT "call *%rdi\nmovl $1,(%rsi)\n1: pause\ncmpl $2,(%rsi)\njne 1b\n"
SNIPPET(function, "mov $1,%eax\nret");
SNIPPET(own_change, RUN_AND_WAIT "movl $7,1(%rdi)\ncall *%rdi\nint3");
SNIPPET(wait_only, RUN_AND_WAIT "call *%rdi\nint3");
SNIPPET(touch, "movl $5,0x800(%rdi)\nint3");
SNIPPET(change_and_say, "movl $7,1(%rdi)\nmovl $2,(%rsi)\nint3");

static void start(struct env_runner *r, struct env *e, unsigned int cpu, uint32_t at)
{
	*r = (struct env_runner){.e = e, .cpu = cpu};
	env_start(e, cpu, 0, at, ENV_KSTACK - cpu * 0x400);
	set_gpr(e, cpu, 7, FUNCTION);
	set_gpr(e, cpu, 6, FLAG);
	assert_int_equal(pthread_create(&r->thread, NULL, env_run_thread, r), 0);
}

static uint32_t *word(struct env *e, uint32_t at)
{
	return (uint32_t *)(e->ram + at);
}

static void wait_for(const uint32_t *at, uint32_t value)
{
	while (__atomic_load_n(at, __ATOMIC_SEQ_CST) != value)
		usleep(100);
}

/*
 * vCPU 0 has code of the page; vCPU 1 stores there, takes the marks, and cannot tell vCPU 0 yet.
 * Now the function changes: by vCPU 0's own hand, or by vCPU 2's, who then says so.
 */
static void change_in_between(bool own)
{
	struct env *e = env_create(3);
	struct engine_vcpu *has_code = e->cpu[0];
	_Atomic uint64_t *mark = &container_of(e->vm->map->at[0], struct slot, r)->words[FUNCTION >> 12];
	struct engine_regs regs;
	struct env_runner r[3];

	PUT(e, FUNCTION, function);
	PUT(e, LOAD, wait_only);
	if (own)
		PUT(e, LOAD, own_change);
	PUT(e, LOAD + 0x1000, touch);
	PUT(e, LOAD + 0x2000, change_and_say);
	start(&r[0], e, 0, LOAD);
	wait_for(word(e, FLAG), 1);
	mutex_lock(&has_code->req_lock);
	start(&r[1], e, 1, LOAD + 0x1000);
	while (atomic_load(mark) & has_code->bit)
		usleep(100);
	if (own)
		__atomic_store_n(word(e, FLAG), 2, __ATOMIC_SEQ_CST);
	else
		start(&r[2], e, 2, LOAD + 0x2000);
	/* Long enough to go wrong; how long it takes to go right does not matter. */
	usleep(50000);
	mutex_unlock(&has_code->req_lock);
	for (unsigned int i = 0; i < (own ? 2 : 3); i++) {
		pthread_join(r[i].thread, NULL);
		assert_int_equal(r[i].result, 256);
	}
	engine_get_regs(has_code, &regs);
	assert_int_equal(regs.gpr[0], 7);
	env_destroy(e);
}

static void own_store_takes_effect_at_once(void **state)
{
	change_in_between(true);
}

static void nobody_goes_on_before_all_are_told(void **state)
{
	change_in_between(false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(own_store_takes_effect_at_once),
		cmocka_unit_test(nobody_goes_on_before_all_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
