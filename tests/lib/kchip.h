/* SPDX-License-Identifier: MIT
 * The kernel's interrupt chips, driven for comparison: a VM with in-kernel PIC,
 * I/O APIC, PIT and local APICs, and a real-mode guest of a few instructions
 * that does one port, MMIO or MSR access a call on vCPU 0.
 */
#ifndef BELFRY_TEST_KCHIP_H
#define BELFRY_TEST_KCHIP_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#define KCHIP_CPUS 4

struct kchip {
	int kvm, vm, cpus;
	int vcpu[KCHIP_CPUS];
	struct kvm_run *run;	/* of vCPU 0 */
	int run_size;
	uint8_t *ram;
};

/* 0, or a negative errno with *why filled: then there is no KVM to compare with. */
int kchip_open(struct kchip *k, int cpus, bool x2apic_api, const char **why);
void kchip_close(struct kchip *k);

/* vCPU 0 back to real mode with its segments over the chips (after an INIT). */
void kchip_setup_bsp(struct kchip *k);

/*
 * One access by guest code. len 1, 2, 4. The result is -1, or the vector of an
 * exception or interrupt that the guest took instead.
 */
int kchip_out(struct kchip *k, uint16_t port, int len, uint32_t value);
int kchip_in(struct kchip *k, uint16_t port, int len, uint32_t *value);
/* seg: 0 local APIC page, 1 I/O APIC window. */
int kchip_mmio_write(struct kchip *k, int seg, uint16_t offset, int len, uint32_t value);
int kchip_mmio_read(struct kchip *k, int seg, uint16_t offset, int len, uint32_t *value);
int kchip_wrmsr(struct kchip *k, uint32_t msr, uint64_t value);
int kchip_rdmsr(struct kchip *k, uint32_t msr, uint64_t *value);
/* Open interrupts for two instructions: the vector taken, or -1. */
int kchip_window(struct kchip *k);

/* Host calls. */
/* want_status: KVM_IRQ_LINE_STATUS, else KVM_IRQ_LINE, which leaves *status meaningless. */
int kchip_irq_line(struct kchip *k, unsigned gsi, bool level, bool want_status, int *status);
/* The ioctl's result: count, 0, or -1 (ignored). */
int kchip_msi(struct kchip *k, uint64_t address, uint32_t data);
bool kchip_set_msr(struct kchip *k, int cpu, uint32_t msr, uint64_t value);
bool kchip_get_msr(struct kchip *k, int cpu, uint32_t msr, uint64_t *value);

#endif
