/* SPDX-License-Identifier: MIT
 * Everything at once: vCPUs that send each other IPIs in a ring, spin or halt until
 * they are answered, rewrite their own code and their neighbour's, and store to memory
 * whose log is read, switched off and on, and to memory that comes and goes; while the
 * host sends messages, kicks vCPUs out and holds them. What the guest must see it checks itself; what the host
 * must see is looked at each time the vCPUs are held. `softkvm_storm ROUNDS` does more.
 */
#include "../lib/check.h"
#include "monitor/bare.h"
#include "softkvm/softkvm.h"
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ROUNDS 60
#else
#define ROUNDS 150
#endif
#define PATIENCE (300 * NSEC_PER_SEC)

static unsigned rounds = ROUNDS;

/* ---- the guest ---------------------------------------------------------------------- */

#define CODE	   0xc000u
#define FUNCTIONS  0x30000u /* a page a CPU: what the neighbour rewrites at 0, what it rewrites itself at 800h */
#define STOP	   0x38000u
#define LOGGED	   0x1000000u
#define WANDERING  0x2000000u
#define PAGES	   16u
#define RING	   0x40	/* the neighbour's IPI */
#define ANSWER	   0x41	/* to who sent it */
#define HOST	   0x50	/* the host's message */
#define PAGE_GAVE  0x820 /* in a CPU's page: what its function gave the last time */
#define PAGE_TURNS 0x828 /* how many it did in all */
#define PAGE_F	   0x830 /* where its function is */
#define PAGE_BACK  0x838 /* where its other neighbour is, in the ICR */

#define TEXT_(x) #x
#define TEXT(x)	 TEXT_(x)

/*
 * rsi, rdi: the neighbour's page and functions; rbp: own functions; r8: own word of the
 * logged pages; r9: of the wandering one; r10: the neighbour's place in the ICR.
 */
__asm__(".pushsection .rodata\n"
	".globl storm, storm_ring, storm_end\n"
	"storm:\n"
	"	sti\n"
	"	xor %r12d,%r12d\n"
	"1:	inc %r12\n"
	"	mov %r12d,%eax\n"
	"	and $15,%eax\n"
	"	shl $12,%eax\n"
	"	incq (%r8,%rax)\n"
	"	mov %r12d,(%r9)\n"
	"	mov %r12d,0x801(%rbp)\n" /* its own code: the next instruction there is the new one */
	"	lea 0x800(%rbp),%rax\n"
	"	call *%rax\n"
	"	cmp %r12d,%eax\n"
	"	jne 9f\n"
	"	mov %r12d,4(%rdi)\n" /* the neighbour's: new after what serializes, in its handler */
	"	mov $0xfee00000,%edx\n"
	"	cli\n" /* the handler sends too */
	"	mov %r10d,0x310(%rdx)\n"
	"	movl $0x4000+" TEXT(RING) ",0x300(%rdx)\n"
	"	test $7,%r12d\n"
	"	jz 3f\n"
	"2:	cli\n"
	"	cmp %r12,8*" TEXT(RING) "(%rsi)\n"
	"	jae 4f\n"
	"	sti\n"
	"	hlt\n"
	"	jmp 2b\n"
	"3:	sti\n"
	"	pause\n"
	"	cmp %r12,8*" TEXT(RING) "(%rsi)\n"
	"	jb 3b\n"
	"4:	sti\n"
	"	cmp %r12d," TEXT(PAGE_GAVE) "(%rsi)\n"
	"	jne 9f\n"
	"	cmpl $0,0x38000\n"
	"	je 1b\n"
	"	mov %r12,%gs:" TEXT(PAGE_TURNS) "\n"
	"	out %al,$0xe0\n"
	"5:	hlt\n"
	"	jmp 5b\n"
	"9:	out %al,$0xe1\n"
	"	jmp 9b\n"
	"storm_ring:\n"
	"	push %rax\n"
	"	push %rdx\n"
	"	mov %cr2,%rax\n"
	"	mov %rax,%cr2\n" /* Intel SDM \"Serializing Instructions\" */
	"	mov %gs:" TEXT(PAGE_F) ",%rax\n"
	"	call *%rax\n"
	"	mov %eax,%gs:" TEXT(PAGE_GAVE) "\n"
	"	incq %gs:8*" TEXT(RING) "\n"
	"	mov $0xfee00000,%edx\n"
	"	mov %gs:" TEXT(PAGE_BACK) ",%eax\n"
	"	mov %eax,0x310(%rdx)\n"
	"	movl $0x4000+" TEXT(ANSWER) ",0x300(%rdx)\n"
	"	movl $0,0xb0(%rdx)\n"
	"	pop %rdx\n"
	"	pop %rax\n"
	"	iretq\n"
	"storm_end:\n"
	".popsection\n");
