/* SPDX-License-Identifier: MIT */
#include "diff_seq.h"

#include <stdio.h>
#include <string.h>

struct diff_component diff_xcomp[8];

static uint64_t rnd(struct diff_seq *s)
{
	s->rng ^= s->rng << 13;
	s->rng ^= s->rng >> 7;
	s->rng ^= s->rng << 17;
	return s->rng * 0x2545f4914f6cdd1dull;
}

static unsigned int below(struct diff_seq *s, unsigned int n)
{
	return (unsigned int)((rnd(s) >> 33) % n);
}

static void seq_add(struct diff_seq *s, const void *p, unsigned int n)
{
	memcpy(s->b + s->n, p, n);
	s->n += n;
}

static void mov_imm(struct diff_seq *s, unsigned int reg, uint64_t v)
{
	uint8_t b[10] = {(uint8_t)(0x48 | (reg >= 8)), (uint8_t)(0xb8 | (reg & 7))};

	if (s->compat) {
		b[0] = (uint8_t)(0xb8 | (reg & 7));
		memcpy(b + 1, &v, 4);
		seq_add(s, b, 5);
		return;
	}
	memcpy(b + 2, &v, 8);
	seq_add(s, b, 10);
}

static bool allowed(const struct diff_seq *s, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
	switch (z->meta.category) {
	case ZYDIS_CATEGORY_CALL: case ZYDIS_CATEGORY_RET: case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_COND_BR: case ZYDIS_CATEGORY_SYSCALL: case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_INTERRUPT: case ZYDIS_CATEGORY_SEGOP: case ZYDIS_CATEGORY_RDRAND:
	case ZYDIS_CATEGORY_RDSEED: case ZYDIS_CATEGORY_XSAVE: case ZYDIS_CATEGORY_XSAVEOPT:
	case ZYDIS_CATEGORY_IO: case ZYDIS_CATEGORY_IOSTRINGOP: case ZYDIS_CATEGORY_VTX:
	case ZYDIS_CATEGORY_RDWRFSGS: case ZYDIS_CATEGORY_WAITPKG: case ZYDIS_CATEGORY_MPX:
	case ZYDIS_CATEGORY_CET: case ZYDIS_CATEGORY_PKU: case ZYDIS_CATEGORY_RDPID:
	case ZYDIS_CATEGORY_RDPRU: case ZYDIS_CATEGORY_CLZERO: case ZYDIS_CATEGORY_SMAP:
		return false;
	default:
		break;
	}
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_HLT: case ZYDIS_MNEMONIC_CLI: case ZYDIS_MNEMONIC_INVLPG:
	case ZYDIS_MNEMONIC_RDMSR: case ZYDIS_MNEMONIC_WBINVD: case ZYDIS_MNEMONIC_CLTS:
		return true; /* #GP in user mode on both sides */
	case ZYDIS_MNEMONIC_FNSTENV: case ZYDIS_MNEMONIC_FNSAVE: case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FRSTOR: /* instruction pointers */
	case ZYDIS_MNEMONIC_FXSAVE: case ZYDIS_MNEMONIC_FXSAVE64: case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_POPF: case ZYDIS_MNEMONIC_POPFQ: case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_POPFD: case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_PUSHFQ:
	case ZYDIS_MNEMONIC_ENTER: /* levels: vendors differ in what is probed */
	case ZYDIS_MNEMONIC_SMSW: case ZYDIS_MNEMONIC_MONITORX: case ZYDIS_MNEMONIC_MWAITX:
	case ZYDIS_MNEMONIC_CPUID: case ZYDIS_MNEMONIC_RDTSC: case ZYDIS_MNEMONIC_RDTSCP:
	case ZYDIS_MNEMONIC_UD0: case ZYDIS_MNEMONIC_RSM: case ZYDIS_MNEMONIC_XGETBV:
	case ZYDIS_MNEMONIC_FEMMS: case ZYDIS_MNEMONIC_INVLPGB:
		return false;
	default:
		break;
	}
	if (z->meta.category == ZYDIS_CATEGORY_SYSTEM)
		return false;
	for (unsigned int i = 0; i < z->operand_count; i++) {
		if (op[i].type == ZYDIS_OPERAND_TYPE_REGISTER) {
			ZydisRegisterClass c = ZydisRegisterGetClass(op[i].reg.value);

			if (c == ZYDIS_REGCLASS_SEGMENT || c == ZYDIS_REGCLASS_CONTROL ||
			    c == ZYDIS_REGCLASS_DEBUG)
				return false;
		}
		if (op[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    (op[i].mem.segment == ZYDIS_REGISTER_FS || op[i].mem.segment == ZYDIS_REGISTER_GS))
			return false;
	}
	switch (z->meta.isa_ext) {
	case ZYDIS_ISA_EXT_AMD3DNOW: case ZYDIS_ISA_EXT_XOP: case ZYDIS_ISA_EXT_TBM:
	case ZYDIS_ISA_EXT_FMA4: case ZYDIS_ISA_EXT_SVM: case ZYDIS_ISA_EXT_PADLOCK:
	case ZYDIS_ISA_EXT_AMX_TILE:
	case ZYDIS_ISA_EXT_SERIALIZE: case ZYDIS_ISA_EXT_UINTR: case ZYDIS_ISA_EXT_RTM:
	case ZYDIS_ISA_EXT_KEYLOCKER: case ZYDIS_ISA_EXT_KEYLOCKER_WIDE: case ZYDIS_ISA_EXT_MCOMMIT:
	case ZYDIS_ISA_EXT_SGX: case ZYDIS_ISA_EXT_SMX: case ZYDIS_ISA_EXT_TSX_LDTRK: case ZYDIS_ISA_EXT_TDX:
	case ZYDIS_ISA_EXT_MOVDIR: case ZYDIS_ISA_EXT_ENQCMD: case ZYDIS_ISA_EXT_HRESET:
	case ZYDIS_ISA_EXT_KNC: case ZYDIS_ISA_EXT_KNCE: case ZYDIS_ISA_EXT_KNCV:
	case ZYDIS_ISA_EXT_CLWB: case ZYDIS_ISA_EXT_SNP: case ZYDIS_ISA_EXT_PCONFIG:
	case ZYDIS_ISA_EXT_AMX_BF16: case ZYDIS_ISA_EXT_AMX_INT8: case ZYDIS_ISA_EXT_SMAP:
		return false;
	case ZYDIS_ISA_EXT_AVX512EVEX: case ZYDIS_ISA_EXT_AVX512VEX:
		return s->wide;
	default:
		return true;
	}
}

