/* SPDX-License-Identifier: MIT */
#include "softkvm/softkvm_priv.h"
#include "softkvm/stats.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define NAME_SIZE 48u

static const char *const vm_names[NR_VM_STATS] = {
#define X(n, s) [VM_STAT_##n] = s,
	VM_STATS(X)
#undef X
};

static const char *const vcpu_names[NR_VCPU_STATS] = {
#define X(n, s) [VCPU_STAT_##n] = s,
	VCPU_STATS(X)
#undef X
};

/* "Documentation/virt/kvm/api.rst", KVM_GET_STATS_FD: header, id, descriptors, data. */
static int build(struct soft_stats *s, bool vcpu, const char *id)
{
	const char *const *names = vcpu ? vcpu_names : vm_names;
	uint32_t nr = vcpu ? NR_VCPU_STATS : NR_VM_STATS;
	uint32_t desc_size = sizeof(struct kvm_stats_desc) + NAME_SIZE;
	struct kvm_stats_header h = {
		.name_size = NAME_SIZE, .num_desc = nr, .id_offset = sizeof(h),
		.desc_offset = sizeof(h) + NAME_SIZE,
		.data_offset = sizeof(h) + NAME_SIZE + nr * desc_size,
	};
	size_t size = h.data_offset + nr * sizeof(uint64_t);
	uint64_t *value;
	uint8_t *p;
	int fd, r;

	fd = memfd_create(vcpu ? "kvm-vcpu-stats" : "kvm-vm-stats", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size) < 0)
		goto fail;
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		goto fail;
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0) {
		munmap(p, size);
		goto fail;
	}
	memcpy(p, &h, sizeof(h));
	snprintf((char *)p + h.id_offset, NAME_SIZE, "%s", id);
	for (uint32_t i = 0; i < nr; i++) {
		struct kvm_stats_desc *d = (void *)(p + h.desc_offset + i * desc_size);

		*d = (struct kvm_stats_desc){
			.flags = KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10,
			.size = 1, .offset = i * (uint32_t)sizeof(uint64_t),
		};
		if (vcpu && i == VCPU_STAT_blocking)
			d->flags = KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_BOOLEAN | KVM_STATS_BASE_POW2;
		snprintf(d->name, NAME_SIZE, "%s", names[i]);
	}
	value = (uint64_t *)(p + h.data_offset);
	/* Who loaded the old place just before may add one there that is not taken over. */
	atomic_store(&s->value, value);
	for (uint32_t i = 0; i < nr; i++)
		__atomic_fetch_add(&value[i], __atomic_exchange_n(&s->own[i], 0, __ATOMIC_RELAXED),
				   __ATOMIC_RELAXED);
	s->map = p;
	s->map_size = size;
	s->fd = fd;
	return 0;

fail:
	r = -errno;
	close(fd);
	return r;
}

int stats_open_fd(struct soft_stats *s, bool vcpu, const char *id)
{
	char path[32];
	int fd, r;

	if (!s->map) {
		r = build(s, vcpu, id);
		if (r)
			return r;
	}
	/* A description of its own, so that every reader has its own position. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", s->fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

void stats_destroy(struct soft_stats *s)
{
	if (!s->map)
		return;
	munmap(s->map, s->map_size);
	close(s->fd);
}