extern const uint8_t storm[], storm_ring[], storm_end[];

/* nop; nop; nop; mov $0,%eax; ret: the value is a word of its own */
static const uint8_t function[] = { 0x90, 0x90, 0x90, 0xb8, 0, 0, 0, 0, 0xc3 };

/* ---- the host ------------------------------------------------------------------------- */

struct runner {
	struct vcpu *v;
	pthread_t thread;
	_Atomic bool hold, held, leave, done;
	_Atomic int error;
};

struct rig {
	struct kvmapi api;
	struct bare b;
	unsigned cpus;
	uint8_t *logged, *wandering; /* the second: two pages, one is there at a time or none */
	struct runner runner[BARE_MAX_CPUS];
	uint64_t copy[PAGES][BARE_MAX_CPUS], messages[BARE_MAX_CPUS];
};

static void *runner_main(void *arg)
{
	struct runner *r = arg;
	struct kvm_run *run = r->v->run;
	int ret = bare_allow_kick(r->v);

	while (!ret && !atomic_load(&r->leave)) {
		if (atomic_load(&r->hold)) {
			atomic_store(&r->held, true);
			while (atomic_load(&r->hold) && !atomic_load(&r->leave))
				sched_yield();
			atomic_store(&r->held, false);
			__atomic_store_n(&run->immediate_exit, 0, __ATOMIC_SEQ_CST);
			continue;
		}
		ret = vcpu_run(r->v);
		if (ret == -EINTR)
			ret = 0;
		else if (!ret && run->exit_reason == KVM_EXIT_IO && run->io.port == BARE_PORT_DONE)
			atomic_store(&r->done, true);
		else if (!ret && !(run->exit_reason == KVM_EXIT_MMIO && run->mmio.is_write))
			ret = -EIO;
		bare_eat_kick();
	}
	atomic_store(&r->error, ret);
	return NULL;
}

