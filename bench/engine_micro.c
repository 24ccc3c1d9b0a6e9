/* SPDX-License-Identifier: MIT
 *
 * The engine against the processor: functions of this very program run natively
 * and as guest code (its own pages are mapped into the guest at the same
 * addresses). Prints the ratio of times.
 */
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "engine/engine.h"

#define LOW (4ull << 20) /* tables of the guest */
#define ARENA (64ull << 20)

static uint8_t *low, *arena;
static struct engine_vm *vm;
static struct engine_vcpu *cpu;
static struct engine_slot slots[64];
static unsigned int n_slots;
static uint64_t pt_next = 0x2000;

/* ---- what is measured ---- */

/* each within a page, so that no instruction lies across two: those are C's */
#define KERNEL __attribute__((noinline, section(".kernels"), aligned(4096)))

KERNEL static uint64_t k_integer(uint8_t *mem)
{
	uint64_t x = 88172645463325252ull, s = 0;

	for (int i = 0; i < 20000000; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		s += x % 7 ? x : (uint64_t)i;
	}
	return s;
}

KERNEL static uint64_t k_chase(uint8_t *mem)
{
	uint64_t *p = (uint64_t *)mem, i = 0;

	for (int n = 0; n < 10000000; n++)
		i = p[i];
	return i;
}

KERNEL static uint64_t k_memcpy(uint8_t *mem)
{
	uint64_t *d = (uint64_t *)(mem + (8 << 20)), *s = (uint64_t *)(mem + (16 << 20)), r = 0;

	for (int n = 0; n < 400; n++) {
		for (int i = 0; i < 8192; i += 4) {
			d[i] = s[i];
			d[i + 1] = s[i + 1];
			d[i + 2] = s[i + 2];
			d[i + 3] = s[i + 3];
			__asm__ volatile("" : : : "memory");
		}
		r += d[n];
	}
	return r;
}

KERNEL static uint64_t k_repmovs(uint8_t *mem)
{
	for (int n = 0; n < 4000; n++) {
		void *d = mem + (8 << 20), *s = mem + (16 << 20);
		size_t c = 16384;

		__asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(c) : : "memory");
	}
	return 0;
}

#define ROR(x, n) ((x) >> (n) | (x) << (32 - (n)))

KERNEL static uint64_t k_sha(uint8_t *mem)
{
	uint32_t s[8] = {1, 2, 3, 4, 5, 6, 7, 8}, w[64];
	const uint32_t *in = (const uint32_t *)(mem + (8 << 20));

	for (int blk = 0; blk < 20000; blk++) {
		uint32_t a = s[0], b = s[1], c = s[2], d = s[3], e = s[4], f = s[5], g = s[6], h = s[7];

		for (int i = 0; i < 16; i++)
			w[i] = __builtin_bswap32(in[(blk * 16 + i) & 0xffff]);
		for (int i = 16; i < 64; i++)
			w[i] = (ROR(w[i - 2], 17) ^ ROR(w[i - 2], 19) ^ w[i - 2] >> 10) + w[i - 7] +
			       (ROR(w[i - 15], 7) ^ ROR(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 16];
		for (int i = 0; i < 64; i++) {
			uint32_t t1 = h + (ROR(e, 6) ^ ROR(e, 11) ^ ROR(e, 25)) + ((e & f) ^ (~e & g)) + w[i];
			uint32_t t2 = (ROR(a, 2) ^ ROR(a, 13) ^ ROR(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));

			h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
		}
		s[0] += a, s[1] += b, s[2] += c, s[3] += d, s[4] += e, s[5] += f, s[6] += g, s[7] += h;
	}
	return s[0] ^ s[7];
}

KERNEL static uint64_t fib(uint64_t n)
{
	if (n < 2)
		return n;
	uint64_t a = fib(n - 1);

	__asm__ volatile("" : "+r"(a));
	return a + fib(n - 2);
}

KERNEL static uint64_t k_calls(uint8_t *mem)
{
	return fib(32);
}

KERNEL static uint64_t i0(uint64_t x) { return x + 1; }
KERNEL static uint64_t i1(uint64_t x) { return x ^ 0x55; }
KERNEL static uint64_t i2(uint64_t x) { return x * 3; }
KERNEL static uint64_t i3(uint64_t x) { return x - 7; }

KERNEL static uint64_t k_indirect(uint8_t *mem)
{
	uint64_t (*volatile f[4])(uint64_t) = {i0, i1, i2, i3};
	uint64_t x = 1;

	for (int i = 0; i < 5000000; i++)
		x = f[i & 3](x);
	return x;
}

KERNEL static uint64_t k_sort(uint8_t *mem)
{
	uint32_t *a = (uint32_t *)(mem + (24 << 20)), n = 200000, x = 1, s = 0;

	for (uint32_t i = 0; i < n; i++)
		a[i] = x = x * 1664525 + 1013904223;
	for (uint32_t gap = n / 2; gap; gap /= 2)
		for (uint32_t i = gap; i < n; i++) {
			uint32_t t = a[i], j = i;

			for (; j >= gap && a[j - gap] > t; j -= gap)
				a[j] = a[j - gap];
			a[j] = t;
		}
	for (uint32_t i = 0; i < n; i += 1000)
		s ^= a[i];
	return s;
}

KERNEL static uint64_t k_sse(uint8_t *mem)
{
	float *a = (float *)(mem + (8 << 20)), *b = (float *)(mem + (12 << 20)), s = 0;

	for (int n = 0; n < 300; n++)
		for (int i = 0; i < 16384; i++)
			b[i] = a[i] * 1.5f + b[i];
	for (int i = 0; i < 16384; i += 64)
		s += b[i];
	return (uint64_t)s;
}

/* The guest's rows sse2 and avx2 (bench/guest/work.c). */
KERNEL static uint64_t k_sse2(uint8_t *mem)
{
	float *a = (float *)(mem + (8 << 20));
	__m128 x = _mm_set1_ps(0.999f), y = _mm_set1_ps(0.125f);

	for (int n = 0; n < 4000; n++)
		for (int i = 0; i < 4096; i += 4)
			_mm_store_ps(a + i, _mm_add_ps(_mm_mul_ps(_mm_load_ps(a + i), x), y));
	return (uint64_t)(a[5] * 1e6f);
}

KERNEL __attribute__((target("avx2"))) static uint64_t k_avx2(uint8_t *mem)
{
	float *a = (float *)(mem + (8 << 20));
	__m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.125f);
	__m256i sum = _mm256_setzero_si256();

	for (int n = 0; n < 4000; n++)
		for (int i = 0; i < 4096; i += 8) {
			__m256 v = _mm256_add_ps(_mm256_mul_ps(_mm256_load_ps(a + i), x), y);

			_mm256_store_ps(a + i, v);
			sum = _mm256_add_epi32(sum, _mm256_castps_si256(v));
		}
	return (uint32_t)_mm256_extract_epi32(sum, 0);
}

