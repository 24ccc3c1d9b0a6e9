# SPDX-License-Identifier: MIT
# Read by scripts/check: the program from outside.
echo "== command line"
test_one 'command line' 600 tests/cli.sh
