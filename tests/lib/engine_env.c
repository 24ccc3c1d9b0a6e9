/* SPDX-License-Identifier: MIT */
#include "engine_env.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static struct env *env_of(void *cpu)
{
	return *(struct env **)cpu;
}

struct cpu_handle {
	struct env *env;
	unsigned int index;
};

static int log_access(struct env_io *io, struct engine_access *a)
{
	if (io->n < 64)
		io->a[io->n++] = *a;
	if (io->exits)
		return 1;
	if (!a->write)
		a->data = io->read_value & (a->len == 8 ? ~0ull : (1ull << (8 * a->len)) - 1);
	return 0;
}

static int op_mmio(void *cpu, struct engine_access *a)
{
	struct env *e = env_of(cpu);

	if (e->on_mmio)
		e->on_mmio(e);
	return log_access(&e->mmio, a);
}

static int op_io(void *cpu, struct engine_access *a)
{
	return log_access(&env_of(cpu)->io, a);
}

static struct engine_vcpu *cpu_of(void *cpu)
{
	struct cpu_handle *h = cpu;

	return h->env->cpu[h->index];
}

static int op_rdmsr(void *cpu, uint32_t index, uint64_t *val)
{
	int r = engine_guest_rdmsr(cpu_of(cpu), index, val);

	if (r != -ENOENT)
		return r ? 1 : 0;
	*val = 0x1234;
	return index == 0x1c ? 2 : index != 0x1b;
}

static int op_wrmsr(void *cpu, uint32_t index, uint64_t val)
{
	int r = engine_guest_wrmsr(cpu_of(cpu), index, val);

	if (r != -ENOENT)
		return r ? 1 : 0;
	return index == 0x1c ? 2 : index != 0x1b;
}

static void op_cpuid(void *cpu, uint32_t leaf, uint32_t sub, uint32_t r[4])
{
	__asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
	if (leaf == 1) {
		r[2] |= 1u << 17; /* PCID */
		r[3] |= 1u << 17; /* PSE-36 */
		r[3] &= ~env_of(cpu)->cpuid_hide1d;
	}
	if (leaf == 0 && env_of(cpu)->intel)
		r[1] = env_of(cpu)->intel > 0 ? 0x756e6547u : 0x68747541u;
	if (leaf == 0x80000008 && env_of(cpu)->phys_bits)
		r[0] = (r[0] & ~0xffu) | env_of(cpu)->phys_bits;
	if (leaf == 7 && sub == 0) {
		r[1] |= 1u << 20 | 1u << 7 | 1u << 10 | 1; /* SMAP, SMEP, INVPCID, FSGSBASE */
		r[1] &= ~env_of(cpu)->cpuid_hide7b;
		r[2] |= 1u << 2; /* UMIP */
	}
	if (leaf == 0x80000001)
		r[2] &= ~env_of(cpu)->cpuid_hide81c;
}

static int op_intr(void *cpu)
{
	struct cpu_handle *h = cpu;

	return atomic_exchange(&h->env->vector[h->index], -1);
}

static uint64_t op_cr8_read(void *cpu)
{
	return env_of(cpu)->cr8;
}

static void op_cr8_write(void *cpu, uint64_t val)
{
	env_of(cpu)->cr8 = val;
}

static int op_hypercall(void *cpu, uint64_t nr, const uint64_t args[4], uint64_t *res)
{
	env_of(cpu)->hyper_nr = nr;
	*res = args[0] + 1;
	return nr == 99;
}

static bool op_fixes_hypercall(void *cpu)
{
	return !env_of(cpu)->keep_hypercalls;
}

static const struct engine_ops ops = {
	.mmio = op_mmio, .io = op_io, .rdmsr = op_rdmsr, .wrmsr = op_wrmsr, .cpuid = op_cpuid,
	.intr_take = op_intr, .cr8_read = op_cr8_read, .cr8_write = op_cr8_write, .hypercall = op_hypercall,
	.fixes_hypercall = op_fixes_hypercall,
};

