/* SPDX-License-Identifier: MIT
 *
 * kvmapi: the seam. Below it is a KVM half: the kernel's (dev_kvm) or ours
 * (softkvm); above it nobody can tell which. Five calls over the unmodified
 * <linux/kvm.h>, and one typed layer, written once, on top of them.
 *
 * Errors everywhere: 0 or the value the KVM API document names, else -errno
 * exactly as the KVM half gave it.
 */
#ifndef BELFRY_KVMAPI_H
#define BELFRY_KVMAPI_H

#include "base/base.h"
#include <linux/kvm.h>

struct kvmapi_ops {
	const char *name; /* "kvm", "soft" */
	/* A new system fd (as open("/dev/kvm", O_RDWR | O_CLOEXEC)), or -errno. */
	int (*open)(void *ctx);
	/* As ioctl(2), with -errno. arg: a pointer or an integer, as the request asks. EINTR is returned. */
	int (*ioctl)(void *ctx, int fd, unsigned long request, uintptr_t arg);
	/* As mmap(2) shared, readable and writable, of a vCPU fd from offset. */
	int (*mmap)(void *ctx, int fd, size_t size, uint64_t offset, void **out);
	int (*munmap)(void *ctx, void *p, size_t size);
	int (*close)(void *ctx, int fd);
	/*
	 * May be NULL. n's eventfd has just been bound to a gsi of this VM: a KVM half in
	 * this process may give n a sink, so that a signal needs no system call. That
	 * ends by itself when the eventfd is unbound.
	 */
	void (*direct)(void *ctx, int vm_fd, struct notifier *n);
};

struct kvmapi {
	const struct kvmapi_ops *ops;
	void *ctx;
};

/* The kernel's KVM. ctx: path of the device node (const char *), NULL for /dev/kvm. */
extern const struct kvmapi_ops dev_kvm_ops;

/*
 * A seam over another one, for tests: every `every` exits the whole VM is read
 * through the API, rebuilt from that, and the old one destroyed (rebuild.c). The
 * VMM above sees an EINTR. A VM that did what cannot be read back or done again (a
 * dirty log, an ioctl not known here) is left as it is. One mapping a vCPU.
 */
int rebuild_create(struct kvmapi *out, const struct kvmapi *inner, uint64_t every,
		   struct err *e) __must_check;
bool rebuild_is(const struct kvmapi *api);
/* How often so far; and how often a vCPU did not come out of the VMM, so that it was put off. */
void rebuild_figures(const struct kvmapi *api, uint64_t *done, uint64_t *put_off);
/* After everything made on it was closed. *api becomes the inner one. */
void rebuild_destroy(struct kvmapi *api);

/* ---- system ---------------------------------------------------------- */

struct sys {
	struct kvmapi api;
	int fd;
	size_t vcpu_mmap_size;
};

/*
 * Open the KVM half and check KVM_GET_API_VERSION. On failure *e says whether
 * the node is missing, forbidden or too old, and the remedy.
 */
int sys_open(struct sys *s, const struct kvmapi *api, struct err *e) __must_check;
void sys_close(struct sys *s);
/* Value of a capability, 0 if absent ("System ioctls", KVM_CHECK_EXTENSION). */
int sys_check_extension(struct sys *s, unsigned cap);
/* KVM_GET_SUPPORTED_CPUID. The caller frees *out with free(). */
int sys_supported_cpuid(struct sys *s, struct kvm_cpuid2 **out) __must_check;
/* KVM_GET_MSR_INDEX_LIST. The caller frees *out with free(). */
int sys_msr_list(struct sys *s, struct kvm_msr_list **out) __must_check;

/* A capability by name, for messages and `belfry doctor`. */
struct cap_info {
	unsigned cap;
	const char *name;    /* "KVM_CAP_IRQFD" */
	const char *purpose; /* what Belfry does with it */
	bool required;       /* machine_create() refuses to go on without it */
};
/* Ends with name == NULL. */
extern const struct cap_info cap_table[];
/* The first required capability the VM lacks is named in *e: -ENOTSUP. */
int sys_check_required(struct sys *s, struct err *e) __must_check;

/* ---- VM -------------------------------------------------------------- */

struct vm {
	struct sys *sys;
	int fd;
};

int vm_create(struct vm *vm, struct sys *s) __must_check;
/* Every vCPU must be closed first. */
void vm_destroy(struct vm *vm);
int vm_check_extension(struct vm *vm, unsigned cap);
int vm_enable_cap(struct vm *vm, unsigned cap, uint64_t arg0) __must_check;

