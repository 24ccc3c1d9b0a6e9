/* SPDX-License-Identifier: MIT
 * The pair of 8259A interrupt controllers with the PIIX edge/level registers.
 * Source: 8259A datasheet; PIIX4 datasheet, "ELCR". Where KVM's chip is
 * narrower than the datasheet (no single mode, no LTIM, special mask stored but
 * without effect, fixed cascade on pin 2) so is this one.
 * Ports: 20h 21h master, a0h a1h slave, 4d0h 4d1h ELCR.
 */
#ifndef BELFRY_IRQCHIP_I8259_H
#define BELFRY_IRQCHIP_I8259_H

#include "base/base.h"
#include <linux/kvm.h>

#define I8259_PINS 16

/* All called inside, under the caller's lock; none may call the chip again. */
struct i8259_sink {
	/*
	 * The INTR wire changed. raised: kick a CPU that accepts ExtINT. The level
	 * can always be read with i8259_output().
	 */
	void (*output)(void *opaque, bool raised);
	/* Does any CPU take interrupts from the PIC (lapic_accepts_extint)? NULL: yes. */
	bool (*extint_accepted)(void *opaque);
	/* An IMR write changed a pin's mask (0..15). May be NULL. */
	void (*mask_changed)(void *opaque, unsigned pin, bool masked);
};

struct i8259 {
	struct kvm_pic_state chip[2];	/* (i) master, slave: the saved state */
	uint64_t lines[I8259_PINS];	/* (i) who asserts the pin: a bit for each source */
	bool output;			/* (i) INTR */
	bool update_due;		/* (i) waits for i8259_complete() */
	uint32_t ack_pins;		/* (x) pins whose acks somebody wants */
	uint32_t acks;			/* (i) collected during one call */
	bool honour_special_mask;	/* (o) datasheet behaviour instead of KVM's */
	const struct i8259_sink *sink;
	void *opaque;
};

/*
 * Power-on state: everything clear, ELCR masks f8h and deh. sink must outlive
 * the chip. honour_special_mask makes the special mask mode work as the
 * datasheet has it; KVM stores the mode and ignores it.
 */
void i8259_init(struct i8259 *pic, const struct i8259_sink *sink, void *opaque,
		bool honour_special_mask);

/* Pins (bit mask) whose acks are returned by the calls below; starts empty. */
void i8259_want_acks(struct i8259 *pic, uint32_t pins);

/*
 * Source (0..63) drives pin (0..15) to level; the pin is high while any source
 * holds it. Returns the tri-state; a pin or source out of range is ignored (-1).
 * Re-raising a high edge pin returns 1 and does nothing, as in KVM.
 */
int i8259_set_line(struct i8259 *pic, unsigned pin, unsigned source, bool level);

/* Withdraw a source from all pins without moving a wire (KVM: freed source id). */
void i8259_clear_source(struct i8259 *pic, unsigned source);

/*
 * Port access, len in bytes. Anything but one byte is ignored and reads 0.
 * Return the wanted pins that were acknowledged; if not 0, the caller must drop
 * its lock, notify, lock again and call i8259_complete(). A port that is none
 * of ours is ignored: ask i8259_owns_port().
 */
uint32_t i8259_write(struct i8259 *pic, uint16_t port, unsigned len, uint32_t value) __must_check;
uint32_t i8259_read(struct i8259 *pic, uint16_t port, unsigned len, uint32_t *value) __must_check;
bool i8259_owns_port(uint16_t port);

/*
 * The CPU's two INTA cycles: returns the vector (spurious: IRQ 7 or 15).
 * *acks as above (pins in automatic EOI mode).
 */
uint8_t i8259_inta(struct i8259 *pic, uint32_t *acks);

/* Finish an EOI after its acks have run: look at the wires again. */
void i8259_complete(struct i8259 *pic);

static inline bool i8259_output(const struct i8259 *pic)
{
	return __atomic_load_n(&pic->output, __ATOMIC_SEQ_CST);
}

/*
 * which: KVM_IRQCHIP_PIC_MASTER or _SLAVE; -EINVAL otherwise. Load takes any value, and looks at the
 * pins even when there is no such chip, as KVM.
 */
int i8259_save(const struct i8259 *pic, unsigned which, struct kvm_pic_state *out) __must_check;
/* Look again at what the inputs ask for: the slave's output is an input of the master. */
void i8259_update(struct i8259 *pic);
int i8259_load(struct i8259 *pic, unsigned which, const struct kvm_pic_state *in) __must_check;

#endif
