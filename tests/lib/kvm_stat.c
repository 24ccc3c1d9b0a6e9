/* SPDX-License-Identifier: MIT */
#include "check.h"
#include "kvm_stat.h"
#include "base/base.h"
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* "Documentation/virt/kvm/api.rst", KVM_GET_STATS_FD. */
uint64_t kvm_stat(int fd, const char *name)
{
	struct kvm_stats_header h;

	assert_int_equal(pread(fd, &h, sizeof(h), 0), sizeof(h));
	for (uint32_t i = 0; i < h.num_desc; i++) {
		size_t size = sizeof(struct kvm_stats_desc) + h.name_size;
		struct kvm_stats_desc *d = malloc(size);
		uint64_t value = 0;
		bool found;

		assert_non_null(d);
		assert_int_equal(pread(fd, d, size, (off_t)(h.desc_offset + i * size)), size);
		found = !strcmp(d->name, name);
		assert_int_equal(pread(fd, &value, sizeof(value), (off_t)(h.data_offset + d->offset)),
				 sizeof(value));
		free(d);
		if (found)
			return value;
	}
	fail_msg("no statistic %s", name);
	return 0;
}
