#!/bin/bash
# SPDX-License-Identifier: MIT
#
# cli.sh [BELFRY] [GUESTS]: the program from outside. What it refuses takes one
# line on standard error, the right status, and leaves nothing behind; what it
# runs ends with the status the manual page promises.
set -uo pipefail
cd "$(dirname "$0")/.."
belfry=$(realpath "${1:-build/belfry}")
guests=$(realpath "${2:-build/rel/guest}")
here=$(realpath tests)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
passed=0 failed=0 skipped=0

ok() { passed=$((passed + 1)); }
bad() {
	failed=$((failed + 1))
	echo "FAILED: $*"
	sed 's/^/    out: /' "$dir/out"
	sed 's/^/    err: /' "$dir/err"
}
skip() {
	skipped=$((skipped + 1))
	echo "skip: $*"
}

# status COMMAND...: run it with a limit; $got is its status.
status() {
	timeout -k 2 60 "$@" >"$dir/out" 2>"$dir/err" </dev/null
	got=$?
}

# refuses TEXT COMMAND...: status 2, exactly one line, with TEXT in it, no output.
refuses() {
	local text=$1
	shift
	status "$@"
	[ "$got" = 2 ] || { bad "status $got, not 2: $*"; return; }
	[ ! -s "$dir/out" ] || { bad "writes to standard output: $*"; return; }
	[ "$(wc -l <"$dir/err")" = 1 ] || { bad "not one line: $*"; return; }
	grep -qF -- "$text" "$dir/err" || { bad "does not say '$text': $*"; return; }
	ok
}

# ends STATUS TEXT COMMAND...: that status, TEXT on standard output or error ('': silence).
ends() {
	local want=$1 text=$2
	shift 2
	status "$@"
	[ "$got" = "$want" ] || { bad "status $got, not $want: $*"; return; }
	if [ -z "$text" ]; then
		[ ! -s "$dir/out" ] && [ ! -s "$dir/err" ] || { bad "is not silent: $*"; return; }
	else
		grep -qF -- "$text" "$dir/out" "$dir/err" ||
			{ bad "does not say '$text': $*"; return; }
	fi
	ok
}

# A place to run in, to see that nothing is left there.
mkdir "$dir/cwd" && cd "$dir/cwd"

# Help and version.
ends 0 'belfry 0' "$belfry" --version
ends 0 'COMMANDS' "$belfry" help
ends 0 'COMMANDS' "$belfry" --help
for c in run doctor 'bench events'; do
	ends 0 'EXIT STATUS' "$belfry" $c --help
	ends 0 'EXAMPLES' "$belfry" help $c
done
ends 2 'COMMANDS' "$belfry"

# Command lines.
refuses "run: --kernel FILE is missing" "$belfry" run
refuses "run: --cpus 0: must be 1 to 255" "$belfry" run --kernel x --cpus 0
refuses "did you mean '" "$belfry" rum
refuses "'bench events'" "$belfry" bench
refuses "unknown command" "$belfry" help nothing
refuses "run: --disk d,chache=none: unknown key" "$belfry" run --kernel x --disk d,chache=none
refuses "doctor: now: unexpected" "$belfry" doctor now

# Files. --accel kvm, or a host without VT-x and SVM is refused first.
echo 'no kernel' >text
: >empty
head -c 70000 "$guests/actions.elf" | head -c 5000 >cut.elf
mkdir dir
truncate -s 1000 odd.img
truncate -s 1M good.img
refuses "nonexistent" "$belfry" run --accel kvm --kernel nonexistent
refuses "text" "$belfry" run --accel kvm --kernel text
refuses "empty" "$belfry" run --accel kvm --kernel empty
refuses "cut.elf" "$belfry" run --accel kvm --kernel cut.elf
refuses "dir" "$belfry" run --accel kvm --kernel dir
kernel=$guests/actions.elf
refuses "nothing.cpio" "$belfry" run --accel kvm --kernel "$kernel" --initrd nothing.cpio
refuses "none.img" "$belfry" run --accel kvm --kernel "$kernel" --disk none.img
refuses "odd.img" "$belfry" run --accel kvm --kernel "$kernel" --disk odd.img
refuses "empty" "$belfry" run --accel kvm --kernel "$kernel" --disk empty
refuses "dir" "$belfry" run --accel kvm --kernel "$kernel" --disk dir
refuses "good.img" "$belfry" run --accel kvm --kernel "$kernel" --disk good.img --disk good.img

# Rights: as nobody, if we may become that.
if [ "$(id -u)" = 0 ] && setpriv --reuid=65534 --regid=65534 --clear-groups test -x "$belfry"; then
	nobody="setpriv --reuid=65534 --regid=65534 --clear-groups"
	chmod 755 "$dir" .
	cp "$kernel" kernel && chmod 600 kernel good.img
	refuses "ermission" $nobody "$belfry" run --accel kvm --kernel kernel
	chmod 644 kernel
	refuses "ermission" $nobody "$belfry" run --accel kvm --kernel kernel --disk good.img
	if [ -e /dev/kvm ] && ! $nobody test -w /dev/kvm; then
		refuses "no permission to open /dev/kvm" $nobody "$belfry" run --accel kvm --kernel kernel
		refuses "no permission to open /dev/kvm" $nobody "$belfry" bench events --accel kvm --count 1
		ends 0 'no permission to open /dev/kvm' $nobody "$belfry" doctor
	else
		skip "everybody may open /dev/kvm, or there is none"
	fi
	rm -f kernel
