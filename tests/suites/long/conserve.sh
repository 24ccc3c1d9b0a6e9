# SPDX-License-Identifier: MIT
# Ten million events on each call path of softkvm. Sourced by scripts/check long.

echo "== softkvm: ten million events on each call path, none lost and none too many"
for path in line msi irqfd_msi irqfd_pin irqfd_resample interrupt icr pv; do
	# With 1, 2 and 4 vCPUs each.
	test_one "soft: conservation, $path" 3600 build/rel/tests/softkvm_conserve 3340000 1 "test_$path"
done
