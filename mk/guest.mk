# Bare-metal guests: every tests/guest/<name>.c but the library is one ELF with
# a PVH entry, build/<mode>/guest/<name>.elf. Always plain flags: no sanitizer
# reaches into a guest.
GUEST_LIB    := $(O)/guest/start.o $(O)/guest/guest.o
GUEST_ELFS   := $(patsubst tests/guest/%.c,$(O)/guest/%.elf, \
                           $(filter-out tests/guest/guest.c,$(wildcard tests/guest/*.c)))
GUEST_CFLAGS := -std=gnu11 -O2 -ffreestanding -fno-pic -fno-stack-protector -mno-red-zone \
                -mgeneral-regs-only -fcf-protection=none -fno-asynchronous-unwind-tables \
                -Wall -Wextra -Werror -Wno-unused-parameter -Wno-array-bounds \
                -Wno-interrupt-service-routine # clang fears for vector registers; there are none
GUEST_LINK    = $(CC) -nostdlib -static -no-pie -Wl,-T,tests/guest/guest.ld,--build-id=none,-z,noexecstack \
                -Wl,--no-warn-rwx-segments -o $@ $(filter %.o,$^)

tests: $(GUEST_ELFS)

$(O)/guest/%.o: tests/guest/%.c tests/guest/guest.h
	@mkdir -p $(@D)
	$(CC) $(GUEST_CFLAGS) -c -o $@ $<

$(O)/guest/%.o: tests/guest/%.S
	@mkdir -p $(@D)
	$(CC) -c -o $@ $<

$(O)/guest/%.elf: $(O)/guest/%.o $(GUEST_LIB) tests/guest/guest.ld
	$(GUEST_LINK)
