/* SPDX-License-Identifier: MIT */
#include "engine/cache.h"

#include <stdlib.h>
#include <sys/random.h>

/* Host registers that hold guest registers, in the order they are stored. */
static const uint8_t kept[] = {R_CX, R_DX, R_BX, R_BP, R_SI, R_DI, R_8, R_12, R_13, R_14, R_SP};

static struct hmem field(size_t off)
{
	return (struct hmem){.base = -1, .index = -1, .gs = true, .disp = (int32_t)off};
}

#define F(f) field(offsetof(struct engine_vcpu, f))

static void store32(struct emit *e, struct hmem m, uint32_t imm)
{
	e_rm(e, 0xc7, false, 0, &m);
	e4(e, imm);
}

/* An empty return stack below RSP; at its bottom the way for a return that no call was seen of. */
static void emit_return_stack(struct emit *e)
{
	e_alu_imm(e, 4, true, H_SP, -(int32_t)RETURN_STACK);
	e_alu_imm(e, 5, true, H_SP, 16);
	e_load(e, H_AX, F(under));
	e_store(e, at(H_SP, 0), H_AX);
}

/* C → guest: save what C wants kept, load the guest, jump. SysV ABI: rdi = vcpu, rsi = code. */
static void emit_enter(struct emit *e)
{
	static const uint8_t pushes[] = {0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57};
	struct hmem m;

	for (unsigned int i = 0; i < sizeof(pushes); i++)
		e1(e, pushes[i]);
	e_alu_imm(e, 5, true, H_SP, 8);
	e_store(e, F(enter_pc), H_SI);
	e_store(e, F(host_sp), H_SP);
	emit_return_stack(e);
	e_load(e, S0, F(rip)); /* for ENTRY_IND */
	/* flags: AL + 127 overflows exactly if AL = 1 */
	m = F(hflags);
	e_rm(e, 0x0fb7, false, H_AX, &m);
	e1(e, 0x04);
	e1(e, 0x7f);
	e1(e, 0x9e); /* sahf */
	e_load(e, H_AX, gs_gpr(R_AX));
	for (unsigned int i = 0; i < sizeof(kept); i++)
		e_load(e, host_reg(kept[i]), gs_gpr(kept[i]));
	m = F(enter_pc);
	e_rm(e, 0xff, false, 4, &m);
}

static void emit_leave(struct emit *e)
{
	static const uint8_t pops[] = {0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3};

	e_load(e, H_SP, F(host_sp));
	e_alu_imm(e, 0, true, H_SP, 8);
	for (unsigned int i = 0; i < sizeof(pops); i++)
		e1(e, pops[i]);
}

/* guest → C. with_flags: the host's flags are the guest's. */
static void emit_exit(struct emit *e, bool with_flags)
{
	struct hmem m;

	e_store(e, gs_gpr(R_AX), H_AX);
	if (with_flags) {
		e1(e, 0x9f); /* lahf */
		e1(e, 0x0f);
		e1(e, 0x90);
		e1(e, 0xc0); /* seto al */
		m = F(hflags);
		e1(e, 0x66);
		e_rm(e, 0x89, false, H_AX, &m);
	}
	for (unsigned int i = 0; i < sizeof(kept); i++)
		e_store(e, gs_gpr(kept[i]), host_reg(kept[i]));
	emit_leave(e);
}

/*
 * TLB miss: S1 = address, S2 = site. Called with guest registers live. The look-up is done again
 * from its base register, which may be S0; S1 and S2 it makes anew.
 */
static void emit_tlb(struct emit *e, const uint8_t *exit_noflags)
{
	static const uint8_t caller_saved[] = {R_AX, R_CX, R_DX, R_SI, R_DI, R_8};
	struct hmem m;
	uint8_t *j;

	/* those that C keeps too: it may not come back (memory_gone()) */
	e_store(e, gs_gpr(R_AX), H_AX);
	for (unsigned int i = 0; i < sizeof(kept); i++)
		e_store(e, gs_gpr(kept[i]), host_reg(kept[i]));
	e_store(e, F(tmp[1]), S0);
	e_load(e, H_DI, F(self));
	e_mov_rr(e, H_SI, S1);
	e_mov_rr(e, H_DX, S2);
	e_store(e, F(tmp[2]), H_SP);
	e_alu_imm(e, 4, true, H_SP, -16);
	m = F(fill_fn);
	e_rm(e, 0xff, false, 2, &m); /* call */
	e_load(e, H_SP, F(tmp[2]));
	e_mov_rr(e, S2, H_AX);
	e_load(e, S0, F(tmp[1]));
	e_rr(e, 0x85, true, H_AX, H_AX);
	for (unsigned int i = 0; i < sizeof(caller_saved); i++)
		e_load(e, host_reg(caller_saved[i]), gs_gpr(caller_saved[i]));
	j = e_jcc(e, 4);
	e_rr(e, 0xff, false, 4, S2); /* jmp */
	e_patch_here(e, j);
	e_jmp_to(e, exit_noflags);
}

