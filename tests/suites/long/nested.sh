# SPDX-License-Identifier: MIT
# The long cases of Debian on the nested bed. Sourced by scripts/check long.

echo "== Debian on the nested bed: gigabytes, and many boots"
for guest_case in writes bulk_user bulk_tap boots resets panic escape; do
	test_one "nested: $guest_case" 3700 tests/bed/debian.sh $guest_case
done
