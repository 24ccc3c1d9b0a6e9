/* SPDX-License-Identifier: MIT
 *
 * engine/system: privileged and environment instructions. SDM vol. 2, their
 * pages; vol. 3, "Control Registers".
 */
#include "engine/decode.h"

#include <Zydis/Zydis.h>

/* Ports: IOPL, then the permission bitmap of the TSS. SDM vol. 1, "I/O Permission Bit Map". */
int io_allowed(struct engine_vcpu *v, uint16_t port, unsigned int len)
{
	const struct seg *t = &v->seg[S_TR];
	uint16_t map, bits;
	int r;

	if (is_real(v) || (!is_vm86(v) && (v->mode & MODE_IOPL)))
		return X_NEXT;
	if (!(t->attr & 8) || t->limit < 0x67)
		return raise_gp(v, 0);
	r = gmem_read(v, t->base + 0x66, &map, 2, system_mode(v));
	if (r)
		return r;
	if ((uint32_t)map + port / 8 + 1 > t->limit)
		return raise_gp(v, 0);
	r = gmem_read(v, t->base + map + port / 8, &bits, 2, system_mode(v));
	if (r)
		return r;
	return (bits >> (port % 8)) & ((1u << len) - 1) ? raise_gp(v, 0) : X_NEXT;
}

static int in_out(struct engine_vcpu *v, const struct insn *in)
{
	bool out = in->mnem == ZYDIS_MNEMONIC_OUT;
	unsigned int len = in->opcode & 1 ? (in->opsize == 2 ? 2 : 4) : 1;
	uint16_t port = in->opcode & 8 ? (uint16_t)v->gpr[R_DX] : (uint16_t)(in->imm & 0xff);
	uint64_t d = v->gpr[R_AX] & (len == 4 ? 0xffffffffu : (1u << (8 * len)) - 1);
	int r = io_allowed(v, port, len);

	if (!r)
		r = io_access(v, port, len, out, &d);
	if (!r && !out)
		gpr_set(v, R_AX, len, false, d);
	return r;
}

static int rd_wr_msr(struct engine_vcpu *v, bool write)
{
	uint32_t index = (uint32_t)v->gpr[R_CX];
	uint64_t val = (v->gpr[R_DX] << 32) | (v->gpr[R_AX] & 0xffffffffu);
	int r;

	if (cpl(v))
		return raise_gp(v, 0);
	if (v->replay_n) {
		val = v->replay[0].data;
		r = v->replay[0].failed;
	} else {
		fpu_put(v);
		guest_leave(v);
		r = write ? v->ops->wrmsr(v->cpu, index, val) : v->ops->rdmsr(v->cpu, index, &val);
		guest_enter(v);
	}
	if (r == 2) {
		v->replay[v->replay_n++] = (struct replay){.space = 3};
		v->replay_wait = true;
		v->exit->reason = ENGINE_EXIT_MSR;
		v->exit->failed = false;
		v->exit->access = (struct engine_access){.addr = index, .len = 8, .write = write,
							 .data = write ? val : 0};
		return X_EXIT;
	}
	if (r)
		return raise_gp(v, 0);
	if (!write) {
		v->gpr[R_AX] = (uint32_t)val;
		v->gpr[R_DX] = val >> 32;
	}
	return X_NEXT;
}

static void cpuid(struct engine_vcpu *v)
{
	uint32_t leaf = (uint32_t)v->gpr[R_AX], sub = (uint32_t)v->gpr[R_CX], r[4] = {0};

	fpu_put(v);
	guest_leave(v);
	v->ops->cpuid(v->cpu, leaf, sub, r);
	guest_enter(v);
	if (leaf == 1)
		r[2] = (r[2] & ~(1u << 27)) | (v->cr4 & CR4_OSXSAVE ? 1u << 27 : 0);
	v->gpr[R_AX] = r[0];
	v->gpr[R_BX] = r[1];
	v->gpr[R_CX] = r[2];
	v->gpr[R_DX] = r[3];
}

