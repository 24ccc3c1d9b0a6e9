/* SPDX-License-Identifier: MIT
 *
 * engine/exception: interrupts and exceptions through the IDT, and IRET.
 * SDM vol. 3, "Interrupt and Exception Handling" (and "… in 64-bit Mode").
 */
#include "engine/decode.h"

#include <Zydis/Zydis.h>

int tss_stack(struct engine_vcpu *v, int dpl, uint16_t *ss, uint64_t *sp)
{
	const struct seg *t = &v->seg[S_TR];
	unsigned int type = t->attr & 15, off, n;
	uint32_t b[2] = {0};
	uint32_t err = t->sel & 0xfffcu;
	int r;

	if (is_long(v)) {
		off = 4 + 8 * (unsigned int)dpl;
		if (off + 7 > t->limit)
			return raise_exc(v, V_TS, true, err);
		return gmem_read(v, t->base + off, sp, 8, system_mode(v));
	}
	if (type & 8) {
		off = 4 + 8 * (unsigned int)dpl;
		n = 6;
	} else {
		off = 2 + 4 * (unsigned int)dpl;
		n = 4;
	}
	if (off + n - 1 > t->limit)
		return raise_exc(v, V_TS, true, err);
	r = gmem_read(v, (t->base + off) & 0xffffffffu, b, n, system_mode(v));
	if (r)
		return r;
	*sp = n == 6 ? b[0] : b[0] & 0xffff;
	*ss = n == 6 ? (uint16_t)b[1] : (uint16_t)(b[0] >> 16);
	return X_NEXT;
}

static int deliver_real(struct engine_vcpu *v, uint8_t vector, uint64_t ret_rip)
{
	uint16_t b[2];
	uint64_t keep = v->gpr[R_SP];
	int r;

	if (4u * vector + 3 > v->idt.limit)
		return raise_gp(v, 8u * vector + 2);
	r = gmem_read(v, v->idt.base + 4u * vector, b, 4, system_mode(v));
	if (!r)
		r = push_val(v, flags_get(v), 2);
	if (!r)
		r = push_val(v, v->seg[S_CS].sel, 2);
	if (!r)
		r = push_val(v, ret_rip, 2);
	if (r) {
		v->gpr[R_SP] = keep;
		return r;
	}
	flags_set(v, flags_get(v) & ~(FL_IF | FL_TF | FL_AC | FL_RF));
	seg_load_real(v, S_CS, b[1]);
	v->rip = b[0];
	mode_update(v);
	return X_JUMP;
}

/* Through a task gate: the new task finds the error code on its stack. */
static int deliver_task(struct engine_vcpu *v, uint16_t sel, bool has_error, uint32_t error,
			uint64_t ret_rip, uint32_t ext)
{
	int r = task_switch(v, sel, TASK_EVENT, ret_rip, ext);

	if (r != X_JUMP)
		return r;
	v->stats.faults++;
	r = has_error ? push_val(v, error, v->seg[S_TR].attr & 8 ? 4 : 2) : X_NEXT;
	return r ? r : X_JUMP;
}

static void put(uint8_t *f, unsigned int *n, uint64_t val, unsigned int size)
{
	*n -= size;
	bytes_copy(f + *n, &val, size);
}

