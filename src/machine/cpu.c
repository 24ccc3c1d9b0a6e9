/* SPDX-License-Identifier: MIT
 * vCPU threads: life cycle and run loop. What each exit means is in cpu_exit.c.
 */
#include "machine/cpu_priv.h"
#include <signal.h>
#include <stdio.h>

#define KICK_SIGNAL SIGRTMIN
#define MAX_FINISH  4096

/* MSRs that a reset must put back and KVM does not hold elsewhere. */
static const uint32_t reset_msrs[] = {
	0x174, 0x175, 0x176,                                    /* SYSENTER */
	0x1a0,                                                  /* MISC_ENABLE */
	0x277,                                                  /* PAT */
	0x2ff,                                                  /* MTRR default type */
	0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084,         /* STAR, LSTAR, CSTAR, FMASK */
	0xc0000102,                                             /* KERNEL_GS_BASE */
	0xc0000103,                                             /* TSC_AUX */
	0x6e0,                                                  /* TSC deadline */
	0x4b564d00, 0x4b564d01,                                 /* kvmclock */
	0x4b564d02, 0x4b564d03, 0x4b564d04,                     /* async PF, steal time, PV EOI */
};

static void on_kick(int sig)
{
	/* Its arrival is all: KVM_RUN returns with EINTR. */
}

static int install_kick_handler(void)
{
	struct sigaction sa = { .sa_handler = on_kick };

	sigemptyset(&sa.sa_mask);
	return sigaction(KICK_SIGNAL, &sa, NULL) < 0 ? -errno : 0;
}

int cpu_create(struct cpu *c, struct machine *m, unsigned index, const struct kvm_cpuid2 *cpuid,
	       struct err *e)
{
	int r;

	*c = (struct cpu){ .machine = m, .index = index };
	r = vcpu_open(&c->vcpu, &m->vm, index);
	if (r)
		return err_set(e, r, "KVM refuses vCPU %u (%s): use fewer --cpus", index,
			       strerror(-r));
	r = cpuid_set(&c->vcpu, cpuid, index, m->config.cpus);
	if (r) {
		(void)err_set(e, r, "KVM refuses the CPUID of vCPU %u: %s", index, strerror(-r));
		goto close_vcpu;
	}
	r = vcpu_state_save(&c->vcpu, reset_msrs, ARRAY_SIZE(reset_msrs), &c->power_on);
	if (r) {
		(void)err_set(e, r, "cannot read the state of vCPU %u: %s", index, strerror(-r));
		goto close_vcpu;
	}
	r = install_kick_handler();
	if (r)
		goto free_state;
	mutex_init(&c->lock);
	pthread_cond_init(&c->cond, NULL);
	region_reader_add(m->map, &c->reader);
	return 0;

free_state:
	vcpu_state_free(c->power_on);
close_vcpu:
	vcpu_close(&c->vcpu);
	c->machine = NULL;
	return r;
}

/* The kernel reads it whenever it enters: one byte, stored whole. */
static void set_immediate_exit(struct cpu *c, uint8_t value)
{
	atomic_store((_Atomic uint8_t *)&c->vcpu.run->immediate_exit, value);
}

/*
 * An exit may leave an instruction half done inside the KVM half (the data of
 * an IN not yet in its register). Entering with immediate_exit finishes it and
 * comes straight back, so that the state can be read or replaced. Finishing one
 * access may bring the next of the same instruction (REP OUTS, 16 bytes to
 * MMIO): an exit as any other. The kernel makes at most 1,024 of them before it
 * looks at immediate_exit; a KVM half that never looks must not hang a pause.
 */
static void finish_exit(struct cpu *c)
{
	for (unsigned i = 0; i < MAX_FINISH; i++) {
		set_immediate_exit(c, 1);
		if (vcpu_run(&c->vcpu))
			return;
		cpu_handle_exit(c);
	}
}

/* Stay out while asked to. Returns false when the thread shall end. */
static bool stay_out(struct cpu *c)
{
	bool go_on;

	finish_exit(c);
	mutex_lock(&c->lock);
	while (c->hold && !c->leave) {
		if (!c->held) {
			c->held = true;
			loop_wake(c->machine->loop);
		}
		pthread_cond_wait(&c->cond, &c->lock);
	}
	c->held = false;
	go_on = !c->leave;
	atomic_store(&c->want_out, false);
	mutex_unlock(&c->lock);
	return go_on;
}

static void *cpu_thread(void *arg)
{
	struct cpu *c = arg;
	sigset_t kick;

	sigemptyset(&kick);
	sigaddset(&kick, KICK_SIGNAL);
	(void)pthread_sigmask(SIG_UNBLOCK, &kick, NULL);

	for (;;) {
		int r;

		if (atomic_load(&c->want_out) && !stay_out(c))
			return NULL;
		r = vcpu_run(&c->vcpu);
		if (r == -EINTR || r == -EAGAIN) {
			/* Clear first, then look: docs/VCPU.md. */
			set_immediate_exit(c, 0);
			continue;
		}
		if (r < 0)
			cpu_run_failed(c, r);
		else
			cpu_handle_exit(c);
	}
}

int cpu_start(struct cpu *c)
{
	char name[16];
	int r;

	c->hold = true;
	atomic_store(&c->want_out, true);
	snprintf(name, sizeof(name), "vcpu%u", c->index);
	r = thread_create(&c->thread, name, cpu_thread, c);
	if (!r)
		c->has_thread = true;
	return r;
}

void cpu_kick(struct cpu *c)
{
	if (!c->has_thread)
		return;
	/* The flag first: a thread on its way into KVM_RUN then comes back at once. */
	set_immediate_exit(c, 1);
	(void)pthread_kill(c->thread, KICK_SIGNAL);
}

void cpu_ask_hold(struct cpu *c)
{
	mutex_lock(&c->lock);
	c->hold = true;
	atomic_store(&c->want_out, true);
	mutex_unlock(&c->lock);
	cpu_kick(c);
}

bool cpu_is_held(struct cpu *c)
{
	bool held;

	mutex_lock(&c->lock);
	held = c->held || !c->has_thread;
	mutex_unlock(&c->lock);
	return held;
}

void cpu_hold(struct cpu *c)
{
	cpu_ask_hold(c);
	while (!cpu_is_held(c))
		loop_serve(c->machine->loop);
}

void cpu_release(struct cpu *c)
{
	mutex_lock(&c->lock);
	c->hold = false;
	pthread_cond_signal(&c->cond);
	mutex_unlock(&c->lock);
}

void cpu_destroy(struct cpu *c)
{
	if (!c->machine)
		return;
	if (c->has_thread) {
		cpu_hold(c);
		mutex_lock(&c->lock);
		c->leave = true;
		pthread_cond_signal(&c->cond);
		mutex_unlock(&c->lock);
		thread_join(c->thread);
	}
	region_reader_del(c->machine->map, &c->reader);
	vcpu_close(&c->vcpu);
	vcpu_state_free(c->power_on);
	pthread_cond_destroy(&c->cond);
	mutex_destroy(&c->lock);
	c->machine = NULL;
}

int cpu_reset(struct cpu *c)
{
	return vcpu_state_load(&c->vcpu, c->power_on);
}