/* INT n, INT3, INTO, INT1: delivered with the RIP behind them. */
static int soft_int(struct engine_vcpu *v, const struct insn *in, uint8_t vec, bool soft)
{
	uint64_t rip = v->rip;
	int r;

	if (is_vm86(v) && in->mnem == ZYDIS_MNEMONIC_INT && (v->vflags & FL_IOPL) != FL_IOPL)
		return raise_gp(v, 0);
	v->vflags &= ~FL_RF;
	r = event_deliver(v, vec, soft, false, 0, rip + in->len, false);
	if (r == X_JUMP)
		v->step_tf = false; /* the handler is not stepped into */
	return r;
}

/*
 * The other vendor's instruction. It is written over as the kernel's emulator does it: at RIP, prefixes or
 * not, as the guest may write there, and only where that instruction may be (VMCALL at CPL 0).
 */
static int hypercall_fix(struct engine_vcpu *v)
{
	static const uint8_t vmcall[] = {0x0f, 0x01, 0xc1}, vmmcall[] = {0x0f, 0x01, 0xd9};
	bool amd = v->feat & FEAT_AMD;
	int r;

	if (amd && cpl(v))
		return raise_gp(v, 0);
	fpu_put(v);
	if (!v->ops->fixes_hypercall || !v->ops->fixes_hypercall(v->cpu) || (!amd && (is_real(v) || is_vm86(v))))
		return raise_ud(v);
	r = gmem_write(v, rip_linear(v), amd ? vmmcall : vmcall, sizeof(vmcall), data_mode(v));
	if (r)
		return r;
	v->step_tf = false; /* nothing has been executed yet */
	return X_JUMP;
}

static int hypercall(struct engine_vcpu *v)
{
	uint64_t args[4] = {v->gpr[R_BX], v->gpr[R_CX], v->gpr[R_DX], v->gpr[R_SI]}, res = 0;
	uint64_t nr = v->gpr[R_AX];

	if (!v->ops->hypercall)
		return raise_ud(v);
	if (!(v->mode & MODE_64)) {
		nr = (uint32_t)nr;
		for (int i = 0; i < 4; i++)
			args[i] = (uint32_t)args[i];
	}
	if (v->replay_n) {
		res = v->replay[0].data;
	} else {
		int r;

		fpu_put(v);
		guest_leave(v);
		r = cpl(v) ? ((res = (uint64_t)-EPERM), 0) : v->ops->hypercall(v->cpu, nr, args, &res);
		guest_enter(v);
		if (r) {
			v->replay[v->replay_n++] = (struct replay){.space = 2};
			v->replay_wait = true;
			v->exit->reason = ENGINE_EXIT_HYPERCALL;
			v->exit->access = (struct engine_access){.addr = nr, .len = 8};
			for (int i = 0; i < 4; i++)
				v->exit->args[i] = args[i];
			return X_EXIT;
		}
	}
	gpr_set(v, R_AX, v->mode & MODE_64 ? 8 : 4, false, res);
	return X_NEXT;
}

static int base_access(struct engine_vcpu *v, const struct insn *in)
{
	int s = in->mnem == ZYDIS_MNEMONIC_RDFSBASE || in->mnem == ZYDIS_MNEMONIC_WRFSBASE ? S_FS : S_GS;
	unsigned int w = in->rm.width;

	if (!(v->cr4 & CR4_FSGSBASE) || !(v->mode & MODE_64))
		return raise_ud(v);
	if (in->kind == K_RDBASE) {
		gpr_set(v, in->rm.g, w, false, v->seg[s].base);
		return X_NEXT;
	}
	uint64_t val = gpr_get(v, in->rm.g, w, false);

	if (!is_canonical(val))
		return raise_gp(v, 0);
	v->seg[s].base = val;
	return X_NEXT;
}