static unsigned int random_bytes(struct diff_seq *s, uint8_t *b)
{
	unsigned int n = 0, map = below(s, 16);

	if (below(s, 6) == 0)
		b[n++] = 0x66;
	if (below(s, 10) == 0)
		b[n++] = below(s, 2) ? 0xf3 : 0xf2;
	if (below(s, 40) == 0)
		b[n++] = 0x67;
	if (below(s, 24) == 0)
		b[n++] = 0xf0;
	if (s->wide && map >= 8 && map < 12) {
		n = 0;
		b[n++] = 0x62;
		b[n++] = (uint8_t)((s->compat ? 0xf0 : (rnd(s) & 0xf0)) | (1 + below(s, 3)));
		b[n++] = (uint8_t)(rnd(s) | 4);
		b[n++] = (uint8_t)rnd(s);
		if (below(s, 2))
			b[n - 1] |= 8; /* V' */
		if (below(s, 3) == 0)
			b[n - 2] |= 0x78; /* vvvv unused */
		if (below(s, 2))
			b[n - 1] &= 0x6f; /* no zeroing, no broadcast */
	} else if (map >= 12) {
		n = 0;
		b[n++] = 0xc4;
		b[n++] = (uint8_t)((s->compat ? 0xe0 : rnd(s) & 0xe0) | (1 + below(s, 3)));
		b[n++] = (uint8_t)rnd(s);
	} else {
		if (!s->compat && below(s, 2))
			b[n++] = (uint8_t)(0x40 | below(s, 16));
		if (map >= 5)
			b[n++] = 0x0f;
		if (map == 10)
			b[n++] = 0x38;
		if (map == 11)
			b[n++] = 0x3a;
	}
	b[n++] = (uint8_t)rnd(s);
	for (unsigned int i = 0; i < 10; i++)
		b[n + i] = (uint8_t)rnd(s);
	/* small displacements are more interesting than wild ones */
	if (below(s, 3)) {
		unsigned int at = n + 1 + ((b[n] & 7) == 4);

		if ((b[n] & 0xc0) == 0x80) {
			b[at + 2] = b[at + 3] = 0;
			b[at + 1] &= 15;
		}
	}
	return n + 10;
}

