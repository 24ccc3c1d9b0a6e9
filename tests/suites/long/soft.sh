# SPDX-License-Identifier: MIT
# Debian in Belfry on softkvm, many minutes of it. Sourced by scripts/check long.

echo "== Debian on softkvm, many times or slowly"
build 'build: tsan' MODE=tsan build/tsan/belfry
for guest_case in modern legacy slow; do
	test_one "tsan: $guest_case" 900 env BELFRY="$PWD/build/tsan/belfry" LIMIT=800 \
		tests/softkvm/debian.sh $guest_case
done

test_one 'soft: rebuilt every 10,000 exits, 20 boots' 3600 env BOOTS=20 tests/softkvm/debian.sh rebuilt
test_one 'soft: rebuilt every 100 exits' 900 env EXITS=100 tests/softkvm/debian.sh rebuilt

test_one 'soft: 10,000 VMs come and go' 1800 build/rel/tests/softkvm_many 10000
