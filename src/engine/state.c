/* SPDX-License-Identifier: MIT
 *
 * engine/state: registers as the outside and C code see them, and the mode bits
 * that the rest derives from.
 */
#include "engine/cache.h"

uint32_t flags_get(const struct engine_vcpu *v)
{
	uint32_t f = 2u | v->vflags | (uint32_t)v->iff << 8 | (uint32_t)v->df << 8;

	f |= (v->hflags >> 8) & (FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF);
	if (v->hflags & 1)
		f |= FL_OF;
	return f;
}

void flags_set(struct engine_vcpu *v, uint32_t f)
{
	v->vflags = f & FL_VIRT;
	v->iff = f & FL_IF ? 2 : 0;
	v->df = f & FL_DF ? 4 : 0;
	v->hflags = (uint16_t)((f & 0xd5) << 8 | 0x200 | (f & FL_OF ? 1 : 0));
}

/* A segment through which plain 32-bit code sees linear addresses unchanged. */
static bool seg_flat(const struct seg *s)
{
	return s->base == 0 && s->limit == 0xffffffffu && (s->attr & SEG_P) && !(s->attr & SEG_UNUSABLE);
}

static bool seg_flat_data(const struct seg *s)
{
	/* writable data, not expand-down */
	return seg_flat(s) && (s->attr & (SEG_S | 0xe)) == (SEG_S | 2);
}

void mode_update(struct engine_vcpu *v)
{
	uint32_t m = 0;
	unsigned int c = is_real(v) ? 0 : is_vm86(v) ? 3 : SEG_DPL(v->seg[S_SS].attr);

	if (!is_real(v) && (v->seg[S_SS].attr & SEG_UNUSABLE))
		c = SEG_DPL(v->seg[S_SS].attr);
	m |= c;
	if (c != 3 && (!(v->cr4 & CR4_SMAP) || (v->vflags & FL_AC)))
		m |= MODE_AC;
	if (!(v->cr0 & (CR0_EM | CR0_TS))) {
		m |= MODE_X87;
		if (v->cr4 & CR4_OSFXSR)
			m |= MODE_SSE;
		if ((v->cr4 & CR4_OSXSAVE) && (v->xcr0 & 6) == 6 && !is_real(v) && !is_vm86(v))
			m |= v->xcr0 & XCR0_AVX512 ? MODE_AVX | MODE_AVX512 : MODE_AVX;
	}
	if (c <= (v->vflags & FL_IOPL) >> 12)
		m |= MODE_IOPL;
	if ((!(v->cr4 & CR4_TSD) || c == 0) && v->tsc_ratio == ENGINE_TSC_ONE)
		m |= MODE_TSC;
	if (v->cr4 & CR4_FSGSBASE)
		m |= MODE_FSGS;
	if (c == 3 && (v->cr0 & CR0_AM) && (v->vflags & FL_AC))
		m |= MODE_ALIGN;
	if (is_long(v) && (v->seg[S_CS].attr & SEG_L))
		m |= MODE_64;
	else if (!is_real(v) && !is_vm86(v) && (v->seg[S_CS].attr & SEG_DB) && (v->seg[S_SS].attr & SEG_DB) &&
		 seg_flat(&v->seg[S_CS]) && (v->seg[S_CS].attr & 2) && seg_flat_data(&v->seg[S_SS]) &&
		 seg_flat_data(&v->seg[S_DS]) && seg_flat_data(&v->seg[S_ES]))
		m |= MODE_FLAT32;
	if (v->debug & ENGINE_DEBUG_ONE)
		m |= MODE_STEP;
	v->mode = m;
}

void engine_get_regs(const struct engine_vcpu *v, struct engine_regs *r)
{
	for (int i = 0; i < 16; i++)
		r->gpr[i] = v->gpr[i];
	r->rip = v->rip;
	r->rflags = flags_get(v);
}

/* The caller sends the CPU elsewhere: an access in flight is no longer anybody's. */
static void drop_access(struct engine_vcpu *v)
{
	v->replay_n = v->replay_i = 0;
	v->replay_wait = false;
}

void engine_set_regs(struct engine_vcpu *v, const struct engine_regs *r)
{
	if (r->rip != v->rip)
		drop_access(v);
	for (int i = 0; i < 16; i++)
		v->gpr[i] = r->gpr[i];
	v->rip = r->rip;
	flags_set(v, (uint32_t)r->rflags);
	v->halted = false;
	mode_update(v);
}

