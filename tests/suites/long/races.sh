# SPDX-License-Identifier: MIT
# Read by scripts/check long: calls against calls, signals and guests, 10,000 rounds each.
echo "== softkvm: races"
test_one 'softkvm: races, long' 7200 build/rel/tests/softkvm_races 10000
test_one 'softkvm: steps, every instruction' 1800 build/rel/tests/softkvm_steps 1
test_one 'softkvm: sends, every instruction' 600 build/rel/tests/softkvm_sends 1
test_one 'softkvm: storm, long' 7200 build/rel/tests/softkvm_storm 10000
build 'build: tsan, races' MODE=tsan build/tsan/tests/softkvm_races build/tsan/tests/softkvm_storm
test_one 'tsan: softkvm: races, long' 7200 build/tsan/tests/softkvm_races 2000
test_one 'tsan: softkvm: storm, long' 7200 build/tsan/tests/softkvm_storm 1000