static uint32_t flag_bits(uint32_t m)
{
	return m & 0x8d5;
}

/* Make the memory operand point into the arena, most of the time. */
static void aim(struct diff_seq *s, const ZydisDecodedOperand *op, unsigned int n_op)
{
	for (unsigned int i = 0; i < n_op; i++) {
		const ZydisDecodedOperandMem *m = &op[i].mem;
		uint64_t target = ARENA + 64 + below(s, ARENA_LEN - 256);

		if (op[i].type != ZYDIS_OPERAND_TYPE_MEMORY || below(s, 25) == 0)
			continue;
		if (below(s, 8))
			target &= ~63ull;
		if (below(s, 12) == 0) {
			/* across a page */
			target = ARENA + 0x1000 * (1 + below(s, 4)) - 1 - below(s, 31);
		} else if (below(s, 40) == 0) {
			target = RO_PAGE + 8 * below(s, 8);
		}
		int idx = m->type == ZYDIS_MEMOP_TYPE_VSIB ? -1 :
			  m->index == ZYDIS_REGISTER_NONE ? -1 : ZydisRegisterGetId(m->index);
		int base = m->base == ZYDIS_REGISTER_NONE || m->base == ZYDIS_REGISTER_RIP ||
			   m->base == ZYDIS_REGISTER_EIP ? -1 : ZydisRegisterGetId(m->base);
		uint64_t x = below(s, 64);

		if (m->disp.has_displacement)
			target -= (uint64_t)m->disp.value;
		if (idx >= 0 && idx == base) {
			x = target / (m->scale + 1u);
			mov_imm(s, (unsigned int)base, x);
			continue;
		}
		if (idx >= 0) {
			if (base < 0)
				x = target / (m->scale ? m->scale : 1u);
			mov_imm(s, (unsigned int)idx, x);
			target -= x * m->scale;
		}
		if (base >= 0)
			mov_imm(s, (unsigned int)base, target);
	}
}

/* One accepted random instruction. */
static bool add_random(struct diff_seq *s)
{
	uint8_t b[24];
	ZydisDecodedInstruction z;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];

	for (int tries = 0; tries < 200; tries++) {
		unsigned int n = random_bytes(s, b);
		uint32_t und = 0, def = 0;

		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&s->dec, b, n > 15 ? 15 : n, &z, op)) || !allowed(s, &z, op))
			continue;
		if (z.cpu_flags) {
			if (flag_bits(z.cpu_flags->tested) & s->undef)
				continue;
			und = flag_bits(z.cpu_flags->undefined);
			def = flag_bits(z.cpu_flags->modified | z.cpu_flags->set_0 | z.cpu_flags->set_1) & ~und;
		}
		/* a count of zero may leave flags alone: only their being undefined is taken over */
		if (z.meta.category == ZYDIS_CATEGORY_SHIFT || z.meta.category == ZYDIS_CATEGORY_ROTATE)
			def = 0;
		bool str = z.meta.category == ZYDIS_CATEGORY_STRINGOP;

		if (str)
			def = 0;

		/* 16-bit addresses: both sides of CMPS fault (see below) */
		if (str && (z.opcode & 0xfe) == 0xa6 && z.address_width == 16)
			continue;

		if (below(s, 20))
			aim(s, op, z.operand_count);
		if (str) {
			mov_imm(s, 1, below(s, 40));
			/* which side of CMPS faults first differs: let only one */
			if ((z.opcode & 0xfe) == 0xa6)
				mov_imm(s, 7, ARENA + 0x400 + below(s, 0x3000));
		}
		s->undef = (s->undef & ~def) | und;
		seq_add(s, b, z.length);
		return true;
	}
	return false;
}