static void seg_to_api(struct engine_segment *d, const struct seg *s)
{
	d->base = s->base;
	d->limit = s->limit;
	d->selector = s->sel;
	d->type = s->attr & SEG_TYPE;
	d->s = !!(s->attr & SEG_S);
	d->dpl = SEG_DPL(s->attr);
	d->present = !!(s->attr & SEG_P);
	d->avl = !!(s->attr & SEG_AVL);
	d->l = !!(s->attr & SEG_L);
	d->db = !!(s->attr & SEG_DB);
	d->g = !!(s->attr & SEG_G);
	d->unusable = !!(s->attr & SEG_UNUSABLE);
}

void seg_from_api(struct seg *d, const struct engine_segment *s)
{
	d->base = s->base;
	d->limit = s->limit;
	d->sel = s->selector;
	d->attr = (uint16_t)((s->type & SEG_TYPE) | (s->s ? SEG_S : 0) | (s->dpl & 3) << 5 |
			     (s->present ? SEG_P : 0) | (s->avl ? SEG_AVL : 0) | (s->l ? SEG_L : 0) |
			     (s->db ? SEG_DB : 0) | (s->g ? SEG_G : 0) |
			     (s->unusable || !s->present ? SEG_UNUSABLE : 0));
}

static bool pae_paging(const struct engine_vcpu *v)
{
	return (v->cr0 & CR0_PG) && (v->cr4 & CR4_PAE) && !(v->efer & EFER_LMA);
}

void engine_get_sregs(const struct engine_vcpu *v, struct engine_sregs *s)
{
	for (int i = 0; i < 6; i++)
		seg_to_api(&s->seg[i], &v->seg[i]);
	seg_to_api(&s->ldt, &v->seg[S_LDT]);
	seg_to_api(&s->tr, &v->seg[S_TR]);
	s->gdt = (struct engine_dtable){v->gdt.base, (uint16_t)v->gdt.limit};
	s->idt = (struct engine_dtable){v->idt.base, (uint16_t)v->idt.limit};
	s->cr0 = v->cr0;
	s->cr2 = v->cr2;
	s->cr3 = v->cr3;
	s->cr4 = v->cr4;
	s->efer = v->efer;
	s->has_pdptes = pae_paging(v);
	for (int i = 0; i < 4; i++)
		s->pdpte[i] = s->has_pdptes ? v->pdpte[i] : 0;
}

bool cr0_valid(uint64_t cr0)
{
	if (cr0 >> 32)
		return false;
	if ((cr0 & CR0_PG) && !(cr0 & CR0_PE))
		return false;
	return !((cr0 & CR0_NW) && !(cr0 & CR0_CD));
}

int engine_check_sregs(struct engine_vcpu *v, const struct engine_sregs *s)
{
	if (!cr0_valid(s->cr0) || (s->cr4 & ~CR4_KNOWN))
		return -EINVAL;
	if ((s->efer & EFER_LME) && (s->cr0 & CR0_PG)) {
		if (!(s->cr4 & CR4_PAE) || !(s->efer & EFER_LMA) || s->cr3 & ~(v->phys_mask | 0xfff))
			return -EINVAL;
	} else if ((s->efer & EFER_LMA) || s->seg[S_CS].l) {
		return -EINVAL;
	}
	return 0;
}

int engine_set_sregs(struct engine_vcpu *v, const struct engine_sregs *s)
{
	int r = engine_check_sregs(v, s);

	if (r)
		return r;
	for (int i = 0; i < 6; i++)
		seg_from_api(&v->seg[i], &s->seg[i]);
	seg_from_api(&v->seg[S_LDT], &s->ldt);
	seg_from_api(&v->seg[S_TR], &s->tr);
	v->gdt.base = s->gdt.base;
	v->gdt.limit = s->gdt.limit;
	v->idt.base = s->idt.base;
	v->idt.limit = s->idt.limit;
	v->cr0 = s->cr0 | CR0_ET;
	v->cr2 = s->cr2;
	v->cr3 = s->cr3;
	if ((v->cr4 ^ s->cr4) & CR4_SMAP)
		code_flush(v); /* STAC and CLAC are translated differently */
	v->cr4 = s->cr4;
	v->efer = s->efer;
	if (pae_paging(v)) {
		for (int i = 0; s->has_pdptes && i < 4; i++)
			v->pdpte[i] = s->pdpte[i];
		if (!s->has_pdptes) {
			guest_enter(v);
			(void)pdptes_load(v, v->cr3);
			guest_leave(v);
		}
	}
	tlb_flush_all(v);
	mode_update(v);
	return 0;
}

