/* SPDX-License-Identifier: MIT
 * cmocka with the headers it wants, in the order it wants them.
 */
#ifndef BELFRY_TESTS_CHECK_H
#define BELFRY_TESTS_CHECK_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#define RUN(tests) cmocka_run_group_tests(tests, NULL, NULL)

#endif
