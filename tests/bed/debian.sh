#!/bin/bash
# SPDX-License-Identifier: MIT
#
# debian.sh [--list] CASE...: boot Debian in Belfry on the nested bed and look at
# it from the guest and from its host. Each case is one boot of the bed's outer
# machine (L1), in which tests/bed/debian/cases.sh starts the guests. The cases
# run and tty go through scripts/run, as `make run` does.
#
# Exit: 0 passed, 1 failed, 77 the bed cannot run here (its last line says why).
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin
cases=tests/bed/debian

case ${1-} in
--list)
	sed -n 's/^c_\([a-z_0-9]*\)().*/\1/p' $cases/cases.sh $cases/long.sh "$0"
	exit 0
	;;
-h | --help | '') sed -n '4,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
[ -x build/belfry ] || { echo 'debian.sh: build/belfry is not there; run make' >&2; exit 1; }

work=$(mktemp -d "${TMPDIR:-/tmp}/belfry-debian.XXXXXX")
session=belfry-$$
finish() {
	! command -v tmux >/dev/null || tmux -L "$session" kill-server 2>/dev/null || true
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

bad() {
	echo "debian.sh: $*" >&2
	exit 1
}

# in_bed CASE: the case's part inside L1.
in_bed() {
	local programs=() extra=() prog limit=800
	for prog in e2fsck debugfs; do programs+=(--program "$(command -v $prog)"); done
	# Long cases write much: a disk for them, which L1 mounts.
	if grep -q "^c_$1()" $cases/long.sh; then
		truncate -s 1536M "$work/scratch"
		mke2fs -q -F -t ext4 -O ^has_journal -m 0 -E lazy_itable_init=1 "$work/scratch"
		extra=(--qemu -drive --qemu "file=$work/scratch,format=raw,if=none,id=scratch,cache=unsafe"
			--qemu -device --qemu virtio-blk-pci,drive=scratch,romfile=)
		limit=3600
	fi
	scripts/nested --timeout "$limit" "${extra[@]}" --share $cases "${programs[@]}" \
		-- sh /share/debian/main.sh "$1" $((limit * 3 / 4))
}

# --- make run

# In the nested bed, which wants QEMU; with BED=host on this machine's KVM or softkvm.
bed=--nested
[ "${BED-}" != host ] || bed=
can_run() {
	[ -z "$bed" ] || command -v qemu-system-x86_64 >/dev/null || {
		echo 'debian.sh: skipped: no qemu-system-x86_64 (scripts/setup test)' >&2
		exit 77
	}
}

# With no terminal: the guest runs its script and powers off.
c_run() {
	local status=0
	can_run
	scripts/run $bed </dev/null >"$work/out" 2>"$work/err" || status=$?
	cat "$work/err" "$work/out"
	[ $status = 0 ] || return $status
	grep -q '^belfry-guest: OK' "$work/out" || bad 'no OK'
	grep -q 'Linux .*cloud-amd64' "$work/out" || bad 'no kernel version'
	grep -q 'PCI-MSI' "$work/out" || bad 'no /proc/interrupts'
	grep -q '^belfry-guest: blob [0-9a-f]\{64\}' "$work/out" || bad 'no checksum'
}

# shows PATTERN SECONDS: wait until the terminal shows it.
shows() {
	local tries=$(($2 * 2))
	while ! tmux -L "$session" capture-pane -p -t t >"$work/screen" || ! grep -q "$1" "$work/screen"; do
		tries=$((tries - 1))
		if [ $tries -le 0 ]; then
			cat "$work/screen"
			bad "the terminal never showed '$1'"
		fi
		[ ! -e "$work/status" ] || { cat "$work/screen"; bad "ended with $(cat "$work/status") before '$1'"; }
		sleep 0.5
	done
}
# keys KEY...: as tmux names them.
keys() { tmux -L "$session" send-keys -t t "$@"; }
terminal() {
	can_run
	command -v tmux >/dev/null || { echo 'debian.sh: skipped: no tmux' >&2; exit 77; }
	rm -f "$work/status"
	tmux -L "$session" -f /dev/null new-session -d -s t -x 100 -y 40 \
		"stty -g >'$work/before'; scripts/run $bed; echo \$? >'$work/status.new'; stty -g >'$work/after'
		 mv '$work/status.new' '$work/status'; sleep 1000"
}
# left STATUS: it ended so, and the terminal is as it was.
left() {
	local tries=240
	while [ ! -e "$work/status" ]; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || { tmux -L "$session" capture-pane -p -t t; bad 'did not end'; }
		sleep 0.5
	done
	tmux -L "$session" capture-pane -p -t t >"$work/screen"
	cat "$work/screen"
	[ "$(cat "$work/status")" = "$1" ] || bad "ended with $(cat "$work/status"), not $1"
	cmp "$work/before" "$work/after" || bad 'the terminal is not as it was'
	tmux -L "$session" kill-server
}

# On a terminal: a shell, an answer, and exit.
c_tty() {
	terminal
	shows "Enter 'help'" 240
	shows '[#$] *$' 60
	keys 'echo "it is $(uname -r)"' Enter
	shows '^it is .*cloud-amd64' 60
	# An interrupt character is the guest's, not ours. The terminal is the command's
	# from before its first word on; sooner, the character is the line editor's.
	keys 'sh -c "echo begun; exec sleep 1000"' Enter
	shows '^begun' 60
	keys C-c
	keys 'echo still-$((40 + 2))' Enter
	shows '^still-42' 60
	keys 'exit' Enter
	left 0
}

# The escape: Ctrl-A x ends the machine while the guest boots.
c_escape() {
	terminal
	shows 'Linux version\|Enter .help' 240
	keys C-a x
	left 0
}

# --- run

for name; do
	if declare -F "c_$name" >/dev/null; then
		"c_$name"
	elif grep -q "^c_$name()" $cases/*.sh; then
		in_bed "$name"
	else
		bad "no case '$name'; --list has them"
	fi
done
