/* SPDX-License-Identifier: MIT */
#include "monitor/bare.h"
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

extern const uint8_t bare_code[], bare_code_end[], bare_vectors[];
extern const uint8_t bare_idle[], bare_cli_halt[], bare_spin[], bare_out1[], bare_out2[],
	bare_out4[], bare_in4[], bare_mmio1[], bare_mmio2[], bare_mmio4[], bare_mmio8[],
	bare_mmio_load[], bare_repeat_out2[], bare_repeat_out4[], bare_repeat_mmio2[],
	bare_repeat_mmio4[], bare_repeat_mmio8[], bare_mixed[], bare_ipi_icr[], bare_ipi_pv[];

static const uint8_t *const entries[NR_BARE_ENTRIES] = {
	[BARE_IDLE] = bare_idle,     [BARE_CLI_HALT] = bare_cli_halt,
	[BARE_SPIN] = bare_spin,     [BARE_OUT1] = bare_out1,
	[BARE_OUT2] = bare_out2,     [BARE_OUT4] = bare_out4,
	[BARE_IN4] = bare_in4,       [BARE_MMIO1] = bare_mmio1,
	[BARE_MMIO2] = bare_mmio2,   [BARE_MMIO4] = bare_mmio4,
	[BARE_MMIO8] = bare_mmio8,   [BARE_MMIO_LOAD] = bare_mmio_load,
	[BARE_REPEAT_OUT2] = bare_repeat_out2,   [BARE_REPEAT_OUT4] = bare_repeat_out4,
	[BARE_REPEAT_MMIO2] = bare_repeat_mmio2, [BARE_REPEAT_MMIO4] = bare_repeat_mmio4,
	[BARE_REPEAT_MMIO8] = bare_repeat_mmio8, [BARE_MIXED] = bare_mixed,
	[BARE_IPI_ICR] = bare_ipi_icr, [BARE_IPI_PV] = bare_ipi_pv,
};

/* Selectors of the GDT below. */
enum { SEL_CODE = 0x08, SEL_DATA = 0x10, SEL_UDATA = 0x18 | 3, SEL_UCODE = 0x20 | 3, SEL_TSS = 0x28 };

#define PTE_PRESENT 1u
#define PTE_WRITE   2u
#define PTE_USER    4u
#define PTE_LARGE   0x80u
#define PTE_NOCACHE 0x18u

static uint64_t code_address(const uint8_t *symbol)
{
	return BARE_CODE + (uint64_t)(symbol - bare_code);
}

static uint64_t cpu_page(unsigned cpu)
{
	return BARE_PAGES + cpu * 0x1000;
}

/* 4-level paging, identity, 2 MiB pages (Intel SDM "4-Level Paging"): GiB 0, and GiB 3 uncached. */
static void build_page_tables(uint8_t *mem)
{
	const uint64_t table = PTE_PRESENT | PTE_WRITE | PTE_USER;

	store_le64(mem + BARE_PML4, BARE_PDPT | table);
	store_le64(mem + BARE_PDPT, BARE_PD_LOW | table);
	store_le64(mem + BARE_PDPT + 3 * 8, BARE_PD_HIGH | table);
	for (uint64_t i = 0; i < 512; i++) {
		store_le64(mem + BARE_PD_LOW + i * 8, i << 21 | table | PTE_LARGE);
		store_le64(mem + BARE_PD_HIGH + i * 8,
			   (3ull << 30 | i << 21) | table | PTE_LARGE | PTE_NOCACHE);
	}
}

