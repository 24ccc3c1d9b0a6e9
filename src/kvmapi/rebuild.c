/* SPDX-License-Identifier: MIT
 * A seam over another one, for tests: every so many exits the whole VM is read
 * through the KVM API, made anew from what was read, and the old one destroyed,
 * while whoever is above notices nothing but an EINTR. docs/VCPU.md, "Taken
 * apart and rebuilt".
 *
 * Above, an fd is one of /dev/null that stands for whatever VM or vCPU is the
 * present one; a vCPU's pages stay where they were mapped.
 */
#include "kvmapi/journal.h"
#include "kvmapi/kvmapi_priv.h"
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Sent to the threads of vCPUs until they have come out of the guest; KICK_SIGNAL is the VMM's. */
#define STOP_SIGNAL  (SIGRTMIN + 1)
#define NUDGE_NS     1000000
#define MAX_NUDGES   500u /* then the VMM holds one back, and this time passes */
#define PAGE	     4096u

struct rb_vcpu {
	struct rb_vm *vm;
	int fd;			/* what the VMM holds, -1: closed */
	struct vcpu vcpu;	/* the present one */
	size_t mapped;		/* the VMM's mapping is vcpu.run, of this size; 0: none */
	struct journal journal;
	_Atomic pid_t thread;	/* in KVM_RUN, or was */
	bool parked;		/* vm->stop_lock */
	struct vcpu_state *state;
	struct rb_vcpu *next;
};

struct rb_vm {
	struct rebuild *rb;
	int fd;
	struct vm vm;
	struct journal journal;
	struct rb_vcpu *vcpus;
	unsigned nr_vcpus;
	pthread_rwlock_t lock;	/* written: another VM takes its place; read: over every call but KVM_RUN */
	_Atomic uint64_t exits;
	_Atomic bool stopping;
	pthread_mutex_t stop_lock;
	pthread_cond_t all_here;
	unsigned parked, round;
	int result;		/* of the last round */
	struct rb_vm *next;
};

struct rebuild {
	struct kvmapi inner;
	struct sys sys;		/* ours, for the VMs we make */
	uint64_t every;
	struct kvm_msr_list *msrs;
	pthread_mutex_t lock;	/* vms and their vcpus, as lists */
	struct rb_vm *vms;
	_Atomic uint64_t done, put_off;
};

/* ---- taking apart and rebuilding: all vCPUs are parked, vm->lock is written --------- */

static struct rb_vcpu *vcpu_by_id(struct rb_vm *vm, unsigned id)
{
	struct rb_vcpu *v = vm->vcpus;

	while (v && v->vcpu.id != id)
		v = v->next;
	return v;
}

static bool can_be_rebuilt(const struct rb_vm *vm)
{
	if (vm->journal.beyond)
		return false;
	for (const struct rb_vcpu *v = vm->vcpus; v; v = v->next)
		if (v->journal.beyond)
			return false;
	for (const struct journal_entry *e = vm->journal.first; e; e = e->next)
		if (e->request == KVM_SET_USER_MEMORY_REGION &&
		    ((const struct kvm_userspace_memory_region *)e->data)->flags & KVM_MEM_LOG_DIRTY_PAGES)
			return false; /* the log cannot be put back */
	return true;
}

/* From now on a signal stays in its eventfd; what was taken before is in the chips. */
static void unbind_irqfds(struct rb_vm *vm, struct vm *from)
{
	for (struct journal_entry *e = vm->journal.first; e; e = e->next)
		if (e->request == KVM_IRQFD)
			(void)vm_unbind_irqfd(from, e->fd, ((struct kvm_irqfd *)e->data)->gsi);
}

static int bind_irqfds(struct rb_vm *vm, struct vm *to)
{
	const uint64_t one = 1;
	int r = 0;

	for (struct journal_entry *e = vm->journal.first; e && !r; e = e->next) {
		if (e->request != KVM_IRQFD)
			continue;
		r = vm_ioctl_val(to, e->request, journal_arg(e));
		/* Unbinding lowered the line: let the source raise it again if it still asks. */
		if (!r && e->fd2 >= 0)
			(void)!write(e->fd2, &one, sizeof(one));
	}
	return r;
}

