/* SPDX-License-Identifier: MIT
 *
 * Guest programs for the engine's bare-metal tests, and short ways to set state.
 */
#ifndef TESTS_ENGINE_SNIPPET_H
#define TESTS_ENGINE_SNIPPET_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "engine_env.h"

#define LOAD 0x10000u /* where snippets go */

/* A guest program, assembled here, run there: position-independent or org LOAD. */
#define SNIPPET(name, text)                                                                      \
	__asm__(".pushsection .rodata\n.globl sn_" #name ", sn_" #name "_end\nsn_" #name ":\n" text \
		"\nsn_" #name "_end:\n.code64\n.popsection\n");                                     \
	extern const uint8_t sn_##name[], sn_##name##_end[]

static inline void put(struct env *e, uint64_t gpa, const uint8_t *from, const uint8_t *to)
{
	memcpy(e->ram + gpa, from, (size_t)(to - from));
	engine_vm_code_changed(e->vm, gpa, (uint64_t)(to - from));
}
#define PUT(e, gpa, name) put(e, gpa, sn_##name, sn_##name##_end)

static inline struct engine_regs regs(struct env *e)
{
	struct engine_regs r;

	engine_get_regs(e->cpu[0], &r);
	return r;
}

static inline void set_gpr(struct env *e, unsigned int cpu, unsigned int g, uint64_t val)
{
	struct engine_regs r;

	engine_get_regs(e->cpu[cpu], &r);
	r.gpr[g] = val;
	engine_set_regs(e->cpu[cpu], &r);
}

static inline void set_rip(struct env *e, uint64_t rip)
{
	struct engine_regs r = regs(e);

	r.rip = rip;
	engine_set_regs(e->cpu[0], &r);
}

static inline void set_flags(struct env *e, unsigned int cpu, uint64_t f)
{
	struct engine_regs r;

	engine_get_regs(e->cpu[cpu], &r);
	r.rflags = f;
	engine_set_regs(e->cpu[cpu], &r);
}

static inline void set_cr4(struct env *e, uint64_t set, uint64_t clear)
{
	struct engine_sregs s;

	engine_get_sregs(e->cpu[0], &s);
	s.cr4 = (s.cr4 | set) & ~clear;
	assert_int_equal(engine_set_sregs(e->cpu[0], &s), 0);
}

static inline void set_idt(struct env *e, unsigned int vec, uint64_t addr, unsigned int ist, unsigned int dpl)
{
	uint64_t *idt = (uint64_t *)(e->ram + ENV_IDT);

	idt[2 * vec] = (addr & 0xffff) | (uint64_t)SEL_KCODE << 16 | (uint64_t)(0x8e00 | dpl << 13 | ist) << 32 |
		       (addr >> 16 & 0xffff) << 48;
	idt[2 * vec + 1] = addr >> 32;
}

#define VA 0x40000000ull
#define PA 0x600000u

#endif
