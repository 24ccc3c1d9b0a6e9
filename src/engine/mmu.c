/* SPDX-License-Identifier: MIT
 *
 * engine/mmu: page-table walks. SDM vol. 3, "Paging": 32-bit, PAE and 4-level
 * paging, access rights, error codes, accessed and dirty flags.
 */
#include "engine/engine_priv.h"

#define PTE_P	(1ull << 0)
#define PTE_W	(1ull << 1)
#define PTE_U	(1ull << 2)
#define PTE_A	(1ull << 5)
#define PTE_D	(1ull << 6)
#define PTE_PS	(1ull << 7)
#define PTE_G	(1ull << 8)
#define PTE_NX	(1ull << 63)
#define PTE_ADDR 0x000ffffffffff000ull

static int fault(struct engine_vcpu *v, uint64_t lin, uint32_t code)
{
	v->exc = (struct exc){.vector = V_PF, .has_error = true, .error = code, .payload = lin};
	return X_FAULT;
}

/* Host address of a paging structure's entry, NULL when no RAM is there. */
static void *entry_ptr(struct engine_vcpu *v, gpa_t gpa, struct slot **s)
{
	*s = slot_find(v, gpa);
	return *s ? slot_host(*s, gpa) : NULL;
}

static uint64_t entry_load(const void *p, unsigned int size)
{
	return size == 8 ? __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED)
			 : __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
}

