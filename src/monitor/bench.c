/* SPDX-License-Identifier: MIT
 * bench events: one table of paths, each an event from one side to the other.
 */
#include "monitor/bench_priv.h"
#include <stdlib.h>
#include <sys/prctl.h>

const char bench_description[] =
	"Sends single events through every path that the KVM half has and prints, for each path, "
	"how long they took. The paths take turns, so that all of them see the same machine. "
	"Guests are a few instructions long and built in; no files are needed.\n"
	"A kick (guest to host) is timed from just before the vCPU's thread calls KVM_RUN, with "
	"the guest standing before one access, until the consumer sees it: the vCPU's own thread "
	"back from KVM_RUN (exit), a thread returning from epoll_wait (ioeventfd), a thread that "
	"reads the eventfd over and over (-poll), or one that looks at the coalesced ring over and "
	"over (coalesced). It so includes one entry into the guest and one instruction there. "
	"'sender' is the whole time until KVM_RUN has ended for good.\n"
	"A call (host to guest) is timed from just before the sender's system call until the "
	"sender, looking at guest memory over and over, sees that the guest's handler has counted "
	"it. The target vCPU is halted, its thread asleep in the KVM half with halt polling "
	"off; in the -running paths it runs a loop in ring 3. call-interrupt is measured on "
	"a second VM without irqchip: it includes waking the vCPU's thread, which then calls "
	"KVM_INTERRUPT. 'sender' is the sender's system call alone.\n"
	"All times are differences of the host's CLOCK_MONOTONIC. A path that the KVM half lacks "
	"is shown as not available, with the reason.";

#define KICK(n, e, ...) { .name = "kick-" n, .entry = e, __VA_ARGS__ }
#define CALL(n, h, ...) { .name = "call-" n, .call = true, .how = h, __VA_ARGS__ }

static const struct bench_path paths[] = {
	KICK("exit-pio", BARE_OUT4, .pio = true, .reader = READER_EXIT,
	     .what = "port write leaves to the monitor"),
	KICK("exit-mmio", BARE_MMIO4, .reader = READER_EXIT,
	     .what = "MMIO write leaves to the monitor"),
	KICK("ioeventfd-pio", BARE_OUT4, .pio = true, .match = true, .len = 4,
	     .reader = READER_BLOCKED, .caps = { KVM_CAP_IOEVENTFD },
	     .what = "port, datamatch, reader asleep in epoll"),
	KICK("ioeventfd-pio-poll", BARE_OUT4, .pio = true, .match = true, .len = 4,
	     .reader = READER_POLLING, .caps = { KVM_CAP_IOEVENTFD },
	     .what = "port, datamatch, reader polls"),
	KICK("ioeventfd-mmio", BARE_MMIO4, .len = 4, .reader = READER_BLOCKED,
	     .caps = { KVM_CAP_IOEVENTFD }, .what = "MMIO, 4 bytes, reader asleep in epoll"),
	KICK("ioeventfd-mmio-poll", BARE_MMIO4, .len = 4, .reader = READER_POLLING,
	     .caps = { KVM_CAP_IOEVENTFD }, .what = "MMIO, 4 bytes, reader polls"),
	KICK("ioeventfd-any", BARE_MMIO4, .len = 0, .reader = READER_BLOCKED,
	     .caps = { KVM_CAP_IOEVENTFD_ANY_LENGTH },
	     .what = "MMIO, zero length, reader asleep in epoll"),
	KICK("ioeventfd-any-poll", BARE_MMIO4, .len = 0, .reader = READER_POLLING,
	     .caps = { KVM_CAP_IOEVENTFD_ANY_LENGTH }, .what = "MMIO, zero length, reader polls"),
	KICK("coalesced-mmio", BARE_MMIO4, .reader = READER_RING,
	     .caps = { KVM_CAP_COALESCED_MMIO }, .what = "MMIO into the ring, reader polls"),
	KICK("coalesced-pio", BARE_OUT4, .pio = true, .reader = READER_RING,
	     .caps = { KVM_CAP_COALESCED_MMIO, KVM_CAP_COALESCED_PIO },
	     .what = "port into the ring, reader polls"),
	CALL("line", CALL_LINE, .caps = { KVM_CAP_IRQCHIP }, .what = "KVM_IRQ_LINE, edge pin"),
	CALL("line-status", CALL_LINE_STATUS, .caps = { KVM_CAP_IRQ_INJECT_STATUS },
	     .what = "KVM_IRQ_LINE_STATUS, edge pin"),
	CALL("msi", CALL_MSI, .caps = { KVM_CAP_SIGNAL_MSI }, .what = "KVM_SIGNAL_MSI"),
	CALL("irqfd-msi", CALL_IRQFD_MSI, .caps = { KVM_CAP_IRQFD },
	     .what = "eventfd to MSI (the fast path)"),
	CALL("irqfd-pin", CALL_IRQFD_PIN, .caps = { KVM_CAP_IRQFD },
	     .what = "eventfd to pin (the slow path)"),
	CALL("irqfd-resample", CALL_IRQFD_RESAMPLE, .caps = { KVM_CAP_IRQFD_RESAMPLE },
	     .what = "eventfd to level pin, resampled at EOI"),
	CALL("interrupt", CALL_INTERRUPT, .what = "KVM_INTERRUPT, VM without irqchip"),
	CALL("line-running", CALL_LINE, .running = true, .caps = { KVM_CAP_IRQCHIP },
	     .what = "KVM_IRQ_LINE, vCPU runs"),
	CALL("msi-running", CALL_MSI, .running = true, .caps = { KVM_CAP_SIGNAL_MSI },
	     .what = "KVM_SIGNAL_MSI, vCPU runs"),
	CALL("irqfd-msi-running", CALL_IRQFD_MSI, .running = true, .caps = { KVM_CAP_IRQFD },
	     .what = "eventfd to MSI, vCPU runs"),
};

