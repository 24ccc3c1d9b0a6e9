#!/bin/bash
# SPDX-License-Identifier: MIT
#
# kvm-unit-tests.sh [-a ACCEL[,ACCEL…]] [-l] [-v] [-k DIR] SUITE [SUITE32] [-- PATTERN...]
# run a built kvm-unit-tests' x86 cases through Debian's QEMU and print a table.
#
#   SUITE    where kvm-unit-tests was configured with --arch=x86_64 and built
#   SUITE32  the same with --arch=i386, for the cases that exist in 32 bits only
#   -a       soft (softkvm by its preload library; the default), tcg, kvm (the
#            machine's /dev/kvm); several give a column each
#   -t SECS  no case gets more than this
#   -l       list the cases and stop
#   -v       show what failed, below each line
#   -k DIR   keep each case's output in DIR/ACCEL-CASE.log
#   PATTERN  only cases whose name matches one of these (bash patterns)
#
# The suite is not part of the project and nothing of it is here: without SUITE
# (or BELFRY_KVM_UNIT_TESTS, and _32 for the second) all is skipped.
# Environment: SLOW (1): every time limit is multiplied by it.
# Exit: 0 all that ran passed on the first accelerator, 1 not so, 77 skipped.
set -uo pipefail
cd "$(dirname "$0")/../.."

# name  bits  file  seconds  QEMU's arguments  [ -- what the case is told ]
cases() {
	cat <<-'END'
	x2apic                64 apic 60 -smp 2 -cpu qemu64,+x2apic,+tsc-deadline
	xapic                 64 apic 60 -smp 2 -cpu qemu64,-x2apic,+tsc-deadline
	xapic-split           64 apic 60 -M pc,kernel-irqchip=split -smp 2 -cpu qemu64,-x2apic,+tsc-deadline
	ioapic                64 ioapic 60 -smp 1 -cpu qemu64,+x2apic
	ioapic-smp4           64 ioapic 60 -smp 4 -cpu qemu64,+x2apic
	ioapic-split-smp4     64 ioapic 60 -M q35,kernel-irqchip=split -smp 4 -cpu qemu64,+x2apic
	cmpxchg8b             32 cmpxchg8b 30
	smptest               64 smptest 30 -smp 2
	smptest3              64 smptest 30 -smp 3
	vmexit_all            64 vmexit 300 -cpu qemu64,+x2apic,+tsc-deadline,+tsc-adjust
	vmexit_cpuid          64 vmexit 60 -- cpuid
	vmexit_vmcall         64 vmexit 60 -- vmcall
	vmexit_mov_from_cr8   64 vmexit 60 -- mov_from_cr8
	vmexit_mov_to_cr8     64 vmexit 60 -- mov_to_cr8
	vmexit_inl_pmtimer    64 vmexit 60 -- inl_from_pmtimer
	vmexit_ipi            64 vmexit 60 -M pc,pit=off -smp 2 -- ipi
	vmexit_ipi_halt       64 vmexit 60 -M pc,pit=off -smp 2 -- ipi_halt
	vmexit_ple            64 vmexit 60 -- ple_round_robin
	vmexit_tscdeadline    64 vmexit 60 -cpu qemu64,+x2apic,+tsc-deadline -- tscdeadline
	vmexit_tscdl_immed    64 vmexit 60 -cpu qemu64,+x2apic,+tsc-deadline -- tscdeadline_immed
	vmexit_cr0_wp         64 vmexit 60 -smp 2 -- toggle_cr0_wp
	vmexit_cr4_pge        64 vmexit 60 -smp 2 -- toggle_cr4_pge
	access                64 access_test 180 -cpu max,host-phys-bits=on
	access-phys36         64 access_test 180 -cpu IvyBridge,phys-bits=36,host-phys-bits=off
	smap                  64 smap 30 -cpu max
	smap32                32 smap 30 -cpu max
	pku                   64 pku 30 -cpu max
	pks                   64 pks 30 -cpu max
	asyncpf               64 asyncpf 60 -cpu max -m 2048
	emulator              64 emulator 60
	emulator32            32 emulator 60
	eventinj              64 eventinj 60
	eventinj32            32 eventinj 60
	hypercall             64 hypercall 30
	hypercall32           32 hypercall 30
	idt_test              64 idt_test 30
	memory                64 memory 30 -cpu max
	msr                   64 msr 60 -cpu max,vendor=GenuineIntel
	msr-qemu64            64 msr 60 -cpu qemu64,vendor=GenuineIntel
	msr32                 32 msr 60 -cpu max,vendor=GenuineIntel
	realmode              64 realmode 60
	s3                    64 s3 30
	setjmp                64 setjmp 30
	setjmp32              32 setjmp 30
	sieve                 64 sieve 180
	sieve32               32 sieve 180
	syscall               64 syscall 30 -cpu Opteron_G1,vendor=AuthenticAMD
	tsc                   64 tsc 30 -cpu max
	tsc_adjust            64 tsc_adjust 30 -cpu max
	tscdeadline_latency   64 tscdeadline_latency 60 -cpu qemu64,+x2apic,+tsc-deadline
	xsave                 64 xsave 30 -cpu max
	rmap_chain            64 rmap_chain 60
	taskswitch            32 taskswitch 30
	taskswitch2           32 taskswitch2 30
	kvmclock_test         64 kvmclock_test 120 -smp 2 -- 10000000 NOW
	pcid-enabled          64 pcid 30 -cpu qemu64,+pcid,+invpcid
	pcid-disabled         64 pcid 30 -cpu qemu64,-pcid,-invpcid
	pcid-asymmetric       64 pcid 30 -cpu qemu64,-pcid,+invpcid
	rdpru                 64 rdpru 30 -cpu max
	umip                  64 umip 30 -cpu qemu64,+umip
	umip32                32 umip 30 -cpu qemu64,+umip
	la57                  64 la57 30 -cpu max,host-phys-bits=on
	hpet_read_test        64 hpet_read_test 60 -smp 2
	debug                 64 debug 60
	tsx-ctrl              64 tsx-ctrl 30 -cpu max
	cet                   64 cet 30 -smp 2 -cpu max -m 2048
	lam                   64 lam 30 -cpu max
	END
}

