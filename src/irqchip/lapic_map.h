/* SPDX-License-Identifier: MIT
 * Finding the local APICs a message is for. The map is built whole from the
 * APICs' registers and then only read: a caller with several threads publishes
 * a new one and retires the old when nobody can be reading it. A message that
 * the map cannot answer (broadcast, shorthands, IDs that collide, mixed logical
 * modes) takes the slow way through all APICs. Both ways are KVM's, and in some
 * corners they differ from each other, as KVM's do.
 */
#ifndef BELFRY_IRQCHIP_LAPIC_MAP_H
#define BELFRY_IRQCHIP_LAPIC_MAP_H

#include "irqchip/ioapic.h"
#include "irqchip/lapic.h"

enum lapic_logical {
	LAPIC_LOGICAL_NONE,	/* no software-enabled APIC with a logical ID */
	LAPIC_LOGICAL_FLAT,
	LAPIC_LOGICAL_CLUSTER,
	LAPIC_LOGICAL_X2APIC,
	LAPIC_LOGICAL_UNUSABLE,	/* mixed modes or colliding IDs */
};

struct lapic_map {
	struct lapic *const *all;	/* every APIC, present or not, in CPU order */
	unsigned count;
	bool usable;			/* false: always the slow way */
	const struct lapic *any;	/* one of them: its broadcast quirk may change meanwhile */
	enum lapic_logical logical;
	struct lapic *logical_ids[16][4];	/* flat: the 8 in [0..1]; cluster: [id][bit] */
	uint32_t max_id;		/* of phys[] */
	struct lapic *phys[];
};

/* Bytes for a map that holds APIC IDs up to max_id (at least 255 are held always). */
size_t lapic_map_size(uint32_t max_id);

/*
 * Fill a map allocated with lapic_map_size(max_id). all must live as long as
 * the map; its NULL entries are skipped. An APIC whose ID is above max_id makes
 * the map unusable, so delivery still works, slowly. All APICs must have the
 * same x2APIC options.
 */
void lapic_map_build(struct lapic_map *map, uint32_t max_id, struct lapic *const *all,
		     unsigned count);

/*
 * Deliver to all that match: any thread, as lapic_accept(). src: the sending
 * APIC of an IPI, or NULL. rtc: NULL or where to note who accepted (an I/O
 * APIC's sink.deliver passes its own on). Lowest priority picks among the
 * matching by the vector, as KVM's vector hashing does. The tri-state.
 */
int lapic_map_deliver(const struct lapic_map *map, struct lapic *src,
		      const struct irq_message *msg, struct ioapic_rtc *rtc);

/*
 * The single target, or NULL if there is none or more than one, for posting
 * straight to it: irqfd's fast path and interrupt remapping.
 */
struct lapic *lapic_map_single(const struct lapic_map *map, const struct irq_message *msg);

/* Would a device's message be sent to target (which may still refuse it)? */
bool lapic_map_reaches(const struct lapic_map *map, const struct irq_message *msg,
		       const struct lapic *target);

/*
 * KVM_HC_SEND_IPI: bit n of the bitmap (low word first; 64 bits a word, or 32)
 * is APIC ID min + n; icr gives vector, delivery and trigger. Returns the number
 * of CPUs reached; -EINVAL if icr names a destination, -EOPNOTSUPP without a
 * usable map.
 */
int lapic_map_pv_ipi(const struct lapic_map *map, uint64_t low, uint64_t high, uint32_t min,
		     uint32_t icr, bool wide);

/* For struct ioapic_sink.rtc_restore. */
void lapic_map_rtc_restore(const struct lapic_map *map, const struct irq_message *msg,
			   struct ioapic_rtc *rtc);

/*
 * After lapic_load(), under the I/O APIC's lock: bring its RTC tracking in line
 * with what this CPU (its index: the APIC ID) now has pending.
 */
void lapic_load_rtc(const struct lapic *l, struct ioapic *io);

#endif
