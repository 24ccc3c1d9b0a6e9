BENCH_SRCS := $(wildcard bench/*.c)
BENCH_BINS := $(patsubst bench/%.c,$(O)/bench/%,$(BENCH_SRCS))

.PHONY: bench
## make bench      benchmarks of start-up, memory and the event paths (needs /dev/kvm)
bench: all $(BENCH_BINS)
	@$(O)/bench/startup build/belfry
	@build/belfry bench events

$(O)/bench/%: $(O)/bench/%.o $(LIB)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