void engine_set_cr2(struct engine_vcpu *v, uint64_t cr2)
{
	v->cr2 = cr2;
}

/*
 * Two can wait: one for now and one that comes while it is being handled. While
 * it is, one. SDM vol. 3, "Nonmaskable Interrupt (NMI)".
 */
void nmi_collect(struct engine_vcpu *v)
{
	uint32_t n = v->nmi_pending + atomic_exchange(&v->nmi_queued, 0);
	uint32_t limit = v->nmi_masked || (v->event.valid && v->event.kind == 1) ? 1 : 2;

	v->nmi_pending = (uint8_t)(n < limit ? n : limit);
}

void engine_get_events(struct engine_vcpu *v, struct engine_events *ev)
{
	nmi_collect(v);
	*ev = (struct engine_events){0};
	if (v->event.valid) {
		if (v->event.kind == 2) {
			ev->exception.injected = 1;
			ev->exception.nr = v->event.vector;
			ev->exception.has_error_code = v->event.has_error;
			ev->exception.error_code = v->event.error;
		} else if (v->event.kind == 1) {
			ev->nmi.injected = 1;
		} else {
			ev->interrupt.injected = 1;
			ev->interrupt.nr = v->event.vector;
			ev->interrupt.soft = v->event.soft;
		}
	}
	ev->interrupt.shadow = v->shadow;
	ev->nmi.pending = v->nmi_pending;
	ev->nmi.masked = v->nmi_masked;
}

int engine_set_events(struct engine_vcpu *v, const struct engine_events *ev)
{
	if (ev->exception.injected && (ev->exception.nr > 31 || ev->exception.nr == V_NMI))
		return -EINVAL;
	if (ev->interrupt.shadow > 3)
		return -EINVAL;
	v->event.valid = true;
	v->event.soft = false;
	v->event.len = 0;
	v->event.has_error = false;
	if (ev->exception.injected) {
		v->event.kind = 2;
		v->event.vector = ev->exception.nr;
		v->event.has_error = ev->exception.has_error_code;
		v->event.error = ev->exception.error_code;
	} else if (ev->nmi.injected) {
		v->event.kind = 1;
		v->event.vector = V_NMI;
	} else if (ev->interrupt.injected) {
		v->event.kind = ev->interrupt.soft ? 3 : 0;
		v->event.vector = ev->interrupt.nr;
		v->event.soft = ev->interrupt.soft;
	} else {
		v->event.valid = false;
	}
	v->shadow = ev->interrupt.shadow;
	v->nmi_masked = ev->nmi.masked;
	v->nmi_pending = 0;
	atomic_store(&v->nmi_queued, ev->nmi.pending);
	nmi_collect(v);
	return 0;
}

/* ---- MSRs of the processor itself ---- */

enum {
	MSR_TSC = 0x10, MSR_SYSENTER_CS = 0x174, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP, MSR_PAT = 0x277,
	MSR_XSS = 0xda0,
	MSR_EFER = 0xc0000080, MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_FMASK,
	MSR_FS_BASE = 0xc0000100, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_TSC_AUX,
};

static uint64_t host_tsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (uint64_t)hi << 32 | lo;
}

int msr_read(struct engine_vcpu *v, uint32_t index, uint64_t *val)
{
	switch (index) {
	case MSR_TSC:
		*val = engine_tsc_scaled(v, host_tsc()) + v->tsc_offset;
		return 0;
	case MSR_SYSENTER_CS:
		*val = v->sysenter_cs;
		return 0;
	case MSR_SYSENTER_ESP:
		*val = v->sysenter_esp;
		return 0;
	case MSR_SYSENTER_EIP:
		*val = v->sysenter_eip;
		return 0;
	case MSR_PAT:
		*val = v->pat;
		return 0;
	case MSR_XSS:
		*val = 0;
		return 0;
	case MSR_EFER:
		*val = v->efer;
		return 0;
	case MSR_STAR:
		*val = v->star;
		return 0;
	case MSR_LSTAR:
		*val = v->lstar;
		return 0;
	case MSR_CSTAR:
		*val = v->cstar;
		return 0;
	case MSR_FMASK:
		*val = v->fmask;
		return 0;
	case MSR_FS_BASE:
		*val = v->seg[S_FS].base;
		return 0;
	case MSR_GS_BASE:
		*val = v->seg[S_GS].base;
		return 0;
	case MSR_KERNEL_GS_BASE:
		*val = v->kernel_gs;
		return 0;
	case MSR_TSC_AUX:
		*val = v->tsc_aux;
		return 0;
	default:
		return -ENOENT;
	}
}

