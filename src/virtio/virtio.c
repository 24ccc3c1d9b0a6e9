/* SPDX-License-Identifier: MIT
 * The device core: features, status, starting and stopping, handling
 * (virtio 1.2 "Basic Facilities of a Virtio Device"). docs/VIRTIO.md draws
 * which thread does what.
 */
#include "virtio/virtio.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

/* Requests one handle() may take before the loop's other work gets its turn. */
#define HANDLE_BUDGET 256

#define CORE_FEATURES (BIT_ULL(VIRTIO_RING_F_INDIRECT_DESC) | BIT_ULL(VIRTIO_RING_F_EVENT_IDX))

/* ---- create and destroy ----------------------------------------------------- */

int virtio_dev_init(struct virtio_dev *v, struct machine *m, const struct virtio_ops *ops,
		    unsigned nr_queues, uint16_t queue_size, unsigned config_len,
		    const struct virtio_options *o)
{
	if (!nr_queues || nr_queues > 1024 || !is_pow2(queue_size) || queue_size > VIRTQ_MAX_SIZE)
		return -EINVAL;
	v->queues = calloc(nr_queues, sizeof(*v->queues));
	if (!v->queues)
		return -ENOMEM;
	v->ops = ops;
	v->machine = m;
	v->nr_queues = nr_queues;
	v->queue_size = queue_size;
	v->config_len = config_len;
	v->options = *o;
	mutex_init(&v->lock);
	atomic_init(&v->status, 0);
	atomic_init(&v->config_generation, 0);
	for (unsigned i = 0; i < nr_queues; i++) {
		struct virtq *q = &v->queues[i];

		q->v = v;
		q->index = (uint16_t)i;
		q->loop = m->loop;
		q->max_size = queue_size;
		q->kick.fd = -1;
		virtq_reset(q);
	}
	return 0;
}

void virtio_dev_fini(struct virtio_dev *v)
{
	if (!v->queues)
		return;
	for (unsigned i = 0; i < v->nr_queues; i++)
		notifier_destroy(&v->queues[i].kick);
	free(v->queues);
	v->queues = NULL;
	mutex_destroy(&v->lock);
}

/* ---- handling, on the queue's loop -------------------------------------------- */

static void handle(struct virtq *q)
{
	struct virtio_dev *v = q->v;

	if (q->broken || (atomic_load(&v->status) & VIRTIO_CONFIG_S_NEEDS_RESET))
		return;
	q->looked_avail = __atomic_load_n(&q->avail->idx, __ATOMIC_ACQUIRE);
	q->budget = HANDLE_BUDGET;
	q->in_handle = true;
	v->ops->handle(v, q);
	q->in_handle = false;
	if (!q->budget && virtq_has_work(q)) {
		/* It was cut short: make the poller find it after the loop's other work. */
		q->want_kicks = true;
		q->looked_avail = q->next_avail;
	}
}

static void on_kick(void *arg, uint32_t events)
{
	struct virtq *q = arg;
	uint64_t n = notifier_drain(&q->kick);

	atomic_fetch_add_explicit(&q->kicks, n, memory_order_relaxed);
	q->worked = true;
	handle(q);
}

/*
 * Before the loop sleeps: what came without a kick. Also says that a kick
 * brought work, so that a loop with a poll window spins after it.
 */
static bool on_poll(void *arg)
{
	struct virtq *q = arg;
	bool worked = q->worked;

	q->worked = false;
	if (!virtq_wants_handle(q))
		return worked;
	atomic_fetch_add_explicit(&q->polls, 1, memory_order_relaxed);
	handle(q);
	return true;
}

static bool on_sleep(void *arg)
{
	return virtq_settle_kicks(arg);
}

/* ---- start and stop ------------------------------------------------------------- */

struct queue_call {
	struct virtq *q;
	int result;
};

static void start_queue(void *arg)
{
	struct queue_call *c = arg;
	struct virtq *q = c->q;

	c->result = virtq_start(q);
	if (c->result)
		return;
	(void)notifier_drain(&q->kick); /* from before: the first handle() looks anyway */
	q->watch = (struct loop_watch){
		.fd = q->kick.fd, .events = EPOLLIN, .ready = on_kick, .arg = q,
	};
	c->result = loop_watch(q->loop, &q->watch);
	if (c->result) {
		virtq_stop(q);
		return;
	}
	q->poller = (struct loop_poller){ .poll = on_poll, .sleep = on_sleep, .arg = q };
	loop_poller_add(q->loop, &q->poller);
	q->defer_kicks = true;
	q->worked = false;
}

static void first_handle(void *arg)
{
	handle(arg);
}

static void stop_queue(void *arg)
{
	struct virtq *q = arg;

	loop_poller_del(q->loop, &q->poller);
	loop_unwatch(q->loop, &q->watch);
	q->defer_kicks = false;
	if (q->v->ops->stop_queue)
		q->v->ops->stop_queue(q->v, q);
	virtq_flush(q); /* what was pushed must be seen before a pause */
	virtq_stop(q);
}

static void stop_queues(struct virtio_dev *v)
{
	for (unsigned i = 0; i < v->nr_queues; i++)
		if (v->queues[i].started)
			loop_call(v->queues[i].loop, stop_queue, &v->queues[i]);
	v->running = false;
}

