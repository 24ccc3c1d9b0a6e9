/* SPDX-License-Identifier: MIT
 * The fake half must keep the kernel's rules, or the tests that lean on it prove nothing.
 */
#include "../lib/fake_kvm.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

struct fixture {
	struct fake_kvm k;
	struct sys sys;
	struct vm vm;
	struct notifier n;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	fake_kvm_init(&f->k);
	assert_int_equal(sys_open(&f->sys, &f->k.api, NULL), 0);
	assert_int_equal(vm_create(&f->vm, &f->sys), 0);
	assert_int_equal(notifier_create(&f->n, 0, 0), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	notifier_destroy(&f->n);
	vm_destroy(&f->vm);
	sys_close(&f->sys);
	assert_int_equal(fake_kvm_fini(&f->k), 0);
	free(f);
	return 0;
}

static void test_irqfd(void **state)
{
	struct fixture *f = *state;
	struct kvm_irq_routing_entry e = {
		.gsi = 30, .type = KVM_IRQ_ROUTING_MSI,
		.u.msi = { .address_lo = 0xfee00000, .data = 0x41 },
	};

	assert_int_equal(vm_set_routes(&f->vm, &e, 1), 0);
	notifier_signal(&f->n);
	assert_int_equal(vm_bind_irqfd(&f->vm, f->n.fd, 30, -1), 0);
	/* What was signalled before the binding is delivered. */
	assert_int_equal(f->k.nr_msis, 1);
	assert_int_equal(f->k.msi[0].data, 0x41);
	assert_int_equal(vm_bind_irqfd(&f->vm, f->n.fd, 31, -1), -EBUSY);
	assert_int_equal(vm_unbind_irqfd(&f->vm, f->n.fd, 30), 0);
	assert_int_equal(vm_unbind_irqfd(&f->vm, f->n.fd, 30), 0);
	notifier_signal(&f->n);
	assert_int_equal(fake_kvm_serve(&f->k), 0);
	assert_true(notifier_pending(&f->n));
	assert_int_equal(vm_bind_irqfd(&f->vm, 99999, 30, -1), -EBADF);
}

static void test_ioeventfd(void **state)
{
	struct fixture *f = *state;
	struct vm_doorbell d = { .pio = true, .len = 2, .match = true, .address = 0xc010, .data = 1,
				 .fd = f->n.fd };
	struct vm_doorbell other;

	assert_int_equal(vm_bind_ioeventfd(&f->vm, &d), 0);
	assert_int_equal(vm_bind_ioeventfd(&f->vm, &d), -EEXIST);
	other = d;
	other.data = 2;
	assert_int_equal(vm_bind_ioeventfd(&f->vm, &other), 0);
	assert_true(fake_kvm_guest_write(&f->k, true, 0xc010, 1, 2));
	assert_false(fake_kvm_guest_write(&f->k, true, 0xc010, 3, 2));
	assert_false(fake_kvm_guest_write(&f->k, true, 0xc010, 1, 1));
	assert_false(fake_kvm_guest_write(&f->k, false, 0xc010, 1, 2));
	assert_int_equal(notifier_drain(&f->n), 1);
	other.data = 7;
	assert_int_equal(vm_unbind_ioeventfd(&f->vm, &other), -ENOENT);
	d.len = 3;
	assert_int_equal(vm_bind_ioeventfd(&f->vm, &d), -EINVAL);
	d.len = 0;
	assert_int_equal(vm_bind_ioeventfd(&f->vm, &d), -EINVAL);
	f->k.max_ioeventfds = 2;
	d = (struct vm_doorbell){ .address = 0x1000, .fd = f->n.fd };
	assert_int_equal(vm_bind_ioeventfd(&f->vm, &d), -ENOSPC);
}

static void test_fails_on_demand(void **state)
{
	struct fixture *f = *state;

	fake_kvm_fail(&f->k, KVM_IRQ_LINE, 2, ENOMEM);
	assert_int_equal(vm_irq_line(&f->vm, 5, true), 0);
	assert_int_equal(vm_irq_line(&f->vm, 5, false), -ENOMEM);
	assert_true(f->k.level[5]);
	assert_int_equal(vm_irq_line(&f->vm, 5, false), 0);
	fake_kvm_set_cap(&f->k, KVM_CAP_IRQFD, false);
	assert_int_equal(vm_check_extension(&f->vm, KVM_CAP_IRQFD), 0);
	assert_true(vm_check_extension(&f->vm, KVM_CAP_IOEVENTFD) > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_irqfd, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ioeventfd, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fails_on_demand, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
