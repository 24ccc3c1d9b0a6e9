/* SPDX-License-Identifier: MIT
 *
 * engine: what its files share. All of the room is compiled for general
 * registers only (mk/engine.mk), because the guest's SIMD and x87 state stays
 * in the processor between translated blocks; call fpu_put() before calling
 * anything outside of the room (libc included).
 */
#ifndef BELFRY_ENGINE_PRIV_H
#define BELFRY_ENGINE_PRIV_H

#include <stdatomic.h>
#include "engine/engine.h"

/* ---- architectural constants (Intel SDM vol. 3, "System Architecture Overview") ---- */

enum { R_AX, R_CX, R_DX, R_BX, R_SP, R_BP, R_SI, R_DI, R_8, R_9, R_10, R_11, R_12, R_13, R_14, R_15 };
enum { S_ES, S_CS, S_SS, S_DS, S_FS, S_GS, S_LDT, S_TR, S_COUNT };

#define FL_CF	(1u << 0)
#define FL_PF	(1u << 2)
#define FL_AF	(1u << 4)
#define FL_ZF	(1u << 6)
#define FL_SF	(1u << 7)
#define FL_TF	(1u << 8)
#define FL_IF	(1u << 9)
#define FL_DF	(1u << 10)
#define FL_OF	(1u << 11)
#define FL_IOPL (3u << 12)
#define FL_NT	(1u << 14)
#define FL_RF	(1u << 16)
#define FL_VM	(1u << 17)
#define FL_AC	(1u << 18)
#define FL_VIF	(1u << 19)
#define FL_VIP	(1u << 20)
#define FL_ID	(1u << 21)
#define FL_ARITH (FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF)
/* what lives in vflags; IF and DF have bytes of their own */
#define FL_VIRT (FL_TF | FL_IOPL | FL_NT | FL_RF | FL_VM | FL_AC | FL_VIF | FL_VIP | FL_ID)

#define CR0_PE (1ull << 0)
#define CR0_MP (1ull << 1)
#define CR0_EM (1ull << 2)
#define CR0_TS (1ull << 3)
#define CR0_ET (1ull << 4)
#define CR0_NE (1ull << 5)
#define CR0_WP (1ull << 16)
#define CR0_AM (1ull << 18)
#define CR0_NW (1ull << 29)
#define CR0_CD (1ull << 30)
#define CR0_PG (1ull << 31)

#define CR3_PCID 0xfffull

#define CR4_VME	       (1ull << 0)
#define CR4_PVI	       (1ull << 1)
#define CR4_TSD	       (1ull << 2)
#define CR4_DE	       (1ull << 3)
#define CR4_PSE	       (1ull << 4)
#define CR4_PAE	       (1ull << 5)
#define CR4_MCE	       (1ull << 6)
#define CR4_PGE	       (1ull << 7)
#define CR4_PCE	       (1ull << 8)
#define CR4_OSFXSR     (1ull << 9)
#define CR4_OSXMMEXCPT (1ull << 10)
#define CR4_UMIP       (1ull << 11)
#define CR4_FSGSBASE   (1ull << 16)
#define CR4_PCIDE      (1ull << 17)
#define CR4_OSXSAVE    (1ull << 18)
#define CR4_SMEP       (1ull << 20)
#define CR4_SMAP       (1ull << 21)
#define CR4_KNOWN      (0xfffull | CR4_FSGSBASE | CR4_PCIDE | CR4_OSXSAVE | CR4_SMEP | CR4_SMAP)

#define XCR0_AVX    (1ull << 2)
#define XCR0_AVX512 (7ull << 5) /* opmasks, upper halves of ZMM0-15, ZMM16-31 */

#define EFER_SCE (1ull << 0)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define EFER_NXE (1ull << 11)

enum {
	V_DE = 0, V_DB = 1, V_NMI = 2, V_BP = 3, V_OF = 4, V_BR = 5, V_UD = 6, V_NM = 7, V_DF = 8,
	V_TS = 10, V_NP = 11, V_SS = 12, V_GP = 13, V_PF = 14, V_MF = 16, V_AC = 17, V_XM = 19,
};

/* page-fault error code */
#define PF_P (1u << 0)
#define PF_W (1u << 1)
#define PF_U (1u << 2)
#define PF_R (1u << 3)
#define PF_I (1u << 4)

#define PAGE_SIZE_ 4096ull
#define PAGE_MASK_ (~4095ull)

/* ---- TLB (docs/ENGINE.md, "TLB") ---- */

/* Which privilege a data access is checked with; also picks the table. */
enum tlb_mode { TM_SUP, TM_SUP_AC, TM_USER, TM_COUNT };
enum { TLB_R, TLB_W };

