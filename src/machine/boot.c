/* SPDX-License-Identifier: MIT
 * Direct boot: what both kinds of kernels share.
 */
#include "machine/boot_priv.h"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- files ------------------------------------------------------------ */

static int image_open(struct image *img, const char *what, const char *path, struct err *e)
{
	struct stat st;
	int r;

	img->path = strdup(path);
	if (!img->path)
		return err_set(e, -ENOMEM, "no memory to open the %s", what);
	/* Do not hang on a FIFO that nobody writes to. */
	img->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (img->fd < 0) {
		r = -errno;
		return err_set(e, r, "cannot open the %s %s: %s; check the path and its permissions",
			       what, path, strerror(-r));
	}
	if (fstat(img->fd, &st) < 0) {
		r = -errno;
		return err_set(e, r, "cannot look at the %s %s: %s", what, path, strerror(-r));
	}
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "the %s %s is not a regular file; give an image file",
			       what, path);
	if (st.st_size <= 0)
		return err_set(e, -EINVAL, "the %s %s is empty; build or fetch it again", what, path);
	img->size = (uint64_t)st.st_size;
	return 0;
}

static void image_close(struct image *img)
{
	if (img->fd >= 0)
		close(img->fd);
	free((char *)img->path);
}

int image_read(const struct image *img, uint64_t off, void *buf, uint64_t len, struct err *e)
{
	uint8_t *p = buf;

	if (off > INT64_MAX || len > INT64_MAX - off)
		return err_set(e, -EINVAL, "%s is damaged: it points outside of itself", img->path);
	while (len) {
		ssize_t n = pread(img->fd, p, MIN(len, 1ull << 30), (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int r = -errno;

			return err_set(e, r, "cannot read %s: %s", img->path, strerror(-r));
		}
		if (!n)
			return err_set(e, -EINVAL,
				       "%s is truncated: %llu bytes are missing; fetch it again",
				       img->path, (unsigned long long)len);
		p += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

/* ---- what goes into memory ---------------------------------------------- */

unsigned boot_memory_map(const struct ram *ram, struct boot_range *out)
{
	uint64_t low = ram->low_size, high = ram_high_end(ram);
	unsigned n = 0;

	out[n++] = (struct boot_range){ 0, MIN(low, LAYOUT_EBDA), BOOT_RAM };
	out[n++] = (struct boot_range){ LAYOUT_EBDA, 0xa0000 - LAYOUT_EBDA, BOOT_RESERVED };
	out[n++] = (struct boot_range){ LAYOUT_RSDP, LAYOUT_ACPI_SIZE, BOOT_RESERVED };
	if (low > LAYOUT_KERNEL)
		out[n++] = (struct boot_range){ LAYOUT_KERNEL, low - LAYOUT_KERNEL, BOOT_RAM };
	out[n++] = (struct boot_range){ LAYOUT_ECAM, LAYOUT_ECAM_SIZE, BOOT_RESERVED };
	out[n++] = (struct boot_range){ LAYOUT_IDENTITY_MAP, 4 * 4096, BOOT_RESERVED };
	if (high > LAYOUT_RAM_HIGH)
		out[n++] = (struct boot_range){ LAYOUT_RAM_HIGH, high - LAYOUT_RAM_HIGH, BOOT_RAM };
	return n;
}

int boot_load_initrd(const struct boot *b, struct machine *m, uint64_t floor, uint64_t limit,
		     gpa_t *gpa, struct err *e)
{
	uint64_t size = b->initrd.size, top = align_down(MIN(m->ram.low_size, limit), 4096);

	if (size > top || align_down(top - size, 4096) < floor)
		return err_set(e, -ENOSPC,
			       "the initrd %s (%llu MiB) does not fit between the kernel's end at %llu MiB and %llu MiB; give the machine more memory or a smaller initrd",
			       b->initrd.path, (unsigned long long)(size >> 20) + 1,
			       (unsigned long long)(floor >> 20), (unsigned long long)(top >> 20));
	*gpa = align_down(top - size, 4096);
	return image_read(&b->initrd, 0, ram_ptr(&m->ram, *gpa, size), size, e);
}

int boot_load_cmdline(const struct boot *b, struct machine *m, struct err *e)
{
	int r = ram_write(&m->ram, LAYOUT_CMDLINE, b->cmdline, strlen(b->cmdline) + 1);

	return r ? err_set(e, r, "no room for the command line; give the machine more memory") : 0;
}

struct kvm_segment boot_segment(uint16_t selector, bool code, bool long_mode)
{
	return (struct kvm_segment){
		.base = 0, .limit = 0xffffffff, .selector = selector,
		.type = code ? 0xb : 0x3, /* accessed; execute-read or read-write */
		.present = 1, .s = 1, .g = 1, .l = code && long_mode, .db = !(code && long_mode),
	};
}

int boot_set_cpu(struct machine *m, const struct kvm_sregs *s, const struct kvm_regs *regs,
		 struct err *e)
{
	struct vcpu *v = &m->cpus[0].vcpu;
	int r = vcpu_set_sregs(v, s);

	if (!r)
		r = vcpu_set_regs(v, regs);
	return r ? err_set(e, r, "cannot set the registers of vCPU 0: %s", strerror(-r)) : 0;
}

/* ---- life cycle ---------------------------------------------------------- */

/* Room for whichever kind the file is. */
struct kernel {
	enum { KERNEL_LINUX, KERNEL_PVH } kind;
	union {
		struct linux_kernel linux_kernel;
		struct pvh_kernel pvh;
	};
};

static int kernel_check(struct kernel *k, const struct boot *b, struct err *e)
{
	if (pvh_probe(&b->kernel)) {
		k->kind = KERNEL_PVH;
		return pvh_check(&k->pvh, &b->kernel, e);
	}
	if (linux_probe(&b->kernel)) {
		k->kind = KERNEL_LINUX;
		return linux_check(&k->linux_kernel, &b->kernel, e);
	}
	return err_set(e, -EINVAL,
		       "the kernel %s is neither a bzImage nor an ELF file; give a vmlinuz or an uncompressed vmlinux",
		       b->kernel.path);
}

static int check_cmdline(const struct kernel *k, const struct boot *b, struct err *e)
{
	size_t len = strlen(b->cmdline), max = BOOT_CMDLINE_MAX;

	if (k->kind == KERNEL_LINUX)
		max = MIN(max, k->linux_kernel.header.cmdline_size);
	if (len > max)
		return err_set(e, -E2BIG,
			       "the command line has %zu characters, the kernel %s takes %zu; shorten it",
			       len, b->kernel.path, max);
	return 0;
}

int boot_open(struct boot **out, const struct boot_config *c, struct err *e)
{
	struct boot *b = calloc(1, sizeof(*b));
	struct kernel *k = calloc(1, sizeof(*k));
	int r;

	if (!b || !k) {
		free(b);
		free(k);
		return err_set(e, -ENOMEM, "no memory to open the kernel");
	}
	b->kernel.fd = b->initrd.fd = -1;
	b->cmdline = strdup(c->cmdline ? c->cmdline : "");
	if (!b->cmdline)
		r = err_set(e, -ENOMEM, "no memory for the command line");
	else if (!c->kernel)
		r = err_set(e, -EINVAL, "no kernel is given");
	else
		r = image_open(&b->kernel, "kernel", c->kernel, e);
	if (!r)
		r = kernel_check(k, b, e);
	if (!r)
		r = check_cmdline(k, b, e);
	if (!r && c->initrd)
		r = image_open(&b->initrd, "initrd", c->initrd, e);
	free(k);
	if (r) {
		boot_close(b);
		return r;
	}
	*out = b;
	return 0;
}

void boot_close(struct boot *b)
{
	if (!b)
		return;
	image_close(&b->kernel);
	image_close(&b->initrd);
	free(b->cmdline);
	free(b);
}

int boot_load(struct boot *b, struct machine *m, struct err *e)
{
	struct kernel *k = calloc(1, sizeof(*k));
	int r;

	if (!k)
		return err_set(e, -ENOMEM, "no memory to load the kernel");
	/* The file may have been written to since it was looked at. */
	r = kernel_check(k, b, e);
	if (!r)
		r = check_cmdline(k, b, e);
	if (!r)
		r = boot_load_cmdline(b, m, e);
	if (!r && k->kind == KERNEL_PVH)
		r = pvh_load(&k->pvh, b, m, e);
	else if (!r)
		r = linux_load(&k->linux_kernel, b, m, e);
	free(k);
	return r;
}
