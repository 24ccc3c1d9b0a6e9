/* SPDX-License-Identifier: MIT
 * The processor: any bytes as code in every mode, on a small guest. Guest memory
 * lies between pages that nobody may touch, and its ROM may not be written on the
 * host either. What the guest got itself into can be read and put back.
 */
#include "fuzz.h"
#include "engine/engine.h"
#include <signal.h>
#include <sys/mman.h>
#include <time.h>

#define RAM	 (2u << 20)
#define ROM	 (64u << 10)
#define ROM_GPA	 0x400000u
#define GDT	 0x1000u
#define IDT	 0x2000u
#define TSS	 0x3000u
#define HANDLER	 0x4000u /* HLTs, for every vector */
#define STACK	 0x8000u
#define USER_STACK 0xc000u
#define PML4	 0x10000u
#define CODE	 0x20000u
#define DATA	 0x30000u
#define MAX_RUNS 64

enum { KCODE = 0x08, KDATA = 0x10, UCODE32 = 0x1b, UDATA = 0x23, UCODE = 0x2b, TSS_SEL = 0x30,
       KCODE32 = 0x40, CODE16 = 0x48, DATA16 = 0x50 };

struct bed {
	struct engine_vm *vm;
	struct engine_vcpu *v;
	uint8_t *ram, *rom;
	struct feed *f;
	unsigned accesses;
	uint64_t cr8;
};

/* ---- the outside ------------------------------------------------------------- */

static int access_outside(struct bed *b, struct engine_access *a)
{
	/* A loop of accesses ends here. */
	if (++b->accesses % 64 == 0)
		engine_vcpu_kick(b->v, ENGINE_KICK_EXIT);
	if (!a->write)
		a->data = (b->accesses * 0x9e3779b97f4a7c15ull) & len_mask(a->len);
	return b->accesses % 5 == 4;
}

static int on_mmio(void *cpu, struct engine_access *a)
{
	FUZZ_CHECK(a->len == 1 || a->len == 2 || a->len == 4 || a->len == 8, "length %u", a->len);
	FUZZ_CHECK(a->addr >= RAM, "MMIO at %llx", (unsigned long long)a->addr);
	return access_outside(cpu, a);
}

static int on_io(void *cpu, struct engine_access *a)
{
	FUZZ_CHECK((a->len == 1 || a->len == 2 || a->len == 4) && a->addr < 0x10000, "port %llx, %u",
		   (unsigned long long)a->addr, a->len);
	return access_outside(cpu, a);
}

static int on_rdmsr(void *cpu, uint32_t index, uint64_t *value)
{
	*value = index;
	return index & 1;
}

static int on_wrmsr(void *cpu, uint32_t index, uint64_t value)
{
	return index & 1;
}

static void on_cpuid(void *cpu, uint32_t leaf, uint32_t sub, uint32_t r[4])
{
	__asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
	if (leaf == 7 && !sub)
		r[1] |= 1u << 20 | 1u << 7 | 1;
}

static int on_intr(void *cpu)
{
	struct bed *b = cpu;

	return b->accesses++ & 1 ? (int)(b->accesses & 0xff) : -1;
}

static uint64_t on_cr8_read(void *cpu)
{
	return ((struct bed *)cpu)->cr8;
}

static void on_cr8_write(void *cpu, uint64_t value)
{
	FUZZ_CHECK(value < 16, "CR8 %llx", (unsigned long long)value);
	((struct bed *)cpu)->cr8 = value;
}

static bool on_fixes_hypercall(void *cpu)
{
	return ((struct bed *)cpu)->ram[0] & 1;
}

static int on_hypercall(void *cpu, uint64_t nr, const uint64_t args[4], uint64_t *result)
{
	*result = args[0];
	return nr & 1;
}

static const struct engine_ops ops = {
	.mmio = on_mmio, .io = on_io, .rdmsr = on_rdmsr, .wrmsr = on_wrmsr, .cpuid = on_cpuid,
	.intr_take = on_intr, .cr8_read = on_cr8_read, .cr8_write = on_cr8_write, .hypercall = on_hypercall,
	.fixes_hypercall = on_fixes_hypercall,
};

/* ---- the guest ------------------------------------------------------------------ */

