/* SPDX-License-Identifier: MIT */
#include "irqchip/lapic_map.h"
#include "irqchip/lapic_priv.h"

#define XAPIC_BROADCAST		0xffu
#define X2APIC_BROADCAST	UINT32_MAX
#define DFR_FLAT		UINT32_MAX
#define DFR_CLUSTER		0x0fffffffu

static uint32_t xapic_id(const struct lapic *l)
{
	return reg_get(l, LAPIC_ID) >> 24;
}

/* Is target's ID, or group, the destination? SDM "Determining IPI Destination". */
static bool match_dest(const struct lapic *target, uint32_t dest, bool logical)
{
	bool x2apic = lapic_x2apic_mode(target);
	uint32_t ldr;

	if (dest == (x2apic ? X2APIC_BROADCAST : XAPIC_BROADCAST))
		return true;
	if (!logical) {
		/* An ID that xAPIC cannot say means the x2APIC ID, whatever the mode. */
		if (x2apic || dest > 0xff)
			return dest == target->config.id;
		return dest == xapic_id(target);
	}
	ldr = reg_get(target, LAPIC_LDR);
	if (x2apic)
		return ldr >> 16 == dest >> 16 && ldr & dest & 0xffff;
	ldr >>= 24;
	switch (reg_get(target, LAPIC_DFR)) {
	case DFR_FLAT:
		return ldr & dest;
	case DFR_CLUSTER:
		return ldr >> 4 == dest >> 4 && ldr & dest & 0xf;
	default:
		return false;
	}
}

bool lapic_match(const struct lapic *target, const struct lapic *src,
		 const struct irq_message *msg)
{
	uint32_t dest = msg->dest;

	switch (msg->shorthand) {
	case IRQ_SELF:
		return target == src;
	case IRQ_ALL:
		return true;
	case IRQ_ALL_BUT_SELF:
		return target != src;
	}
	/*
	 * Without interrupt remapping a device cannot say "all" to an x2APIC: take
	 * its ffh for that, unless user space has opted for real 32-bit IDs.
	 */
	if (!src && dest == XAPIC_BROADCAST && !lapic_no_broadcast_quirk(target) &&
	    lapic_x2apic_mode(target))
		dest = X2APIC_BROADCAST;
	return match_dest(target, dest, msg->logical);
}

size_t lapic_map_size(uint32_t max_id)
{
	return sizeof(struct lapic_map) + ((size_t)MAX(max_id, 255) + 1) * sizeof(struct lapic *);
}

static bool add_physical(struct lapic_map *map, struct lapic *l)
{
	bool x2apic = lapic_x2apic_mode(l);
	uint32_t id = x2apic ? l->config.id : xapic_id(l);

	if (l->config.id > map->max_id)
		return false;
	if (lapic_ids_32(l)) {
		/* Hotplugged CPUs are reached by their x2APIC ID before they enter that mode. */
		if (x2apic || l->config.id > 0xff)
			map->phys[l->config.id] = l;
		if (!x2apic && !map->phys[id])
			map->phys[id] = l;
		return true;
	}
	if (map->phys[id])
		return false;
	map->phys[id] = l;
	return true;
}

static void add_logical(struct lapic_map *map, struct lapic *l)
{
	uint32_t ldr = reg_get(l, LAPIC_LDR);
	enum lapic_logical mode;
	struct lapic **slot;
	uint32_t bits;

	if (map->logical == LAPIC_LOGICAL_UNUSABLE || !lapic_sw_enabled(l) || !ldr)
		return;
	if (lapic_x2apic_mode(l))
		mode = LAPIC_LOGICAL_X2APIC;
	else
		mode = reg_get(l, LAPIC_DFR) == DFR_FLAT ? LAPIC_LOGICAL_FLAT : LAPIC_LOGICAL_CLUSTER;
	if (map->logical == LAPIC_LOGICAL_NONE)
		map->logical = mode;
	else if (map->logical != mode)
		map->logical = LAPIC_LOGICAL_UNUSABLE;
	/* x2APIC logical IDs are made from the physical ones: phys[] serves. */
	if (map->logical == LAPIC_LOGICAL_UNUSABLE || mode == LAPIC_LOGICAL_X2APIC)
		return;

	ldr >>= 24;
	bits = mode == LAPIC_LOGICAL_FLAT ? ldr : ldr & 0xf;
	if (!bits)
		return;
	slot = mode == LAPIC_LOGICAL_FLAT ? &map->logical_ids[0][0] : &map->logical_ids[ldr >> 4][0];
	slot += __builtin_ctz(bits);
	if (!is_pow2(bits) || *slot)
		map->logical = LAPIC_LOGICAL_UNUSABLE;
	else
		*slot = l;
}

