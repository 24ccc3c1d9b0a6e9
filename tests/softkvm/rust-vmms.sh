#!/bin/bash
# SPDX-License-Identifier: MIT
#
# rust-vmms.sh [-l] [-k DIR] [MONITOR=PATH...] [PATTERN...]
# boot Debian on softkvm in monitors that were built elsewhere, and print a table.
#
#   MONITOR  crosvm, firecracker or cloud-hypervisor; PATH is the program, dynamically
#            linked (or BELFRY_RUST_VMMS='crosvm=PATH ...'); without one all is skipped
#   -l       list the cases and stop
#   -k DIR   keep what monitor and guest said in DIR/MONITOR-CASE.*
#   PATTERN  only cases whose "MONITOR-CASE" matches one of these (bash patterns)
#
# Every case boots to the guest's test scripts: it counts its CPUs and their timers,
# reads, fills and reads a virtio disk whose content is compared here, and fetches a
# file by HTTP through a tap interface. That wants root; all happens in a network
# namespace of its own. The monitors are no part of the project: docs/VMMS.md.
# Environment: BELFRY_GUEST (build/guest), SECONDS_EACH (120).
# Exit: 0 all that ran passed, 1 not so, 77 skipped.
set -uo pipefail
cd "$(dirname "$0")/../.."
limit=${SECONDS_EACH:-120}

# monitor  case  CPUs  what else, for the function of that monitor. What is REFUSED does not
# work, for a reason in docs/VMMS.md: it runs if a pattern names it.
cases() {
	cat <<-'END'
	crosvm            smp1     1
	crosvm            smp2     2
	crosvm            smp4     4
	crosvm            split    2  --split-irqchip
	crosvm            sandbox  2  SANDBOX
	crosvm            pause    2  PAUSE
	crosvm            reboot   2  REBOOT
	firecracker       smp1     1
	firecracker       smp2     2
	firecracker       smp4     4
	firecracker       pci      2  --enable-pci
	firecracker       pause    2  PAUSE
	firecracker       snapshot 2  SNAPSHOT
	firecracker       reboot   2  REBOOT
	cloud-hypervisor  smp1     1
	cloud-hypervisor  smp2     2
	cloud-hypervisor  smp4     4
	cloud-hypervisor  seccomp  2  SECCOMP REFUSED
	cloud-hypervisor  pause    2  PAUSE
	cloud-hypervisor  snapshot 2  SNAPSHOT
	cloud-hypervisor  reboot   2  REBOOTS
	END
}

skip() {
	echo "skip: $*"
	exit 77
}
keep='' patterns=() asked=("$@")
while getopts k:lh opt; do
	case $opt in
	k) keep=$OPTARG ;;
	l) cases; exit 0 ;;
	h) sed -n '4,18s/^# \{0,1\}//p' "$0"; exit 0 ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
declare -A monitors=()
for word in ${BELFRY_RUST_VMMS-} "$@"; do
	case $word in
	crosvm=* | firecracker=* | cloud-hypervisor=*) monitors[${word%%=*}]=${word#*=} ;;
	*) patterns+=("$word") ;;
	esac
