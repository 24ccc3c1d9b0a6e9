/* SPDX-License-Identifier: MIT
 * The MC146818's time, calendar and alarm registers as numbers: pure
 * functions over the register file. Seconds are since 1970-01-01 UTC.
 */
#ifndef BELFRY_DEVICE_RTC_TIME_H
#define BELFRY_DEVICE_RTC_TIME_H

#include "base/base.h"

#define RTC_SECONDS       0x00
#define RTC_SECONDS_ALARM 0x01
#define RTC_MINUTES       0x02
#define RTC_MINUTES_ALARM 0x03
#define RTC_HOURS         0x04
#define RTC_HOURS_ALARM   0x05
#define RTC_WEEKDAY       0x06
#define RTC_DAY           0x07
#define RTC_MONTH         0x08
#define RTC_YEAR          0x09
#define RTC_REG_B         0x0b
#define RTC_CENTURY       0x32 /* FADT's CENTURY names it */

#define RTC_B_24H         BIT(1)
#define RTC_B_BINARY      BIT(2)

/* One of the ten time, calendar and century registers. */
bool rtc_is_time(uint8_t index);
/* In the format that register B asks for. */
void rtc_encode(uint8_t *cmos, int64_t seconds);
/* Values out of range carry over, as mktime(3) does; nothing a guest writes is refused. */
int64_t rtc_decode(const uint8_t *cmos);
/* The first second at or after `from` that the alarm matches; -1 if it never does. */
int64_t rtc_next_alarm(const uint8_t *cmos, int64_t from);

#endif
