/* SPDX-License-Identifier: MIT
 *
 * engine/string: MOVS, CMPS, STOS, LODS, SCAS, INS, OUTS with their repeat
 * prefixes. Each iteration is a boundary: registers are exact at faults and
 * between pages, where interrupts are taken. SDM vol. 2, "REP/REPE/…".
 */
#include "engine/decode.h"

#include <Zydis/Zydis.h>

enum op { OP_MOVS, OP_CMPS, OP_STOS, OP_LODS, OP_SCAS, OP_INS, OP_OUTS };

static enum op op_of(const struct insn *in)
{
	switch (in->opcode & 0xfe) {
	case 0xa4:
		return OP_MOVS;
	case 0xa6:
		return OP_CMPS;
	case 0xaa:
		return OP_STOS;
	case 0xac:
		return OP_LODS;
	case 0xae:
		return OP_SCAS;
	case 0x6c:
		return OP_INS;
	default:
		return OP_OUTS;
	}
}

struct str {
	struct engine_vcpu *v;
	const struct insn *in;
	enum op op;
	unsigned int size, aw;
	int64_t step;
	uint64_t mask;
};

static uint64_t reg(const struct str *s, unsigned int g)
{
	return s->v->gpr[g] & s->mask;
}

static void advance(struct str *s, unsigned int g, int64_t n)
{
	gpr_set(s->v, g, s->aw, false, s->v->gpr[g] + (uint64_t)n);
}

static void compare(struct engine_vcpu *v, uint64_t a, uint64_t b, unsigned int size)
{
	uint64_t f;

#define CMP(t)                                                                               \
	__asm__ volatile("cmp %2, %1\n\tpushfq\n\tpop %0" : "=r"(f) : "r"((t)a), "r"((t)b) : "cc", "memory")
	switch (size) {
	case 1:
		CMP(uint8_t);
		break;
	case 2:
		CMP(uint16_t);
		break;
	case 4:
		CMP(uint32_t);
		break;
	default:
		CMP(uint64_t);
		break;
	}
#undef CMP
	flags_set(v, (flags_get(v) & ~FL_ARITH) | ((uint32_t)f & FL_ARITH));
}

static int src_linear(struct str *s, uint64_t *lin)
{
	return seg_linear(s->v, s->in->seg, reg(s, R_SI), s->size, false, lin);
}

static int dst_linear(struct str *s, bool write, uint64_t *lin)
{
	return seg_linear(s->v, S_ES, reg(s, R_DI), s->size, write, lin);
}

/*
 * How many units INS may ask for at once. KVM's rule, so that who counts exits counts
 * the same: bytes of the page that are left, taken as units. A store that faults on
 * the way loses what was read for it and behind it, there as here.
 */
static uint32_t units_at_once(struct str *s, uint64_t count)
{
	uint64_t off = reg(s, R_DI) & 4095, room = s->step < 0 ? off : 4096 - off;

	return (uint32_t)MAX(MIN(MIN(count, room), (uint64_t)INS_BYTES / s->size), 1u);
}

/* The next unit for INS: one that came with an earlier one, or the port's. */
static int ins_read(struct str *s, uint64_t *a)
{
	struct engine_vcpu *v = s->v;
	uint16_t port = (uint16_t)v->gpr[R_DX];

	if (v->ins.pos == v->ins.n || v->replay_i < v->replay_n)
		return io_access(v, port, s->size, false, a);
	*a = 0;
	memcpy(a, v->ins.data + v->ins.pos++ * s->size, s->size);
	/* The store may be one to a device, and the iteration done again. */
	v->replay[v->replay_n++] = (struct replay){.addr = port, .len = (uint8_t)s->size, .space = 1, .data = *a};
	v->replay_i++;
	return X_NEXT;
}

/* One iteration, registers included. */
static int one(struct str *s)
{
	struct engine_vcpu *v = s->v;
	enum tlb_mode m = data_mode(v);
	uint64_t a = 0, b = 0, src = 0, dst = 0;
	bool si = s->op == OP_MOVS || s->op == OP_CMPS || s->op == OP_LODS || s->op == OP_OUTS;
	bool di = s->op != OP_LODS && s->op != OP_OUTS;
	bool dw = s->op == OP_MOVS || s->op == OP_STOS || s->op == OP_INS;
	int r = 0;

	bool first = s->op == OP_CMPS; /* which side faults first differs between processors */

	if (first) {
		r = dst_linear(s, false, &dst);
		if (!r)
			r = gmem_read(v, dst, &b, s->size, m);
	}
	if (!r && si)
		r = src_linear(s, &src);
	if (!r && si)
		r = gmem_read(v, src, &a, s->size, m);
	if (!r && di && !first)
		r = dst_linear(s, dw, &dst);
	if (r)
		return r;
	switch (s->op) {
	case OP_MOVS:
		r = gmem_write(v, dst, &a, s->size, m);
		break;
	case OP_STOS:
		r = gmem_write(v, dst, &v->gpr[R_AX], s->size, m);
		break;
	case OP_LODS:
		gpr_set(v, R_AX, s->size, false, a);
		break;
	case OP_CMPS:
		compare(v, a, b, s->size);
		break;
	case OP_SCAS:
		r = gmem_read(v, dst, &b, s->size, m);
		if (!r)
			compare(v, v->gpr[R_AX], b, s->size);
		break;
	case OP_INS:
		/* the store must be possible before the port is read */
		r = gmem_check(v, dst, s->size, true, m);
		if (!r)
			r = ins_read(s, &a);
		if (!r)
			r = gmem_write(v, dst, &a, s->size, m);
		break;
	case OP_OUTS:
		r = io_access(v, (uint16_t)v->gpr[R_DX], s->size, true, &a);
		break;
	}
	if (r)
		return r;
	if (si)
		advance(s, R_SI, s->step);
	if (di)
		advance(s, R_DI, s->step);
	return X_NEXT;
}