static int tsc(struct engine_vcpu *v, bool aux)
{
	uint64_t t = 0;

	if ((v->cr4 & CR4_TSD) && cpl(v))
		return raise_gp(v, 0);
	(void)msr_read(v, 0x10, &t);
	v->gpr[R_AX] = (uint32_t)t;
	v->gpr[R_DX] = t >> 32;
	if (aux)
		v->gpr[R_CX] = (uint32_t)v->tsc_aux;
	return X_NEXT;
}

int sys_exec(struct engine_vcpu *v, const struct insn *in)
{
	int r;

	switch (in->mnem) {
	case ZYDIS_MNEMONIC_HLT:
		if (cpl(v))
			return raise_gp(v, 0);
		v->exit->reason = ENGINE_EXIT_HLT;
		return X_LEAVE;
	case ZYDIS_MNEMONIC_CLI:
		if (!(v->mode & MODE_IOPL))
			return raise_gp(v, 0);
		v->iff = 0;
		return X_NEXT;
	case ZYDIS_MNEMONIC_STI:
		if (!(v->mode & MODE_IOPL))
			return raise_gp(v, 0);
		if (!v->iff)
			v->shadow_new = 1;
		v->iff = 2;
		return X_NEXT;
	case ZYDIS_MNEMONIC_CLD:
		v->df = 0;
		return X_NEXT;
	case ZYDIS_MNEMONIC_STD:
		v->df = 4;
		return X_NEXT;
	case ZYDIS_MNEMONIC_STAC:
	case ZYDIS_MNEMONIC_CLAC:
		if (cpl(v))
			return raise_ud(v);
		v->vflags = (v->vflags & ~FL_AC) | (in->mnem == ZYDIS_MNEMONIC_STAC ? FL_AC : 0);
		mode_update(v);
		return X_NEXT;
	case ZYDIS_MNEMONIC_SWAPGS: {
		uint64_t t = v->seg[S_GS].base;

		if (!(v->mode & MODE_64))
			return raise_ud(v);
		if (cpl(v))
			return raise_gp(v, 0);
		v->seg[S_GS].base = v->kernel_gs;
		v->kernel_gs = t;
		return X_NEXT;
	}
	case ZYDIS_MNEMONIC_RDFSBASE:
	case ZYDIS_MNEMONIC_RDGSBASE:
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE:
		return base_access(v, in);
	case ZYDIS_MNEMONIC_RDTSC:
		return tsc(v, false);
	case ZYDIS_MNEMONIC_RDTSCP:
		return tsc(v, true);
	case ZYDIS_MNEMONIC_RDPID:
		gpr_set(v, in->rm.g, in->rm.width, false, v->tsc_aux);
		return X_NEXT;
	case ZYDIS_MNEMONIC_RDPMC:
		return raise_gp(v, 0);
	case ZYDIS_MNEMONIC_RDMSR:
		return rd_wr_msr(v, false);
	case ZYDIS_MNEMONIC_WRMSR:
		return rd_wr_msr(v, true);
	case ZYDIS_MNEMONIC_CPUID:
		cpuid(v);
		return X_NEXT;
	case ZYDIS_MNEMONIC_IN:
	case ZYDIS_MNEMONIC_OUT:
		return in_out(v, in);
	case ZYDIS_MNEMONIC_INT:
		return soft_int(v, in, (uint8_t)in->imm, true);
	case ZYDIS_MNEMONIC_INT3:
		if (v->debug & ENGINE_DEBUG_BP) {
			v->exit->reason = ENGINE_EXIT_DEBUG;
			v->exit->vector = V_BP;
			v->exit->rip = rip_linear(v);
			v->rip -= in->len; /* stays on the breakpoint */
			return X_LEAVE;
		}
		return soft_int(v, in, V_BP, true);
	case ZYDIS_MNEMONIC_INTO:
		return flags_get(v) & FL_OF ? soft_int(v, in, V_OF, true) : X_NEXT;
	case ZYDIS_MNEMONIC_INT1: {
		/* a debug exception, not an interrupt: it takes with it what MOV SS held back */
		uint64_t held = v->pending_db;

		v->exc = (struct exc){.vector = V_DB, .payload = held};
		if (debug_exit(v, &v->exc)) {
			/* as after any trap, so that who hands it on to the guest hands on the right RIP */
			v->exit->rip += in->len;
			v->pending_db = 0;
			v->step_tf = false;
			return X_LEAVE;
		}
		dr6_set(v, held);
		r = soft_int(v, in, V_DB, false);
		if (r == X_JUMP)
			v->pending_db = 0;
		return r;
	}
	case ZYDIS_MNEMONIC_VMCALL:
	case ZYDIS_MNEMONIC_VMMCALL:
		if (v->ops->hypercall && (in->mnem == ZYDIS_MNEMONIC_VMMCALL) != !!(v->feat & FEAT_AMD))
			return hypercall_fix(v);
		return hypercall(v);
	case ZYDIS_MNEMONIC_SERIALIZE:
		return X_NEXT;
	default:
		return raise_ud(v);
	}
}

