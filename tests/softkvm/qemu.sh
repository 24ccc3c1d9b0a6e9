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
# Environment: BELFRY_GUEST (build/guest), SECONDS_EACH (120), KEEP=DIR (logs).
# Exit: 0 passed, 1 failed, 77 this host cannot (the last line says why).
set -uo pipefail
cd "$(dirname "$0")/../.."
limit=${SECONDS_EACH:-120}

# Not here: kernel-irqchip=off with more than one CPU, where this QEMU hangs on any
# KVM (docs/VMMS.md).
# name  in make check  machine and CPUs  what else
cases() {
	cat <<-'END'
	q35            yes  -M q35 -smp 1
	q35-smp2       no   -M q35 -smp 2
	q35-smp4       yes  -M q35 -smp 4
	q35-iothread   no   -M q35 -smp 2 IOTHREAD
	q35-split      yes  -M q35,kernel-irqchip=split -smp 2 IOTHREAD
	q35-split-smp4 no   -M q35,kernel-irqchip=split -smp 4
	q35-off        yes  -M q35,kernel-irqchip=off -smp 1
	q35-off-io     no   -M q35,kernel-irqchip=off -smp 1 IOTHREAD
	q35-host       no   -M q35 -smp 2 -cpu host
	q35-max        no   -M q35 -smp 2 -cpu max
	q35-qemu64     no   -M q35 -smp 2 -cpu qemu64
	q35-vga        no   -M q35 -smp 1 -device VGA -display none
	q35-devices    no   -M q35 -smp 2 -device qemu-xhci -device usb-kbd -device e1000e,netdev=net2 -netdev user,id=net2 -device virtio-rng-pci -device intel-hda -device i6300esb
	q35-sandbox    yes  -M q35 -smp 2 SANDBOX
	q35-nvme       no   -M q35 -smp 2 NVME
	q35-vhost-user yes  -M q35 -smp 2 VHOSTUSER
	q35-vu-split   no   -M q35,kernel-irqchip=split -smp 2 VHOSTUSER
	q35-vu-off     no   -M q35,kernel-irqchip=off -smp 1 VHOSTUSER
	pc             no   -M pc -smp 2
	pc-split       no   -M pc,kernel-irqchip=split -smp 2
	pc-off         no   -M pc,kernel-irqchip=off -smp 1
	pc-legacy      yes  -M pc -smp 2 LEGACY
	pc-legacy-io   no   -M pc,kernel-irqchip=split -smp 2 LEGACY IOTHREAD
	pc-noapic      no   -M pc -smp 1 NOAPIC
	microvm        yes  -M microvm,acpi=on -smp 2 MMIO
	microvm-smp4   no   -M microvm,acpi=on -smp 4 MMIO
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
trap '[ -z "${daemon-}" ] || kill "$daemon"; rm -rf "$work"' EXIT
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

# serve_disk QUEUES: a second process serves the data disk; the queues' eventfds go there.
daemon=
serve_disk() {
	qemu-storage-daemon --blockdev "driver=file,node-name=data,filename=$work/data" \
		--export "vhost-user-blk,id=e,node-name=data,writable=on,num-queues=$1,addr.type=unix,addr.path=$work/vu" \
		>"$work/daemon" 2>&1 </dev/null &
	daemon=$!
	for ((i = 0; i < 600; i++)); do
		[ ! -S "$work/vu" ] || return 0
		sleep 0.1
	done
	cat "$work/daemon"
	return 1
}

# boot NAME ARGUMENTS...
boot() {
	local name=$1 bus=pci blk='' more='' args=() word cpus data=virtio
	shift
	for word; do
		case $word in
		IOTHREAD) blk+=,iothread=io; args+=(-object iothread,id=io) ;;
		LEGACY) blk+=,disable-modern=on,disable-legacy=off ;;
		MMIO) bus=device ;;
		NVME) data=nvme; more=' belfry.disks=nvme0n1' ;;
		VHOSTUSER) data=vhost-user; args+=(-object "memory-backend-memfd,id=mem,size=256M,share=on"
				-numa "node,memdev=mem") ;;
		SANDBOX) # as libvirt starts it; the command behind the network is denied, too
			args+=(-sandbox "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
			more=' belfry.script=smp,disk' fetched='run disk' ;;
		NOAPIC) more=' nolapic noapic belfry.script=disk,net' ;; # no local timers to count
		*) args+=("$word") ;;
		esac
	done
	cpus=$(sed 's/.*-smp \([0-9]*\).*/\1/' <<<"$*")
	rm -f "$work/data" "$work/vu"
	truncate -s 4M "$work/data"
	[ $data != vhost-user ] || serve_disk "$cpus" || return 1
	case $data in
	virtio) args+=(-device "virtio-blk-$bus,drive=data$blk") ;;
	nvme) args+=(-device "nvme,drive=data,serial=belfry") ;;
	vhost-user) args+=(-chardev "socket,id=vu,path=$work/vu" -device "vhost-user-blk-$bus,chardev=vu") ;;
	esac
	[ $data = vhost-user ] || args+=(-drive "file=$work/data,format=raw,if=none,id=data,cache=unsafe")
	timeout -k 2 "$limit" build/belfry with-softkvm -- qemu-system-x86_64 -accel kvm \
		-m 256 -nodefaults -display none -serial stdio -no-reboot \
		-kernel "$guest/vmlinuz" -initrd "$guest/initrd.cpio" \
		-append "$append belfry.cpus=$cpus$more" \
		-drive "file=$guest/root.ext4,format=raw,if=none,id=root,snapshot=on" \
		-device "virtio-blk-$bus,drive=root$blk" "${args[@]}" \
		-netdev "user,id=net,guestfwd=tcp:10.0.2.100:80-cmd:$work/serve" \
		-device "virtio-net-$bus,netdev=net$([ $bus = device ] || echo ,romfile=)" \
		</dev/null >"$work/out" 2>"$work/err"
}

failed=0
run() {
	local name=$1 t0=$EPOCHREALTIME status=0 how=ok fetched="net-fetched $sum"
	boot "$@" || status=$?
	if [ -n "$daemon" ]; then
		kill "$daemon"
		wait "$daemon"
		daemon=
	fi
	if [ $status != 0 ]; then
		how="FAILED: status $status"
	elif ! grep -q '^belfry-guest: OK' "$work/out"; then
		how='FAILED: no OK'
	elif ! grep -q "^belfry-guest: $fetched" "$work/out" ||
	     [ "$(tr -d '\r' <"$work/out" | awk '/^belfry-guest: disk-wrote/ { print $NF }')" != \
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
