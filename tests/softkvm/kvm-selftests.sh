#!/bin/bash
# SPDX-License-Identifier: MIT
#
# kvm-selftests.sh [-a SIDE[,SIDE…]] [-l] [-v] [-k DIR] [SUITE] [-- PATTERN...]
# run a built suite of the Linux kernel's KVM selftests (tools/testing/selftests/kvm)
# and print a table.
#
#   SUITE    where it was built; the programs are looked for in SUITE, SUITE/x86
#            and SUITE/x86_64
#   -a       soft (softkvm by its preload library; the default), kvm (the
#            machine's /dev/kvm); several give a column each
#   -l       list the tests and stop
#   -v       show the last lines of what failed, below each line
#   -k DIR   keep each test's output in DIR/SIDE-TEST.log
#   PATTERN  only tests whose name matches one of these (bash patterns)
#
# The suite is not part of the project and nothing of it is here: without SUITE
# (or BELFRY_KVM_SELFTESTS) all is skipped.
# Environment: SLOW (1): every time limit is multiplied by it.
# Exit: 0 nothing failed on the first side, 1 something did, 77 skipped.
set -uo pipefail
cd "$(dirname "$0")/../.."

# name  seconds  arguments. Left out: what needs nested virtualization, SEV, TDX, a
# PMU, Xen or Hyper-V, and what only measures.
cases() {
	cat <<-'END'
	irqfd_test                        120
	coalesced_io_test                  60
	set_memory_region_test            600
	dirty_log_test                    120
	kvm_create_max_vcpus               60
	kvm_binary_stats_test              60
	xapic_ipi_test                     60
	xapic_state_test                   60
	xapic_tpr_test                     60
	recalc_apic_map_test               60
	max_vcpuid_cap_test                60
	set_boot_cpu_id                    60
	kvm_pv_test                        60
	kvm_clock_test                     60
	userspace_io_test                  60
	triple_fault_event_test            60
	sync_regs_test                     60
	state_test                         60
	access_tracking_perf_test          60 -v 2 -b 8M
	apic_bus_clock_test                60
	cpuid_test                         60
	cr4_cpuid_sync_test                60
	debug_regs                         60
	demand_paging_test                120 -v 2 -b 64M
	dirty_log_page_splitting_test      60
	dirty_log_perf_test               120 -v 2 -b 32M -i 2
	exit_on_emulation_failure_test     60
	fastops_test                       60
	feature_msrs_test                  60
	fix_hypercall_test                 60
	get_msr_index_features             60
	guest_print_test                   60
	hardware_disable_test             120
	hwcr_msr_test                      60
	kvm_buslock_test                   60
	kvm_page_table_test               120 -v 2 -b 64M
	max_guest_memory_test             120 -c 2 -m 1 -s 1
	memslot_modification_stress_test  120
	memslot_perf_test                 300 -l 1
	monitor_mwait_test                 60
	msrs_test                          60
	platform_info_test                 60
	pre_fault_memory_test              60
	rseq_test                          60
	save_restore_pf_stress_test       120
	set_sregs_test                     60
	smaller_maxphyaddr_emulation_test  60
	smm_test                           60
	steal_time                         60
	system_counter_offset_test         60
	tsc_msrs_test                      60
	tsc_scaling_sync                   60
	ucna_injection_test                60
	userspace_msr_exit_test            60
	xcr0_cpuid_test                    60
	xss_msr_test                       60
	END
}

usage() {
	sed -n '4,21s/^# \{0,1\}//p' "$0"
	exit "$1"
}

skip() {
	echo "skip: $*"
	exit 77
}

sides=soft keep='' verbose='' patterns=()
[ "${1-}" != --help ] || usage 0
while getopts a:k:lvh opt; do
	case $opt in
	a) sides=$OPTARG ;;
	k) keep=$OPTARG ;;
	l) cases; exit 0 ;;
	v) verbose=1 ;;
	h) usage 0 ;;
	*) usage 2 >&2 ;;
	esac
done
shift $((OPTIND - 1))
suite=${BELFRY_KVM_SELFTESTS-}
[ $# = 0 ] || [ "$1" = -- ] || { suite=$1; shift; }
[ $# = 0 ] || { shift; patterns=("$@"); }

[ -n "$suite" ] || skip 'no path of a built suite of KVM selftests was given (see --help)'
[ -x build/belfry ] || { echo 'kvm-selftests.sh: no build/belfry; run make' >&2; exit 1; }
find_program() {
	local dir
	for dir in "$suite" "$suite/x86" "$suite/x86_64"; do
		[ ! -f "$dir/$1" ] || [ ! -x "$dir/$1" ] || { echo "$dir/$1"; return; }
	done
}
[ -n "$(find_program coalesced_io_test)" ] || {
	echo "kvm-selftests.sh: no coalesced_io_test in $suite" >&2
	exit 2
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# run SIDE SECONDS COMMAND...
run() {
	local side=$1 seconds=$2 front=()
	shift 2
	case $side in
	soft) front=(build/belfry with-softkvm --) ;;
	kvm) ;;
	*) echo "kvm-selftests.sh: no side '$side'" >&2; exit 2 ;;
	esac
	timeout -k 2 $((seconds * ${SLOW:-1})) "${front[@]}" "$@" </dev/null
}

# verdict STATUS OUTPUT: the harness's exit codes are 0, and 4 for a test that cannot run here.
verdict() {
	local totals
	totals=$(sed -n 's/^# Totals: pass:\([0-9]*\) fail:\([0-9]*\).* skip:\([0-9]*\).*/\1 \2 \3/p' "$2" | tail -n 1)
	case $1 in
	0)
		case $totals in
		'0 0 '*) echo skip ;;
		*) echo pass ;;
		esac ;;
	4) echo skip ;;
	124 | 137) echo HANGS ;;
	*) echo FAILS ;;
	esac
}

# Why a test was skipped, as it says.
reason() {
	sed -n 's/.*# SKIP[ -]*\(Requirement not met: \)\{0,1\}//p' "$1" | tail -n 1
}

failed=0
printf '| test |'
for side in ${sides//,/ }; do printf ' %s |' "$side"; done
printf ' notes |\n| --- |'
for side in ${sides//,/ }; do printf ' --- |'; done
echo ' --- |'
while read -r name seconds args; do
	if [ ${#patterns[@]} -gt 0 ]; then
		hit=
		# shellcheck disable=SC2053
		for p in "${patterns[@]}"; do [[ $name != $p ]] || hit=1; done
		[ -n "$hit" ] || continue
	fi
	program=$(find_program "$name")
	printf '| %s |' "$name"
	notes='' why=''
	for side in ${sides//,/ }; do
		if [ -z "$program" ]; then
			printf ' not built |'
			continue
		fi
		status=0
		# shellcheck disable=SC2086
		run "$side" "$seconds" "$program" $args >"$work/out" 2>&1 || status=$?
		[ -z "$keep" ] || { mkdir -p "$keep" && cp "$work/out" "$keep/$side-$name.log"; }
		what=$(verdict $status "$work/out")
		printf ' %s |' "$what"
		case $what in
		pass) continue ;;
		skip) why=$(reason "$work/out"); continue ;;
		esac
		[ "$side" != "${sides%%,*}" ] || failed=1
		notes+=$(grep -av '^Random seed' "$work/out" | tail -n 15)$'\n'
	done
	echo " $why |"
	[ -z "$verbose" ] || [ -z "$notes" ] || sed '/^$/d; s/^/    /' <<<"$notes"
done < <(cases)
exit $failed
