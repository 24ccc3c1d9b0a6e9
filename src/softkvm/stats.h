/* SPDX-License-Identifier: MIT
 * Counters, and the fd that shows them ("KVM_GET_STATS_FD"). Until someone asks
 * for the fd they live in ordinary memory; then they move into a memfd that the
 * fd's reader sees live and cannot write.
 */
#ifndef BELFRY_SOFTKVM_STATS_H
#define BELFRY_SOFTKVM_STATS_H

#include "base/base.h"
#include <stdatomic.h>

#define VM_STATS(X)                                                                            \
	X(irqfd_fast, "irqfd_fast_path") X(irqfd_slow, "irqfd_slow_path")                      \
	X(irqfd_direct, "irqfd_direct") X(irqfd_halted, "irqfd_by_halted_vcpu")                \
	X(irqfd_resample, "irqfd_resample_acks")               \
	X(irte_posted, "irte_posted") X(irte_remapped, "irte_remapped")                        \
	X(irte_updates, "irte_updates") X(msi, "signal_msi")                                   \
	X(line, "irq_line") X(remap, "route_updates") X(map_rebuilds, "apic_map_rebuilds")     \
	X(slot_changes, "memslot_changes") X(timer_fires, "timer_fires")

#define VCPU_STATS(X)                                                                           \
	X(exits, "exits") X(io_exits, "io_exits") X(mmio_exits, "mmio_exits")                   \
	X(io_kernel, "io_bus_hits") X(mmio_kernel, "mmio_bus_hits")                             \
	X(halt_exits, "halt_exits") X(signal_exits, "signal_exits")                             \
	X(request_irq_exits, "request_irq_exits") X(irq_exits, "irq_exits")                     \
	X(debug_exits, "debug_exits") X(hypercalls, "hypercalls")                               \
	X(eoi_exits, "ioapic_eoi_exits") X(irq_injections, "irq_injections")                    \
	X(nmi_injections, "nmi_injections") X(posted, "posted")                                 \
	X(posted_notify, "posted_notifications") X(posted_wakeup, "posted_wakeups")             \
	X(posted_coalesced, "posted_coalesced") X(kicks, "kick_exits")                          \
	X(halt_successful_poll, "halt_successful_poll") X(halt_attempted_poll, "halt_attempted_poll") \
	X(halt_wakeup, "halt_wakeup") X(ipis, "ipis_sent") X(pv_ipis, "pv_ipis_sent")           \
	X(pv_eois, "pv_eois") X(eois, "eois") X(timer_irqs, "apic_timer_irqs")                  \
	X(msr_exits, "msr_exits") X(blocking, "blocking")

enum vm_stat {
#define X(n, s) VM_STAT_##n,
	VM_STATS(X)
#undef X
	NR_VM_STATS,
};

enum vcpu_stat {
#define X(n, s) VCPU_STAT_##n,
	VCPU_STATS(X)
#undef X
	NR_VCPU_STATS,
};

struct softkvm;
struct soft_file;

struct soft_stats {
	uint64_t *_Atomic value; /* own, or in the mapped memfd */
	uint64_t own[MAX((int)NR_VCPU_STATS, (int)NR_VM_STATS)];
	void *map;		 /* the memfd's pages, NULL until asked for */
	size_t map_size;
	int fd;			 /* our description of it */
};

static inline void stats_init(struct soft_stats *s)
{
	memset(s, 0, sizeof(*s));
	s->fd = -1;
	atomic_init(&s->value, s->own);
}

/* Any thread. */
static inline void stat_inc(struct soft_stats *s, unsigned i)
{
	__atomic_fetch_add(&atomic_load_explicit(&s->value, memory_order_relaxed)[i], 1, __ATOMIC_RELAXED);
}

#define vm_stat(vm, n)	 stat_inc(&(vm)->stats, VM_STAT_##n)
#define vcpu_stat(v, n) stat_inc(&(v)->stats, VCPU_STAT_##n)

/*
 * A new fd for reading the statistics; `vcpu` picks the names, id is their
 * owner's. Caller holds the owner's lock. -ENOMEM, -EMFILE.
 */
int stats_open_fd(struct soft_stats *s, bool vcpu, const char *id) __must_check;
void stats_destroy(struct soft_stats *s);

#endif
