# SPDX-License-Identifier: MIT
# Every machine QEMU makes on softkvm, again and again. Sourced by scripts/check long.

echo "== QEMU on softkvm: every machine, five times"
for round in 1 2 3 4 5; do
	test_one "softkvm: QEMU, all, round $round" 1800 tests/softkvm/qemu.sh all
	test_one "softkvm: QEMU's monitor, all, round $round" 1800 tests/softkvm/qemu_life.sh all
done
# Skipped unless BELFRY_RUST_VMMS tells where they were built.
test_one 'softkvm: crosvm, Firecracker, Cloud Hypervisor' 3600 tests/softkvm/rust-vmms.sh
