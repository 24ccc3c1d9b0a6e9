/* SPDX-License-Identifier: MIT
 *
 * engine/task: hardware task switches, outside of long mode: far JMP and CALL
 * to a TSS or a task gate, task gates in the IDT, IRET with NT. SDM vol. 3,
 * "Task Management".
 *
 * Up to the commit nothing is changed and a fault is the old task's; behind it
 * a fault is the new one's, at its EIP.
 */
#include "engine/decode.h"

#define TSS_BUSY 0x200u /* in the second word of a descriptor */

/* Where a TSS keeps things. Both kinds have the link to the previous task at 0. */
struct layout {
	uint8_t width;	     /* of registers */
	uint8_t size;	     /* the least it must have */
	uint8_t saved, end;  /* what a switch away writes: [saved, end) */
	uint8_t ip, flags, gpr, seg, segs, ldt;
};

static const struct layout tss16 = {.width = 2, .size = 0x2c, .saved = 14, .end = 42, .ip = 14, .flags = 16,
				    .gpr = 18, .seg = 34, .segs = 4, .ldt = 42};
static const struct layout tss32 = {.width = 4, .size = 0x68, .saved = 0x20, .end = 0x60, .ip = 0x20,
				    .flags = 0x24, .gpr = 0x28, .seg = 0x48, .segs = 6, .ldt = 0x60};
enum { TSS32_CR3 = 0x1c, TSS32_TRAP = 0x64 };

static const struct layout *layout_of(const struct seg *t)
{
	return t->attr & 8 ? &tss32 : &tss16;
}

static uint32_t get(const uint8_t *t, unsigned int at, unsigned int width)
{
	uint32_t val = 0;

	bytes_copy(&val, t + at, width);
	return val;
}

/* The descriptor of a TSS that one may switch to now. */
static int target(struct engine_vcpu *v, uint16_t sel, enum task_why why, uint32_t ext, struct seg *g,
		  uint32_t d[2], uint64_t *lin)
{
	uint8_t vec = why == TASK_RETURN ? V_TS : V_GP;
	uint32_t err = (sel & 0xfffcu) + ext;
	unsigned int want = why == TASK_RETURN ? 3 : 1; /* busy or not */
	int r;

	if (!(sel & 0xfffc) || (sel & 4))
		return raise_exc(v, vec, true, err);
	r = desc_read(v, sel, d, lin, vec);
	if (r) {
		if (v->exc.vector == vec)
			v->exc.error |= ext;
		return r;
	}
	seg_from_desc(g, sel, d);
	if ((g->attr & SEG_S) || (g->attr & 7) != want)
		return raise_exc(v, vec, true, err);
	if (!(g->attr & SEG_P))
		return raise_exc(v, V_NP, true, err);
	if (g->limit < layout_of(g)->size - 1u)
		return raise_exc(v, V_TS, true, err);
	g->attr |= 2;
	return X_NEXT;
}

static int save_state(struct engine_vcpu *v, enum task_why why, uint64_t rip)
{
	static const uint8_t order[6] = {S_ES, S_CS, S_SS, S_DS, S_FS, S_GS};
	const struct seg *t = &v->seg[S_TR];
	const struct layout *l = layout_of(t);
	uint32_t fl = flags_get(v);
	uint8_t b[0x60];

	if (why == TASK_RETURN)
		fl &= ~FL_NT;
	bytes_zero(b, sizeof(b));
	bytes_copy(b + l->ip, &rip, l->width);
	bytes_copy(b + l->flags, &fl, l->width);
	for (unsigned int i = 0; i < 8; i++)
		bytes_copy(b + l->gpr + i * l->width, &v->gpr[i], l->width);
	for (unsigned int i = 0; i < l->segs; i++)
		bytes_copy(b + l->seg + i * l->width, &v->seg[order[i]].sel, 2);
	return gmem_write(v, (t->base + l->saved) & 0xffffffffu, b + l->saved, l->end - l->saved,
			  system_mode(v));
}

/* Registers of the new task, its segments as selectors without descriptors yet. */
static void load_state(struct engine_vcpu *v, const struct layout *l, const uint8_t *t, uint32_t set_flags)
{
	unsigned int c = get(t, l->seg + l->width, 2) & 3;
	uint32_t fl = get(t, l->flags, l->width) | set_flags;

	if (fl & FL_VM)
		c = 3;
	flags_set(v, fl);
	v->rip = get(t, l->ip, l->width);
	for (unsigned int i = 0; i < 8; i++)
		v->gpr[i] = get(t, l->gpr + i * l->width, l->width);
	for (unsigned int i = 0; i < 6; i++)
		v->seg[i] = (struct seg){.sel = i < l->segs ? (uint16_t)get(t, l->seg + i * l->width, 2) : 0,
					 .attr = (uint16_t)(SEG_UNUSABLE | c << 5)};
	v->seg[S_LDT] = (struct seg){.sel = (uint16_t)get(t, l->ldt, 2), .attr = SEG_UNUSABLE};
	mode_update(v);
}

static int load_ldt(struct engine_vcpu *v)
{
	uint16_t sel = v->seg[S_LDT].sel;
	uint32_t d[2];
	uint64_t lin;
	struct seg g;
	int r;

	if (!(sel & 0xfffc))
		return X_NEXT;
	if (sel & 4)
		return raise_exc(v, V_TS, true, sel & 0xfffcu);
	r = desc_read(v, sel, d, &lin, V_TS);
	if (r)
		return r;
	seg_from_desc(&g, sel, d);
	if ((g.attr & (SEG_S | SEG_TYPE | SEG_P)) != (SEG_P | 2))
		return raise_exc(v, V_TS, true, sel & 0xfffcu);
	v->seg[S_LDT] = g;
	return X_NEXT;
}