/*
 * C executes the instruction at S0 that S2 points at the decoding of, with all state where it wants
 * it; flags are in flsave. The return stack is thrown away as on every way to C.
 */
static void emit_step(struct emit *e)
{
	struct hmem m = F(step_fn);
	uint8_t *leave;

	e_store(e, F(rip), S0);
	e_store(e, gs_gpr(R_AX), H_AX);
	for (unsigned int i = 0; i < sizeof(kept); i++)
		e_store(e, gs_gpr(kept[i]), host_reg(kept[i]));
	e_load(e, H_DI, F(self));
	e_mov_rr(e, H_SI, S2);
	e_load(e, H_SP, F(host_sp));
	emit_return_stack(e);
	e_rm(e, 0xff, false, 2, &m); /* call */
	e_rr(e, 0x84, false, H_AX, H_AX);
	leave = e_jcc(e, 4);
	e_load(e, S0, F(rip));
	e_load(e, H_AX, gs_gpr(R_AX));
	for (unsigned int i = 0; i < sizeof(kept); i++)
		e_load(e, host_reg(kept[i]), gs_gpr(kept[i]));
	jump_emit(e, 4);
	e_patch_here(e, leave);
	emit_leave(e);
}

/*
 * Not in the recent page: S1 = first byte, S2 = last. If the tables have the page, ZF = 1, S1 = the addend,
 * which is the recent one then if it may be written. Else ZF = 0; S2 is lost.
 */
static void emit_recent(struct emit *e, enum tlb_mode tm, bool write)
{
	struct hmem tag = {.base = H_AX, .index = -1, .gs = true,
			   .disp = (int32_t)offsetof(struct engine_vcpu, tlb[tm][TLB_W][0])};
	struct hmem page = F(recent[tm].page), addend = F(recent[tm].addend);
	uint8_t *out;

	e_store(e, F(tmp[3]), H_AX);
	e_mov_rr(e, H_AX, S1);
	e_shift(e, 5, H_AX, 8);
	e_alu_imm(e, 4, false, H_AX, (TLB_WAY - 1) << 4);
	e_shift(e, 7, S2, 12);
	e_alu_imm(e, 4, true, S1, -4096);
	e_rm(e, 0x39, true, S2, &tag);
	out = e_jcc(e, 5);
	e_store(e, page, S1);
	tag.disp += 8;
	e_load(e, S1, tag);
	e_store(e, addend, S1);
	e_load(e, H_AX, F(tmp[3]));
	e1(e, 0xc3);
	e_patch_here(e, out);
	if (!write) {
		tag.disp = (int32_t)offsetof(struct engine_vcpu, tlb[tm][TLB_R][0]);
		e_rm(e, 0x39, true, S2, &tag);
		tag.disp += 8;
		e_load(e, S1, tag);
	}
	e_load(e, H_AX, F(tmp[3]));
	e1(e, 0xc3);
}

void jump_emit(struct emit *e, int op)
{
	struct hmem m = {.base = -1, .index = S1, .scale = 3, .gs = true,
			 .disp = (int32_t)offsetof(struct engine_vcpu, jc)};

	e_rr(e, 0x0fb7, false, S1, S0);
	e_rm(e, 0xff, false, op, &m);
}

