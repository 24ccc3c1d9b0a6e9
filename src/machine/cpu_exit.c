/* SPDX-License-Identifier: MIT
 * What each exit reason means. Every reason has a row: handled, or named as
 * something this machine never asks for.
 */
#include "machine/cpu_priv.h"
#include <stdio.h>

static void describe(struct cpu *c)
{
	char text[2048], *save = NULL;

	vcpu_describe(&c->vcpu, text, sizeof(text));
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		log_error(&c->machine->log, "%s", line);
}

/*
 * The vCPU has come to an end that only the main loop can follow: have it wait
 * here to be held. Entering the guest again would repeat the end, or go on
 * from nowhere (AMD's KVM starts a vCPU anew after a triple fault).
 */
static void stand(struct cpu *c)
{
	mutex_lock(&c->lock);
	c->hold = true;
	atomic_store(&c->want_out, true);
	mutex_unlock(&c->lock);
}

static void fail(struct cpu *c, const char *what)
{
	/* One vCPU's story is enough: the others are held right after. */
	if (atomic_load(&c->machine->request) != MACHINE_FAILED) {
		log_error(&c->machine->log, "vCPU %u cannot go on: %s", c->index, what);
		describe(c);
	}
	stand(c);
	machine_request(c->machine, MACHINE_FAILED);
}

void cpu_run_failed(struct cpu *c, int error)
{
	char what[96];

	snprintf(what, sizeof(what), "KVM_RUN failed: %s", strerror(-error));
	fail(c, what);
}

static void exit_io(struct cpu *c)
{
	struct kvm_run *run = c->vcpu.run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	struct region_map *map = c->machine->map;
	unsigned len = run->io.size;
	int r = 0;

	for (uint32_t i = 0; i < run->io.count; i++, data += len) {
		if (run->io.direction == KVM_EXIT_IO_IN)
			r = region_read(map, &c->reader, SPACE_PIO, run->io.port, data, len);
		else
			r = region_write(map, &c->reader, SPACE_PIO, run->io.port, data, len);
	}
	if (r == -ENXIO)
		atomic_fetch_add_explicit(&c->nowhere, 1, memory_order_relaxed);
}

static void exit_mmio(struct cpu *c)
{
	struct kvm_run *run = c->vcpu.run;
	struct region_map *map = c->machine->map;
	int r;

	if (run->mmio.is_write)
		r = region_write(map, &c->reader, SPACE_MMIO, run->mmio.phys_addr, run->mmio.data,
				 run->mmio.len);
	else
		r = region_read(map, &c->reader, SPACE_MMIO, run->mmio.phys_addr, run->mmio.data,
				run->mmio.len);
	if (r == -ENXIO)
		atomic_fetch_add_explicit(&c->nowhere, 1, memory_order_relaxed);
}

static void exit_hlt(struct cpu *c)
{
	/* The in-kernel local APIC halts by itself; this comes only without one. */
	fail(c, "it halted outside the in-kernel irqchip, where nothing can wake it");
}

static void exit_shutdown(struct cpu *c)
{
	struct machine *m = c->machine;

	/*
	 * A triple fault resets a PC. Right after a start the next life would
	 * end the same way: say so instead of looping.
	 */
	if (clock_ns() - m->started_at < NSEC_PER_SEC) {
		fail(c, "triple fault within a second of the start");
		return;
	}
	log_warn(&m->log, "vCPU %u: triple fault, the machine resets", c->index);
	describe(c);
	machine_request(m, MACHINE_RESET);
}

static void exit_system_event(struct cpu *c)
{
	switch (c->vcpu.run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		machine_request(c->machine, MACHINE_POWEROFF);
		break;
	case KVM_SYSTEM_EVENT_RESET:
		machine_request(c->machine, MACHINE_RESET);
		break;
	default:
		fail(c, "the guest reported a crash (KVM_EXIT_SYSTEM_EVENT)");
	}
}

static void exit_hypercall(struct cpu *c)
{
	c->vcpu.run->hypercall.ret = (uint64_t)-1000; /* -KVM_ENOSYS */
}

