# SPDX-License-Identifier: MIT
# Debian in Belfry, where a KVM can run it: the nested bed (docs/BEDS.md). About
# six minutes. Sourced by scripts/check.

echo "== Debian on the nested bed"
for guest_case in modern legacy paths tap reset pvh end run tty; do
	test_one "nested: $guest_case" 1000 tests/bed/debian.sh $guest_case
done
