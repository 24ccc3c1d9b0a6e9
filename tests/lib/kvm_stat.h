/* SPDX-License-Identifier: MIT
 * A counter by its name from a fd of KVM_GET_STATS_FD.
 */
#ifndef BELFRY_TESTS_KVM_STAT_H
#define BELFRY_TESTS_KVM_STAT_H

#include <stdint.h>

/* The first value of the statistic; fails the test if there is none of that name. */
uint64_t kvm_stat(int fd, const char *name);

#endif
