#!/bin/bash
# SPDX-License-Identifier: MIT
#
# selftest.sh [--list] [NAME...]: prove the beds and the guest images without
# Belfry. The guest's tests run under plain QEMU TCG, the nested bed runs small
# commands, and QEMU with the kernel's KVM stands in for Belfry inside it. About
# a third of it expects a failure: a bed that cannot say no proves nothing.
#
# One line a test, with the seconds it took. Exit: 0 all passed, 1 one failed,
# 77 there is no QEMU here.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin

case ${1-} in
--list) sed -n 's/^t_\([a-z_0-9]*\)().*/\1/p' "$0"; exit 0 ;;
-h | --help) sed -n '4,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
for prog in qemu-system-x86_64 busybox debugfs e2fsck; do
	command -v $prog >/dev/null || { echo "selftest: skipped: no $prog" >&2; exit 77; }
done
scripts/guest-images
guest=$(scripts/guest-images --where)
work=$(mktemp -d "${TMPDIR:-/tmp}/belfry-selftest.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# What a test has started ends with it.
pid='' httpd='' from=''
finish() {
	[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true
	[ -z "$httpd" ] || kill "$httpd" 2>/dev/null || true
}

# --- a program whose output is read line by line

# start CMD...: run it; its output is in the file log as far as it has been read.
start() {
	: >"$work/log"
	exec {from}< <(exec "$@" 2>&1)
	pid=$!
}

# until_line PATTERN SECONDS: read until a line matches; false at the end or when
# none came for that long.
until_line() {
	local line
	while IFS= read -r -t "$2" -u "$from" line; do
		printf '%s\n' "${line%$'\r'}" >>"$work/log"
		# shellcheck disable=SC2254
		[[ ! $line =~ $1 ]] || return 0
	done
	return 1
}

# ended SECONDS: read the rest; status gets its exit status.
ended() {
	until_line '^$.' "$1" || true
	exec {from}<&-
	if kill -0 "$pid" 2>/dev/null; then
		# The output has ended; give the process a moment to follow.
		timeout 60 tail --pid="$pid" -f /dev/null || kill -9 "$pid" 2>/dev/null || true
	fi
	status=0
	wait "$pid" 2>/dev/null || status=$?
	pid=
}

said() { grep -q -- "$1" "$work/log"; }
# value KEY: what the guest told under that name.
value() { sed -n "s/^belfry-guest: $1 //p" "$work/log" | tail -n 1; }
# bad WHY: the end of this test, which runs in a shell of its own.
bad() {
	echo "    $*"
	exit 1
}

# --- a guest under plain QEMU

# root_fresh: a root disk to write on.
root_fresh() { cp --sparse=always "$guest/root.ext4" "$work/root.ext4"; }

# boot WORDS [QEMU ARG...]: start a guest with its root disk as vda.
boot() {
	local words=$1
	shift
	start qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu max,la57=off -smp "${smp:-2}" \
		-m 512 -nodefaults -display none -no-reboot -serial stdio \
		-kernel "${kernel:-$guest/vmlinuz}" -initrd "$guest/initrd.cpio" \
		-append "console=ttyS0 quiet panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check random.trust_cpu=on $words" \
		-drive "file=$work/root.ext4,format=raw,if=none,id=root" \
		-device virtio-blk-pci,drive=root,romfile= "$@" <"${input:-/dev/null}"
}
passed() {
	ended 60
	said '^belfry-guest: OK$' || bad "no OK"
	! said 'belfry-guest: FAIL' || bad "OK and FAIL"
}
# failed PATTERN: it said FAIL with such a reason.
failed() {
	ended 60
	said "^belfry-guest: FAIL .*$1" || bad "no FAIL with '$1'"
	! said '^belfry-guest: OK$' || bad "FAIL and OK"
}
rng=(-device virtio-rng-pci,romfile=)

t_guest_hello() { boot belfry.script=hello; passed; said 'virtio0-req'; said '^Linux'; }
t_guest_hello_pvh() { kernel=$guest/vmlinux boot belfry.script=hello; passed; }
t_guest_hello_one_cpu() { smp=1 boot belfry.script=hello; passed; }
t_guest_initrd_only() { boot 'belfry.script=hello belfry.root=none'; passed; ! said 'guest: blob' || bad 'a blob'; }
t_guest_reboot() { boot 'belfry.script=rng belfry.end=reboot' "${rng[@]}"; passed; }
t_guest_smp() { boot 'belfry.script=smp belfry.cpus=2'; passed; }
t_guest_rng() { boot belfry.script=rng "${rng[@]}"; passed; }
t_guest_irq() { boot belfry.script=irq "${rng[@]}"; passed; said 'irq-moved .* cpu 1'; }
t_guest_irq_intx() {
	boot 'belfry.script=irq pci=nomsi' "${rng[@]}"
	passed
	said 'irq .* IO-APIC .*fasteoi'
}
t_guest_irq_net() {
	boot 'belfry.script=irq belfry.irqdev=net' -netdev user,id=n -device virtio-net-pci,netdev=n,romfile=
	passed
	said 'virtio1-input'
}

# The initrd finds drivers by virtio device ID, and the root disk elsewhere too.
t_guest_drivers() {
	truncate -s 4M "$work/data"
	boot 'belfry.script=hello' -device virtio-balloon-pci,romfile= -device virtio-scsi-pci,romfile= \
		-drive "file=$work/data,format=raw,if=none,id=data" -device scsi-hd,drive=data
	passed
	said 'fasteoi *virtio1' # the balloon, by INTx
	said 'virtio2-request' # the SCSI host
}
t_guest_nvme_root() {
	start qemu-system-x86_64 -machine q35 -accel tcg -cpu max,la57=off -m 512 -nodefaults -display none \
		-no-reboot -serial stdio -kernel "$guest/vmlinuz" -initrd "$guest/initrd.cpio" \
		-append 'console=ttyS0 quiet belfry.script=hello belfry.root=/dev/nvme0n1' \
		-drive "file=$work/root.ext4,format=raw,if=none,id=root" -device nvme,drive=root,serial=1,romfile= </dev/null
	passed
	said 'guest: blob'
}

t_guest_shell() {
	mkfifo "$work/keys"
	exec {keys}<>"$work/keys"
	input=$work/keys boot ''
	# What is typed before the shell has set the terminal up may be lost.
	until_line "Enter 'help'" 60 || bad "no shell"
	until_line '^.?$' 60 || bad "no empty line"
	# shellcheck disable=SC2016
	echo 'echo answer-$((6 * 7)); tty; sleep 99 & jobs; exit' >&"$keys"
	ended 60
	exec {keys}>&-
	rm "$work/keys"
	said '^answer-42' && said '^/dev/ttyS0' && said 'Running.*sleep 99' && said 'Power down'
}

t_guest_disk() {
	"$guest/noise" 99 16777216 >"$work/data"
	boot 'belfry.script=disk belfry.size=16 belfry.seed=5' \
		-drive "file=$work/data,format=raw,if=none,id=data" -device virtio-blk-pci,drive=data,romfile=
	passed
	[ "$(value disk-read)" = "$("$guest/noise" 99 16777216 | sha256sum | cut -d ' ' -f 1)" ] || bad "read wrong"
	[ "$(value disk-wrote)" = "$(sha256sum <"$work/data" | cut -d ' ' -f 1)" ] || bad "wrote wrong"
	"$guest/noise" 5 16777216 | cmp - "$work/data"
}

serve() {
	mkdir -p "$work/www"
	"$guest/noise" 3 3000000 >"$work/www/blob"
	port=$((20000 + RANDOM % 20000)) forward=$((40000 + RANDOM % 20000))
	busybox httpd -f -p "127.0.0.1:$port" -h "$work/www" &
	httpd=$!
	sum=$(sha256sum <"$work/www/blob" | cut -d ' ' -f 1)
}
unserve() { kill "$httpd"; wait "$httpd" 2>/dev/null || true; httpd=; }
net_both_ways() {
	local got
	serve
	boot "belfry.script=net belfry.port=$port belfry.sum=$sum $1" \
		-netdev "user,id=n,hostfwd=tcp:127.0.0.1:$forward-:8080" -device virtio-net-pci,netdev=n,romfile=
	if until_line 'listen 8080' 60; then
		got=$(busybox wget -q -O - "http://127.0.0.1:$forward/blob" | sha256sum | cut -d ' ' -f 1)
		busybox wget -q -O - "http://127.0.0.1:$forward/cgi-bin/done?$got" >/dev/null || true
	fi
	unserve
	passed
	[ "$(value net-fetched)" = "$sum" ] && [ "$(value net-served)" = "$got" ]
}
t_guest_net_dhcp() { net_both_ways belfry.ip=dhcp; }
t_guest_net_static() { net_both_ways belfry.ip=static; }

t_guest_flush() {
	boot belfry.script=flush
	until_line 'guest: flushed' 60 || bad "never flushed"
	kill -9 "$pid"
	ended 60
	# 1: the journal was replayed, all is well.
	e2fsck -fy -E journal_only "$work/root.ext4" >"$work/fsck" 2>&1 || [ $? = 1 ] || bad "fsck: $(cat "$work/fsck")"
	[ "$(debugfs -R 'cat /data/flushed' "$work/root.ext4" 2>/dev/null | sha256sum | cut -d ' ' -f 1)" = \
		"$(value flushed)" ] || bad "what was flushed is not there"
}

t_guest_console() {
	local n line text
	mkfifo "$work/hvc.in" "$work/hvc.out"
	exec {to}<>"$work/hvc.in" {back}<>"$work/hvc.out"
	boot belfry.script=console -chardev "pipe,id=c,path=$work/hvc" -device virtio-serial-pci,romfile= \
		-device virtconsole,chardev=c
	read -r -t 60 -u "$back" line && [ "$line" = ready ] || bad "not ready: '$line'"
	for n in 1 80 700 4000; do
		text=$("$guest/noise" "$n" 2048 | od -An -v -tx1 | tr -d ' \n')
		text=${text:0:n}
		echo "$text" >&"$to"
		read -r -t 60 -u "$back" line && [ "$line" = "echo: $text" ] || bad "line of $n: '$line'"
	done
	echo quit >&"$to"
	passed
	[ "$(value console)" = '4 lines' ]
	exec {to}>&- {back}>&-
	rm "$work/hvc.in" "$work/hvc.out"
}

# These must fail.
t_guest_no_root() { boot 'belfry.script=hello belfry.root=/dev/vdb'; failed 'no root disk'; }
t_guest_bad_blob() {
	echo 'not the blob' >"$work/other"
	debugfs -w -R 'rm /data/blob' "$work/root.ext4" 2>/dev/null
	debugfs -w -R "write $work/other /data/blob" "$work/root.ext4" >/dev/null 2>&1
	boot belfry.script=hello
	failed 'should be'
}
t_guest_no_test() { boot belfry.script=nosuch; failed "no test 'nosuch'"; }
t_guest_no_rng() { boot belfry.script=rng; failed rng; }
t_guest_no_net() { boot belfry.script=net; failed 'no network device'; }
t_guest_no_hvc() { boot belfry.script=console; failed 'hvc0'; }
t_guest_few_cpus() { boot 'belfry.script=smp belfry.cpus=3'; failed '2 CPUs online, should be 3'; }
t_guest_irq_one_cpu() { smp=1 boot belfry.script=irq "${rng[@]}"; failed 'needs two CPUs'; }
t_guest_irq_no_answer() {
	# A network in which nobody has the gateway's address: all I/O fails.
	boot 'belfry.script=irq belfry.irqdev=net' -netdev user,id=n,restrict=on,net=10.0.9.0/24 \
		-device virtio-net-pci,netdev=n,romfile=
	failed 'I/O failed'
}
t_guest_disk_size() {
	truncate -s 8M "$work/data"
	boot 'belfry.script=disk belfry.size=9' \
		-drive "file=$work/data,format=raw,if=none,id=data" -device virtio-blk-pci,drive=data,romfile=
	failed 'not 9 MiB'
}
t_guest_net_bad_sum() {
	serve
	boot "belfry.script=net belfry.port=$port belfry.sum=0123" -netdev user,id=n \
		-device virtio-net-pci,netdev=n,romfile=
	failed 'should be 0123'
	unserve
}

# --- the nested bed

nested() { start scripts/nested --timeout 300 "$@"; ended 330; }
# exits STATUS: it did.
exits() { [ "$status" = "$1" ] || bad "status $status, should be $1"; }

t_bed_true() { nested true; exits 0; }
t_bed_status() { nested -- sh -c 'exit 3'; exits 3; }
t_bed_signal() { nested -- sh -c 'kill -9 $$'; exits 137; }
t_bed_not_found() { nested -- nosuch; exits 127; }
t_bed_kvm() {
	nested -- sh -c 'ls /dev/kvm; cat /sys/module/kvm_amd/parameters/nested; ping -c 1 127.0.0.1; modprobe vhost_net &&
		ls /dev/vhost-net /dev/net/tun; ls /guest'
	exits 0
	said '/dev/kvm' && said '/dev/vhost-net' && said 'root.ext4' && said '0% packet loss'
}
t_bed_words() {
	nested --append bed.test=1 -- sh -c 'echo "$#:$1:$2:$3"; cat /proc/cmdline' sh "it's" '$HOME "x"' ''
	# shellcheck disable=SC2016
	exits 0
	said "^3:it's:\$HOME \"x\":$" && said 'bed.test=1'
}
t_bed_output() {
	# Byte for byte, and all of it.
	scripts/nested --program "$guest/noise" -- noise 11 300001 >"$work/got"
	"$guest/noise" 11 300001 | cmp - "$work/got"
}
t_bed_share_out() {
	mkdir -p "$work/some dir/in"
	echo content >"$work/some dir/in/file"
	# A program with shared libraries, in a share.
	cp "$(command -v debugfs)" "$work/some dir/"
	rm -f "$work/out.tar"
	nested --share "$work/some dir" --out "$work/out.tar" -- sh -c '
		cat "/share/some dir/in/file" >/out/copy && "/share/some dir/debugfs" -V 2>&1; exit 6'
	exits 6
	said '^debugfs ' && [ "$(tar -xOf "$work/out.tar" ./copy)" = content ]
}
t_bed_tty() {
	# script gives it a terminal here; the command must have one there.
	mkfifo "$work/keys"
	exec {keys}<>"$work/keys"
	start script -qfec "stty rows 33 cols 111; exec scripts/nested --timeout 300 --interactive -- sh -c \
		'stty size; tty; trap \"echo interrupted; exit 9\" INT; echo ready; read line; echo got-\$line; sleep 60'" \
		/dev/null <"$work/keys"
	until_line ready 60 || bad "not ready"
	# Control-A x would end a QEMU with its multiplexer; control-C is for the command.
	printf 'a\001xb\r' >&"$keys"
	until_line got- 60 || bad "no answer"
	# One that comes before the sleep has begun waits for the sleep's end; the next
	# one ends that.
	for _ in 1 2 3 4 5 6; do
		printf '\003' >&"$keys"
		! until_line interrupted 5 || break
	done
	ended 60
	exec {keys}>&-
	rm "$work/keys"
	exits 9
	said '^33 111' && said '^/dev/ttyS0' && said $'^got-a\001xb' && said interrupted
}
t_bed_timeout() {
	start scripts/nested --timeout 60 -- sh -c 'echo started; sleep 1000'
	ended 120
	exits 124
	said '^started' && said 'the command was still running' && said '^CPU#0' && said 'HLT=1'
}
t_bed_timeout_boot() {
	start scripts/nested --timeout 5 --append rdinit=/nosuch --append panic=0 -- true
	ended 60
	exits 124
	said 'hung while booting'
}
t_bed_panic() {
	nested -- sh -c 'echo c >/proc/sysrq-trigger; sleep 10'
	exits 125
	said "step 'command'" && said 'sysrq triggered crash'
}
t_bed_no_svm() {
	nested --append module_blacklist=kvm_amd true
	exits 125
	said 'insmod kvm_amd'
}
t_bed_no_qemu() {
	mkdir -p "$work/bin"
	for prog in bash sh dirname sed; do ln -sf "$(command -v $prog)" "$work/bin/$prog"; done
	# The script adds /usr/sbin; only QEMU must be out of reach.
	PATH=$work/bin nested true
	exits 77
	said 'skipped: no qemu'
}
t_bed_usage() {
	nested --cpus two true
	exits 125
	nested
	exits 125
	nested --share /nosuch true
	exits 125
}

# --- L2 under the kernel's KVM, with QEMU where Belfry will be

l2() {
	mkdir -p "$work/fw"
	cp -L /usr/share/seabios/bios-256k.bin /usr/share/qemu/linuxboot_dma.bin /usr/share/qemu/kvmvapic.bin "$work/fw/"
	# shellcheck disable=SC2016
	nested --program "$(command -v qemu-system-x86_64)" --share "$work/fw" -- sh -c '
		cp /guest/root.ext4 /tmp && exec qemu-system-x86_64 -L /share/fw -accel kvm -machine q35$2 -cpu host \
		-smp 2 -m 512 -nodefaults -display none -no-reboot -serial stdio -kernel /guest/vmlinuz \
		-initrd /guest/initrd.cpio -append "console=ttyS0 quiet panic=-1 nokaslr mitigations=off \
		random.trust_cpu=on belfry.script=$1" -drive file=/tmp/root.ext4,format=raw,if=none,id=d0 \
		-device virtio-blk-pci,drive=d0,romfile= -device virtio-rng-pci,romfile=' sh "$@"
	exits 0
	said '^belfry-guest: OK$'
}
t_l2_kernel_irqchip() { l2 hello,smp,rng,irq ''; }
t_l2_split_irqchip() { l2 hello,irq ',kernel-irqchip=split'; }

# --- run

[ $# -gt 0 ] || set -- $("$0" --list)
fails=0
for name; do
	declare -F "t_$name" >/dev/null || { echo "selftest: no test '$name'; --list has them" >&2; exit 1; }
	rm -rf "${work:?}"/*
	root_fresh
	begin=$EPOCHREALTIME
	# Not "t_name || ...": that would switch set -e off inside.
	set +e
	(
		trap finish EXIT
		set -e
		: >"$work/log"
		t_"$name"
	)
	outcome=$?
	set -e
	took=$(((${EPOCHREALTIME/./} - ${begin/./}) / 100000))
	if [ $outcome = 0 ]; then
		printf 'ok      %-24s %d.%d s\n' "$name" $((took / 10)) $((took % 10))
	else
		printf 'FAILED  %-24s %d.%d s\n' "$name" $((took / 10)) $((took % 10))
		sed 's/^/    | /' "$work/log" | tail -n 40
		fails=$((fails + 1))
	fi
done
[ $fails = 0 ] || { echo "selftest: $fails of $# failed" >&2; exit 1; }
echo "selftest: all $# passed"
