.PHONY: run check check-long lint

## make run        boot Debian in Belfry (installs and makes what is missing)
run:
	@scripts/setup build run
	@$(MAKE) --no-print-directory -j2 all
	@scripts/run

## make check      all tests (installs and makes what is missing)
check:
	@scripts/setup
	@scripts/check

## make check-long the tests of many minutes: gigabytes of I/O, many boots
check-long:
	@scripts/setup
	@scripts/check long

## make lint       include directions, headers alone, house rules
lint:
	@scripts/lint
