# SPDX-License-Identifier: MIT
# Read by scripts/check long: a million sequences.
echo "== softkvm against the kernel"
test_one 'softkvm: API differential, long' 20000 build/rel/diff/apidiff count 1000000 seed "${SEED:-2}"
