/* SPDX-License-Identifier: MIT
 * The machine's life cycle on a KVM half that runs no guest: every exit reason,
 * pause against running vCPUs, reset, requests, and what is left behind.
 */
#include "../lib/check.h"
#include "../lib/fake_kvm.h"
#include "machine/machine.h"
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

struct bed {
	struct fake_kvm kvm;
	struct machine *m;
	int log_read;
	/* what the "guest" does next */
	_Atomic int reason;
	_Atomic uint64_t entries, exits;
	_Atomic bool inside;
	void (*fill)(struct kvm_run *run);
};

/* As KVM_RUN: back at once with immediate_exit, else now and then an exit. */
static int guest_run(void *arg, unsigned id, struct kvm_run *run)
{
	struct bed *b = arg;
	int reason;

	b->entries++;
	for (unsigned i = 0;; i++) {
		if (atomic_load((_Atomic uint8_t *)&run->immediate_exit))
			return -EINTR;
		reason = b->reason;
		if (reason >= 0 && id == 0 && i > 2) {
			b->exits++;
			memset(&run->exit_reason, 0, sizeof(run->exit_reason));
			run->exit_reason = (unsigned)reason;
			if (b->fill)
				b->fill(run);
			return 0;
		}
		usleep(20);
	}
}

static struct bed *bed_new(unsigned cpus)
{
	struct bed *b = calloc(1, sizeof(*b));
	struct machine_config c = { .name = "test", .cpus = cpus, .mem = 1 << 20, .log_level = LOG_DEBUG };
	struct err e;
	int p[2];

	assert_int_equal(pipe2(p, O_NONBLOCK), 0);
	b->log_read = p[0];
	c.log_fd = p[1];
	b->reason = -1;
	fake_kvm_init(&b->kvm);
	b->kvm.run = guest_run;
	b->kvm.run_arg = b;
	if (machine_create(&b->m, &c, &b->kvm.api, &e))
		fail_msg("%s", e.text);
	return b;
}

static void bed_free(struct bed *b)
{
	int log_fd = b->m->config.log_fd;

	machine_destroy(b->m);
	assert_int_equal(fake_kvm_fini(&b->kvm), 0);
	assert_int_equal(b->kvm.nr_ioeventfds, 0);
	close(log_fd);
	close(b->log_read);
	free(b);
}

static const char *log_text(struct bed *b)
{
	static _Thread_local char text[65536];
	ssize_t n = read(b->log_read, text, sizeof(text) - 1);

	text[n > 0 ? n : 0] = '\0';
	return text;
}

static void start(struct bed *b)
{
	struct err e;

	if (machine_start(b->m, NULL, &e))
		fail_msg("%s", e.text);
	/* Past the first second a triple fault means a reset. */
	b->m->started_at = clock_ns() - 2 * NSEC_PER_SEC;
}

static void fill_shutdown_event(struct kvm_run *run)
{
	run->system_event.type = KVM_SYSTEM_EVENT_SHUTDOWN;
}

static void fill_crash_event(struct kvm_run *run)
{
	run->system_event.type = KVM_SYSTEM_EVENT_CRASH;
}

static void fill_emulation(struct kvm_run *run)
{
	run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
	run->internal.ndata = 4;
	run->emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
	run->emulation_failure.insn_size = 15;
	memset(run->emulation_failure.insn_bytes, 0xf4, 15);
}