#define TLB_WAY_BITS 9
#define TLB_WAY	   (1u << TLB_WAY_BITS) /* entries of a class */
#define TLB_CLASSES 4u /* by base register: arrays walked together do not evict each other */
#define TLB_CLASS_SI 2u
#define TLB_CLASS_DI 3u
#define TLB_SIZE   (TLB_WAY * TLB_CLASSES)
#define ITLB_BITS  10
#define ITLB_SIZE  (1u << ITLB_BITS)
#define GROUP_MAX  32u	/* in a block */
#define DEVICE_PAGES 8u
#define TLB_NOTAG  (1ull << 63) /* no page number of 52 sign-extended bits looks so */
#define RECENT_NONE (1ull << 63) /* not canonical, on the host neither */
#define JC_SIZE	   65536u

/* The page of a linear address: its number, sign-extended. */
static inline uint64_t page_tag(uint64_t lin)
{
	return (uint64_t)((int64_t)lin >> 12);
}

struct tlb_entry {
	uint64_t tag;	 /* page_tag() */
	uint64_t addend; /* host address - gva */
};

struct code_page;
struct block;

struct itlb_entry {
	uint64_t tag;
	gpa_t gpa;
	const uint8_t *host; /* NULL: not RAM */
};

/* All entries of all tables, numbered: those for data first, those for fetches after them. */
#define TLB_DATA (TM_COUNT * 2 * TLB_SIZE)
#define TLB_ALL	 (TLB_DATA + TM_COUNT * ITLB_SIZE)
struct tlb_saved; /* pcid.c */

/* ---- mode bits: part of a block's key ---- */
#define MODE_CPL      3u	/* current privilege level */
#define MODE_AC	      (1u << 2) /* supervisor data accesses are not checked by SMAP */
#define MODE_X87      (1u << 3) /* x87/MMX run (no EM, no TS) */
#define MODE_SSE      (1u << 4) /* SSE runs (OSFXSR, no EM, no TS) */
#define MODE_AVX      (1u << 5) /* AVX runs */
#define MODE_IOPL     (1u << 6) /* CPL <= IOPL */
#define MODE_TSC      (1u << 7) /* RDTSC allowed, and at the host's rate */
#define MODE_64	      (1u << 8) /* 64-bit code */
#define MODE_FLAT32   (1u << 9) /* 32-bit code, flat segments: translated too */
#define MODE_FSGS     (1u << 10) /* RDFSBASE family enabled */
#define MODE_STEP     (1u << 11) /* one instruction a block */
#define MODE_ALIGN    (1u << 12) /* alignment is checked (CPL 3, AM, AC): no blocks */
#define MODE_AVX512   (1u << 14) /* AVX-512 runs */
#define MODE_ATTN     (1u << 30) /* from STI to the end of the block: an interrupt waits */
#define MODE_SPLIT    (1u << 13) /* a block, never a vCPU: each access looks up for itself */

/* ---- state ---- */

struct seg {
	uint64_t base;
	uint32_t limit; /* in bytes */
	uint16_t sel;
	uint16_t attr; /* SEG_* */
};
/* The access byte and flags of a descriptor, bits 8-15 and 20-23 of its second word, packed. */
#define SEG_TYPE     15u
#define SEG_S	     (1u << 4)
#define SEG_DPL(a)   (((a) >> 5) & 3u)
#define SEG_P	     (1u << 7)
#define SEG_AVL	     (1u << 8)
#define SEG_L	     (1u << 9)
#define SEG_DB	     (1u << 10)
#define SEG_G	     (1u << 11)
#define SEG_UNUSABLE (1u << 12)

struct exc {
	uint8_t vector;
	bool has_error;
	uint32_t error;
	uint64_t payload; /* #PF: CR2; #DB: DR6 bits */
};

/* How an instruction of the bounce executor ended. */
enum {
	X_NEXT = 0,   /* go on behind it */
	X_JUMP = 1,   /* RIP is set */
	X_FAULT = -1, /* v->exc is set, nothing changed */
	X_EXIT = -2,  /* leave engine_run(), then execute it again */
	X_LEAVE = 2,  /* done; leave engine_run() with v->exit as it is */
};

/* An access to MMIO or a port by the instruction in flight, kept for its re-execution. */
#define REPLAY_MAX 40
#define INS_BYTES 1024u

struct replay {
	uint64_t addr, data;
	uint8_t len, space; /* 0 mmio, 1 io, 2 hypercall, 3 MSR */
	bool write, done, failed;
};

