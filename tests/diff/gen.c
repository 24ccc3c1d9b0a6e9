/* SPDX-License-Identifier: MIT
 * A sequence from a seed: a usual beginning most of the time, then operations
 * by weight, more or less hostile.
 */
#include "diff.h"

static const struct op_kind *const kinds[] = {
#define ADDRESS_OF(name) &op_##name,
	ALL_OPS(ADDRESS_OF)
#undef ADDRESS_OF
};

static void add(struct sequence *q, const struct op_kind *kind, const uint64_t *arg)
{
	struct op *op = &q->op[q->nr++];

	*op = (struct op){ .kind = kind };
	memcpy(op->arg, arg, sizeof(op->arg));
}

static void add_random(struct sequence *q, struct rng *r, const struct op_kind *kind)
{
	uint64_t arg[OP_ARGS] = { 0 };

	for (unsigned i = 0; i < OP_ARGS && kind->arg[i].make; i++)
		arg[i] = kind->arg[i].make(r);
	add(q, kind, arg);
}

/* What nearly every VMM does first, so that the rest has something to work on. */
static void begin(struct sequence *q, struct rng *r)
{
	unsigned chips = rng_below(r, 16);

	if (chips < 9)
		add(q, &op_create_irqchip, (uint64_t[OP_ARGS]){ 0 });
	else if (chips < 12)
		add(q, &op_split, (uint64_t[OP_ARGS]){ 0, 24 });
	if (rng_below(r, 8)) {
		add(q, &op_create_vcpu, (uint64_t[OP_ARGS]){ 0 });
		if (rng_below(r, 2))
			add(q, &op_create_vcpu, (uint64_t[OP_ARGS]){ 0, 1 });
	}
	if (rng_below(r, 8)) /* slot 0, for guests: 32 KiB at 0 */
		add(q, &op_slot, (uint64_t[OP_ARGS]){ 0, 0, rng_below(r, 2), 0, 0x8000 });
}

void sequence_make(struct sequence *q, uint64_t seed)
{
	static const unsigned hostile[] = { 0, 0, 8, 24, 64 };
	struct rng r = { .state = seed };
	unsigned total = 0, nr = 4 + rng_below(&r, 28);

	r.hostile = hostile[rng_below(&r, ARRAY_SIZE(hostile))];
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
		total += kinds[i]->weight;
	q->nr = 0;
	if (rng_below(&r, 16))
		begin(q, &r);
	while (nr--) {
		unsigned at = rng_below(&r, total), k = 0;

		while (at >= kinds[k]->weight)
			at -= kinds[k++]->weight;
		add_random(q, &r, kinds[k]);
	}
}
