/* SPDX-License-Identifier: MIT
 *
 * engine/debug: breakpoints and single steps, the guest's own and those of a
 * debugger outside. SDM vol. 3, "Debug, Branch Profile, TSC, …": "Debug
 * Registers", "Debug Exceptions".
 *
 * While a breakpoint is armed every instruction goes through the executor of
 * single instructions (must_step()), whose operands all pass seg_linear(): that
 * is where data accesses are seen. Without one nothing is paid.
 */
#include "engine/engine_priv.h"

#define DR6_FIXED 0xffff0ff0u
#define DR7_GD	  (1ull << 13)

enum { BP_EXEC, BP_WRITE, BP_IO, BP_DATA };

void debug_update(struct engine_vcpu *v)
{
	bool outside = v->debug & ENGINE_DEBUG_HWBP;

	for (unsigned int i = 0; i < 4; i++)
		v->bp[i] = outside ? v->dbg_bp[i] : v->dr[i];
	v->bp7 = outside ? v->dbg_bp7 : v->dr7;
	v->bp_on = v->bp7 & 0xff;
}

/* Bits of the enabled breakpoints of these kinds (1 << BP_*) that [addr, addr+size) touches. */
static uint64_t matches(const struct engine_vcpu *v, unsigned int kinds, uint64_t addr, unsigned int size)
{
	static const uint8_t bytes[4] = {1, 2, 8, 4}; /* by the LEN field */
	uint64_t hit = 0;

	for (unsigned int i = 0; i < 4; i++) {
		unsigned int ctl = (unsigned int)(v->bp7 >> (16 + 4 * i)) & 15, len = bytes[ctl >> 2];
		uint64_t at = v->bp[i] & ~(uint64_t)(len - 1);

		if ((v->bp7 >> (2 * i) & 3) && (kinds >> (ctl & 3) & 1) && addr < at + len && at < addr + size)
			hit |= 1ull << i;
	}
	return hit;
}

bool debug_fetch(struct engine_vcpu *v)
{
	uint64_t hit;

	if (!v->bp_on || (v->vflags & FL_RF) || (v->shadow == 2 && !(v->feat & FEAT_AMD)))
		return false;
	hit = matches(v, 1u << BP_EXEC, rip_linear(v), 1);
	if (hit)
		v->exc = (struct exc){.vector = V_DB, .payload = hit};
	return hit;
}

void debug_data(struct engine_vcpu *v, uint64_t lin, unsigned int size, bool write)
{
	v->bp_hit |= matches(v, 1u << BP_DATA | (write ? 1u << BP_WRITE : 0), lin, size);
}

void debug_port(struct engine_vcpu *v, uint16_t port, unsigned int size)
{
	if (v->bp_on && (v->cr4 & CR4_DE))
		v->bp_hit |= matches(v, 1u << BP_IO, port, size);
}

int debug_general_detect(struct engine_vcpu *v)
{
	if (!(v->bp7 & DR7_GD))
		return X_NEXT;
	v->exc = (struct exc){.vector = V_DB, .payload = 1ull << 13};
	return X_FAULT;
}

/*
 * The instruction at the old RIP is done. MOV SS and POP SS hold everything back
 * for one more instruction; what TF asked for is lost then, what data
 * breakpoints found is not ("Masking Exceptions and Interrupts When Switching
 * Stacks").
 */
void debug_insn_done(struct engine_vcpu *v)
{
	v->pending_db |= v->bp_hit;
	v->bp_hit = 0;
	if (v->step_tf && v->shadow_new != 2)
		v->pending_db |= DB_STEP;
}

bool debug_exit(struct engine_vcpu *v, const struct exc *e)
{
	struct engine_exit *x = v->exit;

	if (e->vector != V_DB || !(v->debug & (ENGINE_DEBUG_STEP | ENGINE_DEBUG_HWBP)))
		return false;
	x->reason = ENGINE_EXIT_DEBUG;
	x->vector = V_DB;
	x->dr6 = DR6_FIXED | e->payload;
	x->dr7 = v->bp7 | 0x400;
	x->rip = rip_linear(v);
	return true;
}

/* B0 to B3 are those of this exception; the other bits stay until software clears them. */
void dr6_set(struct engine_vcpu *v, uint64_t bits)
{
	v->dr6 = (v->dr6 & ~0xfull) | bits;
}

/* ---- the registers ---- */

static unsigned int dr_number(const struct engine_vcpu *v, unsigned int n)
{
	return (n == 4 || n == 5) && !(v->cr4 & CR4_DE) ? n + 2 : n;
}

int dr_read(struct engine_vcpu *v, unsigned int n, uint64_t *val)
{
	n = dr_number(v, n);
	if (n == 4 || n == 5 || n > 7)
		return raise_ud(v);
	if (debug_general_detect(v))
		return X_FAULT;
	*val = n < 4 ? v->dr[n] : n == 6 ? v->dr6 : v->dr7;
	return X_NEXT;
}

int dr_write(struct engine_vcpu *v, unsigned int n, uint64_t val)
{
	n = dr_number(v, n);
	if (n == 4 || n == 5 || n > 7)
		return raise_ud(v);
	if (debug_general_detect(v))
		return X_FAULT;
	if (n >= 6 && val >> 32)
		return raise_gp(v, 0);
	/* addresses may be non-canonical: they match nothing */
	if (n < 4)
		v->dr[n] = val;
	else if (n == 6)
		v->dr6 = (val & 0xe00f) | DR6_FIXED;
	else
		v->dr7 = (val & 0xffff2bffu) | 0x400;
	debug_update(v);
	return X_NEXT;
}

void engine_get_debugregs(const struct engine_vcpu *v, struct engine_debugregs *d)
{
	for (int i = 0; i < 4; i++)
		d->db[i] = v->dr[i];
	d->dr6 = v->dr6;
	d->dr7 = v->dr7;
}

int engine_set_debugregs(struct engine_vcpu *v, const struct engine_debugregs *d)
{
	if (d->dr6 >> 32 || d->dr7 >> 32)
		return -EINVAL;
	for (int i = 0; i < 4; i++)
		v->dr[i] = d->db[i];
	v->dr6 = d->dr6;
	v->dr7 = d->dr7;
	debug_update(v);
	return 0;
}

void engine_set_breakpoints(struct engine_vcpu *v, const uint64_t address[4], uint64_t dr7)
{
	for (int i = 0; i < 4; i++)
		v->dbg_bp[i] = address[i];
	v->dbg_bp7 = dr7;
	debug_update(v);
}

void engine_set_debug(struct engine_vcpu *v, uint32_t flags)
{
	v->debug = flags;
	debug_update(v);
	mode_update(v);
}