int event_deliver(struct engine_vcpu *v, uint8_t vector, bool soft, bool has_error, uint32_t error,
		  uint64_t ret_rip, bool external)
{
	bool lma = is_long(v);
	unsigned int esz = lma ? 16 : 8, type, dpl, n, size, old = (unsigned int)cpl(v), newcpl, ist = 0;
	uint32_t ext = external ? 1 : 0, gerr = 8u * vector + 2 + ext;
	uint32_t g[4] = {0}, d[2], sd[2];
	uint64_t off, lin, slin, sp;
	uint16_t sel, ss = 0;
	struct seg cs, nss;
	uint8_t frame[16 * 8];
	uint32_t fl = flags_get(v);
	bool vm = is_vm86(v), change;
	int r;

	if (is_real(v))
		return deliver_real(v, vector, ret_rip);
	if (vector * esz + esz - 1 > v->idt.limit)
		return raise_gp(v, gerr);
	lin = v->idt.base + vector * esz;
	r = gmem_read(v, lma ? lin : lin & 0xffffffffu, g, esz, system_mode(v));
	if (r)
		return r;
	type = g[1] >> 8 & 0x1f;
	dpl = g[1] >> 13 & 3;
	if (type != 14 && type != 15 && (lma || (type != 5 && type != 6 && type != 7)))
		return raise_gp(v, gerr);
	if (soft && dpl < old)
		return raise_gp(v, gerr & ~1u);
	if (!(g[1] & 0x8000))
		return raise_exc(v, V_NP, true, gerr);
	sel = (uint16_t)(g[0] >> 16);
	if (type == 5)
		return deliver_task(v, sel, has_error, error, ret_rip, ext);
	off = (g[0] & 0xffff) | (type & 8 ? g[1] & 0xffff0000u : 0);
	size = type & 8 ? 4 : 2;
	if (lma) {
		off |= (uint64_t)g[2] << 32;
		ist = g[1] & 7;
		size = 8;
	}
	if (!(sel & 0xfffc))
		return raise_gp(v, ext);
	r = desc_read(v, sel, d, &lin, V_GP);
	if (r) {
		if (v->exc.vector == V_GP)
			v->exc.error |= ext;
		return r;
	}
	seg_from_desc(&cs, sel, d);
	if (!(cs.attr & SEG_S) || !(cs.attr & 8) || SEG_DPL(cs.attr) > old ||
	    (lma && (!(cs.attr & SEG_L) || (cs.attr & SEG_DB))))
		return raise_gp(v, (sel & 0xfffcu) + ext);
	if (!(cs.attr & SEG_P))
		return raise_exc(v, V_NP, true, (sel & 0xfffcu) + ext);
	newcpl = cs.attr & 4 ? old : SEG_DPL(cs.attr);
	if (vm && newcpl)
		return raise_gp(v, (sel & 0xfffcu) + ext);
	change = newcpl != old;
	/* the stack */
	nss = v->seg[S_SS];
	sp = v->gpr[R_SP];
	if (lma) {
		if (ist) {
			const struct seg *t = &v->seg[S_TR];
			unsigned int o = 0x24 + 8 * (ist - 1);

			if (o + 7 > t->limit)
				return raise_exc(v, V_TS, true, (t->sel & 0xfffcu) + ext);
			r = gmem_read(v, t->base + o, &sp, 8, system_mode(v));
		} else if (change) {
			r = tss_stack(v, (int)newcpl, &ss, &sp);
		}
		if (r)
			return r;
		if (!is_canonical(sp))
			return raise_exc(v, V_SS, true, ext);
		if (change)
			nss = (struct seg){.sel = (uint16_t)newcpl,
					   .attr = (uint16_t)(SEG_UNUSABLE | newcpl << 5)};
		sp &= ~15ull;
	} else if (change) {
		r = tss_stack(v, (int)newcpl, &ss, &sp);
		if (!r)
			r = desc_read(v, ss, sd, &slin, V_TS);
		if (r)
			return r;
		seg_from_desc(&nss, ss, sd);
		if ((ss & 3u) != newcpl || SEG_DPL(nss.attr) != newcpl || !(nss.attr & SEG_S) ||
		    (nss.attr & 0xa) != 2)
			return raise_exc(v, V_TS, true, (ss & 0xfffcu) + ext);
		if (!(nss.attr & SEG_P))
			return raise_exc(v, V_SS, true, (ss & 0xfffcu) + ext);
	}
	if (lma ? !is_canonical(off) : off > cs.limit)
		return raise_gp(v, ext);
	/* the frame, from the top down */
	n = sizeof(frame);
	if (vm) {
		put(frame, &n, v->seg[S_GS].sel, size);
		put(frame, &n, v->seg[S_FS].sel, size);
		put(frame, &n, v->seg[S_DS].sel, size);
		put(frame, &n, v->seg[S_ES].sel, size);
	}
	if (lma || change) {
		put(frame, &n, v->seg[S_SS].sel, size);
		put(frame, &n, v->gpr[R_SP], size);
	}
	put(frame, &n, fl, size);
	put(frame, &n, v->seg[S_CS].sel, size);
	put(frame, &n, ret_rip, size);
	if (has_error)
		put(frame, &n, error, size);
	n = (unsigned int)sizeof(frame) - n;
	if (lma) {
		lin = sp - n;
		sp = lin;
	} else {
		uint64_t mask = nss.attr & SEG_DB ? 0xffffffffu : 0xffff;

		lin = (nss.base + ((sp - n) & mask)) & 0xffffffffu;
		sp = (sp & ~mask) | ((sp - n) & mask);
		if (!(nss.attr & 4) && ((sp & mask) + n - 1 > nss.limit))
			return raise_exc(v, V_SS, true, (change ? ss & 0xfffcu : 0) + ext);
	}
	r = gmem_write(v, lin, frame + sizeof(frame) - n, n, newcpl == 3 ? TM_USER : system_mode(v));
	if (r)
		return r;
	if (vm)
		for (int s = 0; s < 6; s++)
			if (s != S_CS && s != S_SS)
				v->seg[s] = (struct seg){.attr = SEG_UNUSABLE};
	fl &= ~(FL_TF | FL_NT | FL_RF | FL_VM);
	if (!(type & 1))
		fl &= ~FL_IF;
	flags_set(v, fl);
	v->seg[S_SS] = nss;
	v->gpr[R_SP] = sp;
	cs_set(v, &cs, (int)newcpl);
	v->rip = off;
	v->stats.faults++;
	return X_JUMP;
}

