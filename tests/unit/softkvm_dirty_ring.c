/* SPDX-License-Identifier: MIT
 * Rings of dirty pages: the same answers as the kernel's, and of softkvm alone, that
 * no page which was written is missing, whatever wrote it and however much at once.
 */
#include "../lib/check.h"
#include "../lib/pair_guest.h"
#include <pthread.h>
#include <signal.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGE	    4096u
#define RING_AT	    (KVM_DIRTY_LOG_PAGE_OFFSET * (uint64_t)PAGE)
#define ENTRIES	    (PAGE / sizeof(struct kvm_dirty_gfn)) /* of the smallest ring */
#define SPARE	    64u
#define MSR_WALL    0x4b564d00u
#define BIG	    0x100000u /* a second slot, logged */
#define BIG_PAGES   1024u
#define ALL_PAGES   (BIG_PAGES + SIDE_MEM / PAGE)

static int enable(struct side *s, uint64_t bytes, uint32_t cap, uint32_t flags)
{
	struct kvm_enable_cap e = { .cap = cap, .flags = flags, .args = { bytes } };

	return side_ioctl(s, s->vm, KVM_ENABLE_CAP, &e);
}

/* ---- a ring's owner ---------------------------------------------------------------- */

struct owner {
	struct kvm_dirty_gfn *gfn;
	uint32_t size, next;
	uint64_t seen[(ALL_PAGES + 63) / 64]; /* since it was cleared: slot 0's pages, then slot 1's */
	unsigned entries;
};

static void owner_map(struct owner *o, struct side *s, unsigned cpu, uint32_t bytes)
{
	*o = (struct owner){ .size = bytes / sizeof(struct kvm_dirty_gfn) };
	assert_int_equal(s->api.ops->mmap(s->api.ctx, s->vcpu[cpu], bytes, RING_AT, (void **)&o->gfn), 0);
}

static void owner_unmap(struct owner *o, struct side *s)
{
	assert_int_equal(s->api.ops->munmap(s->api.ctx, o->gfn, o->size * sizeof(o->gfn[0])), 0);
}

