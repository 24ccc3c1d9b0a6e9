/* SPDX-License-Identifier: MIT
 *
 * engine/gmem: guest memory by linear address, for C. RAM within one page is used
 * in place; what crosses a page, is MMIO or holds translated code goes through a
 * bounce buffer. Accesses to the outside are kept for the re-execution of the
 * instruction (docs/ENGINE.md, "Bounce executor").
 */
#include "engine/engine_priv.h"

static int outside(struct engine_vcpu *v, uint8_t space, struct engine_access *a)
{
	int r;

	if (a->write && v->ops->ring && v->ops->ring(v->cpu, space, a))
		return 0;
	fpu_put(v);
	guest_leave(v);
	r = space ? v->ops->io(v->cpu, a) : v->ops->mmio(v->cpu, a);
	guest_enter(v);
	v->epoch++;
	return r;
}

int replay_access(struct engine_vcpu *v, uint8_t space, uint64_t addr, unsigned int len, bool write,
		  uint64_t *data)
{
	struct engine_access a = {.addr = addr, .len = (uint8_t)len, .write = write,
				  .data = write ? *data : 0};
	struct replay *p;
	int r;

	if (v->replay_i < v->replay_n) {
		/* done by an earlier attempt at this instruction */
		p = &v->replay[v->replay_i++];
		if (!write)
			*data = p->data;
		return X_NEXT;
	}
	if (v->replay_n >= REPLAY_MAX)
		return raise_gp(v, 0); /* no instruction makes so many */
	r = outside(v, space, &a);
	p = &v->replay[v->replay_n++];
	*p = (struct replay){.addr = addr, .len = (uint8_t)len, .space = space, .write = write};
	if (r) {
		v->replay_wait = true;
		v->exit->reason = space ? ENGINE_EXIT_IO : ENGINE_EXIT_MMIO;
		v->exit->access = a;
		v->exit->units = space == 1 && !write ? MAX(v->ins.want, 1u) : 1;
		v->exit->more = NULL;
		return X_EXIT;
	}
	v->replay_i++;
	p->data = a.data;
	if (!write)
		*data = a.data;
	return X_NEXT;
}

int io_access(struct engine_vcpu *v, uint16_t port, unsigned int len, bool write, uint64_t *data)
{
	debug_port(v, port, len);
	return replay_access(v, 1, port, len, write, data);
}

/* MMIO in pieces of eight bytes and what is left, as KVM has it: three bytes are one piece. */
static int mmio_copy(struct engine_vcpu *v, gpa_t gpa, uint8_t *p, unsigned int n, bool write)
{
	while (n) {
		unsigned int len = n < 8 ? n : 8;
		uint64_t d = 0;
		int r;

		if (write)
			bytes_copy(&d, p, len);
		r = replay_access(v, 0, gpa, len, write, &d);
		if (r)
			return r;
		if (!write)
			bytes_copy(p, &d, len);
		p += len;
		gpa += len;
		n -= len;
	}
	return X_NEXT;
}

/* Accesses are of one piece where the processor's would be, aligned or not. */
static void ram_store(uint8_t *d, const uint8_t *s, unsigned int n)
{
	uint64_t x = 0;

	if (n > 8 || (n & (n - 1))) {
		bytes_copy(d, s, n);
		return;
	}
	bytes_copy(&x, s, n);
	switch (n) {
	case 1:
		__asm__ volatile("movb %b1, %0" : "=m"(*d) : "q"(x));
		break;
	case 2:
		__asm__ volatile("movw %w1, %0" : "=m"(*(uint8_t(*)[2])d) : "r"(x));
		break;
	case 4:
		__asm__ volatile("movl %k1, %0" : "=m"(*(uint8_t(*)[4])d) : "r"(x));
		break;
	default:
		__asm__ volatile("movq %1, %0" : "=m"(*(uint8_t(*)[8])d) : "r"(x));
	}
}

static void ram_load(uint8_t *d, const uint8_t *s, unsigned int n)
{
	uint64_t x = 0;

	switch (n) {
	case 1:
		*d = *(const volatile uint8_t *)s;
		return;
	case 2:
		__asm__ volatile("movw %1, %w0" : "=r"(x) : "m"(*(const uint8_t(*)[2])s));
		break;
	case 4:
		__asm__ volatile("movl %1, %k0" : "=r"(x) : "m"(*(const uint8_t(*)[4])s));
		break;
	case 8:
		__asm__ volatile("movq %1, %0" : "=r"(x) : "m"(*(const uint8_t(*)[8])s));
		break;
	default:
		bytes_copy(d, s, n);
		return;
	}
	bytes_copy(d, &x, n);
}

static int piece_read(struct engine_vcpu *v, struct pageref *r, uint8_t *p, unsigned int n)
{
	const uint8_t *from = r->host ? r->host : r->rom;

	if (!from)
		return mmio_copy(v, r->gpa, p, n, false);
	ram_load(p, from, n);
	return X_NEXT;
}

static int piece_write(struct engine_vcpu *v, struct pageref *r, const uint8_t *p, unsigned int n)
{
	if (!r->host)
		return mmio_copy(v, r->gpa, (uint8_t *)p, n, true);
	ram_store(r->host, p, n);
	if (r->slot)
		page_code_written(v, r->slot, r->gpa, n);
	return X_NEXT;
}

