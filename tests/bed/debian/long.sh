# SPDX-License-Identifier: MIT
# The cases of `make check-long`: much data, many boots. They have a disk of
# their own in L1, /dev/vdc, so that direct I/O is possible (a tmpfs has none).

scratch() { mkdir -p disk && mount -t ext4 /dev/vdc disk || bad "no scratch disk"; }

# 2 GiB written through three disks at once, each written and read back four times.
c_writes() {
	scratch
	data data1 1 192
	data disk/data2 2 192
	data disk/data3 3 192
	before=$(sum <disk/data2)
	boot 'belfry.script=disk,devices belfry.disks=vdb,vdc,vdd belfry.size=192 belfry.seed=60
		belfry.rounds=4' --cpus 4 --disk data1,queues=4 --disk disk/data2,cache=none,queues=2 \
		--disk disk/data3,iothread=off,notify=exit,inject=msi
	patience=600
	passed
	read_was "$before" vdc
	wrote data1 60 192 vdb
	wrote disk/data2 61 192 vdc
	wrote disk/data3 62 192 vdd
	driven vdb modern PCI-MSI ioeventfd
	driven vdd modern PCI-MSI exit
}

# 2 GiB over each kind of network, and 128 MiB back.
bulk() {
	fetch_back "$1" 16
	passed
	fetched
	driven eth0 modern PCI-MSI ioeventfd
}
c_bulk_user() {
	patience=900
	serve 3 67108864
	boot "belfry.script=net,devices belfry.port=8000 belfry.sum=$blob belfry.fetches=32" --cpus 2 \
		--net user,hostfwd=tcp:127.0.0.1:8080-:8080
	bulk http://127.0.0.1:8080
}
c_bulk_tap() {
	patience=900
	serve 3 67108864 0.0.0.0
	boot "belfry.script=net,devices belfry.port=8000 belfry.sum=$blob belfry.fetches=32
		belfry.ip=10.9.0.2/24 belfry.gw=10.9.0.1 belfry.host=10.9.0.1" --cpus 2 --net tap=tap0,iothread=on
	tap_up
	bulk http://10.9.0.2:8080
}

# Twenty starts in a row, each a little different.
c_boots() {
	n=0
	while [ $n -lt 20 ]; do
		option=$(echo '- inject=irqfd inject=msi inject=line notify=exit transitional=on iothread=off' |
			cut -d ' ' -f $((n % 7 + 1)))
		[ "$option" != - ] || option=queues=1
		kernel=/guest/vmlinuz
		[ $((n % 3)) != 2 ] || kernel=/guest/vmlinux
		root_opts=,$option boot belfry.script=hello,smp,rng --cpus $((n % 4 + 1))
		passed
		read -r up _ </proc/uptime
		n=$((n + 1))
		echo "boot $n: $option, ${kernel##*/}, $(((n - 1) % 4 + 1)) CPUs, L1 up for $up s"
	done
}

# Twenty boots of one machine, which resets each way in turn.
c_resets() {
	boot 'belfry.script=reset belfry.resets=acpi,kbd,triple,acpi,kbd,triple,acpi,kbd,triple,acpi,kbd,triple,acpi,kbd,triple,acpi,kbd,triple,acpi' \
		--cpus 4 --log info
	ended 0 120
	said '^belfry-guest: OK$' || bad "no OK"
	[ "$(value boot)" = 19 ] || bad "not twenty boots"
	[ "$(grep -c 'the guest resets the machine' err)" = 19 ] || bad "not 19 resets"
	[ "$(grep -c 'triple fault' err)" = 6 ] || bad "not six triple faults"
}

# What becomes of a kernel that panics is the guest's choice. panic=-1 resets the
# machine, which boots and panics again; with panic=0 it stays where it is. The
# operator's signal ends both, in order.
c_panic() {
	boot 'rdinit=/nosuch root=/dev/none' --log info
	for n in 1 2; do
		until_line '*Kernel panic*' 120 || bad "no panic $n"
	done
	kill -TERM "$pid"
	ended 0 60
	[ "$(grep -c 'the guest resets the machine' err)" -ge 1 ] || bad "no reset"
	boot 'rdinit=/nosuch root=/dev/none panic=0'
	until_line '*Kernel panic*' 120 || bad "no panic"
	! until_line '*' 5 || until_line '*end Kernel panic*' 60 || bad "it went on"
	kill -TERM "$pid"
	ended 0 60
	silent
}
