# SPDX-License-Identifier: MIT
# Debian in Belfry on softkvm, on this machine. Sourced by scripts/check.

echo "== Debian on softkvm"
for guest_case in modern legacy slow; do
	test_one "soft: $guest_case" 300 tests/softkvm/debian.sh $guest_case
done
test_one 'soft: rebuilt every 1,000 exits' 300 env CPUS=4 EXITS=1000 tests/softkvm/debian.sh rebuilt
for guest_case in run tty; do
	test_one "host: $guest_case" 300 env BED=host tests/bed/debian.sh $guest_case
done
