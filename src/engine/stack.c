/* SPDX-License-Identifier: MIT
 *
 * engine/stack: PUSH, POP and their kin, and near control flow, in C.
 */
#include "engine/decode.h"

#include <Zydis/Zydis.h>

unsigned int stack_width(const struct engine_vcpu *v)
{
	return v->mode & MODE_64 ? 8 : v->seg[S_SS].attr & SEG_DB ? 4 : 2;
}

static uint64_t width_mask(unsigned int w)
{
	return w == 8 ? ~0ull : w == 4 ? 0xffffffffu : 0xffff;
}

void sp_add(struct engine_vcpu *v, int64_t n)
{
	unsigned int w = stack_width(v);

	gpr_set(v, R_SP, w, false, gpr_get(v, R_SP, w, false) + (uint64_t)n);
}

int push_val(struct engine_vcpu *v, uint64_t val, unsigned int size)
{
	unsigned int w = stack_width(v);
	uint64_t sp = (v->gpr[R_SP] - size) & width_mask(w), lin;
	int r = seg_linear(v, S_SS, sp, size, true, &lin);

	if (!r)
		r = gmem_write(v, lin, &val, size, data_mode(v));
	if (!r)
		gpr_set(v, R_SP, w, false, sp);
	return r;
}

int pop_peek(struct engine_vcpu *v, uint64_t *val, unsigned int size, unsigned int off)
{
	uint64_t sp = (v->gpr[R_SP] + off) & width_mask(stack_width(v)), lin;
	int r = seg_linear(v, S_SS, sp, size, false, &lin);

	*val = 0;
	return r ? r : gmem_read(v, lin, val, size, data_mode(v));
}

int pop_val(struct engine_vcpu *v, uint64_t *val, unsigned int size)
{
	int r = pop_peek(v, val, size, 0);

	if (!r)
		sp_add(v, size);
	return r;
}

/* Operand size of the stack instructions: 64-bit mode has 8 and 2 only. */
static unsigned int stack_opsize(const struct insn *in)
{
	return in->code == 8 ? (in->opsize == 2 ? 2 : 8) : in->opsize;
}

static int push_exec(struct engine_vcpu *v, const struct insn *in)
{
	unsigned int n = stack_opsize(in);
	uint64_t val = 0, lin;

	if (in->has_mem) {
		int r = ea_linear(v, in, n, false, &lin);

		if (!r)
			r = gmem_read(v, lin, &val, n, data_mode(v));
		if (r)
			return r;
	} else if (in->opc.on || in->rm.on) {
		val = v->gpr[in->opc.on ? in->opc.g : in->rm.g];
	} else {
		val = (uint64_t)in->imm;
	}
	return push_val(v, val, n);
}

static int pop_exec(struct engine_vcpu *v, const struct insn *in)
{
	unsigned int n = stack_opsize(in);
	uint64_t val, lin, keep = v->gpr[R_SP];
	int r = pop_peek(v, &val, n, 0);

	if (r)
		return r;
	sp_add(v, n);
	if (!in->has_mem) {
		gpr_set(v, in->opc.on ? in->opc.g : in->rm.g, n, false, val);
		return X_NEXT;
	}
	/* an address with (E/R)SP sees it already incremented */
	r = ea_linear(v, in, n, true, &lin);
	if (!r)
		r = gmem_write(v, lin, &val, n, data_mode(v));
	if (r)
		v->gpr[R_SP] = keep;
	return r;
}

static int leave_exec(struct engine_vcpu *v, const struct insn *in)
{
	unsigned int w = stack_width(v), n = stack_opsize(in);
	uint64_t keep = v->gpr[R_SP], val;
	int r;

	gpr_set(v, R_SP, w, false, v->gpr[R_BP]);
	r = pop_val(v, &val, n);
	if (r)
		v->gpr[R_SP] = keep;
	else
		gpr_set(v, R_BP, n, false, val);
	return r;
}

