/* SPDX-License-Identifier: MIT
 *
 * Boot a Linux bzImage on the bare engine: one vCPU, a serial port that only
 * talks, PIC and PIT, nothing else. Shows how far a kernel comes without
 * softkvm's chips and how long it takes. engine_boot VMLINUZ [INITRD [CMDLINE]]
 * `engine_boot --bios FILE` runs a firmware from its reset vector instead, with
 * its debug port (402h).
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/engine.h"
#include "irqchip/irqchip.h"

#define RAM_SIZE (512ull << 20)

struct box {
	struct engine_vcpu *cpu;
	uint8_t *ram;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct i8259 pic;
	struct i8254 pit;
	uint8_t uart[8], cmos, kbd;
	bool over;
	uint64_t start, exits_io;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void pic_output(void *opaque, bool raised)
{
	struct box *b = opaque;

	if (raised) {
		engine_vcpu_kick(b->cpu, ENGINE_KICK_INTR);
		pthread_cond_signal(&b->wake);
	}
}

static const struct i8259_sink pic_sink = {.output = pic_output};

static void pit_restarted(void *opaque)
{
}

static const struct i8254_sink pit_sink = {.restarted = pit_restarted};

static void pit_poll(struct box *b)
{
	if (i8254_expire(&b->pit, now_ns())) {
		(void)i8259_set_line(&b->pic, 0, 0, true);
		(void)i8259_set_line(&b->pic, 0, 0, false);
	}
}

static void *timer_thread(void *p)
{
	struct box *b = p;

	while (!b->over) {
		struct timespec t = {.tv_nsec = 1000000};
		uint64_t at;

		nanosleep(&t, NULL);
		pthread_mutex_lock(&b->lock);
		if (i8254_next_edge(&b->pit, &at) && at <= now_ns())
			pit_poll(b);
		pthread_mutex_unlock(&b->lock);
	}
	return NULL;
}

/* THR is always empty: an edge for each write while the guest wants to know. */
static void uart_irq(struct box *b)
{
	(void)i8259_set_line(&b->pic, 4, 0, false);
	if (b->uart[1] & 2)
		(void)i8259_set_line(&b->pic, 4, 0, true);
}

static void uart_write(struct box *b, unsigned int reg, uint8_t val)
{
	if (reg == 0 && !(b->uart[3] & 0x80)) {
		if (!(b->uart[4] & 0x10))
			(void)!write(1, &val, 1);
		uart_irq(b);
		return;
	}
	b->uart[reg] = val;
	if (reg == 1)
		uart_irq(b);
}

static uint8_t uart_read(struct box *b, unsigned int reg)
{
	switch (reg) {
	case 2:
		return b->uart[1] & 2 ? 0xc2 : 0xc1;
	case 5:
		return 0x60;
	case 6:
		return b->uart[4] & 0x10 ? (uint8_t)((b->uart[4] & 0xc) << 4 | (b->uart[4] & 2) << 3 |
						     (b->uart[4] & 1) << 5) : 0xb0;
	case 0:
		return 0;
	default:
		return b->uart[reg];
	}
}

static int op_io(void *cpu, struct engine_access *a)
{
	struct box *b = cpu;
	uint16_t p = (uint16_t)a->addr;
	uint32_t v32 = 0;

	pthread_mutex_lock(&b->lock);
	b->exits_io++;
	if (!a->write)
		a->data = a->len == 1 ? 0xff : a->len == 2 ? 0xffff : 0xffffffffu;
	if (p >= 0x3f8 && p < 0x400) {
		if (a->write)
			uart_write(b, p & 7, (uint8_t)a->data);
		else
			a->data = uart_read(b, p & 7);
	} else if (i8259_owns_port(p)) {
		if (a->write) {
			(void)!i8259_write(&b->pic, p, a->len, (uint32_t)a->data);
			i8259_complete(&b->pic);
		} else {
			(void)!i8259_read(&b->pic, p, a->len, &v32);
			a->data = v32;
		}
	} else if (p >= 0x40 && p < 0x44) {
		if (a->write)
			i8254_write(&b->pit, p, (uint8_t)a->data, now_ns());
		else
			a->data = i8254_read(&b->pit, p, now_ns());
	} else if (p == I8254_SPEAKER) {
		if (a->write)
			i8254_speaker_write(&b->pit, (uint8_t)a->data, now_ns());
		else
			a->data = i8254_speaker_read(&b->pit, now_ns());
	} else if (p == 0x64) {
		if (a->write && a->data == 0xfe) {
			b->over = true;
			engine_vcpu_kick(b->cpu, ENGINE_KICK_EXIT);
		} else if (!a->write) {
			a->data = 0;
		}
	} else if (p == 0x70) {
		b->cmos = (uint8_t)a->data & 0x7f;
	} else if (p == 0x71) {
		uint32_t above = (uint32_t)((RAM_SIZE - (16 << 20)) >> 16);

		if (!a->write)
			a->data = b->cmos == 0x34 ? above & 0xff : b->cmos == 0x35 ? above >> 8 : 0;
	} else if (p == 0x402) {
		uint8_t c = (uint8_t)a->data;

		if (a->write)
			(void)!write(1, &c, 1);
		else
			a->data = 0xe9;
	}
	pthread_mutex_unlock(&b->lock);
	return 0;
}