static void tables(struct bed *b, bool long_mode)
{
	static const uint64_t gdt[] = {
		0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff,
		0x00affb000000ffff, 0x00008b0000000067 | (uint64_t)TSS << 16, 0, 0x00cf9b000000ffff,
		0x00009b000000ffff, 0x000093000000ffff,
	};
	uint64_t *p = (uint64_t *)(b->ram + PML4), *idt = (uint64_t *)(b->ram + IDT);

	memcpy(b->ram + GDT, gdt, sizeof(gdt));
	memset(b->ram + HANDLER, 0xf4, 256);
	for (unsigned i = 0; i < 256; i++) {
		uint64_t gate = ((HANDLER + i) & 0xffff) | 0xee00ull << 32;

		if (long_mode) {
			idt[2 * i] = gate | (uint64_t)KCODE << 16 | (i == 8 ? 1ull << 32 : 0);
			idt[2 * i + 1] = 0;
		} else {
			idt[i] = gate | (uint64_t)KCODE32 << 16;
		}
	}
	store_le32(b->ram + TSS + 4, STACK);
	store_le16(b->ram + TSS + 8, KDATA); /* SS0; in long mode a part of RSP0 that stays 0 */
	if (long_mode)
		store_le64(b->ram + TSS + 4, STACK);
	store_le64(b->ram + TSS + 0x24, STACK);
	store_le16(b->ram + TSS + 0x66, 0x68);
	/* Identity, 2 MiB pages; the first 2 MiB in pages of 4 KiB. PAE begins at the second table. */
	p[0] = (PML4 + 0x1000) | 7;
	p[512] = (PML4 + 0x2000) | (long_mode ? 7 : 1);
	for (uint64_t i = 0; i < 512; i++) {
		p[1024 + i] = i << 21 | 0x87;
		p[1536 + i] = i << 12 | 7;
	}
	p[1024] = (PML4 + 0x3000) | 7;
	p[1536 + 5] &= ~2ull;  /* read-only, not present, supervisor, no execute */
	p[1536 + 0x31] &= ~2ull;
	p[1536 + 0x32] = 0;
	p[1536 + 0x33] &= ~4ull;
	p[1536 + 0x34] |= 1ull << 63;
}

static struct engine_segment segment(uint16_t sel, bool code, bool l, bool db)
{
	return (struct engine_segment){
		.selector = sel, .limit = UINT32_MAX, .type = code ? 11 : 3, .s = 1, .present = 1,
		.dpl = sel & 3, .l = l, .db = db, .g = 1,
	};
}

static struct engine_segment real_segment(uint16_t sel, uint8_t dpl)
{
	return (struct engine_segment){
		.selector = sel, .base = sel * 16u, .limit = 0xffff, .type = 3, .s = 1, .present = 1,
		.dpl = dpl,
	};
}

enum mode { LONG0, LONG3, COMPAT3, PROT32, PAE32, PROT16, REAL, V86, NR_MODES };

static void set_mode(enum mode m, struct engine_sregs *s)
{
	static const uint16_t code[] = { KCODE, UCODE, UCODE32, KCODE32, KCODE32, CODE16 };
	static const uint16_t data[] = { KDATA, UDATA, UDATA, KDATA, KDATA, DATA16 };

	s->gdt = (struct engine_dtable){ GDT, 0x7f };
	s->idt = (struct engine_dtable){ IDT, 0xfff };
	s->tr = (struct engine_segment){ .selector = TSS_SEL, .base = TSS, .limit = 0x67, .type = 11,
					 .present = 1 };
	s->ldt = (struct engine_segment){ .unusable = 1 };
	s->cr0 = 0x50033;
	s->cr4 = 0x40600;
	if (m <= COMPAT3 || m == PAE32) {
		s->cr0 |= 0x80000000u;
		s->cr4 |= 0xa0;
		s->cr3 = m == PAE32 ? PML4 + 0x1000 : PML4;
		s->efer = m == PAE32 ? 0x800 : 0xd01;
	}
	if (m == REAL) {
		s->cr0 &= ~1ull;
		s->idt = (struct engine_dtable){ 0, 0x3ff };
	}
	if (m == REAL || m == V86) {
		for (unsigned i = 0; i < 6; i++)
			s->seg[i] = real_segment(0, m == V86 ? 3 : 0);
		s->seg[1] = real_segment(CODE >> 4, m == V86 ? 3 : 0);
		s->seg[3] = real_segment(DATA >> 4, m == V86 ? 3 : 0);
		if (m == REAL)
			s->seg[1].type = 11;
		return;
	}
	for (unsigned i = 0; i < 6; i++)
		s->seg[i] = segment(data[m], false, false, m != PROT16);
	s->seg[1] = segment(code[m], true, m <= LONG3, m > LONG3 && m != PROT16);
	if (m == PROT16) {
		s->seg[1].base = CODE;
		s->seg[1].limit = 0xffff;
		s->seg[1].g = 0;
	}
}

