/* SPDX-License-Identifier: MIT
 * MSI, redirection table entries and ICR against irq_message, and back.
 */
#include "irqchip/irqchip.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void msi_decodes(void **state)
{
	struct irq_message m;

	assert_int_equal(msi_decode(0xfee0300c, 0xc151, MSI_XAPIC, &m), 0);
	assert_int_equal(m.dest, 3);
	assert_int_equal(m.vector, 0x51);
	assert_int_equal(m.delivery, IRQ_LOWEST);
	assert_true(m.logical);
	assert_true(m.redirection_hint);
	assert_true(m.level);
	assert_true(m.assert);
	assert_int_equal(m.shorthand, IRQ_NO_SHORTHAND);

	/* The level bit of the data is no de-assert: an MSI always asserts. */
	assert_int_equal(msi_decode(0xfee00000, 0x8051, MSI_XAPIC, &m), 0);
	assert_true(m.assert);
	assert_false(m.logical);
}

static void msi_wide_destinations(void **state)
{
	struct irq_message m;

	/* Bits 11:5 mean something only to those who asked for it. */
	assert_int_equal(msi_decode(0xfee01fe0, 0, MSI_XAPIC, &m), 0);
	assert_int_equal(m.dest, 0x01);
	assert_int_equal(msi_decode(0xfee01fe0, 0, MSI_EXT_DEST, &m), 0);
	assert_int_equal(m.dest, 0x7f01);
	assert_int_equal(msi_decode(0x123456 * 0x10000000000ull | 0xfee78000, 0, MSI_X2APIC, &m), 0);
	assert_int_equal(m.dest, 0x12345678);
	/* The high half is not looked at in the other formats. */
	assert_int_equal(msi_decode(0xffffffffull << 32 | 0xfee78000, 0, MSI_XAPIC, &m), 0);
	assert_int_equal(m.dest, 0x78);
}

static void msi_refuses_reserved_high_bits(void **state)
{
	struct irq_message m;

	for (unsigned bit = 32; bit < 40; bit++)
		assert_int_equal(msi_decode(BIT_ULL(bit) | 0xfee00000, 0, MSI_X2APIC, &m), -EINVAL);
}

static void msi_refuses_what_does_not_fit(void **state)
{
	struct irq_message m = { .dest = 0x100, .vector = 0x40 };
	uint64_t address = 0;
	uint32_t data = 0;

	assert_int_equal(msi_encode(&m, MSI_XAPIC, &address, &data), -ERANGE);
	m.dest = 0x8000;
	assert_int_equal(msi_encode(&m, MSI_EXT_DEST, &address, &data), -ERANGE);
	assert_int_equal(msi_encode(&m, MSI_X2APIC, &address, &data), 0);
	m.shorthand = IRQ_ALL;
	assert_int_equal(msi_encode(&m, MSI_X2APIC, &address, &data), -EINVAL);
	assert_int_equal(msi_encode(&m, (enum msi_format)7, &address, &data), -EINVAL);
}

static void same_message(const struct irq_message *a, const struct irq_message *b)
{
	assert_int_equal(a->dest, b->dest);
	assert_int_equal(a->vector, b->vector);
	assert_int_equal(a->delivery, b->delivery);
	assert_int_equal(a->shorthand, b->shorthand);
	assert_int_equal(a->logical, b->logical);
	assert_int_equal(a->level, b->level);
	assert_int_equal(a->redirection_hint, b->redirection_hint);
}

static void round_trips(void **state)
{
	static const uint32_t dests[] = { 0, 1, 0xff, 0x100, 0x7fff, 0x8000, UINT32_MAX };

	for (unsigned i = 0; i < 7 * 8 * 8; i++) {
		struct irq_message m = {
			.dest = dests[i % 7], .delivery = i / 7 % 8, .vector = (uint8_t)(i * 37),
			.logical = i / 56 & 1, .level = i / 56 & 2, .redirection_hint = i / 56 & 4,
			.assert = true,
		}, back;
		uint64_t address, rte, icr;
		uint32_t data;

		for (int f = MSI_XAPIC; f <= MSI_X2APIC; f++) {
			if (msi_encode(&m, f, &address, &data))
				continue;
			assert_int_equal((address & 0xfff00000), MSI_ADDRESS_BASE);
			assert_int_equal(msi_decode(address, data, f, &back), 0);
			same_message(&m, &back);
		}
		m.redirection_hint = false;
		for (int ext = 0; ext < 2; ext++) {
			if (rte_encode(&m, ext, &rte)) {
				assert_true(m.dest > (ext ? 0x7fffu : 0xffu));
				continue;
			}
			assert_false(rte & (RTE_MASKED | RTE_REMOTE_IRR | RTE_PENDING));
			rte_decode(rte, ext, &back);
			same_message(&m, &back);
			rte_to_msi(rte, ext, &address, &data);
			assert_int_equal(msi_decode(address, data, MSI_EXT_DEST, &back), 0);
			same_message(&m, &back);
		}
		m.shorthand = i % 4;
		for (int x2 = 0; x2 < 2; x2++) {
			if (icr_encode(&m, x2, &icr)) {
				assert_true(!x2 && m.dest > 0xff);
				continue;
			}
			icr_decode(icr, x2, &back);
			same_message(&m, &back);
			assert_true(back.assert);
		}
	}
}

static void rte_ignores_its_status(void **state)
{
	struct irq_message a, b;

	rte_decode(0x0300000000000951ull, false, &a);
	rte_decode(0x0300000000000951ull | RTE_MASKED | RTE_REMOTE_IRR | RTE_PENDING | RTE_LOW_ACTIVE,
		   false, &b);
	same_message(&a, &b);
	/* Without the extension bits 55:49 are nothing. */
	rte_decode(0x03fe000000000051ull, false, &a);
	assert_int_equal(a.dest, 3);
	rte_decode(0x03fe000000000051ull, true, &a);
	assert_int_equal(a.dest, 0x7f03);
}

static void rte_refuses_shorthands(void **state)
{
	struct irq_message m = { .shorthand = IRQ_SELF };
	uint64_t rte;

	assert_int_equal(rte_encode(&m, true, &rte), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(msi_decodes),
		cmocka_unit_test(msi_wide_destinations),
		cmocka_unit_test(msi_refuses_reserved_high_bits),
		cmocka_unit_test(msi_refuses_what_does_not_fit),
		cmocka_unit_test(round_trips),
		cmocka_unit_test(rte_ignores_its_status),
		cmocka_unit_test(rte_refuses_shorthands),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
