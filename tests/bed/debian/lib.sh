# SPDX-License-Identifier: MIT
# What the cases have in common. They run in L1, which is the guests' host: here
# belfry is started, its output read, and the images are looked at.

pid='' status='' runs=0
# What a guest under software CPUs need not spend time on.
spare='panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check random.trust_cpu=on'

# bad WHY: the case has failed. Show how far it came and end.
bad() {
	echo "--- the guest's last words"
	tail -n 25 log 2>/dev/null
	echo "--- belfry's messages"
	tail -n 15 err 2>/dev/null
	if [ -n "$pid" ] && [ -d "/proc/$pid" ]; then
		echo "--- belfry's threads"
		for task in "/proc/$pid/task/"*; do
			echo "$(cat "$task/comm"): $(cat "$task/wchan") $(cut -d ' ' -f 14,15 "$task/stat")"
		done
		kill -9 "$pid"
	fi
	echo "FAIL: $*"
	exit 1
}

# sum: the bare sha256 of standard input.
sum() { sha256sum | cut -d ' ' -f 1; }
# data FILE SEED MIB: a disk image full of noise.
data() { /guest/noise "$2" $(($3 * 1048576)) >"$1"; }

# belfry_start OPTION...: start `belfry run`; until_line and ended take it from
# there. Its input is the file $input.
belfry_start() {
	rm -f out
	mkfifo out
	: >log
	runs=$((runs + 1))
	belfry run --accel kvm "$@" <"${input:-/dev/null}" >out 2>err &
	pid=$!
	exec 4<out
}

# boot WORDS [OPTION...]: start a guest with a fresh root disk as vda ($keep: the
# one that is there). $kernel, $console, $root_opts change how.
boot() {
	# Onto one line: the guest reads no further.
	words=$(echo $1)
	shift
	[ -n "${keep-}" ] || cp /guest/root.ext4 root.ext4
	belfry_start --kernel "${kernel:-/guest/vmlinuz}" --initrd /guest/initrd.cpio \
		--cmdline "console=${console:-ttyS0} quiet $spare $words" --disk "root.ext4${root_opts-}" "$@"
}

# until_line PATTERN SECONDS: read until a line has it; fail at the end, or when
# no line came for that long.
until_line() {
	while IFS= read -r -t "$2" line <&4; do
		line=${line%$'\r'}
		printf '%s\n' "$line" >>log
		case $line in $1) return 0 ;; esac
	done
	return 1
}

# ended STATUS SECONDS: read the rest; belfry must end with that status, and may be
# silent for that long before.
ended() {
	! until_line '' "$2" || ended "$1" "$2"
	[ -n "$pid" ] || return 0
	# The output is closed, or it hangs.
	tries=600
	while kill -0 "$pid" 2>/dev/null && [ $tries -gt 0 ]; do
		tries=$((tries - 1))
		usleep 100000
	done
	! kill -0 "$pid" 2>/dev/null || bad "belfry is still there after $2 s of silence"
	status=0
	wait "$pid" || status=$?
	pid=
	exec 4<&-
	[ "$status" = "$1" ] || bad "belfry ended with $status, not $1"
}

# said PATTERN: a line of the guest has it.
said() { grep -q -- "$1" log; }
# value KEY: what the guest told under that name.
value() { sed -n "s/^belfry-guest: $1 //p" log | tail -n 1; }
# silent: belfry itself had nothing to say.
silent() { [ ! -s err ] || bad "belfry complained"; }
# passed: the guest said OK and powered off, and belfry had nothing to say.
passed() {
	ended 0 "${patience:-240}"
	said '^belfry-guest: OK$' || bad "no OK"
	! said 'belfry-guest: FAIL' || bad "OK and FAIL"
	silent
}

# wrote FILE SEED MIB DISK: the image has what the guest said it wrote, and that
# is this noise.
wrote() {
	now=$(sum <"$1")
	[ "$now" = "$(/guest/noise "$2" $(($3 * 1048576)) | sum)" ] || bad "$1 is not the guest's noise $2"
	[ "$(value "disk-wrote${4:+ $4}")" = "$now" ] || bad "$1 is $now, the guest wrote something else"
}
# read_was SUM [DISK]: so the guest read it before.
read_was() { [ "$(value "disk-read${2:+ $2}")" = "$1" ] || bad "the guest read ${2:-the disk} wrong"; }

