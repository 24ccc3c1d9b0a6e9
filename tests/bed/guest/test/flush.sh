# SPDX-License-Identifier: MIT
# What has been flushed survives the monitor: write, flush, say so, and spin.
# The host kills the monitor with SIGKILL and looks for /data/flushed in the
# image (after the journal's replay: e2fsck -fy -E journal_only).
. /test/lib.sh

seed=$(arg seed 7)
noise "$seed" 4194304 >/data/flushed || fail "writing /data/flushed"
sync
tell flushed "$(noise "$seed" 4194304 | sha256sum | cut -d ' ' -f 1)"
while :; do :; done
