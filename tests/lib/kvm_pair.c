/* SPDX-License-Identifier: MIT */
#include "check.h"
#include "kvm_pair.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

bool kvm_pair_possible(void)
{
	int fd = dev_kvm_ops.open(NULL);

	if (fd < 0) {
		printf("no comparison: /dev/kvm: %s\n", strerror(-fd));
		return false;
	}
	close(fd);
	return true;
}

uint64_t next_random(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *state = x;
}

void say(struct side *s, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (s->size - s->len < 2048) {
		s->size = s->size * 2 + 65536;
		s->text = realloc(s->text, s->size);
		assert_non_null(s->text);
	}
	va_start(ap, fmt);
	n = vsnprintf(s->text + s->len, 2000, fmt, ap);
	va_end(ap);
	s->len += (size_t)MIN(n, 1999);
	s->text[s->len++] = '\n';
	s->text[s->len] = '\0';
}

long say_result(struct side *s, const char *name, long r)
{
	if (r < 0)
		say(s, "%s: %s", name, strerrorname_np((int)-r));
	else
		say(s, "%s: %ld", name, r);
	return r;
}

void say_hex(struct side *s, const char *name, const void *p, size_t len)
{
	const uint8_t *b = p;
	char line[200];

	for (size_t at = 0; at < len; at += 32) {
		int n = 0;

		for (size_t i = at; i < MIN(at + 32, len); i++)
			n += snprintf(line + n, sizeof(line) - (size_t)n, "%02x", b[i]);
		say(s, "%s+%03zx: %s", name, at, line);
	}
}

int side_ioctl(struct side *s, int fd, unsigned long request, void *arg)
{
	return s->api.ops->ioctl(s->api.ctx, fd, request, (uintptr_t)arg);
}

int side_ioctl_val(struct side *s, int fd, unsigned long request, unsigned long arg)
{
	return s->api.ops->ioctl(s->api.ctx, fd, request, arg);
}

static int mmap_size(struct side *s)
{
	return side_ioctl_val(s, s->sys, KVM_GET_VCPU_MMAP_SIZE, 0);
}

void vm_enable(struct side *s, unsigned cap, uint64_t arg)
{
	struct kvm_enable_cap e = { .cap = cap, .args = { arg } };

	say(s, "enable %u %#llx", cap, (unsigned long long)arg);
	vm_do(s, KVM_ENABLE_CAP, &e);
}

int side_set_cpuid(struct side *s, int fd)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 e[4];
	} c = { .head.nent = 4 };

	c.e[0] = (struct kvm_cpuid_entry2){ .function = 0, .eax = 1, .ebx = 0x68747541,
					    .ecx = 0x444d4163, .edx = 0x69746e65 };
	c.e[1] = (struct kvm_cpuid_entry2){ .function = 1, .eax = 0xa10f11,
					    .ecx = 1u << 21 | 1u << 24, .edx = 0x078bfbff };
	c.e[2] = (struct kvm_cpuid_entry2){ .function = 0x80000000, .eax = 0x80000008 };
	c.e[3] = (struct kvm_cpuid_entry2){ .function = 0x80000001, .edx = 1u << 29 | 1u << 20 | 1u << 11 };
	return side_ioctl(s, fd, KVM_SET_CPUID2, &c);
}

void side_add_vcpu(struct side *s, unsigned i, unsigned id)
{
	struct kvm_lapic_state l;
	int r = side_ioctl_val(s, s->vm, KVM_CREATE_VCPU, id);

	say_result(s, "KVM_CREATE_VCPU", MIN(r, 0));
	if (r < 0)
		return;
	s->vcpu[i] = r;
	r = s->api.ops->mmap(s->api.ctx, s->vcpu[i], (size_t)mmap_size(s), 0, (void **)&s->run[i]);
	assert_int_equal(r, 0);
	assert_int_equal(side_set_cpuid(s, s->vcpu[i]), 0);
	if (side_ioctl(s, s->vcpu[i], KVM_GET_LAPIC, &l))
		return;
	l.regs[0xf1] |= 1; /* SVR: software enable */
	assert_int_equal(side_ioctl(s, s->vcpu[i], KVM_SET_LAPIC, &l), 0);
}

static void close_vm(struct side *s)
{
	for (unsigned i = 0; i < SIDE_VCPUS; i++) {
		if (s->vcpu[i] < 0)
			continue;
		s->api.ops->munmap(s->api.ctx, s->run[i], (size_t)mmap_size(s));
		assert_int_equal(s->api.ops->close(s->api.ctx, s->vcpu[i]), 0);
		s->vcpu[i] = -1;
	}
	if (s->vm >= 0)
		assert_int_equal(s->api.ops->close(s->api.ctx, s->vm), 0);
	s->vm = -1;
}