static int efer_write(struct engine_vcpu *v, uint64_t val, bool host)
{
	uint64_t ok = EFER_SCE;

	if (v->feat & FEAT_LM)
		ok |= EFER_LME | EFER_LMA;
	if (v->feat & FEAT_NX)
		ok |= EFER_NXE;
	if (host)
		ok |= EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	if (val & ~ok)
		return -EINVAL;
	/* LMA is read-only here, LME is fixed while paging */
	val = (val & ~EFER_LMA) | (v->efer & EFER_LMA);
	if (!host && (v->cr0 & CR0_PG) && ((val ^ v->efer) & EFER_LME))
		return -EINVAL;
	if ((val ^ v->efer) & EFER_NXE)
		tlb_flush_all(v);
	v->efer = val;
	mode_update(v);
	return 0;
}

static bool pat_valid(uint64_t val)
{
	for (int i = 0; i < 8; i++) {
		uint8_t t = (uint8_t)(val >> (8 * i));

		if (t > 7 || t == 2 || t == 3)
			return false;
	}
	return true;
}

/* APM vol. 2, "System-Call Extensions" and "TSC_AUX": AMD's have 32 bits and drop the others. */
static bool is_short_on_amd(uint32_t index)
{
	return index == MSR_TSC_AUX || index == MSR_SYSENTER_ESP || index == MSR_SYSENTER_EIP;
}

int msr_write(struct engine_vcpu *v, uint32_t index, uint64_t val, bool host)
{
	if ((v->feat & FEAT_AMD) && is_short_on_amd(index))
		val = (uint32_t)val;
	switch (index) {
	case MSR_TSC:
		v->tsc_offset = val - engine_tsc_scaled(v, host_tsc());
		return 0;
	case MSR_SYSENTER_CS:
		v->sysenter_cs = val;
		return 0;
	case MSR_PAT:
		if (!pat_valid(val))
			return -EINVAL;
		v->pat = val;
		return 0;
	case MSR_XSS:
		return val ? -EINVAL : 0;
	case MSR_EFER:
		return efer_write(v, val, host);
	case MSR_STAR:
		v->star = val;
		return 0;
	case MSR_FMASK:
		v->fmask = val; /* the upper half is only kept */
		return 0;
	case MSR_TSC_AUX:
		if (val >> 32)
			return -EINVAL;
		v->tsc_aux = val;
		return 0;
	case MSR_SYSENTER_ESP:
	case MSR_SYSENTER_EIP:
	case MSR_LSTAR:
	case MSR_CSTAR:
	case MSR_FS_BASE:
	case MSR_GS_BASE:
	case MSR_KERNEL_GS_BASE:
		break;
	default:
		return -ENOENT;
	}
	/* AMD's processors do not mind here, Intel's do: as KVM, make it one. */
	if (index == MSR_SYSENTER_ESP || index == MSR_SYSENTER_EIP)
		val = (uint64_t)((int64_t)(val << 16) >> 16);
	if (!is_canonical(val))
		return -EINVAL;
	switch (index) {
	case MSR_SYSENTER_ESP:
		v->sysenter_esp = val;
		break;
	case MSR_SYSENTER_EIP:
		v->sysenter_eip = val;
		break;
	case MSR_LSTAR:
		v->lstar = val;
		break;
	case MSR_CSTAR:
		v->cstar = val;
		break;
	case MSR_FS_BASE:
		v->seg[S_FS].base = val;
		break;
	case MSR_GS_BASE:
		v->seg[S_GS].base = val;
		break;
	default:
		v->kernel_gs = val;
		break;
	}
	return 0;
}

int engine_get_msr(const struct engine_vcpu *v, uint32_t index, uint64_t *value)
{
	return msr_read((struct engine_vcpu *)v, index, value);
}

int engine_set_msr(struct engine_vcpu *v, uint32_t index, uint64_t value)
{
	return msr_write(v, index, value, true);
}

int engine_guest_rdmsr(struct engine_vcpu *v, uint32_t index, uint64_t *value)
{
	return msr_read(v, index, value);
}

int engine_guest_wrmsr(struct engine_vcpu *v, uint32_t index, uint64_t value)
{
	return msr_write(v, index, value, false);
}

void engine_set_tsc_offset(struct engine_vcpu *v, uint64_t offset)
{
	v->tsc_offset = offset;
}

uint64_t engine_get_tsc_offset(const struct engine_vcpu *v)
{
	return v->tsc_offset;
}

