/* SPDX-License-Identifier: MIT
 * Operations on interrupts: routes, lines, messages, eventfds, the chips' state.
 */
#include "diff.h"
#include <sys/eventfd.h>
#include <unistd.h>

#define PICK(r, ...) \
	({ static const uint64_t list_[] = { __VA_ARGS__ }; list_[rng_below(r, ARRAY_SIZE(list_))]; })
#define VM (a[0] % WORLD_VMS)

/* ---- routes ------------------------------------------------------------------- */

/*
 * A route in a number: bits 0-12 gsi, 13-15 type (0: a pin, 1: an MSI, else wrong),
 * 16-19 chip or MSI's destination, 20-25 pin, 20-27 vector, 28-30 delivery mode,
 * 31 level, 32 flags, 33 high address.
 */
static struct kvm_irq_routing_entry route_of(uint64_t v)
{
	struct kvm_irq_routing_entry e = { .gsi = v & 0x1fff, .flags = v >> 32 & 1 };

	switch (v >> 13 & 7) {
	case 0:
		e.type = KVM_IRQ_ROUTING_IRQCHIP;
		e.u.irqchip.irqchip = v >> 16 & 15;
		e.u.irqchip.pin = v >> 20 & 63;
		break;
	case 1:
		e.type = KVM_IRQ_ROUTING_MSI;
		e.u.msi.address_lo = 0xfee00000 | (uint32_t)(v >> 16 & 15) << 12;
		e.u.msi.address_hi = v >> 33 & 1;
		e.u.msi.data = (uint32_t)((v >> 20 & 0xff) | (v >> 28 & 7) << 8 | (v >> 31 & 1) << 15);
		break;
	default:
		e.type = (uint32_t)(v >> 13 & 7) + 1;
	}
	return e;
}

static uint64_t any_route(struct rng *r)
{
	uint64_t v = any_gsi(r) & 0x1fff;

	if (rng_hostile(r))
		return v | (rng_next(r) & ~0x1fffull);
	if (rng_below(r, 2))
		return v | 1 << 13 | (uint64_t)rng_below(r, 3) << 16 |
		       (uint64_t)(0x30 + rng_below(r, 0x60)) << 20;
	return v | (rng_below(r, 2) ? 2ull << 16 | (v % 24) << 20
				    : (uint64_t)rng_below(r, 2) << 16 | (v & 7) << 20);
}

static void routes(struct world *w, const uint64_t *a)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e[4];
	} t = { .head = { .nr = (uint32_t)a[1], .flags = (uint32_t)a[2] } };

	for (unsigned i = 0; i < 4; i++) {
		t.e[i] = route_of(a[4 + i]);
		if (t.e[i].type == KVM_IRQ_ROUTING_MSI)
			w->routed[t.e[i].u.msi.data >> 5 & 7] |= 1u << (t.e[i].u.msi.data & 31);
	}
	vm_call(w, VM, KVM_SET_GSI_ROUTING, world_pointer(a[3], &t));
}

static uint64_t nr_routes(struct rng *r)
{
	return rng_hostile(r) ? PICK(r, 0, 4097, 0xffffffff) : rng_below(r, 5);
}

const struct op_kind op_routes = { "routes", 8, routes,
	{ { "vm", any_vm }, { "nr", nr_routes }, { "flags", rare_bit }, { "pointer", any_pointer },
	  { "r0", any_route }, { "r1", any_route }, { "r2", any_route }, { "r3", any_route } } };

static void line(struct world *w, const uint64_t *a)
{
	struct kvm_irq_level l = { .irq = (uint32_t)a[1], .level = (uint32_t)a[2] };

	if (a[3]) {
		vm_call(w, VM, KVM_IRQ_LINE, world_pointer(a[4], &l));
		return;
	}
	if (!vm_call(w, VM, KVM_IRQ_LINE_STATUS, world_pointer(a[4], &l)))
		say(&w->s, "status %d", l.status);
}

const struct op_kind op_line = { "line", 12, line,
	{ { "vm", any_vm }, { "gsi", any_gsi }, { "level", any_bit }, { "no status", any_bit },
	  { "pointer", any_pointer } } };

static void msi(struct world *w, const uint64_t *a)
{
	struct kvm_msi m = { .address_lo = 0xfee00000 | (uint32_t)a[1], .address_hi = (uint32_t)a[3],
			     .data = (uint32_t)a[2], .flags = (uint32_t)a[4] };

	vm_call(w, VM, KVM_SIGNAL_MSI, world_pointer(a[5], &m));
}