static void start(struct bed *b, enum mode m, struct feed *f)
{
	struct engine_regs r = { .rip = m >= PROT16 ? 0 : CODE, .rflags = 2 };
	struct engine_sregs s;
	size_t len;

	tables(b, m <= COMPAT3);
	engine_get_sregs(b->v, &s);
	set_mode(m, &s);
	FUZZ_CHECK(!engine_set_sregs(b->v, &s), "mode %d is refused", m);
	(void)!engine_set_xcr0(b->v, 7);
	for (unsigned i = 0; i < 16; i++)
		r.gpr[i] = DATA + i * 0x100;
	for (unsigned i = feed_below(f, 6); i; i--)
		r.gpr[feed_u8(f) & 15] = feed_u64(f) >> feed_below(f, 64);
	r.gpr[4] = m == LONG3 || m == COMPAT3 ? USER_STACK : STACK;
	r.rflags |= feed_u32(f) & 0x257fd5;
	if (m == V86)
		r.rflags |= 1 << 17;
	engine_set_regs(b->v, &r);
	/* Data, code, and behind it a stop. */
	feed_bytes(f, b->ram + DATA, MIN(f->left / 3, 64));
	len = f->left;
	feed_bytes(f, b->ram + CODE, MIN(len, 0xf00));
	memset(b->ram + CODE + MIN(len, 0xf00), 0xf4, 16);
}

/* ---- a run ----------------------------------------------------------------------- */

static struct engine_vcpu *running;

static void on_timer(int sig)
{
	struct engine_vcpu *v = running;

	if (v)
		engine_vcpu_kick(v, ENGINE_KICK_EXIT);
}

/* A guest that loops gets this long each time. SIGALRM is the fuzzer's own. */
static void set_timer(bool on)
{
	static timer_t timer;
	static bool made;
	struct sigevent ev = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN };
	struct sigaction sa = { .sa_handler = on_timer, .sa_flags = SA_ONSTACK | SA_RESTART };
	struct itimerspec t = { .it_value.tv_nsec = on ? 1000000 : 0,
				.it_interval.tv_nsec = on ? 1000000 : 0 };

	if (!made && (sigaction(SIGRTMIN, &sa, NULL) || timer_create(CLOCK_MONOTONIC, &ev, &timer)))
		abort();
	made = true;
	timer_settime(timer, 0, &t, NULL);
}

static void put_back(struct engine_vcpu *v)
{
	struct engine_sregs s, t;
	struct engine_debugregs d;
	struct engine_events ev;
	struct engine_regs r, q;
	uint8_t xs[ENGINE_XSAVE_SIZE];
	gpa_t gpa;
	bool w, u;

	engine_get_regs(v, &r);
	engine_get_sregs(v, &s);
	engine_get_events(v, &ev);
	engine_get_debugregs(v, &d);
	engine_get_xsave(v, xs);
	FUZZ_CHECK(!engine_set_sregs(v, &s), "cr0 %llx cr4 %llx efer %llx are refused",
		   (unsigned long long)s.cr0, (unsigned long long)s.cr4, (unsigned long long)s.efer);
	engine_set_regs(v, &r);
	FUZZ_CHECK(!engine_set_events(v, &ev), "events are refused");
	FUZZ_CHECK(!engine_set_debugregs(v, &d), "debug registers are refused");
	FUZZ_CHECK(!engine_set_xsave(v, xs), "the FPU state is refused");
	engine_get_regs(v, &q);
	engine_get_sregs(v, &t);
	FUZZ_CHECK(!memcmp(&r, &q, sizeof(r)), "registers differ");
	FUZZ_CHECK(s.cr0 == t.cr0 && s.cr3 == t.cr3 && s.cr4 == t.cr4 && s.efer == t.efer,
		   "control registers differ");
	for (unsigned i = 0; i < 6; i++)
		FUZZ_CHECK(s.seg[i].base == t.seg[i].base && s.seg[i].limit == t.seg[i].limit &&
			   s.seg[i].selector == t.seg[i].selector, "segment %u differs", i);
	(void)engine_translate(v, r.rip, &gpa, &w, &u);
}

