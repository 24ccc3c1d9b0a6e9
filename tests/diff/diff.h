/* SPDX-License-Identifier: MIT
 * Random sequences of KVM API calls on the kernel's KVM and on softkvm. A
 * sequence is data: an array of operations, each a kind and a few numbers, made
 * from a seed; so it can be run again, shrunk, and printed as C that compiles.
 * docs/DIFF.md.
 */
#ifndef BELFRY_TESTS_DIFF_H
#define BELFRY_TESTS_DIFF_H

#include "../lib/kvm_pair.h"
#include <signal.h>
#include <stdio.h>

#define OP_ARGS	    8
#define SEQ_MAX	    48
#define WORLD_VMS   2
#define WORLD_VCPUS 4
#define WORLD_MEM   0x20000u
#define WORLD_EVENTS 10 /* the last four are no eventfds */

#define WORLD_SEMAPHORE 5
#define WORLD_ALARM	SIGUSR2 /* ends a guest that waits for what never comes */

struct world;

/* ---- random numbers ----------------------------------------------------------- */

struct rng {
	uint64_t state;
	unsigned hostile; /* of 256: how often an argument is chosen to be refused */
};

uint64_t rng_next(struct rng *r);
unsigned rng_below(struct rng *r, unsigned n);
/* Is this argument to be a bad one? */
bool rng_hostile(struct rng *r);

/* ---- operations ------------------------------------------------------------------ */

typedef uint64_t (*make_fn)(struct rng *r);

struct op_kind {
	const char *name;
	unsigned weight; /* how often, against the others */
	/* Do it in w and say what came of it. */
	void (*run)(struct world *w, const uint64_t *a);
	struct {
		const char *name;
		make_fn make;
	} arg[OP_ARGS];
};

struct op {
	const struct op_kind *kind;
	uint64_t arg[OP_ARGS];
};

#define ALL_OPS(X)                                                                            \
	X(create_vm) X(close_vm) X(create_irqchip) X(split) X(create_pit) X(create_vcpu)      \
	X(close_vcpu) X(enable_cap) X(check_cap) X(vm_value) X(slot) X(dirty_get)             \
	X(dirty_clear) X(coalesced) X(clock) X(filter) X(pit_set) X(pit_get) X(reinject)      \
	X(routes) X(line) X(msi) X(irqfd) X(ioeventfd) X(signal) X(read_event) X(ioapic_set)  \
	X(pic_set) X(chip_get) X(regs) X(sregs) X(fpu) X(debugregs) X(xcrs) X(events)         \
	X(mp_state) X(lapic_set) X(lapic_get) X(msr) X(cpuid) X(interrupt) X(nmi)             \
	X(signal_mask) X(guest_debug) X(translate) X(tsc_khz) X(mce) X(run_now) X(bad_call)   \
	X(guest)

#define GUEST_MAX_EXITS 60 /* then a guest is cut off */

#define DECLARE_OP(name) extern const struct op_kind op_##name;
ALL_OPS(DECLARE_OP)
#undef DECLARE_OP

/* Makers of arguments, used by several kinds (domain.c). */
uint64_t any_vm(struct rng *r), any_cpu(struct rng *r), any_event(struct rng *r);
uint64_t any_gsi(struct rng *r), any_bit(struct rng *r), any_byte(struct rng *r);
uint64_t any_vector(struct rng *r), any_small(struct rng *r), any_word(struct rng *r);
uint64_t any_u64(struct rng *r), any_gpa(struct rng *r), any_pages(struct rng *r);
uint64_t any_pointer(struct rng *r), any_mmio(struct rng *r), any_port(struct rng *r);
uint64_t any_len(struct rng *r), any_slot(struct rng *r), rare_bit(struct rng *r);

/* ---- sequences ---------------------------------------------------------------------- */

struct sequence {
	unsigned nr;
	struct op op[SEQ_MAX];
};

/* gen.c: the sequence of a seed. */
void sequence_make(struct sequence *q, uint64_t seed);

/* ---- worlds --------------------------------------------------------------------------- */

enum world_chips { CHIPS_NONE, CHIPS_KERNEL, CHIPS_SPLIT };

/* What an eventfd is bound to as an irqfd: only to know when to wait for it. */
struct binding {
	bool bound;
	unsigned vm, gsi;
	int resample; /* the event that tells of its end of interrupt; -1: none */
};

