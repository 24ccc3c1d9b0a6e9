# SPDX-License-Identifier: MIT
# Sourced by scripts/check long: kvm-unit-tests, if BELFRY_KVM_UNIT_TESTS tells where it was built.

echo "== kvm-unit-tests on softkvm"
test_one 'softkvm: kvm-unit-tests' 7200 tests/softkvm/kvm-unit-tests.sh -v