static uint64_t msi_address(struct rng *r)
{
	return (uint64_t)PICK(r, 0, 0, 1, 2, 3, 0xff) << 12 | (rng_below(r, 4) ? 0 : rng_below(r, 4) << 2);
}

static uint64_t msi_data(struct rng *r)
{
	static const uint8_t modes[] = { 0, 0, 0, 0, 0, 1, 1, 4 };
	unsigned mode = rng_hostile(r) ? rng_below(r, 8) : modes[rng_below(r, 8)];

	return any_vector(r) | mode << 8 | rng_below(r, 2) << 15 | rng_below(r, 2) << 14;
}

static uint64_t msi_high(struct rng *r)
{
	return rng_hostile(r) ? PICK(r, 1, 0x100, 0xffffff00) : 0;
}

const struct op_kind op_msi = { "msi", 8, msi,
	{ { "vm", any_vm }, { "address", msi_address }, { "data", msi_data }, { "high", msi_high },
	  { "flags", rare_bit }, { "pointer", any_pointer } } };

/* ---- eventfds --------------------------------------------------------------------- */

static void irqfd(struct world *w, const uint64_t *a)
{
	unsigned e = a[1] % WORLD_EVENTS;
	struct binding *b = &w->binding[e];
	struct kvm_irqfd f = { .fd = (uint32_t)w->event[e], .gsi = (uint32_t)a[2], .flags = (uint32_t)a[3],
			       .resamplefd = (uint32_t)w->event[a[4] % WORLD_EVENTS] };
	uint64_t count;
	long r;

	world_settle(w);
	r = vm_call(w, VM, KVM_IRQFD, world_pointer(a[5], &f));
	if (r)
		return;
	if (!(f.flags & KVM_IRQFD_FLAG_DEASSIGN))
		*b = (struct binding){ true, VM, f.gsi,
				       f.flags & KVM_IRQFD_FLAG_RESAMPLE ? (int)(a[4] % WORLD_EVENTS) : -1 };
	else if (b->bound && b->vm == VM && b->gsi == f.gsi)
		b->bound = false;
	world_settle(w);
	/* A count from before is delivered, but stays; in softkvm it is taken. */
	for (unsigned i = 0; b->bound && i < 3 && read(w->event[e], &count, 8) == 8; i++)
		;
}

static uint64_t irqfd_flags(struct rng *r)
{
	return rng_hostile(r) ? rng_below(r, 16) : PICK(r, 0, 0, 0, 1, 2, 2);
}

const struct op_kind op_irqfd = { "irqfd", 12, irqfd,
	{ { "vm", any_vm }, { "event", any_event }, { "gsi", any_gsi }, { "flags", irqfd_flags },
	  { "resample", any_event }, { "pointer", any_pointer } } };

static void ioeventfd(struct world *w, const uint64_t *a)
{
	struct kvm_ioeventfd f = { .fd = w->event[a[1] % WORLD_EVENTS], .addr = a[2], .len = (uint32_t)a[3],
				   .datamatch = a[4], .flags = (uint32_t)a[5] };

	if (a[2] < 1ull << 32)
		f.addr = f.flags & KVM_IOEVENTFD_FLAG_PIO ? 0x300 + (a[2] & 0x18) : 0x100000 + (a[2] & 0xff8);
	/* Behind another's end the kernel's order of its bus takes the two for the same, and misses one. */
	if (!f.len && a[2] < 1ull << 32)
		f.addr = f.flags & KVM_IOEVENTFD_FLAG_PIO ? 0x300 : 0x100000;
	vm_call(w, VM, KVM_IOEVENTFD, world_pointer(a[6], &f));
}

static uint64_t ioeventfd_flags(struct rng *r)
{
	return rng_hostile(r) ? rng_below(r, 32) : PICK(r, 0, 0, 1, 2, 3, 4, 5, 6, 7);
}

static uint64_t data_match(struct rng *r)
{
	return rng_hostile(r) ? any_u64(r) : rng_below(r, 3);
}

const struct op_kind op_ioeventfd = { "ioeventfd", 12, ioeventfd,
	{ { "vm", any_vm }, { "event", any_event }, { "addr", any_mmio }, { "len", any_len },
	  { "match", data_match }, { "flags", ioeventfd_flags }, { "pointer", any_pointer } } };

/*
 * Eventfds only: what a write to the rest does is not KVM's. And not a write of 0, which wakes
 * the kernel's irqfd all the same: no process can see it.
 */
