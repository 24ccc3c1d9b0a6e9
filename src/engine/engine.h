/* SPDX-License-Identifier: MIT
 *
 * engine: the CPU. A full-system x86-64 → x86-64 binary translator; docs/ENGINE.md
 * tells how it works. The room's public header.
 *
 * The engine knows nothing of KVM, devices or interrupt controllers. What lies
 * outside of the processor reaches it through struct engine_ops, guest memory
 * through a table of slots.
 *
 * Threads: a vCPU belongs to the thread that calls engine_run(). All other
 * functions on a vCPU are for that thread, or for any thread while the vCPU is
 * not in engine_run(), except the ones marked "any thread".
 */
#ifndef BELFRY_ENGINE_H
#define BELFRY_ENGINE_H

#include "base/base.h"

struct engine_vm;
struct engine_vcpu;

/* ---- guest memory ------------------------------------------------------- */

#define ENGINE_SLOT_RDONLY 1u /* reads are RAM, writes are MMIO (ROM, flash) */

/* One piece of guest-physical memory; gpa and size are multiples of 4096. */
struct engine_slot {
	gpa_t gpa;
	uint64_t size;
	void *host;	 /* readable; writable unless ENGINE_SLOT_RDONLY */
	uint32_t flags;
	uint64_t *dirty; /* NULL, or one bit a page, set (atomically) when the page is written */
	uint32_t id;	 /* the caller's name for it */
};

/* ---- what the outside provides ----------------------------------------- */

/* One access to a port or to a guest-physical address that no slot holds. */
struct engine_access {
	uint64_t addr;
	uint8_t len; /* 1, 2, 4 or 8 (ports: 1, 2, 4) */
	bool write;
	uint64_t data; /* zero-extended */
};

/*
 * Called on the vCPU's own thread, inside engine_run(), with the opaque pointer
 * given to engine_vcpu_create(). All but `ring` may use SIMD and any library; they must
 * not call engine_run() or change the vCPU's registers, except hypercall.
 */