/* Take what is there, at most `most`; give: mark it for KVM_RESET_DIRTY_RINGS. */
static unsigned collect(struct owner *o, unsigned most, bool give)
{
	unsigned n = 0;

	for (; n < most; n++) {
		struct kvm_dirty_gfn *g = &o->gfn[(o->next + (give ? 0 : n)) % o->size];
		uint64_t page;

		if (__atomic_load_n(&g->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
			break;
		page = g->offset + (g->slot ? SIDE_MEM / PAGE : 0);
		assert_true(page < ALL_PAGES);
		o->seen[page / 64] |= BIT_ULL(page % 64);
		if (!give)
			continue;
		__atomic_store_n(&g->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
		o->next++;
	}
	o->entries += n;
	return n;
}

static void say_seen(struct side *s, struct owner *o)
{
	say_hex(s, "pages", o->seen, sizeof(o->seen));
	memset(o->seen, 0, sizeof(o->seen));
}

static bool was_seen(const struct owner *o, unsigned page)
{
	return o->seen[page / 64] >> page % 64 & 1;
}

/* ---- as the kernel -------------------------------------------------------------------- */

static void script_calls(struct side *s, uint64_t seed)
{
	static const uint64_t sizes[] = { 0, 1, 3, 1024, 2048, 4097, 6144, 1ull << 21, 1ull << 31, 1ull << 32 };
	uint64_t bits[1] = { 0 };
	struct kvm_dirty_log log = { .dirty_bitmap = bits };
	struct kvm_clear_dirty_log clear = { .num_pages = 16, .dirty_bitmap = bits };
	struct kvm_userspace_memory_region r = {
		.flags = KVM_MEM_LOG_DIRTY_PAGES, .memory_size = SIDE_MEM, .userspace_addr = (uintptr_t)s->mem,
	};

	say(s, "%d %d", side_ioctl_val(s, s->vm, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING),
	    side_ioctl_val(s, s->sys, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING_ACQ_REL));
	vm_do_val(s, KVM_RESET_DIRTY_RINGS, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++)
		say_result(s, "enable", enable(s, sizes[i], KVM_CAP_DIRTY_LOG_RING, 0));
	vm_do(s, KVM_SET_USER_MEMORY_REGION, &r); /* logged by bits as yet */
	vm_do(s, KVM_GET_DIRTY_LOG, &log);
	say_result(s, "enable", enable(s, 1ull << 32 | 65536, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 1));
	say_result(s, "again", enable(s, 65536, KVM_CAP_DIRTY_LOG_RING, 0));
	vm_do(s, KVM_GET_DIRTY_LOG, &log);
	vm_do(s, KVM_CLEAR_DIRTY_LOG, &clear);
	log.slot = UINT32_MAX;
	vm_do(s, KVM_GET_DIRTY_LOG, &log);
	vm_do_val(s, KVM_RESET_DIRTY_RINGS, 7);
	side_new_vm(s);
	side_add_vcpu(s, 0, 0);
	say_result(s, "with a vCPU", enable(s, 4096, KVM_CAP_DIRTY_LOG_RING, 0));
	vm_do_val(s, KVM_RESET_DIRTY_RINGS, 0);
}

/* A kernel that emulates the guest has an entry for each store: only the set can be compared. */
static void script_pages(struct side *s, uint64_t seed)
{
	struct owner o;

	vm_do_val(s, KVM_RESET_DIRTY_RINGS, 0);
	say_result(s, "enable", enable(s, PAGE, KVM_CAP_DIRTY_LOG_RING, 0));
	side_add_vcpu(s, 0, 0);
	owner_map(&o, s, 0, PAGE);
	map_memory(s, KVM_MEM_LOG_DIRTY_PAGES);
	for (unsigned i = 0; i < 3; i++) {
		LOAD(s, 2, 0xa2, 0x00, 0x40, 0xa2, 0xff, 0x6f, 0xa3, 0xff, 0x9f, /* two pages by the last */
		     0xf4);
		run_to_end(s);
		/* Nothing is given back that was not collected, and that is not collected twice. */
		vm_do_val(s, KVM_RESET_DIRTY_RINGS, 0);
		say(s, "some: %d", collect(&o, UINT32_MAX, true) > 0);
		say_seen(s, &o);
		say(s, "given: %d", side_ioctl_val(s, s->vm, KVM_RESET_DIRTY_RINGS, 0) == (int)o.entries);
		vm_do_val(s, KVM_RESET_DIRTY_RINGS, 0);
		o.entries = 0;
	}
	/* What softkvm and the kernel write themselves. */
	for (uint64_t page = 5; page < 8; page++) {
		struct {
			struct kvm_msrs head;
			struct kvm_msr_entry e;
		} m = { { 1, 0 }, { .index = MSR_WALL, .data = page * PAGE } };

		cpu_do(s, 0, KVM_SET_MSRS, &m);
	}
	collect(&o, UINT32_MAX, true);
	say_seen(s, &o);
	owner_unmap(&o, s);
}

/*
 * 200 pages, by %es, of the 256 that one can reach in real mode; then it waits for a byte at 2000h,
 * as the reference machine looks for a full ring only after many emulated instructions.
 */
static void script_full(struct side *s, uint64_t seed)
{
	struct kvm_userspace_memory_region r = {
		.slot = 1, .guest_phys_addr = SIDE_MEM, .memory_size = 240 * PAGE,
		.flags = KVM_MEM_LOG_DIRTY_PAGES,
	};
	uint8_t *mem = mmap(NULL, 240 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct owner o;

	assert_true(mem != MAP_FAILED);
	r.userspace_addr = (uintptr_t)mem;
	say_result(s, "enable", enable(s, PAGE, KVM_CAP_DIRTY_LOG_RING, 0));
	side_add_vcpu(s, 0, 0);
	owner_map(&o, s, 0, PAGE);
	map_memory(s, 0);
	vm_do(s, KVM_SET_USER_MEMORY_REGION, &r);
	LOAD(s, 2, 0xb8, 0x00, 0x10, 0xb9, 0xc8, 0x00,		    /* mov $0x1000,%ax; mov $200,%cx */
	     0x8e, 0xc0, 0x26, 0xa3, 0x04, 0x00, 0x05, 0x00, 0x01, /* mov %ax,%es; mov %ax,%es:4; add $0x100,%ax */
	     0xe2, 0xf5, 0x80, 0x3e, 0x00, 0x20, 0x00, 0x74, 0xf9, /* loop; cmpb $0,0x2000; je */
	     0xe4, 0x60, 0xf4);					    /* in $0x60,%al; hlt */
	s->mem[0x2000] = 0;
	/* It stays full until entries are given back, not only collected. */
	for (unsigned i = 0; i < 2; i++) {
		cpu_do(s, 0, KVM_RUN, NULL);
		say(s, "exit %u", s->run[0]->exit_reason);
	}
	s->run[0]->immediate_exit = 1;
	cpu_do(s, 0, KVM_RUN, NULL);
	s->run[0]->immediate_exit = 0;
	say(s, "many: %d", collect(&o, UINT32_MAX, true) >= ENTRIES - SPARE);
	cpu_do(s, 0, KVM_RUN, NULL);
	say(s, "exit %u", s->run[0]->exit_reason);
	say(s, "given: %d", side_ioctl_val(s, s->vm, KVM_RESET_DIRTY_RINGS, 0) == (int)o.entries);
	s->mem[0x2000] = 1;
	cpu_do(s, 0, KVM_RUN, NULL);
	say(s, "exit %u", s->run[0]->exit_reason);
	collect(&o, UINT32_MAX, true);
	say_seen(s, &o);
	owner_unmap(&o, s);
	munmap(mem, 240 * PAGE);
}

/* ---- softkvm alone ---------------------------------------------------------------------- */

struct bed {
	struct side s;
	struct owner o[2];
	uint8_t *big, *before; /* the second slot, and what was in it */
};

static void bed_create(struct bed *b, unsigned cpus, uint32_t bytes)
{
	struct kvm_userspace_memory_region r = {
		.slot = 1, .guest_phys_addr = BIG, .memory_size = BIG_PAGES * PAGE,
		.flags = KVM_MEM_LOG_DIRTY_PAGES,
	};

	side_begin(&b->s, true);
	assert_int_equal(enable(&b->s, bytes, KVM_CAP_DIRTY_LOG_RING, 0), 0);
	b->big = mmap(NULL, BIG_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(b->big != MAP_FAILED);
	b->before = malloc(BIG_PAGES * PAGE);
	assert_non_null(b->before);
	r.userspace_addr = (uintptr_t)b->big;
	map_memory(&b->s, 0);
	assert_int_equal(side_ioctl(&b->s, b->s.vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
	for (unsigned i = 0; i < cpus; i++) {
		struct kvm_regs regs = { .rip = CODE, .rflags = 2, .rsp = 0x8000 };
		struct kvm_sregs sr;

		side_add_vcpu(&b->s, i, i);
		owner_map(&b->o[i], &b->s, i, bytes);
		assert_int_equal(side_ioctl(&b->s, b->s.vcpu[i], KVM_GET_SREGS, &sr), 0);
		sr.cr0 |= 1;
		sr.cs = (struct kvm_segment){ .limit = UINT32_MAX, .selector = 8, .type = 11, .present = 1,
					      .db = 1, .s = 1, .g = 1 };
		sr.ds = sr.cs;
		sr.ds.selector = 16;
		sr.ds.type = 3;
		sr.es = sr.ss = sr.ds;
		assert_int_equal(side_ioctl(&b->s, b->s.vcpu[i], KVM_SET_SREGS, &sr), 0);
		assert_int_equal(side_ioctl(&b->s, b->s.vcpu[i], KVM_SET_REGS, &regs), 0);
	}
}

static void bed_destroy(struct bed *b)
{
	for (unsigned i = 0; i < 2; i++)
		if (b->o[i].gfn)
			owner_unmap(&b->o[i], &b->s);
	munmap(b->big, BIG_PAGES * PAGE);
	free(b->before);
	side_end(&b->s);
}

/* Run to HLT; at each full ring what has changed is what was collected, and nothing else. */
static unsigned run_checked(struct bed *b)
{
	struct kvm_run *run = b->s.run[0];
	struct owner *o = &b->o[0];
	unsigned full = 0;

	memcpy(b->before, b->big, BIG_PAGES * PAGE);
	for (;;) {
		unsigned n;

		assert_int_equal(side_ioctl_val(&b->s, b->s.vcpu[0], KVM_RUN, 0), 0);
		n = collect(o, UINT32_MAX, true);
		for (unsigned i = 0; i < BIG_PAGES; i++)
			if (was_seen(o, SIDE_MEM / PAGE + i) != !!memcmp(b->big + i * PAGE, b->before + i * PAGE, PAGE))
				fail_msg("page %u, after %u full rings", i, full);
		assert_int_equal(side_ioctl_val(&b->s, b->s.vm, KVM_RESET_DIRTY_RINGS, 0), n);
		if (run->exit_reason == KVM_EXIT_HLT)
			return full;
		assert_int_equal(run->exit_reason, KVM_EXIT_DIRTY_RING_FULL);
		assert_true(n >= ENTRIES - SPARE && n < ENTRIES);
		full++;
	}
}

/* One instruction that writes to many times the pages that there are entries. */
static void a_string_over_many_pages(void **state)
{
	static const uint8_t code[] = {
		0xbf, 0x00, 0x00, 0x10, 0x00,	    /* mov $BIG,%edi */
		0xb9, 0x00, 0x00, 0x10, 0x00,	    /* mov $BIG_PAGES * 1024,%ecx */
		0xb8, 0x01, 0x01, 0x01, 0x01, 0xfc, /* mov $0x01010101,%eax; cld */
		0xf3, 0xab, 0xf4,		    /* rep stosl; hlt */
	};
	struct bed b = { 0 };

	bed_create(&b, 1, PAGE);
	memcpy(b.s.mem + CODE, code, sizeof(code));
	assert_true(run_checked(&b) >= BIG_PAGES / ENTRIES);
	/* Once each: what lies in the ring already is not noted again. */
	assert_int_equal(b.o[0].entries, BIG_PAGES);
	bed_destroy(&b);
}

/*
 * Stores one after the other without a jump, each of which marks the page of its table, too: a
 * block of translated code would write to more pages than there are spare entries.
 */
static void stores_without_a_jump(void **state)
{
	enum { STORES = 400, TABLES = 1, DATA = TABLES + STORES };
	struct kvm_sregs sr;
	struct bed b = { 0 };
	uint8_t *p;

	bed_create(&b, 1, PAGE);
	p = b.s.mem + CODE;
	store_le32(b.big, (BIG + TABLES * PAGE) | 0x23); /* 32-bit paging: present, writable, accessed */
	store_le32(b.big + TABLES * PAGE + CODE / PAGE * 4, CODE | 0x63);
	store_le32(b.big + TABLES * PAGE + (CODE / PAGE + 1) * 4, (CODE + PAGE) | 0x63);
	/* So that a block begins just before the ring is full. */
	memset(p, 0x90, 2);
	p += 2;
	for (unsigned i = 1; i < STORES; i++) {
		store_le32(b.big + i * 4, (BIG + (TABLES + i) * PAGE) | 3);
		store_le32(b.big + (TABLES + i) * PAGE, (BIG + (DATA + i) * PAGE) | 3);
		*p++ = 0xc6; /* movb $1,i * 4 MiB */
		*p++ = 0x05;
		store_le32(p, i << 22);
		p[4] = 1;
		p += 5;
	}
	*p = 0xf4;
	assert_int_equal(side_ioctl(&b.s, b.s.vcpu[0], KVM_GET_SREGS, &sr), 0);
	sr.cr0 |= 1u << 31;
	sr.cr3 = BIG;
	assert_int_equal(side_ioctl(&b.s, b.s.vcpu[0], KVM_SET_SREGS, &sr), 0);
	assert_true(run_checked(&b) >= 2 * STORES / ENTRIES);
	bed_destroy(&b);
}

/* The access in flight is finished before the full ring is told. */
static void an_access_in_flight(void **state)
{
	static const uint8_t code[] = {
		0xbf, 0x08, 0x00, 0x10, 0x00, 0xb9, 0xbf, 0x00, 0x00, 0x00, /* edi = BIG + 8, ecx = 191 */
		0xc6, 0x07, 0x01, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00,	    /* movb $1,(%edi); add $PAGE,%edi */
		0xe2, 0xf5, 0xe4, 0x60, 0xf4,				    /* loop; in $0x60,%al; hlt */
	};
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e;
	} m = { { 1, 0 }, { .index = MSR_WALL, .data = BIG + 1000 * PAGE } };
	struct bed b = { 0 };
	struct kvm_run *run;
	struct kvm_regs r;

	bed_create(&b, 1, PAGE);
	run = b.s.run[0];
	memcpy(b.s.mem + CODE, code, sizeof(code));
	assert_int_equal(side_ioctl_val(&b.s, b.s.vcpu[0], KVM_RUN, 0), 0);
	assert_int_equal(run->exit_reason, KVM_EXIT_IO);
	*((uint8_t *)run + run->io.data_offset) = 0x5a;
	/* The last free entry goes to what softkvm writes itself. */
	assert_int_equal(side_ioctl(&b.s, b.s.vcpu[0], KVM_SET_MSRS, &m), 1);
	assert_int_equal(side_ioctl_val(&b.s, b.s.vcpu[0], KVM_RUN, 0), 0);
	assert_int_equal(run->exit_reason, KVM_EXIT_DIRTY_RING_FULL);
	assert_int_equal(side_ioctl(&b.s, b.s.vcpu[0], KVM_GET_REGS, &r), 0);
	assert_int_equal(r.rip, CODE + sizeof(code) - 1);
	assert_int_equal(r.rax & 0xff, 0x5a);
	assert_int_equal(collect(&b.o[0], UINT32_MAX, true), ENTRIES - SPARE);
	assert_int_equal(side_ioctl_val(&b.s, b.s.vm, KVM_RESET_DIRTY_RINGS, 0), ENTRIES - SPARE);
	assert_int_equal(side_ioctl_val(&b.s, b.s.vcpu[0], KVM_RUN, 0), 0);
	assert_int_equal(run->exit_reason, KVM_EXIT_HLT);
	bed_destroy(&b);
}

/* An owner that writes what it likes into its ring spoils its own log, and nothing more. */
static void a_hostile_owner(void **state)
{
	struct bed b = { 0 };
	struct kvm_dirty_gfn *g;
	uint64_t seed = 0x9e3779b97f4a7c15;

	bed_create(&b, 1, PAGE);
	g = b.o[0].gfn;
	memcpy(b.s.mem + CODE, "\xa2\x08\x00\x10\x00\xf4", 6); /* mov %al,BIG + 8; hlt */
	for (unsigned i = 0; i < 2000; i++) {
		struct kvm_regs r = { .rip = CODE, .rflags = 2 };

		for (unsigned k = 0; k < ENTRIES; k++) {
			uint64_t x = next_random(&seed);

			g[k].flags = x & 3;
			g[k].slot = x & 4 ? (uint32_t)(x >> 32) : x >> 3 & 3;
			g[k].offset = x & 8 ? next_random(&seed) : x >> 8 & 1023;
		}
		assert_in_range(side_ioctl_val(&b.s, b.s.vm, KVM_RESET_DIRTY_RINGS, 0), 0, ENTRIES);
		assert_int_equal(side_ioctl(&b.s, b.s.vcpu[0], KVM_SET_REGS, &r), 0);
		assert_int_equal(side_ioctl_val(&b.s, b.s.vcpu[0], KVM_RUN, 0), 0);
	}
	bed_destroy(&b);
}

/* ---- collected while they run ------------------------------------------------------------- */

struct runner {
	struct bed *b;
	unsigned cpu;
	pthread_t thread;
	_Atomic bool parked, stop;
};

static void *run_on(void *arg)
{
	struct runner *r = arg;
	struct side *s = &r->b->s;

	while (!atomic_load(&r->stop)) {
		int ret = side_ioctl_val(s, s->vcpu[r->cpu], KVM_RUN, 0);

		/* Only its own signal or a full ring: then the owner collects. */
		if (!ret && s->run[r->cpu]->exit_reason != KVM_EXIT_DIRTY_RING_FULL)
			return NULL;
		sched_yield();
	}
	atomic_store(&r->parked, true);
	return NULL;
}

static void on_signal(int sig)
{
}

/*
 * Two vCPUs write to the same pages, an owner collects and resets without stopping them and keeps
 * what it found in memory then. In the end a page that differs from that must be in a ring.
 */
static void collected_while_they_run(void **state)
{
	static const uint8_t code[] = {
		0xbb, 0x08, 0x00, 0x10, 0x00,		   /* 0: mov $BIG + 8,%ebx */
		0xf0, 0xff, 0x03,			   /* 1: lock incl (%ebx) */
		0x81, 0xc3, 0x00, 0x10, 0x00, 0x00,	   /* add $PAGE,%ebx */
		0x81, 0xfb, 0x00, 0x40, 0x16, 0x00,	   /* cmp $BIG + 100 * PAGE,%ebx: less than a ring */
		0x72, 0xef, 0xeb, 0xe8,			   /* jb 1b; jmp 0b */
	};
	struct runner r[2] = { 0 };
	uint32_t kept[BIG_PAGES] = { 0 };
	struct sigaction sa = { .sa_handler = on_signal };
	unsigned rounds = WITH_TSAN ? 30 : 300;
	uint64_t last = clock_ns();
	struct bed b = { 0 };

	sigaction(SIGUSR1, &sa, NULL);
	bed_create(&b, 2, PAGE);
	memcpy(b.s.mem + CODE, code, sizeof(code));
	assert_int_equal(side_ioctl(&b.s, b.s.vcpu[1], KVM_SET_MP_STATE,
				    &(struct kvm_mp_state){ KVM_MP_STATE_RUNNABLE }), 0);
	for (unsigned i = 0; i < 2; i++) {
		r[i] = (struct runner){ .b = &b, .cpu = i };
		assert_int_equal(pthread_create(&r[i].thread, NULL, run_on, &r[i]), 0);
	}
	for (unsigned n = 0; n < rounds;) {
		unsigned got = 0;

		/* Without a page marked again there would be no end. */
		assert_true(clock_ns() - last < 60 * NSEC_PER_SEC);

		for (unsigned i = 0; i < 2; i++)
			got += collect(&b.o[i], 1 + n * 37 % 100, true);
		assert_int_equal(side_ioctl_val(&b.s, b.s.vm, KVM_RESET_DIRTY_RINGS, 0), got);
		for (unsigned p = 0; p < BIG_PAGES; p++)
			if (was_seen(&b.o[0], SIDE_MEM / PAGE + p) || was_seen(&b.o[1], SIDE_MEM / PAGE + p))
				kept[p] = __atomic_load_n((uint32_t *)(b.big + p * PAGE + 8), __ATOMIC_SEQ_CST);
		for (unsigned i = 0; i < 2; i++)
			memset(b.o[i].seen, 0, sizeof(b.o[i].seen));
		if (!got) {
			sched_yield();
			continue;
		}
		last = clock_ns();
		n++;
	}
	for (unsigned i = 0; i < 2; i++) {
		atomic_store(&r[i].stop, true);
		while (!atomic_load(&r[i].parked)) {
			pthread_kill(r[i].thread, SIGUSR1);
			sched_yield();
		}
		pthread_join(r[i].thread, NULL);
		collect(&b.o[i], UINT32_MAX, false);
	}
	for (unsigned p = 0; p < BIG_PAGES; p++)
		if (!was_seen(&b.o[0], SIDE_MEM / PAGE + p) && !was_seen(&b.o[1], SIDE_MEM / PAGE + p))
			assert_int_equal(load_le32(b.big + p * PAGE + 8), kept[p]);
	bed_destroy(&b);
}

static const struct pair_script scripts[] = {
	{ "calls", script_calls }, { "pages", script_pages }, { "full", script_full },
};

int main(int argc, char **argv)
{
	const struct CMUnitTest alone[] = {
		cmocka_unit_test(a_string_over_many_pages), cmocka_unit_test(stores_without_a_jump),
		cmocka_unit_test(an_access_in_flight),	    cmocka_unit_test(a_hostile_owner),
		cmocka_unit_test(collected_while_they_run),
	};

	return kvm_pair_main(argc, argv, scripts, ARRAY_SIZE(scripts), alone, ARRAY_SIZE(alone));
}
