/* SPDX-License-Identifier: MIT
 * The guest's TSC: the host's, at another rate if one was set, plus an offset. A VM's vCPUs of one
 * rate share one offset as long as nobody sets them apart: what is written within a second of
 * what the VM's TSC would show then is taken to mean "the same" (a saver reads the vCPUs
 * one after the other, a loader writes them so).
 */
#include "softkvm/tsc.h"
#include "softkvm/vcpu.h"

/* As the kernel's: on hardware there is an end to what can be asked for, too. */
#define MAX_KHZ 0x7fffffffu

uint64_t vcpu_tsc_at(const struct soft_vcpu *v, uint64_t host)
{
	return engine_tsc_scaled(v->cpu, host) + engine_get_tsc_offset(v->cpu);
}

/* The kernel's tolerance of 250 ppm: that near to the host's rate, it is the host's. */
static bool is_host_rate(const struct soft_vcpu *v)
{
	uint64_t host = v->vm->tsc_khz;

	return v->tsc_khz >= host - host / 4000 && v->tsc_khz <= host + host / 4000;
}

uint32_t vcpu_tsc_rate(const struct soft_vcpu *v)
{
	return is_host_rate(v) ? v->vm->tsc_khz : v->tsc_khz;
}

bool tsc_khz_valid(uint32_t khz)
{
	return khz < MAX_KHZ;
}

static void set_khz(struct soft_vcpu *v, uint32_t khz)
{
	uint64_t ratio = ENGINE_TSC_ONE;

	v->tsc_khz = khz;
	if (!is_host_rate(v))
		ratio = (uint64_t)((unsigned __int128)ENGINE_TSC_ONE * khz / v->vm->tsc_khz);
	engine_set_tsc_ratio(v->cpu, ratio);
}

static void changed(struct soft_vcpu *v)
{
	if (v->has_lapic)
		vcpu_update_timer(v);
	vcpu_request(v, REQ_CLOCK);
}

static void apply(struct soft_vcpu *v, uint64_t offset)
{
	engine_set_tsc_offset(v->cpu, offset);
	changed(v);
}

/* As the kernel does it, the offset stays: who sets a rate sets the TSC afterwards. */
int vcpu_tsc_set_khz(struct soft_vcpu *v, uint32_t khz)
{
	if (!tsc_khz_valid(khz))
		return -EINVAL;
	set_khz(v, khz ? khz : v->vm->tsc_khz);
	changed(v);
	return 0;
}

static void remember_locked(struct soft_vcpu *v, uint64_t offset, uint64_t now, bool matched)
{
	struct tsc_sync *s = &v->vm->tsc;

	s->write_tsc = now;
	s->write = engine_tsc_scaled(v->cpu, now) + offset;
	s->khz = v->tsc_khz;
	s->last_offset = offset;
	if (!matched)
		s->offset = offset;
	s->known = true;
}

/* The offset for a value: KVM_SET_MSRS (user), or the 0 that a new vCPU starts with. */
static uint64_t synchronize(struct soft_vcpu *v, uint64_t value, bool user)
{
	struct tsc_sync *s = &v->vm->tsc;
	uint64_t now, offset, expected, second = (uint64_t)v->tsc_khz * 1000;
	bool same;

	mutex_lock(&s->lock);
	now = host_tsc();
	offset = value - engine_tsc_scaled(v->cpu, now);
	expected = s->write + engine_tsc_scaled(v->cpu, now - s->write_tsc);
	same = !value || (s->user_set && value < expected + second && value + second > expected);
	same &= s->known && s->khz == v->tsc_khz;
	if (same)
		offset = s->offset;
	s->user_set |= user;
	remember_locked(v, offset, now, same);
	mutex_unlock(&s->lock);
	return offset;
}

void vcpu_tsc_init(struct soft_vcpu *v)
{
	set_khz(v, READ_ONCE(v->vm->default_tsc_khz));
	engine_set_tsc_offset(v->cpu, synchronize(v, 0, false));
}

void vcpu_tsc_load(struct soft_vcpu *v, uint64_t value)
{
	apply(v, synchronize(v, value, true));
}

void vcpu_tsc_set_offset(struct soft_vcpu *v, uint64_t offset)
{
	struct tsc_sync *s = &v->vm->tsc;

	mutex_lock(&s->lock);
	s->user_set = true;
	remember_locked(v, offset, host_tsc(), s->known && s->khz == v->tsc_khz && s->last_offset == offset);
	mutex_unlock(&s->lock);
	apply(v, offset);
}

/* SDM "IA32_TSC_ADJUST Register Support": a guest's write to either shows in both. */
void vcpu_tsc_write(struct soft_vcpu *v, uint64_t value)
{
	uint64_t old = engine_get_tsc_offset(v->cpu), offset = value - engine_tsc_scaled(v->cpu, host_tsc());

	v->tsc_adjust += offset - old;
	apply(v, offset);
}

void vcpu_tsc_write_adjust(struct soft_vcpu *v, uint64_t value)
{
	uint64_t offset = engine_get_tsc_offset(v->cpu) + value - v->tsc_adjust;

	v->tsc_adjust = value;
	apply(v, offset);
}
