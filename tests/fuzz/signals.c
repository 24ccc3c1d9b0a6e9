/* SPDX-License-Identifier: MIT
 * softkvm's API under signallers: while the input's operations (as in softkvm.c) bind,
 * unbind, route and close, other threads write to the eventfds, raise lines and send
 * messages. Each operation has its burst of these, which it and the threads begin together
 * and which ends before the next: what an operation waits for comes to an end, and the
 * input says as much as it can of what happens. No fd may be left, and a new VM be served.
 */
#include "api.h"
#include <pthread.h>

#define SIGNALLERS 3

struct burst {
	uint8_t what, target, times;
};

struct gang {
	struct world *w;
	pthread_t thread[SIGNALLERS];
	struct burst burst[SIGNALLERS];
	unsigned taken; /* atomic */
	pthread_barrier_t begin, end;
	bool stop;
};

static void signal_once(struct world *w, const struct burst *b, unsigned i)
{
	/* It may be closed meanwhile, and the number another file's: an error then. */
	int vm = __atomic_load_n(&w->vm[b->what >> 7], __ATOMIC_RELAXED);
	struct kvm_irq_level line = { .irq = b->target % 26, .level = i % 2 };
	struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x10u + b->target % 0xf0 };
	uint64_t n;

	switch (b->what & 3) {
	case 0:
		eventfd_write(w->event[b->target % (WORLD_EVENTS - 4)], 1);
		break;
	case 1:
		(void)world_quiet(w, vm, KVM_IRQ_LINE, &line);
		break;
	case 2:
		(void)world_quiet(w, vm, KVM_SIGNAL_MSI, &msi);
		break;
	case 3:
		(void)!read(w->event[b->target % (WORLD_EVENTS - 4)], &n, sizeof(n));
	}
}

static void *signaller(void *arg)
{
	struct gang *g = arg;
	unsigned me = __atomic_fetch_add(&g->taken, 1, __ATOMIC_RELAXED);

	for (;;) {
		pthread_barrier_wait(&g->begin);
		if (g->stop)
			return NULL;
		for (unsigned i = 0; i < g->burst[me].times; i++)
			signal_once(g->w, &g->burst[me], i);
		pthread_barrier_wait(&g->end);
	}
}

static void gang_start(struct gang *g, struct world *w)
{
	*g = (struct gang){ .w = w };
	pthread_barrier_init(&g->begin, NULL, SIGNALLERS + 1);
	pthread_barrier_init(&g->end, NULL, SIGNALLERS + 1);
	for (unsigned i = 0; i < SIGNALLERS; i++)
		FUZZ_CHECK(!pthread_create(&g->thread[i], NULL, signaller, g), "no thread");
}

static void gang_stop(struct gang *g)
{
	g->stop = true;
	pthread_barrier_wait(&g->begin);
	for (unsigned i = 0; i < SIGNALLERS; i++)
		pthread_join(g->thread[i], NULL);
	pthread_barrier_destroy(&g->begin);
	pthread_barrier_destroy(&g->end);
}

static void op_in_a_burst(struct gang *g, struct feed *f)
{
	for (unsigned i = 0; i < SIGNALLERS; i++)
		g->burst[i] = (struct burst){ feed_u8(f), feed_u8(f), feed_u8(f) & 31 };
	pthread_barrier_wait(&g->begin);
	one_op(g->w, f);
	pthread_barrier_wait(&g->end);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct feed f = { data, size };
	struct world w;
	struct gang g;
	unsigned fds;

	FUZZ_CHECK(!world_create(&w, true), "no context");
	expect_service(&w);
	fds = open_fds();
	FUZZ_CHECK(!world_begin(&w), "no VM");
	gang_start(&g, &w);
	for (unsigned i = 0; i < MAX_OPS && f.left && !w.stop; i++)
		op_in_a_burst(&g, &f);
	gang_stop(&g);
	world_end(&w);
	FUZZ_CHECK(open_fds() == fds, "%u fds instead of %u", open_fds(), fds);
	expect_service(&w);
	world_destroy(&w);
	return 0;
}
