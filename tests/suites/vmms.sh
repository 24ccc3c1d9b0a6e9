# SPDX-License-Identifier: MIT
# Read by scripts/check: other people's programs on softkvm (docs/VMMS.md).
echo "== other programs on softkvm"
test_one 'softkvm: preload' 300 tests/preload/run
test_one 'softkvm: preload, no /dev/kvm' 300 tests/preload/run missing
test_one 'softkvm: QEMU' 900 tests/softkvm/qemu.sh
test_one "softkvm: QEMU's monitor" 900 tests/softkvm/qemu_life.sh
