# SPDX-License-Identifier: MIT
# Read by scripts/check: random sequences of calls on the kernel's KVM and on softkvm.
echo "== softkvm against the kernel"
test_one 'softkvm: API differential' 600 build/rel/diff/apidiff