static int load_segments(struct engine_vcpu *v)
{
	static const uint8_t order[5] = {S_SS, S_ES, S_DS, S_FS, S_GS};
	uint16_t sel = v->seg[S_CS].sel;
	unsigned int c = (unsigned int)cpl(v);
	uint32_t d[2];
	uint64_t lin;
	struct seg g;
	int r = load_ldt(v);

	if (r)
		return r;
	if (is_vm86(v)) {
		for (int s = 0; s < 6; s++)
			seg_load_real(v, s, v->seg[s].sel);
		mode_update(v);
		return X_NEXT;
	}
	if (!(sel & 0xfffc))
		return raise_exc(v, V_TS, true, 0);
	r = desc_read(v, sel, d, &lin, V_TS);
	if (!r)
		r = code_check(v, sel, d, lin, &g, c, true, V_TS);
	if (r)
		return r;
	cs_set(v, &g, (int)c);
	for (unsigned int i = 0; i < 5; i++) {
		r = seg_load_as(v, order[i], v->seg[order[i]].sel, V_TS);
		if (r)
			return r;
	}
	mode_update(v);
	return X_NEXT;
}

static int busy_clear(struct engine_vcpu *v, uint64_t lin)
{
	uint32_t word;
	int r = gmem_read(v, lin, &word, 4, system_mode(v));

	word &= ~TSS_BUSY;
	return r ? r : gmem_write(v, lin, &word, 4, system_mode(v));
}

int task_switch(struct engine_vcpu *v, uint16_t sel, enum task_why why, uint64_t rip, uint32_t ext)
{
	struct seg old = v->seg[S_TR], g;
	const struct layout *l, *ol = layout_of(&old);
	uint64_t lin, old_lin = (v->gdt.base + (old.sel & 0xfff8u) + 4) & 0xffffffffu;
	bool nests = why == TASK_CALL || why == TASK_EVENT;
	enum tlb_mode m = system_mode(v);
	uint8_t t[0x68];
	uint32_t d[2];
	int r = target(v, sel, why, ext, &g, d, &lin);

	if (r)
		return r;
	l = layout_of(&g);
	if (old.limit < ol->size - 1u)
		return raise_exc(v, V_TS, true, (old.sel & 0xfffcu) + ext);
	r = gmem_read(v, g.base, t, l->size, m);
	if (!r && nests)
		r = gmem_check(v, g.base, 2, true, m);
	if (!r)
		r = gmem_check(v, (old.base + ol->saved) & 0xffffffffu, ol->end - ol->saved, true, m);
	if (!r && why != TASK_RETURN)
		r = gmem_check(v, lin + 4, 4, true, m);
	if (!r && !nests)
		r = gmem_check(v, old_lin, 4, true, m);
	if (r)
		return r;
	/* the commit: what is written was checked */
	r = nests ? gmem_write(v, g.base, &old.sel, 2, m) : busy_clear(v, old_lin);
	if (!r)
		r = save_state(v, why, rip);
	if (!r && why != TASK_RETURN)
		r = desc_accessed(v, lin, d, TSS_BUSY);
	if (r)
		return r;
	v->seg[S_TR] = g;
	v->cr0 |= CR0_TS;
	v->dr7 &= ~0x155ull; /* local breakpoints */
	debug_update(v);
	load_state(v, l, t, nests ? FL_NT : 0);
	if (l == &tss32 && (v->cr0 & CR0_PG)) {
		r = cr3_write(v, get(t, TSS32_CR3, 4));
		if (r)
			return r;
	}
	r = load_segments(v);
	if (r)
		return r;
	if (v->rip > v->seg[S_CS].limit)
		return raise_gp(v, 0);
	if (l == &tss32 && (t[TSS32_TRAP] & 1))
		v->pending_db |= 1u << 15; /* BT */
	return X_JUMP;
}

bool task_descriptor(const struct engine_vcpu *v, const uint32_t d[2])
{
	unsigned int type = d[1] >> 8 & 0x1f;

	return !is_long(v) && (type == 5 || (type & 0x15) == 1);
}

int task_transfer(struct engine_vcpu *v, uint16_t sel, const uint32_t d[2], bool call, uint64_t rip)
{
	unsigned int dpl = d[1] >> 13 & 3;
	bool gate = (d[1] >> 8 & 0x1f) == 5;

	if (dpl < (unsigned int)cpl(v) || dpl < (sel & 3u))
		return raise_gp(v, sel & 0xfffcu);
	if (gate && !(d[1] & 0x8000))
		return raise_exc(v, V_NP, true, sel & 0xfffcu);
	return task_switch(v, gate ? (uint16_t)(d[0] >> 16) : sel, call ? TASK_CALL : TASK_JUMP, rip, 0);
}

int task_return(struct engine_vcpu *v, uint64_t rip)
{
	uint16_t link;
	int r;

	if (v->seg[S_TR].limit < 1)
		return raise_exc(v, V_TS, true, v->seg[S_TR].sel & 0xfffcu);
	r = gmem_read(v, v->seg[S_TR].base, &link, 2, system_mode(v));
	return r ? r : task_switch(v, link, TASK_RETURN, rip, 0);
}