/* Wild numbers, doubles near one, and small numbers for indices. */
static void random_vectors(struct diff_seq *s, uint8_t *p, unsigned int n)
{
	for (unsigned int i = 0; i < n / 8; i++)
		((uint64_t *)p)[i] = below(s, 3) == 0 ? 0x3ff0000000000000ull + (rnd(s) >> 12) :
				     below(s, 3) == 0 ? rnd(s) & 0x3ff000003ffull : rnd(s);
}

static void state_op(struct diff_seq *s, const char *op, uint32_t mask)
{
	uint8_t b[5];
	unsigned int n = 0;

	mov_imm(s, 0, s->wide ? mask : mask & 7); /* here XCR0 has them all the time */
	mov_imm(s, 2, 0);
	mov_imm(s, 7, AREA);
	if (!s->compat && below(s, 2))
		b[n++] = 0x48;
	memcpy(b + n, op, 3);
	seq_add(s, b, n + 3);
	mov_imm(s, 7, ARENA + 64);
}

/*
 * XSAVE, XSAVEOPT or XSAVEC, something else, XRSTOR, of some components: what comes back is what was
 * saved. The area itself need not be the same: what counts as in use is the processor's affair. (And
 * so is what XSAVEOPT leaves out where something was restored from, which may have been initial there.)
 */
static void add_state(struct diff_seq *s)
{
	static const char *const save[] = {"\x0f\xae\x27", "\x0f\xae\x37", "\x0f\xc7\x27"};
	unsigned int n = below(s, 4), how = s->compact ? 2 : s->restored ? 2 * below(s, 2) : below(s, 3);

	if (below(s, 6)) {
		state_op(s, save[how], (uint32_t)(below(s, 3) ? ~0u : rnd(s)));
		s->compact = how == 2;
	}
	for (unsigned int i = 0; i < n; i++)
		add_random(s);
	if (below(s, 3))
		s->restored = true;
	if (s->restored)
		state_op(s, "\x0f\xae\x2f", (uint32_t)(below(s, 3) ? ~0u : rnd(s)));
}

/* What is restored without having been saved: perhaps nothing that can be. */
static void random_area(struct diff_seq *s, uint8_t area[4096])
{
	memset(area, 0, 4096);
	random_vectors(s, area + 32, 4096 - 32);
	for (unsigned int i = 0; i < 8; i++)
		memset(area + 32 + 16 * i + 10, 0, 6);
	*(uint16_t *)area = 0x37f;
	*(uint32_t *)(area + 24) = 0x1f80;
	memset(area + 512, 0, 64);
	area[512] = (uint8_t)(rnd(s) & (s->wide ? 0xe7 : 7));
	/* XSAVEC makes areas of fewer components */
	if (below(s, 3) == 0)
		*(uint64_t *)(area + 520) = 1ull << 63 | (s->wide ? 0xe7 : 7);
	if (below(s, 10) == 0)
		area[513 + below(s, 7)] = area[521 + below(s, 55)] = (uint8_t)rnd(s);
}