struct engine_ops {
	/* 0: done (reads: a->data filled). 1: leave engine_run() with
	 * ENGINE_EXIT_MMIO / ENGINE_EXIT_IO; the caller completes the access in
	 * engine_exit.access and calls engine_run() again. */
	int (*mmio)(void *cpu, struct engine_access *a);
	int (*io)(void *cpu, struct engine_access *a);
	/*
	 * NULL, or the first try of a write that mmio or io would get (io: which): true if it is
	 * done. For what is called often and only passes a word on: the guest's SIMD state stays in the
	 * processor and the vCPU in the guest, where others wait for it. So it and all that it calls use
	 * general registers only (mk/engine.mk), take no lock and wait for nothing.
	 */
	bool (*ring)(void *cpu, bool io, const struct engine_access *a);
	/* RDMSR and WRMSR at CPL 0, every one. 0: done; 1: #GP(0); 2: leave with ENGINE_EXIT_MSR.
	 * Those that the engine holds are at engine_guest_rdmsr() and engine_guest_wrmsr(). */
	int (*rdmsr)(void *cpu, uint32_t index, uint64_t *value);
	int (*wrmsr)(void *cpu, uint32_t index, uint64_t value);
	/* CPUID as the guest shall see it: out = eax, ebx, ecx, edx. The engine
	 * itself fills in the bits that mirror CR4 (OSXSAVE, OSPKE). */
	void (*cpuid)(void *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
	/* Acknowledge and return the vector (0 to 255) of the next interrupt to
	 * inject, or -1 for none. Called only when the guest can take it, after
	 * ENGINE_KICK_INTR. */
	int (*intr_take)(void *cpu);
	/* Task priority (CR8), 0 to 15. */
	uint64_t (*cr8_read)(void *cpu);
	void (*cr8_write)(void *cpu, uint64_t value);
	/* VMCALL/VMMCALL at CPL 0: nr and four arguments in, result out (RAX).
	 * 0: done; 1: leave with ENGINE_EXIT_HYPERCALL, the result is given by
	 * engine_exit.access.data at re-entry. NULL: VMCALL is #UD. */
	int (*hypercall)(void *cpu, uint64_t nr, const uint64_t args[4], uint64_t *result);
	/* VMCALL on AMD's processors, VMMCALL on others (by the guest's CPUID): true if it becomes the
	 * right one, in memory, and is executed then. NULL or false: #UD. */
	bool (*fixes_hypercall)(void *cpu);
	/* This vCPU set a bit in a slot's dirty bitmap that was clear. Translated code may be in the
	 * middle of a block, the guest's SIMD registers in the processor: touch none of them
	 * (-mgeneral-regs-only), and no more than memory and engine_vcpu_kick(). NULL: nobody asks.
	 * After ENGINE_KICK_EXIT no instruction but the present one writes to a page without a bit. */
	void (*dirtied)(void *cpu, uint32_t id, uint64_t page);
	/* In a signal handler: does the caller's own handler of faults deal with one at this
	 * host address of code? NULL: never. Others on guest memory end engine_run(). */
	bool (*handles_fault)(uint64_t host_rip);
};

/* ---- VM ------------------------------------------------------------------ */

struct engine_config {
	/* MiB for translated code and its tables, of all vCPUs together; 0 = default (44). A few
	 * a vCPU are granted whatever it says. */
	uint32_t code_mib;
};

/* Create a VM. cfg may be NULL. Errors: -ENOMEM. */
int engine_vm_create(const struct engine_config *cfg, struct engine_vm **out, struct err *e) __must_check;

/* All vCPUs must be destroyed before. NULL is allowed. */
void engine_vm_destroy(struct engine_vm *vm);

/*
 * Change the memory map by one slot: the one that begins at *gone leaves it (NULL: none does), *add
 * comes (NULL: none does). *add is copied; the host memory is not and must stay mapped until a later
 * call has returned without it. Any thread but never from inside an op; returns when no vCPU
 * uses the old map. Code that was translated is looked at when its page is fetched again: of the same
 * bytes in the same slot it stays. Errors: -EINVAL (alignment, overlap, wrap), -ENOENT (gone), -ENOMEM.
 */
int engine_vm_change_slot(struct engine_vm *vm, const gpa_t *gone, const struct engine_slot *add,
			  struct err *e) __must_check;

/*
 * Forget that pages of [gpa, gpa+size) may be written without a mark in their
 * dirty bitmap. Call it after clearing the bits and before looking at the
 * memory: each store is then either seen in memory or marked again. Any thread
 * but never from inside an op.
 */
void engine_vm_protect(struct engine_vm *vm, gpa_t gpa, uint64_t size);

/*
 * Somebody else than a vCPU wrote code into [gpa, gpa+size): drop what was
 * translated from it. Optional for memory that the guest maps afresh before it
 * executes it (the engine compares then); needed else. Any thread, not from an op.
 */
void engine_vm_code_changed(struct engine_vm *vm, gpa_t gpa, uint64_t size);

/* ---- vCPU ---------------------------------------------------------------- */

/* Stand before the process's handlers of SIGFPE, SIGSEGV, SIGBUS and SIGILL; what is not the
 * guest's doing is passed on to them. Each engine_vcpu_create() does so; again when the program may
 * have put a handler over ours. Any thread, any number of times. 0 or what sigaction(2) gives. */
int engine_faults_take(void) __must_check;

/* id: below 4096, free choice, only for messages. ops must outlive the vCPU. State is that
 * of RESET (Intel SDM vol. 3, "Processor State After Reset"). Errors: -ENOMEM, -ENOTSUP (the host
 * lacks FSGSBASE or AVX2-level XSAVE). */
int engine_vcpu_create(struct engine_vm *vm, unsigned int id, const struct engine_ops *ops, void *cpu,
		       struct engine_vcpu **out, struct err *e) __must_check;
void engine_vcpu_destroy(struct engine_vcpu *v);

/* INIT or RESET of the processor. init: keep what INIT keeps (FPU, MSRs, TSC). */
void engine_vcpu_reset(struct engine_vcpu *v, bool init);

/* Where a SIPI's vector says: CS:IP is vector << 8:0, and CS begins at vector << 12. All else stays as it is
 * (Intel SDM vol. 3, "MP Initialization Protocol Algorithm for MP Systems"). The vCPU's own thread, between runs. */
void engine_vcpu_sipi(struct engine_vcpu *v, uint8_t vector);

/* Read the guest's CPUID again through ops (after the policy changed). */
void engine_vcpu_cpuid_changed(struct engine_vcpu *v);

enum engine_kick {
	ENGINE_KICK_INTR = 1, /* ask intr_take when the guest can take an interrupt */
	ENGINE_KICK_EXIT = 2, /* leave engine_run() with ENGINE_EXIT_INTR */
	ENGINE_KICK_NMI = 4,  /* take the NMIs that were queued */
};

/*
 * Make a vCPU look now: it sees it at the next block edge. Any thread, also a
 * signal handler on the vCPU's own thread; takes no lock, costs one atomic
 * operation. A kick posted while the vCPU is outside of engine_run() is seen at
 * the next entry.
 */
void engine_vcpu_kick(struct engine_vcpu *v, enum engine_kick what);

/*
 * One NMI more; two can wait, more are merged (SDM vol. 3, "Nonmaskable Interrupt (NMI)"). It
 * is taken at the next ENGINE_KICK_NMI, engine_get_events() or engine_set_events(), which
 * discards it. Any thread; takes no lock.
 */
void engine_vcpu_queue_nmi(struct engine_vcpu *v);

/* Take back a pending ENGINE_KICK_EXIT. */
void engine_vcpu_unkick(struct engine_vcpu *v, enum engine_kick what);

enum engine_exit_reason {
	ENGINE_EXIT_INTR,	/* ENGINE_KICK_EXIT */
	ENGINE_EXIT_IO,		/* access: fill data for reads, then engine_run() */
	ENGINE_EXIT_MMIO,	/* the same */
	ENGINE_EXIT_HLT,	/* RIP is after HLT */
	ENGINE_EXIT_SHUTDOWN,	/* triple fault */
	ENGINE_EXIT_DEBUG,	/* engine_set_debug: single-step or breakpoint */
	ENGINE_EXIT_HYPERCALL,
	ENGINE_EXIT_MSR,	/* access: addr = index; at re-entry data and failed are the answer */
	ENGINE_EXIT_WINDOW,	/* engine_request_window: an interrupt can be taken now */
	ENGINE_EXIT_NO_CODE,	/* RIP is in no RAM: see text */
	ENGINE_EXIT_INTERNAL,	/* the host's memory of a slot cannot be touched (protected, or of a file
				 * cut short): see text. RIP is near the instruction, not always at it. */
};

struct engine_exit {
	enum engine_exit_reason reason;
	struct engine_access access;	/* IO, MMIO, HYPERCALL (addr = nr, data = result), MSR */
	bool failed;			/* MSR, set by the caller: #GP(0) */
	uint32_t units;			/* IO: as many accesses of that length, one after the other */
	/* IO reads with units > 1, set by the caller: the data of all of them (the first is in access
	 * too). NULL: there is the first only, the others are asked for again. */
	const void *more;
	uint64_t args[4];		/* HYPERCALL */
	uint64_t rip;			/* DEBUG: linear address */
	uint64_t dr6, dr7;		/* DEBUG: as the processor would report, without the guest's DR6 */
	uint8_t vector;			/* DEBUG: 1 or 3 */
	char text[128];			/* INTERNAL, SHUTDOWN: reason */
};

/*
 * Run the guest until something happens that the caller must see. The calling
 * thread's GS base is restored before the return, its signal mask is untouched.
 * x must be the same object at re-entry after IO, MMIO, HYPERCALL and MSR: the
 * access's data is taken from it. Returns 0, or -EFAULT with INTERNAL.
 */
int engine_run(struct engine_vcpu *v, struct engine_exit *x);

/* Leave with ENGINE_EXIT_WINDOW as soon as IF = 1 and no shadow holds (once). */
void engine_request_window(struct engine_vcpu *v, bool on);

/* True if an external interrupt could be injected now (IF, shadow, no event in delivery),
 * or as soon as the access in flight is finished. */
bool engine_can_inject(const struct engine_vcpu *v);

/* ---- state: what KVM_GET/SET_* need -------------------------------------- */

struct engine_regs {
	uint64_t gpr[16]; /* in encoding order: rax rcx rdx rbx rsp rbp rsi rdi r8… */
	uint64_t rip, rflags;
};

struct engine_segment {
	uint64_t base;
	uint32_t limit; /* in bytes */
	uint16_t selector;
	uint8_t type, s, dpl, present, avl, l, db, g, unusable;
};

struct engine_dtable {
	uint64_t base;
	uint16_t limit;
};

struct engine_sregs {
	struct engine_segment seg[6]; /* es cs ss ds fs gs */
	struct engine_segment ldt, tr;
	struct engine_dtable gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, efer;
	/* PAE paging's page-directory pointers. get: there are some; set: these, not those in memory. */
	bool has_pdptes;
	uint64_t pdpte[4];
};

struct engine_events {
	struct {
		uint8_t injected, nr, has_error_code;
		uint32_t error_code;
	} exception;
	struct {
		uint8_t injected, nr, soft, shadow; /* shadow: 1 STI, 2 MOV SS */
	} interrupt;
	struct {
		uint8_t injected, pending, masked; /* pending: how many, 0 to 2 */
	} nmi;
};

struct engine_debugregs {
	uint64_t db[4], dr6, dr7;
};

void engine_get_regs(const struct engine_vcpu *v, struct engine_regs *r);
/* Between an IO or MMIO exit and re-entry: with another RIP the access is given up, with the same it goes on. */
void engine_set_regs(struct engine_vcpu *v, const struct engine_regs *r);
void engine_get_sregs(const struct engine_vcpu *v, struct engine_sregs *s);
/* -EINVAL for combinations that no processor can be in (PG without PE, …), and for bits of CR4 that CPUID
 * does not have. */
int engine_check_sregs(struct engine_vcpu *v, const struct engine_sregs *s) __must_check;
/* Errors: as engine_check_sregs(). */
int engine_set_sregs(struct engine_vcpu *v, const struct engine_sregs *s) __must_check;
/* CR2 alone: nothing else depends on it, so no combination is refused. */
void engine_set_cr2(struct engine_vcpu *v, uint64_t cr2);
/* The bits of CR4 that a guest may set whose CPUID answers as `ask` does (the op cpuid's form). */
uint64_t engine_cr4_bits(void (*ask)(void *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]), void *cpu);
void engine_get_events(struct engine_vcpu *v, struct engine_events *ev);
int engine_set_events(struct engine_vcpu *v, const struct engine_events *ev) __must_check;
void engine_get_debugregs(const struct engine_vcpu *v, struct engine_debugregs *d);
int engine_set_debugregs(struct engine_vcpu *v, const struct engine_debugregs *d) __must_check;

