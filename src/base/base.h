/* SPDX-License-Identifier: MIT
 *
 * base: what every room may use. The room's public header; other rooms include
 * only this one. Nothing in here knows of KVM, guests or devices.
 *
 * House rules that hold for every function of every room unless its comment
 * says otherwise: it returns 0 or a negative errno; it takes no lock that the
 * caller could hold; a failed call changed nothing.
 */
#ifndef BELFRY_BASE_H
#define BELFRY_BASE_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef uint64_t gpa_t;   /* guest-physical address */
typedef uint64_t gva_t;   /* guest-virtual (linear) address */
typedef uint32_t gsi_t;   /* global system interrupt */

/* Built with -fsanitize=thread. */
#if defined(__SANITIZE_THREAD__)
#define WITH_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WITH_TSAN 1
#endif
#endif
#ifndef WITH_TSAN
#define WITH_TSAN 0
#endif

#define __must_check   __attribute__((warn_unused_result))
#define __printf(f, a) __attribute__((format(printf, f, a)))

#include "base/arith.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/histogram.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/notifier.h"
#include "base/ranges.h"
#include "base/thread.h"

#endif
