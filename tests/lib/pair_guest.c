/* SPDX-License-Identifier: MIT */
#include "check.h"
#include "pair_guest.h"

void map_memory(struct side *s, uint32_t flags)
{
	struct kvm_userspace_memory_region r = {
		.flags = flags, .memory_size = SIDE_MEM, .userspace_addr = (uintptr_t)s->mem,
	};

	vm_do(s, KVM_SET_USER_MEMORY_REGION, &r);
}

void load(struct side *s, const void *code, size_t len, uint64_t rflags)
{
	struct kvm_regs r = { .rip = CODE, .rflags = rflags, .rsp = 0x8000 };
	struct kvm_sregs sr;

	memcpy(s->mem + CODE, code, len);
	assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_GET_SREGS, &sr), 0);
	sr.cs.base = sr.cs.selector = 0;
	assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_SET_SREGS, &sr), 0);
	assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_SET_REGS, &r), 0);
}

void set_vector(struct side *s, unsigned vector, uint16_t at)
{
	static const uint8_t handler[] = { 0xe6, 0x90, 0xcf };

	store_le32(s->mem + vector * 4, at);
	memcpy(s->mem + at, handler, sizeof(handler));
}

void say_regs(struct side *s)
{
	struct kvm_regs r;

	assert_int_equal(side_ioctl(s, s->vcpu[0], KVM_GET_REGS, &r), 0);
	say(s, "rip %llx rax %llx rcx %llx rsi %llx rsp %llx rflags %llx", r.rip, r.rax, r.rcx, r.rsi,
	    r.rsp, r.rflags);
}

int run_once(struct side *s)
{
	struct kvm_run *run = s->run[0];
	int r = side_ioctl_val(s, s->vcpu[0], KVM_RUN, 0);
	uint8_t *data = (uint8_t *)((uintptr_t)run + run->io.data_offset); /* if it is KVM_EXIT_IO */

	if (r) {
		say_result(s, "KVM_RUN", r);
		return -1;
	}
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		for (unsigned i = 0; i < run->io.count; i++, data += run->io.size) {
			if (run->io.direction == KVM_EXIT_IO_IN)
				store_le(data, 0x1122334455667788ull + run->io.port, run->io.size);
			say(s, "%s %x size %u: %llx", run->io.direction ? "out" : "in", run->io.port,
			    run->io.size, (unsigned long long)load_le(data, run->io.size));
		}
		return 0;
	case KVM_EXIT_MMIO:
		if (!run->mmio.is_write)
			store_le64(run->mmio.data, 0x8877665544332211ull);
		say(s, "mmio %llx %s %u: %llx", run->mmio.phys_addr, run->mmio.is_write ? "write" : "read",
		    run->mmio.len, (unsigned long long)load_le(run->mmio.data, run->mmio.len));
		return 0;
	case KVM_EXIT_X86_RDMSR:
		run->msr.data = run->msr.index + 1;
		say(s, "rdmsr %x: reason %x error %u", run->msr.index, run->msr.reason, run->msr.error);
		return 0;
	case KVM_EXIT_X86_WRMSR:
		run->msr.error = run->msr.data == 0xbad;
		say(s, "wrmsr %x: reason %x data %llx", run->msr.index, run->msr.reason,
		    (unsigned long long)run->msr.data);
		return 0;
	default:
		say(s, "exit %s", vcpu_exit_name(run->exit_reason));
		return run->exit_reason == KVM_EXIT_IRQ_WINDOW_OPEN ? 0 : 1;
	}
}

void run_to_end(struct side *s)
{
	for (unsigned i = 0; i < 200; i++)
		if (run_once(s))
			break;
	say_regs(s);
}

int side_get_msr(struct side *s, unsigned vcpu, uint32_t index, uint64_t *value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e;
	} m = { .head.nmsrs = 1, .e.index = index };
	int r = side_ioctl(s, s->vcpu[vcpu], KVM_GET_MSRS, &m);

	*value = m.e.data;
	return r;
}

int side_set_msr(struct side *s, unsigned vcpu, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e;
	} m = { .head.nmsrs = 1, .e = { .index = index, .data = value } };

	return side_ioctl(s, s->vcpu[vcpu], KVM_SET_MSRS, &m);
}

void write_msr_in_guest(struct side *s, uint32_t index, uint64_t value)
{
	uint8_t code[] = { 0x66, 0xb9, 0, 0, 0, 0, 0x66, 0xb8, 0, 0, 0, 0, 0x66, 0xba, 0, 0, 0, 0,
			   0x0f, 0x30, 0xf4 };

	store_le32(code + 2, index);
	store_le32(code + 8, (uint32_t)value);
	store_le32(code + 14, (uint32_t)(value >> 32));
	load(s, code, sizeof(code), 2);
	run_to_end(s);
}