/* ---- control registers ---- */

static int cr0_write(struct engine_vcpu *v, uint64_t val)
{
	uint64_t old = v->cr0;

	val |= CR0_ET;
	if (!cr0_valid(val))
		return raise_gp(v, 0);
	if ((val & CR0_PG) && !(old & CR0_PG)) {
		if (v->efer & EFER_LME) {
			if (!(v->cr4 & CR4_PAE) || (v->seg[S_CS].attr & SEG_L))
				return raise_gp(v, 0);
			v->efer |= EFER_LMA;
		} else if (v->cr4 & CR4_PAE) {
			int r = pdptes_load(v, v->cr3);

			if (r)
				return r;
		}
	} else if (!(val & CR0_PG) && (old & CR0_PG)) {
		if ((v->mode & MODE_64) || (v->cr4 & CR4_PCIDE))
			return raise_gp(v, 0);
		v->efer &= ~EFER_LMA;
	}
	v->cr0 = val;
	if ((old ^ val) & (CR0_PG | CR0_WP | CR0_PE))
		tlb_flush_all(v);
	if ((old & ~val) & CR0_PE) {
		/* back to real mode: CPL is 0 by definition */
		v->seg[S_SS].attr &= (uint16_t)~(3 << 5);
	}
	mode_update(v);
	return X_NEXT;
}

int cr3_write(struct engine_vcpu *v, uint64_t val)
{
	bool pcide = v->cr4 & CR4_PCIDE, keep = pcide && val >> 63;
	uint64_t old = v->cr3;

	if (pcide)
		val &= ~(1ull << 63);
	if (is_long(v) && (val & ~(v->phys_mask | 0xfff)))
		return raise_gp(v, 0);
	if ((v->cr0 & CR0_PG) && (v->cr4 & CR4_PAE) && !is_long(v)) {
		int r = pdptes_load(v, val);

		if (r)
			return r;
	}
	v->cr3 = val;
	if (pcide)
		pcid_switch(v, old & CR3_PCID, val & CR3_PCID, keep);
	else
		tlb_flush_private(v);
	return X_NEXT;
}

uint64_t engine_cr4_bits(void (*ask)(void *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]), void *cpu)
{
	uint64_t ok = CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE |
		      CR4_OSFXSR | CR4_OSXMMEXCPT;
	uint32_t r[4] = {0};

	ask(cpu, 1, 0, r);
	if (r[2] >> 17 & 1)
		ok |= CR4_PCIDE;
	if (r[2] >> 26 & 1)
		ok |= CR4_OSXSAVE;
	r[1] = r[2] = 0;
	ask(cpu, 7, 0, r);
	if (r[1] & 1)
		ok |= CR4_FSGSBASE;
	if (r[1] >> 7 & 1)
		ok |= CR4_SMEP;
	if (r[1] >> 20 & 1)
		ok |= CR4_SMAP;
	if (r[2] >> 2 & 1)
		ok |= CR4_UMIP;
	return ok;
}

