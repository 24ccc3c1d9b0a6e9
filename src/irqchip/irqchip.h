/* SPDX-License-Identifier: MIT
 *
 * irqchip: interrupt controllers and the PIT as pure state machines. The room's
 * public header.
 *
 * A chip owns no fd, no thread, no clock and no memory besides its struct. It
 * is told of an event (a wire moved, a register was accessed, a deadline
 * passed) together with the time where time matters, and speaks to the outside
 * only through the const sink it was given at init. The same code serves as
 * softkvm's "in-kernel" chips and as the machine's split or user irqchip; its
 * yardstick is what the Linux kernel's KVM does (tests/unit/irqchip_diff.c
 * holds the models against it). docs/IRQCHIP.md is the contract in one page:
 *
 *  - Locking is the caller's. A chip is called under the lock that its caller
 *    keeps for it and calls its sink inside, so a sink must not call back into
 *    the same chip. The one exception is lapic_accept(), which any thread may
 *    call without a lock.
 *  - Acknowledgements (an EOI reached a pin) are not called from inside. The
 *    function that caused them returns a set of pins; the caller drops its
 *    lock, tells the sources (resample), takes the lock again and finishes the
 *    EOI with i8259_complete() or ioapic_eoi_end(). Only then is the wire
 *    looked at again, so a source that lowered its line is not taken for one
 *    that still asks.
 *  - A delivery's result is a tri-state, here and in every room: below 0 the
 *    interrupt was ignored (masked, or nobody is there), 0 it was coalesced
 *    with one that is already pending, above 0 the number of CPUs it reached.
 */
#ifndef BELFRY_IRQCHIP_H
#define BELFRY_IRQCHIP_H

#include "irqchip/i8254.h"
#include "irqchip/i8259.h"
#include "irqchip/ioapic.h"
#include "irqchip/lapic.h"
#include "irqchip/lapic_map.h"
#include "irqchip/message.h"

#endif
