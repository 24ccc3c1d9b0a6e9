#!/bin/bash
# SPDX-License-Identifier: MIT
#
# qemu.sh [--list] [CASE...]: Debian's QEMU, unmodified, as a user of softkvm:
# "-accel kvm" with the preload library, its firmware, Debian's kernel, a virtio
# disk and a network. Each case is one boot. The guest's scripts look at its
# CPUs, compare what they write to a disk with what they read back, and fetch a
# file over the network (sent by a command of QEMU's own, so no port of the host
# is used). Without a name: the cases of `make check`; "all" is every case.
#
# Environment: BELFRY_GUEST (build/guest), SECONDS_EACH (60), KEEP=DIR (logs).
# Exit: 0 passed, 1 failed, 77 this host cannot (the last line says why).
set -uo pipefail
cd "$(dirname "$0")/../.."
limit=${SECONDS_EACH:-60}

# Not here: kernel-irqchip=off with more than one CPU, where this QEMU hangs on any
# KVM (docs/VMMS.md).
# name  in make check  machine and CPUs  virtio-blk's properties  what else
cases() {
	cat <<-'END'
	q35            yes  -M q35 -smp 1
	q35-smp2       no   -M q35 -smp 2
	q35-smp4       yes  -M q35 -smp 4
	q35-iothread   no   -M q35 -smp 2 IOTHREAD
	q35-split      yes  -M q35,kernel-irqchip=split -smp 2 IOTHREAD
	q35-split-smp4 no   -M q35,kernel-irqchip=split -smp 4
	q35-off        no   -M q35,kernel-irqchip=off -smp 1
	q35-host       no   -M q35 -smp 2 -cpu host
	q35-vga        no   -M q35 -smp 1 -device VGA -display none
	pc             no   -M pc -smp 2
	pc-legacy      no   -M pc -smp 2 LEGACY
	microvm        yes  -M microvm,acpi=on -smp 2 MMIO
	microvm-split  no   -M microvm,acpi=on,kernel-irqchip=split -smp 2 MMIO IOTHREAD
	microvm-off    no   -M microvm,acpi=on,kernel-irqchip=off -smp 1 MMIO
	microvm-pcie   no   -M microvm,acpi=on,pcie=on -smp 2
	END
}

skip() {
	echo "skip: $*"
	exit 77
}
for need in build/belfry build/libsoftkvm-preload.so; do
	[ -e "$need" ] || { echo "qemu.sh: no $need; run make" >&2; exit 1; }
done
case ${1-} in
--list) cases; exit 0 ;;
-h | --help) sed -n '4,13s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
command -v qemu-system-x86_64 >/dev/null || skip 'no qemu-system-x86_64 (scripts/setup test)'
scripts/guest-images || exit 1
guest=$(scripts/guest-images --where)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
head -c 300000 /dev/urandom >"$work/blob"
sum=$(sha256sum <"$work/blob" | cut -d ' ' -f 1)
cat >"$work/serve" <<-END
	#!/bin/sh
	while read -r line && [ "\${#line}" -gt 1 ]; do :; done
	printf 'HTTP/1.0 200 OK\r\nContent-Length: 300000\r\nConnection: close\r\n\r\n'
	cat "$work/blob"
END
chmod +x "$work/serve"

append="console=ttyS0 ${APPEND-quiet} belfry.script=smp,disk,net belfry.size=4 belfry.seed=5"
append+=" belfry.serve=no belfry.host=10.0.2.100 belfry.port=80 belfry.sum=$sum"

# boot NAME ARGUMENTS...
boot() {
	local name=$1 bus=pci blk= args=() word cpus
	shift
	for word; do
		case $word in
		IOTHREAD) blk+=,iothread=io; args+=(-object iothread,id=io) ;;
		LEGACY) blk+=,disable-modern=on,disable-legacy=off ;;
		MMIO) bus=device ;;
		*) args+=("$word") ;;
		esac
	done
	cpus=$(sed 's/.*-smp \([0-9]*\).*/\1/' <<<"$*")
	truncate -s 0 "$work/data"
	truncate -s 4M "$work/data"
	timeout -k 2 "$limit" build/belfry with-softkvm -- qemu-system-x86_64 -accel kvm "${args[@]}" \
		-m 256 -nodefaults -display none -serial stdio -no-reboot \
		-kernel "$guest/vmlinuz" -initrd "$guest/initrd.cpio" \
		-append "$append belfry.cpus=$cpus" \
		-drive "file=$guest/root.ext4,format=raw,if=none,id=root,snapshot=on" \
		-device "virtio-blk-$bus,drive=root$blk" \
		-drive "file=$work/data,format=raw,if=none,id=data,cache=unsafe" \
		-device "virtio-blk-$bus,drive=data$blk" \
		-netdev "user,id=net,guestfwd=tcp:10.0.2.100:80-cmd:$work/serve" \
		-device "virtio-net-$bus,netdev=net$([ $bus = device ] || echo ,romfile=)" \
		</dev/null >"$work/out" 2>"$work/err"
}

failed=0
run() {
	local name=$1 t0=$EPOCHREALTIME status=0 how=ok
	boot "$@" || status=$?
	if [ $status != 0 ]; then
		how="FAILED: status $status"
	elif ! grep -q '^belfry-guest: OK' "$work/out"; then
		how='FAILED: no OK'
	elif ! grep -q "^belfry-guest: net-fetched $sum" "$work/out" ||
	     [ "$(sed -n 's/^belfry-guest: disk-wrote \([0-9a-f]*\).*/\1/p' "$work/out")" != \
	       "$(sha256sum <"$work/data" | cut -d ' ' -f 1)" ]; then
		how='FAILED: what went in did not come out'
	fi
	printf '%-16s %s, %s s\n' "$name" "$how" "$(awk -v a="$t0" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')"
	[ -z "${KEEP-}" ] || cp "$work/out" "$KEEP/$name.out"
	[ -z "${KEEP-}" ] || cp "$work/err" "$KEEP/$name.err"
	[ "$how" = ok ] && return
	failed=1
	tail -n 30 "$work/out" "$work/err" | sed 's/^/    | /'
}

ran=0
while read -r name check words; do
	case " ${*:-yes} " in
	*" all "* | *" $name "*) ;;
	' yes ') [ "$check" = yes ] || continue ;;
	*) continue ;;
	esac
	# shellcheck disable=SC2086
	run "$name" $words
	ran=1
done < <(cases)
[ $ran = 1 ] || { echo "qemu.sh: no such case; --list has them" >&2; exit 1; }
exit $failed
