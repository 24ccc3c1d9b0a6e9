#!/bin/bash
# SPDX-License-Identifier: MIT
#
# debian.sh CASE: boot Debian in Belfry on softkvm, here, and check from both
# sides: the guest's own tests say OK, and disks have the sums they should.
#
#   modern   4 vCPUs, two disks (one with two queues), network, entropy
#   legacy   transitional devices under the legacy driver, two vCPUs
#   slow     notify=exit, inject=msi and inject=line, apicv off, one I/O loop
#
# BELFRY: another program; LIMIT: seconds for a boot (200).
# Exit: 0 passed, 1 failed.
set -euo pipefail
cd "$(dirname "$0")/../.."
case ${1-} in '' | -h | --help) sed -n '4,12s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
belfry=${BELFRY-$PWD/build/belfry}
scripts/guest-images
guest=$(scripts/guest-images --where)
work=$(mktemp -d "${TMPDIR:-/tmp}/belfry-soft.XXXXXX")
trap 'rm -rf "$work"' EXIT
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
	[ ! -s err ] || bad 'Belfry had something to say'
}

# value KEY: what the guest told. sum FILE: of an image.
value() { sed -n "s/^belfry-guest: $1 \([0-9a-f]\{64\}\).*/\1/p" log | tail -n 1; }
sum() { sha256sum <"$1" | cut -d ' ' -f 1; }

data() { head -c 16M /dev/urandom >"$1"; }

# disks FILE: the guest read what we wrote, and we read what it wrote.
disks() {
	[ "$(value disk-read)" = "$first" ] || bad 'the guest read something else than was written'
	[ "$(value disk-wrote)" = "$(sum "$1")" ] || bad 'the image has something else than the guest wrote'
}

case $1 in
modern)
	data data
	first=$(sum data)
	boot 'belfry.script=hello,smp,rng,irq,disk cpus=4 size=16 seed=3' --cpus 4 --disk root \
		--disk data,queues=2 --net user
	disks data
	;;
legacy)
	data data
	first=$(sum data)
	boot 'belfry.virtio_pci=force_legacy=1 belfry.script=hello,disk,irq size=16 seed=4 irqdev=net' \
		--cpus 2 --disk root,transitional=on --disk data,transitional=on --net user,transitional=on
	disks data
	;;
slow)
	data data
	first=$(sum data)
	BELFRY_APICV=off boot 'belfry.script=hello,smp,disk cpus=2 size=16 seed=5' --cpus 2 \
		--disk root,notify=exit,inject=msi --disk data,notify=exit,inject=line,iothread=off \
		--net user,inject=line
	disks data
	;;
*)
	bad "no case '$1'"
	;;
esac
