# SPDX-License-Identifier: MIT
# What the virtio devices look like to their drivers, one line each for the host:
#   device virtioN id=ID name=NAME mode=modern|legacy chip=CHIP irqs=NAME:COUNT[,...] bars=FROM-TO[,...]
# ID is the device type; NAME the block or network device, or "-"; CHIP what
# /proc/interrupts calls the interrupt's controller (PCI-MSI, IO-APIC); COUNT the
# interrupts of all CPUs. Run it last, when the interrupts have been counted.
. /test/lib.sh

for dev in /sys/bus/virtio/devices/*; do
	virtio=${dev##*/}
	read -r id <"$dev/device"
	name=-
	for node in "$dev"/block/* "$dev"/net/*; do
		[ ! -e "$node" ] || name=${node##*/}
	done
	# One digit a feature bit; 32 is VIRTIO_F_VERSION_1.
	read -r features <"$dev/features"
	mode=legacy
	[ "$(echo "$features" | cut -c 33)" != 1 ] || mode=modern
	# An INTx line may have several names: "virtio1, virtio4".
	irqs=$(awk -v cpus="$(nproc)" -v dev="$virtio" '
		NR > 1 {
			for (i = cpus + 4; i <= NF; i++) {
				name = $i
				sub(/,$/, "", name)
				if (name != dev && index(name, dev "-") != 1)
					continue
				sum = 0
				for (cpu = 2; cpu < cpus + 2; cpu++)
					sum += $cpu
				chip = $(cpus + 2)
				list = list (list == "" ? "" : ",") substr(name, length(dev) + 2) ":" sum
			}
		}
		END { print "chip=" chip " irqs=" list }' /proc/interrupts)
	bars=
	while read -r from to _; do
		[ $((to)) -eq 0 ] || bars="$bars${bars:+,}$from-$to"
	done <"$dev/../resource"
	tell device "$virtio id=$((id)) name=$name mode=$mode $irqs bars=$bars"
done