enum exit_code {
	EXITC_LINK = 1,	 /* direct jump not chained: exit_arg = link */
	EXITC_FIND,	 /* look rip up; exit_arg = the block that branched there */
	EXITC_INSN,	 /* execute the instruction at rip in C */
	EXITC_ATTN,	 /* attention word */
	EXITC_THUNK,	 /* bounce executor: instruction done */
	EXITC_FAULT,	 /* host fault: fault_* tell */
	EXITC_MISS,	 /* entry check failed: look rip up */
	EXITC_STEPPED,	 /* C was called for an instruction and will not go on: step_result */
};

/* A component of the XSAVE image: where in the standard format; align: to 64 bytes in the compacted one. */
struct xcomp {
	uint16_t off, size;
	bool align;
};

#define INSN_CACHE 2048
struct insn_slot;
struct memo;
struct cache;

/* Where a walk found a page that no slot holds: C needs it for each access, translated code has no use for it. */
struct device_page {
	uint64_t tag;	/* page_tag() */
	uint64_t epoch; /* good as long as drop_epoch is the same */
	gpa_t gpa;
};

struct engine_vcpu {
	/* translated code addresses these through GS */
	uint64_t gpr[16];
	uint64_t rip;
	uint64_t tmp[4];
	void *self;
	void *enter_pc;
	uint32_t mode __attribute__((aligned(8))); /* MODE_*; tested together with attn */
	_Atomic uint32_t attn;	/* ENGINE_KICK_*, REQ_* : other threads write */
	uint32_t attn_local;	/* own thread: an interrupt waits since STI */
	uint32_t irq_wait;	/* MODE_ATTN: an interrupt was posted but could not be taken */
	uint16_t hflags;	/* LAHF image in the high byte, OF in bit 0 */
	uint8_t iff;		/* IF: 0 or 2 (bit 1 of the second byte of RFLAGS) */
	uint8_t df;		/* DF: 0 or 4 */
	uint32_t vflags;	/* FL_VIRT */
	uint16_t flsave;	/* flags around a look-up where they are live */
	uint8_t shadow;		/* 1 STI, 2 MOV SS: for the next instruction */
	uint8_t fpu_loaded;
	int32_t pauses;		/* PAUSEs to come before one that gives way (smp.c) */
	uint32_t exit_code;
	uint32_t in_thunk;
	uint32_t exit_arg;
	void *bounce;		/* host address of the memory operand (thunks) */
	void *fill_fn, *step_fn; /* what translated code calls: tlb_miss(), step_called() */
	void *enter_stub;
	void *under; /* what is at the bottom of the return stack */
	uint64_t host_sp; /* of the frame below the return stack */
	uint64_t tsc_offset;
	struct seg seg[S_COUNT];
	uint64_t kernel_gs;
	struct {
		uint64_t page;	 /* its first byte, or RECENT_NONE */
		uint64_t addend; /* host - guest address, 0 with that */
	} recent[TM_COUNT];	 /* the page of the stack that was looked up last, docs/ENGINE.md, "Stack" */
	int64_t loop_limit; /* of the pace of the loop that runs, docs/ENGINE.md, "Loops" */
	uint64_t addend[GROUP_MAX]; /* host - guest address of the block's groups */

	/* the rest is for C */
	uint64_t tsc_aux, tsc_ratio;
	struct { uint64_t base; uint32_t limit; } gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, efer, xcr0;
	uint64_t pdpte[4];
	uint64_t dr[4], dr6, dr7;
	uint64_t bp[4], bp7;	 /* the breakpoints in effect: the guest's or the debugger's */
	uint64_t dbg_bp[4], dbg_bp7;
	uint64_t star, lstar, cstar, fmask, sysenter_cs, sysenter_esp, sysenter_eip, pat;
	uint64_t phys_mask; /* address bits of a page-table entry */
	uint64_t host_gs;
	uint64_t host_xmask;  /* components that the engine can carry here, */
	uint64_t guest_xmask; /* that the guest's CPUID allows in XCR0, */
	uint32_t live_xmask;  /* that fpu_get() and fpu_put() move */
	uint32_t mxcsr_mask;  /* bits of MXCSR that there are */
	struct xcomp xcomp[8]; /* the image's, by XCR0's bits; from 2 on */

	struct engine_vm *vm;
	const struct engine_ops *ops;
	void *cpu;
	unsigned int id;
	uint32_t bit; /* in page words: 1 << (index % 32) */
	uint32_t debug;
	bool window;
	bool bp_on;		/* one is armed */