static int cr4_write(struct engine_vcpu *v, uint64_t val)
{
	uint64_t old = v->cr4, diff = old ^ val;

	fpu_put(v);
	if (val & ~engine_cr4_bits(v->ops->cpuid, v->cpu))
		return raise_gp(v, 0);
	if (is_long(v) && !(val & CR4_PAE))
		return raise_gp(v, 0);
	if ((val & CR4_PCIDE) && !(old & CR4_PCIDE) && (!is_long(v) || (v->cr3 & 0xfff)))
		return raise_gp(v, 0);
	if ((v->cr0 & CR0_PG) && !is_long(v) && (val & CR4_PAE) && (diff & (CR4_PAE | CR4_PGE | CR4_PSE))) {
		int r = pdptes_load(v, v->cr3);

		if (r)
			return r;
	}
	v->cr4 = val;
	if (diff & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP))
		tlb_flush_all(v);
	if (diff & CR4_SMAP)
		code_flush(v); /* STAC and CLAC are translated differently */
	mode_update(v);
	return X_NEXT;
}

static int mov_cr(struct engine_vcpu *v, const struct insn *in)
{
	unsigned int cr = in->reg_no, w = in->code == 8 ? 8 : 4, g = in->rm.on ? in->rm.g : in->rm_no;
	uint64_t val = gpr_get(v, g, w, false);

	if (in->lock && cr == 0)
		cr = 8;
	if (cpl(v))
		return raise_gp(v, 0);
	if (!(in->opcode & 2)) {
		switch (cr) {
		case 0:
			val = v->cr0;
			break;
		case 2:
			val = v->cr2;
			break;
		case 3:
			val = v->cr3;
			break;
		case 4:
			val = v->cr4;
			break;
		case 8:
			fpu_put(v);
			val = v->ops->cr8_read ? v->ops->cr8_read(v->cpu) : 0;
			break;
		default:
			return raise_ud(v);
		}
		gpr_set(v, g, w, false, val);
		return X_NEXT;
	}
	switch (cr) {
	case 0:
		return cr0_write(v, val);
	case 2:
		v->cr2 = val;
		return X_NEXT;
	case 3:
		return cr3_write(v, val);
	case 4:
		return cr4_write(v, val);
	case 8:
		if (val > 15)
			return raise_gp(v, 0);
		fpu_put(v);
		if (v->ops->cr8_write)
			v->ops->cr8_write(v->cpu, val);
		atomic_fetch_or(&v->attn, ENGINE_KICK_INTR);
		return X_NEXT;
	default:
		return raise_ud(v);
	}
}

static int mov_dr(struct engine_vcpu *v, const struct insn *in)
{
	unsigned int n = in->reg_no, w = in->code == 8 ? 8 : 4, g = in->rm.on ? in->rm.g : in->rm_no;
	uint64_t val = gpr_get(v, g, w, false);
	int r;

	if (cpl(v))
		return raise_gp(v, 0);
	if (in->opcode & 2)
		return dr_write(v, n, val);
	r = dr_read(v, n, &val);
	if (!r)
		gpr_set(v, g, w, false, val);
	return r;
}

static int invpcid(struct engine_vcpu *v, const struct insn *in)
{
	uint64_t type = gpr_get(v, in->reg.g, in->code == 8 ? 8 : 4, false), d[2], lin;
	bool mine;
	int r;

	if (cpl(v))
		return raise_gp(v, 0);
	r = ea_linear(v, in, 16, false, &lin);
	if (!r)
		r = gmem_read(v, lin, d, 16, data_mode(v));
	if (r)
		return r;
	if (type > 3 || (d[0] >> 12 && type < 2) || (!(v->cr4 & CR4_PCIDE) && type < 2 && (d[0] & 0xfff)))
		return raise_gp(v, 0);
	if (type == 0 && !is_canonical(d[1]))
		return raise_gp(v, 0);
	/* more may go than is asked for: global pages, by types 0 and 1 */
	mine = !(v->cr4 & CR4_PCIDE) || d[0] == (v->cr3 & CR3_PCID);
	switch (type) {
	case 0:
		if (mine)
			tlb_flush_page(v, d[1]);
		else
			pcid_forget_page(v, (unsigned int)d[0], d[1]);
		break;
	case 1:
		if (mine)
			tlb_flush_private(v);
		else
			pcid_forget(v, (unsigned int)d[0]);
		break;
	case 2:
		tlb_flush_all(v);
		break;
	default:
		tlb_flush_private(v);
		pcid_forget_all(v);
		break;
	}
	return X_NEXT;
}