static void exit_reasons(void **state)
{
	static const struct {
		int reason;
		enum machine_outcome outcome;
		const char *log;
		void (*fill)(struct kvm_run *run);
	} rows[] = {
		{ KVM_EXIT_UNKNOWN, MACHINE_FAILED, "KVM_EXIT_UNKNOWN", NULL },
		{ KVM_EXIT_EXCEPTION, MACHINE_FAILED, "KVM_EXIT_EXCEPTION", NULL },
		{ KVM_EXIT_DEBUG, MACHINE_FAILED, "KVM_EXIT_DEBUG", NULL },
		{ KVM_EXIT_HLT, MACHINE_FAILED, "halted", NULL },
		{ KVM_EXIT_FAIL_ENTRY, MACHINE_FAILED, "KVM_EXIT_FAIL_ENTRY", NULL },
		{ KVM_EXIT_INTERNAL_ERROR, MACHINE_FAILED, "cannot emulate): f4 f4", fill_emulation },
		{ KVM_EXIT_SYSTEM_EVENT, MACHINE_POWEROFF, "", fill_shutdown_event },
		{ KVM_EXIT_SYSTEM_EVENT, MACHINE_FAILED, "reported a crash", fill_crash_event },
		{ KVM_EXIT_HYPERV, MACHINE_FAILED, "KVM_EXIT_HYPERV", NULL },
		{ KVM_EXIT_XEN, MACHINE_FAILED, "KVM_EXIT_XEN", NULL },
		{ KVM_EXIT_DIRTY_RING_FULL, MACHINE_FAILED, "KVM_EXIT_DIRTY_RING_FULL", NULL },
		{ 62, MACHINE_FAILED, "exit unknown (62)", NULL },
		{ 100000, MACHINE_FAILED, "exit unknown (100000)", NULL },
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct bed *b = bed_new(2);
		const char *text;

		b->fill = rows[i].fill;
		start(b);
		b->reason = rows[i].reason;
		assert_int_equal(machine_run(b->m), rows[i].outcome);
		text = log_text(b);
		if (!strstr(text, rows[i].log))
			fail_msg("exit %d: no \"%s\" in the log:\n%s", rows[i].reason, rows[i].log, text);
		if (rows[i].outcome == MACHINE_FAILED) {
			/* The state is shown, once, with every register. */
			assert_non_null(strstr(text, "rip "));
			assert_null(strstr(strstr(text, "rip ") + 1, "rip "));
		}
		bed_free(b);
	}
}

static void harmless_exits(void **state)
{
	static const int reasons[] = {
		KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_INTR, KVM_EXIT_SET_TPR, KVM_EXIT_TPR_ACCESS,
		KVM_EXIT_NMI, KVM_EXIT_IOAPIC_EOI, KVM_EXIT_X86_BUS_LOCK, KVM_EXIT_NOTIFY,
		KVM_EXIT_HYPERCALL, KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR,
	};

	for (size_t i = 0; i < ARRAY_SIZE(reasons); i++) {
		struct bed *b = bed_new(1);

		start(b);
		b->reason = reasons[i];
		while (b->exits < 3)
			usleep(100);
		machine_request(b->m, MACHINE_QUIT);
		assert_int_equal(machine_run(b->m), MACHINE_QUIT);
		assert_true(b->m->cpus[0].exits[reasons[i]] >= 3);
		assert_string_equal(log_text(b), "");
		bed_free(b);
	}
}

static void fill_io(struct kvm_run *run)
{
	run->io.direction = KVM_EXIT_IO_IN;
	run->io.size = 4;
	run->io.port = 0x1234;
	run->io.count = 2;
	run->io.data_offset = 3072;
	memset((uint8_t *)run + 3072, 0, 8);
}

/* Nobody at the port: ones come back, and it is counted. */
static void nowhere(void **state)
{
	struct bed *b = bed_new(1);

	b->fill = fill_io;
	start(b);
	b->reason = KVM_EXIT_IO;
	while (b->exits < 5)
		usleep(100);
	machine_request(b->m, MACHINE_QUIT);
	assert_int_equal(machine_run(b->m), MACHINE_QUIT);
	assert_true(b->m->cpus[0].nowhere >= 4);
	bed_free(b);
}

struct resettable {
	struct device dev;
	_Atomic unsigned resets, pauses, resumes;
	bool destroyed;
	struct bed *b;
};

static void rs_reset(struct device *d)
{
	struct resettable *x = container_of(d, struct resettable, dev);

	x->resets++;
	if (x->resets == 2)
		x->b->reason = -1; /* one reset is enough */
}

static void rs_pause(struct device *d)
{
	container_of(d, struct resettable, dev)->pauses++;
}

static void rs_resume(struct device *d)
{
	container_of(d, struct resettable, dev)->resumes++;
}

static void rs_destroy(struct device *d)
{
	container_of(d, struct resettable, dev)->destroyed = true;
}