	/* events */
	struct exc first_exc;	/* what a shutdown began with */
	struct exc exc;		/* raised by the instruction in flight */
	struct {
		bool valid, soft;
		uint8_t kind; /* 0 external, 1 NMI, 2 exception, 3 software */
		uint8_t vector, len;
		bool has_error;
		uint32_t error;
	} event;		/* to be delivered before the next instruction */
	_Atomic uint32_t nmi_queued; /* posted, by any thread */
	uint8_t nmi_pending;	/* taken from there: at most two wait */
	bool nmi_masked;
	bool halted;
	uint8_t shadow_new;	/* set by the instruction in flight */
	int step_result;	/* EXITC_STEPPED: as insn_step() returns */
	uint64_t pending_db;	/* DR6 bits for a trap after this instruction */
	uint64_t bp_hit;	/* breakpoints that the instruction in flight has met */
	bool step_tf;		/* it ends with a single-step trap */

	/* instruction in flight */
	struct replay replay[REPLAY_MAX];
	unsigned int replay_n, replay_i;
	struct {
		uint32_t want;	/* units that a read of a port may bring at once; 0: one */
		uint32_t n, pos; /* brought, and used */
		uint8_t data[INS_BYTES];
	} ins;			/* REP INS: what came with the first unit */
	uint32_t epoch;		/* ops called so far */
	bool replay_wait;	/* the last entry waits for the caller's data */
	struct engine_exit *exit;
	uint64_t fault_host;	/* host rip of a fault */
	uint8_t fault_vector;
	bool fault_foreign;	/* a fault that is not the guest's */
	void *recover[5];	/* engine_run()'s: where a fault on guest memory in its C ends */
	uint64_t step_sp;	/* RSP before the instruction or event in hand, */
	bool in_step;		/* if there is one */
	uint32_t miss_site;	/* the site that tlb_miss() is for, 0: it does not run */
	bool split_locked;	/* vm->split_lock is ours */

	/* requests from other vCPUs (smp.c) */
	_Atomic uint32_t in_guest;
	pthread_mutex_t req_lock;
	struct { uint8_t kind; uint64_t pfn; } req[64];
	unsigned int req_n;
	bool req_all, req_map;
	_Atomic uint32_t req_posted, req_done;

	/* The map in use, of struct slot, and the slot found last, or NULL. They change only at a safe
	 * point, and are there only in guest mode (docs/ENGINE.md, "The memory map"). */
	const struct ranges *map;
	struct slot *last_slot;
	struct cache *cache;
	struct insn_slot *insns;
	struct memo *memos;	/* decode_memo.c */
	uint8_t *thunks;
	uint64_t ext_ok[2];	/* Zydis ISA extensions that the guest's CPUID has */
	uint32_t feat;		/* FEAT_* */
	uint32_t avx512;	/* A512_*: the guest's CPUID and the host have it */
	struct engine_stats stats;
	uint64_t translate_tsc, born_tsc, born_ns; /* for stats.translate_ns */

	/* large pages seen, by half of the address space: an INVLPG inside flushes all */
	struct { uint64_t lo, hi; } large[2];
	uint64_t tlb_private[TLB_ALL / 64]; /* entries of pages that are not global */
	struct tlb_saved *saved;  /* those of other address spaces, by PCID; NULL: none yet */
	uint32_t saved_clock;
	uint32_t write_modes;	  /* bit m: there may be write tags in tlb[m] */
	uint32_t write_epoch;	  /* changes when write tags are dropped: saved ones are too */
	uint64_t drop_epoch;	  /* changes when any tag is dropped */
	struct device_page device[TM_COUNT][2][DEVICE_PAGES]; /* by the low bits of the page's number */
	struct itlb_entry itlb[TM_COUNT][ITLB_SIZE];

	uint8_t xsave[ENGINE_XSAVE_SIZE] __attribute__((aligned(64)));
	uint8_t bounce_buf[2][256] __attribute__((aligned(64)));
	struct tlb_entry tlb[TM_COUNT][2][TLB_SIZE] __attribute__((aligned(64)));
	uint64_t itlb_key[TM_COUNT][ITLB_SIZE];
	bool has_run; /* jc is filled: half a MiB that a vCPU which never runs need not have */
	void *jc[JC_SIZE]; /* indirect jumps: low 16 bits of the target → host code */
};

#define FEAT_CX16    (1u << 0)
#define FEAT_POPCNT  (1u << 1)
#define FEAT_1G	     (1u << 2)
#define FEAT_LM	     (1u << 3)
#define FEAT_NX	     (1u << 4)
#define FEAT_SSE42   (1u << 5)
#define FEAT_AMD     (1u << 6) /* the vendor, where processors differ */
#define FEAT_PSE36   (1u << 7)