static int replay(struct journal *j, struct vm *vm, int fd, struct vcpu *made, unsigned *nr_made)
{
	int r = 0;

	for (struct journal_entry *e = j->first; e && r >= 0; e = e->next) {
		if (e->request == KVM_IRQFD)
			continue;
		if (e->request == KVM_CREATE_VCPU) {
			r = vcpu_open(&made[*nr_made], vm, (unsigned)e->value);
			if (!r)
				++*nr_made;
			continue;
		}
		r = api_ioctl(&vm->sys->api, fd, e->request, journal_arg(e));
	}
	return MIN(r, 0);
}

static int save_all(struct rb_vm *vm, struct chips_state **chips, struct kvm_clock_data *clock,
		    uint64_t *clock_ns_then)
{
	struct kvm_msr_list *l = vm->rb->msrs;
	int r = 0;

	for (struct rb_vcpu *v = vm->vcpus; v && !r; v = v->next)
		r = vcpu_state_save(&v->vcpu, l->indices, l->nmsrs, &v->state);
	if (!r && vm_chips_save(&vm->vm, chips))
		*chips = NULL; /* there are none */
	if (!r)
		r = vm_get_clock(&vm->vm, clock);
	*clock_ns_then = clock_ns();
	return r;
}

static int load_all(struct rb_vm *vm, struct vm *to, struct vcpu *made, unsigned nr,
		    const struct chips_state *chips, const struct kvm_clock_data *clock, uint64_t then)
{
	struct kvm_clock_data c = { 0 };
	int r = 0;

	for (unsigned i = 0; i < nr && !r; i++) {
		struct rb_vcpu *v = vcpu_by_id(vm, made[i].id);

		r = replay(&v->journal, to, made[i].fd, NULL, NULL);
		if (!r)
			r = vcpu_state_load(&made[i], v->state);
	}
	/* After the local APICs: what the IOAPIC then delivers goes there. */
	if (!r && chips)
		r = vm_chips_load(to, chips);
	c.clock = clock->clock + (clock_ns() - then);
	return r ? r : vm_set_clock(to, &c);
}

/* The pages of the new vCPU take the place of the old one's, with what was in them. */
static int move_pages(struct rb_vcpu *v, struct vcpu *new)
{
	size_t size = v->vm->rb->sys.vcpu_mmap_size;

	memcpy(new->run, v->vcpu.run, size);
	for (size_t at = 0; at < MIN(size, v->mapped); at += PAGE)
		if (mremap((char *)new->run + at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
			   (char *)v->vcpu.run + at) == MAP_FAILED)
			return -errno;
	new->run = v->vcpu.run;
	return 0;
}

static int take_its_place(struct rb_vm *vm, struct vm *new, struct vcpu *made, unsigned nr)
{
	const struct kvmapi *api = &vm->rb->inner;

	for (unsigned i = 0; i < nr; i++) {
		struct rb_vcpu *v = vcpu_by_id(vm, made[i].id);
		int old = v->vcpu.fd, r = move_pages(v, &made[i]);

		if (r)
			return r;
		v->vcpu = made[i];
		v->vcpu.vm = &vm->vm;
		(void)api->ops->close(api->ctx, old);
	}
	vm_destroy(&vm->vm);
	vm->vm = *new;
	return 0;
}

static int rebuild_locked(struct rb_vm *vm)
{
	struct vcpu *made = calloc(vm->nr_vcpus, sizeof(*made));
	struct chips_state *chips = NULL;
	struct kvm_clock_data clock;
	uint64_t then = 0;
	unsigned nr = 0;
	struct vm new;
	int r;

	if (!made)
		return -ENOMEM;
	unbind_irqfds(vm, &vm->vm);
	r = save_all(vm, &chips, &clock, &then);
	if (r)
		goto free_states;
	r = vm_create(&new, &vm->rb->sys);
	if (r)
		goto free_states;
	r = replay(&vm->journal, &new, new.fd, made, &nr);
	if (!r)
		r = load_all(vm, &new, made, nr, chips, &clock, then);
	if (!r)
		r = take_its_place(vm, &new, made, nr);
	if (!r)
		r = bind_irqfds(vm, &vm->vm);
free_states:
	for (struct rb_vcpu *v = vm->vcpus; v; v = v->next) {
		vcpu_state_free(v->state);
		v->state = NULL;
	}
	free(chips);
	free(made);
	return r;
}