static const struct device_ops rs_ops = {
	.type = "resettable", .reset = rs_reset, .pause = rs_pause, .resume = rs_resume,
	.destroy = rs_destroy,
};

static void *quit_later(void *arg)
{
	struct resettable *x = arg;

	while (!x->resumes)
		usleep(100);
	machine_request(x->b->m, MACHINE_QUIT);
	return NULL;
}

static void triple_fault_resets(void **state)
{
	struct bed *b = bed_new(3);
	struct resettable x = { .dev.ops = &rs_ops, .b = b };
	pthread_t t;

	machine_add_device(b->m, &x.dev);
	start(b);
	assert_int_equal(x.resets, 1);
	b->reason = KVM_EXIT_SHUTDOWN;
	assert_int_equal(thread_create(&t, "quit", quit_later, &x), 0);
	assert_int_equal(machine_run(b->m), MACHINE_QUIT);
	thread_join(t);
	assert_int_equal(x.resets, 2);
	assert_true(x.pauses >= 1);
	assert_int_equal(x.resumes, 1);
	assert_non_null(strstr(log_text(b), "triple fault, the machine resets"));
	bed_free(b);
	assert_true(x.destroyed);
}

static void triple_fault_at_once_fails(void **state)
{
	struct bed *b = bed_new(1);
	struct err e;

	b->reason = KVM_EXIT_SHUTDOWN;
	assert_int_equal(machine_start(b->m, NULL, &e), 0);
	assert_int_equal(machine_run(b->m), MACHINE_FAILED);
	assert_non_null(strstr(log_text(b), "within a second"));
	bed_free(b);
}

static void quit_beats_reset(void **state)
{
	struct bed *b = bed_new(1);

	start(b);
	machine_request(b->m, MACHINE_RESET);
	machine_request(b->m, MACHINE_QUIT);
	machine_request(b->m, MACHINE_RESET);
	machine_request(b->m, MACHINE_FAILED);
	assert_int_equal(machine_run(b->m), MACHINE_QUIT);
	bed_free(b);
}

static void run_fails(void **state)
{
	struct bed *b = bed_new(2);

	start(b);
	fake_kvm_fail(&b->kvm, KVM_RUN, 1, EFAULT);
	mutex_lock(&b->kvm.lock);
	b->kvm.fail_after = 1;
	b->kvm.fail_always = true; /* also when the thread only finishes an exit */
	mutex_unlock(&b->kvm.lock);
	cpu_kick(&b->m->cpus[0]);
	assert_int_equal(machine_run(b->m), MACHINE_FAILED);
	assert_non_null(strstr(log_text(b), "KVM_RUN failed: Bad address"));
	bed_free(b);
}

/* A kick lost between the look at the flags and the entry would hang this. */
static void pause_rounds(void **state)
{
	struct bed *b = bed_new(4);

	start(b);
	b->reason = KVM_EXIT_INTR;
	for (int i = 0; i < 3000; i++) {
		uint64_t before;

		machine_pause(b->m);
		before = b->entries;
		if (i % 50 == 0) {
			usleep(300);
			assert_int_equal(b->entries, before); /* held: nobody enters */
		}
		machine_resume(b->m);
	}
	machine_request(b->m, MACHINE_QUIT);
	assert_int_equal(machine_run(b->m), MACHINE_QUIT);
	bed_free(b);
}

/* A vCPU that waits for the main loop while the main loop waits for it. */
static void noop(void *arg)
{
	(*(_Atomic uint64_t *)arg)++;
}

struct caller {
	struct bed *b;
	struct region r;
	struct loop *l;
	_Atomic uint64_t calls;
};

static void caller_write(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	struct caller *x = arg;

	loop_call(x->l, noop, &x->calls);
}

static const struct region_ops caller_ops = { .write = caller_write };

static void fill_out(struct kvm_run *run)
{
	run->io.direction = KVM_EXIT_IO_OUT;
	run->io.size = 1;
	run->io.port = 0x80;
	run->io.count = 1;
	run->io.data_offset = 3072;
}

static void timer_pause(void *arg)
{
	struct bed *b = arg;

	machine_pause(b->m);
	machine_resume(b->m);
}

