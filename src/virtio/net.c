/* SPDX-License-Identifier: MIT
 * virtio 1.2 "Network Device": one receive and one transmit queue, no
 * offloads. The backend lives on the device's loop, so a frame goes from one
 * to the other without a lock or a queue in between.
 */
#include "virtio/devices.h"
#include "virtio/iothread.h"
#include <linux/virtio_net.h>
#include <stdatomic.h>
#include <stdlib.h>

#define RX        0
#define TX        1
#define MAX_MERGE 64 /* buffers one frame may be spread over */

/* "Legacy Interface: Device Operation": no num_buffers unless MRG_RXBUF. */
#define HDR_LEGACY 10
#define HDR_MODERN 12

struct net_dev {
	struct virtio_dev v;
	struct iothread thread;
	struct net *net;
	struct virtio_net_config config;
	_Atomic bool up;           /* between start() and stop() */
	/* while started; the device's loop */
	unsigned hdr_len;
	bool merge;
	bool flushing;             /* the timer is set */
	struct loop_timer flush;   /* at the end of the loop's turn: one call for all frames */
	struct virtq_chain chain[2]; /* a frame's first buffer, and the one in work; also tx */
	uint64_t rx_frames, tx_frames, rx_dropped, tx_dropped;
};

static struct net_dev *to_net(struct virtio_dev *v)
{
	return container_of(v, struct net_dev, v);
}

/* ---- receive --------------------------------------------------------- */

static void rx_flush(void *arg)
{
	struct net_dev *d = arg;

	d->flushing = false;
	virtq_flush(&d->v.queues[RX]);
}

static void rx_flush_soon(struct net_dev *d)
{
	if (d->flushing)
		return;
	d->flushing = true;
	loop_timer_set(d->thread.loop, &d->flush, clock_ns());
}

/* Bytes [at, at + n) of header and frame, put together, go to the start of the chain. */
static void put_part(struct virtq_chain *c, const uint8_t *hdr, size_t hdr_len,
		     const uint8_t *frame, size_t at, size_t n)
{
	size_t head = at < hdr_len ? MIN(n, hdr_len - at) : 0;

	if (head)
		(void)chain_write(c, 0, hdr + at, head);
	if (n > head)
		(void)chain_write(c, head, frame + (at + head - hdr_len), n - head);
}

static void take_back(struct virtq *q, unsigned nr)
{
	while (nr--)
		virtq_unpop(q);
}

/* Backend: a frame for the guest. False: no buffers; asked again when the driver has kicked. */
static bool net_receive(void *arg, const void *frame, size_t len)
{
	struct net_dev *d = arg;
	struct virtq *q = &d->v.queues[RX];
	struct { uint16_t head; uint32_t len; } used[MAX_MERGE];
	uint8_t hdr[HDR_MODERN] = { 0 };
	size_t need = d->hdr_len + len, done = 0;
	unsigned nr = 0, max;
	int r;

	if (!q->started) {
		/* A pause: keep it. No driver: a wire with nothing at its end. */
		if (atomic_load_explicit(&d->up, memory_order_relaxed))
			return false;
		d->rx_dropped++;
		return true;
	}
	max = d->merge ? MIN(q->size, MAX_MERGE) : 1;
	while (done < need) {
		struct virtq_chain *c = &d->chain[nr > 0];
		size_t n;

		if (nr == max) {
			/* Longer than the driver's buffers can ever hold. */
			take_back(q, nr);
			d->rx_dropped++;
			return true;
		}
		r = virtq_pop(q, c);
		if (r == 0) {
			take_back(q, nr);
			/* Work that came meanwhile makes the core call handle(), hence net_resume(). */
			if (virtq_enable_kicks(q) && !nr)
				continue;
			return false;
		}
		if (r < 0 || c->in_len < (nr ? 1 : d->hdr_len)) {
			virtio_fail(&d->v, "receive queue: %s", r < 0 ? "malformed descriptors" :
				    "a buffer that cannot even hold the header");
			return true;
		}
		n = MIN(c->in_len, need - done);
		put_part(c, hdr, d->hdr_len, frame, done, n);
		used[nr].head = c->head;
		used[nr++].len = (uint32_t)n;
		done += n;
	}
	/* "Device Operation: Processing of Incoming Packets": 1 also without MRG_RXBUF. */
	if (d->hdr_len == HDR_MODERN) {
		uint8_t num_buffers[2];

		store_le16(num_buffers, (uint16_t)nr);
		(void)chain_write(&d->chain[0], HDR_LEGACY, num_buffers, 2);
	}
	for (unsigned i = 0; i < nr; i++)
		virtq_push(q, used[i].head, used[i].len);
	d->rx_frames++;
	rx_flush_soon(d);
	return true;
}

