/* SPDX-License-Identifier: MIT */
#include "kchip.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM_SIZE	0x10000
#define CODE		0x1000	/* stubs, 16 bytes each */
#define HANDLERS	0x2000	/* 256 handlers, 8 bytes each */
#define PORT_DONE	0xf4
#define PORT_VECTOR	0xf5

enum stub {
	OUT1, OUT2, OUT4, IN1, IN2, IN4, LAPIC_W1, LAPIC_W2, LAPIC_W4, LAPIC_R1, LAPIC_R2,
	LAPIC_R4, IOAPIC_W1, IOAPIC_W2, IOAPIC_W4, IOAPIC_R1, IOAPIC_R2, IOAPIC_R4,
	WRMSR, RDMSR, WINDOW, STUBS
};

/* Each ends with "out %eax, $f4": 66 e7 f4. The pointer is %bx; es: is the I/O APIC. */
#define DONE 0x66, 0xe7, PORT_DONE
static const uint8_t stubs[STUBS][16] = {
	[OUT1] = { 0xee, DONE },
	[OUT2] = { 0xef, DONE },
	[OUT4] = { 0x66, 0xef, DONE },
	[IN1] = { 0xec, DONE },
	[IN2] = { 0xed, DONE },
	[IN4] = { 0x66, 0xed, DONE },
	[LAPIC_W1] = { 0x88, 0x07, DONE },
	[LAPIC_W2] = { 0x89, 0x07, DONE },
	[LAPIC_W4] = { 0x66, 0x89, 0x07, DONE },
	[LAPIC_R1] = { 0x8a, 0x07, DONE },
	[LAPIC_R2] = { 0x8b, 0x07, DONE },
	[LAPIC_R4] = { 0x66, 0x8b, 0x07, DONE },
	[IOAPIC_W1] = { 0x26, 0x88, 0x07, DONE },
	[IOAPIC_W2] = { 0x26, 0x89, 0x07, DONE },
	[IOAPIC_W4] = { 0x26, 0x66, 0x89, 0x07, DONE },
	[IOAPIC_R1] = { 0x26, 0x8a, 0x07, DONE },
	[IOAPIC_R2] = { 0x26, 0x8b, 0x07, DONE },
	[IOAPIC_R4] = { 0x26, 0x66, 0x8b, 0x07, DONE },
	[WRMSR] = { 0x0f, 0x30, DONE },
	[RDMSR] = { 0x0f, 0x32, DONE },
	[WINDOW] = { 0x90, 0x90, 0xfa, DONE },
};

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "kchip: %s: %s\n", what, strerror(errno));
	abort();	/* the test's own plumbing is broken, nothing can be compared */
}

static void set_segment(struct kvm_segment *s, uint64_t base)
{
	s->base = base;
	s->selector = (uint16_t)(base >> 4);
	s->limit = 0xffff;
}

void kchip_setup_bsp(struct kchip *k)
{
	struct kvm_sregs s;

	must(!ioctl(k->vcpu[0], KVM_GET_SREGS, &s), "KVM_GET_SREGS");
	set_segment(&s.cs, 0);
	set_segment(&s.ss, 0);
	set_segment(&s.ds, 0xfee00000);
	set_segment(&s.es, 0xfec00000);
	s.ds.selector = s.es.selector = 0;
	must(!ioctl(k->vcpu[0], KVM_SET_SREGS, &s), "KVM_SET_SREGS");
}

static void set_cpuid(struct kchip *k, int vcpu)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + 200 * sizeof(c->entries[0]));

	must(c, "calloc");
	c->nent = 200;
	must(!ioctl(k->kvm, KVM_GET_SUPPORTED_CPUID, c), "KVM_GET_SUPPORTED_CPUID");
	for (unsigned i = 0; i < c->nent; i++)
		if (c->entries[i].function == 1)
			c->entries[i].ecx |= 1u << 21 | 1u << 24;	/* x2APIC, TSC deadline */
	must(!ioctl(vcpu, KVM_SET_CPUID2, c), "KVM_SET_CPUID2");
	free(c);
}

