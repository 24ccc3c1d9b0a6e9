/* SPDX-License-Identifier: MIT */
#include "engine/cache.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

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

/* C → guest: save what C wants kept, load the guest, jump. SysV ABI: rdi = vcpu, rsi = code. */
static void emit_enter(struct emit *e)
{
	static const uint8_t pushes[] = {0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57};
	struct hmem m;

	for (unsigned int i = 0; i < sizeof(pushes); i++)
		e1(e, pushes[i]);
	e_alu_imm(e, 5, true, H_SP, 8);
	e_store(e, F(enter_pc), H_SI);
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

/* guest → C. with_flags: the host's flags are the guest's. */
static void emit_exit(struct emit *e, bool with_flags)
{
	static const uint8_t pops[] = {0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3};
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
	e_alu_imm(e, 0, true, H_SP, 8);
	for (unsigned int i = 0; i < sizeof(pops); i++)
		e1(e, pops[i]);
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

	for (unsigned int i = 0; i < sizeof(caller_saved); i++)
		e_store(e, gs_gpr(caller_saved[i]), host_reg(caller_saved[i]));
	e_store(e, F(tmp[1]), S0);
	e_load(e, H_DI, F(self));
	e_mov_rr(e, H_SI, S1);
	e_mov_rr(e, H_DX, S2);
	m = F(fill_fn);
	e_rm(e, 0xff, false, 2, &m); /* call */
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
	STUB(s_find, EXITC_FIND, false, true);
	STUB(s_insn, EXITC_INSN, false, true);
	STUB(s_attn, EXITC_ATTN, true, false);
	STUB(s_miss, EXITC_MISS, true, false);
	STUB(s_thunk, EXITC_THUNK, false, false);
	STUB(s_fault, EXITC_FAULT, false, false);
#undef STUB
	c->s_tlb = (uint32_t)(e.p - c->rw);
	emit_tlb(&e, exit_noflags);
}

static void *reserve(size_t n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int cache_create(struct engine_vcpu *v)
{
	struct cache *c = reserve(sizeof(*c));

	if (!c)
		return -ENOMEM;
	v->cache = c;
	c->size = (size_t)v->vm->code_mib << 20;
	c->fd = memfd_create("belfry-code", MFD_CLOEXEC);
	if (c->fd < 0 || ftruncate(c->fd, (off_t)c->size))
		goto fail;
	c->rw = mmap(NULL, c->size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	if (c->rw == MAP_FAILED)
		c->rw = NULL;
	c->rx = mmap(NULL, c->size, PROT_READ | PROT_EXEC, MAP_SHARED, c->fd, 0);
	if (c->rx == MAP_FAILED)
		c->rx = NULL;
	c->max_blocks = (uint32_t)(c->size / 96);
	c->max_links = c->max_blocks * 2;
	c->max_sites = (uint32_t)(c->size / 32);
	c->max_faults = (uint32_t)(c->size / 32);
	c->blocks = reserve(c->max_blocks * sizeof(struct block));
	c->links = reserve(c->max_links * sizeof(struct link));
	c->sites = reserve(c->max_sites * sizeof(struct site));
	c->faults = reserve(c->max_faults * sizeof(struct fault_at));
	if (!c->rw || !c->rx || !c->blocks || !c->links || !c->sites || !c->faults)
		goto fail;
	stubs_emit(c);
	v->enter_stub = cache_rx(c, c->s_enter);
	c->thunks = 4096;
	c->base = (c->thunks + INSN_CACHE * THUNK_SIZE + 63) & ~63u;
	c->pos = c->base;
	v->thunks = c->rw + c->thunks;
	for (unsigned int i = 0; i < JC_SIZE; i++)
		v->jc[i] = cache_rx(c, c->s_find);
	return 0;
fail:
	cache_destroy(v);
	return -ENOMEM;
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
	if (c->rw)
		munmap(c->rw, c->size);
	if (c->rx)
		munmap(c->rx, c->size);
	if (c->fd >= 0)
		close(c->fd);
	if (c->blocks)
		munmap(c->blocks, c->max_blocks * sizeof(struct block));
	if (c->links)
		munmap(c->links, c->max_links * sizeof(struct link));
	if (c->sites)
		munmap(c->sites, c->max_sites * sizeof(struct site));
	if (c->faults)
		munmap(c->faults, c->max_faults * sizeof(struct fault_at));
	munmap(c, sizeof(*c));
	v->cache = NULL;
}

void cache_flush(struct engine_vcpu *v)
{
	struct cache *c = v->cache;

	v->stats.flushes++;
	/* marks in the page words stay: a later write finds no blocks and clears them */
	pages_free(c);
	for (unsigned int i = 0; i < BLOCK_HASH; i++)
		c->hash[i] = NULL;
	for (unsigned int i = 0; i < JC_SIZE; i++)
		v->jc[i] = cache_rx(c, c->s_find);
	c->pos = c->base;
	c->n_blocks = c->n_links = c->n_sites = c->n_faults = 0;
}

void code_flush(struct engine_vcpu *v)
{
	cache_flush(v);
}

void cache_reserve(struct engine_vcpu *v)
{
	struct cache *c = v->cache;

	if (c->pos + 65536 > c->size || c->n_blocks + 1 > c->max_blocks || c->n_links + 8 > c->max_links ||
	    c->n_sites + 512 > c->max_sites || c->n_faults + 512 > c->max_faults)
		cache_flush(v);
}

static unsigned int block_hash(gpa_t gpa, uint64_t rip, uint32_t mode)
{
	uint64_t h = gpa ^ (rip >> 12) * 0x9e3779b97f4a7c15ull ^ (uint64_t)mode * 0x85ebca6bu;

	return (unsigned int)(h ^ h >> 16 ^ h >> 32) & (BLOCK_HASH - 1);
}

struct block *cache_find(struct cache *c, gpa_t gpa, uint64_t rip, uint32_t mode)
{
	struct block *b = c->hash[block_hash(gpa, rip, mode)];

	while (b && (b->gpa != gpa || b->rip != rip || b->mode != mode))
		b = b->hash_next;
	return b;
}

struct block *cache_by_host(struct cache *c, uint64_t host)
{
	uint64_t off = host - (uint64_t)c->rx;
	uint32_t lo = 0, hi = c->n_blocks;

	if (off < c->base || off >= c->pos)
		return NULL;
	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (off >= c->blocks[mid].end)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < c->n_blocks ? &c->blocks[lo] : NULL;
}

static struct code_page **page_slot(struct cache *c, gpa_t gpa)
{
	struct code_page **p = &c->pages[(gpa >> 12) % PAGE_HASH];

	while (*p && (*p)->gpa != gpa)
		p = &(*p)->next;
	return p;
}

bool cache_add(struct engine_vcpu *v, struct block *b, const uint8_t *host_page)
{
	struct cache *c = v->cache;
	unsigned int h = block_hash(b->gpa, b->rip, b->mode);
	gpa_t gpa = b->gpa & PAGE_MASK_;
	struct code_page **slot = page_slot(c, gpa), *p = *slot;
	unsigned int from = (unsigned int)(b->gpa & 4095), to = from + b->len - 1;

	if (!p) {
		p = c->free_pages;
		if (p)
			c->free_pages = p->next;
		else
			p = malloc(sizeof(*p));
		if (!p)
			return false;
		p->gpa = gpa;
		p->blocks = NULL;
		p->granules = 0;
		p->spared = 0;
		p->next = NULL;
		*slot = p;
	}
	for (unsigned int g = from / 64; g <= to / 64 && g < 64; g++)
		if (!(p->granules >> g & 1)) {
			p->granules |= 1ull << g;
			bytes_copy(p->copy + 64 * g, host_page + 64 * g, 64);
		}
	b->page_next = p->blocks;
	p->blocks = b;
	b->hash_next = c->hash[h];
	c->hash[h] = b;
	return true;
}

/* One store, so that the thread never sees half a displacement. */
static void patch32(struct cache *c, uint32_t at, int32_t d)
{
	__asm__ volatile("movl %1, %0" : "=m"(*(uint8_t(*)[4])(c->rw + at)) : "r"(d));
}

void cache_unchain(struct cache *c, struct link *l)
{
	int32_t d = (int32_t)(l->stub - (l->patch + 4));

	if (!l->to)
		return;
	patch32(c, l->patch, d);
	*l->prev_in = l->next_in;
	if (l->next_in)
		l->next_in->prev_in = l->prev_in;
	l->to = NULL;
}

void cache_chain(struct cache *c, struct link *l, struct block *to)
{
	int32_t d = (int32_t)(to->entry[l->entry] - (l->patch + 4));

	if (l->to)
		cache_unchain(c, l);
	l->to = to;
	l->next_in = to->incoming;
	l->prev_in = &to->incoming;
	if (to->incoming)
		to->incoming->prev_in = &l->next_in;
	to->incoming = l;
	patch32(c, l->patch, d);
}

static void block_drop(struct engine_vcpu *v, struct block *b)
{
	struct cache *c = v->cache;
	struct block **p = &c->hash[block_hash(b->gpa, b->rip, b->mode)];

	while (*p && *p != b)
		p = &(*p)->hash_next;
	if (*p)
		*p = b->hash_next;
	while (b->incoming)
		cache_unchain(c, b->incoming);
	for (uint32_t i = 0; i < b->n_links; i++)
		cache_unchain(c, &c->links[b->link0 + i]);
	if (v->jc[b->rip & (JC_SIZE - 1)] == cache_rx(c, b->entry[ENTRY_IND]))
		v->jc[b->rip & (JC_SIZE - 1)] = cache_rx(c, c->s_find);
	b->dead = true;
	v->stats.dropped++;
}

static void page_drop(struct engine_vcpu *v, struct code_page **slot)
{
	struct cache *c = v->cache;
	struct code_page *p = *slot;

	for (struct block *b = p->blocks; b; b = b->page_next)
		block_drop(v, b);
	*slot = p->next;
	p->next = c->free_pages;
	c->free_pages = p;
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
	struct code_page **slot = page_slot(v->cache, gpa & PAGE_MASK_);

	if (*slot)
		page_drop(v, slot);
}

static bool bytes_equal(const void *a, const void *b, size_t n)
{
	const uint64_t *x = a, *y = b;
	uint64_t d = 0;

	for (size_t i = 0; i < n / 8; i++)
		d |= x[i] ^ y[i];
	return !d;
}

void cache_page_verify(struct engine_vcpu *v, gpa_t gpa, const uint8_t *host)
{
	struct code_page **slot = page_slot(v->cache, gpa), *p = *slot;

	if (!p)
		return;
	for (uint64_t g = p->granules; g; g &= g - 1) {
		unsigned int i = (unsigned int)__builtin_ctzll(g);

		if (!bytes_equal(p->copy + 64 * i, host + 64 * i, 64)) {
			page_drop(v, slot);
			return;
		}
	}
}