usage() {
	sed -n '4,22s/^# \{0,1\}//p' "$0"
	exit "$1"
}
skip() {
	echo "skip: $*"
	exit 77
}

accels=soft keep='' most=0 verbose='' patterns=()
while getopts a:k:t:lvh opt; do
	case $opt in
	a) accels=$OPTARG ;;
	k) keep=$OPTARG ;;
	t) most=$OPTARG ;;
	l) cases; exit 0 ;;
	v) verbose=1 ;;
	h) usage 0 ;;
	*) usage 2 >&2 ;;
	esac
done
shift $((OPTIND - 1))
suite=${BELFRY_KVM_UNIT_TESTS-} suite32=${BELFRY_KVM_UNIT_TESTS_32-}
[ $# = 0 ] || [ "$1" = -- ] || { suite=$1; shift; }
[ $# = 0 ] || [ "$1" = -- ] || { suite32=$1; shift; }
[ $# = 0 ] || { shift; patterns=("$@"); }

[ -n "$suite" ] || skip 'no path of a built kvm-unit-tests was given (see --help)'
[ -e "$suite/x86/apic.flat" ] || { echo "kvm-unit-tests.sh: no x86/apic.flat in $suite" >&2; exit 2; }
command -v qemu-system-x86_64 >/dev/null || skip 'no qemu-system-x86_64 (scripts/setup test)'
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# run ACCEL FILE SECONDS ARGUMENTS...: one boot; the status is QEMU's.
run() {
	local accel=$1 file=$2 seconds=$3 front=() args=() machine=pc append=''
	shift 3
	while [ $# -gt 0 ]; do
		case $1 in
		-M) machine=$2; shift ;;
		--) shift; append=$*; break ;;
		*) args+=("$1") ;;
		esac
		shift
	done
	append=${append/NOW/$(date +%s)}
	case $accel in
	soft) front=(build/belfry with-softkvm --) accel=kvm ;;
	tcg) [[ $machine != *kernel-irqchip* ]] || machine=${machine%%,*} ;;
	esac
	[ $accel = kvm ] || machine=${machine/,pit=off/}
	seconds=$((seconds * ${SLOW:-1}))
	[ "$most" = 0 ] || [ "$most" -ge $seconds ] || seconds=$most
	timeout -k 2 $seconds "${front[@]}" qemu-system-x86_64 \
		-machine "$machine,accel=$accel" -no-reboot -nodefaults -display none -serial stdio \
		$([ $accel != kvm ] || echo -global kvm-pit.lost_tick_policy=discard) \
		-device pc-testdev -device isa-debug-exit,iobase=0xf4,iosize=0x4 -device pci-testdev \
		-kernel "$file" ${append:+-append "$append"} "${args[@]}" </dev/null
}

