# SPDX-License-Identifier: MIT
# Data disks. The host wrote them and knows their sums; the guest then fills
# them and the host looks at the result.
#   belfry.disks=NAME[,NAME...]  which (default vdb); several go at the same time
#   belfry.size=MIB   how large each must be (default: as it is)
#   belfry.seed=N     seed of the pattern written (default 7); the next disk has
#                     the next one
#   belfry.rounds=N   write and read back this often (default 1), each time with
#                     another pattern; the last has the seed above
# Lines for the host: "disk-read SUM", "disk-wrote SUM"; with belfry.disks,
# "disk-read NAME SUM" and "disk-wrote NAME SUM".
. /test/lib.sh

size=$(arg size '')
rounds=$(arg rounds 1)
last=$(($(nproc) - 1))

# check NAME SEED [LABEL]
check() {
	dev=/dev/$1
	[ -b "$dev" ] || fail "no $dev"
	read -r sectors <"/sys/class/block/$1/size"
	bytes=$((sectors * 512))
	[ "$bytes" -eq $((${size:-$((bytes / 1048576))} * 1048576)) ] || fail "$dev has $bytes bytes, not $size MiB"

	# A request goes to the queue of the CPU it comes from: use the first and the last.
	# shellcheck disable=SC2086
	tell disk-read $3 "$(taskset -c 0 sha256sum "$dev" | cut -d ' ' -f 1)"
	round=$rounds
	while [ "$round" -gt 0 ]; do
		round=$((round - 1))
		seed=$(($2 + round * 1000))
		noise "$seed" "$bytes" --fill "$dev" || fail "writing $dev"
		echo 3 >/proc/sys/vm/drop_caches
		if [ "$round" -gt 0 ]; then
			noise "$seed" "$bytes" | taskset -c "$last" cmp - "$dev" ||
				fail "$dev does not read back as it was written ($round rounds to go)"
			tell disk-rounds "$1 $round to go"
			continue
		fi
		want=$(noise "$seed" "$bytes" | sha256sum | cut -d ' ' -f 1)
		got=$(taskset -c "$last" sha256sum "$dev" | cut -d ' ' -f 1)
		[ "$got" = "$want" ] || fail "$dev reads back as $got, should be $want"
	done
	# shellcheck disable=SC2086
	tell disk-wrote $3 "$want"
}

disks=$(arg disks '')
seed=$(arg seed 7)
if [ -z "$disks" ]; then
	check vdb "$seed"
	exit 0
fi
jobs=
for disk in $(echo "$disks" | tr , ' '); do
	(check "$disk" "$seed" "$disk") &
	jobs="$jobs $!"
	seed=$((seed + 1))
done
for job in $jobs; do
	wait "$job" || exit 1
done
