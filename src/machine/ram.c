/* SPDX-License-Identifier: MIT */
#include "machine/machine.h"
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096ull

int ram_create(struct ram *r, uint64_t size, struct err *e)
{
	void *p;
	int fd, rc;

	if (!size || size % PAGE || size > (1ull << 45))
		return err_set(e, -EINVAL, "memory size %llu is not a positive multiple of 4 KiB",
			       (unsigned long long)size);
	fd = memfd_create("belfry-ram", MFD_CLOEXEC);
	if (fd < 0)
		return err_set(e, -errno, "memfd_create for guest memory: %s", strerror(errno));
	if (ftruncate(fd, (off_t)size) < 0) {
		rc = err_set(e, -errno, "cannot size guest memory to %llu MiB: %s",
			     (unsigned long long)(size >> 20), strerror(errno));
		goto close_fd;
	}
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (p == MAP_FAILED) {
		rc = err_set(e, -errno, "cannot map %llu MiB of guest memory: %s; use a smaller --mem",
			     (unsigned long long)(size >> 20), strerror(errno));
		goto close_fd;
	}
	*r = (struct ram){
		.fd = fd, .host = p, .size = size, .low_size = MIN(size, LAYOUT_RAM_LOW_MAX),
	};
	return 0;

close_fd:
	close(fd);
	return rc;
}

void ram_destroy(struct ram *r)
{
	if (!r->host)
		return;
	munmap(r->host, r->size);
	close(r->fd);
	*r = (struct ram){ .fd = -1 };
}

int ram_map(struct ram *r, struct vm *vm)
{
	int rc = vm_set_memory(vm, 0, 0, r->low_size, r->host, 0);

	if (rc || r->size == r->low_size)
		return rc;
	return vm_set_memory(vm, 1, LAYOUT_RAM_HIGH, r->size - r->low_size, r->host + r->low_size,
			     0);
}

void *ram_ptr(const struct ram *r, gpa_t gpa, uint64_t len)
{
	if (!len)
		return NULL;
	if (range_within(gpa, len, r->low_size))
		return r->host + gpa;
	if (gpa >= LAYOUT_RAM_HIGH && range_within(gpa - LAYOUT_RAM_HIGH, len, r->size - r->low_size))
		return r->host + r->low_size + (gpa - LAYOUT_RAM_HIGH);
	return NULL;
}

int ram_read(const struct ram *r, gpa_t gpa, void *buf, uint64_t len)
{
	const void *p = ram_ptr(r, gpa, len);

	if (!p)
		return len ? -EFAULT : 0;
	memcpy(buf, p, len);
	return 0;
}

int ram_write(const struct ram *r, gpa_t gpa, const void *buf, uint64_t len)
{
	void *p = ram_ptr(r, gpa, len);

	if (!p)
		return len ? -EFAULT : 0;
	memcpy(p, buf, len);
	return 0;
}

gpa_t ram_high_end(const struct ram *r)
{
	return LAYOUT_RAM_HIGH + (r->size - r->low_size);
}