/* Out of KVM_RUN, to come back or not. */
static void kick(struct runner *r, bool stay)
{
	if (stay)
		__atomic_store_n(&r->v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_kill(r->thread, BARE_KICK_SIGNAL);
}

static uint64_t *word(uint8_t *mem, uint64_t at)
{
	return (uint64_t *)(mem + at);
}

static uint64_t load(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

/* It told a fault (BARE_PORT_FATAL), or left in a way that no guest of ours does. */
static void fail_vcpu(struct rig *r, unsigned cpu)
{
	const uint8_t *next = r->b.mem + BARE_PAGES + (cpu + 1) % r->cpus * 0x1000;
	struct runner *n = &r->runner[cpu];
	struct kvm_regs regs = { 0 };

	assert_int_equal(vcpu_get_regs(n->v, &regs), 0);
	fail_msg("vCPU %u: %d, exit %u port %#x, rip %#llx: turn %llu, own code gave %llu, the neighbour's %llu, "
		 "which took %llu IPIs", cpu, n->error, n->v->run->exit_reason, n->v->run->io.port, regs.rip, regs.r12,
		 regs.rax, (unsigned long long)load_le64(next + PAGE_GAVE),
		 (unsigned long long)bare_count(&r->b, (cpu + 1) % r->cpus, RING));
}

static void wait_for(struct rig *r, bool (*there)(struct rig *r, unsigned cpu, uint64_t n), unsigned cpu, uint64_t n,
		     const char *what)
{
	uint64_t end = clock_ns() + PATIENCE;

	while (!there(r, cpu, n)) {
		for (unsigned i = 0; i < r->cpus; i++)
			if (atomic_load(&r->runner[i].error))
				fail_vcpu(r, i);
		if (clock_ns() > end)
			fail_msg("%s of vCPU %u never came", what, cpu);
		usleep(20);
	}
}

static bool is_held(struct rig *r, unsigned cpu, uint64_t n)
{
	return atomic_load(&r->runner[cpu].held) == n;
}

static bool is_done(struct rig *r, unsigned cpu, uint64_t n)
{
	return atomic_load(&r->runner[cpu].done);
}

static bool has_ipis(struct rig *r, unsigned cpu, uint64_t n)
{
	return bare_count(&r->b, cpu, RING) >= n;
}

static bool has_messages(struct rig *r, unsigned cpu, uint64_t n)
{
	return bare_count(&r->b, cpu, HOST) >= n;
}

static void hold_all(struct rig *r, bool hold)
{
	for (unsigned i = 0; i < r->cpus; i++) {
		atomic_store(&r->runner[i].hold, hold);
		if (hold)
			kick(&r->runner[i], true);
	}
	for (unsigned i = 0; i < r->cpus; i++)
		wait_for(r, is_held, i, hold, hold ? "the halt" : "the end of the halt");
}

static void put_guest(struct rig *r, unsigned cpu)
{
	unsigned next = (cpu + 1) % r->cpus;
	uint8_t *page = r->b.mem + BARE_PAGES + cpu * 0x1000, *f = r->b.mem + FUNCTIONS + cpu * 0x1000;
	const struct bare_job idle = { .entry = BARE_IDLE };
	struct kvm_regs regs;

	memcpy(f, function, sizeof(function));
	memcpy(f + 0x800, function + 3, sizeof(function) - 3);
	*word(page, PAGE_F) = FUNCTIONS + cpu * 0x1000;
	*word(page, PAGE_BACK) = (uint64_t)((cpu + r->cpus - 1) % r->cpus) << 24;
	assert_int_equal(bare_enter(&r->b.cpus[cpu], cpu, &idle), 0);
	assert_int_equal(vcpu_get_regs(&r->b.cpus[cpu], &regs), 0);
	regs.rip = CODE;
	regs.rsi = BARE_PAGES + next * 0x1000;
	regs.rdi = FUNCTIONS + next * 0x1000;
	regs.rbp = FUNCTIONS + cpu * 0x1000;
	regs.r8 = LOGGED + cpu * 8;
	regs.r9 = WANDERING + cpu * 8;
	regs.r10 = (uint64_t)next << 24;
	assert_int_equal(vcpu_set_regs(&r->b.cpus[cpu], &regs), 0);
}

static void set_log(struct rig *r, bool on)
{
	assert_int_equal(vm_set_memory(&r->b.vm, 1, LOGGED, PAGES * 4096, r->logged,
				       on ? KVM_MEM_LOG_DIRTY_PAGES : 0), 0);
}

static void rig_create(struct rig *r, unsigned cpus)
{
	const uint64_t at = CODE + (uint64_t)(storm_ring - storm);
	struct err e;

	memset(r, 0, sizeof(*r));
	r->cpus = cpus;
	r->api.ops = &softkvm_ops;
	assert_int_equal(softkvm_create(&r->api.ctx, NULL), 0);
	if (bare_create(&r->b, &r->api, cpus, true, &e))
		fail_msg("%s", e.text);
	r->logged = mmap(NULL, (PAGES + 2) * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(r->logged != MAP_FAILED);
	r->wandering = r->logged + PAGES * 4096;
	set_log(r, true);
	memcpy(r->b.mem + CODE, storm, (size_t)(storm_end - storm));
	store_le16(r->b.mem + BARE_IDT + RING * 16, at & 0xffff);
	store_le16(r->b.mem + BARE_IDT + RING * 16 + 6, at >> 16);
	for (unsigned i = 0; i < cpus; i++)
		put_guest(r, i);
	for (unsigned i = 0; i < cpus; i++) {
		r->runner[i].v = &r->b.cpus[i];
		assert_int_equal(thread_create(&r->runner[i].thread, "vcpu", runner_main, &r->runner[i]), 0);
	}
}

static void rig_destroy(struct rig *r)
{
	for (unsigned i = 0; i < r->cpus; i++) {
		atomic_store(&r->runner[i].leave, true);
		kick(&r->runner[i], true);
		thread_join(r->runner[i].thread);
		assert_int_equal(r->runner[i].error, 0);
		assert_int_equal(bare_faults(&r->b, i), 0);
	}
	bare_destroy(&r->b);
	softkvm_destroy(r->api.ctx);
	munmap(r->logged, (PAGES + 2) * 4096);
}

/* ---- what the host does ------------------------------------------------------------------ */

static void copy_pages(struct rig *r, uint64_t which)
{
	for (unsigned p = 0; p < PAGES; p++)
		for (unsigned i = 0; i < r->cpus && which >> p & 1; i++)
			r->copy[p][i] = load(word(r->logged, p * 4096 + i * 8));
}

static void read_log(struct rig *r)
{
	uint64_t bits = 0;

	assert_int_equal(vm_get_dirty_log(&r->b.vm, 1, &bits), 0);
	copy_pages(r, bits);
}

/* What is stored before the log is on again is not in it. */
static void log_anew(struct rig *r)
{
	set_log(r, false);
	set_log(r, true);
	copy_pages(r, UINT64_MAX);
}

/* All stand: what the log did not name is as it was copied. */
static void check_log(struct rig *r)
{
	hold_all(r, true);
	read_log(r);
	for (unsigned p = 0; p < PAGES; p++)
		for (unsigned i = 0; i < r->cpus; i++)
			assert_int_equal(load(word(r->logged, p * 4096 + i * 8)), r->copy[p][i]);
	hold_all(r, false);
}

/* Comes, in one place or the other; goes, and from then on nobody stores there. */
static void wander(struct rig *r, unsigned n)
{
	uint8_t *host = r->wandering + (n >> 1 & 1) * 4096;
	uint64_t after[BARE_MAX_CPUS];

	assert_int_equal(vm_set_memory(&r->b.vm, 2, WANDERING, n & 1 ? 0 : 4096, host, 0), 0);
	if (!(n & 1))
		return;
	for (unsigned i = 0; i < r->cpus; i++)
		after[i] = load(word(host, i * 8));
	sched_yield();
	for (unsigned i = 0; i < r->cpus; i++)
		assert_int_equal(load(word(host, i * 8)), after[i]);
}

static void run_storm(unsigned cpus)
{
	struct rig r;

	rig_create(&r, cpus);
	for (unsigned n = 0; n < rounds; n++) {
		unsigned cpu = n % cpus;
		uint64_t ipis = bare_count(&r.b, cpu, RING);

		read_log(&r);
		if (n % 4 == 1)
			wander(&r, n / 4);
		if (n % 8 == 2)
			kick(&r.runner[cpu], false);
		if (n % 16 == 3)
			log_anew(&r);
		if (n % 32 == 4)
			check_log(&r);
		wait_for(&r, has_messages, cpu, r.messages[cpu], "a message");
		assert_int_equal(bare_count(&r.b, cpu, HOST), r.messages[cpu]);
		assert_int_equal(vm_signal_msi(&r.b.vm, 0xfee00000u | cpu << 12, HOST), 1);
		r.messages[cpu]++;
		wait_for(&r, has_ipis, cpu, ipis + 1, "an IPI");
	}
	__atomic_store_n(word(r.b.mem, STOP), 1, __ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < cpus; i++)
		wait_for(&r, is_done, i, 0, "the end");
	for (unsigned i = 0; i < cpus; i++)
		wait_for(&r, has_messages, i, r.messages[i], "the last message");
	check_log(&r);
	for (unsigned i = 0; i < cpus; i++) {
		uint64_t turns = load(word(r.b.mem + BARE_PAGES + i * 0x1000, PAGE_TURNS));

		assert_int_equal(bare_count(&r.b, (i + 1) % cpus, RING), turns);
		assert_int_equal(bare_count(&r.b, i, HOST), r.messages[i]);
		print_message("  vCPU %u of %u: %llu IPIs, %llu messages\n", i, cpus, (unsigned long long)turns,
			      (unsigned long long)r.messages[i]);
	}
	rig_destroy(&r);
}

static void storm_1(void **state) { run_storm(1); }
static void storm_2(void **state) { run_storm(2); }
static void storm_4(void **state) { run_storm(4); }

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(storm_1), cmocka_unit_test(storm_2), cmocka_unit_test(storm_4),
	};
	sigset_t set;

	if (argc > 1)
		rounds = (unsigned)strtoul(argv[1], NULL, 0);
	/* Threads inherit it. */
	sigemptyset(&set);
	sigaddset(&set, BARE_KICK_SIGNAL);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	return RUN(tests);
}