/* KVM_SET_USER_MEMORY_REGION. size 0 deletes. flags: KVM_MEM_*. */
int vm_set_memory(struct vm *vm, unsigned slot, gpa_t gpa, uint64_t size, void *host,
		  unsigned flags) __must_check;
/* bitmap: one bit a 4 KiB page of the slot, rounded up to 64 bits. */
int vm_get_dirty_log(struct vm *vm, unsigned slot, void *bitmap) __must_check;

int vm_set_tss_addr(struct vm *vm, gpa_t gpa) __must_check;
int vm_set_identity_map_addr(struct vm *vm, gpa_t gpa) __must_check;
int vm_create_irqchip(struct vm *vm) __must_check;
/* flags: 0 or KVM_PIT_SPEAKER_DUMMY. */
int vm_create_pit2(struct vm *vm, unsigned flags) __must_check;
int vm_set_boot_cpu(struct vm *vm, unsigned id) __must_check;
int vm_get_clock(struct vm *vm, struct kvm_clock_data *c) __must_check;
int vm_set_clock(struct vm *vm, const struct kvm_clock_data *c) __must_check;
int vm_get_irqchip(struct vm *vm, struct kvm_irqchip *c) __must_check;
int vm_set_irqchip(struct vm *vm, const struct kvm_irqchip *c) __must_check;
int vm_get_pit2(struct vm *vm, struct kvm_pit_state2 *p) __must_check;
int vm_set_pit2(struct vm *vm, const struct kvm_pit_state2 *p) __must_check;

/*
 * Interrupts. Any thread. The tri-state of a delivery: below 0 ignored or
 * failed, 0 coalesced with one that is pending, above 0 the CPUs reached.
 */
int vm_irq_line(struct vm *vm, gsi_t gsi, bool level) __must_check;
int vm_irq_line_status(struct vm *vm, gsi_t gsi, bool level, int *status) __must_check;
int vm_signal_msi(struct vm *vm, uint64_t address, uint32_t data);
/* Replace the whole route table (KVM_SET_GSI_ROUTING). */
int vm_set_routes(struct vm *vm, const struct kvm_irq_routing_entry *e, unsigned nr) __must_check;
/*
 * KVM_IRQFD. Binding looks at the count at once: what was signalled before is
 * delivered. resamplefd -1: none. Unbinding flushes what was already taken;
 * a signal after it stays in the eventfd. -EBUSY: that fd is bound already.
 */
int vm_bind_irqfd(struct vm *vm, int fd, gsi_t gsi, int resamplefd) __must_check;
/* The same with a notifier of this process, whose signals then take the shortest way there is. */
int vm_bind_notifier(struct vm *vm, struct notifier *n, gsi_t gsi, int resamplefd) __must_check;
int vm_unbind_irqfd(struct vm *vm, int fd, gsi_t gsi);

/*
 * KVM_IOEVENTFD. pio: port space, else MMIO. len 0 (any width; needs
 * KVM_CAP_IOEVENTFD_ANY_LENGTH and no match), 1, 2, 4, 8. -EEXIST: collides
 * with one that is bound; -ENOSPC: the bus is full.
 */
struct vm_doorbell {
	bool pio;
	uint8_t len;
	bool match;
	uint64_t address, data;
	int fd;
};
int vm_bind_ioeventfd(struct vm *vm, const struct vm_doorbell *d) __must_check;
int vm_unbind_ioeventfd(struct vm *vm, const struct vm_doorbell *d);

/* KVM_REGISTER_COALESCED_MMIO; pio needs KVM_CAP_COALESCED_PIO. */
int vm_coalesce(struct vm *vm, bool pio, uint64_t address, unsigned size) __must_check;
int vm_uncoalesce(struct vm *vm, bool pio, uint64_t address, unsigned size);

/* ---- vCPU ------------------------------------------------------------ */

struct vcpu {
	struct vm *vm;
	unsigned id;
	int fd;
	struct kvm_run *run; /* valid while open; owned by the thread that runs it */
};

/* id: APIC ID, below KVM_CAP_MAX_VCPU_ID. */
int vcpu_open(struct vcpu *v, struct vm *vm, unsigned id) __must_check;
void vcpu_close(struct vcpu *v);
/*
 * KVM_RUN: 0 when run->exit_reason is to be handled, -EINTR after a signal or
 * with run->immediate_exit. Only the vCPU's thread.
 */
int vcpu_run(struct vcpu *v) __must_check;
/* The coalesced ring of the VM as this vCPU's mapping shows it; NULL if the capability lacks. */
struct kvm_coalesced_mmio_ring *vcpu_coalesced_ring(struct vcpu *v);

