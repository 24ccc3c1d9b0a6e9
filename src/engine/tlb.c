/* SPDX-License-Identifier: MIT
 *
 * engine/tlb: the tables that translated code looks addresses up in, their
 * filling and flushing. docs/ENGINE.md, "TLB".
 */
#include "engine/cache.h"

struct slot *slot_find(struct engine_vcpu *v, gpa_t gpa)
{
	struct range *r;

	if (v->last_slot && gpa - v->last_slot->r.start < v->last_slot->r.size)
		return v->last_slot;
	r = ranges_find(v->map, gpa);
	if (!r)
		return NULL;
	v->last_slot = container_of(r, struct slot, r);
	return v->last_slot;
}

void slot_dirty(struct engine_vcpu *v, const struct slot *s, gpa_t gpa)
{
	uint64_t page = (gpa - s->r.start) >> 12, bit = 1ull << (page % 64);

	if (!s->dirty || __atomic_fetch_or(&s->dirty[page / 64], bit, __ATOMIC_SEQ_CST) & bit)
		return;
	if (v->ops->dirtied)
		v->ops->dirtied(v->cpu, s->id, page);
}

static inline unsigned int tlb_index(uint64_t lin, unsigned int cls)
{
	return cls * TLB_WAY + ((unsigned int)(lin >> 12) & (TLB_WAY - 1));
}

static inline void private_set(struct engine_vcpu *v, unsigned int n, bool global)
{
	uint64_t bit = 1ull << (n % 64);

	if (global)
		v->tlb_private[n / 64] &= ~bit;
	else
		v->tlb_private[n / 64] |= bit;
}

static void table_clear(struct tlb_entry *t)
{
	for (unsigned int i = 0; i < TLB_SIZE; i++)
		t[i].tag = TLB_NOTAG;
}

/* Some tag is about to go: what was taken from the tables goes too. */
static void recent_forget(struct engine_vcpu *v)
{
	v->drop_epoch++;
	for (unsigned int m = 0; m < TM_COUNT; m++) {
		v->recent[m].page = RECENT_NONE;
		v->recent[m].addend = 0;
	}
}

void tlb_flush_present(struct engine_vcpu *v)
{
	recent_forget(v);
	v->stats.tlb_flushes++;
	for (unsigned int m = 0; m < TM_COUNT; m++) {
		for (unsigned int w = 0; w < 2; w++)
			table_clear(v->tlb[m][w]);
		for (unsigned int i = 0; i < ITLB_SIZE; i++) {
			v->itlb[m][i].tag = TLB_NOTAG;
			v->itlb_key[m][i] = ~0ull;
		}
	}
	v->write_modes = 0;
	for (unsigned int i = 0; i < TLB_ALL / 64; i++)
		v->tlb_private[i] = 0;
}

void tlb_flush_all(struct engine_vcpu *v)
{
	tlb_flush_present(v);
	pcid_forget_all(v);
	for (unsigned int i = 0; i < 2; i++) {
		v->large[i].lo = ~0ull;
		v->large[i].hi = 0;
	}
}

void tlb_flush_private(struct engine_vcpu *v)
{
	recent_forget(v);
	v->stats.tlb_flushes++;
	for (unsigned int i = 0; i < TLB_ALL / 64; i++) {
		for (uint64_t w = v->tlb_private[i]; w; w &= w - 1) {
			unsigned int n = 64 * i + (unsigned int)__builtin_ctzll(w);

			if (n < TLB_DATA) {
				tlb_at(v, n)->tag = TLB_NOTAG;
			} else {
				itlb_at(v, n - TLB_DATA)->tag = TLB_NOTAG;
				*itlb_key_at(v, n - TLB_DATA) = ~0ull;
			}
		}
		v->tlb_private[i] = 0;
	}
}

bool tlb_in_large(const struct engine_vcpu *v, uint64_t lin)
{
	return lin >= v->large[lin >> 63].lo && lin < v->large[lin >> 63].hi;
}

