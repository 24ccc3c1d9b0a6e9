/* SPDX-License-Identifier: MIT
 * Operations on VMs: creation, capabilities, memory, clock, PIT.
 */
#include "diff.h"
#include <unistd.h>

#define PICK(r, ...) \
	({ static const uint64_t list_[] = { __VA_ARGS__ }; list_[rng_below(r, ARRAY_SIZE(list_))]; })
/* a[0] is the VM in all of them, if they have one. */
#define VM (a[0] % WORLD_VMS)

/* ---- creation ---------------------------------------------------------------- */

static void create_vm(struct world *w, const uint64_t *a)
{
	long fd = world_quiet(w, w->s.sys, KVM_CREATE_VM, (void *)a[1]);

	say_result(&w->s, "KVM_CREATE_VM", MIN(fd, 0));
	if (fd < 0)
		return;
	if (w->vm[1] >= 0) {
		(void)w->s.api.ops->close(w->s.api.ctx, (int)fd);
		return;
	}
	/* vCPUs of the one before are still its own. */
	for (unsigned c = 0; c < WORLD_VCPUS; c++)
		world_close_vcpu(w, 1, c);
	w->vm[1] = (int)fd;
	w->chips[1] = CHIPS_NONE;
}

static uint64_t vm_type(struct rng *r)
{
	return rng_hostile(r) ? rng_next(r) : 0;
}

const struct op_kind op_create_vm = { "create_vm", 2, create_vm, { { "vm", any_vm }, { "type", vm_type } } };

static void close_vm(struct world *w, const uint64_t *a)
{
	world_settle(w);
	world_close_vm(w, VM);
}

const struct op_kind op_close_vm = { "close_vm", 1, close_vm, { { "vm", any_vm } } };

static void create_irqchip(struct world *w, const uint64_t *a)
{
	if (!vm_call(w, VM, KVM_CREATE_IRQCHIP, NULL))
		w->chips[VM] = CHIPS_KERNEL;
}

const struct op_kind op_create_irqchip = { "create_irqchip", 4, create_irqchip, { { "vm", any_vm } } };

static void split(struct world *w, const uint64_t *a)
{
	struct kvm_enable_cap e = { .cap = KVM_CAP_SPLIT_IRQCHIP, .flags = (uint32_t)a[2], .args = { a[1] } };

	if (!vm_call(w, VM, KVM_ENABLE_CAP, &e))
		w->chips[VM] = CHIPS_SPLIT;
}

static uint64_t split_pins(struct rng *r)
{
	return rng_hostile(r) ? PICK(r, 0, 4096, 4097, UINT64_MAX) : 24;
}

const struct op_kind op_split = { "split", 2, split, { { "vm", any_vm }, { "pins", split_pins }, { "flags", rare_bit } } };

static void create_pit(struct world *w, const uint64_t *a)
{
	struct kvm_pit_config c = { .flags = (uint32_t)a[1] };

	vm_call(w, VM, KVM_CREATE_PIT2, world_pointer(a[2], &c));
}

const struct op_kind op_create_pit = { "create_pit", 3, create_pit,
	{ { "vm", any_vm }, { "flags", any_bit }, { "pointer", any_pointer } } };

static void create_vcpu(struct world *w, const uint64_t *a)
{
	world_add_vcpu(w, VM, a[1]);
}

static uint64_t vcpu_id(struct rng *r)
{
	return rng_hostile(r) ? PICK(r, 7, 254, 255, 256, 1023, 4095, 4096, 0x7fffffff, UINT64_MAX)
			      : rng_below(r, 3);
}

const struct op_kind op_create_vcpu = { "create_vcpu", 5, create_vcpu, { { "vm", any_vm }, { "id", vcpu_id } } };

static void close_vcpu(struct world *w, const uint64_t *a)
{
	world_close_vcpu(w, VM, a[1] % WORLD_VCPUS);
}

const struct op_kind op_close_vcpu = { "close_vcpu", 1, close_vcpu, { { "vm", any_vm }, { "cpu", any_cpu } } };

/* ---- capabilities --------------------------------------------------------------- */

