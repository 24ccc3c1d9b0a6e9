# SPDX-License-Identifier: MIT
# Common words of the scripts. Sourced, never run; POSIX sh.

me=${0##*/}
top=$(cd "$(dirname "$0")/.." && pwd)

say() { printf '%s: %s\n' "$me" "$*" >&2; }
die() { say "$*"; exit 1; }

# Where the guest images are: BELFRY_GUEST lets several checkouts share one set.
guest=${BELFRY_GUEST:-$top/build/guest}

# have PROGRAM...: are all of them there? /sbin is not in everybody's PATH.
PATH=$PATH:/usr/sbin:/sbin
have() {
	for prog; do
		command -v "$prog" >/dev/null 2>&1 || return 1
	done
}
