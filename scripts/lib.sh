# SPDX-License-Identifier: MIT
# Common words of the scripts. Sourced, never run; POSIX sh.

me=${0##*/}
top=$(cd "$(dirname "$0")/.." && pwd)

say() { printf '%s: %s\n' "$me" "$*" >&2; }
die() { say "$*"; exit 1; }

# Where the guest images are: BELFRY_GUEST lets several checkouts share one set.
guest=${BELFRY_GUEST:-$top/build/guest}

# apt LOG ARG...: apt-get; what it says goes to LOG. Its option waits for dpkg's lock;
# that of the package lists, which another apt may hold, we wait for ourselves.
apt() {
	apt_log=$1 apt_tries=300
	shift
	until apt-get -q -y -o DPkg::Lock::Timeout=120 "$@" >"$apt_log" 2>&1 </dev/null; do
		apt_tries=$((apt_tries - 1))
		[ $apt_tries -gt 0 ] && grep -q 'Could not get lock /var/[a-z]*/apt/' "$apt_log" || return 1
		sleep 2
	done
}

# have PROGRAM...: are all of them there? /sbin is not in everybody's PATH.
PATH=$PATH:/usr/sbin:/sbin
have() {
	for prog; do
		command -v "$prog" >/dev/null 2>&1 || return 1
	done
}