static int enter_exec(struct engine_vcpu *v, const struct insn *in)
{
	unsigned int n = stack_opsize(in), level = (unsigned int)in->imm2 & 31, w = stack_width(v);
	uint64_t sp = v->gpr[R_SP], bp = v->gpr[R_BP], frame, val, lin;
	int r = push_val(v, bp, n);

	frame = v->gpr[R_SP];
	for (unsigned int i = 1; !r && i < level; i++) {
		bp -= n;
		r = seg_linear(v, S_SS, bp & width_mask(w), n, false, &lin);
		val = 0;
		if (!r)
			r = gmem_read(v, lin, &val, n, data_mode(v));
		if (!r)
			r = push_val(v, val, n);
	}
	if (!r && level)
		r = push_val(v, frame, n);
	if (!r) {
		uint64_t nsp;

		sp_add(v, -(int64_t)(in->imm & 0xffff));
		nsp = gpr_get(v, R_SP, w, false);
		/* the new top must be writable */
		r = seg_linear(v, S_SS, nsp, n, true, &lin);
		if (!r)
			r = gmem_check(v, lin, 1, true, data_mode(v));
	}
	if (r) {
		v->gpr[R_SP] = sp;
		return r;
	}
	gpr_set(v, R_BP, n, false, frame);
	return X_NEXT;
}

static int pusha_exec(struct engine_vcpu *v, const struct insn *in)
{
	uint64_t keep = v->gpr[R_SP];

	for (unsigned int i = 0; i < 8; i++) {
		int r = push_val(v, i == R_SP ? keep : v->gpr[i], in->opsize);

		if (r) {
			v->gpr[R_SP] = keep;
			return r;
		}
	}
	return X_NEXT;
}

static int popa_exec(struct engine_vcpu *v, const struct insn *in)
{
	uint64_t val[8];

	for (unsigned int i = 0; i < 8; i++) {
		int r = pop_peek(v, &val[i], in->opsize, i * in->opsize);

		if (r)
			return r;
	}
	for (unsigned int i = 0; i < 8; i++)
		if (7 - i != R_SP)
			gpr_set(v, 7 - i, in->opsize, false, val[i]);
	sp_add(v, 8 * in->opsize);
	return X_NEXT;
}

static int pushf_exec(struct engine_vcpu *v, const struct insn *in)
{
	if (is_vm86(v) && (v->vflags & FL_IOPL) != FL_IOPL)
		return raise_gp(v, 0);
	return push_val(v, flags_get(v) & ~(FL_RF | FL_VM), stack_opsize(in));
}

static int popf_exec(struct engine_vcpu *v, const struct insn *in)
{
	unsigned int n = stack_opsize(in), c = (unsigned int)cpl(v);
	uint32_t mask = FL_ARITH | FL_TF | FL_DF | FL_NT, old = flags_get(v);
	uint64_t val;
	int r;

	if (is_vm86(v) && (v->vflags & FL_IOPL) != FL_IOPL)
		return raise_gp(v, 0);
	r = pop_val(v, &val, n);
	if (r)
		return r;
	if (n > 2)
		mask |= FL_AC | FL_ID;
	if (is_vm86(v)) {
		mask |= FL_IF;
	} else {
		if (c <= (old & FL_IOPL) >> 12)
			mask |= FL_IF;
		if (c == 0)
			mask |= FL_IOPL;
	}
	flags_set(v, (old & ~mask & ~FL_RF) | ((uint32_t)val & mask));
	mode_update(v);
	return X_NEXT;
}

int stack_exec(struct engine_vcpu *v, const struct insn *in)
{
	switch (in->mnem) {
	case ZYDIS_MNEMONIC_PUSH:
		return push_exec(v, in);
	case ZYDIS_MNEMONIC_POP:
		return pop_exec(v, in);
	case ZYDIS_MNEMONIC_LEAVE:
		return leave_exec(v, in);
	case ZYDIS_MNEMONIC_ENTER:
		return enter_exec(v, in);
	case ZYDIS_MNEMONIC_PUSHA:
	case ZYDIS_MNEMONIC_PUSHAD:
		return pusha_exec(v, in);
	case ZYDIS_MNEMONIC_POPA:
	case ZYDIS_MNEMONIC_POPAD:
		return popa_exec(v, in);
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_PUSHFQ:
		return pushf_exec(v, in);
	default:
		return popf_exec(v, in);
	}
}

