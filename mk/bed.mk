## make setup      install the Debian packages that are missing
## make guest      make the guest images (build/guest)
## make bed-check  prove the test beds and the guest images (five minutes)
.PHONY: setup guest bed-check
setup:
	@scripts/setup
guest:
	@scripts/guest-images
bed-check:
	@tests/bed/selftest.sh
