# SPDX-License-Identifier: MIT
# Common words of the test scripts.

PATH=/bin:/sbin:/usr/bin:/usr/sbin
export PATH
why=/tmp/why

# arg NAME DEFAULT: the value of belfry.NAME on the kernel command line.
arg() {
	value=$2
	read -r cmdline </proc/cmdline
	for word in $cmdline; do
		case $word in "belfry.$1="*) value=${word#*=} ;; esac
	done
	printf '%s\n' "$value"
}

fail() {
	echo "$*" >"$why"
	exit 1
}

# tell KEY VALUE: a line for the host.
tell() { echo "belfry-guest: $*"; }

# sum_of FILE: its sha256, the bare number.
sum_of() { sha256sum "$1" | cut -d ' ' -f 1; }

# virtio_device ID: the name (virtioN) of the first device of that virtio ID.
virtio_device() {
	for dev in /sys/bus/virtio/devices/*; do
		[ -e "$dev/device" ] || continue
		read -r id <"$dev/device"
		if [ $((id)) -eq "$1" ]; then
			echo "${dev##*/}"
			return 0
		fi
	done
	return 1
}

# net_up: give eth0 its address. belfry.ip=dhcp (default), static (what libslirp
# expects: 10.0.2.15/24 by 10.0.2.2) or ADDRESS/LENGTH, with belfry.gw=.
net_up() {
	[ -e /sys/class/net/eth0 ] || fail "no network device eth0"
	ip link set lo up
	ip link set eth0 up || fail "cannot bring eth0 up"
	how=$(arg ip dhcp)
	gw=$(arg gw 10.0.2.2)
	case $how in
	dhcp)
		udhcpc -i eth0 -q -n -t 30 -T 2 >/dev/null 2>&1 ||
			fail "no DHCP answer on eth0"
		return 0
		;;
	static) how=10.0.2.15/24 ;;
	esac
	ip addr add "$how" dev eth0 || fail "cannot give eth0 the address $how"
	ip route add default via "$gw" dev eth0 || fail "no route by $gw"
}
