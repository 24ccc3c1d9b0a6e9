/* SPDX-License-Identifier: MIT */
#include "app/accel.h"
#include "softkvm/softkvm.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

void accel_probe(struct accel *a, const char *sysfs)
{
	char path[256];
	struct dirent *d;
	DIR *dir;

	memset(a, 0, sizeof(*a));
	snprintf(path, sizeof(path), "%s/module", sysfs ? sysfs : "/sys");
	dir = opendir(path);
	if (!dir)
		return;
	a->sysfs = true;
	while ((d = readdir(dir))) {
		bool hardware = !strcmp(d->d_name, "kvm_intel") || !strcmp(d->d_name, "kvm_amd");

		if (strncmp(d->d_name, "kvm_", 4) || a->hardware)
			continue;
		a->hardware = hardware;
		snprintf(a->module, sizeof(a->module), "%.31s", d->d_name);
	}
	closedir(dir);
}

enum accel_choice accel_choose(const struct accel *a, struct err *why)
{
	const struct kvmapi kernel = { .ops = &dev_kvm_ops };
	struct sys s;

	if (a->sysfs && !a->hardware && a->module[0]) {
		err_set(why, 0, "this host's KVM (%s) has no VT-x or SVM under it", a->module);
		return ACCEL_SOFT;
	}
	/* Opening it tells more than looking: missing, forbidden, too old. */
	if (sys_open(&s, &kernel, why))
		return ACCEL_SOFT;
	sys_close(&s);
	return ACCEL_KVM;
}

/* BELFRY_REBUILD=N, for tests: take the VM apart and rebuild it every N exits. */
static int wrap(struct kvmapi *api, struct err *e)
{
	const char *s = getenv("BELFRY_REBUILD");
	struct kvmapi inner = *api;
	uint64_t every;

	if (!s)
		return 0;
	if (number_parse(s, 1, UINT64_MAX, &every))
		return err_set(e, -EINVAL, "BELFRY_REBUILD=%s: must be a number of exits", s);
	return rebuild_create(api, &inner, every, e);
}

int accel_open(enum accel_choice choice, const struct log *log, struct kvmapi *out, struct err *e)
{
	struct softkvm_config c;
	int r;

	*out = (struct kvmapi){ .ops = &dev_kvm_ops };
	if (choice != ACCEL_SOFT)
		return wrap(out, e);
	softkvm_config_init(&c, true);
	c.log = log;
	out->ops = &softkvm_ops;
	r = softkvm_create(&out->ctx, &c);
	if (r)
		return err_set(e, r, "cannot set up softkvm: %s", strerror(-r));
	r = wrap(out, e);
	if (r)
		softkvm_destroy(out->ctx);
	return r;
}

void accel_close(struct kvmapi *api)
{
	if (rebuild_is(api)) {
		uint64_t done, put_off;

		rebuild_figures(api, &done, &put_off);
		fprintf(stderr, "belfry: rebuilt %llu times, put off %llu times\n",
			(unsigned long long)done, (unsigned long long)put_off);
		rebuild_destroy(api);
	}
	if (api->ops == &softkvm_ops)
		softkvm_destroy(api->ctx);
	api->ops = NULL;
}
