## make setup      install the Debian packages that are missing
## make guest      make the guest images (build/guest)
.PHONY: setup guest
setup:
	@scripts/setup
guest:
	@scripts/guest-images
