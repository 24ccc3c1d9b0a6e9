/* SPDX-License-Identifier: MIT */
#include "irqchip/i8254.h"

#define MIN_PERIOD_NS	200000	/* the kernel's default min_timer_period_us */
#define MODE_OFF	0xff	/* KVM's mark of a channel that was never programmed */
#define COUNT_MAX	0x10000	/* what a count of 0 means */

/* Read/write state: 8254, "Write Operations" and "Counter Latch Command". */
enum { RW_LSB = 1, RW_MSB = 2, RW_WORD = 3, RW_WORD_MSB = 4 };

static uint64_t ns_to_ticks(uint64_t ns)
{
	return (uint64_t)((unsigned __int128)ns * I8254_HZ / NSEC_PER_SEC);
}

static uint64_t ticks_to_ns(uint64_t ticks)
{
	return (uint64_t)((unsigned __int128)ticks * NSEC_PER_SEC / I8254_HZ);
}

/* Ticks since the channel was started. */
static uint64_t elapsed(const struct i8254 *pit, unsigned channel, uint64_t now)
{
	int64_t left;

	if (channel != 0) {
		int64_t since = (int64_t)now - pit->state.channels[channel].count_load_time;

		return ns_to_ticks((uint64_t)MAX(since, 0));
	}
	if (!pit->period)
		return 0;
	left = (int64_t)(pit->deadline - now);
	/* Periods that ended and were not yet collected with i8254_expire(). */
	if (left <= 0 && pit->periodic && pit->armed)
		left = (int64_t)pit->period - (int64_t)((uint64_t)-left % pit->period);
	left = MIN(left, (int64_t)pit->period);
	return ns_to_ticks((uint64_t)((int64_t)pit->period - left));
}

static uint16_t current_count(const struct i8254 *pit, unsigned channel, uint64_t now)
{
	const struct kvm_pit_channel_state *c = &pit->state.channels[channel];
	uint64_t count = c->count ? c->count : COUNT_MAX;
	uint64_t d = elapsed(pit, channel, now);

	switch (c->mode) {
	case 0: case 1: case 4: case 5:	/* wraps around and goes on */
		return (uint16_t)(count - d);
	case 3:				/* counts by two */
		return (uint16_t)(count - 2 * d % count);
	default:
		return (uint16_t)(count - d % count);
	}
}

bool i8254_out(const struct i8254 *pit, unsigned channel, uint64_t now)
{
	const struct kvm_pit_channel_state *c;
	uint64_t count, d;

	if (channel > 2)
		return false;
	c = &pit->state.channels[channel];
	count = c->count ? c->count : COUNT_MAX;
	d = elapsed(pit, channel, now);
	switch (c->mode) {
	case 1:
		return d < count;
	case 2:
		return d && d % count == 0;
	case 3:
		return d % count < (count + 1) >> 1;
	case 4: case 5:
		return d == count;
	default:
		return d >= count;
	}
}

static void stop(struct i8254 *pit)
{
	pit->armed = false;
	if (pit->sink->restarted)
		pit->sink->restarted(pit->opaque);
}

static void start(struct i8254 *pit, uint32_t count, bool periodic, uint64_t now)
{
	if (pit->state.flags & KVM_PIT_FLAGS_HPET_LEGACY)
		return;
	pit->period = ticks_to_ns(count);
	pit->periodic = periodic;
	pit->deadline = now + pit->period;
	pit->armed = true;
	/* The first expiry comes as programmed, the following no faster than the floor. */
	if (periodic && pit->period < pit->min_period)
		pit->period = pit->min_period;
	if (pit->sink->restarted)
		pit->sink->restarted(pit->opaque);
}

static void load_count(struct i8254 *pit, unsigned channel, uint32_t count, uint64_t now)
{
	struct kvm_pit_channel_state *c = &pit->state.channels[channel];

	c->count = count ? count : COUNT_MAX;
	if (channel != 0) {
		c->count_load_time = (int64_t)now;
		return;
	}
	switch (c->mode) {
	case 0: case 1: case 4:
		start(pit, c->count, false, now);
		break;
	case 2: case 3:
		start(pit, c->count, true, now);
		break;
	default:
		stop(pit);
	}
}

static void latch_count(struct i8254 *pit, unsigned channel, uint64_t now)
{
	struct kvm_pit_channel_state *c = &pit->state.channels[channel];

	if (c->count_latched)
		return;		/* 8254: the first latch holds until it is read */
	c->latched_count = current_count(pit, channel, now);
	c->count_latched = c->rw_mode;
}

static void latch_status(struct i8254 *pit, unsigned channel, uint64_t now)
{
	struct kvm_pit_channel_state *c = &pit->state.channels[channel];

	if (c->status_latched)
		return;
	c->status = (uint8_t)(i8254_out(pit, channel, now) << 7 | c->rw_mode << 4 |
			      c->mode << 1 | c->bcd);
	c->status_latched = 1;
}

