/* SPDX-License-Identifier: MIT */
#include "virtio/iothread.h"
#include "machine/machine.h"
#include <stdio.h>

int iothread_init(struct iothread *t, struct machine *m, bool own, uint64_t poll_ns)
{
	int r;

	*t = (struct iothread){ .loop = m->loop };
	if (!own)
		return 0;
	r = loop_create(&t->loop);
	if (r)
		return r;
	t->own = true;
	loop_set_poll_window(t->loop, poll_ns);
	return 0;
}

int iothread_start(struct iothread *t, const char *kind, const char *name)
{
	char thread_name[48];

	if (!t->own)
		return 0;
	snprintf(thread_name, sizeof(thread_name), "%s-%s", kind, name);
	return loop_thread_start(t->loop, thread_name);
}

void iothread_stop(struct iothread *t)
{
	if (t->own)
		loop_thread_stop(t->loop);
}

void iothread_fini(struct iothread *t)
{
	if (t->own)
		loop_destroy(t->loop);
	*t = (struct iothread){ 0 };
}