/* An indirect jump or call, or a return: on behind it, to wherever, or to nowhere. */
static void add_branch(struct diff_seq *s)
{
	static const uint64_t wild[] = {1ull << 47, ~0ull << 47, 1ull << 45, 0x123456789abcdefull, 0};
	unsigned int reg = below(s, s->compat ? 8 : 16), how = below(s, 5), fix, size = s->compat ? 4 : 8;
	bool on = below(s, 3);
	uint64_t target = below(s, 4) ? wild[below(s, 5)] : rnd(s), at;
	uint8_t b[16];

	if (reg == 4)
		reg = 3;
	fix = s->n + (s->compat ? 1 : 2);
	mov_imm(s, reg, target);
	b[0] = 0x41;
	switch (how) {
	case 0: /* push reg; ret */
	case 1: /* push reg; ret n */
		b[1] = (uint8_t)(0x50 | (reg & 7));
		seq_add(s, b + (reg < 8), 1 + (reg >= 8));
		memcpy(b, how ? "\xc2\x08\x00" : "\xc3\xcc", 3);
		seq_add(s, b, how ? 3 : 1);
		break;
	case 2: /* through memory */
		b[1] = (uint8_t)(0x50 | (reg & 7));
		seq_add(s, b + (reg < 8), 1 + (reg >= 8));
		memcpy(b, below(s, 2) ? "\xff\x24\x24" : "\xff\x14\x24", 3);
		seq_add(s, b, 3);
		break;
	default:
		b[1] = 0xff;
		b[2] = (uint8_t)((how == 3 ? 0xe0 : 0xd0) | (reg & 7));
		seq_add(s, b + (reg < 8), 2 + (reg >= 8));
		break;
	}
	at = s->rip + s->n;
	if (on)
		memcpy(s->b + fix, &at, size);
}

static void add_flow(struct diff_seq *s)
{
	uint8_t b[16];
	unsigned int cc, at;

	switch (below(s, 8)) {
	case 6:
		add_branch(s);
		break;
	case 7:
		add_state(s);
		break;
	case 0: /* jcc over one instruction */
	case 1:
		if (s->undef)
			return;
		cc = below(s, 16);
		b[0] = (uint8_t)(0x70 | cc);
		b[1] = 0;
		seq_add(s, b, 2);
		at = s->n;
		add_random(s);
		s->b[at - 1] = (uint8_t)(s->n - at);
		break;
	case 2: /* push, pop */
		b[0] = (uint8_t)(0x50 | below(s, 8));
		seq_add(s, b, 1);
		b[0] = 0x41;
		b[1] = (uint8_t)(0x58 | below(s, 8));
		seq_add(s, b, 2);
		break;
	case 3: /* call next; pop */
		b[0] = 0xe8;
		memset(b + 1, 0, 4);
		seq_add(s, b, 5);
		b[0] = 0x5a;
		seq_add(s, b, 1);
		break;
	case 4: { /* call over; … ret */
		static const uint8_t c[] = {0xe8, 2, 0, 0, 0, 0xeb, 1, 0xc3};

		seq_add(s, c, sizeof(c));
		break;
	}
	default: { /* a counted loop around memory */
		static const uint8_t c[] = {0xb9, 5, 0, 0, 0, 0x48, 0x01, 0xc8, 0x50, 0x8f, 0xc3, 0xff, 0xc9, 0x75, 0xf6};

		seq_add(s, c, sizeof(c));
		s->undef = 0;
		break;
	}
	}
}

/* op reg, [base + index * scale + disp8]; index -1: none. */
static void mem_op(struct diff_seq *s, uint8_t prefix, const char *op, unsigned int n_op, bool w, unsigned int reg,
		   unsigned int base, int index, unsigned int scale, int8_t disp)
{
	uint8_t b[16], rex = (uint8_t)((w ? 8 : 0) | (reg >= 8 ? 4 : 0) | (index >= 8 ? 2 : 0) | (base >= 8 ? 1 : 0));
	unsigned int n = 0;
	bool sib = index >= 0 || (base & 7) == 4;

	if (prefix)
		b[n++] = prefix;
	if (!s->compat)
		b[n++] = (uint8_t)(0x40 | rex);
	memcpy(b + n, op, n_op);
	n += n_op;
	b[n++] = (uint8_t)(0x40 | (reg & 7) << 3 | (sib ? 4 : base & 7));
	if (sib)
		b[n++] = (uint8_t)(scale << 6 | (index >= 0 ? index & 7 : 4) << 3 | (base & 7));
	b[n++] = (uint8_t)disp;
	seq_add(s, b, n);
}