static void write_control(struct i8254 *pit, uint8_t value, uint64_t now)
{
	unsigned channel = value >> 6;
	struct kvm_pit_channel_state *c;

	if (channel == 3) {	/* 8254, "Read-Back Command" */
		for (channel = 0; channel < 3; channel++) {
			if (!(value & 2 << channel))
				continue;
			if (!(value & 0x20))
				latch_count(pit, channel, now);
			if (!(value & 0x10))
				latch_status(pit, channel, now);
		}
		return;
	}
	if (!(value & 0x30)) {
		latch_count(pit, channel, now);
		return;
	}
	c = &pit->state.channels[channel];
	c->rw_mode = c->read_state = c->write_state = value >> 4 & 3;
	c->mode = value >> 1 & 7;
	if (c->mode > 5)	/* 6 and 7 are 2 and 3 */
		c->mode -= 4;
	c->bcd = value & 1;
}

void i8254_init(struct i8254 *pit, uint64_t min_period, const struct i8254_sink *sink,
		void *opaque, uint64_t now)
{
	*pit = (struct i8254) {
		.min_period = min_period ? min_period : MIN_PERIOD_NS,
		.sink = sink,
		.opaque = opaque,
	};
	i8254_reset(pit, now);
}

void i8254_reset(struct i8254 *pit, uint64_t now)
{
	pit->state.flags = 0;
	for (unsigned channel = 0; channel < 3; channel++) {
		pit->state.channels[channel].mode = MODE_OFF;
		pit->state.channels[channel].gate = channel != 2;
		load_count(pit, channel, 0, now);
	}
}

void i8254_write(struct i8254 *pit, uint16_t port, uint8_t value, uint64_t now)
{
	unsigned channel = port & 3;
	struct kvm_pit_channel_state *c = &pit->state.channels[channel % 3];

	if (channel == 3) {
		write_control(pit, value, now);
		return;
	}
	switch (c->write_state) {
	case RW_MSB:
		load_count(pit, channel, (uint32_t)value << 8, now);
		break;
	case RW_WORD:
		c->write_latch = value;
		c->write_state = RW_WORD_MSB;
		break;
	case RW_WORD_MSB:
		load_count(pit, channel, c->write_latch | (uint32_t)value << 8, now);
		c->write_state = RW_WORD;
		break;
	default:
		load_count(pit, channel, value, now);
		break;
	}
}

static uint8_t read_latched(struct kvm_pit_channel_state *c)
{
	uint8_t state = c->count_latched;

	c->count_latched = state == RW_WORD ? RW_MSB : 0;
	return (uint8_t)(state == RW_MSB ? c->latched_count >> 8 : c->latched_count);
}

uint8_t i8254_read(struct i8254 *pit, uint16_t port, uint64_t now)
{
	unsigned channel = port & 3;
	struct kvm_pit_channel_state *c = &pit->state.channels[channel % 3];
	uint16_t count;
	bool high;

	if (channel == 3)
		return 0;
	if (c->status_latched) {
		c->status_latched = 0;
		return c->status;
	}
	if (c->count_latched)
		return read_latched(c);
	count = current_count(pit, channel, now);
	high = c->read_state == RW_MSB || c->read_state == RW_WORD_MSB;
	if (c->read_state == RW_WORD)
		c->read_state = RW_WORD_MSB;
	else if (c->read_state == RW_WORD_MSB)
		c->read_state = RW_WORD;
	return (uint8_t)(high ? count >> 8 : count);
}

static void set_gate_2(struct i8254 *pit, bool gate, uint64_t now)
{
	struct kvm_pit_channel_state *c = &pit->state.channels[2];

	/* 8254, "Gate Pin Operations Summary": a rising edge starts these anew. */
	if ((c->mode == 1 || c->mode == 2 || c->mode == 3 || c->mode == 5) && c->gate < gate)
		c->count_load_time = (int64_t)now;
	c->gate = gate;
}

void i8254_speaker_write(struct i8254 *pit, uint8_t value, uint64_t now)
{
	if (value & 2)
		pit->state.flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	else
		pit->state.flags &= ~KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	set_gate_2(pit, value & 1, now);
}

uint8_t i8254_speaker_read(const struct i8254 *pit, uint64_t now)
{
	bool data = pit->state.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON;

	return (uint8_t)(pit->state.channels[2].gate | data << 1 | (now >> 14 & 1) << 4 |
			 i8254_out(pit, 2, now) << 5);
}

bool i8254_next_edge(const struct i8254 *pit, uint64_t *at)
{
	if (pit->armed)
		*at = pit->deadline;
	return pit->armed;
}

uint64_t i8254_expire(struct i8254 *pit, uint64_t now)
{
	uint64_t edges;

	if (!pit->armed || now < pit->deadline)
		return 0;
	if (!pit->periodic) {
		pit->armed = false;
		return 1;
	}
	edges = (now - pit->deadline) / pit->period + 1;
	pit->deadline += edges * pit->period;
	return edges;
}

void i8254_save(const struct i8254 *pit, struct kvm_pit_state2 *out)
{
	*out = pit->state;
}

void i8254_load(struct i8254 *pit, const struct kvm_pit_state2 *in, uint64_t now)
{
	bool was_legacy = pit->state.flags & KVM_PIT_FLAGS_HPET_LEGACY;

	memcpy(pit->state.channels, in->channels, sizeof(in->channels));
	pit->state.flags = in->flags;
	for (unsigned channel = 0; channel < 3; channel++)
		load_count(pit, channel, in->channels[channel].count, now);
	/* With the HPET in its legacy role channel 0 keeps its mode and falls silent. */
	if (!was_legacy && in->flags & KVM_PIT_FLAGS_HPET_LEGACY)
		stop(pit);
}
