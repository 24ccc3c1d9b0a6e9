# SPDX-License-Identifier: MIT
# Interrupt affinity: move a virtio queue's interrupt to another CPU, do I/O,
# and see the interrupts arrive there and nowhere else; then move it to and fro
# under load, where a lost interrupt shows as I/O that never ends.
#   belfry.irqdev=rng|net   whose (default: rng if there is one)
#   belfry.moves=N          how often under load (default 40)
# virtio-blk is no candidate: its affinity is managed by the kernel.
. /test/lib.sh

cat /proc/interrupts
cpus=$(nproc)
[ "$cpus" -ge 2 ] || fail "needs two CPUs, has $cpus"

kind=$(arg irqdev '')
if [ -z "$kind" ]; then
	kind=net
	! virtio_device 4 >/dev/null || kind=rng
fi
case $kind in
rng) dev=$(virtio_device 4) || fail "no virtio-rng device" ;;
net)
	dev=$(virtio_device 1) || fail "no virtio-net device"
	net_up
	;;
*) fail "belfry.irqdev=$kind is unknown" ;;
esac

# One request of the device, so at least one interrupt. The entropy core keeps
# up to 64 bytes in hand, so ask for more than that.
io() {
	case $kind in
	rng) dd if=/dev/hwrng of=/dev/null bs=512 count="$1" 2>/dev/null ;;
	net) ping -q -c "$1" -i 0.02 -W 30 "$(arg gw 10.0.2.2)" >/dev/null ;;
	esac
}

# The queue's own vector, or the shared one, or the INTx line.
irq=$(sed -n "s/^ *\([0-9]*\):.* $dev-\(input\|input\.0\|virtqueues\)\$/\1/p; t
	s/^ *\([0-9]*\):.* $dev\(,.*\)*\$/\1/p" /proc/interrupts | head -n 1)
[ -n "$irq" ] || fail "no interrupt of $dev in /proc/interrupts"
tell irq "$irq" "$dev" "$(sed -n "s/^ *$irq:[ 0-9]*//p" /proc/interrupts)"

# counts: what each CPU has seen of it, one word a CPU.
counts() { sed -n "s/^ *$irq:\(\( *[0-9]\+\)\{$cpus\}\) .*/\1/p" /proc/interrupts; }

# move CPU: send it there, and let interrupts pass until it is there: a masked or an
# edge interrupt may be moved only when the next one arrives, and not while the CPU
# that it left last has yet to clean up. I/O does not always bring one: the network's
# driver may still be polling.
move() {
	echo "$1" >"/proc/irq/$irq/smp_affinity_list" || fail "irq $irq cannot be moved to CPU $1"
	tries=1000
	while
		io 1 || fail "I/O failed after irq $irq was moved to CPU $1"
		read -r at <"/proc/irq/$irq/effective_affinity_list"
		[ "$at" != "$1" ]
	do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || fail "irq $irq was moved to CPU $1 and stays on CPU $at"
		usleep 50000
	done
}

# check CPU: do I/O; the counts must grow there and only there.
check() {
	before=$(counts)
	io 20 || fail "I/O failed with irq $irq on CPU $1"
	cpu=0
	after=$(counts)
	# shellcheck disable=SC2086
	set -- "$1" $after
	for was in $before; do
		grew=$(($2 - was))
		if [ "$cpu" -eq "$1" ]; then
			[ "$grew" -gt 0 ] || fail "irq $irq is on CPU $1, which saw none of it"
			tell irq-moved "$irq cpu $cpu +$grew"
		else
			[ "$grew" -eq 0 ] || fail "irq $irq is on CPU $1, but CPU $cpu saw $grew of it"
		fi
		cpu=$((cpu + 1))
		first=$1
		shift 2
		set -- "$first" "$@"
	done
}

read -r home <"/proc/irq/$irq/effective_affinity_list"
away=$(((home + 1) % cpus))
for target in $away $home; do
	move "$target"
	check "$target"
done

case $kind in rng) io 400 & ;; net) io 80 & ;; esac
load=$!
moves=$(arg moves 40)
while [ "$moves" -gt 0 ]; do
	echo $((moves % cpus)) >"/proc/irq/$irq/smp_affinity_list"
	moves=$((moves - 1))
	usleep 5000
done
# It may take long, but not a minute without an interrupt.
tries=0 last=
while kill -0 $load 2>/dev/null; do
	if [ $tries -eq 0 ]; then
		now=$(counts)
		if [ "$now" = "$last" ]; then
			cat /proc/interrupts
			fail "I/O stopped while irq $irq was being moved: an interrupt was lost"
		fi
		last=$now tries=600
	fi
	tries=$((tries - 1))
	usleep 100000
done
wait $load || fail "I/O failed while irq $irq was being moved"
