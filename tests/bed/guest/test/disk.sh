# SPDX-License-Identifier: MIT
# The data disk /dev/vdb. The host wrote it and knows its sum; the guest then
# fills it and the host looks at the result.
#   belfry.size=MIB   how large the disk must be (default: as it is)
#   belfry.seed=N     seed of the pattern written (default 7)
# Lines for the host: "disk-read SUM", "disk-wrote SUM".
. /test/lib.sh

dev=/dev/vdb
[ -b $dev ] || fail "no $dev"
read -r sectors </sys/class/block/vdb/size
bytes=$((sectors * 512))
size=$(arg size $((bytes / 1048576)))
[ "$bytes" -eq $((size * 1048576)) ] || fail "$dev has $bytes bytes, not $size MiB"
seed=$(arg seed 7)

tell disk-read "$(sum_of $dev)"
noise "$seed" "$bytes" --fill $dev || fail "writing $dev"
want=$(noise "$seed" "$bytes" | sha256sum | cut -d ' ' -f 1)
echo 3 >/proc/sys/vm/drop_caches
got=$(sum_of $dev)
[ "$got" = "$want" ] || fail "$dev reads back as $got, should be $want"
tell disk-wrote "$want"
