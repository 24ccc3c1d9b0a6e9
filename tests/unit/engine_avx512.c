/* SPDX-License-Identifier: MIT
 *
 * AVX-512 beyond what engine_diff shows: who may use it, where its state goes, and memory that an
 * opmask spares: page tables, devices, code.
 */
#include "../lib/engine_snippet.h"
#include <errno.h>

#define DATA 0x600000u /* three pages, the third is not there */
#define AVX512 0xe7ull

static bool missing(void)
{
	return (engine_xcr0_max() & 0xe0) != 0xe0;
}

static struct env *wide_env(void)
{
	struct env *e = env_create(1);

	for (unsigned int i = 0; i < 2; i++)
		env_map(e, DATA + 4096 * i, DATA + 4096 * i, PTE_P_ | PTE_W_);
	return e;
}

static void start(struct env *e, uint64_t xcr0, uint32_t way)
{
	env_start(e, 0, 0, LOAD, ENV_KSTACK);
	assert_int_equal(engine_set_xcr0(e->cpu[0], xcr0), 0);
	engine_set_debug(e->cpu[0], ENGINE_DEBUG_BP | way);
	set_gpr(e, 0, 7, DATA);
}

/* ---- who may ---- */

static void xcr0_takes_all_of_it_or_none(void **state)
{
	static const uint64_t bad[] = {0x27, 0x47, 0x87, 0x67, 0xa7, 0xc7, 0xe3, 0xe5, 0xe1, 0xe6, 0x1e7, 0x2e7};
	struct env *e = env_create(1);

	if (missing())
		skip();
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(engine_set_xcr0(e->cpu[0], bad[i]), -EINVAL);
		assert_int_equal(engine_get_xcr0(e->cpu[0]), 7);
	}
	assert_int_equal(engine_set_xcr0(e->cpu[0], AVX512), 0);
	env_destroy(e);
}

SNIPPET(xsetbv, "xor %ecx,%ecx\nxor %edx,%edx\nxsetbv\nxgetbv\nint3");
SNIPPET(use, "vpaddd %zmm1,%zmm2,%zmm3\nint3");
SNIPPET(use_y, "vpaddd %ymm17,%ymm2,%ymm3\nint3");
SNIPPET(use_k, "kmovw %eax,%k1\nint3");
SNIPPET(use_bw, "vpaddb %zmm1,%zmm2,%zmm3\nint3");

static int use_it(struct env *e, const uint8_t *from, const uint8_t *to, uint64_t xcr0, uint32_t way)
{
	put(e, LOAD, from, to);
	start(e, xcr0, way);
	return env_run_through(e, 0);
}
#define USE(e, name, xcr0, way) use_it(e, sn_##name, sn_##name##_end, xcr0, way)

static void it_must_be_there_and_on(void **state)
{
	struct env *e = wide_env();
	struct engine_sregs s;

	if (missing())
		skip();
	PUT(e, LOAD, xsetbv);
	start(e, 7, 0);
	set_gpr(e, 0, 0, AVX512);
	assert_int_equal(env_run_through(e, 0), 256);
	assert_int_equal(regs(e).gpr[0], AVX512);
	start(e, 7, 0);
	set_gpr(e, 0, 0, 0x67);
	assert_int_equal(env_run_through(e, 0), 13);
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(USE(e, use, AVX512, env_ways[i]), 256);
		assert_int_equal(USE(e, use, 7, env_ways[i]), 6);
		assert_int_equal(USE(e, use_y, 7, env_ways[i]), 6);
		assert_int_equal(USE(e, use_k, 7, env_ways[i]), 6);
		assert_int_equal(USE(e, use_y, AVX512, env_ways[i]), 256);
		assert_int_equal(USE(e, use_k, AVX512, env_ways[i]), 256);
		/* TS */
		PUT(e, LOAD, use);
		start(e, AVX512, env_ways[i]);
		engine_get_sregs(e->cpu[0], &s);
		s.cr0 |= 8;
		assert_int_equal(engine_set_sregs(e->cpu[0], &s), 0);
		assert_int_equal(env_run_through(e, 0), 7);
	}
	/* without AVX512BW, without AVX512VL, without any */
	e->cpuid_hide7b = 1u << 30;
	engine_vcpu_cpuid_changed(e->cpu[0]);
	assert_int_equal(USE(e, use_bw, AVX512, 0), 6);
	assert_int_equal(USE(e, use_y, AVX512, 0), 256);
	e->cpuid_hide7b = 1u << 31;
	engine_vcpu_cpuid_changed(e->cpu[0]);
	assert_int_equal(USE(e, use_bw, AVX512, 0), 256);
	assert_int_equal(USE(e, use_y, AVX512, 0), 6);
	e->cpuid_hide7b = 1u << 16;
	engine_vcpu_cpuid_changed(e->cpu[0]);
	assert_int_equal(USE(e, use, AVX512, 0), 6);
	assert_int_equal(USE(e, use_k, AVX512, 0), 6);
	env_destroy(e);
}