static bool contributory(uint8_t vec)
{
	return vec == V_DE || (vec >= V_TS && vec <= V_GP);
}

static int shutdown_exit(struct engine_vcpu *v)
{
	v->exit->reason = ENGINE_EXIT_SHUTDOWN;
	v->exit->rip = v->rip;
	return X_LEAVE;
}

/* Fault class: the handler may return to the same instruction. */
static bool is_fault(const struct exc *e)
{
	if (e->vector == V_DB)
		return e->payload & 0xf && !(e->payload & (1u << 14));
	return e->vector != V_BP && e->vector != V_OF && e->vector != V_DF;
}

int exc_inject(struct engine_vcpu *v)
{
	v->first_exc = v->exc;
	for (int depth = 0; depth < 8; depth++) {
		struct exc e = v->exc;
		uint32_t keep = v->vflags & FL_RF;
		int r;

		if (debug_exit(v, &e))
			return X_LEAVE;
		if (e.vector == V_PF)
			v->cr2 = e.payload;
		if (e.vector == V_DB)
			dr6_set(v, e.payload);
		if (is_fault(&e))
			v->vflags |= FL_RF;
		r = event_deliver(v, e.vector, false, e.has_error && !is_real(v), e.error, v->rip, false);
		if (r == X_JUMP) {
			if (e.vector == V_DB) {
				v->dr7 &= ~(1ull << 13);
				debug_update(v);
			}
			return 0;
		}
		v->vflags = (v->vflags & ~FL_RF) | keep; /* the task may be another now */
		if (r == X_EXIT || r == X_LEAVE)
			return r;
		if (e.vector == V_DF)
			return shutdown_exit(v);
		uint8_t second = v->exc.vector;

		if ((contributory(e.vector) && contributory(second)) ||
		    (e.vector == V_PF && (contributory(second) || second == V_PF))) {
			if (second == V_PF)
				v->cr2 = v->exc.payload;
			v->exc = (struct exc){.vector = V_DF, .has_error = true};
		}
	}
	return shutdown_exit(v);
}