void lapic_map_build(struct lapic_map *map, uint32_t max_id, struct lapic *const *all,
		     unsigned count)
{
	memset(map, 0, lapic_map_size(max_id));
	map->all = all;
	map->count = count;
	map->usable = true;
	map->max_id = MAX(max_id, 255);
	for (unsigned i = 0; i < count; i++) {
		if (!all[i])
			continue;
		map->any = all[i];
		if (!lapic_hw_enabled(all[i]))
			continue;
		if (!add_physical(map, all[i])) {
			map->usable = false;
			return;
		}
		add_logical(map, all[i]);
	}
}

static bool is_broadcast(const struct lapic_map *map, const struct lapic *src, uint32_t dest)
{
	if (map->any && lapic_no_broadcast_quirk(map->any))
		return dest == X2APIC_BROADCAST ||
		       (dest == XAPIC_BROADCAST && map->logical != LAPIC_LOGICAL_X2APIC);
	return dest == (src && lapic_x2apic_mode(src) ? X2APIC_BROADCAST : XAPIC_BROADCAST);
}

static bool lowest_priority(const struct irq_message *msg)
{
	return msg->delivery == IRQ_LOWEST || msg->redirection_hint;
}

static unsigned nth_bit(uint32_t bits, unsigned n)
{
	while (n--)
		bits &= bits - 1;
	return (unsigned)__builtin_ctz(bits);
}

/*
 * The targets as *bits over *slots. False: the map has no answer. True with no
 * bits: there is nobody.
 */
static bool find(const struct lapic_map *map, const struct lapic *src,
		 const struct irq_message *msg, struct lapic *const **slots, uint32_t *bits)
{
	unsigned pick;

	if (msg->shorthand || !map->usable || is_broadcast(map, src, msg->dest))
		return false;
	*bits = 0;
	*slots = map->phys;
	if (!msg->logical) {
		if (msg->dest <= map->max_id) {
			*slots = &map->phys[msg->dest];
			*bits = 1;
		}
		return true;
	}
	switch (map->logical) {
	case LAPIC_LOGICAL_NONE:
		return true;
	case LAPIC_LOGICAL_X2APIC: {
		uint32_t first = (msg->dest >> 16) * 16;

		if (first <= map->max_id) {
			*slots = &map->phys[first];
			*bits = msg->dest & (0xffffu >> (16 - MIN(map->max_id - first + 1, 16)));
		}
		break;
	}
	case LAPIC_LOGICAL_FLAT:
		*slots = &map->logical_ids[0][0];
		*bits = msg->dest & 0xff;
		break;
	case LAPIC_LOGICAL_CLUSTER:
		*slots = &map->logical_ids[msg->dest >> 4 & 0xf][0];
		*bits = msg->dest & 0xf;
		break;
	default:
		return false;
	}
	if (!lowest_priority(msg) || !*bits)
		return true;
	pick = nth_bit(*bits, msg->vector % (unsigned)__builtin_popcount(*bits));
	*bits = (*slots)[pick] ? BIT(pick) : 0;
	return true;
}

static int take(struct lapic *l, const struct irq_message *msg, struct ioapic_rtc *rtc)
{
	int ret = lapic_accept(l, msg);

	if (ret && rtc && msg->delivery <= IRQ_LOWEST)
		ioapic_rtc_note(rtc, l->config.id, msg->vector);
	return ret;
}

static bool matches(struct lapic *l, const struct lapic *src, const struct irq_message *msg)
{
	return l && lapic_hw_enabled(l) && lapic_match(l, src, msg);
}

static int deliver_lowest(const struct lapic_map *map, struct lapic *src,
			  const struct irq_message *msg, struct ioapic_rtc *rtc)
{
	unsigned candidates = 0, pick;

	for (unsigned i = 0; i < map->count; i++)
		if (matches(map->all[i], src, msg) && lapic_sw_enabled(map->all[i]))
			candidates++;
	if (!candidates)
		return -1;
	pick = msg->vector % candidates;
	for (unsigned i = 0; i < map->count; i++)
		if (matches(map->all[i], src, msg) && lapic_sw_enabled(map->all[i]) && !pick--)
			return take(map->all[i], msg, rtc);
	return -1;	/* another thread disabled it meanwhile */
}