/* Elements from lin to the end of its page in the direction of DF = 0. */
static uint64_t room(uint64_t lin, unsigned int size)
{
	return (4096 - (lin & 4095)) / size;
}

/*
 * As many MOVS, STOS of RAM as fit in the pages at hand, at once. Returns how
 * many were done; 0: take the slow way.
 */
static uint64_t bulk(struct str *s, uint64_t count)
{
	struct engine_vcpu *v = s->v;
	enum tlb_mode m = data_mode(v);
	struct pageref d, p = {0};
	uint64_t src = 0, dst, n;

	if (s->step < 0 || v->bp_on || (s->op != OP_MOVS && s->op != OP_STOS))
		return 0;
	if (dst_linear(s, true, &dst) || (s->op == OP_MOVS && src_linear(s, &src)))
		return 0;
	n = room(dst, s->size);
	if (s->op == OP_MOVS && room(src, s->size) < n)
		n = room(src, s->size);
	if (count < n)
		n = count;
	/* limits of segments are checked by the element */
	if (!(v->mode & (MODE_64 | MODE_FLAT32)))
		return 0;
	if (n < 2)
		return 0;
	if (s->op == OP_MOVS && (page_get_class(v, src, false, m, TLB_CLASS_SI, &p) || !p.host))
		return 0;
	if (page_get_class(v, dst, true, m, TLB_CLASS_DI, &d) || !d.host)
		return 0;
	uint8_t *to = d.host;
	const uint8_t *from = p.host;
	uint64_t k = n;

	if (s->op == OP_MOVS) {
		/* the same instruction on host addresses: overlapping moves repeat as they should */
		switch (s->size) {
		case 1:
			__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(k) : : "memory");
			break;
		case 2:
			__asm__ volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(k) : : "memory");
			break;
		case 4:
			__asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(k) : : "memory");
			break;
		default:
			__asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(k) : : "memory");
		}
	} else {
		uint64_t a = v->gpr[R_AX];

		switch (s->size) {
		case 1:
			__asm__ volatile("rep stosb" : "+D"(to), "+c"(k) : "a"(a) : "memory");
			break;
		case 2:
			__asm__ volatile("rep stosw" : "+D"(to), "+c"(k) : "a"(a) : "memory");
			break;
		case 4:
			__asm__ volatile("rep stosl" : "+D"(to), "+c"(k) : "a"(a) : "memory");
			break;
		default:
			__asm__ volatile("rep stosq" : "+D"(to), "+c"(k) : "a"(a) : "memory");
		}
	}
	if (d.slot)
		page_code_written(v, d.slot, d.gpa, (unsigned int)(n * s->size));
	if (s->op == OP_MOVS)
		advance(s, R_SI, (int64_t)(n * s->size));
	advance(s, R_DI, (int64_t)(n * s->size));
	return n;
}

static bool must_look(struct engine_vcpu *v)
{
	return atomic_load_explicit(&v->attn, memory_order_relaxed) || v->attn_local;
}

int string_exec(struct engine_vcpu *v, const struct insn *in)
{
	struct str s = {.v = v, .in = in, .op = op_of(in), .aw = in->addrsize};
	uint64_t count, done = 0;
	int r;

	s.size = !(in->opcode & 1) ? 1 : in->code == 8 && in->w ? 8 : in->opsize;
	if ((s.op == OP_INS || s.op == OP_OUTS) && s.size == 8)
		s.size = 4;
	s.mask = s.aw == 8 ? ~0ull : s.aw == 4 ? 0xffffffffu : 0xffff;
	s.step = v->df ? -(int64_t)s.size : s.size;
	if (s.op == OP_INS || s.op == OP_OUTS) {
		r = io_allowed(v, (uint16_t)v->gpr[R_DX], s.size);
		if (r)
			return r;
	}
	v->ins.want = 0;
	if (!v->replay_n)
		v->ins.n = v->ins.pos = 0;
	if (!in->rep)
		return one(&s);
	for (;;) {
		bool brought = v->ins.pos < v->ins.n; /* and lost if it is not used now */

		count = reg(&s, R_CX);
		if (!count)
			return X_NEXT;
		if (done && !brought && (must_look(v) || (v->vflags & FL_TF) || v->bp_hit))
			return X_JUMP; /* at the same RIP, to come back */
		uint64_t n = bulk(&s, count);

		if (!n) {
			v->ins.want = s.op == OP_INS && !brought ? units_at_once(&s, count) : 0;
			r = one(&s);
			if (r)
				return r;
			v->replay_n = v->replay_i = 0;
			n = 1;
		}
		gpr_set(v, R_CX, s.aw, false, count - n);
		done += n;
		if (s.op == OP_CMPS || s.op == OP_SCAS) {
			bool zf = flags_get(v) & FL_ZF;

			if (zf != (in->rep == 0xf3))
				return X_NEXT;
		}
	}
}
