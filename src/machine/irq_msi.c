/* SPDX-License-Identifier: MIT
 * Message interrupts: an eventfd each, bound to a gsi while unmasked.
 */
#include "machine/irq_priv.h"

int irq_msi_create(struct irq_msi *m, struct irq_fabric *f, enum inject_path path, const char *name)
{
	int r;

	path = irq_best_path(f, path);
	if (path == INJECT_LINE)
		return -ENOTSUP;
	*m = (struct irq_msi){ .fabric = f, .name = name, .gsi = -1, .masked = true };
	atomic_init(&m->path, path);
	r = notifier_create(&m->n, 0, 0);
	if (r)
		return r;
	mutex_init(&m->lock);
	mutex_lock(&f->lock);
	m->next = f->msis;
	f->msis = m;
	mutex_unlock(&f->lock);
	return 0;
}

static void unbind_locked(struct irq_msi *m)
{
	if (!m->bound)
		return;
	(void)vm_unbind_irqfd(m->fabric->vm, m->n.fd, (gsi_t)m->gsi);
	m->bound = false;
}

void irq_msi_destroy(struct irq_msi *m)
{
	struct irq_fabric *f = m->fabric;

	if (!f)
		return;
	mutex_lock(&f->lock);
	unbind_locked(m);
	if (m->gsi >= 0)
		route_free_locked(f, (gsi_t)m->gsi);
	for (struct irq_msi **at = &f->msis; *at; at = &(*at)->next) {
		if (*at == m) {
			*at = m->next;
			break;
		}
	}
	mutex_unlock(&f->lock);
	notifier_destroy(&m->n);
	mutex_destroy(&m->lock);
	m->fabric = NULL;
}

static void send(struct irq_msi *m)
{
	int r = vm_signal_msi(m->fabric->vm, m->address, m->data);

	if (r < 0)
		atomic_fetch_add_explicit(&m->errors, 1, memory_order_relaxed);
	else if (r == 0)
		atomic_fetch_add_explicit(&m->coalesced, 1, memory_order_relaxed);
}

/* INJECT_MSI: one message now, or remembered while masked. */
static void send_or_hold(struct irq_msi *m)
{
	mutex_lock(&m->lock);
	if (m->masked)
		m->pending = true;
	else
		send(m);
	mutex_unlock(&m->lock);
}

void irq_msi_signal(struct irq_msi *m)
{
	atomic_fetch_add_explicit(&m->signals, 1, memory_order_relaxed);
	if (atomic_load(&m->path) == INJECT_IRQFD) {
		(void)notifier_signal(&m->n); /* -EAGAIN: the count is full, it is pending anyway */
		/* The path may have fallen back meanwhile, and its drain missed our write:
		 * see docs/INTERRUPTS.md, "Falling back". */
		if (atomic_load(&m->path) == INJECT_IRQFD || !notifier_drain(&m->n))
			return;
	}
	send_or_hold(m);
}

int irq_msi_set(struct irq_msi *m, uint64_t address, uint32_t data)
{
	struct irq_fabric *f = m->fabric;
	int r = 0;

	mutex_lock(&f->lock);
	mutex_lock(&m->lock);
	/* A masked vector keeps its gsi and moves the route when it is unmasked. */
	if (m->bound)
		r = route_set_locked(f, (gsi_t)m->gsi, address, data);
	if (!r) {
		m->address = address;
		m->data = data;
	}
	mutex_unlock(&m->lock);
	mutex_unlock(&f->lock);
	return r;
}

int irq_msi_mask(struct irq_msi *m)
{
	struct irq_fabric *f = m->fabric;

	mutex_lock(&f->lock);
	mutex_lock(&m->lock);
	m->masked = true;
	mutex_unlock(&m->lock);
	unbind_locked(m);
	mutex_unlock(&f->lock);
	return 0;
}

/* No gsi is left, or the bind failed: go on with an ioctl a message. */
static void fall_back_locked(struct irq_msi *m, int why)
{
	struct irq_fabric *f = m->fabric;

	if (!f->said_full) {
		f->said_full = true;
		log_info(f->log, "%s: no irqfd route (%s), using KVM_SIGNAL_MSI", m->name,
			 strerror(-why));
	}
	atomic_store(&m->path, INJECT_MSI);
	if (notifier_drain(&m->n))
		m->pending = true;
}

static int bind_locked(struct irq_msi *m)
{
	struct irq_fabric *f = m->fabric;
	int r;

	if (m->gsi < 0) {
		r = route_alloc_locked(f, m->address, m->data);
		if (r < 0)
			return r;
		m->gsi = r;
	} else {
		r = route_set_locked(f, (gsi_t)m->gsi, m->address, m->data);
		if (r)
			return r;
	}
	r = vm_bind_notifier(f->vm, &m->n, (gsi_t)m->gsi, -1);
	if (r < 0)
		return r;
	m->bound = true;
	return 0;
}

int irq_msi_unmask(struct irq_msi *m)
{
	struct irq_fabric *f = m->fabric;
	int r = 0;

	mutex_lock(&f->lock);
	mutex_lock(&m->lock);
	if (m->masked) {
		if (m->path == INJECT_IRQFD) {
			r = bind_locked(m);
			if (r && f->has_msi) {
				fall_back_locked(m, r);
				r = 0;
			}
		}
		if (!r) {
			m->masked = false;
			if (m->pending) {
				m->pending = false;
				send(m);
			}
		}
	}
	mutex_unlock(&m->lock);
	mutex_unlock(&f->lock);
	return r;
}

bool irq_msi_pending(struct irq_msi *m)
{
	bool p;

	mutex_lock(&m->lock);
	p = m->masked && (m->pending || notifier_pending(&m->n));
	mutex_unlock(&m->lock);
	return p;
}

void irq_msi_clear(struct irq_msi *m)
{
	mutex_lock(&m->lock);
	if (m->masked) {
		m->pending = false;
		notifier_drain(&m->n);
	}
	mutex_unlock(&m->lock);
}
