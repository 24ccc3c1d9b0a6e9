/* SPDX-License-Identifier: MIT
 * virtio-blk, -net and -rng over PCI, modern and legacy: any sequence of register
 * accesses, ring contents, kicks, turns of the machine's loop, pauses and resets.
 * Whatever was done to it, after a reset the device serves an honest driver.
 */
#include "fuzz.h"
#include "virtio_driver.h"
#include "backend/net_priv.h"
#include "virtio/devices.h"
#include <linux/virtio_blk.h>
#include <linux/virtio_net.h>
#include <linux/virtio_pci.h>
#include <sys/mman.h>
#include <unistd.h>

#define MEM   (4u << 20)
#define SLOT  1
#define QUEUES 2
#define SIZE  16
#define IMAGE (64u << 10)

enum kind { BLK, NET, RNG };

/* A network that swallows what it is sent, and gives frames when the input says so. */
struct wire {
	struct net net;
	unsigned sent;
	int answer;
};

static int wire_send(struct net *n, const struct iovec *iov, int nr, size_t len)
{
	struct wire *w = container_of(n, struct wire, net);
	static uint8_t frame[NET_MAX_FRAME];
	size_t at = 0;

	FUZZ_CHECK(len <= sizeof(frame) && len >= NET_MIN_FRAME, "a frame of %zu bytes", len);
	for (int i = 0; i < nr; at += iov[i++].iov_len)
		memcpy(frame + at, iov[i].iov_base, iov[i].iov_len);
	FUZZ_CHECK(at == len, "%zu bytes of %zu", at, len);
	w->sent++;
	return w->answer;
}

static void wire_nothing(struct net *n)
{
}

static const struct net_ops wire_ops = {
	.send = wire_send, .resume = wire_nothing, .flush = wire_nothing, .destroy = wire_nothing,
};

static int wire_create(struct net **out, struct loop *l, void *arg, struct err *e)
{
	struct wire *w = arg;

	*w = (struct wire){ .net = { .ops = &wire_ops, .loop = l } };
	*out = &w->net;
	return 0;
}

struct bed {
	enum kind kind;
	bool transitional;
	struct pci_guest *g;
	struct virtio_driver d;
	struct wire w;
	int image;
	uint16_t ports;
};

static void create(struct bed *b, uint8_t bits)
{
	struct virtio_options o = {
		.notify = bits & 8 ? NOTIFY_EXIT : NOTIFY_IOEVENTFD,
		.inject = bits & 16 ? INJECT_MSI : INJECT_AUTO,
		.transitional = b->transitional,
	};
	struct net_config nc = { .create = wire_create, .arg = &b->w, .o = o,
				 .mac = { 0x52, 0x54, 0, 1, 2, 3 } };
	struct rng_config rc = { .o = o };
	struct blk_config bc = { .queues = QUEUES, .o = o };
	struct block_config image;
	struct err e = { "" };
	char path[40];
	int r;

	switch (b->kind) {
	case BLK:
		b->image = memfd_create("image", MFD_CLOEXEC);
		if (b->image < 0 || ftruncate(b->image, IMAGE) < 0)
			abort();
		snprintf(path, sizeof(path), "/proc/self/fd/%d", b->image);
		image = (struct block_config){ .path = path, .readonly = bits & 32 };
		r = block_open(&bc.block, &image, &e);
		if (!r)
			r = virtio_blk_create(b->g->m, b->g->bus, "disk0", &bc, &e);
		break;
	case NET:
		r = virtio_net_create(b->g->m, b->g->bus, "net0", &nc, &e);
		break;
	default:
		r = virtio_rng_create(b->g->m, b->g->bus, "rng0", &rc, &e);
	}
	FUZZ_CHECK(!r, "%s", e.text);
}

static void start(struct bed *b, bool legacy, uint64_t features)
{
	unsigned nr = b->kind == RNG ? 1 : QUEUES;

	driver_open(&b->d, b->g, SLOT);
	if (legacy)
		driver_start_legacy(&b->d, (uint32_t)features, nr);
	else
		driver_start(&b->d, features, nr, SIZE);
}

/* ---- what an unruly driver does ------------------------------------------- */

static gpa_t some_address(struct feed *f)
{
	uint8_t v = feed_u8(f);

	if (v < 200)
		return (2u << 20) + v * 512u;
	return v < 220 ? feed_u32(f) % (MEM + 4096) : feed_u64(f);
}