/* parts of AVX-512, for v->avx512 */
#define A512_F		(1u << 0)
#define A512_DQ		(1u << 1)
#define A512_IFMA	(1u << 2)
#define A512_CD		(1u << 3)
#define A512_BW		(1u << 4)
#define A512_VL		(1u << 5)
#define A512_VBMI	(1u << 6)
#define A512_VBMI2	(1u << 7)
#define A512_VNNI	(1u << 8)
#define A512_BITALG	(1u << 9)
#define A512_VPOPCNTDQ	(1u << 10)
#define A512_BF16	(1u << 11)
#define A512_VAES	(1u << 12)
#define A512_VPCLMULQDQ (1u << 13)
#define A512_GFNI	(1u << 14)

#define REQ_TLB	 (1u << 8)  /* attn: requests in req[] */

static inline int cpl(const struct engine_vcpu *v)
{
	return v->mode & MODE_CPL;
}

static inline bool is_long(const struct engine_vcpu *v)
{
	return v->efer & EFER_LMA;
}

static inline bool is_real(const struct engine_vcpu *v)
{
	return !(v->cr0 & CR0_PE);
}

static inline bool is_vm86(const struct engine_vcpu *v)
{
	return v->vflags & FL_VM;
}

static inline bool is_canonical(uint64_t a)
{
	return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}

static inline uint64_t rip_linear(const struct engine_vcpu *v)
{
	return v->mode & MODE_64 ? v->rip : (v->seg[S_CS].base + v->rip) & 0xffffffffu;
}

/* Copies that stay out of libc (and so out of SIMD registers). */
static inline void bytes_copy(void *d, const void *s, size_t n)
{
	uint64_t x;

	/* REP has a start-up cost that short copies should not pay */
	if (n > 64) {
		__asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
		return;
	}
	for (; n >= 8; n -= 8) {
		__asm__ volatile("movq (%1), %0\n\tmovq %0, (%2)" : "=&r"(x) : "r"(s), "r"(d) : "memory");
		s = (const uint8_t *)s + 8;
		d = (uint8_t *)d + 8;
	}
	for (; n; n--) {
		__asm__ volatile("movb (%1), %b0\n\tmovb %b0, (%2)" : "=&q"(x) : "r"(s), "r"(d) : "memory");
		s = (const uint8_t *)s + 1;
		d = (uint8_t *)d + 1;
	}
}

static inline void bytes_zero(void *d, size_t n)
{
	__asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(0) : "memory");
}

/* Set v->exc; always returns X_FAULT. */
static inline int raise_exc(struct engine_vcpu *v, uint8_t vector, bool has_error, uint32_t error)
{
	v->exc = (struct exc){.vector = vector, .has_error = has_error, .error = error};
	return X_FAULT;
}
static inline int raise_gp(struct engine_vcpu *v, uint32_t error)
{
	return raise_exc(v, V_GP, true, error);
}
static inline int raise_ud(struct engine_vcpu *v)
{
	return raise_exc(v, V_UD, false, 0);
}

/* state.c */
uint32_t flags_get(const struct engine_vcpu *v);	/* RFLAGS whole */
void flags_set(struct engine_vcpu *v, uint32_t f);
void mode_update(struct engine_vcpu *v);		/* after CR0/CR4/EFER/CS/CPL/AC/XCR0 changed */
void nmi_collect(struct engine_vcpu *v);		/* nmi_queued → nmi_pending */
void seg_from_api(struct seg *d, const struct engine_segment *s);
/* Load the four PDPTEs of PAE paging; X_FAULT (#GP) for reserved bits. */
int pdptes_load(struct engine_vcpu *v, uint64_t cr3);
int msr_read(struct engine_vcpu *v, uint32_t index, uint64_t *val);  /* -ENOENT: not ours */
int msr_write(struct engine_vcpu *v, uint32_t index, uint64_t val, bool host);
bool cr0_valid(uint64_t cr0);

/*
 * The thread sanitizer's run-time uses SIMD registers in every function: there the guest's state
 * is put away on the way out of translated code, by functions it does not see.
 */
#define ENGINE_EAGER_FPU WITH_TSAN
#if WITH_TSAN
#define NO_TSAN __attribute__((noinline, no_sanitize("thread")))
#else
#define NO_TSAN
#endif

/* fpu.c */
struct insn;
void code_enter(struct engine_vcpu *v, void *code, bool fpu); /* run translated code */
void *tlb_miss_eager(struct engine_vcpu *v, uint64_t lin, uint32_t site);
bool step_called_eager(struct engine_vcpu *v, const struct insn *in);
void fpu_get(struct engine_vcpu *v); /* state → processor, if it is not there */
void fpu_put(struct engine_vcpu *v); /* processor → state */
int fpu_exec(struct engine_vcpu *v, const struct insn *in);
void fpu_layout(struct xcomp c[8], uint64_t xcr0); /* as the host has it */
uint32_t fpu_mxcsr_mask(void); /* the host's */
void image_expand(struct engine_vcpu *v); /* after fpu_put(): all components have their bytes */
bool xcr0_valid(const struct engine_vcpu *v, uint64_t x);
void xcr0_put(struct engine_vcpu *v, uint64_t x);

