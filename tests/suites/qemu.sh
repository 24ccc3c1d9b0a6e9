# SPDX-License-Identifier: MIT
# Read by scripts/check: Debian's QEMU as a user of softkvm.
echo "== QEMU on softkvm"
test_one 'softkvm: QEMU' 300 tests/softkvm/qemu.sh