/* A loop with a way out of its middle. */
KERNEL static uint64_t k_scan(uint8_t *mem)
{
	uint64_t s = 0;

	for (int n = 0; n < 2000; n++)
		for (const uint8_t *p = mem + (8 << 20), *e = p + 4000; p < e; p++) {
			if (*p == 0xff)
				break;
			s = s * 31 + *p;
		}
	return s;
}

static const struct {
	const char *name;
	uint64_t (*fn)(uint8_t *);
} kernels[] = {
	{"integer loop", k_integer}, {"pointer chase", k_chase}, {"memcpy by words", k_memcpy},
	{"rep movsb 16 KiB", k_repmovs}, {"sha-256 rounds", k_sha}, {"calls (fib)", k_calls},
	{"indirect calls", k_indirect}, {"scan bytes", k_scan}, {"shell sort", k_sort}, {"float arrays", k_sse},
	{"sse2 arrays", k_sse2}, {"avx2 arrays", k_avx2},
};

/* ---- the guest ---- */

static void cpuid(void *c, uint32_t leaf, uint32_t sub, uint32_t r[4])
{
	__asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}

static int none(void *c, struct engine_access *a)
{
	return 1;
}

static const struct engine_ops ops = {.cpuid = cpuid, .mmio = none, .io = none};

static uint64_t *next(uint64_t *e)
{
	if (!(*e & 1)) {
		*e = pt_next | 7;
		pt_next += 4096;
	}
	return (uint64_t *)(low + (*e & ~4095ull));
}

static void map_same(uint64_t from, uint64_t to)
{
	uint64_t gpa = (1ull << 30) * (n_slots + 1);

	slots[n_slots++] = (struct engine_slot){.gpa = gpa, .size = to - from, .host = (void *)from};
	for (uint64_t va = from; va < to; va += 4096, gpa += 4096) {
		uint64_t *t = next(&((uint64_t *)(low + 0x1000))[va >> 39 & 511]);

		t = next(&t[va >> 30 & 511]);
		t = next(&t[va >> 21 & 511]);
		t[va >> 12 & 511] = gpa | 7;
	}
}