static int op_mmio(void *cpu, struct engine_access *a)
{
	if (!a->write)
		a->data = ~0ull >> (64 - 8 * a->len);
	return 0;
}

/* What the engine does not hold reads as zero. */
static int op_rdmsr(void *cpu, uint32_t index, uint64_t *val)
{
	int r = engine_guest_rdmsr(((struct box *)cpu)->cpu, index, val);

	if (r == -ENOENT)
		*val = 0;
	return r && r != -ENOENT;
}

static int op_wrmsr(void *cpu, uint32_t index, uint64_t val)
{
	int r = engine_guest_wrmsr(((struct box *)cpu)->cpu, index, val);

	return r && r != -ENOENT;
}

static void op_cpuid(void *cpu, uint32_t leaf, uint32_t sub, uint32_t r[4])
{
	if ((leaf >= 0x40000000 && leaf < 0x40000100) || leaf == 0xb || leaf == 0x8000001e) {
		r[0] = r[1] = r[2] = r[3] = 0;
		return;
	}
	__asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
	switch (leaf) {
	case 1:
		r[1] &= 0xffff;
		r[2] &= ~(1u << 3 | 1u << 21 | 1u << 24 | 1u << 31); /* MONITOR, x2APIC, deadline, hypervisor */
		r[3] &= ~(1u << 9 | 1u << 12 | 1u << 14 | 1u << 7 | 1u << 28); /* APIC, MTRR, MCA, MCE, HTT */
		break;
	case 7:
		if (sub) {
			memset(r, 0, 16);
			break;
		}
		r[1] &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 28 | 1u << 30 | 1u << 31 | 1u << 1);
		r[2] &= 1u << 2 | 1u << 8 | 1u << 9 | 1u << 10 | 1u << 22;
		r[3] = 0;
		break;
	case 0xd:
		if (sub == 0) {
			r[0] = 7;
			r[1] = r[2] = 832;
			r[3] = 0;
		} else if (sub == 1) {
			r[0] &= 0xf;
			r[1] = 832;
			r[2] = r[3] = 0;
		} else if (sub != 2) {
			memset(r, 0, 16);
		}
		break;
	case 0x80000001:
		r[2] &= ~(1u << 2 | 1u << 3 | 1u << 9 | 1u << 10 | 1u << 23 | 1u << 28 | 1u << 29 | 1u << 22);
		break;
	case 0x80000008:
		r[1] = 0;
		r[2] = 0;
		break;
	case 6:
	case 10:
	case 0x8000000a:
	case 0x8000001f:
		memset(r, 0, 16);
		break;
	default:
		break;
	}
}

static int op_intr(void *cpu)
{
	struct box *b = cpu;
	uint32_t acks;
	int vec = -1;

	pthread_mutex_lock(&b->lock);
	if (i8259_output(&b->pic)) {
		vec = i8259_inta(&b->pic, &acks);
		i8259_complete(&b->pic);
	}
	pthread_mutex_unlock(&b->lock);
	return vec;
}

static const struct engine_ops ops = {
	.mmio = op_mmio, .io = op_io, .rdmsr = op_rdmsr, .wrmsr = op_wrmsr, .cpuid = op_cpuid,
	.intr_take = op_intr,
};

static uint8_t *file_map(const char *name, size_t *size)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	struct stat st;
	uint8_t *p;

	if (fd < 0 || fstat(fd, &st)) {
		perror(name);
		exit(1);
	}
	*size = (size_t)st.st_size;
	p = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	return p;
}