static void stubs_emit(struct cache *c)
{
	struct emit e = {.p = c->rw, .end = c->rw + 4096};
	const uint8_t *exit_flags, *exit_noflags;

	c->s_enter = 0;
	emit_enter(&e);
	exit_flags = e.p;
	emit_exit(&e, true);
	exit_noflags = e.p;
	emit_exit(&e, false);
#define STUB(name, code, with_arg, with_rip)                       \
	do {                                                       \
		c->name = (uint32_t)(e.p - c->rw);                 \
		store32(&e, F(exit_code), code);                   \
		if (with_arg) {                                    \
			struct hmem m_ = F(exit_arg);              \
			e_rm(&e, 0x89, false, S2, &m_);            \
		}                                                  \
		if (with_rip)                                      \
			e_store(&e, F(rip), S0);                   \
		e_jmp_to(&e, exit_flags);                          \
	} while (0)
	STUB(s_link, EXITC_LINK, true, false);
	STUB(s_find, EXITC_FIND, true, true);
	STUB(s_insn, EXITC_INSN, false, true);
	STUB(s_attn, EXITC_ATTN, true, false);
	STUB(s_miss, EXITC_MISS, true, false);
	STUB(s_thunk, EXITC_THUNK, false, false);
	STUB(s_fault_end, EXITC_FAULT, false, false);
#undef STUB
	c->s_fault = (uint32_t)(e.p - c->rw);
	e_store(&e, F(tmp[2]), S2); /* for insn_undo() */
	e_jmp_to(&e, c->rw + c->s_fault_end);
	c->s_tlb = (uint32_t)(e.p - c->rw);
	emit_tlb(&e, exit_noflags);
	for (unsigned int m = 0; m < TM_COUNT; m++)
		for (unsigned int w = 0; w < 2; w++) {
			c->s_recent[m][w] = (uint32_t)(e.p - c->rw);
			emit_recent(&e, m, w == TLB_W);
		}
	c->s_step = (uint32_t)(e.p - c->rw);
	emit_step(&e);
	/* a return beyond the bottom of the return stack: the bottom is still there */
	c->s_under = (uint32_t)(e.p - c->rw);
	e_lea(&e, H_SP, at(H_SP, -8), true);
	/* indirect jump to S0, flags in flsave */
	c->s_jump = (uint32_t)(e.p - c->rw);
	jump_emit(&e, 4);
}

int cache_create(struct engine_vcpu *v)
{
	int r = space_create(v);
	struct cache *c = v->cache;

	if (r)
		return r;
	if (getrandom(c->sum_key, sizeof(c->sum_key), 0) != sizeof(c->sum_key)) {
		space_destroy(v);
		return -EIO;
	}
	stubs_emit(c);
	v->enter_stub = cache_rx(c, c->s_enter);
	v->under = cache_rx(c, c->s_under);
	v->thunks = c->rw + c->thunks;
	return 0;
}

void cache_first_run(struct engine_vcpu *v)
{
	for (unsigned int i = 0; i < JC_SIZE; i++)
		v->jc[i] = cache_rx(v->cache, v->cache->s_find);
	v->has_run = true;
}

static void pages_free(struct cache *c)
{
	for (unsigned int i = 0; i < PAGE_HASH; i++)
		while (c->pages[i]) {
			struct code_page *p = c->pages[i];

			c->pages[i] = p->next;
			p->next = c->free_pages;
			c->free_pages = p;
		}
}

void cache_destroy(struct engine_vcpu *v)
{
	struct cache *c = v->cache;

	if (!c)
		return;
	pages_free(c);
	while (c->free_pages) {
		struct code_page *p = c->free_pages;

		c->free_pages = p->next;
		free(p);
	}
	space_destroy(v);
}

void cache_flush(struct engine_vcpu *v)
{
	struct cache *c = v->cache;

	v->stats.flushes++;
	c->generation++;
	/* marks in the page words stay: a later write finds no blocks and clears them */
	pages_free(c);
	for (unsigned int i = 0; i < BLOCK_HASH; i++)
		c->hash[i] = 0;
	if (v->has_run)
		cache_first_run(v);
	space_reset(c);
}

void code_flush(struct engine_vcpu *v)
{
	cache_flush(v);
}

static unsigned int block_hash(gpa_t gpa, uint64_t rip, uint32_t mode)
{
	uint64_t h = gpa ^ (rip >> 12) * 0x9e3779b97f4a7c15ull ^ (uint64_t)mode * 0x85ebca6bu;

	return (unsigned int)(h ^ h >> 16 ^ h >> 32) & (BLOCK_HASH - 1);
}

struct block *cache_find(struct cache *c, gpa_t gpa, uint64_t rip, uint32_t mode, uint32_t second)
{
	uint32_t i = c->hash[block_hash(gpa, rip, mode)];