static void chain(struct bed *b, struct feed *f)
{
	struct driver_queue *q = &b->d.q[feed_below(f, QUEUES)];
	unsigned nr = 1 + feed_below(f, 6), ins = feed_below(f, nr + 1);
	struct vring_desc d;
	gpa_t header = (3u << 20) + feed_u8(f) * 64u;
	uint8_t head[32] = { 0 };
	uint16_t idx;

	if (!q->size)
		return;
	/* A header that makes sense, mostly: type, sector; flags, sizes. */
	head[0] = feed_u8(f) & 15;
	head[8] = feed_u8(f) & 0x7f;
	feed_bytes(f, head + 16, feed_u8(f) & 15);
	(void)!ram_write(&b->g->m->ram, header, head, sizeof(head));
	idx = q->next_desc % q->size;
	for (unsigned i = 0; i < nr; i++) {
		uint8_t odd = feed_u8(f);
		uint16_t at = q->next_desc++ % q->size;

		d = (struct vring_desc){
			.addr = i ? some_address(f) : header,
			.len = i == nr - 1 && ins ? (odd & 7 ? 1 : 512) :
			       !i ? (b->kind == BLK ? 16 : 12 + (odd & 15)) : (uint32_t)odd << (odd & 7),
			.flags = (uint16_t)((i >= nr - ins ? VRING_DESC_F_WRITE : 0) |
					    (i + 1 < nr ? VRING_DESC_F_NEXT : 0)),
			.next = (uint16_t)((at + 1) % q->size),
		};
		if (odd == 0xff) {
			d.flags ^= feed_u8(f) & 7;
			d.len = feed_u32(f);
			d.next = feed_u16(f);
		}
		(void)!ram_write(&b->g->m->ram, q->desc + 16ull * at, &d, sizeof(d));
	}
	(void)!ram_write(&b->g->m->ram, q->driver + 4 + 2ull * (q->avail % q->size), &idx, 2);
	q->avail += feed_u8(f) == 0xff ? feed_u16(f) : 1;
	(void)!ram_write(&b->g->m->ram, q->driver + 2, &q->avail, 2);
	if (feed_u8(f) & 3)
		driver_kick(&b->d, (unsigned)(q - b->d.q));
}

static void registers(struct bed *b, struct feed *f)
{
	uint64_t bar = feed_u8(f) & 1 ? b->d.common : b->d.device ? b->d.device : b->d.common;
	unsigned off = feed_below(f, 0x48), len = 1 + feed_below(f, 8);

	switch (feed_below(f, 10)) {
	case 0:
	case 1:
		mem_write(b->g, b->d.common + off, feed_u16(f) & 0x7fff, len);
		break;
	case 2:
		mem_write(b->g, bar + off, feed_u64(f), len);
		break;
	case 3:
		(void)mem_read(b->g, bar + off, len);
		break;
	case 4:
		mem_write(b->g, b->d.common + VIRTIO_PCI_COMMON_STATUS, feed_u8(f) & 0xcf, 1);
		break;
	case 5:
		mem_write(b->g, b->d.notify + feed_below(f, 32), feed_u16(f), len);
		break;
	case 6:
		/* Whatever follows: any place of the modern BAR, 16 KiB from the common registers on. */
		mem_write(b->g, b->d.common + feed_u16(f) % 0x4000, feed_u8(f), len);
		(void)mem_read(b->g, b->d.common + feed_u16(f) % 0x4000, len);
		break;
	case 7:
		if (!b->ports)
			break;
		port_write(b->g, (uint16_t)(b->ports + off % 0x30), feed_u32(f) & 0xfff, len);
		(void)port_read(b->g, (uint16_t)(b->ports + off % 0x30), len);
		break;
	case 8: /* the window in config space */
		off = cfg_cap(b->g, SLOT, PCI_CAP_ID_VNDR, 4);
		if (off)
			cfg_write(b->g, SLOT, off + 4 + feed_below(f, 16), feed_u16(f), feed_len(f, 4));
		break;
	default: /* MSI-X on and off, and its table */
		off = cfg_cap(b->g, SLOT, PCI_CAP_ID_MSIX, 0);
		cfg_write(b->g, SLOT, off + 2, feed_u8(f) << 8, 2);
		mem_write(b->g, cfg_bar(b->g, SLOT, cfg_read(b->g, SLOT, off + 4, 4) & 7) +
			  feed_u8(f) * 4u, feed_u32(f), 4);
	}
}

