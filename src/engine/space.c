/* SPDX-License-Identifier: MIT
 *
 * engine/space: memory of a vCPU's translated code and of its tables, taken in
 * spans out of one budget of the VM. docs/ENGINE.md, "Memory".
 */
#include "engine/cache.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define IDLE_PATCHES 256u
#define SPAN_LEAST 4u /* a vCPU can always have */
/* what one block may need at most */
#define BLOCK_CODE   32768u
#define BLOCK_LINKS  (4u + 2 * GROUP_MAX)
#define BLOCK_SITES  256u
#define BLOCK_FAULTS 128u

static void *reserve(size_t n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void release(void *p, size_t n)
{
	if (p)
		munmap(p, n);
}

static void *view(const struct cache *c, int prot)
{
	void *p = mmap(NULL, c->size, prot, MAP_SHARED, c->fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* ---- the budget ---- */

static unsigned int budget(const struct engine_vm *vm)
{
	return (unsigned int)(((uint64_t)vm->code_mib << 20) / SPAN_COST);
}

/* What is left of the budget when all vCPUs have the least. */
static bool pool_take(struct engine_vm *vm)
{
	unsigned int least = atomic_load(&vm->n_vcpu) * SPAN_LEAST, total = budget(vm);
	uint32_t taken = atomic_load(&vm->spans_taken);

	do {
		if (taken + least >= total)
			return false;
	} while (!atomic_compare_exchange_weak(&vm->spans_taken, &taken, taken + 1));
	return true;
}

/* How many spans more than its share of the budget this vCPU has. */
static int beyond_share(const struct engine_vm *vm, const struct cache *c)
{
	return (int)c->n_owned - (int)(budget(vm) / atomic_load(&vm->n_vcpu));
}

/* May it have one more? One that has its share leaves what there is to one that has not. */
static bool may_grow(struct engine_vm *vm, const struct cache *c)
{
	bool taken;

	if (c->n_owned >= c->n_spans)
		return false;
	if (c->n_owned < SPAN_LEAST)
		return true;
	if (beyond_share(vm, c) >= 0)
		return !atomic_load(&vm->spans_wanted) && pool_take(vm);
	taken = pool_take(vm);
	atomic_store(&vm->spans_wanted, !taken);
	return taken;
}

/* ---- spans ---- */

static void span_begin(struct cache *c, unsigned int i)
{
	c->pos = c->base + i * SPAN_CODE;
	/* index 0 means none */
	c->n_blocks = i * SPAN_BLOCKS + !i;
	c->n_links = i * SPAN_LINKS + !i;
	c->n_sites = i * SPAN_SITES + !i;
	c->n_faults = i * SPAN_FAULTS;
	c->span[i].n_blocks = c->n_blocks;
}

static void span_evict(struct engine_vcpu *v, unsigned int i)
{
	struct span *s = &v->cache->span[i];

	cache_evict(v, i * SPAN_BLOCKS + !i, s->n_blocks);
	s->n_blocks = i * SPAN_BLOCKS + !i;
	v->stats.evictions++;
}

/* Back to the pool, and to the host. */
static void span_release(struct engine_vcpu *v, unsigned int i)
{
	struct cache *c = v->cache;

	span_evict(v, i);
	(void)madvise(c->rw + c->base + i * SPAN_CODE, SPAN_CODE, MADV_REMOVE);
	(void)madvise(c->blocks + i * SPAN_BLOCKS, SPAN_BLOCKS * sizeof(*c->blocks), MADV_DONTNEED);
	(void)madvise(c->links + i * SPAN_LINKS, SPAN_LINKS * sizeof(*c->links), MADV_DONTNEED);
	(void)madvise(c->sites + i * SPAN_SITES, SPAN_SITES * sizeof(*c->sites), MADV_DONTNEED);
	(void)madvise(c->faults + i * SPAN_FAULTS, SPAN_FAULTS * sizeof(*c->faults), MADV_DONTNEED);
	c->span[i].owned = false;
	c->n_owned--;
	atomic_fetch_sub(&v->vm->spans_taken, 1);
}

/* The oldest, out of the queue. */
static unsigned int queue_pop(struct cache *c)
{
	unsigned int i = c->oldest;

	c->oldest = c->span[i].next;
	return i;
}

static unsigned int span_free(const struct cache *c)
{
	unsigned int i = 0;

	while (c->span[i].owned)
		i++;
	return i;
}

/*
 * A page that was written is resident in both views. From now on this span is
 * only patched, here and there: let go of the one to write.
 */
static void view_trim(struct cache *c)
{
	(void)madvise(c->rw + c->base + c->filling * SPAN_CODE, SPAN_CODE, MADV_DONTNEED);
}

void space_idle(struct engine_vcpu *v)
{
	struct cache *c = v->cache;

	if (c->patches < IDLE_PATCHES)
		return;
	c->patches = 0;
	(void)madvise(c->rw, c->size, MADV_DONTNEED);
}

/* The next span to fill: one more, or the oldest again. */
static void span_next(struct engine_vcpu *v)
{
	struct engine_vm *vm = v->vm;
	struct cache *c = v->cache;
	unsigned int i;

	c->span[c->filling].n_blocks = c->n_blocks;
	if (may_grow(vm, c)) {
		i = span_free(c);
		c->span[i].owned = true;
		c->n_owned++;
	} else {
		if (beyond_share(vm, c) > 0 && c->n_owned > SPAN_LEAST && atomic_load(&vm->spans_wanted))
			span_release(v, queue_pop(c));
		i = queue_pop(c);
		span_evict(v, i);
	}
	c->span[c->filling].next = (uint16_t)i;
	view_trim(c);
	c->filling = (uint16_t)i;
	span_begin(c, i);
}

void space_reserve(struct engine_vcpu *v)
{
	struct cache *c = v->cache;
	unsigned int i = c->filling;

	if (c->pos + BLOCK_CODE > c->base + (i + 1) * SPAN_CODE || c->n_blocks >= (i + 1) * SPAN_BLOCKS ||
	    c->n_links + BLOCK_LINKS > (i + 1) * SPAN_LINKS ||
	    c->n_sites + BLOCK_SITES > (i + 1) * SPAN_SITES ||
	    c->n_faults + BLOCK_FAULTS > (i + 1) * SPAN_FAULTS)
		span_next(v);
}

void space_reset(struct cache *c)
{
	for (unsigned int i = 0; i < c->n_spans; i++)
		c->span[i].n_blocks = i * SPAN_BLOCKS + !i;
	span_begin(c, c->filling);
}

/* ---- life ---- */

int space_create(struct engine_vcpu *v)
{
	struct cache *c = reserve(sizeof(*c));
	unsigned int n = budget(v->vm);

	if (!c)
		return -ENOMEM;
	v->cache = c;
	c->n_spans = (uint16_t)(n < SPAN_LEAST ? SPAN_LEAST : n > SPAN_MAX ? SPAN_MAX : n);
	c->thunks = 4096;
	c->base = (c->thunks + INSN_CACHE * THUNK_SIZE + 4095) & ~4095u;
	c->size = c->base + (size_t)c->n_spans * SPAN_CODE;
	c->fd = memfd_create("belfry-code", MFD_CLOEXEC);
	if (c->fd < 0 || ftruncate(c->fd, (off_t)c->size))
		goto fail;
	c->rw = view(c, PROT_READ | PROT_WRITE);
	c->rx = view(c, PROT_READ | PROT_EXEC);
	c->blocks = reserve(c->n_spans * SPAN_BLOCKS * sizeof(*c->blocks));
	c->links = reserve(c->n_spans * SPAN_LINKS * sizeof(*c->links));
	c->sites = reserve(c->n_spans * SPAN_SITES * sizeof(*c->sites));
	c->faults = reserve(c->n_spans * SPAN_FAULTS * sizeof(*c->faults));
	if (!c->rw || !c->rx || !c->blocks || !c->links || !c->sites || !c->faults)
		goto fail;
	c->span[0].owned = true;
	c->n_owned = 1;
	span_begin(c, 0);
	return 0;
fail:
	space_destroy(v);
	return -ENOMEM;
}

void space_destroy(struct engine_vcpu *v)
{
	struct cache *c = v->cache;

	release(c->rw, c->size);
	release(c->rx, c->size);
	if (c->fd >= 0)
		close(c->fd);
	release(c->blocks, c->n_spans * SPAN_BLOCKS * sizeof(*c->blocks));
	release(c->links, c->n_spans * SPAN_LINKS * sizeof(*c->links));
	release(c->sites, c->n_spans * SPAN_SITES * sizeof(*c->sites));
	release(c->faults, c->n_spans * SPAN_FAULTS * sizeof(*c->faults));
	if (c->n_owned > SPAN_LEAST)
		atomic_fetch_sub(&v->vm->spans_taken, c->n_owned - SPAN_LEAST);
	release(c, sizeof(*c));
	v->cache = NULL;
}