	for (; i; i = c->blocks[i].hash_next) {
		struct block *b = &c->blocks[i];

		if (b->gpa == gpa && b->rip == rip && b->mode == mode && (!second || b->second == second))
			return b;
	}
	return NULL;
}

struct block *cache_by_host(struct cache *c, uint64_t host)
{
	uint64_t off = host - (uint64_t)c->rx;
	uint32_t i = (uint32_t)((off - c->base) / SPAN_CODE), lo, hi, end;

	if (off < c->base || off >= c->size)
		return NULL;
	lo = i * SPAN_BLOCKS;
	hi = end = i == c->filling ? c->n_blocks : c->span[i].n_blocks;
	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (off >= c->blocks[mid].end)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < end ? &c->blocks[lo] : NULL;
}

static struct code_page **page_slot(struct cache *c, gpa_t gpa)
{
	struct code_page **p = &c->pages[(gpa >> 12) % PAGE_HASH];

	while (*p && (*p)->gpa != gpa)
		p = &(*p)->next;
	return p;
}

/*
 * A number that another 64 bytes, or the same at another place, hardly have. Keyed: who
 * could make two pages of one sum in a guest could have one run as the other.
 */
static uint64_t granule_sum(const struct cache *c, const uint8_t *page, unsigned int g)
{
	const uint64_t *k = c->sum_key, *w = (const uint64_t *)(page + 64 * g);
	uint64_t a = g;

	for (unsigned int i = 0; i < 4; i++) {
		__uint128_t m = (__uint128_t)(w[2 * i] ^ k[i]) * (w[2 * i + 1] ^ k[3 - i] ^ (k[1] * (g + 1)));

		a = (a << 17 | a >> 47) + ((uint64_t)m ^ (uint64_t)(m >> 64));
	}
	return a * (k[0] | 1);
}

static void page_free(struct cache *c, struct code_page **slot)
{
	struct code_page *p = *slot;

	*slot = p->next;
	p->next = c->free_pages;
	c->free_pages = p;
}

/* The page's record, made if there is none. NULL: no memory. */
static struct code_page *page_record(struct cache *c, gpa_t gpa)
{
	struct code_page **slot = page_slot(c, gpa), *p = *slot;

	if (p)
		return p;
	p = c->free_pages;
	if (p)
		c->free_pages = p->next;
	else
		p = malloc(sizeof(*p));
	if (!p)
		return NULL;
	*p = (struct code_page){.gpa = gpa};
	*slot = p;
	return p;
}

/* Granules that bytes [from, to] of a page lie in. */
static uint64_t granules_of(unsigned int from, unsigned int to)
{
	return (~0ull << from / 64) & (~0ull >> (63 - to / 64));
}

/* Blocks are made from these granules, too. */
static void page_sum(const struct cache *c, struct code_page *p, const uint8_t *host, uint64_t granules)
{
	for (granules &= ~p->granules; granules; granules &= granules - 1) {
		unsigned int g = (unsigned int)__builtin_ctzll(granules);

		p->granules |= 1ull << g;
		p->sum ^= granule_sum(c, host, g);
	}
}

bool cache_add(struct engine_vcpu *v, struct block *b, const uint8_t *page, const uint8_t *second,
	       uint64_t granules)
{
	struct cache *c = v->cache;
	unsigned int h = block_hash(b->gpa, b->rip, b->mode);
	unsigned int from = (unsigned int)(b->gpa & 4095), end = from + b->len;
	struct code_page *p = page_record(c, b->gpa & PAGE_MASK_), *q = NULL;
	uint32_t i = (uint32_t)(b - c->blocks);

	if (!p)
		return false;
	if (b->second) {
		q = page_record(c, SECOND_GPA(b));
		if (!q) {
			if (!p->blocks && !p->ending)
				page_free(c, page_slot(c, p->gpa));
			return false;
		}
		page_sum(c, q, second, 1);
		b->second_next = q->ending;
		q->ending = i;
		end = 4096;
	}
	page_sum(c, p, page, granules | granules_of(from, end - 1));
	b->page_next = p->blocks;
	p->blocks = i;
	b->hash_next = c->hash[h];
	c->hash[h] = i;
	return true;
}

/* One store, so that the thread never sees half a displacement. */
static void patch32(struct cache *c, uint32_t at, int32_t d)
{
	__asm__ volatile("movl %1, %0" : "=m"(*(uint8_t(*)[4])(c->rw + at)) : "r"(d));
	c->patches++;
}