/* ---- near control flow ---- */

bool cond_true(const struct engine_vcpu *v, unsigned int cc)
{
	uint32_t f = flags_get(v);
	bool cf = f & FL_CF, zf = f & FL_ZF, sf = f & FL_SF, of = f & FL_OF, pf = f & FL_PF, t;

	switch (cc >> 1 & 7) {
	case 0:
		t = of;
		break;
	case 1:
		t = cf;
		break;
	case 2:
		t = zf;
		break;
	case 3:
		t = cf || zf;
		break;
	case 4:
		t = sf;
		break;
	case 5:
		t = pf;
		break;
	case 6:
		t = sf != of;
		break;
	default:
		t = zf || sf != of;
		break;
	}
	return t != (cc & 1);
}

static int target_check(struct engine_vcpu *v, const struct insn *in, uint64_t *rip)
{
	if (in->code == 8)
		return is_canonical(*rip) ? X_NEXT : raise_gp(v, 0);
	*rip &= in->opsize == 2 ? 0xffff : 0xffffffffu;
	return *rip > v->seg[S_CS].limit ? raise_gp(v, 0) : X_NEXT;
}

static int jump_to(struct engine_vcpu *v, const struct insn *in, uint64_t rip)
{
	int r = target_check(v, in, &rip);

	if (r)
		return r;
	v->rip = rip;
	return X_JUMP;
}

static int call_to(struct engine_vcpu *v, const struct insn *in, uint64_t rip, unsigned int n)
{
	uint64_t sp = (v->gpr[R_SP] - n) & width_mask(stack_width(v)), lin;
	int r = seg_linear(v, S_SS, sp, n, true, &lin);

	/* the stack must take it; nothing is written if the target is wrong */
	if (!r)
		r = gmem_check(v, lin, n, true, data_mode(v));
	if (!r)
		r = target_check(v, in, &rip);
	if (!r)
		r = push_val(v, v->rip + in->len, n);
	if (r)
		return r;
	v->rip = rip;
	return X_JUMP;
}

int flow_exec(struct engine_vcpu *v, const struct insn *in)
{
	uint64_t rel = v->rip + in->len + (uint64_t)in->imm, val = 0, lin;
	/* near branches have 64-bit operands in 64-bit mode whatever the prefix says (Intel) */
	unsigned int n = in->code == 8 ? 8 : in->opsize, w = in->addrsize;
	uint64_t cx;
	bool take;
	int r;

	switch (in->kind) {
	case K_JMP:
		return jump_to(v, in, rel);
	case K_JCC:
		return cond_true(v, in->opcode & 15) ? jump_to(v, in, rel) : X_NEXT;
	case K_CALL:
		return call_to(v, in, rel, n);
	case K_RET:
		r = pop_peek(v, &val, n, 0);
		if (!r)
			r = jump_to(v, in, val);
		if (r == X_JUMP)
			sp_add(v, (int64_t)n + (in->opcode == 0xc2 ? in->imm & 0xffff : 0));
		return r;
	case K_LOOP:
		cx = gpr_get(v, R_CX, w, false);
		if (in->opcode == 0xe3)
			return cx ? X_NEXT : jump_to(v, in, rel);
		cx = (cx - 1) & width_mask(w);
		take = cx != 0;
		if (in->opcode == 0xe0)
			take = take && !(flags_get(v) & FL_ZF);
		else if (in->opcode == 0xe1)
			take = take && (flags_get(v) & FL_ZF);
		if (take) {
			r = jump_to(v, in, rel);
			if (r != X_JUMP)
				return r;
		}
		gpr_set(v, R_CX, w, false, cx);
		return take ? X_JUMP : X_NEXT;
	default:
		break;
	}
	if (in->has_mem) {
		r = ea_linear(v, in, n, false, &lin);
		if (!r)
			r = gmem_read(v, lin, &val, n, data_mode(v));
		if (r)
			return r;
	} else {
		val = gpr_get(v, in->rm.g, n, false);
	}
	return in->kind == K_JMP_IND ? jump_to(v, in, val) : call_to(v, in, val, n);
}
