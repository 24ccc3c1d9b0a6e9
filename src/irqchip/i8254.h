/* SPDX-License-Identifier: MIT
 * The 8254 interval timer (ports 40h..43h) and the speaker port's part in it
 * (61h). Source: 8254 datasheet; where KVM's is simpler (binary counting also
 * with BCD set, no null-count bit, a mode change alone stops nothing, channel 0
 * gives a pulse for each expiry in modes 0 to 4 and none in mode 5), so is this.
 *
 * It knows no clock: now is CLOCK_MONOTONIC in ns, or any clock that the caller
 * uses for all calls and that starts at 1 or later. What becomes of missed ticks
 * (reinjection) is the caller's policy.
 */
#ifndef BELFRY_IRQCHIP_I8254_H
#define BELFRY_IRQCHIP_I8254_H

#include "base/base.h"
#include <linux/kvm.h>

#define I8254_HZ	1193182
#define I8254_SPEAKER	0x61

struct i8254_sink {
	/*
	 * Channel 0 was started anew or stopped: i8254_next_edge() has another
	 * answer, and ticks that wait for reinjection belong to the past. Called
	 * inside, under the caller's lock.
	 */
	void (*restarted)(void *opaque);
};

struct i8254 {
	struct kvm_pit_state2 state;	/* channels and flags: the saved state */
	uint64_t period;		/* (i) ns of channel 0, 0 before its first start */
	uint64_t deadline;		/* (i) ns: next expiry; stays when stopped */
	bool periodic;			/* (i) */
	bool armed;			/* (i) */
	uint64_t min_period;		/* (o) ns: floor of a periodic channel 0 */
	const struct i8254_sink *sink;
	void *opaque;
};

/* Power-on state. min_period 0: 200 µs, the kernel's default. sink outlives the chip. */
void i8254_init(struct i8254 *pit, uint64_t min_period, const struct i8254_sink *sink,
		void *opaque, uint64_t now);
void i8254_reset(struct i8254 *pit, uint64_t now);

/* Ports 40h..43h by their low two bits; the low byte counts. 43h reads 0. */
void i8254_write(struct i8254 *pit, uint16_t port, uint8_t value, uint64_t now);
uint8_t i8254_read(struct i8254 *pit, uint16_t port, uint64_t now);

/*
 * Port 61h: bit 0 gate 2, bit 1 speaker data; reading gives also bit 4 (refresh
 * clock, toggles every 2^14 ns) and bit 5 (OUT of channel 2).
 */
void i8254_speaker_write(struct i8254 *pit, uint8_t value, uint64_t now);
uint8_t i8254_speaker_read(const struct i8254 *pit, uint64_t now);

/* The OUT pin of a channel (0..2; others low) as KVM computes it. */
bool i8254_out(const struct i8254 *pit, unsigned channel, uint64_t now);

/* When channel 0 raises its interrupt next; false: never. A past time means: now. */
bool i8254_next_edge(const struct i8254 *pit, uint64_t *at);

/* How many edges came due up to now, each counted once. Moves the deadline on. */
uint64_t i8254_expire(struct i8254 *pit, uint64_t now);

/*
 * KVM_GET_PIT2 and KVM_SET_PIT2. Load restarts every channel at now and takes
 * any value, as KVM does; KVM_PIT_FLAGS_HPET_LEGACY switches channel 0 off.
 */
void i8254_save(const struct i8254 *pit, struct kvm_pit_state2 *out);
void i8254_load(struct i8254 *pit, const struct kvm_pit_state2 *in, uint64_t now);

#endif