/* ---- where the state goes ---- */

SNIPPET(fill, "mov $0x0123456789abcdef,%rax\nkmovq %rax,%k5\nvpbroadcastq %rax,%zmm31\n"
	"vpbroadcastq %rax,%zmm2\nint3");
SNIPPET(look, "kmovq %k5,%rax\nvmovdqu64 %zmm31,(%rdi)\nvmovdqu64 %zmm2,64(%rdi)\nint3");

static void state_moves(void **state)
{
	struct env *a = wide_env(), *b = wide_env();
	uint8_t xs[ENGINE_XSAVE_SIZE];
	const uint64_t want = 0x0123456789abcdef;

	if (missing())
		skip();
	assert_int_equal(USE(a, fill, AVX512, 0), 256);
	engine_get_xsave(a->cpu[0], xs);
	assert_int_equal(*(uint64_t *)(xs + 512) & 0xe0, 0xe0);
	PUT(b, LOAD, look);
	start(b, AVX512, 0);
	assert_int_equal(engine_set_xsave(b->cpu[0], xs), 0);
	assert_int_equal(env_run_through(b, 0), 256);
	assert_int_equal(regs(b).gpr[0], want);
	for (unsigned int i = 0; i < 16; i++)
		assert_int_equal(((uint64_t *)(b->ram + DATA))[i], want);
	/* what XCR0 leaves out for a while is kept */
	start(b, 7, 0);
	assert_int_equal(USE(b, use, 7, 0), 6);
	assert_int_equal(USE(b, look, AVX512, 0), 256);
	assert_int_equal(regs(b).gpr[0], want);
	/* a reset takes it */
	engine_vcpu_reset(b->cpu[0], false);
	memset(b->ram + DATA, 1, 128);
	assert_int_equal(USE(b, look, AVX512, 0), 256);
	assert_int_equal(regs(b).gpr[0], 0);
	assert_int_equal(((uint64_t *)(b->ram + DATA))[0], 0);
	/* a component that nobody has */
	*(uint64_t *)(xs + 512) |= 1u << 9;
	assert_int_equal(engine_set_xsave(b->cpu[0], xs), -EINVAL);
	env_destroy(a);
	env_destroy(b);
}

/* ---- memory that is spared ---- */

SNIPPET(store, "vmovdqu8 %zmm2,(%rdi){%k1}\nint3");
SNIPPET(load, "vmovdqu8 (%rdi),%zmm3{%k1}{z}\nvmovdqu64 %zmm3,(%rsi)\nint3");
SNIPPET(pack, "vpcompressd %zmm2,(%rdi){%k1}\nint3");
SNIPPET(scatter, "vpscatterdd %zmm0,(%rdi,%zmm4,1){%k1}\nint3");