/* State. On the vCPU's thread, or while it does not run. */
int vcpu_get_regs(struct vcpu *v, struct kvm_regs *r) __must_check;
int vcpu_set_regs(struct vcpu *v, const struct kvm_regs *r) __must_check;
int vcpu_get_sregs(struct vcpu *v, struct kvm_sregs *r) __must_check;
int vcpu_set_sregs(struct vcpu *v, const struct kvm_sregs *r) __must_check;
int vcpu_get_fpu(struct vcpu *v, struct kvm_fpu *f) __must_check;
int vcpu_set_fpu(struct vcpu *v, const struct kvm_fpu *f) __must_check;
int vcpu_set_cpuid(struct vcpu *v, const struct kvm_cpuid2 *c) __must_check;
/* Returns how many were set or read (KVM_GET/SET_MSRS), or -errno. */
int vcpu_get_msrs(struct vcpu *v, struct kvm_msrs *m) __must_check;
int vcpu_set_msrs(struct vcpu *v, const struct kvm_msrs *m) __must_check;
int vcpu_get_lapic(struct vcpu *v, struct kvm_lapic_state *s) __must_check;
int vcpu_set_lapic(struct vcpu *v, const struct kvm_lapic_state *s) __must_check;
int vcpu_get_mp_state(struct vcpu *v, struct kvm_mp_state *s) __must_check;
int vcpu_set_mp_state(struct vcpu *v, const struct kvm_mp_state *s) __must_check;
int vcpu_get_events(struct vcpu *v, struct kvm_vcpu_events *e) __must_check;
int vcpu_set_events(struct vcpu *v, const struct kvm_vcpu_events *e) __must_check;
int vcpu_get_xcrs(struct vcpu *v, struct kvm_xcrs *x) __must_check;
int vcpu_set_xcrs(struct vcpu *v, const struct kvm_xcrs *x) __must_check;
int vcpu_get_debugregs(struct vcpu *v, struct kvm_debugregs *d) __must_check;
int vcpu_set_debugregs(struct vcpu *v, const struct kvm_debugregs *d) __must_check;
int vcpu_set_signal_mask(struct vcpu *v, const void *sigset, unsigned len) __must_check;
int vcpu_get_xsave(struct vcpu *v, struct kvm_xsave *x) __must_check;
int vcpu_set_xsave(struct vcpu *v, const struct kvm_xsave *x) __must_check;
/* KVM_GET_TSC_KHZ, 0 if the KVM half cannot tell. */
uint32_t vcpu_get_tsc_khz(struct vcpu *v);
int vcpu_set_tsc_khz(struct vcpu *v, uint32_t khz) __must_check;
/* KVM_VCPU_TSC_OFFSET: the guest's TSC less the host's. -ENXIO, -EINVAL where there is none. */
int vcpu_get_tsc_offset(struct vcpu *v, uint64_t *offset) __must_check;
int vcpu_set_tsc_offset(struct vcpu *v, uint64_t offset) __must_check;
/* Inject a vector (KVM_INTERRUPT): full user-space irqchip only. -EEXIST: one is queued. */
int vcpu_interrupt(struct vcpu *v, unsigned vector) __must_check;
int vcpu_nmi(struct vcpu *v) __must_check;

/*
 * All of the above at once (state.c), with the nr_msrs MSRs of the list that this
 * KVM half has; the time stamp counter, if it is one of them, is loaded as it would
 * be now, on this host. While the vCPU does not run and has no access in flight. Loading into a
 * vCPU with the same CPUID; -errno of the first call that failed, then the vCPU has
 * part of the state.
 */
struct vcpu_state;
int vcpu_state_save(struct vcpu *v, const uint32_t *msrs, unsigned nr_msrs,
		    struct vcpu_state **out) __must_check;
int vcpu_state_load(struct vcpu *v, const struct vcpu_state *s) __must_check;
void vcpu_state_free(struct vcpu_state *s);

/* The in-kernel PICs, IOAPIC and PIT (if there is one), likewise. Freed by free(). */
struct chips_state;
int vm_chips_save(struct vm *vm, struct chips_state **out) __must_check;
int vm_chips_load(struct vm *vm, const struct chips_state *s) __must_check;

/* "KVM_EXIT_IO" and so on; "unknown" for a number that has no name. */
const char *vcpu_exit_name(unsigned reason);
/* Registers, segments, control registers and the last exit, several lines, for an error report. */
void vcpu_describe(struct vcpu *v, char *buf, size_t len);

#endif