/* Flat segments (Intel SDM "Segment Descriptors") and one TSS a CPU, for its ring-0 stack. */
static void build_gdt(uint8_t *mem, unsigned cpus)
{
	uint8_t *gdt = mem + BARE_GDT;

	store_le64(gdt + SEL_CODE, 0x00af9b000000ffffull);
	store_le64(gdt + SEL_DATA, 0x00cf93000000ffffull);
	store_le64(gdt + (SEL_UDATA & ~7), 0x00cff3000000ffffull);
	store_le64(gdt + (SEL_UCODE & ~7), 0x00affb000000ffffull);
	for (unsigned i = 0; i < cpus; i++) {
		uint64_t base = BARE_TSS + i * 128;

		store_le64(gdt + SEL_TSS + i * 16,
			   0x67 | (base & 0xffffff) << 16 | 0x8bull << 40 | (base >> 24 & 0xff) << 56);
		store_le64(mem + base + 4, BARE_STACKS + i * 0x2000 + 0x2000); /* RSP0 */
	}
}

static void build_idt(uint8_t *mem)
{
	for (unsigned v = 0; v < 256; v++) {
		uint64_t at = code_address(bare_vectors) + v * 16;

		store_le64(mem + BARE_IDT + v * 16,
			   (at & 0xffff) | SEL_CODE << 16 | 0x8eull << 40 | (at >> 16 & 0xffff) << 48);
		store_le64(mem + BARE_IDT + v * 16 + 8, at >> 32);
	}
}

void bare_build(uint8_t *mem, unsigned cpus, bool lapic)
{
	memcpy(mem + BARE_CODE, bare_code, (size_t)(bare_code_end - bare_code));
	build_page_tables(mem);
	build_gdt(mem, cpus);
	build_idt(mem);
	for (unsigned i = 0; i < cpus; i++)
		store_le64(mem + cpu_page(i) + BARE_PAGE_EOI,
			   lapic ? 0xfee000b0 : cpu_page(i) + BARE_PAGE_SINK);
}

static void set_segment(struct kvm_segment *s, unsigned selector, bool code, bool user)
{
	*s = (struct kvm_segment){
		.limit = 0xffffffff, .selector = (uint16_t)selector, .type = code ? 0xb : 0x3,
		.present = 1, .dpl = user ? 3 : 0, .db = !code, .s = 1, .l = code, .g = 1,
	};
}

static int set_sregs(struct vcpu *v, unsigned cpu, bool user)
{
	struct kvm_sregs s;
	int r = vcpu_get_sregs(v, &s);

	if (r)
		return r;
	set_segment(&s.cs, user ? SEL_UCODE : SEL_CODE, true, user);
	set_segment(&s.ss, user ? SEL_UDATA : SEL_DATA, false, user);
	s.ds = s.es = s.fs = s.gs = s.ss;
	s.gs.base = cpu_page(cpu);
	s.tr = (struct kvm_segment){
		.base = BARE_TSS + cpu * 128, .limit = 0x67, .type = 0xb, .present = 1,
		.selector = (uint16_t)(SEL_TSS + cpu * 16),
	};
	s.ldt = (struct kvm_segment){ .unusable = 1 };
	s.gdt = (struct kvm_dtable){ .base = BARE_GDT, .limit = SEL_TSS + 16 * BARE_MAX_CPUS - 1 };
	s.idt = (struct kvm_dtable){ .base = BARE_IDT, .limit = 0xfff };
	s.cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
	s.cr3 = BARE_PML4;
	s.cr4 = 0x20;       /* PAE */
	s.efer = 0x500;     /* LME LMA */
	return vcpu_set_sregs(v, &s);
}

/* Enable the local APIC by its spurious-interrupt register (Intel SDM "Local APIC State"). */
int bare_enable_lapic(struct vcpu *v)
{
	struct kvm_lapic_state s;
	int r = vcpu_get_lapic(v, &s);

	if (r)
		return r;
	store_le32(s.regs + 0xf0, 0x1ff);
	store_le32(s.regs + 0xe0, 0xffffffff); /* flat logical destinations: bit = APIC ID */
	store_le32(s.regs + 0xd0, 1u << (24 + v->id));
	return vcpu_set_lapic(v, &s);
}