static struct engine_segment flat(uint16_t sel, uint8_t type, bool l)
{
	return (struct engine_segment){.selector = sel, .limit = 0xffffffffu, .type = type, .s = 1, .present = 1,
				       .l = l, .db = !l, .g = 1};
}

/* Documentation/arch/x86/boot.rst, "64-bit Boot Protocol". */
static void load(struct box *b, const char *kernel, const char *initrd, const char *cmdline)
{
	size_t size, isize;
	const uint8_t *k = file_map(kernel, &size);
	uint8_t *zp = b->ram + 0x7000;
	unsigned int setup = (k[0x1f1] ? k[0x1f1] : 4) + 1u;
	uint64_t at = 0x1000000, *pt = (uint64_t *)(b->ram + 0x9000);
	struct engine_sregs s;
	struct engine_regs r = {0};

	memcpy(b->ram + at, k + setup * 512, size - setup * 512);
	memset(zp, 0, 4096);
	memcpy(zp + 0x1f1, k + 0x1f1, (size_t)(0x202 + k[0x201] - 0x1f1));
	zp[0x210] = 0xff;
	zp[0x211] |= 1;
	strcpy((char *)b->ram + 0x20000, cmdline);
	*(uint32_t *)(zp + 0x228) = 0x20000;
	if (initrd) {
		const uint8_t *i = file_map(initrd, &isize);
		uint64_t to = (RAM_SIZE - isize) & ~4095ull;

		memcpy(b->ram + to, i, isize);
		*(uint32_t *)(zp + 0x218) = (uint32_t)to;
		*(uint32_t *)(zp + 0x21c) = (uint32_t)isize;
	}
	/* e820 */
	zp[0x1e8] = 2;
	*(uint64_t *)(zp + 0x2d0) = 0;
	*(uint64_t *)(zp + 0x2d8) = 0x9f000;
	*(uint32_t *)(zp + 0x2e0) = 1;
	*(uint64_t *)(zp + 0x2e4) = 0x100000;
	*(uint64_t *)(zp + 0x2ec) = RAM_SIZE - 0x100000;
	*(uint32_t *)(zp + 0x2f4) = 1;
	pt[0] = 0xa003;
	pt[512] = 0xb003;
	for (uint64_t i = 1; i < 4; i++)
		pt[512 + i] = 0xb003 + i * 0x1000;
	for (uint64_t i = 0; i < 2048; i++)
		pt[1024 + i] = i << 21 | 0x83;
	engine_get_sregs(b->cpu, &s);
	s.cr0 = 0x80000011u;
	s.cr3 = 0x9000;
	s.cr4 = 0x20;
	s.efer = 0x500;
	for (int i = 0; i < 6; i++)
		s.seg[i] = flat(0x18, 3, false);
	s.seg[1] = flat(0x10, 11, true);
	s.gdt = (struct engine_dtable){0x8000, 0x1f};
	*(uint64_t *)(b->ram + 0x8010) = 0x00af9b000000ffffull;
	*(uint64_t *)(b->ram + 0x8018) = 0x00cf93000000ffffull;
	if (engine_set_sregs(b->cpu, &s))
		exit(1);
	r.rip = at + 0x200;
	r.gpr[6] = 0x7000;
	r.gpr[4] = 0x6000;
	r.rflags = 2;
	engine_set_regs(b->cpu, &r);
}

/* The image ends at 1 MiB and at 4 GiB; the vCPU is as RESET left it. */
static void load_bios(struct box *b, struct engine_vm *vm, const char *name)
{
	size_t size;
	const uint8_t *f = file_map(name, &size);
	uint8_t *rom = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct engine_slot s = {.gpa = (1ull << 32) - size, .size = size, .host = rom,
				.flags = ENGINE_SLOT_RDONLY};

	memcpy(rom, f, size);
	memcpy(b->ram + 0x100000 - size, f, size);
	if (engine_vm_change_slot(vm, NULL, &s, NULL))
		exit(1);
}