static void *pauser(void *arg)
{
	struct caller *x = arg;

	for (int i = 0; i < 300; i++) {
		uint64_t calls = x->calls;

		loop_call(x->l, timer_pause, x->b);
		usleep(i % 4 * 200u);
		/* Now and then until the vCPU, too, has had its turn. */
		while (i % 4 == 3 && x->calls == calls)
			usleep(100);
	}
	machine_request(x->b->m, MACHINE_QUIT);
	return NULL;
}

static void pause_serves_calls(void **state)
{
	struct bed *b = bed_new(2);
	struct caller x = { .b = b, .l = b->m->loop };
	pthread_t t;

	x.r = (struct region){
		.name = "caller", .space = SPACE_PIO, .base = 0x80, .size = 1, .enabled = true,
		.ops = &caller_ops, .arg = &x,
	};
	assert_int_equal(region_add(b->m->map, &x.r), 0);
	b->fill = fill_out;
	start(b);
	b->reason = KVM_EXIT_IO;
	assert_int_equal(thread_create(&t, "pauser", pauser, &x), 0);
	assert_int_equal(machine_run(b->m), MACHINE_QUIT);
	thread_join(t);
	assert_true(x.calls > 10);
	bed_free(b);
}

/*
 * A string of accesses by one instruction, as REP OUTS: finishing one brings
 * the next, whatever immediate_exit says, until the instruction is done.
 */
#define STRING 16

struct string {
	struct bed *b;
	unsigned left;          /* accesses of the instruction still to come; the vCPU's thread */
	_Atomic uint64_t made;
	struct region r;
	_Atomic uint64_t seen;
};

static int string_run(void *arg, unsigned id, struct kvm_run *run)
{
	struct string *x = arg;

	if (!x->left)
		x->left = STRING;
	x->left--;
	x->made++;
	run->exit_reason = KVM_EXIT_IO;
	fill_out(run);
	return 0;
}

static void string_write(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	((struct string *)arg)->seen++;
}

static const struct region_ops string_ops = { .write = string_write };

/* The fake half finishes an exit before it looks at immediate_exit; its own check comes first. */
static int string_ioctl(void *ctx, int fd, unsigned long request, uintptr_t arg)
{
	struct fake_kvm *k = ctx;
	struct string *x = k->run_arg;

	if (request == KVM_RUN && x->left)
		return string_run(x, 0, x->b->m->cpus[0].vcpu.run);
	return k->api.ops->ioctl(ctx, fd, request, arg);
}

static void pause_finishes_strings(void **state)
{
	struct bed *b = bed_new(1);
	struct string x = { .b = b };
	struct kvmapi_ops ops = *b->kvm.api.ops;

	ops.ioctl = string_ioctl;
	b->m->sys.api.ops = &ops;
	b->kvm.run = string_run;
	b->kvm.run_arg = &x;
	x.r = (struct region){
		.name = "string", .space = SPACE_PIO, .base = 0x80, .size = 1, .enabled = true,
		.ops = &string_ops, .arg = &x,
	};
	assert_int_equal(region_add(b->m->map, &x.r), 0);
	start(b);
	for (int i = 0; i < 500; i++) {
		uint64_t made = x.made;

		usleep(i % 7 * 10u);
		/* Now and then until the vCPU, too, has had its turn. */
		while (i % 7 == 6 && x.made == made)
			usleep(10);
		machine_pause(b->m);
		/* Nothing is left half done, and the device has seen every access. */
		assert_int_equal(x.left, 0);
		assert_int_equal(x.seen, x.made);
		machine_resume(b->m);
	}
	assert_true(x.made > STRING);
	machine_request(b->m, MACHINE_QUIT);
	assert_int_equal(machine_run(b->m), MACHINE_QUIT);
	bed_free(b);
}

/* A triple fault that the KVM half answers by starting the vCPU at its reset vector: AMD's does. */
static int fault_run(void *arg, unsigned id, struct kvm_run *run)
{
	struct bed *b = arg;

	if (id || atomic_load((_Atomic uint8_t *)&run->immediate_exit) || b->reason < 0)
		return guest_run(arg, id, run);
	b->exits++;
	run->exit_reason = b->exits == 1 ? KVM_EXIT_SHUTDOWN : KVM_EXIT_INTERNAL_ERROR;
	return 0;
}