static void signal_event(struct world *w, const uint64_t *a)
{
	unsigned e = a[0] % (WORLD_EVENTS - 4);

	/* Nothing to wait with for a VM that lives on in its vCPUs only. */
	if (w->binding[e].bound && w->vm[w->binding[e].vm] < 0)
		return;
	eventfd_write(w->event[e], MAX(e == WORLD_SEMAPHORE ? MIN(a[1], 3ull) : a[1], 1ull));
	world_settle(w);
}

static uint64_t signal_count(struct rng *r)
{
	return rng_hostile(r) ? PICK(r, 2, 3, UINT64_MAX - 1) : 1;
}

const struct op_kind op_signal = { "signal", 12, signal_event, { { "event", any_event }, { "count", signal_count } } };

static void read_event(struct world *w, const uint64_t *a)
{
	uint64_t n = 0;

	world_settle(w);
	say_result(&w->s, "read", read(w->event[a[0] % (WORLD_EVENTS - 4)], &n, 8) < 0 ? -errno : (long)event_count(n));
}

const struct op_kind op_read_event = { "read_event", 3, read_event, { { "event", any_event } } };

/* ---- the chips' state ---------------------------------------------------------------- */

static void ioapic_set(struct world *w, const uint64_t *a)
{
	struct kvm_irqchip c = { .chip_id = KVM_IRQCHIP_IOAPIC };

	if (world_quiet(w, w->vm[VM], KVM_GET_IRQCHIP, &c)) {
		vm_call(w, VM, KVM_SET_IRQCHIP, world_pointer(a[3], &c));
		return;
	}
	c.chip.ioapic.redirtbl[a[1] % 24].bits = a[2];
	if (a[4] & 1)
		c.chip.ioapic.irr = (uint32_t)a[5];
	vm_call(w, VM, KVM_SET_IRQCHIP, world_pointer(a[3], &c));
}

static uint64_t ioapic_pin(struct rng *r)
{
	return PICK(r, 0, 1, 2, 3, 5, 8, 9, 20, 21);
}

static uint64_t ioapic_entry(struct rng *r)
{
	if (rng_hostile(r))
		return any_u64(r);
	return any_vector(r) | (uint64_t)rng_below(r, 2) << 15 | (rng_below(r, 4) == 0) << 16 |
	       (rng_below(r, 4) == 0) << 8 | (rng_below(r, 4) == 0) << 11 | (uint64_t)rng_below(r, 4) << 56;
}

const struct op_kind op_ioapic_set = { "ioapic_set", 8, ioapic_set,
	{ { "vm", any_vm }, { "pin", ioapic_pin }, { "entry", ioapic_entry }, { "pointer", any_pointer },
	  { "with irr", rare_bit }, { "irr", any_word } } };

static void pic_set(struct world *w, const uint64_t *a)
{
	struct kvm_irqchip c = { .chip_id = (uint32_t)a[1] };
	uint8_t *field = (uint8_t *)&c.chip.pic + a[2] % sizeof(c.chip.pic);

	if (!world_quiet(w, w->vm[VM], KVM_GET_IRQCHIP, &c) && a[1] < 2) {
		*field = (uint8_t)a[3];
		if (a[4])
			c.chip.pic.irq_base = a[1] ? 0x28 : 0x20;
	}
	vm_call(w, VM, KVM_SET_IRQCHIP, world_pointer(a[5], &c));
}

static uint64_t pic_id(struct rng *r)
{
	return rng_hostile(r) ? PICK(r, 2, 3, 0xffffffff) : rng_below(r, 2);
}

static uint64_t pic_field(struct rng *r)
{
	return PICK(r, 0, 1, 2, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

const struct op_kind op_pic_set = { "pic_set", 5, pic_set,
	{ { "vm", any_vm }, { "chip", pic_id }, { "field", pic_field }, { "value", any_byte },
	  { "base", any_bit }, { "pointer", any_pointer } } };

static void chip_get(struct world *w, const uint64_t *a)
{
	struct kvm_irqchip c = { .chip_id = (uint32_t)a[1] };

	if (!vm_call(w, VM, KVM_GET_IRQCHIP, world_pointer(a[2], &c)))
		say_hex(&w->s, "chip", &c.chip, a[1] < 2 ? sizeof(c.chip.pic) : sizeof(c.chip.ioapic));
}

static uint64_t chip_id(struct rng *r)
{
	return rng_hostile(r) ? PICK(r, 3, 0xffffffff) : rng_below(r, 3);
}

const struct op_kind op_chip_get = { "chip_get", 3, chip_get,
	{ { "vm", any_vm }, { "chip", chip_id }, { "pointer", any_pointer } } };