else
	skip "not root, or nobody cannot reach the program: no test of rights"
fi

# Without /dev/kvm.
hide="unshare -m sh -c"
if $hide 'mount -t tmpfs none /dev' 2>/dev/null; then
	hidden() { echo "mount -t tmpfs none /dev && exec \"\$0\" $*"; }
	refuses "/dev/kvm does not exist" $hide "$(hidden run --accel kvm --kernel "$kernel")" "$belfry"
	refuses "/dev/kvm does not exist" $hide "$(hidden bench events --accel kvm)" "$belfry"
	ends 0 '/dev/kvm does not exist' $hide "$(hidden doctor)" "$belfry"
	soft="$(hidden run --debug-exit --mem 16M --kernel "$kernel" --cmdline hello)"
	ends 0 'hello from the guest' $hide "$soft" "$belfry"
	ends 0 'belfry run: on softkvm' $hide "$soft" "$belfry"
else
	skip "no mount namespace to hide /dev/kvm in"
fi

# Doctor's JSON is JSON.
status "$belfry" doctor --json
if command -v python3 >/dev/null; then
	if python3 -c 'import json, sys; json.load(open(sys.argv[1]))["findings"]' "$dir/out"; then
		ok
	else
		bad "doctor --json is not JSON"
	fi
else
	skip "no python3 to read JSON with"
fi

# softkvm for other programs.
refuses 'behind "--"' "$belfry" with-softkvm
refuses 'behind "--"' "$belfry" with-softkvm --
refuses "no-such-program" "$belfry" with-softkvm -- no-such-program
refuses "--apicv" "$belfry" with-softkvm --apicv maybe -- true
status "$belfry" with-softkvm -- true
ends 3 '' "$belfry" with-softkvm -- sh -c 'exit 3'

# What is refused leaves nothing behind.
rm -rf text empty cut.elf dir odd.img good.img
if [ -z "$(ls -A)" ]; then ok; else bad "left behind: $(ls -A)"; fi

# Guests.
if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
	run() { echo "$belfry run --accel kvm --debug-exit --mem 16M --kernel $kernel --cmdline $1"; }
	ends 0 'hello from the guest' $(run hello)
	ends 0 '' $(run exit=0)
	ends 1 'code 7' $(run exit=7)
	ends 0 '' $(run off)
	ends 0 'again' $(run reset)
	ends 0 '' $(run ipi)
	ends 1 'triple fault' $(run triple)
	ends 0 '' $(run exit=0) --cpus 4 --rng off
	truncate -s 1M d.img
	for keys in '' ,readonly ,iothread=on,poll=20 ,queues=4,queue-size=64 ,transitional=on \
		,notify=exit,inject=msi ,inject=line ,cache=unsafe,serial=ABC; do
		ends 0 'hello' $(run hello) --disk "d.img$keys"
	done
	ends 0 '' $(run exit=0) --net user --net user,iothread=on,mac=52:54:00:00:00:01
	ends 0 '' $(run exit=0) --console virtio
	refuses 'hostfwd' $(run exit=0) --net user,hostfwd=tcp:256.1.1.1:80-:80

	# Input goes to the guest.
	if [ "$(echo 'abcq' | timeout 60 $(run echo))" = abcq ]; then ok; else bad 'echo'; fi

	# Signals end a guest that never would.
	for sig in TERM INT HUP; do
		timeout -k 2 120 $(run halt) >"$dir/out" 2>"$dir/err" </dev/null &
		pid=$!
		for _ in $(seq 1200); do
			child=$(pgrep -P $pid) && grep -q vcpu0 /proc/"$child"/task/*/comm && break
			sleep 0.05
		done
		kill -"$sig" "$child"
		wait $pid
		got=$?
		if [ $got = 0 ]; then ok; else bad "SIG$sig: status $got"; fi
	done

	# The terminal is raw meanwhile, and as before afterwards: by the escape, by
	# a signal, after a guest's failure, and when the monitor itself crashes.
	if command -v python3 >/dev/null; then
		for how in escape term fail crash; do
			cmdline=halt
			[ $how != fail ] || cmdline=triple
			if timeout -k 2 240 python3 "$here/lib/terminal.py" $how $(run $cmdline) \
				>"$dir/out" 2>"$dir/err"; then
				ok
			else
				bad "terminal after $how"
			fi
		done
	else
		skip "no python3 to make a terminal with"
	fi
	rm -f d.img
	if [ -z "$(ls -A)" ]; then ok; else bad "guests left behind: $(ls -A)"; fi
else
	skip "no /dev/kvm to run guests on"
fi

echo "[  PASSED  ] $passed test(s)"
[ $skipped = 0 ] || echo "[  SKIPPED ] $skipped test(s)"
[ $failed = 0 ] || { echo "[  FAILED  ] $failed test(s)"; exit 1; }