/* ---- transmit -------------------------------------------------------- */

/* What lies behind the header. Its fields have no meaning without the offloads. */
static int send_chain(struct net_dev *d, struct virtq_chain *c)
{
	size_t skip = d->hdr_len;
	unsigned i = 0;

	while (i < c->nr_out && skip >= c->iov[i].iov_len)
		skip -= c->iov[i++].iov_len;
	if (i == c->nr_out)
		return -EMSGSIZE;
	c->iov[i].iov_base = (char *)c->iov[i].iov_base + skip;
	c->iov[i].iov_len -= skip;
	return net_send(d->net, c->iov + i, (int)(c->nr_out - i));
}

static void tx_handle(struct net_dev *d, struct virtq *q)
{
	/* Not chain[]: the backend may bring a frame before net_send() is back. */
	struct iovec iov[VIRTQ_MAX_SIZE + 2];
	struct virtq_chain c = { .iov = iov, .iov_max = q->size + 2u };
	int r;

	virtq_disable_kicks(q);
	do {
		/* virtq_pop() ends it after a fair share: other queues have their turn too. */
		while ((r = virtq_pop(q, &c)) > 0) {
			if (send_chain(d, &c))
				d->tx_dropped++;
			else
				d->tx_frames++;
			virtq_push(q, c.head, 0);
		}
	} while (r == 0 && virtq_enable_kicks(q));
	virtq_flush(q);
	if (r < 0)
		virtio_fail(&d->v, "transmit queue: malformed descriptors");
}

static void net_handle(struct virtio_dev *v, struct virtq *q)
{
	struct net_dev *d = to_net(v);

	if (q->index == TX) {
		tx_handle(d, q);
		return;
	}
	/* New buffers are of interest only when we ran out of them: net_receive() says so. */
	virtq_disable_kicks(q);
	net_resume(d->net);
}

/* ---- life cycle ------------------------------------------------------ */

static int net_start(struct virtio_dev *v)
{
	struct net_dev *d = to_net(v);

	d->merge = virtio_has(v, VIRTIO_NET_F_MRG_RXBUF);
	d->hdr_len = d->merge || virtio_has(v, VIRTIO_F_VERSION_1) ? HDR_MODERN : HDR_LEGACY;
	atomic_store(&d->up, true);
	return 0;
}

static void net_forget(void *arg)
{
	struct net_dev *d = arg;

	/* Whatever waited was for the driver that is gone: up is false, it will be dropped. */
	net_resume(d->net);
}

static void net_stop(struct virtio_dev *v)
{
	struct net_dev *d = to_net(v);

	atomic_store(&d->up, false);
	loop_call(d->thread.loop, net_forget, d);
}

static void net_stop_queue(struct virtio_dev *v, struct virtq *q)
{
	struct net_dev *d = to_net(v);

	/* Nothing is in flight between calls; what was pushed must be seen. */
	if (q->index == RX) {
		loop_timer_cancel(d->thread.loop, &d->flush);
		d->flushing = false;
	}
	virtq_flush(q);
}

static void net_config_read(struct virtio_dev *v, unsigned off, void *data, unsigned len)
{
	memcpy(data, (char *)&to_net(v)->config + off, len);
}