void tlb_flush_page(struct engine_vcpu *v, uint64_t lin)
{
	uint64_t tag = page_tag(lin);
	unsigned int k = (unsigned int)tag & (ITLB_SIZE - 1);

	recent_forget(v);
	if (tlb_in_large(v, lin)) {
		/* part of a larger page: its other fragments must go too */
		tlb_flush_present(v);
		return;
	}
	for (unsigned int m = 0; m < TM_COUNT; m++) {
		for (unsigned int w = 0; w < 2; w++)
			for (unsigned int c = 0; c < TLB_CLASSES; c++)
				if (v->tlb[m][w][tlb_index(lin, c)].tag == tag)
					v->tlb[m][w][tlb_index(lin, c)].tag = TLB_NOTAG;
		if (v->itlb[m][k].tag == tag) {
			v->itlb[m][k].tag = TLB_NOTAG;
			v->itlb_key[m][k] = ~0ull;
		}
	}
}

void tlb_drop_write(struct engine_vcpu *v)
{
	recent_forget(v);
	v->write_epoch++;
	v->write_modes = 0;
	for (unsigned int m = 0; m < TM_COUNT; m++)
		table_clear(v->tlb[m][TLB_W]);
}

/* Whatever address it was found at: all is looked at where there is something. */
void tlb_drop_write_page(struct engine_vcpu *v, gpa_t gpa)
{
	struct slot *s = slot_find(v, gpa);

	recent_forget(v);
	v->write_epoch++;
	if (!s)
		return;
	uint64_t host = (uint64_t)slot_host(s, gpa & PAGE_MASK_);

	for (unsigned int m = 0; m < TM_COUNT; m++) {
		if (!(v->write_modes >> m & 1))
			continue;
		for (unsigned int i = 0; i < TLB_SIZE; i++) {
			struct tlb_entry *t = &v->tlb[m][TLB_W][i];

			if (t->tag != TLB_NOTAG && (t->tag << 12) + t->addend == host)
				t->tag = TLB_NOTAG;
		}
	}
}

static void large_note(struct engine_vcpu *v, uint64_t lin, uint64_t size)
{
	uint64_t lo = lin & ~(size - 1), hi = lo + size;
	unsigned int half = lin >> 63;

	if (lo < v->large[half].lo)
		v->large[half].lo = lo;
	if (hi - 1 >= v->large[half].hi)
		v->large[half].hi = hi ? hi : ~0ull;
}

static void tlb_set(struct engine_vcpu *v, enum tlb_mode m, int w, uint64_t lin, unsigned int cls,
		    uint8_t *host, const struct walk *wk)
{
	unsigned int i = tlb_index(lin, cls);

	private_set(v, ((unsigned int)m * 2 + (unsigned int)w) * TLB_SIZE + i, wk->global);
	if (w == TLB_W)
		v->write_modes |= 1u << m;
	v->tlb[m][w][i].tag = page_tag(lin);
	v->tlb[m][w][i].addend = (uint64_t)host - (lin & PAGE_MASK_);
	if (wk->page_size > 4096)
		large_note(v, lin, wk->page_size);
}

/* Find the page for C and fill the table if translated code may use it directly. */
int page_get_class(struct engine_vcpu *v, uint64_t lin, bool write, enum tlb_mode m, unsigned int cls,
		   struct pageref *r)
{
	int rw = write ? TLB_W : TLB_R;
	uint64_t tag = page_tag(lin);
	struct tlb_entry *t = &v->tlb[m][rw][tlb_index(lin, cls)];
	struct device_page *d = &v->device[m][rw][tag % DEVICE_PAGES];
	struct walk w;
	int x;

	if (t->tag == tag) {
		r->host = (uint8_t *)(lin + t->addend);
		r->slot = NULL; /* direct: nothing to note */
		r->rom = NULL;
		return X_NEXT;
	}
	if (d->tag == tag && d->epoch == v->drop_epoch) {
		*r = (struct pageref){ .gpa = d->gpa | (lin & 4095) };
		return X_NEXT;
	}
	x = mmu_walk(v, lin, write, false, m, false, &w);
	if (x)
		return x;
	*r = (struct pageref){ .gpa = w.gpa, .slot = slot_find(v, w.gpa) };
	if (!r->slot) {
		*d = (struct device_page){ .tag = tag, .epoch = v->drop_epoch, .gpa = w.gpa & PAGE_MASK_ };
		return X_NEXT;
	}
	if (write && (r->slot->flags & ENGINE_SLOT_RDONLY)) {
		r->rom = slot_host(r->slot, w.gpa);
		r->slot = NULL;
		return X_NEXT;
	}
	r->host = slot_host(r->slot, w.gpa);
	if (!(v->cr0 & CR0_PG))
		lin &= 0xffffffffu;
	v->stats.tlb_fills++;
	if (!write) {
		tlb_set(v, m, TLB_R, lin, cls, r->host - (lin & 4095), &w);
		return X_NEXT;
	}
	if (page_take_write(v, r->slot, w.gpa)) {
		/* the tag first, the mark after: a scan of the marks then finds either the
		 * mark or no tag (docs/ENGINE.md, "Dirty log") */
		tlb_set(v, m, TLB_W, lin, cls, r->host - (lin & 4095), &w);
	}
	slot_dirty(v, r->slot, w.gpa);
	return X_NEXT;
}

