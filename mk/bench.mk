BENCH_SRCS := $(wildcard bench/*.c)
BENCH_BINS := $(patsubst bench/%.c,$(O)/bench/%,$(BENCH_SRCS))

.PHONY: bench bench-guest
## make bench      benchmarks of start-up, memory and the event paths (needs /dev/kvm)
bench: all $(BENCH_BINS)
	@$(O)/bench/startup build/belfry
	@build/belfry bench events

## make bench-guest  the same guests on softkvm, under QEMU's TCG, and natively: a table
##                 (3 minutes; ARGS='--full --json=FILE' for the whole sizes, 12 minutes)
GUEST_BENCH := $(addprefix $(O)/bench/,compare-guest work work.cpio doorbell.elf)
bench-guest: all $(GUEST_BENCH)
	@scripts/setup
	@scripts/guest-images
	@$(O)/bench/compare-guest $(ARGS) $(O) "$$(scripts/guest-images --where)"

# They must not rot: make check builds them.
tests: $(BENCH_BINS) $(GUEST_BENCH)

$(O)/bench/%: $(O)/bench/%.o $(LIB)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(O)/bench/compare-guest: $(call objs,$(wildcard bench/compare/*.c)) $(LIB)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(O)/bench/compare/%.o: CPPFLAGS += -I.

# What runs in the guest, and natively: plain flags, no library but libc. In the
# guest it is /init, in a second archive behind the one of the guest images.
$(O)/bench/work: bench/guest/work.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) -std=gnu11 -D_GNU_SOURCE $(WARN) -O2 -static -s -o $@ $<

$(O)/bench/work.cpio: $(O)/bench/work
	@rm -rf $@.d && mkdir $@.d && cp $< $@.d/init
	@cd $@.d && echo init | cpio --quiet --reproducible -R 0:0 -H newc -o >../$(@F)
	@rm -rf $@.d

# The bare-metal guest of the kicks and calls.
$(O)/bench/guest/doorbell.o: bench/guest/doorbell.c bench/guest/mailbox.h
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(GUEST_CFLAGS) -Itests/guest -c -o $@ $<

$(O)/bench/doorbell.elf: $(O)/bench/guest/doorbell.o $(O)/guest/start.o $(O)/guest/guest.o tests/guest/guest.ld
	$(call say,LD,$@)
	$(Q)$(GUEST_LINK)
