# SPDX-License-Identifier: MIT
# Read by scripts/check long: calls against calls, signals and guests, 10,000 rounds each.
echo "== softkvm: races"
test_one 'softkvm: races, long' 7200 build/rel/tests/softkvm_races 10000