int main(int argc, char **argv)
{
	static struct box b;
	struct engine_vm *vm;
	struct engine_slot slot;
	struct engine_exit x = {0};
	struct engine_stats st;
	struct engine_regs r;
	pthread_t t;
	struct err e;

	if (argc < 2) {
		fprintf(stderr, "usage: engine_boot VMLINUZ [INITRD [CMDLINE]]\n");
		return 2;
	}
	pthread_mutex_init(&b.lock, NULL);
	pthread_cond_init(&b.wake, NULL);
	b.ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	slot = (struct engine_slot){.gpa = 0, .size = RAM_SIZE, .host = b.ram};
	if (engine_vm_create(NULL, &vm, &e) || engine_vm_change_slot(vm, NULL, &slot, &e) ||
	    engine_vcpu_create(vm, 0, &ops, &b, &b.cpu, &e)) {
		fprintf(stderr, "%s\n", e.text);
		return 1;
	}
	i8259_init(&b.pic, &pic_sink, &b, false);
	i8254_init(&b.pit, 0, &pit_sink, &b, now_ns());
	if (!strcmp(argv[1], "--bios") && argc > 2)
		load_bios(&b, vm, argv[2]);
	else
			load(&b, argv[1], argc > 2 && argv[2][0] ? argv[2] : NULL,
		     argc > 3 ? argv[3] : "console=ttyS0 earlyprintk=serial,ttyS0,115200 noapic nolapic acpi=off pci=off nokaslr "
			"mitigations=off tsc=reliable no_timer_check panic=-1 reboot=k");
	if (getenv("ENGINE_DEBUG"))
		engine_set_debug(b.cpu, (uint32_t)strtoul(getenv("ENGINE_DEBUG"), NULL, 0));
	b.start = now_ns();
	pthread_create(&t, NULL, timer_thread, &b);
	while (!b.over && now_ns() - b.start < 120ull * 1000000000) {
		if (engine_run(b.cpu, &x)) {
			fprintf(stderr, "%s\n", x.text);
			break;
		}
		if (x.reason == ENGINE_EXIT_HLT) {
			struct timespec until;

			pthread_mutex_lock(&b.lock);
			engine_get_regs(b.cpu, &r);
			if (!(r.rflags & 0x200)) {
				fprintf(stderr, "halted for good\n");
				b.over = true;
			}
			clock_gettime(CLOCK_REALTIME, &until);
			until.tv_sec++;
			if (!i8259_output(&b.pic) && !b.over)
				pthread_cond_timedwait(&b.wake, &b.lock, &until);
			pthread_mutex_unlock(&b.lock);
		} else if (x.reason == ENGINE_EXIT_DEBUG) {
			struct engine_sregs s;

			engine_get_regs(b.cpu, &r);
			engine_get_sregs(b.cpu, &s);
			fprintf(stderr, "%llx cs %x rax %llx rsp %llx cr0 %llx\n", (unsigned long long)r.rip,
				s.seg[1].selector, (unsigned long long)r.gpr[0], (unsigned long long)r.gpr[4],
				(unsigned long long)s.cr0);
		} else if (x.reason == ENGINE_EXIT_SHUTDOWN) {
			fprintf(stderr, "shutdown: %s\n", x.text);
			break;
		}
	}
	b.over = true;
	pthread_join(t, NULL);
	gpa_t gpa;
	bool w, u;

	engine_get_regs(b.cpu, &r);
	if (!engine_translate(b.cpu, r.rip, &gpa, &w, &u) && gpa < RAM_SIZE - 16) {
		fprintf(stderr, "code:");
		for (int i = 0; i < 15; i++) 
			fprintf(stderr, " %02x", b.ram[gpa + (unsigned int)i]);
	}
	engine_get_stats(b.cpu, &st);
	engine_get_regs(b.cpu, &r);
	fprintf(stderr,
		"\n%.3f s, rip %#llx\nblocks %llu insns %llu code %llu KiB translate %.3f s flushes %llu dropped %llu\n"
		"exits %llu bounced %llu tlb fills %llu flushes %llu exceptions %llu interrupts %llu io %llu\n",
		(double)(now_ns() - b.start) / 1e9, (unsigned long long)r.rip, (unsigned long long)st.blocks,
		(unsigned long long)st.insns, (unsigned long long)st.code_bytes >> 10,
		(double)st.translate_ns / 1e9, (unsigned long long)st.flushes, (unsigned long long)st.dropped,
		(unsigned long long)st.exits, (unsigned long long)st.bounced, (unsigned long long)st.tlb_fills,
		(unsigned long long)st.tlb_flushes, (unsigned long long)st.faults,
		(unsigned long long)st.interrupts, (unsigned long long)b.exits_io);
	engine_vcpu_destroy(b.cpu);
	engine_vm_destroy(vm);
	return 0;
}