/* ---- stopping all vCPUs ---------------------------------------------------------------- */

static void on_stop_signal(int sig)
{
	/* KVM_RUN returns with EINTR, that is all. */
}

/* Those that are still out; a signal that comes before KVM_RUN is lost, hence again and again. */
static void nudge_locked(struct rb_vm *vm)
{
	for (struct rb_vcpu *v = vm->vcpus; v; v = v->next) {
		pid_t thread = atomic_load(&v->thread);

		if (!v->parked && thread)
			(void)syscall(SYS_tgkill, getpid(), thread, STOP_SIGNAL);
	}
}

static void finish_round_locked(struct rb_vm *vm, int result)
{
	vm->result = result;
	vm->round++;
	atomic_store(&vm->stopping, false);
	pthread_cond_broadcast(&vm->all_here);
}

static int park_locked(struct rb_vm *vm)
{
	unsigned round = vm->round;

	for (unsigned n = 0; vm->round == round; n++) {
		struct timespec until;

		if (n == MAX_NUDGES) {
			vm->rb->put_off++;
			finish_round_locked(vm, 0);
			break;
		}
		nudge_locked(vm);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += NUDGE_NS;
		if (until.tv_nsec >= (long)NSEC_PER_SEC) {
			until.tv_sec++;
			until.tv_nsec -= (long)NSEC_PER_SEC;
		}
		(void)pthread_cond_timedwait(&vm->all_here, &vm->stop_lock, &until);
	}
	return vm->result;
}

/* On the vCPU's thread, outside of the guest, with nothing in flight. */
static int park(struct rb_vcpu *v)
{
	struct rb_vm *vm = v->vm;
	int r = 0;

	mutex_lock(&vm->stop_lock);
	if (!atomic_load(&vm->stopping))
		goto unlock;
	v->parked = true;
	if (++vm->parked == vm->nr_vcpus) {
		pthread_rwlock_wrlock(&vm->lock);
		r = rebuild_locked(vm);
		pthread_rwlock_unlock(&vm->lock);
		if (!r)
			vm->rb->done++;
		finish_round_locked(vm, r);
	} else {
		r = park_locked(vm);
	}
	vm->parked--;
	v->parked = false;
unlock:
	mutex_unlock(&vm->stop_lock);
	return r;
}

static void set_immediate_exit(struct rb_vcpu *v, uint8_t value)
{
	atomic_store((_Atomic uint8_t *)&v->vcpu.run->immediate_exit, value);
}

/*
 * Finish the access in flight ("KVM_EXIT_IO" and others: the state is whole only
 * after KVM_RUN was entered again), then wait for the others. The caller is told
 * EINTR: a kick of its own may have come with ours, and it looks.
 */
static int stop(struct rb_vcpu *v)
{
	int r;

	set_immediate_exit(v, 1);
	r = vcpu_run(&v->vcpu);
	if (r != -EINTR)
		return r; /* the same instruction's next access */
	r = park(v);
	set_immediate_exit(v, 0);
	return r ? r : -EINTR;
}

static void ask_to_stop(struct rb_vm *vm)
{
	bool can;

	pthread_rwlock_rdlock(&vm->lock);
	can = can_be_rebuilt(vm);
	pthread_rwlock_unlock(&vm->lock);
	if (can)
		atomic_store(&vm->stopping, true);
}

static int run(struct rb_vcpu *v)
{
	struct rb_vm *vm = v->vm;
	int r;

	if (!atomic_load(&v->thread)) {
		sigset_t s;

		sigemptyset(&s);
		sigaddset(&s, STOP_SIGNAL);
		(void)pthread_sigmask(SIG_UNBLOCK, &s, NULL);
		atomic_store(&v->thread, thread_id());
	}
	if (atomic_load(&vm->stopping))
		return stop(v);
	r = vcpu_run(&v->vcpu);
	if (!r && (atomic_fetch_add(&vm->exits, 1) + 1) % vm->rb->every == 0)
		ask_to_stop(vm);
	return r;
}

