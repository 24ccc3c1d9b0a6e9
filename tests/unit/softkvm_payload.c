/* SPDX-License-Identifier: MIT
 * Exceptions that are pending, with and without a payload ("KVM_CAP_EXCEPTION_PAYLOAD"): what the
 * kernel says of them, when their effects show, and what the guest's handler finds.
 */
#include "../lib/check.h"
#include "../lib/pair_guest.h"

static void say_events(struct side *s)
{
	struct kvm_vcpu_events e;
	struct kvm_debugregs d;
	struct kvm_sregs sr;

	assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_GET_VCPU_EVENTS, &e), 0);
	assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_GET_SREGS, &sr), 0);
	assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_GET_DEBUGREGS, &d), 0);
	say(s, "injected %u pending %u nr %u payload %u %llx flags %x; cr2 %llx dr6 %llx dr7 %llx", e.exception.injected,
	    e.exception.pending, e.exception.injected | e.exception.pending ? e.exception.nr : 0,
	    e.exception_has_payload, e.exception_payload, e.flags, sr.cr2, d.dr6, d.dr7);
}

static void set_enabled(struct side *s, bool on)
{
	struct kvm_enable_cap e = { .cap = KVM_CAP_EXCEPTION_PAYLOAD, .args = { on } };

	vm_do(s, KVM_ENABLE_CAP, &e);
}

static void set_pending(struct side *s, uint8_t vector, bool has, uint64_t payload)
{
	struct kvm_vcpu_events e = {
		.flags = KVM_VCPUEVENT_VALID_PAYLOAD, .exception = { .injected = 1, .nr = vector, .pending = 1 },
		.exception_has_payload = has, .exception_payload = payload,
	};

	cpu_do(s, 0, KVM_SET_VCPU_EVENTS, &e);
	say_events(s);
}

static void script_state(struct side *s, uint64_t seed)
{
	struct kvm_vcpu_events e = { .exception = { .pending = 1, .nr = 14 } };
	struct kvm_guest_debug db = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_DB };
	static const uint64_t causes[] = { 0, 1, 0xf, 0x2000, 0x4000, 0x8000, 0x10000, 0x800, 0x1000, 0xffffffff };

	say(s, "cap %d", side_ioctl_val(s, s->vm, KVM_CHECK_EXTENSION, KVM_CAP_EXCEPTION_PAYLOAD));
	side_add_vcpu(s, 0, 0);
	set_pending(s, 14, true, 0x1234); /* not allowed yet */
	cpu_do(s, 0, KVM_SET_VCPU_EVENTS, &e); /* nothing without the flag */
	say_events(s);
	set_enabled(s, true);
	say_events(s);
	set_pending(s, 14, true, 0x1234);
	set_pending(s, 14, false, 0x1234); /* the payload is kept, as it is */
	set_pending(s, 2, true, 0);
	set_pending(s, 32, false, 0);
	set_pending(s, 3, true, 7); /* comes again by itself */
	/* Injected counts if it is not pending, and a payload only with that. */
	e = (struct kvm_vcpu_events){
		.flags = KVM_VCPUEVENT_VALID_PAYLOAD, .exception = { .injected = 1, .nr = 13, .has_error_code = 1 },
		.exception_has_payload = 1, .exception_payload = 5,
	};
	cpu_do(s, 0, KVM_SET_VCPU_EVENTS, &e);
	say_events(s);
	/* Another, benign one takes the place of what is in delivery, but not of what is pending. */
	cpu_do(s, 0, KVM_SET_GUEST_DEBUG, &db);
	say_events(s);
	cpu_do(s, 0, KVM_SET_GUEST_DEBUG, &db);
	set_enabled(s, false);
	say_events(s);
	/* Who asks and does not know of payloads has their effects shown. */
	for (unsigned i = 0; i < ARRAY_SIZE(causes); i++) {
		set_enabled(s, true);
		set_pending(s, i & 1 ? 14 : 1, true, causes[i]);
		set_enabled(s, false);
		say_events(s);
		set_enabled(s, true);
		set_pending(s, 1, true, causes[i]);
		set_enabled(s, false);
		say_events(s);
	}
}

/* The handler writes al to port 90h and returns. */
static void script_delivery(struct side *s, uint64_t seed)
{
	static const struct {
		uint8_t vector;
		uint64_t payload;
	} all[] = { { 14, 0x5678 }, { 1, 0x4000 }, { 1, 0x2003 }, { 13, 9 }, { 18, 1 }, { 8, 1 } };
	struct kvm_debugregs d;

	side_add_vcpu(s, 0, 0);
	map_memory(s, 0);
	set_enabled(s, true);
	for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
		set_vector(s, all[i].vector, 0x2000);
		LOAD(s, 2, 0xb0, 0x41, 0xe6, 0x80, 0xf4); /* mov $0x41,%al; out; hlt */
		assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_GET_DEBUGREGS, &d), 0);
		d.dr6 = 0xffff0ff2;
		d.dr7 = 0x2400; /* GD */
		cpu_do(s, 0, KVM_SET_DEBUGREGS, &d);
		set_pending(s, all[i].vector, true, all[i].payload);
		s->run[0]->immediate_exit = 1; /* nothing begins */
		run_once(s);
		s->run[0]->immediate_exit = 0;
		say_events(s);
		run_to_end(s);
		/* Flags, CS and IP were pushed below 8000h. */
		say(s, "pushed ip %x flags %x", load_le16(s->mem + 0x7ffa), load_le16(s->mem + 0x7ffe));
		say_events(s);
	}
}

/* What is left of an old payload goes with the first exception that is KVM's own. */
static void script_stale(struct side *s, uint64_t seed)
{
	struct kvm_vcpu_events e = { .flags = KVM_VCPUEVENT_VALID_PAYLOAD, .exception_payload = 0x1234 };

	side_add_vcpu(s, 0, 0);
	map_memory(s, 0);
	set_vector(s, 13, 0x2000);
	set_enabled(s, true);
	for (unsigned exits = 0; exits < 2; exits++) {
		vm_enable(s, KVM_CAP_X86_USER_SPACE_MSR, exits ? KVM_MSR_EXIT_REASON_UNKNOWN : 0);
		/* mov $0xdeadbeef,%ecx; mov $0xbad,%eax, which user space refuses; out; wrmsr */
		LOAD(s, 2, 0x66, 0xb9, 0xef, 0xbe, 0xad, 0xde, 0x66, 0xb8, 0xad, 0x0b, 0x00, 0x00,
		     0x66, 0x31, 0xd2, 0xe6, 0x80, 0x0f, 0x30);
		cpu_do(s, 0, KVM_SET_VCPU_EVENTS, &e);
		say_events(s);
		run_once(s);
		say_events(s);
		for (unsigned i = 0; i <= exits; i++)
			run_once(s);
		say_events(s);
	}
}

static const struct pair_script scripts[] = {
	{ "state", script_state }, { "delivery", script_delivery }, { "stale", script_stale },
};

int main(int argc, char **argv)
{
	return kvm_pair_main(argc, argv, scripts, ARRAY_SIZE(scripts), NULL, 0);
}
