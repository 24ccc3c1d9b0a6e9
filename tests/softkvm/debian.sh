#!/bin/bash
# SPDX-License-Identifier: MIT
#
# debian.sh CASE: boot Debian in Belfry on softkvm, here, and check from both
# sides: the guest's own tests say OK, and disks have the sums they should.
#
#   modern   4 vCPUs, two disks (one with two queues), network, entropy
#   legacy   transitional devices under the legacy driver, two vCPUs
#   slow     notify=exit, inject=msi and inject=line, apicv off, one I/O loop
#   rebuilt  the VM taken apart and rebuilt every EXITS (10,000) exits, with CPUS
#            ("1 4": one vCPU, then four), disks and network, BOOTS (1) times
#
# BELFRY: another program; LIMIT: seconds for a boot (200).
# Exit: 0 passed, 1 failed.
set -euo pipefail
cd "$(dirname "$0")/../.."
case ${1-} in '' | -h | --help) sed -n '4,14s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
belfry=${BELFRY-$PWD/build/belfry}
scripts/guest-images
guest=$(scripts/guest-images --where)
work=$(mktemp -d "${TMPDIR:-/tmp}/belfry-soft.XXXXXX")
web=
trap '[ -z "$web" ] || kill "$web"; rm -rf "$work"' EXIT
cd "$work"
cp --sparse=always "$guest/root.ext4" root

bad() {
	echo "debian.sh: $*" >&2
	exit 1
}

# boot WORDS OPTION...: a guest that runs its tests and powers off.
boot() {
	local words=$1
	shift
	timeout -k 5 "${LIMIT-200}" "$belfry" run --accel soft --mem 512M --kernel "$guest/vmlinuz" \
		--initrd "$guest/initrd.cpio" --cmdline "console=ttyS0 quiet $words" "$@" \
		>out 2>err </dev/null || { cat err out; bad "status $?"; }
	tr -d '\r' <out >log
	cat err log
	grep -q '^belfry-guest: OK$' log || bad 'the guest did not say OK'
	cp err said
	sed -i '/^belfry: rebuilt [1-9][0-9]* times/d' err
	[ ! -s err ] || bad 'Belfry had something to say'
}

# value KEY: what the guest told. sum FILE: of an image.
value() { sed -n "s/^belfry-guest: $1 \([0-9a-f]\{64\}\).*/\1/p" log | tail -n 1; }
sum() { sha256sum <"$1" | cut -d ' ' -f 1; }

data() { head -c 16M /dev/urandom >"$1"; }

# serve: http://10.0.2.2:$port/blob for the guest; blob is its sum.
serve() {
	mkdir www
	head -c 1M /dev/urandom >www/blob
	blob=$(sum www/blob)
	python3 -u -m http.server --bind 127.0.0.1 --directory www 0 >web 2>&1 &
	web=$!
	until port=$(sed -n 's/.* port \([0-9]*\) .*/\1/p' web) && [ -n "$port" ]; do sleep 0.1; done
}

# disks FILE: the guest read what we wrote, and we read what it wrote.
disks() {
	[ "$(value disk-read)" = "$first" ] || bad 'the guest read something else than was written'
	[ "$(value disk-wrote)" = "$(sum "$1")" ] || bad 'the image has something else than the guest wrote'
}

case $1 in
modern)
	data data
	first=$(sum data)
	boot 'belfry.script=hello,smp,rng,irq,disk belfry.cpus=4 belfry.size=16 belfry.seed=3' --cpus 4 --disk root \
		--disk data,queues=2 --net user
	disks data
	;;
legacy)
	data data
	first=$(sum data)
	boot 'belfry.virtio_pci=force_legacy=1 belfry.script=hello,disk,irq belfry.size=16 belfry.seed=4 belfry.irqdev=net' \
		--cpus 2 --disk root,transitional=on --disk data,transitional=on --net user,transitional=on
	disks data
	;;
slow)
	data data
	first=$(sum data)
	BELFRY_APICV=off boot 'belfry.script=hello,smp,disk belfry.cpus=2 belfry.size=16 belfry.seed=5' --cpus 2 \
		--disk root,notify=exit,inject=msi --disk data,notify=exit,inject=line,iothread=off \
		--net user,inject=line
	disks data
	;;
rebuilt)
	export BELFRY_REBUILD=${EXITS-10000}
	serve
	for ((n = 0; n < ${BOOTS-1}; n++)); do
		for cpus in ${CPUS-1 4}; do
			script=hello,rng,disk,net
			[ "$cpus" = 1 ] || script+=,smp,irq
			data data
			first=$(sum data)
			boot "belfry.script=$script belfry.serve=no belfry.port=$port belfry.sum=$blob
				belfry.cpus=$cpus belfry.size=16 belfry.seed=$n" --cpus "$cpus" --disk root --disk data --net user
			disks data
			[ "$(value net-fetched)" = "$blob" ] || bad 'the guest fetched something else than was served'
			grep -q '^belfry: rebuilt' said || bad 'it was never rebuilt'
		done
	done
	;;
*)
	bad "no case '$1'"
	;;
esac
