#!/bin/bash
# SPDX-License-Identifier: MIT
#
# qemu_life.sh [--list] [CASE...]: what QEMU's monitor and debugger do to a running
# Debian guest on softkvm. The guest's shell is on a pipe; every case starts a
# machine of its own. Without a name: the cases of `make check`; "all" is all.
#
# pause      stops and continues it many times while it computes and writes
# snapshot   savevm, goes on, loadvm: the guest is back where it was
# migrate    its state to a file, and from there into another QEMU
# ring       the same, what it dirties meanwhile told by rings and not by bitmaps
# reset      system_reset, twice
# hotplug    a disk, a processor and memory come; the disk goes
# gdb        breakpoints of both kinds, steps, watchpoints, registers, memory
# daemonize  QEMU forks before it makes its machine
#
# Environment: BELFRY_GUEST (build/guest), SECONDS_EACH (120), KEEP=DIR (logs).
# Exit: 0 passed, 1 failed, 77 this host cannot (the last line says why).
set -uo pipefail
cd "$(dirname "$0")/../.."
limit=${SECONDS_EACH:-120}

# name  in make check  function  machine
cases() {
	cat <<-'END'
	pause          yes  pause     -M q35 -smp 2
	pause-split    no   pause     -M q35,kernel-irqchip=split -smp 2
	pause-off      no   pause     -M q35,kernel-irqchip=off -smp 1
	snapshot       yes  snapshot  -M q35 -smp 2
	snapshot-split no   snapshot  -M q35,kernel-irqchip=split -smp 2
	snapshot-off   no   snapshot  -M q35,kernel-irqchip=off -smp 1
	migrate        yes  migrate   -M q35 -smp 2
	migrate-split  no   migrate   -M q35,kernel-irqchip=split -smp 2
	migrate-off    no   migrate   -M q35,kernel-irqchip=off -smp 1
	migrate-pc     no   migrate   -M pc -smp 2
	ring           yes  ring      -M q35 -smp 2
	ring-split     no   ring      -M q35,kernel-irqchip=split -smp 2
	reset          yes  reset     -M q35 -smp 2
	reset-split    no   reset     -M q35,kernel-irqchip=split -smp 2
	reset-off      no   reset     -M q35,kernel-irqchip=off -smp 1
	reset-microvm  no   reset     -M microvm,acpi=on,pcie=on -smp 2
	hotplug        yes  hotplug   -M q35 -smp 1,sockets=2,maxcpus=2
	hotplug-split  no   hotplug   -M q35,kernel-irqchip=split -smp 1,sockets=2,maxcpus=2
	gdb            yes  debug     -M q35 -smp 1
	gdb-smp        no   debug     -M q35 -smp 2
	daemonize      yes  daemonize -M q35 -smp 1 -daemonize
	END
}

skip() {
	echo "skip: $*"
	exit 77
}
for need in build/belfry build/libsoftkvm-preload.so; do
	[ -e "$need" ] || { echo "qemu_life.sh: no $need; run make" >&2; exit 1; }
done
case ${1-} in
--list) cases; exit 0 ;;
-h | --help) sed -n '4,19s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
command -v qemu-system-x86_64 >/dev/null || skip 'no qemu-system-x86_64 (scripts/setup test)'
command -v gdb >/dev/null || skip 'no gdb (scripts/setup test)'
scripts/guest-images || exit 1
guest=$(scripts/guest-images --where)
work=$(mktemp -d)
vm='' jobs=()
trap 'stop; rm -rf "$work"' EXIT

# ---- one machine: its monitor and its guest's shell, each on a pair of pipes ----

bad() {
	echo "    | $*"
	return 1
}

# lives: QEMU does; one that has gone to the background is told by its file.
lives() { kill -0 "$vm" 2>/dev/null || kill -0 "$(cat "$work/pid" 2>/dev/null)" 2>/dev/null; }

# until_seen LOG PATTERN [COUNT]: wait until COUNT (1) lines of it match.
until_seen() {
	local end=$((SECONDS + limit))
	while [ "$(grep -cE "$2" "$work/$1" 2>/dev/null)" -lt "${3-1}" ]; do
		[ $SECONDS -lt $end ] || { bad "'$2' was not seen in $1 within $limit s"; return 1; }
		[ -z "$vm" ] || lives || { bad "QEMU ended before '$2' in $1"; return 1; }
		sleep 0.05
	done
}