static void exit_msr(struct cpu *c)
{
	c->vcpu.run->msr.error = 1; /* the guest gets #GP */
}

static void exit_fail_entry(struct cpu *c)
{
	fail(c, "the processor refused the guest's state (KVM_EXIT_FAIL_ENTRY)");
}

static void exit_internal_error(struct cpu *c)
{
	struct kvm_run *run = c->vcpu.run;
	char what[128];
	int n;

	n = snprintf(what, sizeof(what), "KVM internal error, suberror %u%s", run->internal.suberror,
		     run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION ?
			     " (an instruction KVM cannot emulate)" : "");
	if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION && run->internal.ndata >= 3 &&
	    (run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
		n += snprintf(what + n, sizeof(what) - (size_t)n, ":");
		for (unsigned i = 0; i < MIN(run->emulation_failure.insn_size, 15); i++)
			n += snprintf(what + n, sizeof(what) - (size_t)n, " %02x",
				      run->emulation_failure.insn_bytes[i]);
	}
	fail(c, what);
}

/* Nothing to do but go on. */
static void exit_nothing(struct cpu *c)
{
}

/* Needs something enabled that this machine never enables. */
static void exit_unasked(struct cpu *c)
{
	char what[96];

	snprintf(what, sizeof(what), "exit %s (%u), which this machine never asks for",
		 vcpu_exit_name(c->vcpu.run->exit_reason), c->vcpu.run->exit_reason);
	fail(c, what);
}

static void (*const handlers[])(struct cpu *c) = {
	[KVM_EXIT_UNKNOWN] = exit_unasked,
	[KVM_EXIT_EXCEPTION] = exit_unasked,
	[KVM_EXIT_IO] = exit_io,
	[KVM_EXIT_HYPERCALL] = exit_hypercall,
	[KVM_EXIT_DEBUG] = exit_unasked,
	[KVM_EXIT_HLT] = exit_hlt,
	[KVM_EXIT_MMIO] = exit_mmio,
	[KVM_EXIT_IRQ_WINDOW_OPEN] = exit_nothing,
	[KVM_EXIT_SHUTDOWN] = exit_shutdown,
	[KVM_EXIT_FAIL_ENTRY] = exit_fail_entry,
	[KVM_EXIT_INTR] = exit_nothing,
	[KVM_EXIT_SET_TPR] = exit_nothing,
	[KVM_EXIT_TPR_ACCESS] = exit_nothing,
	[KVM_EXIT_NMI] = exit_nothing,
	[KVM_EXIT_INTERNAL_ERROR] = exit_internal_error,
	[KVM_EXIT_WATCHDOG] = exit_unasked,
	[KVM_EXIT_SYSTEM_EVENT] = exit_system_event,
	[KVM_EXIT_IOAPIC_EOI] = exit_nothing,
	[KVM_EXIT_HYPERV] = exit_unasked,
	[KVM_EXIT_X86_RDMSR] = exit_msr,
	[KVM_EXIT_X86_WRMSR] = exit_msr,
	[KVM_EXIT_DIRTY_RING_FULL] = exit_unasked,
	[KVM_EXIT_AP_RESET_HOLD] = exit_unasked,
	[KVM_EXIT_X86_BUS_LOCK] = exit_nothing,
	[KVM_EXIT_XEN] = exit_unasked,
	[KVM_EXIT_NOTIFY] = exit_nothing,
};

void cpu_handle_exit(struct cpu *c)
{
	unsigned reason = c->vcpu.run->exit_reason;

	atomic_fetch_add_explicit(&c->exits[MIN(reason, ARRAY_SIZE(c->exits) - 1)], 1,
				  memory_order_relaxed);
	if (reason < ARRAY_SIZE(handlers) && handlers[reason])
		handlers[reason](c);
	else
		exit_unasked(c);
	/*
	 * A reset or power-off, by a port or by the exit itself, holds from here:
	 * a guest that runs on tries the next way, and Linux's last is a triple fault.
	 */
	if (atomic_load(&c->machine->request) != MACHINE_RUNNING)
		stand(c);
}
