/* SPDX-License-Identifier: MIT
 *
 * engine/run: the loop of a vCPU: events, look-up, entry, exits.
 */
#include "engine/cache.h"

#include <asm/prctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HWCAP2_FSGSBASE_ (1u << 1)

/* ---- GS base: the vCPU while it runs, the caller's else ---- */

static bool have_fsgsbase(void)
{
	return getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE_;
}

static uint64_t gs_read(void)
{
	uint64_t b = 0;

	if (have_fsgsbase())
		__asm__ volatile("rdgsbase %0" : "=r"(b));
	else
		(void)syscall(SYS_arch_prctl, ARCH_GET_GS, &b);
	return b;
}

static void gs_write(uint64_t b)
{
	if (have_fsgsbase())
		__asm__ volatile("wrgsbase %0" : : "r"(b));
	else
		(void)syscall(SYS_arch_prctl, ARCH_SET_GS, b);
}

/* ---- life ---- */

/* What has been decoded: for the bounce executor, and behind it for the translator. */
static size_t insns_size(void)
{
	return insn_slots_size() + decode_memo_size();
}

int engine_vcpu_create(struct engine_vm *vm, unsigned int id, const struct engine_ops *ops, void *cpu,
		       struct engine_vcpu **out, struct err *e)
{
	struct engine_vcpu *v;
	int r;