int page_get(struct engine_vcpu *v, uint64_t lin, bool write, enum tlb_mode m, struct pageref *r)
{
	return page_get_class(v, lin, write, m, 0, r);
}

struct itlb_entry *itlb_get(struct engine_vcpu *v, uint64_t lin)
{
	enum tlb_mode m = data_mode(v);
	uint64_t tag = page_tag(lin);
	unsigned int i = (unsigned int)tag & (ITLB_SIZE - 1);
	struct itlb_entry *e = &v->itlb[m][i];
	struct slot *s;
	struct walk w;

	if (e->tag == tag)
		return e;
	if (is_long(v) && !is_canonical(lin)) {
		raise_gp(v, 0);
		return NULL;
	}
	if (mmu_walk(v, lin, false, true, m, false, &w))
		return NULL;
	s = slot_find(v, w.gpa);
	e->tag = tag;
	e->gpa = w.gpa & PAGE_MASK_;
	e->host = s ? slot_host(s, e->gpa) : NULL;
	private_set(v, TLB_DATA + (unsigned int)m * ITLB_SIZE + i, w.global);
	v->itlb_key[m][i] = ~0ull;
	if (w.page_size > 4096)
		large_note(v, lin, w.page_size);
	if (s) {
		/* The guest maps the page afresh, or the memory map is another: somebody outside
		 * (DMA) may have written it since its blocks were made, or it is another page. */
		cache_page_verify(v, e->gpa, e->host, page_is_marked(v, s, e->gpa));
		v->itlb_key[m][i] = itlb_key_of(tag, e->gpa);
	}
	return e;
}

/* A look-up for writing that comes before the write: it must not be what sets the D bit. */
static bool unseen(struct engine_vcpu *v, uint64_t lin, const struct site *s)
{
	struct walk w;

	if (!s->write)
		return true; /* A may be set by what never happens */
	return mmu_walk(v, lin, true, false, s->mode, true, &w) == X_NEXT && w.dirty;
}

/* Asked to leave, which may be because too many pages are dirty: a block has no bound on them. */
static bool must_leave(const struct engine_vcpu *v)
{
	return atomic_load_explicit(&v->attn, memory_order_relaxed) & ENGINE_KICK_EXIT;
}

void *tlb_miss(struct engine_vcpu *v, uint64_t lin, uint32_t site)
{
	struct site *s = &v->cache->sites[site];
	struct tlb_entry *t = &v->tlb[s->mode][s->write ? TLB_W : TLB_R][tlb_index(lin, s->cls)];
	struct pageref r;
	bool ok;

	v->miss_site = site;
	ok = (lin & 4095) + s->size <= 4096 && is_canonical(lin) && (!s->ahead || unseen(v, lin, s)) &&
	     !(s->write && must_leave(v)) &&
	     page_get_class(v, lin, s->write, s->mode, s->cls, &r) == X_NEXT &&
	     t->tag == page_tag(lin);
	v->miss_site = 0;
	if (ok)
		return cache_rx(v->cache, s->retry);
	if (s->split)
		return cache_rx(v->cache, s->retry + s->split);
	/* MMIO, a page with code, two pages or a fault: C executes the instruction */
	v->exit_code = EXITC_INSN;
	v->rip = cache_by_host(v->cache, (uint64_t)cache_rx(v->cache, s->retry))->rip + s->rip;
	if (s->flags_saved)
		v->hflags = v->flsave;
	return NULL;
}