static int open_cpu(struct bare *b, unsigned i, const struct kvm_cpuid2 *cpuid, struct err *e)
{
	const struct bare_job idle = { .entry = BARE_IDLE };
	struct vcpu *v = &b->cpus[i];
	int r = vcpu_open(v, &b->vm, i);

	if (r)
		return err_set(e, r, "cannot create vCPU %u: %s", i, strerror(-r));
	b->nr_cpus = i + 1;
	r = vcpu_set_cpuid(v, cpuid);
	if (r)
		return err_set(e, r, "KVM_SET_CPUID2 failed: %s", strerror(-r));
	r = bare_enter(v, i, &idle);
	if (r)
		return err_set(e, r, "KVM refuses a vCPU's registers: %s", strerror(-r));
	r = b->irqchip ? bare_enable_lapic(v) : 0;
	return r ? err_set(e, r, "cannot enable the local APIC: %s", strerror(-r)) : 0;
}

static int create_vm(struct bare *b, struct err *e)
{
	int r = vm_create(&b->vm, &b->sys);

	if (r)
		return err_set(e, r, "cannot create a VM: %s", strerror(-r));
	r = vm_set_tss_addr(&b->vm, 0xfffbd000);
	if (!r && b->irqchip)
		r = vm_create_irqchip(&b->vm);
	if (!r)
		r = vm_set_memory(&b->vm, 0, 0, BARE_MEM_SIZE, b->mem, 0);
	return r ? err_set(e, r, "cannot set up the VM: %s", strerror(-r)) : 0;
}

int bare_create(struct bare *b, const struct kvmapi *api, unsigned cpus, bool irqchip,
		struct err *e)
{
	struct kvm_cpuid2 *cpuid;
	int r;

	*b = (struct bare){ .irqchip = irqchip, .vm.fd = -1, .sys.fd = -1 };
	if (!cpus || cpus > BARE_MAX_CPUS)
		return err_set(e, -EINVAL, "1 to %d vCPUs", BARE_MAX_CPUS);
	r = sys_open(&b->sys, api, e);
	if (r)
		return r;
	b->mem = mmap(NULL, BARE_MEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (b->mem == MAP_FAILED) {
		b->mem = NULL;
		r = err_set(e, -ENOMEM, "no memory for the guest");
		goto destroy;
	}
	r = create_vm(b, e);
	if (r)
		goto destroy;
	r = sys_supported_cpuid(&b->sys, &cpuid);
	if (r) {
		err_set(e, r, "KVM_GET_SUPPORTED_CPUID failed: %s", strerror(-r));
		goto destroy;
	}
	for (unsigned i = 0; i < cpus && !r; i++)
		r = open_cpu(b, i, cpuid, e);
	free(cpuid);
	if (r)
		goto destroy;
	bare_build(b->mem, b->nr_cpus, b->irqchip);
	return 0;

destroy:
	bare_destroy(b);
	return r;
}

void bare_destroy(struct bare *b)
{
	for (unsigned i = 0; i < b->nr_cpus; i++)
		vcpu_close(&b->cpus[i]);
	b->nr_cpus = 0;
	if (b->vm.fd >= 0)
		vm_destroy(&b->vm);
	sys_close(&b->sys);
	if (b->mem)
		munmap(b->mem, BARE_MEM_SIZE);
	b->mem = NULL;
}

static int set_regs(struct vcpu *v, unsigned cpu, const struct bare_job *job, bool user)
{
	bool ipi = job->entry == BARE_IPI_ICR || job->entry == BARE_IPI_PV;
	struct kvm_regs r = {
		.rip = code_address(entries[job->entry]),
		.rflags = user ? 0x202 : 0x2,
		.rsp = BARE_STACKS + cpu * 0x2000 + (user ? 0x1000 : 0x2000),
		.rax = job->value,
		.rcx = job->count,
		.rdx = job->where,
		.rdi = ipi ? cpu_page(0) + BARE_PAGE_COUNT + 8 * (job->value & 255) : job->where,
	};

	return vcpu_set_regs(v, &r);
}

int bare_enter(struct vcpu *v, unsigned cpu, const struct bare_job *job)
{
	const struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };
	bool user = job->entry == BARE_SPIN;
	int r;