static void load_guest(struct kchip *k)
{
	for (unsigned v = 0; v < 256; v++) {
		uint8_t *h = k->ram + HANDLERS + v * 8;
		uint16_t *ivt = (uint16_t *)(k->ram + v * 4);
		const uint8_t code[] = { 0xb0, (uint8_t)v, 0xe6, PORT_VECTOR };

		memcpy(h, code, sizeof(code));	/* mov $v, %al; out %al, $f5 */
		ivt[0] = (uint16_t)(HANDLERS + v * 8);
		ivt[1] = 0;
	}
	memcpy(k->ram + CODE, stubs, sizeof(stubs));
}

int kchip_open(struct kchip *k, int cpus, bool x2apic_api, const char **why)
{
	struct kvm_userspace_memory_region region = { .memory_size = RAM_SIZE };
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	struct kvm_enable_cap cap = { .cap = KVM_CAP_X2APIC_API, .args = { 3 } };

	memset(k, 0, sizeof(*k));
	k->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (k->kvm < 0) {
		*why = "/dev/kvm cannot be opened";
		return -errno;
	}
	k->vm = ioctl(k->kvm, KVM_CREATE_VM, 0);
	if (k->vm < 0 || ioctl(k->kvm, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP) <= 0 ||
	    ioctl(k->kvm, KVM_CHECK_EXTENSION, KVM_CAP_PIT2) <= 0) {
		*why = "this KVM creates no VM with in-kernel chips";
		close(k->kvm);
		return -ENODEV;
	}
	ioctl(k->vm, KVM_SET_TSS_ADDR, 0xfffbd000);
	if (x2apic_api)
		must(!ioctl(k->vm, KVM_ENABLE_CAP, &cap), "KVM_CAP_X2APIC_API");
	must(!ioctl(k->vm, KVM_CREATE_IRQCHIP), "KVM_CREATE_IRQCHIP");
	must(!ioctl(k->vm, KVM_CREATE_PIT2, &pit), "KVM_CREATE_PIT2");
	k->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(k->ram != MAP_FAILED, "mmap");
	load_guest(k);
	region.userspace_addr = (uintptr_t)k->ram;
	must(!ioctl(k->vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
	k->cpus = cpus;
	for (int i = 0; i < cpus; i++) {
		k->vcpu[i] = ioctl(k->vm, KVM_CREATE_VCPU, i);
		must(k->vcpu[i] >= 0, "KVM_CREATE_VCPU");
		set_cpuid(k, k->vcpu[i]);
	}
	k->run_size = ioctl(k->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	k->run = mmap(NULL, k->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, k->vcpu[0], 0);
	must(k->run != MAP_FAILED, "mmap of kvm_run");
	kchip_setup_bsp(k);
	return 0;
}

void kchip_close(struct kchip *k)
{
	munmap(k->run, k->run_size);
	for (int i = 0; i < k->cpus; i++)
		close(k->vcpu[i]);
	close(k->vm);
	close(k->kvm);
	munmap(k->ram, RAM_SIZE);
}

static int run_stub(struct kchip *k, enum stub stub, struct kvm_regs *r)
{
	const uint8_t *data;

	r->rip = CODE + stub * 16;
	r->rsp = 0xf000;
	/* Entered with IF set: the kernel emulates ring 0 in batches and looks only at entry. */
	r->rflags = stub == WINDOW ? 0x202 : 2;
	must(!ioctl(k->vcpu[0], KVM_SET_REGS, r), "KVM_SET_REGS");
	while (ioctl(k->vcpu[0], KVM_RUN, 0))
		must(errno == EINTR || errno == EAGAIN, "KVM_RUN");
	if (k->run->exit_reason != KVM_EXIT_IO) {
		fprintf(stderr, "kchip: stub %d: exit reason %u\n", stub, k->run->exit_reason);
		abort();
	}
	/* No chip of the kernel took the access: the same to us as one that ignored it. */
	if (k->run->io.port == (uint16_t)r->rdx && stub <= IN4)
		return -1;
	must(k->run->io.port == PORT_DONE || k->run->io.port == PORT_VECTOR, "unknown exit port");
	data = (const uint8_t *)k->run + k->run->io.data_offset;
	if (k->run->io.port == PORT_VECTOR)
		return *data;
	memcpy(&r->rax, data, 4);
	return -1;
}

static int width(int len)
{
	return len == 4 ? 2 : len - 1;
}

int kchip_out(struct kchip *k, uint16_t port, int len, uint32_t value)
{
	struct kvm_regs r = { .rax = value, .rdx = port };

	return run_stub(k, OUT1 + width(len), &r);
}

int kchip_in(struct kchip *k, uint16_t port, int len, uint32_t *value)
{
	struct kvm_regs r = { .rdx = port };
	int ret = run_stub(k, IN1 + width(len), &r);

	*value = (uint32_t)r.rax;
	return ret;
}

int kchip_mmio_write(struct kchip *k, int seg, uint16_t offset, int len, uint32_t value)
{
	struct kvm_regs r = { .rax = value, .rbx = offset };

	return run_stub(k, (seg ? IOAPIC_W1 : LAPIC_W1) + width(len), &r);
}

int kchip_mmio_read(struct kchip *k, int seg, uint16_t offset, int len, uint32_t *value)
{
	struct kvm_regs r = { .rbx = offset };
	int ret = run_stub(k, (seg ? IOAPIC_R1 : LAPIC_R1) + width(len), &r);

	*value = (uint32_t)r.rax;
	return ret;
}

int kchip_wrmsr(struct kchip *k, uint32_t msr, uint64_t value)
{
	struct kvm_regs r = { .rax = (uint32_t)value, .rdx = value >> 32, .rcx = msr };

	return run_stub(k, WRMSR, &r);
}

int kchip_rdmsr(struct kchip *k, uint32_t msr, uint64_t *value)
{
	struct kvm_regs r = { .rcx = msr };
	int ret = run_stub(k, RDMSR, &r);

	must(!ioctl(k->vcpu[0], KVM_GET_REGS, &r), "KVM_GET_REGS");
	*value = (uint32_t)r.rax | r.rdx << 32;
	return ret;
}

int kchip_window(struct kchip *k)
{
	struct kvm_regs r = { 0 };

	return run_stub(k, WINDOW, &r);
}

int kchip_irq_line(struct kchip *k, unsigned gsi, bool level, bool want_status, int *status)
{
	struct kvm_irq_level l = { .irq = gsi, .level = level };
	int ret;

	ret = ioctl(k->vm, want_status ? KVM_IRQ_LINE_STATUS : KVM_IRQ_LINE, &l);
	*status = l.status;
	return ret;
}

int kchip_msi(struct kchip *k, uint64_t address, uint32_t data)
{
	struct kvm_msi m = {
		.address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data,
	};

	return ioctl(k->vm, KVM_SIGNAL_MSI, &m);
}

struct one_msr {
	struct kvm_msrs head;
	struct kvm_msr_entry entry;
};

bool kchip_set_msr(struct kchip *k, int cpu, uint32_t msr, uint64_t value)
{
	struct one_msr m = { { .nmsrs = 1 }, { .index = msr, .data = value } };

	return ioctl(k->vcpu[cpu], KVM_SET_MSRS, &m) == 1;
}

bool kchip_get_msr(struct kchip *k, int cpu, uint32_t msr, uint64_t *value)
{
	struct one_msr m = { { .nmsrs = 1 }, { .index = msr } };
	bool ok = ioctl(k->vcpu[cpu], KVM_GET_MSRS, &m) == 1;

	*value = m.entry.data;
	return ok;
}