struct world {
	struct side s; /* transcript and API */
	size_t run_size;
	timer_t alarm; /* WORLD_ALARM for the thread that made it; not for a child of its process */
	int vm[WORLD_VMS];
	enum world_chips chips[WORLD_VMS];
	bool can_run[WORLD_VMS]; /* slot 0 is there, and so may a guest be */
	/* It has rings of dirty pages. A kernel that emulates the guest fills them store by store, and
	 * so soon that no guest is run there: unit/softkvm_dirty_ring.c does. */
	bool rings[WORLD_VMS];
	int cpu[WORLD_VMS][WORLD_VCPUS];
	struct kvm_run *run[WORLD_VMS][WORLD_VCPUS];
	bool odd[WORLD_VMS][WORLD_VCPUS]; /* in a state that no guest is run from */
	int user_vector[WORLD_VMS][WORLD_VCPUS]; /* for KVM_INTERRUPT when the guest is ready, or -1 */
	int event[WORLD_EVENTS];
	uint32_t routed[8]; /* vectors of messages in routes: 256 bits, as a local APIC has them */
	bool stop; /* what comes now is not compared */
	int pipe_end;
	struct binding binding[WORLD_EVENTS];
	int fence;
	uint8_t *mem; /* WORLD_MEM bytes */
};

/* One a process and side, for any number of sequences on this thread. 0 or -errno. */
int world_create(struct world *w, bool soft);
void world_destroy(struct world *w);
/* An empty transcript, one VM, new eventfds and memory; and away with them. */
int world_begin(struct world *w);
void world_end(struct world *w);
/* Say all that can be seen from outside. */
void world_say_state(struct world *w);

/* Wait until every signal has been served. */
void world_settle(struct world *w);
/* What call on the fd with arg gives; said with its name. */
long world_call(struct world *w, const char *name, int fd, unsigned long request, void *arg);
#define vm_call(w, v, req, arg)	    world_call(w, #req, (w)->vm[v], req, arg)
#define vm_call_value(w, v, req, value) world_call(w, #req, (w)->vm[v], req, (void *)(uintptr_t)(value))
#define cpu_call(w, v, c, req, arg) world_call(w, #req, (w)->cpu[v][c], req, arg)
/* The same without a word. */
long world_quiet(struct world *w, int fd, unsigned long request, void *arg);
void world_add_vcpu(struct world *w, unsigned vm, unsigned long id);
void world_close_vcpu(struct world *w, unsigned vm, unsigned cpu);
void world_close_vm(struct world *w, unsigned vm);
/* A pointer that is fine (p), or one of the bad ones. */
void *world_pointer(uint64_t which, void *p);
void say_events(struct world *w);
uint64_t event_count(uint64_t n);
void say_local_apic(struct world *w, unsigned vm, unsigned cpu);
void say_ring(struct world *w, unsigned vm, unsigned cpu);

/* ---- agreed differences ------------------------------------------------------------------ */

enum verdict {
	DIFFERS,     /* nobody agreed to this */
	AGREED,	     /* this line may differ; the rest is compared */
	AGREED_STOP, /* it may, and what comes after it follows from it */
};

struct agreed {
	const char *reason;
	/* kernel and soft: the line that differs, said by op (NULL: the state at the end). */
	enum verdict (*look)(const struct op *op, const char *kernel, const char *soft);
};

extern const struct agreed agreed_differences[];
extern const unsigned nr_agreed;

/* ---- comparing, shrinking, printing -------------------------------------------------------- */

struct pair {
	struct world kernel, soft;
	unsigned agreed; /* how many differences were agreed ones */
};

struct difference {
	int op;	 /* its number; nr: the state at the end */
	char kernel[256], soft[256];
};

int pair_create(struct pair *p);
void pair_destroy(struct pair *p);
/* Run q on both. True if they differ. */
bool pair_differs(struct pair *p, const struct sequence *q, struct difference *d);
/* Make q smaller while the two still differ in the same kind of operation. Returns runs needed. */
unsigned pair_shrink(struct pair *p, struct sequence *q, struct difference *d, unsigned max_runs);
/* As C: a whole file that compiles with this folder's objects (docs/DIFF.md). */
void sequence_print(FILE *f, const struct sequence *q, uint64_t seed, const struct difference *d);

/* For a printed sequence's main(): run it, print both transcripts' first difference. 0: none. */
int diff_replay(const char *name, const struct op *op, unsigned nr);

/* cases.c: sequences that once differed. */
struct diff_case {
	const char *name;
	const struct op *op;
	unsigned nr;
};
extern const struct diff_case diff_cases[];
extern const unsigned nr_diff_cases;

#endif