/*
 * Accesses off one register around the end of a page, which may be the last that can be written
 * or read; the register is changed and copied, flags are made and used between them.
 */
static void add_run(struct diff_seq *s)
{
	static const struct {
		uint8_t prefix;
		const char *op;
		unsigned int n;
	} ops[] = {
		{0, "\x8b", 1}, {0, "\x89", 1}, {0, "\x8a", 1}, {0, "\x88", 1}, {0, "\x03", 1}, {0, "\x01", 1},
		{0, "\x13", 1}, {0, "\x11", 1}, {0, "\x3b", 1}, {0, "\x0f\xb6", 2}, {0, "\x0f\x44", 2},
		{0, "\x0f\x10", 2}, {0, "\x0f\x11", 2}, {0x66, "\x0f\xef", 2}, {0, "\x87", 1}, {0, "\x0f\xc1", 2},
	};
	unsigned int regs = s->compat ? 8 : 16, base = below(s, regs), n = 2 + below(s, 7), copy = below(s, regs), from = base;
	int index = below(s, 3) ? -1 : (int)below(s, regs);
	unsigned int scale = below(s, 4);
	uint64_t target = ARENA + 0x1000 * (1 + below(s, 5)) - below(s, 96);
	uint8_t b[8];

	if (index == 4 || index == (int)base || index == (int)copy)
		index = -1;
	if (index >= 0) {
		unsigned int x = below(s, 16);

		mov_imm(s, (unsigned int)index, x);
		target -= (uint64_t)x << scale;
	}
	mov_imm(s, base, target);
	for (unsigned int i = 0; i < n; i++) {
		unsigned int k = below(s, sizeof(ops) / sizeof(ops[0])), reg = below(s, regs);
		uint8_t rex = s->compat ? 0x90 : (uint8_t)(0x48 | (from >= 8));
		int8_t disp = (int8_t)((int)below(s, 128) - 64);

		if (reg == 4 || (reg == from && below(s, 8)))
			reg = (reg + 1) % 4;
		switch (below(s, 12)) {
		case 0: /* add, sub base, imm */
			b[0] = rex;
			b[1] = 0x83;
			b[2] = (uint8_t)((below(s, 2) ? 0xc0 : 0xe8) | (from & 7));
			b[3] = (uint8_t)below(s, 32);
			seq_add(s, b, 4);
			s->undef = 0;
			break;
		case 1: /* push, pop */
			b[0] = (uint8_t)((below(s, 2) ? 0x50 : 0x58) | below(s, 4));
			seq_add(s, b, 1);
			break;
		case 2: /* copy */
			if (copy == 4 || from == 4)
				break;
			b[0] = s->compat ? 0x90 : (uint8_t)(0x48 | (from >= 8 ? 4 : 0) | (copy >= 8));
			b[1] = 0x89;
			b[2] = (uint8_t)(0xc0 | (from & 7) << 3 | (copy & 7));
			seq_add(s, b, 3);
			from = copy;
			break;
		case 3: /* lea base, [base + disp] */
			mem_op(s, 0, "\x8d", 1, below(s, 8), from, from, -1, 0, (int8_t)below(s, 32));
			break;
		case 4: /* inc, dec; 32 bits now and then */
			b[0] = below(s, 6) || s->compat ? rex : 0x40 | (from >= 8);
			b[1] = 0xff;
			b[2] = (uint8_t)(0xc0 | below(s, 2) << 3 | (from & 7));
			seq_add(s, b, 3);
			break;
		case 5:
			if (below(s, 3) == 0) { /* a division that may fault: by a byte of memory */
				mem_op(s, 0, "\xf6", 1, false, 6, from, index, scale, disp);
				s->undef = 0x8d5;
				break;
			}
			/* fall through */
		default:
			if (s->undef && (k == 6 || k == 7 || k == 10))
				k = 0;
			mem_op(s, ops[k].prefix, ops[k].op, ops[k].n, below(s, 2) && !s->compat, reg, from, index, scale, disp);
			if ((k >= 4 && k <= 8) || k == 15)
				s->undef = 0;
			break;
		}
	}
}

