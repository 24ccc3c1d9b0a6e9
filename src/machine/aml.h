/* SPDX-License-Identifier: MIT
 * A writer of AML (ACPI 6.4 "ACPI Machine Language (AML) Specification"). AML
 * is prefix code, so terms are written in the order they are read; constructs
 * with a PkgLength are opened and closed and the length is put in at the close.
 * Errors stick: look at aml_finish() once at the end.
 */
#ifndef BELFRY_MACHINE_AML_H
#define BELFRY_MACHINE_AML_H

#include "base/base.h"

#define AML_MAX_DEPTH 8

struct aml {
	uint8_t *buf;
	size_t len, cap;
	size_t open[AML_MAX_DEPTH]; /* where the length of each open construct belongs */
	unsigned depth;
	int error;
};

/* One-byte opcodes that aml_byte() may write between terms. */
enum aml_op {
	AML_ZERO = 0x00, AML_ONE = 0x01, AML_LOCAL0 = 0x60,
	AML_ARG0 = 0x68, AML_ARG1 = 0x69, AML_ARG3 = 0x6b,
	AML_STORE = 0x70, AML_AND = 0x7b, AML_OR = 0x7d,
	AML_CREATE_DWORD_FIELD = 0x8a, AML_LNOT = 0x92, AML_LEQUAL = 0x93, AML_RETURN = 0xa4,
};

void aml_init(struct aml *a);
void aml_free(struct aml *a);
/* 0; -ENOMEM; -EINVAL if something is still open or a name was bad. */
int aml_finish(const struct aml *a) __must_check;

void aml_byte(struct aml *a, uint8_t v);
void aml_bytes(struct aml *a, const void *p, size_t len);
/* Shortest form that holds v. */
void aml_integer(struct aml *a, uint64_t v);
void aml_string(struct aml *a, const char *s);
/* "\\_SB_.PCI0": a root prefix and segments of exactly 4 characters. */
void aml_path(struct aml *a, const char *path);
/* Compressed EISA ID such as "PNP0501". */
void aml_eisaid(struct aml *a, const char *id);
/* BufferOp of len bytes. */
void aml_buffer(struct aml *a, const void *p, size_t len);

/* Name (path, the next term). */
void aml_name(struct aml *a, const char *path);
void aml_name_integer(struct aml *a, const char *path, uint64_t v);
void aml_name_eisaid(struct aml *a, const char *path, const char *id);

/* Each is ended by aml_close(). */
void aml_scope(struct aml *a, const char *path);
void aml_device(struct aml *a, const char *path);
void aml_method(struct aml *a, const char *path, unsigned args, bool serialized);
void aml_package(struct aml *a, unsigned elements);
void aml_if(struct aml *a);
void aml_else(struct aml *a);
void aml_close(struct aml *a);

/* ---- resource templates ("Resource Data Types for ACPI") ---------------- */

struct aml_resources {
	uint8_t buf[256];
	size_t len;
	int error;
};

void res_io(struct aml_resources *r, uint16_t base, uint8_t len);
/* Edge, active high, not shared. */
void res_irq(struct aml_resources *r, unsigned irq);
void res_memory32(struct aml_resources *r, uint32_t base, uint32_t len);
/* Windows that a bridge produces. */
void res_bus_window(struct aml_resources *r, uint16_t first, uint16_t last);
void res_io_window(struct aml_resources *r, uint16_t base, uint32_t len);
void res_memory32_window(struct aml_resources *r, uint32_t base, uint32_t len);
void res_memory64_window(struct aml_resources *r, uint64_t base, uint64_t len);
/* Name (path, ResourceTemplate). */
void aml_name_resources(struct aml *a, const char *path, struct aml_resources *r);

#endif