static void vectors(struct env *e, uint64_t k1)
{
	uint8_t xs[ENGINE_XSAVE_SIZE];
	uint32_t off, size;

	engine_get_xsave(e->cpu[0], xs);
	*(uint64_t *)(xs + 512) |= 0xe7;
	__asm__ volatile("cpuid" : "=a"(size), "=b"(off) : "a"(0xd), "c"(5) : "edx");
	memcpy(xs + off + 8, &k1, 8);
	/* bytes of register n, in its three places: n + 1 */
	for (unsigned int n = 0; n < 16; n++) {
		memset(xs + 160 + 16 * n, (int)n + 1, 16);
		__asm__ volatile("cpuid" : "=a"(size), "=b"(off) : "a"(0xd), "c"(2) : "edx");
		memset(xs + off + 16 * n, (int)n + 1, 16);
		__asm__ volatile("cpuid" : "=a"(size), "=b"(off) : "a"(0xd), "c"(6) : "edx");
		memset(xs + off + 32 * n, (int)n + 1, 32);
	}
	/* register 4: indices, every element a page on from the one before */
	for (unsigned int i = 0; i < 4; i++)
		((uint32_t *)(xs + 160 + 64))[i] = 1024 * i;
	__asm__ volatile("cpuid" : "=a"(size), "=b"(off) : "a"(0xd), "c"(2) : "edx");
	for (unsigned int i = 0; i < 4; i++)
		((uint32_t *)(xs + off + 64))[i] = 1024 * (4 + i);
	assert_int_equal(engine_set_xsave(e->cpu[0], xs), 0);
}

static uint64_t opmask(struct env *e)
{
	uint8_t xs[ENGINE_XSAVE_SIZE];
	uint32_t off, size;

	engine_get_xsave(e->cpu[0], xs);
	__asm__ volatile("cpuid" : "=a"(size), "=b"(off) : "a"(0xd), "c"(5) : "edx");
	return *(uint64_t *)(xs + off + 8);
}

static void what_is_masked_off_does_not_fault(void **state)
{
	struct env *e = wide_env();
	struct engine_sregs s;

	if (missing())
		skip();
	for (unsigned int i = 0; i < 3; i++) {
		/* the last 16 bytes there are */
		memset(e->ram + DATA, 0, 2 * 4096);
		PUT(e, LOAD, store);
		start(e, AVX512, env_ways[i]);
		vectors(e, 0xfff5);
		set_gpr(e, 0, 7, DATA + 8192 - 16);
		assert_int_equal(env_run_through(e, 0), 256);
		assert_int_equal(e->ram[DATA + 8192 - 16], 3);
		assert_int_equal(e->ram[DATA + 8192 - 15], 0);
		assert_int_equal(e->ram[DATA + 8192 - 1], 3);
		PUT(e, LOAD, load);
		start(e, AVX512, env_ways[i]);
		vectors(e, 0xffff);
		set_gpr(e, 0, 7, DATA + 8192 - 16);
		set_gpr(e, 0, 6, DATA);
		assert_int_equal(env_run_through(e, 0), 256);
		assert_memory_equal(e->ram + DATA, e->ram + DATA + 8192 - 16, 16);
		assert_int_equal(e->ram[DATA + 16], 0);
		/* one too many: at its own address, and nothing is written */
		PUT(e, LOAD, store);
		memset(e->ram + DATA, 0, 2 * 4096);
		start(e, AVX512, env_ways[i]);
		vectors(e, 1ull << 20 | 1);
		set_gpr(e, 0, 7, DATA + 8192 - 16);
		assert_int_equal(env_run_through(e, 0), 14);
		engine_get_sregs(e->cpu[0], &s);
		assert_int_equal(s.cr2, DATA + 8192 + 4);
		assert_int_equal(e->ram[DATA + 8192 - 16], 0);
		/* five elements, wherever their bits are */
		PUT(e, LOAD, pack);
		start(e, AVX512, env_ways[i]);
		vectors(e, 0xf100);
		set_gpr(e, 0, 7, DATA + 8192 - 20);
		assert_int_equal(env_run_through(e, 0), 256);
		assert_int_equal(e->ram[DATA + 8192 - 21], 0);
		assert_int_equal(e->ram[DATA + 8192 - 20], 3);
		start(e, AVX512, env_ways[i]);
		vectors(e, 0xf101);
		set_gpr(e, 0, 7, DATA + 8192 - 20);
		assert_int_equal(env_run_through(e, 0), 14);
	}
	env_destroy(e);
}

