/* SPDX-License-Identifier: MIT
 *
 * engine/fault: the host's own exceptions in translated code (#DE, #MF, #XM,
 * alignment, #UD) arrive as signals. A slot's memory may be less than it promises
 * (protected, a file cut short): that ends engine_run(), also from C. What is left
 * belongs to others and is passed on. Signal dispositions belong to the process, so this file, alone
 * in the room, has state at file scope: what was installed before us.
 */
#include "engine/cache.h"

#include <signal.h>
#include <string.h>
#include <ucontext.h>

static const int signals[] = {SIGFPE, SIGSEGV, SIGBUS, SIGILL};
#define N_SIGNALS (sizeof(signals) / sizeof(signals[0]))

static struct sigaction previous[N_SIGNALS]; /* process-wide: so are signal handlers */
static pthread_mutex_t install_lock = PTHREAD_MUTEX_INITIALIZER; /* process-wide */
static __thread struct engine_vcpu *current;

enum { TRAP_DE = 0, TRAP_UD = 6, TRAP_SS = 12, TRAP_GP = 13, TRAP_PF = 14, TRAP_MF = 16, TRAP_AC = 17,
       TRAP_XM = 19 };

static bool ours(struct engine_vcpu *v, ucontext_t *uc)
{
	uint64_t rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
	struct cache *c = v ? v->cache : NULL;

	if (!c || rip - (uint64_t)c->rx >= c->size)
		return false;
	v->fault_host = rip;
	v->fault_foreign = false;
	switch (uc->uc_mcontext.gregs[REG_TRAPNO]) {
	case TRAP_DE:
		v->fault_vector = V_DE;
		break;
	case TRAP_UD:
		v->fault_vector = V_UD;
		break;
	case TRAP_SS:
	case TRAP_GP:
		v->fault_vector = V_GP;
		break;
	case TRAP_MF:
		v->fault_vector = V_MF;
		break;
	case TRAP_XM:
		v->fault_vector = v->cr4 & CR4_OSXMMEXCPT ? V_XM : V_UD;
		break;
	default:
		/* the host cannot give the memory that a slot promises */
		v->fault_foreign = true;
		break;
	}
	uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uint64_t)cache_rx(c, c->s_fault);
	return true;
}

/* Goes back to engine_run(), on the stack of the C code that met the fault. */
static void recover(struct engine_vcpu *v)
{
	__builtin_longjmp(v->recover, 1);
}

static bool in_slot(const struct engine_vcpu *v, uint64_t host)
{
	for (unsigned int i = 0; i < v->map->n; i++) {
		const struct slot *s = container_of(v->map->at[i], struct slot, r);

		if (host - (uint64_t)s->host < s->r.size)
			return true;
	}
	return false;
}

/* A fault of the engine's C on guest memory. */
static bool ours_in_c(struct engine_vcpu *v, int sig, const siginfo_t *si, ucontext_t *uc)
{
	greg_t *r = uc->uc_mcontext.gregs;

	if (!v || !atomic_load(&v->in_guest) || (sig != SIGSEGV && sig != SIGBUS) || !in_slot(v, (uint64_t)si->si_addr) ||
	    (v->ops->handles_fault && v->ops->handles_fault((uint64_t)r[REG_RIP])))
		return false;
	v->fault_host = (uint64_t)r[REG_RIP];
	v->fault_foreign = true;
	r[REG_RDI] = (greg_t)(uint64_t)v;
	r[REG_RIP] = (greg_t)(uint64_t)recover;
	/* below the red zone, aligned as after a call */
	r[REG_RSP] = (greg_t)((((uint64_t)r[REG_RSP] - 256) & ~15ull) - 8);
	return true;
}

static void handler(int sig, siginfo_t *si, void *ctx)
{
	struct sigaction *old = NULL;

	if (ours(current, ctx) || ours_in_c(current, sig, si, ctx))
		return;
	for (unsigned int i = 0; i < N_SIGNALS; i++)
		if (signals[i] == sig)
			old = &previous[i];
	if (old->sa_flags & SA_SIGINFO) {
		old->sa_sigaction(sig, si, ctx);
	} else if (old->sa_handler == SIG_DFL) {
		/* the instruction faults again and ends as it would have without us */
		(void)sigaction(sig, old, NULL);
	} else if (old->sa_handler != SIG_IGN) {
		old->sa_handler(sig);
	}
}

int engine_faults_take(void)
{
	int r = 0;

	/* again for each vCPU: the hosting program may have put its own in place since */
	mutex_lock(&install_lock);
	for (unsigned int i = 0; i < N_SIGNALS && !r; i++) {
		struct sigaction sa, now;

		if (sigaction(signals[i], NULL, &now)) {
			r = -errno;
			break;
		}
		if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == handler)
			continue;
		previous[i] = now;
		memset(&sa, 0, sizeof(sa));
		sa.sa_sigaction = handler;
		sa.sa_flags = SA_SIGINFO | SA_ONSTACK;
		sigemptyset(&sa.sa_mask);
		if (sigaction(signals[i], &sa, NULL))
			r = -errno;
	}
	mutex_unlock(&install_lock);
	return r;
}

void fault_thread_set(struct engine_vcpu *v)
{
	current = v;
}