static void net_config_write(struct virtio_dev *v, unsigned off, const void *data, unsigned len)
{
	struct net_dev *d = to_net(v);

	/* "Legacy Interface: Device configuration layout": a driver may set the address there. */
	if (!virtio_has(v, VIRTIO_F_VERSION_1) && range_within(off, len, sizeof(d->config.mac)))
		memcpy(d->config.mac + off, data, len);
}

static void net_teardown(struct net_dev *d)
{
	iothread_stop(&d->thread);
	net_destroy(d->net);
	if (d->thread.loop)
		loop_timer_cancel(d->thread.loop, &d->flush);
	virtio_dev_fini(&d->v);
	iothread_fini(&d->thread);
	free(d->chain[0].iov);
	free(d->chain[1].iov);
	free(d);
}

static void net_dev_destroy(struct virtio_dev *v)
{
	struct net_dev *d = to_net(v);

	log_debug(&v->machine->log, "%s: %llu frames in (%llu dropped), %llu out (%llu dropped)",
		  v->dev ? v->dev->name : "net", (unsigned long long)d->rx_frames,
		  (unsigned long long)d->rx_dropped, (unsigned long long)d->tx_frames,
		  (unsigned long long)d->tx_dropped);
	net_teardown(d);
}

static const struct virtio_ops net_ops = {
	.type = "virtio-net",
	.id = VIRTIO_ID_NET,
	.config_read = net_config_read,
	.config_write = net_config_write,
	.start = net_start,
	.stop = net_stop,
	.stop_queue = net_stop_queue,
	.handle = net_handle,
	.destroy = net_dev_destroy,
};

int virtio_net_create(struct machine *m, struct pci_bus *bus, const char *name,
		      const struct net_config *c, struct err *e)
{
	uint16_t size = c->queue_size ? c->queue_size : 256;
	struct net_client client;
	struct net_dev *d;
	int r;

	if (size < 2 || size > VIRTQ_MAX_SIZE || !is_pow2(size))
		return err_set(e, -EINVAL, "%s: a queue size of %u: give a power of two from 2 to %u",
			       name, size, VIRTQ_MAX_SIZE);
	if (c->mac[0] & 1)
		return err_set(e, -EINVAL, "%s: the MAC address is a group's: make its first byte even",
			       name);
	d = calloc(1, sizeof(*d));
	if (!d)
		return err_set(e, -ENOMEM, "%s: no memory", name);
	memcpy(d->config.mac, c->mac, sizeof(c->mac));
	d->config.status = VIRTIO_NET_S_LINK_UP;
	d->flush = (struct loop_timer){ .fire = rx_flush, .arg = d };
	r = virtio_dev_init(&d->v, m, &net_ops, 2, size,
			    offsetof(struct virtio_net_config, max_virtqueue_pairs), &c->o);
	if (r) {
		free(d);
		return err_set(e, r, "%s: %s", name, strerror(-r));
	}
	d->v.offered = BIT_ULL(VIRTIO_NET_F_MAC) | BIT_ULL(VIRTIO_NET_F_STATUS) |
		       BIT_ULL(VIRTIO_NET_F_MRG_RXBUF);
	r = iothread_init(&d->thread, m, c->iothread, c->poll_ns);
	for (unsigned i = 0; !r && i < 2; i++) {
		d->v.queues[i].loop = d->thread.loop;
		d->chain[i].iov_max = size + 2u;
		d->chain[i].iov = calloc(size + 2u, sizeof(struct iovec));
		if (!d->chain[i].iov)
			r = -ENOMEM;
	}
	if (r) {
		err_set(e, r, "%s: %s", name, strerror(-r));
		goto teardown;
	}
	r = c->create(&d->net, d->thread.loop, c->arg, e);
	if (r) {
		err_prefix(e, r, "%s", name);
		goto teardown;
	}
	client = (struct net_client){ .receive = net_receive, .arg = d };
	net_set_client(d->net, &client);
	r = iothread_start(&d->thread, "net", name);
	if (r) {
		err_set(e, r, "%s: %s", name, strerror(-r));
		goto teardown;
	}
	r = virtio_pci_create(&d->v, bus, name, e);
	if (!r)
		return 0;

teardown:
	net_teardown(d);
	return r;
}
