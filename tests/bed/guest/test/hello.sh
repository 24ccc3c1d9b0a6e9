# SPDX-License-Identifier: MIT
# The machine is up: kernel, interrupts, and the root disk reads back right.
. /test/lib.sh

uname -a
cat /proc/interrupts
if [ ! -e /data/blob ]; then
	# run-tests is only reached without a disk if the host asked for that.
	[ "$(arg root '')" = none ] || fail "no /data/blob"
	exit 0
fi
want=$(cut -d ' ' -f 1 /data/blob.sha256)
got=$(sum_of /data/blob)
tell blob "$got"
[ "$got" = "$want" ] || fail "/data/blob is $got, should be $want"