static int piece_get(struct engine_vcpu *v, struct mref *m, unsigned int i)
{
	uint64_t lin = i ? m->lin + m->split : m->lin;

	return page_get(v, is_long(v) || !i ? lin : lin & 0xffffffffu, m->write, m->mode, &m->pg[i]);
}

/* Both pages, or those of them that there are. */
static int pieces_get(struct engine_vcpu *v, struct mref *m)
{
	int r = piece_get(v, m, 0);

	m->epoch = v->epoch;
	return r || m->split == m->size ? r : piece_get(v, m, 1);
}

/* If an op has run since, the memory map may be another. */
static int pieces_renew(struct engine_vcpu *v, struct mref *m)
{
	return m->epoch == v->epoch ? X_NEXT : pieces_get(v, m);
}

int gmem_open(struct engine_vcpu *v, struct mref *m, uint64_t lin, unsigned int size, bool read,
	     bool write, enum tlb_mode mode, int which)
{
	unsigned int room = 4096 - (unsigned int)(lin & 4095);
	uint8_t *buf;
	int r;

	m->lin = lin;
	m->mode = (uint8_t)mode;
	m->size = (uint16_t)size;
	m->write = write;
	m->bounced = false;
	m->split = (uint16_t)(size <= room ? size : room);
	r = pieces_get(v, m);
	if (r)
		return r;
	if (size <= room && m->pg[0].host) {
		m->ptr = m->pg[0].host;
		return X_NEXT;
	}
	/* same alignment, so that alignment faults stay */
	buf = v->bounce_buf[which] + (lin & 63);
	m->ptr = buf;
	m->bounced = true;
	if (!read)
		return X_NEXT;
	r = piece_read(v, &m->pg[0], buf, m->split);
	if (r || m->split == size)
		return r;
	r = pieces_renew(v, m);
	return r ? r : piece_read(v, &m->pg[1], buf + m->split, size - m->split);
}

int gmem_close(struct engine_vcpu *v, struct mref *m)
{
	int r;

	if (!m->write)
		return X_NEXT;
	if (!m->bounced) {
		if (m->pg[0].slot)
			page_code_written(v, m->pg[0].slot, m->pg[0].gpa, m->size);
		return X_NEXT;
	}
	r = pieces_renew(v, m);
	if (!r)
		r = piece_write(v, &m->pg[0], m->ptr, m->split);
	if (r || m->split == m->size)
		return r;
	r = pieces_renew(v, m);
	return r ? r : piece_write(v, &m->pg[1], (uint8_t *)m->ptr + m->split, m->size - m->split);
}

/* Any length, page by page; checks all before the first byte is moved. */
static int gmem_copy(struct engine_vcpu *v, uint64_t lin, uint8_t *p, unsigned int n,
		    enum tlb_mode mode, bool write)
{
	struct pageref ref;
	int r;

	if (((lin & 4095) + n) > 4096) {
		r = gmem_check(v, lin, n, write, mode);
		if (r)
			return r;
	}
	while (n) {
		unsigned int room = 4096 - (unsigned int)(lin & 4095), k = n < room ? n : room;

		r = page_get(v, lin, write, mode, &ref);
		if (!r)
			r = write ? piece_write(v, &ref, p, k) : piece_read(v, &ref, p, k);
		if (r)
			return r;
		lin += k;
		p += k;
		n -= k;
		if (!is_long(v))
			lin &= 0xffffffffu;
	}
	return X_NEXT;
}

/* The bytes themselves, if the table says that they are RAM of one page and free to use. */
static uint8_t *direct(const struct engine_vcpu *v, uint64_t lin, unsigned int n, enum tlb_mode mode, int w)
{
	const struct tlb_entry *t = &v->tlb[mode][w][(lin >> 12) & (TLB_WAY - 1)];

	return t->tag == page_tag(lin) && (lin & 4095) + n <= 4096 ?
		       (uint8_t *)(lin + t->addend) : NULL;
}

int gmem_read(struct engine_vcpu *v, uint64_t lin, void *p, unsigned int n, enum tlb_mode mode)
{
	const uint8_t *host = direct(v, lin, n, mode, TLB_R);

	if (host) {
		ram_load(p, host, n);
		return X_NEXT;
	}
	return gmem_copy(v, lin, p, n, mode, false);
}

int gmem_write(struct engine_vcpu *v, uint64_t lin, const void *p, unsigned int n, enum tlb_mode mode)
{
	uint8_t *host = direct(v, lin, n, mode, TLB_W);

	if (host) {
		ram_store(host, p, n);
		return X_NEXT;
	}
	return gmem_copy(v, lin, (uint8_t *)p, n, mode, true);
}

int gmem_check(struct engine_vcpu *v, uint64_t lin, unsigned int n, bool write, enum tlb_mode mode)
{
	struct pageref ref;
	uint64_t end = lin + n - 1;
	int r = page_get(v, lin, write, mode, &ref);

	for (uint64_t p = (lin & PAGE_MASK_) + 4096; !r && p <= end && end >= lin; p += 4096)
		r = page_get(v, is_long(v) ? p : p & 0xffffffffu, write, mode, &ref);
	return r;
}
