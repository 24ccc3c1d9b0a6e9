# SPDX-License-Identifier: MIT
# The cases of `make check`. A boot of the guest costs 10 to 40 seconds, so each
# looks at much.

# Four CPUs, everything as it is by default, and each thing once.
c_modern() {
	data data 99 8
	before=$(sum <data)
	serve 3 1000000
	boot "belfry.script=hello,smp,rng,irq,disk,net,devices belfry.cpus=4 belfry.irqdev=rng
		belfry.size=8 belfry.seed=5 belfry.port=8000 belfry.sum=$blob" --cpus 4 \
		--disk data,queues=2 --net user,hostfwd=tcp:127.0.0.1:8080-:8080
	fetch_back http://127.0.0.1:8080
	passed
	fetched
	read_was "$before"
	wrote data 5 8
	moved
	driven vda modern PCI-MSI ioeventfd
	driven vdb modern PCI-MSI ioeventfd
	# Both queues were used, each by its own vector.
	case ",$(field irqs "$(device vdb)")," in
	*,req.0:0,* | *,req.1:0,*) bad "a queue of vdb was never used" ;;
	*,req.0:*,req.1:*) ;;
	*) bad "vdb has not two queues" ;;
	esac
	driven eth0 modern PCI-MSI ioeventfd
}

# The legacy driver and its port doorbell.
c_legacy() {
	for n in 1 2 3; do data data$n 9$n 8; done
	first=$(sum <data1)
	root_opts=,transitional=on boot "belfry.virtio_pci=force_legacy=1 belfry.script=hello,disk,irq,devices
		belfry.irqdev=net belfry.disks=vdb,vdc,vdd belfry.size=8 belfry.seed=20" --cpus 2 \
		--disk data1,transitional=on,inject=irqfd --disk data2,transitional=on,notify=exit \
		--disk data3,transitional=on,inject=line --net user,transitional=on,inject=irqfd
	passed
	read_was "$first" vdb
	wrote data1 20 8 vdb
	wrote data2 21 8 vdc
	wrote data3 22 8 vdd
	driven vda legacy PCI-MSI ioeventfd
	driven vdb legacy PCI-MSI ioeventfd
	driven vdc legacy PCI-MSI exit
	driven vdd legacy IO-APIC ioeventfd
	driven eth0 legacy PCI-MSI ioeventfd
	moved
	# The entropy device has no legacy interface; one driver serves both.
	driven - modern PCI-MSI ioeventfd
}

# Every other way of a kick and a call, all at the same time.
c_paths() {
	for n in 1 2 3 4 5; do
		data data$n 3$n 8
		sum <data$n >before$n
	done
	boot "belfry.script=disk,irq,devices belfry.irqdev=net
		belfry.disks=vdb,vdc,vdd,vde,vdf belfry.size=8 belfry.seed=40" --cpus 2 \
		--disk data1,notify=exit,inject=msi --disk data2,notify=exit,inject=line \
		--disk data3,iothread=off,inject=irqfd --disk data4,inject=line,queues=2 \
		--disk data5,iothread=off,inject=msi --net user,inject=line,iothread=on
	passed
	n=1
	for disk in vdb vdc vdd vde vdf; do
		read_was "$(cat before$n)" $disk
		wrote data$n $((39 + n)) 8 $disk
		n=$((n + 1))
	done
	driven vdb modern PCI-MSI exit
	driven vdc modern IO-APIC exit
	driven vdd modern PCI-MSI ioeventfd
	driven vde modern IO-APIC ioeventfd
	driven vdf modern PCI-MSI ioeventfd
	driven eth0 modern IO-APIC ioeventfd
	moved
}