static void map_program(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512], perm[8];
	uint64_t a, b, me = (uint64_t)map_program;
	uint64_t lo = ~0ull, hi = 0;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx %7s", &a, &b, perm) == 3 && perm[0] == 'r' && a + (64 << 20) > me &&
		    a < me + (64 << 20) && !strstr(line, "heap")) {
			if (a < lo)
				lo = a;
			if (b > hi)
				hi = b;
			map_same(a, b);
		}
	if (f)
		fclose(f);
}

static struct engine_segment flat(uint8_t type, bool l)
{
	return (struct engine_segment){.selector = 8, .limit = 0xffffffffu, .type = type, .s = 1, .present = 1,
				       .l = l, .db = !l, .g = 1};
}

static double seconds(void)
{
	struct timespec t;

	/* of this thread: others may be using the processor */
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t run_guest(uint64_t (*fn)(uint8_t *))
{
	struct engine_exit x = {0};
	struct engine_regs r = {0};

	/* returns to an INT3 in the arena's last page */
	uint64_t sp = (uint64_t)arena + ARENA - 4096 - 64 + 8;

	arena[ARENA - 1] = 0xcc;
	sp -= 8;
	*(uint64_t *)(sp - 8) = (uint64_t)arena + ARENA - 1;
	r.gpr[4] = sp - 8;
	r.gpr[7] = (uint64_t)arena;
	r.rip = (uint64_t)fn;
	r.rflags = 2;
	engine_set_regs(cpu, &r);
	if (engine_run(cpu, &x) || x.reason != ENGINE_EXIT_DEBUG) {
		fprintf(stderr, "exit %d %s\n", x.reason, x.text);
		exit(1);
	}
	engine_get_regs(cpu, &r);
	return r.gpr[0];
}

int main(int argc, char **argv)
{
	const char *only = argc > 1 ? argv[1] : NULL; /* a part of a name */
	struct engine_sregs s;
	struct err e;
	uint64_t *chase;
	int bad = 0;

	low = mmap(NULL, LOW, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memset(arena, 1, ARENA);
	map_program();
	map_same((uint64_t)arena, (uint64_t)arena + ARENA);
	slots[n_slots++] = (struct engine_slot){.gpa = 0, .size = LOW, .host = low};
	bad = engine_vm_create(NULL, &vm, &e);
	for (unsigned int i = 0; !bad && i < n_slots; i++)
		bad = engine_vm_change_slot(vm, NULL, &slots[i], &e);
	if (bad || engine_vcpu_create(vm, 0, &ops, NULL, &cpu, &e)) {
		fprintf(stderr, "%s\n", e.text);
		return 1;
	}
	engine_get_sregs(cpu, &s);
	s.cr0 = 0x80000033u;
	s.cr3 = 0x1000;
	s.cr4 = 0x406a0 | 0x600;
	s.efer = 0x500;
	for (int i = 0; i < 6; i++)
		s.seg[i] = flat(3, false);
	s.seg[1] = flat(11, true);
	if (engine_set_xcr0(cpu, 7) || engine_set_sregs(cpu, &s))
		return 1;
	engine_set_debug(cpu, ENGINE_DEBUG_BP);
	chase = (uint64_t *)arena;
	for (uint64_t i = 0; i < 8192; i++)
		chase[i] = (i * 5 + 1237) & 8191;
	printf("%-18s %9s %9s %6s\n", "", "native ms", "guest ms", "ratio");
	for (unsigned int i = 0; i < sizeof(kernels) / sizeof(kernels[0]); i++) {
		if (only && !strstr(kernels[i].name, only))
			continue;
		double tn = 1e9, tg = 1e9;
		uint64_t a = 0, b = 0;

		for (int n = 0; n < 9; n++) {
			double t0 = seconds(), t1;

			memset(arena + (8 << 20), 0, 16 << 20);
			t0 = seconds();
			a = kernels[i].fn(arena);
			t1 = seconds();
			if (t1 - t0 < tn)
				tn = t1 - t0;
			memset(arena + (8 << 20), 0, 16 << 20);
			t0 = seconds();
			b = run_guest(kernels[i].fn);
			t1 = seconds();
			if (t1 - t0 < tg)
				tg = t1 - t0;
		}
		printf("%-18s %9.1f %9.1f %6.2f%s\n", kernels[i].name, tn * 1e3, tg * 1e3, tg / tn,
		       a == b ? "" : "  RESULTS DIFFER");
		bad |= a != b;
	}
	if (only) {
		struct engine_stats st;

		engine_get_stats(cpu, &st);
		printf("exits %lu bounced %lu fills %lu blocks %lu flushes %lu\n", st.exits, st.bounced, st.tlb_fills, st.blocks, st.flushes);
	}
	engine_vcpu_destroy(cpu);
	engine_vm_destroy(vm);
	return bad;
}