/* Nothing at all is stored: the page is not dirty, and need not be writable. */
static void a_store_of_nothing_is_none(void **state)
{
	struct env *e = wide_env();

	if (missing())
		skip();
	PUT(e, LOAD, store);
	for (unsigned int i = 0; i < 3; i++) {
		env_map(e, DATA, DATA, PTE_P_ | PTE_W_);
		start(e, AVX512, env_ways[i]);
		vectors(e, 0);
		assert_int_equal(env_run_through(e, 0), 256);
		assert_int_equal(*env_pte(e, DATA) & PTE_D_, 0);
		start(e, AVX512, env_ways[i]);
		vectors(e, 4);
		assert_int_equal(env_run_through(e, 0), 256);
		assert_int_equal(*env_pte(e, DATA) & PTE_D_, PTE_D_);
		env_map(e, DATA, DATA, PTE_P_);
		start(e, AVX512, env_ways[i]);
		vectors(e, 0);
		assert_int_equal(env_run_through(e, 0), 256);
		start(e, AVX512, env_ways[i]);
		vectors(e, 4);
		assert_int_equal(env_run_through(e, 0), 14);
	}
	env_destroy(e);
}

/* A device sees what is accessed and nothing else. */
static void devices_see_the_elements(void **state)
{
	struct env *e = wide_env();

	if (missing())
		skip();
	env_map(e, DATA, 0xfe000000u, PTE_P_ | PTE_W_);
	PUT(e, LOAD, store);
	for (unsigned int i = 0; i < 3; i++) {
		for (int exits = 0; exits < 2; exits++) {
			struct engine_exit x;
			int r;

			e->mmio.n = 0;
			e->mmio.exits = exits;
			start(e, AVX512, env_ways[i]);
			vectors(e, 1ull << 63 | 0x3ull << 17 | 1);
			do
				r = env_run(e, 0, &x);
			while (x.reason == ENGINE_EXIT_MMIO || (x.reason == ENGINE_EXIT_DEBUG && x.vector != 3));
			assert_int_equal(r, 256);
			assert_int_equal(e->mmio.n, 3);
			assert_int_equal(e->mmio.a[0].addr, 0xfe000000u);
			assert_int_equal(e->mmio.a[0].len, 1);
			assert_int_equal(e->mmio.a[1].addr, 0xfe000000u + 17);
			assert_int_equal(e->mmio.a[1].len, 2);
			assert_int_equal(e->mmio.a[1].data, 0x0303);
			assert_int_equal(e->mmio.a[2].addr, 0xfe000000u + 63);
		}
	}
	env_destroy(e);
}

/* A scatter that faults has done what its mask no longer has. */
static void a_scatter_stops_at_its_fault(void **state)
{
	struct env *e = wide_env();
	struct engine_sregs s;

	if (missing())
		skip();
	PUT(e, LOAD, scatter);
	for (unsigned int i = 0; i < 3; i++) {
		memset(e->ram + DATA, 0, 2 * 4096);
		start(e, AVX512, env_ways[i]);
		vectors(e, 0xfe);
		set_gpr(e, 0, 7, DATA + 4096);
		assert_int_equal(env_run_through(e, 0), 14);
		engine_get_sregs(e->cpu[0], &s);
		assert_int_equal(s.cr2, DATA + 8192);
		assert_int_equal(opmask(e), 0xf0);
		assert_int_equal(e->ram[DATA + 4096], 0);
		for (unsigned int k = 1; k < 4; k++)
			assert_int_equal(e->ram[DATA + 4096 + 1024 * k], 1);
		env_map(e, DATA + 8192, DATA, PTE_P_ | PTE_W_);
		set_rip(e, LOAD);
		set_gpr(e, 0, 4, ENV_KSTACK);
		assert_int_equal(env_run_through(e, 0), 256);
		assert_int_equal(opmask(e), 0);
		assert_int_equal(e->ram[DATA + 1024 * 3], 1);
		*env_pte(e, DATA + 8192) = 0;
	}
	env_destroy(e);
}

