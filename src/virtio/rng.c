/* SPDX-License-Identifier: MIT
 * virtio 1.2 "Entropy Device": one queue of buffers to fill.
 */
#include "virtio/devices.h"
#include <linux/virtio_rng.h>
#include <stdlib.h>
#include <sys/random.h>

#define QUEUE_SIZE   64
#define REQUEST_MAX  (64u << 10)  /* bytes given to one request, however large it is */
#define TURN_MAX     (256u << 10) /* bytes before others have their turn on the loop */

struct rng {
	struct virtio_dev v;
	struct iovec iov[QUEUE_SIZE + 2];
};

/* Fill the buffers, as far as the host gives. Returns the bytes written. */
static uint32_t fill(const struct virtq_chain *c)
{
	uint32_t done = 0;

	for (unsigned i = c->nr_out; i < c->nr_out + c->nr_in && done < REQUEST_MAX; i++) {
		uint8_t *p = c->iov[i].iov_base;
		size_t left = MIN(c->iov[i].iov_len, REQUEST_MAX - done);

		while (left) {
			ssize_t n = getrandom(p, left, 0);

			if (n < 0 && errno == EINTR)
				continue;
			if (n <= 0)
				return done;
			p += n;
			left -= (size_t)n;
			done += (uint32_t)n;
		}
	}
	return done;
}

static void rng_handle(struct virtio_dev *v, struct virtq *q)
{
	struct rng *d = container_of(v, struct rng, v);
	struct virtq_chain c = { .iov = d->iov, .iov_max = ARRAY_SIZE(d->iov) };
	uint32_t turn = 0;
	int r = 0;

	virtq_disable_kicks(q);
	do {
		while (turn < TURN_MAX && (r = virtq_pop(q, &c)) > 0) {
			uint32_t n = fill(&c);

			turn += MAX(n, 4096);
			virtq_push(q, c.head, n);
		}
	} while (r >= 0 && turn < TURN_MAX && virtq_enable_kicks(q));
	virtq_flush(q);
	if (r < 0)
		virtio_fail(v, "malformed descriptors");
	else if (turn >= TURN_MAX)
		(void)notifier_signal(&q->kick); /* go on after the loop's other work */
}

static void rng_stop_queue(struct virtio_dev *v, struct virtq *q)
{
}

static void rng_destroy(struct virtio_dev *v)
{
	virtio_dev_fini(v);
	free(container_of(v, struct rng, v));
}

static const struct virtio_ops rng_ops = {
	.type = "virtio-rng",
	.id = VIRTIO_ID_RNG,
	.stop_queue = rng_stop_queue,
	.handle = rng_handle,
	.destroy = rng_destroy,
};

int virtio_rng_create(struct machine *m, struct pci_bus *bus, const char *name,
		      const struct rng_config *c, struct err *e)
{
	struct rng *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return err_set(e, -ENOMEM, "%s: no memory", name);
	r = virtio_dev_init(&d->v, m, &rng_ops, 1, QUEUE_SIZE, 0, &c->o);
	if (r) {
		free(d);
		return err_set(e, r, "%s: %s", name, strerror(-r));
	}
	r = virtio_pci_create(&d->v, bus, name, e);
	if (r)
		rng_destroy(&d->v);
	return r;
}