static void lie(struct bed *b, struct feed *f)
{
	const struct driver_queue *q = &b->d.q[feed_below(f, QUEUES)];
	uint8_t bytes[16];
	gpa_t at = feed_u8(f) & 1 ? q->desc + feed_u8(f) : q->driver + feed_below(f, 48);

	feed_bytes(f, bytes, sizeof(bytes));
	(void)!ram_write(&b->g->m->ram, at, bytes, 1 + feed_below(f, 16));
}

static void pause_resume(struct bed *b)
{
	struct device *d;

	for (d = b->g->m->devices; d; d = d->next)
		if (d->ops->pause)
			d->ops->pause(d);
	for (d = b->g->m->devices; d; d = d->next)
		if (d->ops->resume)
			d->ops->resume(d);
}

static void step(struct bed *b, struct feed *f)
{
	uint8_t frame[1600];

	switch (feed_below(f, 12)) {
	case 0:
	case 1:
		registers(b, f);
		break;
	case 2:
	case 3:
	case 4:
	case 5:
		chain(b, f);
		break;
	case 6:
		lie(b, f);
		break;
	case 7:
	case 8:
		driver_step(&b->d);
		(void)fake_kvm_serve(&b->g->k);
		break;
	case 9:
		if (b->kind != NET)
			break;
		memset(frame, feed_u8(f), sizeof(frame));
		b->w.answer = feed_u8(f) & 1 ? -EAGAIN : 0;
		(void)net_deliver(&b->w.net, frame, 14 + feed_below(f, 1500));
		break;
	case 10:
		pause_resume(b);
		break;
	default:
		/* Started anew; or the machine's own reset. */
		if (feed_u8(f) & 1)
			start(b, b->transitional && feed_u8(f) & 1, feed_u64(f));
		else
			for (struct device *d = b->g->m->devices; d; d = d->next)
				if (d->ops->reset)
					d->ops->reset(d);
		cfg_write(b->g, SLOT, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY |
			  PCI_COMMAND_MASTER, 2);
	}
}

/* ---- and an honest one afterwards -------------------------------------------- */

static void serve_honestly(struct bed *b)
{
	struct segment s[3];
	gpa_t at;
	unsigned queue = 0, nr = 0, sent;

	cfg_write(b->g, SLOT, cfg_cap(b->g, SLOT, PCI_CAP_ID_MSIX, 0) + 2, 0, 2);
	start(b, false, b->kind == NET ? 0 : UINT64_MAX);
	at = driver_alloc(&b->d, 8192);
	memset(driver_mem(&b->d, at, 8192), 0, 8192);
	b->w.answer = 0;
	sent = b->w.sent;
	switch (b->kind) {
	case BLK: /* VIRTIO_BLK_T_IN of sector 0 */
		s[nr++] = (struct segment){ at, 16, false };
		s[nr++] = (struct segment){ at + 512, 512, true };
		s[nr++] = (struct segment){ at + 2048, 1, true };
		*(uint8_t *)driver_mem(&b->d, at + 2048, 1) = 0xee;
		break;
	case NET:
		queue = 1;
		s[nr++] = (struct segment){ at, sizeof(struct virtio_net_hdr_mrg_rxbuf) + 60, false };
		break;
	default:
		s[nr++] = (struct segment){ at, 64, true };
	}
	(void)driver_add(&b->d, queue, s, nr);
	driver_kick(&b->d, queue);
	FUZZ_CHECK(driver_wait(&b->d, queue, 1), "the device does not answer after a reset");
	if (b->kind == BLK)
		FUZZ_CHECK(!*(uint8_t *)driver_mem(&b->d, at + 2048, 1), "status %u",
			   *(uint8_t *)driver_mem(&b->d, at + 2048, 1));
	if (b->kind == NET)
		FUZZ_CHECK(b->w.sent == sent + 1, "%u frames sent", b->w.sent - sent);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct feed f = { data, size };
	uint8_t bits = feed_u8(&f);
	struct bed b = { .kind = (enum kind)(bits % 3), .image = -1 };

	b.transitional = bits & 64;
	b.g = pci_guest_create(MEM);
	create(&b, bits);
	start(&b, b.transitional && bits & 4, feed_u64(&f));
	b.ports = b.transitional ? (uint16_t)cfg_bar(b.g, SLOT, 0) : 0;
	while (f.left)
		step(&b, &f);
	serve_honestly(&b);
	pci_guest_destroy(b.g);
	if (b.image >= 0)
		close(b.image);
	return 0;
}
