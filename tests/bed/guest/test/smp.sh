# SPDX-License-Identifier: MIT
# Every CPU is online, runs what is pinned to it and gets its own timer ticks.
#   belfry.cpus=N   how many there must be (default: as many as there are)
. /test/lib.sh

want=$(arg cpus "$(nproc)")
[ "$(nproc)" -eq "$want" ] || fail "$(nproc) CPUs online, should be $want"

# ticks CPU: local timer interrupts it has seen. Column 1 is "LOC:".
ticks() { awk -v col=$(($1 + 2)) '$1 == "LOC:" { print $col }' /proc/interrupts; }

cpu=0
while [ $cpu -lt "$want" ]; do
	before=$(ticks $cpu)
	# Busy for some ticks. Field 39 of stat is the CPU it last ran on; the
	# second field, (sh), has no blank in it.
	ran=$(taskset -c $cpu sh -c '
		i=0
		while [ $i -lt 20000 ]; do i=$((i + 1)); done
		read -r stat </proc/self/stat
		set -- $stat
		shift 38
		echo $1')
	[ "$ran" = $cpu ] || fail "a task pinned to CPU $cpu ran on '$ran'"
	grew=$(($(ticks $cpu) - before))
	[ $grew -gt 0 ] || fail "CPU $cpu was busy and got no timer interrupt"
	tell cpu "$cpu ticks +$grew"
	cpu=$((cpu + 1))
done