bool env_has_error(int v)
{
	return v == 8 || (v >= 10 && v <= 14) || v == 17;
}

static uint64_t *table_next(struct env *e, uint64_t *entry)
{
	if (!(*entry & PTE_P_)) {
		*entry = e->pt_next | PTE_P_ | PTE_W_ | PTE_U_;
		memset(e->ram + e->pt_next, 0, 4096);
		e->pt_next += 4096;
	}
	return (uint64_t *)(e->ram + (*entry & 0xffffffffff000ull));
}

uint64_t *env_pte(struct env *e, uint64_t va)
{
	uint64_t *t = (uint64_t *)(e->ram + ENV_PT);

	t = table_next(e, &t[va >> 39 & 511]);
	t = table_next(e, &t[va >> 30 & 511]);
	t = table_next(e, &t[va >> 21 & 511]);
	return &t[va >> 12 & 511];
}

void env_map(struct env *e, uint64_t va, uint64_t pa, uint64_t flags)
{
	*env_pte(e, va) = pa | flags;
}

static void tables(struct env *e)
{
	uint64_t *gdt = (uint64_t *)(e->ram + ENV_GDT), *idt = (uint64_t *)(e->ram + ENV_IDT);

	gdt[1] = 0x00af9b000000ffffull;
	gdt[2] = 0x00cf93000000ffffull;
	gdt[3] = 0x00cffb000000ffffull;
	gdt[4] = 0x00cff3000000ffffull;
	gdt[5] = 0x00affb000000ffffull;
	gdt[6] = 0x00008b0000000067ull | (uint64_t)ENV_TSS << 16;
	gdt[7] = 0;
	gdt[8] = 0x00cf9b000000ffffull;
	gdt[9] = 0x00009b000000ffffull;
	gdt[10] = 0x000093000000ffffull;
	for (unsigned int i = 0; i < 256; i++) {
		uint64_t h = ENV_HANDLER + i;
		/* an interrupt gate; DPL 3 for #BP and 0x80 */
		uint64_t attr = 0x8e00ull | (i == 3 || i == 0x80 ? 0x6000 : 0) | (i == 8 ? 1 : 0);

		idt[2 * i] = (h & 0xffff) | (uint64_t)SEL_KCODE << 16 | attr << 32 | (h >> 16 & 0xffff) << 48;
		idt[2 * i + 1] = h >> 32;
	}
	memset(e->ram + ENV_HANDLER, 0xcc, 4096);
	memset(e->ram + ENV_TSS, 0, 0x68);
	memcpy(e->ram + ENV_TSS + 4, &(uint64_t){ENV_KSTACK}, 8);
	memcpy(e->ram + ENV_TSS + 0x24, &(uint64_t){ENV_IST1}, 8);
	*(uint16_t *)(e->ram + ENV_TSS + 0x66) = 0x68;
}

static struct engine_segment seg(uint16_t sel, uint8_t type, uint8_t dpl, bool code)
{
	return (struct engine_segment){.selector = sel, .limit = 0xffffffffu, .type = type, .s = 1, .dpl = dpl,
				       .present = 1, .l = code, .db = !code, .g = 1};
}

void env_start(struct env *e, unsigned int cpu, unsigned int cpl, uint64_t rip, uint64_t rsp)
{
	struct engine_sregs s;
	struct engine_regs r;
	struct engine_events ev = {0};

	engine_get_sregs(e->cpu[cpu], &s);
	s.cr0 = 0x80050033u;
	s.cr3 = ENV_PT;
	s.cr4 = 0x406e0; /* OSXSAVE, OSXMMEXCPT, OSFXSR, PGE, MCE, PAE */
	s.efer = 0xd01;
	s.gdt = (struct engine_dtable){ENV_GDT, 0x7f};
	s.idt = (struct engine_dtable){ENV_IDT, 0xfff};
	s.tr = (struct engine_segment){.selector = SEL_TSS, .base = ENV_TSS, .limit = 0x67, .type = 11, .present = 1};
	s.ldt = (struct engine_segment){.unusable = 1};
	for (int i = 0; i < 6; i++)
		s.seg[i] = seg(cpl ? SEL_UDATA : SEL_KDATA, 3, (uint8_t)cpl, false);
	s.seg[1] = seg(cpl ? SEL_UCODE : SEL_KCODE, 11, (uint8_t)cpl, true);
	if (engine_set_xcr0(e->cpu[cpu], 7) || engine_set_sregs(e->cpu[cpu], &s))
		abort();
	if (engine_set_events(e->cpu[cpu], &ev))
		abort();
	memset(&r, 0, sizeof(r));
	r.rip = rip;
	r.gpr[4] = rsp;
	r.rflags = 2;
	engine_set_regs(e->cpu[cpu], &r);
	engine_set_debug(e->cpu[cpu], ENGINE_DEBUG_BP);
}

