/* SPDX-License-Identifier: MIT
 *
 * engine/decode_memo: what was decoded lately, found by its bytes. Half of the
 * instructions that a kernel's boot has translated have been seen a moment ago:
 * the same PUSH and RET everywhere, and code that several blocks cover.
 */
#include "engine/decode.h"

#define MEMOS 512u

struct memo {
	uint8_t bytes[15]; /* as they were given: the struct may have others */
	uint8_t key;	   /* what else decoding depends on; 0: empty */
	struct insn in;
};

size_t decode_memo_size(void)
{
	return MEMOS * sizeof(struct memo);
}

static bool same(const uint8_t *a, const uint8_t *b, unsigned int n)
{
	while (n && a[n - 1] == b[n - 1])
		n--;
	return !n;
}

int insn_decode_memo(struct engine_vcpu *v, const uint8_t *p, unsigned int n, unsigned int code, struct insn *in)
{
	uint8_t key = (uint8_t)(code | (v->seg[S_SS].attr & SEG_DB ? 16 : 0));
	struct memo *m;
	uint32_t h;
	int r;

	if (n < 3)
		return insn_decode(v, p, n, code, in);
	h = (p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16) * 0x9e3779b1u;
	m = &v->memos[h >> 23];
	/* an instruction is what its own bytes say, whatever follows */
	if (m->key == key && m->in.len <= n && same(m->bytes, p, m->in.len)) {
		*in = m->in;
		return 0;
	}
	r = insn_decode(v, p, n, code, in);
	if (!r && in->kind != K_UD) {
		bytes_copy(m->bytes, p, in->len);
		m->key = key;
		m->in = *in;
	}
	return r;
}
