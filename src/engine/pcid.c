/* SPDX-License-Identifier: MIT
 *
 * engine/pcid: the look-up tables hold what the present address space may use.
 * A switch to another PCID puts the private entries aside and brings back those
 * of the other. SDM vol. 3, "Process-Context Identifiers (PCIDs)";
 * docs/ENGINE.md, "TLB".
 */
#include "engine/cache.h"

#include <sys/mman.h>

#define SPACES	   16u /* PCIDs remembered: Linux uses six, or twice that with two halves each */
#define DATA_MAX   512u
#define FETCH_MAX  256u

struct tlb_saved {
	bool valid;
	uint16_t pcid;
	uint16_t n_data, n_fetch;
	uint32_t used;	      /* when: the oldest makes room */
	uint32_t write_epoch; /* of the vCPU then */
	uint16_t data_at[DATA_MAX], fetch_at[FETCH_MAX]; /* numbers of the entries */
	struct tlb_entry data[DATA_MAX];
	struct itlb_entry fetch[FETCH_MAX];
};

static struct tlb_saved *saved_find(const struct engine_vcpu *v, unsigned int pcid)
{
	for (unsigned int i = 0; v->saved && i < SPACES; i++)
		if (v->saved[i].valid && v->saved[i].pcid == pcid)
			return &v->saved[i];
	return NULL;
}

/* Room for one more; NULL: no memory, so nothing is kept. */
static struct tlb_saved *saved_new(struct engine_vcpu *v)
{
	struct tlb_saved *s = v->saved;

	if (!s) {
		fpu_put(v);
		s = mmap(NULL, SPACES * sizeof(*s), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (s == MAP_FAILED)
			return NULL;
		v->saved = s;
	}
	for (unsigned int i = 0; i < SPACES; i++) {
		if (!v->saved[i].valid)
			return &v->saved[i];
		if ((int32_t)(v->saved[i].used - s->used) < 0)
			s = &v->saved[i];
	}
	return s;
}

static void put_aside(struct engine_vcpu *v, struct tlb_saved *s)
{
	s->n_data = s->n_fetch = 0;
	s->used = v->saved_clock++;
	s->write_epoch = v->write_epoch;
	for (unsigned int i = 0; i < TLB_ALL / 64; i++)
		for (uint64_t w = v->tlb_private[i]; w; w &= w - 1) {
			unsigned int n = 64 * i + (unsigned int)__builtin_ctzll(w), k = n - TLB_DATA;

			if (n >= TLB_DATA && itlb_at(v, k)->tag != TLB_NOTAG && s->n_fetch < FETCH_MAX) {
				s->fetch_at[s->n_fetch] = (uint16_t)k;
				s->fetch[s->n_fetch++] = *itlb_at(v, k);
			} else if (n < TLB_DATA && tlb_at(v, n)->tag != TLB_NOTAG && s->n_data < DATA_MAX) {
				s->data_at[s->n_data] = (uint16_t)n;
				s->data[s->n_data++] = *tlb_at(v, n);
			}
		}
}

static void bring_back(struct engine_vcpu *v, const struct tlb_saved *s)
{
	bool writes = s->write_epoch == v->write_epoch;

	for (unsigned int i = 0; i < s->n_data; i++) {
		unsigned int n = s->data_at[i];

		if ((n / TLB_SIZE) % 2 == TLB_W && !writes)
			continue;
		if ((n / TLB_SIZE) % 2 == TLB_W)
			v->write_modes |= 1u << n / TLB_SIZE / 2;
		*tlb_at(v, n) = s->data[i];
		v->tlb_private[n / 64] |= 1ull << (n % 64);
	}
	for (unsigned int i = 0; i < s->n_fetch; i++) {
		const struct itlb_entry *e = &s->fetch[i];
		unsigned int k = s->fetch_at[i], n = TLB_DATA + k;

		*itlb_at(v, k) = *e;
		*itlb_key_at(v, k) = e->host ? itlb_key_of(e->tag, e->gpa) : ~0ull;
		v->tlb_private[n / 64] |= 1ull << (n % 64);
	}
}

void pcid_switch(struct engine_vcpu *v, unsigned int from, unsigned int to, bool keep)
{
	struct tlb_saved *s;

	if (from == to) {
		if (!keep)
			tlb_flush_private(v);
		return;
	}
	s = saved_new(v);
	if (s) {
		put_aside(v, s);
		s->pcid = (uint16_t)from;
		s->valid = true;
	}
	tlb_flush_private(v);
	s = saved_find(v, to);
	if (!s)
		return;
	if (keep)
		bring_back(v, s);
	s->valid = false;
}

void pcid_forget(struct engine_vcpu *v, unsigned int pcid)
{
	struct tlb_saved *s = saved_find(v, pcid);

	if (s)
		s->valid = false;
}

void pcid_forget_page(struct engine_vcpu *v, unsigned int pcid, uint64_t lin)
{
	struct tlb_saved *s = saved_find(v, pcid);
	uint64_t tag = page_tag(lin);

	if (!s)
		return;
	if (tlb_in_large(v, lin)) {
		s->valid = false;
		return;
	}
	/* no address of 52 sign-extended bits has this tag */
	for (unsigned int i = 0; i < s->n_data; i++)
		if (s->data[i].tag == tag)
			s->data[i].tag = TLB_NOTAG;
	for (unsigned int i = 0; i < s->n_fetch; i++)
		if (s->fetch[i].tag == tag) {
			s->fetch[i].tag = TLB_NOTAG;
			s->fetch[i].host = NULL;
		}
}

void pcid_forget_all(struct engine_vcpu *v)
{
	for (unsigned int i = 0; v->saved && i < SPACES; i++)
		v->saved[i].valid = false;
}

void pcid_destroy(struct engine_vcpu *v)
{
	if (v->saved)
		munmap(v->saved, SPACES * sizeof(*v->saved));
}
