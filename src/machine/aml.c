/* SPDX-License-Identifier: MIT */
#include "machine/aml.h"
#include <stdlib.h>

#define OP_NAME       0x08
#define OP_BYTE       0x0a
#define OP_WORD       0x0b
#define OP_DWORD      0x0c
#define OP_STRING     0x0d
#define OP_QWORD      0x0e
#define OP_SCOPE      0x10
#define OP_BUFFER     0x11
#define OP_PACKAGE    0x12
#define OP_METHOD     0x14
#define OP_EXT        0x5b
#define OP_EXT_DEVICE 0x82
#define OP_DUAL_NAME  0x2e
#define OP_MULTI_NAME 0x2f
#define OP_IF         0xa0
#define OP_ELSE       0xa1

void aml_init(struct aml *a)
{
	*a = (struct aml){ 0 };
}

void aml_free(struct aml *a)
{
	free(a->buf);
	a->buf = NULL;
}

int aml_finish(const struct aml *a)
{
	if (a->error)
		return a->error;
	return a->depth ? -EINVAL : 0;
}

/* Room for len bytes at `at`, what follows moves up. NULL once something failed. */
static uint8_t *make_room(struct aml *a, size_t at, size_t len)
{
	if (a->error)
		return NULL;
	if (a->len + len > a->cap) {
		size_t cap = MAX(a->cap * 2, a->len + len + 512);
		uint8_t *p = realloc(a->buf, cap);

		if (!p) {
			a->error = -ENOMEM;
			return NULL;
		}
		a->buf = p;
		a->cap = cap;
	}
	memmove(a->buf + at + len, a->buf + at, a->len - at);
	a->len += len;
	return a->buf + at;
}

void aml_bytes(struct aml *a, const void *p, size_t len)
{
	uint8_t *to = make_room(a, a->len, len);

	if (to && len)
		memcpy(to, p, len);
}

void aml_byte(struct aml *a, uint8_t v)
{
	aml_bytes(a, &v, 1);
}

void aml_integer(struct aml *a, uint64_t v)
{
	uint8_t buf[9];

	store_le64(buf + 1, v);
	if (v <= 1) { /* ZeroOp, OneOp */
		aml_byte(a, (uint8_t)v);
	} else if (v <= UINT8_MAX) {
		buf[0] = OP_BYTE;
		aml_bytes(a, buf, 2);
	} else if (v <= UINT16_MAX) {
		buf[0] = OP_WORD;
		aml_bytes(a, buf, 3);
	} else if (v <= UINT32_MAX) {
		buf[0] = OP_DWORD;
		aml_bytes(a, buf, 5);
	} else {
		buf[0] = OP_QWORD;
		aml_bytes(a, buf, 9);
	}
}

void aml_string(struct aml *a, const char *s)
{
	aml_byte(a, OP_STRING);
	aml_bytes(a, s, strlen(s) + 1);
}

void aml_path(struct aml *a, const char *path)
{
	size_t len, segments;

	if (*path == '\\') {
		aml_byte(a, '\\');
		path++;
	}
	len = strlen(path);
	segments = (len + 1) / 5;
	if (!segments || len != segments * 5 - 1 || segments > 255) {
		a->error = -EINVAL;
		return;
	}
	if (segments == 2) {
		aml_byte(a, OP_DUAL_NAME);
	} else if (segments > 2) {
		aml_byte(a, OP_MULTI_NAME);
		aml_byte(a, (uint8_t)segments);
	}
	for (; segments; segments--, path += 5)
		aml_bytes(a, path, 4);
}

static unsigned hex_digit(char c)
{
	return c >= 'A' ? (unsigned)(c - 'A') + 10 : (unsigned)(c - '0');
}

/* Three letters of 5 bits and four hexadecimal digits, big-endian ("EISAID Macro"). */
void aml_eisaid(struct aml *a, const char *id)
{
	uint32_t v = 0;

	if (strlen(id) != 7) {
		a->error = -EINVAL;
		return;
	}
	for (int i = 0; i < 3; i++)
		v = v << 5 | ((uint32_t)(id[i] - 'A' + 1) & 31);
	for (int i = 3; i < 7; i++)
		v = v << 4 | (hex_digit(id[i]) & 15);
	aml_byte(a, OP_DWORD);
	v = __builtin_bswap32(v);
	aml_bytes(a, &v, sizeof(v));
}

void aml_name(struct aml *a, const char *path)
{
	aml_byte(a, OP_NAME);
	aml_path(a, path);
}

void aml_name_integer(struct aml *a, const char *path, uint64_t v)
{
	aml_name(a, path);
	aml_integer(a, v);
}

void aml_name_eisaid(struct aml *a, const char *path, const char *id)
{
	aml_name(a, path);
	aml_eisaid(a, id);
}

static void open_package(struct aml *a)
{
	if (a->depth == AML_MAX_DEPTH)
		a->error = -EINVAL;
	else
		a->open[a->depth++] = a->len;
}

void aml_scope(struct aml *a, const char *path)
{
	aml_byte(a, OP_SCOPE);
	open_package(a);
	aml_path(a, path);
}

void aml_device(struct aml *a, const char *path)
{
	aml_byte(a, OP_EXT);
	aml_byte(a, OP_EXT_DEVICE);
	open_package(a);
	aml_path(a, path);
}