void cache_unchain(struct cache *c, struct link *l)
{
	if (!l->to)
		return;
	patch32(c, l->patch, (int32_t)l->stub - 4);
	if (l->prev_in)
		c->links[l->prev_in].next_in = l->next_in;
	else
		c->blocks[l->to].incoming = l->next_in;
	if (l->next_in)
		c->links[l->next_in].prev_in = l->prev_in;
	l->to = 0;
}

void cache_chain(struct cache *c, struct link *l, struct block *to)
{
	uint32_t i = (uint32_t)(l - c->links);

	if (l->to)
		cache_unchain(c, l);
	l->to = (uint32_t)(to - c->blocks);
	l->next_in = to->incoming;
	l->prev_in = 0;
	if (to->incoming)
		c->links[to->incoming].prev_in = i;
	to->incoming = i;
	patch32(c, l->patch, (int32_t)(to->entry[l->entry] - (l->patch + 4)));
}

static void page_unlink(struct cache *c, gpa_t gpa, uint32_t i, bool ending)
{
	struct code_page **slot = page_slot(c, gpa), *p = *slot;
	uint32_t *at = ending ? &p->ending : &p->blocks;

	while (*at != i)
		at = ending ? &c->blocks[*at].second_next : &c->blocks[*at].page_next;
	*at = ending ? c->blocks[i].second_next : c->blocks[i].page_next;
	/* while it has blocks it keeps its sum: of more than is left, which is harmless */
	if (!p->blocks && !p->ending)
		page_free(c, slot);
}

/* Nothing leads to it any more. It may still be running. */
static void block_drop(struct engine_vcpu *v, struct block *b)
{
	struct cache *c = v->cache;
	uint32_t *p = &c->hash[block_hash(b->gpa, b->rip, b->mode)];

	while (*p && &c->blocks[*p] != b)
		p = &c->blocks[*p].hash_next;
	if (*p)
		*p = b->hash_next;
	while (b->incoming)
		cache_unchain(c, &c->links[b->incoming]);
	for (uint32_t i = 0; i < b->n_links; i++)
		cache_unchain(c, &c->links[b->link0 + i]);
	if (v->jc[b->rip & (JC_SIZE - 1)] == cache_rx(c, b->entry[ENTRY_IND]))
		v->jc[b->rip & (JC_SIZE - 1)] = cache_rx(c, c->s_find);
	page_unlink(c, b->gpa & PAGE_MASK_, (uint32_t)(b - c->blocks), false);
	if (b->second)
		page_unlink(c, SECOND_GPA(b), (uint32_t)(b - c->blocks), true);
	b->dead = true;
	c->generation++;
}

/* All blocks that begin or end in the page. */
static void page_drop(struct engine_vcpu *v, gpa_t gpa)
{
	struct cache *c = v->cache;
	struct code_page *p;

	while ((p = *page_slot(c, gpa))) {
		block_drop(v, &c->blocks[p->blocks ? p->blocks : p->ending]);
		v->stats.dropped++;
	}
}

void cache_evict(struct engine_vcpu *v, uint32_t first, uint32_t end)
{
	struct cache *c = v->cache;

	for (uint32_t i = first; i < end; i++)
		if (!c->blocks[i].dead)
			block_drop(v, &c->blocks[i]);
}

bool cache_spare_write(struct engine_vcpu *v, gpa_t gpa, unsigned int len)
{
	struct code_page *p = *page_slot(v->cache, gpa & PAGE_MASK_);
	unsigned int from = (unsigned int)(gpa & 4095), to = from + len - 1;

	if (!p || to > 4095 || p->spared++ >= 256)
		return false;
	for (unsigned int g = from / 64; g <= to / 64; g++)
		if (p->granules >> g & 1)
			return false;
	return true;
}

void cache_drop_page(struct engine_vcpu *v, gpa_t gpa)
{
	page_drop(v, gpa & PAGE_MASK_);
}

void cache_page_verify(struct engine_vcpu *v, gpa_t gpa, const uint8_t *host, bool marked)
{
	struct code_page *p = *page_slot(v->cache, gpa);
	uint64_t sum = 0;

	if (!p)
		return;
	for (uint64_t g = marked ? p->granules : 0; g; g &= g - 1)
		sum ^= granule_sum(v->cache, host, (unsigned int)__builtin_ctzll(g));
	if (!marked || sum != p->sum)
		page_drop(v, gpa);
}
