# SPDX-License-Identifier: MIT
# Debian in Belfry on softkvm, many minutes of it. Sourced by scripts/check long.

echo "== Debian on softkvm, all of Belfry under tsan"
build 'build: tsan' MODE=tsan build/tsan/belfry
for guest_case in modern legacy slow; do
	test_one "tsan: $guest_case" 900 env BELFRY="$PWD/build/tsan/belfry" LIMIT=800 \
		tests/softkvm/debian.sh $guest_case
done