/* mmu.c */
struct walk {
	gpa_t gpa;
	uint64_t page_size;
	bool writable, user, global, nx, dirty;
};
/* Walk. write/fetch/mode say what for; sets A and D. X_FAULT: v->exc is #PF. */
int mmu_walk(struct engine_vcpu *v, uint64_t lin, bool write, bool fetch, enum tlb_mode mode,
	     bool peek, struct walk *w);
static inline enum tlb_mode data_mode(const struct engine_vcpu *v)
{
	return (v->mode & MODE_CPL) == 3 ? TM_USER : v->mode & MODE_AC ? TM_SUP_AC : TM_SUP;
}

/* tlb.c */
struct slot {
	struct range r; /* guest-physical */
	uint8_t *host;
	uint32_t flags;
	uint64_t *dirty;
	uint32_t id;
	_Atomic uint64_t *words; /* a page: vCPUs with code (low half), with a write tag (high) */
};
static inline uint8_t *slot_host(const struct slot *s, gpa_t gpa)
{
	return s->host + (gpa - s->r.start);
}
struct slot *slot_find(struct engine_vcpu *v, gpa_t gpa);
void slot_dirty(struct engine_vcpu *v, const struct slot *s, gpa_t gpa);
void code_flush(struct engine_vcpu *v); /* all translated code */
void tlb_flush_all(struct engine_vcpu *v);     /* of all PCIDs */
void tlb_flush_present(struct engine_vcpu *v); /* what the present PCID could use, global pages too */
void tlb_flush_private(struct engine_vcpu *v); /* of the present PCID, but for global pages */
void tlb_flush_page(struct engine_vcpu *v, uint64_t lin);
static inline struct tlb_entry *tlb_at(struct engine_vcpu *v, unsigned int n) /* below TLB_DATA */
{
	return (struct tlb_entry *)v->tlb + n;
}
static inline struct itlb_entry *itlb_at(struct engine_vcpu *v, unsigned int n)
{
	return (struct itlb_entry *)v->itlb + n;
}
static inline uint64_t *itlb_key_at(struct engine_vcpu *v, unsigned int n)
{
	return (uint64_t *)v->itlb_key + n;
}
bool tlb_in_large(const struct engine_vcpu *v, uint64_t lin); /* perhaps part of a large page */
void tlb_drop_write(struct engine_vcpu *v);		  /* all write tags */
void tlb_drop_write_page(struct engine_vcpu *v, gpa_t gpa); /* those of one page */
/* Called by translated code; returns where to go on, or NULL to leave to C. */
void *tlb_miss(struct engine_vcpu *v, uint64_t lin, uint32_t site);
struct itlb_entry *itlb_get(struct engine_vcpu *v, uint64_t lin); /* NULL: v->exc */

/*
 * pcid.c: the tables hold what the present PCID may use; the private entries of others are put
 * aside. keep: those of `to` may still be used.
 */
void pcid_switch(struct engine_vcpu *v, unsigned int from, unsigned int to, bool keep);
void pcid_forget(struct engine_vcpu *v, unsigned int pcid); /* put aside */
void pcid_forget_page(struct engine_vcpu *v, unsigned int pcid, uint64_t lin);
void pcid_forget_all(struct engine_vcpu *v);
void pcid_destroy(struct engine_vcpu *v);

/* gmem.c: guest memory by linear address, for C */
struct pageref {
	uint8_t *host; /* NULL: MMIO */
	const uint8_t *rom; /* where a write is MMIO, what a read finds; or NULL */
	gpa_t gpa;
	struct slot *slot;
};
int page_get(struct engine_vcpu *v, uint64_t lin, bool write, enum tlb_mode m, struct pageref *r);
int page_get_class(struct engine_vcpu *v, uint64_t lin, bool write, enum tlb_mode m, unsigned int cls,
		   struct pageref *r);
struct mref {
	uint64_t lin;
	void *ptr;	/* where the instruction finds the operand */
	uint16_t size;
	bool write, bounced;
	uint8_t mode;
	uint32_t epoch;
	struct pageref pg[2];
	uint16_t split; /* bytes in the first page */
};
/* Check (and for reads fetch) [lin, lin+size); X_NEXT, X_FAULT or X_EXIT. */
int gmem_open(struct engine_vcpu *v, struct mref *m, uint64_t lin, unsigned int size, bool read,
	     bool write, enum tlb_mode mode, int which);
