/* SPDX-License-Identifier: MIT */
#include "machine/cpu_priv.h"
#include <stdlib.h>

/* Parts of machine_create() that belong to the KVM half: order as the KVM API document asks. */
static int create_vm(struct machine *m, const struct kvmapi *api, struct err *e)
{
	int r = sys_open(&m->sys, api, e);

	if (r)
		return r;
	r = sys_check_required(&m->sys, e);
	if (r)
		goto close_sys;
	r = vm_create(&m->vm, &m->sys);
	if (r) {
		(void)err_set(e, r, "KVM_CREATE_VM failed: %s", strerror(-r));
		goto close_sys;
	}
	r = vm_check_extension(&m->vm, KVM_CAP_SET_IDENTITY_MAP_ADDR) ?
		    vm_set_identity_map_addr(&m->vm, LAYOUT_IDENTITY_MAP) : 0;
	if (!r)
		r = vm_set_tss_addr(&m->vm, LAYOUT_TSS);
	if (!r)
		r = vm_create_irqchip(&m->vm);
	if (!r)
		r = vm_create_pit2(&m->vm, KVM_PIT_SPEAKER_DUMMY);
	if (r) {
		(void)err_set(e, r, "KVM cannot set up its interrupt controllers and timer: %s",
			      strerror(-r));
		goto destroy_vm;
	}
	return 0;

destroy_vm:
	vm_destroy(&m->vm);
close_sys:
	sys_close(&m->sys);
	return r;
}

static int create_cpus(struct machine *m, struct err *e)
{
	struct kvm_cpuid2 *cpuid;
	unsigned i = 0;
	int r;

	r = sys_supported_cpuid(&m->sys, &cpuid);
	if (r)
		return err_set(e, r, "KVM_GET_SUPPORTED_CPUID failed: %s", strerror(-r));
	m->cpus = calloc(m->config.cpus, sizeof(*m->cpus));
	if (!m->cpus) {
		r = err_set(e, -ENOMEM, "no memory for %u vCPUs", m->config.cpus);
		goto free_cpuid;
	}
	for (; i < m->config.cpus; i++) {
		r = cpu_create(&m->cpus[i], m, i, cpuid, e);
		if (r)
			goto destroy_cpus;
	}
	free(cpuid);
	return 0;

destroy_cpus:
	while (i--)
		cpu_destroy(&m->cpus[i]);
	free(m->cpus);
	m->cpus = NULL;
free_cpuid:
	free(cpuid);
	return r;
}

int machine_create(struct machine **out, const struct machine_config *c, const struct kvmapi *api,
		   struct err *e)
{
	struct machine *m;
	int r;

	if (c->irqchip != IRQCHIP_KERNEL)
		return err_set(e, -ENOTSUP, "only the in-kernel irqchip works in this version: use "
			       "--irqchip kernel");
	if (!c->cpus || c->cpus > 255)
		return err_set(e, -EINVAL, "%u vCPUs: must be 1 to 255", c->cpus);
	m = calloc(1, sizeof(*m));
	if (!m)
		return err_set(e, -ENOMEM, "no memory for the machine");
	m->config = *c;
	log_init(&m->log, c->log_fd, c->log_level, c->name ? c->name : "belfry");
	r = loop_create(&m->loop);
	if (r) {
		(void)err_set(e, r, "cannot create the main loop: %s", strerror(-r));
		goto free_machine;
	}
	r = create_vm(m, api, e);
	if (r)
		goto destroy_loop;
	r = ram_create(&m->ram, c->mem, e);
	if (r)
		goto destroy_vm;
	r = ram_map(&m->ram, &m->vm);
	if (r) {
		(void)err_set(e, r, "KVM refuses the guest's memory: %s", strerror(-r));
		goto destroy_ram;
	}
	r = region_map_create(&m->map, &m->vm, &m->log);
	if (r) {
		(void)err_set(e, r, "cannot create the region map: %s", strerror(-r));
		goto destroy_ram;
	}
	r = irq_create(&m->irq, &m->vm, c->max_routes, &m->log);
	if (r) {
		(void)err_set(e, r, "KVM refuses the interrupt routes: %s", strerror(-r));
		goto destroy_map;
	}
	r = vm_chips_save(&m->vm, &m->power_on_chips);
	if (r) {
		(void)err_set(e, r, "cannot read the interrupt controllers: %s", strerror(-r));
		goto destroy_irq;
	}
	r = create_cpus(m, e);
	if (r)
		goto free_chips;
	*out = m;
	return 0;

free_chips:
	free(m->power_on_chips);
destroy_irq:
	irq_destroy(m->irq);
destroy_map:
	region_map_destroy(m->map);
destroy_ram:
	ram_destroy(&m->ram);
destroy_vm:
	vm_destroy(&m->vm);
	sys_close(&m->sys);
destroy_loop:
	loop_destroy(m->loop);
free_machine:
	free(m);
	return r;
}