	if (cpu >= BARE_MAX_CPUS || (unsigned)job->entry >= NR_BARE_ENTRIES)
		return -EINVAL;
	r = set_sregs(v, cpu, user);
	if (!r)
		r = set_regs(v, cpu, job, user);
	/* It may have been halted: new registers do not end that. */
	return r ? r : vcpu_set_mp_state(v, &runnable);
}

int bare_set(struct bare *b, unsigned cpu, enum bare_entry entry, uint64_t where, uint64_t value)
{
	struct bare_job job = { .entry = entry, .where = where, .value = value, .count = 1 };
	bool user = entry == BARE_SPIN, was_user;

	if (cpu >= b->nr_cpus || (unsigned)entry >= NR_BARE_ENTRIES)
		return -EINVAL;
	was_user = b->user[cpu];
	b->user[cpu] = user;
	/* Back from ring 3 the segments are unknown; else they are as they were. */
	if (user || was_user)
		return bare_enter(&b->cpus[cpu], cpu, &job);
	return set_regs(&b->cpus[cpu], cpu, &job, false);
}

void bare_set_halt(uint8_t *mem, unsigned cpu, bool halt)
{
	atomic_store((_Atomic uint64_t *)(mem + cpu_page(cpu) + BARE_PAGE_HALT), halt);
}

uint64_t bare_count_in(const uint8_t *mem, unsigned cpu, unsigned vector)
{
	const _Atomic uint64_t *c = (const void *)(mem + cpu_page(cpu) + BARE_PAGE_COUNT);

	return atomic_load_explicit(&c[vector & 255], memory_order_acquire);
}

uint64_t bare_count(const struct bare *b, unsigned cpu, unsigned vector)
{
	return bare_count_in(b->mem, cpu, vector);
}

uint64_t bare_faults(const struct bare *b, unsigned cpu)
{
	uint64_t n = 0;

	for (unsigned v = 0; v < 32; v++)
		n += v == 2 ? 0 : bare_count(b, cpu, v);
	return n;
}

int bare_set_pin(struct vm *vm, unsigned pin, uint64_t entry)
{
	struct kvm_irqchip c = { .chip_id = KVM_IRQCHIP_IOAPIC };
	int r;

	if (pin >= KVM_IOAPIC_NUM_PINS)
		return -EINVAL;
	r = vm_get_irqchip(vm, &c);
	if (r)
		return r;
	c.chip.ioapic.redirtbl[pin].bits = entry;
	return vm_set_irqchip(vm, &c);
}

int bare_run_until_done(struct bare *b, unsigned cpu, int (*fn)(void *arg, struct kvm_run *run),
			void *arg)
{
	struct kvm_run *run = b->cpus[cpu].run;

	for (;;) {
		int r = vcpu_run(&b->cpus[cpu]);

		if (r)
			return r;
		if (run->exit_reason == KVM_EXIT_IO && run->io.port == BARE_PORT_DONE)
			return 0;
		if (run->exit_reason == KVM_EXIT_IO && run->io.port == BARE_PORT_FATAL)
			return -EIO;
		if (!fn)
			return -EIO;
		r = fn(arg, run);
		if (r)
			return r;
	}
}

int bare_allow_kick(struct vcpu *v)
{
	uint64_t mask = ~(1ull << (BARE_KICK_SIGNAL - 1));

	return vcpu_set_signal_mask(v, &mask, sizeof(mask));
}

void bare_eat_kick(void)
{
	const struct timespec now = { 0 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, BARE_KICK_SIGNAL);
	while (sigtimedwait(&set, NULL, &now) > 0)
		;
}