int gmem_close(struct engine_vcpu *v, struct mref *m); /* write back what was bounced */
int gmem_read(struct engine_vcpu *v, uint64_t lin, void *p, unsigned int n, enum tlb_mode mode);
int gmem_write(struct engine_vcpu *v, uint64_t lin, const void *p, unsigned int n, enum tlb_mode mode);
int gmem_check(struct engine_vcpu *v, uint64_t lin, unsigned int n, bool write, enum tlb_mode mode);
int io_access(struct engine_vcpu *v, uint16_t port, unsigned int len, bool write, uint64_t *data);
int replay_access(struct engine_vcpu *v, uint8_t space, uint64_t addr, unsigned int len, bool write,
		  uint64_t *data);

/* segment.c */
int seg_linear(struct engine_vcpu *v, int s, uint64_t off, unsigned int size, bool write, uint64_t *lin);
int seg_load(struct engine_vcpu *v, int s, uint16_t sel);
/* The same, but what is wrong with the selector is this exception (#TS for a new task's). */
int seg_load_as(struct engine_vcpu *v, int s, uint16_t sel, uint8_t vec);
void seg_load_real(struct engine_vcpu *v, int s, uint16_t sel);
int desc_read(struct engine_vcpu *v, uint16_t sel, uint32_t d[2], uint64_t *lin, uint8_t vec);
void seg_from_desc(struct seg *g, uint16_t sel, const uint32_t d[2]);
int desc_accessed(struct engine_vcpu *v, uint64_t lin, uint32_t d[2], uint32_t bits);
/* How the processor's own accesses (tables, TSS, inner stacks) are checked. */
enum tlb_mode system_mode(const struct engine_vcpu *v);
int seg_exec(struct engine_vcpu *v, const struct insn *in);
void cs_set(struct engine_vcpu *v, const struct seg *cs, int newcpl);

/* far.c: far transfers */
/* Check a code segment for a transfer to want_cpl (ret: that a return goes to), and mark it accessed. */
int code_check(struct engine_vcpu *v, uint16_t sel, uint32_t d[2], uint64_t lin, struct seg *g,
	       unsigned int want_cpl, bool ret, uint8_t vec);
int far_exec(struct engine_vcpu *v, const struct insn *in);
/* The common end of far RET and IRET to protected mode. */
int far_return_to(struct engine_vcpu *v, uint16_t sel, uint64_t rip, uint16_t ss, uint64_t sp,
		  bool outer_given);

/* task.c */
enum task_why { TASK_JUMP, TASK_CALL, TASK_RETURN, TASK_EVENT };
/* Switch to the task of this TSS; rip is where the old one goes on. X_JUMP or X_FAULT. */
int task_switch(struct engine_vcpu *v, uint16_t sel, enum task_why why, uint64_t rip, uint32_t ext);
bool task_descriptor(const struct engine_vcpu *v, const uint32_t d[2]); /* a TSS or a task gate */
int task_transfer(struct engine_vcpu *v, uint16_t sel, const uint32_t d[2], bool call, uint64_t rip);
int task_return(struct engine_vcpu *v, uint64_t rip);

/* exception.c */
int event_deliver(struct engine_vcpu *v, uint8_t vector, bool soft, bool has_error, uint32_t error,
		  uint64_t ret_rip, bool external);
int exc_inject(struct engine_vcpu *v); /* v->exc, with double and triple faults; X_EXIT: shutdown */
int tss_stack(struct engine_vcpu *v, int dpl, uint16_t *ss, uint64_t *sp);
int iret_exec(struct engine_vcpu *v, const struct insn *in);

/* system.c, string.c, stack.c, legacy.c */
int sys_exec(struct engine_vcpu *v, const struct insn *in);
int ctl_exec(struct engine_vcpu *v, const struct insn *in);
int cr3_write(struct engine_vcpu *v, uint64_t val);
int string_exec(struct engine_vcpu *v, const struct insn *in);
int stack_exec(struct engine_vcpu *v, const struct insn *in);
int legacy_exec(struct engine_vcpu *v, const struct insn *in);
int flow_exec(struct engine_vcpu *v, const struct insn *in);
bool cond_true(const struct engine_vcpu *v, unsigned int cc);
unsigned int stack_width(const struct engine_vcpu *v); /* 2, 4 or 8: width of the stack pointer */
int push_val(struct engine_vcpu *v, uint64_t val, unsigned int size);
int pop_val(struct engine_vcpu *v, uint64_t *val, unsigned int size);
int pop_peek(struct engine_vcpu *v, uint64_t *val, unsigned int size, unsigned int off);
void sp_add(struct engine_vcpu *v, int64_t n);
int io_allowed(struct engine_vcpu *v, uint16_t port, unsigned int len);