void aml_method(struct aml *a, const char *path, unsigned args, bool serialized)
{
	aml_byte(a, OP_METHOD);
	open_package(a);
	aml_path(a, path);
	aml_byte(a, (uint8_t)((args & 7) | (serialized ? BIT(3) : 0)));
}

void aml_package(struct aml *a, unsigned elements)
{
	if (elements > 255)
		a->error = -EINVAL;
	aml_byte(a, OP_PACKAGE);
	open_package(a);
	aml_byte(a, (uint8_t)elements);
}

void aml_if(struct aml *a)
{
	aml_byte(a, OP_IF);
	open_package(a);
}

void aml_else(struct aml *a)
{
	aml_byte(a, OP_ELSE);
	open_package(a);
}

/* "Package Length Encoding": the length counts its own bytes. */
void aml_close(struct aml *a)
{
	uint8_t *p, enc[4];
	size_t at, body, total;
	unsigned n;

	if (!a->depth) {
		a->error = -EINVAL;
		return;
	}
	at = a->open[--a->depth];
	if (a->error)
		return;
	body = a->len - at;
	n = body + 1 < 0x40 ? 1 : body + 2 < 0x1000 ? 2 : body + 3 < 0x100000 ? 3 : 4;
	total = body + n;
	if (n == 1) {
		enc[0] = (uint8_t)total;
	} else {
		enc[0] = (uint8_t)((n - 1) << 6 | (total & 15));
		for (unsigned i = 1; i < n; i++)
			enc[i] = (uint8_t)(total >> (4 + 8 * (i - 1)));
	}
	p = make_room(a, at, n);
	if (p)
		memcpy(p, enc, n);
}

void aml_buffer(struct aml *a, const void *p, size_t len)
{
	aml_byte(a, OP_BUFFER);
	open_package(a);
	aml_integer(a, len);
	aml_bytes(a, p, len);
	aml_close(a);
}

/* ---- resource templates -------------------------------------------------- */

#define RES_END       0x79
#define RES_IO        0x47
#define RES_IRQ       0x22
#define RES_MEMORY32  0x86
#define RES_DWORD     0x87
#define RES_WORD      0x88
#define RES_QWORD     0x8a

#define RES_TYPE_MEM  0
#define RES_TYPE_IO   1
#define RES_TYPE_BUS  2
#define RES_FIXED     0x0c /* both ends fixed, producer, positive decode */

static void res_bytes(struct aml_resources *r, const void *p, size_t len)
{
	if (len > sizeof(r->buf) - r->len) {
		r->error = -ENOSPC;
		return;
	}
	memcpy(r->buf + r->len, p, len);
	r->len += len;
}

void res_io(struct aml_resources *r, uint16_t base, uint8_t len)
{
	uint8_t d[8] = { RES_IO, 1 }; /* 16-bit decode */

	store_le16(d + 2, base);
	store_le16(d + 4, base);
	d[6] = 1;
	d[7] = len;
	res_bytes(r, d, sizeof(d));
}

void res_irq(struct aml_resources *r, unsigned irq)
{
	uint8_t d[3] = { RES_IRQ };

	store_le16(d + 1, (uint16_t)BIT(irq & 15));
	res_bytes(r, d, sizeof(d));
}

void res_memory32(struct aml_resources *r, uint32_t base, uint32_t len)
{
	uint8_t d[12] = { RES_MEMORY32, 9, 0, 1 }; /* read-write */

	store_le32(d + 4, base);
	store_le32(d + 8, len);
	res_bytes(r, d, sizeof(d));
}

/* Address space descriptors differ only in the width of their five numbers. */
static void res_window(struct aml_resources *r, uint8_t tag, unsigned width, uint8_t type,
		       uint8_t type_flags, uint64_t base, uint64_t len)
{
	uint8_t d[6 + 5 * 8] = { tag };

	store_le16(d + 1, (uint16_t)(3 + 5 * width));
	d[3] = type;
	d[4] = RES_FIXED;
	d[5] = type_flags;
	store_le(d + 6 + 1 * width, base, width);
	store_le(d + 6 + 2 * width, base + len - 1, width);
	store_le(d + 6 + 4 * width, len, width);
	res_bytes(r, d, 6 + 5 * width);
}

void res_bus_window(struct aml_resources *r, uint16_t first, uint16_t last)
{
	res_window(r, RES_WORD, 2, RES_TYPE_BUS, 0, first, last - first + 1u);
}

void res_io_window(struct aml_resources *r, uint16_t base, uint32_t len)
{
	res_window(r, RES_WORD, 2, RES_TYPE_IO, 3, base, len); /* ISA and non-ISA ports */
}

void res_memory32_window(struct aml_resources *r, uint32_t base, uint32_t len)
{
	res_window(r, RES_DWORD, 4, RES_TYPE_MEM, 1, base, len); /* read-write, not cacheable */
}

void res_memory64_window(struct aml_resources *r, uint64_t base, uint64_t len)
{
	res_window(r, RES_QWORD, 8, RES_TYPE_MEM, 1, base, len);
}

void aml_name_resources(struct aml *a, const char *path, struct aml_resources *r)
{
	static const uint8_t end[2] = { RES_END, 0 }; /* checksum 0: "treated as if correct" */

	res_bytes(r, end, sizeof(end));
	if (r->error)
		a->error = r->error;
	aml_name(a, path);
	aml_buffer(a, r->buf, r->len);
}