# moved: the guest's test irq saw its interrupt arrive on two different CPUs.
moved() {
	[ "$(sed -n 's/^belfry-guest: irq-moved .* cpu \([0-9]*\) .*/\1/p' log | sort -u | wc -l)" = 2 ] ||
		bad "no interrupt was moved"
}

# --- how the devices were driven

# trace_kicks: have the kernel count its ioeventfd signals by guest address.
trace_kicks() {
	echo 'p:belfry_kick ioeventfd_write addr=%dx:x64' >/sys/kernel/tracing/kprobe_events &&
		echo 'hist:keys=addr' >/sys/kernel/tracing/events/kprobes/belfry_kick/trigger ||
		bad "L1's kernel cannot trace"
}

# device NAME: the guest's line about the block or network device, or virtioN.
device() { sed -n "s/^belfry-guest: device \(.* name=$1 .*\)/\1/p" log; }
# field NAME LINE: one of its words.
field() { echo "$2" | tr ' ' '\n' | sed -n "s/^$1=//p"; }

# kicks LINE: how many ioeventfd signals came from its BARs.
kicks() {
	n=0
	for bar in $(field bars "$1" | tr , ' '); do
		while read -r addr hits; do
			[ $((addr)) -lt $((${bar%-*})) ] || [ $((addr)) -gt $((${bar#*-})) ] || n=$((n + hits))
		done <<-EOF
			$(sed -n 's/^{ addr: *\([0-9a-fx]*\) *} *hitcount: *\([0-9]*\).*/\1 \2/p' \
				/sys/kernel/tracing/events/kprobes/belfry_kick/hist)
		EOF
	done
	echo $n
}

# driven NAME MODE CHIP NOTIFY: the device has this interface (modern or legacy),
# this interrupt controller, and was kicked so (ioeventfd or exit).
driven() {
	line=$(device "$1")
	[ -n "$line" ] || bad "the guest has no device $1"
	[ "$(field mode "$line")" = "$2" ] || bad "$1 is not $2: $line"
	case $(field chip "$line") in $3*) ;; *) bad "$1 does not interrupt by $3: $line" ;; esac
	n=$(kicks "$line")
	echo "$1: $2, $(field chip "$line") $(field irqs "$line"), $n kicks by ioeventfd"
	case $4 in
	ioeventfd) [ "$n" -gt 0 ] || bad "$1 was never kicked by ioeventfd" ;;
	exit) [ "$n" -eq 0 ] || bad "$1 was kicked by ioeventfd" ;;
	esac
}

# --- the network

# serve SEED BYTES [ADDRESS]: http://ADDRESS:8000/blob; blob gets its sum.
serve() {
	mkdir -p www
	/guest/noise "$1" "$2" >www/blob
	blob=$(sum <www/blob)
	httpd -p "${3:-127.0.0.1}:8000" -h www
}
# fetch_back URL [TIMES]: the other direction of the guest's test net.
fetch_back() {
	until_line '*listen 8080' "${patience:-120}" || bad "the guest does not listen"
	times=${2:-1} first=
	while [ "$times" -gt 0 ]; do
		times=$((times - 1))
		got=$(wget -q -O - "$1/blob" | sum)
		[ "${first:=$got}" = "$got" ] || bad "fetched $first and then $got"
	done
	wget -q -O - "$1/cgi-bin/done?$got" >/dev/null || bad "the guest does not take the sum"
}
fetched() {
	[ "$(value net-fetched)" = "$blob" ] || bad "the guest fetched $(value net-fetched), not $blob"
	[ "$(value net-served)" = "$got" ] || bad "the guest served $(value net-served), we got $got"
}
# tap_up: belfry makes tap0; give it its address.
tap_up() {
	tries=600
	while [ ! -e /sys/class/net/tap0 ]; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || bad "belfry made no tap0"
		usleep 100000
	done
	ip addr add 10.9.0.1/24 dev tap0 && ip link set tap0 up || bad "tap0 cannot be set up"
}