static uint64_t any_cap(struct rng *r)
{
	return rng_hostile(r) ? rng_below(r, 300)
			      : PICK(r, KVM_CAP_X2APIC_API, KVM_CAP_X86_DISABLE_EXITS,
				     KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_MAX_VCPU_ID,
				     KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_DISABLE_QUIRKS,
				     KVM_CAP_DISABLE_QUIRKS2, KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_CAP_EXCEPTION_PAYLOAD,
				     KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
}

static uint64_t cap_arg(struct rng *r)
{
	switch (rng_below(r, 5)) {
	case 0:
		return 1ull << rng_below(r, 33); /* the size of a ring */
	case 1:
	case 2:
		return any_u64(r);
	default:
		return rng_below(r, 4);
	}
}

static void enable_cap(struct world *w, const uint64_t *a)
{
	struct kvm_enable_cap e = { .cap = (uint32_t)a[1], .flags = (uint32_t)a[3], .args = { a[2], a[5] } };
	void *p = world_pointer(a[4], &e);

	if (a[1] == KVM_CAP_SPLIT_IRQCHIP)
		return; /* an operation of its own */
	if (!vm_call(w, VM, KVM_ENABLE_CAP, p) &&
	    (a[1] == KVM_CAP_DIRTY_LOG_RING || a[1] == KVM_CAP_DIRTY_LOG_RING_ACQ_REL))
		w->rings[VM] = true;
}

const struct op_kind op_enable_cap = { "enable_cap", 4, enable_cap,
	{ { "vm", any_vm }, { "cap", any_cap }, { "arg0", cap_arg }, { "flags", rare_bit },
	  { "pointer", any_pointer }, { "arg1", rare_bit } } };

static void check_cap(struct world *w, const uint64_t *a)
{
	int fd = a[1] ? w->s.sys : w->vm[VM];

	world_call(w, "KVM_CHECK_EXTENSION", fd, KVM_CHECK_EXTENSION, (void *)a[2]);
}

static uint64_t known_cap(struct rng *r)
{
	return PICK(r, KVM_CAP_IRQCHIP, KVM_CAP_MAX_VCPU_ID, KVM_CAP_NR_MEMSLOTS, KVM_CAP_IRQFD,
		    KVM_CAP_IOEVENTFD, KVM_CAP_IRQFD_RESAMPLE, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_PIT2,
		    KVM_CAP_SIGNAL_MSI, KVM_CAP_IRQ_ROUTING, KVM_CAP_READONLY_MEM,
		    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_COALESCED_PIO,
		    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
}

const struct op_kind op_check_cap = { "check_cap", 1, check_cap,
	{ { "vm", any_vm }, { "system", any_bit }, { "cap", known_cap } } };

/* Requests whose argument is a number. */
static void vm_value(struct world *w, const uint64_t *a)
{
	uint64_t address = a[2];

	switch (a[1] % 6) {
	case 0:
		vm_call_value(w, VM, KVM_SET_BOOT_CPU_ID, a[2]);
		break;
	case 1:
		vm_call_value(w, VM, KVM_SET_TSS_ADDR, a[2]);
		break;
	case 2:
		vm_call(w, VM, KVM_SET_IDENTITY_MAP_ADDR, world_pointer(a[3], &address));
		break;
	case 3:
		vm_call_value(w, VM, KVM_SET_NR_MMU_PAGES, a[2] % 100000 ? 64 + a[2] % 1000 : a[2]);
		break;
	case 4:
		vm_call_value(w, VM, KVM_CREATE_PIT, a[2]);
		break;
	case 5:
		vm_call_value(w, VM, KVM_RESET_DIRTY_RINGS, a[2]);
	}
}

static uint64_t any_address(struct rng *r)
{
	return rng_below(r, 2) ? rng_below(r, 8)
			       : PICK(r, 0xfffbd000, 0xfffbc000, 0xffffe000, 0xffffd000, 0xffffd001, 0x100000000,
				      UINT64_MAX, 0x1001);
}

const struct op_kind op_vm_value = { "vm_value", 2, vm_value,
	{ { "vm", any_vm }, { "which", any_small }, { "value", any_address }, { "pointer", any_pointer } } };

/* ---- memory ------------------------------------------------------------------------ */

static void slot(struct world *w, const uint64_t *a)
{
	struct kvm_userspace_memory_region m = {
		.slot = (uint32_t)a[1], .flags = (uint32_t)a[2], .guest_phys_addr = a[3], .memory_size = a[4],
		.userspace_addr = (uintptr_t)w->mem + a[5],
	};
	long r;

	/* Host memory that is not there is MMIO to kvm_pvm, which emulates, and elsewhere the end of KVM_RUN. */
	if (a[4] < 1ull << 32 && a[5] < 1ull << 32 && a[4] + a[5] > WORLD_MEM)
		m.memory_size = 0x1000;
	r = vm_call(w, VM, KVM_SET_USER_MEMORY_REGION, world_pointer(a[6], &m));

	if (!r && !a[1] && !a[6])
		w->can_run[VM] = !a[3] && m.memory_size >= 0x8000 && !a[5] && !(m.flags & KVM_MEM_READONLY);
}

static uint64_t slot_flags(struct rng *r)
{
	return rng_hostile(r) ? rng_below(r, 16) : PICK(r, 0, 0, 1, 1, 2, 3);
}

static uint64_t host_offset(struct rng *r)
{
	return rng_hostile(r) ? PICK(r, 1, 0x800, 1ull << 47, 1ull << 63)
			      : (8 + rng_below(r, 8)) * 0x1000ull;
}

const struct op_kind op_slot = { "slot", 10, slot,
	{ { "vm", any_vm }, { "slot", any_slot }, { "flags", slot_flags }, { "gpa", any_gpa },
	  { "size", any_pages }, { "offset", host_offset }, { "pointer", any_pointer } } };

/* The bitmap of at most 64 pages; more is the caller's mistake and goes nowhere. */
static void dirty_get(struct world *w, const uint64_t *a)
{
	uint64_t bits[64];
	struct kvm_dirty_log d = { .slot = (uint32_t)a[1], .dirty_bitmap = world_pointer(a[2], bits) };

	memset(bits, 0xaa, sizeof(bits));
	if (!vm_call(w, VM, KVM_GET_DIRTY_LOG, world_pointer(a[3], &d)))
		say_hex(&w->s, "dirty", bits, 16);
}

const struct op_kind op_dirty_get = { "dirty_get", 4, dirty_get,
	{ { "vm", any_vm }, { "slot", any_slot }, { "bitmap", any_pointer }, { "pointer", any_pointer } } };

static void dirty_clear(struct world *w, const uint64_t *a)
{
	uint64_t bits[64] = { a[4] };
	struct kvm_clear_dirty_log d = { .slot = (uint32_t)a[1], .first_page = a[2], .num_pages = (uint32_t)a[3],
					 .dirty_bitmap = world_pointer(a[5], bits) };

	vm_call(w, VM, KVM_CLEAR_DIRTY_LOG, world_pointer(a[6], &d));
}

static uint64_t first_page(struct rng *r)
{
	return rng_hostile(r) ? PICK(r, 1, 64, 128, UINT64_MAX & ~63ull) : 0;
}

static uint64_t nr_pages(struct rng *r)
{
	return rng_hostile(r) ? PICK(r, 0, 9, 64, 0xffffffff) : 1 + rng_below(r, 8);
}

const struct op_kind op_dirty_clear = { "dirty_clear", 3, dirty_clear,
	{ { "vm", any_vm }, { "slot", any_slot }, { "first", first_page }, { "pages", nr_pages },
	  { "mask", any_u64 }, { "bitmap", any_pointer }, { "pointer", any_pointer } } };

static void coalesced(struct world *w, const uint64_t *a)
{
	static const uint32_t ports[] = { 8, 1, 4, 0 }, bytes[] = { 8, 1, 0x800, 4 };
	struct kvm_coalesced_mmio_zone z = { .addr = a[1], .size = (uint32_t)a[2], .pio = (uint32_t)a[3] };
	unsigned place = (a[1] >> 3 ^ a[1] >> 5) & 3;

	/*
	 * In a place of its own, with the place's size: where devices overlap the kernel's search
	 * of its bus may miss one, depending on which came first.
	 */
	if (a[3] == 1)
		z.addr = 0x320 + place * 8, z.size = ports[place];
	else if (!(a[1] >> 32))
		z.addr = 0x102000 + (place == 2 ? 0x800 : place * 8), z.size = bytes[place];
	if (a[4])
		vm_call(w, VM, KVM_UNREGISTER_COALESCED_MMIO, world_pointer(a[5], &z));
	else
		vm_call(w, VM, KVM_REGISTER_COALESCED_MMIO, world_pointer(a[5], &z));
}

static uint64_t zone_size(struct rng *r)
{
	return PICK(r, 0, 1, 4, 8, 0x10, 0x800);
}

static uint64_t zone_space(struct rng *r)
{
	return rng_hostile(r) ? 2 : rng_below(r, 2);
}

const struct op_kind op_coalesced = { "coalesced", 3, coalesced,
	{ { "vm", any_vm }, { "addr", any_mmio }, { "size", zone_size }, { "pio", zone_space },
	  { "unregister", any_bit }, { "pointer", any_pointer } } };

/* ---- clock, MSR filter ------------------------------------------------------------------ */

static void vm_clock(struct world *w, const uint64_t *a)
{
	struct kvm_clock_data c = { .clock = a[1] * NSEC_PER_SEC * 1000, .flags = (uint32_t)a[2] };

	if (a[3]) {
		vm_call(w, VM, KVM_SET_CLOCK, world_pointer(a[4], &c));
		return;
	}
	if (!vm_call(w, VM, KVM_GET_CLOCK, world_pointer(a[4], &c)))
		say(&w->s, "about %llu", c.clock / NSEC_PER_SEC / 1000); /* flags: as the host's clock is */
}

static uint64_t clock_flags(struct rng *r)
{
	return rng_hostile(r) ? 1ull << rng_below(r, 32) : 0;
}

const struct op_kind op_clock = { "clock", 1, vm_clock,
	{ { "vm", any_vm }, { "about", any_byte }, { "flags", clock_flags }, { "set", any_bit },
	  { "pointer", any_pointer } } };

static void filter(struct world *w, const uint64_t *a)
{
	uint8_t bits[64];
	struct kvm_msr_filter f = { .flags = (uint32_t)a[1] };

	memset(bits, (int)a[5], sizeof(bits));
	f.ranges[0] = (struct kvm_msr_filter_range){ .flags = (uint32_t)a[2], .base = (uint32_t)a[3],
						     .nmsrs = (uint32_t)a[4], .bitmap = world_pointer(a[6], bits) };
	vm_call(w, VM, KVM_X86_SET_MSR_FILTER, world_pointer(a[7], &f));
}

static uint64_t filter_base(struct rng *r)
{
	return PICK(r, 0, 0x10, 0x174, 0x800, 0xc0000080, 0xffffffff);
}

static uint64_t filter_size(struct rng *r)
{
	return rng_hostile(r) ? PICK(r, 0x3000, 0x3001, 0xffffffff) : PICK(r, 0, 1, 64, 256);
}

static uint64_t filter_flags(struct rng *r)
{
	return rng_hostile(r) ? rng_below(r, 8) : 1 + rng_below(r, 3);
}

const struct op_kind op_filter = { "filter", 1, filter,
	{ { "vm", any_vm }, { "flags", any_bit }, { "access", filter_flags }, { "base", filter_base },
	  { "nr", filter_size }, { "bits", any_byte }, { "bitmap", any_pointer }, { "pointer", any_pointer } } };

/* ---- PIT ------------------------------------------------------------------------------------ */

/* Channel 0 in a mode that starts no timer: an interrupt at some time is nothing to compare. */
static void pit_set(struct world *w, const uint64_t *a)
{
	struct kvm_pit_state2 p = { .flags = (uint32_t)a[5] };
	struct kvm_pit_channel_state *c = &p.channels[a[1] % 3];

	for (unsigned i = 0; i < 3; i++)
		p.channels[i].mode = 5;
	*c = (struct kvm_pit_channel_state){
		.count = (uint32_t)a[2], .mode = a[1] % 3 ? (uint8_t)a[3] : 5, .rw_mode = a[4] & 7,
		.gate = a[4] >> 3 & 1, .bcd = a[4] >> 4 & 1, .latched_count = (uint16_t)(a[4] >> 8),
		.count_latched = a[4] >> 5 & 3, .status_latched = a[4] >> 7 & 1,
		.read_state = a[4] >> 24 & 7, .write_state = a[4] >> 27 & 7,
	};
	vm_call(w, VM, KVM_SET_PIT2, world_pointer(a[6], &p));
}

static uint64_t pit_count(struct rng *r)
{
	return rng_hostile(r) ? PICK(r, 0, 1, 0x10000, 0x10001, 0xffffffff) : 1 + rng_below(r, 65535);
}

const struct op_kind op_pit_set = { "pit_set", 1, pit_set,
	{ { "vm", any_vm }, { "channel", any_small }, { "count", pit_count }, { "mode", any_small },
	  { "rest", any_word }, { "flags", any_small }, { "pointer", any_pointer } } };

static void pit_get(struct world *w, const uint64_t *a)
{
	struct kvm_pit_state2 p;

	if (vm_call(w, VM, KVM_GET_PIT2, world_pointer(a[1], &p)))
		return;
	for (unsigned c = 0; c < 3; c++) {
		p.channels[c].count_load_time = 0;
		say_hex(&w->s, "channel", &p.channels[c], sizeof(p.channels[c]));
	}
	say(&w->s, "flags %x", p.flags);
}

const struct op_kind op_pit_get = { "pit_get", 1, pit_get, { { "vm", any_vm }, { "pointer", any_pointer } } };

static void reinject(struct world *w, const uint64_t *a)
{
	struct kvm_reinject_control c = { .pit_reinject = (uint8_t)a[1] };

	vm_call(w, VM, KVM_REINJECT_CONTROL, world_pointer(a[2], &c));
}

const struct op_kind op_reinject = { "reinject", 1, reinject,
	{ { "vm", any_vm }, { "on", any_bit }, { "pointer", any_pointer } } };
