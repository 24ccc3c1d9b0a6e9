/* SPDX-License-Identifier: MIT
 * The guest's TSC: the host's plus an offset. A VM's vCPUs share one offset as
 * long as nobody sets them apart: what is written within a second of what the
 * VM's TSC would show then is taken to mean "the same" (a saver reads the vCPUs
 * one after the other, a loader writes them so).
 */
#include "softkvm/tsc.h"
#include "softkvm/vcpu.h"

static void apply(struct soft_vcpu *v, uint64_t offset)
{
	engine_set_tsc_offset(v->cpu, offset);
	if (v->has_lapic)
		vcpu_update_timer(v);
	vcpu_request(v, REQ_CLOCK);
}

static void remember_locked(struct tsc_sync *s, uint64_t offset, uint64_t now, bool matched)
{
	s->write_tsc = now;
	s->write = now + offset;
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
	offset = value - now;
	expected = s->write + (now - s->write_tsc);
	same = !value || (s->user_set && value < expected + second && value + second > expected);
	same &= s->known;
	if (same)
		offset = s->offset;
	s->user_set |= user;
	remember_locked(s, offset, now, same);
	mutex_unlock(&s->lock);
	return offset;
}

void vcpu_tsc_init(struct soft_vcpu *v)
{
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
	remember_locked(s, offset, host_tsc(), s->known && s->last_offset == offset);
	mutex_unlock(&s->lock);
	apply(v, offset);
}

/* SDM "IA32_TSC_ADJUST Register Support": a guest's write to either shows in both. */
void vcpu_tsc_write(struct soft_vcpu *v, uint64_t value)
{
	uint64_t old = engine_get_tsc_offset(v->cpu), offset = value - host_tsc();

	v->tsc_adjust += offset - old;
	apply(v, offset);
}

void vcpu_tsc_write_adjust(struct soft_vcpu *v, uint64_t value)
{
	uint64_t offset = engine_get_tsc_offset(v->cpu) + value - v->tsc_adjust;

	v->tsc_adjust = value;
	apply(v, offset);
}