/* MSRs that the engine holds (EFER, STAR, FS_BASE, TSC, …). -ENOENT: not one of these; -EINVAL: bad
 * value. */
int engine_get_msr(const struct engine_vcpu *v, uint32_t index, uint64_t *value);
int engine_set_msr(struct engine_vcpu *v, uint32_t index, uint64_t value);
/* The same with what a guest's instruction may do; only from inside the ops rdmsr and wrmsr. */
int engine_guest_rdmsr(struct engine_vcpu *v, uint32_t index, uint64_t *value);
int engine_guest_wrmsr(struct engine_vcpu *v, uint32_t index, uint64_t value);

#define ENGINE_XSAVE_SIZE 4096
/*
 * FPU state as an XSAVE image in the standard (non-compacted) format, laid out as the host's CPUID 0Dh
 * says: what is in engine_xcr0_max(). get fills all ENGINE_XSAVE_SIZE bytes; set: -EINVAL for components
 * that are not carried and for reserved bits.
 */
void engine_get_xsave(struct engine_vcpu *v, void *image /* ENGINE_XSAVE_SIZE */);
int engine_set_xsave(struct engine_vcpu *v, const void *image) __must_check;
/* The components that the engine can carry on this host. */
uint64_t engine_xcr0_max(void);
/* The size of the image with the components in xcr0, or of the compacted one. v: NULL is slower. */
unsigned int engine_xsave_size(const struct engine_vcpu *v, uint64_t xcr0, bool compact);
uint64_t engine_get_xcr0(const struct engine_vcpu *v);
int engine_set_xcr0(struct engine_vcpu *v, uint64_t value) __must_check;

