# SPDX-License-Identifier: MIT
# Read by scripts/check: every fuzz target for a few seconds, with the same
# inputs each time (docs/FUZZING.md).
echo "== fuzz targets, a fixed number of inputs each"
build 'build: fuzz' fuzz-build
for target in tests/fuzz/*.c; do
	target=$(basename "$target" .c)
	case $target in
	virtio) runs=100 ;;
	signals) runs=100 ;;
	softkvm | boot | devices | engine | irq | pci | region) runs=250 ;;
	walk) runs=1000 ;;
	*) runs=2000 ;;
	esac
	test_one "fuzz: $target" 600 tests/fuzz/run "$target" check "$runs"
done
