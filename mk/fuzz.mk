# Fuzz targets: tests/fuzz/<name>.c is build/fuzz/bin/<name>, made with clang's
# libFuzzer and the address and undefined-behaviour sanitizers. docs/FUZZING.md.
FUZZ_CC      ?= clang
FUZZ_O       := build/fuzz
FUZZ_SAN     := -fsanitize=address,undefined -fno-sanitize-recover=all
FUZZ_CFLAGS  := -std=gnu11 $(WARN) -O1 -g $(FUZZ_SAN) -fno-omit-frame-pointer \
                -fno-strict-aliasing -pthread -Itests/lib
FUZZ_LIB     := $(FUZZ_O)/libbelfry.a
FUZZ_BINS    := $(patsubst tests/fuzz/%.c,$(FUZZ_O)/bin/%,$(wildcard tests/fuzz/*.c))

fuzz_objs     = $(patsubst %,$(FUZZ_O)/%.o,$(basename $1))
FUZZ_SRCS    := $(filter-out src/app/main.c src/softkvm/preload.c,$(wildcard src/*/*.[cS]))

# The engine's own C, and what it calls with the guest's state in place, must leave SIMD registers
# alone (mk/engine.mk), so its coverage is counted inline, without calls into the fuzzer.
$(FUZZ_O)/%.o: FUZZ_COV := -fsanitize=fuzzer-no-link
$(FUZZ_O)/src/engine/%.o $(addprefix $(FUZZ_O)/,$(RING_OBJS)): \
    FUZZ_COV := -fsanitize-coverage=inline-8bit-counters,pc-table \
                -mgeneral-regs-only -fno-builtin-memset -fno-builtin-memcpy
$(FUZZ_O)/%.o: %.c mk/fuzz.mk
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(FUZZ_CC) $(CPPFLAGS) $(FUZZ_CFLAGS) $(FUZZ_COV) -c -o $@ $<

$(FUZZ_O)/%.o: %.S
	@mkdir -p $(@D)
	$(Q)$(FUZZ_CC) $(CPPFLAGS) -c -o $@ $<

$(FUZZ_LIB): $(call fuzz_objs,$(FUZZ_SRCS))
	@rm -f $@
	$(Q)$(AR) rcs $@ $^

$(FUZZ_O)/bin/%: $(FUZZ_O)/tests/fuzz/%.o $(call fuzz_objs,$(TLIB_SRCS)) $(FUZZ_LIB)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(FUZZ_CC) $(FUZZ_SAN) -fsanitize=fuzzer -pthread -o $@ $^ $(LDLIBS) -lcmocka

# The API's targets are made of the operations of tests/diff.
FUZZ_API := $(FUZZ_O)/bin/softkvm $(FUZZ_O)/bin/signals
$(FUZZ_API): $(call fuzz_objs,$(filter-out tests/diff/main.c tests/diff/cases.c,$(wildcard tests/diff/*.c)))
$(FUZZ_API): LDLIBS := $(FUZZ_LIB) $(LDLIBS)

.PHONY: fuzz fuzz-build
fuzz-build: $(FUZZ_BINS)

## make fuzz       fuzz every target, or FUZZ=target, for SECONDS=60 each
SECONDS ?= 60
FUZZ    ?= $(notdir $(FUZZ_BINS))
fuzz: fuzz-build
	@for t in $(FUZZ); do tests/fuzz/run $$t $(SECONDS) || exit 1; done

-include $(shell find $(FUZZ_O) -name '*.d' 2>/dev/null)