static void triple_fault_stops_the_cpu(void **state)
{
	struct bed *b = bed_new(2);
	struct resettable x = { .dev.ops = &rs_ops, .b = b };
	pthread_t t;

	b->kvm.run = fault_run;
	machine_add_device(b->m, &x.dev);
	start(b);
	b->reason = KVM_EXIT_SHUTDOWN;
	while (!b->exits)
		usleep(1000);
	/* The main loop is late: the vCPU must not go on meanwhile. */
	while (!b->exits)
		usleep(100);
	usleep(20000);
	assert_int_equal(b->exits, 1);
	assert_int_equal(thread_create(&t, "quit", quit_later, &x), 0);
	assert_int_equal(machine_run(b->m), MACHINE_QUIT);
	thread_join(t);
	assert_int_equal(x.resets, 2);
	bed_free(b);
}

static void reset_write(void *arg, uint64_t off, uint64_t value, unsigned len)
{
	machine_request(arg, MACHINE_RESET);
}

static const struct region_ops reset_ops = { .write = reset_write };

static void port_reset_stops_the_cpu(void **state)
{
	struct bed *b = bed_new(2);
	struct resettable x = { .dev.ops = &rs_ops, .b = b };
	struct region r = {
		.name = "reset", .space = SPACE_PIO, .base = 0x80, .size = 1, .enabled = true,
		.ops = &reset_ops, .arg = b->m,
	};
	pthread_t t;

	assert_int_equal(region_add(b->m->map, &r), 0);
	machine_add_device(b->m, &x.dev);
	b->fill = fill_out;
	start(b);
	b->reason = KVM_EXIT_IO;
	while (!b->exits)
		usleep(100);
	/* The main loop is late: the guest must not get to what comes after its reset. */
	usleep(20000);
	assert_int_equal(b->exits, 1);
	assert_int_equal(thread_create(&t, "quit", quit_later, &x), 0);
	assert_int_equal(machine_run(b->m), MACHINE_QUIT);
	thread_join(t);
	assert_int_equal(x.resets, 2);
	bed_free(b);
}

static void create_failures(void **state)
{
	static const unsigned long requests[] = {
		KVM_CREATE_VM, KVM_SET_TSS_ADDR, KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2,
		KVM_SET_USER_MEMORY_REGION, KVM_SET_GSI_ROUTING, KVM_CREATE_VCPU, KVM_SET_CPUID2,
		KVM_GET_SUPPORTED_CPUID, KVM_GET_IRQCHIP, KVM_GET_SREGS,
	};
	struct machine_config c = { .name = "test", .cpus = 3, .mem = 1 << 20, .log_fd = -1 };
	struct machine *m;
	struct fake_kvm k;
	struct err e;

	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		fake_kvm_init(&k);
		fake_kvm_fail(&k, requests[i], 1, ENOMEM);
		e.text[0] = '\0';
		assert_int_equal(machine_create(&m, &c, &k.api, &e), -ENOMEM);
		assert_true(strlen(e.text) > 10);
		assert_int_equal(fake_kvm_fini(&k), 0); /* nothing left open */
	}
	/* The third vCPU only. */
	fake_kvm_init(&k);
	fake_kvm_fail(&k, KVM_CREATE_VCPU, 3, ENOMEM);
	assert_int_equal(machine_create(&m, &c, &k.api, &e), -ENOMEM);
	assert_non_null(strstr(e.text, "vCPU 2"));
	assert_int_equal(fake_kvm_fini(&k), 0);
	/* A missing capability is named. */
	fake_kvm_init(&k);
	fake_kvm_set_cap(&k, KVM_CAP_IRQ_ROUTING, false);
	assert_int_equal(machine_create(&m, &c, &k.api, &e), -ENOTSUP);
	assert_non_null(strstr(e.text, "KVM_CAP_IRQ_ROUTING"));
	assert_int_equal(fake_kvm_fini(&k), 0);

	fake_kvm_init(&k);
	c.mem = 4097;
	assert_int_equal(machine_create(&m, &c, &k.api, &e), -EINVAL);
	c.mem = 0;
	assert_int_equal(machine_create(&m, &c, &k.api, &e), -EINVAL);
	c.mem = 1 << 20;
	c.cpus = 0;
	assert_int_equal(machine_create(&m, &c, &k.api, &e), -EINVAL);
	c.cpus = 256;
	assert_int_equal(machine_create(&m, &c, &k.api, &e), -EINVAL);
	c.cpus = 1;
	c.irqchip = IRQCHIP_SPLIT;
	assert_int_equal(machine_create(&m, &c, &k.api, &e), -ENOTSUP);
	assert_int_equal(fake_kvm_fini(&k), 0);
}

