/* SPDX-License-Identifier: MIT
 * A few bytes of real-mode guest in a side's memory: at 1000h, in one slot at 0.
 */
#ifndef BELFRY_TESTS_PAIR_GUEST_H
#define BELFRY_TESTS_PAIR_GUEST_H

#include "kvm_pair.h"

#define CODE 0x1000u

/* All of s->mem in slot 0 at address 0. */
void map_memory(struct side *s, uint32_t flags);
/* Put code at CODE and vCPU 0 there: flat real mode, stack below 8000h. */
void load(struct side *s, const void *code, size_t len, uint64_t rflags);

#define LOAD(s, rflags, ...) \
	do { \
		static const uint8_t code_[] = { __VA_ARGS__ }; \
		load(s, code_, sizeof(code_), rflags); \
	} while (0)

/* Real-mode interrupt vector → a handler that writes al to port 90h, EOIs nothing, returns. */
void set_vector(struct side *s, unsigned vector, uint16_t at);
void say_regs(struct side *s);
/* One MSR by KVM_GET_MSRS, KVM_SET_MSRS. 1: done. 0: there is no such MSR, or it does not take that. */
int side_get_msr(struct side *s, unsigned vcpu, uint32_t index, uint64_t *value);
int side_set_msr(struct side *s, unsigned vcpu, uint32_t index, uint64_t value);
/* By the guest's WRMSR on vCPU 0, with code at CODE. */
void write_msr_in_guest(struct side *s, uint32_t index, uint64_t value);
/*
 * One KVM_RUN; a port access of several units is told unit by unit, an access to an
 * MSR is answered with its index + 1. 0: go on.
 */
int run_once(struct side *s);
/* Until something else than an access to the outside comes, then the registers. */
void run_to_end(struct side *s);

#endif