SNIPPET(gather, "vgatherdps (%rdi,%xmm4,1),%xmm9{%k1}\nint3");

/* A gather that faults leaves what it has, and nothing above its vector length. */
static void a_gather_stops_at_its_fault(void **state)
{
	uint8_t xs[ENGINE_XSAVE_SIZE];
	uint32_t off, size;

	if (missing())
		skip();
	__asm__ volatile("cpuid" : "=a"(size), "=b"(off) : "a"(0xd), "c"(2) : "edx");
	for (unsigned int i = 0; i < 3; i++) {
		struct env *e = wide_env();

		memset(e->ram + DATA, 0x77, 2 * 4096);
		PUT(e, LOAD, gather);
		start(e, AVX512, env_ways[i]);
		vectors(e, 0xf);
		set_gpr(e, 0, 7, DATA + 4096 + 2048);
		assert_int_equal(env_run_through(e, 0), 14);
		assert_int_equal(opmask(e), 0xc);
		engine_get_xsave(e->cpu[0], xs);
		assert_int_equal(*(uint64_t *)(xs + 160 + 16 * 9), 0x7777777777777777);
		assert_int_equal(*(uint64_t *)(xs + 160 + 16 * 9 + 8), 0x0a0a0a0a0a0a0a0a);
		assert_int_equal(*(uint64_t *)(xs + off + 16 * 9), 0);
		env_destroy(e);
	}
}

/* vcvtpd2qq (%edi),%ymm1; vmovdqu64 %ymm1,32(%edi); int3: W is not a general register's width here. */
static const uint8_t convert[] = {0x62, 0xf1, 0xfd, 0x28, 0x7b, 0x0f, 0x62, 0xf1, 0xfe, 0x28, 0x7f, 0x4f, 1, 0xcc};

static void w_means_the_same_in_32_bit_code(void **state)
{
	struct env *e = wide_env();
	struct engine_sregs s;

	if (missing())
		skip();
	for (unsigned int i = 0; i < 3; i++) {
		put(e, LOAD, convert, convert + sizeof(convert));
		start(e, AVX512, env_ways[i]);
		engine_get_sregs(e->cpu[0], &s);
		s.seg[1].selector = SEL_KCODE32;
		s.seg[1].l = 0;
		s.seg[1].db = 1;
		assert_int_equal(engine_set_sregs(e->cpu[0], &s), 0);
		for (unsigned int k = 0; k < 4; k++)
			((double *)(e->ram + DATA))[k] = 3.0 * (1ull << 40) + k;
		memset(e->ram + DATA + 32, 0, 32);
		assert_int_equal(env_run_through(e, 0), 256);
		for (unsigned int k = 0; k < 4; k++)
			assert_int_equal(((uint64_t *)(e->ram + DATA + 32))[k], (3ull << 40) + k);
	}
	env_destroy(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(xcr0_takes_all_of_it_or_none),
		cmocka_unit_test(it_must_be_there_and_on),
		cmocka_unit_test(state_moves),
		cmocka_unit_test(what_is_masked_off_does_not_fault),
		cmocka_unit_test(a_store_of_nothing_is_none),
		cmocka_unit_test(devices_see_the_elements),
		cmocka_unit_test(a_scatter_stops_at_its_fault),
		cmocka_unit_test(a_gather_stops_at_its_fault),
		cmocka_unit_test(w_means_the_same_in_32_bit_code),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
