# SPDX-License-Identifier: MIT
# The guest resets the machine and comes up again, once for each way, in the
# middle of disk I/O; after the last boot the test has passed.
#   belfry.resets=WAY[,WAY...]  acpi, kbd, pci or triple (default acpi); what
#                               /sys/kernel/reboot/type takes
# Lines for the host: "boot N", counted from 0 in a file on the root disk.
. /test/lib.sh

boots=0
[ ! -e /data/boots ] || read -r boots </data/boots
tell boot "$boots"
want=$(cut -d ' ' -f 1 /data/blob.sha256)
got=$(sum_of /data/blob)
[ "$got" = "$want" ] || fail "/data/blob is $got in boot $boots, should be $want"

# A comma at the end: without any, cut would give the line as it is.
way=$(echo "$(arg resets acpi)," | cut -d , -f $((boots + 1)))
[ -n "$way" ] || exit 0
echo $((boots + 1)) >/data/boots
sync
echo "$way" >/sys/kernel/reboot/type || fail "this kernel cannot reset by '$way'"
dd if=/dev/zero of=/data/busy bs=4096 count=2048 oflag=direct 2>/dev/null &
usleep 50000
reboot -f
sleep 60
fail "still there a minute after a reset by $way"
