/* SPDX-License-Identifier: MIT
 * The interval timer against any sequence of port accesses, moments and loads.
 */
#include "fuzz.h"
#include "irqchip/irqchip.h"

struct bed {
	struct i8254 pit;
	uint64_t now;
	unsigned restarts;
};

static void on_restart(void *opaque)
{
	((struct bed *)opaque)->restarts++;
}

static const struct i8254_sink sinks[] = { { on_restart }, { NULL } };

/* Time goes on: often by little, at times to the next edge or by centuries. */
static void advance(struct bed *b, struct feed *f)
{
	uint64_t at;

	switch (feed_below(f, 4)) {
	case 0:
		b->now += feed_u8(f);
		break;
	case 1:
		b->now += feed_u32(f);
		break;
	case 2:
		if (i8254_next_edge(&b->pit, &at) && at > b->now)
			b->now = at;
		break;
	default:
		b->now += feed_u64(f) >> feed_below(f, 64);
	}
	b->now &= INT64_MAX / 2; /* a clock in ns does not get there in a century */
	b->now += !b->now;
}

static void expire(struct bed *b)
{
	uint64_t at = 0, n;
	bool due = i8254_next_edge(&b->pit, &at) && at <= b->now;

	n = i8254_expire(&b->pit, b->now);
	FUZZ_CHECK(!!n == due, "%llu edges, due %d", (unsigned long long)n, due);
	if (i8254_next_edge(&b->pit, &at))
		FUZZ_CHECK(at > b->now, "the next edge is due again");
}

/* What a load restarts aside, the saved state is kept. */
static void reload(struct bed *b)
{
	struct kvm_pit_state2 s, t;

	i8254_save(&b->pit, &s);
	i8254_load(&b->pit, &s, b->now);
	i8254_save(&b->pit, &t);
	for (unsigned i = 0; i < 3; i++) {
		s.channels[i].count_load_time = t.channels[i].count_load_time;
		FUZZ_CHECK(i == 0 || (uint64_t)t.channels[i].count_load_time == b->now, "load time");
	}
	FUZZ_CHECK(!memcmp(&s, &t, sizeof(s)), "state after save and load");
}

static void step(struct bed *b, struct feed *f)
{
	struct kvm_pit_state2 s;
	uint8_t v = feed_u8(f);

	switch (feed_below(f, 10)) {
	case 0:
	case 1:
		i8254_write(&b->pit, feed_u8(f), v, b->now);
		break;
	case 2: /* a channel programmed whole */
		i8254_write(&b->pit, 0x43, v, b->now);
		i8254_write(&b->pit, 0x40 + v / 64 % 3, feed_u8(f), b->now);
		i8254_write(&b->pit, 0x40 + v / 64 % 3, feed_u8(f), b->now);
		break;
	case 3:
		(void)i8254_read(&b->pit, v, b->now);
		break;
	case 4:
		i8254_speaker_write(&b->pit, v, b->now);
		(void)i8254_speaker_read(&b->pit, b->now);
		break;
	case 5:
	case 6:
		advance(b, f);
		break;
	case 7:
		expire(b);
		break;
	case 8:
		for (unsigned i = 0; i < 4; i++)
			(void)i8254_out(&b->pit, i, b->now);
		reload(b);
		break;
	default:
		if (v & 3)
			break;
		feed_bytes(f, &s, sizeof(s));
		i8254_load(&b->pit, &s, b->now);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct feed f = { data, size };
	struct bed b = { .now = 1 };
	uint8_t kind = feed_u8(&f);

	i8254_init(&b.pit, kind & 2 ? feed_u32(&f) : 0, &sinks[kind & 1], &b, b.now);
	while (f.left)
		step(&b, &f);
	return 0;
}
