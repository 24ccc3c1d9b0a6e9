/* SPDX-License-Identifier: MIT
 * virtio 1.2 "Console Device" with its one port: queue 0 receives what the
 * user types, queue 1 sends what the guest writes.
 */
#include "virtio/devices.h"
#include <linux/virtio_console.h>
#include <stdlib.h>

#define RX         0
#define TX         1
#define QUEUE_SIZE 128
#define TURN_MAX   (64u << 10) /* bytes written before others have their turn on the loop */

struct console_dev {
	struct virtio_dev v;
	struct console *console;
	/* The guest's buffer in work; it may be larger than one turn's share. */
	struct virtq_chain out;
	bool writing;
	size_t written;
	struct iovec out_iov[QUEUE_SIZE + 2], in_iov[QUEUE_SIZE + 2];
};

static struct console_dev *to_console(struct virtio_dev *v)
{
	return container_of(v, struct console_dev, v);
}

/* ---- input ----------------------------------------------------------- */

static size_t console_input(void *arg, const void *data, size_t len)
{
	struct console_dev *d = arg;
	struct virtq *q = &d->v.queues[RX];
	struct virtq_chain c = { .iov = d->in_iov, .iov_max = ARRAY_SIZE(d->in_iov) };
	size_t done = 0;
	int r = 0;

	/* No driver yet: the console keeps it. */
	if (!q->started)
		return 0;
	while (done < len) {
		size_t n;

		r = virtq_pop(q, &c);
		if (r == 0 && virtq_enable_kicks(q))
			continue;
		if (r <= 0)
			break;
		n = chain_write(&c, 0, (const uint8_t *)data + done, len - done);
		virtq_push(q, c.head, (uint32_t)n);
		done += n;
	}
	virtq_flush(q);
	if (r < 0)
		virtio_fail(&d->v, "receive queue: malformed descriptors");
	return done;
}

static void console_size_changed(void *arg, unsigned columns, unsigned rows)
{
	struct console_dev *d = arg;

	virtio_config_changed(&d->v);
}

/* ---- output ---------------------------------------------------------- */

/* Write on from where d->written is, up to *turn bytes. True: the buffer is done. */
static bool write_some(struct console_dev *d, size_t *turn)
{
	size_t off = d->written;

	for (unsigned i = 0; i < d->out.nr_out; i++) {
		const struct iovec *v = &d->out.iov[i];
		size_t n;

		if (off >= v->iov_len) {
			off -= v->iov_len;
			continue;
		}
		n = MIN(v->iov_len - off, *turn);
		if (!n)
			return false;
		/* What the other end does not take is lost and counted there. */
		(void)console_write(d->console, (char *)v->iov_base + off, n);
		*turn -= n;
		d->written += n;
		if (off + n < v->iov_len)
			return false;
		off = 0;
	}
	return true;
}

static void tx_handle(struct console_dev *d, struct virtq *q)
{
	size_t turn = TURN_MAX;
	int r = 0;

	virtq_disable_kicks(q);
	do {
		while (turn) {
			if (!d->writing) {
				r = virtq_pop(q, &d->out);
				if (r <= 0)
					break;
				d->writing = true;
				d->written = 0;
			}
			if (!write_some(d, &turn))
				continue;
			virtq_push(q, d->out.head, 0);
			d->writing = false;
			turn -= MIN(turn, 64); /* empty ones are not free either */
		}
	} while (r >= 0 && turn && virtq_enable_kicks(q));
	virtq_flush(q);
	if (r < 0)
		virtio_fail(&d->v, "transmit queue: malformed descriptors");
	else if (!turn)
		(void)notifier_signal(&q->kick); /* go on after the loop's other work */
}

static void console_handle(struct virtio_dev *v, struct virtq *q)
{
	struct console_dev *d = to_console(v);

	if (q->index == TX) {
		tx_handle(d, q);
		return;
	}
	/* New buffers are of interest only when input waits for them: console_input() says so. */
	virtq_disable_kicks(q);
	console_resume(d->console);
}

/* ---- life cycle ------------------------------------------------------ */

static void console_stop_queue(struct virtio_dev *v, struct virtq *q)
{
	struct console_dev *d = to_console(v);

	/* After a pause nobody would go on with a buffer: write what one turn allows, and no more. */
	if (q->index == TX && d->writing) {
		size_t turn = TURN_MAX;

		(void)write_some(d, &turn);
		virtq_push(q, d->out.head, 0);
		d->writing = false;
	}
	virtq_flush(q);
}

static void console_config_read(struct virtio_dev *v, unsigned off, void *data, unsigned len)
{
	struct virtio_console_config c = { .max_nr_ports = 1 };
	unsigned columns, rows;

	console_get_size(to_console(v)->console, &columns, &rows);
	c.cols = (uint16_t)MIN(columns, UINT16_MAX);
	c.rows = (uint16_t)MIN(rows, UINT16_MAX);
	memcpy(data, (char *)&c + off, len);
}

/* "Emergency write": a character without any queue, even before the driver is set up. */
static void console_config_write(struct virtio_dev *v, unsigned off, const void *data, unsigned len)
{
	if (off == offsetof(struct virtio_console_config, emerg_wr) && len >= 1)
		(void)console_write(to_console(v)->console, data, 1);
}

static void console_dev_destroy(struct virtio_dev *v)
{
	struct console_dev *d = to_console(v);

	console_set_client(d->console, NULL);
	virtio_dev_fini(v);
	free(d);
}

static const struct virtio_ops console_ops = {
	.type = "virtio-console",
	.id = VIRTIO_ID_CONSOLE,
	.config_read = console_config_read,
	.config_write = console_config_write,
	.stop_queue = console_stop_queue,
	.handle = console_handle,
	.destroy = console_dev_destroy,
};

int virtio_console_create(struct machine *m, struct pci_bus *bus, const char *name,
			  const struct console_config *c, struct err *e)
{
	struct console_dev *d = calloc(1, sizeof(*d));
	struct console_client client;
	int r;

	if (!d)
		return err_set(e, -ENOMEM, "%s: no memory", name);
	d->console = c->console;
	d->out.iov = d->out_iov;
	d->out.iov_max = ARRAY_SIZE(d->out_iov);
	r = virtio_dev_init(&d->v, m, &console_ops, 2, QUEUE_SIZE,
			    sizeof(struct virtio_console_config), &c->o);
	if (r) {
		free(d);
		return err_set(e, r, "%s: %s", name, strerror(-r));
	}
	d->v.offered = BIT_ULL(VIRTIO_CONSOLE_F_SIZE) | BIT_ULL(VIRTIO_CONSOLE_F_EMERG_WRITE);
	r = virtio_pci_create(&d->v, bus, name, e);
	if (r) {
		virtio_dev_fini(&d->v);
		free(d);
		return r;
	}
	client = (struct console_client){
		.input = console_input, .resized = console_size_changed, .arg = d,
	};
	console_set_client(d->console, &client);
	return 0;
}