/* ---- the seam --------------------------------------------------------------------------- */

static struct rb_vm *find_vm(struct rebuild *rb, int fd)
{
	struct rb_vm *vm;

	mutex_lock(&rb->lock);
	for (vm = rb->vms; vm && vm->fd != fd; vm = vm->next)
		;
	mutex_unlock(&rb->lock);
	return vm;
}

static struct rb_vcpu *find_vcpu(struct rebuild *rb, int fd)
{
	struct rb_vcpu *v = NULL;

	mutex_lock(&rb->lock);
	for (struct rb_vm *vm = rb->vms; vm && !v; vm = vm->next)
		for (v = vm->vcpus; v && v->fd != fd; v = v->next)
			;
	mutex_unlock(&rb->lock);
	return v;
}

static int create_vm(struct rebuild *rb, uintptr_t type)
{
	struct rb_vm *vm;
	int r;

	if (type)
		return -EINVAL;
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return -ENOMEM;
	vm->rb = rb;
	vm->fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (vm->fd < 0) {
		r = -errno;
		goto free_it;
	}
	r = vm_create(&vm->vm, &rb->sys);
	if (r)
		goto close_fd;
	(void)pthread_rwlock_init(&vm->lock, NULL);
	mutex_init(&vm->stop_lock);
	pthread_cond_init(&vm->all_here, NULL);
	mutex_lock(&rb->lock);
	vm->next = rb->vms;
	rb->vms = vm;
	mutex_unlock(&rb->lock);
	return vm->fd;

close_fd:
	close(vm->fd);
free_it:
	free(vm);
	return r;
}

/* vm->lock is read. */
static int create_vcpu(struct rb_vm *vm, unsigned id)
{
	struct rb_vcpu *v = calloc(1, sizeof(*v));
	int r;

	if (!v)
		return -ENOMEM;
	v->vm = vm;
	v->fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (v->fd < 0) {
		r = -errno;
		goto free_it;
	}
	r = vcpu_open(&v->vcpu, &vm->vm, id);
	if (r)
		goto close_fd;
	mutex_lock(&vm->rb->lock);
	v->next = vm->vcpus;
	vm->vcpus = v;
	vm->nr_vcpus++;
	mutex_unlock(&vm->rb->lock);
	return v->fd;

close_fd:
	close(v->fd);
free_it:
	free(v);
	return r;
}

static int vm_call(struct rb_vm *vm, unsigned long request, uintptr_t arg)
{
	int r;

	pthread_rwlock_rdlock(&vm->lock);
	if (request == KVM_CREATE_VCPU)
		r = create_vcpu(vm, (unsigned)arg);
	else
		r = vm_ioctl_val(&vm->vm, request, arg);
	if (r >= 0) {
		mutex_lock(&vm->rb->lock);
		journal_note(&vm->journal, request, arg);
		mutex_unlock(&vm->rb->lock);
	}
	pthread_rwlock_unlock(&vm->lock);
	return r;
}

static int vcpu_call(struct rb_vcpu *v, unsigned long request, uintptr_t arg)
{
	int r;

	if (request == KVM_RUN)
		return run(v);
	pthread_rwlock_rdlock(&v->vm->lock);
	r = api_ioctl(&v->vm->rb->inner, v->vcpu.fd, request, arg);
	if (r >= 0)
		journal_note(&v->journal, request, arg);
	pthread_rwlock_unlock(&v->vm->lock);
	return r;
}

static int rb_open(void *ctx)
{
	struct rebuild *rb = ctx;

	return rb->inner.ops->open(rb->inner.ctx);
}

static int rb_ioctl(void *ctx, int fd, unsigned long request, uintptr_t arg)
{
	struct rebuild *rb = ctx;
	struct rb_vcpu *v = find_vcpu(rb, fd);
	struct rb_vm *vm = v ? NULL : find_vm(rb, fd);

	if (v)
		return vcpu_call(v, request, arg);
	if (vm)
		return vm_call(vm, request, arg);
	if (request == KVM_CREATE_VM)
		return create_vm(rb, arg);
	return api_ioctl(&rb->inner, fd, request, arg);
}

