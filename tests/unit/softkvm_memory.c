/* SPDX-License-Identifier: MIT
 * Memory that a slot promises and the host does not give: protected, or of a file
 * cut short. KVM_RUN says EFAULT, wherever the access comes from, and neither the
 * process nor the VM is the worse for it: with the memory back the same code runs.
 */
#include "../lib/check.h"
#include "../lib/kvm_pair.h"
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#define MEM   0x10000u
#define PAGE  0x4000u /* the one that goes */
#define CODE  0x1000u
#define VALUE 0x5a

struct bed {
	struct side s;
	uint8_t *mem;
	int file;
};

struct way {
	const char *name;
	uint32_t gone;	  /* the page */
	int left;	  /* what may still be done with it */
	uint8_t code[20]; /* real mode; at the end: what it has in AL goes to port 80h */
	uint8_t out;	  /* there, when all is well */
};

#define OUT 0xe6, 0x80 /* out %al,$0x80 */

static const struct way ways[] = {
	{ "store", PAGE, PROT_READ, { 0xb0, 7, 0xa2, 0x00, 0x40, OUT }, 7 },
	{ "load", PAGE, PROT_NONE, { 0xa0, 0x10, 0x40, OUT }, VALUE },
	{ "locked", PAGE, PROT_READ, { 0xf0, 0xfe, 0x06, 0x10, 0x40, 0xa0, 0x10, 0x40, OUT }, VALUE + 1 },
	/* A word over the end of a page, locked. */
	{ "split", PAGE, PROT_READ,
	  { 0xf0, 0xff, 0x06, 0xff, 0x3f, 0xf0, 0xff, 0x06, 0xff, 0x3f, 0xa0, 0xff, 0x3f, OUT }, 2 },
	{ "push", PAGE, PROT_READ, { 0xbc, 0x02, 0x40, 0xb8, 9, 0, 0x50, 0x31, 0xc0, 0x58, OUT }, 9 },
	{ "pop", PAGE, PROT_NONE, { 0xbc, 0x10, 0x40, 0x58, OUT }, VALUE },
	{ "stos", PAGE, PROT_READ,
	  { 0xbf, 0xf0, 0x3f, 0xb9, 0x20, 0, 0xb0, 3, 0xf3, 0xaa, 0xa0, 0x0f, 0x40, OUT }, 3 },
	{ "movs", PAGE, PROT_NONE,
	  { 0xbe, 0xf0, 0x3f, 0xbf, 0, 0x50, 0xb9, 0x21, 0, 0xf3, 0xa4, 0xa0, 0x20, 0x50, OUT }, VALUE },
	/* An interrupt's frame, and its vector. */
	{ "frame", PAGE, PROT_READ, { 0xbc, 0x06, 0x40, 0xb0, 4, 0xcd, 0x20 }, 4 },
	{ "vector", 0, PROT_NONE, { 0xbc, 0x06, 0x50, 0xb0, 4, 0xcd, 0x20 }, 4 },
	/* Its code runs, then it writes there: code that is written. */
	{ "code", PAGE, PROT_READ,
	  { 0xe8, 0x1d, 0x30, 0xb0, 5, 0xa2, 0x00, 0x40, 0xa0, 0x00, 0x40, OUT }, 5 },
	{ "fetch", PAGE, PROT_NONE, { 0xb0, 6, 0xe8, 0x1b, 0x30, OUT }, 6 },
};

static void at_start(struct bed *b)
{
	struct kvm_regs regs = { .rip = CODE, .rflags = 2, .rsp = 0x8000 };

	assert_int_equal(side_ioctl(&b->s, b->s.vcpu[0], KVM_SET_REGS, &regs), 0);
}

static void setup(struct bed *b, const struct way *w)
{
	struct kvm_userspace_memory_region r = { .memory_size = MEM };
	struct kvm_sregs sregs;

	side_begin(&b->s, true);
	side_add_vcpu(&b->s, 0, 0);
	b->file = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(b->file, MEM), 0);
	b->mem = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_SHARED, b->file, 0);
	assert_true(b->mem != MAP_FAILED);
	r.userspace_addr = (uintptr_t)b->mem;
	assert_int_equal(side_ioctl(&b->s, b->s.vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
	memcpy(b->mem + CODE, w->code, sizeof(w->code));
	b->mem[PAGE + 0x10] = VALUE;
	b->mem[PAGE + 0x20] = 0xc3;	 /* ret */
	b->mem[0x20 * 4 + 1] = 0x20;	 /* vector 20h: 0:2000h */
	memcpy(b->mem + 0x2000, (uint8_t[]){ OUT }, 2);
	assert_int_equal(side_ioctl(&b->s, b->s.vcpu[0], KVM_GET_SREGS, &sregs), 0);
	sregs.cs.base = sregs.cs.selector = 0;
	assert_int_equal(side_ioctl(&b->s, b->s.vcpu[0], KVM_SET_SREGS, &sregs), 0);
	at_start(b);
}

static void teardown(struct bed *b)
{
	side_end(&b->s);
	munmap(b->mem, MEM);
	close(b->file);
}

static int run(struct bed *b)
{
	return side_ioctl(&b->s, b->s.vcpu[0], KVM_RUN, NULL);
}

static void comes_out(struct bed *b, const struct way *w)
{
	const struct kvm_run *r = b->s.run[0];

	at_start(b);
	assert_int_equal(run(b), 0);
	assert_int_equal(r->exit_reason, KVM_EXIT_IO);
	assert_int_equal(r->io.port, 0x80);
	assert_int_equal(((const uint8_t *)r)[r->io.data_offset], w->out);
}

static void test_protected(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
		const struct way *w = &ways[i];
		struct bed b;

		print_message("%s\n", w->name);
		setup(&b, w);
		assert_int_equal(mprotect(b.mem + w->gone, 0x1000, w->left), 0);
		for (unsigned again = 0; again < 2; again++) {
			at_start(&b);
			assert_int_equal(run(&b), -EFAULT);
			assert_int_equal(b.s.run[0]->exit_reason, KVM_EXIT_UNKNOWN);
		}
		assert_int_equal(mprotect(b.mem + w->gone, 0x1000, PROT_READ | PROT_WRITE), 0);
		b.mem[PAGE - 1] = 0; /* half of what is split may have been done */
		comes_out(&b, w);
		teardown(&b);
	}
}

/* The file ends before the slot does: SIGBUS. */
static void test_cut_short(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
		const struct way *w = &ways[i];
		struct bed b;

		if (w->gone != PAGE || !strcmp(w->name, "code"))
			continue;
		print_message("%s\n", w->name);
		setup(&b, w);
		assert_int_equal(ftruncate(b.file, PAGE), 0);
		assert_int_equal(run(&b), -EFAULT);
		assert_int_equal(ftruncate(b.file, MEM), 0);
		b.mem[PAGE + 0x10] = VALUE;
		b.mem[PAGE + 0x20] = 0xc3;
		comes_out(&b, w);
		teardown(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_protected),
		cmocka_unit_test(test_cut_short),
	};

	return RUN(tests);
}
