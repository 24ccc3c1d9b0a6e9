/* SPDX-License-Identifier: MIT */
#include "device/rtc_time.h"
#include <time.h>

#define PM       0x80 /* of an hour in 12-hour mode */
#define DAY      86400
#define ANY      -1   /* alarm byte C0h to FFh: "don't care" */
#define NEVER    -2   /* a value that no time has */

static uint8_t pack(const uint8_t *cmos, unsigned v)
{
	return (uint8_t)(cmos[RTC_REG_B] & RTC_B_BINARY ? v : v / 10 << 4 | v % 10);
}

static unsigned unpack(const uint8_t *cmos, uint8_t v)
{
	return cmos[RTC_REG_B] & RTC_B_BINARY ? v : (v >> 4) * 10u + (v & 15);
}

static unsigned unpack_hour(const uint8_t *cmos, uint8_t v)
{
	if (cmos[RTC_REG_B] & RTC_B_24H)
		return unpack(cmos, v);
	return unpack(cmos, v & ~PM) % 12 + (v & PM ? 12 : 0);
}

bool rtc_is_time(uint8_t index)
{
	switch (index) {
	case RTC_SECONDS:
	case RTC_MINUTES:
	case RTC_HOURS:
	case RTC_WEEKDAY ... RTC_YEAR:
	case RTC_CENTURY:
		return true;
	default:
		return false;
	}
}

void rtc_encode(uint8_t *cmos, int64_t seconds)
{
	time_t t = seconds;
	struct tm tm = { 0 };
	unsigned hour, year;

	gmtime_r(&t, &tm);
	hour = (unsigned)tm.tm_hour;
	year = (unsigned)(tm.tm_year + 1900);
	cmos[RTC_SECONDS] = pack(cmos, (unsigned)tm.tm_sec);
	cmos[RTC_MINUTES] = pack(cmos, (unsigned)tm.tm_min);
	if (cmos[RTC_REG_B] & RTC_B_24H)
		cmos[RTC_HOURS] = pack(cmos, hour);
	else
		cmos[RTC_HOURS] = pack(cmos, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? PM : 0);
	cmos[RTC_WEEKDAY] = pack(cmos, (unsigned)tm.tm_wday + 1);
	cmos[RTC_DAY] = pack(cmos, (unsigned)tm.tm_mday);
	cmos[RTC_MONTH] = pack(cmos, (unsigned)tm.tm_mon + 1);
	cmos[RTC_YEAR] = pack(cmos, year % 100);
	cmos[RTC_CENTURY] = pack(cmos, year / 100);
}

int64_t rtc_decode(const uint8_t *cmos)
{
	unsigned century = unpack(cmos, cmos[RTC_CENTURY]);
	struct tm tm = {
		.tm_sec = (int)unpack(cmos, cmos[RTC_SECONDS]),
		.tm_min = (int)unpack(cmos, cmos[RTC_MINUTES]),
		.tm_hour = (int)unpack_hour(cmos, cmos[RTC_HOURS]),
		.tm_mday = (int)unpack(cmos, cmos[RTC_DAY]),
		.tm_mon = (int)unpack(cmos, cmos[RTC_MONTH]) - 1,
		.tm_year = (int)(century * 100 + unpack(cmos, cmos[RTC_YEAR])) - 1900,
	};

	return timegm(&tm);
}

/* An alarm byte as a number, ANY or NEVER. */
static int alarm_value(unsigned v, uint8_t raw, unsigned limit)
{
	if (raw >= 0xc0)
		return ANY;
	return v < limit ? (int)v : NEVER;
}

int64_t rtc_next_alarm(const uint8_t *cmos, int64_t from)
{
	uint8_t raw_s = cmos[RTC_SECONDS_ALARM], raw_m = cmos[RTC_MINUTES_ALARM];
	uint8_t raw_h = cmos[RTC_HOURS_ALARM];
	int s = alarm_value(unpack(cmos, raw_s), raw_s, 60);
	int m = alarm_value(unpack(cmos, raw_m), raw_m, 60);
	int h = alarm_value(unpack_hour(cmos, raw_h), raw_h, 24);
	int64_t at = from;

	if (s == NEVER || m == NEVER || h == NEVER || from < 0)
		return -1;
	/* At most 24 hours, then 60 minutes, then 60 seconds of steps; twice at the wrap. */
	while (at - from <= 2 * DAY) {
		int64_t of_day = at % DAY;

		if (h != ANY && of_day / 3600 != h)
			at += 3600 - of_day % 3600;
		else if (m != ANY && of_day / 60 % 60 != m)
			at += 60 - of_day % 60;
		else if (s != ANY && of_day % 60 != s)
			at++;
		else
			return at;
	}
	return -1;
}