static int xcr(struct engine_vcpu *v, bool set)
{
	uint32_t index = (uint32_t)v->gpr[R_CX];
	uint64_t val = (v->gpr[R_DX] << 32) | (v->gpr[R_AX] & 0xffffffffu);

	if (!(v->cr4 & CR4_OSXSAVE))
		return raise_ud(v);
	if (!set) {
		if (index > 1)
			return raise_gp(v, 0);
		val = v->xcr0;
		if (index == 1) {
			/* XINUSE: exact enough after a save */
			fpu_put(v);
			val = *(uint64_t *)(v->xsave + 512) & v->xcr0;
		}
		v->gpr[R_AX] = (uint32_t)val;
		v->gpr[R_DX] = val >> 32;
		return X_NEXT;
	}
	if (cpl(v) || index || engine_set_xcr0(v, val))
		return raise_gp(v, 0);
	return X_NEXT;
}

int ctl_exec(struct engine_vcpu *v, const struct insn *in)
{
	uint64_t lin = 0, val = 0;
	int r;

	switch (in->mnem) {
	case ZYDIS_MNEMONIC_MOV:
		return in->opcode & 1 ? mov_dr(v, in) : mov_cr(v, in);
	case ZYDIS_MNEMONIC_CLTS:
		if (cpl(v))
			return raise_gp(v, 0);
		v->cr0 &= ~CR0_TS;
		mode_update(v);
		return X_NEXT;
	case ZYDIS_MNEMONIC_SMSW:
		if ((v->cr4 & CR4_UMIP) && cpl(v))
			return raise_gp(v, 0);
		if (!in->has_mem) {
			gpr_set(v, in->rm.on ? in->rm.g : in->rm_no, in->opsize, false, v->cr0);
			return X_NEXT;
		}
		r = ea_linear(v, in, 2, true, &lin);
		return r ? r : gmem_write(v, lin, &v->cr0, 2, data_mode(v));
	case ZYDIS_MNEMONIC_LMSW:
		if (cpl(v))
			return raise_gp(v, 0);
		if (in->has_mem) {
			r = ea_linear(v, in, 2, false, &lin);
			if (!r)
				r = gmem_read(v, lin, &val, 2, data_mode(v));
			if (r)
				return r;
		} else {
			val = v->gpr[in->rm.on ? in->rm.g : in->rm_no];
		}
		/* PE can be set, not cleared */
		return cr0_write(v, (v->cr0 & ~0xeull) | (val & 0xf));
	case ZYDIS_MNEMONIC_INVLPG:
		if (cpl(v))
			return raise_gp(v, 0);
		val = ea_offset(v, in);
		if (v->mode & MODE_64)
			lin = val + (in->seg >= S_FS ? v->seg[in->seg].base : 0);
		else
			lin = (v->seg[in->seg].base + val) & 0xffffffffu;
		if (!(v->mode & MODE_64) || is_canonical(lin))
			tlb_flush_page(v, lin);
		return X_NEXT;
	case ZYDIS_MNEMONIC_INVPCID:
		return invpcid(v, in);
	case ZYDIS_MNEMONIC_XSETBV:
		return xcr(v, true);
	case ZYDIS_MNEMONIC_XGETBV:
		return xcr(v, false);
	default: /* WBINVD, WBNOINVD, INVD: caches are the host's */
		return cpl(v) ? raise_gp(v, 0) : X_NEXT;
	}
}