#define NR_PATHS ARRAY_SIZE(paths)

void bench_settle(void)
{
	const struct timespec t = { .tv_nsec = 60000 };

	clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}

static bool name_covers(const char *name, size_t len, const struct bench_path *p)
{
	if (len == 4 && !memcmp(name, p->name, 4))
		return true; /* "kick", "call" */
	return strlen(p->name) == len && !memcmp(name, p->name, len);
}

static bool is_chosen(const char *list, const struct bench_path *p)
{
	for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
		if (name_covers(at, strcspn(at, ","), p))
			return true;
	return !list;
}

int bench_check_paths(const char *value, void *field, struct err *e)
{
	for (const char *at = value; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
		size_t len = strcspn(at, ",");
		char names[400] = "";
		bool known = false;

		for (size_t i = 0; i < NR_PATHS; i++) {
			size_t n = strlen(names);

			known = known || name_covers(at, len, &paths[i]);
			snprintf(names + n, sizeof(names) - n, ", %s", paths[i].name);
		}
		if (!known)
			return err_set(e, -EINVAL, "no path \"%.*s\"; there are kick, call%s",
				       (int)MIN(len, 40u), at, names);
	}
	return 0;
}

static const char *cap_name(unsigned cap)
{
	for (const struct cap_info *c = cap_table; c->name; c++)
		if (c->cap == cap)
			return c->name;
	return "a capability";
}

static bool has_caps(struct bare *b, struct bench_state *s)
{
	for (unsigned i = 0; i < ARRAY_SIZE(s->path->caps); i++) {
		unsigned cap = s->path->caps[i];

		if (cap && vm_check_extension(&b->vm, cap) <= 0) {
			snprintf(s->row.reason, sizeof(s->row.reason), "this KVM lacks %s",
				 cap_name(cap));
			return false;
		}
	}
	return true;
}

struct bench {
	struct bare bare;
	struct kick_rig *kicks;
	struct call_rig *calls;
	struct bench_state states[NR_PATHS];
	unsigned nr;
	gsi_t next_pin, next_msi;
};

/* Addresses, gsi and vector: no two paths share anything. Pins from 16 on have no PIC behind them. */
static int state_init(struct bench *b, const struct bench_path *p, const struct bench_config *c)
{
	struct bench_state *s = &b->states[b->nr];
	unsigned index = b->nr;
	int r;

	*s = (struct bench_state){
		.path = p, .index = index, .n.fd = -1, .resample.fd = -1,
		.patience = MAX(c->patience, 1u) * NSEC_PER_SEC,
		.where = p->pio ? 0x500 + index * 8 : BARE_MMIO + index * 0x1000ull,
		.vector = 0x40 + index,
		.target = p->how == CALL_INTERRUPT ? 0 : p->running ? 2 : 1,
		.row = { .name = p->name, .what = p->what },
	};
	b->nr++;
	if (p->call)
		s->gsi = p->how == CALL_IRQFD_MSI ? b->next_msi++ : b->next_pin++;
	s->samples = calloc(c->count, sizeof(*s->samples));
	if (!s->samples)
		return -ENOMEM;
	r = notifier_create(&s->n, 0, 0);
	return r ? r : notifier_create(&s->resample, 0, 0);
}

static int bench_open(struct bench *b, const struct bench_config *c, const struct kvmapi *api,
		      struct err *e)
{
	int r = bare_create(&b->bare, api, 3, true, e);