	if (!(engine_xcr0_max() & 2))
		return err_set(e, -ENOTSUP, "this processor or kernel has no XSAVE: the engine needs it");
	r = engine_faults_take();
	if (r)
		return err_set(e, r, "cannot install signal handlers");
	v = mmap(NULL, sizeof(*v), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (v == MAP_FAILED)
		return err_set(e, -ENOMEM, "cannot allocate a vCPU");
	v->self = v;
	v->vm = vm;
	v->ops = ops;
	v->cpu = cpu;
	v->id = id;
	v->host_xmask = engine_xcr0_max();
	fpu_layout(v->xcomp, v->host_xmask);
	v->mxcsr_mask = fpu_mxcsr_mask();
	v->born_tsc = __builtin_ia32_rdtsc();
	v->born_ns = clock_ns();
	v->fill_fn = ENGINE_EAGER_FPU ? (void *)tlb_miss_eager : (void *)tlb_miss;
	v->step_fn = ENGINE_EAGER_FPU ? (void *)step_called_eager : (void *)step_called;
	mutex_init(&v->req_lock);
	v->insns = mmap(NULL, insns_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	r = -ENOMEM;
	if ((void *)v->insns == MAP_FAILED)
		goto fail_insns;
	v->memos = (struct memo *)((uint8_t *)v->insns + insn_slots_size());
	r = cache_create(v);
	if (r)
		goto fail_cache;
	r = vm_add_vcpu(vm, v);
	if (r)
		goto fail_add;
	features_update(v);
	v->tsc_ratio = ENGINE_TSC_ONE;
	engine_vcpu_reset(v, false);
	*out = v;
	return 0;
fail_add:
	cache_destroy(v);
fail_cache:
	munmap(v->insns, insns_size());
fail_insns:
	mutex_destroy(&v->req_lock);
	munmap(v, sizeof(*v));
	return err_set(e, r, "cannot allocate memory for translated code");
}

void engine_vcpu_destroy(struct engine_vcpu *v)
{
	if (!v)
		return;
	vm_remove_vcpu(v->vm, v);
	cache_destroy(v);
	pcid_destroy(v);
	munmap(v->insns, insns_size());
	mutex_destroy(&v->req_lock);
	munmap(v, sizeof(*v));
}

void engine_vcpu_kick(struct engine_vcpu *v, enum engine_kick what)
{
	atomic_fetch_or(&v->attn, (uint32_t)what);
}

void engine_vcpu_queue_nmi(struct engine_vcpu *v)
{
	atomic_fetch_add(&v->nmi_queued, 1);
}

void engine_vcpu_unkick(struct engine_vcpu *v, enum engine_kick what)
{
	atomic_fetch_and(&v->attn, ~(uint32_t)what);
}

/* ---- events ---- */

static bool can_take(const struct engine_vcpu *v)
{
	return v->iff && !v->shadow && !v->replay_n;
}

static int event_inject(struct engine_vcpu *v, uint8_t vector, bool soft, bool has_error, uint32_t error,
			bool external, unsigned int len)
{
	int r;

	/* it stays to be delivered if memory_gone() ends this */
	v->event.valid = true;
	v->event.kind = external ? 0 : vector == V_NMI ? 1 : soft ? 3 : 2;
	v->event.vector = vector;
	v->event.soft = soft;
	v->event.has_error = has_error;
	v->event.error = error;
	v->step_sp = v->gpr[R_SP];
	v->in_step = true;
	r = event_deliver(v, vector, soft, has_error && !is_real(v), error, v->rip + len, external);
	v->in_step = false;
	v->event.valid = false;
	if (r == X_JUMP)
		return 0;
	return r == X_FAULT ? exc_inject(v) : r;
}

/* What the attention word asks for. 0: go on, else leave engine_run(). */
static int attention(struct engine_vcpu *v)
{
	uint32_t a = atomic_load(&v->attn);

	v->attn_local = 0;
	if (a & REQ_TLB)
		requests_handle(v);
	if (a & ENGINE_KICK_NMI) {
		atomic_fetch_and(&v->attn, ~(uint32_t)ENGINE_KICK_NMI);
		nmi_collect(v);
	}
	if (a & ENGINE_KICK_INTR) {
		atomic_fetch_and(&v->attn, ~(uint32_t)ENGINE_KICK_INTR);
		v->irq_wait = MODE_ATTN;
	}
	/* an access that waits for its data is finished first, a trap delivered */
	if ((a & ENGINE_KICK_EXIT) && !v->shadow && !v->replay_n && !v->pending_db) {
		atomic_fetch_and(&v->attn, ~(uint32_t)ENGINE_KICK_EXIT);
		v->exit->reason = ENGINE_EXIT_INTR;
		return X_LEAVE;
	}
	return 0;
}

/* Deliver what can be delivered before the next instruction. */
static int events(struct engine_vcpu *v)
{
	int r;

	if (v->event.valid) {
		v->event.valid = false;
		if (v->event.kind == 1)
			v->nmi_masked = true;
		if (v->event.kind == 0)
			v->stats.interrupts++;
		return event_inject(v, v->event.vector, v->event.soft, v->event.has_error, v->event.error,
				    v->event.kind == 0, 0);
	}
	if (v->pending_db && !v->replay_n && v->shadow != 2) {
		v->exc = (struct exc){.vector = V_DB, .payload = v->pending_db};
		v->pending_db = 0;
		return exc_inject(v);
	}
	if (v->debug & ENGINE_DEBUG_NOIRQ)
		return 0;
	if (v->nmi_pending && !v->nmi_masked && !v->shadow && !v->replay_n) {
		v->nmi_pending--;
		v->nmi_masked = true;
		return event_inject(v, V_NMI, false, false, 0, false, 0);
	}
	if (v->irq_wait && can_take(v)) {
		int vec;

		if (v->window) {
			v->window = false;
			v->exit->reason = ENGINE_EXIT_WINDOW;
			return X_LEAVE;
		}
		fpu_put(v);
		guest_leave(v);
		vec = v->ops->intr_take ? v->ops->intr_take(v->cpu) : -1;
		guest_enter(v);
		v->epoch++;
		if (vec < 0) {
			v->irq_wait = 0;
			return 0;
		}
		v->stats.interrupts++;
		/* irq_wait stays: there may be another */
		r = event_inject(v, (uint8_t)vec, false, false, 0, true, 0);
		return r;
	}
	return 0;
}

/* ---- exits from translated code ---- */

/*
 * #GP is for C to tell: an operand that is not aligned, or the stack at an address that is not
 * canonical, when there is no recent page (RECENT_NONE).
 */
static int block_fault(struct engine_vcpu *v)
{
	struct cache *c = v->cache;
	struct block *b = cache_by_host(c, v->fault_host);
	uint32_t off = (uint32_t)(v->fault_host - (uint64_t)c->rx);
	struct located l;

	if (b && !v->fault_foreign)
		for (uint32_t i = 0; i < b->n_faults; i++) {
			struct fault_at *f = &c->faults[b->fault0 + i];

			if (f->off != off)
				continue;
			if (f->flags_saved)
				v->hflags = v->flsave;
			v->rip = b->rip + f->rip;
			if (v->fault_vector == V_GP)
				return insn_step(v);
			raise_exc(v, v->fault_vector, false, 0);
			return exc_inject(v);
		}
	v->exit->reason = ENGINE_EXIT_INTERNAL;
	if (b && block_locate(v, b, off, &l)) {
		if (l.flags_saved)
			v->hflags = v->flsave;
		v->rip = l.rip;
		insn_undo(v, &l.in);
		if (!v->fault_foreign && v->fault_vector == V_GP)
			return insn_step(v);
	} else if (b) {
		v->rip = b->rip;
	}
	v->exit->rip = v->rip;
	return X_LEAVE;
}

/*
 * The last instruction of this block is a RET, or an indirect jump or call, that has led to an address
 * which is not canonical. The fault is the branch's (SDM vol. 2, "RET", "JMP", "CALL"): go back, and let
 * C execute it.
 */
static void branch_undo(struct engine_vcpu *v, const struct block *b)
{
	struct slot *s = slot_find(v, b->gpa), *second = b->second ? slot_find(v, SECOND_GPA(b)) : NULL;
	struct insn in = {0};
	unsigned int off = 0;

	if (!s || (b->second && !second))
		return;
	fpu_put(v);
	if (second) {
		if (!insn_decode_across(v, b, slot_host(s, b->gpa & PAGE_MASK_), slot_host(second, SECOND_GPA(b)),
					&in))
			return;
	}
	while (off + in.len < b->len) {
		off += in.len;
		if (insn_decode_memo(v, slot_host(s, b->gpa) + off, b->len - off, 8, &in))
			return;
	}
	if (in.kind == K_RET) {
		v->gpr[R_SP] -= 8 + (in.opcode == 0xc2 ? (uint64_t)in.imm & 0xffff : 0);
	} else if (in.kind == K_CALL_IND) {
		(void)gmem_write(v, v->gpr[R_SP], &v->tmp[1], 8, data_mode(v));
		v->gpr[R_SP] += 8;
	}
	v->rip = b->rip + off;
}

/*
 * Into the block that the jump cache has for RIP, as an indirect jump would go:
 * the block itself checks that it is the right one.
 */
static bool jump_in(struct engine_vcpu *v)
{
	void *code = v->jc[v->rip & (JC_SIZE - 1)];

	if (code == cache_rx(v->cache, v->cache->s_find) || v->mode & MODE_STEP || !is_canonical(v->rip))
		return false;
	v->flsave = v->hflags;
	code_enter(v, code, false);
	return true;
}

/* Look the block at RIP up, or make it, chain the jump l to it, and run it. */
static int look_in(struct engine_vcpu *v, struct link *l, uint32_t split)
{
	struct cache *c = v->cache;
	uint32_t generation = c->generation; /* l is there as long as no block is dropped */
	struct itlb_entry *e = itlb_get(v, v->rip);
	struct block *b;

	if (!e)
		return exc_inject(v);
	if (!itlb_holds_code(v, e))
		return insn_step(v);
	b = cache_find(c, e->gpa | (v->rip & 4095), v->rip, v->mode | split, 0);
	if (b && b->second) {
		struct itlb_entry *next = itlb_get(v, page_behind(v));

		if (!next)
			return exc_inject(v);
		if (!itlb_holds_code(v, next))
			return insn_step(v);
		b = cache_find(c, e->gpa | (v->rip & 4095), v->rip, v->mode | split, PAGE_OF(next->gpa));
	}
	if (!b) {
		b = block_translate(v, e, v->mode | split, l && l->entry == ENTRY_LOOP);
		if (!b)
			return insn_step(v);
	}
	if (l && generation == c->generation && !(v->mode & MODE_STEP) && l->mode == (v->mode | split) &&
	    l->target == v->rip)
		cache_chain(c, l, b);
	if (!split)
		v->jc[v->rip & (JC_SIZE - 1)] = cache_rx(c, b->entry[ENTRY_IND]);
	code_enter(v, cache_enter_pc(c, b), false);
	return X_JUMP;
}

static bool must_step(const struct engine_vcpu *v)
{
	return !(v->mode & (MODE_64 | MODE_FLAT32)) || v->shadow || v->replay_n ||
	       (v->vflags & (FL_TF | FL_RF)) || v->bp_on || (v->mode & MODE_ALIGN) ||
	       (v->debug & (ENGINE_DEBUG_STEP | ENGINE_DEBUG_SLOW));
}

/* What STI has asked for at the end of its block (docs/ENGINE.md, "Attention word"). */
static void sti_end(struct engine_vcpu *v)
{
	if (v->mode & MODE_ATTN) {
		v->mode &= ~MODE_ATTN;
		v->attn_local = 1;
	}
}

static bool event_waits(const struct engine_vcpu *v)
{
	return v->event.valid || v->pending_db || v->nmi_pending || v->attn_local || (v->irq_wait && can_take(v));
}

/* The attention word is looked at by the block that comes next. */
bool step_called(struct engine_vcpu *v, const struct insn *in)
{
	v->hflags = v->flsave;
	sti_end(v);
	v->step_result = insn_step_known(v, in);
	v->flsave = v->hflags;
	v->exit_code = EXITC_STEPPED;
	/* S2 says no block: a branch to an address that is not canonical would be undone by it */
	return !v->step_result && !event_waits(v) && !must_step(v) && is_canonical(v->rip);
}

static int block_run(struct engine_vcpu *v)
{
	struct cache *c = v->cache;
	struct link *l = NULL;
	uint32_t split = 0;
	bool known = true; /* the jump cache may know RIP */

	for (;;) {
		if (!known || !jump_in(v)) {
			int r = look_in(v, l, split);

			if (r != X_JUMP)
				return r;
		}
		known = false;
		l = NULL;
		split = 0;
		v->stats.exits++;
		sti_end(v);
		switch (v->exit_code) {
		case EXITC_LINK:
			l = &c->links[v->exit_arg];
			v->rip = l->target;
			if (l->entry == ENTRY_SAVED || l->entry == ENTRY_BACK)
				v->hflags = v->flsave;
			split = l->mode & MODE_SPLIT;
			break;
		case EXITC_FIND:
			v->hflags = v->flsave;
			if (!is_canonical(v->rip)) {
				branch_undo(v, &c->blocks[v->exit_arg]);
				return insn_step(v);
			}
			break;
		case EXITC_INSN:
			return insn_step(v);
		case EXITC_STEPPED:
			return v->step_result;
		case EXITC_ATTN:
		case EXITC_MISS:
			v->rip = c->blocks[v->exit_arg].rip;
			v->hflags = v->flsave;
			break;
		default:
			return block_fault(v);
		}
		/* the block without groups runs at once: the other would only lead here again */
		if (split)
			continue;
		if (atomic_load_explicit(&v->attn, memory_order_relaxed) || v->attn_local ||
		    (v->irq_wait && can_take(v)) || v->mode & MODE_STEP)
			return 0;
	}
}

/* The caller has done what IO, MMIO, HYPERCALL and MSR exits asked for. */
static void replay_complete(struct engine_vcpu *v, const struct engine_exit *x)
{
	if (!v->replay_wait)
		return;
	v->replay_wait = false;
	v->replay[v->replay_n - 1].data = x->access.data;
	if (v->replay[v->replay_n - 1].space == 1 && x->units > 1 && x->more) {
		v->ins.n = MIN(x->units, INS_BYTES / x->access.len);
		memcpy(v->ins.data, x->more, (size_t)v->ins.n * x->access.len);
		v->ins.pos = 1; /* the first is the access itself */
	}
	if (v->replay[v->replay_n - 1].space == 3)
		v->replay[v->replay_n - 1].failed = x->failed;
}

static int internal_error(struct engine_vcpu *v, struct engine_exit *x)
{
	(void)snprintf(x->text, sizeof(x->text), "guest rip %#llx: host fault at %#llx",
		       (unsigned long long)v->rip, (unsigned long long)v->fault_host);
	return -EFAULT;
}

static int no_code(struct engine_vcpu *v, struct engine_exit *x)
{
	(void)snprintf(x->text, sizeof(x->text), "guest rip %#llx: code outside of RAM (%#llx)",
		       (unsigned long long)v->rip, (unsigned long long)x->rip);
	return 0;
}

static void shutdown_text(struct engine_vcpu *v, struct engine_exit *x)
{
	(void)snprintf(x->text, sizeof(x->text), "triple fault: vector %u error %#x at rip %#llx, cr2 %#llx",
		       v->first_exc.vector, v->first_exc.error, (unsigned long long)v->rip,
		       (unsigned long long)v->cr2);
}

/* The C code that met a fault on guest memory will not come back: the instruction has done nothing. */
static void memory_gone(struct engine_vcpu *v)
{
	struct cache *c = v->cache;

	if (v->in_step)
		v->gpr[R_SP] = v->step_sp;
	v->in_step = false;
	if (v->miss_site) {
		struct site *s = &c->sites[v->miss_site];

		v->rip = cache_by_host(c, (uint64_t)cache_rx(c, s->retry))->rip + s->rip;
		if (s->flags_saved)
			v->hflags = v->flsave;
		v->miss_site = 0;
	}
	if (v->split_locked) {
		v->split_locked = false;
		mutex_unlock(&v->vm->split_lock);
	}
	v->exit->reason = ENGINE_EXIT_INTERNAL;
}

static void run_guest(struct engine_vcpu *v, struct engine_exit *x)
{
	int r;

	if (__builtin_setjmp(v->recover)) {
		memory_gone(v);
		return;
	}
	for (;;) {
		r = 0;
		if (atomic_load(&v->attn) || v->attn_local)
			r = attention(v);
		if (!r && (v->event.valid || v->pending_db || v->nmi_pending || v->irq_wait))
			r = events(v);
		if (!r) {
			if (must_step(v)) {
				r = insn_step(v);
				if (!r && (v->debug & ENGINE_DEBUG_STEP))
					v->pending_db |= DB_STEP;
			} else {
				r = block_run(v);
				if (!r && (v->mode & MODE_STEP) && (v->debug & ENGINE_DEBUG_ONE)) {
					x->reason = ENGINE_EXIT_DEBUG;
					x->vector = V_DB;
					x->rip = v->rip;
					r = X_LEAVE;
				}
			}
		}
		if (r == X_EXIT || r == X_LEAVE)
			break;
	}
}

int engine_run(struct engine_vcpu *v, struct engine_exit *x)
{
	uint64_t gs = gs_read();

	if (!v->has_run)
		cache_first_run(v);
	replay_complete(v, x);
	v->exit = x;
	v->fault_foreign = false;
	fault_thread_set(v);
	gs_write((uint64_t)v);
	guest_enter(v);
	run_guest(v, x);
	fpu_put(v);
	guest_leave(v);
	gs_write(gs);
	fault_thread_set(NULL);
	if (x->reason == ENGINE_EXIT_HLT)
		space_idle(v);
	if (x->reason == ENGINE_EXIT_SHUTDOWN)
		shutdown_text(v, x);
	if (x->reason == ENGINE_EXIT_NO_CODE)
		return no_code(v, x);
	return x->reason == ENGINE_EXIT_INTERNAL ? internal_error(v, x) : 0;
}