# start [ARGUMENTS...]: QEMU, up to its monitor. disk: its root disk and how; words: for the kernel; kvm:
# for the accelerator.
disk='' words='' kvm=''
start() {
	local p drive=${disk:-file=$guest/root.ext4,snapshot=on}
	stop
	for p in mon tty; do
		rm -f "$work/$p.in" "$work/$p.out"
		mkfifo "$work/$p.in" "$work/$p.out"
		: >"$work/$p"
		# Open for both, so that nobody waits for the other end.
		cat <>"$work/$p.out" >>"$work/$p" &
		jobs+=($!)
	done
	exec 6<>"$work/mon.in" 7<>"$work/tty.in"
	rm -f "$work/pid"
	build/belfry with-softkvm -- qemu-system-x86_64 -accel "kvm$kvm" -m 256,slots=2,maxmem=1G \
		-nodefaults -display none -chardev "pipe,id=mon,path=$work/mon" \
		-mon chardev=mon,mode=readline -chardev "pipe,id=tty,path=$work/tty" \
		-serial chardev:tty -pidfile "$work/pid" \
		-kernel "$guest/vmlinuz" -initrd "$guest/initrd.cpio" \
		-append "console=ttyS0 quiet $words" -drive "$drive,format=raw,if=none,id=root" \
		-device virtio-blk-pci,drive=root "$@" </dev/null >>"$work/err" 2>&1 6>&- 7>&- &
	vm=$!
	until_seen mon '^QEMU .* monitor'
}