/*
 * guest TSC = scaled host TSC + offset; scaled: times ratio / ENGINE_TSC_ONE, rounded down. A new vCPU has
 * ENGINE_TSC_ONE, with which the guest's RDTSC is the host's own; with another ratio C executes it.
 */
#define ENGINE_TSC_ONE (1ull << 48)
void engine_set_tsc_offset(struct engine_vcpu *v, uint64_t offset);
uint64_t engine_get_tsc_offset(const struct engine_vcpu *v);
void engine_set_tsc_ratio(struct engine_vcpu *v, uint64_t ratio);
uint64_t engine_tsc_scaled(const struct engine_vcpu *v, uint64_t host);

/* Guest-virtual → guest-physical with the vCPU's present paging, no side effects.
 * -EFAULT: not mapped. */
int engine_translate(struct engine_vcpu *v, gva_t gva, gpa_t *gpa, bool *writable, bool *user);

#define ENGINE_DEBUG_STEP 1u /* ENGINE_EXIT_DEBUG after each instruction */
#define ENGINE_DEBUG_BP	  2u /* INT3 exits instead of raising #BP */
#define ENGINE_DEBUG_ONE  4u /* run each instruction in a block of its own (tests) */
#define ENGINE_DEBUG_SLOW 8u /* run each instruction through the bounce executor (tests) */
#define ENGINE_DEBUG_HWBP 16u /* engine_set_breakpoints() counts, the guest's DR0-3 and DR7 do not */
#define ENGINE_DEBUG_NOIRQ 32u /* no interrupt and no NMI is taken */
/* With STEP or HWBP every debug exception exits instead of reaching the guest. */
void engine_set_debug(struct engine_vcpu *v, uint32_t flags);
/* The debugger's breakpoints: addresses, and DR7 with the bits that the guest's would have. */
void engine_set_breakpoints(struct engine_vcpu *v, const uint64_t address[4], uint64_t dr7);

/* ---- figures -------------------------------------------------------------- */

struct engine_stats {
	uint64_t blocks;	/* translated */
	uint64_t insns;		/* translated */
	uint64_t code_bytes;	/* emitted */
	uint64_t code_held;	/* of the memory for it, bytes taken now */
	uint64_t translate_ns;
	uint64_t flushes;	/* whole code cache */
	uint64_t evictions;	/* of the oldest part of it, to make room */
	uint64_t dropped;	/* blocks dropped for writes to their page */
	uint64_t exits;		/* from translated code to C, all kinds */
	uint64_t bounced;	/* instructions run by the bounce executor */
	uint64_t tlb_fills;
	uint64_t tlb_flushes;
	uint64_t faults;	/* exceptions delivered */
	uint64_t interrupts;	/* external, delivered */
	uint64_t yields;	/* of the host's CPU, for the guest spins */
};

void engine_get_stats(const struct engine_vcpu *v, struct engine_stats *s);

#endif