/* debug.c */
#define DB_STEP (1ull << 14) /* DR6.BS */
void debug_update(struct engine_vcpu *v); /* after DR0-3, DR7 or the debugger's changed */
bool debug_fetch(struct engine_vcpu *v);  /* true: a breakpoint on the instruction, in v->exc */
void debug_data(struct engine_vcpu *v, uint64_t lin, unsigned int size, bool write);
void debug_port(struct engine_vcpu *v, uint16_t port, unsigned int size);
int debug_general_detect(struct engine_vcpu *v);
void debug_insn_done(struct engine_vcpu *v);
/* True: the exception is the debugger's; v->exit tells it. */
bool debug_exit(struct engine_vcpu *v, const struct exc *e);
void dr6_set(struct engine_vcpu *v, uint64_t bits);
int dr_read(struct engine_vcpu *v, unsigned int n, uint64_t *val);
int dr_write(struct engine_vcpu *v, unsigned int n, uint64_t val);

/* bounce.c: the executor of single instructions */
int insn_step(struct engine_vcpu *v); /* the instruction at RIP, whole: events included */
/* The same for one that a block knows, of a kind that needs no thunk; nothing that must_step() is about. */
int insn_step_known(struct engine_vcpu *v, const struct insn *in);
int ea_linear(struct engine_vcpu *v, const struct insn *in, unsigned int size, bool write, uint64_t *lin);
uint64_t ea_offset(const struct engine_vcpu *v, const struct insn *in);
uint64_t gpr_get(const struct engine_vcpu *v, unsigned int g, unsigned int width, bool high8);
void gpr_set(struct engine_vcpu *v, unsigned int g, unsigned int width, bool high8, uint64_t val);

/* simd.c: masked and gathering accesses, element by element */
int simd_exec(struct engine_vcpu *v, const struct insn *in);
uint64_t opmask_get(const struct engine_vcpu *v, unsigned int n); /* after fpu_put() */
size_t insn_slots_size(void);
size_t decode_memo_size(void);
void insn_slots_forget(struct engine_vcpu *v);

/* smp.c */
struct engine_vm {
	pthread_mutex_t lock;	    /* map and vCPU list; held while waiting for vCPUs */
	pthread_mutex_t list_lock;  /* vCPU list; never held while waiting. Taken inside lock */
	_Atomic bool dropping;	    /* a page's marks are gone, its vCPUs not told yet; list_lock */
	pthread_mutex_t split_lock; /* locked accesses that cross a page */
	struct ranges *map, *spare_map; /* of struct slot */
	struct engine_vcpu **vcpu;
	_Atomic unsigned int n_vcpu;
	uint32_t code_mib;
	/* of code memory (space.c): beyond what each vCPU has anyway; one has less than its share */
	_Atomic uint32_t spans_taken;
	_Atomic bool spans_wanted;
};
enum { RQ_DROP_WRITE, RQ_DROP_CODE, RQ_FLUSH_WRITE, RQ_NEW_MAP };
void vcpu_pause(struct engine_vcpu *v);	 /* PAUSE: after many, let other threads run */
void guest_enter(struct engine_vcpu *v); /* also handles requests */
void guest_leave(struct engine_vcpu *v);
void requests_handle(struct engine_vcpu *v);
int vm_add_vcpu(struct engine_vm *vm, struct engine_vcpu *v);
void vm_remove_vcpu(struct engine_vm *vm, struct engine_vcpu *v);
/* Before reading code from the page: nobody keeps a write tag for it. */
void page_mark_code(struct engine_vcpu *v, struct slot *s, gpa_t gpa);
bool page_is_marked(const struct engine_vcpu *v, struct slot *s, gpa_t gpa);
/* After a store to a page that may hold code: drop it everywhere. */
void page_code_written(struct engine_vcpu *v, struct slot *s, gpa_t gpa, unsigned int len);
/* True if a write tag may be set; notes it in the page's word. */
bool page_take_write(struct engine_vcpu *v, struct slot *s, gpa_t gpa);

/* run.c: called by translated code for an instruction that C executes. True: go on at RIP. */
bool step_called(struct engine_vcpu *v, const struct insn *in);

/* fault.c */
void fault_thread_set(struct engine_vcpu *v);

/* the stub generated by cache.c */
typedef void enter_fn(struct engine_vcpu *v, void *code);

#endif
