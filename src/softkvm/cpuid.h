/* SPDX-License-Identifier: MIT
 * What CPUID may say: the host's answer cut down to what the engine runs, with
 * what softkvm provides by itself added.
 */
#ifndef BELFRY_SOFTKVM_CPUID_H
#define BELFRY_SOFTKVM_CPUID_H

#include "base/base.h"
#include <linux/kvm.h>

#define CPUID_MAX_ENTRIES 256u
#define CPUID_PHYS_BITS	  36u /* where it does not say */

/* Registers of an entry by number: 0 eax, 1 ebx, 2 ecx, 3 edx. */
uint32_t cpuid_reg(const struct kvm_cpuid_entry2 *e, unsigned reg);

/* Fill entries (room for max); returns how many, or -E2BIG. */
int cpuid_supported(struct kvm_cpuid_entry2 *entries, unsigned max);

/* The bits of XCR0 that a guest may have. */
uint64_t cpuid_xcr0(void);

/* SDM "CPUID—CPU Identification" feature bits the room asks for: leaf, subleaf, register, bit. */
#define CPUID_X2APIC	   1, 0, 2, 21
#define CPUID_TSC_DEADLINE 1, 0, 2, 24
#define CPUID_TSC_ADJUST   7, 0, 1, 1
#define CPUID_LEAF_KVM	   0x40000000u

#endif