void side_new_vm(struct side *s)
{
	close_vm(s);
	s->vm = side_ioctl_val(s, s->sys, KVM_CREATE_VM, 0);
	assert_true(s->vm >= 0);
}

void say_chips(struct side *s)
{
	for (unsigned id = 0; id < 3; id++) {
		struct kvm_irqchip c = { .chip_id = id };

		if (say_result(s, "KVM_GET_IRQCHIP", side_ioctl(s, s->vm, KVM_GET_IRQCHIP, &c)))
			return;
		say_hex(s, id == 2 ? "ioapic" : "pic", &c.chip,
			id == 2 ? sizeof(c.chip.ioapic) : sizeof(c.chip.pic));
	}
}

void say_lapic(struct side *s, unsigned i)
{
	static const uint16_t regs[] = {
		0x20, 0x30, 0x80, 0xa0, 0xd0, 0xe0, 0xf0, 0x100, 0x110, 0x120, 0x130, 0x140, 0x150,
		0x160, 0x170, 0x180, 0x190, 0x1a0, 0x1b0, 0x1c0, 0x1d0, 0x1e0, 0x1f0, 0x200, 0x210,
		0x220, 0x230, 0x240, 0x250, 0x260, 0x270, 0x280, 0x300, 0x310, 0x320, 0x330, 0x340,
		0x350, 0x360, 0x370, 0x380, 0x3e0,
	};
	struct kvm_lapic_state l;

	if (say_result(s, "KVM_GET_LAPIC", side_ioctl(s, s->vcpu[i], KVM_GET_LAPIC, &l)))
		return;
	for (unsigned r = 0; r < ARRAY_SIZE(regs); r++)
		say(s, "lapic %u %03x: %08x", i, regs[r], load_le32(l.regs + regs[r]));
}

void side_begin(struct side *s, bool soft)
{
	*s = (struct side){ .soft = soft, .sys = -1, .vm = -1 };
	for (unsigned i = 0; i < SIDE_VCPUS; i++)
		s->vcpu[i] = -1;
	s->api.ops = soft ? &softkvm_ops : &dev_kvm_ops;
	if (soft)
		assert_int_equal(softkvm_create(&s->api.ctx, NULL), 0);
	s->sys = s->api.ops->open(s->api.ctx);
	assert_true(s->sys >= 0);
	s->mem = mmap(NULL, SIDE_MEM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(s->mem != MAP_FAILED);
	say(s, "begin");
	side_new_vm(s);
}

void side_end(struct side *s)
{
	close_vm(s);
	assert_int_equal(s->api.ops->close(s->api.ctx, s->sys), 0);
	if (s->soft)
		softkvm_destroy(s->api.ctx);
	munmap(s->mem, SIDE_MEM);
	free(s->text);
}

static void compare(const char *name, uint64_t seed, const char *a, const char *b)
{
	const char *before = b, *two_before = b;

	for (unsigned line = 1; *a || *b; line++) {
		size_t n = strcspn(a, "\n"), m = strcspn(b, "\n");

		if (n != m || memcmp(a, b, n)) {
			fail_msg("%s, seed %#llx, line %u, after:\n%.*s  kernel:  %.*s\n  softkvm: %.*s", name,
				 (unsigned long long)seed, line, (int)(b - two_before), two_before, (int)n, a,
				 (int)m, b);
		}
		two_before = before;
		before = b;
		a += n + (a[n] == '\n');
		b += m + (b[m] == '\n');
	}
}

void kvm_pair_run(const char *name, void (*script)(struct side *s, uint64_t seed), uint64_t seed)
{
	struct side kernel, soft;

	side_begin(&kernel, false);
	script(&kernel, seed);
	side_begin(&soft, true);
	script(&soft, seed);
	if (getenv("BELFRY_TRANSCRIPT"))
		printf("---- %s\n%s", name, soft.text);
	compare(name, seed, kernel.text, soft.text);
	side_end(&kernel);
	side_end(&soft);
}

static void script_test(void **state)
{
	const struct pair_script *s = *state;

	if (!kvm_pair_possible())
		skip();
	for (unsigned i = 0; i <= s->seeds; i++)
		kvm_pair_run(s->name, s->run, i * 0x9e3779b97f4a7c15ull);
}

int kvm_pair_main(int argc, char **argv, const struct pair_script *scripts, size_t n_scripts,
		  const struct CMUnitTest *alone, size_t n_alone)
{
	struct CMUnitTest tests[n_scripts + n_alone];

	for (size_t i = 0; i < n_scripts; i++)
		tests[i] = (struct CMUnitTest){
			.name = scripts[i].name, .test_func = script_test,
			.initial_state = (void *)&scripts[i],
		};
	if (n_alone)
		memcpy(tests + n_scripts, alone, n_alone * sizeof(*alone));
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return RUN(tests);
}