void engine_set_tsc_ratio(struct engine_vcpu *v, uint64_t ratio)
{
	v->tsc_ratio = ratio;
	mode_update(v);
}

uint64_t engine_tsc_scaled(const struct engine_vcpu *v, uint64_t host)
{
	return (uint64_t)((unsigned __int128)host * v->tsc_ratio / ENGINE_TSC_ONE);
}

void engine_get_stats(const struct engine_vcpu *v, struct engine_stats *s)
{
	*s = v->stats;
	s->code_held = space_held(v->cache);
	/* the processor's clock is the cheap one; how fast it runs is seen since the creation */
	s->translate_ns = (uint64_t)((__uint128_t)v->translate_tsc * (clock_ns() - v->born_ns) /
				     (__builtin_ia32_rdtsc() - v->born_tsc + 1));
}

/* ---- reset: SDM vol. 3, "Processor State After Reset" and "INIT" ---- */

static struct seg real_seg(uint16_t sel, uint64_t base, uint16_t attr)
{
	return (struct seg){.base = base, .limit = 0xffff, .sel = sel, .attr = attr};
}

void engine_vcpu_reset(struct engine_vcpu *v, bool init)
{
	const uint16_t data = SEG_P | SEG_S | 3, code = SEG_P | SEG_S | 11;

	for (int i = 0; i < 16; i++)
		v->gpr[i] = 0;
	v->gpr[R_DX] = 0x600;
	v->rip = 0xfff0;
	flags_set(v, 2);
	for (int i = 0; i < 6; i++)
		v->seg[i] = real_seg(0, 0, data);
	v->seg[S_CS] = real_seg(0xf000, 0xffff0000u, code);
	v->seg[S_LDT] = real_seg(0, 0, SEG_P | 2);
	v->seg[S_TR] = real_seg(0, 0, SEG_P | 11);
	v->gdt.base = v->idt.base = 0;
	v->gdt.limit = v->idt.limit = 0xffff;
	v->cr0 = init ? (v->cr0 & (CR0_CD | CR0_NW)) | CR0_ET : CR0_CD | CR0_NW | CR0_ET;
	v->cr2 = v->cr3 = v->cr4 = v->efer = 0;
	for (int i = 0; i < 4; i++)
		v->dr[i] = 0;
	v->dr6 = 0xffff0ff0u;
	v->dr7 = 0x400;
	debug_update(v);
	v->event.valid = false;
	v->nmi_pending = 0;
	atomic_store(&v->nmi_queued, 0);
	v->nmi_masked = v->halted = false;
	v->shadow = 0;
	v->pending_db = 0;
	v->replay_n = v->replay_i = 0;
	v->replay_wait = false;
	v->window = false;
	v->irq_wait = 0;
	v->attn_local = 0;
	if (!init) {
		v->star = v->lstar = v->cstar = v->fmask = v->kernel_gs = v->tsc_aux = 0;
		v->sysenter_cs = v->sysenter_esp = v->sysenter_eip = 0;
		v->pat = 0x0007040600070406ull;
		xcr0_put(v, 1);
		bytes_zero(v->xsave, sizeof(v->xsave));
		v->fpu_loaded = 0;
		*(uint16_t *)v->xsave = 0x40;	   /* FCW at RESET */
		*(uint32_t *)(v->xsave + 24) = 0x1f80; /* MXCSR */
		*(uint64_t *)(v->xsave + 512) = 1;	   /* XSTATE_BV: FCW is not its INIT value */
	}
	tlb_flush_all(v);
	mode_update(v);
}

void engine_vcpu_sipi(struct engine_vcpu *v, uint8_t vector)
{
	drop_access(v);
	v->seg[S_CS].sel = (uint16_t)(vector << 8);
	v->seg[S_CS].base = (uint64_t)vector << 12;
	v->rip = 0;
	v->halted = false;
	mode_update(v);
}

void engine_request_window(struct engine_vcpu *v, bool on)
{
	v->window = on;
	if (on)
		atomic_fetch_or(&v->attn, ENGINE_KICK_INTR);
}

bool engine_can_inject(const struct engine_vcpu *v)
{
	return v->iff && !v->shadow && !v->event.valid;
}

void engine_vcpu_cpuid_changed(struct engine_vcpu *v)
{
	features_update(v);
	mode_update(v);
	/* what is decoded was so by the old one */
	if (v->has_run) {
		code_flush(v);
		insn_slots_forget(v);
		bytes_zero(v->memos, decode_memo_size());
	}
}