stop() {
	[ ! -s "$work/pid" ] || kill "$(cat "$work/pid")" 2>/dev/null
	[ -z "$vm" ] || kill "$vm" 2>/dev/null
	exec 6>&- 7>&-
	[ -z "$vm" ] || wait "$vm" 2>/dev/null
	vm=''
	[ ${#jobs[@]} = 0 ] || kill "${jobs[@]}" 2>/dev/null
	wait 2>/dev/null
	jobs=()
}

# hmp COMMAND: say it, and wait until it has been done.
turn=0
hmp() {
	turn=$((turn + 1))
	printf '%s\nprint/d 100000*7+%d\n' "$1" $turn >&6
	until_seen mon "^$((700000 + turn))"
}

# It runs: all that was to come in is in.
running() {
	while ! grep -q 'VM status: running' "$work/mon"; do
		hmp 'info status' || return 1
		sleep 0.05
	done
}

# answer COMMAND: what it prints in the guest's shell, on the last line.
answer() {
	turn=$((turn + 1))
	printf '%s\necho done-$((%d+0))\n' "$1" $turn >&7
	until_seen tty "^done-$turn" >&2 || return 1
	tr -d '\r' <"$work/tty" | grep -B 1 "^done-$turn\$" | head -n 1
}
sh_do() { answer "$1" >/dev/null; }

# expect WHAT IS SHOULD
expect() { [ "$2" = "$3" ] || bad "$1: '$2', not '$3'"; }

# at_shell [N]: the guest's shell is there, for the Nth time on this console.
at_shell() {
	until_seen tty '^belfry:' "${1-1}" && sh_do 'PS1=; stty -echo; echo 0 >/tmp/n; echo 0 >/tmp/m'
}

# Something that computes and something that writes to the disk, for ever; each leaves a count.
busy='(n=0; while :; do n=$((n + 1)); echo $n >/tmp/n; done) & '
busy+='(m=0; while :; do m=$((m + 1)); dd if=/data/blob of=/w bs=64k count=8 conv=fsync; echo $m >/tmp/m; done) 2>/dev/null &'

# Both go on.
goes_on() {
	sh_do 'n=$(cat /tmp/n) m=$(cat /tmp/m); while [ "$(cat /tmp/n)" = "$n" ] || [ "$(cat /tmp/m)" = "$m" ]; do sleep 0.05; done'
}

# ---- the cases -------------------------------------------------------------------

pause() {
	start "$@" && at_shell && sh_do "$busy" && goes_on || return 1
	for ((i = 0; i < 40; i++)); do
		hmp stop && hmp cont || return 1
	done
	hmp stop && hmp 'info status' && until_seen mon 'VM status: paused' && hmp cont && goes_on
}

snapshot() {
	start "$@" && at_shell && sh_do "$busy" && goes_on || return 1
	sh_do 'x=before; echo before >/tmp/f; echo before >/f' && hmp 'savevm one' || return 1
	for ((i = 0; i < 2; i++)); do
		sh_do 'x=after; echo after >/tmp/f; echo after >/f; sync' && goes_on && hmp 'loadvm one' || return 1
		expect 'after loadvm' "$(answer 'echo $x $(cat /tmp/f /f)')" 'before before before' && goes_on || return 1
	done
}

migrate() {
	cp --sparse=always "$guest/root.ext4" "$work/root"
	disk="file=$work/root,cache=unsafe"
	start "$@" && at_shell && sh_do "$busy" && sh_do 'x=here; echo there >/f; sync' && goes_on &&
		hmp "migrate \"exec:cat > $work/state\"" && hmp 'info migrate' && until_seen mon 'status: completed' &&
		start "$@" -incoming "exec:cat $work/state" && running || return 1
	expect 'after the migration' "$(answer 'echo $x $(cat /f)')" 'here there' && goes_on
}

ring() {
	kvm=,dirty-ring-size=1024
	migrate "$@"
}

reset() {
	start "$@" && at_shell && sh_do "$busy" && goes_on && hmp system_reset && at_shell 2 &&
		sh_do "$busy" && goes_on && hmp system_reset && at_shell 3 && expect 'a new boot' "$(answer 'cat /tmp/n')" 0
}

hotplug() {
	local on='for s in /sys/devices/system/memory/memory*/state; do grep -q offline $s && echo online >$s; done'
	truncate -s 4M "$work/extra"
	start "$@" -device pcie-root-port,id=slot1,slot=1 \
		-drive "file=$work/extra,format=raw,if=none,id=extra" && at_shell || return 1
	hmp 'device_add virtio-blk-pci,drive=extra,bus=slot1,id=disk' &&
		sh_do 'while ! [ -b /dev/vdb ]; do sleep 0.05; done; dd if=/data/blob of=/dev/vdb bs=64k count=16 conv=fsync' || return 1
	expect 'on the new disk' "$(answer 'head -c 1048576 /data/blob | sha256sum')" \
		"$(head -c 1048576 "$work/extra" | sha256sum)" || return 1
	hmp 'device_add qemu64-x86_64-cpu,id=second,socket-id=1,core-id=0,thread-id=0' &&
		sh_do 'while ! echo 1 >/sys/devices/system/cpu/cpu1/online; do sleep 0.05; done 2>/dev/null' || return 1
	expect 'on the second processor' "$(answer 'taskset 2 sh -c "cut -d \" \" -f 39 /proc/self/stat"')" 1 || return 1
	sh_do 'old=$(sed -n "s/MemTotal: *\([0-9]*\).*/\1/p" /proc/meminfo)'
	hmp 'object_add memory-backend-ram,id=ram1,size=128M' && hmp 'device_add pc-dimm,id=dimm1,memdev=ram1' &&
		sh_do "while ! [ \$(sed -n 's/MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo) -gt \$((old + 120000)) ]; do $on; sleep 0.05; done" || return 1
	hmp 'device_del disk' && sh_do 'while [ -b /dev/vdb ]; do sleep 0.05; done' && sh_do "$busy" && goes_on
}

debug() {
	local at word
	words=nokaslr
	start "$@" -gdb "unix:$work/gdb,server=on,wait=off" && at_shell && sh_do "$busy" && goes_on || return 1
	at=0x$(answer 'sed -n "s/ T ksys_write$//p" /proc/kallsyms')
	cat >"$work/script" <<-END
		set pagination off
		set remotetimeout 60
		set architecture i386:x86-64
		target remote $work/gdb
		hbreak *$at
		continue
		printf "hardware %d\n", \$rip == $at
		delete
		break *$at
		continue
		printf "software %d\n", \$rip == $at
		stepi
		printf "step %d\n", \$rip != $at && \$rip - $at < 16
		delete
		set {unsigned long} (\$rsp - 8) = 0x1234567
		watch -l *(unsigned long *) (\$rsp - 8)
		set \$was = \$rsp
		continue
		printf "watch %d\n", *(unsigned long *) (\$was - 8) != 0x1234567 && \$rip - $at < 64
		delete
		set \$r15 = \$r15
		printf "cs %d\n", \$cs == 0x10
		detach
	END
	timeout "$limit" gdb -nx -batch -x "$work/script" >"$work/gdb.out" 2>&1
	for word in hardware software step watch cs; do
		grep -q "^$word 1" "$work/gdb.out" || { bad "gdb: $word"; sed 's/^/    | /' "$work/gdb.out"; return 1; }
	done
	goes_on
}

daemonize() {
	start "$@" || return 1
	wait "$vm" || bad 'the parent did not end well' || return 1
	vm=$(cat "$work/pid")
	at_shell && sh_do "$busy" && goes_on && kill "$vm" || return 1
	while kill -0 "$vm" 2>/dev/null; do sleep 0.05; done
	vm=
}

failed=0
run() {
	local name=$1 fn=$2 t0=$EPOCHREALTIME how=ok
	shift 2
	: >"$work/err"
	disk='' words='' kvm=''
	"$fn" "$@" || how=FAILED
	stop
	printf '%-16s %s, %s s\n' "$name" "$how" "$(awk -v a="$t0" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')"
	[ -z "${KEEP-}" ] || for log in mon tty err gdb.out; do cp "$work/$log" "$KEEP/$name.$log" 2>/dev/null; done
	[ "$how" = ok ] && return
	failed=1
	tail -n 12 "$work/mon" "$work/tty" "$work/err" | sed 's/^/    | /'
}

ran=0
while read -r name check fn machine; do
	case " ${*:-yes} " in
	*" all "* | *" $name "*) ;;
	' yes ') [ "$check" = yes ] || continue ;;
	*) continue ;;
	esac
	# shellcheck disable=SC2086
	run "$name" "$fn" $machine
	ran=1
done < <(cases)
[ $ran = 1 ] || { echo "qemu_life.sh: no such case; --list has them" >&2; exit 1; }
exit $failed