static void step_add(struct diff_seq *s, unsigned int reg, int8_t step)
{
	uint8_t b[4] = {s->compat ? 0x90 : (uint8_t)(0x48 | (reg >= 8)), 0x83, (uint8_t)(0xc0 | (reg & 7)), (uint8_t)step};

	seq_add(s, b, 4);
}

/*
 * A counted loop over two arrays, by pointers or by an index, upwards or downwards, through
 * several pages and perhaps out of them.
 */
static void add_loop(struct diff_seq *s)
{
	static const struct {
		uint8_t prefix;
		const char *op;
		unsigned int n;
	} ops[] = {
		{0, "\x8b", 1}, {0, "\x89", 1}, {0, "\x03", 1}, {0, "\x01", 1}, {0, "\x0f\xb6", 2}, {0, "\x88", 1},
		{0, "\x0f\x10", 2}, {0, "\x0f\x11", 2}, {0x66, "\x0f\xef", 2}, {0, "\x13", 1},
	};
	/* pointers, an index; neither is a destination, nor is RCX */
	static const uint8_t pointer[] = {6, 7, 3, 9, 12, 15}, dest[] = {0, 2, 5, 8, 10, 14};
	unsigned int many = s->compat ? 3 : 6, n = 1 + below(s, 4), head, out, hole = 0, scale = below(s, 4);
	unsigned int p[2] = {pointer[below(s, many)], pointer[below(s, many)]}, x = below(s, 2) ? 11 : 13;
	int8_t step[2] = {(int8_t)((int)below(s, 128) - 64), (int8_t)((int)below(s, 64) - 16)};
	bool indexed = !s->compat && below(s, 3) == 0;
	uint8_t b[8];

	mov_imm(s, 1, 1 + below(s, below(s, 3) ? 20 : 200));
	for (unsigned int i = 0; i < 2; i++)
		mov_imm(s, p[i], ARENA + 0x1000 * (1 + below(s, 4)) + (below(s, 2) ? 0 : below(s, 0x1000)) - below(s, 128));
	if (indexed)
		mov_imm(s, x, below(s, 2) ? below(s, 64) : -(uint64_t)below(s, 64));
	memcpy(b, "\x39\xc0", 2); /* flags defined */
	seq_add(s, b, 2);
	s->undef = 0;
	head = s->n;
	out = below(s, 2) ? n : below(s, n);
	for (unsigned int i = 0; i < n; i++) {
		unsigned int k = below(s, sizeof(ops) / sizeof(ops[0])), which = below(s, 2);

		if (i == out) { /* cmp al, x; jcc out */
			memcpy(b, "\x3c\x00\x70", 3);
			b[1] = (uint8_t)rnd(s);
			b[2] |= (uint8_t)below(s, 16);
			b[3] = 0;
			seq_add(s, b, 4);
			hole = s->n;
		}

		if (below(s, 4) == 0)
			step_add(s, p[which], below(s, 2) ? 8 : step[which]);
		mem_op(s, ops[k].prefix, ops[k].op, ops[k].n, below(s, 2) && !s->compat, dest[below(s, many)], p[which],
		       indexed && below(s, 2) ? (int)x : -1, scale, (int8_t)((int)below(s, 64) - 32));
	}
	for (unsigned int i = 0; i < 2; i++)
		if (below(s, 5))
			step_add(s, p[i], step[i]);
	if (indexed)
		step_add(s, x, step[0] / 8);
	memcpy(b, "\xff\xc9\x75", 3); /* dec ecx; jnz */
	b[3] = (uint8_t)(head - (s->n + 4));
	seq_add(s, b, 4);
	if (hole)
		s->b[hole - 1] = (uint8_t)(s->n - hole);
}

