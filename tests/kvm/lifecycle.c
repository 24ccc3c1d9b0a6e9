/* SPDX-License-Identifier: MIT
 * Whole machines on the kernel's KVM, vCPUs running, and a pause in the middle
 * of an instruction that makes many accesses.
 */
#include "../lib/check.h"
#include "../life/lifecycle.h"
#include "monitor/bare.h"
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

static const struct kvmapi api = { .ops = &dev_kvm_ops };

/* One vCPU waits for interrupts, the others are busy. */
static void prepare(struct machine *m)
{
	uint8_t *mem = ram_ptr(&m->ram, 0, BARE_MEM_SIZE);

	assert_non_null(mem);
	bare_build(mem, m->config.cpus, true);
	for (unsigned i = 0; i < m->config.cpus; i++) {
		const struct bare_job job = { .entry = i ? BARE_SPIN : BARE_IDLE };

		assert_int_equal(bare_enable_lapic(&m->cpus[i].vcpu), 0);
		assert_int_equal(bare_enter(&m->cpus[i].vcpu, i, &job), 0);
	}
}

static const struct lifecycle kernel = { .api = &api, .prepare = prepare };

static void rounds(void **state)
{
	lifecycle_rounds(&kernel, 100);
}

static void two_at_once(void **state)
{
	lifecycle_two(&kernel);
}

static void paths(void **state)
{
	lifecycle_paths(&kernel);
}

/* ---- a pause inside REP MOVS from a device ---------------------------------- */

#define CODE	 0x50000
#define DATA	 0x60000
#define LEN	 0x8000u
#define STEP	 32 /* between two pauses, at least */
#define PATIENCE (60 * NSEC_PER_SEC)

struct teller {
	struct region r, done;
	_Atomic unsigned n, wrong, ended;
};

static uint64_t tell(void *arg, uint64_t off, unsigned len)
{
	struct teller *x = arg;

	if (off != x->n)
		atomic_fetch_add(&x->wrong, 1);
	atomic_fetch_add(&x->n, 1);
	return (uint8_t)(off * 5 + 3);
}

static void done(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	atomic_store(&((struct teller *)arg)->ended, 1);
}

static const struct region_ops tell_ops = { .read = tell, .max_len = 1 }, done_ops = { .write = done };

/* vCPU 0 stands. */
static void string_begin(struct machine *m, struct teller *x)
{
	const struct bare_job job = { .entry = BARE_CLI_HALT };
	struct kvm_regs regs;

	x->n = x->ended = 0;
	memset(ram_ptr(&m->ram, DATA, LEN), 0, LEN);
	assert_int_equal(bare_enter(&m->cpus[0].vcpu, 0, &job), 0);
	assert_int_equal(vcpu_get_regs(&m->cpus[0].vcpu, &regs), 0);
	regs.rip = CODE;
	regs.rsi = BARE_MMIO;
	regs.rcx = LEN;
	regs.rdi = DATA;
	assert_int_equal(vcpu_set_regs(&m->cpus[0].vcpu, &regs), 0);
}

/* Until it has ended. How often it was in the middle. */
static unsigned string_pauses(struct machine *m, struct teller *x)
{
	unsigned pauses = 0;

	while (!x->ended) {
		uint64_t deadline = clock_ns() + PATIENCE;
		struct kvm_regs regs;
		unsigned seen;

		machine_pause(m);
		/* What the registers say has been read has come, and is in memory. */
		assert_int_equal(vcpu_get_regs(&m->cpus[0].vcpu, &regs), 0);
		seen = x->n;
		if (!x->ended) {
			assert_int_equal(regs.rsi, BARE_MMIO + seen);
			pauses += seen && seen < LEN;
		}
		machine_resume(m);
		/* Paused before its thread has had a turn it would not get on. */
		do {
			assert_true(clock_ns() < deadline);
			usleep(100);
		} while (!x->ended && x->n < seen + STEP);
	}
	return pauses;
}

static void pause_in_string(void **state)
{
	/* cld; rep movsb; out %al, $BARE_PORT_DONE; cli; hlt */
	static const uint8_t code[] = { 0xfc, 0xf3, 0xa4, 0xe6, BARE_PORT_DONE, 0xfa, 0xf4 };
	const struct machine_config c = {
		.name = "string", .cpus = 1, .mem = 2 << 20, .log_level = LOG_ERROR, .log_fd = 2,
	};
	struct teller x = { .n = 0 };
	struct machine *m;
	unsigned pauses = 0;
	struct err e;
	uint8_t *mem;

	if (machine_create(&m, &c, &api, &e))
		fail_msg("%s", e.text);
	mem = ram_ptr(&m->ram, 0, c.mem);
	bare_build(mem, 1, true);
	memcpy(mem + CODE, code, sizeof(code));
	x.r = (struct region){ .name = "teller", .space = SPACE_MMIO, .base = BARE_MMIO, .size = LEN,
			       .enabled = true, .ops = &tell_ops, .arg = &x };
	x.done = (struct region){ .name = "done", .space = SPACE_PIO, .base = BARE_PORT_DONE,
				  .size = 1, .enabled = true, .ops = &done_ops, .arg = &x };
	assert_int_equal(region_add(m->map, &x.r), 0);
	assert_int_equal(region_add(m->map, &x.done), 0);
	string_begin(m, &x);
	if (machine_start(m, NULL, &e))
		fail_msg("%s", e.text);
	/* On a busy machine it may come to its end before we are there often enough: then once more. */
	for (unsigned round = 0; pauses <= 5; round++) {
		assert_true(round < 100);
		if (round) {
			machine_pause(m);
			string_begin(m, &x);
			machine_resume(m);
		}
		pauses += string_pauses(m, &x);
		assert_int_equal(x.n, LEN);
		assert_int_equal(x.wrong, 0);
		for (unsigned i = 0; i < LEN; i++)
			assert_int_equal(mem[DATA + i], (uint8_t)(i * 5 + 3));
	}
	machine_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rounds), cmocka_unit_test(two_at_once), cmocka_unit_test(paths),
		cmocka_unit_test(pause_in_string),
	};
	struct sys s;
	struct err e;

	if (sys_open(&s, &api, &e)) {
		fprintf(stderr, "skip: %s\n", e.text);
		return 77;
	}
	sys_close(&s);
	return RUN(tests);
}
