# SPDX-License-Identifier: MIT
#
# main.sh CASE SECONDS: run one case in L1, for so long at most (see
# tests/bed/debian.sh). This is busybox's sh.

here=${0%/*}
mkdir -p /tmp/case && cd /tmp/case || exit 1
. "$here/lib.sh"
. "$here/cases.sh"
. "$here/long.sh"
# Before the bed's own patience ends: a guest that still says something every now
# and then (its kernel's complaints) is never silent for long enough.
trap 'bad "not done after '$2' s"' USR1
(sleep "$2"; kill -USR1 $$) &
trace_kicks
"c_$1"
read -r up _ </proc/uptime
echo "case $1: passed, L1 up for $up s"