/* Devices are listed in order of creation and torn down in the other direction. */
static void destroy_devices(struct machine *m)
{
	while (m->devices) {
		struct device **at = &m->devices, *d;

		while ((*at)->next)
			at = &(*at)->next;
		d = *at;
		*at = NULL;
		if (d->ops->destroy)
			d->ops->destroy(d);
	}
}

void machine_destroy(struct machine *m)
{
	if (!m)
		return;
	if (m->started)
		machine_pause(m);
	destroy_devices(m);
	for (unsigned i = 0; i < m->config.cpus; i++)
		cpu_destroy(&m->cpus[i]);
	free(m->cpus);
	free(m->power_on_chips);
	irq_destroy(m->irq);
	region_map_destroy(m->map);
	vm_destroy(&m->vm);
	ram_destroy(&m->ram);
	sys_close(&m->sys);
	loop_destroy(m->loop);
	free(m);
}

void machine_add_device(struct machine *m, struct device *dev)
{
	struct device **at = &m->devices;

	while (*at)
		at = &(*at)->next;
	dev->next = NULL;
	dev->machine = m;
	*at = dev;
}

/* Everything as at power-on, the boot images loaded. vCPUs held. */
static int machine_set_up(struct machine *m, struct err *e)
{
	int r;

	for (struct device *d = m->devices; d; d = d->next)
		if (d->ops->reset)
			d->ops->reset(d);
	if (!m->boot)
		return 0;
	r = acpi_build(m, e);
	if (!r)
		r = boot_load(m->boot, m, e);
	return r;
}

int machine_start(struct machine *m, struct boot *boot, struct err *e)
{
	int r;

	m->boot = boot;
	r = machine_set_up(m, e);
	if (r)
		return r;
	for (unsigned i = 0; i < m->config.cpus; i++) {
		r = cpu_start(&m->cpus[i]);
		if (r)
			return err_set(e, r, "cannot start the thread of vCPU %u: %s", i,
				       strerror(-r));
	}
	m->started = true;
	m->started_at = clock_ns();
	for (unsigned i = 0; i < m->config.cpus; i++)
		cpu_release(&m->cpus[i]);
	return 0;
}

void machine_pause(struct machine *m)
{
	bool all_held;

	for (unsigned i = 0; i < m->config.cpus; i++)
		cpu_ask_hold(&m->cpus[i]);
	/*
	 * A vCPU thread on its way out may wait for the main loop (to start a
	 * queue, say): serve the loop until all are out.
	 */
	for (;;) {
		all_held = true;
		for (unsigned i = 0; i < m->config.cpus; i++)
			all_held &= cpu_is_held(&m->cpus[i]);
		if (all_held)
			break;
		loop_serve(m->loop);
	}
	for (struct device *d = m->devices; d; d = d->next)
		if (d->ops->pause)
			d->ops->pause(d);
}

void machine_resume(struct machine *m)
{
	for (struct device *d = m->devices; d; d = d->next)
		if (d->ops->resume)
			d->ops->resume(d);
	for (unsigned i = 0; i < m->config.cpus; i++)
		cpu_release(&m->cpus[i]);
}

static int machine_reset(struct machine *m, struct err *e)
{
	int r, reset = MACHINE_RESET;

	machine_pause(m);
	for (unsigned i = 0; i < m->config.cpus; i++) {
		r = cpu_reset(&m->cpus[i]);
		if (r)
			return err_set(e, r, "cannot reset vCPU %u: %s", i, strerror(-r));
	}
	r = vm_chips_load(&m->vm, m->power_on_chips);
	if (r)
		return err_set(e, r, "cannot reset the interrupt controllers: %s", strerror(-r));
	r = machine_set_up(m, e);
	if (r)
		return r;
	m->started_at = clock_ns();
	atomic_compare_exchange_strong(&m->request, &reset, MACHINE_RUNNING);
	machine_resume(m);
	return 0;
}

void machine_request(struct machine *m, enum machine_outcome what)
{
	int now = atomic_load(&m->request);

	/* A reset gives way to everything else: the operator's wish to quit must not be lost in it. */
	while ((now == MACHINE_RUNNING || now == MACHINE_RESET) && now != (int)what)
		if (atomic_compare_exchange_weak(&m->request, &now, what))
			break;
	loop_stop(m->loop);
}

enum machine_outcome machine_run(struct machine *m)
{
	struct err e;

	for (;;) {
		enum machine_outcome what;

		what = (enum machine_outcome)atomic_load(&m->request);
		if (what == MACHINE_RUNNING) {
			(void)loop_run(m->loop);
			continue;
		}
		if (what != MACHINE_RESET) {
			machine_pause(m);
			return what;
		}
		log_info(&m->log, "the guest resets the machine");
		if (machine_reset(m, &e)) {
			log_error(&m->log, "reset failed: %s", e.text);
			atomic_store(&m->request, MACHINE_FAILED);
		}
	}
}