/* Set bits if the entry is still what was read. */
static bool entry_set(void *p, unsigned int size, uint64_t old, uint64_t bits)
{
	if (size == 8)
		return __atomic_compare_exchange_n((uint64_t *)p, &old, old | bits, false,
						   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	uint32_t old4 = (uint32_t)old;

	return __atomic_compare_exchange_n((uint32_t *)p, &old4, old4 | (uint32_t)bits, false,
					   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Where a 4 MiB page's entry has address bits from 32 on, those it may use, up to 39. */
#define PDE4M_HIGH 0x3fe000u

static uint64_t pse36_bits(const struct engine_vcpu *v)
{
	return v->feat & FEAT_PSE36 ? v->phys_mask >> 19 & 0x1fe000u : 0;
}

struct level {
	uint8_t shift; /* lowest address bit that indexes the table */
	uint8_t bits;
	bool leaf_ok;  /* PS allowed */
	bool leaf;     /* always a leaf */
};

static const struct level long_levels[] = {{39, 9, false, false}, {30, 9, true, false},
					   {21, 9, true, false}, {12, 9, false, true}};
static const struct level legacy_levels[] = {{22, 10, true, false}, {12, 10, false, true}};

static int no_paging(struct engine_vcpu *v, uint64_t lin, struct walk *w)
{
	*w = (struct walk){.gpa = lin & 0xffffffffu, .page_size = 4096, .writable = true, .user = true,
			   .global = true, .dirty = true};
	return X_NEXT;
}

int mmu_walk(struct engine_vcpu *v, uint64_t lin, bool write, bool fetch, enum tlb_mode mode,
	     bool peek, struct walk *w)
{
	bool pae = v->cr4 & CR4_PAE, lma = v->efer & EFER_LMA;
	bool nxe = pae && (v->efer & EFER_NXE);
	unsigned int es = pae ? 8 : 4, n;
	const struct level *lv;
	uint32_t code;
	gpa_t table;

	if (!(v->cr0 & CR0_PG))
		return no_paging(v, lin, w);
	code = (write ? PF_W : 0) | (mode == TM_USER ? PF_U : 0) |
	       (fetch && (nxe || (v->cr4 & CR4_SMEP)) ? PF_I : 0);
again:
	table = v->cr3;
	if (lma) {
		lv = long_levels;
		n = 4;
		table &= v->phys_mask;
	} else if (pae) {
		uint64_t e;

		lin &= 0xffffffffu;
		e = v->pdpte[lin >> 30 & 3];
		if (!(e & PTE_P))
			return fault(v, lin, code);
		table = e & v->phys_mask;
		lv = long_levels + 2;
		n = 2;
	} else {
		lin &= 0xffffffffu;
		table &= 0xfffff000u;
		lv = legacy_levels;
		n = 2;
	}
	bool writable = true, user = true, nx = false;

	for (unsigned int i = 0; i < n; i++) {
		unsigned int idx = (unsigned int)(lin >> lv[i].shift) & ((1u << lv[i].bits) - 1);
		struct slot *s;
		gpa_t at = table + (gpa_t)idx * es;
		void *p = entry_ptr(v, at, &s);
		uint64_t e = p ? entry_load(p, es) : 0, rsvd, set;
		bool leaf;

		if (!(e & PTE_P))
			return fault(v, lin, code);
		leaf = lv[i].leaf || (lv[i].leaf_ok && (e & PTE_PS) && (es == 8 || (v->cr4 & CR4_PSE)));
		/* reserved bits */
		if (es == 8) {
			rsvd = PTE_ADDR & ~v->phys_mask;
			if (!lma)
				rsvd |= 0x7ff0000000000000ull;
			if (!nxe)
				rsvd |= PTE_NX;
			if (lv[i].shift == 39 || (lv[i].shift == 30 && !(v->feat & FEAT_1G)))
				rsvd |= PTE_PS;
			if (leaf && lv[i].shift > 12)
				rsvd |= ((1ull << lv[i].shift) - 1) & ~0x1fffull;
			if (e & rsvd)
				return fault(v, lin, code | PF_P | PF_R);
		} else if (leaf && lv[i].shift == 22 && (e & PDE4M_HIGH & ~pse36_bits(v))) {
			return fault(v, lin, code | PF_P | PF_R);
		}
		writable &= !!(e & PTE_W);
		user &= !!(e & PTE_U);
		nx |= nxe && (e & PTE_NX);
		if (!leaf) {
			if (!(e & PTE_A) && !peek) {
				if (!entry_set(p, es, e, PTE_A))
					goto again;
				slot_dirty(v, s, at);
			}
			table = e & (es == 8 ? v->phys_mask : 0xfffff000u);
			continue;
		}
		/* access rights: SDM vol. 3, "Determination of Access Rights" */
		if (!peek) {
			bool ok = true;

			if (mode == TM_USER) {
				ok = user && (!write || writable);
			} else {
				if (write && !writable && (v->cr0 & CR0_WP))
					ok = false;
				if (user && !fetch && mode == TM_SUP)
					ok = false; /* SMAP */
				if (user && fetch && (v->cr4 & CR4_SMEP))
					ok = false;
			}
			if (fetch && nx)
				ok = false;
			if (!ok)
				return fault(v, lin, code | PF_P);
			set = PTE_A | (write ? PTE_D : 0);
			if ((e & set) != set) {
				if (!entry_set(p, es, e, set))
					goto again;
				slot_dirty(v, s, at);
				e |= set;
			}
		}
		uint64_t size = 1ull << lv[i].shift, base;

		if (es == 8)
			base = e & v->phys_mask & ~(size - 1);
		else if (size == 4096)
			base = e & 0xfffff000u;
		else
			base = (e & 0xffc00000u) | (e & pse36_bits(v)) << 19;
		*w = (struct walk){
			.gpa = base | (lin & (size - 1)),
			.page_size = size,
			.writable = writable || (mode != TM_USER && !(v->cr0 & CR0_WP)),
			.user = user,
			.nx = nx,
			.global = (e & PTE_G) && (v->cr4 & CR4_PGE),
			.dirty = e & PTE_D,
		};
		if (peek)
			w->writable = writable;
		return X_NEXT;
	}
	return fault(v, lin, code);
}

int pdptes_load(struct engine_vcpu *v, uint64_t cr3)
{
	uint64_t e[4];

	for (unsigned int i = 0; i < 4; i++) {
		struct slot *s;
		void *p = entry_ptr(v, (cr3 & 0xffffffe0u) + 8 * i, &s);

		e[i] = p ? entry_load(p, 8) : 0;
		if ((e[i] & PTE_P) && (e[i] & (~(v->phys_mask | 0xfffull) | 0x1e6)))
			return raise_gp(v, 0);
	}
	for (unsigned int i = 0; i < 4; i++)
		v->pdpte[i] = e[i];
	return X_NEXT;
}

int engine_translate(struct engine_vcpu *v, gva_t gva, gpa_t *gpa, bool *writable, bool *user)
{
	struct exc keep = v->exc;
	struct walk w;
	int r;

	if (!(v->cr0 & CR0_PG)) {
		*gpa = gva;
		*writable = true;
		*user = false;
		return 0;
	}
	guest_enter(v);
	r = mmu_walk(v, gva, false, false, TM_SUP_AC, true, &w);
	guest_leave(v);
	v->exc = keep;
	if (r)
		return -EFAULT;
	*gpa = w.gpa;
	*writable = w.writable;
	*user = w.user;
	return 0;
}
