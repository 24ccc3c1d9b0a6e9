/* SPDX-License-Identifier: MIT
 *
 * engine/translate_string: REP MOVS and REP STOS. What stays within a page runs
 * as itself; the rest is string.c's.
 */
#include "engine/translate.h"

/*
 * S0 bytes from the address in register r: their host - guest address to S1, if
 * they are in one page that may be used so; else to out. Uses S2.
 */
static void run_lookup(struct tr *t, int r, bool write, uint8_t **out)
{
	struct emit *e = &t->e;
	struct hmem last = {.base = (int8_t)r, .index = S0, .disp = -1}, entry = {.base = S1, .index = -1, .gs = true};

	entry.disp = table_at(t, write, write ? TLB_CLASS_DI : TLB_CLASS_SI);
	e_mov_rr(e, S1, r);
	e_lea(e, S2, last, true);
	e_shift(e, 5, S1, 8);
	e_alu_imm(e, 4, false, S1, (TLB_WAY - 1) << 4);
	e_shift(e, 7, S2, 12);
	e_rm(e, 0x39, true, S2, &entry);
	*out = e_jcc(e, 5);
	entry.disp += 8;
	e_load(e, S1, entry);
}

/* What stays within a page of RAM, upwards. C does the rest. */
bool string_emit(struct tr *t, const struct insn *in)
{
	bool movs = (in->opcode & 0xfe) == 0xa4;
	unsigned int w = in->opcode & 1 ? in->opsize : 1;
	struct hmem df = GS_MEM(df), sum = {.base = H_DI, .index = S1};
	uint8_t *out[4];
	unsigned int n = 0;
	struct emit *e = &t->e;

	if ((!movs && (in->opcode & 0xfe) != 0xaa) || !in->rep || flat32(t) || in->addrsize != 8 ||
	    in->seg == S_FS || in->seg == S_GS)
		return false;
	flags_free(t);
	e_rm(e, 0x80, false, 7, &df);
	e1(e, 0);
	out[n++] = e_jcc(e, 5);
	/* one more than the longest would be in two pages anyway */
	e_alu_imm(e, 7, true, H_CX, 4096);
	out[n++] = e_jcc(e, 7);
	e_mov_rr(e, S0, H_CX);
	if (w > 1)
		e_shift(e, 4, S0, (uint8_t)__builtin_ctz(w));
	run_lookup(t, H_DI, true, &out[n++]);
	e_store(e, GS_MEM(tmp[0]), S1); /* for insn_undo() too */
	if (movs) {
		run_lookup(t, H_SI, false, &out[n++]);
		e_store(e, GS_MEM(tmp[1]), S1);
		sum.base = H_SI;
		e_lea(e, H_SI, sum, true);
		e_load(e, S2, GS_MEM(tmp[0]));
		sum = (struct hmem){.base = H_DI, .index = S2};
	}
	e_lea(e, H_DI, sum, true);
	e1(e, 0xf3);
	if (w == 2)
		e1(e, 0x66);
	if (w == 8)
		e1(e, 0x48);
	e1(e, (uint8_t)((in->opcode & 0xfe) | (w > 1)));
	e_rr(e, 0x29, true, movs ? S2 : S1, H_DI);
	if (movs)
		e_rr(e, 0x29, true, S1, H_SI);
	bool saved = t->saved;

	link_emit(t, -1, t->rip + in->len);
	for (unsigned int i = 0; i < n; i++)
		e_patch_here(e, out[i]);
	t->saved = saved;
	insn_exit_emit(t, in);
	return true;
}