struct env *env_create(unsigned int n_cpu)
{
	return env_create_small(n_cpu, 0);
}

struct env *env_create_small(unsigned int n_cpu, uint32_t code_mib)
{
	struct engine_config cfg = {.code_mib = code_mib};
	struct env *e = calloc(1, sizeof(*e));
	struct engine_slot slot;
	struct err err;

	e->ram = mmap(NULL, ENV_RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (e->ram == MAP_FAILED || engine_vm_create(&cfg, &e->vm, &err))
		abort();
	slot = (struct engine_slot){.gpa = 0, .size = ENV_RAM, .host = e->ram};
	if (engine_vm_change_slot(e->vm, NULL, &slot, &err))
		abort();
	e->pt_next = ENV_PT + 4096;
	tables(e);
	for (uint64_t p = 0; p < 0x20000; p += 4096)
		env_map(e, p, p, PTE_P_ | PTE_W_);
	for (unsigned int i = 0; i < n_cpu; i++) {
		struct cpu_handle *h = calloc(1, sizeof(*h));

		h->env = e;
		e->handle[i] = h;
		h->index = i;
		e->vector[i] = -1;
		if (engine_vcpu_create(e->vm, i, &ops, h, &e->cpu[i], &err))
			abort();
		e->n_cpu++;
		env_start(e, i, 0, 0, ENV_KSTACK);
	}
	return e;
}

void env_destroy(struct env *e)
{
	for (unsigned int i = 0; i < e->n_cpu; i++) {
		engine_vcpu_destroy(e->cpu[i]);
		free(e->handle[i]);
	}
	engine_vm_destroy(e->vm);
	munmap(e->ram, ENV_RAM);
	free(e);
}

int env_run(struct env *e, unsigned int cpu, struct engine_exit *x)
{
	if (engine_run(e->cpu[cpu], x))
		return -(int)ENGINE_EXIT_INTERNAL - 1;
	if (x->reason != ENGINE_EXIT_DEBUG || x->vector != 3)
		return -(int)x->reason - 1;
	if (x->rip >= ENV_HANDLER && x->rip < ENV_HANDLER + 256)
		return (int)(x->rip - ENV_HANDLER);
	return 256;
}

int env_run_through(struct env *e, unsigned int cpu)
{
	struct engine_exit x;
	int v;

	do
		v = env_run(e, cpu, &x);
	while (v < 0 && x.reason == ENGINE_EXIT_DEBUG);
	return v;
}

void *env_run_thread(void *runner)
{
	struct env_runner *r = runner;
	struct engine_exit x;

	r->result = env_run(r->e, r->cpu, &x);
	return NULL;
}

const uint32_t env_ways[ENV_WAYS] = {0, ENGINE_DEBUG_ONE, ENGINE_DEBUG_SLOW};

void env_frame(struct env *e, unsigned int cpu, int vector, struct env_frame *f)
{
	struct engine_regs r;

	engine_get_regs(e->cpu[cpu], &r);
	memset(f, 0, sizeof(*f));
	if (env_has_error(vector))
		memcpy(f, e->ram + r.gpr[4], 48);
	else
		memcpy(&f->rip, e->ram + r.gpr[4], 40);
}
