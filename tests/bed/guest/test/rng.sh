# SPDX-License-Identifier: MIT
# The entropy device is the kernel's current one, and gives bytes that differ.
. /test/lib.sh

read -r current </sys/class/misc/hw_random/rng_current || fail "no hw_random"
case $current in
virtio_rng*) ;;
*) fail "the kernel's hwrng is '$current', not virtio_rng" ;;
esac
for i in 1 2; do
	dd if=/dev/hwrng of=/tmp/rng.$i bs=512 count=8 2>/dev/null || fail "reading /dev/hwrng"
	size=$(stat -c %s /tmp/rng.$i)
	[ "$size" -eq 4096 ] || fail "asked for 4096 bytes, got $size"
done
! cmp -s /tmp/rng.1 /tmp/rng.2 || fail "two reads gave the same bytes"
# 4096 fair bytes show all 256 values but with odds of one in 27,000; a counter
# or a stuck line shows far fewer or repeats.
kinds=$(od -An -v -tx1 -w1 /tmp/rng.1 | sort -u | wc -l)
[ "$kinds" -ge 240 ] || fail "only $kinds different byte values in 4096 bytes"
tell rng "$current $kinds byte values"