/* ---- IRET ---- */

static void iret_flags(struct engine_vcpu *v, uint32_t f, unsigned int size, unsigned int c)
{
	uint32_t mask = FL_ARITH | FL_TF | FL_DF | FL_NT, old = flags_get(v);

	if (size > 2)
		mask |= FL_RF | FL_AC | FL_ID;
	if (c <= (old & FL_IOPL) >> 12)
		mask |= FL_IF;
	if (c == 0) {
		mask |= FL_IOPL;
		if (size > 2)
			mask |= FL_VIF | FL_VIP;
	}
	flags_set(v, (old & ~mask) | (f & mask));
}

static int iret_vm86(struct engine_vcpu *v, uint64_t rip, uint16_t cs, uint32_t fl)
{
	uint64_t val[6];
	static const uint8_t order[4] = {S_ES, S_DS, S_FS, S_GS};

	for (unsigned int i = 0; i < 6; i++) {
		int r = pop_peek(v, &val[i], 4, 12 + 4 * i);

		if (r)
			return r;
	}
	flags_set(v, fl);
	v->gpr[R_SP] = (uint32_t)val[0];
	v->rip = rip & 0xffff;
	seg_load_real(v, S_CS, cs);
	seg_load_real(v, S_SS, (uint16_t)val[1]);
	for (unsigned int i = 0; i < 4; i++)
		seg_load_real(v, order[i], (uint16_t)val[2 + i]);
	mode_update(v);
	return X_JUMP;
}

int iret_exec(struct engine_vcpu *v, const struct insn *in)
{
	unsigned int n = in->opsize, c = (unsigned int)cpl(v);
	uint64_t rip = 0, sel = 0, fl = 0, sp = 0, ss = 0, keep = v->gpr[R_SP];
	bool outer;
	int r;

	if (is_vm86(v) && (v->vflags & FL_IOPL) != FL_IOPL)
		return raise_gp(v, 0);
	if ((v->vflags & FL_NT) && !is_real(v) && !is_vm86(v)) {
		r = is_long(v) ? raise_gp(v, 0) : task_return(v, v->rip + in->len);
		if (r == X_JUMP)
			v->nmi_masked = false;
		return r;
	}
	r = pop_peek(v, &rip, n, 0);
	if (!r)
		r = pop_peek(v, &sel, n, n);
	if (!r)
		r = pop_peek(v, &fl, n, 2 * n);
	if (r)
		return r;
	if (is_real(v) || is_vm86(v)) {
		if (rip > v->seg[S_CS].limit)
			return raise_gp(v, 0);
		sp_add(v, 3 * (int64_t)n);
		seg_load_real(v, S_CS, (uint16_t)sel);
		v->rip = rip;
		uint32_t mask = n == 2 ? 0x7fd5u : 0x257fd5u;

		if (is_vm86(v))
			mask &= ~FL_IOPL;
		flags_set(v, (flags_get(v) & ~mask) | ((uint32_t)fl & mask));
		v->nmi_masked = false;
		mode_update(v);
		return X_JUMP;
	}
	if (!is_long(v) && n == 4 && (fl & FL_VM) && c == 0)
		return iret_vm86(v, rip, (uint16_t)sel, (uint32_t)fl);
	outer = (sel & 3) > c || (v->mode & MODE_64);
	if (outer) {
		r = pop_peek(v, &sp, n, 3 * n);
		if (!r)
			r = pop_peek(v, &ss, n, 4 * n);
		if (r)
			return r;
	}
	if (!outer)
		sp_add(v, 3 * (int64_t)n);
	r = far_return_to(v, (uint16_t)sel, rip, (uint16_t)ss, sp, outer);
	if (r != X_JUMP) {
		v->gpr[R_SP] = keep;
		return r;
	}
	iret_flags(v, (uint32_t)fl, n, c);
	v->nmi_masked = false;
	mode_update(v);
	return X_JUMP;
}