/* The mapping is the one we have for ourselves. */
static int rb_mmap(void *ctx, int fd, size_t size, uint64_t offset, void **out)
{
	struct rebuild *rb = ctx;
	struct rb_vcpu *v = find_vcpu(rb, fd);

	if (!v)
		return rb->inner.ops->mmap(rb->inner.ctx, fd, size, offset, out);
	if (v->mapped || offset || size > rb->sys.vcpu_mmap_size)
		return -EINVAL;
	v->mapped = rb->sys.vcpu_mmap_size;
	*out = v->vcpu.run;
	return 0;
}

/* It goes with the vCPU. */
static int rb_munmap(void *ctx, void *p, size_t size)
{
	return 0;
}

static int close_vm(struct rb_vm *vm)
{
	struct rebuild *rb = vm->rb;

	mutex_lock(&rb->lock);
	for (struct rb_vm **at = &rb->vms; *at; at = &(*at)->next)
		if (*at == vm) {
			*at = vm->next;
			break;
		}
	mutex_unlock(&rb->lock);
	while (vm->vcpus) {
		struct rb_vcpu *v = vm->vcpus;

		vm->vcpus = v->next;
		vcpu_close(&v->vcpu);
		journal_clear(&v->journal);
		free(v);
	}
	vm_destroy(&vm->vm);
	journal_clear(&vm->journal);
	pthread_cond_destroy(&vm->all_here);
	mutex_destroy(&vm->stop_lock);
	(void)pthread_rwlock_destroy(&vm->lock);
	close(vm->fd);
	free(vm);
	return 0;
}

/* As in KVM a closed vCPU stays in its VM; who closes one will not run it again. */
static int rb_close(void *ctx, int fd)
{
	struct rebuild *rb = ctx;
	struct rb_vcpu *v = find_vcpu(rb, fd);
	struct rb_vm *vm = v ? NULL : find_vm(rb, fd);

	if (vm)
		return close_vm(vm);
	if (!v)
		return rb->inner.ops->close(rb->inner.ctx, fd);
	v->vm->journal.beyond = true;
	v->fd = -1;
	return close(fd) < 0 ? -errno : 0;
}

static const struct kvmapi_ops rebuild_ops = {
	.name = "rebuild", .open = rb_open, .ioctl = rb_ioctl, .mmap = rb_mmap,
	.munmap = rb_munmap, .close = rb_close,
};

int rebuild_create(struct kvmapi *out, const struct kvmapi *inner, uint64_t every, struct err *e)
{
	struct sigaction sa = { .sa_handler = on_stop_signal };
	struct rebuild *rb = calloc(1, sizeof(*rb));
	int r;

	if (!rb)
		return err_set(e, -ENOMEM, "no memory");
	rb->inner = *inner;
	rb->every = every;
	r = sys_open(&rb->sys, inner, e);
	if (r)
		goto free_it;
	r = sys_msr_list(&rb->sys, &rb->msrs);
	if (r) {
		(void)err_set(e, r, "KVM_GET_MSR_INDEX_LIST failed: %s", strerror(-r));
		goto close_sys;
	}
	sigemptyset(&sa.sa_mask);
	if (sigaction(STOP_SIGNAL, &sa, NULL) < 0) {
		r = err_set(e, -errno, "cannot install a signal handler");
		goto free_msrs;
	}
	mutex_init(&rb->lock);
	*out = (struct kvmapi){ .ops = &rebuild_ops, .ctx = rb };
	return 0;

free_msrs:
	free(rb->msrs);
close_sys:
	sys_close(&rb->sys);
free_it:
	free(rb);
	return r;
}

bool rebuild_is(const struct kvmapi *api)
{
	return api->ops == &rebuild_ops;
}

void rebuild_figures(const struct kvmapi *api, uint64_t *done, uint64_t *put_off)
{
	struct rebuild *rb = api->ctx;

	*done = rb->done;
	*put_off = rb->put_off;
}

void rebuild_destroy(struct kvmapi *api)
{
	struct rebuild *rb = api->ctx;

	while (rb->vms)
		(void)close_vm(rb->vms);
	*api = rb->inner;
	sys_close(&rb->sys);
	free(rb->msrs);
	mutex_destroy(&rb->lock);
	free(rb);
}