# A tap interface that belfry makes; then what was flushed outlives the monitor.
c_tap() {
	serve 4 1000000 0.0.0.0
	boot "belfry.script=net,flush belfry.ip=10.9.0.2/24 belfry.gw=10.9.0.1 belfry.host=10.9.0.1
		belfry.port=8000 belfry.sum=$blob" --net tap=tap0
	tap_up
	fetch_back http://10.9.0.2:8080
	until_line '*guest: flushed *' 120 || bad "never flushed"
	kill -9 "$pid"
	ended 137 60
	fetched
	silent
	[ ! -e /sys/class/net/tap0 ] || bad "tap0 outlived belfry"
	# 1: the journal was replayed, all is well.
	e2fsck -fy -E journal_only root.ext4 >fsck 2>&1 || [ $? = 1 ] || bad "e2fsck: $(cat fsck)"
	e2fsck -fn root.ext4 >fsck 2>&1 || bad "not a sound file system: $(cat fsck)"
	[ "$(debugfs -R 'cat /data/flushed' root.ext4 2>/dev/null | sum)" = "$(value flushed)" ] ||
		bad "what was flushed is not there"
}

# Reset by each way a PC has, in the middle of disk I/O, and power off.
c_reset() {
	boot 'belfry.script=reset,devices belfry.resets=acpi,kbd,triple' --cpus 2 --log info
	ended 0 120
	said '^belfry-guest: OK$' || bad "no OK"
	[ "$(sed -n 's/^belfry-guest: boot //p' log | tr '\n' ' ')" = '0 1 2 3 ' ] || bad "not four boots"
	[ "$(grep -c 'the guest resets the machine' err)" = 3 ] || bad "not three resets"
	# Linux goes on to a triple fault if another way did nothing.
	[ "$(grep -c 'triple fault' err)" = 1 ] || bad "not one triple fault"
	driven vda modern PCI-MSI ioeventfd
}

# The ELF kernel by its PVH entry, and the virtio console both ways.
c_pvh() {
	mkfifo keys
	exec 5<>keys
	input=keys console=hvc0 kernel=/guest/vmlinux boot belfry.script=hello,console --console virtio
	until_line ready 120 || bad "the guest does not listen on hvc0"
	for n in 1 80 700 4000; do
		text=$(/guest/noise $n 2048 | od -An -v -tx1 | tr -d ' \n' | cut -c 1-$n)
		echo "$text" >&5
		until_line "echo: $text" 60 || bad "line of $n: '$line'"
	done
	echo quit >&5
	passed
	exec 5>&-
	[ "$(value console)" = '4 lines' ] || bad "not 4 lines"
}

# terminal: how the bed's terminal is set.
terminal() { stty -F /dev/ttyS0 -g; }

# Ends that are not the guest's wish: signals, with a terminal to put back.
c_end() {
	stty -F /dev/ttyS0 sane
	was=$(terminal)
	for signal in INT HUP TERM; do
		input=/dev/ttyS0 boot 'belfry.script=flush earlyprintk=ttyS0'
		# The kernel's first words; the last time, a guest that is busy with all it has.
		words='*KASLR disabled*'
		[ $signal != TERM ] || words='*guest: flushed *'
		until_line "$words" 120 || bad "nothing comes"
		[ "$(terminal)" != "$was" ] || bad "the terminal is not raw"
		kill -$signal "$pid"
		ended 0 60
		[ "$(terminal)" = "$was" ] || bad "SIG$signal: the terminal is not as it was"
		silent
	done
	# Before the guest has done anything.
	input=/dev/ttyS0 boot 'belfry.script=flush'
	kill -TERM "$pid"
	tries=600
	while kill -0 "$pid" 2>/dev/null; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || bad "SIGTERM at the start did not end it"
		usleep 100000
	done
	# The signal's own action is fine as long as nothing was set up.
	status=0
	wait "$pid" || status=$?
	pid=
	exec 4<&-
	[ $status = 0 ] || [ $status = 143 ] || bad "ended with $status"
	[ "$(terminal)" = "$was" ] || bad "the terminal is not as it was"
	stty -F /dev/ttyS0 raw -echo
}