int lapic_map_deliver(const struct lapic_map *map, struct lapic *src,
		      const struct irq_message *msg, struct ioapic_rtc *rtc)
{
	struct irq_message fixed;
	struct lapic *const *slots;
	uint32_t bits;
	int ret = 0;

	if (msg->shorthand == IRQ_SELF)
		return src ? take(src, msg, rtc) : 0;
	if (find(map, src, msg, &slots, &bits)) {
		for (; bits; bits &= bits - 1) {
			struct lapic *l = slots[__builtin_ctz(bits)];

			if (l)
				ret += take(l, msg, rtc);
		}
		return ret;
	}
	if (!msg->logical && msg->dest == XAPIC_BROADCAST && lowest_priority(msg)) {
		fixed = *msg;
		fixed.delivery = IRQ_FIXED;
		msg = &fixed;
	}
	if (lowest_priority(msg))
		return deliver_lowest(map, src, msg, rtc);
	ret = -1;
	for (unsigned i = 0; i < map->count; i++)
		if (matches(map->all[i], src, msg))
			ret = MAX(ret, 0) + take(map->all[i], msg, rtc);
	return ret;
}

struct lapic *lapic_map_single(const struct lapic_map *map, const struct irq_message *msg)
{
	struct lapic *const *slots;
	struct lapic *found = NULL;
	uint32_t bits;

	if (find(map, NULL, msg, &slots, &bits))
		return is_pow2(bits) ? slots[__builtin_ctz(bits)] : NULL;
	for (unsigned i = 0; i < map->count; i++) {
		if (!matches(map->all[i], NULL, msg))
			continue;
		if (found)
			return NULL;
		found = map->all[i];
	}
	return found;
}

int lapic_map_pv_ipi(const struct lapic_map *map, uint64_t low, uint64_t high, uint32_t min,
		     uint32_t icr, bool wide)
{
	uint64_t words[2] = { low, high };
	struct irq_message msg;
	int count = 0;

	if (icr & (ICR_LOGICAL | 3u << ICR_SHORTHAND_SHIFT))
		return -EINVAL;
	if (!map->usable)
		return -EOPNOTSUPP;
	icr_decode(icr, true, &msg);
	for (unsigned w = 0; w < 2; w++) {
		uint64_t first = (uint64_t)min + w * (wide ? 64 : 32);

		for (uint64_t bits = words[w]; bits; bits &= bits - 1) {
			uint64_t id = first + (unsigned)__builtin_ctzll(bits);

			if (id <= map->max_id && map->phys[id])
				count += lapic_accept(map->phys[id], &msg);
		}
	}
	return count;
}

void lapic_map_rtc_restore(const struct lapic_map *map, const struct irq_message *msg,
			   struct ioapic_rtc *rtc)
{
	for (unsigned i = 0; i < map->count; i++) {
		struct lapic *l = map->all[i];

		if (l && lapic_match(l, NULL, msg) && lapic_owes_eoi(l, msg->vector))
			ioapic_rtc_note(rtc, l->config.id, msg->vector);
	}
}

void lapic_load_rtc(const struct lapic *l, struct ioapic *io)
{
	struct irq_message msg;

	rte_decode(io->rte[IOAPIC_RTC_PIN], io->ext_dest, &msg);
	if (lapic_match(l, NULL, &msg))
		ioapic_rtc_loaded(io, l->config.id, lapic_owes_eoi(l, msg.vector));
}

int lapic_scan_ioapic(const struct lapic *l, const struct ioapic *io, unsigned cpu,
		      uint64_t handled[4])
{
	int stale = -1;

	memset(handled, 0, 4 * sizeof(handled[0]));
	if (cpu < IOAPIC_MAX_CPUS && io->rtc.cpus[cpu / 64] & BIT_ULL(cpu % 64))
		bitmap_set(handled, io->rtc.vector[cpu]);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		struct irq_message msg;

		if (!(io->rte[pin] & RTE_LEVEL) && !(io->ack_pins & BIT(pin)) &&
		    pin != IOAPIC_RTC_PIN)
			continue;
		rte_decode(io->rte[pin], io->ext_dest, &msg);
		if (lapic_match(l, NULL, &msg)) {
			bitmap_set(handled, msg.vector);
		} else if (lapic_owes_eoi(l, msg.vector)) {
			bitmap_set(handled, msg.vector);
			stale = MAX(stale, msg.vector);
		}
	}
	return stale;
}

bool lapic_map_reaches(const struct lapic_map *map, const struct irq_message *msg,
		       const struct lapic *target)
{
	struct lapic *const *slots;
	uint32_t bits;

	if (!find(map, NULL, msg, &slots, &bits))
		return lapic_hw_enabled(target) && lapic_match(target, NULL, msg);
	for (; bits; bits &= bits - 1)
		if (slots[__builtin_ctz(bits)] == target)
			return true;
	return false;
}