static void no_device_node(void **state)
{
	struct machine_config c = { .name = "test", .cpus = 1, .mem = 1 << 20, .log_fd = -1 };
	struct kvmapi missing = { &dev_kvm_ops, "/nonexistent/kvm" };
	struct kvmapi no_kvm = { &dev_kvm_ops, "/dev/null" };
	struct machine *m;
	struct err e;

	assert_int_equal(machine_create(&m, &c, &missing, &e), -ENOENT);
	assert_non_null(strstr(e.text, "/nonexistent/kvm does not exist"));
	assert_true(machine_create(&m, &c, &no_kvm, &e) < 0);
	assert_true(strlen(e.text) > 10);
}

/* RAM: the low part, the hole, the high part; nothing straddles. */
static void ram_accessors(void **state)
{
	struct ram r;
	struct err e;
	uint8_t buf[8] = "belfry!";
	uint64_t low = LAYOUT_RAM_LOW_MAX;

	assert_int_equal(ram_create(&r, low + (1 << 20), &e), 0);
	assert_int_equal(r.low_size, low);
	assert_int_equal(ram_high_end(&r), LAYOUT_RAM_HIGH + (1 << 20));
	assert_ptr_equal(ram_ptr(&r, 0, 1), r.host);
	assert_ptr_equal(ram_ptr(&r, low - 1, 1), r.host + low - 1);
	assert_null(ram_ptr(&r, low - 1, 2));
	assert_null(ram_ptr(&r, low, 1));
	assert_null(ram_ptr(&r, LAYOUT_RAM_HIGH - 1, 1));
	assert_ptr_equal(ram_ptr(&r, LAYOUT_RAM_HIGH, 1), r.host + low);
	assert_non_null(ram_ptr(&r, LAYOUT_RAM_HIGH, 1 << 20));
	assert_null(ram_ptr(&r, LAYOUT_RAM_HIGH + 1, 1 << 20));
	assert_null(ram_ptr(&r, UINT64_MAX, 2));
	assert_null(ram_ptr(&r, 16, UINT64_MAX));
	assert_null(ram_ptr(&r, 16, 0));
	assert_int_equal(ram_write(&r, LAYOUT_RAM_HIGH + 5, buf, 8), 0);
	memset(buf, 0, 8);
	assert_int_equal(ram_read(&r, LAYOUT_RAM_HIGH + 5, buf, 8), 0);
	assert_string_equal((char *)buf, "belfry!");
	assert_int_equal(ram_read(&r, low - 4, buf, 8), -EFAULT);
	assert_int_equal(ram_write(&r, low - 4, buf, 8), -EFAULT);
	assert_string_equal((char *)buf, "belfry!");
	ram_destroy(&r);
	ram_destroy(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exit_reasons),
		cmocka_unit_test(harmless_exits),
		cmocka_unit_test(nowhere),
		cmocka_unit_test(triple_fault_resets),
		cmocka_unit_test(triple_fault_at_once_fails),
		cmocka_unit_test(quit_beats_reset),
		cmocka_unit_test(run_fails),
		cmocka_unit_test(pause_rounds),
		cmocka_unit_test(pause_serves_calls),
		cmocka_unit_test(pause_finishes_strings),
		cmocka_unit_test(triple_fault_stops_the_cpu),
		cmocka_unit_test(port_reset_stops_the_cpu),
		cmocka_unit_test(create_failures),
		cmocka_unit_test(no_device_node),
		cmocka_unit_test(ram_accessors),
	};

	return RUN(tests);
}
