/* SPDX-License-Identifier: MIT
 *
 * A small bare-metal machine around the engine, for its tests: RAM, page tables,
 * GDT, IDT, TSS, and ops that record what the guest does to the outside.
 */
#ifndef TESTS_ENGINE_ENV_H
#define TESTS_ENGINE_ENV_H

#include "engine/engine.h"

#include <pthread.h>

#define ENV_RAM	    (16u << 20)
#define ENV_PT	    0x100000u /* page tables are allocated from here */
#define ENV_GDT	    0x1000u
#define ENV_IDT	    0x2000u
#define ENV_TSS	    0x3000u
#define ENV_HANDLER 0x4000u /* handler of vector n: INT3 at ENV_HANDLER + n */
#define ENV_KSTACK  0x8000u /* top */
#define ENV_IST1    0xa000u /* top */

#define SEL_KCODE 0x08
#define SEL_KDATA 0x10
#define SEL_UCODE32 0x1b
#define SEL_UDATA 0x23
#define SEL_UCODE 0x2b
#define SEL_TSS	  0x30
#define SEL_KCODE32 0x40
#define SEL_CODE16 0x48
#define SEL_DATA16 0x50

#define PTE_P_	1ull
#define PTE_W_	2ull
#define PTE_U_	4ull
#define PTE_A_	0x20ull
#define PTE_D_	0x40ull
#define PTE_PS_ 0x80ull
#define PTE_G_	0x100ull
#define PTE_NX_ (1ull << 63)

struct env_io {
	struct engine_access a[64];
	unsigned int n;
	uint64_t read_value;
	int exits; /* return 1: complete outside */
};

struct env {
	struct engine_vm *vm;
	struct engine_vcpu *cpu[4];
	void *handle[4];
	unsigned int n_cpu;
	uint8_t *ram;
	uint64_t pt_next;
	struct env_io io, mmio;
	void (*on_mmio)(struct env *e); /* NULL, or called before an access to MMIO is answered */
	_Atomic int vector[4]; /* next interrupt per vCPU, -1 none */
	uint64_t cr8;
	uint64_t hyper_nr;
	bool keep_hypercalls; /* the other vendor's are #UD */
	uint32_t cpuid_hide7b; /* bits of leaf 7 EBX to hide */
	uint32_t cpuid_hide81c; /* and of 80000001h ECX */
	uint32_t cpuid_hide1d;	/* and of 1 EDX */
	uint32_t phys_bits;	/* MAXPHYADDR, 0: the host's */
	int intel;		/* vendor: 1 Intel, -1 AMD, 0 the host's */
};

/* n_cpu vCPUs in 64-bit mode at CPL 0 with the tables above; low 2 MiB mapped 1:1 for the kernel. */
struct env *env_create(unsigned int n_cpu);
/* The same with so many MiB for translated code (0: as many as ever). */
struct env *env_create_small(unsigned int n_cpu, uint32_t code_mib);
void env_destroy(struct env *e);
/* Map one 4 KiB page in the page tables of env_create. */
void env_map(struct env *e, uint64_t va, uint64_t pa, uint64_t flags);
uint64_t *env_pte(struct env *e, uint64_t va);
/* Put all vCPU state as env_create made it; cpl 0 or 3; rip and rsp as given. */
void env_start(struct env *e, unsigned int cpu, unsigned int cpl, uint64_t rip, uint64_t rsp);
/* Run until an exit that is not an access handled by ops; returns the vector if the guest reached
 * an exception handler's INT3, 256 for another INT3, -reason - 1 for another exit. */
int env_run(struct env *e, unsigned int cpu, struct engine_exit *x);
/* The same, but goes on behind exits for debugging. */
int env_run_through(struct env *e, unsigned int cpu);
/* env_run() of a vCPU on a thread of its own: env_run_thread() is for pthread_create(). */
struct env_runner {
	struct env *e;
	unsigned int cpu;
	pthread_t thread; /* the user's */
	int result;	  /* of env_run() */
};
void *env_run_thread(void *runner);
/* The ways of execution, for engine_set_debug(), which must agree: as ever, ONE, SLOW. */
#define ENV_WAYS 3
extern const uint32_t env_ways[ENV_WAYS];
/* The frame that the last exception pushed (64-bit). */
struct env_frame {
	uint64_t error, rip, cs, rflags, rsp, ss;
};
void env_frame(struct env *e, unsigned int cpu, int vector, struct env_frame *f);
bool env_has_error(int vector);

#endif
