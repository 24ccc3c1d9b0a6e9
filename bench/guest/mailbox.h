/* SPDX-License-Identifier: MIT
 * What the guest doorbell.c and its host events.c tell each other, in the guest's
 * memory. Each word has one writer; cache lines for each direction.
 */
#ifndef BELFRY_BENCH_MAILBOX_H
#define BELFRY_BENCH_MAILBOX_H

#define MAILBOX        0x300000
#define MAILBOX_MAGIC  0xbe11f2e1u
#define MAILBOX_VECTOR 0x41

enum mailbox_kick { MAILBOX_KICK_MMIO, MAILBOX_KICK_PIO };

struct mailbox {
	/* by the guest */
	volatile uint32_t magic;    /* the device is set up */
	volatile uint32_t failed;   /* the line of doorbell.c that gave up */
	volatile uint64_t pong, pong_tsc;
	volatile uint64_t handled;  /* interrupts so far */
	volatile uint64_t handler_tsc, doorbell_tsc, after_tsc;
	volatile uint64_t rung;     /* doorbells so far */
	uint64_t pad0[7];
	/* by the host */
	volatile uint64_t ping;     /* while not ~0: answer it */
	volatile uint64_t delay;    /* TSC ticks between an interrupt and the doorbell */
	volatile uint32_t kick;     /* enum mailbox_kick */
	volatile uint32_t running;  /* wait for the next interrupt running, not halted */
};

#endif