/* Code where there is no memory is the one thing that the engine may refuse to run. */
static bool code_outside(struct bed *b)
{
	struct engine_sregs s;
	struct engine_regs r;
	bool w, u, outside = false;
	gpa_t gpa;

	engine_get_regs(b->v, &r);
	engine_get_sregs(b->v, &s);
	for (unsigned i = 0; i < 16; i += 15) {
		uint64_t lin = s.seg[1].l && s.efer & 0x400 ? r.rip + i :
			       (uint32_t)(s.seg[1].base + r.rip + i);

		if (!engine_translate(b->v, lin, &gpa, &w, &u))
			outside |= gpa >= RAM && gpa - ROM_GPA >= ROM;
	}
	return outside;
}

static void run(struct bed *b, uint8_t kind)
{
	struct engine_exit x = { .reason = ENGINE_EXIT_INTR };
	bool on = true;
	int r;

	for (unsigned n = 0; n < MAX_RUNS && on; n++) {
		if (kind & 1 && n == 5)
			engine_vcpu_kick(b->v, ENGINE_KICK_INTR);
		if (kind & 2 && n == 9) {
			engine_vcpu_queue_nmi(b->v);
			engine_vcpu_kick(b->v, ENGINE_KICK_NMI);
		}
		r = engine_run(b->v, &x);
		if (!r && x.reason == ENGINE_EXIT_NO_CODE && code_outside(b))
			break;
		FUZZ_CHECK(!r && x.reason != ENGINE_EXIT_INTERNAL, "%s", x.text);
		switch (x.reason) {
		case ENGINE_EXIT_IO:
		case ENGINE_EXIT_MMIO:
		case ENGINE_EXIT_HYPERCALL:
			x.access.data = 0x55aa55aa55aa55aaull & (x.reason == ENGINE_EXIT_HYPERCALL ?
						UINT64_MAX : len_mask(x.access.len));
			continue; /* the state is between two instructions only after the next run */
		case ENGINE_EXIT_INTR:
			on = kind & 4 ? n < 3 : false;
			break;
		case ENGINE_EXIT_SHUTDOWN:
			on = false;
			break;
		case ENGINE_EXIT_HLT:
			on = n < 8;
			break;
		default:
			break;
		}
		if (kind & 8 || !on)
			put_back(b->v);
	}
}

static uint8_t *map_guarded(size_t size, int prot)
{
	uint8_t *p = mmap(NULL, size + 2 * 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || mprotect(p + 65536, size, prot))
		abort();
	return p + 65536;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint32_t debugs[] = { 0, 0, ENGINE_DEBUG_STEP, ENGINE_DEBUG_ONE, ENGINE_DEBUG_SLOW,
					   ENGINE_DEBUG_BP };
	struct engine_config c = { .code_mib = 1 };
	struct feed f = { data, size };
	struct bed b = { .f = &f };
	uint8_t kind = feed_u8(&f);
	struct engine_slot slots[2];
	struct err e = { "" };

	b.ram = map_guarded(RAM, PROT_READ | PROT_WRITE);
	b.rom = map_guarded(ROM, PROT_READ);
	slots[0] = (struct engine_slot){ .size = RAM, .host = b.ram };
	slots[1] = (struct engine_slot){ .gpa = ROM_GPA, .size = ROM, .host = b.rom,
					 .flags = ENGINE_SLOT_RDONLY };
	FUZZ_CHECK(!engine_vm_create(&c, &b.vm, &e) &&
		   !engine_vm_change_slot(b.vm, NULL, &slots[0], &e) &&
		   !engine_vm_change_slot(b.vm, NULL, &slots[1], &e) &&
		   !engine_vcpu_create(b.vm, 0, &ops, &b, &b.v, &e), "%s", e.text);
	start(&b, (enum mode)feed_below(&f, NR_MODES), &f);
	engine_set_debug(b.v, debugs[kind >> 5 < 6 ? kind >> 5 : 0]);
	running = b.v;
	set_timer(true);
	run(&b, kind);
	set_timer(false);
	running = NULL;
	engine_vcpu_destroy(b.v);
	engine_vm_destroy(b.vm);
	munmap(b.ram - 65536, RAM + 2 * 65536);
	munmap(b.rom - 65536, ROM + 2 * 65536);
	return 0;
}