# verdict STATUS OUTPUT: what the case says of itself, in a few words.
# isa-debug-exit gives (code << 1) | 1; the suite's code is 0, 1, or 38 (all skipped).
verdict() {
	local sum n f s
	sum=$(grep -a '^SUMMARY: ' "$2" | tail -n 1)
	n=$(sed -n 's/^SUMMARY: \([0-9]*\) tests.*/\1/p' <<<"$sum")
	f=$(sed -n 's/.* \([0-9]*\) unexpected failures.*/\1/p' <<<"$sum")
	s=$(sed -n 's/.* \([0-9]*\) skipped.*/\1/p' <<<"$sum")
	case $1 in
	1) echo "pass${n:+ $((n - ${s:-0}))}${s:+, $s skipped}" ;;
	77) echo 'skip' ;;
	124 | 137) echo "HANGS${f:+ after $f failures}" ;;
	*) echo "FAILS${f:+ $f of $n}$([ -n "$f" ] || echo " (status $1)")" ;;
	esac
}

failed=0
printf '| case |'
for accel in ${accels//,/ }; do printf ' %s |' "$accel"; done
printf '\n| --- |'
for accel in ${accels//,/ }; do printf ' --- |'; done
echo
while read -r name bits file seconds args; do
	if [ ${#patterns[@]} -gt 0 ]; then
		hit=
		# shellcheck disable=SC2053
		for p in "${patterns[@]}"; do [[ $name != $p ]] || hit=1; done
		[ -n "$hit" ] || continue
	fi
	path=$suite/x86/$file.flat
	[ "$bits" = 64 ] || path=$suite32/x86/$file.flat
	printf '| %s |' "$name"
	notes=
	for accel in ${accels//,/ }; do
		if [ ! -e "$path" ]; then
			printf ' not built |'
			continue
		fi
		status=0
		# shellcheck disable=SC2086
		run "$accel" "$path" "$seconds" $args >"$work/out" 2>"$work/err" || status=$?
		[ -z "$keep" ] || { mkdir -p "$keep" && cat "$work/out" "$work/err" >"$keep/$accel-$name.log"; }
		what=$(verdict $status "$work/out")
		printf ' %s |' "$what"
		case $what in
		pass* | skip) continue ;;
		esac
		[ "$accel" != "${accels%%,*}" ] || failed=1
		notes+=$(grep -a -E '^FAIL|Unhandled|assert|STACK' "$work/out" | head -n 40; tail -n 3 "$work/err")$'\n'
	done
	echo
	[ -z "$verbose" ] || [ -z "$notes" ] || sed '/^$/d; s/^/    /' <<<"$notes"
done < <(cases)
exit $failed