static int start_queues(struct virtio_dev *v)
{
	for (unsigned i = 0; i < v->nr_queues; i++) {
		struct virtq *q = &v->queues[i];
		struct queue_call c = { .q = q };

		if (!q->enabled)
			continue;
		loop_call(q->loop, start_queue, &c);
		if (c.result) {
			stop_queues(v);
			virtio_fail(v, "queue %u cannot start: %s", i,
				    c.result == -EFAULT ? "its rings are not in RAM" :
							  strerror(-c.result));
			return c.result;
		}
	}
	v->running = true;
	/* Only now: a handler may use another queue of its loop. */
	for (unsigned i = 0; i < v->nr_queues; i++)
		if (v->queues[i].started)
			loop_call(v->queues[i].loop, first_handle, &v->queues[i]);
	return 0;
}

/* Before the doorbells are bound, which is at DRIVER_OK, paused or not. */
static int create_kicks(struct virtio_dev *v)
{
	int r = 0;

	for (unsigned i = 0; i < v->nr_queues && !r; i++)
		if (v->queues[i].enabled && v->queues[i].kick.fd < 0)
			r = notifier_create(&v->queues[i].kick, 0, 0);
	return r;
}

static void start(struct virtio_dev *v)
{
	int r;

	if (!v->legacy && !(atomic_load(&v->status) & VIRTIO_CONFIG_S_FEATURES_OK)) {
		virtio_fail(v, "the driver set DRIVER_OK without FEATURES_OK");
		return;
	}
	r = create_kicks(v);
	if (!r && v->ops->start)
		r = v->ops->start(v);
	if (r) {
		virtio_fail(v, "cannot start: %s", strerror(-r));
		return;
	}
	v->started = true;
	if (!v->pauses && start_queues(v)) {
		if (v->ops->stop)
			v->ops->stop(v);
		v->started = false;
	}
}

void virtio_pause(struct virtio_dev *v)
{
	v->pauses++;
	if (v->running)
		stop_queues(v);
}

void virtio_resume(struct virtio_dev *v)
{
	if (v->pauses && --v->pauses == 0 && v->started && !v->running &&
	    !(atomic_load(&v->status) & VIRTIO_CONFIG_S_NEEDS_RESET))
		(void)start_queues(v);
}

void virtio_reset(struct virtio_dev *v)
{
	if (v->running)
		stop_queues(v);
	if (v->started && v->ops->stop)
		v->ops->stop(v);
	v->started = false;
	v->legacy = false;
	v->features = 0;
	atomic_store(&v->status, 0);
	for (unsigned i = 0; i < v->nr_queues; i++)
		virtq_reset(&v->queues[i]);
}

/* ---- what the driver writes --------------------------------------------------------- */

uint64_t virtio_offered(const struct virtio_dev *v, bool legacy)
{
	uint64_t f = v->offered | CORE_FEATURES;

	/* Legacy has 32 bits, and a way of its own to say that any framing is understood. */
	return legacy ? (uint32_t)f | BIT_ULL(VIRTIO_F_ANY_LAYOUT) : f | BIT_ULL(VIRTIO_F_VERSION_1);
}

int virtio_set_features(struct virtio_dev *v, uint64_t driver)
{
	if (driver & ~virtio_offered(v, v->legacy))
		return -EINVAL;
	if (!v->legacy && !(driver & BIT_ULL(VIRTIO_F_VERSION_1)))
		return -EINVAL;
	v->features = driver;
	return 0;
}

void virtio_set_status(struct virtio_dev *v, uint8_t status)
{
	uint8_t old;

	if (!status) {
		virtio_reset(v);
		return;
	}
	status &= (uint8_t)~VIRTIO_CONFIG_S_NEEDS_RESET;
	old = atomic_fetch_or(&v->status, status);
	if ((status & ~old) & VIRTIO_CONFIG_S_DRIVER_OK && !(old & VIRTIO_CONFIG_S_NEEDS_RESET))
		start(v);
}

void virtio_kick(struct virtio_dev *v, unsigned queue)
{
	/* CVE-2011-2512 was an index that was not checked here. */
	if (queue < v->nr_queues && v->queues[queue].started)
		(void)notifier_signal(&v->queues[queue].kick);
}

/* ---- what the driver is told ---------------------------------------------------------- */

void virtio_fail(struct virtio_dev *v, const char *fmt, ...)
{
	char text[256];
	va_list ap;
	uint8_t old;

	old = atomic_fetch_or(&v->status, VIRTIO_CONFIG_S_NEEDS_RESET);
	if (old & VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (v->dev)
		device_complain(v->dev, "%s: the device needs a reset", text);
	if (v->transport && old & VIRTIO_CONFIG_S_DRIVER_OK)
		v->transport->config_changed(v->transport_arg);
}

void virtio_config_changed(struct virtio_dev *v)
{
	atomic_fetch_add(&v->config_generation, 1);
	if (v->transport && atomic_load(&v->status) & VIRTIO_CONFIG_S_DRIVER_OK)
		v->transport->config_changed(v->transport_arg);
}
