# SPDX-License-Identifier: MIT
# The second console, hvc0: the guest says "ready" there and sends back each line
# as "echo: LINE", until the line "quit"; it fails if that does not come in time.
. /test/lib.sh

[ -c /dev/hvc0 ] || fail "no /dev/hvc0"
# Open first: the last close puts this terminal back to what it was.
exec 3<>/dev/hvc0 || fail "cannot open /dev/hvc0"
stty raw -echo <&3 || fail "cannot set /dev/hvc0 up"
tell console ready
echo ready >&3
lines=0
while read -r -t 120 line <&3; do
	if [ "$line" = quit ]; then
		tell console "$lines lines"
		exit 0
	fi
	echo "echo: $line" >&3
	lines=$((lines + 1))
done
fail "no more lines on hvc0 after $lines, and no quit"
