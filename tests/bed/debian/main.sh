# SPDX-License-Identifier: MIT
#
# main.sh CASE: run one case in L1 (see tests/bed/debian.sh). This is busybox's sh.

here=${0%/*}
mkdir -p /tmp/case && cd /tmp/case || exit 1
. "$here/lib.sh"
. "$here/cases.sh"
. "$here/long.sh"
trace_kicks
"c_$1"
read -r up _ </proc/uptime
echo "case $1: passed, L1 up for $up s"
