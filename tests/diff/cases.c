/* SPDX-License-Identifier: MIT
 * Sequences that once differed, shrunk, as apidiff printed them: they may not again.
 */
#include "diff.h"

#define CASE(text, ...)                                                       \
	{                                                                     \
		text, (const struct op[]){ __VA_ARGS__ },                     \
			sizeof((const struct op[]){ __VA_ARGS__ }) / sizeof(struct op) \
	}
#define VCPU   { &op_create_vcpu, { 0 } }
#define VCPU_1 { &op_create_vcpu, { 0, 1 } }
#define CHIPS  { &op_create_irqchip, { 0 } }
#define MEMORY { &op_slot, { 0, 0, 0, 0, 0x8000 } }

/* clang-format off */
const struct diff_case diff_cases[] = {
	CASE("the s390 flag of an ioeventfd", { &op_ioeventfd, { 0, 0, 0, 1, 0, 8 } }),
	CASE("a datamatch that is wider than the write", VCPU, MEMORY,
	     { &op_ioeventfd, { 0, 0, 0, 4, 0x400000000, 3 } }, { &op_guest, { 0, 0, 0, 0x30031 } }),
	CASE("SMM's flag of the events", VCPU),
	CASE("NMIs in the events", VCPU, { &op_nmi, { 0 } }, { &op_nmi, { 0 } }),
	CASE("two NMIs before the first run", VCPU, MEMORY, { &op_nmi, { 0 } }, { &op_nmi, { 0 } }, { &op_guest, { 0 } }),
	CASE("software exceptions come again by themselves", VCPU, { &op_events, { 0, 0, 0, 9 } }),
	CASE("an interrupt by the sregs, then by the events", CHIPS, VCPU, { &op_sregs, { 0, 0, 0x50 } },
	     { &op_events, { 0, 0, 1 } }),
	CASE("an interrupt by the events, then by the sregs", CHIPS, VCPU, { &op_events, { 0, 0, 1, 1 } },
	     { &op_sregs, { 0, 0, 0x50, 1 } }),
	CASE("the vCPU limit is final with the first vCPU", VCPU, { &op_enable_cap, { 0, KVM_CAP_MAX_VCPU_ID } }),
	CASE("the vCPU limit that CHECK_EXTENSION tells is KVM's", { &op_enable_cap, { 0, KVM_CAP_MAX_VCPU_ID, 1 } },
	     { &op_check_cap, { 0, 0, KVM_CAP_MAX_VCPU_ID } }),
	CASE("the boot CPU's id has a limit", { &op_vm_value, { 0, 0, 0x1001 } }),
	CASE("the identity map's address after a vCPU, from nowhere", VCPU, { &op_vm_value, { 0, 2, 0, 1 } }),
	CASE("reinjection's argument from nowhere", { &op_bad_call, { 0, 0, 1, 0x3b } }),
	CASE("more arguments than the manual dirty log has", { &op_enable_cap, { 0, 0xa8, 0, 0, 0, 1 } }),
	CASE("KVM_SET_LAPIC from nowhere without one", VCPU, { &op_bad_call, { 0, 0, 2, 0x22 } }),
	CASE("KVM_TRANSLATE without paging", VCPU, { &op_translate, { 0, 0, 0x20000000000000 } }),
	CASE("a PV kick before the halt", CHIPS, VCPU, { &op_msi, { 0, 0, 0x8300 } }, { &op_mp_state, { 0, 0, 3 } }),
	CASE("a PV kick before it was made to run", CHIPS, VCPU, MEMORY, { &op_msi, { 0, 0, 0x300 } }, { &op_guest, { 0 } },
	     { &op_mp_state, { 0, 0, 9 } }),
	CASE("the PICs are looked at whichever chip is set", CHIPS, { &op_pic_set, { 0, 0, 0, 0x9c } },
	     { &op_line, { 0, 8, 1 } }, { &op_ioapic_set, { 0 } }),
	CASE("and once each time", CHIPS, { &op_pic_set, { 0, 0, 0, 0x74 } }, { &op_pic_set, { 0, 1, 1, 1 } }),
	CASE("and if there is no such chip", CHIPS, { &op_pic_set, { 0, 0, 0, 0xcc } }, { &op_line, { 0, 8, 1 } },
	     { &op_pic_set, { 0, 3 } }),
	CASE("a resampler that is refused lowers its line", CHIPS, { &op_pic_set, { 0, 1, 0, 1 } },
	     { &op_irqfd, { 0, 5 } }, { &op_irqfd, { 0, 5, 8, 2 } }),
	CASE("irqfds go with their VM's fd", CHIPS, VCPU, { &op_create_vm, { 0 } }, { &op_irqfd, { 0, 5 } }, { &op_close_vm, { 0 } },
	     { &op_create_irqchip, { 1 } }, { &op_irqfd, { 1, 5 } }),
	CASE("a message to nobody after KVM_CAP_X2APIC_API", CHIPS, { &op_enable_cap, { 0, KVM_CAP_X2APIC_API } },
	     { &op_msi, { 0 } }),
	CASE("a local APIC that owes the RTC's pin an EOI", CHIPS, VCPU, { &op_lapic_set, { 0, 0, 0x200, 1 } },
	     { &op_line, { 0, 8, 1 } }),
	CASE("a posted vector is owed to the RTC's pin, too", CHIPS, VCPU, { &op_ioapic_set, { 0, 0, 0, 0, 1, 1 } },
	     { &op_line, { 0, 8, 1 } }),
	CASE("the broadcast quirk switched off late", { &op_split, { 0 } }, VCPU, { &op_enable_cap, { 0, KVM_CAP_X2APIC_API, 3 } },
	     { &op_msi, { 0, 0xff000, 0, 0xffffff00 } }),
	CASE("two CPUs of one APIC ID, then KVM_CAP_X2APIC_API", CHIPS, VCPU, MEMORY, VCPU_1,
	     { &op_guest, { 0x10, 0x126 } }, { &op_enable_cap, { 0, KVM_CAP_X2APIC_API, 1 } }, { &op_msi, { 0 } }),
	CASE("and then a third that has one's ID", CHIPS, VCPU, VCPU_1, { &op_lapic_set, { 0, 1, 0x20 } },
	     { &op_enable_cap, { 0, KVM_CAP_X2APIC_API, 1 } }, VCPU, { &op_msi, { 0 } }),
	CASE("a SIPI where EFER does not go with CR0", { &op_split, { 0 } }, VCPU, MEMORY, { &op_guest, { 0 } },
	     { &op_msr, { 0, 0, 0xc0000080, 0, 1, 1 } }, { &op_mp_state, { 0, 0, 4 } }),
	CASE("AP_RESET_HOLD", CHIPS, VCPU, { &op_mp_state, { 0, 0, 9 } }),
	/* special registers */
	CASE("a CR3 that is too wide for long mode", VCPU, { &op_sregs, { 0, 0, 0x28, 0x800000000000 } },
	     { &op_sregs, { 0, 0, 0x58 } }),
	CASE("a bit of CR4 that there is not", VCPU, { &op_sregs, { 0, 0, 8, 0x40000000 } }),
	CASE("a 64-bit code segment outside of long mode", VCPU, MEMORY, { &op_guest, { 0 } }, { &op_sregs, { 0, 0, 0x10 } }),
	CASE("a CR8 that there is not", VCPU, { &op_sregs, { 0, 0, 0x20, 0x11 } }),
	CASE("a refused KVM_SET_SREGS leaves the local APIC", CHIPS, VCPU, VCPU_1, MEMORY, { &op_guest, { 0x10 } },
	     { &op_sregs, { 0, 1, 0x18, 0xc00 } }),
	CASE("who is the BSP at the reset vector", CHIPS, VCPU_1, { &op_sregs, { 0, 0, 0x18, 0xd00 } }),
	CASE("a trap flag that user space's steps take", VCPU, { &op_regs, { 0, 0, 0x11, 0x100 } },
	     { &op_guest_debug, { 0, 0, 3 } }),
	CASE("new registers drop an exception that is pending", VCPU, MEMORY, { &op_enable_cap, { 0, 0xa4, 1 } },
	     { &op_events, { 0, 0, 8, 1 } }, { &op_guest, { 0 } }),
	CASE("an old payload and the guest's own #GP", VCPU, MEMORY, { &op_enable_cap, { 0, 0xa4, 1 } },
	     { &op_events, { 0, 0, 8, 1 } }, { &op_guest, { 0, 0x418 } }),
	CASE("DR7 as it was set", VCPU, { &op_debugregs, { 0, 0, 5 } }, { &op_debugregs, { 0 } }),
	/* MSRs */
	CASE("the P5's machine check", VCPU, { &op_msr, { 0, 0, 0, 0, 0, 1 } }),
	CASE("counters that count nothing", VCPU, { &op_msr, { 0, 0, 0x186, 1, 1, 1 } }),
	CASE("TSC_ADJUST without the feature", VCPU, { &op_msr, { 0, 0, 0x3b, 1, 1, 1 } }),
	CASE("reserved bits of an MTRR", VCPU, { &op_msr, { 0, 0, 0x200, 0x400, 1, 1 } }),
	CASE("an address's width where no leaf says that the leaf is there", VCPU, { &op_cpuid, { 0, 0, 2, 0x30 } },
	     { &op_msr, { 0, 0, 0x200, 0x400000000000, 1, 1 } }),
	CASE("memory types that there are not", VCPU, { &op_msr, { 0, 0, 0x250, 0x8000, 1, 1 } }),
	CASE("MTRRcap is read only", VCPU, { &op_msr, { 0, 0, 0xfe, 0, 1, 1 } }),
	CASE("SFMASK's upper half", VCPU, { &op_msr, { 0, 0, 0xc0000084, 0x400000000000, 1, 1 } }),
	CASE("EFER.LMA is not written", VCPU, { &op_msr, { 0, 0, 0xc0000080, 0x400, 1, 1 } }),
	CASE("a SYSENTER_ESP that is not canonical", VCPU, { &op_msr, { 0, 0, 0x175, 0x8000000000000000, 1, 1 } }),
	CASE("PV EOI where there is no memory", VCPU, { &op_msr, { 0, 0, 0x4b564d04, 1, 1, 1 } }),
	CASE("PV EOI in read-only memory", VCPU, { &op_slot, { 0, 0, 2, 0x8000, 0x4000 } },
	     { &op_msr, { 0, 0, 0x4b564d04, 0x9001, 1, 1 } }),
	CASE("PLATFORM_INFO after the first run", VCPU, MEMORY, { &op_guest, { 0 } }, { &op_msr, { 0, 0, 0xce, 0, 1, 1 } }),
	CASE("the filter and MSRs of the processor itself", VCPU, MEMORY, { &op_filter, { 0, 1, 1, 0, 1 } },
	     { &op_guest, { 0, 0, 0x628 } }),
	/* INIT */
	CASE("EDX after INIT", CHIPS, VCPU, { &op_msi, { 0, 0, 0x8500 } }),
	CASE("INIT forgets what was posted", CHIPS, VCPU, { &op_msi, { 0, 0, 0x8500 } }, { &op_msi, { 0 } },
	     { &op_mp_state, { 0 } }),
	CASE("LINT0 after INIT, its quirk switched off late", CHIPS, VCPU, MEMORY, { &op_enable_cap, { 0, 0xd5, 1 } },
	     { &op_line, { 0, 0, 1 } }, { &op_msi, { 0, 0, 0x4500 } }, { &op_guest, { 0 } },
	     { &op_guest, { 0, 0, 0, 0, 0x35 } }),
	CASE("code where there is no memory", { &op_split, { 0 } }, VCPU, MEMORY, { &op_msi, { 0, 0, 0x8500 } },
	     { &op_guest, { 0 } }),
	/* accesses */
	CASE("a read across the end of a page of MMIO", VCPU, MEMORY, { &op_guest, { 0, 0, 0x100100ffe34 } }),
	CASE("read, change and write in read-only memory", MEMORY, VCPU, { &op_slot, { 0, 1, 2, 0x14000, 0x6000 } },
	     { &op_guest, { 0, 0, 0, 0, 0xb9c8fc000187e53b } }),
};

const unsigned nr_diff_cases = ARRAY_SIZE(diff_cases);