static void random_state(struct diff_seq *s, struct diff_state *st)
{
	uint64_t *m = (uint64_t *)st->mem;

	memset(st, 0, sizeof(*st));
	for (unsigned int i = 0; i < 16; i++)
		st->gpr[i] = below(s, 3) ? rnd(s) : below(s, 2) ? below(s, 256) : ARENA + below(s, ARENA_LEN);
	st->gpr[4] = ARENA + 0x800 + 8 * below(s, 256);
	if (below(s, 8) == 0)
		st->gpr[4] = ARENA + 0x1000 + 8 * below(s, 4) - below(s, 8);
	st->flags = ((uint32_t)rnd(s) & 0x8d5) | 2;
	for (unsigned int i = 0; i < ARENA_LEN / 8; i++)
		m[i] = below(s, 4) ? rnd(s) : ARENA + below(s, ARENA_LEN);
	*(uint16_t *)st->xs = 0x37f;
	*(uint32_t *)(st->xs + 24) = below(s, 8) ? 0x1f80 : 0x1f80 & ~(uint32_t)(1u << (7 + below(s, 6)));
	random_vectors(s, st->xs + 160, 256);
	for (unsigned int i = 2; i < 8; i++)
		if ((s->wide ? 0xe7u : 7u) >> i & 1)
			random_vectors(s, st->xs + diff_xcomp[i].off, diff_xcomp[i].size);
	for (unsigned int i = 0; s->wide && i < 8; i++)
		if (below(s, 3))
			((uint64_t *)(st->xs + diff_xcomp[5].off))[i] = below(s, 3) ? -(uint64_t)below(s, 2) : 1u << below(s, 16);
	*(uint64_t *)(st->xs + 512) = s->wide ? 0xe7 : 7;
	for (unsigned int i = 0; s->compat && i < 16; i++)
		st->gpr[i] = i < 8 ? (uint32_t)st->gpr[i] : 0;
	st->rip = CODE + below(s, 64);
}

void diff_make(struct diff_seq *s, uint64_t seed, bool wide, struct diff_state *in, uint8_t area[4096])
{
	static const uint8_t end = 0xcc;
	unsigned int len;

	memset(s, 0, sizeof(*s));
	s->compat = seed % 4 == 3;
	s->wide = wide && seed / 4 % 4 != 3;
	ZydisDecoderInit(&s->dec, s->compat ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LONG_64,
			 s->compat ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_64);
	ZydisDecoderEnableMode(&s->dec, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	ZydisDecoderEnableMode(&s->dec, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
	s->rng = seed * 0x9e3779b97f4a7c15ull + 0x1234567;
	for (int i = 0; i < 4; i++)
		rnd(s);
	random_state(s, in);
	random_area(s, area);
	len = 1 + below(s, 10);
	if (below(s, 4) == 0) /* let it cross into the next page */
		in->rip = CODE + 0x1000 - below(s, 16 * len);
	s->rip = in->rip;
	for (unsigned int i = 0; i < len; i++) {
		unsigned int kind = below(s, 12);

		if (kind < 2)
			add_flow(s);
		else if (kind == 2)
			add_run(s);
		else if (kind == 3 && below(s, 2))
			add_loop(s);
		else
			add_random(s);
	}
	seq_add(s, &end, 1);
}

void diff_print(const struct diff_seq *s)
{
	ZydisFormatter f;

	ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
	for (unsigned int i = 0; i < s->n;) {
		ZydisDecodedInstruction z;
		ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
		char buf[128];

		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&s->dec, s->b + i, s->n - i, &z, op)))
			break;
		ZydisFormatterFormatInstruction(&f, &z, op, z.operand_count_visible, buf, sizeof(buf),
						s->rip + i, ZYAN_NULL);
		printf("  %lx:", s->rip + i);
		for (unsigned int k = 0; k < z.length; k++)
			printf(" %02x", s->b[i + k]);
		printf("\t%s\n", buf);
		i += z.length;
	}
}