done
[ ${#monitors[@]} -gt 0 ] || skip 'no path of a built monitor was given (see -h)'
for need in build/belfry build/libsoftkvm-preload.so "${monitors[@]}"; do
	[ -e "$need" ] || { echo "rust-vmms.sh: no $need" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || skip 'a tap interface wants root'
if [ -z "${RUST_VMMS_APART-}" ]; then
	scripts/guest-images || exit 1
	RUST_VMMS_APART=1 exec unshare --net -- "$0" "${asked[@]}"
fi
guest=$(scripts/guest-images --where)

work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
{ ip link set lo up && ip tuntap add tap0 mode tap vnet_hdr && ip addr add 10.0.2.2/24 dev tap0 &&
	ip link set tap0 up; } || skip 'no tap interface can be made here'
mkdir "$work/www"
head -c 300000 /dev/urandom >"$work/www/blob"
sum=$(sha256sum <"$work/www/blob" | cut -d ' ' -f 1)
python3 -m http.server --bind 10.0.2.2 --directory "$work/www" 8000 >/dev/null 2>&1 &
server=$!

words="console=ttyS0 ${APPEND-quiet} reboot=k panic=-1 belfry.script=smp,disk,net belfry.size=4 belfry.seed=5"
words+=" belfry.ip=static belfry.serve=no belfry.port=8000 belfry.sum=$sum"

# Each starts its monitor in the background, softkvm before it: boot_MONITOR CPUS WORDS [OPTION...]
soft() { timeout -k 2 "$limit" build/belfry with-softkvm -- "$@" </dev/null >>"$work/out" 2>>"$work/err" & }

boot_crosvm() {
	local cpus=$1 append=$2 jail=(--disable-sandbox)
	shift 2
	# It forks its jailed devices before it makes vCPUs, and only while it has one thread.
	[ "${1-}" != SANDBOX ] || { jail=(); shift; mkdir -p /var/empty; }
	BELFRY_LATE_THREAD=on soft "${monitors[crosvm]}" run "${jail[@]}" --mem size=256 --cpus "num-cores=$cpus" --socket "$work/socket" \
		--serial type=stdout,hardware=serial,num=1,console --initrd "$guest/initrd.cpio" \
		--params "$append" --block "path=$work/root" --block "path=$work/data" --net tap-name=tap0 "$@" "$guest/vmlinux"
}
pause_crosvm() { "${monitors[crosvm]}" suspend "$work/socket"; }
resume_crosvm() { "${monitors[crosvm]}" resume "$work/socket"; }

boot_firecracker() {
	local cpus=$1 append=$2
	shift 2
	cat >"$work/config" <<-END
		{ "boot-source": { "kernel_image_path": "$guest/vmlinux", "initrd_path": "$guest/initrd.cpio",
		    "boot_args": "$append" },
		  "machine-config": { "vcpu_count": $cpus, "mem_size_mib": 256 },
		  "drives": [
		    { "drive_id": "root", "path_on_host": "$work/root", "is_root_device": false, "is_read_only": false },
		    { "drive_id": "data", "path_on_host": "$work/data", "is_root_device": false, "is_read_only": false } ],
		  "network-interfaces": [ { "iface_id": "net", "host_dev_name": "tap0" } ] }
	END
	soft "${monitors[firecracker]}" --log-path "$work/log" --api-sock "$work/socket" --config-file "$work/config" --no-seccomp "$@"
}
firecracker_ask() { curl -sS --fail --unix-socket "$work/socket" -X "$1" -d "$3" "http://localhost/$2"; }
pause_firecracker() { firecracker_ask PATCH vm '{ "state": "Paused" }'; }
resume_firecracker() { firecracker_ask PATCH vm '{ "state": "Resumed" }'; }
save_firecracker() {
	firecracker_ask PUT snapshot/create "{ \"snapshot_path\": \"$work/state\", \"mem_file_path\": \"$work/memory\" }"
}
load_firecracker() {
	soft "${monitors[firecracker]}" --log-path "$work/log" --api-sock "$work/socket" --no-seccomp
	pid=$!
	until_socket
	firecracker_ask PUT snapshot/load "{ \"snapshot_path\": \"$work/state\", \"resume_vm\": true,
		\"mem_backend\": { \"backend_type\": \"File\", \"backend_path\": \"$work/memory\" } }"
}

boot_cloud-hypervisor() {
	local cpus=$1 append=$2 filter=false
	[ "${3-}" != SECCOMP ] || filter=true
	soft "${monitors[cloud-hypervisor]}" --seccomp $filter --api-socket "$work/socket" --cpus "boot=$cpus" \
		--memory size=256M --serial tty --console off --kernel "$guest/vmlinux" --initramfs "$guest/initrd.cpio" \
		--cmdline "$append" --disk "path=$work/root,image_type=raw" "path=$work/data,image_type=raw" --net tap=tap0
}
hypervisor_ask() {
	curl -sS --fail --unix-socket "$work/socket" -X PUT -H 'Content-Type: application/json' \
		${2+-d "$2"} "http://localhost/api/v1/vm.$1"
}
pause_cloud-hypervisor() { hypervisor_ask pause; }
resume_cloud-hypervisor() { hypervisor_ask resume; }
save_cloud-hypervisor() {
	mkdir "$work/state" && hypervisor_ask snapshot "{ \"destination_url\": \"file://$work/state\" }"
}
load_cloud-hypervisor() {
	soft "${monitors[cloud-hypervisor]}" --seccomp false --api-socket "$work/socket" --restore "source_url=file://$work/state"
	pid=$!
	until_socket
	until resume_cloud-hypervisor; do kill -0 $pid && sleep 0.1 || return 1; done
}

# said WORDS: the guest has; until_said WORDS: wait for it, or for the monitor's end
said() { grep -q "^belfry-guest: \($1\)" "$work/out"; }
until_said() { while kill -0 $pid 2>/dev/null && ! said "$1"; do sleep 0.05; done; }
until_socket() { while kill -0 $pid 2>/dev/null && [ ! -S "$work/socket" ]; do sleep 0.05; done; }

# pauses MONITOR: stop and go, again and again, from the guest's first word to its last.
pauses() {
	local n=0
	until_said run
	while kill -0 $pid 2>/dev/null && ! said 'OK\|FAIL'; do
		{ "pause_$1" && "resume_$1"; } >>"$work/control" 2>&1 || break
		n=$((n + 1))
	done
	[ $n = 0 ] && how='FAILED: not paused once' || note=", paused $n times"
}

# reboots MONITOR: it starts the machine anew by itself; once is enough.
reboots() {
	while kill -0 $pid 2>/dev/null && [ "$(grep -c '^belfry-guest: OK' "$work/out")" -lt 2 ]; do sleep 0.05; done
	kill $pid || how='FAILED: ended, and did not start anew'
}

# snapshot MONITOR: saved while it writes to its disk, ended, and taken up by another process.
snapshot() {
	until_said disk-rounds
	{ "pause_$1" && "save_$1"; } >>"$work/control" 2>&1 || how='FAILED: not saved'
	kill $pid
	wait $pid
	rm -f "$work/socket"
	"load_$1" >>"$work/control" 2>&1 || how='FAILED: not loaded'
}

failed=0
# run MONITOR CASE CPUS WORDS...
run() {
	local monitor=$1 name=$2 cpus=$3 append="$words belfry.cpus=$3" status=0 how=ok note='' t0=$EPOCHREALTIME pid while='' more=()
	shift 3
	rm -rf "$work/socket" "$work/state"
	for file in out err log control; do : >"$work/$file"; done
	cp --sparse=always "$guest/root.ext4" "$work/root"
	truncate -s 0 "$work/data" && truncate -s 4M "$work/data"
	for word; do
		case $word in
		PAUSE) while=pauses; append+=' belfry.rounds=8' ;;
		SNAPSHOT) while=snapshot; append+=' belfry.rounds=8' ;;
		REBOOT) append+=' belfry.end=reboot' ;;
		REBOOTS) while=reboots; append+=' belfry.end=reboot' ;;
		REFUSED) ;;
		*) more+=("$word") ;;
		esac
	done
	[ "$monitor" != firecracker ] || append+=' belfry.end=reboot' # it has no power button
	"boot_$monitor" "$cpus" "$append" "${more[@]}"
	pid=$!
	[ -z "$while" ] || $while "$monitor"
	wait $pid || status=$?
	if [ "$how" != ok ]; then
		:
	elif ! said OK; then
		how="FAILED: no OK, status $status"
	elif ! said "net-fetched $sum" ||
	     [ "$(tr -d '\r' <"$work/out" | awk '/^belfry-guest: disk-wrote/ { s = $NF } END { print s }')" != \
	       "$(sha256sum <"$work/data" | cut -d ' ' -f 1)" ]; then
		how='FAILED: what went in did not come out'
	elif [ $status -ge 124 ] && [ "$while" != reboots ]; then
		how="FAILED: it does not end, status $status"
	fi
	printf '| %s | %s | %s%s | %s s |\n' "$monitor" "$name" "$how" "$note" \
		"$(awk -v a="$t0" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')"
	[ -z "$keep" ] || for file in out err log control; do cp "$work/$file" "$keep/$monitor-$name.$file"; done
	[[ $how == FAILED* ]] || return
	failed=1
	tail -n 20 "$work/out" "$work/err" "$work/control" | sed 's/^/    | /'
}

while read -r monitor name cpus more; do
	[ -n "${monitors[$monitor]-}" ] || continue
	hit=${#patterns[@]}
	[[ $more != *REFUSED* ]] || hit=1
	# shellcheck disable=SC2053
	for p in "${patterns[@]}"; do [[ $monitor-$name != $p ]] || hit=0; done
	[ "$hit" = 0 ] || continue
	# shellcheck disable=SC2086
	run "$monitor" "$name" "$cpus" $more
done < <(cases)
exit $failed