	if (r)
		return r;
	r = vm_enable_cap(&b->bare.vm, KVM_CAP_HALT_POLL, 0);
	if (r && r != -EINVAL) /* a kernel before 5.11 or another half: as it has it */
		return err_set(e, r, "KVM_CAP_HALT_POLL failed: %s", strerror(-r));
	b->next_pin = 16;
	b->next_msi = KVM_IOAPIC_NUM_PINS;
	for (size_t i = 0; i < NR_PATHS; i++) {
		if (!is_chosen(c->paths, &paths[i]))
			continue;
		r = state_init(b, &paths[i], c);
		if (r)
			return err_set(e, r, "cannot prepare %s: %s", paths[i].name, strerror(-r));
	}
	r = kick_rig_create(&b->kicks, &b->bare);
	if (r)
		return err_set(e, r, "cannot start the readers: %s", strerror(-r));
	r = call_rig_create(&b->calls, &b->bare, api, e);
	if (r)
		return r;
	r = call_set_routes(b->calls, b->states, b->nr);
	return r ? err_set(e, r, "KVM_SET_GSI_ROUTING failed: %s", strerror(-r)) : 0;
}

static void bench_close(struct bench *b)
{
	call_rig_destroy(b->calls);
	kick_rig_destroy(b->kicks);
	bare_destroy(&b->bare);
	for (unsigned i = 0; i < b->nr; i++) {
		notifier_destroy(&b->states[i].n);
		notifier_destroy(&b->states[i].resample);
		free(b->states[i].samples);
	}
}

static void bench_bind(struct bench *b)
{
	for (unsigned i = 0; i < b->nr; i++) {
		struct bench_state *s = &b->states[i];
		int r;

		if (!has_caps(&b->bare, s))
			continue;
		r = s->path->call ? call_bind(b->calls, s) : kick_bind(b->kicks, s);
		s->row.available = !r;
		if (r)
			snprintf(s->row.reason, sizeof(s->row.reason), "cannot be bound: %s",
				 strerror(-r));
	}
}

/* One event on every path. A path that loses three is given up: each costs all the patience. */
static int bench_round(struct bench *b, struct err *e)
{
	for (unsigned i = 0; i < b->nr; i++) {
		struct bench_state *s = &b->states[i];
		struct bench_sample *at = &s->samples[s->row.count];
		int r;

		if (!s->row.available || s->row.lost >= 3)
			continue;
		r = s->path->call ? call_measure(b->calls, s, at) : kick_measure(b->kicks, s, at);
		if (r == -ETIME)
			s->row.lost++;
		else if (r)
			return err_set(e, r, "%s: %s%s", s->path->name,
				       r == -EIO ? "the guest left where it should not" : strerror(-r),
				       bare_faults(&b->bare, 0) ? ", after an exception" : "");
		else
			s->row.count++;
	}
	return 0;
}

static int by_latency(const void *a, const void *b)
{
	const struct bench_sample *x = a, *y = b;

	return x->latency < y->latency ? -1 : x->latency > y->latency;
}

static int by_sender(const void *a, const void *b)
{
	const struct bench_sample *x = a, *y = b;

	return x->sender < y->sender ? -1 : x->sender > y->sender;
}

static void summarize(struct bench_state *s)
{
	unsigned n = s->row.count;

	if (!n)
		return;
	qsort(s->samples, n, sizeof(*s->samples), by_sender);
	s->row.sender = s->samples[n / 2].sender;
	qsort(s->samples, n, sizeof(*s->samples), by_latency);
	s->row.min = s->samples[0].latency;
	s->row.median = s->samples[n / 2].latency;
	s->row.p99 = s->samples[(uint64_t)n * 99 / 100].latency;
	s->row.max = s->samples[n - 1].latency;
}

int bench_events(const struct bench_config *c, const struct kvmapi *api, struct bench_row **rows,
		 unsigned *nr, struct err *e)
{
	struct bench *b = calloc(1, sizeof(*b));
	struct bench_row *out = calloc(NR_PATHS, sizeof(*out));
	int slack = prctl(PR_GET_TIMERSLACK), r;

	if (!b || !out) {
		free(b);
		free(out);
		return err_set(e, -ENOMEM, "out of memory");
	}
	(void)prctl(PR_SET_TIMERSLACK, 1000ul);
	r = bench_open(b, c, api, e);
	if (!r)
		bench_bind(b);
	for (unsigned i = 0; i < c->count && !r; i++)
		r = bench_round(b, e);
	(void)prctl(PR_SET_TIMERSLACK, slack > 0 ? (unsigned long)slack : 0ul);
	for (unsigned i = 0; i < b->nr && !r; i++) {
		summarize(&b->states[i]);
		out[i] = b->states[i].row;
	}
	*nr = b->nr;
	bench_close(b);
	free(b);
	if (r)
		free(out);
	else
		*rows = out;
	return r;
}
